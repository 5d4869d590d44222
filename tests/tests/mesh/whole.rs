//! What is sent comes whole, however it is cut: random heads and bodies, in random pieces, on every way through a sidecar.

use crate::{harness::within, origin, outbound::Client};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Exchanges on each way.
const EXCHANGES: u64 = 40;

fn letters(random: &mut StdRng, length: usize) -> String {
    (0..length)
        .map(|_| char::from(random.random_range(b'a'..=b'z')))
        .collect()
}

/// Writes in a few pieces, or in one, and reads to the end.
async fn exchange<S>(mut stream: S, request: &[u8], random: &mut StdRng) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut rest = request;
    for _ in 0..random.random_range(0..4) {
        let (piece, more) = rest.split_at(random.random_range(0..=rest.len()));
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
        rest = more;
    }
    stream.write_all(rest).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    within("the end of the answer", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A way to an application that says what it heard.
async fn passes<S>(way: &str, connect: impl AsyncFn() -> S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for seed in 0..EXCHANGES {
        let mut random = StdRng::seed_from_u64(seed);
        let random = &mut random;
        // Around what one look takes, and far beyond it.
        let most = match seed % 3 {
            0 => 300,
            1 => 3000,
            _ => 60_000,
        };
        let length = random.random_range(0..most.min(6000));
        let head = letters(random, length);
        let length = random.random_range(0..most);
        let body = letters(random, length);
        let request = format!(
            "POST / HTTP/1.1\r\nhost: web\r\nx-long: {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let answer = exchange(connect().await, request.as_bytes(), random).await;
        let of = format!("{way}, seed {seed}");
        assert!(answer.starts_with("HTTP/1.1 200"), "{of}: {answer}");
        assert!(answer.contains(&format!("x-long: {head}\n")), "{of}");
        assert!(answer.ends_with(&format!("\n{body}")), "{of}");
    }
}

#[tokio::test]
async fn requests_and_answers_come_whole_on_every_way() {
    let client = Client::start("", 1, "", &[]).await;
    let _catalog = origin::echo(client.at(10)).await;
    let _web = origin::echo(client.mesh.origin()).await;
    let mesh = &client.mesh;
    let api = mesh.client("api");
    passes("inbound, mutual TLS", async || mesh.connect_tls(&api).await).await;
    passes("inbound, plaintext", async || {
        mesh.connect_from(5, mesh.web()).await
    })
    .await;
    passes("outbound, plaintext", async || client.connect(9000).await).await;
    passes("two sidecars", async || client.connect(9001).await).await;
}
