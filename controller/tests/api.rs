//! The control plane over real sockets, with the published API's clients, while files change.
#![expect(clippy::indexing_slicing, reason = "what fails here is the test")]

mod support;

use linkerd_controller::{Config, Flags, Listeners, Role, authority::Authority};
use linkerd2_proxy_api::{
    destination::{GetDestination, destination_client::DestinationClient, update::Update},
    inbound::{
        PortSpec, Server, inbound_server_policies_client::InboundServerPoliciesClient,
        proxy_protocol::Kind,
    },
};
use std::{fs, net::SocketAddr, time::Duration};
use support::{MANIFEST, Plane, SERVER, WEB, WORKLOAD, connect, next};
use tonic::Code;

fn name(server: &Server) -> &str {
    &server.labels["name"]
}

#[tokio::test]
async fn a_change_makes_anew_only_what_it_is_about() {
    let plane = Plane::start().await;
    let other = MANIFEST
        .replace("name: web,", "name: other,")
        .replace("app: web", "app: other");
    plane.write("other.yaml", &other);
    let mut client = InboundServerPoliciesClient::new(connect(plane.config.policy_addr).await);
    let mut open = async |workload: String| loop {
        let spec = PortSpec {
            workload: workload.clone(),
            port: 8080,
        };
        match client.watch_port(spec).await {
            Ok(stream) => break stream.into_inner(),
            // It has not been read yet.
            Err(status) => assert_eq!(status.code(), Code::NotFound),
        }
        tokio::task::yield_now().await;
    };
    let mut web = open(WORKLOAD.to_owned()).await;
    let mut other = open(WORKLOAD.replace("web", "other")).await;
    for stream in [&mut web, &mut other] {
        assert_eq!(name(&next(stream).await), "all-unauthenticated");
    }
    plane.write("server.yaml", SERVER);
    assert_eq!(name(&next(&mut web).await), "web-http");
    let of_other = SERVER.replace("web", "other");
    plane.write("other-server.yaml", &of_other);
    assert_eq!(name(&next(&mut other).await), "other-http");
    let page = plane.page("/metrics").await;
    let count = |sent: &str| {
        let series = format!(
            r#"controller_stream_updates_total{{service="policy",method="WatchPort",sent="{sent}"}} "#
        );
        let mut lines = page.lines();
        lines.find_map(|line| line.strip_prefix(&series).map(str::to_owned))
    };
    assert_eq!(
        (count("true").as_deref(), count("false")),
        (Some("4"), None),
        "{page}"
    );
    plane.stop().await;
}

#[tokio::test]
async fn a_role_opens_its_own_addresses_and_makes_no_ca_unless_it_needs_one() {
    for (role, is_open, has_ca) in [
        (Role::Policy, [true, false, false], false),
        (Role::Destination, [false, true, false], false),
        (Role::Identity, [false, false, true], true),
    ] {
        let plane = Plane::start_with(|config| config.roles = [role].into()).await;
        let config = &plane.config;
        let addresses = [
            config.policy_addr,
            config.destination_addr,
            config.identity_addr,
        ];
        // What is not opened has no port.
        assert_eq!(addresses.map(|address| address.port() != 0), is_open);
        for address in addresses.into_iter().filter(|address| address.port() != 0) {
            connect(address).await;
        }
        assert_eq!(config.state_dir.exists(), has_ca, "{role:?}");
        plane.stop().await;
    }
}

#[tokio::test]
async fn a_flag_of_a_role_that_is_not_there_is_refused_by_name() {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let flags: Flags = clap::Parser::parse_from(
        "linkerd-controller --manifests . --roles identity --admission-addr 127.0.0.1:0 \
         --admission-cert a --admission-key b"
            .split_whitespace(),
    );
    let mut config = Config {
        identity_addr: free,
        admin_addr: free,
        ..flags.into()
    };
    let error = Listeners::bind(&mut config).await.unwrap_err().to_string();
    assert!(
        error.starts_with("--admission-addr is for the role policy: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_refused_and_not_taken_for_an_empty_one() {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let words = "linkerd-controller --manifests /no/such/directory";
    let flags: Flags = clap::Parser::parse_from(words.split_whitespace());
    let config = Config {
        identity_addr: free,
        policy_addr: free,
        destination_addr: free,
        admin_addr: free,
        ..flags.into()
    };
    let error = linkerd_controller::run(config, std::future::pending()).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("--manifests /no/such/directory: No such file"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stream_follows_the_files_and_outlives_a_broken_one() {
    let plane = Plane::start().await;
    let mut stream = plane.watch().await;
    assert_eq!(name(&next(&mut stream).await), "all-unauthenticated");

    plane.write("server.yaml", SERVER);
    let server = next(&mut stream).await;
    assert_eq!(name(&server), "web-http");
    assert!(matches!(
        server.protocol.unwrap().kind,
        Some(Kind::Http1(_))
    ));
    assert!(
        server.authorizations.is_empty(),
        "a Server without authorizations lets nobody in"
    );

    // Broken, and then with another protocol: the broken version is never seen.
    plane.write("server.yaml", &SERVER.replace("HTTP/1", "HTTP/7"));
    let broken = |page: &str| {
        let mut errors = page
            .lines()
            .filter(|line| line.starts_with("controller_manifest_errors{"));
        errors.any(|line| line.ends_with("server.yaml\"} 1"))
    };
    plane.metrics(|page| broken(page)).await;
    plane.write("server.yaml", &SERVER.replace("HTTP/1", "HTTP/2"));
    let server = next(&mut stream).await;
    assert!(matches!(
        server.protocol.unwrap().kind,
        Some(Kind::Http2(_))
    ));
    plane.metrics(|page| !broken(page)).await;

    fs::remove_file(plane.folder.path().join("manifests/server.yaml")).unwrap();
    assert_eq!(name(&next(&mut stream).await), "all-unauthenticated");

    // The workload goes, and the stream ends cleanly.
    fs::remove_file(plane.folder.path().join("manifests/web.yaml")).unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.message())
        .await
        .unwrap();
    assert!(end.unwrap().is_none());
    plane.stop().await;
}

#[tokio::test]
async fn questions_that_make_no_sense_are_answered_as_the_spec_says() {
    let plane = Plane::start().await;
    let mut client = InboundServerPoliciesClient::new(connect(plane.config.policy_addr).await);
    for (workload, port, code, text) in [
        ("web", 8080, Code::InvalidArgument, "Invalid workload: web"),
        (WORKLOAD, 0, Code::InvalidArgument, "Invalid port: 0"),
        (
            WORKLOAD,
            70_000,
            Code::InvalidArgument,
            "Invalid port: 70000",
        ),
        ("shop:nobody", 8080, Code::NotFound, "unknown server"),
    ] {
        let spec = PortSpec {
            workload: workload.into(),
            port,
        };
        let status = client.get_port(spec).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text));
    }
    plane.stop().await;
}

#[tokio::test]
async fn endpoints_follow_the_files() {
    let plane = Plane::start().await;
    let mut client = DestinationClient::new(connect(plane.config.destination_addr).await);
    let get = |path: &str| GetDestination {
        path: path.into(),
        ..Default::default()
    };
    let mut stream = client
        .get(get("web.shop.svc.cluster.local:80"))
        .await
        .unwrap()
        .into_inner();
    let Some(Update::Add(added)) = next(&mut stream).await.update else {
        panic!("not an Add")
    };
    let endpoint = &added.addrs[0];
    assert_eq!(
        endpoint.addr.as_ref().unwrap().port,
        8080,
        "the target port, by name"
    );
    assert_eq!(
        endpoint
            .tls_identity
            .as_ref()
            .unwrap()
            .server_name
            .as_ref()
            .unwrap()
            .name,
        WEB
    );
    assert_eq!(endpoint.weight, 10_000);

    plane.write("web.yaml", &MANIFEST.replace("127.0.0.2", "127.0.0.3"));
    let Some(Update::Add(added)) = next(&mut stream).await.update else {
        panic!("not an Add")
    };
    assert_eq!(added.addrs.len(), 1);
    let Some(Update::Remove(removed)) = next(&mut stream).await.update else {
        panic!("not a Remove")
    };
    assert_eq!(removed.addrs.len(), 1);

    plane.write("web.yaml", &MANIFEST.replace("'True'", "'False'"));
    let Some(Update::NoEndpoints(none)) = next(&mut stream).await.update else {
        panic!("not NoEndpoints")
    };
    assert!(none.exists);

    let unknown = client
        .get(get("nobody.shop.svc.cluster.local:80"))
        .await
        .unwrap_err();
    assert_eq!(
        (unknown.code(), unknown.message()),
        (Code::NotFound, "Service nobody.shop not found")
    );
    let address = client.get(get("127.0.0.1:80")).await.unwrap_err();
    assert_eq!(address.code(), Code::InvalidArgument);
    let mut profile = client
        .get_profile(get("web.shop.svc.cluster.local:80"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        next(&mut profile).await.fully_qualified_name,
        "web.shop.svc.cluster.local"
    );
    plane.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_the_authority() {
    let plane = Plane::start().await;
    connect(plane.config.identity_addr).await;
    let token = plane.token("system:serviceaccount:shop:web");
    let anchors = Authority::open(&plane.config.state_dir)
        .unwrap()
        .trust_anchors()
        .to_owned();
    let plane = Plane::start_in(plane.stop().await, |_| {}).await;
    plane.certify(WEB, token).await.unwrap();
    let after = Authority::open(&plane.config.state_dir).unwrap();
    assert_eq!(after.trust_anchors(), anchors);
    plane.stop().await;
}

#[tokio::test]
async fn of_overlapping_servers_the_oldest_keeps_the_port_and_the_next_takes_over() {
    let plane = Plane::start().await;
    let aged = |name: &str, year: u16| {
        let created = format!("{{name: {name}, creationTimestamp: '{year}-01-01T00:00:00Z',");
        SERVER.replace("{name: web-http,", &created)
    };
    let mut stream = plane.watch().await;
    assert_eq!(name(&next(&mut stream).await), "all-unauthenticated");
    plane.write("a.yaml", &aged("younger", 2025));
    assert_eq!(name(&next(&mut stream).await), "younger");
    plane.write("b.yaml", &aged("older", 2024));
    assert_eq!(name(&next(&mut stream).await), "older");
    fs::remove_file(plane.folder.path().join("manifests/b.yaml")).unwrap();
    assert_eq!(name(&next(&mut stream).await), "younger");
    plane.stop().await;
}

#[tokio::test]
async fn status_names_what_is_wrong_and_the_version_that_each_proxy_was_sent() {
    let plane = Plane::start().await;
    let mut stream = plane.watch().await;
    next(&mut stream).await;
    plane.write("server.yaml", SERVER);
    next(&mut stream).await;
    // Broken: the version grows, what was sent stays right.
    plane.write("server.yaml", &SERVER.replace("HTTP/1", "HTTP/7"));
    let is_known = |status: &serde_json::Value| {
        let stream = &status["streams"][0];
        status["problems"][0]["kept"] == true
            && stream["current_version"] == status["version"]
            && stream["messages"] == 2
    };
    let status = plane.status(is_known).await;
    assert_eq!(status["problems"][0]["field"], "spec.proxyProtocol");
    let stream_of = &status["streams"][0];
    assert_eq!(
        stream_of["about"],
        format!("{WORKLOAD} port 8080").replace(
            "\"ns\":\"shop\",\"external_workload\":\"web\"",
            "\"external_workload\":\"web\",\"ns\":\"shop\""
        )
    );
    assert!(stream_of["sent_version"].as_u64() < status["version"].as_u64());
    drop(stream);
    plane.status(|status| status["open_streams"] == 0).await;
    plane.stop().await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_a_place_is_free_again_when_one_ends() {
    let plane = Plane::start_with(|config| config.max_streams = 1).await;
    let stream = plane.watch().await;
    let mut client = DestinationClient::new(connect(plane.config.destination_addr).await);
    let get = GetDestination {
        path: "web.shop.svc.cluster.local:80".into(),
        ..Default::default()
    };
    let refused = client.get(get.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(stream);
    plane.status(|status| status["open_streams"] == 0).await;
    client.get(get).await.unwrap();
    plane.stop().await;
}

const HEADLESS: &str = "apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: db-0, namespace: shop, labels: {app: db, topology.kubernetes.io/zone: west}}
spec:
  meshTLS: {identity: db.shop.serviceaccount.identity.linkerd.cluster.local, serverName: db.shop.serviceaccount.identity.linkerd.cluster.local}
  ports: [{port: 5432}]
  workloadIPs: [{ip: 127.0.0.8}]
status: {conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: db-1, namespace: shop, labels: {app: db, topology.kubernetes.io/zone: east}}
spec:
  meshTLS: {identity: db.shop.serviceaccount.identity.linkerd.cluster.local, serverName: db.shop.serviceaccount.identity.linkerd.cluster.local}
  ports: [{port: 5432}]
  workloadIPs: [{ip: 127.0.0.9}]
status: {conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, clusterIP: None, ports: [{port: 5432}]}
";

#[tokio::test]
async fn an_instance_is_one_endpoint_and_its_profile_follows_it() {
    let plane = Plane::start().await;
    plane.write("db.yaml", HEADLESS);
    let mut client = DestinationClient::new(connect(plane.config.destination_addr).await);
    let get = |path: &str| GetDestination {
        path: path.into(),
        context_token: r#"{"ns":"shop","external_workload":"db-1"}"#.into(),
        ..Default::default()
    };
    // The file may not have been read yet: the profile of a Service says when it is.
    let service = "db.shop.svc.cluster.local:5432";
    let mut profile = client.get_profile(get(service)).await.unwrap().into_inner();
    while next(&mut profile).await.fully_qualified_name.is_empty() {}

    let instance = "db-1.db.shop.svc.cluster.local:5432";
    let mut one = client.get(get(instance)).await.unwrap().into_inner();
    let Some(Update::Add(added)) = next(&mut one).await.update else {
        panic!("not an Add")
    };
    assert_eq!(added.addrs.len(), 1);
    assert_eq!(added.addrs[0].metric_labels["external_workload"], "db-1");
    assert_eq!(added.addrs[0].metric_labels["zone_locality"], "local");
    let mut all = client.get(get(service)).await.unwrap().into_inner();
    let Some(Update::Add(added)) = next(&mut all).await.update else {
        panic!("not an Add")
    };
    let mut zones: Vec<_> = added
        .addrs
        .iter()
        .map(|addr| addr.metric_labels["zone_locality"].as_str())
        .collect();
    zones.sort_unstable();
    assert_eq!(zones, ["local", "remote"]);

    let mut of_instance = client
        .get_profile(get(instance))
        .await
        .unwrap()
        .into_inner();
    let found = next(&mut of_instance).await;
    assert!(found.opaque_protocol, "5432 is opaque by default");
    assert_eq!(found.endpoint.unwrap().metric_labels["namespace"], "shop");
    let absent = client
        .get_profile(get("db-7.db.shop.svc.cluster.local:5432"))
        .await
        .unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);

    // Gone: everything is removed, and the stream of endpoints goes on.
    fs::remove_file(plane.folder.path().join("manifests/db.yaml")).unwrap();
    let Some(Update::Remove(removed)) = next(&mut all).await.update else {
        panic!("not a Remove")
    };
    assert_eq!(removed.addrs.len(), 2);
    plane.write("db.yaml", HEADLESS);
    assert!(matches!(
        next(&mut all).await.update,
        Some(Update::Add(added)) if added.addrs.len() == 2
    ));
    plane.stop().await;
}

#[tokio::test]
async fn profiles_of_addresses_are_those_of_who_has_them() {
    let plane = Plane::start().await;
    let mut client = DestinationClient::new(connect(plane.config.destination_addr).await);
    let get = |path: &str| GetDestination {
        path: path.into(),
        ..Default::default()
    };
    let mut workload = client
        .get_profile(get("127.0.0.2:8080"))
        .await
        .unwrap()
        .into_inner();
    let endpoint = next(&mut workload).await.endpoint.unwrap();
    assert_eq!(endpoint.metric_labels["external_workload"], "web");
    assert!(endpoint.tls_identity.is_some());
    let mut nobody = client
        .get_profile(get("127.0.0.2:9"))
        .await
        .unwrap()
        .into_inner();
    let endpoint = next(&mut nobody).await.endpoint.unwrap();
    assert!(endpoint.tls_identity.is_none() && endpoint.metric_labels.is_empty());
    let undeclared = get("web.shop.svc.cluster.local:81");
    let mut undeclared = client.get_profile(undeclared).await.unwrap().into_inner();
    assert_eq!(next(&mut undeclared).await, Default::default());
    for (path, text) in [
        (
            "web:x",
            r#"invalid authority: "web:x": "port: a number from 1 to 65535 is needed""#,
        ),
        (
            "example.com",
            r#"invalid service "example.com": "not of the form <service>.<namespace>.svc.cluster.local""#,
        ),
    ] {
        let status = client.get_profile(get(path)).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, text)
        );
    }
    // The address goes to another workload: the same stream says so.
    plane.write("web.yaml", &MANIFEST.replace("127.0.0.2", "127.0.0.3"));
    let endpoint = next(&mut workload).await.endpoint.unwrap();
    assert!(endpoint.tls_identity.is_none());
    plane.stop().await;
}
