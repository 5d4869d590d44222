//! Which ExternalWorkloads stand behind which Services: what EndpointSlices of them are to say. Source: control plane §4.7.

use super::{Index, Scope, Workload, store::ZONE_LABEL};
use crate::resource::{
    PortRef, Service,
    workload::{ExternalWorkload, ServicePort},
};
use std::{collections::BTreeMap, net::IpAddr};

/// Endpoints of a Service that have the same ports and are of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalGroup {
    /// Namespace of the Service and of the workloads.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// Whether the Service has no address of its own.
    pub is_headless: bool,
    /// The family.
    pub is_ipv6: bool,
    /// What they serve, in the Service's order.
    pub ports: Vec<ExternalPort>,
    /// In the order of names.
    pub endpoints: Vec<ExternalEndpoint>,
}

/// A port of a Service, as a workload serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExternalPort {
    /// The Service's name for it; empty for one without.
    pub name: String,
    /// The workload's number.
    pub port: u16,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// Protocol of the application.
    pub app_protocol: Option<String>,
}

/// A workload as an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalEndpoint {
    /// The ExternalWorkload.
    pub workload: String,
    /// Its address.
    pub address: IpAddr,
    /// Whether traffic may be sent to it.
    pub is_ready: bool,
    /// Zone, if known.
    pub zone: Option<String>,
    /// Name below a headless Service.
    pub hostname: Option<String>,
}

impl Index {
    /// What EndpointSlices of ExternalWorkloads are to say, by namespace and Service. Reads everything.
    pub fn external_groups(&self) -> Vec<ExternalGroup> {
        let scopes = self.scopes();
        let of_scope = |(namespace, scope): (&str, &Scope)| scope.external_groups(namespace);
        scopes.flat_map(of_scope).collect()
    }
}

impl Scope {
    fn external_groups(&self, namespace: &str) -> Vec<ExternalGroup> {
        if self.external_workloads.is_empty() {
            return Vec::new();
        }
        let services = self.services.values();
        let groups = services.flat_map(|service| self.groups_of(namespace, service));
        groups.collect()
    }

    fn groups_of(&self, namespace: &str, service: &Service) -> Vec<ExternalGroup> {
        let Some(selector) = service.selector().filter(|_| !service.is_external_name()) else {
            return Vec::new();
        };
        let is_headless = service.spec.cluster_ip.as_deref() == Some("None");
        let mut groups: BTreeMap<_, Vec<ExternalEndpoint>> = BTreeMap::new();
        for workload in self.external_workloads.values() {
            let Workload::ExternalWorkload(workload) = workload else {
                continue;
            };
            if !selector.matches(&workload.metadata.labels) {
                continue;
            }
            let declared = &service.spec.ports;
            let ports = declared.iter().filter_map(|port| served(workload, port));
            let ports: Vec<_> = ports.collect();
            if ports.is_empty() && !declared.is_empty() {
                continue;
            }
            for ip in &workload.spec.workload_ips {
                if has_family(service, ip.ip) && can_be_published(ip.ip) {
                    let endpoint = endpoint(workload, ip.ip, is_headless);
                    let group = groups.entry((ip.ip.is_ipv6(), ports.clone()));
                    group.or_default().push(endpoint);
                }
            }
        }
        let group = |((is_ipv6, ports), endpoints)| ExternalGroup {
            namespace: namespace.to_owned(),
            service: service.metadata.name.clone(),
            is_headless,
            is_ipv6,
            ports,
            endpoints,
        };
        groups.into_iter().map(group).collect()
    }
}

fn endpoint(workload: &ExternalWorkload, address: IpAddr, is_headless: bool) -> ExternalEndpoint {
    let metadata = &workload.metadata;
    let zone = metadata.labels.get(ZONE_LABEL);
    let name = Some(&metadata.name).filter(|name| is_headless && is_label(name));
    ExternalEndpoint {
        workload: metadata.name.clone(),
        address,
        is_ready: workload.is_ready(),
        zone: zone.filter(|zone| !zone.is_empty()).cloned(),
        hostname: name.cloned(),
    }
}

/// A Service's port, as a workload serves it; `None` if it does not.
fn served(workload: &ExternalWorkload, declared: &ServicePort) -> Option<ExternalPort> {
    let protocol = protocol(declared.protocol.as_deref());
    let found = workload.spec.ports.iter().find(|port| {
        let is_meant = match &declared.target_port {
            None => port.port == declared.port,
            Some(PortRef::Number(number)) => port.port == *number,
            Some(PortRef::Name(name)) => port.name.as_ref() == Some(name),
        };
        is_meant && self::protocol(port.protocol.as_deref()) == protocol
    });
    Some(ExternalPort {
        name: declared.name.clone().unwrap_or_default(),
        port: found?.port,
        protocol,
        app_protocol: declared.app_protocol.clone(),
    })
}

fn protocol(text: Option<&str>) -> String {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("TCP");
    text.to_ascii_uppercase()
}

/// Whether a Service takes endpoints of an address's family.
fn has_family(service: &Service, ip: IpAddr) -> bool {
    let families = &service.spec.ip_families;
    let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
    families.is_empty() || families.iter().any(|own| own == family)
}

/// Whether an API server takes an address as an endpoint's: one that it does not would keep all others of its slice out.
fn can_be_published(ip: IpAddr) -> bool {
    let is_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    !is_local && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
}

/// Whether a name can be one part of a DNS name.
fn is_label(name: &str) -> bool {
    name.len() <= 63 && !name.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{index::Cluster, manifest};

    fn groups(text: &str) -> Vec<ExternalGroup> {
        let documents = manifest::parse(text).into_iter();
        let resources = documents.map(|document| document.unwrap().resource);
        Index::from_resources(Cluster::default(), resources).external_groups()
    }

    fn vm(name: &str, labels: &str, ports: &str, ips: &str, ready: &str) -> String {
        format!(
            "---\napiVersion: workload.linkerd.io/v1beta1\nkind: ExternalWorkload\n\
             metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}\n\
             spec: {{meshTLS: {{identity: vm, serverName: vm}}, ports: [{ports}], workloadIPs: [{ips}]}}\n\
             status: {{conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
        )
    }

    fn service(spec: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n\
             spec: {{selector: {{app: web}}, {spec}}}\n"
        )
    }

    /// Ports and endpoints of each group, in a line.
    fn said(groups: &[ExternalGroup]) -> Vec<String> {
        let one = |group: &ExternalGroup| {
            let ports = group.ports.iter();
            let ports: Vec<_> = ports
                .map(|port| format!("{}={}/{}", port.name, port.port, port.protocol))
                .collect();
            let endpoints = group.endpoints.iter().map(|e| {
                let ready = if e.is_ready { "" } else { "!" };
                let zone = e.zone.as_deref().unwrap_or_default();
                let host = e.hostname.as_deref().unwrap_or_default();
                format!("{ready}{}@{}{zone}{host}", e.workload, e.address)
            });
            let endpoints: Vec<_> = endpoints.collect();
            format!("{}: {}", ports.join(","), endpoints.join(" "))
        };
        groups.iter().map(one).collect()
    }

    #[test]
    fn workloads_are_grouped_by_family_and_by_what_they_serve() {
        let http = "{port: 8080, name: http}";
        let text = [
            service("ports: [{port: 80, name: http, targetPort: http}, {port: 90, name: admin}]"),
            vm(
                "a",
                "app: web",
                http,
                "{ip: 192.0.2.1}, {ip: '2001:db8::1'}",
                "True",
            ),
            vm(
                "b",
                "app: web",
                "{port: 8081, name: http}, {port: 90}",
                "{ip: 192.0.2.2}",
                "False",
            ),
            vm(
                "c",
                "app: web, topology.kubernetes.io/zone: z1",
                http,
                "{ip: 192.0.2.3}",
                "True",
            ),
            // Of another protocol, without the port, of another Service, and where no slice may lead.
            vm(
                "d",
                "app: web",
                "{port: 8080, name: http, protocol: UDP}",
                "{ip: 192.0.2.4}",
                "True",
            ),
            vm("e", "app: web", "{port: 1}", "{ip: 192.0.2.5}", "True"),
            vm("f", "app: other", http, "{ip: 192.0.2.6}", "True"),
            vm("g", "app: web", http, "{ip: 127.0.0.1}", "True"),
        ]
        .concat();
        let wanted = [
            "http=8080/TCP: a@192.0.2.1 c@192.0.2.3z1",
            "http=8081/TCP,admin=90/TCP: !b@192.0.2.2",
            "http=8080/TCP: a@2001:db8::1",
        ];
        assert_eq!(said(&groups(&text)), wanted);
    }

    #[test]
    fn a_service_says_which_families_it_takes_and_whether_endpoints_have_names() {
        let vm = vm(
            "a",
            "app: web",
            "{port: 80}",
            "{ip: 192.0.2.1}, {ip: '2001:db8::1'}",
            "True",
        );
        let headless = "clusterIP: None, ipFamilies: [IPv6], ports: [{port: 80}]";
        let found = groups(&[service(headless), vm.clone()].concat());
        assert_eq!(said(&found), ["=80/TCP: a@2001:db8::1a"]);
        assert!(found[0].is_headless);
        for nobody in [
            "type: ExternalName, externalName: x, ports: [{port: 80}]",
            "ports: [{port: 81}]",
        ] {
            assert_eq!(groups(&[service(nobody), vm.clone()].concat()), []);
        }
    }
}
