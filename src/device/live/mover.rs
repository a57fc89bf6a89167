//! The move itself: a run of pages gets new memory while programs go on writing to it.
//!
//! Kernel counterpart: `migrate_folio` (mm/migrate.c), and an exporter's own sequence of
//! unmap_mapping_range, copy and fault (drivers/gpu/drm/ttm/ttm_bo_util.c). For each chunk of at
//! most [`CHUNK_PAGES`]:
//!
//! 1. **Protect**: every mapping's PTEs become write-protected; who stores now sleeps. Loads go on.
//! 2. **Copy** the content out. From here until 5 it is in the scratch.
//! 3. **Punch**: the pages are freed, all PTEs go, who loads now sleeps too.
//! 4. **Refill**: new pages with the same content.
//! 5. **Release**: the protection goes, all sleepers wake and retry.
//!
//! Without step 1 a store between 2 and 3 is lost ([`Sabotage::NoProtect`] shows it).
//!
//! **Invariant**: the mappings that are given are all there are. Who gives them upholds it; a
//! mapping that has changed is found in step 1 and the chunk is not begun.
//!
//! **Differs from Linux**: a system call that copies to or from a page between 1 and 5 fails with
//! EFAULT where the userfaultfd traps user mode only. A pin does not stop the move and goes stale.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sys::page::{Addr, Range, page_bytes};
use crate::sys::store::{CHUNK_PAGES, Scratch, Store, StoreError};
use crate::sys::uffd::{Features, OpenError, ProtectError, Uffd, Via};

use super::journal::{Journal, Unfinished};

/// One mapping of a buffer in some process.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The userfaultfd of the process, with which the whole mapping is registered for MISSING and
    /// WP.
    pub uffd: Arc<Uffd>,
    /// Where it begins in the process.
    pub start: Addr,
    /// First page of the buffer that it maps.
    pub first: usize,
    /// How many pages.
    pub pages: usize,
}

impl Mapping {
    /// The part of the mapping that shows some of `pages` pages from `first`.
    fn part(&self, first: usize, pages: usize) -> Option<Range> {
        let from = first.max(self.first);
        let to = (first + pages).min(self.first + self.pages);
        (from < to).then(|| {
            let start = Addr(self.start.0 + ((from - self.first) * page_bytes()) as u64);
            Range::pages(start, to - from)
        })
    }
}

/// A step of a move, as the module lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// About to write-protect.
    Protect,
    /// About to copy.
    Copy,
    /// About to punch.
    Punch,
    /// About to refill.
    Refill,
    /// About to release.
    Release,
}

impl Step {
    /// Every step, in order, as it is spelled.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("protect", Self::Protect),
        ("copy", Self::Copy),
        ("punch", Self::Punch),
        ("refill", Self::Refill),
        ("release", Self::Release),
    ];
}

/// A fault put into the mover on purpose, to prove that a test can see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    #[default]
    None,
    /// Leaves the write protection out: updates are lost.
    NoProtect,
    /// Moves while a system call may be copying: calls fail with EFAULT.
    IgnoreCalls,
    /// Holds up everybody for so many milliseconds, in the hundredth call.
    HoldUp(u64),
    /// Kills this process by SIGKILL when it comes to refill for the `n`th time, and there is no
    /// guardian: pages read as zeros.
    DieUnguarded(u64),
    /// Kills this process by SIGKILL when it comes to this step for the `n`th time.
    DieAt(Step, u64),
    /// Panics when it comes to this step for the `n`th time.
    PanicAt(Step, u64),
}

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Pages that have new memory.
    pub pages: u64,
    /// Pages that somebody made meanwhile, by a way that is not trapped.
    pub conflicts: u64,
}

/// Why a move stopped. What was moved before stays moved; nothing is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// A mapping is not, or not wholly, registered any more: look at the process again.
    #[error("mapping {0} has changed")]
    Changed(usize),
    /// No memory for the new pages. The buffer was truncated, so that each access is SIGBUS.
    #[error("no memory for the new pages: the buffer is lost, and every access to it is SIGBUS")]
    Lost,
    /// The buffer's file.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Moves pages; see the [module](self).
#[derive(Debug)]
pub struct Mover {
    uffd: Arc<Uffd>,
    scratch: Scratch,
    sabotage: Sabotage,
    /// How often the sabotaged step was reached.
    reached: u64,
}

/// The features that a userfaultfd of a mapping needs.
pub const FEATURES: Features = Features::MISSING_SHMEM.union(Features::WP_HUGETLBFS_SHMEM);

/// Why there is no mover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// No userfaultfd.
    #[error(transparent)]
    Uffd(#[from] OpenError),
    /// No guardian.
    #[error(transparent)]
    Guard(#[from] crate::sys::guard::GuardError),
    /// No scratch memory.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Mover {
    /// A mover with a userfaultfd of this process and a scratch.
    ///
    /// # Errors
    /// This machine has no userfaultfd with write protection of shared memory (Linux 5.19), or a
    /// sandbox forbids it, or there is no memory.
    pub fn new(sabotage: Sabotage) -> Result<Self, SetupError> {
        let uffd = Arc::new(Uffd::open(Via::UserModeOnly, FEATURES)?);
        Ok(Self { uffd, scratch: Scratch::create()?, sabotage, reached: 0 })
    }

    /// Takes a buffer's file over.
    ///
    /// # Errors
    /// As [`Store::adopt`] and [`Store::allocate`].
    pub fn adopt(&self, file: std::os::fd::OwnedFd, pages: usize) -> Result<Store, StoreError> {
        let store = Store::adopt(file, pages, &self.uffd)?;
        store.allocate()?;
        Ok(store)
    }

    /// The memory that holds the move in progress, for who is to complete it if we die.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Gives `pages` pages of a buffer from `first` on new memory. `id` names the buffer in the
    /// journal. `mappings` must be all mappings of the buffer.
    ///
    /// # Errors
    /// [`MoveError`].
    ///
    /// # Panics
    /// When the pages are not all in the buffer.
    pub fn relocate(
        &mut self,
        id: u64,
        store: &Store,
        mappings: &[Mapping],
        first: usize,
        pages: usize,
    ) -> Result<Moved, MoveError> {
        assert!(first + pages <= store.pages(), "pages of the buffer");
        let mut moved = Moved::default();
        let mut at = first;
        while at < first + pages {
            let count = CHUNK_PAGES.min(first + pages - at);
            moved.conflicts += self.chunk(id, store, mappings, at, count)?;
            moved.pages += count as u64;
            at += count;
        }
        Ok(moved)
    }

    /// What a move that was cut off has left absent.
    pub fn unfinished(&self) -> Option<Unfinished> {
        Journal::of(self.scratch.head()).unfinished()
    }

    /// Ends a move of this buffer that was cut off, if it was one of it: what is absent is refilled,
    /// and every protection is lifted.
    ///
    /// # Errors
    /// [`MoveError::Lost`]: the pages can't be refilled, and every access is SIGBUS.
    pub fn recover(
        &mut self,
        store: &Store,
        mappings: &[Mapping],
        absent: Option<Unfinished>,
    ) -> Result<(), MoveError> {
        let mut result = Ok(());
        if let Some(Unfinished { first, pages, .. }) = absent {
            if store.copy_in(first, pages, &self.scratch).is_err() {
                result = store.truncate().map_err(MoveError::from).and(Err(MoveError::Lost));
            }
            Journal::of(self.scratch.head()).end();
        }
        release(mappings, 0, store.pages());
        result
    }

    fn chunk(
        &mut self,
        id: u64,
        store: &Store,
        mappings: &[Mapping],
        first: usize,
        pages: usize,
    ) -> Result<u64, MoveError> {
        self.reach(Step::Protect);
        if self.sabotage != Sabotage::NoProtect {
            protect(mappings, first, pages)?;
        }
        self.reach(Step::Copy);
        let refilled = self.replace(id, store, first, pages);
        self.reach(Step::Release);
        release(mappings, first, pages);
        refilled
    }

    /// Copy, punch, refill. On return every page is present, or the buffer is truncated.
    fn replace(
        &mut self,
        id: u64,
        store: &Store,
        first: usize,
        pages: usize,
    ) -> Result<u64, MoveError> {
        store.copy_out(first, pages, &self.scratch)?;
        let journal = Journal::of(self.scratch.head());
        journal.begin(id, first, pages);
        self.reach(Step::Punch);
        let punched = store.punch(first, pages);
        self.reach(Step::Refill);
        let refilled = punched.and_then(|()| store.copy_in(first, pages, &self.scratch));
        let result = match refilled {
            Ok(refilled) => Ok(refilled.conflicts),
            Err(StoreError::Truncated) => Err(StoreError::Truncated.into()),
            Err(_) => {
                // Pages that read as zeros would be worse than pages that can't be read.
                store.truncate()?;
                Err(MoveError::Lost)
            }
        };
        Journal::of(self.scratch.head()).end();
        result
    }

    fn reach(&mut self, step: Step) {
        let (at, nth) = match self.sabotage {
            Sabotage::DieAt(at, nth) | Sabotage::PanicAt(at, nth) => (at, nth),
            Sabotage::DieUnguarded(nth) => (Step::Refill, nth),
            Sabotage::None | Sabotage::NoProtect | Sabotage::IgnoreCalls | Sabotage::HoldUp(_) => {
                return;
            }
        };
        if at == step {
            self.reached += 1;
            if self.reached == nth {
                assert!(!matches!(self.sabotage, Sabotage::PanicAt(..)), "sabotage");
                let own = rustix::process::getpid();
                let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            }
        }
    }
}

/// How long a process may be changing its mappings before it counts as changed. One whose
/// userfaultfd has events that nobody reads says so for ever.
const CHANGING_TIME_MAX: Duration = Duration::from_millis(500);

/// Tries again while the process changes its mappings, but not for ever.
fn settled(act: impl Fn() -> Result<(), ProtectError>) -> Result<(), ProtectError> {
    let mut deadline = None;
    loop {
        match act() {
            Err(ProtectError::Changing) => {
                let now = Instant::now();
                if now > *deadline.get_or_insert(now + CHANGING_TIME_MAX) {
                    return Err(ProtectError::Changing);
                }
                std::thread::yield_now();
            }
            result => return result,
        }
    }
}

/// Write-protects the pages in every mapping, or in none.
fn protect(mappings: &[Mapping], first: usize, pages: usize) -> Result<(), MoveError> {
    for (index, mapping) in mappings.iter().enumerate() {
        let Some(range) = mapping.part(first, pages) else { continue };
        let result = settled(|| mapping.uffd.write_protect(range));
        match result {
            // A process that is gone has no page to write to.
            Ok(()) | Err(ProtectError::Gone) => {}
            Err(_) => {
                release(&mappings[..index], first, pages);
                // A mapping of several VMAs may have been protected in part.
                let _ = mapping.uffd.wake(range);
                return Err(MoveError::Changed(index));
            }
        }
    }
    Ok(())
}

/// Removes the protection and wakes everybody. A mapping that has gone meanwhile needs neither.
fn release(mappings: &[Mapping], first: usize, pages: usize) {
    for mapping in mappings {
        let Some(range) = mapping.part(first, pages) else { continue };
        match settled(|| mapping.uffd.write_unprotect(range)) {
            Ok(()) | Err(ProtectError::Gone) => {}
            Err(_) => drop(mapping.uffd.wake(range)),
        }
    }
}
