//! Messages of a control plane: what can be used is used, what comes out of it can be sent and means the same.

use linkerd_policy::{
    Policy,
    outbound::{
        OutboundPolicy, Protocol,
        router::{HttpRouter, ProfileRouter, SniRouter},
    },
    proto,
};
use linkerd2_proxy_api::{
    destination::{DestinationProfile, Update, update},
    inbound, outbound,
};
use prost::Message;
use std::collections::HashMap;

/// A policy of a port: `io.linkerd.proxy.inbound.Server`.
pub fn inbound_policy(input: &[u8]) {
    let Ok(message) = inbound::Server::decode(input) else {
        return;
    };
    let Ok(policy) = proto::server_from_api(message) else {
        return;
    };
    let sent = proto::server_to_api(&policy);
    assert_eq!(proto::server_from_api(sent).ok().as_ref(), Some(&policy));
    // What was taken can be enforced.
    let compiled = Policy::compile(policy);
    assert!(compiled.is_ok(), "{compiled:?}");
}

/// A policy of a destination: `io.linkerd.proxy.outbound.OutboundPolicy`.
pub fn outbound_policy(input: &[u8]) {
    let Ok(message) = outbound::OutboundPolicy::decode(input) else {
        return;
    };
    let Ok(policy) = proto::outbound_from_api(message) else {
        return;
    };
    let sent = proto::outbound_to_api(&policy);
    let again = proto::outbound_from_api(sent);
    assert_eq!(again.as_ref().ok(), Some(&policy), "{again:?}");
    compile(&policy);
}

fn compile(policy: &OutboundPolicy) {
    let http = |policy| drop(HttpRouter::http(policy));
    match &policy.protocol {
        Protocol::Detect {
            http1,
            http2,
            opaque,
            ..
        } => {
            http(http1);
            http(http2);
            SniRouter::new(opaque);
        }
        Protocol::Http1(policy) | Protocol::Http2(policy) => http(policy),
        Protocol::Grpc(policy) => drop(HttpRouter::grpc(policy)),
        Protocol::Opaque(routes) | Protocol::Tls(routes) => {
            SniRouter::new(routes).find(Some("secure.example"));
        }
    }
}

/// Endpoints and profiles of a name: `io.linkerd.proxy.destination.Update`, and the same bytes as `DestinationProfile`.
pub fn destination(input: &[u8]) {
    if let Ok(message) = Update::decode(input) {
        match message.update {
            Some(update::Update::Add(set)) => {
                for addr in set.addrs {
                    let Ok(endpoint) = proto::endpoint_from_api(addr, &set.metric_labels) else {
                        continue;
                    };
                    let sent = proto::endpoint_to_api(&endpoint);
                    let again = proto::endpoint_from_api(sent, &HashMap::new());
                    assert_eq!(again.ok(), Some(endpoint));
                }
            }
            Some(update::Update::Remove(set)) => {
                for addr in set.addrs {
                    let _ = proto::socket_address(Some(addr));
                }
            }
            Some(update::Update::NoEndpoints(_)) | None => {}
        }
    }
    if let Ok(message) = DestinationProfile::decode(input) {
        let (profile, _) = proto::profile_from_api(message);
        let sent = proto::profile_to_api(&profile);
        let (again, warnings) = proto::profile_from_api(sent);
        assert_eq!(again, profile, "{warnings:?}");
        ProfileRouter::new(&profile).find(&http::Method::GET, "/a/b");
    }
}
