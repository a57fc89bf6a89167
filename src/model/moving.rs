//! What the steps of a move, a purge and a revocation do to frames: decided here, for whoever
//! carries it out.
//!
//! The explorer keeps frames in its [`super::State`], the device's live exporter in a table of its
//! own, with real memory behind. Both are a [`FrameTable`]; who owns which frame after a step is
//! this module's affair.
//!
//! ```text
//! Free --reserve--> Next --rebind--> Now --rebind--> Old --free--> Free | Orphan
//!                    `--abandon--> Free   `--free before rebind--> Free | Orphan
//! ```
//!
//! A page goes on using a frame that was freed before the page was rebound; giving it back once more
//! is the kernel's "BUG: Bad page state" ([`FrameTable::bad_page_state`]).

use super::operation::Operation;
use super::rules::{ExporterRules, ExporterStep, OnDmaBufPin, OnForeignPin, Recycle};
use super::{Life, Placement, Usage, WaitFor};

/// The frames of one page of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFrames<F> {
    /// Its frame.
    pub now: Option<F>,
    /// Reserved by the move under way.
    pub next: Option<F>,
    /// What the move under way has left and not given back.
    pub old: Option<F>,
}

/// As what a page has a frame that is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameRole {
    /// As its memory.
    Now,
    /// As the destination of a move.
    Next,
    /// As what it was before, or as another thing to be given back.
    Old,
}

/// Frames, their owners and their free lists.
pub trait FrameTable {
    /// A frame.
    type Frame: Copy;
    /// A page of a buffer.
    type Page: Copy;

    /// The frames of a page.
    fn frames(&self, page: Self::Page) -> PageFrames<Self::Frame>;

    /// The page has other frames.
    fn set_frames(&mut self, page: Self::Page, frames: PageFrames<Self::Frame>);

    /// The page has no frames any more, and holds nothing.
    fn clear(&mut self, page: Self::Page);

    /// As what the page owns the frame; none if it does not.
    fn held(&self, frame: Self::Frame, page: Self::Page) -> Option<FrameRole>;

    /// The page owns the frame from now on.
    fn hold(&mut self, frame: Self::Frame, page: Self::Page, held: FrameRole);

    /// Frames that are free in a placement.
    fn free_in(&self, placement: Placement) -> usize;

    /// Takes the frame that was given back last, as the page's next one.
    fn take(&mut self, placement: Placement, page: Self::Page) -> Option<Self::Frame>;

    /// Gives a frame back that the page owned, as the rule `recycle` says ([`goes_free`]).
    fn give_back(&mut self, frame: Self::Frame, page: Self::Page);

    /// Puts a frame that was reserved and never used on its free list.
    fn push_free(&mut self, frame: Self::Frame);

    /// A frame was given back that is not the page's.
    fn bad_page_state(&mut self, frame: Self::Frame, page: Self::Page);

    /// Before the frame that a page has left is given back.
    fn leaves(&mut self, _page: Self::Page, _now: Option<Self::Frame>) {}
}

/// Step `reserve`: takes the frames that the pages will have; false, and nothing changed, when there
/// are too few.
pub fn reserve<T: FrameTable>(table: &mut T, pages: &[T::Page], to: Placement) -> bool {
    if table.free_in(to) < pages.len() {
        return false;
    }
    for &page in pages {
        if let Some(next) = table.take(to, page) {
            table.hold(next, page, FrameRole::Next);
            table.set_frames(page, PageFrames { next: Some(next), ..table.frames(page) });
        }
    }
    true
}

/// Step `rebind` of a page: it is its next frame. What it was before, and what it is now.
pub fn rebind<T: FrameTable>(table: &mut T, page: T::Page) -> Option<(Option<T::Frame>, T::Frame)> {
    let PageFrames { now, next, old } = table.frames(page);
    let next = next?;
    let retired = now.filter(|&now| table.held(now, page) == Some(FrameRole::Now));
    if let Some(now) = retired {
        table.hold(now, page, FrameRole::Old);
    }
    table.hold(next, page, FrameRole::Now);
    table.set_frames(page, PageFrames { now: Some(next), next: None, old: retired.or(old) });
    Some((now, next))
}

/// From which frame to which the step `copy` copies a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copying<F> {
    /// From its frame to the next one.
    Ahead(F, F),
    /// From what it has left to its frame: whatever was written there before is overwritten.
    Late(F, F),
}

/// Step `copy` of a page.
pub fn copying<T: FrameTable>(table: &T, page: T::Page) -> Option<Copying<T::Frame>> {
    match table.frames(page) {
        PageFrames { now: Some(now), next: Some(next), .. } => Some(Copying::Ahead(now, next)),
        PageFrames { now: Some(now), next: None, old: Some(old) }
            if table.held(old, page) == Some(FrameRole::Old)
                && table.held(now, page) == Some(FrameRole::Now) =>
        {
            Some(Copying::Late(old, now))
        }
        _ => None,
    }
}

/// Step `free` of a move, of a page.
pub fn free_left<T: FrameTable>(table: &mut T, page: T::Page) {
    let PageFrames { now, next, old } = table.frames(page);
    if let Some(old) = old {
        // While it is still known that a copy was to come.
        table.leaves(page, now);
        table.set_frames(page, PageFrames { now, next, old: None });
        put(table, old, page);
    } else if next.is_some()
        && let Some(now) = now.filter(|&now| table.held(now, page) == Some(FrameRole::Now))
    {
        // Freed before the buffer was rebound: it goes on using the frame.
        put(table, now, page);
    }
}

/// Step `free` of a purge or a revocation, and the release of a buffer, of a page: it has no frames.
pub fn free_all<T: FrameTable>(table: &mut T, page: T::Page) {
    let PageFrames { now, next, old } = table.frames(page);
    table.clear(page);
    for frame in [now, next, old].into_iter().flatten() {
        put(table, frame, page);
    }
}

/// Undoes `reserve` of a page.
pub fn abandon<T: FrameTable>(table: &mut T, page: T::Page) {
    let frames = table.frames(page);
    if let Some(next) = frames.next {
        table.set_frames(page, PageFrames { next: None, ..frames });
        table.push_free(next);
    }
}

/// Gives a frame back that is the page's; one that is not was given back before.
pub fn put<T: FrameTable>(table: &mut T, frame: T::Frame, page: T::Page) {
    if table.held(frame, page).is_some() {
        table.give_back(frame, page);
    } else {
        table.bad_page_state(frame, page);
    }
}

/// Whether a frame that is given back is free at once, or only with the last reference to it.
/// Carveouts count no references.
pub fn goes_free(
    recycle: Recycle,
    placement: Placement,
    is_referenced: impl FnOnce() -> bool,
) -> bool {
    let counts = recycle == Recycle::Allocator && placement != Placement::Vram;
    !(counts && is_referenced())
}

/// Which pin stops an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned<F> {
    /// `dma_buf_pin`.
    Buffer,
    /// get_user_pages, of this frame.
    Page(F),
}

/// Step `check-pins`: what answers EBUSY.
///
/// # Errors
/// [`Pinned`].
pub fn check_pins<F>(
    rules: &ExporterRules,
    buffer_is_pinned: bool,
    pinned_page: impl FnOnce() -> Option<F>,
) -> Result<(), Pinned<F>> {
    if buffer_is_pinned && rules.on_dma_buf_pin == OnDmaBufPin::Honour {
        return Err(Pinned::Buffer);
    }
    if rules.on_foreign_pin == OnForeignPin::Refuse
        && let Some(frame) = pinned_page()
    {
        return Err(Pinned::Page(frame));
    }
    Ok(())
}

impl ExporterRules {
    /// The ordered steps of an operation.
    #[must_use]
    pub fn steps(&self, operation: Operation) -> &[ExporterStep] {
        match operation {
            Operation::Move(_) => &self.move_steps,
            Operation::Purge => &self.purge_steps,
            Operation::Revoke => &self.revoke_steps,
        }
    }

    /// Whether an operation may come to a lock with the lock or frames in hand, to be given back if it is
    /// refused.
    #[must_use]
    pub fn locks_late(&self, operation: Operation) -> bool {
        let steps = self.steps(operation);
        let last = steps.iter().rposition(|step| *step == ExporterStep::Lock).unwrap_or(0);
        steps[..last].iter().any(|step| matches!(step, ExporterStep::Reserve | ExporterStep::Lock))
    }
}

/// What a step leaves of a buffer, where it changes that. From the first of the steps that wait, or
/// give up, a revoked buffer is quiesced: the exporter takes it that no importer accesses it any
/// more.
pub fn life_after(
    operation: Operation,
    step: ExporterStep,
    life: impl FnOnce() -> Life,
) -> Option<Life> {
    let waited = matches!(
        step,
        ExporterStep::Unlock | ExporterStep::Wait | ExporterStep::WaitUnmap | ExporterStep::Free
    );
    match (step, operation) {
        (ExporterStep::Mark, Operation::Revoke) => Some(Life::Revoked),
        (ExporterStep::Mark, Operation::Purge | Operation::Move(_)) => Some(Life::Purged),
        (_, Operation::Revoke) if waited && life() == Life::Revoked => Some(Life::Quiesced),
        _ => None,
    }
}

impl WaitFor {
    /// The highest usage that is waited for.
    #[must_use]
    pub const fn usage(self) -> Usage {
        match self {
            Self::Kernel => Usage::Kernel,
            Self::Write => Usage::Write,
            Self::Read => Usage::Read,
            Self::Bookkeep => Usage::Bookkeep,
        }
    }
}
