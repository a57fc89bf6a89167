//! Beyond the suite: each bundled test with each rule set to each of its values, and with its
//! statements rearranged. What nobody has written down an answer for must agree with real memory
//! all the same.

mod exec_common;

use std::collections::BTreeMap;

use driftheap::exec::{Replays, replay_variant};
use driftheap::litmus::ast::{Name, Rule, RuleValue, Variant};
use driftheap::litmus::rules::{ModelRules, RuleSpec, RuleValues};
use driftheap::litmus::span::Span;
use driftheap::model::{EXPORTER_RULES, HOST_RULES, IMPORTER_RULES};
use driftheap::question::scenario::Scenario;
use exec_common::{executor, judged};

/// Sets a rule, whatever it was.
fn set(rules: &mut Vec<Rule>, rule: &str, value: &str) {
    rules.retain(|old| old.name.text != rule);
    let name = |text: &str| Name { text: text.to_owned(), span: Span::default() };
    let value = RuleValue::Word(name(value));
    rules.push(Rule { name: name(rule), value, span: Span::default() });
}

fn words(specs: &'static [RuleSpec]) -> impl Iterator<Item = (&'static str, &'static str)> {
    specs.iter().flat_map(|spec| match spec.values {
        RuleValues::Words(words) => words.iter().map(|word| (spec.name, *word)).collect(),
        RuleValues::Steps(_) => Vec::new(),
    })
}

/// Everything that differs from a variant in one rule.
fn neighbours(variant: &Variant) -> Vec<(String, Variant)> {
    let mut all = Vec::new();
    for (rule, value) in words(HOST_RULES) {
        let mut other = variant.clone();
        set(&mut other.host, rule, value);
        all.push((format!("host {rule}={value}"), other));
    }
    for at in 0..variant.exporters.len() {
        for (rule, value) in words(EXPORTER_RULES) {
            let mut other = variant.clone();
            set(&mut other.exporters[at].rules, rule, value);
            all.push((format!("{} {rule}={value}", other.exporters[at].name.text), other));
        }
    }
    for at in 0..variant.importers.len() {
        for (rule, value) in words(IMPORTER_RULES) {
            let mut other = variant.clone();
            set(&mut other.importers[at].rules, rule, value);
            all.push((format!("{} {rule}={value}", other.importers[at].name.text), other));
        }
    }
    all
}

/// A variant with one statement left out, or two of them the other way round.
fn rearranged(variant: &Variant) -> Vec<(String, Variant)> {
    let mut all = Vec::new();
    for (process, of) in variant.processes.iter().enumerate() {
        for at in 0..of.statements.len() {
            let what = format!("P{process} without `{}`", of.statements[at]);
            let mut other = variant.clone();
            other.processes[process].statements.remove(at);
            all.push((what, other));
            if at > 0 {
                let what = format!("P{process}: `{}` earlier", of.statements[at]);
                let mut other = variant.clone();
                other.processes[process].statements.swap(at - 1, at);
                all.push((what, other));
            }
        }
    }
    all
}

/// Replays what `change` makes of the first and the last variant of every bundled test.
fn check(change: fn(&Variant) -> Vec<(String, Variant)>, at_least: usize) {
    let mut executor = executor();
    let (mut wrong, mut tried, mut replayed) = (Vec::new(), 0usize, 0);
    let mut skipped: BTreeMap<String, usize> = BTreeMap::new();
    for bundled in driftheap::suite::TESTS {
        let test = driftheap::litmus::parse(bundled.file, bundled.text, &ModelRules).expect("ok");
        let variants = [test.variants.first(), test.variants.last()];
        for variant in variants.into_iter().flatten() {
            for (change, other) in change(variant) {
                // What makes no sense any more is refused.
                let Ok(scenario) = Scenario::new(&other, bundled.text) else { continue };
                // Who waits for whom is nothing that real memory could be asked, whatever the rules.
                if scenario.world.locks_address_spaces() {
                    continue;
                }
                tried += 1;
                let name = format!("{}/{} with {change}", bundled.name, variant.name);
                let judgement = judged(&scenario);
                let how = Replays::Sample(2, 1);
                match replay_variant(&mut executor, &scenario, &judgement, how) {
                    Err(error) => wrong.push(format!("{name}: {error}")),
                    Ok(result) => {
                        replayed += result.replayed;
                        if let Some((schedule, found)) = result.first_disagreement {
                            wrong.push(format!("{name} {schedule:?}: {found:?}"));
                        }
                        if let Some(why) = result.skipped {
                            *skipped.entry(why).or_default() += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried >= at_least && replayed > tried, "{replayed} schedules of {tried} scenarios");
    let skipped_all: usize = skipped.values().sum();
    if executor.abilities().userfaultfd && executor.abilities().io_uring {
        assert!(skipped_all * 20 < tried, "of {tried} scenarios skipped: {skipped:#?}");
    }
}

#[test]
fn every_rule_of_every_test_set_to_every_value() {
    check(neighbours, 4000);
}

#[test]
fn every_statement_left_out_or_earlier() {
    check(rearranged, 400);
}
