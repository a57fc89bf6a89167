//! Rules by outcomes: for each variant of a test, which outcomes happen always, sometimes, never.
//!
//! More is looked at than the test's own condition names: every hazard, warnings, and how each
//! statement ended that has a name. A cell sums over all outcomes of a full exploration.

use std::collections::BTreeSet;

use maud::{PreEscaped, html};
use serde::Serialize;

use super::paint::{Paint, Tone};
use super::table::{Align, Cell, Column, Table};
use crate::explore::{Exploration, ExploreError, Explorer, Stop};
use crate::litmus::ast::{Test, Variant, Verdict};
use crate::litmus::cond::{AtomKind, Cond};
use crate::model::HazardKind;
use crate::question::scenario::{Content, LowerError, Outcome, Scenario, result_name};
use crate::question::verdict::Search;

/// Why there is no matrix.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// A variant can't be run.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A variant can't be explored.
    #[error(transparent)]
    Explore(#[from] ExploreError),
    /// A variant has too many states.
    #[error("variant {variant}: {stop}")]
    Stopped {
        /// Which.
        variant: String,
        /// Why the search ended.
        stop: Stop,
    },
}

/// The matrix of one test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matrix {
    test: String,
    /// Classes of outcomes: `cross-buffer-write`, `p=EFAULT`, `warning`.
    outcomes: Vec<String>,
    rows: Vec<Row>,
}

/// A variant of a matrix; variants that differ in their condition alone are one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    labels: Vec<String>,
    #[serde(serialize_with = "words")]
    cells: Vec<Verdict>,
}

fn words<S: serde::Serializer>(cells: &[Verdict], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(cells.iter().map(|verdict| verdict.word()))
}

/// A class of outcomes, in the order of the columns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Hazard(HazardKind),
    Warning,
    /// A register or a result, and what it is.
    Slot(String, Content),
    /// A page, and what it holds at the end.
    Content(String, Option<u8>),
}

impl Class {
    fn name(&self) -> String {
        match self {
            Self::Hazard(kind) => kind.to_string(),
            Self::Warning => "warning".to_owned(),
            Self::Slot(name, content) => format!("{name}={}", content.word()),
            Self::Content(name, Some(value)) => format!("{name}={value}"),
            Self::Content(name, None) => format!("{name}=gone"),
        }
    }
}

/// The classes that an outcome belongs to.
fn classes(scenario: &Scenario, outcome: &Outcome) -> BTreeSet<Class> {
    let mut classes: BTreeSet<Class> = outcome.hazard_kinds().map(Class::Hazard).collect();
    if outcome.warned {
        classes.insert(Class::Warning);
    }
    for (name, content) in scenario.slot_names().iter().zip(&outcome.slots) {
        if *content != Content::Empty {
            classes.insert(Class::Slot(name.clone(), *content));
        }
    }
    for (name, content) in scenario.looked_at().zip(&outcome.contents) {
        classes.insert(Class::Content(name.to_owned(), *content));
    }
    classes
}

impl Matrix {
    /// Explore every variant of `test`, which was read from `text`.
    ///
    /// # Errors
    /// [`MatrixError`] when a variant can't be run or has too many states.
    pub fn new(test: &Test, text: &str, search: &Search) -> Result<Self, MatrixError> {
        let groups = groups(test);
        let mut all = BTreeSet::new();
        let mut answers = Vec::new();
        for group in &groups {
            let Some(&variant) = group.first() else { continue };
            let mut observed = named_results(variant);
            for variant in group {
                registers(&variant.condition.body, &mut observed);
            }
            let (scenario, exploration) = explore(variant, text, &observed, search)?;
            let outcomes: Vec<BTreeSet<Class>> =
                exploration.outcomes.keys().map(|o| classes(&scenario, o)).collect();
            all.extend(outcomes.iter().flatten().cloned());
            answers.push(outcomes);
        }
        let verdict = |outcomes: &[BTreeSet<Class>], class: &Class| match outcomes
            .iter()
            .filter(|outcome| outcome.contains(class))
            .count()
        {
            0 => Verdict::Never,
            count if count == outcomes.len() => Verdict::Always,
            _ => Verdict::Sometimes,
        };
        // That something always ends well is not worth a column.
        let dull = |class: &Class| {
            matches!(class, Class::Slot(_, Content::Ok))
                && answers.iter().all(|outcomes| verdict(outcomes, class) == Verdict::Always)
        };
        let columns: Vec<Class> = all.into_iter().filter(|class| !dull(class)).collect();
        let labels = labels(&groups);
        let row = |(labels, outcomes): (Vec<String>, &Vec<BTreeSet<Class>>)| Row {
            labels,
            cells: columns.iter().map(|class| verdict(outcomes, class)).collect(),
        };
        Ok(Self {
            test: test.name.text.clone(),
            rows: labels.into_iter().zip(&answers).map(row).collect(),
            outcomes: columns.iter().map(Class::name).collect(),
        })
    }

    /// As text.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let depth = self.rows.first().map_or(0, |row| row.labels.len());
        let mut columns: Vec<Column> = (0..depth)
            .map(|at| {
                let title = if at == 0 { "variant" } else { "" };
                Column::new(title, Align::Left).fit(self.rows.iter().map(|r| r.labels[at].as_str()))
            })
            .collect();
        columns.extend(self.outcomes.iter().map(|name| Column::new(name, Align::Left).at_least(9)));
        let table = Table::new(columns, paint);
        let mut out = format!("{}\n", paint.paint(Tone::Strong, &self.test));
        out.push_str(&table.header());
        for row in &self.rows {
            let mut cells: Vec<Cell> = row.labels.iter().map(Cell::new).collect();
            for (name, verdict) in self.outcomes.iter().zip(&row.cells) {
                let bad = HazardKind::from_word(name).is_some();
                let tone = match verdict {
                    Verdict::Never => Tone::Dim,
                    Verdict::Always | Verdict::Sometimes if bad => Tone::Bad,
                    Verdict::Always | Verdict::Sometimes => Tone::Plain,
                };
                cells.push(Cell::toned(verdict.word(), tone));
            }
            out.push_str(&table.row(&cells));
        }
        if self.outcomes.is_empty() {
            out.push_str("(no hazard, and every named statement ends well)\n");
        }
        out
    }
}

/// A figure's measures: rows, and what a character takes at 13 px in a monospaced face.
const ROW: usize = 24;
const CHAR: usize = 8;

impl Matrix {
    /// As a table of Markdown, for a mail or a merge request.
    #[must_use]
    pub fn markdown(&self) -> String {
        let (titles, rows) = self.texts();
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> = titles.iter().map(|_| "---".to_owned()).collect();
        let mut out = format!("**{}**\n\n{}{}", self.test, line(&titles), line(&rule));
        rows.iter().for_each(|row| out.push_str(&line(row)));
        out
    }

    /// As a figure. What a colour says, the word in the cell says, too.
    #[must_use]
    pub fn svg(&self) -> String {
        let (titles, rows) = self.texts();
        let wide = |at: usize| {
            let cells = rows.iter().map(|row| &row[at]).chain([&titles[at]]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0) * CHAR + 16
        };
        let widths: Vec<usize> = (0..titles.len()).map(wide).collect();
        let left = |at: usize| 8 + widths[..at].iter().sum::<usize>();
        let labels = titles.len() - self.outcomes.len();
        let width = left(widths.len()) + 8;
        let height = (rows.len() + 2) * ROW + 16;
        let look = |at: usize, word: &str| {
            let bad = at >= labels && HazardKind::from_word(&titles[at]).is_some();
            match word {
                _ if at < labels => ("none", "#1c2330"),
                "Never" => ("#f7f8fa", "#5b6472"),
                _ if bad => ("#fbdcdf", "#9c1020"),
                _ => ("#cfe3ff", "#1c2330"),
            }
        };
        let markup = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (width) " " (height) }
                width=(width) height=(height) role="img" aria-label={ "Rules by outcomes: " (self.test) }
                font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13" {
                rect width=(width) height=(height) fill="#ffffff" {}
                text x="8" y="20" font-weight="bold" fill="#1c2330" { (self.test) }
                @for (at, title) in titles.iter().enumerate() {
                    text x=(left(at) + 8) y=(ROW + 20) font-weight="bold" fill="#1c2330" { (title) }
                }
                @for (index, row) in rows.iter().enumerate() {
                    @let y = (index + 2) * ROW;
                    @for (at, word) in row.iter().enumerate() {
                        @let (fill, ink) = look(at, word);
                        rect x=(left(at)) y=(y + 2) width=(widths[at] - 4) height=(ROW - 4) rx="3" fill=(fill) {}
                        text x=(left(at) + 8) y=(y + 18) fill=(ink) { (word) }
                    }
                }
            }
            (PreEscaped("\n"))
        };
        markup.into_string()
    }

    /// Titles and rows, all cells as text.
    fn texts(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let depth = self.rows.first().map_or(0, |row| row.labels.len());
        let label = |at: usize| String::from(if at == 0 { "variant" } else { "" });
        let titles = (0..depth).map(label).chain(self.outcomes.iter().cloned()).collect();
        let row = |row: &Row| {
            let words = row.cells.iter().map(|verdict| verdict.word().to_owned());
            row.labels.iter().cloned().chain(words).collect()
        };
        (titles, self.rows.iter().map(row).collect())
    }
}

/// Explore one variant, looking at `observed` too.
pub(super) fn explore(
    variant: &Variant,
    text: &str,
    observed: &BTreeSet<String>,
    search: &Search,
) -> Result<(Scenario, Exploration<Outcome>), MatrixError> {
    let observed: Vec<String> = observed.iter().cloned().collect();
    let scenario = Scenario::observing(variant, text, &observed)?;
    let explorer = Explorer::new(&scenario, search.limits, search.reduction, search.threads);
    let exploration = explorer.explore()?;
    match exploration.stopped {
        Some(stop) => Err(MatrixError::Stopped { variant: variant.name.clone(), stop }),
        None => Ok((scenario, exploration)),
    }
}

/// Variants that differ in nothing but their condition, together.
fn groups(test: &Test) -> Vec<Vec<&Variant>> {
    let mut groups: Vec<Vec<&Variant>> = Vec::new();
    for variant in &test.variants {
        let same = |other: &&Variant| {
            (&other.host, &other.exporters, &other.importers)
                == (&variant.host, &variant.exporters, &variant.importers)
                && (&other.memory, &other.buffers, &other.processes)
                    == (&variant.memory, &variant.buffers, &variant.processes)
        };
        match groups.iter_mut().find(|group| group.first().is_some_and(same)) {
            Some(group) => group.push(variant),
            None => groups.push(vec![variant]),
        }
    }
    groups
}

/// The labels of each group, without those that only tell conditions apart. Where a group has
/// several labels they are all named.
fn labels(groups: &[Vec<&Variant>]) -> Vec<Vec<String>> {
    let depth = groups.iter().flatten().map(|v| v.name.split('/').count()).min().unwrap_or(0);
    let segments = |group: &[&Variant], at: usize| {
        let mut segments: Vec<String> = Vec::new();
        for label in group.iter().filter_map(|variant| variant.name.split('/').nth(at)) {
            if !segments.iter().any(|known| known == label) {
                segments.push(label.to_owned());
            }
        }
        segments
    };
    let first: Vec<Vec<String>> =
        (0..depth).map(|at| groups.first().map_or(Vec::new(), |g| segments(g, at))).collect();
    let tells = |at: &usize| {
        let everywhere = groups.iter().all(|group| segments(group, *at) == first[*at]);
        !(everywhere && first[*at].len() > 1)
    };
    let kept: Vec<usize> = (0..depth).filter(tells).collect();
    let row =
        |group: &Vec<&Variant>| kept.iter().map(|at| segments(group, *at).join("|")).collect();
    groups.iter().map(row).collect()
}

/// The names of all results that have one in the file.
fn named_results(variant: &Variant) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for process in &variant.processes {
        for (index, statement) in process.statements.iter().enumerate() {
            let name = result_name(process.index, index, statement);
            if !name.contains('.') {
                names.insert(name);
            }
        }
    }
    names
}

/// The registers that a condition names.
fn registers(cond: &Cond, names: &mut BTreeSet<String>) {
    match cond {
        Cond::True | Cond::False => {}
        Cond::Not(inner) => registers(inner, names),
        Cond::And(all) | Cond::Or(all) => {
            for cond in all {
                registers(cond, names);
            }
        }
        Cond::Atom(atom) => {
            if let AtomKind::Register { process, register, .. } = &atom.kind {
                names.insert(format!("P{process}:{}", register.text));
            }
        }
    }
}
