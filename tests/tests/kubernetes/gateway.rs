//! Definitions of the Gateway API's routes, as far as tests of the mesh need them: any spec, and a status that others than
//! its owner may write.

use crate::server::ApiServer;
use linkerd_tests::eventually;
use serde_json::{Value, json};

/// Kind, plural, version.
const KINDS: [(&str, &str, &str); 4] = [
    ("HTTPRoute", "httproutes", "v1"),
    ("GRPCRoute", "grpcroutes", "v1"),
    ("TLSRoute", "tlsroutes", "v1alpha2"),
    ("TCPRoute", "tcproutes", "v1alpha2"),
];

fn definition((kind, plural, version): (&str, &str, &str)) -> Value {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.gateway.networking.k8s.io"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": version, "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": any, "status": any}}},
            }],
        },
    })
}

/// Installs them.
pub(crate) async fn define(server: &ApiServer) {
    for kind in KINDS {
        server.apply(&definition(kind)).await;
    }
    for (_, plural, version) in KINDS {
        let list = format!("/apis/gateway.networking.k8s.io/{version}/{plural}");
        eventually(&list, async || server.get(&list).await).await;
    }
}
