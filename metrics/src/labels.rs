//! Label sets. A [`Labels`] is rendered once, to the text a page needs (`a="1",b="2"`), so that a series costs one
//! string however many labels it has, and making a page copies it; sets that begin alike share the beginning. Built by
//! `*/labels.rs` of the proxy.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// Longest label value in bytes. What is longer is cut: a peer chooses some values (SNI, target names).
pub const MAX_VALUE_BYTES: usize = 512;

/// An ordered, immutable set of label names and values. A clone is a reference count.
///
/// What is added to a set that others hold too is kept beside it: the series of one route share the text of the route's
/// labels, and each has but its own.
///
/// Two sets with the same labels in another order are different series; the table in [`crate::describe`] gives the
/// order. Values are escaped when they are added, in every family.
#[derive(Clone, Default)]
pub struct Labels(Option<Arc<Part>>);

/// What a set is made of.
#[derive(Clone, Debug)]
enum Part {
    /// The last labels, rendered, after those of another set.
    Text { head: Labels, tail: Box<str> },
    /// One set after another.
    Join { head: Labels, tail: Labels },
}

impl Labels {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Adds a label at the end. Characters that a label name may not have become `_`; a value is cut after
    /// [`MAX_VALUE_BYTES`]. A name given twice counts once, with the later value.
    #[must_use]
    pub fn with(self, key: impl AsRef<str>, value: impl fmt::Display) -> Self {
        let (head, mut tail) = self.open();
        push_label(&mut tail, key.as_ref(), &value);
        Self::close(head, tail)
    }

    /// Adds a label if there is a value: for labels that are absent rather than empty.
    #[must_use]
    pub fn with_some(self, key: impl AsRef<str>, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds all labels of another set at the end.
    #[must_use]
    pub fn extend(self, other: &Self) -> Self {
        if other.is_empty() {
            return self;
        }
        if self.is_empty() {
            return other.clone();
        }
        Self(Some(Arc::new(Part::Join {
            head: self,
            tail: other.clone(),
        })))
    }

    /// What is shared, and the text that is this set's alone.
    fn open(self) -> (Self, String) {
        match self.0.map(Arc::try_unwrap) {
            None => (Self(None), String::new()),
            Some(Ok(Part::Text { head, tail })) => (head, tail.into_string()),
            Some(Ok(join)) => (Self(Some(Arc::new(join))), String::new()),
            Some(Err(shared)) => (Self(Some(shared)), String::new()),
        }
    }

    fn close(head: Self, tail: String) -> Self {
        let tail = tail.into_boxed_str();
        Self(Some(Arc::new(Part::Text { head, tail })))
    }

    /// The text in pieces, commas between parts included.
    fn pieces(&self) -> impl Iterator<Item = &str> {
        // From the last to the first.
        let (mut texts, mut open) = (Vec::new(), vec![self]);
        while let Some(labels) = open.pop() {
            match labels.0.as_deref() {
                None => {}
                Some(Part::Text { head, tail }) => {
                    texts.push(&**tail);
                    open.push(head);
                }
                Some(Part::Join { head, tail }) => open.extend([head, tail]),
            }
        }
        let first = texts.pop().into_iter();
        first.chain(texts.into_iter().rev().flat_map(|text| [",", text]))
    }

    /// True if there is no label.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The names and (unescaped) values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        self.pieces().flat_map(|piece| Pairs { rest: piece })
    }

    /// The labels as they stand on a page, without braces.
    #[must_use]
    pub fn rendered(&self) -> String {
        self.to_string()
    }

    /// A copy in which the value of each label that `hide` names is `other`.
    pub(crate) fn hiding(&self, hide: impl Fn(&str) -> bool) -> Self {
        self.iter().fold(Self::new(), |labels, (key, value)| {
            if hide(key) {
                labels.with(key, OTHER)
            } else {
                labels.with(key, value)
            }
        })
    }

    /// The same set with each name once (the later value wins): a page with a name twice is refused as a whole.
    pub(crate) fn without_duplicates(self) -> Self {
        let pairs: Vec<(&str, Cow<'_, str>)> = self.iter().collect();
        let repeated =
            |at: usize, key: &str| pairs.iter().skip(at + 1).any(|(later, _)| *later == key);
        if !pairs
            .iter()
            .enumerate()
            .any(|(at, (key, _))| repeated(at, key))
        {
            return self;
        }
        let mut unique = Self::new();
        for (at, (key, value)) in pairs.iter().enumerate() {
            if !repeated(at, key) {
                unique = unique.with(key, value);
            }
        }
        unique
    }
}

/// The value that stands for all values that a family has no room for.
pub(crate) const OTHER: &str = "other";

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces().try_for_each(|piece| f.write_str(piece))
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// By their text, however it is shared.
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        if let (Some(own), Some(other)) = (&self.0, &other.0) {
            if Arc::ptr_eq(own, other) {
                return Ordering::Equal;
            }
            if let (
                Part::Text {
                    head: Self(Some(head)),
                    tail,
                },
                Part::Text {
                    head: Self(Some(others)),
                    tail: more,
                },
            ) = (&**own, &**other)
                && Arc::ptr_eq(head, others)
            {
                return tail.cmp(more);
            }
        }
        compare(self.pieces(), other.pieces())
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Labels {}

/// Compares texts in pieces.
fn compare<'a>(
    mut left: impl Iterator<Item = &'a str>,
    mut right: impl Iterator<Item = &'a str>,
) -> Ordering {
    let (mut own, mut other): (&[u8], &[u8]) = (&[], &[]);
    loop {
        while own.is_empty() {
            match left.next() {
                Some(piece) => own = piece.as_bytes(),
                None => break,
            }
        }
        while other.is_empty() {
            match right.next() {
                Some(piece) => other = piece.as_bytes(),
                None => break,
            }
        }
        let common = own.len().min(other.len());
        if common == 0 {
            return own.len().cmp(&other.len());
        }
        let (Some((head, rest)), Some((others, more))) =
            (own.split_at_checked(common), other.split_at_checked(common))
        else {
            return Ordering::Equal;
        };
        match head.cmp(others) {
            Ordering::Equal => (own, other) = (rest, more),
            differ => return differ,
        }
    }
}

fn push_label(text: &mut String, key: &str, value: &impl fmt::Display) {
    if !text.is_empty() {
        text.push(',');
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if key.chars().next().is_none_or(|c| c.is_ascii_digit()) {
        text.push('_');
    }
    text.extend(key.chars().map(|c| if valid(c) { c } else { '_' }));
    text.push_str("=\"");
    let mut escaped = Escaped { text, written: 0 };
    // A `Display` that fails leaves what it wrote so far; the closing quote keeps the page well formed.
    let _ = write!(escaped, "{value}");
    text.push('"');
}

/// Writes a label value with `\`, `"` and line feeds escaped, up to the longest value allowed.
struct Escaped<'a> {
    text: &'a mut String,
    written: usize,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            self.written += c.len_utf8();
            if self.written > MAX_VALUE_BYTES {
                return Err(fmt::Error);
            }
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
        Ok(())
    }
}

/// Takes rendered labels apart again.
struct Pairs<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = self.rest.split_once("=\"")?;
        let mut escape = false;
        let end = rest.find(|c| {
            let closing = c == '"' && !escape;
            escape = c == '\\' && !escape;
            closing
        })?;
        let (value, rest) = rest.split_at_checked(end)?;
        self.rest = rest.strip_prefix('"').unwrap_or_default();
        self.rest = self.rest.strip_prefix(',').unwrap_or(self.rest);
        Some((key, unescape(value)))
    }
}

fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some(c) => plain.push(c),
                None => {}
            },
            c => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests;
