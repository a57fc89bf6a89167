//! Runs: set up, let go, waited for, looked at.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::super::super::command::{Command, CommandResult, FreeCommand};
use super::super::super::conduct::Halt;
use super::super::super::error::ExecError;
use super::super::super::report::ReplayReport;
use super::super::super::store::BOARD;
use super::super::huge::Layout;
use super::super::{Bench, KernelExecutor, skip};
use super::program::{Answer, FreeProgram, pool, programs};
use super::{FreeRun, Seen};
use crate::exec::plan::Steps;
use crate::model::{GupFast, Life, State, Step};
use crate::question::scenario::Scenario;
use crate::random::SplitMix64;
use crate::uapi::lab::{MMAP_ALL, NO_FRAME, Op, POOL_FREE, Step as LabStep};
use crate::units::{BufId, FrameId, PageId};

/// How to race in a guest.
#[derive(Debug, Clone, Copy)]
pub struct FreeOptions {
    /// Seed of the delays.
    pub seed: u64,
    /// Number of the first run; with the seed it decides the delays of a run.
    pub first: u64,
    /// The most runs.
    pub iterations: u64,
    /// The longest time.
    pub time: Duration,
    /// Processors that there are.
    pub cpus: u8,
}

/// Who takes longer for a run hangs.
const RUN_MAX: Duration = Duration::from_secs(5);
/// Who was told to wait no longer, and has not ended by then, hangs in the kernel.
const STOP_MAX: Duration = Duration::from_secs(1);
/// After so many runs in which somebody hung it is known, and takes too long.
const HUNG_MAX: u32 = 2;
/// Delays are up to so many spins: some processes are fast, some slow.
const SPINS: [u32; 4] = [0, 8, 64, 512];

impl KernelExecutor {
    /// Lets the processes of a scenario run free, again and again. `told` sees each run, and may end it.
    ///
    /// # Errors
    /// [`ExecError`] when a run could not be set up; what a run shows is not an error.
    pub fn race(
        &mut self,
        scenario: &Scenario,
        options: &FreeOptions,
        told: &mut dyn FnMut(u64, FreeRun) -> ControlFlow<()>,
    ) -> Result<(), ExecError> {
        super::free_supports(scenario).map_err(ExecError::Unsupported)?;
        let layout = Layout::of(scenario).map_err(ExecError::Unsupported)?;
        let mut batches = programs(scenario, &layout).map_err(ExecError::Unsupported)?;
        let begun = Instant::now();
        let mut hung = 0;
        for number in options.first..options.first.saturating_add(options.iterations) {
            let cpus = u32::from(options.cpus.max(1));
            delay(&mut batches, options.seed, number, cpus);
            let run = self.one_run(scenario, &batches)?;
            hung += u32::from(run.seen.iter().any(Option::is_none));
            let ends = told(number, run).is_break();
            if ends || hung >= HUNG_MAX || begun.elapsed() >= options.time {
                break;
            }
        }
        Ok(())
    }

    fn one_run(
        &mut self,
        scenario: &Scenario,
        batches: &[FreeProgram],
    ) -> Result<FreeRun, ExecError> {
        let run = self.run_and_look(scenario, batches);
        let fine = run.as_ref().is_ok_and(|run| run.seen.iter().all(Option::is_some));
        let step = LabStep { flags: MMAP_ALL, ..LabStep::default() };
        let cleared = fine
            && self.lab.step(Op::MmapUnlock, step).is_ok()
            && self.team.reset().is_ok()
            && self.lab.step(Op::Reset, LabStep::default()).is_ok();
        if !cleared {
            self.begin_anew()?;
        }
        run
    }

    fn run_and_look(
        &mut self,
        scenario: &Scenario,
        batches: &[FreeProgram],
    ) -> Result<FreeRun, ExecError> {
        self.arenas.fill(BOARD, 0)?;
        let state = &scenario.initial_state().model;
        let slots = Steps::of(scenario).slots(scenario).map_err(ExecError::Unsupported)?;
        let layout = Layout::of(scenario).map_err(ExecError::Unsupported)?;
        let mut bench = Bench {
            lab: &self.lab,
            layout,
            team: &mut self.team,
            arenas: &self.arenas,
            scenario,
            truth: &scenario.world,
            slots,
            provoke: false,
            driver: None,
            sabotage: None,
            short_term: self.host.gup_fast == GupFast::ShortTerm,
            own: skip::Own::default(),
            report: ReplayReport::default(),
            in_lab: vec![true; scenario.world.frames()],
            position: 0,
            statement: String::new(),
        };
        let set_up = bench.prepare(scenario.initial_state()).and_then(|()| bench.hand_over(state));
        if let Err(halt) = set_up {
            return Err(error_of(halt));
        }
        for (index, batch) in batches.iter().enumerate() {
            bench.team.start(index, bench.arenas)?;
            // A forked child is one as well; what is asked first is done before anybody waits for it.
            bench.team.post(index, &batch.commands)?;
        }
        let seen = bench.collect(batches)?;
        bench.looked_at(seen, state).map_err(error_of)
    }
}

fn error_of(halt: Halt) -> ExecError {
    match halt {
        Halt::Error(error) => error,
        Halt::Disagreement(found) => ExecError::Unsupported(crate::exec::Skip::new(found.what)),
        Halt::Inexpressible(why) | Halt::Anomaly(why) => {
            ExecError::Unsupported(crate::exec::Skip::new(why))
        }
    }
}

/// New delays: a number and the seed decide them.
fn delay(batches: &mut [FreeProgram], seed: u64, number: u64, cpus: u32) {
    let mut random = SplitMix64::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let turn = random.below(cpus);
    for (index, batch) in (0_u32..).zip(batches) {
        let most = SPINS[random.below(4) as usize];
        for command in &mut batch.commands {
            if let Command::Free(FreeCommand::Pause { spins }) = command {
                let some = if most == 0 { 0 } else { random.below(most) };
                *spins = u16::try_from(some).unwrap_or(u16::MAX);
            } else if let Command::Free(FreeCommand::Begin { cpu }) = command {
                *cpu = u8::try_from((index + turn) % cpus).unwrap_or(0);
            }
        }
    }
}

impl Bench<'_> {
    /// Buffers that a process allocates, and the frames that are free.
    fn hand_over(&mut self, state: &State) -> Result<(), Halt> {
        let world = &self.scenario.world;
        for buf in (0..world.bufs()).map(BufId::at) {
            let allocates = |step: &Step| matches!(step, Step::Alloc(of) if *of == buf);
            let waits = state.bufs[buf.index()].life == Life::Unallocated
                && Steps::of(self.scenario).all.iter().any(|(_, step)| allocates(step));
            if waits {
                // What it is like; then it is gone.
                self.export(state, buf)?;
                let close = LabStep { obj: buf.0.into(), ..LabStep::default() };
                self.conductor(Op::Close, close)?;
            }
        }
        let mut free = Vec::new();
        for frame in (0..state.frames.len()).map(FrameId::at) {
            if frame == world.zero_page() {
                continue;
            }
            let step = LabStep {
                obj: self.layout.number(frame).into(),
                page: pool(world.placement(frame)).into(),
                ..LabStep::default()
            };
            self.conductor(Op::Pool, step)?;
            let rank = state.frames[frame.index()].rank;
            if rank > 0 {
                free.push((rank, step));
            }
        }
        free.sort_by_key(|(rank, _)| *rank);
        for (_, step) in free {
            self.conductor(Op::Pool, LabStep { flags: POOL_FREE, ..step })?;
        }
        Ok(())
    }

    /// The answers of all processes; none of those that hang.
    fn collect(&mut self, batches: &[FreeProgram]) -> Result<Vec<Option<Vec<Seen>>>, ExecError> {
        let begun = Instant::now();
        let mut seen = vec![None; batches.len()];
        let mut stopped = None;
        let mut answers = Vec::new();
        for (index, batch) in batches.iter().enumerate() {
            let left = RUN_MAX.saturating_sub(begun.elapsed());
            let mut ended = self.team.collect_within(index, left, &mut answers)?;
            if !ended {
                if stopped.is_none() {
                    self.arenas.stop_waiting()?;
                    stopped = Some(Instant::now());
                }
                ended = self.team.collect_within(index, STOP_MAX, &mut answers)?;
            }
            // Who was told to wait no longer has not come to its end either.
            let canceled = CommandResult::Refused(Errno::CANCELED);
            if ended && !(stopped.is_some() && answers.contains(&canceled)) {
                seen[index] = Some(batch.seen(&answers));
            }
        }
        Ok(seen)
    }

    fn looked_at(&self, seen: Vec<Option<Vec<Seen>>>, state: &State) -> Result<FreeRun, Halt> {
        let world = &self.scenario.world;
        let mut pages = Vec::with_capacity(state.pages.len());
        for page in (0..state.pages.len()).map(PageId::at) {
            let step = LabStep {
                obj: world.buf_of(page).0.into(),
                page: world.page_index(page).into(),
                ..LabStep::default()
            };
            let frame = match self.lab.step(Op::Where, step) {
                Ok(frame) => u32::try_from(frame).ok().filter(|frame| *frame != NO_FRAME),
                // It was never there.
                Err(_) => None,
            };
            pages.push(frame);
        }
        let mut values = Vec::with_capacity(state.frames.len());
        for frame in (0..state.frames.len()).map(FrameId::at) {
            if frame == world.zero_page() {
                values.push(0);
                continue;
            }
            let obj = self.layout.number(frame).into();
            let [value, ..] =
                self.conductor(Op::Frame, LabStep { obj, ..LabStep::default() })?.to_le_bytes();
            values.push(value);
        }
        Ok(FreeRun { seen, pages, values })
    }
}

impl FreeProgram {
    /// By instruction, what the answers of the batch show.
    fn seen(&self, answers: &[CommandResult]) -> Vec<Seen> {
        let answer = |at: usize| answers.get(at).copied().unwrap_or(CommandResult::LeftOut);
        let of = |at: &Option<Answer>| match at {
            None => Seen::Nothing,
            Some((first, Some(again)))
                if answer(*first) == CommandResult::Refused(Errno::AGAIN) =>
            {
                seen(answer(*again))
            }
            Some((first, _)) => seen(answer(*first)),
        };
        self.answers.iter().map(of).collect()
    }
}

fn seen(answer: CommandResult) -> Seen {
    match answer {
        CommandResult::Done | CommandResult::Pid(_) => Seen::Done,
        CommandResult::Value(value) => Seen::Value(value),
        // One byte can't be torn; nor is there another page to be read of one.
        CommandResult::Torn { first, .. } => Seen::Value(first),
        CommandResult::Sigbus => Seen::Sigbus,
        CommandResult::Sigsegv => Seen::Sigsegv,
        CommandResult::Refused(errno) | CommandResult::Failed(errno) => {
            Seen::Refused(errno.raw_os_error())
        }
        CommandResult::Word { low, high } => Seen::Word(low, high),
        CommandResult::LeftOut => Seen::Nothing,
    }
}
