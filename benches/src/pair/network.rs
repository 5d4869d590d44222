//! Addresses of `bench pair`, and how traffic comes to sidecars.
//!
//! Everything is on one host: its own network namespace where there is root. There iptables sends each user's
//! connections to the sidecar that is meant, as the mesh's init container does it in a pod; so any sidecar that knows
//! original destinations takes part.

use crate::{Failure, process::run, sidecar::Mode};
use std::net::{Ipv4Addr, SocketAddr};

/// Where the control plane is: on loopback, where the API needs no TLS, whatever the mode.
pub(super) fn control(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(127, 83, 0, 1).into(), port)
}

/// The addresses of everything else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    first: u8,
}

impl Network {
    /// Redirected traffic is between addresses like those of pods: some sidecars take loopback ones for their own. They
    /// are made here. Without root there are only loopback addresses.
    pub(super) fn new(mode: Mode) -> Result<Self, Failure> {
        let first = match mode {
            Mode::Redirected => 10,
            Mode::Explicit => 127,
        };
        if mode == Mode::Redirected {
            for second in [83, 84, 88] {
                let addresses = format!("10.{second}.0.1/16");
                run(&["ip", "addr", "add", &addresses, "dev", "lo"])?;
            }
        }
        Ok(Self { first })
    }

    /// A host of a pair; those of pair 0 are what manifests name.
    pub(super) fn ip(self, pair: u8, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.first, 83, pair, host)
    }

    pub(super) fn at(self, pair: u8, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(pair, host).into(), port)
    }

    /// One of many endpoints of a service.
    pub(super) fn endpoint_ip(self, number: u16) -> Ipv4Addr {
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(self.first, 84, high, low + 1)
    }

    /// The address of a service.
    pub(super) fn service_ip(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.first, 88, 0, number)
    }

    /// The first of the addresses of services that are only there to be known.
    pub(super) fn idle_services(self) -> Ipv4Addr {
        Ipv4Addr::new(self.first, 88, 1, 0)
    }

    /// What the load sends to services goes to the client's sidecar, what that sends to the server goes to the server's.
    pub(super) fn redirect(self, pair: u8) -> Result<(), Failure> {
        let users = Users::of(pair);
        let services = format!("{}.88.0.0/16", self.first);
        let server = format!("{}/32", self.ip(0, 2));
        let rules = [
            (users.load, services, self.at(pair, 4, 4140)),
            (users.client, server, self.at(pair, 2, 4143)),
        ];
        for (user, addresses, to) in rules {
            let rule = format!(
                "iptables -w -t nat -A OUTPUT -p tcp -m owner --uid-owner {user} -d {addresses} -j DNAT --to-destination {to}"
            );
            run(&rule.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// The users of a pair: its load, its client's and its server's sidecar.
#[derive(Clone, Copy, Debug)]
pub(super) struct Users {
    pub(super) load: u32,
    pub(super) client: u32,
    pub(super) server: u32,
}

impl Users {
    pub(super) fn of(pair: u8) -> Self {
        let first = 2102 + 10 * u32::from(pair);
        Self {
            load: first,
            client: first + 1,
            server: first + 2,
        }
    }
}
