//! The search that forgets, the reduced one and that on two threads answer as the full one does.

#![allow(clippy::print_stdout, reason = "the figures are worth reading")]

#[path = "common/lab.rs"]
mod lab;
#[path = "common/random_litmus.rs"]
mod random_litmus;

use driftheap::explore::{
    ACTORS_MAX, Exploration, Explorer, Footprint, Limits, Machine, Reduction,
};
use driftheap::model::{Life, Owner, Slot};
use driftheap::question::scenario::{Outcome, Scenario, ScenarioState};
use driftheap::random::SplitMix64;
use driftheap::units::FrameId;
use random_litmus::{Choices, Shape};

/// Explores every way, compares, and returns the states of each: all, live, reduced.
fn check(scenario: &Scenario, text: &str) -> [u64; 3] {
    // Every edge is followed here, none is known from another.
    let plain = Mutant { plain: true, ..Mutant::of(scenario) };
    let full = Explorer::new(&plain, Limits::default(), Reduction::Full, 1).explore();
    let full = full.unwrap_or_else(|error| panic!("{error}\n{text}"));
    let known = lab::explore_on(scenario, Reduction::Full, 1);
    let live = lab::explore_on(scenario, Reduction::Live, 1);
    let reduced = lab::explore_on(scenario, Reduction::Persistent, 1);
    let title = lab::title(scenario);
    assert_eq!(full, known, "{title}\n{text}");
    if let Some(difference) = difference(&full, &live) {
        panic!("{title}: {difference}\n{text}");
    }
    let lengths = |found: &Exploration<Outcome>| -> Vec<(Outcome, usize)> {
        found.outcomes.iter().map(|(at, stats)| (at.clone(), stats.shortest.len())).collect()
    };
    assert_eq!(lengths(&full), lengths(&reduced), "{title}\n{text}");
    assert_eq!(full.deadlock_states == 0, reduced.deadlock_states == 0, "{title}\n{text}");
    let states = [full.states, live.states, reduced.states];
    assert!(reduced.schedules <= full.schedules);
    states
}

/// What differs between two searches of every interleaving, beside the number of states; and which of
/// several shortest schedules is told, where one order of interchangeable processes is searched.
fn difference(full: &Exploration<Outcome>, live: &Exploration<Outcome>) -> Option<String> {
    let merged = !live.interchangeable.is_empty();
    let same = |one: &Vec<u8>, other: &Vec<u8>| {
        if merged { one.len() == other.len() } else { one == other }
    };
    for (outcome, stats) in &full.outcomes {
        let Some(found) = live.outcomes.get(outcome) else {
            return Some(format!("{outcome:?} is lost"));
        };
        let told = same(&stats.shortest, &found.shortest);
        if stats.schedules != found.schedules || !told {
            return Some(format!("{outcome:?}: {stats:?} is {found:?}"));
        }
    }
    if live.outcomes.len() != full.outcomes.len() {
        return Some("there are more outcomes".to_owned());
    }
    let mut watched = full.watched.iter().zip(&live.watched);
    if full.watched.len() != live.watched.len()
        || !watched.all(|((bit, one), (same_bit, other))| bit == same_bit && same(one, other))
    {
        return Some("hazards are elsewhere".to_owned());
    }
    let deadlocks = (full.deadlock_states == 0) != (live.deadlock_states == 0);
    deadlocks.then(|| "there are other deadlocks".to_owned())
}

fn sum(all: [u64; 3], more: [u64; 3]) -> [u64; 3] {
    std::array::from_fn(|at| all[at] + more[at])
}

#[test]
fn every_bundled_variant_has_the_same_outcomes() {
    let counts = lab::bundled().map(|scenario| check(&scenario, ""));
    let [full, live, reduced] = counts.fold([0; 3], sum);
    println!("bundled suite: {full} states, {live} live, {reduced} with reduction");
    // Every VMA, pin and buffer of most of the suite is looked at to the end.
    assert!(live * 100 < full * 85, "forgetting is of little use: {live} of {full} states");
    assert!(
        reduced * 100 < full * 60,
        "the reduction is of little use: {reduced} of {full} states"
    );
}

/// Buffer B is given the frame that A's move gave up before it copied: A's flush writes B's cache
/// line back, which is a hazard only while B is alive, and the purge of B says whether it is.
#[test]
fn a_flush_depends_on_the_life_of_another_buffer() {
    let text = lab::FLUSH_OF_A_FRAME_GIVEN_AWAY;
    check(&lab::variant(text, "-"), text);
}

/// A move that takes no lock goes on with a buffer that is not there: its page has no frame to copy, so
/// that the zeros it reserved are compared.
#[test]
fn what_is_reserved_for_a_page_without_a_frame_is_looked_at() {
    let text = "DMABUF unallocated
exporter heap { move = [reserve copy rebind free] }
buffer A { exporter = heap; state = unallocated }
P0 application { mmap v = A shared rw }
P1 exporter heap { move A -> system }
exists (hazard any)
";
    check(&lab::variant(text, "-"), text);
}

/// So many random tests, from this seed on: `DRIFTHEAP_WORLDS=10000 DRIFTHEAP_SEED=7 cargo test`.
/// Where nobody takes a lock of his own, an `mmap_lock` makes for no other answer, as
/// `World::lock_address_spaces` says: here each address space has one, for somebody gives back what he
/// has not got.
#[test]
fn an_mmap_lock_matters_to_those_alone_who_take_locks() {
    let mut more = 0;
    for test in driftheap::suite::TESTS.iter().filter(|test| test.row != "C17") {
        let at = test.text.rfind("\nexists").or_else(|| test.text.rfind("\nforall"));
        let (processes, condition) = test.text.split_at(at.unwrap_or_default());
        let number = (0..6).find(|at| !processes.contains(&format!("P{at} "))).unwrap_or(6);
        let text = format!("{processes}\nP{number} hardware {{ mmap_unlock P0 }}{condition}");
        for (plain, locked) in lab::scenarios(test.text).iter().zip(&lab::scenarios(&text)) {
            assert!(locked.world.locks_address_spaces() && !plain.world.locks_address_spaces());
            let [plain, with] =
                [plain, locked].map(|one| lab::explore_on(one, Reduction::Persistent, 1));
            let outcomes = |found: &Exploration<Outcome>| -> Vec<Outcome> {
                found.outcomes.keys().cloned().collect()
            };
            assert_eq!(outcomes(&plain), outcomes(&with), "{}", lab::title(locked));
            more += u64::from(with.states > 2 * plain.states);
        }
    }
    // It was there: faults waited with it held.
    assert!(more > 0);
}

fn random_text(random: &mut SplitMix64) -> String {
    let choices: Vec<u16> =
        (0..300).map(|_| u16::try_from(random.below(1 << 16)).unwrap_or(0)).collect();
    let mut choices = Choices::new(&choices);
    let broken = *choices.of(&[2, 4, 12]);
    random_litmus::text(&mut choices, Shape { broken, statements: 3 })
}

#[test]
fn random_tests_have_the_same_outcomes() {
    let (worlds, seed) = (lab::asked("DRIFTHEAP_WORLDS", 1000), lab::asked("DRIFTHEAP_SEED", 2));
    println!("{worlds} random tests, seed {seed}");
    let mut random = SplitMix64::new(seed);
    let mut counts = [0; 3];
    for _ in 0..worlds {
        let text = random_text(&mut random);
        counts = sum(counts, check(&lab::variant(&text, "-"), &text));
    }
    let [full, live, reduced] = counts;
    println!("random tests: {full} states, {live} live, {reduced} with reduction");
    assert!(reduced < live && live < full);
}

/// A test that forgets too much, or knows too little of what a step touches.
struct Mutant<'s> {
    scenario: &'s Scenario,
    forget: fn(&mut ScenarioState),
    /// Objects that no footprint has.
    blind: u128,
    /// Whether no two steps are known to commute.
    plain: bool,
}

impl Machine for Mutant<'_> {
    type State = ScenarioState;
    type Outcome = Outcome;

    fn initial(&self) -> ScenarioState {
        self.scenario.initial()
    }

    fn actors(&self) -> usize {
        self.scenario.actors()
    }

    fn enabled(&self, state: &ScenarioState) -> u16 {
        self.scenario.enabled(state)
    }

    fn unfinished(&self, state: &ScenarioState) -> u16 {
        self.scenario.unfinished(state)
    }

    fn apply(&self, state: &mut ScenarioState, actor: u8) {
        self.scenario.apply(state, actor);
    }

    fn encode(&self, state: &ScenarioState, out: &mut Vec<u8>, ends: &mut Vec<usize>) {
        self.scenario.encode(state, out, ends);
    }

    fn forget(&self, state: &mut ScenarioState) {
        self.scenario.forget(state);
        (self.forget)(state);
    }

    fn decode(&self, bytes: &[u8], state: &mut ScenarioState) {
        self.scenario.decode(bytes, state);
    }

    fn next_footprint(&self, state: &ScenarioState, actor: u8) -> Footprint {
        self.weaker(self.scenario.next_footprint(state, actor))
    }

    fn rest_footprint(&self, state: &ScenarioState, actor: u8) -> Footprint {
        self.weaker(self.scenario.rest_footprint(state, actor))
    }

    fn commuting(&self, state: &ScenarioState, enabled: u16) -> [u16; ACTORS_MAX] {
        if self.plain { [0; ACTORS_MAX] } else { self.scenario.commuting(state, enabled) }
    }

    fn classify(&self, state: &ScenarioState) -> Outcome {
        self.scenario.classify(state)
    }

    fn watch(&self, state: &ScenarioState) -> u32 {
        self.scenario.watch(state)
    }
}

impl<'s> Mutant<'s> {
    /// No mutant yet.
    const fn of(scenario: &'s Scenario) -> Self {
        Self { scenario, forget: nothing, blind: 0, plain: false }
    }

    const fn weaker(&self, footprint: Footprint) -> Footprint {
        let Footprint { reads, writes } = footprint;
        Footprint { reads: reads & !self.blind, writes: writes & !self.blind }
    }

    /// Whether a search of the mutant answers otherwise than the full one.
    fn is_caught(&self, full: &Exploration<Outcome>, reduction: Reduction) -> bool {
        let explore = || Explorer::new(self, Limits::default(), reduction, 1).explore();
        // What is forgotten may be what a step relies on.
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(explore));
        let Ok(Ok(found)) = found else { return true };
        if reduction == Reduction::Live {
            return difference(full, &found).is_some();
        }
        !full.outcomes.keys().eq(found.outcomes.keys())
    }
}

fn nothing(_: &mut ScenarioState) {}

#[test]
fn whatever_is_forgotten_too_early_is_missed() {
    type Mutation = (&'static str, fn(&mut ScenarioState));
    let mutations: [Mutation; 9] = [
        ("what frames hold", |state| state.model.frames.iter_mut().for_each(|f| f.value = 0)),
        ("what pages should hold", |state| state.model.pages.iter_mut().for_each(|p| p.ghost = 0)),
        ("whose frames are", |state| {
            state.model.frames.iter_mut().for_each(|frame| frame.owner = Owner::Orphan);
        }),
        ("entries", |state| {
            state.model.ptes.iter_mut().for_each(|pte| pte.frame = FrameId::NONE);
        }),
        ("VMAs", |state| state.model.vmas.iter_mut().for_each(|vma| vma.mapped = 0)),
        ("pins", |state| state.model.pins.iter_mut().for_each(|pin| pin.slot = Slot::Dropped)),
        ("sg_tables", |state| state.model.sgs.iter_mut().for_each(|sg| *sg = Slot::Dropped)),
        ("fences", |state| state.model.fences.iter_mut().for_each(|f| f.slot = Slot::Dropped)),
        ("lives", |state| state.model.bufs.iter_mut().for_each(|buf| buf.life = Life::Live)),
    ];
    let mut unseen: Vec<&str> = mutations.iter().map(|(what, _)| *what).collect();
    for scenario in lab::bundled() {
        let full = lab::explore(&scenario);
        unseen.retain(|what| {
            let forget = mutations.iter().find(|(of, _)| of == what).map_or(nothing as _, |m| m.1);
            let mutant = Mutant { forget, ..Mutant::of(&scenario) };
            !mutant.is_caught(&full, Reduction::Live)
        });
    }
    assert!(unseen.is_empty(), "forgotten, and nobody notices: {unseen:?}");
}

#[test]
fn whatever_is_left_out_of_footprints_is_missed() {
    let bits = |from: u32, to: u32| (1u128 << to) - (1 << from);
    // As `model/footprint.rs` lays them out.
    let objects = [
        ("buf", bits(0, 8)),
        ("vma", bits(8, 40)),
        ("pin", bits(40, 64)),
        ("memory", bits(95, 96)),
    ];
    let mut unseen: Vec<&str> = objects.iter().map(|(what, _)| *what).collect();
    for scenario in lab::bundled() {
        let full = lab::explore(&scenario);
        unseen.retain(|what| {
            let blind = objects.iter().find(|(of, _)| of == what).map_or(0, |(_, bits)| *bits);
            // What Scenario forgets rests on the footprints, too, but those of its own.
            let mutant = Mutant { blind, ..Mutant::of(&scenario) };
            !mutant.is_caught(&full, Reduction::Persistent)
        });
    }
    assert!(unseen.is_empty(), "left out, and nobody notices: {unseen:?}");
}

#[test]
fn two_threads_find_what_one_finds() {
    let mut scenarios: Vec<_> = lab::bundled().collect();
    scenarios.sort_by_key(|scenario| std::cmp::Reverse(lab::explore(scenario).states));
    for scenario in &scenarios[..8] {
        for reduction in [Reduction::Full, Reduction::Live, Reduction::Persistent] {
            let one = lab::explore_on(scenario, reduction, 1);
            let two = lab::explore_on(scenario, reduction, 2);
            assert_eq!(one, two, "{}", lab::title(scenario));
        }
    }
}
