//! How a response ended, as metrics tell it, and series resolved once for each way.

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, StatusCode};
use linkerd_metrics::Labels;
use std::{fmt, sync::OnceLock};

/// How a response ended, as `response_total` and `…_statuses_total` tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: StatusCode,
    /// The gRPC status, for requests that are gRPC.
    pub(crate) grpc: Option<GrpcStatus>,
    pub(crate) ending: Ending,
}

/// The status of a gRPC response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcStatus {
    Code(u16),
    /// The response had none: labelled 2 (unknown), and no failure, as the peer counts it.
    Missing,
}

impl GrpcStatus {
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Code(code) => code,
            Self::Missing => 2,
        }
    }
}

/// Whether a response came whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    /// It broke off, or the client went away.
    Broken(Break),
}

/// Why a response broke off: a closed set, whatever a peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// The client went away, or nothing is known.
    Unknown,
    /// With this HTTP/2 reason.
    Reset(h2::Reason),
    /// A limit of ours; the text is that of `error` in route families.
    Timeout(&'static str),
    /// Nothing was sent; the text is that of `error` in route families.
    Refused(&'static str),
}

impl Outcome {
    /// A whole HTTP response, as far as its head tells.
    pub(crate) fn by_status(status: StatusCode) -> Self {
        Self {
            status,
            grpc: None,
            ending: Ending::Whole,
        }
    }

    /// `classification`: HTTP 5xx and some gRPC statuses are failures.
    pub(crate) fn is_success(self, failures: GrpcFailures) -> bool {
        if self.ending != Ending::Whole {
            return false;
        }
        match self.grpc {
            Some(GrpcStatus::Code(code)) => !failures.contains(code),
            Some(GrpcStatus::Missing) => true,
            None => !self.status.is_server_error(),
        }
    }

    /// What `response_total` and its like say of the end, after `status_code`: as the peer, they have all three labels
    /// whatever happened.
    pub(crate) fn end(self, labels: Labels, is_success: bool) -> Labels {
        let class = if is_success { "success" } else { "failure" };
        let grpc = self.grpc.map(|grpc| grpc.code().to_string());
        labels
            .with("classification", class)
            .with("grpc_status", grpc.unwrap_or_default())
            .with("error", self.legacy_error())
    }

    /// The value of the legacy label `error`; empty for a whole response.
    fn legacy_error(self) -> String {
        match self.ending {
            Ending::Whole => String::new(),
            Ending::Broken(Break::Reset(reason)) => reset(reason),
            Ending::Broken(Break::Timeout(_)) => "timeout".to_owned(),
            Ending::Broken(Break::Unknown | Break::Refused(_)) => "unclassified".to_owned(),
        }
    }
}

/// The gRPC codes that count as failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GrpcFailures(u32);

impl GrpcFailures {
    /// UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS: what inbound dashboards expect.
    pub(crate) const INBOUND: Self = Self(1 << 2 | 1 << 4 | 1 << 7 | 1 << 13 | 1 << 14 | 1 << 15);

    pub(crate) fn new(codes: impl IntoIterator<Item = u8>) -> Self {
        Self(
            codes
                .into_iter()
                .fold(0, |bits, code| bits | 1 << (code & 31)),
        )
    }

    fn contains(self, code: u16) -> bool {
        code < 32 && self.0 & (1 << code) != 0
    }
}

/// The name of an HTTP/2 reason: a closed set, whatever a client sends (RFC 9113 §7).
fn reset(reason: h2::Reason) -> String {
    if u32::from(reason) > u32::from(h2::Reason::HTTP_1_1_REQUIRED) {
        return "h2(UNKNOWN)".to_owned();
    }
    format!("h2({reason:?})")
}

/// The `grpc-status` in a head or in trailers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A text of the proxy's own as a header. Values cannot hold control bytes; what a peer sent must not become one.
pub(crate) fn header_text(text: &str) -> Option<HeaderValue> {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

/// A text as `grpc-message`: bytes other than visible ASCII and blanks are percent-encoded, and `%` itself.
pub(crate) fn grpc_message(text: &str) -> Option<HeaderValue> {
    use std::fmt::Write as _;
    let mut message = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => message.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(message, "%{byte:02X}")),
        }
    }
    HeaderValue::from_str(&message).ok()
}

/// Statuses with a slot of their own.
const COMMON: [u16; 12] = [200, 201, 202, 204, 206, 302, 304, 400, 401, 404, 500, 503];
/// How many other outcomes are remembered; the ones beyond are resolved each time.
const RARE: usize = 64;

/// Metric handles by outcome, resolved when an outcome is first seen.
pub(crate) struct ByOutcome<T> {
    common: [OnceLock<T>; COMMON.len()],
    /// A gRPC response that ended well: nearly all of them.
    ok: OnceLock<T>,
    /// Outcomes seen beside those, in the order they came; at most [`RARE`].
    rare: ArcSwap<Vec<(Outcome, T)>>,
}

impl<T> Default for ByOutcome<T> {
    fn default() -> Self {
        Self {
            common: std::array::from_fn(|_| OnceLock::new()),
            ok: OnceLock::new(),
            rare: ArcSwap::default(),
        }
    }
}

impl<T> fmt::Debug for ByOutcome<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByOutcome").finish_non_exhaustive()
    }
}

impl<T: Clone> ByOutcome<T> {
    /// Counts with the handles of an outcome; `resolve` makes them.
    pub(crate) fn with(
        &self,
        outcome: Outcome,
        resolve: impl FnOnce(Outcome) -> T,
        count: impl FnOnce(&T),
    ) {
        if let Some(slot) = self.slot(outcome) {
            return count(slot.get_or_init(|| resolve(outcome)));
        }
        let rare = self.rare.load();
        if let Some((_, handles)) = rare.iter().find(|(known, _)| *known == outcome) {
            return count(handles);
        }
        let handles = resolve(outcome);
        count(&handles);
        if rare.len() < RARE {
            self.rare.rcu(|rare| {
                let mut rare = Vec::clone(rare);
                rare.push((outcome, handles.clone()));
                rare
            });
        }
    }

    fn slot(&self, outcome: Outcome) -> Option<&OnceLock<T>> {
        match (outcome.ending, outcome.grpc) {
            (Ending::Whole, None) => {
                let status = outcome.status.as_u16();
                let at = COMMON.iter().position(|common| *common == status)?;
                self.common.get(at)
            }
            (Ending::Whole, Some(GrpcStatus::Code(0))) if outcome.status == StatusCode::OK => {
                Some(&self.ok)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_headers_whatever_is_in_them() {
        let text = "100 % tea\r\npot: é";
        assert_eq!(grpc_message(text).unwrap(), "100 %25 tea%0D%0Apot: %C3%A9");
        let shown = header_text(text).unwrap();
        assert_eq!(shown.as_bytes(), "100 % tea  pot: é".as_bytes());
    }
}
