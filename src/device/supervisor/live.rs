//! Moves under the running programs: orders from outside, chaos, and faults nobody else answers.
//!
//! The supervisor's one thread serves the programs' calls and makes the moves, so that no call that
//! is handed over is answered during a move, and no move begins during one.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, PollFd, PollFlags};

use super::{Supervisor, lock, now_ns};
use crate::device::live::mover::SetupError;
use crate::device::live::{Chaos, ChaosConfig, Deed, Engine, Refusal, Sabotage};
use crate::device::{Backing, BufferId, Device, Life, Object, Placement};
use crate::sys::page::{Addr, PAGE_BYTES, Range};
use crate::sys::uffd::{Event, FaultKind, Fill, Uffd};

/// Time between looks for buffers and processes that are gone.
const SWEEP_NS: u64 = 250_000_000;

/// Most deeds of chaos between two looks at the programs' calls.
const BURST_MAX: usize = 16;

/// Most answers to faults between two looks at the programs' calls.
const FAULTS_MAX: usize = 64;

/// What `--live` and `--chaos` ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveConfig {
    /// Deeds that nobody orders.
    pub chaos: Option<ChaosConfig>,
    /// A fault put in on purpose, for tests.
    pub sabotage: Sabotage,
}

/// Something to be done to a buffer.
#[derive(Debug)]
pub struct Order {
    deed: Deed,
    ino: u64,
    answer: Sender<Result<String, String>>,
}

/// Orders on their way to the supervisor's thread.
#[derive(Debug)]
pub struct Orders {
    wake: OwnedFd,
    queue: Vec<Order>,
}

impl Orders {
    /// Asks for a deed; the answer comes when it is done.
    pub fn give(&mut self, deed: Deed, ino: u64) -> Receiver<Result<String, String>> {
        let (answer, receiver) = channel();
        self.queue.push(Order { deed, ino, answer });
        // A counter that is not at its end can always be raised.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        receiver
    }
}

/// The supervisor's part of the live exporter.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) engine: Engine,
    /// Tells the calls that we make in a program from its own.
    pub(super) cookie: u32,
    /// A userfaultfd that traps the kernel was refused, so it is not asked for again.
    pub(super) user_mode_only: bool,
    chaos: Option<Chaos>,
    wake: OwnedFd,
    next_sweep_ns: u64,
}

impl Live {
    /// The live exporter, and the way for orders to reach it.
    pub(super) fn new(config: &LiveConfig) -> Result<(Self, Orders), SetupError> {
        let engine = Engine::new(config.sabotage)?;
        let setup = |errno| SetupError::Store(crate::sys::store::StoreError::Other(errno));
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags).map_err(setup)?;
        let orders = Orders {
            wake: wake.try_clone().map_err(|_| setup(rustix::io::Errno::MFILE))?,
            queue: Vec::new(),
        };
        let random = RandomState::new().build_hasher().finish();
        let cookie = u32::try_from(random >> 32).unwrap_or(0);
        let now = now_ns();
        let live = Self {
            engine,
            // Neither half of a pointer nor of a small negative number.
            cookie: (cookie | 0x8000_0000) & !1,
            user_mode_only: false,
            chaos: config.chaos.clone().map(|config| Chaos::new(config, now)),
            wake,
            next_sweep_ns: now + SWEEP_NS,
        };
        Ok((live, orders))
    }

    /// What the supervisor waits for on our behalf.
    pub(super) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let wake = std::iter::once(PollFd::new(&self.wake, PollFlags::IN));
        let spaces = self.engine.spaces().iter();
        wake.chain(
            spaces.map(|space| PollFd::from_borrowed_fd(space.uffd().as_fd(), PollFlags::IN)),
        )
    }

    /// How long it may wait.
    pub(super) fn next_ns(&self) -> u64 {
        let chaos = self.chaos.as_ref().filter(|_| self.engine.buffers().next().is_some());
        chaos.map_or(self.next_sweep_ns, |chaos| chaos.next_ns().min(self.next_sweep_ns))
    }

    fn take_wakes(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Answers faults outside of a move: of pages that a program took away itself, and messages
    /// whose sleeper a move has woken already.
    fn answer_faults(&self) {
        for space in self.engine.spaces() {
            for _ in 0..FAULTS_MAX {
                let Ok(Some(Event::Fault(fault))) = space.uffd().poll_event() else { break };
                let page = Addr(fault.addr.0 & !(PAGE_BYTES as u64 - 1));
                answer_fault(space.uffd(), page, fault.kind);
            }
        }
    }
}

/// Fills a page that is missing with zeros, lifts a protection that is left over.
fn answer_fault(uffd: &Uffd, page: Addr, kind: FaultKind) {
    let range = Range::pages(page, 1);
    // A page that is there already needs no more than the wake.
    match kind {
        FaultKind::Missing => drop(uffd.zeropage(range, Fill::Plain)),
        FaultKind::WriteProtect => drop(uffd.write_unprotect(range)),
        FaultKind::Minor => {}
    }
    let _ = uffd.wake(range);
}

impl Supervisor {
    /// Everything that is due: orders, chaos, faults, housekeeping.
    pub(super) fn tend_live(&mut self) {
        let Some(live) = &mut self.live else { return };
        live.answer_faults();
        live.take_wakes();
        let orders =
            lock(&self.shared).orders.as_mut().map(|orders| std::mem::take(&mut orders.queue));
        for order in orders.unwrap_or_default() {
            let answer = self.obey(order.deed, order.ino);
            // Whoever asked may have lost patience.
            let _ = order.answer.send(answer);
        }
        self.sweep_live();
        self.make_chaos();
    }

    /// Releases what the programs have let go.
    fn sweep_live(&mut self) {
        let Some(live) = &mut self.live else { return };
        let now = now_ns();
        if now < live.next_sweep_ns {
            return;
        }
        live.next_sweep_ns = now + SWEEP_NS;
        live.engine.prune();
        if live.engine.buffers().next().is_some() {
            let shared = &mut *lock(&self.shared);
            shared.files.sweep(&mut shared.device);
            live.engine.retain(|id| shared.device.buffer(id).is_some());
        }
    }

    fn make_chaos(&mut self) {
        for _ in 0..BURST_MAX {
            let Some(live) = &mut self.live else { return };
            let Some(chaos) = &mut live.chaos else { return };
            if !chaos.is_due(now_ns()) {
                return;
            }
            let able = |id: &(BufferId, usize)| live.engine.immovable(id.0).is_none();
            let buffers: Vec<(BufferId, usize)> = live.engine.buffers().filter(able).collect();
            let sizes: Vec<usize> = buffers.iter().map(|&(_, pages)| pages).collect();
            let Some(choice) = chaos.choose(&sizes) else { return };
            let (id, _) = buffers[choice.buffer];
            // What is refused now is tried again by a later choice.
            let _ = self.act(choice.deed, id, choice.first, choice.pages);
        }
    }

    fn obey(&mut self, deed: Deed, ino: u64) -> Result<String, String> {
        let id = {
            let shared = lock(&self.shared);
            let mut buffers = shared.device.buffers();
            let found = buffers.find(|(_, buffer)| buffer.inode.ino == ino);
            found.map(|(id, buffer)| {
                (id, usize::try_from(buffer.size_bytes).unwrap_or(0) / PAGE_BYTES)
            })
        };
        let (id, pages) = id.ok_or("no buffer has this inode: see `driftheap ctl list`")?;
        let word = deed.word();
        match self.act(deed, id, 0, pages) {
            Ok(0) => Ok(format!("{word} {ino}: its pages are gone\n")),
            Ok(pages) => Ok(format!("{word} {ino}: {pages} pages have new memory\n")),
            Err(refusal) => Err(format!("can't {word} {ino}: {refusal}")),
        }
    }

    /// Does one deed; the number of pages that have new memory.
    fn act(
        &mut self,
        deed: Deed,
        id: BufferId,
        first: usize,
        pages: usize,
    ) -> Result<u64, Refusal> {
        let Some(live) = &mut self.live else {
            return Err(Refusal::Unsuitable("this device was started without --live"));
        };
        let (placement, life) = match deed {
            Deed::Move => (Some(Placement::Vram), Life::Live),
            Deed::Evict => (Some(Placement::System), Life::Live),
            Deed::Purge => (None, Life::Purged),
            Deed::Revoke => (None, Life::Revoked),
        };
        let result = match placement {
            Some(_) => live.engine.relocate(id, first, pages).map(|moved| moved.pages),
            None => live.engine.kill(id).map(|()| 0),
        };
        let mut shared = lock(&self.shared);
        shared.device.trace.at(self.main_pid, now_ns());
        let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        match (&result, placement) {
            (Ok(_), Some(placement)) => {
                shared.device.moved(id, placement, wide(first), wide(pages));
            }
            (Ok(_), None) => shared.device.killed(id, life),
            (Err(_), _) => shared.device.stats.moves_refused += 1,
        }
        drop(shared);
        if result.is_ok() {
            self.watch_moved(id, first, pages, life);
        }
        result
    }

    /// Gives a new buffer's file to the engine; the program's own file of it. `None` where the
    /// buffer is not one that can move.
    pub(super) fn create_live(
        &mut self,
        object: Object,
        id: BufferId,
    ) -> Option<Result<(OwnedFd, crate::device::Inode, Backing), rustix::io::Errno>> {
        let live = self.live.as_mut()?;
        let shared = &mut *lock(&self.shared);
        let buffer = shared.device.buffer(id)?;
        if buffer.backing != Backing::Memfd {
            return None;
        }
        let size_bytes = buffer.size_bytes;
        let created = shared.files.create_live_buffer(object, buffer);
        Some(created.and_then(|(file, whole, inode)| {
            live.engine
                .adopt(id, inode, whole, size_bytes)
                .map_err(|_| rustix::io::Errno::NOMEM)?;
            Ok((file, inode, Backing::Memfd))
        }))
    }
}

/// Gives the heaps that leave their `mmap` rule to us memory that can move; how many.
pub(super) fn make_movable(device: &mut Device) -> usize {
    let mut changed = 0;
    for heap in device.heaps_mut() {
        if !heap.mmap_given && heap.mmap.refuses_gup() {
            heap.mmap = crate::device::MmapKind::Shmem;
            changed += 1;
        }
    }
    changed
}
