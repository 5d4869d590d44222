//! Sidecars of applications: whether they are ready, trust what the control plane trusts, and are of its version; and Pods
//! that should have one and have none.

use super::{Category, Check, Found, core, misplaced, opaque};
use crate::{
    cluster::{
        Cluster,
        workload::{SIDECAR, given_anchors, is_ready, is_up, sidecar, text},
    },
    outcome::Failure,
};
use linkerd_controller::inject::{self, Annotations, Mesh, Place, Values};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub(super) async fn categories(
    cluster: &Cluster,
    namespace: Option<&str>,
) -> Result<Vec<Category>, Failure> {
    let mut checks = Vec::new();
    let list = match namespace {
        None => "/api/v1/pods".to_owned(),
        Some(name) => {
            let what = "data plane namespace exists";
            if cluster
                .get(&format!("/api/v1/namespaces/{name}"))
                .await?
                .is_none()
            {
                checks.push(Check::error(
                    what,
                    format!("there is no namespace {name}"),
                    "kubectl get namespaces",
                ));
                return Ok(vec![Category {
                    name: "linkerd-data-plane",
                    checks,
                }]);
            }
            checks.push(Check::good(what));
            format!("/api/v1/namespaces/{name}/pods")
        }
    };
    let (mut found, identity) = sidecars(cluster, &list, namespace).await?;
    checks.append(&mut found);
    Ok(vec![
        Category {
            name: "linkerd-data-plane",
            checks,
        },
        Category {
            name: "linkerd-identity-data-plane",
            checks: vec![identity],
        },
    ])
}

/// Checks of the Pods of a list, and that of their anchors.
async fn sidecars(
    cluster: &Cluster,
    list: &str,
    namespace: Option<&str>,
) -> Result<(Vec<Check>, Check), Failure> {
    let mut checks = Vec::new();
    let mut pods = cluster.list(list, "").await?;
    pods.retain(|pod| is_up(pod) && !is_component(pod));
    let (meshed, plain): (Vec<&Value>, Vec<&Value>) = pods.iter().partition(|pod| {
        sidecar(pod).is_some() && label(pod, "linkerd.io/control-plane-ns") == cluster.namespace
    });
    let values = cluster
        .config_map("linkerd-config")
        .await?
        .unwrap_or_default();
    let values = Values::from_yaml(text(&values, "/data/values")).unwrap_or_default();
    let at = namespace.map_or_else(|| "-A".to_owned(), |name| format!("-n {name}"));
    let unready_pods: Vec<&&Value> = meshed
        .iter()
        .filter(|pod| !is_ready(pod) && !is_proxy_ready(pod))
        .collect();
    let unready: Vec<String> = unready_pods
        .iter()
        .map(|pod| format!("{}: {}", place(pod), core::why_unready(pod)))
        .collect();
    let hint = match unready_pods.first() {
        Some(pod) => format!(
            "kubectl get pods {at}; kubectl -n {} logs {} -c {SIDECAR}",
            text(pod, "/metadata/namespace"),
            text(pod, "/metadata/name")
        ),
        None => String::new(),
    };
    checks.push(Check::new(
        "data plane proxies are ready",
        Found::if_none(&unready, |text| Found::not_yet(text, hint)),
    ));
    let missing = missing(cluster, &values, &plain).await?;
    let hint = format!(
        "{}; kubectl get events -A says why if they stay so",
        restart(&missing)
    );
    checks.push(Check::new(
        "pods that ask for a proxy have one",
        Found::if_none(&missing, |text| Found::warning(text, hint)),
    ));
    let version = values.version();
    let old: Vec<String> = meshed
        .iter()
        .filter_map(|pod| {
            let own = annotation(pod, "linkerd.io/proxy-version");
            (own != version)
                .then(|| format!("{} has {own}; the control plane has {version}", place(pod)))
        })
        .collect();
    checks.push(Check::new(
        "data plane is up-to-date",
        Found::if_none(&old, |text| Found::warning(text, restart(&old))),
    ));
    let defaults = &values.proxy.opaque_ports;
    let list = match namespace {
        Some(name) => format!("/api/v1/namespaces/{name}/services"),
        None => "/api/v1/services".to_owned(),
    };
    let services = cluster.list(&list, "").await?;
    checks.extend(misplaced::checks(pods.iter(), &services));
    checks.push(opaque::check(&services, &meshed, defaults));
    Ok((checks, anchors(cluster, &meshed).await?))
}

/// Whether sidecars believe what the control plane believes.
async fn anchors(cluster: &Cluster, meshed: &[&Value]) -> Result<Check, Failure> {
    let anchors = cluster
        .config_map("linkerd-identity-trust-roots")
        .await?
        .unwrap_or_default();
    let anchors = text(&anchors, "/data/ca-bundle.crt").trim();
    let other: Vec<String> = meshed
        .iter()
        .filter(|pod| trusts_else(pod, anchors))
        .map(|pod| place(pod))
        .collect();
    Ok(Check::new(
        "data plane proxies certificate match CA",
        Found::if_none(&other, |text| {
            Found::warning(
                format!("they have other trust anchors than the control plane:\n{text}"),
                restart(&other),
            )
        }),
    ))
}

/// Starts the Deployments anew of the namespaces of Pods, which are listed as `NAMESPACE/NAME`.
fn restart(pods: &[String]) -> String {
    let namespaces = pods.iter().filter_map(|pod| pod.split_once('/'));
    let namespaces: BTreeSet<&str> = namespaces.map(|(namespace, _)| namespace).collect();
    let commands = namespaces
        .iter()
        .map(|namespace| format!("kubectl -n {namespace} rollout restart deploy"));
    commands.collect::<Vec<_>>().join("; ")
}

fn is_component(pod: &Value) -> bool {
    !label(pod, "linkerd.io/control-plane-component").is_empty()
}

fn label<'a>(pod: &'a Value, key: &str) -> &'a str {
    of(pod, "/metadata/labels", key)
}

fn annotation<'a>(pod: &'a Value, key: &str) -> &'a str {
    of(pod, "/metadata/annotations", key)
}

fn of<'a>(pod: &'a Value, map: &str, key: &str) -> &'a str {
    let value = pod.pointer(map).and_then(|map| map.get(key));
    value.and_then(Value::as_str).unwrap_or_default()
}

fn place(pod: &Value) -> String {
    format!(
        "{}/{}",
        text(pod, "/metadata/namespace"),
        text(pod, "/metadata/name")
    )
}

fn is_proxy_ready(pod: &Value) -> bool {
    let lists = ["/status/containerStatuses", "/status/initContainerStatuses"];
    let mut statuses = lists
        .iter()
        .filter_map(|at| pod.pointer(at)?.as_array())
        .flatten();
    statuses
        .any(|status| text(status, "/name") == SIDECAR && status.get("ready") == Some(&true.into()))
}

/// Whether a sidecar was given other anchors than these.
fn trusts_else(pod: &Value, anchors: &str) -> bool {
    given_anchors(pod).is_some_and(|given| given.trim() != anchors)
}

/// Pods that the injector would add a sidecar to, and that have none.
async fn missing(
    cluster: &Cluster,
    values: &Values,
    pods: &[&Value],
) -> Result<Vec<String>, Failure> {
    let mesh = Mesh {
        namespace: cluster.namespace.clone(),
        created_by: String::new(),
        has_native_sidecars: true,
    };
    let mut namespaces = BTreeMap::<String, Annotations>::new();
    let mut missing = Vec::new();
    for pod in pods {
        let name = text(pod, "/metadata/namespace");
        // Of these the webhook is not asked.
        if sidecar(pod).is_some()
            || name == cluster.namespace
            || ["kube-system", "cert-manager"].contains(&name)
        {
            continue;
        }
        if !namespaces.contains_key(name) {
            let namespace = cluster
                .get(&format!("/api/v1/namespaces/{name}"))
                .await?
                .unwrap_or_default();
            let annotations = namespace.pointer("/metadata/annotations").cloned();
            let annotations = annotations.and_then(|map| serde_json::from_value(map).ok());
            namespaces.insert(name.to_owned(), annotations.unwrap_or_default());
        }
        let place_of = Place {
            namespace: name.to_owned(),
            annotations: namespaces.get(name).cloned().unwrap_or_default(),
            ..Place::default()
        };
        if inject::pod(&mesh, values, pod, &place_of).injected.is_ok() {
            missing.push(place(pod));
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::workload::ANCHORS;
    use serde_json::json;

    #[test]
    fn sidecars_that_were_given_other_anchors_are_told_apart() {
        let pod = |variable: Value| json!({"spec": {"initContainers": [{"name": SIDECAR, "env": [variable]}]}});
        assert!(trusts_else(
            &pod(json!({"name": ANCHORS, "value": "old\n"})),
            "new"
        ));
        assert!(!trusts_else(
            &pod(json!({"name": ANCHORS, "value": "new\n"})),
            "new"
        ));
        assert!(!trusts_else(
            &pod(json!({"name": format!("{ANCHORS}_FILE"), "value": "/a"})),
            "new"
        ));
    }
}
