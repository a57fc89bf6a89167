//! Random small machines, against brute force and stateright.

use driftheap::explore::{Explorer, Limits, Reduction};
use proptest::prelude::*;

use super::brute::every_schedule;
use super::explore;
use super::stateright_adapter::{Counts, Encoded, bfs};
use super::toys::{Op, Toy};

const BYTES: u8 = 4;

fn op() -> impl Strategy<Value = Op> {
    let var = || 0..BYTES;
    prop_oneof![
        3 => var().prop_map(|var| Op::Load { var }),
        3 => (var(), 0..3u8).prop_map(|(var, value)| Op::Store { var, value }),
        2 => (var(), 0..2u8).prop_map(|(var, plus)| Op::StoreReg { var, plus }),
        2 => var().prop_map(|var| Op::Lock { var }),
        2 => var().prop_map(|var| Op::Unlock { var }),
        1 => var().prop_map(|var| Op::Await { var }),
        2 => (var(), var()).prop_map(|(var, page)| Op::Touch { var, page }),
        1 => var().prop_map(|var| Op::SkipIf { var }),
        1 => Just(Op::Alloc),
    ]
}

fn toy(actors: usize, steps: usize) -> impl Strategy<Value = Toy> {
    let programs = prop::collection::vec(prop::collection::vec(op(), 0..=steps), 1..=actors);
    programs.prop_map(|programs| Toy { programs, bytes: usize::from(BYTES) })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_schedule_is_counted_and_the_shortest_is_found(toy in toy(3, 4)) {
        let found = explore(&toy, Reduction::Full);
        if let Some(brute) = every_schedule(&toy, 50_000) {
            let found: Vec<_> = found.outcomes.into_iter()
                .map(|(outcome, stats)| (outcome, (stats.schedules, stats.shortest)))
                .collect();
            prop_assert_eq!(found, brute.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn reduction_keeps_every_outcome_and_deadlock(toy in toy(4, 5)) {
        let full = explore(&toy, Reduction::Full);
        let reduced = explore(&toy, Reduction::Persistent);
        prop_assert!(reduced.states <= full.states && reduced.schedules <= full.schedules);
        prop_assert_eq!(reduced.terminal_states, full.terminal_states);
        prop_assert_eq!(reduced.deadlock_states, full.deadlock_states);
        let lengths = |found: driftheap::explore::Exploration<_>| found.outcomes.into_iter()
            .map(|(outcome, stats)| (outcome, stats.states, stats.shortest.len()))
            .collect::<Vec<_>>();
        prop_assert_eq!(lengths(reduced), lengths(full));
    }

    #[test]
    fn stateright_counts_the_same_states(toy in toy(4, 4)) {
        let found = explore(&toy, Reduction::Full);
        let counts = Counts { unique: found.states, generated: found.transitions + 1 };
        prop_assert_eq!(bfs(Encoded(toy), 1), counts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn threads_change_nothing(toy in prop::collection::vec(prop::collection::vec(op(), 5..8), 5..=6)
        .prop_map(|programs| Toy { programs, bytes: usize::from(BYTES) }))
    {
        let limits = Limits { states_max: 200_000, ..Limits::default() };
        let explore = |threads| Explorer::new(&toy, limits, Reduction::Full, threads).explore();
        prop_assert_eq!(explore(2), explore(1));
    }
}
