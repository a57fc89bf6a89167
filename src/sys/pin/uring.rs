//! An io_uring registered buffer: a long-term pin with a pipe as its device.

#![allow(unsafe_code, reason = "registers memory with the kernel and queues requests for it")]
#![allow(clippy::missing_errors_doc, reason = "the errno is the answer; see each method")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::super::page::{Span, page_bytes};

/// A registered buffer and the two pipes that its transfers go through.
///
/// Inputs, in order:
/// [`register`](Self::register); then any number of [`start_to_memory`](Self::start_to_memory)
/// or [`start_from_memory`](Self::start_from_memory), each let go with [`feed`](Self::feed) or
/// [`release`](Self::release) and ended by [`complete`](Self::complete); then drop, which unpins.
pub struct UringPin {
    ring: IoUring,
    base: u64,
    len_bytes: usize,
    /// READ_FIXED reads here; whoever holds the write end is the device's data.
    source: (OwnedFd, OwnedFd),
    /// WRITE_FIXED writes here; its bytes are what the device saw.
    sink: (OwnedFd, OwnedFd),
    /// Bytes in the sink that hold a transfer back.
    plug_bytes: usize,
    in_flight: Option<Transfer>,
}

impl core::fmt::Debug for UringPin {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("UringPin")
            .field("base", &format_args!("{:#x}", self.base))
            .field("len_bytes", &self.len_bytes)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

/// The transfer that has been submitted.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    to_memory: bool,
    offset_bytes: usize,
    len_bytes: usize,
    done_bytes: usize,
}

impl UringPin {
    /// Pins the pages of a span (IORING_REGISTER_BUFFERS).
    ///
    /// EFAULT: get_user_pages refuses the mapping. ENOMEM: over RLIMIT_MEMLOCK. EPERM:
    /// kernel.io_uring_disabled, or a seccomp filter. EOPNOTSUPP: a file mapping that
    /// FOLL_LONGTERM refuses. ENOSYS: no io_uring. The span may be 1 MiB at most
    /// (fs.pipe-max-size), beyond that EPERM.
    pub fn register(span: Span<'_>) -> Result<Self, Errno> {
        let ring = IoUring::new(2).map_err(|error| errno_of(&error))?;
        let source = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let sink = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Our ends must not block. The ring's must be blocking: on a non-blocking file io_uring
        // answers EAGAIN instead of waiting (REQ_F_NOWAIT).
        for ours in [&source.1, &sink.0] {
            rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
        }
        let slots_bytes = span.len_bytes().next_power_of_two().max(page_bytes());
        rustix::pipe::fcntl_setpipe_size(&source.1, slots_bytes)?;
        rustix::pipe::fcntl_setpipe_size(&sink.1, slots_bytes)?;
        register(&ring, span)?;
        let (base, len_bytes) = (span.start().0, span.len_bytes());
        Ok(Self { ring, base, len_bytes, source, sink, plug_bytes: 0, in_flight: None })
    }

    /// Unpins, keeping ring and pipes for [`retarget`](Self::retarget): making a ring costs far
    /// more than a pin. EBUSY: a transfer is in flight.
    pub fn release_pages(&mut self) -> Result<(), Errno> {
        if self.in_flight.is_some() {
            return Err(Errno::BUSY);
        }
        self.len_bytes = 0;
        self.ring.submitter().unregister_buffers().map_err(|error| errno_of(&error))
    }

    /// Pins other pages, after [`release_pages`](Self::release_pages). Errors are those of
    /// [`register`](Self::register). The span may be no longer than the first one was.
    pub fn retarget(&mut self, span: Span<'_>) -> Result<(), Errno> {
        register(&self.ring, span)?;
        (self.base, self.len_bytes) = (span.start().0, span.len_bytes());
        Ok(())
    }

    /// Starts a device write to memory (READ_FIXED); it waits for [`feed`](Self::feed).
    ///
    /// EBUSY: a transfer is in flight.
    ///
    /// # Panics
    /// When the bytes are not all in the buffer.
    pub fn start_to_memory(&mut self, offset_bytes: usize, len_bytes: usize) -> Result<(), Errno> {
        self.start(Transfer { to_memory: true, offset_bytes, len_bytes, done_bytes: 0 })
    }

    /// Starts a device read from memory (WRITE_FIXED); it waits for [`release`](Self::release),
    /// because the sink is stuffed first. The bytes are taken from memory when it is let go.
    ///
    /// EBUSY: a transfer is in flight, or the last one's bytes were not [`taken`](Self::taken).
    ///
    /// # Panics
    /// When the bytes are not all in the buffer.
    pub fn start_from_memory(&mut self, offset_bytes: usize, len: usize) -> Result<(), Errno> {
        if self.in_flight.is_some() || rustix::io::ioctl_fionread(&self.sink.0)? > 0 {
            return Err(Errno::BUSY);
        }
        let size = rustix::pipe::fcntl_getpipe_size(&self.sink.1)?;
        let plug = vec![0; size];
        let mut stuffed = 0;
        while stuffed < plug.len() {
            stuffed += rustix::io::write(&self.sink.1, &plug[stuffed..])?;
        }
        self.plug_bytes = size;
        self.start(Transfer { to_memory: false, offset_bytes, len_bytes: len, done_bytes: 0 })
    }

    fn start(&mut self, transfer: Transfer) -> Result<(), Errno> {
        let end = transfer.offset_bytes.checked_add(transfer.len_bytes);
        assert!(end.is_some_and(|end| end <= self.len_bytes) && transfer.len_bytes > 0);
        if self.in_flight.is_some() {
            return Err(Errno::BUSY);
        }
        self.queue(transfer)?;
        self.in_flight = Some(transfer);
        Ok(())
    }

    fn queue(&mut self, transfer: Transfer) -> Result<(), Errno> {
        let at = self.base + (transfer.offset_bytes + transfer.done_bytes) as u64;
        let len =
            u32::try_from(transfer.len_bytes - transfer.done_bytes).map_err(|_| Errno::INVAL)?;
        let entry: squeue::Entry = if transfer.to_memory {
            let pipe = types::Fd(self.source.0.as_raw_fd());
            opcode::ReadFixed::new(pipe, at as *mut u8, len, 0).offset(u64::MAX).build()
        } else {
            let pipe = types::Fd(self.sink.1.as_raw_fd());
            opcode::WriteFixed::new(pipe, at as *const u8, len, 0).offset(u64::MAX).build()
        };
        // SAFETY: the kernel reads and writes the registered pages, which it has pinned, and the
        // pipe fds live as long as the ring.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| Errno::BUSY)?;
        self.ring.submit().map_err(|error| errno_of(&error))?;
        Ok(())
    }

    /// Gives the device the bytes that it writes to memory.
    ///
    /// EAGAIN: the pipe, which holds at least one buffer's worth, is full.
    pub fn feed(&self, bytes: &[u8]) -> Result<(), Errno> {
        let mut written = 0;
        while written < bytes.len() {
            written += rustix::io::write(&self.source.1, &bytes[written..])?;
        }
        Ok(())
    }

    /// Lets a transfer from memory go: takes away what holds it back.
    pub fn release(&mut self) -> Result<(), Errno> {
        let mut plug = vec![0; self.plug_bytes];
        while self.plug_bytes > 0 {
            self.plug_bytes -= rustix::io::read(&self.sink.0, &mut plug[..self.plug_bytes])?;
        }
        Ok(())
    }

    /// Waits for the transfer's end and returns its bytes' count, or the device's errno.
    ///
    /// ETIME: still in flight. EINVAL: none was started.
    pub fn complete(&mut self, timeout: Duration) -> Result<usize, Errno> {
        let Some(mut transfer) = self.in_flight else {
            return Err(Errno::INVAL);
        };
        while transfer.done_bytes < transfer.len_bytes {
            let result = self.wait_one(timeout)?;
            match usize::try_from(result) {
                Ok(0) => break,
                Ok(count) => transfer.done_bytes += count,
                Err(_) => {
                    self.in_flight = None;
                    return Err(Errno::from_raw_os_error(-result));
                }
            }
            if transfer.done_bytes < transfer.len_bytes {
                self.in_flight = Some(transfer);
                self.queue(transfer)?;
            }
        }
        self.in_flight = None;
        Ok(transfer.done_bytes)
    }

    /// Reads what the device took from memory, after [`complete`](Self::complete).
    ///
    /// EAGAIN: it took fewer bytes.
    pub fn taken(&self, into: &mut [u8]) -> Result<(), Errno> {
        let mut filled = 0;
        while filled < into.len() {
            filled += rustix::io::read(&self.sink.0, &mut into[filled..])?;
        }
        Ok(())
    }

    /// Whether a transfer was started and has not been completed.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    fn wait_one(&mut self, timeout: Duration) -> Result<i32, Errno> {
        let timespec = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&timespec);
        loop {
            if let Some(entry) = self.ring.completion().next() {
                return Ok(entry.result());
            }
            match self.ring.submitter().submit_with_args(1, &args).map_err(|e| errno_of(&e)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Unpins (IORING_UNREGISTER_BUFFERS) before the ring goes. Dropping does the same later: the
    /// kernel frees a closed ring asynchronously, so who must know that the pin is gone calls
    /// this. EBUSY: a transfer is in flight.
    pub fn unregister(self) -> Result<(), Errno> {
        if self.in_flight.is_some() {
            return Err(Errno::BUSY);
        }
        self.ring.submitter().unregister_buffers().map_err(|error| errno_of(&error))
    }
}

fn register(ring: &IoUring, span: Span<'_>) -> Result<(), Errno> {
    let base = span.start().0;
    let buffer = libc::iovec { iov_base: base as *mut _, iov_len: span.len_bytes() };
    // SAFETY: the range is a window's, which holds no Rust object; the kernel pins the pages,
    // so a transfer reaches them and nothing else even after the window is gone.
    unsafe { ring.submitter().register_buffers(&[buffer]) }.map_err(|error| errno_of(&error))
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
