//! Fences and reservation objects.
//!
//! Kernel counterpart: `struct dma_fence` (drivers/dma-buf/dma-fence.c) and `struct dma_resv`
//! (dma-resv.c). A fence signals once and for ever:
//!
//! ```text
//! Active --signal(status)--> Signalled { status: 1 or negative errno, at_ns }
//! ```
//!
//! **Differs from Linux**: fences carry no callbacks; who waits asks again after each signal.

use std::collections::{BTreeMap, BTreeSet};

use super::id::FenceId;
use crate::model::Usage;

/// Whether a fence has signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceState {
    /// Not yet.
    Active,
    /// It has: status 1, or a negative errno, at a CLOCK_MONOTONIC time.
    Signalled {
        /// What `dma_fence_get_status` returns.
        status: i32,
        /// When, in nanoseconds.
        at_ns: u64,
    },
}

/// A point on a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// `get_driver_name`.
    pub driver: String,
    /// `get_timeline_name`.
    pub timeline: String,
    /// The timeline's fence context.
    pub context: u64,
    /// Position on the timeline.
    pub seqno: u64,
    /// Signalled or not.
    pub state: FenceState,
}

impl Fence {
    /// `dma_fence_get_status`: 0 active, 1 signalled, negative errno.
    pub fn status(&self) -> i32 {
        match self.state {
            FenceState::Active => 0,
            FenceState::Signalled { status, .. } => status,
        }
    }
}

/// All fences of a device.
#[derive(Debug, Default)]
pub struct Fences {
    table: BTreeMap<FenceId, Fence>,
    ends: u64,
}

impl Fences {
    /// Adds a fence under a fresh id.
    pub fn add(&mut self, id: FenceId, fence: Fence) {
        let before = self.table.insert(id, fence);
        assert!(before.is_none(), "a fence id is used once");
    }

    /// The fence, if anything still refers to it.
    pub fn get(&self, id: FenceId) -> Option<&Fence> {
        self.table.get(&id)
    }

    /// How many fences exist.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Signals a fence; a second signal changes nothing, as in the kernel.
    pub fn signal(&mut self, id: FenceId, status: i32, now_ns: u64) {
        assert!(status != 0, "0 is the status of an active fence");
        if let Some(fence) = self.table.get_mut(&id)
            && fence.state == FenceState::Active
        {
            fence.state = FenceState::Signalled { status, at_ns: now_ns };
            self.ends += 1;
        }
    }

    /// Grows whenever a fence signals or goes: until it does, nobody's wait is over.
    pub fn ends(&self) -> u64 {
        self.ends
    }

    /// Whether a fence has signalled; one that nobody holds any more has.
    pub fn is_signalled(&self, id: FenceId) -> bool {
        self.get(id).is_none_or(|fence| fence.state != FenceState::Active)
    }

    /// Whether all of them have.
    pub fn all_signalled(&self, ids: &[FenceId]) -> bool {
        ids.iter().all(|&id| self.is_signalled(id))
    }

    /// Keeps only the fences in `live`.
    pub fn retain(&mut self, live: &BTreeSet<FenceId>) {
        let before = self.table.len();
        self.table.retain(|id, _| live.contains(id));
        self.ends += u64::from(self.table.len() < before);
    }
}

/// A buffer's reservation object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resv {
    fences: Vec<(FenceId, Usage)>,
}

impl Resv {
    /// Adds a fence after dropping the signalled ones, as `dma_resv_add_fence` reuses their slots.
    pub fn add(&mut self, id: FenceId, usage: Usage, fences: &Fences) {
        self.fences.retain(|&(held, _)| !fences.is_signalled(held));
        self.fences.push((id, usage));
    }

    /// The unsignalled fences of `usage` and below.
    pub fn pending(&self, usage: Usage, fences: &Fences) -> Vec<FenceId> {
        let wanted = |&&(id, of): &&(FenceId, Usage)| of <= usage && !fences.is_signalled(id);
        self.fences.iter().filter(wanted).map(|&(id, _)| id).collect()
    }

    /// Every fence, signalled or not, with its usage.
    pub fn entries(&self) -> &[(FenceId, Usage)] {
        &self.fences
    }

    /// Every fence's id.
    pub fn all(&self) -> impl Iterator<Item = FenceId> + '_ {
        self.fences.iter().map(|&(id, _)| id)
    }
}

/// A sync_file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncFile {
    /// What SYNC_IOC_FILE_INFO answers as its name, without terminator.
    pub name: Vec<u8>,
    /// Its fences, at least one.
    pub fences: Vec<FenceId>,
}

/// `timeline_fence_signaled`: values wrap, so the difference decides.
pub(super) fn timeline_passed(value: u32, at: u32) -> bool {
    value.wrapping_sub(at).cast_signed() >= 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(seqno: u64) -> Fence {
        Fence {
            driver: "sw_sync".into(),
            timeline: "t".into(),
            context: 1,
            seqno,
            state: FenceState::Active,
        }
    }

    #[test]
    fn a_query_returns_the_lower_usages() {
        let mut fences = Fences::default();
        let mut resv = Resv::default();
        for (id, usage) in
            [(1, Usage::Kernel), (2, Usage::Write), (3, Usage::Read), (4, Usage::Bookkeep)]
        {
            fences.add(FenceId(id), fence(id));
            resv.add(FenceId(id), usage, &fences);
        }
        let ids = |usage| resv.pending(usage, &fences).iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(ids(Usage::Kernel), [1]);
        assert_eq!(ids(Usage::to_wait_for(false)), [1, 2]);
        assert_eq!(ids(Usage::to_wait_for(true)), [1, 2, 3]);
        assert_eq!(ids(Usage::Bookkeep), [1, 2, 3, 4]);
    }

    #[test]
    fn a_fence_signals_once() {
        let mut fences = Fences::default();
        fences.add(FenceId(1), fence(1));
        assert!(!fences.is_signalled(FenceId(1)));
        fences.signal(FenceId(1), -2, 10);
        fences.signal(FenceId(1), 1, 20);
        assert_eq!(fences.get(FenceId(1)).unwrap().status(), -2);
    }
}
