//! Turns what the deserializer says into what a person needs: the field, the value, the fix.

use super::Problem;

/// What serde says at a path, as a problem of the field below `prefix`.
pub(super) fn problem(prefix: &str, path: &str, message: &str) -> Problem {
    let mut field = join(prefix, path);
    let quoted = backquoted(message);
    let first = quoted.first().copied().unwrap_or_default();
    let known = quoted.get(1..).unwrap_or_default();
    let reason = if message.starts_with("unknown field ") {
        if last_name(&field) != first {
            field = join(&field, first);
        }
        unknown("field", first, known)
    } else if message.starts_with("unknown variant ") {
        unknown("value", first, known)
    } else if message.starts_with("missing field ") {
        field = join(&field, first);
        "is required; add it".to_owned()
    } else if message.ends_with("expected a string") {
        format!("{message}; put the value in quotes")
    } else {
        message.to_owned()
    };
    Problem::new(field, reason)
}

/// `a` and `b[0]` to `a.b[0]`.
pub(super) fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        (prefix, "" | ".") => prefix.to_owned(),
        ("", path) => path.to_owned(),
        (prefix, path) if path.starts_with('[') => format!("{prefix}{path}"),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}

fn last_name(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}

fn backquoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// The text for something that is not one of `known`.
pub(super) fn unknown(what: &str, got: &str, known: &[&str]) -> String {
    let got_short = crate::resource::values::short(got);
    match nearest(got, known) {
        Some(near) => format!("{what} `{got_short}` is not known; did you mean `{near}`?"),
        None if known.is_empty() => format!("{what} `{got_short}` is not known; remove it"),
        None => format!(
            "{what} `{got_short}` is not known; known are {}",
            known.join(", ")
        ),
    }
}

/// The candidate that is a typing error away from `got`, if there is one.
pub(crate) fn nearest<'a>(got: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let got = got.to_ascii_lowercase();
    if got.len() > 64 {
        return None;
    }
    candidates
        .iter()
        .map(|c| (distance(&got, &c.to_ascii_lowercase()), *c))
        .filter(|&(d, c)| d <= 1 + c.len() / 5)
        .min_by_key(|&(d, _)| d)
        .map(|(_, c)| c)
}

/// Edits between two short words; two letters that changed places count as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<u8>, Vec<u8>) = (a.bytes().collect(), b.bytes().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let cost = |cell: Option<&usize>, more: usize| cell.map_or(usize::MAX, |c| c + more);
            let mut best = cost(row.get(j), usize::from(x != y))
                .min(cost(row.get(j + 1), 1))
                .min(cost(next.get(j), 1));
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(&y) && b.get(j - 1) == Some(&x);
            if swapped {
                best = best.min(cost(before.get(j - 1), 1));
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_gets_the_word_that_was_meant() {
        let known = ["podSelector", "port", "proxyProtocol", "accessPolicy"];
        for (got, meant) in [
            ("podselector", Some("podSelector")),
            ("prot", Some("port")),
            ("proxyProtcol", Some("proxyProtocol")),
            ("acessPolicy", Some("accessPolicy")),
            ("replicas", None),
        ] {
            assert_eq!(nearest(got, &known), meant, "{got}");
        }
    }

    #[test]
    fn paths_are_joined_as_people_write_them() {
        assert_eq!(join("spec", "rules[0].path"), "spec.rules[0].path");
        assert_eq!(join("spec.rules", "[0]"), "spec.rules[0]");
        assert_eq!(join("spec", "."), "spec");
    }
}
