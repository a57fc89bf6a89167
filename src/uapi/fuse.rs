//! The FUSE protocol as CUSE speaks it: `include/uapi/linux/fuse.h`, minor 11 and later.
//!
//! Only what a character device meets is here. The structures have not changed since minor 16;
//! later minors append opcodes and flags that CUSE does not use.

/// `FUSE_KERNEL_VERSION`.
pub const MAJOR: u32 = 7;
/// The minor version we answer with: the newest whose rules we follow.
pub const MINOR: u32 = 38;
/// Below this a kernel has no CUSE (`cuse_process_init_reply`).
pub const MINOR_MIN: u32 = 11;

/// `FUSE_OPEN`.
pub const OPEN: u32 = 14;
/// `FUSE_READ`.
pub const READ: u32 = 15;
/// `FUSE_WRITE`.
pub const WRITE: u32 = 16;
/// `FUSE_RELEASE`.
pub const RELEASE: u32 = 18;
/// `FUSE_INTERRUPT`.
pub const INTERRUPT: u32 = 36;
/// `FUSE_IOCTL`.
pub const IOCTL: u32 = 39;
/// `FUSE_POLL`.
pub const POLL: u32 = 40;
/// `CUSE_INIT`.
pub const CUSE_INIT: u32 = 4096;

/// `CUSE_UNRESTRICTED_IOCTL`: ioctls come as they are, with nothing copied in.
pub const CUSE_UNRESTRICTED_IOCTL: u32 = 1;
/// `FUSE_IOCTL_UNRESTRICTED`: this ioctl may be answered with [`IOCTL_RETRY`].
pub const IOCTL_UNRESTRICTED: u32 = 1 << 1;
/// `FUSE_IOCTL_RETRY`: come again with these pieces of the caller's memory.
pub const IOCTL_RETRY: u32 = 1 << 2;
/// `FUSE_IOCTL_MAX_IOV`: pieces of an [`IOCTL_RETRY`], both directions together.
pub const IOCTL_IOV_MAX: usize = 256;
/// `FUSE_POLL_SCHEDULE_NOTIFY`: say when the answer changes.
pub const POLL_SCHEDULE_NOTIFY: u32 = 1;
/// `FUSE_NOTIFY_POLL`: the code of that message.
pub const NOTIFY_POLL: i32 = 1;

abi_struct! {
    /// `struct fuse_in_header`: the start of each request.
    pub struct InHeader: 40 {
        /// Bytes of the request, header included.
        0 => len: u32,
        /// What is asked.
        4 => opcode: u32,
        /// Names the request in its reply.
        8 => unique: u64,
        /// 0 for a character device.
        16 => nodeid: u64,
        /// The caller's user.
        24 => uid: u32,
        /// The caller's group.
        28 => gid: u32,
        /// The caller's process, in the server's pid namespace.
        32 => pid: u32,
        /// Length of extensions in units of 8 bytes.
        36 => total_extlen: u16,
        /// Zero.
        38 => padding: u16,
    }
}

abi_struct! {
    /// `struct fuse_out_header`: the start of each reply.
    pub struct OutHeader: 16 {
        /// Bytes of the reply, header included.
        0 => len: u32,
        /// 0, a negated errno, or the code of a notification whose `unique` is 0.
        4 => error: i32,
        /// The request's.
        8 => unique: u64,
    }
}

abi_struct! {
    /// `struct cuse_init_in`.
    pub struct CuseInitIn: 16 {
        /// Protocol version.
        0 => major: u32,
        /// Its minor part.
        4 => minor: u32,
        /// Zero.
        8 => unused: u32,
        /// What the kernel offers: [`CUSE_UNRESTRICTED_IOCTL`].
        12 => flags: u32,
    }
}

abi_struct! {
    /// `struct cuse_init_out`, followed by `DEVNAME=name` and a zero byte.
    pub struct CuseInitOut: 72 {
        /// Protocol version.
        0 => major: u32,
        /// Its minor part.
        4 => minor: u32,
        /// Zero.
        8 => unused: u32,
        /// What we take of the offer.
        12 => flags: u32,
        /// Most bytes of one READ.
        16 => max_read: u32,
        /// Most bytes of one WRITE.
        20 => max_write: u32,
        /// Major number, 0 for any.
        24 => dev_major: u32,
        /// Minor number.
        28 => dev_minor: u32,
        /// Zero.
        32 => spare: [u8; 40],
    }
}

abi_struct! {
    /// `struct fuse_open_in`.
    pub struct OpenIn: 8 {
        /// The O_ flags of open(2).
        0 => flags: u32,
        /// `FUSE_OPEN_` flags.
        4 => open_flags: u32,
    }
}

abi_struct! {
    /// `struct fuse_open_out`.
    pub struct OpenOut: 16 {
        /// Our number for the open file.
        0 => fh: u64,
        /// `FOPEN_` flags.
        8 => open_flags: u32,
        /// Zero.
        12 => padding: u32,
    }
}

abi_struct! {
    /// `struct fuse_release_in`.
    pub struct ReleaseIn: 24 {
        /// The open file.
        0 => fh: u64,
        /// Its O_ flags.
        8 => flags: u32,
        /// `FUSE_RELEASE_` flags.
        12 => release_flags: u32,
        /// Unused by a character device.
        16 => lock_owner: u64,
    }
}

abi_struct! {
    /// `struct fuse_ioctl_in`, followed by `in_size` bytes of the caller's memory.
    pub struct IoctlIn: 32 {
        /// The open file.
        0 => fh: u64,
        /// [`IOCTL_UNRESTRICTED`] and its kin.
        8 => flags: u32,
        /// The command.
        12 => cmd: u32,
        /// Its argument as the caller gave it.
        16 => arg: u64,
        /// Bytes copied in.
        24 => in_size: u32,
        /// Bytes that may be copied back.
        28 => out_size: u32,
    }
}

abi_struct! {
    /// `struct fuse_ioctl_out`, followed by the bytes to copy back, or by [`IoctlIovec`]s.
    pub struct IoctlOut: 16 {
        /// What ioctl(2) returns; a negated errno if below 0.
        0 => result: i32,
        /// 0 or [`IOCTL_RETRY`].
        4 => flags: u32,
        /// With it, how many pieces to copy in,
        8 => in_iovs: u32,
        /// and how many to copy back.
        12 => out_iovs: u32,
    }
}

abi_struct! {
    /// `struct fuse_ioctl_iovec`.
    pub struct IoctlIovec: 16 {
        /// User address.
        0 => base: u64,
        /// Bytes.
        8 => len: u64,
    }
}

abi_struct! {
    /// `struct fuse_poll_in`.
    pub struct PollIn: 24 {
        /// The open file.
        0 => fh: u64,
        /// Names the poller in a notification.
        8 => kh: u64,
        /// 0 or [`POLL_SCHEDULE_NOTIFY`].
        16 => flags: u32,
        /// The POLL events asked for.
        20 => events: u32,
    }
}

abi_struct! {
    /// `struct fuse_poll_out`.
    pub struct PollOut: 8 {
        /// The POLL events there are.
        0 => revents: u32,
        /// Zero.
        4 => padding: u32,
    }
}

abi_struct! {
    /// `struct fuse_notify_poll_wakeup_out`.
    pub struct NotifyPoll: 8 {
        /// The poller.
        0 => kh: u64,
    }
}

abi_struct! {
    /// `struct fuse_interrupt_in`.
    pub struct InterruptIn: 8 {
        /// The request that is to end early.
        0 => unique: u64,
    }
}
