//! Annotations of traffic: are they spelt right, can their values be read, do they have an effect where they stand.

use super::{
    super::{Report, Severity, key},
    Kind, Route, tcp_ports,
};
use crate::{
    index::{
        Scope, annotations,
        outbound_annotations::{self, Requests},
    },
    manifest::nearest,
    ports::PortSet,
    resource::{Key, POLICY_GROUP, Service, StringMap, values::short},
};

/// Domains of annotations, and what of them is known.
const KNOWN: [(&str, &[&str]); 4] = [
    ("retry", &["http", "grpc", "limit", "timeout"]),
    ("timeout", &["request", "response", "idle"]),
    (
        "balancer",
        &[
            "failure-accrual",
            "failure-accrual-consecutive-max-failures",
            "failure-accrual-consecutive-min-penalty",
            "failure-accrual-consecutive-max-penalty",
            "failure-accrual-consecutive-jitter-ratio",
        ],
    ),
    (
        "balancer.alpha",
        &[
            "failure-accrual-success-rate-threshold",
            "failure-accrual-success-rate-window",
            "failure-accrual-success-rate-min-requests",
            "failure-accrual-honor-retry-after",
            "penalize-failures",
            "load-biaser-penalty",
            "load-biaser-max-retry-after",
        ],
    ),
];

/// Of this domain other annotations may be known to others.
const MTLS: (&str, &[&str]) = ("policy", &["outbound-mtls", "outbound-server-identities"]);

/// What people call the domains.
const DOMAINS: [(&str, &str); 9] = [
    ("retry", "retry"),
    ("retries", "retry"),
    ("timeout", "timeout"),
    ("timeouts", "timeout"),
    ("balancer", "balancer"),
    ("balancers", "balancer"),
    ("balancing", "balancer"),
    ("balancer.alpha", "balancer.alpha"),
    ("balancer.beta", "balancer.alpha"),
];

const SUFFIX: &str = ".linkerd.io";

pub(super) fn check(namespace: &str, scope: &Scope, report: &mut Report) {
    let object = Key {
        group: String::new(),
        kind: "Namespace".to_owned(),
        namespace: String::new(),
        name: namespace.to_owned(),
    };
    mutual_tls(&object, &scope.annotations, report);
    let without = "a Namespace has none of these";
    ignored(
        &object,
        &scope.annotations,
        &["retry", "timeout", "balancer"],
        without,
        report,
    );
    for service in scope.services.values() {
        let object = key("", "Service", &service.metadata);
        mutual_tls(&object, &service.metadata.annotations, report);
        parent(&object, &service.metadata.annotations, report);
        opaque_ports(&object, service, report);
    }
    for egress in scope.egress_networks.values() {
        let object = key(POLICY_GROUP, "EgressNetwork", &egress.metadata);
        let own = &egress.metadata.annotations;
        parent(&object, own, report);
        not_here(&object, own, report);
        not_balanced(&object, own, report);
    }
}

pub(super) fn of_route(route: &Route<'_>, report: &mut Report) {
    let own = &route.metadata.annotations;
    if own.is_empty() {
        return;
    }
    let object = &route.key;
    if route.parents().next().is_none() {
        let is_inbound = |parent: &crate::resource::route::ParentRef| {
            parent.is(route.group, POLICY_GROUP, "Server")
        };
        if route.parent_refs.iter().any(is_inbound) {
            let without =
                "the route is attached to a Server, and they are for traffic to a Service";
            ignored(
                object,
                own,
                &["retry", "timeout", "balancer"],
                without,
                report,
            );
        }
        return;
    }
    unknown(object, own, report);
    not_here(object, own, report);
    let without = "they count on a Service or EgressNetwork";
    ignored(object, own, &["balancer"], without, report);
    if let Some(requests) = route.requests() {
        unreadable(object, own, Some(requests), report);
        retries(object, own, Some(route.kind), report);
    } else {
        let without = format!("a {} has connections, not requests", object.kind);
        ignored(object, own, &["retry", "timeout"], &without, report);
    }
}

fn parent(object: &Key, own: &StringMap, report: &mut Report) {
    unreadable(object, own, None, report);
    unknown(object, own, report);
    retries(object, own, None, report);
    breakers(object, own, report);
}

fn mutual_tls(object: &Key, own: &StringMap, report: &mut Report) {
    let add = |report: &mut Report, message: String, fix: &str| {
        let object = object.clone();
        report.add(Severity::Error, "annotation-invalid", object, message, fix);
    };
    let name = annotations::OUTBOUND_MTLS;
    if let Some(value) = own.get(name)
        && !matches!(value.as_str(), "required" | "preferred")
    {
        let what = format!(
            "annotation {name}: `{}` is not known, and is taken for `required`",
            short(value)
        );
        add(report, what, "write `required` or `preferred`");
    }
    let name = annotations::OUTBOUND_SERVER_IDENTITIES;
    if own
        .get(name)
        .is_some_and(|list| list.split(',').all(|each| each.trim().is_empty()))
    {
        let what = format!("annotation {name} names nobody, and so every identity is taken");
        add(
            report,
            what,
            "write identities, with commas between them, or remove it",
        );
    }
    for key in own.keys() {
        let Some(rest) = key.strip_prefix("policy.linkerd.io/") else {
            continue;
        };
        let (_, known) = MTLS;
        if !known.contains(&rest)
            && let Some(near) = nearest(rest, known)
        {
            let what = format!("annotation {key} is not known, and says nothing");
            add(
                report,
                what,
                &format!("did you mean policy.linkerd.io/{near}?"),
            );
        }
    }
}

/// What a Service says of its own ports: numbers, ranges and names of them.
fn opaque_ports(object: &Key, service: &Service, report: &mut Report) {
    let name = annotations::OPAQUE_PORTS;
    let Some(list) = service.metadata.annotations.get(name) else {
        return;
    };
    let named = |name: &str| {
        let ports = service.spec.ports.iter();
        let named = ports.filter(|port| port.name.as_deref() == Some(name));
        named.map(|port| port.port).collect()
    };
    let (ports, errors) = PortSet::parse_with_names(list, named);
    for error in &errors {
        report.add(
            Severity::Error,
            "annotation-invalid",
            object.clone(),
            format!(
                "annotation {name}: `{}` is neither a number, a range nor the name of a port of this Service",
                error.item
            ),
            "correct the item; the others of the list are in force",
        );
    }
    let has_one = tcp_ports(service).any(|port| ports.contains(port));
    if errors.is_empty() && !ports.is_empty() && !has_one {
        report.add(
            Severity::Warning,
            "annotation-ignored",
            object.clone(),
            format!(
                "annotation {name}: `{}` names no port of this Service",
                short(list)
            ),
            format!(
                "write ports of the Service ({}), not those of its workloads",
                super::ports(service)
            ),
        );
    }
}

/// Mutual TLS is a matter of Services and Namespaces.
fn not_here(object: &Key, own: &StringMap, report: &mut Report) {
    for name in [
        annotations::OUTBOUND_MTLS,
        annotations::OUTBOUND_SERVER_IDENTITIES,
    ] {
        if own.contains_key(name) {
            report.add(
                Severity::Error,
                "annotation-ignored",
                object.clone(),
                format!("annotation {name} has no effect on {}s", object.kind),
                "write it on the Service, or on its Namespace",
            );
        }
    }
}

/// What is sent to an EgressNetwork goes where it was to go: there are no endpoints to choose from.
fn not_balanced(object: &Key, own: &StringMap, report: &mut Report) {
    let name = outbound_annotations::PENALIZE;
    if own
        .get(name)
        .is_some_and(|text| outbound_annotations::is_true(text))
    {
        report.add(
            Severity::Warning,
            "annotation-ignored",
            object.clone(),
            format!("annotation {name} has no effect on EgressNetworks"),
            "write it on Services",
        );
    }
}

/// Annotations of `domains` that have no effect on this object at all.
fn ignored(object: &Key, own: &StringMap, domains: &[&str], why: &str, report: &mut Report) {
    for name in own.keys() {
        let Some((domain, _)) = parts(name) else {
            continue;
        };
        if domains.contains(&domain.trim_end_matches(".alpha")) {
            report.add(
                Severity::Warning,
                "annotation-ignored",
                object.clone(),
                format!("annotation {name} has no effect here: {why}"),
                "write it on the Service, or on the HTTPRoute or GRPCRoute of a Service if it is about retries or \
                 timeouts",
            );
        }
    }
}

/// The first labels of a domain of ours, and what follows the slash.
fn parts(name: &str) -> Option<(&str, &str)> {
    let (domain, rest) = name.split_once('/')?;
    Some((domain.strip_suffix(SUFFIX)?, rest))
}

fn unknown(object: &Key, own: &StringMap, report: &mut Report) {
    for name in own.keys() {
        let Some((domain, rest)) = parts(name) else {
            continue;
        };
        let Some(fix) = unknown_one(domain, rest) else {
            continue;
        };
        report.add(
            Severity::Warning,
            "annotation-invalid",
            object.clone(),
            format!("annotation {name} is not known, and says nothing"),
            fix,
        );
    }
}

/// What would be right in place of an annotation that is not known.
fn unknown_one(domain: &str, rest: &str) -> Option<String> {
    let asked = |domain: &str, rest: &str| format!("did you mean {domain}{SUFFIX}/{rest}?");
    let Some((_, known)) = KNOWN.iter().find(|(name, _)| *name == domain) else {
        // Another domain, which may be somebody else's: only what was surely meant.
        let names: Vec<&str> = DOMAINS.iter().map(|(name, _)| *name).collect();
        let near = nearest(domain, &names)?;
        let (_, meant) = DOMAINS.iter().find(|(name, _)| *name == near)?;
        let (_, known) = KNOWN.iter().find(|(name, _)| name == meant)?;
        let rest = nearest(rest, known)?;
        return Some(asked(meant, rest));
    };
    if known.contains(&rest) {
        return None;
    }
    let elsewhere = KNOWN.iter().find(|(_, known)| known.contains(&rest));
    Some(match (elsewhere, nearest(rest, known)) {
        (Some((other, _)), _) => asked(other, rest),
        (None, Some(near)) => asked(domain, near),
        (None, None) => format!("there are {domain}{SUFFIX}/{{{}}}", known.join(", ")),
    })
}

/// Values that cannot be read: on a parent they switch off what belongs together, on a route they take it away.
/// `route`: what the route that has them is for.
fn unreadable(object: &Key, own: &StringMap, route: Option<Requests>, report: &mut Report) {
    let is_route = route.is_some();
    for bad in outbound_annotations::unreadable(own, route) {
        let blamed: Vec<String> = bad
            .blamed
            .iter()
            .map(|(key, value)| format!("{key}: `{}`", short(value)))
            .collect();
        let why = match blamed.as_slice() {
            [] => "they contradict each other".to_owned(),
            blamed => format!("{} cannot be read", blamed.join(", ")),
        };
        let in_force = match bad.what {
            _ if is_route => "and the whole route with them",
            "retry.linkerd.io/*" => "and only what no endpoint has begun is sent again",
            "timeout.linkerd.io/*" => "and no timeout applies",
            "balancer.linkerd.io/failure-accrual*" => "and there is no circuit breaker",
            _ => "and failures count for nothing in the choice of endpoints",
        };
        report.add(
            Severity::Error,
            "annotation-invalid",
            object.clone(),
            format!("annotations {} are ignored, {in_force}: {why}", bad.what),
            bad.fix,
        );
    }
}

fn retries(object: &Key, own: &StringMap, kind: Option<Kind<'_>>, report: &mut Report) {
    let get = |name: &str| own.get(&format!("retry.linkerd.io/{name}"));
    let (http, grpc) = (get("http").is_some(), get("grpc").is_some());
    let (limit, timeout) = (get("limit"), get("timeout").is_some());
    let mut add = |message: &str, fix: &str| {
        let object = object.clone();
        report.add(
            Severity::Warning,
            "retry-without-effect",
            object,
            message,
            fix,
        );
    };
    let is_zero = limit.is_some_and(|text| text.parse() == Ok(0));
    let is_alone = !http && !grpc && !timeout;
    if is_zero && is_alone {
        add(
            "annotation retry.linkerd.io/limit: `0` counts as if it were absent",
            "remove it",
        );
    } else if is_zero {
        add(
            "annotation retry.linkerd.io/limit: `0` counts as if it were absent, and retries are limited to 1",
            "remove all annotations of retries to have none",
        );
    }
    if limit.is_some() && !is_zero && is_alone {
        let (message, fix) = if kind.is_some() {
            (
                "annotation retry.linkerd.io/limit stands alone: no answer is retried, only what finds no endpoint, and \
                 retry.linkerd.io/* of the parent do not count beside it",
                "repeat retry.linkerd.io/http or grpc here",
            )
        } else {
            (
                "annotation retry.linkerd.io/limit stands alone: no answer is retried, only what finds no endpoint",
                "say with retry.linkerd.io/http or grpc what is retried",
            )
        };
        add(message, fix);
    }
    match kind {
        Some(Kind::Http(_)) if grpc && !http => add(
            "annotation retry.linkerd.io/grpc is for gRPC calls, and says nothing of this HTTPRoute's requests",
            "write retry.linkerd.io/http, or a GRPCRoute",
        ),
        Some(Kind::Grpc(_)) if http && !grpc => add(
            "annotation retry.linkerd.io/http is for HTTP statuses, and failed gRPC calls have status 200: it says \
             nothing of this GRPCRoute's calls",
            "write retry.linkerd.io/grpc",
        ),
        _ => {}
    }
}

fn breakers(object: &Key, own: &StringMap, report: &mut Report) {
    const SWITCHES: [&str; 2] = ["penalize-failures", "failure-accrual-honor-retry-after"];
    for switch in SWITCHES {
        let name = format!("balancer.alpha.linkerd.io/{switch}");
        if let Some(value) = own.get(&name)
            && !outbound_annotations::is_switch(value)
        {
            report.add(
                Severity::Error,
                "annotation-invalid",
                object.clone(),
                format!(
                    "annotation {name}: `{}` is not known, and is taken for `false`",
                    short(value)
                ),
                "write \"true\" or \"false\"",
            );
        }
    }
    let mode = own.get("balancer.linkerd.io/failure-accrual");
    let is_unified = mode.is_some_and(|mode| mode == "unified");
    let penalizes = own
        .get(outbound_annotations::PENALIZE)
        .is_some_and(|text| outbound_annotations::is_true(text));
    for name in own.keys() {
        let Some((domain, rest)) = parts(name) else {
            continue;
        };
        let needs = match (domain, rest) {
            ("balancer", rest) if rest.starts_with("failure-accrual-") && mode.is_none() => {
                "balancer.linkerd.io/failure-accrual: consecutive or unified"
            }
            ("balancer.alpha", rest) if rest.starts_with("failure-accrual-") && !is_unified => {
                "balancer.linkerd.io/failure-accrual: unified"
            }
            ("balancer.alpha", rest) if rest.starts_with("load-biaser-") && !penalizes => {
                "balancer.alpha.linkerd.io/penalize-failures: \"true\""
            }
            _ => continue,
        };
        report.add(
            Severity::Warning,
            "annotation-ignored",
            object.clone(),
            format!("annotation {name} has no effect without {needs}"),
            format!("write {needs} beside it, or remove it"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_of_others_are_left_alone() {
        for domain in [
            "config",
            "viz",
            "cli",
            "mirror",
            "multicluster",
            "jaeger",
            "proxy",
        ] {
            for rest in ["http", "limit", "request", "failure-accrual", "enabled"] {
                assert_eq!(unknown_one(domain, rest), None, "{domain} {rest}");
            }
        }
    }

    #[test]
    fn every_known_annotation_is_one_that_the_index_reads() {
        let source = include_str!("../../index/outbound/annotations.rs");
        for (_, known) in KNOWN {
            for name in known {
                let is_read = source.contains(&format!("\"{name}\""))
                    || source.contains(&format!("/{name}\""))
                    || [
                        "failure-accrual-consecutive-",
                        "failure-accrual-success-rate-",
                        "load-biaser-",
                    ]
                    .iter()
                    .filter_map(|prefix| name.strip_prefix(prefix))
                    .any(|rest| source.contains(&format!("(\"{rest}\")")));
                assert!(is_read, "{name}");
            }
        }
    }
}
