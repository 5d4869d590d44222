//! Statuses as objects have them.

use super::CONTROLLER;
use linkerd_policy::index::{Condition, ParentStatus, Status};
use serde_json::{Map, Value, json};
use std::time::SystemTime;

/// The status that an object is to have, in place of the one that it has. What others say in it stays, and times stay
/// where conditions do.
pub(super) fn status(wanted: &Status, found: &Value, now: SystemTime) -> Value {
    match wanted {
        Status::Route(parents) => {
            let found = list(found, "parents");
            let theirs = found.iter().filter(|entry| !is_ours(entry)).cloned();
            let ours = parents.iter().map(|parent| entry(parent, found, now));
            json!({"parents": theirs.chain(ours).collect::<Vec<_>>()})
        }
        Status::RateLimit { server, condition } => {
            let target = json!({"group": "policy.linkerd.io", "kind": "Server", "name": server});
            json!({"conditions": conditions(condition, found, now), "targetRef": target})
        }
        Status::EgressNetwork(condition) => {
            json!({"conditions": conditions(condition, found, now)})
        }
    }
}

/// Whether an object that has one status need not be given the other.
pub(super) fn is_same(status: &Value, found: &Value) -> bool {
    let Value::Object(fields) = status else {
        return false;
    };
    fields.iter().all(|(name, value)| match found.get(name) {
        Some(found) => found == value,
        // No entries, and none to be given.
        None => value.as_array().is_some_and(Vec::is_empty),
    })
}

/// As `==`, without regard to when conditions began to hold.
pub(super) fn is_same_but_for_times(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| {
                    name == "lastTransitionTime"
                        || other
                            .get(name)
                            .is_some_and(|other| is_same_but_for_times(value, other))
                })
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_same_but_for_times(one, other))
        }
        _ => one == other,
    }
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
}

/// The entry of a route for one of its parents.
fn entry(parent: &ParentStatus, found: &[Value], now: SystemTime) -> Value {
    let mut reference = Map::new();
    reference.insert("group".to_owned(), parent.group.into());
    reference.insert("kind".to_owned(), parent.kind.into());
    reference.insert("namespace".to_owned(), parent.namespace.clone().into());
    reference.insert("name".to_owned(), parent.name.clone().into());
    if let Some(port) = parent.port {
        reference.insert("port".to_owned(), port.into());
    }
    let reference = Value::Object(reference);
    let before = found
        .iter()
        .find(|entry| is_ours(entry) && entry.get("parentRef") == Some(&reference));
    let before = before.map_or(&[] as &[Value], |entry| list(entry, "conditions"));
    let conditions = parent.conditions.iter();
    let conditions: Vec<Value> = conditions
        .map(|each| condition(each, before, now))
        .collect();
    json!({"controllerName": CONTROLLER, "parentRef": reference, "conditions": conditions})
}

/// The conditions of an object, of which one is ours.
fn conditions(ours: &Condition, found: &Value, now: SystemTime) -> Vec<Value> {
    let found = list(found, "conditions");
    let theirs = found
        .iter()
        .filter(|each| each.get("type") != Some(&ours.kind.into()));
    theirs
        .cloned()
        .chain([condition(ours, found, now)])
        .collect()
}

/// A condition; the time is that of the last change.
fn condition(condition: &Condition, found: &[Value], now: SystemTime) -> Value {
    let status = if condition.is_true { "True" } else { "False" };
    let before = found.iter().find(|each| {
        each.get("type") == Some(&condition.kind.into())
            && each.get("status") == Some(&status.into())
    });
    let since = before
        .and_then(|before| before.get("lastTransitionTime"))
        .cloned();
    json!({
        "type": condition.kind,
        "status": status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": since.unwrap_or_else(|| time_of(now)),
    })
}

/// As `Time` has it: whole seconds, or the API server would give back another than was written.
fn time_of(now: SystemTime) -> Value {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let now = time::OffsetDateTime::from(now);
    now.format(&format).map(Value::from).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let list = value.get(name).and_then(Value::as_array);
    list.map_or(&[], |list| list)
}
