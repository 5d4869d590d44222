//! Field values with a form of their own: CIDRs, int-or-string ports, timestamps, and `null` for "not given".

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use std::{fmt, net::IpAddr, str::FromStr};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A network as manifests write it: a CIDR, or an address alone for the network of just that address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr(pub IpNet);

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse::<IpNet>()
            .ok()
            .or_else(bare)
            .map(|net| Self(net.trunc()))
            .ok_or_else(|| {
                format!(
                    "`{}` is not a network; write a CIDR such as `10.0.0.0/8` or `fd00::/8`, or one address",
                    short(text)
                )
            })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A port by number or by the name a container gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRef {
    /// 1..=65535.
    Number(u16),
    /// An IANA service name.
    Name(String),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => port.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for PortRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Port;
        impl Visitor<'_> for Port {
            type Value = PortRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number 1..65535 or a port name")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PortRef, E> {
                port_number(number).map(PortRef::Number).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PortRef, E> {
                self.visit_u64(u64::try_from(number).unwrap_or(0))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<PortRef, E> {
                port_name(name).map_err(E::custom)?;
                Ok(PortRef::Name(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Port)
    }
}

fn port_number(number: u64) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!(
            "port {number} does not exist; write a number between 1 and 65535"
        )),
    }
}

fn port_name(name: &str) -> Result<(), String> {
    if name.parse::<u64>().is_ok() {
        return Err(format!(
            "\"{}\" in quotes is a port name, not a number; write it without quotes",
            short(name)
        ));
    }
    let valid = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if valid {
        Ok(())
    } else {
        Err(format!(
            "`{}` is not a port name; use lower-case letters, digits and `-`",
            short(name)
        ))
    }
}

/// A port number of a container, Service or workload.
pub(crate) fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let number = i64::deserialize(deserializer)?;
    port_number(u64::try_from(number).unwrap_or(0)).map_err(de::Error::custom)
}

/// `null` means the same as leaving the field out, as for the API server.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// An RFC 3339 time, or `null`.
pub(crate) fn timestamp<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<OffsetDateTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    OffsetDateTime::parse(&text, &Rfc3339)
        .map(Some)
        .map_err(|_| {
            de::Error::custom(format!(
                "`{}` is not a time; write it as `2026-01-31T12:00:00Z`",
                short(&text)
            ))
        })
}

/// The start of a value, so that an error never repeats a megabyte.
pub(crate) fn short(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
    }
}
