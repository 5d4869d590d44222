//! What the destination service says of every meshed endpoint, by configuration (control plane §4.1).

use linkerd2_proxy_api::destination::{
    Http2ClientParams,
    http2_client_params::{FlowControl, Internals, KeepAlive},
};
use serde::Deserialize;
use std::str::FromStr;

/// How meshed endpoints are spoken to.
#[derive(Clone, Debug)]
pub struct Hints {
    /// IPv6 addresses are given out.
    pub has_ipv6: bool,
    /// HTTP/2 between proxies.
    pub has_http2: bool,
    /// Every meshed endpoint is reached by its proxy's port and a transport header, and not opaque ones alone.
    pub has_transport_header: bool,
    /// Endpoints of the client's zone have ten times the weight.
    pub has_zone_weights: bool,
    /// Parameters of HTTP/2 clients.
    pub http2: Option<Http2Params>,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            has_ipv6: true,
            has_http2: true,
            has_transport_header: false,
            has_zone_weights: false,
            http2: None,
        }
    }
}

/// Which meshed endpoints are reached by their proxy's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TransportMode {
    /// Opaque ones.
    Transparent,
    /// All.
    TransportHeader,
}

/// Parameters of HTTP/2 clients, as JSON of the API's message `Http2ClientParams`.
#[derive(Clone, Debug, PartialEq)]
pub struct Http2Params(pub Http2ClientParams);

impl FromStr for Http2Params {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let params: Params = serde_json::from_str(text).map_err(|error| {
            format!(
                "{error}; write for example {{\"keep_alive\":{{\"interval\":{{\"seconds\":10}}}}}}"
            )
        })?;
        Ok(Self(Http2ClientParams {
            flow_control: params.flow_control.filter(says).map(|flow| FlowControl {
                initial_connection_window_size: flow.initial_connection_window_size,
                initial_stream_window_size: flow.initial_stream_window_size,
                adaptive_flow_control: flow.adaptive_flow_control,
            }),
            keep_alive: params.keep_alive.map(|keep| KeepAlive {
                interval: keep.interval.map(Into::into),
                timeout: keep.timeout.map(Into::into),
                while_idle: keep.while_idle,
            }),
            internals: params.internals.filter(says).map(|internals| Internals {
                max_concurrent_reset_streams: internals.max_concurrent_reset_streams,
                max_frame_size: internals.max_frame_size,
                max_send_buf_size: internals.max_send_buf_size,
            }),
        }))
    }
}

/// Whether anything is said: charts have empty maps for what is not.
fn says<T: Default + PartialEq>(part: &T) -> bool {
    *part != T::default()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Params {
    flow_control: Option<Flow>,
    keep_alive: Option<Keep>,
    internals: Option<Inner>,
}

#[derive(Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Flow {
    initial_connection_window_size: u32,
    initial_stream_window_size: u32,
    adaptive_flow_control: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keep {
    interval: Option<Time>,
    timeout: Option<Time>,
    while_idle: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Time {
    seconds: i64,
    nanos: i32,
}

impl From<Time> for prost_types::Duration {
    fn from(Time { seconds, nanos }: Time) -> Self {
        Self { seconds, nanos }
    }
}

#[derive(Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Inner {
    max_concurrent_reset_streams: u32,
    max_frame_size: u32,
    max_send_buf_size: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_find_out_by_pings_that_others_are_gone_unless_operators_choose_otherwise() {
        let http2 = |more: &[&str]| {
            let flags = [&["controller", "--manifests=m"], more].concat();
            let flags = <crate::Flags as clap::Parser>::parse_from(flags);
            crate::Config::from(flags).hints.http2.unwrap().0
        };
        let keep = http2(&[]).keep_alive.unwrap();
        assert_eq!(keep.interval.unwrap().seconds, 10);
        assert_eq!((keep.timeout.unwrap().seconds, keep.while_idle), (3, true));
        assert_eq!(http2(&["--meshed-http2-client-params={}"]).keep_alive, None);
    }

    #[test]
    fn parameters_are_read_as_the_chart_writes_them_and_a_typo_is_named() {
        let text = r#"{"flow_control":{},"internals":{},"keep_alive":{"interval":{"nanos":0,"seconds":10},"timeout":{"seconds":3},"while_idle":true}}"#;
        let params: Http2Params = text.parse().unwrap();
        assert_eq!((params.0.flow_control, params.0.internals), (None, None));
        let keep = params.0.keep_alive.unwrap();
        assert_eq!(keep.interval.unwrap().seconds, 10);
        assert_eq!((keep.timeout.unwrap().seconds, keep.while_idle), (3, true));
        let error = r#"{"keepalive":{}}"#.parse::<Http2Params>().unwrap_err();
        assert!(error.contains("`keepalive`"), "{error}");
    }
}
