//! What both sides need of HTTP: bodies, the client, and the shape of requests.

pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod http2;
pub(crate) mod interim;
pub(crate) mod outcome;
pub(crate) mod request;
pub(crate) mod serve;

pub(crate) use self::http2::Settings as Http2Settings;

use self::http2::Breaks;
use crate::activity::Activity;
use std::time::Duration;

/// Why a connection, or a message on it, broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// PINGs are not answered.
    #[error("the peer does not answer (HTTP/2 PING)")]
    Silent,
}

impl HttpError {
    /// What HTTP/2 says of it.
    pub(crate) fn http2(&self) -> Option<&h2::Error> {
        match self {
            Self::Http2(error) => Some(error),
            Self::Http1(_) | Self::Silent => None,
        }
    }
}

impl Breaks for HttpError {
    /// The peer's own reason, but for those that some take for the end of a whole message: a part must not become all.
    fn reason(&self) -> h2::Reason {
        match self.http2().and_then(h2::Error::reason) {
            None | Some(h2::Reason::NO_ERROR | h2::Reason::CANCEL) => h2::Reason::INTERNAL_ERROR,
            Some(reason) => reason,
        }
    }
}

/// Limits of a client's HTTP connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// How long the head of a request may take.
    pub(crate) head: Duration,
    /// How long a connection is kept without a request.
    pub(crate) idle: Duration,
}

impl ConnectionLimits {
    /// How long until one of the limits is reached.
    pub(crate) fn left(&self, activity: &Activity) -> Duration {
        activity.left(self.head, self.idle)
    }
}
