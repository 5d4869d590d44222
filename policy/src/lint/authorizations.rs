//! Authorizations, authentications and rate limits: do they name something that exists, and do they have an effect.

use super::{Lint, Report, Severity, policy_key};
use crate::{
    index::{
        Index,
        authorizations::{LeftOut, names_server, targets_server},
    },
    resource::{
        AuthorizationPolicy, GATEWAY_GROUP, POLICY_GROUP, ProxyProtocol, RouteGroup,
        ServerAuthorization,
    },
};

pub(super) fn check(lint: Lint<'_>, report: &mut Report) {
    for authorization in lint.scope.server_authorizations.values() {
        server_authorization(lint, authorization, report);
    }
    for policy in lint.scope.authorization_policies.values() {
        authorization_policy(lint, policy, report);
    }
    rate_limits(lint, report);
}

fn server_authorization(lint: Lint<'_>, authorization: &ServerAuthorization, report: &mut Report) {
    let object = || policy_key("ServerAuthorization", &authorization.metadata);
    let mut servers = lint.scope.servers.values();
    if !servers.any(|s| names_server(authorization, s)) {
        let message = match &authorization.spec.server.name {
            Some(name) => format!("names Server {name}, which does not exist"),
            None => "selects no Server".to_owned(),
        };
        report.add(
            Severity::Error,
            "authorization-without-target",
            object(),
            message,
            format!("write the name of a Server of namespace {}", lint.namespace),
        );
    }
    let message = match lint
        .index
        .server_authorization(lint.namespace, authorization)
    {
        Err(LeftOut::NoClients) => "has no effect: no client authentication configured",
        Err(LeftOut::NoIdentities) => "has no effect: authorization authorizes no clients",
        _ => return,
    };
    report.add(
        Severity::Error,
        "authorization-without-client",
        object(),
        message,
        "set client.unauthenticated, client.meshTLS.unauthenticatedTLS, or name identities or serviceAccounts",
    );
}

fn authorization_policy(lint: Lint<'_>, policy: &AuthorizationPolicy, report: &mut Report) {
    let object = || policy_key("AuthorizationPolicy", &policy.metadata);
    if let Some((severity, message, fix)) = no_target(lint, policy) {
        let check = "authorization-without-target";
        report.add(severity, check, object(), message, fix);
    }
    if let Err(LeftOut::Missing(to)) = lint.index.authorization_policy(lint.namespace, policy) {
        let namespace = to.namespace(lint.namespace);
        report.add(
            Severity::Error,
            "authentication-missing",
            object(),
            format!(
                "has no effect: {} {namespace}/{} does not exist",
                to.kind, to.name
            ),
            format!("create it in namespace {namespace}, or correct the reference"),
        );
    }
}

fn no_target(lint: Lint<'_>, policy: &AuthorizationPolicy) -> Option<(Severity, String, String)> {
    let scope = lint.scope;
    let to = &policy.spec.target_ref;
    let mut servers = scope.servers.names();
    if servers.any(|s| targets_server(policy, lint.namespace, s)) {
        return None;
    }
    if to.is("", "Namespace") {
        return Some((
            Severity::Warning,
            "targets the namespace, which has no Server; it does not apply to ports without one".to_owned(),
            "create Servers for the ports it is about, or use the annotation config.linkerd.io/default-inbound-policy".to_owned(),
        ));
    }
    let exact = |group| scope.http_routes.contains_key(&(group, to.name.clone()));
    if (to.is(POLICY_GROUP, "HTTPRoute") && exact(RouteGroup::Policy))
        || (to.is(GATEWAY_GROUP, "HTTPRoute") && exact(RouteGroup::Gateway))
    {
        return None;
    }
    let same = |name: &str| name.eq_ignore_ascii_case(&to.name);
    let http = |group| {
        to.is(group, "HTTPRoute")
            && scope
                .http_routes
                .values()
                .any(|r| r.group.as_str() == group && same(&r.metadata.name))
    };
    let exists = http(RouteGroup::Policy.as_str())
        || http(RouteGroup::Gateway.as_str())
        || (to.is(GATEWAY_GROUP, "GRPCRoute") && scope.grpc_routes.keys().any(|n| same(n)));
    (!exists).then(|| {
        let other = scope
            .http_routes
            .values()
            .find(|r| same(&r.metadata.name) && !to.is(r.group.as_str(), "HTTPRoute"));
        let fix = match other {
            Some(route) if to.kind.eq_ignore_ascii_case("HTTPRoute") => {
                format!("write group: {}", route.group.as_str())
            }
            _ => format!(
                "write the name of a {} of namespace {}",
                to.kind, lint.namespace
            ),
        };
        let message = format!(
            "targets {} {}, which does not exist",
            to.canonical(),
            to.name
        );
        (Severity::Error, message, fix)
    })
}

fn rate_limits(lint: Lint<'_>, report: &mut Report) {
    for limit in lint.scope.rate_limits.values() {
        let object = policy_key("HTTPLocalRateLimitPolicy", &limit.metadata);
        let name = &limit.spec.target_ref.name;
        let Some(server) = lint.scope.servers.get(name) else {
            report.add(
                Severity::Error,
                "rate-limit-without-target",
                object,
                format!("names Server {name}, which does not exist (NoMatchingTarget)"),
                format!("write the name of a Server of namespace {}", lint.namespace),
            );
            continue;
        };
        let protocol = server.spec.proxy_protocol;
        if matches!(
            protocol,
            ProxyProtocol::Grpc | ProxyProtocol::Opaque | ProxyProtocol::Tls
        ) {
            report.add(
                Severity::Error,
                "rate-limit-without-target",
                object.clone(),
                format!(
                    "has no effect: Server {name} has proxyProtocol {}",
                    protocol.as_str()
                ),
                "limits need proxyProtocol unknown, HTTP/1 or HTTP/2",
            );
        }
        let winner = crate::index::inbound::accepted_rate_limit(lint.scope.part(), name);
        if let Some(winner) = winner.filter(|w| w.metadata.name != limit.metadata.name) {
            let winner = &winner.metadata.name;
            report.add(
                Severity::Error,
                "rate-limit-overlap",
                object,
                format!(
                    "has no effect: {winner} limits Server {name} and is older (or first by name)"
                ),
                format!("merge it with {winner}"),
            );
        }
    }
}

/// Authentications that nothing refers to, from any namespace.
pub(super) fn check_unused(index: &Index, report: &mut Report) {
    let mut used: std::collections::BTreeSet<(bool, &str, &str)> = Default::default();
    for (namespace, scope) in index.scopes() {
        for policy in scope.authorization_policies.values() {
            for to in &policy.spec.required_authentication_refs {
                let is_mesh = to.is(POLICY_GROUP, "MeshTLSAuthentication");
                used.insert((is_mesh, to.namespace(namespace), &to.name));
            }
        }
    }
    for (namespace, scope) in index.scopes() {
        let mesh = scope.mesh_tls.values().map(|a| (true, &a.metadata));
        let networks = scope.networks.values().map(|a| (false, &a.metadata));
        for (is_mesh, metadata) in mesh.chain(networks) {
            if used.contains(&(is_mesh, namespace, metadata.name.as_str())) {
                continue;
            }
            let kind = if is_mesh {
                "MeshTLSAuthentication"
            } else {
                "NetworkAuthentication"
            };
            report.add(
                Severity::Info,
                "authentication-unused",
                policy_key(kind, metadata),
                "no AuthorizationPolicy refers to it",
                "refer to it from requiredAuthenticationRefs, or remove it",
            );
        }
    }
}
