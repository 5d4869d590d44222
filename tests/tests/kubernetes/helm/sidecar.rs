//! The sidecars of the control plane's Pods, which are in the chart, are those that the injector would add.

use super::NAMESPACE;
use linkerd_charts::{Chart, Release, Values, render};
use linkerd_controller::inject::{self, Mesh, Place};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is in the chart only: nobody comes to the identity service without TLS.
/// Anchors are a file, so that new ones need no restart; other namespaces have no such ConfigMap.
const ONLY_HERE: [&str; 2] = [
    "LINKERD2_PROXY_INBOUND_PORTS_REQUIRE_TLS",
    "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS_FILE",
];

fn variables(container: &Value) -> BTreeMap<&str, Value> {
    let env = container["env"].as_array().unwrap().iter();
    env.map(|variable| {
        let of = variable.get("value").or_else(|| variable.get("valueFrom"));
        (variable["name"].as_str().unwrap(), of.unwrap().clone())
    })
    .collect()
}

/// Takes what the chart added out of a Pod's template.
fn take(template: &mut Value, list: &str, name: &str) -> Option<Value> {
    let items = template.pointer_mut(list)?.as_array_mut()?;
    let at = items.iter().position(|item| item["name"] == name)?;
    Some(items.remove(at))
}

/// The objects of the control plane, with these values.
pub(crate) fn rendered(set: &str) -> Vec<Value> {
    let mut values = Values::default();
    values.add_set(set, false).unwrap();
    let values = values.over_defaults(Chart::ControlPlane).unwrap();
    let release = Release {
        name: "linkerd-control-plane",
        namespace: NAMESPACE,
        service: "Helm",
    };
    render(Chart::ControlPlane, &release, &values).unwrap()
}

#[test]
#[expect(clippy::too_many_lines, reason = "two renderings side by side")]
fn sidecars_of_the_control_plane_are_as_the_injector_makes_them() {
    for (set, init) in [
        ("controllerReplicas=1", Some("linkerd-init")),
        ("cniEnabled=true", Some("linkerd-network-validator")),
        ("proxy.mode=explicit", None),
        (
            "disableIPv6=false,proxy.gid=2102,proxy.resources.cpu.request=7m",
            Some("linkerd-init"),
        ),
    ] {
        let objects = rendered(set);
        let config = objects
            .iter()
            .find(|object| object["metadata"]["name"] == "linkerd-config");
        let text = config.unwrap()["data"]["values"].as_str().unwrap();
        let mut values = inject::Values::from_yaml(text).unwrap();
        // It waits for nobody, and the API server is called past it.
        values.proxy.native_sidecar = false;
        values.proxy.awaits = false;
        let api = values.proxy_init.kube_api_server_ports.clone();
        values.proxy_init.ignore_outbound_ports = api;
        for deployment in objects
            .iter()
            .filter(|object| object["kind"] == "Deployment")
        {
            let name = &deployment["metadata"]["name"];
            let mut template = deployment["spec"]["template"].clone();
            let mut ours = take(&mut template, "/spec/containers", "linkerd-proxy").unwrap();
            let our_init = init.and_then(|init| take(&mut template, "/spec/initContainers", init));
            assert_eq!(our_init.is_some(), init.is_some(), "{set} {name}");
            let volumes = template
                .pointer_mut("/spec/volumes")
                .unwrap()
                .as_array_mut()
                .unwrap();
            volumes.retain(|volume| !volume["name"].as_str().unwrap().starts_with("linkerd-"));
            let mounts = ours
                .pointer_mut("/volumeMounts")
                .unwrap()
                .as_array_mut()
                .unwrap();
            mounts.retain(|mount| mount["name"] != "trust-roots");
            template["metadata"]["annotations"] = json!({"linkerd.io/inject": "enabled"});
            let mesh = Mesh {
                namespace: NAMESPACE.to_owned(),
                created_by: "test".to_owned(),
                has_native_sidecars: false,
            };
            let place = Place {
                namespace: NAMESPACE.to_owned(),
                ..Place::default()
            };
            let verdict = inject::pod(&mesh, &values, &template, &place);
            assert!(
                verdict.injected.is_ok(),
                "{set} {name}: {:?}",
                verdict.injected
            );
            let added = |wanted: &str| {
                let mut all = verdict.patch.iter().map(|operation| &operation.value);
                all.find(|value| value["name"] == wanted && value["image"].is_string())
                    .unwrap()
            };
            let theirs = added("linkerd-proxy");
            let wanted = variables(theirs);
            for (variable, value) in variables(&ours) {
                if !ONLY_HERE.contains(&variable) {
                    assert_eq!(
                        Some(&value),
                        wanted.get(variable),
                        "{set} {name}: {variable}"
                    );
                }
            }
            for field in [
                "image",
                "imagePullPolicy",
                "ports",
                "volumeMounts",
                "livenessProbe",
                "readinessProbe",
                "securityContext",
                "resources",
                "terminationMessagePolicy",
            ] {
                assert_eq!(ours[field], theirs[field], "{set} {name}: {field}");
            }
            if let (Some(init), Some(ours)) = (init, our_init) {
                assert_eq!(
                    ours["securityContext"],
                    added(init)["securityContext"],
                    "{set} {name}"
                );
                assert_eq!(ours["command"], added(init)["command"], "{set} {name}");
                let words = |container: &Value| {
                    let args = container["args"].as_array().unwrap().iter();
                    let words: Vec<_> = args
                        .map(|word| word.as_str().unwrap().replace('=', " "))
                        .collect();
                    words.join(" ")
                };
                assert_eq!(words(&ours), words(added(init)), "{set} {name}");
            }
        }
    }
}
