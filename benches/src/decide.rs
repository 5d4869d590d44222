//! `bench decide`: the policy decision alone, by number of authorizations.
//!
//! The promise is that the time is the same for 1, 100 and 10,000. The client that is asked about matches the last
//! authorization, which is the worst case of a search through a list.

use crate::Failure;
use clap::Args;
use http::{HeaderMap, Method};
use ipnet::{IpNet, Ipv4Net};
use linkerd_policy::{
    Authentication, Authorization, HttpMatch, HttpPolicy, HttpRoute, HttpRule, Meta, NetworkMatch,
    PathMatch, Peer, PeerId, PeerTls, Policy, Protocol, RequestView, ServerPolicy,
};
use serde::Serialize;
use std::{
    fs,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::{Duration, Instant},
};

/// Numbers of authorizations; the first is what the others are compared with.
const SIZES: [u32; 3] = [1, 100, 10_000];
/// Decisions between two readings of the clock.
const BATCH: u32 = 1_000;
/// Routes of the policy, so that matching one is part of what is measured.
const ROUTES: u32 = 4;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Rounds; each takes every case once, in turn.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Milliseconds of each case in each round.
    #[arg(long, default_value_t = 50)]
    milliseconds: u64,
    /// Also writes the result to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What the authorizations are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum By {
    /// An exact identity each.
    Identity,
    /// A suffix of identities each.
    Suffix,
    /// A network each.
    Network,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Ask {
    /// About a request that the last authorization allows.
    Allowed,
    /// About a request that none allows.
    Denied,
}

/// One case and its time.
#[derive(Debug, Serialize)]
struct Case {
    by: By,
    ask: Ask,
    authorizations: u32,
    /// Nanoseconds for matching the route and deciding, median of the rounds.
    nanos: f64,
    /// To the same case with one authorization, median of the rounds' ratios.
    to_one: f64,
    /// Milliseconds to compile the policy.
    compile_millis: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut cases = Vec::new();
    for by in [By::Identity, By::Suffix, By::Network] {
        let policies = SIZES.map(|size| compiled(by, size));
        for ask in [Ask::Allowed, Ask::Denied] {
            let mut rounds = vec![Vec::new(); SIZES.len()];
            for _ in 0..arguments.rounds.max(1) {
                for (size, (policy, times)) in
                    SIZES.into_iter().zip(policies.iter().zip(&mut rounds))
                {
                    let (policy, _) = policy.as_ref().map_err(ToString::to_string)?;
                    times.push(time(
                        policy,
                        by,
                        ask,
                        size,
                        Duration::from_millis(arguments.milliseconds),
                    )?);
                }
            }
            let ones = rounds.first().cloned().unwrap_or_default();
            for (authorizations, (times, policy)) in
                SIZES.into_iter().zip(rounds.iter().zip(&policies))
            {
                let ratios = times.iter().zip(&ones).map(|(time, one)| time / one);
                let (_, compile) = policy.as_ref().map_err(ToString::to_string)?;
                cases.push(Case {
                    by,
                    ask,
                    authorizations,
                    nanos: crate::report::median(times.iter().copied()).unwrap_or_default(),
                    to_one: crate::report::median(ratios).unwrap_or_default(),
                    compile_millis: compile.as_secs_f64() * 1e3,
                });
            }
        }
    }
    println!(
        "{:<10}{:<9}{:>15}{:>14}{:>10}{:>14}",
        "by", "asked", "authorizations", "ns a request", "x of one", "compile ms"
    );
    for case in &cases {
        let (by, ask) = (format!("{:?}", case.by), format!("{:?}", case.ask));
        println!(
            "{by:<10}{ask:<9}{:>15}{:>14.0}{:>10.2}{:>14.2}",
            case.authorizations, case.nanos, case.to_one, case.compile_millis
        );
    }
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_vec_pretty(&cases)?)?;
    }
    Ok(())
}

/// Nanoseconds of one decision: the route of a request, and whether it is allowed.
fn time(policy: &Policy, by: By, ask: Ask, size: u32, limit: Duration) -> Result<f64, Failure> {
    let known = ask == Ask::Allowed;
    let client = client(by, size, known);
    let identity = identity(if known { size } else { 0 });
    let headers = HeaderMap::new();
    let request = RequestView {
        method: &Method::GET,
        authority: Some("web.shop.svc.cluster.local"),
        path: "/route-2/items/17",
        query: None,
        headers: &headers,
    };
    let peer = Peer {
        addr: client,
        tls: PeerTls::Terminated {
            identity: Some(PeerId::Dns(&identity)),
        },
    };
    let decide = || {
        let matched = policy.route(black_box(&request))?;
        let route = usize::try_from(matched.route).ok()?;
        Some(policy.authorize(black_box(&peer), route).is_ok())
    };
    if decide() != Some(known) {
        return Err(
            format!("{by:?} with {size} authorizations: the decision is not {ask:?}").into(),
        );
    }
    let (mut decisions, started) = (0_u32, Instant::now());
    loop {
        for _ in 0..BATCH {
            black_box(decide());
        }
        decisions += BATCH;
        let spent = started.elapsed();
        if spent >= limit {
            return Ok(spent.as_secs_f64() * 1e9 / f64::from(decisions));
        }
    }
}

/// A policy with `size` authorizations, and how long it took to compile.
fn compiled(by: By, size: u32) -> Result<(Policy, Duration), Failure> {
    let routes = (0..ROUTES).map(|number| HttpRoute {
        meta: Meta::resource(
            "gateway.networking.k8s.io",
            "HTTPRoute",
            format!("route-{number}"),
        ),
        hosts: Vec::new(),
        authorizations: Vec::new(),
        rules: vec![HttpRule {
            matches: vec![HttpMatch {
                path: Some(PathMatch::Prefix(format!("/route-{number}"))),
                ..HttpMatch::default()
            }],
            filters: Vec::new(),
        }],
    });
    let server = ServerPolicy {
        meta: Meta::resource("policy.linkerd.io", "server", "web"),
        protocol: Protocol::Http1(HttpPolicy {
            routes: routes.collect(),
            rate_limit: None,
        }),
        authorizations: (1..=size)
            .map(|number| authorization(by, number))
            .collect::<Result<_, _>>()?,
    };
    let started = Instant::now();
    let policy = Policy::compile(server).map_err(|error| error.to_string())?;
    Ok((policy, started.elapsed()))
}

/// The `number`th authorization; what it allows, no other does.
fn authorization(by: By, number: u32) -> Result<Authorization, Failure> {
    let any = IpNet::V4(Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0)?);
    let net = match by {
        By::Network => IpNet::V4(Ipv4Net::new(network(number), 24)?),
        By::Identity | By::Suffix => any,
    };
    let (exact, suffixes) = match by {
        By::Identity => (vec![identity(number)], Vec::new()),
        By::Suffix => {
            let suffix = identity(number)
                .split('.')
                .skip(1)
                .map(ToOwned::to_owned)
                .collect();
            (Vec::new(), vec![suffix])
        }
        By::Network => (Vec::new(), Vec::new()),
    };
    Ok(Authorization {
        meta: Meta::resource(
            "policy.linkerd.io",
            "authorizationpolicy",
            format!("client-{number}"),
        ),
        networks: vec![NetworkMatch {
            net,
            except: Vec::new(),
        }],
        authentication: match by {
            By::Network => Authentication::Unauthenticated,
            By::Identity | By::Suffix => Authentication::Identities { exact, suffixes },
        },
    })
}

fn identity(number: u32) -> String {
    format!("web.client-{number}.serviceaccount.identity.linkerd.cluster.local")
}

/// A network of 256 addresses of its own for each number below 65,536.
fn network(number: u32) -> Ipv4Addr {
    Ipv4Addr::from((10 << 24) | (number << 8))
}

/// The client's address: within the network of `size` if it is known, else in none.
fn client(by: By, size: u32, known: bool) -> IpAddr {
    let within = if known || by != By::Network {
        network(size)
    } else {
        Ipv4Addr::new(192, 0, 2, 0)
    };
    IpAddr::V4(Ipv4Addr::from(u32::from(within) | 7))
}
