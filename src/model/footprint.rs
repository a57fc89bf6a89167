//! Which objects a step may look at or change: what partial-order reduction needs.
//!
//! Over-approximation throughout: two steps of different actors whose objects do not conflict
//! commute in every state, and neither can enable or disable the other. That it is one is tested,
//! not trusted: the tables of a debug build's [`super::State`] note what a step touches (`noted`), and
//! `tests/footprint.rs` holds every step of the suite and of random tests against [`objects`].

use super::mmap_lock::need::takes_mmap_lock;
use super::operation::Operation;
use super::rules::{Coherency, CpuSync, ExporterStep, MmapKind, Notifier, Peer2Peer, Placement};
use super::step::{Handle, Step};
use super::world::World;
use crate::units::{BufId, VmaId};

/// Objects as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Objects {
    /// Looked at.
    pub reads: u128,
    /// Changed (and perhaps looked at).
    pub writes: u128,
}

impl Objects {
    /// Everything: conflicts with every step that touches anything.
    pub const ALL: Self = Self { reads: u128::MAX, writes: u128::MAX };

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self { reads: self.reads | other.reads, writes: self.writes | other.writes }
    }
}

/// A range of bits for one kind of object; objects beyond it share bits.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    first: u32,
    bits: u32,
}

impl Kind {
    pub(super) const fn one(self, index: u8) -> u128 {
        1 << (self.first + index as u32 % self.bits)
    }

    pub(super) const fn all(self) -> u128 {
        ((1 << self.bits) - 1) << self.first
    }
}

/// Locks, lives, pin counts and bindings of buffers.
pub(super) const BUFS: Kind = Kind { first: 0, bits: 8 };
/// VMAs and their entries.
pub(super) const VMAS: Kind = Kind { first: 8, bits: 32 };
/// Pins and cached pfns.
pub(super) const PINS: Kind = Kind { first: 40, bits: 24 };
/// Attachments.
pub(super) const ATTACHMENTS: Kind = Kind { first: 64, bits: 8 };
/// sg_tables.
pub(super) const SGS: Kind = Kind { first: 72, bits: 12 };
/// Fences.
pub(super) const FENCES: Kind = Kind { first: 84, bits: 10 };
/// The `mmap_lock`s of all address spaces, and the tickets under which buffers are reserved.
pub(super) const MMS: u128 = 1 << 94;
/// What frames hold and whose they are: stale entries make one object of it all.
pub(super) const MEMORY: u128 = 1 << 95;
/// The free lists.
pub(super) const FREE: u128 = 1 << 96;
/// First of the bits that are the caller's: 97 to 127.
pub(crate) const CALLERS_FIRST: u32 = 97;

/// The objects of `step`.
#[must_use]
pub fn objects(world: &World, step: &Step) -> Objects {
    if world.policies.iter().any(Option::is_some) {
        return Objects::ALL;
    }
    let locks = if world.mmap_locks && takes_mmap_lock(world, step) { MMS } else { 0 };
    of(0, locks).union(beside_locks(world, step))
}

/// The objects of `step`, the `mmap_lock` apart.
#[expect(clippy::too_many_lines, reason = "one arm a step, nothing to share")]
fn beside_locks(world: &World, step: &Step) -> Objects {
    match *step {
        Step::Mmap(mmap) => {
            let buf = if mmap.buf.is_none() { 0 } else { BUFS.one(mmap.buf.0) };
            // Backing of the importer's own, or entries made at once.
            let fills =
                mmap.buf.is_some() && world.exporter_of(mmap.buf).mmap == MmapKind::RemapPfnRange;
            let shadow = if mmap.via.is_none() && !fills { 0 } else { FREE | MEMORY };
            of(0, VMAS.one(mmap.vma.0) | buf | shadow).union(others(world))
        }
        Step::Munmap { vma, .. } | Step::FinishMmu(vma) => {
            of(release_reads(), zap_writes(world, vma) | FREE | MEMORY | buf_of(world, vma))
        }
        Step::FreePgtables(vma) => of(0, VMAS.one(vma.0)),
        Step::Mremap { to, from } => {
            let moved = VMAS.one(to.0) | zap_writes(world, from) | MEMORY | PINS.all();
            // Whoever is notified may drop the last reference to a page.
            if notified(world) == 0 {
                of(0, moved).union(others(world))
            } else {
                of(release_reads(), moved | FREE)
            }
        }
        Step::Mprotect { vma, .. } => {
            let own = zap_writes(world, vma);
            // Whoever is notified may drop the last reference to a page.
            let told =
                if notified(world) == 0 { NOTHING } else { of(release_reads(), FREE | MEMORY) };
            of(0, own).union(told).union(others(world))
        }
        Step::Load { vma, .. } => access(world, vma, false),
        Step::Store { vma, .. } => access(world, vma, true),
        Step::GupFast { pin, vma, .. } => of(VMAS.one(vma.0) | MEMORY, PINS.one(pin.0)),
        Step::GupSlow { pin, vma, foll, .. } => {
            let migrates = foll.longterm && world.frames.contains(&Placement::Cma);
            let migration = if migrates {
                VMAS.all() | MEMORY | FREE | BUFS.all() | notified(world)
            } else {
                0
            };
            let reads = if migrates { PINS.all() } else { 0 };
            access(world, vma, false).union(of(reads, PINS.one(pin.0) | migration))
        }
        Step::FollowPfn { pin, vma, .. } => access(world, vma, false).union(of(0, PINS.one(pin.0))),
        Step::FrameVectorCheck { .. } | Step::Unpin(_) => {
            of(VMAS.all(), PINS.all() | FREE | MEMORY)
        }
        Step::Attach { .. }
        | Step::Detach(_)
        | Step::Map(_)
        | Step::Unmap(_)
        | Step::Validate { .. }
        | Step::Submit { .. }
        | Step::Signal(_)
        | Step::DmaStart { .. }
        | Step::DmaFinish { .. }
        | Step::DmaBufPin(_)
        | Step::DmaBufUnpin(_) => device(world, step),
        Step::SyncStart { buf, .. } => {
            let mapped =
                if world.exporter_of(buf).begin == CpuSync::Map { BUFS.one(buf.0) } else { 0 };
            of(FENCES.all() | BUFS.all() | bounce_tables(world), MEMORY | mapped)
        }
        Step::SyncEnd { .. } => of(BUFS.all() | bounce_tables(world), MEMORY),
        Step::Exporter { buf, step, operation, .. } => exporter(world, buf, step, operation),
        Step::Alloc(buf) => of(
            PINS.all(),
            BUFS.one(buf.0)
                | FREE
                | MEMORY
                | if world.buf(buf).placement == Placement::Cma {
                    VMAS.all() | BUFS.all() | notified(world)
                } else {
                    0
                },
        ),
        Step::Close(buf) => of(release_reads(), BUFS.one(buf.0) | FREE | MEMORY),
        Step::Fork { .. } => of(PINS.all(), VMAS.all() | FREE | MEMORY | notified(world)),
        Step::EvictCache(_) => of(BUFS.all(), MEMORY),
        Step::ResvLock(buf) => of(0, BUFS.one(buf.0)),
        Step::ResvUnlock(buf) => {
            of(0, BUFS.one(buf.0) | tickets(world)).union(unlocked(world, buf))
        }
        Step::DrawTicket => of(0, tickets(world)),
        Step::LockAll(bufs) => bufs
            .iter()
            .map(|buf| of(0, BUFS.one(buf.0)).union(unlocked(world, buf)))
            .fold(of(0, tickets(world)), Objects::union),
        Step::MmapLock { .. } | Step::MmapUnlock(_) => NOTHING,
        Step::FlushTlb(sg) => of(ATTACHMENTS.one(world.attachment_of(sg).0), SGS.one(sg.0)),
    }
}

#[cfg(debug_assertions)]
mod noting {
    use super::super::state::State;
    use super::super::table::Notes;
    use super::{
        ATTACHMENTS, BUFS, FENCES, FREE, MEMORY, MMS, NOTHING, Objects, PINS, SGS, VMAS, World,
    };
    use crate::units::{
        ActorId, AttachmentId, BufId, FenceId, MAX_PAGES, PinId, PteId, SgId, VmaId,
    };

    /// What was noted in `state` since [`State::forget_notes`], as `actor`'s: what its step may be held
    /// to have touched. Debug builds alone take notes.
    #[must_use]
    pub fn noted(world: &World, state: &State, actor: ActorId) -> Objects {
        let mut found = NOTHING;
        let mut add = |notes: &Notes, bit: &dyn Fn(usize) -> u128| {
            found.reads |= notes.reads().map(bit).fold(0, |bits, bit| bits | bit);
            found.writes |= notes.writes().map(bit).fold(0, |bits, bit| bits | bit);
        };
        add(&state.bufs.notes, &|index| BUFS.one(BufId::at(index).0));
        add(&state.vmas.notes, &|index| VMAS.one(VmaId::at(index).0));
        add(&state.ptes.notes, &|index| VMAS.one(world.vma_of(PteId::at(index)).0.0));
        add(&state.pins.notes, &|index| PINS.one(PinId::at(index).0));
        add(&state.attachments.notes, &|index| ATTACHMENTS.one(AttachmentId::at(index).0));
        add(&state.sgs.notes, &|index| SGS.one(SgId::at(index).0));
        add(&state.sg_frames.notes, &|index| SGS.one(SgId::at(index / MAX_PAGES).0));
        add(&state.tlb.notes, &|index| SGS.one(SgId::at(index / MAX_PAGES).0));
        add(&state.fences.notes, &|index| FENCES.one(FenceId::at(index).0));
        add(&state.frames.notes, &|_| MEMORY);
        add(&state.pages.notes, &|_| MEMORY);
        add(&state.lists, &|_| FREE);
        add(&state.mms.notes, &|_| MMS);
        add(&state.tickets.notes, &|_| MMS);
        add(&state.translations.notes, &|index| VMAS.one(world.vma_of(PteId::at(index)).0.0));
        add(&state.detached.notes, &|index| VMAS.one(VmaId::at(index).0));
        // Nobody else looks at an engine, but where it is bound to a pin: then the pin is noted.
        add(&state.dmas.notes, &|index| if index == actor.index() { 0 } else { u128::MAX });
        found
    }
}

#[cfg(debug_assertions)]
pub use noting::noted;

/// What frames hold and whose they are, looked at.
#[must_use]
pub const fn memory() -> Objects {
    of(MEMORY, 0)
}

/// Importers and their devices.
fn device(world: &World, step: &Step) -> Objects {
    match *step {
        Step::Attach { attachment, via, .. } => {
            let vma = if via.is_none() { 0 } else { VMAS.one(via.0) };
            of(BUFS.all() | vma, ATTACHMENTS.one(attachment.0))
        }
        Step::Detach(_) => of(release_reads(), ATTACHMENTS.all() | BUFS.all() | FREE | MEMORY),
        Step::Map(sg) | Step::Unmap(sg) => {
            let attachment = ATTACHMENTS.one(world.attachment_of(sg).0);
            let filled = refilled(world) | bounced(world);
            let moves = if matches!(step, Step::Map(_)) { migrates(world) } else { NOTHING };
            let gone = if matches!(step, Step::Unmap(_)) { apertures(world) } else { NOTHING };
            of(MEMORY, attachment | SGS.one(sg.0) | BUFS.all() | FREE | filled)
                .union(moves)
                .union(gone)
        }
        Step::Validate { fence, sg } => {
            let attachment = ATTACHMENTS.one(world.attachment_of(sg).0);
            let writes = FENCES.one(fence.0) | SGS.one(sg.0) | FREE | BUFS.all();
            let writes = writes | refilled(world);
            of(MEMORY | attachment, writes)
        }
        Step::Submit { fence, sg, .. } => {
            let attachment = ATTACHMENTS.one(world.attachment_of(sg).0);
            let bufs = (0..world.bufs()).map(BufId::at);
            let released = bufs.map(|buf| unlocked(world, buf)).fold(NOTHING, Objects::union);
            of(attachment, FENCES.one(fence.0) | BUFS.all()).union(released)
        }
        Step::Signal(fence) => of(0, FENCES.one(fence.0)),
        Step::DmaStart { via, .. } => dma_start(world, via),
        Step::DmaFinish { via, .. } => {
            let pin = match via {
                Handle::Pin(pin) => PINS.one(pin.0),
                Handle::Sg(_) => 0,
            };
            of(BUFS.all() | VMAS.all() | pin, MEMORY | notifier_bit(world, via) | in_flight(world))
        }
        Step::DmaBufPin(attachment) | Step::DmaBufUnpin(attachment) => {
            of(0, ATTACHMENTS.one(attachment.0) | BUFS.all())
        }
        Step::Mmap(_)
        | Step::Munmap { .. }
        | Step::Mremap { .. }
        | Step::Mprotect { .. }
        | Step::Load { .. }
        | Step::Store { .. }
        | Step::GupFast { .. }
        | Step::GupSlow { .. }
        | Step::FollowPfn { .. }
        | Step::FrameVectorCheck { .. }
        | Step::Unpin(_)
        | Step::SyncStart { .. }
        | Step::SyncEnd { .. }
        | Step::Exporter { .. }
        | Step::Alloc(_)
        | Step::Close(_)
        | Step::Fork { .. }
        | Step::EvictCache(_)
        | Step::ResvLock(_)
        | Step::ResvUnlock(_)
        | Step::DrawTicket
        | Step::LockAll(_)
        | Step::MmapLock { .. }
        | Step::MmapUnlock(_)
        | Step::FlushTlb(_)
        | Step::FreePgtables(_)
        | Step::FinishMmu(_) => Objects::ALL,
    }
}

const NOTHING: Objects = of(0, 0);

const fn of(reads: u128, writes: u128) -> Objects {
    Objects { reads, writes }
}

/// What releasing a buffer looks at: who still refers to it, and to its frames.
fn release_reads() -> u128 {
    VMAS.all() | ATTACHMENTS.all() | PINS.all()
}

/// What giving up the lock touches beside the buffer: its holder's reference may be the last. That of a
/// buffer is, which an operation without a lock has marked before there was any.
fn unlocked(world: &World, buf: BufId) -> Objects {
    let decl = world.buf(buf);
    if decl.closed || !decl.allocated { of(release_reads(), FREE | MEMORY) } else { NOTHING }
}

/// The other VMAs, where a munmap may be under way that is waited for.
fn others(world: &World) -> Objects {
    if world.threads() { of(VMAS.all(), 0) } else { NOTHING }
}

/// The tickets, where anybody draws one.
const fn tickets(world: &World) -> u128 {
    if world.tickets { MMS } else { 0 }
}

fn buf_of(world: &World, vma: VmaId) -> u128 {
    let buf = world.vmas[vma.index()].buf;
    if buf.is_none() { 0 } else { BUFS.one(buf.0) }
}

fn zap_writes(world: &World, vma: VmaId) -> u128 {
    VMAS.one(vma.0) | notified(world)
}

/// Pins that a notifier may invalidate, and whose DMAs a zap may have to wait for.
fn notified(world: &World) -> u128 {
    let mut pins = 0;
    for (index, pin) in world.pins.iter().enumerate() {
        if pin.notifier != Notifier::None {
            pins |= PINS.one(u8::try_from(index).unwrap_or(u8::MAX));
        }
    }
    pins
}

fn notifier_bit(world: &World, via: Handle) -> u128 {
    match via {
        Handle::Pin(pin) if world.pins[pin.index()].notifier != Notifier::None => PINS.one(pin.0),
        Handle::Pin(_) | Handle::Sg(_) => 0,
    }
}

/// A CPU access, with the fault that it may take first.
fn access(world: &World, vma: VmaId, store: bool) -> Objects {
    let decl = &world.vmas[vma.index()];
    let (mut reads, mut writes) = (MEMORY, VMAS.one(vma.0));
    if store {
        writes |= MEMORY;
    }
    if decl.buf.is_none() || decl.private {
        // A copy on write tells the notifiers on what it copies.
        writes |= FREE | MEMORY | notified(world);
        reads |= PINS.all() | VMAS.all();
    }
    if decl.buf.is_some() {
        reads |= BUFS.one(decl.buf.0);
        if refills(world, decl.buf) {
            writes |= FREE | MEMORY | BUFS.one(decl.buf.0);
        }
        let rules = world.exporter_of(decl.buf);
        if rules.coherency == Coherency::Incoherent {
            writes |= MEMORY;
        }
        if world.bypasses() {
            reads |= SGS.all() | ATTACHMENTS.all();
        }
        if world.apertures() {
            reads |= ATTACHMENTS.all();
            writes |= SGS.all() | BUFS.one(decl.buf.0) | FREE | MEMORY;
        }
    }
    of(reads, writes)
}

/// Whether a page of a live buffer may be without a frame, for whoever looks first to fill again:
/// where pages are given up unmarked, or so late that the buffer may be another by then.
pub(super) fn refills(world: &World, buf: BufId) -> bool {
    let rules = world.exporter_of(buf);
    let unmarked = |steps: &[ExporterStep]| {
        let at = |step| steps.iter().position(|other| *other == step);
        let unlocked = world.buf(buf).closed.then(|| at(ExporterStep::Unlock)).flatten();
        at(ExporterStep::Free).is_some_and(|free| {
            at(ExporterStep::Mark).is_none_or(|mark| mark > free)
                || unlocked.is_some_and(|unlock| unlock < free)
        })
    };
    unmarked(&rules.purge_steps) || unmarked(&rules.revoke_steps)
}

/// What goes with the addresses behind an aperture: the entries, and whose notifiers are on them.
fn apertures(world: &World) -> Objects {
    if world.apertures() {
        of(PINS.all(), VMAS.all() | notified(world) | FREE | MEMORY)
    } else {
        NOTHING
    }
}

/// What mapping and unmapping write where devices reach bounce pages.
fn bounced(world: &World) -> u128 {
    if world.bounces() { MEMORY } else { 0 }
}

/// Where SYNC finds the bounce pages.
fn bounce_tables(world: &World) -> u128 {
    if world.bounces() { SGS.all() | ATTACHMENTS.all() } else { 0 }
}

/// What mapping an sg_table writes beside it, where a buffer may have to be filled again.
fn refilled(world: &World) -> u128 {
    let refills = (0..world.bufs()).any(|buf| refills(world, BufId::at(buf)));
    if refills { MEMORY | FREE | BUFS.all() } else { 0 }
}

/// What mapping touches where it may move a buffer first.
fn migrates(world: &World) -> Objects {
    use ExporterStep::{Copy, Flush, Free, Notify, Rebind, Reserve, Wait, Zap};
    let mut all = NOTHING;
    for buf in (0..world.bufs()).map(BufId::at) {
        if world.exporter_of(buf).peer2peer == Peer2Peer::Migrate {
            for step in [Wait, Reserve, Notify, Zap, Flush, Copy, Rebind, Free] {
                all = all.union(exporter(world, buf, step, Operation::Move(Placement::System)));
            }
        }
    }
    all
}

/// What a flush of a device's TLB waits for.
fn in_flight(world: &World) -> u128 {
    if world.device_tlbs() { SGS.all() } else { 0 }
}

fn dma_start(world: &World, via: Handle) -> Objects {
    match via {
        Handle::Pin(pin) => {
            let plain = of(PINS.one(pin.0), notifier_bit(world, via));
            if notifier_bit(world, via) == 0 {
                return plain;
            }
            // It may fault the page again.
            plain.union(of(BUFS.all() | PINS.all(), VMAS.all() | MEMORY | FREE))
        }
        Handle::Sg(sg) => {
            let attachment = ATTACHMENTS.one(world.attachment_of(sg).0);
            let writes = SGS.one(sg.0) | FREE | refilled(world) | in_flight(world);
            of(MEMORY | BUFS.all() | FENCES.all() | attachment, writes)
        }
    }
}

fn exporter(world: &World, buf: BufId, step: ExporterStep, operation: Operation) -> Objects {
    let own = BUFS.one(buf.0);
    // A revocation is complete after its wait: the buffer's life changes.
    let completes = if operation == Operation::Revoke { own } else { 0 };
    match step {
        // A lock that is refused gives back what was taken before it.
        ExporterStep::Lock if world.exporter_of(buf).locks_late(operation) => {
            exporter(world, buf, ExporterStep::Reserve, operation)
        }
        ExporterStep::Lock | ExporterStep::Mark | ExporterStep::Fence => of(0, own),
        ExporterStep::Signal => of(MEMORY, own),
        ExporterStep::Unlock => of(0, own).union(unlocked(world, buf)),
        ExporterStep::Notify => of(ATTACHMENTS.all(), SGS.all()).union(apertures(world)),
        ExporterStep::Zap => {
            let private = world.vmas.iter().any(|vma| vma.private && vma.buf == buf);
            let counted = world.exporter_of(buf).mmap != MmapKind::Pfnmap;
            let frames = if private || counted { FREE | MEMORY } else { 0 };
            of(own | PINS.all(), VMAS.all() | notified(world) | frames)
        }
        ExporterStep::Wait => of(FENCES.all() | own, completes),
        ExporterStep::WaitUnmap => of(SGS.all() | ATTACHMENTS.all(), completes),
        // Both may fail, and unlock then.
        ExporterStep::CheckPins => {
            of(PINS.all() | VMAS.all(), own | FREE | MEMORY).union(unlocked(world, buf))
        }
        // A line that is written back may be another buffer's by now: whether that is alive counts.
        ExporterStep::Flush => of(BUFS.all(), MEMORY),
        ExporterStep::Copy => of(own, MEMORY),
        ExporterStep::Reserve => of(0, own | FREE | MEMORY).union(unlocked(world, buf)),
        ExporterStep::Rebind => of(0, own | MEMORY),
        ExporterStep::Free => of(PINS.all() | VMAS.all(), own | MEMORY | FREE),
    }
}
