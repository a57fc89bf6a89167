//! What a socket exporter does for `driftheap ctl`.

use super::exporter::Exporter;
use crate::device::Device;
use crate::device::control::{Controlled, NotDone, buffer_of};
use crate::model::Operation;

impl Controlled for Exporter {
    fn look(&self, f: &mut dyn FnMut(&Device)) {
        Self::look(self, |device, _| f(device));
    }

    fn zap(&self, _ino: u64) -> Result<String, NotDone> {
        Err(NotDone::refused("can't zap: every move zaps; see `driftheap ctl move`"))
    }

    fn operate(&self, operation: Operation, ino: u64) -> Result<String, NotDone> {
        let id = Self::look(self, |device, _| buffer_of(device, ino).map(|(id, _)| id))?;
        let done = self.work(id, operation).map_err(NotDone::refused)?;
        let (word, pages, notified) = (operation.word(), done.pages, done.notified);
        Ok(format!("{word}: {pages} pages, {notified} importers told\n"))
    }
}
