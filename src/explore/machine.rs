//! What the explorer asks of a state machine.
//!
//! The explorer knows nothing of dma-bufs, frames or page tables. It sees up to sixteen *actors*
//! (the `P0`, `P1`, ... of a litmus test), each of which has at most one next action in any state,
//! and it interleaves them. Everything it needs beyond that is in [`Machine`].
//!
//! The machine's graph must be acyclic: every action must bring its actor closer to its end. An
//! actor may take several actions at the same program counter (a load that faults first and loads
//! then), an action may be disabled by another actor (a lock that is taken) and enabled again, but
//! no sequence of actions may lead back to the state it began in. The explorer detects a cycle and
//! reports it with the schedule that leads there; it never loops.

use std::fmt;

use super::mail::TOLD_MAX;

/// The most actors a machine may have: one bit each in a `u16`.
pub const ACTORS_MAX: usize = 16;

/// By actor, its new name. Only interchangeable actors get each other's.
pub type ActorNames = [u8; ACTORS_MAX];

/// Nobody has another name.
pub const SAME_NAMES: ActorNames = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// What an explorer needs of a state machine: actors, each with at most one next action.
///
/// Everything must be a pure function of its arguments: the search decodes, applies and encodes
/// the same state many times and on several threads, and relies on getting the same answer.
pub trait Machine: Sync {
    /// A state, as convenient to compute with as the machine likes.
    ///
    /// The search reuses a few scratch states through `clone_from`, which should therefore not
    /// allocate once its destination is warm.
    type State: Clone + PartialEq + Send + Sync;

    /// What a complete run is judged by: final registers, memory, hazards seen.
    type Outcome: Ord + Clone + Send;

    /// The state in which every schedule begins.
    fn initial(&self) -> Self::State;

    /// The number of actors, at most [`ACTORS_MAX`]. Actors are numbered from 0.
    fn actors(&self) -> usize;

    /// The actors whose next action can happen now, one bit each.
    fn enabled(&self, state: &Self::State) -> u16;

    /// The actors that still have something to do, one bit each, whether it can happen now or not.
    fn unfinished(&self, state: &Self::State) -> u16;

    /// Performs the next action of `actor`, which is enabled.
    fn apply(&self, state: &mut Self::State, actor: u8);

    /// Appends the canonical bytes of `state`: equal if and only if the states are equal up to
    /// symmetry (frames that could be renamed into each other). At most 65535 bytes.
    ///
    /// Appends to `ends` where a *part* of the bytes ends, as positions in `out`: a part is what a
    /// step mostly leaves alone or changes as a whole. States that share parts share their memory.
    /// What follows the last end is a part too. Every state of a machine has as many parts; without
    /// any end it is one.
    ///
    /// Symmetry must not rename actors here; see [`interchangeable`](Self::interchangeable) for that.
    fn encode(&self, state: &Self::State, out: &mut Vec<u8>, ends: &mut Vec<usize>);

    /// Makes `state` the same as all states from which the same schedules lead to the same
    /// outcomes, as far as the machine can tell: what no action that is left looks at is made equal.
    /// It must not change what [`watch`](Self::watch) answers.
    ///
    /// [`Reduction::Full`](super::Reduction::Full) never asks for it.
    fn forget(&self, _state: &mut Self::State) {}

    /// Makes `state` any state whose canonical bytes are `bytes`, whatever it held before.
    fn decode(&self, bytes: &[u8], state: &mut Self::State);

    /// Makes `state` any state whose canonical bytes `parts` are together, if it is what they were before
    /// those of `stale`, a bit each, were replaced. What is no `stale` part need not be read again; of
    /// more than 16 parts all are.
    fn refresh(&self, parts: &[Vec<u8>], _stale: u16, state: &mut Self::State) {
        self.decode(&parts.concat(), state);
    }

    /// Makes `state`, which was made from `base` by a clone or by this, and then changed by
    /// [`apply`](Self::apply) and [`forget`](Self::forget) alone, what `base` is, which may have been
    /// [refreshed](Self::refresh) since. Need not touch what nobody has changed.
    fn restore(&self, base: &mut Self::State, state: &mut Self::State) {
        state.clone_from(base);
    }

    /// As [`encode`](Self::encode), of a state that was [restored](Self::restore) from one with the bytes
    /// `parts`, and then changed; but without those of the first 16 parts that are the same, and
    /// with an end for every part that it appends. Returns those that are the same, a bit each: all
    /// of them, and no other.
    fn encode_after(
        &self,
        state: &Self::State,
        parts: &[Vec<u8>],
        out: &mut Vec<u8>,
        ends: &mut Vec<usize>,
    ) -> u16 {
        encode_compared(self, state, parts, out, ends)
    }

    /// What the next action of `actor` reads and writes at most, whether it is enabled or not.
    ///
    /// What it reads includes all that decides *which* action comes next and whether it is enabled
    /// (the lock it waits for). An actor that has finished has an empty footprint.
    fn next_footprint(&self, state: &Self::State, actor: u8) -> Footprint;

    /// By actor of `enabled`, the lower ones of them with whose next action its own *commutes in
    /// this state*: neither disables the other, and both orders lead to the same state.
    ///
    /// May know more than [`next_footprint`](Self::next_footprint) does, which has to hold without
    /// a look at the state; and may leave out what it does not know.
    fn commuting(&self, state: &Self::State, enabled: u16) -> [u16; ACTORS_MAX] {
        let next = |actor| self.next_footprint(state, actor);
        commuting_pairs(enabled, next, |one, other| !one.conflicts(*other))
    }

    /// What `actor` may read and write from here to its end, its next action included.
    fn rest_footprint(&self, state: &Self::State, actor: u8) -> Footprint;

    /// The outcome of a *terminal* state, one in which no actor is enabled.
    ///
    /// A terminal state with [`unfinished`](Self::unfinished) actors is a deadlock.
    fn classify(&self, state: &Self::State) -> Self::Outcome;

    /// Classes of *interchangeable* actors, a bit each: the machine is the same when two of a class
    /// change places with all that is their own, and so is its initial state. A renamed state takes the
    /// renamed steps to the renamed states. None without a better answer.
    fn interchangeable(&self) -> &[u16] {
        &[]
    }

    /// Makes `to` what `from` is when interchangeable actors have other `names`.
    fn rename(&self, _from: &Self::State, _names: &ActorNames, _to: &mut Self::State) {}

    /// The outcome when interchangeable actors have other `names`.
    fn rename_outcome(&self, outcome: &Self::Outcome, _names: &ActorNames) -> Self::Outcome {
        outcome.clone()
    }

    /// Something of an interchangeable actor and what is its own that does not depend on names. The
    /// more it tells apart, the fewer orders have to be tried.
    fn rank(&self, _state: &Self::State, _actor: u8) -> u64 {
        0
    }

    /// Facts about a state that are worth the shortest way to them, such as "a hazard has just
    /// happened"; up to 32, one bit each. They must be the same for symmetric states, also when
    /// interchangeable actors have other names.
    ///
    /// The search records the first state, in order of distance, that shows each bit.
    fn watch(&self, _state: &Self::State) -> u32 {
        0
    }
}

/// Encodes any state, and compares it: see [`Machine::encode_after`].
pub(super) fn encode_compared<M: Machine + ?Sized>(
    machine: &M,
    state: &M::State,
    parts: &[Vec<u8>],
    out: &mut Vec<u8>,
    ends: &mut Vec<usize>,
) -> u16 {
    let (start, first) = (out.len(), ends.len());
    machine.encode(state, out, ends);
    ends.push(out.len());
    let (mut same, mut from, mut to, mut kept) = (0, start, start, first);
    for part in 0..ends.len() - first {
        let end = ends[first + part];
        if part < TOLD_MAX && parts.get(part).is_some_and(|old| *old == out[from..end]) {
            same |= 1 << part;
        } else {
            out.copy_within(from..end, to);
            to += end - from;
            ends[kept] = to;
            kept += 1;
        }
        from = end;
    }
    out.truncate(to);
    ends.truncate(kept);
    same
}

/// The objects that an action reads and writes, each a bit that the machine assigns.
///
/// Within one state the bits must mean the same for every actor. Too large a footprint costs
/// reduction; too small a footprint loses outcomes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Footprint {
    /// Objects that are read, or that decide what happens.
    pub reads: u128,
    /// Objects that are changed.
    pub writes: u128,
}

impl Footprint {
    /// Touches nothing.
    pub const NONE: Self = Self { reads: 0, writes: 0 };

    /// Whether the order of two actions with these footprints may matter.
    #[must_use]
    pub const fn conflicts(self, other: Self) -> bool {
        self.writes & (other.reads | other.writes) != 0 || other.writes & self.reads != 0
    }

    /// What both of them touch together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self { reads: self.reads | other.reads, writes: self.writes | other.writes }
    }
}

impl fmt::Debug for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Footprint {{ reads: {:#b}, writes: {:#b} }}", self.reads, self.writes)
    }
}

/// By actor of `enabled`, the lower ones of them of which `commute` holds with it: what
/// [`Machine::commuting`] answers, of what is to be known of each actor.
#[inline]
pub fn commuting_pairs<T: Copy + Default>(
    enabled: u16,
    mut about: impl FnMut(u8) -> T,
    commute: impl Fn(&T, &T) -> bool,
) -> [u16; ACTORS_MAX] {
    let mut known = [T::default(); ACTORS_MAX];
    let mut found = [0; ACTORS_MAX];
    for actor in actors_in(enabled) {
        let own = about(actor);
        let commutes = |lower: &u8| commute(&known[usize::from(*lower)], &own);
        let lower = actors_in(enabled & ((1 << actor) - 1)).filter(commutes);
        found[usize::from(actor)] = lower.fold(0, |set, lower| set | 1 << lower);
        known[usize::from(actor)] = own;
    }
    found
}

/// The numbers of the actors in a set, in ascending order.
pub fn actors_in(mut set: u16) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let actor = u8::try_from(set.trailing_zeros()).ok().filter(|_| set != 0)?;
        set &= set - 1;
        Some(actor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflict_needs_a_write_on_a_shared_object() {
        let read = Footprint { reads: 1, writes: 0 };
        let write = Footprint { reads: 0, writes: 1 };
        let elsewhere = Footprint { reads: 2, writes: 2 };
        assert!(!read.conflicts(read));
        assert!(read.conflicts(write) && write.conflicts(read) && write.conflicts(write));
        assert!(!elsewhere.conflicts(write) && !write.conflicts(elsewhere));
        assert!(elsewhere.union(read).conflicts(write));
        assert!(!Footprint::NONE.conflicts(write));
    }

    #[test]
    fn sets_iterate_in_ascending_order() {
        assert_eq!(actors_in(0).count(), 0);
        assert_eq!(actors_in(0b1000_0000_0000_0101).collect::<Vec<_>>(), [0, 2, 15]);
    }
}
