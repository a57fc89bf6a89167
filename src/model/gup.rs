//! `get_user_pages`, `follow_pfn` and `frame_vector`.
//!
//! Kernel counterparts, read from 6.12: `gup_fast_pte_range`, `check_vma_flags`,
//! `follow_page_pte`, `gup_must_unshare`, `check_and_migrate_movable_pages` (mm/gup.c),
//! `vm_normal_page` and `follow_pfn` (mm/memory.c), `get_vaddr_frames`
//! (drivers/media/common/videobuf2/frame_vector.c before 6.1).
//!
//! 1. The fast path looks at the page table alone: any present entry that is writable enough and
//!    not special, whose page is a file's or anonymous (a driver's own is left to the slow path).
//!    Without a special bit in the architecture there is no fast path.
//! 2. The slow path refuses VM_IO and VM_PFNMAP; refuses a write to a VMA without VM_WRITE unless
//!    FOLL_FORCE meets a private mapping; faults; then takes what `vm_normal_page` returns, and a
//!    special entry gives none.
//!
//! The zero page is special, so that only the slow path takes it, and takes it all the same
//! (`follow_page_pte`: `is_zero_pfn`). FOLL_GET takes a reference, FOLL_PIN a pin: unsharing and
//! the copy at fork are for the second alone.
//!
//! **Differs from Linux**: a plain huge entry over memory without struct pages is refused by the fast
//! path, which would look at a page that is not there; one page a call; no hwpoison, no userfaultfd.

use super::core::{Core, View, step};
use super::cpu::Want;
use super::importer_rules::ImporterRules;
use super::objects::{EMPTY_PIN, Owner, Pin, Pte, Reach, Slot, Target, Vma, VmaKind};
use super::rules::{
    Blocks, ExporterRules, FollowPfn, FrameVector, GupFast, HostRules, Huge, MmapKind, Notifier,
    Placement, Unshare, YesNo,
};
use super::state::State;
use super::step::{Effect, Errno, Foll, Mmap, Reply, Signal, Sink, Step};
use super::world::{TooMany, World};
use crate::units::{FrameId, ImporterId, PinId, PteId, VmaId};

impl<S: Sink> Core<'_, S> {
    pub(super) fn gup_fast(&mut self, pin: PinId, vma: VmaId, page: u8, foll: Foll) -> Reply {
        let Some(id) = self.world.pte(vma, page) else { return Reply::Done };
        let entry = self.state.vmas[vma.index()];
        let pte = self.state.ptes[id.index()];
        let taken = self.world.host.pte_special == YesNo::Yes
            && entry.mapped & (1 << page) != 0
            && pte.present()
            && !pte.special
            && self.world.has_page(pte.frame)
            && (!foll.write || pte.write)
            && !self.must_unshare(&entry, &pte, foll)
            && !self.must_migrate(pte.frame, foll)
            && !self.uncounted(pte.frame)
            && !self.left_to_slow(&entry, &pte, foll);
        if taken {
            self.take_pin(pin, vma, page, id, pte.frame, foll, true);
        } else if matches!(self.state.pins[pin.index()].slot, Slot::Failed | Slot::Dropped) {
            // Of an earlier call.
            self.state.pins[pin.index()] = EMPTY_PIN;
        }
        Reply::Done
    }

    pub(super) fn gup_slow(&mut self, pin: PinId, vma: VmaId, page: u8, foll: Foll) -> Reply {
        let efault = Step::GupSlow { pin, vma, page, foll };
        // Somebody may have used what the fast path took, and dropped it, before this.
        if self.held(pin)
            || matches!(self.state.pins[pin.index()].slot, Slot::Invalid | Slot::Dropped)
        {
            return Reply::Done;
        }
        let entry = self.state.vmas[vma.index()];
        let Some(id) = self.world.pte(vma, page) else { return self.fail(&efault, Errno::Efault) };
        if entry.mapped & (1 << page) == 0 || !vma_allows(self.world, &entry, foll) {
            return self.fail(&efault, Errno::Efault);
        }
        let pte = self.state.ptes[id.index()];
        let want = if foll.write { Want::Write } else { Want::Read };
        if !pte.present() {
            return self.fault_for_gup(vma, page, want, &efault);
        }
        // FOLL_FORCE may write through a read-only entry once the page is the process's own. What
        // can't be written through is faulted first, special or not (follow_page_pte, 6.12).
        let forced = foll.force && pte.exclusive;
        if foll.write && !pte.write && !forced {
            return self.fault_for_gup(vma, page, want, &efault);
        }
        let unmarked = pte.huge && self.slow_takes_marked(&entry);
        let no_page = pte.special && !unmarked || !self.world.has_page(pte.frame);
        if no_page && pte.frame != self.world.zero {
            // vm_normal_page() is NULL.
            return self.fail(&efault, Errno::Efault);
        }
        if self.must_unshare(&entry, &pte, foll) {
            return self.fault_for_gup(vma, page, Want::Unshare, &efault);
        }
        if self.uncounted(pte.frame) {
            return self.fail(&efault, Errno::Enomem);
        }
        if self.must_migrate(pte.frame, foll) {
            return match self.migrate_out(pte.frame) {
                Ok(()) => Reply::Again,
                Err(errno) => self.fail(&efault, errno),
            };
        }
        self.take_pin(pin, vma, page, id, pte.frame, foll, false);
        Reply::Done
    }

    fn fault_for_gup(&mut self, vma: VmaId, page: u8, want: Want, efault: &Step) -> Reply {
        match self.fault(vma, page, want) {
            Ok(()) => Reply::Again,
            Err(Signal::Oops) => {
                self.state.refuse(efault);
                Reply::Signal(Signal::Oops)
            }
            Err(Signal::Sigbus | Signal::Sigsegv) => self.fail(efault, Errno::Efault),
        }
    }

    /// Whether the page is pinned, or its pfn known, already.
    fn held(&self, pin: PinId) -> bool {
        matches!(self.state.pins[pin.index()].slot, Slot::Held | Slot::Taking)
    }

    /// The slot of an entry just taken.
    fn taken(&self, pin: PinId) -> Slot {
        if self.world.pins[pin.index()].vector { Slot::Taking } else { Slot::Held }
    }

    /// `gup_must_unshare` (mm/internal.h, 6.12): a read-only FOLL_PIN of a page that a later write
    /// would copy away. Of a page that is not anonymous, which the zero page is not, only with
    /// FOLL_LONGTERM, and only in a private mapping.
    fn must_unshare(&self, entry: &Vma, pte: &Pte, foll: Foll) -> bool {
        let asked = !foll.write && !foll.get && !pte.write;
        if !asked || entry.shared {
            return false;
        }
        let anon = self.state.frames[pte.frame.index()].owner == Owner::Anon;
        match self.world.host.longterm_unshare {
            Unshare::No => false,
            Unshare::Anonymous => anon && !pte.exclusive,
            Unshare::Yes if anon => !pte.exclusive,
            Unshare::Yes => foll.longterm,
        }
    }

    /// `gup_fast_folio_allowed`: what might be secret memory is not taken without a look at the VMA.
    /// A huge page never is secret, nor, as kernels since 7.1 know, is one without an address_space; a long-term pin for writing looks at the address_space all the same.
    /// A huge entry's pages are a large folio, unless they are a block that is not compound.
    /// **Differs from Linux**: what a driver maps as VM_MIXEDMAP is its own, though it may come from
    /// shmem.
    fn left_to_slow(&self, entry: &Vma, pte: &Pte, foll: Foll) -> bool {
        let large = pte.huge && self.block_page(pte.frame).is_none();
        let file_alone = foll.longterm && foll.write && !foll.get;
        let looks = match self.world.host.gup_fast {
            GupFast::Mapped => !large || file_alone,
            GupFast::ShortTerm => file_alone,
            GupFast::Any => false,
        };
        looks
            && entry.kind != VmaKind::Normal
            && self.state.frames[pte.frame.index()].owner != Owner::Anon
    }

    /// Which page of its block a frame is, if that is not compound.
    fn block_page(&self, frame: FrameId) -> Option<usize> {
        let (Owner::Page(page) | Owner::Reserved(page) | Owner::Retired(page)) =
            self.state.frames[frame.index()].owner
        else {
            return None;
        };
        let buf = self.world.buf_of(page);
        let loose = self.world.exporter_of(buf).blocks == Blocks::NonCompound;
        loose.then(|| self.world.page_index(page).into())
    }

    /// `try_grab_folio_fast` (mm/gup.c, 6.12): a page with a count of 0 takes no reference. Of a block that
    /// is not compound the first page alone has a count.
    ///
    /// **Differs from Linux**: the slow path would take a reference of the first page, and this page all the
    /// same (`follow_huge_pmd`); here it refuses.
    fn uncounted(&self, frame: FrameId) -> bool {
        self.block_page(frame).is_some_and(|page| page > 0)
    }

    /// `check_and_migrate_movable_pages`: FOLL_LONGTERM does not pin movable pages in CMA.
    fn must_migrate(&self, frame: FrameId, foll: Foll) -> bool {
        foll.longterm
            && self.world.host.longterm_migrate == YesNo::Yes
            && self.world.placement(frame) == Placement::Cma
            && self.movable(frame)
    }

    /// Whether the kernel may migrate the page: ordinary memory that happens to be in CMA.
    pub(super) fn movable(&self, frame: FrameId) -> bool {
        match self.state.frames[frame.index()].owner {
            Owner::Page(page) => {
                self.world.exporter_of(self.world.buf_of(page)).mmap == MmapKind::Shmem
            }
            Owner::Anon => true,
            Owner::Free
            | Owner::Reserved(_)
            | Owner::Retired(_)
            | Owner::Shadow(_)
            | Owner::Bounce(_)
            | Owner::Orphan
            | Owner::Zero => false,
        }
    }

    /// `migrate_pages` of one page to system memory: EBUSY when it is pinned, ENOMEM. The entries
    /// go first (`try_to_migrate`, mm/rmap.c), which calls the notifiers; who has one lets go.
    pub(super) fn migrate_out(&mut self, from: FrameId) -> Result<(), Errno> {
        for index in 0..self.state.ptes.len() {
            if self.state.ptes[index].frame == from {
                self.notify_mmu(PteId::at(index));
            }
        }
        if self.state.counted_pins(from) > 0 || self.state.gathered(from) > 0 {
            return Err(Errno::Ebusy);
        }
        let owner = self.state.frames[from.index()].owner;
        let to =
            self.state.take_frame(self.world, Placement::System, owner).ok_or(Errno::Enomem)?;
        self.drop_cache(from);
        let value = self.state.frames[from.index()].value;
        self.state.frames[to.index()].value = value;
        self.emit(Effect::FrameFilled(to, owner, value));
        self.emit(Effect::FrameCopied { from, to });
        for index in 0..self.state.ptes.len() {
            if self.state.ptes[index].frame == from {
                let (vma, page) = self.world.vma_of(PteId::at(index));
                let old = self.state.ptes[index];
                self.emit(Effect::Zapped(vma, page, old));
                self.state.ptes[index].frame = to;
                self.flush_cpus(PteId::at(index));
                let new = self.state.ptes[index];
                self.emit(Effect::Faulted(vma, page, new));
            }
        }
        if let Owner::Page(page) = owner {
            self.state.pages[page.index()].frame = to;
            self.emit(Effect::Rebound(page, to));
        }
        self.state.push_free(self.world, from);
        self.emit(Effect::FrameFreed(from));
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "one call site per path of get_user_pages")]
    fn take_pin(
        &mut self,
        pin: PinId,
        vma: VmaId,
        page: u8,
        pte: PteId,
        frame: FrameId,
        foll: Foll,
        fast: bool,
    ) {
        let target = self.target_of(vma, page, pte);
        self.state.pins[pin.index()] = Pin {
            slot: self.taken(pin),
            counted: true,
            write: foll.write,
            get: foll.get,
            frame,
            pte,
            target,
        };
        self.emit(Effect::Pinned(pin, vma, page, frame, fast));
    }

    pub(super) fn follow_pfn(&mut self, pin: PinId, vma: VmaId, page: u8, write: bool) -> Reply {
        let refused = Step::FollowPfn { pin, vma, page, write };
        if self.held(pin) {
            return Reply::Done;
        }
        let entry = self.state.vmas[vma.index()];
        let Some(id) = self.world.pte(vma, page) else { return self.fail(&refused, Errno::Einval) };
        if entry.mapped & (1 << page) == 0 || !follows(self.world, &entry) {
            return self.fail(&refused, Errno::Einval);
        }
        let pte = self.state.ptes[id.index()];
        if !pte.present() {
            let want = if write { Want::Write } else { Want::Read };
            return self.fault_for_gup(vma, page, want, &refused);
        }
        if self.world.host.follow_pfn == FollowPfn::NoPage && self.normal_page(&entry, &pte) {
            return self.fail(&refused, Errno::Einval);
        }
        if write && !pte.write {
            return self.fail(&refused, Errno::Efault);
        }
        let target = self.target_of(vma, page, id);
        self.state.pins[pin.index()] = Pin {
            slot: self.taken(pin),
            counted: false,
            write,
            get: false,
            frame: pte.frame,
            pte: id,
            target,
        };
        self.emit(Effect::PfnCached(pin, vma, page, pte.frame));
        Reply::Done
    }

    pub(super) fn frame_vector_check(
        &mut self,
        first: PinId,
        count: u8,
        importer: ImporterId,
    ) -> Reply {
        let entries: Vec<PinId> = (first.0..first.0 + count).map(PinId).collect();
        let slot = |state: &State, pin: &PinId| state.pins[pin.index()];
        let failed = entries.iter().any(|pin| slot(self.state, pin).slot != Slot::Taking);
        let pages = entries.iter().filter(|pin| slot(self.state, pin).counted).count();
        let mixed = pages != 0 && pages != entries.len();
        let refuse = importer.is_none()
            || self.world.importer(importer).frame_vector == FrameVector::RefuseMixed;
        if !(failed || mixed && refuse) {
            for pin in entries {
                self.state.pins[pin.index()].slot = Slot::Held;
            }
            return Reply::Done;
        }
        for pin in entries {
            self.unpin(pin);
            self.state.pins[pin.index()].slot = Slot::Failed;
        }
        Reply::Errno(Errno::Efault)
    }

    pub(super) fn unpin(&mut self, pin: PinId) -> Reply {
        let entry = self.state.pins[pin.index()];
        if !matches!(entry.slot, Slot::Held | Slot::Taking | Slot::Invalid) {
            return Reply::Skipped;
        }
        self.state.pins[pin.index()] = Pin { slot: Slot::Dropped, ..EMPTY_PIN };
        self.emit(Effect::Unpinned(pin));
        if entry.counted {
            self.reference_dropped(entry.frame);
        }
        Reply::Done
    }

    /// After an invalidation: fault the page again (`hmm_range_fault`) and take what is there now.
    pub(super) fn revalidate(&mut self, pin: PinId) -> Reply {
        let entry = self.state.pins[pin.index()];
        let (vma, page) = self.world.vma_of(entry.pte);
        let area = self.state.vmas[vma.index()];
        let pte = self.state.ptes[entry.pte.index()];
        let want = if entry.write { Want::Write } else { Want::Read };
        if area.mapped & (1 << page) == 0 || (entry.write && !area.write) {
            self.state.pins[pin.index()].slot = Slot::Failed;
            return Reply::Errno(Errno::Efault);
        }
        if !pte.present() || (entry.write && !pte.write) {
            return match self.fault(vma, page, want) {
                Ok(()) => Reply::Again,
                Err(_) => {
                    self.state.pins[pin.index()].slot = Slot::Failed;
                    Reply::Errno(Errno::Efault)
                }
            };
        }
        let target = self.target_of(vma, page, entry.pte);
        let entry = &mut self.state.pins[pin.index()];
        entry.slot = Slot::Held;
        entry.frame = pte.frame;
        entry.target = target;
        let effect = if entry.counted {
            Effect::Pinned(pin, vma, page, pte.frame, false)
        } else {
            Effect::PfnCached(pin, vma, page, pte.frame)
        };
        self.emit(effect);
        Reply::Again
    }

    /// The target of a device access, for which a private page may have none of its own yet.
    pub(super) fn pin_target(&self, pin: PinId) -> Target {
        self.state.pins[pin.index()].target
    }

    /// `follow_huge_pmd` does not look at `pmd_special`.
    fn slow_takes_marked(&self, vma: &Vma) -> bool {
        vma.buf.is_some()
            && self.world.host.pte_special.yes()
            && self.world.exporter_of(vma.buf).huge == Huge::Special
    }

    /// `vm_normal_page` of a shared mapping: without a special bit VM_PFNMAP alone tells.
    fn normal_page(&self, vma: &Vma, pte: &Pte) -> bool {
        let bit = self.world.host.pte_special.yes();
        !pte.special && self.world.has_page(pte.frame) && (bit || vma.kind != VmaKind::Pfnmap)
    }
}

/// `check_vma_flags`.
fn vma_allows(world: &World, vma: &Vma, foll: Foll) -> bool {
    if vma.kind == VmaKind::Pfnmap || world.is_vm_io(vma) {
        return false;
    }
    if foll.write { vma.write || (foll.force && !vma.shared) } else { vma.read || foll.force }
}

/// Whether `follow_pfn` takes such a mapping.
fn follows(world: &World, vma: &Vma) -> bool {
    // What an aperture's pfn is to another device is not known here.
    world.host.follow_pfn != FollowPfn::No
        && vma.reach != Reach::Aperture
        && (vma.kind == VmaKind::Pfnmap || world.is_vm_io(vma))
}

/// Who is refused for what the VMA is faults nothing, and so waits for no exporter: the flags are looked
/// at with the `mmap_lock` held, and before anything is faulted (`__get_user_pages`, mm/gup.c, 6.12).
impl View<'_> {
    pub(super) fn gup_allowed(&self, vma: VmaId, foll: Foll) -> bool {
        vma_allows(self.world, &self.state.vmas[vma.index()], foll)
    }

    pub(super) fn followed(&self, vma: VmaId) -> bool {
        follows(self.world, &self.state.vmas[vma.index()])
    }
}

/// A mapping of a buffer, and a get_user_pages that is asked of it.
#[derive(Clone, Copy, Debug)]
pub struct GupQuestion<'a> {
    /// The kernel.
    pub host: &'a HostRules,
    /// The buffer's exporter.
    pub exporter: &'a ExporterRules,
    /// The importer whose file is mapped; none for the dma-buf's own.
    pub importer: Option<&'a ImporterRules>,
    /// Where the buffer is.
    pub placement: Placement,
    /// The buffer's size in pages, all of which are mapped.
    pub pages: u8,
    /// MAP_SHARED.
    pub shared: bool,
    /// Through the DRM node.
    pub node: bool,
    /// The process has written to the page, and asks for FOLL_WRITE; else it has read it.
    pub write: bool,
}

/// What comes of a [`GupQuestion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GupAnswer {
    /// mmap is refused, or the access is not served: there is nothing to pin.
    NotMapped(Errno),
    /// get_user_pages refuses.
    Refused(Errno),
    /// The page is pinned.
    Pinned,
}

impl<'a> GupQuestion<'a> {
    /// A page of a shared mapping, written before.
    #[must_use]
    pub const fn new(host: &'a HostRules, exporter: &'a ExporterRules) -> Self {
        let placement = Placement::System;
        let (importer, pages, shared, node, write) = (None, 1, true, false, true);
        Self { host, exporter, importer, placement, pages, shared, node, write }
    }

    /// What get_user_pages answers where it refuses, or mmap or the access before it.
    #[must_use]
    pub fn refusal(&self) -> Option<Errno> {
        match self.answer() {
            GupAnswer::NotMapped(errno) | GupAnswer::Refused(errno) => Some(errno),
            GupAnswer::Pinned => None,
        }
    }

    /// What comes of it. Asked of the steps themselves.
    #[must_use]
    pub fn answer(&self) -> GupAnswer {
        // There is room for what is in it.
        self.ask().unwrap_or(GupAnswer::NotMapped(Errno::Enomem))
    }

    fn ask(&self) -> Result<GupAnswer, TooMany> {
        let mut world = World::new(self.host.clone());
        // For the buffer, and for what stands in for it.
        world.add_frames(self.placement, usize::from(self.pages))?;
        world.add_frames(Placement::System, 2 * usize::from(self.pages))?;
        let exporter = world.add_exporter(self.exporter.clone())?;
        let via = match self.importer {
            Some(rules) => world.add_importer(rules.clone())?,
            None => ImporterId::NONE,
        };
        let buf = world.add_buf(exporter, self.pages, self.placement, true, 0)?;
        let actor = world.add_actor()?;
        let vma = world.add_vma(actor, self.pages, buf, !self.shared)?;
        let pin = world.add_pin(Notifier::None, false)?;
        let mut state = State::new(&world);
        let foll = Foll { write: self.write, ..Foll::default() };
        let (page, read, write) = (0, true, true);
        let (shared, node) = (self.shared, self.node);
        let mmap = Mmap { vma, buf, offset: 0, shared, read, write, via, node };
        let touch =
            if self.write { Step::Store { vma, page, value: 1 } } else { Step::Load { vma, page } };
        let steps = [
            Step::Mmap(mmap),
            touch,
            Step::GupFast { pin, vma, page, foll },
            Step::GupSlow { pin, vma, page, foll },
        ];
        for taken in steps {
            // A fault, and an entry that is read-only at first.
            for _ in 0..4 {
                match step(&world, &mut state, actor, &taken, &mut ()) {
                    Reply::Again => {}
                    Reply::Errno(errno) if matches!(taken, Step::GupSlow { .. }) => {
                        return Ok(GupAnswer::Refused(errno));
                    }
                    Reply::Errno(errno) => return Ok(GupAnswer::NotMapped(errno)),
                    Reply::Signal(_) => return Ok(GupAnswer::NotMapped(Errno::Efault)),
                    Reply::Done | Reply::Value(_) | Reply::Skipped => break,
                }
            }
        }
        let held = state.pins[pin.index()].slot == Slot::Held;
        Ok(if held { GupAnswer::Pinned } else { GupAnswer::Refused(Errno::Efault) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_the_rule_mmap() {
        for (mmap, refusal) in [
            (MmapKind::Pfnmap, Some(Errno::Efault)),
            (MmapKind::MixedmapInsertPfn, Some(Errno::Efault)),
            (MmapKind::MixedmapInsertPage, None),
            (MmapKind::Shmem, None),
            (MmapKind::RemapPfnRange, Some(Errno::Efault)),
            // The fast path leaves it to the slow one, which sees VM_PFNMAP.
            (MmapKind::PfnmapUnmarked, Some(Errno::Efault)),
        ] {
            let rules = ExporterRules { mmap, ..ExporterRules::default() };
            assert_eq!(
                GupQuestion::new(&HostRules::default(), &rules).refusal(),
                refusal,
                "{mmap}"
            );
        }
        for gup_fast in [GupFast::Any, GupFast::ShortTerm] {
            let host = HostRules { gup_fast, ..HostRules::default() };
            let rules =
                ExporterRules { mmap: MmapKind::PfnmapUnmarked, ..ExporterRules::default() };
            assert_eq!(GupQuestion::new(&host, &rules).refusal(), None);
        }
    }
}
