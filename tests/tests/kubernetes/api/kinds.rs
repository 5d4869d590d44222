//! Rows `outbound_api`, `outbound_api_http` and `outbound_api_grpc`: each kind of route, of a Service and of an EgressNetwork.

use super::{
    annotations::{annotate, egress_network, outside, to_out},
    parents::KINDS,
    *,
};

/// What clients dial that is none of the cluster's.
const OUTSIDE: &str = "203.0.113.7:443";

/// A parent of routes: how routes name it, how clients ask for it, what it says without routes.
struct Of {
    parent: Value,
    target: Option<Target>,
    /// The object, as far as its place.
    object: Value,
    default: &'static str,
    opaque: &'static str,
    /// Where a rule without backends leads.
    own: &'static str,
    is_egress: bool,
}

fn parents_of_routes() -> [Of; 2] {
    [
        Of {
            parent: to_web(),
            target: None,
            object: service("web", json!([])),
            default: "detect http: web:80",
            opaque: "opaque opaq: web:80",
            own: "web:80",
            is_egress: false,
        },
        Of {
            parent: to_out(),
            target: Some(outside()),
            object: egress_network(),
            default: "detect http-egress-allow: 203.0.113.7:443",
            opaque: "opaque tcp-egress-allow: 203.0.113.7:443",
            own: OUTSIDE,
            is_egress: true,
        },
    ]
}

impl Of {
    async fn watch(&self, client: &mut Client) -> Watched {
        match &self.target {
            Some(target) => client.try_watch("shop", target.clone()).await.unwrap(),
            None => client.watch("shop", 80).await,
        }
    }

    /// What is said with these routes: to those of an EgressNetwork its own is added.
    fn with(&self, speaks: &str, routes: &str) -> String {
        let last = match speaks {
            _ if !self.is_egress => String::new(),
            "detect" => format!("; http-egress-allow: {OUTSIDE}"),
            "grpc" | "tls" => format!("; {speaks}-egress-allow: {OUTSIDE}"),
            _ => String::new(),
        };
        format!("{speaks} {routes}{last}")
    }
}

/// Whether routes of a kind are of requests, and may have no rules.
fn has_requests(speaks: &str) -> bool {
    matches!(speaks, "detect" | "grpc")
}

/// Where requests are told that a backend is not there.
fn not_found(speaks: &str) -> String {
    let said = match speaks {
        "detect" => "!500 Service not found gone".to_owned(),
        "grpc" => "!13 Service not found gone".to_owned(),
        _ => r#"Invalid("Service not found gone")"#.to_owned(),
    };
    format!("r: no Service.shop.gone:80{said}*1")
}

#[tokio::test]
async fn each_kind_of_route_of_each_parent_is_told_with_what_its_rules_say() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    api.apply(&egress_network()).await;
    let back = |name: &str| backends(json!([{"name": name, "port": 80}]));
    for of in parents_of_routes() {
        let mut stream = of.watch(&mut client).await;
        stream.becomes(of.default).await;
        for (kind, speaks) in KINDS {
            let own = format!("r: {}", of.own);
            let mut rows = vec![
                (json!([{}]), own),
                (back("back"), "r: back:80*1".to_owned()),
                (back("gone"), not_found(speaks)),
            ];
            if has_requests(speaks) {
                rows.insert(0, (json!([]), "r:".to_owned()));
            }
            for (rules, said) in rows {
                let object = route(kind, "r", &of.parent, rules);
                api.apply(&object).await;
                let wanted = of.with(speaks, &said);
                stream.becomes(&wanted).await;
                // Who asks later is told the same.
                of.watch(&mut client).await.becomes(&wanted).await;
            }
            // It goes to another parent, and comes back.
            let mut other = of.parent.clone();
            other["name"] = "elsewhere".into();
            api.apply(&route(kind, "r", &other, back("back"))).await;
            stream.becomes(of.default).await;
            let object = route(kind, "r", &of.parent, back("back"));
            api.apply(&object).await;
            stream.becomes(&of.with(speaks, "r: back:80*1")).await;
            api.delete(&object).await;
            stream.becomes(of.default).await;
        }
        let port = if of.is_egress { "443" } else { "80" };
        let opaque = json!({"config.linkerd.io/opaque-ports": port});
        annotate(&api, &of.object, opaque).await;
        stream.becomes(of.opaque).await;
    }
}

#[tokio::test]
async fn of_each_kind_older_routes_come_first_and_those_of_other_namespaces_are_for_their_own_clients()
 {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    api.apply(&egress_network()).await;
    // A port for each kind, so that they do not contend.
    let of_service = |port: u16| parent("", "Service", "web", Some(port));
    let of_egress = |port: u16| {
        let mut parent = to_out();
        parent["port"] = port.into();
        parent
    };
    let ports = || (1000..).zip(KINDS);
    let mut first = None;
    for (port, (kind, _)) in ports() {
        for (name, parent) in [("z", of_service(port)), ("z-out", of_egress(port))] {
            let name = format!("{name}-{port}");
            let applied = api.apply(&route(kind, &name, &parent, json!([{}]))).await;
            first = created(&applied);
        }
    }
    later_than(&api, first).await;
    for (port, (kind, speaks)) in ports() {
        for (name, parent) in [("", of_service(port)), ("-out", of_egress(port))] {
            let younger = route(kind, &format!("a{name}-{port}"), &parent, json!([{}]));
            api.apply(&younger).await;
        }
        let mut own = client.watch("shop", port).await;
        let list = |older: String, younger: String| match speaks {
            // Of TCPRoutes the oldest counts.
            "opaque" => format!("{speaks} {older}"),
            _ => format!("{speaks} {older}; {younger}"),
        };
        let web = format!("web:{port}");
        let wanted = list(format!("z-{port}: {web}"), format!("a-{port}: {web}"));
        own.becomes(&wanted).await;
        let outside = address([203, 0, 113, 7], port);
        let mut egress = client.try_watch("shop", outside).await.unwrap();
        let address = format!("203.0.113.7:{port}");
        let wanted = list(
            format!("z-out-{port}: {address}"),
            format!("a-out-{port}: {address}"),
        );
        egress.becomes_first(&wanted).await;
    }
    // Those of another namespace, on ports of their own.
    for (port, (kind, speaks)) in (2000..).zip(KINDS) {
        let mut own = client.watch("shop", port).await;
        let mut other = client.watch("other", port).await;
        let default = format!("detect http: web:{port}");
        own.becomes(&default).await;
        other.becomes(&default).await;
        let mut of_shop = of_service(port);
        of_shop["namespace"] = "shop".into();
        let consumer = route(kind, &format!("c-{port}"), &of_shop, json!([{}]));
        let consumer = with(consumer, "namespace", json!("other"));
        api.apply(&consumer).await;
        let web = format!("web:{port}");
        assert_eq!(other.next().await, format!("{speaks} c-{port}: {web}"));
        let producer = route(kind, &format!("p-{port}"), &of_service(port), json!([{}]));
        api.apply(&producer).await;
        // Nothing was told before.
        assert_eq!(own.next().await, format!("{speaks} p-{port}: {web}"));
        api.delete(&consumer).await;
        other.becomes(&format!("{speaks} p-{port}: {web}")).await;
    }
}

pub(super) fn created(object: &Value) -> Option<String> {
    let created = object["metadata"]["creationTimestamp"].as_str();
    created.map(str::to_owned)
}

/// Waits until what is created is younger: the API server counts in seconds.
pub(super) async fn later_than(api: &ApiServer, first: Option<String>) {
    let probe = service("probe", json!([{"port": 1}]));
    eventually("a second that is later", async || {
        let is_later = created(&api.apply(&probe).await) > first;
        api.delete(&probe).await;
        is_later.then_some(())
    })
    .await;
}

#[tokio::test]
async fn filters_of_rules_and_backends_are_told_and_one_that_is_not_implemented_fails_requests() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    api.apply(&egress_network()).await;
    let headers = json!({
        "add": [{"name": "a", "value": "1"}], "set": [{"name": "b", "value": "2"}], "remove": ["c"],
    });
    let request = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": headers});
    let response = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": headers});
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {
        "scheme": "https", "hostname": "example.org", "port": 8443, "statusCode": 301,
        "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"},
    }});
    let prefix = json!({"type": "RequestRedirect", "requestRedirect": {
        "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/y"},
    }});
    let rewrite = json!({"type": "URLRewrite", "urlRewrite": {"hostname": "a"}});
    let requested = "(+a:1 b:2 -c)";
    let responded = "(response +a:1 b:2 -c)";
    let redirected = r#"(301 https example.org Some(8443) Some(Full("/x")))"#;
    let prefixed = r#"(302   None Some(Prefix("/y")))"#;
    let rows = [
        ("policy HTTPRoute", request.clone(), requested),
        ("policy HTTPRoute", redirect.clone(), redirected),
        ("policy HTTPRoute", prefix.clone(), prefixed),
        ("HTTPRoute", request.clone(), requested),
        ("HTTPRoute", response, responded),
        ("HTTPRoute", redirect, redirected),
        ("HTTPRoute", prefix, prefixed),
        (
            "HTTPRoute",
            rewrite.clone(),
            "!500 unsupported filter type URLRewrite",
        ),
        ("GRPCRoute", request, requested),
        (
            "GRPCRoute",
            rewrite,
            "!13 unsupported filter type URLRewrite",
        ),
    ];
    for of in parents_of_routes() {
        let mut stream = of.watch(&mut client).await;
        for (number, (kind, filter, said)) in rows.iter().enumerate() {
            let speaks = if *kind == "GRPCRoute" {
                "grpc"
            } else {
                "detect"
            };
            let name = format!("r-{number}");
            let back = json!({"name": "back", "port": 80, "filters": [filter]});
            let rules = json!([{"filters": [filter], "backendRefs": [back]}]);
            let object = route(kind, &name, &of.parent, rules);
            api.apply(&object).await;
            let wanted = format!("{name}: {said}back:80{said}*1");
            stream.becomes(&of.with(speaks, &wanted)).await;
            api.delete(&object).await;
        }
    }
}

#[tokio::test]
async fn of_egress_networks_the_smallest_of_the_clients_namespace_counts_else_of_the_global_one() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    api.apply(&namespace("linkerd-egress")).await;
    let network = |namespace: &str, name: &str, networks: Value| {
        let mut spec = json!({"trafficPolicy": "Allow"});
        if !networks.is_null() {
            spec["networks"] = networks;
        }
        let object = object("policy.linkerd.io/v1alpha1", "EgressNetwork", name, &spec);
        with(object, "namespace", namespace.into())
    };
    let mut own = client.try_watch("shop", outside()).await.unwrap();
    let mut other = client.try_watch("other", outside()).await.unwrap();
    let parent = async |stream: &mut Watched, wanted: &str| {
        let (message, _) = tokio::time::timeout(linkerd_tests::LIMIT, stream.message())
            .await
            .expect(wanted);
        let policy = outbound_from_api(message).unwrap();
        assert_eq!(policy.parent.to_string(), wanted);
    };
    for stream in [&mut own, &mut other] {
        parent(stream, "default.egress-fallback").await;
    }
    let world = network("linkerd-egress", "world", Value::Null);
    api.apply(&world).await;
    for stream in [&mut own, &mut other] {
        parent(stream, "EgressNetwork.linkerd-egress.world:443").await;
    }
    // Each of these is told to clients of the shop, and to nobody else.
    let wide = network("shop", "wide", json!([{"cidr": "203.0.0.0/16"}]));
    let narrow = network("shop", "narrow", json!([{"cidr": "203.0.113.0/24"}]));
    let except =
        json!([{"cidr": "203.0.113.7/32"}, {"cidr": "203.0.113.0/24", "except": ["203.0.113.7"]}]);
    let one = network("shop", "one", except);
    for (object, name) in [(&wide, "wide"), (&narrow, "narrow"), (&one, "one")] {
        api.apply(object).await;
        parent(&mut own, &format!("EgressNetwork.shop.{name}:443")).await;
    }
    api.delete(&one).await;
    parent(&mut own, "EgressNetwork.shop.narrow:443").await;
    // Once a namespace has one, those of the global one do not count, whatever the address.
    let elsewhere = network("shop", "narrow", json!([{"cidr": "198.51.100.0/24"}]));
    api.apply(&elsewhere).await;
    parent(&mut own, "EgressNetwork.shop.wide:443").await;
    api.delete(&wide).await;
    parent(&mut own, "default.egress-fallback").await;
    api.delete(&elsewhere).await;
    parent(&mut own, "EgressNetwork.linkerd-egress.world:443").await;
    api.delete(&world).await;
    for stream in [&mut own, &mut other] {
        parent(stream, "default.egress-fallback").await;
    }
}
