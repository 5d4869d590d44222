//! What becomes of the issuer and of certificates, as events: on the identity controller's Deployment, and on the accounts
//! that certificates are for. Source: control plane §5.

use crate::{
    events::{About, Events, Tone},
    token::Subject,
};
use aws_lc_rs::digest;
use k8s_openapi::{api::apps::v1::Deployment, jiff::Timestamp};
use kube::{Api, Client};
use linkerd_metrics::{Counter, Handle};
use linkerd_tls::ca::Issued;
use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

/// The Deployment of the identity controller, and who says what is said.
const NAME: &str = "linkerd-identity";

/// Whoever hears of it; nobody where there is no API server.
#[derive(Clone, Default)]
pub(crate) struct Notices(Option<Arc<Board>>);

struct Board {
    events: Events,
    /// The control plane's.
    namespace: String,
    /// The Deployment's.
    uid: OnceLock<String>,
}

impl Notices {
    /// With what tells the API server, for ever.
    pub(crate) fn new(
        client: Client,
        namespace: String,
        lost: Handle<Counter>,
    ) -> (Self, impl Future<Output = ()>) {
        let (events, tell) = Events::new(client.clone(), NAME, lost);
        let board = Arc::new(Board {
            events,
            namespace: namespace.clone(),
            uid: OnceLock::new(),
        });
        let notices = Self(Some(board.clone()));
        let tell = async move {
            let deployments = Api::<Deployment>::namespaced(client, &namespace);
            // Without it the events are there, and `kubectl describe` does not find them.
            if let Ok(Some(found)) = deployments.get_metadata_opt(NAME).await
                && let Some(uid) = found.metadata.uid
            {
                let _ = board.uid.set(uid);
            }
            tell.await;
        };
        (notices, tell)
    }

    /// Something of the issuer.
    pub(crate) fn issuer(&self, tone: Tone, reason: &'static str, message: String) {
        if let Some(board) = &self.0 {
            let about = About {
                version: "apps/v1".to_owned(),
                kind: "Deployment".to_owned(),
                namespace: board.namespace.clone(),
                name: NAME.to_owned(),
                uid: board.uid.get().cloned(),
            };
            board.events.tell(about, tone, reason, message);
        }
    }

    /// A certificate was issued. `uid`: of the account that asked for it.
    pub(crate) fn issued(
        &self,
        subject: &Subject,
        uid: Option<String>,
        identity: &str,
        issued: &Issued,
    ) {
        if let (Some(board), Subject::ServiceAccount { namespace, name }) = (&self.0, subject) {
            let about = About {
                version: "v1".to_owned(),
                kind: "ServiceAccount".to_owned(),
                namespace: namespace.clone(),
                name: name.clone(),
                uid,
            };
            let until = Timestamp::try_from(issued.not_after);
            let until = until.map(|until| until.to_string()).unwrap_or_default();
            let hash = digest::digest(&digest::SHA256, &issued.leaf_der);
            let mut message = format!("issued certificate for {identity} until {until}: ");
            for byte in hash.as_ref() {
                let _ = write!(message, "{byte:02x}");
            }
            let reason = "IssuedLeafCertificate";
            board.events.tell(about, Tone::Normal, reason, message);
        }
    }
}
