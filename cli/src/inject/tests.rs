use super::*;
use linkerd_controller::inject::Values;

fn asking() -> Change {
    Change::Inject {
        annotations: BTreeMap::from([("linkerd.io/inject", "enabled".to_owned())]),
        sidecar: None,
    }
}

fn by_hand() -> Change {
    Change::Inject {
        annotations: BTreeMap::from([("linkerd.io/inject", "enabled".to_owned())]),
        sidecar: Some(Box::new(object::Sidecar {
            mesh: object::mesh("linkerd", true),
            values: Values::default(),
        })),
    }
}

/// A stream's text and report.
fn done(text: &str, change: &Change) -> (String, String) {
    let (mut output, mut report) = (String::new(), Vec::new());
    for document in input::documents(text) {
        match document {
            Document::Between(line) => output.push_str(line),
            Document::Text(body) => {
                let (text, did) = changed(body, change).unwrap();
                output.push_str(&text);
                report.extend(did);
            }
        }
    }
    (output, told(&report))
}

/// What a person wrote, with all that a machine would not.
const WEB: &str = r#"# The shop's front.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web   # the name
  labels: {app: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels:
        app: "web"
    spec:
      # one is enough
      containers:
      - name: web
        image: 'web:1'
        args: ["--say", "hello: world"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ports: [{port: 80}]
"#;

#[test]
fn asking_for_a_sidecar_adds_lines_and_changes_no_other() {
    let (text, report) = done(WEB, &asking());
    let added = "      annotations:\n        linkerd.io/inject: enabled\n";
    assert_eq!(text.replace(added, ""), WEB);
    assert_eq!(text.len(), WEB.len() + added.len());
    assert_eq!(
        report,
        "\ndeployment \"web\" injected\nservice \"web\" skipped\n\n"
    );
}

#[test]
fn taking_it_back_gives_the_text_as_it_was() {
    for original in [
        WEB,
        // Without metadata; with annotations; in other orders and indentations; as an item of a List; with CRLF.
        "kind: Deployment\nmetadata:\n  name: a\nspec:\n  template:\n    spec:\n      containers:\n      - name: a\n",
        "kind: Deployment\nspec:\n    template:\n        metadata:\n            annotations:\n                a: b # why\n            labels:\n                c: d\n        spec:\n            containers:\n            -   name: a\nmetadata:\n    name: a\n",
        "apiVersion: v1\nkind: List\nitems:\n- kind: Deployment\n  metadata:\n    name: a\n  spec:\n    template:\n      spec:\n        containers:\n        - name: a\n# between\n- kind: Pod\n  metadata:\n    name: b\n  spec:\n    containers: [{name: b}]\n",
        "kind: Pod\r\nmetadata:\r\n  name: a\r\nspec:\r\n  containers:\r\n  - name: a\r\n",
        "kind: CronJob\nmetadata: {name: a}\nspec:\n  jobTemplate:\n    spec:\n      template:\n        spec:\n          containers:\n          - name: a\n            command:\n            - sh\n            - -c\n            - |\n              metadata:\n              # no comment\n              echo annotations\n",
        "kind: Namespace\nmetadata:\n  name: shop\n",
        "--- # first\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  x: |\n    kind: Deployment\n",
    ] {
        let (with, report) = done(original, &asking());
        assert_eq!(with == original, !report.contains("injected"), "{report}");
        let (back, _) = done(&with, &Change::Uninject);
        assert_eq!(back, original, "through\n{with}");
        let (again, _) = done(&with, &asking());
        assert_eq!(again, with);
    }
}

#[test]
fn what_cannot_be_edited_is_written_anew_and_says_the_same() {
    for original in [
        "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: a}]}}\n",
        "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n",
        "{\"kind\": \"Pod\", \"spec\": {\"containers\": [{\"name\": \"a\"}]}, \"metadata\": {\"name\": \"a\"}}",
    ] {
        let (with, _) = done(original, &asking());
        let value: serde_json::Value = serde_norway::from_str(&with).unwrap();
        assert_eq!(
            value["metadata"]["annotations"]["linkerd.io/inject"], "enabled",
            "{with}"
        );
        let (back, _) = done(&with, &Change::Uninject);
        let (back, original): (serde_json::Value, serde_json::Value) = (
            serde_norway::from_str(&back).unwrap(),
            serde_norway::from_str(original).unwrap(),
        );
        assert_eq!(back, original);
    }
    // JSON stays JSON, in its order.
    let (json, _) = done(
        "{\"spec\": {\"containers\": [{\"name\": \"a\"}]}, \"kind\": \"Pod\"}",
        &asking(),
    );
    assert!(json.starts_with("{\n  \"spec\""), "{json}");
}

#[test]
fn a_sidecar_written_by_hand_can_be_taken_out_again() {
    let (with, report) = done(WEB, &by_hand());
    assert!(report.contains("deployment \"web\" injected"), "{report}");
    let first = input::documents(&with);
    let Some(Document::Text(deployment)) = first.first() else {
        panic!("a document");
    };
    let value: serde_json::Value = serde_norway::from_str(deployment).unwrap();
    let template = &value["spec"]["template"];
    assert_eq!(
        template["spec"]["initContainers"][1]["name"],
        "linkerd-proxy"
    );
    assert_eq!(
        template["metadata"]["labels"]["linkerd.io/proxy-deployment"],
        "web"
    );
    // A second time is once.
    let (again, report) = done(&with, &by_hand());
    assert_eq!(again, with);
    assert!(
        report.contains("skipped") && report.contains("a sidecar already"),
        "{report}"
    );
    let (back, report) = done(&with, &Change::Uninject);
    assert!(report.contains("deployment \"web\" uninjected"), "{report}");
    let read = |text: &str| {
        let documents = input::documents(text);
        let texts = documents.iter().filter_map(|document| match document {
            Document::Text(text) => serde_norway::from_str::<serde_json::Value>(text).ok(),
            Document::Between(_) => None,
        });
        texts.collect::<Vec<_>>()
    };
    assert_eq!(read(&back), read(WEB));
}

#[test]
fn what_is_skipped_is_said_with_the_reason() {
    let text = "kind: Pod\nmetadata:\n  name: a\nspec:\n  hostNetwork: true\n  containers:\n  - name: a\n---\nkind: Pod\nmetadata:\n  \
                name: b\n  annotations:\n    linkerd.io/inject: disabled\nspec:\n  containers:\n  - name: b\n---\nmetadata:\n  name: c\n";
    let (output, report) = done(text, &asking());
    assert_eq!(output, text);
    for line in [
        "pod \"a\" skipped\n",
        "pod \"b\" skipped\n",
        "document \"c\" skipped\n",
        "‼ hostNetwork is true: the sidecar would take the traffic of the whole node: pod/a\n",
        "‼ the Pod has the annotation linkerd.io/inject: disabled: pod/b\n",
    ] {
        assert!(report.contains(line), "{report}");
    }
    // Saying no stays.
    assert_eq!(done(text, &Change::Uninject).0, text);
}

#[test]
fn a_services_opaque_ports_are_an_annotation() {
    let change = Change::Inject {
        annotations: BTreeMap::from([("config.linkerd.io/opaque-ports", "3306,4444".to_owned())]),
        sidecar: None,
    };
    let text = "kind: Service\nmetadata:\n  name: db\nspec:\n  ports:\n  - port: 3306\n";
    let (output, report) = done(text, &change);
    let added = "  annotations:\n    config.linkerd.io/opaque-ports: \"3306,4444\"\n";
    assert_eq!(output, text.replace("spec:", &format!("{added}spec:")));
    assert_eq!(report, "\nservice \"db\" annotated\n\n");
}

mod any {
    use super::*;
    use proptest::prelude::*;

    /// A Deployment as somebody may have written it.
    fn manifest() -> impl Strategy<Value = String> {
        let comment = prop_oneof![Just(""), Just("# c\n"), Just("\n")];
        (2_usize..5, any::<bool>(), any::<bool>(), any::<bool>(), comment).prop_map(
            |(step, has_metadata, has_annotations, is_behind, comment)| {
                let indent = |depth: usize| " ".repeat(step * depth);
                let mut metadata = String::new();
                if has_metadata {
                    metadata = format!("{}metadata:\n{}labels:\n{comment}{}app: web\n", indent(2), indent(3), indent(4));
                    if has_annotations {
                        metadata += &format!("{}annotations:\n{}a: 'b'\n", indent(3), indent(4));
                    }
                }
                let spec = format!(
                    "{}spec:\n{comment}{}containers:\n{}- name: web\n", indent(2), indent(3), indent(3)
                );
                let template = if is_behind { format!("{spec}{metadata}") } else { format!("{metadata}{spec}") };
                format!("kind: Deployment\n{comment}metadata:\n{}name: web\nspec:\n{}template:\n{comment}{template}", indent(1), indent(1))
            },
        )
    }

    proptest! {
        #[test]
        fn inject_and_uninject_are_each_others_inverse(text in manifest()) {
            let (with, _) = done(&text, &asking());
            prop_assert!(with.contains("linkerd.io/inject: enabled"));
            prop_assert_eq!(done(&with, &Change::Uninject).0, text);
        }
    }
}
