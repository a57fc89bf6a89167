//! A mailbox: one shared page in which a conductor and an actor exchange short messages fast.
//!
//! One request and one reply at a time. On one core a round trip is two futex wakes and two
//! switches; across cores each side spins a little first, because waking another core costs more
//! than the work. The conductor:
//! 1. [`Caller::post`] a request; 2. do what the request waits for, if it does (an actor's load may
//!    be asleep in a trapped fault that the conductor is to resolve); 3. [`Caller::collect`].
//!
//! The actor loops over [`Server::next`] and [`Server::answer`].
//!
//! Memory order: the sender writes body and length, then the sequence word (SeqCst); the receiver
//! reads the sequence word, then the body. A sleeper announces itself in a flag before it looks at
//! the sequence word for the last time, a sender looks at the flag after it has changed that word,
//! both SeqCst: one of them sees the other. A futex can't wait for a process to die, so sleeps are
//! cut into slices of [`SLICE`], after each of which the peer's pidfd is asked.

#![allow(unsafe_code, reason = "atomics in a page that another process maps")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::thread::futex;

use super::map::{MapError, Prot, Sharing, Window};
use super::page::{FrameIndex, Span, page_bytes};
use super::process::has_ended;
use super::touch::Touch;

/// The longest message.
pub const MESSAGE_MAX_BYTES: usize = 1024;

/// How long a peer's death can go unnoticed.
pub const SLICE: Duration = Duration::from_millis(20);

/// Byte offsets of a direction's half page: sequence, sleeper flag, length, body.
const HALF_BYTES: usize = 2048;
const SEQUENCE_AT: usize = 0;
const SLEEPER_AT: usize = 64;
const LENGTH_AT: usize = 128;
const BODY_AT: usize = 192;
const _: () = assert!(BODY_AT + MESSAGE_MAX_BYTES <= HALF_BYTES);

/// Why a message did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not in time. The request is still out: collect again, or end the actor.
    #[error("no answer in time: the actor is asleep in a fault, or hangs")]
    TimedOut,
    /// The peer has ended.
    #[error("the process at the other end has ended")]
    PeerDied,
    /// The peer wrote an impossible length.
    #[error("a message of impossible length: the shared page was overwritten")]
    Corrupt,
    /// The buffer is shorter than the message.
    #[error("the message has {0} bytes, more than its reader expects")]
    TooLong(usize),
}

/// Why there is no mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// The page could not be mapped.
    #[error("the mailbox can't be mapped: {0}")]
    Map(#[from] MapError),
    /// The fd is not a sealed page.
    #[error("not a mailbox: a memfd of one page, sealed against shrinking, was expected")]
    NotMailbox,
    /// Anything else.
    #[error("making a mailbox failed: {0}")]
    Other(Errno),
}

/// When to stop spinning and sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Both ends share a core: sleep at once.
    OneCore,
    /// The ends have a core each: look this often first (a look is a few ns).
    Across(u32),
}

/// A shared page before it becomes one end.
#[derive(Debug)]
pub struct Mailbox {
    fd: OwnedFd,
    window: Window,
}

impl Mailbox {
    /// Makes a mailbox. It is sealed, so that no end can make the other's accesses fault.
    ///
    /// # Errors
    /// [`MailboxError`].
    pub fn create() -> Result<Self, MailboxError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd =
            rustix::fs::memfd_create("driftheap-mailbox", flags).map_err(MailboxError::Other)?;
        rustix::fs::ftruncate(&fd, page_bytes() as u64).map_err(MailboxError::Other)?;
        rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, page_bytes() as u64)
            .map_err(MailboxError::Other)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).map_err(MailboxError::Other)?;
        Self::adopt(fd)
    }

    /// The other end's mailbox, from the fd that it was sent.
    ///
    /// # Errors
    /// [`MailboxError::NotMailbox`] when the page could vanish.
    pub fn adopt(fd: OwnedFd) -> Result<Self, MailboxError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| MailboxError::NotMailbox)?;
        let size = rustix::fs::fstat(&fd).map_err(MailboxError::Other)?.st_size;
        if !seals.contains(SealFlags::SHRINK) || size.unsigned_abs() < page_bytes() as u64 {
            return Err(MailboxError::NotMailbox);
        }
        let window = Window::reserve(1)?;
        window.map(0, &fd, FrameIndex(0), 1, Sharing::Shared, Prot::ReadWrite)?;
        Ok(Self { fd, window })
    }

    /// The conductor's end. `peer` is the actor's pidfd. A mailbox serves one pair of ends.
    #[must_use]
    pub fn into_caller(self, peer: OwnedFd, pace: Pace) -> Caller {
        Caller { end: End::new(self, peer, pace), outstanding: false }
    }

    /// The actor's end. `peer` is the conductor's pidfd.
    #[must_use]
    pub fn into_server(self, peer: OwnedFd, pace: Pace) -> Server {
        let mut end = End::new(self, peer, pace);
        // A request that was posted before this end existed must be seen by it.
        end.sequence[REQUEST] = end.sequence[REPLY];
        Server { end }
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The conductor's end.
#[derive(Debug)]
pub struct Caller {
    end: End,
    outstanding: bool,
}

impl Caller {
    /// Sends a request.
    ///
    /// # Panics
    /// When the last one was not collected, or on more than [`MESSAGE_MAX_BYTES`].
    pub fn post(&mut self, request: &[u8]) {
        assert!(!self.outstanding, "one request at a time");
        self.outstanding = true;
        self.end.send(REQUEST, request);
    }

    /// Waits for the reply to the request that was posted; returns its length.
    ///
    /// # Errors
    /// [`CallError::TimedOut`] leaves the request out: it may be collected later.
    ///
    /// # Panics
    /// When nothing was posted.
    pub fn collect(&mut self, into: &mut [u8], timeout: Duration) -> Result<usize, CallError> {
        assert!(self.outstanding, "nothing was posted");
        let length = self.end.receive(REPLY, into, timeout)?;
        self.outstanding = false;
        Ok(length)
    }

    /// Posts and collects.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(
        &mut self,
        request: &[u8],
        into: &mut [u8],
        timeout: Duration,
    ) -> Result<usize, CallError> {
        self.post(request);
        self.collect(into, timeout)
    }

    /// Whether a request is out.
    #[must_use]
    pub fn is_outstanding(&self) -> bool {
        self.outstanding
    }
}

/// The actor's end.
#[derive(Debug)]
pub struct Server {
    end: End,
}

impl Server {
    /// Waits for the next request; returns its length.
    ///
    /// # Errors
    /// [`CallError`]; on [`CallError::PeerDied`] the actor should exit.
    pub fn next(&mut self, into: &mut [u8], timeout: Duration) -> Result<usize, CallError> {
        self.end.receive(REQUEST, into, timeout)
    }

    /// Answers the request.
    ///
    /// # Panics
    /// On more than [`MESSAGE_MAX_BYTES`].
    pub fn answer(&mut self, reply: &[u8]) {
        self.end.send(REPLY, reply);
    }
}

/// Which half of the page a direction uses.
const REQUEST: usize = 0;
const REPLY: usize = 1;

#[derive(Debug)]
struct End {
    mailbox: Mailbox,
    peer: OwnedFd,
    pace: Pace,
    /// The last sequence number seen or sent in each direction.
    sequence: [u32; 2],
}

impl End {
    fn new(mailbox: Mailbox, peer: OwnedFd, pace: Pace) -> Self {
        let mut end = Self { mailbox, peer, pace, sequence: [0; 2] };
        end.sequence = [REQUEST, REPLY].map(|half| end.word(half, SEQUENCE_AT).load(SeqCst));
        end
    }

    fn send(&mut self, half: usize, bytes: &[u8]) {
        assert!(bytes.len() <= MESSAGE_MAX_BYTES, "a message of {} bytes", bytes.len());
        let body = self.half(half).part(BODY_AT, MESSAGE_MAX_BYTES).write(0, bytes);
        debug_assert_eq!(body, Touch::Value(()), "the page is sealed and allocated");
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.word(half, LENGTH_AT).store(length, SeqCst);
        self.sequence[half] = self.sequence[half].wrapping_add(1);
        let word = self.word(half, SEQUENCE_AT);
        word.store(self.sequence[half], SeqCst);
        if self.word(half, SLEEPER_AT).load(SeqCst) != 0 {
            // EFAULT and EINVAL alone can fail it, and the word is mapped and aligned.
            let woken = futex::wake(word, futex::Flags::empty(), 1);
            debug_assert!(woken.is_ok(), "futex wake: {woken:?}");
        }
    }

    fn receive(
        &mut self,
        half: usize,
        into: &mut [u8],
        timeout: Duration,
    ) -> Result<usize, CallError> {
        self.await_change(half, timeout)?;
        let length = self.word(half, LENGTH_AT).load(SeqCst) as usize;
        if length > MESSAGE_MAX_BYTES {
            return Err(CallError::Corrupt);
        }
        let Some(into) = into.get_mut(..length) else {
            return Err(CallError::TooLong(length));
        };
        match self.half(half).part(BODY_AT, MESSAGE_MAX_BYTES).read(0, into) {
            Touch::Value(()) => {}
            Touch::Sigbus { .. } | Touch::Sigsegv { .. } => return Err(CallError::Corrupt),
        }
        self.sequence[half] = self.word(half, SEQUENCE_AT).load(SeqCst);
        Ok(length)
    }

    fn await_change(&self, half: usize, timeout: Duration) -> Result<(), CallError> {
        let (word, seen) = (self.word(half, SEQUENCE_AT), self.sequence[half]);
        if let Pace::Across(looks) = self.pace {
            for _ in 0..looks {
                if word.load(SeqCst) != seen {
                    return Ok(());
                }
                core::hint::spin_loop();
            }
        }
        let sleeper = self.word(half, SLEEPER_AT);
        // The clock is not read before the first slice is over: a call takes a few us.
        let (mut started, mut left) = (None, timeout);
        loop {
            sleeper.store(1, SeqCst);
            let mut ended = Ok(());
            if word.load(SeqCst) == seen {
                ended = self.sleep(word, seen, left);
            }
            sleeper.store(0, SeqCst);
            if word.load(SeqCst) != seen {
                return Ok(());
            }
            ended?;
            let started = *started.get_or_insert_with(|| Instant::now() - left.min(SLICE));
            left = timeout.saturating_sub(started.elapsed());
        }
    }

    /// One slice of sleep, and what it means that it ended without a message.
    fn sleep(&self, word: &AtomicU32, seen: u32, left: Duration) -> Result<(), CallError> {
        if left.is_zero() {
            return Err(CallError::TimedOut);
        }
        // Both are short: the conversion can't fail, and no timeout would be a hang.
        let slice =
            rustix::event::Timespec::try_from(left.min(SLICE)).map_err(|_| CallError::TimedOut)?;
        match futex::wait(word, futex::Flags::empty(), seen, Some(&slice)) {
            Err(Errno::TIMEDOUT) if has_ended(self.peer.as_fd()) => Err(CallError::PeerDied),
            // EAGAIN: the word changed. EINTR, a spurious wake: look again.
            _ => Ok(()),
        }
    }

    fn half(&self, half: usize) -> Span<'_> {
        self.mailbox.window.span(0, 1).part(half * HALF_BYTES, HALF_BYTES)
    }

    fn word(&self, half: usize, offset_bytes: usize) -> &AtomicU32 {
        let address = self.half(half).at(offset_bytes, size_of::<AtomicU32>());
        // SAFETY: the address is aligned, stays mapped while self lives (the page is sealed
        // against shrinking), and both processes access this word atomically only.
        unsafe { AtomicU32::from_ptr(address as *mut u32) }
    }
}
