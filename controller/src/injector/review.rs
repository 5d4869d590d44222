//! `admission.k8s.io` AdmissionReview, `v1` and `v1beta1`: what is asked, and the answer.

use crate::inject::{Annotations, Operation};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

/// The API server cuts what is longer.
const MAX_WARNINGS: usize = 8;

/// What is asked about.
pub(super) struct Asked<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) object: &'a Value,
}

impl Asked<'_> {
    pub(super) fn annotations(&self) -> Annotations {
        let map = self.object.pointer("/metadata/annotations");
        let map = map.and_then(Value::as_object).into_iter().flatten();
        map.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    }

    /// Its name, or the beginning of the one that it will have.
    pub(super) fn name(&self) -> &str {
        let of = |pointer| self.object.pointer(pointer).and_then(Value::as_str);
        let name = of("/metadata/name").or_else(|| of("/metadata/generateName"));
        name.unwrap_or_default()
    }
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) patch: Vec<Operation>,
    pub(super) warnings: Vec<String>,
}

/// The question of a review; `None` if there is none.
pub(super) fn asked(review: &Value) -> Option<Asked<'_>> {
    let text = |pointer| review.pointer(pointer).and_then(Value::as_str);
    let object = review.pointer("/request/object")?;
    Some(Asked {
        kind: text("/request/kind/kind")?,
        namespace: text("/request/namespace").unwrap_or_default(),
        object: object.is_object().then_some(object)?,
    })
}

/// The review's answer, in its own version.
pub(super) fn answered(review: &Value, answer: Result<Answer, String>) -> Value {
    let uid = review.pointer("/request/uid").cloned().unwrap_or_default();
    let version = review.get("apiVersion").and_then(Value::as_str);
    let mut response = Map::new();
    let mut put = |key: &str, value: Value| response.insert(key.to_owned(), value);
    put("uid", uid);
    put("allowed", answer.is_ok().into());
    match answer {
        Ok(Answer { patch, warnings }) => {
            if !patch.is_empty() {
                let patch = serde_json::to_vec(&patch).unwrap_or_default();
                put("patch", STANDARD.encode(patch).into());
                put("patchType", "JSONPatch".into());
            }
            if !warnings.is_empty() {
                let warnings = warnings.into_iter().take(MAX_WARNINGS);
                put("warnings", warnings.collect());
            }
        }
        Err(message) => {
            let status = json!({"code": 500, "message": message, "reason": "InternalError"});
            put("status", status);
        }
    }
    json!({
        "apiVersion": version.unwrap_or("admission.k8s.io/v1"),
        "kind": "AdmissionReview",
        "response": response,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_are_answered_in_their_own_version() {
        for version in ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"] {
            let review = json!({
                "apiVersion": version, "kind": "AdmissionReview",
                "request": {"uid": "7", "kind": {"kind": "Pod"}, "namespace": "shop", "object": {"spec": {}}},
            });
            assert_eq!(asked(&review).unwrap().namespace, "shop");
            let answer = Answer {
                patch: vec![Operation {
                    op: "add",
                    path: "/a".into(),
                    value: json!(1),
                }],
                warnings: vec!["careful".into(); 20],
            };
            let answer = answered(&review, Ok(answer));
            assert_eq!(answer["apiVersion"], version);
            let response = &answer["response"];
            assert_eq!(
                (&response["uid"], &response["allowed"]),
                (&json!("7"), &json!(true))
            );
            let patch = STANDARD
                .decode(response["patch"].as_str().unwrap())
                .unwrap();
            let patch: Value = serde_json::from_slice(&patch).unwrap();
            assert_eq!(patch, json!([{"op": "add", "path": "/a", "value": 1}]));
            assert_eq!(response["warnings"].as_array().unwrap().len(), MAX_WARNINGS);
            let refused = answered(&review, Err("why".into()));
            assert_eq!(refused["response"]["allowed"], false);
            assert_eq!(refused["response"]["status"]["message"], "why");
        }
    }

    #[test]
    fn what_is_no_review_is_no_question() {
        for review in [
            json!(null),
            json!({"request": {}}),
            json!({"request": {"kind": {"kind": "Pod"}, "object": 7}}),
        ] {
            assert!(asked(&review).is_none(), "{review}");
        }
    }
}
