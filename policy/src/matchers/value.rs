//! Values of headers and query parameters, and the regular expressions of a policy.
//!
//! Where a header or a parameter is repeated, **every** value must match: a request cannot reach a route's
//! authorization by adding a value that matches to one that does not, in either order. A comma is not a separator
//! here; `a, b` is one value.

use crate::server::{HeaderMatch, QueryMatch, ValueMatch};
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;
use regex::{Regex, RegexBuilder, bytes};
use std::borrow::Cow;

/// Longest text of a regular expression of a policy, in bytes.
pub(crate) const MAX_REGEX_LENGTH: usize = 4096;
/// Memory of a small compiled expression, in bytes: what one unit of a [`RegexBudget`] pays for.
const SMALL: usize = 64 << 10;
/// Most memory one compiled expression may take, in bytes.
const LARGE: usize = 1 << 20;
/// Most memory for the states an expression meets while it runs, in bytes, for each thread.
const STATES: usize = 1 << 20;
/// Small expressions that a port may hold: 64 MiB together.
pub(crate) const MAX_REGEXES: usize = 1024;

/// Whether a policy may hold this expression; `Err` says what to write in its place.
///
/// For whoever admits policies, so that they refuse what the proxy would.
pub fn check_regex(pattern: &str) -> Result<(), String> {
    RegexBudget::default().path(pattern).map(drop)
}

/// What the regular expressions of one port may still take, so that no policy, however it came, costs more memory
/// or more time to compile than that.
#[derive(Debug)]
pub(crate) struct RegexBudget {
    left: usize,
}

impl Default for RegexBudget {
    fn default() -> Self {
        Self { left: MAX_REGEXES }
    }
}

impl RegexBudget {
    /// Compiles an expression that must span a whole path.
    pub(crate) fn path(&mut self, pattern: &str) -> Result<Regex, String> {
        self.build(pattern, |wrapped, limit| {
            RegexBuilder::new(wrapped)
                .size_limit(limit)
                .dfa_size_limit(STATES)
                .build()
        })
    }

    /// Compiles what a header's or a parameter's value must be.
    pub(crate) fn value(&mut self, value: &ValueMatch) -> Result<ValueTest, String> {
        Ok(match value {
            ValueMatch::Exact(bytes) => ValueTest::Exact(bytes.as_slice().into()),
            ValueMatch::Regex(pattern) => {
                ValueTest::Regex(self.build(pattern, |wrapped, limit| {
                    bytes::RegexBuilder::new(wrapped)
                        .size_limit(limit)
                        .dfa_size_limit(STATES)
                        .build()
                })?)
            }
        })
    }

    /// Compiles `^(?:re)$`, after making sure that the expression is one of its own: `a)|(b` is not.
    fn build<R>(
        &mut self,
        pattern: &str,
        build: impl Fn(&str, usize) -> Result<R, regex::Error>,
    ) -> Result<R, String> {
        if pattern.len() > MAX_REGEX_LENGTH {
            return Err(format!(
                "a regular expression of {} bytes; at most {MAX_REGEX_LENGTH} are taken, split it into several matches",
                pattern.len()
            ));
        }
        let mut price = 1;
        let wrapped = format!("^(?:{pattern})$");
        self.pay(price)?;
        let built = build(pattern, SMALL).and_then(|_| build(&wrapped, SMALL));
        let built = match built {
            Err(regex::Error::CompiledTooBig(_)) => {
                price = LARGE / SMALL;
                self.pay(price - 1)?;
                build(pattern, LARGE).and_then(|_| build(&wrapped, LARGE))
            }
            built => built,
        };
        built.map_err(|error| refused(pattern, &error))
    }

    fn pay(&mut self, price: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(price).ok_or_else(|| {
            format!(
                "more regular expressions than a port may hold ({MAX_REGEXES} small ones, or {} of up to {LARGE} \
                 bytes when compiled); use exact values or prefixes",
                MAX_REGEXES * SMALL / LARGE
            )
        })?;
        Ok(())
    }
}

/// A value a header or a query parameter must have.
#[derive(Debug)]
pub(crate) enum ValueTest {
    Exact(Box<[u8]>),
    Regex(bytes::Regex),
}

impl ValueTest {
    fn is_match(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => wanted.as_ref() == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

fn refused(pattern: &str, error: &regex::Error) -> String {
    let shown: String = pattern.chars().take(80).collect();
    match error {
        regex::Error::CompiledTooBig(limit) => format!(
            "`{shown}` takes more than {limit} bytes when compiled; use fewer or smaller repetitions"
        ),
        error => {
            // The crate's text draws the place on several lines; its last line says what is wrong.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            let reason = reason.strip_prefix("error: ").unwrap_or(reason);
            format!(
                "`{shown}` is not a regular expression: {reason}; write it in Rust regex syntax"
            )
        }
    }
}

/// What a header or query parameter that is repeated must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeated {
    /// Every value matches: what a route lets in must be all of what the application may read.
    Every,
    /// Some value matches: nothing is at stake but the way.
    Some,
}

impl Repeated {
    /// Whether values, of which there is at least one, are as they must be.
    fn is_met(self, mut values: impl Iterator<Item = bool>) -> bool {
        match self {
            Self::Some => values.any(|is_match| is_match),
            Self::Every => {
                let mut values = values.peekable();
                values.peek().is_some() && values.all(|is_match| is_match)
            }
        }
    }
}

/// A header a request must have.
#[derive(Debug)]
pub(crate) struct HeaderTest {
    name: HeaderName,
    value: ValueTest,
    repeated: Repeated,
}

impl HeaderTest {
    pub(crate) fn new(
        header: &HeaderMatch,
        repeated: Repeated,
        budget: &mut RegexBudget,
    ) -> Result<Self, String> {
        Ok(Self {
            name: header.name.clone(),
            value: budget.value(&header.value)?,
            repeated,
        })
    }

    /// Whether the header is there and matches.
    pub(crate) fn is_match(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(&self.name).iter();
        self.repeated
            .is_met(values.map(|value| self.value.is_match(value.as_bytes())))
    }
}

/// A query parameter a request must have.
#[derive(Debug)]
pub(crate) struct QueryTest {
    name: Box<str>,
    value: ValueTest,
    repeated: Repeated,
}

impl QueryTest {
    pub(crate) fn new(
        query: &QueryMatch,
        repeated: Repeated,
        budget: &mut RegexBudget,
    ) -> Result<Self, String> {
        Ok(Self {
            name: query.name.as_str().into(),
            value: budget.value(&query.value)?,
            repeated,
        })
    }

    /// Whether the parameter is there and matches.
    pub(crate) fn is_match(&self, query: Option<&str>) -> bool {
        let pairs = query.unwrap_or_default().split('&');
        let pairs = pairs.filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let values = pairs.filter(|(name, _)| decoded(name).as_ref() == self.name.as_bytes());
        self.repeated
            .is_met(values.map(|(_, value)| self.value.is_match(&decoded(value))))
    }
}

/// URL decoding as forms do it: `+` is a space. Source: WHATWG URL, application/x-www-form-urlencoded parsing.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let spaces: Vec<u8> = text
        .bytes()
        .map(|byte| if byte == b'+' { b' ' } else { byte })
        .collect();
    Cow::Owned(percent_decode(&spaces).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn path_regex(pattern: &str) -> Result<Regex, String> {
        RegexBudget::default().path(pattern)
    }

    fn exact(text: &str) -> ValueMatch {
        ValueMatch::Exact(text.into())
    }

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-role", HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn every_value_of_a_repeated_header_must_match_in_either_order() {
        let test = HeaderTest::new(
            &HeaderMatch {
                name: HeaderName::from_static("x-role"),
                value: exact("admin"),
            },
            Repeated::Every,
            &mut RegexBudget::default(),
        )
        .unwrap();
        assert!(test.is_match(&headers(&["admin"])));
        assert!(test.is_match(&headers(&["admin", "admin"])));
        for values in [
            &["admin", "user"][..],
            &["user", "admin"],
            &["admin, user"],
            &["user,admin"],
            &[],
        ] {
            assert!(!test.is_match(&headers(values)), "{values:?}");
        }
    }

    #[test]
    fn header_expressions_span_the_value_and_take_bytes_that_are_not_text() {
        let test = HeaderTest::new(
            &HeaderMatch {
                name: HeaderName::from_static("x-role"),
                value: ValueMatch::Regex("a|bc".into()),
            },
            Repeated::Every,
            &mut RegexBudget::default(),
        )
        .unwrap();
        assert!(test.is_match(&headers(&["bc"])));
        assert!(!test.is_match(&headers(&["ac"])));
        assert!(!test.is_match(&headers(&["a", "x"])));
        let mut raw = HeaderMap::new();
        raw.insert("x-role", HeaderValue::from_bytes(&[0xff, 0xfe]).unwrap());
        assert!(!test.is_match(&raw));
    }

    #[test]
    fn query_parameters_match_after_url_decoding_and_every_value_must() {
        let test = QueryTest::new(
            &QueryMatch {
                name: "a b".into(),
                value: exact("x/y z"),
            },
            Repeated::Every,
            &mut RegexBudget::default(),
        )
        .unwrap();
        assert!(test.is_match(Some("q=1&a+b=x%2Fy%20z")));
        assert!(test.is_match(Some("a%20b=x/y+z&a%20b=x/y+z")));
        assert!(!test.is_match(Some("a+b=x/y+z&a+b=other")));
        assert!(!test.is_match(Some("a+b=other&a+b=x/y+z")));
        assert!(!test.is_match(Some("")));
        assert!(!test.is_match(None));
    }

    #[test]
    fn some_value_is_enough_where_only_the_way_is_at_stake() {
        let header = HeaderMatch {
            name: HeaderName::from_static("x-role"),
            value: exact("admin"),
        };
        let query = QueryMatch {
            name: "a".into(),
            value: exact("1"),
        };
        let budget = &mut RegexBudget::default();
        let header = HeaderTest::new(&header, Repeated::Some, budget).unwrap();
        let query = QueryTest::new(&query, Repeated::Some, budget).unwrap();
        for values in [&["admin"][..], &["admin", "user"], &["user", "admin"]] {
            assert!(header.is_match(&headers(values)), "{values:?}");
        }
        for values in [&[][..], &["user"], &["admin, user"]] {
            assert!(!header.is_match(&headers(values)), "{values:?}");
        }
        assert!(query.is_match(Some("a=2&a=1")));
        assert!(!query.is_match(Some("a=2&b=1")));
        assert!(!query.is_match(None));
    }

    #[test]
    fn expressions_span_the_whole_path_whatever_they_contain() {
        let regex = path_regex("/a|/b").unwrap();
        assert!(regex.is_match("/b"));
        assert!(!regex.is_match("/bc"));
        assert!(!regex.is_match("/xx/b"));
        // A multi-line flag does not reach the anchors outside.
        assert!(!path_regex("(?m)/a$").unwrap().is_match("/a\n/b"));
        for broken in ["a)|(b", "(", "a{99999999}", "(?x)a #", "\\p{Nope}"] {
            assert!(path_regex(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn expressions_that_grow_too_large_are_refused_with_a_reason() {
        let error = path_regex("(?:(?:\\w{100}){100}){10}").unwrap_err();
        assert!(error.contains("when compiled"), "{error}");
        let error = path_regex(&"a".repeat(MAX_REGEX_LENGTH + 1)).unwrap_err();
        assert!(error.contains("4096"), "{error}");
    }

    #[test]
    fn large_expressions_use_up_a_ports_share_sooner_than_small_ones() {
        let fitting = |pattern: &str| {
            let mut budget = RegexBudget::default();
            (0..).take_while(|_| budget.path(pattern).is_ok()).count()
        };
        assert_eq!(fitting("/a/[a-z0-9-]{1,63}"), 1024);
        assert_eq!(fitting("\\w{20}"), 64);
        assert!(check_regex("\\w{20}").is_ok());
    }
}
