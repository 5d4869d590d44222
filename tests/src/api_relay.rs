//! Between a control plane and its API server: passes everything on, and fails as it is told. What is told concerns lists and
//! watches; everything else is passed on always.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    missing_debug_implementations,
    reason = "what uses it ends where it cannot go on"
)]

use crate::{api_server::ApiServer, eventually};
use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};

/// What becomes of lists and watches. Whatever comes after [`Mode::Pass`] ends the watches that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are passed on.
    Pass,
    /// What watches begin from is forgotten: 410, as an event of those that there are and in answer to new ones.
    Gone,
    /// As [`Mode::Gone`], and so are the further pages of lists.
    GoneWithPages,
    /// What watches that begin from this version, or an older one, ask for is forgotten: 410 in answer to them. Those that
    /// there are end without a word.
    Forgotten(u64),
    /// 429, to be tried again in a second.
    Busy,
    /// They are not answered before the mode is another.
    Held,
}

/// Plurals of kinds.
type Seen = Arc<Mutex<BTreeSet<String>>>;
type Answer = Response<UnsyncBoxBody<Bytes, kube::Error>>;

/// A relay; ends with the test.
pub struct Relay {
    folder: TempDir,
    mode: watch::Sender<Mode>,
    hurt: Seen,
    watched: Seen,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Relay {
    pub async fn start(server: &ApiServer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        write_kubeconfig(server, &folder, listener.local_addr().unwrap());
        let (mode, told) = watch::channel(Mode::Pass);
        let (hurt, watched) = (Seen::default(), Seen::default());
        let passing = Passing {
            client: server.client.clone(),
            mode: told,
            hurt: hurt.clone(),
            watched: watched.clone(),
        };
        Self {
            folder,
            mode,
            hurt,
            watched,
            server: tokio::spawn(serve(listener, passing)),
        }
    }

    /// By which the API server is reached through this.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        for seen in [&self.hurt, &self.watched] {
            seen.lock().unwrap().clear();
        }
        self.mode.send_replace(mode);
    }

    /// Waits until requests for all of these kinds have failed, or wait, as the mode says.
    pub async fn hurts(&self, plurals: &[&str]) {
        all("hurt", &self.hurt, plurals).await;
    }

    /// Waits until all of these kinds are watched, since the mode was set.
    pub async fn watches(&self, plurals: &[&str]) {
        all("watched", &self.watched, plurals).await;
    }
}

async fn all(what: &str, seen: &Seen, plurals: &[&str]) {
    for plural in plurals {
        eventually(&format!("that {plural} are {what}"), async || {
            seen.lock().unwrap().contains(*plural).then_some(())
        })
        .await;
    }
}

fn write_kubeconfig(server: &ApiServer, folder: &TempDir, address: SocketAddr) {
    let text = fs::read_to_string(server.kubeconfig()).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["clusters"][0]["cluster"] = json!({"server": format!("http://{address}")});
    fs::write(folder.path().join("kubeconfig"), config.to_string()).unwrap();
}

async fn serve(listener: TcpListener, passing: Passing) {
    while let Ok((stream, _)) = listener.accept().await {
        let passing = passing.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let passing = passing.clone();
                async move { passing.answer(request).await }
            });
            let builder = http1::Builder::new();
            let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

#[derive(Clone)]
struct Passing {
    client: Client,
    mode: watch::Receiver<Mode>,
    hurt: Seen,
    watched: Seen,
}

impl Passing {
    async fn answer(mut self, request: Request<Incoming>) -> Result<Answer, kube::Error> {
        let query = request.uri().query().unwrap_or_default();
        let has = |part: &str| query.contains(part);
        let (is_watch, is_list) = (has("watch=true"), has("limit="));
        let is_page = has("continue=");
        let plural = request.uri().path().rsplit('/').next();
        let plural = plural.unwrap_or_default().to_owned();
        let version = query
            .split('&')
            .find_map(|part| part.strip_prefix("resourceVersion="));
        let version: Option<u64> = version.and_then(|version| version.parse().ok());
        if is_watch || is_list {
            let mode = *self.mode.borrow_and_update();
            let is_hurt = match mode {
                Mode::Pass => false,
                Mode::Gone => is_watch,
                Mode::GoneWithPages => is_watch || is_page,
                Mode::Forgotten(last) => is_watch && version.is_some_and(|from| from <= last),
                Mode::Busy | Mode::Held => true,
            };
            if is_hurt {
                self.hurt.lock().unwrap().insert(plural.clone());
            }
            match mode {
                Mode::Busy => return Ok(failure(StatusCode::TOO_MANY_REQUESTS)),
                Mode::Gone | Mode::GoneWithPages | Mode::Forgotten(_) if is_hurt => {
                    return Ok(failure(StatusCode::GONE));
                }
                Mode::Held => {
                    let _ = self.mode.wait_for(|mode| *mode != Mode::Held).await;
                    self.mode.mark_unchanged();
                }
                _ => {}
            }
        }
        let mut response = self.pass(request).await?;
        response.headers_mut().remove(header::TRANSFER_ENCODING);
        if is_watch && response.status().is_success() {
            self.watched.lock().unwrap().insert(plural);
        }
        Ok(if is_watch {
            response.map(|body| watched(body, self.mode))
        } else {
            response.map(BodyExt::boxed_unsync)
        })
    }

    async fn pass(&self, request: Request<Incoming>) -> Result<Response<Body>, kube::Error> {
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(header::HOST);
        parts.headers.remove(header::AUTHORIZATION);
        let body = body.collect().await.unwrap().to_bytes();
        let request = Request::from_parts(parts, Body::from(body));
        self.client.send(request).await
    }
}

/// A watch, until another mode comes after that in which it began.
fn watched(body: Body, mode: watch::Receiver<Mode>) -> UnsyncBoxBody<Bytes, kube::Error> {
    let frames = stream::unfold(Some((body, mode)), async |state| {
        let (mut body, mut mode) = state?;
        let ended = async {
            mode.changed().await?;
            Ok::<_, watch::error::RecvError>(*mode.borrow())
        };
        tokio::select! {
            frame = body.frame() => Some((frame?, Some((body, mode)))),
            ended = ended => match ended {
                Ok(Mode::Gone | Mode::GoneWithPages) => {
                    let event = json!({"type": "ERROR", "object": status(StatusCode::GONE)});
                    Some((Ok(Frame::data(format!("{event}\n").into())), None))
                }
                _ => None,
            },
        }
    });
    StreamBody::new(Box::pin(frames)).boxed_unsync()
}

fn status(code: StatusCode) -> Value {
    let reason = if code == StatusCode::GONE {
        "Expired"
    } else {
        "TooManyRequests"
    };
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": "as this test wants it", "reason": reason, "code": code.as_u16(),
    })
}

fn failure(code: StatusCode) -> Answer {
    let body = Body::from(status(code).to_string().into_bytes());
    let answer = Response::builder()
        .status(code)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::RETRY_AFTER, "1");
    answer.body(body.boxed_unsync()).unwrap()
}
