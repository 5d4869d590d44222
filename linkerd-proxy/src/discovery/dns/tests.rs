use super::*;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// What a name server knows.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    /// By name and kind: data of records, as on the wire.
    records: BTreeMap<(String, u16), Vec<Vec<u8>>>,
    ttl: u32,
    /// Leaves out the addresses of what SRV records name.
    pub(crate) without_glue: bool,
    /// Answers do not fit a datagram.
    pub(crate) is_long: bool,
    /// The response code of every answer; 255 stands for no answer at all.
    pub(crate) code: u8,
    /// What was asked for.
    pub(crate) asked: Vec<(String, u16)>,
}

impl Zone {
    pub(crate) fn addresses(&mut self, name: &str, ips: &[&str]) {
        let of = |version: bool| {
            let ips = ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap());
            ips.filter(|ip| ip.is_ipv4() == version)
                .map(|ip| match ip {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                })
                .collect::<Vec<_>>()
        };
        self.records.insert((name.into(), 1), of(true));
        self.records.insert((name.into(), 28), of(false));
    }

    /// (priority, port, target)
    pub(crate) fn services(&mut self, name: &str, services: &[(u16, u16, &str)]) {
        let data = services.iter().map(|(priority, port, target)| {
            let mut data = Vec::new();
            for word in [*priority, 0, *port] {
                data.extend(word.to_be_bytes());
            }
            data.extend(wire(target));
            data
        });
        self.records.insert((name.into(), 33), data.collect());
    }

    fn answer(&mut self, question: &[u8], may_be_long: bool) -> Option<Vec<u8>> {
        let end = question.len() - 4;
        let name = text(&question[12..end]);
        let kind = u16::from_be_bytes([question[end], question[end + 1]]);
        self.asked.push((name.clone(), kind));
        if self.code == 255 {
            return None;
        }
        let is_cut = self.is_long && !may_be_long;
        let is_known = self.records.keys().any(|(known, _)| *known == name);
        let code = if self.code > 0 {
            self.code
        } else if is_known {
            0
        } else {
            3
        };
        let answers = self.records.get(&(name, kind)).cloned().unwrap_or_default();
        let mut glue = Vec::new();
        for data in answers.iter().filter(|_| kind == 33 && !self.without_glue) {
            let target = text(&data[6..]);
            for ip in self.records.get(&(target.clone(), 1)).into_iter().flatten() {
                glue.push((wire(&target), ip.clone()));
            }
        }
        let mut message = question[..2].to_vec();
        message.extend([if is_cut { 0x83 } else { 0x81 }, 0x80 | code]);
        let count = |count: usize| u16::try_from(count).unwrap().to_be_bytes();
        message.extend([0, 1]);
        message.extend(count(answers.len()));
        message.extend([0, 0]);
        message.extend(count(glue.len()));
        message.extend(&question[12..]);
        let mut record = |name: &[u8], kind: u16, data: &[u8]| {
            message.extend(name);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1]);
            message.extend(self.ttl.to_be_bytes());
            message.extend(count(data.len()));
            message.extend(data);
        };
        for data in &answers {
            record(&[0xc0, 12], kind, data);
        }
        for (name, ip) in &glue {
            record(name, 1, ip);
        }
        if is_cut {
            message.truncate(question.len());
        }
        Some(message)
    }
}

fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire
}

fn text(mut wire: &[u8]) -> String {
    let mut labels = Vec::new();
    while let Some((length, rest)) = wire.split_first().filter(|(length, _)| **length > 0) {
        let (label, rest) = rest.split_at((*length).into());
        labels.push(String::from_utf8(label.to_vec()).unwrap());
        wire = rest;
    }
    labels.join(".")
}

/// A name server, and the files that name it.
#[derive(Debug)]
pub(crate) struct NameServer {
    pub(crate) zone: Arc<Mutex<Zone>>,
    port: u16,
    folder: tempfile::TempDir,
}

impl NameServer {
    pub(crate) async fn start() -> Self {
        let zone = Arc::new(Mutex::new(Zone::default()));
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let same = udp.local_addr().unwrap();
            // Somebody else may have the port of TCP.
            if let Ok(tcp) = tokio::net::TcpListener::bind(same).await {
                break (udp, tcp);
            }
        };
        let port = udp.local_addr().unwrap().port();
        let of_udp = zone.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                let answer = of_udp.lock().unwrap().answer(&buffer[..length], false);
                if let Some(answer) = answer {
                    // Somebody else's guess comes first.
                    let mut guess = answer.clone();
                    guess[0] ^= 1;
                    udp.send_to(&guess, client).await.unwrap();
                    udp.send_to(&answer, client).await.unwrap();
                }
            }
        });
        let of_tcp = zone.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut question = vec![0; length.into()];
                stream.read_exact(&mut question).await.unwrap();
                let answer = of_tcp.lock().unwrap().answer(&question, true).unwrap();
                let length = u16::try_from(answer.len()).unwrap();
                stream.write_u16(length).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let this = Self { zone, port, folder };
        this.files("nameserver 127.0.0.1\n", "");
        this
    }

    pub(crate) fn files(&self, conf: &str, hosts: &str) {
        std::fs::write(self.folder.path().join("resolv.conf"), conf).unwrap();
        std::fs::write(self.folder.path().join("hosts"), hosts).unwrap();
    }

    /// Keeps nothing for longer than a moment.
    pub(crate) fn resolver(&self) -> Resolver {
        let moment = Some(Duration::from_millis(20));
        Resolver {
            conf: self.folder.path().join("resolv.conf"),
            hosts: self.folder.path().join("hosts"),
            port: self.port,
            ttl: (moment, moment),
        }
    }

    pub(crate) fn say(&self, zone: impl FnOnce(&mut Zone)) {
        zone(&mut self.zone.lock().unwrap());
    }

    /// What was asked for since the last time.
    fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut self.zone.lock().unwrap().asked);
        let asked = asked.iter().map(|(name, kind)| format!("{name} {kind}"));
        asked.collect()
    }

    /// Where a name leads, and what was noted.
    async fn lookup(&self, name: &str) -> (Result<Places, Error>, Vec<(&'static str, bool)>) {
        let noted = Mutex::new(Vec::new());
        let note = |kind, is_found| noted.lock().unwrap().push((kind, is_found));
        let found = self.resolver().lookup(name, 8090, note).await;
        (found, noted.into_inner().unwrap())
    }

    async fn places(&self, name: &str) -> Vec<String> {
        let found = self.lookup(name).await.0.unwrap();
        found.addresses.iter().map(ToString::to_string).collect()
    }
}

const NAME: &str = "policy.linkerd.svc.cluster.local.";
const WIRE: &str = "policy.linkerd.svc.cluster.local";
const NONE: [&str; 0] = [];

#[tokio::test]
async fn srv_records_come_first_and_say_where_each_replica_is() {
    let server = NameServer::start().await;
    server.say(|zone| {
        zone.addresses(WIRE, &["10.0.0.9"]);
        zone.addresses("a.policy", &["10.0.0.1", "fd00::1"]);
        zone.addresses("b.policy", &["10.0.0.2"]);
        zone.services(WIRE, &[(0, 8443, "a.policy"), (0, 8443, "b.policy")]);
    });
    let (found, noted) = server.lookup(NAME).await;
    let found = found.unwrap();
    let places: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(places, ["10.0.0.1:8443", "10.0.0.2:8443"]);
    assert_eq!(noted, [("SRV", true)]);
    assert_eq!(server.asked(), [format!("{WIRE} 33")]);

    // Of a service with several ports those that are configured count; of several priorities the first.
    server.say(|zone| {
        let several = [
            (0, 9990, "a.policy"),
            (0, 8090, "a.policy"),
            (0, 8090, "b.policy"),
            (5, 8090, "c.policy"),
        ];
        zone.services(WIRE, &several);
    });
    assert_eq!(
        server.places(NAME).await,
        ["10.0.0.1:8090", "10.0.0.2:8090"]
    );

    // Addresses that are not said in addition are asked for.
    server.say(|zone| zone.without_glue = true);
    server.asked();
    assert_eq!(
        server.places(NAME).await,
        ["10.0.0.1:8090", "10.0.0.2:8090"]
    );
    let asked = server.asked();
    assert_eq!(asked[1..], ["a.policy 1", "b.policy 1"], "{asked:?}");
}

#[tokio::test]
async fn without_srv_records_addresses_count_with_the_port_that_is_configured() {
    let server = NameServer::start().await;
    server.say(|zone| zone.addresses(WIRE, &["10.0.0.2", "10.0.0.1", "fd00::1"]));
    let (found, noted) = server.lookup(NAME).await;
    let places = found.unwrap().addresses;
    let places: Vec<String> = places.iter().map(ToString::to_string).collect();
    assert_eq!(places, ["10.0.0.1:8090", "10.0.0.2:8090"]);
    assert_eq!(noted, [("SRV", false), ("A/AAAA", true)]);
    server.say(|zone| zone.addresses(WIRE, &["fd00::1"]));
    assert_eq!(server.places(NAME).await, ["[fd00::1]:8090"]);
}

#[tokio::test]
async fn names_without_a_dot_at_the_end_are_searched_for() {
    let server = NameServer::start().await;
    server.files(
        "nameserver 127.0.0.1\nsearch svc.cluster.local cluster.local\noptions ndots:5\n",
        "",
    );
    server.say(|zone| zone.addresses(WIRE, &["10.0.0.1"]));
    assert_eq!(server.places("policy.linkerd").await, ["10.0.0.1:8090"]);
    server.say(|zone| zone.addresses("elsewhere.example", &["10.0.0.3"]));
    server.asked();
    assert_eq!(server.places("elsewhere.example").await, ["10.0.0.3:8090"]);
    let asked = server.asked();
    let first = "elsewhere.example.svc.cluster.local 33";
    assert_eq!(asked.first().map(String::as_str), Some(first));
}

#[tokio::test]
async fn an_answer_that_does_not_fit_a_datagram_is_read_from_a_stream() {
    let server = NameServer::start().await;
    server.say(|zone| {
        zone.is_long = true;
        zone.addresses(WIRE, &["10.0.0.1"]);
    });
    assert_eq!(server.places(NAME).await, ["10.0.0.1:8090"]);
}

#[tokio::test]
async fn the_hosts_of_the_system_come_before_all_others() {
    let server = NameServer::start().await;
    server.files("nameserver 127.0.0.1\n", &format!("10.0.0.7 {WIRE}\n"));
    let (found, noted) = server.lookup(NAME).await;
    let places = found.unwrap().addresses;
    assert_eq!(places, ["10.0.0.7:8090".parse().unwrap()]);
    assert_eq!(noted, [("A/AAAA", true)]);
    assert_eq!(server.asked(), NONE);
}

#[tokio::test]
async fn nobody_and_nothing_are_told_apart() {
    let server = NameServer::start().await;
    let (found, noted) = server.lookup(NAME).await;
    assert!(matches!(found, Err(Error::NotFound)), "{found:?}");
    assert_eq!(noted, [("SRV", false), ("A/AAAA", false)]);
    server.say(|zone| zone.code = 2);
    let (found, _) = server.lookup(NAME).await;
    assert!(matches!(found, Err(Error::Refused(_, 2))), "{found:?}");
    server.say(|zone| zone.code = 255);
    server.files("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", "");
    let (found, _) = server.lookup(NAME).await;
    assert!(matches!(found, Err(Error::Timeout(..))), "{found:?}");
    // Another name server is asked; nobody is at this one.
    server.say(|zone| {
        zone.code = 0;
        zone.addresses(WIRE, &["10.0.0.1"]);
    });
    server.files("nameserver 127.0.0.9\nnameserver 127.0.0.1\n", "");
    assert_eq!(server.places(NAME).await, ["10.0.0.1:8090"]);
}

#[test]
fn what_is_kept_is_within_bounds() {
    let secs = Duration::from_secs;
    let of = |min: Option<u64>, max: Option<u64>| Resolver::new((min.map(secs), max.map(secs)));
    assert_eq!(of(None, None).bounded(secs(0)), secs(5));
    assert_eq!(of(None, None).bounded(secs(86_400)), secs(3600));
    assert_eq!(of(Some(1), None).bounded(secs(2)), secs(2));
    assert_eq!(of(Some(60), Some(30)).bounded(secs(1)), secs(30));
}
