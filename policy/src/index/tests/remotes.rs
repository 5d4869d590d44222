//! Other clusters, and which changes of them an answer can depend on.

use super::*;
use crate::index::{Reads, Remote};

/// What the other clusters have, beside the workload that it selects.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: vm}, ports: [{port: 80}]}
";

/// This cluster, with others beside it.
fn with<const N: usize>(remotes: [(&str, &Remote); N]) -> Index {
    let mut index = index(&[VM]);
    let remotes = remotes.map(|(name, remote)| (name.to_owned(), remote.clone()));
    index.set_remotes(Arc::new(remotes.into_iter().collect()));
    index
}

/// What the endpoints of a Service in the cluster `west` were made of.
fn reads(index: &Index) -> Reads {
    let recording = index.recording();
    let there = recording.remote("west").and_then(Remote::index);
    if let Some(there) = there.map(Index::recording) {
        assert!(there.endpoints("shop", "web", 80).is_some());
        recording.also_read_there("west", &Arc::new(there.into_reads()));
    }
    recording.into_reads()
}

#[test]
fn an_answer_depends_on_what_it_was_made_of_in_another_cluster_and_on_nothing_else_there() {
    let there = index(&[SERVICE, VM]);
    let west = Remote::default();
    let here = with([("west", &west.with(there.clone()))]);
    let reads = reads(&here);
    assert!(here.is_current(&reads));
    let after = |text: &str| {
        let mut there = there.clone();
        resources(text).into_iter().for_each(|r| there.apply(r));
        with([("west", &west.with(there))])
    };
    assert!(after(&VM.replace("namespace: shop", "namespace: new")).is_current(&reads));
    assert!(!after(&VM.replace("10.1.0.1", "10.1.0.9")).is_current(&reads));
    let east = Remote::default().with(there.clone());
    let both = [("east", &east), ("west", &west.with(there.clone()))];
    assert!(with(both).is_current(&reads), "another one is another one");
    assert!(!with([]).is_current(&reads), "it is gone");
    assert!(
        !with([("west", &east)]).is_current(&reads),
        "of another configuration"
    );
}

#[test]
fn an_answer_depends_on_whether_a_cluster_is_known_and_listed() {
    let west = Remote::default();
    let stages = [
        with([]),
        with([("west", &west)]),
        with([("west", &west.with(index(&[SERVICE])))]),
    ];
    let reads = stages.each_ref().map(reads);
    for (at, index) in stages.iter().enumerate() {
        for (of, reads) in reads.iter().enumerate() {
            assert_eq!(index.is_current(reads), at == of, "{at} {of}");
        }
    }
}
