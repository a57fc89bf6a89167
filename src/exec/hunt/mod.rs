//! Free-running races: the same programs on the same memory, without lockstep.
//!
//! # What it is
//!
//! What klitmus7 is to herd7. Each process goes on as soon as it can, after a seeded delay; its
//! loads, stores and transfers are under way in its own process while the exporter copies and
//! refills frames in this one. Only what the kernel serialises is serialised: a fault asks the
//! exporter, who takes the buffer's lock; an entry is removed by the process that has it.
//!
//! The model keeps the exporter's books, told of each action when it has happened; it decides no
//! value. An outcome is made of what was observed: registers, errnos, the bytes of every buffer
//! ([`classify`]). The order in which actions were seen to end is a schedule, which is kept with
//! each outcome: [`Executor::replay`] shows it again, every time.
//!
//! # Differs from Linux
//!
//! A page can be seen half written, which the model's cannot: such a run is counted as `torn` and
//! compared no further.

mod classify;
mod observe;
mod race;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::error::{ExecError, Skip};
use super::executor::Executor;
use super::plan::Plan;
use crate::litmus::cond::Quantifier;
use crate::model::{Coherency, HazardKind, Step};
use crate::question::scenario::{Action, Outcome, Scenario};
use crate::question::verdict::Judgement;
use crate::units::BufId;
use race::{Ended, Race};

/// How long and how to hunt.
#[derive(Debug, Clone, Copy)]
pub struct HuntOptions {
    /// Seed of the delays.
    pub seed: u64,
    /// Number of the first run; with the seed it decides the delays of a run.
    pub first: u64,
    /// The most runs.
    pub iterations: u64,
    /// The longest time.
    pub time: Duration,
}

impl Default for HuntOptions {
    fn default() -> Self {
        Self { seed: 1, first: 0, iterations: 100_000, time: Duration::from_secs(5) }
    }
}

/// How often an outcome was seen.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Runs that ended so.
    pub count: u64,
    /// Whether the condition's body holds.
    pub positive: bool,
    /// The model has no such outcome: a bug in driftheap.
    pub impossible: bool,
    /// The first run that ended so.
    pub iteration: u64,
    /// The order of its actions, which `replay` repeats.
    pub schedule: Vec<u8>,
}

/// What a hunt saw.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// What was asked for.
    pub options: HuntOptions,
    /// Runs.
    pub runs: u64,
    /// Runs in which a page was seen half written.
    pub torn: u64,
    /// By outcome.
    pub outcomes: BTreeMap<Outcome, Tally>,
    /// Runs in which memory did what the model calls impossible at once, with the reason.
    pub anomalies: Vec<(u64, String)>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Histogram {
    /// Runs after which the condition's body holds.
    #[must_use]
    pub fn positive(&self) -> u64 {
        self.outcomes.values().filter(|tally| tally.positive).map(|tally| tally.count).sum()
    }

    /// Runs after which it does not.
    #[must_use]
    pub fn negative(&self) -> u64 {
        self.outcomes.values().filter(|tally| !tally.positive).map(|tally| tally.count).sum()
    }

    /// Whether nothing was seen that the model calls impossible.
    #[must_use]
    pub fn explained(&self) -> bool {
        self.anomalies.is_empty() && !self.outcomes.values().any(|tally| tally.impossible)
    }

    /// As klitmus7 prints it; what is impossible is a bug in driftheap, whose memory it is.
    #[must_use]
    pub fn describe(&self, scenario: &Scenario) -> String {
        self.in_words(scenario, ": a bug in driftheap")
    }

    /// The same of a race in a kernel: there model and kernel disagree.
    #[must_use]
    pub fn describe_found(&self, scenario: &Scenario) -> String {
        self.in_words(scenario, "")
    }

    fn in_words(&self, scenario: &Scenario, whose: &str) -> String {
        let mut text = String::new();
        let quantifier = match scenario.condition.quantifier {
            Quantifier::Exists => "Allowed",
            Quantifier::NotExists => "Forbidden",
            Quantifier::Forall => "Required",
        };
        // Writing to a String can't fail.
        let _ = writeln!(text, "Test {}/{} {quantifier}", scenario.test, scenario.variant);
        let _ = writeln!(text, "Histogram ({} states)", self.outcomes.len());
        for (outcome, tally) in &self.outcomes {
            let star = if tally.positive { "*" } else { ":" };
            let what = outcome.describe(scenario);
            let _ = writeln!(text, "{:<8}{star}>{what}", tally.count);
        }
        if self.torn > 0 {
            let _ =
                writeln!(text, "{:<8}:>torn (a page half written; the model's are not)", self.torn);
        }
        for (outcome, tally) in self.outcomes.iter().filter(|(_, tally)| tally.impossible) {
            let what = outcome.describe(scenario);
            let _ =
                writeln!(text, "IMPOSSIBLE in the model: {what} (run {}){whose}", tally.iteration);
        }
        for (iteration, what) in &self.anomalies {
            let _ = writeln!(text, "IMPOSSIBLE in the model: {what} (run {iteration})");
        }
        let (positive, negative) = (self.positive(), self.negative());
        let _ = writeln!(text, "Witnesses\nPositive: {positive} Negative: {negative}");
        let observed = match (positive, negative) {
            (0, _) => "Never",
            (_, 0) => "Always",
            _ => "Sometimes",
        };
        let _ = writeln!(text, "Observation {} {observed} {positive} {negative}", scenario.test);
        let seconds = self.elapsed.as_secs_f64();
        let _ = writeln!(text, "Time {} {seconds:.2}", scenario.test);
        text
    }
}

/// Whether a scenario can be raced.
///
/// # Errors
/// [`Skip`] names what of it hunt does not do; `replay` may.
pub fn supports(executor: &Executor, scenario: &Scenario) -> Result<(), Skip> {
    executor.supports(scenario)?;
    let not =
        |what: &str| Err(Skip::with_remedy(format!("not supported by hunt: {what}"), "use replay"));
    if scenario.world.threads() {
        return not("threads, whose accesses one process makes, one after the other");
    }
    if scenario.world.bounces() {
        return not("bounce pages, which SYNC copies step by step");
    }
    for buf in (0..scenario.world.bufs()).map(BufId::at) {
        if scenario.world.exporter_of(buf).coherency == Coherency::Incoherent {
            return not("an incoherent buffer, whose cache is emulated step by step");
        }
    }
    for instruction in scenario.programs.iter().flat_map(|program| &program.instructions) {
        match &instruction.action {
            Action::Step(Step::Fork { .. }) => return not("fork"),
            Action::Step(Step::Mmap(mmap)) if !mmap.shared => {
                return not("private and anonymous memory");
            }
            Action::Step(Step::EvictCache(_)) => return not("CPU caches"),
            Action::Step(_) | Action::Await(_) => {}
        }
    }
    Ok(())
}

/// Race a judged scenario. Saves, with each outcome, the run and the schedule that showed it first.
/// `progress` sees what there is after each run, and may end it.
///
/// # Errors
/// [`ExecError`]; [`ExecError::Unsupported`] where [`supports`] says no.
pub fn hunt(
    executor: &mut Executor,
    scenario: &Scenario,
    judgement: &Judgement,
    options: HuntOptions,
    progress: &mut dyn FnMut(&Histogram) -> ControlFlow<()>,
) -> Result<Histogram, ExecError> {
    supports(executor, scenario).map_err(ExecError::Unsupported)?;
    let plan = Plan::new(scenario, &executor.arenas, executor.team.abilities)
        .map_err(ExecError::Unsupported)?;
    let begun = Instant::now();
    let mut histogram = Histogram {
        options,
        runs: 0,
        torn: 0,
        outcomes: BTreeMap::new(),
        anomalies: Vec::new(),
        elapsed: Duration::ZERO,
    };
    while histogram.runs < options.iterations && begun.elapsed() < options.time {
        let iteration = options.first + histogram.runs;
        let seed = options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(iteration);
        let timeout = executor.options.timeout;
        let ended = Race::new(executor, scenario, &plan, seed).run(timeout);
        let ended = ended.and_then(|ended| executor.team.reset().map(|()| ended));
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                executor.team.disband();
                return Err(error);
            }
        };
        histogram.runs += 1;
        histogram.elapsed = begun.elapsed();
        count(&mut histogram, scenario, judgement, iteration, ended);
        if progress(&histogram).is_break() {
            break;
        }
    }
    Ok(histogram)
}

fn count(
    histogram: &mut Histogram,
    scenario: &Scenario,
    judgement: &Judgement,
    iteration: u64,
    ended: Ended,
) {
    match ended {
        Ended::Torn => histogram.torn += 1,
        Ended::Anomaly(what) => histogram.anomalies.push((iteration, what)),
        Ended::Outcome(outcome, schedule) => {
            let impossible = judgement.exploration.complete
                && !judgement.exploration.outcomes.keys().any(|known| explains(known, &outcome));
            let positive = scenario.holds(&outcome);
            let tally = histogram.outcomes.entry(outcome).or_insert(Tally {
                count: 0,
                positive,
                impossible,
                iteration,
                schedule,
            });
            tally.count += 1;
        }
    }
}

/// Whether an outcome of the model is what was observed: the same registers, results and contents,
/// and each hazard that could be told from bytes. Of a wrong value that was read, and of a write
/// that is missing, bytes do not tell for sure whose it was and where it went.
fn explains(known: &Outcome, seen: &Outcome) -> bool {
    use HazardKind::{CrossBufferRead, CrossBufferWrite, LostWrite, StaleRead, UseAfterFree};
    let as_well: [(HazardKind, &[HazardKind]); 3] = [
        (StaleRead, &[StaleRead, CrossBufferRead, UseAfterFree]),
        (CrossBufferRead, &[CrossBufferRead, StaleRead, UseAfterFree]),
        (LostWrite, &[LostWrite, CrossBufferWrite, UseAfterFree]),
    ];
    let explained = |kind: HazardKind| {
        let found = as_well.iter().find(|(seen, _)| *seen == kind);
        let any = found.map_or(kind.bit(), |(_, any)| any.iter().fold(0, |bits, k| bits | k.bit()));
        known.hazards & any != 0
    };
    known.slots == seen.slots
        && known.contents == seen.contents
        && known.warned == seen.warned
        && seen.hazard_kinds().all(explained)
}
