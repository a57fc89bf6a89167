//! Quotas, counters, and which buffers there have been.

use std::collections::BTreeSet;

use serde::Serialize;

/// Bounds of a device; what exceeds one gets the errno that the kernel gives for the shortage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a page of the machine that is served, which sizes are rounded up to.
    pub page_bytes: u64,
    /// Most bytes of all buffers: beyond it ALLOC answers ENOMEM.
    pub bytes: u64,
    /// Most buffers: beyond it ALLOC answers EMFILE.
    pub buffers: usize,
    /// Most sync files, and most sw_sync timelines: beyond it ENOMEM.
    pub sync_files: usize,
    /// Most fences that wait on one timeline: beyond it ENOMEM.
    pub timeline_fences: usize,
    /// Most fences on one buffer or in one sync file: beyond it ENOMEM.
    pub fences: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            page_bytes: crate::uapi::page_size(),
            bytes: 1 << 30,
            buffers: 65_536,
            sync_files: 4096,
            timeline_fences: 65_536,
            fences: 256,
        }
    }
}

/// What a device did since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Buffers allocated.
    pub buffers: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Buffers whose last reference is known to be gone.
    pub released: u64,
    /// Sync files created.
    pub sync_files: u64,
    /// ioctls answered, errors included.
    pub ioctls: u64,
    /// ioctls answered with an errno.
    pub ioctl_errors: u64,
    /// Buffers of a pfnmap heap that got ordinary memory because locked memory ran out.
    pub pfnmap_fallbacks: u64,
    /// Buffers made under `--live` that can't move, by what they are: udmabufs, and those of a heap
    /// that was given mmap=pfnmap.
    pub unmovable: u64,
    /// Buffers that could move until a program came that can't be trapped.
    pub barred: u64,
    /// Runs of pages that got new memory.
    pub moves: u64,
    /// Pages of them.
    pub pages_moved: u64,
    /// Moves that were refused.
    pub moves_refused: u64,
    /// Buffers purged or revoked.
    pub killed: u64,
    /// Programs that asked for the device and can't be served: 32-bit ones, and those under qemu-user.
    pub unwatched: u64,
    /// Buffers still held as the program exited; `None` where its exit was not trapped, which is
    /// so without `--strict`.
    pub held_at_exit: Option<u64>,
}

/// Which buffers there have been: tells whether one that somebody waited for ever came.
#[derive(Debug, Default)]
pub struct Seen {
    most_at_once: usize,
    names: BTreeSet<Vec<u8>>,
}

/// Most names kept; after so many, any name counts as given.
const NAMES_MAX: usize = 4096;

impl Seen {
    /// There are so many buffers now.
    pub(super) fn at_once(&mut self, buffers: usize) {
        self.most_at_once = self.most_at_once.max(buffers);
    }

    /// A buffer gets this name.
    pub(super) fn named(&mut self, name: &[u8]) {
        if self.names.len() < NAMES_MAX {
            self.names.insert(name.to_vec());
        }
    }

    /// The most buffers that there were at one time.
    #[must_use]
    pub const fn most_at_once(&self) -> usize {
        self.most_at_once
    }

    /// Whether a buffer ever had this name.
    #[must_use]
    pub fn has_had(&self, name: &[u8]) -> bool {
        self.names.len() >= NAMES_MAX || self.names.contains(name)
    }
}
