//! `linkerd diagnostics` of a cluster: what the control plane's APIs say, as a sidecar would be told.

use super::{Cluster, Which, forward};
use crate::outcome::{Failure, Outcome, Output, json, plain, show, table};
use hyper_util::rt::TokioIo;
use linkerd_policy::outbound::{Http2Params, profile::Profile};
use linkerd2_proxy_api::{
    destination::{
        GetDestination, WeightedAddrSet, destination_client::DestinationClient, update::Update,
    },
    inbound::{PortSpec, inbound_server_policies_client::InboundServerPoliciesClient},
    net::{TcpAddress, ip_address::Ip},
    outbound::{TrafficSpec, outbound_policies_client::OutboundPoliciesClient, traffic_spec},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Mutex,
    time::Duration,
};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for a first answer.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a stream must say nothing more for what it said to be all of it.
const SETTLED: Duration = Duration::from_millis(250);
/// Most endpoints that are shown of one name.
const MAX_ENDPOINTS: usize = 100_000;
/// Ports of the control plane: policy and destination.
const POLICY: u16 = 8090;
const DESTINATION: u16 = 8086;

/// Whom to ask.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Ask {
    /// Where the control plane's API is reached, in place of a port that is forwarded.
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// The Pod of the control plane that is asked; absent: one that is ready.
    #[arg(long, value_name = "POD", conflicts_with = "addr")]
    destination_pod: Option<String>,
    /// The client, as a sidecar's token: {"ns":"shop","pod":"web"}.
    #[arg(long, value_name = "TOKEN", default_value = "")]
    token: String,
    #[command(flatten)]
    which: Which,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PolicyFlags {
    /// po/NAME: what its sidecar enforces on the port. svc/NAME: how clients reach it.
    #[arg(value_name = "KIND/NAME")]
    what: String,
    /// The port.
    port: u16,
    /// Namespace; absent: that of the kubeconfig's context.
    #[arg(long, short)]
    namespace: Option<String>,
    #[command(flatten)]
    ask: Ask,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProfileFlags {
    /// NAME.NAMESPACE.svc.DOMAIN:PORT or ADDRESS:PORT.
    authority: String,
    #[command(flatten)]
    ask: Ask,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// A cluster is asked for only where no address is given, or a namespace is wanted.
async fn channel(cluster: Option<&Cluster>, ask: &Ask, port: u16) -> Result<Channel, Failure> {
    let io = match (&ask.addr, cluster) {
        (Some(addr), _) => forward::to_address(addr).await?,
        (None, Some(cluster)) => {
            let pods = forward::component(cluster, "destination").await?;
            let pod = forward::choose(pods, "destination", ask.destination_pod.as_deref())?;
            forward::to_pod(cluster, &cluster.namespace, &pod, port).await?
        }
        (None, None) => return Err(Failure::usage("--addr is needed")),
    };
    // One connection is all there is: a second one is refused.
    let io = Mutex::new(Some(TokioIo::new(io)));
    let connector = tower::service_fn(move |_: http::Uri| {
        let io = io.lock().ok().and_then(|mut io| io.take());
        async move { io.ok_or_else(|| std::io::Error::other("the connection ended")) }
    });
    let endpoint = Endpoint::from_static("http://control-plane").connect_timeout(LIMIT);
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| {
        Failure::new(format!(
            "the control plane does not speak gRPC: {}",
            super::chain(&error)
        ))
    })
}

async fn answer<T>(
    what: &str,
    asked: impl Future<Output = Result<Option<T>, tonic::Status>>,
) -> Result<T, Failure> {
    match timeout(LIMIT, asked).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) => Err(Failure::new(format!(
            "{what}: the control plane says nothing"
        ))),
        Ok(Err(status)) => Err(Failure::new(format!(
            "{what}: {:?}: {}",
            status.code(),
            plain(status.message())
        ))),
        Err(_) => Err(Failure::new(format!("{what}: no answer within {LIMIT:?}"))),
    }
}

async fn connect(ask: &Ask) -> Result<Option<Cluster>, Failure> {
    match ask.addr {
        Some(_) => Ok(None),
        None => Cluster::connect(&ask.which).await.map(Some),
    }
}

/// `linkerd diagnostics policy`.
pub(crate) async fn policy(flags: PolicyFlags) -> Result<Outcome, Failure> {
    let (kind, name) = flags
        .what
        .split_once('/')
        .ok_or_else(|| Failure::usage("po/NAME or svc/NAME is wanted"))?;
    let cluster = connect(&flags.ask).await?;
    let namespace = flags
        .namespace
        .clone()
        .or_else(|| Some(cluster.as_ref()?.default_namespace.clone()));
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    let port = u32::from(flags.port);
    let channel = channel(cluster.as_ref(), &flags.ask, POLICY).await?;
    let what = format!("{} {}", flags.what, flags.port);
    match kind.to_ascii_lowercase().as_str() {
        "po" | "pod" | "pods" | "ew" | "externalworkload" | "externalworkloads" => {
            let key = if kind.to_ascii_lowercase().starts_with("po") {
                "pod"
            } else {
                "external_workload"
            };
            let workload = serde_json::json!({"ns": namespace, key: name}).to_string();
            let spec = PortSpec { workload, port };
            let mut client = InboundServerPoliciesClient::new(channel);
            let server = answer(&what, async {
                client.watch_port(spec).await?.into_inner().message().await
            });
            let server = server.await?;
            let read = linkerd_policy::proto::server_from_api(server.clone());
            shown(&read, &server, flags.output)
        }
        "svc" | "service" | "services" => {
            let settings = match &cluster {
                Some(cluster) => cluster.settings().await?.cluster_domain,
                None => "cluster.local".to_owned(),
            };
            let authority = format!("{name}.{namespace}.svc.{settings}:{port}");
            let spec = TrafficSpec {
                // Whoever asks must be somebody; a Pod that is not there has no rules of its own.
                source_workload: match flags.ask.token.as_str() {
                    "" => format!("{namespace}:linkerd-diagnostics"),
                    token => token.to_owned(),
                },
                target: Some(traffic_spec::Target::Authority(authority)),
            };
            let mut client = OutboundPoliciesClient::new(channel);
            let policy = answer(&what, async {
                client.get(spec).await.map(|got| Some(got.into_inner()))
            });
            let policy = policy.await?;
            let read = linkerd_policy::proto::outbound_from_api(policy.clone());
            shown(&read, &policy, flags.output)
        }
        _ => Err(Failure::usage(format!(
            "{kind:?}: po/NAME, ew/NAME or svc/NAME is wanted"
        ))),
    }
}

/// Shows what a sidecar reads in a message; what it would refuse is shown to people as it was sent.
fn shown<T: Debug + Serialize>(
    read: &Result<T, impl Display>,
    sent: &impl Debug,
    output: Output,
) -> Result<Outcome, Failure> {
    match (read, output) {
        (Ok(policy), Output::Json) => json(policy)?,
        (Ok(policy), Output::Text) => show(&format!("{policy:#?}\n"))?,
        (Err(error), Output::Json) => {
            return Err(Failure::new(format!("a sidecar refuses this: {error}"))
                .hint("-o text shows what was sent"));
        }
        (Err(error), Output::Text) => {
            show(&format!("# a sidecar refuses this: {error}\n{sent:#?}\n"))?;
        }
    }
    Ok(Outcome::Good)
}

/// `linkerd diagnostics profile`.
pub(crate) async fn profile(flags: ProfileFlags) -> Result<Outcome, Failure> {
    let cluster = connect(&flags.ask).await?;
    let channel = channel(cluster.as_ref(), &flags.ask, DESTINATION).await?;
    let request = wanted(&flags.authority, &flags.ask);
    let mut client = DestinationClient::new(channel);
    let profile = answer(&flags.authority, async {
        client
            .get_profile(request)
            .await?
            .into_inner()
            .message()
            .await
    });
    let (profile, refused) = linkerd_policy::proto::profile_from_api(profile.await?);
    let passed_over: Vec<String> = refused.iter().map(ToString::to_string).collect();
    match flags.output {
        Output::Json => json(&Read {
            profile: &profile,
            passed_over,
        })?,
        Output::Text => {
            for error in passed_over {
                show(&format!("# a sidecar passes this over: {error}\n"))?;
            }
            show(&format!("{profile:#?}\n"))?;
        }
    }
    Ok(Outcome::Good)
}

/// A profile, and what of it no sidecar uses.
#[derive(Serialize)]
struct Read<'a> {
    #[serde(flatten)]
    profile: &'a Profile,
    passed_over: Vec<String>,
}

fn wanted(authority: &str, ask: &Ask) -> GetDestination {
    GetDestination {
        scheme: String::new(),
        path: authority.to_owned(),
        context_token: ask.token.clone(),
    }
}

/// An endpoint, as it is shown.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    authority: String,
    namespace: String,
    ip: String,
    port: u32,
    pod: String,
    service: String,
    weight: u32,
    identity: String,
    /// Labels of metrics.
    labels: BTreeMap<String, String>,
    /// How connections to it speak HTTP/2, where that is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    http2: Option<Http2Params>,
}

impl Row {
    /// By what rows are sorted.
    fn key(&self) -> (&str, &str, &str, u32) {
        (&self.authority, &self.namespace, &self.ip, self.port)
    }
}

/// `linkerd diagnostics endpoints AUTHORITY...`.
pub(crate) async fn endpoints(
    authorities: &[String],
    ask: &Ask,
    output: Output,
) -> Result<Outcome, Failure> {
    let cluster = connect(ask).await?;
    let mut rows = Vec::new();
    for authority in authorities {
        let channel = channel(cluster.as_ref(), ask, DESTINATION).await?;
        rows.extend(endpoints_of(channel, authority, ask).await?);
    }
    rows.sort_by(|one, other| one.key().cmp(&other.key()));
    match output {
        Output::Json => json(&rows)?,
        Output::Text => {
            let head = ["NAMESPACE", "IP", "PORT", "POD", "SERVICE", "IDENTITY"];
            let lines: Vec<Vec<String>> = rows
                .iter()
                .map(|row| {
                    let port = row.port.to_string();
                    let cells = [
                        &row.namespace,
                        &row.ip,
                        &port,
                        &row.pod,
                        &row.service,
                        &row.identity,
                    ];
                    let cells = cells.map(|cell| {
                        if cell.is_empty() {
                            "-".to_owned()
                        } else {
                            plain(cell)
                        }
                    });
                    cells.to_vec()
                })
                .collect();
            show(&if lines.is_empty() {
                "No endpoints found.\n".to_owned()
            } else {
                table(&head, &lines)
            })?;
        }
    }
    Ok(Outcome::Good)
}

async fn endpoints_of(channel: Channel, authority: &str, ask: &Ask) -> Result<Vec<Row>, Failure> {
    let mut client = DestinationClient::new(channel);
    let request = wanted(authority, ask);
    let mut stream = answer(authority, async {
        client.get(request).await.map(|got| Some(got.into_inner()))
    })
    .await?;
    let first = answer(authority, stream.message()).await?;
    let mut rows = Vec::new();
    take(&mut rows, authority, first.update);
    // A large set is sent in several messages.
    while let Ok(Ok(Some(next))) = timeout(SETTLED, stream.message()).await {
        take(&mut rows, authority, next.update);
        if rows.len() >= MAX_ENDPOINTS {
            eprintln!(
                "warning: {authority} has more than {MAX_ENDPOINTS} endpoints; the others are not shown"
            );
            break;
        }
    }
    Ok(rows)
}

fn take(rows: &mut Vec<Row>, authority: &str, update: Option<Update>) {
    match update {
        Some(Update::Add(set)) => rows.extend(added(authority, &set)),
        Some(Update::Remove(set)) => {
            let gone: Vec<(String, u32)> = set.addrs.iter().filter_map(address).collect();
            rows.retain(|row| !gone.contains(&(row.ip.clone(), row.port)));
        }
        Some(Update::NoEndpoints(_)) => rows.clear(),
        None => {}
    }
}

fn added(authority: &str, set: &WeightedAddrSet) -> Vec<Row> {
    let rows = set.addrs.iter().filter_map(|each| {
        let (ip, port) = address(each.addr.as_ref()?)?;
        let of_set = set.metric_labels.clone().into_iter();
        let mut labels: BTreeMap<String, String> = of_set.collect();
        labels.extend(each.metric_labels.clone());
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let read = linkerd_policy::proto::endpoint_from_api(each.clone(), &set.metric_labels);
        Some(Row {
            authority: authority.to_owned(),
            namespace: label("namespace"),
            ip,
            port,
            pod: label("pod"),
            service: label("service"),
            weight: each.weight,
            identity: identity(each.tls_identity.as_ref()),
            http2: read.ok().and_then(|endpoint| endpoint.http2),
            labels,
        })
    });
    rows.collect()
}

fn identity(tls: Option<&linkerd2_proxy_api::destination::TlsIdentity>) -> String {
    use linkerd2_proxy_api::destination::tls_identity::Strategy;
    match tls.and_then(|tls| tls.strategy.as_ref()) {
        Some(Strategy::DnsLikeIdentity(id)) => id.name.clone(),
        Some(Strategy::UriLikeIdentity(id)) => id.uri.clone(),
        None => String::new(),
    }
}

fn address(address: &TcpAddress) -> Option<(String, u32)> {
    let ip = match address.ip.as_ref()?.ip.as_ref()? {
        Ip::Ipv4(bits) => IpAddr::V4(Ipv4Addr::from(*bits)),
        Ip::Ipv6(ip) => IpAddr::V6(Ipv6Addr::from(
            (u128::from(ip.first) << 64) | u128::from(ip.last),
        )),
    };
    Some((ip.to_string(), address.port))
}

/// A name that is asked about, told from a directory by its port.
pub(crate) fn is_authority(text: &str) -> bool {
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    matches!(port, Some(Ok(_))) || text.parse::<SocketAddr>().is_ok()
}
