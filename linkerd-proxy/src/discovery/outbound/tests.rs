//! What becomes of what the control plane says, and of what it does not say. Streams are tested over sockets:
//! `tests/mesh/outbound_messages.rs`.

use super::*;
use crate::discovery::testing::registry;

fn state(target: &str, forwards: bool) -> Arc<State> {
    let target = match target.parse() {
        Ok(address) => Target::Addr(address),
        Err(_) => Target::Name(target.to_owned()),
    };
    let refused = registry()
        .counters(&describe::OUTBOUND_DISCOVERY_UPDATES_REFUSED_TOTAL)
        .get(&Labels::new());
    let unknown = Known {
        version: 0,
        received: SystemTime::now(),
        policy: Arc::new(policy("unknown")),
        profile: None,
        mtls: Mtls::default(),
        workload_mtls: Mtls::default(),
        source: Source::Unknown,
    };
    Arc::new(State {
        target,
        current: ArcSwap::from_pointee(unknown),
        changed: watch::channel(0).0,
        parts: Mutex::default(),
        detect_timeout: Duration::from_secs(1),
        forwards,
        refused,
    })
}

fn lookup(state: &Arc<State>) -> Lookup {
    let gauge = registry().gauges(&describe::OUTBOUND_DESTINATIONS);
    Lookup {
        state: state.clone(),
        tasks: Mutex::default(),
        gauge: gauge.get(&Labels::new()),
        is_watched: true,
    }
}

fn policy(name: &str) -> OutboundPolicy {
    OutboundPolicy {
        parent: Ref::default_named(name),
        protocol: Protocol::Opaque(Vec::new()),
    }
}

fn profile(name: Option<&str>, endpoint: Option<&str>) -> Arc<Profile> {
    Arc::new(Profile {
        name: name.map(str::to_owned),
        endpoint: endpoint.map(|address| plain(address.parse().unwrap())),
        ..Profile::default()
    })
}

/// Where the fallback sends HTTP: an address, a balanced name, or nowhere.
fn goes_to(state: &State) -> String {
    let known = state.current.load();
    let Protocol::Detect { http1, .. } = &known.policy.protocol else {
        panic!("{:?}", known.policy);
    };
    let Some(rule) = http1.routes.first().and_then(|route| route.rules.first()) else {
        return "nowhere".to_owned();
    };
    let Distribution::FirstAvailable(backends) = &rule.action.backends else {
        panic!("{rule:?}");
    };
    match backends
        .first()
        .unwrap()
        .backend
        .dispatcher
        .as_ref()
        .unwrap()
    {
        Dispatcher::Forward(endpoint) => endpoint.address.to_string(),
        Dispatcher::Balance { path, .. } => path.clone(),
    }
}

#[test]
fn nothing_is_in_force_before_both_policy_and_profile_have_been_spoken_of() {
    let state = state("10.0.0.1:80", false);
    state.update(|parts| parts.policy = Some(Answer::Policy(Arc::new(policy("a")))));
    assert_eq!(state.current.load().source, Source::Unknown);
    state.update(|parts| parts.profile = Some(None));
    let known = state.current.load_full();
    assert_eq!((known.version, &known.source), (1, &Source::Controller));
    assert_eq!(*known.policy, policy("a"));
}

#[test]
fn a_version_is_a_change() {
    let state = state("10.0.0.1:80", false);
    let say = |name: &str| {
        let policy = Arc::new(policy(name));
        state.update(|parts| {
            parts.profile = Some(None);
            parts.policy = Some(Answer::Policy(policy));
        });
        state.current.load().version
    };
    assert_eq!([say("a"), say("a"), say("b"), say("a")], [1, 1, 2, 3]);
}

#[test]
fn what_cannot_be_used_never_takes_the_place_of_what_can() {
    let state = state("10.0.0.1:80", false);
    state.update(|parts| parts.profile = Some(None));
    let mut policies = Policies(state.clone());
    policies.message(api::OutboundPolicy::default());
    assert!(matches!(state.current.load().source, Source::Invalid(_)));
    assert_eq!(state.refused.get(), 1);

    state.update(|parts| parts.policy = Some(Answer::Policy(Arc::new(policy("good")))));
    policies.message(api::OutboundPolicy::default());
    assert_eq!(state.refused.get(), 2);
    for code in [
        Code::InvalidArgument,
        Code::FailedPrecondition,
        Code::Unavailable,
        Code::Internal,
    ] {
        let status = tonic::Status::new(code, "no");
        assert!(policies.ended(&End::Status(status)), "it is asked again");
        let known = state.current.load();
        assert_eq!(known.source, Source::Controller, "{code:?}");
        assert_eq!(*known.policy, policy("good"));
    }
    // That it is gone is an answer.
    policies.ended(&End::Status(tonic::Status::not_found("")));
    assert_eq!(state.current.load().source, Source::Fallback);
}

#[test]
fn what_no_policy_is_about_goes_where_its_profile_says_else_where_it_was_going() {
    let fallback = |target: &str, profile: Option<Arc<Profile>>, resolved: Option<&str>| {
        let state = state(target, false);
        state.update(|parts| {
            parts.policy = Some(Answer::None);
            parts.profile = Some(profile);
            parts.resolved = resolved.map(|address| address.parse().unwrap());
        });
        goes_to(&state)
    };
    let address = "10.0.0.1:80";
    assert_eq!(fallback(address, None, None), address);
    let of_pod = profile(None, Some("10.9.9.9:8080"));
    assert_eq!(fallback(address, Some(of_pod), None), "10.9.9.9:8080");
    let of_service = profile(Some("web.shop.svc.cluster.local"), None);
    assert_eq!(
        fallback(address, Some(of_service), None),
        "web.shop.svc.cluster.local:80"
    );
    assert_eq!(fallback("example.com:80", None, None), "nowhere");
    assert_eq!(
        fallback("example.com:80", None, Some("192.0.2.7:80")),
        "192.0.2.7:80"
    );
}

#[test]
fn a_name_that_only_dns_may_know_is_unknown_until_dns_has_answered() {
    let state = state("example.com:80", false);
    let mut asked = state.changed.subscribe();
    asked.mark_unchanged();
    state.update(|parts| {
        parts.dns = Dns::Awaited;
        parts.policy = Some(Answer::None);
        parts.profile = Some(None);
    });
    assert_eq!(state.current.load().source, Source::Unknown);
    assert!(asked.has_changed().unwrap(), "who asks DNS is told to");
    state.update(|parts| parts.dns = Dns::Answered);
    assert_eq!(state.current.load().policy.parent.name(), "unresolved-name");
    state.update(|parts| parts.resolved = Some("192.0.2.7:80".parse().unwrap()));
    assert_eq!(goes_to(&state), "192.0.2.7:80");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_nobody_knows_is_told_in_time_and_goes_on_where_that_is_configured() {
    let limit = Duration::from_secs(3);
    let began = tokio::time::Instant::now();
    assert!(!lookup(&state("10.0.0.1:80", false)).ready(limit).await);
    assert_eq!(began.elapsed(), limit);

    let forwarding = state("10.0.0.1:80", true);
    assert!(lookup(&forwarding).ready(limit).await);
    assert_eq!(goes_to(&forwarding), "10.0.0.1:80");
    // A name leads nowhere by itself.
    assert!(!lookup(&state("web.shop:80", true)).ready(limit).await);
}

#[test]
fn mutual_tls_is_checked_by_what_is_required_and_who_is_expected() {
    let mtls = |is_required, identities: &[&str]| Mtls {
        is_required,
        identities: identities.iter().map(|id| (*id).to_owned()).collect(),
    };
    let nothing = Mtls::default();
    let refused = |mtls: &Mtls, identity| {
        let result = Mtls::check_all([mtls, &nothing, &nothing], &nothing, identity);
        result.err().map(|refused| refused.label())
    };
    for (mtls, plaintext, as_a, as_b) in [
        (mtls(None, &[]), None, None, None),
        (mtls(Some(false), &[]), None, None, None),
        (mtls(Some(true), &[]), Some("plaintext"), None, None),
        (
            mtls(None, &["A"]),
            Some("plaintext"),
            None,
            Some("identity"),
        ),
        (
            mtls(Some(false), &["a", "b"]),
            Some("plaintext"),
            None,
            None,
        ),
    ] {
        assert_eq!(refused(&mtls, None), plaintext, "{mtls:?}");
        assert_eq!(refused(&mtls, Some("a")), as_a, "{mtls:?}");
        assert_eq!(refused(&mtls, Some("b")), as_b, "{mtls:?}");
    }
    // What a destination says of itself counts before what the proxy is told of all.
    let required = mtls(Some(true), &[]);
    let check = |said, default, identity| Mtls::check_all(said, default, identity).is_ok();
    assert!(!check([&nothing, &nothing, &nothing], &required, None));
    let preferred = mtls(Some(false), &[]);
    assert!(check([&preferred, &nothing, &nothing], &required, None));
    // The servers that the proxy is told of: where nobody names any, and nobody says that plaintext will do.
    let some = mtls(Some(false), &["a"]);
    assert!(check([&nothing, &nothing, &nothing], &some, Some("a")));
    assert!(!check([&nothing, &nothing, &nothing], &some, Some("b")));
    assert!(!check([&nothing, &nothing, &nothing], &some, None));
    assert!(check([&preferred, &nothing, &nothing], &some, None));
    assert!(!check([&preferred, &nothing, &nothing], &some, Some("b")));
    let others = mtls(None, &["b"]);
    assert!(check([&nothing, &others, &nothing], &some, Some("b")));
    assert!(!check([&nothing, &others, &nothing], &some, Some("a")));
    // Whoever is concerned can require it: the destination, the workload that has the address, the backend.
    let expecting = mtls(None, &["a"]);
    for at in 0..3 {
        let mut said = [&preferred; 3];
        said[at] = &required;
        assert!(!check(said, &nothing, None), "{at}");
        assert!(check(said, &nothing, Some("a")), "{at}");
        said[at] = &expecting;
        assert!(check(said, &nothing, Some("a")), "{at}");
        assert!(!check(said, &nothing, Some("b")), "{at}");
        assert!(!check(said, &nothing, None), "{at}");
    }
}
