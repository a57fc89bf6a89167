//! Tests as pages that stand alone: to look at, and to step through by hand.
//!
//! A page holds its style, its script and its data; it fetches nothing. Without a script (and on
//! paper) it shows the question, the answers, the strip of the steps that matter and the story.
//! With one, the same drawing can be stepped, and at each state every next step is a button.
//!
//! # Limits
//! A page holds all states of a variant up to [`STATES_MAX`]; of a larger one it holds those of the
//! schedules it shows, and says so. `driftheap play` then tells each further state as somebody goes
//! to it ([`along`]).

mod axes;
mod data;
mod drawing;
#[cfg(test)]
mod tests;

pub use drawing::Drawing;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::kernel::Kernel;
use super::picture::Graph;
use super::real::Real;
use super::story::{Prevented, Splat, Story};
use super::svg::{self, Titles};
use super::verdicts::Mark;
use super::{AnsweredVariant, Paint, compact, plural};
use crate::litmus::ast::{Test, Verdict};
use crate::question::scenario::Scenario;
use crate::question::verdict::Judgement;

/// States of a variant that a page holds.
pub const STATES_MAX: usize = 2000;

/// How a page looks.
pub const STYLE: &str = include_str!("page.css");
/// What draws and steps.
pub const SCRIPT: &str = include_str!("page.js");

/// A variant that a page shows.
#[derive(Debug)]
pub struct Shown<'a> {
    scenario: &'a Scenario,
    judgement: &'a Judgement,
    mark: Mark,
    real: Option<&'a Real>,
    kernel: Option<&'a Kernel>,
    graph: Graph,
    /// Title and processes of each schedule; the first is what the test asks for, if there is one.
    ways: Vec<(String, Vec<u8>)>,
    /// Whether the first schedule shows what the test asks.
    telling: bool,
    /// The hazards of the first schedule, told.
    splats: Vec<Splat>,
}

impl<'a> Shown<'a> {
    /// A variant with its answer, and what real memory said if it was asked.
    #[must_use]
    pub fn new(answer: &AnsweredVariant<'a>, real: Option<&'a Real>) -> Self {
        Self::within(answer, real, STATES_MAX)
    }

    /// The same with all states up to `states_max`; of more those of the schedules alone.
    #[must_use]
    pub fn within(answer: &AnsweredVariant<'a>, real: Option<&'a Real>, states_max: usize) -> Self {
        let AnsweredVariant { test, scenario, judgement, notes: _ } = *answer;
        let telling = judgement.shortest.is_some();
        let ways = ways(judgement);
        let paths: Vec<&[u8]> = ways.iter().map(|(_, way)| way.as_slice()).collect();
        let graph = Graph::new(scenario, states_max, &paths);
        let variant = test.variants.iter().find(|variant| variant.name == scenario.variant);
        let splats = match (variant, ways.first()) {
            (Some(variant), Some((title, way))) => scenario.replay(way).map_or_else(
                |_| Vec::new(),
                |replay| Story::new(test, variant, scenario, &replay, title.clone()).splats,
            ),
            _ => Vec::new(),
        };
        let mark = Mark::of(answer);
        Self { scenario, judgement, mark, real, kernel: None, graph, ways, telling, splats }
    }

    /// The same with what a real kernel said.
    #[must_use]
    pub fn with_kernel(self, kernel: Option<&'a Kernel>) -> Self {
        Self { kernel, ..self }
    }

    /// Whether there is a hazard to prevent.
    #[must_use]
    pub fn has_hazard(&self) -> bool {
        !self.splats.is_empty()
    }

    /// Says which single changes of a rule prevent the hazards.
    pub fn prevented_by(&mut self, prevented: &[Prevented]) {
        for splat in &mut self.splats {
            splat.prevented_by = Some(prevented.to_vec());
        }
    }

    /// What is told of the first schedule.
    fn story(&self) -> String {
        let text = |splat: &Splat| splat.render(Paint::default());
        self.splats.iter().map(text).collect::<Vec<_>>().join("\n")
    }

    /// What prevents its hazards, a line each; none when nobody has looked.
    fn prevention(&self) -> Vec<String> {
        let prevented = self.splats.iter().find_map(|splat| splat.prevented_by.as_ref());
        prevented.map_or_else(Vec::new, |list| {
            if list.is_empty() {
                return vec![
                    "No change of a single rule: a hazard stays possible with each.".to_owned(),
                ];
            }
            list.iter().map(Prevented::sentence).collect()
        })
    }

    /// Whether the answer is not as expected, or real memory's or the kernel's is another.
    fn fails(&self) -> bool {
        self.mark.fails()
            || self.real.is_some_and(|real| real.difference.is_some())
            || self.kernel.is_some_and(|kernel| kernel.difference.is_some())
    }

    /// What a real kernel said, in a line; none when it was not asked.
    fn kernel(&self) -> Option<String> {
        let kernel = self.kernel?;
        if let Some(why) = &kernel.skipped {
            return Some(format!("SKIP: {why}"));
        }
        let mut text = format!(
            "{}: {} of {} agreed, {} compared",
            kernel.release,
            kernel.agreed,
            plural(kernel.replayed, "schedule"),
            plural(kernel.compared, "observation")
        );
        if let Some(bug) = &kernel.bug {
            text.push_str(&format!("; it hit the bug: {}", bug.lines().next().unwrap_or_default()));
        }
        if let Some(difference) = &kernel.difference {
            text.push_str(&format!("; DIFFERS: {}", difference.text()));
        }
        Some(text)
    }

    /// What real memory said, in a line.
    fn memory(&self) -> String {
        let Some(real) = self.real else { return "not asked".to_owned() };
        if let Some(why) = &real.skipped {
            return format!("SKIP: {why}");
        }
        let mut text = format!(
            "{} of {} schedules agreed, {} observations compared",
            real.agreed, real.replayed, real.compared
        );
        if real.corrupted > 0 {
            text.push_str(&format!(
                ", {} corrupted pages read back by another process",
                real.corrupted
            ));
        }
        if let Some(difference) = &real.difference {
            text.push_str(&format!("; DIFFERS: {difference}"));
        }
        text
    }
}

/// The schedules to look at, each with a title: to what is asked, and to each hazard.
#[must_use]
pub fn ways(judgement: &Judgement) -> Vec<(String, Vec<u8>)> {
    let mut ways = Vec::new();
    if let Some(way) = &judgement.shortest {
        ways.push((format!("the shortest to what is asked, {} steps", way.len()), way.clone()));
    } else {
        let any = judgement.exploration.outcomes.values().min_by_key(|stats| stats.shortest.len());
        if let Some(stats) = any {
            let way = stats.shortest.clone();
            ways.push((format!("one of {} steps that does not show it", way.len()), way));
        }
    }
    for (kind, way) in &judgement.hazards {
        if judgement.shortest.as_ref() != Some(way) {
            ways.push((format!("the shortest to {kind}, {} steps", way.len()), way.clone()));
        }
    }
    ways
}

/// A test as a part of a page, with everything that it needs.
#[must_use]
pub fn article(test: &Test, source: &str, variants: &[Shown<'_>]) -> String {
    let first = variants.iter().position(|shown| shown.telling).unwrap_or(0);
    let name = test.name.as_str();
    let markup = html! {
        article id=(name) {
            h2 { (name) @if let Some(row) = &test.row { " " span.row { (row) } } }
            p.question { (test.question) }
            @for from in &test.sources { p.source { "Source: " (from) } }
            @if let Some(shown) = variants.first() {
                p.asked { "Asked: " code { (shown.scenario.condition.to_string()) } }
            }
            (verdicts(variants))
            @if let Some(shown) = variants.get(first) {
                (player(test, source, variants, first))
                (figure(test, source, shown))
            }
        }
    };
    markup.into_string()
}

/// The answers and the drawing alone, for a page that has the question already; the variant `first`
/// is shown.
#[must_use]
pub fn live(test: &Test, source: &str, variants: &[Shown<'_>], first: usize) -> String {
    let markup = html! {
        @if let Some(shown) = variants.first() {
            p.asked { "Asked: " code { (shown.scenario.condition.to_string()) } }
            (verdicts(variants))
            (player(test, source, variants, first))
        }
    };
    markup.into_string()
}

/// The states of one schedule with every step from each of them, as JSON: what a page whose variant
/// has more states than it holds is told when somebody steps on.
#[must_use]
pub fn along(scenario: &Scenario, schedule: &[u8]) -> serde_json::Value {
    let graph = Graph::new(scenario, 0, &[schedule]);
    serde_json::json!(data::StatesData::new(scenario, &graph))
}

fn verdicts(variants: &[Shown<'_>]) -> Markup {
    let asked_kernel = variants.iter().any(|shown| shown.kernel.is_some());
    let caption = if asked_kernel {
        "The answer to each variant: the model's, and what real memory and a real kernel said"
    } else {
        "The answer to each variant: the model's, and what real memory said"
    };
    html! {
        div.scroll tabindex="0" role="region" aria-label="The answers" {
            table {
                caption { (caption) }
                thead { tr {
                    th scope="col" { "variant" } th scope="col" { "expected" }
                    th scope="col" { "observed" } th scope="col" { "result" }
                    th scope="col" { "schedules" } th scope="col" { "states" }
                    th scope="col" { "hazards" } th scope="col" { "real memory" }
                    @if asked_kernel { th scope="col" { "kernel" } }
                } }
                tbody {
                    @for shown in variants {
                        @let Shown { scenario, judgement, mark, .. } = shown;
                        @let word = |verdict: Option<Verdict>| verdict.map_or("-", Verdict::word);
                        @let hazards: Vec<&str> = judgement.hazards.keys().map(|k| k.word()).collect();
                        tr {
                            th scope="row" { (scenario.variant) }
                            td { (word(scenario.expected)) }
                            td { (judgement.observation.map_or("unknown", Verdict::word)) }
                            td class=(if mark.fails() { "bad" } else { "good" }) { (mark.word()) }
                            td.number { (compact(judgement.exploration.schedules)) }
                            td.number { (judgement.exploration.states) }
                            td.long { (if hazards.is_empty() { "-".to_owned() } else { hazards.join(", ") }) }
                            td.long { (shown.memory()) }
                            @if asked_kernel { td.long { (shown.kernel().unwrap_or_default()) } }
                        }
                    }
                }
            }
        }
    }
}

/// What the script fills; without a script it is not shown.
fn player(test: &Test, source: &str, variants: &[Shown<'_>], first: usize) -> Markup {
    let data: Vec<data::VariantData> = variants.iter().map(data::VariantData::new).collect();
    let lines: Vec<&str> = source.lines().collect();
    let data = serde_json::json!({ "first": first, "source": lines, "variants": data });
    // In a script element a text ends at `</`, wherever it stands.
    let data = data.to_string().replace('<', "\\u003c");
    html! {
        section.player hidden aria-label={ "Step through " (test.name.as_str()) } {
            div.choose {
                @let axes = axes::axes(test);
                @let title = match axes.as_slice() {
                    [axis] => format!("Variant ({}) ", axis.title),
                    _ => "Variant ".to_owned(),
                };
                label { (title) select.variant {
                    @for (index, shown) in variants.iter().enumerate() {
                        option value=(index) selected[index == first] { (shown.scenario.variant) }
                    }
                } }
                label { "Schedule " select.way {} }
            }
            @let axes = axes::axes(test);
            @if axes.len() > 1 {
                div.choose role="group" aria-label="Rules to flip" {
                    @for axis in &axes {
                        label { (axis.title) " " select.axis {
                            @for label in &axis.labels { option value=(label) { (label) } }
                        } }
                    }
                }
            }
            p.verdict role="status" aria-live="polite" {}
            div.controls role="group" aria-label="Steps" {
                button.start type="button" title="to the start (Home)" { "start" }
                button.back type="button" title="a step back (Left)" { "back" }
                button.play type="button" title="play or stop (Space)" { "play" }
                button.forward type="button" title="a step forward (Right)" { "forward" }
                button.hazard type="button" title="to the hazard (H)" { "hazard" }
                input.scrub type="range" min="0" value="0" aria-label="Step of the schedule";
            }
            p.said role="status" aria-live="polite" {}
            div.stage {
                div.drawing tabindex="0" role="group" aria-label="The drawing; arrow keys step" {}
                div.beside {
                    div.next role="group" aria-label="Next steps" {}
                    div.text tabindex="0" role="region" aria-label="The test" {}
                }
            }
            details { summary { "The picture in words" } div.words {} }
            p.memory {}
            details.prevented open { summary { "What would prevent it" } ul {} }
            details.told { summary { "What went wrong" } pre tabindex="0" {} }
            script.data type="application/json" { (PreEscaped(data)) }
        }
    }
}

/// The strip and the story: what paper and a reader without a script get.
fn figure(test: &Test, source: &str, shown: &Shown<'_>) -> Markup {
    let Some((title, way)) = shown.ways.first() else { return html! {} };
    let name = super::full_name(test.name.as_str(), &shown.scenario.variant);
    let titles = Titles { name: name.clone(), about: format!("Shown: {title}.") };
    let strip = svg::strip(shown.scenario, &shown.graph, way, source, &titles);
    let strip = in_a_page(&strip, &name);
    html! {
        details.strip open {
            summary { "The steps that matter: " (name) }
            div.scroll tabindex="0" role="region" aria-label="The steps that matter" { (PreEscaped(strip)) }
            @let story = shown.story();
            @if !story.is_empty() { pre.paper { (story) } }
        }
    }
}

/// A figure for a page that has many, without what the page's style says of it anyway.
fn in_a_page(figure: &str, name: &str) -> String {
    const STYLED: [&str; 7] = [
        " fill=\"#667085\"",
        " fill=\"#1c2330\"",
        " fill=\"#f7f8fa\"",
        " stroke=\"#1c2330\"",
        " stroke=\"#98a2b3\"",
        " stroke-width=\"1\"",
        " stroke-dasharray=\"none\"",
    ];
    // Ids are for a figure on its own.
    let mut text = figure
        .replace("aria-labelledby=\"title desc\"", &format!("aria-label=\"{name}\""))
        .replace("<title id=\"title\">", "<title>")
        .replace("<desc id=\"desc\">", "<desc>");
    for styled in STYLED {
        text = text.replace(styled, "");
    }
    text
}

/// A whole page around `articles`.
#[must_use]
pub fn document(title: &str, articles: &[String], back: bool) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            (head(title))
            body {
                header {
                    @if back { p { a href="index.html" { "All tests" } } }
                    h1 { (title) }
                    p.hint {
                        "Each box on the left is somebody who takes steps; on the right is memory, a cell a page frame. \
                         An arrow is an address that is held. A dashed arrow is stale: what it is meant for is no longer \
                         there. A cell with ! was reached by mistake."
                    }
                }
                main { @for article in articles { (PreEscaped(article)) } }
                script { (PreEscaped(lean(SCRIPT))) }
            }
        }
    };
    markup.into_string()
}

fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            link rel="icon" href="data:,";
            title { (title) " - driftheap" }
            style { (PreEscaped(lean(STYLE))) }
        }
    }
}

/// A script or a style without its indentation and the lines that are a comment: every page holds it.
fn lean(text: &str) -> String {
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A line of the list of tests.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The test's name, also that of its page.
    pub name: String,
    /// Its row.
    pub row: String,
    /// What it asks.
    pub question: String,
    /// Observations of its variants, in order.
    pub answers: Vec<String>,
    /// Whether all are as expected.
    pub good: bool,
}

impl Entry {
    /// Of a test and its variants.
    #[must_use]
    pub fn new(test: &Test, variants: &[Shown<'_>]) -> Self {
        let answer = |shown: &Shown<'_>| {
            let observed = shown.judgement.observation.map_or("unknown", Verdict::word);
            format!("{} {observed}", shown.scenario.variant)
        };
        Self {
            name: test.name.text.clone(),
            row: test.row.clone().unwrap_or_default(),
            question: test.question.clone(),
            answers: variants.iter().map(answer).collect(),
            good: !variants.iter().any(Shown::fails),
        }
    }
}

/// The list of tests. Their pages are beside it, or they are further down in the same page.
#[must_use]
pub fn index(entries: &[Entry], beside: bool) -> String {
    let list = html! {
        nav aria-label="Tests" {
            ul.tests {
                @for entry in entries {
                    @let name = &entry.name;
                    li {
                        span.row { (entry.row) } " "
                        a href=(if beside { file_name(name) } else { format!("#{name}") }) { (name) }
                        " " span class=(if entry.good { "good" } else { "bad" }) {
                            (if entry.good { "as expected" } else { "NOT as expected" })
                        }
                        p { (entry.question) }
                        p.answers { (entry.answers.join(", ")) }
                    }
                }
            }
        }
    };
    list.into_string()
}

/// The name of the file of a test's page in a directory.
#[must_use]
pub fn file_name(name: &str) -> String {
    format!("{name}.html")
}
