//! This workload's identity, and where its certificates come from.

use super::{ControlAddr, control::Backoff, reader::Reader, value::DnsName};
use linkerd_tls::Id;
use std::{path::PathBuf, time::Duration};

/// This workload's identity. Field = variable `IDENTITY_<FIELD>` unless stated.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What certificates must say. `IDENTITY_LOCAL_NAME`, else `IDENTITY_SERVER_ID`.
    pub id: Id,
    /// The SNI that mesh peers use. `IDENTITY_LOCAL_NAME`, else `IDENTITY_SERVER_NAME`.
    pub server_name: String,
    /// PEM text; empty where there is a file, or where SPIRE gives the anchors.
    pub trust_anchors: String,
    /// PEM; read again when it changes, in place of the text.
    pub trust_anchors_file: Option<PathBuf>,
    /// Where certificates come from.
    pub source: Certificates,
}

/// Where certificates come from.
#[derive(Clone, Debug)]
pub enum Certificates {
    /// From the identity service, for a key of our own.
    Service(Box<Service>),
    /// From a SPIRE agent, with their keys.
    Spire(Spire),
}

/// The identity service and what it wants. Field = variable `IDENTITY_<FIELD>` unless stated.
#[derive(Clone, Debug)]
pub struct Service {
    /// Directory of `key.p8` and `csr.der`; without one the key is in memory only.
    pub dir: Option<PathBuf>,
    /// Shown to the identity service; read at every attempt.
    pub token_file: PathBuf,
    /// The identity service. `IDENTITY_SVC_ADDR`, `IDENTITY_SVC_NAME`.
    pub addr: ControlAddr,
    /// Shortest pause between certificates.
    pub min_refresh: Duration,
    /// Longest pause between certificates.
    pub max_refresh: Duration,
    /// Limit of one attempt.
    pub certify_timeout: Duration,
}

/// A SPIRE agent, or whatever else speaks SPIFFE's Workload API.
#[derive(Clone, Debug)]
pub struct Spire {
    /// Its socket. `IDENTITY_SPIRE_WORKLOAD_API_ADDRESS`, else `IDENTITY_SPIRE_SOCKET`.
    pub socket: PathBuf,
    /// Pauses between attempts. `IDENTITY_SPIRE_EXP_BACKOFF_*`.
    pub backoff: Backoff,
}

impl Identity {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        refuse(reader);
        let trust_anchors_file: Option<String> = reader
            .optional("IDENTITY_TRUST_ANCHORS_FILE")
            .filter(|path: &String| !path.is_empty());
        let backoff = Backoff::named(reader, "IDENTITY_SPIRE_EXP_BACKOFF", Duration::from_secs(1));
        if let Some(socket) = socket(reader) {
            let names = spire_names(reader);
            let trust_anchors: Option<String> = reader.optional("IDENTITY_TRUST_ANCHORS");
            let (id, server_name) = names?;
            return Some(Self {
                id,
                server_name,
                trust_anchors: trust_anchors.unwrap_or_default(),
                trust_anchors_file: trust_anchors_file.map(PathBuf::from),
                source: Certificates::Spire(Spire {
                    socket: socket?,
                    backoff,
                }),
            });
        }
        let dir: Option<String> = reader.optional("IDENTITY_DIR");
        let token_file = token_file(reader);
        let trust_anchors: Option<String> = match trust_anchors_file {
            Some(_) => Some(reader.value("IDENTITY_TRUST_ANCHORS")),
            None => reader.required("IDENTITY_TRUST_ANCHORS"),
        };
        let addr = ControlAddr::read(reader, "IDENTITY", true);
        let names = names(reader);
        let (min_refresh, max_refresh) = refresh(reader);
        let certify_timeout = reader.value("IDENTITY_CERTIFY_TIMEOUT");
        let (id, server_name) = names?;
        Some(Self {
            id,
            server_name,
            trust_anchors: trust_anchors?,
            trust_anchors_file: trust_anchors_file.map(PathBuf::from),
            source: Certificates::Service(Box::new(Service {
                dir: dir.map(PathBuf::from),
                token_file: token_file?,
                addr: addr?,
                min_refresh,
                max_refresh,
                certify_timeout,
            })),
        })
    }
}

/// A variable that asks for what there is not.
fn refuse(reader: &Reader<'_>) {
    const NAME: &str = "IDENTITY_DISABLED";
    if let Some(value) = reader.text(NAME)
        && !value.is_empty()
    {
        reader.error(
            NAME,
            Some(&value),
            "asks for a proxy without identity, which is not supported".to_owned(),
            "nothing, and set IDENTITY_SVC_ADDR".into(),
        );
    }
}

/// The socket of SPIRE's Workload API, if that is where certificates come from; `Some(None)` if it cannot be one.
fn socket(reader: &Reader<'_>) -> Option<Option<PathBuf>> {
    let named = |name: &'static str| {
        let text = reader.text(name).filter(|text| !text.is_empty());
        text.map(|text| (name, text))
    };
    let (new, old) = (
        named("IDENTITY_SPIRE_WORKLOAD_API_ADDRESS"),
        named("IDENTITY_SPIRE_SOCKET"),
    );
    let (name, text) = new.or(old)?;
    let path = text.strip_prefix("unix:").unwrap_or(&text);
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.starts_with('/') {
        return Some(Some(path.into()));
    }
    let problem = "is not the path of a socket".to_owned();
    let right = "an absolute path, as in unix:///run/spire/agent.sock".to_owned();
    reader.error(name, Some(&text), problem, right);
    Some(None)
}

/// Identity and TLS server name of a workload of SPIRE, whose certificates name URIs.
fn spire_names(reader: &Reader<'_>) -> Option<(Id, String)> {
    const ID: &str = "IDENTITY_SERVER_ID";
    // What is the identity and the TLS server name at once cannot be a URI.
    if let Some(name) = reader
        .text("IDENTITY_LOCAL_NAME")
        .filter(|name| !name.is_empty())
    {
        reader.error(
            "IDENTITY_LOCAL_NAME",
            Some(&name),
            "is set, but certificates of SPIRE name a spiffe:// URI".to_owned(),
            "nothing, and set IDENTITY_SERVER_ID and IDENTITY_SERVER_NAME".to_owned(),
        );
        return None;
    }
    let id: Option<Id> = reader.required(ID);
    let name: Option<DnsName> = reader.required("IDENTITY_SERVER_NAME");
    match (id?, name?) {
        (id @ Id::Uri(_), DnsName(name)) => Some((id, name)),
        (Id::Dns(id), _) => {
            let problem = "is a DNS name, but certificates come from SPIRE".to_owned();
            let right = "a SPIFFE ID, as in spiffe://domain/path".to_owned();
            reader.error(ID, Some(&id), problem, right);
            None
        }
    }
}

/// The path of the token file, which must be readable now, so that a wrong mount is seen at once.
fn token_file(reader: &Reader<'_>) -> Option<PathBuf> {
    const NAME: &str = "IDENTITY_TOKEN_FILE";
    let path: String = reader.required(NAME)?;
    let problem = match std::fs::read(&path) {
        Ok(token) if !token.trim_ascii().is_empty() => return Some(path.into()),
        Ok(_) => "is an empty file".to_owned(),
        Err(error) => format!("cannot be read ({error})"),
    };
    let right = "the path of a file with the workload's token".to_owned();
    reader.error(NAME, Some(&path), problem, right);
    None
}

/// Identity and TLS server name.
fn names(reader: &Reader<'_>) -> Option<(Id, String)> {
    const LOCAL: &str = "IDENTITY_LOCAL_NAME";
    let id: Option<Id> = reader.optional("IDENTITY_SERVER_ID");
    let name: Option<DnsName> = reader.optional("IDENTITY_SERVER_NAME");
    if reader.text(LOCAL).is_none() {
        // What the identity service signs is one DNS name, which is both.
        return match (id, name) {
            (Some(id), Some(DnsName(name))) if id.as_str().eq_ignore_ascii_case(&name) => {
                Some((id, name))
            }
            (Some(id), Some(DnsName(name))) => {
                reader.error(
                    "IDENTITY_SERVER_NAME",
                    Some(&name),
                    format!("differs from IDENTITY_SERVER_ID ({id})"),
                    "the same DNS name in both".into(),
                );
                None
            }
            _ => {
                reader.required::<Id>(LOCAL);
                None
            }
        };
    }
    match reader.optional(LOCAL)? {
        Id::Dns(name) => Some((Id::Dns(name.clone()), name.to_string())),
        Id::Uri(uri) => {
            let problem = "is a URI, but the identity service signs DNS names".to_owned();
            reader.error(LOCAL, Some(&uri), problem, "a DNS name".into());
            None
        }
    }
}

fn refresh(reader: &Reader<'_>) -> (Duration, Duration) {
    const MIN: &str = "IDENTITY_MIN_REFRESH";
    let min: Duration = reader.value(MIN);
    let max: Duration = reader.value("IDENTITY_MAX_REFRESH");
    if min > max {
        reader.error(
            MIN,
            Some(&format!("{min:?}")),
            format!("is longer than IDENTITY_MAX_REFRESH ({max:?})"),
            "a shortest pause that is at most the longest one".into(),
        );
    }
    (min, max)
}
