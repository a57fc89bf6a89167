//! What a file varies, as rules that a page can flip.

use crate::litmus::ast::{Rule, RuleValue, Test, Variant};

/// One `vary` of a file: what it changes, and its alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Axis {
    /// `exporter heap: mmap`; `the test` where it changes no rule.
    pub(super) title: String,
    /// The labels, in the order of the file.
    pub(super) labels: Vec<String>,
}

/// The `vary`s of `test`, in order; none where a variant's name has no part for each.
pub(super) fn axes(test: &Test) -> Vec<Axis> {
    let names: Vec<Vec<&str>> =
        test.variants.iter().map(|variant| variant.name.split('/').collect()).collect();
    let Some(count) = names.first().map(Vec::len) else { return Vec::new() };
    if test.variants.len() < 2 || names.iter().any(|name| name.len() != count) {
        return Vec::new();
    }
    let axis = |at: usize| {
        let mut labels: Vec<String> = Vec::new();
        for name in &names {
            if !labels.iter().any(|label| label == name[at]) {
                labels.push(name[at].to_owned());
            }
        }
        Axis { title: title(test, &names, at), labels }
    };
    (0..count).map(axis).collect()
}

/// The rules in which two variants differ that differ in this part of their names alone.
fn title(test: &Test, names: &[Vec<&str>], at: usize) -> String {
    let mut rules: Vec<String> = Vec::new();
    for (one, variant) in names.iter().zip(&test.variants) {
        for (other, changed) in names.iter().zip(&test.variants) {
            let alone = one.iter().zip(other).enumerate().all(|(i, (a, b))| (a != b) == (i == at));
            if alone {
                differences(variant, changed, &mut rules);
            }
        }
    }
    if rules.is_empty() { "the test".to_owned() } else { rules.join(", ") }
}

fn differences(one: &Variant, other: &Variant, found: &mut Vec<String>) {
    let value = |rules: &[Rule], name: &str| -> Option<RuleValue> {
        rules.iter().find(|rule| rule.name.as_str() == name).map(|rule| rule.value.clone())
    };
    let mut compare = |block: &str, mine: &[Rule], theirs: &[Rule]| {
        for rule in mine.iter().chain(theirs) {
            let name = rule.name.as_str();
            let title = format!("{block}: {name}");
            if plain(value(mine, name)) != plain(value(theirs, name)) && !found.contains(&title) {
                found.push(title);
            }
        }
    };
    compare("host", &one.host, &other.host);
    for (mine, theirs) in one.exporters.iter().zip(&other.exporters) {
        compare(&format!("exporter {}", mine.name), &mine.rules, &theirs.rules);
    }
    for (mine, theirs) in one.importers.iter().zip(&other.importers) {
        compare(&format!("importer {}", mine.name), &mine.rules, &theirs.rules);
    }
}

/// A value without its places in the file.
fn plain(value: Option<RuleValue>) -> Option<String> {
    value.map(|value| match value {
        RuleValue::Word(word) => word.text,
        RuleValue::Number(number) => number.to_string(),
        RuleValue::Steps(steps) => {
            steps.iter().map(|step| step.as_str()).collect::<Vec<_>>().join(" ")
        }
    })
}
