//! Controllers: where they are, how long their streams live, and what stands in for their policy.

use super::{
    reader::Reader,
    value::{Address, AtMost, Limit, Networks},
};
use ipnet::IpNet;
use linkerd_policy::default_policy::DefaultPolicy;
use linkerd_tls::Id;
use std::time::Duration;

/// A controller's address and identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlAddr {
    /// Where it listens; a name is looked up again and again.
    pub addr: Address,
    /// Whom it must prove to be; absent = plaintext, which only a loopback address may have.
    pub identity: Option<Id>,
}

impl ControlAddr {
    /// Reads `<name>_SVC_ADDR` and `<name>_SVC_NAME`, which belong together.
    pub(super) fn read(reader: &Reader<'_>, name: &str, required: bool) -> Option<Self> {
        let (addr_name, id_name) = (format!("{name}_SVC_ADDR"), format!("{name}_SVC_NAME"));
        let addr: Option<Address> = if required {
            reader.required(&addr_name)
        } else {
            reader.optional(&addr_name)
        };
        let identity: Option<Id> = reader.optional(&id_name);
        let addr_is_set = reader.text(&addr_name);
        match addr {
            // A loopback controller is on this host: no identity is expected, and one that is given is not needed.
            Some(addr) if addr.is_loopback() => Some(Self {
                addr,
                identity: None,
            }),
            Some(addr) if identity.is_some() => Some(Self { addr, identity }),
            Some(_) => {
                if reader.text(&id_name).is_none() {
                    reader.error(
                        &id_name,
                        None,
                        format!("is not set, but {addr_name} is no loopback address"),
                        "the controller's identity".into(),
                    );
                }
                None
            }
            None => {
                if addr_is_set.is_none() && !required && reader.text(&id_name).is_some() {
                    reader.error(
                        &addr_name,
                        None,
                        format!("is not set, but {id_name} is"),
                        "both or none of them".into(),
                    );
                }
                None
            }
        }
    }

    /// The limits of streams to this controller: none on loopback.
    pub fn limits(&self, limits: StreamLimits) -> StreamLimits {
        if self.addr.is_loopback() {
            StreamLimits::default()
        } else {
            limits
        }
    }
}

/// Limits of streams; `None` = no limit. `CONTROL_STREAM_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// Until the first message.
    pub initial: Option<Duration>,
    /// Between messages.
    pub idle: Option<Duration>,
    /// In all.
    pub lifetime: Option<Duration>,
}

/// Pauses between attempts: doubled from `min` to `max`, each with up to `jitter` of it on top.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// First pause.
    pub min: Duration,
    /// Longest pause, without jitter.
    pub max: Duration,
    /// Share of a pause drawn at random on top, 0 to 100.
    pub jitter: f64,
}

impl Backoff {
    /// Reads `<side>_CONNECT_EXP_BACKOFF_{MIN,MAX,JITTER}`.
    pub(super) fn read(reader: &Reader<'_>, side: &str, max: Duration) -> Self {
        Self::named(reader, &format!("{side}_CONNECT_EXP_BACKOFF"), max)
    }

    /// Reads `<names>_{MIN,MAX,JITTER}`.
    pub(super) fn named(reader: &Reader<'_>, names: &str, max: Duration) -> Self {
        let name = |end: &str| format!("{names}_{end}");
        let (min_name, max_name, jitter_name) = (name("MIN"), name("MAX"), name("JITTER"));
        let jitter: Option<f64> = reader.optional(&jitter_name);
        if let Some(jitter) = jitter
            && !(0.0..=100.0).contains(&jitter)
        {
            reader.error(
                &jitter_name,
                Some(&jitter.to_string()),
                "is out of range".into(),
                "a number from 0 to 100".into(),
            );
        }
        let default = Self {
            min: Duration::from_millis(100),
            max,
            jitter: jitter.unwrap_or(0.1),
        };
        let set = (reader.text(&min_name), reader.text(&max_name));
        let values: (Option<Duration>, Option<Duration>) =
            (reader.optional(&min_name), reader.optional(&max_name));
        match (set, values) {
            ((None, None), _) => return default,
            ((Some(_), None), _) => {
                let problem = format!("is not set, but {min_name} is");
                reader.error(&max_name, None, problem, "both or none of them".into());
            }
            ((None, Some(_)), _) => {
                let problem = format!("is not set, but {max_name} is");
                reader.error(&min_name, None, problem, "both or none of them".into());
            }
            (_, (Some(min), Some(max))) => {
                if max.is_zero() || min > max {
                    reader.error(
                        &min_name,
                        Some(&format!("{min:?}")),
                        format!("does not fit {max_name} ({max:?})"),
                        "a shortest pause that is at most the longest one, which is above 0".into(),
                    );
                }
                return Self {
                    min,
                    max,
                    jitter: jitter.unwrap_or(0.0),
                };
            }
            _ => {}
        }
        default
    }
}

/// Controllers other than identity's, and tracing.
#[derive(Clone, Debug)]
pub struct Control {
    /// Destination controller.
    pub destination: ControlAddr,
    /// Sent with its lookups.
    pub destination_context: String,
    /// Limits of streams of controllers that are not on loopback.
    pub stream_limits: StreamLimits,
    /// TCP and TLS.
    pub connect_timeout: Duration,
    /// How long the addresses of controllers' names are kept at least and at most, whatever DNS says.
    pub dns_ttl: (Option<Duration>, Option<Duration>),
    /// Where spans go; `None` = tracing off.
    pub tracing: Option<Tracing>,
    /// The one client that may tap.
    pub tap: Option<Id>,
}

/// Span export.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// The collector.
    pub collector: ControlAddr,
    /// Service name of spans.
    pub service_name: Option<String>,
    /// File of `key=value` lines.
    pub attributes_path: Option<String>,
    /// Further `key=value` lines.
    pub extra_attributes: Option<String>,
}

impl Control {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let limit = |name| reader.value::<Limit>(name).0;
        let stream_limits = StreamLimits {
            initial: limit("CONTROL_STREAM_INITIAL_TIMEOUT"),
            idle: limit("CONTROL_STREAM_IDLE_TIMEOUT"),
            lifetime: limit("CONTROL_STREAM_LIFETIME"),
        };
        ordered(reader, stream_limits);
        let dns_ttl = (
            reader.optional("DNS_MIN_TTL"),
            reader.optional("DNS_MAX_TTL"),
        );
        let destination = ControlAddr::read(reader, "DESTINATION", true);
        let collector = ControlAddr::read(reader, "TRACE_COLLECTOR", false);
        let service_name = reader.optional("TRACE_SERVICE_NAME");
        let attributes_path = reader.optional("TRACE_ATTRIBUTES_PATH");
        let extra_attributes = reader.optional("TRACE_EXTRA_ATTRIBUTES");
        Some(Self {
            destination_context: reader.value("DESTINATION_CONTEXT"),
            connect_timeout: reader.value("CONTROL_CONNECT_TIMEOUT"),
            tap: reader.optional("TAP_SVC_NAME"),
            tracing: collector.map(|collector| Tracing {
                collector,
                service_name,
                attributes_path,
                extra_attributes,
            }),
            stream_limits,
            dns_ttl,
            destination: destination?,
        })
    }
}

/// Each limit must not exceed the next.
fn ordered(reader: &Reader<'_>, limits: StreamLimits) {
    let named = [
        ("CONTROL_STREAM_INITIAL_TIMEOUT", limits.initial),
        ("CONTROL_STREAM_IDLE_TIMEOUT", limits.idle),
        ("CONTROL_STREAM_LIFETIME", limits.lifetime),
    ];
    for (i, (name, limit)) in named.iter().enumerate() {
        for (longer, bound) in named.iter().skip(i + 1) {
            if let (Some(limit), Some(bound)) = (limit, bound)
                && limit > bound
            {
                reader.error(
                    name,
                    Some(&format!("{limit:?}")),
                    format!("is longer than {longer} ({bound:?})"),
                    "limits that do not exceed one another in the order initial, idle, lifetime"
                        .into(),
                );
            }
        }
    }
}

/// Inbound policy and its discovery.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The policy controller.
    pub addr: ControlAddr,
    /// Names this workload; sent as it is.
    pub workload: String,
    /// What applies to a port without a policy. `INBOUND_DEFAULT_POLICY`.
    pub default: DefaultPolicy,
    /// Networks of the `cluster-*` defaults.
    pub cluster_networks: Vec<IpNet>,
    /// How long a port's first connection, and readiness, wait for its first policy.
    pub wait_timeout: Duration,
    /// Denies on ports without a policy.
    pub fail_closed: bool,
    /// Readiness waits for listed ports' policies without end.
    pub ready_requires_policy: bool,
    /// Unlisted ports watched at one time.
    pub max_ports: usize,
    /// Between two log lines about the same denial.
    pub denial_log_interval: Duration,
}

impl Policy {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        const DEFAULT: &str = "INBOUND_DEFAULT_POLICY";
        let addr = ControlAddr::read(reader, "POLICY", true);
        let workload: Option<String> = reader.required("POLICY_WORKLOAD");
        let default: Option<DefaultPolicy> = reader.optional(DEFAULT);
        if reader.text(DEFAULT).is_none() {
            reader.warn(
                "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY is not set: ports without a policy admit everybody"
                    .into(),
            );
        }
        let Networks(cluster_networks) = reader.value("POLICY_CLUSTER_NETWORKS");
        let needs_networks = default.is_some_and(DefaultPolicy::needs_cluster_networks);
        if needs_networks && cluster_networks.is_empty() {
            reader.error(
                "POLICY_CLUSTER_NETWORKS",
                reader.text("POLICY_CLUSTER_NETWORKS").as_deref(),
                format!("has no network, but {DEFAULT} needs it"),
                "the cluster's networks between commas, like 10.0.0.0/8,fd00::/8".into(),
            );
        }
        Some(Self {
            wait_timeout: reader.value("POLICY_WAIT_TIMEOUT"),
            fail_closed: reader.value("POLICY_FAIL_CLOSED"),
            ready_requires_policy: reader.value("READY_REQUIRES_POLICY"),
            max_ports: reader.value::<AtMost>("POLICY_MAX_PORTS").0,
            denial_log_interval: reader.value("DENIAL_LOG_INTERVAL"),
            cluster_networks,
            addr: addr?,
            workload: workload?,
            default: default?,
        })
    }
}
