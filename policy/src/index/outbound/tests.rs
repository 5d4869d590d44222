use super::*;
use crate::{
    index::Cluster,
    manifest,
    outbound::{Load, Timeouts},
};

fn index(text: &str) -> Index {
    let resources = manifest::parse(text)
        .into_iter()
        .map(|document| document.unwrap().resource);
    Index::from_resources(Cluster::default(), resources)
}

const SERVICES: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {A}}
spec: {clusterIP: 10.0.0.7, selector: {app: web}, ports: [{port: 80}, {port: 81, appProtocol: http}, {port: 82, appProtocol: kubernetes.io/h2c}, {port: 83, appProtocol: tcp}, {port: 6379}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-2, namespace: shop}
spec: {selector: {app: web-2}, ports: [{port: 80}]}
---
";

fn services(annotations: &str) -> String {
    SERVICES.replace("{A}", annotations)
}

fn web(index: &Index, client: &str, port: u16) -> OutboundPolicy {
    let target = OutboundTarget::Service {
        namespace: "shop".into(),
        name: "web".into(),
        port,
    };
    index.outbound(client, &target).unwrap()
}

fn routes(policy: &OutboundPolicy) -> &[HttpRoute] {
    match &policy.protocol {
        Protocol::Detect { http1, .. } => &http1.routes,
        Protocol::Http1(http) | Protocol::Http2(http) => &http.routes,
        other => panic!("{other:?}"),
    }
}

fn paths(backends: &Distribution) -> Vec<String> {
    backends
        .backends()
        .map(|backend| match &backend.backend.dispatcher {
            Some(Dispatcher::Balance { path, .. }) => path.clone(),
            Some(Dispatcher::Forward(endpoint)) => endpoint.address.to_string(),
            None => format!("missing {:?}", backend.filters),
        })
        .collect()
}

#[test]
fn the_port_says_the_protocol() {
    let index = index(&services("{}"));
    assert!(matches!(
        web(&index, "shop", 80).protocol,
        Protocol::Detect { .. }
    ));
    assert!(matches!(
        web(&index, "shop", 81).protocol,
        Protocol::Http1(_)
    ));
    assert!(matches!(
        web(&index, "shop", 82).protocol,
        Protocol::Http2(_)
    ));
    for opaque in [83, 6379] {
        let policy = web(&index, "shop", opaque);
        assert!(matches!(policy.protocol, Protocol::Opaque(_)), "{opaque}");
    }
    let policy = web(&index, "shop", 80);
    assert_eq!(policy.parent.to_string(), "Service.shop.web:80");
    let action = &routes(&policy)[0].rules[0].action;
    assert_eq!(paths(&action.backends), ["web.shop.svc.cluster.local:80"]);
}

#[test]
fn addresses_are_services_or_the_world_outside_or_unknown() {
    let index = index(&services("{}"));
    let at = |address: &str| {
        let target = OutboundTarget::Address(address.parse().unwrap());
        index.outbound("shop", &target)
    };
    assert_eq!(at("10.0.0.7:80").unwrap().parent.name(), "web");
    let undefined = at("10.0.0.7:99").unwrap();
    match undefined.protocol {
        Protocol::Opaque(routes) => assert_eq!(routes[0].refusal, Some(Refusal::Forbidden)),
        other => panic!("{other:?}"),
    }
    let outside = at("203.0.113.7:443").unwrap();
    assert_eq!(outside.parent.name(), "egress-fallback");
    assert!(at("10.9.9.9:80").is_none());
}

#[test]
fn routes_of_the_parent_are_for_all_and_those_of_a_client_for_its_namespace() {
    let text = services("{}")
        + r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: core, kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {value: /new}}]
    filters:
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-version, value: '2'}]}}
    backendRefs: [{name: web, port: 80, weight: 3}, {name: web-2, port: 80}, {name: gone, port: 80, weight: 0}]
---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: mine, namespace: office}
spec:
  parentRefs: [{group: core, kind: Service, name: web, namespace: shop}]
  rules: [{timeouts: {request: 300ms}}]
";
    let index = index(&text);
    let shop = web(&index, "shop", 80);
    let names = |policy: &OutboundPolicy| -> Vec<String> {
        routes(policy)
            .iter()
            .map(|route| route.meta.to_string())
            .collect()
    };
    assert_eq!(names(&shop), ["HTTPRoute.shop.split"]);
    let action = &routes(&shop)[0].rules[0].action;
    assert!(matches!(action.filters[0], Filter::ResponseHeaders(_)));
    let Distribution::RandomAvailable(weighed) = &action.backends else {
        panic!("{:?}", action.backends)
    };
    let weights: Vec<u32> = weighed.iter().map(|(_, weight)| *weight).collect();
    assert_eq!(weights, [3, 1, 0]);
    assert!(paths(&action.backends)[2].contains("Service not found gone"));

    let office = web(&index, "office", 80);
    assert_eq!(
        names(&office),
        ["HTTPRoute.office.mine", "HTTPRoute.shop.split"]
    );
    let mine = &routes(&office)[0].rules[0].action;
    assert_eq!(mine.timeouts.request, Some(Duration::from_millis(300)));
    // Another port of the parent: the default route.
    assert_eq!(names(&web(&index, "shop", 81)), ["default.http"]);
}

#[test]
fn annotations_of_the_parent_are_for_routes_that_say_nothing() {
    let annotations = "{retry.linkerd.io/http: '5xx,429', retry.linkerd.io/limit: '3', timeout.linkerd.io/response: 2s, balancer.linkerd.io/failure-accrual: consecutive, balancer.linkerd.io/failure-accrual-consecutive-max-failures: '4'}";
    let text = services(annotations)
        + r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: own, namespace: shop, annotations: {retry.linkerd.io/http: gateway-error}}
spec:
  parentRefs: [{group: core, kind: Service, name: web}]
  rules: [{matches: [{path: {value: /a}}]}]
";
    let index = index(&text);
    let policy = web(&index, "shop", 80);
    let Protocol::Detect { http1, .. } = &policy.protocol else {
        panic!()
    };
    let accrual = http1.failure_accrual.unwrap();
    assert_eq!(accrual.max_consecutive_failures, 4);
    let own = &http1.routes[0].rules[0].action;
    assert_eq!(own.retry.as_ref().unwrap().conditions.statuses, [502..=504]);
    assert_eq!(own.retry.as_ref().unwrap().max_retries, 1);
    let response = Some(Duration::from_secs(2));
    assert_eq!(
        own.timeouts,
        Timeouts {
            response,
            ..Timeouts::default()
        }
    );

    let index = self::index(&services(annotations));
    let policy = web(&index, "shop", 80);
    let default = &routes(&policy)[0].rules[0].action;
    let retry = default.retry.as_ref().unwrap();
    assert_eq!((retry.max_retries, retry.conditions.statuses.len()), (3, 2));

    // A value that cannot be used switches off what it belongs to, and no more.
    let bad = "{retry.linkerd.io/http: '9xx', balancer.linkerd.io/failure-accrual: maybe, timeout.linkerd.io/request: 1s}";
    let policy = web(&self::index(&services(bad)), "shop", 80);
    let action = &routes(&policy)[0].rules[0].action;
    assert!(action.retry.is_none());
    assert_eq!(action.timeouts.request, Some(Duration::from_secs(1)));
    let penalised = "{balancer.alpha.linkerd.io/penalize-failures: 'true'}";
    let policy = web(&self::index(&services(penalised)), "shop", 80);
    let backends = &routes(&policy)[0].rules[0].action.backends;
    let load = backends
        .backends()
        .find_map(|backend| match &backend.backend.dispatcher {
            Some(Dispatcher::Balance { load, .. }) => Some(*load),
            _ => None,
        });
    assert_ne!(load, Some(Load::default()));
}

#[test]
fn the_smallest_egress_network_of_the_own_namespace_wins() {
    let network = |namespace: &str, name: &str, policy: &str, networks: &str| {
        format!(
            "apiVersion: policy.linkerd.io/v1alpha1\nkind: EgressNetwork\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{trafficPolicy: {policy}{networks}}}\n---\n"
        )
    };
    let text = network("linkerd-egress", "world", "Allow", "")
        + &network(
            "shop",
            "deny",
            "Deny",
            ", networks: [{cidr: 203.0.113.0/24, except: [203.0.113.9]}]",
        )
        + &network(
            "shop",
            "one",
            "Allow",
            ", networks: [{cidr: 203.0.113.8/32}]",
        );
    let index = index(&text);
    let parent = |client: &str, address: &str| {
        let target = OutboundTarget::Address(address.parse().unwrap());
        index
            .outbound(client, &target)
            .map(|policy| policy.parent.name().to_owned())
    };
    assert_eq!(parent("shop", "203.0.113.7:443").as_deref(), Some("deny"));
    assert_eq!(parent("shop", "203.0.113.8:443").as_deref(), Some("one"));
    assert_eq!(
        parent("shop", "203.0.113.9:443").as_deref(),
        Some("egress-fallback")
    );
    assert_eq!(
        parent("office", "203.0.113.7:443").as_deref(),
        Some("world")
    );
    let target = OutboundTarget::Address("203.0.113.7:443".parse().unwrap());
    let denied = index.outbound("shop", &target).unwrap();
    let filters = &routes(&denied)[0].rules[0].action.filters;
    assert!(matches!(&filters[0], Filter::Failure(f) if f.status == 403));
}

#[test]
fn mutual_tls_is_asked_for_by_the_service_or_its_namespace() {
    let text = services("{policy.linkerd.io/outbound-server-identities: 'a.b, c.d'}")
        + "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {policy.linkerd.io/outbound-mtls: required}}\n";
    let mtls = index(&text).outbound_mtls("shop", "web");
    assert_eq!(mtls.is_required, Some(true));
    assert_eq!(mtls.identities, ["a.b", "c.d"]);
    let none = index(&services("{}")).outbound_mtls("shop", "web");
    assert_eq!(none, MtlsRequirement::default());
    let misspelt = index(&services("{policy.linkerd.io/outbound-mtls: requird}"));
    let misspelt = misspelt.outbound_mtls("shop", "web");
    assert_eq!(misspelt.is_required, Some(true), "no leave for plaintext");
}

#[test]
fn profiles_and_splits_become_routes_and_targets() {
    let text = services("{}")
        + r"
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: web.shop.svc.cluster.local, namespace: shop}
spec:
  routes:
  - name: books
    condition: {pathRegex: /books/.*, method: GET}
    responseClasses: [{condition: {status: {min: 500, max: 599}}, isFailure: true}]
    isRetryable: true
    timeout: 250ms
  retryBudget: {retryRatio: 0.1, minRetriesPerSecond: 3, ttl: 20s}
---
apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {name: canary, namespace: shop}
spec: {service: web, backends: [{service: web, weight: 900m}, {service: web-2, weight: 100m}, {service: gone, weight: 0}]}
";
    let index = index(&text);
    let service = index.service("shop", "web").unwrap();
    let profile = index.service_profile("shop", service, 80);
    assert_eq!(profile.name.as_deref(), Some("web.shop.svc.cluster.local"));
    assert_eq!(profile.routes.len(), 1);
    assert_eq!(profile.routes[0].timeout, Some(Duration::from_millis(250)));
    assert_eq!(profile.budget.unwrap().min_per_second, 3);
    assert_eq!(
        profile.targets,
        [
            ("web.shop.svc.cluster.local:80".to_owned(), 9000),
            ("web-2.shop.svc.cluster.local:80".to_owned(), 1000)
        ]
    );
}

#[test]
fn a_filter_that_is_not_implemented_fails_its_rule_and_leaves_the_others_of_the_route() {
    let route = r"
apiVersion: gateway.networking.k8s.io/v1
kind: {KIND}
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules:
  - filters: [{type: ExtensionRef}]
  - {}
";
    let http = index(&(services("{}") + &route.replace("{KIND}", "HTTPRoute")));
    let policy = web(&http, "shop", 80);
    let rules = &routes(&policy)[0].rules;
    assert_eq!(routes(&policy)[0].meta.to_string(), "HTTPRoute.shop.r");
    let wanted = failure(500, "unsupported filter type ExtensionRef");
    assert_eq!(rules[0].action.filters, [wanted]);
    assert_eq!(rules[1].action.filters, []);
    let grpc = index(&(services("{}") + &route.replace("{KIND}", "GRPCRoute")));
    let Protocol::Grpc(policy) = web(&grpc, "shop", 80).protocol else {
        panic!("gRPC");
    };
    let rules = &policy.routes[0].rules;
    let wanted = failure(13, "unsupported filter type ExtensionRef");
    assert_eq!(rules[0].action.filters, [wanted]);
    assert_eq!(rules[1].action.filters, []);
}
