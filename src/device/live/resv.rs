//! What live buffers ask of the device core: fences of devices, rules, where a buffer is.
//!
//! Kernel counterpart: `dma_resv_add_fence`, `dma_resv_test_signaled` (drivers/dma-buf/dma-resv.c).

use crate::device::fence::{Fence, FenceState};
use crate::device::{BufferId, Device, Exporter, FenceId};
use crate::model::{ExporterRules, Placement, Usage};

impl Device {
    /// Adds a fence of an emulated device to a buffer (`dma_resv_add_fence`). None for a buffer
    /// that does not exist, or one that has as many fences as it may.
    pub fn add_fence(
        &mut self,
        buffer: BufferId,
        usage: Usage,
        timeline: (&str, u64),
    ) -> Option<FenceId> {
        let held = self.buffers.get(&buffer)?.resv.pending(Usage::Bookkeep, &self.fences).len();
        if held >= self.limits.fences {
            return None;
        }
        let id = FenceId(self.take_id());
        let fence = Fence {
            driver: "driftheap".into(),
            timeline: timeline.0.to_owned(),
            context: timeline.1,
            seqno: id.0,
            state: FenceState::Active,
        };
        self.fences.add(id, fence);
        self.buffers.get_mut(&buffer)?.resv.add(id, usage, &self.fences);
        Some(id)
    }

    /// Signals a fence: status 1, or a negative errno.
    pub fn signal_fence(&mut self, id: FenceId, status: i32, now_ns: u64) {
        self.fences.signal(id, status, now_ns);
    }

    /// A new buffer's pages are there.
    pub fn placed(&mut self, buffer: BufferId, placement: Placement) {
        if let Some(found) = self.buffers.get_mut(&buffer) {
            found.placement = placement;
        }
    }

    /// The rules of a buffer's heap; the defaults for a udmabuf.
    #[must_use]
    pub fn rules_of(&self, buffer: BufferId) -> ExporterRules {
        let heap = match self.buffer(buffer).map(|buffer| &buffer.exporter) {
            Some(Exporter::Heap(heap)) => self.heap_config(*heap),
            Some(Exporter::Udmabuf { .. }) | None => None,
        };
        heap.map(|config| config.rules.clone()).unwrap_or_default()
    }

    /// Whether no fence of this usage or below is pending on the buffer.
    #[must_use]
    pub fn is_idle(&self, buffer: BufferId, usage: Usage) -> bool {
        self.buffer(buffer).is_none_or(|found| found.resv.pending(usage, self.fences()).is_empty())
    }
}
