//! One test, and the variants of it that are meant.

use anyhow::{Context, bail};
use driftheap::litmus::ast::Verdict;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Judgement, Search, judge};

use super::input::{self, Loaded};
use super::out::Out;

/// The one test that `name` names, lowered. None: its mistakes have been printed.
pub(super) fn load(name: &str, out: &Out) -> anyhow::Result<Option<(Loaded, Vec<Scenario>)>> {
    let (mut loaded, bad) = input::load(&[name.to_owned()], out);
    if bad {
        return Ok(None);
    }
    if loaded.len() > 1 {
        let names: Vec<&str> = loaded.iter().map(|loaded| loaded.test.name.as_str()).collect();
        bail!("`{name}` is several tests: {}; name one", names.join(", "));
    }
    let Some(loaded) = loaded.pop() else { return Ok(None) };
    match loaded.scenarios() {
        Ok(scenarios) => Ok(Some((loaded, scenarios))),
        Err(diagnostics) => {
            input::diagnose(&diagnostics, out);
            Ok(None)
        }
    }
}

/// The variant of this name.
pub(super) fn named(mut scenarios: Vec<Scenario>, name: &str) -> anyhow::Result<Scenario> {
    let at = position(&scenarios, name)?;
    Ok(scenarios.swap_remove(at))
}

/// Where the variant of this name is.
pub(super) fn position(scenarios: &[Scenario], name: &str) -> anyhow::Result<usize> {
    let at = scenarios.iter().position(|scenario| scenario.variant == name);
    at.with_context(|| {
        let names: Vec<&str> = scenarios.iter().map(|s| s.variant.as_str()).collect();
        format!("there is no variant `{name}`; there are: {}", names.join(", "))
    })
}

/// The variant of this name, or the first whose answer is not Never; and its answer.
pub(super) fn telling(
    scenarios: Vec<Scenario>,
    name: Option<&str>,
    search: &Search,
) -> anyhow::Result<(Scenario, Judgement)> {
    let scenarios = match name {
        Some(name) => vec![named(scenarios, name)?],
        None => scenarios,
    };
    let mut first = None;
    for scenario in scenarios {
        let judgement = judge(&scenario, search, &mut |_| ())?;
        if judgement.observation != Some(Verdict::Never) {
            return Ok((scenario, judgement));
        }
        first.get_or_insert((scenario, judgement));
    }
    first.context("the test has no variants")
}

/// `0,0,1,2`, as `--schedule` takes it.
pub(super) fn schedule_word(schedule: &[u8]) -> String {
    let actors: Vec<String> = schedule.iter().map(u8::to_string).collect();
    actors.join(",")
}

/// One step of `--schedule`.
pub(super) fn schedule_step(word: &str) -> Result<u8, String> {
    word.trim().parse().map_err(|_| {
        format!("`{word}` is not a process: a schedule is the number of each step's, as `0,0,1`")
    })
}

/// The command that shows a schedule again, step by step; `flags` as ` --kernel`.
pub(super) fn again(word: &str, flags: &str, variant: &str, schedule: &[u8]) -> String {
    let schedule = schedule_word(schedule);
    let input = if word == "-" { " < FILE" } else { "" };
    format!("driftheap replay {word}{flags} --variant {variant} --schedule {schedule}{input}")
}
