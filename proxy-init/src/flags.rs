//! The command line, named as the injector and CNI plugins name it.

use ipnet::IpNet;
use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

/// Redirects a Pod's traffic to its sidecar. Running it again changes nothing; --undo takes everything away.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "linkerd2-proxy-init", version, max_term_width = 110)]
pub struct Flags {
    /// Port of the sidecar that traffic to the Pod is redirected to.
    #[arg(long, short = 'p', default_value_t = 4143, value_parser = port())]
    pub incoming_proxy_port: u16,
    /// Port of the sidecar that traffic of the application is redirected to.
    #[arg(long, short = 'o', default_value_t = 4140, value_parser = port())]
    pub outgoing_proxy_port: u16,
    /// User of the sidecar, whose own traffic is left alone; 0: nobody's is.
    #[arg(
        long,
        short = 'u',
        default_value_t = 2102,
        allow_negative_numbers = true
    )]
    pub proxy_uid: i64,
    /// Group of the sidecar, whose own traffic is left alone; 0 or less: nobody's is.
    #[arg(long, short = 'g', default_value_t = 0, allow_negative_numbers = true)]
    pub proxy_gid: i64,
    /// The only ports of the Pod whose traffic is redirected; none: all.
    #[arg(long, short = 'r', value_delimiter = ',', value_name = "PORTS")]
    pub ports_to_redirect: Vec<Ports>,
    /// Ports of the Pod whose traffic is left alone: numbers and ranges, 25,3000-3100.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    pub inbound_ports_to_ignore: Vec<Ports>,
    /// Ports of others whose traffic is left alone.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    pub outbound_ports_to_ignore: Vec<Ports>,
    /// Networks of clients whose traffic is left alone, of either family.
    #[arg(long, value_delimiter = ',', value_name = "NETWORKS")]
    pub subnets_to_ignore: Vec<Subnet>,
    /// Rules for IPv6 as well.
    #[arg(
        long, action = clap::ArgAction::Set, default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true"
    )]
    pub ipv6: bool,
    /// The program that takes rules: iptables-nft, iptables-legacy or iptables, or a path to one. One of the others is
    /// taken where it is not there or the kernel does not serve it.
    #[arg(long, default_value = "iptables-nft", value_name = "PROGRAM")]
    pub firewall_bin_path: PathBuf,
    /// The program that tells which rules there are; by default, the other's name and -save.
    #[arg(long, value_name = "PROGRAM")]
    pub firewall_save_bin_path: Option<PathBuf>,
    /// Prints the rules and changes nothing.
    #[arg(
        long, action = clap::ArgAction::Set, default_value_t = false, num_args = 0..=1, require_equals = true,
        default_missing_value = "true"
    )]
    pub simulate: bool,
    /// Takes the rules away, whichever program they were given to.
    #[arg(long)]
    pub undo: bool,
    /// A network namespace to work in: a path, as /proc/PID/ns/net.
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// Waits for others who change rules at the moment.
    #[arg(
        long, short = 'w', action = clap::ArgAction::Set, default_value_t = false, num_args = 0..=1,
        require_equals = true, default_missing_value = "true"
    )]
    pub use_wait_flag: bool,
    /// How long the kernel keeps connections in CLOSE_WAIT, in seconds; 0: as it does. Needs root.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub timeout_close_wait_secs: u32,
    /// What is logged: error, warn, info, debug.
    #[arg(long, default_value = "info")]
    pub log_level: String,
    /// How: plain or json.
    #[arg(long, default_value = "plain")]
    pub log_format: String,
}

fn port() -> impl clap::builder::TypedValueParser<Value = u16> {
    clap::value_parser!(u16).range(1..)
}

/// A port, or several that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub low: u16,
    /// The last.
    pub high: u16,
}

impl Ports {
    /// How many of the places in a rule it takes.
    pub const fn weight(self) -> usize {
        if self.low == self.high { 1 } else { 2 }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}:{}", self.low, self.high)
        }
    }
}

/// Text that is no port or range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a port from 1 to 65535 or a range such as 3000-3100 is wanted")]
pub struct InvalidPorts;

impl FromStr for Ports {
    type Err = InvalidPorts;

    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        let number = |text: &str| match text.trim().parse() {
            Ok(0) | Err(_) => Err(InvalidPorts),
            Ok(port) => Ok(port),
        };
        let (low, high) = text.split_once(['-', ':']).unwrap_or((text, text));
        let ports = Self {
            low: number(low)?,
            high: number(high)?,
        };
        if ports.low <= ports.high {
            Ok(ports)
        } else {
            Err(InvalidPorts)
        }
    }
}

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet(pub IpNet);

/// Text that is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network such as 10.0.0.0/8 or fd00::/8 is wanted")]
pub struct InvalidSubnet;

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let text = text.trim();
        let network = text.parse::<IpNet>();
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        network
            .or_else(|_| address())
            .map(Self)
            .map_err(|_| InvalidSubnet)
    }
}
