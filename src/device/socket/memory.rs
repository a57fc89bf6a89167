//! The memory of a socket exporter's buffers: a file each, and every mapping of it in every client.
//!
//! **Invariant**: the mappings of a buffer that are listed here are all that its clients made
//! through the library, each registered with its client's userfaultfd. A client that maps the file
//! behind the library's back is not trapped, and its stores during a move can be lost.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::SealFlags;
use rustix::io::Errno;

use crate::device::BufferId;
use crate::device::live::attach::Holder;
use crate::device::live::frames::PageOf;
use crate::device::live::mover::{MoveError, Moved};
use crate::device::live::operation::{Memory, MemoryError};
use crate::device::live::pages::{Pages, read_all, write_all};
use crate::device::live::{Mapping, Mover, Sabotage};
use crate::sys::backing;
use crate::sys::page::{Range, page_bytes};
use crate::sys::store::{Store, StoreError};
use crate::sys::uffd::{Modes, ProtectError, Uffd};

/// A mapping of a buffer in a client.
#[derive(Debug)]
pub struct Mapped {
    /// Its id.
    pub id: u64,
    /// Whose it is.
    pub holder: Holder,
    mapping: Mapping,
}

#[derive(Debug)]
struct BufferMemory {
    store: Store,
    mapped: Vec<Mapped>,
}

/// All buffers' memory; see the [module](self).
#[derive(Debug)]
pub struct SocketMemory {
    mover: Mover,
    held: BTreeMap<BufferId, BufferMemory>,
    /// Pages that were given new memory.
    pub moved: Moved,
}

/// Why a buffer has no memory.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The file.
    #[error("can't make a file of this size: {0}")]
    File(#[from] std::io::Error),
    /// Its pages.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SocketMemory {
    /// Memory that moves.
    ///
    /// # Errors
    /// As [`Mover::new`].
    pub fn new() -> Result<Self, crate::device::live::mover::SetupError> {
        let mover = Mover::new(Sabotage::None)?;
        Ok(Self { mover, held: BTreeMap::new(), moved: Moved::default() })
    }

    /// Makes a buffer's memory, all zero. Returns the file for the client.
    ///
    /// # Errors
    /// [`MakeError`].
    pub fn make(&mut self, buffer: BufferId, pages: usize) -> Result<OwnedFd, MakeError> {
        let file = backing::memfd("dmabuf")?;
        let bytes = (pages * page_bytes()) as u64;
        rustix::fs::ftruncate(&file, bytes).map_err(std::io::Error::from)?;
        // Not SHRINK: a purge truncates it.
        rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SEAL)
            .map_err(std::io::Error::from)?;
        let own = file.try_clone()?;
        let store = self.mover.adopt(own, pages)?;
        self.held.insert(buffer, BufferMemory { store, mapped: Vec::new() });
        Ok(file)
    }

    /// The buffer's file.
    #[must_use]
    pub fn file(&self, buffer: BufferId) -> Option<BorrowedFd<'_>> {
        self.held.get(&buffer).map(|held| held.store.as_fd())
    }

    /// Traps a client's mapping of the whole buffer.
    ///
    /// # Errors
    /// EINVAL: it is no such mapping. EBADF: no such buffer.
    pub fn map(
        &mut self,
        buffer: BufferId,
        (id, holder): (u64, Holder),
        uffd: &Arc<Uffd>,
        start: u64,
    ) -> Result<(), Errno> {
        let held = self.held.get_mut(&buffer).ok_or(Errno::BADF)?;
        let pages = held.store.pages();
        let fits = start.checked_add((pages * page_bytes()) as u64).is_some();
        if !fits || !start.is_multiple_of(page_bytes() as u64) {
            return Err(Errno::INVAL);
        }
        let start = crate::sys::page::Addr(start);
        uffd.register(Range::pages(start, pages), Modes::MISSING | Modes::WP)
            .map_err(|_| Errno::INVAL)?;
        let mapping = Mapping { uffd: Arc::clone(uffd), start, first: 0, pages };
        held.mapped.push(Mapped { id, holder, mapping });
        Ok(())
    }

    /// How many mappings a client has.
    #[must_use]
    pub fn mapped_by(&self, holder: Holder) -> usize {
        let all = self.held.values().flat_map(|held| &held.mapped);
        all.filter(|mapped| mapped.holder == holder).count()
    }

    /// Forgets a mapping. Returns its buffer.
    pub fn unmap(&mut self, id: u64, holder: Holder) -> Option<BufferId> {
        for (&buffer, held) in &mut self.held {
            let before = held.mapped.len();
            held.mapped.retain(|mapped| (mapped.id, mapped.holder) != (id, holder));
            if held.mapped.len() < before {
                return Some(buffer);
            }
        }
        None
    }

    /// The buffer behind a mapping.
    #[must_use]
    pub fn behind(&self, id: u64, holder: Holder) -> Option<BufferId> {
        let has =
            |held: &BufferMemory| held.mapped.iter().any(|m| (m.id, m.holder) == (id, holder));
        self.held.iter().find(|(_, held)| has(held)).map(|(&buffer, _)| buffer)
    }

    /// A client is gone: so are its mappings, unless its process lives and still has them.
    pub fn drop_dead(&mut self, holder: Holder) {
        for held in self.held.values_mut() {
            held.mapped.retain(|mapped| {
                let Mapping { uffd, start, pages, .. } = &mapped.mapping;
                let range = Range::pages(*start, *pages);
                let gone = || {
                    let result = uffd.write_unprotect(range);
                    matches!(result, Err(ProtectError::Gone | ProtectError::NotRegistered))
                };
                mapped.holder != holder || !gone()
            });
        }
    }

    /// The buffer's last reference is gone.
    pub fn release(&mut self, buffer: BufferId) {
        self.held.remove(&buffer);
    }

    fn fd(&self, of: PageOf) -> Result<(BorrowedFd<'_>, u64), Errno> {
        let fd = self.file(of.buffer).ok_or(Errno::NODATA)?;
        let at = of.page.checked_mul(page_bytes()).ok_or(Errno::INVAL)?;
        Ok((fd, at as u64))
    }
}

impl Pages for SocketMemory {
    fn read(&self, of: PageOf, offset: usize, into: &mut [u8]) -> Result<(), Errno> {
        let (fd, at) = self.fd(of)?;
        read_all(fd, at.checked_add(offset as u64).ok_or(Errno::INVAL)?, into)
    }

    fn write(&self, of: PageOf, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        let (fd, at) = self.fd(of)?;
        write_all(fd, at.checked_add(offset as u64).ok_or(Errno::INVAL)?, bytes)
    }
}

impl Memory for SocketMemory {
    fn relocate(&mut self, buffer: BufferId) -> Result<(), MemoryError> {
        let held = self.held.get_mut(&buffer).ok_or(MemoryError::NoMemory)?;
        let mappings: Vec<Mapping> = held.mapped.iter().map(|m| m.mapping.clone()).collect();
        let pages = held.store.pages();
        match self.mover.relocate(buffer.0, &held.store, &mappings, 0, pages) {
            Ok(moved) => {
                self.moved.pages += moved.pages;
                self.moved.conflicts += moved.conflicts;
                Ok(())
            }
            Err(MoveError::Changed(index)) => {
                let id = held.mapped.get(index).map_or(0, |mapped| mapped.id);
                Err(MemoryError::MappingChanged(id))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn truncate(&mut self, buffer: BufferId) -> Result<(), MemoryError> {
        let held = self.held.get(&buffer).ok_or(MemoryError::NoMemory)?;
        Ok(held.store.truncate()?)
    }
}
