//! One schedule, conducted: each action of the model done to real memory and compared.
//!
//! Commands to one actor are queued and sent together; whatever the conductor does itself (filling
//! or copying a frame, comparing) first sends what is queued, so that everything happens in the
//! order of the effects.

use super::command::{Answer, BATCH_MAX, Command, Place};
use super::error::ExecError;
use super::executor::{Executor, Sabotage};
use super::plan::Plan;
use super::report::{Disagreement, ReadBack, ReplayReport};
use super::store::Arenas;
use super::team::{ACTORS_MAX, Team, WITNESS};
use crate::litmus::scenario::{Action, Event, Replay, Scenario, ScenarioState};
use crate::model::{self, Errno, Hazard, HazardKind, Owner, Reply, Signal, Step, Target, Via};
use crate::sys::arena::ArenaError;
use crate::units::{FrameId, PageId, VmaId};

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
    Bus { place: Place, frame: FrameId },
}

/// Why a schedule ended early.
pub(super) enum Halt {
    Error(ExecError),
    Disagreement(Disagreement),
    Inexpressible(String),
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
    report: ReplayReport,
    /// Commands that the actor has not been sent yet.
    queue: Vec<Command>,
    expected: Vec<Expect>,
    addressee: usize,
    answers: Vec<Answer>,
    /// The actor that holds each kernel pin.
    pub(super) holders: Vec<Option<usize>>,
    /// The transfer of each device.
    pub(super) flights: Vec<Option<Flight>>,
    /// Frames whose bytes are in the arena: not those of anonymous memory, nor punched ones.
    pub(super) in_arena: Vec<bool>,
    /// What a trapped touch of a slot looks like, by actor.
    pub(super) traps: Vec<Vec<Signal>>,
    position: usize,
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
        match self.all(replay) {
            Ok(()) => {}
            Err(Halt::Error(error)) => return Err(error),
            Err(Halt::Disagreement(found)) => self.report.disagreement = Some(found),
            Err(Halt::Inexpressible(reason)) => self.report.inexpressible = Some(reason),
        }
        Ok(self.report)
    }

    /// Memory as it is before the first action.
    pub(super) fn prepare(&mut self, before: &model::State) -> Result<(), Halt> {
        self.holders = vec![None; before.pins.len()];
        for frame in (0..self.scenario.world.frames()).map(FrameId::at) {
            let value = before.frames[frame.index()].value;
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

    fn event(&mut self, before: &ScenarioState, event: &Event) -> Result<(), Halt> {
        let program = &self.scenario.programs[event.actor];
        let instruction = &program.instructions[event.pc];
        let Action::Step(step) = &instruction.action else { return Ok(()) };
        let text = &program.statements[instruction.statement].text;
        text.clone_into(&mut self.statement);
        if event.reply == Reply::Signal(Signal::Oops) {
            let reason = format!("the kernel would BUG_ON at `{text}`: that can't be tried");
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

    /// What has to happen before the model's effects: a fault has to be one, a fork is one.
    fn provoke(&mut self, before: &ScenarioState, event: &Event, step: &Step) -> Result<(), Halt> {
        let (vma, page, write) = match *step {
            Step::Load { vma, page } => (vma, page, false),
            Step::Store { vma, page, .. } => (vma, page, true),
            Step::Fork { child, parent_first, child_first, count } => {
                return self.fork(event, child.index(), (parent_first, child_first, count));
            }
            _ => return Ok(()),
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
                self.ask(event.actor, Command::NoBacking { slot }, Expect::Done)?;
                self.traps[event.actor][usize::from(slot)] = Signal::Sigbus;
                self.ask(event.actor, touch, Expect::Signal(Signal::Sigbus))
            }
            Reply::Signal(signal) => self.ask(event.actor, touch, Expect::Signal(signal)),
            Reply::Again | Reply::Done | Reply::Value(_) | Reply::Errno(_) | Reply::Skipped => {
                Ok(())
            }
        }
    }

    /// What a touch of a slot without an entry has to answer.
    fn trap(&self, actor: usize, slot: u16) -> Expect {
        match self.sabotage {
            Some(Sabotage::NoFaults) => Expect::Done,
            _ => Expect::Signal(self.traps[actor][usize::from(slot)]),
        }
    }

    /// What the model refuses, real memory has to refuse too.
    pub(super) fn refusals(&mut self, event: &Event, step: &Step) -> Result<(), Halt> {
        if event.reply != Reply::Errno(Errno::Efault) {
            return Ok(());
        }
        match *step {
            Step::GupSlow { pin, vma, page, .. } => {
                let Some(how) = self.plan.pin(pin) else { return Ok(()) };
                let (slot, holder) =
                    (self.plan.slot(vma, page), self.scenario.world.mm_of(vma).index());
                let command = Command::Pin { pin: pin.0, slot, how };
                let expect = match self.sabotage {
                    Some(Sabotage::PinsSucceed) => Expect::Done,
                    _ => Expect::Efault,
                };
                self.ask(holder, command, expect)
            }
            Step::DmaStart { dir, .. } => {
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
            }
            _ => Ok(()),
        }
    }

    /// Queue a command for an actor.
    pub(super) fn ask(
        &mut self,
        actor: usize,
        command: Command,
        expect: Expect,
    ) -> Result<(), Halt> {
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

    fn disagree(&self, what: &str, model: String, real: String) -> Halt {
        Halt::Disagreement(Disagreement {
            event: self.position,
            what: format!("`{}`: {what}", self.statement),
            model,
            real,
        })
    }

    /// Every frame in the arena holds what the model says.
    fn look_at_frames(&mut self, model: &model::State) -> Result<(), Halt> {
        for frame in (0..model.frames.len()).map(FrameId::at) {
            if !self.in_arena[frame.index()] {
                continue;
            }
            let entry = &model.frames[frame.index()];
            self.compare(frame, "memory", self.plan.memory(frame), entry.value)?;
            if entry.cached {
                self.compare(frame, "cache line", self.plan.cache(frame), entry.cache_value)?;
            }
        }
        Ok(())
    }

    fn compare(&mut self, frame: FrameId, of: &str, place: Place, value: u8) -> Result<(), Halt> {
        let real = self.arenas.look(place);
        self.report.compared += 1;
        if real == Answer::Value(value) {
            return Ok(());
        }
        let name = self.scenario.names.frame(&self.scenario.world, frame);
        let model = Answer::Value(value).describe();
        Err(self.disagree(&format!("{of} of frame {name}"), model, real.describe()))
    }

    /// At the end: every mapping shows, to its process, what the model says, and traps where the
    /// model has no entry.
    fn look_at_mappings(&mut self, last: &ScenarioState) -> Result<(), Halt> {
        let model = &last.model;
        for (index, entry) in model.vmas.iter().enumerate() {
            let vma = VmaId::at(index);
            let actor = self.scenario.world.mm_of(vma).index();
            for page in 0..self.scenario.world.vma_pages(vma) {
                let Some(pte) = self.scenario.world.pte(vma, page) else { continue };
                if entry.mapped & (1 << page) == 0 {
                    continue;
                }
                let slot = self.plan.slot(vma, page);
                let pte = &model.ptes[pte.index()];
                if !pte.present() {
                    if entry.buf.is_some() && entry.shared {
                        let trap = self.trap(actor, slot);
                        self.ask(actor, Command::Touch { slot, write: false }, trap)?;
                    }
                    continue;
                }
                let frame = &model.frames[pte.frame.index()];
                let cached = self.plan.is_incoherent(vma) && frame.owner != Owner::Anon;
                if entry.read && (!cached || frame.cached) {
                    let value = if cached { frame.cache_value } else { frame.value };
                    self.ask(actor, Command::Load { slot }, Expect::Value(value))?;
                }
            }
        }
        self.flush()
    }

    /// At the end: every buffer's bytes, through a path that no schedule has touched.
    fn look_at_buffers(&mut self, last: &ScenarioState) -> Result<(), Halt> {
        for (index, page) in last.model.pages.iter().enumerate() {
            if page.frame.is_none() || !self.in_arena[page.frame.index()] {
                continue;
            }
            let value = last.model.frames[page.frame.index()].value;
            let real = self.arenas.look_afresh(self.plan.memory(page.frame))?;
            self.report.compared += 1;
            if real != Answer::Value(value) {
                let name = self.scenario.names.page(&self.scenario.world, PageId::at(index));
                let model = Answer::Value(value).describe();
                return Err(self.disagree(&format!("bytes of {name}"), model, real.describe()));
            }
        }
        Ok(())
    }

    /// Really read what a hazard did.
    fn read_back(&mut self, hazard: &Hazard, model: &model::State) -> Result<(), Halt> {
        let world = &self.scenario.world;
        let victim = match (hazard.kind, hazard.owner, hazard.target) {
            (HazardKind::CrossBufferWrite, Owner::Page(page) | Owner::Shadow(page), _) => {
                Some((self.scenario.names.page(world, page), hazard.frame, Some(page)))
            }
            (HazardKind::UseAfterFree, Owner::Free, _) if hazard.expected.is_none() => {
                Some(("a free frame".to_owned(), hazard.frame, None))
            }
            (HazardKind::LostWrite, _, Some(Target::Page(page))) => {
                let frame = model.pages[page.index()].frame;
                frame.is_some().then(|| (self.scenario.names.page(world, page), frame, Some(page)))
            }
            _ => None,
        };
        if let Some((what, frame, page)) = victim {
            let expected = page.map(|page| model.pages[page.index()].ghost);
            return self.witness(hazard.kind, what, frame, expected);
        }
        // A read: what it returned was compared already, and is what it really returned.
        if let (Some(found), Some(expected)) = (hazard.value, hazard.expected)
            && matches!(hazard.via, Via::Vma(..) | Via::Device(..))
        {
            self.report.corrupted.push(ReadBack {
                event: self.position,
                kind: hazard.kind,
                what: format!(
                    "{} `{}`",
                    self.scenario.names.via(world, hazard.via),
                    self.statement
                ),
                frame: self.scenario.names.frame(world, hazard.frame),
                found,
                expected: Some(expected),
                // Who really read: for a pin, the process that holds it.
                pid: self.team.pid(self.addressee).unwrap_or(0),
            });
        }
        Ok(())
    }

    fn witness(
        &mut self,
        kind: HazardKind,
        what: String,
        frame: FrameId,
        expected: Option<u8>,
    ) -> Result<(), Halt> {
        if !self.in_arena[frame.index()] {
            return Ok(());
        }
        self.flush()?;
        self.team.start(WITNESS, self.arenas)?;
        let place = self.plan.memory(frame);
        self.team.call(WITNESS, &[Command::Witness { place }], &mut self.answers)?;
        let found = match self.answers.first() {
            Some(Answer::Value(found)) => *found,
            Some(other) => {
                let real = other.describe();
                return Err(self.disagree(&what, "one byte all over the page".to_owned(), real));
            }
            None => return Ok(()),
        };
        self.report.corrupted.push(ReadBack {
            event: self.position,
            kind,
            what,
            frame: self.scenario.names.frame(&self.scenario.world, frame),
            found,
            expected,
            pid: self.team.pid(WITNESS).unwrap_or(0),
        });
        Ok(())
    }
}

fn fits(expect: Expect, answer: Answer) -> bool {
    match (expect, answer) {
        (Expect::Done, Answer::Done)
        | (Expect::Signal(Signal::Sigbus), Answer::Sigbus)
        | (Expect::Signal(Signal::Sigsegv), Answer::Sigsegv) => true,
        (Expect::Value(model), Answer::Value(real)) => model == real,
        (Expect::Efault, Answer::Refused(errno)) => errno == rustix::io::Errno::FAULT,
        _ => false,
    }
}

fn describe(expect: Expect) -> String {
    match expect {
        Expect::Done => "done".to_owned(),
        Expect::Value(value) => Answer::Value(value).describe(),
        Expect::Signal(signal) => signal.to_string(),
        Expect::Efault => "EFAULT".to_owned(),
    }
}

/// What a command observes, in the test's terms.
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
