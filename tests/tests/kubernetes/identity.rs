//! Certificates for tokens that a real API server judges; the issuer in its objects.

use crate::{
    control_plane::ControlPlane,
    policy::{account, namespace},
    server::ApiServer,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, dangerous::insecure_decode, encode};
use linkerd_tests::eventually;
use linkerd_tls::{
    CertificateError, KeyMaterial, LocalIdentity, TimeProvider, TrustAnchors,
    ca::{Ca, CaPem},
};
use linkerd2_proxy_api::identity::{CertifyRequest, CertifyResponse};
use rustls_pki_types::UnixTime;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tonic::{Code, Status};

const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
const AUDIENCE: &str = "identity.l5d.io";
const SECRET: &str = "/api/v1/namespaces/linkerd/secrets/linkerd-identity-issuer";
const ANCHORS: &str = "/api/v1/namespaces/linkerd/configmaps/linkerd-identity-trust-roots";

async fn start() -> Option<ApiServer> {
    let api = ApiServer::start().await?;
    for name in ["shop", "linkerd"] {
        api.apply(&namespace(name)).await;
    }
    api.apply(&account("web")).await;
    Some(api)
}

async fn certify(
    plane: &ControlPlane,
    key: &KeyMaterial,
    token: String,
) -> Result<CertifyResponse, Status> {
    let request = CertifyRequest {
        identity: WEB.to_owned(),
        token: token.into_bytes(),
        certificate_signing_request: key.csr().to_vec(),
    };
    plane.certify(request).await
}

fn until(response: &CertifyResponse) -> SystemTime {
    let seconds = response.valid_until.as_ref().unwrap().seconds;
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap())
}

/// A token with other claims, signed again by this key.
fn again(token: &str, key: &EncodingKey, edit: impl FnOnce(&mut Value)) -> String {
    let read = insecure_decode::<Value>(token).unwrap();
    let mut claims = read.claims;
    edit(&mut claims);
    let header = Header {
        kid: read.header.kid,
        ..Header::new(Algorithm::ES256)
    };
    encode(&header, &claims, key).unwrap()
}

/// An event with this reason.
async fn event(api: &ApiServer, namespace: &str, reason: &str) -> Value {
    let path = format!("/api/v1/namespaces/{namespace}/events");
    eventually(reason, async || {
        let list = api.get(&path).await?;
        let mut events = list["items"].as_array()?.iter();
        events.find(|event| event["reason"] == reason).cloned()
    })
    .await
}

async fn the_account_is_told(api: &ApiServer) {
    let told = event(api, "shop", "IssuedLeafCertificate").await;
    let web = api.get("/api/v1/namespaces/shop/serviceaccounts/web").await;
    let web = web.unwrap();
    let (about, web) = (&told["involvedObject"], &web["metadata"]);
    assert_eq!(about["kind"], "ServiceAccount");
    assert_eq!((&about["name"], &about["uid"]), (&web["name"], &web["uid"]));
    let message = told["message"].as_str().unwrap();
    assert!(
        message.starts_with(&format!("issued certificate for {WEB} until 20")),
        "{message}"
    );
}

#[tokio::test]
async fn certificates_are_for_tokens_that_the_api_server_vouches_for_now() {
    let Some(api) = start().await else {
        return;
    };
    let plane = ControlPlane::start(&api).await;
    let key = KeyMaterial::create(WEB).unwrap();
    let token = async |audience: &str| api.token("shop", "web", audience).await;
    let good = token(AUDIENCE).await;
    certify(&plane, &key, good.clone()).await.unwrap();
    the_account_is_told(&api).await;

    let theirs = EncodingKey::from_ec_pem(api.accounts_key().as_bytes()).unwrap();
    let stranger = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let stranger = EncodingKey::from_ec_pem(stranger.as_bytes()).unwrap();
    let expired = |claims: &mut Value| {
        for (name, at) in [("iat", 1_000_000), ("nbf", 1_000_000), ("exp", 1_003_600)] {
            claims[name] = at.into();
        }
    };
    // Signing again alone changes nothing.
    certify(&plane, &key, again(&good, &theirs, |_| {}))
        .await
        .unwrap();
    for (what, token, code, told) in [
        (
            "garbage",
            "garbage".to_owned(),
            Code::InvalidArgument,
            "invalid",
        ),
        (
            "another audience",
            token("somebody-else").await,
            Code::InvalidArgument,
            "audience",
        ),
        (
            "expired",
            again(&good, &theirs, expired),
            Code::InvalidArgument,
            "expired",
        ),
        (
            "forged",
            again(&good, &stranger, |_| {}),
            Code::InvalidArgument,
            "invalid",
        ),
        (
            "an account that never was",
            again(&good, &theirs, |claims| {
                claims["sub"] = "system:serviceaccount:shop:nobody".into();
                claims["kubernetes.io"]["serviceaccount"]["name"] = "nobody".into();
            }),
            Code::InvalidArgument,
            "nobody",
        ),
    ] {
        let refused = certify(&plane, &key, token).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
        assert!(refused.message().contains(told), "{what}: {refused}");
    }
    // Of several faults the first in the contract's order is told: the request comes before the token.
    let other = KeyMaterial::create("api.shop.serviceaccount.identity.linkerd.cluster.local");
    let refused = certify(&plane, &other.unwrap(), "garbage".to_owned())
        .await
        .unwrap_err();
    assert!(
        refused
            .message()
            .starts_with("CSR name does not match requested identity")
    );
    // A token dies with its account.
    let unused = token(AUDIENCE).await;
    api.delete(&account("web")).await;
    eventually("that they are refused", async || {
        let used = certify(&plane, &key, good.clone()).await.err()?;
        let unused = certify(&plane, &key, unused.clone()).await.err()?;
        let codes = (used.code(), unused.code());
        (codes == (Code::InvalidArgument, Code::InvalidArgument)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn while_the_api_server_is_away_no_token_is_believed_and_afterwards_the_same_one_is() {
    let Some(mut api) = start().await else {
        return;
    };
    let plane = ControlPlane::start(&api).await;
    let key = KeyMaterial::create(WEB).unwrap();
    let token = api.token("shop", "web", AUDIENCE).await;
    certify(&plane, &key, token.clone()).await.unwrap();
    api.kill();
    // What was believed a moment ago is asked about again: a token may have been revoked.
    let refused = certify(&plane, &key, token.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal, "{refused}");
    api.start_server().await;
    eventually("a certificate", async || {
        certify(&plane, &key, token.clone()).await.ok()
    })
    .await;
}

/// A clock that is wrong by so many seconds.
#[derive(Debug)]
struct Wrong(i64);

impl TimeProvider for Wrong {
    fn current_time(&self) -> Option<UnixTime> {
        let now = UnixTime::now().as_secs().checked_add_signed(self.0)?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now)))
    }
}

#[tokio::test]
async fn clocks_of_identity_and_sidecar_may_differ_by_the_allowance() {
    let Some(api) = start().await else {
        return;
    };
    let flags = [
        "--identity-issuance-lifetime-seconds=3600",
        "--identity-clock-skew-seconds=60",
    ];
    let plane = ControlPlane::spawn_with(api.kubeconfig(), &flags);
    let key = KeyMaterial::create(WEB).unwrap();
    let token = api.token("shop", "web", AUDIENCE).await;
    let before = SystemTime::now();
    let certified = eventually("a certificate", async || {
        certify(&plane, &key, token.clone()).await.ok()
    })
    .await;
    let left = until(&certified).duration_since(before).unwrap();
    let (shortest, longest) = (Duration::from_secs(3655), Duration::from_secs(3700));
    assert!((shortest..longest).contains(&left), "{left:?}");
    let installed = |seconds| {
        let anchors = TrustAnchors::from_pem(&plane.trust_anchors()).unwrap();
        let id = WEB.parse().unwrap();
        let clock = Arc::new(Wrong(seconds));
        let sidecar = LocalIdentity::with_clock(id, WEB, key.clone(), anchors, clock).unwrap();
        let (leaf, chain) = (
            certified.leaf_certificate.clone(),
            certified.intermediate_certificates.clone(),
        );
        sidecar.install(leaf, chain, until(&certified))
    };
    for seconds in [0, -40, 3620] {
        installed(seconds).unwrap();
    }
    // The text names both times.
    assert!(matches!(
        installed(-600),
        Err(CertificateError::NotYetValid { .. })
    ));
    assert!(matches!(
        installed(3900),
        Err(CertificateError::Expired { .. })
    ));
}

async fn text(api: &ApiServer, path: &str, field: &str) -> Option<String> {
    let object = api.get(path).await?;
    object.pointer(field)?.as_str().map(str::to_owned)
}

async fn bundle(api: &ApiServer) -> Option<String> {
    text(api, ANCHORS, "/data/ca-bundle.crt").await
}

fn config_map(bundle: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "linkerd-identity-trust-roots", "namespace": "linkerd"},
        "data": {"ca-bundle.crt": bundle},
    })
}

/// As cert-manager writes it.
fn tls_secret(issuer: &CaPem) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "linkerd-identity-issuer", "namespace": "linkerd"},
        "data": {
            "crt.pem": null, "key.pem": null,
            "tls.crt": STANDARD.encode(&issuer.certificates),
            "tls.key": STANDARD.encode(&issuer.key),
            "ca.crt": STANDARD.encode(&issuer.anchors),
        },
    })
}

/// Whether what a plane signs leads to these anchors.
async fn leads(plane: &ControlPlane, token: &str, anchors: &str) -> Option<SystemTime> {
    let key = KeyMaterial::create(WEB).unwrap();
    let certified = certify(plane, &key, token.to_owned()).await.ok()?;
    let anchors = TrustAnchors::from_pem(anchors).unwrap();
    let sidecar = LocalIdentity::new(WEB.parse().unwrap(), WEB, key, anchors).unwrap();
    let until = until(&certified);
    let (leaf, chain) = (
        certified.leaf_certificate,
        certified.intermediate_certificates,
    );
    sidecar.install(leaf, chain, until).ok()?;
    Some(until)
}

#[tokio::test]
async fn an_issuer_is_made_once_and_what_the_objects_say_later_is_used_at_once() {
    let Some(api) = start().await else {
        return;
    };
    let planes = [(); 2].map(|()| {
        ControlPlane::spawn_with(
            api.kubeconfig(),
            &["--bootstrap-issuer", "--certify-per-minute=10000"],
        )
    });
    let token = api.token("shop", "web", AUDIENCE).await;
    let root = eventually("the anchors", async || bundle(&api).await).await;
    for plane in &planes {
        eventually("a certificate", async || leads(plane, &token, &root).await).await;
    }
    let made = text(&api, SECRET, "/data/crt.pem").await.unwrap();
    assert_eq!(STANDARD.decode(&made).unwrap(), root.as_bytes());

    // Another root: added, signed by, alone. No request for a certificate is refused meanwhile.
    let new = Ca::create("new").unwrap();
    let hour = Duration::from_secs(3600);
    let issuer = new.create_issuer("issuer", hour).unwrap().to_pem();
    let both = format!("{root}{}", issuer.anchors);
    api.apply(&config_map(&both)).await;
    let metric = "controller_trust_anchor_expiration_timestamp_seconds{anchor=\"CN=new\"}";
    for plane in &planes {
        eventually("the new anchor", async || {
            let (_, page) = plane.page("/metrics").await?;
            page.contains(metric).then_some(())
        })
        .await;
        assert!(leads(plane, &token, &root).await.is_some());
    }
    let patch = tls_secret(&issuer);
    api.merge(SECRET, &patch).await;
    for plane in &planes {
        let until = eventually("the new issuer", async || {
            leads(plane, &token, &issuer.anchors).await
        })
        .await;
        // Nothing lives longer than its issuer.
        assert!(until <= SystemTime::now() + hour, "{until:?}");
    }
    // One that leads to no anchor is not used.
    let stranger = Ca::create("stranger").unwrap().to_pem();
    api.merge(SECRET, &tls_secret(&stranger)).await;
    for plane in &planes {
        eventually("the refusal", async || {
            plane.log().contains("IssuerUpdateSkipped").then_some(())
        })
        .await;
        assert!(leads(plane, &token, &issuer.anchors).await.is_some());
    }
    let told = event(&api, "linkerd", "IssuerUpdateSkipped").await;
    assert_eq!(
        (&told["type"], &told["involvedObject"]["kind"]),
        (&"Warning".into(), &"Deployment".into())
    );
    assert_eq!(bundle(&api).await.unwrap(), both, "never written over");
}

#[tokio::test]
async fn half_of_an_issuer_is_told_of_and_nothing_is_made_in_its_place() {
    let Some(api) = start().await else {
        return;
    };
    let theirs = Ca::create("theirs").unwrap().to_pem();
    api.apply(&config_map(&theirs.anchors)).await;
    let plane = ControlPlane::spawn_with(api.kubeconfig(), &["--bootstrap-issuer"]);
    eventually("what is missing", async || {
        plane
            .log()
            .contains("Secret linkerd-identity-issuer is missing")
            .then_some(())
    })
    .await;
    let key = KeyMaterial::create(WEB).unwrap();
    let token = api.token("shop", "web", AUDIENCE).await;
    let refused = eventually("an answer", async || {
        certify(&plane, &key, token.clone()).await.err()
    })
    .await;
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unavailable, "cert issuer not ready yet")
    );
    let mut secret = tls_secret(&theirs);
    secret["data"]
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    api.apply(&secret).await;
    eventually("a certificate", async || {
        leads(&plane, &token, &theirs.anchors).await
    })
    .await;
    assert_eq!(bundle(&api).await.unwrap(), theirs.anchors);
}

#[tokio::test]
async fn what_a_chart_renders_empty_is_filled_and_nothing_that_is_there() {
    let Some(api) = start().await else {
        return;
    };
    let annotations = json!({"linkerd.io/created-by": "linkerd/controller"});
    for (kind, name) in [
        ("Secret", "linkerd-identity-issuer"),
        ("ConfigMap", "linkerd-identity-trust-roots"),
    ] {
        let metadata = json!({"name": name, "namespace": "linkerd", "annotations": annotations});
        api.apply(&json!({"apiVersion": "v1", "kind": kind, "metadata": metadata}))
            .await;
    }
    let plane = ControlPlane::spawn_with(api.kubeconfig(), &["--bootstrap-issuer"]);
    let token = api.token("shop", "web", AUDIENCE).await;
    let root = eventually("the anchors", async || bundle(&api).await).await;
    eventually("a certificate", async || leads(&plane, &token, &root).await).await;
    // Another control plane finds them.
    let second = ControlPlane::spawn_with(api.kubeconfig(), &["--bootstrap-issuer"]);
    eventually("a certificate", async || {
        leads(&second, &token, &root).await
    })
    .await;
    assert_eq!(bundle(&api).await.unwrap(), root);
}
