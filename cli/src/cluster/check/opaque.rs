//! Whether Services and the Pods behind them say the same of opaque ports: clients go by what is said of the Service, sidecars
//! by what is said of the Pod, and bytes that one side reads as HTTP and the other does not are an outage.

use super::{Check, Found};
use crate::cluster::workload::text;
use linkerd_policy::ports::PortSet;
use serde_json::Value;
use std::collections::BTreeSet;

const ANNOTATION: &str = "config.linkerd.io/opaque-ports";

/// Of the Pods with a sidecar.
pub(super) fn check(services: &[Value], meshed: &[&Value], defaults: &str) -> Check {
    let defaults = PortSet::parse_with_names(defaults, |_| Vec::new()).0;
    let mut wrong = BTreeSet::new();
    for service in services {
        let behind = meshed.iter().filter(|pod| selects(service, pod));
        wrong.extend(behind.flat_map(|pod| unlike(service, pod, &defaults)));
    }
    let wrong: Vec<String> = wrong.into_iter().collect();
    Check::new(
        "opaque ports are properly annotated",
        Found::if_none(&wrong, |text| {
            Found::warning(
                text,
                format!(
                    "kubectl annotate service NAME {ANNOTATION}=PORTS; the same in the Pods' template, or for both on the Namespace"
                ),
            )
        }),
    )
}

fn selects(service: &Value, pod: &Value) -> bool {
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    let labels = pod.pointer("/metadata/labels");
    text(service, "/metadata/namespace") == text(pod, "/metadata/namespace")
        && selector.is_some_and(|selector| {
            !selector.is_empty()
                && selector
                    .iter()
                    .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        })
}

/// What a Service and a Pod behind it say differently. What a Namespace says the injector has written to both of them; of what
/// says nothing the defaults hold.
fn unlike(service: &Value, pod: &Value, defaults: &PortSet) -> Vec<String> {
    let said = |object: &Value, names: &dyn Fn(&str) -> Vec<u16>| {
        let annotations = object.pointer("/metadata/annotations")?;
        let list = annotations.get(ANNOTATION)?.as_str()?;
        Some(PortSet::parse_with_names(list, names).0)
    };
    let of_service = said(service, &|name| {
        ports(service)
            .filter(|port| text(port, "/name") == name)
            .filter_map(|port| number(port.get("port")?))
            .collect()
    });
    let of_pod = said(pod, &|name| named(pod, name).into_iter().collect());
    if of_service.is_none() && of_pod.is_none() {
        return Vec::new();
    }
    let place = |object: &Value| {
        format!(
            "{}/{}",
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name")
        )
    };
    let (service_name, pod_name) = (place(service), place(pod));
    ports(service)
        .filter_map(|declared| {
            let port = number(declared.get("port")?)?;
            let target = match declared.get("targetPort") {
                Some(Value::String(name)) => named(pod, name)?,
                Some(target) => number(target)?,
                None => port,
            };
            let by_default = defaults.contains(target);
            let is = |set: &Option<PortSet>, port| {
                set.as_ref().map_or(by_default, |set| set.contains(port))
            };
            match (is(&of_service, port), is(&of_pod, target)) {
                (true, false) => Some(format!(
                    "port {port} of the Service {service_name} is opaque, and port {target} of the Pod {pod_name} behind it is not"
                )),
                (false, true) => Some(format!(
                    "port {target} of the Pod {pod_name} is opaque, and port {port} of the Service {service_name} before it is not"
                )),
                _ => None,
            }
        })
        .collect()
}

fn ports(service: &Value) -> impl Iterator<Item = &Value> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    ports.into_iter().flatten()
}

fn number(port: &Value) -> Option<u16> {
    port.as_u64()?.try_into().ok()
}

/// The port that a Pod's containers declare under a name.
fn named(pod: &Value, name: &str) -> Option<u16> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array)?;
    let mut ports = containers
        .iter()
        .filter_map(|container| container.get("ports")?.as_array())
        .flatten();
    number(
        ports
            .find(|port| text(port, "/name") == name)?
            .get("containerPort")?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_port_that_only_one_of_both_calls_opaque_is_named() {
        let service = |opaque: Option<&str>| {
            json!({
                "metadata": {"namespace": "shop", "name": "db", "annotations": {ANNOTATION: opaque}},
                "spec": {"selector": {"app": "db"}, "ports": [
                    {"name": "lines", "port": 80, "targetPort": "lines"},
                    {"name": "web", "port": 8080},
                ]},
            })
        };
        let pod = |opaque: Option<&str>| {
            json!({
                "metadata": {"namespace": "shop", "name": "db-0", "labels": {"app": "db", "x": "y"}, "annotations": {ANNOTATION: opaque}},
                "spec": {"containers": [{"ports": [{"name": "lines", "containerPort": 6380}]}]},
            })
        };
        assert!(selects(&service(None), &pod(None)));
        assert!(!selects(
            &json!({"metadata": {"namespace": "shop"}, "spec": {}}),
            &pod(None)
        ));
        let defaults: PortSet = [8080].into_iter().collect();
        let said =
            |of_service, of_pod| unlike(&service(of_service), &pod(of_pod), &defaults).join("; ");
        assert_eq!(said(None, None), "");
        assert_eq!(said(Some("80"), Some("6380")), "");
        assert_eq!(said(Some("lines"), Some("lines")), "");
        assert_eq!(said(Some(""), Some("9999")), "");
        assert_eq!(
            said(Some("80,8080"), None),
            "port 80 of the Service shop/db is opaque, and port 6380 of the Pod shop/db-0 behind it is not"
        );
        assert_eq!(
            said(Some("80"), Some("6380,8080")),
            "port 8080 of the Pod shop/db-0 is opaque, and port 8080 of the Service shop/db before it is not"
        );
    }
}
