//! The real `linkerd` on a real API server, on which `linkerd install` put the control plane: what it checks, shows and
//! explains. There is no kubelet: the test says what Pods' statuses are. One API server, in the order of a cluster's life.

mod ask;
mod check;
mod forward;
mod profile;

use crate::{
    control_plane::ControlPlane,
    policy::{account, namespace, pod, running},
    server::ApiServer,
    sidecar::Sidecar,
};
use linkerd_tests::{eventually, within};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

/// The command, as somebody.
struct Cli(PathBuf);

/// What it said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Cli {
    /// Runs it with these words.
    async fn run(&self, words: &str) -> Said {
        let mut command = tokio::process::Command::new(linkerd_tests::binary("linkerd"));
        command
            .args(words.split_whitespace())
            .env("KUBECONFIG", &self.0)
            .kill_on_drop(true);
        let output: Output = within("linkerd", command.output()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    async fn good(&self, words: &str) -> String {
        let said = self.run(words).await;
        assert_eq!(said.code, 0, "{words}: {}{}", said.out, said.err);
        said.out
    }

    /// `linkerd check`, without waiting for what may still come.
    async fn check(&self, words: &str) -> Said {
        self.run(&format!("check --wait 0s {words}")).await
    }
}

impl Said {
    /// The lines of a check that is not good: what it is, what is wrong, what to do.
    #[track_caller]
    fn names(&self, code: i32, check: &str, problem: &str, hint: &str) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        let lines: Vec<&str> = self.out.lines().collect();
        let at = lines.iter().position(|line| *line == check);
        let at = at.unwrap_or_else(|| unreachable!("{check:?} is not in\n{}", self.out));
        let of_it: Vec<&str> = lines[at + 1..]
            .iter()
            .take_while(|line| line.starts_with("    "))
            .copied()
            .collect();
        let (last, before) = of_it.split_last().unwrap();
        assert!(
            before.join("\n").contains(problem),
            "{problem:?} is not in\n{}",
            self.out
        );
        assert!(
            last.starts_with("    try: ") && last.contains(hint),
            "{hint:?} is not in {last:?}"
        );
    }

    #[track_caller]
    fn shows_no(&self, check: &str) {
        assert!(!self.out.contains(check), "{}{}", self.out, self.err);
    }
}

/// Compares with a file; `UPDATE_SNAPSHOTS=1` writes it anew.
#[track_caller]
fn shows(name: &str, seen: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../cli/tests/snapshots")
        .join(name);
    if std::env::vars().any(|(key, _)| key == "UPDATE_SNAPSHOTS") {
        fs::write(&file, seen).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(seen == kept, "{name}: now it is\n{seen}");
}

/// Applies what the command prints.
async fn apply(api: &ApiServer, manifests: &str) {
    for line in manifests.lines() {
        api.apply(&serde_json::from_str(line).unwrap()).await;
    }
}

async fn install(api: &ApiServer, cli: &Cli) -> ControlPlane {
    apply(api, &cli.good("install --crds -o json").await).await;
    api.defined().await;
    api.apply(&namespace("linkerd")).await;
    // Webhooks' certificates and statuses are a real control plane's; so are the issuer and the anchors that are installed.
    let plane = ControlPlane::spawn_with(api.kubeconfig(), &["--webhook-certificates"]);
    eventually("the issuer", async || {
        plane.state("issuer.key").exists().then_some(())
    })
    .await;
    let file = |name: &str| plane.state(name).display().to_string();
    let words = format!(
        "install -o json --set clusterNetworks=10.0.0.0/8\\,127.0.0.0/8 --identity-trust-anchors-file {} --identity-issuer-certificate-file {} --identity-issuer-key-file {}",
        file("ca.crt"),
        file("issuer.crt"),
        file("issuer.key")
    );
    apply(api, &cli.good(&words).await).await;
    plane
}

#[tokio::test]
async fn the_command_checks_shows_and_explains_what_a_cluster_has() {
    let Some(api) = ApiServer::bare().await else {
        return;
    };
    let cli = Cli(api.kubeconfig());
    check::before(&api, &cli).await;
    let plane = install(&api, &cli).await;
    check::bring_injectors_certificate(&api).await;
    check::broken(&api, &cli).await;
    // What has no node is in no EndpointSlice; and those take no loopback address.
    let mut batch = pod("batch");
    batch["spec"]["nodeName"] = "n1".into();
    for object in [
        namespace("shop"),
        account("web"),
        account("batch"),
        account("forgotten"),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}),
        pod("web"),
        batch,
    ] {
        api.apply(&object).await;
    }
    for (name, ip) in [("web", "127.77.5.2"), ("batch", "10.42.0.7")] {
        api.set_status(&running(name, ip)).await;
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "batch", "namespace": "shop"},
        "spec": {"selector": {"app": "batch"}, "ports": [{"port": 80, "targetPort": "http"}]},
    });
    api.apply(&service).await;
    let sidecar = Sidecar::start(&api, &plane, 5).await;
    ask::policy(&api).await;
    ask::identities(&cli, &sidecar).await;
    ask::asked(&cli, &plane, &sidecar).await;
    ask::explained(&cli, &plane).await;
    // What nobody asked for a sidecar.
    api.apply(&pod("forgotten")).await;
    forward::shown(&api, &cli, &plane, &sidecar).await;
    api.delete(&pod("forgotten")).await;
    check::data_plane(&api, &cli, &plane).await;
    ask::versions(&api, &cli).await;
    check::with_less(&api).await;
}
