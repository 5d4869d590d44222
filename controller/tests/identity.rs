//! Certificates over real sockets: who gets one, every refusal, and mutual TLS where others can reach the services.
#![expect(clippy::unwrap_used, reason = "what fails here is the test")]

mod support;

use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use linkerd_controller::authority::Authority;
use linkerd_tls::{Id, KeyMaterial, LocalIdentity};
use linkerd2_proxy_api::inbound::{
    PortSpec, inbound_server_policies_client::InboundServerPoliciesClient,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use serde_json::json;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, SystemTime},
};
use support::{Plane, WEB, WORKLOAD, connect};
use tokio::net::TcpStream;
use tonic::{Code, transport::Endpoint};

#[tokio::test]
async fn a_certificate_is_for_whom_the_token_speaks() {
    let plane = Plane::start().await;
    connect(plane.config.identity_addr).await;
    let account = plane.token("system:serviceaccount:shop:web");
    plane.certify(WEB, account.clone()).await.unwrap();
    let workload = plane.token("system:externalworkload:shop:web");
    plane.certify(WEB, workload).await.unwrap();

    let other = "api.shop.serviceaccount.identity.linkerd.cluster.local";
    let status = plane.certify(other, account).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.message(),
        format!("requested identity did not match provided token: requested={other}; found={WEB}")
    );
    let status = plane.certify(WEB, b"forged".to_vec()).await.unwrap_err();
    assert_eq!(
        status.message(),
        "authentication token could not be authenticated"
    );
    let status = plane.certify(WEB, Vec::new()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "missing token")
    );
    let stranger = plane.token("system:externalworkload:shop:nobody");
    assert_eq!(
        plane.certify(WEB, stranger).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    plane.stop().await;
}

#[tokio::test]
async fn one_identity_cannot_flood_the_issuer() {
    let plane = Plane::start().await;
    connect(plane.config.identity_addr).await;
    let token = plane.token("system:serviceaccount:shop:web");
    let mut refused = 0;
    for _ in 0..plane.config.certify_per_minute + 5 {
        if let Err(status) = plane.certify(WEB, token.clone()).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            refused += 1;
        }
    }
    assert!(refused >= 5, "{refused}");
    let api = "api.shop.serviceaccount.identity.linkerd.cluster.local";
    plane
        .certify(api, plane.token("system:serviceaccount:shop:api"))
        .await
        .unwrap();
    plane.stop().await;
}

fn claims(edit: impl FnOnce(&mut serde_json::Value)) -> serde_json::Value {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let mut claims = json!({
        "iss": "linkerd", "aud": "identity.l5d.io", "sub": "system:serviceaccount:shop:web",
        "iat": now, "exp": now + 60,
    });
    edit(&mut claims);
    claims
}

#[expect(clippy::too_many_lines, reason = "a table of refusals")]
#[tokio::test]
async fn tokens_that_are_not_ours_fresh_and_for_us_get_no_certificate() {
    let plane = Plane::start().await;
    connect(plane.config.identity_addr).await;
    let pem = fs::read(plane.config.state_dir.join("token.key")).unwrap();
    let public = fs::read(plane.config.state_dir.join("token.pub")).unwrap();
    let ours = EncodingKey::from_ec_pem(&pem).unwrap();
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .unwrap()
        .serialize_pem();
    let other = EncodingKey::from_ec_pem(other.as_bytes()).unwrap();
    let es256 = Header::new(Algorithm::ES256);
    let sign = |claims| encode(&es256, &claims, &ours).unwrap();
    let unsigned = {
        let good = sign(claims(|_| {}));
        let payload = good.split('.').nth(1).unwrap();
        // {"alg":"none","typ":"JWT"}
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.")
    };
    let hs256 = Header::new(Algorithm::HS256);
    let by_public = encode(&hs256, &claims(|_| {}), &EncodingKey::from_secret(&public)).unwrap();
    let not_authentic = "authentication token could not be authenticated";
    let form = "Username must be in form system:TYPE:NS:SA: ";
    for (what, token, code, text) in [
        (
            "another key",
            encode(&es256, &claims(|_| {}), &other).unwrap(),
            9,
            not_authentic.to_owned(),
        ),
        (
            "another audience",
            sign(claims(|c| c["aud"] = json!("kubernetes"))),
            9,
            not_authentic.to_owned(),
        ),
        (
            "no audience",
            sign(claims(|c| drop(c.as_object_mut().unwrap().remove("aud")))),
            9,
            not_authentic.to_owned(),
        ),
        (
            "another issuer",
            sign(claims(|c| c["iss"] = json!("mallory"))),
            9,
            not_authentic.to_owned(),
        ),
        (
            "expired",
            sign(claims(|c| c["exp"] = json!(2_000))),
            9,
            not_authentic.to_owned(),
        ),
        (
            "no expiry",
            sign(claims(|c| drop(c.as_object_mut().unwrap().remove("exp")))),
            9,
            not_authentic.to_owned(),
        ),
        ("no signature", unsigned, 9, not_authentic.to_owned()),
        (
            "signed with the public key as a secret",
            by_public,
            9,
            not_authentic.to_owned(),
        ),
        (
            "another form",
            sign(claims(|c| c["sub"] = json!("web"))),
            3,
            format!("{form}web"),
        ),
        (
            "not a label",
            sign(claims(|c| {
                c["sub"] = json!("system:serviceaccount:shop:Web")
            })),
            3,
            "Not a label: Web".to_owned(),
        ),
    ] {
        let status = plane.certify(WEB, token.into_bytes()).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::from(code), text.as_str()),
            "{what}"
        );
    }
    plane
        .certify(WEB, sign(claims(|_| {})).into_bytes())
        .await
        .unwrap();
    plane.stop().await;
}

fn csr(edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    csr_of(
        &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        edit,
    )
}

fn csr_of(key: &KeyPair, edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::new([WEB.to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, WEB);
    edit(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

#[expect(clippy::too_many_lines, reason = "a table of refusals")]
#[tokio::test]
async fn requests_that_ask_for_more_than_the_name_get_no_certificate() {
    const API: &str = "api.shop.serviceaccount.identity.linkerd.cluster.local";
    let plane = Plane::start().await;
    connect(plane.config.identity_addr).await;
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let also = |san| csr(|params| params.subject_alt_names.push(san));
    let mut forged = csr(|_| {});
    *forged.last_mut().unwrap() ^= 1;
    let key = |algorithm| KeyPair::generate_for(algorithm).unwrap();
    let mismatch = format!("CSR name does not match requested identity: csr={API}; req={WEB}");
    let one = "CSR must have exactly one DNSName";
    let common_name = format!("invalid CommonName: {API}");
    for (what, csr, code, text) in [
        (
            "no request",
            Vec::new(),
            3,
            "missing certificate signing request",
        ),
        (
            "no DER",
            b"not DER".to_vec(),
            3,
            "cannot read the certificate signing request: ",
        ),
        (
            "another's signature",
            forged,
            3,
            "the certificate signing request is not signed by its own key",
        ),
        (
            "P-384",
            csr_of(&key(&PKCS_ECDSA_P384_SHA384), |_| {}),
            3,
            "the certificate signing request's key must be ECDSA P-256",
        ),
        (
            "Ed25519",
            csr_of(&key(&PKCS_ED25519), |_| {}),
            3,
            "the certificate signing request's key must be ECDSA P-256",
        ),
        (
            "another name",
            csr(|params| params.subject_alt_names = vec![dns(API)]),
            9,
            mismatch.as_str(),
        ),
        ("two names", also(dns(API)), 9, one),
        (
            "no name",
            csr(|params| params.subject_alt_names.clear()),
            9,
            one,
        ),
        (
            "an address",
            also(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))),
            9,
            "cannot validate IP addresses",
        ),
        (
            "a URI",
            also(SanType::URI("spiffe://shop/admin".try_into().unwrap())),
            9,
            "cannot validate URIs",
        ),
        (
            "mail",
            also(SanType::Rfc822Name("a@shop".try_into().unwrap())),
            9,
            "cannot validate email addresses",
        ),
        (
            "another common name",
            csr(|params| params.distinguished_name.push(DnType::CommonName, API)),
            9,
            common_name.as_str(),
        ),
        (
            "a CA",
            csr(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            9,
            "CSR must ask for a DNSName only",
        ),
        (
            "signing",
            csr(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            9,
            "CSR must ask for a DNSName only",
        ),
        (
            "any use",
            csr(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
            9,
            "CSR must ask for a DNSName only",
        ),
    ] {
        let token = plane.token("system:serviceaccount:shop:web");
        let status = plane.certify_csr(WEB, token, csr).await.unwrap_err();
        assert_eq!(status.code(), Code::from(code), "{what}: {status}");
        assert!(status.message().starts_with(text), "{what}: {status}");
    }
    let token = plane.token("system:serviceaccount:shop:web");
    plane.certify_csr(WEB, token, csr(|_| {})).await.unwrap();
    plane.stop().await;
}

#[tokio::test]
async fn a_new_issuer_is_used_without_a_restart() {
    let plane = Plane::start_with(|config| {
        config.rescan = Duration::from_millis(20);
        config.certify_per_minute = 10_000;
    })
    .await;
    connect(plane.config.identity_addr).await;
    let issuer_of = |leaf: &[u8]| {
        use x509_parser::prelude::{FromDer as _, X509Certificate};
        let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
        let id = leaf
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                    id.key_identifier.as_ref().map(|id| id.0.to_vec())
                }
                _ => None,
            });
        id.unwrap()
    };
    let token = || plane.token("system:serviceaccount:shop:web");
    let state = &plane.config.state_dir;
    let first = issuer_of(&plane.certify(WEB, token()).await.unwrap());
    let later = token();

    fs::remove_file(state.join("issuer.crt")).unwrap();
    fs::remove_file(state.join("issuer.key")).unwrap();
    Authority::open(state).unwrap();
    let mut every = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..1000 {
        let leaf = plane.certify(WEB, later.clone()).await.unwrap();
        if issuer_of(&leaf) != first {
            return drop(plane.stop().await);
        }
        every.tick().await;
    }
    panic!("the new issuer was never used");
}

/// An address of this machine that others can reach; nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[tokio::test]
async fn beyond_this_host_the_services_speak_tls_with_the_peers_names_only() {
    let Some(ip) = own_address() else {
        let is_failure = std::env::vars().any(|(name, _)| name == "REQUIRE_TOOLS");
        assert!(!is_failure, "this machine has a loopback address only");
        return eprintln!("SKIPPED: this machine has a loopback address only");
    };
    let plane = Plane::start_with(|config| config.policy_addr = (ip, 0).into()).await;
    let free = plane.config.policy_addr;
    connect(plane.config.identity_addr).await;

    let token = plane.token("system:serviceaccount:shop:web");
    let key = KeyMaterial::create(WEB).unwrap();
    let leaf = plane
        .certify_csr(WEB, token, key.csr().to_vec())
        .await
        .unwrap();
    let authority = Authority::open(&plane.config.state_dir).unwrap();
    let anchors = authority.ca().anchors().clone();
    let own = LocalIdentity::new(WEB.parse().unwrap(), WEB, key, anchors).unwrap();
    let issuer = Authority::open(&plane.config.state_dir)
        .unwrap()
        .ca()
        .to_pem()
        .certificates;
    let issuer = x509_parser::pem::Pem::iter_from_buffer(issuer.as_bytes());
    let chain = issuer.map(|pem| pem.unwrap().contents).collect();
    own.install(leaf, chain, SystemTime::now() + Duration::from_secs(60))
        .unwrap();

    let server = "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local";
    let spec = || PortSpec {
        workload: WORKLOAD.into(),
        port: 8080,
    };
    let channel = tls(free, own.clone(), server).await.unwrap();
    let mut client = InboundServerPoliciesClient::new(channel);
    let mut stream = client.watch_port(spec()).await.unwrap().into_inner();
    support::next(&mut stream).await;
    let status = plane.status(|status| status["open_streams"] == 1).await;
    assert_eq!(status["streams"][0]["identity"], WEB);

    assert!(
        tls(free, own, "mallory.example").await.is_err(),
        "another name"
    );
    let plain = Endpoint::from_shared(format!("http://{free}"))
        .unwrap()
        .connect_lazy();
    let mut plain = InboundServerPoliciesClient::new(plain);
    assert!(plain.get_port(spec()).await.is_err(), "plaintext");
    plane.stop().await;
}

async fn tls(
    address: SocketAddr,
    own: Arc<LocalIdentity>,
    server: &'static str,
) -> Result<tonic::transport::Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let own = own.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let expected: Id = server.parse().unwrap();
            linkerd_tls::connect(&own.client_config(), stream, server, &expected, None)
                .await
                .map(TokioIo::new)
                .map_err(std::io::Error::other)
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_with_connector(connector).await
}
