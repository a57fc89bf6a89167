//! From an exploration to Always, Sometimes or Never.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::scenario::{Outcome, Replay, ReplayError, Scenario};
use crate::explore::{
    Exploration, ExploreError, Explorer, Limits, Progress, Reduction, Stop, Until,
};
use crate::litmus::ast::Verdict;
use crate::litmus::cond::{AtomKind, Cond};
use crate::model::{Cost, HazardKind};

/// How to look for the answer.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// How far to go.
    pub limits: Limits,
    /// Every interleaving, or representatives.
    pub reduction: Reduction,
    /// Threads to use where that pays.
    pub threads: usize,
    /// Stop once a schedule shows what is asked; none: look at everything.
    pub first: Option<First>,
}

/// When a search may stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct First {
    /// States that are looked at in any case. Small questions are answered whole.
    pub after: u64,
    /// What is asked, where it is not the condition.
    pub hazard: Option<HazardKind>,
}

impl Default for Search {
    fn default() -> Self {
        Self { limits: Limits::default(), reduction: Reduction::Live, threads: 1, first: None }
    }
}

/// The answer to one variant.
#[derive(Debug)]
pub struct Judgement {
    /// How often the condition's body holds; none when the search stopped too early to tell.
    pub observation: Option<Verdict>,
    /// Schedules after which it holds (of a reduced search: representatives).
    pub positive: u128,
    /// Schedules after which it does not.
    pub negative: u128,
    /// A shortest schedule that shows it: up to the first hazard asked for where the condition
    /// asks for hazards alone, complete otherwise.
    pub shortest: Option<Vec<u8>>,
    /// Every hazard that can happen, with a shortest schedule to it.
    pub hazards: BTreeMap<HazardKind, Vec<u8>>,
    /// Costs of a complete schedule, where the test counts any: least and most over the outcomes'
    /// shortest schedules.
    pub costs: Vec<(Cost, u64, u64)>,
    /// All outcomes, and the numbers.
    pub exploration: Exploration<Outcome>,
}

impl Judgement {
    /// Whether all that is known is that what is asked can happen: the search was to stop there, or had
    /// to.
    #[must_use]
    pub const fn is_shown(&self) -> bool {
        self.observation.is_none() && self.shortest.is_some()
    }

    /// Whether the search ended there because it was to.
    #[must_use]
    pub const fn is_found(&self) -> bool {
        self.is_shown() && matches!(self.exploration.stopped, Some(Stop::Found))
    }

    /// Whether it can happen, though the file says Never: that is known however little was searched.
    #[must_use]
    pub fn refutes(&self, scenario: &Scenario) -> bool {
        self.is_shown() && scenario.expected == Some(Verdict::Never)
    }

    /// Whether the observation, and the costs where the file says any, are what it expects; none
    /// where it expects nothing.
    #[must_use]
    pub fn as_expected(&self, scenario: &Scenario) -> Option<bool> {
        let costs = scenario
            .expected_costs
            .iter()
            .all(|(cost, expected)| self.costs.contains(&(*cost, *expected, *expected)));
        scenario.expected.map(|expected| self.observation == Some(expected) && costs)
    }
}

/// Why a variant can't be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JudgeError {
    /// The explorer refused.
    #[error(transparent)]
    Explore(#[from] ExploreError),
    /// A schedule that the explorer found could not be run again: a bug in driftheap.
    #[error("internal error: a schedule that was found can't be replayed: {0}")]
    Replay(#[from] ReplayError),
}

/// Explore `scenario` and answer its question; `progress` is told of every 65536 states.
///
/// # Errors
/// [`JudgeError::Explore`] when the scenario has too many processes or runs in a circle.
pub fn judge(
    scenario: &Scenario,
    search: &Search,
    progress: &mut dyn FnMut(Progress),
) -> Result<Judgement, JudgeError> {
    judge_until(scenario, search, &mut |so_far| {
        progress(so_far);
        ControlFlow::Continue(())
    })
}

/// As [`judge`], but `progress` may ask for an end: the judgement then rests on what was seen until
/// there, which is enough for a Sometimes.
///
/// # Errors
/// As for [`judge`].
pub fn judge_until(
    scenario: &Scenario,
    search: &Search,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Judgement, JudgeError> {
    let explorer = Explorer::new(scenario, search.limits, search.reduction, search.threads);
    let (bits, after) = match search.first {
        Some(First { hazard: Some(kind), after }) => (kind.bit().into(), after),
        Some(First { hazard: None, after }) => (enough(&scenario.condition.body).into(), after),
        None => (0, 0),
    };
    let wanted = |outcome: &Outcome| match search.first {
        Some(First { hazard: Some(kind), .. }) => outcome.hazards & kind.bit() != 0,
        Some(First { hazard: None, .. }) => scenario.holds(outcome),
        None => false,
    };
    let until = Until { bits, wanted: &wanted, after };
    let exploration = explorer.explore_until(until, 1 << 16, progress)?;
    let (mut positive, mut negative) = (0u128, 0u128);
    let (mut holds_seen, mut fails_seen) = (false, false);
    for (outcome, stats) in &exploration.outcomes {
        let (count, seen) = if scenario.holds(outcome) {
            (&mut positive, &mut holds_seen)
        } else {
            (&mut negative, &mut fails_seen)
        };
        *count = count.saturating_add(stats.schedules);
        *seen = true;
    }
    let observation = match (holds_seen, fails_seen) {
        (true, true) => Some(Verdict::Sometimes),
        _ if !exploration.complete => None,
        (true, false) => Some(Verdict::Always),
        (false, _) => Some(Verdict::Never),
    };
    let hazards: BTreeMap<HazardKind, Vec<u8>> = HazardKind::ALL
        .iter()
        .copied()
        .filter_map(|kind| {
            let bit = u32::from(kind.bit()).trailing_zeros();
            let seen = exploration.watched.get(&bit);
            // A deadlock is the end of a schedule; and of representatives the end may be the nearest.
            let ended = shortest_of(&exploration, |outcome| outcome.hazards & kind.bit() != 0);
            let schedule = seen.into_iter().chain(ended).min_by_key(|schedule| schedule.len());
            schedule.map(|schedule| (kind, schedule.clone()))
        })
        .collect();
    let shortest = shortest(scenario, &exploration, &hazards);
    let costs = costs(scenario, &exploration)?;
    Ok(Judgement { observation, positive, negative, shortest, hazards, costs, exploration })
}

fn shortest(
    scenario: &Scenario,
    exploration: &Exploration<Outcome>,
    hazards: &BTreeMap<HazardKind, Vec<u8>>,
) -> Option<Vec<u8>> {
    let body = &scenario.condition.body;
    let enough = enough(body);
    let prefixes = hazards.iter().filter(|(kind, _)| kind.bit() & enough != 0);
    let prefix = prefixes.map(|(_, schedule)| schedule).min_by_key(|schedule| schedule.len());
    let whole = || shortest_of(exploration, |outcome| scenario.holds(outcome));
    if hazards_only(body) {
        prefix.or_else(whole).cloned()
    } else {
        // Where the search ended before any schedule did, a hazard may be enough.
        whole().or(prefix).cloned()
    }
}

/// The hazards of which each alone makes a condition hold, whatever happens afterwards.
fn enough(cond: &Cond) -> u16 {
    match cond {
        Cond::Or(any) => any.iter().fold(0, |set, cond| set | enough(cond)),
        Cond::Atom(atom) => match &atom.kind {
            AtomKind::AnyHazard => u16::MAX,
            AtomKind::Hazard(kind) => kind.bit(),
            AtomKind::Warning
            | AtomKind::Register { .. }
            | AtomKind::Result { .. }
            | AtomKind::Content { .. } => 0,
        },
        Cond::True | Cond::False | Cond::Not(_) | Cond::And(_) => 0,
    }
}

/// The shortest complete schedule to an outcome of this kind.
fn shortest_of(
    exploration: &Exploration<Outcome>,
    wanted: impl Fn(&Outcome) -> bool,
) -> Option<&Vec<u8>> {
    let wanted = exploration.outcomes.iter().filter(|(outcome, _)| wanted(outcome));
    wanted.map(|(_, stats)| &stats.shortest).min_by_key(|schedule| schedule.len())
}

/// Whether a condition asks for one of several hazards and nothing else.
fn hazards_only(cond: &Cond) -> bool {
    match cond {
        Cond::Or(any) => any.iter().all(hazards_only),
        Cond::Atom(atom) => matches!(atom.kind, AtomKind::AnyHazard | AtomKind::Hazard(_)),
        Cond::True | Cond::False | Cond::Not(_) | Cond::And(_) => false,
    }
}

fn costs(
    scenario: &Scenario,
    exploration: &Exploration<Outcome>,
) -> Result<Vec<(Cost, u64, u64)>, ReplayError> {
    if scenario.counts.is_empty() {
        return Ok(Vec::new());
    }
    let replays: Result<Vec<Replay>, ReplayError> =
        exploration.outcomes.values().map(|stats| scenario.replay(&stats.shortest)).collect();
    let replays = replays?;
    let range = |cost: &Cost| {
        let counts = || replays.iter().map(|replay| replay.cost(*cost));
        (*cost, counts().min().unwrap_or(0), counts().max().unwrap_or(0))
    };
    Ok(scenario.counts.iter().map(range).collect())
}
