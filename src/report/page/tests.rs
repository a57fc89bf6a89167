//! The pages of the bundled tests: well formed, self-contained, small, and true to the model.

use serde_json::Value;

use super::{AnsweredVariant, Shown, article, document};
use crate::litmus::parse;
use crate::litmus::rules::ModelRules;
use crate::model::{Slot, State};
use crate::question::scenario::{Scenario, ScenarioState};
use crate::question::verdict::{Search, judge};
use crate::report::kernel::{Kernel, KernelDifference};
use crate::report::picture::Graph;
use crate::report::svg::{self, Titles};
use crate::suite;
use crate::units::{FrameId, MAX_PAGES};

/// What all pages of the suite may take.
const SUITE_BYTES_MAX: usize = 5_500_000;

/// A bundled test's scenarios, and its page.
fn page(bundled: &suite::Bundled) -> (Vec<Scenario>, String) {
    let test = parse(bundled.file, bundled.text, &ModelRules).expect("a bundled test");
    let scenarios: Vec<Scenario> =
        test.variants.iter().map(|v| Scenario::new(v, bundled.text).expect("a scenario")).collect();
    let judged: Vec<_> = scenarios
        .iter()
        .map(|scenario| judge(scenario, &Search::default(), &mut |_| ()).expect("an answer"))
        .collect();
    let shown: Vec<Shown<'_>> = scenarios
        .iter()
        .zip(&judged)
        .map(|(scenario, judgement)| {
            Shown::new(&AnsweredVariant { test: &test, scenario, judgement, notes: &[] }, None)
        })
        .collect();
    let part = article(&test, bundled.text, &shown);
    (scenarios, document(bundled.name, &[part], true))
}

/// A kernel that was asked is told of in the table and beside the drawing, and one that says
/// something else makes the test fail.
#[test]
fn what_a_kernel_said_is_shown() {
    let bundled = suite::find("ttm-map-private").expect("a bundled test");
    let test = parse(bundled.file, bundled.text, &ModelRules).expect("a bundled test");
    let scenario = Scenario::new(&test.variants[0], bundled.text).expect("a scenario");
    let judgement = judge(&scenario, &Search::default(), &mut |_| ()).expect("an answer");
    let answer =
        AnsweredVariant { test: &test, scenario: &scenario, judgement: &judgement, notes: &[] };
    let with = |kernel: Option<&Kernel>| {
        let shown = [Shown::new(&answer, None).with_kernel(kernel)];
        (article(&test, bundled.text, &shown), super::Entry::new(&test, &shown).good)
    };
    let (page, good) = with(None);
    assert!(good && !page.contains("<th scope=\"col\">kernel</th>"));
    let mut kernel = Kernel {
        release: "6.12.1".to_owned(),
        replayed: 3,
        agreed: 3,
        compared: 70,
        bug: Some("kernel BUG at mm/memory.c:1\nmore".to_owned()),
        ..Kernel::default()
    };
    let (page, good) = with(Some(&kernel));
    let said = "6.12.1: 3 of 3 schedules agreed, 70 observations compared; it hit the bug: kernel BUG at mm/memory.c:1";
    assert!(good && page.contains("<th scope=\"col\">kernel</th>"));
    assert_eq!(page.matches(said).count(), 2, "in the table, and in the data of the drawing");
    kernel.difference = Some(KernelDifference::default());
    let (page, good) = with(Some(&kernel));
    assert!(!good && page.contains("DIFFERS"));
}

fn data(page: &str) -> Value {
    let begin = "<script class=\"data\" type=\"application/json\">";
    let (_, rest) = page.split_once(begin).expect("data");
    let (text, _) = rest.split_once("</script>").expect("its end");
    serde_json::from_str(text).expect("JSON")
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().expect("a number")).expect("a small one")
}

/// The frames that anything holds the address of, sorted: straight from the model.
fn addresses(state: &State) -> Vec<FrameId> {
    let ptes = state.ptes.iter().map(|pte| pte.frame);
    let held = |slot: Slot| matches!(slot, Slot::Held | Slot::Taking | Slot::Invalid);
    let pins = state.pins.iter().filter(|pin| held(pin.slot)).map(|pin| pin.frame);
    let sgs = (0..state.sgs.len())
        .filter(|sg| held(state.sgs[*sg]))
        .flat_map(|sg| state.sg_frames[sg * MAX_PAGES..(sg + 1) * MAX_PAGES].iter().copied());
    let dmas = state.dmas.iter().filter(|dma| dma.busy).map(|dma| dma.frame);
    let mut all: Vec<FrameId> =
        ptes.chain(pins).chain(sgs).chain(dmas).filter(|frame| frame.is_some()).collect();
    all.sort_unstable();
    all
}

/// The picture of a node against the model's state.
fn compare(scenario: &Scenario, variant: &Value, node: usize, state: &ScenarioState, at: &str) {
    let (world, names) = (&scenario.world, &scenario.names);
    let text = |index: &Value| variant["texts"][number(index)].as_str().expect("a text");
    let picture = &variant["pictures"][number(&variant["nodes"][node][0])];
    let places: Vec<&str> =
        variant["places"].as_array().expect("places").iter().filter_map(Value::as_str).collect();
    let frame_of = |place: usize| {
        let named = |index: &usize| names.frame(world, FrameId::at(*index)) == places[place];
        FrameId::at((0..world.frames()).find(named).expect("a frame"))
    };
    for (place, cell) in picture[0].as_array().expect("cells").iter().enumerate() {
        let frame = &state.model.frames[frame_of(place).index()];
        let cell = &variant["cells"][number(cell)];
        let owner = names.owner(world, frame.owner);
        let shown = text(&cell[0]);
        // The picture's words are shorter: `old A[0]`, `new A[0]`, `shadow A[0]`, `anon`.
        let last = |text: &str| text.rsplit(' ').next().unwrap_or_default().to_owned();
        let alike = last(&owner) == last(shown) || (shown == "anon" && owner.starts_with("anon"));
        assert!(alike, "{at}: {} is {owner}, the page says {shown}", places[place]);
        let holds = text(&cell[1]);
        let value = format!("={}", frame.value);
        assert!(shown == "free" || holds.starts_with(&value), "{at}: {holds} is not {value}");
    }
    let mut ends: Vec<FrameId> = Vec::new();
    for arrow in picture[1].as_array().expect("arrows") {
        ends.push(frame_of(number(&variant["arrows"][number(arrow)][1])));
    }
    ends.sort_unstable();
    assert_eq!(ends, addresses(&state.model), "{at}: the ends of the arrows");
}

#[test]
fn every_step_of_every_bundled_page_is_the_models_and_hazards_are_pointed_at() {
    let (mut bytes, mut steps, mut hazards) = (0, 0, 0);
    for bundled in suite::TESTS {
        let (scenarios, page) = page(bundled);
        bytes += page.len();
        self_contained(bundled.name, &page);
        well_formed(bundled.name, &page);
        let data = data(&page);
        for (scenario, variant) in scenarios.iter().zip(data["variants"].as_array().expect("some"))
        {
            for way in variant["ways"].as_array().expect("ways") {
                let schedule: Vec<u8> = serde_json::from_value(way[1].clone()).expect("processes");
                let replay = scenario.replay(&schedule).expect("a schedule");
                let at = format!("{}/{}", scenario.test, scenario.variant);
                let mut node = 0;
                compare(scenario, variant, 0, &replay.before, &at);
                for (index, event) in replay.events.iter().enumerate() {
                    let row = variant["nodes"][node].as_array().expect("a node");
                    let step = |pair: &&[Value]| &variant["steps"][number(&pair[0])];
                    let mut choices = row[1..].chunks_exact(2);
                    let taken = choices.find(|pair| number(&step(pair)[0]) == event.actor);
                    let taken = taken.expect("the step of the schedule is a button");
                    let sights = step(&taken)[4].as_array().expect("hazards").len();
                    assert_eq!(sights, event.hazards().count(), "{at}: hazards of step {index}");
                    hazards += sights;
                    node = number(&taken[1]);
                    compare(scenario, variant, node, &event.after, &format!("{at} step {index}"));
                    steps += 1;
                }
            }
        }
    }
    assert!(steps > 1000 && hazards > 50, "{steps} steps, {hazards} hazards");
    assert!(bytes < SUITE_BYTES_MAX, "{bytes} bytes");
}

fn self_contained(name: &str, page: &str) {
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for fetching in ["=\"http", "=http", " src=", "@import", "url(", "fetch(", "XMLHttpRequest"] {
        assert!(!page.contains(fetching), "{name}: `{fetching}`");
    }
}

/// Every element that begins ends, in the order of nesting.
fn well_formed(name: &str, page: &str) {
    let void = ["meta", "link", "input", "br", "!doctype"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>').expect("an end of the tag");
        let tag = &rest[..end];
        let word: String =
            tag.chars().take_while(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
        rest = &rest[end + 1..];
        if let Some(closed) = word.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closed), "{name}");
        } else if !void.contains(&word.as_str()) {
            // Nothing in a script or a style is an element.
            if word == "script" || word == "style" {
                let close = format!("</{word}>");
                rest = rest.split_once(&close).expect("its end").1;
            } else {
                open.push(word);
            }
        }
    }
    assert!(open.is_empty(), "{name}: not closed: {open:?}");
}

#[test]
fn a_larger_test_says_that_its_page_holds_the_schedules_alone() {
    let bundled = suite::find("A5").expect("a test");
    let test = parse(bundled.file, bundled.text, &ModelRules).expect("a test");
    let scenario = Scenario::new(&test.variants[0], bundled.text).expect("a scenario");
    let judgement = judge(&scenario, &Search::default(), &mut |_| ()).expect("an answer");
    let way = judgement.shortest.as_deref().expect("a schedule");
    let part = Graph::new(&scenario, 5, &[way]);
    assert!(!part.complete);
    assert_eq!(part.follow(way).len(), way.len() + 1);
    assert_eq!(part.nodes.len(), way.len() + 1);
    let all = Graph::new(&scenario, 2000, &[]);
    assert!(all.complete && all.nodes.len() as u64 >= judgement.exploration.states);
    let stays = |node: &crate::report::picture::Node| {
        node.edges.iter().all(|edge| edge.to.is_some())
            && node.edges.is_empty() == node.end.is_some()
    };
    assert!(all.nodes.iter().all(stays));
}

/// The figure that README shows is what the tool makes; to renew it:
/// `driftheap explain ttm-direct-io --svg src/report/svg/ttm-direct-io.svg`.
#[test]
fn the_figure_in_the_tree_is_current() {
    let bundled = suite::find("ttm-direct-io").expect("a test");
    let test = parse(bundled.file, bundled.text, &ModelRules).expect("a test");
    let scenario = Scenario::new(&test.variants[0], bundled.text).expect("a scenario");
    let judgement = judge(&scenario, &Search::default(), &mut |_| ()).expect("an answer");
    let way = judgement.shortest.as_deref().expect("a schedule");
    let graph = Graph::new(&scenario, 0, &[way]);
    let tree = include_str!("../svg/ttm-direct-io.svg");
    let about = tree.split("<desc id=\"desc\">").nth(1).and_then(|rest| rest.split_once(" Step "));
    let about = about.expect("what it is about").0.to_owned();
    let name = "ttm-direct-io/free-before-completion".to_owned();
    let made = svg::strip(&scenario, &graph, way, bundled.text, &Titles { name, about });
    assert!(made == tree, "the figure in the tree is not what the tool makes now");
    well_formed("the figure", &made);
    assert!(made.contains("class=\"arrow stale red\"") && made.contains("cross-buffer-write"));
}
