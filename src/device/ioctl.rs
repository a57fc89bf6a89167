//! Which ioctl is which: what each needs fetched, and who decides it.
//!
//! The dispatch follows `dma_heap_ioctl`, `dma_buf_ioctl`, `sync_file_ioctl`, `sw_sync_ioctl` and
//! `udmabuf_ioctl`, with their order of checks.

use rustix::io::Errno;

use super::fence::{Usage, timeline_passed};
use super::{Action, BufferId, Device, Exporter, Ioctl, Object, TimelineId, Want, heap, udmabuf};
use crate::uapi::{VFS_IOCTLS, dma_buf, ioc_size, sw_sync, sync_file};

impl Device {
    /// What has to be fetched before [`Device::ioctl`] can decide; `None` when nothing is.
    pub fn wants(&self, request: &Ioctl) -> Option<Want> {
        let plain = |len: u32| {
            let len = usize::try_from(len).ok()?;
            (len > 0 && request.memory.is_empty())
                .then_some(Want::Memory { addr: request.arg, len })
        };
        match (request.object, request.cmd) {
            (Object::Heap(_), cmd) => plain(heap::copied_in(cmd)),
            (Object::Buffer(_), dma_buf::SYNC | dma_buf::EXPORT_SYNC_FILE)
            | (Object::SyncFile(_), sync_file::FILE_INFO | sync_file::SET_DEADLINE)
            | (Object::Timeline(_), sw_sync::CREATE_FENCE | sw_sync::INC) => {
                plain(ioc_size(request.cmd))
            }
            (Object::Buffer(_), dma_buf::SET_NAME_A | dma_buf::SET_NAME_B) => request
                .memory
                .is_empty()
                .then_some(Want::Text { addr: request.arg, max: dma_buf::NAME_LEN }),
            (Object::Buffer(_), dma_buf::IMPORT_SYNC_FILE) => plain(8).or_else(|| {
                let arg = dma_buf::SyncFileArg::from_bytes(request.payload().ok()?)?;
                request.files.is_none().then_some(Want::Files(vec![arg.fd]))
            }),
            (Object::SyncFile(_), sync_file::MERGE) => plain(48).or_else(|| {
                let arg = sync_file::MergeData::from_bytes(request.payload().ok()?)?;
                request.files.is_none().then_some(Want::Files(vec![arg.fd2]))
            }),
            (Object::Udmabuf, _) => udmabuf::wants(request),
            (Object::Buffer(_) | Object::SyncFile(_) | Object::Timeline(_), _) => None,
        }
    }

    /// Decides one ioctl whose wants are met. A request with pieces missing is answered EFAULT.
    pub fn ioctl(&mut self, request: &Ioctl) -> Action {
        if VFS_IOCTLS.contains(&request.cmd) {
            return Action::Native;
        }
        let action = match request.object {
            Object::Heap(heap) => self.heap_ioctl(heap, request),
            Object::Buffer(id) => self.buffer_ioctl(id, request),
            Object::SyncFile(id) => self.sync_file_ioctl(id, request),
            Object::Timeline(id) => self.timeline_ioctl(id, request),
            Object::Udmabuf => self.udmabuf_ioctl(request),
        };
        let action = action.unwrap_or_else(Action::Fail);
        if !matches!(action, Action::Wait(_)) {
            self.stats.ioctls += 1;
        }
        if matches!(action, Action::Fail(_)) {
            self.stats.ioctl_errors += 1;
        }
        action
    }

    /// Decides an ioctl anew that has failed, which counts once.
    pub fn ioctl_again(&mut self, request: &Ioctl) -> Action {
        self.stats.ioctls = self.stats.ioctls.saturating_sub(1);
        self.stats.ioctl_errors = self.stats.ioctl_errors.saturating_sub(1);
        self.ioctl(request)
    }

    /// `dma_buf_ioctl`.
    fn buffer_ioctl(&mut self, id: BufferId, request: &Ioctl) -> Result<Action, Errno> {
        match request.cmd {
            dma_buf::SYNC => self.buffer_sync(id, request),
            dma_buf::SET_NAME_A | dma_buf::SET_NAME_B => self.buffer_set_name(id, request),
            dma_buf::EXPORT_SYNC_FILE => self.export_sync_file(id, request),
            dma_buf::IMPORT_SYNC_FILE => self.import_sync_file(id, request),
            _ => Err(Errno::NOTTY),
        }
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
        Ok(if pending.is_empty() { Action::done() } else { Action::Wait(pending) })
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

    /// `sw_sync_ioctl`.
    fn timeline_ioctl(&mut self, id: TimelineId, request: &Ioctl) -> Result<Action, Errno> {
        match request.cmd {
            sw_sync::CREATE_FENCE => self.create_fence(id, request),
            sw_sync::INC => {
                let by = request.payload()?.first_chunk().ok_or(Errno::FAULT)?;
                self.advance(id, u32::from_ne_bytes(*by), request.now_ns)?;
                Ok(Action::done())
            }
            _ => Err(Errno::NOTTY),
        }
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
