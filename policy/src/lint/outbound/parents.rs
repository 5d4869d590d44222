//! What routes are attached to: is it there, has it the port, can it be a parent at all.

use super::{
    super::{Report, Severity},
    Kind, Named, POLICY_GROUP, Parent, Route, ports,
};
use crate::{
    index::{Index, named},
    resource::{GATEWAY_GROUP, route::ParentRef},
};

pub(super) fn check(index: &Index, route: &Route<'_>, report: &mut Report) {
    for (i, parent) in route.parent_refs.iter().enumerate() {
        if named(route.group, parent).is_none()
            && let Some((what, fix)) = cannot_be(route, parent)
        {
            report.add(
                Severity::Error,
                "route-parent-invalid",
                route.key.clone(),
                format!(
                    "is not attached to {}: spec.parentRefs[{i}] {what}",
                    parent.name
                ),
                fix,
            );
        }
        if named(route.group, parent).is_some() && parent.section_name.is_some() {
            let part = format!("spec.parentRefs[{i}].sectionName");
            report.add(
                Severity::Warning,
                "route-parent-invalid",
                route.key.clone(),
                format!("{part} is not read: the route is attached as if it were not there"),
                "name the port by its number in port",
            );
        }
    }
    for (parent, port) in route.parents() {
        match parent.kind {
            Named::Service => of_service(index, route, parent, port, report),
            Named::EgressNetwork => of_egress_network(index, route, parent, report),
        }
    }
}

/// Kinds that are somebody else's, and what cannot be meant. The inbound side says what is wrong with Servers and
/// Gateways of HTTPRoutes and GRPCRoutes.
fn cannot_be(route: &Route<'_>, parent: &ParentRef) -> Option<(String, &'static str)> {
    const OWN: [&str; 4] = ["", "core", "apps", POLICY_GROUP];
    let group = parent.group.as_deref().unwrap_or(route.group.as_str());
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let is = |name: &str| kind.eq_ignore_ascii_case(name);
    if is("Service") {
        return match parent.group.as_deref() {
            None | Some("" | "core") => Some((
                format!("has kind {kind}"),
                "write kind: Service, as it is spelt",
            )),
            // Another controller's Service, not the core group's.
            Some(GATEWAY_GROUP | POLICY_GROUP | "v1" | "core/v1" | "apps") => Some((
                format!("is a Service of group {group}, and Services are of the core group"),
                "write group: \"\"",
            )),
            Some(_) => None,
        };
    }
    if is("EgressNetwork") {
        let what = format!("is an EgressNetwork of group `{group}`");
        return Some((what, "write group: policy.linkerd.io"));
    }
    let is_stream = matches!(route.kind, Kind::Tcp | Kind::Tls);
    if is("Server") {
        let what = format!("is a Server, which has no {}s", route.key.kind);
        return is_stream.then_some((what, "attach it to a Service or an EgressNetwork"));
    }
    if is("Gateway") {
        return None;
    }
    (OWN.contains(&group) || ["Pod", "Deployment", "ExternalWorkload"].contains(&kind)).then(|| {
        (
            format!("is a {kind}, which cannot be a parent"),
            "attach it to a Service or an EgressNetwork, or to a Server for inbound traffic",
        )
    })
}

fn of_service(
    index: &Index,
    route: &Route<'_>,
    parent: Parent<'_>,
    port: Option<u16>,
    report: &mut Report,
) {
    let Some(service) = index.service(parent.namespace, parent.name) else {
        report.add(
            Severity::Error,
            "route-without-parent",
            route.key.clone(),
            format!("is attached to {parent}, which does not exist"),
            "write the name of a Service, and its namespace if it is another one",
        );
        return;
    };
    if let Some(port) = port
        && service.port(port).is_none()
    {
        report.add(
            Severity::Error,
            "route-without-port",
            route.key.clone(),
            format!("is attached to port {port} of {parent}, which has no such port"),
            format!("write a port that it has: {}", ports(service)),
        );
    }
}

fn of_egress_network(index: &Index, route: &Route<'_>, parent: Parent<'_>, report: &mut Report) {
    let scope = index.scope(parent.namespace);
    if scope.is_some_and(|scope| scope.egress_networks.contains_key(parent.name)) {
        return;
    }
    report.add(
        Severity::Error,
        "route-without-parent",
        route.key.clone(),
        format!("is attached to {parent}, which does not exist"),
        "write the name of an EgressNetwork, and its namespace if it is another one",
    );
}
