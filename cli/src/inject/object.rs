//! What `inject` and `uninject` do to an object, and which entries of maps that changes.

use linkerd_controller::inject::{self, Mesh, Operation, Owner, Place, Values};
use serde_norway::{Mapping, Value};
use std::collections::BTreeMap;

const INJECT: &str = "linkerd.io/inject";
const OPAQUE_PORTS: &str = "config.linkerd.io/opaque-ports";
/// What a sidecar consists of.
const CONTAINERS: [&str; 4] = [
    "linkerd-proxy",
    "linkerd-init",
    "linkerd-network-validator",
    "linkerd-debug",
];
const VOLUMES: [&str; 4] = [
    "linkerd-identity-end-entity",
    "linkerd-identity-token",
    "linkerd-proxy-init-xtables-lock",
    "linkerd-podinfo",
];

/// What is wanted.
pub(super) enum Change {
    Inject {
        annotations: BTreeMap<&'static str, String>,
        /// The sidecar itself, and not only the annotations that ask for it.
        sidecar: Option<Box<Sidecar>>,
    },
    Uninject,
}

/// What a sidecar is made of.
#[derive(Debug)]
pub(super) struct Sidecar {
    pub(super) mesh: Mesh,
    pub(super) values: Values,
}

/// What was done to an object.
#[derive(Debug)]
pub(super) struct Did {
    /// In small letters.
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) what: &'static str,
    pub(super) warnings: Vec<String>,
}

/// A step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Item(usize),
}

/// A change of one entry of a map of text.
#[derive(Debug)]
pub(super) struct Note {
    /// The map that has the entry.
    pub(super) path: Vec<Step>,
    pub(super) key: String,
    /// `None`: taken away.
    pub(super) value: Option<String>,
}

/// Changes an object, or each of a List. `notes` are the changes of entries; what is beyond them has none.
pub(super) fn change(object: &mut Value, change: &Change, notes: &mut Vec<Note>) -> Vec<Did> {
    let is_list = kind(object).is_some_and(|kind| kind.ends_with("List"));
    match object.get_mut("items") {
        Some(Value::Sequence(items)) if is_list => {
            let each = items.iter_mut().enumerate().map(|(place, item)| {
                let at = vec![Step::Key("items".into()), Step::Item(place)];
                one(item, change, at, notes)
            });
            each.collect()
        }
        _ => vec![one(object, change, Vec::new(), notes)],
    }
}

fn kind(object: &Value) -> Option<&str> {
    object.get("kind").and_then(Value::as_str)
}

fn one(object: &mut Value, change: &Change, at: Vec<Step>, notes: &mut Vec<Note>) -> Did {
    let kind = kind(object).unwrap_or_default().to_owned();
    let name = object
        .get("metadata")
        .and_then(|metadata| metadata.get("name"));
    let mut did = Did {
        kind: kind.to_lowercase(),
        name: name.and_then(Value::as_str).unwrap_or_default().to_owned(),
        what: "skipped",
        warnings: Vec::new(),
    };
    let place = match kind.as_str() {
        "Pod" | "Namespace" | "Service" => [].as_slice(),
        "Deployment"
        | "ReplicaSet"
        | "StatefulSet"
        | "DaemonSet"
        | "Job"
        | "ReplicationController" => ["spec", "template"].as_slice(),
        "CronJob" => ["spec", "jobTemplate", "spec", "template"].as_slice(),
        "" => {
            did.kind = "document".to_owned();
            did.warnings.push("it has no kind".to_owned());
            return did;
        }
        _ => return did,
    };
    let namespace = object
        .get("metadata")
        .and_then(|metadata| metadata.get("namespace"));
    let namespace = namespace
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let mut target = Some(object);
    for key in place {
        target = target.and_then(|value| value.get_mut(*key));
    }
    let Some(target) = target.filter(|target| target.is_mapping()) else {
        did.warnings.push("it has no template of Pods".to_owned());
        return did;
    };
    let mut path = at;
    path.extend(place.iter().map(|key| Step::Key((*key).to_owned())));
    let mut target = Target {
        object: target,
        path,
        notes,
    };
    match change {
        Change::Uninject => target.uninject(&mut did),
        Change::Inject {
            annotations,
            sidecar,
        } => match kind.as_str() {
            "Service" => {
                if let Some(ports) = annotations.get(OPAQUE_PORTS) {
                    target.set(OPAQUE_PORTS, ports);
                    did.what = "annotated";
                }
            }
            "Namespace" => {
                if sidecar.is_none() {
                    target.annotate(annotations);
                    did.what = "injected";
                }
            }
            _ => target.inject(annotations, sidecar.as_deref(), &namespace, &mut did),
        },
    }
    did
}

/// A Pod, or a template of Pods, or what else has annotations.
struct Target<'a> {
    object: &'a mut Value,
    path: Vec<Step>,
    notes: &'a mut Vec<Note>,
}

impl Target<'_> {
    fn annotate(&mut self, annotations: &BTreeMap<&'static str, String>) {
        for (key, value) in annotations {
            self.set(key, value);
        }
    }

    /// Sets an annotation.
    fn set(&mut self, key: &str, value: &str) {
        let map = map(self.object, "metadata").and_then(|metadata| map(metadata, "annotations"));
        let Some(Value::Mapping(annotations)) = map else {
            return;
        };
        if annotations.get(key).and_then(Value::as_str) == Some(value) {
            return;
        }
        annotations.insert(key.into(), value.into());
        self.note("annotations", key, Some(value));
    }

    fn note(&mut self, map: &str, key: &str, value: Option<&str>) {
        let mut path = self.path.clone();
        path.extend([Step::Key("metadata".into()), Step::Key(map.to_owned())]);
        self.notes.push(Note {
            path,
            key: key.to_owned(),
            value: value.map(str::to_owned),
        });
    }

    fn inject(
        &mut self,
        annotations: &BTreeMap<&'static str, String>,
        sidecar: Option<&Sidecar>,
        namespace: &str,
        did: &mut Did,
    ) {
        // Whether it would be, and why not, is for the injector's code to say.
        let says = self.annotation(INJECT);
        let mut asked = serde_json::to_value(&*self.object).unwrap_or_default();
        let defaults;
        let (by, values) = match sidecar {
            Some(sidecar) => (&sidecar.mesh, &sidecar.values),
            None => {
                defaults = (mesh("", true), Values::default());
                (&defaults.0, &defaults.1)
            }
        };
        let wanted = says.as_deref().filter(|says| *says == "disabled");
        if wanted.is_none() {
            with(&mut asked, annotations);
        }
        let place = Place {
            namespace: namespace.to_owned(),
            annotations: inject::Annotations::new(),
            owner: (did.kind != "pod").then(|| Owner {
                kind: did.kind.clone(),
                name: did.name.clone(),
            }),
        };
        let verdict = inject::pod(by, values, &asked, &place);
        did.warnings.extend(verdict.warnings);
        if let Err(skip) = verdict.injected {
            did.warnings.push(skip.to_string());
            return;
        }
        did.what = "injected";
        self.annotate(annotations);
        if sidecar.is_some() {
            for operation in &verdict.patch {
                apply(self.object, operation);
            }
        }
    }

    fn annotation(&self, key: &str) -> Option<String> {
        let annotations = self.object.get("metadata")?.get("annotations")?;
        annotations.get(key)?.as_str().map(str::to_owned)
    }

    fn uninject(&mut self, did: &mut Did) {
        let mut changed = false;
        for map in ["annotations", "labels"] {
            for key in self.own(map) {
                self.remove(map, &key);
                changed = true;
            }
        }
        if let Some(Value::Mapping(spec)) = self.object.get_mut("spec") {
            for (list, names) in [
                ("containers", CONTAINERS.as_slice()),
                ("initContainers", &CONTAINERS),
                ("volumes", &VOLUMES),
            ] {
                changed |= without(spec, list, names);
            }
        }
        if changed {
            did.what = "uninjected";
        }
    }

    /// Keys of ours.
    fn own(&self, map: &str) -> Vec<String> {
        let map = self
            .object
            .get("metadata")
            .and_then(|metadata| metadata.get(map));
        let entries = map.and_then(Value::as_mapping).into_iter().flatten();
        let ours = entries.filter_map(|(key, value)| {
            let key = key.as_str()?;
            let is_no = key == INJECT && value.as_str() == Some("disabled");
            (key.starts_with("linkerd.io/") && !is_no).then(|| key.to_owned())
        });
        ours.collect()
    }

    fn remove(&mut self, map: &str, key: &str) {
        self.note(map, key, None);
        let Some(Value::Mapping(metadata)) = self.object.get_mut("metadata") else {
            return;
        };
        let Some(Value::Mapping(entries)) = metadata.get_mut(map) else {
            return;
        };
        entries.shift_remove(key);
        // What we made for it goes with it.
        if entries.is_empty() {
            metadata.shift_remove(map);
        }
        if metadata.is_empty()
            && let Value::Mapping(object) = &mut *self.object
        {
            object.shift_remove("metadata");
        }
    }
}

/// Who injects by hand.
pub(super) fn mesh(namespace: &str, has_native_sidecars: bool) -> Mesh {
    Mesh {
        namespace: namespace.to_owned(),
        created_by: concat!("linkerd/cli ", env!("CARGO_PKG_VERSION")).to_owned(),
        has_native_sidecars,
    }
}

/// A Pod with annotations.
fn with(pod: &mut serde_json::Value, annotations: &BTreeMap<&'static str, String>) {
    let empty = || serde_json::Value::Object(serde_json::Map::new());
    let mut map = pod.as_object_mut();
    for key in ["metadata", "annotations"] {
        map = map.and_then(|map| {
            let entry = map.entry(key).or_insert_with(empty);
            if entry.is_null() {
                *entry = empty();
            }
            entry.as_object_mut()
        });
    }
    if let Some(map) = map {
        let given = annotations.iter();
        map.extend(given.map(|(key, value)| ((*key).to_owned(), value.as_str().into())));
    }
}

/// A map in a map, made where there is none.
fn map<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let Value::Mapping(fields) = object else {
        return None;
    };
    if fields.get(key).is_none_or(Value::is_null) {
        fields.insert(key.into(), Value::Mapping(Mapping::new()));
    }
    fields.get_mut(key)
}

/// Takes things away from a list by name, and the list if nothing is left. Says whether it did.
fn without(spec: &mut Mapping, list: &str, names: &[&str]) -> bool {
    let Some(Value::Sequence(items)) = spec.get_mut(list) else {
        return false;
    };
    let before = items.len();
    items.retain(|item| {
        let name = item.get("name").and_then(Value::as_str);
        !name.is_some_and(|name| names.contains(&name))
    });
    let changed = items.len() != before;
    if changed && items.is_empty() {
        spec.shift_remove(list);
    }
    changed
}

/// Does an operation of the injector's to a document whose order is kept.
fn apply(object: &mut Value, operation: &Operation) {
    let Ok(value) = serde_norway::to_value(&operation.value) else {
        return;
    };
    let Some((parent, last)) = operation.path.rsplit_once('/') else {
        return;
    };
    let unescaped = |key: &str| key.replace("~1", "/").replace("~0", "~");
    let mut target = Some(object);
    for key in parent.split('/').skip(1) {
        let key = unescaped(key);
        target = target.and_then(|value| match value {
            Value::Sequence(items) => items.get_mut(key.parse::<usize>().ok()?),
            other => other.get_mut(key.as_str()),
        });
    }
    match target {
        Some(Value::Sequence(items)) => {
            let place = last.parse::<usize>().unwrap_or(items.len());
            items.insert(place.min(items.len()), value);
        }
        Some(Value::Mapping(fields)) => {
            fields.insert(unescaped(last).into(), value);
        }
        _ => {}
    }
}
