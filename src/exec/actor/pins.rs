//! An actor's kernel pins, and the transfers through them.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::io::Errno;

use super::super::command::{CommandResult, PinHow};
use super::super::store::uniform;
use super::memory::Slots;
use crate::sys::map::Prot;
use crate::sys::page::{Span, page_bytes};
use crate::sys::pin::{UringPin, VmsplicePin};
use crate::sys::touch::Touch;

/// How long a transfer that has been let go may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

/// A pin that is held.
#[derive(Debug)]
enum HeldPin {
    Uring(Box<UringPin>),
    Splice(VmsplicePin),
}

/// All of them, by the conductor's numbers.
#[derive(Debug, Default)]
pub(super) struct Pins {
    held: BTreeMap<u8, HeldPin>,
    /// Unpinned while a transfer was in flight: the pin goes when that ends.
    leaving: Vec<u8>,
    /// Rings without pages, to use again.
    #[expect(clippy::vec_box, reason = "they move between here and `held` as they are")]
    idle: Vec<Box<UringPin>>,
}

impl Pins {
    /// Whether a buffer can be registered at all. No fd left is an error, not an answer.
    pub(super) fn probe(&mut self, span: Span<'_>) -> Result<bool, Errno> {
        match UringPin::register(span) {
            Ok(pin) => {
                let mut pin = Box::new(pin);
                let released = pin.release_pages().is_ok();
                self.idle.push(pin);
                Ok(released)
            }
            Err(errno @ (Errno::MFILE | Errno::NFILE)) => Err(errno),
            Err(_) => Ok(false),
        }
    }

    pub(super) fn pin(
        &mut self,
        memory: &mut Slots,
        pin: u8,
        slot: u16,
        how: PinHow,
    ) -> CommandResult {
        let taken = match how {
            PinHow::Uring => self.uring(memory.span(slot)).map(HeldPin::Uring),
            PinHow::Vmsplice => VmsplicePin::take(memory.span(slot)).map(HeldPin::Splice),
            PinHow::Force => self.forced(memory, slot).map(HeldPin::Uring),
        };
        match taken {
            Ok(held) => {
                // A pin that its driver takes anew: what it had goes first in the kernel, too.
                self.unpin(pin);
                self.held.insert(pin, held);
                CommandResult::Done
            }
            Err(errno) => refused(errno),
        }
    }

    fn uring(&mut self, span: Span<'_>) -> Result<Box<UringPin>, Errno> {
        let Some(mut ring) = self.idle.pop() else {
            return UringPin::register(span).map(Box::new);
        };
        match ring.retarget(span) {
            Ok(()) => Ok(ring),
            Err(errno) => {
                self.idle.push(ring);
                Err(errno)
            }
        }
    }

    /// Whether FOLL_FORCE may write there is asked of `/proc/self/mem`; what holds the page then is
    /// a registered buffer, for which the VMA has to look writable while it is registered.
    ///
    /// A slot without a mapping is a reservation (PROT_NONE), which FOLL_FORCE could write: what
    /// stands for a hole is asked without it.
    fn forced(&mut self, memory: &mut Slots, slot: u16) -> Result<Box<UringPin>, Errno> {
        if memory.is_empty(slot) {
            return match VmsplicePin::take(memory.span(slot)) {
                Ok(_) => Err(Errno::EXIST),
                Err(errno) => Err(errno),
            };
        }
        let byte = match memory.span(slot).load_u8(0) {
            Touch::Value(byte) => byte,
            // Not present, or not readable: the write below has to be refused.
            Touch::Sigbus { .. } | Touch::Sigsegv { .. } => 0,
        };
        memory.force(slot, byte).map_err(
            |errno| {
                if errno == Errno::IO { Errno::FAULT } else { errno }
            },
        )?;
        memory.protect(slot, Prot::ReadWrite)?;
        let taken = self.uring(memory.span(slot));
        memory.protect(slot, Prot::Read)?;
        taken
    }

    pub(super) fn unpin(&mut self, pin: u8) -> CommandResult {
        match self.held.remove(&pin) {
            Some(HeldPin::Uring(ring)) if ring.is_in_flight() => {
                self.held.insert(pin, HeldPin::Uring(ring));
                self.leaving.push(pin);
                CommandResult::Done
            }
            Some(HeldPin::Uring(mut ring)) => match ring.release_pages() {
                Ok(()) => {
                    self.idle.push(ring);
                    CommandResult::Done
                }
                Err(errno) => CommandResult::Failed(errno),
            },
            Some(HeldPin::Splice(_)) | None => CommandResult::Done,
        }
    }

    pub(super) fn start(&mut self, pin: u8, write: bool) -> CommandResult {
        let started = match self.held.get_mut(&pin) {
            Some(HeldPin::Uring(ring)) if write => ring.start_to_memory(0, page_bytes()),
            Some(HeldPin::Uring(ring)) => ring.start_from_memory(0, page_bytes()),
            Some(HeldPin::Splice(_)) if !write => Ok(()),
            Some(HeldPin::Splice(_)) => Err(Errno::NOTSUP),
            None => Err(Errno::BADF),
        };
        started.map_or_else(CommandResult::Failed, |()| CommandResult::Done)
    }

    pub(super) fn write(&mut self, pin: u8, value: u8) -> CommandResult {
        let done = match self.held.get_mut(&pin) {
            Some(HeldPin::Uring(ring)) => {
                ring.feed(&vec![value; page_bytes()]).and_then(|()| ring.complete(TRANSFER_TIMEOUT))
            }
            Some(HeldPin::Splice(_)) => Err(Errno::NOTSUP),
            None => Err(Errno::BADF),
        };
        self.leave(pin);
        match done {
            Ok(done) if done == page_bytes() => CommandResult::Done,
            Ok(_) => CommandResult::Failed(Errno::IO),
            Err(errno) => refused(errno),
        }
    }

    pub(super) fn read(&mut self, pin: u8) -> CommandResult {
        let mut bytes = vec![0; page_bytes()];
        let done = match self.held.get_mut(&pin) {
            Some(HeldPin::Uring(ring)) => ring
                .release()
                .and_then(|()| ring.complete(TRANSFER_TIMEOUT))
                .and_then(|_| ring.taken(&mut bytes)),
            Some(HeldPin::Splice(pipe)) => pipe.peek(&mut bytes),
            None => Err(Errno::BADF),
        };
        self.leave(pin);
        match done {
            Ok(()) => uniform(&bytes),
            Err(errno) => refused(errno),
        }
    }

    fn leave(&mut self, pin: u8) {
        if self.leaving.contains(&pin) {
            self.leaving.retain(|leaving| *leaving != pin);
            self.unpin(pin);
        }
    }

    /// In a forked child: the parent's pins are fds here, which are closed. The parent holds them.
    pub(super) fn leave_to_parent(&mut self) {
        self.held.clear();
        self.leaving.clear();
        self.idle.clear();
    }

    pub(super) fn reset(&mut self) {
        self.leaving.clear();
        for held in std::mem::take(&mut self.held).into_values() {
            if let HeldPin::Uring(mut ring) = held
                && ring.release_pages().is_ok()
            {
                self.idle.push(ring);
            }
            // A ring with a transfer in flight is closed, which cancels it.
        }
    }
}

/// What a litmus test may observe, apart from what it may not.
fn refused(errno: Errno) -> CommandResult {
    match errno {
        Errno::NOSYS | Errno::PERM | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::TIME => {
            CommandResult::Failed(errno)
        }
        other => CommandResult::Refused(other),
    }
}
