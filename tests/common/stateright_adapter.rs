//! Any [`Machine`] as a stateright model, to cross-check state counts and to compare speed.
//!
//! Include it with `#[path = "../common/stateright_adapter.rs"] mod stateright_adapter;`.

#![allow(dead_code, reason = "not every crate that includes this file uses all of it")]

use std::fmt::Debug;
use std::hash::Hash;

use driftheap::explore::{Machine, actors_in};
use stateright::{Checker, Model, Property};

/// Visits states as their canonical bytes: works for every machine, symmetric ones included.
#[derive(Debug)]
pub(crate) struct Encoded<M>(pub(crate) M);

/// Visits the machine's own states: stateright at its fastest, but blind to symmetry.
#[derive(Debug)]
pub(crate) struct Native<M>(pub(crate) M);

/// What both adapters ask for, since a search without an open question ends at once.
const OPEN_QUESTION: &str = "a state that is never found";

impl<M: Machine> Model for Encoded<M> {
    type State = Vec<u8>;
    type Action = u8;

    fn init_states(&self) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.encode(&self.0.initial(), &mut bytes, &mut Vec::new());
        vec![bytes]
    }

    fn actions(&self, bytes: &Vec<u8>, actions: &mut Vec<u8>) {
        let mut state = self.0.initial();
        self.0.decode(bytes, &mut state);
        actions.extend(actors_in(self.0.enabled(&state)));
    }

    fn next_state(&self, bytes: &Vec<u8>, actor: u8) -> Option<Vec<u8>> {
        let mut state = self.0.initial();
        self.0.decode(bytes, &mut state);
        self.0.apply(&mut state, actor);
        let mut next = Vec::with_capacity(bytes.len());
        self.0.encode(&state, &mut next, &mut Vec::new());
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::sometimes(OPEN_QUESTION, |_, _| false)]
    }
}

impl<M: Machine> Model for Native<M> {
    type State = M::State;
    type Action = u8;

    fn init_states(&self) -> Vec<M::State> {
        vec![self.0.initial()]
    }

    fn actions(&self, state: &M::State, actions: &mut Vec<u8>) {
        actions.extend(actors_in(self.0.enabled(state)));
    }

    fn next_state(&self, state: &M::State, actor: u8) -> Option<M::State> {
        let mut next = state.clone();
        self.0.apply(&mut next, actor);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::sometimes(OPEN_QUESTION, |_, _| false)]
    }
}

/// Distinct states, and states generated (the initial one and one per transition).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    /// Distinct states.
    pub(crate) unique: u64,
    /// Generated states.
    pub(crate) generated: u64,
}

/// Runs stateright's breadth-first checker to its end.
pub(crate) fn bfs<T>(model: T, threads: usize) -> Counts
where
    T: Model<Action = u8> + Send + Sync + 'static,
    T::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
{
    let checker = model.checker().threads(threads).spawn_bfs().join();
    Counts { unique: checker.unique_state_count() as u64, generated: checker.state_count() as u64 }
}
