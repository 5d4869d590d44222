//! Label selectors, as Server, ServerAuthorization and Service use them.

use super::{StringMap, values};
use serde::Deserialize;

/// All requirements must hold; none of them = everything is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels with exactly these values.
    #[serde(default, deserialize_with = "values::or_default")]
    pub match_labels: StringMap,
    /// Further requirements.
    #[serde(default, deserialize_with = "values::or_default")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// Label.
    pub key: String,
    /// Relation of its value to `values`.
    pub operator: Operator,
    /// Values of `In` and `NotIn`.
    #[serde(default, deserialize_with = "values::or_default")]
    pub values: Vec<String>,
}

/// How a requirement relates a label to its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Operator {
    /// Present, with one of the values.
    In,
    /// Absent, or with none of the values.
    NotIn,
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &StringMap) -> bool {
        let equal = self
            .match_labels
            .iter()
            .all(|(k, v)| labels.get(k) == Some(v));
        equal
            && self.match_expressions.iter().all(|e| {
                let value = labels.get(&e.key);
                match e.operator {
                    Operator::In => value.is_some_and(|v| e.values.contains(v)),
                    Operator::NotIn => value.is_none_or(|v| !e.values.contains(v)),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> StringMap {
        pairs.iter().map(|&(k, v)| (k.into(), v.into())).collect()
    }

    fn requirement(key: &str, operator: Operator, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_labels: StringMap::new(),
            match_expressions: vec![Requirement {
                key: key.into(),
                operator,
                values: values.iter().map(|&v| v.into()).collect(),
            }],
        }
    }

    #[test]
    fn each_operator_selects_as_kubernetes_does() {
        let a = labels(&[("app", "a")]);
        let none = labels(&[]);
        for (selector, selects_a, selects_none) in [
            (LabelSelector::default(), true, true),
            (requirement("app", Operator::In, &["a", "b"]), true, false),
            (requirement("app", Operator::In, &["b"]), false, false),
            (requirement("app", Operator::NotIn, &["a"]), false, true),
            (requirement("app", Operator::NotIn, &["b"]), true, true),
            (requirement("app", Operator::Exists, &[]), true, false),
            (requirement("app", Operator::DoesNotExist, &[]), false, true),
        ] {
            assert_eq!(selector.matches(&a), selects_a, "{selector:?}");
            assert_eq!(selector.matches(&none), selects_none, "{selector:?}");
        }
    }
}
