//! The third answer: a schedule on a real dma-buf, in a kernel that may be brought down.
//!
//! # What it is
//!
//! [`KernelExecutor`] does each [`Step`](crate::model::Step) of a schedule with the laboratory
//! module (`tools/lab-module`), in lockstep, and compares. It is given steps, not effects: what a
//! fault installs, whether `get_user_pages` takes the page, what fork copies and which errno an
//! mmap answers, the kernel decides. Two things come from the model: the schedule, and which of the
//! laboratory's frames an allocation gets, since that is luck in a kernel, too.
//!
//! | observed | with |
//! |---|---|
//! | values and signals | loads and stores of real processes |
//! | errnos | mmap(2), mremap(2), and the functions that a driver calls |
//! | page table entries: frame, writable, special, or none | a look at the table, after each step |
//! | frames: every byte, and how many references | `page_count`, after each step |
//! | a buffer's end, its pins, who heard `move_notify` | the exporter's callbacks |
//! | a BUG_ON | the guest's death |
//!
//! # Sequence of a step
//!
//! 1. Frames that the step hands out are filled and bound.
//! 2. The step, by the process that takes it; its answer is compared. Where the model takes a fault
//!    apart from the access ([`Reply::Again`](crate::model::Reply)) the fault is served by
//!    `handle_mm_fault` alone.
//! 3. Entries, frames and buffers are compared with the state after the step.
//!
//! A guest's kernel has rules of its own ([`skip::host_of`]): a schedule that depends on a rule of another
//! host is left to a guest that has it.
//!
//! # Differs from the kernel
//!
//! What is a driver's own bookkeeping (a life of "purged", which pins make it refuse) is done by
//! the module as its rules say; that is no second opinion. `fast` and `slow` paths of
//! `get_user_pages` are told apart with FOLL_NOFAULT and `get_user_pages_fast_only`.

mod device;
mod drivers;
mod expect;
mod free;
mod huge;
mod locks;
mod look;
mod skip;
mod steps;
mod threads;
mod wrong;

pub use drivers::Driver;
pub use free::{
    Explained, Explainer, FreeOptions, FreeRun, Seen, free_supports, with_rules_of_guest,
};
pub use skip::askable;
pub use wrong::WrongRule;

use rustix::io::Errno;

use huge::{HUGE_PAGES, Layout};

use super::command::Command;
use super::conduct::Halt;
use super::error::{ExecError, Skip};
use super::executor::{ExecOptions, Hidden, Sabotage};
use super::plan::Steps;
use super::report::{Disagreement, ReplayReport};
use super::store::Arenas;
use super::team::Team;
use crate::model::{self, GupFast, HostRules, Life, Owner, Reply, Signal, World};
use crate::question::scenario::{
    Action, Replay, ReplayError, Scenario, ScenarioState, ScheduleStep,
};
use crate::sys::lab::Lab;
use crate::uapi::lab::{MMAP_ALL, NO_FRAME, Op, RESET_LOOSE, Step as LabStep};
use crate::units::{BufId, FrameId, VmaId};

/// A laboratory and the processes that work in it.
#[derive(Debug)]
pub struct KernelExecutor {
    arenas: Arenas,
    team: Team,
    lab: Lab,
    sabotage: Option<Sabotage>,
    /// What this kernel does where kernels differ.
    host: HostRules,
    release: String,
}

impl KernelExecutor {
    /// Opens a laboratory and starts a first actor.
    ///
    /// # Errors
    /// [`ExecError::Host`]: the module is not loaded. Else as
    /// [`Executor::new`](super::Executor::new).
    pub fn new(options: ExecOptions) -> Result<Self, ExecError> {
        let lab = open()?;
        let shared = lab.try_clone().map_err(host("a copy of its descriptor"))?;
        let hide = Hidden { userfaultfd: true, io_uring: true, memfd_secret: true };
        let arenas = Arenas::create(true)?;
        let mut team = Team::new(options.program, options.timeout, hide);
        team.lab = Some(shared);
        team.start(0, &arenas)?;
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let host = skip::host_of(&release, lab.translates());
        Ok(Self { arenas, team, lab, sabotage: options.sabotage, host, release })
    }

    /// Whether this kernel can be asked.
    ///
    /// # Errors
    /// [`Skip`]: why not.
    pub fn supports(&self, scenario: &Scenario) -> Result<(), Skip> {
        askable(scenario)
    }

    /// Takes one schedule on a buffer of a real driver, as far as that goes. Its references are its own
    /// affair, and are not compared; nor is a schedule taken of which nothing can be.
    ///
    /// # Errors
    /// As [`Self::replay`].
    pub fn replay_on(
        &mut self,
        driver: &Driver,
        scenario: &Scenario,
        schedule: &[u8],
    ) -> Result<ReplayReport, ExecError> {
        driver.maps_as(scenario).map_err(ExecError::Unsupported)?;
        self.take(scenario, schedule, false, Some(driver))
    }

    /// Takes one schedule. A step that the model calls a kernel bug is taken only if `provoke`: it
    /// should not return.
    ///
    /// # Errors
    /// [`ExecError`] when it could not be carried out; a difference is in the report.
    pub fn replay(
        &mut self,
        scenario: &Scenario,
        schedule: &[u8],
        provoke: bool,
    ) -> Result<ReplayReport, ExecError> {
        self.take(scenario, schedule, provoke, None)
    }

    fn take(
        &mut self,
        scenario: &Scenario,
        schedule: &[u8],
        provoke: bool,
        driver: Option<&Driver>,
    ) -> Result<ReplayReport, ExecError> {
        self.supports(scenario).map_err(ExecError::Unsupported)?;
        let truth = &scenario.world;
        let wrong = if let Some(Sabotage::Rule(rule)) = self.sabotage {
            Some(rule.applied(scenario))
        } else {
            None
        };
        let mut right = scenario.replay(schedule)?;
        let own = skip::with_own_rules(scenario, schedule, &right, &self.host);
        let own_rules = own.is_some().then_some(skip::OWN_RULES);
        let scenario = if let Some((own, replay)) = &own {
            right = replay.clone();
            own
        } else {
            scenario
        };
        let own = skip::Own::of(scenario, self.lab.has_bar() && driver.is_none(), &self.release);
        if let Some(reason) = skip::other_host(scenario, schedule, &right, (&self.host, own)) {
            return Ok(ReplayReport { inexpressible: Some(reason), ..ReplayReport::default() });
        }
        let (scenario, replay) = if let Some(wrong) = &wrong {
            // As far as it goes: where a process takes another step, the steps before have differed.
            let replay = wrong.replay(schedule).or_else(|error| {
                let (ReplayError::NoSuchActor { step, .. } | ReplayError::NotReady { step, .. }) =
                    error;
                wrong.replay(&schedule[..step - 1])
            })?;
            (wrong, replay)
        } else {
            (scenario, right)
        };
        if let Some(reason) = skip::no_huge_entries(scenario, &self.release) {
            return Ok(ReplayReport { inexpressible: Some(reason), ..ReplayReport::default() });
        }
        if driver.is_some() && drivers::reach(scenario, &replay) == 0 {
            let reason = "its first step is an exporter's".to_owned();
            return Ok(ReplayReport { inexpressible: Some(reason), ..ReplayReport::default() });
        }
        let slots = Steps::of(scenario).slots(scenario).map_err(ExecError::Unsupported)?;
        let layout = Layout::of(scenario).map_err(ExecError::Unsupported)?;
        let bench = Bench {
            lab: &self.lab,
            layout,
            team: &mut self.team,
            arenas: &self.arenas,
            scenario,
            truth,
            slots,
            provoke,
            driver,
            sabotage: self.sabotage,
            short_term: self.host.gup_fast == GupFast::ShortTerm,
            own,
            report: ReplayReport { own_rules, ..ReplayReport::default() },
            in_lab: vec![true; scenario.world.frames()],
            position: 0,
            statement: String::new(),
        };
        let report = bench.run(&replay);
        // What unmaps would wait for it.
        let unlock = LabStep { flags: MMAP_ALL, ..LabStep::default() };
        let unlocked = self.lab.step(Op::MmapUnlock, unlock);
        let reset = self.team.reset();
        let cleared = self.lab.step(Op::Reset, LabStep::default());
        if report.is_err() || unlocked.is_err() || reset.is_err() || cleared.is_err() {
            self.begin_anew()?;
        }
        report
    }

    /// Other processes and another laboratory.
    fn begin_anew(&mut self) -> Result<(), ExecError> {
        self.team.disband();
        self.lab = open()?;
        self.team.lab = Some(self.lab.try_clone().map_err(host("a copy of its descriptor"))?);
        Ok(())
    }
}

fn open() -> Result<Lab, ExecError> {
    Lab::open().map_err(host("opening /dev/driftheap_lab"))
}

fn host(what: &'static str) -> impl Fn(Errno) -> ExecError {
    let remedy = "`check --kernel` loads the laboratory module, in a virtual machine";
    move |errno| ExecError::Host { what, errno, remedy }
}

/// A schedule under way.
struct Bench<'a> {
    lab: &'a Lab,
    layout: Layout,
    team: &'a mut Team,
    arenas: &'a Arenas,
    scenario: &'a Scenario,
    /// The rules that the module is told.
    truth: &'a World,
    /// First slot of each VMA.
    slots: Vec<u16>,
    provoke: bool,
    /// The real driver whose buffers are used.
    driver: Option<&'a Driver>,
    sabotage: Option<Sabotage>,
    /// Whether the fast path of this kernel tells long-term pins from others ([`GupFast::ShortTerm`]).
    short_term: bool,
    own: skip::Own,
    report: ReplayReport,
    /// Frames whose bytes the laboratory has: not those of anonymous memory.
    in_lab: Vec<bool>,
    position: usize,
    /// The action under way, in words.
    statement: String,
}

impl Bench<'_> {
    fn run(mut self, replay: &Replay) -> Result<ReplayReport, ExecError> {
        let ended = self.all(replay);
        Halt::note(ended, self.report)
    }

    fn all(&mut self, replay: &Replay) -> Result<(), Halt> {
        self.prepare(&replay.before)?;
        let mut before = &replay.before;
        for (position, event) in replay.events.iter().enumerate() {
            self.position = position;
            let instruction = &self.scenario.programs[event.actor].instructions[event.pc];
            if let Action::Step(step) = &instruction.action
                && self.beyond(step)
            {
                break;
            }
            self.event(before, event)?;
            self.report.events = position + 1;
            before = &event.after;
        }
        Ok(())
    }

    /// Frames and buffers as they are before the first action.
    fn prepare(&mut self, before: &ScenarioState) -> Result<(), Halt> {
        let model = &before.model;
        if let Some(per_block) = self.layout.per_block {
            let flags = if self.layout.loose { RESET_LOOSE } else { 0 };
            let step = LabStep { page: per_block.into(), flags, ..LabStep::default() };
            self.conductor(Op::Reset, step)?;
            for actor in 0..self.scenario.programs.len() {
                let pages = HUGE_PAGES / u16::from(per_block);
                self.ask_one(actor, Command::LabStride { pages })?;
            }
        }
        for frame in (0..model.frames.len()).map(FrameId::at) {
            let entry = &model.frames[frame.index()];
            if self.own.bar && !self.truth.has_page(frame) {
                let obj = self.layout.number(frame).into();
                self.conductor(Op::Bar, LabStep { obj, ..LabStep::default() })?;
            }
            if frame == self.scenario.world.zero_page() {
                self.in_lab[frame.index()] = false;
                continue;
            }
            self.fill(frame, entry.value)?;
        }
        if let Some(driver) = self.driver {
            return self.adopt(model, driver);
        }
        for buf in (0..model.bufs.len()).map(BufId::at) {
            if model.bufs[buf.index()].life == Life::Live {
                self.export(model, buf)?;
            }
        }
        Ok(())
    }

    fn event(&mut self, before: &ScenarioState, event: &ScheduleStep) -> Result<(), Halt> {
        let program = &self.scenario.programs[event.actor];
        let instruction = &program.instructions[event.pc];
        let Action::Step(step) = &instruction.action else { return Ok(()) };
        program.statements[instruction.statement].text.clone_into(&mut self.statement);
        if event.reply == Reply::Signal(Signal::Oops) && !self.provoke {
            let text = &self.statement;
            return Err(Halt::Inexpressible(format!(
                "`{text}` is a kernel bug: it gets a boot of its own"
            )));
        }
        self.team.start(self.home(event.actor), self.arenas)?;
        self.take(&before.model, event, step)?;
        if threads::holds_on(&event.after.model) {
            return Ok(());
        }
        self.look(event)
    }

    /// A frame's content, by the conductor.
    fn fill(&mut self, frame: FrameId, value: u8) -> Result<(), Halt> {
        self.in_lab[frame.index()] = true;
        let obj = self.layout.number(frame).into();
        let step = LabStep { obj, value: value.into(), ..LabStep::default() };
        self.conductor(Op::Fill, step).map(drop)
    }

    /// A step of the conductor's own, which has to succeed.
    fn conductor(&self, op: Op, step: LabStep) -> Result<u64, Halt> {
        let failed = host("a step of the laboratory");
        self.lab.step(op, step).map_err(|errno| Halt::Error(failed(errno)))
    }

    /// A new dma-buf with the frames that the model gave it.
    fn export(&mut self, model: &model::State, buf: BufId) -> Result<(), Halt> {
        let world = &self.scenario.world;
        let check = self.truth.host.dma_buf_mmap_check;
        let rules = expect::exporter_flags(self.truth.exporter_of(buf), check);
        let pages = u32::from(world.buf(buf).pages);
        let obj = u32::from(buf.0);
        let export = LabStep { obj, page: pages, flags: rules, ..LabStep::default() };
        self.conductor(Op::Export, export)?;
        for (index, page) in (0u32..).zip(world.pages(buf)) {
            let frame = model.pages[page.index()].frame;
            let value =
                if frame.is_some() { self.layout.number(frame).into() } else { NO_FRAME.into() };
            let bind = LabStep { obj, page: index, value, ..LabStep::default() };
            self.conductor(Op::Bind, bind)?;
        }
        Ok(())
    }

    fn slot(&self, vma: VmaId, page: u8) -> u16 {
        self.slots[vma.index()] + u16::from(page)
    }

    fn disagree(&self, what: &str, model: String, real: String) -> Halt {
        Halt::Disagreement(Disagreement {
            event: self.position,
            what: format!("`{}`: {what}", self.statement),
            model,
            real,
        })
    }

    /// Whether the laboratory has a frame's bytes: anonymous memory is the kernel's own.
    fn knows(&self, frame: FrameId, model: &model::State) -> bool {
        frame.is_some()
            && self.in_lab[frame.index()]
            && !matches!(model.frames[frame.index()].owner, Owner::Anon | Owner::Zero)
    }

    fn ask_one(
        &mut self,
        actor: usize,
        command: Command,
    ) -> Result<super::command::CommandResult, Halt> {
        let mut answers = Vec::with_capacity(1);
        let actor = self.home(actor);
        self.team.start(actor, self.arenas)?;
        self.team.call(actor, &[command], &mut answers)?;
        self.report.compared += 1;
        answers.pop().ok_or_else(|| Halt::Anomaly("an actor did not answer".to_owned()))
    }
}
