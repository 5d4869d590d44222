//! From what slices are to say, and what they say, to what is to be changed. Pure.

use super::{Key, Slices, key};
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use linkerd_policy::{
    index::{ExternalEndpoint, ExternalGroup, ExternalPort},
    resource::discovery::EXTERNAL_MANAGER,
};
use std::collections::{BTreeMap, BTreeSet};

/// Label of a slice: who keeps it.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of a slice: the name of its Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// Label of a slice whose Service has no address.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Most endpoints of a slice, as of those that Kubernetes writes.
const MAX_ENDPOINTS: usize = 100;

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Create(EndpointSlice),
    Replace(EndpointSlice),
    Delete(Key),
}

impl Change {
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Create(slice) | Self::Replace(slice) => key(slice),
            Self::Delete(key) => key.clone(),
        }
    }
}

/// What is to be done so that slices say what they are to. Nothing is deleted before what takes its place is there.
pub(super) fn plan(groups: &[ExternalGroup], found: &Slices) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut left: BTreeSet<&Key> = found.keys().collect();
    let mut names: BTreeSet<Key> = found.keys().cloned().collect();
    for group in groups {
        let ports: Vec<EndpointPort> = group.ports.iter().map(port).collect();
        let mut wanted: BTreeMap<(String, String), Endpoint> = group
            .endpoints
            .iter()
            .map(|endpoint| placed(&group.namespace, endpoint))
            .collect();
        let own = found
            .iter()
            .filter(|(key, slice)| key.0 == group.namespace && is_of(slice, group, &ports));
        // Those that have a place keep it.
        let mut slices: Vec<(&Key, &EndpointSlice, Vec<Endpoint>)> = own
            .map(|(key, slice)| {
                let stay = slice.endpoints.iter().take(MAX_ENDPOINTS);
                let stay = stay.filter_map(|endpoint| wanted.remove(&place(endpoint)?));
                (key, slice, stay.collect())
            })
            .collect();
        let mut new = wanted.into_values();
        for (key, slice, endpoints) in &mut slices {
            // One without any endpoint goes, unless there is something for it.
            let room = MAX_ENDPOINTS.saturating_sub(endpoints.len());
            endpoints.extend(new.by_ref().take(room));
            if endpoints.is_empty() {
                continue;
            }
            left.remove(*key);
            let is_same = slice.endpoints == *endpoints && has_labels(slice, group);
            if !is_same {
                let mut slice = (*slice).clone();
                slice.metadata.labels = Some(labels(group));
                slice.metadata.managed_fields = None;
                slice.endpoints = std::mem::take(endpoints);
                changes.push(Change::Replace(slice));
            }
        }
        loop {
            let endpoints: Vec<_> = new.by_ref().take(MAX_ENDPOINTS).collect();
            if endpoints.is_empty() {
                break;
            }
            let name = free_name(group, &names);
            names.insert((group.namespace.clone(), name.clone()));
            changes.push(Change::Create(EndpointSlice {
                address_type: family(group).to_owned(),
                endpoints,
                metadata: ObjectMeta {
                    name: Some(name),
                    namespace: Some(group.namespace.clone()),
                    labels: Some(labels(group)),
                    ..ObjectMeta::default()
                },
                ports: Some(ports.clone()),
            }));
        }
    }
    changes.extend(left.into_iter().cloned().map(Change::Delete));
    changes
}

/// A name that no slice has.
fn free_name(group: &ExternalGroup, names: &BTreeSet<Key>) -> String {
    let name = |number: usize| format!("linkerd-external-{}-{number}", group.service);
    let mut numbers = 1..;
    let free = numbers.find(|number| !names.contains(&(group.namespace.clone(), name(*number))));
    name(free.unwrap_or_default())
}

/// Whether a slice is for endpoints like those of a group.
fn is_of(slice: &EndpointSlice, group: &ExternalGroup, ports: &[EndpointPort]) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get(SERVICE));
    service == Some(&group.service)
        && slice.address_type == family(group)
        && slice.ports.as_deref().unwrap_or_default() == ports
}

fn family(group: &ExternalGroup) -> &'static str {
    if group.is_ipv6 { "IPv6" } else { "IPv4" }
}

fn labels(group: &ExternalGroup) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (SERVICE.to_owned(), group.service.clone()),
        (MANAGED_BY.to_owned(), EXTERNAL_MANAGER.to_owned()),
    ]);
    if group.is_headless {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

fn has_labels(slice: &EndpointSlice, group: &ExternalGroup) -> bool {
    slice.metadata.labels.as_ref() == Some(&labels(group))
}

/// Who an endpoint is: its workload and its address.
fn place(endpoint: &Endpoint) -> Option<(String, String)> {
    let workload = endpoint.target_ref.as_ref()?.name.clone()?;
    Some((workload, endpoint.addresses.first()?.clone()))
}

fn placed(namespace: &str, endpoint: &ExternalEndpoint) -> ((String, String), Endpoint) {
    let address = endpoint.address.to_string();
    let made = Endpoint {
        addresses: vec![address.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(endpoint.is_ready),
            serving: Some(endpoint.is_ready),
            terminating: Some(false),
        }),
        hostname: endpoint.hostname.clone(),
        target_ref: Some(ObjectReference {
            kind: Some("ExternalWorkload".to_owned()),
            name: Some(endpoint.workload.clone()),
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        }),
        zone: endpoint.zone.clone(),
        ..Endpoint::default()
    };
    ((endpoint.workload.clone(), address), made)
}

fn port(port: &ExternalPort) -> EndpointPort {
    EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: Some(port.name.clone()),
        port: Some(port.port.into()),
        protocol: Some(port.protocol.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn group(service: &str, numbers: impl IntoIterator<Item = u8>) -> ExternalGroup {
        let endpoint = |number: u8| ExternalEndpoint {
            workload: format!("vm-{number:03}"),
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)),
            is_ready: true,
            zone: None,
            hostname: None,
        };
        ExternalGroup {
            namespace: "shop".into(),
            service: service.into(),
            is_headless: false,
            is_ipv6: false,
            ports: vec![ExternalPort {
                name: "http".into(),
                port: 8080,
                protocol: "TCP".into(),
                app_protocol: None,
            }],
            endpoints: numbers.into_iter().map(endpoint).collect(),
        }
    }

    /// As an API server does what is asked of it; what that was, in a line.
    fn apply(groups: &[ExternalGroup], slices: &mut Slices) -> Vec<String> {
        let mut done = Vec::new();
        for change in plan(groups, slices) {
            let key = change.key();
            let what = match change {
                Change::Create(slice) => {
                    let text = format!("+{} {}", key.1, slice.endpoints.len());
                    assert!(slices.insert(key, slice).is_none());
                    text
                }
                Change::Replace(slice) => {
                    let text = format!("={} {}", key.1, slice.endpoints.len());
                    assert!(slices.insert(key, slice).is_some());
                    text
                }
                Change::Delete(key) => {
                    assert!(slices.remove(&key).is_some());
                    format!("-{}", key.1)
                }
            };
            done.push(what);
        }
        assert_eq!(plan(groups, slices), [], "it is as it should be");
        done
    }

    #[test]
    fn slices_have_a_hundred_endpoints_at_most_and_a_change_of_one_changes_one_slice() {
        let mut slices = Slices::new();
        let done = apply(&[group("web", 0..250)], &mut slices);
        let all = [
            "+linkerd-external-web-1 100",
            "+linkerd-external-web-2 100",
            "+linkerd-external-web-3 50",
        ];
        assert_eq!(done, all);
        // One goes, another comes: it takes the place that is free.
        let numbers = (0..250).filter(|number| *number != 30).chain([255]);
        let done = apply(&[group("web", numbers.clone())], &mut slices);
        assert_eq!(done, ["=linkerd-external-web-1 100"]);
        let done = apply(&[group("web", 0..99)], &mut slices);
        assert_eq!(done.len(), 3, "{done:?}");
        assert_eq!(slices.len(), 1);
    }

    #[test]
    fn what_nobody_wants_any_more_goes_after_what_takes_its_place() {
        let mut slices = Slices::new();
        apply(&[group("web", [1]), group("web-1", [2])], &mut slices);
        assert_eq!(slices.len(), 2);
        let mut other = group("web", [1]);
        other.ports[0].port = 9090;
        let done = apply(&[other], &mut slices);
        let wanted = [
            "+linkerd-external-web-2 1",
            "-linkerd-external-web-1",
            "-linkerd-external-web-1-1",
        ];
        assert_eq!(done, wanted);
        assert_eq!(apply(&[], &mut slices), ["-linkerd-external-web-2"]);
    }

    #[test]
    fn what_an_endpoint_says_follows_its_workload() {
        let mut slices = Slices::new();
        apply(&[group("web", [1, 2])], &mut slices);
        let mut changed = group("web", [1, 2]);
        changed.is_headless = true;
        let vm = &mut changed.endpoints[1];
        (vm.is_ready, vm.zone) = (false, Some("z1".into()));
        assert_eq!(
            apply(&[changed], &mut slices),
            ["=linkerd-external-web-1 2"]
        );
        let slice = slices.values().next().unwrap();
        let endpoint = &slice.endpoints[1];
        let conditions = endpoint.conditions.clone().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving),
            (Some(false), Some(false))
        );
        assert_eq!(endpoint.zone.as_deref(), Some("z1"));
        assert!(
            slice
                .metadata
                .labels
                .as_ref()
                .unwrap()
                .contains_key(HEADLESS)
        );
    }
}
