//! What a move has under way, in memory that outlives the process that makes it.
//!
//! The head page of a [`Scratch`](crate::sys::store::Scratch): a word that says whether pages may
//! be absent, and which. The word is written last when a move begins and first when it ends, so
//! that whoever reads it after its writer's death finds the rest complete. No barrier is needed for
//! that: a process dies between two instructions, and who has learned of its death from the kernel sees
//! every store before that point (the compiler keeps their order, as each is a call).

use crate::sys::page::Span;
use crate::sys::touch::Touch;

const STATE_AT: usize = 0;
const BUFFER_AT: usize = 8;
const FIRST_AT: usize = 16;
const PAGES_AT: usize = 24;

const IDLE: u64 = 0;
const REPLACING: u64 = 1;

/// A move whose pages may be absent; their content is in the scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The buffer, by the id that its exporter gave it.
    pub buffer: u64,
    /// First page.
    pub first: usize,
    /// How many.
    pub pages: usize,
}

/// The journal of one scratch.
#[derive(Clone, Copy, Debug)]
pub struct Journal<'scratch> {
    head: Span<'scratch>,
}

impl<'scratch> Journal<'scratch> {
    /// The journal in a scratch's head page.
    pub fn of(head: Span<'scratch>) -> Self {
        Self { head }
    }

    /// From now on pages may be absent.
    pub fn begin(&self, buffer: u64, first: usize, pages: usize) {
        self.put(BUFFER_AT, buffer);
        self.put(FIRST_AT, first as u64);
        self.put(PAGES_AT, pages as u64);
        self.put(STATE_AT, REPLACING);
    }

    /// All pages are there again.
    pub fn end(&self) {
        self.put(STATE_AT, IDLE);
    }

    /// What was under way.
    pub fn unfinished(&self) -> Option<Unfinished> {
        let get = |at| self.head.load_u64(at).value();
        if get(STATE_AT)? != REPLACING {
            return None;
        }
        let number = |at| usize::try_from(get(at)?).ok();
        Some(Unfinished {
            buffer: get(BUFFER_AT)?,
            first: number(FIRST_AT)?,
            pages: number(PAGES_AT)?,
        })
    }

    fn put(&self, at: usize, value: u64) {
        let stored = self.head.store_u64(at, value);
        // The scratch is allocated and sealed, so its pages can't go.
        debug_assert_eq!(stored, Touch::Value(()), "the scratch is mapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::store::Scratch;

    #[test]
    fn a_move_is_unfinished_from_begin_to_end() {
        let scratch = Scratch::create().unwrap();
        let journal = Journal::of(scratch.head());
        assert_eq!(journal.unfinished(), None);
        journal.begin(7, 3, 2);
        assert_eq!(journal.unfinished(), Some(Unfinished { buffer: 7, first: 3, pages: 2 }));
        journal.end();
        assert_eq!(journal.unfinished(), None);
    }
}
