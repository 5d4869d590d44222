//! Every failure that an application can see on the outbound side: one enum, one table.
//!
//! [`Failure::row`] is the table; the answer, the `error` label of `outbound_http_errors_total` and the second half of
//! `docs/failures.md` all come from it.

use super::{
    balance::{Unready, Why},
    limits::Expired,
    retry::Unrouted,
};
use crate::{
    http::{
        body::Body,
        client::ClientError,
        outcome::{grpc_message, header_text},
        request::{BadRequest, Form},
    },
    inbound::failure::{Row, Source, row},
};
use http::{HeaderValue, Response, StatusCode, Version, header};
use linkerd_policy::{filters::Stop, outbound::Ref};
use std::{fmt, net::SocketAddr};

/// Why a request was not answered by an endpoint.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request's shape is ambiguous or not allowed: the text says what.
    BadRequest(&'static str),
    /// Too many requests wait for an answer.
    Overloaded,
    /// Too many requests to this destination wait for an answer.
    DestinationOverloaded(Box<str>),
    /// The control plane has said nothing of the destination in time.
    Unknown(String),
    /// No route takes the request.
    NoRoute,
    /// What the control plane sends about the destination cannot be used.
    InvalidPolicy,
    /// The request's destination is not HTTP: it is named in ingress mode, or TLS now, or requests must not be passed on
    /// as bytes either.
    NotHttp,
    /// A filter answers in place of the destination.
    Stopped(Stop),
    /// No backend of the rule is available; why the first of them is not, if there is any.
    NoBackend(Option<Why>),
    /// The backend does not exist.
    NoDispatcher(Box<Ref>),
    /// No endpoint was ready, and the wait is over or there is no place to wait.
    Unready(Unready),
    /// Policy requires mutual TLS, which the endpoint does not offer, or with another identity.
    Mtls(String),
    /// The request asks for a server that the endpoint is not.
    RequiredId { required: String, found: String },
    /// The destination is this proxy.
    Loop(SocketAddr),
    /// The endpoint did not answer.
    Endpoint(SocketAddr, ClientError),
    /// A limit of time before the response began.
    Expired(Expired),
}

impl From<BadRequest> for Failure {
    fn from(BadRequest(what): BadRequest) -> Self {
        Self::BadRequest(what)
    }
}

impl From<super::backend::Unusable> for Failure {
    fn from(error: super::backend::Unusable) -> Self {
        let address = error.address();
        let error = std::io::Error::other(error.to_string());
        Self::Endpoint(address, ClientError::Connect(address, error))
    }
}

/// The table, in the order of a request's life. Filters carry their own status.
const ROWS: [Row; 21] = [
    row(
        "bad request",
        Source::Client,
        StatusCode::BAD_REQUEST,
        13,
        Some("unexpected"),
        true,
    ),
    row(
        "too many in flight",
        Source::Proxy,
        StatusCode::SERVICE_UNAVAILABLE,
        14,
        Some("loadshed"),
        false,
    ),
    row(
        "destination unknown in time",
        Source::ControlPlane,
        StatusCode::GATEWAY_TIMEOUT,
        4,
        Some("unexpected"),
        false,
    ),
    row(
        "no route",
        Source::Policy,
        StatusCode::NOT_FOUND,
        5,
        Some("unexpected"),
        false,
    ),
    row(
        "invalid policy",
        Source::ControlPlane,
        StatusCode::INTERNAL_SERVER_ERROR,
        13,
        Some("unexpected"),
        false,
    ),
    row(
        "policy is not HTTP",
        Source::Policy,
        StatusCode::BAD_GATEWAY,
        14,
        Some("unexpected"),
        false,
    ),
    row(
        "redirect",
        Source::Policy,
        StatusCode::MOVED_PERMANENTLY,
        5,
        Some("unexpected"),
        false,
    ),
    row(
        "injected failure",
        Source::Policy,
        StatusCode::INTERNAL_SERVER_ERROR,
        9,
        Some("unexpected"),
        false,
    ),
    row(
        "invalid redirect or filter",
        Source::Policy,
        StatusCode::INTERNAL_SERVER_ERROR,
        13,
        Some("unexpected"),
        false,
    ),
    row(
        "no backend available",
        Source::Endpoint,
        StatusCode::SERVICE_UNAVAILABLE,
        14,
        Some("loadshed"),
        false,
    ),
    row(
        "backend does not exist",
        Source::Policy,
        StatusCode::BAD_GATEWAY,
        14,
        Some("unexpected"),
        false,
    ),
    row(
        "no endpoint ready in time",
        Source::Endpoint,
        StatusCode::GATEWAY_TIMEOUT,
        4,
        Some("failfast"),
        false,
    ),
    row(
        "no endpoint ready, not waited for",
        Source::Endpoint,
        StatusCode::SERVICE_UNAVAILABLE,
        14,
        Some("loadshed"),
        false,
    ),
    row(
        "mutual TLS required",
        Source::Policy,
        StatusCode::BAD_GATEWAY,
        14,
        Some("identity required"),
        false,
    ),
    row(
        "wrong `l5d-require-id`",
        Source::Endpoint,
        StatusCode::BAD_GATEWAY,
        14,
        Some("identity required"),
        false,
    ),
    row(
        "loop",
        Source::Proxy,
        StatusCode::BAD_GATEWAY,
        14,
        Some("unexpected"),
        false,
    ),
    row(
        "endpoint refuses",
        Source::Endpoint,
        StatusCode::BAD_GATEWAY,
        14,
        None,
        false,
    ),
    row(
        "endpoint connect timeout",
        Source::Endpoint,
        StatusCode::GATEWAY_TIMEOUT,
        4,
        None,
        false,
    ),
    row(
        "endpoint is someone else",
        Source::Endpoint,
        StatusCode::BAD_GATEWAY,
        14,
        None,
        false,
    ),
    row(
        "endpoint breaks off",
        Source::Endpoint,
        StatusCode::BAD_GATEWAY,
        14,
        None,
        false,
    ),
    row(
        "timeout",
        Source::Policy,
        StatusCode::GATEWAY_TIMEOUT,
        4,
        Some("response timeout"),
        false,
    ),
];

impl Failure {
    /// This failure's row of the table.
    pub(crate) fn row(&self) -> Row {
        let [
            bad_request,
            overloaded,
            unknown,
            no_route,
            invalid_policy,
            not_http,
            redirect,
            injected,
            invalid_filter,
            no_backend,
            no_dispatcher,
            failfast,
            shed,
            mtls,
            required_id,
            looped,
            refused,
            connect_timeout,
            handshake,
            broken,
            timeout,
        ] = ROWS;
        match self {
            Self::BadRequest(_) => bad_request,
            Self::Overloaded | Self::DestinationOverloaded(_) => overloaded,
            Self::Unknown(_) => unknown,
            Self::NoRoute => no_route,
            Self::InvalidPolicy => invalid_policy,
            Self::NotHttp => not_http,
            Self::Stopped(Stop::Redirect { status, .. }) => Row {
                http: *status,
                ..redirect
            },
            Self::Stopped(Stop::Failure { status, .. }) => Row {
                http: StatusCode::from_u16(*status).unwrap_or(injected.http),
                grpc: if *status <= 16 {
                    *status
                } else {
                    injected.grpc
                },
                ..injected
            },
            Self::Stopped(Stop::InvalidRedirect | Stop::UnknownFilter) => invalid_filter,
            Self::NoBackend(_) => no_backend,
            Self::NoDispatcher(_) => no_dispatcher,
            Self::Unready(Unready::FailFast(_)) => failfast,
            Self::Unready(Unready::Shed(_)) => shed,
            Self::Mtls(_) => mtls,
            Self::RequiredId { .. } => required_id,
            Self::Loop(_) => looped,
            Self::Endpoint(_, error) => match error.cause() {
                ClientError::Connect(..) => refused,
                ClientError::ConnectTimeout(_) => connect_timeout,
                ClientError::Tls(..) => handshake,
                ClientError::Broken(_)
                | ClientError::Closed
                | ClientError::Unasked
                | ClientError::Shared(..) => broken,
            },
            Self::Expired(_) => timeout,
        }
    }

    /// What became of a request that came to no route because of this.
    pub(crate) fn unrouted(&self) -> Unrouted {
        match self {
            Self::Overloaded => Unrouted::Shed,
            Self::Unknown(_) => Unrouted::Undiscovered,
            Self::NoRoute => Unrouted::NoRoute,
            Self::InvalidPolicy => Unrouted::InvalidPolicy,
            Self::NotHttp => Unrouted::NotHttp,
            _ => Unrouted::BadRequest,
        }
    }

    /// The answer an application gets. `place` says where it failed: `logical service …: route …`.
    pub(crate) fn answer(&self, asked: &Asked, place: &str) -> Response<Body> {
        let row = self.row();
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        if asked.grpc {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            headers.insert("grpc-status", HeaderValue::from(row.grpc));
        }
        if let Self::Stopped(Stop::Redirect { location, .. }) = self {
            headers.insert(header::LOCATION, location.clone());
        }
        let ends = row.close || (asked.close_on_error && self.is_connection_ending());
        if ends && asked.version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if asked.informational {
            if ends {
                headers.insert("l5d-proxy-connection", HeaderValue::from_static("close"));
            }
            let text = self.text(place);
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

    /// Failures after which the peer ends the application's connection.
    pub(crate) fn is_connection_ending(&self) -> bool {
        matches!(
            self,
            Self::Overloaded
                | Self::DestinationOverloaded(_)
                | Self::NoBackend(_)
                | Self::Unready(_)
                | Self::RequiredId { .. }
                | Self::NoDispatcher(_)
                | Self::InvalidPolicy
                | Self::Endpoint(..)
        )
    }

    /// Why the endpoint reset the request's stream, if it did.
    pub(crate) fn reset(&self) -> Option<h2::Reason> {
        match self {
            Self::Endpoint(_, error) => error.reset(),
            _ => None,
        }
    }

    /// The text of `l5d-proxy-error` and `grpc-message`.
    pub(crate) fn text(&self, place: &str) -> String {
        match self {
            Self::Stopped(Stop::Redirect { .. }) => "redirected".to_owned(),
            Self::Stopped(Stop::Failure { message, .. }) => message.clone(),
            Self::Endpoint(address, error) => format!("endpoint {address}: {error}"),
            Self::BadRequest(_)
            | Self::Overloaded
            | Self::DestinationOverloaded(_)
            | Self::Unknown(_) => self.to_string(),
            _ if place.is_empty() => self.to_string(),
            _ => format!("{place}: {self}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest(what) => write!(f, "bad request: {what}"),
            Self::Overloaded => f.write_str(
                "service unavailable: as many requests are in flight as there may be (OUTBOUND_MAX_IN_FLIGHT)",
            ),
            Self::NoBackend(None) => {
                f.write_str("service unavailable: the route has no backend that takes requests")
            }
            Self::NoBackend(Some(why)) => write!(f, "service unavailable: {why}"),
            Self::DestinationOverloaded(name) => write!(
                f,
                "service unavailable: too many requests to {name} wait for an answer"
            ),
            Self::Unknown(name) => {
                write!(
                    f,
                    "discovery timed out: the control plane has not said what {name} is"
                )
            }
            Self::NoRoute => f.write_str("no route"),
            Self::InvalidPolicy => {
                f.write_str("the control plane's policy for this destination cannot be used")
            }
            Self::NotHttp => f.write_str("the destination's policy is not about HTTP"),
            Self::Stopped(Stop::Redirect { .. }) => f.write_str("redirected"),
            Self::Stopped(Stop::Failure { message, .. }) => f.write_str(message),
            Self::Stopped(Stop::InvalidRedirect) => {
                f.write_str("the route's redirect replaces a prefix, and the route has none")
            }
            Self::Stopped(Stop::UnknownFilter) => {
                f.write_str("the route has a filter that this version does not know")
            }
            Self::NoDispatcher(backend) => match backend.as_ref() {
                Ref::Default { name } => write!(f, "backend for default {name} has no dispatcher"),
                Ref::Resource {
                    kind,
                    namespace,
                    name,
                    ..
                } => write!(f, "backend for {kind} {namespace}/{name} has no dispatcher"),
            },
            Self::Unready(unready) => unready.fmt(f),
            Self::Mtls(why) => write!(f, "mutual TLS is required: {why}"),
            Self::RequiredId { required, found } => {
                write!(f, "required id {required}; found {found}")
            }
            Self::Loop(address) => write!(f, "{address} is this proxy's own address"),
            Self::Endpoint(_, error) => error.fmt(f),
            Self::Expired(expired @ Expired::Profile(_)) => expired.fmt(f),
            Self::Expired(expired) => {
                write!(f, "timed out waiting for response headers: {expired}")
            }
        }
    }
}

/// What the answer to a failure depends on, noted before the request is taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) grpc: bool,
    /// The version on the wire.
    pub(crate) version: Version,
    /// Answers say why (`OUTBOUND_DISABLE_INFORMATIONAL_HEADERS` is off).
    pub(crate) informational: bool,
    /// Failures of destinations end the application's connection (`OUTBOUND_CLOSE_ON_ERROR`).
    pub(crate) close_on_error: bool,
}

impl Asked {
    pub(super) fn new(form: &Form, version: Version, settings: &super::Settings) -> Self {
        Self {
            grpc: form.grpc,
            version,
            informational: settings.informational,
            close_on_error: settings.close_on_error,
        }
    }
}

/// The table, for the page of failures.
pub(crate) fn markdown() -> String {
    let mut page = String::from(
        "\n## Outbound\n\n\
         Generated from `linkerd-proxy/src/outbound/failure.rs`. gRPC requests are answered with HTTP status 200 and \
         the gRPC status; `l5d-proxy-error` (and `grpc-message`) say where and why, unless \
         `LINKERD2_PROXY_OUTBOUND_DISABLE_INFORMATIONAL_HEADERS` is set. Failures of endpoints count as their \
         responses, in `response_total`.\n\n\
         | Failure | Whose | HTTP | gRPC | `error` of `outbound_http_errors_total` |\n\
         |---|---|---|---|---|\n",
    );
    for row in ROWS {
        let status = match row.name {
            "redirect" => "the route's, else 301".to_owned(),
            "injected failure" => "the route's".to_owned(),
            _ => row.http.as_u16().to_string(),
        };
        page.push_str(&format!(
            "| {} | {} | {} | {} | {} |\n",
            row.name,
            row.source.as_str(),
            status,
            row.grpc,
            row.error
                .map_or_else(|| "–".to_owned(), |error| format!("`{error}`")),
        ));
    }
    page
}
