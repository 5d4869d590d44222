//! Resources in, answers out. `inbound_api` follows the assertions of the peer's policy tests row by row.

mod endpoints;
mod inbound_api;
mod isolation;
mod reads;
mod remotes;
mod routes;
mod settings;
mod slices;
mod state;
mod statuses;

use super::*;
use crate::{
    manifest,
    server::{Protocol, ServerPolicy},
};

/// A pod of namespace `shop` with a port and probes.
pub(crate) const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  serviceAccountName: web
  containers:
  - name: app
    ports: [{containerPort: 8080, name: http}, {containerPort: 9090, name: admin}, {containerPort: 53, name: dns, protocol: UDP}]
    livenessProbe: {httpGet: {path: /alive?full=1, port: http}}
    readinessProbe: {httpGet: {port: 8080}}
";

/// A workload of namespace `shop` outside Kubernetes.
pub(crate) const VM: &str = "
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: vm, namespace: shop, labels: {app: vm}}
spec:
  meshTLS: {identity: 'spiffe://root.test/vm', serverName: vm.shop.test}
  ports: [{port: 8080, name: http}]
  workloadIPs: [{ip: 10.1.0.1}]
";

/// The resources of texts, which must all be good.
pub(crate) fn resources(text: &str) -> Vec<Resource> {
    let documents = manifest::parse(text).into_iter();
    documents.map(|d| d.unwrap().resource).collect()
}

/// An index of texts, with the default cluster.
pub(crate) fn index(texts: &[&str]) -> Index {
    Index::from_resources(Cluster::default(), resources(&texts.join("\n---\n")))
}

/// An object of namespace `shop`.
pub(crate) fn object(api: &str, kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

/// An object of policy.linkerd.io in namespace `shop`.
pub(crate) fn policy(kind: &str, name: &str, spec: &str) -> String {
    let version = match kind {
        "Server" | "HTTPRoute" => "v1beta3",
        "ServerAuthorization" => "v1beta1",
        _ => "v1alpha1",
    };
    object(&format!("policy.linkerd.io/{version}"), kind, name, spec)
}

/// A Server for port 8080 of the pods of `shop`.
pub(crate) fn server(name: &str, rest: &str) -> String {
    policy(
        "Server",
        name,
        &format!("{{podSelector: {{}}, port: 8080{rest}}}"),
    )
}

/// An AuthorizationPolicy for everyone on an object of policy.linkerd.io.
pub(crate) fn everyone(name: &str, kind: &str, to: &str) -> String {
    let target = format!("{{group: policy.linkerd.io, kind: {kind}, name: {to}}}");
    policy(
        "AuthorizationPolicy",
        name,
        &format!("{{targetRef: {target}, requiredAuthenticationRefs: []}}"),
    )
}

/// The text with a time of creation.
pub(crate) fn created(text: &str, day: u8) -> String {
    let time = format!("namespace: shop, creationTimestamp: '2026-01-{day:02}T00:00:00Z'");
    text.replacen("namespace: shop", &time, 1)
}

pub(crate) fn web() -> WorkloadRef {
    "shop:web".parse().unwrap()
}

pub(crate) fn vm() -> WorkloadRef {
    r#"{"ns":"shop","external_workload":"vm"}"#.parse().unwrap()
}

/// The policy of a port of `shop:web`; it must compile, as a proxy compiles it.
#[track_caller]
pub(crate) fn inbound(index: &Index, port: u16) -> ServerPolicy {
    let policy = index.inbound(&web(), port).unwrap();
    crate::Policy::compile(policy.clone()).unwrap();
    policy
}

/// What authorizes, by name.
pub(crate) fn authorizations(policy: &ServerPolicy) -> Vec<String> {
    let names = policy.authorizations.iter();
    names.map(|a| a.meta.to_string()).collect()
}

/// Routes with their own authorizations, in order.
pub(crate) fn routes(policy: &ServerPolicy) -> Vec<String> {
    let show = |meta: &crate::server::Meta, authorizations: &[crate::server::Authorization]| {
        let names: Vec<_> = authorizations.iter().map(|a| a.meta.to_string()).collect();
        match names.as_slice() {
            [] => meta.to_string(),
            names => format!("{meta} <- {}", names.join(", ")),
        }
    };
    match &policy.protocol {
        Protocol::Detect { http, .. } | Protocol::Http1(http) | Protocol::Http2(http) => {
            let routes = http.routes.iter();
            routes.map(|r| show(&r.meta, &r.authorizations)).collect()
        }
        Protocol::Grpc { routes } => {
            let routes = routes.iter();
            routes.map(|r| show(&r.meta, &r.authorizations)).collect()
        }
        Protocol::Opaque | Protocol::Tls => Vec::new(),
    }
}

#[test]
fn workload_tokens_are_read_and_printed_as_the_api_has_them() {
    for (token, printed) in [
        ("shop:web", "shop:web"),
        (r#"{"ns":"shop","pod":"web"}"#, "shop:web"),
        (
            r#"{"external_workload":"vm","ns":"shop"}"#,
            r#"{"external_workload":"vm","ns":"shop"}"#,
        ),
    ] {
        let workload: WorkloadRef = token.parse().unwrap();
        assert_eq!(workload.to_string(), printed);
        assert_eq!(printed.parse::<WorkloadRef>().unwrap(), workload);
    }
    for token in [
        "",
        "shop",
        ":web",
        "shop:",
        "a:b:c",
        "{}",
        r#"{"ns":"shop"}"#,
        r#"{"ns":"","pod":"web"}"#,
        r#"{"ns":"a","pod":"b","external_workload":"c"}"#,
    ] {
        let error = token.parse::<WorkloadRef>().unwrap_err();
        assert_eq!(error.to_string(), format!("Invalid workload: {token}"));
    }
}

#[test]
fn deleting_everything_leaves_nothing() {
    let all =
        resources(&[WEB, VM, &server("a", ""), &everyone("b", "Server", "a")].join("\n---\n"));
    let mut index = Index::from_resources(Cluster::default(), all.clone());
    for resource in &all {
        assert!(index.inbound(&web(), 8080).is_some() || index.workload(&web()).is_none());
        index.delete(&resource.key());
    }
    assert!(index.inbound(&web(), 8080).is_none());
    assert!(index.namespaces.is_empty());
}

#[test]
fn ten_thousand_routes_each_keep_their_own_authorization() {
    let mut index = index(&[WEB, &server("web", "")]);
    for i in 0..10_000 {
        let name = format!("r{i}");
        let route = policy(
            "HTTPRoute",
            &name,
            "{parentRefs: [{kind: Server, name: web}]}",
        );
        let texts = [route, everyone(&name, "HTTPRoute", &name)].join("---\n");
        resources(&texts).into_iter().for_each(|r| index.apply(r));
    }
    let all = routes(&inbound(&index, 8080));
    assert_eq!(all.len(), 10_001);
    assert!(all.contains(&"HTTPRoute r777 <- authorizationpolicy r777".to_owned()));
}

/// What the statuses of an index say, one object a line: parents with their conditions, `!` before what is not so.
pub(crate) fn said(index: &Index) -> Vec<String> {
    let condition = |condition: &Condition| {
        let not = if condition.is_true { "" } else { "!" };
        let message = match condition.message.as_str() {
            "" => String::new(),
            message => format!(" ({message})"),
        };
        format!("{not}{}{message}", condition.reason)
    };
    let parent = |parent: &ParentStatus| {
        let port = parent.port.map(|port| format!(":{port}"));
        let conditions: Vec<String> = parent.conditions.iter().map(condition).collect();
        let (kind, name) = (parent.kind, &parent.name);
        let port = port.unwrap_or_default();
        format!("{kind} {name}{port} {}", conditions.join(" "))
    };
    let one = |status: ObjectStatus| {
        let text = match &status.status {
            Status::Route(parents) => {
                let parents: Vec<String> = parents.iter().map(parent).collect();
                parents.join("; ")
            }
            Status::RateLimit {
                server,
                condition: said,
            } => format!("Server {server} {}", condition(said)),
            Status::EgressNetwork(said) => condition(said),
        };
        format!("{}: {text}", status.key.name).trim().to_owned()
    };
    index.statuses().into_iter().map(one).collect()
}
