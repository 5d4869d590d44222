//! `KIND/NAME`, with kubectl's short names, and the Pods that it stands for.

use super::Cluster;
use crate::outcome::Failure;
use linkerd_policy::{
    index::{Index, WorkloadRef},
    manifest,
};
use serde_json::{Value, json};
use std::str::FromStr;

/// Kinds: kubectl's names, the path of the group, the plural.
const KINDS: [(&[&str], &str, &str); 9] = [
    (
        &["deploy", "deployment", "deployments"],
        "apis/apps/v1",
        "deployments",
    ),
    (
        &["sts", "statefulset", "statefulsets"],
        "apis/apps/v1",
        "statefulsets",
    ),
    (
        &["ds", "daemonset", "daemonsets"],
        "apis/apps/v1",
        "daemonsets",
    ),
    (
        &["rs", "replicaset", "replicasets"],
        "apis/apps/v1",
        "replicasets",
    ),
    (
        &["rc", "replicationcontroller", "replicationcontrollers"],
        "api/v1",
        "replicationcontrollers",
    ),
    (&["job", "jobs"], "apis/batch/v1", "jobs"),
    (&["cj", "cronjob", "cronjobs"], "apis/batch/v1", "cronjobs"),
    (&["po", "pod", "pods"], "api/v1", "pods"),
    (&["ns", "namespace", "namespaces"], "api/v1", "namespaces"),
];

/// A kind and a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    group: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) name: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "KIND/NAME is wanted, like deploy/web; kinds are deploy, sts, ds, rs, rc, job, cj, po, ns";
        let (kind, name) = text.split_once('/').ok_or(wanted)?;
        let kind = kind.to_ascii_lowercase();
        let found = KINDS
            .iter()
            .find(|(names, ..)| names.contains(&kind.as_str()));
        let &(_, group, plural) = found.ok_or(wanted)?;
        // It becomes part of a path.
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(format!("{name:?} is no name of an object"));
        }
        Ok(Self {
            group,
            plural,
            name: name.to_owned(),
        })
    }
}

/// What a target stands for.
pub(crate) struct Pods {
    /// The best to ask first: ready ones, then the newest.
    pub(crate) pods: Vec<Value>,
    /// There is none; what there is was made of the template.
    pub(crate) is_template: bool,
}

impl Target {
    /// Its Pods, or one as its template would have it.
    pub(crate) async fn pods(&self, cluster: &Cluster, namespace: &str) -> Result<Pods, Failure> {
        let list = format!("/api/v1/namespaces/{namespace}/pods");
        if self.plural == "namespaces" {
            let list = format!("/api/v1/namespaces/{}/pods", self.name);
            let pods = in_order(cluster.list(&list, "").await?);
            return Ok(Pods {
                pods,
                is_template: false,
            });
        }
        let path = format!(
            "/{}/namespaces/{namespace}/{}/{}",
            self.group, self.plural, self.name
        );
        let object = cluster.get(&path).await?.ok_or_else(|| {
            Failure::new(format!(
                "there is no {}/{} in the namespace {namespace}",
                self.plural, self.name
            ))
            .hint(format!(
                "kubectl -n {namespace} get {}; -n names another namespace",
                self.plural
            ))
        })?;
        if self.plural == "pods" {
            return Ok(Pods {
                pods: vec![object],
                is_template: false,
            });
        }
        if let Some(selector) = object.pointer("/spec/selector").and_then(selector) {
            let query = crate::fetch::query(&[("labelSelector", Some(&selector))]);
            let pods = in_order(cluster.list(&list, &query).await?);
            if !pods.is_empty() {
                return Ok(Pods {
                    pods,
                    is_template: false,
                });
            }
        }
        let template = ["/spec/template", "/spec/jobTemplate/spec/template"];
        let template = template.iter().find_map(|at| object.pointer(at));
        let template = template.ok_or_else(|| {
            Failure::new(format!(
                "{}/{} has no template of Pods",
                self.plural, self.name
            ))
        })?;
        Ok(Pods {
            pods: vec![of_template(template, namespace, &self.name)],
            is_template: true,
        })
    }
}

/// A Pod of a template.
fn of_template(template: &Value, namespace: &str, name: &str) -> Value {
    let metadata = |field: &str| template.pointer(&format!("/metadata/{field}")).cloned();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": namespace, "name": name,
            "labels": metadata("labels"), "annotations": metadata("annotations"),
        },
        "spec": template.get("spec"),
    })
}

/// Running and ready ones first, the newest of them first; without those that have ended.
pub(crate) fn in_order(mut pods: Vec<Value>) -> Vec<Value> {
    let text = |pod: &Value, at: &str| {
        pod.pointer(at)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    pods.retain(|pod| !["Succeeded", "Failed"].contains(&text(pod, "/status/phase").as_str()));
    pods.sort_by_key(|pod| {
        let is_going = pod.pointer("/metadata/deletionTimestamp").is_some();
        (
            std::cmp::Reverse(is_ready(pod) && !is_going),
            std::cmp::Reverse(text(pod, "/metadata/creationTimestamp")),
        )
    });
    pods
}

/// Neither ended nor being deleted.
pub(crate) fn is_up(pod: &Value) -> bool {
    !["Succeeded", "Failed"].contains(&text(pod, "/status/phase"))
        && pod.pointer("/metadata/deletionTimestamp").is_none()
}

/// Whether a Pod's condition says that it is ready.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| {
        condition.get("type") == Some(&"Ready".into())
            && condition.get("status") == Some(&"True".into())
    })
}

/// Name of the sidecar's container.
pub(crate) const SIDECAR: &str = "linkerd-proxy";
/// Its variable for trust anchors.
pub(crate) const ANCHORS: &str = "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS";

/// The sidecar's container of a Pod, wherever it is.
pub(crate) fn sidecar(pod: &Value) -> Option<&Value> {
    let lists = ["/spec/containers", "/spec/initContainers"];
    let mut containers = lists
        .iter()
        .filter_map(|at| pod.pointer(at)?.as_array())
        .flatten();
    containers.find(|container| text(container, "/name") == SIDECAR)
}

/// The trust anchors that a Pod's sidecar was given for its life; one that reads them from a file follows by itself.
pub(crate) fn given_anchors(pod: &Value) -> Option<&str> {
    let mut env = sidecar(pod)?.get("env")?.as_array()?.iter();
    let variable = env.find(|variable| text(variable, "/name") == ANCHORS)?;
    variable.get("value")?.as_str()
}

/// A text of a JSON object.
pub(crate) fn text<'a>(object: &'a Value, at: &str) -> &'a str {
    object
        .pointer(at)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A selector of labels, as lists take it. A ReplicationController's is a bare map.
fn selector(selector: &Value) -> Option<String> {
    let is_bare =
        selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let labels = if is_bare {
        Some(selector)
    } else {
        selector.get("matchLabels")
    };
    let labels = labels.and_then(Value::as_object).into_iter().flatten();
    let mut parts: Vec<String> = labels
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for expression in expressions.into_iter().flatten() {
        let key = expression.get("key")?.as_str()?;
        let values = expression.get("values").and_then(Value::as_array);
        let values: Vec<&str> = values
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match expression.get("operator")?.as_str()? {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    (!parts.is_empty()).then(|| parts.join(","))
}

/// Puts a Pod into an index, and says how it is called there.
pub(crate) fn add(index: &mut Index, mut pod: Value) -> Result<WorkloadRef, Failure> {
    if let Value::Object(fields) = &mut pod {
        // Items of lists come without.
        fields.insert("apiVersion".to_owned(), "v1".into());
        fields.insert("kind".to_owned(), "Pod".into());
    }
    let name = WorkloadRef::Pod {
        ns: text(&pod, "/metadata/namespace").to_owned(),
        pod: text(&pod, "/metadata/name").to_owned(),
    };
    let read = manifest::from_value(pod);
    index.apply(
        read.map_err(|error| Failure::new(format!("the Pod {name} cannot be read: {error}")))?,
    );
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_kubectl_has_for_them() {
        let target: Target = "deploy/web".parse().unwrap();
        assert_eq!(
            (target.plural, target.name.as_str()),
            ("deployments", "web")
        );
        assert_eq!("Pod/web".parse::<Target>().unwrap().plural, "pods");
        for wrong in [
            "web",
            "server/web",
            "deploy/",
            "deploy/../../secrets/a",
            "po/a?b",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pod_that_is_ready_is_asked_before_a_newer_one_that_is_not_and_one_that_goes() {
        let pod = |name: &str, created: &str, ready: &str| {
            json!({
                "metadata": {"name": name, "creationTimestamp": created},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let mut going = pod("going", "2026-01-04T00:00:00Z", "True");
        going["metadata"]["deletionTimestamp"] = "2026-01-05T00:00:00Z".into();
        let mut ended = pod("ended", "2026-01-09T00:00:00Z", "True");
        ended["status"]["phase"] = "Succeeded".into();
        let pods = in_order(vec![
            pod("starting", "2026-01-03T00:00:00Z", "False"),
            pod("old", "2026-01-01T00:00:00Z", "True"),
            going,
            ended,
            pod("new", "2026-01-02T00:00:00Z", "True"),
        ]);
        let names: Vec<_> = pods.iter().map(|pod| text(pod, "/metadata/name")).collect();
        assert_eq!(names, ["new", "old", "going", "starting"]);
    }

    #[test]
    fn selectors_are_written_as_lists_take_them() {
        let written = selector(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        }));
        assert_eq!(written.as_deref(), Some("app=web,tier in (a,b),!old"));
        assert_eq!(selector(&json!({"app": "web"})).as_deref(), Some("app=web"));
    }
}
