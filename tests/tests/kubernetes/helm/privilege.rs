//! What the accounts of a control plane may do, by the API server's own word: what they are for, and nothing by which somebody
//! who has got hold of one could get further.

use super::NAMESPACE;
use crate::server::ApiServer;
use http::Request;
use serde_json::{Value, json};

const ACCOUNTS: [&str; 3] = [
    "linkerd-destination",
    "linkerd-identity",
    "linkerd-proxy-injector",
];

/// What none of them may.
const NEVER: [&str; 24] = [
    "get secrets shop/password",
    "list secrets",
    "get secrets linkerd/password",
    "create secrets linkerd",
    "delete secrets linkerd/linkerd-identity-issuer",
    "get configmaps shop/settings",
    "create pods shop",
    "create pods/exec shop/web",
    "create pods/portforward shop/web",
    "get pods/log shop/web",
    "create serviceaccounts/token linkerd/linkerd-identity",
    "patch deployments.apps linkerd/linkerd-identity",
    "patch namespaces shop",
    "get nodes/proxy",
    "create clusterrolebindings.rbac.authorization.k8s.io",
    "bind clusterroles.rbac.authorization.k8s.io",
    "escalate clusterroles.rbac.authorization.k8s.io",
    "impersonate users",
    "create servers.policy.linkerd.io shop",
    "patch servers.policy.linkerd.io shop/web",
    "patch mutatingwebhookconfigurations.admissionregistration.k8s.io /others",
    "patch validatingwebhookconfigurations.admissionregistration.k8s.io /others",
    "delete validatingwebhookconfigurations.admissionregistration.k8s.io /linkerd-policy-validator-webhook-config",
    "update leases.coordination.k8s.io kube-system/kube-scheduler",
];

/// `VERB RESOURCE[/SUBRESOURCE][.GROUP] [NAMESPACE[/NAME]]`, as people write it.
async fn may(server: &ApiServer, account: &str, what: &str) -> bool {
    let mut words = what.split(' ');
    let (verb, object) = (words.next().unwrap(), words.next().unwrap());
    let (resource, group) = object.split_once('.').unwrap_or((object, ""));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let at = words.next().unwrap_or_default();
    let (namespace, name) = at.split_once('/').unwrap_or((at, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{NAMESPACE}:{account}"),
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{NAMESPACE}"), "system:authenticated"],
            "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": subresource,
                "namespace": namespace, "name": name,
            },
        },
    });
    let request = Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
        .header("content-type", "application/json")
        .body(review.to_string().into_bytes());
    let answer: Value = server.client.request(request.unwrap()).await.unwrap();
    answer["status"]["allowed"] == true
}

/// What each may, and what none or another may.
pub(super) async fn is_least(server: &ApiServer) {
    for (account, what) in [
        ("linkerd-destination", "watch servers.policy.linkerd.io"),
        (
            "linkerd-destination",
            "patch httproutes/status.policy.linkerd.io shop/web",
        ),
        (
            "linkerd-identity",
            "create tokenreviews.authentication.k8s.io",
        ),
        (
            "linkerd-identity",
            "get secrets linkerd/linkerd-identity-issuer",
        ),
        ("linkerd-proxy-injector", "list namespaces"),
        (
            "linkerd-proxy-injector",
            "update secrets linkerd/linkerd-proxy-injector-k8s-tls",
        ),
    ] {
        assert!(may(server, account, what).await, "{account}: {what}");
    }
    for what in NEVER {
        for account in ACCOUNTS {
            assert!(!may(server, account, what).await, "{account}: {what}");
        }
    }
    for (account, what) in [
        (
            "linkerd-destination",
            "create tokenreviews.authentication.k8s.io",
        ),
        (
            "linkerd-destination",
            "get secrets linkerd/linkerd-identity-issuer",
        ),
        (
            "linkerd-proxy-injector",
            "get secrets linkerd/linkerd-identity-issuer",
        ),
        ("linkerd-proxy-injector", "list pods"),
        (
            "linkerd-proxy-injector",
            "create tokenreviews.authentication.k8s.io",
        ),
        ("linkerd-identity", "list pods"),
        ("linkerd-identity", "list namespaces"),
        (
            "linkerd-identity",
            "update endpointslices.discovery.k8s.io shop/web",
        ),
    ] {
        assert!(!may(server, account, what).await, "{account}: {what}");
    }
}
