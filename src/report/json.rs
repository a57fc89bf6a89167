//! One JSON object a variant, on a line of its own.

use std::collections::BTreeMap;

use serde::Serialize;

use super::AnsweredVariant;
use super::kernel::Kernel;
use super::merged::Shard;
use super::real::Real;

/// A variant's answer as it is serialised. Numbers are exact.
#[derive(Debug, Serialize)]
pub struct VariantJson<'a> {
    test: &'a str,
    variant: &'a str,
    row: Option<&'a str>,
    expected: Option<&'static str>,
    observation: Option<&'static str>,
    as_expected: Option<bool>,
    /// Whether the search ended early, and a schedule shows what is asked.
    shown: bool,
    positive: u128,
    negative: u128,
    states: u64,
    transitions: u64,
    schedules: u128,
    /// Processes that are interchangeable, by class: of states that differ in who is who one is kept.
    interchangeable: Vec<Vec<u8>>,
    /// Length of the shortest schedule to each hazard.
    hazards: BTreeMap<&'static str, usize>,
    /// The process of each step.
    shortest: Option<&'a [u8]>,
    outcomes: Vec<OutcomeJson<'a>>,
    costs: BTreeMap<&'static str, CostJson>,
    /// What the answer does not say by itself, with the line of the file.
    notes: Vec<NoteJson<'a>>,
    /// Whether the answer is a Never that rests on one of them.
    vacuous: bool,
    complete: bool,
    stopped: Option<String>,
    /// Schedules replayed on real memory; null when none was asked for.
    replayed: Option<usize>,
    agreed: Option<usize>,
    skipped: Option<&'a str>,
    difference: Option<&'a str>,
    /// What a real kernel said; null when it was not asked for.
    kernel: Option<&'a Kernel>,
    /// Which part of a run of several machines this is; null when it is all.
    shard: Option<Shard>,
}

#[derive(Debug, Serialize)]
struct OutcomeJson<'a> {
    outcome: String,
    positive: bool,
    schedules: u128,
    states: u64,
    shortest: &'a [u8],
}

#[derive(Debug, Serialize)]
struct NoteJson<'a> {
    line: u32,
    note: &'a str,
}

#[derive(Debug, Serialize)]
struct CostJson {
    least: u64,
    most: u64,
}

impl<'a> VariantJson<'a> {
    /// Of an answer.
    #[must_use]
    pub fn new(answer: &AnsweredVariant<'a>) -> Self {
        let AnsweredVariant { test, scenario, judgement, notes } = *answer;
        let exploration = &judgement.exploration;
        let outcomes = exploration.outcomes.iter().map(|(outcome, stats)| OutcomeJson {
            outcome: outcome.describe(scenario),
            positive: scenario.holds(outcome),
            schedules: stats.schedules,
            states: stats.states,
            shortest: &stats.shortest,
        });
        let costs = judgement.costs.iter();
        Self {
            test: &scenario.test,
            variant: &scenario.variant,
            row: test.row.as_deref(),
            expected: scenario.expected.map(|verdict| verdict.word()),
            observation: judgement.observation.map(|verdict| verdict.word()),
            as_expected: match judgement.observation {
                Some(_) => judgement.as_expected(scenario),
                None => judgement.refutes(scenario).then_some(false),
            },
            shown: judgement.is_shown(),
            positive: judgement.positive,
            negative: judgement.negative,
            states: exploration.states,
            transitions: exploration.transitions,
            schedules: exploration.schedules,
            interchangeable: exploration.interchangeable().collect(),
            hazards: judgement
                .hazards
                .iter()
                .map(|(kind, schedule)| (kind.word(), schedule.len()))
                .collect(),
            shortest: judgement.shortest.as_deref(),
            outcomes: outcomes.collect(),
            costs: costs
                .map(|(cost, least, most)| (cost.word(), CostJson { least: *least, most: *most }))
                .collect(),
            notes: notes.iter().map(|n| NoteJson { line: n.line, note: &n.text }).collect(),
            vacuous: answer.vacuous(),
            complete: exploration.complete,
            stopped: exploration.stopped_text(),
            replayed: None,
            agreed: None,
            skipped: None,
            difference: None,
            kernel: None,
            shard: None,
        }
    }

    /// With what real memory said.
    #[must_use]
    pub fn with_real(self, real: &'a Real) -> Self {
        Self {
            replayed: Some(real.replayed),
            agreed: Some(real.agreed),
            skipped: real.skipped.as_deref(),
            difference: real.difference.as_deref(),
            ..self
        }
    }

    /// With what a real kernel said.
    #[must_use]
    pub fn with_kernel(self, kernel: &'a Kernel) -> Self {
        Self { kernel: Some(kernel), ..self }
    }

    /// As an answer of one of several runs.
    #[must_use]
    pub fn with_shard(self, shard: Option<Shard>) -> Self {
        Self { shard, ..self }
    }

    /// One line, with its newline.
    #[must_use]
    pub fn line(&self) -> String {
        line(self)
    }
}

/// A variant that could not be explored, as one line.
#[must_use]
pub fn failed_line(
    test: &str,
    variant: &str,
    row: Option<&str>,
    error: &str,
    shard: Option<Shard>,
) -> String {
    #[derive(Serialize)]
    struct Failed<'a> {
        test: &'a str,
        variant: &'a str,
        row: Option<&'a str>,
        observation: Option<&'a str>,
        error: &'a str,
        shard: Option<Shard>,
    }
    line(&Failed { test, variant, row, observation: None, error, shard })
}

/// Any value as one line, with its newline.
pub fn line(value: &impl Serialize) -> String {
    // Maps have string keys and no value of ours fails to serialise.
    let mut text = serde_json::to_string(value).unwrap_or_else(|error| {
        format!("{{\"error\":\"{}\"}}", error.to_string().replace(['"', '\\'], "'"))
    });
    text.push('\n');
    text
}
