//! The custom resource definitions of the mesh's own kinds, as an API server takes them: versions, names and schemas.
//!
//! What a schema cannot say (networks that exclude all of themselves, two authentications of one kind) is said at
//! admission and by [`crate::manifest`]. The kinds of the Gateway API are not ours to define.

use serde_json::{Map, Value, json};

/// A kind of the mesh.
struct Definition {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    /// Served versions, the newest, which is stored, last.
    versions: Vec<Version>,
    has_status: bool,
}

struct Version {
    name: &'static str,
    is_deprecated: bool,
    spec: Value,
    /// Columns that `kubectl get` shows: name, type, path.
    columns: &'static [(&'static str, &'static str, &'static str)],
}

const POLICY: &str = "policy.linkerd.io";

/// Every definition, in the form of `apiextensions.k8s.io/v1`.
pub fn definitions() -> Vec<Value> {
    let all = [
        server(),
        server_authorization(),
        authorization_policy(),
        mesh_tls_authentication(),
        network_authentication(),
        http_route(),
        rate_limit(),
        egress_network(),
        service_profile(),
        external_workload(),
    ];
    all.into_iter().map(Definition::into_value).collect()
}

impl Definition {
    fn into_value(self) -> Value {
        let stored = self.versions.len().saturating_sub(1);
        let versions = self.versions.into_iter().enumerate();
        let versions = versions.map(|(at, version)| {
            let mut properties = Map::new();
            for name in ["apiVersion", "kind"] {
                properties.insert(name.to_owned(), json!({"type": "string"}));
            }
            properties.insert("metadata".to_owned(), json!({"type": "object"}));
            properties.insert("spec".to_owned(), version.spec);
            if self.has_status {
                properties.insert("status".to_owned(), open());
            }
            let mut value = json!({
                "name": version.name,
                "served": true,
                "storage": at == stored,
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": properties}},
            });
            if let Value::Object(fields) = &mut value {
                if version.is_deprecated {
                    let newest = format!("use the newest version of {}", self.kind);
                    fields.insert("deprecated".to_owned(), true.into());
                    let warning = format!("{}/{} {} is deprecated; {newest}", self.group, version.name, self.kind);
                    fields.insert("deprecationWarning".to_owned(), warning.into());
                }
                if self.has_status {
                    fields.insert("subresources".to_owned(), json!({"status": {}}));
                }
                let columns = version.columns.iter().map(|(name, kind, path)| {
                    json!({"name": name, "type": kind, "jsonPath": path})
                });
                let columns: Vec<Value> = columns.collect();
                if !columns.is_empty() {
                    fields.insert("additionalPrinterColumns".to_owned(), columns.into());
                }
            }
            value
        });
        let versions: Vec<Value> = versions.collect();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{}", self.plural, self.group)},
            "spec": {
                "group": self.group,
                "scope": "Namespaced",
                "names": {
                    "kind": self.kind,
                    "plural": self.plural,
                    "singular": self.kind.to_lowercase(),
                    "shortNames": self.short,
                },
                "versions": versions,
            },
        })
    }
}

/// A version that is current.
fn current(name: &'static str, spec: Value) -> Version {
    Version {
        name,
        is_deprecated: false,
        spec,
        columns: &[],
    }
}

fn deprecated(name: &'static str, spec: Value) -> Version {
    Version {
        is_deprecated: true,
        ..current(name, spec)
    }
}

/// An object with these fields, of which some are required.
fn object(required: &[&str], properties: Value) -> Value {
    let mut value = json!({"type": "object", "properties": properties});
    if let (Value::Object(fields), false) = (&mut value, required.is_empty()) {
        fields.insert("required".to_owned(), json!(required));
    }
    value
}

/// An object of which the API server keeps everything.
fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn at_most(max: u32, items: Value) -> Value {
    json!({"type": "array", "maxItems": max, "items": items})
}

fn string() -> Value {
    json!({"type": "string"})
}

fn text(min: u32, max: u32) -> Value {
    json!({"type": "string", "minLength": min, "maxLength": max})
}

fn one_of(values: &[&str]) -> Value {
    json!({"type": "string", "enum": values})
}

fn whole(min: i64, max: i64) -> Value {
    json!({"type": "integer", "minimum": min, "maximum": max})
}

fn port() -> Value {
    json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535})
}

/// What a field is where nothing is said.
fn or(mut schema: Value, default: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        fields.insert("default".to_owned(), default);
    }
    schema
}

/// Exactly one of these fields is there.
fn exactly_one(mut value: Value, names: &[&str]) -> Value {
    let one: Vec<Value> = names
        .iter()
        .map(|name| json!({"required": [name]}))
        .collect();
    if let Value::Object(fields) = &mut value {
        fields.insert("oneOf".to_owned(), one.into());
    }
    value
}

/// `matchLabels` and `matchExpressions`.
fn selector() -> Value {
    object(
        &[],
        json!({
            "matchLabels": {"type": "object", "additionalProperties": string()},
            "matchExpressions": list(object(
                &["key", "operator"],
                json!({
                    "key": string(),
                    "operator": one_of(&["In", "NotIn", "Exists", "DoesNotExist"]),
                    "values": list(string()),
                }),
            )),
        }),
    )
}

fn networks() -> Value {
    let network = json!({"cidr": string(), "except": list(string())});
    list(object(&["cidr"], network))
}

/// A reference to an object of the same namespace.
fn target() -> Value {
    object(
        &["kind", "name"],
        json!({"group": text(0, 253), "kind": text(1, 63), "name": text(1, 253)}),
    )
}

/// A reference that may name a namespace.
fn reference() -> Value {
    object(
        &["kind", "name"],
        json!({
            "group": text(0, 253),
            "kind": text(1, 63),
            "name": text(1, 253),
            "namespace": text(1, 253),
        }),
    )
}

/// `*`, or DNS labels of which the first may be `*`.
const IDENTITY: &str = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

fn server() -> Definition {
    let spec = |has_external: bool, has_access: bool| {
        let mut fields = json!({
            "podSelector": selector(),
            "port": {"x-kubernetes-int-or-string": true},
            "proxyProtocol": {"type": "string", "default": "unknown"},
        });
        if let Value::Object(fields) = &mut fields {
            if has_external {
                fields.insert("externalWorkloadSelector".to_owned(), selector());
            }
            if has_access {
                let access = json!({"type": "string", "default": "deny"});
                fields.insert("accessPolicy".to_owned(), access);
            }
        }
        if has_external {
            let spec = object(&["port"], fields);
            return exactly_one(spec, &["podSelector", "externalWorkloadSelector"]);
        }
        object(&["podSelector", "port"], fields)
    };
    let columns = &[
        ("Port", "string", ".spec.port"),
        ("Protocol", "string", ".spec.proxyProtocol"),
        ("Access Policy", "string", ".spec.accessPolicy"),
    ];
    Definition {
        group: POLICY,
        kind: "Server",
        plural: "servers",
        short: &["srv"],
        versions: vec![
            deprecated("v1alpha1", spec(false, false)),
            deprecated("v1beta1", spec(false, false)),
            Version {
                columns: &[
                    ("Port", "string", ".spec.port"),
                    ("Protocol", "string", ".spec.proxyProtocol"),
                ],
                ..current("v1beta2", spec(true, false))
            },
            Version {
                columns,
                ..current("v1beta3", spec(true, true))
            },
        ],
        has_status: false,
    }
}

fn server_authorization() -> Definition {
    let spec = || {
        let server = object(&[], json!({"name": text(1, 253), "selector": selector()}));
        let account = json!({"name": text(1, 253), "namespace": string()});
        let mesh = json!({
            "unauthenticatedTLS": {"type": "boolean"},
            "identities": list(json!({"type": "string", "pattern": IDENTITY})),
            "serviceAccounts": list(object(&["name"], account)),
        });
        let client = json!({
            "networks": networks(),
            "unauthenticated": {"type": "boolean"},
            "meshTLS": object(&[], mesh),
        });
        object(
            &["server", "client"],
            json!({
                "server": exactly_one(server, &["name", "selector"]),
                "client": object(&[], client),
            }),
        )
    };
    Definition {
        group: POLICY,
        kind: "ServerAuthorization",
        plural: "serverauthorizations",
        short: &["saz", "serverauthz", "srvauthz"],
        versions: vec![
            deprecated("v1alpha1", spec()),
            Version {
                columns: &[("Server", "string", ".spec.server.name")],
                ..current("v1beta1", spec())
            },
        ],
        has_status: false,
    }
}

fn authorization_policy() -> Definition {
    let spec = json!({
        "targetRef": target(),
        "requiredAuthenticationRefs": list(reference()),
    });
    Definition {
        group: POLICY,
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short: &["authzpolicy"],
        versions: vec![current(
            "v1alpha1",
            object(&["targetRef", "requiredAuthenticationRefs"], spec),
        )],
        has_status: false,
    }
}

fn mesh_tls_authentication() -> Definition {
    let reference = object(
        &["kind"],
        json!({
            "group": text(0, 253),
            "kind": text(1, 63),
            "name": text(1, 253),
            "namespace": text(1, 253),
        }),
    );
    let some = |items: Value| json!({"type": "array", "minItems": 1, "items": items});
    let spec = object(
        &[],
        json!({"identities": some(string()), "identityRefs": some(reference)}),
    );
    Definition {
        group: POLICY,
        kind: "MeshTLSAuthentication",
        plural: "meshtlsauthentications",
        short: &["meshtlsauthn"],
        versions: vec![current(
            "v1alpha1",
            exactly_one(spec, &["identities", "identityRefs"]),
        )],
        has_status: false,
    }
}

fn network_authentication() -> Definition {
    Definition {
        group: POLICY,
        kind: "NetworkAuthentication",
        plural: "networkauthentications",
        short: &["netauthn", "networkauthn"],
        versions: vec![current(
            "v1alpha1",
            object(&["networks"], json!({"networks": networks()})),
        )],
        has_status: false,
    }
}

/// A match of a header or of a query parameter.
fn pair() -> Value {
    object(
        &["name", "value"],
        json!({
            "name": text(1, 256),
            "value": text(1, 4096),
            "type": or(one_of(&["Exact", "RegularExpression"]), "Exact".into()),
        }),
    )
}

fn header_modifier() -> Value {
    let header = || {
        object(
            &["name", "value"],
            json!({"name": text(1, 256), "value": text(1, 4096)}),
        )
    };
    object(
        &[],
        json!({
            "add": at_most(16, header()),
            "set": at_most(16, header()),
            "remove": at_most(16, string()),
        }),
    )
}

fn filters(types: &[&str]) -> Value {
    let path = object(
        &["type"],
        json!({
            "type": one_of(&["ReplaceFullPath", "ReplacePrefixMatch"]),
            "replaceFullPath": text(0, 1024),
            "replacePrefixMatch": text(0, 1024),
        }),
    );
    let redirect = json!({
        "scheme": one_of(&["http", "https"]),
        "hostname": text(1, 253),
        "path": path,
        "port": port(),
        "statusCode": {"type": "integer", "enum": [301, 302], "default": 302},
    });
    let mut fields = json!({
        "type": one_of(types),
        "requestHeaderModifier": header_modifier(),
        "requestRedirect": object(&[], redirect),
    });
    if let (Value::Object(fields), true) = (&mut fields, types.contains(&"ResponseHeaderModifier"))
    {
        fields.insert("responseHeaderModifier".to_owned(), header_modifier());
    }
    at_most(16, object(&["type"], fields))
}

fn http_route() -> Definition {
    const METHODS: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    let spec = |has_backends: bool, has_timeouts: bool| {
        let types = one_of(&["Exact", "PathPrefix", "RegularExpression"]);
        let path = json!({
            "type": or(types, "PathPrefix".into()),
            "value": or(text(0, 1024), "/".into()),
        });
        let every = || json!({"type": "PathPrefix", "value": "/"});
        let any = || json!([{"path": every()}]);
        let matches = json!({
            "path": or(object(&[], path), every()),
            "headers": at_most(16, pair()),
            "queryParams": at_most(16, pair()),
            "method": one_of(&METHODS),
        });
        let mut rule = json!({
            "matches": or(at_most(8, object(&[], matches)), any()),
            "filters": filters(&["RequestHeaderModifier", "RequestRedirect"]),
        });
        if let Value::Object(rule) = &mut rule {
            let backend = json!({
                "group": or(text(0, 253), "".into()),
                "kind": or(text(1, 63), "Service".into()),
                "name": text(1, 253),
                "namespace": text(1, 253),
                "port": port(),
                "weight": or(whole(0, 1_000_000), 1.into()),
                "filters": filters(&["RequestHeaderModifier", "RequestRedirect", "ResponseHeaderModifier"]),
            });
            if has_backends {
                rule.insert(
                    "backendRefs".to_owned(),
                    at_most(16, object(&["name"], backend)),
                );
            }
            if has_timeouts {
                let timeouts = json!({"request": string(), "backendRequest": string()});
                rule.insert("timeouts".to_owned(), object(&[], timeouts));
            }
        }
        let parent = json!({
            "group": or(text(0, 253), POLICY.into()),
            "kind": or(text(1, 63), "Gateway".into()),
            "name": text(1, 253),
            "namespace": text(1, 253),
            "port": port(),
            "sectionName": text(1, 253),
        });
        object(
            &[],
            json!({
                "parentRefs": at_most(32, object(&["name"], parent)),
                "hostnames": at_most(16, text(1, 253)),
                "rules": or(at_most(16, object(&[], rule)), json!([{"matches": any()}])),
            }),
        )
    };
    Definition {
        group: POLICY,
        kind: "HTTPRoute",
        plural: "httproutes",
        short: &[],
        versions: vec![
            current("v1alpha1", spec(false, false)),
            current("v1beta1", spec(false, false)),
            current("v1beta2", spec(true, false)),
            Version {
                columns: &[
                    ("Hostnames", "string", ".spec.hostnames"),
                    ("Age", "date", ".metadata.creationTimestamp"),
                ],
                ..current("v1beta3", spec(true, true))
            },
        ],
        has_status: true,
    }
}

fn rate_limit() -> Definition {
    let rate = || json!({"type": "integer", "format": "int64"});
    let limit = || object(&["requestsPerSecond"], json!({"requestsPerSecond": rate()}));
    let overriding = object(
        &["requestsPerSecond", "clientRefs"],
        json!({"requestsPerSecond": rate(), "clientRefs": list(reference())}),
    );
    let spec = json!({
        "targetRef": target(),
        "total": limit(),
        "identity": limit(),
        "overrides": list(overriding),
    });
    Definition {
        group: POLICY,
        kind: "HTTPLocalRateLimitPolicy",
        plural: "httplocalratelimitpolicies",
        short: &[],
        versions: vec![Version {
            columns: &[
                ("Target_kind", "string", ".spec.targetRef.kind"),
                ("Target_name", "string", ".spec.targetRef.name"),
                ("Total_RPS", "integer", ".spec.total.requestsPerSecond"),
                (
                    "Identity_RPS",
                    "integer",
                    ".spec.identity.requestsPerSecond",
                ),
            ],
            ..current("v1alpha1", object(&["targetRef"], spec))
        }],
        has_status: true,
    }
}

fn egress_network() -> Definition {
    let spec = json!({
        "networks": networks(),
        "trafficPolicy": one_of(&["Allow", "Deny"]),
    });
    Definition {
        group: POLICY,
        kind: "EgressNetwork",
        plural: "egressnetworks",
        short: &[],
        versions: vec![current("v1alpha1", object(&["trafficPolicy"], spec))],
        has_status: true,
    }
}

fn service_profile() -> Definition {
    let spec = |required: &[&str]| {
        // Conditions contain conditions, which a schema cannot say.
        let class = object(
            &["condition"],
            json!({"condition": open(), "isFailure": {"type": "boolean"}}),
        );
        let route = object(
            &["name", "condition"],
            json!({
                "name": string(),
                "condition": open(),
                "isRetryable": {"type": "boolean"},
                "timeout": string(),
                "responseClasses": list(class),
            }),
        );
        let budget = object(
            &["retryRatio", "minRetriesPerSecond", "ttl"],
            json!({
                "retryRatio": {"type": "number", "format": "float"},
                "minRetriesPerSecond": {"type": "integer"},
                "ttl": string(),
            }),
        );
        let weight = json!({
            "x-kubernetes-int-or-string": true,
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
        });
        object(
            required,
            json!({
                "routes": list(route),
                "retryBudget": budget,
                "dstOverrides": list(object(&[], json!({"authority": string(), "weight": weight}))),
                "opaquePorts": list(string()),
            }),
        )
    };
    Definition {
        group: "linkerd.io",
        kind: "ServiceProfile",
        plural: "serviceprofiles",
        short: &["sp"],
        versions: vec![
            current("v1alpha1", spec(&["routes"])),
            current("v1alpha2", spec(&[])),
        ],
        has_status: false,
    }
}

fn external_workload() -> Definition {
    let spec = |mesh: &str, max_ips: u32| {
        let identity = object(
            &["identity", "serverName"],
            json!({"identity": text(1, 253), "serverName": text(1, 253)}),
        );
        let ports = object(
            &["port"],
            json!({"port": port(), "name": string(), "protocol": {"type": "string", "default": "TCP"}}),
        );
        object(
            &[mesh],
            json!({
                mesh: identity,
                "ports": list(ports),
                "workloadIPs": at_most(max_ips, object(&["ip"], json!({"ip": string()}))),
            }),
        )
    };
    const COLUMNS: &[(&str, &str, &str)] = &[
        ("Identity", "string", ".spec.meshTLS.identity"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ];
    Definition {
        group: "workload.linkerd.io",
        kind: "ExternalWorkload",
        plural: "externalworkloads",
        short: &[],
        versions: vec![
            current("v1alpha1", spec("meshTls", 1)),
            Version {
                columns: COLUMNS,
                ..current("v1beta1", spec("meshTLS", 2))
            },
        ],
        has_status: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::KINDS;

    #[test]
    fn every_kind_of_ours_is_defined_in_every_version_that_is_read_and_the_newest_is_stored() {
        let all = definitions();
        for (group, kind, versions) in KINDS
            .iter()
            .filter(|(group, ..)| group.ends_with("linkerd.io"))
        {
            let is_it = |value: &&Value| {
                value["spec"]["group"] == *group && value["spec"]["names"]["kind"] == *kind
            };
            let definition = all.iter().find(is_it).unwrap();
            let defined = definition["spec"]["versions"].as_array().unwrap();
            let names: Vec<&str> = defined
                .iter()
                .map(|v| v["name"].as_str().unwrap())
                .collect();
            assert_eq!(&names, versions, "{kind}");
            let stored: Vec<bool> = defined
                .iter()
                .map(|v| v["storage"].as_bool().unwrap())
                .collect();
            assert_eq!(stored.iter().filter(|stored| **stored).count(), 1, "{kind}");
            assert_eq!(stored.last(), Some(&true), "{kind}");
        }
        assert_eq!(all.len(), 10);
    }
}
