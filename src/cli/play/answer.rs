//! A text to diagnostics, or to verdicts and a drawing.

use std::time::Instant;

use driftheap::litmus::ast::Verdict;
use driftheap::litmus::diag::Diagnostic;
use driftheap::litmus::edit;
use driftheap::litmus::rules::{BlockKind, ModelRules, RuleTable as _, RuleValues};
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Judgement, judge_until};
use driftheap::report::AnsweredVariant;
use driftheap::report::page::{self, Shown};
use serde::{Deserialize, Serialize};

use super::super::input::{Loaded, parsed};
use super::desk::Allowed;

/// What diagnostics call the text.
pub(super) const FILE: &str = "question.litmus";

/// A question.
#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    pub(super) text: String,
    /// The variant to show and to ask real memory about; another if there is none of this name.
    #[serde(default)]
    pub(super) variant: String,
}

/// Most steps of a schedule that is asked about.
const SCHEDULE_MAX: usize = 4096;

/// A schedule of a variant whose states are asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Steps {
    text: String,
    variant: String,
    schedule: Vec<u8>,
}

impl Steps {
    /// The states of the schedule, as far as it can be taken.
    pub(super) fn told(&self) -> Result<serde_json::Value, String> {
        if self.text.len() > super::TEXT_BYTES_MAX || self.schedule.len() > SCHEDULE_MAX {
            return Err("the question or the schedule is too long".to_owned());
        }
        let mistakes = |_| "the text has mistakes".to_owned();
        let loaded = parsed(FILE, &self.text).map_err(mistakes)?;
        let scenarios = loaded.scenarios().map_err(mistakes)?;
        let named = scenarios.iter().find(|scenario| scenario.variant == self.variant);
        let scenario = named.ok_or_else(|| format!("there is no variant `{}`", self.variant))?;
        Ok(page::along(scenario, &self.schedule))
    }
}

/// A mistake, with its line and a caret.
#[derive(Debug, Serialize)]
struct Mistake {
    line: u32,
    column: u32,
    message: String,
    shown: String,
}

#[derive(Debug, Serialize)]
struct Observed {
    variant: String,
    observed: &'static str,
    /// Why it is unknown.
    stopped: Option<String>,
}

/// A block of the text, for its rules to be flipped.
#[derive(Debug, Serialize)]
struct Block {
    kind: &'static str,
    name: String,
    /// Rule and value, as the text has them.
    rules: Vec<(String, String)>,
}

/// What is said of a question.
#[derive(Debug, Default, Serialize)]
pub(super) struct Answered {
    mistakes: Vec<Mistake>,
    verdicts: Vec<Observed>,
    blocks: Vec<Block>,
    /// The answers and the drawing, as in a page of `driftheap report`; empty where there are mistakes.
    html: String,
    millis: u64,
}

pub(super) fn answer(ask: &Ask, allowed: Allowed) -> Answered {
    let begin = Instant::now();
    let mut answered = Answered { blocks: blocks(&ask.text), ..Answered::default() };
    match parsed(FILE, &ask.text).and_then(|loaded| Ok((loaded.scenarios()?, loaded))) {
        Ok((scenarios, loaded)) => {
            if let Err(why) = judged(&loaded, &scenarios, &ask.variant, &allowed, &mut answered) {
                let (line, column) = (1, 1);
                answered.mistakes.push(Mistake { line, column, shown: why.clone(), message: why });
            }
        }
        Err(diagnostics) => answered.mistakes = diagnostics.iter().map(mistake).collect(),
    }
    answered.millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    answered
}

fn mistake(diagnostic: &Diagnostic) -> Mistake {
    Mistake {
        line: diagnostic.line(),
        column: diagnostic.column(),
        message: diagnostic.message().to_owned(),
        shown: diagnostic.render(false),
    }
}

/// The verdicts of all variants; an error is one of the question as a whole.
fn judged(
    loaded: &Loaded,
    scenarios: &[Scenario],
    variant: &str,
    allowed: &Allowed,
    answered: &mut Answered,
) -> Result<(), String> {
    let search = Allowed::search();
    let mut judgements: Vec<(&Scenario, Judgement)> = Vec::new();
    for scenario in scenarios {
        if allowed.go_on().is_break() {
            // Said of the variants that are left out; those before have their answers.
            let observed = "unknown";
            let stopped = Some(allowed.why(driftheap::explore::Stop::Asked));
            let variant = scenario.variant.clone();
            answered.verdicts.push(Observed { variant, observed, stopped });
            continue;
        }
        let judgement = judge_until(scenario, &search, &mut |_| allowed.go_on())
            .map_err(|error| format!("{}: {error}", scenario.variant))?;
        answered.verdicts.push(Observed {
            variant: scenario.variant.clone(),
            observed: judgement.observation.map_or("unknown", Verdict::word),
            stopped: judgement.exploration.stopped.map(|stop| allowed.why(stop)),
        });
        judgements.push((scenario, judgement));
    }
    let test = &loaded.test;
    let named = judgements.iter().position(|(scenario, _)| scenario.variant == variant);
    let telling = || judgements.iter().position(|(_, judgement)| judgement.shortest.is_some());
    let first = named.or_else(telling).unwrap_or(0);
    let mut shown: Vec<Shown<'_>> = Vec::new();
    for (at, (scenario, judgement)) in judgements.iter().enumerate() {
        if allowed.stopped() {
            break;
        }
        // All states of the one that is shown; the others are asked for when somebody looks.
        let states = if at == first { page::STATES_MAX } else { 0 };
        let answer = AnsweredVariant { test, scenario, judgement, notes: &[] };
        shown.push(Shown::within(&answer, None, states));
    }
    answered.html = page::live(test, &loaded.text, &shown, first);
    Ok(())
}

fn blocks(text: &str) -> Vec<Block> {
    let block = |block: edit::Block| Block {
        kind: kind_word(block.kind),
        name: block.name,
        rules: block.rules.into_iter().map(|setting| (setting.rule, setting.value)).collect(),
    };
    edit::blocks(text).into_iter().map(block).collect()
}

const KINDS: [(&str, BlockKind); 3] = [
    ("host", BlockKind::Host),
    ("exporter", BlockKind::Exporter),
    ("importer", BlockKind::Importer),
];

const fn kind_word(kind: BlockKind) -> &'static str {
    match kind {
        BlockKind::Host => "host",
        BlockKind::Exporter => "exporter",
        BlockKind::Importer => "importer",
    }
}

/// A rule of a block to be set otherwise.
#[derive(Debug, Deserialize)]
pub(super) struct Flip {
    text: String,
    kind: String,
    name: String,
    rule: String,
    value: String,
}

impl Flip {
    /// The text with the rule set.
    pub(super) fn apply(&self) -> Result<String, String> {
        if self.text.len() > super::TEXT_BYTES_MAX {
            return Err("the question is too long".to_owned());
        }
        let Self { kind, name, rule, value, .. } = self;
        let kind = KINDS.iter().find(|(word, _)| word == kind).map(|(_, kind)| *kind);
        let kind = kind.ok_or_else(|| "there is no such kind of block".to_owned())?;
        let spec = ModelRules.rules(kind).iter().find(|spec| spec.name == rule);
        let spec = spec.ok_or_else(|| format!("there is no rule `{rule}` of such a block"))?;
        let allowed = match spec.values {
            RuleValues::Words(words) => words.contains(&value.as_str()),
            RuleValues::Steps(_) => false,
        };
        if !allowed {
            return Err(format!("`{value}` is not a value of `{rule}`"));
        }
        let text = edit::set(&self.text, kind, name, rule, value)
            .ok_or_else(|| format!("there is no block `{name}` in the text"))?;
        // With a `vary` go the variants that the header expects something of.
        let was_good = parsed(FILE, &self.text).is_ok();
        if was_good && parsed(FILE, &text).is_err() {
            return Ok(edit::without_results(&text));
        }
        Ok(text)
    }
}
