//! `linkerd authz`: what opens the ports of a workload. Computed by the code that sidecars' policy is made with.

use super::{
    Cluster, Which,
    workload::{Target, add},
};
use crate::{
    mesh,
    outcome::{Failure, Outcome, Output, json, plain, show, table},
};
use linkerd_policy::{
    Meta,
    index::{Authorized, Index, WorkloadRef},
};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// KIND/NAME: deploy, sts, ds, rs, rc, job, cj, po, or ns for everything in it; with -f the name of a Pod or
    /// ExternalWorkload, as po/NAME.
    #[arg(value_name = "KIND/NAME")]
    target: Target,
    /// Its namespace; absent: that of the kubeconfig's context.
    #[arg(long, short)]
    namespace: Option<String>,
    /// A directory of manifests in place of the cluster.
    #[arg(long, short, value_name = "DIRECTORY")]
    file: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// A line.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Row {
    route: String,
    server: String,
    #[serde(rename = "authorizationPolicy")]
    policy: String,
    #[serde(rename = "serverAuthorization")]
    authorization: String,
    port: u16,
}

/// `linkerd authz`.
pub(crate) async fn run(flags: Flags) -> Result<Outcome, Failure> {
    let rows = match &flags.file {
        Some(directory) => of_directory(&flags, directory)?,
        None => of_cluster(&flags).await?,
    };
    match flags.output {
        Output::Json => json(&rows)?,
        Output::Text => {
            let head = [
                "ROUTE",
                "SERVER",
                "AUTHORIZATION_POLICY",
                "SERVER_AUTHORIZATION",
                "PORT",
            ];
            let lines: Vec<Vec<String>> = rows
                .iter()
                .map(|row| {
                    let texts = [&row.route, &row.server, &row.policy, &row.authorization];
                    let mut line: Vec<String> = texts.map(|text| plain(text)).to_vec();
                    line.push(row.port.to_string());
                    line
                })
                .collect();
            show(&table(&head, &lines))?;
        }
    }
    Ok(Outcome::Good)
}

async fn of_cluster(flags: &Flags) -> Result<Vec<Row>, Failure> {
    let cluster = Cluster::connect(&flags.which).await?;
    let namespace = flags
        .namespace
        .as_deref()
        .unwrap_or(&cluster.default_namespace);
    let found = flags.target.pods(&cluster, namespace).await?;
    let mut index = cluster.policy().await?;
    let mut workloads = Vec::new();
    for pod in found.pods {
        workloads.push(add(&mut index, pod)?);
    }
    Ok(rows(&index, &workloads))
}

fn of_directory(flags: &Flags, directory: &std::path::Path) -> Result<Vec<Row>, Failure> {
    let index = mesh::index(&mesh::manifests(directory, None)?);
    let is_namespace = flags.target.plural == "namespaces";
    let namespace = match (&flags.namespace, is_namespace) {
        (_, true) => flags.target.name.as_str(),
        (Some(namespace), false) => namespace.as_str(),
        (None, false) => "default",
    };
    let references = index
        .workloads()
        .map(linkerd_policy::index::Workload::reference);
    let workloads: Vec<WorkloadRef> = references
        .filter(|workload| {
            workload.namespace() == namespace
                && (is_namespace || workload.name() == flags.target.name)
        })
        .collect();
    if workloads.is_empty() {
        return Err(Failure::usage(format!(
            "{} has no such workload in the namespace {namespace}",
            directory.display()
        ))
        .hint("po/NAME of a Pod or ExternalWorkload, and -n NAMESPACE"));
    }
    Ok(rows(&index, &workloads))
}

/// Lines, each once, in the order in which they count.
fn rows(index: &Index, workloads: &[WorkloadRef]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let all = workloads
        .iter()
        .flat_map(|workload| index.authorized(workload));
    for row in all.map(|authorized| row(&authorized)) {
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows
}

fn row(authorized: &Authorized) -> Row {
    // What is there without an object says so.
    let name = |meta: &Meta| match meta {
        Meta::Resource { name, .. } => name.clone(),
        Meta::Default { name } => format!("default:{name}"),
    };
    let (mut policy, mut authorization) = (String::new(), String::new());
    match &authorized.authorization {
        Some(meta) if meta.kind() == "serverauthorization" => authorization = name(meta),
        Some(meta) => policy = name(meta),
        None => policy = "none: denied".to_owned(),
    }
    let none = || "-".to_owned();
    Row {
        route: authorized
            .route
            .as_ref()
            .map_or_else(|| "*".to_owned(), name),
        server: name(&authorized.server),
        policy: Some(policy)
            .filter(|text| !text.is_empty())
            .unwrap_or_else(none),
        authorization: Some(authorization)
            .filter(|text| !text.is_empty())
            .unwrap_or_else(none),
        port: authorized.port,
    }
}
