//! No object of one namespace changes an answer for another, except through a reference that names it.

use super::*;
use proptest::prelude::*;

/// apiVersion, kind and spec; `NS` stands for the namespace.
const KINDS: &[(&str, &str, &str)] = &[
    (
        "policy.linkerd.io/v1beta3",
        "Server",
        "{podSelector: {}, port: 8080}",
    ),
    (
        "policy.linkerd.io/v1beta3",
        "Server",
        "{podSelector: {matchLabels: {app: web}}, port: http, accessPolicy: audit}",
    ),
    (
        "policy.linkerd.io/v1beta3",
        "Server",
        "{externalWorkloadSelector: {}, port: 8080, proxyProtocol: opaque}",
    ),
    (
        "policy.linkerd.io/v1beta1",
        "ServerAuthorization",
        "{server: {selector: {}}, client: {unauthenticated: true}}",
    ),
    (
        "policy.linkerd.io/v1beta1",
        "ServerAuthorization",
        "{server: {name: web}, client: {meshTLS: {identities: ['*']}}}",
    ),
    (
        "policy.linkerd.io/v1alpha1",
        "AuthorizationPolicy",
        "{targetRef: {group: policy.linkerd.io, kind: Server, name: web}, requiredAuthenticationRefs: []}",
    ),
    (
        "policy.linkerd.io/v1alpha1",
        "AuthorizationPolicy",
        "{targetRef: {group: policy.linkerd.io, kind: HTTPRoute, name: a}, requiredAuthenticationRefs: [{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: a}]}",
    ),
    (
        "policy.linkerd.io/v1alpha1",
        "AuthorizationPolicy",
        "{targetRef: {kind: Namespace, name: NS}, requiredAuthenticationRefs: [{group: policy.linkerd.io, kind: NetworkAuthentication, name: b}]}",
    ),
    (
        "policy.linkerd.io/v1alpha1",
        "MeshTLSAuthentication",
        "{identities: ['*']}",
    ),
    (
        "policy.linkerd.io/v1alpha1",
        "NetworkAuthentication",
        "{networks: [{cidr: 10.0.0.0/8}]}",
    ),
    (
        "policy.linkerd.io/v1beta3",
        "HTTPRoute",
        "{parentRefs: [{kind: Server, name: web}]}",
    ),
    (
        "gateway.networking.k8s.io/v1",
        "GRPCRoute",
        "{parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}]}",
    ),
    (
        "policy.linkerd.io/v1alpha1",
        "HTTPLocalRateLimitPolicy",
        "{targetRef: {group: policy.linkerd.io, kind: Server, name: web}, total: {requestsPerSecond: 1}}",
    ),
    (
        "v1",
        "Service",
        "{selector: {app: web}, ports: [{port: 80, targetPort: http}]}",
    ),
    (
        "v1",
        "Pod",
        "{containers: [{name: c, ports: [{containerPort: 8080, name: http}]}]}",
    ),
    (
        "workload.linkerd.io/v1beta1",
        "ExternalWorkload",
        "{meshTLS: {identity: a.b, serverName: a.b}, ports: [{port: 8080, name: http}], workloadIPs: [{ip: 10.0.0.1}]}",
    ),
    ("v1", "Namespace", ""),
    // The outbound side: routes to a Service of the own namespace and, as a client of it, of `b`.
    (
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        "{parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: a, port: 80}, {name: b, namespace: NS, port: 80}]}]}",
    ),
    (
        "policy.linkerd.io/v1beta3",
        "HTTPRoute",
        "{parentRefs: [{group: '', kind: Service, name: web, namespace: b, port: 80}], rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: NS.example}}]}]}",
    ),
    (
        "gateway.networking.k8s.io/v1",
        "GRPCRoute",
        "{parentRefs: [{group: '', kind: Service, name: web, namespace: b}], rules: [{}]}",
    ),
    (
        "gateway.networking.k8s.io/v1alpha2",
        "TLSRoute",
        "{parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: web, port: 80}]}]}",
    ),
    (
        "gateway.networking.k8s.io/v1alpha2",
        "TCPRoute",
        "{parentRefs: [{group: '', kind: Service, name: a, namespace: b}], rules: [{backendRefs: [{name: web, port: 80}]}]}",
    ),
    (
        "gateway.networking.k8s.io/v1alpha2",
        "TCPRoute",
        "{parentRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: web, port: 443}], rules: [{backendRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: web, port: 443}]}]}",
    ),
    (
        "policy.linkerd.io/v1alpha1",
        "EgressNetwork",
        "{trafficPolicy: Deny}",
    ),
    (
        "split.smi-spec.io/v1alpha2",
        "TrafficSplit",
        "{service: web, backends: [{service: a, weight: 1}, {service: b, weight: 2}]}",
    ),
    (
        "linkerd.io/v1alpha2",
        "ServiceProfile",
        "{routes: [{name: NS, condition: {pathRegex: '/.*'}, isRetryable: true}], dstOverrides: [{authority: 'a.NS.svc.cluster.local:80', weight: 1}]}",
    ),
];

/// One object of any kind, whose names collide with those of the other namespace on purpose.
pub(super) fn any_object(namespace: &str) -> impl Strategy<Value = Resource> + use<> {
    let namespace = namespace.to_owned();
    let name = prop::sample::select(vec!["web", "a", "b"]);
    let spec = prop::sample::select(KINDS);
    (name, spec, 0u8..4).prop_map(move |(name, (api, kind, spec), day)| {
        let spec = spec.replace("NS", &namespace);
        let created = match day {
            0 => String::new(),
            day => format!(", creationTimestamp: '2026-01-0{day}T00:00:00Z'"),
        };
        // Of a Service of `b`, whoever says it: for clients of the own namespace where it is another one.
        let name = if kind == "ServiceProfile" { format!("{name}.b.svc.cluster.local") } else { name.to_owned() };
        let text = if kind == "Namespace" {
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, annotations: {{config.linkerd.io/default-inbound-policy: deny, config.linkerd.io/opaque-ports: '8080'}}}}")
        } else {
            format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: web}}{created}}}\nspec: {spec}")
        };
        resources(&text).remove(0)
    })
}

/// Every answer about a namespace.
fn answers(index: &Index, namespace: &str) -> String {
    let mut out = String::new();
    for name in ["web", "a", "b"] {
        for port in [8080, 80, 4191] {
            let pod = WorkloadRef::Pod {
                ns: namespace.to_owned(),
                pod: name.to_owned(),
            };
            let external = WorkloadRef::ExternalWorkload {
                ns: namespace.to_owned(),
                name: name.to_owned(),
            };
            for workload in [pod, external] {
                out += &format!("{:?}\n", index.inbound(&workload, port));
                out += &format!("{:?}\n", index.workload_endpoint(&workload, port));
            }
            out += &format!("{:?}\n", index.endpoints(namespace, name, port));
            let service = OutboundTarget::Service {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                port,
            };
            out += &format!("{:?}\n", index.outbound(namespace, &service));
            if let Some(service) = index.service(namespace, name) {
                out += &format!("{:?}\n", index.service_profile(namespace, service, port));
            }
        }
    }
    let outside = OutboundTarget::Address("192.0.2.1:443".parse().unwrap());
    out += &format!("{:?}\n", index.outbound(namespace, &outside));
    for status in index.statuses() {
        if status.key.namespace == namespace {
            out += &format!("{status:?}\n");
        }
    }
    for finding in index.lint() {
        // Addresses are the one thing namespaces share.
        if finding.object.namespace == namespace && finding.check != "address-conflict" {
            out += &format!("{finding:?}\n");
        }
    }
    out
}

proptest! {
    #[test]
    fn an_object_of_one_namespace_never_changes_an_answer_for_another(
        ours in prop::collection::vec(any_object("b"), 0..12),
        theirs in prop::collection::vec(any_object("a"), 1..12),
        deleted in any::<prop::sample::Index>(),
    ) {
        let mut index = Index::from_resources(Cluster::default(), ours);
        let before = answers(&index, "b");
        theirs.iter().for_each(|r| index.apply(r.clone()));
        prop_assert_eq!(&answers(&index, "b"), &before);
        index.delete(&deleted.get(&theirs).key());
        prop_assert_eq!(&answers(&index, "b"), &before);
    }

    #[test]
    fn the_order_of_arrival_decides_nothing(
        objects in prop::collection::vec(any_object("a"), 0..16),
        seed in any::<u64>(),
    ) {
        // Of two with one key the later counts, so keep one of each.
        let mut by_key = BTreeMap::new();
        for object in objects {
            by_key.insert(object.key(), object);
        }
        let forward: Vec<Resource> = by_key.into_values().collect();
        let mut shuffled = forward.clone();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            shuffled.swap(i, (state >> 33) as usize % (i + 1));
        }
        let one = Index::from_resources(Cluster::default(), forward.clone());
        let other = Index::from_resources(Cluster::default(), shuffled);
        prop_assert_eq!(answers(&one, "a"), answers(&other, "a"));
        // What is deleted leaves what would be there had it never been applied.
        let mut index = other;
        if let Some(object) = forward.first() {
            index.delete(&object.key());
        }
        let rest = Index::from_resources(Cluster::default(), forward.into_iter().skip(1));
        prop_assert_eq!(answers(&index, "a"), answers(&rest, "a"));
    }

    #[test]
    fn every_policy_of_the_index_compiles(objects in prop::collection::vec(any_object("a"), 0..16)) {
        let index = Index::from_resources(Cluster::default(), objects);
        for workload in index.workloads() {
            for port in [8080, 4191] {
                let policy = index.inbound(&workload.reference(), port);
                prop_assert!(crate::Policy::compile(policy.unwrap()).is_ok());
            }
        }
    }
}
