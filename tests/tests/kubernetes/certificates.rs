//! Certificates of webhooks that the control plane makes, with the API server that must believe them.

use crate::{
    control_plane::{ControlPlane, on_this_host},
    policy::{namespace, server},
    server::ApiServer,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use linkerd_tests::{LIMIT, eventually, within};
use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};

const SECRET: &str = "/api/v1/namespaces/linkerd/secrets/linkerd-policy-validator-k8s-tls";
const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/linkerd-policy-validator-webhook-config";
const NAME: &str = "linkerd-policy-validator.linkerd.svc";

/// A configuration as a chart renders it, without a `caBundle`, and the Service that it names: on this host.
fn chart(plane: &ControlPlane) -> [Value; 2] {
    let service = on_this_host("linkerd-policy-validator");
    let port = plane.webhook.port();
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "linkerd-policy-validator-webhook-config"},
        "webhooks": [{
            "name": "linkerd-policy-validator.linkerd.io",
            "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "clientConfig": {"service": {
                "namespace": "linkerd", "name": "linkerd-policy-validator", "path": "/", "port": port,
            }},
            "rules": [{
                "operations": ["CREATE", "UPDATE"], "apiVersions": ["*"],
                "apiGroups": ["policy.linkerd.io"], "resources": ["servers"],
            }],
        }],
    });
    [service, configuration]
}

async fn start() -> Option<ApiServer> {
    let api = ApiServer::start().await?;
    for name in ["shop", "linkerd"] {
        api.apply(&namespace(name)).await;
    }
    Some(api)
}

fn decoded(value: &Value) -> String {
    let bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A key of the webhook's Secret.
async fn secret(api: &ApiServer, key: &str) -> Option<String> {
    let secret = api.get(SECRET).await?;
    let text = &secret["data"][key];
    text.is_string().then(|| decoded(text))
}

async fn bundle(api: &ApiServer) -> Option<String> {
    let configuration = api.get(CONFIGURATION).await?;
    let bundle = &configuration["webhooks"][0]["clientConfig"]["caBundle"];
    bundle.is_string().then(|| decoded(bundle))
}

/// The certificate that a webhook shows to who believes `authorities`.
async fn shown(plane: &ControlPlane, authorities: &str) -> Option<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(plane.webhook).await.ok()?;
    let name = ServerName::try_from(NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = stream.await.ok()?;
    let (_, session) = stream.get_ref();
    Some(session.peer_certificates()?.first()?.to_vec())
}

/// An alert that a version is not spoken (RFC 8446 §6.2: fatal, `protocol_version`), in its record.
pub(crate) const TOO_OLD: [u8; 7] = [21, 3, 3, 0, 2, 2, 70];

/// What a webhook answers to a client that speaks TLS 1.2 (RFC 5246) and nothing newer, and otherwise suits it.
pub(crate) async fn answer_to_tls_1_2(webhook: SocketAddr) -> [u8; 7] {
    let extensions: [&[u8]; 4] = [
        // server_name: no hint of whose.
        &[
            0, 0, 0, 14, 0, 12, 0, 0, 9, b'l', b'o', b'c', b'a', b'l', b'h', b'o', b's', b't',
        ],
        // supported_groups: x25519, secp256r1; ec_point_formats: uncompressed; signature_algorithms: ecdsa_secp256r1_sha256.
        &[0, 10, 0, 6, 0, 4, 0, 29, 0, 23],
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 4, 0, 2, 4, 3],
    ];
    let extensions = extensions.concat();
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session; TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; no compression.
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    hello.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    hello.extend(extensions);
    let length = u16::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1];
    record.extend((length + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(length.to_be_bytes());
    record.extend(hello);
    let mut stream = TcpStream::connect(webhook).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut answer = [0; 7];
    within("an answer", stream.read_exact(&mut answer))
        .await
        .unwrap();
    answer
}

fn certificate(pem: &str) -> Vec<u8> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    certificate.to_vec()
}

/// Whether the webhook judges: it refuses a Server that cannot be used, by its own words.
async fn judges(api: &ApiServer) -> bool {
    let bad = server("bad", &json!({"proxyProtocol": "HTTP/7"}));
    let refused = api.try_apply(&bad).await.unwrap_err().to_string();
    refused.contains("spec.proxyProtocol")
}

#[tokio::test]
async fn two_control_planes_make_one_certificate_and_the_api_server_believes_both() {
    let Some(api) = start().await else {
        return;
    };
    let planes =
        [(); 2].map(|()| ControlPlane::spawn_with(api.kubeconfig(), &["--webhook-certificates"]));
    let [one, two] = &planes;
    let authorities = eventually("the Secret", async || secret(&api, "ca.crt").await).await;
    let made = certificate(&secret(&api, "tls.crt").await.unwrap());
    for plane in &planes {
        let shown = eventually("a certificate", async || shown(plane, &authorities).await).await;
        assert_eq!(shown, made, "the Secret's");
    }
    assert_eq!(answer_to_tls_1_2(one.webhook).await, TOO_OLD);
    // A configuration that comes later, as a chart has it.
    for plane in [one, two] {
        for object in chart(plane) {
            api.apply(&object).await;
        }
        eventually("the caBundle", async || {
            (bundle(&api).await? == authorities).then_some(())
        })
        .await;
        eventually("a verdict", async || judges(&api).await.then_some(())).await;
    }
    // Somebody writes another one.
    let mut wrong = chart(two)[1].clone();
    let other = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
    wrong["webhooks"][0]["clientConfig"]["caBundle"] = STANDARD.encode(other.cert.pem()).into();
    api.apply(&wrong).await;
    eventually("the caBundle again", async || {
        (bundle(&api).await? == authorities).then_some(())
    })
    .await;
    assert_eq!(
        secret(&api, "ca.crt").await.unwrap(),
        authorities,
        "made once"
    );
    let (_, metrics) = one.page("/metrics").await.unwrap();
    for service in ["linkerd-policy-validator", "linkerd-sp-validator"] {
        let line = format!(
            "controller_webhook_certificate_expiration_timestamp_seconds{{service=\"{service}\"}}"
        );
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test]
async fn a_certificate_is_made_anew_in_time_and_no_review_fails_meanwhile() {
    let Some(api) = start().await else {
        return;
    };
    let flags = [
        "--webhook-certificates",
        "--webhook-certificate-lifetime-seconds=45",
    ];
    // Empty, as a chart renders it.
    let annotations = json!({"linkerd.io/created-by": "linkerd/controller"});
    let metadata = json!({
        "name": "linkerd-policy-validator-k8s-tls", "namespace": "linkerd", "annotations": annotations,
    });
    api.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata}))
        .await;
    let planes = [(); 2].map(|()| ControlPlane::spawn_with(api.kubeconfig(), &flags));
    for object in chart(&planes[0]) {
        api.apply(&object).await;
    }
    let first = eventually("the first certificate", async || {
        let text = secret(&api, "tls.crt").await?;
        (bundle(&api).await? == secret(&api, "ca.crt").await?).then_some(text)
    })
    .await;
    eventually("a verdict", async || {
        let bad = server("bad", &json!({"proxyProtocol": "HTTP/7"}));
        let refused = api.try_apply(&bad).await.unwrap_err().to_string();
        refused.contains("spec.proxyProtocol").then_some(())
    })
    .await;
    let old = certificate(&first);
    // The other one may have begun later.
    let authorities = secret(&api, "ca.crt").await.unwrap();
    for plane in &planes {
        eventually("a certificate", async || shown(plane, &authorities).await).await;
    }
    // Until each of them shows another one, every review is answered.
    let mut reviews = 0;
    let renewed = async {
        let mut lacking = vec![&planes[0], &planes[1]];
        while !lacking.is_empty() {
            assert!(judges(&api).await, "review {reviews}");
            reviews += 1;
            let authorities = secret(&api, "ca.crt").await.unwrap();
            let mut still = Vec::new();
            for plane in lacking {
                let shown = shown(plane, &authorities).await;
                if shown.expect("one that the Secret's bundle vouches for") == old {
                    still.push(plane);
                }
            }
            lacking = still;
        }
    };
    // It takes two thirds of the certificate's life, and the time in which API servers learn of its authority.
    tokio::time::timeout(LIMIT * 3, renewed).await.unwrap();
    assert!(reviews > 10, "{reviews}");
    assert!(judges(&api).await);
}

#[tokio::test]
async fn a_secret_that_somebody_else_made_is_served_and_never_written_over() {
    let Some(api) = start().await else {
        return;
    };
    let made = |names: &[&str]| {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let params = rcgen::CertificateParams::new(names).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let (crt, key) = (
            STANDARD.encode(&certificate),
            STANDARD.encode(key.serialize_pem()),
        );
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "linkerd-policy-validator-k8s-tls", "namespace": "linkerd"},
            "data": {"tls.crt": crt, "tls.key": key},
        });
        (certificate, secret)
    };
    let (_, unusable) = made(&["elsewhere"]);
    api.apply(&unusable).await;
    let plane = ControlPlane::spawn_with(api.kubeconfig(), &["--webhook-certificates"]);
    eventually("what is wrong", async || {
        let log = plane.log();
        (log.contains("linkerd-policy-validator-k8s-tls: tls.crt: it is not for")
            && log.contains("delete it"))
        .then_some(())
    })
    .await;
    let (text, good) = made(&[NAME]);
    api.apply(&good).await;
    for object in chart(&plane) {
        api.apply(&object).await;
    }
    let served = eventually("their certificate", async || shown(&plane, &text).await).await;
    assert_eq!(served, certificate(&text));
    eventually("a verdict", async || judges(&api).await.then_some(())).await;
    assert_eq!(secret(&api, "tls.crt").await.unwrap(), text);
}
