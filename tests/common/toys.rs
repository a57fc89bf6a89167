//! A toy machine to test and time the explorer with: small programs over shared bytes.
//!
//! Its instructions are chosen for what a model of memory does to an explorer: locks that disable
//! other actors, a load that faults first and stays where it is, branches that make schedules of
//! different length meet, and names (handles) that symmetry makes interchangeable.

#![allow(dead_code, reason = "not every crate that includes this file uses all of it")]

use driftheap::explore::{Footprint, Machine};

/// The most actors and shared bytes of a toy.
pub(crate) const ACTORS_MAX: usize = 16;
/// The most shared bytes; object 127 of a footprint is the counter of handles.
pub(crate) const BYTES_MAX: usize = 96;

/// An instruction; `var`s are shared bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Register = byte.
    Load { var: u8 },
    /// Byte = value.
    Store { var: u8, value: u8 },
    /// Byte = register + `plus`.
    StoreReg { var: u8, plus: u8 },
    /// Waits until the byte is 0, then takes it.
    Lock { var: u8 },
    /// Byte = 0.
    Unlock { var: u8 },
    /// Waits until the byte is not 0.
    Await { var: u8 },
    /// If byte `page` is 0, sets it to 1 and stays (a fault); else register = byte `var`.
    Touch { var: u8, page: u8 },
    /// Skips the next instruction if the byte is not 0.
    SkipIf { var: u8 },
    /// Takes a handle with a fresh name.
    Alloc,
    /// Back to the previous instruction: runs in a circle.
    Back,
}

/// A program for each actor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Toy {
    /// By actor.
    pub(crate) programs: Vec<Vec<Op>>,
    /// Shared bytes, all 0 in the beginning.
    pub(crate) bytes: usize,
}

/// A toy's state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ToyState {
    pub(crate) pcs: [u8; ACTORS_MAX],
    pub(crate) regs: [u8; ACTORS_MAX],
    pub(crate) handles: [u8; ACTORS_MAX],
    pub(crate) bytes: [u8; BYTES_MAX],
}

/// Registers, shared bytes, actors that have not finished.
pub(crate) type ToyOutcome = (Vec<u8>, Vec<u8>, u16);

impl Op {
    fn footprint(self) -> Footprint {
        let bit = |var: u8| 1u128 << var;
        let (reads, writes) = match self {
            Self::Load { var } | Self::Await { var } | Self::SkipIf { var } => (bit(var), 0),
            Self::Store { var, .. } | Self::StoreReg { var, .. } | Self::Unlock { var } => {
                (0, bit(var))
            }
            Self::Lock { var } => (bit(var), bit(var)),
            Self::Touch { var, page } => (bit(var) | bit(page), bit(page)),
            Self::Alloc => (bit(127), bit(127)),
            Self::Back => (0, 0),
        };
        Footprint { reads, writes }
    }
}

impl Toy {
    fn next(&self, state: &ToyState, actor: u8) -> Option<Op> {
        let actor = usize::from(actor);
        self.programs[actor].get(usize::from(state.pcs[actor])).copied()
    }

    fn actors_where(&self, holds: impl Fn(u8) -> bool) -> u16 {
        (0..16u8).take(self.programs.len()).filter(|&a| holds(a)).fold(0, |set, a| set | 1 << a)
    }
}

impl Machine for Toy {
    type State = ToyState;
    type Outcome = ToyOutcome;

    fn initial(&self) -> ToyState {
        assert!(self.bytes <= BYTES_MAX && self.programs.len() <= ACTORS_MAX);
        ToyState {
            pcs: [0; ACTORS_MAX],
            regs: [0; ACTORS_MAX],
            handles: [0; ACTORS_MAX],
            bytes: [0; BYTES_MAX],
        }
    }

    fn actors(&self) -> usize {
        self.programs.len()
    }

    fn enabled(&self, state: &ToyState) -> u16 {
        self.actors_where(|actor| match self.next(state, actor) {
            None => false,
            Some(Op::Lock { var }) => state.bytes[usize::from(var)] == 0,
            Some(Op::Await { var }) => state.bytes[usize::from(var)] != 0,
            Some(_) => true,
        })
    }

    fn unfinished(&self, state: &ToyState) -> u16 {
        self.actors_where(|actor| self.next(state, actor).is_some())
    }

    fn apply(&self, state: &mut ToyState, actor: u8) {
        let op = self.next(state, actor).expect("an enabled actor has an instruction");
        let a = usize::from(actor);
        let byte = |var: u8| usize::from(var);
        state.pcs[a] += 1;
        match op {
            Op::Load { var } => state.regs[a] = state.bytes[byte(var)],
            Op::Store { var, value } => state.bytes[byte(var)] = value,
            Op::StoreReg { var, plus } => {
                state.bytes[byte(var)] = state.regs[a].wrapping_add(plus);
            }
            Op::Lock { var } => state.bytes[byte(var)] = actor + 1,
            Op::Unlock { var } => state.bytes[byte(var)] = 0,
            Op::Await { .. } => {}
            Op::Touch { page, .. } if state.bytes[byte(page)] == 0 => {
                state.bytes[byte(page)] = 1;
                state.pcs[a] -= 1;
            }
            Op::Touch { var, .. } => state.regs[a] = state.bytes[byte(var)],
            Op::SkipIf { var } => state.pcs[a] += u8::from(state.bytes[byte(var)] != 0),
            Op::Alloc => {
                state.handles[a] = 1 + state.handles.iter().max().copied().unwrap_or(0);
            }
            Op::Back => state.pcs[a] -= 2,
        }
    }

    fn encode(&self, state: &ToyState, out: &mut Vec<u8>, ends: &mut Vec<usize>) {
        let actors = self.programs.len();
        out.extend_from_slice(&state.pcs[..actors]);
        out.extend_from_slice(&state.regs[..actors]);
        ends.push(out.len());
        out.extend_from_slice(&state.bytes[..self.bytes]);
        // Handles are renamed in order of appearance.
        let mut names = 0;
        let held = state.handles[..actors].iter().map(|&handle| {
            names += u8::from(handle != 0);
            if handle == 0 { 0 } else { names }
        });
        out.extend(held);
    }

    fn decode(&self, bytes: &[u8], state: &mut ToyState) {
        let actors = self.programs.len();
        let (pcs, rest) = bytes.split_at(actors);
        let (regs, rest) = rest.split_at(actors);
        let (shared, handles) = rest.split_at(self.bytes);
        state.pcs[..actors].copy_from_slice(pcs);
        state.regs[..actors].copy_from_slice(regs);
        state.bytes[..self.bytes].copy_from_slice(shared);
        state.handles[..actors].copy_from_slice(handles);
    }

    fn next_footprint(&self, state: &ToyState, actor: u8) -> Footprint {
        self.next(state, actor).map_or(Footprint::NONE, Op::footprint)
    }

    fn rest_footprint(&self, state: &ToyState, actor: u8) -> Footprint {
        let actor = usize::from(actor);
        let rest = self.programs[actor].iter().skip(usize::from(state.pcs[actor]));
        rest.fold(Footprint::NONE, |sum, op| sum.union(op.footprint()))
    }

    fn classify(&self, state: &ToyState) -> ToyOutcome {
        let actors = self.programs.len();
        let regs = state.regs[..actors].to_vec();
        (regs, state.bytes[..self.bytes].to_vec(), self.unfinished(state))
    }

    fn watch(&self, state: &ToyState) -> u32 {
        // Bit 0: actor 0 has finished; bit 1: a byte is 3 or more; bit 2: a deadlock.
        let is_stuck = self.enabled(state) == 0 && self.unfinished(state) != 0;
        u32::from(self.unfinished(state) & 1 == 0)
            | u32::from(state.bytes.iter().any(|&byte| byte >= 3)) << 1
            | u32::from(is_stuck) << 2
    }
}

/// `actors` that share nothing and take `steps` steps each.
pub(crate) fn independent(actors: u8, steps: usize) -> Toy {
    let program = |var| vec![Op::Store { var, value: 0 }; steps];
    Toy { programs: (0..actors).map(program).collect(), bytes: usize::from(actors) }
}

/// `actors` that each add 1 to the same byte `times` times without a lock.
pub(crate) fn racing(actors: u8, times: usize) -> Toy {
    let once = [Op::Load { var: 0 }, Op::StoreReg { var: 0, plus: 1 }];
    Toy { programs: (0..actors).map(|_| once.repeat(times)).collect(), bytes: 1 }
}

/// Dining philosophers who each eat `meals` times; all left-handed, so that they may starve.
pub(crate) fn philosophers(actors: u8, meals: usize) -> Toy {
    let program = |left: u8| {
        let right = (left + 1) % actors;
        [
            Op::Lock { var: left },
            Op::Lock { var: right },
            Op::Unlock { var: left },
            Op::Unlock { var: right },
        ]
        .repeat(meals)
    };
    Toy { programs: (0..actors).map(program).collect(), bytes: usize::from(actors) }
}

/// `actors` that each take a handle and then step on: symmetric in the handles' names.
pub(crate) fn allocating(actors: u8) -> Toy {
    let program = |_| vec![Op::Alloc, Op::SkipIf { var: 0 }];
    Toy { programs: (0..actors).map(program).collect(), bytes: 1 }
}

/// A machine to time: racing increments over several counters, encoded in about 100 bytes.
pub(crate) fn workload(actors: u8, times: usize) -> Toy {
    let program = |actor: u8| {
        let once = |n: usize| {
            let var = u8::try_from(n % 2).unwrap_or(0) * (actor % 2 + 1);
            [Op::Load { var }, Op::StoreReg { var, plus: 1 }]
        };
        (0..times).flat_map(once).collect()
    };
    let programs: Vec<_> = (0..actors).map(program).collect();
    let bytes = (100 - 3 * programs.len()).min(BYTES_MAX);
    Toy { programs, bytes }
}
