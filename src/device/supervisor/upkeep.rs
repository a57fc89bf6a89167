//! What is kept for programs is let go when they end, and a while after the last call.
//!
//! Files of ours in a program, its pidfds and its watches are noticed to be gone by looking. A look is
//! due [`LOOK_NS`] after a call or after the end of a process that called, and not before the last one
//! has been paid for [`PRICE`] times over. A program that closes its files and never calls again keeps
//! ours until it ends.

use std::os::fd::AsFd as _;

use super::{Supervisor, life, lock, now_ns};
use crate::sys::backing;

/// Time from an occasion to the look.
const LOOK_NS: u64 = 250_000_000;

/// A look takes one part in so many of the time at most.
const PRICE: u64 = 20;

/// When to look.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    due_ns: Option<u64>,
    not_before_ns: u64,
}

impl Upkeep {
    /// Something may have gone, or is about to.
    fn occasion(&mut self, now_ns: u64) {
        let due_ns = now_ns.saturating_add(LOOK_NS).max(self.not_before_ns);
        self.due_ns.get_or_insert(due_ns);
    }

    /// When to look next.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    fn looked(&mut self, begun_ns: u64, ended_ns: u64) {
        self.due_ns = None;
        let price_ns = ended_ns.saturating_sub(begun_ns).saturating_mul(PRICE);
        self.not_before_ns = ended_ns.saturating_add(price_ns);
    }
}

impl Supervisor {
    /// Looks at what has gone, if it is time.
    pub(super) fn keep_up(&mut self, called: bool, ended: bool) {
        if ended {
            self.callers.drop_ended();
        }
        let now = now_ns();
        if (called && self.keeps_anything()) || ended {
            self.upkeep.occasion(now);
        }
        if self.upkeep.due_ns().is_none_or(|due_ns| now < due_ns) {
            return;
        }
        self.callers.prune();
        self.epolls.sweep();
        let shared = &mut *lock(&self.shared);
        shared.files.sweep(&mut shared.device);
        self.upkeep.looked(now, now_ns());
    }

    /// Somebody opens a buffer's file by another name, such as a link to /proc/self/fd/0, and waits for
    /// the lease that marks it: the file is marked by a lock instead.
    pub(super) fn give_leases_up(&mut self) {
        for inode in life::waited_for().unwrap_or_default() {
            if lock(&self.shared).files.object_of(inode).is_none() {
                continue;
            }
            for (pid, fd) in life::openers(inode).unwrap_or_default() {
                if let Ok(file) = self.callers.file(pid, fd) {
                    // What has no lease stays as it is.
                    drop(backing::mark_by_lock(file.as_fd()));
                }
            }
        }
    }

    /// Whether there is anything of ours in a program.
    fn keeps_anything(&self) -> bool {
        !self.epolls.is_empty() || lock(&self.shared).files.have_any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_once_and_not_too_often() {
        let mut upkeep = Upkeep::default();
        assert_eq!(upkeep.due_ns(), None);
        upkeep.occasion(1000);
        upkeep.occasion(2000);
        assert_eq!(upkeep.due_ns(), Some(1000 + LOOK_NS));
        upkeep.looked(LOOK_NS, LOOK_NS * 2);
        assert_eq!(upkeep.due_ns(), None);
        upkeep.occasion(LOOK_NS * 3);
        assert_eq!(upkeep.due_ns(), Some(LOOK_NS * (2 + PRICE)), "it took a quarter of a second");
    }
}
