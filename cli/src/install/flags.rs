//! Which values flags stand for.

use crate::outcome::Failure;
use linkerd_charts::{Chart, Values};
use serde_json::Value;
use std::{fs, io, path::PathBuf};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct ValueFlags {
    /// Three Pods of each component on different nodes, with requests and limits; webhooks that fail closed.
    #[arg(long)]
    ha: bool,
    /// A value of the chart, by its path: --set proxy.logLevel=debug,controllerReplicas=2
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// As --set; the value is text even if it looks like a number.
    #[arg(long, value_name = "KEY=VALUE")]
    set_string: Vec<String>,
    /// As --set; the value is what is in a file.
    #[arg(long, value_name = "KEY=FILE")]
    set_file: Vec<String>,
    /// A file with values, YAML; `-` is standard input. May be repeated, later ones win.
    #[arg(long = "values", short = 'f', value_name = "FILE")]
    files: Vec<String>,
    /// Trust anchors, PEM. With an issuer of your own; without both the control plane makes them once.
    #[arg(long, value_name = "FILE")]
    identity_trust_anchors_file: Option<PathBuf>,
    /// The issuer's certificate, PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "identity_issuer_key_file",
        requires = "identity_trust_anchors_file"
    )]
    identity_issuer_certificate_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "identity_issuer_certificate_file"
    )]
    identity_issuer_key_file: Option<PathBuf>,
    /// You keep the Secret linkerd-identity-issuer (type kubernetes.io/tls) yourself.
    #[arg(long, conflicts_with = "identity_issuer_certificate_file")]
    identity_external_issuer: bool,
    /// You keep the ConfigMap linkerd-identity-trust-roots yourself.
    #[arg(long, conflicts_with = "identity_trust_anchors_file")]
    identity_external_ca: bool,
    /// Trust domain of identities.
    #[arg(long, value_name = "DOMAIN")]
    identity_trust_domain: Option<String>,
    /// How long the certificates of workloads are valid, such as 24h.
    #[arg(long, value_name = "DURATION")]
    identity_issuance_lifetime: Option<String>,
    /// How far clocks may differ, such as 20s.
    #[arg(long, value_name = "DURATION")]
    identity_clock_skew_allowance: Option<String>,
    /// Domain of the cluster's Service names.
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// A CNI plugin writes the rules that redirect traffic.
    #[arg(long)]
    linkerd_cni_enabled: bool,
    /// Pods of each component.
    #[arg(long, value_name = "NUMBER")]
    controller_replicas: Option<u32>,
    /// What the control plane logs.
    #[arg(long, value_name = "LEVEL")]
    controller_log_level: Option<String>,
    /// Policy of ports that no Server selects.
    #[arg(long, value_name = "POLICY")]
    default_inbound_policy: Option<String>,
    /// What sidecars log.
    #[arg(long, value_name = "FILTER")]
    proxy_log_level: Option<String>,
    /// CPU that sidecars ask for.
    #[arg(long, value_name = "QUANTITY")]
    proxy_cpu_request: Option<String>,
    /// CPU that sidecars are held to.
    #[arg(long, value_name = "QUANTITY")]
    proxy_cpu_limit: Option<String>,
    /// Memory that sidecars ask for.
    #[arg(long, value_name = "QUANTITY")]
    proxy_memory_request: Option<String>,
    /// Memory that sidecars are held to.
    #[arg(long, value_name = "QUANTITY")]
    proxy_memory_limit: Option<String>,
}

impl ValueFlags {
    pub(crate) fn read(&self) -> Result<Values, Failure> {
        let mut values = Values::default();
        self.read_over(&mut values)?;
        Ok(values)
    }

    /// Files first, then flags, then `--set`.
    pub(crate) fn read_over(&self, values: &mut Values) -> Result<(), Failure> {
        if self.ha {
            let text = Chart::ControlPlane.file("values-ha.yaml");
            values.add_yaml("--ha", text).map_err(super::invalid)?;
        }
        for file in &self.files {
            values
                .add_yaml(file, &read(file)?)
                .map_err(super::invalid)?;
        }
        let mut put = |path: &str, value: Value| values.set(path, value).map_err(super::invalid);
        for (path, value) in self.named()? {
            put(path, value)?;
        }
        for (all, as_text) in [(&self.set, false), (&self.set_string, true)] {
            for text in all {
                values.add_set(text, as_text).map_err(super::invalid)?;
            }
        }
        for text in &self.set_file {
            let (path, file) = text
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("--set-file {text}: key=file is wanted")))?;
            values
                .set(path, read(file)?.into())
                .map_err(super::invalid)?;
        }
        Ok(())
    }

    /// The values of flags that have a name of their own.
    fn named(&self) -> Result<Vec<(&'static str, Value)>, Failure> {
        let mut named = Vec::new();
        for (path, file) in [
            ("identityTrustAnchorsPEM", &self.identity_trust_anchors_file),
            (
                "identity.issuer.tls.crtPEM",
                &self.identity_issuer_certificate_file,
            ),
            ("identity.issuer.tls.keyPEM", &self.identity_issuer_key_file),
        ] {
            if let Some(file) = file {
                named.push((path, read(&file.to_string_lossy())?.into()));
            }
        }
        let issuer = self
            .identity_external_issuer
            .then(|| "kubernetes.io/tls".to_owned());
        for (path, text) in [
            ("identity.issuer.scheme", &issuer),
            ("identityTrustDomain", &self.identity_trust_domain),
            (
                "identity.issuer.issuanceLifetime",
                &self.identity_issuance_lifetime,
            ),
            (
                "identity.issuer.clockSkewAllowance",
                &self.identity_clock_skew_allowance,
            ),
            ("clusterDomain", &self.cluster_domain),
            ("controllerLogLevel", &self.controller_log_level),
            ("proxy.defaultInboundPolicy", &self.default_inbound_policy),
            ("proxy.logLevel", &self.proxy_log_level),
            ("proxy.resources.cpu.request", &self.proxy_cpu_request),
            ("proxy.resources.cpu.limit", &self.proxy_cpu_limit),
            ("proxy.resources.memory.request", &self.proxy_memory_request),
            ("proxy.resources.memory.limit", &self.proxy_memory_limit),
        ] {
            named.extend(text.as_ref().map(|text| (path, text.as_str().into())));
        }
        for (path, is_set) in [
            ("identity.externalCA", self.identity_external_ca),
            ("cniEnabled", self.linkerd_cni_enabled),
        ] {
            named.extend(is_set.then_some((path, true.into())));
        }
        named.extend(
            self.controller_replicas
                .map(|number| ("controllerReplicas", number.into())),
        );
        Ok(named)
    }
}

/// A file, or standard input.
pub(crate) fn read(file: &str) -> Result<String, Failure> {
    let text = match file {
        "-" => io::read_to_string(io::stdin()),
        file => fs::read_to_string(file),
    };
    text.map_err(|error| Failure::new(format!("{file}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use linkerd_charts::schema;

    #[test]
    fn flags_stand_for_values_that_there_are() {
        let some = Some("x".to_owned());
        let flags = ValueFlags {
            identity_external_issuer: true,
            identity_external_ca: true,
            identity_trust_domain: some.clone(),
            identity_issuance_lifetime: some.clone(),
            identity_clock_skew_allowance: some.clone(),
            cluster_domain: some.clone(),
            linkerd_cni_enabled: true,
            controller_replicas: Some(2),
            controller_log_level: some.clone(),
            default_inbound_policy: some.clone(),
            proxy_log_level: some.clone(),
            proxy_cpu_request: some.clone(),
            proxy_cpu_limit: some.clone(),
            proxy_memory_request: some.clone(),
            proxy_memory_limit: some,
            ..ValueFlags::default()
        };
        let schema =
            serde_json::from_str(Chart::ControlPlane.file("values.schema.json")).expect("a schema");
        for (path, _) in flags.named().expect("values") {
            let mut at = schema::defaults(&schema);
            for name in path.split('.') {
                at = at.get(name).unwrap_or_else(|| panic!("{path}")).clone();
            }
        }
    }
}
