//! What mapping does for an importer that can't reach video memory: the buffer moves.
//!
//! Kernel counterparts: `amdgpu_dma_buf_pin`, `amdgpu_dma_buf_map`
//! (drivers/gpu/drm/amd/amdgpu/amdgpu_dma_buf.c), `ttm_bo_validate` (drivers/gpu/drm/ttm/ttm_bo.c).
//!
//! It is a move as any other: importers are told, fences waited for, entries zapped. Nobody asked for it
//! who has the buffer mapped.

use super::core::Core;
use super::moving;
use super::operation::Operation;
use super::rules::{Coherency, Peer2Peer, Placement};
use super::state::State;
use super::step::{Errno, Sink};
use super::world::World;
use crate::units::{AttachmentId, BufId, PageId};

impl State {
    /// Whether the device behind an attachment can't reach the buffer where it is.
    pub(super) fn is_out_of_reach(&self, world: &World, id: AttachmentId) -> bool {
        let entry = &self.attachments[id.index()];
        entry.buf.is_some()
            && !entry.dynamic
            && world.exporter_of(entry.buf).peer2peer != Peer2Peer::Reachable
            && self.bufs[entry.buf.index()].placement == Placement::Vram
    }

    /// Whether mapping through an attachment moves the buffer.
    pub(super) fn map_migrates(&self, world: &World, id: AttachmentId) -> bool {
        let buf = self.attachments[id.index()].buf;
        self.is_out_of_reach(world, id)
            && world.exporter_of(buf).peer2peer == Peer2Peer::Migrate
            && self.bufs[buf.index()].pins == 0
    }
}

impl<S: Sink> Core<'_, S> {
    /// Before a buffer is mapped: bring it where the device reaches it.
    pub(super) fn bring_into_reach(&mut self, id: AttachmentId, buf: BufId) -> Result<(), Errno> {
        let rules = self.world.exporter_of(buf);
        if rules.peer2peer != Peer2Peer::Migrate || !self.state.is_out_of_reach(self.world, id) {
            return Ok(());
        }
        if !self.state.map_migrates(self.world, id) {
            return Err(Errno::Einval);
        }
        let flush = rules.coherency == Coherency::Incoherent;
        let pages: Vec<PageId> = self.world.pages(buf).collect();
        if !moving::reserve(self, &pages, Placement::System) {
            return Err(Errno::Enomem);
        }
        self.state.bufs[buf.index()].dest = Placement::System;
        self.notify(buf);
        self.zap(buf);
        if flush {
            self.flush(buf);
        }
        for page in 0..self.world.buf(buf).pages {
            self.copy(buf, page);
        }
        self.rebind(buf);
        self.free(buf, Operation::Move(Placement::System));
        Ok(())
    }
}
