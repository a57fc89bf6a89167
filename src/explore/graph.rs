//! What a search finds out: the graph of states, and what was seen in them.

use std::collections::BTreeMap;

use super::ids::{StateId, Way, to_u32};
use super::machine::{ActorNames, SAME_NAMES};
use super::naming::{after, inverse};
use super::result::Stop;

/// A terminal state, and an outcome that it stands for.
pub(super) struct Terminal<O> {
    pub(super) at: StateId,
    pub(super) is_deadlock: bool,
    pub(super) outcome: O,
    /// How many outcomes it stands for, and which of them this is.
    pub(super) of: u32,
    pub(super) nth: u32,
}

/// What expanding states brought to light, in the order of expansion.
pub(super) struct Findings<O> {
    pub(super) terminals: Vec<Terminal<O>>,
    /// States that showed watched bits which no state before them in these findings had.
    pub(super) watched: Vec<(StateId, u32)>,
    pub(super) bits: u32,
}

impl<O> Default for Findings<O> {
    fn default() -> Self {
        Self { terminals: Vec::new(), watched: Vec::new(), bits: 0 }
    }
}

impl<O> Findings<O> {
    pub(super) fn clear(&mut self) {
        self.terminals.clear();
        self.watched.clear();
        self.bits = 0;
    }
}

/// The explored graph, kept by the leading thread.
pub(super) struct Graph<O> {
    shard_bits: u32,
    /// Visited states in canonical order; the first [`Self::expanded`] have been expanded.
    pub(super) order: Vec<StateId>,
    /// By position in `order`, the actors that were followed, and the first of their edges.
    pub(super) followed: Vec<u16>,
    first_edges: Vec<u32>,
    /// Where they led, states in order and actors ascending.
    pub(super) edges: Vec<StateId>,
    /// By edge, the actions that it stands for; empty where that is one everywhere.
    spans: Vec<u8>,
    pub(super) passes: bool,
    /// By edge, which of `orders` are the names behind it; empty where nobody has another.
    names: Vec<u32>,
    orders: Vec<ActorNames>,
    /// Where each is.
    places: BTreeMap<ActorNames, u32>,
    pub(super) renames: bool,
    /// Whether every edge leads one level on, so that the canonical order is topological.
    pub(super) is_levelled: bool,
    /// Largest distance of a state from the initial state.
    pub(super) depth_max: u32,
    /// Terminal states in canonical order, with the number of an outcome each, and of how many.
    pub(super) terminals: Vec<(StateId, u32, u32)>,
    pub(super) terminal_states: u64,
    /// Outcomes, numbered in order of first appearance.
    pub(super) outcomes: BTreeMap<O, u32>,
    pub(super) deadlocks: u64,
    /// By watched bit, the first state that shows it.
    pub(super) watched: BTreeMap<u32, StateId>,
    pub(super) stopped: Option<Stop>,
    /// By shard, states seen in `order`, and states up to the end of the level being expanded.
    seen: Vec<u32>,
    level_end: Vec<u32>,
    /// By state index, its position in `order`; empty where there is one shard, and they are the same.
    positions: Vec<u32>,
}

impl<O: Ord> Graph<O> {
    pub(super) fn new(shard_bits: u32, passes: bool, renames: bool) -> Self {
        let by_shard = vec![0; 1 << shard_bits];
        Self {
            shard_bits,
            order: Vec::new(),
            followed: Vec::new(),
            first_edges: Vec::new(),
            edges: Vec::new(),
            spans: Vec::new(),
            passes,
            names: Vec::new(),
            orders: Vec::new(),
            places: BTreeMap::new(),
            renames,
            is_levelled: true,
            depth_max: 0,
            terminals: Vec::new(),
            terminal_states: 0,
            outcomes: BTreeMap::new(),
            deadlocks: 0,
            watched: BTreeMap::new(),
            stopped: None,
            seen: by_shard.clone(),
            level_end: by_shard,
            positions: Vec::new(),
        }
    }

    /// The number of states that have been expanded.
    pub(super) fn expanded(&self) -> usize {
        self.followed.len()
    }

    /// Begins a level: all states that were seen by now are on this one or before.
    pub(super) fn begin_level(&mut self, depth: u32) {
        self.level_end.clone_from(&self.seen);
        self.depth_max = depth;
    }

    /// Notes that a state was reached, in canonical order of edges.
    pub(super) fn reach(&mut self, shard: u32, local: u32) -> StateId {
        let id = StateId::new(shard, local, self.shard_bits);
        let seen = &mut self.seen[shard as usize];
        if local == *seen {
            *seen += 1;
            if self.shard_bits > 0 {
                let room = self.positions.len().max(id.index() + 1);
                self.positions.resize(room, 0);
                self.positions[id.index()] = to_u32(self.order.len());
            }
            self.order.push(id);
        } else {
            assert!(local < *seen, "states of a shard are numbered in canonical order");
            self.is_levelled &= local >= self.level_end[shard as usize];
        }
        id
    }

    /// Notes where `actor` leads from the state that is being expanded, which was first reached by `way`
    /// and on which that is known: of two actions that commute the one that is first in canonical
    /// order was followed there, and then the other.
    pub(super) fn lead_as_known(&mut self, way: Way, actor: u8) {
        if !self.renames {
            let first = self.edges[self.edge(way.parent, actor)];
            let to = self.edges[self.edge(first, way.actor)];
            return self.lead_again(to, &SAME_NAMES);
        }
        let own = self.order(self.edge(way.parent, way.actor));
        let first = self.edge(way.parent, inverse(&own)[usize::from(actor)]);
        let names = self.order(first);
        let second = self.edge(self.edges[first], names[usize::from(way.actor)]);
        let names = after(&after(&inverse(&own), &names), &self.order(second));
        self.lead_again(self.edges[second], &names);
    }

    /// Notes an edge to a state that another leads to.
    fn lead_again(&mut self, to: StateId, names: &ActorNames) {
        let to = self.reach(to.shard(self.shard_bits), to.local(self.shard_bits));
        self.lead(to, 1, names);
    }

    /// The names that actors have behind an edge, by those before.
    fn order(&self, edge: usize) -> ActorNames {
        self.names.get(edge).map_or(SAME_NAMES, |order| self.orders[*order as usize])
    }

    /// The edge of `actor` from a state that has been expanded.
    fn edge(&self, from: StateId, actor: u8) -> usize {
        let position = match self.shard_bits {
            0 => from.index(),
            _ => self.positions[from.index()] as usize,
        };
        let followed = self.followed[position];
        assert!(followed >> actor & 1 != 0, "Machine::commuting: an action was disabled");
        let before = followed & ((1 << actor) - 1);
        (self.first_edges[position] + before.count_ones()) as usize
    }

    /// Notes an edge of the state that is being expanded.
    pub(super) fn lead(&mut self, to: StateId, steps: u8, names: &ActorNames) {
        self.edges.push(to);
        if self.renames {
            let place = *self.places.entry(*names).or_insert_with(|| {
                self.orders.push(*names);
                to_u32(self.orders.len() - 1)
            });
            self.names.push(place);
        }
        if self.passes {
            self.spans.push(steps);
        }
    }

    /// The actions that an edge stands for.
    pub(super) fn span(&self, edge: usize) -> u32 {
        self.spans.get(edge).map_or(1, |steps| u32::from(*steps))
    }

    /// Notes that a state was expanded, whose edges are the last, from `first_edge` on.
    pub(super) fn follow(&mut self, first_edge: usize, followed: u16) {
        self.first_edges.push(to_u32(first_edge));
        self.followed.push(followed);
    }

    /// Takes over what was found in states that follow, in canonical order, all those before.
    pub(super) fn absorb(&mut self, findings: &mut Findings<O>) {
        for Terminal { at, is_deadlock, outcome, of, nth } in findings.terminals.drain(..) {
            self.terminal_states += u64::from(nth == 0);
            self.deadlocks += u64::from(nth == 0 && is_deadlock);
            let next = to_u32(self.outcomes.len());
            let number = *self.outcomes.entry(outcome).or_insert(next);
            self.terminals.push((at, number, of));
        }
        for (id, bits) in findings.watched.drain(..) {
            for bit in (0..u32::BITS).filter(|bit| bits >> bit & 1 != 0) {
                self.watched.entry(bit).or_insert(id);
            }
        }
    }
}
