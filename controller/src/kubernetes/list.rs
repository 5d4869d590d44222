//! The objects of an API server as they are at this moment, for who has one question: the command line.

use super::watch::{METADATA_ONLY, PAGE, is_absent, of_metadata, served, value};
use crate::source::Problem;
use futures::{StreamExt as _, stream};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
};
use linkerd_policy::{
    index::{Cluster, Index},
    manifest::{self, KINDS},
};
use serde_json::Value;

/// Kinds that are listed at the same time.
const AT_ONCE: usize = 8;

/// What an API server has.
#[derive(Debug)]
pub struct Listed {
    /// The objects that can be used.
    pub index: Index,
    /// What is wrong with the others.
    pub problems: Vec<Problem>,
}

/// A kind that cannot be listed: an answer without it could be the wrong one.
#[derive(Debug, thiserror::Error)]
#[error("{kind} cannot be listed: {source}")]
pub struct ListError {
    /// The kind.
    pub kind: &'static str,
    /// What the API server says.
    pub source: kube::Error,
}

/// Lists the kinds of [`KINDS`] that are wanted, of all namespaces.
///
/// # Errors
/// If one of them is served and cannot be listed.
pub async fn list(
    client: &Client,
    cluster: Cluster,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Listed, ListError> {
    let wanted = KINDS.iter().enumerate();
    let wanted = wanted.filter(|(_, (_, kind, _))| is_wanted(kind));
    let lists = wanted.map(|(at, &(_, kind, _))| async move {
        let listed = of_kind(client, at).await;
        listed.map_err(|source| ListError { kind, source })
    });
    let mut lists = stream::iter(lists).buffered(AT_ONCE);
    let mut listed = Listed {
        index: Index::new(cluster),
        problems: Vec::new(),
    };
    while let Some(values) = lists.next().await {
        for value in values? {
            listed.take(value);
        }
    }
    Ok(listed)
}

impl Listed {
    fn take(&mut self, value: Value) {
        let text = |pointer| {
            let text = value.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let (kind, namespace, name) = (
            text("/kind"),
            text("/metadata/namespace"),
            text("/metadata/name"),
        );
        match manifest::from_value(value) {
            Ok(resource) => self.index.apply(resource),
            Err(error) => self.problems.push(Problem {
                file: super::FILE.to_owned(),
                document: None,
                line: None,
                object: Some(format!("{kind} {namespace}/{name}")),
                field: error.field,
                reason: error.reason,
                kept: false,
            }),
        }
    }
}

/// All objects of a kind; none if it is not served.
async fn of_kind(client: &Client, kind: usize) -> Result<Vec<Value>, kube::Error> {
    let Some(resource) = served(client, kind).await? else {
        return Ok(Vec::new());
    };
    let mut values = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let next = match one_page(client, &resource, &page, &mut values).await {
            Ok(next) => next,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        match next.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(values),
        }
    }
}

async fn one_page(
    client: &Client,
    resource: &ApiResource,
    page: &ListParams,
    values: &mut Vec<Value>,
) -> Result<Option<String>, kube::Error> {
    let api = Api::<DynamicObject>::all_with(client.clone(), resource);
    if METADATA_ONLY.contains(&resource.kind.as_str()) {
        let list = api.list_metadata(page).await?;
        let items = list.items.into_iter();
        values.extend(items.map(|object| of_metadata(object, resource)));
        return Ok(list.metadata.continue_);
    }
    let list = api.list(page).await?;
    let items = list.items.into_iter();
    values.extend(items.map(|object| value(object, resource)));
    Ok(list.metadata.continue_)
}
