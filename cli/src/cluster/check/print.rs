//! What checks found, for people and for scripts.

use super::{Category, Check, Found, Problem};
use crate::outcome::{Failure, json, plain, show};
use serde_json::json as value;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// Every check, by category.
    #[default]
    #[value(alias = "text")]
    Table,
    /// Only what is not as it should be.
    Short,
    /// For scripts.
    Json,
}

pub(super) fn print(categories: &[Category], form: Form) -> Result<(), Failure> {
    match form {
        Form::Json => json(&for_scripts(categories)),
        Form::Table => show(&for_people(categories, true)),
        Form::Short => show(&for_people(categories, false)),
    }
}

fn for_people(categories: &[Category], with_good: bool) -> String {
    let mut text = String::new();
    for category in categories {
        let is_shown = |check: &&Check| with_good || check.found != Found::Good;
        let shown: Vec<&Check> = category.checks.iter().filter(is_shown).collect();
        if shown.is_empty() {
            continue;
        }
        text.push_str(&format!(
            "{}\n{}\n",
            category.name,
            "-".repeat(category.name.len())
        ));
        for check in shown {
            let (mark, problem) = match &check.found {
                Found::Good => ("√", None),
                Found::Warning(problem) => ("‼", Some(problem)),
                Found::Error { problem, .. } => ("×", Some(problem)),
            };
            text.push_str(&format!("{mark} {}\n", plain(&check.what)));
            text.push_str(&problem.map(described).unwrap_or_default());
        }
        text.push('\n');
    }
    let mark = if has_errors(categories) { "×" } else { "√" };
    text.push_str(&format!("Status check results are {mark}\n"));
    text
}

fn described(problem: &Problem) -> String {
    let mut text = String::new();
    for line in problem.what.lines() {
        text.push_str(&format!("    {}\n", plain(line)));
    }
    text.push_str(&format!("    try: {}\n", plain(&problem.hint)));
    text
}

fn has_errors(categories: &[Category]) -> bool {
    let mut checks = categories.iter().flat_map(|category| &category.checks);
    checks.any(|check| matches!(check.found, Found::Error { .. }))
}

fn for_scripts(categories: &[Category]) -> serde_json::Value {
    let check = |check: &Check| {
        let (result, problem) = match &check.found {
            Found::Good => ("success", None),
            Found::Warning(problem) => ("warning", Some(problem)),
            Found::Error { problem, .. } => ("error", Some(problem)),
        };
        let mut fields = value!({"description": check.what, "result": result});
        if let (Some(problem), Some(fields)) = (problem, fields.as_object_mut()) {
            fields.insert("error".to_owned(), problem.what.as_str().into());
            fields.insert("hint".to_owned(), problem.hint.as_str().into());
        }
        fields
    };
    let category = |category: &Category| {
        let checks: Vec<_> = category.checks.iter().map(check).collect();
        value!({"categoryName": category.name, "checks": checks})
    };
    value!({
        "success": !has_errors(categories),
        "categories": categories.iter().map(category).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn categories() -> Vec<Category> {
        vec![
            Category {
                name: "one",
                checks: vec![Check::good("is there")],
            },
            Category {
                name: "two",
                checks: vec![
                    Check::new("lasts", Found::warning("until tomorrow", "make another")),
                    Check::error("works", "it does\nnot\u{1b}[2J", "mend it"),
                    Check::good("is said"),
                ],
            },
        ]
    }

    #[test]
    fn warnings_and_errors_are_apart_and_the_short_form_has_only_them() {
        let long = for_people(&categories(), true);
        let short = for_people(&categories(), false);
        let two = "two\n---\n‼ lasts\n    until tomorrow\n    try: make another\n× works\n    it does\n    not\u{fffd}[2J\n    try: mend it\n";
        assert_eq!(
            long,
            format!("one\n---\n√ is there\n\n{two}√ is said\n\nStatus check results are ×\n")
        );
        assert_eq!(short, format!("{two}\nStatus check results are ×\n"));
        let warned = [Category {
            name: "two",
            checks: vec![categories()[1].checks[0].clone()],
        }];
        assert!(for_people(&warned, true).ends_with("results are √\n"));
    }

    #[test]
    fn scripts_are_told_of_success_and_of_each_check() {
        let page = for_scripts(&categories());
        assert_eq!(page["success"], false);
        assert_eq!(page["categories"][1]["checks"][0]["result"], "warning");
        assert_eq!(page["categories"][1]["checks"][1]["hint"], "mend it");
        assert!(page["categories"][0]["checks"][0].get("error").is_none());
    }
}
