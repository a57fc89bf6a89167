//! The FUSE transport: heaps and buffers as files, for several programs at once.
//!
//! ```text
//! DIR/dma_heap/NAME    a heap: DMA_HEAP_IOCTL_ALLOC
//! DIR/buffers/N        a buffer: mmap, DMA_BUF_IOCTL_SYNC, poll, lseek
//! ```
//!
//! A FUSE server can't put a file into its caller's table. ALLOC therefore answers N in the field
//! `fd`, and the program opens `DIR/buffers/N`; the access mode is that of its open. A buffer
//! lives until its last opener and mapping are gone or, if nobody ever opened it, until the heap's
//! file is closed that it was allocated through.
//!
//! A mapping's pages are the kernel's page cache, filled by FUSE_READ. FUSE_NOTIFY_INVAL_INODE
//! drops them together with every PTE, in every process, after the dirty ones were written back:
//! `unmap_mapping_range` by the kernel itself ([`Zapper`]).
//!
//! **Differs from Linux**: get_user_pages on the mapping succeeds; MAP_PRIVATE too; the string of
//! SET_NAME does not arrive, only its first eight bytes; EXPORT_SYNC_FILE answers ENOTTY, since
//! there is no descriptor to give; read(2) is told from a page fault by the lock owner that it
//! carries, and answers EINVAL as on a dma-buf.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use fuser::{INodeNo, InitFlags, Notifier};
use rustix::io::Errno;

use super::{Action, Backing, BufferId, Device, HeapId, Inode, Install, Ioctl, Object, Want};
use crate::model::Life;
use crate::sys::backing;

pub mod control;
mod ops;

/// The device behind a mount.
#[derive(Debug)]
pub struct Served {
    /// The device.
    pub device: Device,
    /// The memory of each buffer.
    memory: BTreeMap<BufferId, OwnedFd>,
    /// How many files are open on each buffer; 0 before the first.
    opens: BTreeMap<BufferId, u64>,
    /// Open files of heaps, and the buffers allocated through each that nobody opened yet.
    handles: BTreeMap<u64, Vec<BufferId>>,
    next_handle: u64,
}

/// The file system: a served device and how long replies may be cached.
#[derive(Debug)]
pub struct DeviceFs {
    served: Arc<Mutex<Served>>,
}

const ROOT: u64 = 1;
const HEAPS: u64 = 2;
const BUFFERS: u64 = 3;
const FIRST_HEAP: u64 = 16;
const FIRST_BUFFER: u64 = 1 << 20;

/// What an inode number of the mount stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MountNode {
    Root,
    Heaps,
    Buffers,
    Heap(HeapId),
    Buffer(BufferId),
}

impl MountNode {
    fn of(ino: INodeNo) -> Option<Self> {
        match ino.0 {
            ROOT => Some(Self::Root),
            HEAPS => Some(Self::Heaps),
            BUFFERS => Some(Self::Buffers),
            FIRST_HEAP..FIRST_BUFFER => Some(Self::Heap(HeapId(ino.0 - FIRST_HEAP))),
            FIRST_BUFFER.. => Some(Self::Buffer(BufferId(ino.0 - FIRST_BUFFER))),
            _ => None,
        }
    }

    fn ino(self) -> INodeNo {
        INodeNo(match self {
            Self::Root => ROOT,
            Self::Heaps => HEAPS,
            Self::Buffers => BUFFERS,
            Self::Heap(HeapId(id)) => FIRST_HEAP + id,
            Self::Buffer(BufferId(id)) => FIRST_BUFFER + id,
        })
    }
}

/// Drops the page table entries of a buffer, everywhere.
#[derive(Debug)]
pub struct Zapper(pub Notifier);

impl Zapper {
    /// FUSE_NOTIFY_INVAL_INODE of the whole buffer. Dirty pages are written back first, by calls
    /// to the file system: never call this from its thread, nor with its lock held.
    ///
    /// # Errors
    /// ENOENT: nobody has the buffer open. ENOTCONN: the mount is gone.
    pub fn zap(&self, buffer: BufferId) -> io::Result<()> {
        self.0.inval_inode(MountNode::Buffer(buffer).ino(), 0, 0)
    }
}

impl Served {
    /// A device to be mounted.
    pub fn new(device: Device) -> Self {
        Self {
            device,
            memory: BTreeMap::new(),
            opens: BTreeMap::new(),
            handles: BTreeMap::new(),
            next_handle: 1,
        }
    }

    /// Opens a file; heaps count the buffers that are allocated through it.
    fn open(&mut self, node: MountNode) -> u64 {
        let handle = self.next_handle;
        self.next_handle += 1;
        match node {
            MountNode::Heap(_) => drop(self.handles.insert(handle, Vec::new())),
            MountNode::Buffer(id) => {
                *self.opens.entry(id).or_default() += 1;
                self.handles.values_mut().for_each(|unopened| unopened.retain(|&held| held != id));
            }
            MountNode::Root | MountNode::Heaps | MountNode::Buffers => {}
        }
        handle
    }

    /// The last descriptor and mapping of an open file are gone.
    fn close(&mut self, node: MountNode, handle: u64) {
        for id in self.handles.remove(&handle).unwrap_or_default() {
            self.release(id);
        }
        if let MountNode::Buffer(id) = node
            && let Some(opens) = self.opens.get_mut(&id)
        {
            *opens = opens.saturating_sub(1);
            if *opens == 0 {
                self.release(id);
            }
        }
    }

    /// Takes a buffer's memory away for good: what is not in the page cache any more can't be read,
    /// which is SIGBUS to who touches a mapping.
    pub fn kill(&mut self, id: BufferId, life: Life) {
        self.device.killed(id, life);
        self.memory.remove(&id);
    }

    fn release(&mut self, id: BufferId) {
        self.device.release(Object::Buffer(id));
        self.memory.remove(&id);
        self.opens.remove(&id);
    }

    /// Answers an ioctl: its result and the bytes that go back.
    fn ioctl(
        &mut self,
        node: MountNode,
        handle: u64,
        mut request: Ioctl,
        data: &[u8],
    ) -> FuseReply {
        loop {
            match self.device.wants(&request) {
                None => break,
                Some(Want::Memory { len, .. })
                    if request.memory.is_empty() && len <= data.len() =>
                {
                    request.memory.push(data.to_vec());
                }
                // The kernel sent as many bytes of the string as a pointer has.
                Some(Want::Text { .. }) if request.memory.is_empty() => {
                    let end = data.iter().position(|&byte| byte == 0).ok_or(Errno::INVAL)?;
                    request.memory.push(data[..end].to_vec());
                }
                Some(Want::Memory { .. } | Want::Text { .. }) => return Err(Errno::FAULT),
                Some(Want::Files(fds)) => {
                    request.files = Some(vec![super::FileFact::Other; fds.len()]);
                }
            }
        }
        match self.device.ioctl(&request) {
            Action::Fail(errno) => Err(errno),
            Action::Native => Ok(Vec::new()),
            // Fences come from sync files, and none can be imported here.
            Action::Wait(_) => Err(Errno::NOTSUP),
            Action::Reply(reply) => {
                let back = reply.writes.into_iter().find(|write| write.addr == request.arg);
                Ok(back.map(|write| write.bytes).unwrap_or_default())
            }
            Action::Install(install) => match self.install(node, handle, &install) {
                Ok(bytes) => Ok(bytes),
                Err(errno) => {
                    self.device.fail(install.object);
                    Err(errno)
                }
            },
        }
    }

    fn install(&mut self, node: MountNode, handle: u64, install: &Install) -> FuseReply {
        let (Object::Buffer(id), MountNode::Heap(_)) = (install.object, node) else {
            return Err(Errno::NOTTY);
        };
        let buffer = self.device.buffer(id).ok_or(Errno::NOENT)?;
        let file = backing::memfd("dmabuf").map_err(|_| Errno::NOMEM)?;
        rustix::fs::ftruncate(&file, buffer.size_bytes).map_err(|_| Errno::NOMEM)?;
        let number = u32::try_from(id.0).map_err(|_| Errno::NOMEM)?;
        let mut bytes = install.structure.bytes.clone();
        if let super::FdAnswer::Field(at) = install.answer
            && let Some(field) = bytes.get_mut(at..at + 4)
        {
            field.copy_from_slice(&number.to_ne_bytes());
        }
        self.memory.insert(id, file);
        self.handles.entry(handle).or_default().push(id);
        let inode = Inode { dev: 0, ino: MountNode::Buffer(id).ino().0 };
        self.device.installed(install.object, inode, Backing::Memfd);
        Ok(bytes)
    }

    fn read(&self, id: BufferId, offset: u64, size: usize) -> FuseReply {
        let file = self.memory.get(&id).ok_or(Errno::NOENT)?;
        let mut bytes = vec![0; size];
        let got = rustix::io::pread(file.as_fd(), &mut bytes, offset)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    fn write(&self, id: BufferId, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let file = self.memory.get(&id).ok_or(Errno::NOENT)?;
        let size = self.device.buffer(id).ok_or(Errno::NOENT)?.size_bytes;
        // A last page may reach past the end; the buffer never grows.
        let room = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        rustix::io::pwrite(file.as_fd(), &bytes[..bytes.len().min(room)], offset)?;
        Ok(bytes.len())
    }
}

/// Bytes for the caller, or an errno.
type FuseReply = Result<Vec<u8>, Errno>;

impl DeviceFs {
    /// A file system over `served`.
    pub fn new(served: Arc<Mutex<Served>>) -> Self {
        Self { served }
    }
}

/// Capabilities that the mount needs, with what is missing without each.
const NEEDED: InitFlags = InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
