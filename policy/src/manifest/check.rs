//! What the schemas and the admission webhook refuse, for every kind but routes.
//!
//! Where the webhook has a text of its own, the reason starts with exactly that text.

use super::Problem;
use crate::resource::{
    ExternalWorkload, GATEWAY_GROUP, LabelSelector, Metadata, POLICY_GROUP, policy::*,
    selector::Operator, values::short, workload::is_tcp,
};

/// Modes of `accessPolicy` and of the default policy annotation.
pub(crate) const ACCESS_POLICIES: [&str; 6] = [
    "all-unauthenticated",
    "all-authenticated",
    "cluster-unauthenticated",
    "cluster-authenticated",
    "deny",
    "audit",
];

fn refuse<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::new(field, reason))
}

/// A DNS-1123 subdomain, as names of objects are.
pub(super) fn name(field: &str, name: &str) -> Result<(), Problem> {
    let label = |label: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(label.bytes().next())
            && edge(label.bytes().last())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    let reason = format!(
        "`{}` is not a name; use lower-case letters, digits, `-` and `.`, at most 253 of them",
        short(name)
    );
    refuse(field, reason)
}

/// A name of another object: its length is all that the schema asks for.
fn reference(field: &str, group: &str, kind: &str, name: &str) -> Result<(), Problem> {
    for (part, text, longest) in [
        ("group", group, 253),
        ("kind", kind, 63),
        ("name", name, 253),
    ] {
        if text.len() > longest || (text.is_empty() && part != "group") {
            let reason = format!("must have 1 to {longest} characters");
            return refuse(format!("{field}.{part}"), reason);
        }
    }
    Ok(())
}

fn selector(field: &str, selector: &LabelSelector) -> Result<(), Problem> {
    for (i, requirement) in selector.match_expressions.iter().enumerate() {
        let empty = requirement.values.is_empty();
        let reason = match requirement.operator {
            Operator::In | Operator::NotIn if empty => "needs at least one value; add it",
            Operator::Exists | Operator::DoesNotExist if !empty => {
                "takes no values; remove them, or use the operator `In`"
            }
            _ => continue,
        };
        return refuse(format!("{field}.matchExpressions[{i}].values"), reason);
    }
    Ok(())
}

/// Server.
pub(super) fn server(_: &Metadata, spec: &ServerSpec) -> Result<(), Problem> {
    match (&spec.pod_selector, &spec.external_workload_selector) {
        (Some(pods), None) => selector("spec.podSelector", pods)?,
        (None, Some(external)) => selector("spec.externalWorkloadSelector", external)?,
        (Some(_), Some(_)) => {
            let reason = "and externalWorkloadSelector exclude each other; write two Servers";
            return refuse("spec.podSelector", reason);
        }
        (None, None) => {
            let reason = "or externalWorkloadSelector is required; `podSelector: {}` selects every pod of the namespace";
            return refuse("spec.podSelector", reason);
        }
    }
    match &spec.access_policy {
        Some(mode) if !ACCESS_POLICIES.contains(&mode.as_str()) => {
            let reason = format!(
                "Invalid 'accessPolicy' field: invalid mode: \"{}\"; write one of {}",
                short(mode),
                ACCESS_POLICIES.join(", ")
            );
            refuse("spec.accessPolicy", reason)
        }
        _ => Ok(()),
    }
}

/// ServerAuthorization.
pub(super) fn server_authorization(
    _: &Metadata,
    spec: &ServerAuthorizationSpec,
) -> Result<(), Problem> {
    match (&spec.server.name, &spec.server.selector) {
        (Some(_), None) => {}
        (None, Some(labels)) => selector("spec.server.selector", labels)?,
        _ => return refuse("spec.server", "needs exactly one of name and selector"),
    }
    networks(
        "spec.client.networks",
        spec.client.networks.as_deref().unwrap_or_default(),
    )?;
    let Some(tls) = &spec.client.mesh_tls else {
        return Ok(());
    };
    if spec.client.unauthenticated {
        let text =
            "`unauthenticated` must be false if `mesh_tls` is specified; remove one of the two";
        return refuse("spec.client.unauthenticated", text);
    }
    if tls.unauthenticated_tls && !(tls.identities.is_empty() && tls.service_accounts.is_empty()) {
        let text = "`unauthenticatedTLS` be false if any `identities` or `service_accounts` is specified; remove one of the two";
        return refuse("spec.client.meshTLS.unauthenticatedTLS", text);
    }
    for (i, identity) in tls.identities.iter().enumerate() {
        if !is_dns_identity(identity) {
            let reason = format!(
                "id {} is invalid: write `*`, a DNS-like name, or `*.` before one",
                short(identity)
            );
            return refuse(format!("spec.client.meshTLS.identities[{i}]"), reason);
        }
    }
    Ok(())
}

/// Every exception must cut a part out of its network, and not all of it.
pub(super) fn networks(field: &str, networks: &[Network]) -> Result<(), Problem> {
    for (i, network) in networks.iter().enumerate() {
        for (j, except) in network.except.iter().enumerate() {
            if let Some(reason) = network_problem(network, *except) {
                return refuse(format!("{field}[{i}].except[{j}]"), reason);
            }
        }
    }
    Ok(())
}

fn network_problem(network: &Network, except: crate::resource::Cidr) -> Option<String> {
    let cidr = network.cidr;
    if except.0.contains(&cidr.0) {
        return Some(format!(
            "cidr '{cidr}' is completely negated by exception '{except}'; make the exception smaller, or remove the network"
        ));
    }
    (!cidr.0.contains(&except.0)).then(|| {
        format!("cidr '{cidr}' does not include exception '{except}'; remove the exception")
    })
}

/// NetworkAuthentication.
pub(super) fn network_authentication(
    _: &Metadata,
    spec: &NetworkAuthenticationSpec,
) -> Result<(), Problem> {
    if spec.networks.is_empty() {
        let text =
            "at least one network must be specified; `0.0.0.0/0` and `::/0` are every client";
        return refuse("spec.networks", text);
    }
    networks("spec.networks", &spec.networks)
}

/// MeshTLSAuthentication.
pub(super) fn mesh_tls_authentication(
    _: &Metadata,
    spec: &MeshTlsAuthenticationSpec,
) -> Result<(), Problem> {
    match (&spec.identities, &spec.identity_refs) {
        (Some(identities), None) => {
            if identities.is_empty() {
                return refuse("spec.identities", "needs at least one identity; `*` is any");
            }
            for (i, identity) in identities.iter().enumerate() {
                if !is_dns_identity(identity) && !is_spiffe_id(identity) {
                    let reason = format!(
                        "id {} is invalid: write `*`, a DNS-like name, `*.` before one, or `spiffe://<trust domain>/<path>`",
                        short(identity)
                    );
                    return refuse(format!("spec.identities[{i}]"), reason);
                }
            }
            Ok(())
        }
        (None, Some(refs)) => identity_refs(refs),
        _ => refuse("spec", "needs exactly one of identities and identityRefs"),
    }
}

fn identity_refs(refs: &[NamespacedRef]) -> Result<(), Problem> {
    if refs.is_empty() {
        return refuse("spec.identityRefs", "needs at least one reference");
    }
    for (i, to) in refs.iter().enumerate() {
        let field = format!("spec.identityRefs[{i}]");
        reference(&field, &to.group, &to.kind, &to.name)?;
        if to.is("", "Namespace") {
            if to.namespace.is_some() {
                let text = "Namespace identity_ref is cluster-scoped and cannot have a namespace; remove it";
                return refuse(format!("{field}.namespace"), text);
            }
        } else if !to.is("", "ServiceAccount") {
            let reason = format!(
                "invalid identity target kind: {}; write ServiceAccount or Namespace, without a group",
                short(&to.canonical())
            );
            return refuse(format!("{field}.kind"), reason);
        }
    }
    Ok(())
}

/// `*`, or DNS labels that `*.` may precede.
fn is_dns_identity(identity: &str) -> bool {
    let name = identity.strip_prefix("*.").unwrap_or(identity);
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    identity == "*" || (identity.len() <= 253 && name.split('.').all(label))
}

/// `spiffe://<trust domain>[/segment...]` as the SPIFFE ID specification has it.
fn is_spiffe_id(identity: &str) -> bool {
    let Some(rest) = identity.strip_prefix("spiffe://") else {
        return false;
    };
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or_default();
    let in_domain =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    let in_segment = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(in_segment);
    identity.len() <= 2048
        && !domain.is_empty()
        && domain.bytes().all(in_domain)
        && parts.all(segment)
}

/// AuthorizationPolicy.
pub(super) fn authorization_policy(
    metadata: &Metadata,
    spec: &AuthorizationPolicySpec,
) -> Result<(), Problem> {
    let to = &spec.target_ref;
    reference("spec.targetRef", &to.group, &to.kind, &to.name)?;
    if to.is("", "Namespace") {
        if to.name != metadata.namespace {
            let reason = format!(
                "cannot target another namespace: {}; write `{}`, the policy's own",
                short(&to.name),
                metadata.namespace
            );
            return refuse("spec.targetRef.name", reason);
        }
    } else if !(to.is_server()
        || to.is(POLICY_GROUP, "HTTPRoute")
        || to.is(GATEWAY_GROUP, "HTTPRoute")
        || to.is(GATEWAY_GROUP, "GRPCRoute"))
    {
        let reason = format!(
            "unsupported authorization target type: {}; write Server or HTTPRoute of {POLICY_GROUP}, HTTPRoute or GRPCRoute of {GATEWAY_GROUP}, or Namespace",
            short(&to.canonical())
        );
        return refuse("spec.targetRef", reason);
    }
    authentication_refs(&spec.required_authentication_refs)
}

fn authentication_refs(refs: &[NamespacedRef]) -> Result<(), Problem> {
    let field = "spec.requiredAuthenticationRefs";
    let (mut mesh_tls, mut accounts, mut networks) = (0, 0, 0);
    let mut unsupported = Vec::new();
    for (i, to) in refs.iter().enumerate() {
        reference(&format!("{field}[{i}]"), &to.group, &to.kind, &to.name)?;
        if to.is(POLICY_GROUP, "MeshTLSAuthentication") {
            mesh_tls += 1;
        } else if to.is("", "ServiceAccount") {
            accounts += 1;
        } else if to.is(POLICY_GROUP, "NetworkAuthentication") {
            networks += 1;
        } else {
            unsupported.push(short(&to.canonical()));
        }
    }
    if !unsupported.is_empty() {
        unsupported.truncate(8);
        let reason = format!(
            "unsupported authentication kind(s): {}; write MeshTLSAuthentication or NetworkAuthentication of {POLICY_GROUP}, or ServiceAccount without a group",
            unsupported.join(", ")
        );
        return refuse(field, reason);
    }
    let text = if mesh_tls > 0 && accounts > 0 {
        "a MeshTLSAuthentication and ServiceAccount may not be set together; name the account in the MeshTLSAuthentication's identityRefs"
    } else if mesh_tls > 1 {
        "only a single MeshTLSAuthentication may be set; put all identities into one"
    } else if accounts > 1 {
        "only a single ServiceAccount may be set; name them in the identityRefs of one MeshTLSAuthentication"
    } else if networks > 1 {
        "only a single NetworkAuthentication may be set; put all networks into one"
    } else {
        return Ok(());
    };
    refuse(field, text)
}

/// HTTPLocalRateLimitPolicy.
pub(super) fn rate_limit(_: &Metadata, spec: &HttpLocalRateLimitPolicySpec) -> Result<(), Problem> {
    let to = &spec.target_ref;
    reference("spec.targetRef", &to.group, &to.kind, &to.name)?;
    if !to.is_server() {
        let reason = format!(
            "invalid targetRef kind: {}; write kind Server of {POLICY_GROUP}",
            short(&to.canonical())
        );
        return refuse("spec.targetRef.kind", reason);
    }
    let total = spec.total.map(|l| l.requests_per_second);
    if let Some(total) = total {
        limit("total", "spec.total", total, None)?;
    }
    if let Some(identity) = spec.identity {
        limit(
            "identity",
            "spec.identity",
            identity.requests_per_second,
            total,
        )?;
    }
    for (i, entry) in spec.overrides.iter().enumerate() {
        let field = format!("spec.overrides[{i}]");
        limit("override", &field, entry.requests_per_second, total)?;
        for (j, client) in entry.client_refs.iter().enumerate() {
            if !client.is("", "ServiceAccount") {
                let text = "overrides.clientRefs must target a ServiceAccount, without a group";
                return refuse(format!("{field}.clientRefs[{j}].kind"), text);
            }
            reference(
                &format!("{field}.clientRefs[{j}]"),
                &client.group,
                &client.kind,
                &client.name,
            )?;
        }
    }
    Ok(())
}

fn limit(called: &str, field: &str, value: i64, total: Option<i64>) -> Result<(), Problem> {
    let field = format!("{field}.requestsPerSecond");
    if value <= 0 {
        return refuse(
            field,
            format!("{called}.requestsPerSecond must be greater than 0; got {value}"),
        );
    }
    if u32::try_from(value).is_err() {
        let most = u32::MAX;
        return refuse(
            field,
            format!("{value} is more than the largest limit, {most}"),
        );
    }
    match total {
        Some(total) if value > total => refuse(
            field,
            format!(
                "{called}.requestsPerSecond must be less than or equal to total.requestsPerSecond; got {value} and {total}"
            ),
        ),
        _ => Ok(()),
    }
}

/// ExternalWorkload.
pub(super) fn external_workload(workload: &ExternalWorkload, version: &str) -> Result<(), Problem> {
    let tls = &workload.spec.mesh_tls;
    if !is_spiffe_id(&tls.identity) && (tls.identity == "*" || !is_dns_identity(&tls.identity)) {
        let reason = format!(
            "`{}` is not an identity; write a DNS-like name or `spiffe://<trust domain>/<path>`",
            short(&tls.identity)
        );
        return refuse("spec.meshTLS.identity", reason);
    }
    if tls.server_name.starts_with('*') || !is_dns_identity(&tls.server_name) {
        let reason = format!(
            "`{}` is not a DNS name; clients send it as the TLS server name",
            short(&tls.server_name)
        );
        return refuse("spec.meshTLS.serverName", reason);
    }
    let most = if version == "v1alpha1" { 1 } else { 2 };
    if workload.spec.workload_ips.len() > most {
        let reason = format!("at most {most} addresses are allowed in {version}");
        return refuse("spec.workloadIPs", reason);
    }
    for (i, port) in workload.spec.ports.iter().enumerate() {
        let earlier = workload.spec.ports.iter().take(i);
        let taken = port.name.is_some() && earlier.clone().any(|p| p.name == port.name);
        if taken {
            return refuse(
                format!("spec.ports[{i}].name"),
                "another port has this name; names of ports are unique",
            );
        }
        let known = |p: &str| is_tcp(Some(p)) || ["UDP", "SCTP"].contains(&p);
        if port.protocol.as_deref().is_some_and(|p| !known(p)) {
            return refuse(
                format!("spec.ports[{i}].protocol"),
                "write TCP, UDP or SCTP",
            );
        }
    }
    Ok(())
}
