//! `io.linkerd.proxy.identity.Identity`: a certificate for whoever shows a token.
//!
//! What is judged, in the order of the contract: that there is an issuer, the fields, the issuer itself, the signing request,
//! the token, whom it speaks for. A request with several faults is told of the first.

use super::Shared;
use crate::{
    events::Tone,
    issuer::Signing,
    kubernetes::review::Reviewer,
    notices::Notices,
    token::{self, TokenError},
};
use linkerd_tls::ca::{IssueError, IssueFault};
use linkerd2_proxy_api::identity::{CertifyRequest, CertifyResponse, identity_server::Identity};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tonic::{Request, Response, Status};

/// How many identities are counted for the rate limit; when there are more, those below their limit are forgotten.
const MAX_IDENTITIES: usize = 50_000;
const MINUTE: Duration = Duration::from_secs(60);

/// The service.
pub(crate) struct Certifier {
    pub(crate) shared: Shared,
    /// Who judges tokens; absent: the authority, which signed them.
    pub(crate) reviewer: Option<Reviewer>,
    pub(crate) signing: Arc<Signing>,
    pub(crate) lifetime: Duration,
    pub(crate) skew: Duration,
    pub(crate) per_minute: u32,
    pub(crate) asked: Mutex<HashMap<String, (Instant, u32)>>,
    pub(crate) notices: Notices,
}

/// Why there is no certificate: the metric's reason, and what the client is told.
struct Refused(&'static str, Status);

impl Certifier {
    async fn certify_now(&self, request: &CertifyRequest) -> Result<CertifyResponse, Refused> {
        let Some(authority) = self.signing.load() else {
            let text = "cert issuer not ready yet";
            return Err(Refused("issuer", Status::unavailable(text)));
        };
        let missing = |what| Refused("missing", Status::invalid_argument(what));
        if request.identity.is_empty() {
            return Err(missing("missing identity"));
        }
        if request.token.is_empty() {
            return Err(missing("missing token"));
        }
        if request.certificate_signing_request.is_empty() {
            return Err(missing("missing certificate signing request"));
        }
        let now = SystemTime::now();
        let checked = authority
            .ca()
            .check(&request.certificate_signing_request, &request.identity, now)
            .map_err(|error| self.refused(error))?;
        let token = std::str::from_utf8(&request.token).unwrap_or_default();
        let subject = match &self.reviewer {
            None => token::verify(&authority, token).map(|subject| (subject, None)),
            Some(reviewer) => reviewer.subject(token).await,
        };
        let (subject, uid) = subject.map_err(refused_token)?;
        let found = token::identity(&subject, &self.shared.snapshots.borrow().index)
            .map_err(refused_token)?;
        if !found.eq_ignore_ascii_case(&request.identity) {
            let text = format!(
                "requested identity did not match provided token: requested={}; found={found}",
                request.identity
            );
            return Err(Refused("identity", Status::failed_precondition(text)));
        }
        self.limit(&found)?;
        let issued = authority
            .ca()
            .sign_checked(&checked, self.lifetime, self.skew, now)
            .map_err(|error| self.refused(error))?;
        self.notices.issued(&subject, uid, &found, &issued);
        let until = issued
            .not_after
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(CertifyResponse {
            leaf_certificate: issued.leaf_der,
            intermediate_certificates: issued.chain,
            valid_until: Some(prost_types::Timestamp {
                seconds: i64::try_from(until.as_secs()).unwrap_or(i64::MAX),
                nanos: 0,
            }),
        })
    }

    /// What is wrong with a request, or with the issuer, which concerns whoever keeps it.
    fn refused(&self, error: IssueError) -> Refused {
        if error.fault() == IssueFault::Issuer {
            let reason = "IssuerValidationFailed";
            self.notices
                .issuer(Tone::Warning, reason, error.to_string());
        }
        refused_request(error)
    }

    /// One identity's flood is not everybody's.
    fn limit(&self, identity: &str) -> Result<(), Refused> {
        let now = Instant::now();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= MAX_IDENTITIES && !asked.contains_key(identity) {
            asked.retain(|_, (since, count)| {
                now.duration_since(*since) < MINUTE && *count >= self.per_minute
            });
            if asked.len() >= MAX_IDENTITIES {
                let text = "too many identities ask for certificates; try again in a minute";
                return Err(Refused("rate", Status::resource_exhausted(text)));
            }
        }
        let (since, count) = asked.entry(identity.to_owned()).or_insert((now, 0));
        if now.duration_since(*since) >= MINUTE {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        if *count <= self.per_minute {
            return Ok(());
        }
        let text = format!(
            "more than {} certificates a minute for {identity}",
            self.per_minute
        );
        Err(Refused("rate", Status::resource_exhausted(text)))
    }
}

fn refused_token(error: TokenError) -> Refused {
    let text = error.to_string();
    match error {
        TokenError::NotAuthenticated(_)
        | TokenError::UnknownWorkload(_)
        | TokenError::Spiffe { .. } => Refused("token", Status::failed_precondition(text)),
        TokenError::NotReviewed(_) => Refused("token_review", Status::internal(text)),
        TokenError::Subject(_) | TokenError::Label(_) | TokenError::Refused(_) => {
            Refused("token", Status::invalid_argument(text))
        }
    }
}

fn refused_request(error: IssueError) -> Refused {
    let text = error.to_string();
    match error.fault() {
        IssueFault::InvalidArgument => Refused("request", Status::invalid_argument(text)),
        IssueFault::FailedPrecondition => Refused("request", Status::failed_precondition(text)),
        IssueFault::Issuer => Refused("issuer", Status::unknown(text)),
        IssueFault::Internal => Refused("internal", Status::internal(text)),
    }
}

#[tonic::async_trait]
impl Identity for Certifier {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        let call = self.shared.metrics.begin(("identity", "Certify"));
        match self.certify_now(&request).await {
            Ok(response) => {
                call.sends();
                self.shared.metrics.certified("");
                tracing::info!(identity = request.identity, "Certified");
                Ok(Response::new(response))
            }
            Err(Refused(reason, status)) => {
                self.shared.metrics.certified(reason);
                call.fails(status.code());
                tracing::warn!(identity = ?request.identity, reason, error = status.message(), "No certificate");
                Err(status)
            }
        }
    }
}
