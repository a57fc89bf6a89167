//! Single schedules: running a given one, and drawing distinct ones at random.

use std::fmt;

use super::explorer::Explorer;
use super::machine::{Machine, actors_in};
use crate::random::SplitMix64;

/// What a schedule does: the states it passes through.
#[derive(Clone, Debug)]
pub struct Run<S, O> {
    /// The initial state, and the state after each action.
    pub states: Vec<S>,
    /// The actors that are enabled at its end.
    pub enabled: u16,
    /// If it is complete, that is, no actor is enabled at its end: the outcome.
    pub outcome: Option<O>,
}

/// A complete schedule that was drawn at random.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample<O> {
    /// The actors in turn.
    pub schedule: Vec<u8>,
    /// Where it leads.
    pub outcome: O,
}

/// Why a schedule can't be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScheduleError {
    /// The actor at a position has nothing to do there, or waits for another.
    NotEnabled {
        /// How many actions come before it.
        position: usize,
        /// The actor.
        actor: u8,
        /// The actors that are enabled there.
        enabled: u16,
    },
    /// The machine went on for longer than [`Limits::steps_max`](super::Limits::steps_max).
    TooLong {
        /// The limit.
        steps_max: u32,
    },
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEnabled { position, actor, enabled } => {
                write!(
                    f,
                    "step {} of the schedule: actor {actor} can't move here; ",
                    position + 1
                )?;
                match *enabled {
                    0 => write!(f, "nobody can, the run is over"),
                    enabled => {
                        let actors: Vec<_> = actors_in(enabled).map(|a| a.to_string()).collect();
                        write!(f, "enabled: {}", actors.join(", "))
                    }
                }
            }
            Self::TooLong { steps_max } => write!(
                f,
                "the schedule does not end within {steps_max} actions; every action must bring its \
                 actor closer to its end, or the limit must be raised"
            ),
        }
    }
}

impl std::error::Error for ScheduleError {}

impl<M: Machine> Explorer<'_, M> {
    /// Runs a schedule, complete or not.
    ///
    /// # Errors
    ///
    /// An actor of the schedule is not enabled in its turn, or the schedule is longer than the
    /// limit.
    pub fn run(&self, schedule: &[u8]) -> Result<Run<M::State, M::Outcome>, ScheduleError> {
        let steps_max = self.limits.steps_max;
        if schedule.len() > steps_max as usize {
            return Err(ScheduleError::TooLong { steps_max });
        }
        let mut state = self.machine.initial();
        let mut states = Vec::with_capacity(schedule.len() + 1);
        for (position, &actor) in schedule.iter().enumerate() {
            let enabled = self.machine.enabled(&state);
            if u32::from(enabled).checked_shr(u32::from(actor)).unwrap_or(0) & 1 == 0 {
                return Err(ScheduleError::NotEnabled { position, actor, enabled });
            }
            states.push(state.clone());
            self.machine.apply(&mut state, actor);
        }
        let enabled = self.machine.enabled(&state);
        let outcome = (enabled == 0).then(|| self.machine.classify(&state));
        states.push(state);
        Ok(Run { states, enabled, outcome })
    }

    /// Draws up to `count` complete schedules, all different; fewer only if there are no more.
    ///
    /// At each step every enabled actor that still leads to a schedule not drawn before is equally
    /// likely. Schedules are therefore not equally likely as a whole: those with fewer choices on
    /// their way come more often.
    ///
    /// # Errors
    ///
    /// A schedule does not end within the limit.
    pub fn sample(
        &self,
        random: &mut SplitMix64,
        count: usize,
    ) -> Result<Vec<Sample<M::Outcome>>, ScheduleError> {
        let mut tried = Tried::new();
        let mut samples = Vec::new();
        let initial = self.machine.initial();
        let mut state = initial.clone();
        while samples.len() < count && !tried.nodes[0].is_exhausted {
            state.clone_from(&initial);
            let mut path = vec![0];
            let mut schedule = Vec::new();
            let mut at = 0;
            loop {
                let enabled = self.machine.enabled(&state);
                if enabled == 0 {
                    break;
                }
                if schedule.len() >= self.limits.steps_max as usize {
                    return Err(ScheduleError::TooLong { steps_max: self.limits.steps_max });
                }
                let open = enabled & !tried.exhausted_below(at);
                let pick = random.below(open.count_ones()) as usize;
                let actor = actors_in(open).nth(pick).unwrap_or_default();
                self.machine.apply(&mut state, actor);
                at = tried.child(at, actor, enabled);
                path.push(at);
                schedule.push(actor);
            }
            tried.exhaust(&path);
            samples.push(Sample { schedule, outcome: self.machine.classify(&state) });
        }
        Ok(samples)
    }
}

/// A prefix of a schedule that was drawn.
struct Node {
    actor: u8,
    /// The actors enabled after the prefix; 0 until one of them has been followed.
    enabled: u16,
    /// Every complete schedule that begins so has been drawn.
    is_exhausted: bool,
    first_child: Option<usize>,
    next_sibling: Option<usize>,
}

/// The schedules drawn so far, as a tree of their prefixes.
struct Tried {
    nodes: Vec<Node>,
}

impl Tried {
    fn new() -> Self {
        Self { nodes: vec![Self::node(0, None)] }
    }

    const fn node(actor: u8, next_sibling: Option<usize>) -> Node {
        Node { actor, enabled: 0, is_exhausted: false, first_child: None, next_sibling }
    }

    fn children(&self, parent: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.nodes[parent].first_child, |&at| self.nodes[at].next_sibling)
    }

    /// The actors after which nothing new is left.
    fn exhausted_below(&self, parent: usize) -> u16 {
        self.children(parent)
            .map(|at| &self.nodes[at])
            .filter(|node| node.is_exhausted)
            .fold(0, |set, node| set | 1 << node.actor)
    }

    fn child(&mut self, parent: usize, actor: u8, enabled: u16) -> usize {
        self.nodes[parent].enabled = enabled;
        let known = self.children(parent).find(|&at| self.nodes[at].actor == actor);
        known.unwrap_or_else(|| {
            let next_sibling = self.nodes[parent].first_child;
            self.nodes.push(Self::node(actor, next_sibling));
            self.nodes[parent].first_child = Some(self.nodes.len() - 1);
            self.nodes.len() - 1
        })
    }

    /// Notes that a path has been drawn to its end.
    fn exhaust(&mut self, path: &[usize]) {
        for &at in path.iter().rev() {
            if self.nodes[at].enabled & !self.exhausted_below(at) != 0 {
                return;
            }
            self.nodes[at].is_exhausted = true;
        }
    }
}
