//! Pins of a buffer's pages, as programs take them, and whether they are alive when it moves.
//!
//! vmsplice and io_uring_register are handed over where misuse is reported. What they were given is
//! compared with the caller's mappings and remembered. A pin is alive as long as the kernel says
//! that its holder is: bytes wait in the pipe (FIONREAD), or the address is among the `UserBufs` of
//! an io_uring of the process (/proc/PID/fdinfo).
//!
//! **Not seen**: bytes of another origin that came into a pipe after ours were read keep our pin
//! alive in the books; a ring that is mapped and has no descriptor any more; direct I/O and Linux
//! AIO in flight.

use std::os::fd::AsFd;

use super::{Shared, Supervisor, caller, int, lock, now_ns, uint};
use crate::device::holders::holders;
use crate::device::maps::mappings;
use crate::device::misuse::{BufferEvent, Holder, Pin};
use crate::device::transport;
use crate::device::{BufferId, Inode, Object};
use crate::model::Operation;
use crate::sys::notify::Call;
use crate::sys::seccomp::Filter;
use crate::uapi::page_size;

/// How long a call that pins may take before its pin counts as ended.
const PIN_TIME_MAX_NS: u64 = 60_000_000_000;

/// Adds the calls that pin to a filter.
pub(super) fn add_rules(filter: &mut Filter) {
    filter.always(libc::SYS_vmsplice).always(libc::SYS_io_uring_register);
}

/// Operations of io_uring_register that pin.
const REGISTER_BUFFERS: u32 = 0;
const REGISTER_BUFFERS2: u32 = 15;
const REGISTER_BUFFERS_UPDATE: u32 = 16;
/// The descriptor is an index among the registered rings.
const USE_REGISTERED_RING: u32 = 1 << 31;

/// The memory that an io_uring_register would pin.
pub(super) fn registered(call: &Call) -> Vec<(u64, u64)> {
    let [_, opcode, arg, count, ..] = call.args;
    match uint(opcode) & !USE_REGISTERED_RING {
        REGISTER_BUFFERS => caller::iovecs(call.tid, arg, count),
        // struct io_uring_rsrc_register: nr u32, flags u32, resv2, data, tags.
        REGISTER_BUFFERS2 => {
            let bytes = caller::read(call.tid, arg, 24).unwrap_or_default();
            caller::iovecs(
                call.tid,
                caller::word(&bytes, 16),
                caller::word(&bytes, 0) & u64::from(u32::MAX),
            )
        }
        // struct io_uring_rsrc_update2: offset u32, resv u32, data, tags, nr u32, resv2 u32.
        REGISTER_BUFFERS_UPDATE => {
            let bytes = caller::read(call.tid, arg, 32).unwrap_or_default();
            caller::iovecs(
                call.tid,
                caller::word(&bytes, 8),
                caller::word(&bytes, 24) & u64::from(u32::MAX),
            )
        }
        _ => Vec::new(),
    }
}

impl Supervisor {
    /// vmsplice into a pipe, before it is let go.
    pub(super) fn watch_vmsplice(&mut self, call: &Call) {
        let [fd, iov, count, ..] = call.args;
        let Ok(file) = self.callers.file(call.tid, int(fd)) else { return };
        let Ok(inode) = transport::inode(file.as_fd()) else { return };
        // From the read end it copies, and pins nothing for longer than the call.
        let writes = rustix::fs::fcntl_getfl(&file).is_ok_and(|flags| {
            flags.intersects(rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::RDWR)
        });
        if rustix::io::ioctl_fionread(&file) == Ok(0) {
            let here = |pin: &Pin| {
                matches!(pin.holder, Holder::Pipe { inode: at, .. } if at == inode)
                    && is_over(pin, call.tid)
            };
            self.with_watch(|watch| watch.pins.forget(here));
        }
        drop(file);
        if writes {
            let memory = caller::iovecs(call.tid, iov, count);
            self.watch_pins(call, &memory, &Holder::Pipe { inode, fd: int(fd) });
        }
    }

    /// io_uring_register, before it is let go.
    pub(super) fn watch_ring(&mut self, call: &Call) {
        let pid = caller::tgid(call.tid);
        let gone = |pin: &Pin| {
            let len = pin.range.end - pin.range.start;
            pin.holder == Holder::Ring
                && Some(pin.site.pid) == pid
                && is_over(pin, call.tid)
                && ring_holds(pin.site.pid, pin.addr, len) == Some(false)
        };
        self.with_watch(|watch| watch.pins.forget(gone));
        self.watch_pins(call, &registered(call), &Holder::Ring);
    }

    /// Remembers what of `memory` is a buffer's.
    fn watch_pins(&mut self, call: &Call, memory: &[(u64, u64)], holder: &Holder) {
        let watched = lock(&self.shared).watch.is_some();
        let memory: Vec<_> = memory.iter().filter(|(_, len)| *len > 0).collect();
        if memory.is_empty() || !watched {
            return;
        }
        let mut found = Vec::new();
        for mapping in mappings(call.tid) {
            for &&(addr, len) in &memory {
                let start = addr.max(mapping.start);
                let end = addr.saturating_add(len).min(mapping.end);
                let object = lock(&self.shared).files.by_inode(mapping.inode);
                if let (true, Some(Object::Buffer(id))) = (start < end && mapping.shared, object) {
                    let from = mapping.offset + (start - mapping.start);
                    found.push((id, from..from + (end - start), start));
                }
            }
        }
        if found.is_empty() {
            return;
        }
        let site = self.stacks.site(call.tid, now_ns());
        let Shared { device, watch: Some(watch), program_bus, .. } = &mut *lock(&self.shared)
        else {
            return;
        };
        for (buffer, range, addr) in found {
            let (holder, site) = (holder.clone(), site.clone());
            let pin = Pin { buffer, range, addr, holder, site, has_landed: false };
            watch.did(buffer, BufferEvent::Pinned { by: pin.call() }, pin.site.clone());
            if let Some(bus) = program_bus {
                bus.pinned(device, &pin);
            }
            watch.pins.push(pin);
        }
    }

    /// The pins of pages of a buffer that the kernel has as it is about to move. One whose call has
    /// not taken it yet stays in the books: it will be of the new pages, and of no interest before
    /// the next move.
    pub(super) fn living_pins(&mut self, id: BufferId, first: usize, pages: usize) -> Vec<Pin> {
        let wide =
            |pages: usize| u64::try_from(pages).unwrap_or(u64::MAX).saturating_mul(page_size());
        let range = wide(first)..wide(first).saturating_add(wide(pages));
        let mut pins = Vec::new();
        self.with_watch(|watch| pins = watch.pins.take(id, &range));
        let now_ns = self.stacks.since_start(now_ns());
        let mut alive = Vec::new();
        for pin in pins {
            match self.is_alive(&pin) {
                Some(true) => alive.push(pin),
                Some(false) if pin.has_landed || now_ns > pin.site.at_ns + PIN_TIME_MAX_NS => {}
                // Its call may only be on its way.
                Some(false) if !is_over(&pin, 0) => self.keep(pin),
                Some(false) => self.keep(Pin { has_landed: true, ..pin }),
                None => self.keep(pin),
            }
        }
        let Shared { watch, program_bus, .. } = &mut *lock(&self.shared);
        if let (Some(watch), Some(bus)) = (watch, program_bus) {
            let is_alive = |pin: &Pin| alive.iter().any(|other| other.is_same(pin));
            bus.keep_pins(|pin| is_alive(pin) || watch.pins.has(pin));
        }
        alive
    }

    fn keep(&self, pin: Pin) {
        self.with_watch(|watch| watch.pins.push(pin));
    }

    /// The exporter has moved pages of a buffer, or taken them away: what was pinned is stale.
    pub(super) fn watch_moved(&mut self, id: BufferId, pins: Vec<Pin>, operation: Operation) {
        let at_ns = self.stacks.since_start(now_ns());
        self.with_watch(|watch| match operation {
            Operation::Move(_) => watch.exporter_moved(id, at_ns),
            Operation::Purge => watch.exporter_did(id, BufferEvent::Purged, at_ns),
            Operation::Revoke => watch.exporter_did(id, BufferEvent::Revoked, at_ns),
        });
        if let Some(bus) = &mut lock(&self.shared).program_bus {
            bus.outlived(&pins);
        }
        for pin in pins {
            self.report(id, pin.finding(operation.placement().is_some()));
        }
        self.show_reports();
    }

    /// Whether the kernel has the pin; `None`: that can't be told now.
    fn is_alive(&mut self, pin: &Pin) -> Option<bool> {
        let pid = pin.site.pid;
        match &pin.holder {
            Holder::Pipe { inode, fd } => Some(self.pipe_has_bytes(pid, *inode, *fd)),
            Holder::Ring => {
                let len = pin.range.end - pin.range.start;
                ring_holds(pid, pin.addr, len)
            }
        }
    }

    /// Whether anything waits in a pipe, by whoever has it open.
    fn pipe_has_bytes(&mut self, pid: i32, inode: Inode, fd: i32) -> bool {
        let mut bytes = |pid, fd| {
            let file = self.callers.file(pid, fd).ok()?;
            let same = transport::inode(file.as_fd()) == Ok(inode);
            same.then(|| rustix::io::ioctl_fionread(&file).unwrap_or(0))
        };
        if let Some(waiting) = bytes(pid, fd) {
            return waiting > 0;
        }
        let others = holders(&[inode]).remove(&inode).unwrap_or_default();
        others.iter().any(|holder| bytes(holder.pid, holder.fd).is_some_and(|waiting| waiting > 0))
    }
}

/// Whether the call that took a pin is known to be over, as `caller` makes another one: a pin is booked
/// before its call.
fn is_over(pin: &Pin, caller: i32) -> bool {
    if pin.has_landed || pin.site.tid == caller {
        return true;
    }
    let nr = match pin.holder {
        Holder::Pipe { .. } => libc::SYS_vmsplice,
        Holder::Ring => libc::SYS_io_uring_register,
    };
    let text = std::fs::read_to_string(format!("/proc/{}/syscall", pin.site.tid));
    let Ok(text) = text else { return true };
    let first = text.split_ascii_whitespace().next().unwrap_or("running");
    first != "running" && first.parse() != Ok(nr)
}

/// Whether an io_uring of a process has memory registered that overlaps this. `None`: one of its
/// rings does not say. It tells its buffers only while nobody has its lock (`io_uring_show_fdinfo`,
/// io_uring/fdinfo.c), which a busy ring's thread nearly always has.
fn ring_holds(pid: i32, addr: u64, len: u64) -> Option<bool> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
        files.push(entry.path());
    }
    let mut holds = Some(false);
    for path in files {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        match registered_ranges(&text) {
            Ranges::NoRing => {}
            Ranges::Unknown => holds = None,
            Ranges::Known(ranges) => {
                let overlaps = |&(start, size): &(u64, u64)| {
                    start < addr.saturating_add(len) && addr < start.saturating_add(size)
                };
                if ranges.iter().any(overlaps) {
                    return Some(true);
                }
            }
        }
    }
    holds
}

/// What a descriptor's fdinfo says of registered buffers.
#[derive(Debug, PartialEq, Eq)]
enum Ranges {
    /// It is not an io_uring.
    NoRing,
    /// It is one that does not say.
    Unknown,
    /// Address and length of each.
    Known(Vec<(u64, u64)>),
}

/// The buffers in the fdinfo of an io_uring: `    0: 0x7f00/8192` below `UserBufs:`.
fn registered_ranges(fdinfo: &str) -> Ranges {
    // The first words of a ring's own part, said with the lock and without.
    if !fdinfo.lines().any(|line| line.starts_with("SqMask:") || line.starts_with("UserBufs:")) {
        return Ranges::NoRing;
    }
    let mut lines = fdinfo.lines().skip_while(|line| !line.starts_with("UserBufs:"));
    if lines.next().is_none() {
        return Ranges::Unknown;
    }
    let ranges = lines.map_while(|line| {
        let (_, range) = line.strip_prefix(' ')?.split_once(": ")?;
        let (addr, len) = range.split_once('/').unwrap_or((range, "0"));
        let addr = u64::from_str_radix(addr.strip_prefix("0x").unwrap_or(addr), 16);
        // An empty slot has no address.
        Some((addr.unwrap_or(0), len.trim().parse().unwrap_or(0)))
    });
    Ranges::Known(ranges.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_buffers_are_read() {
        let text = "UserFiles:\t0\nUserBufs:\t2\n    0: 0x55990c393000/8192\n    1: <none>\n\
                    PollList:\nCqOverflowList:\n";
        assert_eq!(registered_ranges(text), Ranges::Known(vec![(0x5599_0c39_3000, 8192), (0, 0)]));
        assert_eq!(registered_ranges("UserBufs:\t0\nPollList:\n"), Ranges::Known(Vec::new()));
        assert_eq!(registered_ranges("pos:\t0\n"), Ranges::NoRing);
        // While its lock is held: io_uring_show_fdinfo.
        let busy = "pos:\t0\nSqMask:\t0x7\nSqHead:\t1\nCachedCqTail:\t5\n";
        assert_eq!(registered_ranges(busy), Ranges::Unknown);
    }
}
