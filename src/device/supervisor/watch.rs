//! Hooks of the misuse reports in the supervisor: the deeds of a program, with the place in its
//! code, on their way to [`Watch`].

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use super::{Supervisor, caller, held_up, lock, now_ns};
use crate::device::buffer::MmapArgs;
use crate::device::holders::{Holder, holders};
use crate::device::maps::mappings;
use crate::device::misuse::{Act, BufferEvent, Finding, Kind, Site, Watch};
use crate::device::{BufferId, Inode, Ioctl, Object, Verdict};
use crate::sys::notify::Call;
use crate::terminal::printed;
use crate::uapi::dma_buf;

const MAP_TYPE: u32 = 0xf;
const MAP_PRIVATE: u32 = 2;

/// What a process holds of a buffer.
#[derive(Clone, Debug, Default)]
struct HeldBuffer {
    fds: Vec<i32>,
    mapped_at: Vec<u64>,
}

impl HeldBuffer {
    /// `file descriptor 5 and the mapping at 0x7f00`.
    fn words(&self) -> String {
        let fds = self.fds.iter().map(|fd| format!("file descriptor {fd}"));
        let maps = self.mapped_at.iter().map(|addr| format!("the mapping at {addr:#x}"));
        fds.chain(maps).collect::<Vec<_>>().join(" and ")
    }
}

impl Supervisor {
    fn watched(&self) -> bool {
        lock(&self.shared).watch.is_some()
    }

    /// Where the caller is; `None` where no reports are asked for.
    pub(super) fn site(&mut self, call: &Call) -> Option<Site> {
        // A stack that can't be read at once is a short one: the call does not wait for it.
        self.watched().then(|| held_up::aside(|| self.stacks.site(call.tid, now_ns())))
    }

    pub(super) fn with_watch<T>(&self, act: impl FnOnce(&mut Watch) -> T) -> Option<T> {
        lock(&self.shared).watch.as_mut().map(act)
    }

    /// Adds a report about a buffer that exists.
    pub(super) fn report(&self, id: BufferId, finding: Finding) {
        let shared = &mut *lock(&self.shared);
        if let (Some(watch), Some(buffer)) = (&mut shared.watch, shared.device.buffer(id)) {
            watch.report(id, buffer, finding);
        }
    }

    /// Prints the reports that are new.
    pub(super) fn show_reports(&self) {
        let texts = match &mut lock(&self.shared).watch {
            Some(watch) => watch.take_texts(),
            None => return,
        };
        for text in texts.into_iter().filter(|_| self.reports) {
            super::say!("{}", text.strip_suffix('\n').unwrap_or(&text));
        }
    }

    /// A buffer was made.
    pub(super) fn watch_alloc(&self, object: Object, site: Option<Site>) {
        if let (Object::Buffer(id), Some(site)) = (object, site) {
            let shared = &mut *lock(&self.shared);
            if let Some(watch) = &mut shared.watch {
                watch.did(id, BufferEvent::Allocated, site);
                forget_dead(watch);
                watch.retain(|id| shared.device.buffer(id).is_some());
            }
        }
    }

    /// A SYNC that the device has granted.
    pub(super) fn watch_sync(&mut self, call: &Call, request: &Ioctl) {
        let (Object::Buffer(id), dma_buf::SYNC) = (request.object, request.cmd) else { return };
        let argument = request.memory.first().and_then(|bytes| dma_buf::Sync::from_bytes(bytes));
        if let (Some(sync), Some(site)) = (argument, self.site(call)) {
            let shared = &mut *lock(&self.shared);
            if let (Some(watch), Some(buffer)) = (&mut shared.watch, shared.device.buffer(id)) {
                watch.synced(id, buffer, sync.flags, site);
            }
        }
    }

    /// mmap of a file of ours.
    pub(super) fn watch_mmap(
        &mut self,
        call: &Call,
        object: Object,
        args: MmapArgs,
        verdict: Verdict,
    ) {
        let Object::Buffer(id) = object else { return };
        let Some(site) = self.site(call) else { return };
        let MmapArgs { len, offset, flags, .. } = args;
        if flags & MAP_TYPE == MAP_PRIVATE {
            let answer = match verdict {
                Verdict::Fail(errno) => {
                    format!(
                        "was refused: {}",
                        std::io::Error::from_raw_os_error(errno.raw_os_error())
                    )
                }
                Verdict::Value(_) | Verdict::Native => {
                    "was granted (cow=allow): what is written through it stays in this process"
                        .into()
                }
            };
            let finding = Finding {
                kind: Kind::PrivateMapping,
                what: format!("A MAP_PRIVATE mapping of a dma-buf {answer}."),
                act: Act::Call { name: "mmap", addr: 0, len },
                site: site.clone(),
                offset: Some(offset),
            };
            self.report(id, finding);
        }
        if matches!(verdict, Verdict::Native) {
            self.with_watch(|watch| {
                watch.did(id, BufferEvent::Mapped { addr: 0, len, offset }, site)
            });
        }
    }

    /// A process ends: a buffer that nobody else holds goes with it, and nobody gave it back.
    pub(super) fn watch_exit(&mut self, call: &Call) {
        if !self.watched() {
            return;
        }
        let Some(pid) = caller::tgid(call.tid) else { return };
        let live: BTreeMap<Inode, BufferId> = {
            let shared = &mut *lock(&self.shared);
            shared.files.sweep(&mut shared.device);
            if let Some(watch) = &mut shared.watch {
                forget_dead(watch);
                watch.retain(|id| shared.device.buffer(id).is_some());
                watch.process_exits(pid);
            }
            shared.device.buffers().map(|(id, buffer)| (buffer.inode, id)).collect()
        };
        if live.is_empty() {
            return;
        }
        let held = self.held_by(pid, call.tid, &live);
        if held.is_empty() {
            return;
        }
        let inodes: Vec<Inode> = held.keys().copied().collect();
        let elsewhere = held_elsewhere(pid, &inodes);
        let Some(site) = self.site(call) else { return };
        for (inode, held) in held {
            let Some(&id) = live.get(&inode) else { continue };
            let last = !elsewhere.contains(&inode);
            if !self.with_watch(|watch| watch.ends_holding(id, pid, last)).unwrap_or(false) {
                continue;
            }
            let finding = Finding {
                kind: Kind::LeakedFd,
                what: format!(
                    "Process {pid} ({}) exits and still holds the buffer by {}; nobody else does.",
                    printed(&site.comm),
                    held.words()
                ),
                act: Act::Exit,
                site: self.allocator_of(id).unwrap_or_else(|| site.clone()),
                offset: None,
            };
            self.report(id, finding);
        }
    }

    /// Where a buffer was allocated: what a leak is called after.
    fn allocator_of(&self, id: BufferId) -> Option<Site> {
        lock(&self.shared).watch.as_ref()?.allocated_at(id)
    }

    /// The buffers that a process holds.
    fn held_by(
        &mut self,
        pid: i32,
        tid: i32,
        live: &BTreeMap<Inode, BufferId>,
    ) -> BTreeMap<Inode, HeldBuffer> {
        let mut held: BTreeMap<Inode, HeldBuffer> = BTreeMap::new();
        let numbers = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for fd in numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            let Ok(file) = self.callers.file(tid, fd) else { continue };
            let shared = lock(&self.shared);
            if let Some(Object::Buffer(id)) = shared.files.object(file.as_fd())
                && let Some(buffer) = shared.device.buffer(id)
            {
                held.entry(buffer.inode).or_default().fds.push(fd);
            }
        }
        for mapping in mappings(pid) {
            if live.contains_key(&mapping.inode)
                && lock(&self.shared).files.by_inode(mapping.inode).is_some()
            {
                held.entry(mapping.inode).or_default().mapped_at.push(mapping.start);
            }
        }
        held
    }
}

/// Processes that were killed left no bracket open by mistake.
fn forget_dead(watch: &mut Watch) {
    for pid in watch.brackets.processes() {
        if !std::fs::exists(format!("/proc/{pid}")).unwrap_or(true) {
            drop(watch.brackets.process_gone(pid));
        }
    }
}

/// Whether a process is us, or the one that outlives us; what they hold is not a program's.
pub(super) fn is_exporter(pid: i32) -> bool {
    let exe = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pid == std::process::id().cast_signed()
        || (comm.trim_end() == crate::sys::guard::COMM && exe(&pid.to_string()) == exe("self"))
}

/// Which of the inodes another program's process than `pid` has open or mapped.
fn held_elsewhere(pid: i32, inodes: &[Inode]) -> BTreeSet<Inode> {
    let other = |holder: &Holder| holder.pid != pid && !is_exporter(holder.pid);
    let mut found: BTreeSet<Inode> = holders(inodes)
        .into_iter()
        .filter(|(_, holders)| holders.iter().any(other))
        .map(|(inode, _)| inode)
        .collect();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for other in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if other != pid && !is_exporter(other) {
            let mapped = mappings(other).into_iter().map(|mapping| mapping.inode);
            found.extend(mapped.filter(|inode| inodes.contains(inode)));
        }
    }
    found
}
