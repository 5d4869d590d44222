use super::*;
use crate::{
    config::{Address, ControlAddr},
    discovery::testing::{Answers, Controller, NAME, client, page, registry, soon},
};
use std::net::SocketAddr;
use tonic::Code;

struct World {
    config: config::Identity,
    token_file: PathBuf,
    dir: tempfile::TempDir,
}

fn world(answers: &Answers, addr: SocketAddr) -> World {
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "first").unwrap();
    let config = config::Identity {
        id: NAME.parse().unwrap(),
        server_name: NAME.into(),
        trust_anchors: answers.ca.anchors_pem().to_owned(),
        trust_anchors_file: None,
        source: Certificates::Service(Box::new(config::Service {
            dir: Some(dir.path().to_owned()),
            token_file: token_file.clone(),
            addr: ControlAddr {
                addr: Address::Socket(addr),
                identity: None,
            },
            min_refresh: Duration::ZERO,
            max_refresh: Duration::from_millis(1),
            certify_timeout: Duration::from_secs(20),
        })),
    };
    World {
        config,
        token_file,
        dir,
    }
}

/// Begins to certify; the identity and its metrics.
fn start(world: &World, addr: SocketAddr) -> (Arc<LocalIdentity>, Registry) {
    let (identity, registry) = (local(&world.config).unwrap(), registry());
    let client = client(addr, None, &identity, &registry);
    let (ours, page, config) = (identity.clone(), registry.clone(), world.config.clone());
    tokio::spawn(async move { maintain(ours, config, Some(client), &page).await });
    (identity, registry)
}

async fn until(registry: &Registry, wanted: &str) {
    soon(async {
        while !page(registry).contains(wanted) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn certificates_are_renewed_with_the_token_as_it_is_then() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let world = world(&answers, controller.addr);
    let (identity, registry) = start(&world, controller.addr);
    let first = soon(identity.certified()).await;
    std::fs::write(&world.token_file, "second").unwrap();
    let mut changes = identity.changes();
    soon(async {
        while answers.tokens.lock().unwrap().last().unwrap() != b"second" {
            changes.changed().await.unwrap();
        }
    })
    .await;
    assert_eq!(answers.tokens.lock().unwrap()[0], b"first");
    soon(changes.changed()).await.unwrap();
    assert!(
        !Arc::ptr_eq(&first, &identity.current().unwrap()),
        "swapped"
    );
    until(
        &registry,
        "control_identity_cert_refreshes_total{result=\"ok\"}",
    )
    .await;
    let expiry = page(&registry);
    let expiry = expiry
        .lines()
        .find_map(|line| line.strip_prefix("control_identity_cert_expiration_timestamp_seconds "))
        .unwrap();
    assert!(
        expiry.parse::<f64>().unwrap() > seconds(SystemTime::now()) + 3000.0,
        "{expiry}"
    );
}

#[tokio::test]
async fn failed_calls_are_counted_by_reason_and_repeated() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let world = world(&answers, controller.addr);
    answers.refuse.send_replace(Some(Code::PermissionDenied));
    std::fs::write(&world.token_file, " \n").unwrap();
    let (identity, registry) = start(&world, controller.addr);
    until(
        &registry,
        "control_identity_cert_refresh_errors_total{reason=\"token\"}",
    )
    .await;
    assert!(
        answers.tokens.lock().unwrap().is_empty(),
        "an empty token is not sent"
    );
    std::fs::write(&world.token_file, "token").unwrap();
    until(
        &registry,
        "control_identity_cert_refresh_errors_total{reason=\"refused\"}",
    )
    .await;
    until(
        &registry,
        "control_identity_cert_refreshes_total{result=\"error\"}",
    )
    .await;
    assert!(identity.current().is_none());
    answers.refuse.send_replace(None);
    soon(identity.certified()).await;
}

#[tokio::test]
async fn the_identity_service_may_start_after_the_proxy() {
    let answers = Answers::new();
    let addr = crate::discovery::testing::free_addr();
    let world = world(&answers, addr);
    let (identity, registry) = start(&world, addr);
    until(
        &registry,
        "control_client_failures_total{client=\"policy\",reason=\"connect\"}",
    )
    .await;
    let _controller = Controller::start_at(&answers, addr);
    soon(identity.certified()).await;
}

#[test]
fn a_key_is_made_once_and_kept() {
    let answers = Answers::new();
    let world = world(&answers, "127.0.0.1:1".parse().unwrap());
    let csr = local(&world.config).unwrap().csr().to_vec();
    assert!(world.dir.path().join("key.p8").exists());
    assert_eq!(local(&world.config).unwrap().csr(), csr);
}

#[test]
fn without_a_directory_a_key_is_in_memory_only() {
    let answers = Answers::new();
    let world = world(&answers, "127.0.0.1:1".parse().unwrap());
    let mut config = world.config.clone();
    let Certificates::Service(service) = &mut config.source else {
        panic!("a service");
    };
    service.dir = None;
    let csr = local(&config).unwrap().csr().to_vec();
    assert!(!world.dir.path().join("key.p8").exists());
    assert_ne!(
        local(&config).unwrap().csr(),
        csr,
        "another with each start"
    );
}

#[test]
fn what_is_wrong_with_the_identity_is_told_by_variable() {
    let answers = Answers::new();
    let world = world(&answers, "127.0.0.1:1".parse().unwrap());
    let anchors = config::Identity {
        trust_anchors: "none".into(),
        ..world.config.clone()
    };
    let error = local(&anchors).unwrap_err().to_string();
    assert!(
        error.starts_with("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS: "),
        "{error}"
    );
    let missing = config::Identity {
        trust_anchors: String::new(),
        trust_anchors_file: Some(world.dir.path().join("none.crt")),
        ..world.config.clone()
    };
    let error = local(&missing).unwrap_err().to_string();
    assert!(
        error.starts_with("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS_FILE="),
        "{error}"
    );
    let covered = config::Identity {
        trust_anchors: world.config.trust_anchors.clone(),
        ..missing
    };
    local(&covered).unwrap();
    std::fs::write(world.dir.path().join("key.p8"), "no key").unwrap();
    let error = local(&world.config).unwrap_err().to_string();
    assert!(error.starts_with("LINKERD2_PROXY_IDENTITY_DIR="), "{error}");
}
