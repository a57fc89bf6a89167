//! CPU mappings of buffers: the right one, and the one through an importer's file.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::buffer::Buffer;
use super::connection::{ClientError, Shared, lock};
use super::device::GupPin;
use crate::device::socket::protocol::{Request, Response};
use crate::sys::map::{Prot, Sharing, Window};
use crate::sys::page::{FrameIndex, Span, page_bytes};
use crate::sys::touch::Touch;
use crate::sys::uffd::Uffd;

/// What outlives a [`Mapping`] handle by a moment: the event thread may be at it.
#[derive(Debug)]
pub(super) struct Mapped {
    window: Window,
    file: OwnedFd,
}

impl Mapped {
    fn span(&self) -> Span<'_> {
        self.window.span(0, self.window.pages())
    }

    /// The exporter is gone, perhaps in the middle of a move.
    pub(super) fn orphaned(&self, uffd: &Uffd) {
        let range = self.span().range();
        // First: a page that was protected when it went left a marker, which can't be poisoned.
        let _ours = uffd.write_unprotect(range);
        for page in 0..self.window.pages() {
            if !self.is_present(page) {
                let page = self.window.span(page, 1).range();
                if uffd.poison(page).is_err() {
                    // Before Linux 6.6: then the whole mapping goes, which is as loud.
                    let _unmapped = self.window.unmap(0, self.window.pages());
                    break;
                }
            }
        }
        let _ours = uffd.wake(range);
    }

    fn is_present(&self, page: usize) -> bool {
        let at = (page * page_bytes()) as u64;
        let file = rustix::fs::fstat(&self.file).map_or(0, |stat| stat.st_size);
        let beyond = u64::try_from(file).unwrap_or(0) <= at;
        // Past the end an access is SIGBUS by itself.
        beyond
            || rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at))
                .is_ok_and(|data| data < at + page_bytes() as u64)
    }
}

/// A mapping of a whole buffer; its pages move and its bytes do not change by it.
#[derive(Debug)]
pub struct Mapping {
    shared: Arc<Shared>,
    id: u64,
    mapped: Arc<Mapped>,
}

impl Mapping {
    pub(super) fn new(buffer: &Buffer) -> Result<Self, ClientError> {
        let shared = Arc::clone(&buffer.shared);
        let pages = buffer.pages();
        let window = Window::reserve(pages)?;
        window.map(0, buffer.as_fd(), FrameIndex(0), pages, Sharing::Shared, Prot::ReadWrite)?;
        window.set_dont_fork(0, pages, true)?;
        let file = buffer.as_fd().try_clone_to_owned()?;
        let mapped = Arc::new(Mapped { window, file });
        let request = Request::Map { buffer: buffer.id(), start: mapped.span().start().0 };
        let id = shared.number(&request)?;
        lock(&shared.mapped).insert(id, Arc::downgrade(&mapped));
        Ok(Self { shared, id, mapped })
    }

    /// Its bytes, for accesses of any kind. An exporter that records is not told of these.
    #[must_use]
    pub fn span(&self) -> Span<'_> {
        self.mapped.span()
    }

    /// Loads a byte.
    ///
    /// # Panics
    /// This and the other accesses panic outside the buffer.
    pub fn load_u8(&self, offset: usize) -> Touch<u8> {
        let access = self.span().load_u8(offset);
        if let Touch::Value(value) = access {
            self.note(offset, false, value);
        }
        access
    }

    /// Stores a byte.
    pub fn store_u8(&self, offset: usize, value: u8) -> Touch<()> {
        let access = self.span().store_u8(offset, value);
        if access == Touch::Value(()) {
            self.note(offset, true, value);
        }
        access
    }

    /// Loads bytes.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Touch<()> {
        let access = self.span().read(offset, into);
        if let (Touch::Value(()), Some(&first)) = (access, into.first()) {
            self.note(offset, false, first);
        }
        access
    }

    /// Stores bytes.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Touch<()> {
        let access = self.span().write(offset, bytes);
        if let (Touch::Value(()), Some(&first)) = (access, bytes.first()) {
            self.note(offset, true, first);
        }
        access
    }

    /// `pin_user_pages` of one page, for writing, for long, as a driver's userptr or io_uring does.
    ///
    /// # Errors
    /// EFAULT where the heap's rule `mmap` forbids it (pfnmap, mixedmap-insert-pfn).
    pub fn get_user_pages(&self, page: usize) -> Result<GupPin, ClientError> {
        GupPin::new(&self.shared, self.id, page)
    }

    fn note(&self, offset: usize, write: bool, value: u8) {
        if self.shared.record {
            let (mapping, page) = (self.id, offset / page_bytes());
            let offset = offset % page_bytes();
            let request = Request::Accessed { mapping, page, offset, write, before: 0, value };
            // A recording ends with its exporter.
            let _gone = self.shared.tell(&request);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        lock(&self.shared.mapped).remove(&self.id);
        // Before the pages go: a move must not find the range unregistered.
        let _gone = self.shared.tell(&Request::Unmap { mapping: self.id });
    }
}

/// The window of a mapping through an importer: each page shows a frame.
#[derive(Debug)]
pub(super) struct Viewed {
    window: Window,
    /// Which pages were touched. The lock orders accesses against changes of what is shown.
    shown: Mutex<Vec<bool>>,
}

impl Viewed {
    /// The frame that the page shows has its bytes in page `place` of `fd` now.
    pub(super) fn show(&self, page: usize, place: u64, fd: BorrowedFd<'_>) {
        let mut shown = lock(&self.shown);
        shown[page] = self.map(page, place, fd).is_ok();
    }

    fn map(&self, page: usize, place: u64, fd: BorrowedFd<'_>) -> Result<(), ClientError> {
        let place = u32::try_from(place).map_err(|_| ClientError::Nonsense)?;
        let (sharing, prot) = (Sharing::Shared, Prot::ReadWrite);
        Ok(self.window.map(page, fd, FrameIndex(place), 1, sharing, prot)?)
    }
}

/// A mapping through an importer's file, `vm_file` unchanged: the hazard on purpose.
///
/// The first touch of a page installs an entry with the frame that the buffer has then. The
/// exporter's zap never finds it. From the next move on the entry shows whoever owns that frame: a
/// store changes *their* bytes, for real, in their memory.
#[derive(Debug)]
pub struct ImporterMapping {
    shared: Arc<Shared>,
    id: u64,
    viewed: Arc<Viewed>,
}

impl ImporterMapping {
    pub(super) fn new(buffer: &Buffer) -> Result<Self, ClientError> {
        let shared = Arc::clone(&buffer.shared);
        let window = Window::reserve(buffer.pages())?;
        let shown = Mutex::new(vec![false; buffer.pages()]);
        let viewed = Arc::new(Viewed { window, shown });
        let id = shared.number(&Request::ImporterMmap { buffer: buffer.id() })?;
        lock(&shared.viewed).insert(id, Arc::downgrade(&viewed));
        Ok(Self { shared, id, viewed })
    }

    /// Loads a byte.
    ///
    /// # Errors
    /// EFAULT: the buffer was purged or revoked before the page was touched (SIGBUS).
    ///
    /// # Panics
    /// This and [`ImporterMapping::store_u8`] panic outside the buffer.
    pub fn load_u8(&self, offset: usize) -> Result<Touch<u8>, ClientError> {
        self.fault(offset / page_bytes())?;
        let access = {
            let _still = lock(&self.viewed.shown);
            self.span().load_u8(offset)
        };
        if let Touch::Value(value) = access {
            self.accessed(offset, false, value, value)?;
        }
        Ok(access)
    }

    /// Stores a byte.
    ///
    /// # Errors
    /// As [`ImporterMapping::load_u8`].
    pub fn store_u8(&self, offset: usize, value: u8) -> Result<Touch<()>, ClientError> {
        self.fault(offset / page_bytes())?;
        let (before, access) = {
            let _still = lock(&self.viewed.shown);
            (self.span().load_u8(offset).value(), self.span().store_u8(offset, value))
        };
        if access == Touch::Value(()) {
            self.accessed(offset, true, before.unwrap_or(0), value)?;
        }
        Ok(access)
    }

    fn span(&self) -> Span<'_> {
        self.viewed.window.span(0, self.viewed.window.pages())
    }

    fn fault(&self, page: usize) -> Result<(), ClientError> {
        if lock(&self.viewed.shown)[page] {
            return Ok(());
        }
        let request = Request::Fault { mapping: self.id, page };
        let mut received = self.shared.ask_raw(&request, &[], &[])?;
        let (Response::Place { page: place }, Some(fd)) = (received.message, received.fds.pop())
        else {
            return Err(ClientError::Nonsense);
        };
        let mut shown = lock(&self.viewed.shown);
        // An event may have overtaken the answer; it is the newer.
        if !shown[page] {
            self.viewed.map(page, place, fd.as_fd())?;
            shown[page] = true;
        }
        Ok(())
    }

    fn accessed(
        &self,
        offset: usize,
        write: bool,
        before: u8,
        value: u8,
    ) -> Result<(), ClientError> {
        let (page, offset) = (offset / page_bytes(), offset % page_bytes());
        let mapping = self.id;
        self.shared.tell(&Request::Accessed { mapping, page, offset, write, before, value })
    }
}

impl Drop for ImporterMapping {
    fn drop(&mut self) {
        lock(&self.shared.viewed).remove(&self.id);
        let _gone = self.shared.tell(&Request::Unmap { mapping: self.id });
    }
}
