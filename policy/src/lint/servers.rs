//! Servers: do they select something, do they keep it, and may anybody use it.

use super::{Lint, Report, Severity, listed, policy_key};
use crate::{
    index::{
        Workload, inbound,
        servers::{is_everything, ports_of},
    },
    resource::{PortRef, Server, WorkloadSelector},
    server::Protocol,
};
use std::collections::{BTreeMap, HashMap};

pub(super) fn check(lint: Lint<'_>, report: &mut Report) {
    let twins = Twins::of(lint.scope.servers.values());
    for server in lint.scope.servers.values() {
        of_server(lint, server, &twins, report);
    }
}

/// All that is found about a Server: no other check speaks of one.
pub(super) fn check_one(lint: Lint<'_>, server: &Server, report: &mut Report) {
    let twins = Twins::of(lint.scope.servers.naming(&server.spec.port));
    of_server(lint, server, &twins, report);
}

fn of_server(lint: Lint<'_>, server: &Server, twins: &Twins<'_>, report: &mut Report) {
    let workloads = lint.scope.workloads();
    let selected: Vec<&Workload> = workloads
        .filter(|w| inbound::selects_workload(server, w))
        .collect();
    if selected.is_empty() {
        if let Some(winner) = twins.older(server) {
            has_twin(server, winner, report);
        }
        return selects_nothing(server, report);
    }
    ports(server, &selected, report);
    skipped(lint, server, &selected, report);
    overlap(lint, server, &selected, report);
    authorized(lint, server, &selected, report);
}

fn selects_nothing(server: &Server, report: &mut Report) {
    let what = match server.spec.selector() {
        Some(WorkloadSelector::ExternalWorkloads(_)) => "external workload",
        _ => "pod",
    };
    report.add(
        Severity::Warning,
        "server-without-workload",
        policy_key("Server", &server.metadata),
        format!("selects no {what} of namespace {}", server.metadata.namespace),
        "compare its selector with the labels of the workloads; a Server selects in its own namespace only",
    );
}

/// A name that nobody declares selects nothing; a number still works, but is often a typing error.
fn ports(server: &Server, selected: &[&Workload], report: &mut Report) {
    let declares = |w: &&&Workload| {
        let ports = ports_of(server, w);
        w.declared_ports().iter().any(|(p, _)| ports.contains(p))
    };
    if selected.iter().any(|w| declares(&w)) {
        return;
    }
    let port = &server.spec.port;
    let names: Vec<String> = selected
        .iter()
        .flat_map(|w| w.declared_ports())
        .map(|(port, name)| name.map_or_else(|| port.to_string(), |n| format!("{n} ({port})")))
        .collect();
    let declared = match names.as_slice() {
        [] => "none".to_owned(),
        names => listed(names.iter().map(String::as_str)),
    };
    let (severity, message) = match port {
        PortRef::Name(name) => (
            Severity::Error,
            format!("no selected workload declares a TCP port named {name}"),
        ),
        PortRef::Number(number) => (
            Severity::Info,
            format!("no selected workload declares port {number}"),
        ),
    };
    report.add(
        severity,
        "server-without-port",
        policy_key("Server", &server.metadata),
        message,
        format!("use a port they declare: {declared}"),
    );
}

fn skipped(lint: Lint<'_>, server: &Server, selected: &[&Workload], report: &mut Report) {
    let skips = |w: &&&Workload| {
        let settings = lint.settings(w);
        ports_of(server, w).into_iter().any(|p| settings.skips(p))
    };
    let Some(workload) = selected.iter().find(skips) else {
        return;
    };
    report.add(
        Severity::Error,
        "server-port-skipped",
        policy_key("Server", &server.metadata),
        format!(
            "port {} of {} is in skip-inbound-ports, so nothing is enforced there",
            server.spec.port,
            workload.metadata().name
        ),
        "take the port out of the annotation config.linkerd.io/skip-inbound-ports",
    );
}

/// Servers of which whatever one selects the other selects as well: the oldest of each port and selector, without comparing
/// each with each.
struct Twins<'a>(HashMap<(&'a PortRef, bool), OfPort<'a>>);

#[derive(Default)]
struct OfPort<'a> {
    all: Vec<&'a Server>,
    of_everything: Vec<&'a Server>,
    by_selector: HashMap<String, Vec<&'a Server>>,
}

impl<'a> Twins<'a> {
    fn of(servers: impl Iterator<Item = &'a Server>) -> Self {
        let mut ports = HashMap::<_, OfPort<'_>>::new();
        for server in servers {
            let Some(selector) = server.spec.selector() else {
                continue;
            };
            let port = ports.entry(port_and_kind(server, selector)).or_default();
            port.all.push(server);
            if is_everything(selector) {
                port.of_everything.push(server);
            }
            let same = port.by_selector.entry(format!("{selector:?}")).or_default();
            same.push(server);
        }
        let oldest = |list: &mut Vec<&Server>| {
            list.sort_by_key(|server| server.metadata.age_key());
            list.truncate(1);
        };
        for port in ports.values_mut() {
            oldest(&mut port.all);
            oldest(&mut port.of_everything);
            port.by_selector.values_mut().for_each(oldest);
        }
        Self(ports)
    }

    /// The oldest that is older than this one.
    fn older(&self, server: &Server) -> Option<&'a Server> {
        let selector = server.spec.selector()?;
        let port = self.0.get(&port_and_kind(server, selector))?;
        let same = port.by_selector.get(&format!("{selector:?}"));
        let all = Some(&port.all).filter(|_| is_everything(selector));
        let candidates = [same, all, Some(&port.of_everything)];
        let age = server.metadata.age_key();
        let candidates = candidates.into_iter().flatten().flatten();
        let older = candidates.filter(|other| other.metadata.age_key() < age);
        older.min_by_key(|other| other.metadata.age_key()).copied()
    }
}

/// What two Servers have to have in common.
fn port_and_kind<'a>(server: &'a Server, selector: WorkloadSelector<'_>) -> (&'a PortRef, bool) {
    let is_pods = matches!(selector, WorkloadSelector::Pods(_));
    (&server.spec.port, is_pods)
}

/// There is no workload yet that both select.
fn has_twin(server: &Server, winner: &Server, report: &mut Report) {
    let winner = &winner.metadata.name;
    report.add(
        Severity::Warning,
        "server-overlap",
        policy_key("Server", &server.metadata),
        format!(
            "Server {winner} is older (or first by name) and keeps port {} of every workload that both select",
            server.spec.port
        ),
        format!("merge it with {winner}, or make the selectors exclude each other"),
    );
}

/// The first Server keeps a port; this one is told where it does not.
fn overlap(lint: Lint<'_>, server: &Server, selected: &[&Workload], report: &mut Report) {
    let mut lost: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut kept = false;
    for workload in selected {
        for port in ports_of(server, workload) {
            let Some(winner) = lint.scope.servers.keeper(workload, port) else {
                continue;
            };
            if winner.metadata.name == server.metadata.name {
                kept = true;
            } else {
                let losers = lost.entry(&winner.metadata.name).or_default();
                losers.push(&workload.metadata().name);
            }
        }
    }
    for (winner, workloads) in lost {
        let (severity, all) = if kept {
            (Severity::Warning, "")
        } else {
            (Severity::Error, ", and it keeps no port at all")
        };
        report.add(
            severity,
            "server-overlap",
            policy_key("Server", &server.metadata),
            format!(
                "Server {winner} is older (or first by name) and keeps port {} of {}{all}",
                server.spec.port,
                listed(workloads)
            ),
            format!("merge it with {winner}, or make the selectors exclude each other"),
        );
    }
}

/// With the default `accessPolicy: deny`, creating a Server cuts every client that nothing authorizes.
fn authorized(lint: Lint<'_>, server: &Server, selected: &[&Workload], report: &mut Report) {
    let Some((workload, port)) = selected.iter().find_map(|w| {
        let keeps = |p: &u16| {
            let winner = lint.scope.servers.keeper(w, *p);
            winner.is_some_and(|s| s.metadata.name == server.metadata.name)
        };
        Some((w, ports_of(server, w).into_iter().find(keeps)?))
    }) else {
        return;
    };
    let Some(policy) = lint.index.inbound(&workload.reference(), port) else {
        return;
    };
    if let Err(error) = crate::Policy::compile(policy.clone()) {
        report.add(
            Severity::Error,
            "server-refused",
            policy_key("Server", &server.metadata),
            format!("a proxy would keep its last policy instead of this one: {error}"),
            "correct what is named, or attach fewer routes to the Server",
        );
    }
    if !policy.authorizations.is_empty() {
        return;
    }
    let by_route = |meta: &crate::server::Meta, empty: bool| !empty && meta.name() != "probe";
    let some_route = match &policy.protocol {
        Protocol::Detect { http, .. } | Protocol::Http1(http) | Protocol::Http2(http) => http
            .routes
            .iter()
            .any(|r| by_route(&r.meta, r.authorizations.is_empty())),
        Protocol::Grpc { routes } => routes
            .iter()
            .any(|r| by_route(&r.meta, r.authorizations.is_empty())),
        Protocol::Opaque | Protocol::Tls => false,
    };
    if some_route {
        return;
    }
    report.add(
        Severity::Warning,
        "server-denies-everyone",
        policy_key("Server", &server.metadata),
        "authorizes nobody: no authorization is about it, and its accessPolicy is deny",
        format!(
            "write an AuthorizationPolicy with targetRef Server {}, or set accessPolicy: all-unauthenticated until there is one",
            server.metadata.name
        ),
    );
}
