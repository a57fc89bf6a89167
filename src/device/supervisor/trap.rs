//! Trapping what maps our buffers: the calls that make, move and copy mappings, under `--live`.
//!
//! mmap and mremap of a buffer are executed by us in the calling thread ([`crate::sys::inject`]),
//! so that the mapping is registered before the program knows its address. A fork is followed, and
//! the child gets a userfaultfd of its own before its first instruction. munmap, MAP_FIXED over a
//! buffer and mprotect need no trap: they only take mappings away or keep them registered.
//!
//! What can't be traced (a program under a debugger, one that is not dumpable) makes its buffers
//! unmovable (`Engine::bar`).
//!
//! **Not seen**: 32-bit programs, which the filter lets through; processes outside of the
//! supervised tree that were sent a descriptor; a program that unregisters the userfaultfd of its
//! own address space, or maps /proc/PID/map_files.

use rustix::io::Errno;

use super::live::Live;
use super::{Decision, Supervisor, caller, int, lock, uint};
use crate::device::buffer::MmapArgs;
use crate::device::{BufferId, Object};
use crate::sys::arch::legacy;
use crate::sys::inject::{InjectError, Seized, Stopped};
use crate::sys::notify::Call;
use crate::sys::seccomp::{ArgTest, Filter};
use crate::uapi::page_size;
use crate::uapi::userfaultfd::UFFD_USER_MODE_ONLY;

const MAP_ANONYMOUS: u32 = 0x20;
const MAP_FIXED: u32 = 0x10;
const MAP_32BIT: u32 = 0x40;
const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;
const CLONE_VM: u32 = 0x100;
const CLONE_VFORK: u32 = 0x4000;
const CLONE_THREAD: u32 = 0x1_0000;
const CLONE_UNTRACED: u64 = 0x80_0000;
const MADV_REMOVE: u32 = 9;

/// How often another address is tried when something is mapped at one.
const PLACES_MAX: usize = 8;

/// Adds the calls that change mappings to a filter; those with the cookie are our own.
pub(super) fn add_rules(filter: &mut Filter, cookie: u32) {
    let test = |arg, mask, value| ArgTest { arg, mask, any_of: vec![value] };
    let traps_all_mmap = filter
        .rules()
        .iter()
        .any(|rule| i64::from(rule.nr) == libc::SYS_mmap && rule.tests.is_empty());
    if !traps_all_mmap {
        let files = vec![test(3, MAP_ANONYMOUS, 0), test(4, 1 << 31, 0)];
        filter.when(libc::SYS_mmap, files);
    }
    let traps_all_madvise = filter.rules().iter().any(|r| i64::from(r.nr) == libc::SYS_madvise);
    if !traps_all_madvise {
        filter.when(libc::SYS_madvise, vec![test(2, u32::MAX, MADV_REMOVE)]);
    }
    // Not threads and not vfork, which share the address space until it is given up.
    let kind = CLONE_VM | CLONE_THREAD | CLONE_VFORK;
    let any_of = vec![0, CLONE_VFORK, CLONE_VM];
    filter.when(libc::SYS_clone, vec![ArgTest { arg: 0, mask: kind, any_of }]);
    for nr in [
        libc::SYS_mremap,
        libc::SYS_clone3,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
    ] {
        filter.always(nr);
    }
    if legacy::SYS_fork >= 0 {
        filter.always(legacy::SYS_fork);
    }
    filter.always(libc::SYS_remap_file_pages);
    // The kernel takes a descriptor from 32 bits, and mremap has five arguments.
    filter.pass(libc::SYS_mmap, 4, cookie).pass(libc::SYS_mremap, 5, cookie);
}

/// Why a process's mappings can't be trapped.
#[derive(Debug, thiserror::Error)]
enum Untrapped {
    #[error("{0}")]
    Inject(#[from] InjectError),
    #[error("its userfaultfd can't be had: {0}")]
    Userfaultfd(Errno),
    #[error("it has a seccomp filter of its own, which may not allow userfaultfd")]
    OwnFilter,
}

impl Supervisor {
    /// mmap of a buffer that the device has allowed.
    pub(super) fn mmap_live(&mut self, call: &Call, id: BufferId, args: MmapArgs) -> Decision {
        if !self.live.as_ref().is_some_and(|live| live.engine.holds(id)) {
            return Decision::Native;
        }
        // A mapping that can't be trapped for want of descriptors is refused.
        let Ok(tgid) = self.tgid(call.tid) else { return Decision::Fail(Errno::NOMEM) };
        let Some(live) = &mut self.live else { return Decision::Native };
        if let Some(why) = live.engine.distrusts(tgid).map(str::to_owned) {
            live.engine.bar(id, &why);
        }
        let bar = |live: &mut Live, error: &Untrapped| {
            // Who was killed on the way maps nothing.
            if !matches!(error, Untrapped::Inject(InjectError::Gone)) {
                live.engine.bar(id, &format!("process {tgid} maps it, and {error}"));
            }
        };
        let seized = match Seized::new(call.tid) {
            Ok(seized) => seized,
            Err(error) => {
                bar(live, &error.into());
                return Decision::Native;
            }
        };
        // The thread leaves its call and stops; should it not stop, it shall not believe in a
        // mapping.
        drop(self.listener.reply(call.id, Err(Errno::NOMEM)));
        let mut thread = match seized.stopped() {
            Ok(thread) => thread,
            Err(error) => {
                bar(live, &error.into());
                return Decision::Sent;
            }
        };
        // One that shares its memory with who has mapped a buffer before is found by it.
        let _known = live.space_of(tgid);
        let space = live.space(&mut thread, tgid, &mut self.callers);
        let result = match &space {
            Ok(space) => live.map_in(&mut thread, *space, call, args),
            Err(error) => {
                bar(live, error);
                let flags = uint(call.args[3]);
                thread.call(libc::SYS_mmap, live.own_mmap(call.args, call.args[0], flags))
            }
        };
        match result {
            Ok(result) => {
                if let Ok(space) = space {
                    live.engine.scan(space);
                    live.check_trapped(id, tgid, result);
                }
                if let Ok(addr) = result {
                    let _ = self.guard_mapped(thread.tid(), tgid, id, addr, args);
                    self.note_mapped(id, tgid, args);
                }
                let _ = thread.finish(result);
            }
            Err(error) => {
                bar(live, &error.into());
                let _ = thread.finish(Err(Errno::NOMEM));
            }
        }
        Decision::Sent
    }

    /// Records a mapping of a whole buffer.
    fn note_mapped(&self, id: BufferId, tgid: i32, args: MmapArgs) {
        let shared = &mut *lock(&self.shared);
        let size = shared.device.buffer(id).map_or(0, |buffer| buffer.size_bytes);
        if let Some(bus) = &mut shared.program_bus
            && args.offset == 0
            && args.len.next_multiple_of(page_size()) == size
        {
            bus.mapped(id, tgid);
        }
    }

    /// mmap of a file that is not ours, or that can't be told: a caller that is not dumpable may map
    /// any buffer.
    pub(super) fn mmap_unseen(&mut self, call: &Call) -> Decision {
        if let Some(live) = &mut self.live
            && let Err(errno) = self.callers.file(call.tid, int(call.args[4]))
            && !matches!(errno, Errno::BADF | Errno::SRCH)
        {
            let tid = call.tid;
            live.engine
                .bar_all(&format!("thread {tid} may map it, and can't be looked into: {errno}"));
        }
        Decision::Native
    }

    /// mremap of a buffer, after the device's own refusals.
    pub(super) fn mremap_live(&mut self, call: &Call) -> Decision {
        let Some(Object::Buffer(id)) = self.mapped_buffer(call, call.args[0]) else {
            return Decision::Native;
        };
        if !self.live.as_ref().is_some_and(|live| live.engine.holds(id)) {
            return Decision::Native;
        }
        let Ok(tgid) = self.tgid(call.tid) else { return Decision::Fail(Errno::NOMEM) };
        let Some(live) = &mut self.live else { return Decision::Native };
        let bar = |live: &mut Live, error: InjectError| {
            if error != InjectError::Gone {
                live.engine.bar(id, &format!("process {tgid} moves its mapping, and {error}"));
            }
        };
        let Some(space) = live.space_of(tgid) else {
            // Its mapping was not trapped in the first place, and is known for it.
            return Decision::Native;
        };
        let seized = match Seized::new(call.tid) {
            Ok(seized) => seized,
            Err(error) => {
                bar(live, error);
                return Decision::Native;
            }
        };
        drop(self.listener.reply(call.id, Err(Errno::NOMEM)));
        let mut thread = match seized.stopped() {
            Ok(thread) => thread,
            Err(error) => {
                bar(live, error);
                return Decision::Sent;
            }
        };
        let mut args = call.args;
        args[5] = u64::from(live.cookie) << 32;
        let result = thread.call(libc::SYS_mremap, args);
        if let Err(error) = result {
            bar(live, error);
        }
        let result = result.unwrap_or(Err(Errno::NOMEM));
        live.engine.scan(space);
        live.check_trapped(id, tgid, result);
        let _ = thread.finish(result);
        Decision::Sent
    }

    /// fork, and clone without CLONE_VM.
    pub(super) fn fork_live(&mut self, call: &Call) -> Decision {
        let Some(live) = &mut self.live else { return Decision::Native };
        let flags = match call.nr {
            libc::SYS_clone3 => {
                let bytes = caller::read(call.tid, call.args[0], 8).unwrap_or_default();
                bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
            }
            libc::SYS_clone => call.args[0],
            _ => 0,
        };
        if flags & u64::from(CLONE_VM) != 0 {
            // Another process that may map a buffer into the caller's address space at any time.
            live.sharers |= flags & u64::from(CLONE_THREAD | CLONE_VFORK) == 0;
            return Decision::Native;
        }
        // A child of a process that can't be looked into is not followed, so there is none.
        let Ok(tgid) = self.tgid(call.tid) else { return Decision::Fail(Errno::AGAIN) };
        let Some(live) = &mut self.live else { return Decision::Native };
        let parent = live.space_of(tgid);
        let maps = parent.is_some_and(|space| !live.engine.spaces()[space].areas.is_empty());
        // Another thread may map a buffer before this one has forked.
        let threads = caller::status(call.tid, "Threads");
        let alone = threads.as_deref() == Some("1") && !live.sharers;
        if !maps && alone {
            return Decision::Native;
        }
        let seized = match Seized::for_fork(call.tid) {
            Ok(seized) if flags & CLONE_UNTRACED == 0 => seized,
            Ok(_) | Err(_) => {
                live.engine
                    .distrust(tgid, &format!("process {tgid} has a child that can't be traced"));
                return Decision::Native;
            }
        };
        drop(self.listener.resume(call.id));
        let forked = seized.forked();
        if let (Some(check), Ok(Some(child))) = (&mut self.check, &forked)
            && check.follows(tgid)
        {
            check.born(child.tid());
        }
        match forked {
            Ok(None) => {}
            Ok(Some(child)) if !maps => child.leave(),
            Ok(Some(mut child)) => {
                let pid = child.tid();
                match live.space(&mut child, pid, &mut self.callers) {
                    Ok(space) => live.engine.scan(space),
                    Err(error) => {
                        let why = format!("process {pid} has inherited its mapping, and {error}");
                        live.engine.distrust(tgid, &why);
                    }
                }
                child.leave();
            }
            Err(InjectError::Gone) => {}
            Err(error) => {
                live.engine
                    .distrust(tgid, &format!("the child of process {tgid} is lost: {error}"));
            }
        }
        Decision::Sent
    }

    pub(super) fn exec_live(&mut self, call: &Call) -> Decision {
        if self.live.is_none() {
            return Decision::Native;
        }
        let Ok(tgid) = self.tgid(call.tid) else { return Decision::Fail(Errno::NOMEM) };
        if let Some(live) = &mut self.live {
            live.engine.may_leave(tgid);
        }
        Decision::Native
    }

    /// remap_file_pages makes another mapping of the file; a VM_PFNMAP mapping has none.
    pub(super) fn remap_file_pages(&mut self, call: &Call) -> Decision {
        match self.mapped_buffer(call, call.args[0]) {
            Some(Object::Buffer(_)) => Decision::Fail(Errno::INVAL),
            _ => Decision::Native,
        }
    }
}

impl Live {
    /// The address space of a process, if it has one with a userfaultfd.
    fn space_of(&mut self, tgid: i32) -> Option<usize> {
        if self.sharers {
            return self.engine.space_of_stranger(tgid);
        }
        self.engine.space_of(tgid)
    }

    /// The address space of a stopped thread, with a userfaultfd.
    fn space(
        &mut self,
        thread: &mut Stopped,
        tgid: i32,
        callers: &mut caller::Callers,
    ) -> Result<usize, Untrapped> {
        if let Some(space) = self.engine.space_of(tgid) {
            return Ok(space);
        }
        // One that kills for the call would kill the program.
        let ours = seccomp_filters(std::process::id().cast_signed()).unwrap_or(0) + 1;
        if seccomp_filters(tgid).is_some_and(|filters| filters > ours) {
            return Err(Untrapped::OwnFilter);
        }
        let mut number = Err(Errno::PERM);
        if !self.user_mode_only {
            number = open_userfaultfd(thread, 0, self.cookie)?;
            self.user_mode_only = number == Err(Errno::PERM);
        }
        let traps_kernel = number.is_ok();
        if !traps_kernel {
            number = open_userfaultfd(thread, u64::from(UFFD_USER_MODE_ONLY), self.cookie)?;
        }
        let number = number.map_err(Untrapped::Userfaultfd)?;
        let file = callers.file(tgid, int(number));
        // Whatever became of our copy, the program must not keep one.
        let _ = thread.call(libc::SYS_close, [number, 0, 0, 0, 0, 0])?;
        let file = file.and_then(caller::Copied::into_inner).map_err(Untrapped::Userfaultfd)?;
        self.engine.add_space(tgid, file, traps_kernel).map_err(Untrapped::Userfaultfd)
    }

    /// Bars a buffer whose new mapping is not among those that are trapped.
    fn check_trapped(&mut self, id: BufferId, pid: i32, mapped: Result<u64, Errno>) {
        if let Ok(addr) = mapped
            && !self.engine.traps(pid, addr)
        {
            self.engine.bar(id, &format!("process {pid} maps it where it can't be trapped"));
        }
    }

    /// The arguments of an mmap that is let through.
    fn own_mmap(&self, args: [u64; 6], addr: u64, flags: u32) -> [u64; 6] {
        let [_, len, prot, _, fd, offset] = args;
        let fd = u64::from(uint(fd)) | u64::from(self.cookie) << 32;
        [addr, len, prot, u64::from(flags), fd, offset]
    }

    /// Maps the buffer where a filter can tell that a pointer points to it, unless the program
    /// insists on a place.
    fn map_in(
        &mut self,
        thread: &mut Stopped,
        space: usize,
        call: &Call,
        args: MmapArgs,
    ) -> Result<Result<u64, Errno>, InjectError> {
        let insists = args.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_32BIT) != 0;
        if !insists {
            for _ in 0..PLACES_MAX {
                let Some(addr) = self.engine.place(space, args.len) else { break };
                let ours = self.own_mmap(call.args, addr, args.flags | MAP_FIXED_NOREPLACE);
                match thread.call(libc::SYS_mmap, ours)? {
                    Err(Errno::EXIST) => {}
                    result => return Ok(result),
                }
            }
        }
        thread.call(libc::SYS_mmap, self.own_mmap(call.args, call.args[0], args.flags))
    }
}

/// How many seccomp filters a process is under; unknown before Linux 5.9.
fn seccomp_filters(pid: i32) -> Option<u32> {
    caller::status(pid, "Seccomp_filters")?.parse().ok()
}

fn open_userfaultfd(
    thread: &mut Stopped,
    flags: u64,
    cookie: u32,
) -> Result<Result<u64, Errno>, InjectError> {
    let flags = flags | u64::from((libc::O_CLOEXEC | libc::O_NONBLOCK).cast_unsigned());
    let ours = u64::from(cookie) << 32;
    thread.call(libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, ours])
}
