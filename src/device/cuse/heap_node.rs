//! A heap of the [`Device`] behind a node: requests in the handler's terms, handles for files.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{OFlags, SealFlags};
use rustix::io::Errno;

use super::backend::{Backend, Call, Extent, IoctlReply, OpenFile, Opener, text_extents};
use super::{HANDLE_FIRST, HANDLES_END};
use crate::device::transport::lock;
use crate::device::{
    Action, Backing, BufferId, Device, FdAnswer, FileFact, HeapId, Inode, Install, Ioctl, Object,
    Reply, Want,
};
use crate::model::Usage;
use crate::sys::backing;
use crate::uapi::{IOC_READ, IOC_WRITE, ioc, ioc_dir, ioc_size, sync_file};

/// Makes this open file what is behind a handle, given as the argument itself: `_IOW('D', 0x40,
/// int)`. A real heap answers EINVAL, so a client can tell that it talks to one.
///
/// EBADF: no such handle, or one of another user. EBUSY: this file is something already.
pub const OPEN_HANDLE: u32 = ioc(IOC_WRITE, b'D', 0x40, 4);

/// POLLIN, POLLOUT and their synonyms.
const POLL_IN: u32 = 0x41;
const POLL_OUT: u32 = 0x104;

/// Handles of one file that nobody opened, so that a client can't hoard what only its end gives
/// back.
const HANDLES_MAX: usize = 1024;

/// What a handle stands for. It is good as long as the object exists.
#[derive(Debug)]
struct Handle {
    object: Object,
    /// Who made it: only that user and root may use it.
    uid: u32,
    /// The memory of a buffer.
    memory: Option<OwnedFd>,
    /// The file that it was made on, until it is opened: it goes with that file.
    made_on: Option<OpenFile>,
    /// Files that are this object.
    opens: u64,
}

/// What an open file of the node is.
#[derive(Clone, Copy, Debug)]
enum NodeFileKind {
    Heap,
    Handle(u32),
}

#[derive(Clone, Copy, Debug)]
struct NodeFile {
    what: NodeFileKind,
    uid: u32,
}

/// The device behind a node, which the node's loop, its [`HandleSocket`](super::HandleSocket) and
/// the control socket share.
#[derive(Debug)]
pub struct NodeState {
    /// The device.
    pub device: Device,
    heap: HeapId,
    files: BTreeMap<OpenFile, NodeFile>,
    handles: BTreeMap<u32, Handle>,
    files_made: u64,
    handles_made: u32,
}

impl NodeState {
    /// The state of a node for `heap`.
    pub fn new(device: Device, heap: HeapId) -> Self {
        let (files, handles) = (BTreeMap::new(), BTreeMap::new());
        Self { device, heap, files, handles, files_made: 0, handles_made: 0 }
    }

    /// A descriptor of the memory behind a buffer's handle, for user `uid`.
    ///
    /// # Errors
    /// EBADF: no such handle, one of another user, or no buffer. EMFILE: the server is out of
    /// descriptors.
    pub fn memory(&self, handle: u32, uid: u32) -> Result<OwnedFd, Errno> {
        let handle = self.handles.get(&handle).filter(|handle| may_use(uid, handle.uid));
        let memory = handle.and_then(|handle| handle.memory.as_ref()).ok_or(Errno::BADF)?;
        rustix::io::fcntl_dupfd_cloexec(memory, 0)
    }

    /// Whether there is any handle that `uid` may use.
    pub(super) fn has_handles_for(&self, uid: u32) -> bool {
        uid == 0 || self.handles.values().any(|handle| handle.uid == uid)
    }

    fn object(&self, file: OpenFile) -> Option<Object> {
        match self.files.get(&file)?.what {
            NodeFileKind::Heap => Some(Object::Heap(self.heap)),
            NodeFileKind::Handle(handle) => Some(self.handles.get(&handle)?.object),
        }
    }

    /// What a number in a request is: a handle is good where the kernel takes a descriptor.
    fn file_fact(&self, number: i32, uid: u32) -> FileFact {
        let handle = u32::try_from(number).ok().and_then(|number| self.handles.get(&number));
        let ours = handle.filter(|handle| may_use(uid, handle.uid));
        ours.map_or(FileFact::Other, |handle| FileFact::Ours(handle.object))
    }

    /// The request in the handler's terms, with as much fetched as `call` holds; and what it
    /// still wants.
    fn request(&self, object: Object, call: &Call, now_ns: u64) -> (Ioctl, Option<Extent>) {
        let mut request = Ioctl::new(object, call.cmd, call.arg);
        request.pid = call.pid;
        request.now_ns = now_ns;
        let uid = self.files.get(&call.file).map_or(u32::MAX, |file| file.uid);
        let mut pieces = call.memory.iter();
        let len_u32 = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        loop {
            match self.device.wants(&request) {
                None => return (request, None),
                Some(Want::Files(fds)) => {
                    request.files =
                        Some(fds.into_iter().map(|fd| self.file_fact(fd, uid)).collect());
                }
                Some(Want::Memory { addr, len }) => match pieces.next() {
                    Some(piece) => request.memory.push(piece.clone()),
                    None => return (request, Some(Extent { addr, len: len_u32(len) })),
                },
                Some(Want::Text { addr, max }) => {
                    let (first, rest) = text_extents(addr, len_u32(max));
                    let Some(mut text) = pieces.next().cloned() else {
                        return (request, Some(first));
                    };
                    if let Some(rest) = rest.filter(|_| !text.contains(&0)) {
                        let Some(tail) = pieces.next() else { return (request, Some(rest)) };
                        text.extend(tail);
                    }
                    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
                    text.truncate(end);
                    request.memory.push(text);
                }
            }
        }
    }

    /// Where FILE_INFO puts what it tells of each fence, once the argument was fetched.
    fn fence_array(&self, call: &Call) -> Option<Extent> {
        let Object::SyncFile(id) = self.object(call.file)? else { return None };
        let info = sync_file::FileInfo::from_bytes(call.memory.first()?)?;
        let count = u32::try_from(self.device.sync_file(id)?.fences.len()).ok()?;
        let len = u32::try_from(sync_file::FenceInfo::SIZE).ok()?.checked_mul(count)?;
        (info.num_fences >= count && len > 0).then_some(Extent { addr: info.sync_fence_info, len })
    }

    fn open_handle(&mut self, call: &Call) -> Result<(), Errno> {
        let number = u32::try_from(call.arg).map_err(|_| Errno::BADF)?;
        let file = self.files.get_mut(&call.file).ok_or(Errno::BADF)?;
        if !matches!(file.what, NodeFileKind::Heap) {
            return Err(Errno::BUSY);
        }
        let handle = self.handles.get_mut(&number).filter(|handle| may_use(file.uid, handle.uid));
        let handle = handle.ok_or(Errno::BADF)?;
        handle.opens += 1;
        handle.made_on = None;
        file.what = NodeFileKind::Handle(number);
        Ok(())
    }

    /// Gives out a handle where a descriptor would be installed.
    fn install(&mut self, call: &Call, install: Install) -> IoctlReply {
        let Install { object, mut structure, answer, .. } = install;
        let number = match self.make_handle(call.file, object) {
            Ok(number) => number,
            Err(errno) => {
                self.device.fail(object);
                return IoctlReply::Fail(errno);
            }
        };
        match answer {
            FdAnswer::Value => {
                IoctlReply::Reply { value: number.cast_signed(), writes: Vec::new() }
            }
            FdAnswer::Field(offset) => {
                if let Some(field) = structure.bytes.get_mut(offset..offset + 4) {
                    field.copy_from_slice(&number.to_ne_bytes());
                }
                let reply = Reply { value: 0, writes: vec![structure] };
                reply_to(call, reply)
            }
        }
    }

    /// EMFILE: this file has too many handles that nobody opened.
    fn make_handle(&mut self, file: OpenFile, object: Object) -> Result<u32, Errno> {
        let uid = self.files.get(&file).ok_or(Errno::BADF)?.uid;
        let unopened = |handle: &&Handle| handle.made_on == Some(file);
        let number =
            HANDLE_FIRST.checked_add(self.handles_made).filter(|&number| number < HANDLES_END);
        let number = number.ok_or(Errno::MFILE)?;
        if self.handles.values().filter(unopened).count() >= HANDLES_MAX {
            return Err(Errno::MFILE);
        }
        let memory = match object {
            Object::Buffer(id) => Some(self.make_memory(id)?),
            Object::SyncFile(_) | Object::Heap(_) | Object::Udmabuf | Object::Timeline(_) => None,
        };
        let made_on = Some(file);
        self.handles_made += 1;
        self.handles.insert(number, Handle { object, uid, memory, made_on, opens: 0 });
        Ok(number)
    }

    fn make_memory(&mut self, id: BufferId) -> Result<OwnedFd, Errno> {
        let buffer = self.device.buffer(id).ok_or(Errno::NOENT)?;
        let (file, made_of) = memory_file(buffer.size_bytes, buffer.backing, buffer.access.mode)?;
        let stat = rustix::fs::fstat(&file)?;
        let inode = Inode { dev: stat.st_dev, ino: stat.st_ino };
        if made_of != buffer.backing {
            self.device.stats.pfnmap_fallbacks += 1;
        }
        self.device.installed(Object::Buffer(id), inode, made_of);
        Ok(file)
    }

    fn release(&mut self, file: OpenFile) {
        if let Some(NodeFile { what: NodeFileKind::Handle(number), .. }) = self.files.remove(&file)
            && let Some(handle) = self.handles.get_mut(&number)
        {
            handle.opens = handle.opens.saturating_sub(1);
        }
        let Self { device, handles, .. } = self;
        handles.retain(|_, handle| {
            let unopened = handle.made_on == Some(file);
            let ends = unopened || (handle.opens == 0 && handle.made_on.is_none());
            if ends {
                device.release(handle.object);
            }
            !ends
        });
    }

    fn poll(&self, file: OpenFile) -> u32 {
        let pending = |id: BufferId, usage| {
            let buffer = self.device.buffer(id);
            buffer
                .is_some_and(|buffer| !buffer.resv.pending(usage, self.device.fences()).is_empty())
        };
        match self.object(file) {
            Some(Object::Buffer(id)) => {
                let readable = if pending(id, Usage::to_wait_for(false)) { 0 } else { POLL_IN };
                let writable = if pending(id, Usage::to_wait_for(true)) { 0 } else { POLL_OUT };
                readable | writable
            }
            Some(Object::SyncFile(id)) if self.device.sync_file_signalled(id) => POLL_IN,
            Some(Object::SyncFile(_)) => 0,
            // DEFAULT_POLLMASK: a heap has no poll of its own.
            _ => POLL_IN | POLL_OUT,
        }
    }
}

/// Root may use everything, others what is theirs.
fn may_use(uid: u32, owner: u32) -> bool {
    uid == owner || uid == 0
}

/// The file that a buffer's memory is, and what it turned out to be made of. A memfd_secret can't
/// be opened again with less than read and write.
fn memory_file(bytes: u64, wanted: Backing, mode: u32) -> Result<(OwnedFd, Backing), Errno> {
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    if wanted == Backing::Secret
        && let Ok(file) = backing::secret()
    {
        rustix::fs::ftruncate(&file, bytes).map_err(|_| Errno::NOMEM)?;
        return Ok((file, Backing::Secret));
    }
    let whole = backing::memfd("dmabuf").map_err(errno)?;
    rustix::fs::ftruncate(&whole, bytes).map_err(|_| Errno::NOMEM)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&whole, seals)?;
    let flags = OFlags::from_bits_retain(mode);
    let reopen = || backing::reopen(whole.as_fd(), flags).map_err(errno);
    Ok((if flags == OFlags::RDWR { whole } else { reopen()? }, Backing::Memfd))
}

/// The backend of /dev/dma_heap/NAME.
///
/// ALLOC, and what else would install a descriptor, answers a handle. A handle lives as long as
/// its object: until the last file that was made it by [`OPEN_HANDLE`] is closed or, if there
/// never was one, until the file is closed that it was made on.
///
/// **Differs from Linux**: a number in a request (`fd` of IMPORT_SYNC_FILE, `fd2` of MERGE) is
/// taken for a handle, since the caller's descriptors can't be looked up from here.
#[derive(Debug)]
pub struct HeapNode {
    state: Arc<Mutex<NodeState>>,
    now_ns: fn() -> u64,
}

impl HeapNode {
    /// The node of a state; `now_ns` reads CLOCK_MONOTONIC.
    pub fn new(state: Arc<Mutex<NodeState>>, now_ns: fn() -> u64) -> Self {
        Self { state, now_ns }
    }
}

impl Backend for HeapNode {
    fn open(&mut self, opener: Opener) -> Result<OpenFile, Errno> {
        let state = &mut *lock(&self.state);
        state.files_made += 1;
        let file = OpenFile(state.files_made);
        state.files.insert(file, NodeFile { what: NodeFileKind::Heap, uid: opener.uid });
        Ok(file)
    }

    fn wants(&self, call: &Call) -> Option<Extent> {
        if call.cmd == OPEN_HANDLE {
            return None;
        }
        let state = lock(&self.state);
        let object = state.object(call.file)?;
        state.request(object, call, 0).1
    }

    fn outputs(&self, call: &Call) -> Vec<Extent> {
        let len = ioc_size(call.cmd);
        let read_back = ioc_dir(call.cmd) & IOC_READ != 0 && len > 0 && call.cmd != OPEN_HANDLE;
        let mut outputs = Vec::from_iter(read_back.then_some(Extent { addr: call.arg, len }));
        if call.cmd == sync_file::FILE_INFO {
            outputs.extend(lock(&self.state).fence_array(call));
        }
        outputs
    }

    fn ioctl(&mut self, call: &Call) -> IoctlReply {
        let state = &mut *lock(&self.state);
        let Some(object) = state.object(call.file) else { return IoctlReply::Fail(Errno::BADF) };
        if call.cmd == OPEN_HANDLE {
            let done = IoctlReply::Reply { value: 0, writes: Vec::new() };
            return state.open_handle(call).map_or_else(IoctlReply::Fail, |()| done);
        }
        let now_ns = (self.now_ns)();
        let (request, _) = state.request(object, call, now_ns);
        state.device.trace.at(call.pid, now_ns);
        match state.device.ioctl(&request) {
            Action::Fail(errno) => IoctlReply::Fail(errno),
            // do_vfs_ioctl (fs/ioctl.c) has answered these before they come here.
            Action::Native => IoctlReply::Fail(Errno::NOTTY),
            Action::Wait(_) => IoctlReply::Wait,
            Action::Install(install) => state.install(call, install),
            Action::Reply(reply) => reply_to(call, reply),
        }
    }

    fn poll(&mut self, file: OpenFile) -> u32 {
        lock(&self.state).poll(file)
    }

    fn release(&mut self, file: OpenFile) {
        lock(&self.state).release(file);
    }
}

/// The bytes in the order of [`HeapNode::outputs`]: the argument itself, then what it points to.
fn reply_to(call: &Call, reply: Reply) -> IoctlReply {
    let Ok(value) = i32::try_from(reply.value) else { return IoctlReply::Fail(Errno::OVERFLOW) };
    let mut writes = reply.writes;
    // A command that reads nothing back has an empty piece, which outputs() does not name.
    writes.retain(|write| !write.bytes.is_empty());
    writes.sort_by_key(|write| write.addr != call.arg);
    IoctlReply::Reply { value, writes: writes.into_iter().map(|write| write.bytes).collect() }
}
