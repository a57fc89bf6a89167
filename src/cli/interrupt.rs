//! Ctrl-C as a wish to see what there is.

use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::Context;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGINT and SIGTERM, and what else was asked for, held back for as long as this lives. The second one
/// acts as ever.
#[derive(Debug)]
pub(crate) struct Interrupt {
    signals: SigSet,
    came: SignalFd,
    /// Its number; 0 before one has come.
    signal: AtomicI32,
}

impl Interrupt {
    /// To be called before threads are started: they take over what is held back.
    pub(crate) fn hold_back() -> anyhow::Result<Self> {
        Self::hold_back_with(&[])
    }

    /// The same, with more signals that ask for an end.
    pub(crate) fn hold_back_with(more: &[Signal]) -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [&[Signal::SIGINT, Signal::SIGTERM], more].concat() {
            signals.add(signal);
        }
        let came = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("can't watch for Ctrl-C")?;
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)
            .context("can't hold Ctrl-C back")?;
        Ok(Self { signals, came, signal: AtomicI32::new(0) })
    }

    /// Whether one has come; the next one is then not held back in this thread.
    pub(crate) fn came(&self) -> bool {
        if self.signal.load(Ordering::Relaxed) == 0
            && let Ok(Some(signal)) = self.came.read_signal()
        {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(Signal::SIGINT as i32);
            self.signal.store(number, Ordering::Relaxed);
        }
        let has_come = self.signal.load(Ordering::Relaxed) != 0;
        if has_come {
            let _as_ever = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&self.signals), None);
        }
        has_come
    }

    /// Whether somebody wants the program to end (SIGTERM), not to see what there is.
    pub(crate) fn ends(&self) -> bool {
        self.signal.load(Ordering::Relaxed) == Signal::SIGTERM as i32
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        let _as_ever = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&self.signals), None);
    }
}
