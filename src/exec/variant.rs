//! Which schedules of a variant are replayed, and what came of them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::error::ExecError;
use super::executor::Executor;
use super::report::{Disagreement, ReadBack};
use crate::explore::{Explorer, Limits, Reduction};
use crate::question::scenario::Scenario;
use crate::question::verdict::Judgement;
use crate::random::SplitMix64;

/// Which schedules are replayed apart from the shortest to each outcome and to each hazard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replays {
    /// All complete ones.
    All,
    /// So many, drawn with this seed.
    Sample(usize, u64),
}

/// A variant on real memory.
#[derive(Debug, Clone, Default)]
pub struct VariantReplay {
    /// Schedules that were carried out to their end.
    pub replayed: usize,
    /// Of these, those in which everything was as the model said.
    pub agreed: usize,
    /// Schedules that reach what can't be carried out, and so count as not replayed.
    pub inexpressible: usize,
    /// Why nothing was replayed.
    pub skipped: Option<String>,
    /// The first difference, and the schedule that shows it.
    pub first_disagreement: Option<(Vec<u8>, Disagreement)>,
    /// Single observations that were compared.
    pub compared: usize,
    /// What the hazards of the shortest schedules left in memory.
    pub corrupted: Vec<ReadBack>,
}

/// Replays a judged variant: the shortest schedule to each outcome and to each hazard, and more as
/// `how` says. Stops at the first disagreement.
///
/// # Errors
/// [`ExecError`] when a schedule could not be carried out. A variant that can't be expressed here
/// is not an error: [`VariantReplay::skipped`] says why.
pub fn replay_variant(
    executor: &mut Executor,
    scenario: &Scenario,
    judgement: &Judgement,
    how: Replays,
) -> Result<VariantReplay, ExecError> {
    replay_variant_until(executor, scenario, judgement, how, &mut |_, _| ControlFlow::Continue(()))
}

/// As [`replay_variant`]; before each schedule `progress` is told how many are done and how many
/// there are, and may ask for an end.
///
/// # Errors
/// As for [`replay_variant`].
pub fn replay_variant_until(
    executor: &mut Executor,
    scenario: &Scenario,
    judgement: &Judgement,
    how: Replays,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<VariantReplay, ExecError> {
    let mut result = VariantReplay::default();
    if let Err(skip) = executor.supports(scenario) {
        result.skipped = Some(skip.to_string());
        return Ok(result);
    }
    let (schedules, shortest) = schedules(scenario, judgement, how);
    let mut reason = None;
    for (index, schedule) in schedules.iter().enumerate() {
        if progress(index, schedules.len()).is_break() {
            break;
        }
        let report = executor.replay(scenario, schedule)?;
        result.compared += report.compared;
        if index < shortest {
            result.corrupted.extend(report.corrupted);
        }
        if let Some(why) = report.inexpressible {
            result.inexpressible += 1;
            reason = Some(why);
            continue;
        }
        result.replayed += 1;
        match report.disagreement {
            None => result.agreed += 1,
            Some(disagreement) => {
                result.first_disagreement = Some((schedule.clone(), disagreement));
                return Ok(result);
            }
        }
    }
    if result.replayed == 0 {
        result.skipped = reason;
    }
    Ok(result)
}

/// The schedules, each once, the shortest to something first; and how many those are.
#[must_use]
pub fn schedules(
    scenario: &Scenario,
    judgement: &Judgement,
    how: Replays,
) -> (Vec<Vec<u8>>, usize) {
    let mut seen = BTreeSet::new();
    let mut schedules = Vec::new();
    let hazards = judgement.hazards.values();
    let outcomes = judgement.exploration.outcomes.values().map(|stats| &stats.shortest);
    for schedule in judgement.shortest.iter().chain(hazards).chain(outcomes) {
        if seen.insert(schedule.clone()) {
            schedules.push(schedule.clone());
        }
    }
    let shortest = schedules.len();
    let (count, seed) = match how {
        Replays::All => (usize::MAX, 0),
        Replays::Sample(count, seed) => (count, seed),
    };
    let explorer = Explorer::new(scenario, Limits::default(), Reduction::Live, 1);
    // A schedule without end was refused when the variant was judged.
    let sample = explorer.sample(&mut SplitMix64::new(seed), count).unwrap_or_default();
    for drawn in sample {
        if seen.insert(drawn.schedule.clone()) {
            schedules.push(drawn.schedule);
        }
    }
    (schedules, shortest)
}
