//! Containers of Deployments and Jobs as processes: their arguments, with addresses of this host; their volumes of Secrets and
//! ConfigMaps, as files; the rights of their ServiceAccount.

use crate::{free_port, server::ApiServer};
use linkerd_tests::eventually;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

use super::NAMESPACE;

/// A container that runs; ends with the test.
pub(super) struct Container {
    process: Child,
    folder: TempDir,
    /// Addresses that it listens on, by flag.
    addresses: BTreeMap<String, SocketAddr>,
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Container {
    /// Starts a container of a Deployment.
    pub(super) async fn start(server: &ApiServer, deployment: &str, container: &str) -> Self {
        let deployment = super::object(server, "deployments", deployment)
            .await
            .unwrap();
        let spec = &deployment["spec"]["template"]["spec"];
        let folder = tempfile::tempdir().unwrap();
        let account = spec["serviceAccountName"].as_str().unwrap();
        let kubeconfig = kubeconfig(server, folder.path(), account).await;
        let container = named(&spec["containers"], container);
        let mut addresses = BTreeMap::new();
        let mut words = Vec::new();
        for word in container["args"].as_array().unwrap() {
            let mut word = word.as_str().unwrap().to_owned();
            if let Some((flag, _)) = word
                .split_once('=')
                .filter(|(flag, _)| flag.ends_with("-addr"))
            {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
                addresses.insert(flag.trim_start_matches('-').to_owned(), address);
                word = format!("{flag}={address}");
            }
            let own = folder.path().join("run").display().to_string();
            words.push(word.replace("/var/run/linkerd", &own));
        }
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = program(container)
            .args(words)
            .current_dir(folder.path())
            .env("KUBECONFIG", kubeconfig)
            .env("HOSTNAME", "pod")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let running = Self {
            process,
            folder,
            addresses,
        };
        running.mount(server, spec, container).await;
        running
    }

    /// Writes what its volumes have; they are read again by who runs.
    async fn mount(&self, server: &ApiServer, spec: &Value, container: &Value) {
        let none = Vec::new();
        for mount in container["volumeMounts"].as_array().unwrap_or(&none) {
            let volume = named(&spec["volumes"], mount["name"].as_str().unwrap());
            let path = mount["mountPath"].as_str().unwrap();
            let Some(rest) = path.strip_prefix("/var/run/linkerd/") else {
                continue;
            };
            let folder = self.folder.path().join("run").join(rest);
            fs::create_dir_all(&folder).unwrap();
            if let Some(name) = volume["configMap"]["name"].as_str() {
                let found = super::object(server, "configmaps", name).await.unwrap();
                let data = found["data"].as_object().cloned().unwrap_or_default();
                for (key, text) in data {
                    fs::write(folder.join(key), text.as_str().unwrap()).unwrap();
                }
            }
        }
    }

    /// Where it listens for what a flag names.
    pub(super) fn address(&self, flag: &str) -> Option<SocketAddr> {
        self.addresses.get(flag).copied()
    }

    pub(super) async fn is_ready(&self) {
        let admin = self.addresses["admin-addr"];
        eventually("readiness", async || {
            let (status, _) = linkerd_tests::page(admin, "/ready").await?;
            (status == 200).then_some(())
        })
        .await;
    }

    /// The API server refused it nothing.
    pub(super) fn asked_for_nothing_that_it_may_not(&self) {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        for word in ["forbidden", "Forbidden"] {
            assert!(!log.contains(word), "{log}");
        }
    }
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut all = list.as_array().unwrap().iter();
    all.find(|item| item["name"] == name).unwrap()
}

/// The program of this workspace that a container runs.
fn program(container: &Value) -> Command {
    let command = container["command"].as_array().unwrap();
    let path = Path::new(command[0].as_str().unwrap());
    assert_eq!(path.parent(), Some(Path::new("/usr/lib/linkerd")));
    let mut program = Command::new(linkerd_tests::binary(
        path.file_name().unwrap().to_str().unwrap(),
    ));
    for word in &command[1..] {
        program.arg(word.as_str().unwrap());
    }
    program
}

/// A kubeconfig with a token of a ServiceAccount.
async fn kubeconfig(server: &ApiServer, folder: &Path, account: &str) -> std::path::PathBuf {
    let audience = "https://kubernetes.default.svc.cluster.local";
    let token = server.token(NAMESPACE, account, audience).await;
    let text = fs::read_to_string(server.kubeconfig()).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    let path = folder.join("kubeconfig");
    fs::write(&path, config.to_string()).unwrap();
    path
}

/// Runs the container of a Job, once the Job is there, and says how it ended, as the Job's controller would.
pub(super) async fn run_job(server: &ApiServer, name: &str) {
    let path = format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{name}");
    // One that is over is not meant.
    let job = eventually("the Job", async || {
        let job = server.get(&path).await?;
        job["status"]["succeeded"].is_null().then_some(job)
    })
    .await;
    let spec = &job["spec"]["template"]["spec"];
    let folder = tempfile::tempdir().unwrap();
    let account = spec["serviceAccountName"].as_str().unwrap();
    let kubeconfig = kubeconfig(server, folder.path(), account).await;
    let container = &spec["containers"][0];
    let args = container["args"].as_array().unwrap().iter();
    let mut command = program(container);
    command
        .args(args.map(|word| word.as_str().unwrap()))
        .env("KUBECONFIG", kubeconfig);
    let output = tokio::process::Command::from(command)
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let now = "2026-01-01T00:00:00Z";
    let is_true = |kind: &str| json!({"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now, "lastProbeTime": now});
    let status = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "status": {
            "startTime": now, "completionTime": now, "succeeded": 1,
            "conditions": [is_true("SuccessCriteriaMet"), is_true("Complete")],
        },
    });
    server.set_status(&status).await;
}
