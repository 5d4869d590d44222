//! A Secret that describes another cluster. Source: control plane §4.6.
//!
//! What is in it is used as data: a kubeconfig that would have us run a program, read a file of ours or believe any server is
//! refused. Whoever answers for another cluster decides where requests go.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Config, ResourceExt as _,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::fmt;

/// Type of the Secrets.
pub(super) const TYPE: &str = "mirror.linkerd.io/remote-kubeconfig";
/// Label: the cluster's name, as Services have it.
const NAME: &str = "multicluster.linkerd.io/cluster-name";
const TRUST_DOMAIN: &str = "multicluster.linkerd.io/trust-domain";
const CLUSTER_DOMAIN: &str = "multicluster.linkerd.io/cluster-domain";
/// Key of the data.
const KUBECONFIG: &str = "kubeconfig";

/// Another cluster, as a Secret describes it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Description {
    /// Its name.
    pub(super) name: String,
    /// Trust domain of its identities.
    pub(super) trust_domain: String,
    /// Domain of its Services' names.
    pub(super) cluster_domain: String,
    /// How its API server is reached, YAML. It is a secret.
    kubeconfig: String,
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Description")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The field, as a path.
    pub(super) field: String,
    /// What is wrong with it, and the fix. It quotes nothing of the kubeconfig.
    pub(super) reason: String,
}

fn refusal(field: impl Into<String>, reason: impl Into<String>) -> Refusal {
    Refusal {
        field: field.into(),
        reason: reason.into(),
    }
}

impl Description {
    /// Reads a Secret.
    pub(super) fn read(secret: &Secret) -> Result<Self, Refusal> {
        let label = secret.labels().get(NAME).filter(|name| !name.is_empty());
        let name = label.ok_or_else(|| {
            let fix = "is missing: give it the name of the cluster that this Secret is about";
            refusal(format!("metadata.labels[{NAME}]"), fix)
        })?;
        let domain = |key: &str, what: &str| {
            let found = secret.annotations().get(key);
            let found = found.map(|domain| domain.trim_end_matches('.'));
            let found = found.filter(|domain| !domain.is_empty());
            found.map(str::to_owned).ok_or_else(|| {
                let fix = format!("is missing: give it the {what} of the cluster");
                refusal(format!("metadata.annotations[{key}]"), fix)
            })
        };
        let data = secret.data.as_ref().and_then(|data| data.get(KUBECONFIG));
        let data = data.ok_or_else(|| refusal("data.kubeconfig", "is missing: put one there"))?;
        let kubeconfig = String::from_utf8(data.0.clone());
        let kubeconfig = kubeconfig.map_err(|_| refusal("data.kubeconfig", "is no text: YAML"))?;
        Ok(Self {
            name: name.clone(),
            trust_domain: domain(TRUST_DOMAIN, "trust domain")?,
            cluster_domain: domain(CLUSTER_DOMAIN, "domain")?,
            kubeconfig,
        })
    }

    /// How its API server is reached.
    pub(super) async fn config(&self) -> Result<Config, Refusal> {
        let field = "data.kubeconfig";
        // What the parser says may quote what it read.
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig)
            .map_err(|_| refusal(field, "cannot be read: it must be a kubeconfig, in YAML"))?;
        acts(&kubeconfig)?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        config.map_err(|error| refusal(field, format!("cannot be used: {error}")))
    }
}

/// Refuses what is more than data.
fn acts(kubeconfig: &Kubeconfig) -> Result<(), Refusal> {
    let refused = |is_there: bool, at: String, fix: &str| match is_there {
        true => Err(refusal(format!("data.kubeconfig: {at}"), fix)),
        false => Ok(()),
    };
    let token = "not run in a control plane: put a token in users[].user.token";
    let inline = "names a file, which is not read: put its content in the field with -data";
    for (at, user) in kubeconfig.auth_infos.iter().enumerate() {
        let Some(user) = &user.auth_info else {
            continue;
        };
        let field = |name: &str| format!("users[{at}].user.{name}");
        refused(user.exec.is_some(), field("exec"), token)?;
        refused(user.auth_provider.is_some(), field("auth-provider"), token)?;
        let file = "names a file, which is not read: put a token in users[].user.token";
        refused(user.token_file.is_some(), field("tokenFile"), file)?;
        refused(
            user.client_certificate.is_some(),
            field("client-certificate"),
            inline,
        )?;
        refused(user.client_key.is_some(), field("client-key"), inline)?;
    }
    for (at, cluster) in kubeconfig.clusters.iter().enumerate() {
        let Some(cluster) = &cluster.cluster else {
            continue;
        };
        let field = |name: &str| format!("clusters[{at}].cluster.{name}");
        refused(
            cluster.certificate_authority.is_some(),
            field("certificate-authority"),
            inline,
        )?;
        let trust = "any server would be believed, and could say where requests go: put the API server's CA in certificate-authority-data";
        refused(
            cluster.insecure_skip_tls_verify == Some(true),
            field("insecure-skip-tls-verify"),
            trust,
        )?;
        let server = cluster.server.as_deref().unwrap_or_default();
        refused(
            !server.starts_with("https://"),
            field("server"),
            "https:// is needed: over plaintext anybody on the way could say where requests go",
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const GOOD: &str = "
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'https://west.test:6443'}}]
users: [{name: u, user: {token: secret-token}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
";

    fn secret(change: impl FnOnce(&mut serde_json::Value)) -> Secret {
        let mut secret = json!({
            "metadata": {
                "name": "west", "namespace": "linkerd",
                "labels": {NAME: "west"},
                "annotations": {TRUST_DOMAIN: "west.test", CLUSTER_DOMAIN: "west.local."},
            },
            "type": TYPE,
        });
        change(&mut secret);
        let mut secret: Secret = serde_json::from_value(secret).unwrap();
        let data = k8s_openapi::ByteString(GOOD.into());
        secret.data = Some([(KUBECONFIG.to_owned(), data)].into());
        secret
    }

    async fn refused(text: &str) -> Refusal {
        let mut secret = secret(|_| {});
        let data = k8s_openapi::ByteString(text.into());
        secret.data = Some([(KUBECONFIG.to_owned(), data)].into());
        let description = Description::read(&secret).unwrap();
        description.config().await.unwrap_err()
    }

    #[tokio::test]
    async fn a_secret_describes_a_cluster_and_its_text_is_not_shown() {
        let west = Description::read(&secret(|_| {})).unwrap();
        assert_eq!(west.name, "west");
        assert_eq!(west.trust_domain, "west.test");
        assert_eq!(west.cluster_domain, "west.local");
        assert_eq!(format!("{west:?}"), r#"Description { name: "west", .. }"#);
        let config = west.config().await.unwrap();
        assert_eq!(config.cluster_url.to_string(), "https://west.test:6443/");
    }

    #[test]
    fn what_is_missing_is_named() {
        let field = |change: fn(&mut serde_json::Value)| {
            let refusal = Description::read(&secret(change)).unwrap_err();
            assert!(refusal.reason.starts_with("is missing: give it the "));
            refusal.field
        };
        let (labels, annotations) = ("metadata.labels", "metadata.annotations");
        assert_eq!(
            field(|s| s["metadata"]["labels"] = json!({})),
            format!("{labels}[{NAME}]")
        );
        assert_eq!(
            field(|s| s["metadata"]["annotations"] = json!({CLUSTER_DOMAIN: "x"})),
            format!("{annotations}[{TRUST_DOMAIN}]")
        );
        assert_eq!(
            field(|s| s["metadata"]["annotations"] = json!({TRUST_DOMAIN: "x"})),
            format!("{annotations}[{CLUSTER_DOMAIN}]")
        );
        let mut empty = secret(|_| {});
        empty.data = None;
        let refusal = Description::read(&empty).unwrap_err();
        assert_eq!(refusal.field, "data.kubeconfig");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_more_than_data_is_refused_by_field() {
        for (from, to, field) in [
            (
                "token: secret-token",
                "exec: {command: sh, apiVersion: client.authentication.k8s.io/v1}",
                "users[0].user.exec",
            ),
            (
                "token: secret-token",
                "auth-provider: {name: gcp, config: {}}",
                "users[0].user.auth-provider",
            ),
            (
                "token: secret-token",
                "tokenFile: /etc/passwd",
                "users[0].user.tokenFile",
            ),
            (
                "token: secret-token",
                "client-certificate: /etc/passwd",
                "users[0].user.client-certificate",
            ),
            (
                "token: secret-token",
                "client-key: /etc/passwd",
                "users[0].user.client-key",
            ),
            (
                "server:",
                "certificate-authority: /etc/passwd, server:",
                "clusters[0].cluster.certificate-authority",
            ),
            (
                "server:",
                "insecure-skip-tls-verify: true, server:",
                "clusters[0].cluster.insecure-skip-tls-verify",
            ),
            ("https://", "http://", "clusters[0].cluster.server"),
        ] {
            let refusal = refused(&GOOD.replace(from, to)).await;
            assert_eq!(
                refusal.field,
                format!("data.kubeconfig: {field}"),
                "{}",
                refusal.reason
            );
        }
        let broken = refused("users: secret-token: [").await;
        assert!(!broken.reason.contains("secret-token"), "{}", broken.reason);
        let nothing = refused(&GOOD.replace("current-context: x", "")).await;
        assert!(
            nothing.reason.starts_with("cannot be used: "),
            "{}",
            nothing.reason
        );
    }
}
