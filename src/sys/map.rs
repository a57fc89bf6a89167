//! CPU mappings: a window of address space whose pages are mapped, moved and dropped one by one.
//!
//! A [`Window`] reserves a range with PROT_NONE. Its *slots* are pages; a slot is given an
//! arena's frame (`mmap MAP_FIXED`, shared or private), anonymous memory, or nothing. It is to a
//! process what one or more VMAs are: the kernel splits and merges VMAs under it.
//!
//! The three ways of losing a page are kept apart, as in the kernel:
//! [`Window::zap`] drops PTEs and keeps the VMA (`zap_page_range`), [`Window::unmap`] drops the
//! VMA, and freeing the backing is the arena's [`punch`](super::arena::Arena::punch).
//!
//! Accesses go through [`Window::span`] and [`super::touch`].
//!
//! **Differs from Linux:** an unmapped slot is a PROT_NONE anonymous VMA rather than nothing, so
//! an access to it is SEGV_ACCERR where a hole gives SEGV_MAPERR. The reservation is what makes
//! MAP_FIXED sound: no other mapping of this program can be hit by it.

#![allow(unsafe_code, reason = "maps memory at fixed addresses")]

use std::os::fd::AsFd;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::mm::{self, Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};

use super::page::{FrameIndex, Span, page_bytes};

/// What an access may do: the PROT bits that a litmus program can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prot {
    /// PROT_NONE.
    None,
    /// PROT_READ.
    Read,
    /// PROT_READ | PROT_WRITE.
    ReadWrite,
}

/// MAP_SHARED or MAP_PRIVATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// MAP_SHARED: stores reach the file.
    Shared,
    /// MAP_PRIVATE: the first store copies the page.
    Private,
}

/// Why a mapping could not be made or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// EACCES, EPERM: the fd's access mode or a seal forbids this mapping.
    #[error("the file forbids this mapping (write access to a read-only or sealed fd)")]
    Denied,
    /// ENOMEM: no memory, or vm.max_map_count VMAs are in use.
    #[error("no memory for the mapping, or more than vm.max_map_count mappings (ENOMEM)")]
    NoMemory,
    /// EAGAIN: RLIMIT_MEMLOCK, which also limits memfd_secret mappings.
    #[error("over RLIMIT_MEMLOCK (EAGAIN): raise `ulimit -l`")]
    LockedMemory,
    /// EINVAL: this file can't be mapped in this way (a private memfd_secret mapping).
    #[error("the file can't be mapped in this way (EINVAL)")]
    Unmappable,
    /// Anything else.
    #[error("mapping memory failed: {0}")]
    Other(Errno),
}

impl MapError {
    pub(super) fn of(errno: Errno) -> Self {
        match errno {
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::NOMEM => Self::NoMemory,
            Errno::AGAIN => Self::LockedMemory,
            Errno::INVAL => Self::Unmappable,
            other => Self::Other(other),
        }
    }
}

/// A reserved range of address space; see the [module](self).
#[derive(Debug)]
pub struct Window {
    base: usize,
    pages: usize,
}

impl Window {
    /// Reserves `pages` pages, all slots empty.
    ///
    /// # Errors
    /// [`MapError::NoMemory`] when the address space is full.
    pub fn reserve(pages: usize) -> Result<Self, MapError> {
        Self::reserve_aligned(pages, page_bytes())
    }

    /// Reserves `pages` pages at a multiple of `align_bytes` (2 MiB for huge entries).
    ///
    /// # Errors
    /// As [`Window::reserve`].
    ///
    /// # Panics
    /// When `pages` is 0 or `align_bytes` is not a power of two of at least a page.
    pub fn reserve_aligned(pages: usize, align_bytes: usize) -> Result<Self, MapError> {
        assert!(pages > 0 && align_bytes.is_power_of_two() && align_bytes >= page_bytes());
        let slack = align_bytes - page_bytes();
        let total = pages
            .checked_mul(page_bytes())
            .and_then(|len| len.checked_add(slack))
            .ok_or(MapError::NoMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no fixed address, so nothing existing is replaced.
        let base = unsafe { mm::mmap_anonymous(ptr::null_mut(), total, ProtFlags::empty(), flags) }
            .map_err(MapError::of)? as usize;
        let aligned = base.next_multiple_of(align_bytes);
        let end = aligned + pages * page_bytes();
        for (start, len) in [(base, aligned - base), (end, base + total - end)] {
            if len > 0 {
                // SAFETY: the ends of the mapping just made, which nobody else knows.
                unsafe { mm::munmap(start as *mut _, len) }.map_err(MapError::of)?;
            }
        }
        Ok(Self { base: aligned, pages })
    }

    /// How many slots there are.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The memory of `pages` slots from `slot`.
    ///
    /// # Panics
    /// When they are not all in the window, as every method that takes slots does.
    #[must_use]
    pub fn span(&self, slot: usize, pages: usize) -> Span<'_> {
        let base = self.address(slot, pages) as usize;
        // SAFETY: `address` checked the range; the borrow keeps the reservation alive.
        unsafe { Span::new(base, pages * page_bytes()) }
    }

    /// Maps `pages` frames of `fd` from `frame` on at `slot`, replacing what was there.
    ///
    /// A userfaultfd registration of the range is lost with the VMA: register again.
    ///
    /// # Errors
    /// [`MapError`] as mmap(2) answers.
    pub fn map(
        &self,
        slot: usize,
        fd: impl AsFd,
        frame: FrameIndex,
        pages: usize,
        sharing: Sharing,
        prot: Prot,
    ) -> Result<(), MapError> {
        let flags = match sharing {
            Sharing::Shared => MapFlags::SHARED,
            Sharing::Private => MapFlags::PRIVATE,
        } | MapFlags::FIXED;
        let (at, len) = (self.address(slot, pages), pages * page_bytes());
        // SAFETY: the range is inside our own reservation, which holds no Rust object.
        let mapped = unsafe { mm::mmap(at, len, prot.bits(), flags, fd, frame.offset_bytes()) };
        mapped.map(drop).map_err(MapError::of)
    }

    /// Maps private anonymous memory.
    ///
    /// # Errors
    /// [`MapError`] as mmap(2) answers.
    pub fn map_anonymous(&self, slot: usize, pages: usize, prot: Prot) -> Result<(), MapError> {
        self.anonymous(slot, pages, prot.bits(), MapFlags::empty())
    }

    /// Empties slots: any access is then SIGSEGV.
    ///
    /// # Errors
    /// [`MapError::NoMemory`] when splitting the VMA needs one more than the kernel allows.
    pub fn unmap(&self, slot: usize, pages: usize) -> Result<(), MapError> {
        self.anonymous(slot, pages, ProtFlags::empty(), MapFlags::NORESERVE)
    }

    fn anonymous(
        &self,
        slot: usize,
        pages: usize,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<(), MapError> {
        let (at, len) = (self.address(slot, pages), pages * page_bytes());
        let flags = flags | MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: the range is inside our own reservation, which holds no Rust object.
        unsafe { mm::mmap_anonymous(at, len, prot, flags) }.map(drop).map_err(MapError::of)
    }

    /// Moves a mapping with its PTEs from one slot to another (mremap); the old slot is emptied.
    ///
    /// The PTEs are moved with MREMAP_DONTUNMAP so that no other mapping of this process can
    /// take the address before it is reserved again.
    ///
    /// # Errors
    /// [`MapError::Unmappable`] when the ranges overlap or the range spans several mappings.
    pub fn move_pages(&self, from: usize, to: usize, pages: usize) -> Result<(), MapError> {
        let (old, new) = (self.address(from, pages), self.address(to, pages));
        let len = pages * page_bytes();
        let flags = MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP;
        // SAFETY: both ranges are inside our own reservation, which holds no Rust object.
        unsafe { mm::mremap_fixed(old, len, len, flags, new) }.map_err(MapError::of)?;
        self.unmap(from, pages)
    }

    /// Moves a mapping as [`Window::move_pages`] does, of a file that MREMAP_DONTUNMAP refuses
    /// (VM_DONTEXPAND, VM_PFNMAP: `mremap_to`, mm/mremap.c). For a process of one thread: between
    /// the two calls the old slots are nobody's.
    ///
    /// # Errors
    /// The errno: EFAULT when nothing is mapped there or the range spans several mappings.
    pub fn move_mapping(&self, from: usize, to: usize, pages: usize) -> Result<(), Errno> {
        let (old, new) = (self.address(from, pages), self.address(to, pages));
        let len = pages * page_bytes();
        // SAFETY: both ranges are inside our own reservation, which holds no Rust object.
        unsafe { mm::mremap_fixed(old, len, len, MremapFlags::MAYMOVE, new) }?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: the hole just made in our own reservation; NOREPLACE would show if it were not.
        unsafe { mm::mmap_anonymous(old, len, ProtFlags::empty(), flags) }.map(drop)
    }

    /// Changes what accesses may do (mprotect).
    ///
    /// # Errors
    /// [`MapError::Denied`] when the file was opened without that access.
    pub fn protect(&self, slot: usize, pages: usize, prot: Prot) -> Result<(), MapError> {
        let flags = match prot {
            Prot::None => MprotectFlags::empty(),
            Prot::Read => MprotectFlags::READ,
            Prot::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        let (at, len) = (self.address(slot, pages), pages * page_bytes());
        // SAFETY: the range is inside our own reservation, which holds no Rust object.
        unsafe { mm::mprotect(at, len, flags) }.map_err(MapError::of)
    }

    /// Drops the PTEs and keeps the mapping (MADV_DONTNEED): what an exporter's zap does here.
    ///
    /// A private copy in the range is lost, as `unmap_mapping_range` with `even_cows` would.
    ///
    /// # Errors
    /// [`MapError::Unmappable`] on a locked mapping; memfd_secret's are locked.
    pub fn zap(&self, slot: usize, pages: usize) -> Result<(), MapError> {
        self.advise(slot, pages, Advice::LinuxDontNeed)
    }

    /// Keeps the range out of children (MADV_DONTFORK), or gives it back to them.
    ///
    /// In a child made by [`fork`](super::process::fork) the slots are empty, as after
    /// [`Window::unmap`]: the reservation is renewed there before anything else runs.
    ///
    /// # Errors
    /// [`MapError`] as madvise(2) answers.
    pub fn set_dont_fork(&self, slot: usize, pages: usize, on: bool) -> Result<(), MapError> {
        let this = (self.base, self.pages);
        let mut windows = windows_with_holes();
        if on && !windows.contains(&this) {
            windows.push(this);
        }
        drop(windows);
        self.advise(slot, pages, if on { Advice::LinuxDontFork } else { Advice::LinuxDoFork })
    }

    /// Installs the PTEs now, for reading or for writing (MADV_POPULATE_READ, _WRITE).
    ///
    /// # Errors
    /// [`MapError::Other`]`(EFAULT)` where a touch would raise SIGBUS, or where userfaultfd would
    /// have to be asked: this is a kernel-mode fault.
    pub fn populate(&self, slot: usize, pages: usize, write: bool) -> Result<(), MapError> {
        let advice = if write { Advice::LinuxPopulateWrite } else { Advice::LinuxPopulateRead };
        self.advise(slot, pages, advice)
    }

    fn advise(&self, slot: usize, pages: usize, advice: Advice) -> Result<(), MapError> {
        let (at, len) = (self.address(slot, pages), pages * page_bytes());
        // SAFETY: the range is inside our own reservation, which holds no Rust object.
        unsafe { mm::madvise(at, len, advice) }.map_err(MapError::of)
    }

    /// Makes a huge page of 512 slots now (MADV_COLLAPSE): a real migration of the pages.
    ///
    /// # Errors
    /// The errno: EAGAIN when a page is pinned or busy, EINVAL when the kernel can't
    /// (no CONFIG_TRANSPARENT_HUGEPAGE, before 6.1, or the range does not allow it).
    pub fn collapse(&self, slot: usize, pages: usize) -> Result<(), Errno> {
        let (at, len) = (self.address(slot, pages), pages * page_bytes());
        // SAFETY: the range is inside our own reservation, which holds no Rust object.
        let result = unsafe { libc::madvise(at, len, libc::MADV_COLLAPSE) };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }

    /// The address of `slot`, checked together with the `pages - 1` after it.
    fn address(&self, slot: usize, pages: usize) -> *mut core::ffi::c_void {
        let end = slot.checked_add(pages);
        assert!(
            pages > 0 && end.is_some_and(|end| end <= self.pages),
            "{pages} pages at slot {slot} of a window of {}",
            self.pages
        );
        (self.base + slot * page_bytes()) as *mut _
    }
}

/// Windows that a fork may leave holes in, as (base, pages).
static WINDOWS_WITH_HOLES: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

fn windows_with_holes() -> MutexGuard<'static, Vec<(usize, usize)>> {
    // The list is valid after any panic: each change is one push or retain.
    WINDOWS_WITH_HOLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reserves again, in a child, what MADV_DONTFORK left out of it.
///
/// Without it the child's own allocations could land inside a window, and the window's accesses
/// and its drop would hit them. To be called before anything else in the child maps memory.
pub(super) fn refill_holes_after_fork() -> Result<(), MapError> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    for &(base, pages) in windows_with_holes().iter() {
        for page in 0..pages {
            let at = (base + page * page_bytes()) as *mut _;
            // SAFETY: NOREPLACE: only a hole is taken, and the window owns this range.
            match unsafe { mm::mmap_anonymous(at, page_bytes(), ProtFlags::empty(), flags) } {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(MapError::of(errno)),
            }
        }
    }
    Ok(())
}

impl Drop for Window {
    fn drop(&mut self) {
        windows_with_holes().retain(|&window| window != (self.base, self.pages));
        // SAFETY: the whole reservation is ours and no span can outlive the borrow of self.
        let result = unsafe { mm::munmap(self.base as *mut _, self.pages * page_bytes()) };
        debug_assert_eq!(result, Ok(()), "unmapping a whole reservation splits nothing");
    }
}

impl Prot {
    fn bits(self) -> ProtFlags {
        match self {
            Self::None => ProtFlags::empty(),
            Self::Read => ProtFlags::READ,
            Self::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        }
    }
}

/// errno of the libc call that just failed, for calls that rustix lacks.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
