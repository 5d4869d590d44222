//! Words of the mesh that are labels and count only as annotations, or the other way: they look right and have no effect.

use super::{Check, Found};
use crate::cluster::workload::text;
use serde_json::Value;

/// Annotations begin with these.
const ANNOTATIONS: [&str; 4] = [
    "config.linkerd.io/",
    "config.alpha.linkerd.io/",
    "config.beta.linkerd.io/",
    "linkerd.io/inject",
];
/// Labels of Services begin with these.
const LABELS: [&str; 1] = ["mirror.linkerd.io/exported"];

/// Of Pods and Services.
pub(super) fn checks<'a>(pods: impl Iterator<Item = &'a Value>, services: &[Value]) -> [Check; 3] {
    let check = |what: &str, wrong: &[String], kind: &str, is: &str| {
        let hint = match kind {
            "Pod" => format!(
                "move it from {is} to the other in the Pods' template; linkerd inject writes annotations"
            ),
            _ => format!("kubectl {is} service NAME KEY-, and the other with KEY=VALUE"),
        };
        Check::new(
            what,
            Found::if_none(wrong, |text| Found::warning(text, hint)),
        )
    };
    let services = || services.iter();
    [
        check(
            "data plane pod labels are configured correctly",
            &wrong(pods, "labels", &ANNOTATIONS),
            "Pod",
            "labels",
        ),
        check(
            "data plane service labels are configured correctly",
            &wrong(services(), "labels", &ANNOTATIONS),
            "Service",
            "label",
        ),
        check(
            "data plane service annotations are configured correctly",
            &wrong(services(), "annotations", &LABELS),
            "Service",
            "annotate",
        ),
    ]
}

/// Objects that have words among their `labels` or `annotations` that begin so.
fn wrong<'a>(objects: impl Iterator<Item = &'a Value>, place: &str, words: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for object in objects {
        let found = object.pointer(&format!("/metadata/{place}"));
        let keys = found.and_then(Value::as_object).into_iter().flatten();
        for (key, _) in keys.filter(|(key, _)| words.iter().any(|word| key.starts_with(word))) {
            let other = if place == "labels" {
                "an annotation"
            } else {
                "a label"
            };
            all.push(format!(
                "{}/{}: {key} is among its {place}, and counts as {other} only",
                text(object, "/metadata/namespace"),
                text(object, "/metadata/name")
            ));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::slice;

    #[test]
    fn words_in_the_wrong_place_are_named_with_their_object() {
        let object = |metadata: Value| {
            let mut object = json!({"metadata": {"name": "web", "namespace": "shop"}});
            let fields = object["metadata"].as_object_mut().unwrap();
            fields.extend(metadata.as_object().unwrap().clone());
            object
        };
        let right = object(json!({
            "labels": {"app": "web", "mirror.linkerd.io/exported": "true", "linkerd.io/proxy-deployment": "web"},
            "annotations": {"linkerd.io/inject": "enabled", "config.linkerd.io/opaque-ports": "1"},
        }));
        let misplaced = object(json!({
            "labels": {"linkerd.io/inject": "enabled", "config.linkerd.io/opaque-ports": "1"},
            "annotations": {"mirror.linkerd.io/exported": "true"},
        }));
        let count = |check: &Check| match &check.found {
            Found::Good => 0,
            Found::Warning(problem) => problem.what.lines().count(),
            Found::Error { .. } => usize::MAX,
        };
        let found = checks([&right].into_iter(), slice::from_ref(&right));
        assert_eq!(found.each_ref().map(count), [0, 0, 0]);
        let found = checks([&misplaced].into_iter(), slice::from_ref(&misplaced));
        assert_eq!(found.each_ref().map(count), [2, 2, 1]);
        let Found::Warning(problem) = &found[2].found else {
            unreachable!()
        };
        assert_eq!(
            problem.what,
            "shop/web: mirror.linkerd.io/exported is among its annotations, and counts as a label only"
        );
    }
}
