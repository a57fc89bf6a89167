//! The buffers that can move, the address spaces that map them, and what is asked for.
//!
//! The transport tells the engine of each file ([`Engine::adopt`]), of each address space
//! ([`Engine::add_space`]) and after each call that may have changed one ([`Engine::scan`]). What it
//! could not trap it reports with [`Engine::bar`], and the buffer stays where it is from then on.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::device::{BufferId, Inode, maps};
use crate::sys::page::{Addr, page_bytes};
use crate::sys::store::{Store, StoreError};

use super::guardian::{Guardian, KeptFile};

use super::mover::{Mapping, MoveError, Moved, Mover, Sabotage, SetupError};
use super::space::{Space, Unseen};

/// How often a move is tried again when a program changes its mappings meanwhile.
const TRIES_MAX: usize = 8;

/// Why a buffer stays where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMovable {
    /// Not a buffer of a heap on memory that can be taken away.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// Something maps it that is not trapped.
    #[error("{0}")]
    Barred(String),
    /// A system call of a program is copying to or from it.
    #[error("thread {0} is in a system call that copies to or from it; try again")]
    InUse(i32),
    /// A device's fence on it has not signalled, or a device has its lock.
    #[error("a device is at work on it; try again")]
    Fenced,
    /// The heap's rules forbid it.
    #[error("{0}")]
    ByRule(String),
    /// A program changes its mappings faster than they can be looked at.
    #[error("a program keeps changing its mappings of it; try again")]
    Restless,
    /// It is purged or revoked.
    #[error("it has no memory any more: it was purged or revoked")]
    Dead,
    /// Its memory.
    #[error("{0}")]
    Failed(MoveError),
}

/// A buffer that can move.
#[derive(Debug)]
struct LiveBuffer {
    inode: Inode,
    store: Store,
    barred: Option<String>,
    dead: bool,
    /// How often pages of it were replaced or taken away.
    replaced: u64,
    /// The guardian's copy of the file.
    _ward: Option<KeptFile>,
}

impl LiveBuffer {
    fn bar(&mut self, why: &str, newly: &mut Vec<String>) {
        if self.barred.is_none() {
            self.barred = Some(why.to_owned());
            newly.push(why.to_owned());
        }
    }
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Runs of pages that have new memory.
    pub moves: u64,
    /// Pages of them.
    pub pages: u64,
    /// Moves that were refused.
    pub refused: u64,
    /// Pages that somebody made during a move, by a way that is not trapped.
    pub conflicts: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Engine {
    mover: Mover,
    buffers: BTreeMap<BufferId, LiveBuffer>,
    spaces: Vec<Space>,
    /// Why no buffer can move any more.
    all_barred: Option<String>,
    /// Why each buffer can't move that could until it was last asked.
    newly_barred: Vec<String>,
    /// Processes that may have children with mappings that are not trapped, and why.
    distrusted: BTreeMap<i32, String>,
    totals: Totals,
    guardian: Option<Guardian>,
    /// Names of the address spaces' userfaultfds towards the guardian, from the end down; buffers
    /// have their own ids.
    next_ward: u64,
}

impl Engine {
    /// An engine without buffers.
    ///
    /// # Errors
    /// [`SetupError`]: this machine can't move buffers.
    pub fn new(sabotage: Sabotage) -> Result<Self, SetupError> {
        Ok(Self {
            mover: Mover::new(sabotage)?,
            buffers: BTreeMap::new(),
            spaces: Vec::new(),
            all_barred: None,
            newly_barred: Vec::new(),
            distrusted: BTreeMap::new(),
            totals: Totals::default(),
            guardian: None,
            next_ward: u64::MAX,
        })
    }

    /// Starts a guardian, which completes a move if this process is killed.
    ///
    /// Call it from a process with one thread only, before there is a buffer.
    ///
    /// # Errors
    /// No process can be made.
    pub fn guard(&mut self) -> Result<(), crate::sys::guard::GuardError> {
        self.guardian = Some(Guardian::start(self.mover.scratch())?);
        Ok(())
    }

    /// What was done.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The mover.
    pub fn mover(&self) -> &Mover {
        &self.mover
    }

    /// Takes over the file of a new buffer. Nobody maps it yet.
    ///
    /// # Errors
    /// ENOMEM: there is not enough memory for the whole buffer, which is allocated now.
    pub fn adopt(
        &mut self,
        id: BufferId,
        inode: Inode,
        file: OwnedFd,
        size_bytes: u64,
    ) -> Result<(), StoreError> {
        let pages = usize::try_from(size_bytes).map_err(|_| StoreError::NoMemory)? / page_bytes();
        let store = self.mover.adopt(file, pages)?;
        let guardian = self.guardian.as_ref();
        let ward = guardian.map(|guardian| guardian.keep(id.0, pages, store.as_fd()));
        self.buffers.insert(
            id,
            LiveBuffer { inode, store, barred: None, dead: false, replaced: 0, _ward: ward },
        );
        Ok(())
    }

    /// Whether the engine has the buffer.
    pub fn holds(&self, id: BufferId) -> bool {
        self.buffers.contains_key(&id)
    }

    /// The buffers, oldest first, with their sizes in pages.
    pub fn buffers(&self) -> impl Iterator<Item = (BufferId, usize)> {
        self.buffers.iter().map(|(&id, held)| (id, held.store.pages()))
    }

    /// Forgets buffers that are gone.
    pub fn retain(&mut self, exists: impl Fn(BufferId) -> bool) {
        self.buffers.retain(|&id, _| exists(id));
    }

    /// Forgets address spaces in which nobody lives.
    pub fn prune(&mut self) {
        self.spaces.retain(Space::is_alive);
        self.distrusted.retain(|pid, _| std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    /// The address spaces.
    pub fn spaces(&self) -> &[Space] {
        &self.spaces
    }

    /// The address space of a process, if it has one with a userfaultfd.
    pub fn space_of(&mut self, pid: i32) -> Option<usize> {
        let known = self.spaces.iter().position(|space| space.is_home_of(pid));
        if let Some(index) = known {
            let buffers = &self.buffers;
            let ours = |area: &maps::Mapping| buffers.values().any(|held| held.inode == area.inode);
            if !self.spaces[index].is_alive() {
                self.spaces.remove(index);
            } else if self.spaces[index].still_has(pid, ours) {
                return Some(index);
            }
        }
        // It may live in its parent's, which vfork shares.
        let same = |other: i32| crate::sys::inject::share_memory(pid, other) == Some(true);
        let shares = |space: &Space| space.is_alive() && space.members().iter().any(|&m| same(m));
        let index = self.spaces.iter().position(shares)?;
        self.spaces[index].add(pid);
        Some(index)
    }

    /// As [`Engine::space_of`], for a process that may share its memory with one that has left since,
    /// and was never heard of: its mappings tell. Where they don't, what it maps can't move any more.
    pub fn space_of_stranger(&mut self, pid: i32) -> Option<usize> {
        if let Some(index) = self.space_of(pid) {
            return Some(index);
        }
        let inodes: Vec<Inode> = self.buffers.values().map(|held| held.inode).collect();
        let mut theirs = maps::files(pid)?;
        theirs.retain(|area| inodes.contains(&area.inode));
        let left = |space: &Space| space.is_alive() && space.is_left_to(&theirs);
        let mut found = (0..self.spaces.len()).filter(|&index| left(&self.spaces[index]));
        if let (Some(index), None) = (found.next(), found.next()) {
            self.spaces[index].add(pid);
            return Some(index);
        }
        let why = format!("process {pid} maps it, which was never seen to do so");
        theirs.iter().for_each(|area| self.bar_inode(area.inode, &why));
        None
    }

    /// Adds the address space of a process, whose userfaultfd this is.
    ///
    /// # Errors
    /// EINVAL: the kernel's userfaultfd is too old.
    pub fn add_space(
        &mut self,
        pid: i32,
        uffd: OwnedFd,
        traps_kernel: bool,
    ) -> Result<usize, rustix::io::Errno> {
        let mut space = Space::new(pid, uffd, traps_kernel)?;
        self.next_ward -= 1;
        let guardian = self.guardian.as_ref();
        space.ward =
            guardian.map(|guardian| guardian.keep(self.next_ward, 0, space.uffd().as_fd()));
        self.spaces.push(space);
        Ok(self.spaces.len() - 1)
    }

    /// An address for the next mapping of `len_bytes` in a space.
    pub fn place(&mut self, space: usize, len_bytes: u64) -> Option<u64> {
        self.spaces.get_mut(space)?.place(len_bytes)
    }

    /// The process is about to execute another program. It stays where it is until that is seen to
    /// have succeeded.
    pub fn may_leave(&mut self, pid: i32) {
        for space in &mut self.spaces {
            space.may_leave(pid);
        }
    }

    /// Looks at an address space whose mappings may have changed and traps what is new.
    pub fn scan(&mut self, index: usize) {
        let Some(space) = self.spaces.get_mut(index) else { return };
        let inodes: Vec<Inode> = self.buffers.values().map(|held| held.inode).collect();
        let before: Vec<Inode> = space.areas.iter().map(|area| area.inode).collect();
        let pid = space.somebody().unwrap_or(0);
        match space.scan(|area| inodes.contains(&area.inode)) {
            Ok(failed) => {
                for (area, error) in failed {
                    self.bar_inode(area.inode, &format!("process {pid} maps it, and {error}"));
                }
            }
            Err(Unseen::Gone) => drop(self.spaces.remove(index)),
            Err(Unseen::Hidden) => {
                let why = format!("process {pid} maps it, and its mappings can't be seen");
                before.into_iter().for_each(|inode| self.bar_inode(inode, &why));
            }
        }
    }

    /// Whether the mapping of a process at an address is trapped.
    pub fn traps(&self, pid: i32, addr: u64) -> bool {
        let holds = |area: &maps::Mapping| area.contains(addr);
        let home = self.spaces.iter().find(|space| space.is_home_of(pid));
        home.is_some_and(|space| space.areas.iter().any(holds))
    }

    /// From now on the buffer stays where it is.
    pub fn bar(&mut self, id: BufferId, why: &str) {
        if let Some(held) = self.buffers.get_mut(&id) {
            held.bar(why, &mut self.newly_barred);
        }
    }

    /// Why each buffer can't move that could until this was last asked.
    pub fn newly_barred(&mut self) -> Vec<String> {
        std::mem::take(&mut self.newly_barred)
    }

    /// From now on every buffer stays where it is: a process that can't be looked into may map any.
    pub fn bar_all(&mut self, why: &str) {
        self.all_barred.get_or_insert_with(|| why.to_owned());
    }

    fn bar_inode(&mut self, inode: Inode, why: &str) {
        let held = self.buffers.values_mut().find(|held| held.inode == inode);
        if let Some(held) = held {
            held.bar(why, &mut self.newly_barred);
        }
    }

    /// A process may have a child that nobody traps: what it maps, and will map, can't move.
    pub fn distrust(&mut self, pid: i32, why: &str) {
        if let Some(index) = self.space_of(pid) {
            let inodes: Vec<Inode> = self.spaces[index].areas.iter().map(|a| a.inode).collect();
            inodes.into_iter().for_each(|inode| self.bar_inode(inode, why));
        }
        self.distrusted.insert(pid, why.to_owned());
    }

    /// Why what this process maps can't move.
    pub fn distrusts(&self, pid: i32) -> Option<&str> {
        self.distrusted.get(&pid).map(String::as_str)
    }

    /// Why the buffer can't move; `None` if it can.
    pub fn immovable(&self, id: BufferId) -> Option<NotMovable> {
        match self.buffers.get(&id) {
            None => Some(NotMovable::Unsuitable(
                "its memory can't be taken away: it is memfd_secret (mmap=pfnmap) or the caller's \
                 own memfd (udmabuf)",
            )),
            Some(held) if held.dead => Some(NotMovable::Dead),
            Some(held) => {
                held.barred.clone().or_else(|| self.all_barred.clone()).map(NotMovable::Barred)
            }
        }
    }

    /// How often pages of a buffer were replaced or taken away: to tell whether they were between
    /// two looks.
    pub fn replaced(&self, id: BufferId) -> u64 {
        self.buffers.get(&id).map_or(0, |held| held.replaced)
    }

    fn count_replaced(&mut self, id: BufferId) {
        if let Some(held) = self.buffers.get_mut(&id) {
            held.replaced += 1;
        }
    }

    /// Ends a move that a panic has cut off: pages that are absent get what they held, and whoever
    /// sleeps on one goes on.
    pub fn recover(&mut self) {
        let unfinished = self.mover.unfinished();
        for (&id, held) in &mut self.buffers {
            let mappings = mappings(&self.spaces, held.inode);
            let absent = unfinished.filter(|unfinished| unfinished.buffer == id.0);
            if self.mover.recover(&held.store, &mappings, absent).is_err() {
                held.dead = true;
            }
        }
    }

    /// Gives `pages` pages from `first` new memory.
    ///
    /// # Errors
    /// [`NotMovable`]; nothing is lost.
    ///
    /// # Panics
    /// When the pages are not all in the buffer.
    pub fn relocate(
        &mut self,
        id: BufferId,
        first: usize,
        pages: usize,
    ) -> Result<Moved, NotMovable> {
        let moved = self.try_relocate(id, first, pages);
        match &moved {
            Ok(moved) => {
                self.count_replaced(id);
                self.totals.moves += 1;
                self.totals.pages += moved.pages;
                self.totals.conflicts += moved.conflicts;
            }
            Err(_) => self.totals.refused += 1,
        }
        moved
    }

    fn try_relocate(
        &mut self,
        id: BufferId,
        first: usize,
        pages: usize,
    ) -> Result<Moved, NotMovable> {
        for _ in 0..TRIES_MAX {
            if let Some(refusal) = self.immovable(id) {
                return Err(refusal);
            }
            let Some(held) = self.buffers.get(&id) else { return Err(NotMovable::Dead) };
            let mappings = mappings(&self.spaces, held.inode);
            match self.mover.relocate(id.0, &held.store, &mappings, first, pages) {
                Ok(moved) => return Ok(moved),
                Err(MoveError::Changed(at)) => {
                    let of = |space: &Space| Arc::ptr_eq(space.uffd(), &mappings[at].uffd);
                    if let Some(index) = self.spaces.iter().position(of) {
                        self.scan(index);
                    }
                }
                Err(error) => {
                    let lost = matches!(error, MoveError::Lost);
                    if let Some(held) = self.buffers.get_mut(&id).filter(|_| lost) {
                        held.dead = true;
                    }
                    return Err(NotMovable::Failed(error));
                }
            }
        }
        Err(NotMovable::Restless)
    }

    /// Takes a buffer's memory away for good: every access is SIGBUS, every system call's EFAULT.
    /// Needs no trap, so it works where a move is refused.
    ///
    /// # Errors
    /// [`NotMovable::Dead`], [`NotMovable::Unsuitable`], [`NotMovable::Failed`].
    pub fn kill(&mut self, id: BufferId) -> Result<(), NotMovable> {
        if let Some(refusal @ (NotMovable::Unsuitable(_) | NotMovable::Dead)) = self.immovable(id) {
            return Err(refusal);
        }
        let Some(held) = self.buffers.get_mut(&id) else { return Err(NotMovable::Dead) };
        held.store.truncate().map_err(|error| NotMovable::Failed(error.into()))?;
        held.dead = true;
        held.replaced += 1;
        // Who sleeps in a fault of it shall see.
        for mapping in mappings(&self.spaces, held.inode) {
            let range = crate::sys::page::Range::pages(mapping.start, mapping.pages);
            let _ = mapping.uffd.wake(range);
        }
        Ok(())
    }

    /// Where the buffer is mapped so that a call of the kernel's to there must not be under way in a
    /// move: in address spaces that trap user mode only, and for a call that pins its pages, in all.
    pub fn disturbed_by_a_move(&self, id: BufferId, pins: bool) -> Vec<std::ops::Range<u64>> {
        let Some(held) = self.buffers.get(&id) else { return Vec::new() };
        let spaces = self.spaces.iter().filter(|space| pins || !space.traps_kernel);
        let areas = spaces.flat_map(|space| &space.areas).filter(|a| a.inode == held.inode);
        areas.map(|area| area.start..area.end).collect()
    }
}

/// All mappings of a file.
fn mappings(spaces: &[Space], inode: Inode) -> Vec<Mapping> {
    let pages = |bytes: u64| usize::try_from(bytes).unwrap_or(0) / page_bytes();
    let of_space = |space: &Space| {
        let uffd = Arc::clone(space.uffd());
        let areas = space.areas.iter().filter(|area| area.inode == inode);
        let mapping = |area: &maps::Mapping| Mapping {
            uffd: Arc::clone(&uffd),
            start: Addr(area.start),
            first: pages(area.offset),
            pages: pages(area.len_bytes()),
        };
        areas.map(mapping).collect::<Vec<_>>()
    };
    spaces.iter().flat_map(of_space).collect()
}
