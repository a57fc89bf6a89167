//! A test's states as the page's script reads them.
//!
//! Every cell, arrow, step and text stands once in a table; everything else is positions in these
//! tables, so that some hundred states take some kilobytes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Shown;
use crate::litmus::ast::Verdict;
use crate::question::scenario::Scenario;
use crate::report::picture::{Graph, Picture};
use crate::report::svg::{self, Layout};

/// Values, each once, in the order in which they came.
#[derive(Debug)]
struct Pool<T> {
    known: BTreeMap<T, usize>,
}

impl<T: Ord> Pool<T> {
    const fn new() -> Self {
        Self { known: BTreeMap::new() }
    }

    fn put(&mut self, value: T) -> usize {
        let next = self.known.len();
        *self.known.entry(value).or_insert(next)
    }

    fn values(self) -> Vec<T> {
        let mut values: Vec<(usize, T)> =
            self.known.into_iter().map(|(value, at)| (at, value)).collect();
        values.sort_by_key(|(at, _)| *at);
        values.into_iter().map(|(_, value)| value).collect()
    }
}

/// A variant, as the script reads it.
#[derive(Debug, Serialize)]
pub(super) struct VariantData {
    name: String,
    #[serde(flatten)]
    states: StatesData,
    /// Whether the nodes are all states.
    complete: bool,
    /// Title and processes of the schedules to look at.
    ways: Vec<(String, Vec<u8>)>,
    /// Its answer.
    answer: &'static str,
    /// What is told of the first of them.
    story: String,
    /// What prevents its hazards, a line each.
    prevented: Vec<String>,
    /// What real memory said.
    real: String,
    /// What a real kernel said; none when it was not asked.
    kernel: Option<String>,
}

/// States and the steps between them, as the script reads them.
#[derive(Debug, Serialize)]
pub(super) struct StatesData {
    /// Titles of the lanes.
    lanes: Vec<String>,
    /// Lane, kind and name of each slot.
    slots: Vec<(usize, &'static str, String)>,
    /// Names of the frames.
    places: Vec<String>,
    layout: Layout,
    texts: Vec<String>,
    /// Owner, what it holds, class: all texts.
    cells: Vec<[usize; 3]>,
    /// Slot, place, whether stale, note (a text).
    arrows: Vec<[usize; 4]>,
    /// Cells, arrows, notes (texts), lines at hand.
    pictures: Vec<[Vec<usize>; 4]>,
    /// Process, line, statement, what it does (texts), hazards (text, slot or -1, place or -1).
    steps: Vec<StepData>,
    /// Picture, then step and node in turn (-1: left out of the page).
    nodes: Vec<Vec<i64>>,
    /// By node: how it ended (a text), and whether what is asked holds.
    ends: BTreeMap<usize, (usize, bool)>,
}

type StepData = (usize, u32, usize, usize, Vec<(usize, i64, i64)>);

fn number(at: Option<usize>) -> i64 {
    at.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)
}

/// The tables that a variant's states are put into.
struct Tables {
    texts: Pool<String>,
    cells: Pool<[usize; 3]>,
    arrows: Pool<[usize; 4]>,
    pictures: Pool<[Vec<usize>; 4]>,
    steps: Pool<StepData>,
}

impl Tables {
    fn picture(&mut self, picture: &Picture) -> usize {
        let mut cells = Vec::with_capacity(picture.cells.len());
        for cell in &picture.cells {
            let owner = self.texts.put(cell.owner.clone());
            let holds = self.texts.put(cell.holds.clone());
            let class = self.texts.put(svg::look_class(cell.look));
            cells.push(self.cells.put([owner, holds, class]));
        }
        let mut arrows = Vec::with_capacity(picture.arrows.len());
        for arrow in &picture.arrows {
            let note = self.texts.put(arrow.note.clone());
            arrows.push(self.arrows.put([arrow.slot, arrow.to, usize::from(arrow.stale), note]));
        }
        let notes = picture.notes.iter().map(|note| self.texts.put(note.clone())).collect();
        let hands =
            picture.hands.iter().map(|line| usize::try_from(*line).unwrap_or_default()).collect();
        self.pictures.put([cells, arrows, notes, hands])
    }
}

impl VariantData {
    pub(super) fn new(shown: &Shown<'_>) -> Self {
        Self {
            name: shown.scenario.variant.clone(),
            states: StatesData::new(shown.scenario, &shown.graph),
            complete: shown.graph.complete,
            ways: shown.ways.clone(),
            answer: shown.judgement.observation.map_or("unknown", Verdict::word),
            story: shown.story(),
            prevented: shown.prevention(),
            real: shown.memory(),
            kernel: shown.kernel(),
        }
    }
}

impl StatesData {
    pub(super) fn new(scenario: &Scenario, graph: &Graph) -> Self {
        let mut tables = Tables {
            texts: Pool::new(),
            cells: Pool::new(),
            arrows: Pool::new(),
            pictures: Pool::new(),
            steps: Pool::new(),
        };
        let mut nodes = Vec::with_capacity(graph.nodes.len());
        let mut ends = BTreeMap::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            let picture = tables.picture(&graph.stage.picture(scenario, &node.state));
            let mut row = vec![number(Some(picture))];
            for edge in &node.edges {
                let hazards = edge.hazards.iter().map(|sight| {
                    let kind = tables.texts.put(sight.kind.word().to_owned());
                    (kind, number(sight.slot), number(sight.place))
                });
                let hazards: Vec<_> = hazards.collect();
                let statement = tables.texts.put(edge.statement.clone());
                let what = tables.texts.put(edge.what.clone());
                let step = (edge.actor, edge.line, statement, what, hazards);
                row.push(number(Some(tables.steps.put(step))));
                row.push(number(edge.to));
            }
            if let Some((outcome, holds)) = &node.end {
                ends.insert(index, (tables.texts.put(outcome.clone()), *holds));
            }
            nodes.push(row);
        }
        let stage = &graph.stage;
        Self {
            lanes: stage.lanes.iter().map(|lane| lane.title.clone()).collect(),
            slots: stage.slots.iter().map(|s| (s.lane, s.kind, s.name.clone())).collect(),
            places: stage.places.iter().map(|place| place.name.clone()).collect(),
            layout: Layout::new(stage, scenario.bufs().len()),
            texts: tables.texts.values(),
            cells: tables.cells.values(),
            arrows: tables.arrows.values(),
            pictures: tables.pictures.values(),
            steps: tables.steps.values(),
            nodes,
            ends,
        }
    }
}
