//! O_DIRECT: a transfer by the block layer to and from a file, the memory pinned meanwhile.

#![allow(unsafe_code, reason = "reads and writes memory by address")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::super::map::last_errno;
use super::super::page::Span;

/// File systems that accept O_DIRECT and then copy through the page cache: no pin is taken.
const NOT_DIRECT: [u32; 2] = [TMPFS_MAGIC, RAMFS_MAGIC];
const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;

/// An unnamed file opened with O_DIRECT, on a file system that really does it.
#[derive(Debug)]
pub struct DirectFile {
    fd: OwnedFd,
}

impl DirectFile {
    /// Makes one in `dir`; it vanishes with the fd.
    ///
    /// # Errors
    /// EOPNOTSUPP: the file system has no O_DIRECT (tmpfs takes the flag and ignores it), or no
    /// unnamed files. Otherwise as open(2).
    pub fn create(dir: &Path) -> Result<Self, Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        let fd = fs::open(dir, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| match errno {
            Errno::INVAL | Errno::ISDIR => Errno::OPNOTSUPP,
            other => other,
        })?;
        let magic = u32::try_from(fs::fstatfs(&fd)?.f_type).unwrap_or(0);
        if NOT_DIRECT.contains(&magic) {
            return Err(Errno::OPNOTSUPP);
        }
        Ok(Self { fd })
    }

    /// Writes a whole span to the file's start: memory is pinned for reading.
    ///
    /// # Errors
    /// EFAULT: get_user_pages refuses the mapping. EIO: a short transfer. Else as pwrite(2).
    pub fn write_from(&self, span: Span<'_>) -> Result<(), Errno> {
        let (at, len) = (span.at(0, span.len_bytes()), span.len_bytes());
        // SAFETY: the range is a window's; the kernel only reads it, and checks it.
        let done = unsafe { libc::pwrite(self.fd.as_raw_fd(), at as *const _, len, 0) };
        whole(done, len)
    }

    /// Reads the file's start into a whole span: memory is pinned for writing.
    ///
    /// # Errors
    /// As [`write_from`](Self::write_from); EIO also when less was written to the file.
    pub fn read_into(&self, span: Span<'_>) -> Result<(), Errno> {
        let (at, len) = (span.at(0, span.len_bytes()), span.len_bytes());
        // SAFETY: the range is a window's, which holds no Rust object; the kernel checks it.
        let done = unsafe { libc::pread(self.fd.as_raw_fd(), at as *mut _, len, 0) };
        whole(done, len)
    }
}

fn whole(done: isize, len: usize) -> Result<(), Errno> {
    match usize::try_from(done) {
        Ok(done) if done == len => Ok(()),
        Ok(_) => Err(Errno::IO),
        Err(_) => Err(last_errno()),
    }
}
