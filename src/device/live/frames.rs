//! Frame numbers: where a buffer's pages are on the bus, and whose memory a frame is now.
//!
//! Kernel counterpart: the pfn or VRAM address behind an sg_table's `dma_address`, and the free
//! lists of an exporter (`ttm_pool`, `drm_buddy`). Each live buffer's memory is a file of its own,
//! so nothing in this process's memory ever aliases; this table puts the aliasing back. A device
//! that accesses a bus address reaches whoever owns that frame *now*:
//!
//! ```text
//!          alloc, rebind              copy                  free, release
//!   Free ---------------> Page(A,i) -------> Page(A,i) ... ---------------> Free | Orphan
//!   own bytes             A's memory         own bytes                      own bytes
//!      `--reserve--> Reserved(A,i) --rebind--> Page(A,i)
//! ```
//!
//! From `copy` on the old frame has bytes of its own, a copy of the page: what a device still
//! writes there is lost to the buffer, and what it still reads is old.
//!
//! **Invariant**: a frame is on a free list exactly if its owner is [`Owner::Free`], once.
//! The list is last in, first out, as the model's: the frame that a move leaves is the next one
//! that its placement hands out.
//!
//! A frame that is given back and is not the page's any more was given back before: the kernel's
//! allocator says "BUG: Bad page state" then. It stays whose it is, and the caller is told
//! ([`FreedTwice`]), whatever a heap's rules order.
//!
//! **Differs from Linux**: the numbers are the emulation's, not the machine's; the CPU never uses
//! them.

use std::collections::BTreeMap;
use std::fmt;

use crate::device::BufferId;
use crate::model::{Placement, Recycle};
use crate::sys::page::PAGE_BYTES;

/// A frame, by its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameNo(pub u32);

/// A bus address: what a device puts on the bus, `sg_dma_address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BusAddr(pub u64);

/// Where frame 0 is on the bus, so that no plausible offset, index or pointer is an address.
const BUS_BASE: u64 = 0x40_0000_0000;

impl BusAddr {
    /// The first byte of a frame.
    #[must_use]
    pub fn of(frame: FrameNo) -> Self {
        Self(BUS_BASE + u64::from(frame.0) * PAGE_BYTES as u64)
    }

    /// The frame and the offset in it; none for an address that no frame has.
    #[must_use]
    pub fn split(self) -> Option<(FrameNo, usize)> {
        let at = self.0.checked_sub(BUS_BASE)?;
        let frame = u32::try_from(at / PAGE_BYTES as u64).ok()?;
        Some((FrameNo(frame), usize::try_from(at % PAGE_BYTES as u64).ok()?))
    }
}

impl fmt::Display for BusAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One page of one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageOf {
    /// The buffer.
    pub buffer: BufferId,
    /// Which page of it.
    pub page: usize,
}

/// Whose a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// On a free list.
    Free,
    /// A buffer's page.
    Page(PageOf),
    /// The destination of a move that is under way.
    Reserved(PageOf),
    /// What a rebound page was before; not yet given back.
    Retired(PageOf),
    /// Given back while a page pin holds it (`recycle=allocator`).
    Orphan,
}

/// Where a frame's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// In the memory of a buffer.
    Buffer(PageOf),
    /// In the frame's own storage.
    Own,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    placement: Placement,
    owner: Owner,
    bytes: Bytes,
    /// Page pins.
    pins: u32,
    /// Whether anybody was ever told its address: only then can an access come later.
    told: bool,
}

/// The frames of one page.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    now: Option<FrameNo>,
    /// Reserved by the move under way.
    next: Option<FrameNo>,
    /// Retired by the move under way.
    old: Option<FrameNo>,
}

/// No frame is left in the placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {pages} free frames in {placement}: it has {limit} (ENOMEM)")]
pub struct NoFrames {
    /// How many were asked for.
    pub pages: usize,
    /// Where.
    pub placement: Placement,
    /// How many there are, free or not.
    pub limit: usize,
}

/// A frame that was given back and was not the page's any more: `kernel-bug` in the model
/// (`put_frame` in `src/model/exporter.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreedTwice {
    /// What was given back.
    pub frame: FrameNo,
    /// For which page.
    pub of: PageOf,
}

/// Where an access landed that did not reach its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// It did reach it.
    Right,
    /// In a free frame.
    Nobody,
    /// In memory of another page, of this or another buffer.
    Other(PageOf),
    /// In memory that was the page's, and is not any more.
    Old,
}

/// All frames; see the [module](self).
#[derive(Debug)]
pub struct Frames {
    frames: Vec<Frame>,
    free: BTreeMap<Placement, Vec<FrameNo>>,
    limits: BTreeMap<Placement, usize>,
    buffers: BTreeMap<BufferId, (Placement, Vec<Entry>)>,
}

impl Frames {
    /// A table with at most so many frames in each placement.
    #[must_use]
    pub fn new(vram: usize, system: usize) -> Self {
        let limits = BTreeMap::from([(Placement::Vram, vram), (Placement::System, system)]);
        Self { frames: Vec::new(), free: BTreeMap::new(), limits, buffers: BTreeMap::new() }
    }

    /// Gives a new buffer its frames.
    ///
    /// # Errors
    /// [`NoFrames`]; nothing is changed then.
    pub fn alloc(
        &mut self,
        buffer: BufferId,
        pages: usize,
        placement: Placement,
    ) -> Result<(), NoFrames> {
        debug_assert!(!self.buffers.contains_key(&buffer), "a buffer is allocated once");
        let taken = self.take(pages, placement)?;
        let mut entries = Vec::with_capacity(pages);
        for (page, frame) in taken.into_iter().enumerate() {
            let of = PageOf { buffer, page };
            self.set(frame, Owner::Page(of), Bytes::Buffer(of));
            entries.push(Entry { now: Some(frame), ..Entry::default() });
        }
        self.buffers.insert(buffer, (placement, entries));
        Ok(())
    }

    /// Where a buffer is.
    #[must_use]
    pub fn placement(&self, buffer: BufferId) -> Option<Placement> {
        self.buffers.get(&buffer).map(|(placement, _)| *placement)
    }

    /// Where every buffer is.
    pub fn placements(&self) -> impl Iterator<Item = (BufferId, Placement)> {
        self.buffers.iter().map(|(&id, &(placement, _))| (id, placement))
    }

    /// How many frames are handed out before each free one.
    #[must_use]
    pub fn free_depths(&self) -> BTreeMap<FrameNo, usize> {
        let lists = self.free.values();
        lists.flat_map(|list| list.iter().rev().copied().zip(0..)).collect()
    }

    /// Pages of a buffer.
    #[must_use]
    pub fn pages(&self, buffer: BufferId) -> usize {
        self.buffers.get(&buffer).map_or(0, |(_, entries)| entries.len())
    }

    /// The page's frame now; none for one that was given back.
    #[must_use]
    pub fn frame(&self, of: PageOf) -> Option<FrameNo> {
        self.buffers.get(&of.buffer)?.1.get(of.page)?.now
    }

    /// The addresses of all pages, to be told to a device. None if a page has none.
    pub fn tell(&mut self, buffer: BufferId) -> Option<Vec<BusAddr>> {
        let (_, entries) = self.buffers.get(&buffer)?;
        let frames: Option<Vec<FrameNo>> = entries.iter().map(|entry| entry.now).collect();
        let frames = frames?;
        for &frame in &frames {
            self.at(frame)?.told = true;
        }
        Some(frames.into_iter().map(BusAddr::of).collect())
    }

    /// Whose the frame is; none if there is no such frame.
    #[must_use]
    pub fn owner(&self, frame: FrameNo) -> Option<Owner> {
        self.get(frame).map(|entry| entry.owner)
    }

    /// Where the frame is; none if there is no such frame.
    #[must_use]
    pub fn placement_of(&self, frame: FrameNo) -> Option<Placement> {
        self.get(frame).map(|entry| entry.placement)
    }

    /// Where its bytes are; none if there is no such frame.
    #[must_use]
    pub fn bytes(&self, frame: FrameNo) -> Option<Bytes> {
        self.get(frame).map(|entry| entry.bytes)
    }

    /// Where an access to `frame` lands that means `of`. None if there is no such frame.
    #[must_use]
    pub fn landing(&self, frame: FrameNo, of: PageOf) -> Option<Landing> {
        let entry = self.get(frame)?;
        Some(match entry.owner {
            Owner::Free => Landing::Nobody,
            Owner::Page(owner) if owner == of && self.frame(of) == Some(frame) => {
                if entry.bytes == Bytes::Own { Landing::Old } else { Landing::Right }
            }
            Owner::Page(owner) | Owner::Reserved(owner) if owner != of => Landing::Other(owner),
            Owner::Page(_) | Owner::Reserved(_) | Owner::Retired(_) | Owner::Orphan => Landing::Old,
        })
    }

    /// Takes a page pin; the frame is not freed under `recycle=allocator` before it is dropped.
    pub fn pin(&mut self, frame: FrameNo) {
        let Some(entry) = self.at(frame) else { return };
        entry.pins = entry.pins.saturating_add(1);
        entry.told = true;
    }

    /// Drops a page pin. The last one on an orphan frees it.
    pub fn unpin(&mut self, frame: FrameNo) {
        let Some(entry) = self.at(frame) else { return };
        debug_assert!(entry.pins > 0, "a pin is dropped once");
        entry.pins = entry.pins.saturating_sub(1);
        if entry.pins == 0 && entry.owner == Owner::Orphan {
            self.push(frame);
        }
    }

    /// Frames that nobody but a page pin holds.
    #[must_use]
    pub fn orphans(&self) -> usize {
        self.frames.iter().filter(|frame| frame.owner == Owner::Orphan).count()
    }

    /// Whether a page of the buffer is pinned.
    #[must_use]
    pub fn is_pinned(&self, buffer: BufferId) -> bool {
        let entries = self.buffers.get(&buffer).map_or(&[][..], |(_, entries)| entries);
        entries.iter().filter_map(|entry| self.get(entry.now?)).any(|frame| frame.pins > 0)
    }

    /// Step `reserve`: takes the frames that the buffer will have.
    ///
    /// # Errors
    /// [`NoFrames`].
    pub fn reserve(&mut self, buffer: BufferId, to: Placement) -> Result<(), NoFrames> {
        let taken = self.take(self.pages(buffer), to)?;
        for (page, frame) in taken.into_iter().enumerate() {
            self.set(frame, Owner::Reserved(PageOf { buffer, page }), Bytes::Own);
            if let Some(entry) = self.entry(buffer, page) {
                entry.next = Some(frame);
            }
        }
        Ok(())
    }

    /// Step `copy`: the frames have bytes of their own from now on. Returns those whose address
    /// somebody has: their storage must be filled with the page.
    pub fn copy(&mut self, buffer: BufferId) -> Vec<(FrameNo, PageOf)> {
        let mut filled = Vec::new();
        for page in 0..self.pages(buffer) {
            let of = PageOf { buffer, page };
            let Some(frame) = self.frame(of) else { continue };
            let Some(entry) = self.at(frame) else { continue };
            if entry.owner == Owner::Page(of) && entry.bytes == Bytes::Buffer(of) {
                entry.bytes = Bytes::Own;
                if entry.told {
                    filled.push((frame, of));
                }
            }
        }
        filled
    }

    /// Step `rebind`: the buffer is its new frames.
    pub fn rebind(&mut self, buffer: BufferId, to: Placement) {
        for page in 0..self.pages(buffer) {
            let of = PageOf { buffer, page };
            let next = self.entry(buffer, page).and_then(|entry| entry.next.take());
            let Some(next) = next else { continue };
            let retired = self.frame(of).filter(|&now| self.owner(now) == Some(Owner::Page(of)));
            if let Some(now) = retired {
                self.set(now, Owner::Retired(of), Bytes::Own);
            }
            self.set(next, Owner::Page(of), Bytes::Buffer(of));
            if let Some(entry) = self.entry(buffer, page) {
                entry.now = Some(next);
                entry.old = retired.or(entry.old);
            }
        }
        if let Some((placement, _)) = self.buffers.get_mut(&buffer) {
            *placement = to;
        }
    }

    /// Step `free` of a move: gives back what `rebind` retired, or, if the buffer is not rebound
    /// yet, the frames that it still uses. Returns what had been given back before.
    pub fn free_old(&mut self, buffer: BufferId, recycle: Recycle) -> Vec<FreedTwice> {
        let mut twice = Vec::new();
        for page in 0..self.pages(buffer) {
            let of = PageOf { buffer, page };
            let Some(entry) = self.entry(buffer, page) else { continue };
            let (old, next, now) = (entry.old.take(), entry.next, entry.now);
            let used = now.filter(|&now| self.owner(now) == Some(Owner::Page(of)));
            match (old, next, used) {
                (Some(old), _, _) => twice.extend(self.put(old, of, recycle)),
                // It goes on using the frame.
                (None, Some(_), Some(now)) => twice.extend(self.put(now, of, recycle)),
                (None, _, _) => {}
            }
        }
        twice
    }

    /// Step `free` of a purge or a revocation: gives all frames back; the buffer has none. Returns
    /// what had been given back before.
    pub fn give_back(&mut self, buffer: BufferId, recycle: Recycle) -> Vec<FreedTwice> {
        let mut twice = Vec::new();
        for page in 0..self.pages(buffer) {
            let of = PageOf { buffer, page };
            let entry = self.entry(buffer, page).map(std::mem::take).unwrap_or_default();
            for frame in [entry.now, entry.next, entry.old].into_iter().flatten() {
                twice.extend(self.put(frame, of, recycle));
            }
        }
        twice
    }

    /// The last reference to the buffer is gone. Returns what had been given back before.
    pub fn release(&mut self, buffer: BufferId, recycle: Recycle) -> Vec<FreedTwice> {
        let twice = self.give_back(buffer, recycle);
        self.buffers.remove(&buffer);
        twice
    }

    /// Undoes `reserve`.
    pub fn abandon(&mut self, buffer: BufferId) {
        for page in 0..self.pages(buffer) {
            let of = PageOf { buffer, page };
            let next = self.entry(buffer, page).and_then(|entry| entry.next.take());
            if let Some(next) = next.filter(|&next| self.owner(next) == Some(Owner::Reserved(of))) {
                self.push(next);
            }
        }
    }

    /// Gives a frame back that is the page's; one that is not was given back before.
    fn put(&mut self, frame: FrameNo, of: PageOf, recycle: Recycle) -> Option<FreedTwice> {
        let entry = self.at(frame)?;
        let own = [Owner::Page(of), Owner::Reserved(of), Owner::Retired(of)];
        if !own.contains(&entry.owner) {
            return Some(FreedTwice { frame, of });
        }
        entry.bytes = Bytes::Own;
        let counted = recycle == Recycle::Allocator && entry.placement != Placement::Vram;
        if counted && entry.pins > 0 {
            entry.owner = Owner::Orphan;
        } else {
            self.push(frame);
        }
        None
    }

    /// Puts a frame that has an owner on its free list.
    fn push(&mut self, frame: FrameNo) {
        let Some(entry) = self.at(frame) else { return };
        if entry.owner == Owner::Free {
            return;
        }
        entry.owner = Owner::Free;
        entry.bytes = Bytes::Own;
        let placement = entry.placement;
        self.free.entry(placement).or_default().push(frame);
    }

    fn take(&mut self, pages: usize, placement: Placement) -> Result<Vec<FrameNo>, NoFrames> {
        let limit = self.limits.get(&placement).copied().unwrap_or(0);
        let made = self.frames.iter().filter(|frame| frame.placement == placement).count();
        let free = self.free.entry(placement).or_default();
        let fresh = pages.saturating_sub(free.len());
        let room =
            self.frames.len().checked_add(fresh).is_some_and(|all| u32::try_from(all).is_ok());
        if made.saturating_add(fresh) > limit || !room {
            return Err(NoFrames { pages, placement, limit });
        }
        let mut taken: Vec<FrameNo> = (0..pages - fresh).filter_map(|_| free.pop()).collect();
        for _ in 0..fresh {
            let number = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
            let frame =
                Frame { placement, owner: Owner::Orphan, bytes: Bytes::Own, pins: 0, told: false };
            self.frames.push(frame);
            taken.push(FrameNo(number));
        }
        Ok(taken)
    }

    fn set(&mut self, frame: FrameNo, owner: Owner, bytes: Bytes) {
        if let Some(entry) = self.at(frame) {
            entry.owner = owner;
            entry.bytes = bytes;
        }
    }

    fn get(&self, frame: FrameNo) -> Option<&Frame> {
        self.frames.get(usize::try_from(frame.0).ok()?)
    }

    /// A frame that this table has handed out.
    fn at(&mut self, frame: FrameNo) -> Option<&mut Frame> {
        self.frames.get_mut(usize::try_from(frame.0).ok()?)
    }

    fn entry(&mut self, buffer: BufferId, page: usize) -> Option<&mut Entry> {
        self.buffers.get_mut(&buffer)?.1.get_mut(page)
    }
}

#[cfg(test)]
mod tests;
