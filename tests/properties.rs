//! Properties of the model on random worlds, random litmus tests and random schedules.
//!
//! The seeds are fixed, so that every run draws the same cases.

#[path = "common/lab.rs"]
mod lab;
#[path = "common/random_litmus.rs"]
mod random_litmus;
#[path = "common/random_steps.rs"]
mod random_steps;

use std::collections::{BTreeSet, VecDeque};

use driftheap::explore::{Machine, actors_in};
use driftheap::model::{self, Bus, Details, Huge, MmapKind, Objects, State, Touched, World};
use driftheap::question::scenario::{Scenario, ScenarioState};
use driftheap::units::{BufId, FrameId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use random_litmus::{Choices, Shape};

/// Runs `property` on so many lists of choices.
fn check(
    cases: u32,
    length: usize,
    property: impl Fn(&mut Choices<'_>) -> Result<(), TestCaseError>,
) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, random);
    let lists = vec(any::<u16>(), length / 2..length);
    let result = runner.run(&lists, |choices| property(&mut Choices::new(&choices)));
    if let Err(TestError::Fail(reason, _) | TestError::Abort(reason)) = result {
        panic!("{reason}");
    }
}

/// Runs `property` on every state along one random schedule of each of so many random tests, with
/// the actors that can go.
fn check_tests(
    cases: u32,
    property: impl Fn(&Scenario, &ScenarioState, &[u8]) -> Result<(), TestCaseError>,
) {
    check(cases, 400, |choices| {
        let broken = *choices.of(&[2, 3, 6, 12, 1000]);
        let text = random_litmus::text(choices, Shape { broken, statements: 5 });
        let scenario = lab::variant(&text, "-");
        walk(&scenario, choices, |state, enabled| property(&scenario, state, enabled))
            .map_err(|error| TestCaseError::fail(format!("{error}\nin\n{text}")))
    });
}

/// Takes a random schedule; `visit` sees every state with the actors that can go.
fn walk(
    scenario: &Scenario,
    choices: &mut Choices<'_>,
    mut visit: impl FnMut(&ScenarioState, &[u8]) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut state = scenario.initial();
    let mut schedule = Vec::new();
    for _ in 0..400 {
        let enabled: Vec<u8> = actors_in(scenario.enabled(&state)).collect();
        let located = |error| TestCaseError::fail(format!("{error}\nafter {schedule:?}"));
        visit(&state, &enabled).map_err(located)?;
        if enabled.is_empty() {
            return Ok(());
        }
        let actor = *choices.of(&enabled);
        schedule.push(actor);
        scenario.apply(&mut state, actor);
    }
    Err(TestCaseError::fail(format!("the schedule does not end: {schedule:?}\n{state:?}")))
}

fn encoded(scenario: &Scenario, state: &ScenarioState) -> Vec<u8> {
    let mut bytes = Vec::new();
    scenario.encode(state, &mut bytes, &mut Vec::new());
    bytes
}

fn after(scenario: &Scenario, state: &ScenarioState, actor: u8) -> ScenarioState {
    let mut next = state.clone();
    scenario.apply(&mut next, actor);
    next
}

#[test]
fn no_sequence_of_steps_panics() {
    // Steps that are not ready are taken where the model does not assert that they are.
    let takes_all = !cfg!(debug_assertions);
    check(2000, 1500, |choices| {
        let world = random_steps::world(choices);
        let mut state = State::new(&world);
        for _ in 0..120 {
            let (actor, step) = random_steps::step(choices, &world);
            if model::ready(&world, &state, actor, &step) || takes_all {
                model::step(&world, &mut state, actor, &step, &mut Vec::new());
            }
        }
        model::encode(&world, &state, &mut Vec::new(), &mut Vec::new());
        Ok(())
    });
}

/// What was freed before it was copied from is lost, also to an exporter whose copy comes late.
#[test]
fn a_frame_that_is_freed_before_the_late_copy_is_a_lost_write() {
    let text = "DMABUF late-and-freed
exporter e { move = [reserve rebind free copy] }
buffer A { exporter = e; fill = 1 }
P0 exporter e { move A -> system }
exists (hazard lost-write)
";
    let scenario = lab::variant(text, "-");
    let found = lab::explore(&scenario);
    assert!(found.outcomes.keys().all(|outcome| scenario.holds(outcome)), "{:?}", found.outcomes);
}

#[test]
fn without_a_hazard_the_ghost_equals_memory() {
    check_tests(4000, |scenario, state, _| {
        let fine = state.model.hazards != 0 || state.model.ghost_matches_memory(&scenario.world);
        prop_assert!(fine, "{:?}", state.model);
        Ok(())
    });
}

/// The bytes of a state, by part.
fn parts(scenario: &Scenario, state: &ScenarioState) -> Vec<Vec<u8>> {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    scenario.encode(state, &mut bytes, &mut ends);
    ends.push(bytes.len());
    cut(&bytes, &ends)
}

fn cut(bytes: &[u8], ends: &[usize]) -> Vec<Vec<u8>> {
    let starts = std::iter::once(&0).chain(ends);
    starts.zip(ends).map(|(start, end)| bytes[*start..*end].to_vec()).collect()
}

/// A search leaves alone what an action leaves alone: it must come to the same as doing all anew.
#[test]
fn what_is_told_by_differences_is_the_state() {
    check_tests(1000, |scenario, state, enabled| {
        let before = parts(scenario, state);
        let mut base = scenario.initial();
        scenario.refresh(&before, u16::MAX, &mut base);
        let mut next = base.clone();
        for &actor in enabled {
            scenario.restore(&mut base, &mut next);
            prop_assert_eq!(&next, &base);
            prop_assert_eq!(&parts(scenario, &next), &before);
            scenario.apply(&mut next, actor);
            if actor % 2 == 1 {
                scenario.forget(&mut next);
            }
            let (mut bytes, mut ends) = (Vec::new(), Vec::new());
            let same = scenario.encode_after(&next, &before, &mut bytes, &mut ends);
            let mut written = cut(&bytes, &ends).into_iter();
            let is_same = |part: usize| same >> part & 1 != 0;
            let told: Vec<_> = (0..before.len())
                .map(|part| if is_same(part) { before.get(part).cloned() } else { written.next() })
                .collect::<Option<_>>()
                .unwrap_or_default();
            let anew = parts(scenario, &next);
            prop_assert_eq!(&told, &anew);
            for (part, (old, new)) in before.iter().zip(&anew).enumerate() {
                prop_assert_eq!(is_same(part), old == new, "part {}", part);
            }
            for now in [&anew, &before] {
                scenario.refresh(now, !same, &mut base);
                scenario.restore(&mut base, &mut next);
                prop_assert_eq!(&parts(scenario, &next), now);
            }
        }
        Ok(())
    });
}

#[test]
fn a_tlb_holds_what_the_page_table_says_but_while_a_munmap_is_under_way() {
    check_tests(4000, |scenario, state, _| {
        prop_assert!(state.model.tlbs_match(&scenario.world), "{:?}", state.model);
        Ok(())
    });
}

#[test]
fn a_decoded_state_is_the_state() {
    check_tests(1000, |scenario, state, enabled| {
        let bytes = encoded(scenario, state);
        let mut decoded = scenario.initial();
        scenario.decode(&bytes, &mut decoded);
        prop_assert_eq!(&encoded(scenario, &decoded), &bytes);
        prop_assert_eq!(scenario.enabled(&decoded), scenario.enabled(state));
        prop_assert_eq!(scenario.unfinished(&decoded), scenario.unfinished(state));
        prop_assert_eq!(scenario.classify(&decoded), scenario.classify(state));
        for &actor in enabled {
            let one = encoded(scenario, &after(scenario, state, actor));
            let other = encoded(scenario, &after(scenario, &decoded, actor));
            prop_assert_eq!(one, other, "P{} from {:?}", actor, state.model);
        }
        Ok(())
    });
}

/// The same state with the frames of each placement renamed.
fn renamed(world: &World, state: &State, choices: &mut Choices<'_>) -> State {
    let mut names: Vec<usize> = (0..world.frames()).collect();
    for at in 0..names.len() {
        let other = choices.below(names.len());
        let [one, two] = [at, other].map(FrameId::at);
        let ordinary = one != world.zero_page() && two != world.zero_page();
        if ordinary && world.placement(one) == world.placement(two) {
            names.swap(at, other);
        }
    }
    let rename = |frame: &mut FrameId| {
        if frame.is_some() {
            *frame = FrameId::at(names[frame.index()]);
        }
    };
    let mut out = state.clone();
    for (at, frame) in state.frames.iter().enumerate() {
        out.frames[names[at]] = *frame;
    }
    for page in &mut out.pages {
        [&mut page.frame, &mut page.next, &mut page.old, &mut page.shadow]
            .into_iter()
            .for_each(rename);
    }
    out.ptes.iter_mut().for_each(|pte| rename(&mut pte.frame));
    out.pins.iter_mut().for_each(|pin| rename(&mut pin.frame));
    out.sg_frames.iter_mut().for_each(rename);
    out.tlb.iter_mut().for_each(rename);
    out.dmas.iter_mut().for_each(|dma| rename(&mut dma.frame));
    out.translations.iter_mut().for_each(|entry| rename(&mut entry.frame));
    out
}

#[test]
fn frames_have_no_names() {
    check_tests(1000, |scenario, state, _| {
        // Where neighbours matter, frames are what they are.
        let world = &scenario.world;
        let mut bufs = (0..world.bufs()).map(BufId::at);
        let huge = bufs.any(|buf| {
            let rules = world.exporter_of(buf);
            rules.huge != Huge::None || rules.mmap == MmapKind::RemapPfnRange
        });
        if huge || world.host.bus == Bus::Offset {
            return Ok(());
        }
        let mut other = state.clone();
        let mut names = Choices::new(&[7, 1, 0, 5, 3, 2, 6, 4, 9, 1, 4]);
        other.model = renamed(&scenario.world, &state.model, &mut names);
        let bytes = encoded(scenario, state);
        prop_assert_eq!(bytes, encoded(scenario, &other), "{:?}", state.model);
        Ok(())
    });
}

/// Two actors whose next actions share nothing go in either order, with the same result: nothing in
/// any state, or nothing in this one.
fn independent_actors_commute(
    scenario: &Scenario,
    state: &ScenarioState,
    enabled: &[u8],
) -> Result<(), TestCaseError> {
    for &one in enabled {
        for &two in enabled.iter().filter(|two| **two > one) {
            let footprint = |actor| scenario.next_footprint(state, actor);
            let never = !footprint(one).conflicts(footprint(two));
            let here = scenario.commuting(state, 1 << one | 1 << two)[usize::from(two)] != 0;
            prop_assert!(here || !never, "P{one} and P{two} in {}", lab::title(scenario));
            if !here {
                continue;
            }
            let what = format!("P{one} and P{two} in {}\nfrom {state:?}", lab::title(scenario));
            let (first, second) = (after(scenario, state, one), after(scenario, state, two));
            prop_assert!(scenario.enabled(&first) & (1 << two) != 0, "{}", what);
            prop_assert!(scenario.enabled(&second) & (1 << one) != 0, "{}", what);
            let both = encoded(scenario, &after(scenario, &first, two));
            prop_assert_eq!(both, encoded(scenario, &after(scenario, &second, one)), "{}", what);
        }
    }
    Ok(())
}

#[test]
fn footprints_of_the_bundled_tests_are_sound() {
    let scenarios: Vec<Scenario> = lab::bundled().collect();
    check(2000, 100, |choices| {
        let scenario = choices.of(&scenarios);
        walk(scenario, choices, |state, enabled| {
            independent_actors_commute(scenario, state, enabled)
        })
    });
}

#[test]
fn footprints_of_random_tests_are_sound() {
    check_tests(4000, independent_actors_commute);
}

/// Whether two actors that are said to commute where `weaker` is left of what their steps touch
/// don't, in one of the states that come first.
fn is_noticed(scenario: &Scenario, weaker: fn(Touched) -> Touched) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = VecDeque::from([scenario.initial()]);
    while let Some(state) = open.pop_front() {
        if seen.len() == 2000 || !seen.insert(encoded(scenario, &state)) {
            continue;
        }
        let enabled: Vec<u8> = actors_in(scenario.enabled(&state)).collect();
        let touched = |actor| weaker(scenario.touched(&state, actor));
        for &one in &enabled {
            let first = after(scenario, &state, one);
            for &two in enabled.iter().filter(|two| **two > one) {
                if touched(one).conflicts(&touched(two)) {
                    continue;
                }
                let second = after(scenario, &state, two);
                let disabled = scenario.enabled(&first) & (1 << two) == 0
                    || scenario.enabled(&second) & (1 << one) == 0;
                if disabled
                    || encoded(scenario, &after(scenario, &first, two))
                        != encoded(scenario, &after(scenario, &second, one))
                {
                    return true;
                }
            }
            open.push_back(first);
        }
    }
    false
}

#[test]
fn whatever_is_left_out_of_what_a_step_touches_is_noticed() {
    type Mutation = (&'static str, fn(Touched) -> Touched);
    let mutations: [Mutation; 5] = [
        ("what pages have and should hold", |touched| {
            let less = |details| Details { now: 0, moving: 0, ghosts: 0, ..details };
            Touched { reads: less(touched.reads), writes: less(touched.writes), ..touched }
        }),
        ("what frames hold and whose they are", |touched| {
            let less = |details| Details { owners: 0, values: 0, ..details };
            Touched { reads: less(touched.reads), writes: less(touched.writes), ..touched }
        }),
        ("locks", |touched| {
            let less = |details| Details { locks: 0, ..details };
            Touched { reads: less(touched.reads), writes: less(touched.writes), ..touched }
        }),
        ("the VMA that a driver remembers", |touched| {
            let less = |details| Details { pointers: 0, ..details };
            Touched { reads: less(touched.reads), writes: less(touched.writes), ..touched }
        }),
        ("objects", |touched| Touched { objects: Objects::default(), ..touched }),
    ];
    let own = [ONE_PAGE_TWO_FRAMES, ONE_FRAME_TWO_PAGES].map(|text| lab::variant(text, "-"));
    let mut unseen = mutations.to_vec();
    for scenario in own.into_iter().chain(lab::bundled()) {
        unseen.retain(|(_, weaker)| !is_noticed(&scenario, *weaker));
        assert!(!is_noticed(&scenario, |touched| touched), "{}", lab::title(&scenario));
    }
    let unseen: Vec<&str> = unseen.iter().map(|one| one.0).collect();
    assert!(unseen.is_empty(), "left out, and nobody notices: {unseen:?}");
}

/// P0 writes where the page was, P1 where it is: the order says what the page should hold.
const ONE_PAGE_TWO_FRAMES: &str = "DMABUF one-page-two-frames
exporter heap { mmap = mixedmap-insert-page; move = [lock reserve copy rebind free unlock] }
buffer A { exporter = heap }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    store v[0] = 2
}
P1 application {
    mmap w = A shared rw
    store w[0] = 3
}
P2 exporter heap { move A -> system }
exists (hazard any)
";

/// P0 writes through an old entry into the frame that is B's now: the order says what the frame holds.
const ONE_FRAME_TWO_PAGES: &str = "DMABUF one-frame-two-pages
exporter heap { mmap = mixedmap-insert-page; move = [lock reserve copy rebind free unlock] }
memory { vram = 1; system = 1 }
buffer A { exporter = heap }
buffer B { exporter = heap; state = unallocated }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    store v[0] = 2
}
P1 exporter heap {
    move A -> system
    there: alloc B
}
P2 application {
    await there
    mmap w = B shared rw
    store w[0] = 3
}
exists (hazard any)
";
