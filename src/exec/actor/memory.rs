//! An actor's address space: slots that are mapped, trapped and touched.
//!
//! A slot that is part of a VMA and has no entry must trap. Of a memfd's shared mapping it does so
//! with userfaultfd: the kernel answers a touch with SIGBUS (`UFFD_FEATURE_SIGBUS`) and the guarded
//! access returns that, so that no second thread is needed. Elsewhere (`memfd_secret`, private and
//! anonymous memory, no userfaultfd) the slot is not mapped until there is an entry, and a touch
//! is SIGSEGV.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::super::command::{ArenaPage, CommandResult};
use super::super::store::{ARENA_PAGES, ArenaFds, BEYOND_PAGE, PLACEMENTS, is_secret, look};
use crate::sys::map::{MapError, Prot, Sharing, Window};
use crate::sys::page::{FrameIndex, Range, Span};
use crate::sys::touch::Touch;
use crate::sys::uffd::{Features, Fill, FillError, Modes, OpenError, Uffd, Via};

/// Slots of an actor's window.
pub(in super::super) const SLOTS: u16 = 256;

/// What is in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// Reserved address space.
    Empty,
    /// A shared mapping of a page; `trapped` while userfaultfd watches it.
    Shared { place: ArenaPage, write: bool, trapped: bool },
    /// A private mapping of a page.
    Private { write: bool },
    /// Anonymous memory.
    Anon { write: bool },
    /// Every access that the VMA allows is SIGBUS; `poisoned` where userfaultfd makes it so.
    Sigbus { poisoned: bool },
}

/// The address space.
#[derive(Debug)]
pub(super) struct Slots {
    window: Window,
    slots: Vec<Slot>,
    uffd: Option<Uffd>,
    /// The device's view of memory: every arena page at its bus address.
    bus: Window,
    bus_mapped: Vec<u16>,
    /// This process's memory as a file: what FOLL_FORCE reaches.
    mem: Option<File>,
}

/// `?` for what an actor can't do.
type Tried<T> = Result<T, Errno>;

impl Slots {
    pub(super) fn reserve(traps: bool) -> Result<Self, Errno> {
        let arenas = 2 * usize::from(PLACEMENTS);
        Ok(Self {
            window: Window::reserve(usize::from(SLOTS)).map_err(|error| errno_of(&error))?,
            slots: vec![Slot::Empty; usize::from(SLOTS)],
            uffd: if traps { open_uffd()? } else { None },
            bus: Window::reserve(arenas * usize::from(ARENA_PAGES))
                .map_err(|error| errno_of(&error))?,
            bus_mapped: Vec::new(),
            mem: None,
        })
    }

    pub(super) fn has_uffd(&self) -> bool {
        self.uffd.is_some()
    }

    /// Runs a probe on an anonymous page.
    pub(super) fn with_scratch_page<T>(
        &self,
        probe: impl FnOnce(Span<'_>) -> T,
    ) -> Result<T, MapError> {
        self.window.map_anonymous(0, 1, Prot::ReadWrite)?;
        let found = probe(self.window.span(0, 1));
        self.window.unmap(0, 1)?;
        Ok(found)
    }

    /// Whether nothing is mapped in a slot.
    pub(super) fn is_empty(&self, slot: u16) -> bool {
        self.slots[usize::from(slot)] == Slot::Empty
    }

    /// The memory of a slot.
    pub(super) fn span(&self, slot: u16) -> Span<'_> {
        self.window.span(usize::from(slot), 1)
    }

    fn range(&self, slot: u16) -> Range {
        self.span(slot).range()
    }

    pub(super) fn arm(
        &mut self,
        arenas: &ArenaFds,
        slot: u16,
        place: ArenaPage,
        write: bool,
    ) -> CommandResult {
        answer(self.try_arm(arenas, slot, place, write))
    }

    fn try_arm(
        &mut self,
        arenas: &ArenaFds,
        slot: u16,
        place: ArenaPage,
        write: bool,
    ) -> Tried<()> {
        if self.uffd.is_none() || is_secret(place) {
            return self.clear(slot);
        }
        self.map_shared(arenas, slot, place, write)
    }

    /// Map a page, trapped where that is possible.
    fn map_shared(
        &mut self,
        arenas: &ArenaFds,
        slot: u16,
        place: ArenaPage,
        write: bool,
    ) -> Tried<()> {
        let prot = if write { Prot::ReadWrite } else { Prot::Read };
        let (at, frame) = (usize::from(slot), FrameIndex(u32::from(place.page)));
        self.window
            .map(at, arenas.get(place)?, frame, 1, Sharing::Shared, prot)
            .map_err(|error| errno_of(&error))?;
        let trapped = !is_secret(place) && self.register(slot)?;
        self.slots[at] = Slot::Shared { place, write, trapped };
        Ok(())
    }

    fn register(&self, slot: u16) -> Tried<bool> {
        let Some(uffd) = &self.uffd else { return Ok(false) };
        let modes = Modes::MISSING | Modes::MINOR;
        uffd.register(self.range(slot), modes).map_err(|_| Errno::INVAL)?;
        Ok(true)
    }

    pub(super) fn install(
        &mut self,
        arenas: &ArenaFds,
        slot: u16,
        place: ArenaPage,
        write: bool,
    ) -> CommandResult {
        answer(self.try_install(arenas, slot, place, write))
    }

    fn try_install(
        &mut self,
        arenas: &ArenaFds,
        slot: u16,
        place: ArenaPage,
        write: bool,
    ) -> Tried<()> {
        let there = matches!(self.slots[usize::from(slot)],
            Slot::Shared { place: at, write: may, .. } if at == place && may == write);
        if !there {
            self.map_shared(arenas, slot, place, write)?;
        }
        let Slot::Shared { trapped: true, .. } = self.slots[usize::from(slot)] else {
            return Ok(());
        };
        let Some(uffd) = &self.uffd else { return Ok(()) };
        match uffd.continue_(self.range(slot), Fill::Plain) {
            Ok(()) | Err(FillError::Present) => Ok(()),
            Err(FillError::NoPage) => Err(Errno::FAULT),
            Err(_) => Err(Errno::IO),
        }
    }

    pub(super) fn install_private(
        &mut self,
        arenas: &ArenaFds,
        slot: u16,
        place: ArenaPage,
        write: bool,
    ) -> CommandResult {
        let at = usize::from(slot);
        if matches!(self.slots[at], Slot::Private { .. }) {
            return CommandResult::Done;
        }
        let prot = if write { Prot::ReadWrite } else { Prot::Read };
        let frame = FrameIndex(u32::from(place.page));
        let mapped = arenas.get(place).and_then(|fd| {
            self.window
                .map(at, fd, frame, 1, Sharing::Private, prot)
                .map_err(|error| errno_of(&error))
        });
        self.slots[at] = if mapped.is_ok() { Slot::Private { write } } else { Slot::Empty };
        answer(mapped)
    }

    pub(super) fn install_anon(&mut self, slot: u16, write: bool) -> CommandResult {
        let at = usize::from(slot);
        if matches!(self.slots[at], Slot::Anon { .. }) {
            return CommandResult::Done;
        }
        let prot = if write { Prot::ReadWrite } else { Prot::Read };
        let mapped = self.window.map_anonymous(at, 1, prot).map_err(|error| errno_of(&error));
        self.slots[at] = if mapped.is_ok() { Slot::Anon { write } } else { Slot::Empty };
        answer(mapped)
    }

    pub(super) fn zap(&mut self, slot: u16) -> CommandResult {
        match self.slots[usize::from(slot)] {
            Slot::Shared { trapped: true, .. } => {
                let zapped = self.window.zap(usize::from(slot), 1);
                answer(zapped.map_err(|error| errno_of(&error)))
            }
            Slot::Shared { .. } | Slot::Private { .. } | Slot::Anon { .. } => {
                answer(self.clear(slot))
            }
            Slot::Empty | Slot::Sigbus { .. } => CommandResult::Done,
        }
    }

    pub(super) fn no_backing(
        &mut self,
        arenas: &ArenaFds,
        slot: u16,
        write: bool,
    ) -> CommandResult {
        let at = usize::from(slot);
        if let (Slot::Shared { trapped: true, .. }, Some(uffd)) = (self.slots[at], &self.uffd)
            && uffd.poison(self.range(slot)).is_ok()
        {
            self.slots[at] = Slot::Sigbus { poisoned: true };
            return CommandResult::Done;
        }
        // Before Linux 6.6, and for memory that can't be trapped: a page past the end of a file.
        let place = ArenaPage { arena: 0, page: BEYOND_PAGE };
        let prot = if write { Prot::ReadWrite } else { Prot::Read };
        let mapped = arenas.get(place).and_then(|fd| {
            let frame = FrameIndex(u32::from(place.page));
            self.window
                .map(at, fd, frame, 1, Sharing::Shared, prot)
                .map_err(|error| errno_of(&error))
        });
        self.slots[at] = Slot::Sigbus { poisoned: false };
        answer(mapped)
    }

    pub(super) fn unmap(&mut self, slot: u16) -> CommandResult {
        answer(self.clear(slot))
    }

    fn clear(&mut self, slot: u16) -> Tried<()> {
        let at = usize::from(slot);
        if self.slots[at] == Slot::Empty {
            return Ok(());
        }
        self.slots[at] = Slot::Empty;
        self.window.unmap(at, 1).map_err(|error| errno_of(&error))
    }

    pub(super) fn move_page(&mut self, from: u16, to: u16) -> CommandResult {
        answer(self.try_move(from, to))
    }

    fn try_move(&mut self, from: u16, to: u16) -> Tried<()> {
        let slot = self.slots[usize::from(from)];
        if slot == Slot::Empty {
            return self.clear(to);
        }
        self.window
            .move_pages(usize::from(from), usize::from(to), 1)
            .map_err(|error| errno_of(&error))?;
        self.slots[usize::from(to)] = slot;
        self.slots[usize::from(from)] = Slot::Empty;
        // mremap without UFFD_FEATURE_EVENT_REMAP leaves the trap behind; and where the kernel has
        // merged the moved VMA with a neighbour (copy_vma, mm/vma.c), takes the neighbour's, too.
        self.register_again()
    }

    fn register_again(&self) -> Tried<()> {
        for slot in 0..SLOTS {
            if matches!(self.slots[usize::from(slot)], Slot::Shared { trapped: true, .. }) {
                self.register(slot)?;
            }
        }
        Ok(())
    }

    /// mprotect(2), of what is mapped.
    pub(super) fn protect_all(&mut self, slot: u16, pages: u8, write: bool) -> CommandResult {
        answer(
            (slot..slot.saturating_add(pages.into()))
                .try_for_each(|at| self.try_protect(at, write)),
        )
    }

    fn try_protect(&mut self, slot: u16, may: bool) -> Tried<()> {
        match &mut self.slots[usize::from(slot)] {
            Slot::Shared { write, .. } | Slot::Private { write } | Slot::Anon { write } => {
                *write = may
            }
            // The right comes before the fault (access_error, arch/x86/mm/fault.c).
            Slot::Sigbus { .. } => {}
            Slot::Empty => return Ok(()),
        }
        let prot = if may { Prot::ReadWrite } else { Prot::Read };
        self.window.protect(usize::from(slot), 1, prot).map_err(|error| errno_of(&error))
    }

    pub(super) fn break_cow(&mut self, slot: u16) -> CommandResult {
        let span = self.span(slot);
        let byte = match span.load_u8(0) {
            Touch::Value(byte) => byte,
            fault @ (Touch::Sigbus { .. } | Touch::Sigsegv { .. }) => {
                return accessed(fault.map(|_| ()));
            }
        };
        match self.slots[usize::from(slot)] {
            Slot::Private { write: true } | Slot::Anon { write: true } => {
                accessed(span.store_u8(0, byte))
            }
            Slot::Private { .. } | Slot::Anon { .. } => answer(self.force(slot, byte)),
            Slot::Empty | Slot::Shared { .. } | Slot::Sigbus { .. } => {
                CommandResult::Failed(Errno::INVAL)
            }
        }
    }

    /// Writes a byte as FOLL_FORCE | FOLL_WRITE may: through `/proc/self/mem`
    /// (`mem_rw`, fs/proc/base.c). EIO is what it makes of `get_user_pages`' EFAULT.
    pub(super) fn force(&mut self, slot: u16, byte: u8) -> Tried<()> {
        let errno = |error: &std::io::Error| Errno::from_io_error(error).unwrap_or(Errno::IO);
        let address = self.span(slot).start().0;
        if self.mem.is_none() {
            let open = File::options().write(true).open("/proc/self/mem");
            self.mem = Some(open.map_err(|error| errno(&error))?);
        }
        let Some(mem) = &self.mem else { return Err(Errno::BADF) };
        mem.write_all_at(&[byte], address).map_err(|error| errno(&error))
    }

    /// Changes the protection of a private slot.
    pub(super) fn protect(&self, slot: u16, prot: Prot) -> Tried<()> {
        self.window.protect(usize::from(slot), 1, prot).map_err(|error| errno_of(&error))
    }

    pub(super) fn touch(&self, slot: u16, write: bool) -> CommandResult {
        let span = self.span(slot);
        // Adding nothing is a write access that leaves memory as it is.
        if write {
            accessed(span.fetch_add_u64(0, 0).map(|_| ()))
        } else {
            accessed(span.load_u8(0).map(|_| ()))
        }
    }

    pub(super) fn load(&self, slot: u16) -> CommandResult {
        look(self.span(slot))
    }

    pub(super) fn store(&self, slot: u16, value: u8) -> CommandResult {
        accessed(self.span(slot).fill(value))
    }

    fn bus_slot(place: ArenaPage) -> u16 {
        u16::from(place.arena) * ARENA_PAGES + place.page
    }

    pub(super) fn bus_map(&mut self, arenas: &ArenaFds, place: ArenaPage) -> CommandResult {
        let slot = Self::bus_slot(place);
        if self.bus_mapped.contains(&slot) {
            return CommandResult::Done;
        }
        let mapped = arenas.get(place).and_then(|fd| {
            let frame = FrameIndex(u32::from(place.page));
            self.bus
                .map(usize::from(slot), fd, frame, 1, Sharing::Shared, Prot::ReadWrite)
                .map_err(|error| errno_of(&error))
        });
        if mapped.is_ok() {
            self.bus_mapped.push(slot);
        }
        answer(mapped)
    }

    pub(super) fn bus_unmap(&mut self, place: ArenaPage) -> CommandResult {
        let slot = Self::bus_slot(place);
        self.bus_mapped.retain(|mapped| *mapped != slot);
        answer(self.bus.unmap(usize::from(slot), 1).map_err(|error| errno_of(&error)))
    }

    pub(super) fn bus_load(&self, place: ArenaPage) -> CommandResult {
        look(self.bus.span(usize::from(Self::bus_slot(place)), 1))
    }

    pub(super) fn bus_store(&self, place: ArenaPage, value: u8) -> CommandResult {
        accessed(self.bus.span(usize::from(Self::bus_slot(place)), 1).fill(value))
    }

    pub(super) fn witness(&mut self, arenas: &ArenaFds, place: ArenaPage) -> CommandResult {
        for step in [self.bus_unmap(place), self.bus_map(arenas, place)] {
            if step != CommandResult::Done {
                return step;
            }
        }
        self.bus_load(place)
    }

    /// In a forked child: userfaultfd and `/proc/self/mem` belong to the parent's memory.
    ///
    /// An inherited mapping is not trapped, and a touch of a missing page would read zeros and
    /// keep them: it is registered again before anything else runs.
    pub(super) fn after_fork(&mut self) -> Tried<()> {
        self.mem = None;
        if self.uffd.take().is_none() {
            return Ok(());
        }
        self.uffd = open_uffd()?;
        if self.uffd.is_none() {
            return Err(Errno::PERM);
        }
        self.register_again()?;
        self.poison_again()
    }

    /// Fork does not copy the entries of a shared file mapping, poison among them
    /// (`vma_needs_copy`, mm/memory.c).
    fn poison_again(&self) -> Tried<()> {
        for slot in 0..SLOTS {
            if self.slots[usize::from(slot)] == (Slot::Sigbus { poisoned: true }) {
                self.register(slot)?;
                let Some(uffd) = &self.uffd else { return Err(Errno::PERM) };
                uffd.poison(self.range(slot)).map_err(|_| Errno::IO)?;
            }
        }
        Ok(())
    }

    pub(super) fn reset(&mut self) -> CommandResult {
        let used = self.slots.iter().rposition(|slot| *slot != Slot::Empty);
        if let Some(last) = used {
            self.slots[..=last].fill(Slot::Empty);
            if let Err(error) = self.window.unmap(0, last + 1) {
                return CommandResult::Failed(errno_of(&error));
            }
        }
        if !self.bus_mapped.is_empty() {
            self.bus_mapped.clear();
            if let Err(error) = self.bus.unmap(0, self.bus.pages()) {
                return CommandResult::Failed(errno_of(&error));
            }
        }
        CommandResult::Done
    }
}

/// None where there is no such thing; no fd left is an error, not an answer.
fn open_uffd() -> Tried<Option<Uffd>> {
    let features = Features::SIGBUS | Features::MISSING_SHMEM | Features::MINOR_SHMEM;
    match Uffd::open(Via::UserModeOnly, features) {
        Ok(uffd) => Ok(Some(uffd)),
        Err(OpenError::NoFd) => Err(Errno::MFILE),
        Err(_) => Ok(None),
    }
}

fn answer(tried: Tried<()>) -> CommandResult {
    match tried {
        Ok(()) => CommandResult::Done,
        Err(errno) => CommandResult::Failed(errno),
    }
}

pub(super) fn accessed(access: Touch<()>) -> CommandResult {
    match access {
        Touch::Value(()) => CommandResult::Done,
        Touch::Sigbus { .. } => CommandResult::Sigbus,
        Touch::Sigsegv { .. } => CommandResult::Sigsegv,
    }
}

pub(super) fn errno_of(error: &MapError) -> Errno {
    match error {
        MapError::Denied => Errno::ACCESS,
        MapError::NoMemory => Errno::NOMEM,
        MapError::LockedMemory => Errno::AGAIN,
        MapError::Unmappable => Errno::INVAL,
        MapError::Other(errno) => *errno,
    }
}
