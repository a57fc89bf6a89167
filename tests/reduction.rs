//! The reduced search and the search on two threads answer as the full one does.

#![allow(clippy::print_stdout, reason = "the figures are worth reading")]

#[path = "common/lab.rs"]
mod lab;
#[path = "common/random_litmus.rs"]
mod random_litmus;

use driftheap::explore::{Exploration, Reduction, SplitMix64};
use driftheap::question::scenario::{Outcome, Scenario};
use random_litmus::{Choices, Shape};

/// Explores both ways, compares, and returns the states of each.
fn check(scenario: &Scenario, text: &str) -> (u64, u64) {
    let full = lab::explore_on(scenario, Reduction::Full, 1);
    let reduced = lab::explore_on(scenario, Reduction::Persistent, 1);
    let outcomes =
        |found: &Exploration<Outcome>| found.outcomes.keys().cloned().collect::<Vec<_>>();
    assert_eq!(outcomes(&full), outcomes(&reduced), "{}\n{text}", lab::title(scenario));
    assert_eq!(full.terminal_states, reduced.terminal_states, "{}\n{text}", lab::title(scenario));
    assert_eq!(full.deadlock_states, reduced.deadlock_states, "{}\n{text}", lab::title(scenario));
    assert!(reduced.states <= full.states && reduced.schedules <= full.schedules);
    (full.states, reduced.states)
}

#[test]
fn every_bundled_variant_has_the_same_outcomes() {
    let counts = lab::bundled().map(|scenario| check(&scenario, ""));
    let (full, reduced) = counts.fold((0, 0), |(a, b), (full, reduced)| (a + full, b + reduced));
    println!("bundled suite: {full} states, {reduced} with reduction");
    assert!(reduced < full, "the reduction is of no use: {reduced} of {full} states");
}

/// Buffer B is given the frame that A's move gave up before it copied: A's flush writes B's cache
/// line back, which is a hazard only while B is alive, and the purge of B says whether it is.
#[test]
fn a_flush_depends_on_the_life_of_another_buffer() {
    let text = lab::FLUSH_OF_A_FRAME_GIVEN_AWAY;
    check(&lab::variant(text, "-"), text);
}

/// So many random tests, from this seed on: `DRIFTHEAP_WORLDS=10000 DRIFTHEAP_SEED=7 cargo test`.
fn asked(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn random_tests_have_the_same_outcomes() {
    let (worlds, seed) = (asked("DRIFTHEAP_WORLDS", 1000), asked("DRIFTHEAP_SEED", 2));
    println!("{worlds} random tests, seed {seed}");
    let mut random = SplitMix64::new(seed);
    let (mut all, mut all_reduced) = (0, 0);
    for _ in 0..worlds {
        let choices: Vec<u16> =
            (0..300).map(|_| u16::try_from(random.below(1 << 16)).unwrap_or(0)).collect();
        let mut choices = Choices::new(&choices);
        let broken = *choices.of(&[2, 4, 12]);
        let text = random_litmus::text(&mut choices, Shape { broken, statements: 3 });
        let (full, reduced) = check(&lab::variant(&text, "-"), &text);
        (all, all_reduced) = (all + full, all_reduced + reduced);
    }
    println!("random tests: {all} states, {all_reduced} with reduction");
}

#[test]
fn two_threads_find_what_one_finds() {
    let mut scenarios: Vec<_> = lab::bundled().collect();
    scenarios.sort_by_key(|scenario| std::cmp::Reverse(lab::explore(scenario).states));
    for scenario in &scenarios[..8] {
        for reduction in [Reduction::Full, Reduction::Persistent] {
            let one = lab::explore_on(scenario, reduction, 1);
            let two = lab::explore_on(scenario, reduction, 2);
            assert_eq!(one, two, "{}", lab::title(scenario));
        }
    }
}
