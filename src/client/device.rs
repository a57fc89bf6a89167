//! Devices: attachments, sg_tables, fences, DMA by bus address, page pins.

use std::fmt;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::BusAddr;
use super::buffer::{Buffer, ResvLock};
use super::connection::{Callback, ClientError, Shared};
use crate::device::live::pages::read_all;
use crate::device::socket::protocol::{Request, Response, Via};
use crate::model::Usage;
use crate::sys::page::page_bytes;
use std::os::fd::AsFd as _;

/// What an importer promises: `struct dma_buf_attach_ops`.
pub struct Importer {
    move_notify: Option<Callback>,
}

impl Importer {
    /// Without `move_notify`: a mapping pins the buffer.
    #[must_use]
    pub fn pinning() -> Self {
        Self { move_notify: None }
    }

    /// With `move_notify`. It is called while the exporter holds the buffer's reservation lock, on
    /// the library's event thread: it notes that the sg_table is invalid and returns.
    #[must_use]
    pub fn dynamic(move_notify: impl FnMut() + Send + 'static) -> Self {
        Self { move_notify: Some(Arc::new(Mutex::new(move_notify))) }
    }
}

impl fmt::Debug for Importer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Importer").field("dynamic", &self.move_notify.is_some()).finish()
    }
}

/// A device's link to a buffer; dropping it is `dma_buf_detach`.
#[derive(Debug)]
pub struct Attachment {
    shared: Arc<Shared>,
    id: u64,
    buffer: u64,
}

/// Bus addresses of a buffer's pages: `struct sg_table`. Valid until the next `move_notify` if the
/// importer is dynamic, else until it is unmapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SgTable {
    addrs: Vec<BusAddr>,
}

impl SgTable {
    /// The address of a page.
    ///
    /// # Panics
    /// When the buffer has no such page.
    #[must_use]
    pub fn addr(&self, page: usize) -> BusAddr {
        self.addrs[page]
    }

    /// All of them.
    #[must_use]
    pub fn addrs(&self) -> &[BusAddr] {
        &self.addrs
    }
}

impl Attachment {
    pub(super) fn new(
        buffer: &Buffer,
        device: &str,
        importer: Importer,
    ) -> Result<Self, ClientError> {
        let shared = Arc::clone(&buffer.shared);
        let dynamic = importer.move_notify.is_some();
        let request = Request::Attach { buffer: buffer.id(), device: device.to_owned(), dynamic };
        let id = shared.number(&request)?;
        if let Some(callback) = importer.move_notify {
            shared.on_notify(id, callback);
        }
        Ok(Self { shared, id, buffer: buffer.id() })
    }

    /// The exporter's number for it, as reports name it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// `dma_buf_map_attachment`: where the buffer is now.
    ///
    /// # Errors
    /// ENODEV: purged or revoked. EINVAL: another buffer's lock.
    pub fn map(&self, lock: &ResvLock<'_>) -> Result<SgTable, ClientError> {
        self.check(lock)?;
        let received =
            self.shared.ask_raw(&Request::MapAttachment { attachment: self.id }, &[], &[])?;
        let Response::Addrs { pages } = received.message else { return Err(ClientError::Nonsense) };
        let mut bytes = received.bytes;
        if let Some(file) = received.fds.first() {
            bytes = vec![0; pages * 8];
            read_all(file.as_fd(), 0, &mut bytes)
                .map_err(|errno| ClientError::Setup(errno.into()))?;
        }
        let (words, _) = bytes.as_chunks();
        let addrs: Vec<BusAddr> =
            words.iter().map(|word| BusAddr(u64::from_le_bytes(*word))).collect();
        if addrs.len() == pages { Ok(SgTable { addrs }) } else { Err(ClientError::Nonsense) }
    }

    /// `dma_buf_unmap_attachment`.
    ///
    /// # Errors
    /// EINVAL: it is not mapped.
    pub fn unmap(&self) -> Result<(), ClientError> {
        self.shared.tell(&Request::UnmapAttachment { attachment: self.id })
    }

    /// `dma_buf_pin`: the buffer stays where it is.
    ///
    /// # Errors
    /// [`ClientError::Gone`].
    pub fn pin(&self) -> Result<(), ClientError> {
        self.shared.tell(&Request::Pin { attachment: self.id, on: true })
    }

    /// `dma_buf_unpin`.
    ///
    /// # Errors
    /// EINVAL: it is not pinned.
    pub fn unpin(&self) -> Result<(), ClientError> {
        self.shared.tell(&Request::Pin { attachment: self.id, on: false })
    }

    /// `dma_resv_add_fence`: a job of the device is on its way until the fence signals.
    ///
    /// # Errors
    /// EINVAL: another buffer's lock. ENODEV: too many fences.
    pub fn submit(&self, lock: &ResvLock<'_>, usage: Usage) -> Result<Fence, ClientError> {
        self.check(lock)?;
        let id = self.shared.number(&Request::Submit { attachment: self.id, usage })?;
        Ok(self.fence(id))
    }

    /// A fence of this attachment by its number.
    pub fn fence(&self, id: u64) -> Fence {
        Fence { shared: Arc::clone(&self.shared), attachment: self.id, id }
    }

    /// The device writes within one page.
    ///
    /// # Errors
    /// EFAULT: the device was never told this address. EINVAL: the bytes cross a page.
    pub fn dma_write(&self, addr: BusAddr, bytes: &[u8]) -> Result<(), ClientError> {
        dma_write(&self.shared, Via::Attachment(self.id), addr, bytes)
    }

    /// The device reads within one page.
    ///
    /// # Errors
    /// As [`Attachment::dma_write`].
    pub fn dma_read(&self, addr: BusAddr, into: &mut [u8]) -> Result<(), ClientError> {
        dma_read(&self.shared, Via::Attachment(self.id), addr, into)
    }

    fn check(&self, lock: &ResvLock<'_>) -> Result<(), ClientError> {
        if lock.is_of(self.buffer) {
            return Ok(());
        }
        let text = "the lock is another buffer's (EINVAL)".to_owned();
        Err(ClientError::Refused { errno: Errno::INVAL, text })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.shared.forget_notify(self.id);
        // An exporter that is gone has forgotten the attachment.
        let _gone = self.shared.tell(&Request::Detach { attachment: self.id });
    }
}

fn dma_write(shared: &Shared, via: Via, addr: BusAddr, bytes: &[u8]) -> Result<(), ClientError> {
    if bytes.len() > page_bytes() {
        return Err(too_long());
    }
    shared.ask_raw(&Request::DmaWrite { via, addr: addr.0 }, bytes, &[]).map(drop)
}

fn dma_read(shared: &Shared, via: Via, addr: BusAddr, into: &mut [u8]) -> Result<(), ClientError> {
    let request = Request::DmaRead { via, addr: addr.0, len: into.len() };
    let received = shared.ask_raw(&request, &[], &[])?;
    if received.bytes.len() != into.len() {
        return Err(ClientError::Nonsense);
    }
    into.copy_from_slice(&received.bytes);
    Ok(())
}

fn too_long() -> ClientError {
    let text = format!("an access lies within one page of {} bytes (EINVAL)", page_bytes());
    ClientError::Refused { errno: Errno::INVAL, text }
}

/// A fence of a job. The exporter waits for it; a device that dies takes it along (-ENODEV).
#[derive(Debug)]
#[must_use = "nobody can move the buffer, or access it by the CPU, before the fence signals"]
pub struct Fence {
    shared: Arc<Shared>,
    attachment: u64,
    id: u64,
}

impl Fence {
    /// Its number, for [`Attachment::fence`].
    #[must_use]
    pub fn into_id(self) -> u64 {
        self.id
    }

    /// `dma_fence_signal`: the job is done.
    ///
    /// # Errors
    /// EINVAL: it has signalled already. [`ClientError::Gone`].
    pub fn signal(&self) -> Result<(), ClientError> {
        self.shared.tell(&Request::Signal { attachment: self.attachment, fence: self.id })
    }
}

/// A page behind a mapping, pinned by get_user_pages; dropping it is `unpin_user_page`.
#[derive(Debug)]
pub struct GupPin {
    shared: Arc<Shared>,
    id: u64,
    addr: BusAddr,
}

impl GupPin {
    pub(super) fn new(
        shared: &Arc<Shared>,
        mapping: u64,
        page: usize,
    ) -> Result<Self, ClientError> {
        let Response::Pin { id, addr } = shared.ask(&Request::Gup { mapping, page })? else {
            return Err(ClientError::Nonsense);
        };
        Ok(Self { shared: Arc::clone(shared), id, addr: BusAddr(addr) })
    }

    /// A device writes to the page.
    ///
    /// # Errors
    /// EINVAL: the bytes do not fit the page.
    pub fn dma_write(&self, offset: u64, bytes: &[u8]) -> Result<(), ClientError> {
        dma_write(&self.shared, Via::Pin(self.id), BusAddr(self.addr.0 + offset), bytes)
    }

    /// A device reads from the page.
    ///
    /// # Errors
    /// As [`GupPin::dma_write`].
    pub fn dma_read(&self, offset: u64, into: &mut [u8]) -> Result<(), ClientError> {
        dma_read(&self.shared, Via::Pin(self.id), BusAddr(self.addr.0 + offset), into)
    }
}

impl Drop for GupPin {
    fn drop(&mut self) {
        let _gone = self.shared.tell(&Request::Unpin { pin: self.id });
    }
}
