//! A control plane that is killed or stands still, endpoints that go under load, and what is let go of when nobody uses
//! it any more.

use crate::{
    harness::{Mesh, Sidecar, eventually, get, one_http1, signal, within},
    origin,
    outbound::{App, Client, app, pod, service, status, text, why},
    outbound_messages::{Says, Sides, Traffic, add, message, no_endpoints},
};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use linkerd2_proxy_api::destination::{Update, update};
use rustix::process::Signal;
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};

/// The control plane as a process of its own. Ends with the test.
struct ControlPlane(Child);

impl ControlPlane {
    fn start(mesh: &Mesh) -> Self {
        let config = &mesh.config;
        let process = Command::new(linkerd_tests::binary("linkerd-controller"))
            .arg(format!("--manifests={}", config.manifests.display()))
            .arg(format!("--state-dir={}", config.state_dir.display()))
            .arg(format!("--policy-addr={}", config.policy_addr))
            .arg(format!("--destination-addr={}", config.destination_addr))
            .arg(format!("--identity-addr={}", config.identity_addr))
            .arg(format!("--admin-addr={}", config.admin_addr))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(process.unwrap())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_is_in_use_goes_on_while_the_control_plane_stands_still_or_is_killed_under_load() {
    let mut mesh = Mesh::without_proxy("");
    let text = service("catalog", "")
        + &pod("catalog-0", "catalog", mesh.ip(10))
        + &service("other", "")
        + &pod("other-0", "other", mesh.ip(11));
    mesh.write("catalog.yaml", &text);
    let mut plane = ControlPlane::start(&mesh);
    let listeners = format!(
        "{0}:9000=catalog.shop.svc.cluster.local:80,{0}:9002=other.shop.svc.cluster.local:80",
        mesh.ip(2)
    );
    mesh.spawn_proxy(&[
        ("OUTBOUND_LISTENERS", &*listeners),
        ("OUTBOUND_DISCOVERY_TIMEOUT", "300ms"),
        ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "100ms"),
    ]);
    mesh.ready().await;
    let client = Client { mesh };
    let _catalog = app(client.at(10), |_| status(200)).await;
    let _other = app(client.at(11), |_| status(200)).await;
    let traffic = Traffic::start(client.listener(9000));
    traffic.more(50).await;
    let unknown = async || {
        let response = client.get(9002, "/").await;
        (response.status().as_u16(), why(&response))
    };
    let text = "discovery timed out: the control plane has not said what other.shop.svc.cluster.local:80 is";

    signal(&plane.0, Signal::STOP);
    assert_eq!(unknown().await, (504, text.to_owned()));
    traffic.more(200).await;
    assert_eq!(unknown().await, (504, text.to_owned()));
    signal(&plane.0, Signal::CONT);
    eventually("the other, once the control plane goes on", async || {
        (unknown().await.0 == 200).then_some(())
    })
    .await;
    // Nobody uses it: it is not known when the control plane is gone.
    eventually("it is let go of", async || {
        let (_, page) = client.mesh.get_admin("/outbound").await?;
        (!page.contains("other.shop")).then_some(())
    })
    .await;

    signal(&plane.0, Signal::KILL);
    plane.0.wait().unwrap();
    traffic.more(200).await;
    assert_eq!(unknown().await, (504, text.to_owned()));
    plane = ControlPlane::start(&client.mesh);
    eventually("the other, once there is a control plane", async || {
        (unknown().await.0 == 200).then_some(())
    })
    .await;
    traffic.more(50).await;
    traffic.finish().await;
    drop(plane);
}

#[tokio::test]
async fn what_nobody_said_anything_of_is_forwarded_where_operators_want_that() {
    for (fallback, is_forwarded) in [("fail", false), ("forward", true)] {
        let variables = [
            ("OUTBOUND_DISCOVERY_TIMEOUT", "200ms"),
            ("OUTBOUND_DISCOVERY_FALLBACK", fallback),
        ];
        let mut client = Client::start("", 0, "", &variables).await;
        client.mesh.stop_controller();
        // The address that 9003 leads to: requests, then bytes.
        let echo = origin::echo(client.at(40)).await;
        let response = client.get(9003, "/out").await;
        let wanted = if is_forwarded { 200 } else { 504 };
        assert_eq!(response.status(), wanted, "{}", why(&response));
        assert_eq!(text(response).await.contains("GET /out"), is_forwarded);
        drop(echo);
        let listener = eventually("the address is free", async || {
            TcpListener::bind(client.at(40)).await.ok()
        })
        .await;
        let mut stream = client.connect(9003).await;
        let _ = stream.write_all(b"\x00\x01bytes of no protocol").await;
        if is_forwarded {
            let (mut far, _) = within("the bytes", listener.accept()).await.unwrap();
            let mut first = [0; 2];
            within("the bytes", far.read_exact(&mut first))
                .await
                .unwrap();
            assert_eq!(first, [0, 1]);
        } else {
            let mut answer = Vec::new();
            let _ = within("the end", stream.read_to_end(&mut answer)).await;
            assert_eq!(answer, b"");
        }
        // A name leads nowhere without somebody who knows it.
        assert_eq!(client.get(9000, "/").await.status(), 504);
    }
}

#[tokio::test]
async fn a_name_outside_the_cluster_that_nobody_else_knows_is_asked_of_dns() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let _origin = origin::echo(address).await;
    let mut mesh = Mesh::without_proxy("");
    mesh.start_controller();
    let listeners = format!(
        "{0}:9000=localhost:{1},{0}:9001=nobody.invalid:80",
        mesh.ip(2),
        address.port()
    );
    mesh.spawn_proxy(&[("OUTBOUND_LISTENERS", &*listeners)]);
    mesh.ready().await;
    let client = Client { mesh };
    let response = client.get(9000, "/by-name").await;
    assert_eq!(response.status(), 200, "{}", why(&response));
    assert!(text(response).await.contains("GET /by-name"));
    let (_, page) = client.mesh.get_admin("/outbound").await.unwrap();
    assert!(page.contains("is default.fallback (detect)"), "{page}");
    let nobody = client.get(9001, "/").await;
    assert!(
        matches!(nobody.status().as_u16(), 502 | 504),
        "{}",
        nobody.status()
    );
}

#[tokio::test]
async fn endpoints_that_all_go_and_come_back_under_load_cost_no_request() {
    let sides = Sides::start_with(&[
        ("OUTBOUND_POLICY_LIMITS", "false"),
        ("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1m"),
    ])
    .await;
    let client = &sides.client;
    let one = client.at(10);
    let traffic = Traffic::start(client.listener(9000));
    traffic.more(50).await;
    let none = Update {
        update: Some(update::Update::Add(
            linkerd2_proxy_api::destination::WeightedAddrSet::default(),
        )),
    };
    for (what, nothing) in [
        ("no endpoints", no_endpoints()),
        ("a new stream that begins with none", none),
    ] {
        if what.contains("new stream") {
            // Streams end and open again: what comes first is all there is.
            let opened = async || {
                let calls = [r#"grpc_status="0""#];
                client.mesh.metric("control_response_total", &calls).await
            };
            let before = opened().await;
            sides.endpoints.send_replace(Says::End);
            eventually("an end", async || (opened().await > before).then_some(())).await;
        }
        sides.endpoints.send_replace(message(nothing));
        let waiting = "outbound_http_balancer_queue_length";
        eventually(what, async || {
            (client.mesh.metric(waiting, &[]).await > 2.5).then_some(())
        })
        .await;
        sides.endpoints.send_replace(message(add(&[one])));
        traffic.more(50).await;
    }
    traffic.finish().await;
    let errors = client.mesh.metric("outbound_http_errors_total", &[]).await;
    assert!(errors < 0.5, "{errors}");
}

/// An endpoint of `catalog` with labels.
fn labelled(addresses: &[(SocketAddr, &str)]) -> Update {
    let mut update = add(&addresses
        .iter()
        .map(|(address, _)| *address)
        .collect::<Vec<_>>());
    let Some(update::Update::Add(set)) = update.update.as_mut() else {
        unreachable!()
    };
    for (addr, (_, zone)) in set.addrs.iter_mut().zip(addresses) {
        let label = ("zone_locality".to_owned(), (*zone).to_owned());
        addr.metric_labels.extend([label]);
    }
    update
}

#[tokio::test]
async fn requests_stay_in_their_zone_until_it_is_overloaded() {
    let sides = Sides::start().await;
    let client = &sides.client;
    let hits: Arc<[AtomicUsize; 2]> = Arc::default();
    let (tell, told) = watch::channel(true);
    let answering = |at: usize| {
        let (hits, told) = (hits.clone(), told.clone());
        move |_| {
            let (hits, mut told) = (hits.clone(), told.clone());
            async move {
                hits[at].fetch_add(1, Ordering::Relaxed);
                if at == 0 {
                    let _ = told.wait_for(|told| *told).await;
                }
                http::Response::new(http_body_util::Empty::new().boxed())
            }
        }
    };
    let (local, remote) = (client.at(20), client.at(21));
    let _apps = (
        crate::outbound_bodies::app(local, answering(0)).await,
        crate::outbound_bodies::app(remote, answering(1)).await,
    );
    let zones = labelled(&[(local, "local"), (remote, "remote")]);
    sides.endpoints.send_replace(message(zones));
    eventually("both endpoints", async || {
        assert_eq!(client.status(9000).await, 200);
        let endpoints = client
            .mesh
            .metric("outbound_http_balancer_p2c_endpoints", &[])
            .await;
        (endpoints > 1.5).then_some(())
    })
    .await;
    let picks = async |zone: &str| {
        let label = format!("zone_locality=\"{zone}\"");
        client
            .mesh
            .metric("outbound_http_balancer_picks_total", &[&label])
            .await
    };
    let before = picks("local").await;
    for _ in 0..100 {
        assert_eq!(client.status(9000).await, 200);
    }
    assert_eq!(hits[1].load(Ordering::Relaxed), 0, "nobody leaves the zone");
    let local_picks = picks("local").await - before;
    assert!((local_picks - 100.0).abs() < f64::EPSILON, "{local_picks}");
    // The zone's one endpoint has many requests at once, and answers none.
    tell.send(false).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let stream = client.connect(9000).await;
        waiting.push(tokio::spawn(one_http1(stream, get("/"))));
    }
    eventually("what is too much for the zone", async || {
        (hits[1].load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    assert!(picks("remote").await > 0.5);
    tell.send(true).unwrap();
    for waiting in waiting {
        let response = within("an answer", waiting).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
    }
    let bytes = "outbound_tcp_transfer_cost_bytes_total";
    for zone in ["Local", "Remote"] {
        let label = format!("zone_locality=\"{zone}\"");
        assert!(client.mesh.metric(bytes, &[&label]).await > 0.0, "{zone}");
    }
}

/// A replica of `catalog`, in the mesh.
fn workload(mesh: &Mesh, account: &str, host: u8) -> String {
    let (id, ip) = (crate::harness::identity(account), mesh.ip(host));
    format!(
        "apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {{name: {account}, namespace: shop, labels: {{app: catalog}}}}
spec:
  meshTLS: {{identity: {id}, serverName: {id}}}
  ports: [{{port: 8080}}]
  workloadIPs: [{{ip: {ip}}}]
status: {{conditions: [{{type: Ready, status: 'True'}}]}}
---
"
    )
}

/// Its sidecar, and its application.
async fn replica(mesh: &Mesh, account: &str, host: u8) -> (Sidecar, App) {
    let own = SocketAddr::new(mesh.ip(host), 8080);
    let application = SocketAddr::new(mesh.ip(host + 100), 8080);
    let app = app(application, |_| status(200)).await;
    let listeners = format!("{own}={application}");
    let variables = [("INBOUND_LISTENERS", &*listeners)];
    (mesh.peer(account, host, &variables).await, app)
}

#[tokio::test]
async fn a_sidecar_that_is_gone_without_a_word_is_found_out_by_pings_also_without_requests() {
    let mut mesh = Mesh::without_proxy("");
    let pings = r#"{"keep_alive":{"interval":{"nanos":200000000},"timeout":{"nanos":500000000},"while_idle":true}}"#;
    mesh.config.hints.http2 = Some(pings.parse().unwrap());
    let text = service("catalog", "") + &workload(&mesh, "first", 20);
    mesh.write("catalog.yaml", &text);
    mesh.start_controller();
    let listeners = format!("{}:9000=catalog.shop.svc.cluster.local:80", mesh.ip(2));
    mesh.spawn_proxy(&[("OUTBOUND_LISTENERS", &*listeners)]);
    mesh.ready().await;
    let client = Client { mesh };
    let (sidecar, _app) = replica(&client.mesh, "first", 20).await;
    assert_eq!(client.status(9000).await, 200);
    let meshed = [r#"direction="outbound""#, r#"peer="dst""#, r#"tls="true""#];
    let open = async || client.mesh.metric("tcp_open_connections", &meshed).await;
    assert!(open().await > 0.5, "kept for the next request");
    sidecar.freeze();
    eventually("the end of a connection that nobody uses", async || {
        (open().await < 0.5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn sidecars_that_end_while_others_take_their_place_cost_no_request() {
    let mesh = {
        let mut mesh = Mesh::without_proxy("");
        mesh.write("catalog.yaml", &service("catalog", ""));
        mesh.start_controller();
        let listeners = format!("{}:9000=catalog.shop.svc.cluster.local:80", mesh.ip(2));
        mesh.spawn_proxy(&[
            ("OUTBOUND_LISTENERS", &*listeners),
            ("OUTBOUND_POLICY_LIMITS", "false"),
            ("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1m"),
        ]);
        mesh.ready().await;
        mesh
    };
    let client = Client { mesh };
    let mesh = &client.mesh;
    let workload = |account: &str, host: u8| workload(mesh, account, host);
    let replica = async |account: &str, host: u8| replica(mesh, account, host).await;
    let mut current = replica("first", 20).await;
    let only = |account: &str, host| mesh.write("replicas.yaml", &workload(account, host));
    only("first", 20);
    let traffic = Traffic::start(client.listener(9000));
    traffic.more(50).await;
    for (account, host) in [("second", 21), ("third", 22)] {
        let next = replica(account, host).await;
        only(account, host);
        let opened = format!("target_addr=\"{}:8080\"", mesh.ip(host));
        eventually("requests to the next", async || {
            let name = "request_total";
            let labels = [r#"direction="outbound""#, r#"tls="true""#, &*opened];
            (mesh.metric(name, &labels).await > 5.0).then_some(())
        })
        .await;
        // The one before ends, with connections to it open.
        let (sidecar, app) = std::mem::replace(&mut current, next);
        sidecar.end().await;
        drop(app);
        traffic.more(100).await;
    }
    // One that ends while it still is an endpoint, beside another that goes on.
    let (last, _app) = replica("fourth", 23).await;
    mesh.write(
        "replicas.yaml",
        &(workload("third", 22) + &workload("fourth", 23)),
    );
    eventually("both", async || {
        let name = "outbound_http_balancer_p2c_endpoints";
        (mesh.metric(name, &[]).await > 1.5).then_some(())
    })
    .await;
    traffic.more(100).await;
    last.end().await;
    traffic.more(100).await;
    traffic.finish().await;
    let errors = mesh.metric("outbound_http_errors_total", &[]).await;
    assert!(errors < 0.5, "{errors}");
}

#[tokio::test]
async fn series_of_a_destination_that_nobody_uses_go_and_those_in_use_stay() {
    let variables = [
        ("METRICS_RETAIN_IDLE", "1s"),
        ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "100ms"),
    ];
    let client = Client::start("", 1, &service("other", ""), &variables).await;
    let mesh = &client.mesh;
    mesh.write("other.yaml", &pod("other-0", "other", mesh.ip(30)));
    let _catalog = app(client.at(10), |_| status(200)).await;
    let _other = app(client.at(30), |_| status(200)).await;
    let io = TokioIo::new(client.connect(9000).await);
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let response = send.send_request(get("/")).await.unwrap();
    response.into_body().collect().await.unwrap();
    eventually("the other", async || {
        (client.status(9002).await == 200).then_some(())
    })
    .await;
    let series = async |name: &str| -> BTreeSet<String> {
        let (_, page) = mesh.get_admin("/metrics").await.unwrap();
        let of_it = page
            .lines()
            .filter(|line| line.starts_with("outbound_") && line.contains(name));
        let without_value = of_it.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()));
        without_value.collect()
    };
    assert!(series("\"other\"").await.len() > 10);
    let kept = series("_name=\"catalog\"").await;
    eventually("the other's series are gone", async || {
        series("\"other\"").await.is_empty().then_some(())
    })
    .await;
    // One that is open keeps its own, whether or not requests come.
    let now = series("_name=\"catalog\"").await;
    let lost: Vec<_> = kept.difference(&now).collect();
    assert_eq!(lost, Vec::<&String>::new());
    let evicted = mesh.metric("metrics_series_evicted_total", &[]).await;
    assert!(evicted > 10.0, "{evicted}");
    let response = send.send_request(get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
    let address = format!("target_addr=\"{}\"", client.at(30));
    eventually("endpoints go as well", async || {
        let (_, page) = mesh.get_admin("/metrics").await?;
        (!page.contains(&address)).then_some(())
    })
    .await;
}
