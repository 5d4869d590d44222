//! Which route takes a request: Gateway API precedence, found without trying every route.
//!
//! Of all matches that take a request the first in this order wins:
//!
//! 1. host: an exact host, then the longest suffix, then routes that name no host;
//! 2. path: exact, then the longest prefix, then regular expressions, then matches that say nothing of the path (no
//!    path, or the prefix `/`);
//! 3. a match that names a method before one that does not;
//! 4. more headers, then more query parameters;
//! 5. list order: of routes, of their rules, of the rules' matches.
//!
//! For gRPC routes 2 and 3 are: a service, then a method named. A rule without matches takes every request and comes
//! last.
//!
//! Paths are compared after decoding what needs no encoding (RFC 3986 §6.2.2.2): `/%61dmin` is `/admin`, to a policy
//! as to the application.
//!
//! Matches are kept by what they look at first. The host gives at most a handful of groups; in a group an exact path
//! is one hash look-up and prefixes one for each length that occurs; only what remains there is tried in order.

use super::{CompileError, index, routes_field};
use crate::{
    decide::{Matched, RequestView, looks_at_path},
    matchers::{
        host::HostTable,
        path::{PrefixTable, normal_path, normal_prefix},
        value::{HeaderTest, QueryTest, RegexBudget, Repeated},
    },
    outbound,
    server::{GrpcMatch, HostMatch, HttpMatch, PathMatch, Protocol, ServerPolicy},
};
use http::Method;
use regex::Regex;
use std::{cmp::Reverse, collections::HashMap, fmt};

/// Most matches of a port, counting each once for every host of its route.
pub const MAX_MATCHES: usize = 1 << 20;

/// Routes by what they match.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    entries: Vec<Entry>,
    hosts: HostTable<Group>,
    looks_at_paths: bool,
}

/// One match of one rule, without host and path.
#[derive(Debug)]
struct Entry {
    matched: Matched,
    method: Option<Method>,
    headers: Vec<HeaderTest>,
    query: Vec<QueryTest>,
    /// The path must be empty or begin with a slash: what the prefix `/` still asks for.
    rooted: bool,
}

/// The matches of one host pattern: indices of entries, in order of preference in each list.
#[derive(Debug, Default)]
struct Group {
    exact: HashMap<Box<str>, Vec<u32>>,
    prefix: PrefixTable<Vec<u32>>,
    regex: Vec<(Regex, u32)>,
    /// By service, then method; empty = any.
    rpc: HashMap<Box<str>, HashMap<Box<str>, Vec<u32>>>,
    any: Vec<u32>,
}

/// Where in a group an entry goes.
enum Place {
    Exact(Box<str>),
    Prefix(Box<str>),
    Regex(Regex),
    Rpc(Box<str>, Box<str>),
    Any,
}

impl RouteTable {
    pub(crate) fn new(server: &ServerPolicy) -> Result<Self, CompileError> {
        let mut build = Build::new(routes_field(&server.protocol), Repeated::Every);
        match &server.protocol {
            Protocol::Grpc { routes } => {
                for (at, route) in routes.iter().enumerate() {
                    for (rule, matches) in route.rules.iter().enumerate() {
                        let context = build.context(at, rule, &route.meta);
                        build.grpc_rule(&context, &route.hosts, &matches.matches)?;
                    }
                }
            }
            protocol => {
                let routes = protocol.http().map_or(&[][..], |http| &http.routes);
                for (at, route) in routes.iter().enumerate() {
                    for (rule, matches) in route.rules.iter().enumerate() {
                        let context = build.context(at, rule, &route.meta);
                        build.http_rule(&context, &route.hosts, &matches.matches)?;
                    }
                }
            }
        }
        let no_routes = match &server.protocol {
            Protocol::Grpc { routes } => routes.is_empty(),
            protocol => protocol.http().is_some_and(|http| http.routes.is_empty()),
        };
        if no_routes {
            // The one default route: every request.
            build.everything(0, 0, &[])?;
        }
        Ok(build.finish())
    }

    /// The routes of an outbound destination. Without routes it takes nothing.
    pub(crate) fn outbound_http(routes: &[outbound::HttpRoute]) -> Result<Self, CompileError> {
        let mut build = Build::new("routes", Repeated::Some);
        for (at, route) in routes.iter().enumerate() {
            for (rule, matches) in route.rules.iter().enumerate() {
                let context = build.context(at, rule, &route.meta);
                build.http_rule(&context, &route.hosts, &matches.matches)?;
            }
        }
        Ok(build.finish())
    }

    /// The same, of a destination that speaks gRPC.
    pub(crate) fn outbound_grpc(routes: &[outbound::GrpcRoute]) -> Result<Self, CompileError> {
        let mut build = Build::new("routes", Repeated::Some);
        for (at, route) in routes.iter().enumerate() {
            for (rule, matches) in route.rules.iter().enumerate() {
                let context = build.context(at, rule, &route.meta);
                build.grpc_rule(&context, &route.hosts, &matches.matches)?;
            }
        }
        Ok(build.finish())
    }

    /// Whether any match depends on the path.
    pub(crate) fn looks_at_paths(&self) -> bool {
        self.looks_at_paths
    }

    /// The match that takes the request, by the order of the module.
    pub(crate) fn find(&self, req: &RequestView<'_>) -> Option<Matched> {
        let path = if self.looks_at_paths {
            normal_path(req.path)
        } else {
            req.path.into()
        };
        let req = RequestView {
            path: &path,
            ..*req
        };
        self.hosts
            .find(req.authority, |group| self.find_in(group, &req))
    }

    fn find_in(&self, group: &Group, req: &RequestView<'_>) -> Option<Matched> {
        let first = |list: &Vec<u32>| self.first(list.iter(), req);
        if let Some(found) = group.exact.get(req.path).and_then(first) {
            return Some(found);
        }
        if let Some(found) = group.prefix.find(req.path, first) {
            return Some(found);
        }
        let of_regex = group
            .regex
            .iter()
            // The cheaper tests first: an expression may take a while on a long path.
            .find_map(|(regex, at)| {
                self.first(std::iter::once(at), req)
                    .filter(|_| regex.is_match(req.path))
            });
        if of_regex.is_some() {
            return of_regex;
        }
        if !group.rpc.is_empty()
            && req.method == Method::POST
            && let Some((service, method)) = rpc(req.path)
        {
            for (service, method) in [(service, method), (service, ""), ("", method), ("", "")] {
                let methods = group.rpc.get(service);
                if let Some(found) = methods
                    .and_then(|methods| methods.get(method))
                    .and_then(first)
                {
                    return Some(found);
                }
            }
        }
        first(&group.any)
    }

    fn first<'l>(
        &self,
        mut list: impl Iterator<Item = &'l u32>,
        req: &RequestView<'_>,
    ) -> Option<Matched> {
        list.find_map(|at| {
            let entry = self.entries.get(usize::try_from(*at).ok()?)?;
            entry.is_match(req).then_some(entry.matched)
        })
    }
}

impl Entry {
    fn is_match(&self, req: &RequestView<'_>) -> bool {
        self.method
            .as_ref()
            .is_none_or(|method| method == req.method)
            && (!self.rooted || req.path.is_empty() || req.path.starts_with('/'))
            && self.headers.iter().all(|test| test.is_match(req.headers))
            && self.query.iter().all(|test| test.is_match(req.query))
    }

    /// Smaller comes first.
    fn rank(&self) -> impl Ord + use<> {
        (
            self.method.is_none(),
            Reverse(self.headers.len()),
            Reverse(self.query.len()),
        )
    }
}

/// Service and method of a gRPC path: exactly two segments, since a longer path names another service to some
/// servers.
fn rpc(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let whole = !service.is_empty() && !method.is_empty() && !method.contains('/');
    whole.then_some((service, method))
}

struct Build {
    table: RouteTable,
    root: &'static str,
    placed: usize,
    regexes: RegexBudget,
    repeated: Repeated,
}

/// Where a rule stands, for its entries and for messages.
struct Context {
    route: u32,
    rule: u32,
    field: String,
    name: String,
}

impl Context {
    fn error(&self, field: &str, reason: String) -> CompileError {
        CompileError {
            field: format!("{}{field}", self.field),
            reason: format!("{}: {reason}", self.name),
        }
    }
}

impl Build {
    fn new(root: &'static str, repeated: Repeated) -> Self {
        Self {
            table: RouteTable::default(),
            root,
            placed: 0,
            regexes: RegexBudget::default(),
            repeated,
        }
    }

    fn context(&self, route: usize, rule: usize, meta: &dyn fmt::Display) -> Context {
        Context {
            route: index(route),
            rule: index(rule),
            field: format!("{}[{route}].rules[{rule}]", self.root),
            name: meta.to_string(),
        }
    }

    fn http_rule(
        &mut self,
        context: &Context,
        hosts: &[HostMatch],
        matches: &[HttpMatch],
    ) -> Result<(), CompileError> {
        if matches.is_empty() {
            return self.everything(context.route, context.rule, hosts);
        }
        for (at, rule_match) in matches.iter().enumerate() {
            let field = format!(".matches[{at}]");
            let headers = self.tests(
                context,
                &format!("{field}.headers"),
                &rule_match.headers,
                HeaderTest::new,
            )?;
            let query = self.tests(
                context,
                &format!("{field}.query_params"),
                &rule_match.query,
                QueryTest::new,
            )?;
            self.table.looks_at_paths |= looks_at_path(rule_match.path.as_ref());
            let mut prefix = None;
            let mut rooted = false;
            let place = match &rule_match.path {
                None => Place::Any,
                Some(PathMatch::Exact(path)) => Place::Exact(normal_path(path).into()),
                Some(PathMatch::Prefix(path)) => {
                    let path = normal_path(normal_prefix(path));
                    prefix = Some(index(path.len()));
                    rooted = path.is_empty();
                    if rooted {
                        Place::Any
                    } else {
                        Place::Prefix(path.as_ref().into())
                    }
                }
                Some(PathMatch::Regex(pattern)) => {
                    let regex = self
                        .regexes
                        .path(pattern)
                        .map_err(|reason| context.error(&format!("{field}.path.regex"), reason))?;
                    Place::Regex(regex)
                }
            };
            let entry = Entry {
                matched: Matched {
                    route: context.route,
                    rule: context.rule,
                    prefix,
                },
                method: rule_match.method.clone(),
                headers,
                query,
                rooted,
            };
            self.place(hosts, entry, &place, || context.error(&field, too_many()))?;
        }
        Ok(())
    }

    fn grpc_rule(
        &mut self,
        context: &Context,
        hosts: &[HostMatch],
        matches: &[GrpcMatch],
    ) -> Result<(), CompileError> {
        if matches.is_empty() {
            return self.everything(context.route, context.rule, hosts);
        }
        for (at, rule_match) in matches.iter().enumerate() {
            let field = format!(".matches[{at}]");
            let headers = self.tests(
                context,
                &format!("{field}.headers"),
                &rule_match.headers,
                HeaderTest::new,
            )?;
            // Also without names a match takes only paths of gRPC form.
            self.table.looks_at_paths |=
                !rule_match.service.is_empty() || !rule_match.method.is_empty();
            let entry = Entry {
                matched: Matched {
                    route: context.route,
                    rule: context.rule,
                    prefix: None,
                },
                method: None,
                headers,
                query: Vec::new(),
                rooted: false,
            };
            let place = Place::Rpc(
                rule_match.service.as_str().into(),
                rule_match.method.as_str().into(),
            );
            self.place(hosts, entry, &place, || context.error(&field, too_many()))?;
        }
        Ok(())
    }

    /// A rule without matches.
    fn everything(
        &mut self,
        route: u32,
        rule: u32,
        hosts: &[HostMatch],
    ) -> Result<(), CompileError> {
        let entry = Entry {
            matched: Matched {
                route,
                rule,
                prefix: None,
            },
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            rooted: false,
        };
        let root = self.root;
        self.place(hosts, entry, &Place::Any, || CompileError {
            field: format!("{root}[{route}].rules[{rule}]"),
            reason: too_many(),
        })
    }

    /// The tests of a match's headers or query parameters.
    fn tests<M, T>(
        &mut self,
        context: &Context,
        field: &str,
        matches: &[M],
        test: impl Fn(&M, Repeated, &mut RegexBudget) -> Result<T, String>,
    ) -> Result<Vec<T>, CompileError> {
        let tests = matches.iter().enumerate().map(|(at, matching)| {
            test(matching, self.repeated, &mut self.regexes)
                .map_err(|reason| context.error(&format!("{field}[{at}].regex"), reason))
        });
        tests.collect()
    }

    fn place(
        &mut self,
        hosts: &[HostMatch],
        entry: Entry,
        place: &Place,
        too_many: impl Fn() -> CompileError,
    ) -> Result<(), CompileError> {
        let at = index(self.table.entries.len());
        self.table.entries.push(entry);
        self.placed = self.placed.saturating_add(hosts.len().max(1));
        if self.placed > MAX_MATCHES {
            return Err(too_many());
        }
        // A route without hosts stands under the pattern "no host".
        let none = hosts.is_empty().then_some(None);
        for host in none.into_iter().chain(hosts.iter().map(Some)) {
            self.table.hosts.entry(host).insert(place, at);
        }
        Ok(())
    }

    fn finish(mut self) -> RouteTable {
        let entries = &self.table.entries;
        let rank = |at: &u32| {
            let entry = usize::try_from(*at).ok().and_then(|at| entries.get(at));
            entry.map(Entry::rank)
        };
        for group in self.table.hosts.values_mut() {
            // Stable: list order stays where ranks are equal.
            group.lists().for_each(|list| list.sort_by_key(rank));
            group.regex.sort_by_key(|(_, at)| rank(at));
        }
        self.table
    }
}

impl Group {
    fn insert(&mut self, place: &Place, at: u32) {
        match place {
            Place::Exact(path) => self.exact.entry(path.clone()).or_default().push(at),
            Place::Prefix(path) => self.prefix.entry(path).push(at),
            Place::Regex(regex) => self.regex.push((regex.clone(), at)),
            Place::Rpc(service, method) => self
                .rpc
                .entry(service.clone())
                .or_default()
                .entry(method.clone())
                .or_default()
                .push(at),
            Place::Any => self.any.push(at),
        }
    }

    fn lists(&mut self) -> impl Iterator<Item = &mut Vec<u32>> {
        self.exact
            .values_mut()
            .chain(self.prefix.values_mut())
            .chain(self.rpc.values_mut().flat_map(HashMap::values_mut))
            .chain(std::iter::once(&mut self.any))
    }
}

fn too_many() -> String {
    format!(
        "more than {MAX_MATCHES} matches times hosts on one port; split the routes over several Servers"
    )
}
