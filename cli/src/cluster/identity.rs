//! `linkerd identity POD` or `-l SELECTOR`: the certificates that Pods' sidecars show, in plain words. They are read from
//! the sidecars' admin servers, which show whoever asks what every peer is shown.

use super::{
    Cluster, Which, forward,
    workload::{in_order, text},
};
use crate::{
    identity,
    outcome::{Failure, Outcome, Output, json, plain, show},
};
use linkerd_tls::TrustAnchors;
use serde::Serialize;
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};
use tokio::{net::TcpStream, time::timeout};

/// How long a Pod's own address is tried, where its port cannot be forwarded.
const STRAIGHT: Duration = Duration::from_secs(2);
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The admin server's port, where the Pod does not say.
const ADMIN: u16 = 4191;

#[derive(Debug, clap::Args)]
pub(crate) struct PodFlags {
    /// Pods.
    #[arg(required_unless_present = "selector", conflicts_with = "selector")]
    names: Vec<String>,
    /// Pods with these labels.
    #[arg(long, short = 'l', value_name = "LABELS")]
    selector: Option<String>,
    /// Their namespace; absent: that of the kubeconfig's context.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Where the sidecar of the one Pod is reached, in place of the Pod's address and of a port that is forwarded.
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    #[command(flatten)]
    which: Which,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// What one sidecar shows.
#[derive(Debug, Serialize)]
struct Shown {
    pod: String,
    /// The leaf first.
    certificates: Vec<identity::Certificate>,
    /// What is wrong, beside what is wrong with a certificate alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// `linkerd identity`.
pub(crate) async fn run(flags: PodFlags) -> Result<Outcome, Failure> {
    let cluster = Cluster::connect(&flags.which).await?;
    let namespace = flags
        .namespace
        .as_deref()
        .unwrap_or(&cluster.default_namespace);
    let pods = pods(&cluster, namespace, &flags).await?;
    if pods.is_empty() {
        return Err(Failure::new(format!(
            "there are no such Pods in the namespace {namespace}"
        ))
        .hint("-n names another namespace"));
    }
    if flags.addr.is_some() && pods.len() != 1 {
        return Err(Failure::usage(format!(
            "--addr is of one Pod; these are {}",
            pods.len()
        )));
    }
    let settings = cluster.settings().await?;
    let roots = cluster.config_map("linkerd-identity-trust-roots").await?;
    let roots = roots
        .as_ref()
        .map(|roots| text(roots, "/data/ca-bundle.crt"));
    let anchors = roots.and_then(|pem| TrustAnchors::from_pem(pem).ok());
    let now = SystemTime::now();
    let mut all = Vec::new();
    for pod in &pods {
        let account = Some(text(pod, "/spec/serviceAccountName")).filter(|name| !name.is_empty());
        let expected = settings.service_account_identity(namespace, account.unwrap_or("default"));
        let mut shown = Shown {
            pod: text(pod, "/metadata/name").to_owned(),
            certificates: Vec::new(),
            problem: None,
        };
        match ask(&cluster, namespace, pod, flags.addr.as_deref(), &expected).await {
            Err(failure) => shown.problem = Some(failure.to_string()),
            Ok(chain) => {
                for der in &chain {
                    shown
                        .certificates
                        .push(identity::one(der, now).map_err(Failure::new)?);
                }
                shown.problem = problem(&chain, &expected, anchors.as_ref(), now);
            }
        }
        all.push(shown);
    }
    print(&all, flags.output, now)?;
    Ok(Outcome::when(all.iter().all(|shown| {
        shown.problem.is_none() && shown.certificates.iter().all(|one| one.problems.is_empty())
    })))
}

async fn pods(
    cluster: &Cluster,
    namespace: &str,
    flags: &PodFlags,
) -> Result<Vec<serde_json::Value>, Failure> {
    let list = format!("/api/v1/namespaces/{namespace}/pods");
    if let Some(selector) = &flags.selector {
        let query = crate::fetch::query(&[("labelSelector", Some(selector))]);
        return Ok(in_order(cluster.list(&list, &query).await?));
    }
    let mut pods = Vec::new();
    for name in &flags.names {
        let name = name
            .strip_prefix("po/")
            .or_else(|| name.strip_prefix("pod/"))
            .unwrap_or(name);
        let target: super::workload::Target =
            format!("po/{name}").parse().map_err(Failure::usage)?;
        pods.extend(target.pods(cluster, namespace).await?.pods);
    }
    Ok(pods)
}

/// The chain that a Pod's sidecar shows.
async fn ask(
    cluster: &Cluster,
    namespace: &str,
    pod: &serde_json::Value,
    addr: Option<&str>,
    name: &str,
) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, Failure> {
    let port = forward::port(pod, "linkerd-admin", ADMIN);
    if let Some(addr) = addr {
        return shown(forward::to_address(addr).await?, namespace, pod, name).await;
    }
    let own = text(pod, "/metadata/name");
    // The Pod's own address, seen from here, may be somebody else's.
    let failure = match forward::to_pod(cluster, namespace, own, port).await {
        Ok(io) => {
            let failure = match shown(io, namespace, pod, name).await {
                Ok(chain) => return Ok(chain),
                Err(failure) => failure,
            };
            return Err(forward::explained(failure, cluster, (namespace, own, port)).await);
        }
        Err(failure) => failure,
    };
    match straight(text(pod, "/status/podIP"), port).await {
        Some(stream) => shown(Box::new(stream), namespace, pod, name).await,
        None => Err(failure),
    }
}

/// The chain that is shown on a connection.
async fn shown(
    io: Box<dyn forward::Io>,
    namespace: &str,
    pod: &serde_json::Value,
    name: &str,
) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, Failure> {
    match timeout(HANDSHAKE, linkerd_tls::presented(io, name)).await {
        Ok(Ok(chain)) => Ok(chain),
        Ok(Err(error)) => Err(
            Failure::new(format!("no certificate is shown for {name}: {error}")).hint(format!(
                "kubectl -n {namespace} logs {} -c linkerd-proxy",
                text(pod, "/metadata/name")
            )),
        ),
        Err(_) => Err(Failure::new(format!(
            "no certificate is shown for {name} within {HANDSHAKE:?}"
        ))),
    }
}

/// A connection to a Pod's own address, where there is a way to it.
async fn straight(ip: &str, port: u16) -> Option<TcpStream> {
    let ip: IpAddr = ip.parse().ok()?;
    let address = SocketAddr::new(ip, port);
    timeout(STRAIGHT, TcpStream::connect(address))
        .await
        .ok()?
        .ok()
}

/// What is wrong with a chain that a sidecar shows: another's name, or no way to the anchors.
fn problem(
    chain: &[rustls_pki_types::CertificateDer<'_>],
    expected: &str,
    anchors: Option<&TrustAnchors>,
    now: SystemTime,
) -> Option<String> {
    let (leaf, between) = chain.split_first()?;
    match linkerd_tls::identity_of(leaf) {
        Err(error) => return Some(error.to_string()),
        Ok(id) if id.as_str() != expected => {
            return Some(format!(
                "it is of {id}, and not of {expected}, the Pod's ServiceAccount"
            ));
        }
        Ok(_) => {}
    }
    let Some(anchors) = anchors else {
        return Some("whether it leads to the trust anchors cannot be said: the ConfigMap linkerd-identity-trust-roots has none".to_owned());
    };
    let verified = linkerd_tls::leads_to(anchors, leaf, between, now);
    verified
        .err()
        .map(|error| format!("it does not lead to the trust anchors: {error}"))
}

fn print(all: &[Shown], output: Output, now: SystemTime) -> Result<(), Failure> {
    if output == Output::Json {
        return json(&all);
    }
    let mut out = String::new();
    for shown in all {
        out.push_str(&format!("POD {}\n", plain(&shown.pod)));
        for (number, certificate) in shown.certificates.iter().enumerate() {
            out.push_str(&certificate.describe(number + 1, shown.certificates.len(), now));
        }
        for line in shown.problem.iter().flat_map(|problem| problem.lines()) {
            out.push_str(&format!("  PROBLEM   {}\n", plain(line.trim())));
        }
    }
    show(&out)
}
