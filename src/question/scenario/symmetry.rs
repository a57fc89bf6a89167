//! Which processes of a test are interchangeable: the test is the same when they change places.
//!
//! Two processes are if their programs are the same but for the names of what is their own (VMAs,
//! pins, attachments, sg_tables, fences, registers and results), what is their own is declared alike,
//! and no program changes when all of these change places. A process that forks, or is forked, is
//! only like itself. Being interchangeable is transitive, and any order of such processes is a
//! *renaming* of the test: what can happen under one order can happen under each.

use super::program::{Action, Content, Instruction, Program, SlotId, Slots};
use super::{Outcome, Scenario, ScenarioState};
use crate::explore::{ActorNames, actors_in};
use crate::model::{Named, Naming, Owner, Slot, State, Step, World, each_name};
use crate::units::{FrameId, PteId, VmaId};

/// The processes of a test that are interchangeable, by class.
#[derive(Debug, Clone, Default)]
pub(super) struct Symmetry {
    /// By class, a bit per process.
    pub(super) classes: Vec<u16>,
    /// By process, what changes places with it; of processes of one class in one order.
    own: Vec<Own>,
}

/// What is a process's own.
#[derive(Debug, Clone, Default)]
struct Own {
    names: Vec<(Named, u8)>,
    slots: Vec<u8>,
}

/// Two processes that change places, with all that is their own.
struct Swap {
    naming: Naming,
    slots: Vec<u8>,
    of: [Own; 2],
}

impl Swap {
    fn new(slots: usize) -> Self {
        let slots = (0..slots).map(|slot| u8::try_from(slot).unwrap_or(u8::MAX)).collect();
        Self { naming: Naming::SAME, slots, of: [Own::default(), Own::default()] }
    }

    /// Notes that two names change places; false if one of them has another place already.
    fn names(&mut self, kind: Named, one: u8, other: u8) -> bool {
        let (from, to) = (self.naming.of(kind, one), self.naming.of(kind, other));
        if (from, to) == (other, one) {
            return true;
        }
        if (from, to) != (one, other) {
            return false;
        }
        self.naming.set(kind, one, other);
        self.naming.set(kind, other, one);
        for (own, name) in self.of.iter_mut().zip([one, other]) {
            own.names.push((kind, name));
        }
        true
    }

    fn slot(&mut self, one: Option<SlotId>, other: Option<SlotId>) -> bool {
        let (Some(one), Some(other)) = (one, other) else {
            return one.is_none() && other.is_none();
        };
        let (first, second) = (usize::from(one.0), usize::from(other.0));
        let found = (self.slots[first], self.slots[second]);
        if found == (other.0, one.0) {
            return true;
        }
        if found != (one.0, other.0) {
            return false;
        }
        (self.slots[first], self.slots[second]) = (other.0, one.0);
        for (own, slot) in self.of.iter_mut().zip([one, other]) {
            own.slots.push(slot.0);
        }
        true
    }

    /// Notes what changes places where one process does `one` and the other `other`.
    fn step(&mut self, one: &Step, other: &Step) -> bool {
        if matches!(one, Step::Fork { .. }) {
            return false;
        }
        let names = |step: &Step| {
            let mut names = Vec::new();
            each_name(&mut step.clone(), &mut |kind, name| names.push((kind, *name)));
            names
        };
        let (one, other) = (names(one), names(other));
        let mut pairs = one.iter().zip(&other);
        one.len() == other.len()
            && pairs
                .all(|((kind, one), (same, other))| kind == same && self.names(*kind, *one, *other))
    }

    fn programs(&mut self, one: &Program, other: &Program) -> bool {
        if one.forked || other.forked || one.instructions.len() != other.instructions.len() {
            return false;
        }
        let statements = one.statements.iter().zip(&other.statements).all(|(one, other)| {
            let (one, other): (&Slots, &Slots) = (&one.slots, &other.slots);
            self.slot(one.register, other.register)
                && self.slot(one.result, other.result)
                && self.slot(one.made, other.made)
        });
        let mut instructions = one.instructions.iter().zip(&other.instructions);
        statements
            && instructions.all(|(one, other)| match (&one.action, &other.action) {
                (Action::Step(one), Action::Step(other)) => self.step(one, other),
                (Action::Await(one), Action::Await(other)) => self.slot(Some(*one), Some(*other)),
                (Action::Step(_), Action::Await(_)) | (Action::Await(_), Action::Step(_)) => false,
            })
    }

    fn named_slot(&self, slot: Option<SlotId>) -> Option<SlotId> {
        slot.map(|slot| SlotId(self.slots[usize::from(slot.0)]))
    }

    /// Whether `one` with new names is `other`.
    fn makes(&self, one: &Program, other: &Program) -> bool {
        let statements = one.statements.iter().zip(&other.statements).all(|(one, other)| {
            let Slots { register, result, made } = one.slots;
            let [register, result, made] =
                [register, result, made].map(|slot| self.named_slot(slot));
            other.slots == Slots { register, result, made }
                && (one.first, one.end) == (other.first, other.end)
        });
        let mut instructions = one.instructions.iter().zip(&other.instructions);
        statements
            && one.statements.len() == other.statements.len()
            && one.instructions.len() == other.instructions.len()
            && one.forked == other.forked
            && instructions.all(|(one, other)| {
                let action = match &one.action {
                    Action::Step(step) => {
                        self.vectors(step).then(|| Action::Step(self.naming.step(step)))
                    }
                    Action::Await(slot) => self.named_slot(Some(*slot)).map(Action::Await),
                };
                let named = action.map(|action| Instruction { action, ..*one });
                named.as_ref() == Some(other)
            })
    }

    /// Whether the pins of a frame vector, of which a step names the first, stay in a row.
    fn vectors(&self, step: &Step) -> bool {
        let Step::FrameVectorCheck { first, count, .. } = step else { return true };
        let named = |pin: u8| self.naming.of(Named::Pin, pin);
        (0..*count).all(|at| {
            let (old, new) = (first.0.checked_add(at), named(first.0).checked_add(at));
            old.map(named) == new
        })
    }
}

impl Symmetry {
    /// Finds the interchangeable processes.
    pub(super) fn of(world: &World, programs: &[Program], slots: usize) -> Self {
        let mut found = Self { classes: Vec::new(), own: vec![Own::default(); programs.len()] };
        for (actor, program) in programs.iter().enumerate() {
            let joined = (0..found.classes.len()).find_map(|class| {
                let first = found.classes[class].trailing_zeros() as usize;
                let of = swapped(world, programs, (first, actor), slots)?;
                Some((class, first, of))
            });
            match joined {
                Some((class, first, [one, other])) => {
                    found.classes[class] |= 1 << actor;
                    (found.own[first], found.own[actor]) = (one, other);
                }
                None if !program.instructions.is_empty() => found.classes.push(1 << actor),
                None => {}
            }
        }
        found.classes.retain(|class| class.count_ones() > 1);
        found
    }

    /// What has which name when actors have other names.
    fn naming(&self, names: &ActorNames, slots: usize) -> (Naming, Vec<u8>) {
        let mut swap = Swap::new(slots);
        for class in &self.classes {
            for actor in actors_in(*class) {
                let (old, new) = (&self.own[usize::from(actor)], names[usize::from(actor)]);
                let named = &self.own[usize::from(new)];
                swap.naming.set(Named::Actor, actor, new);
                for ((kind, old), (_, new)) in old.names.iter().zip(&named.names) {
                    swap.naming.set(*kind, *old, *new);
                }
                for (old, new) in old.slots.iter().zip(&named.slots) {
                    swap.slots[usize::from(*old)] = *new;
                }
            }
        }
        (swap.naming, swap.slots)
    }
}

/// What is each process's own, if the test is the same when the two change places.
fn swapped(
    world: &World,
    programs: &[Program],
    (one, other): (usize, usize),
    slots: usize,
) -> Option<[Own; 2]> {
    let mut swap = Swap::new(slots);
    let name = |actor: usize| u8::try_from(actor).unwrap_or(u8::MAX);
    let is_one = swap.names(Named::Actor, name(one), name(other))
        && swap.programs(&programs[one], &programs[other])
        && swap.naming.suits(world)
        && programs.iter().enumerate().all(|(actor, program)| {
            let named = usize::from(swap.naming.of(Named::Actor, name(actor)));
            swap.makes(program, &programs[named])
        });
    is_one.then_some(swap.of)
}

fn moved<T: Clone>(places: &[u8], from: &[T], to: &mut [T]) {
    for (item, place) in from.iter().zip(places) {
        to[usize::from(*place)].clone_from(item);
    }
}

fn rename(content: &mut Content, naming: &Naming) {
    if let Content::Value(value) = content {
        *value = naming.of(Named::Value, *value);
    }
}

impl Scenario {
    /// Makes `to` what `from` is when processes have other names.
    pub(super) fn name_state(
        &self,
        from: &ScenarioState,
        names: &ActorNames,
        to: &mut ScenarioState,
    ) {
        let (naming, slots) = self.symmetry.naming(names, from.slots.len());
        to.clone_from(from);
        naming.state(&self.world, &from.model, &mut to.model);
        moved(names, &from.pcs, &mut to.pcs);
        moved(&slots, &from.slots, &mut to.slots);
        to.slots.iter_mut().for_each(|content| rename(content, &naming));
    }

    /// The outcome when processes have other names.
    pub(super) fn name_outcome(&self, outcome: &Outcome, names: &ActorNames) -> Outcome {
        let (naming, slots) = self.symmetry.naming(names, outcome.slots.len());
        let mut named = outcome.clone();
        moved(&slots, &outcome.slots, &mut named.slots);
        named.slots.iter_mut().for_each(|content| rename(content, &naming));
        for value in named.contents.iter_mut().flatten() {
            *value = naming.of(Named::Value, *value);
        }
        named
    }

    /// Something of a process and what is its own, without any name.
    pub(super) fn rank_of(&self, state: &ScenarioState, actor: u8) -> u64 {
        let own = &self.symmetry.own[usize::from(actor)];
        let mut rank = Rank(state.pcs[usize::from(actor)].into());
        for slot in &own.slots {
            let content: Content = state.slots[usize::from(*slot)];
            let [kind, detail] = content.bytes();
            rank.add(kind);
            rank.add(if matches!(content, Content::Value(_)) { 0 } else { detail });
        }
        let model = &state.model;
        for (kind, name) in &own.names {
            let at = usize::from(*name);
            match kind {
                Named::Vma => {
                    let vma = &model.vmas.unnoted()[at];
                    rank.add(u8::from(vma.mapped != 0));
                    let pages = self.world.vma_pages(VmaId(*name));
                    let ptes = (0..pages).filter_map(|page| self.world.pte(VmaId(*name), page));
                    for pte in ptes.map(PteId::index) {
                        let pte = &model.ptes.unnoted()[pte];
                        rank.add(u8::from(pte.write));
                        rank.frame(model, pte.frame);
                    }
                }
                Named::Pin => {
                    let pin = &model.pins.unnoted()[at];
                    rank.add(pin.slot as u8);
                    rank.frame(model, pin.frame);
                }
                Named::Attachment => rank.add(model.attachments.unnoted()[at].slot as u8),
                Named::Sg => rank.add(model.sgs.unnoted()[at] as u8),
                Named::Fence => {
                    let fence = &model.fences.unnoted()[at];
                    rank.add(if fence.slot == Slot::Held { fence.usage as u8 } else { 9 });
                }
                Named::Actor | Named::Importer | Named::Value => {}
            }
        }
        rank.0
    }
}

/// Different for most of what is different.
struct Rank(u64);

impl Rank {
    fn add(&mut self, byte: u8) {
        // FNV-1a.
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }

    /// Whose the frame is, and where it is in its list.
    fn frame(&mut self, state: &State, frame: FrameId) {
        let Some(frame) = state.frames.unnoted().get(frame.index()) else {
            return self.add(u8::MAX);
        };
        self.add(frame.rank);
        self.add(match frame.owner {
            Owner::Page(page) | Owner::Reserved(page) | Owner::Retired(page) => page.0,
            Owner::Shadow(page) | Owner::Bounce(page) => page.0.wrapping_add(100),
            Owner::Free => 251,
            Owner::Anon => 252,
            Owner::Orphan => 253,
            Owner::Zero => 254,
        });
    }
}
