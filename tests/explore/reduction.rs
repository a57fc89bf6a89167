//! The reduced search has the outcomes of the full one, with fewer states.

use driftheap::explore::{Explorer, Footprint, Limits, Machine, Reduction};

use super::explore;
use super::toys::{
    Toy, ToyOutcome, ToyState, allocating, independent, philosophers, racing, workload,
};

/// Explores both ways and returns the states of each.
fn check(toy: &Toy) -> (u64, u64) {
    let full = explore(toy, Reduction::Full);
    let reduced = explore(toy, Reduction::Persistent);
    let lengths = |found: &driftheap::explore::Exploration<ToyOutcome>| {
        let outcomes = found.outcomes.iter();
        let length = |(o, stats): (&ToyOutcome, &driftheap::explore::OutcomeStats)| {
            (o.clone(), stats.states, stats.shortest.len())
        };
        outcomes.map(length).collect::<Vec<_>>()
    };
    assert_eq!(lengths(&full), lengths(&reduced), "{toy:?}");
    assert_eq!(full.terminal_states, reduced.terminal_states, "{toy:?}");
    assert_eq!(full.deadlock_states, reduced.deadlock_states, "{toy:?}");
    assert!(reduced.schedules <= full.schedules, "{toy:?}");
    assert!(!reduced.counts_every_schedule() && full.counts_every_schedule());
    (full.states, reduced.states)
}

#[test]
fn toys_have_the_same_outcomes_with_pinned_states() {
    assert_eq!(check(&independent(4, 3)), (256, 3));
    assert_eq!(check(&racing(3, 2)), (2358, 1940));
    assert_eq!(check(&philosophers(3, 1)), (75, 23));
    assert_eq!(check(&philosophers(5, 2)), (20_345, 2458));
    assert_eq!(check(&allocating(4)), (81, 18));
    assert_eq!(check(&workload(4, 2)), (9883, 1285));
}

#[test]
fn a_footprint_that_leaves_something_out_loses_outcomes() {
    /// Claims that its actors never touch the same thing.
    struct Liar(Toy);
    impl Machine for Liar {
        type State = ToyState;
        type Outcome = ToyOutcome;
        fn initial(&self) -> ToyState {
            self.0.initial()
        }
        fn actors(&self) -> usize {
            self.0.actors()
        }
        fn enabled(&self, state: &ToyState) -> u16 {
            self.0.enabled(state)
        }
        fn unfinished(&self, state: &ToyState) -> u16 {
            self.0.unfinished(state)
        }
        fn apply(&self, state: &mut ToyState, actor: u8) {
            self.0.apply(state, actor);
        }
        fn encode(&self, state: &ToyState, out: &mut Vec<u8>, ends: &mut Vec<usize>) {
            self.0.encode(state, out, ends);
        }
        fn decode(&self, bytes: &[u8], state: &mut ToyState) {
            self.0.decode(bytes, state);
        }
        fn next_footprint(&self, _: &ToyState, _: u8) -> Footprint {
            Footprint::NONE
        }
        fn rest_footprint(&self, _: &ToyState, _: u8) -> Footprint {
            Footprint::NONE
        }
        fn classify(&self, state: &ToyState) -> ToyOutcome {
            self.0.classify(state)
        }
    }
    let liar = Liar(racing(2, 1));
    let full = explore(&liar.0, Reduction::Full);
    // By what it leaves out, and by what it takes as known.
    for reduction in [Reduction::Persistent, Reduction::Full] {
        let found = explore(&liar, reduction);
        assert!(found.outcomes.len() < full.outcomes.len(), "the comparison can fail");
    }
}

#[test]
fn reduced_schedules_can_be_run() {
    let toy = philosophers(4, 1);
    let explorer = Explorer::new(&toy, Limits::default(), Reduction::Persistent, 1);
    for (outcome, stats) in explorer.explore().expect("no circle").outcomes {
        let run = explorer.run(&stats.shortest).expect("every step is enabled");
        assert_eq!(run.outcome, Some(outcome));
    }
}
