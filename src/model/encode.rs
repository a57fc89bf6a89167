//! States as bytes, up to the names of frames.
//!
//! Frames of one placement differ in name only (unless neighbours matter: to a bus that has an
//! offset, and to huge entries, which need contiguous frames). [`encode`] numbers them in the order in which the rest of the state mentions them, so
//! that two states that differ by a renaming give the same bytes; [`super::decode()`] gives the state of
//! that class whose frames have those numbers.

use super::mentions::{
    BUFS, DEVICES, FRAMES, FRAMES_MAX, FrameSet, HAZARDS, PAGES, PARTS, PINS, PTES, VMAS, one,
    placement_index,
};
use super::objects::{Frame, Owner, Pte, Slot, Target, Vma};
use super::rules::Bus;
use super::state::State;
use super::world::World;
use crate::units::FrameId;

const NONE: u8 = u8::MAX;

/// Names given so far.
struct Names<'a> {
    world: &'a World,
    /// While each that has a name has its own: those. Beyond that, they are in `name` and `order`.
    own: Option<FrameSet>,
    name: [u8; 256],
    order: [u8; 256],
    next: [u8; 3],
    fixed: bool,
    /// Whether it matters what free frames hold.
    shown: bool,
}

impl<'a> Names<'a> {
    fn new(world: &'a World) -> Self {
        let fixed = world.host.bus == Bus::Offset || world.huge_entries();
        let shown = fixed || world.shows_last_owners();
        let own = (world.frames.len() <= FRAMES_MAX).then_some(0);
        let next = world.places.map(|(first, _)| first);
        Self { world, own, name: [NONE; 256], order: [NONE; 256], next, fixed, shown }
    }

    #[inline]
    fn of(&mut self, frame: FrameId) -> u8 {
        if frame.is_none() {
            return NONE;
        }
        if let Some(own) = &mut self.own {
            if *own & one(frame) != 0 {
                return frame.0;
            }
            let (first, all) = self.world.places[placement_index(self.world.frames[frame.index()])];
            let is_next = || u32::from(first) + (*own & all).count_ones() == u32::from(frame.0);
            if self.fixed || frame == self.world.zero || is_next() {
                *own |= one(frame);
                return frame.0;
            }
            self.keep();
        }
        self.given(frame)
    }

    /// From here on names are not those of the frames.
    #[cold]
    fn keep(&mut self) {
        let own = self.own.take().unwrap_or_default();
        for index in (0..self.world.frames.len()).filter(|index| own >> index & 1 != 0) {
            self.given(FrameId::at(index));
        }
    }

    fn given(&mut self, frame: FrameId) -> u8 {
        if self.name[frame.index()] == NONE {
            let name = if self.fixed || frame == self.world.zero {
                frame.0
            } else {
                let next = &mut self.next[placement_index(self.world.frames[frame.index()])];
                let name = *next;
                *next += 1;
                name
            };
            self.name[frame.index()] = name;
            self.order[usize::from(name)] = frame.0;
        }
        self.name[frame.index()]
    }

    /// Whether a frame has a name.
    #[inline]
    fn has(&self, frame: usize) -> bool {
        match self.own {
            Some(own) => own >> frame & 1 != 0,
            None => self.name[frame] != NONE,
        }
    }

    /// The frame of a name, when all have one.
    #[inline]
    fn frame(&self, name: usize) -> usize {
        match self.own {
            Some(_) => name,
            None => usize::from(self.order[name]),
        }
    }
}

/// Append the bytes of `state` to `out`: equal for two states of one world exactly when they are
/// equal up to the names of frames and to what no step can see any more.
///
/// Appends to `ends` where parts end that steps mostly leave alone, in positions of `out`: as many
/// for every state of the world.
pub fn encode(world: &World, state: &State, out: &mut Vec<u8>, ends: &mut Vec<usize>) {
    let mut names = Names::new(world);
    for part in 0..PARTS {
        encode_part(state, part, &mut names, out);
        if part != HAZARDS {
            ends.push(out.len());
        }
    }
}

/// As [`encode`], of a state that was restored from one that was decoded from `parts`, and changed since:
/// without the parts that are the same, and with an end for every other. Returns which are the same,
/// a bit each.
pub fn encode_after(
    world: &World,
    state: &State,
    parts: &[Vec<u8>],
    out: &mut Vec<u8>,
    ends: &mut Vec<usize>,
) -> u16 {
    let mut names = Names::new(world);
    let (mut before, mut same) = (0, 0);
    for (part, old) in parts.iter().enumerate().take(PARTS) {
        let mentioned = state.mentions.of(part);
        let is_named = matches!(part, BUFS | VMAS) || names.own == Some(before);
        let start = out.len();
        if is_named && !is_changed(state, part) {
            if let Some(own) = &mut names.own {
                *own |= mentioned;
            }
            same |= 1 << part;
        } else {
            encode_part(state, part, &mut names, out);
            if out[start..] == *old {
                out.truncate(start);
                same |= 1 << part;
            } else {
                ends.push(out.len());
            }
        }
        before |= mentioned;
    }
    same
}

/// Whether somebody may have changed what a part tells of.
fn is_changed(state: &State, part: usize) -> bool {
    match part {
        BUFS => state.bufs.is_changed(),
        PAGES => state.pages.is_changed(),
        VMAS => state.vmas.is_changed() || state.detached.is_changed(),
        PTES => state.ptes.is_changed() || state.translations.is_changed(),
        PINS => state.pins.is_changed(),
        DEVICES => {
            state.attachments.is_changed()
                || state.sgs.is_changed()
                || state.sg_frames.is_changed()
                || state.tlb.is_changed()
                || state.fences.is_changed()
                || state.dmas.is_changed()
                || state.mms.is_changed()
                || state.tickets.is_changed()
        }
        FRAMES => state.frames.is_changed(),
        _ => true,
    }
}

fn encode_part(state: &State, part: usize, names: &mut Names<'_>, out: &mut Vec<u8>) {
    match part {
        BUFS => {
            for buf in state.bufs.unnoted() {
                let life = buf.life as u8;
                let places = placement_index(buf.placement) | placement_index(buf.dest) << 2;
                let places = u8::try_from(places).unwrap_or(NONE);
                let flags =
                    u8::from(buf.begun) | u8::from(buf.moving) << 1 | u8::from(buf.kept) << 2;
                let lock = buf.lock.0;
                out.extend_from_slice(&[
                    life | places << 4,
                    lock,
                    buf.pins,
                    buf.fds,
                    buf.vma_pointer.0,
                    flags,
                ]);
            }
        }
        PAGES => {
            for page in state.pages.unnoted() {
                let (frame, next) = (names.of(page.frame), names.of(page.next));
                let (old, shadow) = (names.of(page.old), names.of(page.shadow));
                let newer = page.private_newer.into();
                out.extend_from_slice(&[frame, next, old, shadow, page.ghost, newer]);
            }
        }
        VMAS => {
            state.vmas.unnoted().iter().for_each(|vma| encode_vma(vma, out));
            for detached in state.detached.unnoted() {
                encode_vma(&detached.area, out);
                if detached.area.mapped != 0 {
                    out.push(detached.linked.into());
                }
            }
        }
        PTES => encode_ptes(state, names, out),
        PINS => {
            for pin in state.pins.unnoted() {
                out.push(pin.slot as u8);
                if matches!(pin.slot, Slot::Held | Slot::Taking | Slot::Invalid) {
                    let flags =
                        u8::from(pin.counted) | u8::from(pin.write) << 1 | u8::from(pin.get) << 2;
                    let frame = names.of(pin.frame);
                    let (kind, target) = target_bytes(pin.target);
                    out.extend_from_slice(&[flags, frame, pin.pte.0, kind, target]);
                }
            }
        }
        DEVICES => encode_devices(names.world, state, names, out),
        FRAMES => encode_frames(state, names, out),
        _ => {
            out.extend_from_slice(&state.hazards.to_le_bytes());
            out.push(state.warned.into());
        }
    }
}

fn encode_ptes(state: &State, names: &mut Names<'_>, out: &mut Vec<u8>) {
    for pte in state.ptes.unnoted() {
        let frame = names.of(pte.frame);
        out.push(frame);
        if pte.present() {
            out.extend_from_slice(&[pte_flags(pte), pte.ghost]);
        }
    }
    for entry in state.translations.unnoted() {
        let frame = names.of(entry.frame);
        out.push(frame);
        if entry.frame.is_some() {
            out.extend_from_slice(&entry.cpus.to_le_bytes());
            out.extend_from_slice(&entry.writers.to_le_bytes());
            out.push(entry.gathered.into());
        }
    }
}

fn encode_vma(vma: &Vma, out: &mut Vec<u8>) {
    out.extend_from_slice(&vma.mapped.to_le_bytes());
    if vma.mapped != 0 {
        let flags = u8::from(vma.shared) | u8::from(vma.read) << 1 | u8::from(vma.write) << 2;
        let kind = vma.kind as u8 | (vma.reach as u8) << 4;
        out.extend_from_slice(&[vma.buf.0, vma.offset, flags, kind]);
    }
}

fn encode_devices(world: &World, state: &State, names: &mut Names<'_>, out: &mut Vec<u8>) {
    for entry in state.attachments.unnoted() {
        out.push(entry.slot as u8 | u8::from(entry.dynamic) << 4);
        out.extend_from_slice(&[entry.buf.0, entry.pins]);
    }
    for (index, slot) in state.sgs.unnoted().iter().enumerate() {
        out.push(*slot as u8);
        if !matches!(slot, Slot::None | Slot::Failed) {
            let first = world.sgs[index].first;
            for frame in &state.sg_frames.unnoted()[first..first + usize::from(world.pages_max())] {
                let name = names.of(*frame);
                out.push(name);
            }
        }
    }
    for addresses in state.tlb.unnoted().chunks(crate::units::MAX_PAGES) {
        for frame in &addresses[..usize::from(world.pages_max())] {
            let name = names.of(*frame);
            out.push(name);
        }
    }
    for fence in state.fences.unnoted() {
        out.push(fence.slot as u8);
        if fence.slot == Slot::Held {
            let usage = fence.usage as u8 | u8::from(fence.writes) << 4;
            out.extend_from_slice(&[fence.buf.0, usage, fence.actor.0]);
        }
    }
    for dma in state.dmas.unnoted() {
        out.push(dma.busy.into());
        if dma.busy {
            let frame = names.of(dma.frame);
            let (kind, target) = target_bytes(dma.target);
            out.extend_from_slice(&[frame, kind, target, dma.pin.0]);
        }
    }
    for mm in state.mms.unnoted() {
        for bits in [mm.readers, mm.faults, mm.queued] {
            out.extend_from_slice(&bits.to_le_bytes());
        }
        out.push(mm.writer.0);
    }
    for ticket in state.tickets.unnoted() {
        out.extend_from_slice(&[ticket.age, ticket.held, ticket.contended.0]);
    }
}

fn encode_frames(state: &State, names: &mut Names<'_>, out: &mut Vec<u8>) {
    // What nothing mentions: leaked frames, then the free ones in the order of their lists, so that
    // names do not depend on history.
    let mut rest = [0u8; 256];
    let mut count = 0;
    let frames = state.frames.unnoted();
    for index in 0..frames.len() {
        if !names.has(index) {
            rest[count] = FrameId::at(index).0;
            count += 1;
        }
    }
    name_leaked(state, names);
    let rest = &mut rest[..count];
    rest.sort_unstable_by_key(|index| {
        let frame = &frames[usize::from(*index)];
        let held = (frame.value, frame.cached, frame.dirty, frame.cache_value);
        (frame.rank, held, *index)
    });
    let mut unmentioned = [false; 256];
    for index in rest {
        unmentioned[usize::from(*index)] = true;
        names.of(FrameId(*index));
    }
    for name in 0..frames.len() {
        let index = names.frame(name);
        let frame = &frames[index];
        // Nobody can see what a free frame holds that nothing refers to, unless the bus has an
        // offset, or the next owner finds it.
        let visible = !unmentioned[index] || frame.rank == 0 || names.shown;
        let (value, cache) = if visible { (frame.value, frame.cache_value) } else { (0, 0) };
        let flags = u8::from(frame.cached && visible) | u8::from(frame.dirty && visible) << 1;
        let (kind, owner) = owner_bytes(frame.owner);
        out.extend_from_slice(&[frame.rank, kind << 4 | flags, owner, value]);
        if flags != 0 {
            out.push(cache);
        }
    }
}

/// Names the frames that are in use and that nothing refers to, as a broken exporter leaves them:
/// in the order of what they are, since they have no other.
fn name_leaked(state: &State, names: &mut Names<'_>) {
    let what = |frame: &Frame| {
        let lines = (frame.cached, frame.dirty, frame.cache_value);
        (owner_bytes(frame.owner), frame.value, lines)
    };
    loop {
        let frames = state.frames.unnoted().iter().enumerate();
        let leaked = frames.filter(|(index, frame)| frame.rank == 0 && !names.has(*index));
        match leaked.min_by_key(|(_, frame)| what(frame)) {
            Some((index, _)) => names.of(FrameId::at(index)),
            None => return,
        };
    }
}

fn pte_flags(pte: &Pte) -> u8 {
    u8::from(pte.write)
        | u8::from(pte.special) << 1
        | u8::from(pte.huge) << 2
        | u8::from(pte.counted) << 3
        | u8::from(pte.exclusive) << 4
        | u8::from(pte.own) << 5
        | u8::from(pte.buffer_newer) << 6
}

const fn target_bytes(target: Target) -> (u8, u8) {
    match target {
        Target::Page(page) => (0, page.0),
        Target::Va(pte) => (1, pte.0),
    }
}

const fn owner_bytes(owner: Owner) -> (u8, u8) {
    match owner {
        Owner::Free => (0, 0),
        Owner::Page(page) => (1, page.0),
        Owner::Reserved(page) => (2, page.0),
        Owner::Retired(page) => (3, page.0),
        Owner::Shadow(page) => (4, page.0),
        Owner::Anon => (5, 0),
        Owner::Orphan => (6, 0),
        Owner::Zero => (7, 0),
        Owner::Bounce(page) => (8, page.0),
    }
}
