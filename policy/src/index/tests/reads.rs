//! Which changes an answer can depend on.

use super::{isolation::any_object, *};
use proptest::prelude::*;
use std::net::SocketAddr;

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
    matters_in(&index(&[TWO, WEB]), ask, text)
}

fn matters_in(before: &Index, ask: impl Fn(&Index), text: &str) -> bool {
    let recording = before.recording();
    ask(&recording);
    let reads = recording.into_reads();
    let mut after = before.clone();
    resources(text).into_iter().for_each(|r| after.apply(r));
    assert!(before.is_current(&reads));
    !after.is_current(&reads)
}

#[test]
fn an_answer_depends_on_the_namespaces_addresses_and_nodes_that_it_was_made_of() {
    let in_other = VM.replace("namespace: shop", "namespace: other");
    let endpoints = |index: &Index| drop(index.endpoints("shop", "web", 80));
    assert!(matters(endpoints, VM));
    assert!(!matters(endpoints, &in_other));
    assert!(!matters(endpoints, NODE), "no Pod of it names a node");
    let absent = |index: &Index| drop(index.service("new", "web").cloned());
    let in_new = |text: &str| text.replace("namespace: shop", "namespace: new");
    assert!(matters(absent, &in_new(TWO)));
    assert!(!matters(absent, &in_new(VM)) && !matters(absent, TWO));

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
    assert!(
        matters(service, &TWO.replace("port: 80", "port: 81")),
        "itself"
    );
    assert!(!matters(service, &in_other) && !matters(service, VM));

    let zone = |index: &Index| drop(index.node_zone("n1").map(str::to_owned));
    assert!(matters(zone, NODE));
    assert!(!matters(zone, VM));
}

#[test]
fn what_policy_is_made_of_is_noted_too() {
    let inbound = |index: &Index| drop(index.inbound(&web(), 8080));
    assert!(matters(inbound, &server("s", "")));
    assert!(matters(inbound, &WEB.replace("?full=1", "s")));
    assert!(!matters(inbound, VM));
    assert!(!matters(
        inbound,
        &WEB.replace("name: web,", "name: other,")
    ));
    let target = OutboundTarget::Service {
        namespace: "shop".into(),
        name: "web".into(),
        port: 80,
    };
    let outbound = |index: &Index| drop(index.outbound("client", &target));
    let route = |namespace: &str| {
        let to = "{group: '', kind: Service, name: web, namespace: shop}";
        object(
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            "r",
            &format!("{{parentRefs: [{to}]}}"),
        )
        .replace(
            "namespace: shop}\nspec",
            &format!("namespace: {namespace}}}\nspec"),
        )
    };
    assert!(!matters(outbound, VM));
    assert!(matters(outbound, &route("shop")) && matters(outbound, &route("client")));
    assert!(!matters(outbound, &route("third")));
}

#[test]
fn a_server_matters_to_the_ports_that_it_keeps_and_no_others() {
    let inbound = |index: &Index| drop(index.inbound(&web(), 8080));
    let selecting = |name: &str, app: &str, port: &str| {
        let spec = format!("{{podSelector: {{matchLabels: {{app: {app}}}}}, port: {port}}}");
        policy("Server", name, &spec)
    };
    assert!(matters(inbound, &selecting("s", "web", "8080")));
    assert!(matters(inbound, &selecting("s", "web", "http")));
    assert!(!matters(inbound, &selecting("s", "web", "9090")));
    assert!(!matters(inbound, &selecting("s", "other", "8080")));
    // One that comes second by name, and one that takes the port.
    let kept = index(&[TWO, WEB, &selecting("m", "web", "8080")]);
    assert!(!matters_in(&kept, inbound, &selecting("n", "web", "8080")));
    assert!(matters_in(&kept, inbound, &selecting("a", "web", "8080")));
    assert!(matters_in(&kept, inbound, &selecting("m", "web", "9090")));
    // What authorizes, or limits, another Server.
    assert!(matters_in(&kept, inbound, &everyone("p", "Server", "m")));
    assert!(!matters_in(&kept, inbound, &everyone("p", "Server", "n")));
    let limit = |server: &str| {
        let target = format!("{{group: policy.linkerd.io, kind: Server, name: {server}}}");
        let spec = format!("{{targetRef: {target}, total: {{requestsPerSecond: 1}}}}");
        policy("HTTPLocalRateLimitPolicy", "l", &spec)
    };
    assert!(matters_in(&kept, inbound, &limit("m")));
    assert!(!matters_in(&kept, inbound, &limit("n")));
}

#[test]
fn an_authentication_matters_to_the_ports_whose_policies_name_it() {
    let inbound = |index: &Index| drop(index.inbound(&web(), 8080));
    let requiring = |kind: &str| {
        let to = "{group: policy.linkerd.io, kind: Server, name: s}";
        let required =
            format!("{{group: policy.linkerd.io, kind: {kind}, name: a, namespace: far}}");
        let spec = format!("{{targetRef: {to}, requiredAuthenticationRefs: [{required}]}}");
        policy("AuthorizationPolicy", "p", &spec)
    };
    for (kind, spec) in [
        ("MeshTLSAuthentication", "{identities: ['*']}"),
        ("NetworkAuthentication", "{networks: [{cidr: 10.0.0.0/8}]}"),
    ] {
        let kept = index(&[WEB, &server("s", ""), &requiring(kind)]);
        let far =
            |name: &str| policy(kind, name, spec).replace("namespace: shop", "namespace: far");
        assert!(matters_in(&kept, inbound, &far("a")), "{kind}");
        assert!(!matters_in(&kept, inbound, &far("b")), "{kind}");
        assert!(
            !matters_in(&kept, inbound, &policy(kind, "a", spec)),
            "{kind}"
        );
    }
}

/// Objects that `any_object` has not, or not with an address; `NAME` and `NS` stand for where it is.
const MORE: &[&str] = &[
    "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME, namespace: NS, labels: {app: web, linkerd.io/control-plane-ns: linkerd}, ownerReferences: [{controller: true, kind: ReplicaSet, name: a}]}\n\
     spec: {nodeName: n1, containers: [{name: c, ports: [{containerPort: 8080, name: http}]}]}\n\
     status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], phase: Running, conditions: [{type: Ready, status: 'True'}]}",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME, namespace: NS, labels: {app: a}}\n\
     spec: {containers: [{name: c}]}\n\
     status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}], conditions: [{type: Ready, status: 'False'}]}",
    "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: NS}\n\
     spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], selector: {app: web}, ports: [{port: 80, name: http, targetPort: http}]}",
    "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: NS, annotations: {policy.linkerd.io/outbound-mtls: required}}\n\
     spec: {clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2], ports: [{port: 80, name: http}]}",
    "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: NS, annotations: {policy.linkerd.io/outbound-mtls: required}}\n\
     spec: {clusterIP: 10.96.0.3, clusterIPs: [10.96.0.3], selector: {app: web}, ports: [{port: 80, name: http}]}",
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
     metadata: {name: NAME, namespace: NS, labels: {kubernetes.io/service-name: web}}\n\
     ports: [{name: http, port: 8080}]\n\
     endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: a}, nodeName: n1}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.1]}]",
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
     metadata: {name: NAME, namespace: NS, labels: {kubernetes.io/service-name: a}}\n\
     ports: [{name: http, port: 80}]\n\
     endpoints: [{addresses: [10.0.0.9], targetRef: {kind: ExternalWorkload, name: web}}, {addresses: [10.0.0.2], targetRef: {kind: Pod, name: b, namespace: b}}]",
    "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: NAME, namespace: NS, ownerReferences: [{controller: true, kind: Deployment, name: d}]}",
    "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: NAME, namespace: NS}",
    "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: NAME}}",
    "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: NAME, namespace: NS}\n\
     spec: {podSelector: {matchLabels: {app: web}}, port: 8080, proxyProtocol: opaque}",
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS, annotations: {policy.linkerd.io/outbound-mtls: preferred}}",
];

pub(super) fn any_of_all() -> impl Strategy<Value = Resource> {
    let place = (prop::sample::select(vec!["web", "a", "b"]), any::<bool>());
    let more = (place, prop::sample::select(MORE)).prop_map(|((name, is_a), text)| {
        let text = text
            .replace("NAME", name)
            .replace("NS", if is_a { "a" } else { "b" });
        resources(&text).remove(0)
    });
    prop_oneof![1 => any_object("a"), 1 => any_object("b"), 2 => more]
}

type Question = Box<dyn Fn(&Index) -> String>;

/// What streams ask, about everything that there may be.
fn questions() -> Vec<Question> {
    let mut all: Vec<Question> = Vec::new();
    let names = ["web", "a", "b"];
    for (ns, name) in ["a", "b"]
        .into_iter()
        .flat_map(|ns| names.map(|name| (ns, name)))
    {
        let pod = WorkloadRef::Pod {
            ns: ns.to_owned(),
            pod: name.to_owned(),
        };
        let external = WorkloadRef::ExternalWorkload {
            ns: ns.to_owned(),
            name: name.to_owned(),
        };
        for workload in [pod, external] {
            let other = workload.clone();
            all.push(Box::new(move |index| {
                format!("{:?}", index.inbound(&workload, 8080))
            }));
            all.push(Box::new(move |index| {
                format!("{:?}", index.workload_outbound_mtls(&other))
            }));
        }
        all.push(Box::new(move |index| {
            format!("{:?}", index.endpoints(ns, name, 80))
        }));
        all.push(Box::new(move |index| {
            format!("{:?}", index.outbound_mtls(ns, name))
        }));
        for client in ["a", "b"] {
            all.push(Box::new(move |index| {
                let service = index.service(ns, name);
                format!(
                    "{:?}",
                    service.map(|service| index.service_profile(client, service, 80))
                )
            }));
            all.push(Box::new(move |index| {
                let target = OutboundTarget::Service {
                    namespace: ns.to_owned(),
                    name: name.to_owned(),
                    port: 80,
                };
                format!("{:?}", index.outbound(client, &target))
            }));
        }
    }
    for address in [
        "10.0.0.1:8080",
        "10.0.0.2:80",
        "10.96.0.1:80",
        "192.0.2.1:443",
    ] {
        let at: SocketAddr = address.parse().unwrap();
        all.push(Box::new(move |index| {
            format!("{:?}", index.workload_by_ip(at.ip(), at.port()))
        }));
        all.push(Box::new(move |index| {
            format!("{:?}", index.outbound("a", &OutboundTarget::Address(at)))
        }));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whoever keeps an answer until something that it was made of changes has the answer of an index made from scratch.
    #[test]
    fn an_answer_that_is_current_is_that_of_an_index_made_from_scratch(
        changes in prop::collection::vec((any_of_all(), 0_u8..4), 1..24),
    ) {
        let mut index = Index::new(Cluster::default());
        let mut there = BTreeMap::new();
        let mut kept: Vec<_> = questions().into_iter().map(|ask| (ask, None)).collect();
        for (resource, what) in changes {
            let key = resource.key();
            if what == 0 {
                index.delete(&key);
                there.remove(&key);
            } else {
                index.apply(resource.clone());
                there.insert(key, resource);
            }
            let scratch = Index::from_resources(Cluster::default(), there.values().cloned());
            for (ask, known) in &mut kept {
                let is_current = known
                    .as_ref()
                    .is_some_and(|(reads, _): &(Reads, String)| index.is_current(reads));
                if !is_current {
                    let recording = index.recording();
                    let answer = ask(&recording);
                    *known = Some((recording.into_reads(), answer));
                }
                let answer = known.as_ref().map(|(_, answer)| answer.clone());
                prop_assert_eq!(answer, Some(ask(&scratch)));
            }
        }
    }
}

#[test]
fn an_answer_made_of_everything_or_of_nobody_knows_what_is_never_current() {
    let index = index(&[TWO]);
    assert!(!index.is_current(&index.clone().into_reads()));
    let recording = index.recording();
    assert_eq!(recording.services().count(), 2);
    let reads = recording.into_reads();
    assert!(!index.is_current(&reads), "everything was read");
}

#[test]
fn what_another_answer_was_made_of_counts() {
    let index = index(&[TWO, WEB]);
    let first = index.recording();
    first.inbound(&web(), 8080).unwrap();
    let second = index.recording();
    second.also_read(&Arc::new(first.into_reads()));
    let reads = second.into_reads();
    let mut after = index.clone();
    after.apply(resources(VM).remove(0));
    assert!(after.is_current(&reads));
    after.apply(resources(&server("s", "")).remove(0));
    assert!(!after.is_current(&reads) && index.is_current(&reads));
}

#[test]
fn a_route_matters_to_the_parents_that_it_names_and_no_others() {
    let inbound = |index: &Index| drop(index.inbound(&web(), 8080));
    let target = OutboundTarget::Service {
        namespace: "shop".into(),
        name: "web".into(),
        port: 80,
    };
    let outbound = |index: &Index| drop(index.outbound("client", &target));
    let route = |name: &str, parent: &str, rest: &str| {
        policy(
            "HTTPRoute",
            name,
            &format!("{{parentRefs: [{parent}]{rest}}}"),
        )
    };
    let to_server = |server: &str| format!("{{kind: Server, name: {server}}}");
    let to_service = |service: &str| format!("{{group: core, kind: Service, name: {service}}}");
    let kept = index(&[
        TWO,
        WEB,
        &server("m", ""),
        &route("of-m", &to_server("m"), ""),
        &route("of-web", &to_service("web"), ""),
    ]);
    let rules = ", rules: [{matches: [{path: {value: /x}}]}]";
    // One more, one that is another one now, and one that goes to another parent.
    for (name, parent, rest) in [("new", "m", ""), ("of-m", "m", rules), ("of-m", "n", "")] {
        let text = route(name, &to_server(parent), rest);
        assert!(matters_in(&kept, inbound, &text), "{text}");
        assert!(!matters_in(&kept, outbound, &text), "{text}");
    }
    for (name, parent, rest) in [
        ("new", "web", ""),
        ("of-web", "web", rules),
        ("of-web", "other", ""),
    ] {
        let text = route(name, &to_service(parent), rest);
        assert!(matters_in(&kept, outbound, &text), "{text}");
        assert!(!matters_in(&kept, inbound, &text), "{text}");
    }
    for parent in [to_server("n"), to_service("other")] {
        let text = route("new", &parent, "");
        assert!(!matters_in(&kept, inbound, &text), "{text}");
        assert!(!matters_in(&kept, outbound, &text), "{text}");
    }
}
