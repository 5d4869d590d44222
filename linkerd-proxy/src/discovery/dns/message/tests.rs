use super::*;
use proptest::prelude::*;

fn question(kind: Kind) -> Question {
    Question {
        id: 0x1234,
        name: Name::parse("Policy.linkerd.").unwrap(),
        kind,
    }
}

const POLICY: &[u8] = b"\x06policy\x07linkerd\x00";

/// An answer to a question, whose records are given as they are.
fn message(kind: Kind, flags: u16, answers: &[&[u8]], glue: &[&[u8]]) -> Vec<u8> {
    let count = |records: &[&[u8]]| u16::try_from(records.len()).unwrap();
    let mut all = Vec::new();
    for word in [0x1234, flags, 1, count(answers), 0, count(glue)] {
        all.extend(word.to_be_bytes());
    }
    all.extend(POLICY);
    all.extend((kind as u16).to_be_bytes());
    all.extend([0, 1]);
    for record in answers.iter().chain(glue) {
        all.extend(*record);
    }
    all
}

const FOUND: u16 = 0x8180;
/// A record of the question's name, which is at 12.
const ONE: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x00\x00\x01";
const SRV: &[u8] =
    b"\xc0\x0c\x00\x21\x00\x01\x00\x00\x00\x05\x00\x0b\x00\x00\x00\x64\x1f\x9a\x02db\xc0\x0c";
const GLUE: &[u8] =
    b"\x02DB\x06policy\x07linkerd\x00\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00\x02";

#[test]
fn a_question_is_what_the_standard_says() {
    let sent = question(Kind::A).encode();
    let head = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(sent, [&head[..], POLICY, &[0, 1, 0, 1]].concat());
    for name in ["", "a..b", &"x".repeat(64), &"abcdefg.".repeat(32)] {
        assert!(Name::parse(name).is_none(), "{name}");
    }
}

#[test]
fn records_are_found_by_name_and_kind_and_kept_for_as_long_as_the_shortest_lives() {
    let asked = question(Kind::A);
    let answer = asked
        .answer(&message(Kind::A, FOUND, &[ONE, SRV], &[]))
        .unwrap();
    let ip: IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(answer.addresses(&asked.name), (vec![ip], 30));

    let asked = question(Kind::Srv);
    let answer = asked
        .answer(&message(Kind::Srv, FOUND, &[SRV], &[GLUE]))
        .unwrap();
    let (services, ttl) = answer.services(&asked.name);
    let target = Name::parse("db.policy.linkerd").unwrap();
    let service = Service {
        priority: 0,
        port: 8090,
        target: target.clone(),
    };
    assert_eq!((services, ttl), (vec![service], 5));
    let ip: IpAddr = "10.0.0.2".parse().unwrap();
    assert_eq!(answer.glue(&target), (vec![ip], 5));
}

#[test]
fn aliases_are_followed_and_those_that_go_round_lead_nowhere() {
    let asked = question(Kind::A);
    let alias = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x09\x00\x05\x02db\xc0\x0c";
    let address =
        b"\x02db\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x0a\x00\x04\x0a\x00\x00\x03".as_slice();
    let answer = asked.answer(&message(Kind::A, FOUND, &[alias, address], &[]));
    let ip: IpAddr = "10.0.0.3".parse().unwrap();
    assert_eq!(answer.unwrap().addresses(&asked.name), (vec![ip], 9));
    let round = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x09\x00\x02\xc0\x0c";
    let answer = asked.answer(&message(Kind::A, FOUND, &[round], &[]));
    assert_eq!(
        answer.unwrap().addresses(&asked.name).0,
        Vec::<IpAddr>::new()
    );
}

#[test]
fn what_is_no_answer_to_the_question_is_none() {
    let asked = question(Kind::A);
    let good = message(Kind::A, FOUND, &[ONE], &[]);
    assert!(asked.answer(&good).is_some());
    let other = Question {
        id: 0x1235,
        ..asked.clone()
    };
    assert!(other.answer(&good).is_none(), "another id");
    assert!(question(Kind::Aaaa).answer(&good).is_none(), "another kind");
    let mut query = good.clone();
    query[2] = 0x01;
    assert!(asked.answer(&query).is_none(), "a question");
    for end in 0..good.len() {
        assert!(asked.answer(&good[..end]).is_none(), "cut at {end}");
    }
    // A pointer to itself, forward, and to a label's middle that goes round.
    for name in [b"\xc0\x20", b"\xc0\x3f", b"\xff\xff"] {
        let record = [&name[..], &ONE[2..]].concat();
        assert!(
            asked
                .answer(&message(Kind::A, FOUND, &[&record], &[]))
                .is_none()
        );
    }
    // More data than an address has.
    let long = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x05\x0a\x00\x00\x01\x00";
    assert!(
        asked
            .answer(&message(Kind::A, FOUND, &[long], &[]))
            .is_none()
    );
}

#[test]
fn a_truncated_answer_and_a_refusal_say_so() {
    let asked = question(Kind::A);
    let answer = asked
        .answer(&message(Kind::A, 0x8380, &[ONE], &[]))
        .unwrap();
    assert!(answer.is_truncated);
    let answer = asked.answer(&message(Kind::A, 0x8183, &[], &[])).unwrap();
    assert_eq!((answer.code, answer.is_truncated), (3, false));
}

proptest! {
    #[test]
    fn no_message_does_harm(
        at in 0usize..80,
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let asked = question(Kind::Srv);
        let mut message = message(Kind::Srv, FOUND, &[SRV], &[GLUE, ONE]);
        let end = message.len().min(at + bytes.len());
        message.splice(at.min(end)..end, bytes);
        if let Some(answer) = asked.answer(&message) {
            answer.services(&asked.name);
            answer.addresses(&asked.name);
            answer.glue(&asked.name);
        }
    }
}
