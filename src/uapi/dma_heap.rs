//! `<linux/dma-heap.h>`: the ioctl of /dev/dma_heap/NAME.

use super::{IOC_READ, IOC_WRITE, ioc};

abi_struct! {
    /// `struct dma_heap_allocation_data`.
    pub struct AllocationData: 24 {
        /// Bytes asked for; rounded up to pages by the heap, and not changed in the reply.
        0 => len: u64,
        /// The dma-buf's file descriptor on return; 0 on entry.
        8 => fd: u32,
        /// Access mode and O_CLOEXEC of the new file descriptor.
        12 => fd_flags: u32,
        /// No flag is defined: 0.
        16 => heap_flags: u64,
    }
}

/// DMA_HEAP_IOCTL_ALLOC, `_IOWR('H', 0, struct dma_heap_allocation_data)`.
pub const ALLOC: u32 = ioc(IOC_READ | IOC_WRITE, b'H', 0, AllocationData::SIZE);
const _: () = assert!(ALLOC == 0xc018_4800);

/// O_ACCMODE: the access mode within `fd_flags`.
pub const O_ACCMODE: u32 = 3;
/// O_CLOEXEC of x86_64 and aarch64.
pub const O_CLOEXEC: u32 = 0o2_000_000;
/// DMA_HEAP_VALID_FD_FLAGS.
pub const VALID_FD_FLAGS: u32 = O_CLOEXEC | O_ACCMODE;
