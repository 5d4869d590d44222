//! Rows `inbound_api`: what a port speaks, who may use it and from where, which requests it is asked about by probes, and what is
//! limited, as an open stream is told of it.

use super::*;
use crate::policy::pod;
use linkerd_policy::{Authentication, Authorization, NetworkMatch, PathMatch, RateLimit};

const CLIENTS: &str = "shop.serviceaccount.identity.linkerd.cluster.local";

/// What a control plane takes for the cluster's networks where nobody says anything else.
const CLUSTER: &str = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8,127.0.0.0/8";

fn networks(all: &[NetworkMatch]) -> String {
    let one = |each: &NetworkMatch| {
        let except = each.except.iter().map(|net| format!("-{net}"));
        format!("{}{}", each.net, except.collect::<String>())
    };
    match all.iter().map(one).collect::<Vec<_>>().join(",").as_str() {
        "0.0.0.0/0,::/0" => "anywhere".to_owned(),
        CLUSTER => "the cluster".to_owned(),
        other => other.to_owned(),
    }
}

fn authorization(each: &Authorization) -> String {
    let who = match &each.authentication {
        Authentication::Unauthenticated => "anyone".to_owned(),
        Authentication::TlsUnauthenticated => "tls".to_owned(),
        Authentication::Identities { exact, suffixes } => {
            let suffixes = suffixes.iter().map(|parts| {
                let parts = parts.iter().map(|part| format!(".{part}"));
                format!("*{}", parts.collect::<String>())
            });
            exact
                .iter()
                .cloned()
                .chain(suffixes)
                .collect::<Vec<_>>()
                .join("|")
        }
    };
    let who = who.replace(CLIENTS, "SHOP");
    format!("{}: {who} from {}", each.meta, networks(&each.networks))
}

fn rate(limit: &RateLimit) -> String {
    let overrides = limit.overrides.iter().map(|each| {
        let who = each.identities.join("|").replace(CLIENTS, "SHOP");
        format!(" {who}={}", each.requests_per_second)
    });
    let name = limit.meta.as_ref().unwrap();
    format!(
        "; {name} {:?} {:?}{}",
        limit.total,
        limit.identity,
        overrides.collect::<String>()
    )
}

/// What is enforced, in one line.
fn enforced(policy: &ServerPolicy) -> String {
    use linkerd_policy::Protocol;
    let (protocol, limit) = match &policy.protocol {
        Protocol::Detect { timeout, http } => {
            (format!("detect {timeout:?}"), http.rate_limit.as_ref())
        }
        Protocol::Http1(http) => ("http1".to_owned(), http.rate_limit.as_ref()),
        Protocol::Http2(http) => ("http2".to_owned(), http.rate_limit.as_ref()),
        Protocol::Grpc { routes } => (format!("grpc {}", routes[0].meta), None),
        Protocol::Opaque => ("opaque".to_owned(), None),
        Protocol::Tls => ("tls".to_owned(), None),
    };
    let all: Vec<String> = policy.authorizations.iter().map(authorization).collect();
    let limit = limit.map(rate).unwrap_or_default();
    format!("{}, {protocol}, [{}]{limit}", policy.meta, all.join("; "))
}

async fn becomes(stream: &mut control_plane::Watched, wanted: &str) {
    let mut last = Vec::new();
    let found = async {
        loop {
            let said = enforced(&server_from_api(stream.next().await).unwrap());
            if said == wanted {
                return;
            }
            last.push(said);
        }
    };
    let is_found = tokio::time::timeout(linkerd_tests::LIMIT / 2, found).await;
    assert!(is_found.is_ok(), "not: {wanted}\nbut: {last:#?}");
}

const DEFAULT: &str =
    "default all-unauthenticated, detect 10s, [default all-unauthenticated: anyone from anywhere]";

#[tokio::test]
async fn a_port_speaks_what_its_server_says_and_is_open_as_its_access_policy_says() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    let mut stream = plane.watch("shop", "web", 8080).await;
    becomes(&mut stream, DEFAULT).await;
    let mtls = "default cluster-authenticated: * from the cluster";
    for (spec, wanted) in [
        (json!({"proxyProtocol": "unknown"}), "detect 10s, []"),
        (json!({"proxyProtocol": "HTTP/1"}), "http1, []"),
        (json!({"proxyProtocol": "HTTP/2"}), "http2, []"),
        (json!({"proxyProtocol": "gRPC"}), "grpc default default, []"),
        (json!({"proxyProtocol": "opaque"}), "opaque, []"),
        (json!({"proxyProtocol": "TLS"}), "tls, []"),
        (
            json!({"accessPolicy": "deny", "proxyProtocol": "HTTP/2"}),
            "http2, []",
        ),
        (
            json!({"accessPolicy": "all-unauthenticated"}),
            "http1, [default all-unauthenticated: anyone from anywhere]",
        ),
        (
            json!({"accessPolicy": "all-authenticated"}),
            "http1, [default all-authenticated: * from anywhere]",
        ),
        (
            json!({"accessPolicy": "cluster-unauthenticated"}),
            "http1, [default cluster-unauthenticated: anyone from the cluster]",
        ),
        (
            json!({"accessPolicy": "cluster-authenticated"}),
            &format!("http1, [{mtls}]"),
        ),
        (
            json!({"accessPolicy": "audit"}),
            "http1, [default audit: anyone from anywhere]",
        ),
        // By its number, whether the Pod declares it or not.
        (json!({"port": 8080, "proxyProtocol": "TLS"}), "tls, []"),
    ] {
        let web = server("web", &spec);
        api.apply(&web).await;
        becomes(&mut stream, &format!("server web, {wanted}")).await;
        api.delete(&web).await;
        becomes(&mut stream, DEFAULT).await;
    }
}

#[tokio::test]
async fn a_port_without_a_server_is_open_as_its_pods_annotations_say() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    let mut stream = plane.watch("shop", "web", 8080).await;
    becomes(&mut stream, DEFAULT).await;
    let policy = "config.linkerd.io/default-inbound-policy";
    let opaque = "config.linkerd.io/opaque-ports";
    let identity = "config.linkerd.io/proxy-require-identity-inbound-ports";
    for (annotations, wanted) in [
        (json!({policy: "deny"}), "default deny, detect 10s, []"),
        (
            json!({policy: "audit"}),
            "default audit, detect 10s, [default audit: anyone from anywhere]",
        ),
        (
            json!({policy: "cluster-authenticated"}),
            "default cluster-authenticated, detect 10s, [default cluster-authenticated: * from the cluster]",
        ),
        (
            json!({policy: "cluster-unauthenticated", identity: "8080"}),
            "default cluster-authenticated, detect 10s, [default cluster-authenticated: * from the cluster]",
        ),
        (
            json!({identity: "1-9000"}),
            "default all-authenticated, detect 10s, [default all-authenticated: * from anywhere]",
        ),
        (
            json!({policy: "deny", opaque: "1,8000-8100"}),
            "default deny, opaque, []",
        ),
        (
            json!({policy: "deny", opaque: "http"}),
            "default deny, opaque, []",
        ),
        // What is none counts for nothing, and hurts nothing beside it.
        (
            json!({policy: "everybody", opaque: "8081,many,8080", identity: "8081"}),
            "default all-unauthenticated, opaque, [default all-unauthenticated: anyone from anywhere]",
        ),
    ] {
        api.apply(&with(pod("web"), "annotations", annotations))
            .await;
        becomes(&mut stream, wanted).await;
        api.apply(&pod("web")).await;
        becomes(&mut stream, DEFAULT).await;
    }
}

fn saz(client: &Value) -> Value {
    let spec = json!({"server": {"name": "web"}, "client": client});
    object(
        "policy.linkerd.io/v1beta1",
        "ServerAuthorization",
        "a",
        &spec,
    )
}

#[tokio::test]
async fn a_server_authorization_is_told_as_who_and_from_where() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    let mut web = server("web", &json!({}));
    web["metadata"]["labels"] = json!({"tier": "front"});
    api.apply(&web).await;
    let mut stream = plane.watch("shop", "web", 8080).await;
    let none = "server web, http1, []";
    becomes(&mut stream, none).await;
    let ops = CLIENTS.replace("shop", "ops");
    for (client, wanted) in [
        (
            json!({"unauthenticated": true}),
            "anyone from the cluster".to_owned(),
        ),
        (
            json!({"unauthenticated": true, "networks": []}),
            "anyone from the cluster".to_owned(),
        ),
        (
            json!({"unauthenticated": true, "networks": [
                {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "fd00::1"},
            ]}),
            "anyone from 10.0.0.0/8-10.1.0.0/16,fd00::1/128".to_owned(),
        ),
        (
            json!({"meshTLS": {"unauthenticatedTLS": true}}),
            "tls from the cluster".to_owned(),
        ),
        (
            json!({"meshTLS": {"identities": ["x.y", "*.a.b", "*"]}}),
            "x.y|*.a.b|* from the cluster".to_owned(),
        ),
        (
            json!({"meshTLS": {"serviceAccounts": [{"name": "b"}, {"name": "c", "namespace": "ops"}]}}),
            format!("b.SHOP|c.{ops} from the cluster"),
        ),
    ] {
        api.apply(&saz(&client)).await;
        let wanted = format!("server web, http1, [serverauthorization a: {wanted}]");
        becomes(&mut stream, &wanted).await;
        api.delete(&saz(&client)).await;
        becomes(&mut stream, none).await;
    }
    // Of Servers by their labels; and what names no client is for nobody.
    let mut selects = saz(&json!({"unauthenticated": true}));
    selects["spec"]["server"] = json!({"selector": {"matchLabels": {"tier": "front"}}});
    api.apply(&selects).await;
    let anyone = "server web, http1, [serverauthorization a: anyone from the cluster]";
    becomes(&mut stream, anyone).await;
    selects["spec"]["client"] = json!({"meshTLS": {}});
    api.apply(&selects).await;
    becomes(&mut stream, none).await;
}

fn requires(target: &Value, refs: &Value) -> Value {
    let spec = json!({"targetRef": target, "requiredAuthenticationRefs": refs});
    object(
        "policy.linkerd.io/v1alpha1",
        "AuthorizationPolicy",
        "a",
        &spec,
    )
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test]
async fn an_authorization_policy_is_told_with_all_that_it_requires_and_left_out_where_some_is_missing()
 {
    let Some((api, plane)) = shop().await else {
        return;
    };
    api.apply(&namespace("ops")).await;
    api.apply(&server("web", &json!({}))).await;
    let mut stream = plane.watch("shop", "web", 8080).await;
    let none = "server web, http1, []";
    becomes(&mut stream, none).await;
    let authn = |kind: &str, namespace: &str, spec: Value| {
        let object = object("policy.linkerd.io/v1alpha1", kind, "x", &spec);
        with(object, "namespace", namespace.into())
    };
    let ops = CLIENTS.replace("shop", "ops");
    let identities = json!({"identities": ["spiffe://root/a", "*.b"]});
    let refs = json!({"identityRefs": [
        {"kind": "ServiceAccount", "name": "b"}, {"kind": "Namespace", "name": "ops"},
    ]});
    let nets = json!({"networks": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]});
    let of = |kind: &str| json!({"group": "policy.linkerd.io", "kind": kind, "name": "x"});
    let mesh = || of("MeshTLSAuthentication");
    let mut of_ops = of("NetworkAuthentication");
    of_ops["namespace"] = "ops".into();
    let to_web = json!({"group": "policy.linkerd.io", "kind": "Server", "name": "web"});
    let to_shop = json!({"group": "", "kind": "Namespace", "name": "shop"});
    let account = json!({"kind": "ServiceAccount", "name": "b", "namespace": "ops"});
    for (target, refs, needs, wanted) in [
        (
            &to_web,
            json!([]),
            vec![],
            "anyone from anywhere".to_owned(),
        ),
        (
            &to_shop,
            json!([]),
            vec![],
            "anyone from anywhere".to_owned(),
        ),
        (
            &to_web,
            json!([account]),
            vec![],
            format!("b.{ops} from anywhere"),
        ),
        (
            &to_web,
            json!([mesh()]),
            vec![authn("MeshTLSAuthentication", "shop", identities)],
            "spiffe://root/a|*.b from anywhere".to_owned(),
        ),
        (
            &to_shop,
            json!([mesh(), of_ops]),
            vec![
                authn("MeshTLSAuthentication", "shop", refs),
                authn("NetworkAuthentication", "ops", nets),
            ],
            format!("b.SHOP|*.{ops} from 10.0.0.0/8-10.1.0.0/16"),
        ),
    ] {
        let policy = requires(target, &refs);
        api.apply(&policy).await;
        for each in &needs {
            api.apply(each).await;
        }
        let wanted = format!("server web, http1, [authorizationpolicy a: {wanted}]");
        becomes(&mut stream, &wanted).await;
        // Without one of them there is nothing left of it.
        match needs.split_first() {
            None => api.delete(&policy).await,
            Some((first, rest)) => {
                api.delete(first).await;
                becomes(&mut stream, none).await;
                api.apply(first).await;
                becomes(&mut stream, &wanted).await;
                api.delete(&policy).await;
                for each in rest.iter().chain([first]) {
                    api.delete(each).await;
                }
            }
        }
        becomes(&mut stream, none).await;
    }
    // Of a namespace it is for Servers, not for ports without one.
    api.apply(&requires(&to_shop, &json!([]))).await;
    becomes(
        &mut stream,
        "server web, http1, [authorizationpolicy a: anyone from anywhere]",
    )
    .await;
    becomes(&mut plane.watch("shop", "web", 9).await, DEFAULT).await;
}

#[tokio::test]
async fn a_rate_limit_is_told_whole_and_of_several_the_oldest_counts() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    api.apply(&server("web", &json!({}))).await;
    let mut stream = plane.watch("shop", "web", 8080).await;
    let none = "server web, http1, []";
    becomes(&mut stream, none).await;
    let limit = |name: &str, total: u32| {
        let spec = json!({
            "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "web"},
            "total": {"requestsPerSecond": total}, "identity": {"requestsPerSecond": 3},
            "overrides": [{"requestsPerSecond": 5, "clientRefs": [
                {"kind": "ServiceAccount", "name": "b"}, {"kind": "ServiceAccount", "name": "c"},
            ]}],
        });
        object(
            "policy.linkerd.io/v1alpha1",
            "HTTPLocalRateLimitPolicy",
            name,
            &spec,
        )
    };
    let told = |name: &str, total: u32| {
        let limit =
            format!("HTTPLocalRateLimitPolicy {name} Some({total}) Some(3) b.SHOP|c.SHOP=5");
        format!("{none}; {limit}")
    };
    let older = limit("z", 9);
    let first = kinds::created(&api.apply(&older).await);
    becomes(&mut stream, &told("z", 9)).await;
    kinds::later_than(&api, first).await;
    api.apply(&limit("a", 8)).await;
    // The next thing that is told is about the older one.
    api.apply(&limit("z", 10)).await;
    let next = stream.next().await;
    assert_eq!(enforced(&server_from_api(next).unwrap()), told("z", 10));
    api.delete(&older).await;
    becomes(&mut stream, &told("a", 8)).await;
}

/// Routes with what they match, in their order.
fn routes(policy: &ServerPolicy) -> Vec<String> {
    let http = match &policy.protocol {
        linkerd_policy::Protocol::Detect { http, .. }
        | linkerd_policy::Protocol::Http1(http)
        | linkerd_policy::Protocol::Http2(http) => http.routes.as_slice(),
        _ => &[],
    };
    let one = |route: &linkerd_policy::HttpRoute| {
        let matches = route.rules.iter().flat_map(|rule| &rule.matches);
        let matches = matches.map(|each| {
            let method = each.method.as_ref().map_or("*", |method| method.as_str());
            match &each.path {
                Some(PathMatch::Exact(path)) => format!(" {method} {path}"),
                Some(PathMatch::Prefix(path)) => format!(" {method} {path}*"),
                other => format!(" {other:?}"),
            }
        });
        format!("{}{}", route.meta, matches.collect::<String>())
    };
    http.iter().map(one).collect()
}

#[tokio::test]
async fn routes_come_in_the_order_of_their_age_and_without_any_there_are_two_on_the_proxys_own_port()
 {
    let Some((api, plane)) = shop().await else {
        return;
    };
    let told = async |stream: &mut control_plane::Watched, wanted: &[&str]| {
        let is_it = |message: &linkerd2_proxy_api::inbound::Server| {
            let said = routes(&server_from_api(message.clone()).unwrap());
            (said == wanted).then_some(())
        };
        stream.until(&wanted.join("; "), is_it).await;
    };
    let mut own = plane.watch("shop", "web", 4191).await;
    let probes = "default probe GET /live GET /ready";
    told(&mut own, &["default default * /*", probes]).await;
    let mut stream = plane.watch("shop", "web", 8080).await;
    told(&mut stream, &["default default * /*"]).await;

    api.apply(&server("web", &json!({}))).await;
    let to_web = parent("policy.linkerd.io", "Server", "web", None);
    let of = |name: &str, path: &str| {
        let rules = json!([{"matches": [{"path": {"type": "Exact", "value": path}}]}]);
        route("policy HTTPRoute", name, &to_web, rules)
    };
    let older = of("z", "/z");
    let first = kinds::created(&api.apply(&older).await);
    told(&mut stream, &["HTTPRoute z * /z"]).await;
    kinds::later_than(&api, first).await;
    api.apply(&of("a", "/a")).await;
    told(&mut stream, &["HTTPRoute z * /z", "HTTPRoute a * /a"]).await;
    api.delete(&older).await;
    told(&mut stream, &["HTTPRoute a * /a"]).await;
    api.delete(&of("a", "/a")).await;
    told(&mut stream, &["default default * /*"]).await;
}
