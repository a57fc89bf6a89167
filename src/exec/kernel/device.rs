//! Importers and devices: attachments, jobs, brackets, and transfers in two halves.

use super::super::conduct::Halt;
use super::super::executor::Sabotage;
use super::Bench;
use super::expect::{self, Expect};
use super::steps::Call;
use crate::model::{
    self, Dir, Effect, Foll, Handle, Life, Owner, Reply, Slot, State, SyncAccess, Usage,
};
use crate::question::scenario::ScheduleStep;
use crate::uapi::lab::{FOLL_NOFAULT, Op};
use crate::units::{AttachmentId, BufId, FenceId, ImporterId, PinId, SgId, VmaId};

impl Bench<'_> {
    /// A step of an importer that names one object, where the model takes it or refuses it.
    pub(super) fn on_object(&mut self, event: &ScheduleStep, op: Op, obj: u8) -> Result<(), Halt> {
        let Some(expect) = answered(event.reply) else { return Ok(()) };
        self.lab(event.actor, op, Call { obj, ..Call::default() }, expect)
    }

    pub(super) fn attach(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        attachment: AttachmentId,
        (buf, via): (BufId, VmaId),
        dynamic: bool,
    ) -> Result<(), Halt> {
        let Some(expect) = answered(event.reply) else { return Ok(()) };
        let found = || before.vmas[via.index()].buf;
        let buf = if buf.is_none() && via.is_some() { found() } else { buf };
        if buf.is_none() || before.bufs[buf.index()].life == Life::Unallocated {
            return Ok(());
        }
        let rules = self.truth.importer_of(attachment);
        let deaf = rules.move_notify == model::MoveNotify::Ignored;
        let bounces = rules.bounce.yes() && !dynamic;
        let flags = u16::from(dynamic) | u16::from(deaf) << 1 | u16::from(bounces) << 2;
        let flags = flags | u16::from(rules.device_tlb == model::DeviceTlb::Cached) << 3;
        let call = Call { obj: attachment.0, page: buf.0, flags, ..Call::default() };
        self.lab(event.actor, Op::Attach, call, expect)
    }

    pub(super) fn map(&mut self, event: &ScheduleStep, sg: SgId) -> Result<(), Halt> {
        let Some(expect) = answered(event.reply) else { return Ok(()) };
        let page = self.scenario.world.attachment_of(sg).0;
        self.lab(event.actor, Op::Map, Call { obj: sg.0, page, ..Call::default() }, expect)
    }

    /// The first half of submitting a job.
    pub(super) fn validate(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        sg: SgId,
    ) -> Result<(), Halt> {
        let Some(expect) = answered(event.reply) else { return Ok(()) };
        let actor = event.actor;
        let stale = before.sgs[sg.index()] == Slot::Invalid;
        let buf = before.attachments[self.scenario.world.attachment_of(sg).index()].buf;
        let remap = Call { obj: sg.0, ..Call::default() };
        if expect != Expect::Done {
            return self.lab(actor, Op::Remap, remap, expect);
        }
        let lock = Call { obj: buf.0, ..Call::default() };
        // Who has reserved the buffer by itself keeps it.
        if before.bufs[buf.index()].lock.index() != actor {
            self.lab(actor, Op::Lock, lock, Expect::Done)?;
        }
        self.lab(actor, Op::Remap, remap, Expect::Value(stale.into()))
    }

    /// The second half.
    pub(super) fn submit(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        (fence, usage): (FenceId, Usage),
        sg: SgId,
    ) -> Result<(), Halt> {
        if answered(event.reply).is_none() {
            return Ok(());
        }
        let (actor, after) = (event.actor, &event.after.model);
        let buf = before.attachments[self.scenario.world.attachment_of(sg).index()].buf;
        let flags = expect::usage(usage);
        let call = Call { obj: fence.0, page: buf.0, flags, ..Call::default() };
        self.lab(actor, Op::Fence, call, Expect::Done)?;
        let held = before.bufs[buf.index()].lock.index() == actor;
        if held && after.bufs[buf.index()].lock.is_none() {
            let call = Call { obj: buf.0, ..Call::default() };
            self.lab(actor, Op::Unlock, call, Expect::Done)?;
        }
        Ok(())
    }

    /// A bracket of CPU access, where the importer forwards it.
    pub(super) fn sync(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        op: Op,
        (buf, access, via): (BufId, SyncAccess, ImporterId),
    ) -> Result<(), Halt> {
        let Some(expect) = answered(event.reply) else { return Ok(()) };
        let importer = via.is_some().then(|| self.scenario.world.importer(via));
        let dropped = importer.is_some_and(|rules| rules.sync == model::SyncForward::Dropped);
        if dropped || matches!(before.bufs[buf.index()].life, Life::Unallocated | Life::Released) {
            return Ok(());
        }
        let flags = u16::from(access.read) | u16::from(access.write) << 1;
        self.lab(event.actor, op, Call { obj: buf.0, flags, ..Call::default() }, expect)
    }

    pub(super) fn dma_start(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        via: Handle,
        page: u8,
    ) -> Result<(), Halt> {
        let actor = event.actor;
        let obj = u8::try_from(actor).unwrap_or(u8::MAX);
        match (event.reply, via) {
            (Reply::Done, Handle::Pin(pin)) => {
                let frame = event.after.model.dmas[actor].frame;
                let frame = self.expected_page(&event.after.model, frame);
                let call = Call { obj, page: pin.0, ..Call::default() };
                self.lab(actor, Op::DmaPin, call, Expect::Frame(frame))
            }
            (Reply::Done, Handle::Sg(sg)) => {
                let frame = event.after.model.dmas[actor].frame;
                let frame = self.in_lab[frame.index()].then(|| self.layout.number(frame));
                let call = Call { obj, page: sg.0, value: page, ..Call::default() };
                self.lab(actor, Op::DmaSg, call, Expect::Frame(frame))
            }
            // What is not mapped is not there, behind an IOMMU.
            (Reply::Errno(errno), Handle::Sg(sg)) if before.sgs[sg.index()] == Slot::Dropped => {
                let call = Call { obj, page: sg.0, value: page, ..Call::default() };
                self.lab(actor, Op::DmaSg, call, Expect::Errno(errno))
            }
            (Reply::Errno(errno), Handle::Pin(pin))
                if before.pins[pin.index()].slot == Slot::Held =>
            {
                let call = Call { obj, page: pin.0, ..Call::default() };
                self.lab(actor, Op::DmaPin, call, Expect::Errno(errno))
            }
            (Reply::Again, Handle::Sg(sg)) => {
                self.lab(actor, Op::Remap, Call { obj: sg.0, ..Call::default() }, Expect::Value(1))
            }
            (Reply::Errno(errno), Handle::Sg(sg)) => {
                let call = Call { obj: sg.0, ..Call::default() };
                self.lab(actor, Op::Remap, call, Expect::Errno(errno))
            }
            (Reply::Again | Reply::Errno(_), Handle::Pin(pin)) => {
                self.take_again(before, event, pin)
            }
            _ => Ok(()),
        }
    }

    /// A page that a notifier took away is looked for again, at the address that was pinned.
    fn take_again(&mut self, before: &State, event: &ScheduleStep, pin: PinId) -> Result<(), Halt> {
        let world = &self.scenario.world;
        let entry = &before.pins[pin.index()];
        let (vma, page) = world.vma_of(entry.pte);
        let (owner, slot) = (world.mm_of(vma).index(), self.slot(vma, page));
        let op = if entry.counted { Op::Gup } else { Op::Pfn };
        let foll = Foll { write: entry.write, get: entry.get, ..Foll::default() };
        let flags = if entry.counted {
            self.watch(pin) | expect::gup_flags(foll)
        } else {
            self.pfn_flags(pin)
        };
        let call = Call { obj: pin.0, slot, flags, ..Call::default() };
        if let Reply::Errno(errno) = event.reply {
            // Of a pfn a driver that writes looks at `writable` itself.
            return if entry.counted {
                self.lab(owner, op, call, Expect::Errno(errno))
            } else {
                self.lab(event.actor, Op::GupPut, call, Expect::Done)
            };
        }
        let found = event.effects.iter().find_map(|effect| {
            if let Effect::Pinned(of, _, _, frame, _) | Effect::PfnCached(of, _, _, frame) = *effect
                && of == pin
            {
                Some(frame)
            } else {
                None
            }
        });
        let Some(frame) = found else {
            return self.fault(owner, slot, u16::from(entry.write));
        };
        let frame = self.expected_page(&event.after.model, frame);
        let flags = if entry.counted { flags | FOLL_NOFAULT } else { flags };
        self.lab(owner, op, Call { flags, ..call }, Expect::Frame(frame))
    }

    pub(super) fn dma_finish(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        dir: Dir,
    ) -> Result<(), Halt> {
        let actor = event.actor;
        let call = Call { obj: u8::try_from(actor).unwrap_or(u8::MAX), ..Call::default() };
        match (event.reply, dir) {
            (Reply::Done, Dir::Write(value)) => {
                let frame = before.dmas[actor].frame;
                let entry = &before.frames[frame.index()];
                if !self.in_lab[frame.index()] && matches!(entry.owner, Owner::Free | Owner::Orphan)
                {
                    // It would be anybody's memory by now, the kernel's own too.
                    let why = "a device writes into a page of a process that was freed";
                    return Err(Halt::Inexpressible(why.to_owned()));
                }
                self.lab(actor, Op::DmaWrite, Call { value, ..call }, Expect::Done)?;
                let landed = event.effects.iter().find_map(|effect| {
                    let Effect::DmaFinished(_, _, frame, ..) = *effect else { return None };
                    Some(frame)
                });
                match (landed, self.sabotage) {
                    (Some(frame), Some(Sabotage::DmaElsewhere)) => self.fill(frame, !value),
                    _ => Ok(()),
                }
            }
            (Reply::Done, _) => self.lab(actor, Op::DmaRead, call, Expect::Done),
            (Reply::Value(value), _) => self.lab(actor, Op::DmaRead, call, Expect::Value(value)),
            _ => Ok(()),
        }
    }
}

/// What the kernel has to answer; none where the model does not get to ask it.
const fn answered(reply: Reply) -> Option<Expect> {
    match reply {
        Reply::Done => Some(Expect::Done),
        Reply::Errno(errno) => Some(Expect::Errno(errno)),
        Reply::Value(_) | Reply::Again | Reply::Signal(_) | Reply::Skipped => None,
    }
}
