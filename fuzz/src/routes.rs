//! Which route takes a request: the compiled router against the rules read literally.

use http::{HeaderMap, Method};
use linkerd_policy::{
    RequestView,
    outbound::{Action, HttpPolicy, HttpRoute, HttpRule, Ref, router::HttpRouter},
    server::{HeaderMatch, HostMatch, HttpMatch, PathMatch, ValueMatch},
    suspicious_path,
};

/// Routes that an input may have: more would only be slow.
const MAX_ROUTES: usize = 24;

/// One line of an input: a route with one match.
#[derive(Debug)]
struct Line<'i> {
    host: &'i str,
    path: &'i str,
    is_prefix: bool,
    header: &'i str,
    method: &'i str,
}

impl<'i> Line<'i> {
    /// `HOST PATH HEADER METHOD`; a path with `*` at its end is a prefix; `-` is left out.
    fn read(text: &'i str) -> Self {
        let mut words = text
            .split(' ')
            .map(|word| word.strip_prefix('-').unwrap_or(word));
        let mut word = || words.next().unwrap_or_default();
        let (host, path, header, method) = (word(), word(), word(), word());
        Self {
            host,
            path: path.strip_suffix('*').unwrap_or(path),
            is_prefix: path.ends_with('*'),
            header,
            method,
        }
    }

    fn hosts(&self) -> Vec<HostMatch> {
        if self.host.is_empty() {
            return Vec::new();
        }
        vec![match self.host.strip_prefix("*.") {
            Some(suffix) => HostMatch::Suffix(suffix.split('.').rev().map(Into::into).collect()),
            None => HostMatch::Exact(self.host.into()),
        }]
    }

    fn matched(&self) -> HttpMatch {
        let path = (!self.path.is_empty()).then(|| match self.is_prefix {
            true => PathMatch::Prefix(self.path.into()),
            false => PathMatch::Exact(self.path.into()),
        });
        let header = (!self.header.is_empty()).then(|| HeaderMatch {
            name: http::HeaderName::from_static("x-fuzz"),
            value: ValueMatch::Exact(self.header.into()),
        });
        HttpMatch {
            path,
            headers: header.into_iter().collect(),
            query: Vec::new(),
            method: self.method.parse().ok(),
        }
    }

    /// How well it takes a request, if it does; the greater the better.
    fn rank(&self, asked: &Self) -> Option<[usize; 6]> {
        let [host, length] = match self.host.strip_prefix("*.") {
            _ if self.host.is_empty() => [0, 0],
            Some(suffix) => {
                let suffix = format!(".{suffix}");
                asked.host.ends_with(&suffix).then_some([1, suffix.len()])?
            }
            None => (self.host == asked.host).then_some([2, self.host.len()])?,
        };
        let [path, long] = if self.path.is_empty() {
            [0, 0]
        } else if self.is_prefix {
            let (prefix, path) = (segments(self.path), segments(asked.path));
            path.starts_with(&prefix).then_some(())?;
            [usize::from(!prefix.is_empty()), prefix.join("/").len()]
        } else {
            (self.path == asked.path).then_some([2, 0])?
        };
        let is_method = self.method.is_empty() || self.method == asked.method;
        let is_header = self.header.is_empty() || self.header == asked.header;
        let given = |text: &str| usize::from(!text.is_empty());
        (is_method && is_header).then_some([
            host,
            length,
            path,
            long,
            given(self.method),
            given(self.header),
        ])
    }

    /// Whether it is of the plain kind that the rules above are written for.
    fn is_plain(&self) -> bool {
        let is_name = |c: char| c.is_ascii_lowercase() || c == '.' || c == '*';
        let host = self.host.strip_prefix("*.").unwrap_or(self.host);
        let is_host = self.host.is_empty()
            || (host.split('.').all(|label| !label.is_empty()) && !host.contains('*'));
        let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
        self.host.chars().all(is_name)
            && is_host
            && (self.path.is_empty() || self.path.starts_with('/'))
            && self.path.chars().all(is_path)
            && !self.path.contains("//")
            && self.header.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && ["", "GET", "POST", "PUT"].contains(&self.method)
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// Paths, hosts, headers and methods: the first line of an input asks, each of the others is a route.
pub fn routes(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.lines().map(Line::read);
    let Some(asked) = lines.next() else {
        return;
    };
    let lines: Vec<Line<'_>> = lines.take(MAX_ROUTES).collect();
    let routes = lines.iter().map(|line| HttpRoute {
        meta: Ref::default_named("route"),
        hosts: line.hosts(),
        rules: vec![HttpRule {
            matches: vec![line.matched()],
            action: Action::default(),
        }],
    });
    let policy = HttpPolicy {
        routes: routes.collect(),
        failure_accrual: None,
    };
    let Ok(router) = HttpRouter::http(&policy) else {
        return;
    };
    let mut headers = HeaderMap::new();
    if let Ok(value) = asked.header.parse()
        && !asked.header.is_empty()
    {
        headers.insert("x-fuzz", value);
    }
    let found = router.find(&RequestView {
        method: &asked.method.parse().unwrap_or(Method::GET),
        authority: (!asked.host.is_empty()).then_some(asked.host),
        path: asked.path,
        query: None,
        headers: &headers,
    });
    let is_plain = asked.is_plain()
        && !asked.is_prefix
        && !asked.host.contains('*')
        && ![asked.host, asked.path, asked.method].contains(&"")
        && lines.iter().all(Line::is_plain);
    if !is_plain {
        return;
    }
    let mut best: Option<([usize; 6], usize)> = None;
    for (at, line) in lines.iter().enumerate() {
        if let Some(rank) = line.rank(&asked)
            && best.is_none_or(|(before, _)| rank > before)
        {
            best = Some((rank, at));
        }
    }
    let found = found.and_then(|matched| usize::try_from(matched.route).ok());
    assert_eq!(found, best.map(|(_, at)| at), "{asked:?}: {lines:#?}");
}

/// Paths that are refused: whatever is let through means the same to those who decode it and to those who tidy it up.
pub fn path(input: &[u8]) {
    let path = String::from_utf8_lossy(input);
    let path = path.as_ref();
    if suspicious_path(path).is_some() || !path.starts_with('/') {
        return;
    }
    let mut decoded = path.as_bytes().to_vec();
    // As often as somebody may decode it.
    for _ in 0..4 {
        decoded = decode(&decoded);
        let shown = String::from_utf8_lossy(&decoded);
        let parts: Vec<&[u8]> = decoded.split(|byte| *byte == b'/').collect();
        let is_dots = |part: &&[u8]| matches!(*part, b"." | b"..");
        assert!(!parts.iter().any(is_dots), "{path} is {shown}");
        let inner = parts.iter().skip(1).take(parts.len().saturating_sub(2));
        assert!(
            inner.clone().all(|part| !part.is_empty()),
            "{path} is {shown}"
        );
        assert!(
            !decoded.iter().any(|byte| matches!(byte, b'\\' | 0)),
            "{path} is {shown}"
        );
    }
}

/// Percent-encoding, undone once; what is none stays.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let code = after
            .get(..2)
            .and_then(|code| std::str::from_utf8(code).ok());
        let byte = code.filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match byte.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if *first == b'%' => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}
