//! What drivers do in a process's batch: importers, their devices, exporters.

use super::super::super::command::FreeCommand;
use super::super::super::error::Skip;
use super::super::expect;
use super::super::steps::{KERNEL, copy_fence};
use super::program::{Answer, Builder, Call, Flag, pool};
use crate::model::{Dir, ExporterStep, Handle, MoveNotify, Notifier, Operation, Step};
use crate::uapi::lab::{GIVE_ALL, LOCK_LIVE, LOCK_WAITS, Op, SG_VALID};
use crate::units::{AttachmentId, BufId, PinId, SgId, VmaId};

impl Builder<'_> {
    pub(super) fn attach(
        &mut self,
        attachment: AttachmentId,
        (buf, via): (BufId, VmaId),
        dynamic: bool,
    ) -> Result<usize, Skip> {
        if buf.is_none() && via.is_some() {
            return Err(Skip::new("which buffer is behind a mapping, the conductor says"));
        }
        let rules = self.scenario.world.importer_of(attachment);
        let deaf = rules.move_notify == MoveNotify::Ignored;
        let flags = u16::from(dynamic) | u16::from(deaf) << 1;
        let call = Call { obj: attachment.0, page: buf.0, flags, ..Call::default() };
        Ok(self.lab(Op::Attach, call))
    }

    /// The one buffer behind an sg_table.
    pub(super) fn buf_of(&self, sg: SgId) -> Result<BufId, Skip> {
        let of = self.scenario.world.attachment_of(sg);
        let mut found = None;
        for (_, step) in &self.steps.all {
            if let Step::Attach { attachment, buf, .. } = **step
                && attachment == of
            {
                if found.is_some_and(|found| found != buf) {
                    return Err(Skip::new("an attachment is of one buffer or of another"));
                }
                found = Some(buf);
            }
        }
        found.ok_or_else(|| Skip::new("a job through an attachment that nobody makes"))
    }

    pub(super) fn validate(&mut self, sg: SgId) -> Result<usize, Skip> {
        let buf = self.buf_of(sg)?;
        self.needs(Flag::Sg(sg.0));
        let lock = Call { obj: buf.0, flags: LOCK_WAITS, ..Call::default() };
        let held = self.held.contains(&buf);
        if !held {
            self.lab(Op::Lock, lock);
            self.or_end(false);
        }
        let at = self.lab(Op::Remap, Call { obj: sg.0, ..Call::default() });
        if !held {
            self.cleanup(&[(Op::Unlock, Call { obj: buf.0, ..Call::default() })]);
        }
        Ok(at)
    }

    /// Where the last step was refused, what it had in hand is given back, and the statement ends.
    fn cleanup(&mut self, calls: &[(Op, Call)]) {
        let skip = u8::try_from(calls.len() + 1).unwrap_or(u8::MAX);
        self.free(FreeCommand::IfDone { skip });
        for (op, call) in calls {
            self.lab(*op, *call);
        }
        self.to_end.push(self.program.commands.len());
        self.free(FreeCommand::Skip { skip: 0 });
    }

    /// A driver's device gets an address; one that was declared invalid is looked for again first.
    pub(super) fn dma_start(&mut self, via: Handle, page: u8, dir: Dir) -> Result<Answer, Skip> {
        let obj = u8::try_from(self.process).unwrap_or(u8::MAX);
        let (op, call, again) = match via {
            Handle::Pin(pin) => {
                self.needs(Flag::Pin(pin.0));
                (Op::DmaPin, Call { obj, page: pin.0, ..Call::default() }, self.take_again(pin)?)
            }
            Handle::Sg(sg) => {
                self.needs(Flag::Sg(sg.0));
                let buf = self.buf_of(sg)?;
                // Whoever has a fence under way on it has seen to it before.
                let fenced = self.fenced.iter().any(|(_, of)| *of == buf);
                let looks = dir != Dir::Prefetch && !fenced;
                let flags = if looks { SG_VALID } else { 0 };
                let call = Call { obj, page: sg.0, value: page, flags, ..Call::default() };
                let remap = (Op::Remap, Call { obj: sg.0, ..Call::default() });
                (Op::DmaSg, call, looks.then_some(remap))
            }
        };
        let at = self.lab(op, call);
        let Some((op, call)) = again else { return Ok((at, None)) };
        self.free(FreeCommand::IfDone { skip: 3 });
        let again = self.lab(op, call);
        self.or_end(false);
        let back = u8::try_from(self.program.commands.len() - at).unwrap_or(u8::MAX);
        self.free(FreeCommand::Back { back });
        Ok((at, Some(again)))
    }

    /// How a pin with a notifier is taken again.
    fn take_again(&self, pin: PinId) -> Result<Option<(Op, Call)>, Skip> {
        if self.scenario.world.notifier_of(pin) == Notifier::None {
            return Ok(None);
        }
        let mut found = None;
        for (process, step) in &self.steps.all {
            let call = if let Step::GupSlow { pin: of, vma, page, foll } = **step
                && of == pin
            {
                (Op::Gup, self.gup_call(pin, (vma, page), foll))
            } else if let Step::FollowPfn { pin: of, vma, page, write } = **step
                && of == pin
            {
                (Op::Pfn, self.pfn_call(pin, (vma, page), write))
            } else {
                continue;
            };
            if *process != self.process || found.is_some() {
                return Err(Skip::new(
                    "a page that a notifier took away is looked for in the process whose page it was",
                ));
            }
            found = Some(call);
        }
        Ok(found)
    }

    pub(super) fn exporter(
        &mut self,
        buf: BufId,
        (step, page, operation): (ExporterStep, u8, Operation),
    ) -> Option<Answer> {
        let rules = self.scenario.world.exporter_of(buf);
        let call = Call { obj: buf.0, page, ..Call::default() };
        let copy = Call { obj: copy_fence(buf), ..Call::default() };
        let copies = matches!(operation, Operation::Move(_));
        let flag = |on: bool, flag: u16| if on { flag } else { 0 };
        let (op, call) = match step {
            ExporterStep::Lock => {
                (Op::Lock, Call { flags: LOCK_WAITS | LOCK_LIVE, page: 0, ..call })
            }
            ExporterStep::Notify => (Op::Notify, call),
            ExporterStep::Zap => (Op::Zap, call),
            ExporterStep::Wait => (Op::Wait, Call { flags: expect::wait(rules.wait), ..call }),
            ExporterStep::WaitUnmap => (Op::WaitUnmap, call),
            ExporterStep::CheckPins => (Op::CheckPins, call),
            ExporterStep::Reserve => {
                let Operation::Move(to) = operation else { return None };
                (Op::Take, Call { page: pool(to), ..call })
            }
            ExporterStep::Copy => (Op::Copy, call),
            ExporterStep::Rebind => (Op::Rebind, call),
            ExporterStep::Mark => {
                let revoked = operation == Operation::Revoke;
                (Op::Mark, Call { flags: if revoked { 2 } else { 1 }, ..call })
            }
            ExporterStep::Free => (Op::Give, Call { flags: flag(!copies, GIVE_ALL), ..call }),
            ExporterStep::Fence => (Op::Fence, Call { page: buf.0, flags: KERNEL, ..copy }),
            ExporterStep::Signal => (Op::Signal, copy),
            ExporterStep::Unlock => (Op::Unlock, call),
            ExporterStep::Flush => return None,
        };
        let at = self.lab(op, call);
        let late = rules.locks_late(operation);
        let refusable = match step {
            ExporterStep::Lock => late,
            ExporterStep::CheckPins | ExporterStep::Reserve => true,
            ExporterStep::Notify
            | ExporterStep::Zap
            | ExporterStep::Wait
            | ExporterStep::WaitUnmap
            | ExporterStep::Copy
            | ExporterStep::Rebind
            | ExporterStep::Mark
            | ExporterStep::Free
            | ExporterStep::Fence
            | ExporterStep::Signal
            | ExporterStep::Unlock
            | ExporterStep::Flush => false,
        };
        if refusable {
            let mut cleanup = vec![(Op::Abandon, Call { obj: buf.0, ..Call::default() })];
            if rules.steps(operation).contains(&ExporterStep::Fence) {
                cleanup.push((Op::Signal, copy));
            }
            cleanup.push((Op::Unlock, Call { obj: buf.0, ..Call::default() }));
            self.cleanup(&cleanup);
        } else if step == ExporterStep::Lock {
            self.or_end(false);
        }
        Some((at, None))
    }
}
