//! Connections that are not HTTP: routed and balanced as a whole, then relayed until an end closes.

use super::{
    ConnectionError,
    backend::{Carried, Kind, RouteBackend},
    balance::{Class, Picked},
    connection::Connection,
    failure::Failure,
    plan::{Plan, StreamPlan, StreamRule},
};
use crate::{
    inbound::metrics::OpenConnection,
    transport::{Io, relay::relay},
};
use linkerd_policy::outbound::Refusal;
use std::{sync::Arc, time::Instant};

/// Takes a connection to an endpoint, and relays its bytes.
pub(super) async fn serve(
    connection: Arc<Connection>,
    mut io: Io,
    plan: &Plan,
    streams: &StreamPlan,
    sni: Option<&str>,
) -> Result<(), ConnectionError> {
    let rule = streams
        .find(sni)
        .ok_or(ConnectionError::Refused("no route takes the connection"))?;
    let named = rule
        .hosts
        .as_ref()
        .zip(sni)
        .and_then(|(hosts, sni)| hosts.of(sni));
    let handles = named.as_deref().unwrap_or(&rule.handles);
    handles.opened.inc();
    let result = relayed(&connection, &mut io, plan, rule).await;
    match &result {
        Ok(()) => handles.clean.inc(),
        Err(ConnectionError::Forbidden) => handles.forbidden.inc(),
        Err(ConnectionError::InvalidBackend(_)) => handles.invalid_backend.inc(),
        Err(ConnectionError::Refused(_)) => handles.invalid_policy.inc(),
        Err(_) => handles.unexpected.inc(),
    }
    result
}

async fn relayed(
    connection: &Arc<Connection>,
    io: &mut Io,
    plan: &Plan,
    rule: &StreamRule,
) -> Result<(), ConnectionError> {
    refuse(rule.refusal.as_ref())?;
    let backend = rule
        .choice
        .choose(Instant::now(), super::attempt::roll)
        .ok_or_else(|| ConnectionError::failed(Failure::NoBackend(rule.choice.why_none()), rule))?;
    refuse(backend.refusal.as_ref())?;
    let reached = reach(connection, plan, backend)
        .await
        .map_err(|failure| ConnectionError::failed(failure, rule))?;
    let Reached {
        mut far,
        mut open,
        picked,
    } = reached;
    let mut drain = connection.worker.drain.clone();
    let result = tokio::select! {
        result = relay(io, &mut far) => result,
        () = drain.cut() => Ok(()),
    };
    if let Err(error) = &result {
        open.broken(error.io());
    }
    if let Some(picked) = picked {
        // An endpoint that was connected to did its part.
        picked.ended(Class::Success, Instant::now());
    }
    Ok(result?)
}

fn refuse(refusal: Option<&Refusal>) -> Result<(), ConnectionError> {
    match refusal {
        None => Ok(()),
        Some(Refusal::Forbidden) => Err(ConnectionError::Forbidden),
        Some(Refusal::Invalid(why)) => Err(ConnectionError::InvalidBackend(why.clone())),
    }
}

/// A connection to an endpoint.
struct Reached {
    far: Io,
    open: OpenConnection,
    picked: Option<Picked>,
}

/// A connection to an endpoint of the backend: another is tried if one cannot be connected to.
async fn reach(
    connection: &Arc<Connection>,
    plan: &Plan,
    backend: &RouteBackend,
) -> Result<Reached, Failure> {
    let worker = &connection.worker;
    let balancer = match &backend.backend.kind {
        Kind::Missing => {
            return Err(Failure::NoDispatcher(Box::new(
                backend.backend.meta.clone(),
            )));
        }
        Kind::Forward(endpoint) => {
            let remote = worker.remote(endpoint, None, Carried::Opaque)?;
            worker.check(plan, None, &remote)?;
            return match remote.client.connect().await {
                Ok((far, open)) => Ok(Reached {
                    far,
                    open,
                    picked: None,
                }),
                Err(error) => Err(worker.not_reached(&remote, error)),
            };
        }
        Kind::Balance(balancer) => balancer,
    };
    let authority = backend.backend.authority.as_deref();
    let deadline = balancer.deadline();
    let mut avoid = None;
    loop {
        let picked = balancer.pick(avoid, deadline).await;
        let mut picked = picked.map_err(Failure::Unready)?;
        let remote = match worker.remote(&picked.endpoint, authority, Carried::Opaque) {
            Ok(remote) => remote,
            // One that cannot be used as discovery describes it is like one that cannot be connected to.
            Err(error) => {
                avoid = Some(picked.endpoint.address);
                picked.connect_failed(&error.to_string());
                tracing::debug!(%error, "Trying another endpoint");
                continue;
            }
        };
        worker.check(plan, Some(balancer), &remote)?;
        match remote.client.connect().await {
            Ok((far, open)) => {
                // Load is the time to connect; what follows may take as long as it likes.
                picked.first_data(Instant::now());
                return Ok(Reached {
                    far,
                    open,
                    picked: Some(picked),
                });
            }
            Err(error) => {
                avoid = Some(picked.endpoint.address);
                picked.connect_failed(&error.to_string());
                let failure = worker.not_reached(&remote, error);
                tracing::debug!(endpoint = %remote.address, %failure, "Trying another endpoint");
                if Instant::now() >= deadline {
                    return Err(Failure::Unready(balancer.give_up()));
                }
            }
        }
    }
}
