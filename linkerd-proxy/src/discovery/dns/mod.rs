//! Where the name of a controller leads: its SRV records first, then its addresses, and how long they may be kept.
//!
//! The system's resolver gives neither, so that its files are read and its name servers asked here. [`message`] is what is
//! said, [`files`] is what the system says; both are pure.

pub(crate) mod files;
pub(crate) mod message;

use self::{
    files::Settings,
    message::{Answer, Found, Kind, Name, Question, Service},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

/// How long what `hosts` says is kept.
const HOSTS_TTL: Duration = Duration::from_secs(30);
/// Bounds of what records say, where none are configured: a name is not asked for all the time, and a change is noticed
/// within the hour.
const MIN_TTL: Duration = Duration::from_secs(5);
const MAX_TTL: Duration = Duration::from_secs(3600);
/// Largest answer without TCP.
const DATAGRAM: usize = 4096;
/// Targets of SRV records that are looked up by themselves, where the answer has no addresses for them.
const MAX_TARGETS: usize = 32;
const NO_SUCH_NAME: u16 = 3;

/// How names are looked up. Files are read at each look-up: it takes few, and pods are told of changes by them.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    pub(crate) conf: PathBuf,
    pub(crate) hosts: PathBuf,
    /// At which name servers listen.
    pub(crate) port: u16,
    /// `DNS_MIN_TTL`, `DNS_MAX_TTL`.
    pub(crate) ttl: (Option<Duration>, Option<Duration>),
}

impl Resolver {
    /// The system's, with configured bounds of what it may keep.
    pub(crate) fn new(ttl: (Option<Duration>, Option<Duration>)) -> Self {
        Self {
            conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
            port: 53,
            ttl,
        }
    }

    /// Where a name leads. `note` is told of each kind of record that was asked for, and whether there are any.
    ///
    /// # Errors
    /// If it leads nowhere, or nobody knows.
    pub(crate) async fn lookup(
        &self,
        name: &str,
        port: u16,
        note: impl Fn(&'static str, bool),
    ) -> Result<Places, Error> {
        let text = read(&self.hosts).await;
        let fixed = files::hosts(&text, name);
        if !fixed.is_empty() {
            note("A/AAAA", true);
            return Ok(self.places(fixed, port, HOSTS_TTL));
        }
        let settings = Settings::parse(&read(&self.conf).await);
        let asking = Asking {
            settings: &settings,
            port: self.port,
        };
        let names = settings.candidates(name);
        for name in names.iter().filter_map(|name| Name::parse(name)) {
            let found = asking.services(&name, port).await;
            let is_found = matches!(&found, Ok((places, _)) if !places.is_empty());
            note("SRV", is_found);
            if let Ok((places, ttl)) = found
                && is_found
            {
                return Ok(Places {
                    addresses: sorted(places),
                    ttl: self.bounded(Duration::from_secs(ttl.into())),
                });
            }
            let found = asking.addresses(&name).await;
            let is_found = matches!(&found, Ok((ips, _)) if !ips.is_empty());
            note("A/AAAA", is_found);
            match found {
                Ok((ips, ttl)) if is_found => {
                    return Ok(self.places(ips, port, Duration::from_secs(ttl.into())));
                }
                Ok(_) => {}
                // The next name might be another one than is meant.
                Err(error) => return Err(error),
            }
        }
        Err(Error::NotFound)
    }

    fn places(&self, ips: Vec<IpAddr>, port: u16, ttl: Duration) -> Places {
        let places = ips.into_iter().map(|ip| SocketAddr::new(ip, port));
        Places {
            addresses: sorted(places.collect()),
            ttl: self.bounded(ttl),
        }
    }

    fn bounded(&self, ttl: Duration) -> Duration {
        let (min, max) = self.ttl;
        let max = max.unwrap_or(MAX_TTL);
        ttl.max(min.unwrap_or(MIN_TTL)).min(max)
    }
}

/// Where a name leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// In order, each once.
    pub(crate) addresses: Vec<SocketAddr>,
    /// How long that may be kept.
    pub(crate) ttl: Duration,
}

/// Why nobody says where a name leads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("DNS has no records for it")]
    NotFound,
    #[error("name server {0}: no answer within {1:?}")]
    Timeout(SocketAddr, Duration),
    #[error("name server {0}: {1}")]
    Io(SocketAddr, io::Error),
    #[error("name server {0}: its answer cannot be read")]
    Malformed(SocketAddr),
    #[error("name server {0}: response code {1}")]
    Refused(SocketAddr, u16),
}

async fn read(path: &PathBuf) -> String {
    // Where there is no such file, what is usual holds.
    tokio::fs::read_to_string(path).await.unwrap_or_default()
}

fn sorted(mut places: Vec<SocketAddr>) -> Vec<SocketAddr> {
    places.sort_unstable();
    places.dedup();
    places
}

/// Questions of one look-up.
struct Asking<'s> {
    settings: &'s Settings,
    port: u16,
}

impl Asking<'_> {
    /// Where SRV records say that a name's service is.
    async fn services(&self, name: &Name, port: u16) -> Result<Found<SocketAddr>, Error> {
        let answer = self.ask(name, Kind::Srv).await?;
        let (services, mut ttl) = answer.services(name);
        let mut places = Vec::new();
        for Service { target, port, .. } in chosen(services, port) {
            let (mut ips, mut kept) = answer.glue(&target);
            if ips.is_empty() {
                (ips, kept) = self.addresses(&target).await?;
            }
            places.extend(ips.into_iter().map(|ip| SocketAddr::new(ip, port)));
            ttl = ttl.min(kept);
        }
        Ok((places, ttl))
    }

    /// A name's addresses: of version 4, or if there are none of version 6.
    async fn addresses(&self, name: &Name) -> Result<Found<IpAddr>, Error> {
        let found = self.ask(name, Kind::A).await?.addresses(name);
        if !found.0.is_empty() {
            return Ok(found);
        }
        Ok(self.ask(name, Kind::Aaaa).await?.addresses(name))
    }

    /// The answer of the first name server that has one.
    async fn ask(&self, name: &Name, kind: Kind) -> Result<Answer, Error> {
        let mut last = Error::NotFound;
        for _ in 0..self.settings.attempts {
            for ip in &self.settings.servers {
                let server = SocketAddr::new(*ip, self.port);
                match self.ask_one(server, name, kind).await {
                    Ok(answer) if matches!(answer.code, 0 | NO_SUCH_NAME) => return Ok(answer),
                    Ok(answer) => last = Error::Refused(server, answer.code),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    async fn ask_one(&self, server: SocketAddr, name: &Name, kind: Kind) -> Result<Answer, Error> {
        let question = Question {
            id: rand::random(),
            name: name.clone(),
            kind,
        };
        let limit = self.settings.timeout;
        let asked = async {
            let answer = datagram(server, &question).await;
            let answer = answer.map_err(|error| Error::Io(server, error))?;
            if !answer.is_truncated {
                return Ok(answer);
            }
            let message = stream(server, &question).await;
            let message = message.map_err(|error| Error::Io(server, error))?;
            let whole = question.answer(&message).filter(|all| !all.is_truncated);
            whole.ok_or(Error::Malformed(server))
        };
        let asked = tokio::time::timeout(limit, asked).await;
        asked.unwrap_or(Err(Error::Timeout(server, limit)))
    }
}

/// The records that count: those that are to be tried first; of a service with several ports, those with the port that is
/// configured.
fn chosen(mut services: Vec<Service>, port: u16) -> Vec<Service> {
    let first = services.iter().map(|service| service.priority).min();
    services.retain(|service| Some(service.priority) == first);
    if services.iter().any(|service| service.port == port) {
        services.retain(|service| service.port == port);
    }
    services.truncate(MAX_TARGETS);
    services
}

/// Asks by UDP. What is no answer to the question is passed over: anybody may send it.
async fn datagram(server: SocketAddr, question: &Question) -> io::Result<Answer> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&question.encode()).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let message = buffer.get(..length).unwrap_or_default();
        if let Some(answer) = question.answer(message) {
            return Ok(answer);
        }
    }
}

/// Asks by TCP, for answers that do not fit a datagram.
async fn stream(server: SocketAddr, question: &Question) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let asked = question.encode();
    let length = u16::try_from(asked.len()).unwrap_or(u16::MAX);
    let mut message = length.to_be_bytes().to_vec();
    message.extend(asked);
    stream.write_all(&message).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
pub(crate) mod tests;
