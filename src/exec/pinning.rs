//! The kernel pins of a schedule: how each is taken, and where real memory has to give up.
//!
//! A pin is taken as the moment asks. io_uring's registered buffers are FOLL_PIN | FOLL_WRITE |
//! FOLL_LONGTERM: they write, fork copies around them, and they first copy a private page that is
//! not the process's own. vmsplice is a FOLL_GET for reading: it takes what is there, and fork does
//! not see it. Where the model's pin is neither, or has an mmu notifier that is called, the
//! schedule can't be carried out, and says so.

use super::command::{Command, PinHow};
use super::conduct::{Conduct, Expect, Flight, Halt};
use super::store::is_secret;
use crate::model::{Foll, Owner, State, VmaKind};
use crate::question::scenario::ScheduleStep;
use crate::units::{FrameId, PinId, VmaId};

impl Conduct<'_> {
    pub(super) fn pinned(
        &mut self,
        after: &State,
        pin: PinId,
        vma: VmaId,
        page: u8,
    ) -> Result<(), Halt> {
        let Some(how) = self.pin_how(after, pin, vma)? else { return Ok(()) };
        let holder = self.scenario.world.mm_of(vma).index();
        self.holders[pin.index()] = Some((holder, how));
        let slot = self.plan.slot(vma, page);
        self.ask(holder, Command::Pin { pin: pin.0, slot, how }, Expect::Done)
    }

    /// How the kernel is asked for a pin that the model has just taken.
    fn pin_how(&self, after: &State, pin: PinId, vma: VmaId) -> Result<Option<PinHow>, Halt> {
        let Some(planned) = self.plan.pin(pin) else { return Ok(None) };
        let (taken, area) = (&after.pins[pin.index()], &after.vmas[vma.index()]);
        if taken.write || planned != PinHow::Vmsplice {
            return Ok(Some(planned));
        }
        // Nothing is copied for a pin that writes here: it is the same to the process.
        let own = after.frames[taken.frame.index()].owner == Owner::Anon
            && after.ptes[taken.pte.index()].exclusive;
        let harmless = area.write && (area.shared || own);
        if self.plan.is_written(pin) {
            if harmless && self.team.abilities.io_uring {
                return Ok(Some(PinHow::Uring));
            }
            let name = self.scenario.names.pin(pin);
            return Err(Halt::Inexpressible(format!(
                "a device writes through `{name}`, which was taken for reading: vmsplice can't, and \
                 a pin for writing would be of another page"
            )));
        }
        let copied_at_fork = own && !taken.get && self.scenario.world.host.fork_copies_pinned.yes();
        let pins = copied_at_fork && area.write && self.team.abilities.io_uring;
        Ok(Some(if pins { PinHow::Uring } else { PinHow::Vmsplice }))
    }

    /// How the kernel is asked for a pin that has to be refused: vmsplice, where it stands for a pin for
    /// writing, asks for no right to write.
    pub(super) fn refused_how(
        &self,
        after: &State,
        pin: PinId,
        vma: VmaId,
        foll: Foll,
    ) -> Result<Option<PinHow>, Halt> {
        let planned = self.plan.pin(pin);
        if planned != Some(PinHow::Vmsplice) || !foll.write {
            return Ok(planned);
        }
        if self.team.abilities.io_uring {
            return Ok(Some(PinHow::Uring));
        }
        let area = &after.vmas[vma.index()];
        if area.mapped == 0 || area.write || area.buf.is_some() && area.shared {
            return Ok(planned);
        }
        let name = self.scenario.names.vma(vma);
        Err(Halt::Inexpressible(format!(
            "only io_uring asks whether `{name}` may be written: vmsplice pins for reading"
        )))
    }

    pub(super) fn unpinned(&mut self, pin: PinId) -> Result<(), Halt> {
        match self.holders[pin.index()].take() {
            Some((holder, _)) => self.ask(holder, Command::Unpin { pin: pin.0 }, Expect::Done),
            None => Ok(()),
        }
    }

    /// A notifier was called: whoever has one lets go of the page, a kernel pin without one keeps it.
    pub(super) fn invalidated(&self, pin: PinId) -> Result<(), Halt> {
        if self.holders[pin.index()].is_none() {
            return Ok(());
        }
        let name = self.scenario.names.pin(pin);
        Err(Halt::Inexpressible(format!(
            "the mmu notifier of `{name}` is called: the kernel's pins for user space (io_uring, \
             vmsplice) have none"
        )))
    }

    /// The kernel copies pinned anonymous pages at fork (`folio_needs_cow_for_dma`, mm/memory.c),
    /// and knows a pin by how it was taken, not by what the model says of it.
    pub(super) fn pins_at_fork(&self, event: &ScheduleStep) -> Result<(), Halt> {
        let model = &event.after.model;
        for (pin, holder) in self.holders.iter().enumerate() {
            let Some((process, how)) = *holder else { continue };
            let entry = &model.pins[pin];
            let anonymous = model.frames[entry.frame.index()].owner == Owner::Anon;
            if process != event.actor || !anonymous {
                continue;
            }
            let copies = !entry.get && self.scenario.world.host.fork_copies_pinned.yes();
            if copies != (how != PinHow::Vmsplice) {
                let name = self.scenario.names.pin(PinId::at(pin));
                return Err(Halt::Inexpressible(format!(
                    "fork while `{name}` is held: {}",
                    if copies {
                        "it had to be taken with vmsplice, around which this kernel does not copy"
                    } else {
                        "it had to be taken with io_uring, around which this kernel copies"
                    }
                )));
            }
        }
        self.leaving_at_fork(event)
    }

    /// io_uring holds a page until its transfer has ended, whoever has unregistered the buffer meanwhile.
    fn leaving_at_fork(&self, event: &ScheduleStep) -> Result<(), Halt> {
        let model = &event.after.model;
        for (device, flight) in self.flights.iter().enumerate() {
            let Some(Flight::Pin { holder, pin }) = *flight else { continue };
            let frame = model.dmas.get(device).map_or(FrameId::NONE, |dma| dma.frame);
            let anonymous = frame.is_some() && model.frames[frame.index()].owner == Owner::Anon;
            if holder == self.home(event.actor)
                && self.holders[usize::from(pin)].is_none()
                && anonymous
            {
                let name = self.scenario.names.pin(PinId(pin));
                return Err(Halt::Inexpressible(format!(
                    "fork after `{name}` was unpinned and before its transfer has ended: io_uring keeps the \
                     page pinned until then, and this kernel copies it"
                )));
            }
        }
        Ok(())
    }

    /// What the model refuses because of a special entry is refused by memory that can't be pinned.
    /// A placement that another entry makes pinnable does not refuse.
    pub(super) fn refusal_is_real(&self, after: &State, vma: VmaId, page: u8) -> Result<(), Halt> {
        let area = &after.vmas[vma.index()];
        let Some(pte) = self.scenario.world.pte(vma, page) else { return Ok(()) };
        let pte = &after.ptes[pte.index()];
        let by_vma = area.kind == VmaKind::Pfnmap || self.scenario.world.is_vm_io(area);
        let by_entry = pte.present() && pte.special;
        if area.buf.is_none() || area.mapped & (1 << page) == 0 || !(by_entry || by_vma) {
            return Ok(());
        }
        let behind = self.scenario.world.page(area.buf, area.offset + page);
        let behind = behind.map_or(FrameId::NONE, |behind| after.pages[behind.index()].frame);
        let frame = if pte.present() { pte.frame } else { behind };
        if frame.is_none() || is_secret(self.plan.mapped(vma, frame)) {
            return Ok(());
        }
        let refuses = if by_entry {
            "a small entry refuses a pin in a placement whose huge entries allow it"
        } else {
            "the VMA refuses a pin whose entry allows it"
        };
        Err(Halt::Inexpressible(format!(
            "{refuses}: real memory is of one kind for a whole placement"
        )))
    }
}
