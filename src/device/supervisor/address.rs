//! Calls on an address: what a VM_PFNMAP mapping answers, under `--strict`.
//!
//! Kernel counterpart: mm/{madvise,mremap,mprotect,mlock,msync}.c on a VMA with VM_PFNMAP,
//! VM_DONTEXPAND and VM_DONTDUMP, and VM_IO where remap_pfn_range made it (the system heap).

use rustix::io::Errno;

use super::{Decision, Supervisor, int, lock, uint};
use crate::device::maps::{self, Mapping};
use crate::device::{Buffer, Exporter, Object};
use crate::sys::notify::Call;
use crate::uapi::page_size;

impl Supervisor {
    pub(super) fn on_address(&mut self, call: &Call) -> Decision {
        match call.nr {
            libc::SYS_madvise => self.madvise(call),
            libc::SYS_mremap => self.mremap(call),
            libc::SYS_mprotect => self.mprotect(call),
            libc::SYS_mlock | libc::SYS_mlock2 => self.mlock(call),
            libc::SYS_msync => self.msync(call),
            _ => Decision::Native,
        }
    }

    /// The mapping of a file that holds address `addr`.
    fn mapped_file(call: &Call, addr: u64) -> Option<Mapping> {
        maps::files(call.tid)?.into_iter().find(|mapping| mapping.contains(addr))
    }

    /// The buffer whose mapping holds address `addr`.
    pub(super) fn mapped_buffer(&self, call: &Call, addr: u64) -> Option<Object> {
        let file = Self::mapped_file(call, addr)?;
        lock(&self.shared).files.by_inode(file.inode)
    }

    /// The buffer that one mapping shows in all of `addr .. addr + len`.
    fn buffer_under(&self, call: &Call, addr: u64, len: u64) -> Option<Buffer> {
        let file = Self::mapped_file(call, addr)?;
        if addr.checked_add(len)? > file.end {
            return None;
        }
        let shared = lock(&self.shared);
        match shared.files.by_inode(file.inode)? {
            Object::Buffer(id) => shared.device.buffer(id).cloned(),
            Object::Heap(_) | Object::Udmabuf | Object::SyncFile(_) | Object::Timeline(_) => None,
        }
    }

    /// A VM_PFNMAP or VM_IO mapping refuses advice that would drop or populate pages, and never
    /// gives up VM_DONTDUMP (VM_SPECIAL), nor VM_DONTCOPY where it has VM_IO
    /// (madvise_vma_behavior).
    fn madvise(&mut self, call: &Call) -> Decision {
        const REMOVE: i32 = 9;
        const DOFORK: i32 = 11;
        // DONTNEED, FREE, REMOVE, DOFORK, DODUMP, WIPEONFORK, COLD, PAGEOUT, POPULATE_READ,
        // POPULATE_WRITE, DONTNEED_LOCKED, COLLAPSE.
        const REFUSED: [i32; 12] = [4, 8, REMOVE, DOFORK, 17, 18, 20, 21, 22, 23, 24, 25];
        let [addr, _, advice, ..] = call.args;
        let advice = int(advice);
        if !REFUSED.contains(&advice) {
            return Decision::Native;
        }
        let Some(buffer) = self.buffer_under(call, addr, 0) else { return Decision::Native };
        match advice {
            REMOVE => Decision::Fail(Errno::NODEV),
            DOFORK if !is_of_a_heap(&buffer) => Decision::Native,
            _ => Decision::Fail(Errno::INVAL),
        }
    }

    /// VM_DONTEXPAND: growing is EFAULT; VM_PFNMAP: MREMAP_DONTUNMAP is EINVAL.
    fn mremap(&mut self, call: &Call) -> Decision {
        const MREMAP_DONTUNMAP: u64 = 4;
        let [addr, old_len, new_len, flags, ..] = call.args;
        let grows = new_len.div_ceil(page_size()) > old_len.div_ceil(page_size());
        if !grows && flags & MREMAP_DONTUNMAP == 0 {
            return self.mremap_live(call);
        }
        match self.mapped_buffer(call, addr) {
            Some(Object::Buffer(_)) if flags & MREMAP_DONTUNMAP != 0 => {
                Decision::Fail(Errno::INVAL)
            }
            Some(Object::Buffer(_)) => Decision::Fail(Errno::FAULT),
            _ => Decision::Native,
        }
    }

    /// A shared mapping of a file that is not open for writing has no VM_MAYWRITE (do_mmap). A
    /// udmabuf's file is always open for both.
    fn mprotect(&mut self, call: &Call) -> Decision {
        let [addr, _, prot, ..] = call.args;
        if uint(prot) & libc::PROT_WRITE.cast_unsigned() == 0 {
            return Decision::Native;
        }
        match self.buffer_under(call, addr, 0) {
            Some(buffer) if is_of_a_heap(&buffer) && !buffer.access.writes() => {
                Decision::Fail(Errno::ACCESS)
            }
            _ => Decision::Native,
        }
    }

    /// mlock skips VM_PFNMAP and VM_IO mappings (mlock_fixup: VM_SPECIAL).
    fn mlock(&mut self, call: &Call) -> Decision {
        const MLOCK_ONFAULT: u64 = 1;
        let [addr, len, flags, ..] = call.args;
        if call.nr == libc::SYS_mlock2 && flags & !MLOCK_ONFAULT != 0 {
            return Decision::Native;
        }
        match self.buffer_under(call, addr, len) {
            Some(_) => Decision::Value(0),
            None => Decision::Native,
        }
    }

    /// MS_INVALIDATE is EBUSY for a locked mapping only, and a VM_PFNMAP one is never locked.
    fn msync(&mut self, call: &Call) -> Decision {
        let [addr, len, flags, ..] = call.args;
        let flags = int(flags);
        let known = libc::MS_ASYNC | libc::MS_INVALIDATE;
        if flags & libc::MS_INVALIDATE == 0 || flags & !known != 0 || addr % page_size() != 0 {
            return Decision::Native;
        }
        match self.buffer_under(call, addr, len) {
            Some(_) => Decision::Value(0),
            None => Decision::Native,
        }
    }
}

/// Whether a heap exported the buffer; udmabuf did otherwise.
fn is_of_a_heap(buffer: &Buffer) -> bool {
    matches!(buffer.exporter, Exporter::Heap(_))
}
