//! The operations of an OpenAPI document, of version 2 (Swagger) or 3. Source: the OpenAPI Specification, "Path Templating",
//! "Server Object", "Responses Object". Of the rest nothing is read but `x-linkerd-retryable` and `x-linkerd-timeout`.

use super::{Unusable, quoted};
use linkerd_policy::manifest::go_duration_seconds;
use serde_json::{Map, Value, json};

/// Operations of a path, in the order of their routes.
const METHODS: [&str; 8] = [
    "delete", "get", "head", "options", "patch", "post", "put", "trace",
];

/// A route for each operation. What stands for itself comes before what has a parameter in its place, since the first route
/// that matches takes a request.
pub(super) fn routes(text: &str) -> Result<Vec<Value>, Unusable> {
    let document: Value = serde_norway::from_str(text).map_err(|error| {
        Unusable::new("document", format!("it is neither YAML nor JSON: {error}"))
    })?;
    let base = base(&document)?;
    let paths = document.get("paths").and_then(Value::as_object);
    let paths = paths.into_iter().flatten();
    let mut paths: Vec<_> = paths.filter(|(path, _)| !path.starts_with("x-")).collect();
    paths.sort_by_cached_key(|(path, _)| {
        let parts = path.split('/');
        parts
            .map(|part| (part.contains('{'), part.to_owned()))
            .collect::<Vec<_>>()
    });
    let mut routes = Vec::new();
    for (path, item) in paths {
        let place = format!("paths.{path}");
        if !path.starts_with('/') {
            return Err(Unusable::new(place, "a path begins with `/`; add it"));
        }
        let item = resolved(&document, item, &place)?;
        let base = of_servers(item, &place)?.unwrap_or_else(|| base.clone());
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                let place = format!("{place}.{method}");
                let base = of_servers(operation, &place)?.unwrap_or_else(|| base.clone());
                routes.push(route(&format!("{base}{path}"), method, operation, &place)?);
            }
        }
    }
    if routes.is_empty() {
        return Err(Unusable::new(
            "paths",
            "there is no operation in it, like get or post of a path",
        ));
    }
    Ok(routes)
}

/// What all paths begin with, without a `/` at the end.
fn base(document: &Value) -> Result<String, Unusable> {
    let version = |field: &str| {
        let version = document.get(field)?;
        Some(
            version
                .as_str()
                .map_or_else(|| version.to_string(), str::to_owned),
        )
    };
    match (version("swagger"), version("openapi")) {
        (Some(version), _) if version == "2.0" => {
            let base = document.get("basePath").and_then(Value::as_str);
            Ok(base.unwrap_or_default().trim_end_matches('/').to_owned())
        }
        (None, Some(version)) if version.starts_with("3.") => {
            Ok(of_servers(document, "")?.unwrap_or_default())
        }
        (swagger, openapi) => {
            let version = swagger.or(openapi);
            let version = version.map_or_else(|| "no version".to_owned(), |it| format!("`{it}`"));
            Err(Unusable::new(
                "swagger",
                format!("{version} is not known; swagger: \"2.0\" and openapi: 3.x are"),
            ))
        }
    }
}

/// The path of a list of servers, if there is a list.
fn of_servers(of: &Value, place: &str) -> Result<Option<String>, Unusable> {
    let Some(servers) = of.get("servers").and_then(Value::as_array) else {
        return Ok(None);
    };
    let mut bases: Vec<String> = servers.iter().map(path_of).collect();
    bases.dedup();
    match bases.as_slice() {
        [] => Ok(None),
        [base] if base.is_empty() || base.starts_with('/') => Ok(Some(base.clone())),
        bases => {
            let place = format!("{place}.servers");
            let reason = format!(
                "their paths are {bases:?}, and a route has one; leave the server that clients in the cluster call, like /v1"
            );
            Err(Unusable::new(place.trim_start_matches('.'), reason))
        }
    }
}

/// The path of a server's URL, whose variables have their defaults.
fn path_of(server: &Value) -> String {
    let url = server.get("url").and_then(Value::as_str);
    let mut url = url.unwrap_or_default().to_owned();
    let variables = server.get("variables").and_then(Value::as_object);
    for (name, variable) in variables.into_iter().flatten() {
        if let Some(value) = variable.get("default").and_then(Value::as_str) {
            url = url.replace(&format!("{{{name}}}"), value);
        }
    }
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)),
        None => Some(url.as_str()),
    };
    path.unwrap_or_default().trim_end_matches('/').to_owned()
}

/// A path's operations, which may be elsewhere in the document.
fn resolved<'a>(document: &'a Value, item: &'a Value, place: &str) -> Result<&'a Value, Unusable> {
    let Some(reference) = item.get("$ref").and_then(Value::as_str) else {
        return Ok(item);
    };
    let pointer = reference.strip_prefix('#');
    let found = pointer.and_then(|pointer| document.pointer(pointer));
    found.ok_or_else(|| {
        let reason = format!(
            "`{reference}` is nowhere in this document, and others are not read; write the operations here"
        );
        Unusable::new(format!("{place}.$ref"), reason)
    })
}

fn route(path: &str, method: &str, operation: &Value, place: &str) -> Result<Value, Unusable> {
    let method = method.to_ascii_uppercase();
    let mut route = Map::new();
    route.insert("name".to_owned(), format!("{method} {path}").into());
    let condition = json!({"method": method, "pathRegex": expression(path, place)?});
    route.insert("condition".to_owned(), condition);
    let classes = classes(operation, place)?;
    if !classes.is_empty() {
        route.insert("responseClasses".to_owned(), classes.into());
    }
    match operation.get("x-linkerd-retryable") {
        None => {}
        Some(Value::Bool(is_retryable)) => {
            route.insert("isRetryable".to_owned(), (*is_retryable).into());
        }
        Some(other) => {
            return Err(Unusable::new(
                format!("{place}.x-linkerd-retryable"),
                format!("`{other}` is neither true nor false"),
            ));
        }
    }
    if let Some(timeout) = operation.get("x-linkerd-timeout") {
        let is_good = |text: &&str| go_duration_seconds(text).is_some_and(|seconds| seconds > 0.0);
        let text = timeout.as_str().filter(is_good).ok_or_else(|| {
            Unusable::new(
                format!("{place}.x-linkerd-timeout"),
                format!("`{timeout}` is not a duration; write for example 300ms"),
            )
        })?;
        route.insert("timeout".to_owned(), text.into());
    }
    Ok(route.into())
}

/// An expression for a path, in which a parameter is anything but a `/`.
fn expression(path: &str, place: &str) -> Result<String, Unusable> {
    let mut expression = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((_, behind)) = after.split_once('}') else {
            return Err(Unusable::new(
                place,
                format!("the parameter `{{{after}` has no end; add `}}`"),
            ));
        };
        expression.push_str(&quoted(before));
        expression.push_str("[^/]*");
        rest = behind;
    }
    expression.push_str(&quoted(rest));
    Ok(expression)
}

/// What an operation's responses count as: those of 5xx are failures. Single statuses come before ranges, and `default`
/// changes nothing.
fn classes(operation: &Value, place: &str) -> Result<Vec<Value>, Unusable> {
    let responses = operation.get("responses").and_then(Value::as_object);
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for key in responses.into_iter().flatten().map(|(key, _)| key) {
        if key == "default" || key.starts_with("x-") {
            continue;
        }
        let class = key.to_ascii_uppercase();
        let (from, to) = match class.strip_suffix("XX") {
            Some(first) => (format!("{first}00"), format!("{first}99")),
            None => (class.clone(), class),
        };
        let range = from.parse::<u16>().ok().zip(to.parse().ok());
        let range = range.filter(|(min, _)| key.len() == 3 && (100..600).contains(min));
        ranges.push(range.ok_or_else(|| {
            Unusable::new(
                format!("{place}.responses.{key}"),
                "it is no status; 200, 5XX and default are",
            )
        })?);
    }
    ranges.sort_by_key(|&(min, max)| (max - min, min));
    let class = |(min, max)| json!({"condition": {"status": {"min": min, "max": max}}, "isFailure": min >= 500});
    Ok(ranges.into_iter().map(class).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SWAGGER: &str = r#"
swagger: "2.0"
basePath: /v1/
paths:
  /items/{id}:
    get:
      x-linkerd-retryable: true
      x-linkerd-timeout: 300ms
      responses: {5XX: {}, 200: {}, "404": {}, default: {}}
    parameters: []
  /items/search.json: {get: {}, delete: }
  x-other: 1
"#;

    #[test]
    fn each_operation_is_a_route_and_what_is_literal_comes_first() {
        let routes = routes(SWAGGER).unwrap();
        let class = |min: u16, max: u16, is_failure: bool| json!({"condition": {"status": {"min": min, "max": max}}, "isFailure": is_failure});
        let wanted = json!([
            {
                "name": "DELETE /v1/items/search.json",
                "condition": {"method": "DELETE", "pathRegex": r"/v1/items/search\.json"},
            },
            {
                "name": "GET /v1/items/search.json",
                "condition": {"method": "GET", "pathRegex": r"/v1/items/search\.json"},
            },
            {
                "name": "GET /v1/items/{id}",
                "condition": {"method": "GET", "pathRegex": "/v1/items/[^/]*"},
                "responseClasses": [class(200, 200, false), class(404, 404, false), class(500, 599, true)],
                "isRetryable": true,
                "timeout": "300ms",
            },
        ]);
        assert_eq!(Value::from(routes), wanted);
    }

    #[test]
    fn servers_say_where_paths_begin() {
        let document = |servers: &str, own: &str| {
            format!(
                r##"{{"openapi": "3.1.0", "servers": {servers}, "paths": {{"/a": {{"$ref": "#/shared/a"}}}},
                "shared": {{"a": {{"get": {{{own}}}}}}}}}"##
            )
        };
        let both = r#"[{"url": "https://a.example/v2/"}, {"url": "/{base}", "variables": {"base": {"default": "v2"}}}]"#;
        let own = r#""servers": [{"url": "/own"}]"#;
        for (servers, own, path) in [
            (both, "", "/v2/a"),
            ("[]", "", "/a"),
            (r#"[{"url": "https://a.example"}]"#, "", "/a"),
            (both, own, "/own/a"),
        ] {
            let routes = routes(&document(servers, own)).unwrap();
            assert_eq!(routes[0]["condition"]["pathRegex"], path);
        }
        let two = r#"[{"url": "/v1"}, {"url": "/v2"}]"#;
        let error = routes(&document(two, "")).unwrap_err();
        assert_eq!(error.place, "servers");
        assert!(error.reason.contains(r#"["/v1", "/v2"]"#), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_field() {
        let with = |operation: &str| {
            format!(
                "swagger: '2.0'
paths: {{/a: {{get: {{{operation}}}}}}}"
            )
        };
        for (text, place, reason) in [
            ("{", "document", "neither YAML nor JSON"),
            ("paths: {}", "swagger", "no version"),
            ("swagger: '1.2'", "swagger", "`1.2` is not known"),
            ("openapi: 3.0.0", "paths", "no operation"),
            (
                "openapi: 3.0.0
paths: {a: {get: {}}}",
                "paths.a",
                "begins with `/`",
            ),
            (
                "openapi: 3.0.0
paths: {'/a{b': {get: {}}}",
                "paths./a{b.get",
                "add `}`",
            ),
            (
                "openapi: 3.0.0
paths: {/a: {$ref: 'other.yaml#/a'}}",
                "paths./a.$ref",
                "`other.yaml#/a`",
            ),
            (
                &with("x-linkerd-retryable: often"),
                "paths./a.get.x-linkerd-retryable",
                "often",
            ),
            (
                &with("x-linkerd-timeout: 5"),
                "paths./a.get.x-linkerd-timeout",
                "write for example 300ms",
            ),
            (
                &with("responses: {20: {}}"),
                "paths./a.get.responses.20",
                "200, 5XX and default",
            ),
            (
                &with("responses: {99999XX: {}}"),
                "paths./a.get.responses.99999XX",
                "200, 5XX and default",
            ),
            (
                &with("responses: {9XX: {}}"),
                "paths./a.get.responses.9XX",
                "200, 5XX and default",
            ),
        ] {
            let error = routes(text).unwrap_err();
            assert_eq!(error.place, place, "{text}: {error}");
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_it_ends(path in "/([a-z.{}/*é]){0,12}", key in "[0-9xX]{0,5}") {
            let document = json!({"swagger": "2.0", "paths": {path: {"get": {"responses": {key: {}}}}}});
            let _ = routes(&document.to_string());
        }
    }
}
