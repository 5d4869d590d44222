//! Who has an address: Services by cluster IP, workloads by theirs, Pods by their node's where they map a port of it.
//!
//! Kept as resources come and go, so that to ask costs the same with ten Pods and with ten thousand. In parts, so that
//! a clone of the index and a change after it copy little.

use super::{Workload, WorkloadRef, store::revision};
use crate::resource::Service;
use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    net::IpAddr,
    sync::Arc,
};

/// Parts of the map.
const PARTS: usize = 256;

/// Who has which address.
#[derive(Clone, Debug)]
pub(super) struct Addresses(Vec<Arc<HashMap<IpAddr, Holders>>>);

/// Everyone who has an address.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    /// Of all lists that ever were no two have the same.
    pub(super) revision: u64,
    /// Services, as namespace and name.
    pub(super) services: BTreeSet<(String, String)>,
    /// Workloads.
    pub(super) workloads: BTreeSet<WorkloadRef>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self(vec![Arc::default(); PARTS])
    }
}

impl Addresses {
    pub(super) fn get(&self, ip: IpAddr) -> Option<&Holders> {
        self.0.get(part(ip))?.get(&ip)
    }

    /// A workload is there in place of another, or of none.
    pub(super) fn workload(&mut self, old: Option<&Workload>, new: Option<&Workload>) {
        let Some(reference) = old.or(new).map(Workload::reference) else {
            return;
        };
        let (old, new) = (of_workload(old), of_workload(new));
        for ip in old.difference(&new) {
            self.change(*ip, |holders| holders.workloads.remove(&reference));
        }
        for ip in new.difference(&old) {
            let reference = reference.clone();
            self.change(*ip, |holders| holders.workloads.insert(reference));
        }
    }

    /// A Service is there in place of another, or of none.
    pub(super) fn service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        let Some(metadata) = old.or(new).map(|service| &service.metadata) else {
            return;
        };
        let name = (metadata.namespace.clone(), metadata.name.clone());
        let ips = |service: Option<&Service>| -> BTreeSet<IpAddr> {
            let ips = service.map(Service::cluster_ips).into_iter().flatten();
            ips.map(|ip| ip.to_canonical()).collect()
        };
        let (old, new) = (ips(old), ips(new));
        for ip in old.difference(&new) {
            self.change(*ip, |holders| holders.services.remove(&name));
        }
        for ip in new.difference(&old) {
            let name = name.clone();
            self.change(*ip, |holders| holders.services.insert(name));
        }
    }

    fn change(&mut self, ip: IpAddr, change: impl FnOnce(&mut Holders) -> bool) {
        let Some(part) = self.0.get_mut(part(ip)) else {
            return;
        };
        let part = Arc::make_mut(part);
        let holders = part.entry(ip).or_default();
        if change(holders) {
            holders.revision = revision();
        }
        if holders.services.is_empty() && holders.workloads.is_empty() {
            part.remove(&ip);
        }
    }
}

/// Addresses by which a workload may be found; whether it is, depends on more.
fn of_workload(workload: Option<&Workload>) -> BTreeSet<IpAddr> {
    let Some(workload) = workload else {
        return BTreeSet::new();
    };
    let mut ips: BTreeSet<IpAddr> = workload.addresses().into_iter().collect();
    if let Workload::Pod(pod) = workload
        && pod.tcp_ports().any(|port| port.host_port.is_some())
    {
        ips.extend(pod.status.host_ip);
    }
    ips.into_iter().map(|ip| ip.to_canonical()).collect()
}

fn part(ip: IpAddr) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(ip);
    usize::try_from(hash % 256).unwrap_or_default()
}
