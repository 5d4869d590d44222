//! From a tree of values to a resource of its kind: versions, required parts, and which check applies.

use super::{Problem, check, check_route, check_traffic, complain};
use crate::resource::Object;
use crate::resource::{
    EndpointSlice, ExternalWorkload, GATEWAY_GROUP, HttpRoute, IntermediateKind, Key, Metadata,
    POLICY_GROUP, PROFILE_GROUP, Pod, Resource, RouteGroup, SPLIT_GROUP, WORKLOAD_GROUP,
    discovery::{APPS_GROUP, BATCH_GROUP, DISCOVERY_GROUP},
    route::*,
    values::short,
    workload::*,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// Kinds that decide something here: group, kind, versions served, the newest last.
pub const KINDS: &[(&str, &str, &[&str])] = &[
    ("", "Namespace", &["v1"]),
    ("", "Pod", &["v1"]),
    ("", "Service", &["v1"]),
    ("", "Node", &["v1"]),
    (DISCOVERY_GROUP, "EndpointSlice", &["v1"]),
    (APPS_GROUP, "ReplicaSet", &["v1"]),
    (BATCH_GROUP, "Job", &["v1"]),
    (WORKLOAD_GROUP, "ExternalWorkload", &["v1alpha1", "v1beta1"]),
    (
        POLICY_GROUP,
        "Server",
        &["v1alpha1", "v1beta1", "v1beta2", "v1beta3"],
    ),
    (
        POLICY_GROUP,
        "ServerAuthorization",
        &["v1alpha1", "v1beta1"],
    ),
    (POLICY_GROUP, "AuthorizationPolicy", &["v1alpha1"]),
    (POLICY_GROUP, "MeshTLSAuthentication", &["v1alpha1"]),
    (POLICY_GROUP, "NetworkAuthentication", &["v1alpha1"]),
    (POLICY_GROUP, "HTTPLocalRateLimitPolicy", &["v1alpha1"]),
    (
        POLICY_GROUP,
        "HTTPRoute",
        &["v1alpha1", "v1beta1", "v1beta2", "v1beta3"],
    ),
    (GATEWAY_GROUP, "HTTPRoute", &["v1beta1", "v1"]),
    (GATEWAY_GROUP, "GRPCRoute", &["v1alpha2", "v1"]),
    (GATEWAY_GROUP, "TCPRoute", &["v1alpha2", "v1"]),
    (GATEWAY_GROUP, "TLSRoute", &["v1alpha2", "v1alpha3", "v1"]),
    (POLICY_GROUP, "EgressNetwork", &["v1alpha1"]),
    (PROFILE_GROUP, "ServiceProfile", &["v1alpha1", "v1alpha2"]),
    (
        SPLIT_GROUP,
        "TrafficSplit",
        &["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"],
    ),
];

type Fields = Map<String, Value>;

/// Reads one object.
pub(super) fn read(value: Value) -> Result<Resource, Problem> {
    let Value::Object(mut fields) = value else {
        return Err(Problem::new(
            "",
            "a manifest is a map with apiVersion, kind and metadata",
        ));
    };
    let api_version = text(&mut fields, "apiVersion")?;
    let kind = text(&mut fields, "kind")?;
    let (group, version) = api_version
        .split_once('/')
        .unwrap_or(("", api_version.as_str()));
    let group = if group == "core" { "" } else { group };
    let known = KINDS.iter().find(|(g, k, _)| *g == group && *k == kind);
    let Some((_, _, versions)) = known else {
        return other(group, version, &kind, &fields);
    };
    let is_named = fields
        .get("metadata")
        .is_some_and(|m| m.get("name").is_some());
    if IntermediateKind::named(&kind).is_some() && !(is_named && versions.contains(&version)) {
        // An application's own, in a directory: nothing is asked of it.
        return Ok(passed_over(group, &kind, &fields));
    }
    if !versions.contains(&version) {
        let reason = complain::unknown(&format!("version of {kind}"), version, versions);
        return Err(Problem::new("apiVersion", reason));
    }
    match (group, kind.as_str()) {
        (_, "Namespace") => namespace(&mut fields),
        (_, "Pod") => pod(&mut fields),
        (_, "Service") => service(&mut fields),
        (_, "Node") => Ok(Resource::Node(Object {
            metadata: metadata(&mut fields, false)?,
            spec: (),
        })),
        (_, "EndpointSlice") => endpoint_slice(&mut fields),
        (_, "ReplicaSet") => intermediate(&mut fields, IntermediateKind::ReplicaSet),
        (_, "Job") => intermediate(&mut fields, IntermediateKind::Job),
        (_, "ExternalWorkload") => external_workload(&mut fields, version),
        (_, "Server") => strict(fields, check::server).map(Resource::Server),
        (_, "ServerAuthorization") => {
            strict(fields, check::server_authorization).map(Resource::ServerAuthorization)
        }
        (_, "AuthorizationPolicy") => {
            strict(fields, check::authorization_policy).map(Resource::AuthorizationPolicy)
        }
        (_, "MeshTLSAuthentication") => {
            strict(fields, check::mesh_tls_authentication).map(Resource::MeshTlsAuthentication)
        }
        (_, "NetworkAuthentication") => {
            strict(fields, check::network_authentication).map(Resource::NetworkAuthentication)
        }
        (_, "HTTPLocalRateLimitPolicy") => {
            strict(fields, check::rate_limit).map(Resource::HttpLocalRateLimitPolicy)
        }
        (_, "TCPRoute") => strict(fields, |_, spec| check_traffic::stream("TcpRoute", spec))
            .map(Resource::TcpRoute),
        (_, "TLSRoute") => strict(fields, |_, spec| check_traffic::stream("TlsRoute", spec))
            .map(Resource::TlsRoute),
        (_, "EgressNetwork") => {
            strict(fields, check_traffic::egress_network).map(Resource::EgressNetwork)
        }
        (_, "ServiceProfile") => {
            strict(fields, check_traffic::service_profile).map(Resource::ServiceProfile)
        }
        (_, "TrafficSplit") => {
            strict(fields, check_traffic::traffic_split).map(Resource::TrafficSplit)
        }
        (GATEWAY_GROUP, "HTTPRoute") => http_route(fields, RouteGroup::Gateway),
        (_, "HTTPRoute") => http_route(fields, RouteGroup::Policy),
        (_, _) => strict(fields, check_route::grpc).map(Resource::GrpcRoute),
    }
}

/// A kind that is not one of ours: read past, unless it looks like one of ours misspelt.
fn other(group: &str, version: &str, kind: &str, fields: &Fields) -> Result<Resource, Problem> {
    let of_group: Vec<&str> = KINDS
        .iter()
        .filter(|(g, ..)| *g == group)
        .map(|(_, k, _)| *k)
        .collect();
    let ours = group == POLICY_GROUP || group == WORKLOAD_GROUP;
    if ours {
        let near = match complain::nearest(kind, &of_group) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known are {}", of_group.join(", ")),
        };
        let reason = format!(
            "unsupported resource type: {}.{}.{}; {near}",
            short(group),
            short(version),
            short(kind)
        );
        return Err(Problem::new("kind", reason));
    }
    if let Some(near) = of_group.iter().find(|k| k.eq_ignore_ascii_case(kind)) {
        let reason = format!("`{}` is not a kind; did you mean `{near}`?", short(kind));
        return Err(Problem::new("kind", reason));
    }
    let groups: Vec<&str> = KINDS
        .iter()
        .filter(|(g, k, _)| !g.is_empty() && *k == kind)
        .map(|(g, ..)| *g)
        .collect();
    if let Some(near) = complain::nearest(group, &groups) {
        let reason = format!(
            "group `{}` is not known; did you mean `{near}`?",
            short(group)
        );
        return Err(Problem::new("apiVersion", reason));
    }
    Ok(passed_over(group, kind, fields))
}

fn passed_over(group: &str, kind: &str, fields: &Fields) -> Resource {
    let metadata = |field: &str| {
        let value = fields.get("metadata").and_then(|m| m.get(field));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    Resource::Other {
        key: Key {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: metadata("namespace"),
            name: metadata("name"),
        },
    }
}

fn text(fields: &mut Fields, name: &str) -> Result<String, Problem> {
    match fields.remove(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        None | Some(Value::Null) => Err(Problem::new(name, "is required; add it")),
        Some(_) => Err(Problem::new(name, "must be a string that is not empty")),
    }
}

/// A part of an object; `None` if it is absent or null.
fn optional<T: DeserializeOwned>(fields: &mut Fields, name: &str) -> Result<Option<T>, Problem> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_path_to_error::deserialize(value)
            .map(Some)
            .map_err(|error| {
                let path = error.path().to_string();
                complain::problem(name, &path, &error.into_inner().to_string())
            }),
    }
}

fn required<T: DeserializeOwned>(fields: &mut Fields, name: &str) -> Result<T, Problem> {
    optional(fields, name)?
        .ok_or_else(|| Problem::new(name, format!("admission request missing '{name}'; add it")))
}

fn metadata(fields: &mut Fields, namespaced: bool) -> Result<Metadata, Problem> {
    let mut metadata: Metadata = required(fields, "metadata")?;
    check::name("metadata.name", &metadata.name)?;
    if !namespaced {
        metadata.namespace.clear();
    } else if metadata.namespace.is_empty() {
        "default".clone_into(&mut metadata.namespace);
    } else {
        check::name("metadata.namespace", &metadata.namespace)?;
    }
    Ok(metadata)
}

/// An object of which every field is known and checked.
fn strict<S: DeserializeOwned>(
    mut fields: Fields,
    check: impl FnOnce(&Metadata, &S) -> Result<(), Problem>,
) -> Result<Object<S>, Problem> {
    let object = Object {
        metadata: metadata(&mut fields, true)?,
        spec: required(&mut fields, "spec")?,
    };
    no_more(&mut fields)?;
    check(&object.metadata, &object.spec)?;
    Ok(object)
}

/// Refuses fields beside `metadata`, `spec` and `status`.
fn no_more(fields: &mut Fields) -> Result<(), Problem> {
    fields.remove("status");
    match fields.keys().next() {
        None => Ok(()),
        Some(name) => {
            let known = ["apiVersion", "kind", "metadata", "spec", "status"];
            Err(Problem::new(
                short(name),
                complain::unknown("field", name, &known),
            ))
        }
    }
}

fn http_route(mut fields: Fields, group: RouteGroup) -> Result<Resource, Problem> {
    let route = HttpRoute {
        group,
        metadata: metadata(&mut fields, true)?,
        spec: required::<HttpRouteSpec>(&mut fields, "spec")?,
    };
    no_more(&mut fields)?;
    check_route::http(&route)?;
    Ok(Resource::HttpRoute(route))
}

fn namespace(fields: &mut Fields) -> Result<Resource, Problem> {
    Ok(Resource::Namespace(Object {
        metadata: metadata(fields, false)?,
        spec: (),
    }))
}

fn pod(fields: &mut Fields) -> Result<Resource, Problem> {
    Ok(Resource::Pod(Pod {
        metadata: metadata(fields, true)?,
        spec: required(fields, "spec")?,
        status: optional(fields, "status")?.unwrap_or_default(),
    }))
}

fn service(fields: &mut Fields) -> Result<Resource, Problem> {
    Ok(Resource::Service(Object {
        metadata: metadata(fields, true)?,
        spec: required(fields, "spec")?,
    }))
}

fn endpoint_slice(fields: &mut Fields) -> Result<Resource, Problem> {
    Ok(Resource::EndpointSlice(EndpointSlice {
        metadata: metadata(fields, true)?,
        endpoints: optional(fields, "endpoints")?.unwrap_or_default(),
        ports: optional(fields, "ports")?.unwrap_or_default(),
    }))
}

/// Of these only the metadata is read: an API server is asked for no more.
fn intermediate(fields: &mut Fields, spec: IntermediateKind) -> Result<Resource, Problem> {
    let metadata = metadata(fields, true)?;
    Ok(Resource::Intermediate(Object { metadata, spec }))
}

fn external_workload(fields: &mut Fields, version: &str) -> Result<Resource, Problem> {
    #[derive(Default, Deserialize)]
    struct Status {
        #[serde(default)]
        conditions: Vec<Condition>,
    }
    let status: Option<Status> = optional(fields, "status")?;
    let workload = ExternalWorkload {
        metadata: metadata(fields, true)?,
        spec: required(fields, "spec")?,
        conditions: status.map(|s| s.conditions),
    };
    no_more(fields)?;
    check::external_workload(&workload, version)?;
    Ok(Resource::ExternalWorkload(workload))
}
