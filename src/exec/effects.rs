//! Each effect of the model as what it does to real memory.

use super::command::{ArenaPage, Command};
use super::conduct::{Conduct, Expect, Flight, Halt};
use super::executor::Sabotage;
use super::store::{HOLE_PAGE, is_secret};
use crate::model::{self, Bus, Dir, Effect, Handle, Owner, Pte, Reach, Signal, Slot, State, Step};
use crate::question::scenario::{Action, ScheduleStep};
use crate::units::{FrameId, PageSet, SgId, VmaId};

impl Conduct<'_> {
    /// Do one effect.
    pub(super) fn effect(
        &mut self,
        event: &ScheduleStep,
        step: &Step,
        effect: &Effect,
    ) -> Result<(), Halt> {
        let after = &event.after.model;
        match *effect {
            Effect::VmaMapped(vma) => self.vma_mapped(after, vma),
            Effect::VmaUnmapped(vma, pages) => {
                self.each(vma, pages, |slot| Command::Unmap { slot })
            }
            Effect::VmaMoved { to, from } => self.vma_moved(after, to, from),
            Effect::Protected(vma, write) => {
                // What lies behind a hole is as it was: the model changes what comes before it.
                let (slot, pages) =
                    (self.plan.slot(vma, 0), after.vmas[vma.index()].pages_before_hole());
                let actor = self.scenario.world.mm_of(vma).index();
                self.ask(actor, Command::Protect { slot, pages, write }, Expect::Done)
            }
            Effect::Faulted(vma, page, pte) => self.faulted(after, vma, page, &pte),
            Effect::Zapped(vma, page, _) => {
                if self.sabotage == Some(Sabotage::NoZaps) {
                    return Ok(());
                }
                self.each(vma, 1 << page, |slot| Command::Zap { slot })
            }
            Effect::CowCopied { vma, page, from, to } => {
                self.cow_copied(after, step, (vma, page), from, to)
            }
            Effect::Loaded(vma, page, _, value) => {
                let slot = self.plan.slot(vma, page);
                let value = match self.sabotage {
                    Some(Sabotage::LoadedValues) => !value,
                    _ => value,
                };
                self.ask(event.actor, Command::Load { slot }, Expect::Value(value))
            }
            Effect::Stored(vma, page, _, value) => {
                let slot = self.plan.slot(vma, page);
                self.ask(event.actor, Command::Store { slot, value }, Expect::Done)
            }
            Effect::FrameFilled(..)
            | Effect::FrameFilledInCache(..)
            | Effect::FrameReserved(..)
            | Effect::FrameCopied { .. }
            | Effect::FrameOrphaned(_)
            | Effect::CacheWrittenBack(..)
            | Effect::CacheFilled(..) => self.frame_effect(after, effect),
            Effect::Pinned(..)
            | Effect::PfnCached(..)
            | Effect::Unpinned(_)
            | Effect::SgMapped(_)
            | Effect::SgUnmapped(_)
            | Effect::TlbFlushed(_)
            | Effect::DmaStarted(..)
            | Effect::DmaFinished(..) => self.device_effect(event, effect),
            Effect::PinInvalidated(pin) => self.invalidated(pin),
            Effect::TlbHit(vma, page, _) => {
                let name = self.scenario.names.vma(vma);
                Err(Halt::Inexpressible(format!(
                    "an access to `{name}[{page}]` goes by what a CPU's TLB still holds: here the \
                     kernel has flushed it"
                )))
            }
            // Nothing that memory shows: bookkeeping of the exporter, or told elsewhere.
            Effect::Rebound(..)
            | Effect::FrameFreed(_)
            | Effect::CpuTlbFlushed(_)
            | Effect::Notified(..)
            | Effect::CacheDropped(_)
            | Effect::Locked(..)
            | Effect::LifeChanged(_)
            | Effect::Forked(_)
            | Effect::Warned(_)
            | Effect::Cost(..)
            | Effect::Hazard(_) => Ok(()),
        }
    }

    /// Queue a command for each of the pages of a VMA.
    fn each(
        &mut self,
        vma: VmaId,
        pages: PageSet,
        command: impl Fn(u16) -> Command,
    ) -> Result<(), Halt> {
        let actor = self.scenario.world.mm_of(vma).index();
        for page in 0..self.scenario.world.vma_pages(vma) {
            if pages & (1 << page) != 0 {
                self.ask(actor, command(self.plan.slot(vma, page)), Expect::Done)?;
            }
        }
        Ok(())
    }

    fn vma_mapped(&mut self, after: &State, vma: VmaId) -> Result<(), Halt> {
        let entry = after.vmas[vma.index()];
        let actor = self.scenario.world.mm_of(vma).index();
        let world = &self.scenario.world;
        for page in (0..world.vma_pages(vma)).filter(|page| entry.mapped & (1 << page) != 0) {
            let slot = self.plan.slot(vma, page);
            self.traps[actor][usize::from(slot)] = Signal::Sigsegv;
            if entry.buf.is_none() || !entry.shared {
                continue;
            }
            let behind = world.page(entry.buf, entry.offset + page).map(|behind| {
                let behind = &after.pages[behind.index()];
                if entry.reach == Reach::Shadow { behind.shadow } else { behind.frame }
            });
            let place = match behind.filter(|frame| frame.is_some()) {
                Some(frame) => self.plan.mapped(vma, frame),
                None => ArenaPage { arena: 0, page: HOLE_PAGE },
            };
            self.set_trap(actor, slot, place);
            self.ask(actor, Command::Arm { slot, place, write: entry.write }, Expect::Done)?;
        }
        Ok(())
    }

    /// What a touch of this slot will be once it has no entry.
    fn set_trap(&mut self, actor: usize, slot: u16, place: ArenaPage) {
        let trapped = self.team.abilities.userfaultfd && !is_secret(place);
        self.traps[actor][usize::from(slot)] =
            if trapped { Signal::Sigbus } else { Signal::Sigsegv };
    }

    fn vma_moved(&mut self, after: &State, to: VmaId, from: VmaId) -> Result<(), Halt> {
        let actor = self.scenario.world.mm_of(to).index();
        let mapped = after.vmas[to.index()].mapped;
        for page in 0..self.scenario.world.vma_pages(from) {
            if mapped & (1 << page) == 0 {
                continue;
            }
            let (from, to) = (self.plan.slot(from, page), self.plan.slot(to, page));
            self.traps[actor][usize::from(to)] = self.traps[actor][usize::from(from)];
            self.ask(actor, Command::Move { from, to }, Expect::Done)?;
        }
        Ok(())
    }

    fn faulted(&mut self, after: &State, vma: VmaId, page: u8, pte: &Pte) -> Result<(), Halt> {
        let entry = after.vmas[vma.index()];
        let actor = self.scenario.world.mm_of(vma).index();
        let slot = self.plan.slot(vma, page);
        let write = entry.write;
        let command = if entry.buf.is_none() {
            Command::InstallAnon { slot, write }
        } else if entry.shared {
            let place = self.plan.mapped(vma, pte.frame);
            self.set_trap(actor, slot, place);
            Command::Install { slot, place, write }
        } else if pte.own {
            // The kernel made it: a copy on write, or a fork.
            return Ok(());
        } else {
            Command::InstallPrivate { slot, place: self.plan.memory(pte.frame), write }
        };
        self.ask(actor, command, Expect::Done)
    }

    fn cow_copied(
        &mut self,
        after: &State,
        step: &Step,
        (vma, page): (VmaId, u8),
        from: FrameId,
        to: FrameId,
    ) -> Result<(), Halt> {
        if is_reached(after, to) {
            let reason = "a private page gets a frame that something stale still reaches; real memory has others";
            return Err(Halt::Inexpressible(reason.to_owned()));
        }
        let anonymous = from.is_none() || !self.in_arena[from.index()];
        self.in_arena[to.index()] = false;
        if matches!(step, Step::Fork { .. }) {
            // The kernel copies at fork by itself, or does not.
            return Ok(());
        }
        let entry = after.vmas[vma.index()];
        let actor = self.scenario.world.mm_of(vma).index();
        let slot = self.plan.slot(vma, page);
        let write = entry.write;
        if entry.buf.is_none() {
            self.ask(actor, Command::InstallAnon { slot, write }, Expect::Done)?;
        } else if !anonymous {
            let place = self.plan.memory(from);
            self.ask(actor, Command::InstallPrivate { slot, place, write }, Expect::Done)?;
        }
        self.ask(actor, Command::BreakCow { slot }, Expect::Done)
    }

    /// What the conductor does itself.
    fn frame_effect(&mut self, after: &State, effect: &Effect) -> Result<(), Halt> {
        self.flush()?;
        match *effect {
            Effect::FrameFilled(frame, owner, value) => {
                self.in_arena[frame.index()] = owner != Owner::Anon;
                if owner != Owner::Anon {
                    self.arenas.fill(self.plan.memory(frame), value)?;
                }
            }
            Effect::FrameFilledInCache(frame, _, value) => {
                self.in_arena[frame.index()] = true;
                self.arenas.fill(self.plan.cache(frame), value)?;
            }
            Effect::FrameReserved(frame, _) => {
                self.in_arena[frame.index()] = true;
                self.arenas.fill(self.plan.memory(frame), 0)?;
            }
            Effect::FrameCopied { from, to }
                if self.in_arena[from.index()] && self.sabotage != Some(Sabotage::NoCopies) =>
            {
                self.arenas.copy(self.plan.memory(from), self.plan.memory(to))?;
            }
            Effect::CacheWrittenBack(frame, _) => {
                self.arenas.copy(self.plan.cache(frame), self.plan.memory(frame))?;
            }
            Effect::CacheFilled(frame, _) => {
                self.arenas.copy(self.plan.memory(frame), self.plan.cache(frame))?;
            }
            Effect::FrameOrphaned(frame) => {
                let place = self.plan.memory(frame);
                if only_pins_keep(after, frame) && !is_secret(place) {
                    self.arenas.punch(place)?;
                    self.in_arena[frame.index()] = false;
                }
            }
            Effect::VmaMapped(_)
            | Effect::VmaUnmapped(..)
            | Effect::VmaMoved { .. }
            | Effect::Protected(..)
            | Effect::Faulted(..)
            | Effect::Zapped(..)
            | Effect::CowCopied { .. }
            | Effect::Loaded(..)
            | Effect::Stored(..)
            | Effect::FrameCopied { .. }
            | Effect::Rebound(..)
            | Effect::FrameFreed(_)
            | Effect::Pinned(..)
            | Effect::PfnCached(..)
            | Effect::Unpinned(_)
            | Effect::PinInvalidated(_)
            | Effect::SgMapped(_)
            | Effect::SgUnmapped(_)
            | Effect::TlbFlushed(_)
            | Effect::TlbHit(..)
            | Effect::CpuTlbFlushed(_)
            | Effect::Notified(..)
            | Effect::DmaStarted(..)
            | Effect::DmaFinished(..)
            | Effect::CacheDropped(_)
            | Effect::Locked(..)
            | Effect::LifeChanged(_)
            | Effect::Forked(_)
            | Effect::Warned(_)
            | Effect::Cost(..)
            | Effect::Hazard(_) => {}
        }
        Ok(())
    }

    fn device_effect(&mut self, event: &ScheduleStep, effect: &Effect) -> Result<(), Halt> {
        match *effect {
            Effect::Pinned(pin, vma, page, ..) => self.pinned(&event.after.model, pin, vma, page),
            Effect::PfnCached(pin, ..) => self.unpinned(pin),
            Effect::Unpinned(pin) => self.unpinned(pin),
            Effect::SgMapped(sg) => self.sg_mapped(event, sg, true),
            Effect::SgUnmapped(sg) => self.sg_mapped(event, sg, false),
            Effect::TlbFlushed(sg) => self.tlb_flushed(sg),
            Effect::DmaStarted(via, _, frame, dir) => self.dma_started(event, via, frame, dir),
            Effect::DmaFinished(_, _, frame, dir, value) => {
                self.dma_finished(event, frame, dir, value)
            }
            Effect::VmaMapped(_)
            | Effect::VmaUnmapped(..)
            | Effect::VmaMoved { .. }
            | Effect::Protected(..)
            | Effect::Faulted(..)
            | Effect::FrameFilledInCache(..)
            | Effect::Zapped(..)
            | Effect::CowCopied { .. }
            | Effect::Loaded(..)
            | Effect::Stored(..)
            | Effect::FrameFilled(..)
            | Effect::FrameReserved(..)
            | Effect::FrameCopied { .. }
            | Effect::Rebound(..)
            | Effect::FrameFreed(_)
            | Effect::FrameOrphaned(_)
            | Effect::PinInvalidated(_)
            | Effect::TlbHit(..)
            | Effect::CpuTlbFlushed(_)
            | Effect::Notified(..)
            | Effect::CacheWrittenBack(..)
            | Effect::CacheDropped(_)
            | Effect::CacheFilled(..)
            | Effect::Locked(..)
            | Effect::LifeChanged(_)
            | Effect::Forked(_)
            | Effect::Warned(_)
            | Effect::Cost(..)
            | Effect::Hazard(_) => Ok(()),
        }
    }

    /// Behind an IOMMU a device reaches what is mapped for it, and nothing else.
    fn sg_mapped(&mut self, event: &ScheduleStep, sg: SgId, on: bool) -> Result<(), Halt> {
        if self.scenario.world.host.bus != Bus::Iommu {
            return Ok(());
        }
        let first = sg.index() * crate::units::MAX_PAGES;
        for at in first..first + crate::units::MAX_PAGES {
            let frame = event.after.model.sg_frames[at];
            if frame.is_some() {
                let place = self.plan.memory(frame);
                let command =
                    if on { Command::BusMap { place } } else { Command::BusUnmap { place } };
                self.ask(event.actor, command, Expect::Done)?;
            }
        }
        Ok(())
    }

    /// Whoever uses the table translates anew: what was mapped on the bus for a DMA is not any more.
    fn tlb_flushed(&mut self, sg: SgId) -> Result<(), Halt> {
        let uses = |action: &Action| matches!(action, Action::Step(Step::DmaStart { via: Handle::Sg(of), .. }) if *of == sg);
        for actor in 0..self.scenario.programs.len() {
            if !self.scenario.programs[actor].instructions.iter().any(|one| uses(&one.action)) {
                continue;
            }
            for frame in (0..self.scenario.world.frames()).map(FrameId::at) {
                let place = self.plan.memory(frame);
                self.ask(actor, Command::BusUnmap { place }, Expect::Done)?;
            }
        }
        Ok(())
    }

    fn dma_started(
        &mut self,
        event: &ScheduleStep,
        via: Handle,
        frame: FrameId,
        dir: Dir,
    ) -> Result<(), Halt> {
        let holder = match via {
            Handle::Pin(pin) => self.holders[pin.index()].map(|(holder, _)| (holder, pin)),
            Handle::Sg(_) => None,
        };
        if let Some((holder, pin)) = holder {
            self.flights[event.actor] = Some(Flight::Pin { holder, pin: pin.0 });
            let write = matches!(dir, Dir::Write(_));
            return self.ask(holder, Command::DmaStart { pin: pin.0, write }, Expect::Done);
        }
        let place = self.plan.memory(frame);
        self.flights[event.actor] = Some(Flight::Bus { place, frame });
        self.ask(event.actor, Command::BusMap { place }, Expect::Done)
    }

    fn dma_finished(
        &mut self,
        event: &ScheduleStep,
        frame: FrameId,
        dir: Dir,
        value: u8,
    ) -> Result<(), Halt> {
        let Some(flight) = self.flights[event.actor].take() else { return Ok(()) };
        let write = matches!(dir, Dir::Write(_));
        let expect = if write { Expect::Done } else { Expect::Value(value) };
        let (actor, command) = match flight {
            Flight::Pin { holder, pin } if write => (holder, Command::DmaWrite { pin, value }),
            Flight::Pin { holder, pin } => (holder, Command::DmaRead { pin }),
            Flight::Bus { frame, .. } if !self.in_arena[frame.index()] => {
                let name = self.scenario.names.frame(&self.scenario.world, frame);
                return Err(Halt::Inexpressible(format!(
                    "the bus address of {name} is anonymous memory, which has none here"
                )));
            }
            Flight::Bus { place, .. } if write => (event.actor, Command::BusStore { place, value }),
            Flight::Bus { place, .. } => (event.actor, Command::BusLoad { place }),
        };
        self.ask(actor, command, expect)?;
        if write && self.sabotage == Some(Sabotage::DmaElsewhere) {
            self.flush()?;
            self.arenas.fill(self.plan.memory(frame), !value)?;
        }
        Ok(())
    }

    /// A real fork, and in the child no entry that the model's child does not have.
    pub(super) fn fork(
        &mut self,
        event: &ScheduleStep,
        child: usize,
        (parent_first, child_first, count): (VmaId, VmaId, u8),
    ) -> Result<(), Halt> {
        self.pins_at_fork(event)?;
        self.flush()?;
        let parent = self.home(event.actor);
        self.team.start(parent, self.arenas)?;
        self.team.fork(parent, child)?;
        self.traps[child] = self.traps[parent].clone();
        let after = &event.after.model;
        for index in 0..count {
            let vma = VmaId(child_first.0 + index);
            let entry = after.vmas[vma.index()];
            let left_out = after.vmas[usize::from(parent_first.0 + index)].mapped;
            if entry.mapped == 0 && left_out != 0 {
                // VM_DONTCOPY.
                self.each(vma, left_out, |slot| Command::Unmap { slot })?;
            }
            if entry.buf.is_none() || !entry.shared {
                continue;
            }
            for page in 0..self.scenario.world.vma_pages(vma) {
                let pte = self.scenario.world.pte(vma, page);
                let present = pte.is_some_and(|pte| after.ptes[pte.index()].present());
                if entry.mapped & (1 << page) != 0 && !present {
                    let slot = self.plan.slot(vma, page);
                    self.ask(child, Command::Zap { slot }, Expect::Done)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether anything reaches a frame that has just become a private page, beside the page's own entry.
fn is_reached(model: &State, frame: FrameId) -> bool {
    let pinned = |pin: &model::Pin| {
        pin.frame == frame
            && matches!(pin.slot, Slot::Held | Slot::Taking | Slot::Invalid)
            && matches!(pin.target, model::Target::Page(_))
    };
    model.ptes.iter().any(|pte| pte.frame == frame && !pte.own)
        || model.translations.iter().any(|entry| entry.frame == frame)
        || model.pins.iter().any(pinned)
        || model.sg_frames.contains(&frame)
        || model.tlb.contains(&frame)
        || model.dmas.iter().any(|dma| dma.busy && dma.frame == frame)
}

/// Whether an orphan is out of everybody's reach but that of kernel pins: then its page can leave
/// the arena, and the pins really keep it.
fn only_pins_keep(model: &State, frame: FrameId) -> bool {
    let mapped = model.ptes.iter().any(|pte| pte.frame == frame)
        || model.translations.iter().any(|entry| entry.frame == frame);
    let cached = model.pins.iter().any(|pin| {
        pin.frame == frame && !pin.counted && !matches!(pin.slot, Slot::None | Slot::Dropped)
    });
    let addressed = model.sg_frames.contains(&frame) || model.tlb.contains(&frame);
    let bus = |dma: &model::Dma| dma.busy && dma.frame == frame && dma.pin.is_none();
    !mapped && !cached && !addressed && !model.dmas.iter().any(bus)
}
