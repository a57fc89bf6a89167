//! What each userfaultfd operation's errno means, once.

use rustix::io::Errno;

use super::bits::Features;

/// Why a userfaultfd could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// EPERM: a seccomp filter (containers), or a kernel-fault fd without CAP_SYS_PTRACE.
    #[error(
        "userfaultfd is not permitted (EPERM): a container's seccomp profile must allow it, or \
         set vm.unprivileged_userfaultfd=1 for one that traps the kernel too"
    )]
    NotPermitted,
    /// EACCES on `/dev/userfaultfd`.
    #[error("/dev/userfaultfd can't be opened (EACCES): chmod it, or run as its owner")]
    DeviceDenied,
    /// ENOENT on `/dev/userfaultfd`.
    #[error("there is no /dev/userfaultfd (Linux 6.1 and later have it)")]
    NoDevice,
    /// ENOSYS: CONFIG_USERFAULTFD is not set. EINVAL: before 5.11, no UFFD_USER_MODE_ONLY.
    #[error("this kernel has no userfaultfd with UFFD_USER_MODE_ONLY (needs Linux 5.11)")]
    Unavailable,
    /// EINVAL at the handshake: the kernel lacks features that were asked for.
    #[error("this kernel's userfaultfd lacks {missing:?}")]
    MissingFeatures {
        /// What it lacks.
        missing: Features,
    },
    /// EPERM at the handshake: EVENT_FORK without CAP_SYS_PTRACE.
    #[error("UFFD_FEATURE_EVENT_FORK needs CAP_SYS_PTRACE (EPERM)")]
    ForkEventDenied,
    /// EMFILE, ENFILE.
    #[error("no file descriptor left: raise `ulimit -n`")]
    NoFd,
    /// Anything else.
    #[error("opening a userfaultfd failed: {0}")]
    Other(Errno),
}

/// Why a range could not be registered or unregistered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// EINVAL: nothing mapped there, or a kind of mapping that has no such faults
    /// (memfd_secret, a device, a FUSE file), or a misaligned range.
    #[error("the range is not mapped, or its mapping can't be trapped in this mode (EINVAL)")]
    Untrappable,
    /// EPERM: a shared mapping of a file that this process may not write.
    #[error("a mapping without VM_MAYWRITE can't be registered (EPERM)")]
    NotWritable,
    /// EBUSY: another userfaultfd has it.
    #[error("another userfaultfd has the range (EBUSY)")]
    Taken,
    /// ENOMEM: no memory, or the address space is gone.
    #[error("no memory, or the process has exited (ENOMEM)")]
    NoMemory,
    /// Anything else.
    #[error("registering the range failed: {0}")]
    Other(Errno),
}

/// Why COPY, ZEROPAGE, CONTINUE or POISON did not resolve all of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// EEXIST: there is a PTE already. Somebody else resolved the fault: wake, and go on.
    #[error("a page is mapped there already (EEXIST)")]
    Present,
    /// ENOENT: no registered VMA holds the whole range.
    #[error("the range is not registered, or not in one mapping (ENOENT)")]
    NotRegistered,
    /// EAGAIN: an event is queued, or only a part was done. Read the events, then try the rest.
    #[error("stopped after {done_bytes} bytes: a mapping is changing (EAGAIN)")]
    Changing {
        /// How much was resolved.
        done_bytes: u64,
    },
    /// ESRCH: the process has exited. What a pager is told when its client dies.
    #[error("the trapped process has exited (ESRCH)")]
    Gone,
    /// ENOMEM, ENOSPC.
    #[error("no memory for the page")]
    NoMemory,
    /// EFAULT: CONTINUE found no page in the file, the range is past its end, or COPY's source
    /// is not readable.
    #[error("no page to map (EFAULT): not in the file, past its end, or an unreadable source")]
    NoPage,
    /// EINVAL: misaligned, or the mapping has no such operation.
    #[error("the operation does not apply to this mapping (EINVAL)")]
    Invalid,
    /// Anything else.
    #[error("resolving the fault failed: {0}")]
    Other(Errno),
}

/// Why write protection could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtectError {
    /// ENOENT: the range is not registered with WP.
    #[error("the range is not registered for write protection (ENOENT)")]
    NotRegistered,
    /// EAGAIN: an event is queued. Read the events, then try again.
    #[error("a mapping is changing (EAGAIN)")]
    Changing,
    /// ESRCH: the process has exited.
    #[error("the trapped process has exited (ESRCH)")]
    Gone,
    /// Anything else.
    #[error("changing write protection failed: {0}")]
    Other(Errno),
}

/// Why no event could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A message of a kind that was not asked for.
    #[error("unknown userfaultfd event {0:#x}")]
    UnknownEvent(u8),
    /// EINVAL: the handshake was never made.
    #[error("the userfaultfd's handshake was not made (EINVAL)")]
    NoHandshake,
    /// Anything else.
    #[error("reading the userfaultfd failed: {0}")]
    Other(Errno),
}

impl RegisterError {
    pub(super) fn of(errno: Errno) -> Self {
        match errno {
            Errno::INVAL => Self::Untrappable,
            Errno::PERM => Self::NotWritable,
            Errno::BUSY => Self::Taken,
            Errno::NOMEM => Self::NoMemory,
            other => Self::Other(other),
        }
    }
}

impl FillError {
    pub(super) fn of(errno: Errno, done_bytes: u64) -> Self {
        match errno {
            Errno::EXIST => Self::Present,
            Errno::NOENT => Self::NotRegistered,
            Errno::AGAIN => Self::Changing { done_bytes },
            Errno::SRCH => Self::Gone,
            Errno::NOMEM | Errno::NOSPC => Self::NoMemory,
            Errno::FAULT => Self::NoPage,
            Errno::INVAL => Self::Invalid,
            other => Self::Other(other),
        }
    }
}

impl ProtectError {
    pub(super) fn of(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotRegistered,
            Errno::AGAIN => Self::Changing,
            Errno::SRCH => Self::Gone,
            other => Self::Other(other),
        }
    }
}
