//! A control plane for one proxy: allows by one policy, certifies whoever asks, knows no destinations.
//!
//! It runs on loopback within the proxy's namespace, where a proxy needs no TLS to speak to it.

use crate::{Failure, mesh};
use clap::Args;
use linkerd2_proxy_api::{
    destination::{
        DestinationProfile, GetDestination, Update,
        destination_server::{Destination, DestinationServer},
    },
    identity::{
        CertifyRequest, CertifyResponse,
        identity_server::{Identity, IdentityServer},
    },
    inbound::{
        self, PortSpec, Server as ServerMessage,
        inbound_server_policies_server::{InboundServerPolicies, InboundServerPoliciesServer},
    },
    meta::{Metadata, Resource, metadata},
    net::{IpNetwork, ip_address},
};
use prost_types::Timestamp;
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair};
use std::{fs, net::SocketAddr, path::PathBuf, pin::Pin, time::SystemTime};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status};

type Reply<T> = Result<Response<T>, Status>;
type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Address to serve on; loopback, since it is without TLS.
    #[arg(long)]
    listen: SocketAddr,
    /// Folder with `ca.pem` and `ca.key`.
    #[arg(long)]
    mesh: PathBuf,
    /// Authorizations of each port, each of another mesh identity, the last one the load client's; without it, one
    /// authorization that allows everyone.
    #[arg(long)]
    identities: Option<u32>,
    /// Port of the proxy's admin server, which everyone may reach: probes come without TLS.
    #[arg(long, default_value_t = 4191)]
    admin_port: u32,
}

struct Policies {
    identities: Option<u32>,
    admin_port: u32,
}

struct Certifier {
    issuer: Issuer<'static, KeyPair>,
}

struct NoDestinations;

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let certificate = fs::read_to_string(arguments.mesh.join("ca.pem"))?;
    let key = KeyPair::from_pem(&fs::read_to_string(arguments.mesh.join("ca.key"))?)?;
    let policies = Policies {
        identities: arguments.identities,
        admin_port: arguments.admin_port,
    };
    let certifier = Certifier {
        issuer: Issuer::from_ca_cert_pem(&certificate, key)?,
    };
    let listener = TcpListener::bind(arguments.listen).await?;
    println!("listening on {}", arguments.listen);
    tonic::transport::Server::builder()
        .add_service(InboundServerPoliciesServer::new(policies))
        .add_service(IdentityServer::new(certifier))
        .add_service(DestinationServer::new(NoDestinations))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}

/// One message, and then silence for as long as the proxy watches.
fn once<T: Send + 'static>(message: T) -> Updates<T> {
    Box::pin(tokio_stream::once(Ok(message)).chain(tokio_stream::pending()))
}

#[tonic::async_trait]
impl InboundServerPolicies for Policies {
    type WatchPortStream = Updates<ServerMessage>;

    async fn get_port(&self, request: Request<PortSpec>) -> Reply<ServerMessage> {
        Ok(Response::new(self.server(request.get_ref())))
    }

    async fn watch_port(&self, request: Request<PortSpec>) -> Reply<Self::WatchPortStream> {
        Ok(Response::new(once(self.server(request.get_ref()))))
    }
}

impl Policies {
    /// A detected port with one route, as the policy controller describes a Server without routes of its own.
    fn server(&self, spec: &PortSpec) -> ServerMessage {
        let authorizations = match self.identities {
            Some(identities) if spec.port != self.admin_port => (1..identities)
                .map(|number| {
                    let name = format!("client-{number}");
                    let identity =
                        format!("{name}.bench.serviceaccount.identity.linkerd.cluster.local");
                    authorization(&name, mesh_client(&identity))
                })
                .chain([authorization("load", mesh_client(mesh::CLIENT))])
                .collect(),
            _ => vec![authorization("everyone", everyone())],
        };
        let route = inbound::HttpRoute {
            metadata: Some(Metadata {
                kind: Some(metadata::Kind::Default("default".to_owned())),
            }),
            rules: vec![inbound::http_route::Rule {
                matches: vec![linkerd2_proxy_api::http_route::HttpRouteMatch {
                    path: Some(linkerd2_proxy_api::http_route::PathMatch {
                        kind: Some(linkerd2_proxy_api::http_route::path_match::Kind::Prefix(
                            "/".to_owned(),
                        )),
                    }),
                    ..Default::default()
                }],
                filters: Vec::new(),
            }],
            ..Default::default()
        };
        let detect = inbound::proxy_protocol::Detect {
            timeout: Some(prost_types::Duration {
                seconds: 10,
                nanos: 0,
            }),
            http_routes: vec![route],
            http_local_rate_limit: None,
        };
        ServerMessage {
            protocol: Some(inbound::ProxyProtocol {
                kind: Some(inbound::proxy_protocol::Kind::Detect(detect)),
            }),
            server_ips: Vec::new(),
            authorizations,
            labels: [("group", GROUP), ("kind", "server"), ("name", "web")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }
}

/// API group of policy resources.
const GROUP: &str = "policy.linkerd.io";

fn authorization(name: &str, permit: inbound::authn::Permit) -> inbound::Authz {
    let any = |ip| inbound::Network {
        net: Some(IpNetwork {
            ip: Some(linkerd2_proxy_api::net::IpAddress { ip: Some(ip) }),
            prefix_len: 0,
        }),
        except: Vec::new(),
    };
    inbound::Authz {
        networks: vec![
            any(ip_address::Ip::Ipv4(0)),
            any(ip_address::Ip::Ipv6(
                linkerd2_proxy_api::net::IPv6::default(),
            )),
        ],
        authentication: Some(inbound::Authn {
            permit: Some(permit),
        }),
        labels: [
            ("group", GROUP),
            ("kind", "authorizationpolicy"),
            ("name", name),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        metadata: Some(Metadata {
            kind: Some(metadata::Kind::Resource(Resource {
                group: GROUP.to_owned(),
                kind: "authorizationpolicy".to_owned(),
                name: name.to_owned(),
                ..Default::default()
            })),
        }),
    }
}

fn everyone() -> inbound::authn::Permit {
    inbound::authn::Permit::Unauthenticated(inbound::authn::PermitUnauthenticated {})
}

fn mesh_client(identity: &str) -> inbound::authn::Permit {
    use inbound::authn::{PermitMeshTls, permit_mesh_tls};
    let identities = permit_mesh_tls::PermitClientIdentities {
        identities: vec![inbound::Identity {
            name: identity.to_owned(),
        }],
        suffixes: Vec::new(),
    };
    inbound::authn::Permit::MeshTls(PermitMeshTls {
        clients: Some(permit_mesh_tls::Clients::Identities(identities)),
    })
}

#[tonic::async_trait]
impl Identity for Certifier {
    async fn certify(&self, request: Request<CertifyRequest>) -> Reply<CertifyResponse> {
        let invalid = |error: rcgen::Error| Status::invalid_argument(error.to_string());
        let csr = request.into_inner().certificate_signing_request;
        let mut csr = CertificateSigningRequestParams::from_der(&csr.into()).map_err(invalid)?;
        mesh::usage(&mut csr.params);
        let valid_until = SystemTime::from(csr.params.not_after);
        let certificate = csr.signed_by(&self.issuer).map_err(invalid)?;
        Ok(Response::new(CertifyResponse {
            leaf_certificate: certificate.der().to_vec(),
            intermediate_certificates: Vec::new(),
            valid_until: Some(Timestamp::from(valid_until)),
        }))
    }
}

#[tonic::async_trait]
impl Destination for NoDestinations {
    type GetStream = Updates<Update>;
    type GetProfileStream = Updates<DestinationProfile>;

    async fn get(&self, _: Request<GetDestination>) -> Reply<Self::GetStream> {
        Err(Status::invalid_argument("this mesh has no destinations"))
    }

    async fn get_profile(&self, _: Request<GetDestination>) -> Reply<Self::GetProfileStream> {
        Ok(Response::new(once(DestinationProfile::default())))
    }
}
