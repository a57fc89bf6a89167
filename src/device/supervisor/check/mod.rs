//! Access checking: the program's own page tables say when the CPU touches a buffer.
//!
//! While no SYNC bracket is open on a buffer, its mappings are PROT_NONE, and in a bracket for
//! reading they are read-only ([`guard`](crate::device::misuse::guard)). The processes that map a
//! buffer are attached with ptrace, from their first mmap of one:
//!
//! 1. mmap: the thread is let go and stopped again before its next instruction; it is made to
//!    execute mprotect on what it has just mapped.
//! 2. SYNC: the same, before the program learns that its ioctl has returned.
//! 3. A forbidden access is a SIGSEGV, which ptrace shows before the program could see it. The
//!    access is reported with all registers at hand, then made: the page is opened, the thread does
//!    one instruction, and the page is closed again (`fault`).
//!
//! mprotect works on every kind of memory that stands behind a buffer, memfd_secret included, and
//! costs the same for any number of pages. Which mappings there are is read from /proc/PID/maps at
//! each SYNC, so that munmap, mremap and mprotect need no trap.
//!
//! **Not seen**: what other threads do to a page during the one instruction; a process that maps a
//! buffer and is stopped nowhere between somebody else's END and its access; processes that can't
//! be traced, which is said once.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;

use super::{Decision, Shared, Supervisor, caller, lock};
use crate::device::buffer::MmapArgs;
use crate::device::maps::{self, Mapping};
use crate::device::misuse::Allowed;
use crate::device::misuse::guard::{GuardedMapping, Mode, ProtectionChange};
use crate::device::{Backing, BufferId, Ioctl, Object};
use crate::random::SplitMix64;
use crate::sys::arch;
use crate::sys::notify::Call;
use crate::sys::trace::{self, Change, Follow, Registers, Stop};
use crate::uapi::{dma_buf, page_size};

pub(super) mod calls;
mod fault;

/// What to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckConfig {
    /// How.
    pub mode: Mode,
    /// Seed of [`Mode::Sampled`].
    pub seed: u64,
}

/// A process that maps buffers.
#[derive(Clone, Debug, Default)]
struct Proc {
    /// A `syscall` instruction of its own.
    gate: u64,
    areas: Vec<GuardedMapping>,
    /// Where its next mapping goes.
    next: u64,
    /// Accesses followed one by one since the last END, by program counter.
    strikes: BTreeMap<u64, u32>,
    /// How often protections were changed.
    changes: u64,
}

/// The checker's books.
#[derive(Debug)]
pub(super) struct Check {
    mode: Mode,
    random: SplitMix64,
    /// Tells the calls that we make in a program from its own.
    cookie: u32,
    procs: BTreeMap<i32, Proc>,
    attached: BTreeSet<i32>,
    refused: BTreeSet<i32>,
    /// Threads in a call that was given an open mapping, and whether they have entered it.
    calling: BTreeMap<i32, bool>,
    /// Threads' last accesses that were made once more.
    attempts: BTreeMap<i32, fault::Attempt>,
}

/// A thread that stands still, to be used for calls of ours.
struct StoppedThread {
    tid: i32,
    gate: u64,
    cookie: u32,
    saved: Registers,
}

impl StoppedThread {
    fn new(tid: i32, gate: u64, cookie: u32) -> Result<Self, Errno> {
        Ok(Self { tid, gate, cookie, saved: trace::registers(tid)? })
    }

    /// Has the thread execute a system call.
    fn call(&self, nr: i64, args: [u64; 6]) -> Result<Result<u64, Errno>, Errno> {
        trace::call(self.tid, self.gate, &self.saved, nr, args)
    }

    /// Changes protections.
    fn protect(&self, changes: &[ProtectionChange]) -> Result<(), Errno> {
        for (range, prot) in changes {
            // The kernel looks at three arguments, the filter at the last.
            let cookie = u64::from(self.cookie) << 32;
            let args = [range.start, range.end - range.start, u64::from(*prot), 0, 0, cookie];
            // What the program has unmapped meanwhile is ENOMEM, and needs no protection.
            let _ = self.call(libc::SYS_mprotect, args)?;
        }
        Ok(())
    }
}

impl Check {
    pub(super) fn new(config: CheckConfig, cookie: u32) -> Self {
        Self {
            mode: config.mode,
            random: SplitMix64::new(config.seed),
            cookie,
            procs: BTreeMap::new(),
            attached: BTreeSet::new(),
            refused: BTreeSet::new(),
            calling: BTreeMap::new(),
            attempts: BTreeMap::new(),
        }
    }

    /// Whether a thread is attached whose end was not told yet.
    pub(super) fn traces_any(&self) -> bool {
        self.attached.iter().any(|&tid| trace::is_ours(tid))
    }

    /// Whether a process is followed.
    pub(super) fn follows(&self, pid: i32) -> bool {
        self.procs.contains_key(&pid)
    }

    /// A thread that is followed has made another, which is followed, too. To be told before its parent's
    /// books change: what the parent may touch now, it may.
    pub(super) fn born(&mut self, tid: i32) {
        self.attached.insert(tid);
        if caller::tgid(tid) == Some(tid) {
            self.proc(tid);
        }
    }

    /// The books of a process; a forked one starts with its parent's.
    fn proc(&mut self, pid: i32) -> Option<&mut Proc> {
        if !self.procs.contains_key(&pid) {
            let parent = caller::status(pid, "PPid")?.parse().ok()?;
            let inherited = self.procs.get(&parent)?.clone();
            self.procs.insert(pid, inherited);
        }
        self.procs.get_mut(&pid)
    }

    /// Attaches to every thread of a process.
    fn follow(&mut self, pid: i32) -> Result<(), Errno> {
        loop {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| Errno::SRCH)?;
            let mut fresh = false;
            for tid in tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok()) {
                if self.attached.contains(&tid) {
                    continue;
                }
                match trace::attach(
                    tid,
                    Follow { children: true, die_with_us: self.mode != Mode::Off },
                ) {
                    Ok(()) => fresh |= self.attached.insert(tid),
                    // A thread that one of ours has made meanwhile is attached already.
                    Err(Errno::PERM) if trace::is_ours(tid) => fresh |= self.attached.insert(tid),
                    Err(Errno::SRCH) => {}
                    // A first thread that has ended stays until the others have.
                    Err(Errno::PERM) if trace::has_ended(tid) => {}
                    Err(errno) => return Err(errno),
                }
            }
            // A thread that was attached late may have made others before.
            if !fresh {
                return Ok(());
            }
        }
    }
}

/// The address of the instruction before `ip` that makes system calls.
fn gate(tid: i32, ip: u64) -> Option<u64> {
    let at = ip.checked_sub(arch::CALL_BYTES)?;
    let bytes = caller::read(tid, at, arch::CALL_INSTRUCTION.len()).ok()?;
    (bytes == arch::CALL_INSTRUCTION).then_some(at)
}

/// Waits until a thread that was asked to stop does so; signals on the way are delivered.
fn stand_still(tid: i32) -> Result<(), Errno> {
    loop {
        match trace::wait_for(tid)? {
            Stop::Asked => return Ok(()),
            Stop::Signal(signal) => trace::resume(tid, Some(signal))?,
            Stop::Call | Stop::Group | Stop::Child(_) | Stop::Exec | Stop::Other => {
                trace::resume(tid, None)?;
            }
        }
    }
}

/// The buffer behind a mapping, if it is one that can be guarded.
fn buffer_of(shared: &Shared, mapping: &Mapping) -> Option<BufferId> {
    let Some(Object::Buffer(id)) = shared.files.by_inode(mapping.inode) else { return None };
    let buffer = shared.device.buffer(id)?;
    (mapping.shared && buffer.backing != Backing::Foreign).then_some(id)
}

impl Supervisor {
    /// mmap of a buffer that is granted to followed process `pid`: lets the kernel do it and guards
    /// what it has made.
    pub(super) fn check_mmap(
        &mut self,
        call: &Call,
        pid: i32,
        id: BufferId,
        args: MmapArgs,
    ) -> Decision {
        if trace::interrupt(call.tid).is_err() {
            return Decision::Native;
        }
        // Should the thread not stop, it shall not believe in a mapping.
        if self.listener.reply(call.id, Err(Errno::NOMEM)).is_ok()
            && let Err(errno) = self.map_for(call, pid, id, args)
        {
            self.lost(call.tid, errno);
        }
        Decision::Sent
    }

    /// Makes a mapping in a thread that has left its mmap, and lets it go on with the answer.
    fn map_for(
        &mut self,
        call: &Call,
        pid: i32,
        id: BufferId,
        args: MmapArgs,
    ) -> Result<(), Errno> {
        stand_still(call.tid)?;
        let mut thread = StoppedThread::new(call.tid, self.gate_of(pid), self.cookie())?;
        let result = self.map_in_region(pid, &thread, call, args)?;
        if let Ok(addr) = result {
            self.guard_mapped(call.tid, pid, id, addr, args)?;
        }
        thread.saved.set_result(result);
        trace::set_registers(call.tid, &thread.saved)?;
        trace::resume(call.tid, None)
    }

    fn cookie(&self) -> u32 {
        self.check.as_ref().map_or(0, |check| check.cookie)
    }

    /// Attaches to the caller's process, which is about to map a buffer.
    pub(super) fn followed(&mut self, call: &Call, id: BufferId) -> Option<i32> {
        let foreign = {
            let shared = lock(&self.shared);
            shared.device.buffer(id).is_none_or(|buffer| buffer.backing == Backing::Foreign)
        };
        let check = self.check.as_mut()?;
        // Without checks of every access those of dead buffers are seen, as SIGBUS.
        if foreign || (check.mode == Mode::Off && self.live.is_none()) {
            return None;
        }
        let pid = caller::tgid(call.tid)?;
        let entry = gate(call.tid, call.ip)?;
        check.proc(pid);
        check.procs.entry(pid).or_default().gate = entry;
        if let Err(errno) = check.follow(pid) {
            if check.refused.insert(pid) {
                crate::device::supervisor::say!(
                    "driftheap: the accesses of process {pid} can't be checked: it can't be traced \
                     ({errno}); a debugger has it, or it is not dumpable"
                );
            }
            return None;
        }
        Some(pid)
    }

    /// Guards what a stopped thread has just mapped at `addr`, which may be an errno.
    pub(super) fn guard_mapped(
        &mut self,
        tid: i32,
        pid: i32,
        id: BufferId,
        addr: u64,
        args: MmapArgs,
    ) -> Result<(), Errno> {
        let Some(check) = self.check.as_mut() else { return Ok(()) };
        let Some(proc) = check.proc(pid) else { return Ok(()) };
        if addr.cast_signed() <= 0 {
            return Ok(());
        }
        let gate = proc.gate;
        let thread = StoppedThread::new(tid, gate, check.cookie)?;
        let Some(proc) = check.proc(pid) else { return Ok(()) };
        let len = args.len.next_multiple_of(page_size());
        let range = addr..addr.saturating_add(len);
        proc.areas.retain(|area| area.range.end <= range.start || range.end <= area.range.start);
        proc.areas.push(GuardedMapping::new(range, id, args.offset, args.prot & 7));
        self.with_watch(|watch| watch.mapped_at(id, addr));
        self.adapt(pid, &thread, true)
    }

    /// A SYNC that is granted: opens or closes the caller's mappings, then lets it go. `None` where
    /// the caller maps nothing that is guarded.
    pub(super) fn check_sync(
        &mut self,
        call: &Call,
        request: &Ioctl,
        value: i64,
    ) -> Option<Decision> {
        let (Object::Buffer(_), dma_buf::SYNC) = (request.object, request.cmd) else {
            return None;
        };
        let sync = dma_buf::Sync::from_bytes(request.memory.first()?)?;
        let check = self.check.as_mut()?;
        if check.mode == Mode::Off {
            return None;
        }
        let pid = self.stacks.tgid(call.tid)?;
        let check = self.check.as_mut()?;
        let (gate, cookie) = (check.proc(pid)?.gate, check.cookie);
        let changes = self.changes(pid, sync.flags & dma_buf::SYNC_END != 0);
        if changes.is_empty() || trace::interrupt(call.tid).is_err() {
            return None;
        }
        if self.listener.reply(call.id, Ok(value)).is_err() {
            return Some(Decision::Sent);
        }
        let done = stand_still(call.tid)
            .and_then(|()| StoppedThread::new(call.tid, gate, cookie))
            .and_then(|thread| thread.protect(&changes))
            .and_then(|()| trace::resume(call.tid, None));
        if let Err(errno) = done {
            self.lost(call.tid, errno);
        }
        Some(Decision::Sent)
    }

    /// Brings the protections of a process up to what the brackets allow now.
    fn adapt(&mut self, pid: i32, thread: &StoppedThread, fresh: bool) -> Result<(), Errno> {
        thread.protect(&self.changes(pid, fresh))
    }

    /// What has to change for what the brackets allow now; the books have changed already.
    fn changes(&mut self, pid: i32, fresh: bool) -> Vec<ProtectionChange> {
        let mut shared = lock(&self.shared);
        let Some(check) = self.check.as_mut() else { return Vec::new() };
        let (mode, mut random) = (check.mode, check.random.clone());
        let Some(proc) = check.proc(pid) else { return Vec::new() };
        refresh(proc, pid, &mut shared);
        if fresh {
            proc.strikes.clear();
        }
        let brackets = shared.watch.as_ref().map(|watch| &watch.brackets);
        let mut changes = Vec::new();
        for area in &mut proc.areas {
            let allowed = brackets.map_or(Allowed::Writes, |known| known.allowed(area.buffer));
            changes.extend(area.adapt(allowed, mode, fresh, &mut random));
        }
        proc.changes += u64::from(!changes.is_empty());
        check.random = random;
        changes
    }

    /// A stop or an end of a child or an attached thread, from the main loop.
    pub(super) fn handle_stop(&mut self, tid: i32, stop: Stop) {
        if self.check.is_none() {
            // Nobody stays attached without a check.
            let signal = if let Stop::Signal(signal) = stop { Some(signal) } else { None };
            // One that is not ours to let go is a child that was stopped by a signal.
            let _ = trace::detach(tid, signal);
            return;
        }
        // Who stands still is looked into, whatever there is too little of.
        lock(&self.shared).files.lend();
        let done = match stop {
            Stop::Signal(signal @ (libc::SIGSEGV | libc::SIGBUS)) => self.handle_fault(tid, signal),
            Stop::Signal(signal) => trace::resume(tid, Some(signal)),
            Stop::Call => self.handle_call(tid),
            Stop::Group => trace::leave_stopped(tid),
            Stop::Child(child) => {
                if let Some(check) = &mut self.check {
                    check.born(child);
                }
                trace::resume(tid, None)
            }
            Stop::Exec => {
                if let Some(check) = &mut self.check {
                    check.procs.remove(&tid);
                }
                trace::resume(tid, None)
            }
            Stop::Asked | Stop::Other => trace::resume(tid, None),
        };
        lock(&self.shared).files.take_back();
        if let Err(errno) = done {
            self.lost(tid, errno);
        }
    }

    /// A thread has ended.
    pub(super) fn handle_end(&mut self, tid: i32) {
        if let Some(check) = &mut self.check {
            check.attached.remove(&tid);
            check.calling.remove(&tid);
            check.attempts.remove(&tid);
            if check.procs.remove(&tid).is_some() {
                self.with_watch(|watch| drop(watch.brackets.process_gone(tid)));
            }
        }
    }

    /// A thread that is gone needs nothing; one that can't be managed is let go.
    fn lost(&self, tid: i32, errno: Errno) {
        if errno == Errno::SRCH {
            return;
        }
        crate::device::supervisor::say!(
            "driftheap: thread {tid} is out of control ({errno}); it goes on unchecked"
        );
        let _ = trace::detach(tid, None);
    }
}

/// Compares the books of a process with its mappings. Those that can't be read are believed to be as they
/// were.
fn refresh(proc: &mut Proc, pid: i32, shared: &mut Shared) {
    let Some(now) = shared.files.with_spare(|_| maps::files(pid)) else { return };
    let mut areas = Vec::new();
    for mapping in now {
        let Some(id) = buffer_of(shared, &mapping) else { continue };
        let range = mapping.start..mapping.end;
        let known = proc.areas.iter().filter(|area| area.buffer == id);
        let seen: Vec<GuardedMapping> = known
            .clone()
            .filter_map(|area| area.seen(&range, mapping.offset, mapping.prot))
            .collect();
        if seen.is_empty() {
            // It came by mremap; what was closed there is closed here.
            let prot = known.map(|area| area.prot).fold(mapping.prot, |all, one| all | one);
            let mut area = GuardedMapping::new(range, id, mapping.offset, prot);
            area.moved_here(mapping.prot);
            areas.push(area);
        }
        areas.extend(seen);
    }
    proc.areas = merge(areas);
}

/// One mapping may show as several while parts of it have different protections.
fn merge(mut areas: Vec<GuardedMapping>) -> Vec<GuardedMapping> {
    areas.sort_by_key(|area| area.range.start);
    let mut merged: Vec<GuardedMapping> = Vec::new();
    for area in areas {
        let absorbed = merged.last_mut().is_some_and(|last| last.absorbs(&area));
        if !absorbed {
            merged.push(area);
        }
    }
    merged
}

impl Supervisor {
    /// Takes in a change: a stop is handled and an end is noted.
    pub(super) fn note(&mut self, tid: i32, change: Change) {
        match change {
            Change::Stopped(stop) => self.handle_stop(tid, stop),
            Change::Exited(_) | Change::Killed(_) => self.handle_end(tid),
        }
    }
}
