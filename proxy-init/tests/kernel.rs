//! The rules in a real kernel, by each of its machines: two hosts joined by a cable, of which one is a Pod.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends there"
)]

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    process::{Command, Output},
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::Duration,
};

/// Longest that a byte is waited for.
const LIMIT: Duration = Duration::from_secs(10);
const POD: [&str; 2] = ["10.78.0.2", "fd00:78::2"];
const OTHER: [&str; 2] = ["10.78.0.1", "fd00:78::1"];
/// The sidecar's ports, the application's, and ports that are left alone.
const INBOUND: u16 = 4143;
const OUTBOUND: u16 = 4140;
const WEB: u16 = 8080;
const IGNORED: u16 = 9000;
const RANGE: u16 = 9105;

fn run(line: &str) -> Result<Output, String> {
    let mut words = line.split(' ');
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{line}: {why}"))
}

fn said(line: &str) -> Result<String, String> {
    let output = run(line)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

struct Hosts {
    pod: String,
    other: String,
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in [&self.pod, &self.other] {
            let _ = run(&format!("ip netns delete {name}"));
        }
    }
}

impl Hosts {
    /// `None`, said aloud, where there can be none, or the kernel does not have the machine of `program`.
    fn make(program: &str) -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let id = format!(
            "l5di{}n{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let hosts = Self {
            pod: format!("{id}p"),
            other: format!("{id}o"),
        };
        if let Err(why) = hosts.set_up(program) {
            let is_required = std::env::var_os("REQUIRE_TOOLS").is_some();
            assert!(!is_required, "{why}");
            eprintln!("SKIPPED: network namespaces with {program}: {why}");
            return None;
        }
        Some(hosts)
    }

    fn set_up(&self, program: &str) -> Result<(), String> {
        let Self { pod, other } = self;
        for name in [pod, other] {
            run(&format!("ip netns add {name}"))?;
            run(&format!("ip -n {name} link set lo up"))?;
        }
        run(&format!(
            "ip -n {pod} link add eth0 type veth peer name eth0 netns {other}"
        ))?;
        for (name, [v4, v6]) in [(pod, POD), (other, OTHER)] {
            run(&format!("ip -n {name} address add {v4}/24 dev eth0"))?;
            run(&format!("ip -n {name} address add {v6}/64 dev eth0 nodad"))?;
            run(&format!("ip -n {name} link set eth0 up"))?;
        }
        for save in [format!("{program}-save"), format!("{}-save", v6(program))] {
            run(&format!("ip netns exec {pod} {save} -t nat"))?;
        }
        Ok(())
    }

    /// Runs the program under test in the Pod.
    fn init(&self, words: &str) -> String {
        let program = env!("CARGO_BIN_EXE_linkerd2-proxy-init");
        said(&format!("ip netns exec {} {program} {words}", self.pod)).unwrap()
    }

    /// What is in the table, of both families.
    fn rules(&self, program: &str) -> String {
        let of = |save: &str| {
            let text = said(&format!("ip netns exec {} {save} -t nat", self.pod)).unwrap();
            // Comments have the time, and chains their counters.
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            let lines = lines.map(|line| line.split(" [").next().unwrap_or_default());
            lines.collect::<Vec<_>>().join("\n")
        };
        format!(
            "{}\n{}",
            of(&format!("{program}-save")),
            of(&format!("{}-save", v6(program)))
        )
    }
}

fn v6(program: &str) -> String {
    program.replacen("ip", "ip6", 1)
}

/// Runs something on a thread inside a namespace.
fn inside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let path = format!("/var/run/netns/{name}");
    let thread = thread::spawn(move || {
        let namespace = File::open(path).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    });
    thread.join().unwrap()
}

/// Answers every connection with a name, for as long as the test runs.
fn serve(namespace: &str, port: u16, name: &'static str) {
    let listener = inside(namespace, move || {
        TcpListener::bind(SocketAddr::from(([0_u16; 8], port))).unwrap()
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(name.as_bytes()));
        }
    });
}

/// Who answers.
fn answer(namespace: &str, host: &str, port: u16) -> String {
    let address = SocketAddr::new(host.parse::<IpAddr>().unwrap(), port);
    inside(namespace, move || {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

fn words(program: &str) -> String {
    format!(
        "--firewall-bin-path {program} --firewall-save-bin-path {program}-save --inbound-ports-to-ignore 4190,4191,{IGNORED},9100-9110 \
         --outbound-ports-to-ignore {IGNORED} --proxy-uid 2102 -w"
    )
}

fn the_rules_are_kept(program: &'static str) {
    let Some(hosts) = Hosts::make(program) else {
        return;
    };
    let before = hosts.rules(program);
    let words = words(program);
    // What would be done is what is done.
    let simulated = hosts.init(&format!("{words} --simulate"));
    assert_eq!(hosts.rules(program), before);
    hosts.init(&words);
    let rules = hosts.rules(program);
    for line in simulated.lines().filter(|line| line.starts_with("-A ")) {
        let comment = line.split('"').nth(1).unwrap();
        assert!(rules.contains(comment), "{comment}\n{rules}");
    }
    hosts.init(&words);
    assert_eq!(hosts.rules(program), rules, "a second time");
    hosts.init(&format!(
        "{words} --subnets-to-ignore 10.78.0.0/24,fd00:78::/64"
    ));
    assert_ne!(hosts.rules(program), rules);
    hosts.init(&words);
    assert_eq!(hosts.rules(program), rules, "other rules, and these again");

    for (port, name) in [
        (INBOUND, "inbound"),
        (OUTBOUND, "outbound"),
        (WEB, "app"),
        (IGNORED, "app"),
        (RANGE, "app"),
    ] {
        serve(&hosts.pod, port, name);
    }
    for port in [WEB, IGNORED] {
        serve(&hosts.other, port, "other");
    }
    for (pod, other) in POD.into_iter().zip(OTHER) {
        assert_eq!(answer(&hosts.other, pod, WEB), "inbound");
        assert_eq!(answer(&hosts.other, pod, IGNORED), "app");
        assert_eq!(answer(&hosts.other, pod, RANGE), "app");
        assert_eq!(answer(&hosts.pod, other, WEB), "outbound");
        assert_eq!(answer(&hosts.pod, other, IGNORED), "other");
        // Through loopback, the Pod's own address is its own.
        assert_eq!(answer(&hosts.pod, pod, WEB), "app");
        let own = format!(
            "ip netns exec {} setpriv --reuid=2102 --clear-groups timeout 10 bash -c cat</dev/tcp/{other}/{WEB}",
            hosts.pod
        );
        assert_eq!(said(&own).unwrap(), "other", "the sidecar's own traffic");
    }

    hosts.init("--undo");
    assert_eq!(hosts.rules(program), before);
    assert_eq!(answer(&hosts.other, POD[0], WEB), "app");
    hosts.init("--undo");
}

#[test]
fn traffic_is_redirected_and_what_is_ignored_is_not_by_nft() {
    the_rules_are_kept("iptables-nft");
}

#[test]
fn traffic_is_redirected_and_what_is_ignored_is_not_by_the_legacy_machine() {
    the_rules_are_kept("iptables-legacy");
}

#[test]
fn clients_in_ignored_networks_reach_the_application_itself() {
    let Some(hosts) = Hosts::make("iptables-nft") else {
        return;
    };
    hosts.init(&format!(
        "{} --subnets-to-ignore 10.78.0.0/24",
        words("iptables-nft")
    ));
    serve(&hosts.pod, INBOUND, "inbound");
    serve(&hosts.pod, WEB, "app");
    assert_eq!(answer(&hosts.other, POD[0], WEB), "app");
    // Of the other family, only other networks could be.
    assert_eq!(answer(&hosts.other, POD[1], WEB), "inbound");
}

#[test]
fn a_program_that_is_not_there_is_stood_in_for_and_one_family_may_be_left_alone() {
    let Some(hosts) = Hosts::make("iptables-nft") else {
        return;
    };
    hosts.init("--firewall-bin-path iptables-nowhere --ipv6=false");
    let rules = hosts.rules("iptables-nft");
    assert_eq!(rules.matches("-A PREROUTING").count(), 1, "{rules}");
}

#[test]
fn another_namespace_may_be_worked_in() {
    let Some(hosts) = Hosts::make("iptables-nft") else {
        return;
    };
    let program = env!("CARGO_BIN_EXE_linkerd2-proxy-init");
    run(&format!("{program} --netns /var/run/netns/{}", hosts.pod)).unwrap();
    assert!(hosts.rules("iptables-nft").contains("PROXY_INIT_OUTPUT"));
    run(&format!(
        "{program} --netns /var/run/netns/{} --undo",
        hosts.pod
    ))
    .unwrap();
    assert!(!hosts.rules("iptables-nft").contains("PROXY_INIT"));
}

#[test]
fn the_validator_passes_with_the_rules_and_fails_without() {
    let Some(hosts) = Hosts::make("iptables-nft") else {
        return;
    };
    let validator = env!("CARGO_BIN_EXE_linkerd2-network-validator");
    let line = format!(
        "ip netns exec {} {validator} --connect-addr {}:20001 --listen-addr 0.0.0.0:4140 --timeout 1s",
        hosts.pod, OTHER[0]
    );
    let error = run(&line).unwrap_err();
    assert!(error.contains("CNI plugin"), "{error}");
    hosts.init("--ipv6=false");
    run(&line).unwrap();
}

#[test]
fn the_sidecar_is_awaited() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let status = if number < 2 {
                "503 Service Unavailable"
            } else {
                "200 OK"
            };
            let mut stream = stream.unwrap();
            let mut request = [0; 64];
            let _ = stream.read(&mut request);
            let _ = stream
                .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes());
        }
    });
    let program = env!("CARGO_BIN_EXE_linkerd-await");
    run(&format!("{program} --port={port} --timeout=30s")).unwrap();
    // Nobody is there.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = run(&format!("{program} --port={free} --timeout=200ms")).unwrap_err();
    assert!(error.contains("not ready"), "{error}");
}
