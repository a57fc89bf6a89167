//! Each step of the model as what a driver, a device or a program does in a kernel.

use super::super::command::{Command, LabMap};
use super::super::conduct::Halt;
use super::super::executor::Sabotage;
use super::Bench;
use super::expect::{self, Expect};
use crate::model::{
    self, Effect, ExporterStep, Foll, Mmap, Notifier, Operation, Owner, Reply, Signal, Slot, State,
    Step,
};
use crate::question::scenario::ScheduleStep;
use crate::uapi::lab::{
    FOLL_FAST, FOLL_LONGTERM, FOLL_NO_PAGE, FOLL_NOFAULT, FOLL_PROBE, FOLL_WATCH, IMPORT_NODE, Op,
    Step as LabStep,
};
use crate::units::{ActorId, BufId, FrameId, PageSet, PinId, VmaId};

/// The arguments of a step of the module.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Call {
    pub(super) obj: u8,
    pub(super) page: u8,
    pub(super) flags: u16,
    pub(super) slot: u16,
    pub(super) value: u8,
}

impl Bench<'_> {
    /// Take a step and compare its answer.
    pub(super) fn take(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        step: &Step,
    ) -> Result<(), Halt> {
        let actor = event.actor;
        self.is_one_call(before, event, step)?;
        self.hand_out(event, step)?;
        self.faults_go_on(before, &event.after.model)?;
        let me = 1_u16.checked_shl(u32::try_from(actor).unwrap_or(u32::MAX)).unwrap_or(0);
        if event.reply == Reply::Again
            && event.after.model.mms.iter().any(|lock| (lock.faults | lock.queued) & me != 0)
        {
            return self.waits(before, event, step);
        }
        match *step {
            Step::Mmap(mmap) => self.mmap(event, &mmap),
            Step::Munmap { vma, pages } => self.munmap(before, vma, pages),
            Step::Mremap { to, from } => self.mremap(event, to, from),
            Step::Mprotect { vma, write } => self.mprotect(event, vma, write),
            Step::Load { vma, page } => self.access(event, vma, page, None),
            Step::Store { vma, page, value } => self.access(event, vma, page, Some(value)),
            Step::GupFast { pin, vma, page, foll } => {
                self.gup_fast(before, event, pin, (vma, page), foll)
            }
            Step::GupSlow { pin, vma, page, foll } => {
                self.gup_slow(before, event, pin, (vma, page), foll)
            }
            Step::FollowPfn { pin, vma, page, write } => {
                self.follow_pfn(event, pin, (vma, page), write)
            }
            Step::FrameVectorCheck { .. } | Step::Unpin(_) => self.unpinned(event),
            Step::Fork { child, .. } => {
                let parent = self.scenario.world.mm(ActorId::at(actor));
                self.team.fork(parent.index(), child.index())?;
                Ok(())
            }
            Step::Exporter { buf, step, page, operation } => {
                self.exporter(before, event, buf, (step, page, operation))
            }
            Step::LockAll(_) => self.locks_all(before, event),
            Step::FlushTlb(sg) => self.on_object(event, Op::FlushTlb, sg.0),
            Step::ResvLock(_)
            | Step::ResvUnlock(_)
            | Step::DrawTicket
            | Step::MmapLock { .. }
            | Step::MmapUnlock(_) => self.takes_lock(before, event, step),
            // munmap(2) was one call.
            Step::FreePgtables(_) | Step::FinishMmu(_) => Ok(()),
            Step::Alloc(_) | Step::EvictCache(_) => Ok(()),
            Step::Close(buf) if event.reply == Reply::Done => {
                self.lab(actor, Op::Close, Call { obj: buf.0, ..Call::default() }, Expect::Done)
            }
            Step::Close(_) => Ok(()),
            Step::Attach { attachment, buf, via, dynamic } => {
                self.attach(before, event, attachment, (buf, via), dynamic)
            }
            Step::Detach(attachment) => self.on_object(event, Op::Detach, attachment.0),
            Step::Map(sg) => self.map(event, sg),
            Step::Unmap(sg) => self.on_object(event, Op::Unmap, sg.0),
            Step::Validate { sg, .. } => self.validate(before, event, sg),
            Step::Submit { fence, sg, usage, .. } => self.submit(before, event, (fence, usage), sg),
            Step::Signal(fence) => self.on_object(event, Op::Signal, fence.0),
            Step::DmaBufPin(attachment) => self.on_object(event, Op::Pin, attachment.0),
            Step::DmaBufUnpin(attachment) => self.on_object(event, Op::Unpin, attachment.0),
            Step::SyncStart { buf, access, via } => {
                self.sync(before, event, Op::SyncStart, (buf, access, via))
            }
            Step::SyncEnd { buf, access, via } => {
                self.sync(before, event, Op::SyncEnd, (buf, access, via))
            }
            Step::DmaStart { via, page, .. } => self.dma_start(before, event, via, page),
            Step::DmaFinish { dir, .. } => self.dma_finish(before, event, dir),
        }
    }

    /// A step of the module by a process, and what it has to answer.
    pub(super) fn lab(
        &mut self,
        actor: usize,
        op: Op,
        call: Call,
        expect: Expect,
    ) -> Result<(), Halt> {
        let Call { obj, page, flags, slot, value } = call;
        self.ask(
            actor,
            Command::Lab { op, obj, page, flags, slot, value },
            expect,
            &op_in_words(op),
        )
    }

    fn ask(
        &mut self,
        actor: usize,
        command: Command,
        expect: Expect,
        what: &str,
    ) -> Result<(), Halt> {
        let answer = self.ask_one(actor, command)?;
        if expect.fits(answer) {
            return Ok(());
        }
        Err(self.disagree(&format!("P{actor}, {what}"), expect.describe(), answer.describe()))
    }

    /// Frames that the step hands out: which ones is luck in a kernel, and comes from the model.
    fn hand_out(&mut self, event: &ScheduleStep, step: &Step) -> Result<(), Halt> {
        let after = &event.after.model;
        let chosen = event.effects.iter().find_map(|effect| {
            let Effect::FrameFilled(frame, Owner::Anon, _) = *effect else { return None };
            Some(frame)
        });
        if chosen.is_some_and(|frame| known_by_address(after, frame)) {
            let why = "which page a process is given that a device still has the address of, the kernel chooses";
            return Err(Halt::Inexpressible(why.to_owned()));
        }
        if let (Step::Alloc(buf), Reply::Done) = (step, event.reply) {
            self.export(after, *buf)?;
        }
        for effect in &event.effects {
            if let Effect::FrameFilled(frame, Owner::Page(page) | Owner::Shadow(page), value) =
                *effect
            {
                self.fill(frame, value)?;
                let world = &self.scenario.world;
                let shadow = after.pages[page.index()].shadow == frame;
                let op = if shadow { Op::Shadow } else { Op::Bind };
                let bind = LabStep {
                    obj: world.buf_of(page).0.into(),
                    page: world.page_index(page).into(),
                    value: self.layout.number(frame).into(),
                    ..LabStep::default()
                };
                self.conductor(op, bind)?;
            } else if let Effect::FrameReserved(frame, _) = *effect {
                self.fill(frame, 0)?;
            } else if let Effect::FrameFilled(frame, Owner::Bounce(_), _) = *effect {
                // The kernel's own memory: what is there is seen by who reads it, or when it is copied back.
                self.in_lab[frame.index()] = false;
            }
        }
        Ok(())
    }

    fn mmap(&mut self, event: &ScheduleStep, mmap: &Mmap) -> Result<(), Halt> {
        let world = &self.scenario.world;
        let expect = Expect::refusal(event.reply);
        let importer = if mmap.via.is_some() {
            Some(expect::importer_flags(self.truth.importer(mmap.via).mmap))
        } else {
            mmap.node.then_some(IMPORT_NODE)
        };
        let how = LabMap {
            importer,
            shared: mmap.shared,
            write: mmap.write,
            anonymous: mmap.buf.is_none(),
        };
        let command = Command::LabMap {
            buf: if mmap.buf.is_some() { mmap.buf.0 } else { 0 },
            how,
            slot: self.slot(mmap.vma, 0),
            pages: world.vma_pages(mmap.vma),
            offset: mmap.offset,
        };
        self.ask(event.actor, command, expect, "mmap")
    }

    fn munmap(&mut self, before: &State, vma: VmaId, pages: PageSet) -> Result<(), Halt> {
        let world = &self.scenario.world;
        let gone = before.vmas[vma.index()].mapped & pages;
        let actor = world.mm_of(vma).index();
        for page in (0..world.vma_pages(vma)).filter(|page| gone & (1 << page) != 0) {
            let slot = self.slot(vma, page);
            self.ask(actor, Command::Unmap { slot }, Expect::Done, "munmap")?;
        }
        Ok(())
    }

    fn mremap(&mut self, event: &ScheduleStep, to: VmaId, from: VmaId) -> Result<(), Halt> {
        // Nothing to move, or no room: of our window a process would be told otherwise.
        if event.reply != Reply::Done {
            return Ok(());
        }
        let pages = self.scenario.world.vma_pages(from);
        let (to, from) = (self.slot(to, 0), self.slot(from, 0));
        self.ask(event.actor, Command::LabMove { from, to, pages }, Expect::Done, "mremap")
    }

    fn mprotect(&mut self, event: &ScheduleStep, vma: VmaId, write: bool) -> Result<(), Halt> {
        Halt::if_split(self.scenario, event, vma, write)?;
        let area = &event.after.model.vmas[vma.index()];
        // What is not mapped is a reserved part of our window, which can be.
        let (slot, pages) = (self.slot(vma, 0), area.pages_before_hole());
        if pages == 0 {
            return Ok(());
        }
        let command = Command::Protect { slot, pages, write };
        self.ask(event.actor, command, Expect::Done, "mprotect")
    }

    fn access(
        &mut self,
        event: &ScheduleStep,
        vma: VmaId,
        page: u8,
        store: Option<u8>,
    ) -> Result<(), Halt> {
        let (actor, slot) = (event.actor, self.slot(vma, page));
        let touch = Command::Touch { slot, write: store.is_some() };
        match (event.reply, store) {
            (Reply::Again, _) if self.sabotage == Some(Sabotage::NoFaults) => Ok(()),
            (Reply::Again, _) => self.fault(actor, slot, u16::from(store.is_some())),
            (Reply::Signal(Signal::Oops), _) => {
                let answer = self.ask_one(actor, touch)?;
                Err(self.disagree("the access", "a kernel bug".to_owned(), answer.describe()))
            }
            (Reply::Signal(signal), _) => {
                self.ask(actor, touch, Expect::Signal(signal), "the access")
            }
            (Reply::Value(value), _) => {
                let wrong = self.sabotage == Some(Sabotage::LoadedValues);
                let value = if wrong { !value } else { value };
                self.ask(actor, Command::Load { slot }, Expect::Value(value), "value read")
            }
            (Reply::Done, Some(value)) => {
                self.ask(actor, Command::Store { slot, value }, Expect::Done, "store")
            }
            _ => Ok(()),
        }
    }

    /// `handle_mm_fault`; flags: 1 write, 2 unshare.
    pub(super) fn fault(&mut self, actor: usize, slot: u16, flags: u16) -> Result<(), Halt> {
        self.lab(actor, Op::Fault, Call { slot, flags, ..Call::default() }, Expect::Done)
    }

    fn gup_fast(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        pin: PinId,
        (vma, page): (VmaId, u8),
        foll: Foll,
    ) -> Result<(), Halt> {
        let slot = self.slot(vma, page);
        let taken = event.effects.iter().find_map(|effect| {
            if let Effect::Pinned(of, _, _, frame, true) = *effect
                && of == pin
            {
                Some(frame)
            } else {
                None
            }
        });
        let actor = self.scenario.world.mm_of(vma).index();
        let flags = expect::gup_flags(foll) | self.watch(pin);
        if let Some(frame) = taken {
            if event.after.model.frames[frame.index()].owner == Owner::Anon {
                // By the fast path alone; of FOLL_GET and FOLL_PIN it takes the same pages.
                let flags = (flags | FOLL_PROBE) & !(FOLL_LONGTERM | FOLL_WATCH);
                let call = Call { slot, flags, ..Call::default() };
                self.lab(actor, Op::Gup, call, Expect::Value(1))?;
            }
            let frame = self.expected_page(&event.after.model, frame);
            let flags = flags | FOLL_FAST | FOLL_NOFAULT;
            let call = Call { obj: pin.0, slot, flags, ..Call::default() };
            return self.lab(actor, Op::Gup, call, Expect::Frame(frame));
        }
        // Unsharing is for FOLL_PIN alone, which has no variant that does not go on to the slow path.
        if !foll.get && !foll.write && !before.vmas[vma.index()].shared {
            return Ok(());
        }
        // Nor has FOLL_LONGTERM one, where it is that which the fast path leaves to the slow one.
        if self.short_term && foll.longterm && foll.write {
            return Ok(());
        }
        let flags = (flags | FOLL_PROBE) & !(FOLL_LONGTERM | FOLL_WATCH);
        let call = Call { slot, flags, ..Call::default() };
        self.lab(actor, Op::Gup, call, Expect::Value(0))
    }

    fn gup_slow(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        pin: PinId,
        (vma, page): (VmaId, u8),
        foll: Foll,
    ) -> Result<(), Halt> {
        let slot = self.slot(vma, page);
        let actor = self.scenario.world.mm_of(vma).index();
        let flags = expect::gup_flags(foll) | self.watch(pin);
        let call = Call { obj: pin.0, slot, flags, ..Call::default() };
        let present = self
            .scenario
            .world
            .pte(vma, page)
            .is_some_and(|pte| before.ptes[pte.index()].present());
        let fault = if foll.write {
            1
        } else if present {
            2
        } else {
            0
        };
        match event.reply {
            Reply::Again if self.sabotage == Some(Sabotage::NoFaults) => Ok(()),
            Reply::Again => self.fault(actor, slot, fault),
            Reply::Errno(_) if self.sabotage == Some(Sabotage::PinsSucceed) => {
                self.lab(actor, Op::Gup, call, Expect::Done)
            }
            Reply::Errno(errno) => {
                let pte = self.scenario.world.pte(vma, page).map(|pte| before.ptes[pte.index()]);
                // Of a huge entry that is devmap the kernel says EFAULT, too (`follow_devmap_pmd`).
                let special = pte.is_some_and(|pte| pte.special && !pte.huge);
                let kind = before.vmas[vma.index()].kind;
                let io = self.scenario.world.is_vm_io(&before.vmas[vma.index()]);
                let no_page = special && kind == model::VmaKind::Mixedmap && !io;
                let expect = if no_page { Expect::NoPage } else { Expect::Errno(errno) };
                self.lab(actor, Op::Gup, call, expect)
            }
            Reply::Signal(_) => {
                let command =
                    Command::Lab { op: Op::Gup, obj: pin.0, page: 0, flags, slot, value: 0 };
                let answer = self.ask_one(actor, command)?;
                Err(self.disagree("the pin", "a kernel bug".to_owned(), answer.describe()))
            }
            Reply::Done | Reply::Value(_) | Reply::Skipped => {
                let taken = event.effects.iter().find_map(|effect| {
                    if let Effect::Pinned(of, _, _, frame, false) = *effect
                        && of == pin
                    {
                        Some(frame)
                    } else {
                        None
                    }
                });
                let Some(frame) = taken else { return Ok(()) };
                let frame = self.expected_page(&event.after.model, frame);
                let call = Call { flags: flags | FOLL_NOFAULT, ..call };
                self.lab(actor, Op::Gup, call, Expect::Frame(frame))
            }
        }
    }

    /// A frame as the module names it: none for a page of the process's own.
    pub(super) fn expected_page(&self, model: &State, frame: FrameId) -> Option<u8> {
        self.knows(frame, model).then(|| self.layout.number(frame))
    }

    fn follow_pfn(
        &mut self,
        event: &ScheduleStep,
        pin: PinId,
        (vma, page): (VmaId, u8),
        write: bool,
    ) -> Result<(), Halt> {
        let slot = self.slot(vma, page);
        let actor = self.scenario.world.mm_of(vma).index();
        let call = Call { obj: pin.0, slot, flags: self.pfn_flags(pin), ..Call::default() };
        match event.reply {
            Reply::Again => self.fault(actor, slot, u16::from(write)),
            // A driver that writes looks at `writable` itself.
            Reply::Errno(model::Errno::Efault) => Ok(()),
            Reply::Errno(errno) => self.lab(actor, Op::Pfn, call, Expect::Errno(errno)),
            Reply::Done | Reply::Value(_) | Reply::Signal(_) | Reply::Skipped => {
                let cached = event.effects.iter().find_map(|effect| {
                    if let Effect::PfnCached(of, _, _, frame) = *effect
                        && of == pin
                    {
                        Some(frame)
                    } else {
                        None
                    }
                });
                let Some(frame) = cached else { return Ok(()) };
                let frame = self.expected_page(&event.after.model, frame);
                self.lab(actor, Op::Pfn, call, Expect::Frame(frame))
            }
        }
    }

    /// Whether the pin's holder has a notifier on its address, as a flag.
    pub(super) fn watch(&self, pin: PinId) -> u16 {
        if self.scenario.world.notifier_of(pin) == Notifier::None { 0 } else { FOLL_WATCH }
    }

    /// PFN's flags.
    pub(super) fn pfn_flags(&self, pin: PinId) -> u16 {
        self.watch(pin) | if self.own.no_page { FOLL_NO_PAGE } else { 0 }
    }

    /// Pins that the step gave up.
    fn unpinned(&mut self, event: &ScheduleStep) -> Result<(), Halt> {
        for effect in &event.effects {
            if let Effect::Unpinned(pin) = *effect {
                let call = Call { obj: pin.0, ..Call::default() };
                self.lab(event.actor, Op::GupPut, call, Expect::Done)?;
            }
        }
        Ok(())
    }

    fn exporter(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        buf: BufId,
        (step, page, operation): (ExporterStep, u8, Operation),
    ) -> Result<(), Halt> {
        let actor = event.actor;
        let waits = expect::wait(self.scenario.world.exporter_of(buf).wait);
        let call = Call { obj: buf.0, page, ..Call::default() };
        let done = event.reply == Reply::Done;
        // Who has it already goes on with it.
        let takes = event.effects.contains(&Effect::Locked(buf, true));
        match step {
            ExporterStep::Lock if done && takes => self.lab(actor, Op::Lock, call, Expect::Done)?,
            ExporterStep::Notify => {
                let heard = event.effects.iter().filter(|e| matches!(e, Effect::Notified(..)));
                let heard = u8::try_from(heard.count()).unwrap_or(u8::MAX);
                self.lab(actor, Op::Notify, call, Expect::Value(heard))?;
            }
            ExporterStep::Zap if self.sabotage == Some(Sabotage::NoZaps) => {}
            ExporterStep::Zap => self.lab(actor, Op::Zap, call, Expect::Done)?,
            ExporterStep::Wait => {
                let call = Call { flags: waits, ..call };
                self.lab(actor, Op::Wait, call, Expect::Done)?;
            }
            ExporterStep::WaitUnmap => self.lab(actor, Op::WaitUnmap, call, Expect::Done)?,
            ExporterStep::CheckPins => {
                self.lab(actor, Op::CheckPins, call, Expect::refusal(event.reply))?;
            }
            ExporterStep::Reserve => self.reserve(event, buf)?,
            ExporterStep::Copy => {
                let copies = event.effects.iter().any(|e| matches!(e, Effect::FrameCopied { .. }));
                if copies && self.sabotage != Some(Sabotage::NoCopies) {
                    self.lab(actor, Op::Copy, call, Expect::Done)?;
                }
            }
            ExporterStep::Rebind => self.lab(actor, Op::Rebind, call, Expect::Done)?,
            ExporterStep::Mark => {
                let flags = if operation == Operation::Revoke { 2 } else { 1 };
                self.lab(actor, Op::Mark, Call { flags, ..call }, Expect::Done)?;
            }
            ExporterStep::Free => self.forget_pages(before, event, buf)?,
            ExporterStep::Fence if done => {
                let call =
                    Call { obj: copy_fence(buf), page: buf.0, flags: KERNEL, ..Call::default() };
                self.lab(actor, Op::Fence, call, Expect::Done)?;
            }
            ExporterStep::Flush
            | ExporterStep::Fence
            | ExporterStep::Signal
            | ExporterStep::Unlock
            | ExporterStep::Lock => {}
        }
        // Given up, it signals as well.
        if before.bufs[buf.index()].moving && !event.after.model.bufs[buf.index()].moving {
            let call = Call { obj: copy_fence(buf), ..Call::default() };
            self.lab(actor, Op::Signal, call, Expect::Done)?;
        }
        if event.reply != Reply::Done {
            self.forget_pages(before, event, buf)?;
        }
        let unlocks = |effect: &Effect| matches!(effect, Effect::Locked(of, false) if *of == buf);
        if event.effects.iter().any(unlocks) {
            self.lab(actor, Op::Unlock, call, Expect::Done)?;
        }
        Ok(())
    }

    fn reserve(&mut self, event: &ScheduleStep, buf: BufId) -> Result<(), Halt> {
        for effect in &event.effects {
            if let Effect::FrameReserved(frame, page) = *effect {
                let page = self.scenario.world.page_index(page);
                let call =
                    Call { obj: buf.0, page, value: self.layout.number(frame), ..Call::default() };
                self.lab(event.actor, Op::Reserve, call, Expect::Done)?;
            }
        }
        Ok(())
    }

    /// Pages whose frames a step gave back.
    fn forget_pages(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        buf: BufId,
    ) -> Result<(), Halt> {
        let after = &event.after.model;
        let pages: Vec<_> = self.scenario.world.pages(buf).collect();
        for id in pages {
            let page = self.scenario.world.page_index(id);
            let (old, new) = (&before.pages[id.index()], &after.pages[id.index()]);
            let none = Call { obj: buf.0, page, value: u8::MAX, ..Call::default() };
            if old.frame.is_some() && new.frame.is_none() {
                self.lab(event.actor, Op::Bind, none, Expect::Done)?;
            }
            if old.next.is_some() && new.next.is_none() {
                self.lab(event.actor, Op::Reserve, none, Expect::Done)?;
            }
        }
        Ok(())
    }
}

/// `DMA_RESV_USAGE_KERNEL`.
pub(super) const KERNEL: u16 = 0;

/// The fence of a copy that runs by itself, as the module numbers fences: importers' are from 0 up.
pub(super) const fn copy_fence(buf: BufId) -> u8 {
    u8::MAX - buf.0
}

/// Whether a device has the address of a frame that nobody holds for it.
fn known_by_address(model: &State, frame: FrameId) -> bool {
    let dmas = (0..model.dmas.len()).map(|actor| &model.dmas[actor]);
    let mut pins = (0..model.pins.len()).map(|pin| &model.pins[pin]);
    let sgs = (0..model.sg_frames.len()).any(|index| model.sg_frames[index] == frame);
    let mut dmas = dmas.filter(|dma| dma.busy && dma.frame == frame);
    sgs || dmas.next().is_some()
        || pins.any(|pin| pin.slot == Slot::Held && pin.frame == frame && !pin.counted)
}

/// What a step observes, in the kernel's words.
fn op_in_words(op: Op) -> String {
    let words = [
        (Op::Fault, "handle_mm_fault"),
        (Op::Gup, "get_user_pages"),
        (Op::Lock, "dma_resv_trylock"),
        (Op::Notify, "importers that move_notify reached"),
        (Op::Wait, "dma_resv_wait_timeout"),
        (Op::Pfn, "follow_pfnmap_start"),
        (Op::DmaPin, "the device's address"),
        (Op::DmaSg, "the device's address"),
        (Op::DmaRead, "value the device read"),
    ];
    if let Some((_, word)) = words.iter().find(|(of, _)| *of == op) {
        return (*word).to_owned();
    }
    let mut names = Op::ALL.iter().filter(|(of, _)| *of == op);
    names.next().map_or_else(String::new, |(_, name)| name.to_lowercase().replace('_', " "))
}
