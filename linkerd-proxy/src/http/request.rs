//! Makes a request's shape unambiguous before anything is decided about it: its form, its one name, its headers.
//!
//! Policy, metrics and the origin then see the same request. What could be read in two ways is refused (RFC 9112 §3.2,
//! §3.3; RFC 9113 §8.3.1).

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use linkerd_tls::Id;

/// Tells the version that a mesh peer carries in HTTP/2, and on the way back the version that the answer had.
pub(crate) const ORIG_PROTO: HeaderName = HeaderName::from_static("l5d-orig-proto");
/// The client's identity, for the application.
pub(crate) const CLIENT_ID: HeaderName = HeaderName::from_static("l5d-client-id");

/// The request's shape is ambiguous or not allowed; the text says what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRequest(pub(crate) &'static str);

/// What the request was before it was taken apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form {
    /// The version that a peer carried in HTTP/2.
    pub(crate) carried: Option<Version>,
    /// The target was in absolute form.
    pub(crate) absolute: bool,
    /// Content type begins with `application/grpc`, over HTTP/2.
    pub(crate) grpc: bool,
}

impl Form {
    /// Whether it came over HTTP/2, in which version it may go on.
    pub(crate) fn is_over_http2(&self, version: Version) -> bool {
        self.carried.is_some() || version == Version::HTTP_2
    }
}

/// Undoes the carrying of HTTP/1 in HTTP/2 (`l5d-orig-proto`) and notes the request's form.
pub(crate) fn unwrap<B>(request: &mut Request<B>) -> Form {
    let grpc = request.version() == Version::HTTP_2
        && request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut form = Form {
        carried: None,
        absolute: false,
        grpc,
    };
    if request.version() != Version::HTTP_2 {
        form.absolute = request.uri().scheme().is_some();
        return form;
    }
    if request.method() == Method::CONNECT {
        // A tunnel is not carried: refused for its form as any other in HTTP/2.
        return form;
    }
    let Some(value) = request.headers_mut().remove(ORIG_PROTO) else {
        return form;
    };
    let value = value.as_bytes();
    let version = if value.starts_with(b"HTTP/1.1") {
        Version::HTTP_11
    } else if value.starts_with(b"HTTP/1.0") {
        Version::HTTP_10
    } else {
        tracing::warn!("l5d-orig-proto names an unknown version; the request stays HTTP/2");
        return form;
    };
    *request.version_mut() = version;
    join_cookies(request.headers_mut());
    form.carried = Some(version);
    form.absolute = value.ends_with(b"absolute-form");
    form
}

/// HTTP/2 may have several `Cookie` headers, HTTP/1 one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Checks the request's form and gives it one name: what it returns is the authority that routes are matched against.
pub(crate) fn name<B>(request: &mut Request<B>) -> Result<Option<Authority>, BadRequest> {
    let refuse = |what| Err(BadRequest(what));
    let authority = request.uri().authority().cloned();
    if authority
        .as_ref()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return refuse("user information in the authority");
    }
    if request.method() == Method::CONNECT {
        if request.version() == Version::HTTP_2 {
            return refuse("CONNECT needs HTTP/1.1");
        }
        if request
            .headers()
            .get_all(header::HOST)
            .iter()
            .nth(1)
            .is_some()
        {
            return refuse("more than one Host");
        }
        return match authority {
            Some(authority) if authority.port().is_some() => Ok(Some(authority)),
            _ => refuse("CONNECT needs host:port as its target"),
        };
    }
    let path = request.uri().path();
    let is_path = path.starts_with('/') || (path == "*" && request.method() == Method::OPTIONS);
    if !is_path {
        return refuse("the path does not begin with a slash");
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return refuse("more than one Host"),
        (Some(host), None) => Some(parse_host(host)?),
        (None, None) => None,
    };
    match (authority, host) {
        // An absolute target replaces Host (RFC 9112 §3.2.2); in HTTP/2 the two must agree.
        (Some(authority), host) => {
            let differs = host.flatten().is_some_and(|host| !same(&host, &authority));
            if differs && request.version() == Version::HTTP_2 {
                return refuse(":authority and host differ");
            }
            if request.version() < Version::HTTP_2
                && let Ok(value) = HeaderValue::from_str(authority.as_str())
            {
                request.headers_mut().insert(header::HOST, value);
            }
            Ok(Some(authority))
        }
        (None, Some(host)) => Ok(host),
        (None, None) if request.version() == Version::HTTP_11 => refuse("no Host"),
        (None, None) => Ok(None),
    }
}

/// A `Host`: empty, or an authority without user information.
fn parse_host(value: &HeaderValue) -> Result<Option<Authority>, BadRequest> {
    if value.is_empty() {
        return Ok(None);
    }
    Authority::try_from(value.as_bytes())
        .ok()
        .filter(|host| !host.as_str().contains('@'))
        .map(Some)
        .ok_or(BadRequest("Host is not a host and port"))
}

fn same(a: &Authority, b: &Authority) -> bool {
    a.host().eq_ignore_ascii_case(b.host())
        && a.port_u16().unwrap_or(80) == b.port_u16().unwrap_or(80)
}

/// Removes what a client may not say, and says who it is.
///
/// `l5d-client-id` is the client's identity or absent; other `l5d-*` headers are kept only from clients with a mesh
/// certificate.
pub(crate) fn protect(headers: &mut HeaderMap, client: Option<&Id>) {
    if client.is_none() {
        let spoofed: Vec<HeaderName> = headers
            .keys()
            .filter(|name| name.as_str().starts_with("l5d-"))
            .cloned()
            .collect();
        for name in spoofed {
            headers.remove(name);
        }
    }
    identify(headers, client);
}

/// Sets `l5d-client-id`. Called again after filters, which could have changed it.
pub(crate) fn identify(headers: &mut HeaderMap, client: Option<&Id>) {
    let identity = client.and_then(|id| HeaderValue::from_str(id.as_str()).ok());
    match identity {
        Some(identity) => {
            headers.insert(CLIENT_ID, identity);
        }
        None => {
            headers.remove(CLIENT_ID);
        }
    }
}

/// Whether the request asks to leave HTTP, other than for `h2c`, which is never granted (RFC 9113 §3.1): nor is anything
/// that is offered beside it, since the application chooses.
pub(crate) fn upgrades<B>(request: &Request<B>) -> bool {
    if request.method() == Method::CONNECT {
        return request.version() < Version::HTTP_2;
    }
    let headers = request.headers();
    let is_h2c = |protocol: &[u8]| {
        let name = protocol.split(|byte| *byte == b'/').next();
        name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"h2c"))
    };
    request.version() == Version::HTTP_11
        && headers.contains_key(header::UPGRADE)
        && !tokens(headers, &header::UPGRADE).any(is_h2c)
        && tokens(headers, &header::CONNECTION)
            .any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// The items of a header that is a list, over all of its values.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Removes the headers that are about one connection only (RFC 9110 §7.6.1); `te` stays, for trailers. Where the
/// protocol is switched, `Upgrade` stays too and is all that `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
    let keep_upgrade = keep_upgrade && headers.contains_key(header::UPGRADE);
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            // A client may not have the proxy drop what names or frames the request.
            .filter(|name| !(is_essential(name) || (keep_upgrade && name == header::UPGRADE)))
            .collect();
        for name in listed {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    if keep_upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(header::UPGRADE);
    }
    headers.remove(HTTP2_SETTINGS);
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
}

/// Removes what only a proxy may say from an application's answer: it is never the proxy speaking.
pub(crate) fn distrust(headers: &mut HeaderMap) {
    for name in ["l5d-proxy-error", "l5d-proxy-connection", "l5d-orig-proto"] {
        headers.remove(name);
    }
}

fn is_essential(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
    ]
    .contains(name)
        || name.as_str().starts_with("l5d-")
}

/// Gives the request the target that its version needs on the way to the origin.
pub(crate) fn retarget<B>(request: &mut Request<B>, form: &Form, authority: Option<&Authority>) {
    if request.method() == Method::CONNECT {
        return;
    }
    if request.version() == Version::HTTP_2 || form.absolute {
        if request.uri().scheme().is_none()
            && let Some(authority) = authority
        {
            let mut parts = request.uri().clone().into_parts();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(authority.clone());
            set_uri(request, parts);
        }
        return;
    }
    if request.uri().authority().is_some() {
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = None;
        parts.authority = None;
        set_uri(request, parts);
    }
    if !request.headers().contains_key(header::HOST)
        && let Some(value) = authority.and_then(|name| HeaderValue::from_str(name.as_str()).ok())
    {
        request.headers_mut().insert(header::HOST, value);
    }
}

fn set_uri<B>(request: &mut Request<B>, mut parts: http::uri::Parts) {
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    // Parts taken from a valid URI make one again; if not, the old one is still right, only longer.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_request_has_one_name_or_is_refused() {
        for (version, uri, hosts, want) in [
            (Version::HTTP_11, "/", &["web"][..], Ok(Some("web"))),
            (Version::HTTP_11, "http://web/", &["other"], Ok(Some("web"))),
            (Version::HTTP_11, "/", &[], Err("no Host")),
            (
                Version::HTTP_11,
                "/",
                &["a", "a"],
                Err("more than one Host"),
            ),
            (
                Version::HTTP_11,
                "/",
                &["a b/../c"],
                Err("Host is not a host and port"),
            ),
            (
                Version::HTTP_11,
                "/",
                &["user@web"],
                Err("Host is not a host and port"),
            ),
            (Version::HTTP_11, "/", &[""], Ok(None)),
            (Version::HTTP_10, "/", &[], Ok(None)),
            (Version::HTTP_2, "http://web/", &["web"], Ok(Some("web"))),
            (Version::HTTP_2, "http://web/", &["WEB:80"], Ok(Some("web"))),
            (
                Version::HTTP_2,
                "http://web/",
                &["other"],
                Err(":authority and host differ"),
            ),
            (
                Version::HTTP_2,
                "http://me@web/",
                &[],
                Err("user information in the authority"),
            ),
        ] {
            let mut request = request(version, uri, hosts);
            let name = match name(&mut request) {
                Ok(name) => Ok(name.map(|name| name.to_string())),
                Err(BadRequest(what)) => Err(what),
            };
            assert_eq!(
                name,
                want.map(|name| name.map(str::to_owned)),
                "{uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let mut headers = HeaderMap::new();
        headers.insert(CLIENT_ID, HeaderValue::from_static("admin"));
        headers.insert("l5d-dst-canonical", HeaderValue::from_static("x:1"));
        protect(&mut headers, None);
        assert!(headers.is_empty());

        headers.insert(CLIENT_ID, HeaderValue::from_static("admin"));
        headers.insert("l5d-dst-canonical", HeaderValue::from_static("x:1"));
        let id = "web.shop.serviceaccount.identity.linkerd.cluster.local";
        protect(&mut headers, Some(&id.parse().unwrap()));
        assert_eq!(headers.get(CLIENT_ID).unwrap(), id);
        assert!(headers.contains_key("l5d-dst-canonical"));
    }

    #[test]
    fn h2c_is_no_upgrade_wherever_it_is_offered() {
        for (offers, options, want) in [
            (&["websocket"][..], &["upgrade"][..], true),
            (&["websocket"], &["keep-alive", "Upgrade"], true),
            (&["a/1, b"], &["x,upgrade"], true),
            (&["h2c"], &["upgrade"], false),
            (&["h2c, websocket"], &["upgrade"], false),
            (&["websocket ,H2C"], &["upgrade"], false),
            (&["websocket", "h2c"], &["upgrade"], false),
            (&["h2c/1.0"], &["upgrade"], false),
            (&["websocket"], &["upgraded"], false),
            (&["websocket"], &[], false),
            (&[], &["upgrade"], false),
        ] {
            let mut request = Request::get("/");
            for offer in offers {
                request = request.header(header::UPGRADE, *offer);
            }
            for option in options {
                request = request.header(header::CONNECTION, *option);
            }
            let request = request.body(()).unwrap();
            assert_eq!(upgrades(&request), want, "{offers:?} {options:?}");
        }
    }

    #[test]
    fn a_switch_of_protocols_names_no_other_header_in_connection() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "upgrade, l5d-client-id, x-private"),
            ("connection", "host, HTTP2-Settings"),
            ("upgrade", "websocket"),
            ("x-private", "1"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("l5d-client-id", "me"),
            ("host", "web"),
        ] {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        strip_hop_by_hop(&mut headers, true);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["connection", "host", "l5d-client-id", "upgrade"]);
        assert_eq!(headers[header::CONNECTION], "upgrade");
    }

    #[test]
    fn a_tunnel_is_asked_for_over_http1_only() {
        for (version, hosts, carried, want) in [
            (Version::HTTP_11, &["web:1"][..], None, Ok(())),
            (
                Version::HTTP_11,
                &["web:1", "web:1"],
                None,
                Err("more than one Host"),
            ),
            (Version::HTTP_2, &[], None, Err("CONNECT needs HTTP/1.1")),
            (
                Version::HTTP_2,
                &[],
                Some("HTTP/1.1"),
                Err("CONNECT needs HTTP/1.1"),
            ),
        ] {
            let mut request = request(version, "web:1", hosts);
            *request.method_mut() = Method::CONNECT;
            if let Some(carried) = carried {
                let carried = HeaderValue::from_static(carried);
                request.headers_mut().insert(ORIG_PROTO, carried);
            }
            unwrap(&mut request);
            let name = name(&mut request).map(drop).map_err(|BadRequest(why)| why);
            assert_eq!(name, want, "{version:?} {hosts:?} {carried:?}");
        }
    }

    #[test]
    fn hop_by_hop_headers_go_and_essential_ones_stay() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-private, host, l5d-client-id"),
            ("x-private", "1"),
            ("host", "web"),
            ("l5d-client-id", "me"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        strip_hop_by_hop(&mut headers, false);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "l5d-client-id", "te"]);
    }
}
