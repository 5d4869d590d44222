//! What the corpus begins with: one input of each kind that a target knows.

use linkerd_policy::{
    outbound::{
        Action, Backend, Dispatcher, Distribution, FailureAccrual, HttpPolicy, HttpRoute, HttpRule,
        Load, OutboundPolicy, Protocol, Queue, Ref, RouteBackend,
    },
    proto,
    server::{
        Authentication, Authorization, HttpPolicy as InboundHttp, Meta, NetworkMatch,
        Protocol as InboundProtocol, ServerPolicy,
    },
};
use linkerd2_proxy_api::{destination, inbound, outbound};
use prost::Message;
use std::time::Duration;

type Seed = (&'static str, &'static str, Vec<u8>);

pub(crate) fn all() -> Vec<Seed> {
    let mut all = first_bytes();
    all.extend(texts());
    all.extend(messages());
    all.extend(certificates());
    all
}

fn first_bytes() -> Vec<Seed> {
    let cut = |bytes: &[u8]| [&b"\x00\x03\x10\x7f"[..], bytes].concat();
    let hello = {
        // Version, random, no session, one suite, no compression, the name `a.b`.
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        let name = [0, 0, 0, 8, 0, 6, 0, 0, 3, b'a', b'.', b'b'];
        body.extend([0, 12]);
        body.extend(name);
        let length = u8::try_from(body.len()).unwrap();
        [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
    };
    let header = [
        &b"transport.l5d.io/v1\r\n\r\n"[..],
        &[0, 0, 0, 8],
        b"\x08\x90\x3f\x12\x03a.b",
        b"rest",
    ]
    .concat();
    let answer = [
        &[0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 1][..],
        b"\x06policy\x07linkerd\x00\x00\x21\x00\x01",
        b"\xc0\x0c\x00\x21\x00\x01\x00\x00\x00\x05\x00\x0b\x00\x00\x00\x64\x1f\x9a\x02db\xc0\x0c",
        b"\x02db\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00\x02",
    ]
    .concat();
    vec![
        (
            "detection",
            "http1",
            cut(b"GET /path HTTP/1.1\r\nhost: a\r\n\r\n"),
        ),
        (
            "detection",
            "http2",
            cut(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04"),
        ),
        (
            "detection",
            "bytes",
            cut(b"\x00\x01\x02 GET / HTTP/1.1\r\n"),
        ),
        ("detection", "short", cut(b"\r\nPOS")),
        ("client_hello", "one-record", cut(&hello)),
        ("client_hello", "http", cut(b"GET / HTTP/1.1\r\n\r\n")),
        ("transport_header", "named", cut(&header)),
        (
            "transport_header",
            "none",
            cut(b"GET / HTTP/1.1\r\n\r\nand some more of it"),
        ),
        ("dns_answer", "srv", answer),
    ]
}

fn texts() -> Vec<Seed> {
    let routes = "a.example /a/b one GET\na.example /a* - -\n*.example /a/b - GET\n- /* one -\n- - - POST\na.example /a/b one GET\n";
    let object = r#"{"apiVersion":"policy.linkerd.io/v1beta3","kind":"Server","metadata":{"name":"web","namespace":"shop"},"spec":{"podSelector":{"matchLabels":{"app":"web"}},"port":"http","proxyProtocol":"HTTP/1"}}"#;
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-0","namespace":"shop","labels":{"app":"web"},"annotations":{"config.linkerd.io/skip-inbound-ports":"22,8000-8100","linkerd.io/inject":"enabled"}},"spec":{"serviceAccountName":"web","containers":[{"name":"app","image":"app","ports":[{"name":"http","containerPort":8080}],"livenessProbe":{"httpGet":{"path":"/live","port":"http"}}}]},"status":{"podIP":"10.0.0.1"}}"#;
    let several = "apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: app, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {retry.linkerd.io/http: 5xx, timeout.linkerd.io/request: 1s, balancer.linkerd.io/failure-accrual: consecutive}}
spec: {selector: {app: web}, clusterIP: 10.1.0.1, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, port: http, accessPolicy: deny}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}, {group: '', kind: Service, name: web, port: 80}]
  hostnames: ['*.example']
  rules:
  - matches: [{path: {type: PathPrefix, value: /a}, headers: [{name: x, value: '1', type: RegularExpression}]}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: b.example, statusCode: 302}}]
    backendRefs: [{name: web, port: 80, weight: 3}]
    timeouts: {request: 2s}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: web}
  requiredAuthenticationRefs: [{kind: MeshTLSAuthentication, group: policy.linkerd.io, name: all}]
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: all, namespace: shop}
spec: {identities: ['*', 'spiffe://root/web']}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {name: near, namespace: shop}
spec: {networks: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}
---
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: web.shop.svc.cluster.local, namespace: shop}
spec:
  routes: [{name: all, condition: {all: [{method: GET}, {not: {pathRegex: /b}}]}, timeout: 300ms, responseClasses: [{condition: {status: {min: 500, max: 599}}, isFailure: true}]}]
  retryBudget: {retryRatio: 0.2, minRetriesPerSecond: 10, ttl: 10s}
";
    let variables = "INBOUND_DETECT_TIMEOUT=250ms\nINBOUND_PORTS=80,8000-8100,9\nPOLICY_CLUSTER_NETWORKS=10.0.0.0/8,fd00::/8,192.0.2.1\nINBOUND_IPS=10.0.0.1,fd00::1\nOUTBOUND_LISTENERS=127.0.0.1:9000=web.shop:80\nOUTBOUND_SERVER_IDENTITIES=a.b,spiffe://root/x\nOUTBOUND_FAILURE_GRPC_CODES=2,4\nDESTINATION_PROFILE_SUFFIXES=.,svc.cluster.local.\nDNS_MAX_TTL=1d\nLOG=warn,linkerd=debug\n";
    let files = "INBOUND_DETECT_TIMEOUT=\nsearch shop.svc.cluster.local\nnameserver 10.0.0.53\noptions ndots:5 timeout:1\n10.0.0.7 policy.linkerd policy\nX=policy.linkerd.\n";
    let headers = "grpc-timeout: 250m\ngrpc-status: 14\nretry-after: 120\nl5d-retry-http: 500-504,5xx,gateway-error\nl5d-retry-grpc: unavailable,internal\nl5d-retry-limit: 3\nl5d-timeout: 1s\nl5d-response-timeout: 30ms\nl5d-retry-timeout: 5s\n";
    let dates = "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\ngrpc-retry-pushback-ms: 500\ngrpc-timeout: 99999999H\nl5d-retry-http: 503\n";
    vec![
        ("routes", "several", routes.into()),
        (
            "routes",
            "segments",
            "a /ab/c - GET\na /ab* - -\na /a* - -\n- /ab/* - -\n".into(),
        ),
        ("path", "plain", b"/a/b.c/%61?x".to_vec()),
        ("path", "dots", b"/a/../b/%2e%2E/%252e/;x//\\".to_vec()),
        ("variables", "all", variables.into()),
        ("variables", "files", files.into()),
        ("headers", "limits", headers.into()),
        ("headers", "dates", dates.into()),
        ("objects", "server", object.into()),
        ("objects", "pod", pod.into()),
        ("objects", "several", several.into()),
        (
            "objects",
            "list",
            format!(r#"{{"kind":"List","items":[{object},{pod}]}}"#).into(),
        ),
    ]
}

fn server() -> inbound::Server {
    let server = ServerPolicy {
        meta: Meta::resource("policy.linkerd.io", "server", "web"),
        protocol: InboundProtocol::Detect {
            timeout: Duration::from_secs(10),
            http: InboundHttp::default(),
        },
        authorizations: vec![Authorization {
            meta: Meta::resource("policy.linkerd.io", "authorizationpolicy", "clients"),
            networks: vec![NetworkMatch {
                net: "10.0.0.0/8".parse().unwrap(),
                except: vec!["10.1.0.0/16".parse().unwrap()],
            }],
            authentication: Authentication::Identities {
                exact: vec!["web.shop".into()],
                suffixes: Vec::new(),
            },
        }],
    };
    proto::server_to_api(&server)
}

fn policy() -> outbound::OutboundPolicy {
    let meta = Ref::default_named("web");
    let backend = RouteBackend {
        backend: Backend {
            meta: meta.clone(),
            dispatcher: Some(Dispatcher::Balance {
                path: "web.shop.svc.cluster.local:80".into(),
                load: Load::default(),
            }),
            queue: Queue {
                capacity: 100,
                failfast_timeout: Duration::from_secs(3),
            },
        },
        filters: Vec::new(),
        refusal: None,
    };
    let rule = HttpRule {
        matches: Vec::new(),
        action: Action {
            backends: Distribution::RandomAvailable(vec![(backend.clone(), 3), (backend, 1)]),
            ..Action::default()
        },
    };
    let http = HttpPolicy {
        routes: vec![HttpRoute {
            meta: meta.clone(),
            hosts: Vec::new(),
            rules: vec![rule],
        }],
        failure_accrual: None::<FailureAccrual>,
    };
    let policy = OutboundPolicy {
        parent: meta,
        protocol: Protocol::Detect {
            timeout: Duration::from_secs(10),
            http1: http.clone(),
            http2: http,
            opaque: Vec::new(),
        },
    };
    proto::outbound_to_api(&policy)
}

fn messages() -> Vec<Seed> {
    let address = "10.0.0.1:8080".parse().unwrap();
    let endpoint = destination::WeightedAddr {
        addr: Some(proto::tcp_address(address)),
        weight: 10_000,
        metric_labels: [("zone_locality".to_owned(), "local".to_owned())].into(),
        tls_identity: Some(destination::TlsIdentity {
            strategy: Some(destination::tls_identity::Strategy::DnsLikeIdentity(
                destination::tls_identity::DnsLikeIdentity {
                    name: "web.shop".into(),
                },
            )),
            server_name: None,
        }),
        ..destination::WeightedAddr::default()
    };
    let update = destination::Update {
        update: Some(destination::update::Update::Add(
            destination::WeightedAddrSet {
                addrs: vec![endpoint],
                ..destination::WeightedAddrSet::default()
            },
        )),
    };
    let profile = destination::DestinationProfile {
        fully_qualified_name: "web.shop.svc.cluster.local".into(),
        retry_budget: Some(destination::RetryBudget {
            retry_ratio: 0.2,
            min_retries_per_second: 10,
            ttl: Some(prost_duration(10)),
        }),
        ..destination::DestinationProfile::default()
    };
    vec![
        ("inbound_policy", "server", server().encode_to_vec()),
        ("outbound_policy", "detect", policy().encode_to_vec()),
        ("destination", "add", update.encode_to_vec()),
        ("destination", "profile", profile.encode_to_vec()),
    ]
}

fn prost_duration(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn certificates() -> Vec<Seed> {
    use rcgen::{CertificateParams, KeyPair, SanType};
    let key = KeyPair::generate().unwrap();
    let named = |name: &str| CertificateParams::new(vec![name.to_owned()]).unwrap();
    let dns = named(linkerd_fuzz::NAME);
    let mut uri = named("other.shop");
    uri.subject_alt_names = vec![SanType::URI("spiffe://root/web".try_into().unwrap())];
    let certificate = |params: &CertificateParams| params.self_signed(&key).unwrap().der().to_vec();
    vec![
        ("certificate", "dns", certificate(&dns)),
        ("certificate", "uri", certificate(&uri)),
        (
            "csr",
            "dns",
            dns.serialize_request(&key).unwrap().der().to_vec(),
        ),
    ]
}
