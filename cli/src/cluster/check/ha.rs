//! Whether a control plane that is to have several Pods of each component has them.

use super::{Category, Check, Found, core::COMPONENTS};
use crate::{
    cluster::{Cluster, workload::text},
    outcome::Failure,
};
use serde_json::Value;

/// `None` for a control plane that is to have one Pod of each.
pub(super) async fn category(cluster: &Cluster) -> Result<Option<Category>, Failure> {
    let namespace = &cluster.namespace;
    let list = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let mut deployments = cluster.list(&list, "").await?;
    deployments.retain(|one| COMPONENTS.contains(&text(one, "/metadata/name")));
    let hint = format!("kubectl -n {namespace} get deployments,pods -o wide");
    Ok(lacking(&deployments).map(|lacking| Category {
        name: "linkerd-ha-checks",
        checks: vec![Check::new(
            "multiple replicas of control plane pods",
            Found::if_none(&lacking, |text| Found::warning(text, hint)),
        )],
    }))
}

/// Deployments of which fewer than two Pods are ready, where any is to have several.
fn lacking(deployments: &[Value]) -> Option<Vec<String>> {
    let number =
        |one: &Value, at: &str| one.pointer(at).and_then(Value::as_u64).unwrap_or_default();
    let is_ha = deployments
        .iter()
        .any(|one| number(one, "/spec/replicas") > 1);
    is_ha.then(|| {
        let ready = deployments.iter().map(|one| {
            let name = text(one, "/metadata/name");
            (name, number(one, "/status/readyReplicas"))
        });
        let few = ready.filter(|(_, ready)| *ready < 2);
        few.map(|(name, ready)| {
            format!("the Deployment {name} has {ready} Pods ready: at least two are to be")
        })
        .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_several_replicas_two_are_to_be_ready_and_of_one_nothing_is_said() {
        let of = |replicas: u64, ready: u64| {
            json!({
                "metadata": {"name": "linkerd-identity"},
                "spec": {"replicas": replicas}, "status": {"readyReplicas": ready},
            })
        };
        assert_eq!(lacking(&[of(1, 0), of(1, 1)]), None);
        assert_eq!(lacking(&[of(3, 2), of(2, 2)]), Some(Vec::new()));
        let lacking = lacking(&[of(3, 3), of(1, 1)]).unwrap();
        assert_eq!(lacking.len(), 1, "{lacking:?}");
        assert!(lacking[0].contains("linkerd-identity has 1 Pods ready"));
    }
}
