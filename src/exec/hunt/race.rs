//! One run of a race.

use std::time::{Duration, Instant};

use super::classify::{Accesses, TimedAccess};
use crate::exec::command::{Command, CommandResult};
use crate::exec::conduct::{Conduct, Flight, Halt};
use crate::exec::error::{ExecError, Skip};
use crate::exec::executor::Executor;
use crate::exec::plan::Plan;
use crate::explore::Machine;
use crate::model::{Dir, Effect, ExporterStep, Owner, Reply, Step, Target};
use crate::question::scenario::{Action, Content, Outcome, Scenario, ScenarioState, ScheduleStep};
use crate::random::SplitMix64;
use crate::units::PageId;

/// The unit of the delays.
const JITTER: Duration = Duration::from_micros(10);

/// An access that takes longer is lost.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a run ended.
pub(super) enum Ended {
    /// With this outcome, its actions having been seen to end in this order.
    Outcome(Outcome, Vec<u8>),
    /// With a page that was half written.
    Torn,
    /// With what the model calls impossible.
    Anomaly(String),
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RaceActivity {
    /// Nothing: its next action is due at some time.
    Pausing,
    /// An access or a transfer, in the process of this actor.
    Under { way: usize },
    /// Its access trapped: the fault waits for the exporter.
    Trapped,
}

#[derive(Debug, Clone, Copy)]
struct Runner {
    doing: RaceActivity,
    due: Instant,
    started: Instant,
    /// Its delays are up to so many units.
    units: u32,
}

/// A run under way.
pub(super) struct Race<'a> {
    pub(super) conduct: Conduct<'a>,
    pub(super) scenario: &'a Scenario,
    pub(super) state: ScenarioState,
    runners: Vec<Runner>,
    random: SplitMix64,
    pub(super) accesses: Accesses,
    /// What a free frame held when it became so.
    pub(super) freed: Vec<Option<CommandResult>>,
    /// Values that were found in free frames when these were handed out again.
    pub(super) in_free: Vec<u8>,
    pub(super) schedule: Vec<u8>,
    pub(super) torn: bool,
    answers: Vec<CommandResult>,
}

impl<'a> Race<'a> {
    pub(super) fn new(
        executor: &'a mut Executor,
        scenario: &'a Scenario,
        plan: &'a Plan,
        seed: u64,
    ) -> Self {
        let mut random = SplitMix64::new(seed);
        let now = Instant::now();
        let runner = |_: &_| {
            // Some processes are fast, some slow: orders of magnitude matter more than noise.
            let units = [0, 2, 8, 32][random.below(4) as usize];
            Runner { doing: RaceActivity::Pausing, due: now, started: now, units }
        };
        let runners = scenario.programs.iter().map(runner).collect();
        Self {
            conduct: Conduct::new(executor, scenario, plan),
            scenario,
            state: scenario.initial(),
            runners,
            random,
            accesses: Accesses::default(),
            freed: vec![None; scenario.world.frames()],
            in_free: Vec::new(),
            schedule: Vec::new(),
            torn: false,
            answers: Vec::new(),
        }
    }

    /// Run to the end, no longer than `timeout`.
    pub(super) fn run(mut self, timeout: Duration) -> Result<Ended, ExecError> {
        match self.race(timeout) {
            Ok(()) => {}
            Err(Halt::Error(error)) => return Err(error),
            Err(Halt::Disagreement(found)) => {
                let (what, model, real) = (found.what, found.model, found.real);
                return Ok(Ended::Anomaly(format!("{what}: model {model}, memory {real}")));
            }
            Err(Halt::Anomaly(what)) => return Ok(Ended::Anomaly(what)),
            Err(Halt::Inexpressible(what)) => {
                return Err(ExecError::Unsupported(Skip::with_remedy(what, "use replay")));
            }
        }
        self.outcome()
    }

    fn race(&mut self, timeout: Duration) -> Result<(), Halt> {
        self.conduct.prepare(&self.state.model)?;
        let begun = Instant::now();
        for (index, page) in self.state.model.pages.iter().enumerate() {
            if page.frame.is_some() {
                let value = self.state.model.frames[page.frame.index()].value;
                let page = PageId::at(index);
                self.accesses.writes.push(TimedAccess { page, value, start: begun, end: begun });
            }
        }
        for (index, frame) in self.state.model.frames.iter().enumerate() {
            self.freed[index] = (frame.rank > 0).then_some(CommandResult::Value(frame.value));
        }
        for runner in 0..self.runners.len() {
            self.conduct.team.start(runner, self.conduct.arenas)?;
            self.pause(runner);
        }
        loop {
            let (mut moved, mut waiting) = (false, false);
            for runner in 0..self.runners.len() {
                moved |= self.go_on(runner)?;
                waiting |= self.is_waiting(runner);
            }
            if !moved && !waiting && self.scenario.enabled(&self.state) == 0 {
                return Ok(());
            }
            if !moved {
                std::thread::yield_now();
            }
            if begun.elapsed() > timeout {
                return self.lost();
            }
        }
    }

    /// Somebody did not answer: the ordinary way of asking says who, and why.
    fn lost(&mut self) -> Result<(), Halt> {
        for actor in 0..self.runners.len() {
            self.conduct.team.call(actor, &[Command::Reset], &mut self.answers)?;
        }
        Err(Halt::Anomaly("a run did not end in time, although all actors live".to_owned()))
    }

    fn is_waiting(&self, runner: usize) -> bool {
        match self.runners[runner].doing {
            RaceActivity::Under { .. } => true,
            RaceActivity::Pausing => {
                Instant::now() < self.runners[runner].due
                    && self.scenario.next(&self.state, runner).is_some()
            }
            RaceActivity::Trapped => false,
        }
    }

    /// Delay the next action of a process.
    fn pause(&mut self, runner: usize) {
        let units = self.runners[runner].units;
        let units = if units == 0 { 0 } else { self.random.below(units) };
        self.runners[runner].due = Instant::now() + JITTER * units;
        self.runners[runner].doing = RaceActivity::Pausing;
    }

    /// Let a process go on if it can; whether it did.
    fn go_on(&mut self, runner: usize) -> Result<bool, Halt> {
        let Some(instruction) = self.scenario.next(&self.state, runner) else { return Ok(false) };
        let action = instruction.action;
        match self.runners[runner].doing {
            RaceActivity::Pausing if Instant::now() < self.runners[runner].due => Ok(false),
            RaceActivity::Pausing => match action {
                Action::Step(step) => self.begin(runner, &step),
                Action::Await(_) => self.model_step(runner),
            },
            RaceActivity::Under { way } => {
                if !self.conduct.team.try_collect(way, &mut self.answers)? {
                    return Ok(false);
                }
                let answer = self.answers.first().copied().unwrap_or(CommandResult::Done);
                let Action::Step(step) = action else { return Ok(false) };
                self.end(runner, &step, answer)?;
                Ok(true)
            }
            RaceActivity::Trapped => self.model_step(runner),
        }
    }

    /// Begin an access or a transfer, or do anything else at once.
    fn begin(&mut self, runner: usize, step: &Step) -> Result<bool, Halt> {
        let plan = self.conduct.plan;
        let (actor, command) = match *step {
            Step::Load { vma, page } => (runner, Command::Load { slot: plan.slot(vma, page) }),
            Step::Store { vma, page, value } => {
                (runner, Command::Store { slot: plan.slot(vma, page), value })
            }
            Step::DmaFinish { dir, .. } => match (self.conduct.flights[runner], dir) {
                (None, _) => return self.model_step(runner),
                (Some(Flight::Pin { holder, pin }), Dir::Write(value)) => {
                    (holder, Command::DmaWrite { pin, value })
                }
                (Some(Flight::Pin { holder, pin }), Dir::Read | Dir::Prefetch) => {
                    (holder, Command::DmaRead { pin })
                }
                (Some(Flight::Bus { place, .. }), Dir::Write(value)) => {
                    (runner, Command::BusStore { place, value })
                }
                (Some(Flight::Bus { place, .. }), Dir::Read | Dir::Prefetch) => {
                    (runner, Command::BusLoad { place })
                }
            },
            // Both take entries away: an importer's aperture is emptied by move_notify.
            Step::Exporter { step: ExporterStep::Zap | ExporterStep::Notify, .. }
            | Step::Alloc(_)
            | Step::GupSlow { .. }
            | Step::Munmap { .. }
            | Step::FreePgtables(_)
            | Step::FinishMmu(_)
            | Step::Mremap { .. }
            | Step::Mprotect { .. } => {
                self.settle()?;
                return self.model_step(runner);
            }
            Step::Mmap(_)
            | Step::GupFast { .. }
            | Step::FollowPfn { .. }
            | Step::FrameVectorCheck { .. }
            | Step::Unpin(_)
            | Step::Attach { .. }
            | Step::Detach(_)
            | Step::Map(_)
            | Step::Unmap(_)
            | Step::Validate { .. }
            | Step::Submit { .. }
            | Step::Signal(_)
            | Step::DmaStart { .. }
            | Step::DmaBufPin(_)
            | Step::DmaBufUnpin(_)
            | Step::SyncStart { .. }
            | Step::SyncEnd { .. }
            | Step::Exporter { .. }
            | Step::Close(_)
            | Step::Fork { .. }
            | Step::EvictCache(_)
            | Step::ResvLock(_)
            | Step::ResvUnlock(_)
            | Step::DrawTicket
            | Step::LockAll(_)
            | Step::MmapLock { .. }
            | Step::MmapUnlock(_)
            | Step::FlushTlb(_) => return self.model_step(runner),
        };
        let taken = |other: &Runner| other.doing == RaceActivity::Under { way: actor };
        if self.conduct.team.is_busy(actor) || self.runners.iter().any(taken) {
            return Ok(false);
        }
        self.runners[runner].started = Instant::now();
        self.runners[runner].doing = RaceActivity::Under { way: actor };
        self.conduct.team.post(actor, &[command])?;
        Ok(true)
    }

    /// Let accesses that are under way end: an entry does not go under one, the processor of who
    /// accesses has to answer the TLB shootdown first.
    fn settle(&mut self) -> Result<(), Halt> {
        let begun = Instant::now();
        for runner in 0..self.runners.len() {
            let next = self.scenario.next(&self.state, runner).map(|next| next.action);
            let Some(Action::Step(access @ (Step::Load { .. } | Step::Store { .. }))) = next else {
                continue;
            };
            let RaceActivity::Under { way } = self.runners[runner].doing else { continue };
            while !self.conduct.team.try_collect(way, &mut self.answers)? {
                if begun.elapsed() > SETTLE_TIMEOUT {
                    return self.lost();
                }
                std::thread::yield_now();
            }
            let answer = self.answers.first().copied().unwrap_or(CommandResult::Done);
            self.end(runner, &access, answer)?;
        }
        Ok(())
    }

    /// An access or a transfer has ended so.
    fn end(&mut self, runner: usize, step: &Step, answer: CommandResult) -> Result<(), Halt> {
        if matches!(answer, CommandResult::Sigbus | CommandResult::Sigsegv)
            && matches!(step, Step::Load { .. } | Step::Store { .. })
        {
            self.runners[runner].doing = RaceActivity::Trapped;
            return Ok(());
        }
        let target = self.target(runner, step);
        let (start, end) = (self.runners[runner].started, Instant::now());
        match (*step, answer) {
            (_, CommandResult::Torn { .. }) => self.torn = true,
            (Step::DmaFinish { dir: Dir::Prefetch, .. }, _) => {}
            (_, CommandResult::Value(value)) => {
                self.note_register(runner, value);
                let read = target.map(|page| TimedAccess { page, value, start, end });
                self.accesses.reads.extend(read);
            }
            (
                Step::Store { value, .. } | Step::DmaFinish { dir: Dir::Write(value), .. },
                CommandResult::Done,
            ) => {
                let write = target.map(|page| TimedAccess { page, value, start, end });
                self.accesses.writes.extend(write);
            }
            (_, other) => {
                let what = format!("{step:?} answered {}", other.describe());
                return Err(Halt::Anomaly(what));
            }
        }
        self.conduct.flights[runner] = None;
        if self.model_step(runner)? {
            Ok(())
        } else {
            Err(Halt::Anomaly(format!("{step:?} went through, and has to wait in the model")))
        }
    }

    /// The buffer page that an access is meant for.
    fn target(&self, runner: usize, step: &Step) -> Option<PageId> {
        if let Step::Load { vma, page } | Step::Store { vma, page, .. } = *step {
            let entry = &self.state.model.vmas[vma.index()];
            entry
                .buf
                .is_some()
                .then(|| self.scenario.world.page(entry.buf, entry.offset + page))
                .flatten()
        } else if let Step::DmaFinish { .. } = *step {
            match self.state.model.dmas[runner].target {
                Target::Page(page) if page.is_some() => Some(page),
                Target::Page(_) | Target::Va(_) => None,
            }
        } else {
            None
        }
    }

    /// What was read, before the model can say what it would have read.
    fn note_register(&mut self, runner: usize, value: u8) {
        let Some(instruction) = self.scenario.next(&self.state, runner) else { return };
        let slots = self.scenario.programs[runner].statements[instruction.statement].slots;
        if let Some(slot) = slots.register {
            let entry = &mut self.state.slots[usize::from(slot.0)];
            if *entry == Content::Empty {
                *entry = Content::Value(value);
            }
        }
    }

    /// Take the next action of a process in the exporter's books, and do what it does to memory.
    fn model_step(&mut self, runner: usize) -> Result<bool, Halt> {
        if self.scenario.enabled(&self.state) & (1 << runner) == 0 {
            return Ok(false);
        }
        let was = self.runners[runner].doing;
        let pc = usize::from(self.state.pcs[runner]);
        let instruction = &self.scenario.programs[runner].instructions[pc];
        let mut effects = Vec::new();
        let reply = self.scenario.advance(&mut self.state, runner, &mut effects);
        self.schedule.push(u8::try_from(runner).unwrap_or(u8::MAX));
        let text = &self.scenario.programs[runner].statements[instruction.statement].text;
        text.clone_into(&mut self.conduct.statement);
        let served = matches!(reply, Reply::Done | Reply::Value(_));
        let faulted = matches!(reply, Reply::Again);
        if let Action::Step(step @ (Step::Load { .. } | Step::Store { .. })) = &instruction.action
            && (was == RaceActivity::Trapped && served
                || matches!(was, RaceActivity::Under { .. }) && faulted)
        {
            return Err(Halt::Anomaly(format!("{step:?}: {was:?}, the model: {reply:?}")));
        }
        let event = ScheduleStep { actor: runner, pc, reply, effects, after: self.state.clone() };
        if let Action::Step(step) = &instruction.action {
            for effect in &event.effects {
                self.effect(&event, step, effect)?;
            }
            self.conduct.refusals(&event, step)?;
            self.conduct.flush()?;
        }
        self.pause(runner);
        Ok(true)
    }

    fn effect(&mut self, event: &ScheduleStep, step: &Step, effect: &Effect) -> Result<(), Halt> {
        if let Effect::FrameFilled(frame, ..)
        | Effect::FrameFilledInCache(frame, ..)
        | Effect::FrameReserved(frame, _) = *effect
        {
            let stray = self.stray(frame);
            self.in_free.extend(stray);
            self.freed[frame.index()] = None;
        }
        match *effect {
            // These have happened.
            Effect::Loaded(..) | Effect::Stored(..) | Effect::DmaFinished(..) => return Ok(()),
            Effect::FrameFilled(_, Owner::Page(page), value)
            | Effect::FrameFilledInCache(_, Owner::Page(page), value) => {
                let now = Instant::now();
                self.accesses.writes.retain(|write| write.page != page);
                self.accesses.writes.push(TimedAccess { page, value, start: now, end: now });
            }
            Effect::FrameFreed(frame) if self.conduct.in_arena[frame.index()] => {
                let place = self.conduct.plan.memory(frame);
                self.freed[frame.index()] = Some(self.conduct.arenas.look(place));
            }
            Effect::VmaMapped(_)
            | Effect::VmaUnmapped(..)
            | Effect::VmaMoved { .. }
            | Effect::Protected(..)
            | Effect::Faulted(..)
            | Effect::FrameFilledInCache(..)
            | Effect::Zapped(..)
            | Effect::CowCopied { .. }
            | Effect::FrameFilled(..)
            | Effect::FrameReserved(..)
            | Effect::FrameCopied { .. }
            | Effect::Rebound(..)
            | Effect::FrameFreed(_)
            | Effect::FrameOrphaned(_)
            | Effect::Pinned(..)
            | Effect::PfnCached(..)
            | Effect::Unpinned(_)
            | Effect::PinInvalidated(_)
            | Effect::SgMapped(_)
            | Effect::SgUnmapped(_)
            | Effect::TlbFlushed(_)
            | Effect::TlbHit(..)
            | Effect::CpuTlbFlushed(_)
            | Effect::Notified(..)
            | Effect::DmaStarted(..)
            | Effect::CacheWrittenBack(..)
            | Effect::CacheDropped(_)
            | Effect::CacheFilled(..)
            | Effect::Locked(..)
            | Effect::LifeChanged(_)
            | Effect::Forked(_)
            | Effect::Warned(_)
            | Effect::Cost(..)
            | Effect::Hazard(_) => {}
        }
        self.conduct.effect(event, step, effect)
    }
}
