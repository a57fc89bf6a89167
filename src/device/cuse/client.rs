//! The client library of a node: what makes descriptors of the handles that ALLOC answers.
//!
//! ```no_run
//! use driftheap::device::cuse::NodeHeap;
//! use std::path::Path;
//!
//! let heap = NodeHeap::open(Path::new("/dev/dma_heap/driftheap"))?;
//! let buffer = heap.alloc(1 << 20)?;
//! // buffer.file: DMA_BUF_IOCTL_SYNC, DMA_BUF_SET_NAME, poll; buffer.memory: mmap, fstat.
//! # Ok::<(), std::io::Error>(())
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::heap_node::OPEN_HANDLE;
use super::socket::memory_of;
use crate::sys::backing::{ioctl_bytes, ioctl_number};
use crate::uapi::dma_heap::{ALLOC, AllocationData};

/// An open node of `driftheap serve --cuse`.
#[derive(Debug)]
pub struct NodeHeap {
    path: PathBuf,
    file: File,
}

/// A buffer of such a heap: two descriptors, where a dma-buf is one.
#[derive(Debug)]
pub struct NodeBuffer {
    /// Takes the ioctls of a dma-buf, and poll. The buffer exists as long as this is open, here or
    /// in another process.
    pub file: OwnedFd,
    /// Its memory, to be mapped. It stays as long as somebody has it, like any file.
    pub memory: OwnedFd,
    /// Names it to other processes of the same user, as long as it exists.
    pub handle: u32,
}

impl NodeHeap {
    /// Opens the node at `path`.
    ///
    /// # Errors
    /// Those of open(2): ENOENT if nobody serves it. ENOTSUP: it is a real heap, whose ALLOC
    /// answers a descriptor.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // No handle is 0: ours says so, and a real heap does not know the command.
        let probed =
            ioctl_number(file.as_fd(), OPEN_HANDLE, 0).map_err(|error| error.raw_os_error());
        if probed != Err(Some(Errno::BADF.raw_os_error())) {
            return Err(Errno::NOTSUP.into());
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// DMA_HEAP_IOCTL_ALLOC, and what makes a buffer of its answer.
    ///
    /// # Errors
    /// Those of ALLOC.
    pub fn alloc(&self, len: u64) -> io::Result<NodeBuffer> {
        // O_RDWR | O_CLOEXEC.
        let ask = AllocationData { len, fd: 0, fd_flags: 0o2_000_002, heap_flags: 0 };
        let mut bytes = ask.to_bytes();
        ioctl_bytes(self.file.as_fd(), ALLOC, &mut bytes)?;
        let answer = AllocationData::from_bytes(&bytes).ok_or(Errno::PROTO)?;
        self.buffer(answer.fd)
    }

    /// The buffer behind a handle, which may have come from another process.
    ///
    /// # Errors
    /// EBADF: no such handle, or another user's. ECONNREFUSED: the server is in another network
    /// namespace.
    pub fn buffer(&self, handle: u32) -> io::Result<NodeBuffer> {
        let file: OwnedFd = OpenOptions::new().read(true).write(true).open(&self.path)?.into();
        ioctl_number(file.as_fd(), OPEN_HANDLE, handle)?;
        let memory = memory_of(&self.path, handle)?;
        Ok(NodeBuffer { file, memory, handle })
    }
}
