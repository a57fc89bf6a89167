//! Attachments, sg_tables, buffer pins and reservation locks of live buffers.
//!
//! Kernel counterpart: drivers/dma-buf/dma-buf.c (`dma_buf_dynamic_attach`, `dma_buf_pin`,
//! `dma_buf_map_attachment`, `dma_buf_move_notify`), Linux 6.12.
//!
//! What the calls do to an sg_table is the model's ([`Slot`]). `Invalid` is the exporter's view: it told the importer. Whether the importer goes on with the
//! addresses that it has is its own affair, and what the emulation exists to show.
//!
//! **Locking**: one reservation lock a buffer ([`Attachments::lock`]). A move holds it from `lock`
//! to `unlock`; an importer takes it to map and to add a fence. DMA takes none.
//!
//! **Differs from Linux**: an attachment has one sg_table at a time; a lock is held by an id and
//! not by a thread, so that it can be taken away from a client that died.

use std::collections::BTreeMap;

use super::frames::{BusAddr, FrameNo, PageOf};
use crate::device::tables::take_where;
use crate::device::{BufferId, FenceId};
use crate::model::Slot;

/// A `struct dma_buf_attachment`. Never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId(pub u64);

/// Whoever can hold a reservation lock or an attachment: a client, an emulated device, a mover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(pub u64);

/// A `get_user_pages` pin of one page of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PinId(pub u64);

/// A device's link to a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// To which buffer.
    pub buffer: BufferId,
    /// Whose it is.
    pub holder: Holder,
    /// The device's name, for reports.
    pub device: String,
    /// Whether it has a `move_notify`.
    pub dynamic: bool,
    /// `dma_buf_pin` count, that of a static mapping included.
    pub pins: u32,
    /// Its sg_table.
    pub sg: Slot,
    /// How often it was mapped.
    pub maps: usize,
    /// What each address that it was ever told stood for, the latest meaning: the page, and by
    /// which `map`, counted from 0.
    pub told: BTreeMap<FrameNo, (usize, usize)>,
    /// Its fences that have not signalled, as far as it is known.
    pub fences: Vec<FenceId>,
    /// Whether it used an address from before a `move_notify` for new work.
    pub ignored_notify: bool,
}

/// Why an importer's call was refused, with the kernel's errno in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// No such attachment, or it is somebody else's.
    #[error("no such attachment (EBADF)")]
    NoAttachment,
    /// The buffer was released, purged or revoked.
    #[error("the buffer has no memory any more: it was purged, revoked or released (ENODEV)")]
    Gone,
    /// There is no sg_table to unmap, or no pin to drop.
    #[error("nothing is mapped or pinned (EINVAL)")]
    NotHeld,
}

/// All attachments of a device's buffers; see the [module](self).
#[derive(Debug, Default)]
pub struct Attachments {
    table: BTreeMap<AttachmentId, Attachment>,
    locks: BTreeMap<BufferId, Holder>,
    next: u64,
}

impl Attachments {
    /// `dma_buf_attach` or `dma_buf_dynamic_attach`.
    pub fn attach(
        &mut self,
        buffer: BufferId,
        holder: Holder,
        device: &str,
        dynamic: bool,
    ) -> AttachmentId {
        self.next += 1;
        let id = AttachmentId(self.next);
        let attachment = Attachment {
            buffer,
            holder,
            device: device.to_owned(),
            dynamic,
            pins: 0,
            sg: Slot::None,
            maps: 0,
            told: BTreeMap::new(),
            fences: Vec::new(),
            ignored_notify: false,
        };
        self.table.insert(id, attachment);
        id
    }

    /// The attachment, if `holder` has it.
    ///
    /// # Errors
    /// [`AttachError::NoAttachment`].
    pub fn of(&self, id: AttachmentId, holder: Holder) -> Result<&Attachment, AttachError> {
        let found = self.table.get(&id).filter(|attachment| attachment.holder == holder);
        found.ok_or(AttachError::NoAttachment)
    }

    /// The same, to be changed.
    ///
    /// # Errors
    /// [`AttachError::NoAttachment`].
    pub fn of_mut(
        &mut self,
        id: AttachmentId,
        holder: Holder,
    ) -> Result<&mut Attachment, AttachError> {
        let found = self.table.get_mut(&id).filter(|attachment| attachment.holder == holder);
        found.ok_or(AttachError::NoAttachment)
    }

    /// Every attachment.
    pub fn iter(&self) -> impl Iterator<Item = (AttachmentId, &Attachment)> {
        self.table.iter().map(|(&id, attachment)| (id, attachment))
    }

    /// `dma_buf_map_attachment`, under the lock: the addresses of now. A static importer's mapping
    /// pins the buffer.
    ///
    /// # Errors
    /// [`AttachError::NoAttachment`].
    pub fn map(
        &mut self,
        id: AttachmentId,
        holder: Holder,
        addrs: &[BusAddr],
    ) -> Result<(), AttachError> {
        let attachment = self.of_mut(id, holder)?;
        let before = attachment.sg.pins(attachment.dynamic);
        attachment.sg = Slot::Held;
        attachment.ignored_notify = false;
        for (page, addr) in addrs.iter().enumerate() {
            if let Some((frame, _)) = addr.split() {
                attachment.told.insert(frame, (page, attachment.maps));
            }
        }
        attachment.maps += 1;
        attachment.pins += u32::from(attachment.sg.pins(attachment.dynamic) - before);
        Ok(())
    }

    /// `dma_buf_unmap_attachment`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn unmap(&mut self, id: AttachmentId, holder: Holder) -> Result<(), AttachError> {
        let attachment = self.of_mut(id, holder)?;
        if !attachment.sg.is_mapped() {
            return Err(AttachError::NotHeld);
        }
        attachment.pins -= u32::from(attachment.sg.pins(attachment.dynamic));
        attachment.sg = Slot::Dropped;
        Ok(())
    }

    /// `dma_buf_pin` and `dma_buf_unpin`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn pin(&mut self, id: AttachmentId, holder: Holder, pin: bool) -> Result<(), AttachError> {
        let attachment = self.of_mut(id, holder)?;
        let of_mapping = u32::from(attachment.sg.pins(attachment.dynamic));
        if pin {
            attachment.pins += 1;
        } else if attachment.pins > of_mapping {
            attachment.pins -= 1;
        } else {
            return Err(AttachError::NotHeld);
        }
        Ok(())
    }

    /// `dma_buf_detach`.
    ///
    /// # Errors
    /// [`AttachError::NoAttachment`].
    pub fn detach(&mut self, id: AttachmentId, holder: Holder) -> Result<Attachment, AttachError> {
        self.of(id, holder)?;
        self.table.remove(&id).ok_or(AttachError::NoAttachment)
    }

    /// Everything that a holder has goes: it died, or was dropped. Returns its attachments.
    pub fn drop_holder(&mut self, holder: Holder) -> Vec<Attachment> {
        self.locks.retain(|_, held| *held != holder);
        let gone = take_where(&mut self.table, |_, attachment| attachment.holder == holder);
        gone.into_iter().map(|(_, attachment)| attachment).collect()
    }

    /// `dma_buf_pin` count of a buffer.
    #[must_use]
    pub fn pins(&self, buffer: BufferId) -> u32 {
        self.of_buffer(buffer).map(|(_, attachment)| attachment.pins).sum()
    }

    /// Whether an importer of the buffer still has an sg_table.
    #[must_use]
    pub fn is_mapped(&self, buffer: BufferId) -> bool {
        self.of_buffer(buffer).any(|(_, held)| held.sg.is_mapped())
    }

    /// The dynamic attachments of a buffer, whose `move_notify` is to be called; the exporter
    /// takes their sg_tables for invalid from here on.
    pub fn notify(&mut self, buffer: BufferId) -> Vec<(AttachmentId, Holder)> {
        let of = |attachment: &&mut Attachment| attachment.buffer == buffer && attachment.dynamic;
        for attachment in self.table.values_mut().filter(of) {
            attachment.sg = attachment.sg.notified();
        }
        let dynamic = self.of_buffer(buffer).filter(|(_, attachment)| attachment.dynamic);
        dynamic.map(|(id, attachment)| (id, attachment.holder)).collect()
    }

    /// Takes a buffer's reservation lock; false while somebody else has it.
    #[must_use]
    pub fn lock(&mut self, buffer: BufferId, holder: Holder) -> bool {
        *self.locks.entry(buffer).or_insert(holder) == holder
    }

    /// Releases it, if `holder` has it.
    pub fn unlock(&mut self, buffer: BufferId, holder: Holder) {
        if self.locks.get(&buffer) == Some(&holder) {
            self.locks.remove(&buffer);
        }
    }

    /// Who has it.
    #[must_use]
    pub fn locked_by(&self, buffer: BufferId) -> Option<Holder> {
        self.locks.get(&buffer).copied()
    }

    fn of_buffer(&self, buffer: BufferId) -> impl Iterator<Item = (AttachmentId, &Attachment)> {
        self.iter().filter(move |(_, attachment)| attachment.buffer == buffer)
    }
}

impl Attachment {
    /// Which page of its buffer the device means by an address in `frame`; none for a frame whose
    /// address it was never told.
    #[must_use]
    pub fn means(&self, frame: FrameNo) -> Option<PageOf> {
        Some(PageOf { buffer: self.buffer, page: self.told.get(&frame)?.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BufferId = BufferId(1);
    const ME: Holder = Holder(7);
    const OTHER: Holder = Holder(8);

    #[test]
    fn a_static_mapping_pins_and_a_dynamic_one_is_told() {
        let mut all = Attachments::default();
        let fixed = all.attach(A, ME, "v4l2", false);
        let dynamic = all.attach(A, OTHER, "rdma", true);
        let addrs = [BusAddr::of(FrameNo(3)), BusAddr::of(FrameNo(4))];
        for (id, holder) in [(fixed, ME), (dynamic, OTHER)] {
            all.map(id, holder, &addrs).unwrap();
            all.map(id, holder, &addrs).unwrap();
        }
        assert_eq!(all.pins(A), 1, "mapping again pins once");
        assert_eq!(all.notify(A), [(dynamic, OTHER)]);
        assert_eq!(all.of(dynamic, OTHER).unwrap().sg, Slot::Invalid);
        assert_eq!(all.of(fixed, ME).unwrap().sg, Slot::Held);
        assert_eq!(
            all.of(fixed, ME).unwrap().means(FrameNo(4)),
            Some(PageOf { buffer: A, page: 1 })
        );
        assert!(all.is_mapped(A));
        all.unmap(fixed, ME).unwrap();
        assert_eq!(all.pins(A), 0);
        assert_eq!(all.unmap(fixed, ME), Err(AttachError::NotHeld));
    }

    #[test]
    fn pins_are_counted_and_a_mapping_keeps_its_own() {
        let mut all = Attachments::default();
        let id = all.attach(A, ME, "v4l2", false);
        assert_eq!(all.pin(id, ME, false), Err(AttachError::NotHeld));
        all.map(id, ME, &[]).unwrap();
        assert_eq!(all.pin(id, ME, false), Err(AttachError::NotHeld));
        all.pin(id, ME, true).unwrap();
        assert_eq!(all.pins(A), 2);
        all.pin(id, ME, false).unwrap();
        assert_eq!(all.pin(id, OTHER, true), Err(AttachError::NoAttachment));
    }

    #[test]
    fn a_lock_has_one_holder_and_goes_with_it() {
        let mut all = Attachments::default();
        assert!(all.lock(A, ME) && all.lock(A, ME) && !all.lock(A, OTHER));
        all.unlock(A, OTHER);
        assert_eq!(all.locked_by(A), Some(ME));
        let id = all.attach(A, ME, "v4l2", true);
        assert_eq!(all.drop_holder(ME).len(), 1);
        assert_eq!(all.locked_by(A), None);
        assert_eq!(all.of(id, ME), Err(AttachError::NoAttachment));
    }
}
