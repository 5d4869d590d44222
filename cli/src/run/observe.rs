//! What the sidecars of a running mesh say of themselves, on their admin pages.

use crate::{
    fetch,
    mesh::Member,
    outcome::{plain, table},
};
use serde::Serialize;
use std::net::SocketAddr;

/// What the sidecars have counted, from their own pages.
pub(super) async fn sidecars(members: &[Member]) -> Vec<Sidecar> {
    let pages = members.iter().map(|member| async move {
        let admin = member.admin();
        let metrics = fetch::get(admin, "/metrics", "text/plain")
            .await
            .map(|page| page.body)
            .unwrap_or_default();
        let denials = fetch::get(admin, "/denials", "application/json").await;
        let count = |kind: &str| {
            let of = |protocol: &str| {
                fetch::sum(&metrics, &format!("inbound_{protocol}_authz_{kind}_total"))
            };
            of("http") + of("tcp")
        };
        Sidecar {
            workload: member.name().to_owned(),
            admin,
            allowed: count("allow"),
            denied: count("deny"),
            retries: fetch::sum(&metrics, "outbound_route_retries_total"),
            last_denial: denials.ok().and_then(|page| last_denial(&page.body)),
        }
    });
    futures::future::join_all(pages).await
}

/// What a sidecar has counted.
#[derive(Debug, Serialize)]
pub(super) struct Sidecar {
    workload: String,
    admin: SocketAddr,
    allowed: f64,
    denied: f64,
    /// Of what its application sent.
    retries: f64,
    last_denial: Option<String>,
}

/// A table of them.
pub(super) fn table_of(sidecars: &[Sidecar]) -> String {
    let cells: Vec<_> = sidecars
        .iter()
        .map(|sidecar| {
            vec![
                sidecar.workload.clone(),
                sidecar.allowed.to_string(),
                sidecar.denied.to_string(),
                sidecar.retries.to_string(),
                format!("http://{}", sidecar.admin),
                sidecar
                    .last_denial
                    .as_deref()
                    .map(plain)
                    .unwrap_or_default(),
            ]
        })
        .collect();
    table(
        &[
            "WORKLOAD",
            "ALLOWED",
            "DENIED",
            "RETRIES",
            "ADMIN",
            "LAST DENIAL",
        ],
        &cells,
    )
}

/// The latest of a `/denials` page, in a line.
fn last_denial(page: &str) -> Option<String> {
    let page: serde_json::Value = serde_json::from_str(page).ok()?;
    let list = page
        .as_array()
        .or_else(|| page.get("denials")?.as_array())?;
    let latest = list
        .iter()
        .max_by_key(|denial| denial.get("last_seen").and_then(|at| at.as_str()))?;
    let text = |field: &str| latest.get(field).and_then(|value| value.as_str());
    Some(text("why")?.to_owned())
}

/// What a workload still waits for.
pub(super) async fn waiting_for(member: &Member) -> Option<String> {
    match fetch::get(member.admin(), "/ready", "*/*").await {
        Ok(page) if page.status.is_success() => {}
        Ok(page) => {
            let why = page
                .headers
                .get("l5d-proxy-error")
                .and_then(|why| why.to_str().ok());
            return Some(why.map_or_else(|| page.body.trim().to_owned(), str::to_owned));
        }
        Err(failure) => return Some(failure.to_string()),
    }
    for port in member.ports() {
        let address = SocketAddr::from((member.at.application, port));
        if let Err(error) = tokio::net::TcpStream::connect(address).await {
            return Some(format!(
                "the application does not listen on {address}: {error}"
            ));
        }
    }
    None
}
