//! The executor: arenas and actors, kept from schedule to schedule.

use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use rustix::thread::CpuSet;

use super::conduct::Conduct;
use super::error::{ExecError, Skip};
use super::kernel::WrongRule;
use super::plan::Plan;
use super::report::ReplayReport;
use super::store::Arenas;
use super::team::{Abilities, Team, WITNESS};
use crate::question::scenario::Scenario;
use crate::sys::process;

/// The least RLIMIT_NOFILE of an executor: arenas, links, rings and pipes of six actors.
const FDS_MIN: u64 = 64;

/// How an executor is to work.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    /// This program: run with `__actor` and an fd it is an actor.
    pub program: PathBuf,
    /// How long an actor may take for one request.
    pub timeout: Duration,
    /// The CPU that conductor and actors share; a switch between processes of one CPU is several
    /// times faster than waking another. None leaves them where they are.
    pub pin_cpu: Option<usize>,
    /// Do as if these were missing, whatever the machine has.
    pub hide: Hidden,
    /// Make the comparison fail: for tests of the comparison itself.
    pub sabotage: Option<Sabotage>,
}

impl ExecOptions {
    /// The usual options: this executable, ten seconds, the CPU that this thread is on.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        let pin_cpu = Some(rustix::thread::sched_getcpu());
        let timeout = Duration::from_secs(10);
        Self { program, timeout, pin_cpu, hide: Hidden::default(), sabotage: None }
    }
}

/// Mechanisms to do without: to see what is lost, and that what is left is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hidden {
    /// userfaultfd: touches then trap because nothing is mapped.
    pub userfaultfd: bool,
    /// `io_uring`: nothing can be pinned for writing.
    pub io_uring: bool,
    /// `memfd_secret`: pinning can't be refused.
    pub memfd_secret: bool,
}

/// A wrong model, for tests: what the executor pretends the model said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Every value that a load returns is another one.
    LoadedValues,
    /// No fault ever happens.
    NoFaults,
    /// A zap leaves all entries alone.
    NoZaps,
    /// `get_user_pages` succeeds where it was refused.
    PinsSucceed,
    /// What a device writes lands one frame further on.
    DmaElsewhere,
    /// A copied page stays as it was.
    NoCopies,
    /// A rule is another one; only of a kernel, which does not hear of it.
    Rule(WrongRule),
}

/// Real memory and real processes to replay schedules with; see the [module](super).
///
/// Not `Send`: the thread that makes it is the one whose end ends the actors.
#[derive(Debug)]
pub struct Executor {
    pub(super) arenas: Arenas,
    pub(super) team: Team,
    pub(super) options: ExecOptions,
    /// Where this thread was allowed to run before.
    affinity: Option<CpuSet>,
}

impl Executor {
    /// Makes the arenas and starts a first actor, which tells what can be done here.
    ///
    /// # Errors
    /// [`ExecError`] when there is no memory, no process, fewer than 64 fds may be open, or the
    /// program is not an actor.
    pub fn new(options: ExecOptions) -> Result<Self, ExecError> {
        // With fewer, an actor would lack a mechanism half-way and show something else.
        if getrlimit(Resource::Nofile).current.is_some_and(|fds| fds < FDS_MIN) {
            return Err(ExecError::Host {
                what: "an executor with fewer than 64 file descriptors",
                errno: Errno::MFILE,
                remedy: "raise `ulimit -n` to 64 or more",
            });
        }
        let affinity = pin(options.pin_cpu);
        let arenas = Arenas::create(options.hide.memfd_secret)?;
        let mut team = Team::new(options.program.clone(), options.timeout, options.hide);
        team.start(0, &arenas)?;
        Ok(Self { arenas, team, options, affinity })
    }

    /// What the machine allows.
    #[must_use]
    pub fn abilities(&self) -> Abilities {
        self.team.abilities
    }

    /// Whether a scenario can be expressed here.
    ///
    /// # Errors
    /// [`Skip`]: why not, and what would help.
    pub fn supports(&self, scenario: &Scenario) -> Result<(), Skip> {
        Plan::new(scenario, &self.arenas, self.team.abilities).map(drop)
    }

    /// Replays one schedule, complete or not.
    ///
    /// # Errors
    /// [`ExecError`] when it could not be carried out; a difference between model and memory is
    /// not an error but in the report.
    pub fn replay(
        &mut self,
        scenario: &Scenario,
        schedule: &[u8],
    ) -> Result<ReplayReport, ExecError> {
        let replay = scenario.replay(schedule)?;
        let plan = Plan::new(scenario, &self.arenas, self.team.abilities)
            .map_err(ExecError::Unsupported)?;
        let conduct = Conduct::new(self, scenario, &plan);
        let report = conduct.run(&replay).and_then(|report| self.team.reset().map(|()| report));
        if report.is_err() {
            // Whatever state they are in: the next schedule begins with new processes.
            self.team.disband();
        }
        report
    }

    /// Process ids of the actors that have been started.
    #[must_use]
    pub fn actor_pids(&self) -> Vec<u32> {
        (0..=WITNESS).filter_map(|index| self.team.pid(index)).collect()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.team.disband();
        if let Some(affinity) = &self.affinity {
            // It was allowed before; if the cpuset shrank since, staying put is right.
            let _ = rustix::thread::sched_setaffinity(None, affinity);
        }
    }
}

/// Pins this thread, and with it the actors it starts; what it was allowed before.
fn pin(cpu: Option<usize>) -> Option<CpuSet> {
    let before = rustix::thread::sched_getaffinity(None).ok()?;
    // A CPU outside the cpuset only makes it slower.
    process::pin_to_cpu(cpu?).is_ok().then_some(before)
}
