//! A small reader of text pages, written from the format's description and not from the writer.

use std::collections::BTreeMap;

/// Labels in the order of the page.
type LabelList = Vec<(String, String)>;

#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) samples: BTreeMap<(String, LabelList), f64>,
}

/// Reads a page; panics on a line that neither format allows, and on a series that stands twice.
pub(super) fn read(text: &str) -> Page {
    let mut page = Page::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut rest = line;
        let name = take(&mut rest, |c| c.is_ascii_alphanumeric() || c == '_');
        let labels = match rest.strip_prefix('{') {
            Some(after) => {
                rest = after;
                labels(&mut rest)
            }
            None => Vec::new(),
        };
        let value = rest
            .strip_prefix(' ')
            .unwrap_or_else(|| panic!("no value in {line:?}"));
        let value = value
            .parse()
            .unwrap_or_else(|_| panic!("bad value in {line:?}"));
        let twice = page.samples.insert((name, labels), value);
        assert_eq!(twice, None, "{line:?} stands twice");
    }
    page
}

fn take(rest: &mut &str, of: impl Fn(char) -> bool) -> String {
    let end = rest.find(|c| !of(c)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    assert!(!taken.is_empty(), "a name is missing at {rest:?}");
    *rest = left;
    taken.to_owned()
}

fn labels(rest: &mut &str) -> LabelList {
    let mut labels = Vec::new();
    loop {
        let name = take(rest, |c| c.is_ascii_alphanumeric() || c == '_');
        *rest = rest
            .strip_prefix("=\"")
            .unwrap_or_else(|| panic!("no value at {rest:?}"));
        let mut value = String::new();
        let mut chars = rest.chars();
        loop {
            match chars
                .next()
                .unwrap_or_else(|| panic!("no end of a value in {rest:?}"))
            {
                '"' => break,
                '\\' => value.push(match chars.next() {
                    Some('n') => '\n',
                    Some(c @ ('"' | '\\')) => c,
                    other => panic!("bad escape {other:?}"),
                }),
                c => value.push(c),
            }
        }
        *rest = chars.as_str();
        labels.push((name, value));
        if let Some(left) = rest.strip_prefix('}') {
            *rest = left;
            return labels;
        }
        *rest = rest
            .strip_prefix(',')
            .unwrap_or_else(|| panic!("no comma at {rest:?}"));
    }
}

impl Page {
    /// Buckets must not fall as bounds rise, and the last must be the count.
    pub(super) fn check_histograms(&self) {
        let mut histograms: BTreeMap<(String, LabelList), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &self.samples {
            if let Some(name) = name.strip_suffix("_bucket") {
                let mut labels = labels.clone();
                let (key, bound) = labels.pop().unwrap();
                assert_eq!(key, "le");
                let key = (name.to_owned(), labels);
                histograms
                    .entry(key)
                    .or_default()
                    .push((bound.parse().unwrap(), *value));
            }
        }
        for ((name, labels), mut buckets) in histograms {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(
                buckets.is_sorted_by(|a, b| a.1 <= b.1),
                "{name}: {buckets:?}"
            );
            let (bound, last) = *buckets.last().unwrap();
            assert_eq!(bound, f64::INFINITY);
            assert_eq!(last, self.samples[&(format!("{name}_count"), labels)]);
        }
    }
}
