//! `io.linkerd.proxy.inbound.InboundServerPolicies`: the policy of a workload's port, and its changes.

use super::{Answers, Begin, Shared, path, watch_snapshots};
use crate::metrics::{Name, Overflow};
use linkerd_policy::{index::WorkloadRef, proto::server_to_api, server::ServerPolicy};
use linkerd2_proxy_api::inbound::{
    PortSpec, Server, inbound_server_policies_server::InboundServerPolicies,
};
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Policies(pub(crate) Shared);

impl Policies {
    /// What is asked for, and what it is now.
    fn look_up(&self, spec: &PortSpec) -> Result<(WorkloadRef, u16, ServerPolicy), Status> {
        let invalid = || {
            let shown = path::shown(&spec.workload);
            Status::invalid_argument(format!("Invalid workload: {shown}"))
        };
        let workload: WorkloadRef = spec.workload.trim().parse().map_err(|_| invalid())?;
        let port = u16::try_from(spec.port)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Status::invalid_argument(format!("Invalid port: {}", spec.port)))?;
        let policy = self
            .0
            .snapshots
            .borrow()
            .index
            .inbound(&workload, port)
            .ok_or_else(|| Status::not_found("unknown server"))?;
        Ok((workload, port, policy))
    }
}

#[tonic::async_trait]
impl InboundServerPolicies for Policies {
    async fn get_port(&self, request: Request<PortSpec>) -> Result<Response<Server>, Status> {
        let call = self.0.metrics.begin(("policy", "GetPort"));
        let found = self.look_up(request.get_ref());
        let ((_, _, policy), call) = self.0.metrics.answered(call, found)?;
        call.sends();
        Ok(Response::new(server_to_api(&policy)))
    }

    type WatchPortStream = Answers<Server>;

    async fn watch_port(
        &self,
        request: Request<PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        const NAME: Name = ("policy", "WatchPort");
        let call = self.0.metrics.begin(NAME);
        let found = self.look_up(request.get_ref()).and_then(|found| {
            let about = format!("{} port {}", found.0, found.1);
            Ok((found, self.0.streams.begin(NAME, about, &request)?))
        });
        let answered = self.0.metrics.answered(call, found)?;
        let (((workload, port, _), place), call) = answered;
        let last: Option<ServerPolicy> = None;
        let begin = Begin {
            call,
            place,
            overflow: Overflow::None,
        };
        let stream = watch_snapshots(&self.0, begin, last, move |index, last| {
            // A workload that is gone ends the stream.
            let policy = index.inbound(&workload, port)?;
            if last.as_ref() == Some(&policy) {
                return Some(Vec::new());
            }
            let message = server_to_api(&policy);
            *last = Some(policy);
            Some(vec![message])
        });
        Ok(Response::new(stream))
    }
}
