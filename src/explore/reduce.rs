//! Partial-order reduction by persistent sets.
//!
//! If two actions touch different objects their order does not matter, and exploring one of the
//! two orders is enough. In each state the reduced search follows only a *persistent set* of the
//! enabled actions: one such that nothing the other actors can do, now or later, before an action
//! of the set happens, conflicts with an action of the set (Godefroid, *Partial-Order Methods for
//! the Verification of Concurrent Systems*, 1996, chapter 4).
//!
//! The set is a closure over conflicts, computed from footprints:
//!
//! 1. begin with one enabled actor;
//! 2. for each member, add every actor that may at any time still do something that conflicts with
//!    the member's next action. For a member that is disabled this includes whoever could enable
//!    it, because its footprint reads what it waits for;
//! 3. of the closures over all beginnings, take the one with the fewest enabled actors.
//!
//! What it preserves: every terminal state (hence every outcome and every deadlock), and the
//! *length* of the shortest complete schedule to each, since all orders of a schedule's independent
//! actions are equally long. What it does not: states on the way, the number of schedules, and
//! which of several shortest schedules is found. The graph being acyclic, no action can be put off
//! for ever.

use super::machine::{ACTORS_MAX, Footprint, Machine, actors_in};

/// Which of the enabled actions a search follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reduction {
    /// All of them: every interleaving, every state.
    #[default]
    Full,
    /// A persistent set of them: every terminal state, far fewer states on the way.
    Persistent,
}

impl Reduction {
    /// The actors to follow from `state`: a subset of `enabled`, empty only if `enabled` is.
    pub(super) fn choose<M: Machine>(self, machine: &M, state: &M::State, enabled: u16) -> u16 {
        match self {
            Self::Persistent if enabled.count_ones() > 1 => persistent(machine, state, enabled),
            Self::Full | Self::Persistent => enabled,
        }
    }
}

fn persistent<M: Machine>(machine: &M, state: &M::State, enabled: u16) -> u16 {
    let actors = machine.actors();
    let mut rest = [Footprint::NONE; ACTORS_MAX];
    for (actor, rest) in (0u8..).zip(&mut rest[..actors]) {
        *rest = machine.rest_footprint(state, actor);
    }
    // By member, the actors it brings along; filled in when a closure first reaches the member.
    let mut drawn: [Option<u16>; ACTORS_MAX] = [None; ACTORS_MAX];
    let mut draws = |member: u8| {
        *drawn[usize::from(member)].get_or_insert_with(|| {
            let next = machine.next_footprint(state, member);
            let conflicting = |(bit, rest): (u32, &Footprint)| {
                u16::from(bit != u32::from(member) && next.conflicts(*rest)) << bit
            };
            (0u32..).zip(&rest[..actors]).map(conflicting).fold(0, |set, bit| set | bit)
        })
    };

    let mut best = enabled;
    for start in actors_in(enabled) {
        let mut set = 1u16 << start;
        let mut unclosed = set;
        while unclosed != 0 {
            let member = actors_in(unclosed).next().unwrap_or_default();
            unclosed &= unclosed - 1;
            let new = draws(member) & !set;
            set |= new;
            unclosed |= new;
        }
        if (set & enabled).count_ones() < best.count_ones() {
            best = set & enabled;
        }
        if best.count_ones() == 1 {
            break;
        }
    }
    assert!(best != 0 && best & !enabled == 0, "a persistent set holds an enabled action");
    best
}
