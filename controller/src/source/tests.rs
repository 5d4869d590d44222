use super::*;
use linkerd_policy::index::WorkloadRef;

const SERVER: &str = "apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web, namespace: shop}
spec: {port: 8080, accessPolicy: all-unauthenticated, externalWorkloadSelector: {matchLabels: {app: web}}}
";
const WORKLOAD: &str = "apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  meshTLS: {identity: web.shop.serviceaccount.identity.linkerd.cluster.local, serverName: web.shop.serviceaccount.identity.linkerd.cluster.local}
  ports: [{port: 8080}]
  workloadIPs: [{ip: 127.0.0.2}]
";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn source(&self) -> Source {
        Source::new(vec![self.0.path().to_owned()], Cluster::default())
    }
}

fn server_of(snapshot: &Snapshot) -> String {
    let workload: WorkloadRef = r#"{"ns":"shop","external_workload":"web"}"#.parse().unwrap();
    snapshot
        .index
        .inbound(&workload, 8080)
        .unwrap()
        .meta
        .name()
        .to_owned()
}

#[test]
fn a_broken_file_keeps_the_last_good_version_and_takes_nothing_else_down() {
    let folder = Folder::new();
    folder.write("web.yaml", WORKLOAD);
    folder.write("server.yaml", SERVER);
    let mut source = folder.source();
    let first = source.refresh().unwrap();
    assert_eq!(
        (server_of(&first).as_str(), first.problems.len()),
        ("web", 0)
    );
    assert!(source.refresh().is_none(), "nothing changed");

    // A field that is wrong: the object is known.
    folder.write("server.yaml", &SERVER.replace("port: 8080", "port: 80800"));
    let broken = source.refresh().unwrap();
    assert_eq!(server_of(&broken), "web");
    let problem = &broken.problems[0];
    assert!(
        problem.kept && problem.file.ends_with("server.yaml"),
        "{problem}"
    );
    assert_eq!(
        (problem.document, problem.field.as_str()),
        (Some(0), "spec.port")
    );

    // Text that is no YAML: it is not known what it would have said.
    folder.write("server.yaml", "apiVersion: [");
    let unreadable = source.refresh().unwrap();
    assert_eq!(server_of(&unreadable), "web");
    assert!(unreadable.problems[0].kept);

    // Emptied, as editors do before they write: nothing is deleted.
    folder.write("server.yaml", "");
    let emptied = source.refresh().unwrap();
    assert_eq!(server_of(&emptied), "web");
    assert!(emptied.problems[0].kept, "{}", emptied.problems[0]);

    // Repaired, and then deleted: that takes effect.
    folder.write("server.yaml", SERVER);
    assert!(source.refresh().unwrap().problems.is_empty());
    fs::remove_file(folder.0.path().join("server.yaml")).unwrap();
    assert_eq!(server_of(&source.refresh().unwrap()), "all-unauthenticated");
}

#[test]
fn two_files_with_one_object_are_an_error_that_names_both() {
    let folder = Folder::new();
    folder.write("a.yaml", SERVER);
    folder.write("b.yaml", SERVER);
    let loaded = read(&[folder.0.path().to_owned()]);
    assert_eq!(loaded.objects.len(), 1);
    let text = loaded.problems[0].to_string();
    assert!(text.contains("a.yaml") && text.contains("b.yaml"), "{text}");
}

#[test]
fn an_overlay_replaces_what_it_names() {
    let (base, overlay) = (Folder::new(), Folder::new());
    base.write("web.yaml", &format!("{WORKLOAD}---\n{SERVER}"));
    overlay.write(
        "server.yaml",
        &SERVER.replace("all-unauthenticated", "deny"),
    );
    let directories = vec![base.0.path().to_owned(), overlay.0.path().to_owned()];
    let snapshot = Source::new(directories, Cluster::default())
        .refresh()
        .unwrap();
    let workload: WorkloadRef = r#"{"ns":"shop","external_workload":"web"}"#.parse().unwrap();
    assert!(
        snapshot
            .index
            .inbound(&workload, 8080)
            .unwrap()
            .authorizations
            .is_empty()
    );
    assert!(snapshot.problems.is_empty());
}

#[test]
fn links_in_a_circle_and_files_that_are_none_hold_nothing_up() {
    let folder = Folder::new();
    folder.write("server.yaml", SERVER);
    for name in ["again", "and-again"] {
        std::os::unix::fs::symlink(folder.0.path(), folder.0.path().join(name)).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(folder.0.path().join("x.yaml")).unwrap();
    let loaded = read(&[folder.0.path().to_owned()]);
    assert_eq!(loaded.objects.len(), 1);
    let reasons: Vec<_> = loaded.problems.iter().map(|p| p.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["no regular file: only those are read; move it away"]
    );
}

#[test]
fn the_file_system_tells_when_there_is_nothing_new() {
    let folder = Folder::new();
    folder.write("server.yaml", SERVER);
    let directories = [folder.0.path().to_owned()];
    let first = Stamp::of(&directories);
    assert_eq!(Stamp::of(&directories), first);
    folder.write("server.yaml", "");
    let changed = Stamp::of(&directories);
    assert_ne!(changed, first);
    folder.write("b.yaml", SERVER);
    assert_ne!(Stamp::of(&directories), changed);
    let gone = [folder.0.path().join("nowhere")];
    assert_ne!(Stamp::of(&gone), Stamp::of(&[]));
}

/// The policy of the port as it is while the overlay's file is as `broken` says.
fn policy_with_broken_overlay(broken: &str) -> (String, Vec<Problem>) {
    let (base, overlay) = (Folder::new(), Folder::new());
    base.write("web.yaml", &format!("{WORKLOAD}---\n{SERVER}"));
    let deny = SERVER.replace("all-unauthenticated", "deny");
    overlay.write("server.yaml", &deny);
    let directories = vec![base.0.path().to_owned(), overlay.0.path().to_owned()];
    let mut source = Source::new(directories, Cluster::default());
    source.refresh().unwrap();
    overlay.write("server.yaml", broken);
    let snapshot = source.refresh().unwrap();
    let workload: WorkloadRef = r#"{"ns":"shop","external_workload":"web"}"#.parse().unwrap();
    let server = snapshot.index.inbound(&workload, 8080).unwrap();
    let policy = if server.authorizations.is_empty() {
        "deny"
    } else {
        "open"
    };
    // Removed on purpose, the version below it is in force.
    fs::remove_file(overlay.0.path().join("server.yaml")).unwrap();
    let below = source.refresh().unwrap();
    let server = below.index.inbound(&workload, 8080).unwrap();
    assert!(!server.authorizations.is_empty());
    (policy.to_owned(), snapshot.problems)
}

#[test]
fn a_broken_overlay_does_not_bring_what_it_replaces_into_force() {
    let deny = SERVER.replace("all-unauthenticated", "deny");
    for broken in [
        deny.replace("accessPolicy: deny", "accessPolicy: denied"),
        deny.replace("port: 8080", "prot: 8080"),
        "apiVersion: [".to_owned(),
        String::new(),
    ] {
        let (policy, problems) = policy_with_broken_overlay(&broken);
        assert_eq!(policy, "deny", "{broken:?}");
        assert!(problems.iter().any(|problem| problem.kept), "{broken:?}");
    }
}

#[test]
fn a_second_manifest_does_not_come_into_force_because_the_first_breaks() {
    let folder = Folder::new();
    folder.write("web.yaml", WORKLOAD);
    folder.write("a.yaml", &SERVER.replace("all-unauthenticated", "deny"));
    folder.write("b.yaml", SERVER);
    let mut source = folder.source();
    source.refresh().unwrap();
    folder.write("a.yaml", &SERVER.replace("port: 8080", "port: 0"));
    let snapshot = source.refresh().unwrap();
    let workload: WorkloadRef = r#"{"ns":"shop","external_workload":"web"}"#.parse().unwrap();
    let server = snapshot.index.inbound(&workload, 8080).unwrap();
    assert!(server.authorizations.is_empty());

    // What is taken out of a file goes, whatever else is wrong in it.
    let other = SERVER.replace("name: web", "name: other");
    folder.write("a.yaml", &SERVER.replace("all-unauthenticated", "deny"));
    folder.write(
        "b.yaml",
        &format!("{SERVER}---\n{}", other.replace("8080", "9090")),
    );
    let servers = |source: &Source| {
        source
            .good
            .keys()
            .filter(|key| key.kind == "Server")
            .count()
    };
    source.refresh().unwrap();
    assert_eq!(servers(&source), 2);
    folder.write("b.yaml", SERVER);
    source.refresh().unwrap();
    assert_eq!(servers(&source), 1);
}
