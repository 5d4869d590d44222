use super::*;
use crate::{
    outbound::{Endpoint, EndpointIdentity, EndpointTls, Hint, Http2Params, profile},
    proto::{
        endpoint_from_api, endpoint_to_api, outbound_to_api, profile_from_api, profile_to_api,
    },
    server::{FailureInjector, HeaderModifier, HttpMatch, PathMatch, Redirect},
};
use proptest::{collection::vec, option, prelude::*};
use std::collections::BTreeMap;

fn reference() -> impl Strategy<Value = Ref> {
    prop_oneof![
        "[a-z]{1,8}".prop_map(Ref::default_named),
        ("[a-z]{1,5}", "[a-z]{1,5}", "[a-z]{1,5}", 0u16..9000).prop_map(
            |(kind, namespace, name, port)| Ref::Resource {
                group: "core".into(),
                kind,
                namespace,
                name,
                port: (port > 0).then_some(port),
                section: String::new(),
            }
        ),
    ]
}

fn limit() -> impl Strategy<Value = Duration> {
    (1u64..100_000).prop_map(Duration::from_millis)
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let tls = option::of(any::<bool>().prop_map(|is_dns| EndpointTls {
        identity: if is_dns {
            EndpointIdentity::Dns("web.shop".into())
        } else {
            EndpointIdentity::Uri("spiffe://root/web".into())
        },
        server_name: "web.shop".into(),
    }));
    let hint = prop_oneof![Just(Hint::Unknown), Just(Hint::Http2), Just(Hint::Opaque)];
    let http2 = option::of((limit(), limit(), any::<bool>()).prop_map(
        |(interval, timeout, flag)| Http2Params {
            stream_window: Some(70_000),
            keep_alive: Some((interval, timeout)),
            keep_alive_while_idle: flag,
            adaptive: flag,
            max_frame_size: Some(16_384),
            ..Http2Params::default()
        },
    ));
    let labels = vec(("[a-z]{1,4}", "[a-z]{0,4}"), 0..3);
    (
        any::<std::net::SocketAddr>(),
        tls,
        hint,
        option::of(1u16..),
        1u32..,
        labels,
        http2,
    )
        .prop_map(
            |(mut address, tls, hint, opaque_transport, weight, labels, http2)| {
                if address.port() == 0 {
                    address.set_port(1);
                }
                // Flow labels and scopes are not in the API.
                let address = (address.ip(), address.port()).into();
                Endpoint {
                    address,
                    tls,
                    hint,
                    opaque_transport,
                    weight,
                    labels: labels.into_iter().collect(),
                    authority_override: None,
                    http2,
                }
            },
        )
}

fn backend() -> impl Strategy<Value = Backend> {
    let penalty = option::of((limit(), limit(), limit()).prop_map(
        |(penalty, decay, max_retry_after)| Penalty {
            penalty,
            decay,
            max_retry_after,
        },
    ));
    let balance =
        (limit(), limit(), penalty).prop_map(|(default_rtt, decay, penalty)| Dispatcher::Balance {
            path: "web.shop.svc.cluster.local:80".into(),
            load: Load {
                default_rtt,
                decay,
                penalty,
            },
        });
    let dispatcher = prop_oneof![endpoint().prop_map(Dispatcher::Forward), balance];
    (reference(), option::of(dispatcher), any::<u32>(), limit()).prop_map(
        |(meta, dispatcher, capacity, failfast_timeout)| Backend {
            meta,
            dispatcher,
            queue: Queue {
                capacity,
                failfast_timeout,
            },
        },
    )
}

fn filter() -> impl Strategy<Value = Filter> {
    let modifier = || HeaderModifier {
        add: vec![("x-a".parse().unwrap(), "1".parse().unwrap())],
        set: Vec::new(),
        remove: vec!["x-b".parse().unwrap()],
    };
    prop_oneof![
        Just(Filter::RequestHeaders(modifier())),
        Just(Filter::ResponseHeaders(modifier())),
        Just(Filter::Redirect(Redirect {
            host: Some("other".into()),
            ..Redirect::default()
        })),
        (200u16..1000, option::of((0u32.., 1u32..))).prop_map(|(status, ratio)| Filter::Failure(
            FailureInjector {
                status,
                message: "no".into(),
                ratio
            }
        )),
        Just(Filter::Unknown),
    ]
}

fn distribution(filters: bool) -> impl Strategy<Value = Distribution> {
    let backend = move || {
        let filters = vec(filter(), if filters { 0..3 } else { 0..1 });
        (backend(), filters).prop_map(|(backend, filters)| RouteBackend {
            backend,
            filters,
            refusal: None,
        })
    };
    prop_oneof![
        Just(Distribution::Empty),
        vec(backend(), 1..3).prop_map(Distribution::FirstAvailable),
        vec((backend(), 1u32..), 1..3).prop_map(Distribution::RandomAvailable),
    ]
}

fn backoff() -> impl Strategy<Value = Backoff> {
    (limit(), limit(), 0.0f32..100.0, any::<bool>()).prop_map(|(a, b, jitter, flag)| Backoff {
        min: a.min(b),
        max: a.max(b),
        jitter,
        respect_retry_after: flag,
    })
}

fn action() -> impl Strategy<Value = Action> {
    let timeouts = (
        option::of(limit()),
        option::of(limit()),
        option::of(limit()),
    )
        .prop_map(|(request, response, idle)| Timeouts {
            request,
            response,
            idle,
        });
    let retry = (
        any::<u16>(),
        any::<u32>(),
        option::of(limit()),
        option::of(backoff()),
    )
        .prop_map(|(max_retries, max_request_bytes, timeout, backoff)| Retry {
            max_retries,
            max_request_bytes,
            conditions: RetryConditions {
                statuses: vec![500..=599, 429..=429],
                grpc: Vec::new(),
            },
            timeout,
            backoff,
        });
    (
        vec(filter(), 0..3),
        distribution(true),
        timeouts,
        option::of(retry),
        any::<bool>(),
    )
        .prop_map(|(filters, backends, timeouts, retry, allow)| Action {
            filters,
            backends,
            timeouts,
            retry,
            allow_l5d_request_headers: allow,
        })
}

fn http() -> impl Strategy<Value = HttpPolicy> {
    let route = (reference(), vec(action(), 0..3)).prop_map(|(meta, actions)| HttpRoute {
        meta,
        hosts: vec![
            HostMatch::Exact("web".into()),
            HostMatch::Suffix(vec!["x".into()]),
        ],
        rules: actions
            .into_iter()
            .map(|action| HttpRule {
                matches: vec![HttpMatch {
                    path: Some(PathMatch::Prefix("/a".into())),
                    ..HttpMatch::default()
                }],
                action,
            })
            .collect(),
    });
    let accrual = (0u32..9, option::of(0.01f64..1.0), backoff(), 0u32..4).prop_map(
        |(max_consecutive_failures, threshold, backoff, min_ready_endpoints)| FailureAccrual {
            max_consecutive_failures,
            success_rate: threshold.map(|threshold| SuccessRate {
                threshold,
                window: Duration::from_secs(7),
                min_requests: 5,
            }),
            backoff,
            min_ready_endpoints,
        },
    );
    (vec(route, 0..3), option::of(accrual)).prop_map(|(routes, failure_accrual)| HttpPolicy {
        routes,
        failure_accrual,
    })
}

fn stream() -> impl Strategy<Value = StreamRoute> {
    let refusal = option::of(prop_oneof![
        Just(Refusal::Forbidden),
        Just(Refusal::Invalid("why".into()))
    ]);
    (reference(), refusal, distribution(false)).prop_map(|(meta, refusal, backends)| StreamRoute {
        meta,
        snis: Vec::new(),
        refusal,
        backends: match backends {
            Distribution::FirstAvailable(mut all) => {
                all.iter_mut().for_each(|backend| backend.filters.clear());
                Distribution::FirstAvailable(all)
            }
            Distribution::RandomAvailable(mut all) => {
                all.iter_mut()
                    .for_each(|(backend, _)| backend.filters.clear());
                Distribution::RandomAvailable(all)
            }
            Distribution::Empty => Distribution::Empty,
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_the_api_takes_comes_back_equal(
        parent in reference(),
        http1 in http(),
        http2 in http(),
        opaque in vec(stream(), 0..2),
        timeout in limit(),
    ) {
        for protocol in [
            Protocol::Http1(http1.clone()),
            Protocol::Opaque(opaque.clone()),
            Protocol::Detect { timeout, http1, http2, opaque },
        ] {
            let policy = OutboundPolicy { parent: parent.clone(), protocol };
            prop_assert_eq!(outbound_from_api(outbound_to_api(&policy)).unwrap(), policy);
        }
    }

    #[test]
    fn endpoints_come_back_equal(endpoint in endpoint()) {
        let again = endpoint_from_api(endpoint_to_api(&endpoint), &HashMap::new());
        prop_assert_eq!(again.unwrap(), endpoint);
    }
}

#[test]
fn a_profile_comes_back_equal_and_loses_only_what_cannot_be_used() {
    use profile::{Budget, Condition, Profile, ProfileRoute, ResponseClass, ResponseCondition};
    let profile = Profile {
        name: Some("web.shop.svc.cluster.local".into()),
        is_opaque: false,
        routes: vec![ProfileRoute {
            condition: Condition::All(vec![
                Condition::Path("/a".into()),
                Condition::Not(Box::new(Condition::Method(http::Method::GET))),
            ]),
            classes: vec![ResponseClass {
                condition: ResponseCondition::Status(500..=599),
                is_failure: true,
            }],
            labels: BTreeMap::from([("route".into(), "a".into())]),
            is_retryable: true,
            timeout: Some(Duration::from_millis(5)),
        }],
        budget: Some(Budget::default()),
        targets: vec![("web-2.shop.svc.cluster.local:80".into(), 3)],
        endpoint: None,
    };
    let (again, warnings) = profile_from_api(profile_to_api(&profile));
    assert_eq!((again, warnings), (profile.clone(), Vec::new()));

    let mut message = profile_to_api(&profile);
    message
        .routes
        .push(linkerd2_proxy_api::destination::Route::default());
    message.dst_overrides[0].authority = "no port".into();
    message.retry_budget.as_mut().unwrap().retry_ratio = f32::NAN;
    let (again, warnings) = profile_from_api(message);
    assert_eq!((again.routes.len(), again.targets.len()), (1, 0));
    assert!(again.budget.is_none());
    let fields: Vec<&str> = warnings
        .iter()
        .map(|warning| warning.field.as_str())
        .collect();
    assert_eq!(
        fields,
        [
            "routes[1].condition",
            "dst_overrides[0].authority",
            "retry_budget.retry_ratio"
        ]
    );
}

/// One route with one rule with one backend, and a retry.
fn with_retry() -> OutboundPolicy {
    let backend = Backend {
        meta: Ref::default_named("b"),
        dispatcher: Some(Dispatcher::Balance {
            path: "web:80".into(),
            load: Load::default(),
        }),
        queue: Queue {
            capacity: 1,
            failfast_timeout: Duration::from_secs(1),
        },
    };
    let action = Action {
        backends: Distribution::FirstAvailable(vec![RouteBackend {
            backend,
            filters: Vec::new(),
            refusal: None,
        }]),
        retry: Some(Retry {
            max_retries: 1,
            max_request_bytes: 1,
            conditions: RetryConditions {
                statuses: vec![500..=599],
                grpc: Vec::new(),
            },
            timeout: None,
            backoff: Some(Backoff {
                min: Duration::from_millis(1),
                max: Duration::from_millis(2),
                jitter: 0.0,
                respect_retry_after: false,
            }),
        }),
        ..Action::default()
    };
    OutboundPolicy {
        parent: Ref::default_named("p"),
        protocol: Protocol::Http1(HttpPolicy {
            routes: vec![HttpRoute {
                meta: Ref::default_named("r"),
                hosts: Vec::new(),
                rules: vec![HttpRule {
                    matches: Vec::new(),
                    action,
                }],
            }],
            failure_accrual: None,
        }),
    }
}

/// A rule of the message as a careless or hostile server might send it, and the field that is named.
type Spoiled = (fn(&mut api::http_route::Rule), &'static str);

/// Each hostile or careless value.
fn spoiled() -> Vec<Spoiled> {
    fn retry(rule: &mut api::http_route::Rule) -> &mut api::http_route::Retry {
        rule.retry.as_mut().unwrap()
    }
    vec![
        (|rule| rule.backends = None, ".backends"),
        (
            |rule| {
                rule.backends.as_mut().unwrap().kind = Some(
                    api::http_route::distribution::Kind::FirstAvailable(Default::default()),
                )
            },
            ".backends.first_available.backends",
        ),
        (|rule| retry(rule).conditions = None, ".retry.conditions"),
        (
            |rule| retry(rule).max_retries = 70_000,
            ".retry.max_retries",
        ),
        (
            |rule| retry(rule).conditions.as_mut().unwrap().status_ranges[0].end = 600,
            ".retry.conditions.status_ranges[0]",
        ),
        (
            |rule| retry(rule).backoff.as_mut().unwrap().jitter_ratio = f32::NAN,
            ".retry.backoff.jitter_ratio",
        ),
        (
            |rule| retry(rule).backoff.as_mut().unwrap().max_backoff = None,
            ".retry.backoff.max_backoff",
        ),
        (
            |rule| {
                rule.timeouts = Some(http_route::Timeouts {
                    request: Some(prost_types::Duration {
                        seconds: -1,
                        nanos: 0,
                    }),
                    ..Default::default()
                });
            },
            ".timeouts.request",
        ),
    ]
}

#[test]
fn what_cannot_be_used_is_refused_by_field() {
    let policy = with_retry();
    let rule = "protocol.http1.routes[0].rules[0]";
    for (spoil, field) in spoiled() {
        let mut message = outbound_to_api(&policy);
        let Some(api::proxy_protocol::Kind::Http1(http)) =
            &mut message.protocol.as_mut().unwrap().kind
        else {
            unreachable!()
        };
        spoil(&mut http.routes[0].rules[0]);
        let error = outbound_from_api(message).unwrap_err();
        assert_eq!(error.field, format!("{rule}{field}"), "{error}");
    }
    assert_eq!(
        outbound_from_api(api::OutboundPolicy::default())
            .unwrap_err()
            .field,
        "metadata"
    );
}
