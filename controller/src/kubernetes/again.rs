//! An API server that has no time now (429, 503, 504) is asked again: when it says (`Retry-After`), or soon. After a few
//! times whoever asked is told, and goes on in their own time: what is not watched must not be so silently.

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use kube::client::Body;
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::Mutex;
use tower::{Layer, Service};

/// Times that a request is sent at most.
const TIMES: u32 = 4;
/// The first pause where the API server says nothing of it; each is twice the one before.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause, whatever the API server says: it may be another one by then.
const LONGEST: Duration = Duration::from_secs(10);

/// Asks again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again;

impl<S> Layer<S> for Again {
    type Service = AgainService<S>;

    fn layer(&self, inner: S) -> AgainService<S> {
        AgainService(Arc::new(Mutex::new(inner)))
    }
}

/// See [`Again`]. The lock is held while a request is begun, and not while it is answered.
#[derive(Debug)]
pub(super) struct AgainService<S>(Arc<Mutex<S>>);

impl<S, B> Service<Request<Body>> for AgainService<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move {
            let mut sent = 1;
            loop {
                let next = copy(&request);
                let response = {
                    let mut inner = inner.lock().await;
                    poll_fn(|context| inner.poll_ready(context)).await?;
                    inner.call(request)
                };
                let response = response.await?;
                let pause = pause(&response, sent);
                let (Some(pause), Some(next)) = (pause, next) else {
                    return Ok(response);
                };
                tokio::time::sleep(pause).await;
                (request, sent) = (next, sent + 1);
            }
        })
    }
}

/// The same request once more, unless its body is a stream.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// When to send a request again that was sent so many times; `None`: it is not to be.
fn pause<B>(response: &Response<B>, sent: u32) -> Option<Duration> {
    let is_busy = matches!(
        response.status(),
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    if !is_busy || sent >= TIMES {
        return None;
    }
    let asked = response.headers().get(header::RETRY_AFTER);
    let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
    let pause = asked.map_or_else(|| FIRST * 2_u32.pow(sent - 1), Duration::from_secs);
    Some(pause.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{convert::Infallible, sync::Mutex as StdMutex};
    use tokio::time::Instant;

    fn answer(status: u16, retry_after: Option<&str>) -> Response<()> {
        let mut builder = Response::builder().status(status);
        if let Some(seconds) = retry_after {
            builder = builder.header(header::RETRY_AFTER, seconds);
        }
        builder.body(()).unwrap()
    }

    /// What comes of answers, one after the other; when requests were sent, in milliseconds; the bodies.
    async fn asked(answers: Vec<Response<()>>) -> (u16, Vec<u128>, Vec<usize>) {
        let began = Instant::now();
        let seen = Arc::new(StdMutex::new((Vec::new(), Vec::new())));
        let answers = Arc::new(StdMutex::new(answers.into_iter()));
        let noted = seen.clone();
        let inner = tower::service_fn(move |request: Request<Body>| {
            let (noted, answers) = (noted.clone(), answers.clone());
            async move {
                let length = request.into_body().collect_bytes().await.unwrap().len();
                let mut noted = noted.lock().unwrap();
                noted.0.push(began.elapsed().as_millis());
                noted.1.push(length);
                Ok::<_, Infallible>(answers.lock().unwrap().next().unwrap())
            }
        });
        let request = Request::post("/").body(Body::from(b"body".to_vec()));
        let response = Again.layer(inner).call(request.unwrap()).await.unwrap();
        let (times, lengths) = seen.lock().unwrap().clone();
        (response.status().as_u16(), times, lengths)
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_asked_again_when_it_says_and_soon_where_it_says_nothing() {
        let busy = vec![
            answer(429, Some("2")),
            answer(503, None),
            answer(504, Some("soon")),
            answer(200, None),
        ];
        let (status, times, bodies) = asked(busy).await;
        assert_eq!(status, 200);
        assert_eq!(times, [0, 2_000, 2_200, 2_600]);
        assert_eq!(bodies, [4; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asked_is_told_after_a_few_times_and_of_other_failures_at_once() {
        let busy = (0..9).map(|_| answer(429, Some("3600"))).collect();
        let (status, times, _) = asked(busy).await;
        assert_eq!((status, times), (429, vec![0, 10_000, 20_000, 30_000]));
        let (status, times, _) = asked(vec![answer(500, None)]).await;
        assert_eq!((status, times), (500, vec![0]));
    }
}
