//! What an exploration is asked for and what it answers.

use std::collections::BTreeMap;
use std::fmt;

use super::machine::actors_in;
use super::reduce::Reduction;
use super::store::{MEMORY_BYTES_MAX, STATES_MAX};

/// How far a search may go before it stops with a partial answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most states to visit; at most 2^28.
    pub states_max: u32,
    /// The most memory to occupy, as estimated from what is stored; at most 16 GiB.
    pub memory_bytes_max: u64,
    /// The most actions of a single schedule that is run or sampled.
    pub steps_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { states_max: 50_000_000, memory_bytes_max: 4 << 30, steps_max: 1 << 20 }
    }
}

impl Limits {
    /// The limits, lowered to what the search can represent.
    pub(super) fn clamped(self) -> Self {
        Self {
            states_max: self.states_max.clamp(1, STATES_MAX),
            memory_bytes_max: self.memory_bytes_max.min(MEMORY_BYTES_MAX),
            ..self
        }
    }
}

/// Why a search ended before it had seen everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// [`Limits::states_max`] states have been visited and there are more.
    States {
        /// The limit.
        states_max: u32,
    },
    /// More than [`Limits::memory_bytes_max`] is occupied and there is more to expand.
    Memory {
        /// What is occupied.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Whoever was told of the progress asked for an end.
    Asked,
    /// What was looked for has been found.
    Found,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::States { states_max } => write!(
                f,
                "stopped at the limit of {states_max} states with more to visit: outcomes may be \
                 missing; raise the state limit, or ask a smaller question"
            ),
            Self::Memory { bytes, bytes_max } => write!(
                f,
                "stopped with {} MiB of states, over the limit of {} MiB, and more to visit: \
                 outcomes may be missing; raise the memory limit, or ask a smaller question",
                bytes >> 20,
                bytes_max >> 20
            ),
            Self::Found => f.write_str(
                "stopped at the first schedule that shows it: how many there are, and whether others \
                 end otherwise, was not asked",
            ),
            Self::Asked => f.write_str(
                "interrupted with more to visit: outcomes may be missing; what was seen can happen",
            ),
        }
    }
}

/// How far a search has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// States visited so far.
    pub states: u64,
    /// Of these, states whose successors are known.
    pub expanded: u64,
    /// Transitions followed so far.
    pub transitions: u64,
    /// Distance from the initial state of the states that are being found.
    pub depth: u32,
    /// Memory occupied, nearly.
    pub bytes: u64,
}

/// What is known of one outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutcomeStats {
    /// Complete schedules that end in it; see [`Exploration::schedules`].
    pub schedules: u128,
    /// Terminal states that have it.
    pub states: u64,
    /// The actors, in turn, of a shortest complete schedule that ends in it; of several shortest,
    /// the lexicographically least among those explored.
    pub shortest: Vec<u8>,
}

/// What a search found.
///
/// The same machine, limits and reduction always give the same answer, with any number of threads;
/// a search that stops at its memory limit stops earlier with more threads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exploration<O> {
    /// Distinct states visited, the initial state included.
    pub states: u64,
    /// Transitions followed.
    pub transitions: u64,
    /// States visited in which no actor is enabled.
    pub terminal_states: u64,
    /// Of these, states in which an actor has not finished.
    pub deadlock_states: u64,
    /// The largest distance, in actions, of a state from the initial state.
    pub depth_max: u32,
    /// Every outcome seen.
    pub outcomes: BTreeMap<O, OutcomeStats>,
    /// Complete schedules explored: of a complete search that is not [`Reduction::Persistent`], the
    /// exact number of interleavings; of a reduced search, the number of representatives followed; of an
    /// incomplete search, a lower bound.
    pub schedules: u128,
    /// A number of schedules did not fit 128 bits and is given as `u128::MAX`.
    pub is_saturated: bool,
    /// By bit of [`Machine::watch`](super::Machine::watch), a shortest schedule to a state that
    /// shows it. A reduced search may miss a bit, or a shorter way to it.
    pub watched: BTreeMap<u32, Vec<u8>>,
    /// Which interleavings were followed.
    pub reduction: Reduction,
    /// Classes of actors, a bit each, of whose orders one stands for all: see
    /// [`Machine::interchangeable`](super::Machine::interchangeable). Every number but those of states
    /// and transitions counts them all.
    pub interchangeable: Vec<u16>,
    /// Everything was visited: outcomes that are not listed do not exist.
    pub complete: bool,
    /// If not, why.
    pub stopped: Option<Stop>,
}

impl<O> Exploration<O> {
    /// The classes of [`interchangeable`](Self::interchangeable), as numbers of actors.
    pub fn interchangeable(&self) -> impl Iterator<Item = Vec<u8>> + use<'_, O> {
        self.interchangeable.iter().map(|class| actors_in(*class).collect())
    }

    /// Why it ended early, and what it has seen by then: nothing of a complete search.
    #[must_use]
    pub fn stopped_text(&self) -> Option<String> {
        let stop = self.stopped?;
        let seen = match (self.reduction, self.depth_max) {
            (Reduction::Persistent, _) | (_, 0) => String::new(),
            (_, steps) => format!("; every schedule of up to {steps} steps was followed"),
        };
        let is_full = matches!(stop, Stop::States { .. } | Stop::Memory { .. });
        let less = if is_full && self.reduction != Reduction::Persistent {
            "; the reduced search needs less"
        } else {
            ""
        };
        Some(format!("{stop}{seen}{less}"))
    }

    /// Whether [`schedules`](Self::schedules) are the exact numbers of all interleavings.
    #[must_use]
    pub fn counts_every_schedule(&self) -> bool {
        self.complete && !self.is_saturated && self.reduction != Reduction::Persistent
    }
}

/// The answer of a search for a state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reached {
    /// The actors, in turn, of a shortest schedule that leads there; of several, the
    /// lexicographically least.
    By(Vec<u8>),
    /// No schedule leads there.
    Never,
    /// None of the states visited before the limit is one.
    Unknown(Stop),
}

/// Why a machine can't be explored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExploreError {
    /// [`Machine::actors`](super::Machine::actors) is more than a `u16` has bits.
    #[error("the machine has {actors} actors, but at most 16 can be explored; merge or drop some")]
    TooManyActors {
        /// How many.
        actors: usize,
    },
    /// The machine can come back to a state, so that its schedules never end.
    #[error(
        "the machine runs in a circle: after the schedule {lead:?} the actors {cycle:?} lead back \
         to the same state; every action must bring its actor closer to its end"
    )]
    Cycle {
        /// The actors, in turn, on the way to a state of the cycle.
        lead: Vec<u8>,
        /// The actors, in turn, from there back to it.
        cycle: Vec<u8>,
    },
}
/// When a search may stop before it has seen everything.
pub struct Until<'w, O> {
    /// One of these watched bits has been seen.
    pub bits: u32,
    /// An outcome of which this holds has been seen.
    pub wanted: &'w dyn Fn(&O) -> bool,
    /// But not before so many states were.
    pub after: u64,
}

impl<O> fmt::Debug for Until<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bits, wanted: _, after } = self;
        f.debug_struct("Until").field("bits", bits).field("after", after).finish_non_exhaustive()
    }
}

impl<O> Until<'_, O> {
    /// All has been seen.
    pub(super) const NEVER: Self = Self { bits: 0, wanted: &|_| false, after: 0 };
}
