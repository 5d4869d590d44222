//! Whether the sidecars that run will believe the issuer that an upgrade brings.

use crate::{
    cluster::{
        Cluster,
        workload::{given_anchors, text},
    },
    outcome::Failure,
};
use linkerd_charts::{Chart, Values};
use linkerd_tls::ca::Ca;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Refuses an issuer that a sidecar would not believe: it would neither get a certificate nor talk to those that did.
///
/// # Errors
/// Which namespaces have such sidecars.
pub(super) async fn refuse_unbelieved(cluster: &Cluster, values: &Values) -> Result<(), Failure> {
    let values = values
        .over_defaults(Chart::ControlPlane)
        .map_err(super::invalid)?;
    let issuer = text(&values, "/identity/issuer/tls/crtPEM");
    let key = text(&values, "/identity/issuer/tls/keyPEM");
    // What somebody else keeps is not ours to see.
    if issuer.is_empty() || key.is_empty() {
        return Ok(());
    }
    let selector = format!("linkerd.io/control-plane-ns={}", cluster.namespace);
    let selector = crate::fetch::query(&[("labelSelector", Some(&selector))]);
    let pods = cluster.list("/api/v1/pods", &selector).await?;
    let astray = astray(&pods, |anchors| {
        Ca::load_with_anchors(issuer, key, anchors).is_ok()
    });
    if astray.is_empty() {
        return Ok(());
    }
    let (count, places) = super::counted(&astray);
    Err(Failure::new(format!(
        "{count} Pods have a sidecar that does not believe the new issuer (identity.issuer.tls), in {places}: none of the anchors that it was given vouches for it"
    ))
    .hint("docs/trust.md: how anchors and issuers are changed without a failed request; or --force"))
}

/// How many Pods of each namespace were given anchors for which `is_good` does not hold.
fn astray(pods: &[Value], is_good: impl Fn(&str) -> bool) -> BTreeMap<&str, usize> {
    // Most have the same.
    let given: BTreeSet<&str> = pods.iter().filter_map(given_anchors).collect();
    let bad: BTreeSet<&str> = given
        .into_iter()
        .filter(|anchors| !is_good(anchors))
        .collect();
    let mut astray = BTreeMap::new();
    for pod in pods {
        if given_anchors(pod).is_some_and(|anchors| bad.contains(anchors)) {
            *astray.entry(text(pod, "/metadata/namespace")).or_default() += 1;
        }
    }
    astray
}
