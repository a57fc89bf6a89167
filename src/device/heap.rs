//! DMA_HEAP_IOCTL_ALLOC.
//!
//! Kernel counterpart: `dma_heap_ioctl` and `dma_heap_ioctl_allocate` (drivers/dma-buf/dma-heap.c).
//! The command's type letter is never looked at, its size is taken from the command: a shorter
//! argument is zero-filled, a longer one loses its tail.
//!
//! **Differs from Linux**: a length beyond memory is ENOMEM at once, where the system heap lets
//! the OOM killer decide.

use rustix::io::Errno;

use super::{
    Action, Backing, Buffer, BufferId, Device, Exporter, FdAnswer, HeapId, Inode, Install, Ioctl,
    Object, OpenMode, Resv, Want, Write,
};
use crate::model::{Life, Placement};
use crate::uapi::{
    IOC_READ, IOC_WRITE, dma_heap, dma_heap::AllocationData, ioc_dir, ioc_nr, ioc_size,
};

/// Whether the command's number is the heap's ALLOC, whatever its type letter and size.
pub(super) fn is_alloc(cmd: u32) -> bool {
    ioc_nr(cmd) == 0
}

/// Bytes that the command makes the kernel copy in; 0 when it is not ALLOC.
fn copied_in(cmd: u32) -> u32 {
    if is_alloc(cmd) && ioc_dir(cmd) & IOC_WRITE != 0 { ioc_size(cmd) } else { 0 }
}

pub(super) fn wants(request: &Ioctl) -> Option<Want> {
    let len = usize::try_from(copied_in(request.cmd)).ok()?;
    (len > 0 && request.memory.is_empty()).then_some(Want::Memory { addr: request.arg, len })
}

/// Bytes that it makes the kernel copy back.
fn copied_out(cmd: u32) -> usize {
    if ioc_dir(cmd) & IOC_READ == 0 {
        return 0;
    }
    usize::try_from(ioc_size(cmd)).unwrap_or(0)
}

impl Device {
    /// `dma_heap_ioctl` and `dma_heap_ioctl_allocate`.
    pub(super) fn heap_alloc(&mut self, heap: HeapId, request: &Ioctl) -> Result<Action, Errno> {
        let mut data = request.memory.first().cloned().unwrap_or_default();
        let expected = usize::try_from(copied_in(request.cmd)).unwrap_or(0);
        if data.len() < expected {
            return Err(Errno::FAULT);
        }
        let out = copied_out(request.cmd);
        data.resize(AllocationData::SIZE.max(out), 0);
        let ask = AllocationData::from_bytes(&data).ok_or(Errno::FAULT)?;
        if ask.fd != 0 || ask.fd_flags & !dma_heap::VALID_FD_FLAGS != 0 || ask.heap_flags != 0 {
            return Err(Errno::INVAL);
        }
        let access = OpenMode { mode: ask.fd_flags & dma_heap::O_ACCMODE };
        let buffer = self.allocate(heap, ask.len, access, request.pid)?;
        data.truncate(out);
        Ok(Action::Install(Install {
            object: Object::Buffer(buffer),
            cloexec: ask.fd_flags & dma_heap::O_CLOEXEC != 0,
            structure: Write { addr: request.arg, bytes: data },
            answer: FdAnswer::Field(core::mem::offset_of!(AllocationData, fd)),
        }))
    }

    /// `dma_heap_buffer_alloc`: rounds up to pages, then asks the quotas.
    fn allocate(
        &mut self,
        heap: HeapId,
        len: u64,
        access: OpenMode,
        pid: i32,
    ) -> Result<BufferId, Errno> {
        // PAGE_ALIGN wraps to 0 within a page of the end of the address space.
        let size_bytes = len.checked_next_multiple_of(self.limits().page_bytes).unwrap_or(0);
        if size_bytes == 0 {
            return Err(Errno::INVAL);
        }
        let config = self.heap_config(heap).ok_or(Errno::BADF)?.clone();
        self.check_quota(size_bytes)?;
        let in_heap = self.totals.heap_bytes.get(&heap).copied().unwrap_or(0);
        let heap_limit = config.size_bytes.unwrap_or(u64::MAX);
        if in_heap.checked_add(size_bytes).is_none_or(|sum| sum > heap_limit) {
            return Err(Errno::NOMEM);
        }
        let backing = if config.refuses_gup() { Backing::Secret } else { Backing::Memfd };
        Ok(self.insert_buffer(Buffer {
            exporter: Exporter::Heap(heap),
            exp_name: config.name,
            name: None,
            size_bytes,
            access,
            backing,
            inode: Inode::default(),
            pid,
            placement: Placement::Vram,
            life: Life::Live,
            resv: Resv::default(),
            cow: config.rules.cow,
        }))
    }
}
