//! An HTTP/2 endpoint that is written out frame by frame, for what no library does on purpose: it goes away in the
//! middle of requests, refuses some, and answers just enough.

use crate::outbound::App;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(crate) const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status 200`, from HPACK's static table.
const STATUS_200: &[u8] = &[0x88];

/// Codes of RFC 9113 §7.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;

/// What the endpoint does about a request that has come in full.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Answers 200.
    Answer,
    /// Answers with a gRPC status in the head, and ends the stream with a frame of its own.
    StatusThenEnd,
    /// Says nothing.
    Hold,
    /// Resets the stream with a code.
    Reset(u32),
    /// Answers 200 with three bytes, and resets the stream with a code where more would follow.
    Cut(u32),
    /// Answers all that it has and says that it goes away and has begun nothing after them; closes.
    Leave,
    /// Says that it goes away and that it has begun the streams up to `last`; answers `answers` of them; closes.
    GoAway { last: u32, answers: &'static [u32] },
}

/// A request: its connection and its stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// 0 for the first connection.
    pub(crate) connection: usize,
    /// 1, 3, 5 and so on.
    pub(crate) stream: u32,
    /// Bytes of its body so far.
    pub(crate) bytes: usize,
    /// It has come in full.
    pub(crate) is_whole: bool,
}

/// Serves HTTP/2 as `act` says of each request that has come in full. Ends with the test.
pub(crate) async fn serve(
    address: SocketAddr,
    act: impl Fn(Asked) -> Act + Send + Sync + 'static,
) -> App {
    let whole = move |asked: Asked| {
        if asked.is_whole {
            act(asked)
        } else {
            Act::Hold
        }
    };
    serve_early(address, whole).await
}

/// Serves HTTP/2 as `act` says of each request with each part of it that comes. Ends with the test.
pub(crate) async fn serve_early(
    address: SocketAddr,
    act: impl Fn(Asked) -> Act + Send + Sync + 'static,
) -> App {
    let listener = TcpListener::bind(address).await.unwrap();
    let (act, connections) = (Arc::new(act), AtomicUsize::new(0));
    App(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let connection = connections.fetch_add(1, Ordering::Relaxed);
            let act = act.clone();
            tokio::spawn(async move {
                // Its client goes when it likes.
                let _ = connected(stream, connection, act.as_ref()).await;
            });
        }
    }))
}

async fn connected(
    mut io: TcpStream,
    connection: usize,
    act: &(impl Fn(Asked) -> Act + Send + Sync),
) -> std::io::Result<()> {
    io.set_nodelay(true)?;
    io.read_exact(&mut [0; PREFACE]).await?;
    frame(&mut io, SETTINGS, 0, 0, &[]).await?;
    // Streams come to their end in any order: all up to `done` are answered.
    let (mut done, mut answered) = (0, BTreeSet::new());
    let mut bodies = BTreeMap::<u32, usize>::new();
    loop {
        let (kind, flags, stream, payload) = next(&mut io).await?;
        if kind == DATA && !payload.is_empty() {
            let read = u32::try_from(payload.len()).unwrap().to_be_bytes();
            for stream in [0, stream] {
                frame(&mut io, WINDOW_UPDATE, 0, stream, &read).await?;
            }
        }
        match kind {
            SETTINGS if flags & ACK == 0 => frame(&mut io, SETTINGS, ACK, 0, &[]).await?,
            PING if flags & ACK == 0 => frame(&mut io, PING, ACK, 0, &payload).await?,
            HEADERS | DATA => {
                let bytes = bodies.entry(stream).or_default();
                *bytes += if kind == DATA { payload.len() } else { 0 };
                let mut act = act(Asked {
                    connection,
                    stream,
                    bytes: *bytes,
                    is_whole: flags & END_STREAM != 0,
                });
                match act {
                    Act::Answer => {
                        answered.insert(stream);
                        while answered.remove(&(done + 1)) || answered.remove(&(done + 2)) {
                            done += if done == 0 { 1 } else { 2 };
                        }
                    }
                    Act::Leave => {
                        act = Act::GoAway {
                            last: done,
                            answers: &[],
                        }
                    }
                    _ => {}
                }
                if !answer(&mut io, stream, act).await? {
                    // Reads on: a close with unread bytes would take back what was written.
                    io.shutdown().await?;
                    tokio::io::copy(&mut io, &mut tokio::io::sink()).await?;
                    return Ok(());
                }
            }
            _ => {}
        }
    }
}

/// A header that is not indexed (RFC 7541 §6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).unwrap());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// Tells whether the connection goes on.
async fn answer(io: &mut TcpStream, stream: u32, act: Act) -> std::io::Result<bool> {
    let whole = END_HEADERS | END_STREAM;
    match act {
        Act::Answer => frame(io, HEADERS, whole, stream, STATUS_200).await?,
        Act::StatusThenEnd => {
            let head = [
                STATUS_200,
                &literal("content-type", "application/grpc"),
                &literal("grpc-status", "12"),
            ];
            frame(io, HEADERS, END_HEADERS, stream, &head.concat()).await?;
            frame(io, DATA, END_STREAM, stream, &[]).await?;
        }
        Act::Hold | Act::Leave => {}
        Act::Cut(code) => {
            frame(io, HEADERS, END_HEADERS, stream, STATUS_200).await?;
            frame(io, DATA, 0, stream, b"abc").await?;
            frame(io, RST_STREAM, 0, stream, &code.to_be_bytes()).await?;
        }
        Act::Reset(code) => frame(io, RST_STREAM, 0, stream, &code.to_be_bytes()).await?,
        Act::GoAway { last, answers } => {
            let payload = [last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
            frame(io, GOAWAY, 0, 0, &payload).await?;
            for stream in answers {
                frame(io, HEADERS, whole, *stream, STATUS_200).await?;
            }
            return Ok(false);
        }
    }
    Ok(true)
}

/// Begins a POST with three bytes of body, and resets it with NO_ERROR where more would follow.
pub(crate) async fn cut_request(io: &mut TcpStream) -> std::io::Result<()> {
    // From HPACK's static table: POST, http, /; and a literal authority.
    let mut head = vec![0x83, 0x86, 0x84, 0x01, 12];
    head.extend(b"catalog.shop");
    begin(io).await?;
    frame(io, HEADERS, END_HEADERS, 1, &head).await?;
    frame(io, DATA, 0, 1, b"abc").await?;
    frame(io, RST_STREAM, 0, 1, &NO_ERROR.to_be_bytes()).await
}

/// Says what a client of HTTP/2 begins with.
pub(crate) async fn begin(io: &mut TcpStream) -> std::io::Result<()> {
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    frame(io, SETTINGS, 0, 0, &[]).await
}

/// The next frame: its kind, its flags, its stream and its content.
pub(crate) async fn next(io: &mut TcpStream) -> std::io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    io.read_exact(&mut payload).await?;
    Ok((kind, flags, u32::from_be_bytes(stream), payload))
}

pub(crate) async fn frame(
    io: &mut TcpStream,
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &[u8],
) -> std::io::Result<()> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    io.write_all(&bytes).await
}
