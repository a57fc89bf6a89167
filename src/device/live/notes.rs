//! What the bus tells the recorder.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::attach::{Attachment, AttachmentId, PinId};
use super::bus::{Bus, GupPin};
use super::frames::FrameNo;
use super::pages::Pages;
use super::record::{Actor, EventEnd, RecordedAction};
use crate::device::FenceId;
use crate::model::HazardKind;
use crate::sys::page::page_bytes;

/// The fences of an attachment signal, with an error, as it goes.
pub(super) fn signals(fences: &[FenceId]) -> impl Iterator<Item = RecordedAction> {
    fences.iter().map(|&fence| RecordedAction::Signal(fence))
}

impl Bus {
    /// Records something that somebody did.
    pub fn note(&mut self, actor: &Actor, doing: RecordedAction, kinds: &[HazardKind]) {
        if let Some(recorder) = &mut self.recorder {
            recorder.push(actor, doing, kinds);
        }
        self.settle();
    }

    /// Records that the exporter begins something.
    pub fn begin(&mut self, doing: RecordedAction) {
        if let Some(recorder) = &mut self.recorder {
            recorder.begin(&Actor::Exporter, doing);
        }
    }

    /// Records that it ended it.
    pub fn end(&mut self, doing: &RecordedAction, outcome: EventEnd, kinds: &[HazardKind]) {
        if let Some(recorder) = &mut self.recorder {
            recorder.end(doing, outcome, kinds);
        }
        self.settle();
    }

    /// Gives the recorder the occasion to end a segment.
    pub(super) fn settle(&mut self) {
        if let Some(mut recorder) = self.recorder.take() {
            recorder.settle(&|| self.situation());
            self.recorder = Some(recorder);
        }
    }

    /// Records several things that are one for everybody else.
    pub(super) fn note_all(
        &mut self,
        actor: &Actor,
        doings: impl IntoIterator<Item = RecordedAction>,
    ) {
        if let Some(recorder) = &mut self.recorder {
            for doing in doings {
                let is_over =
                    matches!(doing, RecordedAction::Signal(fence) if !recorder.is_pending(fence));
                if !is_over {
                    recorder.push(actor, doing, &[]);
                }
            }
        }
        self.settle();
    }

    /// Records that an attachment has gone with its holder.
    pub(super) fn note_dropped(&mut self, id: AttachmentId, attachment: &Attachment) {
        let is_mapped = attachment.sg.is_mapped();
        let ends = is_mapped
            .then_some(RecordedAction::Unmap(id))
            .into_iter()
            .chain([RecordedAction::Detach(id)]);
        let actor = Actor::Device(attachment.device.clone());
        self.note_all(&actor, signals(&attachment.fences).chain(ends));
    }

    /// Records that a pin has outlived a move, and that whoever has it reads through it: when the
    /// kernel does is not known.
    pub fn note_outlived(&mut self, pages: &dyn Pages, id: PinId) {
        let Some(GupPin { of, frame, program, .. }) = self.pins.get(&id).cloned() else { return };
        let mut bytes = vec![0; page_bytes()];
        if self.load(pages, frame, 0, &mut bytes).is_err() {
            return;
        }
        let judged = self.judge(pages, of, (frame, 0), false, &bytes);
        let kinds: Vec<HazardKind> = judged.map(|(kind, _)| kind).into_iter().collect();
        self.note(&Actor::Program(program), RecordedAction::PinDma(id, false), &kinds);
    }

    /// What the addresses that somebody has stand for now, and where every buffer is: two
    /// moments with the same words go on in the same way.
    fn situation(&self) -> String {
        let depths: BTreeMap<FrameNo, usize> = self.frames.free_depths();
        let mut text = String::new();
        // Writing to a String can't fail.
        let frame = |text: &mut String, page: usize, frame: FrameNo| {
            let _ = match depths.get(&frame) {
                Some(depth) => write!(text, " {page} free {depth}"),
                None => write!(text, " {page} {:?}", self.frames.owner(frame)),
            };
        };
        for (id, attachment) in self.attachments.iter() {
            let _ = write!(text, "; {} {:?} {}", id.0, attachment.sg, attachment.pins);
            for (&told, &(page, map)) in &attachment.told {
                if map + 1 == attachment.maps {
                    frame(&mut text, page, told);
                }
            }
        }
        for (id, pin) in &self.pins {
            let _ = write!(text, "; pin {}", id.0);
            frame(&mut text, pin.of.page, pin.frame);
        }
        for (id, placement) in self.frames.placements() {
            let _ = write!(text, "; {} {placement} {:?}", id.0, self.life(id));
        }
        text
    }
}
