//! What the instructions of a program touch and do with contents.

use crate::model::{self, ContentUse, Contents, Cow, MmapKind, Objects, Step, World};
use crate::question::scenario::program::{Action, Program};
use crate::question::scenario::{fork_bit, slot_bit};
use crate::units::BufId;

/// What each instruction touches, and what it and all after it touch.
pub(super) fn footprints(world: &World, program: &Program) -> Vec<(Objects, Objects)> {
    let oops = (0..world.bufs()).map(BufId::at).any(|buf| {
        let rules = world.exporter_of(buf);
        rules.mmap == MmapKind::Pfnmap && rules.cow == Cow::Allow
    });
    let mut rest = Objects::default();
    let mut out = Vec::new();
    for instruction in program.instructions.iter().rev() {
        let slots = program.statements[instruction.statement].slots;
        let noted =
            Objects { reads: 0, writes: slots.all().fold(0, |all, slot| all | slot_bit(slot)) };
        let own = match &instruction.action {
            Action::Await(slot) => Objects { reads: slot_bit(*slot), writes: 0 },
            Action::Step(step) => {
                let fork =
                    if let Step::Fork { child, .. } = step { fork_bit(child.index()) } else { 0 };
                let objects = model::objects(world, step);
                Objects { writes: objects.writes | fork, ..objects }
            }
        };
        let own = own.union(noted);
        rest = rest.union(own);
        // A process that the kernel kills gives up everything it would have done.
        out.push((if oops { rest } else { own }, rest));
    }
    out.reverse();
    out
}

/// All steps with their process and their place in it.
pub(super) fn steps(programs: &[Program]) -> Vec<(usize, usize, Step)> {
    let mut steps = Vec::new();
    for (actor, program) in programs.iter().enumerate() {
        for (place, instruction) in program.instructions.iter().enumerate() {
            if let Action::Step(step) = &instruction.action {
                steps.push((actor, place, *step));
            }
        }
    }
    steps
}

/// What each instruction and all after it do with contents, and what the end does: nothing.
pub(super) fn content_uses(
    world: &World,
    contents: &Contents,
    steps: &[(usize, usize, Step)],
    program: &Program,
) -> Vec<ContentUse> {
    let mut rest = ContentUse::default();
    let mut uses = vec![rest.clone()];
    for instruction in program.instructions.iter().rev() {
        if let Action::Step(step) = &instruction.action {
            let observed = program.statements[instruction.statement].slots.register.is_some();
            rest = rest.union(&contents.of(world, steps, step, observed));
        }
        uses.push(rest.clone());
    }
    uses.reverse();
    uses
}
