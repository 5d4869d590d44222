//! Which entry of a list holds an address: the smallest index whose network contains it outside its exceptions.
//!
//! Networks with their exceptions are cut into ranges of addresses that do not overlap, each with the smallest index
//! that covers it. A look-up finds the range's bucket by its high bits and searches there by halves: one or two
//! steps where networks are spread evenly, and never more than 34 for IPv4 and 130 for IPv6 (there are no more
//! boundaries than addresses), like a binary trie. Memory is linear in networks plus exceptions, where an exception
//! in a trie costs a node for each bit below the network. IPv4 addresses in their IPv6 form (`::ffff:a.b.c.d`)
//! count as IPv4, on both sides.

use crate::server::NetworkMatch;
use ipnet::{IpNet, Ipv4Net};
use std::{collections::BinaryHeap, net::IpAddr};

/// No entry.
const NONE: u32 = u32::MAX;

/// The smallest index by address.
#[derive(Debug)]
pub(crate) enum NetworkTable {
    /// Every address has this index: the usual case.
    Everything(u32),
    /// By family.
    Ranges { v4: Cuts, v6: Cuts },
}

/// The addresses of a family, cut at every boundary.
#[derive(Debug)]
pub(crate) struct Cuts {
    /// Where each range starts and its index, [`NONE`] for a gap; in order.
    ranges: Box<[(u128, u32)]>,
    /// How far addresses are shifted to give their bucket.
    shift: u32,
    /// For each bucket, how many ranges start before it; at the end their number.
    buckets: Box<[usize]>,
}

/// A run of addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    v6: bool,
    start: u128,
    end: u128,
}

impl NetworkTable {
    /// Makes the table of these ranges, each with its index.
    pub(crate) fn new(ranges: impl IntoIterator<Item = (Range, u32)>) -> Self {
        let (v6, v4): (Vec<_>, Vec<_>) = ranges.into_iter().partition(|(range, _)| range.v6);
        let v4 = sweep(v4);
        let v6 = sweep(v6);
        if let ([(0, four)], [(0, six)]) = (v4.as_slice(), v6.as_slice())
            && four == six
        {
            return Self::Everything(*four);
        }
        Self::Ranges {
            v4: Cuts::new(v4),
            v6: Cuts::new(v6),
        }
    }

    /// The smallest index that holds `addr`. `step` is called once a comparison.
    pub(crate) fn first(&self, addr: IpAddr, mut step: impl FnMut()) -> Option<u32> {
        step();
        let index = match self {
            Self::Everything(index) => *index,
            Self::Ranges { v4, v6 } => match addr.to_canonical() {
                IpAddr::V4(addr) => v4.find(u32::from(addr).into(), step)?,
                IpAddr::V6(addr) => v6.find(addr.into(), step)?,
            },
        };
        (index != NONE).then_some(index)
    }
}

impl Cuts {
    fn new(ranges: Vec<(u128, u32)>) -> Self {
        let low = ranges.first().map_or(0, |(start, _)| *start);
        let span = ranges.last().map_or(0, |(start, _)| *start) - low;
        // About as many buckets as ranges.
        let shift = (u128::BITS - span.leading_zeros()).saturating_sub(ranges.len().max(1).ilog2());
        let count = usize::try_from(span >> shift).unwrap_or_default() + 1;
        let mut buckets = Vec::with_capacity(count + 1);
        for (at, (start, _)) in ranges.iter().enumerate() {
            let bucket = usize::try_from((start - low) >> shift).unwrap_or_default();
            if buckets.len() <= bucket {
                buckets.resize(bucket + 1, at);
            }
        }
        buckets.push(ranges.len());
        Self {
            ranges: ranges.into(),
            shift,
            buckets: buckets.into(),
        }
    }

    /// The index of the range that holds `addr`.
    fn find(&self, addr: u128, mut step: impl FnMut()) -> Option<u32> {
        let (low, _) = self.ranges.first()?;
        let bucket = usize::try_from(addr.checked_sub(*low)? >> self.shift).unwrap_or(usize::MAX);
        // Above the last boundary is the last bucket.
        let bucket = bucket.min(self.buckets.len().checked_sub(2)?);
        let (start, end) = (*self.buckets.get(bucket)?, *self.buckets.get(bucket + 1)?);
        let after = start
            + self.ranges.get(start..end)?.partition_point(|(start, _)| {
                step();
                *start <= addr
            });
        self.ranges
            .get(after.checked_sub(1)?)
            .map(|(_, index)| *index)
    }
}

/// The addresses of a network outside its exceptions.
pub(crate) fn ranges(network: &NetworkMatch) -> Vec<Range> {
    let whole = range(&network.net);
    let mut holes: Vec<Range> = network
        .except
        .iter()
        .map(range)
        .filter(|hole| hole.v6 == whole.v6 && hole.start <= whole.end && hole.end >= whole.start)
        .collect();
    holes.sort_unstable_by_key(|hole| (hole.start, hole.end));
    let mut left = Vec::with_capacity(holes.len() + 1);
    let mut start = whole.start;
    for hole in holes {
        if hole.start > start {
            left.push(Range {
                start,
                end: hole.start - 1,
                ..whole
            });
        }
        if hole.end >= whole.end {
            return left;
        }
        start = start.max(hole.end + 1);
    }
    left.push(Range { start, ..whole });
    left
}

/// The network as the range of addresses it holds, with IPv4 in IPv6 form turned to IPv4.
fn range(net: &IpNet) -> Range {
    let net = match net {
        IpNet::V6(six) if six.prefix_len() >= 96 => six
            .network()
            .to_ipv4_mapped()
            .and_then(|four| Ipv4Net::new(four, six.prefix_len() - 96).ok())
            .map_or(*net, IpNet::V4),
        _ => *net,
    };
    match net {
        IpNet::V4(net) => Range {
            v6: false,
            start: u32::from(net.network()).into(),
            end: u32::from(net.broadcast()).into(),
        },
        IpNet::V6(net) => Range {
            v6: true,
            start: net.network().into(),
            end: net.broadcast().into(),
        },
    }
}

/// Cuts ranges that may overlap into boundaries: from each start up to the next, the smallest index.
fn sweep(mut ranges: Vec<(Range, u32)>) -> Vec<(u128, u32)> {
    use std::cmp::Reverse;
    ranges.sort_unstable_by_key(|(range, index)| (range.start, *index));
    let last = ranges.first().map_or(
        0,
        |(range, _)| if range.v6 { u128::MAX } else { u32::MAX.into() },
    );
    let mut boundaries: Vec<u128> = ranges
        .iter()
        .flat_map(|(range, _)| [Some(range.start), (range.end < last).then(|| range.end + 1)])
        .flatten()
        .collect();
    boundaries.sort_unstable();
    boundaries.dedup();

    let mut coming = ranges.into_iter().peekable();
    let mut active = BinaryHeap::new();
    let mut cuts: Vec<(u128, u32)> = Vec::new();
    for boundary in boundaries {
        while let Some((range, index)) = coming.next_if(|(range, _)| range.start <= boundary) {
            active.push(Reverse((index, range.end)));
        }
        while active
            .peek()
            .is_some_and(|Reverse((_, end))| *end < boundary)
        {
            active.pop();
        }
        let index = active.peek().map_or(NONE, |Reverse((index, _))| *index);
        if cuts.last().is_none_or(|(_, before)| *before != index) {
            cuts.push((boundary, index));
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn table(entries: &[(&str, &[&str])]) -> NetworkTable {
        NetworkTable::new(
            entries
                .iter()
                .zip(0..)
                .flat_map(|((inside, except), index)| {
                    ranges(&NetworkMatch {
                        net: net(inside),
                        except: except.iter().map(|text| net(text)).collect(),
                    })
                    .into_iter()
                    .map(move |range| (range, index))
                }),
        )
    }

    fn first(table: &NetworkTable, addr: &str) -> Option<u32> {
        table.first(addr.parse().unwrap(), || ())
    }

    #[test]
    fn exceptions_are_outside_even_where_they_nest_touch_or_repeat() {
        let table = table(&[(
            "10.0.0.0/8",
            &[
                "10.1.0.0/16",
                "10.1.2.0/24",
                "10.2.0.0/16",
                "10.1.0.0/16",
                "192.168.0.0/16",
            ],
        )]);
        assert_eq!(first(&table, "10.0.255.255"), Some(0));
        assert_eq!(first(&table, "10.1.0.0"), None);
        assert_eq!(first(&table, "10.1.2.3"), None);
        assert_eq!(first(&table, "10.2.255.255"), None);
        assert_eq!(first(&table, "10.3.0.0"), Some(0));
        assert_eq!(first(&table, "11.0.0.0"), None);
        assert_eq!(first(&table, "9.255.255.255"), None);
    }

    #[test]
    fn an_exception_wider_than_its_network_leaves_nothing() {
        let table = table(&[
            ("10.1.0.0/16", &["10.0.0.0/8"]),
            ("0.0.0.0/0", &["0.0.0.0/0"]),
        ]);
        assert_eq!(first(&table, "10.1.2.3"), None);
        assert_eq!(first(&table, "255.255.255.255"), None);
    }

    #[test]
    fn an_address_excepted_by_one_entry_is_found_in_a_later_one() {
        let table = table(&[("0.0.0.0/0", &["10.0.0.0/8"]), ("10.0.0.1/32", &[])]);
        assert_eq!(first(&table, "10.0.0.1"), Some(1));
        assert_eq!(first(&table, "10.0.0.2"), None);
        assert_eq!(first(&table, "255.255.255.255"), Some(0));
        assert_eq!(first(&table, "0.0.0.0"), Some(0));
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_counts_as_ipv4() {
        let table = table(&[("10.0.0.0/8", &["::ffff:10.9.0.0/112"])]);
        assert_eq!(first(&table, "::ffff:10.1.2.3"), Some(0));
        assert_eq!(first(&table, "10.9.1.1"), None);
        assert_eq!(first(&table, "::ffff:10.9.1.1"), None);
    }

    #[test]
    fn every_address_costs_one_step() {
        let table = table(&[("::/0", &[]), ("0.0.0.0/0", &[])]);
        // Two indices, so not the short form.
        assert_eq!(first(&table, "::1"), Some(0));
        assert_eq!(first(&table, "1.1.1.1"), Some(1));
        let all = NetworkTable::new(["::/0", "0.0.0.0/0"].map(|text| (range(&net(text)), 7)));
        assert!(matches!(all, NetworkTable::Everything(7)));
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        // Few addresses, so that networks overlap often.
        let four = (0u32..16, 24u8..=32).prop_map(|(low, len)| {
            IpNet::V4(Ipv4Net::new_assert(
                std::net::Ipv4Addr::from(0x0a00_0000 + low),
                len,
            ))
        });
        let six = (0u128..16, 120u8..=128)
            .prop_map(|(low, len)| IpNet::V6(ipnet::Ipv6Net::new_assert(low.into(), len)));
        prop_oneof![four, six]
    }

    #[test]
    fn networks_that_are_spread_evenly_are_found_in_a_few_steps() {
        let entries = (0..10_000u32).map(|n| {
            let net = Ipv4Net::new_assert((0x0a00_0000 + (n << 8)).into(), 24);
            (range(&net.into()), n)
        });
        let table = NetworkTable::new(entries);
        for n in [0, 1, 4_999, 9_999] {
            let mut steps = 0;
            let addr = std::net::Ipv4Addr::from(0x0a00_0007 + (n << 8));
            assert_eq!(table.first(addr.into(), || steps += 1), Some(n));
            assert!(steps <= 4, "{steps}");
        }
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_looking_at_every_network(
            entries in proptest::collection::vec((any_net(), proptest::collection::vec(any_net(), 0..4)), 0..12),
            low in 0u8..40, six in any::<bool>(),
        ) {
            let addr: IpAddr = if six {
                std::net::Ipv6Addr::from(u128::from(low)).into()
            } else {
                std::net::Ipv4Addr::from(0x0a00_0000 + u32::from(low)).into()
            };
            let table = NetworkTable::new(entries.iter().zip(0..).flat_map(|((net, except), index)| {
                ranges(&NetworkMatch { net: *net, except: except.clone() }).into_iter().map(move |range| (range, index))
            }));
            let wanted = entries
                .iter()
                .position(|(net, except)| net.contains(&addr) && !except.iter().any(|hole| hole.contains(&addr)));
            prop_assert_eq!(table.first(addr, || ()), wanted.map(|index| u32::try_from(index).unwrap()));
        }
    }
}
