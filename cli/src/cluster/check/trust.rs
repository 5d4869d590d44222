//! The issuer, the trust anchors, and the certificates that webhooks are called with.

use super::{Category, Check, Found};
use crate::{
    cluster::{Cluster, text as secret_text, workload::text},
    identity::date,
    outcome::{Failure, plain},
};
use linkerd_tls::{TrustAnchors, ca::Ca, vouches};
use serde_json::Value;
use std::time::{Duration, SystemTime};
use x509_parser::pem::Pem;

/// What ends sooner than this is warned of.
const SOON: Duration = Duration::from_secs(60 * 86_400);
const SECRET: &str = "linkerd-identity-issuer";
const CONFIG_MAP: &str = "linkerd-identity-trust-roots";
/// Keys of the issuer's certificate and key, the chart's own first.
const KEYS: [(&str, &str); 2] = [("crt.pem", "key.pem"), ("tls.crt", "tls.key")];

const READABLE: &str = "certificate config is valid";

/// From when until when a certificate is valid, and whose it is.
#[derive(Debug, PartialEq, Eq)]
struct Dates {
    subject: String,
    begins: SystemTime,
    ends: SystemTime,
}

/// The dates of every certificate of a PEM text.
fn dates(pem: &str) -> Result<Vec<Dates>, String> {
    let mut all = Vec::new();
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|error| format!("the PEM cannot be read: {error}"))?;
        let parsed = block
            .parse_x509()
            .map_err(|error| format!("a certificate cannot be read: {error}"))?;
        let at = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
        };
        all.push(Dates {
            subject: plain(&parsed.subject().to_string()),
            begins: at(parsed.validity().not_before.timestamp()),
            ends: at(parsed.validity().not_after.timestamp()),
        });
    }
    if all.is_empty() {
        return Err("there is no certificate".to_owned());
    }
    Ok(all)
}

/// What is wrong now with each.
fn out_of_date(all: &[Dates], now: SystemTime) -> Vec<String> {
    let wrong = all.iter().filter_map(|one| match () {
        () if one.ends <= now => Some(format!("{} expired {}", one.subject, date(one.ends))),
        () if one.begins > now => Some(format!(
            "{} is not valid before {}",
            one.subject,
            date(one.begins)
        )),
        () => None,
    });
    wrong.collect()
}

/// What ends soon, of what has not ended.
fn ends_soon(all: &[Dates], now: SystemTime) -> Vec<String> {
    let soon = all
        .iter()
        .filter(|one| one.ends > now && one.ends <= now + SOON);
    soon.map(|one| format!("{} ends {}", one.subject, date(one.ends)))
        .collect()
}

pub(super) async fn identity(cluster: &Cluster) -> Result<Category, Failure> {
    let namespace = &cluster.namespace;
    let logs = format!("kubectl -n {namespace} logs deploy/linkerd-identity -c identity");
    let map = cluster.config_map(CONFIG_MAP).await?;
    let anchors = map
        .as_ref()
        .map(|map| text(map, "/data/ca-bundle.crt"))
        .unwrap_or_default();
    let secret = cluster.secret(SECRET).await?;
    let key = |name: &str| {
        secret
            .as_ref()
            .and_then(|secret| secret_text(secret, name))
            .filter(|text| !text.is_empty())
    };
    let pair = KEYS
        .iter()
        .find_map(|(certificate, private)| Some((key(certificate)?, key(private)?)));
    let read = match (&map, anchors, &secret, &pair) {
        (None, ..) => Err(format!("there is no ConfigMap {CONFIG_MAP}")),
        (_, "", ..) => Err(format!(
            "the ConfigMap {CONFIG_MAP} has no ca-bundle.crt yet"
        )),
        (_, _, None, _) => Err(format!("there is no Secret {SECRET}")),
        (_, _, _, None) => Err(format!(
            "the Secret {SECRET} has neither crt.pem and key.pem nor tls.crt and tls.key yet"
        )),
        (_, anchors, _, Some((certificate, private))) => TrustAnchors::from_pem(anchors)
            .map_err(|error| format!("the ConfigMap {CONFIG_MAP}: {error}"))
            .and_then(|_| {
                dates(anchors).map_err(|error| format!("the ConfigMap {CONFIG_MAP}: {error}"))
            })
            .and_then(|roots| {
                let own =
                    dates(certificate).map_err(|error| format!("the Secret {SECRET}: {error}"))?;
                Ok((roots, own, certificate, private))
            }),
    };
    let checks = match read {
        Err(problem) => vec![Check::new(READABLE, Found::not_yet(problem, logs))],
        Ok((roots, own, certificate, private)) => {
            let issued = Ca::load_with_anchors(certificate, private, anchors);
            in_force(
                &roots,
                &own,
                issued.map(drop).map_err(|error| error.to_string()),
                namespace,
            )
        }
    };
    Ok(Category {
        name: "linkerd-identity",
        checks,
    })
}

/// Checks of anchors and of an issuer that can be read.
fn in_force(
    roots: &[Dates],
    own: &[Dates],
    issued: Result<(), String>,
    namespace: &str,
) -> Vec<Check> {
    let now = SystemTime::now();
    let walk = "docs/trust.md: how anchors and issuers are changed without a failed request";
    let ended = out_of_date(roots, now);
    let is_left = ended.len() < roots.len();
    let checks = vec![
        Check::good(READABLE),
        Check::new(
            "trust anchors are within their validity period",
            // One that is valid is enough, while another goes.
            Found::if_none(&ended, |text| {
                if is_left {
                    Found::warning(text, walk)
                } else {
                    Found::error(text, walk)
                }
            }),
        ),
        Check::new(
            "trust anchors are valid for at least 60 days",
            Found::if_none(&ends_soon(roots, now), |text| Found::warning(text, walk)),
        ),
        Check::new(
            "issuer cert is within its validity period",
            Found::if_none(&out_of_date(own, now), |text| Found::error(text, walk)),
        ),
        Check::new(
            "issuer cert is valid for at least 60 days",
            Found::if_none(&ends_soon(own, now), |text| Found::warning(text, walk)),
        ),
        Check::new(
            "issuer cert is issued by the trust anchor",
            match issued {
                Ok(()) => Found::Good,
                Err(error) => Found::error(
                    error,
                    format!(
                        "kubectl -n {namespace} get secret {SECRET} -o jsonpath='{{.data.crt\\.pem}}' | base64 -d > issuer.crt && linkerd identity inspect issuer.crt"
                    ),
                ),
            },
        ),
    ];
    checks
}

/// Names, Secrets and configurations of webhooks.
const WEBHOOKS: [(&str, &str, &str, &str); 3] = [
    (
        "proxy-injector",
        "linkerd-proxy-injector-k8s-tls",
        "mutatingwebhookconfigurations",
        "linkerd-proxy-injector-webhook-config",
    ),
    (
        "sp-validator",
        "linkerd-sp-validator-k8s-tls",
        "validatingwebhookconfigurations",
        "linkerd-sp-validator-webhook-config",
    ),
    (
        "policy-validator",
        "linkerd-policy-validator-k8s-tls",
        "validatingwebhookconfigurations",
        "linkerd-policy-validator-webhook-config",
    ),
];

pub(super) async fn webhooks(cluster: &Cluster) -> Result<Category, Failure> {
    let now = SystemTime::now();
    let mut checks = Vec::new();
    for (name, secret, plural, configuration) in WEBHOOKS {
        let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}/{configuration}");
        let found = cluster.get(&path).await?.unwrap_or_default();
        let held = cluster.secret(secret).await?;
        let certificate = held
            .as_ref()
            .and_then(|held| secret_text(held, "tls.crt"))
            .unwrap_or_default();
        let hooks = found
            .get("webhooks")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let hint = format!(
            "kubectl -n {0} get secret {secret} -o jsonpath='{{.data.tls\\.crt}}' | base64 -d > {name}.crt && linkerd identity inspect {name}.crt; kubectl get {plural} {configuration} -o yaml; linkerd diagnostics controller-metrics | grep webhook_certificate",
            cluster.namespace
        );
        let wrong: Vec<String> = if hooks.is_empty() {
            vec![format!("{configuration} is missing, or has no webhooks")]
        } else {
            hooks
                .iter()
                .filter_map(|hook| judged(hook, secret, &certificate, now).err())
                .collect()
        };
        let what = format!("{name} webhook has valid cert");
        checks.push(Check::new(
            what,
            Found::if_none(&wrong, |text| Found::not_yet(text, hint)),
        ));
        let soon = ends_soon(&dates(&certificate).unwrap_or_default(), now);
        let what = format!("{name} cert is valid for at least 60 days");
        let hint = format!(
            "the control plane makes another in time, unless somebody else keeps it: kubectl -n {} get secret {secret} -o yaml",
            cluster.namespace
        );
        checks.push(Check::new(
            what,
            Found::if_none(&soon, |text| Found::warning(text, hint)),
        ));
        checks.extend(hooks.iter().map(|hook| failing(name, hook)));
    }
    Ok(Category {
        name: "linkerd-webhooks-and-apisvc-tls",
        checks,
    })
}

/// Whether an API server that calls a webhook would trust what it is served with.
fn judged(hook: &Value, secret: &str, certificate: &str, now: SystemTime) -> Result<(), String> {
    if certificate.is_empty() {
        return Err(format!("the Secret {secret} has no tls.crt yet"));
    }
    let service = |field: &str| text(hook, &format!("/clientConfig/service/{field}")).to_owned();
    let name = format!("{}.{}.svc", service("name"), service("namespace"));
    let bundle = hook.pointer("/clientConfig/caBundle").cloned();
    let bundle =
        bundle.and_then(|bundle| serde_json::from_value::<k8s_openapi::ByteString>(bundle).ok());
    let bundle = bundle
        .and_then(|bundle| String::from_utf8(bundle.0).ok())
        .unwrap_or_default();
    if bundle.is_empty() {
        return Err(format!("{} has no caBundle yet", text(hook, "/name")));
    }
    vouches(&bundle, certificate, &name, now).map_err(|error| {
        format!("the caBundle does not vouch for the certificate of the Secret {secret}: {error}")
    })
}

/// What becomes of objects while a webhook is away is not wrong, and worth knowing.
fn failing(name: &str, hook: &Value) -> Check {
    let policy = text(hook, "/failurePolicy");
    let means = match policy {
        "Ignore" => "objects pass unseen while it is away",
        _ => "objects are refused while it is away",
    };
    Check::good(format!(
        "{name} webhook has failurePolicy {policy}: {means}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_say_what_is_over_what_is_to_come_and_what_ends_soon() {
        let day = Duration::from_secs(86_400);
        let now = SystemTime::UNIX_EPOCH + day * 10_000;
        let one = |begins, ends| Dates {
            subject: "CN=a".to_owned(),
            begins,
            ends,
        };
        let over = [one(now - day * 2, now - day)];
        assert!(out_of_date(&over, now)[0].contains("expired"));
        assert!(ends_soon(&over, now).is_empty());
        let to_come = [one(now + day, now + day * 200)];
        assert!(out_of_date(&to_come, now)[0].contains("not valid before"));
        let soon = [one(now - day, now + day * 59)];
        assert!(out_of_date(&soon, now).is_empty());
        assert_eq!(ends_soon(&soon, now).len(), 1);
        assert!(ends_soon(&[one(now - day, now + day * 61)], now).is_empty());
    }
}
