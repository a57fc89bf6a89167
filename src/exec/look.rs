//! What memory shows after an action and at the end of a schedule: compared, and read back.

use super::command::{ArenaPage, Command, CommandResult};
use super::conduct::{Conduct, Expect, Halt};
use super::report::ReadBack;
use super::team::WITNESS;
use crate::model::{self, Hazard, HazardKind, Owner, Target, Via};
use crate::question::scenario::ScenarioState;
use crate::units::{FrameId, PageId, VmaId};

impl Conduct<'_> {
    /// Every frame in the arena holds what the model says.
    pub(super) fn look_at_frames(&mut self, model: &model::State) -> Result<(), Halt> {
        for frame in (0..model.frames.len()).map(FrameId::at) {
            if !self.in_arena[frame.index()] {
                continue;
            }
            let entry = &model.frames[frame.index()];
            self.compare(frame, "memory", self.plan.memory(frame), entry.value)?;
            if entry.cached {
                self.compare(frame, "cache line", self.plan.cache(frame), entry.cache_value)?;
            }
        }
        Ok(())
    }

    fn compare(
        &mut self,
        frame: FrameId,
        of: &str,
        place: ArenaPage,
        value: u8,
    ) -> Result<(), Halt> {
        let real = self.arenas.look(place);
        self.report.compared += 1;
        if real == CommandResult::Value(value) {
            return Ok(());
        }
        let name = self.scenario.names.frame(&self.scenario.world, frame);
        let model = CommandResult::Value(value).describe();
        Err(self.disagree(&format!("{of} of frame {name}"), model, real.describe()))
    }

    /// At the end: every mapping shows, to its process, what the model says, and traps where the
    /// model has no entry.
    pub(super) fn look_at_mappings(&mut self, last: &ScenarioState) -> Result<(), Halt> {
        let model = &last.model;
        for (index, entry) in model.vmas.iter().enumerate() {
            let vma = VmaId::at(index);
            let actor = self.scenario.world.mm_of(vma).index();
            for page in 0..self.scenario.world.vma_pages(vma) {
                let Some(pte) = self.scenario.world.pte(vma, page) else { continue };
                if entry.mapped & (1 << page) == 0 {
                    continue;
                }
                let slot = self.plan.slot(vma, page);
                let pte = &model.ptes[pte.index()];
                if !pte.present() {
                    if entry.buf.is_some() && entry.shared {
                        let trap = self.trap(actor, slot);
                        self.ask(actor, Command::Touch { slot, write: false }, trap)?;
                    }
                    continue;
                }
                let frame = &model.frames[pte.frame.index()];
                let cached = self.plan.is_incoherent(vma) && frame.owner != Owner::Anon;
                if entry.read && (!cached || frame.cached) {
                    let value = if cached { frame.cache_value } else { frame.value };
                    self.ask(actor, Command::Load { slot }, Expect::Value(value))?;
                }
            }
        }
        self.flush()
    }

    /// At the end: every buffer's bytes, through a path that no schedule has touched.
    pub(super) fn look_at_buffers(&mut self, last: &ScenarioState) -> Result<(), Halt> {
        for (index, page) in last.model.pages.iter().enumerate() {
            if page.frame.is_none() || !self.in_arena[page.frame.index()] {
                continue;
            }
            let value = last.model.frames[page.frame.index()].value;
            let real = self.arenas.look_afresh(self.plan.memory(page.frame))?;
            self.report.compared += 1;
            if real != CommandResult::Value(value) {
                let name = self.scenario.names.page(&self.scenario.world, PageId::at(index));
                let model = CommandResult::Value(value).describe();
                return Err(self.disagree(&format!("bytes of {name}"), model, real.describe()));
            }
        }
        Ok(())
    }

    /// Really read what a hazard did.
    pub(super) fn read_back(&mut self, hazard: &Hazard, model: &model::State) -> Result<(), Halt> {
        let world = &self.scenario.world;
        let victim = match (hazard.kind, hazard.owner, hazard.target) {
            (HazardKind::CrossBufferWrite, Owner::Page(page) | Owner::Shadow(page), _) => {
                Some((self.scenario.names.page(world, page), hazard.frame, Some(page)))
            }
            (HazardKind::UseAfterFree, Owner::Free, _) if hazard.expected.is_none() => {
                Some(("a free frame".to_owned(), hazard.frame, None))
            }
            (HazardKind::LostWrite, _, Some(Target::Page(page))) => {
                let frame = model.pages[page.index()].frame;
                frame.is_some().then(|| (self.scenario.names.page(world, page), frame, Some(page)))
            }
            _ => None,
        };
        if let Some((what, frame, page)) = victim {
            let expected = page.map(|page| model.pages[page.index()].ghost);
            return self.witness(hazard.kind, what, frame, expected);
        }
        // A read: what it returned was compared already, and is what it really returned.
        if let (Some(found), Some(expected)) = (hazard.value, hazard.expected)
            && found != expected
            && matches!(hazard.via, Via::Vma(..) | Via::Device(..))
        {
            self.report.corrupted.push(ReadBack {
                event: self.position,
                kind: hazard.kind,
                what: format!(
                    "{} `{}`",
                    self.scenario.names.via(world, hazard.via),
                    self.statement
                ),
                frame: self.scenario.names.frame(world, hazard.frame),
                found,
                expected: Some(expected),
                // Who really read: for a pin, the process that holds it.
                pid: self.team.pid(self.addressee).unwrap_or(0),
            });
        }
        Ok(())
    }

    fn witness(
        &mut self,
        kind: HazardKind,
        what: String,
        frame: FrameId,
        expected: Option<u8>,
    ) -> Result<(), Halt> {
        if !self.in_arena[frame.index()] {
            return Ok(());
        }
        self.flush()?;
        self.team.start(WITNESS, self.arenas)?;
        let place = self.plan.memory(frame);
        self.team.call(WITNESS, &[Command::Witness { place }], &mut self.answers)?;
        let found = match self.answers.first() {
            Some(CommandResult::Value(found)) => *found,
            Some(other) => {
                let real = other.describe();
                return Err(self.disagree(&what, "one byte all over the page".to_owned(), real));
            }
            None => return Ok(()),
        };
        if Some(found) == expected {
            // What was lost is what was there anyhow.
            return Ok(());
        }
        self.report.corrupted.push(ReadBack {
            event: self.position,
            kind,
            what,
            frame: self.scenario.names.frame(&self.scenario.world, frame),
            found,
            expected,
            pid: self.team.pid(WITNESS).unwrap_or(0),
        });
        Ok(())
    }
}
