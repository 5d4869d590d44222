//! GET from an admin server: sidecars' and the controller's.

use crate::outcome::Failure;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpStream;

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest page that is read.
const MAX_PAGE: usize = 64 << 20;

/// A page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// GETs `path` from `address`.
pub(crate) async fn get(address: SocketAddr, path: &str, accept: &str) -> Result<Page, Failure> {
    match tokio::time::timeout(LIMIT, exchange(address, path, accept)).await {
        Ok(Ok(page)) => Ok(page),
        Ok(Err(error)) => Err(Failure::new(format!("http://{address}{path}: {error}"))),
        Err(_) => Err(Failure::new(format!(
            "http://{address}{path}: no answer within {LIMIT:?}"
        ))),
    }
}

async fn exchange(
    address: SocketAddr,
    path: &str,
    accept: &str,
) -> Result<Page, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::ACCEPT, accept)
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let (head, body) = send.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_PAGE).collect().await?.to_bytes();
        Ok(Page {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        page = &mut exchange => page,
        // The server may close before the answer is taken up here.
        _ = &mut connection => exchange.await,
    }
}

/// A query of these parts, encoded; absent ones are left out.
pub(crate) fn query(parts: &[(&str, Option<&str>)]) -> String {
    let encode =
        |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
    parts
        .iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name}={}", encode(value))))
        .collect::<Vec<_>>()
        .join("&")
}

/// The sum of a counter's series in a metrics page, over all labels.
pub(crate) fn sum(page: &str, family: &str) -> f64 {
    page.lines()
        .filter_map(|line| line.strip_prefix(family))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| {
            rest.rsplit('}')
                .next()?
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        })
        // Not sum(): of nothing at all it is -0.
        .fold(0.0, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_its_series_and_not_mixed_with_longer_names() {
        let page = "# TYPE a_total counter\na_total{x=\"} 7\"} 2\na_total{x=\"b\"} 3 1700000000\na_total_created 9\nb_total 4\n";
        assert!((sum(page, "a_total") - 5.0).abs() < f64::EPSILON);
        assert!((sum(page, "b_total") - 4.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_a_person_types_reaches_the_server_as_it_is() {
        let query = query(&[
            ("path", Some("/a b&c=1")),
            ("client", None),
            ("port", Some("80")),
        ]);
        assert_eq!(query, "path=%2Fa%20b%26c%3D1&port=80");
    }
}
