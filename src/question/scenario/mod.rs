//! A variant of a litmus test as something that can be run: a [`World`] and one program a process.
//!
//! [`Scenario`] implements [`Machine`], so the explorer can interleave it; [`Scenario::replay`] runs
//! one schedule and keeps every effect; and the executor of real memory walks the same programs.

mod lower;
mod names;
mod outcome;
mod program;
mod replay;
mod symmetry;

use std::sync::Arc;

pub use lower::{LowerError, Policies, result_name};
pub use names::Names;
pub use outcome::Outcome;
pub use program::{Action, Content, Device, Instruction, Program, SlotId, Slots, Statement};
pub use replay::{Replay, ReplayError, ScheduleStep};

use crate::explore::{ACTORS_MAX, ActorNames, Footprint, Machine, commuting_pairs};
use crate::litmus::ast;
use crate::litmus::cond::{Cond, Condition};
use crate::model::{self, Cost, HazardKind, Objects, Reply, Sink, State, Step, Touched, World};
use symmetry::Symmetry;

/// A variant of a litmus test, ready to run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The test's name.
    pub test: String,
    /// The variant's name; `-` in a test without `vary`.
    pub variant: String,
    /// What the file says the answer is.
    pub expected: Option<ast::Verdict>,
    /// Rules and tables.
    pub world: World,
    /// What the processes do.
    pub programs: Vec<Program>,
    /// What things are called.
    pub names: Names,
    /// What is asked.
    pub condition: Condition,
    /// The costs that are to be counted.
    pub counts: Vec<Cost>,
    /// What every schedule is to cost.
    pub expected_costs: Vec<(Cost, u64)>,
    pub(super) slots: Vec<String>,
    pub(super) bufs: Vec<crate::units::BufId>,
    pub(super) looked_at: Vec<(crate::units::PageId, String)>,
    pub(super) footprints: Vec<Vec<(Objects, Objects)>>,
    pub(super) contents: model::Contents,
    /// By process and instruction, what it and all after it do with contents; one more at the end.
    pub(super) content_uses: Vec<Vec<model::ContentUse>>,
    /// What the condition asks of contents in the end.
    pub(super) shown: model::ContentUse,
    symmetry: Symmetry,
    pub(super) initial: Arc<ScenarioState>,
}

/// A state of a [`Scenario`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ScenarioState {
    /// The model's part.
    pub model: State,
    /// Next instruction of each process.
    pub pcs: Vec<u8>,
    /// Bit per process that has been forked.
    pub started: u16,
    /// What conditions and `await`s look at.
    pub slots: Vec<Content>,
}

impl Clone for ScenarioState {
    fn clone(&self) -> Self {
        Self {
            model: self.model.clone(),
            pcs: self.pcs.clone(),
            started: self.started,
            slots: self.slots.clone(),
        }
    }

    fn clone_from(&mut self, other: &Self) {
        self.model.clone_from(&other.model);
        self.pcs.clone_from(&other.pcs);
        self.started = other.started;
        self.slots.clone_from(&other.slots);
    }
}

/// First of the footprint bits that stand for slots; the last 11 are for forked processes.
const SLOT_BITS: u32 = 15;

impl Scenario {
    /// The next instruction of a process; none when it has ended or was not forked yet.
    #[must_use]
    pub fn next(&self, state: &ScenarioState, actor: usize) -> Option<&Instruction> {
        let program = &self.programs[actor];
        if program.forked && state.started & (1 << actor) == 0 {
            return None;
        }
        program.instructions.get(usize::from(state.pcs[actor]))
    }

    /// The state in which every schedule begins.
    #[must_use]
    pub fn initial_state(&self) -> &ScenarioState {
        &self.initial
    }

    fn can_go(&self, state: &ScenarioState, actor: usize) -> bool {
        self.next(state, actor).is_some_and(|instruction| match &instruction.action {
            Action::Await(slot) => state.slots[usize::from(slot.0)] != Content::Empty,
            Action::Step(step) => {
                model::ready(&self.world, &state.model, self.programs[actor].actor, step)
            }
        })
    }

    /// Take the next instruction of `actor`, which must be able to go, and tell `sink`.
    pub fn advance<S: Sink>(&self, state: &mut ScenarioState, actor: usize, sink: &mut S) -> Reply {
        let program = &self.programs[actor];
        let pc = usize::from(state.pcs[actor]);
        let Some(instruction) = program.instructions.get(pc) else { return Reply::Skipped };
        let reply = match &instruction.action {
            Action::Await(_) => Reply::Done,
            Action::Step(step) => {
                let reply = model::step(&self.world, &mut state.model, program.actor, step, sink);
                if let Step::Fork { child, .. } = step {
                    state.started |= 1 << child.0;
                }
                reply
            }
        };
        self.settle(state, actor, instruction, reply);
        reply
    }

    /// Move the program counter and note results.
    fn settle(
        &self,
        state: &mut ScenarioState,
        actor: usize,
        instruction: &Instruction,
        reply: Reply,
    ) {
        let program = &self.programs[actor];
        let statement = &program.statements[instruction.statement];
        let next = usize::from(state.pcs[actor]) + 1;
        let (result, next) = match reply {
            Reply::Again => return,
            Reply::Errno(_) | Reply::Skipped if instruction.soft && next < statement.end => {
                (None, next)
            }
            Reply::Errno(_) if instruction.soft => (None, next),
            Reply::Errno(errno) => (Some(Content::Errno(errno)), statement.end),
            Reply::Signal(signal @ model::Signal::Oops) => {
                self.kill(state, actor);
                note(state, statement.slots.register, Content::Signal(signal));
                note_result(state, statement.slots, Content::Signal(signal));
                return;
            }
            Reply::Signal(signal) => (Some(Content::Signal(signal)), statement.end),
            Reply::Skipped => (Some(Content::Skipped), statement.end),
            Reply::Value(value) => {
                note(state, statement.slots.register, Content::Value(value));
                (None, next)
            }
            Reply::Done => (None, next),
        };
        if let Some(content) = result {
            if matches!(reply, Reply::Errno(_) | Reply::Signal(_)) {
                note(state, statement.slots.register, content);
            }
            note_result(state, statement.slots, content);
        } else if next == statement.end {
            note_result(state, statement.slots, Content::Ok);
        }
        state.pcs[actor] = u8::try_from(next).unwrap_or(u8::MAX);
    }

    /// The kernel oopsed in a process: it does nothing more, and nobody waits for it.
    fn kill(&self, state: &mut ScenarioState, actor: usize) {
        let program = &self.programs[actor];
        let from = usize::from(state.pcs[actor]);
        for instruction in program.instructions.iter().skip(from) {
            if let Action::Step(step) = &instruction.action {
                state.model.refuse(step);
            }
            let slots = program.statements[instruction.statement].slots;
            note_result(state, slots, Content::Signal(model::Signal::Oops));
        }
        state.pcs[actor] = u8::try_from(program.instructions.len()).unwrap_or(u8::MAX);
    }

    fn footprint(&self, state: &ScenarioState, actor: u8, rest: bool) -> Footprint {
        let actor = usize::from(actor);
        let pc = usize::from(state.pcs[actor]);
        let waiting = self.programs[actor].forked && state.started & (1 << actor) == 0;
        let objects = match self.footprints[actor].get(pc) {
            Some((next, all)) => {
                let objects = if rest { *all } else { *next };
                // Not forked yet: it waits for the fork.
                let fork = if waiting { fork_bit(actor) } else { 0 };
                Objects { reads: objects.reads | fork, ..objects }
            }
            None => Objects::default(),
        };
        Footprint { reads: objects.reads, writes: objects.writes }
    }

    /// What the next action of `actor`, which can go, touches in `state`.
    #[must_use]
    pub fn touched(&self, state: &ScenarioState, actor: u8) -> Touched {
        self.touched_within(state, actor, self.footprint(state, actor, false))
    }

    fn touched_within(&self, state: &ScenarioState, actor: u8, declared: Footprint) -> Touched {
        let Footprint { reads, writes } = declared;
        let declared = Objects { reads, writes };
        let actor = usize::from(actor);
        match self.next(state, actor).map(|instruction| &instruction.action) {
            Some(Action::Step(step)) => {
                let id = self.programs[actor].actor;
                model::touched(&self.world, &self.contents, &state.model, id, step, declared)
            }
            Some(Action::Await(_)) | None => Touched::within(declared),
        }
    }

    /// Whether the condition's body holds of an outcome.
    #[must_use]
    pub fn holds(&self, outcome: &Outcome) -> bool {
        outcome.satisfies(self, &self.condition.body)
    }

    /// Whether `cond` holds of an outcome.
    #[must_use]
    pub fn satisfies(&self, outcome: &Outcome, cond: &Cond) -> bool {
        outcome.satisfies(self, cond)
    }

    /// The named results and registers that outcomes hold, in the order of [`Outcome::slots`].
    #[must_use]
    pub fn slot_names(&self) -> &[String] {
        &self.slots
    }

    /// The pages whose final content outcomes hold, in the order of [`Outcome::contents`].
    pub fn looked_at(&self) -> impl Iterator<Item = &str> {
        self.looked_at.iter().map(|(_, name)| name.as_str())
    }

    /// All buffers.
    #[must_use]
    pub fn bufs(&self) -> &[crate::units::BufId] {
        &self.bufs
    }
}

/// How a statement ended.
fn note_result(state: &mut ScenarioState, slots: Slots, content: Content) {
    note(state, slots.result, content);
    note(state, slots.made, content);
}

fn note(state: &mut ScenarioState, slot: Option<SlotId>, content: Content) {
    if let Some(slot) = slot {
        let entry = &mut state.slots[usize::from(slot.0)];
        if *entry == Content::Empty {
            *entry = content;
        }
    }
}

fn fork_bit(actor: usize) -> u128 {
    1 << (model::CALLERS_FIRST as usize + SLOT_BITS as usize + actor)
}

fn slot_bit(slot: SlotId) -> u128 {
    1 << (model::CALLERS_FIRST + u32::from(slot.0) % SLOT_BITS)
}

fn encode_programs(state: &ScenarioState, out: &mut Vec<u8>) {
    out.extend_from_slice(&state.pcs);
    out.extend_from_slice(&state.started.to_le_bytes());
}

fn decode_programs(bytes: &[u8], state: &mut ScenarioState) {
    let (pcs, started) = bytes.split_at(state.pcs.len());
    state.pcs.copy_from_slice(pcs);
    state.started = u16::from_le_bytes([started[0], started[1]]);
}

fn encode_slots(state: &ScenarioState, out: &mut Vec<u8>) {
    for slot in &state.slots {
        out.extend_from_slice(&slot.bytes());
    }
}

fn decode_slots(bytes: &[u8], state: &mut ScenarioState) {
    for (slot, bytes) in state.slots.iter_mut().zip(bytes.chunks_exact(2)) {
        *slot = Content::from_bytes([bytes[0], bytes[1]]);
    }
}

impl Machine for Scenario {
    type State = ScenarioState;
    type Outcome = Outcome;

    fn initial(&self) -> ScenarioState {
        ScenarioState::clone(&self.initial)
    }

    fn actors(&self) -> usize {
        self.programs.len()
    }

    fn enabled(&self, state: &ScenarioState) -> u16 {
        (0..self.programs.len())
            .filter(|actor| self.can_go(state, *actor))
            .fold(0, |set, actor| set | 1 << actor)
    }

    fn unfinished(&self, state: &ScenarioState) -> u16 {
        (0..self.programs.len())
            .filter(|actor| self.next(state, *actor).is_some())
            .fold(0, |set, actor| set | 1 << actor)
    }

    fn apply(&self, state: &mut ScenarioState, actor: u8) {
        self.advance(state, usize::from(actor), &mut ());
    }

    fn encode(&self, state: &ScenarioState, out: &mut Vec<u8>, ends: &mut Vec<usize>) {
        model::encode(&self.world, &state.model, out, ends);
        ends.push(out.len());
        encode_programs(state, out);
        ends.push(out.len());
        encode_slots(state, out);
    }

    fn forget(&self, state: &mut ScenarioState) {
        let mut objects = Objects::default();
        let mut left = [&self.shown; ACTORS_MAX + 1];
        for (actor, pc) in state.pcs.iter().enumerate() {
            let pc = usize::from(*pc);
            if let Some((_, rest)) = self.footprints[actor].get(pc) {
                objects = objects.union(*rest);
            }
            left[actor] = &self.content_uses[actor][pc.min(self.content_uses[actor].len() - 1)];
        }
        if !self.looked_at.is_empty() {
            // The outcome looks at memory.
            objects = objects.union(model::memory());
        }
        let left = &left[..=state.pcs.len()];
        model::forget(&self.world, &self.contents, objects, left, &mut state.model);
    }

    fn decode(&self, bytes: &[u8], state: &mut ScenarioState) {
        let rest = model::decode(&self.world, bytes, &mut state.model);
        let (programs, slots) = rest.split_at(state.pcs.len() + 2);
        decode_programs(programs, state);
        decode_slots(slots, state);
    }

    fn refresh(&self, parts: &[Vec<u8>], stale: u16, state: &mut ScenarioState) {
        model::refresh(&self.world, parts, stale, &mut state.model);
        let [.., programs, slots] = parts else { return };
        decode_programs(programs, state);
        decode_slots(slots, state);
    }

    fn restore(&self, base: &mut ScenarioState, state: &mut ScenarioState) {
        state.model.restore(&mut base.model);
        state.pcs.copy_from_slice(&base.pcs);
        state.started = base.started;
        state.slots.clone_from(&base.slots);
    }

    fn encode_after(
        &self,
        state: &ScenarioState,
        parts: &[Vec<u8>],
        out: &mut Vec<u8>,
        ends: &mut Vec<usize>,
    ) -> u16 {
        let mut same = model::encode_after(&self.world, &state.model, parts, out, ends);
        let [model @ .., programs, slots] = parts else { return same };
        let writers: [fn(&ScenarioState, &mut Vec<u8>); 2] = [encode_programs, encode_slots];
        for ((part, old), write) in (model.len()..).zip([programs, slots]).zip(writers) {
            let start = out.len();
            write(state, out);
            if out[start..] == **old {
                out.truncate(start);
                same |= 1 << part;
            } else {
                ends.push(out.len());
            }
        }
        same
    }

    fn next_footprint(&self, state: &ScenarioState, actor: u8) -> Footprint {
        self.footprint(state, actor, false)
    }

    fn rest_footprint(&self, state: &ScenarioState, actor: u8) -> Footprint {
        self.footprint(state, actor, true)
    }

    fn commuting(&self, state: &ScenarioState, enabled: u16) -> [u16; ACTORS_MAX] {
        let about = |actor| {
            let declared = self.next_footprint(state, actor);
            (declared, self.touched_within(state, actor, declared))
        };
        commuting_pairs(enabled, about, |(declared, touched), (others, other)| {
            !touched.conflicts(other) || !declared.conflicts(*others)
        })
    }

    fn classify(&self, state: &ScenarioState) -> Outcome {
        let mut hazards = state.model.hazards;
        if self.unfinished(state) != 0 {
            hazards |= HazardKind::Deadlock.bit();
        }
        let content = |(page, _): &(crate::units::PageId, String)| {
            let frame = state.model.pages[page.index()].frame;
            frame.is_some().then(|| {
                let frame = &state.model.frames[frame.index()];
                if frame.dirty { frame.cache_value } else { frame.value }
            })
        };
        Outcome {
            hazards,
            warned: state.model.warned,
            slots: state.slots.clone(),
            contents: self.looked_at.iter().map(content).collect(),
        }
    }

    fn interchangeable(&self) -> &[u16] {
        &self.symmetry.classes
    }

    fn rename(&self, from: &ScenarioState, names: &ActorNames, to: &mut ScenarioState) {
        self.name_state(from, names, to);
    }

    fn rename_outcome(&self, outcome: &Outcome, names: &ActorNames) -> Outcome {
        self.name_outcome(outcome, names)
    }

    fn rank(&self, state: &ScenarioState, actor: u8) -> u64 {
        self.rank_of(state, actor)
    }

    fn watch(&self, state: &ScenarioState) -> u32 {
        u32::from(state.model.hazards)
    }
}
