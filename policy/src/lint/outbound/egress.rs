//! EgressNetworks: do they take anything, and nothing that is the cluster's own.

use super::super::{Report, Severity, key, listed};
use crate::{
    index::{Index, Scope, Workload},
    resource::{EgressNetwork, Key, POLICY_GROUP, policy::Network},
};
use ipnet::IpNet;
use std::net::IpAddr;

pub(super) fn check(index: &Index, scope: &Scope, report: &mut Report) {
    for egress in scope.egress_networks.values() {
        let object = key(POLICY_GROUP, "EgressNetwork", &egress.metadata);
        inside(index, egress, &object, report);
        overlap(scope, egress, &object, report);
    }
}

/// Traffic to workloads by their addresses is not meant to be egress.
fn inside(index: &Index, egress: &EgressNetwork, object: &Key, report: &mut Report) {
    let networks = &egress.spec.networks;
    let takes = |ip: IpAddr| networks.iter().any(|network| contains(network, ip));
    let whole: Vec<String> = index
        .cluster()
        .cluster_networks
        .iter()
        .filter(|own| networks.iter().any(|network| covers(network, own)))
        .map(ToString::to_string)
        .collect();
    let mut taken: Vec<String> = Vec::new();
    for workload in index.workloads() {
        let is_of_node = matches!(workload, Workload::Pod(pod) if pod.spec.host_network);
        if let Some(ip) = workload.addresses().into_iter().find(|ip| takes(*ip))
            && !is_of_node
        {
            let metadata = workload.metadata();
            taken.push(format!("{ip} of {}/{}", metadata.namespace, metadata.name));
        }
    }
    let what = match (taken.is_empty(), whole.is_empty()) {
        (false, _) => listed(taken.iter().map(String::as_str)),
        (true, false) => format!(
            "the cluster's networks {}",
            listed(whole.iter().map(String::as_str))
        ),
        (true, true) => return,
    };
    report.add(
        Severity::Warning,
        "egress-network-inside",
        object.clone(),
        format!("takes {what}: traffic to workloads by their addresses is ruled as traffic to the outside"),
        "leave the cluster's networks out with except, or write no networks, which is all that is outside",
    );
}

fn contains(network: &Network, ip: IpAddr) -> bool {
    network.cidr.0.contains(&ip) && !network.except.iter().any(|except| except.0.contains(&ip))
}

/// Whether all of a network of the cluster's is within, and none of it excepted.
fn covers(network: &Network, own: &IpNet) -> bool {
    let meets = |except: &IpNet| except.contains(own) || own.contains(except);
    network.cidr.0.contains(own) && !network.except.iter().any(|except| meets(&except.0))
}

/// Of networks that are equally small the oldest object's counts.
fn overlap(scope: &Scope, egress: &EgressNetwork, object: &Key, report: &mut Report) {
    let own = &egress.spec.networks;
    let older: Vec<&EgressNetwork> = scope
        .egress_networks
        .values()
        .filter(|other| other.metadata.age_key() < egress.metadata.age_key())
        .collect();
    let winner = |network: &Network| {
        older.iter().find(|other| {
            let mut all = other.spec.networks.iter();
            all.any(|each| each.cidr == network.cidr && each.except.is_empty())
        })
    };
    let winners: Vec<&str> = if own.is_empty() {
        let first = older.iter().find(|other| other.spec.networks.is_empty());
        first
            .map(|other| &*other.metadata.name)
            .into_iter()
            .collect()
    } else {
        let found = own.iter().filter_map(winner);
        found.map(|other| &*other.metadata.name).collect()
    };
    if winners.is_empty() || winners.len() < own.len() {
        return;
    }
    report.add(
        Severity::Error,
        "egress-network-overlap",
        object.clone(),
        format!(
            "takes nothing: EgressNetwork {} is older (or first by name) and has the same networks",
            listed(winners)
        ),
        "merge them, or make their networks differ",
    );
}
