//! Whether the clocks of this host, the API server and the nodes agree: certificates and tokens are believed by them.

use super::{Check, Found};
use crate::{
    cluster::{Cluster, asking, chain, workload::text},
    outcome::Failure,
};
use http::{Request, header};
use kube::client::Body;
use serde_json::Value;
use time::{
    Duration, OffsetDateTime,
    format_description::well_known::{Rfc2822, Rfc3339},
};

/// What the identity controller allows for, unless `identity.issuer.clockSkewAllowance` says otherwise.
const ALLOWED: Duration = Duration::seconds(20);
/// A node renews its Lease every 10 s, and is `Ready` for 40 s after it stopped.
const RENEWED: Duration = Duration::seconds(40);

pub(super) async fn check(cluster: &Cluster) -> Check {
    let what = "no clock skew detected";
    match found(cluster).await {
        Ok(found) => Check::new(what, found),
        Err(failure) => Check::unseen(what, &failure),
    }
}

async fn found(cluster: &Cluster) -> Result<Found, Failure> {
    let before = OffsetDateTime::now_utc();
    let Some(server) = date(cluster).await? else {
        return Ok(Found::warning(
            "the API server's answers have no Date header",
            "kubectl get --raw /version -v 8",
        ));
    };
    // Its seconds are whole.
    let ours = before
        .max(server - Duration::seconds(1))
        .min(OffsetDateTime::now_utc());
    let mut skewed = Vec::new();
    if (ours - server).abs() > ALLOWED {
        skewed.push(format!(
            "it is {} here and {} at the API server",
            clock(ours),
            clock(server)
        ));
    }
    let nodes = cluster.list("/api/v1/nodes", "").await?;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let leases = cluster.list(leases, "").await?;
    skewed.extend(leases.iter().filter_map(|lease| {
        let name = text(lease, "/metadata/name");
        let node = nodes
            .iter()
            .find(|node| text(node, "/metadata/name") == name)?;
        let renewed = OffsetDateTime::parse(text(lease, "/spec/renewTime"), &Rfc3339).ok()?;
        of_node(node, renewed, server)
    }));
    Ok(Found::if_none(&skewed, |text| {
        Found::warning(
            text,
            "timedatectl status, on each host; chronyc makestep sets the clock",
        )
    }))
}

/// What the clock of a node shows that differs from the API server's: it renewed its Lease in the future, or long ago and
/// is ready.
fn of_node(node: &Value, renewed: OffsetDateTime, server: OffsetDateTime) -> Option<String> {
    let conditions = node.pointer("/status/conditions")?.as_array()?;
    let is_ready = conditions
        .iter()
        .any(|one| text(one, "/type") == "Ready" && text(one, "/status") == "True");
    let is_ahead = renewed - server > ALLOWED;
    let is_behind = is_ready && server - renewed > RENEWED + ALLOWED;
    (is_ahead || is_behind).then(|| {
        format!(
            "the node {} says that it was last heard of at {}, and it is {} at the API server",
            text(node, "/metadata/name"),
            clock(renewed),
            clock(server)
        )
    })
}

async fn date(cluster: &Cluster) -> Result<Option<OffsetDateTime>, Failure> {
    let request = Request::get("/version")
        .body(Body::empty())
        .map_err(|error| Failure::new(chain(&error)))?;
    let response = cluster.client.send(request).await;
    let response = response.map_err(|error| asking("/version", &error))?;
    let date = response.headers().get(header::DATE);
    let date = date.and_then(|date| date.to_str().ok());
    Ok(date.and_then(|date| OffsetDateTime::parse(&date.replace("GMT", "+0000"), &Rfc2822).ok()))
}

fn clock(at: OffsetDateTime) -> String {
    let at = at.replace_nanosecond(0).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_whose_clock_is_ahead_or_behind_is_named_and_one_that_is_gone_is_not() {
        let at = |text: &str| OffsetDateTime::parse(text, &Rfc3339).unwrap();
        let server = at("2026-01-01T12:00:00Z");
        let node = |is_ready: &str| json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": is_ready}]}});
        let said = |is_ready, renewed| of_node(&node(is_ready), at(renewed), server);
        assert_eq!(said("True", "2026-01-01T11:59:50Z"), None);
        assert_eq!(said("True", "2026-01-01T12:00:15Z"), None);
        let ahead = said("True", "2026-01-01T12:01:00.5Z").unwrap();
        assert!(
            ahead.contains("the node a says that it was last heard of at 2026-01-01T12:01:00Z"),
            "{ahead}"
        );
        assert!(said("True", "2026-01-01T11:58:00Z").is_some());
        assert_eq!(said("Unknown", "2026-01-01T11:58:00Z"), None);
    }
}
