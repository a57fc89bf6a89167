//! What a node does for `driftheap ctl`.

use std::sync::Mutex;

use super::heap_node::NodeState;
use crate::device::Device;
use crate::device::control::{Controlled, NotDone};
use crate::device::transport::lock;
use crate::model::Operation;

fn no_hold() -> NotDone {
    NotDone::refused(
        "a node gives out its buffers' memory and keeps no hold on the mappings; \
         `driftheap run` does, and `driftheap serve --mount` can zap",
    )
}

impl Controlled for Mutex<NodeState> {
    fn look(&self, f: &mut dyn FnMut(&Device)) {
        f(&lock(self).device);
    }

    fn zap(&self, _ino: u64) -> Result<String, NotDone> {
        Err(no_hold())
    }

    fn operate(&self, _operation: Operation, _ino: u64) -> Result<String, NotDone> {
        Err(no_hold())
    }
}
