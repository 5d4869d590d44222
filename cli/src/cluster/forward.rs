//! A connection to a port of a Pod: straight to an address that somebody names, or through the API server, as
//! `kubectl port-forward` makes it.

use super::{
    Cluster, chain,
    workload::{self, is_ready, text},
};
use crate::outcome::Failure;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::Value;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

/// Longest wait for a connection.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a kubelet is asked why a port is of no use.
const WHY: Duration = Duration::from_secs(2);

/// A stream of bytes, both ways.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects to an address `HOST:PORT`.
pub(crate) async fn to_address(address: &str) -> Result<Box<dyn Io>, Failure> {
    match timeout(LIMIT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(Failure::new(format!("{address}: {error}"))),
        Err(_) => Err(Failure::new(format!(
            "{address}: no connection within {LIMIT:?}"
        ))),
    }
}

/// Connects to a port of a Pod, through the API server.
pub(crate) async fn to_pod(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<Box<dyn Io>, Failure> {
    let what = format!("port {port} of the Pod {namespace}/{pod}");
    let hint = format!(
        "kubectl -n {namespace} port-forward {pod} {port}, and --addr 127.0.0.1:{port} here"
    );
    let api = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let forwarded = timeout(LIMIT, api.portforward(pod, &[port])).await;
    let mut forwarded = match forwarded {
        Ok(Ok(forwarded)) => forwarded,
        // Which right is missing it need not say.
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            return Err(Failure::new(format!(
                "{what} cannot be forwarded: {}",
                status.message
            ))
            .hint(format!(
                "kubectl -n {namespace} auth can-i get pods/portforward, and create: both rights are needed"
            )));
        }
        Ok(Err(error)) => {
            return Err(
                Failure::new(format!("{what} cannot be forwarded: {}", chain(&error))).hint(hint),
            );
        }
        Err(_) => {
            return Err(Failure::new(format!(
                "{what} cannot be forwarded: no answer within {LIMIT:?}"
            ))
            .hint(hint));
        }
    };
    match forwarded.take_stream(port) {
        Some(stream) => Ok(Box::new(stream)),
        None => Err(Failure::new(format!(
            "{what} cannot be forwarded: the API server gives no stream"
        ))
        .hint(hint)),
    }
}

/// What the kubelet says of a port by which nothing was to be had, where it says something: that nobody listens there. It says
/// so beside the bytes and then ends all; who has written meanwhile does not hear it, and so it is asked anew, in silence.
pub(crate) async fn explained(
    failure: Failure,
    cluster: &Cluster,
    (namespace, pod, port): (&str, &str, u16),
) -> Failure {
    let api = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let asked = async {
        let mut forwarded = api.portforward(pod, &[port]).await.ok()?;
        // Who lets go of the bytes has ended it.
        let _bytes = forwarded.take_stream(port)?;
        forwarded.take_error(port)?.await
    };
    match timeout(WHY, asked).await {
        Ok(Some(why)) => Failure::new(format!("port {port} of the Pod {namespace}/{pod}: {why}"))
            .hint(format!("kubectl -n {namespace} get pod {pod} -o wide")),
        _ => failure,
    }
}

/// The Pod of a component of the control plane that is asked: a ready one, or the one that is named.
pub(crate) fn choose(
    pods: Vec<Value>,
    component: &str,
    wanted: Option<&str>,
) -> Result<String, Failure> {
    let pods = workload::in_order(pods);
    if let Some(wanted) = wanted {
        let known: Vec<&str> = pods.iter().map(|pod| text(pod, "/metadata/name")).collect();
        if known.contains(&wanted) {
            return Ok(wanted.to_owned());
        }
        return Err(
            Failure::usage(format!("{wanted:?} is no Pod of the component {component}"))
                .hint(known.join(", ")),
        );
    }
    match pods.first() {
        Some(pod) if is_ready(pod) => Ok(text(pod, "/metadata/name").to_owned()),
        Some(pod) => Err(Failure::new(format!(
            "no Pod of the component {component} is ready; the newest is {}",
            text(pod, "/metadata/name")
        ))
        .hint("linkerd check")),
        None => Err(
            Failure::new(format!("there is no Pod of the component {component}"))
                .hint("linkerd check; -L names another namespace"),
        ),
    }
}

/// Pods of a component of the control plane.
pub(crate) async fn component(cluster: &Cluster, component: &str) -> Result<Vec<Value>, Failure> {
    let list = format!("/api/v1/namespaces/{}/pods", cluster.namespace);
    let selector = format!("linkerd.io/control-plane-component={component}");
    let query = crate::fetch::query(&[("labelSelector", Some(&selector))]);
    cluster.list(&list, &query).await
}

/// The port of a Pod's container with this name, or else the usual one.
pub(crate) fn port(pod: &Value, name: &str, usual: u16) -> u16 {
    let lists = ["/spec/containers", "/spec/initContainers"];
    let containers = lists
        .iter()
        .filter_map(|at| pod.pointer(at)?.as_array())
        .flatten();
    let ports = containers
        .filter_map(|container| container.get("ports")?.as_array())
        .flatten();
    let mut named = ports.filter(|port| port.get("name").and_then(Value::as_str) == Some(name));
    let number = named.find_map(|port| port.get("containerPort")?.as_u64());
    number
        .and_then(|number| u16::try_from(number).ok())
        .unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"ports": [{"name": "linkerd-admin", "containerPort": 4192}]}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    #[test]
    fn a_ready_pod_of_a_component_is_asked_and_where_there_is_none_it_is_said() {
        let pods = || vec![pod("a", "False"), pod("b", "True")];
        assert_eq!(choose(pods(), "destination", None).unwrap(), "b");
        assert_eq!(choose(pods(), "destination", Some("a")).unwrap(), "a");
        let failed = |pods, wanted| choose(pods, "destination", wanted).unwrap_err().to_string();
        assert!(failed(pods(), Some("c")).contains("try: b, a"));
        assert!(failed(vec![pod("a", "False")], None).contains("the newest is a"));
        assert!(failed(Vec::new(), None).contains("there is no Pod"));
    }

    #[test]
    fn ports_are_found_by_name() {
        assert_eq!(port(&pod("a", "True"), "linkerd-admin", 4191), 4192);
        assert_eq!(port(&pod("a", "True"), "other", 4191), 4191);
    }
}
