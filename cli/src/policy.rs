//! `linkerd policy explain` and `linkerd policy lint`: the same code that decides in sidecars, asked by a person.

use crate::{
    cluster::{
        Cluster, Which,
        workload::{Target, add, text},
    },
    fetch, mesh,
    outcome::{Failure, Outcome, Output, json, plain, show},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use linkerd_controller::source;
use linkerd_policy::{
    Peer, PeerId, PeerTls, Policy, RequestView,
    index::{Index, WorkloadRef},
    lint::{CHECKS, Severity},
};
use serde_json::{Value, json as value};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say what would become of a connection or request, and why. Exit code 1 if it would be refused.
    Explain(Box<Explain>),
    /// Say what is wrong with manifests, and what is valid and cannot be meant. Exit code 1 for errors.
    #[command(after_long_help = checks())]
    Lint(Lint),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Explain {
    /// A workload of the cluster, as KIND/NAME; or, with --workload, a directory of manifests, or one with a mesh.yaml.
    #[arg(
        required_unless_present = "admin",
        conflicts_with = "admin",
        value_name = "KIND/NAME|DIRECTORY"
    )]
    what: Option<String>,
    /// The step of a mesh.yaml; the last if absent.
    #[arg(long, conflicts_with = "admin", requires = "workload")]
    step: Option<usize>,
    /// Ask the running sidecar or controller with this admin address instead. A controller needs --workload.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// The workload of a directory or controller: namespace/name of an ExternalWorkload or pod.
    #[arg(long)]
    workload: Option<String>,
    /// Namespace of the workload of the cluster; absent: that of the kubeconfig's context.
    #[arg(long, short, conflicts_with_all = ["workload", "admin"])]
    namespace: Option<String>,
    #[command(flatten)]
    which: Which,
    /// The port of the workload. It may be left out for a workload of the cluster that has one port only.
    #[arg(long, required_unless_present = "what")]
    port: Option<u16>,
    /// The client: its identity, or sa/NAME, sa/NAMESPACE/NAME for that of a ServiceAccount; absent: a client outside
    /// the mesh.
    #[arg(long, visible_alias = "from")]
    client: Option<String>,
    /// The client's address.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)))]
    ip: IpAddr,
    /// HTTP method.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// HTTP path, with a query if there is one; absent: a connection that is not HTTP.
    #[arg(long)]
    path: Option<String>,
    /// HTTP host.
    #[arg(long)]
    host: Option<String>,
    /// HTTP header NAME:VALUE; may be repeated.
    #[arg(long = "header", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    linkerd_policy::explain::header(text)
        .ok_or_else(|| "write NAME:VALUE, like x-tenant:shop".to_owned())
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Lint {
    /// Directory of manifests, or one with a mesh.yaml.
    directory: PathBuf,
    /// The step of a mesh.yaml; the last if absent.
    #[arg(long)]
    step: Option<usize>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// `linkerd policy explain`.
pub(crate) async fn explain(flags: Explain) -> Result<Outcome, Failure> {
    if let Some(admin) = flags.admin {
        return explain_live(admin, &flags).await;
    }
    let what = flags.what.as_deref().unwrap_or_default();
    let Some(name) = &flags.workload else {
        return explain_of_cluster(what, &flags).await;
    };
    let index = mesh::index(&mesh::manifests(std::path::Path::new(what), flags.step)?);
    let workload = workload(&index, name)?;
    let port = flags
        .port
        .ok_or_else(|| Failure::usage("--port is needed"))?;
    decide(&index, &workload, port, &flags)
}

/// The same of a cluster's objects.
async fn explain_of_cluster(what: &str, flags: &Explain) -> Result<Outcome, Failure> {
    let target: Target = what.parse().map_err(|error| {
        let failure = Failure::usage(format!("{what:?}: {error}"));
        match std::path::Path::new(what).is_dir() {
            true => failure.hint("--workload NAMESPACE/NAME, to ask about a directory"),
            false => failure,
        }
    })?;
    let cluster = Cluster::connect(&flags.which).await?;
    let namespace = flags.namespace.as_deref();
    let namespace = namespace.unwrap_or(&cluster.default_namespace);
    let found = target.pods(&cluster, namespace).await?;
    let Some(pod) = found.pods.into_iter().next() else {
        return Err(Failure::new(format!(
            "{what} has no Pods in the namespace {namespace}"
        )));
    };
    if found.is_template {
        eprintln!("{what} has no Pods: this is of its template");
    } else if target.plural != "pods" {
        eprintln!(
            "of {what} this is the Pod {}",
            plain(text(&pod, "/metadata/name"))
        );
    }
    let mut index = cluster.policy().await?;
    let workload = add(&mut index, pod)?;
    let port = flags
        .port
        .map_or_else(|| only_port(&index, &workload), Ok)?;
    decide(&index, &workload, port, flags)
}

/// The one port that a workload declares, but for the sidecar's own.
fn only_port(index: &Index, workload: &WorkloadRef) -> Result<u16, Failure> {
    let ports: std::collections::BTreeSet<u16> = index
        .authorized(workload)
        .into_iter()
        .map(|row| row.port)
        .collect();
    match ports.first() {
        Some(port) if ports.len() == 1 => Ok(*port),
        _ => {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            Err(
                Failure::usage("--port is needed").hint(match ports.join(", ") {
                    none if none.is_empty() => "--port 8080: the workload declares none".to_owned(),
                    ports => format!("one of {ports}"),
                }),
            )
        }
    }
}

/// An identity, from what a person writes for a client of a workload.
fn identity(text: &str, workload: &WorkloadRef, index: &Index) -> String {
    let account = text
        .strip_prefix("sa/")
        .or_else(|| text.strip_prefix("serviceaccount/"));
    let Some(account) = account else {
        return text.to_owned();
    };
    let (namespace, name) = account
        .split_once('/')
        .unwrap_or_else(|| (workload.namespace(), account));
    index.cluster().service_account_identity(namespace, name)
}

fn decide(
    index: &Index,
    workload: &WorkloadRef,
    port: u16,
    flags: &Explain,
) -> Result<Outcome, Failure> {
    let name = format!("{}/{}", workload.namespace(), workload.name());
    let server = index
        .inbound(workload, port)
        .ok_or_else(|| Failure::new(format!("{name} is not a workload")))?;
    let policy = Policy::compile(server.with_localhost())
        .map_err(|error| Failure::new(format!("port {port} of {name}: {error}")))?;
    let client = flags.client.as_deref();
    let client = client.map(|text| identity(text, workload, index));
    let tls = match client.as_deref() {
        None => PeerTls::None,
        Some(id) => PeerTls::Terminated {
            identity: Some(PeerId::of(id)),
        },
    };
    let peer = Peer {
        addr: flags.ip,
        tls,
    };
    let headers: HeaderMap = flags.headers.iter().cloned().collect();
    let explanation = match flags.path.as_deref() {
        None => policy.explain_connection(&peer),
        Some(target) => {
            let host = flags.host.as_deref();
            let request = RequestView::of_target(&flags.method, host, target, &headers);
            policy.explain_request(&peer, &request)
        }
    };
    match flags.output {
        Output::Text => show(&explanation.to_string())?,
        Output::Json => json(&explanation)?,
    }
    let allowed = explanation.decision == linkerd_policy::explain::Decision::Allow;
    Ok(Outcome::when(allowed))
}

/// The workload that a person means by `namespace/name`, or by a token of the API.
fn workload(index: &Index, text: &str) -> Result<WorkloadRef, Failure> {
    let all: Vec<WorkloadRef> = index
        .workloads()
        .map(linkerd_policy::index::Workload::reference)
        .collect();
    let named = text.split_once('/').and_then(|(ns, name)| {
        all.iter()
            .find(|workload| workload.namespace() == ns && workload.name() == name)
    });
    let token = || text.parse().ok().filter(|token| all.contains(token));
    named.cloned().or_else(token).ok_or_else(|| {
        let known: Vec<_> = all
            .iter()
            .map(|w| format!("{}/{}", w.namespace(), w.name()))
            .collect();
        Failure::usage(format!("--workload {text:?} is not known")).hint(if known.is_empty() {
            "a directory that has workloads".into()
        } else {
            known.join(", ")
        })
    })
}

async fn explain_live(admin: SocketAddr, flags: &Explain) -> Result<Outcome, Failure> {
    if let Some(account) = flags
        .client
        .as_deref()
        .filter(|client| client.starts_with("sa/"))
    {
        return Err(Failure::usage(format!(
            "{account:?}: with --admin the client's whole identity is wanted"
        ))
        .hint("web.shop.serviceaccount.identity.linkerd.cluster.local"));
    }
    let port = flags.port.map(|port| port.to_string());
    let ip = flags.ip.to_string();
    let mut parts = vec![
        // As it was written: a controller knows whether that is a Pod.
        ("workload", flags.workload.as_deref()),
        ("port", port.as_deref()),
        ("client", flags.client.as_deref()),
        ("ip", Some(ip.as_str())),
    ];
    if flags.path.is_some() {
        parts.push(("method", Some(flags.method.as_str())));
    }
    parts.extend([
        ("path", flags.path.as_deref()),
        ("host", flags.host.as_deref()),
    ]);
    let headers: Vec<String> = flags
        .headers
        .iter()
        .map(|(name, value)| format!("{name}:{}", value.to_str().unwrap_or_default()))
        .collect();
    parts.extend(
        headers
            .iter()
            .map(|header| ("header", Some(header.as_str()))),
    );
    let path = format!("/policy/explain?{}", fetch::query(&parts));
    let page = fetch::get(admin, &path, "application/json")
        .await
        .map_err(|failure| failure.hint("linkerd run says where the admin servers are"))?;
    if !page.status.is_success() {
        return Err(Failure::new(format!(
            "{admin} answered {}: {}",
            page.status,
            plain(page.body.trim())
        )));
    }
    let value: Value = serde_json::from_str(&page.body).map_err(|error| {
        Failure::new(format!(
            "{admin} does not answer like an admin server: {error}"
        ))
    })?;
    // A sidecar says beside it which version of its policy that is.
    let explanation = value.get("explanation").unwrap_or(&value);
    match flags.output {
        Output::Json => json(explanation)?,
        Output::Text => show(&rendered(explanation))?,
    }
    Ok(Outcome::when(
        explanation.get("decision") == Some(&value!("allow")),
    ))
}

/// An explanation from elsewhere, for people.
fn rendered(value: &Value) -> String {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(plain);
    let name = |pointer: &str| {
        Some(format!(
            "{} {}",
            text(&format!("{pointer}/kind"))?,
            text(&format!("{pointer}/name"))?
        ))
    };
    // As this command says it of manifests.
    let mut out = match text("/decision").unwrap_or_default().as_str() {
        "allow" => "ALLOWED".to_owned(),
        "deny" => "DENIED".to_owned(),
        other => other.replace('_', " ").to_uppercase(),
    };
    if let Some(authorization) = name("/authorization") {
        out.push_str(&format!(" by {authorization}"));
    }
    if let Some(reason) = text("/reason") {
        out.push_str(&format!(": {reason}"));
    }
    out.push('\n');
    let identity = text("/client/identity").unwrap_or_else(|| "no identity".into());
    let lines = [
        (
            "client",
            text("/client/addr").map(|addr| format!("{addr}, {identity}")),
        ),
        ("request", text("/request")),
        ("server", name("/server")),
        ("route", name("/route/name")),
    ];
    for (what, line) in lines {
        if let Some(line) = line {
            out.push_str(&format!("  {what:<8}  {line}\n"));
        }
    }
    for candidate in value
        .get("candidates")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |pointer: &str| {
            candidate
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(plain)
        };
        let failed = text("/failed").unwrap_or_else(|| "takes the client".into());
        let kind = text("/authorization/kind").unwrap_or_default();
        let name = text("/authorization/name").unwrap_or_default();
        out.push_str(&format!("  - {kind} {name}: {failed}\n"));
    }
    out
}

/// What lint looks for, as its help lists it.
fn checks() -> String {
    let width = CHECKS.iter().map(|(check, _)| check.len()).max();
    let width = width.unwrap_or_default();
    let mut text = String::from("Checks, beside whether a manifest can be read:\n");
    for (check, what) in CHECKS {
        text.push_str(&format!("  {check:<width$}  {what}\n"));
    }
    text
}

/// `linkerd policy lint`.
pub(crate) fn lint(flags: &Lint) -> Result<Outcome, Failure> {
    let loaded = source::read(&mesh::manifests(&flags.directory, flags.step)?);
    let files = loaded.files;
    let objects = loaded.objects.len();
    let place = |key: &_| {
        loaded
            .objects
            .get(key)
            .map(|(file, _)| file.display().to_string())
    };
    let resources = loaded
        .objects
        .values()
        .map(|(_, resource)| resource.clone());
    let findings = Index::from_resources(mesh::cluster(), resources).lint();
    let errors = loaded.problems.len()
        + findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .count();
    match flags.output {
        Output::Json => json(&value!({
            "files": files,
            "objects": objects,
            "errors": errors,
            "problems": loaded.problems,
            "findings": findings.iter().map(|finding| value!({
                "severity": finding.severity.to_string(),
                "file": place(&finding.object),
                "object": finding.object.to_string(),
                "check": finding.check,
                "message": finding.message,
                "fix": finding.fix,
            })).collect::<Vec<_>>(),
        }))?,
        Output::Text => {
            let mut text = String::new();
            for problem in &loaded.problems {
                text.push_str(&format!("error: {}\n", plain(&problem.to_string())));
            }
            for finding in &findings {
                if let Some(file) = place(&finding.object) {
                    text.push_str(&format!("{file}: "));
                }
                text.push_str(&format!("{finding}\n"));
            }
            let noun =
                |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            text.push_str(&format!(
                "{} in {}: {}, {}\n",
                noun(objects, "object"),
                noun(files, "file"),
                noun(errors, "error"),
                noun(loaded.problems.len() + findings.len() - errors, "remark")
            ));
            show(&text)?;
        }
    }
    Ok(Outcome::when(errors == 0))
}
