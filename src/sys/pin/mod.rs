//! Kernel pins of user pages, made by the kernel's own drivers of DMA.
//!
//! | pin | kernel path | direction | held |
//! |---|---|---|---|
//! | [`UringPin`] | `pin_user_pages` with FOLL_WRITE and FOLL_LONGTERM | both | register to drop |
//! | [`VmsplicePin`] | `iov_iter_get_pages`, FOLL_GET, read-only | from memory | until the pipe is read |
//! | [`DirectFile`] | `iov_iter_extract_pages`, FOLL_PIN, FOLL_WRITE for a read | both | for one transfer |
//!
//! A registered buffer is the device that outlives a move: its transfers go to the pages that were
//! mapped at registration, whatever the PTEs say now. A transfer's other end is a pipe, so it is
//! in flight for exactly as long as the conductor withholds (or does not take) bytes.
//!
//! Every operation answers with the errno of its system call: EFAULT for a mapping that
//! get_user_pages refuses (VM_PFNMAP, memfd_secret, a trapped page under UFFD_USER_MODE_ONLY).
//!
//! **Differs from Linux:** nothing is emulated. vmsplice takes plain references (FOLL_GET) where
//! newer kernel interfaces take FOLL_PIN; a COW break that the latter prevents happens to it.

mod direct;
mod uring;
mod vmsplice;

pub use direct::DirectFile;
pub use uring::UringPin;
pub use vmsplice::VmsplicePin;
