//! A memfd_secret arena: memory that get_user_pages refuses, as it refuses VM_PFNMAP.
//!
//! The kernel's `mm/secretmem.c` takes its pages out of the linear map, and `check_vma_flags` in
//! `mm/gup.c` answers EFAULT for its VMAs. O_DIRECT, vmsplice, io_uring registration and
//! process_vm_readv fail with EFAULT, /proc/PID/mem with EIO, while plain read(2) and write(2)
//! work because they copy: just what a dma-buf mapped with VM_PFNMAP answers.
//!
//! **Differs from Linux's VM_PFNMAP:** pages are struct-page backed and counted; they can't be
//! punched or trapped with userfaultfd; a private mapping is refused (EINVAL), where an exporter
//! that maps with pfns may allow it; every mapping counts against RLIMIT_MEMLOCK.

#![allow(unsafe_code, reason = "memfd_secret has no wrapper in libc or rustix")]
#![allow(clippy::missing_errors_doc, reason = "SecretError documents each cause once")]

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs;
use rustix::io::Errno;

use super::arena::{ArenaError, done};
use super::map::{MapError, Prot, Sharing, Window, last_errno};
use super::page::{FrameIndex, Span, page_bytes};

/// Why there is no secret arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// ENOSYS: not built in, or not enabled on the kernel's command line.
    #[error("memfd_secret is not available (ENOSYS): boot with secretmem.enable=1")]
    Unavailable,
    /// EAGAIN at mmap: over RLIMIT_MEMLOCK.
    #[error("a secret arena of {0} frames is over RLIMIT_MEMLOCK: raise `ulimit -l`")]
    LockedMemory(u32),
    /// EMFILE, ENFILE.
    #[error("no file descriptor left: raise `ulimit -n`")]
    NoFd,
    /// Mapping it failed for another reason.
    #[error("the secret arena can't be mapped: {0}")]
    Map(MapError),
    /// Anything else.
    #[error("memfd_secret answered {0}")]
    Other(Errno),
}

/// A memfd_secret of frames and the creator's alias of it.
#[derive(Debug)]
pub struct SecretArena {
    fd: OwnedFd,
    alias: Window,
}

impl SecretArena {
    /// Makes a secret arena of `frames` frames, mapped whole, none touched.
    pub fn create(frames: u32) -> Result<Self, SecretError> {
        let fd = open()?;
        let len_bytes = FrameIndex(frames).offset_bytes();
        fs::ftruncate(&fd, len_bytes).map_err(SecretError::Other)?;
        Self::with_alias(fd, frames)
    }

    /// A secret arena from an fd that another process sent.
    pub fn adopt(fd: OwnedFd) -> Result<Self, SecretError> {
        let size = fs::fstat(&fd).map_err(SecretError::Other)?.st_size.unsigned_abs();
        let frames = u32::try_from(size / page_bytes() as u64)
            .map_err(|_| SecretError::Other(Errno::FBIG))?;
        Self::with_alias(fd, frames)
    }

    fn with_alias(fd: OwnedFd, frames: u32) -> Result<Self, SecretError> {
        let pages = FrameIndex(frames).index();
        if pages == 0 {
            return Err(SecretError::Other(Errno::INVAL));
        }
        let alias = Window::reserve(pages).map_err(SecretError::Map)?;
        alias.map(0, &fd, FrameIndex(0), pages, Sharing::Shared, Prot::ReadWrite).map_err(
            |error| {
                if error == MapError::LockedMemory {
                    SecretError::LockedMemory(frames)
                } else {
                    SecretError::Map(error)
                }
            },
        )?;
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
    /// When the arena has no such frame.
    #[must_use]
    pub fn frame(&self, frame: FrameIndex) -> Span<'_> {
        self.alias.span(frame.index(), 1)
    }

    /// Reads a frame.
    pub fn read(&self, frame: FrameIndex, into: &mut [u8]) -> Result<(), ArenaError> {
        done(self.frame(frame).read(0, into), frame)
    }

    /// Stores `byte` all over a frame.
    pub fn fill(&self, frame: FrameIndex, byte: u8) -> Result<(), ArenaError> {
        done(self.frame(frame).fill(byte), frame)
    }

    /// Copies one frame to another.
    pub fn copy(&self, from: FrameIndex, to: FrameIndex) -> Result<(), ArenaError> {
        done(self.frame(to).copy_from(self.frame(from)), to)
    }
}

impl AsFd for SecretArena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open() -> Result<OwnedFd, SecretError> {
    // SAFETY: memfd_secret takes one integer and no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just returned this fd to us, and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(match last_errno() {
            Errno::NOSYS => SecretError::Unavailable,
            Errno::MFILE | Errno::NFILE => SecretError::NoFd,
            other => SecretError::Other(other),
        }),
    }
}
