//! The ioctls, a row each: on which file it is made, what its argument is, who decides it.
//!
//! The dispatch follows `dma_heap_ioctl`, `dma_buf_ioctl`, `sync_file_ioctl`, `sw_sync_ioctl` and
//! `udmabuf_ioctl`, with their order of checks. What a supervisor asks the kernel to hand over
//! ([`handed_over`]) follows from the same rows.

use std::mem::offset_of;

use rustix::io::Errno;

use super::fence::timeline_passed;
use super::{
    Action, BufferId, Device, Exporter, HeapId, Ioctl, Object, SyncFileId, TimelineId, Want, heap,
    udmabuf,
};
use crate::model::Usage;
use crate::uapi::dma_buf::{self, SyncFileArg};
use crate::uapi::sync_file::{self, MergeData};
use crate::uapi::{self, VFS_IOCTLS, dma_heap, ioc_size, sw_sync};

type Decided = Result<Action, Errno>;

/// What an argument is, which has to be fetched before the ioctl can be decided.
#[derive(Clone, Copy)]
enum Argument {
    /// The address of a structure, whose size the command says.
    Structure,
    /// The same, and in it, this many bytes from its begin, is a descriptor of the caller's.
    WithFile(usize),
    /// The address of a string with so many bytes at most.
    Text(usize),
    /// The function says what is missing.
    Own(fn(&Ioctl) -> Option<Want>),
}

/// Which file the ioctl is made on, and who decides it.
#[derive(Clone, Copy)]
enum Handler {
    Heap(fn(&mut Device, HeapId, &Ioctl) -> Decided),
    Udmabuf(fn(&mut Device, &Ioctl) -> Decided),
    Timeline(fn(&mut Device, TimelineId, &Ioctl) -> Decided),
    Buffer(fn(&mut Device, BufferId, &Ioctl) -> Decided),
    SyncFile(fn(&mut Device, SyncFileId, &Ioctl) -> Decided),
}

struct Row {
    cmd: u32,
    argument: Argument,
    handler: Handler,
}

const fn row(cmd: u32, argument: Argument, handler: Handler) -> Row {
    Row { cmd, argument, handler }
}

const IOCTLS: [Row; 13] = {
    use Argument::{Own, Structure, Text, WithFile};
    use Handler::{Buffer, Heap, SyncFile, Timeline, Udmabuf};
    let name = Text(dma_buf::NAME_LEN);
    let imported = WithFile(offset_of!(SyncFileArg, fd));
    let merged = WithFile(offset_of!(MergeData, fd2));
    [
        row(dma_heap::ALLOC, Own(heap::wants), Heap(Device::heap_alloc)),
        row(uapi::udmabuf::CREATE, Own(udmabuf::wants), Udmabuf(Device::udmabuf_create)),
        row(uapi::udmabuf::CREATE_LIST, Own(udmabuf::wants), Udmabuf(Device::udmabuf_create)),
        row(dma_buf::SYNC, Structure, Buffer(Device::buffer_sync)),
        row(dma_buf::SET_NAME_A, name, Buffer(Device::buffer_set_name)),
        row(dma_buf::SET_NAME_B, name, Buffer(Device::buffer_set_name)),
        row(dma_buf::EXPORT_SYNC_FILE, Structure, Buffer(Device::export_sync_file)),
        row(dma_buf::IMPORT_SYNC_FILE, imported, Buffer(Device::import_sync_file)),
        row(sync_file::MERGE, merged, SyncFile(Device::merge)),
        row(sync_file::FILE_INFO, Structure, SyncFile(Device::file_info)),
        row(sync_file::SET_DEADLINE, Structure, SyncFile(Device::set_deadline)),
        row(sw_sync::CREATE_FENCE, Structure, Timeline(Device::create_fence)),
        row(sw_sync::INC, Structure, Timeline(Device::increase)),
    ]
};

/// Type letter and number of a command. Its size may change with the argument's.
pub const TYPE_AND_NR: u32 = 0xffff;

/// What tells our ioctls from others: [`TYPE_AND_NR`] of each.
pub fn handed_over() -> Vec<u32> {
    let mut numbers: Vec<u32> = IOCTLS.iter().map(|row| row.cmd & TYPE_AND_NR).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

impl Row {
    /// Whether it is about a command on a file.
    fn is_of(&self, object: Object, cmd: u32) -> bool {
        match (self.handler, object) {
            (Handler::Heap(_), Object::Heap(_)) => heap::is_alloc(cmd),
            (Handler::Udmabuf(_), Object::Udmabuf)
            | (Handler::Timeline(_), Object::Timeline(_))
            | (Handler::Buffer(_), Object::Buffer(_))
            | (Handler::SyncFile(_), Object::SyncFile(_)) => self.cmd == cmd,
            _ => false,
        }
    }

    fn of(request: &Ioctl) -> Option<&'static Self> {
        const ROWS: &[Row] = &IOCTLS;
        ROWS.iter().find(|row| row.is_of(request.object, request.cmd))
    }
}

impl Argument {
    fn wants(self, request: &Ioctl) -> Option<Want> {
        let addr = request.arg;
        let structure = || {
            let len = usize::try_from(ioc_size(request.cmd)).ok()?;
            request.memory.is_empty().then_some(Want::Memory { addr, len })
        };
        match self {
            Self::Structure => structure(),
            Self::WithFile(at) => structure().or_else(|| {
                let fd = request.payload().ok()?.get(at..)?.first_chunk()?;
                let fds = vec![i32::from_ne_bytes(*fd)];
                request.files.is_none().then_some(Want::Files(fds))
            }),
            Self::Text(max) => request.memory.is_empty().then_some(Want::Text { addr, max }),
            Self::Own(wants) => wants(request),
        }
    }
}

impl Device {
    /// What has to be fetched before [`Device::ioctl`] can decide; `None` when nothing is.
    pub fn wants(&self, request: &Ioctl) -> Option<Want> {
        Row::of(request)?.argument.wants(request)
    }

    /// Decides one ioctl whose wants are met. A request with pieces missing is answered EFAULT.
    pub fn ioctl(&mut self, request: &Ioctl) -> Action {
        if VFS_IOCTLS.contains(&request.cmd) {
            return Action::Native;
        }
        let action = self.decide(request).unwrap_or_else(Action::Fail);
        if !matches!(action, Action::Wait(_)) {
            self.stats.ioctls += 1;
        }
        if matches!(action, Action::Fail(_)) {
            self.stats.ioctl_errors += 1;
        }
        action
    }

    fn decide(&mut self, request: &Ioctl) -> Decided {
        let unknown = match request.object {
            Object::Heap(_) => Errno::INVAL,
            Object::Udmabuf | Object::Timeline(_) | Object::Buffer(_) | Object::SyncFile(_) => {
                Errno::NOTTY
            }
        };
        match (Row::of(request).ok_or(unknown)?.handler, request.object) {
            (Handler::Heap(decide), Object::Heap(heap)) => decide(self, heap, request),
            (Handler::Udmabuf(decide), Object::Udmabuf) => decide(self, request),
            (Handler::Timeline(decide), Object::Timeline(id)) => decide(self, id, request),
            (Handler::Buffer(decide), Object::Buffer(id)) => decide(self, id, request),
            (Handler::SyncFile(decide), Object::SyncFile(id)) => decide(self, id, request),
            _ => Err(unknown),
        }
    }

    /// Decides an ioctl anew that has failed, which counts once.
    pub fn ioctl_again(&mut self, request: &Ioctl) -> Action {
        self.stats.ioctls = self.stats.ioctls.saturating_sub(1);
        self.stats.ioctl_errors = self.stats.ioctl_errors.saturating_sub(1);
        self.ioctl(request)
    }

    /// DMA_BUF_IOCTL_SYNC: START waits for the fences that the access conflicts with.
    fn buffer_sync(&mut self, id: BufferId, request: &Ioctl) -> Result<Action, Errno> {
        let arg = dma_buf::Sync::from_bytes(request.payload()?).ok_or(Errno::FAULT)?;
        if arg.flags & !(dma_buf::SYNC_RW | dma_buf::SYNC_END) != 0
            || arg.flags & dma_buf::SYNC_RW == 0
        {
            return Err(Errno::INVAL);
        }
        let buffer = self.buffers.get_mut(&id).ok_or(Errno::BADF)?;
        if let Exporter::Udmabuf { mapped, .. } = &mut buffer.exporter {
            if arg.flags & dma_buf::SYNC_END != 0 && !*mapped {
                return Err(Errno::INVAL);
            }
            *mapped = true;
        }
        if arg.flags & dma_buf::SYNC_END != 0 {
            return Ok(Action::done());
        }
        let usage = Usage::to_wait_for(arg.flags & dma_buf::SYNC_WRITE != 0);
        let pending = buffer.resv.pending(usage, &self.fences);
        let goes_on = pending.is_empty() || request.has_waited;
        Ok(if goes_on { Action::done() } else { Action::Wait(pending) })
    }

    /// `dma_buf_set_name`: `strndup_user` takes at most 31 characters.
    fn buffer_set_name(&mut self, id: BufferId, request: &Ioctl) -> Result<Action, Errno> {
        let name = request.payload()?;
        if name.len() >= dma_buf::NAME_LEN {
            return Err(Errno::INVAL);
        }
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        let buffer = self.buffers.get_mut(&id).ok_or(Errno::BADF)?;
        buffer.name = Some(name[..end].to_vec());
        self.seen.named(&name[..end]);
        Ok(Action::done())
    }

    /// `sw_sync_ioctl_inc`.
    fn increase(&mut self, id: TimelineId, request: &Ioctl) -> Decided {
        let by = request.payload()?.first_chunk().ok_or(Errno::FAULT)?;
        self.advance(id, u32::from_ne_bytes(*by), request.now_ns)?;
        Ok(Action::done())
    }

    /// Advances a timeline and signals what it passes (`sync_timeline_signal`).
    ///
    /// # Errors
    /// EBADF: no such timeline.
    pub fn advance(&mut self, id: TimelineId, by: u32, now_ns: u64) -> Result<(), Errno> {
        let timeline = self.timelines.get_mut(&id).ok_or(Errno::BADF)?;
        timeline.value = timeline.value.wrapping_add(by);
        let value = timeline.value;
        for (_, fence) in timeline.pending.extract_if(.., |(at, _)| timeline_passed(value, *at)) {
            self.fences.signal(fence, 1, now_ns);
        }
        Ok(())
    }
}
