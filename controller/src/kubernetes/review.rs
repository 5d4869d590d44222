//! Tokens judged by the API server: `authentication.k8s.io/v1` TokenReview, with the audience of the identity service.

use crate::token::{self, AUDIENCE, MAX_TOKEN, Subject, TokenError};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, Client, api::PostParams};
use std::time::Duration;
use tokio::{sync::Semaphore, time::timeout};

/// Reviews at one time: a flood of tokens is not passed on to the API server.
const MAX_REVIEWS: usize = 64;
/// How long a review may take, with the wait for its turn.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks the API server about tokens.
pub(crate) struct Reviewer {
    client: Client,
    turns: Semaphore,
}

impl Reviewer {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            turns: Semaphore::new(MAX_REVIEWS),
        }
    }

    /// Whom a token speaks for, and which of those that had the name.
    ///
    /// # Errors
    /// If it is not authenticated for our audience, or nobody could say in time.
    pub(crate) async fn subject(
        &self,
        token: &str,
    ) -> Result<(Subject, Option<String>), TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(token::not_authenticated("the token is too long"));
        }
        let review = async {
            let _turn = self.turns.acquire().await;
            let review = TokenReview {
                spec: TokenReviewSpec {
                    token: Some(token.to_owned()),
                    audiences: Some(vec![AUDIENCE.to_owned()]),
                },
                ..TokenReview::default()
            };
            let api = Api::<TokenReview>::all(self.client.clone());
            api.create(&PostParams::default(), &review).await
        };
        let review = timeout(LIMIT, review)
            .await
            .map_err(|_| TokenError::NotReviewed(format!("no answer in {LIMIT:?}")))?
            .map_err(|error| TokenError::NotReviewed(error.to_string()))?;
        let status = review.status.unwrap_or_default();
        let audiences = status.audiences.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(match status.error {
                Some(why) if !why.is_empty() => TokenError::Refused(why),
                _ => token::not_authenticated("refused"),
            });
        }
        // An API server that does not know audiences answers without any.
        if !audiences.iter().any(|audience| audience == AUDIENCE) {
            return Err(token::not_authenticated("it is for another audience"));
        }
        let user = status.user.unwrap_or_default();
        let subject = user.username.unwrap_or_default().parse()?;
        Ok((subject, user.uid))
    }
}
