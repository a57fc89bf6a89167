//! System calls on our files other than ioctl: one question, one answer.
//!
//! Kernel counterpart: the file operations that a dma-buf, a heap, a sync_file and udmabuf leave
//! out, and what the VFS answers in their place (fs/read_write.c, fs/open.c, fs/sync.c).

use rustix::io::Errno;

use super::buffer::MmapArgs;
use super::{Buffer, Device, Object};

/// A system call on a file of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// mmap(2).
    Mmap(MmapArgs),
    /// lseek(2).
    Lseek {
        /// Bytes.
        offset: i64,
        /// SEEK_ constant.
        whence: u32,
    },
    /// read, write, readv, writev, splice, copy_file_range: calls at the file position.
    Stream,
    /// pread, pwrite and their kin, and sendfile: calls at a position of their own.
    Positional,
    /// ftruncate(2).
    Ftruncate,
    /// fallocate(2).
    Fallocate,
    /// fsync(2), fdatasync(2).
    Fsync,
    /// fcntl(2) with a seal command.
    Seals,
    /// fcntl(2) with F_SETLEASE.
    SetLease,
    /// fcntl(2) with F_GETLEASE.
    GetLease,
    /// sync_file_range(2).
    SyncRange,
    /// fgetxattr(2).
    GetXattr,
    /// fsetxattr(2), fremovexattr(2).
    SetXattr,
    /// Opening /proc/PID/fd/N.
    Reopen,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Fail with this errno.
    Fail(Errno),
    /// Return this value.
    Value(i64),
    /// Let the kernel execute it on the file behind the object.
    Native,
}

impl From<Result<Self, Errno>> for Verdict {
    fn from(result: Result<Self, Errno>) -> Self {
        result.unwrap_or_else(Self::Fail)
    }
}

impl Device {
    /// Answers a call on `object`.
    pub fn call(&self, object: Object, call: Call) -> Verdict {
        match object {
            Object::Buffer(id) => match self.buffer(id) {
                Some(buffer) => buffer.call(call, self.limits().page_bytes),
                None => Verdict::Native,
            },
            Object::Heap(_) | Object::Udmabuf | Object::SyncFile(_) | Object::Timeline(_) => {
                call_on_device(object, call)
            }
        }
    }
}

impl Buffer {
    fn call(&self, call: Call, page_bytes: u64) -> Verdict {
        match call {
            Call::Mmap(args) => self.mmap(args, page_bytes).map(|()| Verdict::Native).into(),
            Call::Lseek { offset, whence } => self
                .lseek(offset, whence)
                .map(|position| Verdict::Value(i64::try_from(position).unwrap_or(i64::MAX)))
                .into(),
            Call::Stream | Call::Ftruncate | Call::Fsync | Call::Seals => {
                Verdict::Fail(Errno::INVAL)
            }
            Call::Positional | Call::SyncRange => Verdict::Fail(Errno::SPIPE),
            Call::Fallocate => Verdict::Fail(Errno::NODEV),
            // alloc_anon_inode makes an inode without a type: no leases, and no user xattrs.
            Call::SetLease => Verdict::Fail(Errno::INVAL),
            Call::GetLease => Verdict::Value(i64::from(libc::F_UNLCK)),
            Call::GetXattr => Verdict::Fail(Errno::NODATA),
            Call::SetXattr => Verdict::Fail(Errno::PERM),
            Call::Reopen => Verdict::Fail(Errno::NXIO),
        }
    }
}

/// Character devices and sync files have neither read nor write, mmap or seek.
fn call_on_device(object: Object, call: Call) -> Verdict {
    match call {
        // A sync_file is open for reading only (anon_inode_getfile in sync_file_alloc), which
        // do_mmap looks at before it misses the operation.
        Call::Mmap(args) if matches!(object, Object::SyncFile(_)) && args.shares_writes() => {
            Verdict::Fail(Errno::ACCESS)
        }
        Call::Mmap(_) | Call::Fallocate => Verdict::Fail(Errno::NODEV),
        Call::Lseek { .. } | Call::Positional => Verdict::Fail(Errno::SPIPE),
        Call::Stream | Call::Ftruncate | Call::Fsync | Call::Seals => Verdict::Fail(Errno::INVAL),
        Call::SetLease | Call::GetLease | Call::SyncRange | Call::GetXattr | Call::SetXattr => {
            Verdict::Native
        }
        Call::Reopen if matches!(object, Object::SyncFile(_)) => Verdict::Fail(Errno::NXIO),
        Call::Reopen => Verdict::Native,
    }
}
