//! Sync files: fences behind a file descriptor.
//!
//! Kernel counterpart: drivers/dma-buf/sync_file.c, and the export and import ioctls of
//! drivers/dma-buf/dma-buf.c. A sync file whose fences are all gone holds the stub fence, which
//! counts as one and has signalled.

use rustix::io::Errno;

use super::fence::{Fence, FenceState, timeline_passed};
use super::{
    Action, BufferId, Device, FdAnswer, FenceId, FileFact, Install, Ioctl, Object, Reply, SyncFile,
    SyncFileId, TimelineId, Write,
};
use crate::model::Usage;
use crate::uapi::dma_buf::{SYNC_RW, SYNC_WRITE, SyncFileArg};
use crate::uapi::sw_sync::CreateFence;
use crate::uapi::sync_file::{FenceInfo, FileInfo, MergeData};

/// A name as the ABI's 32-byte fields hold it: cut at 31 bytes, zero-filled.
fn name_field(name: &[u8]) -> [u8; 32] {
    let mut field = [0; 32];
    let len = name.len().min(31);
    field[..len].copy_from_slice(&name[..len]);
    field
}

/// The bytes of a 32-byte field up to its terminator, at most 31 (`strscpy`).
fn field_name(field: &[u8; 32]) -> Vec<u8> {
    field[..31].iter().copied().take_while(|&byte| byte != 0).collect()
}

/// The flag rule that export and import share.
fn check_flags(flags: u32) -> Result<bool, Errno> {
    let flags = u64::from(flags);
    if flags & !SYNC_RW != 0 || flags & SYNC_RW == 0 {
        return Err(Errno::INVAL);
    }
    Ok(flags & SYNC_WRITE != 0)
}

impl Device {
    /// Whether every fence of the sync file has signalled, what poll(IN) reports.
    pub fn sync_file_signalled(&self, id: SyncFileId) -> bool {
        self.sync_file(id).is_none_or(|file| self.fences.all_signalled(&file.fences))
    }

    /// `dma_buf_export_sync_file`: the fences that a new access of this kind has to wait for.
    pub(super) fn export_sync_file(
        &mut self,
        id: BufferId,
        request: &Ioctl,
    ) -> Result<Action, Errno> {
        let payload = request.payload()?;
        let arg = SyncFileArg::from_bytes(payload).ok_or(Errno::FAULT)?;
        let write = check_flags(arg.flags)?;
        let buffer = self.buffers.get(&id).ok_or(Errno::BADF)?;
        let fences = buffer.resv.pending(Usage::to_wait_for(write), &self.fences);
        self.install_sync_file(request, fences, None, FdAnswer::Field(4), payload.to_vec())
    }

    /// `dma_buf_import_sync_file`: adds the file's fences as a reader's or a writer's.
    pub(super) fn import_sync_file(
        &mut self,
        id: BufferId,
        request: &Ioctl,
    ) -> Result<Action, Errno> {
        let arg = SyncFileArg::from_bytes(request.payload()?).ok_or(Errno::FAULT)?;
        let usage = if check_flags(arg.flags)? { Usage::Write } else { Usage::Read };
        let Some(FileFact::Ours(Object::SyncFile(from))) = request.files().first() else {
            return Err(Errno::INVAL);
        };
        let fences = self.sync_file(*from).ok_or(Errno::INVAL)?.fences.clone();
        let buffer = self.buffers.get_mut(&id).ok_or(Errno::BADF)?;
        if buffer.resv.entries().len() + fences.len() > self.limits.fences {
            return Err(Errno::NOMEM);
        }
        for fence in fences {
            if !self.fences.is_signalled(fence) {
                buffer.resv.add(fence, usage, &self.fences);
            }
        }
        Ok(Action::done())
    }

    /// `sync_file_ioctl_set_deadline`: nothing but the padding is looked at.
    pub(super) fn set_deadline(&mut self, _: SyncFileId, request: &Ioctl) -> Result<Action, Errno> {
        let pad = request.payload()?.get(8..16).ok_or(Errno::FAULT)?;
        if pad.iter().all(|&byte| byte == 0) { Ok(Action::done()) } else { Err(Errno::INVAL) }
    }

    /// `sync_file_ioctl_merge`.
    pub(super) fn merge(&mut self, id: SyncFileId, request: &Ioctl) -> Result<Action, Errno> {
        let payload = request.payload()?;
        let arg = MergeData::from_bytes(payload).ok_or(Errno::FAULT)?;
        if arg.flags != 0 || arg.pad != 0 {
            return Err(Errno::INVAL);
        }
        let Some(FileFact::Ours(Object::SyncFile(other))) = request.files().first() else {
            return Err(Errno::NOENT);
        };
        let mut fences = self.sync_file(id).ok_or(Errno::BADF)?.fences.clone();
        fences.extend(&self.sync_file(*other).ok_or(Errno::NOENT)?.fences);
        let fences = self.merged(fences);
        let mut structure = payload.to_vec();
        structure.truncate(MergeData::SIZE);
        self.install_sync_file(
            request,
            fences,
            Some(field_name(&arg.name)),
            FdAnswer::Field(core::mem::offset_of!(MergeData, fence)),
            structure,
        )
    }

    /// `__dma_fence_unwrap_merge`: drops the signalled ones and, of each context, all but the
    /// latest.
    fn merged(&self, mut ids: Vec<FenceId>) -> Vec<FenceId> {
        ids.retain(|&id| !self.fences.is_signalled(id));
        ids.sort_unstable();
        ids.dedup();
        let key = |id: FenceId| self.fences.get(id).map(|fence| (fence.context, fence.seqno));
        let later = |a: FenceId, b: FenceId| match (key(a), key(b)) {
            (Some((ca, sa)), Some((cb, sb))) => ca == cb && (sb > sa || (sb == sa && b > a)),
            _ => false,
        };
        let latest: Vec<FenceId> =
            ids.iter().copied().filter(|&id| !ids.iter().any(|&other| later(id, other))).collect();
        latest
    }

    /// `sync_file_ioctl_fence_info`.
    pub(super) fn file_info(&mut self, id: SyncFileId, request: &Ioctl) -> Result<Action, Errno> {
        let mut info = FileInfo::from_bytes(request.payload()?).ok_or(Errno::FAULT)?;
        if info.flags != 0 || info.pad != 0 {
            return Err(Errno::INVAL);
        }
        let file = self.sync_file(id).ok_or(Errno::BADF)?;
        let fences: Vec<&Fence> =
            file.fences.iter().filter_map(|&fence| self.fences.get(fence)).collect();
        let count = u32::try_from(fences.len()).map_err(|_| Errno::NOMEM)?;
        let mut writes = Vec::new();
        if info.num_fences != 0 {
            if info.num_fences < count {
                return Err(Errno::INVAL);
            }
            let bytes = fences.iter().flat_map(|fence| fence_info(fence).to_bytes()).collect();
            writes.push(Write { addr: info.sync_fence_info, bytes });
        }
        // Fewer than 0 is an error, and one error is the whole file's.
        let status = fences.iter().map(|fence| fence.status()).min().unwrap_or(1);
        info.status = status;
        info.name = name_field(&file.name);
        info.num_fences = count;
        writes.push(Write { addr: request.arg, bytes: info.to_bytes().to_vec() });
        Ok(Action::Reply(Reply { value: 0, writes }))
    }

    /// `sw_sync_ioctl_create_fence`.
    pub(super) fn create_fence(
        &mut self,
        timeline_id: TimelineId,
        request: &Ioctl,
    ) -> Result<Action, Errno> {
        let payload = request.payload()?;
        let arg = CreateFence::from_bytes(payload).ok_or(Errno::FAULT)?;
        let fence = FenceId(self.take_id());
        let room = self.limits.timeline_fences;
        let timeline = self.timelines.get_mut(&timeline_id).ok_or(Errno::BADF)?;
        if timeline.pending.len() >= room {
            return Err(Errno::NOMEM);
        }
        let signalled = timeline_passed(timeline.value, arg.value);
        let state = if signalled {
            FenceState::Signalled { status: 1, at_ns: request.now_ns }
        } else {
            timeline.pending.push((arg.value, fence));
            FenceState::Active
        };
        self.fences.add(
            fence,
            Fence {
                driver: "sw_sync".into(),
                timeline: timeline.name.clone(),
                context: timeline_id.0,
                seqno: u64::from(arg.value),
                state,
            },
        );
        let answer = FdAnswer::Field(core::mem::offset_of!(CreateFence, fence));
        let structure = payload[..CreateFence::SIZE].to_vec();
        self.install_sync_file(request, vec![fence], None, answer, structure)
    }

    /// Makes a sync file of `fences` (the stub fence if there are none) and asks for its fd.
    fn install_sync_file(
        &mut self,
        request: &Ioctl,
        mut fences: Vec<FenceId>,
        name: Option<Vec<u8>>,
        answer: FdAnswer,
        structure: Vec<u8>,
    ) -> Result<Action, Errno> {
        if self.sync_files.len() >= self.limits.sync_files || fences.len() > self.limits.fences {
            return Err(Errno::NOMEM);
        }
        if fences.is_empty() {
            fences.push(self.stub_fence());
        }
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| self.file_name(&fences));
        let id = SyncFileId(self.take_id());
        self.sync_files.insert(id, SyncFile { name, fences });
        Ok(Action::Install(Install {
            object: Object::SyncFile(id),
            cloexec: true,
            structure: Write { addr: request.arg, bytes: structure },
            answer,
        }))
    }

    /// `dma_fence_get_stub`: a fence that has always been signalled.
    fn stub_fence(&mut self) -> FenceId {
        let id = FenceId(self.take_id());
        self.fences.add(
            id,
            Fence {
                driver: "stub".into(),
                timeline: "stub".into(),
                context: 0,
                seqno: 0,
                state: FenceState::Signalled { status: 1, at_ns: 0 },
            },
        );
        id
    }

    /// `sync_file_get_name`: driver-timeline, context, seqno of the only fence; an array of
    /// fences has driver `dma_fence_array` and no timeline of its own.
    fn file_name(&self, fences: &[FenceId]) -> Vec<u8> {
        let text = match fences {
            [only] => self.fences.get(*only).map(|fence| {
                format!("{}-{}{}-{}", fence.driver, fence.timeline, fence.context, fence.seqno)
            }),
            _ => None,
        };
        let mut name = text.unwrap_or_else(|| "dma_fence_array-unbound0-0".into()).into_bytes();
        name.truncate(31);
        name
    }
}

fn fence_info(fence: &Fence) -> FenceInfo {
    let timestamp_ns = match fence.state {
        FenceState::Active => 0,
        FenceState::Signalled { at_ns, .. } => at_ns,
    };
    FenceInfo {
        obj_name: name_field(fence.timeline.as_bytes()),
        driver_name: name_field(fence.driver.as_bytes()),
        status: fence.status(),
        flags: 0,
        timestamp_ns,
    }
}
