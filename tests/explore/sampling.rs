//! Single schedules: run, refused, drawn.

use std::collections::BTreeSet;

use driftheap::explore::{Explorer, Limits, Reduction, ScheduleError};
use driftheap::random::SplitMix64;

use super::explore;
use super::toys::{Op, Toy, philosophers, racing};

#[test]
fn a_run_passes_through_every_state() {
    let toy = racing(2, 1);
    let explorer = Explorer::new(&toy, Limits::default(), Reduction::Full, 1);
    let run = explorer.run(&[0, 1, 0, 1]).expect("enabled");
    let bytes: Vec<_> = run.states.iter().map(|state| state.bytes[0]).collect();
    assert_eq!(bytes, [0, 0, 0, 1, 1]);
    assert_eq!(run.outcome.map(|(_, bytes, _)| bytes), Some(vec![1]));
    let run = explorer.run(&[0]).expect("enabled");
    assert_eq!((run.enabled, run.outcome), (0b11, None));
}

#[test]
fn a_step_that_can_not_be_taken_is_named() {
    let toy = philosophers(2, 1);
    let explorer = Explorer::new(&toy, Limits::default(), Reduction::Full, 1);
    for (schedule, position, actor, enabled, text) in [
        (&[0, 0, 1][..], 2, 1, 0b01, "step 3 of the schedule: actor 1 can't move here; enabled: 0"),
        (&[0, 1, 1], 2, 1, 0, "step 3 of the schedule: actor 1 can't move here; nobody can"),
        (&[9], 0, 9, 0b11, "enabled: 0, 1"),
        (&[0, 200], 1, 200, 0b11, "actor 200"),
    ] {
        let error = explorer.run(schedule).expect_err("not enabled");
        assert_eq!(error, ScheduleError::NotEnabled { position, actor, enabled });
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn samples_are_distinct_complete_and_reproducible() {
    let toy = philosophers(3, 2);
    let explorer = Explorer::new(&toy, Limits::default(), Reduction::Full, 1);
    let draw = |seed, count| explorer.sample(&mut SplitMix64::new(seed), count).expect("it ends");
    let samples = draw(1, 500);
    assert_eq!(samples.len(), 500);
    assert_eq!(samples, draw(1, 500));
    assert_ne!(samples, draw(2, 500));
    let distinct: BTreeSet<_> = samples.iter().map(|sample| &sample.schedule).collect();
    assert_eq!(distinct.len(), 500);
    for sample in &samples {
        let run = explorer.run(&sample.schedule).expect("every step is enabled");
        assert_eq!(run.outcome.as_ref(), Some(&sample.outcome));
    }
}

#[test]
fn drawing_more_than_there_are_draws_each_once() {
    for toy in [racing(2, 1), racing(3, 1), philosophers(2, 2), Toy { programs: vec![], bytes: 0 }]
    {
        let explorer = Explorer::new(&toy, Limits::default(), Reduction::Full, 1);
        let samples = explorer.sample(&mut SplitMix64::new(7), 100_000).expect("it ends");
        let distinct: BTreeSet<_> = samples.iter().map(|sample| &sample.schedule).collect();
        let found = explore(&toy, Reduction::Full);
        assert_eq!((samples.len(), distinct.len() as u128), (distinct.len(), found.schedules));
    }
}

#[test]
fn a_machine_that_never_ends_is_not_run_for_ever() {
    let toy = Toy { programs: vec![vec![Op::Load { var: 0 }, Op::Back]], bytes: 1 };
    let limits = Limits { steps_max: 1000, ..Limits::default() };
    let explorer = Explorer::new(&toy, limits, Reduction::Full, 1);
    let error = ScheduleError::TooLong { steps_max: 1000 };
    assert_eq!(explorer.sample(&mut SplitMix64::new(0), 1), Err(error.clone()));
    assert_eq!(explorer.run(&[0; 1001]).map(|_| ()), Err(error));
}
