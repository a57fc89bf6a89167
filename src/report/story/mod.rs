//! A schedule as a story: question, source, steps in columns, and a splat for each hazard.
//!
//! # Columns
//! | column | what |
//! |---|---|
//! | `step` | position in the schedule, from 1; `!` where the oracle saw a hazard |
//! | a process each | the statement when it begins, and below it what this step of it did |
//! | a frame each | whose it is after the step, and what memory holds; `cpu n*` is a dirty cache line |
//! | `changed` | mappings, page table entries, pins, sg_tables, fences, locks |

mod exporter;
mod history;
mod memory;
mod render;
mod splat;
#[cfg(test)]
mod tests;
mod words;

pub(in crate::report) use memory::life_word;
use serde::Serialize;

pub use splat::{Prevented, Splat};
use words::Teller;

use super::full_name;
use crate::litmus::ast::{Role, RuleValue, Test, Variant};
use crate::model::HazardKind;
use crate::question::scenario::{Replay, Scenario, ScheduleStep};

/// A schedule, told.
#[derive(Debug, Clone, Serialize)]
pub struct Story {
    test: String,
    variant: String,
    row: Option<String>,
    question: String,
    sources: Vec<String>,
    /// What the rules are set to, a line a block.
    rules: Vec<String>,
    condition: String,
    /// What is known of the variant as a whole, and which schedule this is.
    about: String,
    processes: Vec<String>,
    frames: Vec<String>,
    /// The frames before the first step.
    before: Vec<String>,
    steps: Vec<StoryStep>,
    /// The hazards, each with its history.
    pub splats: Vec<Splat>,
    outcome: String,
    /// Whether every process came to its end.
    complete: bool,
    schedule: Vec<usize>,
}

/// A step of a story.
#[derive(Debug, Clone, Serialize)]
struct StoryStep {
    step: usize,
    process: usize,
    statement: String,
    line: u32,
    /// Whether the statement begins here.
    begins: bool,
    what: String,
    frames: Vec<String>,
    changed: Vec<String>,
    hazards: Vec<&'static str>,
}

impl Story {
    /// Tell `replay`, a schedule of `scenario`, which was lowered from `variant` of `test`.
    /// `about` says what the schedule is an example of.
    #[must_use]
    pub fn new(
        test: &Test,
        variant: &Variant,
        scenario: &Scenario,
        replay: &Replay,
        about: String,
    ) -> Self {
        let teller = Teller { scenario };
        let used = memory::frames_used(replay);
        let frames_of = |state: &crate::model::State| -> Vec<String> {
            used.iter().map(|frame| teller.frame_state(&state.frames[frame.index()])).collect()
        };
        let mut steps = Vec::with_capacity(replay.events.len());
        let mut before = &replay.before;
        let mut seen = vec![usize::MAX; scenario.programs.len()];
        for (index, event) in replay.events.iter().enumerate() {
            let program = &scenario.programs[event.actor];
            let at = program.instructions[event.pc].statement;
            let statement = &program.statements[at];
            let mut changed = teller.changes(before, &event.after);
            changed.extend(words::costs(event, &scenario.counts));
            steps.push(StoryStep {
                step: index + 1,
                process: event.actor,
                statement: statement.text.clone(),
                line: statement.line,
                begins: seen[event.actor] != at,
                what: teller.tell(&before.model, event),
                frames: frames_of(&event.after.model),
                changed,
                hazards: splat::hazards(event),
            });
            seen[event.actor] = at;
            before = &event.after;
        }
        Self {
            test: test.name.text.clone(),
            variant: variant.name.clone(),
            row: test.row.clone(),
            question: test.question.clone(),
            sources: test.sources.clone(),
            rules: rules(variant),
            condition: scenario.condition.to_string(),
            about,
            processes: variant.processes.iter().map(|p| role(p.index, &p.role)).collect(),
            frames: used.iter().map(|frame| teller.frame(*frame)).collect(),
            before: frames_of(&replay.before.model),
            steps,
            splats: teller.splats(replay),
            outcome: replay.outcome.describe(scenario),
            complete: replay.complete,
            schedule: replay.events.iter().map(|event| event.actor).collect(),
        }
    }

    /// `TEST/VARIANT`.
    #[must_use]
    pub fn name(&self) -> String {
        full_name(&self.test, &self.variant)
    }

    /// The kinds of hazards that the schedule shows.
    #[must_use]
    pub fn hazards(&self) -> Vec<HazardKind> {
        let mut kinds: Vec<HazardKind> = self.splats.iter().map(|splat| splat.hazard).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}

/// What the step of `event` did in the kernel's nouns, given the state before it.
#[must_use]
pub fn tell(scenario: &Scenario, before: &crate::model::State, event: &ScheduleStep) -> String {
    Teller { scenario }.tell(before, event)
}

fn role(index: usize, role: &Role) -> String {
    match role {
        Role::Application => format!("P{index} application"),
        Role::Exporter(name) => format!("P{index} exporter {}", name.text),
        Role::Device(Some(name)) => format!("P{index} device {}", name.text),
        Role::Device(None) => format!("P{index} device"),
        Role::Child => format!("P{index} child"),
        Role::Thread(of) => format!("P{index} thread of P{}", of.index),
        Role::Hardware => format!("P{index} hardware"),
    }
}

/// `exporter heap: mmap = pfnmap, recycle = pool`.
fn rules(variant: &Variant) -> Vec<String> {
    let describe = |rules: &[crate::litmus::ast::Rule]| {
        let one = |rule: &crate::litmus::ast::Rule| {
            let value = match &rule.value {
                RuleValue::Word(word) => word.text.clone(),
                RuleValue::Steps(steps) => {
                    let words: Vec<&str> = steps.iter().map(|step| step.as_str()).collect();
                    format!("[{}]", words.join(" "))
                }
            };
            format!("{} = {value}", rule.name.text)
        };
        rules.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let mut lines = Vec::new();
    let mut add = |block: String, rules: &[crate::litmus::ast::Rule]| {
        if !rules.is_empty() {
            lines.push(format!("{block}: {}", describe(rules)));
        }
    };
    add("host".to_owned(), &variant.host);
    for exporter in &variant.exporters {
        add(format!("exporter {}", exporter.name.text), &exporter.rules);
    }
    for importer in &variant.importers {
        add(format!("importer {}", importer.name.text), &importer.rules);
    }
    lines
}
