//! The bit sets of userfaultfd, by the kernel's names.

use bitflags::bitflags;

use crate::uapi::userfaultfd as uapi;

bitflags! {
    /// Features of the kernel's userfaultfd, `UFFD_FEATURE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Features: u64 {
        /// Write-protect faults on anonymous memory.
        const PAGEFAULT_FLAG_WP = 1 << 0;
        /// An event when the process forks. EPERM for who lacks CAP_SYS_PTRACE.
        const EVENT_FORK = 1 << 1;
        /// An event on mremap; without it the moved range is no longer trapped.
        const EVENT_REMAP = 1 << 2;
        /// An event on MADV_DONTNEED and MADV_REMOVE.
        const EVENT_REMOVE = 1 << 3;
        /// MISSING on hugetlb.
        const MISSING_HUGETLBFS = 1 << 4;
        /// MISSING on memfd and tmpfs.
        const MISSING_SHMEM = 1 << 5;
        /// An event on munmap.
        const EVENT_UNMAP = 1 << 6;
        /// SIGBUS instead of a message.
        const SIGBUS = 1 << 7;
        /// Messages carry the thread id.
        const THREAD_ID = 1 << 8;
        /// MINOR on hugetlb.
        const MINOR_HUGETLBFS = 1 << 9;
        /// MINOR on memfd and tmpfs.
        const MINOR_SHMEM = 1 << 10;
        /// Messages carry the address to the byte, not the page.
        const EXACT_ADDRESS = 1 << 11;
        /// Write-protect on memfd, tmpfs and hugetlb.
        const WP_HUGETLBFS_SHMEM = 1 << 12;
        /// Write-protect of pages that have no PTE yet.
        const WP_UNPOPULATED = 1 << 13;
        /// UFFDIO_POISON.
        const POISON = 1 << 14;
        /// Write-protect faults resolved by the kernel, for dirty tracking.
        const WP_ASYNC = 1 << 15;
        /// UFFDIO_MOVE, anonymous memory only.
        const MOVE = 1 << 16;
        /// A bit newer than this list.
        const _ = !0;
    }

    /// What a range is registered for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Modes: u64 {
        /// Faults on a page that does not exist.
        const MISSING = uapi::REGISTER_MODE_MISSING;
        /// Write faults on a PTE that `write_protect` marked.
        const WP = uapi::REGISTER_MODE_WP;
        /// Faults on a page that exists and has no PTE here.
        const MINOR = uapi::REGISTER_MODE_MINOR;
    }
}

/// What a resolved fault leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// A writable PTE where the VMA allows writes; sleepers are woken.
    Plain,
    /// A write-protected PTE: the next store is a WP fault. Sleepers are woken.
    WriteProtected,
}

impl Fill {
    pub(super) fn mode(self) -> u64 {
        match self {
            Self::Plain => 0,
            Self::WriteProtected => uapi::FILL_MODE_WP,
        }
    }
}
