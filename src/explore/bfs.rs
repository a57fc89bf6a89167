//! The breadth-first search: by whom states are found, in which order, and what is kept of them.
//!
//! States are expanded in the *canonical order*: by distance from the initial state, then by the
//! lexicographically least of the shortest schedules that lead there. A queue yields this order by
//! itself if every state's actions are followed in the order of actors: the first to reach a state
//! is then the least way to it. Hence a shortest schedule is read off the tree of first
//! discoveries, and is the same on every run and with any number of threads.
//!
//! The search works in blocks of the frontier, and looks at its limits between them. A block is
//! expanded in bulk ([`super::parallel`]) if all its successors have room, else one by one (here),
//! with the same effect on the [`Graph`].

use std::ops::{ControlFlow, Range};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use super::graph::{Findings, Graph, Terminal};
use super::ids::{StateId, Way, to_u32};
use super::machine::{ActorNames, Machine, SAME_NAMES, actors_in, encode_compared};
use super::mail::{Mail, Source};
use super::naming::{Naming, after, inverse, named, outcomes};
use super::parallel::{Crew, Exchange};
use super::reduce::Reduction;
use super::result::{Limits, Progress, Stop, Until};
use super::store::{Interned, Shard, footprint_bytes};

/// States of the frontier that are expanded between two looks at the limits.
const BLOCK_STATES: usize = 1 << 14;

/// The most states that are passed through in one go; with the first, they fit a byte.
const PASSED_MAX: u8 = u8::MAX - 1;

/// What all threads of a search share: the machine and the visited states.
pub(super) struct Space<'m, M: Machine> {
    pub(super) machine: &'m M,
    pub(super) reduction: Reduction,
    /// Bits worth the shortest way to a state that shows them.
    pub(super) watch: &'m (dyn Fn(&M::State) -> u32 + Sync),
    /// Whether states with one way on are passed through, see [`Self::pass`].
    passes: bool,
    /// Interchangeable actors whose states are one: see [`super::naming`].
    pub(super) classes: &'m [u16],
    pub(super) shard_bits: u32,
    pub(super) shards: Vec<RwLock<Shard>>,
}

/// Where an action leads.
pub(super) struct Successor<'s, S> {
    state: &'s S,
    pub(super) way: Way,
    /// Actions on the way to it, from 1: see [`Space::pass`].
    pub(super) steps: u8,
    /// The names that actors have in it, by those before.
    pub(super) names: ActorNames,
}

/// Reusable memory of one thread.
pub(super) struct Scratch<S> {
    base: S,
    next: S,
    /// Whether `next` was restored from `base` and changed by actions alone.
    is_restored: bool,
    naming: Naming<S>,
}

impl<'m, M: Machine> Space<'m, M> {
    pub(super) fn new(
        machine: &'m M,
        reduction: Reduction,
        is_plain: bool,
        watch: &'m (dyn Fn(&M::State) -> u32 + Sync),
        shard_bits: u32,
    ) -> Self {
        let shard = |number| RwLock::new(Shard::new(number, shard_bits));
        let shards = (0..1u32 << shard_bits).map(shard).collect();
        let passes = reduction == Reduction::Persistent && !is_plain;
        let merges = reduction != Reduction::Full && !is_plain;
        let classes = if merges { machine.interchangeable() } else { &[] };
        Self { machine, reduction, watch, passes, classes, shard_bits, shards }
    }

    pub(super) fn scratch(&self) -> Scratch<M::State> {
        let [base, next, named] = [(); 3].map(|()| self.machine.initial());
        Scratch { base, next, is_restored: false, naming: Naming::new(named) }
    }

    /// Whether it is not the search of every state and every edge.
    pub(super) const fn is_plain(&self) -> bool {
        !self.passes && self.classes.is_empty()
    }

    /// The state in which every schedule begins, as it is kept.
    fn first(&self) -> M::State {
        let mut initial = self.machine.initial();
        self.reduction.forget(self.machine, &mut initial);
        initial
    }

    /// Looks at one state, which was first reached by `way`, and calls `step` for each actor that the
    /// reduction lets through: with the successor and the way to it, or without where the graph
    /// knows the successor ([`Graph::lead_as_known`]). Returns the actors that were followed.
    pub(super) fn expand(
        &self,
        (id, source, way): (StateId, &Source, Way),
        scratch: &mut Scratch<M::State>,
        findings: &mut Findings<M::Outcome>,
        mut step: impl FnMut(u8, Option<Successor<'_, M::State>>) -> ControlFlow<()>,
    ) -> u16 {
        let Scratch { base, next, is_restored, naming } = scratch;
        self.machine.refresh(&source.parts, source.stale, base);
        let bits = (self.watch)(base);
        let new_bits = bits & !findings.bits;
        if new_bits != 0 {
            findings.bits |= new_bits;
            findings.watched.push((id, new_bits));
        }
        let enabled = self.machine.enabled(base);
        if enabled == 0 {
            let is_deadlock = self.machine.unfinished(base) != 0;
            let found = outcomes(self.machine, self.classes, self.machine.classify(base));
            let of = to_u32(found.len());
            findings.terminals.extend((0..).zip(found).map(|(nth, (outcome, _))| Terminal {
                at: id,
                is_deadlock,
                outcome,
                of,
                nth,
            }));
            return 0;
        }
        let chosen = self.reduction.choose(self.machine, base, enabled);
        let commuting = self.reduction.commuting(self.machine, base, chosen);
        let mut followed = 0;
        for actor in actors_in(chosen) {
            followed |= 1 << actor;
            let flow = if way.known >> actor & 1 != 0 {
                step(actor, None)
            } else {
                if *is_restored {
                    self.machine.restore(base, next);
                } else {
                    next.clone_from(base);
                }
                self.take(next, actor);
                let mut steps = 1;
                self.pass(next, bits, |_| steps += 1);
                let names = naming.settle(self.machine, self.classes, next);
                *is_restored = names == SAME_NAMES;
                let known = named(commuting[usize::from(actor)], &names);
                let way = Way { parent: id, actor, known };
                step(actor, Some(Successor { state: next, way, steps, names }))
            };
            if flow.is_break() {
                return followed & !(1 << actor);
            }
        }
        followed
    }

    /// Writes a successor of `source`, as [`Machine::encode_after`] does.
    pub(super) fn encode(
        &self,
        successor: &Successor<'_, M::State>,
        source: &Source,
        out: &mut Vec<u8>,
        ends: &mut Vec<usize>,
    ) -> u16 {
        let Successor { state, ref names, .. } = *successor;
        // A renamed state was not made from the source by actions alone.
        if *names == SAME_NAMES {
            self.machine.encode_after(state, &source.parts, out, ends)
        } else {
            encode_compared(self.machine, state, &source.parts, out, ends)
        }
    }

    /// One action.
    fn take(&self, state: &mut M::State, actor: u8) {
        self.machine.apply(state, actor);
        self.reduction.forget(self.machine, state);
    }

    /// Goes on from a state as long as the reduction leaves one way on and nothing is to be seen that
    /// was not in `bits`, and tells `passed` the actors. A machine that runs in a circle comes to an end
    /// here, too.
    fn pass(&self, state: &mut M::State, bits: u32, mut passed: impl FnMut(u8)) {
        if !self.passes {
            return;
        }
        for _ in 0..PASSED_MAX {
            let enabled = self.machine.enabled(state);
            let chosen = self.reduction.choose(self.machine, state, enabled);
            if chosen.count_ones() != 1 || (self.watch)(state) & !bits != 0 {
                return;
            }
            for actor in actors_in(chosen) {
                self.take(state, actor);
                passed(actor);
            }
        }
    }

    /// The schedule of which `actors` are those that were followed from states that were kept, in the
    /// names that those states have: told in one name for each, throughout.
    pub(super) fn told(&self, actors: Vec<u8>) -> Vec<u8> {
        if self.is_plain() {
            return actors;
        }
        let mut state = self.first();
        let mut naming = Naming::new(self.machine.initial());
        // By name in the state at hand, the name in the beginning.
        let mut names = SAME_NAMES;
        let mut schedule = Vec::new();
        for actor in actors {
            let bits = (self.watch)(&state);
            schedule.push(names[usize::from(actor)]);
            self.take(&mut state, actor);
            self.pass(&mut state, bits, |actor| schedule.push(names[usize::from(actor)]));
            let new = naming.settle(self.machine, self.classes, &mut state);
            names = after(&inverse(&new), &names);
        }
        schedule
    }

    /// A complete schedule with such names that it ends in `outcome`, of which it ends in a renaming.
    pub(super) fn ending_in(&self, outcome: &M::Outcome, schedule: Vec<u8>) -> Vec<u8> {
        if self.classes.is_empty() {
            return schedule;
        }
        let mut state = self.machine.initial();
        schedule.iter().for_each(|actor| self.machine.apply(&mut state, *actor));
        let found = outcomes(self.machine, self.classes, self.machine.classify(&state));
        let names = found.get(outcome).unwrap_or(&SAME_NAMES);
        schedule.into_iter().map(|actor| names[usize::from(actor)]).collect()
    }

    /// Locks every shard for one thread.
    fn lock_all(&self) -> Vec<RwLockWriteGuard<'_, Shard>> {
        let lock = |shard| RwLock::write(shard).unwrap_or_else(PoisonError::into_inner);
        self.shards.iter().map(lock).collect()
    }

    /// The actors of the schedule by which a state was first reached.
    pub(super) fn schedule_to(&self, mut id: StateId) -> Vec<u8> {
        let shards = self.lock_all();
        let mut actors = Vec::new();
        loop {
            let shard = &shards[id.shard(self.shard_bits) as usize];
            let way = shard.way(id.local(self.shard_bits));
            if way.parent == StateId::NONE {
                actors.reverse();
                return self.told(actors);
            }
            actors.push(way.actor);
            id = way.parent;
        }
    }
}

/// What a search is told beside the machine.
pub(super) struct Orders<'o, O> {
    pub(super) limits: Limits,
    pub(super) threads: usize,
    pub(super) until: Until<'o, O>,
    /// Report after each so many states.
    pub(super) every: u64,
    pub(super) progress: &'o mut dyn FnMut(Progress) -> ControlFlow<()>,
}

/// Explores the machine until nothing is left or a limit is reached.
pub(super) fn search<M: Machine>(
    space: &Space<'_, M>,
    orders: Orders<'_, M::Outcome>,
) -> Graph<M::Outcome> {
    let mut graph = Graph::new(space.shard_bits, space.passes, !space.classes.is_empty());
    add_initial(space, &mut graph);
    let mut scratch = space.scratch();
    let mut findings = Findings::default();
    let exchange = Exchange::new(space, orders.threads);
    let states_max = orders.limits.states_max as usize;
    let mut reported = 0;
    std::thread::scope(|scope| {
        let mut crew = Crew::new(scope, space, &exchange);
        let mut depth = 0;
        while graph.expanded() < graph.order.len() {
            graph.begin_level(depth);
            depth += 1;
            let level_end = graph.order.len();
            while graph.expanded() < level_end {
                let start = graph.expanded();
                let block = start..level_end.min(start + BLOCK_STATES);
                let states_bound = graph.order.len() + block.len() * space.machine.actors();
                if states_bound <= states_max {
                    crew.expand(&mut scratch, &mut graph, block);
                } else {
                    expand_block(space, &mut scratch, &mut findings, &mut graph, block, states_max);
                }
                let states = graph.order.len() as u64;
                if graph.stopped.is_some() || is_over(space, &mut graph, &orders) {
                    return;
                }
                if states / orders.every > reported {
                    reported = states / orders.every;
                    let (expanded, transitions) =
                        (graph.expanded() as u64, graph.edges.len() as u64);
                    let bytes = occupied_bytes(space, &graph);
                    let progress = Progress { states, expanded, transitions, depth, bytes };
                    if (orders.progress)(progress).is_break()
                        && graph.expanded() < graph.order.len()
                    {
                        graph.stopped = Some(Stop::Asked);
                        return;
                    }
                }
            }
        }
    });
    graph
}

/// Whether the search ends here, and why.
fn is_over<M: Machine>(
    space: &Space<'_, M>,
    graph: &mut Graph<M::Outcome>,
    orders: &Orders<'_, M::Outcome>,
) -> bool {
    let Until { bits, wanted, after } = &orders.until;
    let is_found =
        graph.watched.keys().any(|bit| bits >> bit & 1 != 0) || graph.outcomes.keys().any(wanted);
    if is_found && graph.order.len() as u64 >= *after {
        graph.stopped = (graph.expanded() < graph.order.len()).then_some(Stop::Found);
        return true;
    }
    let bytes = occupied_bytes(space, graph);
    if bytes > orders.limits.memory_bytes_max && graph.expanded() < graph.order.len() {
        graph.stopped = Some(Stop::Memory { bytes, bytes_max: orders.limits.memory_bytes_max });
    }
    graph.stopped.is_some()
}

fn occupied_bytes<M: Machine>(space: &Space<'_, M>, graph: &Graph<M::Outcome>) -> u64 {
    let parts_bytes = space.lock_all().iter().map(|shard| shard.parts_bytes()).sum();
    footprint_bytes(graph.order.len() as u64, graph.edges.len() as u64, parts_bytes)
}

fn add_initial<M: Machine>(space: &Space<'_, M>, graph: &mut Graph<M::Outcome>) {
    let mut mail = Mail::default();
    let initial = space.first();
    let pick = mail.push(Way::NONE, &Source::default(), |out, ends| {
        space.machine.encode(&initial, out, ends);
        ends.push(out.len());
        0
    });
    let shard = pick & ((1 << space.shard_bits) - 1);
    for (key, way) in mail.iter() {
        space.lock_all()[shard as usize].intern(key, way, true);
    }
    graph.reach(shard, 0);
}

/// Expands a block of states one by one, and stops exactly where there is no room for another.
fn expand_block<M: Machine>(
    space: &Space<'_, M>,
    scratch: &mut Scratch<M::State>,
    findings: &mut Findings<M::Outcome>,
    graph: &mut Graph<M::Outcome>,
    block: Range<usize>,
    states_max: usize,
) {
    let mut shards = space.lock_all();
    let mut source = Source::default();
    let (mut single, mut whole) = (Mail::default(), Mail::default());
    for position in block {
        let id = graph.order[position];
        let (shard, local) = (id.shard(space.shard_bits) as usize, id.local(space.shard_bits));
        shards[shard].read(local, &mut source);
        let way = shards[shard].way(local);
        let first_edge = graph.edges.len();
        let followed = space.expand((id, &source, way), scratch, findings, |actor, successor| {
            let Some(successor) = successor else {
                graph.lead_as_known(way, actor);
                return ControlFlow::Continue(());
            };
            single.clear();
            let encode = |out: &mut _, ends: &mut _| space.encode(&successor, &source, out, ends);
            let pick = single.push(successor.way, &source, encode);
            let to = pick & ((1 << space.shard_bits) - 1);
            let mut mail = &single;
            if to as usize != shard {
                whole.clear();
                whole.append_whole(&single, &source);
                mail = &whole;
            }
            let room = graph.order.len() < states_max;
            let (key, way) = mail.iter().next().expect("what was pushed");
            match shards[to as usize].intern(key, way, room) {
                Interned::Is(local) => {
                    let to = graph.reach(to, local);
                    graph.lead(to, successor.steps, &successor.names);
                    ControlFlow::Continue(())
                }
                Interned::NoRoom => {
                    graph.stopped = Some(Stop::States { states_max: to_u32(states_max) });
                    ControlFlow::Break(())
                }
            }
        });
        graph.follow(first_edge, followed);
        if graph.stopped.is_some() {
            break;
        }
    }
    graph.absorb(findings);
}
