//! How policies are written as JSON, for scripts that read what a control plane says. All fields are always there.
//!
//! Times are written as in manifests (`10s`, `250ms`); hosts and identities too (`*.shop.svc`), and ranges of statuses
//! (`500-599`).

use crate::{outbound::RouteBackend, server::HostMatch};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Serialize, Serializer};
use std::{fmt::Display, ops::RangeInclusive, time::Duration};

pub(crate) fn text<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

pub(crate) fn optional_text<S: Serializer>(
    value: &Option<impl Display>,
    to: S,
) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(to)
}

pub(crate) fn texts<S: Serializer>(values: &[impl Display], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(ToString::to_string))
}

/// What is no text is shown as far as it is.
pub(crate) fn bytes<S: Serializer>(value: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&String::from_utf8_lossy(value))
}

pub(crate) fn time<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{value:?}"))
}

pub(crate) fn optional_time<S: Serializer>(
    value: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    value.map(|value| format!("{value:?}")).serialize(to)
}

pub(crate) fn status<S: Serializer>(value: &Option<StatusCode>, to: S) -> Result<S::Ok, S::Error> {
    value.map(|status| status.as_u16()).serialize(to)
}

pub(crate) fn range<S: Serializer>(value: &RangeInclusive<u16>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&as_people_write(value))
}

pub(crate) fn ranges<S: Serializer>(
    values: &[RangeInclusive<u16>],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(as_people_write))
}

fn as_people_write(range: &RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

pub(crate) fn headers<S: Serializer>(
    values: &[(HeaderName, HeaderValue)],
    to: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Header<'a> {
        name: &'a str,
        value: String,
    }
    to.collect_seq(values.iter().map(|(name, value)| Header {
        name: name.as_str(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
    }))
}

pub(crate) fn suffixes<S: Serializer>(values: &[Vec<String>], to: S) -> Result<S::Ok, S::Error> {
    let one = |labels: &Vec<String>| match labels.as_slice() {
        [] => "*".to_owned(),
        labels => format!("*.{}", labels.join(".")),
    };
    to.collect_seq(values.iter().map(one))
}

pub(crate) fn keep_alive<S: Serializer>(
    value: &Option<(Duration, Duration)>,
    to: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct KeepAlive {
        #[serde(serialize_with = "time")]
        interval: Duration,
        #[serde(serialize_with = "time")]
        timeout: Duration,
    }
    let value = value.map(|(interval, timeout)| KeepAlive { interval, timeout });
    value.serialize(to)
}

pub(crate) fn weighed<S: Serializer>(
    values: &[(RouteBackend, u32)],
    to: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Weighed<'a> {
        weight: u32,
        #[serde(flatten)]
        backend: &'a RouteBackend,
    }
    to.collect_seq(values.iter().map(|(backend, weight)| Weighed {
        weight: *weight,
        backend,
    }))
}

pub(crate) fn targets<S: Serializer>(values: &[(String, u32)], to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Target<'a> {
        authority: &'a str,
        weight: u32,
    }
    to.collect_seq(values.iter().map(|(authority, weight)| Target {
        authority,
        weight: *weight,
    }))
}

impl Serialize for HostMatch {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exact(host) => to.serialize_str(host),
            Self::Suffix(labels) => {
                let labels: Vec<&str> = labels.iter().rev().map(String::as_str).collect();
                to.collect_str(&format_args!("*.{}", labels.join(".")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        outbound::{
            Backend, Distribution, Http2Params, Queue, Ref, RetryConditions,
            profile::{Profile, ResponseCondition},
        },
        server::{Authentication, Filter, HeaderModifier, HttpMatch, Redirect, ValueMatch},
    };
    use serde_json::json;

    fn written(value: &impl Serialize) -> serde_json::Value {
        serde_json::to_value(value).unwrap()
    }

    #[test]
    fn values_are_written_as_people_write_them() {
        let hosts = [
            HostMatch::Exact("a.test".into()),
            HostMatch::Suffix(vec!["svc".into(), "shop".into()]),
        ];
        assert_eq!(written(&hosts), json!(["a.test", "*.shop.svc"]));
        let identities = Authentication::Identities {
            exact: vec!["web".into()],
            suffixes: vec![Vec::new(), vec!["a".into(), "b".into()]],
        };
        let wanted = json!({"identities": {"exact": ["web"], "suffixes": ["*", "*.a.b"]}});
        assert_eq!(written(&identities), wanted);
        assert_eq!(written(&Authentication::Unauthenticated), "unauthenticated");
        let value = ValueMatch::Exact(vec![b'a', 0xff]);
        assert_eq!(written(&value), json!({"exact": "a\u{fffd}"}));
        let any = HttpMatch {
            method: Some(http::Method::PUT),
            ..HttpMatch::default()
        };
        assert_eq!(
            written(&any),
            json!({"path": null, "headers": [], "query": [], "method": "PUT"})
        );
        let modifier = HeaderModifier {
            add: vec![("x-a".parse().unwrap(), "1".parse().unwrap())],
            remove: vec!["x-b".parse().unwrap()],
            ..HeaderModifier::default()
        };
        assert_eq!(
            written(&Filter::RequestHeaders(modifier)),
            json!({"request_headers": {"add": [{"name": "x-a", "value": "1"}], "set": [], "remove": ["x-b"]}})
        );
        let redirect = Redirect {
            status: Some(StatusCode::FOUND),
            ..Redirect::default()
        };
        assert_eq!(written(&redirect)["status"], 302);
    }

    #[test]
    fn ranges_times_and_shares_are_written_as_in_manifests() {
        let conditions = RetryConditions {
            statuses: vec![500..=599, 429..=429],
            grpc: vec![14],
        };
        let wanted = json!({"statuses": ["500-599", "429"], "grpc": [14]});
        assert_eq!(written(&conditions), wanted);
        let status = ResponseCondition::Status(500..=503);
        assert_eq!(written(&status), json!({"status": "500-503"}));
        let http2 = Http2Params {
            keep_alive: Some((Duration::from_secs(10), Duration::from_millis(250))),
            ..Http2Params::default()
        };
        let wanted = json!({"interval": "10s", "timeout": "250ms"});
        assert_eq!(written(&http2)["keep_alive"], wanted);
        let backend = RouteBackend {
            backend: Backend {
                meta: Ref::default_named("b"),
                dispatcher: None,
                queue: Queue {
                    capacity: 1,
                    failfast_timeout: Duration::from_secs(3),
                },
            },
            filters: Vec::new(),
            refusal: None,
        };
        let shared = written(&Distribution::RandomAvailable(vec![(backend, 7)]));
        let first = &shared["random_available"][0];
        assert_eq!(first["weight"], 7);
        assert_eq!(
            first["backend"]["queue"],
            json!({"capacity": 1, "failfast_timeout": "3s"})
        );
        let profile = Profile {
            targets: vec![("a.test:80".into(), 10)],
            ..Profile::default()
        };
        let wanted = json!([{"authority": "a.test:80", "weight": 10}]);
        assert_eq!(written(&profile)["targets"], wanted);
    }
}
