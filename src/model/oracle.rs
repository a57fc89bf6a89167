//! The oracle: what every page should hold, and what an access that went elsewhere is called.
//!
//! The ghost of a buffer page ([`super::Page::ghost`]) is what it would hold if every access had
//! reached the buffer; a private page has a ghost of its own ([`super::Pte::ghost`]). A read or a
//! write is judged by where it landed ([`Landing`]); a read of the right frame may still be incoherent,
//! early or diverged.
//!
//! Invariant ([`super::State::ghost_matches_memory`]): while no hazard was reported, the ghost
//! equals memory.

use super::core::Core;
use super::landing::{Landing, Meant};
use super::objects::{Life, Owner, Target};
use super::rules::MmapKind;
use super::step::{Handle, Hazard, HazardKind, Sink, Via};
use crate::units::{BufId, FrameId, PageId};

impl<S: Sink> Core<'_, S> {
    /// Whether a device goes on using a buffer after its revocation was complete: for an importer
    /// the exporter's wait, for the holder of a page of a CPU mapping the zap of that mapping.
    fn revoked(&self, frame: FrameId, target: Target, via: Via) -> bool {
        let Target::Page(page) = target else { return false };
        let complete = match via {
            Via::Device(Handle::Sg(_), _) => true,
            Via::Device(Handle::Pin(pin), _) => {
                let pte = self.state.pins[pin.index()].pte;
                pte.is_none() || self.state.ptes[pte.index()].frame != frame
            }
            Via::Vma(..) | Via::Exporter(_) | Via::Cache => false,
        };
        complete
            && self.state.bufs[self.world.buf_of(page).index()].life == Life::Quiesced
            && self.state.pages[page.index()].frame.is_some()
    }

    /// What a read of `target` should return.
    pub(super) fn expected(&self, target: Target) -> u8 {
        match target {
            Target::Page(page) => self.state.pages[page.index()].ghost,
            Target::Va(pte) => {
                let entry = &self.state.ptes[pte.index()];
                if entry.own {
                    return entry.ghost;
                }
                let (vma, page) = self.world.vma_of(pte);
                self.buffer_page(vma, page).map_or(0, |page| self.state.pages[page.index()].ghost)
            }
        }
    }

    /// The buffer page that `target` is, or that a private page was copied from.
    fn page_behind(&self, target: Target) -> Option<PageId> {
        match target {
            Target::Page(page) => Some(page),
            Target::Va(pte) => {
                let (vma, page) = self.world.vma_of(pte);
                self.buffer_page(vma, page)
            }
        }
    }

    /// Whether `frame` is where `target` is now.
    fn is_current(&self, frame: FrameId, target: Target) -> bool {
        let is_page = |page: PageId| {
            let owner = self.state.frames[frame.index()].owner;
            owner == Owner::Bounce(page)
                || self.state.pages[page.index()].frame == frame && owner == Owner::Page(page)
        };
        match target {
            Target::Page(page) => is_page(page),
            Target::Va(pte) => {
                let entry = &self.state.ptes[pte.index()];
                if entry.own {
                    entry.frame == frame
                } else {
                    self.page_behind(target).is_some_and(is_page)
                }
            }
        }
    }

    /// Whether anybody could still expect something of `target`.
    pub(super) fn alive(&self, target: Target) -> bool {
        match target {
            Target::Page(page) => {
                self.state.bufs[self.world.buf_of(page).index()].life == Life::Live
            }
            Target::Va(pte) => {
                let (vma, page) = self.world.vma_of(pte);
                self.state.vmas[vma.index()].mapped & (1 << page) != 0
            }
        }
    }

    /// Judge a read that returned `value`.
    pub(super) fn check_read(
        &mut self,
        frame: FrameId,
        target: Target,
        via: Via,
        value: u8,
        discarded: bool,
    ) {
        let expected = self.expected(target);
        let owner = self.state.frames[frame.index()].owner;
        let landing = self.landing(frame, target);
        let differs = value != expected;
        // Looked at where it matters alone: what is looked at is a part of the step's footprint.
        let alive = landing == Landing::Old && differs && self.alive(target);
        let meant = Meant { alive, revoked: self.revoked(frame, target, via) };
        let kind = landing.of_read(meant, differs).or_else(|| {
            let current = landing == Landing::Current;
            current.then(|| self.disagreement(frame, target, differs)).flatten()
        });
        // What is read and discarded does harm only where reading itself does.
        let kind = kind.filter(|kind| {
            !discarded
                || landing != Landing::Current
                    && matches!(kind, HazardKind::UseAfterFree | HazardKind::CrossBufferRead)
        });
        if let Some(kind) = kind {
            let (value, expected) = (Some(value), Some(expected));
            let target = Some(target);
            self.hazard(Hazard {
                kind,
                actor: self.actor,
                via,
                target,
                frame,
                owner,
                value,
                expected,
            });
        }
    }

    /// Judge an exporter's copy of `value` from `frame`, which it may have given away before.
    pub(super) fn check_copy(&mut self, buf: BufId, page: PageId, frame: FrameId, value: u8) {
        let target = Target::Page(page);
        if !self.is_current(frame, target) {
            self.check_read(frame, target, Via::Exporter(buf), value, false);
        }
    }

    /// A read of the right frame that is wrong all the same.
    fn disagreement(&self, frame: FrameId, target: Target, differs: bool) -> Option<HazardKind> {
        let entry = &self.state.frames[frame.index()];
        let bounced = |page| self.state.bounced(page).next().is_some();
        if differs && matches!(target, Target::Page(page) if bounced(page)) {
            return Some(HazardKind::Incoherent);
        }
        if differs && (entry.dirty || (entry.cached && entry.cache_value != entry.value)) {
            return Some(HazardKind::Incoherent);
        }
        if let Target::Page(page) = target
            && differs
            && self.state.copy_pending(self.world, page)
        {
            // Read before the copy was there.
            return Some(HazardKind::StaleRead);
        }
        let diverged = match target {
            Target::Page(page) => self.state.pages[page.index()].private_newer,
            Target::Va(pte) => self.state.ptes[pte.index()].buffer_newer,
        };
        (diverged && self.shares(target)).then_some(HazardKind::DivergedCow)
    }

    /// Whether the user of a private mapping of this target has reason to expect sharing: of a
    /// device's buffer, not of an ordinary file.
    fn shares(&self, target: Target) -> bool {
        self.page_behind(target).is_some_and(|page| {
            self.world.exporter_of(self.world.buf_of(page)).mmap != MmapKind::Shmem
        })
    }

    /// Judge a write of `value` that landed in `frame`, and move the ghost.
    pub(super) fn check_write(&mut self, frame: FrameId, target: Target, via: Via, value: u8) {
        let owner = self.state.frames[frame.index()].owner;
        let landing = self.landing(frame, target);
        let meant = Meant { alive: self.alive(target), revoked: self.revoked(frame, target, via) };
        if meant.alive {
            self.move_ghost(target, value);
        }
        let kind = landing.of_write(meant);
        if let Some(kind) = kind {
            self.hazard(Hazard {
                kind,
                actor: self.actor,
                via,
                target: Some(target),
                frame,
                owner,
                value: Some(value),
                expected: None,
            });
        }
    }

    fn move_ghost(&mut self, target: Target, value: u8) {
        match target {
            Target::Page(page) => {
                let entry = &mut self.state.pages[page.index()];
                entry.ghost = value;
                entry.private_newer = false;
                // The ghost of a private page is a part of memory: whoever makes, moves or drops one
                // declares memory as changed.
                for index in 0..self.state.ptes.len() {
                    if self.state.ptes.unnoted()[index].own {
                        let (vma, at) = self.world.vma_of(crate::units::PteId::at(index));
                        let area = &self.state.vmas.unnoted()[vma.index()];
                        let behind = self.world.page(area.buf, area.offset.wrapping_add(at));
                        if behind == Some(page) {
                            self.state.ptes.unnoted_mut()[index].buffer_newer = true;
                        }
                    }
                }
            }
            Target::Va(pte) => {
                if self.state.ptes[pte.index()].own {
                    let entry = &mut self.state.ptes.unnoted_mut()[pte.index()];
                    entry.ghost = value;
                    entry.buffer_newer = false;
                    if let Some(page) = self.page_behind(target) {
                        self.state.pages[page.index()].private_newer = true;
                    }
                } else if let Some(page) = self.page_behind(target) {
                    // A device wrote the page behind a private mapping that was never copied.
                    self.state.pages[page.index()].ghost = value;
                }
            }
        }
    }

    /// Where an access to `frame` lands that means `target`.
    fn landing(&self, frame: FrameId, target: Target) -> Landing {
        if self.is_current(frame, target) {
            return Landing::Current;
        }
        let same = |page: PageId| match target {
            Target::Page(own) => own == page,
            Target::Va(_) => self.page_behind(target) == Some(page),
        };
        match self.state.frames[frame.index()].owner {
            Owner::Free => Landing::Nobody,
            Owner::Page(page)
            | Owner::Reserved(page)
            | Owner::Shadow(page)
            | Owner::Bounce(page)
                if !same(page) =>
            {
                Landing::Other
            }
            Owner::Anon if matches!(target, Target::Page(_)) => Landing::Other,
            Owner::Page(_)
            | Owner::Reserved(_)
            | Owner::Shadow(_)
            | Owner::Bounce(_)
            | Owner::Retired(_)
            | Owner::Anon
            | Owner::Zero
            | Owner::Orphan => Landing::Old,
        }
    }
}
