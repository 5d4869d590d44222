//! The walk of `docs/kubernetes.md`, from an empty cluster to least privilege: every command that the page shows is run, in its
//! order, and says what the page says. `UPDATE_DOCS=1` writes what was said into the page.
//!
//! Helm and `linkerd` are the real ones. What `kubectl` is asked for is done by the test, so that it is not needed; and the
//! test plays the kubelet.

use super::{Helm, components, kubelet::Container, linkerd};
use crate::{control_plane::on_this_host, policy::running, server::ApiServer};
use linkerd_tests::eventually;
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::{fs, path::Path};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/kubernetes.md");
const TITLE: &str = "## From an empty cluster to least privilege\n";

/// Runs the commands of the page.
struct Walker<'a> {
    server: &'a ApiServer,
    helm: Helm<'a>,
    running: Vec<Container>,
}

impl Walker<'_> {
    /// What a command prints.
    async fn walk(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        match &words[..] {
            ["helm", "install", release, chart, rest @ ..] => {
                self.install(release, chart, rest).await;
                String::new()
            }
            ["kubectl", "apply", "-f", file] => {
                self.apply(file).await;
                String::new()
            }
            ["kubectl", "annotate", "namespace", name, annotation] => {
                let (key, value) = annotation.split_once('=').unwrap();
                let change = json!({"metadata": {"annotations": {key: value}}});
                self.server
                    .merge(&format!("/api/v1/namespaces/{name}"), &change)
                    .await;
                String::new()
            }
            ["linkerd", words @ ..] => {
                let output = linkerd(self.server, words).await;
                let said = String::from_utf8(output.stdout).unwrap();
                let error = String::from_utf8(output.stderr).unwrap();
                assert!(!said.is_empty(), "{command}: {error}");
                said
            }
            _ => unreachable!("the page shows a command that this test does not know: {command}"),
        }
    }

    async fn install(&mut self, release: &str, chart: &str, rest: &[&str]) {
        // Helm is started in the folder of the charts, with the namespace.
        let chart = chart.strip_prefix("charts/").unwrap();
        let rest = rest
            .iter()
            .filter(|word| !["--namespace", "linkerd"].contains(word));
        let words: Vec<&str> = ["install", release, chart]
            .into_iter()
            .chain(rest.copied())
            .collect();
        if chart == "linkerd-crds" {
            self.helm.good(&words).await;
            return self.server.defined().await;
        }
        self.helm.with_hook(&words).await;
        self.running = components(self.server).await;
        self.lead_to_webhooks().await;
    }

    /// Services lead to this host, as a cluster's network would lead to the Pods behind them.
    async fn lead_to_webhooks(&self) {
        for (service, configuration, flag) in [
            (
                "linkerd-proxy-injector",
                "mutatingwebhookconfigurations/linkerd-proxy-injector-webhook-config",
                "injector-addr",
            ),
            (
                "linkerd-policy-validator",
                "validatingwebhookconfigurations/linkerd-policy-validator-webhook-config",
                "admission-addr",
            ),
        ] {
            let mut containers = self.running.iter();
            let address = containers.find_map(|container| container.address(flag));
            let port = address.unwrap().port();
            let service = on_this_host(service);
            self.server.delete(&service).await;
            self.server.apply(&service).await;
            let path = format!("/apis/admissionregistration.k8s.io/v1/{configuration}");
            eventually("the caBundle", async || {
                let mut found = self.server.get(&path).await?;
                let client = &mut found["webhooks"][0]["clientConfig"];
                client["caBundle"].as_str().filter(|it| !it.is_empty())?;
                client["service"]["port"] = port.into();
                found["webhooks"][0]["failurePolicy"] = "Fail".into();
                let webhooks = found["webhooks"].take();
                let changed = json!({"webhooks": webhooks});
                self.server.merge(&path, &changed).await;
                Some(())
            })
            .await;
        }
    }

    async fn apply(&self, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = fs::read_to_string(path).unwrap();
        for document in serde_norway::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).unwrap();
            // A webhook that has just begun to be called is not yet known to be there.
            eventually(file, async || self.server.try_apply(&object).await.ok()).await;
        }
        if file.ends_with("shop.yaml") {
            self.run_pods().await;
        }
    }

    /// Deployments' Pods come, each with a sidecar, and run.
    async fn run_pods(&self) {
        let pods = eventually("the Pods", async || {
            let list = self.server.get("/api/v1/namespaces/shop/pods").await?;
            let pods = list["items"].as_array()?.clone();
            (pods.len() == 3).then_some(pods)
        })
        .await;
        for (number, pod) in pods.iter().enumerate() {
            let spec = &pod["spec"];
            let lists = ["containers", "initContainers"].map(|list| spec[list].as_array());
            let mut containers = lists.into_iter().flatten().flatten();
            assert!(
                containers.any(|container| container["name"] == "linkerd-proxy"),
                "{pod:#}"
            );
            let name = pod["metadata"]["name"].as_str().unwrap();
            let ip = format!("10.42.0.{}", number + 1);
            self.server.set_status(&running(name, &ip)).await;
        }
    }
}

#[tokio::test]
async fn docs_the_walk_from_an_empty_cluster_to_least_privilege_is_as_the_page_says() {
    let Some(server) = ApiServer::bare().await else {
        return;
    };
    let Some(helm) = Helm::find(&server) else {
        return;
    };
    let page = fs::read_to_string(PAGE).unwrap();
    let begin = page.find(TITLE).unwrap() + TITLE.len();
    let length = page[begin..].find("\n## ").unwrap();
    let mut walker = Walker {
        server: &server,
        helm,
        running: Vec::new(),
    };
    let mut seen = String::new();
    let mut said = String::new();
    // Every second piece between fences is in a block.
    for (number, piece) in page[begin..begin + length].split("```").enumerate() {
        if number > 0 {
            seen.push_str("```");
        }
        if number % 2 == 0 {
            seen.push_str(piece);
        } else if let Some(commands) = piece.strip_prefix("sh\n") {
            said.clear();
            for command in commands.lines() {
                said.push_str(&walker.walk(command).await);
            }
            seen.push_str(piece);
        } else {
            seen.push('\n');
            seen.push_str(&said);
        }
    }
    if std::env::vars().any(|(name, _)| name == "UPDATE_DOCS") {
        let page = format!("{}{seen}{}", &page[..begin], &page[begin + length..]);
        fs::write(PAGE, page).unwrap();
        return;
    }
    assert!(
        page[begin..begin + length] == seen,
        "docs/kubernetes.md: now it is\n{seen}"
    );
    for container in &walker.running {
        container.asked_for_nothing_that_it_may_not();
    }
}
