//! A mesh of our sidecars and those of another maker, under our control plane. Which one is said by the environment:
//!
//! ```text
//! PEER_PROXY=/path/to/linkerd2-proxy cargo test --test mesh -- --ignored peer
//! ```

use crate::{
    harness::binary,
    redirected::{Cluster, Programs, everything_crosses_as_it_should, grpc_interoperates},
};
use std::path::PathBuf;

fn peer() -> PathBuf {
    let peer = std::env::var_os("PEER_PROXY").map(PathBuf::from);
    peer.expect("PEER_PROXY names another proxy of the contract")
}

async fn is_a_mesh(programs: Programs) {
    if let Some(cluster) = Cluster::start_of(programs, "api", "", &[]).await {
        everything_crosses_as_it_should(&cluster).await;
        grpc_interoperates(&cluster).await;
    }
}

#[tokio::test]
#[ignore = "needs another proxy of the contract, as PEER_PROXY"]
async fn ours_calls_a_peer() {
    is_a_mesh([binary(), peer()]).await;
}

#[tokio::test]
#[ignore = "needs another proxy of the contract, as PEER_PROXY"]
async fn a_peer_calls_ours() {
    is_a_mesh([peer(), binary()]).await;
}

#[tokio::test]
#[ignore = "needs another proxy of the contract, as PEER_PROXY"]
async fn peers_make_a_mesh_under_our_control_plane() {
    // What they make of each other's gRPC is not ours to hold.
    if let Some(cluster) = Cluster::start_of([peer(), peer()], "api", "", &[]).await {
        everything_crosses_as_it_should(&cluster).await;
    }
}
