//! What becomes of what watchers tell.

use super::*;
use serde_json::json;
use tokio::sync::watch;

fn kind(name: &str) -> usize {
    let found = KINDS.iter().position(|(_, kind, _)| *kind == name);
    found.unwrap()
}

fn told(name: &str, what: What) -> Told {
    Told {
        kind: kind(name),
        what,
    }
}

fn server(name: &str, port: &Value) -> Told {
    let object = json!({
        "apiVersion": "policy.linkerd.io/v1beta3",
        "kind": "Server",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": "7", "uid": "u", "generation": 1},
        "spec": {"podSelector": {}, "port": port},
        "status": {},
    });
    told("Server", What::Object(Box::new(object)))
}

fn gone(name: &str) -> Told {
    let (namespace, name) = ("shop".to_owned(), name.to_owned());
    told("Server", What::Gone { namespace, name })
}

/// A keeper to whom every kind has been listed, without objects.
fn keeper() -> Keeper {
    let mut keeper = Keeper::new(Cluster::default(), Arc::default(), |_| Needed::Yes);
    for (_, name, _) in KINDS {
        keeper.hear(told(name, What::Listing));
        keeper.hear(told(name, What::Listed));
    }
    // Both groups of HTTPRoutes have one name.
    keeper
        .kinds
        .iter_mut()
        .for_each(|kind| kind.is_known = true);
    keeper
}

fn servers(keeper: &Keeper) -> Vec<String> {
    let has = |name: &&str| {
        let mut server = server(name, &json!(80));
        let What::Object(value) = &mut server.what else {
            return false;
        };
        keeper
            .index
            .has(&manifest::from_value(value.take()).unwrap())
    };
    let names = ["a", "b", "c"].iter().filter(|name| has(name));
    names.map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn nothing_is_published_before_every_kind_has_been_listed_or_is_known_not_to_be_served() {
    let (tell, heard) = mpsc::channel(100);
    let (publish, mut published) = mpsc::unbounded_channel();
    let keeper = Keeper::new(Cluster::default(), Arc::default(), |_| Needed::Yes);
    let (tell_others, others) = watch::channel(None);
    let publish = move |snapshot| publish.send(snapshot).unwrap();
    tokio::spawn(keeper.run(heard, others, publish));
    for (at, _) in KINDS.iter().enumerate().skip(1) {
        for what in [What::Listing, What::Listed] {
            tell.send(Told { kind: at, what }).await.unwrap();
        }
    }
    let waits = tokio::time::timeout(2 * MAX_SETTLE, published.recv()).await;
    assert!(waits.is_err(), "{waits:?}");
    let absent = Told {
        kind: 0,
        what: What::Absent,
    };
    tell.send(absent).await.unwrap();
    let waits = tokio::time::timeout(2 * MAX_SETTLE, published.recv()).await;
    assert!(waits.is_err(), "other clusters are not known: {waits:?}");
    tell_others.send_replace(Some(Arc::default()));
    let first = published.recv().await.unwrap();
    assert_eq!((first.version, first.problems.len()), (1, 0));
}

#[test]
fn a_version_that_cannot_be_read_leaves_the_last_good_one_and_is_reported_until_it_is_mended() {
    let mut keeper = keeper();
    assert!(keeper.hear(server("a", &json!(80))));
    assert!(keeper.hear(server("a", &json!(-1))));
    assert_eq!(servers(&keeper), ["a"]);
    let problems = keeper.snapshot().problems;
    assert_eq!(problems.len(), 1);
    let text = problems[0].to_string();
    assert!(
        text.starts_with("kubernetes: Server shop/a: spec.port: "),
        "{text}"
    );
    assert!(text.ends_with("; the last good version stays"), "{text}");

    assert!(keeper.hear(server("b", &json!(-1))));
    assert!(!keeper.snapshot().problems[1].kept, "there is none");
    assert!(keeper.hear(server("a", &json!(80))));
    assert!(keeper.hear(gone("b")));
    assert_eq!(keeper.snapshot().problems, []);
}

#[test]
fn a_new_list_takes_away_what_it_leaves_out_and_a_watch_that_fails_takes_nothing() {
    let mut keeper = keeper();
    for name in ["a", "b"] {
        keeper.hear(server(name, &json!(80)));
    }
    assert!(keeper.hear(told("Server", What::Failed("410 Gone".into()))));
    assert_eq!(servers(&keeper), ["a", "b"]);
    assert_eq!(keeper.snapshot().problems[0].reason, "410 Gone");
    assert!(
        !keeper.hear(told("Server", What::Failed("410 Gone".into()))),
        "said once"
    );

    keeper.hear(told("Server", What::Listing));
    assert_eq!(
        servers(&keeper),
        ["a", "b"],
        "a list that is not whole says nothing"
    );
    keeper.hear(server("b", &json!(80)));
    keeper.hear(server("c", &json!(80)));
    assert!(keeper.hear(told("Server", What::Listed)));
    assert_eq!(servers(&keeper), ["b", "c"]);
    assert_eq!(keeper.snapshot().problems, []);
    // The API server may forget the kind for a moment, while its definition is replaced.
    keeper.hear(told("Server", What::Absent));
    assert_eq!(servers(&keeper), ["b", "c"]);
}

#[test]
fn what_changes_nothing_here_is_no_change() {
    let mut keeper = keeper();
    assert!(keeper.hear(server("a", &json!(80))));
    assert!(!keeper.hear(server("a", &json!(80))));
    let pod = |heartbeat: &str| {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "shop", "resourceVersion": heartbeat},
            "spec": {"containers": [{"name": "app", "image": "app"}], "nodeName": "n"},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [
                {"type": "Ready", "status": "True", "lastProbeTime": heartbeat},
            ]},
        });
        told("Pod", What::Object(Box::new(object)))
    };
    assert!(keeper.hear(pod("1")));
    assert!(!keeper.hear(pod("2")));
}
