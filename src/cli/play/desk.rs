//! How many questions there are at once, and how one is cut off.
//!
//! Lock order: `Desk::running` alone, never held while anything is waited for.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName};
use driftheap::explore::{Limits, Reduction, Stop};
use driftheap::question::verdict::Search;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions at once, of all clients.
pub(super) const RUNNING_MAX: usize = 4;

/// States of a variant.
const STATES_MAX: u32 = 200_000;

/// Memory of the search of a variant.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// Time of a question, all of its variants.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a question waits for others to end.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Longest name of a client that is looked at.
const CLIENT_BYTES_MAX: usize = 64;

/// Which page asks: a word that its script made up.
const CLIENT_HEADER: HeaderName = HeaderName::from_static("x-driftheap-client");

/// By client: the number of its question, and what cuts it off.
type Running = Arc<Mutex<BTreeMap<String, (u64, Arc<AtomicBool>)>>>;

/// Those who ask.
#[derive(Debug)]
pub(super) struct Desk {
    places: Arc<Semaphore>,
    /// Real memory is asked by one at a time: races need the processors.
    pub(super) real: Arc<Semaphore>,
    /// At most [`RUNNING_MAX`].
    running: Running,
    next: AtomicU64,
}

/// A question that is being answered; its place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    client: String,
    number: u64,
    stop: Arc<AtomicBool>,
    until: Instant,
    running: Running,
    _place: OwnedSemaphorePermit,
}

/// Cuts a question off when nobody waits for its answer any more.
#[derive(Debug)]
pub(super) struct Stopper(Arc<AtomicBool>);

impl Stopper {
    pub(super) fn new(ticket: &Ticket) -> Self {
        Self(Arc::clone(&ticket.stop))
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn client(headers: &HeaderMap) -> String {
    let name = headers.get(CLIENT_HEADER).and_then(|value| value.to_str().ok());
    name.unwrap_or_default().chars().take(CLIENT_BYTES_MAX).collect()
}

impl Desk {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(RUNNING_MAX)),
            real: Arc::new(Semaphore::new(1)),
            running: Arc::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Begins a question; the one that the same client asked before is cut off. None when there is
    /// no place for too long.
    pub(super) async fn begin(&self, headers: &HeaderMap) -> Option<Ticket> {
        self.cancel(headers);
        let place = self.place().await?;
        let client = client(headers);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, before)) = running.insert(client.clone(), (number, Arc::clone(&stop))) {
            before.store(true, Ordering::Relaxed);
        }
        drop(running);
        let until = Instant::now() + ANSWER_TIME_MAX;
        let running = Arc::clone(&self.running);
        Some(Ticket { client, number, stop, until, running, _place: place })
    }

    /// A place among those who ask. None when there is none for too long.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).acquire_owned();
        tokio::time::timeout(WAIT_MAX, place).await.ok()?.ok()
    }

    /// Cuts off what this client asked; false when it asked nothing.
    pub(super) fn cancel(&self, headers: &HeaderMap) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let stop = running.get(&client(headers)).map(|(_, stop)| stop);
        stop.is_some_and(|stop| !stop.swap(true, Ordering::Relaxed))
    }

    /// Cuts off all questions.
    pub(super) fn stop_all(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().for_each(|(_, stop)| stop.store(true, Ordering::Relaxed));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.get(&self.client).is_some_and(|(number, _)| *number == self.number) {
            running.remove(&self.client);
        }
    }
}

/// What a question may take.
#[derive(Debug, Clone)]
pub(super) struct Allowed {
    pub(super) stop: Arc<AtomicBool>,
    until: Instant,
}

impl Ticket {
    pub(super) fn limits(&self) -> Allowed {
        Allowed { stop: Arc::clone(&self.stop), until: self.until }
    }
}

impl Allowed {
    /// How far a variant is explored.
    pub(super) fn search() -> Search {
        let limits = Limits {
            states_max: STATES_MAX,
            memory_bytes_max: MEMORY_BYTES_MAX,
            ..Limits::default()
        };
        Search { limits, reduction: Reduction::Live, threads: 1, first: None }
    }

    /// Whether it was cut off by somebody.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The time that is left.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Whether to go on.
    pub(super) fn go_on(&self) -> ControlFlow<()> {
        if self.stopped() || Instant::now() >= self.until {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Why a variant has no answer, in words.
    pub(super) fn why(&self, stop: Stop) -> String {
        if stop != Stop::Asked {
            return stop.to_string();
        }
        if self.stopped() {
            return "it was cancelled".to_owned();
        }
        format!("a question has {} seconds here", ANSWER_TIME_MAX.as_secs())
    }
}
