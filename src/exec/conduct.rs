//! One schedule, conducted: each action of the model done to real memory and compared.
//!
//! Commands to one actor are queued and sent together; whatever the conductor does itself (filling
//! or copying a frame, comparing) first sends what is queued, so that everything happens in the
//! order of the effects.

use super::command::{ArenaPage, BATCH_MAX, Command, CommandResult, PinHow};
use super::error::ExecError;
use super::executor::{Executor, Sabotage};
use super::plan::Plan;
use super::report::{Disagreement, ReplayReport};
use super::store::Arenas;
use super::team::{ACTORS_MAX, Team};
use crate::model::{self, Errno, Hazard, HazardKind, Life, Placement, Reply, Signal, Step};
use crate::question::scenario::{Action, Replay, Scenario, ScenarioState, ScheduleStep};
use crate::sys::arena::ArenaError;
use crate::units::{ActorId, FrameId, VmaId};

/// What an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// It is done.
    Done,
    /// The access returns this.
    Value(u8),
    /// The access ends so.
    Signal(Signal),
    /// `get_user_pages` answers EFAULT.
    Efault,
}

/// A transfer under way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Flight {
    /// Through a kernel pin that this actor holds.
    Pin { holder: usize, pin: u8 },
    /// To or from a bus address.
    Bus { place: ArenaPage, frame: FrameId },
}

/// Why a schedule ended early.
pub(super) enum Halt {
    Error(ExecError),
    Disagreement(Disagreement),
    /// A step that can't be made real.
    Inexpressible(String),
    /// A race in which something happened that no schedule has.
    Anomaly(String),
}

impl Halt {
    /// An mprotect that would leave a mapping with two rights is not made: the model has one for a VMA.
    pub(super) fn if_split(
        scenario: &Scenario,
        event: &ScheduleStep,
        vma: VmaId,
        write: bool,
    ) -> Result<(), Self> {
        if !event.after.model.vmas[vma.index()].splits_on_mprotect(write) {
            return Ok(());
        }
        let name = scenario.names.vma(vma);
        Err(Self::Inexpressible(format!(
            "`{name}` has a hole with pages behind it: Linux changes what is before the hole, and the model \
             nothing"
        )))
    }

    /// The report of a schedule, with why it ended early if it did.
    pub(super) fn note(
        ended: Result<(), Self>,
        mut report: ReplayReport,
    ) -> Result<ReplayReport, ExecError> {
        match ended {
            Ok(()) => {}
            Err(Self::Error(error)) => return Err(error),
            Err(Self::Disagreement(found)) => report.disagreement = Some(found),
            Err(Self::Inexpressible(reason) | Self::Anomaly(reason)) => {
                report.inexpressible = Some(reason);
            }
        }
        Ok(report)
    }
}

impl From<ExecError> for Halt {
    fn from(error: ExecError) -> Self {
        Self::Error(error)
    }
}

impl From<ArenaError> for Halt {
    fn from(error: ArenaError) -> Self {
        Self::Error(error.into())
    }
}

/// A schedule under way.
pub(super) struct Conduct<'a> {
    pub(super) arenas: &'a Arenas,
    pub(super) team: &'a mut Team,
    pub(super) scenario: &'a Scenario,
    pub(super) plan: &'a Plan,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) report: ReplayReport,
    /// Commands that the actor has not been sent yet.
    queue: Vec<Command>,
    expected: Vec<Expect>,
    pub(super) addressee: usize,
    pub(super) answers: Vec<CommandResult>,
    /// The actor that holds each kernel pin, and how it was taken.
    pub(super) holders: Vec<Option<(usize, PinHow)>>,
    /// The transfer of each device.
    pub(super) flights: Vec<Option<Flight>>,
    /// Frames whose bytes are in the arena: not those of anonymous memory, nor punched ones.
    pub(super) in_arena: Vec<bool>,
    /// What a trapped touch of a slot looks like, by actor.
    pub(super) traps: Vec<Vec<Signal>>,
    pub(super) position: usize,
    /// The action under way, in words.
    pub(super) statement: String,
}

impl<'a> Conduct<'a> {
    pub(super) fn new(executor: &'a mut Executor, scenario: &'a Scenario, plan: &'a Plan) -> Self {
        let slots = usize::from(super::actor::SLOTS);
        Self {
            arenas: &executor.arenas,
            team: &mut executor.team,
            scenario,
            plan,
            sabotage: executor.options.sabotage,
            report: ReplayReport::default(),
            queue: Vec::with_capacity(BATCH_MAX),
            expected: Vec::with_capacity(BATCH_MAX),
            addressee: 0,
            answers: Vec::new(),
            holders: Vec::new(),
            flights: vec![None; ACTORS_MAX],
            in_arena: vec![true; scenario.world.frames()],
            traps: vec![vec![Signal::Sigsegv; slots]; scenario.programs.len()],
            position: 0,
            statement: String::new(),
        }
    }

    /// Carry out and compare everything.
    pub(super) fn run(mut self, replay: &Replay) -> Result<ReplayReport, ExecError> {
        let ended = self.all(replay);
        Halt::note(ended, self.report)
    }

    /// Memory as it is before the first action.
    pub(super) fn prepare(&mut self, before: &model::State) -> Result<(), Halt> {
        self.holders = vec![None; before.pins.len()];
        for frame in (0..self.scenario.world.frames()).map(FrameId::at) {
            let value = before.frames[frame.index()].value;
            if frame == self.scenario.world.zero_page() {
                self.in_arena[frame.index()] = false;
                continue;
            }
            self.arenas.fill(self.plan.memory(frame), value)?;
            if self.plan.has_caches() {
                // A line that was never filled holds nothing that anybody may see.
                self.arenas.fill(self.plan.cache(frame), !value)?;
            }
        }
        Ok(())
    }

    fn all(&mut self, replay: &Replay) -> Result<(), Halt> {
        self.prepare(&replay.before.model)?;
        let mut before = &replay.before;
        for (position, event) in replay.events.iter().enumerate() {
            self.position = position;
            self.event(before, event)?;
            self.report.events = position + 1;
            before = &event.after;
        }
        self.position = replay.events.len();
        "the end".clone_into(&mut self.statement);
        self.look_at_mappings(replay.last())?;
        self.look_at_buffers(replay.last())
    }

    fn event(&mut self, before: &ScenarioState, event: &ScheduleStep) -> Result<(), Halt> {
        let program = &self.scenario.programs[event.actor];
        let instruction = &program.instructions[event.pc];
        let Action::Step(step) = &instruction.action else { return Ok(()) };
        let text = &program.statements[instruction.statement].text;
        text.clone_into(&mut self.statement);
        if event.reply == Reply::Signal(Signal::Oops) {
            let reason = format!("the kernel would BUG_ON at `{text}`: that can't be tried");
            return Err(Halt::Inexpressible(reason));
        }
        if self.ran_out(before, event, step) {
            let reason =
                format!("`{text}` finds no frame for anonymous memory; real memory has more");
            return Err(Halt::Inexpressible(reason));
        }
        self.provoke(before, event, step)?;
        for effect in &event.effects {
            self.effect(event, step, effect)?;
        }
        self.refusals(event, step)?;
        self.flush()?;
        self.look_at_frames(&event.after.model)?;
        for hazard in event.hazards() {
            self.read_back(hazard, &event.after.model)?;
        }
        Ok(())
    }

    /// Whether a step fails because a private page gets no frame, of which a test has as many as it says.
    fn ran_out(&self, before: &ScenarioState, event: &ScheduleStep, step: &Step) -> bool {
        let (Step::Load { vma, page }
        | Step::Store { vma, page, .. }
        | Step::GupSlow { vma, page, .. }) = *step
        else {
            return false;
        };
        let (model, entry) = (&before.model, &before.model.vmas[vma.index()]);
        let served = entry.buf.is_none() || model.bufs[entry.buf.index()].life == Life::Live;
        let failed = matches!(
            event.reply,
            Reply::Signal(Signal::Sigbus) | Reply::Errno(Errno::Efault | Errno::Enomem)
        );
        failed
            && served
            && !entry.shared
            && entry.mapped & (1 << page) != 0
            && model.free_frames(&self.scenario.world, Placement::System) == 0
    }

    /// What has to happen before the model's effects: a fault has to be one, a fork is one.
    fn provoke(
        &mut self,
        before: &ScenarioState,
        event: &ScheduleStep,
        step: &Step,
    ) -> Result<(), Halt> {
        if let Step::Fork { child, parent_first, child_first, count } = *step {
            return self.fork(event, child.index(), (parent_first, child_first, count));
        }
        let (vma, page, write) = if let Step::Load { vma, page } = *step {
            (vma, page, false)
        } else if let Step::Store { vma, page, .. } = *step {
            (vma, page, true)
        } else {
            return Ok(());
        };
        let slot = self.plan.slot(vma, page);
        let touch = Command::Touch { slot, write };
        let absent = self
            .scenario
            .world
            .pte(vma, page)
            .is_none_or(|pte| !before.model.ptes[pte.index()].present());
        match event.reply {
            Reply::Again if absent => {
                let trap = self.trap(event.actor, slot);
                self.ask(event.actor, touch, trap)
            }
            Reply::Signal(Signal::Sigbus) => {
                let trap = self.trap(event.actor, slot);
                self.ask(event.actor, touch, trap)?;
                let write = before.model.vmas[vma.index()].write;
                self.ask(event.actor, Command::NoBacking { slot, write }, Expect::Done)?;
                let home = self.home(event.actor);
                self.traps[home][usize::from(slot)] = Signal::Sigbus;
                self.ask(event.actor, touch, Expect::Signal(Signal::Sigbus))
            }
            Reply::Signal(signal) => self.ask(event.actor, touch, Expect::Signal(signal)),
            Reply::Again | Reply::Done | Reply::Value(_) | Reply::Errno(_) | Reply::Skipped => {
                Ok(())
            }
        }
    }

    /// What a touch of a slot without an entry has to answer.
    pub(super) fn trap(&self, actor: usize, slot: u16) -> Expect {
        match self.sabotage {
            Some(Sabotage::NoFaults) => Expect::Done,
            _ => Expect::Signal(self.traps[self.home(actor)][usize::from(slot)]),
        }
    }

    /// What the model refuses, real memory has to refuse too.
    pub(super) fn refusals(&mut self, event: &ScheduleStep, step: &Step) -> Result<(), Halt> {
        if let Step::Mprotect { vma, write } = *step {
            Halt::if_split(self.scenario, event, vma, write)?;
        }
        if event.reply != Reply::Errno(Errno::Efault) {
            return Ok(());
        }
        if let Step::GupSlow { pin, vma, page, foll } = *step {
            let Some(how) = self.refused_how(&event.after.model, pin, vma, foll)? else {
                return Ok(());
            };
            self.refusal_is_real(&event.after.model, vma, page)?;
            let (slot, holder) =
                (self.plan.slot(vma, page), self.scenario.world.mm_of(vma).index());
            let command = Command::Pin { pin: pin.0, slot, how };
            let expect = match self.sabotage {
                Some(Sabotage::PinsSucceed) => Expect::Done,
                _ => Expect::Efault,
            };
            self.ask(holder, command, expect)
        } else if let Step::DmaStart { dir, .. } = *step {
            let fault = |hazard: &&Hazard| hazard.kind == HazardKind::IommuFault;
            let Some(hazard) = event.hazards().find(fault) else { return Ok(()) };
            let model = &event.after.model;
            if model.sg_frames.contains(&hazard.frame)
                && (0..model.sgs.len()).any(|at| model.sg_mapped(crate::units::SgId::at(at)))
            {
                return Ok(());
            }
            let place = self.plan.memory(hazard.frame);
            let command = match dir {
                model::Dir::Write(value) => Command::BusStore { place, value },
                model::Dir::Read | model::Dir::Prefetch => Command::BusLoad { place },
            };
            self.ask(event.actor, command, Expect::Signal(Signal::Sigsegv))
        } else {
            Ok(())
        }
    }

    /// The actor that has the address space of a process, all of whose threads it is.
    pub(super) fn home(&self, actor: usize) -> usize {
        self.scenario.world.mm(ActorId::at(actor)).index()
    }

    /// Queue a command for an actor.
    pub(super) fn ask(
        &mut self,
        actor: usize,
        command: Command,
        expect: Expect,
    ) -> Result<(), Halt> {
        let actor = self.home(actor);
        if self.addressee != actor || self.queue.len() == BATCH_MAX {
            self.flush()?;
            self.addressee = actor;
        }
        self.queue.push(command);
        self.expected.push(expect);
        Ok(())
    }

    /// Send what is queued and compare the answers.
    pub(super) fn flush(&mut self) -> Result<(), Halt> {
        if self.queue.is_empty() {
            return Ok(());
        }
        self.team.start(self.addressee, self.arenas)?;
        self.team.call(self.addressee, &self.queue, &mut self.answers)?;
        let commands = self.queue.iter().zip(&self.expected).zip(&self.answers);
        let wrong = commands.into_iter().find(|((_, expect), answer)| !fits(**expect, **answer));
        let found = wrong
            .map(|((command, expect), answer)| (in_words(*command), *expect, answer.describe()));
        self.report.compared += self.answers.len();
        self.queue.clear();
        self.expected.clear();
        match found {
            None => Ok(()),
            Some((action, expect, real)) => {
                let what = format!("P{}, {action}", self.addressee);
                Err(self.disagree(&what, describe(expect), real))
            }
        }
    }

    pub(super) fn disagree(&self, what: &str, model: String, real: String) -> Halt {
        Halt::Disagreement(Disagreement {
            event: self.position,
            what: format!("`{}`: {what}", self.statement),
            model,
            real,
        })
    }
}

fn fits(expect: Expect, answer: CommandResult) -> bool {
    match (expect, answer) {
        (Expect::Done, CommandResult::Done)
        | (Expect::Signal(Signal::Sigbus), CommandResult::Sigbus)
        | (Expect::Signal(Signal::Sigsegv), CommandResult::Sigsegv) => true,
        (Expect::Value(model), CommandResult::Value(real)) => model == real,
        (Expect::Efault, CommandResult::Refused(errno)) => errno == rustix::io::Errno::FAULT,
        _ => false,
    }
}

fn describe(expect: Expect) -> String {
    match expect {
        Expect::Done => "done".to_owned(),
        Expect::Value(value) => CommandResult::Value(value).describe(),
        Expect::Signal(signal) => signal.to_string(),
        Expect::Efault => "EFAULT".to_owned(),
    }
}

/// What a command observes, in the test's terms.
#[expect(clippy::wildcard_enum_match_arm, reason = "any other command is printed as it is")]
fn in_words(command: Command) -> String {
    match command {
        Command::Touch { write: false, .. } => "a read of the page before the fault".to_owned(),
        Command::Touch { write: true, .. } => "a write to the page before the fault".to_owned(),
        Command::Load { .. } => "value read through the mapping".to_owned(),
        Command::Store { .. } => "store".to_owned(),
        Command::Pin { how, .. } => format!("get_user_pages ({how:?})"),
        Command::DmaRead { .. } => "value the device read through the pin".to_owned(),
        Command::DmaWrite { .. } => "device write through the pin".to_owned(),
        Command::BusLoad { .. } => "value the device read at the bus address".to_owned(),
        Command::BusStore { .. } => "device write to the bus address".to_owned(),
        other => format!("{other:?}"),
    }
}
