//! Workloads and Services: do their probes get through, may anybody use their ports, can their annotations be read.

use super::{Lint, Report, Severity, key, listed, workload_key};
use crate::{
    default_policy::DefaultPolicy,
    index::{Index, Workload, annotations, probes::Probes},
    resource::{Key, Metadata, StringMap},
    server::{Authentication, Authorization, HttpPolicy, Protocol, ServerPolicy},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

pub(super) fn check(lint: Lint<'_>, report: &mut Report) {
    let namespace = Key {
        group: String::new(),
        kind: "Namespace".to_owned(),
        namespace: String::new(),
        name: lint.namespace.to_owned(),
    };
    default_policy(&namespace, &lint.scope.annotations, report);
    for workload in lint.scope.workloads() {
        let object = workload_key(workload);
        let own = &workload.metadata().annotations;
        default_policy(&object, own, report);
        port_lists(lint, workload, &object, report);
        let ports: BTreeSet<u16> = workload.declared_ports().iter().map(|(p, _)| *p).collect();
        for port in ports {
            port_checks(lint, workload, port, &object, report);
        }
    }
    services(lint, report);
}

fn default_policy(object: &Key, annotations: &StringMap, report: &mut Report) {
    let key = annotations::DEFAULT_INBOUND_POLICY;
    let Some(value) = annotations.get(key) else {
        return;
    };
    if let Err(error) = value.trim().parse::<DefaultPolicy>() {
        report.add(
            Severity::Error,
            "annotation-invalid",
            object.clone(),
            format!("annotation {key} is ignored: {error}"),
            "correct its value",
        );
    }
}

fn port_lists(lint: Lint<'_>, workload: &Workload, object: &Key, report: &mut Report) {
    let settings = lint.settings(workload);
    for key in [
        annotations::OPAQUE_PORTS,
        annotations::REQUIRE_IDENTITY,
        annotations::SKIP_INBOUND_PORTS,
    ] {
        let errors = settings.ports(key).map(|(_, e)| e).unwrap_or_default();
        for error in errors {
            // What a namespace says need not fit every workload of it.
            let own = workload.metadata().annotations.contains_key(key);
            report.add(
                if own { Severity::Error } else { Severity::Info },
                "annotation-invalid",
                object.clone(),
                format!("annotation {key}: {error}"),
                "correct the item; the others of the list are in force",
            );
        }
    }
}

fn port_checks(lint: Lint<'_>, workload: &Workload, port: u16, object: &Key, report: &mut Report) {
    let settings = lint.settings(workload);
    let Some(policy) = lint.index.inbound(&workload.reference(), port) else {
        return;
    };
    if settings.skips(port) {
        return;
    }
    if policy.meta.group().is_empty() && policy.authorizations.is_empty() {
        report.add(
            Severity::Warning,
            "port-denies-everyone",
            object.clone(),
            format!(
                "nobody may use port {port}: no Server selects it and its default policy is deny"
            ),
            "write a Server and an AuthorizationPolicy for it",
        );
    }
    let probes = Probes::declared(workload, port);
    let open = lets_anyone_in(&policy.authorizations);
    for (what, why) in cut(&probes, &policy, open) {
        report.add(
            Severity::Error,
            "probe-cut",
            object.clone(),
            format!("{what} on port {port} would fail: {why}"),
            format!(
                "let {} speak HTTP there, probe another port, or authorize the node's network with an AuthorizationPolicy and a NetworkAuthentication",
                policy.meta
            ),
        );
    }
}

/// Whether a client that shows nothing is let in from somewhere.
fn lets_anyone_in(authorizations: &[Authorization]) -> bool {
    authorizations
        .iter()
        .any(|a| a.authentication == Authentication::Unauthenticated)
}

/// Probes that would fail, with the reason.
fn cut(probes: &Probes, policy: &ServerPolicy, open: bool) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let paths = || {
        format!(
            "the HTTP probe of {}",
            listed(probes.paths.iter().map(String::as_str))
        )
    };
    let check = || "the gRPC probe".to_owned();
    let denied =
        |open: bool| (!open).then(|| "the policy lets in nobody without identity".to_owned());
    let (http, grpc) = match &policy.protocol {
        Protocol::Detect { http, .. } => {
            let why = denied(open || has_probe_route(http));
            (why.clone(), why)
        }
        Protocol::Http1(http) => (
            denied(open || has_probe_route(http)),
            Some("the port is HTTP/1 only".to_owned()),
        ),
        Protocol::Http2(http) => (
            Some("kubelet speaks HTTP/1 and the port is HTTP/2 only".to_owned()),
            denied(open || has_probe_route(http)),
        ),
        Protocol::Grpc { routes } => {
            let routed = routes.iter().any(|r| r.meta.name() == "probe");
            (
                Some("kubelet speaks HTTP/1 and the port is gRPC only".to_owned()),
                denied(open || routed),
            )
        }
        Protocol::Opaque | Protocol::Tls => {
            let why = denied(open).map(|why| format!("{why}, and the port is not HTTP"));
            (why.clone(), why)
        }
    };
    if let Some(why) = http.filter(|_| !probes.paths.is_empty()) {
        out.push((paths(), why));
    }
    if let Some(why) = grpc.filter(|_| probes.grpc) {
        out.push((check(), why));
    }
    if let Some(why) = denied(open).filter(|_| probes.https) {
        let why = format!("{why}, and TLS hides the path");
        out.push(("the HTTPS probe".to_owned(), why));
    }
    out
}

fn has_probe_route(http: &HttpPolicy) -> bool {
    let name = |r: &crate::server::HttpRoute| r.meta.group().is_empty() && r.meta.name() == "probe";
    http.routes.iter().any(name)
}

fn services(lint: Lint<'_>, report: &mut Report) {
    for service in lint.scope.services.values() {
        let Some(selector) = service.selector() else {
            continue;
        };
        let object = || key("", "Service", &service.metadata);
        let selected: Vec<&Workload> = lint
            .scope
            .workloads()
            .filter(|w| selector.matches(&w.metadata().labels))
            .collect();
        if selected.is_empty() {
            report.add(
                Severity::Warning,
                "service-without-endpoint",
                object(),
                format!("selects no workload of namespace {}", lint.namespace),
                "compare its selector with the labels of the workloads",
            );
            continue;
        }
        for port in &service.spec.ports {
            let serves =
                |w: &&&Workload| crate::index::target_port(w, Some(port), port.port).is_some();
            if selected.iter().any(|w| serves(&w)) {
                continue;
            }
            let target = port.target_port.as_ref().map(ToString::to_string);
            report.add(
                Severity::Warning,
                "service-without-endpoint",
                object(),
                format!(
                    "no selected workload has port {}, the target of port {}",
                    target.unwrap_or_else(|| port.port.to_string()),
                    port.port
                ),
                "correct targetPort, or declare the port in the workload",
            );
        }
    }
}

/// Workloads that share an address and a port cannot be told apart.
pub(super) fn check_addresses(index: &Index, report: &mut Report) {
    let mut taken: BTreeMap<(IpAddr, u16), &Metadata> = BTreeMap::new();
    for workload in index.workloads() {
        if let Workload::Pod(pod) = workload
            && (pod.spec.host_network || pod.is_terminal())
        {
            continue;
        }
        let ports: BTreeSet<u16> = workload.declared_ports().iter().map(|(p, _)| *p).collect();
        for addr in workload.addresses() {
            for &port in &ports {
                let first = taken
                    .entry((addr, port))
                    .or_insert_with(|| workload.metadata());
                if std::ptr::eq(*first, workload.metadata()) {
                    continue;
                }
                report.add(
                    Severity::Error,
                    "address-conflict",
                    workload_key(workload),
                    format!(
                        "{addr} port {port} is also that of {}/{}",
                        first.namespace, first.name
                    ),
                    "give each workload an address, or each service on it a port, of its own",
                );
            }
        }
    }
}
