//! One schedule, with everything it did.

use super::{Outcome, Scenario, ScenarioState};
use crate::explore::Machine;
use crate::model::{Cost, Effect, Hazard, Reply};

/// One action of a schedule.
#[derive(Debug, Clone)]
pub struct ScheduleStep {
    /// Which process.
    pub actor: usize,
    /// Which of its instructions.
    pub pc: usize,
    /// What it answered.
    pub reply: Reply,
    /// What it did.
    pub effects: Vec<Effect>,
    /// The state afterwards.
    pub after: ScenarioState,
}

impl ScheduleStep {
    /// The hazards that the oracle saw in this action.
    pub fn hazards(&self) -> impl Iterator<Item = &Hazard> {
        self.effects.iter().filter_map(|effect| {
            let Effect::Hazard(hazard) = effect else { return None };
            Some(hazard)
        })
    }
}

/// A schedule that was run.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The state before the first action.
    pub before: ScenarioState,
    /// Its actions, in order.
    pub events: Vec<ScheduleStep>,
    /// How it ended; of an incomplete schedule, as if nothing more happened.
    pub outcome: Outcome,
    /// Whether every process came to its end or can't go on.
    pub complete: bool,
}

impl Replay {
    /// The state after the last action.
    #[must_use]
    pub fn last(&self) -> &ScenarioState {
        self.events.last().map_or(&self.before, |event| &event.after)
    }

    /// What it cost.
    #[must_use]
    pub fn cost(&self, cost: Cost) -> u64 {
        let effects = self.events.iter().flat_map(|event| &event.effects);
        effects
            .filter_map(|effect| {
                if let Effect::Cost(kind, count) = effect
                    && *kind == cost
                {
                    Some(u64::from(*count))
                } else {
                    None
                }
            })
            .sum()
    }
}

/// A schedule that can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// There is no such process.
    #[error("step {step} of the schedule names P{actor}; the test has P0 to P{last}")]
    NoSuchActor {
        /// Position in the schedule, from 1.
        step: usize,
        /// The process it names.
        actor: u8,
        /// The last process of the test.
        last: usize,
    },
    /// The process can't go there.
    #[error("step {step} of the schedule: P{actor} can't go on here ({why})")]
    NotReady {
        /// Position in the schedule, from 1.
        step: usize,
        /// The process.
        actor: u8,
        /// What holds it.
        why: String,
    },
}

impl Scenario {
    /// Run `schedule` (the process of each action) from the start.
    ///
    /// # Errors
    /// [`ReplayError`] names the first action that can't be taken; nothing is returned then.
    pub fn replay(&self, schedule: &[u8]) -> Result<Replay, ReplayError> {
        let before = self.initial();
        let mut state = before.clone();
        let mut events = Vec::with_capacity(schedule.len());
        for (index, &actor) in schedule.iter().enumerate() {
            let step = index + 1;
            if usize::from(actor) >= self.programs.len() {
                let last = self.programs.len().saturating_sub(1);
                return Err(ReplayError::NoSuchActor { step, actor, last });
            }
            if self.enabled(&state) & (1 << actor) == 0 {
                let why = self.why_not(&state, usize::from(actor));
                return Err(ReplayError::NotReady { step, actor, why });
            }
            let actor = usize::from(actor);
            let pc = usize::from(state.pcs[actor]);
            let mut effects = Vec::new();
            let reply = self.advance(&mut state, actor, &mut effects);
            events.push(ScheduleStep { actor, pc, reply, effects, after: state.clone() });
        }
        let complete = self.enabled(&state) == 0;
        let mut outcome = self.classify(&state);
        if !complete {
            outcome.hazards = state.model.hazards;
        }
        Ok(Replay { before, events, outcome, complete })
    }

    fn why_not(&self, state: &ScenarioState, actor: usize) -> String {
        match self.next(state, actor) {
            Some(instruction) => {
                let program = &self.programs[actor];
                let text = &program.statements[instruction.statement].text;
                format!("`{text}` waits for somebody else")
            }
            None if self.programs[actor].forked => "it has ended, or was not forked yet".to_owned(),
            None => "it has ended".to_owned(),
        }
    }
}
