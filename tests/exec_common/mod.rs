//! What the tests of the executor share.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::PathBuf;

use driftheap::exec::{ExecOptions, Executor};
use driftheap::litmus::rules::ModelRules;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Judgement, Search, judge};

/// The options for tests: this package's program is the actor.
pub(crate) fn options() -> ExecOptions {
    ExecOptions::new(PathBuf::from(env!("CARGO_BIN_EXE_driftheap")))
}

/// An executor.
pub(crate) fn executor() -> Executor {
    Executor::new(options()).expect("arenas and a first actor")
}

/// All variants of a litmus text.
pub(crate) fn scenarios(file: &str, text: &str) -> Vec<Scenario> {
    let test = driftheap::litmus::parse(file, text, &ModelRules).unwrap_or_else(|diagnostics| {
        let all: Vec<String> = diagnostics.iter().map(|d| d.render(false)).collect();
        panic!("{}", all.join("\n"))
    });
    let lower = |variant| Scenario::new(variant, text).expect("a bundled test is runnable");
    test.variants.iter().map(lower).collect()
}

/// All variants of a bundled test.
pub(crate) fn bundled(name: &str) -> Vec<Scenario> {
    let test = driftheap::suite::find(name).expect("a bundled test");
    scenarios(test.file, test.text)
}

/// The variant of a bundled test.
pub(crate) fn variant(name: &str, variant: &str) -> Scenario {
    let found = bundled(name).into_iter().find(|scenario| scenario.variant == variant);
    found.unwrap_or_else(|| panic!("{name} has no variant {variant}"))
}

/// The model's answer.
pub(crate) fn judged(scenario: &Scenario) -> Judgement {
    judge(scenario, &Search::default(), &mut |_| ()).expect("a bundled test can be explored")
}
