//! What one step did, in the kernel's nouns.

use crate::model::{
    Cost, Dir, Effect, ExporterStep, FollowPfn, Handle, Life, MmapKind, Operation, Owner, Pte,
    Reach, Reply, Slot, State, Step, SyncForward, Vma, VmaKind, YesNo,
};
use crate::question::scenario::{Action, Scenario, ScheduleStep};
use crate::units::{BufId, FrameId, ImporterId, PinId, SgId, VmaId};

/// Tells the steps of one scenario.
#[derive(Debug, Clone, Copy)]
pub(super) struct Teller<'a> {
    pub(super) scenario: &'a Scenario,
}

impl<'a> Teller<'a> {
    pub(super) fn frame(self, frame: FrameId) -> String {
        self.scenario.names.frame(&self.scenario.world, frame)
    }

    /// `v[0]`.
    pub(super) fn place(self, vma: VmaId, page: u8) -> String {
        format!("{}[{page}]", self.scenario.names.vma(vma))
    }

    pub(super) fn buf(self, buf: BufId) -> &'a str {
        self.scenario.names.buf(buf)
    }

    pub(super) fn frames(self, frames: impl Iterator<Item = FrameId>) -> String {
        frames.map(|frame| self.frame(frame)).collect::<Vec<_>>().join(", ")
    }

    fn pin(self, pin: PinId) -> &'a str {
        self.scenario.names.pin(pin)
    }

    pub(super) fn handle(self, handle: Handle, page: u8) -> String {
        match handle {
            Handle::Pin(pin) => self.pin(pin).to_owned(),
            Handle::Sg(sg) => format!("{}[{page}]", self.scenario.names.sg(sg)),
        }
    }

    /// What the step of `event` did, given the state before it.
    #[expect(clippy::too_many_lines, reason = "one arm a step, nothing to share")]
    pub(super) fn tell(self, before: &State, event: &ScheduleStep) -> String {
        let instruction = &self.scenario.programs[event.actor].instructions[event.pc];
        let Action::Step(step) = &instruction.action else {
            return "await: it has finished".to_owned();
        };
        let after = &event.after.model;
        if let Reply::Errno(errno) = event.reply {
            let what = self.refused(before, step);
            return what.map_or_else(
                || format!("{}: {errno}", operation(step)),
                |why| format!("{}: {errno} ({why})", operation(step)),
            );
        }
        if event.reply == Reply::Skipped {
            return format!("{}: nothing to do", operation(step));
        }
        if let Some(waits) = self.gets_in_line(before, after, event.actor) {
            return waits;
        }
        let mut text = match *step {
            Step::Mmap(mmap) => self.mmap(&after.vmas[mmap.vma.index()], mmap.via),
            Step::Munmap { .. } => {
                let gone = self.zapped(event);
                let flushed = self.flushed(event);
                if gone.is_empty() {
                    "munmap".to_owned()
                } else {
                    format!("munmap: zap {gone}{flushed}")
                }
            }
            Step::FreePgtables(vma) => {
                let vma = self.scenario.names.vma(vma);
                format!("munmap: unlink_file_vma: a zap finds {vma} no more")
            }
            Step::FinishMmu(_) => format!("munmap: tlb_finish_mmu{}", self.flushed(event)),
            Step::Mremap { .. } => "mremap: move_page_tables".to_owned(),
            Step::Mprotect { .. } if event.effects.is_empty() => "mprotect: as it was".to_owned(),
            Step::Mprotect { write: true, .. } => "mprotect: VM_WRITE".to_owned(),
            Step::Mprotect { .. } => "mprotect: no VM_WRITE".to_owned(),
            Step::Load { .. } | Step::Store { .. } => self.access(after, event),
            Step::GupFast { vma, page, .. } => self.gup_fast(before, event, vma, page),
            Step::GupSlow { .. } => self.gup_slow(after, event),
            Step::FollowPfn { .. } => self.follow_pfn(after, event),
            Step::FrameVectorCheck { count, .. } => {
                format!("get_vaddr_frames: {count} entries")
            }
            Step::Unpin(pin) => self.unpin(before, pin),
            Step::Attach { attachment, dynamic, .. } => {
                let buf = self.buf(after.attachments[attachment.index()].buf);
                let call = if dynamic { "dma_buf_dynamic_attach" } else { "dma_buf_attach" };
                format!("{call}: {buf}")
            }
            Step::Detach(_) => "dma_buf_detach".to_owned(),
            Step::Map(sg) => {
                let moves =
                    event.effects.iter().any(|effect| matches!(effect, Effect::Rebound(..)));
                let moved = if moves { "ttm_bo_validate moves the buffer; " } else { "" };
                format!("map_attachment: {moved}{}", self.sg(after, sg))
            }
            Step::Unmap(_) => "unmap_attachment".to_owned(),
            Step::Validate { sg, .. } => self.validate(after, event, sg),
            Step::Submit { usage, .. } => {
                let usage = usage.word().to_uppercase();
                let gives = |effect: &Effect| matches!(effect, Effect::Locked(_, false));
                let unlock = if event.effects.iter().any(gives) { "; unlock" } else { "" };
                format!("dma_resv_add_fence: {usage}{unlock}")
            }
            Step::Signal(_) => "dma_fence_signal".to_owned(),
            Step::DmaStart { via, page, .. } => self.dma_start(after, event, via, page),
            Step::DmaFinish { .. } => self.dma_finish(event),
            Step::DmaBufPin(_) => "dma_buf_pin".to_owned(),
            Step::DmaBufUnpin(_) => "dma_buf_unpin".to_owned(),
            Step::SyncStart { via, .. } => self.sync("begin_cpu_access", via, event),
            Step::SyncEnd { via, .. } => self.sync("end_cpu_access", via, event),
            Step::Exporter { buf, step, page, operation } => {
                self.exporter(before, event, buf, step, page, operation)
            }
            Step::Alloc(_) => format!("alloc: {}", self.filled(event)),
            Step::Close(_) => "close".to_owned(),
            Step::Fork { .. } => self.fork(event),
            Step::EvictCache(_) => self.cache("evict: ", event),
            Step::FlushTlb(sg) => {
                format!("flush the device's TLB: {}", self.scenario.names.sg(sg))
            }
            Step::ResvLock(buf) => format!("dma_resv_lock: {}", self.buf(buf)),
            Step::ResvUnlock(buf) => format!("dma_resv_unlock: {}", self.buf(buf)),
            Step::DrawTicket => "ww_acquire_init: a ticket".to_owned(),
            Step::LockAll(_) => self.locks(before, event),
            Step::MmapLock { mm, write: true } => format!("mmap_write_lock of {mm:?}"),
            Step::MmapLock { mm, .. } => format!("mmap_read_lock of {mm:?}"),
            Step::MmapUnlock(mm) => format!("mmap_unlock of {mm:?}"),
        };
        self.aftermath(step, event, &mut text);
        text
    }

    /// The next of several reservations, or all of them given back for an older ticket.
    fn locks(self, before: &State, event: &ScheduleStep) -> String {
        let contended = |state: &State| state.tickets.get(event.actor).map(|own| own.contended);
        let (was, now) = (contended(before), contended(&event.after.model));
        let given = event.effects.iter().filter_map(|effect| {
            if let Effect::Locked(buf, false) = effect { Some(self.buf(*buf)) } else { None }
        });
        if let Some(buf) = now.filter(|now| now.is_some() && was != Some(*now)) {
            let given = given.collect::<Vec<_>>().join(", ");
            return format!("dma_resv_lock: {}: EDEADLK; unlock {given}", self.buf(buf));
        }
        let call =
            if was.is_some_and(BufId::is_some) { "dma_resv_lock_slow" } else { "dma_resv_lock" };
        let taken = event.effects.iter().find_map(|effect| {
            if let Effect::Locked(buf, true) = effect { Some(self.buf(*buf)) } else { None }
        });
        format!("{call}: {}", taken.unwrap_or("all are held"))
    }

    /// Of a step that only gets in line for an `mmap_lock`, or begins to wait with it held.
    fn gets_in_line(self, before: &State, after: &State, actor: usize) -> Option<String> {
        let new = |was: u16, is: u16| is & !was & 1 << actor != 0;
        let mut locks = before.mms.iter().zip(after.mms.iter()).enumerate();
        locks.find_map(|(mm, (was, is))| {
            if new(was.faults, is.faults) {
                return Some(format!("fault: mmap_read_lock of P{mm}, waits for the exporter"));
            }
            new(was.queued, is.queued).then(|| format!("mmap_write_lock of P{mm}: waits in line"))
        })
    }

    /// What came of it beside the step's own purpose: buffers released, frames freed, warnings.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line names the effects that have words; nothing is decided by it"
    )]
    fn aftermath(self, step: &Step, event: &ScheduleStep, text: &mut String) {
        let own = matches!(step, Step::Exporter { step: ExporterStep::Free, .. });
        let life = |buf: BufId| event.after.model.bufs[buf.index()].life;
        let (mut notes, mut freed) = (Vec::new(), Vec::new());
        for effect in &event.effects {
            match *effect {
                Effect::LifeChanged(buf) if life(buf) == Life::Released => {
                    notes.insert(0, format!("last reference to {}", self.buf(buf)));
                }
                Effect::FrameFreed(frame) if !own => {
                    freed.push(self.frame(frame));
                }
                Effect::FrameOrphaned(frame) if !own => {
                    notes.push(format!("put {}: references remain", self.frame(frame)));
                }
                Effect::PinInvalidated(pin) => {
                    notes.push(format!("mmu notifier: {} invalid", self.pin(pin)));
                }
                Effect::Warned(what) => notes.push(what.to_owned()),
                _ => {}
            }
        }
        if !freed.is_empty() {
            notes.push(format!("free {}", freed.join(", ")));
        }
        for note in notes {
            text.push_str(if text.contains(": ") { "; " } else { ": " });
            text.push_str(&note);
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line names the effects that have words; nothing is decided by it"
    )]
    fn refused(self, before: &State, step: &Step) -> Option<String> {
        match *step {
            Step::GupSlow { vma, page, foll, .. } => {
                let entry = &before.vmas[vma.index()];
                let may_write = entry.write || foll.force && !entry.shared;
                let may_read = entry.read || foll.force;
                let pte = self.scenario.world.pte(vma, page).map(|pte| before.ptes[pte.index()]);
                Some(if entry.mapped & (1 << page) == 0 {
                    "no VMA".to_owned()
                } else if entry.kind == VmaKind::Pfnmap {
                    "VM_PFNMAP".to_owned()
                } else if self.scenario.world.is_vm_io(entry) {
                    "VM_IO".to_owned()
                } else if foll.write && !may_write {
                    "check_vma_flags: no VM_WRITE".to_owned()
                } else if !foll.write && !may_read {
                    "check_vma_flags: no VM_READ".to_owned()
                } else if pte.is_some_and(|pte| pte.present() && pte.special) {
                    "special PTE: vm_normal_page is NULL".to_owned()
                } else {
                    return None;
                })
            }
            Step::FollowPfn { vma, page, .. } => {
                let entry = &before.vmas[vma.index()];
                Some(if entry.mapped & (1 << page) == 0 {
                    "no VMA".to_owned()
                } else if self.scenario.world.host.follow_pfn == FollowPfn::No {
                    "no follow_pfn in this kernel".to_owned()
                } else if entry.kind == VmaKind::Pfnmap || self.scenario.world.is_vm_io(entry) {
                    if self.scenario.world.host.follow_pfn == FollowPfn::Yes {
                        return None;
                    }
                    "vm_normal_page finds a page".to_owned()
                } else {
                    "neither VM_IO nor VM_PFNMAP".to_owned()
                })
            }
            Step::Exporter { buf, step: ExporterStep::CheckPins, .. } => {
                let pins = before.bufs[buf.index()].pins;
                Some(if pins > 0 {
                    format!("dma_buf_pin count {pins}")
                } else {
                    "page pins".to_owned()
                })
            }
            _ => None,
        }
    }

    fn mmap(self, vma: &Vma, via: ImporterId) -> String {
        let kind = vma_kind(vma);
        let file = match vma.reach {
            _ if via.is_none() => "",
            Reach::Exporter => ", vm_file is the dma-buf's",
            Reach::WrongPgoff => ", vm_pgoff without the fake offset",
            Reach::Importer => ", vm_file stays the importer's",
            Reach::Shadow => ", the importer's shadow pages",
            Reach::SgTable => ", the pages of the importer's sg_table",
            Reach::Aperture => ", the importer's aperture",
            Reach::Anon => "",
        };
        let sharing = if vma.shared { "" } else { ", private" };
        format!("mmap: {kind}{sharing}{file}")
    }

    /// The fault that was served: who installed what.
    fn fault(self, after: &State, event: &ScheduleStep) -> Option<String> {
        let faulted = event.effects.iter().find_map(|effect| {
            let Effect::Faulted(vma, page, pte) = effect else { return None };
            Some((*vma, *page, *pte))
        });
        let (vma, page, pte) = faulted?;
        let copied = event.effects.iter().find_map(|effect| {
            let Effect::CowCopied { from, .. } = effect else { return None };
            Some(*from)
        });
        let at = self.place(vma, page);
        let to = self.frame(pte.frame);
        Some(match copied {
            Some(from) if from.is_none() => format!("do_anonymous_page {at} -> {to}"),
            Some(from) => format!("wp_page_copy {at}: {} -> {to}", self.frame(from)),
            None if after.frames[pte.frame.index()].owner == Owner::Zero => {
                format!("do_anonymous_page {at} -> {to}")
            }
            None if pte.own => format!("wp_page_reuse {at} -> {to}"),
            None if pte.huge => {
                let special = if pte.special { ", special" } else { "" };
                format!("vmf_insert_pfn_pmd {}{special}", self.scenario.names.vma(vma))
            }
            None => format!("{} {at} -> {to}", self.insert(after, vma, &pte)),
        })
    }

    /// The function that installs an entry.
    fn insert(self, state: &State, vma: VmaId, pte: &Pte) -> &'static str {
        let entry = &state.vmas[vma.index()];
        if entry.buf.is_none() {
            return "do_anonymous_page";
        }
        if entry.reach == Reach::Shadow {
            return "shmem_fault";
        }
        if matches!(entry.reach, Reach::SgTable | Reach::Aperture) {
            return "the importer's fault handler";
        }
        match self.scenario.world.exporter_of(entry.buf).mmap {
            MmapKind::Pfnmap => "vmf_insert_pfn",
            MmapKind::MixedmapInsertPfn if pte.special => "vmf_insert_mixed",
            MmapKind::MixedmapInsertPfn => "vmf_insert_mixed (counted page)",
            MmapKind::MixedmapInsertPage => "vmf_insert_page",
            MmapKind::Shmem => "shmem_fault",
            MmapKind::RemapPfnRange => "remap_pfn_range",
            MmapKind::PfnmapUnmarked => "finish_fault",
        }
    }

    /// `; the TLBs forget v`.
    fn flushed(self, event: &ScheduleStep) -> String {
        let vmas = event.effects.iter().filter_map(|effect| {
            let Effect::CpuTlbFlushed(vma) = effect else { return None };
            Some(format!("; the TLBs forget {}", self.scenario.names.vma(*vma)))
        });
        vmas.collect()
    }

    fn access(self, after: &State, event: &ScheduleStep) -> String {
        if let Reply::Signal(signal) = event.reply {
            return match signal {
                crate::model::Signal::Oops => "fault: kernel BUG in vmf_insert_pfn".to_owned(),
                crate::model::Signal::Sigbus | crate::model::Signal::Sigsegv => {
                    format!("fault: {signal}")
                }
            };
        }
        let stale = event.effects.iter().any(|effect| matches!(effect, Effect::TlbHit(..)));
        let by = if stale { ", by a TLB entry that was not flushed" } else { "" };
        for effect in &event.effects {
            if let Effect::Loaded(_, _, frame, value) = *effect {
                return format!("reads {value} from {}{by}", self.frame(frame));
            } else if let Effect::Stored(_, _, frame, value) = *effect {
                let cached = after.frames[frame.index()].dirty;
                let where_to = if cached { "the cache line of " } else { "" };
                return format!("{value} -> {where_to}{}{by}", self.frame(frame));
            }
        }
        let fault = self.fault(after, event).unwrap_or_else(|| "refill".to_owned());
        format!("fault: {fault}")
    }

    fn gup_fast(self, before: &State, event: &ScheduleStep, vma: VmaId, page: u8) -> String {
        if let Some(frame) = pinned(event) {
            return format!("gup_fast: takes {}", self.frame(frame));
        }
        let pte = self.scenario.world.pte(vma, page).map(|pte| before.ptes[pte.index()]);
        let why = match pte {
            _ if self.scenario.world.host.pte_special == YesNo::No => {
                "no gup_fast without pte_special"
            }
            Some(pte) if !pte.present() => "no entry",
            Some(pte) if pte.special => "special entry",
            Some(pte) if !pte.write => "entry is read-only",
            _ => "not to be taken as it is",
        };
        format!("gup_fast: {why}, slow path")
    }

    fn gup_slow(self, after: &State, event: &ScheduleStep) -> String {
        if let Some(frame) = pinned(event) {
            return format!("gup: vm_normal_page {}, pinned", self.frame(frame));
        }
        if let Reply::Signal(signal) = event.reply {
            return format!("gup: {signal}");
        }
        if event.reply == Reply::Again {
            let migrated = event.effects.iter().find_map(|effect| {
                let Effect::FrameCopied { from, to } = effect else { return None };
                Some((*from, *to))
            });
            if let Some((from, to)) = migrated {
                return format!("gup: migrate_pages {} -> {}", self.frame(from), self.frame(to));
            }
            let fault = self.fault(after, event).unwrap_or_else(|| "refill".to_owned());
            return format!("gup: faultin_page: {fault}");
        }
        "gup: returns 1 page".to_owned()
    }

    fn follow_pfn(self, after: &State, event: &ScheduleStep) -> String {
        let cached = event.effects.iter().find_map(|effect| {
            let Effect::PfnCached(_, _, _, frame) = effect else { return None };
            Some(*frame)
        });
        match cached {
            Some(frame) => format!("follow_pfn: the pfn of {}", self.frame(frame)),
            None if event.reply == Reply::Again => {
                let fault = self.fault(after, event).unwrap_or_else(|| "refill".to_owned());
                format!("fixup_user_fault: {fault}")
            }
            None => "follow_pfn: not needed, the page is pinned".to_owned(),
        }
    }

    fn unpin(self, before: &State, pin: PinId) -> String {
        let entry = &before.pins[pin.index()];
        let frame = self.frame(entry.frame);
        if entry.counted { format!("unpin_user_page {frame}") } else { format!("forgets {frame}") }
    }

    fn sg(self, state: &State, sg: SgId) -> String {
        let buf = state.attachments[self.scenario.world.attachment_of(sg).index()].buf;
        let first = sg.index() * crate::units::MAX_PAGES;
        let pages = if buf.is_none() { 0 } else { usize::from(self.scenario.world.buf(buf).pages) };
        self.frames(state.sg_frames[first..first + pages].iter().copied())
    }

    fn validate(self, after: &State, event: &ScheduleStep, sg: SgId) -> String {
        let mapped = event.effects.iter().any(|effect| matches!(effect, Effect::SgMapped(_)));
        let takes = |effect: &Effect| matches!(effect, Effect::Locked(_, true));
        let lock =
            if event.effects.iter().any(takes) { "dma_resv_lock" } else { "dma_resv is held" };
        if mapped { format!("{lock}; map again: {}", self.sg(after, sg)) } else { lock.to_owned() }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line names the effects that have words; nothing is decided by it"
    )]
    fn dma_start(self, after: &State, event: &ScheduleStep, via: Handle, page: u8) -> String {
        for effect in &event.effects {
            match *effect {
                Effect::DmaStarted(via, page, frame, _) => {
                    let name = self.handle(via, page);
                    return format!("dma: translate {name} -> {}", self.frame(frame));
                }
                Effect::SgMapped(sg) => {
                    return format!("dma: map again: {}", self.sg(after, sg));
                }
                Effect::Pinned(_, _, _, frame, _) | Effect::PfnCached(_, _, _, frame) => {
                    return format!("dma: fault again: {}", self.frame(frame));
                }
                _ => {}
            }
        }
        match self.fault(after, event) {
            Some(fault) => format!("dma: fault again: {fault}"),
            None => format!("dma: translate {}", self.handle(via, page)),
        }
    }

    fn dma_finish(self, event: &ScheduleStep) -> String {
        let done = event.effects.iter().find_map(|effect| {
            let Effect::DmaFinished(_, _, frame, dir, value) = *effect else { return None };
            Some((frame, dir, value))
        });
        match done {
            Some((frame, Dir::Write(_), value)) => {
                format!("dma: transfer {value} -> {}", self.frame(frame))
            }
            Some((frame, Dir::Read, value)) => {
                format!("dma: transfer {value} <- {}", self.frame(frame))
            }
            Some((frame, Dir::Prefetch, _)) => {
                format!("dma: prefetch from {}, discarded", self.frame(frame))
            }
            None => "dma: transfer".to_owned(),
        }
    }

    pub(super) fn cache(self, prefix: &str, event: &ScheduleStep) -> String {
        let mut parts = Vec::new();
        for effect in &event.effects {
            if let Effect::CacheWrittenBack(frame, value) = *effect {
                parts.push(format!("write back {value} -> {}", self.frame(frame)));
            } else if let Effect::CacheDropped(frame) = *effect {
                parts.push(format!("invalidate {}", self.frame(frame)));
            }
        }
        let what = if parts.is_empty() { "no cache lines".to_owned() } else { parts.join(", ") };
        format!("{prefix}{what}")
    }

    fn sync(self, call: &str, via: ImporterId, event: &ScheduleStep) -> String {
        if via.is_some() && self.scenario.world.importer(via).sync == SyncForward::Dropped {
            return "SYNC ends at the importer".to_owned();
        }
        self.cache(&format!("{call}: "), event)
    }

    fn fork(self, event: &ScheduleStep) -> String {
        let copied = event.effects.iter().filter(|e| matches!(e, Effect::Faulted(..))).count();
        format!("fork: {copied} entries copied")
    }
}

fn pinned(event: &ScheduleStep) -> Option<FrameId> {
    event.effects.iter().find_map(|effect| {
        let Effect::Pinned(_, _, _, frame, _) = effect else { return None };
        Some(*frame)
    })
}

/// `VM_PFNMAP` and so on.
pub(super) fn vma_kind(vma: &Vma) -> &'static str {
    match vma.kind {
        VmaKind::Pfnmap => "VM_PFNMAP",
        VmaKind::Mixedmap => "VM_MIXEDMAP",
        VmaKind::Normal if vma.buf.is_none() => "anonymous",
        VmaKind::Normal => "ordinary shmem VMA",
    }
}

pub(super) const fn operation_word(operation: Operation) -> &'static str {
    match operation {
        Operation::Move(_) => "move",
        Operation::Purge => "purge",
        Operation::Revoke => "revoke",
    }
}

/// The operation that a step belongs to, as its errno is reported.
fn operation(step: &Step) -> &'static str {
    match step {
        Step::Mmap(_) => "mmap",
        Step::Munmap { .. } | Step::FreePgtables(_) | Step::FinishMmu(_) => "munmap",
        Step::Mremap { .. } => "mremap",
        Step::Mprotect { .. } => "mprotect",
        Step::Load { .. } => "load",
        Step::Store { .. } => "store",
        Step::GupFast { .. } => "gup_fast",
        Step::GupSlow { .. } => "gup",
        Step::FollowPfn { .. } => "follow_pfn",
        Step::FrameVectorCheck { .. } => "get_vaddr_frames",
        Step::Unpin(_) => "unpin",
        Step::Attach { .. } => "attach",
        Step::Detach(_) => "detach",
        Step::Map(_) => "map_attachment",
        Step::Unmap(_) => "unmap_attachment",
        Step::Validate { .. } | Step::Submit { .. } => "submit",
        Step::Signal(_) => "dma_fence_signal",
        Step::DmaStart { .. } | Step::DmaFinish { .. } => "dma",
        Step::DmaBufPin(_) => "dma_buf_pin",
        Step::DmaBufUnpin(_) => "dma_buf_unpin",
        Step::SyncStart { .. } => "begin_cpu_access",
        Step::SyncEnd { .. } => "end_cpu_access",
        Step::Exporter { operation, .. } => operation_word(*operation),
        Step::Alloc(_) => "alloc",
        Step::Close(_) => "close",
        Step::Fork { .. } => "fork",
        Step::EvictCache(_) => "evict",
        Step::FlushTlb(_) => "flush_tlb",
        Step::ResvLock(_) => "dma_resv_lock",
        Step::ResvUnlock(_) => "dma_resv_unlock",
        Step::DrawTicket => "ww_acquire_init",
        Step::LockAll(_) => "dma_resv_lock",
        Step::MmapLock { .. } => "mmap_lock",
        Step::MmapUnlock(_) => "mmap_unlock",
    }
}

/// What a slot holds, in a word.
pub(super) const fn slot_word(slot: Slot) -> &'static str {
    match slot {
        Slot::None => "none",
        Slot::Held => "held",
        Slot::Taking => "being taken",
        Slot::Invalid => "invalid",
        Slot::Failed => "refused",
        Slot::Dropped => "dropped",
    }
}

/// `3 zapped-ptes` for the costs of a step, or nothing.
pub(super) fn costs(event: &ScheduleStep, wanted: &[Cost]) -> Vec<String> {
    let of = |effect: &Effect| {
        if let Effect::Cost(cost, count) = effect
            && wanted.contains(cost)
        {
            Some(format!("{count} {}", cost.word()))
        } else {
            None
        }
    };
    event.effects.iter().filter_map(of).collect()
}
