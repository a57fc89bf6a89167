//! Frame numbers: where a buffer's pages are on the bus, and whose memory a frame is now.
//!
//! Kernel counterpart: the pfn or VRAM address behind an sg_table's `dma_address`, and the free
//! lists of an exporter (`ttm_pool`, `drm_buddy`). Each live buffer's memory is a file of its own,
//! so nothing in this process's memory ever aliases; this table puts the aliasing back. A device
//! that accesses a bus address reaches whoever owns that frame *now*:
//!
//! ```text
//!          alloc, rebind             rebind                 free, release
//!   Free ---------------> Page(A,i) -----> Retired(A,i) -----------------> Free | Orphan
//!   own bytes             A's memory         own bytes                      own bytes
//!      `--reserve--> Reserved(A,i) --rebind--> Page(A,i)
//! ```
//!
//! From `rebind` on the old frame has bytes of its own, a copy of the page: what a device still
//! writes there is lost to the buffer, and what it still reads is old.
//!
//! **Invariant**: a frame is on a free list exactly if its owner is [`Owner::Free`], once.
//! The list is last in, first out, as the model's: the frame that a move leaves is the next one
//! that its placement hands out.
//!
//! What a step does to a frame is decided by the model ([`moving`]), as for its own frames. A frame
//! that is given back and is not the page's any more was given back before: it stays whose it is,
//! and the caller is told ([`Given`]).
//!
//! **Differs from Linux**: the numbers are the emulation's, not the machine's; the CPU never uses
//! them.

use std::collections::BTreeMap;
use std::fmt;

use crate::device::BufferId;
use crate::model::moving::{self, FrameRole, FrameTable, PageFrames};
use crate::model::{Landing, Operation, Placement, Recycle};
use crate::sys::page::page_bytes;

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
        Self(BUS_BASE + u64::from(frame.0) * page_bytes() as u64)
    }

    /// The frame and the offset in it; none for an address that no frame has.
    #[must_use]
    pub fn split(self) -> Option<(FrameNo, usize)> {
        let at = self.0.checked_sub(BUS_BASE)?;
        let frame = u32::try_from(at / page_bytes() as u64).ok()?;
        Some((FrameNo(frame), usize::try_from(at % page_bytes() as u64).ok()?))
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
struct FrameState {
    placement: Placement,
    owner: Owner,
    bytes: Bytes,
    /// Page pins.
    pins: u32,
    /// Whether anybody was ever told its address: only then can an access come later.
    told: bool,
}

/// Where a live buffer is.
#[derive(Debug)]
struct Placed {
    placement: Placement,
    /// Where its reserved frames are.
    dest: Placement,
    /// Where its frames go in the end.
    recycle: Recycle,
    pages: Vec<PageFrames<FrameNo>>,
}

const NO_FRAMES: PageFrames<FrameNo> = PageFrames { now: None, next: None, old: None };

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

/// A frame that was given back and was not the page's any more: `kernel-bug`
/// ([`FrameTable::bad_page_state`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreedTwice {
    /// What was given back.
    pub frame: FrameNo,
    /// For which page.
    pub of: PageOf,
}

/// A page that has another frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebound {
    /// The page.
    pub of: PageOf,
    /// Its frame before.
    pub left: Option<FrameNo>,
    /// Its frame now.
    pub now: FrameNo,
}

/// What became of frames that were given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// What had been given back before.
    pub twice: Vec<FreedTwice>,
    /// How many a page pin still holds.
    pub orphans: usize,
}

/// All frames; see the [module](self).
#[derive(Debug)]
pub struct Frames {
    frames: Vec<FrameState>,
    free: BTreeMap<Placement, Vec<FrameNo>>,
    limits: BTreeMap<Placement, usize>,
    buffers: BTreeMap<BufferId, Placed>,
    /// What became of what was given back, and is not told yet.
    given: Given,
}

impl Frames {
    /// A table with at most so many frames in each placement.
    #[must_use]
    pub fn new(vram: usize, system: usize) -> Self {
        let limits = BTreeMap::from([(Placement::Vram, vram), (Placement::System, system)]);
        let (free, buffers) = (BTreeMap::new(), BTreeMap::new());
        Self { frames: Vec::new(), free, limits, buffers, given: Given::default() }
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
        recycle: Recycle,
    ) -> Result<(), NoFrames> {
        debug_assert!(!self.buffers.contains_key(&buffer), "a buffer is allocated once");
        self.room(pages, placement)?;
        let placed = Placed { placement, dest: placement, recycle, pages: vec![NO_FRAMES; pages] };
        self.buffers.insert(buffer, placed);
        for of in self.pages_of(buffer) {
            self.fill(of, placement);
        }
        Ok(())
    }

    /// The frame of a page. One that was given up without marking the buffer gets another: whether
    /// it did, so that what it held is lost.
    ///
    /// # Errors
    /// [`NoFrames`]; nothing is changed then.
    pub fn ensure(&mut self, of: PageOf) -> Result<(FrameNo, bool), NoFrames> {
        if let Some(frame) = self.frame(of) {
            return Ok((frame, false));
        }
        let placement = self.placement(of.buffer).unwrap_or(Placement::System);
        self.room(1, placement)?;
        self.fill(of, placement);
        let limit = self.limits.get(&placement).copied().unwrap_or(0);
        let frame = self.frame(of).ok_or(NoFrames { pages: 1, placement, limit })?;
        Ok((frame, true))
    }

    fn room(&self, pages: usize, placement: Placement) -> Result<(), NoFrames> {
        let limit = self.limits.get(&placement).copied().unwrap_or(0);
        let enough = self.free_in(placement) >= pages;
        if enough { Ok(()) } else { Err(NoFrames { pages, placement, limit }) }
    }

    fn fill(&mut self, of: PageOf, placement: Placement) {
        if let Some(now) = self.take(placement, of) {
            self.hold(now, of, FrameRole::Now);
            let frames = self.frames(of);
            self.set_frames(of, PageFrames { now: Some(now), ..frames });
        }
    }

    pub(super) fn pages_of(&self, buffer: BufferId) -> Vec<PageOf> {
        (0..self.pages(buffer)).map(|page| PageOf { buffer, page }).collect()
    }

    /// Where a buffer is.
    #[must_use]
    pub fn placement(&self, buffer: BufferId) -> Option<Placement> {
        self.buffers.get(&buffer).map(|placed| placed.placement)
    }

    /// Where every buffer is.
    pub fn placements(&self) -> impl Iterator<Item = (BufferId, Placement)> {
        self.buffers.iter().map(|(&id, placed)| (id, placed.placement))
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
        self.buffers.get(&buffer).map_or(0, |placed| placed.pages.len())
    }

    /// The page's frame now; none for one that was given back.
    #[must_use]
    pub fn frame(&self, of: PageOf) -> Option<FrameNo> {
        self.frames(of).now
    }

    /// The addresses of all pages, to be told to a device. None if a page has none.
    pub fn tell(&mut self, buffer: BufferId) -> Option<Vec<BusAddr>> {
        let placed = self.buffers.get(&buffer)?;
        let frames: Option<Vec<FrameNo>> = placed.pages.iter().map(|frames| frames.now).collect();
        let frames = frames?;
        for &frame in &frames {
            self.at(frame)?.told = true;
        }
        Some(frames.into_iter().map(BusAddr::of).collect())
    }

    /// Whether anybody has its address.
    #[must_use]
    pub fn is_told(&self, frame: FrameNo) -> bool {
        self.get(frame).is_some_and(|entry| entry.told)
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
                if entry.bytes == Bytes::Own { Landing::Old } else { Landing::Current }
            }
            Owner::Page(owner) | Owner::Reserved(owner) if owner != of => Landing::Other,
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

    /// Whether a page of the buffer is pinned.
    #[must_use]
    pub fn is_pinned(&self, buffer: BufferId) -> bool {
        self.pinned_page(buffer).is_some()
    }

    /// The first frame of the buffer that is pinned.
    #[must_use]
    pub fn pinned_page(&self, buffer: BufferId) -> Option<FrameNo> {
        let mut frames = self.buffers.get(&buffer)?.pages.iter().filter_map(|frames| frames.now);
        frames.find(|&frame| self.get(frame).is_some_and(|frame| frame.pins > 0))
    }

    /// Step `reserve`: takes the frames that the buffer will have.
    ///
    /// # Errors
    /// [`NoFrames`].
    pub fn reserve(&mut self, buffer: BufferId, to: Placement) -> Result<(), NoFrames> {
        let pages = self.pages_of(buffer);
        self.room(pages.len(), to)?;
        moving::reserve(self, &pages, to);
        if let Some(placed) = self.buffers.get_mut(&buffer) {
            placed.dest = to;
        }
        Ok(())
    }

    /// The frames that the buffer is about to give up have bytes of their own from now on; of a move,
    /// where a page is not rebound yet. Returns those whose address somebody
    /// has: their storage must be filled with the page.
    pub fn leave(&mut self, buffer: BufferId, moves: bool) -> Vec<(FrameNo, PageOf)> {
        let mut filled = Vec::new();
        for of in self.pages_of(buffer) {
            let PageFrames { next, old, .. } = self.frames(of);
            if moves && (next.is_none() || old.is_some()) {
                continue;
            }
            let Some(frame) = self.frame(of) else { continue };
            let Some(entry) = self.at(frame) else { continue };
            if entry.owner == Owner::Page(of) && entry.bytes == Bytes::Buffer(of) {
                entry.bytes = Bytes::Own;
                // What goes on being the page's frame may still be told.
                if entry.told || moves {
                    filled.push((frame, of));
                }
            }
        }
        filled
    }

    /// Step `rebind`: the buffer is its new frames. Returns what each page that moved has left, and
    /// what it is now.
    pub fn rebind(&mut self, buffer: BufferId) -> Vec<Rebound> {
        let rebound = |this: &mut Self, of| {
            let (left, now) = moving::rebind(this, of)?;
            Some(Rebound { of, left, now })
        };
        let pages = self.pages_of(buffer);
        let rebound: Vec<_> = pages.into_iter().filter_map(|of| rebound(self, of)).collect();
        if let Some(placed) = self.buffers.get_mut(&buffer).filter(|_| !rebound.is_empty()) {
            placed.placement = placed.dest;
        }
        rebound
    }

    /// Step `free` of an operation.
    pub fn free(&mut self, buffer: BufferId, operation: Operation) -> Given {
        for of in self.pages_of(buffer) {
            match operation {
                Operation::Move(_) => moving::free_left(self, of),
                Operation::Purge | Operation::Revoke => moving::free_all(self, of),
            }
        }
        std::mem::take(&mut self.given)
    }

    /// The last reference to the buffer is gone.
    pub fn release(&mut self, buffer: BufferId) -> Given {
        for of in self.pages_of(buffer) {
            moving::free_all(self, of);
        }
        self.buffers.remove(&buffer);
        std::mem::take(&mut self.given)
    }

    /// Undoes `reserve`.
    pub fn abandon(&mut self, buffer: BufferId) {
        for of in self.pages_of(buffer) {
            moving::abandon(self, of);
        }
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

    fn get(&self, frame: FrameNo) -> Option<&FrameState> {
        self.frames.get(usize::try_from(frame.0).ok()?)
    }

    /// A frame that this table has handed out.
    fn at(&mut self, frame: FrameNo) -> Option<&mut FrameState> {
        self.frames.get_mut(usize::try_from(frame.0).ok()?)
    }

    fn page(&mut self, of: PageOf) -> Option<&mut PageFrames<FrameNo>> {
        self.buffers.get_mut(&of.buffer)?.pages.get_mut(of.page)
    }

    fn made_in(&self, placement: Placement) -> usize {
        self.frames.iter().filter(|frame| frame.placement == placement).count()
    }
}

impl FrameTable for Frames {
    type Frame = FrameNo;
    type Page = PageOf;

    fn frames(&self, of: PageOf) -> PageFrames<FrameNo> {
        let placed = self.buffers.get(&of.buffer);
        placed.and_then(|placed| placed.pages.get(of.page)).copied().unwrap_or(NO_FRAMES)
    }

    fn set_frames(&mut self, of: PageOf, frames: PageFrames<FrameNo>) {
        if let Some(page) = self.page(of) {
            *page = frames;
        }
    }

    fn clear(&mut self, of: PageOf) {
        self.set_frames(of, NO_FRAMES);
    }

    fn held(&self, frame: FrameNo, page: PageOf) -> Option<FrameRole> {
        match self.owner(frame)? {
            Owner::Page(of) if of == page => Some(FrameRole::Now),
            Owner::Reserved(of) if of == page => Some(FrameRole::Next),
            Owner::Retired(of) if of == page => Some(FrameRole::Old),
            Owner::Page(_)
            | Owner::Reserved(_)
            | Owner::Retired(_)
            | Owner::Free
            | Owner::Orphan => None,
        }
    }

    fn hold(&mut self, frame: FrameNo, of: PageOf, held: FrameRole) {
        let Some(entry) = self.at(frame) else { return };
        (entry.owner, entry.bytes) = match held {
            FrameRole::Now => (Owner::Page(of), Bytes::Buffer(of)),
            FrameRole::Next => (Owner::Reserved(of), Bytes::Own),
            FrameRole::Old => (Owner::Retired(of), Bytes::Own),
        };
    }

    /// Frames are made as they are needed, up to the placement's limit.
    fn free_in(&self, placement: Placement) -> usize {
        let limit = self.limits.get(&placement).copied().unwrap_or(0);
        let numbers = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        let unmade = limit.saturating_sub(self.made_in(placement));
        let unmade = unmade.min(numbers.saturating_sub(self.frames.len()));
        self.free.get(&placement).map_or(0, Vec::len).saturating_add(unmade)
    }

    fn take(&mut self, placement: Placement, of: PageOf) -> Option<FrameNo> {
        if let Some(frame) = self.free.get_mut(&placement).and_then(Vec::pop) {
            self.hold(frame, of, FrameRole::Next);
            return Some(frame);
        }
        let number = u32::try_from(self.frames.len()).ok()?;
        let (owner, bytes) = (Owner::Reserved(of), Bytes::Own);
        self.frames.push(FrameState { placement, owner, bytes, pins: 0, told: false });
        Some(FrameNo(number))
    }

    fn give_back(&mut self, frame: FrameNo, of: PageOf) {
        let recycle = self.buffers.get(&of.buffer).map_or(Recycle::Pool, |placed| placed.recycle);
        let Some(entry) = self.at(frame) else { return };
        entry.bytes = Bytes::Own;
        if moving::goes_free(recycle, entry.placement, || entry.pins > 0) {
            self.push_free(frame);
        } else {
            entry.owner = Owner::Orphan;
            self.given.orphans += 1;
        }
    }

    fn push_free(&mut self, frame: FrameNo) {
        self.push(frame);
    }

    fn bad_page_state(&mut self, frame: FrameNo, of: PageOf) {
        self.given.twice.push(FreedTwice { frame, of });
    }
}

#[cfg(test)]
mod tests;
