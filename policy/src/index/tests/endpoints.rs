//! What the destination service is told.

use super::*;
use std::net::IpAddr;

fn pod(name: &str, ip: &str, rest: &str) -> String {
    format!("
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {{app: web, linkerd.io/control-plane-ns: linkerd, pod-template-hash: abc, topology.kubernetes.io/zone: z1}}
  ownerReferences: [{{kind: ReplicaSet, name: web-abc, controller: true}}]
spec:
  serviceAccountName: web
  nodeName: n1
  containers: [{{name: app, ports: [{{containerPort: 8080, name: http, hostPort: 80}}]}}]
status: {{phase: Running, podIP: {ip}, hostIP: 192.0.2.9{rest}}}
")
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd00::1']
  selector: {app: web}
  ports: [{port: 80, name: http, targetPort: http}, {port: 81, targetPort: 9}, {port: 5432}, {port: 90, targetPort: nope}]
";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_service_has_its_ready_pods_with_identity_and_labels() {
    let not_ready = pod(
        "b",
        "10.0.0.2",
        ", conditions: [{type: Ready, status: 'False'}]",
    );
    let ended = pod("c", "10.0.0.3", "").replace("Running", "Succeeded");
    let foreign = pod("d", "10.0.0.4", "").replace("namespace: shop", "namespace: other");
    let index = index(&[
        SERVICE,
        &pod(
            "a",
            "10.0.0.1",
            ", podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::a'}]",
        ),
        &not_ready,
        &ended,
        &foreign,
    ]);
    let found = index.endpoints("shop", "web", 80).unwrap();
    let addresses: Vec<_> = found.iter().map(|e| (e.addr, e.port)).collect();
    assert_eq!(addresses, [(ip("10.0.0.1"), 8080), (ip("fd00::a"), 8080)]);
    let name = "web.shop.serviceaccount.identity.linkerd.cluster.local";
    assert_eq!(
        found[0].identity,
        Some(EndpointIdentity::Dns(name.to_owned()))
    );
    assert_eq!(found[0].server_name.as_deref(), Some(name));
    assert_eq!(
        (found[0].meshed, found[0].opaque, found[0].inbound_port),
        (true, false, Some(4143))
    );
    assert_eq!(
        (found[0].weight, found[0].node.as_deref()),
        (10_000, Some("n1"))
    );
    let labels: Vec<String> = found[0]
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(
        labels,
        [
            "control_plane_ns=linkerd",
            "deployment=web",
            "pod=a",
            "pod_template_hash=abc",
            "serviceaccount=web",
            "zone=z1"
        ]
    );
}

#[test]
fn target_ports_are_numbers_names_or_the_port_itself() {
    let index = index(&[SERVICE, &pod("a", "10.0.0.1", "")]);
    let ports = |port| -> Vec<u16> {
        index
            .endpoints("shop", "web", port)
            .unwrap()
            .iter()
            .map(|e| e.port)
            .collect()
    };
    assert_eq!(ports(80), [8080]);
    assert_eq!(ports(81), [9]);
    assert_eq!(ports(5432), [5432]);
    assert_eq!(ports(90), [0u16; 0], "nobody declares the name");
    assert_eq!(ports(7777), [7777], "not declared by the Service");
    assert!(
        index.endpoints("shop", "web", 5432).unwrap()[0].opaque,
        "by the cluster's default"
    );
    assert!(index.endpoints("shop", "other", 80).is_none());
    assert!(index.endpoints("other", "web", 80).is_none());
}

#[test]
fn an_external_workload_is_an_endpoint_with_its_own_identity_and_proxy_port() {
    let vm = VM.replace("app: vm", "app: web").replace(
        "{port: 8080, name: http}",
        "{port: 8080, name: http}, {port: 14143, name: linkerd-proxy}",
    );
    let index = index(&[SERVICE, &vm]);
    let found = &index.endpoints("shop", "web", 80).unwrap()[0];
    assert_eq!(
        found.identity,
        Some(EndpointIdentity::Uri("spiffe://root.test/vm".into()))
    );
    assert_eq!(found.server_name.as_deref(), Some("vm.shop.test"));
    assert_eq!(found.inbound_port, Some(14143));
    assert_eq!(found.labels.get("external_workload").unwrap(), "vm");
    assert!(
        index.endpoints("shop", "web", 81).unwrap().is_empty(),
        "it does not serve that port"
    );
    let not_ready = format!("{vm}status: {{conditions: [{{type: Ready, status: 'False'}}]}}\n");
    assert!(
        super::index(&[SERVICE, &not_ready])
            .endpoints("shop", "web", 80)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn an_endpoint_outside_the_mesh_or_on_a_skipped_port_has_no_identity() {
    let plain = pod("a", "10.0.0.1", "").replace("linkerd.io/control-plane-ns: linkerd, ", "");
    let other =
        pod("b", "10.0.0.2", "").replace("control-plane-ns: linkerd", "control-plane-ns: other");
    let skipped = pod("c", "10.0.0.3", "").replace(
        "  labels:",
        "  annotations: {config.linkerd.io/skip-inbound-ports: http}\n  labels:",
    );
    let index = index(&[SERVICE, &plain, &other, &skipped]);
    let found = index.endpoints("shop", "web", 80).unwrap();
    let facts: Vec<_> = found
        .iter()
        .map(|e| (e.identity.is_some(), e.meshed, e.inbound_port))
        .collect();
    assert_eq!(
        facts,
        [
            (false, false, None),
            (false, true, Some(4143)),
            (false, false, None)
        ]
    );
}

#[test]
fn an_opaque_server_makes_the_endpoint_opaque() {
    let server = server("web", ", proxyProtocol: opaque");
    let index = index(&[SERVICE, &pod("a", "10.0.0.1", ""), &server]);
    assert!(index.endpoints("shop", "web", 80).unwrap()[0].opaque);
}

#[test]
fn the_proxys_own_ports_take_no_transport_header() {
    let env = pod("a", "10.0.0.1", "").replace(
        "containers: [",
        "containers: [{name: linkerd-proxy, env: [{name: LINKERD2_PROXY_ADMIN_LISTEN_ADDR, value: '[::]:4191'}, {name: LINKERD2_PROXY_INBOUND_LISTEN_ADDR, value: '0.0.0.0:5143'}]}, ",
    );
    let index = index(&[&env]);
    let of = |port| {
        index
            .workload_by_ip(ip("10.0.0.1"), port)
            .unwrap()
            .unwrap()
            .inbound_port
    };
    assert_eq!((of(8080), of(4191)), (Some(5143), None));
}

#[test]
fn addresses_lead_to_services_and_workloads() {
    let index = index(&[SERVICE, &pod("a", "10.0.0.1", ""), VM]);
    let service = |text: &str| {
        index
            .service_by_ip(ip(text))
            .unwrap()
            .map(|s| s.metadata.name.clone())
    };
    assert_eq!(service("10.96.0.1").as_deref(), Some("web"));
    assert_eq!(service("fd00::1").as_deref(), Some("web"));
    assert_eq!(service("::ffff:10.96.0.1").as_deref(), Some("web"));
    assert_eq!(service("10.96.0.2"), None);
    let workload = |text: &str, port| {
        index
            .workload_by_ip(ip(text), port)
            .unwrap()
            .map(|e| (e.workload.unwrap().to_string(), e.port))
    };
    assert_eq!(workload("10.0.0.1", 1234), Some(("shop:a".into(), 1234)));
    assert_eq!(
        workload("192.0.2.9", 80),
        Some(("shop:a".into(), 8080)),
        "by its node's port"
    );
    assert_eq!(workload("10.1.0.1", 8080), Some((vm().to_string(), 8080)));
    assert_eq!(workload("10.1.0.1", 8081), None);
}

#[test]
fn an_address_of_several_objects_is_an_error_that_names_them() {
    let second = SERVICE.replace("name: web", "name: web2");
    let index = index(&[
        SERVICE,
        &second,
        &pod("a", "10.0.0.1", ""),
        &pod("b", "10.0.0.1", ""),
    ]);
    let error = index.service_by_ip(ip("10.96.0.1")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "found 2 services with conflicting cluster IP 10.96.0.1"
    );
    let error = index.workload_by_ip(ip("10.0.0.1"), 80).unwrap_err();
    assert_eq!(error.names, ["shop/a", "shop/b"]);
}

#[test]
fn opaque_ports_of_a_service_come_from_it_its_namespace_or_the_cluster() {
    let of = |texts: &[&str]| {
        let index = index(texts);
        let service = index.service("shop", "web").unwrap();
        index.service_opaque_ports(service).to_string()
    };
    assert_eq!(
        of(&[SERVICE]),
        Cluster::default().default_opaque_ports.to_string()
    );
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {config.linkerd.io/opaque-ports: '7'}}";
    assert_eq!(of(&[SERVICE, namespace]), "7");
    let own = SERVICE.replace(
        "namespace: shop",
        "namespace: shop, annotations: {config.linkerd.io/opaque-ports: 'http,9'}",
    );
    assert_eq!(of(&[&own, namespace]), "9,80");
}

#[test]
fn endpoints_of_a_headless_service_have_names_of_their_own() {
    let headless = SERVICE
        .replace("  clusterIP: 10.96.0.1\n", "  clusterIP: None\n")
        .replace("  clusterIPs: [10.96.0.1, 'fd00::1']\n", "");
    let named = pod("a", "10.0.0.1", "").replace(
        "  nodeName:",
        "  hostname: web-0\n  subdomain: web\n  nodeName:",
    );
    let vm = VM.replace("app: vm", "app: web");
    let index = index(&[&headless, &named, &pod("b", "10.0.0.2", ""), &vm]);
    let found = index.endpoints("shop", "web", 80).unwrap();
    let names: Vec<_> = found.iter().map(|e| e.hostname.as_deref()).collect();
    assert_eq!(names, [Some("web-0"), None, Some("vm")]);
}
