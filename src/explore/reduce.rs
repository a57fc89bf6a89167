//! Fewer states, the same answers: states that are one, and persistent sets.
//!
//! # What was chosen, and why
//! Two things make a search large that an answer does not need. Each has its own reduction.
//!
//! *States that differ in what nobody looks at any more* ([`Reduction::Live`], the default). The
//! machine makes them equal ([`Machine::forget`]). Nothing is lost but the number of states: of two
//! states that are made equal the same schedules lead to the same outcomes, so the outcomes, the
//! number of schedules to each and the shortest of them are those of the full search, exactly. This
//! is the reduction that pays for tests of memory: who wrote a page last, and which entries a process
//! had that has done with them, is most of a state.
//!
//! *The order of actions that touch different objects* ([`Reduction::Persistent`], on top of the
//! first). In each state the search follows only a *persistent set* of the enabled actions: one such
//! that nothing the other actors can do, now or later, before an action of the set happens, conflicts
//! with an action of the set (Godefroid, *Partial-Order Methods for the Verification of Concurrent
//! Systems*, 1996, chapter 4). Numbers of schedules are then of representatives, so that nobody gets
//! it unasked. Sleep sets would save transitions and no state: every state that they leave is reached
//! another way. A state with one way on is passed through and not kept, unless it shows something
//! that is watched: an edge then stands for several actions, and the shortest schedules are found in
//! the graph, by the lengths of its edges, when it is complete.
//!
//! *What is known already* costs the searches that follow every edge less, and leaves nothing out.
//! Where the next actions of two actors commute in a state ([`Machine::commuting`]), both orders lead
//! to one state. The order that comes first is followed; where the other one leads is read off the
//! graph ([`super::graph::Graph::lead_as_known`]). That saves a quarter to a half of the edges of most questions, and with an
//! edge applying it, forgetting, encoding and looking up. It is what sleep sets leave out, kept so
//! that schedules can be counted.
//!
//! # What has to be proved
//! - Of `forget`: let *s* and *t* be states that it makes equal. They have the same enabled actors,
//!   the same outcome if there are none, the same watched bits; and the same actor's action leads to
//!   two states that it makes equal again. (It is a bisimulation.) By induction over the length of
//!   schedules, the same words lead from both to the same outcomes. The tests hold every number of
//!   schedules and every shortest schedule of a search against the full one's.
//! - Of `commuting`: both actors can go, neither disables the other, and both orders lead to states with
//!   the same encoding, or with the same future where states are made equal. The tests try every pair
//!   in every state of the suite and of random tests, and compare with a search that knows nothing.
//! - Of footprints: two actions of different actors whose footprints do not conflict commute in every
//!   state, neither enables or disables the other, and an actor's *rest* holds whatever it may still
//!   do. The tests hold every action against its footprint.
//!
//! # Persistent sets
//! The set is a closure over conflicts, computed from footprints:
//!
//! 1. begin with one enabled actor;
//! 2. for each member, add every actor that may at any time still do something that conflicts with
//!    the member's next action. For a member that is disabled this includes whoever could enable
//!    it, because its footprint reads what it waits for;
//! 3. of the closures over all beginnings, take the one with the fewest enabled actors.
//!
//! What it preserves: every outcome and every deadlock, and the *length* of the shortest complete
//! schedule to each, since all orders of a schedule's independent actions are equally long. What it
//! does not: states on the way, the number of schedules, and which of several shortest schedules is
//! found. The graph being acyclic, no action can be put off for ever.

use super::machine::{ACTORS_MAX, Footprint, Machine, actors_in};

/// Which of the enabled actions a search follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reduction {
    /// All of them: every interleaving, every state.
    Full,
    /// All of them, but states from which the same schedules lead to the same outcomes are one
    /// ([`Machine::forget`]): the same outcomes, numbers of schedules and shortest schedules as
    /// [`Full`](Self::Full), with fewer states.
    #[default]
    Live,
    /// A persistent set of them: every terminal state, far fewer states on the way.
    Persistent,
}

impl Reduction {
    /// Lets go of what no action that is left looks at.
    #[inline]
    pub(super) fn forget<M: Machine>(self, machine: &M, state: &mut M::State) {
        if self != Self::Full {
            machine.forget(state);
        }
    }

    /// By actor of `chosen`, the lower ones that commute with it in `state`, and that the search follows
    /// after it, too: none where it may leave actors out.
    pub(super) fn commuting<M: Machine>(
        self,
        machine: &M,
        state: &M::State,
        chosen: u16,
    ) -> [u16; ACTORS_MAX] {
        match self {
            Self::Full | Self::Live if chosen.count_ones() > 1 => machine.commuting(state, chosen),
            Self::Full | Self::Live | Self::Persistent => [0; ACTORS_MAX],
        }
    }

    /// The actors to follow from `state`: a subset of `enabled`, empty only if `enabled` is.
    pub(super) fn choose<M: Machine>(self, machine: &M, state: &M::State, enabled: u16) -> u16 {
        match self {
            Self::Persistent if enabled.count_ones() > 1 => persistent(machine, state, enabled),
            Self::Full | Self::Live | Self::Persistent => enabled,
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
