//! The file system's operations: FUSE requests to calls of [`Served`].

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno as FuseErrno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyWrite, Request, WriteFlags,
};
use rustix::io::Errno;

use super::{BufferId, DeviceFs, HeapId, Ioctl, MountNode, NEEDED, Object, Served};
use crate::device::transport::{lock, now_ns};
use crate::uapi::page_size;

/// Nothing is cached: buffers come and go without the kernel's doing.
const TTL: Duration = Duration::ZERO;

fn fuse(errno: Errno) -> FuseErrno {
    FuseErrno::from_i32(errno.raw_os_error())
}

impl DeviceFs {
    fn attr(&self, served: &Served, request: &Request, node: MountNode) -> Option<FileAttr> {
        let (kind, perm, size) = match node {
            MountNode::Root | MountNode::Heaps | MountNode::Buffers => {
                (FileType::Directory, 0o755, 0)
            }
            MountNode::Heap(id) => {
                served.device.heap_config(id)?;
                (FileType::RegularFile, 0o666, 0)
            }
            MountNode::Buffer(id) => {
                (FileType::RegularFile, 0o600, served.device.buffer(id)?.size_bytes)
            }
        };
        Some(FileAttr {
            ino: node.ino(),
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: request.uid(),
            gid: request.gid(),
            rdev: 0,
            blksize: u32::try_from(page_size()).unwrap_or(u32::MAX),
            flags: 0,
        })
    }

    fn child(&self, served: &Served, parent: INodeNo, name: &OsStr) -> Option<MountNode> {
        let name = name.to_str()?;
        match (MountNode::of(parent)?, name) {
            (MountNode::Root, "dma_heap") => Some(MountNode::Heaps),
            (MountNode::Root, "buffers") => Some(MountNode::Buffers),
            (MountNode::Heaps, name) => served.device.heap(name).map(MountNode::Heap),
            (MountNode::Buffers, name) => {
                let id = BufferId(name.parse().ok()?);
                served.device.buffer(id).map(|_| MountNode::Buffer(id))
            }
            _ => None,
        }
    }

    fn children(&self, served: &Served, node: MountNode) -> Vec<(MountNode, String)> {
        match node {
            MountNode::Root => {
                vec![(MountNode::Heaps, "dma_heap".into()), (MountNode::Buffers, "buffers".into())]
            }
            MountNode::Heaps => {
                let heaps = served.device.heaps().iter().zip(0..);
                heaps.map(|(heap, id)| (MountNode::Heap(HeapId(id)), heap.name.clone())).collect()
            }
            MountNode::Buffers => {
                let buffers = served.device.buffers();
                buffers.map(|(id, _)| (MountNode::Buffer(id), id.0.to_string())).collect()
            }
            MountNode::Heap(_) | MountNode::Buffer(_) => Vec::new(),
        }
    }
}

/// The request handler's object behind a node.
fn object(node: MountNode) -> Option<Object> {
    match node {
        MountNode::Heap(id) => Some(Object::Heap(id)),
        MountNode::Buffer(id) => Some(Object::Buffer(id)),
        MountNode::Root | MountNode::Heaps | MountNode::Buffers => None,
    }
}

impl Filesystem for DeviceFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.add_capabilities(NEEDED).map_err(|_| {
            io::Error::other(
                "this kernel can't map direct_io files (FUSE_DIRECT_IO_ALLOW_MMAP): Linux 6.6 or \
                 later is needed",
            )
        })
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let served = lock(&self.served);
        let node = self.child(&served, parent, name);
        match node.and_then(|node| self.attr(&served, request, node)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(FuseErrno::ENOENT),
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let served = lock(&self.served);
        match MountNode::of(ino).and_then(|node| self.attr(&served, request, node)) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(FuseErrno::ENOENT),
        }
    }

    /// A dma-buf's size is for ever; its mode and times may be set to no effect.
    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<std::time::SystemTime>,
        fh: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // O_TRUNC on a device node is ignored, and arrives here without a file handle.
        if size.is_some()
            && (fh.is_some() || !matches!(MountNode::of(ino), Some(MountNode::Heap(_))))
        {
            return reply.error(FuseErrno::EINVAL);
        }
        self.getattr(request, ino, fh, reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let served = lock(&self.served);
        let Some(node) = MountNode::of(ino) else { return reply.error(FuseErrno::ENOENT) };
        let dots = [(node, ".".to_owned()), (MountNode::Root, "..".to_owned())];
        let all = dots.into_iter().chain(self.children(&served, node));
        for (index, (child, name)) in (1u64..).zip(all).filter(|(index, _)| *index > offset) {
            let kind = match child {
                MountNode::Heap(_) | MountNode::Buffer(_) => FileType::RegularFile,
                MountNode::Root | MountNode::Heaps | MountNode::Buffers => FileType::Directory,
            };
            if reply.add(child.ino(), index, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut served = lock(&self.served);
        match MountNode::of(ino).filter(|&node| match node {
            MountNode::Buffer(id) => served.device.buffer(id).is_some(),
            MountNode::Root | MountNode::Heaps | MountNode::Buffers | MountNode::Heap(_) => true,
        }) {
            Some(node) => {
                let handle = served.open(node);
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            None => reply.error(FuseErrno::ENOENT),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(node) = MountNode::of(ino) {
            lock(&self.served).close(node, fh.0);
        }
        reply.ok();
    }

    /// A page fault carries no lock owner; read(2) does, and has no place on a dma-buf.
    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(MountNode::Buffer(id)) = MountNode::of(ino).filter(|_| lock_owner.is_none())
        else {
            return reply.error(FuseErrno::EINVAL);
        };
        let size = usize::try_from(size).unwrap_or(0);
        match lock(&self.served).read(id, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    /// Write-back of dirty pages is marked as such; write(2) is refused.
    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written_back = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let Some(MountNode::Buffer(id)) = MountNode::of(ino).filter(|_| written_back) else {
            return reply.error(FuseErrno::EINVAL);
        };
        match lock(&self.served).write(id, offset, data) {
            Ok(len) => reply.written(u32::try_from(len).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(FuseErrno::EINVAL);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(FuseErrno::ENODEV);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(FuseErrno::EINVAL);
    }

    fn ioctl(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        let Some((node, object)) = MountNode::of(ino).and_then(|node| Some((node, object(node)?)))
        else {
            return reply.error(FuseErrno::ENOTTY);
        };
        let mut served = lock(&self.served);
        let mut ioctl = Ioctl::new(object, cmd, 0);
        ioctl.pid = request.pid().cast_signed();
        ioctl.now_ns = now_ns();
        let (pid, now_ns) = (ioctl.pid, ioctl.now_ns);
        served.device.trace.at(pid, now_ns);
        match served.ioctl(node, fh.0, ioctl, in_data) {
            Ok(bytes) => reply.ioctl(0, &bytes),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        events: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        // No fence can be imported here, so a buffer is always idle.
        reply.poll(events & (PollEvents::POLLIN | PollEvents::POLLOUT));
    }
}
