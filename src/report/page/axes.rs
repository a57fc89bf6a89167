//! What a file varies, as rules that a page can flip.

use crate::litmus::ast::{Rule, RuleValue, Statement, Test, Variant};

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

/// What two variants differ in that differ in this part of their names alone.
fn title(test: &Test, names: &[Vec<&str>], at: usize) -> String {
    let mut found: Vec<String> = Vec::new();
    for (one, variant) in names.iter().zip(&test.variants) {
        for (other, changed) in names.iter().zip(&test.variants) {
            let alone = one.iter().zip(other).enumerate().all(|(i, (a, b))| (a != b) == (i == at));
            if alone {
                rules(variant, changed, &mut found);
                statements(variant, changed, &mut found);
                if variant.condition != changed.condition {
                    note(&mut found, "what is asked".to_owned());
                }
            }
        }
    }
    if found.is_empty() { "the test".to_owned() } else { found.join(", ") }
}

fn note(found: &mut Vec<String>, title: String) {
    if !found.contains(&title) {
        found.push(title);
    }
}

fn rules(one: &Variant, other: &Variant, found: &mut Vec<String>) {
    let value = |rules: &[Rule], name: &str| -> Option<RuleValue> {
        rules.iter().find(|rule| rule.name.as_str() == name).map(|rule| rule.value.clone())
    };
    let mut compare = |block: &str, mine: &[Rule], theirs: &[Rule]| {
        for rule in mine.iter().chain(theirs) {
            let name = rule.name.as_str();
            if value(mine, name) != value(theirs, name) {
                note(found, format!("{block}: {name}"));
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

/// `P0: mmap`: the first statement in which a process differs.
fn statements(one: &Variant, other: &Variant, found: &mut Vec<String>) {
    for (mine, theirs) in one.processes.iter().zip(&other.processes) {
        let (mine_count, theirs_count) = (mine.statements.len(), theirs.statements.len());
        let (longer, shorter) = if mine_count < theirs_count {
            (&theirs.statements, &mine.statements)
        } else {
            (&mine.statements, &theirs.statements)
        };
        let differs = |(at, statement): &(usize, &Statement)| {
            shorter.get(*at).is_none_or(|other| other.op != statement.op)
        };
        if let Some((_, statement)) = longer.iter().enumerate().find(differs) {
            let text = statement.op.to_string();
            let word = text.split_whitespace().next().unwrap_or_default();
            note(found, format!("P{}: {word}", mine.index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::axes;
    use crate::litmus::parse;
    use crate::litmus::rules::ModelRules;
    use crate::suite;

    #[test]
    fn every_choice_of_a_bundled_test_says_what_it_chooses() {
        let (mut choices, mut rules) = (0, 0);
        for bundled in suite::TESTS {
            let test = parse(bundled.file, bundled.text, &ModelRules).unwrap();
            let axes = axes(&test);
            assert_eq!(axes.is_empty(), test.variants.len() < 2, "{}", bundled.name);
            let product: usize = axes.iter().map(|axis| axis.labels.len()).product();
            assert!(axes.is_empty() || product == test.variants.len(), "{}", bundled.name);
            for axis in &axes {
                assert_ne!(axis.title, "the test", "{}: {:?}", bundled.name, axis.labels);
                choices += 1;
                rules += usize::from(axis.title.starts_with("exporter "));
            }
        }
        assert!(choices > 50 && rules > 20, "{choices} choices, {rules} of exporters");
    }

    #[test]
    fn rules_statements_and_what_is_asked_are_told_apart() {
        let axes_of =
            |name: &str| axes(&parse("x", suite::find(name).unwrap().text, &ModelRules).unwrap());
        let titles =
            |name: &str| axes_of(name).into_iter().map(|axis| axis.title).collect::<Vec<_>>();
        assert_eq!(titles("insert-page-and-move"), ["exporter heap: mmap"]);
        assert_eq!(titles("revoke-steps"), ["exporter gpu: revoke"]);
        assert_eq!(titles("frame-vector-foll-force")[4], "what is asked");
    }
}
