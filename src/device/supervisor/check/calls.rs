//! The kernel's own accesses to a closed buffer: read(2) into it, write(2) from it.
//!
//! A system call that finds PROT_NONE answers EFAULT, which no hardware does. So that a program
//! never sees it, buffers are mapped in [`REGION`], and the filter hands over every call with a
//! pointer there. Such a call is reported if it copies; then its thread is brought to the
//! instruction that made it, the mapping is opened, the call is made anew, and when it returns the
//! mapping is closed again (`sampled` leaves it open until the next END).
//!
//! **Not seen**: addresses that a program insists on with MAP_FIXED, and those behind pointers other
//! than an iovec's or a msghdr's: such a call gets EFAULT outside of a bracket.

use rustix::io::Errno;

use super::{Check, StoppedThread, Supervisor, stand_still};
use crate::device::buffer::MmapArgs;
use crate::device::live::space::REGION;
use crate::device::misuse::guard::{Mode, ProtectionChange, READ, WRITE};
use crate::device::misuse::{Act, Allowed, Finding, Kind};
use crate::device::supervisor::{flights, now_ns, pins};
use crate::device::{BufferId, misuse::Site};
use crate::sys::notify::Call;
use crate::sys::seccomp::{ArgTest, Filter};
use crate::sys::trace;

const MAP_FIXED: u32 = 0x10;
const MAP_32BIT: u32 = 0x40;
const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;

/// Distance between two mappings in the region.
const GUARD_BYTES: u64 = 2 << 20;

/// How often another address is tried when something is mapped at one.
const PLACES_MAX: usize = 8;

/// Adds the calls with pointers to buffers to a filter; those with the cookie are our own.
pub(in crate::device::supervisor) fn add_rules(filter: &mut Filter, cookie: u32) {
    flights::add_rules(filter);
    // A rule that never holds: mprotect is handed over for its pointer alone, and then not ours.
    let never = ArgTest { arg: 0, mask: 0, any_of: vec![1] };
    filter.when(libc::SYS_mprotect, vec![never]);
    filter.pass(libc::SYS_mprotect, 5, cookie).pass(libc::SYS_mmap, 4, cookie);
}

/// A call that copies, and whether it writes to the memory that it is given.
fn copies(nr: i64) -> Option<(&'static str, bool)> {
    Some(match nr {
        libc::SYS_read => ("read", true),
        libc::SYS_pread64 => ("pread64", true),
        libc::SYS_readv => ("readv", true),
        libc::SYS_preadv => ("preadv", true),
        libc::SYS_preadv2 => ("preadv2", true),
        libc::SYS_recvfrom => ("recvfrom", true),
        libc::SYS_recvmsg => ("recvmsg", true),
        libc::SYS_getrandom => ("getrandom", true),
        libc::SYS_process_vm_readv => ("process_vm_readv", true),
        libc::SYS_write => ("write", false),
        libc::SYS_pwrite64 => ("pwrite64", false),
        libc::SYS_writev => ("writev", false),
        libc::SYS_pwritev => ("pwritev", false),
        libc::SYS_pwritev2 => ("pwritev2", false),
        libc::SYS_sendto => ("sendto", false),
        libc::SYS_sendmsg => ("sendmsg", false),
        libc::SYS_process_vm_writev => ("process_vm_writev", false),
        _ => return None,
    })
}

/// A closed place that a call is about to touch.
#[derive(Clone, Copy, Debug)]
struct Closed {
    addr: u64,
    buffer: BufferId,
    offset: u64,
    allowed: Allowed,
}

impl Supervisor {
    /// A call on its way into the kernel. `None`: it was sent back to be made anew, and comes again.
    pub(in crate::device::supervisor) fn check_call(&mut self, call: Call) -> Option<Call> {
        if self.check.as_ref().is_none_or(|check| check.procs.is_empty()) {
            return Some(call);
        }
        let pointers = match call.nr {
            libc::SYS_io_uring_register => {
                pins::registered(&call).iter().map(|&(a, _)| a).collect()
            }
            _ => flights::pointers(&call),
        };
        if pointers.is_empty() {
            return Some(call);
        }
        let Some(pid) = self.stacks.tgid(call.tid) else { return Some(call) };
        let closed: Vec<Closed> =
            pointers.iter().filter_map(|&addr| self.closed(pid, addr, &call)).collect();
        if closed.is_empty() {
            return Some(call);
        }
        if let Some((name, writes)) = copies(call.nr) {
            let site = self.stacks.site(call.tid, now_ns());
            for one in &closed {
                self.report(one.buffer, finding(*one, name, writes, &site));
            }
        }
        if trace::interrupt(call.tid).is_err() {
            return Some(call);
        }
        if self.listener.reply(call.id, Err(Errno::INTR)).is_ok()
            && let Err(errno) = self.send_back(pid, &call, &closed)
        {
            self.lost(call.tid, errno);
        }
        None
    }

    /// Whether a call needs more of an address than its protection is now.
    fn closed(&mut self, pid: i32, addr: u64, call: &Call) -> Option<Closed> {
        let area = self.area(pid, addr)?;
        let (buffer, offset) = (area.buffer, area.buffer_offset(addr));
        // What is unknown may do either.
        let writes = copies(call.nr).is_none_or(|(_, writes)| writes);
        let needs = area.prot & if writes { READ | WRITE } else { READ };
        if needs & !area.now(addr) == 0 {
            return None;
        }
        Some(Closed { addr, buffer, offset, allowed: self.allowed(buffer) })
    }

    /// Opens what a call needs and has its thread make it anew.
    fn send_back(&mut self, pid: i32, call: &Call, closed: &[Closed]) -> Result<(), Errno> {
        stand_still(call.tid)?;
        let gate = self.gate_of(pid);
        let mut thread = StoppedThread::new(call.tid, gate, self.cookie())?;
        thread.saved.rewind(call.ip, call.nr, call.args[0]);
        let mut changes: Vec<ProtectionChange> = Vec::new();
        if let Some(proc) = self.check.as_mut().and_then(|check| check.proc(pid)) {
            proc.changes += 1;
        }
        for one in closed {
            if let Some(area) = self.area(pid, one.addr) {
                changes.extend(area.open_all());
            }
        }
        thread.protect(&changes)?;
        trace::set_registers(call.tid, &thread.saved)?;
        let exhaustive = |check: &&mut Check| check.mode == Mode::Exhaustive;
        if let Some(check) = self.check.as_mut().filter(exhaustive) {
            check.calling.insert(call.tid, false);
            return trace::resume_to_call(call.tid);
        }
        trace::resume(call.tid, None)
    }

    /// A thread enters the call that it was sent back to, or leaves it.
    pub(super) fn handle_call(&mut self, tid: i32) -> Result<(), Errno> {
        let calling = self.check.as_mut().and_then(|check| check.calling.remove(&tid));
        match (calling, self.stacks.tgid(tid)) {
            (Some(false), _) => {
                if let Some(check) = &mut self.check {
                    check.calling.insert(tid, true);
                }
                trace::resume_to_call(tid)
            }
            (Some(true), Some(pid)) => {
                let thread = StoppedThread::new(tid, self.gate_of(pid), self.cookie())?;
                self.adapt(pid, &thread, true)?;
                trace::resume(tid, None)
            }
            _ => trace::resume(tid, None),
        }
    }

    /// mmap in a stopped thread, where the filter can tell that a pointer points there, unless the
    /// program insists on a place.
    pub(super) fn map_in_region(
        &mut self,
        pid: i32,
        thread: &StoppedThread,
        call: &Call,
        args: MmapArgs,
    ) -> Result<Result<u64, Errno>, Errno> {
        let cookie = u64::from(self.cookie()) << 32;
        let [addr, len, prot, flags, fd, offset] = call.args;
        let fd = (fd & u64::from(u32::MAX)) | cookie;
        let insists = args.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_32BIT) != 0;
        for _ in 0..if insists { 0 } else { PLACES_MAX } {
            let Some(place) = self.place(pid, args.len) else { break };
            let flags = flags | u64::from(MAP_FIXED_NOREPLACE);
            match thread.call(libc::SYS_mmap, [place, len, prot, flags, fd, offset])? {
                Err(Errno::EXIST) => {}
                result => return Ok(result),
            }
        }
        thread.call(libc::SYS_mmap, [addr, len, prot, flags, fd, offset])
    }

    /// An address for the next mapping of a process.
    fn place(&mut self, pid: i32, len: u64) -> Option<u64> {
        let proc = self.check.as_mut()?.proc(pid)?;
        let start = proc.next.max(REGION.start);
        let end = start.checked_add(len)?.checked_next_multiple_of(GUARD_BYTES)? + GUARD_BYTES;
        if end > REGION.end {
            proc.next = REGION.start;
            return None;
        }
        proc.next = end;
        Some(start)
    }
}

fn finding(one: Closed, name: &'static str, writes: bool, site: &Site) -> Finding {
    let (kind, what) = if one.allowed == Allowed::Reads {
        (Kind::WriteInReadBracket, "wrote while only brackets for reading were open on")
    } else if writes {
        (Kind::UnbracketedAccess, "wrote while no SYNC bracket was open on")
    } else {
        (Kind::UnbracketedAccess, "read while no SYNC bracket was open on")
    };
    Finding {
        kind,
        what: format!("The kernel, on behalf of the program, {what} the buffer."),
        act: Act::Call { name, addr: one.addr, len: 0 },
        site: site.clone(),
        offset: Some(one.offset),
    }
}
