use super::*;
use crate::{
    config::{self, Backoff, Certificates},
    discovery::testing::{page, registry},
};
use linkerd_metrics::Registry;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use std::sync::Arc;

const ID: &str = "spiffe://example/web";

/// An authority of a trust domain.
struct Domain {
    root: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Domain {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, key);
        Self { root, issuer }
    }

    fn svid(&self, id: &str) -> Svid {
        self.svid_of(id, &KeyPair::generate().unwrap())
    }

    fn svid_of(&self, id: &str, key: &KeyPair) -> Svid {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Svid {
            spiffe_id: id.to_owned(),
            x509_svid: params.signed_by(key, &self.issuer).unwrap().der().to_vec(),
            x509_svid_key: key.serialize_der(),
            bundle: self.root.clone(),
        }
    }
}

struct World {
    identity: Arc<LocalIdentity>,
    trust: Trust,
    registry: Registry,
}

fn world() -> World {
    let config = config::Identity {
        id: ID.parse().unwrap(),
        server_name: "web.example".into(),
        trust_anchors: String::new(),
        trust_anchors_file: None,
        source: Certificates::Spire(Spire {
            socket: "/nonexistent/agent.sock".into(),
            backoff: Backoff {
                min: Duration::from_millis(1),
                max: Duration::from_millis(1),
                jitter: 0.0,
            },
        }),
    };
    let identity = super::super::local(&config).unwrap();
    let registry = registry();
    World {
        trust: Trust::new(&config, identity.anchors(), &registry),
        identity,
        registry,
    }
}

impl World {
    fn take(&self, svids: Vec<Svid>) -> Result<SystemTime, SpireError> {
        let response = SvidResponse {
            svids,
            ..SvidResponse::default()
        };
        take(response, &self.identity, &self.trust)
    }
}

#[test]
fn what_the_agent_gives_is_taken_whole_or_not_at_all() {
    let (world, domain, other) = (world(), Domain::new("one"), Domain::new("two"));
    assert!(world.identity.csr().is_empty());
    let good = domain.svid(ID);
    let edit = |change: fn(&mut Svid, Svid)| {
        let mut svid = good.clone();
        change(&mut svid, other.svid(ID));
        vec![svid]
    };
    let refused: [(&str, Vec<Svid>, &str); 8] = [
        (
            "no_svid",
            vec![domain.svid("spiffe://example/other")],
            "spiffe://example/other",
        ),
        ("no_svid", Vec::new(), "IDENTITY_SERVER_ID"),
        (
            "bundle",
            edit(|svid, _| svid.bundle.clear()),
            "no certificate found",
        ),
        ("bundle", edit(|svid, _| svid.bundle.truncate(20)), "bundle"),
        (
            "invalid",
            edit(|svid, other| svid.bundle = other.bundle),
            "signed by none",
        ),
        (
            "invalid",
            edit(|svid, other| svid.x509_svid_key = other.x509_svid_key),
            "key",
        ),
        ("invalid", edit(|svid, _| svid.x509_svid.clear()), "empty"),
        (
            "invalid",
            edit(|svid, _| svid.x509_svid.truncate(20)),
            "certificate",
        ),
    ];
    for round in 0..2 {
        let before = world.identity.current();
        for (reason, svids, told) in &refused {
            let error = world.take(svids.clone()).unwrap_err();
            assert_eq!(error.reason(), *reason, "{error}");
            assert!(error.to_string().contains(told), "{error}");
        }
        let now = world.identity.current();
        assert_eq!(
            before.as_ref().map(Arc::as_ptr),
            now.as_ref().map(Arc::as_ptr),
            "round {round}: what was in use stays"
        );
        world
            .take(vec![domain.svid("spiffe://example/other"), good.clone()])
            .unwrap();
    }
    assert_eq!(world.identity.anchors().anchors().len(), 1);
    // Another root for the domain: certificate and anchors change together.
    world.take(vec![other.svid(ID)]).unwrap();
    assert!(
        world
            .identity
            .anchors()
            .is_same(&TrustAnchors::from_der(&other.root).unwrap())
    );
    let text = page(&world.registry);
    assert!(
        text.contains("control_identity_trust_anchor_changes_total{result=\"ok\"} 2"),
        "{text}"
    );
}

#[test]
fn another_name_in_the_certificate_than_the_agent_says_is_refused() {
    let (world, domain) = (world(), Domain::new("one"));
    let mut lying = domain.svid("spiffe://example/other");
    lying.spiffe_id = ID.to_owned();
    let error = world.take(vec![lying]).unwrap_err();
    assert_eq!(error.reason(), "invalid");
    assert!(
        error.to_string().contains("spiffe://example/other"),
        "{error}"
    );
}
