//! What is valid and yet cannot be what its author meant. `linkerd policy lint` and `linkerd check` show it.
//!
//! Findings come from the same functions that answer [`Index::inbound`], so that lint and proxy cannot disagree.

mod authorizations;
mod clusters;
#[cfg(test)]
mod docs;
mod outbound;
mod routes;
mod servers;
mod shadow;
mod workloads;

use crate::{
    index::{Index, Scope, Workload, workload::Settings},
    resource::{Key, Metadata, POLICY_GROUP},
};
use std::{collections::BTreeSet, fmt};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Has no effect at all, or cuts traffic.
    Error,
    /// Probably a mistake.
    Warning,
    /// Worth knowing.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// Something that cannot be what was meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The object.
    pub object: Key,
    /// Name of the check, one of [`CHECKS`].
    pub check: &'static str,
    /// What is the matter.
    pub message: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            severity,
            object,
            check,
            message,
            fix,
        } = self;
        write!(f, "{severity}: {object}: {message} [{check}]\n  fix: {fix}")
    }
}

/// Every check, with what it finds.
pub const CHECKS: &[(&str, &str)] = &[
    ("server-without-workload", "a Server selects no workload"),
    (
        "server-without-port",
        "a Server names a port that no selected workload declares",
    ),
    (
        "server-overlap",
        "several Servers select one port; the oldest keeps it",
    ),
    (
        "server-port-skipped",
        "a Server selects a port that does not pass the proxy",
    ),
    (
        "server-refused",
        "a proxy would refuse the policy of a Server",
    ),
    ("server-denies-everyone", "nobody is authorized on a Server"),
    (
        "authorization-without-target",
        "an authorization names something that does not exist",
    ),
    (
        "authorization-without-client",
        "a ServerAuthorization authorizes nobody",
    ),
    (
        "authentication-missing",
        "an AuthorizationPolicy is left out since an authentication is missing",
    ),
    (
        "authentication-unused",
        "no AuthorizationPolicy refers to an authentication",
    ),
    (
        "rate-limit-without-target",
        "a rate limit names a Server that does not exist or cannot be limited",
    ),
    (
        "rate-limit-overlap",
        "several rate limits name one Server; the oldest counts",
    ),
    (
        "route-without-parent",
        "a route names a Server, Service or EgressNetwork that does not exist",
    ),
    (
        "route-without-port",
        "a route is attached to a port that its Service does not have",
    ),
    (
        "route-without-backend",
        "a route sends to something that does not exist or has no endpoints",
    ),
    (
        "backend-without-port",
        "a route sends to a port that the Service does not have",
    ),
    (
        "route-without-rules",
        "a route of a Service or EgressNetwork has no rules",
    ),
    ("route-sends-nowhere", "all weights of a rule are 0"),
    (
        "route-hidden",
        "a route has no effect: its port speaks something else, an older route comes first, or a ServiceProfile rules",
    ),
    (
        "route-parent-invalid",
        "a route is not read because of how it names its parent, or a part of that is not read",
    ),
    (
        "route-unsupported",
        "a filter is not implemented: inbound the route is not read, outbound its requests fail",
    ),
    (
        "route-field-ignored",
        "a field of a route of a Service or EgressNetwork has no effect",
    ),
    ("route-filter-ignored", "a filter of a route has no effect"),
    (
        "route-wrong-protocol",
        "a route cannot be attached to a Server of this protocol",
    ),
    (
        "route-never-matches",
        "others come before a match and take the same requests",
    ),
    ("route-denies-everyone", "nobody is authorized on a route"),
    ("probe-cut", "a probe of a workload would be refused"),
    (
        "port-denies-everyone",
        "nobody may use a port that a workload declares",
    ),
    (
        "annotation-invalid",
        "an annotation or its value is not known or cannot be read",
    ),
    (
        "annotation-ignored",
        "an annotation has no effect where it stands, or without another",
    ),
    (
        "retry-without-effect",
        "annotations of retries name nothing that would be retried",
    ),
    (
        "timeout-never-reached",
        "a limit is not shorter than the request's, which ends first",
    ),
    (
        "mtls-refuses-endpoint",
        "a Service requires mutual TLS, or identities, that its endpoints do not have",
    ),
    (
        "profile-without-service",
        "a ServiceProfile is of a Service that does not exist",
    ),
    (
        "profile-without-effect",
        "a ServiceProfile has neither routes nor dstOverrides",
    ),
    (
        "profile-retries",
        "isRetryable and retryBudget of a ServiceProfile do not fit together",
    ),
    (
        "split-without-service",
        "a TrafficSplit is of a Service that its namespace does not have",
    ),
    (
        "split-without-backend",
        "a TrafficSplit or a dstOverride sends to a Service that does not exist",
    ),
    (
        "split-without-weight",
        "all weights of a TrafficSplit or of dstOverrides are 0",
    ),
    (
        "split-overlap",
        "several TrafficSplits or dstOverrides split one Service",
    ),
    (
        "egress-network-inside",
        "an EgressNetwork takes addresses of the cluster's own",
    ),
    (
        "egress-network-overlap",
        "an older EgressNetwork has the same networks",
    ),
    (
        "address-conflict",
        "two workloads have one address and port",
    ),
    ("service-without-endpoint", "a Service selects no workload"),
    (
        "cluster-unknown",
        "a Service stands for one of another cluster that cannot be found",
    ),
];

impl Index {
    /// Everything that cannot be what its author meant, the worst first.
    pub fn lint(&self) -> Vec<Finding> {
        self.lint_within(|_| true)
    }

    /// What [`Index::lint`] finds about one object.
    pub fn lint_of(&self, key: &Key) -> Vec<Finding> {
        if key.group == POLICY_GROUP && key.kind == "Server" {
            return self.lint_of_server(key);
        }
        let mut findings = self.lint_within(|namespace| namespace == key.namespace);
        findings.retain(|finding| finding.object == *key);
        findings
    }

    /// A namespace may have thousands of Servers, and admission asks about one.
    fn lint_of_server(&self, key: &Key) -> Vec<Finding> {
        let Some(scope) = self.scope(&key.namespace) else {
            return Vec::new();
        };
        let lint = Lint {
            index: self,
            namespace: &key.namespace,
            scope,
        };
        let mut report = Report(Vec::new());
        if let Some(server) = scope.servers.get(&key.name) {
            servers::check_one(lint, server, &mut report);
        }
        report.sorted()
    }

    fn lint_within(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<Finding> {
        let mut report = Report(Vec::new());
        for (namespace, scope) in self.scopes().filter(|(namespace, _)| is_wanted(namespace)) {
            let lint = Lint {
                index: self,
                namespace,
                scope,
            };
            servers::check(lint, &mut report);
            authorizations::check(lint, &mut report);
            routes::check(lint, &mut report);
            workloads::check(lint, &mut report);
            clusters::check(lint, &mut report);
        }
        outbound::check(self, &mut report);
        workloads::check_addresses(self, &mut report);
        authorizations::check_unused(self, &mut report);
        report.sorted()
    }
}

/// What the checks of one namespace look at.
#[derive(Clone, Copy)]
struct Lint<'a> {
    index: &'a Index,
    namespace: &'a str,
    scope: &'a Scope,
}

impl<'a> Lint<'a> {
    fn settings(self, workload: &'a Workload) -> Settings<'a> {
        Settings {
            cluster: self.index.cluster(),
            part: self.scope.part(),
            workload,
        }
    }
}

struct Report(Vec<Finding>);

impl Report {
    fn sorted(self) -> Vec<Finding> {
        let mut findings = self.0;
        findings.sort();
        findings.dedup();
        findings
    }

    fn add(
        &mut self,
        severity: Severity,
        check: &'static str,
        object: Key,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        debug_assert!(CHECKS.iter().any(|(name, _)| *name == check));
        self.0.push(Finding {
            severity,
            object,
            check,
            message: message.into(),
            fix: fix.into(),
        });
    }
}

fn key(group: &str, kind: &str, metadata: &Metadata) -> Key {
    Key {
        group: group.to_owned(),
        kind: kind.to_owned(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
    }
}

fn policy_key(kind: &str, metadata: &Metadata) -> Key {
    key(POLICY_GROUP, kind, metadata)
}

fn workload_key(workload: &Workload) -> Key {
    match workload {
        Workload::Pod(pod) => key("", "Pod", &pod.metadata),
        Workload::ExternalWorkload(external) => key(
            crate::resource::WORKLOAD_GROUP,
            "ExternalWorkload",
            &external.metadata,
        ),
    }
}

/// A few names for a message: `a, b, c and 7 more`.
fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 3;
    let names: BTreeSet<&str> = names.into_iter().collect();
    let shown: Vec<&str> = names.iter().take(SHOWN).copied().collect();
    let shown = shown.join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests;
