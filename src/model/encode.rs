//! States as bytes, up to the names of frames.
//!
//! Frames of one placement differ in name only (unless neighbours matter: to a bus that has an
//! offset, and to huge entries, which need contiguous frames). [`encode`] numbers them in the order in which the rest of the state mentions them, so
//! that two states that differ by a renaming give the same bytes; [`decode`] gives the state of
//! that class whose frames have those numbers.

use super::objects::{
    Attachment, Detached, Dma, DmaBuf, Frame, Life, MmapLock, Owner, Page, Pte, Reach, Slot,
    Target, Ticket, Translation, Vma, VmaKind,
};
use super::rules::{Bus, Placement, Usage};
use super::state::State;
use super::world::World;
use crate::units::{ActorId, BufId, FrameId, PageId, PinId, PteId, VmaId};

const NONE: u8 = u8::MAX;

/// Names given so far.
struct Names<'a> {
    world: &'a World,
    name: [u8; 256],
    order: [u8; 256],
    next: [u8; 3],
    fixed: bool,
    /// Whether it matters what free frames hold.
    shown: bool,
}

const fn placement_index(placement: Placement) -> usize {
    match placement {
        Placement::Vram => 0,
        Placement::System => 1,
        Placement::Cma => 2,
    }
}

impl<'a> Names<'a> {
    fn new(world: &'a World) -> Self {
        let mut next = [0; 3];
        for (index, placement) in world.frames.iter().enumerate().rev() {
            next[placement_index(*placement)] = FrameId::at(index).0;
        }
        let fixed = world.host.bus == Bus::Offset || world.huge_entries();
        let shown = fixed || world.fills_in_cache();
        Self { world, name: [NONE; 256], order: [NONE; 256], next, fixed, shown }
    }

    #[inline]
    fn of(&mut self, frame: FrameId) -> u8 {
        if frame.is_none() {
            return NONE;
        }
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
}

/// Append the bytes of `state` to `out`: equal for two states of one world exactly when they are
/// equal up to the names of frames and to what no step can see any more.
///
/// Appends to `ends` where parts end that steps mostly leave alone, in positions of `out`: as many
/// for every state of the world.
pub fn encode(world: &World, state: &State, out: &mut Vec<u8>, ends: &mut Vec<usize>) {
    let mut names = Names::new(world);
    for buf in &state.bufs {
        let life = buf.life as u8;
        let places = placement_index(buf.placement) | placement_index(buf.dest) << 2;
        let places = u8::try_from(places).unwrap_or(NONE);
        out.extend_from_slice(&[life | places << 4, buf.lock.0, buf.pins, buf.fds]);
        let flags = u8::from(buf.begun) | u8::from(buf.moving) << 1;
        out.extend_from_slice(&[buf.vma_pointer.0, flags]);
    }
    ends.push(out.len());
    for page in &state.pages {
        let (frame, next) = (names.of(page.frame), names.of(page.next));
        let (old, shadow) = (names.of(page.old), names.of(page.shadow));
        out.extend_from_slice(&[frame, next, old, shadow, page.ghost, page.private_newer.into()]);
    }
    ends.push(out.len());
    for vma in &state.vmas {
        encode_vma(vma, out);
    }
    for detached in &state.detached {
        encode_vma(&detached.area, out);
        if detached.area.mapped != 0 {
            out.push(detached.linked.into());
        }
    }
    ends.push(out.len());
    for pte in &state.ptes {
        let frame = names.of(pte.frame);
        out.push(frame);
        if pte.present() {
            out.extend_from_slice(&[pte_flags(pte), pte.ghost]);
        }
    }
    for entry in &state.translations {
        let frame = names.of(entry.frame);
        out.push(frame);
        if entry.frame.is_some() {
            out.extend_from_slice(&entry.cpus.to_le_bytes());
            out.extend_from_slice(&entry.writers.to_le_bytes());
            out.push(entry.gathered.into());
        }
    }
    ends.push(out.len());
    for pin in &state.pins {
        out.push(pin.slot as u8);
        if matches!(pin.slot, Slot::Held | Slot::Taking | Slot::Invalid) {
            let flags = u8::from(pin.counted) | u8::from(pin.write) << 1 | u8::from(pin.get) << 2;
            let frame = names.of(pin.frame);
            let (kind, target) = target_bytes(pin.target);
            out.extend_from_slice(&[flags, frame, pin.pte.0, kind, target]);
        }
    }
    ends.push(out.len());
    encode_devices(world, state, &mut names, out);
    ends.push(out.len());
    encode_frames(state, &mut names, out);
    ends.push(out.len());
    out.extend_from_slice(&state.hazards.to_le_bytes());
    out.push(state.warned.into());
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
    for entry in &state.attachments {
        out.push(entry.slot as u8 | u8::from(entry.dynamic) << 4);
        out.extend_from_slice(&[entry.buf.0, entry.pins]);
    }
    for (index, slot) in state.sgs.iter().enumerate() {
        out.push(*slot as u8);
        if !matches!(slot, Slot::None | Slot::Failed) {
            let first = world.sgs[index].first;
            for frame in &state.sg_frames[first..first + usize::from(world.pages_max())] {
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
    for fence in &state.fences {
        out.push(fence.slot as u8);
        if fence.slot == Slot::Held {
            let usage = fence.usage as u8 | u8::from(fence.writes) << 4;
            out.extend_from_slice(&[fence.buf.0, usage, fence.actor.0]);
        }
    }
    for dma in &state.dmas {
        out.push(dma.busy.into());
        if dma.busy {
            let frame = names.of(dma.frame);
            let (kind, target) = target_bytes(dma.target);
            out.extend_from_slice(&[frame, kind, target, dma.pin.0]);
        }
    }
    for mm in &state.mms {
        for bits in [mm.readers, mm.faults, mm.queued] {
            out.extend_from_slice(&bits.to_le_bytes());
        }
        out.push(mm.writer.0);
    }
    for ticket in &state.tickets {
        out.extend_from_slice(&[ticket.age, ticket.held, ticket.contended.0]);
    }
}

fn encode_frames(state: &State, names: &mut Names<'_>, out: &mut Vec<u8>) {
    // What nothing mentions: leaked frames, then the free ones in the order of their lists, so that
    // names do not depend on history.
    let mut rest = [0u8; 256];
    let mut count = 0;
    for index in 0..state.frames.len() {
        if names.name[index] == NONE {
            rest[count] = FrameId::at(index).0;
            count += 1;
        }
    }
    name_leaked(state, names);
    let rest = &mut rest[..count];
    rest.sort_unstable_by_key(|index| {
        let frame = &state.frames[usize::from(*index)];
        let held = (frame.value, frame.cached, frame.dirty, frame.cache_value);
        (frame.rank, held, *index)
    });
    let mut unmentioned = [false; 256];
    for index in rest {
        unmentioned[usize::from(*index)] = true;
        names.of(FrameId(*index));
    }
    for name in 0..state.frames.len() {
        let index = usize::from(names.order[name]);
        let frame = &state.frames[index];
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
        let frames = state.frames.iter().enumerate();
        let leaked = frames.filter(|(index, frame)| frame.rank == 0 && names.name[*index] == NONE);
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

/// Reads what [`encode`] wrote.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    #[inline]
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().expect("bytes written by encode");
        self.bytes = rest;
        *first
    }

    #[inline]
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (first, rest) = self.bytes.split_first_chunk().expect("bytes written by encode");
        self.bytes = rest;
        *first
    }
}

/// Set `state` to what `bytes` describe; returns the bytes after them.
///
/// # Panics
/// When `bytes` were not written by [`encode`] for the same world.
pub fn decode<'a>(world: &World, bytes: &'a [u8], state: &mut State) -> &'a [u8] {
    let mut reader = Reader { bytes };
    for buf in &mut state.bufs {
        let [head, lock, pins, fds, vma_pointer, flags] = reader.bytes();
        *buf = DmaBuf {
            life: life_of(head & 15),
            lock: ActorId(lock),
            pins,
            fds,
            placement: placement_of(head >> 4 & 3),
            dest: placement_of(head >> 6),
            vma_pointer: VmaId(vma_pointer),
            begun: flags & 1 != 0,
            moving: flags & 2 != 0,
        };
    }
    for page in &mut state.pages {
        let [frame, next, old, shadow, ghost, newer] = reader.bytes();
        *page = Page {
            frame: FrameId(frame),
            next: FrameId(next),
            old: FrameId(old),
            shadow: FrameId(shadow),
            ghost,
            private_newer: newer != 0,
        };
    }
    decode_cpu(&mut reader, state);
    decode_devices(world, &mut reader, state);
    for frame in &mut state.frames {
        let [rank, head, owner, value] = reader.bytes();
        let (cached, dirty) = (head & 1 != 0, head & 2 != 0);
        let cache_value = if head & 3 != 0 { reader.byte() } else { 0 };
        let owner = owner_of(head >> 4, owner);
        let write_combined = false;
        *frame = Frame { owner, value, cached, dirty, cache_value, rank, write_combined };
    }
    let [low, high, warned] = reader.bytes();
    state.hazards = u16::from_le_bytes([low, high]);
    state.warned = warned != 0;
    reader.bytes
}

fn decode_vma(reader: &mut Reader<'_>) -> Vma {
    let mut vma = super::objects::EMPTY_VMA;
    vma.mapped = u16::from_le_bytes(reader.bytes());
    if vma.mapped != 0 {
        let [buf, offset, flags, kind] = reader.bytes();
        vma.buf = BufId(buf);
        vma.offset = offset;
        (vma.shared, vma.read, vma.write) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        (vma.kind, vma.reach) = (kind_of(kind & 15), reach_of(kind >> 4));
    }
    vma
}

fn decode_cpu(reader: &mut Reader<'_>, state: &mut State) {
    for vma in &mut state.vmas {
        *vma = decode_vma(reader);
    }
    for detached in &mut state.detached {
        let area = decode_vma(reader);
        let linked = area.mapped != 0 && reader.byte() != 0;
        *detached = Detached { area, linked };
    }
    for pte in &mut state.ptes {
        *pte = Pte::ABSENT;
        pte.frame = FrameId(reader.byte());
        if pte.present() {
            let [flags, ghost] = reader.bytes();
            let bit = |bit: u8| flags & 1 << bit != 0;
            *pte = Pte {
                frame: pte.frame,
                write: bit(0),
                special: bit(1),
                huge: bit(2),
                counted: bit(3),
                exclusive: bit(4),
                own: bit(5),
                ghost,
                buffer_newer: bit(6),
            };
        }
    }
    for entry in &mut state.translations {
        *entry = Translation::NONE;
        entry.frame = FrameId(reader.byte());
        if entry.frame.is_some() {
            entry.cpus = u16::from_le_bytes(reader.bytes());
            entry.writers = u16::from_le_bytes(reader.bytes());
            entry.gathered = reader.byte() != 0;
        }
    }
    for pin in &mut state.pins {
        *pin = super::objects::EMPTY_PIN;
        pin.slot = slot_of(reader.byte());
        if matches!(pin.slot, Slot::Held | Slot::Taking | Slot::Invalid) {
            let [flags, frame, pte, kind, target] = reader.bytes();
            (pin.counted, pin.write, pin.get) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            pin.frame = FrameId(frame);
            pin.pte = PteId(pte);
            pin.target = target_of(kind, target);
        }
    }
}

fn decode_devices(world: &World, reader: &mut Reader<'_>, state: &mut State) {
    for entry in &mut state.attachments {
        let [head, buf, pins] = reader.bytes();
        let (slot, dynamic) = (slot_of(head & 15), head >> 4 != 0);
        *entry = Attachment { slot, buf: BufId(buf), dynamic, pins };
    }
    for index in 0..state.sgs.len() {
        let slot = slot_of(reader.byte());
        state.sgs[index] = slot;
        let empty = matches!(slot, Slot::None | Slot::Failed);
        let first = world.sgs[index].first;
        let frames = state.sg_frames.unnoted_mut();
        for frame in &mut frames[first..first + usize::from(world.pages_max())] {
            *frame = if empty { FrameId::NONE } else { FrameId(reader.byte()) };
        }
    }
    for addresses in state.tlb.unnoted_mut().chunks_mut(crate::units::MAX_PAGES) {
        for frame in &mut addresses[..usize::from(world.pages_max())] {
            *frame = FrameId(reader.byte());
        }
    }
    for fence in &mut state.fences {
        *fence = super::objects::EMPTY_FENCE;
        fence.slot = slot_of(reader.byte());
        if fence.slot == Slot::Held {
            let [buf, usage, actor] = reader.bytes();
            fence.buf = BufId(buf);
            fence.usage = usage_of(usage & 15);
            fence.writes = usage >> 4 != 0;
            fence.actor = ActorId(actor);
        }
    }
    for dma in &mut state.dmas {
        *dma = Dma::IDLE;
        if reader.byte() != 0 {
            let [frame, kind, target, pin] = reader.bytes();
            let target = target_of(kind, target);
            *dma = Dma { busy: true, frame: FrameId(frame), target, pin: PinId(pin) };
        }
    }
    for mm in &mut state.mms {
        let [readers, faults, queued] = [(); 3].map(|()| u16::from_le_bytes(reader.bytes()));
        let [writer] = reader.bytes();
        *mm = MmapLock { readers, faults, writer: ActorId(writer), queued };
    }
    for ticket in &mut state.tickets {
        let [age, held, contended] = reader.bytes();
        *ticket = Ticket { age, held, contended: BufId(contended) };
    }
}

const fn life_of(byte: u8) -> Life {
    match byte {
        0 => Life::Unallocated,
        1 => Life::Live,
        2 => Life::Purged,
        3 => Life::Revoked,
        4 => Life::Quiesced,
        _ => Life::Released,
    }
}

const fn placement_of(byte: u8) -> Placement {
    match byte {
        0 => Placement::Vram,
        1 => Placement::System,
        _ => Placement::Cma,
    }
}

const fn kind_of(byte: u8) -> VmaKind {
    match byte {
        0 => VmaKind::Pfnmap,
        1 => VmaKind::Mixedmap,
        _ => VmaKind::Normal,
    }
}

const fn reach_of(byte: u8) -> Reach {
    match byte {
        0 => Reach::Exporter,
        1 => Reach::WrongPgoff,
        2 => Reach::Importer,
        3 => Reach::Shadow,
        4 => Reach::SgTable,
        5 => Reach::Aperture,
        _ => Reach::Anon,
    }
}

const fn slot_of(byte: u8) -> Slot {
    match byte {
        0 => Slot::None,
        1 => Slot::Held,
        2 => Slot::Taking,
        3 => Slot::Invalid,
        4 => Slot::Failed,
        _ => Slot::Dropped,
    }
}

const fn usage_of(byte: u8) -> Usage {
    match byte {
        0 => Usage::Kernel,
        1 => Usage::Write,
        2 => Usage::Read,
        _ => Usage::Bookkeep,
    }
}

const fn target_of(kind: u8, index: u8) -> Target {
    if kind == 0 { Target::Page(PageId(index)) } else { Target::Va(PteId(index)) }
}

const fn owner_of(kind: u8, page: u8) -> Owner {
    let page = PageId(page);
    match kind {
        0 => Owner::Free,
        1 => Owner::Page(page),
        2 => Owner::Reserved(page),
        3 => Owner::Retired(page),
        4 => Owner::Shadow(page),
        5 => Owner::Anon,
        7 => Owner::Zero,
        8 => Owner::Bounce(page),
        _ => Owner::Orphan,
    }
}

/// The numbers of the enums above are their declaration order.
const _: () = {
    assert!(Life::Released as u8 == 5 && Life::Live as u8 == 1);
    assert!(VmaKind::Normal as u8 == 2 && Reach::Anon as u8 == 6);
    assert!(Slot::Dropped as u8 == 5 && Usage::Bookkeep as u8 == 3);
};
