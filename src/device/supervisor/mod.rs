//! The supervisor: runs a program, unchanged and unprivileged, so that it sees the device.
//!
//! The program starts under a seccomp filter ([`filter`]) whose user notifications arrive here.
//! For each trapped call:
//!
//! 1. Copy what the call points to, once ([`caller`]).
//! 2. Find out whether it concerns us: by path ([`crate::device::path`]) or by the inode behind a
//!    descriptor ([`files`]). If not, let the kernel execute it.
//! 3. Ask the [`Device`], check that the caller is still in the call, and do what it says.
//!
//! One thread does all this; a call that has to wait for a fence is put aside (`pending`). The
//! filter is inherited by every child and kept over exec, so the whole tree of processes is
//! supervised, and the supervisor stays until the last of them is gone.
//!
//! **Differs from Linux**: a decision is made on copied arguments, and a call that is let through
//! is executed on what is there then. This is a device for testing, no sandbox.

use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::misuse::Watch;
use super::path::DeviceNode;
use super::transport::{lock, now_ns};
use super::{Device, Object};
use crate::sys::arch::legacy;
use crate::sys::notify::{Call, Listener};

mod address;
pub mod caller;
mod check;
mod control;
pub mod devices;
mod epoll;
pub mod files;
pub mod filter;
mod flights;
mod held_up;
mod ioctls;
mod life;
pub mod live;
pub mod net;
mod paths;
mod pending;
mod pins;
mod run;
mod scatter;
pub mod stack;
mod strict;
mod trap;
mod unwatched;
mod upkeep;
pub mod users;
mod watch;
mod watchdog;

pub use check::CheckConfig;
pub use filter::Level;
pub use live::LiveConfig;
pub use run::{Config, Ended, Exit, RunError, run};

use caller::{Callers, Copied};
use files::Files;
use pending::{Pending, Waiting};
use stack::Stacks;

/// A device and its files, shared with the control socket's thread.
#[derive(Debug)]
pub struct Shared {
    /// The device.
    pub device: Device,
    /// Its files.
    pub files: Files,
    /// The detectors of misuse, where reports are asked for.
    pub watch: Option<Watch>,
    /// The way for orders to reach the exporter of a device whose buffers move.
    pub orders: Option<live::Orders>,
    /// The bus of the buffers, where devices are emulated or the run is recorded.
    pub program_bus: Option<devices::ProgramBus>,
}

/// What a handler decided.
#[derive(Debug)]
enum Decision {
    /// Return a value.
    Value(i64),
    /// Fail.
    Fail(Errno),
    /// Let the kernel execute the call.
    Native,
    /// The listener was already told, or there is nobody left to tell.
    Sent,
    /// Put aside.
    Later(Waiting),
}

impl From<Errno> for Decision {
    fn from(errno: Errno) -> Self {
        Self::Fail(errno)
    }
}

impl From<Result<Self, Errno>> for Decision {
    fn from(result: Result<Self, Errno>) -> Self {
        result.unwrap_or_else(Self::Fail)
    }
}

impl From<super::Verdict> for Decision {
    fn from(verdict: super::Verdict) -> Self {
        match verdict {
            super::Verdict::Fail(errno) => Self::Fail(errno),
            super::Verdict::Value(value) => Self::Value(value),
            super::Verdict::Native => Self::Native,
        }
    }
}

/// Serves the calls of one tree of processes.
#[derive(Debug)]
struct Supervisor {
    listener: Listener,
    shared: Arc<Mutex<Shared>>,
    callers: Callers,
    pending: Pending,
    epolls: epoll::Proxies,
    /// Readable when a timeline was closed.
    timeline_ends: std::os::fd::OwnedFd,
    stacks: Stacks,
    check: Option<check::Check>,
    live: Option<live::Live>,
    main_pid: i32,
    /// Tells calls that we make in a program from its own.
    cookie: u32,
    require_pfnmap: bool,
    quiet: bool,
    /// Whether misuse is told.
    reports: bool,
    /// A panic of ours was caught.
    gave_up: bool,
    unwatched: unwatched::Unwatched,
    upkeep: upkeep::Upkeep,
    watchdog: watchdog::Watchdog,
}

/// Prints a line on stderr. One that can't be written, to a full disk or a closed pipe, is no reason
/// to end a program.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _unwritten = writeln!(anstream::stderr(), $($words)*);
    }};
}
use say;

/// Whether a failure means that there is too little of something, and not that there is nothing.
fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

/// Low 32 bits of an argument, as the kernel truncates to `int`.
fn int(arg: u64) -> i32 {
    uint(arg).cast_signed()
}

/// Low 32 bits of an argument, as the kernel truncates to `unsigned int`.
fn uint(arg: u64) -> u32 {
    u32::try_from(arg & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

impl Supervisor {
    /// Takes one trapped call and answers it or puts it aside.
    fn serve(&mut self) {
        // ENOENT: the caller was killed before its call was read.
        let Ok(call) = self.listener.recv() else { return };
        self.watchdog.begin(call.tid, call.nr);
        self.serve_call(call);
        self.watchdog.end();
    }

    fn serve_call(&mut self, call: Call) {
        let answer = net::caught(|| {
            self.foreign_call(&call).unwrap_or_else(|| {
                self.call_arrives(&call);
                self.answer_or_wait(&call)
            })
        });
        let answer = answer.unwrap_or_else(|| {
            self.gave_up("a call was looked at");
            Decision::Native
        });
        if net::caught(|| self.send(call, answer)).is_none() {
            self.gave_up("a call was answered");
            // One that was answered already has no id any more.
            drop(self.listener.resume(call.id));
        }
        self.show_reports();
    }

    /// Something of ours panicked, which is a bug of driftheap: the program goes on, and its buffers
    /// stay where they are.
    fn gave_up(&mut self, when: &str) {
        if let Some(live) = &mut self.live {
            live.engine.recover();
            live.engine.bar_all("driftheap has a bug, see its report, and moves nothing any more");
        }
        if !self.gave_up {
            say!(
                "driftheap: BUG in driftheap itself, as {when} (the panic is above): the program \
                 goes on, and no buffer moves from now on; please report it"
            );
        }
        self.gave_up = true;
    }

    /// The process of a thread; room is made where only that keeps it from being told.
    ///
    /// # Errors
    /// ESRCH: it is gone. EMFILE, ENFILE, ENOMEM: it can't be told.
    fn tgid(&mut self, tid: i32) -> Result<i32, Errno> {
        match caller::look_tgid(tid) {
            Err(errno) if is_shortage(errno) => {
                self.make_room();
                caller::look_tgid(tid)
            }
            result => result,
        }
    }

    fn send(&mut self, call: Call, answer: Decision) {
        // An error means that the caller is gone, and with it whoever wanted the answer.
        let sent = match answer {
            Decision::Value(value) => self.listener.reply(call.id, Ok(value)),
            Decision::Fail(errno) => self.listener.reply(call.id, Err(errno)),
            Decision::Native => {
                self.let_go(call);
                Ok(())
            }
            Decision::Sent => Ok(()),
            Decision::Later(waiting) => {
                if let Err(errno) = self.pending.push(call, waiting) {
                    self.send(call, Decision::Fail(errno));
                }
                Ok(())
            }
        };
        drop(sent);
    }

    /// The answer to a call, once everything that it points to can be read.
    fn answer_or_wait(&mut self, call: &Call) -> Decision {
        // What was read for something else held up nobody's call.
        drop(held_up::take());
        match (self.answer(call), held_up::take()) {
            // Nothing was done for want of an argument.
            (Decision::Fail(Errno::FAULT) | Decision::Native, Some(access)) => {
                Decision::Later(Waiting::Memory(access))
            }
            (answer, _) => answer,
        }
    }

    fn answer(&mut self, call: &Call) -> Decision {
        let [a0, a1, a2, a3, ..] = call.args;
        let cwd = libc::AT_FDCWD;
        match call.nr {
            legacy::SYS_open => self.open(call, cwd, a0, uint(a1)),
            libc::SYS_openat => self.open(call, int(a0), a1, uint(a2)),
            libc::SYS_openat2 => self.openat2(call),
            legacy::SYS_stat => self.stat_path(call, cwd, a0, a1),
            legacy::SYS_lstat => self.lstat(call, a0, a1),
            libc::SYS_newfstatat => self.newfstatat(call),
            libc::SYS_statx => self.statx(call),
            legacy::SYS_access => self.access(call, cwd, a0, uint(a1)),
            libc::SYS_faccessat | libc::SYS_faccessat2 => self.access(call, int(a0), a1, uint(a2)),
            libc::SYS_getxattr
            | libc::SYS_lgetxattr
            | libc::SYS_listxattr
            | libc::SYS_llistxattr => match self.node(call, cwd, a0) {
                Some(DeviceNode::FdInfo { .. } | DeviceNode::FdLink { .. }) | None => {
                    Decision::Native
                }
                Some(DeviceNode::Behind { .. }) => Decision::Fail(Errno::NOTDIR),
                Some(_) => Decision::Fail(Errno::OPNOTSUPP),
            },
            libc::SYS_ioctl => self.ioctl(call),
            libc::SYS_mmap => self.mmap(call),
            libc::SYS_epoll_ctl => self.epoll_ctl(call),
            libc::SYS_exit_group => self.exit_group(call),
            legacy::SYS_readlink => self.readlink(call, cwd, a0, a1, a2),
            libc::SYS_readlinkat => self.readlink(call, int(a0), a1, a2, a3),
            libc::SYS_clone | libc::SYS_clone3 | legacy::SYS_fork => self.fork_live(call),
            libc::SYS_execve | libc::SYS_execveat => self.exec_live(call),
            libc::SYS_vmsplice => {
                self.watch_vmsplice(call);
                Decision::Native
            }
            libc::SYS_io_uring_register => {
                self.watch_ring(call);
                Decision::Native
            }
            libc::SYS_userfaultfd => {
                held_up::becomes_possible();
                Decision::Native
            }
            libc::SYS_remap_file_pages => self.remap_file_pages(call),
            _ => self.strict(call),
        }
    }

    /// The object behind a descriptor of the caller, if it is ours. A caller that can't be looked
    /// into has no object of ours.
    fn object(&mut self, tid: i32, fd: i32) -> Option<(Object, Copied)> {
        self.look(tid, fd).ok().flatten()
    }

    /// As [`Supervisor::object`], but says when it could not be told for want of descriptors or
    /// memory.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    fn look(&mut self, tid: i32, fd: i32) -> Result<Option<(Object, Copied)>, Errno> {
        let file = match self.copy_of(tid, fd) {
            Ok(file) => file,
            Err(errno) if is_shortage(errno) => return Err(errno),
            Err(_) => return Ok(None),
        };
        let object = lock(&self.shared).files.object(std::os::fd::AsFd::as_fd(&file));
        Ok(object.map(|object| (object, file)))
    }

    /// A copy of the caller's descriptor, for which room is made if there is none.
    fn copy_of(&mut self, tid: i32, fd: i32) -> Result<Copied, Errno> {
        match self.callers.file(tid, fd) {
            Err(errno) if is_shortage(errno) => {
                self.make_room();
                self.callers.file(tid, fd)
            }
            result => result,
        }
    }

    /// Lets go of every descriptor and buffer that nobody needs any more.
    fn make_room(&mut self) {
        self.callers.clear();
        let shared = &mut *lock(&self.shared);
        let Shared { device, files, program_bus, .. } = shared;
        files.with_spare(|files| files.sweep(device));
        if let Some(live) = &mut self.live {
            live.engine.retain(|id| device.buffer(id).is_some());
        }
        if let Some(bus) = program_bus {
            bus.retain(device);
        }
    }

    /// A timeline was closed: its fences have signalled.
    fn end_timelines(&mut self) {
        let shared = &mut *lock(&self.shared);
        shared.files.end_timelines(&mut shared.device);
    }

    /// Counts what the main program still holds as it exits.
    fn exit_group(&mut self, call: &Call) -> Decision {
        self.watch_exit(call);
        let thread = format!("/proc/{}/task/{}", self.main_pid, call.tid);
        if call.tid == self.main_pid || std::fs::exists(thread).unwrap_or(false) {
            let shared = &mut *lock(&self.shared);
            shared.files.sweep(&mut shared.device);
            let held = u64::try_from(shared.device.buffers().count()).unwrap_or(u64::MAX);
            shared.device.stats.held_at_exit = Some(held);
        }
        Decision::Native
    }
}
