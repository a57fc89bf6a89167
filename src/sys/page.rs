//! Addresses, spans and frames: the units that the rest of `sys` is written in.

#![allow(unsafe_code, reason = "declares Span::new unsafe: the window must vouch for the range")]

use core::fmt;
use core::marker::PhantomData;

/// Bytes of a page of this machine: 4096 on x86-64; arm64 has kernels for 4, 16 and 64 KiB.
#[must_use]
pub fn page_bytes() -> usize {
    rustix::param::page_size()
}

/// A page of an arena, by its index: what a page frame number is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameIndex(pub u32);

impl FrameIndex {
    /// The byte offset of the frame in its arena's file.
    #[must_use]
    pub fn offset_bytes(self) -> u64 {
        u64::from(self.0) * page_bytes() as u64
    }

    /// The index as `usize`, for arithmetic with slots.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for FrameIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {}", self.0)
    }
}

/// An address in some process, as a number. It can't be dereferenced; a [`Span`] can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub u64);

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A page-aligned range in the address space that a userfaultfd belongs to: `struct uffdio_range`.
///
/// The process may be another one, so this is only numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// First byte, page-aligned.
    pub start: Addr,
    /// Length in bytes, a multiple of the page size.
    pub len_bytes: u64,
}

impl Range {
    /// `pages` pages from `start`.
    #[must_use]
    pub fn pages(start: Addr, pages: usize) -> Self {
        Self { start, len_bytes: (pages * page_bytes()) as u64 }
    }
}

/// A range of this process's memory that belongs to a [`Window`] and so holds no Rust object.
///
/// Only a window can make one, which is what lets the accesses in [`touch`] and the pins in
/// [`pin`] be safe functions: whatever another process, a device or the kernel does to these
/// bytes, no reference in this program can be broken by it. Accesses go through [`touch`].
///
/// [`Window`]: super::map::Window
/// [`touch`]: super::touch
/// [`pin`]: super::pin
#[derive(Clone, Copy, Debug)]
pub struct Span<'window> {
    base: usize,
    len_bytes: usize,
    window: PhantomData<&'window ()>,
}

impl Span<'_> {
    /// A span over `[base, base + len_bytes)`.
    ///
    /// # Safety
    /// The range must lie in a live window's reservation for as long as the lifetime says.
    pub(super) unsafe fn new(base: usize, len_bytes: usize) -> Self {
        Self { base, len_bytes, window: PhantomData }
    }

    /// The address of the first byte.
    #[must_use]
    pub fn start(&self) -> Addr {
        Addr(self.base as u64)
    }

    /// The length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The same range as numbers, to register or to send to another process.
    #[must_use]
    pub fn range(&self) -> Range {
        Range { start: self.start(), len_bytes: self.len_bytes as u64 }
    }

    /// The address of `len` bytes at `offset`, checked to be inside.
    ///
    /// # Panics
    /// When the bytes are not all inside the span: a bug of the caller.
    pub(super) fn at(&self, offset_bytes: usize, len_bytes: usize) -> usize {
        let end = offset_bytes.checked_add(len_bytes);
        assert!(
            end.is_some_and(|end| end <= self.len_bytes),
            "{len_bytes} bytes at {offset_bytes} of a span of {}",
            self.len_bytes
        );
        self.base + offset_bytes
    }

    /// A part of the span.
    ///
    /// # Panics
    /// When the part is not all inside the span.
    #[must_use]
    pub fn part(&self, offset_bytes: usize, len_bytes: usize) -> Self {
        Self { base: self.at(offset_bytes, len_bytes), len_bytes, window: PhantomData }
    }
}
