//! `linkerd install` and `upgrade` without a cluster; with one: `tests/tests/kubernetes/helm.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends there"
)]

use linkerd_controller::kubernetes::access::of_injector;
use serde::Deserialize as _;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

fn linkerd(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_linkerd"))
        // There is no cluster that could be asked.
        .env("KUBECONFIG", "/nonexistent")
        .args(words)
        .output()
        .unwrap()
}

#[track_caller]
fn printed(words: &[&str]) -> String {
    let output = linkerd(words);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(words: &[&str], code: i32) -> String {
    let output = linkerd(words);
    assert_eq!(output.status.code(), Some(code), "{words:?}");
    assert!(output.stdout.is_empty(), "nothing that could be applied");
    String::from_utf8(output.stderr).unwrap()
}

fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_norway::Deserializer::from_str(yaml);
    documents
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut all = objects.iter();
    all.find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap()
}

/// A directory with a CA.
fn ca(state: &Path) -> [String; 3] {
    let made = linkerd(&[
        "identity",
        "create-ca",
        "--state-dir",
        state.to_str().unwrap(),
    ]);
    assert!(made.status.success());
    ["ca.crt", "issuer.crt", "issuer.key"].map(|file| state.join(file).display().to_string())
}

#[test]
fn an_issuer_of_your_own_is_in_the_manifests_if_it_leads_to_the_anchors() {
    let folder = tempfile::tempdir().unwrap();
    let [anchors, certificate, key] = ca(&folder.path().join("one"));
    let [others, ..] = ca(&folder.path().join("two"));
    let words = |anchors| {
        let mut words = vec![
            "install",
            "--ignore-cluster",
            "--identity-trust-anchors-file",
            anchors,
        ];
        words.extend(["--identity-issuer-certificate-file", certificate.as_str()]);
        words.extend(["--identity-issuer-key-file", key.as_str()]);
        words
    };
    let objects = objects(&printed(&words(&anchors)));
    let issuer = find(&objects, "Secret", "linkerd-identity-issuer");
    assert!(issuer["data"]["key.pem"].is_string());
    let roots = find(&objects, "ConfigMap", "linkerd-identity-trust-roots");
    assert_eq!(
        roots["data"]["ca-bundle.crt"],
        fs::read_to_string(&anchors).unwrap().trim()
    );
    let config = find(&objects, "ConfigMap", "linkerd-config").to_string();
    assert!(!config.contains("PRIVATE KEY"), "keys are in Secrets only");

    let text = refused(&words(&others), 1);
    assert!(
        text.contains("the issuer (identity.issuer.tls) cannot be used"),
        "{text}"
    );
    let set = "identityTrustAnchorsPEM=x";
    let text = refused(&["install", "--ignore-cluster", "--set", set], 2);
    assert!(
        text.contains("--set-file identity.issuer.tls.crtPEM=issuer.crt"),
        "{text}"
    );
}

#[test]
fn what_is_asked_for_wrongly_is_said_and_nothing_is_printed() {
    for (words, expected) in [
        (
            ["--set", "proxy.logLevl=debug"],
            "proxy.logLevl is not known; is logLevel meant?",
        ),
        (
            ["--set", "controllerReplicas"],
            "--set controllerReplicas: key=value is wanted",
        ),
        (
            ["--set", "webhookFailurePolicy=fail"],
            r#"known: "Ignore", "Fail""#,
        ),
        (
            ["--set-string", "controllerReplicas=2"],
            "a whole number is wanted",
        ),
    ] {
        let words = [&["install", "--ignore-cluster"], words.as_slice()].concat();
        let text = refused(&words, 2);
        assert!(text.contains(expected), "{text}");
    }
    let text = refused(
        &["install", "--ignore-cluster", "-f", "/nonexistent/values"],
        1,
    );
    assert!(text.contains("/nonexistent/values: No such file"), "{text}");
    let text = refused(&["install"], 1);
    assert!(
        text.contains("linkerd install --ignore-cluster looks at no cluster"),
        "{text}"
    );
}

#[test]
fn both_forms_say_the_same_and_an_upgrade_begins_with_the_values_of_the_installation() {
    let words = [
        "install",
        "--ignore-cluster",
        "--ha",
        "--set",
        "controllerReplicas=5",
    ];
    let yaml = printed(&words);
    let json = printed(&[&words[..], &["-o", "json"]].concat());
    let lines = json.lines().map(|line| serde_json::from_str(line).unwrap());
    assert_eq!(objects(&yaml), lines.collect::<Vec<Value>>());
    assert_eq!(yaml, printed(&words), "nothing is random");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("installed.yaml");
    fs::write(&file, &yaml).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(printed(&["upgrade", "--from-manifests", file]), yaml);
    let upgraded = printed(&[
        "upgrade",
        "--from-manifests",
        file,
        "--set",
        "proxy.logLevel=info",
    ]);
    let upgraded = objects(&upgraded);
    let identity = find(&upgraded, "Deployment", "linkerd-identity");
    assert_eq!(identity["spec"]["replicas"], 5);
    assert!(
        identity.to_string().contains("info,[{headers}]=off"),
        "{identity}"
    );
    assert!(find(&upgraded, "PodDisruptionBudget", "linkerd-dst")["spec"].is_object());
}

/// What roles of the injector give, one right a line.
fn given(objects: &[Value]) -> BTreeSet<String> {
    let roles = [
        ("ClusterRole", "linkerd-linkerd-proxy-injector", ""),
        ("Role", "linkerd-proxy-injector", " in linkerd"),
    ];
    let mut all = BTreeSet::new();
    for (kind, name, place) in roles {
        let found = objects
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        let rules = found.and_then(|role| role["rules"].as_array());
        for rule in rules.into_iter().flatten() {
            let list = |key: &str| -> Vec<String> {
                let texts = rule[key].as_array().into_iter().flatten();
                texts
                    .map(|text| text.as_str().unwrap().to_owned())
                    .collect()
            };
            let mut names = list("resourceNames");
            if names.is_empty() {
                names.push(String::new());
            }
            for (group, resource) in list("apiGroups")
                .iter()
                .flat_map(|group| list("resources").into_iter().map(move |it| (group, it)))
            {
                for (verb, name) in list("verbs")
                    .iter()
                    .flat_map(|verb| names.iter().map(move |name| (verb, name)))
                {
                    all.insert(format!("{verb} {resource}.{group} {name}{place}"));
                }
            }
        }
    }
    all
}

#[test]
fn the_injector_may_do_what_it_does_and_nothing_else() {
    let keys = "--set proxyInjector.externalSecret=true --set proxyInjector.caBundle=x";
    for (words, makes_certificate) in [("", true), (keys, false)] {
        let words: Vec<&str> = ["install", "--ignore-cluster"]
            .into_iter()
            .chain(words.split_whitespace())
            .collect();
        let wanted: BTreeSet<String> = of_injector("linkerd", makes_certificate)
            .into_iter()
            .map(|right| {
                let place = right.namespace.map(|namespace| format!(" in {namespace}"));
                let (place, name) = (place.unwrap_or_default(), right.name.unwrap_or_default());
                format!(
                    "{} {}.{} {name}{place}",
                    right.verb, right.resource, right.group
                )
            })
            .collect();
        assert_eq!(given(&objects(&printed(&words))), wanted);
    }
}
