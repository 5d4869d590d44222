//! `linkerd diagnostics proxy-metrics` and `controller-metrics`: `/metrics` of sidecars and of the control plane.

use super::{
    Cluster, Which, forward, obfuscate,
    workload::{Target, is_ready, text},
};
use crate::outcome::{Failure, Outcome, plain, show};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::time::timeout;

/// What is done to a page before it is shown.
type Edit = fn(String) -> String;

/// Longest wait for a page.
const LIMIT: Duration = Duration::from_secs(10);
/// Largest page that is read.
const MAX_PAGE: usize = 64 << 20;
/// Ports of admin servers, where a Pod does not name them.
const SIDECAR_ADMIN: u16 = 4191;
const CONTROLLER_ADMIN: u16 = 9990;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProxyMetricsFlags {
    /// KIND/NAME of a workload; its Pods' sidecars are asked.
    #[arg(value_name = "KIND/NAME", required_unless_present = "addr")]
    target: Option<Target>,
    /// Namespace; absent: that of the kubeconfig's context.
    #[arg(long, short)]
    namespace: Option<String>,
    /// A sidecar's admin server, in place of ports that are forwarded.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "target")]
    addr: Option<String>,
    /// Names of workloads, Services, clients and hosts are hashes: the page can be shown to others.
    #[arg(long)]
    obfuscate: bool,
    #[command(flatten)]
    which: Which,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ControllerMetricsFlags {
    /// An admin server of the control plane, in place of ports that are forwarded.
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    #[command(flatten)]
    which: Which,
}

/// `linkerd diagnostics proxy-metrics`.
pub(crate) async fn proxy_metrics(flags: ProxyMetricsFlags) -> Result<Outcome, Failure> {
    let edit: Edit = if flags.obfuscate {
        obfuscate::page
    } else {
        |page| page
    };
    if let Some(addr) = &flags.addr {
        show(&edit(page(forward::to_address(addr).await?, addr).await?))?;
        return Ok(Outcome::Good);
    }
    let Some(target) = &flags.target else {
        return Err(Failure::usage("KIND/NAME is needed"));
    };
    let cluster = Cluster::connect(&flags.which).await?;
    let namespace = flags
        .namespace
        .as_deref()
        .unwrap_or(&cluster.default_namespace);
    let found = target.pods(&cluster, namespace).await?;
    if found.is_template || found.pods.is_empty() {
        return Err(Failure::new(format!(
            "{}/{} has no Pods",
            target.plural, target.name
        )));
    }
    let pods = found.pods.iter().map(|pod| {
        (
            pod,
            forward::port(pod, "linkerd-admin", SIDECAR_ADMIN),
            "linkerd-proxy".to_owned(),
        )
    });
    metrics(&cluster, namespace, pods.collect(), edit).await
}

/// `linkerd diagnostics controller-metrics`.
pub(crate) async fn controller_metrics(flags: ControllerMetricsFlags) -> Result<Outcome, Failure> {
    if let Some(addr) = &flags.addr {
        show(&page(forward::to_address(addr).await?, addr).await?)?;
        return Ok(Outcome::Good);
    }
    let cluster = Cluster::connect(&flags.which).await?;
    let list = format!("/api/v1/namespaces/{}/pods", cluster.namespace);
    let query =
        crate::fetch::query(&[("labelSelector", Some("linkerd.io/control-plane-component"))]);
    let pods = cluster.list(&list, &query).await?;
    if pods.is_empty() {
        return Err(Failure::new(format!(
            "there are no Pods of a control plane in the namespace {}",
            cluster.namespace
        ))
        .hint("linkerd check; -L names another namespace"));
    }
    let all = pods.iter().flat_map(admin_ports).collect();
    metrics(&cluster, &cluster.namespace, all, |page| page).await
}

/// The admin ports of a Pod's containers, but for the sidecar's.
fn admin_ports(pod: &serde_json::Value) -> Vec<(&serde_json::Value, u16, String)> {
    let containers = pod
        .pointer("/spec/containers")
        .and_then(serde_json::Value::as_array);
    let containers = containers.into_iter().flatten();
    let containers = containers.filter(|container| text(container, "/name") != "linkerd-proxy");
    containers
        .map(|container| {
            let ports = container.get("ports").and_then(serde_json::Value::as_array);
            let mut ports = ports.into_iter().flatten();
            let admin = ports.find(|port| {
                let name = text(port, "/name");
                name.ends_with("-admin") || name == "admin-http"
            });
            let number = admin.and_then(|port| port.get("containerPort")?.as_u64());
            let number = number.and_then(|number| u16::try_from(number).ok());
            (
                pod,
                number.unwrap_or(CONTROLLER_ADMIN),
                text(container, "/name").to_owned(),
            )
        })
        .collect()
}

/// Pages of metrics, each with a heading. One that cannot be had is said, and the others are shown.
async fn metrics(
    cluster: &Cluster,
    namespace: &str,
    pods: Vec<(&serde_json::Value, u16, String)>,
    edit: Edit,
) -> Result<Outcome, Failure> {
    let (count, mut are_all_there) = (pods.len(), true);
    for (at, (pod, port, container)) in pods.into_iter().enumerate() {
        let name = text(pod, "/metadata/name");
        let asked = async {
            if !is_ready(pod) {
                eprintln!("warning: the Pod {name} is not ready");
            }
            let io = forward::to_pod(cluster, namespace, name, port).await?;
            match page(io, name).await {
                Ok(page) => Ok(page),
                Err(failure) => {
                    let at = (namespace, name, port);
                    Err(forward::explained(failure, cluster, at).await)
                }
            }
        };
        let heading = format!(
            "#\n# POD {} CONTAINER {} ({} of {count})\n",
            plain(name),
            plain(&container),
            at + 1
        );
        match asked.await {
            Ok(page) => show(&format!("{heading}#\n{}\n", edit(page)))?,
            Err(failure) => {
                are_all_there = false;
                show(&format!(
                    "{heading}# ERROR {}\n#\n",
                    plain(&failure.to_string())
                ))?;
            }
        }
    }
    Ok(Outcome::when(are_all_there))
}

/// `/metrics` over a connection.
async fn page(io: Box<dyn forward::Io>, what: &str) -> Result<String, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::new(format!(
            "{what}: /metrics cannot be read: {}",
            super::chain(error)
        ))
    };
    let exchange = async {
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .map_err(|error| failed(&error))?;
        let request = Request::get("/metrics")
            .header(header::HOST, "localhost")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        let read = async {
            let response = send
                .send_request(request)
                .await
                .map_err(|error| failed(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_PAGE).collect().await;
            let body = body.map_err(|error| failed(error.as_ref()))?.to_bytes();
            if !status.is_success() {
                return Err(Failure::new(format!("{what}: /metrics answers {status}")));
            }
            Ok(String::from_utf8_lossy(&body).into_owned())
        };
        tokio::pin!(connection, read);
        tokio::select! {
            page = &mut read => page,
            // The server may close before the answer is taken up here.
            _ = &mut connection => read.await,
        }
    };
    match timeout(LIMIT, exchange).await {
        Ok(page) => page,
        Err(_) => Err(Failure::new(format!("{what}: no answer within {LIMIT:?}"))),
    }
}
