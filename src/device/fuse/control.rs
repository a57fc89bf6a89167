//! What a mount does for `driftheap ctl`.

use std::io;
use std::sync::{Arc, Mutex};

use super::{Served, Zapper};
use crate::device::control::{Controlled, NotDone, buffer_of};
use crate::device::transport::lock;
use crate::device::{BufferId, Device};
use crate::model::Operation;
use crate::uapi::page_size;

/// A mount that can be asked.
#[derive(Debug)]
pub struct Mounted {
    /// The device behind it.
    pub served: Arc<Mutex<Served>>,
    /// The way to the kernel's page cache of it.
    pub zapper: Zapper,
}

impl Mounted {
    /// The buffer and how many pages it has.
    fn buffer(&self, ino: u64) -> Result<(BufferId, u64), NotDone> {
        let served = lock(&self.served);
        let (id, buffer) = buffer_of(&served.device, ino)?;
        Ok((id, buffer.size_bytes / page_size()))
    }

    /// Whether anybody had a page of it.
    fn zap_pages(&self, id: BufferId) -> Result<bool, NotDone> {
        match self.zapper.zap(id) {
            // Nobody has it open.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            zapped => zapped
                .map(|()| true)
                .map_err(|error: io::Error| NotDone::refused(format!("can't zap: {error}"))),
        }
    }
}

impl Controlled for Mounted {
    fn look(&self, f: &mut dyn FnMut(&Device)) {
        f(&lock(&self.served).device);
    }

    fn zap(&self, ino: u64) -> Result<String, NotDone> {
        let (id, _) = self.buffer(ino)?;
        if self.zap_pages(id)? {
            Ok("zapped\n".into())
        } else {
            Err(NotDone::refused("can't zap: nobody has it open"))
        }
    }

    fn operate(&self, operation: Operation, ino: u64) -> Result<String, NotDone> {
        let (id, pages) = self.buffer(ino)?;
        // What is gone for good is so before the last entry is dropped, and not read in again.
        if operation.placement().is_none() {
            lock(&self.served).kill(id, operation.life_after());
        }
        self.zap_pages(id)?;
        Ok(match operation.placement() {
            None => format!("{} {ino}: its pages are gone\n", operation.word()),
            Some(placement) => {
                lock(&self.served).device.moved(id, placement, 0, pages);
                format!("{} {ino}: {pages} pages have new memory\n", operation.word())
            }
        })
    }
}
