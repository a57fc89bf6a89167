//! The supervisor's end of seccomp user notification (Documentation/userspace-api/seccomp_filter.rst).
//!
//! 1. [`Listener::recv`] takes one trapped call; its thread sleeps in the kernel meanwhile.
//! 2. The supervisor reads the call's memory, then asks [`Listener::id_valid`]: if the thread has
//!    died, its process id may already name another one and what was read counts for nothing.
//! 3. [`Listener::add_fd`] puts a file into the caller's table; [`Listener::reply`] or
//!    [`Listener::resume`] lets the thread go.
//!
//! When the listener is closed, sleeping and later trapped calls return ENOSYS: a program whose
//! supervisor died gets errors, it does not hang.
#![allow(unsafe_code, reason = "the listener is driven by raw ioctls")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

/// One trapped system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Names the notification in every answer.
    pub id: u64,
    /// The calling thread, in the supervisor's pid namespace.
    pub tid: i32,
    /// System call number.
    pub nr: i64,
    /// Its arguments as the registers held them.
    pub args: [u64; 6],
    /// The address behind the instruction that made it.
    pub ip: u64,
    /// AUDIT_ARCH of the instruction that made it.
    pub arch: u32,
}

/// A file descriptor on which trapped calls arrive.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// Room for `struct seccomp_notif`; [`Listener::new`] checks that this kernel's fits.
const NOTIF_ROOM: usize = 256;

#[repr(C, align(8))]
struct NotifBuffer([u8; NOTIF_ROOM]);

const _: () = {
    assert!(size_of::<libc::seccomp_notif>() == 80);
    assert!(size_of::<libc::seccomp_notif_resp>() == 24);
    assert!(size_of::<libc::seccomp_notif_addfd>() == 24);
    assert!(size_of::<libc::seccomp_notif>() <= NOTIF_ROOM);
};

/// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (6.6): wake the supervisor on the caller's CPU.
const SYNC_WAKE_UP: u64 = 1;

fn check(result: libc::c_int) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Listener {
    /// Wraps the descriptor that [`super::seccomp::install`] returned.
    ///
    /// # Errors
    /// The kernel's notification is larger than this build knows: a newer driftheap is needed.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut sizes =
            libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
        // SAFETY: GET_NOTIF_SIZES writes three u16 to `sizes`, which lives through the call.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0, &raw mut sizes)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        if usize::from(sizes.seccomp_notif) > NOTIF_ROOM || sizes.seccomp_notif_resp > 24 {
            return Err(io::Error::other(
                "this kernel's seccomp notification is larger than driftheap knows",
            ));
        }
        Ok(Self(fd))
    }

    /// Asks for wake-ups on the caller's own CPU, which spares a cross-CPU wake-up per call.
    /// Kernels before 6.6 answer EINVAL, which is harmless: `false`.
    pub fn wake_synchronously(&self) -> bool {
        // SAFETY: SET_FLAGS takes its argument by value.
        let result = unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP)
        };
        result == 0
    }

    /// Waits for a trapped call.
    ///
    /// # Errors
    /// ENOENT: the caller was killed before its call was read, or every supervised process is
    /// gone. EINTR: a signal.
    pub fn recv(&self) -> io::Result<Call> {
        let mut buffer = NotifBuffer([0; NOTIF_ROOM]);
        // SAFETY: the buffer is zeroed, as the ioctl demands, aligned, and at least as large as
        // this kernel's `struct seccomp_notif`, which `new` checked.
        check(unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, buffer.0.as_mut_ptr())
        })?;
        // SAFETY: the buffer is aligned to 8, larger than `seccomp_notif`, and any bytes are a
        // valid value of it.
        let notif = unsafe { buffer.0.as_ptr().cast::<libc::seccomp_notif>().read() };
        Ok(Call {
            id: notif.id,
            tid: notif.pid.cast_signed(),
            nr: i64::from(notif.data.nr),
            args: notif.data.args,
            ip: notif.data.instruction_pointer,
            arch: notif.data.arch,
        })
    }

    /// Whether the caller of notification `id` is still waiting in it.
    pub fn id_valid(&self, id: u64) -> bool {
        // SAFETY: ID_VALID reads one u64, which lives through the call.
        let result = unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id)
        };
        result == 0
    }

    /// Answers the call with a value or an errno.
    ///
    /// # Errors
    /// ENOENT: the caller is gone; nothing is left to do for it.
    pub fn reply(&self, id: u64, result: Result<i64, Errno>) -> io::Result<()> {
        let (val, error) = match result {
            Ok(value) => (value, 0),
            Err(errno) => (0, -errno.raw_os_error()),
        };
        self.send(libc::seccomp_notif_resp { id, val, error, flags: 0 })
    }

    /// Lets the kernel execute the call as it stands (SECCOMP_USER_NOTIF_FLAG_CONTINUE).
    ///
    /// # Errors
    /// ENOENT: the caller is gone.
    pub fn resume(&self, id: u64) -> io::Result<()> {
        const CONTINUE: u32 = 1;
        self.send(libc::seccomp_notif_resp { id, val: 0, error: 0, flags: CONTINUE })
    }

    fn send(&self, mut response: libc::seccomp_notif_resp) -> io::Result<()> {
        // SAFETY: `response` is a whole `seccomp_notif_resp` that lives through the call.
        check(unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response)
        })?;
        Ok(())
    }

    /// Installs `file` in the caller's table at the lowest free number. With `send`, that number
    /// is also the call's result and the caller goes on (5.14).
    ///
    /// # Errors
    /// EMFILE: the caller's table is full. ENOENT: the caller is gone. EINPROGRESS: another
    /// answer to the same call is under way.
    pub fn add_fd(
        &self,
        id: u64,
        file: BorrowedFd<'_>,
        cloexec: bool,
        send: bool,
    ) -> io::Result<i32> {
        const ADDFD_FLAG_SEND: u32 = 2;
        let mut request = libc::seccomp_notif_addfd {
            id,
            flags: if send { ADDFD_FLAG_SEND } else { 0 },
            srcfd: file.as_raw_fd().cast_unsigned(),
            newfd: 0,
            newfd_flags: if cloexec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        // SAFETY: `request` is a whole `seccomp_notif_addfd` that lives through the call, and
        // `file` keeps the source descriptor open.
        check(unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut request)
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
