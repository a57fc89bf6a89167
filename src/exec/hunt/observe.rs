//! The end of a run: what is in memory, as an outcome.

use super::race::{Ended, Race};
use crate::exec::command::CommandResult;
use crate::exec::error::ExecError;
use crate::explore::Machine;
use crate::model::{HazardKind, Life};
use crate::units::{FrameId, PageId};

/// Hazards that are not in the bytes but in what the exporter or the kernel decided.
const DECIDED: [HazardKind; 6] = [
    HazardKind::PinBlocksMove,
    HazardKind::OrphanPin,
    HazardKind::OrphanMapping,
    HazardKind::UnfencedAccess,
    HazardKind::IommuFault,
    HazardKind::Deadlock,
];

impl Race<'_> {
    /// What was observed, as an outcome.
    pub(super) fn outcome(&mut self) -> Result<Ended, ExecError> {
        let mut outcome = self.scenario.classify(&self.state);
        outcome.hazards &= DECIDED.iter().fold(0, |bits, kind| bits | kind.bit());
        outcome.hazards |= self.accesses.reads();
        let Some(contents) = self.contents()? else { return Ok(Ended::Torn) };
        outcome.hazards |= self.hazards_of(&contents);
        if self.torn {
            return Ok(Ended::Torn);
        }
        for (name, content) in self.scenario.looked_at().zip(&mut outcome.contents) {
            if content.is_some() {
                let named =
                    |page: &PageId| self.scenario.names.page(&self.scenario.world, *page) == name;
                let found = contents.iter().find(|(page, _)| named(page));
                *content = found.map(|(_, value)| *value);
            }
        }
        Ok(Ended::Outcome(outcome, std::mem::take(&mut self.schedule)))
    }

    /// The bytes of every buffer's pages; none when one is half written.
    fn contents(&self) -> Result<Option<Vec<(PageId, u8)>>, ExecError> {
        let mut contents = Vec::new();
        for (index, page) in self.state.model.pages.iter().enumerate() {
            if page.frame.is_none() || !self.conduct.in_arena[page.frame.index()] {
                continue;
            }
            let place = self.conduct.plan.memory(page.frame);
            let CommandResult::Value(value) = self.conduct.arenas.look_afresh(place)? else {
                return Ok(None);
            };
            contents.push((PageId::at(index), value));
        }
        Ok(Some(contents))
    }

    /// The hazards that the bytes of buffers and free frames show.
    fn hazards_of(&self, contents: &[(PageId, u8)]) -> u16 {
        let model = &self.state.model;
        let live =
            |page: PageId| model.bufs[self.scenario.world.buf_of(page).index()].life == Life::Live;
        let (mut hazards, mut strayed) = (0, Vec::new());
        for &(page, value) in contents {
            if live(page) && !self.accesses.meant(page, value) {
                hazards |= HazardKind::CrossBufferWrite.bit();
                strayed.push(value);
            }
        }
        let crossed = strayed.len();
        strayed.extend_from_slice(&self.in_free);
        for frame in (0..model.frames.len()).map(FrameId::at) {
            strayed.extend(self.stray(frame));
        }
        if strayed.len() > crossed {
            hazards |= HazardKind::UseAfterFree.bit();
        }
        for &(page, value) in contents {
            let meant = self.accesses.meant(page, value);
            if live(page) && meant && self.accesses.lost(page, value, &strayed) {
                hazards |= HazardKind::LostWrite.bit();
            }
        }
        hazards
    }

    /// What was written to a frame since it was freed.
    pub(super) fn stray(&self, frame: FrameId) -> Option<u8> {
        let before = self.freed[frame.index()]?;
        let now = self.conduct.arenas.look(self.conduct.plan.memory(frame));
        if now == before {
            return None;
        }
        if let CommandResult::Value(value) = now { Some(value) } else { None }
    }
}
