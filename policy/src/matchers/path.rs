//! Paths of requests: exact paths, prefixes of whole segments, and forms that say one thing to a policy and another
//! to the application behind it.

use std::{borrow::Cow, collections::HashMap};

/// Why a path is not safe to decide on by path: the application may read it as another one.
///
/// The proxy answers such requests with 400 on ports where [`crate::Policy::has_path_policy`] is true. Found are:
/// dot segments (`/a/../b`), encoded dots, slashes, backslashes and NULs, the same encoded twice, backslashes and
/// control characters as they are; empty segments (`//admin`), which many applications leave out, and parameters of
/// segments (`/admin;x`), which some do: for them it is `/admin`, and here it would not be. Other encoded characters are
/// left alone: they do not change which segments there are, and a path that matches no route is refused anyway.
pub fn suspicious_path(path: &str) -> Option<&'static str> {
    let mut rest = path.as_bytes();
    let mut is_nested = false;
    while let Some((byte, after)) = rest.split_first() {
        match byte {
            b'\\' => return Some("a backslash"),
            0..=0x1f | 0x7f => return Some("a control character"),
            b';' => return Some("a path parameter"),
            b'/' if after.starts_with(b"/") => return Some("an empty segment"),
            b'%' => {
                // `%25` is a percent sign: what follows it would be decoded by a second round.
                let mut code = after;
                while let [b'2', b'5', inner @ ..] = code {
                    code = inner;
                }
                let twice = code.len() < after.len();
                if let [high, low, ..] = code
                    && let Some(found) = encoded(*high, *low)
                {
                    return Some(if twice { TWICE } else { found });
                }
                // A digit of the code may itself be encoded.
                is_nested |= code.iter().take(2).any(|byte| *byte == b'%');
            }
            _ => {}
        }
        rest = after;
    }
    let dots = path
        .split('/')
        .any(|segment| segment == "." || segment == "..");
    if dots {
        return Some("a dot segment");
    }
    (is_nested && is_encoded_again(path)).then_some(TWICE)
}

const TWICE: &str = "a separator or dot that is encoded twice";

/// Whether decoding again and again brings out what [`encoded`] finds, or does not come to an end.
fn is_encoded_again(path: &str) -> bool {
    /// Rounds of decoding that somebody may do, and more.
    const ROUNDS: usize = 4;
    let mut text = path.as_bytes().to_vec();
    for _ in 0..ROUNDS {
        let mut next = Vec::with_capacity(text.len());
        let mut rest = text.as_slice();
        while let Some((byte, after)) = rest.split_first() {
            let code = after.first_chunk::<2>().filter(|_| *byte == b'%');
            let code = code.filter(|code| code.iter().all(u8::is_ascii_hexdigit));
            let Some([high, low]) = code else {
                next.push(*byte);
                rest = after;
                continue;
            };
            if encoded(*high, *low).is_some() {
                return true;
            }
            let digit = |digit: &u8| char::from(*digit).to_digit(16).unwrap_or(0);
            next.push(u8::try_from(digit(high) * 16 + digit(low)).unwrap_or(0));
            rest = after.get(2..).unwrap_or_default();
        }
        if next.len() == text.len() {
            return false;
        }
        text = next;
    }
    true
}

fn encoded(high: u8, low: u8) -> Option<&'static str> {
    match (high, low.to_ascii_lowercase()) {
        (b'2', b'f') => Some("an encoded slash"),
        (b'2', b'e') => Some("an encoded dot"),
        (b'5', b'c') => Some("an encoded backslash"),
        (b'0', b'0') => Some("an encoded NUL"),
        _ => None,
    }
}

/// A path as it is compared: letters, digits, `-`, `.`, `_` and `~` as themselves, since encoding them changes
/// nothing. Source: RFC 3986 §6.2.2.2.
pub(crate) fn normal_path(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut normal = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        normal.push_str(before);
        let code = after
            .get(..2)
            .filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        match byte.filter(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte)) {
            Some(byte) => {
                normal.push(char::from(byte));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                normal.push('%');
                rest = after;
            }
        }
    }
    normal.push_str(rest);
    Cow::Owned(normal)
}

/// The prefix as it is compared: trailing slashes say nothing. Empty = every path.
pub(crate) fn normal_prefix(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}

/// Values by path prefix, found from the longest prefix down.
///
/// One hash look-up for each distinct length of a prefix, so a long path costs no more than a short one.
#[derive(Debug)]
pub(crate) struct PrefixTable<V> {
    /// Lengths that occur, longest first.
    lengths: Vec<usize>,
    by_prefix: HashMap<Box<str>, V>,
}

impl<V> Default for PrefixTable<V> {
    fn default() -> Self {
        Self {
            lengths: Vec::new(),
            by_prefix: HashMap::new(),
        }
    }
}

impl<V: Default> PrefixTable<V> {
    /// The value of a prefix.
    pub(crate) fn entry(&mut self, prefix: &str) -> &mut V {
        let prefix = normal_prefix(prefix);
        if let Err(at) = self
            .lengths
            .binary_search_by(|length| prefix.len().cmp(length))
        {
            self.lengths.insert(at, prefix.len());
        }
        self.by_prefix.entry(prefix.into()).or_default()
    }
}

impl<V> PrefixTable<V> {
    /// The first answer among the prefixes of `path`, longest first.
    pub(crate) fn find<'t, T>(
        &'t self,
        path: &str,
        mut answer: impl FnMut(&'t V) -> Option<T>,
    ) -> Option<T> {
        self.lengths.iter().find_map(|length| {
            // A prefix ends where a segment ends.
            if !matches!(path.as_bytes().get(*length), None | Some(b'/')) {
                return None;
            }
            let value = self.by_prefix.get(path.get(..*length)?)?;
            answer(value)
        })
    }

    /// Every value.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.by_prefix.values_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_an_application_may_read_otherwise_are_found() {
        for path in [
            "/pub/../admin",
            "/pub/./x",
            "/..",
            "/.",
            "..",
            "/pub/..;/admin",
            "/pub/..;a=b/admin",
            "/pub/%2e%2e/admin",
            "/pub/%2E./admin",
            "/pub/..%2fadmin",
            "/pub%2Fadmin",
            "/pub\\admin",
            "/pub%5cadmin",
            "/a%00",
            "/a\0",
            "//x",
            "/a//b",
            "/a//",
            "/admin;x",
            "/a;v=1/b",
            "/pub/%252e%252e/admin",
            "/pub/%25252fadmin",
            "/pub/%%32e%%32e/admin",
            "/pub/%25%32e/admin",
            "/pub/%252%65/admin",
            "/pub/%2%66admin",
            "/a\u{1}b",
            "/a%2e",
        ] {
            assert!(suspicious_path(path).is_some(), "{path}");
        }
    }

    #[test]
    fn ordinary_paths_are_left_alone() {
        for path in [
            "/",
            "",
            "*",
            "/a.b/c..d",
            "/...",
            "/a/...b",
            "/a/",
            "/%61dmin",
            "/a%20b",
            "/100%25",
            "/100%25%E2%82%AC",
            "/%%61%bb%%",
            "/%25ab",
            "/a%3bv=1/b",
            "/é",
            "/%",
            "/%2",
            "/.well-known/x",
            "/%f0%9f%98%80",
        ] {
            assert_eq!(suspicious_path(path), None, "{path}");
        }
    }

    #[test]
    fn encoding_what_needs_none_changes_nothing_and_is_undone_once() {
        for (path, wanted) in [
            ("/%61dmin", "/admin"),
            ("/%41%7e%2D", "/A~-"),
            ("/a%20b%2Fc", "/a%20b%2Fc"),
            ("/%2561", "/%2561"),
            ("/%6", "/%6"),
            ("/%", "/%"),
            ("/%+1", "/%+1"),
            ("/%é1%61", "/%é1a"),
            ("/%%61", "/%a"),
        ] {
            assert_eq!(normal_path(path), wanted);
        }
    }

    #[test]
    fn prefixes_take_whole_segments_longest_first() {
        let mut table = PrefixTable::<Vec<&str>>::default();
        for prefix in ["/a", "/a/b/", "/ab", "/", "/a/bc//"] {
            table.entry(prefix).push(prefix);
        }
        let all = |path: &str| {
            let mut all = Vec::new();
            table.find(path, |names| -> Option<()> {
                all.extend(names.iter().copied());
                None
            });
            all
        };
        assert_eq!(all("/a/b/c"), ["/a/b/", "/a", "/"]);
        assert_eq!(all("/a/bc"), ["/a/bc//", "/a", "/"]);
        assert_eq!(all("/a/"), ["/a", "/"]);
        assert_eq!(all("/abc"), ["/"]);
        assert_eq!(all("*"), [""; 0]);
        assert_eq!(all("/é"), ["/"]);
    }
}
