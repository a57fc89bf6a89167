//! The line of a variant in the table, the herd-like block, and the summary.

use std::fmt::Write as _;

use super::paint::{Paint, Tone, compact, plural};
use super::table::{Align, Cell, Column, Table};
use super::{AnsweredVariant, full_name};
use crate::explore::Exploration;
use crate::litmus::ast::{Test, Verdict};
use crate::model::Cost;
use crate::question::notes::Note;

/// What a variant came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// As the file expects.
    AsExpected,
    /// Not as the file expects.
    Differs,
    /// The search stopped before the answer was known.
    Unknown,
    /// It stopped early, and a schedule shows what is asked: the file expects that there is one.
    Shown,
    /// The file expects nothing.
    Unjudged,
    /// It could not be explored.
    Failed,
}

impl Mark {
    /// Of an answer.
    #[must_use]
    pub fn of(answer: &AnsweredVariant<'_>) -> Self {
        match (answer.judgement.observation, answer.scenario.expected) {
            (None, expected) if answer.judgement.is_shown() => match expected {
                Some(Verdict::Never) => Self::Differs,
                Some(Verdict::Always) if !answer.judgement.is_found() => Self::Unknown,
                Some(Verdict::Sometimes | Verdict::Always) => Self::Shown,
                None => Self::Unjudged,
            },
            (None, _) => Self::Unknown,
            (Some(_), None) => Self::Unjudged,
            (Some(observed), Some(expected)) if observed == expected => Self::AsExpected,
            (Some(_), Some(_)) => Self::Differs,
        }
    }

    /// Whether the command fails for its sake.
    #[must_use]
    pub const fn fails(self) -> bool {
        !matches!(self, Self::AsExpected | Self::Unjudged | Self::Shown)
    }

    /// The word in the last column.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::AsExpected => "ok",
            Self::Differs => "DIFFERS",
            Self::Unknown => "UNKNOWN",
            Self::Unjudged => "-",
            Self::Shown => "shown",
            Self::Failed => "FAILED",
        }
    }

    const fn tone(self) -> Tone {
        match self {
            Self::AsExpected => Tone::Good,
            Self::Differs | Self::Failed => Tone::Bad,
            Self::Unknown => Tone::Warn,
            Self::Unjudged | Self::Shown => Tone::Dim,
        }
    }

    pub(super) fn cell(self) -> Cell {
        Cell::toned(self.word(), self.tone())
    }
}

/// What is observed where the search ended before the answer was known.
#[must_use]
pub const fn without_answer(is_shown: bool) -> &'static str {
    if is_shown { "shown" } else { "unknown" }
}

fn verdict(verdict: Option<Verdict>) -> String {
    verdict.map_or_else(|| "-".to_owned(), |verdict| verdict.word().to_owned())
}

/// The table of variants, before any of them was explored: only their names are needed.
#[must_use]
pub fn table<'a>(tests: impl IntoIterator<Item = &'a Test>, paint: Paint) -> Table {
    let mut names = Vec::new();
    for test in tests {
        names.extend(test.variants.iter().map(|v| full_name(test.name.as_str(), &v.name)));
    }
    named_table(names.iter().map(String::as_str), paint)
}

/// The table of variants of these names.
pub(super) fn named_table<'a>(names: impl IntoIterator<Item = &'a str>, paint: Paint) -> Table {
    let columns = vec![
        Column::new("test/variant", Align::Left).fit(names),
        Column::new("expected", Align::Left).at_least(9),
        Column::new("observed", Align::Left).at_least(9),
        Column::new("states", Align::Right).at_least(8),
        Column::new("schedules", Align::Right).at_least(10),
        Column::new("shortest", Align::Right),
        Column::new("", Align::Left).at_least(2),
    ];
    Table::new(columns, paint)
}

/// The cells of a variant's line.
#[must_use]
pub fn cells(answer: &AnsweredVariant<'_>) -> Vec<Cell> {
    let AnsweredVariant { scenario, judgement, .. } = answer;
    let mark = Mark::of(answer);
    let observed = match judgement.observation {
        Some(observed) if answer.vacuous() => {
            Cell::toned(format!("{}*", observed.word()), Tone::Warn)
        }
        Some(observed) => Cell::new(observed.word()),
        None => Cell::toned(without_answer(judgement.is_shown()), Tone::Warn),
    };
    let shortest = judgement.shortest.as_ref();
    vec![
        Cell::new(answer.name()),
        Cell::new(verdict(scenario.expected)),
        observed,
        Cell::new(compact(u128::from(judgement.exploration.states))),
        Cell::new(schedules(&judgement.exploration, judgement.exploration.schedules)),
        shortest.map_or_else(|| Cell::toned("-", Tone::Dim), |s| Cell::new(s.len().to_string())),
        mark.cell(),
    ]
}

/// `  costs: tlb-flushes 2, pat-steps 3 to 5`, a line, or nothing for a test that counts none.
#[must_use]
pub fn costs(answer: &AnsweredVariant<'_>) -> String {
    costs_line(&answer.judgement.costs, &answer.scenario.expected_costs)
}

pub(super) fn costs_line(costs: &[(Cost, u64, u64)], expected: &[(Cost, u64)]) -> String {
    let wanted = |cost: Cost| {
        let of = |(of, _): &&(Cost, u64)| *of == cost;
        expected.iter().find(of).map(|(_, wanted)| *wanted)
    };
    let cost = |(cost, least, most): &(Cost, u64, u64)| {
        let most_text = if least == most { String::new() } else { format!(" to {most}") };
        let differs = wanted(*cost).filter(|wanted| (wanted, wanted) != (least, most));
        let expected = differs.map(|wanted| format!(" (expected {wanted})")).unwrap_or_default();
        format!("{} {least}{most_text}{expected}", cost.word())
    };
    let costs: Vec<String> = costs.iter().map(cost).collect();
    if costs.is_empty() { String::new() } else { format!("  costs: {}\n", costs.join(", ")) }
}

/// `  note: my.litmus:7: ...`, a line a note.
#[must_use]
pub fn notes(answer: &AnsweredVariant<'_>, file: &str) -> String {
    let note = |note: &Note| {
        let mark = if note.vacuous { "*" } else { " " };
        format!(" {mark}note: {file}:{}: {}\n", note.line, note.text)
    };
    answer.notes.iter().map(note).collect()
}

/// The cells of a variant that could not be explored.
#[must_use]
pub fn failed_cells(test: &str, variant: &str, expected: Option<Verdict>) -> Vec<Cell> {
    let mark = Mark::Failed;
    let none = || Cell::toned("-", Tone::Dim);
    vec![
        Cell::new(full_name(test, variant)),
        Cell::new(verdict(expected)),
        none(),
        none(),
        none(),
        none(),
        mark.cell(),
    ]
}

/// A number of schedules; `>` where there are more than 128 bits can count.
fn schedules<O>(exploration: &Exploration<O>, count: u128) -> String {
    let more = if exploration.is_saturated && count == u128::MAX { ">" } else { "" };
    format!("{more}{}", compact(count))
}

/// `P0, P1 and P3`.
#[must_use]
pub fn names(processes: &[u8]) -> String {
    let names: Vec<String> = processes.iter().map(|process| format!("P{process}")).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// What herd7 prints of a test: states, outcomes, condition, observation.
///
/// `Positive` and `Negative` count complete schedules whose outcome satisfies the condition's body
/// or does not.
#[must_use]
pub fn block(answer: &AnsweredVariant<'_>, file: &str, paint: Paint) -> String {
    let AnsweredVariant { scenario, judgement, .. } = answer;
    let exploration = &judgement.exploration;
    let name = answer.name();
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(paint.paint(Tone::Strong, &format!("Test {name}")));
    line(format!(
        "States {} ({} transitions, {} outcomes)",
        exploration.states,
        exploration.transitions,
        exploration.outcomes.len()
    ));
    for class in exploration.interchangeable() {
        line(format!(
            "Symmetry {} are interchangeable: one of their orders is searched",
            names(&class)
        ));
    }
    let counts: Vec<String> = exploration
        .outcomes
        .values()
        .map(|stats| schedules(exploration, stats.schedules))
        .collect();
    let columns = counts.iter().map(String::len).max().unwrap_or(0);
    for ((outcome, stats), count) in exploration.outcomes.iter().zip(&counts) {
        let holds = scenario.holds(outcome);
        let sign = if holds { "*>" } else { ":>" };
        let text = format!(
            "{count:>columns$} {sign} {}   (shortest {})",
            outcome.describe(scenario),
            stats.shortest.len()
        );
        line(if holds { paint.paint(Tone::Strong, &text) } else { text });
    }
    let least = if exploration.is_saturated { "at least " } else { "" };
    let (positive, negative) = (judgement.positive, judgement.negative);
    line(format!("Positive: {least}{positive} Negative: {least}{negative}"));
    line(format!("Condition {}", scenario.condition));
    let unknown = if judgement.is_shown() { "Shown" } else { "Unknown" };
    let observation = judgement.observation.map_or(unknown, Verdict::word);
    line(format!("Observation {name} {observation} {} {}", judgement.positive, judgement.negative));
    for (kind, schedule) in &judgement.hazards {
        line(format!("Hazard {kind} first after {}", plural(schedule.len(), "step")));
    }
    if !judgement.costs.is_empty() {
        line(costs(answer).trim_end().to_owned());
    }
    for note in answer.notes {
        let what = if note.vacuous { "Vacuous" } else { "Note" };
        line(format!("{what} {file}:{}: {}", note.line, note.text));
    }
    if let Some(stop) = exploration.stopped_text() {
        line(paint.paint(Tone::Warn, &format!("Incomplete: {stop}")));
    }
    let mark = Mark::of(answer);
    let expected = verdict(scenario.expected);
    line(format!("Expected {expected} {}", paint.paint(mark.tone(), mark.word())));
    out
}

/// Numbers over all variants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files.
    pub tests: usize,
    /// Variants answered, or not.
    pub variants: usize,
    /// Of these, as expected.
    pub as_expected: usize,
    /// Of these, otherwise than expected.
    pub differ: usize,
    /// Of these, unknown because a limit was reached.
    pub unknown: usize,
    /// Of these, of which the first schedule was found that shows what is asked, as expected.
    pub shown: usize,
    /// Of these, that expect nothing.
    pub unjudged: usize,
    /// Of these, that could not be explored.
    pub failed: usize,
    /// Of all, a Never that rests on something that did not happen at all.
    pub vacuous: usize,
    /// States visited.
    pub states: u64,
}

impl Totals {
    /// Count one more variant.
    pub fn count(&mut self, mark: Mark, states: u64) {
        self.variants += 1;
        self.states = self.states.saturating_add(states);
        *match mark {
            Mark::AsExpected => &mut self.as_expected,
            Mark::Differs => &mut self.differ,
            Mark::Unknown => &mut self.unknown,
            Mark::Shown => &mut self.shown,
            Mark::Unjudged => &mut self.unjudged,
            Mark::Failed => &mut self.failed,
        } += 1;
    }

    /// Whether everything was as it should be.
    #[must_use]
    pub const fn good(&self) -> bool {
        self.differ + self.unknown + self.failed == 0
    }

    /// One line.
    #[must_use]
    pub fn summary(&self, paint: Paint) -> String {
        let mut out =
            format!("{}, {}: ", plural(self.tests, "test"), plural(self.variants, "variant"));
        let mut parts = Vec::new();
        for (count, what, tone) in [
            (self.differ, "otherwise than expected", Tone::Bad),
            (self.unknown, "unknown (a limit was reached)", Tone::Warn),
            (self.failed, "could not be explored", Tone::Bad),
            (self.as_expected, "as expected", Tone::Good),
            (self.shown, "shown to happen, as expected", Tone::Good),
            (self.unjudged, "without an expected result", Tone::Plain),
        ] {
            let all = count == self.variants && count > 1;
            if count > 0 {
                let count = if all { "all".to_owned() } else { count.to_string() };
                parts.push(paint.paint(tone, &format!("{count} {what}")));
            }
        }
        if parts.is_empty() {
            parts.push("nothing to check".to_owned());
        }
        out.push_str(&parts.join(", "));
        let _ = writeln!(out, "; {} states", compact(u128::from(self.states)));
        if self.vacuous > 0 {
            let _ = writeln!(
                out,
                "* {}: a Never that rests on a refused statement; `driftheap check -v NAME` says which",
                plural(self.vacuous, "variant")
            );
        }
        out
    }
}
