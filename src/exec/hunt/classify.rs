//! What a race did, told from bytes alone.
//!
//! Every write that a program intended is noted with its value and the time it took. A page that
//! holds a value nobody meant for it was written across buffers; one that holds a value which some
//! later write should have replaced has lost that write, unless it is found where it does not
//! belong; a free frame that changed was used after it was freed. A read is judged likewise: a
//! value that is another buffer's was read across buffers, any other that should not be seen is
//! stale. Values that coincide hide a hazard; a litmus test writes different ones.

use std::time::Instant;

use crate::model::HazardKind;
use crate::units::PageId;

/// A write that was meant for a page, or a read of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimedAccess {
    pub(super) page: PageId,
    pub(super) value: u8,
    pub(super) start: Instant,
    pub(super) end: Instant,
}

/// All accesses of a run.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    pub(super) writes: Vec<TimedAccess>,
    pub(super) reads: Vec<TimedAccess>,
}

impl Accesses {
    /// The hazards that reads show.
    pub(super) fn reads(&self) -> u16 {
        let mut hazards = 0;
        for read in &self.reads {
            let known = |write: &TimedAccess| write.page == read.page && write.value == read.value;
            let others = |write: &TimedAccess| write.page != read.page && write.value == read.value;
            hazards |= if self.writes.iter().any(known) {
                if self.could_see(read) { 0 } else { HazardKind::StaleRead.bit() }
            } else if self.writes.iter().any(others) {
                HazardKind::CrossBufferRead.bit()
            } else {
                HazardKind::StaleRead.bit()
            };
        }
        hazards
    }

    /// Whether a read's value is that of a write which no other had replaced for sure.
    fn could_see(&self, read: &TimedAccess) -> bool {
        let of_page = || self.writes.iter().filter(|write| write.page == read.page);
        of_page().filter(|write| write.value == read.value).any(|write| {
            let replaced = |other: &TimedAccess| other.start > write.end && other.end < read.start;
            write.start <= read.end && !of_page().any(replaced)
        })
    }

    /// Whether anybody meant this value for the page.
    pub(super) fn meant(&self, page: PageId, value: u8) -> bool {
        self.writes.iter().any(|write| write.page == page && write.value == value)
    }

    /// Whether the page's last byte shows that a write is lost. `strayed` are the values that were
    /// found where they do not belong: those writes are not lost but elsewhere.
    pub(super) fn lost(&self, page: PageId, value: u8, strayed: &[u8]) -> bool {
        let arrived = || {
            let stayed =
                |write: &&TimedAccess| write.value == value || !strayed.contains(&write.value);
            self.writes.iter().filter(|write| write.page == page).filter(stayed)
        };
        let last = |write: &TimedAccess| {
            write.value == value && !arrived().any(|other| other.start > write.end)
        };
        !arrived().any(last)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn accesses(writes: &[(u8, u64, u64)]) -> Accesses {
        let zero = Instant::now();
        let at = |micros| zero + Duration::from_micros(micros);
        let write = |&(value, start, end): &(u8, u64, u64)| TimedAccess {
            page: PageId(0),
            value,
            start: at(start),
            end: at(end),
        };
        Accesses { writes: writes.iter().map(write).collect(), reads: Vec::new() }
    }

    /// Writes as (value, start, end), the last byte, what strayed, and whether a write is lost.
    fn check(writes: &[(u8, u64, u64)], value: u8, strayed: &[u8], lost: bool) {
        let accesses = accesses(writes);
        assert!(accesses.meant(PageId(0), value));
        assert_eq!(accesses.lost(PageId(0), value, strayed), lost, "{writes:?} {value}");
    }

    #[test]
    fn the_last_byte_tells_what_is_lost() {
        check(&[(0, 0, 0)], 0, &[], false);
        check(&[(0, 0, 0), (1, 2, 3)], 1, &[], false);
        check(&[(0, 0, 0), (1, 2, 3)], 0, &[], true);
        // It is in another buffer.
        check(&[(0, 0, 0), (1, 2, 3)], 0, &[1], false);
        check(&[(0, 0, 0), (1, 2, 3), (2, 4, 5)], 0, &[2], true);
        // Two at a time: either may be last.
        check(&[(0, 0, 0), (1, 2, 5), (2, 3, 4)], 1, &[], false);
        check(&[(0, 0, 0), (1, 2, 5), (2, 3, 4)], 2, &[], false);
        check(&[(0, 0, 0), (1, 2, 5), (2, 6, 7)], 1, &[], true);
        assert!(!accesses(&[(0, 0, 0)]).meant(PageId(0), 7));
    }

    #[test]
    fn a_read_tells_whose_value_it_is() {
        let stale = HazardKind::StaleRead.bit();
        let cases = [(1, 6, 0), (0, 6, stale), (9, 6, stale), (0, 2, 0), (1, 2, 0), (1, 1, stale)];
        for (value, at, expected) in cases {
            let mut accesses = accesses(&[(0, 0, 0), (1, 2, 3)]);
            let zero = accesses.writes[0].start;
            let time = zero + Duration::from_micros(at);
            accesses.reads.push(TimedAccess { page: PageId(0), value, start: time, end: time });
            assert_eq!(accesses.reads(), expected, "{value} at {at}");
            accesses.writes.push(TimedAccess { page: PageId(1), value: 9, start: zero, end: zero });
            let expected = if value == 9 { HazardKind::CrossBufferRead.bit() } else { expected };
            assert_eq!(accesses.reads(), expected, "{value} at {at}, and another buffer");
        }
    }
}
