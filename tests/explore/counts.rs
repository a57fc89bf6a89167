//! Exact counts: closed forms, pinned numbers, stateright.

use driftheap::explore::{ExploreError, Explorer, Limits, Reached, Reduction};

use super::explore;
use super::stateright_adapter::{Counts, Encoded, Native, bfs};
use super::toys::{Op, Toy, allocating, independent, philosophers, racing, workload};

fn multinomial(actors: u128, steps: u128) -> u128 {
    let choose = |n: u128, k: u128| (1..=k).fold(1, |product, i| product * (n - k + i) / i);
    (1..=actors).map(|a| choose(a * steps, steps)).product()
}

#[test]
fn independent_actors_match_the_closed_form() {
    for (actors, steps) in [(1, 7), (2, 5), (3, 4), (4, 3), (8, 2), (16, 1)] {
        let found = explore(&independent(actors, steps), Reduction::Full);
        let states = (steps as u64 + 1).pow(u32::from(actors));
        let sites = u64::from(actors) * steps as u64;
        assert_eq!(found.states, states, "{actors} actors, {steps} steps");
        assert_eq!(found.transitions, sites * states / (steps as u64 + 1));
        assert_eq!(found.schedules, multinomial(actors.into(), steps as u128));
        assert_eq!((found.terminal_states, found.outcomes.len()), (1, 1));
        assert_eq!(u64::from(found.depth_max), sites);
        assert!(found.counts_every_schedule());
        let shortest = &found.outcomes.values().next().expect("one outcome").shortest;
        assert!(shortest.is_sorted() && shortest.len() as u64 == sites, "{shortest:?}");
    }
}

#[test]
fn no_actor_and_no_step_are_one_state() {
    for toy in [Toy { programs: vec![], bytes: 0 }, independent(3, 0)] {
        let found = explore(&toy, Reduction::Full);
        assert_eq!((found.states, found.transitions, found.schedules), (1, 0, 1));
        assert_eq!(found.outcomes.values().next().map(|o| o.shortest.len()), Some(0));
        assert!(found.complete);
    }
}

#[test]
fn schedules_past_128_bits_saturate_and_say_so() {
    let found = explore(&independent(2, 60), Reduction::Full);
    assert_eq!((found.schedules, found.is_saturated), (multinomial(2, 60), false));
    let found = explore(&independent(2, 67), Reduction::Full);
    assert_eq!((found.schedules, found.is_saturated), (u128::MAX, true));
    assert!(found.complete && !found.counts_every_schedule());
}

/// States, transitions, terminal states, deadlocks, outcomes, schedules.
fn check(toy: &Toy, expected: (u64, u64, u64, u64, usize, u128)) {
    let found = explore(toy, Reduction::Full);
    let seen = (
        found.states,
        found.transitions,
        found.terminal_states,
        found.deadlock_states,
        found.outcomes.len(),
        found.schedules,
    );
    assert_eq!(seen, expected, "{toy:?}");
    let counts = Counts { unique: found.states, generated: found.transitions + 1 };
    assert_eq!(bfs(Encoded(toy.clone()), 1), counts, "{toy:?}");
    let handles_matter = toy.programs.iter().flatten().any(|&op| op == Op::Alloc);
    if !handles_matter {
        assert_eq!(bfs(Native(toy.clone()), 1), counts, "{toy:?}");
    }
}

#[test]
fn counts_are_pinned_and_agree_with_stateright() {
    check(&racing(2, 1), (13, 14, 3, 0, 3, 6));
    check(&racing(3, 2), (2358, 4119, 156, 0, 156, 34_650));
    check(&philosophers(2, 1), (17, 18, 2, 1, 2, 4));
    check(&philosophers(3, 2), (377, 672, 9, 8, 2, 480_882));
    check(&philosophers(5, 1), (1363, 3765, 2, 1, 2, 104_652_200));
    check(&allocating(4), (81, 216, 1, 0, 1, 2520));
    check(&workload(3, 3), (6202, 12_262, 260, 0, 260, 17_153_136));
}

#[test]
fn a_lost_update_is_seen_and_its_schedule_is_shortest() {
    let found = explore(&racing(2, 1), Reduction::Full);
    let by_sum: Vec<_> = found.outcomes.iter().map(|((_, bytes, _), o)| (bytes[0], o)).collect();
    assert!(by_sum.iter().any(|(sum, o)| *sum == 1 && o.shortest == [0, 1, 0, 1]), "{by_sum:?}");
    let lost: u128 = by_sum.iter().filter(|(sum, _)| *sum == 1).map(|(_, o)| o.schedules).sum();
    assert_eq!((lost, found.schedules), (4, 6));
}

#[test]
fn watched_facts_come_with_the_shortest_way() {
    let found = explore(&philosophers(3, 1), Reduction::Full);
    assert_eq!(found.watched[&0], [0, 0, 0, 0], "philosopher 0 has eaten");
    assert_eq!(found.watched[&1], [2], "the third philosopher holds a fork");
    assert_eq!(found.watched[&2], [0, 1, 2], "everyone holds one fork");
    let toy = philosophers(3, 1);
    let explorer = Explorer::new(&toy, Limits::default(), Reduction::Persistent, 1);
    let to = |wanted: u8| explorer.shortest_to(move |state| state.bytes[1] == wanted);
    assert_eq!(to(2), Ok(Reached::By(vec![1])));
    assert_eq!(to(1), Ok(Reached::By(vec![0, 0])));
    assert_eq!(to(9), Ok(Reached::Never));
}

#[test]
fn shortcuts_that_meet_are_counted_in_topological_order() {
    // Who faults a page in first spares the other the fault: the schedules differ in length and
    // meet in one state.
    let touch = vec![Op::Touch { var: 0, page: 1 }];
    let toy = Toy { programs: vec![touch.clone(), touch], bytes: 2 };
    let found = explore(&toy, Reduction::Full);
    assert_eq!((found.states, found.schedules), (5, 4));

    // A branch that skips an instruction ends in the state that the whole way ends in.
    let toy = Toy {
        programs: vec![
            vec![Op::SkipIf { var: 0 }, Op::Store { var: 1, value: 0 }],
            vec![Op::Store { var: 0, value: 1 }],
        ],
        bytes: 2,
    };
    let found = explore(&toy, Reduction::Full);
    assert_eq!(found.schedules, 3);
    assert_eq!(
        found.outcomes.values().map(|o| o.shortest.as_slice()).collect::<Vec<_>>(),
        [[1, 0]]
    );
}

#[test]
fn a_circle_is_an_error_that_names_the_way() {
    let circle = vec![Op::Load { var: 1 }, Op::Back];
    let start = vec![Op::Store { var: 0, value: 1 }, Op::Store { var: 0, value: 2 }];
    let waits = [vec![Op::Await { var: 0 }], circle.clone()].concat();
    for (toy, expected) in
        [(vec![circle], (vec![], vec![0, 0])), (vec![start, waits], (vec![0, 0, 1], vec![1, 1]))]
    {
        let toy = Toy { programs: toy, bytes: 2 };
        for reduction in [Reduction::Full, Reduction::Persistent] {
            for threads in [1, 2] {
                let explorer = Explorer::new(&toy, Limits::default(), reduction, threads);
                let error = explorer.explore().expect_err("it runs in a circle");
                let (lead, cycle) = expected.clone();
                assert_eq!(error, ExploreError::Cycle { lead, cycle });
                assert!(error.to_string().contains("runs in a circle"), "{error}");
            }
        }
    }
}

#[test]
fn too_many_actors_are_refused() {
    struct Crowd(Toy);
    // Only the number of actors differs from a toy.
    impl driftheap::explore::Machine for Crowd {
        type State = super::toys::ToyState;
        type Outcome = ();
        fn initial(&self) -> Self::State {
            self.0.initial()
        }
        fn actors(&self) -> usize {
            17
        }
        fn enabled(&self, _: &Self::State) -> u16 {
            0
        }
        fn unfinished(&self, _: &Self::State) -> u16 {
            0
        }
        fn apply(&self, _: &mut Self::State, _: u8) {}
        fn encode(&self, _: &Self::State, _: &mut Vec<u8>, _: &mut Vec<usize>) {}
        fn decode(&self, _: &[u8], _: &mut Self::State) {}
        fn next_footprint(&self, _: &Self::State, _: u8) -> driftheap::explore::Footprint {
            driftheap::explore::Footprint::NONE
        }
        fn rest_footprint(&self, _: &Self::State, _: u8) -> driftheap::explore::Footprint {
            driftheap::explore::Footprint::NONE
        }
        fn classify(&self, _: &Self::State) {}
    }
    let crowd = Crowd(independent(1, 1));
    let explorer = Explorer::new(&crowd, Limits::default(), Reduction::Full, 1);
    assert_eq!(explorer.explore(), Err(ExploreError::TooManyActors { actors: 17 }));
}
