//! The first authorization of a list that takes a peer, without going through the list.
//!
//! An authorization asks for two things: what the client shows, and where it comes from. A peer shows few things
//! that can count: nothing (everybody does), mesh TLS, an identity; and an identity is named by at most one exact
//! entry, the empty suffix, and one suffix for each of its labels. Each of these *claims* has its own
//! table by network of the authorizations that accept it, with the smallest list index for every address. So a
//! decision looks up each claim's table and takes the smallest index: as much work with 10,000 authorizations as
//! with one, also where all 10,000 name the same identity with other networks, or the same network with other
//! identities.
//!
//! Claims accepted by the same authorizations share one table. A list that combines many identities with many
//! networks in ever new ways could still ask for much memory; beyond a budget that is linear in the size of the
//! policy, further claims keep the list of their authorizations and try them in order.

use super::index;
use crate::{
    decide::{Authorized, Denied, DenyReason, Peer, PeerTls, Verdict},
    matchers::{
        identity::IdentityTable,
        networks::{NetworkTable, Range, ranges},
    },
    server::{Authentication, Authorization},
};
use std::{collections::HashMap, net::IpAddr};

/// How many ranges tables may hold for each entry of the policy.
const RANGES_PER_ENTRY: usize = 16;

/// The compiled form of a list of authorizations.
#[derive(Debug)]
pub(crate) struct AuthorizationTable {
    /// Of those that want nothing.
    anybody: Option<ClaimId>,
    /// Of those that want mesh TLS.
    tls: Option<ClaimId>,
    /// Of those that want an identity.
    identities: IdentityTable<ClaimId>,
    claims: Vec<Claim>,
    /// Each authorization's own networks; only if a claim tries them in order.
    networks: Vec<NetworkTable>,
    /// For the reason of a denial: the first, by network, that wants TLS or more, and the first that wants an
    /// identity.
    wants_tls: NetworkTable,
    wants_identity: NetworkTable,
    is_empty: bool,
}

type ClaimId = u32;

/// Which authorizations accept a claim.
#[derive(Debug)]
enum Claim {
    Table(NetworkTable),
    InOrder(Box<[u32]>),
}

impl AuthorizationTable {
    pub(crate) fn new(list: &[Authorization]) -> Self {
        let entries: usize = list.iter().map(entries).sum();
        Self::with_budget(list, entries.saturating_mul(RANGES_PER_ENTRY))
    }

    /// `budget` is the number of ranges that the tables may hold together.
    pub(crate) fn with_budget(list: &[Authorization], budget: usize) -> Self {
        let spans: Vec<Vec<Range>> = list
            .iter()
            .map(|authorization| authorization.networks.iter().flat_map(ranges).collect())
            .collect();
        let mut anybody = Vec::new();
        let mut tls = Vec::new();
        let mut identities = IdentityTable::<Vec<u32>>::default();
        let mut wants_identity = Vec::new();
        for (at, authorization) in list.iter().enumerate() {
            let at = index(at);
            match &authorization.authentication {
                Authentication::Unauthenticated => anybody.push(at),
                Authentication::TlsUnauthenticated => tls.push(at),
                Authentication::Identities { exact, suffixes } => {
                    wants_identity.push(at);
                    for name in exact {
                        add(identities.exact(name), at);
                    }
                    for parts in suffixes {
                        add(identities.suffix(parts), at);
                    }
                }
            }
        }
        let mut wants_tls: Vec<u32> = tls.iter().chain(&wants_identity).copied().collect();
        wants_tls.sort_unstable();

        let mut build = Build {
            spans: &spans,
            budget,
            claims: Vec::new(),
            known: HashMap::new(),
        };
        let mut claim = |accepting: Vec<u32>| build.claim(accepting);
        let anybody = (!anybody.is_empty()).then(|| claim(anybody));
        let tls = (!tls.is_empty()).then(|| claim(tls));
        let identities = identities.map(claim);
        let claims = build.claims;
        let in_order = claims
            .iter()
            .any(|claim| matches!(claim, Claim::InOrder(_)));
        let networks = if in_order {
            (0..spans.len())
                .map(|at| table(&spans, &[index(at)]))
                .collect()
        } else {
            Vec::new()
        };
        Self {
            anybody,
            tls,
            identities,
            claims,
            networks,
            wants_tls: table(&spans, &wants_tls),
            wants_identity: table(&spans, &wants_identity),
            is_empty: list.is_empty(),
        }
    }

    /// The first authorization that takes `peer`, or what came closest. `step` is called once a comparison.
    pub(crate) fn decide(&self, peer: &Peer<'_>, step: &mut impl FnMut()) -> Verdict {
        if self.is_empty {
            return Err(Denied {
                reason: DenyReason::NoAuthorizations,
                closest: None,
            });
        }
        let mut first: Option<u32> = None;
        let mut look = |claim: ClaimId| {
            step();
            if let Some(found) = self.look_up(claim, peer.addr, first, step) {
                first = Some(first.map_or(found, |first| first.min(found)));
            }
        };
        self.anybody.map(&mut look);
        if let PeerTls::Terminated { identity } = peer.tls {
            self.tls.map(&mut look);
            if let Some(identity) = identity {
                self.identities.walk(identity, |claim| look(*claim));
            }
        }
        match first {
            Some(authorization) => Ok(Authorized { authorization }),
            None => Err(self.denied(peer, step)),
        }
    }

    fn look_up(
        &self,
        claim: ClaimId,
        addr: IpAddr,
        before: Option<u32>,
        step: &mut impl FnMut(),
    ) -> Option<u32> {
        match self.claims.get(usize::try_from(claim).ok()?)? {
            Claim::Table(table) => table.first(addr, step),
            Claim::InOrder(accepting) => accepting
                .iter()
                .take_while(|at| before.is_none_or(|before| **at < before))
                .copied()
                .find(|at| {
                    usize::try_from(*at)
                        .ok()
                        .and_then(|at| self.networks.get(at))
                        .is_some_and(|networks| networks.first(addr, &mut *step).is_some())
                }),
        }
    }

    /// What of the list came closest to taking a peer that none of it takes.
    fn denied(&self, peer: &Peer<'_>, step: &mut impl FnMut()) -> Denied {
        let (wanting, reason) = match peer.tls {
            PeerTls::None => (&self.wants_tls, DenyReason::NoTls),
            PeerTls::Passthrough => (&self.wants_tls, DenyReason::TlsPassthrough),
            PeerTls::Terminated { identity: None } => {
                (&self.wants_identity, DenyReason::NoIdentity)
            }
            PeerTls::Terminated { identity: Some(_) } => {
                (&self.wants_identity, DenyReason::Identity)
            }
        };
        match wanting.first(peer.addr, step) {
            Some(authorization) => Denied {
                reason,
                closest: Some(Authorized { authorization }),
            },
            None => Denied {
                reason: DenyReason::Network,
                closest: None,
            },
        }
    }
}

/// Adds an index to a list in order, once.
fn add(list: &mut Vec<u32>, at: u32) {
    if list.last() != Some(&at) {
        list.push(at);
    }
}

/// How many parts of a message an authorization is made of.
fn entries(authorization: &Authorization) -> usize {
    let networks: usize = authorization
        .networks
        .iter()
        .map(|network| 1 + network.except.len())
        .sum();
    let names = match &authorization.authentication {
        Authentication::Unauthenticated | Authentication::TlsUnauthenticated => 0,
        Authentication::Identities { exact, suffixes } => exact.len() + suffixes.len(),
    };
    1 + networks + names
}

fn table(spans: &[Vec<Range>], accepting: &[u32]) -> NetworkTable {
    NetworkTable::new(accepting.iter().flat_map(|at| {
        let own = usize::try_from(*at).ok().and_then(|at| spans.get(at));
        own.into_iter().flatten().map(move |range| (*range, *at))
    }))
}

/// Makes claims, once for each distinct list of authorizations.
struct Build<'a> {
    spans: &'a [Vec<Range>],
    budget: usize,
    claims: Vec<Claim>,
    known: HashMap<Vec<u32>, ClaimId>,
}

impl Build<'_> {
    fn claim(&mut self, accepting: Vec<u32>) -> ClaimId {
        if let Some(known) = self.known.get(&accepting) {
            return *known;
        }
        let cost: usize = accepting
            .iter()
            .filter_map(|at| self.spans.get(usize::try_from(*at).ok()?))
            .map(Vec::len)
            .sum();
        let claim = match self.budget.checked_sub(cost) {
            Some(left) => {
                self.budget = left;
                Claim::Table(table(self.spans, &accepting))
            }
            None => Claim::InOrder(accepting.as_slice().into()),
        };
        let id = index(self.claims.len());
        self.claims.push(claim);
        self.known.insert(accepting, id);
        id
    }
}
