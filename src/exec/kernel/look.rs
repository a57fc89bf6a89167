//! What the kernel's tables and pages show after a step.

use super::super::command::{BATCH_MAX, Command, CommandResult};
use super::super::conduct::Halt;
use super::{Bench, expect};
use crate::model::{self, Life, Owner, Pte, Slot};
use crate::question::scenario::ScheduleStep;
use crate::uapi::lab::{
    NO_FRAME, Op, PTE_FLIGHT, PTE_HUGE, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_ZERO,
    Step as LabStep,
};
use crate::units::{BufId, FrameId, PinId, VmaId};

impl Bench<'_> {
    /// Compare everything with the state after a step.
    pub(super) fn look(&mut self, event: &ScheduleStep) -> Result<(), Halt> {
        let model = &event.after.model;
        self.look_at_entries(model)?;
        self.look_at_frames(model)?;
        if self.driver.is_none() {
            self.look_at_bufs(model)?;
        }
        self.look_at_pins(model)
    }

    /// Who still holds a page, and from whom a notifier has taken it.
    fn look_at_pins(&mut self, model: &model::State) -> Result<(), Halt> {
        let in_words = |held: bool, invalid: bool| match (held, invalid) {
            (true, _) => "held",
            (false, true) => "declared invalid by its notifier",
            (false, false) => "not held",
        };
        for pin in (0..model.pins.len()).map(PinId::at) {
            let step = LabStep { obj: pin.0.into(), ..LabStep::default() };
            let [real, ..] = self.conductor(Op::Pinned, step)?.to_le_bytes();
            self.report.compared += 1;
            let slot = model.pins[pin.index()].slot;
            let expected =
                in_words(matches!(slot, Slot::Held | Slot::Taking), slot == Slot::Invalid);
            let real = in_words(real & 1 != 0, real & 2 != 0);
            if real != expected {
                let what = format!("pin {}", self.scenario.names.pin(pin));
                return Err(self.disagree(&what, expected.to_owned(), real.to_owned()));
            }
        }
        Ok(())
    }

    fn look_at_entries(&mut self, model: &model::State) -> Result<(), Halt> {
        let world = &self.scenario.world;
        for actor in 0..self.scenario.programs.len() {
            let mut looks = Vec::new();
            for vma in (0..model.vmas.len()).map(VmaId::at) {
                let entry = &model.vmas[vma.index()];
                if world.mm_of(vma).index() != actor || entry.mapped == 0 {
                    continue;
                }
                looks.extend(
                    (0..world.vma_pages(vma))
                        .filter(|page| entry.mapped & (1 << page) != 0)
                        .map(|page| (vma, page)),
                );
            }
            for part in looks.chunks(BATCH_MAX) {
                self.look_at_some(model, actor, part)?;
            }
        }
        Ok(())
    }

    fn look_at_some(
        &mut self,
        model: &model::State,
        actor: usize,
        looks: &[(VmaId, u8)],
    ) -> Result<(), Halt> {
        let command = |(vma, page): &(VmaId, u8)| Command::Lab {
            op: Op::Pte,
            obj: 0,
            page: 0,
            flags: 0,
            slot: self.slot(*vma, *page),
            value: 0,
        };
        let commands: Vec<Command> = looks.iter().map(command).collect();
        let mut answers = Vec::new();
        self.team.start(actor, self.arenas)?;
        self.team.call(actor, &commands, &mut answers)?;
        for ((vma, page), answer) in looks.iter().zip(answers) {
            self.report.compared += 1;
            let Some(pte) = self.scenario.world.pte(*vma, *page) else { continue };
            let pte = model.ptes[pte.index()];
            let flown = model.dmas.iter().any(|dma| dma.busy && dma.frame == pte.frame);
            let own = pte.present() && model.frames[pte.frame.index()].owner == Owner::Anon;
            if let CommandResult::Word { low, .. } = answer
                && flown
                && own
                && low & PTE_PRESENT != 0
                && low & PTE_FLIGHT == 0
            {
                let why = "which page a process is given that a device still has the address of, the kernel chooses";
                return Err(Halt::Inexpressible(why.to_owned()));
            }
            let real = if let CommandResult::Word { low, high } = answer {
                entry_in_words(low, high)
            } else {
                answer.describe()
            };
            let expected = self.expected_entry(model, &pte);
            if real != expected {
                let name = self.scenario.names.vma(*vma);
                return Err(self.disagree(&format!("entry of {name}[{page}]"), expected, real));
            }
        }
        Ok(())
    }

    fn expected_entry(&self, model: &model::State, pte: &Pte) -> String {
        if !pte.present() {
            return entry_in_words(0, 0);
        }
        let owner = model.frames[pte.frame.index()].owner;
        let mut bits = PTE_PRESENT;
        if pte.write {
            bits |= PTE_WRITE;
        }
        if pte.special {
            bits |= PTE_SPECIAL;
        }
        if owner == Owner::Zero {
            bits |= PTE_ZERO;
        }
        if pte.huge {
            bits |= PTE_HUGE;
        }
        let known = self.knows(pte.frame, model);
        entry_in_words(bits, if known { self.layout.number(pte.frame).into() } else { NO_FRAME })
    }

    fn look_at_frames(&mut self, model: &model::State) -> Result<(), Halt> {
        for frame in (0..model.frames.len()).map(FrameId::at) {
            let entry = &model.frames[frame.index()];
            if entry.owner == Owner::Anon {
                self.in_lab[frame.index()] = false;
            }
            if !self.knows(frame, model) {
                continue;
            }
            let obj = self.layout.number(frame).into();
            let step = LabStep { obj, ..LabStep::default() };
            let [found, torn, refs, ..] = self.conductor(Op::Frame, step)?.to_le_bytes();
            self.report.compared += 2;
            let name = || self.scenario.names.frame(&self.scenario.world, frame);
            if found != entry.value || torn != 0 {
                let real = if torn == 0 {
                    CommandResult::Value(found).describe()
                } else {
                    format!("a torn page that begins with {found}")
                };
                let model = CommandResult::Value(entry.value).describe();
                return Err(self.disagree(&format!("memory of frame {}", name()), model, real));
            }
            // A driver's page has references of the driver's.
            if self.driver.is_some() {
                continue;
            }
            let expected: usize =
                self.layout.together(frame).map(|frame| model.references(frame)).sum();
            if usize::from(refs) != expected {
                return Err(self.disagree(
                    &format!("references to frame {}", name()),
                    expected.to_string(),
                    refs.to_string(),
                ));
            }
        }
        Ok(())
    }

    fn look_at_bufs(&mut self, model: &model::State) -> Result<(), Halt> {
        for buf in (0..model.bufs.len()).map(BufId::at) {
            let entry = &model.bufs[buf.index()];
            if entry.life == Life::Unallocated {
                continue;
            }
            let step = LabStep { obj: buf.0.into(), ..LabStep::default() };
            let [released, pins, _, _, warned, busy, ..] =
                self.conductor(Op::Buf, step)?.to_le_bytes();
            self.report.compared += 4;
            let name = || self.scenario.names.buf(buf);
            let gone = |yes: bool| if yes { "gone" } else { "there" }.to_owned();
            if (warned != 0) != model.warned {
                let in_words = |yes: bool| if yes { "warned" } else { "quiet" }.to_owned();
                let (model, real) = (in_words(model.warned), in_words(warned != 0));
                return Err(self.disagree("the check of mmap", model, real));
            }
            if (released != 0) != (entry.life == Life::Released) {
                let what = format!("whether {} is still there", name());
                let model = gone(entry.life == Life::Released);
                return Err(self.disagree(&what, model, gone(released != 0)));
            }
            let expected = if entry.life == Life::Released { 0 } else { busy_usages(model, buf) };
            if busy != expected {
                let what = format!("usages of {}'s dma_resv with a fence under way", name());
                let in_words = |bits: u8| format!("{bits:#06b}");
                return Err(self.disagree(&what, in_words(expected), in_words(busy)));
            }
            if released == 0 && pins != entry.pins {
                let what = format!("dma_buf_pin count of {}", name());
                return Err(self.disagree(&what, entry.pins.to_string(), pins.to_string()));
            }
        }
        Ok(())
    }
}

/// A bit for each usage that somebody who asks `dma_resv_test_signaled` would have to wait for.
fn busy_usages(model: &model::State, buf: BufId) -> u8 {
    let mut busy = if model.bufs[buf.index()].moving { 0b1111 } else { 0 };
    for fence in &model.fences {
        if fence.slot == Slot::Held && fence.buf == buf {
            busy |= 0b1111 << expect::usage(fence.usage) & 0b1111;
        }
    }
    busy
}

/// An entry as a sentence: what differs is seen at once.
fn entry_in_words(bits: u8, frame: u32) -> String {
    if bits & PTE_PRESENT == 0 {
        return "none".to_owned();
    }
    let whose = match frame {
        _ if bits & PTE_ZERO != 0 => "the zero page".to_owned(),
        NO_FRAME => "a page of the process's own".to_owned(),
        frame => format!("frame {frame}"),
    };
    let write = if bits & PTE_WRITE == 0 { "read-only" } else { "writable" };
    let special = if bits & PTE_SPECIAL == 0 { "" } else { ", special" };
    let huge = if bits & PTE_HUGE == 0 { "" } else { ", huge" };
    format!("{whose}, {write}{special}{huge}")
}
