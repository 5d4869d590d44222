//! Whether what the mesh was told of the cluster's networks is so: what lies outside of them is taken for the world outside.

use super::{Check, Found};
use crate::cluster::{Cluster, workload::text};
use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;

/// Three checks, of the values in `linkerd-config`.
pub(super) async fn checks(cluster: &Cluster, values: &str) -> Vec<Check> {
    let values: Value = serde_norway::from_str(values).unwrap_or_default();
    let told = text(&values, "/clusterNetworks");
    let networks: Vec<IpNet> = told
        .split(',')
        .filter_map(|one| one.trim().parse().ok())
        .collect();
    let mut checks = Vec::new();
    for (kind, path, outside) in [
        (
            "node podCIDRs",
            "/api/v1/nodes",
            node as fn(&Value, &[IpNet]) -> Option<String>,
        ),
        ("pods", "/api/v1/pods", pod),
        ("services", "/api/v1/services", service),
    ] {
        let what = format!("cluster networks contains all {kind}");
        let objects = match cluster.list(path, "").await {
            Ok(objects) => objects,
            Err(failure) => {
                checks.push(Check::unseen(what, &failure));
                continue;
            }
        };
        let outside: Vec<String> = objects
            .iter()
            .filter_map(|object| outside(object, &networks))
            .collect();
        checks.push(Check::new(
            what,
            Found::if_none(&outside, |text| {
                Found::warning(
                    format!("clusterNetworks is {told}:\n{text}"),
                    "linkerd upgrade --set-string 'clusterNetworks=...' | kubectl apply -f -, with the networks that are missing",
                )
            }),
        ));
    }
    checks
}

fn addresses<'a>(object: &'a Value, list: &str, field: &str) -> impl Iterator<Item = &'a str> {
    let list = object.pointer(list).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(move |one| match field {
            "" => one.as_str(),
            field => one.get(field)?.as_str(),
        })
}

fn node(node: &Value, networks: &[IpNet]) -> Option<String> {
    let mut all = addresses(node, "/spec/podCIDRs", "").filter_map(|one| one.parse::<IpNet>().ok());
    let outside = all.find(|one| !networks.iter().any(|network| network.contains(one)))?;
    Some(format!(
        "the node {} has {outside}",
        text(node, "/metadata/name")
    ))
}

/// Pods of the host's network have the node's address, which is nobody's to plan.
fn pod(pod: &Value, networks: &[IpNet]) -> Option<String> {
    if pod.pointer("/spec/hostNetwork") == Some(&true.into()) {
        return None;
    }
    let outside = first_outside(addresses(pod, "/status/podIPs", "ip"), networks)?;
    Some(named("Pod", pod, outside))
}

fn service(service: &Value, networks: &[IpNet]) -> Option<String> {
    let outside = first_outside(addresses(service, "/spec/clusterIPs", ""), networks)?;
    Some(named("Service", service, outside))
}

fn first_outside<'a>(
    addresses: impl Iterator<Item = &'a str>,
    networks: &[IpNet],
) -> Option<IpAddr> {
    addresses
        .filter_map(|one| one.parse::<IpAddr>().ok())
        .find(|one| !networks.iter().any(|network| network.contains(one)))
}

fn named(kind: &str, object: &Value, outside: IpAddr) -> String {
    let (namespace, name) = (
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name"),
    );
    format!("the {kind} {namespace}/{name} has {outside}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_outside_of_the_networks_is_named_once_and_headless_services_and_host_networks_are_not()
     {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|one| one.parse().unwrap());
        let cidrs = |all: Value| json!({"metadata": {"name": "a"}, "spec": {"podCIDRs": all}});
        assert_eq!(
            node(&cidrs(json!(["10.1.0.0/16", "fd00:1::/64"])), &networks),
            None
        );
        assert_eq!(
            node(
                &cidrs(json!(["10.1.0.0/16", "11.1.0.0/16", "12.0.0.0/16"])),
                &networks
            )
            .unwrap(),
            "the node a has 11.1.0.0/16"
        );
        assert!(node(&cidrs(json!(["10.0.0.0/7"])), &networks).is_some());
        let meta = json!({"name": "a", "namespace": "b"});
        let of_pod = |host: bool| json!({"metadata": meta, "spec": {"hostNetwork": host}, "status": {"podIPs": [{"ip": "11.0.0.1"}]}});
        assert_eq!(
            pod(&of_pod(false), &networks).unwrap(),
            "the Pod b/a has 11.0.0.1"
        );
        assert_eq!(pod(&of_pod(true), &networks), None);
        let of_service = |ip: &str| json!({"metadata": meta, "spec": {"clusterIPs": [ip]}});
        assert_eq!(service(&of_service("None"), &networks), None);
        assert!(service(&of_service("8.8.8.8"), &networks).is_some());
    }
}
