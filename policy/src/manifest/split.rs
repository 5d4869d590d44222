//! Splits a text into YAML documents by its `---` lines, so that a syntax error in one leaves the others readable.

/// A document of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    /// Its text, without the `---` line where nothing follows on it.
    pub(super) text: &'a str,
    /// Line it starts on, from 1.
    pub(super) line: usize,
}

/// The documents of a text that are not empty. A line that starts with `---` or `...` in the first column can be
/// nothing else in YAML, not even inside a block scalar.
pub(super) fn documents(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = Some((text, 1));
    std::iter::from_fn(move || {
        let (text, line) = rest.take()?;
        let (chunk, lines, after) = take(text);
        rest = after.map(|after| (after, line + lines));
        Some(Chunk { text: chunk, line })
    })
    .filter(|chunk| !is_blank(chunk.text))
}

/// The first document, how many lines it takes with its end marker, and what is left.
fn take(text: &str) -> (&str, usize, Option<&str>) {
    let mut at = 0;
    let mut lines = 0;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        let marker = bare
            .strip_prefix("---")
            .or_else(|| bare.strip_prefix("..."));
        if let Some(tail) = marker.filter(|t| t.is_empty() || t.starts_with([' ', '\t'])) {
            let before = text.get(..at).unwrap_or_default();
            // `--- {kind: ...}`: content may start on the marker's line.
            let tail = tail.trim_start();
            let content = if tail.is_empty() || tail.starts_with('#') {
                at + line.len()
            } else {
                at + 3
            };
            let skipped = usize::from(content == at + line.len());
            return (before, lines + skipped, text.get(content..));
        }
        at += line.len();
        lines += 1;
    }
    (text, lines, None)
}

/// What a document that cannot be read seems to be about: kind, and name and namespace of its metadata, where they
/// stand on lines of their own as people write them. Only for saying so.
pub(super) fn head(text: &str) -> serde_json::Value {
    let mut head = serde_json::Map::new();
    let mut indent = None;
    for line in text.lines().take(64) {
        let bare = line.trim_start();
        let depth = line.len() - bare.len();
        let Some((field, value)) = bare.split_once(':') else {
            continue;
        };
        let value = value.split(" #").next().unwrap_or_default();
        let value = value.trim().trim_matches(['"', '\'']);
        if depth == 0 {
            indent = (field == "metadata").then_some(0);
            if field == "kind" && !value.is_empty() {
                head.insert("kind".to_owned(), value.into());
            }
            continue;
        }
        // The first line below `metadata:` says how far its fields are indented.
        if indent == Some(0) {
            indent = Some(depth);
        }
        if indent == Some(depth) && matches!(field, "name" | "namespace") && !value.is_empty() {
            head.insert(field.to_owned(), value.into());
        }
    }
    head.into()
}

/// Whether nothing but comments and directives is there.
fn is_blank(text: &str) -> bool {
    text.lines()
        .map(str::trim_start)
        .all(|line| line.is_empty() || line.starts_with('#') || line.starts_with("%YAML"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(usize, &str)> {
        documents(text).map(|c| (c.line, c.text)).collect()
    }

    #[test]
    fn a_document_that_cannot_be_read_still_says_what_it_is_about() {
        let text = "kind: Server # x\nmetadata:\n  name: \"web\"\n  labels:\n    name: no\n  namespace: shop\nspec:\n  name: no\n  a: [";
        let expected = serde_json::json!({"kind": "Server", "name": "web", "namespace": "shop"});
        assert_eq!(head(text), expected);
        assert_eq!(head("- a\n: b\n  name: c"), serde_json::json!({}));
    }

    #[test]
    fn documents_are_split_at_marker_lines_only() {
        assert_eq!(
            split("# head\n---\na: 1\n---\n\n--- # third\nb: |\n  ---\n  x\n...\n"),
            [(3, "a: 1\n"), (7, "b: |\n  ---\n  x\n")]
        );
        assert_eq!(split("a: 1"), [(1, "a: 1")]);
        assert_eq!(
            split("--- {a: 1}\n---\r\nb: 2"),
            [(1, " {a: 1}\n"), (3, "b: 2")]
        );
        assert_eq!(split(""), []);
        assert_eq!(split("----\n"), [(1, "----\n")]);
    }
}
