//! The device: its heaps, buffers, sync files, timelines and fences, and what becomes of them.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::buffer::{Backing, Buffer, Exporter, Inode};
use super::fence::{Fences, SyncFile};
use super::id::{BufferId, FenceId, HeapId, Object, SyncFileId, TimelineId};
use super::rules::HeapConfig;
use super::stats::{Limits, Seen, Stats};
use super::trace::Trace;
use crate::model::{Life, Placement};

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
pub(super) struct Totals {
    bytes: u64,
    secret_bytes: u64,
    pub(super) heap_bytes: BTreeMap<HeapId, u64>,
}

impl Totals {
    pub(super) fn add(&mut self, buffer: &Buffer) {
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
    pub(super) limits: Limits,
    pub(super) buffers: BTreeMap<BufferId, Buffer>,
    pub(super) totals: Totals,
    pub(super) sync_files: BTreeMap<SyncFileId, SyncFile>,
    pub(super) timelines: BTreeMap<TimelineId, Timeline>,
    pub(super) fences: Fences,
    next_id: u64,
    /// Counters since the start.
    pub stats: Stats,
    /// Which buffers there have been.
    pub seen: Seen,
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
            seen: Seen::default(),
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
            Placement::System | Placement::Cma => "dma_buf_evict",
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
    pub fn open_timeline(&mut self, comm: &str) -> Result<TimelineId, Errno> {
        if self.timelines.len() >= self.limits.sync_files {
            return Err(Errno::NOMEM);
        }
        let id = TimelineId(self.take_id());
        let name = comm.to_owned();
        self.timelines.insert(id, Timeline { name, value: 0, pending: Vec::new() });
        Ok(id)
    }

    /// The file that [`super::Action::Install`] asked for now exists and has inode `inode`.
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
                    self.seen.at_once(self.buffers.len());
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
                self.fences.signal(fence, -Errno::NOENT.raw_os_error(), now_ns);
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

    pub(super) fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Whether the device's quotas admit one more buffer of `size_bytes`.
    ///
    /// # Errors
    /// EMFILE: too many buffers. ENOMEM: too many bytes.
    pub(super) fn check_quota(&self, size_bytes: u64) -> Result<(), Errno> {
        if self.buffers.len() >= self.limits.buffers {
            return Err(Errno::MFILE);
        }
        if self.bytes().checked_add(size_bytes).is_none_or(|sum| sum > self.limits.bytes) {
            return Err(Errno::NOMEM);
        }
        Ok(())
    }

    pub(super) fn insert_buffer(&mut self, buffer: Buffer) -> BufferId {
        assert!(buffer.size_bytes > 0 && buffer.size_bytes.is_multiple_of(self.limits.page_bytes));
        let id = BufferId(self.take_id());
        self.totals.add(&buffer);
        self.buffers.insert(id, buffer);
        id
    }
}
