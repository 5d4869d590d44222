//! Whether a Pod gets a sidecar, and if not, why.

use super::{
    annotations::{Annotations, INJECT},
    pod::Pod,
};
use std::fmt;

/// Why a Pod gets no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// It has the network of its node.
    HostNetwork,
    /// It has one, of this mesh or another.
    SidecarExists,
    /// Nobody asked.
    NotAsked,
    /// It says no.
    Declined,
    /// What it says is neither yes nor no.
    InvalidAtWorkload,
    /// What its namespace says is neither yes nor no.
    InvalidAtNamespace,
    /// There would be no token to prove who it is.
    NoToken,
    /// It is not for Linux.
    NotLinux,
    /// It is not as Pods are, or has what the sidecar would bring under the same name.
    NotUnderstood,
}

impl Skip {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::HostNetwork,
        Self::SidecarExists,
        Self::NotAsked,
        Self::Declined,
        Self::InvalidAtWorkload,
        Self::InvalidAtNamespace,
        Self::NoToken,
        Self::NotLinux,
        Self::NotUnderstood,
    ];

    /// Its name in metrics.
    pub const fn key(self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network_enabled",
            Self::SidecarExists => "sidecar_already_exists",
            Self::NotAsked => "injection_enable_annotation_absent",
            Self::Declined => "injection_disable_annotation_present",
            Self::InvalidAtWorkload => "invalid_inject_annotation_at_workload",
            Self::InvalidAtNamespace => "invalid_inject_annotation_at_ns",
            Self::NoToken => "disabled_automount_service_account_token_account",
            Self::NotLinux => "unsupported_os",
            Self::NotUnderstood => "unsupported_resource",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostNetwork => {
                "hostNetwork is true: the sidecar would take the traffic of the whole node"
            }
            Self::SidecarExists => "it has a sidecar already",
            Self::NotAsked => {
                "neither the namespace nor the Pod has the annotation linkerd.io/inject: enabled"
            }
            Self::Declined => "the Pod has the annotation linkerd.io/inject: disabled",
            Self::InvalidAtWorkload => {
                "the Pod's annotation linkerd.io/inject is none of enabled, ingress, disabled"
            }
            Self::InvalidAtNamespace => {
                "the namespace's annotation linkerd.io/inject is none of enabled, ingress, disabled"
            }
            Self::NoToken => {
                "automountServiceAccountToken is false and identity.serviceAccountTokenProjection is off: there would be no token"
            }
            Self::NotLinux => "the Pod is not for Linux",
            Self::NotUnderstood => {
                "it is no Pod that a sidecar can be added to: its containers, init containers or volumes are not lists of named things, or one has a name of the sidecar's"
            }
        })
    }
}

/// Where injection was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// On the namespace only.
    Namespace,
    /// On the Pod.
    Workload,
}

impl At {
    /// Its name in metrics.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Workload => "workload",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Nothing,
    Yes,
    No,
    Else,
}

fn says(annotations: &Annotations) -> Says {
    match annotations.get(INJECT).map(String::as_str) {
        None => Says::Nothing,
        Some("enabled" | "ingress") => Says::Yes,
        Some("disabled") => Says::No,
        Some(_) => Says::Else,
    }
}

/// Where injection was asked for, or why there is none. `has_tokens`: the sidecar brings its own token.
pub(super) fn decide(namespace: &Annotations, pod: &Pod<'_>, has_tokens: bool) -> Result<At, Skip> {
    let workload = pod.annotations();
    let asked = match (says(namespace), says(&workload)) {
        (_, Says::Else) => return Err(Skip::InvalidAtWorkload),
        (Says::Else, _) => return Err(Skip::InvalidAtNamespace),
        (_, Says::No) => return Err(Skip::Declined),
        (_, Says::Yes) => At::Workload,
        (Says::Yes, Says::Nothing) => At::Namespace,
        (Says::No | Says::Nothing, Says::Nothing) => return Err(Skip::NotAsked),
    };
    if pod.is_on_host_network() {
        return Err(Skip::HostNetwork);
    }
    if pod.has_sidecar() {
        return Err(Skip::SidecarExists);
    }
    if !pod.is_for_linux() {
        return Err(Skip::NotLinux);
    }
    if !pod.is_understood() {
        return Err(Skip::NotUnderstood);
    }
    if !has_tokens && pod.has_no_token() {
        return Err(Skip::NoToken);
    }
    Ok(asked)
}
