//! Traffic to others: do annotations say what was meant, and do routes lead somewhere.

use super::{Lint, Report, Severity, key};
use crate::{
    index::{annotations, outbound_annotations},
    resource::{
        GATEWAY_GROUP, Key, Metadata, POLICY_GROUP, RouteGroup, StringMap,
        route::{BackendRef, ParentRef},
    },
};

/// Prefixes of annotations, and what of them is known.
const KNOWN: [(&str, &[&str]); 2] = [
    ("retry.linkerd.io/", &["http", "grpc", "limit", "timeout"]),
    ("timeout.linkerd.io/", &["request", "response", "idle"]),
];

pub(super) fn check(lint: Lint<'_>, report: &mut Report) {
    let namespace = Key {
        group: String::new(),
        kind: "Namespace".to_owned(),
        namespace: String::new(),
        name: lint.namespace.to_owned(),
    };
    mutual_tls(&namespace, &lint.scope.annotations, report);
    for service in lint.scope.services.values() {
        let object = key("", "Service", &service.metadata);
        mutual_tls(&object, &service.metadata.annotations, report);
        parent(&object, &service.metadata.annotations, report);
    }
    for egress in lint.scope.egress_networks.values() {
        let object = key(POLICY_GROUP, "EgressNetwork", &egress.metadata);
        parent(&object, &egress.metadata.annotations, report);
    }
    routes(lint, report);
}

fn mutual_tls(object: &Key, annotations: &StringMap, report: &mut Report) {
    let name = annotations::OUTBOUND_MTLS;
    if let Some(value) = annotations.get(name)
        && !matches!(value.as_str(), "required" | "preferred")
    {
        let message =
            format!("annotation {name}: `{value}` is not known, and is taken for `required`");
        let fix = "write `required` or `preferred`";
        report.add(
            Severity::Error,
            "annotation-invalid",
            object.clone(),
            message,
            fix,
        );
    }
}

/// What a value on a parent switches off, if it cannot be read.
fn parent(object: &Key, annotations: &StringMap, report: &mut Report) {
    for (what, fix) in outbound_annotations::unreadable(annotations) {
        let message = format!("annotations {what} are ignored: a value cannot be read");
        report.add(
            Severity::Error,
            "annotation-invalid",
            object.clone(),
            message,
            fix,
        );
    }
    unknown(object, annotations, report);
}

fn unknown(object: &Key, annotations: &StringMap, report: &mut Report) {
    for name in annotations.keys() {
        for (prefix, known) in KNOWN {
            if name
                .strip_prefix(prefix)
                .is_some_and(|rest| !known.contains(&rest))
            {
                report.add(
                    Severity::Warning,
                    "annotation-invalid",
                    object.clone(),
                    format!("annotation {name} is not known, and says nothing"),
                    format!("there are {prefix}{{{}}}", known.join(", ")),
                );
            }
        }
    }
}

/// A route of Services, as far as it matters here.
struct Facts<'a> {
    key: Key,
    group: RouteGroup,
    metadata: &'a Metadata,
    parents: &'a [ParentRef],
    backends: Vec<&'a BackendRef>,
}

fn routes(lint: Lint<'_>, report: &mut Report) {
    let scope = lint.scope;
    let group = RouteGroup::Gateway;
    let http = scope.http_routes.values().map(|route| Facts {
        key: crate::index::status::http_key(route),
        group: route.group,
        metadata: &route.metadata,
        parents: &route.spec.parent_refs,
        backends: route
            .spec
            .rules
            .iter()
            .flat_map(|r| &r.backend_refs)
            .collect(),
    });
    let grpc = scope.grpc_routes.values().map(|route| Facts {
        key: key(GATEWAY_GROUP, "GRPCRoute", &route.metadata),
        group,
        metadata: &route.metadata,
        parents: &route.spec.parent_refs,
        backends: route
            .spec
            .rules
            .iter()
            .flat_map(|r| &r.backend_refs)
            .collect(),
    });
    let tcp = scope
        .tcp_routes
        .values()
        .map(|route| ("TCPRoute", &route.metadata, &route.spec));
    let tls = scope
        .tls_routes
        .values()
        .map(|route| ("TLSRoute", &route.metadata, &route.spec));
    let streams = tcp.chain(tls).map(|(kind, metadata, spec)| Facts {
        key: key(GATEWAY_GROUP, kind, metadata),
        group,
        metadata,
        parents: &spec.parent_refs,
        backends: spec.rules.iter().flat_map(|r| &r.backend_refs).collect(),
    });
    for facts in http.chain(grpc).chain(streams) {
        route(lint, &facts, report);
    }
}

fn route(lint: Lint<'_>, facts: &Facts<'_>, report: &mut Report) {
    let services = facts
        .parents
        .iter()
        .filter(|parent| parent.is(facts.group, "", "Service"));
    let egress = |parent: &ParentRef| parent.is(facts.group, POLICY_GROUP, "EgressNetwork");
    let own = &facts.metadata.namespace;
    let mut is_outbound = facts.parents.iter().any(egress);
    for parent in services {
        is_outbound = true;
        let namespace = parent.namespace.as_ref().unwrap_or(own);
        if lint.index.service(namespace, &parent.name).is_none() {
            report.add(
                Severity::Warning,
                "route-without-parent",
                facts.key.clone(),
                format!(
                    "is attached to Service {namespace}/{}, which does not exist",
                    parent.name
                ),
                "write the name of a Service, and its namespace if it is another one",
            );
        }
    }
    if !is_outbound {
        return;
    }
    unknown(&facts.key, &facts.metadata.annotations, report);
    // Without a namespace a backend is of its parent's.
    let of_parent = facts
        .parents
        .iter()
        .find_map(|parent| parent.namespace.as_ref())
        .unwrap_or(own);
    for backend in &facts.backends {
        let is_core = matches!(backend.group.as_deref(), None | Some("" | "core"));
        if !is_core || backend.kind.as_deref().unwrap_or("Service") != "Service" {
            continue;
        }
        let namespace = backend.namespace.as_ref().unwrap_or(of_parent);
        if lint.index.service(namespace, &backend.name).is_some() {
            continue;
        }
        report.add(
            Severity::Error,
            "route-without-backend",
            facts.key.clone(),
            format!(
                "sends to Service {namespace}/{}, which does not exist: what is to go there fails",
                backend.name
            ),
            "write the name of a Service, and its namespace if it is another one than the parent's",
        );
    }
}
