//! The device: a dma-buf heap that unmodified programs use.
//!
//! Kernel counterpart: drivers/dma-buf/{dma-heap,dma-buf,sync_file,sw_sync,udmabuf}.c of
//! Linux 6.12 to 7.2. [`Device`] is the pure part: it makes no system call, reads no clock and
//! touches no memory but its own. A transport ([`supervisor`] or [`fuse`]) does this for each
//! request:
//!
//! 1. Ask [`Device::wants`] which of the caller's memory and files the request needs, fetch them
//!    once into the [`Ioctl`], and ask again until it wants nothing. A failed fetch is EFAULT.
//! 2. Call [`Device::ioctl`] and do what the [`Action`] says: answer, install a file, or wait for
//!    fences and come back with the same request.
//! 3. After an [`Action::Install`], report [`Device::installed`] or [`Device::abandon`].
//!
//! Other calls on a file (mmap, lseek, read, ...) are one question each: [`Device::call`].
//!
//! ```
//! use driftheap::device::{Action, Device, HeapConfig, Ioctl, Limits, Object};
//! use driftheap::uapi::dma_heap::{ALLOC, AllocationData};
//!
//! let mut device = Device::new(vec![HeapConfig::new("system")], Limits::default());
//! let heap = device.heap("system").map(Object::Heap).expect("configured");
//! let ask = AllocationData { len: 5000, fd: 0, fd_flags: 2, heap_flags: 0 };
//! let request = Ioctl::new(heap, ALLOC, 0x1000).with_memory(ask.to_bytes());
//! let Action::Install(install) = device.ioctl(&request) else { panic!("refused") };
//! let Object::Buffer(buffer) = install.object else { panic!("not a buffer") };
//! assert_eq!(device.buffer(buffer).map(|b| b.size_bytes), Some(8192));
//! ```
//!
//! **Differs from Linux**: devices attach to buffers that move ([`live`]) and to no others, whose
//! fences are those that user space imports. END of a CPU access flushes nothing, since
//! every page is coherent. What a transport can't answer at all is in the README.

use std::collections::BTreeMap;

pub mod buffer;
pub mod calls;
pub mod control;
pub mod cuse;
pub mod fence;
pub mod fuse;
pub mod heap;
pub mod ioctl;
pub mod live;
pub mod look;
pub mod misuse;
pub mod path;
pub mod rules;
pub mod runtime;
pub mod socket;
pub mod stats;
pub mod supervisor;
pub mod sync_file;
pub mod text;
pub mod trace;
pub mod udmabuf;
pub mod wire;

pub use buffer::{Access, Backing, Buffer, Exporter, Inode, Life, Placement};
pub use calls::{Call, Verdict};
pub use fence::{Fence, FenceState, Fences, Resv, Usage};
pub use ioctl::{Action, FdAnswer, FileFact, Install, Ioctl, Reply, Want, Write};
pub use rules::{Cow, HeapConfig, MmapKind};
pub use stats::{Limits, Stats};
pub use sync_file::SyncFile;
pub use trace::Trace;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub u64);
    };
}

id! {
    /// A heap, by its place on the command line.
    HeapId
}
id! {
    /// A dma-buf. Never used again for another one.
    BufferId
}
id! {
    /// A sync_file. Never used again for another one.
    SyncFileId
}
id! {
    /// An open /sys/kernel/debug/sync/sw_sync: one timeline of fences.
    TimelineId
}
id! {
    /// A fence. Never used again for another one.
    FenceId
}

/// What a file descriptor of ours refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// An open /dev/dma_heap/NAME.
    Heap(HeapId),
    /// An open /dev/udmabuf.
    Udmabuf,
    /// An open sw_sync.
    Timeline(TimelineId),
    /// A dma-buf.
    Buffer(BufferId),
    /// A sync_file.
    SyncFile(SyncFileId),
}

/// A timeline of sw_sync: fences signal as its value passes theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// The `comm` of the process that opened it, as sw_sync names timelines.
    pub name: String,
    /// Current value.
    pub value: u32,
    /// Fences not yet signalled, with the value each waits for.
    pub pending: Vec<(u32, FenceId)>,
}

/// Sums over all buffers, kept up to date so that ALLOC need not walk them.
#[derive(Debug, Default)]
struct Totals {
    bytes: u64,
    secret_bytes: u64,
    heap_bytes: BTreeMap<HeapId, u64>,
}

impl Totals {
    fn add(&mut self, buffer: &Buffer) {
        self.bytes += buffer.size_bytes;
        if buffer.backing == Backing::Secret {
            self.secret_bytes += buffer.size_bytes;
        }
        if let Exporter::Heap(heap) = buffer.exporter {
            *self.heap_bytes.entry(heap).or_default() += buffer.size_bytes;
        }
    }

    fn remove(&mut self, buffer: &Buffer) {
        assert!(self.bytes >= buffer.size_bytes, "what is removed was added");
        self.bytes -= buffer.size_bytes;
        if buffer.backing == Backing::Secret {
            self.secret_bytes -= buffer.size_bytes;
        }
        if let Exporter::Heap(heap) = buffer.exporter {
            *self.heap_bytes.entry(heap).or_default() -= buffer.size_bytes;
        }
    }
}

/// Every heap, buffer, sync file and fence of one running device.
#[derive(Debug)]
pub struct Device {
    heaps: Vec<HeapConfig>,
    limits: Limits,
    buffers: BTreeMap<BufferId, Buffer>,
    totals: Totals,
    sync_files: BTreeMap<SyncFileId, SyncFile>,
    timelines: BTreeMap<TimelineId, Timeline>,
    fences: Fences,
    next_id: u64,
    /// Counters since the start.
    pub stats: Stats,
    /// The last events, in the kernel's own tracepoint text.
    pub trace: Trace,
}

impl Device {
    /// A device with these heaps and no buffer.
    pub fn new(heaps: Vec<HeapConfig>, limits: Limits) -> Self {
        Self {
            heaps,
            limits,
            buffers: BTreeMap::new(),
            totals: Totals::default(),
            sync_files: BTreeMap::new(),
            timelines: BTreeMap::new(),
            fences: Fences::default(),
            next_id: 1,
            stats: Stats::default(),
            trace: Trace::default(),
        }
    }

    /// The heap called `name`.
    pub fn heap(&self, name: &str) -> Option<HeapId> {
        self.heaps.iter().zip(0..).find(|(heap, _)| heap.name == name).map(|(_, id)| HeapId(id))
    }

    /// The heaps in command-line order.
    pub fn heaps(&self) -> &[HeapConfig] {
        &self.heaps
    }

    /// The heaps, to change their rules before there are buffers.
    pub fn heaps_mut(&mut self) -> &mut [HeapConfig] {
        &mut self.heaps
    }

    /// The rules of heap `id`.
    pub fn heap_config(&self, id: HeapId) -> Option<&HeapConfig> {
        self.heaps.get(usize::try_from(id.0).ok()?)
    }

    /// A buffer that exists.
    pub fn buffer(&self, id: BufferId) -> Option<&Buffer> {
        self.buffers.get(&id)
    }

    /// The buffer's pages were replaced: where they are now.
    pub fn moved(&mut self, id: BufferId, placement: Placement, first: u64, pages: u64) {
        let Some(buffer) = self.buffers.get_mut(&id) else { return };
        buffer.placement = placement;
        self.stats.moves += 1;
        self.stats.pages_moved += pages;
        let name = match placement {
            Placement::Vram => "dma_buf_move",
            Placement::System => "dma_buf_evict",
        };
        self.trace.push_pages(name, buffer, first, pages);
    }

    /// The buffer's pages are gone for good.
    pub fn killed(&mut self, id: BufferId, life: Life) {
        let Some(buffer) = self.buffers.get_mut(&id) else { return };
        buffer.life = life;
        self.stats.killed += 1;
        let name = if life == Life::Revoked { "dma_buf_revoke" } else { "dma_buf_purge" };
        self.trace.push_buffer(name, buffer);
    }

    /// Every buffer, oldest first.
    pub fn buffers(&self) -> impl Iterator<Item = (BufferId, &Buffer)> {
        self.buffers.iter().map(|(&id, buffer)| (id, buffer))
    }

    /// A sync_file that exists.
    pub fn sync_file(&self, id: SyncFileId) -> Option<&SyncFile> {
        self.sync_files.get(&id)
    }

    /// The fences of all buffers and sync files.
    pub fn fences(&self) -> &Fences {
        &self.fences
    }

    /// The quotas.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes of all buffers that exist.
    pub fn bytes(&self) -> u64 {
        self.totals.bytes
    }

    /// Bytes of all buffers on memfd_secret.
    pub fn secret_bytes(&self) -> u64 {
        self.totals.secret_bytes
    }

    /// Opens sw_sync for a process called `comm`.
    ///
    /// # Errors
    /// ENOMEM: the quota of sync files is used up.
    pub fn open_timeline(&mut self, comm: &str) -> Result<TimelineId, rustix::io::Errno> {
        if self.timelines.len() >= self.limits.sync_files {
            return Err(rustix::io::Errno::NOMEM);
        }
        let id = TimelineId(self.take_id());
        let name = comm.to_owned();
        self.timelines.insert(id, Timeline { name, value: 0, pending: Vec::new() });
        Ok(id)
    }

    /// The file that [`Action::Install`] asked for now exists and has inode `inode`.
    pub fn installed(&mut self, object: Object, inode: Inode, backing: Backing) {
        match object {
            Object::Buffer(id) => {
                if let Some(buffer) = self.buffers.get_mut(&id) {
                    self.totals.remove(buffer);
                    buffer.inode = inode;
                    buffer.backing = backing;
                    self.totals.add(buffer);
                    self.stats.buffers += 1;
                    self.stats.bytes += buffer.size_bytes;
                    self.trace.push_buffer("dma_buf_export", buffer);
                }
            }
            Object::SyncFile(_) => self.stats.sync_files += 1,
            Object::Heap(_) | Object::Udmabuf | Object::Timeline(_) => {}
        }
    }

    /// The file could not be made or delivered; the object does not exist.
    pub fn abandon(&mut self, object: Object) {
        match object {
            Object::Buffer(id) => {
                if let Some(buffer) = self.buffers.remove(&id) {
                    self.totals.remove(&buffer);
                }
            }
            Object::SyncFile(id) => drop(self.sync_files.remove(&id)),
            Object::Timeline(id) => self.close_timeline(id, 0),
            Object::Heap(_) | Object::Udmabuf => {}
        }
    }

    /// An ioctl's object could not be delivered: the ioctl has failed after all.
    pub fn fail(&mut self, object: Object) {
        self.stats.ioctl_errors += 1;
        if let Object::Buffer(id) = object
            && let Some(buffer) = self.buffers.get(&id)
        {
            self.stats.buffers = self.stats.buffers.saturating_sub(1);
            self.stats.bytes = self.stats.bytes.saturating_sub(buffer.size_bytes);
        }
        self.abandon(object);
    }

    /// The last reference to the object's file is gone (`dma_buf_release`, `sync_file_release`).
    pub fn release(&mut self, object: Object) {
        if let Object::Buffer(id) = object
            && let Some(buffer) = self.buffers.get(&id)
        {
            self.stats.released += 1;
            self.trace.push_buffer("dma_buf_put", buffer);
        }
        self.abandon(object);
    }

    /// sw_sync signals what is left of a closed timeline with ENOENT
    /// (`sw_sync_debugfs_release`), so that nobody waits for ever.
    pub fn close_timeline(&mut self, id: TimelineId, now_ns: u64) {
        if let Some(timeline) = self.timelines.remove(&id) {
            for (_, fence) in timeline.pending {
                self.fences.signal(fence, -rustix::io::Errno::NOENT.raw_os_error(), now_ns);
            }
        }
    }

    /// Drops fences that nothing refers to any more. Call it now and then.
    pub fn collect_fences(&mut self) {
        let of_files = self.sync_files.values().flat_map(|file| file.fences.iter().copied());
        let of_buffers = self.buffers.values().flat_map(|buffer| buffer.resv.all());
        let of_timelines = self
            .timelines
            .values()
            .flat_map(|timeline| timeline.pending.iter().map(|&(_, fence)| fence));
        let live = of_files.chain(of_buffers).chain(of_timelines).collect();
        self.fences.retain(&live);
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}
