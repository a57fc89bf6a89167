//! States from bytes: what [`super::encode()`] wrote, read again.

use super::mentions::{
    BUFS, DEVICES, FRAMES, FrameSet, HAZARDS, Mentions, PAGES, PARTS, PINS, PTES, VMAS, one,
};
use super::objects::{
    Attachment, Detached, Dma, DmaBuf, EMPTY_FENCE, EMPTY_PIN, EMPTY_VMA, Frame, Life, MmapLock,
    Owner, Page, Pte, Reach, Slot, Target, Ticket, Translation, Vma, VmaKind,
};
use super::rules::{Placement, Usage};
use super::state::State;
use super::world::World;
use crate::units::{ActorId, BufId, FrameId, MAX_PAGES, PageId, PinId, PteId, VmaId};

/// Reads what [`super::encode()`] wrote.
struct Reader<'a> {
    bytes: &'a [u8],
    /// The frames that were read.
    mentioned: FrameSet,
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

    #[inline]
    fn frame(&mut self, byte: u8) -> FrameId {
        let frame = FrameId(byte);
        self.mentioned |= one(frame);
        frame
    }
}

/// Set `state` to what `bytes` describe; returns the bytes after them.
///
/// # Panics
/// When `bytes` were not written by [`super::encode()`] for the same world.
pub fn decode<'a>(world: &World, bytes: &'a [u8], state: &mut State) -> &'a [u8] {
    let mut reader = Reader { bytes, mentioned: 0 };
    let mut mentions = Mentions::default();
    for part in 0..PARTS {
        reader.mentioned = 0;
        decode_part(world, part, &mut reader, state);
        mentions.set(part, reader.mentioned);
    }
    state.mentions = mentions;
    reader.bytes
}

/// Set `state` to what `parts` describe, as [`decode`] does, if it is what they described before those
/// of `stale`, a bit each, were replaced.
///
/// # Panics
/// When the parts were not written by [`super::encode()`] for the same world.
pub fn refresh(world: &World, parts: &[Vec<u8>], stale: u16, state: &mut State) {
    for (part, bytes) in parts.iter().enumerate().take(PARTS) {
        if stale >> part & 1 != 0 {
            let mut reader = Reader { bytes, mentioned: 0 };
            decode_part(world, part, &mut reader, state);
            state.mentions.set(part, reader.mentioned);
        }
    }
}

fn decode_part(world: &World, part: usize, reader: &mut Reader<'_>, state: &mut State) {
    match part {
        BUFS => decode_bufs(reader, state),
        PAGES => {
            for page in state.pages.unnoted_mut() {
                let [frame, next, old, shadow, ghost, newer] = reader.bytes();
                *page = Page {
                    frame: reader.frame(frame),
                    next: reader.frame(next),
                    old: reader.frame(old),
                    shadow: reader.frame(shadow),
                    ghost,
                    private_newer: newer != 0,
                };
            }
        }
        VMAS => decode_vmas(reader, state),
        PTES => decode_ptes(reader, state),
        PINS => decode_pins(reader, state),
        DEVICES => decode_devices(world, reader, state),
        FRAMES => {
            for frame in state.frames.unnoted_mut() {
                let [rank, head, owner, value] = reader.bytes();
                let (cached, dirty) = (head & 1 != 0, head & 2 != 0);
                let cache_value = if head & 3 != 0 { reader.byte() } else { 0 };
                let owner = owner_of(head >> 4, owner);
                let write_combined = false;
                *frame = Frame { owner, value, cached, dirty, cache_value, rank, write_combined };
            }
        }
        HAZARDS => {
            let [low, high, warned] = reader.bytes();
            state.hazards = u16::from_le_bytes([low, high]);
            state.warned = warned != 0;
        }
        _ => {}
    }
}

fn decode_bufs(reader: &mut Reader<'_>, state: &mut State) {
    for buf in state.bufs.unnoted_mut() {
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
            kept: flags & 4 != 0,
        };
    }
}

fn decode_vmas(reader: &mut Reader<'_>, state: &mut State) {
    state.vmas.unnoted_mut().iter_mut().for_each(|vma| *vma = decode_vma(reader));
    for detached in state.detached.unnoted_mut() {
        let area = decode_vma(reader);
        let linked = area.mapped != 0 && reader.byte() != 0;
        *detached = Detached { area, linked };
    }
}

fn decode_vma(reader: &mut Reader<'_>) -> Vma {
    let mut vma = EMPTY_VMA;
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

fn decode_ptes(reader: &mut Reader<'_>, state: &mut State) {
    for pte in state.ptes.unnoted_mut() {
        *pte = Pte::ABSENT;
        let byte = reader.byte();
        pte.frame = reader.frame(byte);
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
    for entry in state.translations.unnoted_mut() {
        *entry = Translation::NONE;
        let byte = reader.byte();
        entry.frame = reader.frame(byte);
        if entry.frame.is_some() {
            entry.cpus = u16::from_le_bytes(reader.bytes());
            entry.writers = u16::from_le_bytes(reader.bytes());
            entry.gathered = reader.byte() != 0;
        }
    }
}

fn decode_pins(reader: &mut Reader<'_>, state: &mut State) {
    for pin in state.pins.unnoted_mut() {
        *pin = EMPTY_PIN;
        pin.slot = slot_of(reader.byte());
        if matches!(pin.slot, Slot::Held | Slot::Taking | Slot::Invalid) {
            let [flags, frame, pte, kind, target] = reader.bytes();
            (pin.counted, pin.write, pin.get) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            pin.frame = reader.frame(frame);
            pin.pte = PteId(pte);
            pin.target = target_of(kind, target);
        }
    }
}

fn decode_devices(world: &World, reader: &mut Reader<'_>, state: &mut State) {
    for entry in state.attachments.unnoted_mut() {
        let [head, buf, pins] = reader.bytes();
        let (slot, dynamic) = (slot_of(head & 15), head >> 4 != 0);
        *entry = Attachment { slot, buf: BufId(buf), dynamic, pins };
    }
    for index in 0..state.sgs.len() {
        let slot = slot_of(reader.byte());
        state.sgs.unnoted_mut()[index] = slot;
        let empty = matches!(slot, Slot::None | Slot::Failed);
        let first = world.sgs[index].first;
        let frames = state.sg_frames.unnoted_mut();
        for frame in &mut frames[first..first + usize::from(world.pages_max())] {
            *frame = FrameId::NONE;
            if !empty {
                let byte = reader.byte();
                *frame = reader.frame(byte);
            }
        }
    }
    for addresses in state.tlb.unnoted_mut().chunks_mut(MAX_PAGES) {
        for frame in &mut addresses[..usize::from(world.pages_max())] {
            let byte = reader.byte();
            *frame = reader.frame(byte);
        }
    }
    for fence in state.fences.unnoted_mut() {
        *fence = EMPTY_FENCE;
        fence.slot = slot_of(reader.byte());
        if fence.slot == Slot::Held {
            let [buf, usage, actor] = reader.bytes();
            fence.buf = BufId(buf);
            fence.usage = usage_of(usage & 15);
            fence.writes = usage >> 4 != 0;
            fence.actor = ActorId(actor);
        }
    }
    for dma in state.dmas.unnoted_mut() {
        *dma = Dma::IDLE;
        if reader.byte() != 0 {
            let [frame, kind, target, pin] = reader.bytes();
            let target = target_of(kind, target);
            *dma = Dma { busy: true, frame: reader.frame(frame), target, pin: PinId(pin) };
        }
    }
    for mm in state.mms.unnoted_mut() {
        let [readers, faults, queued] = [(); 3].map(|()| u16::from_le_bytes(reader.bytes()));
        let [writer] = reader.bytes();
        *mm = MmapLock { readers, faults, writer: ActorId(writer), queued };
    }
    for ticket in state.tickets.unnoted_mut() {
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
