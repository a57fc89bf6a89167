//! Says so when a call has held up the one thread that serves all of them.
//!
//! It should never happen: what programs control is not waited for. gVisor's sentry has such a watchdog
//! for its own tasks. A thread looks a few times a second, and counts looks, not time: one in which the
//! whole process was stopped is one look.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::say;

/// Time between looks.
const LOOK: Duration = Duration::from_millis(250);

/// Looks at one call before it is told: a second.
const LOOKS_MAX: u32 = 4;

/// The turn of the hundredth call.
const HELD_UP_TURN: u64 = 199;

/// What is served now.
#[derive(Debug, Default)]
struct Served {
    /// Odd while a call is served; grows by one as it begins and as it ends.
    turn: AtomicU64,
    nr: AtomicI64,
    tid: AtomicI32,
}

/// The watched side.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    served: Arc<Served>,
    holds_up: Duration,
}

/// What the looking side remembers.
#[derive(Debug, Default)]
struct Seen {
    turn: u64,
    looks: u32,
}

impl Watchdog {
    /// Starts looking. Without a thread nobody looks, and nothing else is different.
    pub(super) fn start() -> Self {
        let this = Self::default();
        let served = Arc::downgrade(&this.served);
        let started =
            std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch(&served));
        drop(started);
        this
    }

    /// A call is served from now on.
    pub(super) fn begin(&self, tid: i32, nr: i64) {
        self.served.tid.store(tid, Ordering::Relaxed);
        self.served.nr.store(nr, Ordering::Relaxed);
        self.served.turn.fetch_add(1, Ordering::Release);
        if self.served.turn.load(Ordering::Relaxed) == HELD_UP_TURN {
            std::thread::sleep(self.holds_up);
        }
    }

    /// Holds up one of the calls, to show that it is seen.
    pub(super) fn hold_up(&mut self, time: Duration) {
        self.holds_up = time;
    }

    /// It has been.
    pub(super) fn end(&self) {
        self.served.turn.fetch_add(1, Ordering::Release);
    }
}

fn watch(served: &Weak<Served>) {
    let mut seen = Seen::default();
    loop {
        std::thread::sleep(LOOK);
        let Some(served) = served.upgrade() else { return };
        if seen.is_held_up(&served) {
            let (tid, nr) = (served.tid.load(Ordering::Relaxed), served.nr.load(Ordering::Relaxed));
            say!(
                "driftheap: system call {nr} of thread {tid} has held up everybody for a second, \
                 which is a bug of driftheap: please report it"
            );
        }
    }
}

impl Seen {
    /// Whether the call that is served has been so for [`LOOKS_MAX`] looks; said once.
    fn is_held_up(&mut self, served: &Served) -> bool {
        let turn = served.turn.load(Ordering::Acquire);
        if turn != self.turn || turn.is_multiple_of(2) {
            *self = Self { turn, looks: 0 };
            return false;
        }
        self.looks = self.looks.saturating_add(1);
        self.looks == LOOKS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_takes_long_is_told_once() {
        let watchdog = Watchdog::default();
        let mut seen = Seen::default();
        let look = |seen: &mut Seen| seen.is_held_up(&watchdog.served);
        assert!((0..10).all(|_| !look(&mut seen)), "nothing is served");
        for _ in 0..10 {
            watchdog.begin(1, 2);
            assert!(!look(&mut seen), "another one each time");
            watchdog.end();
        }
        watchdog.begin(1, 2);
        let told = (0..=LOOKS_MAX * 3).filter(|_| look(&mut seen)).count();
        assert_eq!(told, 1);
        watchdog.end();
        assert!(!look(&mut seen));
    }
}
