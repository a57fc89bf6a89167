//! What one step of a move, purge, revocation or allocation did.

use super::words::{Teller, operation_word};
use crate::model::{Effect, ExporterStep, MoveNotify, Operation, Owner, State};
use crate::question::scenario::ScheduleStep;
use crate::units::BufId;

impl Teller<'_> {
    /// `v[0], v[1]`: the entries that were removed.
    pub(super) fn zapped(self, event: &ScheduleStep) -> String {
        let zapped = event.effects.iter().filter_map(|effect| {
            let Effect::Zapped(vma, page, _) = effect else { return None };
            Some(self.place(*vma, *page))
        });
        zapped.collect::<Vec<_>>().join(", ")
    }

    /// `B[0] is vram:0`: the frames that were handed out.
    pub(super) fn filled(self, event: &ScheduleStep) -> String {
        let filled = event.effects.iter().filter_map(|effect| {
            let (Effect::FrameFilled(frame, Owner::Page(page), _)
            | Effect::FrameFilledInCache(frame, Owner::Page(page), _)) = *effect
            else {
                return None;
            };
            let page = self.scenario.names.page(&self.scenario.world, page);
            Some(format!("{page} is {}", self.frame(frame)))
        });
        filled.collect::<Vec<_>>().join(", ")
    }

    pub(super) fn exporter(
        self,
        before: &State,
        event: &ScheduleStep,
        buf: BufId,
        step: ExporterStep,
        page: u8,
        operation: Operation,
    ) -> String {
        let what = match step {
            // Under a reservation of one's own.
            ExporterStep::Lock if before.bufs[buf.index()].kept => {
                "the dma_resv is locked already".to_owned()
            }
            ExporterStep::Unlock if before.bufs[buf.index()].kept => {
                "the dma_resv stays locked".to_owned()
            }
            ExporterStep::Lock => "dma_resv_lock".to_owned(),
            ExporterStep::Unlock => "dma_resv_unlock".to_owned(),
            ExporterStep::Notify => self.notified(event),
            ExporterStep::Wait => {
                let level = self.scenario.world.exporter_of(buf).wait.word().to_uppercase();
                format!("no fence up to {level} pending")
            }
            ExporterStep::WaitUnmap => "nothing is mapped any more".to_owned(),
            ExporterStep::Zap => {
                let zapped = self.zapped(event);
                let zapped = if zapped.is_empty() { "finds nothing" } else { zapped.as_str() };
                format!("zap {zapped}")
            }
            ExporterStep::CheckPins => {
                let pinned = self
                    .scenario
                    .world
                    .pages(buf)
                    .any(|page| before.counted_pins(before.pages[page.index()].frame) > 0);
                let note = if pinned { "page pins ignored" } else { "none" };
                format!("check-pins: {note}")
            }
            ExporterStep::Flush => self.cache("flush ", event),
            ExporterStep::Reserve => {
                let reserved = event.effects.iter().filter_map(|effect| {
                    let Effect::FrameReserved(frame, _) = effect else { return None };
                    Some(*frame)
                });
                format!("reserve {}", self.frames(reserved))
            }
            ExporterStep::Copy => {
                let copied = event.effects.iter().find_map(|effect| {
                    let Effect::FrameCopied { from, to } = *effect else { return None };
                    Some(format!("copy {} -> {}", self.frame(from), self.frame(to)))
                });
                copied.unwrap_or_else(|| format!("copy page {page}: no destination"))
            }
            ExporterStep::Rebind => {
                let rebound = event.effects.iter().filter_map(|effect| {
                    let Effect::Rebound(page, frame) = *effect else { return None };
                    let page = self.scenario.names.page(&self.scenario.world, page);
                    Some(format!("{page} is {}", self.frame(frame)))
                });
                format!("rebind: {}", rebound.collect::<Vec<_>>().join(", "))
            }
            ExporterStep::Free => self.freed(event),
            ExporterStep::Fence => "a KERNEL fence for the copy".to_owned(),
            ExporterStep::Signal => "the copy is done, its fence signals".to_owned(),
            ExporterStep::Mark => format!("mark {}", self.buf(buf)),
        };
        format!("{}: {what}", operation_word(operation))
    }

    fn notified(self, event: &ScheduleStep) -> String {
        let told = event.effects.iter().filter_map(|effect| {
            let Effect::Notified(attachment, _) = *effect else { return None };
            let name = self.scenario.names.attachment(attachment);
            let rules = self.scenario.world.importer_of(attachment);
            let ignored = rules.move_notify == MoveNotify::Ignored;
            Some(format!("{name}{}", if ignored { " (ignored)" } else { "" }))
        });
        let told: Vec<String> = told.collect();
        if told.is_empty() {
            "move_notify: nobody to tell".to_owned()
        } else {
            format!("move_notify {}", told.join(", "))
        }
    }

    fn freed(self, event: &ScheduleStep) -> String {
        let freed = event.effects.iter().filter_map(|effect| {
            if let Effect::FrameFreed(frame) = *effect {
                Some(format!("free {}", self.frame(frame)))
            } else if let Effect::FrameOrphaned(frame) = *effect {
                Some(format!("put {}: references remain", self.frame(frame)))
            } else {
                None
            }
        });
        let freed: Vec<String> = freed.collect();
        if freed.is_empty() { "free: nothing left".to_owned() } else { freed.join(", ") }
    }
}
