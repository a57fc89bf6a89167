//! What a step is seen to touch is within what it declares, and no declaration can lose an object
//! that matters without a test here noticing.
//!
//! Debug builds alone note what is touched. `DRIFTHEAP_WORLDS` is the number of random tests,
//! `DRIFTHEAP_SEED` the seed.
#![cfg(debug_assertions)]
#![allow(clippy::print_stdout, reason = "the figures are worth reading")]

#[path = "common/lab.rs"]
mod lab;
#[path = "common/random_litmus.rs"]
mod random_litmus;

use std::collections::{BTreeMap, BTreeSet};

use driftheap::explore::{Footprint, Machine, actors_in};
use driftheap::model::{self, Step};
use driftheap::question::scenario::{Action, Scenario, ScenarioState};
use driftheap::random::SplitMix64;
use random_litmus::{Choices, Shape};

/// The kinds of object and their bits, as `model/footprint.rs` lays them out.
const OBJECTS: [(&str, u128); 9] = [
    ("buf", bits(0, 8)),
    ("vma", bits(8, 40)),
    ("pin", bits(40, 64)),
    ("attachment", bits(64, 72)),
    ("sg", bits(72, 84)),
    ("fence", bits(84, 94)),
    ("mmap_lock", bits(94, 95)),
    ("memory", bits(95, 96)),
    ("free", bits(96, 97)),
];

const fn bits(from: u32, to: u32) -> u128 {
    (1 << to) - (1 << from)
}

/// What the model noted of the next step of `actor`, whether it is ready or not, and the step.
fn noted(scenario: &Scenario, state: &ScenarioState, actor: u8) -> Option<(Step, Footprint)> {
    let instruction = scenario.next(state, usize::from(actor))?;
    let Action::Step(step) = &instruction.action else { return None };
    let id = scenario.programs[usize::from(actor)].actor;
    let mut next = state.clone();
    next.model.forget_notes();
    if model::ready(&scenario.world, &next.model, id, step) {
        scenario.apply(&mut next, actor);
    }
    let touched = model::noted(&scenario.world, &next.model, id);
    Some((*step, Footprint { reads: touched.reads, writes: touched.writes }))
}

/// The bits of `seen` that `declared` lacks.
fn missing(seen: Footprint, declared: Footprint) -> u128 {
    seen.reads & !(declared.reads | declared.writes) | seen.writes & !declared.writes
}

fn step_name(step: &Step) -> String {
    let text = if let Step::Exporter { step, .. } = step {
        format!("{step:?}")
    } else {
        format!("{step:?}")
    };
    text.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

#[derive(Default)]
struct Seen {
    /// Steps and objects such that the step's declaration without the object is too small.
    caught: BTreeSet<(String, &'static str)>,
    /// Steps and objects that they touch and don't declare, with the first case.
    undeclared: BTreeMap<(String, &'static str), String>,
}

/// Holds every step in at most `limit` states of `scenario` against its declaration.
fn check(scenario: &Scenario, limit: usize, found: &mut Seen) -> usize {
    let mut seen = BTreeSet::new();
    let mut open = vec![scenario.initial()];
    while let Some(state) = open.pop() {
        let mut bytes = Vec::new();
        scenario.encode(&state, &mut bytes, &mut Vec::new());
        if seen.len() == limit || !seen.insert(bytes) {
            continue;
        }
        for actor in (0u8..).take(scenario.actors()) {
            let Some((step, touched)) = noted(scenario, &state, actor) else { continue };
            let declared = scenario.next_footprint(&state, actor);
            let lacks = missing(touched, declared);
            for (name, _) in OBJECTS.iter().filter(|(_, bits)| lacks & bits != 0) {
                let case = || format!("{}: {step:?} in {state:?}", lab::title(scenario));
                found.undeclared.entry((step_name(&step), name)).or_insert_with(case);
            }
            for (name, bits) in OBJECTS {
                let weaker =
                    Footprint { reads: declared.reads & !bits, writes: declared.writes & !bits };
                if missing(touched, weaker) != 0 {
                    found.caught.insert((step_name(&step), name));
                }
            }
        }
        for actor in actors_in(scenario.enabled(&state)) {
            let mut next = state.clone();
            scenario.apply(&mut next, actor);
            open.push(next);
        }
    }
    seen.len()
}

fn random_tests(worlds: u64, found: &mut Seen) -> usize {
    let seed = lab::asked("DRIFTHEAP_SEED", 1);
    println!("{worlds} random tests, seed {seed}");
    let mut random = SplitMix64::new(seed);
    let mut states = 0;
    for _ in 0..worlds {
        let choices: Vec<u16> =
            (0..300).map(|_| u16::try_from(random.below(1 << 16)).unwrap_or(0)).collect();
        let mut choices = Choices::new(&choices);
        let broken = *choices.of(&[2, 4, 12]);
        let text = random_litmus::text(&mut choices, Shape { broken, statements: 4 });
        states += check(&lab::variant(&text, "-"), 200, found);
    }
    states
}

#[test]
fn steps_stay_within_their_declarations_and_every_declared_object_counts() {
    let mut found = Seen::default();
    let flush = lab::variant(lab::FLUSH_OF_A_FRAME_GIVEN_AWAY, "-");
    let fails = lab::variant(lab::A_MOVE_THAT_FAILS, "-");
    let suite = lab::bundled().chain([flush, fails]);
    let suite: usize = suite.map(|test| check(&test, SUITE_STATES, &mut found)).sum();
    let random = random_tests(lab::asked("DRIFTHEAP_WORLDS", 900), &mut found);
    println!(
        "{suite} states of the suite, {random} of random tests, {} mutations",
        found.caught.len()
    );
    for ((step, object), case) in &found.undeclared {
        println!("{step} touches {object} undeclared, in {case}");
    }
    assert!(found.undeclared.is_empty(), "declarations are too small, see above");
    for (step, objects) in MUTATIONS {
        for object in objects.split(' ') {
            assert!(
                found.caught.contains(&((*step).to_owned(), object)),
                "the declaration of {step} may lose {object} and nothing notices"
            );
        }
    }
}

/// The most states of one variant of the suite that are looked at.
const SUITE_STATES: usize = 100_000;

/// Objects of each step's declaration, each of which is missed when it is taken out.
const MUTATIONS: &[(&str, &str)] = &[
    ("Alloc", "buf free memory pin vma"),
    ("Attach", "attachment buf vma"),
    ("CheckPins", "buf memory pin"),
    ("Close", "attachment buf free memory pin vma"),
    ("Copy", "memory"),
    ("Detach", "attachment buf free memory vma"),
    ("DmaBufPin", "attachment buf"),
    ("DmaBufUnpin", "attachment buf"),
    ("DmaFinish", "buf memory pin vma"),
    ("DrawTicket", "mmap_lock"),
    ("DmaStart", "attachment buf fence memory pin sg vma"),
    ("EvictCache", "buf memory"),
    ("Fence", "buf"),
    ("FinishMmu", "attachment buf free memory mmap_lock pin vma"),
    ("Flush", "buf memory"),
    ("FlushTlb", "attachment sg"),
    ("FollowPfn", "buf memory mmap_lock pin vma"),
    ("Fork", "free memory mmap_lock pin vma"),
    ("FrameVectorCheck", "memory pin vma"),
    ("Free", "buf free memory pin vma"),
    ("FreePgtables", "vma"),
    ("GupFast", "memory pin vma"),
    ("GupSlow", "buf free memory mmap_lock pin vma"),
    ("Load", "buf memory mmap_lock pin vma"),
    ("Lock", "buf"),
    ("LockAll", "buf mmap_lock"),
    ("Map", "attachment buf free memory sg"),
    ("Mark", "buf"),
    ("Mmap", "buf free memory mmap_lock vma"),
    ("MmapLock", "mmap_lock"),
    ("MmapUnlock", "mmap_lock"),
    ("Mprotect", "mmap_lock pin vma"),
    ("Mremap", "pin vma"),
    ("Munmap", "attachment buf free memory mmap_lock pin vma"),
    ("Notify", "attachment sg"),
    ("Rebind", "buf memory"),
    ("Reserve", "attachment buf free memory vma"),
    ("ResvLock", "buf"),
    ("ResvUnlock", "buf mmap_lock"),
    ("Signal", "buf fence memory"),
    ("Store", "buf free memory mmap_lock pin vma"),
    ("Submit", "attachment buf fence vma"),
    ("SyncEnd", "attachment buf memory sg"),
    ("SyncStart", "attachment buf fence memory sg"),
    ("Unlock", "attachment buf free memory vma"),
    ("Unmap", "attachment buf free memory sg"),
    ("Unpin", "free memory pin vma"),
    ("Validate", "attachment buf fence memory sg"),
    ("Wait", "buf fence"),
    ("WaitUnmap", "attachment buf sg"),
    ("Zap", "buf memory pin vma"),
];
