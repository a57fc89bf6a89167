//! The bus: devices' accesses to live buffers, by address.
//!
//! [`Bus`] ties [`Frames`], [`Attachments`] and real bytes together. An access is made on real
//! memory: a frame that is a buffer's page now is that page, in the buffer's own file; any other
//! frame has storage of its own. The device that uses a stale address therefore changes the bytes
//! of whoever owns the frame now, and its own buffer never sees them. What an access meant is
//! known from what the address stood for when it was told; where it landed is judged by the
//! model's table (`src/model/oracle.rs`):
//!
//! ```text
//! landed in                            read                       write
//! the page's current frame             fine                       fine
//! another page's frame                 cross-buffer-read          cross-buffer-write
//! a frame nobody owns                  use-after-free             use-after-free
//! a frame that was the page's          stale-read if it differs   lost-write
//! an address the device was never told iommu-fault                iommu-fault
//! ```
//!
//! A dynamic importer's access without a fence of its own is `unfenced-access` as well.
//!
//! **Differs from Linux**: an access is one page or less and atomic against moves; there is an
//! IOMMU only for addresses that never were anybody's.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::attach::{AttachError, Attachment, AttachmentId, Attachments, Holder, PinId};
use super::copies::Copies;
use super::findings::{Finding, Findings, NamedPage};
use super::frames::{BusAddr, Bytes, FrameNo, Frames, FreedTwice, Given, Owner, PageOf};
use super::pages::{OwnBytes, Pages, read_all, write_all};
use super::record::{Actor, RecordedAction, Recorder};
use crate::device::tables::take_where;
use crate::device::{BufferId, Device, FenceId};
use crate::model::{self, moving};
use crate::model::{
    ExporterRules, ExporterStep, HazardKind, HostRules, Life, Meant, Operation, Slot,
};
use crate::sys::backing;
use crate::sys::page::page_bytes;

/// What a pin holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GupPin {
    /// Whose it is.
    pub holder: Holder,
    /// The page that was behind the mapping.
    pub of: PageOf,
    /// Its frame then.
    pub frame: FrameNo,
    /// The program that has it, for the record.
    pub program: String,
}

/// Through what a device makes an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// An attachment's sg_table.
    Attachment(AttachmentId),
    /// A page pin.
    Pin(PinId),
}

/// A transfer.
#[derive(Debug)]
pub enum Transfer<'a> {
    /// The device reads memory.
    Read(&'a mut [u8]),
    /// The device writes memory.
    Write(&'a [u8]),
}

impl Transfer<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(into) => into.len(),
            Self::Write(from) => from.len(),
        }
    }
}

/// The CPU's open SYNC brackets, and the transfers that a device made inside of one.
#[derive(Clone, Debug, Default)]
pub struct OpenBrackets {
    /// The buffers that have one open.
    pub buffers: BTreeSet<BufferId>,
    /// Transfers that did not wait for them, since this was emptied before.
    pub hits: Vec<InBracket>,
}

/// A device's transfer inside of an open bracket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InBracket {
    /// The device.
    pub who: String,
    /// Its buffer.
    pub buffer: BufferId,
    /// Whether it wrote.
    pub write: bool,
    /// Bytes.
    pub len: usize,
}

/// Why an access was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// No such attachment or pin.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The device was never told this address: the IOMMU has no entry for it.
    #[error("the device was never told this bus address: an IOMMU fault (EFAULT)")]
    Iommu,
    /// The bytes are not all in one page.
    #[error("an access lies within one page of {} bytes (EINVAL)", page_bytes())]
    Length,
    /// The memory could not be reached.
    #[error("the memory behind the address can't be reached: {0}")]
    Memory(Errno),
}

/// What a device of live buffers has besides the buffers; see the [module](self).
#[derive(Debug)]
pub struct Bus {
    /// Who owns which frame.
    pub frames: Frames,
    /// Importers.
    pub attachments: Attachments,
    /// What went wrong.
    pub findings: Findings,
    /// The CPU's open brackets, where somebody follows them.
    pub brackets: OpenBrackets,
    /// What happened, if somebody wants to know.
    pub recorder: Option<Recorder>,
    pub(super) pins: BTreeMap<PinId, GupPin>,
    own: OwnBytes,
    life: BTreeMap<BufferId, Life>,
    /// Buffers whose frames were given back twice.
    broken: BTreeSet<BufferId>,
    /// What the move under way of a buffer has copied.
    pub(super) copies: Copies,
    next: u64,
}

impl Bus {
    /// A bus with so many frames of carveout and of system memory.
    ///
    /// # Errors
    /// The errno of memfd_create or ftruncate: no memory, no file descriptor.
    pub fn new(vram: usize, system: usize) -> std::io::Result<Self> {
        let own = backing::memfd("driftheap-frames")?;
        let bytes = vram.saturating_add(system).saturating_mul(page_bytes());
        rustix::fs::ftruncate(&own, u64::try_from(bytes).unwrap_or(u64::MAX))?;
        Ok(Self {
            frames: Frames::new(vram, system),
            attachments: Attachments::default(),
            findings: Findings::default(),
            brackets: OpenBrackets::default(),
            recorder: None,
            pins: BTreeMap::new(),
            own: OwnBytes(own),
            life: BTreeMap::new(),
            broken: BTreeSet::new(),
            copies: Copies::default(),
            next: 0,
        })
    }

    /// The file of the frames' own bytes: frame n at page n.
    #[must_use]
    pub fn own_bytes(&self) -> BorrowedFd<'_> {
        self.own.0.as_fd()
    }

    /// The page pins.
    pub fn pins(&self) -> impl Iterator<Item = (PinId, &GupPin)> {
        self.pins.iter().map(|(&id, pin)| (id, pin))
    }

    /// Whether the buffer is live, purged or revoked.
    #[must_use]
    pub fn life(&self, buffer: BufferId) -> Life {
        self.life.get(&buffer).copied().unwrap_or(Life::Live)
    }

    /// What is left of a buffer after a step of the exporter's.
    pub(super) fn advance(&mut self, operation: Operation, step: ExporterStep, buffer: BufferId) {
        if let Some(life) = moving::life_after(operation, step, || self.life(buffer)) {
            self.life.insert(buffer, life);
        }
    }

    /// Whether the buffer's rules gave its memory back twice: it can't be moved any more.
    #[must_use]
    pub fn is_broken(&self, buffer: BufferId) -> bool {
        self.broken.contains(&buffer)
    }

    /// Frames were given back. Some had been given back before, where the bug is the exporter's; some
    /// are still pinned.
    pub(super) fn given(&mut self, device: &Device, given: &Given) -> Vec<HazardKind> {
        for &FreedTwice { frame, of } in &given.twice {
            self.broken.insert(of.buffer);
            let hit = self.hit(device, frame);
            let meant = Some(NamedPage { of, name: name_of(device, of.buffer) });
            self.findings.push(Finding {
                kind: HazardKind::KernelBug,
                holder: Holder(0),
                who: "the exporter".to_owned(),
                write: false,
                addr: BusAddr::of(frame),
                len: page_bytes(),
                byte: None,
                meant,
                hit,
                why: FREED_TWICE,
            });
        }
        let bug = given.twice.first().map(|_| HazardKind::KernelBug);
        let orphan = (given.orphans > 0).then_some(HazardKind::OrphanPin);
        bug.into_iter().chain(orphan).collect()
    }

    /// `get_user_pages` of one page behind a mapping, as the exporter's rule `mmap` has it.
    ///
    /// # Errors
    /// EFAULT: the mapping's pages can't be had, or there are none any more.
    pub fn gup(
        &mut self,
        rules: &ExporterRules,
        of: PageOf,
        (holder, program): (Holder, &str),
        mapping: u64,
    ) -> Result<(PinId, BusAddr), Errno> {
        let refused = model::GupQuestion::new(&HostRules::default(), rules).refusal().is_some();
        if refused || self.life(of.buffer) != Life::Live {
            return Err(Errno::FAULT);
        }
        let (frame, _) = self.frames.ensure(of).map_err(|_| Errno::FAULT)?;
        self.frames.pin(frame);
        self.next += 1;
        let id = PinId(self.next);
        let program = program.to_owned();
        let actor = Actor::Program(program.clone());
        self.pins.insert(id, GupPin { holder, of, frame, program });
        self.note(&actor, RecordedAction::Gup { id, mapping, page: of.page }, &[]);
        Ok((id, BusAddr::of(frame)))
    }

    /// `unpin_user_page`.
    ///
    /// # Errors
    /// [`AttachError::NotHeld`].
    pub fn unpin(&mut self, id: PinId, holder: Holder) -> Result<(), AttachError> {
        let held = self.pins.get(&id).filter(|pin| pin.holder == holder);
        let GupPin { frame, program, .. } = held.ok_or(AttachError::NotHeld)?.clone();
        self.pins.remove(&id);
        self.frames.unpin(frame);
        self.note(&Actor::Program(program), RecordedAction::Unpin(id), &[]);
        Ok(())
    }

    /// Everything that a holder has goes: pins, attachments, locks. Its fences are returned, to be
    /// signalled with an error.
    pub fn drop_holder(&mut self, holder: Holder) -> Vec<FenceId> {
        for (id, pin) in take_where(&mut self.pins, |_, pin| pin.holder == holder) {
            self.frames.unpin(pin.frame);
            self.note(&Actor::Program(pin.program), RecordedAction::Unpin(id), &[]);
        }
        let ids = self.attachments.iter().filter(|(_, attachment)| attachment.holder == holder);
        let ids: Vec<AttachmentId> = ids.map(|(id, _)| id).collect();
        let gone = self.attachments.drop_holder(holder);
        for (id, attachment) in ids.into_iter().zip(&gone) {
            self.note_dropped(id, attachment);
        }
        gone.into_iter().flat_map(|attachment| attachment.fences).collect()
    }

    /// The second half of a DMA: the transfer of at most a page at an address that was translated
    /// before. Returns what kinds of wrong it was.
    ///
    /// # Errors
    /// [`DmaError`]; nothing was accessed then.
    pub fn dma(
        &mut self,
        device: &Device,
        pages: &dyn Pages,
        (through, holder): (Through, Holder),
        addr: BusAddr,
        mut dma: Transfer<'_>,
    ) -> Result<Vec<HazardKind>, DmaError> {
        let access = self.translate(device, through, holder, addr)?;
        let Some((frame, offset)) = access.at else {
            self.findings.push(access.finding(HazardKind::IommuFault, &dma, addr, IOMMU));
            return Err(DmaError::Iommu);
        };
        if offset.saturating_add(dma.len()) > page_bytes() {
            return Err(DmaError::Length);
        }
        let mut before = vec![0; dma.len()];
        self.load(pages, frame, offset, &mut before)?;
        let write = matches!(dma, Transfer::Write(_));
        match &mut dma {
            Transfer::Write(bytes) => self.store(pages, frame, offset, bytes)?,
            Transfer::Read(into) => into.copy_from_slice(&before),
        }
        let mut kinds = Vec::new();
        let doing = access.doing(frame, through, write);
        let judged = access
            .meant
            .and_then(|meant| self.judge(pages, meant, (frame, offset), write, &before));
        if let Some((kind, expected)) = judged {
            kinds.push(kind);
            let now: &[u8] = if let Transfer::Write(bytes) = dma { bytes } else { &before };
            let byte = expected.iter().zip(now).position(|(a, b)| a != b);
            let byte = byte.map(|at| (offset + at, expected[at], now[at]));
            let hit = self.hit(device, frame);
            let finding = access.finding(kind, &dma, addr, self.why(&access));
            self.findings.push(Finding { byte, hit, ..finding });
        } else if write && let Some(of) = access.meant.filter(|of| self.copies.is_ahead(*of)) {
            let hit = self.hit(device, frame);
            let finding = access.finding(HazardKind::LostWrite, &dma, addr, self.why(&access));
            self.copies.overtaken(of, offset, before, Finding { hit, ..finding });
        }
        // The fences of a buffer that only devices hold are nobody's to wait for.
        let awaited = access.meant.is_some_and(|of| device.buffer(of.buffer).is_some());
        if access.dynamic && !access.pinned && !access.fenced && awaited {
            kinds.push(HazardKind::UnfencedAccess);
            let hit = self.hit(device, frame);
            let finding = access.finding(HazardKind::UnfencedAccess, &dma, addr, UNFENCED);
            self.findings.push(Finding { hit, ..finding });
        }
        if let Some(recorder) = &mut self.recorder {
            if access.ignored {
                recorder.ignored_notify(&access.who);
            }
            recorder.push(&access.actor, doing, &kinds);
        }
        self.settle();
        Ok(kinds)
    }

    fn translate(
        &mut self,
        device: &Device,
        through: Through,
        holder: Holder,
        addr: BusAddr,
    ) -> Result<DmaAccess, DmaError> {
        let split = addr.split();
        let mut access = match through {
            Through::Attachment(id) => {
                let attachment = self.attachments.of_mut(id, holder)?;
                attachment.fences.retain(|&fence| !device.fences().is_signalled(fence));
                let fenced = !attachment.fences.is_empty();
                if attachment.sg == Slot::Invalid && !fenced {
                    attachment.ignored_notify = true;
                }
                let means = |(frame, offset)| Some(((frame, offset), attachment.means(frame)?));
                let found = split.and_then(means);
                DmaAccess {
                    holder,
                    who: attachment.device.clone(),
                    at: found.map(|(at, _)| at),
                    meant: found.map(|(_, of)| of),
                    dynamic: attachment.dynamic,
                    pinned: attachment.pins > 0,
                    fenced,
                    ignored: attachment.ignored_notify,
                    actor: Actor::Device(attachment.device.clone()),
                    link: Link::Attachment(attachment.clone()),
                    name: String::new(),
                }
            }
            Through::Pin(id) => {
                let pin = self.pins.get(&id).filter(|pin| pin.holder == holder);
                let pin = pin.ok_or(AttachError::NotHeld)?;
                DmaAccess {
                    holder,
                    who: format!("pin {}", id.0),
                    at: split.filter(|&(frame, _)| frame == pin.frame),
                    meant: Some(pin.of),
                    dynamic: false,
                    pinned: true,
                    fenced: false,
                    ignored: false,
                    actor: Actor::Program(pin.program.clone()),
                    link: Link::Pin,
                    name: String::new(),
                }
            }
        };
        access.name = access.meant.map_or_else(String::new, |of| name_of(device, of.buffer));
        Ok(access)
    }

    /// What was wrong, and what the bytes should have been.
    pub(super) fn judge(
        &self,
        pages: &dyn Pages,
        meant: PageOf,
        (frame, offset): (FrameNo, usize),
        write: bool,
        before: &[u8],
    ) -> Option<(HazardKind, Vec<u8>)> {
        let landing = self.frames.landing(frame, meant)?;
        let life = self.life(meant.buffer);
        let known = Meant {
            alive: life == Life::Live,
            revoked: life == Life::Quiesced && self.frames.frame(meant).is_some(),
        };
        if write {
            return Some((landing.of_write(known)?, before.to_vec()));
        }
        let mut expected = vec![0; before.len()];
        if pages.read(meant, offset, &mut expected).is_err() {
            expected.copy_from_slice(before);
        }
        Some((landing.of_read(known, expected != before)?, expected))
    }

    fn why(&self, access: &DmaAccess) -> &'static str {
        let Link::Attachment(attachment) = &access.link else { return PINNED };
        match attachment.sg {
            Slot::Invalid if access.fenced && !attachment.ignored_notify => NOT_WAITED,
            Slot::Invalid => IGNORED,
            Slot::Dropped => UNMAPPED,
            Slot::Held | Slot::None | Slot::Taking | Slot::Failed => match attachment {
                Attachment { pins: 1.., .. } => PIN_IGNORED,
                Attachment { dynamic: true, .. } => OLD_TABLE,
                Attachment { .. } => NOT_TOLD,
            },
        }
    }

    fn hit(&self, device: &Device, frame: FrameNo) -> Option<NamedPage> {
        match self.frames.owner(frame)? {
            Owner::Page(of) | Owner::Reserved(of) => {
                Some(NamedPage { of, name: name_of(device, of.buffer) })
            }
            Owner::Free | Owner::Retired(_) | Owner::Orphan => None,
        }
    }

    pub(super) fn load(
        &self,
        pages: &dyn Pages,
        frame: FrameNo,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), DmaError> {
        match self.frames.bytes(frame) {
            Some(Bytes::Buffer(of)) => pages.read(of, offset, into).map_err(DmaError::Memory),
            _ => read_all(self.own_bytes(), OwnBytes::at(frame, offset), into)
                .map_err(DmaError::Memory),
        }
    }

    fn store(
        &self,
        pages: &dyn Pages,
        frame: FrameNo,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), DmaError> {
        match self.frames.bytes(frame) {
            Some(Bytes::Buffer(of)) => pages.write(of, offset, bytes).map_err(DmaError::Memory),
            _ => write_all(self.own_bytes(), OwnBytes::at(frame, offset), bytes)
                .map_err(DmaError::Memory),
        }
    }
}

const FREED_TWICE: &str = "The page had been given back before (the kernel: BUG: Bad page state). \
                           The heap's rule orders `free` twice, or `free` without `rebind`.";
const IOMMU: &str = "The device was never told this address.";
const UNFENCED: &str = "A dynamic importer adds a fence to the buffer's dma_resv before it starts \
                        DMA: nobody waits for it otherwise.";
const NOT_WAITED: &str = "The device's fence was on the buffer and the exporter did not wait for \
                          it: see the rules `move` and `wait`.";
const IGNORED: &str = "move_notify was called and the importer went on with the addresses it had: \
                       map the attachment again, under the lock, before new work.";
const UNMAPPED: &str = "The importer had unmapped the attachment.";
const PIN_IGNORED: &str = "The buffer was pinned and moved all the same: the exporter must answer \
                           EBUSY (rule on-dma-buf-pin=honour).";
const OLD_TABLE: &str = "The address is from an older sg_table, or the exporter does not call \
                         move_notify (rule `move`).";
const NOT_TOLD: &str = "A static importer is not told of moves: its mapping pins the buffer.";
const PINNED: &str = "get_user_pages pins the page and not the buffer: the exporter that maps \
                      with mmap=pfnmap refuses it, one with on-foreign-pin=refuse does not move.";

enum Link {
    Attachment(Attachment),
    Pin,
}

/// An access on its way.
struct DmaAccess {
    holder: Holder,
    who: String,
    at: Option<(FrameNo, usize)>,
    meant: Option<PageOf>,
    dynamic: bool,
    /// By `dma_buf_pin`: what does not move needs no fence for that.
    pinned: bool,
    fenced: bool,
    /// Whether its importer goes on with old addresses.
    ignored: bool,
    actor: Actor,
    link: Link,
    /// Of the buffer that is meant.
    name: String,
}

impl DmaAccess {
    fn doing(&self, frame: FrameNo, through: Through, write: bool) -> RecordedAction {
        match through {
            Through::Attachment(id) => {
                let (page, age) = match &self.link {
                    Link::Attachment(attachment) => {
                        let told = attachment.told.get(&frame).copied();
                        let (page, map) = told.unwrap_or_default();
                        (page, attachment.maps.saturating_sub(map + 1))
                    }
                    Link::Pin => (0, 0),
                };
                RecordedAction::Dma { id, age, page, write }
            }
            Through::Pin(id) => RecordedAction::PinDma(id, write),
        }
    }

    fn finding(
        &self,
        kind: HazardKind,
        dma: &Transfer<'_>,
        addr: BusAddr,
        why: &'static str,
    ) -> Finding {
        Finding {
            kind,
            holder: self.holder,
            who: self.who.clone(),
            write: matches!(dma, Transfer::Write(_)),
            addr,
            len: dma.len(),
            byte: None,
            meant: self.meant.map(|of| NamedPage { of, name: self.name.clone() }),
            hit: None,
            why,
        }
    }
}

/// A buffer's name for reports.
#[must_use]
pub fn name_of(device: &Device, buffer: BufferId) -> String {
    match device.buffer(buffer) {
        Some(known) => known.name_text().unwrap_or_else(|| format!("buffer {}", known.inode.ino)),
        None => "a buffer that is gone".to_owned(),
    }
}
