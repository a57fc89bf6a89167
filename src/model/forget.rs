//! Making states the same that nobody can tell apart any more.
//!
//! Two states that differ only in what no step that is left looks at have the same future: the same
//! schedules lead from them to the same outcomes. [`forget`] gives all of them one face, so that a
//! search visits them once. Nothing else changes: every answer, every number of schedules and every
//! shortest schedule is that of the search which tells them apart, because every schedule from the
//! one state is a schedule from the other and ends in the same outcome.
//!
//! What has to hold of each thing that is forgotten:
//!
//! - *an object* (a VMA and its entries, a pin, an attachment, an sg_table, a fence, a buffer, the
//!   free lists, all of memory) is in the footprint ([`super::objects()`]) of no step that is left.
//!   Footprints are tested against what steps touch, so that they can be relied on here;
//! - *what pages hold* is read by no step that is left, or by none that asks for more than whether
//!   two values are equal: see [`super::Contents`];
//! - the VMA that a driver remembers is looked at by no rule but `zap = vma-pointer`.

use super::contents::{ContentUse, Contents, Looks, Renaming};
use super::footprint::{ATTACHMENTS, BUFS, FENCES, FREE, MEMORY, MMS, Objects, PINS, SGS, VMAS};
use super::objects::{
    Detached, EMPTY_ATTACHMENT, EMPTY_FENCE, EMPTY_PAGE, EMPTY_PIN, EMPTY_VMA, MmapLock, Owner,
    Pte, Slot, Target, Ticket, Translation, unallocated,
};
use super::rules::ZapReach;
use super::state::State;
use super::world::World;
use crate::units::{AttachmentId, BufId, FenceId, FrameId, PageId, PinId, PteId, SgId, VmaId};

/// Give `state` the face of all states that differ from it in what cannot be told any more while
/// `objects` and `left` are what the steps of each program that is left touch and do with contents.
pub fn forget(
    world: &World,
    contents: &Contents,
    objects: Objects,
    left: &[&ContentUse],
    state: &mut State,
) {
    if world.policies.iter().any(Option::is_some) {
        return;
    }
    let mut looks = Looks::default();
    left.iter().for_each(|left| looks.add(&left.looks));
    let objects = objects.reads | objects.writes;
    for index in 0..state.bufs.len() {
        let buf = BufId::at(index);
        if objects & BUFS.one(buf.0) == 0 {
            state.bufs.put(index, unallocated(world.buf(buf).placement));
        } else if world.exporter_of(buf).zap != ZapReach::VmaPointer {
            state.bufs.alter(index, |entry| entry.vma_pointer = VmaId::NONE);
        }
    }
    rows(world, objects, state);
    if contents.knows_entries() {
        unlooked_entries(world, &looks, state);
    }
    if contents.knows_devices() {
        unlooked_devices(world, &looks, state);
    }
    if contents.known() {
        rename(world, contents, (left, &looks), state);
    }
    if objects & MMS == 0 {
        state.mms.put_all(MmapLock::FREE);
        state.tickets.put_all(Ticket::NONE);
    }
    if objects & FREE == 0 {
        for index in 0..state.frames.len() {
            state.frames.alter(index, |frame| frame.rank = frame.rank.min(1));
        }
    }
    let shown = left.iter().any(|left| left.observed != 0);
    if objects & (FREE | MEMORY) == 0 && contents.known() && !shown {
        state.pages.put_all(EMPTY_PAGE);
        for index in 0..state.frames.len() {
            state.frames.alter(index, |frame| {
                frame.owner = Owner::Orphan;
                (frame.value, frame.cached, frame.dirty, frame.cache_value) = (0, false, false, 0);
                frame.rank = 0;
            });
        }
    }
}

/// Forgets rows that nobody touches any more.
fn rows(world: &World, objects: u128, state: &mut State) {
    // The ghost of a private page is a part of memory.
    let private = world.zero.is_some() || world.vmas.iter().any(|vma| vma.private);
    for (index, decl) in world.vmas.iter().enumerate() {
        if objects & VMAS.one(VmaId::at(index).0) == 0 && !(private && objects & MEMORY != 0) {
            state.vmas.put(index, EMPTY_VMA);
            let first = decl.first_pte.index();
            for pte in first..first + usize::from(decl.pages) {
                state.ptes.put(pte, Pte::ABSENT);
                if pte < state.translations.len() {
                    state.translations.put(pte, Translation::NONE);
                }
            }
            if index < state.detached.len() {
                state.detached.put(index, Detached::NONE);
            }
        }
    }
    for index in 0..state.pins.len() {
        if objects & PINS.one(PinId::at(index).0) == 0 {
            state.pins.put(index, EMPTY_PIN);
        }
    }
    for index in 0..state.attachments.len() {
        if objects & ATTACHMENTS.one(AttachmentId::at(index).0) == 0 {
            state.attachments.put(index, EMPTY_ATTACHMENT);
        }
    }
    for index in 0..state.fences.len() {
        if objects & FENCES.one(FenceId::at(index).0) == 0 {
            state.fences.put(index, EMPTY_FENCE);
        }
    }
    for (index, decl) in world.sgs.iter().enumerate() {
        if objects & SGS.one(SgId::at(index).0) == 0 {
            state.sgs.put(index, Slot::None);
            for address in decl.first..decl.first + usize::from(world.pages_max()) {
                forget_address(state, address);
            }
        }
    }
}

/// Forgets an address of an sg_table, and what a device's TLB holds of it.
fn forget_address(state: &mut State, address: usize) {
    state.sg_frames.put(address, FrameId::NONE);
    if address < state.tlb.len() {
        state.tlb.put(address, FrameId::NONE);
    }
}

/// Forgets entries, and VMAs, that would only be removed.
fn unlooked_entries(world: &World, looks: &Looks, state: &mut State) {
    for (index, decl) in world.vmas.iter().enumerate() {
        let first = decl.first_pte.index();
        let mut used = looks.vmas.has(index);
        for pte in first..first + usize::from(decl.pages) {
            if looks.ptes.has(pte) {
                used = true;
            } else {
                state.ptes.put(pte, Pte::ABSENT);
            }
        }
        if !used {
            state.vmas.put(index, EMPTY_VMA);
        }
    }
}

/// Forgets addresses that nobody uses, sg_tables that would only be declared invalid, and
/// attachments that only mattered for these.
fn unlooked_devices(world: &World, looks: &Looks, state: &mut State) {
    let mut mapped = [false; 256];
    for (index, decl) in world.sgs.iter().enumerate() {
        for address in decl.first..decl.first + usize::from(world.pages_max()) {
            if !looks.addresses.has(address) {
                forget_address(state, address);
            }
        }
        if !looks.sgs.has(index) {
            let slot = state.sgs.unnoted()[index];
            let is_mapped = looks.waits_for_unmap && matches!(slot, Slot::Held | Slot::Invalid);
            state.sgs.put(index, if is_mapped { Slot::Held } else { Slot::Dropped });
            mapped[decl.attachment.index()] |= is_mapped;
        }
    }
    for (index, mapped) in mapped.into_iter().enumerate().take(state.attachments.len()) {
        if !looks.attachments.has(index) && !mapped {
            state.attachments.put(index, EMPTY_ATTACHMENT);
        }
    }
}

/// Names what pages hold by what it equals, in an order that does not depend on the names of frames.
fn rename(
    world: &World,
    contents: &Contents,
    (left, looks): (&[&ContentUse], &Looks),
    state: &mut State,
) {
    let mut renaming = Renaming::new(contents, left);
    for index in 0..state.pages.len() {
        let page = state.pages.unnoted()[index];
        let class = contents.class(PageId::at(index));
        let ghost = renaming.name(class, page.ghost);
        state.pages.alter(index, |page| page.ghost = ghost);
        if looks.copies.has(index) {
            renaming.will_be_lost(state, page.next);
        }
        for frame in [page.frame, page.next, page.old, page.shadow] {
            renaming.frame(state, frame, class);
        }
    }
    let mut mention = |state: &mut State, frame: FrameId, page: Option<PageId>| {
        if let Some(page) = page {
            renaming.frame(state, frame, contents.class(page));
        }
    };
    for index in 0..state.ptes.len() {
        let frame = state.ptes.unnoted()[index].frame;
        if frame.is_some() {
            let (vma, at) = world.vma_of(PteId::at(index));
            let area = &state.vmas.unnoted()[vma.index()];
            let page = world.page(area.buf, area.offset.wrapping_add(at));
            mention(state, frame, page);
        }
    }
    for index in 0..state.sgs.len() {
        let attachment = world.attachment_of(SgId::at(index));
        let buf = state.attachments.unnoted()[attachment.index()].buf;
        for at in 0..usize::from(world.pages_max()) {
            let frame = state.sg_frames.unnoted()[world.sgs[index].first + at];
            let page = u8::try_from(at).ok().and_then(|at| world.page(buf, at));
            mention(state, frame, page);
            let cached = state.tlb.unnoted().get(world.sgs[index].first + at).copied();
            if let Some(cached) = cached.filter(|cached| cached.is_some()) {
                mention(state, cached, page);
            }
        }
    }
    let pins = state.pins.unnoted().len();
    for index in 0..pins {
        let pin = state.pins.unnoted()[index];
        mention(state, pin.frame, page_of(pin.target));
    }
    for index in 0..state.dmas.unnoted().len() {
        let dma = state.dmas.unnoted()[index];
        mention(state, dma.frame, page_of(dma.target));
    }
    // Nothing leads to the others: who takes one fills it first.
    for index in 0..state.frames.len() {
        let frame = FrameId::at(index);
        if !renaming.is_named(frame) {
            state.frames.alter(index, |entry| (entry.value, entry.cache_value) = (0, 0));
        }
    }
}

fn page_of(target: Target) -> Option<PageId> {
    match target {
        Target::Page(page) if page.is_some() => Some(page),
        Target::Page(_) | Target::Va(_) => None,
    }
}
