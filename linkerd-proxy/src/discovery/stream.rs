//! Streams of the control plane's answers: followed one at a time, within limits, and opened again for ever.

use super::{backoff::Pauses, client::ControlClient};
use crate::config::StreamLimits;
use http::uri::PathAndQuery;
use std::{fmt, future::Future, marker::PhantomData, time::Duration};
use tokio::time::Instant;
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    codec::{BufferSettings, Codec},
    metadata::MetadataMap,
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Longest pause before a stream is opened again while the control plane answers: it costs the controller a frame,
/// and requests wait for what it says.
const STREAM_PAUSE: Duration = Duration::from_secs(2);

/// The largest message that is taken, in bytes: 100,000 authorizations fit. A larger one ends the stream, and is counted as
/// `too_large`.
const MAX_MESSAGE: usize = 32 * 1024 * 1024;
/// What each stream's buffer begins with. It grows when a message needs it; tonic's own would take 8 KiB for each of the
/// three streams of each destination.
const BUFFER: usize = 256;
/// tonic's own: what is encoded before it is sent on.
const YIELD: usize = 32 * 1024;

/// The messages of one method, with a small buffer.
struct Messages<Q, R>(PhantomData<(Q, R)>);

impl<Q, R> Codec for Messages<Q, R>
where
    Q: prost::Message + Send + 'static,
    R: prost::Message + Default + Send + 'static,
{
    type Encode = Q;
    type Decode = R;
    type Encoder = ProstEncoder<Q>;
    type Decoder = ProstDecoder<R>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Q, R>::raw_encoder(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Q, R>::raw_decoder(BufferSettings::new(BUFFER, YIELD))
    }
}

/// Opens a stream of a method, which `path` names: `/package.Service/Method`.
pub(super) async fn open<Q, R>(
    client: ControlClient,
    path: &'static str,
    request: Q,
) -> Result<Response<Streaming<R>>, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    R: prost::Message + Default + Send + Sync + 'static,
{
    let origin = client.origin();
    let mut grpc = Grpc::with_origin(client, origin).max_decoding_message_size(MAX_MESSAGE);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(path);
    grpc.server_streaming(Request::new(request), path, Messages(PhantomData))
        .await
}

/// Why a stream is over.
#[derive(Debug)]
pub(super) enum End {
    /// The controller ended it, or said why not.
    Status(Status),
    /// A limit of ours: no first message, silence, or age.
    Limit(&'static str),
}

impl End {
    /// The controller's answer, if it refused the question for good or for now.
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            Self::Limit(_) => None,
        }
    }
}

impl End {
    /// What the controller said beside its answer.
    pub(super) fn metadata(&self) -> Option<&MetadataMap> {
        match self {
            Self::Status(status) => Some(status.metadata()),
            Self::Limit(_) => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            Self::Limit(limit) => f.write_str(limit),
        }
    }
}

/// Who listens to a stream.
pub(super) trait Listener<M> {
    /// It was opened. What it said before is not in it.
    fn opened(&mut self, metadata: &MetadataMap);
    /// A message came.
    fn message(&mut self, message: M);
    /// It is over. Tells whether it is worth opening again.
    fn ended(&mut self, end: &End) -> bool;
}

/// Follows a stream for as long as its listener wants: `open` is called for each.
pub(super) async fn follow<M, F>(
    client: ControlClient,
    limits: StreamLimits,
    mut open: impl FnMut(ControlClient) -> F,
    mut listener: impl Listener<M>,
) where
    M: prost::Message + Default + 'static,
    F: Future<Output = Result<Response<Streaming<M>>, Status>>,
{
    let mut pauses = Pauses::new(client.backoff());
    loop {
        let ready = client.connected().await;
        let end = one(limits, open(ready), &mut listener, &mut pauses).await;
        let failure = match &end {
            End::Status(_) => "status",
            End::Limit(_) => "timeout",
        };
        client.metrics().failure(failure);
        if !listener.ended(&end) {
            return;
        }
        let cap = match end.code() {
            // The controller asks for less.
            Some(Code::ResourceExhausted | Code::OutOfRange) => Duration::MAX,
            _ => STREAM_PAUSE,
        };
        tokio::time::sleep(pauses.next(cap)).await;
    }
}

/// One stream, from its opening to its end.
async fn one<M, F>(
    limits: StreamLimits,
    open: F,
    listener: &mut impl Listener<M>,
    pauses: &mut Pauses,
) -> End
where
    M: prost::Message + Default + 'static,
    F: Future<Output = Result<Response<Streaming<M>>, Status>>,
{
    let opened = Instant::now();
    let first = deadline(opened, limits.initial);
    let oldest = deadline(opened, limits.lifetime);
    let mut until = first.min(oldest);
    let mut messages = match tokio::time::timeout_at(first, open).await {
        Ok(Ok(response)) => {
            listener.opened(response.metadata());
            response.into_inner()
        }
        Ok(Err(status)) => return End::Status(status),
        Err(_) => return End::Limit("no answer in time"),
    };
    let mut is_live = false;
    loop {
        match tokio::time::timeout_at(until, messages.message()).await {
            Ok(Ok(Some(message))) => {
                pauses.reset();
                listener.message(message);
            }
            Ok(Ok(None)) => return End::Status(Status::unavailable("the stream ended")),
            Ok(Err(status)) => return End::Status(status),
            Err(_) if until == oldest => return End::Limit("the stream is old"),
            Err(_) if !is_live => return End::Limit("no first message in time"),
            Err(_) => return End::Limit("the stream was silent"),
        }
        is_live = true;
        until = deadline(Instant::now(), limits.idle).min(oldest);
    }
}

pub(super) fn deadline(from: Instant, limit: Option<Duration>) -> Instant {
    // Thirty years stand for ever.
    let limit = limit.unwrap_or(Duration::from_secs(30 * 365 * 86_400));
    from.checked_add(limit).unwrap_or(from)
}
