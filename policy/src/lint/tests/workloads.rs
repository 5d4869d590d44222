//! Workloads and Services.

use super::*;

#[test]
fn probe_cut() {
    let check = "probe-cut";
    let with = |protocol: &str| server("web", &format!(", proxyProtocol: {protocol}"));
    finds(
        check,
        &[WEB, &with("opaque")],
        "Pod web: the HTTP probe of /, /alive on port 8080 would fail: the policy lets in nobody without identity, and the port is not HTTP",
    );
    finds(check, &[WEB, &with("HTTP/2")], "kubelet speaks HTTP/1");
    finds(check, &[WEB, &with("gRPC")], "kubelet speaks HTTP/1");
    silent(check, &[WEB, &with("unknown")]);
    silent(
        check,
        &[WEB, &with("opaque"), &everyone("x", "Server", "web")],
    );
    let off = WEB.replace(
        "labels:",
        "annotations: {config.linkerd.io/probe-authorization: disabled}, labels:",
    );
    finds(check, &[&off, &with("unknown")], "would fail");
    silent(check, &[&off]);
    let https = WEB.replace("port: http}", "port: http, scheme: HTTPS}");
    finds(
        check,
        &[&https, &with("unknown")],
        "the HTTPS probe on port 8080 would fail",
    );
    silent(check, &[&https]);
}

#[test]
fn port_denies_everyone() {
    let deny = WEB.replace(
        "labels:",
        "annotations: {config.linkerd.io/default-inbound-policy: deny}, labels:",
    );
    finds("port-denies-everyone", &[&deny], "nobody may use port 9090");
    silent("port-denies-everyone", &[WEB]);
}

#[test]
fn annotation_invalid() {
    let check = "annotation-invalid";
    let with = |annotation: &str| {
        WEB.replace(
            "labels:",
            &format!("annotations: {{{annotation}}}, labels:"),
        )
    };
    finds(
        check,
        &[&with("config.linkerd.io/default-inbound-policy: open")],
        "`open` is not a default policy",
    );
    finds(
        check,
        &[&with("config.linkerd.io/opaque-ports: '80,http,htpp'")],
        "`htpp` is not a port list item",
    );
    silent(check, &[&with("config.linkerd.io/opaque-ports: '80,http'")]);
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {config.linkerd.io/default-inbound-policy: open}}";
    finds(check, &[namespace], "Namespace shop: annotation");
}

#[test]
fn address_conflict() {
    let other = VM.replace("name: vm,", "name: vm2,");
    finds(
        "address-conflict",
        &[VM, &other],
        "ExternalWorkload vm2: 10.1.0.1 port 8080 is also that of shop/vm",
    );
    silent(
        "address-conflict",
        &[VM, &other.replace("port: 8080", "port: 8081")],
    );
}

#[test]
fn service_without_endpoint() {
    let service = |selector: &str, port: &str| {
        object(
            "v1",
            "Service",
            "s",
            &format!("{{selector: {selector}, ports: [{{port: 80, targetPort: {port}}}]}}"),
        )
    };
    let check = "service-without-endpoint";
    finds(
        check,
        &[WEB, &service("{app: other}", "80")],
        "selects no workload of namespace shop",
    );
    finds(
        check,
        &[WEB, &service("{app: web}", "htpp")],
        "no selected workload has port htpp, the target of port 80",
    );
    silent(
        check,
        &[WEB, &service("{app: web}", "http"), &service("{}", "80")],
    );
}
