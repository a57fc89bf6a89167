//! Moves under the running programs: orders from outside, chaos, and faults nobody else answers.
//!
//! The supervisor's one thread serves the programs' calls and makes the moves, so that no call that
//! is handed over is answered during a move, and no move begins during one.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, PollFd, PollFlags};

use super::flights::{Aims, Flights};
use super::pending::Waiting;
use super::{Decision, Shared, Supervisor, held_up, lock, now_ns};
use crate::device::control::NotDone;
use crate::device::live::mover::SetupError;
use crate::device::live::operation::OperationError;
use crate::device::live::{Chaos, ChaosConfig, Engine, NotMovable, Sabotage};
use crate::device::{Backing, BufferId, Device, Object};
use crate::model::{MmapKind, Operation};
use crate::sys::notify::Call;
use crate::sys::page::{Addr, Range, page_bytes};
use crate::sys::uffd::{FaultKind, Fill, Uffd, UffdEvent};

/// Time between looks for buffers and processes that are gone.
const SWEEP_NS: u64 = 250_000_000;

/// Most operations of chaos between two looks at the programs' calls.
const BURST_MAX: usize = 16;

/// Time between two tries of an operation that waits for calls in flight.
const RETRY_NS: u64 = 100_000;

/// How long chaos waits for calls in flight, and how long an order does.
const CHAOS_PATIENCE_NS: u64 = 4_000_000;
const ORDER_PATIENCE_NS: u64 = 1_000_000_000;

/// Most answers to faults between two looks at the programs' calls.
const FAULTS_MAX: usize = 64;

/// What `--live` and `--chaos` ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveConfig {
    /// Operations that nobody orders.
    pub chaos: Option<ChaosConfig>,
    /// A fault put in on purpose, for tests.
    pub sabotage: Sabotage,
}

/// Something to be done to a buffer.
#[derive(Debug)]
pub struct Order {
    operation: Operation,
    ino: u64,
    answer: Sender<Result<String, NotDone>>,
}

/// Orders on their way to the supervisor's thread.
#[derive(Debug)]
pub struct Orders {
    wake: OwnedFd,
    queue: Vec<Order>,
}

impl Orders {
    /// Asks for an operation; the answer comes when it is done.
    pub fn give(&mut self, operation: Operation, ino: u64) -> Receiver<Result<String, NotDone>> {
        let (answer, receiver) = channel();
        self.queue.push(Order { operation, ino, answer });
        // A counter that is not at its end can always be raised.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        receiver
    }
}

/// An operation that waits for calls in flight.
#[derive(Debug)]
struct Wanted {
    operation: Operation,
    id: BufferId,
    first: usize,
    pages: usize,
    deadline_ns: u64,
    /// The order, and the inode that it named; none for chaos.
    order: Option<(Order, u64)>,
}

/// The supervisor's part of the live exporter.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) engine: Engine,
    /// Tells the calls that we make in a program from its own.
    pub(super) cookie: u32,
    /// A userfaultfd that traps the kernel was refused, so it is not asked for again.
    pub(super) user_mode_only: bool,
    /// Calls that may be copying to or from a buffer.
    flights: Flights,
    ignore_calls: bool,
    /// Some process shares its address space with another that is not one of its threads.
    pub(super) sharers: bool,
    /// What could not be done because of one.
    wanted: Option<Wanted>,
    /// Calls on the wanted buffer that are held back meanwhile.
    held: Vec<(Call, Aims)>,
    chaos: Option<Chaos>,
    wake: OwnedFd,
    next_sweep_ns: u64,
}

/// A number that tells calls which we make in a program from its own.
pub(super) fn new_cookie() -> u32 {
    let random = RandomState::new().build_hasher().finish();
    let cookie = u32::try_from(random >> 32).unwrap_or(0);
    // Neither half of a pointer nor of a small negative number.
    (cookie | 0x8000_0000) & !1
}

impl Live {
    /// The live exporter, and the way for orders to reach it.
    pub(super) fn new(config: &LiveConfig, cookie: u32) -> Result<(Self, Orders), SetupError> {
        let mut engine = Engine::new(config.sabotage)?;
        if !matches!(config.sabotage, Sabotage::DieUnguarded(_)) {
            engine.guard()?;
        }
        let setup = |errno| SetupError::Store(crate::sys::store::StoreError::Other(errno));
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags).map_err(setup)?;
        let orders = Orders {
            wake: wake.try_clone().map_err(|_| setup(rustix::io::Errno::MFILE))?,
            queue: Vec::new(),
        };
        let now = now_ns();
        let live = Self {
            engine,
            cookie,
            user_mode_only: false,
            flights: Flights::default(),
            ignore_calls: config.sabotage == Sabotage::IgnoreCalls,
            sharers: false,
            wanted: None,
            held: Vec::new(),
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
        if self.wanted.is_some() {
            return now_ns() + RETRY_NS;
        }
        let chaos = self.chaos.as_ref().filter(|_| self.engine.buffers().next().is_some());
        chaos.map_or(self.next_sweep_ns, |chaos| chaos.next_ns().min(self.next_sweep_ns))
    }

    /// A thread whose call may be copying to or from the buffer.
    fn busy(&mut self, id: BufferId) -> Option<i32> {
        if self.ignore_calls {
            return None;
        }
        let Self { engine, flights, .. } = self;
        flights.busy(|aims| concerns(engine, id, aims))
    }

    fn take_wakes(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Answers faults outside of a move: of pages that a program took away itself, and messages
    /// whose sleeper a move has woken already.
    fn answer_faults(&self) {
        for space in self.engine.spaces() {
            for _ in 0..FAULTS_MAX {
                let Ok(Some(UffdEvent::Fault(fault))) = space.uffd().poll_event() else { break };
                let page = Addr(fault.addr.0 & !(page_bytes() as u64 - 1));
                answer_fault(space.uffd(), page, fault.kind);
            }
        }
    }
}

/// Whether a call may copy to or from the buffer in a way that a move would disturb.
fn concerns(engine: &Engine, id: BufferId, aims: &Aims) -> bool {
    if aims.addrs.is_empty() {
        return false;
    }
    let ranges = engine.disturbed_by_a_move(id, aims.pins);
    aims.addrs.iter().any(|addr| ranges.iter().any(|range| range.contains(addr)))
}

/// Answers an order. Whoever gave it may have lost patience.
fn reply(order: &Order, ino: u64, result: Result<u64, NotMovable>) {
    let word = order.operation.word();
    let answer = match result {
        Ok(0) => Ok(format!("{word} {ino}: its pages are gone\n")),
        Ok(pages) => Ok(format!("{word} {ino}: {pages} pages have new memory\n")),
        Err(refusal) => Err(NotDone::refused(format!("can't {word} {ino}: {refusal}"))),
    };
    drop(order.answer.send(answer));
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
    pub(super) fn work_on_live(&mut self) {
        if super::net::caught(|| self.work_now()).is_none() {
            self.gave_up("buffers were moved");
        }
    }

    fn work_now(&mut self) {
        let Some(live) = &mut self.live else { return };
        live.answer_faults();
        live.take_wakes();
        let orders =
            lock(&self.shared).orders.as_mut().map(|orders| std::mem::take(&mut orders.queue));
        self.retry_wanted();
        for order in orders.unwrap_or_default() {
            self.carry_out(order);
        }
        self.sweep_live();
        self.run_chaos();
        self.tell_barred();
    }

    /// Counts the buffers that can't move any more; the first reason is told.
    fn tell_barred(&mut self) {
        let Some(live) = &mut self.live else { return };
        let reasons = live.engine.newly_barred();
        let Some(first) = reasons.first() else { return };
        let stats = &mut lock(&self.shared).device.stats;
        let is_first = stats.barred == 0;
        stats.barred += reasons.len() as u64;
        if is_first && !self.quiet {
            super::say!(
                "driftheap: a buffer stays where it is: {first}; others may, too \
                 (`driftheap ctl move INO` says why)"
            );
        }
    }

    /// A call that arrives: its thread's last one is over.
    pub(super) fn call_arrives(&mut self, call: &Call) {
        if let Some(live) = &mut self.live {
            live.flights.landed(call.tid);
        }
    }

    /// Lets a call go, at once or when the move that waits for its buffer is done.
    pub(super) fn let_go(&mut self, call: Call) {
        let Some(call) = self.check_call(call) else { return };
        let Some(live) = &mut self.live else {
            drop(self.listener.resume(call.id));
            return;
        };
        let aims = super::flights::aims(&call);
        if let Some(access) = held_up::take() {
            self.send(call, Decision::Later(Waiting::Memory(access)));
            return;
        }
        if let Some(wanted) = &live.wanted
            && concerns(&live.engine, wanted.id, &aims)
        {
            live.held.push((call, aims));
            return;
        }
        live.flights.depart(call, aims);
        drop(self.listener.resume(call.id));
    }

    /// Tries what had to wait, and lets go what was held back for it.
    fn retry_wanted(&mut self) {
        let Some(live) = &mut self.live else { return };
        let Some(wanted) = live.wanted.take() else { return };
        let result = self.act(wanted.operation, wanted.id, wanted.first, wanted.pages);
        let Some(live) = &mut self.live else { return };
        if matches!(result, Err(NotMovable::InUse(_) | NotMovable::Fenced))
            && now_ns() < wanted.deadline_ns
        {
            live.wanted = Some(wanted);
            return;
        }
        for (call, aims) in std::mem::take(&mut live.held) {
            live.flights.depart(call, aims);
            drop(self.listener.resume(call.id));
        }
        if let Some((order, ino)) = wanted.order {
            reply(&order, ino, result);
        }
    }

    /// Carries out an operation, now or as soon as no call is in its way.
    fn attempt(
        &mut self,
        operation: Operation,
        id: BufferId,
        first: usize,
        pages: usize,
        order: Option<(Order, u64)>,
    ) {
        let result = self.act(operation, id, first, pages);
        let Some(live) = &mut self.live else { return };
        if matches!(result, Err(NotMovable::InUse(_) | NotMovable::Fenced)) && live.wanted.is_none()
        {
            let patience = if order.is_some() { ORDER_PATIENCE_NS } else { CHAOS_PATIENCE_NS };
            let deadline_ns = now_ns() + patience;
            live.wanted = Some(Wanted { operation, id, first, pages, deadline_ns, order });
            return;
        }
        if let Some((order, ino)) = order {
            reply(&order, ino, result);
        }
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
        live.flights.prune();
        self.callers.prune();
        if live.engine.buffers().next().is_some() {
            let shared = &mut *lock(&self.shared);
            shared.files.sweep(&mut shared.device);
            live.engine.retain(|id| shared.device.buffer(id).is_some());
            let Shared { device, program_bus, .. } = shared;
            if let Some(bus) = program_bus {
                bus.retain(device);
            }
        }
    }

    fn run_chaos(&mut self) {
        for _ in 0..BURST_MAX {
            let Some(live) = &mut self.live else { return };
            let Some(chaos) = &mut live.chaos else { return };
            if live.wanted.is_some() || !chaos.is_due(now_ns()) {
                return;
            }
            let able = |id: &(BufferId, usize)| live.engine.immovable(id.0).is_none();
            let buffers: Vec<(BufferId, usize)> = live.engine.buffers().filter(able).collect();
            let sizes: Vec<usize> = buffers.iter().map(|&(_, pages)| pages).collect();
            let Some(choice) = chaos.choose(&sizes) else { return };
            let (id, _) = buffers[choice.buffer];
            // What is refused now is tried again by a later choice.
            self.attempt(choice.operation, id, choice.first, choice.pages, None);
        }
    }

    fn carry_out(&mut self, order: Order) {
        let (operation, ino) = (order.operation, order.ino);
        let id = {
            let shared = lock(&self.shared);
            let mut buffers = shared.device.buffers();
            let found = buffers.find(|(_, buffer)| buffer.inode.ino == ino);
            found.map(|(id, buffer)| {
                (id, usize::try_from(buffer.size_bytes).unwrap_or(0) / page_bytes())
            })
        };
        match id {
            Some((id, pages)) => self.attempt(operation, id, 0, pages, Some((order, ino))),
            None => drop(order.answer.send(Err(NotDone::Unknown))),
        }
    }

    /// Carries out one operation; the number of pages that have new memory.
    fn act(
        &mut self,
        operation: Operation,
        id: BufferId,
        first: usize,
        pages: usize,
    ) -> Result<u64, NotMovable> {
        let Some(live) = &mut self.live else {
            return Err(NotMovable::Unsuitable("this device was started without --live"));
        };
        let placement = operation.placement();
        // What is gone has nothing that a call could copy.
        let is_dead = matches!(live.engine.immovable(id), Some(NotMovable::Dead));
        if let Some(tid) = placement.filter(|_| !is_dead).and_then(|_| live.busy(id)) {
            return Err(NotMovable::InUse(tid));
        }
        if lock(&self.shared).program_bus.is_some() {
            return self.act_by_rules(operation, id);
        }
        // Pins that have ended by now are none that the move leaves behind.
        let pins = self.living_pins(id, first, pages);
        let Some(live) = &mut self.live else { return Err(NotMovable::Dead) };
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
            (Ok(_), None) => shared.device.killed(id, operation.life_after()),
            (Err(_), _) => shared.device.stats.moves_refused += 1,
        }
        drop(shared);
        if result.is_ok() {
            self.watch_moved(id, pins, operation);
        }
        result
    }

    /// The same where devices are attached: by the heap's rules, and the whole buffer.
    fn act_by_rules(&mut self, operation: Operation, id: BufferId) -> Result<u64, NotMovable> {
        let Some(live) = &mut self.live else { return Err(NotMovable::Dead) };
        lock(&self.shared).device.trace.at(self.main_pid, now_ns());
        if let Some(
            refusal @ (NotMovable::Unsuitable(_) | NotMovable::Barred(_) | NotMovable::Dead),
        ) = live.engine.immovable(id)
            && matches!(operation, Operation::Move(_))
        {
            lock(&self.shared).device.stats.moves_refused += 1;
            return Err(refusal);
        }
        let pages = live.engine.buffers().find(|(held, _)| *held == id).map_or(0, |(_, n)| n);
        let pins = self.living_pins(id, 0, pages);
        let Some(live) = &mut self.live else { return Err(NotMovable::Dead) };
        let before = live.engine.replaced(id);
        let result = super::devices::work(&self.shared, &mut live.engine, operation, id);
        if lock(&self.shared).program_bus.as_ref().is_some_and(|bus| bus.bus.is_broken(id)) {
            live.engine.bar(id, "the heap's rules gave its memory back twice (kernel-bug)");
        }
        // An operation that fails may have moved it before it did, and one that succeeds need not.
        if live.engine.replaced(id) != before {
            self.watch_moved(id, pins, operation);
        }
        match result {
            Ok(_) if matches!(operation, Operation::Purge | Operation::Revoke) => Ok(0),
            Ok(done) => Ok(u64::try_from(done.pages).unwrap_or(u64::MAX)),
            Err(OperationError::FenceTimeout(_) | OperationError::LockTimeout(_)) => {
                Err(NotMovable::Fenced)
            }
            Err(error) => Err(NotMovable::ByRule(error.to_string())),
        }
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
        let Shared { device, program_bus, .. } = shared;
        Some(created.and_then(|(file, whole, inode)| {
            let bus = program_bus.as_mut();
            let alias = bus.is_some().then(|| whole.try_clone()).transpose();
            let alias = alias.map_err(|_| rustix::io::Errno::NFILE)?;
            live.engine
                .adopt(id, inode, whole, size_bytes)
                .map_err(|_| rustix::io::Errno::NOMEM)?;
            if let Some((bus, file)) = bus.zip(alias) {
                bus.adopt(device, id, file, size_bytes)?;
            }
            Ok((file, inode, Backing::Memfd))
        }))
    }
}

/// Gives the heaps that leave their `mmap` rule to us memory that can move; how many.
pub(super) fn make_movable(device: &mut Device) -> usize {
    let mut changed = 0;
    for heap in device.heaps_mut() {
        if !heap.given.contains(&"mmap") && heap.refuses_gup() {
            heap.rules.mmap = MmapKind::Shmem;
            changed += 1;
        }
    }
    changed
}
