//! What pages hold, as far as it can still be told: which pages may meet in a frame, who reads what
//! they hold, and which values are still to be written.
//!
//! What a page holds is only ever copied, compared with what it should hold, and given to a
//! register or to the condition. Where nobody asks for the value itself, a value that nobody will
//! write again stands for "this one and no other": any name does for it. [`super::forget()`] relies
//! on three facts of the steps that are left:
//!
//! - a *class* of pages never shares a frame with a page of another class, not even through an
//!   entry, pin or address that is no longer right. Two pages can meet where a frame is given back
//!   to a free list and taken from it again: classes are the pages that may have frames in a
//!   placement where that can happen, and single pages otherwise;
//! - *read* is a class that a step compares or copies or hands out the contents of;
//! - *written* is every value that a step brings in from outside.

mod renaming;
mod steps;

pub(super) use renaming::Renaming;
use steps::{Steps, bit, value_of};

use super::rules::{
    Blocks, Bus, ExporterRules, ExporterStep, FaultPage, FaultPurged, Notifier, Peer2Peer,
    Placement, Recycle,
};
use super::step::Step;
use super::world::World;
use crate::units::PageId;

/// The most classes, and the most values: a bit each.
const BITS: usize = 64;
/// The place of a value that no step writes.
const NO_BIT: u8 = 64;
/// The most values in a state that can be named; with those that are written they fit a byte.
const NAMES_MAX: usize = 128;

/// How pages may meet, in one scenario.
#[derive(Debug, Clone)]
pub struct Contents {
    /// By page.
    classes: Vec<u8>,
    /// Values that some step writes, and by value its place among them.
    values: Vec<u8>,
    bits: [u8; 256],
    /// Placements of which a frame may be given back and taken again, a bit each.
    recycled: u8,
    /// Whether values and reads can be told at all.
    known: bool,
    /// Whether [`Looks`] holds all looks at entries and VMAs.
    entries: bool,
    /// Whether it holds all looks at attachments and sg_tables.
    devices: bool,
}

/// Rows of a table, a bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rows([u64; 4]);

const _: () = assert!(crate::units::MAX_OBJECTS <= 256);

impl Rows {
    fn add(&mut self, row: usize) {
        self.0[row / 64] |= 1 << (row % 64);
    }

    pub(super) const fn has(&self, row: usize) -> bool {
        self.0[row / 64] & 1 << (row % 64) != 0
    }

    fn add_all(&mut self, other: &Self) {
        for (all, more) in self.0.iter_mut().zip(other.0) {
            *all |= more;
        }
    }
}

/// What one step, or all that are left of a program, does with contents, and at which rows it looks
/// for more than to remove them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentUse {
    /// Classes that are read, a bit each.
    pub reads: u64,
    /// Classes of which somebody asks for the value itself.
    pub observed: u64,
    /// By class, the values that are written, a bit each.
    pub writes: Vec<u64>,
    pub(super) looks: Looks,
}

/// The rows of each table at which somebody looks for more than to remove them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Looks {
    pub(super) vmas: Rows,
    pub(super) ptes: Rows,
    pub(super) attachments: Rows,
    pub(super) sgs: Rows,
    pub(super) addresses: Rows,
    /// Pages whose next frame is filled before anybody looks at it.
    pub(super) copies: Rows,
    /// Whether somebody waits for others to unmap.
    pub(super) waits_for_unmap: bool,
}

impl Looks {
    pub(super) fn add(&mut self, other: &Self) {
        self.vmas.add_all(&other.vmas);
        self.ptes.add_all(&other.ptes);
        self.attachments.add_all(&other.attachments);
        self.sgs.add_all(&other.sgs);
        self.addresses.add_all(&other.addresses);
        self.copies.add_all(&other.copies);
        self.waits_for_unmap |= other.waits_for_unmap;
    }
}

impl ContentUse {
    /// Both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let (long, short) =
            if self.writes.len() > other.writes.len() { (self, other) } else { (other, self) };
        let mut writes = long.writes.clone();
        for (all, more) in writes.iter_mut().zip(&short.writes) {
            *all |= more;
        }
        let mut looks = self.looks;
        looks.add(&other.looks);
        let (reads, observed) = (self.reads | other.reads, self.observed | other.observed);
        Self { reads, observed, writes, looks }
    }
}

impl Contents {
    /// The classes of `world` while `steps` are what can happen: actor, place and step.
    #[must_use]
    pub fn new(world: &World, steps: &[(usize, usize, Step)]) -> Self {
        let steps = Steps(steps);
        let brought = |(.., step): &(usize, usize, Step)| value_of(world, step);
        let mut values: Vec<u8> = steps.0.iter().filter_map(brought).collect();
        values.push(0);
        values.sort_unstable();
        values.dedup();
        let private = world.zero.is_some() || world.vmas.iter().any(|vma| vma.private);
        // What a free frame holds is read, or a page is shown in another's place, or given away under
        // a reference, or copied after it was rebound.
        let understood = |rules: &ExporterRules| {
            !rules.fills_in_cache()
                && !rules.keeps_lines()
                && rules.fault_page == FaultPage::AtOffset
                && rules.fault_purged == FaultPurged::Sigbus
                && rules.blocks == Blocks::Order0
                && rules.peer2peer != Peer2Peer::Migrate
                && !rules.copies_late()
        };
        let known = !private
            && world.exporters.iter().all(understood)
            && !world.bounces()
            && !world.bypasses()
            && !world.apertures()
            && !world.threads()
            && steps.are_understood()
            && world.policies.iter().all(Option::is_none)
            && world.host.bus != Bus::Offset
            && !world.frames.contains(&Placement::Cma)
            && values.len() <= BITS
            && world.page_bufs.len() <= BITS
            && 2 * world.frames.len() + world.page_bufs.len() <= NAMES_MAX;
        let pages = world.page_bufs.len();
        let classes = (0..pages.min(BITS)).map(|page| PageId::at(page).0).collect();
        let closed = world.bufs.iter().any(|buf| buf.closed);
        let recycles = |rules: &ExporterRules| rules.recycle == Recycle::Allocator;
        let moves = |step: &Step| matches!(step, Step::Mremap { .. } | Step::Fork { .. });
        let entries = known
            && !closed
            && !world.exporters.iter().any(recycles)
            && world.pins.iter().all(|pin| pin.notifier == Notifier::None)
            && !steps.any(moves);
        let devices = known && !closed;
        let mut bits = [NO_BIT; 256];
        for (bit, value) in (0..NO_BIT).zip(&values) {
            bits[usize::from(*value)] = bit;
        }
        let mut contents = Self { classes, values, bits, recycled: 0, known, entries, devices };
        if known {
            for placement in [Placement::Vram, Placement::System, Placement::Cma] {
                if steps.recycles(world, bit(placement)) {
                    contents.recycled |= bit(placement);
                    contents.merge(|page| {
                        steps.places(world, world.buf_of(page)) & bit(placement) != 0
                    });
                }
            }
        }
        contents
    }

    /// Makes one class of all pages that are `in_it`.
    fn merge(&mut self, in_it: impl Fn(PageId) -> bool) {
        let pages = || (0..self.classes.len()).map(PageId::at).filter(|page| in_it(*page));
        let old: Vec<u8> = pages().map(|page| self.classes[page.index()]).collect();
        let Some(new) = old.first().copied() else { return };
        for class in &mut self.classes {
            if old.contains(class) {
                *class = new;
            }
        }
    }

    /// Whether contents can be told apart by what is left.
    pub(super) const fn known(&self) -> bool {
        self.known
    }

    /// Whether the looks at entries and VMAs are all known.
    pub(super) const fn knows_entries(&self) -> bool {
        self.entries
    }

    /// Whether the looks at attachments and sg_tables are all known.
    pub(super) const fn knows_devices(&self) -> bool {
        self.devices
    }

    /// The class of a page.
    pub(in crate::model) fn class(&self, page: PageId) -> u8 {
        self.classes[page.index()]
    }

    /// Whether `value` is among those that `written` has a bit for.
    #[inline]
    pub(super) fn is_written(&self, value: u8, written: u64) -> bool {
        let index = self.bits[usize::from(value)];
        index < NO_BIT && written & 1 << index != 0
    }

    /// What `step` does with contents; `observed` when somebody asks for the value that it reads.
    #[must_use]
    pub fn of(
        &self,
        world: &World,
        steps: &[(usize, usize, Step)],
        step: &Step,
        observed: bool,
    ) -> ContentUse {
        let mut found = ContentUse::default();
        if !self.known {
            return found;
        }
        let classes =
            |pages: Vec<PageId>| pages.iter().fold(0u64, |set, page| set | 1 << self.class(*page));
        let (reads, writes) = Steps(steps).contents(world, step);
        found.reads = classes(reads);
        found.looks = Steps(steps).looks(world, step);
        if let Step::Exporter { step: ExporterStep::Copy, buf, page, .. } = *step
            && let Some(id) = world.page(buf, page)
            && Steps(steps).copied_over(world, buf, page, self.recycled)
        {
            found.looks.copies.add(id.index());
        }
        found.observed = if observed { found.reads } else { 0 };
        let zeroed = Steps(steps).zeroed(world, step, self.recycled);
        let value = value_of(world, step).unwrap_or_default();
        for (value, pages) in [(value, writes), (0, zeroed)] {
            let Ok(index) = self.values.binary_search(&value) else { continue };
            for page in pages {
                found.writes.resize(BITS, 0);
                found.writes[usize::from(self.class(page))] |= 1 << index;
            }
        }
        found
    }

    /// What the outcome shows of these pages.
    #[must_use]
    pub fn shown(&self, pages: impl IntoIterator<Item = PageId>) -> ContentUse {
        if !self.known {
            return ContentUse::default();
        }
        let reads = pages.into_iter().fold(0u64, |set, page| set | 1 << self.class(page));
        ContentUse { reads, observed: reads, ..ContentUse::default() }
    }
}
