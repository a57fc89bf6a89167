//! An address space of a program, with the userfaultfd that traps its mappings of our buffers.
//!
//! Threads share one, and so do a vforked child and its parent until the child executes; a forked
//! child has its own. An address space is named by the processes that live in it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::device::maps;
use crate::device::maps::Mapping;
use crate::sys::page::{Addr, Range};
use crate::sys::uffd::{Modes, ProtectError, RegisterError, Uffd};

/// Where buffers are mapped when the program leaves the address to the kernel: above what mmap
/// hands out by itself, and inside what the sanitizers' shadow maps allow. A seccomp filter can
/// tell by the upper half of a pointer that it points here.
pub const REGION: std::ops::Range<u64> = 0x7ea0_0000_0000..0x7ec0_0000_0000;

/// Distance between the ends of two mappings in the region, so that an overrun hits nothing.
const GUARD_BYTES: u64 = 2 << 20;

/// Why an address space can't be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// Nobody lives there any more.
    Gone,
    /// Somebody does, and /proc does not show it.
    Hidden,
}

/// One address space.
#[derive(Debug)]
pub struct Space {
    uffd: Arc<Uffd>,
    /// Whether the kernel's own accesses are trapped too.
    pub traps_kernel: bool,
    /// Processes in it.
    members: Vec<i32>,
    /// Those of them that have called execve: whether it failed is not told, so they are looked at
    /// each time that it matters.
    suspects: Vec<i32>,
    /// Mappings of our buffers, all of them registered.
    pub areas: Vec<Mapping>,
    next: u64,
    /// The guardian's copy of the userfaultfd.
    pub ward: Option<super::guardian::KeptFile>,
}

impl Space {
    /// An address space of process `pid`, whose userfaultfd this is.
    ///
    /// # Errors
    /// EINVAL: the userfaultfd is used already, or the kernel is too old.
    pub fn new(pid: i32, uffd: OwnedFd, traps_kernel: bool) -> Result<Self, rustix::io::Errno> {
        let uffd = Arc::new(Uffd::adopt_raw(uffd, super::mover::FEATURES)?);
        let next = REGION.start;
        let (members, areas) = (vec![pid], Vec::new());
        Ok(Self { uffd, traps_kernel, members, suspects: Vec::new(), areas, next, ward: None })
    }

    /// Its userfaultfd.
    pub fn uffd(&self) -> &Arc<Uffd> {
        &self.uffd
    }

    /// Whether the process lives here.
    pub fn is_home_of(&self, pid: i32) -> bool {
        self.members.contains(&pid)
    }

    /// The processes in it.
    pub fn members(&self) -> &[i32] {
        &self.members
    }

    /// Adds a process that shares it.
    pub fn add(&mut self, pid: i32) {
        self.members.push(pid);
    }

    /// Some process of it that can be looked into, rather one that has never called execve.
    pub fn somebody(&self) -> Option<i32> {
        let mut sure = self.members.iter().filter(|member| !self.suspects.contains(member));
        let seen = |member: &&i32| self.members.len() == 1 || maps::files(**member).is_some();
        sure.find(seen).or_else(|| self.members.iter().find(seen)).copied()
    }

    /// Whether all who are known here have gone, or have executed a program, and somebody who is not
    /// known, and maps this, goes on: CLONE_VM makes such processes.
    pub fn is_left_to(&self, theirs: &[Mapping]) -> bool {
        let same = |area: &Mapping, other: &Mapping| {
            area.start == other.start && area.inode == other.inode
        };
        let maps = |all: &[Mapping]| {
            self.areas.iter().all(|area| all.iter().any(|other| same(area, other)))
        };
        let lives_here = |pid: &i32| maps::files(*pid).is_some_and(|all| maps(&all));
        !self.areas.is_empty() && maps(theirs) && !self.members.iter().any(lives_here)
    }

    /// The process is about to execute another program, which may fail.
    pub fn may_leave(&mut self, pid: i32) {
        if self.is_home_of(pid) && !self.suspects.contains(&pid) {
            self.suspects.push(pid);
        }
    }

    /// Whether a member that may have left is still here; one that is not is forgotten. Nobody maps
    /// a buffer without a call that comes to us, so a process with mappings of ours has not left.
    pub fn still_has(&mut self, pid: i32, ours: impl Fn(&Mapping) -> bool) -> bool {
        let others = self.members.iter().filter(|&&other| other != pid);
        let told = others.copied().find_map(|other| crate::sys::inject::share_memory(pid, other));
        let stays = match told {
            _ if !self.suspects.contains(&pid) && self.members.len() == 1 => true,
            Some(shares) => shares,
            None if self.areas.is_empty() => true,
            // What can't be seen is believed to have stayed: then its mappings are looked for.
            None => maps::files(pid).is_none_or(|areas| areas.iter().any(ours)),
        };
        if !stays {
            self.members.retain(|&member| member != pid);
            self.suspects.retain(|&suspect| suspect != pid);
        }
        stays
    }

    /// Whether anybody lives in it.
    pub fn is_alive(&self) -> bool {
        // No mapping can be there (vm.mmap_min_addr), so nothing is changed; an address space
        // without users answers before that is looked at (`userfaultfd_writeprotect`).
        let nowhere = Range::pages(Addr(1 << 20), 1);
        self.uffd.write_unprotect(nowhere) != Err(ProtectError::Gone)
    }

    /// Looks for the mappings of files of ours and traps those that are not yet. Returns what could
    /// not be trapped, and why.
    ///
    /// # Errors
    /// [`Unseen`].
    pub fn scan(
        &mut self,
        ours: impl Fn(&Mapping) -> bool,
    ) -> Result<Vec<(Mapping, RegisterError)>, Unseen> {
        if !self.is_alive() {
            return Err(Unseen::Gone);
        }
        let areas = self.somebody().and_then(maps::files);
        let areas = areas.ok_or(if self.is_alive() { Unseen::Hidden } else { Unseen::Gone })?;
        let suspect = self.somebody().is_some_and(|pid| self.suspects.contains(&pid));
        if suspect && !self.areas.is_empty() && !areas.iter().any(&ours) {
            // Its execve has succeeded, and somebody whom we don't know still lives here.
            return Err(if self.is_alive() { Unseen::Hidden } else { Unseen::Gone });
        }
        let mut failed = Vec::new();
        self.areas.clear();
        for area in areas.into_iter().filter(ours) {
            let range = Range { start: Addr(area.start), len_bytes: area.len_bytes() };
            match self.uffd.register(range, Modes::MISSING | Modes::WP) {
                Ok(()) => self.areas.push(area),
                Err(error) => failed.push((area, error)),
            }
        }
        Ok(failed)
    }

    /// Where to map `len_bytes` bytes next.
    pub fn place(&mut self, len_bytes: u64) -> Option<u64> {
        let start = self.next;
        let end = start.checked_add(len_bytes)?.checked_next_multiple_of(GUARD_BYTES)?;
        let end = end.checked_add(GUARD_BYTES)?;
        if end > REGION.end {
            self.next = REGION.start;
            return None;
        }
        self.next = end;
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::uffd::Via;

    #[test]
    fn an_own_space_is_alive_and_places_apart() {
        let Ok(raw) = Uffd::open_bare(Via::UserModeOnly) else {
            eprintln!("SKIP: no userfaultfd");
            return;
        };
        let pid = std::process::id().cast_signed();
        let mut space = Space::new(pid, raw, false).unwrap();
        assert!(space.is_alive());
        let (a, b) = (space.place(4096).unwrap(), space.place(4096).unwrap());
        assert!(b >= a + 4096 + GUARD_BYTES, "{a:#x} {b:#x}");
        assert_eq!(space.place(1 << 40), None, "larger than the region");
        assert_eq!(space.place(4096), Some(REGION.start), "from the start again");
        assert!(space.scan(|_| false).unwrap().is_empty());
        space.may_leave(pid);
        assert!(space.is_home_of(pid), "its exec may fail");
        assert_eq!(space.somebody(), Some(pid));
        assert!(space.still_has(pid, |_| false), "it mapped nothing, and the space is alive");
        let areas = maps::files(pid).unwrap();
        space.areas.push(areas[0].clone());
        assert!(
            space.still_has(pid, |area| *area == areas[0].clone()),
            "what it mapped is still there"
        );
        assert!(!space.still_has(pid, |_| false), "it maps nothing any more");
        assert!(!space.is_home_of(pid));
    }
}
