//! The net under the supervisor: a panic of ours must not end the program that we serve.
//!
//! A thread that answers for others can't simply end: whoever waits for it would sleep for ever. So
//! a panic ends this process ([`abort_on_panic`]), and with it nobody is left waiting, except where
//! somebody has said what happens instead ([`caught`]).
//!
//! **Differs from Linux**: an oops in a driver kills the task that made the call.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// How many nets this thread has under it.
    static NETS: Cell<u32> = const { Cell::new(0) };
}

/// Makes every panic end this process, but one of a thread inside of [`caught`].
pub fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        if NETS.get() == 0 {
            std::process::abort();
        }
    }));
}

/// Does something; `None` if it panicked, which was printed. What it left half done is the caller's
/// to see to.
pub fn caught<R>(act: impl FnOnce() -> R) -> Option<R> {
    NETS.set(NETS.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(act)).ok();
    NETS.set(NETS.get() - 1);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_and_the_net_is_taken_away() {
        assert_eq!(caught(|| caught(|| panic!("on purpose")).is_none()), Some(true));
        assert_eq!(NETS.get(), 0);
        assert_eq!(caught(|| 5), Some(5));
    }
}
