//! A buffer's memory as its exporter holds it: a file whose pages can be taken away and put back.
//!
//! The steps that a live move is made of, for a run of pages of one memfd:
//! 1. [`Store::copy_out`] reads them into a [`Scratch`], without touching any page table;
//! 2. [`Store::punch`] frees them, which drops their PTEs in every process (`shmem_fallocate`,
//!    mm/shmem.c);
//! 3. [`Store::copy_in`] makes new pages of the scratch's content (UFFDIO_COPY through an alias of
//!    the exporter's own). A page enters the file only when it is complete
//!    (`shmem_mfill_atomic_pte`), which write(2) does not promise: it may copy a part, show the
//!    page and go on.
//!
//! Nothing here stops anybody from writing between 1 and 2: the caller has write-protected the
//! pages in every mapping.
//!
//! **Differs from Linux:** the kernel moves a page by an entry that makes everybody wait
//! (mm/migrate.c); here the page is absent for a moment, and who touches it must be trapped.

#![allow(unsafe_code, reason = "preadv into shared memory")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::map::{MapError, Prot, Sharing, Window, last_errno};
use super::page::{Addr, FrameIndex, Span, page_bytes};
use super::uffd::{Fill, FillError, Modes, RegisterError, Uffd};

/// Most pages that one move handles at once: 2 MiB.
pub const CHUNK_PAGES: usize = 512;

/// Why a buffer's memory could not be prepared or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The alias can't be mapped.
    #[error("the exporter's alias of the buffer can't be mapped: {0}")]
    Map(#[from] MapError),
    /// The alias can't be registered.
    #[error("the exporter's alias of the buffer can't be trapped: {0}")]
    Register(#[from] RegisterError),
    /// The file ends before the page: it was truncated, by a purge or by somebody else.
    #[error("the buffer's file has no such page: it was truncated")]
    Truncated,
    /// ENOMEM, ENOSPC.
    #[error("no memory for a page of the buffer")]
    NoMemory,
    /// Anything else.
    #[error("changing the buffer's memory failed: {0}")]
    Other(Errno),
}

impl StoreError {
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::NOMEM | Errno::NOSPC => Self::NoMemory,
            other => Self::Other(other),
        }
    }
}

/// Shared memory that holds the pages of the move in progress, behind one page of its owner's.
#[derive(Debug)]
pub struct Scratch {
    fd: OwnedFd,
    window: Window,
}

impl Scratch {
    /// Makes one, with every page allocated.
    ///
    /// # Errors
    /// [`StoreError::NoMemory`], [`StoreError::Map`].
    pub fn create() -> Result<Self, StoreError> {
        let bytes = ((1 + CHUNK_PAGES) * page_bytes()) as u64;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("driftheap-scratch", flags).map_err(StoreError::of)?;
        rustix::fs::ftruncate(&fd, bytes).map_err(StoreError::of)?;
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes).map_err(StoreError::of)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(StoreError::of)?;
        let window = Window::reserve(1 + CHUNK_PAGES)?;
        window.map(0, &fd, FrameIndex(0), 1 + CHUNK_PAGES, Sharing::Shared, Prot::ReadWrite)?;
        Ok(Self { fd, window })
    }

    /// The page in front of the content, for the owner's own use.
    #[must_use]
    pub fn head(&self) -> Span<'_> {
        self.window.span(0, 1)
    }

    /// The first `pages` pages of content.
    ///
    /// # Panics
    /// When there are more than [`CHUNK_PAGES`].
    #[must_use]
    pub fn content(&self, pages: usize) -> Span<'_> {
        self.window.span(1, pages)
    }
}

impl AsFd for Scratch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What became of a refill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refilled {
    /// Pages that somebody had made in the meantime, by a way that is not trapped. They were
    /// overwritten with the content that the move had read.
    pub conflicts: u64,
}

/// A buffer's memory; see the [module](self).
#[derive(Debug)]
pub struct Store {
    file: OwnedFd,
    alias: Window,
    uffd: Arc<Uffd>,
}

impl Store {
    /// Takes the file of `pages` pages over and maps an alias of it, registered with `uffd`, which
    /// must be this process's own.
    ///
    /// # Errors
    /// [`StoreError`]; EPERM and EACCES are [`StoreError::Map`]: the file is not open for writing.
    ///
    /// # Panics
    /// When `pages` is 0.
    pub fn adopt(file: OwnedFd, pages: usize, uffd: &Arc<Uffd>) -> Result<Self, StoreError> {
        let alias = Window::reserve(pages)?;
        alias.map(0, &file, FrameIndex(0), pages, Sharing::Shared, Prot::ReadWrite)?;
        uffd.register(alias.span(0, pages).range(), Modes::MISSING)?;
        Ok(Self { file, alias, uffd: Arc::clone(uffd) })
    }

    /// Pages of the buffer.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.alias.pages()
    }

    /// Allocates every page, so that none is missing but during a move.
    ///
    /// # Errors
    /// [`StoreError::NoMemory`].
    pub fn allocate(&self) -> Result<(), StoreError> {
        self.fallocate(FallocateFlags::empty(), 0, self.pages())
    }

    /// Reads `pages` pages from `first` into the scratch.
    ///
    /// # Errors
    /// [`StoreError::Truncated`].
    ///
    /// # Panics
    /// When the pages are not all in the buffer, or more than a scratch holds.
    pub fn copy_out(&self, first: usize, pages: usize, to: &Scratch) -> Result<(), StoreError> {
        let (offset, _) = self.bytes(first, pages);
        let content = to.content(pages);
        let mut done = 0;
        while done < content.len_bytes() {
            let left = content.part(done, content.len_bytes() - done);
            let at = i64::try_from(offset + done as u64).map_err(|_| StoreError::Truncated)?;
            let into = left.start().0 as *mut libc::c_void;
            // SAFETY: the span is writable memory of the scratch's window, to which there is no
            // reference; the kernel writes at most its length.
            let got = unsafe { libc::pread(self.file.as_raw_fd(), into, left.len_bytes(), at) };
            match usize::try_from(got) {
                Ok(0) => return Err(StoreError::Truncated),
                Ok(got) => done += got,
                Err(_) if last_errno() == Errno::INTR => {}
                Err(_) => return Err(StoreError::of(last_errno())),
            }
        }
        Ok(())
    }

    /// Frees `pages` pages from `first` and drops their PTEs everywhere.
    ///
    /// # Errors
    /// [`StoreError::Other`].
    pub fn punch(&self, first: usize, pages: usize) -> Result<(), StoreError> {
        self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, first, pages)
    }

    /// Makes new pages of the scratch's content.
    ///
    /// # Errors
    /// [`StoreError::NoMemory`], [`StoreError::Truncated`]: pages are missing.
    pub fn copy_in(
        &self,
        first: usize,
        pages: usize,
        from: &Scratch,
    ) -> Result<Refilled, StoreError> {
        let to = self.alias.span(first, pages);
        let content = from.content(pages);
        let mut refilled = Refilled::default();
        let mut done = 0;
        while done < content.len_bytes() {
            let left = content.part(done, content.len_bytes() - done);
            let at = Addr(to.start().0 + done as u64);
            match self.uffd.copy_span(at, left, Fill::Plain) {
                Ok(()) => break,
                Err(FillError::Changing { done_bytes }) => {
                    done += usize::try_from(done_bytes).unwrap_or(0);
                }
                Err(FillError::Present) => {
                    let page = content.part(done, page_bytes());
                    self.overwrite(first + done / page_bytes(), page)?;
                    refilled.conflicts += 1;
                    done += page_bytes();
                }
                Err(FillError::NoMemory) => return Err(StoreError::NoMemory),
                Err(FillError::NoPage) => return Err(StoreError::Truncated),
                Err(
                    FillError::NotRegistered
                    | FillError::Gone
                    | FillError::Invalid
                    | FillError::Other(_),
                ) => return Err(StoreError::Other(Errno::INVAL)),
            }
        }
        Ok(refilled)
    }

    /// Writes one page with pwrite(2): for a page that exists.
    fn overwrite(&self, page: usize, from: Span<'_>) -> Result<(), StoreError> {
        let mut bytes = vec![0; page_bytes()];
        let read = from.read(0, &mut bytes);
        if read.value().is_none() {
            return Err(StoreError::Other(Errno::FAULT));
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = (page * page_bytes() + done) as u64;
            match rustix::io::pwrite(&self.file, &bytes[done..], at) {
                Ok(wrote) => done += wrote,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(StoreError::of(errno)),
            }
        }
        Ok(())
    }

    /// Takes every page away for good: each access through any mapping is SIGBUS from now on, each
    /// system call's EFAULT, and reading the file finds its end.
    ///
    /// # Errors
    /// EPERM: the file is sealed against shrinking.
    pub fn truncate(&self) -> Result<(), StoreError> {
        rustix::fs::ftruncate(&self.file, 0).map_err(StoreError::of)
    }

    /// Whether the page exists in the file; one that was never touched may count as absent.
    #[must_use]
    pub fn is_present(&self, page: usize) -> bool {
        let at = (page * page_bytes()) as u64;
        let data = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at));
        data.is_ok_and(|data| data < at + page_bytes() as u64)
    }

    fn bytes(&self, first: usize, pages: usize) -> (u64, u64) {
        let span = self.alias.span(first, pages);
        ((first * page_bytes()) as u64, span.len_bytes() as u64)
    }

    fn fallocate(
        &self,
        mode: FallocateFlags,
        first: usize,
        pages: usize,
    ) -> Result<(), StoreError> {
        let (offset, len) = self.bytes(first, pages);
        loop {
            match rustix::fs::fallocate(&self.file, mode, offset, len) {
                Err(Errno::INTR) => {}
                result => return result.map_err(StoreError::of),
            }
        }
    }
}

impl AsFd for Store {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
