//! Objects in, streamed messages out: the rows of the contract's tables `inbound_api*` and `outbound_api*`. Messages are
//! read as a sidecar reads them, and compared in one line each.

mod annotations;
mod asked;
mod inbound;
mod kinds;
mod parents;

use crate::{
    control_plane::{self, ControlPlane},
    gateway,
    policy::{namespace, server, shop},
    server::{ApiServer, path},
};
use http::{HeaderName, HeaderValue};
use linkerd_policy::{
    Filter, HeaderModifier, ServerPolicy,
    outbound::{
        Action, Dispatcher, Distribution, Load, OutboundPolicy, Penalty, Protocol, RouteBackend,
        StreamRoute,
    },
    proto::{outbound_from_api, server_from_api},
};
use linkerd_tests::eventually;
use linkerd2_proxy_api::outbound::{
    self as api, TrafficSpec, outbound_policies_client::OutboundPoliciesClient,
    traffic_spec::Target,
};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use tonic::{Code, Status, Streaming, transport::Channel};

fn object(version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": version, "kind": kind,
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

/// With other metadata: namespace, annotations.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    object["metadata"][pointer] = value;
    object
}

fn parent(group: &str, kind: &str, name: &str, port: Option<u16>) -> Value {
    let mut parent = json!({"group": group, "kind": kind, "name": name});
    if let Some(port) = port {
        parent["port"] = port.into();
    }
    parent
}

fn to_web() -> Value {
    parent("", "Service", "web", None)
}

fn route(kind: &str, name: &str, parent: &Value, rules: Value) -> Value {
    let version = match kind {
        "policy HTTPRoute" => "policy.linkerd.io/v1beta3",
        "TLSRoute" | "TCPRoute" => "gateway.networking.k8s.io/v1alpha2",
        _ => "gateway.networking.k8s.io/v1",
    };
    let spec = json!({"parentRefs": [parent], "rules": rules});
    object(version, kind.trim_start_matches("policy "), name, &spec)
}

fn backends(backends: Value) -> Value {
    json!([{"backendRefs": backends}])
}

// What a client is told, in one line.

fn backend(backend: &RouteBackend) -> String {
    let place = match &backend.backend.dispatcher {
        Some(Dispatcher::Balance { path, load }) => {
            let path = path.replace(".svc.cluster.local", "").replace(".shop", "");
            format!("{path}{}", self::load(*load))
        }
        Some(Dispatcher::Forward(endpoint)) => endpoint.address.to_string(),
        None => format!("no {}", backend.backend.meta),
    };
    let failures = backend.filters.iter().map(filter);
    let refusal = backend.refusal.iter().map(|refusal| format!("{refusal:?}"));
    let said: Vec<String> = failures.chain(refusal).collect();
    format!("{place}{}", said.join(""))
}

/// How load is estimated, where it is not the usual way.
fn load(load: Load) -> String {
    let usual = Load::default();
    match load.penalty {
        None if load == usual => String::new(),
        Some(penalty) if (load.default_rtt, load.decay) == (usual.default_rtt, usual.decay) => {
            let Penalty {
                penalty,
                decay,
                max_retry_after,
            } = penalty;
            format!("~{penalty:?},{decay:?},{max_retry_after:?}")
        }
        _ => format!("~{load:?}"),
    }
}

fn filter(filter: &Filter) -> String {
    let headers = |headers: &HeaderModifier| {
        let pair = |sign: &str, (name, value): &(HeaderName, HeaderValue)| {
            format!("{sign}{name}:{}", value.to_str().unwrap())
        };
        let add = headers.add.iter().map(|each| pair("+", each));
        let set = headers.set.iter().map(|each| pair("", each));
        let remove = headers.remove.iter().map(|name| format!("-{name}"));
        add.chain(set).chain(remove).collect::<Vec<_>>().join(" ")
    };
    match filter {
        Filter::Failure(failure) => format!("!{} {}", failure.status, failure.message),
        Filter::RequestHeaders(modifier) => format!("({})", headers(modifier)),
        Filter::ResponseHeaders(modifier) => format!("(response {})", headers(modifier)),
        Filter::Redirect(to) => {
            let scheme = to.scheme.as_deref().unwrap_or_default();
            let host = to.host.as_deref().unwrap_or_default();
            let (port, path) = (to.port, &to.path);
            let status = to.status.unwrap().as_u16();
            format!("({status} {scheme} {host} {port:?} {path:?})")
        }
        Filter::Unknown => "(?)".to_owned(),
    }
}

fn distribution(distribution: &Distribution) -> String {
    match distribution {
        Distribution::Empty => "nowhere".to_owned(),
        Distribution::FirstAvailable(list) => {
            list.iter().map(backend).collect::<Vec<_>>().join(",")
        }
        Distribution::RandomAvailable(list) => {
            let one = |(each, weight): &(RouteBackend, u32)| format!("{}*{weight}", backend(each));
            list.iter().map(one).collect::<Vec<_>>().join(",")
        }
    }
}

fn action(action: &Action) -> String {
    let mut said: String = action.filters.iter().map(filter).collect();
    said += &distribution(&action.backends);
    let limits = action.timeouts;
    for (name, limit) in [
        ("within", limits.request),
        ("response", limits.response),
        ("idle", limits.idle),
    ] {
        if let Some(limit) = limit {
            said += &format!(" {name} {limit:?}");
        }
    }
    if let Some(retry) = &action.retry {
        let statuses = retry.conditions.statuses.iter();
        let statuses = statuses.map(|range| format!("{}-{}", range.start(), range.end()));
        let codes = retry.conditions.grpc.iter().map(u16::to_string);
        let all: Vec<String> = statuses.chain(codes).collect();
        let times = retry.max_retries;
        let limit = retry.timeout.map(|limit| format!(" or {limit:?}"));
        let limit = limit.unwrap_or_default();
        said += &format!(" retried {times}x {}{limit}", all.join(","));
    }
    said
}

fn line<'a>(name: &str, rules: impl Iterator<Item = &'a Action>) -> String {
    format!(
        "{name}: {}",
        rules.map(action).collect::<Vec<_>>().join(" | ")
    )
    .trim()
    .to_owned()
}

fn streams(routes: &[StreamRoute]) -> Vec<String> {
    let one = |route: &StreamRoute| {
        let refusal = route
            .refusal
            .as_ref()
            .map(|refusal| format!(" {refusal:?}"));
        let backends = distribution(&route.backends);
        format!(
            "{}: {backends}{}",
            route.meta.name(),
            refusal.unwrap_or_default()
        )
    };
    routes.iter().map(one).collect()
}

fn outbound(policy: &OutboundPolicy) -> String {
    let http = |http: &linkerd_policy::outbound::HttpPolicy| {
        let breaks = http.failure_accrual.map(|_| "breaker".to_owned());
        let routes = http.routes.iter();
        let routes = routes.map(|r| line(r.meta.name(), r.rules.iter().map(|rule| &rule.action)));
        routes.chain(breaks).collect::<Vec<_>>()
    };
    let (protocol, routes) = match &policy.protocol {
        Protocol::Detect { http1, .. } => ("detect", http(http1)),
        Protocol::Http1(http1) => ("http1", http(http1)),
        Protocol::Http2(http2) => ("http2", http(http2)),
        Protocol::Grpc(grpc) => {
            let routes = grpc.routes.iter();
            let routes =
                routes.map(|r| line(r.meta.name(), r.rules.iter().map(|rule| &rule.action)));
            ("grpc", routes.collect())
        }
        Protocol::Opaque(routes) => ("opaque", streams(routes)),
        Protocol::Tls(routes) => ("tls", streams(routes)),
    };
    format!("{protocol} {}", routes.join("; "))
}

/// A client of the outbound API.
struct Client {
    policies: OutboundPoliciesClient<Channel>,
}

/// A stream of a destination's policy.
struct Watched(Streaming<api::OutboundPolicy>);

impl Client {
    async fn new(plane: &ControlPlane) -> Self {
        let endpoint = Channel::from_shared(format!("http://{}", plane.policy)).unwrap();
        Self {
            policies: OutboundPoliciesClient::new(endpoint.connect().await.unwrap()),
        }
    }

    async fn try_watch(&mut self, from: &str, target: Target) -> Result<Watched, Status> {
        let spec = TrafficSpec {
            source_workload: format!("{from}:client"),
            target: Some(target),
        };
        Ok(Watched(self.policies.watch(spec).await?.into_inner()))
    }

    async fn watch(&mut self, from: &str, port: u16) -> Watched {
        let name = format!("web.shop.svc.cluster.local:{port}");
        self.try_watch(from, Target::Authority(name)).await.unwrap()
    }
}

fn address(ip: [u8; 4], port: u16) -> Target {
    let ip = linkerd2_proxy_api::net::IpAddress::from(IpAddr::from(Ipv4Addr::from(ip)));
    Target::Addr(linkerd2_proxy_api::net::TcpAddress {
        ip: Some(ip),
        port: port.into(),
    })
}

impl Watched {
    /// What is told next.
    async fn next(&mut self) -> String {
        let next = tokio::time::timeout(linkerd_tests::LIMIT, self.message());
        next.await.expect("something is told").1
    }

    async fn message(&mut self) -> (api::OutboundPolicy, String) {
        let message = self.0.message().await.unwrap();
        let message = message.expect("the stream goes on");
        let said = outbound(&outbound_from_api(message.clone()).unwrap());
        (message, said)
    }

    /// Waits until the policy is this.
    async fn becomes(&mut self, wanted: &str) {
        self.until(wanted, |said| said == wanted).await;
    }

    /// Waits until the first route of the policy is this.
    async fn becomes_first(&mut self, wanted: &str) {
        let more = format!("{wanted}; ");
        self.until(wanted, |said| said == wanted || said.starts_with(&more))
            .await;
    }

    /// Waits for a policy; gives the message.
    async fn until(&mut self, wanted: &str, is_it: impl Fn(&str) -> bool) -> api::OutboundPolicy {
        let mut last = Vec::new();
        let found = async {
            loop {
                let (message, said) = self.message().await;
                if is_it(&said) {
                    return message;
                }
                last.push(said);
            }
        };
        let found = tokio::time::timeout(linkerd_tests::LIMIT, found).await;
        let found = found.ok();
        assert!(found.is_some(), "not: {wanted}\nbut: {last:#?}");
        found.unwrap()
    }
}

fn service(name: &str, ports: Value) -> Value {
    object("v1", "Service", name, &json!({"ports": ports}))
}

async fn start() -> Option<(ApiServer, ControlPlane, Client)> {
    let api = ApiServer::start().await?;
    gateway::define(&api).await;
    for name in ["shop", "other", "linkerd"] {
        api.apply(&namespace(name)).await;
    }
    let ports = json!([
        {"name": "a", "port": 80}, {"name": "b", "port": 81},
        {"name": "http", "port": 90, "appProtocol": "http"},
        {"name": "h2c", "port": 91, "appProtocol": "kubernetes.io/h2c"},
        {"name": "other", "port": 92, "appProtocol": "example.com/other"},
    ]);
    api.apply(&service("web", ports)).await;
    api.apply(&service("back", json!([{"port": 80}]))).await;
    let plane = ControlPlane::start(&api).await;
    let client = Client::new(&plane).await;
    Some((api, plane, client))
}

/// Name, objects, port, what a client in the namespace is told.
#[expect(clippy::too_many_lines, reason = "a table")]
fn rows() -> Vec<(&'static str, Vec<Value>, u16, &'static str)> {
    let back = |name: &str| backends(json!([{"name": name, "port": 80}]));
    let web = to_web();
    let annotated =
        |route: Value, key: &str, value: &str| with(route, "annotations", json!({key: value}));
    let filter = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}]}});
    let on = |port| parent("", "Service", "web", Some(port));
    let mut rows = vec![
        (
            "a route without backends",
            vec![route("HTTPRoute", "r", &web, json!([{}]))],
            80,
            "detect r: web:80",
        ),
        (
            "a route of one port",
            vec![route("HTTPRoute", "r", &on(80), back("back"))],
            80,
            "detect r: back:80*1",
        ),
        (
            "a route of another port",
            vec![route("HTTPRoute", "r", &on(81), back("back"))],
            80,
            "detect http: web:80",
        ),
        (
            "an unknown backend",
            vec![route("HTTPRoute", "r", &web, back("gone"))],
            80,
            "detect r: no Service.shop.gone:80!500 Service not found gone*1",
        ),
        (
            "a backend of another kind",
            vec![route(
                "HTTPRoute",
                "r",
                &web,
                backends(json!([{"group": "apps", "kind": "Deployment", "name": "a"}])),
            )],
            80,
            "detect r: no default.invalid!500 unsupported backend type apps Deployment*1",
        ),
        (
            "weights",
            vec![route(
                "HTTPRoute",
                "r",
                &web,
                backends(
                    json!([{"name": "back", "port": 80, "weight": 9}, {"name": "web", "port": 81, "weight": 0}]),
                ),
            )],
            80,
            "detect r: back:80*9,web:81*0",
        ),
        (
            "filters of a rule and of a backend",
            vec![route(
                "HTTPRoute",
                "r",
                &web,
                json!([{"filters": [filter], "backendRefs": [{"name": "back", "port": 80, "filters": [filter]}]}]),
            )],
            80,
            "detect r: (a:b)back:80(a:b)*1",
        ),
        (
            "several rules",
            vec![route(
                "HTTPRoute",
                "r",
                &web,
                json!([{"backendRefs": [{"name": "back", "port": 80}]}, {}]),
            )],
            80,
            "detect r: back:80*1 | web:80",
        ),
        (
            "a timeout of a rule",
            vec![route(
                "policy HTTPRoute",
                "r",
                &web,
                json!([{"timeouts": {"request": "7s"}}]),
            )],
            80,
            "detect r: web:80 within 7s",
        ),
        (
            "a timeout of a route",
            vec![annotated(
                route("HTTPRoute", "r", &web, json!([{}])),
                "timeout.linkerd.io/request",
                "5s",
            )],
            80,
            "detect r: web:80 within 5s",
        ),
        (
            "retries of a route",
            vec![annotated(
                route("HTTPRoute", "r", &web, json!([{}])),
                "retry.linkerd.io/http",
                "5xx",
            )],
            80,
            "detect r: web:80 retried 1x 500-599",
        ),
        (
            "gRPC",
            vec![route("GRPCRoute", "r", &web, back("back"))],
            80,
            "grpc r: back:80*1",
        ),
        (
            "TLS",
            vec![route("TLSRoute", "r", &web, back("back"))],
            80,
            "tls r: back:80*1",
        ),
        (
            "TCP",
            vec![route("TCPRoute", "r", &web, back("back"))],
            80,
            "opaque r: back:80*1",
        ),
        (
            "several TCPRoutes",
            vec![
                route("TCPRoute", "a", &web, back("back")),
                route("TCPRoute", "b", &web, back("gone")),
            ],
            80,
            "opaque a: back:80*1",
        ),
        (
            "appProtocol http",
            vec![route("HTTPRoute", "r", &web, back("back"))],
            90,
            "http1 r: back:80*1",
        ),
        (
            "appProtocol h2c",
            vec![route("HTTPRoute", "r", &web, back("back"))],
            91,
            "http2 r: back:80*1",
        ),
        (
            "gRPC on h2c",
            vec![route("GRPCRoute", "r", &web, back("back"))],
            91,
            "grpc r: back:80*1",
        ),
        (
            "an unknown appProtocol is opaque",
            vec![route("HTTPRoute", "r", &web, back("back"))],
            92,
            "opaque opaq: web:92",
        ),
        (
            "TCP on an unknown appProtocol",
            vec![route("TCPRoute", "r", &web, back("back"))],
            92,
            "opaque r: back:80*1",
        ),
    ];
    for kind in ["HTTPRoute", "policy HTTPRoute"] {
        rows.push((
            "a backend",
            vec![route(kind, "r", &web, back("back"))],
            80,
            "detect r: back:80*1",
        ));
    }
    rows
}

/// What a port is without routes.
fn default_of(port: u16) -> String {
    let (protocol, name) = match port {
        90 => ("http1", "http"),
        91 => ("http2", "http"),
        92 => ("opaque", "opaq"),
        _ => ("detect", "http"),
    };
    format!("{protocol} {name}: web:{port}")
}

#[tokio::test]
async fn routes_are_told_to_open_streams_and_taken_back() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    for (what, objects, port, wanted) in rows() {
        println!("{what}");
        let mut stream = client.watch("shop", port).await;
        stream.becomes(&default_of(port)).await;
        for object in &objects {
            api.apply(object).await;
        }
        if wanted != default_of(port) {
            stream.becomes(wanted).await;
        }
        // A stream that is opened later says the same.
        client.watch("shop", port).await.becomes(wanted).await;
        for object in &objects {
            api.delete(object).await;
        }
        if wanted != default_of(port) {
            stream.becomes(&default_of(port)).await;
        }
    }
}

#[tokio::test]
async fn a_service_says_what_its_ports_speak_and_what_its_routes_inherit() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    let mut stream = client.watch("shop", 80).await;
    stream.becomes("detect http: web:80").await;
    let mut web = api
        .get("/api/v1/namespaces/shop/services/web")
        .await
        .unwrap();
    for (annotation, value, wanted) in [
        (
            "config.linkerd.io/opaque-ports",
            "80",
            "opaque opaq: web:80",
        ),
        (
            "timeout.linkerd.io/request",
            "3s",
            "detect http: web:80 within 3s",
        ),
        (
            "retry.linkerd.io/http",
            "5xx",
            "detect http: web:80 retried 1x 500-599",
        ),
        (
            "balancer.linkerd.io/failure-accrual",
            "consecutive",
            "detect http: web:80; breaker",
        ),
        (
            "balancer.linkerd.io/failure-accrual",
            "unified",
            "detect http: web:80; breaker",
        ),
    ] {
        web["metadata"]["annotations"] = json!({annotation: value});
        web["metadata"]["resourceVersion"] = Value::Null;
        api.replace(&web).await;
        if !wanted.ends_with("breaker") || value == "consecutive" {
            stream.becomes(wanted).await;
        }
    }
    // A route's own retries put aside what it would inherit.
    web["metadata"]["annotations"] = json!({"timeout.linkerd.io/request": "3s"});
    api.replace(&web).await;
    let plain = route("HTTPRoute", "r", &to_web(), json!([{}]));
    api.apply(&plain).await;
    stream.becomes("detect r: web:80 within 3s").await;
    let own = with(
        plain,
        "annotations",
        json!({"timeout.linkerd.io/request": "1s"}),
    );
    api.apply(&own).await;
    stream.becomes("detect r: web:80 within 1s").await;
}

#[tokio::test]
async fn producer_routes_are_for_all_consumer_routes_for_their_own_namespace_and_reattachment_moves_them()
 {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    let of_shop = |rules| {
        let mut parent = to_web();
        parent["namespace"] = "shop".into();
        route("HTTPRoute", "consumer", &parent, rules)
    };
    let consumer = with(of_shop(json!([{}])), "namespace", json!("other"));
    let (mut own, mut other) = (
        client.watch("shop", 80).await,
        client.watch("other", 80).await,
    );
    api.apply(&consumer).await;
    other.becomes("detect consumer: web:80").await;
    let producer = route(
        "HTTPRoute",
        "producer",
        &to_web(),
        backends(json!([{"name": "back", "port": 80}])),
    );
    api.apply(&producer).await;
    own.becomes("detect producer: back:80*1").await;
    other
        .becomes("detect consumer: web:80; producer: back:80*1")
        .await;
    let elsewhere = route(
        "HTTPRoute",
        "producer",
        &parent("", "Service", "back", None),
        json!([{}]),
    );
    api.apply(&elsewhere).await;
    own.becomes("detect http: web:80").await;
    other.becomes("detect consumer: web:80").await;
    // Routes are told in the order of their age.
    let second = || route("HTTPRoute", "a-second", &to_web(), json!([{}]));
    api.apply(&producer).await;
    let created = |object: &Value| {
        object["metadata"]["creationTimestamp"]
            .as_str()
            .map(str::to_owned)
    };
    let first = created(&api.get(&path(&producer)).await.unwrap());
    eventually("a route that is younger", async || {
        let applied = api.apply(&second()).await;
        if created(&applied) > first {
            return Some(());
        }
        api.delete(&second()).await;
        None
    })
    .await;
    own.becomes("detect producer: back:80*1; a-second: web:80")
        .await;
}

#[tokio::test]
async fn addresses_are_those_of_services_of_egress_networks_or_of_nobody() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    let unknown = client.try_watch("shop", address([10, 250, 1, 2], 80)).await;
    assert_eq!(
        unknown.err().map(|status| status.code()),
        Some(Code::NotFound)
    );
    let outside = || address([203, 0, 113, 7], 443);
    let mut egress = client.try_watch("shop", outside()).await.unwrap();
    let fallback = "detect egress-fallback: 203.0.113.7:443";
    egress.becomes(fallback).await;

    let network = |policy: &str| {
        let spec = json!({"trafficPolicy": policy});
        object("policy.linkerd.io/v1alpha1", "EgressNetwork", "out", &spec)
    };
    api.apply(&network("Allow")).await;
    // The open stream is told: nobody need ask again whose address it is.
    let allowed = "detect http-egress-allow: 203.0.113.7:443";
    egress.becomes(allowed).await;
    let to_out = parent("policy.linkerd.io", "EgressNetwork", "out", Some(443));
    let out = json!([{"group": "policy.linkerd.io", "kind": "EgressNetwork", "name": "out", "port": 443}]);
    api.apply(&route("TLSRoute", "r", &to_out, backends(out)))
        .await;
    let tls = "tls r: 203.0.113.7:443*1; tls-egress-allow: 203.0.113.7:443";
    egress.becomes(tls).await;
    let mut later = client.try_watch("shop", outside()).await.unwrap();
    later.becomes(tls).await;
    api.delete(&network("Allow")).await;
    egress.becomes(fallback).await;
}

// Inbound.

fn inbound(policy: &ServerPolicy) -> String {
    let names = |list: &[linkerd_policy::Authorization]| {
        let names = list.iter().map(|each| each.meta.name());
        names.collect::<Vec<_>>().join(",")
    };
    let routes = match &policy.protocol {
        linkerd_policy::Protocol::Detect { http, .. }
        | linkerd_policy::Protocol::Http1(http)
        | linkerd_policy::Protocol::Http2(http) => {
            let limit = http.rate_limit.as_ref().and_then(|limit| limit.total);
            let limit = limit.map(|total| format!("limit {total}"));
            let routes = http.routes.iter();
            let routes = routes.map(|r| format!("{}[{}]", r.meta.name(), names(&r.authorizations)));
            routes.chain(limit).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    format!(
        "{} [{}] {}",
        policy.meta.name(),
        names(&policy.authorizations),
        routes.join(" ")
    )
    .trim()
    .to_owned()
}

/// Waits until what a port is to enforce is this.
async fn becomes_inbound(stream: &mut control_plane::Watched, wanted: &str) {
    let is_it = |message: &linkerd2_proxy_api::inbound::Server| {
        let said = inbound(&server_from_api(message.clone()).unwrap());
        (said == wanted).then_some(())
    };
    stream.until(wanted, is_it).await;
}

#[tokio::test]
async fn what_a_port_is_to_enforce_follows_its_objects() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    let mut stream = plane.watch("shop", "web", 8080).await;
    let mut becomes = async |wanted: &str| becomes_inbound(&mut stream, wanted).await;
    becomes("all-unauthenticated [all-unauthenticated] default[]").await;
    let web = server("web", &json!({}));
    api.apply(&web).await;
    becomes("web [] default[]").await;
    // The older one keeps the port.
    api.apply(&server("younger", &json!({"accessPolicy": "audit"})))
        .await;
    let saz = object(
        "policy.linkerd.io/v1beta1",
        "ServerAuthorization",
        "saz",
        &json!({"server": {"name": "web"}, "client": {"unauthenticated": true}}),
    );
    api.apply(&saz).await;
    becomes("web [saz] default[]").await;
    api.delete(&saz).await;
    becomes("web [] default[]").await;
    let limit = object(
        "policy.linkerd.io/v1alpha1",
        "HTTPLocalRateLimitPolicy",
        "limit",
        &json!({
            "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "web"},
            "total": {"requestsPerSecond": 7},
        }),
    );
    api.apply(&limit).await;
    becomes("web [] default[] limit 7").await;
    api.delete(&limit).await;
    becomes("web [] default[]").await;
    let to_web = parent("policy.linkerd.io", "Server", "web", None);
    let route = route("policy HTTPRoute", "r", &to_web, json!([{}]));
    api.apply(&route).await;
    becomes("web [] r[]").await;
    let policy = object(
        "policy.linkerd.io/v1alpha1",
        "AuthorizationPolicy",
        "of-route",
        &json!({
            "targetRef": {"group": "policy.linkerd.io", "kind": "HTTPRoute", "name": "r"},
            "requiredAuthenticationRefs": [],
        }),
    );
    api.apply(&policy).await;
    becomes("web [] r[of-route]").await;
    api.delete(&route).await;
    becomes("web [] default[]").await;
    api.delete(&web).await;
    becomes("younger [audit] default[]").await;
}
