//! `linkerd diagnostics`: what a sidecar holds, and whether it is what the manifests say; what a cluster's control plane
//! says is in `cluster::diagnostics`.

use crate::{
    cluster::{diagnostics as of_cluster, metrics},
    fetch, mesh,
    outcome::{Failure, Outcome, Output, json, plain, show, table},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, net::SocketAddr, path::Path};

#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// What a sidecar knows of destinations: versions, ages, routes, endpoints and how they do.
    Outbound(OutboundFlags),
    /// The endpoints that the cluster's control plane names for an authority, as a sidecar is told. With --admin: compares
    /// those that a sidecar holds with those that manifests name.
    Endpoints(EndpointFlags),
    /// The policy of a port, as the control plane tells it to sidecars.
    Policy(of_cluster::PolicyFlags),
    /// The profile of an authority, as the control plane tells it to sidecars.
    Profile(of_cluster::ProfileFlags),
    /// Metrics of a workload's sidecars.
    ProxyMetrics(metrics::ProxyMetricsFlags),
    /// Metrics of the control plane.
    ControllerMetrics(metrics::ControllerMetricsFlags),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OutboundFlags {
    /// The sidecar's admin server, for example 127.0.0.1:4191.
    admin: SocketAddr,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EndpointFlags {
    /// NAME.NAMESPACE.svc.DOMAIN:PORT; with --admin, directories of manifests, or of a mesh.yaml.
    #[arg(required = true, value_name = "AUTHORITY|DIRECTORY")]
    what: Vec<String>,
    /// A sidecar's admin server, for example 127.0.0.1:4191, whose endpoints are compared with manifests.
    #[arg(long)]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    ask: of_cluster::Ask,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Deserialize)]
struct Page {
    endpoints: Vec<Held>,
}

/// The endpoints that a sidecar holds of one name.
#[derive(Debug, Deserialize)]
struct Held {
    path: String,
    version: u64,
    age: u64,
    connected: bool,
    addresses: BTreeSet<SocketAddr>,
}

/// One name, compared.
#[derive(Debug, Serialize)]
struct Compared {
    path: String,
    version: u64,
    /// Seconds since the sidecar received its version.
    age: u64,
    /// The control plane tells the sidecar of changes.
    connected: bool,
    same: bool,
    /// The sidecar has it, the manifests do not.
    stale: Vec<SocketAddr>,
    /// The manifests have it, the sidecar does not.
    missing: Vec<SocketAddr>,
}

/// `linkerd diagnostics`.
pub(crate) async fn run(command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Outbound(flags) => {
            let accept = match flags.output {
                Output::Json => "application/json",
                Output::Text => "text/plain",
            };
            let page = page(flags.admin, accept).await?;
            show(&page)?;
            Ok(Outcome::Good)
        }
        Command::Endpoints(flags) => match flags.admin {
            Some(admin) => endpoints(&flags, admin).await,
            None => {
                if let Some(wrong) = flags
                    .what
                    .iter()
                    .find(|what| !of_cluster::is_authority(what))
                {
                    return Err(Failure::usage(format!("{wrong:?} is no authority: it has no port"))
                        .hint("web.shop.svc.cluster.local:8080; or --admin ADDRESS, to compare a sidecar with a directory"));
                }
                of_cluster::endpoints(&flags.what, &flags.ask, flags.output).await
            }
        },
        Command::Policy(flags) => of_cluster::policy(flags).await,
        Command::Profile(flags) => of_cluster::profile(flags).await,
        Command::ProxyMetrics(flags) => metrics::proxy_metrics(flags).await,
        Command::ControllerMetrics(flags) => metrics::controller_metrics(flags).await,
    }
}

async fn page(admin: SocketAddr, accept: &str) -> Result<String, Failure> {
    let page = fetch::get(admin, "/outbound", accept).await?;
    if !page.status.is_success() {
        let what = format!("http://{admin}/outbound: {}", page.status);
        let hint = "ask from the sidecar's own host, or set LINKERD2_PROXY_ADMIN_POLICY=policy";
        return Err(Failure::new(what).hint(hint));
    }
    Ok(page.body)
}

async fn endpoints(flags: &EndpointFlags, admin: SocketAddr) -> Result<Outcome, Failure> {
    // Against nothing everything would be stale: a directory that is not there is refused.
    let mut manifests = Vec::new();
    for directory in &flags.what {
        manifests.extend(mesh::manifests(Path::new(directory), None)?);
    }
    let index = mesh::index(&manifests);
    let page = page(admin, "application/json").await?;
    let page: Page = serde_json::from_str(&page)
        .map_err(|error| Failure::new(format!("http://{admin}/outbound: {error}")))?;
    let compared: Vec<Compared> = page
        .endpoints
        .into_iter()
        .map(|held| {
            let named = named(&index, &held.path);
            let stale: Vec<_> = held.addresses.difference(&named).copied().collect();
            let missing: Vec<_> = named.difference(&held.addresses).copied().collect();
            Compared {
                path: held.path,
                version: held.version,
                age: held.age,
                connected: held.connected,
                same: stale.is_empty() && missing.is_empty(),
                stale,
                missing,
            }
        })
        .collect();
    match flags.output {
        Output::Json => json(&compared)?,
        Output::Text => show(&written(&compared))?,
    }
    Ok(Outcome::when(compared.iter().all(|each| each.same)))
}

/// The endpoints that manifests name: `service.namespace.svc.domain:port`.
fn named(index: &linkerd_policy::index::Index, path: &str) -> BTreeSet<SocketAddr> {
    let Some((name, port)) = path.rsplit_once(':') else {
        return BTreeSet::new();
    };
    let mut labels = name.split('.');
    let (Some(service), Some(namespace), Ok(port)) = (labels.next(), labels.next(), port.parse())
    else {
        return BTreeSet::new();
    };
    let endpoints = index
        .endpoints(namespace, service, port)
        .unwrap_or_default();
    endpoints
        .iter()
        .map(|endpoint| SocketAddr::new(endpoint.addr, endpoint.port))
        .collect()
}

fn written(compared: &[Compared]) -> String {
    let list = |addresses: &[SocketAddr]| {
        let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        if all.is_empty() {
            "-".to_owned()
        } else {
            all.join(" ")
        }
    };
    let rows: Vec<Vec<String>> = compared
        .iter()
        .map(|each| {
            vec![
                plain(&each.path),
                each.version.to_string(),
                format!("{} s", each.age),
                if each.connected { "yes" } else { "no" }.to_owned(),
                if each.same { "same" } else { "differs" }.to_owned(),
                list(&each.stale),
                list(&each.missing),
            ]
        })
        .collect();
    let head = [
        "NAME",
        "VERSION",
        "AGE",
        "CONNECTED",
        "MANIFESTS",
        "STALE",
        "MISSING",
    ];
    table(&head, &rows)
}
