//! A schedule as a trace for ui.perfetto.dev and chrome://tracing.
//!
//! A step takes a millisecond here, as the model has no time.
//!
//! | group | track | slice |
//! |---|---|---|
//! | steps | a process of the test | a step: its statement |
//! | memory | a page frame | as long as it is one owner's |
//! | addresses | an entry, a pin, an sg_table's page | as long as it holds one address; stale from where it is |
//!
//! A flow leads from the step that took an address to the one that made it stale, and on to the one
//! that went through it and did harm.

use serde_json::json;

use super::picture::{Arrow, Edge, Graph, Look, Picture};
use super::tracks::Tracks;
use crate::question::scenario::Scenario;

/// How long a step takes, and how much of that its slice shows.
const STEP_NS: u64 = 1_000_000;
const SLICE_NS: u64 = 900_000;

const STEPS: u32 = 1;
const MEMORY: u32 = 2;
const ADDRESSES: u32 = 3;

/// The tracks of a schedule.
#[must_use]
pub fn trace(scenario: &Scenario, schedule: &[u8]) -> Tracks {
    let graph = Graph::new(scenario, 0, &[schedule]);
    let nodes = graph.follow(schedule);
    let pictures: Vec<Picture> =
        nodes.iter().map(|node| graph.stage.picture(scenario, &graph.nodes[*node].state)).collect();
    let edges: Vec<&Edge> = nodes
        .iter()
        .zip(schedule)
        .filter_map(|(node, actor)| {
            graph.nodes[*node].edges.iter().find(|edge| edge.actor == usize::from(*actor))
        })
        .collect();
    let mut tracks = Tracks::default();
    let stage = &graph.stage;
    tracks.group(STEPS, "steps", stage.lanes.iter().map(|lane| lane.title.clone()));
    tracks.group(MEMORY, "memory", stage.places.iter().map(|place| place.name.clone()));
    let slots = stage.slots.iter().map(|slot| format!("{} {}", slot.kind, slot.name));
    tracks.group(ADDRESSES, "addresses", slots);
    for (at, edge) in edges.iter().enumerate() {
        let hazards: Vec<&str> = edge.hazards.iter().map(|sight| sight.kind.word()).collect();
        let args =
            json!({ "step": at + 1, "line": edge.line, "what": edge.what, "hazards": hazards });
        let bad = !hazards.is_empty();
        tracks.slice((STEPS, edge.actor), &edge.statement, span(at, at + 1), bad, args);
    }
    owners(&mut tracks, &pictures);
    addresses(&mut tracks, &graph, &pictures);
    flows(&mut tracks, &edges, &pictures);
    tracks
}

/// When a step begins.
fn begin(step: usize) -> u64 {
    u64::try_from(step).unwrap_or(0) * STEP_NS
}

/// From the beginning of one step to the beginning of another.
fn span(from: usize, to: usize) -> (u64, u64) {
    let last = to.max(from + 1) - from - 1;
    (begin(from), begin(last) + SLICE_NS)
}

/// Runs of equal values among the pictures, those without a value left out.
fn runs<T: PartialEq>(values: impl Iterator<Item = Option<T>>) -> Vec<(T, usize, usize)> {
    let mut runs: Vec<(T, usize, usize)> = Vec::new();
    for (at, value) in values.enumerate() {
        let Some(value) = value else { continue };
        match runs.last_mut() {
            Some((last, _, end)) if *last == value && *end == at => *end = at + 1,
            _ => runs.push((value, at, at + 1)),
        }
    }
    runs
}

fn owners(tracks: &mut Tracks, pictures: &[Picture]) {
    let places = pictures.first().map_or(0, |picture| picture.cells.len());
    for place in 0..places {
        let owner = |picture: &Picture| {
            let cell = &picture.cells[place];
            (cell.look != Look::Free).then(|| cell.owner.clone())
        };
        for (owner, from, to) in runs(pictures.iter().map(owner)) {
            tracks.slice((MEMORY, place), &owner, span(from, to), false, json!({}));
        }
    }
}

fn held(picture: &Picture, slot: usize) -> Option<&Arrow> {
    picture.arrows.iter().find(|arrow| arrow.slot == slot)
}

fn addresses(tracks: &mut Tracks, graph: &Graph, pictures: &[Picture]) {
    for slot in 0..graph.stage.slots.len() {
        let holds = |picture: &Picture| held(picture, slot).map(|arrow| (arrow.to, arrow.stale));
        for ((to, stale), from, end) in runs(pictures.iter().map(holds)) {
            let place = &graph.stage.places[to].name;
            let name = if stale { format!("stale: {place}") } else { place.clone() };
            let args = json!({ "stale": stale });
            tracks.slice((ADDRESSES, slot), &name, span(from, end), false, args);
        }
    }
}

/// From the step that took an address, by way of the one that made it stale, to the harm.
fn flows(tracks: &mut Tracks, edges: &[&Edge], pictures: &[Picture]) {
    for (at, edge) in edges.iter().enumerate() {
        for sight in &edge.hazards {
            let (Some(slot), Some(place)) = (sight.slot, sight.place) else { continue };
            // The address is held at the latest before the harm is done.
            let is = |index: &usize, stale: Option<bool>| {
                held(&pictures[*index], slot).is_some_and(|arrow| {
                    arrow.to == place && stale.is_none_or(|stale| arrow.stale == stale)
                })
            };
            let first = (0..=at).rev().take_while(|index| is(index, None)).last();
            let Some(first) = first.filter(|first| *first > 0) else { continue };
            let stale = (first..=at).find(|index| is(index, Some(true)));
            let through = stale.filter(|stale| *stale > first).map(|stale| stale - 1);
            let steps = [Some(first - 1), through, Some(at)].into_iter().flatten();
            let station = |step: usize| {
                edges.get(step).map(|edge| ((STEPS, edge.actor), begin(step) + SLICE_NS / 2))
            };
            let stations: Vec<_> = steps.filter_map(station).collect();
            tracks.flow(sight.kind.word(), &stations);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::litmus::rules::ModelRules;
    use crate::question::verdict::{Search, judge};
    use crate::suite;

    /// Every bundled schedule to a hazard is a trace, and harm through an address has its flow.
    #[test]
    fn a_flow_leads_from_the_pin_by_the_move_to_the_corruption() {
        let bundled = suite::find("ttm-direct-io").expect("a test");
        let test = crate::litmus::parse(bundled.file, bundled.text, &ModelRules).expect("a test");
        let scenario = Scenario::new(&test.variants[0], bundled.text).expect("a scenario");
        let judgement = judge(&scenario, &Search::default(), &mut |_| ()).expect("an answer");
        let way = judgement.shortest.as_deref().expect("a schedule");
        let trace: Value = serde_json::from_str(&trace(&scenario, way).json()).expect("JSON");
        let events = trace["traceEvents"].as_array().expect("events");
        let of = |phase: &str, group: u32| -> Vec<&Value> {
            events.iter().filter(|e| e["ph"] == phase && e["pid"] == group).collect()
        };
        assert_eq!(of("X", STEPS).len(), way.len(), "a slice a step");
        assert!(!of("X", MEMORY).is_empty() && !of("X", ADDRESSES).is_empty());
        let flow = |phase: &str| -> Vec<u64> {
            of(phase, STEPS).iter().map(|e| e["ts"].as_u64().expect("a time")).collect()
        };
        let (start, through, end) = (flow("s"), flow("t"), flow("f"));
        assert!(!end.is_empty() && start.len() == end.len(), "{start:?} {through:?} {end:?}");
        let step_of = |ts: u64| &of("X", STEPS)[usize::try_from(ts / 1000).expect("small")]["name"];
        assert_eq!(step_of(end[0]), "io: dma_write p[0] = 7");
        assert_eq!(step_of(start[0]), "gup p = v[0] write");
        assert!(through.iter().all(|at| *at > start[0] && *at < end[0]));
        // Slices of one track lie behind each other.
        for group in [STEPS, MEMORY, ADDRESSES] {
            let mut ends = std::collections::BTreeMap::new();
            for event in of("X", group) {
                let (ts, dur) =
                    (event["ts"].as_u64().expect("ts"), event["dur"].as_u64().expect("dur"));
                let before = ends.insert(event["tid"].as_u64(), ts + dur).unwrap_or(0);
                assert!(before <= ts, "{event}");
            }
        }
    }
}
