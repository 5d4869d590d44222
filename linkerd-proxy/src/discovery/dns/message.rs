//! Questions to a name server, and what is read of its answers (RFC 1035, 2782, 3596). Nothing here trusts a byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name on the wire.
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
const HEADER: usize = 12;
/// The class `IN`.
const INTERNET: u16 = 1;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    A = 1,
    Aaaa = 28,
    Srv = 33,
}

/// The type that says: the name is another one's.
const CNAME: u16 = 5;

/// A name: labels with their lengths before them, in lower case, without the root's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// Reads a name with dots between its labels; one at the end says nothing.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(text.len() + 1);
        for label in text.split('.') {
            let label = label.as_bytes();
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            wire.push(u8::try_from(label.len()).ok()?);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        (wire.len() < MAX_NAME).then_some(Self(wire))
    }
}

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) id: u16,
    pub(crate) name: Name,
    pub(crate) kind: Kind,
}

impl Question {
    /// As it is sent.
    pub(crate) fn encode(&self) -> Vec<u8> {
        /// Recursion is desired.
        const FLAGS: u16 = 0x0100;
        let mut message = Vec::with_capacity(HEADER + self.name.0.len() + 5);
        for word in [self.id, FLAGS, 1, 0, 0, 0] {
            message.extend(word.to_be_bytes());
        }
        message.extend(&self.name.0);
        message.push(0);
        message.extend((self.kind as u16).to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        message
    }

    /// The answer in a message; `None` if it is none to this question, or cannot be read.
    pub(crate) fn answer(&self, message: &[u8]) -> Option<Answer> {
        let mut reader = Reader { message, at: 0 };
        let id = reader.u16()?;
        let flags = reader.u16()?;
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let [questions, answers, authorities, additional] = counts;
        let is_answer = flags & 0x8000 != 0;
        if id != self.id || !is_answer || questions != 1 {
            return None;
        }
        let is_same = reader.name()? == self.name
            && reader.u16()? == self.kind as u16
            && reader.u16()? == INTERNET;
        if !is_same {
            return None;
        }
        let mut answer = Answer {
            code: flags & 0x000f,
            is_truncated: flags & 0x0200 != 0,
            records: Vec::new(),
            glue: Vec::new(),
        };
        if answer.is_truncated {
            // What is left of it says nothing; it is asked for again.
            return Some(answer);
        }
        for _ in 0..answers {
            answer.records.extend(reader.record()?);
        }
        for _ in 0..authorities {
            reader.record()?;
        }
        for _ in 0..additional {
            answer.glue.extend(reader.record()?);
        }
        Some(answer)
    }
}

/// What a name server says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The response code: 0 is well, 3 means that there is no such name.
    pub(crate) code: u16,
    pub(crate) is_truncated: bool,
    records: Vec<Record>,
    /// Said in addition: addresses of what records name.
    glue: Vec<Record>,
}

/// One record of the kinds that are understood.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    name: Name,
    ttl: u32,
    data: Data,
}

#[derive(Debug, PartialEq, Eq)]
enum Data {
    Address(IpAddr),
    Alias(Name),
    Service(Service),
}

/// Where a service is, by a record of type SRV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) priority: u16,
    pub(crate) port: u16,
    pub(crate) target: Name,
}

/// Records and how long they may be kept, in seconds.
pub(crate) type Found<T> = (Vec<T>, u32);

impl Answer {
    /// The addresses of a name, through aliases.
    pub(crate) fn addresses(&self, name: &Name) -> Found<IpAddr> {
        self.find(name, &self.records, |data| match data {
            Data::Address(address) => Some(*address),
            _ => None,
        })
    }

    /// The addresses of what a record names, if they were said in addition.
    pub(crate) fn glue(&self, name: &Name) -> Found<IpAddr> {
        self.find(name, &self.glue, |data| match data {
            Data::Address(address) => Some(*address),
            _ => None,
        })
    }

    /// Where the service of a name is, through aliases.
    pub(crate) fn services(&self, name: &Name) -> Found<Service> {
        self.find(name, &self.records, |data| match data {
            Data::Service(service) => Some(service.clone()),
            _ => None,
        })
    }

    fn find<T>(
        &self,
        name: &Name,
        records: &[Record],
        wanted: impl Fn(&Data) -> Option<T>,
    ) -> Found<T> {
        /// Aliases of aliases, at most.
        const MAX_ALIASES: usize = 8;
        let (mut name, mut ttl) = (name, u32::MAX);
        for _ in 0..MAX_ALIASES {
            let alias = records.iter().find_map(|record| match &record.data {
                Data::Alias(to) if record.name == *name => Some((to, record.ttl)),
                _ => None,
            });
            let Some((to, kept)) = alias else {
                break;
            };
            (name, ttl) = (to, ttl.min(kept));
        }
        let mut found = Vec::new();
        for record in records.iter().filter(|record| record.name == *name) {
            if let Some(value) = wanted(&record.data) {
                found.push(value);
                ttl = ttl.min(record.ttl);
            }
        }
        (found, ttl)
    }
}

/// Reads a message from its beginning to its end.
struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl<'m> Reader<'m> {
    fn take(&mut self, count: usize) -> Option<&'m [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.message.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        bytes.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take(4)?;
        bytes.try_into().ok().map(u32::from_be_bytes)
    }

    /// A name, which may end with a pointer to an earlier one.
    fn name(&mut self) -> Option<Name> {
        let mut wire = Vec::new();
        let mut at = self.at;
        // Each pointer leads to before the last one: a name cannot go round.
        let mut before = at;
        let mut after = None;
        loop {
            let length = *self.message.get(at)?;
            match length {
                0 => {
                    self.at = after.unwrap_or(at + 1);
                    return Some(Name(wire));
                }
                1..=63 => {
                    let end = at + 1 + usize::from(length);
                    let label = self.message.get(at + 1..end)?;
                    wire.push(length);
                    wire.extend(label.iter().map(u8::to_ascii_lowercase));
                    if wire.len() >= MAX_NAME {
                        return None;
                    }
                    at = end;
                }
                0xc0.. => {
                    let low = *self.message.get(at + 1)?;
                    after.get_or_insert(at + 2);
                    let to = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    if to >= before {
                        return None;
                    }
                    (at, before) = (to, to);
                }
                _ => return None,
            }
        }
    }

    /// A record; `Some(None)` for one of a kind that is of no use here.
    fn record(&mut self) -> Option<Option<Record>> {
        let name = self.name()?;
        let (kind, class, ttl) = (self.u16()?, self.u16()?, self.u32()?);
        let length = usize::from(self.u16()?);
        let end = self.at.checked_add(length)?;
        if end > self.message.len() {
            return None;
        }
        let data = if class == INTERNET {
            self.data(kind)?
        } else {
            None
        };
        if data.is_some() && self.at != end {
            return None;
        }
        self.at = end;
        Some(data.map(|data| Record { name, ttl, data }))
    }

    fn data(&mut self, kind: u16) -> Option<Option<Data>> {
        const A: u16 = Kind::A as u16;
        const AAAA: u16 = Kind::Aaaa as u16;
        const SRV: u16 = Kind::Srv as u16;
        let data = match kind {
            A => {
                let bytes: [u8; 4] = self.take(4)?.try_into().ok()?;
                Data::Address(Ipv4Addr::from(bytes).into())
            }
            AAAA => {
                let bytes: [u8; 16] = self.take(16)?.try_into().ok()?;
                Data::Address(Ipv6Addr::from(bytes).into())
            }
            CNAME => Data::Alias(self.name()?),
            SRV => {
                let (priority, _weight, port) = (self.u16()?, self.u16()?, self.u16()?);
                let target = self.name()?;
                Data::Service(Service {
                    priority,
                    port,
                    target,
                })
            }
            _ => return Some(None),
        };
        Some(Some(data))
    }
}

#[cfg(test)]
mod tests;
