//! Whether traffic must be mutual TLS, and with whom: what the API has no field for, as metadata of streams, which other
//! proxies ignore.
//!
//! It is told of who takes the traffic, wherever a client learns of it: of a Service in its policy and with its endpoints
//! (so it holds for a Service that is the backend of another), of a workload in the profile of its address. When it changes
//! the stream is ended, so that its client opens it again and reads it.

use linkerd_policy::{
    index::{Index, MtlsRequirement, OutboundTarget},
    outbound::{OutboundPolicy, Ref},
};
use std::net::SocketAddr;
use tonic::metadata::MetadataMap;

/// Of the Service that a policy is of; else of the workload that has the address that was asked for.
pub(super) fn of_policy(
    index: &Index,
    target: &OutboundTarget,
    policy: &OutboundPolicy,
) -> MtlsRequirement {
    match &policy.parent {
        Ref::Resource {
            kind,
            namespace,
            name,
            ..
        } if kind == "Service" => index.outbound_mtls(namespace, name),
        _ => of_target(index, target),
    }
}

/// Of the workload that has the address that was asked for.
pub(super) fn of_target(index: &Index, target: &OutboundTarget) -> MtlsRequirement {
    match target {
        OutboundTarget::Address(address) => of_workload(index, *address),
        OutboundTarget::Service { .. } => MtlsRequirement::default(),
    }
}

/// What applies to whoever dials a workload by its address, whose Services' policy they go around. Of a Service it is
/// told with its policy and its endpoints.
pub(super) fn of_workload(index: &Index, address: SocketAddr) -> MtlsRequirement {
    if !matches!(index.service_by_ip(address.ip()), Ok(None)) {
        return MtlsRequirement::default();
    }
    let endpoint = index.workload_by_ip(address.ip(), address.port());
    let workload = endpoint.ok().flatten().and_then(|found| found.workload);
    workload.map_or_else(MtlsRequirement::default, |workload| {
        index.workload_outbound_mtls(&workload)
    })
}

/// Writes what the API has no field for.
pub(super) fn annotate(metadata: &mut MetadataMap, mtls: &MtlsRequirement) {
    let word = match mtls.is_required {
        Some(true) => "required",
        Some(false) => "preferred",
        None => "",
    };
    for (name, value) in [
        ("l5d-outbound-mtls", word.to_owned()),
        ("l5d-outbound-server-ids", mtls.identities.join(",")),
    ] {
        if let (false, Ok(value)) = (value.is_empty(), value.parse()) {
            metadata.insert(name, value);
        }
    }
}
