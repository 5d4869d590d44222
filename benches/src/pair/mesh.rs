//! The mesh that `bench pair` measures in, as manifests, and the control plane that reads them.

use super::network::{Network, control};
use crate::Failure;
use linkerd_controller::{Config, Flags};
use std::{fmt::Write as _, net::Ipv4Addr, path::Path};

/// Endpoints and routes of the services that have many.
const MANY: u16 = 1000;
/// Services that are asked once each, for the memory of a destination.
pub(super) const IDLE_DESTINATIONS: u16 = 200;

/// The services, by the last byte of their address.
pub(super) const MESHED: u8 = 1;
pub(super) const PLAIN: u8 = 2;
pub(super) const MANY_ENDPOINTS: u8 = 3;
pub(super) const MANY_ROUTES: u8 = 4;
pub(super) const RAW: u8 = 5;
/// Their names, in this order.
pub(super) const SERVICES: [&str; 5] = ["server", "plain", "many", "routed", "raw"];

fn workload(name: &str, ip: Ipv4Addr) -> String {
    let id = format!("{name}.bench.serviceaccount.identity.linkerd.cluster.local");
    format!(
        "apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata:
  name: {name}
  namespace: bench
  labels: {{app: {name}}}
  annotations: {{config.linkerd.io/opaque-ports: '8082'}}
spec:
  meshTLS: {{identity: {id}, serverName: {id}}}
  ports: [{{port: 8081, name: http}}, {{port: 8082, name: raw}}]
  workloadIPs: [{{ip: {}}}]
status: {{conditions: [{{type: Ready, status: 'True'}}]}}
---
",
        ip
    )
}

fn service(name: &str, app: &str, address: Ipv4Addr, port: u16) -> String {
    let opaque = if name == "raw" {
        ", annotations: {config.linkerd.io/opaque-ports: '80'}"
    } else {
        ""
    };
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: bench{opaque}}}
spec: {{clusterIP: {address}, selector: {{app: {app}}}, ports: [{{port: 80, targetPort: {port}}}]}}
---
"
    )
}

fn pod(name: &str, app: &str, ip: Ipv4Addr) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: bench, labels: {{app: {app}}}}}
spec: {{containers: [{{name: app, ports: [{{containerPort: 8080}}]}}]}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}
---
"
    )
}

/// A meshed server, its opaque port, a plain one, one at a thousand addresses, one behind a thousand routes; and
/// services that are there to be known.
pub(super) fn manifests(network: Network) -> String {
    let mut text = workload("server", network.ip(0, 2)) + &workload("client", network.ip(0, 4));
    text += &service("server", "server", network.service_ip(MESHED), 8081);
    text += &service("plain", "plain", network.service_ip(PLAIN), 8080);
    text += &service("many", "many", network.service_ip(MANY_ENDPOINTS), 8080);
    text += &service("routed", "plain", network.service_ip(MANY_ROUTES), 8080);
    text += &service("raw", "server", network.service_ip(RAW), 8082);
    text += &pod("plain", "plain", network.ip(0, 3));
    for number in 0..MANY {
        let name = format!("many-{number}");
        text += &pod(&name, "many", network.endpoint_ip(number));
        // The one that is asked for stands in the middle.
        let path = match number {
            500 => "100".to_owned(),
            _ => format!("route/{number}"),
        };
        let _ = write!(
            text,
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: route-{number}, namespace: bench}}
spec:
  parentRefs: [{{group: core, kind: Service, name: routed}}]
  rules: [{{matches: [{{path: {{type: Exact, value: /{path}}}}}]}}]
---
"
        );
    }
    for number in 0..IDLE_DESTINATIONS {
        let address = u32::from(network.idle_services()) + u32::from(number);
        let name = format!("idle-{number}");
        text += &service(&name, "plain", address.into(), 8080);
    }
    text
}

/// Our control plane, on a thread of its own.
pub(super) fn start_controller(folder: &Path, manifests: &Path) -> Result<Config, Failure> {
    let flags: Flags = clap::Parser::parse_from([
        Path::new("controller"),
        Path::new("--manifests"),
        manifests,
        Path::new("--state-dir"),
        &folder.join("state"),
    ]);
    let config = Config {
        policy_addr: control(8090),
        destination_addr: control(8086),
        // The application has 8080 on every address.
        identity_addr: control(8087),
        admin_addr: control(9990),
        ..flags.into()
    };
    let own = config.clone();
    std::thread::Builder::new()
        .name("controller".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let ended = runtime.map(|runtime| {
                runtime.block_on(linkerd_controller::run(own, std::future::pending()))
            });
            eprintln!("The control plane ended: {ended:?}");
        })?;
    Ok(config)
}
