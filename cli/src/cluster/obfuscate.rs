//! A page of metrics without names of what is in a cluster, for who asks others for help. The same name is the same hash, so
//! that series can still be told apart and joined.

use aws_lc_rs::digest;
use std::fmt::Write as _;

/// Labels whose values are names of what is in a cluster, or its addresses.
const LABELS: [&str; 17] = [
    "authority",
    "backend_name",
    "backend_namespace",
    "client_id",
    "dst",
    "dst_namespace",
    "dst_service",
    "hostname",
    "logical",
    "parent_name",
    "parent_namespace",
    "route_name",
    "route_namespace",
    "server_id",
    "srv_name",
    "srv_namespace",
    "target_addr",
];

/// The page, with hashes in place of names.
pub(super) fn page(page: String) -> String {
    let mut all = String::with_capacity(page.len());
    for line in page.split_inclusive('\n') {
        match line.split_once('{') {
            Some((name, rest)) if !line.starts_with('#') => {
                all.push_str(name);
                all.push('{');
                labels(rest, &mut all);
            }
            _ => all.push_str(line),
        }
    }
    all
}

/// What is behind `{` of a line: labels, then the rest as it is.
fn labels(mut rest: &str, all: &mut String) {
    while let Some((name, after)) = rest.split_once("=\"") {
        // A `}` ends the labels; what follows may have `="` in an exemplar.
        if name.contains('}') {
            break;
        }
        let Some((value, behind)) = value(after) else {
            break;
        };
        let _ = write!(all, "{name}=\"");
        if LABELS.contains(&name.trim_start_matches([',', ' '])) && !value.is_empty() {
            hash(value, all);
        } else {
            all.push_str(value);
        }
        all.push('"');
        rest = behind;
    }
    all.push_str(rest);
}

/// What is before the `"` that ends a value, and what is behind it.
fn value(text: &str) -> Option<(&str, &str)> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return Some((text.get(..at)?, text.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

/// The first half of a SHA-256, hexadecimal: enough to tell names apart.
fn hash(value: &str, all: &mut String) {
    let digest = digest::digest(&digest::SHA256, value.as_bytes());
    for byte in digest.as_ref().iter().take(8) {
        let _ = write!(all, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hashes_and_everything_else_is_as_it_was() {
        let seen = page(
            "# HELP a {authority=\"x\"}\n\
             a{direction=\"in\",authority=\"web.shop\",client_id=\"\",srv_name=\"q\\\"}uote\"} 1\n\
             b{dst_service=\"web.shop\", dst=\"web.shop\"} 2 # {trace=\"authority=\"} 1\n\
             c 3\n"
                .to_owned(),
        );
        let mut web = String::new();
        hash("web.shop", &mut web);
        let mut quote = String::new();
        hash("q\\\"}uote", &mut quote);
        assert_eq!(
            seen,
            format!(
                "# HELP a {{authority=\"x\"}}\n\
                 a{{direction=\"in\",authority=\"{web}\",client_id=\"\",srv_name=\"{quote}\"}} 1\n\
                 b{{dst_service=\"{web}\", dst=\"{web}\"}} 2 # {{trace=\"authority=\"}} 1\n\
                 c 3\n"
            )
        );
        assert_eq!(web.len(), 16);
    }

    #[test]
    fn a_page_that_is_none_stays_as_it_is() {
        for text in ["", "{", "a{", "a{b=\"c", "a{authority=\"\\", "a} b=\"c\""] {
            assert_eq!(page(text.to_owned()), text);
        }
    }
}
