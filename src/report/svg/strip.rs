//! The steps of a schedule that matter, side by side.

use maud::{Markup, html};

use super::{DIM, INK, Layout, RED, Scene, cut};
use crate::question::scenario::Scenario;
use crate::report::picture::{Edge, Graph, Look, Picture};

/// Panels at most: what a slide holds.
const PANELS_MAX: usize = 8;
const COLUMNS: usize = 4;
const MARGIN: usize = 24;
const HEAD: usize = 72;
/// Number, statement and what the step did, above a panel.
const CAPTION: usize = 66;
const CAPTION_CHARS: usize = 62;

/// What stands above the panels.
#[derive(Debug, Clone)]
pub struct Titles {
    /// `ttm-direct-io/free-before-completion`.
    pub name: String,
    /// The answer, or what the schedule is an example of.
    pub about: String,
}

struct Panel<'a> {
    step: usize,
    edge: &'a Edge,
    picture: Picture,
    worth: u32,
}

/// The figure of `schedule`, which `graph` holds; `source` is the text of the test.
#[must_use]
pub fn strip(
    scenario: &Scenario,
    graph: &Graph,
    schedule: &[u8],
    source: &str,
    titles: &Titles,
) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let path = graph.follow(schedule);
    let pictures: Vec<Picture> =
        path.iter().map(|&at| graph.stage.picture(scenario, &graph.nodes[at].state)).collect();
    let panels = panels(graph, &path, &pictures);
    let layout = Layout::new(&graph.stage, scenario.bufs().len());
    let columns = panels.len().clamp(1, COLUMNS);
    let rows = panels.len().div_ceil(columns);
    let (step_x, step_y) = (layout.width + MARGIN, CAPTION + layout.height + MARGIN);
    let width = MARGIN + columns * step_x;
    let height = HEAD + rows * step_y;
    let told: Vec<String> = panels.iter().map(describe).collect();
    let markup = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (width) " " (height) }
            width=(width) height=(height) role="img" aria-labelledby="title desc"
            font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" {
            title id="title" { (titles.name) }
            desc id="desc" { (titles.about) " " (told.join(" ")) }
            rect width=(width) height=(height) fill="#ffffff" {}
            text x=(MARGIN) y="32" font-size="20" font-weight="bold" fill=(INK) { (titles.name) }
            text x=(MARGIN) y="54" font-size="13" fill=(DIM) { (titles.about) }
            @for (index, panel) in panels.iter().enumerate() {
                @let (x, y) = (MARGIN + index % columns * step_x, HEAD + index / columns * step_y);
                g transform={ "translate(" (x) " " (y) ")" } {
                    (caption(panel))
                    g transform={ "translate(0 " (CAPTION) ")" } {
                        (Scene {
                            stage: &graph.stage,
                            layout: &layout,
                            picture: &panel.picture,
                            sights: &panel.edge.hazards,
                            source: &lines,
                            actor: Some(panel.edge.actor),
                        }.elements())
                    }
                }
            }
        }
    };
    format!("{}\n", markup.into_string())
}

/// The steps that change what is to be seen, at most [`PANELS_MAX`] of them: first of all those
/// that corrupt, then those that leave something stale, then those that give memory to somebody.
fn panels<'a>(graph: &'a Graph, path: &[usize], pictures: &[Picture]) -> Vec<Panel<'a>> {
    let mut panels: Vec<Panel<'_>> = Vec::new();
    for (index, pair) in path.windows(2).enumerate() {
        let edges = &graph.nodes[pair[0]].edges;
        let Some(edge) = edges.iter().find(|edge| edge.to == Some(pair[1])) else { continue };
        let (before, after) = (&pictures[index], &pictures[index + 1]);
        let worth = worth(before, after, edge);
        if worth > 0 {
            panels.push(Panel { step: index + 1, edge, picture: after.clone(), worth });
        }
    }
    while panels.len() > PANELS_MAX {
        let least = (0..panels.len()).min_by_key(|&index| (panels[index].worth, index));
        panels.remove(least.unwrap_or(0));
    }
    panels
}

fn worth(before: &Picture, after: &Picture, edge: &Edge) -> u32 {
    let stale = |picture: &Picture| picture.arrows.iter().filter(|arrow| arrow.stale).count();
    let ends = |picture: &Picture| -> Vec<(usize, usize)> {
        picture.arrows.iter().map(|arrow| (arrow.slot, arrow.to)).collect()
    };
    let owned =
        |picture: &Picture| -> Vec<Look> { picture.cells.iter().map(|cell| cell.look).collect() };
    if !edge.hazards.is_empty() {
        5
    } else if stale(after) > stale(before) {
        4
    } else if ends(before) != ends(after) {
        3
    } else if owned(before) != owned(after) {
        2
    } else {
        0
    }
}

fn describe(panel: &Panel<'_>) -> String {
    let hazards: Vec<&str> = panel.edge.hazards.iter().map(|sight| sight.kind.word()).collect();
    let hazard = if hazards.is_empty() {
        String::new()
    } else {
        format!(" Hazard: {}.", hazards.join(", "))
    };
    let edge = panel.edge;
    format!("Step {}: P{}, {}: {}.{hazard}", panel.step, edge.actor, edge.statement, edge.what)
}

fn caption(panel: &Panel<'_>) -> Markup {
    let Panel { step, edge, .. } = panel;
    let hazards: Vec<&str> = edge.hazards.iter().map(|sight| sight.kind.word()).collect();
    html! {
        text x="2" y="16" font-size="14" font-weight="bold" fill=(INK) {
            "step " (step) "  P" (edge.actor) "  " (cut(&edge.statement, 40))
        }
        text x="2" y="34" font-size="12" fill=(INK) { (cut(&edge.what, CAPTION_CHARS)) }
        @if !hazards.is_empty() {
            text x="2" y="54" font-size="15" font-weight="bold" fill=(RED) {
                "! " (hazards.join(", "))
            }
        }
    }
}
