//! A label set reads back as it was written, whatever a peer put into it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[test]
fn values_are_escaped_and_read_back() {
    let labels = Labels::new().with("sni", "a\"b\\c\nd").with("port", 80);
    assert_eq!(labels.rendered(), r#"sni="a\"b\\c\nd",port="80""#);
    let pairs: Vec<_> = labels.iter().collect();
    assert_eq!(pairs, [("sni", "a\"b\\c\nd".into()), ("port", "80".into())]);
}

#[test]
fn names_that_discovery_made_up_become_valid() {
    let labels = Labels::new()
        .with("dst_app.kubernetes.io/name", "x")
        .with("1st", "y")
        .with("", "z");
    assert_eq!(
        labels.rendered(),
        r#"dst_app_kubernetes_io_name="x",_1st="y",_="z""#
    );
}

#[test]
fn a_long_value_is_cut_at_a_character() {
    let labels = Labels::new()
        .with("sni", "é".repeat(10_000))
        .with("tls", "opaque");
    let pairs: Vec<_> = labels.iter().collect();
    assert_eq!(pairs[0].1, "é".repeat(MAX_VALUE_BYTES / 2));
    assert_eq!(pairs[1], ("tls", "opaque".into()));
}

#[test]
fn a_shared_set_is_not_changed_by_who_extends_it() {
    let server = Labels::new().with("srv_name", "web");
    let route = server.clone().with("route_name", "default");
    assert_eq!(server.rendered(), r#"srv_name="web""#);
    assert_eq!(Labels::new().extend(&server), server);
    assert_eq!(server.clone().extend(&Labels::new()), server);
    assert_eq!(
        Labels::new().with("tls", "true").extend(&route).rendered(),
        r#"tls="true",srv_name="web",route_name="default""#
    );
    assert_eq!(
        server
            .with_some("x", None::<u8>)
            .with_some("y", Some(1))
            .rendered(),
        r#"srv_name="web",y="1""#
    );
}

#[test]
fn a_repeated_name_counts_once_with_its_last_value() {
    let labels = Labels::new().with("a", 1).with("b", 2).with("a", 3);
    assert_eq!(labels.without_duplicates().rendered(), r#"b="2",a="3""#);
}

proptest! {
    #[test]
    fn any_labels_read_back(pairs in vec(("[a-z_][a-z0-9_]{0,8}", any::<String>()), 0..8)) {
        let labels = pairs.iter().fold(Labels::new(), |labels, (key, value)| labels.with(key, value));
        let read: Vec<(String, String)> = labels
            .iter()
            .map(|(key, value)| (key.to_owned(), value.into_owned()))
            .collect();
        prop_assert_eq!(read, pairs);
        prop_assert!(!labels.rendered().contains('\n'));
    }
}

proptest! {
    /// The same order and equality as that of the texts, however sets share them.
    #[test]
    fn sets_are_in_the_order_of_their_texts(
        pairs in vec(vec(("[ab]", "[a-c]{0,2}"), 0..4), 2..12),
        shared in vec(any::<bool>(), 64),
    ) {
        let mut shared = shared.into_iter().cycle();
        let mut held = Vec::new();
        let sets: Vec<Labels> = pairs.iter().map(|pairs| {
            pairs.iter().fold(Labels::new(), |labels, (key, value)| {
                if shared.next() == Some(true) {
                    held.push(labels.clone());
                }
                match shared.next() {
                    Some(true) => labels.with(key, value),
                    _ => labels.extend(&Labels::new().with(key, value)),
                }
            })
        }).collect();
        for a in &sets {
            for b in &sets {
                prop_assert_eq!(a.cmp(b), a.rendered().cmp(&b.rendered()), "{:?} {:?}", a, b);
            }
        }
    }
}
