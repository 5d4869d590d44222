//! What the schemas and the admission webhook refuse in routes.
//!
//! Where the webhook has a text of its own, the reason starts with exactly that text.

use super::Problem;
use crate::{
    index::{
        self,
        outbound_annotations::{Requests, fix_on_route},
    },
    matchers::value::RegexBudget,
    resource::{HttpRoute, Metadata, POLICY_GROUP, RouteGroup, route::*, values::short},
    server::ValueMatch,
};
use http::{HeaderName, HeaderValue};
use std::str::FromStr;

/// Most matches of all rules of a route together, as the Gateway API has it.
const MAX_MATCHES: usize = 128;

pub(super) fn refuse<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::new(field, reason))
}

/// As [`refuse`], for what every admission of the mesh refuses.
pub(super) fn forbid<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Problem> {
    Err(Problem {
        is_rule: true,
        ..Problem::new(field, reason)
    })
}

fn at_most<T>(field: &str, list: &[T], most: usize) -> Result<(), Problem> {
    if list.len() <= most {
        return Ok(());
    }
    refuse(
        field,
        format!("{} are more than {most}; split the route", list.len()),
    )
}

fn total_matches(total: usize) -> Result<(), Problem> {
    if total <= MAX_MATCHES {
        return Ok(());
    }
    let reason =
        format!("{total} matches of all rules are more than {MAX_MATCHES}; split the route");
    refuse("spec.rules", reason)
}

/// HTTPRoute of either group.
pub(super) fn http(route: &HttpRoute) -> Result<(), Problem> {
    let spec = &route.spec;
    let is_policy = route.group == RouteGroup::Policy;
    parents(route.group, &spec.parent_refs)?;
    outbound_annotations(
        &route.metadata,
        route.group,
        &spec.parent_refs,
        Requests::Http,
    )?;
    hostnames(&spec.hostnames)?;
    at_most("spec.rules", &spec.rules, 16)?;
    total_matches(spec.rules.iter().map(|r| r.matches.len()).sum())?;
    let mut regexes = RegexBudget::default();
    for (i, rule) in spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{i}]");
        let most = if is_policy { 8 } else { 64 };
        at_most(&format!("{field}.matches"), &rule.matches, most)?;
        for (j, each) in rule.matches.iter().enumerate() {
            http_match(&format!("{field}.matches[{j}]"), each, &mut regexes)?;
        }
        filters(&field, &rule.filters, is_policy)?;
        backends(&field, &rule.backend_refs, is_policy)?;
        if let Some(timeouts) = rule.timeouts.as_ref().filter(|_| is_policy) {
            check_timeouts(&format!("{field}.timeouts"), timeouts)?;
        }
    }
    Ok(())
}

/// GRPCRoute.
pub(super) fn grpc(metadata: &Metadata, spec: &GrpcRouteSpec) -> Result<(), Problem> {
    parents(RouteGroup::Gateway, &spec.parent_refs)?;
    let group = RouteGroup::Gateway;
    outbound_annotations(metadata, group, &spec.parent_refs, Requests::Grpc)?;
    hostnames(&spec.hostnames)?;
    at_most("spec.rules", &spec.rules, 16)?;
    total_matches(spec.rules.iter().map(|r| r.matches.len()).sum())?;
    let mut regexes = RegexBudget::default();
    for (i, rule) in spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{i}]");
        at_most(&format!("{field}.matches"), &rule.matches, 64)?;
        for (j, each) in rule.matches.iter().enumerate() {
            let field = format!("{field}.matches[{j}]");
            if let Some(method) = &each.method {
                grpc_method(&format!("{field}.method"), method)?;
            }
            named(
                &format!("{field}.headers"),
                &each.headers,
                true,
                &mut regexes,
            )?;
        }
        filters(&field, &rule.filters, false)?;
        backends(&field, &rule.backend_refs, false)?;
    }
    Ok(())
}

fn grpc_method(field: &str, method: &GrpcMethodMatch) -> Result<(), Problem> {
    if method.kind == ValueType::RegularExpression {
        return forbid(
            format!("{field}.type"),
            "unsupported GRPCRoute method match type; write Exact",
        );
    }
    let empty = |part: &Option<String>| part.as_deref().unwrap_or_default().is_empty();
    if empty(&method.service) && empty(&method.method) {
        return refuse(field, "needs service, method or both");
    }
    for (part, text) in [("service", &method.service), ("method", &method.method)] {
        let text = text.as_deref().unwrap_or_default();
        if text.contains('/') || text.len() > 1024 {
            let reason = format!("`{}` is not a name; write it without `/`", short(text));
            return refuse(format!("{field}.{part}"), reason);
        }
    }
    Ok(())
}

fn parents(group: RouteGroup, parents: &[ParentRef]) -> Result<(), Problem> {
    at_most("spec.parentRefs", parents, 32)?;
    for (i, parent) in parents.iter().enumerate() {
        if parent.port == Some(0) {
            let field = format!("spec.parentRefs[{i}].port");
            return refuse(field, "port 0 does not exist; write 1 to 65535");
        }
        if parent.port.is_none() && parent.is(group, POLICY_GROUP, "EgressNetwork") {
            let text = "cannot target an EgressNetwork without specifying a port; add it";
            return forbid(format!("spec.parentRefs[{i}].port"), text);
        }
    }
    Ok(())
}

pub(super) fn hostnames(hostnames: &[String]) -> Result<(), Problem> {
    at_most("spec.hostnames", hostnames, 16)?;
    for (i, host) in hostnames.iter().enumerate() {
        if host.len() > 253 || !is_host_name(host.strip_prefix("*.").unwrap_or(host)) {
            let reason = format!(
                "`{}` is not a host name; write it in lower case without a port, `*.` may precede it",
                short(host)
            );
            return refuse(format!("spec.hostnames[{i}]"), reason);
        }
    }
    Ok(())
}

fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn http_match(field: &str, each: &HttpMatch, regexes: &mut RegexBudget) -> Result<(), Problem> {
    if let Some(path) = &each.path {
        let field = format!("{field}.path.value");
        if path.value.len() > 1024 {
            return refuse(field, "is longer than 1024 bytes");
        }
        match path.kind {
            PathType::RegularExpression => {
                let built = regexes.path(&path.value);
                built.map(drop).or_else(|reason| forbid(field, reason))?;
            }
            PathType::Exact | PathType::PathPrefix if !path.value.starts_with('/') => {
                let reason = format!(
                    "HttpPathMatch paths must be absolute (begin with `/`); got `{}`",
                    short(&path.value)
                );
                return forbid(field, reason);
            }
            _ => {}
        }
    }
    named(&format!("{field}.headers"), &each.headers, true, regexes)?;
    named(
        &format!("{field}.queryParams"),
        &each.query_params,
        false,
        regexes,
    )
}

fn named(
    field: &str,
    list: &[NamedMatch],
    header: bool,
    regexes: &mut RegexBudget,
) -> Result<(), Problem> {
    at_most(field, list, 16)?;
    for (i, each) in list.iter().enumerate() {
        if header {
            header_name(&format!("{field}[{i}].name"), &each.name)?;
        } else if each.name.is_empty() {
            return refuse(format!("{field}[{i}].name"), "must not be empty");
        }
        if each.value.len() > 4096 {
            return refuse(format!("{field}[{i}].value"), "is longer than 4096 bytes");
        }
        if each.kind == ValueType::RegularExpression {
            value_regex(&format!("{field}[{i}].value"), &each.value, regexes)?;
        }
    }
    Ok(())
}

/// Compiles a value's expression as a proxy would, within what is left for the route.
fn value_regex(field: &str, pattern: &str, regexes: &mut RegexBudget) -> Result<(), Problem> {
    let value = ValueMatch::Regex(pattern.to_owned());
    let built = regexes.value(&value);
    built.map(drop).or_else(|reason| forbid(field, reason))
}

fn header_name(field: &str, name: &str) -> Result<(), Problem> {
    match HeaderName::from_str(name) {
        Ok(_) => Ok(()),
        Err(_) => {
            let reason = format!("`{}` is not a header name", short(name));
            forbid(field, format!("{reason}; use letters, digits and `-`"))
        }
    }
}

/// Filter types of the Gateway API; the policy group knows the first two only.
const FILTERS: [&str; 8] = [
    "RequestHeaderModifier",
    "RequestRedirect",
    "ResponseHeaderModifier",
    "RequestMirror",
    "URLRewrite",
    "ExtensionRef",
    "CORS",
    "ExternalAuth",
];

fn filters(rule: &str, filters: &[RouteFilter], is_policy: bool) -> Result<(), Problem> {
    let list = format!("{rule}.filters");
    at_most(&list, filters, 16)?;
    let known = FILTERS
        .get(..if is_policy { 2 } else { 8 })
        .unwrap_or_default();
    for (i, filter) in filters.iter().enumerate() {
        let field = format!("{list}[{i}]");
        let kind = filter.kind.as_str();
        if !known.contains(&kind) {
            let reason = super::complain::unknown("filter type", kind, known);
            return refuse(format!("{field}.type"), reason);
        }
        let part = match kind {
            "RequestHeaderModifier" => "requestHeaderModifier",
            "RequestRedirect" => "requestRedirect",
            _ => continue,
        };
        match (&filter.request_header_modifier, &filter.request_redirect) {
            (Some(modifier), None) if part == "requestHeaderModifier" => {
                modifies(&format!("{field}.{part}"), modifier)?;
            }
            (None, Some(redirect)) if part == "requestRedirect" => {
                redirects(&format!("{field}.{part}"), redirect)?;
            }
            _ => {
                let reason = format!("type {kind} needs the field {part}, and no other");
                return refuse(field, reason);
            }
        }
    }
    Ok(())
}

fn modifies(field: &str, modifier: &HeaderModifier) -> Result<(), Problem> {
    for (part, list) in [("add", &modifier.add), ("set", &modifier.set)] {
        let field = format!("{field}.{part}");
        at_most(&field, list, 16)?;
        for (i, header) in list.iter().enumerate() {
            header_name(&format!("{field}[{i}].name"), &header.name)?;
            if HeaderValue::from_str(&header.value).is_err() {
                let reason = format!("`{}` is not a header value", short(&header.value));
                return refuse(
                    format!("{field}[{i}].value"),
                    format!("{reason}; use visible ASCII"),
                );
            }
        }
    }
    at_most(&format!("{field}.remove"), &modifier.remove, 16)?;
    for (i, name) in modifier.remove.iter().enumerate() {
        header_name(&format!("{field}.remove[{i}]"), name)?;
    }
    Ok(())
}

fn redirects(field: &str, redirect: &Redirect) -> Result<(), Problem> {
    if !matches!(
        redirect.status_code,
        None | Some(301 | 302 | 303 | 307 | 308)
    ) {
        return refuse(format!("{field}.statusCode"), "write 301 or 302");
    }
    if let Some(host) = redirect
        .hostname
        .as_deref()
        .filter(|host| !is_host_name(host))
    {
        let host = short(host);
        let reason = format!("`{host}` is not a host name; write it in lower case without a port");
        return refuse(format!("{field}.hostname"), reason);
    }
    if redirect.port == Some(0) {
        return refuse(
            format!("{field}.port"),
            "port 0 does not exist; write 1 to 65535",
        );
    }
    let Some(path) = &redirect.path else {
        return Ok(());
    };
    let value = match path.kind {
        RedirectPathType::ReplaceFullPath => &path.replace_full_path,
        RedirectPathType::ReplacePrefixMatch => &path.replace_prefix_match,
    };
    let Some(value) = value else {
        let text =
            "RequestRedirect filter must contain either replace_full_path or replace_prefix_match";
        return forbid(format!("{field}.path"), format!("{text}, as its type says"));
    };
    if !value.starts_with('/') {
        let text = "RequestRedirect filters may only contain absolute paths (starting with '/')";
        return forbid(
            format!("{field}.path"),
            format!("{text}; got `{}`", short(value)),
        );
    }
    Ok(())
}

pub(super) fn backends(
    rule: &str,
    backends: &[BackendRef],
    is_policy: bool,
) -> Result<(), Problem> {
    let list = format!("{rule}.backendRefs");
    at_most(&list, backends, 16)?;
    for (i, backend) in backends.iter().enumerate() {
        let field = format!("{list}[{i}]");
        let kind = backend.kind.as_deref().unwrap_or("Service");
        let group = backend.group.as_deref().unwrap_or_default();
        let is_service = kind.eq_ignore_ascii_case("Service")
            && (group.is_empty() || group.eq_ignore_ascii_case("core"));
        if !is_policy && is_service && backend.port.unwrap_or(0) == 0 {
            let text = "invalid backendRef: cannot reference a Service without a port; add it";
            return forbid(format!("{field}.port"), text);
        }
        if backend.port.is_some_and(|p| p > 65_535) {
            return refuse(format!("{field}.port"), "write 1 to 65535");
        }
        if backend.weight.is_some_and(|w| w > 1_000_000) {
            return refuse(format!("{field}.weight"), "write 0 to 1000000");
        }
    }
    Ok(())
}

fn check_timeouts(field: &str, timeouts: &Timeouts) -> Result<(), Problem> {
    let read = |name: &str, text: &Option<String>| -> Result<Option<f64>, Problem> {
        let Some(text) = text else { return Ok(None) };
        let Some(seconds) = go_duration(text) else {
            let reason = format!(
                "`{}` is not a duration; write for example `10s`",
                short(text)
            );
            return refuse(format!("{field}.{name}"), reason);
        };
        if seconds < 0.0 {
            let called = if name == "request" {
                "request"
            } else {
                "backendRequest"
            };
            return refuse(
                format!("{field}.{name}"),
                format!("{called} timeout must not be negative; got {}", short(text)),
            );
        }
        Ok(Some(seconds))
    };
    let backend = read("backendRequest", &timeouts.backend_request)?;
    let request = read("request", &timeouts.request)?;
    match (backend, request) {
        // A request timeout of 0 is none.
        (Some(b), Some(r)) if r > 0.0 && b > r => {
            let text = |t: &Option<String>| short(t.as_deref().unwrap_or_default());
            let reason = format!(
                "backendRequest timeout ({}) must not be greater than request timeout ({})",
                text(&timeouts.backend_request),
                text(&timeouts.request)
            );
            refuse(format!("{field}.backendRequest"), reason)
        }
        _ => Ok(()),
    }
}

/// Retry and timeout annotations count on routes of a Service or an EgressNetwork, and must be readable there.
fn outbound_annotations(
    metadata: &Metadata,
    group: RouteGroup,
    parents: &[ParentRef],
    requests: Requests,
) -> Result<(), Problem> {
    if !parents
        .iter()
        .any(|parent| index::named(group, parent).is_some())
    {
        return Ok(());
    }
    for (key, value) in &metadata.annotations {
        if let Some(fix) = fix_on_route(key, value, requests) {
            let reason = format!("`{}` is not valid here; write {fix}", short(value));
            return forbid(format!("metadata.annotations[{key}]"), reason);
        }
    }
    Ok(())
}

/// Seconds of a Go duration such as `1h2m3.5s`, `-5ms` or `0`.
pub(crate) fn go_duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(letters)?;
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    Some(sign * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read_as_go_does() {
        for (text, seconds) in [
            ("10s", Some(10.0)),
            ("1h2m3.5s", Some(3723.5)),
            ("-5ms", Some(-0.005)),
            ("0", Some(0.0)),
            ("", None),
            ("10", None),
            ("s", None),
            ("1.2.3s", None),
            ("10 s", None),
        ] {
            assert_eq!(go_duration(text), seconds, "{text}");
        }
    }
}
