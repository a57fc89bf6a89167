//! The explorer: asks the search, and puts the answer together.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use super::bfs::{Orders, Space, search};
use super::count::{Cycle, ways};
use super::graph::Graph;
use super::ids::StateId;
use super::machine::{ACTORS_MAX, Machine};
use super::parallel::shard_bits;
use super::reduce::Reduction;
use super::result::{Exploration, ExploreError, Limits, OutcomeStats, Progress, Reached, Until};
use super::store::SHARDS_MAX;

/// Explores a machine; see the [module](super) for what it finds.
pub struct Explorer<'m, M> {
    pub(super) machine: &'m M,
    pub(super) limits: Limits,
    reduction: Reduction,
    threads: usize,
}

impl<M> fmt::Debug for Explorer<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explorer")
            .field("limits", &self.limits)
            .field("reduction", &self.reduction)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl<'m, M: Machine> Explorer<'m, M> {
    /// An explorer that uses up to `threads` threads (1 to 16) where that pays.
    ///
    /// The number of threads never changes an answer, except for where a memory limit stops it. A search whose levels have only some thousand
    /// states stays on the calling thread.
    #[must_use]
    pub fn new(machine: &'m M, limits: Limits, reduction: Reduction, threads: usize) -> Self {
        let threads = threads.clamp(1, SHARDS_MAX);
        Self { machine, limits: limits.clamped(), reduction, threads }
    }

    /// Visits every state.
    ///
    /// If a limit is reached the answer says so ([`Exploration::stopped`]) and holds what was found
    /// until then.
    ///
    /// # Errors
    ///
    /// The machine has too many actors or runs in a circle.
    pub fn explore(&self) -> Result<Exploration<M::Outcome>, ExploreError> {
        self.explore_with_progress(u64::MAX, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`explore`](Self::explore), calling `progress` on this thread about every so many states.
    /// It may ask for an end ([`Stop::Asked`](super::Stop::Asked)): the answer then holds what was
    /// found until there.
    ///
    /// # Errors
    ///
    /// As for [`explore`](Self::explore).
    pub fn explore_with_progress(
        &self,
        every_states: u64,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Exploration<M::Outcome>, ExploreError> {
        self.explore_until(Until::NEVER, every_states, progress)
    }

    /// As [`explore_with_progress`](Self::explore_with_progress), but stops once it has seen what
    /// `until` says. The schedules to these are as
    /// short as any, since all that are shorter have been looked at; numbers of schedules are lower
    /// bounds. Nothing of that is sure of a search by [`Reduction::Persistent`].
    ///
    /// # Errors
    ///
    /// As for [`explore`](Self::explore).
    pub fn explore_until(
        &self,
        until: Until<'_, M::Outcome>,
        every_states: u64,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Exploration<M::Outcome>, ExploreError> {
        self.check_actors()?;
        let watch = |state: &M::State| self.machine.watch(state);
        let mut look = |is_plain| {
            let shard_bits = shard_bits(self.threads);
            let space = Space::new(self.machine, self.reduction, is_plain, &watch, shard_bits);
            let orders = Orders {
                limits: self.limits,
                threads: self.threads,
                until: Until { ..until },
                every: every_states.max(1),
                progress: &mut *progress,
            };
            let graph = search(&space, orders);
            self.answer(&space, graph)
        };
        let merges =
            self.reduction != Reduction::Full && !self.machine.interchangeable().is_empty();
        match look(false) {
            // The whole circle, from where it is entered.
            Err(ExploreError::Cycle { .. })
                if merges || self.reduction == Reduction::Persistent =>
            {
                look(true)
            }
            answer => answer,
        }
    }

    /// Looks for the shortest schedule to a state of which `is_it` holds, which must be the same
    /// for symmetric states. Follows every interleaving, whatever the explorer's reduction, and
    /// stops at the first such state.
    ///
    /// # Errors
    ///
    /// The machine has too many actors.
    pub fn shortest_to(
        &self,
        is_it: impl Fn(&M::State) -> bool + Sync,
    ) -> Result<Reached, ExploreError> {
        self.check_actors()?;
        let watch = |state: &M::State| u32::from(is_it(state));
        let shard_bits = shard_bits(self.threads);
        let space = Space::new(self.machine, Reduction::Full, true, &watch, shard_bits);
        let orders = Orders {
            limits: self.limits,
            threads: self.threads,
            until: Until { bits: 1, ..Until::NEVER },
            every: u64::MAX,
            progress: &mut |_| ControlFlow::Continue(()),
        };
        let graph = search(&space, orders);
        Ok(match (graph.watched.get(&0), graph.stopped) {
            (Some(&id), _) => Reached::By(space.schedule_to(id)),
            (None, Some(stop)) => Reached::Unknown(stop),
            (None, None) => Reached::Never,
        })
    }

    pub(super) fn check_actors(&self) -> Result<(), ExploreError> {
        let actors = self.machine.actors();
        if actors > ACTORS_MAX { Err(ExploreError::TooManyActors { actors }) } else { Ok(()) }
    }

    fn answer(
        &self,
        space: &Space<'_, M>,
        graph: Graph<M::Outcome>,
    ) -> Result<Exploration<M::Outcome>, ExploreError> {
        let mut ways = ways(&graph).map_err(|Cycle { at, actors }| ExploreError::Cycle {
            lead: space.schedule_to(at),
            cycle: actors,
        })?;
        let mut schedules = 0;
        let mut tallies = vec![(0u128, 0u64, StateId::NONE); graph.outcomes.len()];
        for &(id, number, of) in &graph.terminals {
            let (outcome_schedules, states, nearest) = &mut tallies[number as usize];
            let share = ways.share(id, of);
            ways.add(outcome_schedules, share);
            ways.add(&mut schedules, share);
            *states += 1;
            if *nearest == StateId::NONE || ways.distance(id) < ways.distance(*nearest) {
                *nearest = id;
            }
        }
        let stats = |(outcome, number): (M::Outcome, u32)| {
            let (schedules, states, nearest) = tallies[number as usize];
            let told = match ways.shortest(nearest) {
                Some(actors) => space.told(actors),
                None => space.schedule_to(nearest),
            };
            let shortest = space.ending_in(&outcome, told);
            (outcome, OutcomeStats { schedules, states, shortest })
        };
        let terminal_states = graph.terminal_states;
        let outcomes: BTreeMap<_, _> = graph.outcomes.into_iter().map(stats).collect();
        Ok(Exploration {
            states: graph.order.len() as u64,
            transitions: graph.edges.len() as u64,
            terminal_states,
            interchangeable: space.classes.to_vec(),
            deadlock_states: graph.deadlocks,
            depth_max: ways.farthest().unwrap_or(graph.depth_max),
            outcomes,
            schedules,
            is_saturated: ways.is_saturated,
            watched: graph.watched.iter().map(|(&bit, &id)| (bit, space.schedule_to(id))).collect(),
            reduction: self.reduction,
            complete: graph.stopped.is_none(),
            stopped: graph.stopped,
        })
    }
}
