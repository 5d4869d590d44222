//! What statuses become, whatever is there.

use super::*;
use linkerd_policy::index::{Condition, ParentStatus};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn parent(name: &str, is_true: bool) -> ParentStatus {
    ParentStatus {
        group: "policy.linkerd.io",
        kind: "Server",
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        port: None,
        conditions: vec![accepted(is_true)],
    }
}

fn accepted(is_true: bool) -> Condition {
    Condition {
        kind: "Accepted",
        is_true,
        reason: if is_true {
            "Accepted"
        } else {
            "NoMatchingParent"
        },
        message: String::new(),
    }
}

#[test]
fn entries_of_others_stay_and_ours_become_what_holds() {
    let theirs = json!({"controllerName": "example.com/gateway", "parentRef": {"name": "g"}, "conditions": []});
    let gone =
        json!({"controllerName": CONTROLLER, "parentRef": {"name": "gone"}, "conditions": []});
    let found = json!({"parents": [gone, theirs]});
    let wanted = Status::Route(vec![parent("web", true)]);
    let status = render::status(&wanted, &found, at(0));
    assert_eq!(
        status,
        json!({"parents": [theirs, {
            "controllerName": CONTROLLER,
            "parentRef": {"group": "policy.linkerd.io", "kind": "Server", "namespace": "shop", "name": "web"},
            "conditions": [{
                "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                "lastTransitionTime": "1970-01-01T00:00:00Z",
            }],
        }]})
    );
    assert!(!render::is_same(&status, &found));
    let none = render::status(&Status::Route(Vec::new()), &status, at(0));
    assert_eq!(none, json!({"parents": [theirs]}));
}

#[test]
fn what_says_the_same_is_not_written_and_times_are_those_of_changes() {
    let wanted = |is_true| Status::Route(vec![parent("web", is_true)]);
    let first = render::status(&wanted(true), &Value::Null, at(0));
    // Some time later nothing else holds.
    let again = render::status(&wanted(true), &first, at(60));
    assert!(render::is_same(&again, &first));
    let other = render::status(&wanted(false), &first, at(60));
    assert!(!render::is_same(&other, &first));
    let time = &other["parents"][0]["conditions"][0]["lastTransitionTime"];
    assert_eq!(time, "1970-01-01T00:01:00Z");
    let later = render::status(&wanted(false), &first, at(120));
    assert!(render::is_same_but_for_times(&other, &later) && other != later);
    // A route without parents of ours has nothing to be told.
    let none = render::status(&Status::Route(Vec::new()), &Value::Null, at(0));
    assert!(render::is_same(&none, &Value::Null));
}

#[test]
fn a_rate_limit_names_its_server_and_keeps_conditions_of_others() {
    let theirs = json!({"type": "Seen", "status": "True"});
    let wanted = Status::RateLimit {
        server: "web".to_owned(),
        condition: accepted(true),
    };
    let status = render::status(&wanted, &json!({"conditions": [theirs]}), at(0));
    assert_eq!(status["conditions"][0], theirs);
    assert_eq!(status["conditions"][1]["type"], "Accepted");
    let target = json!({"group": "policy.linkerd.io", "kind": "Server", "name": "web"});
    assert_eq!(status["targetRef"], target);
    let again = render::status(&wanted, &status, at(9));
    assert!(render::is_same(&again, &status));
    let network = Status::EgressNetwork(accepted(false));
    let status = render::status(&network, &Value::Null, at(0));
    assert_eq!(status["conditions"][0]["status"], "False");
}
