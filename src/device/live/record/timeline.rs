//! When it happened: the events of a run with their times, for who draws them.

use std::collections::BTreeMap;

use super::{Actor, EventEnd, RecordedAction};
use crate::device::BufferId;
use crate::model::HazardKind;

/// Most moments that are kept; later ones are counted.
pub const MOMENTS_MAX: usize = 100_000;

/// What of something that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All of it, at once.
    Once,
    /// Its beginning.
    Begin,
    /// Its end.
    End(EventEnd),
}

/// One moment of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Whose doing; none for an end, which is its beginner's.
    pub actor: Option<Actor>,
    /// What is done.
    pub doing: RecordedAction,
    /// What of it.
    pub phase: Phase,
    /// What was wrong with it.
    pub kinds: Vec<HazardKind>,
}

/// The moments of a run, in order.
#[derive(Clone, Debug)]
pub struct Timeline {
    clock: fn() -> u64,
    /// The moments.
    pub moments: Vec<Moment>,
    /// How many there were beside those.
    pub left_out: u64,
    /// Name and heap of each buffer.
    pub buffers: BTreeMap<BufferId, (String, String)>,
}

impl Timeline {
    pub(super) const fn new(clock: fn() -> u64) -> Self {
        Self { clock, moments: Vec::new(), left_out: 0, buffers: BTreeMap::new() }
    }

    pub(super) fn note(
        &mut self,
        actor: Option<&Actor>,
        doing: &RecordedAction,
        phase: Phase,
        kinds: &[HazardKind],
    ) {
        if self.moments.len() >= MOMENTS_MAX {
            self.left_out += 1;
            return;
        }
        let (actor, doing, kinds) = (actor.cloned(), doing.clone(), kinds.to_vec());
        self.moments.push(Moment { at_ns: (self.clock)(), actor, doing, phase, kinds });
    }
}
