//! The rules, as `iptables-restore` reads them: one transaction, so that a Pod has all of them or none.
//!
//! Two chains of our own in the table `nat`, and a jump to each. The chains are written anew each time; jumps are added
//! where they are missing. Nobody else's rules are touched.

use crate::flags::{Flags, Ports};
use ipnet::IpNet;

/// What comes to the Pod.
const REDIRECT: &str = "PROXY_INIT_REDIRECT";
/// What the Pod's processes send.
const OUTPUT: &str = "PROXY_INIT_OUTPUT";
/// The chains, whence they are jumped to, and what the jump is called.
const JUMPS: [(&str, &str, &str); 2] = [
    (REDIRECT, "PREROUTING", "install-proxy-init-prerouting"),
    (OUTPUT, "OUTPUT", "install-proxy-init-output"),
];
/// Ports in one rule; a range counts twice. The kernel's limit.
const MAX_PORTS: usize = 15;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    const fn has(self, network: &IpNet) -> bool {
        matches!(
            (self, network),
            (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_))
        )
    }
}

/// What makes the rules of `flags` be there; `present` is what `iptables-save` says of the table.
pub fn install(flags: &Flags, family: Family, present: &str) -> String {
    let mut rules = Vec::new();
    let mut add = |chain: &str, matches: &str, target: &str, comment: &str| {
        let matches = if matches.is_empty() {
            String::new()
        } else {
            format!(" {matches}")
        };
        rules.push(format!(
            "-A {chain}{matches} -m comment --comment \"proxy-init/{comment}\" -j {target}"
        ));
    };
    ignore(&mut add, REDIRECT, &flags.inbound_ports_to_ignore);
    for subnet in &flags.subnets_to_ignore {
        if family.has(&subnet.0) {
            let network = subnet.0.trunc();
            let comment = format!("ignore-subnet-{network}");
            add(REDIRECT, &format!("-s {network}"), "RETURN", &comment);
        }
    }
    let to = |port: u16| format!("REDIRECT --to-ports {port}");
    let inbound = to(flags.incoming_proxy_port);
    if flags.ports_to_redirect.is_empty() {
        add(
            REDIRECT,
            "-p tcp",
            &inbound,
            "redirect-all-incoming-to-proxy-port",
        );
    }
    for ports in &flags.ports_to_redirect {
        let comment = format!("redirect-port-{ports}-to-proxy-port");
        add(
            REDIRECT,
            &format!("-p tcp --dport {ports}"),
            &inbound,
            &comment,
        );
    }
    if flags.proxy_uid > 0 {
        let owner = format!("-m owner --uid-owner {}", flags.proxy_uid);
        add(OUTPUT, &owner, "RETURN", "ignore-proxy-user-id");
    }
    if flags.proxy_gid > 0 {
        let owner = format!("-m owner --gid-owner {}", flags.proxy_gid);
        add(OUTPUT, &owner, "RETURN", "ignore-proxy-group-id");
    }
    add(OUTPUT, "-o lo", "RETURN", "ignore-loopback");
    ignore(&mut add, OUTPUT, &flags.outbound_ports_to_ignore);
    let outbound = to(flags.outgoing_proxy_port);
    add(
        OUTPUT,
        "-p tcp",
        &outbound,
        "redirect-all-outgoing-to-proxy-port",
    );
    for (chain, from, comment) in JUMPS {
        if jumps(present, from, chain).next().is_none() {
            add(from, "", chain, comment);
        }
    }
    // A chain that is declared is made, or emptied where it is there.
    let chains = JUMPS.map(|(chain, ..)| format!(":{chain} - [0:0]"));
    transaction(chains.into_iter().chain(rules))
}

/// Leaves traffic to some ports alone.
fn ignore(add: &mut impl FnMut(&str, &str, &str, &str), chain: &str, ports: &[Ports]) {
    for list in in_rules(ports) {
        let matches = format!("-p tcp -m multiport --dports {list}");
        add(chain, &matches, "RETURN", &format!("ignore-port-{list}"));
    }
}

/// What takes the rules away; `None` where there are none.
pub fn undo(present: &str) -> Option<String> {
    let mut lines = Vec::new();
    for (chain, from, _) in JUMPS {
        let jumps = jumps(present, from, chain);
        lines.extend(jumps.map(|jump| jump.replacen("-A ", "-D ", 1)));
    }
    let there = JUMPS.iter().map(|(chain, ..)| chain);
    let there = there.filter(|chain| has_chain(present, chain));
    for chain in there {
        lines.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }
    (!lines.is_empty()).then(|| transaction(lines))
}

/// Whether nothing of ours is in what `iptables-save` says.
pub fn is_clean(present: &str) -> bool {
    undo(present).is_none()
}

fn transaction(lines: impl IntoIterator<Item = String>) -> String {
    let mut text = String::from("*nat\n");
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str("COMMIT\n");
    text
}

/// Lines of the table `nat`; what is saved may have others.
fn nat(present: &str) -> impl Iterator<Item = &str> {
    let mut is_nat = false;
    present.lines().filter(move |line| {
        if let Some(table) = line.strip_prefix('*') {
            is_nat = table.trim() == "nat";
        }
        is_nat
    })
}

fn has_chain(present: &str, chain: &str) -> bool {
    nat(present).any(|line| {
        let mut words = line.split(' ');
        words.next().and_then(|word| word.strip_prefix(':')) == Some(chain)
    })
}

/// The rules that jump from one chain to another.
fn jumps<'a>(present: &'a str, from: &'a str, to: &'a str) -> impl Iterator<Item = &'a str> {
    nat(present).filter(move |line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.starts_with(&["-A", from]) && words.ends_with(&["-j", to])
    })
}

/// Ports in lists that fit into a rule.
fn in_rules(ports: &[Ports]) -> Vec<String> {
    let mut lists: Vec<(usize, String)> = Vec::new();
    for ports in ports {
        match lists.last_mut() {
            Some((weight, list)) if *weight + ports.weight() <= MAX_PORTS => {
                *weight += ports.weight();
                list.push_str(&format!(",{ports}"));
            }
            _ => lists.push((ports.weight(), ports.to_string())),
        }
    }
    lists.into_iter().map(|(_, list)| list).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn flags(words: &[&str]) -> Flags {
        Flags::try_parse_from(std::iter::once(&"linkerd2-proxy-init").chain(words)).unwrap()
    }

    #[test]
    fn the_injectors_arguments_give_the_rules_of_the_contract() {
        let flags = flags(&[
            "--firewall-bin-path",
            "iptables-nft",
            "--ipv6=false",
            "--proxy-gid",
            "2103",
            "--inbound-ports-to-ignore",
            "4190,4191,4567,4568",
            "--outbound-ports-to-ignore",
            "4567,5000-5010",
            "--subnets-to-ignore",
            "10.1.2.3/8,fd00::/8,1.2.3.4",
        ]);
        assert!(!flags.ipv6);
        let expected = r#"*nat
:PROXY_INIT_REDIRECT - [0:0]
:PROXY_INIT_OUTPUT - [0:0]
-A PROXY_INIT_REDIRECT -p tcp -m multiport --dports 4190,4191,4567,4568 -m comment --comment "proxy-init/ignore-port-4190,4191,4567,4568" -j RETURN
-A PROXY_INIT_REDIRECT -s 10.0.0.0/8 -m comment --comment "proxy-init/ignore-subnet-10.0.0.0/8" -j RETURN
-A PROXY_INIT_REDIRECT -s 1.2.3.4/32 -m comment --comment "proxy-init/ignore-subnet-1.2.3.4/32" -j RETURN
-A PROXY_INIT_REDIRECT -p tcp -m comment --comment "proxy-init/redirect-all-incoming-to-proxy-port" -j REDIRECT --to-ports 4143
-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -m comment --comment "proxy-init/ignore-proxy-user-id" -j RETURN
-A PROXY_INIT_OUTPUT -m owner --gid-owner 2103 -m comment --comment "proxy-init/ignore-proxy-group-id" -j RETURN
-A PROXY_INIT_OUTPUT -o lo -m comment --comment "proxy-init/ignore-loopback" -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -m multiport --dports 4567,5000:5010 -m comment --comment "proxy-init/ignore-port-4567,5000:5010" -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -m comment --comment "proxy-init/redirect-all-outgoing-to-proxy-port" -j REDIRECT --to-ports 4140
-A PREROUTING -m comment --comment "proxy-init/install-proxy-init-prerouting" -j PROXY_INIT_REDIRECT
-A OUTPUT -m comment --comment "proxy-init/install-proxy-init-output" -j PROXY_INIT_OUTPUT
COMMIT
"#;
        assert_eq!(install(&flags, Family::V4, ""), expected);
        let v6 = install(&flags, Family::V6, "");
        assert!(
            v6.contains("-s fd00::/8 ") && !v6.contains("10.0.0.0"),
            "{v6}"
        );
    }

    #[test]
    fn jumps_that_are_there_are_not_added_again_and_undo_takes_each() {
        let present = "*mangle\n-A PREROUTING -j PROXY_INIT_REDIRECT\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n\
                       :PROXY_INIT_OUTPUT - [0:0]\n-A OUTPUT -j PROXY_INIT_OUTPUT\nCOMMIT\n";
        let text = install(&flags(&[]), Family::V4, present);
        assert!(!text.contains("-A OUTPUT"), "{text}");
        assert!(text.contains("-A PREROUTING"), "{text}");
        assert_eq!(
            undo(present).unwrap(),
            "*nat\n-D OUTPUT -j PROXY_INIT_OUTPUT\n-F PROXY_INIT_OUTPUT\n-X PROXY_INIT_OUTPUT\nCOMMIT\n"
        );
        assert!(is_clean("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"));
    }

    #[test]
    fn a_rule_has_at_most_fifteen_ports_and_a_range_counts_twice() {
        let ports: Vec<Ports> = (1..=14)
            .map(|port| Ports {
                low: port,
                high: port,
            })
            .collect();
        let mut more = ports;
        more.push(Ports { low: 20, high: 30 });
        more.push(Ports { low: 40, high: 40 });
        let lists = in_rules(&more);
        assert_eq!(lists, ["1,2,3,4,5,6,7,8,9,10,11,12,13,14", "20:30,40"]);
    }

    #[test]
    fn only_some_ports_may_be_redirected() {
        let text = install(
            &flags(&["--ports-to-redirect", "80,8000-8010"]),
            Family::V4,
            "",
        );
        assert!(
            text.contains("-p tcp --dport 80 ") && text.contains("--dport 8000:8010 "),
            "{text}"
        );
        assert!(!text.contains("redirect-all-incoming"), "{text}");
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for words in [
            ["--inbound-ports-to-ignore", "70000"],
            ["--inbound-ports-to-ignore", "30-20"],
            ["--subnets-to-ignore", "10.0.0.0/33"],
            ["--incoming-proxy-port", "0"],
        ] {
            let error = Flags::try_parse_from(["init", words[0], words[1]]).unwrap_err();
            assert!(error.to_string().contains(words[0]), "{error}");
        }
    }
}
