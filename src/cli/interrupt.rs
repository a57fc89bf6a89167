//! Ctrl-C as a wish to see what there is.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGINT and SIGTERM, held back for as long as this lives. The second one acts as ever.
#[derive(Debug)]
pub(crate) struct Interrupt {
    signals: SigSet,
    came: SignalFd,
    has_come: AtomicBool,
}

impl Interrupt {
    /// To be called before threads are started: they take over what is held back.
    pub(crate) fn hold_back() -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        let came = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("can't watch for Ctrl-C")?;
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)
            .context("can't hold Ctrl-C back")?;
        Ok(Self { signals, came, has_come: AtomicBool::new(false) })
    }

    /// Whether one has come; the next one is then not held back in this thread.
    pub(crate) fn came(&self) -> bool {
        if !self.has_come.load(Ordering::Relaxed) && matches!(self.came.read_signal(), Ok(Some(_)))
        {
            self.has_come.store(true, Ordering::Relaxed);
        }
        let has_come = self.has_come.load(Ordering::Relaxed);
        if has_come {
            let _as_ever = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&self.signals), None);
        }
        has_come
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        let _as_ever = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&self.signals), None);
    }
}
