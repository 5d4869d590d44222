//! What a connection and a request cost in memory before they hold a byte.

use super::*;
use crate::activity::InFlight;
use crate::http::{body::Received, interim::Interim};
use ::http::Request;
use std::future::Future;

fn of_connection<F: Future>(_: impl FnOnce(Arc<Worker>, TcpStream, SocketAddr, Via) -> F) -> usize {
    size_of::<F>()
}

fn of_http<F: Future>(_: impl FnOnce(Arc<Connection>, Io, detect::Http) -> F) -> usize {
    size_of::<F>()
}

fn of_request<F: Future>(
    _: impl FnOnce(Arc<Connection>, Request<Received>, Interim, InFlight) -> F,
) -> usize {
    size_of::<F>()
}

/// Futures grow unnoticed: a variable that lives across an await is enough. A new figure here is a decision.
#[test]
fn futures_are_no_larger_than_is_known() {
    let connection = of_connection(Worker::connection);
    let http = of_http(http::serve);
    let request = of_request(http::answer);
    assert!(
        connection <= 512,
        "an accepted connection: {connection} bytes"
    );
    assert!(http <= 2560, "a connection that serves HTTP: {http} bytes");
    assert!(request <= 4 * 1024, "a request: {request} bytes");
}
