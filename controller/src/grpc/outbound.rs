//! `io.linkerd.proxy.outbound.OutboundPolicies`: what applies to a destination, and its changes.
//!
//! Whether traffic must be mutual TLS goes in the stream's metadata.

use super::{
    Answers, Begin, Shared,
    path::{self, Asked, parse},
    requirement::{annotate, of_policy, of_target},
    watch_snapshots,
};
use crate::metrics::{Name, Overflow};
use linkerd_policy::{
    index::{Index, MtlsRequirement, OutboundTarget, WorkloadRef},
    outbound::OutboundPolicy,
    proto::{outbound_to_api, socket_address},
};
use linkerd2_proxy_api::outbound::{
    self as api, TrafficSpec, outbound_policies_server::OutboundPolicies, traffic_spec,
};
use std::borrow::Cow;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Outbound(pub(crate) Shared);

/// What is asked for, and what it is now.
struct Found {
    client: String,
    target: OutboundTarget,
    policy: OutboundPolicy,
    mtls: MtlsRequirement,
}

impl Outbound {
    fn look_up(&self, spec: &TrafficSpec) -> Result<Found, Status> {
        let snapshot = self.0.snapshots.borrow();
        let index = &snapshot.index;
        let client = namespace(&spec.source_workload)?;
        let target = target(index, spec)?;
        let policy = index.outbound(&client, &target).ok_or_else(|| {
            let mut metadata = MetadataMap::new();
            annotate(&mut metadata, &of_target(index, &target));
            Status::with_metadata(Code::NotFound, "No such service", metadata)
        })?;
        Ok(Found {
            mtls: of_policy(index, &target, &policy),
            client,
            target,
            policy,
        })
    }
}

/// The namespace of the client: `ns:pod`, or JSON with `ns`.
fn namespace(workload: &str) -> Result<String, Status> {
    let parsed: Result<WorkloadRef, _> = workload.trim().parse();
    match parsed {
        Ok(workload) => Ok(workload.namespace().to_owned()),
        Err(_) => Err(Status::invalid_argument(format!(
            "Invalid workload: {}",
            path::shown(workload)
        ))),
    }
}

fn target(index: &Index, spec: &TrafficSpec) -> Result<OutboundTarget, Status> {
    let invalid = |text: &str| Status::invalid_argument(text.to_owned());
    match &spec.target {
        None => Err(invalid("target is required")),
        Some(traffic_spec::Target::Addr(address)) => {
            if address.ip.as_ref().is_none_or(|ip| ip.ip.is_none()) {
                return Err(invalid("traffic target must have an IP"));
            }
            if address.port == 0 {
                return Err(invalid("port cannot be zero"));
            }
            socket_address(Some(*address))
                .map(OutboundTarget::Address)
                .map_err(|_| invalid("port outside valid range"))
        }
        Some(traffic_spec::Target::Authority(authority)) => {
            let domain = &index.cluster().cluster_domain;
            match parse(&in_full(authority, domain), domain) {
                Ok(Asked::Service(service)) if service.instance.is_none() => {
                    Ok(OutboundTarget::Service {
                        namespace: service.namespace,
                        name: service.name,
                        port: service.port,
                    })
                }
                Ok(Asked::Address(address)) => Ok(OutboundTarget::Address(address)),
                Ok(Asked::Service(_)) | Err(_) => Err(Status::not_found(format!(
                    "authority must be of the form <name>.<namespace>.svc.{domain}",
                ))),
            }
        }
    }
}

/// A name that ends with `svc`, with the cluster's domain behind it.
fn in_full<'a>(authority: &'a str, domain: &str) -> Cow<'a, str> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, format!(":{port}")),
        None => (authority, String::new()),
    };
    match host.strip_suffix('.').unwrap_or(host).rsplit_once('.') {
        Some((name, "svc")) => format!("{name}.svc.{domain}{port}").into(),
        _ => authority.into(),
    }
}

#[tonic::async_trait]
impl OutboundPolicies for Outbound {
    async fn get(
        &self,
        request: Request<TrafficSpec>,
    ) -> Result<Response<api::OutboundPolicy>, Status> {
        let call = self.0.metrics.begin(("outbound", "Get"));
        let found = self.look_up(request.get_ref());
        let (found, call) = self.0.metrics.answered(call, found)?;
        call.sends();
        let mut response = Response::new(outbound_to_api(&found.policy));
        annotate(response.metadata_mut(), &found.mtls);
        Ok(response)
    }

    type WatchStream = Answers<api::OutboundPolicy>;

    async fn watch(
        &self,
        request: Request<TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        const NAME: Name = ("outbound", "Watch");
        let call = self.0.metrics.begin(NAME);
        let found = self.look_up(request.get_ref()).and_then(|found| {
            let about = match &found.target {
                OutboundTarget::Address(address) => address.to_string(),
                OutboundTarget::Service {
                    namespace,
                    name,
                    port,
                } => format!("{name}.{namespace} port {port}"),
            };
            Ok((found, self.0.streams.begin(NAME, about, &request)?))
        });
        let ((found, place), call) = self.0.metrics.answered(call, found)?;
        let Found {
            client,
            target,
            mtls: told,
            ..
        } = found;
        let last: Option<OutboundPolicy> = None;
        let said = told.clone();
        let begin = Begin {
            call,
            place,
            overflow: Overflow::None,
        };
        let stream = watch_snapshots(&self.0, begin, last, move |index, last| {
            // What is not known any more, or has another metadata, ends the stream: asked again, the client is told.
            let policy = index.outbound(&client, &target)?;
            if of_policy(index, &target, &policy) != said {
                return None;
            }
            if last.as_ref() == Some(&policy) {
                return Some(Vec::new());
            }
            let message = outbound_to_api(&policy);
            *last = Some(policy);
            Some(vec![message])
        });
        let mut response = Response::new(stream);
        annotate(response.metadata_mut(), &told);
        Ok(response)
    }
}
