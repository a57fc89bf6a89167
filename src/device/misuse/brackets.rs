//! Which SYNC brackets are open on each buffer.
//!
//! Kernel counterpart: `dma_buf_begin_cpu_access` and `dma_buf_end_cpu_access`
//! (drivers/dma-buf/dma-buf.c). The kernel keeps no count: a bracket belongs to the buffer, not to
//! the process, the descriptor or the mapping, and what two of them at once mean is the exporter's
//! affair. Here they are counted so that no correct program is accused:
//!
//! * every granted START opens one bracket on the buffer, of its kind, for everybody;
//! * END closes the caller's own latest bracket of the same kind, else its latest of any kind, else
//!   the latest of anybody;
//! * a process that ends closes its own.
//!
//! An access is bracketed while any bracket is open; a write needs one with DMA_BUF_SYNC_WRITE. A
//! read in a bracket that is for writing alone is let pass: x86 can't map a page for writing only.

use std::collections::BTreeMap;

use crate::device::BufferId;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bracket {
    pid: i32,
    kind: u64,
}

/// The open brackets of all buffers.
#[derive(Debug, Default)]
pub struct Brackets {
    open: BTreeMap<BufferId, Vec<Bracket>>,
}

impl Brackets {
    /// A SYNC that was granted.
    pub fn sync(&mut self, buffer: BufferId, pid: i32, flags: u64) {
        let kind = flags & dma_buf::SYNC_RW;
        let open = self.open.entry(buffer).or_default();
        if flags & dma_buf::SYNC_END == 0 {
            if open.len() >= DEPTH_MAX {
                open.remove(0);
            }
            open.push(Bracket { pid, kind });
            return;
        }
        let latest = |wanted: &dyn Fn(&Bracket) -> bool| open.iter().rposition(wanted);
        let at = latest(&|one| one.pid == pid && one.kind == kind)
            .or_else(|| latest(&|one| one.pid == pid))
            .or_else(|| latest(&|_| true));
        if let Some(at) = at {
            open.remove(at);
        }
        if open.is_empty() {
            self.open.remove(&buffer);
        }
    }

    /// What the open brackets allow.
    pub fn allowed(&self, buffer: BufferId) -> Allowed {
        let open = self.open.get(&buffer).map_or(&[][..], Vec::as_slice);
        if open.iter().any(|bracket| bracket.kind & dma_buf::SYNC_WRITE != 0) {
            Allowed::Writes
        } else if open.is_empty() {
            Allowed::Nothing
        } else {
            Allowed::Reads
        }
    }

    /// The process has ended.
    pub fn process_gone(&mut self, pid: i32) {
        self.open.retain(|_, open| {
            open.retain(|bracket| bracket.pid != pid);
            !open.is_empty()
        });
    }

    /// Forgets the buffers that are gone.
    pub fn retain(&mut self, exists: impl Fn(BufferId) -> bool) {
        self.open.retain(|&buffer, _| exists(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: BufferId = BufferId(1);

    /// `(pid, flags)` in, what is allowed after each.
    fn check(steps: &[(i32, u64, Allowed)]) {
        let mut brackets = Brackets::default();
        for (at, &(pid, flags, expect)) in steps.iter().enumerate() {
            brackets.sync(B, pid, flags);
            assert_eq!(brackets.allowed(B), expect, "after step {at} of {steps:?}");
            assert_eq!(brackets.allowed(BufferId(2)), Allowed::Nothing);
        }
    }

    #[test]
    fn brackets_are_counted_by_buffer() {
        use Allowed::{Nothing, Reads, Writes};
        let (r, w, rw, end) = (1, 2, 3, 4);
        check(&[(1, rw, Writes), (1, end | rw, Nothing)]);
        check(&[(1, r, Reads), (1, end | r, Nothing), (1, end | r, Nothing), (1, w, Writes)]);
        // Nested, and of two processes.
        check(&[(1, r, Reads), (1, w, Writes), (1, end | w, Reads), (1, end | r, Nothing)]);
        check(&[(1, r, Reads), (2, rw, Writes), (2, end | rw, Reads), (1, end | r, Nothing)]);
        check(&[(1, rw, Writes), (2, r, Writes), (2, end | r, Writes), (1, end | rw, Nothing)]);
        // END that does not say what START said.
        check(&[(1, rw, Writes), (1, end | r, Nothing)]);
        check(&[(1, r, Reads), (1, end | rw, Nothing)]);
        // Somebody else's END.
        check(&[(1, rw, Writes), (2, end | rw, Nothing)]);
    }

    #[test]
    fn a_process_takes_its_brackets_along() {
        let mut brackets = Brackets::default();
        brackets.sync(B, 1, 3);
        brackets.sync(B, 2, 1);
        brackets.process_gone(1);
        assert_eq!(brackets.allowed(B), Allowed::Reads);
        brackets.retain(|_| false);
        assert_eq!(brackets.allowed(B), Allowed::Nothing);
    }

    #[test]
    fn depth_is_bounded() {
        let mut brackets = Brackets::default();
        for _ in 0..DEPTH_MAX * 2 {
            brackets.sync(B, 1, 3);
        }
        assert_eq!(brackets.open[&B].len(), DEPTH_MAX);
    }
}
