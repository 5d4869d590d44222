//! What a person who writes manifests is promised, and what a hostile file is refused.

mod admission;

use super::*;
use crate::resource::{ProxyProtocol, RouteGroup};
use proptest::prelude::*;

/// The only object of a text.
fn one(text: &str) -> Result<Resource, ManifestError> {
    let mut all = parse(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).map(|d| d.resource)
}

/// An object of policy.linkerd.io in its storage version, by its spec.
fn policy(kind: &str, spec: &str) -> Result<Resource, ManifestError> {
    let version = match kind {
        "Server" | "HTTPRoute" => "v1beta3",
        "ServerAuthorization" => "v1beta1",
        _ => "v1alpha1",
    };
    one(&format!(
        "apiVersion: policy.linkerd.io/{version}\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {spec}\n"
    ))
}

fn gateway(kind: &str, spec: &str) -> Result<Resource, ManifestError> {
    one(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {spec}\n"
    ))
}

#[track_caller]
fn refused(result: Result<Resource, ManifestError>, field: &str, text: &str) {
    let error = result.expect_err(text);
    assert_eq!(error.field, field, "{error}");
    assert!(error.reason.starts_with(text), "{error}");
}

#[test]
fn an_error_names_document_line_kind_name_field_value_and_fix() {
    let text = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\n---\napiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  podSelecter: {}\n  port: 80\n";
    let errors: Vec<_> = parse(text).into_iter().filter_map(Result::err).collect();
    assert_eq!(
        errors[0].to_string(),
        "document 2 (line 5), Server shop/web: spec.podSelecter: field `podSelecter` is not known; did you mean `podSelector`?"
    );
}

#[test]
fn a_broken_document_leaves_the_others_readable() {
    let good = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let all = parse(&format!(
        "{good}---\na: [\n---\n{good}---\nkind: [x\n--- {{}}\n"
    ));
    assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 2);
    let error = all[1].clone().unwrap_err();
    assert_eq!(error.line, 5);
    assert!(
        error.reason.contains("line 6") || error.reason.contains("line 5"),
        "{error}"
    );
}

#[test]
fn json_and_lists_are_read_as_yaml_is() {
    let text = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
        {"apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server", "metadata": {"name": "web"}, "spec": {"podSelector": {}, "port": 0}}]}"#;
    let all = parse(text);
    assert!(matches!(
        &all[0],
        Ok(Document {
            index: 0,
            resource: Resource::Namespace(_)
        })
    ));
    refused(
        all[1].clone().map(|d| d.resource),
        "items[1].spec.port",
        "port 0 does not exist",
    );
}

#[test]
fn every_served_version_is_read() {
    for (api, kind, spec) in [
        (
            "policy.linkerd.io/v1alpha1",
            "Server",
            "{podSelector: {}, port: http}",
        ),
        (
            "policy.linkerd.io/v1beta1",
            "Server",
            "{podSelector: {}, port: 80, proxyProtocol: HTTP/2}",
        ),
        (
            "policy.linkerd.io/v1beta2",
            "Server",
            "{externalWorkloadSelector: {}, port: 80}",
        ),
        (
            "policy.linkerd.io/v1alpha1",
            "ServerAuthorization",
            "{server: {name: a}, client: {unauthenticated: true}}",
        ),
        (
            "policy.linkerd.io/v1alpha1",
            "HTTPRoute",
            "{parentRefs: []}",
        ),
        ("gateway.networking.k8s.io/v1beta1", "HTTPRoute", "{}"),
        ("gateway.networking.k8s.io/v1alpha2", "GRPCRoute", "{}"),
        (
            "workload.linkerd.io/v1alpha1",
            "ExternalWorkload",
            "{meshTls: {identity: a.b, serverName: a.b}, workloadIPs: [{ip: 10.0.0.1}]}",
        ),
        (
            "workload.linkerd.io/v1beta1",
            "ExternalWorkload",
            "{meshTLS: {identity: 'spiffe://x/y', serverName: a.b}}",
        ),
    ] {
        let text =
            format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n");
        let resource = one(&text).unwrap_or_else(|e| panic!("{api} {e}"));
        assert_eq!(resource.key().namespace, "default");
    }
    let error =
        one("apiVersion: policy.linkerd.io/v1\nkind: Server\nmetadata: {name: x}\nspec: {}");
    refused(error, "apiVersion", "version of Server `v1` is not known");
}

#[test]
fn defaults_of_the_schemas_are_filled_in() {
    let Ok(Resource::Server(server)) = policy("Server", "{podSelector: {}, port: 80}") else {
        panic!("a Server")
    };
    assert_eq!(server.spec.proxy_protocol, ProxyProtocol::Unknown);
    assert_eq!(server.spec.access_policy, None);
    let Ok(Resource::HttpRoute(route)) =
        policy("HTTPRoute", "{parentRefs: [{name: a, kind: Server}]}")
    else {
        panic!("an HTTPRoute")
    };
    assert_eq!(route.spec.rules.len(), 1);
    assert_eq!(route.spec.rules[0].matches.len(), 1);
    assert!(route.spec.parent_refs[0].is(RouteGroup::Policy, "policy.linkerd.io", "server"));
    assert!(!route.spec.parent_refs[0].is(RouteGroup::Gateway, "policy.linkerd.io", "Server"));
}

#[test]
fn other_kinds_are_read_past_and_misspelt_ones_are_not() {
    let other = one("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {x: 1}");
    assert!(matches!(other, Ok(Resource::Other { key }) if key.group == "apps"));
    let gateway =
        one("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: x}");
    assert!(matches!(gateway, Ok(Resource::Other { .. })));
    let object = |api: &str, kind: &str| {
        one(&format!(
            "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{}}"
        ))
    };
    refused(
        object("policy.linkerd.io/v1beta3", "Sever"),
        "kind",
        "unsupported resource type: policy.linkerd.io.v1beta3.Sever; did you mean `Server`?",
    );
    refused(
        object("polcy.linkerd.io/v1beta3", "Server"),
        "apiVersion",
        "group `polcy.linkerd.io` is not known; did you mean",
    );
    refused(
        object("v1", "pod"),
        "kind",
        "`pod` is not a kind; did you mean `Pod`?",
    );
    refused(
        one("kind: Pod\nmetadata: {name: x}"),
        "apiVersion",
        "is required",
    );
    refused(
        one("apiVersion: v1\nkind: Pod\nspec: {}"),
        "metadata",
        "admission request missing 'metadata'",
    );
    refused(
        object("v1", "Pod").and_then(|_| {
            one("apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: x}")
        }),
        "spec",
        "admission request missing 'spec'",
    );
    refused(one("just text"), "", "a manifest is a map");
}

#[test]
fn names_and_annotations_are_checked() {
    refused(
        one("apiVersion: v1\nkind: Namespace\nmetadata: {name: Shop_1}"),
        "metadata.name",
        "`Shop_1` is not a name",
    );
    refused(
        one("apiVersion: v1\nkind: Namespace\nmetadata: {}"),
        "metadata.name",
        "is required",
    );
    refused(
        one(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {config.linkerd.io/opaque-ports: 3306}}",
        ),
        "metadata.annotations.config.linkerd.io/opaque-ports",
        "invalid type: integer `3306`, expected a string; put the value in quotes",
    );
    refused(
        one("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, creationTimestamp: yesterday}"),
        "metadata.creationTimestamp",
        "`yesterday` is not a time; write it as",
    );
    one("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, creationTimestamp: null, labels: null}").unwrap();
}

#[test]
fn hostile_texts_are_refused_within_bounds() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let aliases = format!("*a{},", i - 1).repeat(10);
        laughs += &format!("a{i}: &a{i} [{aliases}]\n");
    }
    // Many plain values around it raise the YAML reader's own limit, so ours must hold.
    let padded = laughs.clone()
        + &(0..20_000)
            .map(|i| format!("k{i}: v\n"))
            .collect::<String>();
    for (text, reason) in [
        (laughs, "its aliases expand too far"),
        (padded, "too many values"),
        ("- ".repeat(100_000), "nested too deeply"),
        ("[".repeat(100_000), "more brackets are opened than closed"),
        (
            "{\"a\":".repeat(100_000),
            "more brackets are opened than closed",
        ),
        ("a: &a [x]\n<<: {b: c}\n".to_owned(), "merge keys"),
        ("a: 1\na: 2\n".to_owned(), "`a` is given twice"),
        ("a: .nan\n".to_owned(), "infinity and NaN"),
        ("a: !tag b\n".to_owned(), "without YAML tags"),
    ] {
        let error = one(&text).unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
        assert!(error.to_string().len() < 400, "{error}");
    }
    let huge = " ".repeat(Limits::default().bytes + 1);
    assert!(
        one(&huge)
            .unwrap_err()
            .reason
            .contains("more than the limit")
    );
    let limits = Limits {
        documents: 3,
        ..Limits::default()
    };
    assert_eq!(parse_within(&"--- {}\n".repeat(9), &limits).len(), 4);
    let values = Limits {
        string_bytes: 8,
        ..Limits::default()
    };
    let error = parse_within("abcdefgh: ijk", &values)
        .remove(0)
        .unwrap_err();
    assert!(error.reason.contains("too large"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s)[ -~\\n]{0,300}", key in "[a-z:\\[\\]{}&*!|>'\"%@`,?#-]{0,60}") {
        parse(&text);
        parse(&key);
        parse(&format!("apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {{name: x}}\nspec: {key}\n"));
    }
}
