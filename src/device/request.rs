//! A request as the device sees it: what it needs fetched, and what is to be done about it.

use rustix::io::Errno;

use super::buffer::Inode;
use super::id::{FenceId, Object};

/// What a file descriptor in a request turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFact {
    /// No open file.
    Bad,
    /// One of ours.
    Ours(Object),
    /// Someone's memfd.
    Memfd {
        /// F_GET_SEALS.
        seals: u32,
        /// Its size.
        size_bytes: u64,
        /// Its inode.
        inode: Inode,
    },
    /// Anything else.
    Other,
}

/// One ioctl with everything that was fetched for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ioctl {
    /// The file it was made on.
    pub object: Object,
    /// The command.
    pub cmd: u32,
    /// The argument, usually a user address.
    pub arg: u64,
    /// Copies of user memory, in the order in which [`super::Device::wants`] asked.
    pub memory: Vec<Vec<u8>>,
    /// What the file descriptors named in `memory` are.
    pub files: Option<Vec<FileFact>>,
    /// Calling process.
    pub pid: i32,
    /// CLOCK_MONOTONIC when the request arrived.
    pub now_ns: u64,
    /// The fences that it was told to wait for have signalled. It waits for none that came later:
    /// `dma_resv_wait_timeout` (drivers/dma-buf/dma-resv.c, 6.12) does not go back to a slot in
    /// which a later fence of the same context has taken the place of the one it waited for.
    pub has_waited: bool,
}

impl Ioctl {
    /// A request with nothing fetched yet.
    pub fn new(object: Object, cmd: u32, arg: u64) -> Self {
        Self {
            object,
            cmd,
            arg,
            memory: Vec::new(),
            files: None,
            pid: 0,
            now_ns: 0,
            has_waited: false,
        }
    }

    /// Adds a copy of user memory.
    #[must_use]
    pub fn with_memory(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.memory.push(bytes.into());
        self
    }

    /// Adds what the named file descriptors are.
    #[must_use]
    pub fn with_files(mut self, files: Vec<FileFact>) -> Self {
        self.files = Some(files);
        self
    }

    /// The first piece of memory; EFAULT if the transport fetched none.
    pub(super) fn payload(&self) -> Result<&[u8], Errno> {
        self.memory.first().map(Vec::as_slice).ok_or(Errno::FAULT)
    }

    pub(super) fn files(&self) -> &[FileFact] {
        self.files.as_deref().unwrap_or_default()
    }
}

/// What a request needs before it can be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// `len` bytes at `addr`; push them to [`Ioctl::memory`].
    Memory {
        /// User address.
        addr: u64,
        /// Bytes.
        len: usize,
    },
    /// A C string at `addr` of at most `max` bytes, terminator included; push it without the
    /// terminator, or `max` bytes if none was found.
    Text {
        /// User address.
        addr: u64,
        /// Most bytes to read.
        max: usize,
    },
    /// What these file descriptors of the caller are; set `Ioctl::files`.
    Files(Vec<i32>),
}

/// Bytes to put into the caller's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// User address.
    pub addr: u64,
    /// What goes there.
    pub bytes: Vec<u8>,
}

/// A plain answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Return value.
    pub value: i64,
    /// Memory to write first; EFAULT if that fails.
    pub writes: Vec<Write>,
}

/// How the caller learns the number of its new file descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdAnswer {
    /// As the return value.
    Value,
    /// In the argument structure, as four bytes at this offset, if the structure goes back at all.
    Field(usize),
}

/// A file to install in the caller's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The object behind it; it exists in the device already.
    pub object: Object,
    /// Close it on exec.
    pub cloexec: bool,
    /// The argument structure as it goes back; nothing is written if it is empty.
    pub structure: Write,
    /// Where the number goes.
    pub answer: FdAnswer,
}

/// What the transport has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fail the call.
    Fail(Errno),
    /// Answer it.
    Reply(Reply),
    /// Install a file, then answer.
    Install(Install),
    /// Come back with the same request when all of these have signalled.
    Wait(Vec<FenceId>),
    /// Let the kernel answer: FIOCLEX and its like act on the descriptor, not on the file.
    Native,
}

impl Action {
    /// An answer of 0.
    pub(super) fn done() -> Self {
        Self::Reply(Reply::default())
    }
}
