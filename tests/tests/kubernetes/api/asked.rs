//! What may be asked of the policy APIs, in which words anything else is refused, and when a stream ends.

use super::*;
use crate::policy::{account, pod, running};
use api::outbound_policies_client::OutboundPoliciesClient as Outbound;
use linkerd2_proxy_api::{
    inbound::{PortSpec, inbound_server_policies_client::InboundServerPoliciesClient as Inbound},
    net::{IpAddress, TcpAddress},
};

async fn channel(plane: &ControlPlane) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", plane.policy)).unwrap();
    endpoint.connect().await.unwrap()
}

fn said<T>(answer: Result<T, Status>) -> String {
    match answer {
        Ok(_) => "yes".to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

#[tokio::test]
async fn workloads_and_ports_are_asked_for_in_the_forms_of_the_contract() {
    let Some((_api, plane)) = shop().await else {
        return;
    };
    let mut client = Inbound::new(channel(&plane).await);
    let unknown = "NotFound: unknown server";
    for (workload, port, wanted) in [
        ("shop:web", 8080, "yes"),
        (r#"{"ns":"shop","pod":"web"}"#, 1, "yes"),
        ("shop:web", 65_535, "yes"),
        ("shop:web", 0, "InvalidArgument: Invalid port: 0"),
        ("shop:web", 65_536, "InvalidArgument: Invalid port: 65536"),
        ("shop", 80, "InvalidArgument: Invalid workload: shop"),
        (":web", 80, "InvalidArgument: Invalid workload: :web"),
        ("shop:", 80, "InvalidArgument: Invalid workload: shop:"),
        ("{}", 80, "InvalidArgument: Invalid workload: {}"),
        // Of what is long the beginning is said.
        (
            &"x".repeat(100_000),
            80,
            &format!("InvalidArgument: Invalid workload: {}", "x".repeat(256)),
        ),
        ("shop:other", 80, unknown),
        ("other:web", 80, unknown),
        (r#"{"ns":"shop","external_workload":"web"}"#, 80, unknown),
    ] {
        let spec = || PortSpec {
            workload: workload.to_owned(),
            port,
        };
        let got = said(client.get_port(spec()).await);
        let watched = said(client.watch_port(spec()).await);
        assert_eq!((&*got, &*watched), (wanted, wanted), "{workload} {port}");
    }
}

#[tokio::test]
async fn destinations_are_asked_for_by_address_or_by_name_with_or_without_the_clusters_domain() {
    let Some((api, plane, _)) = start().await else {
        return;
    };
    let web = api
        .get("/api/v1/namespaces/shop/services/web")
        .await
        .unwrap();
    let cluster_ip: IpAddr = web["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let mut client = Outbound::new(channel(&plane).await);
    let name = |name: &str| Some(Target::Authority(name.to_owned()));
    let to = |ip: Option<IpAddress>, port: u32| Some(Target::Addr(TcpAddress { ip, port }));
    let known = || Some(IpAddress::from(cluster_ip));
    let inside = || Some(IpAddress::from(IpAddr::from([10, 250, 1, 2])));
    let form = "NotFound: authority must be of the form <name>.<namespace>.svc.cluster.local";
    let web = "Service.shop.web:80: detect http: web:80";
    let nobody = "Service.shop.nobody:80: detect http: nobody:80";
    let undefined = "Service.shop.web:9: opaque undefined-port: nowhere Forbidden";
    for (target, wanted) in [
        (None, "InvalidArgument: target is required"),
        (
            to(None, 80),
            "InvalidArgument: traffic target must have an IP",
        ),
        (to(known(), 0), "InvalidArgument: port cannot be zero"),
        (
            to(known(), 65_536),
            "InvalidArgument: port outside valid range",
        ),
        (to(known(), 80), web),
        (to(known(), 9), undefined),
        (to(inside(), 80), "NotFound: No such service"),
        (name("web.shop.svc.cluster.local"), web),
        (name("web.shop.svc.cluster.local:80"), web),
        (name("web.shop.svc.cluster.local."), web),
        (name("web.shop.svc"), web),
        (name("web.shop.svc:80"), web),
        // One that is not there has what every Service has.
        (name("nobody.shop.svc.cluster.local:80"), nobody),
        (name("web.shop"), form),
        (name("web.shop.svc.example.org"), form),
        (name("web-0.web.shop.svc.cluster.local"), form),
        (name("example.org:80"), form),
    ] {
        let spec = TrafficSpec {
            source_workload: "shop:client".to_owned(),
            target: target.clone(),
        };
        let got = match client.get(spec.clone()).await {
            Ok(message) => {
                let policy = outbound_from_api(message.into_inner()).unwrap();
                format!("{}: {}", policy.parent, outbound(&policy))
            }
            refused => said(refused),
        };
        assert_eq!(got, wanted, "{target:?}");
        let is_known = !wanted.starts_with("NotFound") && !wanted.starts_with("Invalid");
        assert_eq!(client.watch(spec).await.is_ok(), is_known, "{target:?}");
    }
    let nobody = TrafficSpec {
        source_workload: "nobody".to_owned(),
        target: name("web.shop.svc.cluster.local"),
    };
    let refused = said(client.get(nobody).await);
    assert_eq!(refused, "InvalidArgument: Invalid workload: nobody");
}

#[tokio::test]
async fn a_stream_ends_well_when_its_workload_goes_and_when_the_control_plane_does() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    api.apply(&account("stays")).await;
    api.apply(&pod("stays")).await;
    api.set_status(&running("stays", "10.42.0.4")).await;
    let mut client = Inbound::new(channel(&plane).await);
    let spec = |name: &str| PortSpec {
        workload: format!("shop:{name}"),
        port: 8080,
    };
    let mut goes = client.watch_port(spec("web")).await.unwrap().into_inner();
    let mut stays = eventually("the other Pod", async || {
        client.watch_port(spec("stays")).await.ok()
    })
    .await
    .into_inner();
    for stream in [&mut goes, &mut stays] {
        assert!(stream.message().await.unwrap().is_some());
    }
    api.delete(&pod("web")).await;
    let ended = tokio::time::timeout(linkerd_tests::LIMIT, goes.message());
    assert!(ended.await.unwrap().unwrap().is_none());
    plane.ask_to_end();
    let ended = tokio::time::timeout(linkerd_tests::LIMIT, stays.message());
    assert!(ended.await.unwrap().unwrap().is_none());
}
