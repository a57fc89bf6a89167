//! What moves under way have copied.

use std::collections::BTreeMap;

use super::findings::Finding;
use super::frames::PageOf;
use crate::device::BufferId;
use crate::sys::page::page_bytes;

/// A device's write that a copy does not hold.
#[derive(Debug)]
pub(super) struct Overtaken {
    pub(super) offset: usize,
    pub(super) before: Vec<u8>,
    pub(super) finding: Finding,
}

/// What a page held.
#[derive(Debug)]
pub(super) struct PageBytes(pub(super) Vec<u8>);

impl PageBytes {
    pub(super) fn zeros() -> Self {
        Self(vec![0; page_bytes()])
    }

    /// The runs of bytes that are others than before, with their offsets; all where it is not known.
    pub(super) fn differing(&self, before: Option<&Self>) -> Vec<(usize, &[u8])> {
        let Some(before) = before else { return vec![(0, &self.0[..])] };
        let differs = |at: usize| self.0[at] != before.0[at];
        let mut runs = Vec::new();
        let mut at = 0;
        let page = self.0.len();
        while at < page {
            let end = (at..page).find(|&end| !differs(end)).unwrap_or(page);
            if end > at {
                runs.push((at, &self.0[at..end]));
            }
            at = end + 1;
        }
        runs
    }
}

/// What was copied of a page to its next frame.
#[derive(Debug)]
pub(super) enum Copied {
    /// The page, but for these writes.
    Page(Vec<Overtaken>),
    /// What was in the frame that the page had given up before.
    Other(PageBytes),
}

/// What the moves under way have copied.
#[derive(Debug, Default)]
pub(super) struct Copies {
    pub(super) copied: BTreeMap<PageOf, Copied>,
    /// What pages held as they gave up frames that they go on using.
    pub(super) given_up: BTreeMap<PageOf, PageBytes>,
}

impl Copies {
    /// Whether the page was copied to a frame that it is not yet.
    pub(super) fn is_ahead(&self, of: PageOf) -> bool {
        matches!(self.copied.get(&of), Some(Copied::Page(_)))
    }

    /// A device wrote to a page that was copied.
    pub(super) fn overtaken(
        &mut self,
        of: PageOf,
        offset: usize,
        before: Vec<u8>,
        finding: Finding,
    ) {
        if let Some(Copied::Page(writes)) = self.copied.get_mut(&of) {
            writes.push(Overtaken { offset, before, finding });
        }
    }

    /// The buffer is gone.
    pub(super) fn forget(&mut self, buffer: BufferId) {
        self.copied.retain(|of, _| of.buffer != buffer);
        self.given_up.retain(|of, _| of.buffer != buffer);
    }
}
