//! The default step lists of move, purge and revoke are minimal and in the right order.
//!
//! Every list with one step dropped, and every list with two neighbours swapped, runs through the
//! scenarios below. Each scenario's `forall` says what is right; on the default lists it holds of
//! every outcome. A mutation is *caught* when it breaks one: a hazard, a deadlock, a wrong errno or
//! a wrong final state. The mutations that nothing can tell from the default are listed in
//! [`EQUIVALENT`] with the reason, and their outcomes are equal to the default's in every scenario.

#[path = "../common/lab.rs"]
mod lab;
mod questions;

use std::collections::BTreeSet;

use driftheap::model::ExporterRules;
use driftheap::model::ExporterStep;
use driftheap::question::scenario::Outcome;
use questions::{QUESTIONS, Question};

/// Mutations that change nothing, by operation and name, with the reason.
const EQUIVALENT: &[(&str, &str, &str)] = &[
    ("move", "swap notify, wait", LOCKED),
    ("move", "swap wait, zap", LOCKED),
    ("move", "swap reserve, flush", APART),
    ("move", "swap copy, rebind", LATE),
    ("move", "swap rebind, free", UNREACHED),
    ("move", "swap free, unlock", UNREACHED),
    ("purge", "drop flush", GIVEN_UP),
    ("purge", "swap notify, wait", LOCKED),
    ("purge", "swap wait, zap", LOCKED),
    ("purge", "swap mark, flush", GIVEN_UP),
    ("purge", "swap flush, free", GIVEN_UP),
    ("purge", "swap free, unlock", UNREACHED),
    ("revoke", "drop flush", GIVEN_UP),
    ("revoke", "swap mark, notify", LOCKED),
    ("revoke", "swap notify, zap", LOCKED),
    ("revoke", "swap zap, wait", LOCKED),
    ("revoke", "swap wait-unmap, flush", GIVEN_UP),
    ("revoke", "swap flush, free", GIVEN_UP),
];

const LOCKED: &str = "while the reservation lock is held nobody can add a fence, map again or fault \
    a page in: what is said, waited for and zapped under it is over before anybody else goes on";
const LATE: &str = "the frames that a buffer leaves are known until they are free, so a copy may come \
    late; under the reservation lock nobody faults a new one in before it";
const APART: &str = "the one takes new frames, the other writes the old ones back";
const UNREACHED: &str = "the page was copied, zapped, waited for and (moved or marked) is nobody's \
    address any more: nothing can tell when its frame goes back";
const GIVEN_UP: &str = "the contents are given up, and an allocation clears the CPU's cache lines of \
    the frames that it takes: it does not matter what becomes of dirty ones";

/// A changed list of steps.
struct Mutation {
    job: &'static str,
    name: String,
    steps: Vec<ExporterStep>,
}

/// Every drop of one step and every swap of two neighbours.
fn mutations(job: &'static str, default: &[ExporterStep]) -> Vec<Mutation> {
    let drop = |at: usize| {
        let mut steps = default.to_vec();
        let name = format!("drop {}", steps.remove(at));
        Mutation { job, name, steps }
    };
    let swap = |at: usize| {
        let mut steps = default.to_vec();
        let name = format!("swap {}, {}", steps[at], steps[at + 1]);
        steps.swap(at, at + 1);
        Mutation { job, name, steps }
    };
    (0..default.len()).map(drop).chain((0..default.len() - 1).map(swap)).collect()
}

fn defaults() -> [(&'static str, Vec<ExporterStep>); 3] {
    let rules = ExporterRules::default();
    [("move", rules.move_steps), ("purge", rules.purge_steps), ("revoke", rules.revoke_steps)]
}

/// The outcomes of a question, and those that are wrong.
fn ask(
    question: &Question,
    job: &str,
    right: &str,
    steps: &[ExporterStep],
) -> (BTreeSet<String>, Outcomes) {
    let words: Vec<_> = steps.iter().map(|step| step.word()).collect();
    let (first, second) = match job {
        "move" => ("move A -> system", "move A -> cma"),
        "purge" => ("purge A", "purge A"),
        _ => ("revoke A", "revoke A"),
    };
    let body = question.text.replace("@JOB2", second).replace("@JOB", first);
    let body = body.replace("@LIST", &format!("{job} = [{}]", words.join(" ")));
    let scenario = lab::variant(&format!("DMABUF mutation{body}\nforall ({right})\n"), "-");
    let found = lab::explore(&scenario).outcomes;
    let wrong = found.keys().filter(|outcome| !scenario.holds(outcome));
    let wrong = wrong.map(|outcome| outcome.describe(&scenario)).collect();
    (wrong, found.into_keys().collect())
}

type Outcomes = BTreeSet<Outcome>;

/// Runs a list through every question on its operation: how often it is wrong, and all outcomes.
fn run(job: &str, steps: &[ExporterStep]) -> (Vec<String>, Vec<Outcomes>) {
    let (mut wrong, mut outcomes) = (Vec::new(), Vec::new());
    for question in QUESTIONS {
        for (_, right) in question.of.iter().filter(|(of, _)| *of == job) {
            let (bad, all) = ask(question, job, right, steps);
            wrong.extend(bad.first().map(|bad| format!("{}: {bad}", question.asks)));
            outcomes.push(all);
        }
    }
    (wrong, outcomes)
}

#[test]
fn the_default_lists_are_right() {
    for (job, steps) in defaults() {
        assert_eq!(run(job, &steps).0, Vec::<String>::new(), "{job}");
    }
}

#[test]
fn every_mutation_is_caught_or_proved_equivalent() {
    let (mut caught, mut equivalent, mut problems) = (0, 0, Vec::new());
    for (job, default) in defaults() {
        let reference = run(job, &default).1;
        for mutation in mutations(job, &default) {
            let (wrong, outcomes) = run(job, &mutation.steps);
            let listed =
                EQUIVALENT.iter().any(|(of, name, _)| *of == job && *name == mutation.name);
            let title = format!("{}: {}", mutation.job, mutation.name);
            match (wrong.is_empty(), listed) {
                (false, false) => caught += 1,
                (true, true) if outcomes == reference => equivalent += 1,
                (true, _) if outcomes == reference => problems.push(format!("{title}: survives")),
                (true, _) => problems.push(format!("{title}: differs, and nothing is wrong")),
                (false, true) => problems.push(format!("{title}: not equivalent: {wrong:?}")),
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!((caught, equivalent), (37, EQUIVALENT.len()));
}
