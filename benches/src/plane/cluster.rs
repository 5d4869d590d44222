//! Fills an API server, and changes things in it.

use crate::Failure;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use linkerd_tests::api_server::{ApiServer, path};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

pub(super) const NAMESPACE: &str = "bench";
/// Requests to the API server at a time.
const AT_ONCE: usize = 32;

pub(super) struct Cluster {
    api: ApiServer,
    most_services: usize,
    pods: usize,
    services: usize,
    /// How often each of the things was changed.
    one: AtomicUsize,
    all: AtomicUsize,
    endpoint: AtomicUsize,
}

impl Cluster {
    pub(super) async fn start(most_services: usize) -> Result<Self, Failure> {
        let api = ApiServer::start().await;
        let api = api.ok_or("no API server: run cargo xtask tools")?;
        api.try_apply(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE},
        }))
        .await?;
        Ok(Self {
            api,
            most_services,
            pods: 0,
            services: 0,
            one: AtomicUsize::new(0),
            all: AtomicUsize::new(0),
            endpoint: AtomicUsize::new(0),
        })
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.api.kubeconfig()
    }

    pub(super) const fn services(&self) -> usize {
        self.services
    }

    /// Adds Pods until there are so many, and a Service with an EndpointSlice for each ten. The Services select nothing,
    /// so that the slices are as we write them.
    pub(super) async fn grow(&mut self, pods: usize) -> Result<(), Failure> {
        let services = pods.div_ceil(10).min(self.most_services);
        let new = (self.pods..pods).map(|number| self.add_pod(number));
        stream::iter(new)
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let new = (0..services).map(|number| self.add_service(number, services, pods));
        stream::iter(new)
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        // What the measured changes are made to: there from the beginning, so that each of them is a change.
        self.server(&self.one, "one", 0).await?;
        self.server(&self.all, "all", 0).await?;
        (self.pods, self.services) = (pods, services);
        Ok(())
    }

    async fn add_pod(&self, number: usize) -> Result<(), Failure> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("p-{number}"), "namespace": NAMESPACE,
                "labels": {
                    "app": format!("s-{}", number % 1000), "tier": "bench", "pod": format!("p-{number}"),
                    "linkerd.io/control-plane-ns": "linkerd", "pod-template-hash": "6f9d54c7b8",
                },
                "annotations": {"linkerd.io/inject": "enabled"},
            },
            "spec": {
                "automountServiceAccountToken": false,
                "containers": [
                    {"name": "app", "image": "app", "ports": [{"containerPort": 8080, "name": "http"}]},
                    {"name": "linkerd-proxy", "image": "proxy", "ports": [{"containerPort": 4143, "name": "linkerd-proxy"}]},
                ],
            },
        });
        let posted = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let request = Request::post(posted).header("content-type", "application/json");
        let _: Value = self
            .api
            .client
            .request(request.body(pod.to_string().into_bytes())?)
            .await?;
        let ip = address(number);
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        self.merge(&format!("{}/status", path(&pod)), &status).await
    }

    async fn add_service(
        &self,
        number: usize,
        services: usize,
        pods: usize,
    ) -> Result<(), Failure> {
        let name = format!("s-{number}");
        self.api
            .try_apply(&json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
            }))
            .await?;
        let members = (number..pods).step_by(services.max(1)).take(100);
        let endpoints: Vec<_> = match number {
            // The one that is changed: as it is before the next change.
            0 => Self::popular(self.endpoint.load(Ordering::Relaxed) + 1),
            _ => members.map(|pod| endpoint(pod, true)).collect(),
        };
        self.api
            .try_apply(&slice(number, &json!(endpoints)))
            .await?;
        Ok(())
    }

    /// The endpoints of the Service that every proxy watches, of which one comes and goes.
    fn popular(count: usize) -> Vec<Value> {
        vec![endpoint(0, true), endpoint(1, count.is_multiple_of(2))]
    }

    /// What one proxy is told of.
    pub(super) async fn change_one(&self) -> Result<(), Failure> {
        self.server(&self.one, "one", 1).await
    }

    /// Whether requests to the Pod `p-0` are to be let in now.
    pub(super) fn is_open(&self) -> bool {
        self.one.load(Ordering::Relaxed).is_multiple_of(2)
    }

    /// What a Pod calls itself.
    pub(super) fn workload(&self, pod: usize) -> String {
        format!(r#"{{"ns":"{NAMESPACE}","pod":"p-{pod}"}}"#)
    }

    /// Who a Pod is.
    pub(super) fn identity(&self) -> String {
        format!("default.{NAMESPACE}.serviceaccount.identity.linkerd.cluster.local")
    }

    /// A token of a Pod's account.
    pub(super) async fn token(&self) -> String {
        self.api
            .token(NAMESPACE, "default", "identity.l5d.io")
            .await
    }

    /// What every proxy is told of.
    pub(super) async fn change_all(&self) -> Result<(), Failure> {
        self.server(&self.all, "all", 1).await
    }

    /// A Server that says something else each time.
    async fn server(&self, count: &AtomicUsize, name: &str, more: usize) -> Result<(), Failure> {
        let count = count.fetch_add(more, Ordering::Relaxed) + more;
        let access = if count.is_multiple_of(2) {
            "all-unauthenticated"
        } else {
            "deny"
        };
        let (selector, port) = match name {
            "one" => (json!({"pod": "p-0"}), 8080),
            _ => (json!({"tier": "bench"}), 9090),
        };
        self.api
            .try_apply(&json!({
                "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"podSelector": {"matchLabels": selector}, "port": port, "proxyProtocol": "HTTP/1", "accessPolicy": access},
            }))
            .await?;
        Ok(())
    }

    /// An endpoint of the Service that every proxy watches, which goes or comes back.
    pub(super) async fn change_endpoint(&self) -> Result<(), Failure> {
        let count = self.endpoint.fetch_add(1, Ordering::Relaxed);
        let endpoints = Self::popular(count);
        self.api.try_apply(&slice(0, &json!(endpoints))).await?;
        Ok(())
    }

    async fn merge(&self, path: &str, change: &Value) -> Result<(), Failure> {
        let request = Request::patch(path).header("content-type", "application/merge-patch+json");
        let request = request.body(change.to_string().into_bytes())?;
        let _: Value = self.api.client.request(request).await?;
        Ok(())
    }
}

fn address(pod: usize) -> String {
    format!(
        "10.{}.{}.{}",
        1 + pod / 62_500,
        pod / 250 % 250,
        1 + pod % 250
    )
}

fn endpoint(pod: usize, is_ready: bool) -> Value {
    json!({
        "addresses": [address(pod)], "conditions": {"ready": is_ready, "serving": is_ready},
        "targetRef": {"kind": "Pod", "name": format!("p-{pod}"), "namespace": NAMESPACE},
    })
}

fn slice(service: usize, endpoints: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("s-{service}-1"), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": format!("s-{service}")},
        },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}
