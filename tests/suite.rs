//! The bundled suite: every variant's observation is what its file expects.

use driftheap::litmus::rules::ModelRules;
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
