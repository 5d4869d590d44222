//! What is said about objects.

use super::*;
use linkerd_policy::index::Cluster;
use std::time::Duration;

fn index(objects: &[Value]) -> Index {
    let mut index = Index::new(Cluster::default());
    for object in objects {
        index.apply(manifest::from_value(object.clone()).unwrap());
    }
    index
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 80}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    })
}

fn server(name: &str, created: Option<&str>) -> Value {
    json!({
        "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "port": 80, "accessPolicy": "all-authenticated"},
    })
}

fn review(object: &Value, index: &Index, refuses_overlap: bool) -> (bool, String) {
    let review = json!({"request": {"uid": "u-1", "operation": "CREATE", "object": object}});
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let answer = answer(&review, index, refuses_overlap, now);
    let response = &answer["response"];
    assert_eq!(response["uid"], "u-1");
    let message = response["status"]["message"].as_str().unwrap_or_default();
    let warnings = response["warnings"].as_array().unwrap().iter();
    let warnings: Vec<&str> = warnings.map(|text| text.as_str().unwrap()).collect();
    let said = if message.is_empty() {
        warnings.join("\n")
    } else {
        message.to_owned()
    };
    (response["allowed"].as_bool().unwrap(), said)
}

#[test]
fn what_cannot_be_used_is_refused_by_field_and_what_can_is_admitted_in_silence() {
    let index = index(&[pod()]);
    assert_eq!(
        review(&server("web", None), &index, true),
        (true, String::new())
    );
    let mut bad = server("web", None);
    bad["spec"]["proxyProtocol"] = "SPDY".into();
    let (is_allowed, said) = review(&bad, &index, true);
    assert!(
        !is_allowed && said.starts_with("spec.proxyProtocol: "),
        "{said}"
    );
    let unknown = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}});
    let (is_allowed, said) = review(&unknown, &index, true);
    assert!(!is_allowed);
    assert_eq!(said, "unsupported resource type: apps.v1.Deployment");
}

#[test]
fn a_server_that_overlaps_is_refused_or_warned_about_with_the_name_of_the_older_one() {
    let index = index(&[pod(), server("old", Some("2020-01-01T00:00:00Z"))]);
    // Neither a name that comes first makes it the older one, nor a time in the same second.
    for (name, created) in [
        ("new", None),
        ("a", None),
        ("a", Some("2020-01-01T00:00:00Z")),
    ] {
        let (is_allowed, said) = review(&server(name, created), &index, true);
        assert!(!is_allowed && said.contains("Server old selects"), "{said}");
    }
    let (is_allowed, said) = review(&server("new", None), &index, false);
    assert!(is_allowed && said.contains("Server old is older"), "{said}");
    // The old one may be changed.
    let old = server("old", Some("2020-01-01T00:00:00Z"));
    assert_eq!(review(&old, &index, true), (true, String::new()));
    // Before there is a workload the selectors tell.
    let index = self::index(&[server("old", Some("2020-01-01T00:00:00Z"))]);
    let (is_allowed, said) = review(&server("new", None), &index, true);
    assert!(!is_allowed && said.contains("Server old selects"), "{said}");
}

#[test]
fn a_change_that_makes_servers_overlap_is_refused_whichever_is_older_and_one_that_finds_them_so_is_not()
 {
    let older = server("older", Some("2020-01-01T00:00:00Z"));
    let younger = server("younger", Some("2021-01-01T00:00:00Z"));
    let apart = |server: &Value| {
        let mut server = server.clone();
        server["spec"]["port"] = 81.into();
        server
    };
    let change = |old: &Value, new: &Value, index: &Index| {
        let review = json!({"request": {"operation": "UPDATE", "object": new, "oldObject": old}});
        let answer = answer(&review, index, true, SystemTime::now());
        let said = answer["response"].to_string();
        (answer["response"]["allowed"] == true, said)
    };
    for (changed, other) in [(&older, &younger), (&younger, &older)] {
        let index = index(&[pod(), apart(changed), other.clone()]);
        let (is_allowed, said) = change(&apart(changed), changed, &index);
        let named = format!(
            "Server {} selects",
            other["metadata"]["name"].as_str().unwrap()
        );
        assert!(!is_allowed && said.contains(&named), "{said}");
        let index = self::index(&[pod(), changed.clone(), other.clone()]);
        let mut labelled = changed.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        let (is_allowed, said) = change(changed, &labelled, &index);
        assert!(is_allowed, "{said}");
        assert_eq!(said.contains("Server older is older"), changed == &younger);
        let (is_allowed, said) = change(changed, &apart(changed), &index);
        assert!(is_allowed && !said.contains("overlap"), "{said}");
    }
}

#[test]
fn what_is_valid_and_cannot_be_meant_is_a_warning() {
    let (is_allowed, said) = review(&server("web", None), &index(&[]), true);
    assert!(
        is_allowed && said.starts_with("server-without-workload: "),
        "{said}"
    );
}

#[test]
fn routes_of_the_gateway_api_are_refused_only_where_a_parent_is_ours_and_we_understand_them() {
    let route = |parent: &Value, rule: &Value| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"parentRefs": [parent], "rules": [rule]},
        })
    };
    let relative = json!({"matches": [{"path": {"type": "PathPrefix", "value": "relative"}}]});
    let theirs = json!({"name": "gateway"});
    let (is_allowed, said) = review(&route(&theirs, &relative), &index(&[]), true);
    assert!(
        is_allowed && said.starts_with("not used by this mesh: spec.rules[0]"),
        "{said}"
    );
    let ours = json!({"group": "", "kind": "Service", "name": "web"});
    let (is_allowed, said) = review(&route(&ours, &relative), &index(&[]), true);
    assert!(
        !is_allowed && said.contains("HttpPathMatch paths must be absolute (begin with `/`)"),
        "{said}"
    );
    // A newer version of the Gateway API may say more.
    let newer = json!({"matches": [{"moonPhase": "full"}]});
    let (is_allowed, said) = review(&route(&ours, &newer), &index(&[]), true);
    assert!(
        is_allowed && said.starts_with("not used by this mesh: "),
        "{said}"
    );
}

#[test]
fn a_review_without_an_object_is_refused_unless_the_object_goes() {
    let now = SystemTime::now();
    let asked = |operation: &str| {
        let review = json!({"request": {"uid": "u", "operation": operation, "object": null}});
        answer(&review, &index(&[]), true, now)["response"]["allowed"]
            .as_bool()
            .unwrap()
    };
    assert!(asked("DELETE"));
    assert!(!asked("CREATE"));
}
