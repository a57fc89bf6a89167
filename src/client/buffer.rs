//! Buffers, CPU access brackets and reservation locks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::connection::{ClientError, Shared};
use super::device::{Attachment, Importer};
use super::mapping::{ImporterMapping, Mapping};
use crate::device::socket::protocol::{Request, Work};
use crate::uapi::dma_buf;

/// A dma-buf. It lives as long as some client has a handle of it.
#[derive(Debug)]
pub struct Buffer {
    pub(super) shared: Arc<Shared>,
    id: u64,
    pages: usize,
    fd: OwnedFd,
}

impl Buffer {
    pub(super) fn new(shared: &Arc<Shared>, id: u64, pages: usize, fd: OwnedFd) -> Self {
        Self { shared: Arc::clone(shared), id, pages, fd }
    }

    /// The exporter's number for it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Pages of 4 KiB.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// DMA_BUF_SET_NAME: the name in reports.
    ///
    /// # Errors
    /// EINVAL: more than 31 bytes.
    pub fn set_name(&self, name: &str) -> Result<(), ClientError> {
        self.shared.tell(&Request::SetName { buffer: self.id, name: name.to_owned() })
    }

    /// Maps the whole buffer, trapped.
    ///
    /// # Errors
    /// [`ClientError::Map`]; EBADF, EINVAL from the exporter.
    pub fn map(&self) -> Result<Mapping, ClientError> {
        Mapping::new(self)
    }

    /// Maps the buffer as an importer does that forwards mmap to the exporter and leaves
    /// `vm_file` its own: the exporter's zap does not reach the mapping, which goes on showing the
    /// frames that were there at the first touch.
    ///
    /// # Errors
    /// [`ClientError::Map`]; ENODEV: purged or revoked.
    pub fn map_through_importer(&self) -> Result<ImporterMapping, ClientError> {
        ImporterMapping::new(self)
    }

    /// DMA_BUF_IOCTL_SYNC with START; the guard ends it. Waits for the fences that the access
    /// conflicts with. `flags` are `DMA_BUF_SYNC_READ` and `_WRITE`.
    ///
    /// # Errors
    /// EINVAL: other flags, or none. [`ClientError::TimedOut`]: a fence does not signal.
    pub fn begin_cpu_access(&self, flags: u64) -> Result<CpuAccess<'_>, ClientError> {
        self.sync(flags)?;
        Ok(CpuAccess { buffer: self, flags })
    }

    /// DMA_BUF_IOCTL_SYNC as it is, START or END.
    ///
    /// # Errors
    /// As [`Buffer::begin_cpu_access`].
    pub fn sync(&self, flags: u64) -> Result<(), ClientError> {
        self.shared.tell(&Request::Sync { buffer: self.id, flags })
    }

    /// Attaches a device.
    ///
    /// # Errors
    /// ENODEV: purged or revoked.
    pub fn attach(&self, device: &str, importer: Importer) -> Result<Attachment, ClientError> {
        Attachment::new(self, device, importer)
    }

    /// `dma_resv_lock`. Never from within a `move_notify`, during which the exporter has it.
    ///
    /// # Errors
    /// [`ClientError::TimedOut`]; [`ClientError::Gone`].
    pub fn lock(&self) -> Result<ResvLock<'_>, ClientError> {
        self.shared.tell(&Request::Lock { buffer: self.id })?;
        Ok(ResvLock { buffer: self })
    }

    /// A guard for the lock that this process has already and whose guard was forgotten. Without
    /// the lock the exporter refuses what is done under it.
    pub fn resume_lock(&self) -> ResvLock<'_> {
        ResvLock { buffer: self }
    }

    /// Makes the exporter move, evict, purge or revoke the buffer, as pressure on its memory or
    /// `driftheap ctl` would. Returns when it is done.
    ///
    /// # Errors
    /// EBUSY: pinned. ENOMEM: no room. EINVAL: purged or revoked before. ETIMEDOUT: a fence, a lock.
    pub fn work(&self, work: Work) -> Result<(), ClientError> {
        self.shared.tell(&Request::Work { buffer: self.id, work })
    }
}

impl AsFd for Buffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // An exporter that is gone has forgotten the handle.
        let _gone = self.shared.tell(&Request::Close { buffer: self.id });
    }
}

/// A CPU access bracket; dropping it is DMA_BUF_IOCTL_SYNC with END.
#[derive(Debug)]
#[must_use = "the access ends when this is dropped"]
pub struct CpuAccess<'a> {
    buffer: &'a Buffer,
    flags: u64,
}

impl Drop for CpuAccess<'_> {
    fn drop(&mut self) {
        let _gone = self.buffer.sync(self.flags | dma_buf::SYNC_END);
    }
}

/// A buffer's reservation lock; dropping it is `dma_resv_unlock`.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct ResvLock<'a> {
    buffer: &'a Buffer,
}

impl ResvLock<'_> {
    pub(super) fn is_of(&self, buffer: u64) -> bool {
        self.buffer.id == buffer
    }
}

impl Drop for ResvLock<'_> {
    fn drop(&mut self) {
        let _gone = self.buffer.shared.tell(&Request::Unlock { buffer: self.buffer.id });
    }
}
