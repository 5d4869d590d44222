//! Which changes an answer can depend on.

use super::*;

const TWO: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: other}
spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{port: 80}]}
";

const NODE: &str =
    "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}";

/// Whether an answer may be another after `text` has been applied.
fn matters(ask: impl Fn(&Index), text: &str) -> bool {
    let before = index(&[TWO, WEB]);
    let recording = before.recording();
    ask(&recording);
    let mut after = before.clone();
    resources(text).into_iter().for_each(|r| after.apply(r));
    assert!(before.is_current(&recording.reads()));
    !after.is_current(&recording.reads())
}

#[test]
fn an_answer_depends_on_the_namespaces_addresses_and_nodes_that_it_was_made_of() {
    let in_other = VM.replace("namespace: shop", "namespace: other");
    let endpoints = |index: &Index| drop(index.endpoints("shop", "web", 80));
    assert!(matters(endpoints, VM));
    assert!(!matters(endpoints, &in_other));
    assert!(!matters(endpoints, NODE), "no Pod of it names a node");
    let absent = |index: &Index| drop(index.service("new", "web").cloned());
    assert!(matters(
        absent,
        &VM.replace("namespace: shop", "namespace: new")
    ));
    assert!(!matters(absent, VM));

    let ip = "10.1.0.1".parse().unwrap();
    let address = |index: &Index| drop(index.workload_by_ip(ip, 8080).unwrap());
    assert!(matters(address, &in_other), "whoever takes it");
    assert!(!matters(address, &in_other.replace("10.1.0.1", "10.1.0.2")));
    let service = |index: &Index| {
        drop(
            index
                .service_by_ip("10.96.0.2".parse().unwrap())
                .unwrap()
                .cloned(),
        )
    };
    assert!(matters(service, &in_other), "its namespace");
    assert!(!matters(service, VM));

    let zone = |index: &Index| drop(index.node_zone("n1").map(str::to_owned));
    assert!(matters(zone, NODE));
    assert!(!matters(zone, VM));
}

#[test]
fn what_policy_is_made_of_is_noted_too() {
    let in_other = VM.replace("namespace: shop", "namespace: other");
    let inbound = |index: &Index| drop(index.inbound(&web(), 8080));
    assert!(matters(inbound, &server("s", "")));
    assert!(!matters(inbound, &in_other));
    let target = OutboundTarget::Service {
        namespace: "shop".into(),
        name: "web".into(),
        port: 80,
    };
    let outbound = |index: &Index| drop(index.outbound("client", &target));
    assert!(!matters(outbound, &in_other));
    assert!(matters(
        outbound,
        &VM.replace("namespace: shop", "namespace: client")
    ));
}

#[test]
fn an_answer_made_of_everything_or_of_nobody_knows_what_is_never_current() {
    let index = index(&[TWO]);
    assert!(!index.is_current(&index.reads()));
    let recording = index.recording();
    assert_eq!(recording.services().count(), 2);
    assert!(!index.is_current(&recording.reads()), "everything was read");
}
