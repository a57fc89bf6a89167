//! The explorer against closed forms, brute force, stateright and itself.

#[path = "../common/stateright_adapter.rs"]
mod stateright_adapter;
#[path = "../common/toys.rs"]
mod toys;

mod brute;
mod counts;
mod limits;
mod random;
mod reduction;
mod sampling;
mod threads;

use driftheap::explore::{Exploration, Explorer, Limits, Machine, Reduction};

/// Explores on one thread with the usual limits.
fn explore<M: Machine>(machine: &M, reduction: Reduction) -> Exploration<M::Outcome> {
    let exploration = Explorer::new(machine, Limits::default(), reduction, 1).explore();
    exploration.expect("toys run in no circle")
}
