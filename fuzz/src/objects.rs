//! Objects of Kubernetes: manifests, what is made of them, and reviews of admission.

use linkerd_controller::inject::{self, Mesh, Place, Values};
use linkerd_policy::{
    Policy,
    index::{Cluster, Index, OutboundTarget},
    manifest,
};
use serde_json::Value;
use std::time::SystemTime;

/// Workloads and Services that are asked about: more would only be slow.
const MAX: usize = 4;
/// Where the client of all questions is.
const CLIENT: &str = "shop";

/// YAML, which JSON is too: an index is made of what can be used of it and asked about everything; a whole object is judged
/// as the webhooks do.
pub fn objects(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let documents = manifest::parse(text).into_iter().flatten();
    let resources = documents.map(|document| document.resource);
    let index = Index::from_resources(Cluster::default(), resources);
    ask(&index);
    if let Ok(object) = serde_json::from_str::<Value>(text) {
        judge(object, &index);
    }
}

fn ask(index: &Index) {
    index.statuses();
    for workload in index.workloads().take(MAX) {
        let reference = workload.reference();
        let declared = workload.declared_ports();
        let ports = declared.iter().map(|(port, _)| *port).take(MAX);
        for port in ports.chain([4191, 8080]) {
            if let Some(policy) = index.inbound(&reference, port) {
                let compiled = Policy::compile(policy);
                assert!(compiled.is_ok(), "{compiled:?}");
            }
            index.workload_endpoint(&reference, port);
        }
        index.authorized(&reference);
    }
    for service in index.services().take(MAX) {
        let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
        let port = service.spec.ports.first().map_or(80, |port| port.port);
        let target = OutboundTarget::Service {
            namespace: namespace.clone(),
            name: name.clone(),
            port,
        };
        if let Some(policy) = index.outbound(CLIENT, &target) {
            // What is sent can be taken.
            let sent = linkerd_policy::proto::outbound_to_api(&policy);
            let taken = linkerd_policy::proto::outbound_from_api(sent);
            assert!(taken.is_ok(), "{taken:?}");
        }
        index.service_profile(CLIENT, service, port);
    }
}

fn judge(object: Value, index: &Index) {
    let review = serde_json::json!({"request": {"uid": "1", "object": object}});
    let answer =
        linkerd_controller::admission::answer(&review, index, true, SystemTime::UNIX_EPOCH);
    let allowed = answer.pointer("/response/allowed").and_then(Value::as_bool);
    assert!(allowed.is_some(), "{answer}");
    // A review that is none.
    linkerd_controller::admission::answer(&object, index, false, SystemTime::UNIX_EPOCH);
    let place = Place {
        namespace: CLIENT.to_owned(),
        annotations: [("linkerd.io/inject".to_owned(), "enabled".to_owned())].into(),
        owner: None,
    };
    let mesh = Mesh {
        namespace: "linkerd".to_owned(),
        created_by: "fuzz".to_owned(),
        has_native_sidecars: true,
    };
    let values = Values::default();
    inject::pod(&mesh, &values, &object, &place);
    inject::service(&values, &object, &place);
}
