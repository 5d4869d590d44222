//! Certificates from SPIFFE's Workload API, as a SPIRE agent serves it on a Unix socket.
//!
//! One stream: its first message has our certificate (X.509-SVID), the key for it and the anchors of our trust domain; each
//! later one replaces them. When the stream is lost, what came last stays in use, and it is opened again. The agent knows us
//! by our process, so we show nothing but the header that the API asks for.
//!
//! Of a message that cannot be used whole nothing is used. Bundles of federated trust domains and revocation lists are not
//! looked at.

use super::{Watcher, anchors::Trust};
use crate::{config::Spire, discovery::backoff::Pauses};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use linkerd_tls::{
    CertificateError, LocalIdentity, TrustAnchors, TrustError, refresh::Observer as _, split_der,
};
use std::{
    collections::HashMap,
    convert::Infallible,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// Opening the socket and the stream, each.
const PATIENCE: Duration = Duration::from_secs(10);
/// The agent says that it will never answer: it is asked again all the same, should another one take its place.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// Largest message: a handful of certificates, and bundles of federated domains.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
const METHOD: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

/// `X509SVIDRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SvidRequest {}

/// `X509SVIDResponse`. Source: SPIFFE Workload API.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SvidResponse {
    /// Ours; the first is the default.
    #[prost(message, repeated, tag = "1")]
    pub(super) svids: Vec<Svid>,
    #[prost(map = "string, bytes", tag = "3")]
    pub(super) federated_bundles: HashMap<String, Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Svid {
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    /// DER, the leaf first.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) x509_svid: Vec<u8>,
    /// PKCS#8, DER.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) x509_svid_key: Vec<u8>,
    /// Anchors of its trust domain, DER.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) bundle: Vec<u8>,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpireError {
    #[error("no connection to the SPIRE agent at {}: {reason}", socket.display())]
    Socket { socket: PathBuf, reason: String },
    #[error("the SPIRE agent: {:?}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    #[error("the SPIRE agent ended the stream")]
    Ended,
    #[error(
        "the SPIRE agent has no certificate for {wanted}, but for {found:?}; correct IDENTITY_SERVER_ID or the agent's entries"
    )]
    NoSvid { wanted: String, found: Vec<String> },
    #[error("the bundle of the SPIRE agent: {0}")]
    Bundle(#[source] TrustError),
    #[error("the certificate of the SPIRE agent: {0}")]
    Chain(#[source] TrustError),
    #[error("the certificate of the SPIRE agent: it is empty")]
    Empty,
    #[error("the certificate of the SPIRE agent: {0}")]
    Certificate(#[from] CertificateError),
}

impl From<Status> for SpireError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl SpireError {
    /// The `reason` label of `control_identity_cert_refresh_errors_total`.
    fn reason(&self) -> &'static str {
        match self {
            Self::Socket { .. } => "socket",
            Self::Status(status) => match status.code() {
                Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => {
                    "call"
                }
                _ => "refused",
            },
            Self::Ended => "call",
            Self::NoSvid { .. } => "no_svid",
            Self::Bundle(_) => "bundle",
            Self::Chain(_) | Self::Empty | Self::Certificate(_) => "invalid",
        }
    }

    fn is_final(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::InvalidArgument)
    }
}

/// Takes what the agent says into use, for ever.
pub(super) async fn follow(
    identity: &LocalIdentity,
    config: &Spire,
    trust: &Trust,
    observer: &Watcher,
) -> Infallible {
    let mut pauses = Pauses::new(config.backoff);
    let mut expired = None;
    loop {
        let error = {
            let stream = stream(&config.socket, |response| {
                pauses.reset();
                match take(response, identity, trust) {
                    Ok(not_after) => observer.certified(not_after),
                    Err(error) => observer.unable(error.reason(), &error),
                }
            });
            tokio::select! {
                error = stream => error,
                never = tell_expiry(identity, &mut expired, observer) => match never {},
            }
        };
        observer.unable(error.reason(), &error);
        let pause = if error.is_final() {
            REFUSED_PAUSE
        } else {
            pauses.next(Duration::MAX)
        };
        tokio::time::sleep(pause).await;
    }
}

/// One stream, until it ends.
async fn stream(socket: &Path, mut take: impl FnMut(SvidResponse)) -> SpireError {
    match open(socket).await {
        Ok(mut stream) => loop {
            match stream.message().await {
                Ok(Some(response)) => take(response),
                Ok(None) => return SpireError::Ended,
                Err(status) => return status.into(),
            }
        },
        Err(error) => error,
    }
}

async fn open(socket: &Path) -> Result<Streaming<SvidResponse>, SpireError> {
    let refused = |reason: String| SpireError::Socket {
        socket: socket.to_owned(),
        reason,
    };
    let path = socket.to_owned();
    let connect = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The authority is nobody's: the socket says who is spoken to.
    let channel: Channel = Endpoint::from_static("http://localhost")
        .connect_timeout(PATIENCE)
        .connect_with_connector(connect)
        .await
        .map_err(|error| refused(with_causes(&error)))?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    grpc.ready()
        .await
        .map_err(|error| refused(with_causes(&error)))?;
    let mut request = Request::new(SvidRequest {});
    // Keeps requests from being forged through a proxy: SPIFFE Workload Endpoint §5.
    let header = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", header);
    let codec = ProstCodec::<SvidRequest, SvidResponse>::default();
    let call = grpc.server_streaming(request, PathAndQuery::from_static(METHOD), codec);
    let answer = tokio::time::timeout(PATIENCE, call).await;
    let late = |_| Status::deadline_exceeded("no answer in time");
    Ok(answer.map_err(late)??.into_inner())
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Takes a message into use as a whole; gives when its certificate ends.
fn take(
    response: SvidResponse,
    identity: &LocalIdentity,
    trust: &Trust,
) -> Result<SystemTime, SpireError> {
    let wanted = identity.id().as_str();
    let found: Vec<_> = response
        .svids
        .iter()
        .map(|svid| svid.spiffe_id.clone())
        .collect();
    let mut svids = response.svids.into_iter();
    let svid = svids
        .find(|svid| svid.spiffe_id == wanted)
        .ok_or_else(|| SpireError::NoSvid {
            wanted: wanted.to_owned(),
            found,
        })?;
    let bundle = TrustAnchors::from_der(&svid.bundle).map_err(SpireError::Bundle)?;
    let chain = split_der(&svid.x509_svid).map_err(SpireError::Chain)?;
    let mut chain = chain.into_iter().map(|der| der.to_vec());
    let leaf = chain.next().ok_or(SpireError::Empty)?;
    identity.install_with_key(
        leaf,
        chain.collect(),
        svid.x509_svid_key,
        trust.with(&bundle),
    )?;
    trust.came(bundle);
    Ok(identity
        .current()
        .map_or(SystemTime::UNIX_EPOCH, |current| current.not_after()))
}

/// Says so, once for each, when a certificate ends before another one comes.
async fn tell_expiry(
    identity: &LocalIdentity,
    told: &mut Option<SystemTime>,
    observer: &Watcher,
) -> Infallible {
    let mut changes = identity.changes();
    loop {
        let ends = identity.current().map(|current| current.not_after());
        let left = match ends {
            Some(ends) if *told != Some(ends) => {
                let left = ends.duration_since(identity.now()).unwrap_or_default();
                if left.is_zero() {
                    *told = Some(ends);
                    observer.expired(ends);
                }
                // Clocks are set, and machines sleep.
                left.clamp(Duration::from_secs(1), Duration::from_secs(60))
            }
            _ => Duration::from_secs(60),
        };
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            _ = changes.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests;
