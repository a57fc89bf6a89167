//! The guardian: completes the move that a killed exporter left half done.
//!
//! When the last descriptor of a userfaultfd is closed, its ranges are trapped no more: whoever
//! sleeps in a fault of a missing page wakes and reads zeros, silently. So a second process
//! ([`crate::sys::guard`]) holds a copy of each, and of the buffers' files, and shares the scratch
//! with its journal. When the exporter is gone it
//!
//! 1. refills the pages that the [journal](super::journal) calls absent, or, if there is no memory
//!    for them, truncates the buffer, so that each access is SIGBUS;
//! 2. ends, which closes the userfaultfds: protection goes, sleepers wake, nothing moves any more.
//!
//! **Differs from Linux**: killing both processes at once brings the zeros back.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::sys::guard::{self, GuardError};
use crate::sys::link::{Link, LinkError};
use crate::sys::store::{Scratch, Store};
use crate::sys::uffd::{Uffd, Via};

use super::journal::{Journal, Unfinished};
use super::mover::FEATURES;

/// How long a full link is given to empty.
const SEND_TRIES: u32 = 1000;

/// What the guardian is told: kind, id, pages.
const MESSAGE_BYTES: usize = 17;
const KEEP: u8 = b'k';
const DROP: u8 = b'd';

/// Our end of the guardian.
#[derive(Clone, Debug)]
pub struct Guardian {
    link: Arc<Link>,
}

/// Something that the guardian holds a copy of until this is dropped.
#[derive(Debug)]
pub struct KeptFile {
    link: Arc<Link>,
    id: u64,
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        tell(&self.link, DROP, self.id, 0, None);
    }
}

impl Guardian {
    /// Starts the guardian of the moves that go through this scratch.
    ///
    /// Call it from a process with one thread only.
    ///
    /// # Errors
    /// [`GuardError`].
    pub fn start(scratch: &Scratch) -> Result<Self, GuardError> {
        let link = guard::start(|link| watch(&link, scratch))?;
        Ok(Self { link: Arc::new(link) })
    }

    /// Gives it a copy of a userfaultfd (`pages` is 0) or of a buffer's file. `id` names it in the
    /// journal and must be new.
    #[must_use]
    pub fn keep(&self, id: u64, pages: usize, file: BorrowedFd<'_>) -> KeptFile {
        tell(&self.link, KEEP, id, pages, Some(file));
        KeptFile { link: Arc::clone(&self.link), id }
    }
}

fn tell(link: &Link, kind: u8, id: u64, pages: usize, file: Option<BorrowedFd<'_>>) {
    let mut message = [0; MESSAGE_BYTES];
    message[0] = kind;
    message[1..9].copy_from_slice(&id.to_ne_bytes());
    message[9..17].copy_from_slice(&(pages as u64).to_ne_bytes());
    let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
    for _ in 0..SEND_TRIES {
        match link.send(&message, &files) {
            Err(LinkError::Full) => std::thread::sleep(Duration::from_millis(1)),
            // A guardian that is gone guards nothing; the moves go on without it.
            _ => return,
        }
    }
}

/// The guardian's life.
fn watch(link: &Link, scratch: &Scratch) {
    let mut kept: BTreeMap<u64, (OwnedFd, usize)> = BTreeMap::new();
    let mut message = [0; MESSAGE_BYTES];
    loop {
        match link.receive(&mut message, Duration::from_secs(3600)) {
            // Nothing but the exporter's end may make us touch its buffers.
            Err(LinkError::PeerDied) => break,
            Err(_) => {}
            Ok((_, mut files)) => {
                let word = |at: usize| {
                    message[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
                };
                let pages = usize::try_from(word(9)).unwrap_or(0);
                match (message[0], files.pop()) {
                    (KEEP, Some(file)) => drop(kept.insert(word(1), (file, pages))),
                    _ => drop(kept.remove(&word(1))),
                }
            }
        }
    }
    let unfinished = Journal::of(scratch.head()).unfinished();
    if let Some(unfinished) = unfinished
        && let Some((file, pages)) = kept.remove(&unfinished.buffer)
    {
        complete(file, pages, unfinished, scratch);
    }
}

/// Refills what is absent. Whoever could write to the pages is still kept from it, so pages that
/// are there already hold what the scratch holds.
fn complete(file: OwnedFd, pages: usize, unfinished: Unfinished, scratch: &Scratch) {
    let Ok(spare) = file.try_clone() else { return };
    let Unfinished { first, pages: count, .. } = unfinished;
    let refilled = Uffd::open(Via::UserModeOnly, FEATURES)
        .ok()
        .and_then(|uffd| Store::adopt(file, pages, &Arc::new(uffd)).ok())
        .and_then(|store| store.copy_in(first, count, scratch).ok());
    if refilled.is_none() {
        // Rather no page than one of zeros. It can fail only if somebody sealed the file.
        let _ = rustix::fs::ftruncate(spare.as_fd(), 0);
    }
}
