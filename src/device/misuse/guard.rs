//! Which pages of a program's mappings are closed, and what closes and opens them.
//!
//! While no bracket is open on a buffer, its mappings are PROT_NONE; in a bracket for reading alone
//! they are read-only. This part keeps the books and says which protection which range needs; the
//! transport makes the program itself change it.
//!
//! ```text
//!          START|READ             START|WRITE
//!  closed ------------> readable ------------> open
//!    ^  \________________START|RW______________^ |
//!    |                                           |
//!    +--------------- last END ------------------+
//! ```
//!
//! Modes: `exhaustive` closes every page; `sampled` closes one run of pages at one END in
//! [`ONE_IN`], so that a program runs at nearly its own speed and a mistake that is made often is
//! seen sooner or later.

use std::ops::Range;

use super::brackets::Allowed;
use crate::device::BufferId;
use crate::random::SplitMix64;
use crate::uapi::page_size;

/// PROT_READ.
pub const READ: u32 = 1;
/// PROT_WRITE.
pub const WRITE: u32 = 2;

/// `sampled` closes a mapping at one END in this many.
pub const ONE_IN: u32 = 8;

/// Most pages that `sampled` closes at once.
pub const RUN_PAGES_MAX: u64 = 16;

/// How accesses are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    #[default]
    Off,
    /// Some pages at random.
    Sampled,
    /// Every page.
    Exhaustive,
}

/// One mapping of a buffer in a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedMapping {
    /// Its addresses.
    pub range: Range<u64>,
    /// Which buffer.
    pub buffer: BufferId,
    /// Offset of its first byte in the buffer.
    pub offset: u64,
    /// The protection that the program asked for.
    pub prot: u32,
    /// What of it is closed now, and the protection that this part has.
    closed: Option<(Range<u64>, u32)>,
    /// Pages within the closed part that were opened by themselves.
    opened: Vec<u64>,
}

/// A range and the protection that it is to get.
pub type ProtectionChange = (Range<u64>, u32);

fn strict(prot: u32, allowed: Allowed) -> u32 {
    match allowed {
        Allowed::Nothing => 0,
        Allowed::Reads => prot & !WRITE,
        Allowed::Writes => prot,
    }
}

impl GuardedMapping {
    /// A new mapping, all of it open.
    pub fn new(range: Range<u64>, buffer: BufferId, offset: u64, prot: u32) -> Self {
        assert!(range.start.is_multiple_of(page_size()) && range.end.is_multiple_of(page_size()));
        Self { range, buffer, offset, prot, closed: None, opened: Vec::new() }
    }

    /// The protection that the page at `addr` has now.
    pub fn now(&self, addr: u64) -> u32 {
        match &self.closed {
            Some((part, prot)) if part.contains(&addr) && !self.opened.contains(&page(addr)) => {
                *prot
            }
            _ => self.prot,
        }
    }

    /// Where in the buffer an address lies.
    pub fn buffer_offset(&self, addr: u64) -> u64 {
        self.offset + (addr - self.range.start)
    }

    /// What has to change for what the brackets allow. `fresh`: a bracket was closed or the mapping
    /// is new, so that pages opened by themselves close again and `sampled` chooses anew.
    pub fn adapt(
        &mut self,
        allowed: Allowed,
        mode: Mode,
        fresh: bool,
        random: &mut SplitMix64,
    ) -> Vec<ProtectionChange> {
        let prot = strict(self.prot, allowed);
        let part = match (mode, &self.closed) {
            _ if prot == self.prot => None,
            (Mode::Off, _) => None,
            (Mode::Exhaustive, _) => Some(self.range.clone()),
            (Mode::Sampled, Some((part, _))) if !fresh => Some(part.clone()),
            (Mode::Sampled, _) => {
                // Every throw is made, so that what is chosen depends on their number alone.
                let hit = random.below(ONE_IN) == 0;
                let run = self.run(random);
                hit.then_some(run)
            }
        };
        let wanted = part.map(|part| (part, prot));
        if wanted == self.closed && (self.opened.is_empty() || !fresh) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        if let Some((old, _)) = &self.closed
            && wanted.as_ref().is_none_or(|(new, _)| new != old)
        {
            changes.push((old.clone(), self.prot));
        }
        changes.extend(wanted.clone());
        self.opened.clear();
        self.closed = wanted;
        changes
    }

    /// A run of pages at random.
    fn run(&self, random: &mut SplitMix64) -> Range<u64> {
        let pages = (self.range.end - self.range.start) / page_size();
        let mut below = |bound: u64| {
            let bound = usize::try_from(bound).unwrap_or(usize::MAX);
            random.index(bound) as u64
        };
        let len = 1 + below(pages.min(RUN_PAGES_MAX));
        let start = self.range.start + below(pages - len + 1) * page_size();
        start..start + len * page_size()
    }

    /// One page stays open until the next END.
    pub fn leave_open(&mut self, addr: u64) {
        if !self.opened.contains(&page(addr)) {
            self.opened.push(page(addr));
        }
    }

    /// All of it is opened until the next END.
    pub fn open_all(&mut self) -> Vec<ProtectionChange> {
        self.opened.clear();
        self.closed.take().map(|(part, _)| (part, self.prot)).into_iter().collect()
    }

    /// The mapping came here with this protection on all of it.
    pub fn moved_here(&mut self, now: u32) {
        if now != self.prot {
            self.closed = Some((self.range.clone(), now));
        }
    }

    /// Takes in the mapping behind it, if both are parts of one that the kernel has split.
    pub fn absorbs(&mut self, next: &Self) -> bool {
        let follows = self.range.end == next.range.start
            && self.buffer == next.buffer
            && self.buffer_offset(self.range.end) == next.offset
            && self.prot == next.prot;
        let closed = match (&self.closed, &next.closed) {
            (None, closed) | (closed, None) => closed.clone(),
            (Some((one, prot)), Some((other, same))) if one.end == other.start && prot == same => {
                Some((one.start..other.end, *prot))
            }
            _ => return false,
        };
        if follows {
            self.range.end = next.range.end;
            self.closed = closed;
            self.opened.extend(&next.opened);
        }
        follows
    }

    /// What is left of it in a mapping that /proc/PID/maps shows with protection `prot`; `None` if
    /// that is elsewhere.
    pub fn seen(&self, range: &Range<u64>, offset: u64, prot: u32) -> Option<Self> {
        let start = self.range.start.max(range.start);
        let end = self.range.end.min(range.end);
        if start >= end || offset + (start - range.start) != self.buffer_offset(start) {
            return None;
        }
        let mut left = self.clone();
        left.range = start..end;
        left.offset = self.buffer_offset(start);
        left.opened.retain(|at| left.range.contains(at));
        let part = self
            .closed
            .as_ref()
            .map(|(part, closed)| (part.start.max(start)..part.end.min(end), *closed));
        left.closed = part.filter(|(part, _)| part.start < part.end);
        // More than the program had asked for, or less while it was all open: its own mprotect.
        let all_open = left.closed.is_none();
        if prot & !left.prot != 0 || (all_open && prot != left.prot) {
            left.prot = prot;
            left.closed = None;
            left.opened.clear();
        }
        Some(left)
    }
}

/// First address of a page.
pub fn page(addr: u64) -> u64 {
    addr & !(page_size() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x10_0000;

    fn area(pages: u64) -> GuardedMapping {
        GuardedMapping::new(START..START + pages * page_size(), BufferId(1), 0, READ | WRITE)
    }

    #[test]
    fn brackets_open_and_close_the_whole() {
        let mut random = SplitMix64::new(1);
        let mut area = area(4);
        let all = area.range.clone();
        let mut adapt = |allowed, fresh| area.adapt(allowed, Mode::Exhaustive, fresh, &mut random);
        assert_eq!(adapt(Allowed::Nothing, true), [(all.clone(), 0)]);
        assert_eq!(adapt(Allowed::Nothing, false), []);
        assert_eq!(adapt(Allowed::Reads, false), [(all.clone(), READ)]);
        assert_eq!(adapt(Allowed::Writes, false), [(all.clone(), READ | WRITE)]);
        assert_eq!(adapt(Allowed::Writes, false), []);
        assert_eq!(adapt(Allowed::Reads, true), [(all.clone(), READ)]);
        assert_eq!(adapt(Allowed::Nothing, true), [(all, 0)]);
        assert_eq!(area.now(START), 0);
    }

    #[test]
    fn a_page_opened_by_itself_closes_with_the_bracket() {
        let mut random = SplitMix64::new(1);
        let mut area = area(4);
        area.adapt(Allowed::Nothing, Mode::Exhaustive, true, &mut random);
        area.leave_open(START + page_size() + 900);
        assert_eq!(area.now(START + page_size()), READ | WRITE);
        assert_eq!(area.now(START + 2 * page_size()), 0);
        assert_eq!(area.adapt(Allowed::Nothing, Mode::Exhaustive, false, &mut random), []);
        let closed = area.adapt(Allowed::Nothing, Mode::Exhaustive, true, &mut random);
        assert_eq!(closed, [(area.range.clone(), 0)]);
        assert_eq!(area.now(START + page_size()), 0);
        assert_eq!(area.open_all(), [(area.range.clone(), READ | WRITE)]);
    }

    #[test]
    fn sampling_is_rare_and_repeats_by_seed() {
        let closings = |seed| {
            let mut random = SplitMix64::new(seed);
            let mut area = area(64);
            let mut hits = Vec::new();
            for _ in 0..800 {
                area.adapt(Allowed::Writes, Mode::Sampled, false, &mut random);
                hits.extend(area.adapt(Allowed::Nothing, Mode::Sampled, true, &mut random));
            }
            hits
        };
        let hits = closings(7);
        assert!((50..200).contains(&hits.len()), "{}", hits.len());
        let pages = |range: &Range<u64>| (range.end - range.start) / page_size();
        assert!(hits.iter().all(|(run, prot)| *prot == 0 && pages(run) <= RUN_PAGES_MAX));
        assert_eq!(hits, closings(7));
        assert_ne!(hits, closings(8));
    }

    #[test]
    fn what_the_program_does_to_its_mapping_is_seen() {
        let mut random = SplitMix64::new(1);
        let mut area = area(4);
        area.adapt(Allowed::Nothing, Mode::Exhaustive, true, &mut random);
        let all = area.range.clone();
        assert_eq!(area.seen(&all, 0, 0), Some(area.clone()));
        // Half of it was unmapped.
        let middle = 2 * page_size();
        let half = START + middle..START + 2 * middle;
        let left = area.seen(&half, middle, 0).unwrap();
        assert_eq!((left.range.clone(), left.offset), (half.clone(), middle));
        assert_eq!(left.now(START + middle), 0);
        // Something else lies there now.
        assert_eq!(area.seen(&half, 0, 0), None);
        assert_eq!(area.seen(&(0..page_size()), 0, 0), None);
        // Its own mprotect: downwards while open.
        area.adapt(Allowed::Writes, Mode::Exhaustive, false, &mut random);
        assert_eq!(area.seen(&all, 0, READ).unwrap().prot, READ);
    }

    #[test]
    fn a_read_only_mapping_needs_no_guard_in_a_read_bracket() {
        let mut random = SplitMix64::new(1);
        let mut area = GuardedMapping::new(START..START + page_size(), BufferId(1), 0, READ);
        assert_eq!(area.adapt(Allowed::Reads, Mode::Exhaustive, true, &mut random), []);
        assert_eq!(area.adapt(Allowed::Nothing, Mode::Exhaustive, true, &mut random).len(), 1);
        assert_eq!(area.adapt(Allowed::Nothing, Mode::Off, true, &mut random).len(), 1, "opened");
        assert_eq!(area.now(START), READ);
    }
}
