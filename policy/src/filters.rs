//! What a route does with a request once it is authorized: change headers, redirect, fail.

use crate::{
    decide::{Matched, Policy},
    matchers::path::normal_path,
    server::{FailureInjector, Filter, HeaderModifier, PathModifier, Redirect},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};
use std::fmt::Write;

/// A filter answers in place of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A redirect.
    Redirect {
        /// Status of the answer.
        status: StatusCode,
        /// Value of its `location` header.
        location: HeaderValue,
    },
    /// An injected failure.
    Failure {
        /// HTTP status, or gRPC code on gRPC routes.
        status: u16,
        /// Text for the client.
        message: String,
    },
    /// A redirect that cannot be made: of a prefix where no prefix matched, or to something that is no URI (500).
    InvalidRedirect,
    /// The policy holds a filter that this version does not know (500).
    UnknownFilter,
}

/// Applies the filters of what matched, in order.
///
/// `uri` is the request's, with its authority if it is known; the `host` header stands in for it. `roll(n)` gives a
/// random number below `n`.
///
/// # Errors
/// [`Stop`], if a filter answers the request; filters after it are not applied.
pub fn apply(
    policy: &Policy,
    matched: &Matched,
    _method: &Method,
    uri: &mut Uri,
    headers: &mut HeaderMap,
    roll: impl FnMut(u32) -> u32,
) -> Result<(), Stop> {
    apply_request(policy.filters(matched), matched, uri, headers, roll)
}

/// Applies filters to a request, in order; see [`apply`]. Those of responses are left out.
///
/// # Errors
/// [`Stop`], if a filter answers the request; filters after it are not applied.
pub fn apply_request(
    filters: &[Filter],
    matched: &Matched,
    uri: &mut Uri,
    headers: &mut HeaderMap,
    mut roll: impl FnMut(u32) -> u32,
) -> Result<(), Stop> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(modifier) => modify(modifier, headers),
            Filter::ResponseHeaders(_) => {}
            Filter::Redirect(redirect) => redirected(redirect, matched, uri, headers)?,
            Filter::Failure(injector) => inject(injector, &mut roll)?,
            Filter::Unknown => return Err(Stop::UnknownFilter),
        }
    }
    Ok(())
}

/// Applies filters to a response, in order; those of requests are left out.
pub fn apply_response(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::ResponseHeaders(modifier) = filter {
            modify(modifier, headers);
        }
    }
}

/// Additions first, then replacements, then removals. Source: `io.linkerd.proxy.http_route.RequestHeaderModifier`.
fn modify(modifier: &HeaderModifier, headers: &mut HeaderMap) {
    for (name, value) in modifier.add.iter().filter(|(name, _)| !is_ours(name)) {
        // Full header maps (32,768 entries) cannot come from the wire: its limits are far below.
        let _ = headers.try_append(name, value.clone());
    }
    for (name, value) in modifier.set.iter().filter(|(name, _)| !is_ours(name)) {
        let _ = headers.try_insert(name, value.clone());
    }
    for name in modifier.remove.iter().filter(|name| !is_ours(name)) {
        headers.remove(name);
    }
}

/// Headers no policy may change: what the proxy tells the application about the client, and what frames the message.
fn is_ours(name: &HeaderName) -> bool {
    const FRAMING: [HeaderName; 6] = [
        CONNECTION,
        CONTENT_LENGTH,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    name.as_str().starts_with("l5d-") || FRAMING.contains(name)
}

/// The names of a modifier that are left as they are.
pub(crate) fn left_alone(modifier: &HeaderModifier) -> impl Iterator<Item = &HeaderName> {
    let changed = modifier.add.iter().chain(&modifier.set);
    changed
        .map(|(name, _)| name)
        .chain(&modifier.remove)
        .filter(|name| is_ours(name))
}

fn inject(injector: &FailureInjector, roll: &mut impl FnMut(u32) -> u32) -> Result<(), Stop> {
    let fails = match injector.ratio {
        None => true,
        // Refused when the policy is compiled.
        Some((_, 0)) => false,
        Some((numerator, denominator)) => roll(denominator) < numerator,
    };
    if fails {
        return Err(Stop::Failure {
            status: injector.status,
            message: injector.message.clone(),
        });
    }
    Ok(())
}

fn redirected(
    redirect: &Redirect,
    matched: &Matched,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Stop> {
    let scheme = uri.scheme_str().unwrap_or("http");
    let authority = uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| headers.get(HOST)?.to_str().ok())
        .unwrap_or_default();
    let (host, port) = host_and_port(authority);
    let request = Location {
        scheme,
        host,
        port,
        path: uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned(),
    };

    let scheme = redirect.scheme.as_deref().unwrap_or(scheme);
    let wanted = Location {
        scheme,
        host: redirect.host.as_deref().unwrap_or(host),
        port: redirect.port.or(port),
        path: new_path(redirect.path.as_ref(), matched, uri).ok_or(Stop::InvalidRedirect)?,
    };
    if wanted.host.is_empty() {
        return Err(Stop::InvalidRedirect);
    }
    let location = wanted.text();
    if location == request.text() {
        // Redirecting a request to itself would never end.
        return Ok(());
    }
    // Only what is a URI goes out: a policy cannot put more than one header line, or something else, there.
    location.parse::<Uri>().map_err(|_| Stop::InvalidRedirect)?;
    Err(Stop::Redirect {
        status: redirect.status.unwrap_or(StatusCode::MOVED_PERMANENTLY),
        location: HeaderValue::try_from(location).map_err(|_| Stop::InvalidRedirect)?,
    })
}

/// The parts of a URI a redirect changes.
struct Location<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
    path: String,
}

impl Location<'_> {
    /// As a URI, without the port that its scheme has anyway.
    fn text(&self) -> String {
        let scheme = self.scheme.to_ascii_lowercase();
        let mut text = format!("{scheme}://{}", self.host.to_ascii_lowercase());
        let usual = match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        if let Some(port) = self.port
            && usual != Some(port)
        {
            let _ = write!(text, ":{port}");
        }
        text + &self.path
    }
}

/// Path and query of the redirect; `None` if a prefix is to be replaced and none matched.
fn new_path(modifier: Option<&PathModifier>, matched: &Matched, uri: &Uri) -> Option<String> {
    let query = uri.query();
    let with_query = |path: String| match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    match modifier {
        None => Some(with_query(uri.path().to_owned())),
        Some(PathModifier::Full(path)) => Some(rooted(path.clone())),
        Some(PathModifier::Prefix(prefix)) => {
            let length = usize::try_from(matched.prefix?).ok()?;
            // The match saw the path in this form, and counted there.
            let path = normal_path(uri.path());
            let rest = path.get(length..)?;
            let prefix = prefix.trim_end_matches('/');
            Some(with_query(rooted(format!("{prefix}{rest}"))))
        }
    }
}

fn rooted(path: String) -> String {
    if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    }
}

/// Host and port of an authority, without user information.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests;
