//! Which SYNC brackets are open on each buffer.
//!
//! Kernel counterpart: `dma_buf_begin_cpu_access` and `dma_buf_end_cpu_access`
//! (drivers/dma-buf/dma-buf.c). The kernel keeps no count: a bracket belongs to the buffer, not to
//! the process, the descriptor or the mapping, and what two of them at once mean is the exporter's
//! affair. Here they are counted so that no correct program is accused:
//!
//! * every granted START opens one bracket on the buffer, of its kind, for everybody;
//! * END closes the latest bracket of the same kind, of the calling thread, else of its process,
//!   else of anybody; where none is of that kind, the latest of any kind, in the same order;
//! * a process that ends closes its own.
//!
//! An access is bracketed while any bracket is open; a write needs one with DMA_BUF_SYNC_WRITE. A
//! read in a bracket that is for writing alone is let pass: no architecture here maps a page for writing only.
//!
//! What does not balance is a [`Fault`]. A thread that starts what its own open bracket covers
//! already has forgotten an END, or nests: the first END hands the buffer to the devices all the
//! same, so the older bracket covers nothing any more. Once an END has closed a bracket of another
//! thread, threads hand brackets on and nobody is accused of nesting on that buffer. A buffer that
//! its exporter took away is not accused of anything: END fails on it.

use std::collections::{BTreeMap, BTreeSet};

use super::report::Subject;
use super::site::Site;
use crate::device::BufferId;
use crate::device::tables::take_where;
use crate::uapi::dma_buf;

/// Most open brackets of one buffer; the oldest is forgotten, as if it had been ended.
const DEPTH_MAX: usize = 1024;

/// What the CPU may do to a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allowed {
    /// Nothing: no bracket is open.
    Nothing,
    /// Read: no open bracket is for writing.
    Reads,
    /// Read and write.
    Writes,
}

/// One open bracket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bracket {
    /// `DMA_BUF_SYNC_READ`, `DMA_BUF_SYNC_WRITE` or both.
    pub kind: u64,
    /// Where it was started.
    pub start: Site,
    /// A later START of the same thread covers it: it allows nothing any more.
    over: bool,
}

/// A SYNC that does not fit the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// END, and nothing was open.
    EndWithoutStart,
    /// END of another direction than this bracket's, which it closes.
    OtherDirection(Bracket),
    /// START of what this bracket of the same thread covers already.
    Nested(Bracket),
}

/// A bracket that nobody will end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unended {
    /// Of which buffer.
    pub buffer: BufferId,
    /// What was known of the buffer at its first START.
    pub subject: Option<Subject>,
    /// The bracket.
    pub bracket: Bracket,
}

/// The brackets of one buffer.
#[derive(Debug, Default)]
struct Open {
    list: Vec<Bracket>,
    subject: Option<Subject>,
    /// Brackets beyond [`DEPTH_MAX`], which may still be ended.
    forgotten: u64,
    /// An END has closed a bracket of another thread.
    handed_on: bool,
    /// The exporter took the buffer away.
    taken_away: bool,
}

impl Open {
    /// The bracket that an END of `site` closes.
    fn closed_by(&self, kind: u64, site: &Site) -> Option<usize> {
        let latest = |wanted: &dyn Fn(&Bracket) -> bool| self.list.iter().rposition(wanted);
        let same = |one: &Bracket| one.kind == kind;
        let thread = |one: &Bracket| one.start.tid == site.tid;
        let process = |one: &Bracket| one.start.pid == site.pid;
        latest(&|one| same(one) && thread(one))
            .or_else(|| latest(&|one| same(one) && process(one)))
            .or_else(|| latest(&same))
            .or_else(|| latest(&thread))
            .or_else(|| latest(&process))
            .or_else(|| latest(&|_| true))
    }

    fn start(&mut self, kind: u64, site: Site) -> Option<Fault> {
        let covers =
            |one: &&mut Bracket| !one.over && one.start.tid == site.tid && kind & !one.kind == 0;
        let accused = !self.handed_on && !self.taken_away;
        let older = self.list.iter_mut().rev().find(covers).filter(|_| accused);
        let fault = older.map(|older| {
            older.over = true;
            Fault::Nested(older.clone())
        });
        if self.list.len() >= DEPTH_MAX {
            self.list.remove(0);
            self.forgotten += 1;
        }
        self.list.push(Bracket { kind, start: site, over: false });
        fault
    }

    fn end(&mut self, kind: u64, site: &Site) -> Option<Fault> {
        let Some(at) = self.closed_by(kind, site) else {
            if self.forgotten > 0 {
                self.forgotten -= 1;
                return None;
            }
            return (!self.taken_away).then_some(Fault::EndWithoutStart);
        };
        let closed = self.list.remove(at);
        self.handed_on |= closed.start.tid != site.tid;
        (closed.kind != kind && !self.taken_away).then_some(Fault::OtherDirection(closed))
    }
}

/// The open brackets of all buffers.
#[derive(Debug, Default)]
pub struct Brackets {
    open: BTreeMap<BufferId, Open>,
}

impl Brackets {
    /// A SYNC that was granted. `subject` is asked once for each buffer.
    pub fn sync(
        &mut self,
        buffer: BufferId,
        flags: u64,
        site: &Site,
        subject: impl FnOnce() -> Option<Subject>,
    ) -> Option<Fault> {
        let kind = flags & dma_buf::SYNC_RW;
        let open = self.open.entry(buffer).or_default();
        if flags & dma_buf::SYNC_END != 0 {
            return open.end(kind, site);
        }
        open.subject = open.subject.take().or_else(subject);
        open.start(kind, site.clone())
    }

    /// What the open brackets allow.
    pub fn allowed(&self, buffer: BufferId) -> Allowed {
        let open = self.open.get(&buffer).map_or(&[][..], |open| &open.list[..]);
        let mut allowed = Allowed::Nothing;
        for bracket in open.iter().filter(|bracket| !bracket.over) {
            let writes = bracket.kind & dma_buf::SYNC_WRITE != 0;
            allowed = allowed.max(if writes { Allowed::Writes } else { Allowed::Reads });
        }
        allowed
    }

    /// The buffers that have a bracket open.
    pub fn buffers(&self) -> BTreeSet<BufferId> {
        let is_open = |open: &Open| open.list.iter().any(|bracket| !bracket.over);
        self.open.iter().filter(|(_, open)| is_open(open)).map(|(&buffer, _)| buffer).collect()
    }

    /// The oldest bracket that is open on a buffer.
    pub fn open(&self, buffer: BufferId) -> Option<&Bracket> {
        self.open.get(&buffer)?.list.iter().find(|bracket| !bracket.over)
    }

    /// The processes that have brackets open.
    pub fn processes(&self) -> Vec<i32> {
        let lists = self.open.values().flat_map(|open| &open.list);
        let mut pids: Vec<i32> = lists.map(|bracket| bracket.start.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// The process has ended; what it left open.
    pub fn process_gone(&mut self, pid: i32) -> Vec<Unended> {
        let mut unended = Vec::new();
        for (&buffer, open) in &mut self.open {
            let own = open.list.extract_if(.., |bracket| bracket.start.pid == pid);
            let own: Vec<Bracket> = own.filter(|_| !open.taken_away).collect();
            let subject = || open.subject.clone();
            let left =
                own.into_iter().map(|bracket| Unended { buffer, subject: subject(), bracket });
            unended.extend(left);
        }
        unended
    }

    /// The exporter took the buffer away.
    pub fn taken_away(&mut self, buffer: BufferId) {
        self.open.entry(buffer).or_default().taken_away = true;
    }

    /// Forgets the buffers that are gone; what was left open on them.
    pub fn retain(&mut self, exists: impl Fn(BufferId) -> bool) -> Vec<Unended> {
        let mut unended = Vec::new();
        for (buffer, open) in take_where(&mut self.open, |&buffer, _| !exists(buffer)) {
            let Open { list, subject, taken_away: false, .. } = open else { continue };
            let left = list.into_iter();
            unended.extend(left.map(|bracket| Unended {
                buffer,
                subject: subject.clone(),
                bracket,
            }));
        }
        unended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: BufferId = BufferId(1);
    const R: u64 = 1;
    const W: u64 = 2;
    const RW: u64 = 3;
    const END: u64 = 4;

    /// Process 10 has the threads 10 to 19, and so on.
    fn site(tid: i32) -> Site {
        Site { pid: tid / 10 * 10, tid, ..Site::default() }
    }

    fn sync(brackets: &mut Brackets, tid: i32, flags: u64) -> &'static str {
        match brackets.sync(B, flags, &site(tid), || None) {
            None => "",
            Some(Fault::EndWithoutStart) => "no start",
            Some(Fault::OtherDirection(_)) => "direction",
            Some(Fault::Nested(_)) => "nested",
        }
    }

    /// `(thread, flags)` in, what is allowed after each and what is said of it.
    fn check(steps: &[(i32, u64, Allowed, &str)]) {
        let mut brackets = Brackets::default();
        for (at, &(tid, flags, expect, said)) in steps.iter().enumerate() {
            assert_eq!(sync(&mut brackets, tid, flags), said, "step {at} of {steps:?}");
            assert_eq!(brackets.allowed(B), expect, "after step {at} of {steps:?}");
            assert_eq!(brackets.allowed(BufferId(2)), Nothing);
        }
    }

    use Allowed::{Nothing, Reads, Writes};

    #[test]
    fn balanced_brackets_are_silent() {
        check(&[(10, RW, Writes, ""), (10, END | RW, Nothing, "")]);
        // Nested where it is needed, and of two processes and two threads.
        check(&[
            (10, R, Reads, ""),
            (10, W, Writes, ""),
            (10, END | W, Reads, ""),
            (10, END | R, Nothing, ""),
        ]);
        for other in [11, 20] {
            check(&[
                (10, RW, Writes, ""),
                (other, R, Writes, ""),
                (other, END | R, Writes, ""),
                (10, END | RW, Nothing, ""),
            ]);
            // Somebody else's END: brackets are handed on, so that nobody nests.
            check(&[
                (10, RW, Writes, ""),
                (other, END | RW, Nothing, ""),
                (10, RW, Writes, ""),
                (10, RW, Writes, ""),
            ]);
        }
    }

    #[test]
    fn what_does_not_balance_is_told() {
        check(&[(10, END | R, Nothing, "no start"), (10, W, Writes, "")]);
        check(&[(10, RW, Writes, ""), (10, END | R, Nothing, "direction")]);
        check(&[(10, R, Reads, ""), (10, END | RW, Nothing, "direction")]);
        // A forgotten END does not cover what comes behind the next one.
        check(&[(10, RW, Writes, ""), (10, RW, Writes, "nested"), (10, END | RW, Nothing, "")]);
        check(&[(10, RW, Writes, ""), (10, R, Reads, "nested"), (10, END | R, Nothing, "")]);
    }

    #[test]
    fn what_is_left_open_is_told_once() {
        let mut brackets = Brackets::default();
        sync(&mut brackets, 10, RW);
        sync(&mut brackets, 21, R);
        assert_eq!(brackets.processes(), [10, 20]);
        let left = brackets.process_gone(10);
        assert_eq!(left.iter().map(|one| one.bracket.start.tid).collect::<Vec<_>>(), [10]);
        assert_eq!(brackets.process_gone(10), []);
        assert_eq!(brackets.allowed(B), Reads);
        assert_eq!(brackets.retain(|_| true), []);
        assert_eq!(brackets.retain(|_| false).len(), 1);
        assert_eq!(brackets.allowed(B), Nothing);
    }

    #[test]
    fn a_buffer_that_was_taken_away_accuses_nobody() {
        let mut brackets = Brackets::default();
        sync(&mut brackets, 10, RW);
        brackets.taken_away(B);
        assert_eq!(sync(&mut brackets, 10, RW), "");
        assert_eq!(brackets.process_gone(10), []);
        assert_eq!(sync(&mut brackets, 10, END | RW), "");
    }

    #[test]
    fn depth_is_bounded() {
        let mut brackets = Brackets::default();
        for _ in 0..DEPTH_MAX * 2 {
            sync(&mut brackets, 10, RW);
        }
        assert_eq!(brackets.open[&B].list.len(), DEPTH_MAX);
        for _ in 0..DEPTH_MAX * 2 {
            assert_eq!(sync(&mut brackets, 10, END | RW), "");
        }
        assert_eq!(sync(&mut brackets, 10, END | RW), "no start");
    }
}
