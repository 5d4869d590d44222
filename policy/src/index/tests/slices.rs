//! Endpoints as EndpointSlices give them, row by row of control plane §4.3 and §4.4.

use super::*;
use crate::resource::StringMap;
use std::net::IpAddr;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, name: http, targetPort: http}, {port: 9090}]}
";

fn pod(name: &str, ips: &[&str]) -> String {
    let list: Vec<String> = ips.iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {{app: web, linkerd.io/control-plane-ns: linkerd, pod-template-hash: abc}}
  ownerReferences: [{{kind: ReplicaSet, name: web-abc, controller: true}}]
spec: {{serviceAccountName: web, nodeName: n-{name}}}
status: {{phase: Running, podIP: '{}', podIPs: [{}]}}
",
        ips[0],
        list.join(", ")
    )
}

/// A slice of the Service `web`; each endpoint is what is between its braces.
fn slice(name: &str, endpoints: &[&str]) -> String {
    let mut list = String::new();
    for endpoint in endpoints {
        list += &format!("- {{{endpoint}}}\n");
    }
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}, {{name: '', port: 9191, protocol: TCP}}, {{name: http, port: 53, protocol: UDP}}]
endpoints:
{list}"
    )
}

fn of_pod(name: &str, ip: &str, rest: &str) -> String {
    format!("addresses: ['{ip}'], targetRef: {{kind: Pod, name: {name}, namespace: shop}}{rest}")
}

fn found(index: &Index, port: u16) -> Vec<String> {
    let all = index.endpoints("shop", "web", port).unwrap();
    let text = |e: &Endpoint| std::net::SocketAddr::new(e.addr, e.port).to_string();
    let mut all: Vec<String> = all.iter().map(text).collect();
    all.sort();
    all
}

#[test]
fn slices_say_which_endpoints_there_are_and_their_ports_are_found_by_name() {
    let (a, b) = (of_pod("a", "10.0.0.1", ""), of_pod("b", "10.0.0.2", ""));
    let elsewhere = "apiVersion: v1\nkind: Pod\nmetadata: {name: z, namespace: shop, labels: {app: web}}\nspec: {}\nstatus: {podIP: 10.0.0.9}";
    let index = index(&[
        SERVICE,
        &pod("a", &["10.0.0.1"]),
        &pod("b", &["10.0.0.2"]),
        elsewhere,
        &slice("s1", &[&a]),
        &slice("s2", &[&b]),
    ]);
    assert_eq!(found(&index, 80), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(found(&index, 9090), ["10.0.0.1:9191", "10.0.0.2:9191"]);
    let undeclared = "a port that the Service does not declare is the endpoints' own";
    assert_eq!(found(&index, 7)[0], "10.0.0.1:7", "{undeclared}");
}

#[test]
fn only_endpoints_that_are_ready_and_of_a_known_kind_are_used() {
    for (endpoint, is_used) in [
        (of_pod("a", "10.0.0.1", ", conditions: {ready: true}"), true),
        (of_pod("a", "10.0.0.1", ", conditions: {ready: null}"), true),
        (
            of_pod("a", "10.0.0.1", ", conditions: {serving: false}"),
            true,
        ),
        (
            of_pod(
                "a",
                "10.0.0.1",
                ", conditions: {ready: false, serving: true, terminating: true}",
            ),
            false,
        ),
        (of_pod("gone", "10.0.0.1", ""), false),
        (
            "addresses: [10.0.0.1], targetRef: {kind: Node, name: n1}".to_owned(),
            false,
        ),
        ("addresses: [10.0.0.1]".to_owned(), true),
        ("addresses: [web.example.com]".to_owned(), false),
        ("addresses: []".to_owned(), false),
    ] {
        let index = index(&[SERVICE, &pod("a", &["10.0.0.1"]), &slice("s", &[&endpoint])]);
        let used = !found(&index, 80).is_empty();
        assert_eq!(used, is_used, "{endpoint}");
    }
}

#[test]
fn a_service_whose_slices_are_empty_has_no_endpoints_and_one_without_slices_those_of_its_selector()
{
    let pod = pod("a", &["10.0.0.1"]);
    let mut index = index(&[SERVICE, &pod, &slice("s", &[])]);
    assert_eq!(found(&index, 9090), Vec::<String>::new());
    let key = resources(&slice("s", &[]))[0].key();
    index.delete(&key);
    assert_eq!(found(&index, 9090), ["10.0.0.1:9090"]);
}

#[test]
fn a_slice_that_goes_to_another_service_leaves_the_first() {
    let mut index = index(&[
        SERVICE,
        &pod("a", &["10.0.0.1"]),
        &slice("s", &["addresses: [10.0.0.7]"]),
    ]);
    let other =
        slice("s", &["addresses: [10.0.0.7]"]).replace("service-name: web", "service-name: other");
    let other = resources(&other).remove(0);
    assert!(!index.has(&other));
    index.apply(other.clone());
    assert!(index.has(&other));
    assert_eq!(found(&index, 9090), ["10.0.0.1:9090"], "by the selector");
}

#[test]
fn an_address_without_an_object_has_no_identity_unless_it_is_another_clusters_gateway() {
    let plain = slice("s", &["addresses: [10.0.0.7], zone: z9"]);
    let gateway = plain.replace(
        "namespace: shop,",
        "namespace: shop, annotations: {mirror.linkerd.io/remote-gateway-identity: gw.id, mirror.linkerd.io/remote-svc-fq-name: web.far.svc.cluster.local},",
    );
    let one = |slice: &str| {
        index(&[SERVICE, slice])
            .endpoints("shop", "web", 80)
            .unwrap()
            .remove(0)
    };
    let endpoint = one(&plain);
    assert_eq!(
        (endpoint.workload, endpoint.identity, endpoint.meshed),
        (None, None, false)
    );
    assert_eq!(
        endpoint.labels,
        StringMap::from([("zone".to_owned(), "z9".to_owned())])
    );
    let endpoint = one(&gateway);
    assert_eq!(
        endpoint.identity,
        Some(EndpointIdentity::Dns("gw.id".into()))
    );
    assert_eq!((endpoint.server_name, endpoint.meshed), (None, true));
    assert_eq!(
        endpoint.authority_override.as_deref(),
        Some("web.far.svc.cluster.local:80")
    );
}

#[test]
fn an_address_without_an_object_is_that_of_the_workload_that_has_it() {
    let service = SERVICE.replace("selector: {app: web}, ", "");
    let at = |objects: &[&str], address: &str| {
        let endpoint = format!("addresses: ['{address}'], zone: z9");
        let slice = slice("s", &[&endpoint]);
        let all = [&[service.as_str(), &slice], objects].concat();
        index(&all).endpoints("shop", "web", 80).unwrap().remove(0)
    };
    let identity = "web.other.serviceaccount.identity.linkerd.cluster.local";
    let elsewhere = pod("a", &["10.0.0.1"]).replace("namespace: shop", "namespace: other");
    let endpoint = at(&[&elsewhere], "10.0.0.1");
    assert_eq!(
        endpoint.identity,
        Some(EndpointIdentity::Dns(identity.into()))
    );
    assert_eq!((endpoint.inbound_port, endpoint.port), (Some(4143), 8080));
    assert_eq!(endpoint.zone.as_deref(), Some("z9"), "as the slice says");
    assert_eq!(endpoint.labels["pod"], "a");

    let endpoint = at(&[VM], "10.1.0.1");
    let identity = EndpointIdentity::Uri("spiffe://root.test/vm".into());
    assert_eq!(
        (endpoint.workload, endpoint.identity),
        (Some(vm()), Some(identity))
    );

    // Nobody's, one that has ended, two that have it, one that does not have the port, and a gateway's.
    let ended = elsewhere.replace("phase: Running", "phase: Failed");
    let two = pod("b", &["10.0.0.1"]);
    let other_port = VM.replace("port: 8080", "port: 9090");
    for (objects, address) in [
        (&[elsewhere.as_str()][..], "10.0.0.7"),
        (&[&ended], "10.0.0.1"),
        (&[&elsewhere, &two], "10.0.0.1"),
        (&[&other_port], "10.1.0.1"),
    ] {
        let endpoint = at(objects, address);
        assert_eq!(
            (endpoint.workload, endpoint.identity),
            (None, None),
            "{address}"
        );
    }
    let gateway = slice("s", &["addresses: [10.0.0.1]"]).replace(
        "namespace: shop,",
        "namespace: shop, annotations: {mirror.linkerd.io/remote-gateway-identity: gw.id},",
    );
    let index = index(&[&service, &gateway, &elsewhere]);
    let endpoint = index.endpoints("shop", "web", 80).unwrap().remove(0);
    assert_eq!(
        endpoint.identity,
        Some(EndpointIdentity::Dns("gw.id".into()))
    );
}

#[test]
fn external_workloads_that_no_slice_speaks_of_are_found_by_the_selector() {
    let vm = VM.replace("app: vm", "app: web");
    let of_pods = slice("s", &[&of_pod("a", "10.0.0.1", "")]);
    let of_vms = slice(
        "x",
        &["addresses: [10.1.0.1], targetRef: {kind: ExternalWorkload, name: vm}"],
    )
    .replace(
        "labels: {",
        "labels: {endpointslice.kubernetes.io/managed-by: linkerd-external-workloads-controller, ",
    );
    let pod = pod("a", &["10.0.0.1"]);
    let derived = index(&[SERVICE, &pod, &vm, &of_pods]);
    assert_eq!(found(&derived, 80), ["10.0.0.1:8080", "10.1.0.1:8080"]);
    let written = index(&[SERVICE, &pod, &vm, &of_pods, &of_vms]);
    assert_eq!(found(&written, 80), ["10.0.0.1:8080", "10.1.0.1:8080"]);
    // Slices are written one after the other: until all are, nobody is left out.
    let of_another = of_vms.replace("name: vm}", "name: none}");
    let half = index(&[SERVICE, &pod, &vm, &of_pods, &of_another]);
    assert_eq!(found(&half, 80), ["10.0.0.1:8080", "10.1.0.1:8080"]);
    let unready = of_vms.replace("name: vm}", "name: vm}, conditions: {ready: false}");
    let unready = index(&[SERVICE, &pod, &vm, &of_pods, &unready]);
    assert_eq!(found(&unready, 80), ["10.0.0.1:8080"]);
}

#[test]
fn the_owner_is_who_owns_the_replica_set_or_job_and_the_zone_that_of_the_slice_or_node() {
    let object = |kind: &str, name: &str, owner: &str| {
        let version = if kind == "Job" { "batch/v1" } else { "apps/v1" };
        format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop{owner}}}\n"
        )
    };
    let owned = ", ownerReferences: [{kind: Deployment, name: adopted, controller: true}]";
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n-a, labels: {topology.kubernetes.io/zone: z1}}";
    let pod = pod("a", &["10.0.0.1"]);
    let slices = slice("s", &[&of_pod("a", "10.0.0.1", "")]);
    let label = |texts: &[&str], key: &str| {
        let index = index(texts);
        index.endpoints("shop", "web", 80).unwrap()[0]
            .labels
            .get(key)
            .cloned()
    };
    let some = |text: &str| Some(text.to_owned());
    let named = object("ReplicaSet", "web-abc", owned);
    assert_eq!(
        label(&[SERVICE, &pod, &slices, &named], "deployment"),
        some("adopted")
    );
    let alone = object("ReplicaSet", "web-abc", "");
    assert_eq!(
        label(&[SERVICE, &pod, &slices, &alone], "replicaset"),
        some("web-abc")
    );
    assert_eq!(
        label(&[SERVICE, &pod, &slices], "deployment"),
        some("web"),
        "by its name"
    );

    let of_job = pod.replace(
        "kind: ReplicaSet, name: web-abc",
        "kind: Job, name: nightly-1",
    );
    assert_eq!(
        label(&[SERVICE, &of_job, &slices], "k8s_job"),
        some("nightly-1")
    );
    let cron = ", ownerReferences: [{kind: CronJob, name: nightly, controller: true}]";
    let job = object("Job", "nightly-1", cron);
    assert_eq!(
        label(&[SERVICE, &of_job, &slices, &job], "cronjob"),
        some("nightly")
    );

    assert_eq!(label(&[SERVICE, &pod, &slices], "zone"), some(""));
    assert_eq!(label(&[SERVICE, &pod, &slices, node], "zone"), some("z1"));
    let zoned = slice("s", &[&of_pod("a", "10.0.0.1", ", zone: z2")]);
    assert_eq!(label(&[SERVICE, &pod, &zoned, node], "zone"), some("z2"));
}

/// What a client gets.
fn chosen(index: &Index, instance: Option<&str>, client: Client<'_>) -> Vec<IpAddr> {
    let service = index.service("shop", "web").unwrap();
    let all = index.endpoints("shop", "web", 80).unwrap();
    let all: Arc<[Arc<Endpoint>]> = all.into_iter().map(Arc::new).collect();
    let mut found: Vec<IpAddr> = select(service, &all, instance, client)
        .iter()
        .map(|e| e.addr)
        .collect();
    found.sort();
    found
}

const ANYWHERE: Client<'_> = Client {
    node: None,
    zone: None,
    has_ipv6: true,
};

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn hints_count_only_where_all_have_some_and_leave_something() {
    let hint = |zone: &str| format!(", hints: {{forZones: [{{name: {zone}}}]}}");
    let with = |a: &str, b: &str| {
        let slices = slice(
            "s",
            &[&of_pod("a", "10.0.0.1", a), &of_pod("b", "10.0.0.2", b)],
        );
        index(&[
            SERVICE,
            &pod("a", &["10.0.0.1"]),
            &pod("b", &["10.0.0.2"]),
            &slices,
        ])
    };
    let both = ips(&["10.0.0.1", "10.0.0.2"]);
    let at = |zone| Client { zone, ..ANYWHERE };
    let hinted = with(&hint("z1"), &hint("z2"));
    assert_eq!(chosen(&hinted, None, at(Some("z1"))), ips(&["10.0.0.1"]));
    assert_eq!(chosen(&hinted, None, at(Some("z3"))), both, "none is left");
    assert_eq!(
        chosen(&hinted, None, at(None)),
        both,
        "the client's zone is not known"
    );
    assert_eq!(
        chosen(&with(&hint("z1"), ""), None, at(Some("z1"))),
        both,
        "one has none"
    );
}

#[test]
fn local_traffic_stays_on_the_node_whatever_the_hints_say() {
    let hints = ", hints: {forZones: [{name: z2}]}";
    let slices = slice(
        "s",
        &[
            &of_pod("a", "10.0.0.1", hints),
            &of_pod("b", "10.0.0.2", ", hints: {forZones: [{name: z1}]}"),
        ],
    );
    let local = SERVICE.replace("spec: {", "spec: {internalTrafficPolicy: Local, ");
    let index = index(&[
        &local,
        &pod("a", &["10.0.0.1"]),
        &pod("b", &["10.0.0.2"]),
        &slices,
    ]);
    let client = Client {
        node: Some("n-a"),
        zone: Some("z1"),
        has_ipv6: true,
    };
    assert_eq!(chosen(&index, None, client), ips(&["10.0.0.1"]));
    assert_eq!(
        chosen(&index, None, ANYWHERE),
        ips(&[]),
        "the client's node is not known"
    );
}

#[test]
fn of_two_families_the_better_one_that_the_client_has_is_used() {
    let four = slice(
        "s4",
        &[&of_pod("a", "10.0.0.1", ""), &of_pod("b", "10.0.0.2", "")],
    );
    let six = slice("s6", &[&of_pod("a", "fd00::1", "")]);
    let pods = [pod("a", &["10.0.0.1", "fd00::1"]), pod("b", &["10.0.0.2"])];
    let index = index(&[SERVICE, &pods[0], &pods[1], &four, &six]);
    assert_eq!(
        chosen(&index, None, ANYWHERE),
        ips(&["10.0.0.2", "fd00::1"])
    );
    let old = Client {
        has_ipv6: false,
        ..ANYWHERE
    };
    assert_eq!(chosen(&index, None, old), ips(&["10.0.0.1", "10.0.0.2"]));
}

#[test]
fn an_instance_is_the_endpoint_with_that_hostname() {
    let slices = slice(
        "s",
        &[
            &of_pod("a", "10.0.0.1", ", hostname: web-0"),
            &of_pod("b", "10.0.0.2", ", hostname: web-1"),
        ],
    );
    let index = index(&[
        SERVICE,
        &pod("a", &["10.0.0.1"]),
        &pod("b", &["10.0.0.2"]),
        &slices,
    ]);
    assert_eq!(chosen(&index, Some("web-1"), ANYWHERE), ips(&["10.0.0.2"]));
    assert_eq!(chosen(&index, Some("web-2"), ANYWHERE), ips(&[]));
}

#[test]
fn an_applications_jobs_without_a_name_or_of_old_versions_are_read_past() {
    for text in [
        "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: x-}\nspec: {}",
        "apiVersion: apps/v1beta1\nkind: ReplicaSet\nmetadata: {name: x}\nspec: {}",
    ] {
        assert!(
            matches!(resources(text)[0], Resource::Other { .. }),
            "{text}"
        );
    }
}
