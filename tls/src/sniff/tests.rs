//! Hellos of all makes, cut in all ways.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use proptest::prelude::*;
use tokio::io::ReadBuf;

use super::*;
use crate::{
    provider::{VERSIONS, provider},
    testing::{WEB, credulous_client},
};

/// The first flight of a rustls client: one record, post-quantum, about 1.5 KiB.
fn real_hello(name: &str) -> Vec<u8> {
    let config = Arc::new(credulous_client(provider(), VERSIONS, None));
    let name = name.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn tls(sni: &str) -> Parsed {
    Parsed::Tls {
        sni: Some(sni.into()),
    }
}

const NAMELESS: Parsed = Parsed::Tls { sni: None };

/// A hello made by hand: the extensions given, and padding to `length` bytes of message (0: none).
fn hello_with(extensions: &[(u16, Vec<u8>)], length: usize) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1]);
    body.extend([1, 0]);
    let mut block = Vec::new();
    for (kind, content) in extensions {
        block.extend(kind.to_be_bytes());
        block.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        block.extend(content);
    }
    if let Some(pad) = length.checked_sub(4 + body.len() + 2 + block.len() + 4) {
        block.extend([0, 21]);
        block.extend(u16::try_from(pad).unwrap().to_be_bytes());
        block.extend(vec![0; pad]);
    }
    body.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
    body.extend(block);
    let mut message = vec![1];
    message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend(body);
    message
}

fn sni(names: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
    let mut list = Vec::new();
    for (kind, name) in names {
        list.push(*kind);
        list.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        list.extend(*name);
    }
    let mut content = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    content.extend(list);
    (0, content)
}

/// Puts a message into records of these sizes; the last one takes what is left.
fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = message;
    let mut put = |piece: &[u8]| {
        out.extend([22, 3, 1]);
        out.extend(u16::try_from(piece.len()).unwrap().to_be_bytes());
        out.extend(piece);
    };
    for &size in sizes {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        if !piece.is_empty() {
            put(piece);
        }
        rest = after;
    }
    if !rest.is_empty() {
        put(rest);
    }
    out
}

/// A peer that gives its bytes in pieces of these sizes, again and again, and then closes.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl<'a> Pieces<'a> {
    fn new(bytes: &'a [u8], sizes: &'a [usize]) -> Self {
        Self {
            rest: bytes,
            sizes: sizes.iter().cycle(),
        }
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = *self.sizes.next().unwrap();
        let (piece, rest) = self
            .rest
            .split_at(size.min(self.rest.len()).min(buf.remaining()));
        buf.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// What `sniff` says, having read these bytes in these pieces; checks what it must keep.
fn sniff_pieces(bytes: &[u8], sizes: &[usize]) -> Sniffed {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut io = Pieces::new(bytes, sizes);
    let mut buf = BytesMut::new();
    let verdict = runtime.block_on(sniff(&mut io, &mut buf)).unwrap();
    assert!(buf.len() <= MAX_SNIFF);
    assert!(buf.capacity() <= 2 * MAX_SNIFF + FIRST_READ);
    assert_eq!([&buf, io.rest].concat(), bytes, "bytes got lost");
    verdict
}

fn whole(bytes: &[u8]) -> Sniffed {
    match client_hello(bytes) {
        Parsed::NeedMore => Sniffed::Eof,
        Parsed::NotTls => Sniffed::NotTls,
        Parsed::Tls { sni } => Sniffed::Tls { sni },
    }
}

#[test]
fn a_real_post_quantum_hello_gives_its_name_lower_cased() {
    let hello = real_hello(&WEB.to_uppercase());
    assert!(hello.len() > 1300, "{}", hello.len());
    assert_eq!(client_hello(&hello), tls(WEB));
}

#[test]
fn every_prefix_of_a_hello_needs_more() {
    let hello = real_hello(WEB);
    for end in 0..hello.len() {
        assert_eq!(client_hello(&hello[..end]), Parsed::NeedMore, "{end}");
    }
}

#[test]
fn a_hello_may_be_cut_over_records_anywhere() {
    let hello = real_hello(WEB);
    let message = &hello[5..];
    for cut in 1..message.len() {
        assert_eq!(client_hello(&records(message, &[cut])), tls(WEB), "{cut}");
    }
    for cuts in [[1, 1, 1], [1, 5, 6], [4, 43, 500], [3, 1, 1]] {
        assert_eq!(client_hello(&records(message, &cuts)), tls(WEB), "{cuts:?}");
    }
}

#[test]
fn other_protocols_are_told_at_the_first_byte_that_differs() {
    for bytes in [
        b"G".as_slice(),
        b"P",
        b"\0",
        b"S",
        &[22, 2],
        &[22, 3, 0],
        &[22, 3, 2],
        &[22, 3, 4],
        &[22, 3, 1, 0, 0],
        &[22, 3, 1, 64, 1],
        &[22, 3, 1, 0, 5, 2],
        &[22, 3, 1, 0, 5, 1, 0, 64, 1],
        &[23],
        // Two records of which the second is none.
        &[22, 3, 1, 0, 1, 1, 23],
    ] {
        assert_eq!(client_hello(bytes), Parsed::NotTls, "{bytes:?}");
        assert_eq!(
            client_hello(&bytes[..bytes.len() - 1]),
            Parsed::NeedMore,
            "{bytes:?}"
        );
    }
}

#[test]
fn a_name_is_what_stands_alone_and_is_a_dns_name() {
    let name = |names: &[(u8, &[u8])]| client_hello(&records(&hello_with(&[sni(names)], 0), &[]));
    assert_eq!(name(&[(0, b"Web.Shop")]), tls("web.shop"));
    for odd in [
        b"10.0.0.1".as_slice(),
        b"web.shop.",
        b"*.shop",
        b"web shop",
        b"\xff\xfe",
        b"web\0",
        b"",
    ] {
        assert_eq!(name(&[(0, odd)]), NAMELESS, "{odd:?}");
    }
    assert_eq!(name(&[]), Parsed::NotTls);
    assert_eq!(name(&[(0, b"a.shop"), (0, b"b.shop")]), Parsed::NotTls);
    assert_eq!(name(&[(1, b"a.shop")]), Parsed::NotTls);

    let twice = hello_with(&[sni(&[(0, b"a.shop")]), sni(&[(0, b"b.shop")])], 0);
    assert_eq!(client_hello(&records(&twice, &[])), Parsed::NotTls);
    let none = hello_with(&[(43, vec![2, 3, 4])], 0);
    assert_eq!(client_hello(&records(&none, &[])), NAMELESS);
}

#[test]
fn lengths_that_lie_are_not_tls() {
    let good = hello_with(&[sni(&[(0, b"web.shop")])], 0);
    assert_eq!(client_hello(&records(&good, &[])), tls("web.shop"));
    // Each length field, made one longer or one shorter, with the message as long as it says.
    for at in [38, 40, 43, 45, 46, 50, 52, 55] {
        for change in [1, u8::MAX] {
            let mut bad = good.clone();
            bad[at] = bad[at].wrapping_add(change);
            assert_eq!(
                client_hello(&records(&bad, &[])),
                Parsed::NotTls,
                "{at} {change}"
            );
        }
    }
}

#[test]
fn the_largest_hello_is_16_kib_in_at_most_64_records() {
    let name = [sni(&[(0, b"web.shop")])];
    let largest = hello_with(&name, MAX_HELLO);
    assert_eq!(largest.len(), MAX_HELLO);
    assert_eq!(client_hello(&records(&largest, &[])), tls("web.shop"));
    assert_eq!(
        client_hello(&records(&largest, &[256; 63])),
        tls("web.shop")
    );
    assert_eq!(records(&largest, &[256; 63]).len(), MAX_SNIFF);
    assert_eq!(client_hello(&records(&largest, &[255; 64])), Parsed::NotTls);
    let larger = hello_with(&name, MAX_HELLO + 1);
    assert_eq!(client_hello(&records(&larger, &[1000])), Parsed::NotTls);
}

#[test]
fn what_follows_the_hello_stays_in_the_buffer_and_changes_nothing() {
    let mut bytes = real_hello(WEB);
    bytes.extend(b"anything \xff at all".repeat(5000));
    let expected = Sniffed::Tls {
        sni: Some(WEB.into()),
    };
    assert_eq!(sniff_pieces(&bytes, &[usize::MAX]), expected);
    assert_eq!(sniff_pieces(&bytes, &[1]), expected);
}

#[test]
fn a_peer_that_closes_early_is_told_from_one_that_speaks() {
    assert_eq!(sniff_pieces(b"", &[1]), Sniffed::Eof);
    assert_eq!(sniff_pieces(&[22, 3, 1], &[1]), Sniffed::Eof);
}

#[tokio::test]
async fn bytes_read_before_count() {
    let hello = real_hello(WEB);
    let mut buf = BytesMut::from(&hello[..700]);
    let mut io = Pieces::new(&hello[700..], &[100]);
    assert!(matches!(
        sniff(&mut io, &mut buf).await.unwrap(),
        Sniffed::Tls { sni: Some(_) }
    ));
    assert_eq!(buf, hello);
}

/// Streams near to a hello: real ones cut over records, with a byte changed here and there, or made up.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let changed = (
        proptest::collection::vec(1_usize..400, 0..70),
        proptest::collection::vec((0_usize..2000, any::<u8>()), 0..3),
        0_usize..2500,
    )
        .prop_map(|(sizes, changes, cut)| {
            let hello = real_hello(WEB);
            let mut bytes = records(&hello[5..], &sizes);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if cut < bytes.len() {
                bytes.truncate(cut);
            }
            bytes
        });
    let made_up = proptest::collection::vec(any::<u8>(), 0..200);
    let started = made_up.clone().prop_map(|rest| {
        let mut bytes = vec![22, 3, 1, 0, 60, 1, 0, 0, 56, 3, 3];
        bytes.extend(rest);
        bytes
    });
    prop_oneof![4 => changed, 1 => made_up, 2 => started]
}

proptest! {
    #[test]
    fn the_verdict_depends_on_the_bytes_and_not_on_the_cuts(
        bytes in streams(),
        sizes in proptest::collection::vec(1_usize..300, 1..8),
    ) {
        prop_assert_eq!(sniff_pieces(&bytes, &sizes), whole(&bytes));
    }

    #[test]
    fn once_decided_more_bytes_change_nothing(bytes in streams(), end in 0_usize..2500) {
        let early = client_hello(&bytes[..end.min(bytes.len())]);
        if early != Parsed::NeedMore {
            prop_assert_eq!(early, client_hello(&bytes));
        }
    }

    #[test]
    fn no_stream_is_undecided_at_the_limit(
        sizes in proptest::collection::vec(1_usize..16_384, 0..80),
        length in 4_u32..20_000,
    ) {
        // As much of a hello as fits, its last bytes never coming.
        let mut message = vec![1];
        message.extend(&length.to_be_bytes()[1..]);
        message.resize(40_000, 0);
        let bytes = records(&message, &sizes);
        prop_assert_ne!(client_hello(&bytes[..MAX_SNIFF.min(bytes.len())]), Parsed::NeedMore);
    }
}
