//! Makes the calls that `mesh.yaml` lists, each as a process that stands for the caller, and judges the answers.

use crate::{
    mesh::{Caller, Member, Mesh, Traffic, Verdict},
    outcome::Failure,
    workload::Answers,
};
use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr, path::Path, process::Stdio, time::Duration};
use tokio::process::Command;

/// Longest a row of traffic may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What came of a row of traffic.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) request: String,
    pub(super) expected: Verdict,
    pub(super) verdict: Verdict,
    /// The kinds of answers, with their numbers.
    pub(super) answers: BTreeMap<String, u32>,
    /// Who answered how many, as applications say it.
    pub(super) served: BTreeMap<String, u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

impl Row {
    pub(super) fn is_as_expected(&self) -> bool {
        self.expected == self.verdict
    }

    pub(super) fn cells(&self) -> Vec<String> {
        let mark = if self.is_as_expected() { "ok" } else { "WRONG" };
        let listed = |counts: &BTreeMap<String, u32>| {
            let each = counts.iter().map(|(kind, n)| match n {
                1 => kind.clone(),
                n => format!("{n} x {kind}"),
            });
            each.collect::<Vec<_>>().join(", ")
        };
        let mut answers = listed(&self.answers);
        if self.served.len() > 1 {
            answers.push_str(&format!(" ({})", listed(&self.served)));
        }
        vec![
            mark.to_owned(),
            self.from.clone(),
            self.to.clone(),
            self.request.clone(),
            self.verdict.to_string(),
            self.expected.to_string(),
            answers,
        ]
    }
}

/// Whether every row is between parts of the mesh: what can be known before anything is started.
///
/// # Errors
/// The first row that is not.
pub(super) fn check(mesh: &Mesh, members: &[Member]) -> Result<(), Failure> {
    for (i, traffic) in mesh.traffic.iter().enumerate() {
        arguments(mesh, members, traffic)
            .map_err(|failure| failure.within(&format!("traffic[{i}]")))?;
    }
    Ok(())
}

/// Makes one row's calls.
pub(super) async fn send(
    program: &Path,
    mesh: &Mesh,
    members: &[Member],
    traffic: &Traffic,
    step: usize,
) -> Result<Row, Failure> {
    let answers = call(program, &arguments(mesh, members, traffic)?).await?;
    let verdict = judge(&answers.counts);
    Ok(Row {
        from: traffic.from.to_string(),
        to: traffic.to.to_string(),
        request: traffic.request(),
        expected: traffic.expected(step).unwrap_or(Verdict::Allowed),
        verdict,
        why: answers.why.filter(|_| verdict != Verdict::Allowed),
        answers: answers.counts,
        served: answers.served,
    })
}

/// The arguments of the process that calls.
fn arguments(mesh: &Mesh, members: &[Member], traffic: &Traffic) -> Result<Vec<String>, Failure> {
    let member = |name: &str| members.iter().find(|member| member.name() == name);
    let to = &traffic.to;
    let (to_address, from): (Option<SocketAddr>, _) = match &traffic.from {
        Caller::Workload(name) => match member(name) {
            Some(caller) => (caller.way_to(to), None),
            None => {
                return Err(Failure::new(format!(
                    "from: {name} is neither a workload nor an address"
                )));
            }
        },
        Caller::Outside(address) => (
            member(&to.name).map(|member| (member.at.workload, to.port).into()),
            Some(address),
        ),
    };
    let to_address = to_address
        .ok_or_else(|| Failure::new(format!("to: {to} is no port of a workload's Service")))?;
    let host = format!(
        "{}.{}.svc.cluster.local:{}",
        to.name, mesh.metadata.namespace, to.port
    );
    let mut arguments: Vec<String> = ["workload", "call", "--to"].map(str::to_owned).into();
    arguments.extend([to_address.to_string(), "--host".into(), host]);
    let times = traffic.times.to_string();
    let optional = [
        ("--from", from.map(ToString::to_string)),
        ("--http", traffic.http.clone()),
        ("--grpc", traffic.grpc.clone()),
        ("--line", traffic.line.clone()),
        ("--times", Some(times)),
    ];
    for (flag, value) in optional {
        if let Some(value) = value {
            arguments.extend([flag.to_owned(), value]);
        }
    }
    Ok(arguments)
}

async fn call(program: &Path, arguments: &[String]) -> Result<Answers, Failure> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .process_group(0)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, output)
        .await
        .map_err(|_| Failure::new(format!("calls took longer than {LIMIT:?}")))?
        .map_err(|error| Failure::new(format!("{}: {error}", program.display())))?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        Failure::new(format!(
            "a caller did not say how it went ({}): {error}",
            output.status
        ))
    })
}

/// What answers mean. Some limited ones among allowed ones are a limit; any other mixture is a failure.
fn judge(counts: &BTreeMap<String, u32>) -> Verdict {
    let verdicts: Vec<_> = counts
        .keys()
        .map(|kind| match kind.as_str() {
            "gRPC 0" | "answered" => Verdict::Allowed,
            "HTTP 403" | "gRPC 7" | "closed" => Verdict::Denied,
            "HTTP 404" | "gRPC 5" | "gRPC 12" => Verdict::NoRoute,
            "HTTP 429" | "gRPC 8" => Verdict::Limited,
            kind if kind.starts_with("HTTP 2") => Verdict::Allowed,
            _ => Verdict::Failed,
        })
        .collect();
    match verdicts.as_slice() {
        [] => Verdict::Failed,
        [one] => *one,
        some if some.contains(&Verdict::Limited)
            && some
                .iter()
                .all(|v| matches!(v, Verdict::Limited | Verdict::Allowed)) =>
        {
            Verdict::Limited
        }
        [first, rest @ ..] if rest.iter().all(|verdict| verdict == first) => *first,
        _ => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_of_answers_is_never_taken_for_success() {
        let judged = |counts: &[(&str, u32)]| {
            judge(&counts.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect())
        };
        assert_eq!(judged(&[("HTTP 200", 5)]), Verdict::Allowed);
        assert_eq!(
            judged(&[("HTTP 200", 5), ("HTTP 429", 7)]),
            Verdict::Limited
        );
        assert_eq!(judged(&[("HTTP 200", 5), ("HTTP 403", 1)]), Verdict::Failed);
        assert_eq!(judged(&[("HTTP 200", 5), ("failed", 1)]), Verdict::Failed);
        assert_eq!(judged(&[]), Verdict::Failed);
    }
}
