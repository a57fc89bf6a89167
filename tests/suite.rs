//! The bundled suite: every variant's observation is what its file expects.

use std::collections::BTreeSet;

use driftheap::litmus::rules::ModelRules;
use driftheap::litmus::statements::find;
use driftheap::model::Reply;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Search, judge};
use driftheap::suite::TESTS;

#[test]
fn every_variant_is_as_its_file_expects() {
    let mut wrong = Vec::new();
    for bundled in TESTS {
        let test = match driftheap::litmus::parse(bundled.file, bundled.text, &ModelRules) {
            Ok(test) => test,
            Err(diagnostics) => {
                for diagnostic in diagnostics {
                    wrong.push(diagnostic.render(false));
                }
                continue;
            }
        };
        assert_eq!(test.name.as_str(), bundled.name);
        assert_eq!(test.row.as_deref(), Some(bundled.row));
        for variant in &test.variants {
            let scenario = match Scenario::new(variant, bundled.text) {
                Ok(scenario) => scenario,
                Err(error) => {
                    wrong.push(format!("{}/{}: {error}", bundled.name, variant.name));
                    continue;
                }
            };
            let answer = judge(&scenario, &Search::default(), &mut |_| ()).unwrap();
            let line = format!(
                "{}/{}: expected {:?} observed {:?} states {} +{} -{} hazards {:?}",
                bundled.name,
                variant.name,
                variant.expected,
                answer.observation,
                answer.exploration.states,
                answer.positive,
                answer.negative,
                answer.hazards.iter().map(|(k, s)| (k.word(), s.len())).collect::<Vec<_>>()
            );
            if answer.as_expected(&scenario) != Some(true) {
                wrong.push(line);
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_test_has_a_paragraph_in_the_index() {
    let index = include_str!("../src/suite/litmus/README.md");
    for bundled in TESTS {
        let entry = format!("**{} [{1}]({1}.litmus)**", bundled.row, bundled.name);
        assert!(index.contains(&entry), "{entry} is missing");
    }
    assert_eq!(index.matches(".litmus)**").count(), TESTS.len());
}

/// What statements answered in the shortest schedules to the outcomes is in the table of statements.
#[test]
fn the_table_of_statements_names_every_failure_that_the_suite_shows() {
    let mut missing = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for bundled in TESTS {
        let test = driftheap::litmus::parse(bundled.file, bundled.text, &ModelRules).unwrap();
        for variant in &test.variants {
            let scenario = Scenario::new(variant, bundled.text).unwrap();
            let answer = judge(&scenario, &Search::default(), &mut |_| ()).unwrap();
            for stats in answer.exploration.outcomes.values() {
                for event in scenario.replay(&stats.shortest).unwrap().events {
                    let failure = match event.reply {
                        Reply::Errno(errno) => errno.to_string(),
                        Reply::Signal(signal) => signal.to_string(),
                        Reply::Done | Reply::Value(_) | Reply::Again | Reply::Skipped => continue,
                    };
                    let program = &scenario.programs[event.actor];
                    let text = &program.statements[program.instructions[event.pc].statement].text;
                    let words = text.split_once(": ").map_or(text.as_str(), |(_, words)| words);
                    let word = words.split_whitespace().next().unwrap();
                    let spec = find(word).unwrap_or_else(|| panic!("`{word}` is in no table"));
                    let known = spec.fails.iter().any(|(name, _)| *name == failure);
                    seen.insert(format!("{word} {failure}"));
                    if !known {
                        missing.insert(format!("{word} {failure} ({})", bundled.name));
                    }
                }
            }
        }
    }
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    assert!(seen.len() > 10, "the suite shows failures: {seen:?}");
}
