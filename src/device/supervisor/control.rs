//! What a supervised tree of programs does for `driftheap ctl`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{Shared, lock};
use crate::device::control::{CLIENT_TIME_MAX, Controlled, NotDone, buffer_of};
use crate::device::holders::{Holder, holders};
use crate::device::{Device, Inode};
use crate::model::Operation;

impl Controlled for Mutex<Shared> {
    fn look(&self, f: &mut dyn FnMut(&Device)) {
        let shared = &mut *lock(self);
        shared.files.sweep(&mut shared.device);
        f(&shared.device);
    }

    fn holders(&self, inodes: &[Inode]) -> BTreeMap<Inode, Vec<Holder>> {
        holders(inodes)
    }

    fn more_stats(&self) -> String {
        match lock(self).files.secret_bytes_max {
            u64::MAX => "pfnmap\tno limit (RLIMIT_MEMLOCK is unlimited)\n".to_owned(),
            max => format!("pfnmap\tat most {max} bytes\n"),
        }
    }

    fn zap(&self, _ino: u64) -> Result<String, NotDone> {
        Err(NotDone::refused(
            "can't zap: the buffers of `driftheap run` are the program's own files; \
             `driftheap serve --mount` keeps buffers that can be zapped",
        ))
    }

    /// Hands the order to the thread that owns the buffers and waits until it is done.
    fn operate(&self, operation: Operation, ino: u64) -> Result<String, NotDone> {
        let receiver = {
            let shared = &mut *lock(self);
            shared.files.sweep(&mut shared.device);
            let Some(orders) = &mut shared.orders else {
                return Err(NotDone::refused(
                    "this device's buffers do not move: start it with `driftheap run --live` or \
                     `--chaos`",
                ));
            };
            buffer_of(&shared.device, ino)?;
            orders.give(operation, ino)
        };
        let late = || NotDone::refused("the device did not get to it in time");
        receiver.recv_timeout(CLIENT_TIME_MAX / 2).map_err(|_| late())?
    }
}
