//! What an attempt sends: the head and the body of a request, kept as far as another attempt may need them.

use super::{
    limits::Limits,
    retry::{
        Suppressed,
        replay::{Kept as KeptBody, NotReplayable, Replay},
    },
};
use crate::http::body::{Ended, Received, RequestBody};
use http::{Request, request::Parts};
use http_body::Body as _;
use linkerd_metrics::{Handle, Histogram};
use std::time::Instant;

/// A request, for one attempt or several.
#[derive(Debug)]
pub(super) struct Upload {
    head: Option<Parts>,
    body: Kept,
}

#[derive(Debug)]
enum Kept {
    /// There is no body.
    None,
    /// Sent once, as it comes.
    Once(Option<Received>),
    /// Kept while it is sent, up to a limit.
    Replay(Option<Box<Replay<Received>>>, KeptBody<Received>),
}

impl Upload {
    /// `max_body`: bytes that may be kept.
    pub(super) fn new(head: Parts, body: Received, max_body: usize) -> Self {
        let body = if body.is_end_stream() {
            Kept::None
        } else if fits(&body, max_body) {
            let (first, kept) = Replay::new(body, max_body);
            Kept::Replay(Some(Box::new(first)), kept)
        } else {
            Kept::Once(Some(body))
        };
        Self {
            head: Some(head),
            body,
        }
    }

    /// Whether another attempt could send the same. What was not even begun on need not have been sent to its end.
    pub(super) fn can_be_sent_again(&self, is_unprocessed: bool) -> Result<(), Suppressed> {
        match &self.body {
            Kept::None => Ok(()),
            Kept::Once(Some(_)) => Ok(()),
            Kept::Once(None) => Err(Suppressed::BodyTooLarge),
            Kept::Replay(Some(_), _) => Ok(()),
            Kept::Replay(None, kept) => {
                let possible = if is_unprocessed {
                    kept.resumable()
                } else {
                    kept.replayable()
                };
                possible.map_err(|error| match error {
                    NotReplayable::TooLarge => Suppressed::BodyTooLarge,
                    NotReplayable::NotFinished => Suppressed::BodyNotFinished,
                })
            }
        }
    }

    /// What the next attempt sends; `None` if it cannot be sent again.
    pub(super) fn take(
        &mut self,
        limits: &Limits,
        frames: &Handle<Histogram>,
    ) -> Option<(Request<RequestBody>, Ended)> {
        let frames = Some(frames.clone());
        let (body, ended) = match &mut self.body {
            Kept::None => (RequestBody::empty(), Ended::at(Instant::now())),
            Kept::Once(body) => {
                let ended = Ended::later();
                (RequestBody::new(body.take()?, frames, ended.clone()), ended)
            }
            Kept::Replay(first, kept) => {
                let body = match first.take() {
                    Some(body) => *body,
                    None => kept.replay().ok()?,
                };
                let ended = Ended::later();
                (RequestBody::replay(body, frames, ended.clone()), ended)
            }
        };
        let is_last = matches!(self.body, Kept::Once(_));
        let head = if is_last {
            self.head.take()?
        } else {
            self.head.clone()?
        };
        let request = Request::from_parts(head, body.noting(limits.progress()));
        Some((request, ended))
    }
}

/// A body that is known to be too large is not kept at all.
fn fits(body: &Received, max: usize) -> bool {
    body.size_hint().lower() <= max as u64
}
