//! Where the bytes of live buffers are: in the buffers' own files, and in a file of the frames that
//! no buffer has at the moment.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::frames::{FrameNo, PageOf};
use crate::sys::page::page_bytes;

/// The bytes of live buffers, as their host keeps them.
pub trait Pages {
    /// Reads bytes of a page.
    ///
    /// # Errors
    /// The errno of pread(2); ENODATA if the file has no such page.
    fn read(&self, of: PageOf, offset: usize, into: &mut [u8]) -> Result<(), Errno>;

    /// Writes bytes of a page.
    ///
    /// # Errors
    /// The errno of pwrite(2).
    fn write(&self, of: PageOf, offset: usize, bytes: &[u8]) -> Result<(), Errno>;
}

/// The frames' own bytes: a sparse file, a page a frame.
#[derive(Debug)]
pub(super) struct OwnBytes(pub(super) OwnedFd);

impl OwnBytes {
    /// Where a frame's byte lies in the file.
    pub(super) fn at(frame: FrameNo, offset: usize) -> u64 {
        u64::from(frame.0) * page_bytes() as u64 + offset as u64
    }
}

/// Reads all of `into` at `at`.
///
/// # Errors
/// The errno of pread(2); ENODATA at the end of the file.
pub fn read_all(fd: BorrowedFd<'_>, at: u64, into: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < into.len() {
        match rustix::io::pread(fd, &mut into[done..], at + done as u64) {
            Ok(0) => return Err(Errno::NODATA),
            Ok(got) => done += got,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Writes all of `bytes` at `at`.
///
/// # Errors
/// The errno of pwrite(2).
pub fn write_all(fd: BorrowedFd<'_>, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(fd, &bytes[done..], at + done as u64) {
            Ok(wrote) => done += wrote,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
