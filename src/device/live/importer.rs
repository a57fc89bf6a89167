//! An importer's calls: what a driver does with a dma-buf that it was given.
//!
//! The order that keeps a device right, as amdgpu and xe do it:
//! 1. [`Bus::attach`] (dynamic: with a `move_notify`);
//! 2. take the reservation lock, [`Bus::map`] if there is no valid sg_table, [`Bus::submit`] the
//!    job's fence, release the lock;
//! 3. the device transfers ([`Bus::dma`]), then [`Bus::signal`];
//! 4. after a `move_notify` the addresses must not be used for new work: 2 maps again.

use rustix::io::Errno;

use super::attach::{AttachError, AttachmentId, Holder};
use super::bus::Bus;
use super::frames::BusAddr;
use super::notes::signals;
use super::record::{Actor, RecordedAction};
use crate::device::{BufferId, Device, FenceId};
use crate::model::{Life, Placement, Slot, Usage};

impl Bus {
    /// A buffer came into being: it gets its frames.
    ///
    /// # Errors
    /// ENOMEM: its placement is full.
    pub fn allocated(
        &mut self,
        device: &Device,
        buffer: BufferId,
        pages: usize,
        placement: Placement,
    ) -> Result<(), Errno> {
        let recycle = device.rules_of(buffer).recycle;
        self.frames.alloc(buffer, pages, placement, recycle).map_err(|_| Errno::NOMEM)?;
        if let Some(recorder) = &mut self.recorder {
            let heap = device.buffer(buffer).map_or("heap", |found| found.exp_name.as_str());
            recorder.declare(buffer, (heap, &device.rules_of(buffer)), pages, placement);
        }
        self.note(&Actor::Exporter, RecordedAction::Alloc(buffer), &[]);
        Ok(())
    }

    /// The last reference to a buffer is gone: its frames go back.
    pub fn released(&mut self, device: &Device, buffer: BufferId) {
        if self.frames.placement(buffer).is_some() {
            let given = self.frames.release(buffer);
            self.copies.forget(buffer);
            let kinds = self.given(device, &given);
            self.note(&Actor::Exporter, RecordedAction::Close(buffer), &kinds);
        }
    }

    /// `dma_buf_attach` or `dma_buf_dynamic_attach`.
    ///
    /// # Errors
    /// ENODEV for a buffer that has no memory.
    pub fn attach(
        &mut self,
        buffer: BufferId,
        (holder, name): (Holder, &str),
        dynamic: bool,
    ) -> Result<AttachmentId, AttachError> {
        if self.life(buffer) != Life::Live || self.frames.placement(buffer).is_none() {
            return Err(AttachError::Gone);
        }
        let id = self.attachments.attach(buffer, holder, name, dynamic);
        self.note(
            &Actor::Device(name.to_owned()),
            RecordedAction::Attach { id, buffer, dynamic },
            &[],
        );
        Ok(id)
    }

    /// `dma_buf_map_attachment`, whose caller has the reservation lock.
    ///
    /// # Errors
    /// [`AttachError`]; ENODEV for a buffer that has no memory.
    pub fn map(&mut self, id: AttachmentId, holder: Holder) -> Result<Vec<BusAddr>, AttachError> {
        let attachment = self.attachments.of(id, holder)?;
        let (buffer, actor) = (attachment.buffer, Actor::Device(attachment.device.clone()));
        let mapped = attachment.sg.is_mapped();
        let Some(addrs) = self.addresses(buffer) else {
            // The old mapping goes first, so that what can't be mapped again is not mapped any more.
            if mapped {
                self.unmap(id, holder)?;
            }
            return Err(AttachError::Gone);
        };
        self.attachments.map(id, holder, &addrs)?;
        let unmap = mapped.then_some(RecordedAction::Unmap(id));
        self.note_all(&actor, unmap.into_iter().chain([RecordedAction::Map(id)]));
        Ok(addrs)
    }

    /// The addresses of a live buffer.
    fn addresses(&mut self, buffer: BufferId) -> Option<Vec<BusAddr>> {
        if self.life(buffer) != Life::Live {
            return None;
        }
        for of in self.frames.pages_of(buffer) {
            self.frames.ensure(of).ok()?;
        }
        self.frames.tell(buffer)
    }

    /// `dma_buf_unmap_attachment`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn unmap(&mut self, id: AttachmentId, holder: Holder) -> Result<(), AttachError> {
        self.attachments.unmap(id, holder)?;
        self.note_of(id, holder, RecordedAction::Unmap(id));
        Ok(())
    }

    /// `dma_buf_pin` or `dma_buf_unpin`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn pin(&mut self, id: AttachmentId, holder: Holder, pin: bool) -> Result<(), AttachError> {
        self.attachments.pin(id, holder, pin)?;
        self.note_of(id, holder, RecordedAction::DmaBufPin(id, pin));
        Ok(())
    }

    /// `dma_buf_detach`. Its fences are returned, to be signalled.
    ///
    /// # Errors
    /// [`AttachError::NoAttachment`].
    pub fn detach(
        &mut self,
        id: AttachmentId,
        holder: Holder,
    ) -> Result<Vec<FenceId>, AttachError> {
        let gone = self.attachments.detach(id, holder)?;
        let actor = Actor::Device(gone.device);
        self.note_all(&actor, signals(&gone.fences).chain([RecordedAction::Detach(id)]));
        Ok(gone.fences)
    }

    /// `dma_resv_add_fence` for a job of the device, whose caller has the reservation lock.
    ///
    /// # Errors
    /// [`AttachError`]; ENODEV also where the buffer has as many fences as it may.
    pub fn submit(
        &mut self,
        device: &mut Device,
        id: AttachmentId,
        holder: Holder,
        usage: Usage,
    ) -> Result<FenceId, AttachError> {
        let attachment = self.attachments.of_mut(id, holder)?;
        let fence = device.add_fence(attachment.buffer, usage, (&attachment.device, id.0));
        let fence = fence.ok_or(AttachError::Gone)?;
        attachment.fences.retain(|&old| !device.fences().is_signalled(old));
        attachment.fences.push(fence);
        let (ignored, name) = (attachment.sg == Slot::Invalid, attachment.device.clone());
        attachment.ignored_notify |= ignored;
        if let Some(recorder) = &mut self.recorder
            && ignored
        {
            recorder.ignored_notify(&name);
        }
        self.note(&Actor::Device(name), RecordedAction::Submit(fence, id, usage), &[]);
        Ok(fence)
    }

    /// `dma_fence_signal` of a job of the device.
    ///
    /// # Errors
    /// [`AttachError::NotHeld`]: the attachment has no such fence.
    pub fn signal(
        &mut self,
        device: &mut Device,
        (id, holder): (AttachmentId, Holder),
        fence: FenceId,
        now_ns: u64,
    ) -> Result<(), AttachError> {
        let attachment = self.attachments.of_mut(id, holder)?;
        let at = attachment.fences.iter().position(|&held| held == fence);
        attachment.fences.swap_remove(at.ok_or(AttachError::NotHeld)?);
        device.signal_fence(fence, 1, now_ns);
        self.note_of(id, holder, RecordedAction::Signal(fence));
        Ok(())
    }

    fn note_of(&mut self, id: AttachmentId, holder: Holder, doing: RecordedAction) {
        let device = self.attachments.of(id, holder).map(|attachment| attachment.device.clone());
        if let Ok(device) = device {
            self.note(&Actor::Device(device), doing, &[]);
        }
    }
}
