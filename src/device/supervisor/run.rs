//! Starts a program, serves it until the last of its processes is gone, passes its status on.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::check::{Check, CheckConfig};
use super::devices::{self, ProgramBus};
use super::filter::{Level, filter};
use super::live::{Live, LiveConfig, make_movable, new_cookie};
use super::pending::{Pending, TICK_MS};
use super::unwatched::{Unwatched, foreign_file};
use super::{Callers, Files, Shared, Stacks, Supervisor, epoll, held_up, lock, now_ns};
use crate::device::live::Sabotage;
use crate::device::live::emulate::{DeviceSpec, Idle, Running};
use crate::device::misuse::guard::Mode;
use crate::device::misuse::{Log, Watch};
use crate::device::{Device, HeapConfig, Limits, Stats};
use crate::sys::supervise::{Child, spawn};
use crate::sys::trace::{self, Change};

/// What to run, and how.
#[derive(Debug)]
pub struct Config {
    /// Program and arguments.
    pub argv: Vec<CString>,
    /// Heaps to offer.
    pub heaps: Vec<HeapConfig>,
    /// Quotas.
    pub limits: Limits,
    /// Which calls are handed over.
    pub level: Level,
    /// Report misuse.
    pub watch: bool,
    /// Check accesses; has no effect without `watch`.
    pub check: CheckConfig,
    /// Buffers move.
    pub live: Option<LiveConfig>,
    /// Devices to emulate; they need buffers that move.
    pub devices: Vec<DeviceSpec>,
    /// Record what happens; the same.
    pub record: bool,
    /// ALLOC fails where a buffer of a pfnmap heap would get memory that can be pinned.
    pub require_pfnmap: bool,
    /// Print nothing but errors.
    pub quiet: bool,
}

/// How the program ended.
#[derive(Debug)]
pub struct Exit {
    /// Its wait status.
    pub status: Ended,
    /// What the device did meanwhile.
    pub stats: Stats,
    /// What it did wrong, where reports were asked for.
    pub misuse: Option<Log>,
    /// Emulated devices that never attached to a buffer.
    pub idle_devices: Vec<Idle>,
}

/// A process's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
}

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file or a signal descriptor could not be made.
    #[error("can't set up the device: {0}")]
    Setup(io::Error),
    /// fork, or the filter.
    #[error("can't start a supervised process: {0}{hint}", hint = remedy(.0))]
    Spawn(io::Error),
    /// Buffers can't move here.
    #[error("buffers can't move here: {0}")]
    Live(crate::device::live::mover::SetupError),
    /// /proc shows another pid namespace, so that processes can't be looked up in it.
    #[error(
        "/proc is not this pid namespace's: the program's processes can't be looked up in it; mount \
         one (unshare --mount-proc, or mount -t proc proc /proc)"
    )]
    Proc,
    /// The program is for another kind of machine.
    #[error(
        "can't run `{program}`: it is {kind}, and driftheap serves {bits}-bit programs for \
         {machine}: build it for those",
        bits = usize::BITS,
        machine = crate::sys::arch::NAME
    )]
    Foreign {
        /// What was to be executed.
        program: String,
        /// What it is.
        kind: String,
    },
    /// exec failed.
    #[error("can't execute `{program}`: {error}")]
    Exec {
        /// What was to be executed.
        program: String,
        /// Why.
        error: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "; it already runs under a seccomp supervisor (another driftheap, or a container \
             runtime with a notifier), and there can be only one: run driftheap outside of it"
        }
        Some(libc::EINVAL | libc::ENOSYS) => {
            "; seccomp user notification needs Linux 5.14 or later with CONFIG_SECCOMP_FILTER"
        }
        Some(libc::EPERM) => "; a sandbox forbids seccomp(2): allow it in the sandbox's profile",
        _ => "",
    }
}

/// Signals that are passed on to the program.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Signals that whoever executed us has ordered for the program: timers, limits, a failing battery. They
/// are passed on, whoever sends them; nobody sends them to a group.
const FOR_ALL: [Signal; 5] =
    [Signal::SIGALRM, Signal::SIGVTALRM, Signal::SIGPROF, Signal::SIGXCPU, Signal::SIGPWR];

/// Runs the program to its end. `started` is called once, when it runs, with the shared device:
/// the place to start a control socket's thread.
///
/// Call it from a process with one thread only.
///
/// # Errors
/// The program could not be started; see [`RunError`].
pub fn run(config: Config, started: impl FnOnce(&Arc<Mutex<Shared>>)) -> Result<Exit, RunError> {
    look_before(&config)?;
    crate::sys::supervise::ignore_file_limit();
    // A buffer is no file of the program's: its limit is not ours.
    let file_limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    raise_limit(rustix::process::Resource::Fsize);
    let cookie = new_cookie();
    let live = config
        .live
        .as_ref()
        .map(|live| Live::new(live, cookie))
        .transpose()
        .map_err(RunError::Live)?;
    let (live, orders) = live.unzip();
    let sabotage = config.live.as_ref().map(|live| live.sabotage);
    let program = calls(&config, live.as_ref(), cookie);
    raise_limit(rustix::process::Resource::Memlock);
    let mut device = Device::new(config.heaps, config.limits);
    if live.is_some() && make_movable(&mut device) > 0 && !config.quiet {
        super::say!(
            "driftheap: the heaps' buffers have ordinary memory, so that they can move: \
             get_user_pages succeeds on them (mmap=pfnmap keeps a heap's where they are)"
        );
    }
    let files = Files::new(&device, locked_bytes_max()).map_err(RunError::Setup)?;
    // A recording has the pins that the detectors know, and a device waits for brackets.
    let followed = config.watch || config.record || !config.devices.is_empty();
    let watch = followed.then(Watch::default);
    let program_bus = (config.record || !config.devices.is_empty())
        .then(|| ProgramBus::new(config.limits.bytes, config.record));
    let program_bus = program_bus.transpose().map_err(RunError::Setup)?;
    let timeline_ends = files.timeline_ends().map_err(RunError::Setup)?;
    let shared = Arc::new(Mutex::new(Shared { device, files, watch, orders, program_bus }));
    let (signals, old_mask) = block_signals().map_err(RunError::Setup)?;
    // Orphans of the program become ours, so that nobody is left unreaped.
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let _lowered = rustix::process::setrlimit(rustix::process::Resource::Fsize, file_limit);
    let child = spawn(&config.argv, &program, &old_mask).map_err(RunError::Spawn)?;
    let Child { pid, listener, exec_status } = child;
    raise_limit(rustix::process::Resource::Nofile);
    raise_limit(rustix::process::Resource::Fsize);
    listener.wake_synchronously();
    started(&shared);
    let devices = devices::start(config.devices, &shared).map_err(RunError::Setup)?;
    let mut supervisor = Supervisor {
        listener,
        shared: Arc::clone(&shared),
        callers: Callers::default(),
        pending: Pending::default(),
        epolls: epoll::Proxies::default(),
        timeline_ends,
        stacks: Stacks::new(now_ns()),
        check: config.watch.then(|| Check::new(config.check, cookie)),
        live,
        main_pid: pid,
        cookie,
        require_pfnmap: config.require_pfnmap,
        quiet: config.quiet,
        reports: config.watch,
        gave_up: false,
        unwatched: Unwatched::default(),
        upkeep: super::upkeep::Upkeep::default(),
        watchdog: super::watchdog::Watchdog::start(),
    };
    if let Some(Sabotage::HoldUp(ms)) = sabotage {
        supervisor.watchdog.hold_up(std::time::Duration::from_millis(ms));
    }
    let ended = supervisor.run(&signals, exec_status, &config.argv);
    lock(&shared).files.remove_directory();
    Ok(finished(ended?, devices, &shared, config.watch))
}

/// Ends the devices and gathers what there is to tell.
fn finished(status: Ended, devices: Vec<Running>, shared: &Mutex<Shared>, reports: bool) -> Exit {
    let idle = |device: &Running| device.idle(&lock(shared).device.seen);
    let idle_devices = devices.iter().filter_map(idle).collect();
    // What they have begun is finished, and reported, before anybody reads the reports.
    drop(devices);
    let mut guard = lock(shared);
    let Shared { device, files, watch, .. } = &mut *guard;
    files.sweep(device);
    let misuse = watch.take().filter(|_| reports).map(Watch::into_log);
    Exit { status, stats: device.stats, misuse, idle_devices }
}

/// What has to be so before anything is started.
fn look_before(config: &Config) -> Result<(), RunError> {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    if held_up::has_user_file_system(&String::from_utf8_lossy(&mounts)) {
        held_up::files_become_possible();
    }
    if let Some((program, kind)) =
        config.argv.first().and_then(|arg| Some(arg).zip(foreign_file(arg)))
    {
        return Err(RunError::Foreign { program: program.to_string_lossy().into_owned(), kind });
    }
    if !proc_is_ours() {
        return Err(RunError::Proc);
    }
    Ok(())
}

/// Whether /proc/PID names the processes that we call so.
fn proc_is_ours() -> bool {
    let own = std::fs::read_link("/proc/self").unwrap_or_default();
    own.as_os_str() == std::process::id().to_string().as_str()
}

/// The system calls that are handed over.
fn calls(config: &Config, live: Option<&Live>, cookie: u32) -> Vec<libc::sock_filter> {
    let mut filter = filter(config.level, config.watch);
    if config.watch || config.record {
        super::pins::add_rules(&mut filter);
    }
    if let Some(live) = live {
        super::flights::add_rules(&mut filter);
        super::trap::add_rules(&mut filter, live.cookie);
    }
    if config.check.mode != Mode::Off {
        super::check::calls::add_rules(&mut filter, cookie);
    }
    // The kernel takes a descriptor from 32 bits.
    filter.pass(libc::SYS_mmap, 4, cookie);
    // Beyond its one argument, which the kernel does not look at.
    filter.pass(libc::SYS_userfaultfd, 5, cookie);
    filter.assemble()
}

/// Raises a soft limit to the hard one. The program inherits what is raised before it starts:
/// locked memory, which its buffers count against, and not descriptors, which only we need.
fn raise_limit(resource: rustix::process::Resource) {
    let mut limit = rustix::process::getrlimit(resource);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(resource, limit);
}

/// Bytes of memfd_secret that the program may map: its RLIMIT_MEMLOCK, or all with CAP_IPC_LOCK.
fn locked_bytes_max() -> u64 {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let effective = super::caller::status(std::process::id().cast_signed(), "CapEff")
        .and_then(|text| u64::from_str_radix(&text, 16).ok())
        .unwrap_or(0);
    if effective & CAP_IPC_LOCK != 0 {
        return u64::MAX;
    }
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current.unwrap_or(u64::MAX)
}

fn block_signals() -> io::Result<(SignalFd, SigSet)> {
    let mut set = SigSet::empty();
    for signal in FORWARDED {
        set.add(signal);
    }
    for signal in FOR_ALL {
        set.add(signal);
    }
    set.add(Signal::SIGCHLD);
    // Somebody opens a file with our lease.
    set.add(Signal::SIGIO);
    let mut old = SigSet::empty();
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut old))?;
    Ok((SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?, old))
}

impl Supervisor {
    /// Serves until every supervised process is gone; returns the main one's end.
    fn run(
        &mut self,
        signals: &SignalFd,
        exec_status: OwnedFd,
        argv: &[CString],
    ) -> Result<Ended, RunError> {
        let mut exec_status = Some(exec_status);
        let mut ended = None;
        let mut failed = None;
        loop {
            let ready = self.wait(signals, exec_status.as_ref());
            if ready.signal {
                self.handle_signals(signals, &mut ended);
            }
            if ready.exec
                && let Some(status) = exec_status.take()
            {
                failed = exec_error(&status);
            }
            // Before the call: who closes a timeline and looks at its fence next sees that it has
            // signalled.
            if ready.timeline {
                self.end_timelines();
                self.refresh_epolls();
            }
            if ready.call {
                self.serve();
            }
            if !self.pending.is_empty() {
                self.look_at_pending();
            }
            if ready.call {
                self.refresh_epolls();
            }
            self.work_on_live();
            self.keep_up(ready.call, ready.end);
            self.show_reports();
            if ready.gone {
                self.reap_last(&mut ended);
                let program = argv.first().map_or(Default::default(), |arg| arg.to_string_lossy());
                return match failed {
                    Some(error) => Err(RunError::Exec { program: program.into_owned(), error }),
                    None => Ok(ended.unwrap_or(Ended::Exited(0))),
                };
            }
        }
    }

    fn wait(&self, signals: &SignalFd, exec_status: Option<&OwnedFd>) -> Ready {
        // The listener first: the kernel looks at them in this order, so that what was closed
        // before a call is seen with it.
        let mut fds = vec![
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::new(&self.timeline_ends, PollFlags::IN),
        ];
        let first_optional = fds.len();
        fds.extend(exec_status.map(|fd| PollFd::new(fd, PollFlags::IN)));
        let ends_at = fds.len();
        fds.extend(self.callers.ends().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let fixed = fds.len();
        fds.extend(self.live.iter().flat_map(Live::poll_fds));
        let timeout = self.timeout();
        if rustix::event::poll(&mut fds, timeout.as_ref()).is_err() {
            return Ready::default();
        }
        fds.truncate(fixed);
        let listener = fds[0].revents();
        Ready {
            call: listener.contains(PollFlags::IN),
            gone: listener.contains(PollFlags::HUP) && !listener.contains(PollFlags::IN),
            signal: !fds[1].revents().is_empty(),
            timeline: !fds[2].revents().is_empty(),
            exec: fds[first_optional..ends_at].iter().any(|fd| !fd.revents().is_empty()),
            end: fds[ends_at..].iter().any(|fd| !fd.revents().is_empty()),
        }
    }

    /// How long nothing may happen before somebody has to be looked at.
    fn timeout(&self) -> Option<Timespec> {
        let tick = (!self.pending.is_empty()).then_some(TICK_MS * 1_000_000);
        let until = |at_ns: u64| i64::try_from(at_ns.saturating_sub(now_ns())).unwrap_or(i64::MAX);
        let live = self.live.as_ref().map(|live| until(live.next_ns()));
        let upkeep = self.upkeep.due_ns().map(until);
        let wait = tick.into_iter().chain(live).chain(upkeep).min()?;
        Some(Timespec { tv_sec: wait / 1_000_000_000, tv_nsec: wait % 1_000_000_000 })
    }

    fn handle_signals(&mut self, signals: &SignalFd, ended: &mut Option<Ended>) {
        while let Ok(Some(info)) = signals.read_signal() {
            let Ok(number) = i32::try_from(info.ssi_signo) else { continue };
            let Ok(signal) = Signal::try_from(number) else { continue };
            if signal == Signal::SIGCHLD {
                self.reap(ended);
                continue;
            }
            if signal == Signal::SIGIO {
                self.give_leases_up();
                continue;
            }
            // The terminal's own signals went to the whole foreground group already.
            let from_kernel = info.ssi_code > 0;
            if (!from_kernel || FOR_ALL.contains(&signal)) && ended.is_none() {
                let _ = nix::sys::signal::kill(Pid::from_raw(self.main_pid), signal);
            }
        }
    }

    /// Reaps what has ended, notes the main process's end and lets attached threads go on.
    fn reap(&mut self, ended: &mut Option<Ended>) {
        while let Ok(Some((pid, change))) = trace::wait_any(false) {
            self.changed(pid, change, ended);
        }
    }

    fn changed(&mut self, pid: i32, change: Change, ended: &mut Option<Ended>) {
        if pid == self.main_pid {
            match change {
                Change::Exited(status) => *ended = Some(Ended::Exited(status)),
                Change::Killed(signal) => *ended = Some(Ended::Signalled(signal)),
                Change::Stopped(_) => {}
            }
        }
        self.note(pid, change);
    }

    /// Notes the ends of the program's processes, the users of the filter: they have ended or are
    /// about to. Other children of ours need not: our guardian when we are process 1, and whatever
    /// the process that executed us had started.
    fn reap_last(&mut self, ended: &mut Option<Ended>) {
        while ended.is_none() {
            // No ECHILD before the main process has been waited for.
            let Ok(Some((pid, change))) = trace::wait_any(true) else { break };
            self.changed(pid, change, ended);
        }
        let deadline_ns = now_ns() + LAST_NS;
        loop {
            self.reap(ended);
            let is_left = self.check.as_ref().is_some_and(Check::traces_any);
            if !is_left || now_ns() > deadline_ns {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// How long the end of traced threads is waited for that the kernel has nearly ended.
const LAST_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    call: bool,
    gone: bool,
    signal: bool,
    timeline: bool,
    exec: bool,
    end: bool,
}

/// The errno that the child sent instead of executing the program; `None` if it did execute it.
fn exec_error(status: &OwnedFd) -> Option<io::Error> {
    let mut errno = [0; 4];
    let (got, _) = rustix::net::recv(status, &mut errno, rustix::net::RecvFlags::empty()).ok()?;
    (got == errno.len()).then(|| io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
}
