//! Expanding a block of the frontier, on one thread or several, with the same result.
//!
//! Two rounds for each part of a block, with everyone waiting for everyone after each:
//!
//! 1. *expand*: the part is cut into chunks; whoever is free takes the next chunk, expands its
//!    states and writes the successors into the chunk's outbox, one list per shard;
//! 2. *settle*: whoever is free takes the next shard and looks its successors up, chunk after
//!    chunk, so that of several ways to a new state the canonical one is first.
//!
//! Then the leader alone walks all edges in canonical order and appends them to the graph: a new
//! state takes its place where its first edge stands. Nothing depends on who did what or when.
//!
//! Locks are held for a whole chunk or shard and never contended: the rounds keep readers of the
//! shards (expand) and writers (settle) apart. Order, where one thread holds several: block, shard,
//! outbox, inbox.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, Scope, Thread};

use super::bfs::{Scratch, Space};
use super::graph::{Findings, Graph};
use super::ids::{StateId, Way};
use super::machine::{ActorNames, Machine, SAME_NAMES, actors_in};
use super::mail::{Mail, Source};
use super::store::SHARDS_MAX;

/// Pieces of a block for each thread, so that a thread that is held up holds up little.
const CHUNKS_PER_THREAD: usize = 4;
/// The smallest block that is worth waking another thread for: about a millisecond of work.
const PARALLEL_STATES_MIN: usize = 1 << 11;
/// States that are expanded in one round by several threads: enough to outweigh the waiting.
const SHARED_STATES: usize = 1 << 13;
/// The same by one thread: so few that their successors stay in the cache until they are settled.
const ALONE_STATES: usize = 1 << 9;
/// How often a waiting thread looks before it sleeps: some tens of microseconds, about what waking
/// it would take.
const LOOKS_MAX: u32 = 1000;

/// The rounds of a block, and the end.
const EXPAND: u32 = 0;
const SETTLE: u32 = 1;
const QUIT: u32 = 2;

/// As a power of two, the shards that suit a number of threads: one each. Parts of states are kept by
/// shard, so that more of them cost memory and time.
pub(super) fn shard_bits(threads: usize) -> u32 {
    if threads == 1 {
        return 0;
    }
    threads.next_power_of_two().min(SHARDS_MAX).ilog2()
}

/// The successors of one chunk, on their way to the shards.
#[derive(Default)]
struct Outbox {
    mail_by_shard: Vec<Mail>,
    /// The shard of each successor that is not known, in canonical order, and the actions on the way.
    shards: Vec<(u8, u8)>,
    /// The names that actors have there; empty where nobody has another.
    names: Vec<ActorNames>,
    /// By state of the chunk, the actors that were followed, and how it was reached itself.
    followed: Vec<(u16, Way)>,
}

/// What the threads of a crew share beside the [`Space`].
pub(super) struct Exchange<O> {
    threads: usize,
    block: RwLock<Vec<StateId>>,
    /// By chunk.
    outboxes: Vec<RwLock<Outbox>>,
    findings: Vec<Mutex<Findings<O>>>,
    /// By shard, the numbers of the successors it was sent, in canonical order.
    inboxes: Vec<Mutex<Vec<u32>>>,
    /// Which round this is: the round's number times four, plus what is done in it.
    round: AtomicU32,
    /// The next chunk or shard that nobody has taken.
    next: AtomicUsize,
    /// Hired threads that have not finished the round.
    busy: AtomicUsize,
    /// A thread has panicked and its part of the round is missing.
    is_broken: AtomicBool,
}

impl<O> Exchange<O> {
    pub(super) fn new<M: Machine<Outcome = O>>(space: &Space<'_, M>, threads: usize) -> Self {
        let chunks = threads * CHUNKS_PER_THREAD;
        let outbox = || {
            let mail_by_shard = space.shards.iter().map(|_| Mail::default()).collect();
            RwLock::new(Outbox { mail_by_shard, ..Outbox::default() })
        };
        Self {
            threads,
            block: RwLock::default(),
            outboxes: (0..chunks).map(|_| outbox()).collect(),
            findings: (0..chunks).map(|_| Mutex::default()).collect(),
            inboxes: space.shards.iter().map(|_| Mutex::default()).collect(),
            round: AtomicU32::new(0),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            is_broken: AtomicBool::new(false),
        }
    }

    /// Takes part in a round until no piece of it is left.
    fn work<M>(&self, task: u32, space: &Space<'_, M>, scratch: &mut Scratch<M::State>)
    where
        M: Machine<Outcome = O>,
    {
        let pieces = if task == EXPAND { self.outboxes.len() } else { self.inboxes.len() };
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return;
            }
            if task == EXPAND {
                self.expand_chunk(piece, space, scratch);
            } else {
                self.settle_shard(piece, space);
            }
        }
    }

    fn expand_chunk<M>(&self, chunk: usize, space: &Space<'_, M>, scratch: &mut Scratch<M::State>)
    where
        M: Machine<Outcome = O>,
    {
        let block = read(&self.block);
        let shards: Vec<_> = space.shards.iter().map(read).collect();
        let mut outbox = write(&self.outboxes[chunk]);
        let Outbox { mail_by_shard, shards: picks, names, followed } = &mut *outbox;
        mail_by_shard.iter_mut().for_each(Mail::clear);
        picks.clear();
        names.clear();
        followed.clear();
        let mut findings = lock(&self.findings[chunk]);
        findings.clear();
        let chunks = self.outboxes.len();
        let part = block.len() * chunk / chunks..block.len() * (chunk + 1) / chunks;
        let mut single = Mail::default();
        let mut source = Source::default();
        for &id in &block[part] {
            let own = id.shard(space.shard_bits) as usize;
            let shard = &shards[own];
            shard.read(id.local(space.shard_bits), &mut source);
            let way = shard.way(id.local(space.shard_bits));
            let actors =
                space.expand((id, &source, way), scratch, &mut findings, |_, successor| {
                    let Some(successor) = successor else { return ControlFlow::Continue(()) };
                    let encode =
                        |out: &mut _, ends: &mut _| space.encode(&successor, &source, out, ends);
                    let mut pick = 0;
                    if let [mail] = mail_by_shard.as_mut_slice() {
                        mail.push(successor.way, &source, encode);
                    } else {
                        single.clear();
                        let picks = single.push(successor.way, &source, encode);
                        [pick, ..] = (picks & ((1 << space.shard_bits) - 1)).to_le_bytes();
                        let mail = &mut mail_by_shard[usize::from(pick)];
                        if usize::from(pick) == own {
                            mail.append(&single);
                        } else {
                            mail.append_whole(&single, &source);
                        }
                    }
                    picks.push((pick, successor.steps));
                    if !space.classes.is_empty() {
                        names.push(successor.names);
                    }
                    ControlFlow::Continue(())
                });
            followed.push((actors, way));
        }
    }

    fn settle_shard<M>(&self, shard: usize, space: &Space<'_, M>)
    where
        M: Machine<Outcome = O>,
    {
        let mut states = write(&space.shards[shard]);
        let outboxes: Vec<_> = self.outboxes.iter().map(read).collect();
        let mut inbox = lock(&self.inboxes[shard]);
        inbox.clear();
        for outbox in outboxes {
            states.intern_all(&outbox.mail_by_shard[shard], &mut inbox);
        }
    }

    /// Appends what the block brought to the graph, in canonical order.
    fn merge(&self, graph: &mut Graph<O>)
    where
        O: Ord,
    {
        let inboxes: Vec<_> = self.inboxes.iter().map(lock).collect();
        let mut incoming: Vec<_> = inboxes.iter().map(|inbox| inbox.iter()).collect();
        for (outbox, findings) in self.outboxes.iter().zip(&self.findings) {
            let outbox = read(outbox);
            let mut shards = outbox.shards.iter();
            let mut names = outbox.names.iter();
            for &(followed, way) in &outbox.followed {
                let first_edge = graph.edges.len();
                for actor in actors_in(followed) {
                    if way.known >> actor & 1 != 0 {
                        graph.lead_as_known(way, actor);
                    } else {
                        let (shard, steps) = *shards.next().expect("a shard for every successor");
                        let local = incoming[usize::from(shard)].next();
                        let local = *local.expect("every successor sent to a shard was looked up");
                        let to = graph.reach(u32::from(shard), local);
                        graph.lead(to, steps, names.next().unwrap_or(&SAME_NAMES));
                    }
                }
                graph.follow(first_edge, followed);
            }
            graph.absorb(&mut lock(findings));
        }
    }
}

/// The calling thread, and the threads it hires once a block is large enough.
pub(super) struct Crew<'scope, 'env, M: Machine> {
    scope: &'scope Scope<'scope, 'env>,
    space: &'scope Space<'scope, M>,
    exchange: &'scope Exchange<M::Outcome>,
    hired: Vec<Thread>,
}

impl<'scope, 'env, M: Machine> Crew<'scope, 'env, M> {
    /// A crew of the calling thread alone.
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        space: &'scope Space<'scope, M>,
        exchange: &'scope Exchange<M::Outcome>,
    ) -> Self {
        Self { scope, space, exchange, hired: Vec::new() }
    }

    /// Starts the other threads; they sleep until there is a block to share.
    fn hire(&mut self) {
        let (space, exchange, leader) = (self.space, self.exchange, thread::current());
        let round = exchange.round.load(Ordering::Acquire);
        let hire = |_| {
            let leader = leader.clone();
            let work = move || serve(space, exchange, &leader, round);
            let thread = thread::Builder::new().spawn_scoped(self.scope, work).ok()?;
            Some(thread.thread().clone())
        };
        // Out of threads: those that there are do the work.
        self.hired = (1..exchange.threads).map_while(hire).collect();
    }

    /// Expands a block of the frontier, whose successors all have room.
    pub(super) fn expand(
        &mut self,
        scratch: &mut Scratch<M::State>,
        graph: &mut Graph<M::Outcome>,
        block: Range<usize>,
    ) {
        let is_shared = self.exchange.threads > 1 && block.len() >= PARALLEL_STATES_MIN;
        if is_shared && self.hired.is_empty() {
            self.hire();
        }
        let part_states = if is_shared { SHARED_STATES } else { ALONE_STATES };
        for start in block.clone().step_by(part_states) {
            {
                let mut shared = write(&self.exchange.block);
                shared.clear();
                shared.extend_from_slice(&graph.order[start..block.end.min(start + part_states)]);
            }
            for task in [EXPAND, SETTLE] {
                if is_shared {
                    self.begin(task);
                } else {
                    self.exchange.next.store(0, Ordering::Relaxed);
                }
                self.exchange.work(task, self.space, scratch);
                wait_until(|| self.exchange.busy.load(Ordering::Acquire) == 0);
                let is_broken = self.exchange.is_broken.load(Ordering::Acquire);
                assert!(!is_broken, "another thread of the search panicked; see its message above");
            }
            self.exchange.merge(graph);
        }
    }

    fn begin(&self, task: u32) {
        self.exchange.next.store(0, Ordering::Relaxed);
        self.exchange.busy.store(self.hired.len(), Ordering::Relaxed);
        let round = self.exchange.round.load(Ordering::Relaxed);
        self.exchange.round.store((round / 4).wrapping_add(1) << 2 | task, Ordering::Release);
        self.hired.iter().for_each(Thread::unpark);
    }
}

impl<M: Machine> Drop for Crew<'_, '_, M> {
    fn drop(&mut self) {
        self.begin(QUIT);
    }
}

/// What a hired thread does.
fn serve<M: Machine>(
    space: &Space<'_, M>,
    exchange: &Exchange<M::Outcome>,
    leader: &Thread,
    mut round: u32,
) {
    /// Reports the end of a thread's part of a round, be it by a panic.
    struct Done<'d>(&'d AtomicUsize, &'d AtomicBool, &'d Thread);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.1.fetch_or(thread::panicking(), Ordering::Release);
            if self.0.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.2.unpark();
            }
        }
    }

    let mut scratch = space.scratch();
    loop {
        wait_until(|| exchange.round.load(Ordering::Acquire) != round);
        round = exchange.round.load(Ordering::Acquire);
        let task = round & 3;
        if task == QUIT {
            return;
        }
        let _done = Done(&exchange.busy, &exchange.is_broken, leader);
        exchange.work(task, space, &mut scratch);
    }
}

/// Waits for another thread, which unparks this one once the condition holds.
fn wait_until(is_met: impl Fn() -> bool) {
    for _ in 0..LOOKS_MAX {
        if is_met() {
            return;
        }
        std::hint::spin_loop();
    }
    while !is_met() {
        thread::park();
    }
}

// A lock can only be poisoned by a panic that the round reports or that ends the search.

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
