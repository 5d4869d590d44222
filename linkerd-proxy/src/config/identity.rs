//! This workload's identity, and where its certificates come from.

use super::{ControlAddr, reader::Reader, value::DnsName};
use linkerd_tls::Id;
use std::{path::PathBuf, time::Duration};

/// This workload's identity. Field = variable `IDENTITY_<FIELD>` unless stated.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What certificates must say. `IDENTITY_LOCAL_NAME`, else `IDENTITY_SERVER_ID`.
    pub id: Id,
    /// The SNI that mesh peers use. `IDENTITY_LOCAL_NAME`, else `IDENTITY_SERVER_NAME`.
    pub server_name: String,
    /// Directory of `key.p8` and `csr.der`.
    pub dir: PathBuf,
    /// Shown to the identity service; read at every attempt.
    pub token_file: PathBuf,
    /// PEM text.
    pub trust_anchors: String,
    /// The identity service. `IDENTITY_SVC_ADDR`, `IDENTITY_SVC_NAME`.
    pub addr: ControlAddr,
    /// Shortest pause between certificates.
    pub min_refresh: Duration,
    /// Longest pause between certificates.
    pub max_refresh: Duration,
    /// Limit of one attempt.
    pub certify_timeout: Duration,
}

impl Identity {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        refuse(reader);
        let dir: Option<String> = reader.required("IDENTITY_DIR");
        let token_file = token_file(reader);
        let trust_anchors: Option<String> = reader.required("IDENTITY_TRUST_ANCHORS");
        let addr = ControlAddr::read(reader, "IDENTITY", true);
        let names = names(reader);
        let (min_refresh, max_refresh) = refresh(reader);
        let certify_timeout = reader.value("IDENTITY_CERTIFY_TIMEOUT");
        let (id, server_name) = names?;
        Some(Self {
            id,
            server_name,
            dir: dir?.into(),
            token_file: token_file?,
            trust_anchors: trust_anchors?,
            addr: addr?,
            min_refresh,
            max_refresh,
            certify_timeout,
        })
    }
}

/// Variables that ask for what there is not.
fn refuse(reader: &Reader<'_>) {
    for (name, problem) in [
        ("IDENTITY_DISABLED", "asks for a proxy without identity"),
        (
            "IDENTITY_SPIRE_WORKLOAD_API_ADDRESS",
            "asks for certificates from SPIRE",
        ),
        ("IDENTITY_SPIRE_SOCKET", "asks for certificates from SPIRE"),
    ] {
        if let Some(value) = reader.text(name)
            && !value.is_empty()
        {
            reader.error(
                name,
                Some(&value),
                format!("{problem}, which is not supported"),
                "nothing, and set IDENTITY_SVC_ADDR".into(),
            );
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
