//! Ports of the API server, which the control plane calls past its sidecars. Where connections are balanced before the kernel's
//! rules see them, it is the API server's own port that is seen, and no two distributions have the same.

use crate::{cluster::Cluster, outcome::Failure};
use linkerd_charts::{Chart, Values};
use serde_json::Value;
use std::collections::BTreeSet;

/// The chart's value.
const PATH: &str = "proxyInit.kubeAPIServerPorts";
const POINTER: &str = "/proxyInit/kubeAPIServerPorts";
/// Where an API server says that it is.
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const SELECTOR: &str = "kubernetes.io/service-name=kubernetes";

/// Adds the ports of the cluster's API server to those that the chart has, unless somebody has said which they are. Tells
/// whether there are others.
pub(super) async fn add(cluster: &Cluster, values: &mut Values) -> Result<bool, Failure> {
    let all = values.over_defaults(Chart::ControlPlane);
    let all = all.map_err(super::invalid)?;
    let known = all.pointer(POINTER).and_then(Value::as_str);
    let is_said = Value::Object(values.fields().clone())
        .pointer(POINTER)
        .is_some();
    let Some(known) = known.filter(|_| !is_said) else {
        return Ok(false);
    };
    let query = crate::fetch::query(&[("labelSelector", Some(SELECTOR))]);
    let slices = match cluster.list(SLICES, &query).await {
        Ok(slices) => slices,
        Err(failure) => {
            eprintln!("warning: {failure}\nwarning: {PATH} is {known}, as the chart has it");
            return Ok(false);
        }
    };
    let Some(more) = with(known, &slices) else {
        return Ok(false);
    };
    values.set(PATH, more.into()).map_err(super::invalid)?;
    Ok(true)
}

/// A list of ports with those of slices; `None` if it has them.
fn with(known: &str, slices: &[Value]) -> Option<String> {
    let ports = slices
        .iter()
        .filter_map(|slice| slice.get("ports")?.as_array());
    let ports = ports
        .flatten()
        .filter_map(|port| port.get("port")?.as_u64());
    let ports: BTreeSet<String> = ports.map(|port| port.to_string()).collect();
    let has = |port: &String| known.split(',').any(|known| known.trim() == port);
    let new: Vec<String> = ports.into_iter().filter(|port| !has(port)).collect();
    (!new.is_empty()).then(|| format!("{known},{}", new.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_added_that_are_not_there() {
        let slice = |ports: Value| json!({"ports": ports});
        let slices = [
            slice(json!([{"port": 16443}, {"port": 6443}])),
            slice(Value::Null),
            slice(json!([{"port": 16443}, {"name": "any"}])),
        ];
        assert_eq!(with("443,6443", &slices).as_deref(), Some("443,6443,16443"));
        assert_eq!(with("443, 6443,16443", &slices), None);
        assert_eq!(with("443,6443", &[]), None);
    }
}
