//! userfaultfd: the trap under a CPU mapping.
//!
//! A direct wrapper over the ioctls rather than the `userfaultfd` crate (0.9 was read): that
//! crate has no POISON and no write-protecting COPY or CONTINUE, loses the count of a partial
//! ZEROPAGE, opens `/dev/userfaultfd` first and fails where only the system call is allowed, and
//! its `-sys` crate needs libclang at build time. A `[patch]` avoids that in this repository, but
//! not for who installs the published crate, and is more code than the ioctls.
//!
//! The fd belongs to the address space that opened it, whoever holds it: an agent opens and sends
//! it, the conductor serves it. Addresses are therefore numbers ([`Range`]). The sequence:
//! 1. [`Uffd::open`] in the process whose memory is trapped (UFFD_USER_MODE_ONLY: any user may);
//! 2. [`Uffd::register`] a range in some [`Modes`];
//! 3. [`Uffd::wait`] for an [`UffdEvent`];
//! 4. resolve with [`copy`](Uffd::copy), [`zeropage`](Uffd::zeropage),
//!    [`continue_`](Uffd::continue_), [`poison`](Uffd::poison) or
//!    [`write_unprotect`](Uffd::write_unprotect), which wake the sleeper.
//!
//! Which fault a shmem page gives (`mm/userfaultfd.c`, `mm/shmem.c`): no page in the file:
//! MISSING; a page in the file and no PTE: MINOR; a PTE with the WP bit and a store: WP. A range
//! registered without a mode takes those faults as usual.
//!
//! **Mind:** when the last fd closes, sleepers wake and read zeros, silently: keep a second
//! holder. A message that was read and never resolved leaves its thread asleep; SIGKILL works.
//! A child made by fork, a second mapping of the same file and a mapping made over the range are
//! not trapped.
//!
//! **Differs from Linux:** it is Linux. An exporter's fault handler answers from inside the
//! fault; here the answer comes from another process, so a fault takes longer.

#![allow(unsafe_code, reason = "ioctl takes pointers")]
#![allow(clippy::missing_errors_doc, reason = "each error enum documents its causes once")]

mod bits;
mod error;
mod event;

pub use bits::{Features, Fill, Modes};
pub use error::{FillError, OpenError, ProtectError, ReadError, RegisterError};
pub use event::{Fault, FaultKind, UffdEvent};

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::map::last_errno;
use super::page::{Addr, Range, Span};
use crate::uapi::userfaultfd as uapi;

/// How to open a userfaultfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The system call with UFFD_USER_MODE_ONLY: the kernel's own accesses to a trapped page
    /// (read(2) into it, pinning it) fail with EFAULT instead of waiting.
    UserModeOnly,
    /// `/dev/userfaultfd`, whose fds trap the kernel's accesses too.
    Device,
}

/// A userfaultfd after its handshake; see the [module](self).
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
}

impl Uffd {
    /// Opens one for this process with exactly these features.
    pub fn open(via: Via, features: Features) -> Result<Self, OpenError> {
        let fd = open_raw(via)?;
        match handshake(&fd, features) {
            Ok(_) => Ok(Self { fd }),
            Err(Errno::PERM) => Err(OpenError::ForkEventDenied),
            Err(Errno::INVAL) => {
                let missing = features.difference(Self::supported(via)?);
                Err(OpenError::MissingFeatures { missing })
            }
            Err(errno) => Err(OpenError::Other(errno)),
        }
    }

    /// The features this kernel has. Asking takes an fd of its own: a handshake is made once.
    pub fn supported(via: Via) -> Result<Features, OpenError> {
        let fd = open_raw(via)?;
        handshake(&fd, Features::empty()).map_err(OpenError::Other)
    }

    /// Opens one for this process and leaves the handshake to whoever it is for.
    pub fn open_bare(via: Via) -> Result<OwnedFd, OpenError> {
        open_raw(via)
    }

    /// A userfaultfd that its process opened and that still needs its handshake.
    ///
    /// EINVAL: it was made already, or the kernel lacks a feature.
    pub fn adopt_raw(fd: OwnedFd, features: Features) -> Result<Self, Errno> {
        handshake(&fd, features)?;
        Ok(Self { fd })
    }

    /// A userfaultfd that its process opened and sent. It does not block from now on.
    ///
    /// EBADF: it is another kind of file, whose ioctls may do anything.
    pub fn adopt(fd: OwnedFd) -> Result<Self, Errno> {
        let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
        if link.as_bytes() != b"anon_inode:[userfaultfd]" {
            return Err(Errno::BADF);
        }
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// Traps a range.
    pub fn register(&self, range: Range, modes: Modes) -> Result<(), RegisterError> {
        let mut arg = uapi::uffdio_register { range: raw(range), mode: modes.bits(), ioctls: 0 };
        // SAFETY: UFFDIO_REGISTER takes a uffdio_register (sizes are asserted in uapi).
        unsafe { self.ioctl(uapi::UFFDIO_REGISTER, &mut arg) }.map_err(RegisterError::of)
    }

    /// Stops trapping a range; its sleepers wake and fault as usual.
    pub fn unregister(&self, range: Range) -> Result<(), RegisterError> {
        // SAFETY: UFFDIO_UNREGISTER takes a uffdio_range.
        unsafe { self.ioctl(uapi::UFFDIO_UNREGISTER, &mut raw(range)) }.map_err(RegisterError::of)
    }

    /// Fills a missing page with bytes of this process.
    pub fn copy(&self, to: Addr, from: &[u8], fill: Fill) -> Result<(), FillError> {
        self.copy_raw(to, from.as_ptr() as u64, from.len() as u64, fill)
    }

    /// Fills missing pages with the bytes of a span, which others may be writing.
    pub fn copy_span(&self, to: Addr, from: Span<'_>, fill: Fill) -> Result<(), FillError> {
        self.copy_raw(to, from.start().0, from.len_bytes() as u64, fill)
    }

    fn copy_raw(&self, to: Addr, from: u64, len: u64, fill: Fill) -> Result<(), FillError> {
        let mut arg = uapi::uffdio_copy { dst: to.0, src: from, len, mode: fill.mode(), copy: 0 };
        // SAFETY: UFFDIO_COPY takes a uffdio_copy; the kernel reads the source, no more.
        let result = unsafe { self.ioctl(uapi::UFFDIO_COPY, &mut arg) };
        filled(result, arg.copy)
    }

    /// Fills missing pages with zeros; on shmem this allocates them in the file.
    pub fn zeropage(&self, range: Range, fill: Fill) -> Result<(), FillError> {
        let mut arg = uapi::uffdio_zeropage { range: raw(range), mode: fill.mode(), zeropage: 0 };
        // SAFETY: UFFDIO_ZEROPAGE takes a uffdio_zeropage.
        let result = unsafe { self.ioctl(uapi::UFFDIO_ZEROPAGE, &mut arg) };
        filled(result, arg.zeropage)
    }

    /// Installs PTEs of the pages that the file has: the answer to a MINOR fault, and the way to
    /// map pages ahead of any fault.
    pub fn continue_(&self, range: Range, fill: Fill) -> Result<(), FillError> {
        let mut arg = uapi::uffdio_continue { range: raw(range), mode: fill.mode(), mapped: 0 };
        // SAFETY: UFFDIO_CONTINUE takes a uffdio_continue.
        let result = unsafe { self.ioctl(uapi::UFFDIO_CONTINUE, &mut arg) };
        filled(result, arg.mapped)
    }

    /// Poisons pages that have no PTE: the process gets SIGBUS, its system calls EFAULT. The shape
    /// of a revoked buffer. A mapped page must be zapped first ([`FillError::Present`]).
    pub fn poison(&self, range: Range) -> Result<(), FillError> {
        let mut arg = uapi::uffdio_poison { range: raw(range), mode: 0, updated: 0 };
        // SAFETY: UFFDIO_POISON takes a uffdio_poison.
        let result = unsafe { self.ioctl(uapi::UFFDIO_POISON, &mut arg) };
        filled(result, arg.updated)
    }

    /// Makes every store to the range a WP fault.
    pub fn write_protect(&self, range: Range) -> Result<(), ProtectError> {
        self.set_protection(range, uapi::WRITEPROTECT_MODE_WP)
    }

    /// Allows stores again and wakes who waits for that.
    pub fn write_unprotect(&self, range: Range) -> Result<(), ProtectError> {
        self.set_protection(range, 0)
    }

    fn set_protection(&self, range: Range, mode: u64) -> Result<(), ProtectError> {
        let mut arg = uapi::uffdio_writeprotect { range: raw(range), mode };
        // SAFETY: UFFDIO_WRITEPROTECT takes a uffdio_writeprotect.
        unsafe { self.ioctl(uapi::UFFDIO_WRITEPROTECT, &mut arg) }.map_err(ProtectError::of)
    }

    /// Wakes the sleepers of a range; each retries its access.
    pub fn wake(&self, range: Range) -> Result<(), RegisterError> {
        // SAFETY: UFFDIO_WAKE takes a uffdio_range.
        unsafe { self.ioctl(uapi::UFFDIO_WAKE, &mut raw(range)) }.map_err(RegisterError::of)
    }

    /// The next event, if one is queued.
    pub fn poll_event(&self) -> Result<Option<UffdEvent>, ReadError> {
        let mut message = [0; event::MESSAGE_BYTES];
        loop {
            match rustix::io::read(&self.fd, &mut message) {
                Ok(_) => break,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(Errno::INVAL) => return Err(ReadError::NoHandshake),
                Err(errno) => return Err(ReadError::Other(errno)),
            }
        }
        match event::decode(&message) {
            event::Decoded::Event(event) => Ok(Some(event)),
            event::Decoded::Unknown(kind) => Err(ReadError::UnknownEvent(kind)),
            event::Decoded::Fork(fd) => {
                let fd = RawFd::try_from(fd).map_err(|_| ReadError::Other(Errno::BADF))?;
                // SAFETY: reading the message installed this fd for us and nobody else knows it.
                Ok(Some(UffdEvent::Fork(unsafe { OwnedFd::from_raw_fd(fd) })))
            }
        }
    }

    /// The next event, waiting for it no longer than `timeout`.
    pub fn wait(&self, timeout: Duration) -> Result<Option<UffdEvent>, ReadError> {
        // Where faults come one after the other, the next is there already.
        if let Some(event) = self.poll_event()? {
            return Ok(Some(event));
        }
        poll_in(&self.fd, timeout).map_err(ReadError::Other)?;
        self.poll_event()
    }

    /// # Safety
    /// `request` must be a userfaultfd ioctl that takes a `T`.
    unsafe fn ioctl<T>(&self, request: u32, arg: &mut T) -> Result<(), Errno> {
        // SAFETY: the caller matched request and T; the pointer is to a live T.
        unsafe { ioctl(&self.fd, request, arg) }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until `fd` is readable or hung up; false on a timeout. EINTR restarts the wait.
pub(super) fn poll_in(fd: impl AsFd, timeout: Duration) -> Result<bool, Errno> {
    // The clock is read again only after an interruption: this is the path of every fault.
    let start = Instant::now();
    let mut left = timeout;
    loop {
        let wait = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait)) {
            Err(Errno::INTR) => left = timeout.saturating_sub(start.elapsed()),
            result => return result.map(|ready| ready > 0),
        }
    }
}

/// The fill ioctls report progress in a signed field: bytes done, or the negated errno.
fn filled(result: Result<(), Errno>, progress: i64) -> Result<(), FillError> {
    result.map_err(|errno| FillError::of(errno, u64::try_from(progress).unwrap_or(0)))
}

fn raw(range: Range) -> uapi::uffdio_range {
    uapi::uffdio_range { start: range.start.0, len: range.len_bytes }
}

/// # Safety
/// `request` must be an ioctl of `fd`'s driver that takes a `T`.
unsafe fn ioctl<T>(fd: impl AsFd, request: u32, arg: &mut T) -> Result<(), Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the caller matched request and T; the pointer is to a live T.
    let result = unsafe { libc::ioctl(fd, libc::Ioctl::from(request), &raw mut *arg) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

fn handshake(fd: &OwnedFd, features: Features) -> Result<Features, Errno> {
    let mut api = uapi::uffdio_api { api: uapi::UFFD_API, features: features.bits(), ioctls: 0 };
    // SAFETY: UFFDIO_API takes a uffdio_api.
    unsafe { ioctl(fd, uapi::UFFDIO_API, &mut api) }?;
    Ok(Features::from_bits_retain(api.features))
}

fn open_raw(via: Via) -> Result<OwnedFd, OpenError> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    let fd = match via {
        Via::UserModeOnly => {
            let flags = flags | uapi::UFFD_USER_MODE_ONLY.cast_signed();
            // SAFETY: the system call takes one integer and no pointers.
            unsafe { libc::syscall(libc::SYS_userfaultfd, flags) }
        }
        Via::Device => {
            let device = open_device()?;
            let request = libc::Ioctl::from(uapi::USERFAULTFD_IOC_NEW);
            // SAFETY: USERFAULTFD_IOC_NEW takes an integer, the flags.
            i64::from(unsafe { libc::ioctl(device.as_raw_fd(), request, flags) })
        }
    };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just returned this fd to us, and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(match last_errno() {
            Errno::PERM => OpenError::NotPermitted,
            Errno::NOSYS | Errno::INVAL => OpenError::Unavailable,
            Errno::MFILE | Errno::NFILE => OpenError::NoFd,
            other => OpenError::Other(other),
        }),
    }
}

fn open_device() -> Result<OwnedFd, OpenError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open("/dev/userfaultfd", flags, Mode::empty()).map_err(|errno| match errno {
        Errno::ACCESS | Errno::PERM => OpenError::DeviceDenied,
        Errno::NOENT | Errno::NXIO | Errno::NODEV => OpenError::NoDevice,
        Errno::MFILE | Errno::NFILE => OpenError::NoFd,
        other => OpenError::Other(other),
    })
}
