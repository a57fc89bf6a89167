//! A limit that is reached is said, and what was found until then is exact.

use std::ops::ControlFlow;

use driftheap::explore::{Explorer, Limits, Progress, Reached, Reduction, Stop};

use super::toys::{independent, workload};

#[test]
fn the_state_limit_stops_exactly_there() {
    let toy = independent(4, 3);
    for states_max in [1, 2, 100, 255, 256, 257] {
        let limits = Limits { states_max, ..Limits::default() };
        let found = Explorer::new(&toy, limits, Reduction::Full, 1).explore().expect("no circle");
        assert_eq!(found.states, u64::from(states_max.min(256)));
        assert_eq!(found.complete, states_max >= 256, "{states_max}");
        assert_eq!(found.stopped, (states_max < 256).then_some(Stop::States { states_max }));
        assert_eq!(found.counts_every_schedule(), found.complete);
    }
    let limits = Limits { states_max: 100, ..Limits::default() };
    let reached = Explorer::new(&toy, limits, Reduction::Full, 1)
        .shortest_to(|state| state.pcs[..4] == [3; 4]);
    assert_eq!(reached, Ok(Reached::Unknown(Stop::States { states_max: 100 })));
}

#[test]
fn the_memory_limit_stops_with_a_partial_answer() {
    let toy = workload(4, 3);
    let all = Explorer::new(&toy, Limits::default(), Reduction::Full, 1).explore();
    let all = all.expect("no circle");
    let limits = Limits { memory_bytes_max: 4 << 20, ..Limits::default() };
    let some = Explorer::new(&toy, limits, Reduction::Full, 1).explore().expect("no circle");
    assert!(all.complete && !some.complete && some.states < all.states);
    let stop = some.stopped.expect("it stopped");
    assert!(matches!(stop, Stop::Memory { bytes_max, bytes } if bytes > bytes_max));
    assert!(stop.to_string().contains("over the limit of 4 MiB"), "{stop}");
}

#[test]
fn limits_stop_several_threads_at_the_same_place() {
    let toy = workload(5, 3);
    let limits = [
        Limits { states_max: 30_000, ..Limits::default() },
        Limits { states_max: 30_001, ..Limits::default() },
    ];
    for limits in limits {
        let explore = |threads| Explorer::new(&toy, limits, Reduction::Full, threads).explore();
        let one = explore(1).expect("no circle");
        assert!(one.stopped.is_some(), "{limits:?}");
        for threads in [2, 3] {
            assert_eq!(explore(threads).as_ref(), Ok(&one), "{limits:?}, {threads} threads");
        }
    }
}

/// Several threads keep the parts of states several times, so that they may stop a little earlier;
/// but always at the same place.
#[test]
fn the_memory_limit_stops_every_run_at_the_same_place() {
    let toy = workload(5, 3);
    let limits = Limits { memory_bytes_max: 20 << 20, ..Limits::default() };
    let explore = |threads| Explorer::new(&toy, limits, Reduction::Full, threads).explore();
    let one = explore(1).expect("no circle");
    for threads in [2, 3] {
        let several = explore(threads).expect("no circle");
        assert_eq!(explore(threads).as_ref(), Ok(&several), "{threads} threads");
        assert!(several.stopped.is_some() && several.states <= one.states, "{threads} threads");
        assert!(several.states * 2 > one.states, "{} of {}", several.states, one.states);
    }
}

#[test]
fn progress_is_told_and_only_grows() {
    let toy = workload(5, 2);
    let mut told: Vec<Progress> = Vec::new();
    let explorer = Explorer::new(&toy, Limits::default(), Reduction::Full, 1);
    let found = explorer.explore_with_progress(1000, &mut |progress| {
        told.push(progress);
        ControlFlow::Continue(())
    });
    let states = found.expect("no circle").states;
    assert!(told.len() > 3, "{told:?}");
    assert!(told.is_sorted_by_key(|progress| progress.states));
    assert!(told.is_sorted_by_key(|progress| progress.bytes) && told[0].bytes > 0);
    assert!(told.iter().all(|p| p.states <= states && p.expanded <= p.states));
}

#[test]
fn who_is_told_may_ask_for_an_end() {
    let toy = workload(5, 2);
    let explorer = Explorer::new(&toy, Limits::default(), Reduction::Full, 1);
    let some = explorer.explore_with_progress(1000, &mut |_| ControlFlow::Break(()));
    let some = some.expect("no circle");
    assert_eq!(some.stopped, Some(Stop::Asked));
    let all = explorer.explore().expect("no circle");
    assert!(!some.complete && (1000..all.states).contains(&some.states), "{}", some.states);
    assert!(some.outcomes.keys().all(|outcome| all.outcomes.contains_key(outcome)));
}
