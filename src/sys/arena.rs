//! A memfd whose pages are frames: the memory that buffers are placed in.
//!
//! Frame `n` is page `n` of the file, so a stale PTE or pin of it really aliases whoever owns the
//! frame next. Two ways of recycling, both needed:
//! * a *carveout* (vram) gives the frame to the next buffer as it is: nothing is called here;
//! * a *refcounted* allocator (system) frees it with [`Arena::punch`]: the PTEs go in every
//!   process, and a pin keeps the old page alive as an orphan.
//!
//! The creator maps the whole arena once, shared: its *alias*, through which contents are read
//! and written whatever the clients' mappings are. It stands for the kernel's linear map.
//!
//! **Differs from Linux:** a frame here is a page-cache index, not a physical page. After a punch
//! the same index gets a new physical page, which real hardware would not do to a carveout.

#![allow(clippy::missing_errors_doc, reason = "ArenaError documents each cause once")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FallocateFlags, MemfdFlags, SealFlags, SeekFrom};
use rustix::io::Errno;

use super::map::{MapError, Prot, Sharing, Window};
use super::page::{FrameIndex, Span, page_bytes};
use super::touch::Touch;

/// Bytes of a huge page, which every page size of arm64 has, too.
pub const HUGE_BYTES: usize = 2 << 20;

/// The pages that an arena is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Ordinary shmem pages.
    Base,
    /// 2 MiB hugetlb pages (MFD_HUGETLB); frames are still counted in base pages.
    Hugetlb2M,
}

/// Why an arena could not be made or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArenaError {
    /// ENOMEM or ENOSPC: no memory, no huge pages, or the file system is full.
    #[error("no memory for {0}: free some, or for huge pages raise vm.nr_hugepages")]
    Full(FrameIndex),
    /// An access raised SIGBUS: the arena was truncated (revoked), or memory ran out.
    #[error("SIGBUS on {0}: the arena was truncated, or no memory is left")]
    Bus(FrameIndex),
    /// EPERM: a seal forbids it.
    #[error("a seal of the memfd forbids it (EPERM)")]
    Sealed,
    /// EBUSY: F_SEAL_WRITE while the pages are mapped writably or pinned.
    #[error("pages are mapped writably or pinned (EBUSY)")]
    Busy,
    /// EMFILE, ENFILE: no file descriptor is left.
    #[error("no file descriptor left: raise `ulimit -n`")]
    NoFd,
    /// Mapping the alias failed.
    #[error("the arena can't be mapped: {0}")]
    Map(#[from] MapError),
    /// Anything else.
    #[error("the arena's memfd answered {0}")]
    Other(Errno),
}

impl ArenaError {
    pub(super) fn of(errno: Errno, frame: FrameIndex) -> Self {
        match errno {
            Errno::NOMEM | Errno::NOSPC => Self::Full(frame),
            Errno::PERM => Self::Sealed,
            Errno::BUSY => Self::Busy,
            Errno::MFILE | Errno::NFILE => Self::NoFd,
            other => Self::Other(other),
        }
    }
}

/// A memfd of frames and the creator's alias of it; see the [module](self).
#[derive(Debug)]
pub struct Arena {
    fd: OwnedFd,
    alias: Window,
}

impl Arena {
    /// Makes an arena of `frames` frames, sealable, none of them allocated.
    ///
    /// # Panics
    /// When `frames` is 0, or not a multiple of 2 MiB for huge pages.
    pub fn create(frames: u32, kind: PageKind) -> Result<Self, ArenaError> {
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut align_bytes = page_bytes();
        if kind == PageKind::Hugetlb2M {
            let whole = FrameIndex(frames).offset_bytes().is_multiple_of(HUGE_BYTES as u64);
            assert!(whole, "a huge page is {} frames", HUGE_BYTES / page_bytes());
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
            align_bytes = HUGE_BYTES;
        }
        let failed = |errno| ArenaError::of(errno, FrameIndex(0));
        let fd = fs::memfd_create("driftheap-arena", flags).map_err(failed)?;
        fs::ftruncate(&fd, FrameIndex(frames).offset_bytes()).map_err(failed)?;
        Self::with_alias(fd, frames, align_bytes)
    }

    /// An arena from an fd that another process sent.
    pub fn adopt(fd: OwnedFd) -> Result<Self, ArenaError> {
        let failed = |errno| ArenaError::of(errno, FrameIndex(0));
        let size = fs::fstat(&fd).map_err(failed)?.st_size.unsigned_abs();
        let frames = u32::try_from(size / page_bytes() as u64)
            .map_err(|_| ArenaError::Other(Errno::FBIG))?;
        Self::with_alias(fd, frames, HUGE_BYTES)
    }

    fn with_alias(fd: OwnedFd, frames: u32, align_bytes: usize) -> Result<Self, ArenaError> {
        let pages = FrameIndex(frames).index();
        if pages == 0 {
            return Err(ArenaError::Other(Errno::INVAL));
        }
        let alias = Window::reserve_aligned(pages, align_bytes)?;
        alias.map(0, &fd, FrameIndex(0), pages, Sharing::Shared, Prot::ReadWrite)?;
        Ok(Self { fd, alias })
    }

    /// How many frames there are.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.alias.pages()
    }

    /// The alias of one frame.
    ///
    /// # Panics
    /// When the arena has no such frame, as every method that takes a frame does.
    #[must_use]
    pub fn frame(&self, frame: FrameIndex) -> Span<'_> {
        self.alias.span(frame.index(), 1)
    }

    /// The alias of the whole arena.
    #[must_use]
    pub fn alias(&self) -> &Window {
        &self.alias
    }

    /// Reads a frame through the alias; a frame that is not allocated becomes so.
    pub fn read(&self, frame: FrameIndex, into: &mut [u8]) -> Result<(), ArenaError> {
        done(self.frame(frame).read(0, into), frame)
    }

    /// Reads a frame without allocating it: a hole reads as zeros.
    pub fn peek(&self, frame: FrameIndex, into: &mut [u8]) -> Result<(), ArenaError> {
        let mut filled = 0;
        while filled < into.len() {
            let at = frame.offset_bytes() + filled as u64;
            match rustix::io::pread(&self.fd, &mut into[filled..], at) {
                Ok(0) => return Err(ArenaError::Bus(frame)),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ArenaError::of(errno, frame)),
            }
        }
        Ok(())
    }

    /// Stores `byte` all over a frame.
    pub fn fill(&self, frame: FrameIndex, byte: u8) -> Result<(), ArenaError> {
        done(self.frame(frame).fill(byte), frame)
    }

    /// Copies one frame to another: the copy step of a move.
    pub fn copy(&self, from: FrameIndex, to: FrameIndex) -> Result<(), ArenaError> {
        self.copy_range(from, to, 1)
    }

    /// [`Arena::copy`] for several frames that lie one after the other; the ranges must not
    /// overlap.
    pub fn copy_range(
        &self,
        from: FrameIndex,
        to: FrameIndex,
        frames: u32,
    ) -> Result<(), ArenaError> {
        let pages = FrameIndex(frames).index();
        let source = self.alias.span(from.index(), pages);
        done(self.alias.span(to.index(), pages).copy_from(source), to)
    }

    /// Allocates frames now (fallocate), so that a full machine is an error here rather than a
    /// SIGBUS in whoever touches them first.
    pub fn allocate(&self, first: FrameIndex, frames: u32) -> Result<(), ArenaError> {
        self.fallocate(FallocateFlags::KEEP_SIZE, first, frames)
    }

    /// Frees one frame (FALLOC_FL_PUNCH_HOLE): every PTE of it goes, in every process; a pin
    /// keeps the old page.
    pub fn punch(&self, frame: FrameIndex) -> Result<(), ArenaError> {
        self.punch_range(frame, 1)
    }

    /// [`Arena::punch`] for several frames in one call.
    pub fn punch_range(&self, first: FrameIndex, frames: u32) -> Result<(), ArenaError> {
        self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, first, frames)
    }

    fn fallocate(&self, mode: FallocateFlags, first: FrameIndex, n: u32) -> Result<(), ArenaError> {
        loop {
            let (at, len) = (first.offset_bytes(), FrameIndex(n).offset_bytes());
            match fs::fallocate(&self.fd, mode, at, len) {
                Err(Errno::INTR) => {}
                result => return result.map_err(|errno| ArenaError::of(errno, first)),
            }
        }
    }

    /// Whether the frame holds data (SEEK_DATA finds it). One that was only
    /// [`allocate`](Self::allocate)d and never touched does not.
    pub fn has_data(&self, frame: FrameIndex) -> Result<bool, ArenaError> {
        match fs::seek(&self.fd, SeekFrom::Data(frame.offset_bytes())) {
            Ok(data) => Ok(data < frame.offset_bytes() + page_bytes() as u64),
            Err(Errno::NXIO) => Ok(false),
            Err(errno) => Err(ArenaError::of(errno, frame)),
        }
    }

    /// How many frames have a page, touched or not. Orphans that a pin keeps are not counted.
    pub fn allocated_frames(&self) -> Result<u64, ArenaError> {
        let stat = fs::fstat(&self.fd).map_err(|errno| ArenaError::of(errno, FrameIndex(0)))?;
        Ok(stat.st_blocks.unsigned_abs() * 512 / page_bytes() as u64)
    }

    /// Truncates the arena to nothing: every later access by anyone is SIGBUS. The coarse revoke,
    /// for kernels without UFFDIO_POISON. It can't be undone for mappings that were touched.
    pub fn revoke_all(&self) -> Result<(), ArenaError> {
        fs::ftruncate(&self.fd, 0).map_err(|errno| ArenaError::of(errno, FrameIndex(0)))
    }

    /// Adds seals. `SealFlags::WRITE` is [`ArenaError::Busy`] while any writable mapping or pin
    /// exists; our alias is one.
    pub fn seal(&self, seals: SealFlags) -> Result<(), ArenaError> {
        fs::fcntl_add_seals(&self.fd, seals).map_err(|errno| ArenaError::of(errno, FrameIndex(0)))
    }
}

impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An alias access as a result. The alias is mapped read-write for the arena's whole life, so
/// SIGSEGV would be a bug; it is reported like SIGBUS rather than hidden.
pub(super) fn done(access: Touch<()>, frame: FrameIndex) -> Result<(), ArenaError> {
    match access {
        Touch::Value(()) => Ok(()),
        Touch::Sigbus { .. } | Touch::Sigsegv { .. } => Err(ArenaError::Bus(frame)),
    }
}
