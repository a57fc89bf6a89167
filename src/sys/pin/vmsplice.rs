//! vmsplice: page references that sit in a pipe.

#![allow(unsafe_code, reason = "vmsplice takes an address")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::super::map::last_errno;
use super::super::page::{Span, page_bytes};

/// A read-only pin: a pipe that holds references to a span's pages, as they were when it was made.
///
/// Reading the pipe shows what those pages hold *now*, which after a COW break is not what the
/// mapping shows.
#[derive(Debug)]
pub struct VmsplicePin {
    reader: OwnedFd,
    /// Kept so that the reader sees an empty pipe, not its end.
    _writer: OwnedFd,
    left_bytes: usize,
}

impl VmsplicePin {
    /// Takes references to a span's pages.
    ///
    /// # Errors
    /// EFAULT: get_user_pages refuses the mapping. EPERM: more than fs.pipe-max-size for this
    /// user. EAGAIN: the pipe took only a part.
    pub fn take(span: Span<'_>) -> Result<Self, Errno> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let len_bytes = span.len_bytes();
        // One slot per page, and one more in case the span is not aligned.
        let slots_bytes = (len_bytes + page_bytes()).next_power_of_two();
        rustix::pipe::fcntl_setpipe_size(&writer, slots_bytes)?;
        let slice = libc::iovec { iov_base: span.at(0, len_bytes) as *mut _, iov_len: len_bytes };
        let flags = libc::SPLICE_F_NONBLOCK;
        // SAFETY: the range is a window's and holds no Rust object; the pipe has its own
        // references to the pages, so they outlive the window.
        let taken = unsafe { libc::vmsplice(writer.as_raw_fd(), &raw const slice, 1, flags) };
        match usize::try_from(taken) {
            Err(_) => return Err(last_errno()),
            Ok(taken) if taken != len_bytes => return Err(Errno::AGAIN),
            Ok(_) => {}
        }
        Ok(Self { reader, _writer: writer, left_bytes: len_bytes })
    }

    /// Reads the next bytes and drops the references to pages that were read whole.
    ///
    /// # Errors
    /// EINVAL: more than is left. Otherwise as read(2).
    pub fn read(&mut self, into: &mut [u8]) -> Result<(), Errno> {
        if into.len() > self.left_bytes {
            return Err(Errno::INVAL);
        }
        let mut filled = 0;
        while filled < into.len() {
            filled += rustix::io::read(&self.reader, &mut into[filled..])?;
        }
        self.left_bytes -= filled;
        Ok(())
    }

    /// Reads the first bytes and keeps the references: they are duplicated with tee(2) first.
    ///
    /// # Errors
    /// EINVAL: more than is left. Otherwise as tee(2) and read(2).
    pub fn peek(&self, into: &mut [u8]) -> Result<(), Errno> {
        if into.len() > self.left_bytes {
            return Err(Errno::INVAL);
        }
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::pipe::fcntl_setpipe_size(&writer, (into.len() + page_bytes()).next_power_of_two())?;
        let flags = rustix::pipe::SpliceFlags::NONBLOCK;
        let duplicated = rustix::pipe::tee(&self.reader, &writer, into.len(), flags)?;
        if duplicated < into.len() {
            return Err(Errno::AGAIN);
        }
        let mut filled = 0;
        while filled < into.len() {
            filled += rustix::io::read(&reader, &mut into[filled..])?;
        }
        Ok(())
    }

    /// The pipe, for a reader in another process.
    #[must_use]
    pub fn reader(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
