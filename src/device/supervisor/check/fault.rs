//! A SIGSEGV or SIGBUS of an attached thread: is it ours, what does it mean, and how to go on.

use rustix::io::Errno;

use super::{StoppedThread, Supervisor, lock};
use crate::device::maps::mappings;
use crate::device::misuse::guard::{GuardedMapping, Mode, ProtectionChange, READ, WRITE, page};
use crate::device::misuse::{Act, Allowed, Finding, Kind};
use crate::device::supervisor::now_ns;
use crate::device::supervisor::stack::Registers;
use crate::device::{BufferId, Object};
use crate::model::Life;
use crate::sys::trace::{self, Stop};
use crate::uapi::page_size;

/// SEGV_ACCERR: the mapping does not allow it.
const SEGV_ACCERR: i32 = 2;

/// Accesses by one instruction that are followed one by one between two ENDs; beyond it the pages
/// that it touches stay open.
const STRIKES_MAX: u32 = 16;

/// Most pages that one instruction is given.
const PAGES_MAX: usize = 8;

/// One page that an instruction was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Given {
    addr: u64,
    write: bool,
    buffer: BufferId,
    offset: u64,
    /// What the brackets said.
    allowed: Allowed,
}

/// An access that failed although its page seemed open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pc: u64,
    addr: u64,
    /// Of its process's protections, until then.
    changes: u64,
}

/// How an instruction that was let through ended.
struct Stepped {
    given: Vec<Given>,
    /// Another signal that came meanwhile.
    signal: Option<i32>,
}

/// The registers that a stack is unwound from.
fn of_stopped(saved: trace::Registers) -> Registers {
    Registers { pc: saved.pc(), sp: saved.sp(), bp: Some(saved.frame()), link: saved.link() }
}

/// What a fault calls for.
enum FaultAction {
    /// It is the program's own.
    None,
    /// The page is open by now, as far as our books go: another thread's fault may have opened it
    /// since. The same instruction tries once more.
    Again,
    /// The brackets allow it by now: bring the protections up to date.
    Adapt,
    /// A misuse.
    Misuse,
}

impl Supervisor {
    /// Handles the fault that a thread stopped for, and lets it go on.
    pub(super) fn handle_fault(&mut self, tid: i32, signal: i32) -> Result<(), Errno> {
        let Some(fault) = trace::fault(tid) else { return trace::resume(tid, Some(signal)) };
        let Some(pid) = self.stacks.tgid(tid) else {
            // It is gone; or it can't be told whose it is, and it is not left standing.
            return trace::registers(tid).and(Err(Errno::MFILE));
        };
        if signal == libc::SIGBUS {
            self.gone(tid, pid, fault.addr);
            return trace::resume(tid, Some(signal));
        }
        if fault.code != SEGV_ACCERR {
            return trace::resume(tid, Some(signal));
        }
        match self.fault_action(tid, pid, fault.addr) {
            FaultAction::None => trace::resume(tid, Some(signal)),
            FaultAction::Again => trace::resume(tid, None),
            FaultAction::Adapt => {
                let thread = StoppedThread::new(tid, self.gate_of(pid), self.cookie())?;
                self.adapt(pid, &thread, false)?;
                trace::resume(tid, None)
            }
            FaultAction::Misuse => {
                let thread = StoppedThread::new(tid, self.gate_of(pid), self.cookie())?;
                self.misuse(pid, &thread, fault.addr)
            }
        }
    }

    /// A SIGBUS: reports it if a buffer lies there that was purged or revoked.
    fn gone(&mut self, tid: i32, pid: i32, addr: u64) {
        let mapping = mappings(pid).into_iter().find(|mapping| mapping.contains(addr));
        let Some(mapping) = mapping else { return };
        let (id, kind, word) = {
            let shared = lock(&self.shared);
            let Some(Object::Buffer(id)) = shared.files.by_inode(mapping.inode) else { return };
            match shared.device.buffer(id).map(|buffer| buffer.life) {
                Some(Life::Purged) => (id, Kind::AccessAfterPurge, "purged"),
                Some(Life::Revoked) => (id, Kind::AccessAfterRevoke, "revoked"),
                Some(Life::Live | Life::Unallocated | Life::Quiesced | Life::Released) | None => {
                    return;
                }
            }
        };
        let registers = trace::registers(tid).ok().map(of_stopped);
        let site = self.stacks.site_at(tid, registers, now_ns());
        let finding = Finding {
            kind,
            what: format!("The CPU touched the buffer after its exporter had {word} it: SIGBUS."),
            act: Act::Access { addr, write: None },
            site,
            offset: Some(mapping.offset + (addr - mapping.start)),
        };
        self.report(id, finding);
        self.show_reports();
    }

    pub(super) fn gate_of(&mut self, pid: i32) -> u64 {
        self.check.as_mut().and_then(|check| check.proc(pid)).map_or(0, |proc| proc.gate)
    }

    /// The guarded mapping at an address.
    pub(super) fn area(&mut self, pid: i32, addr: u64) -> Option<&mut GuardedMapping> {
        let areas = &mut self.check.as_mut()?.proc(pid)?.areas;
        areas.iter_mut().find(|area| area.range.contains(&addr))
    }

    pub(super) fn allowed(&self, buffer: BufferId) -> Allowed {
        let shared = lock(&self.shared);
        let watch = shared.watch.as_ref();
        watch.map_or(Allowed::Writes, |watch| watch.brackets.allowed(buffer))
    }

    fn fault_action(&mut self, tid: i32, pid: i32, addr: u64) -> FaultAction {
        if self.area(pid, addr).is_none() {
            // It may have come by mremap, which is not handed over.
            let mut shared = lock(&self.shared);
            let proc = self.check.as_mut().and_then(|check| check.proc(pid));
            proc.into_iter().for_each(|proc| super::refresh(proc, pid, &mut shared));
        }
        let Some(area) = self.area(pid, addr) else { return FaultAction::None };
        let (buffer, prot, now) = (area.buffer, area.prot, area.now(addr));
        // A page that can't be touched at all explains every fault, one that is open none.
        if now != 0 && self.tries_again(tid, pid, addr) {
            return FaultAction::Again;
        }
        if now == prot {
            return FaultAction::None;
        }
        match self.allowed(buffer) {
            Allowed::Writes => FaultAction::Adapt,
            Allowed::Reads if now & READ == 0 && prot & READ != 0 => FaultAction::Adapt,
            Allowed::Reads | Allowed::Nothing => FaultAction::Misuse,
        }
    }

    /// Whether an access that has failed may succeed now: protections have changed since it was
    /// last made.
    fn tries_again(&mut self, tid: i32, pid: i32, addr: u64) -> bool {
        let pc = trace::registers(tid).map_or(0, |registers| of_stopped(registers).pc);
        let Some(check) = self.check.as_mut() else { return false };
        let changes = check.proc(pid).map_or(0, |proc| proc.changes);
        let attempt = Attempt { pc, addr, changes };
        check.attempts.insert(tid, attempt) != Some(attempt)
    }

    /// Lets a forbidden access happen, once, and reports it.
    fn misuse(&mut self, pid: i32, thread: &StoppedThread, addr: u64) -> Result<(), Errno> {
        let (tid, saved) = (thread.tid, thread.saved);
        // Before the step: afterwards the stack may be another one.
        let at = of_stopped(saved);
        let Some(stepped) = self.step_through(pid, thread, addr)? else {
            // More than the program may do by its own mapping: its own fault after all.
            return trace::resume(tid, Some(libc::SIGSEGV));
        };
        let site = self.stacks.site_at(tid, Some(at), now_ns());
        for given in &stepped.given {
            let (kind, what) = if given.allowed == Allowed::Reads {
                (
                    Kind::WriteInReadBracket,
                    "The CPU wrote while only brackets for reading were open",
                )
            } else if given.write {
                (Kind::UnbracketedAccess, "The CPU wrote while no SYNC bracket was open")
            } else {
                (Kind::UnbracketedAccess, "The CPU read while no SYNC bracket was open")
            };
            let finding = Finding {
                kind,
                what: format!("{what} on the buffer."),
                act: Act::Access { addr: given.addr, write: Some(given.write) },
                site: site.clone(),
                offset: Some(given.offset),
            };
            self.report(given.buffer, finding);
        }
        self.show_reports();
        let after = StoppedThread::new(tid, thread.gate, thread.cookie)?;
        after.protect(&self.close_again(pid, saved.pc(), &stepped.given))?;
        trace::resume(tid, stepped.signal)
    }

    /// Opens what one instruction needs and lets the thread do it. `None`: it needs what the program
    /// has not allowed itself; everything is as before.
    fn step_through(
        &mut self,
        pid: i32,
        thread: &StoppedThread,
        addr: u64,
    ) -> Result<Option<Stepped>, Errno> {
        let mut stepped = Stepped { given: Vec::new(), signal: None };
        let mut need = Some(addr);
        loop {
            if let Some(addr) = need.take() {
                let Some(change) = self.give(pid, addr, &mut stepped.given) else {
                    let given = std::mem::take(&mut stepped.given);
                    thread.protect(&self.closing(pid, &given))?;
                    return Ok(None);
                };
                thread.protect(&[change])?;
            }
            trace::step(thread.tid)?;
            match trace::wait_for(thread.tid)? {
                Stop::Signal(libc::SIGTRAP) => return Ok(Some(stepped)),
                Stop::Signal(libc::SIGSEGV) => {
                    need = trace::fault(thread.tid).map(|fault| fault.addr);
                    if need.is_none() {
                        stepped.signal = Some(libc::SIGSEGV);
                        return Ok(Some(stepped));
                    }
                }
                Stop::Signal(signal) => stepped.signal = Some(signal),
                Stop::Asked
                | Stop::Call
                | Stop::Group
                | Stop::Child(_)
                | Stop::Exec
                | Stop::Other => {}
            }
        }
    }

    /// The next thing that an instruction is given: reading of a page, then writing. A page that
    /// can be read already is written to.
    fn give(&mut self, pid: i32, addr: u64, given: &mut Vec<Given>) -> Option<ProtectionChange> {
        let area = self.area(pid, addr)?;
        let (buffer, prot, now) = (area.buffer, area.prot, area.now(addr));
        let offset = area.buffer_offset(addr);
        let allowed = self.allowed(buffer);
        let range = page(addr)..page(addr) + page_size();
        let again = given.iter_mut().find(|one| page(one.addr) == page(addr) && !one.write);
        let readable = again.is_some() || now & READ != 0;
        if readable {
            if prot & WRITE == 0 {
                return None;
            }
            match again {
                Some(one) => one.write = true,
                None => given.push(Given { addr, write: true, buffer, offset, allowed }),
            }
            return Some((range, prot));
        }
        if given.len() >= PAGES_MAX || prot == 0 {
            return None;
        }
        given.push(Given { addr, write: false, buffer, offset, allowed });
        // A mapping for writing alone too: what stores faults once more and is known for a store.
        Some((range, prot & !WRITE | READ))
    }

    /// What closes the pages that an instruction was given.
    fn closing(&mut self, pid: i32, given: &[Given]) -> Vec<ProtectionChange> {
        let mut changes = Vec::new();
        for one in given {
            let at = page(one.addr);
            if let Some(area) = self.area(pid, at) {
                changes.push((at..at + page_size(), area.now(at)));
            }
        }
        changes
    }

    /// The protections after the access: closed again, unless this instruction was followed often
    /// enough or pages are sampled anyway.
    fn close_again(&mut self, pid: i32, pc: u64, given: &[Given]) -> Vec<ProtectionChange> {
        let Some(check) = self.check.as_mut() else { return Vec::new() };
        let mode = check.mode;
        let Some(proc) = check.proc(pid) else { return Vec::new() };
        proc.changes += 1;
        let strikes = proc.strikes.entry(pc).or_default();
        *strikes += 1;
        let tired = *strikes > STRIKES_MAX;
        let mut changes = Vec::new();
        for one in given {
            let Some(area) = self.area(pid, one.addr) else { continue };
            if mode == Mode::Sampled {
                changes.extend(area.open_all());
            } else if tired {
                area.leave_open(one.addr);
                let at = page(one.addr);
                changes.push((at..at + page_size(), area.prot));
            }
        }
        if changes.is_empty() && mode != Mode::Sampled { self.closing(pid, given) } else { changes }
    }
}
