//! Services that stand for those of other clusters.

use super::*;
use crate::index::Remote;
use std::sync::Arc;

fn service(metadata: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: api, namespace: shop, {metadata}}}\nspec: {{ports: [{{port: 80}}]}}"
    )
}

#[test]
fn cluster_unknown() {
    let check = "cluster-unknown";
    let label = "labels: {multicluster.linkerd.io/remote-discovery: west}";
    finds(
        check,
        &[&service(label)],
        "Service api: stands for a Service of another cluster and does not say which",
    );
    let west = service(
        "labels: {multicluster.linkerd.io/remote-discovery: west, multicluster.linkerd.io/remote-service: api}",
    );
    finds(check, &[&west], "the cluster west, which is not known");
    let federated =
        service("annotations: {multicluster.linkerd.io/remote-discovery: 'api@west,api@east,api'}");
    finds(
        check,
        &[&federated],
        "the cluster east, west, which is not known",
    );
    finds(
        check,
        &[&federated],
        "api in multicluster.linkerd.io/remote-discovery names no Service",
    );
    silent(check, &[&service("")]);

    let mut known = index(&[&west]);
    known.set_remotes(Arc::new([("west".to_owned(), Remote::default())].into()));
    assert!(!known.lint().iter().any(|finding| finding.check == check));
}
