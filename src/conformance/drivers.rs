//! Buffers of the drivers that a kernel has, for who asks these by other means than the rows.

use super::exporters;
use super::kit::{ALLOC, Alloc, close, ioctl, open, page_size};

/// A buffer of so many pages of a driver of this kernel: `system`, `udmabuf`, `vgem`.
///
/// # Errors
/// The errno; ENODEV: there is no such driver.
pub fn exporter_buffer(exporter: &str, pages: u64) -> Result<u64, i32> {
    let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
    let len = pages * page_size();
    if exporter != "system" {
        return exporters::buffer(exporter, len, flags).map(|fd| fd as u64);
    }
    let heap = open("/dev/dma_heap/system", libc::O_RDWR | libc::O_CLOEXEC)? as u64;
    let mut arg = Alloc { len, fd_flags: flags, ..Alloc::default() };
    let result = ioctl(heap, ALLOC, &mut arg);
    let _ = close(heap);
    result.map(|_| arg.fd.into())
}

/// Closes what [`exporter_buffer`] answered.
pub fn close_buffer(fd: u64) {
    let _ = close(fd);
}
