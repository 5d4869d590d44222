//! Every failure that a client of the inbound side can see: one enum, one table.
//!
//! [`Failure::row`] is the table; the answer, the `inbound_http_errors_total` label and `docs/failures.md` all come
//! from it.

use crate::http::{
    body::Body,
    client::ClientError,
    outcome::{Break, Ending, GrpcStatus, Outcome, grpc_message, header_text},
    request::BadRequest,
};
use http::{HeaderValue, Response, StatusCode, Version, header};
use linkerd_policy::rate_limit::{Limited, Scope};
use std::{fmt, net::SocketAddr, time::Duration};

/// Why a request was not answered by the origin.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request's shape is ambiguous or not allowed: the text says what.
    BadRequest(&'static str),
    /// The path could be read differently by the origin than by a path policy.
    SuspiciousPath(&'static str),
    /// No route of the port takes the request.
    NoRoute,
    /// The policy of the port is not, or no longer, about HTTP.
    NotHttp,
    /// No authorization allows the client. The text is the explanation's summary.
    Denied(String),
    /// A rate limit is exhausted.
    RateLimited(Limited),
    /// The route answers with a redirect.
    Redirect {
        status: StatusCode,
        location: HeaderValue,
    },
    /// The route's redirect cannot be applied to this request.
    InvalidRedirect,
    /// The route answers with a failure, as its injector says.
    Injected { status: u16, message: String },
    /// The route has a filter that this version does not know.
    UnknownFilter,
    /// Too many requests wait for an answer.
    Overloaded,
    /// The origin's address is one of the proxy's own.
    Loop,
    /// The client's body stood still for longer than it may.
    Stalled(Duration),
    /// The origin did not answer.
    Origin(ClientError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Origin(error)
    }
}

impl From<BadRequest> for Failure {
    fn from(BadRequest(what): BadRequest) -> Self {
        Self::BadRequest(what)
    }
}

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Client,
    Policy,
    Proxy,
    Origin,
    Endpoint,
    ControlPlane,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Policy => "policy",
            Self::Proxy => "proxy",
            Self::Origin => "origin",
            Self::Endpoint => "endpoint",
            Self::ControlPlane => "control plane",
        }
    }
}

/// How a failure shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// What it is called in the documentation.
    pub(crate) name: &'static str,
    pub(crate) source: Source,
    /// HTTP status.
    pub(crate) http: StatusCode,
    /// gRPC status.
    pub(crate) grpc: u16,
    /// Value of `error` in `inbound_http_errors_total`; absent when another family counts it.
    pub(crate) error: Option<&'static str>,
    /// Whether an HTTP/1 client connection ends with the answer, because its framing cannot be trusted further.
    pub(crate) close: bool,
}

pub(crate) const fn row(
    name: &'static str,
    source: Source,
    http: StatusCode,
    grpc: u16,
    error: Option<&'static str>,
    close: bool,
) -> Row {
    Row {
        name,
        source,
        http,
        grpc,
        error,
        close,
    }
}

/// The table, in the order of a request's life. Redirects and injected failures carry their own status.
const ROWS: [Row; 17] = [
    row(
        "bad request",
        Source::Client,
        StatusCode::BAD_REQUEST,
        13,
        Some("bad request"),
        true,
    ),
    row(
        "suspicious path",
        Source::Client,
        StatusCode::BAD_REQUEST,
        13,
        Some("bad request"),
        false,
    ),
    row(
        "no route",
        Source::Policy,
        StatusCode::NOT_FOUND,
        5,
        None,
        false,
    ),
    row(
        "policy is not HTTP",
        Source::Policy,
        StatusCode::NOT_FOUND,
        5,
        None,
        false,
    ),
    row(
        "denied",
        Source::Policy,
        StatusCode::FORBIDDEN,
        7,
        None,
        false,
    ),
    row(
        "rate limit",
        Source::Policy,
        StatusCode::TOO_MANY_REQUESTS,
        8,
        None,
        false,
    ),
    row(
        "redirect",
        Source::Policy,
        StatusCode::MOVED_PERMANENTLY,
        5,
        None,
        false,
    ),
    row(
        "invalid redirect",
        Source::Policy,
        StatusCode::INTERNAL_SERVER_ERROR,
        13,
        Some("unexpected"),
        false,
    ),
    row(
        "injected failure",
        Source::Policy,
        StatusCode::INTERNAL_SERVER_ERROR,
        13,
        None,
        false,
    ),
    row(
        "unknown filter",
        Source::Policy,
        StatusCode::INTERNAL_SERVER_ERROR,
        13,
        Some("unexpected"),
        false,
    ),
    row(
        "overloaded",
        Source::Proxy,
        StatusCode::SERVICE_UNAVAILABLE,
        14,
        Some("loadshed"),
        false,
    ),
    row(
        "loop",
        Source::Proxy,
        StatusCode::INTERNAL_SERVER_ERROR,
        13,
        Some("unexpected"),
        false,
    ),
    row(
        "body stands still",
        Source::Client,
        StatusCode::REQUEST_TIMEOUT,
        4,
        None,
        true,
    ),
    row(
        "origin refuses",
        Source::Origin,
        StatusCode::BAD_GATEWAY,
        14,
        None,
        false,
    ),
    row(
        "origin connect timeout",
        Source::Origin,
        StatusCode::GATEWAY_TIMEOUT,
        4,
        None,
        false,
    ),
    row(
        "origin resets the stream",
        Source::Origin,
        StatusCode::BAD_GATEWAY,
        14,
        Some("unexpected"),
        false,
    ),
    row(
        "origin breaks off",
        Source::Origin,
        StatusCode::BAD_GATEWAY,
        14,
        None,
        false,
    ),
];

impl Failure {
    /// This failure's row of the table.
    pub(crate) fn row(&self) -> Row {
        let [
            bad_request,
            suspicious,
            no_route,
            not_http,
            denied,
            limited,
            redirect,
            invalid_redirect,
            injected,
            unknown_filter,
            overloaded,
            looped,
            stalled,
            connect,
            connect_timeout,
            reset,
            origin,
        ] = ROWS;
        match self {
            Self::BadRequest(_) => bad_request,
            Self::SuspiciousPath(_) => suspicious,
            Self::NoRoute => no_route,
            Self::NotHttp => not_http,
            Self::Denied(_) => denied,
            Self::RateLimited(_) => limited,
            Self::Redirect { status, .. } => Row {
                http: *status,
                ..redirect
            },
            Self::InvalidRedirect => invalid_redirect,
            Self::Injected { status, .. } => Row {
                http: StatusCode::from_u16(*status).unwrap_or(injected.http),
                grpc: if *status <= 16 {
                    *status
                } else {
                    injected.grpc
                },
                ..injected
            },
            Self::UnknownFilter => unknown_filter,
            Self::Overloaded => overloaded,
            Self::Loop => looped,
            Self::Stalled(_) => stalled,
            Self::Origin(error) => match error.cause() {
                ClientError::Connect(..) => connect,
                ClientError::ConnectTimeout(_) => connect_timeout,
                _ if error.reset().is_some() => reset,
                _ => origin,
            },
        }
    }

    /// Why the application ended the request's stream, if it did.
    pub(crate) fn reset(&self) -> Option<h2::Reason> {
        match self {
            Self::Origin(error) => error.reset(),
            _ => None,
        }
    }

    /// What a request that ends so is counted as, given whether it is gRPC and came over HTTP/2.
    pub(crate) fn outcome(&self, grpc: bool, is_http2: bool) -> Outcome {
        let row = self.row();
        let reset = self.reset().filter(|_| is_http2);
        Outcome {
            status: if grpc { StatusCode::OK } else { row.http },
            grpc: grpc.then_some(GrpcStatus::Code(row.grpc)),
            ending: reset.map_or(Ending::Whole, |reason| Ending::Broken(Break::Reset(reason))),
        }
    }

    /// The text of `l5d-proxy-error` and `grpc-message`, without the connection's addresses.
    fn text(&self) -> String {
        match self {
            Self::BadRequest(what) => format!("bad request: {what}"),
            Self::SuspiciousPath(what) => format!("bad request: the path has {what}"),
            Self::NoRoute | Self::NotHttp => "no route found for request".to_owned(),
            Self::Denied(why) => format!("unauthorized request on route: {why}"),
            Self::RateLimited(limited) => {
                let scope = match limited.scope {
                    Scope::Total => "total",
                    Scope::Identity => "per-identity",
                    Scope::Override => "override",
                };
                format!(
                    "{scope} rate limit exceeded: {}rps",
                    limited.requests_per_second
                )
            }
            Self::Redirect { .. } => "redirected".to_owned(),
            Self::InvalidRedirect => {
                "the route's redirect replaces a prefix, and the route has none".to_owned()
            }
            Self::Injected { message, .. } => message.clone(),
            Self::UnknownFilter => {
                "invalid server policy: server policy configured with unknown filter".to_owned()
            }
            Self::Overloaded => "service unavailable".to_owned(),
            Self::Loop => "the origin's address is the proxy's own".to_owned(),
            Self::Stalled(limit) => format!("the request's body stood still for {limit:?}"),
            Self::Origin(error) => format!("the origin did not answer: {error}"),
        }
    }

    /// The answer a client gets.
    pub(crate) fn answer(&self, asked: &Asked) -> Response<Body> {
        let row = self.row();
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        if asked.grpc {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            headers.insert("grpc-status", HeaderValue::from(row.grpc));
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        if let Self::Redirect { location, .. } = self {
            headers.insert(header::LOCATION, location.clone());
        }
        if row.close && asked.version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if asked.meshed {
            let text = match self {
                Self::Redirect { .. } | Self::Injected { .. } => self.text(),
                _ => format!(
                    "client {}: server {}: {}",
                    asked.client,
                    asked.server,
                    self.text()
                ),
            };
            if asked.grpc
                && let Some(message) = grpc_message(&text)
            {
                headers.insert("grpc-message", message);
            }
            if let Some(text) = header_text(&text) {
                headers.insert("l5d-proxy-error", text);
            }
        }
        if !asked.grpc {
            *response.status_mut() = row.http;
        }
        response
    }
}

/// What the answer to a failure depends on, noted before the request is taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    /// The client showed a mesh certificate; only then are texts disclosed.
    pub(crate) meshed: bool,
    pub(crate) grpc: bool,
    /// The version on the wire.
    pub(crate) version: Version,
}

/// The table as a page of the documentation.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Failures\n\n## Inbound\n\n\
         Generated from `linkerd-proxy/src/inbound/failure.rs`; a test compares.\n\n\
         gRPC requests are answered with HTTP status 200 and the gRPC status. `l5d-proxy-error` (and `grpc-message`) \
         are sent only to clients that showed a mesh certificate. Where the origin resets the stream of a request that came \
         over HTTP/2, the client's stream is reset with the same code; where it goes away (GOAWAY) and had not begun the \
         request, with REFUSED_STREAM.\n\n\
         | Failure | Whose | HTTP | gRPC | `error` of `inbound_http_errors_total` | HTTP/1 connection |\n\
         |---|---|---|---|---|---|\n",
    );
    for row in ROWS {
        let status = match row.name {
            "redirect" => "the route's, else 301".to_owned(),
            "injected failure" => "the route's".to_owned(),
            _ => row.http.as_u16().to_string(),
        };
        page.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            row.name,
            row.source.as_str(),
            status,
            row.grpc,
            row.error
                .map_or_else(|| "–".to_owned(), |error| format!("`{error}`")),
            if row.close { "closed" } else { "kept" },
        ));
    }
    page.push_str(&crate::outbound::failure::markdown());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docs_failures_is_in_step() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/failures.md");
        if std::env::vars().any(|(name, _)| name == "UPDATE_DOCS") {
            std::fs::write(path, markdown()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            markdown(),
            "run cargo xtask docs"
        );
    }

    #[test]
    fn what_the_proxy_says_is_for_mesh_clients_only() {
        let failure = Failure::Denied("identity: got a, wanted b".into());
        let asked = |meshed, grpc, version| Asked {
            client: ([10, 0, 0, 1], 1).into(),
            server: ([10, 0, 0, 2], 80).into(),
            meshed,
            grpc,
            version,
        };
        let stranger = failure.answer(&asked(false, false, Version::HTTP_11));
        assert_eq!(stranger.status(), StatusCode::FORBIDDEN);
        assert!(!stranger.headers().contains_key("l5d-proxy-error"));
        let peer = failure.answer(&asked(true, false, Version::HTTP_11));
        let text = peer.headers()["l5d-proxy-error"].to_str().unwrap();
        assert!(
            text.starts_with(
                "client 10.0.0.1:1: server 10.0.0.2:80: unauthorized request on route"
            )
        );
        let grpc = failure.answer(&asked(true, true, Version::HTTP_2));
        assert_eq!(
            (grpc.status(), &grpc.headers()["grpc-status"]),
            (StatusCode::OK, &HeaderValue::from(7))
        );
    }

    #[test]
    fn an_injected_failure_keeps_its_status_and_message() {
        let failure = Failure::Injected {
            status: 418,
            message: "a teapot".into(),
        };
        let asked = Asked {
            client: ([10, 0, 0, 1], 1).into(),
            server: ([10, 0, 0, 2], 80).into(),
            meshed: true,
            grpc: false,
            version: Version::HTTP_11,
        };
        let answer = failure.answer(&asked);
        assert_eq!(answer.status().as_u16(), 418);
        assert_eq!(answer.headers()["l5d-proxy-error"], "a teapot");
    }
}
