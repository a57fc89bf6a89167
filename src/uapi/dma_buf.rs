//! `<linux/dma-buf.h>`: the ioctls of a dma-buf file descriptor.

use super::{IOC_READ, IOC_WRITE, ioc};

abi_struct! {
    /// `struct dma_buf_sync`.
    pub struct Sync: 8 {
        /// [`SYNC_READ`], [`SYNC_WRITE`] and [`SYNC_END`] bits.
        0 => flags: u64,
    }
}

abi_struct! {
    /// `struct dma_buf_export_sync_file` and `struct dma_buf_import_sync_file`.
    pub struct SyncFileArg: 8 {
        /// [`SYNC_READ`] and [`SYNC_WRITE`] bits.
        0 => flags: u32,
        /// Export: the new sync_file on return. Import: the sync_file on entry.
        4 => fd: i32,
    }
}

/// DMA_BUF_SYNC_READ.
pub const SYNC_READ: u64 = 1;
/// DMA_BUF_SYNC_WRITE.
pub const SYNC_WRITE: u64 = 2;
/// DMA_BUF_SYNC_RW.
pub const SYNC_RW: u64 = SYNC_READ | SYNC_WRITE;
/// DMA_BUF_SYNC_END; its absence means start.
pub const SYNC_END: u64 = 4;

/// DMA_BUF_NAME_LEN: bytes of a name, its terminator included.
pub const NAME_LEN: usize = 32;

/// DMA_BUF_IOCTL_SYNC.
pub const SYNC: u32 = ioc(IOC_WRITE, b'b', 0, Sync::SIZE);
/// DMA_BUF_SET_NAME_A, the number that 32-bit and early 64-bit user space was built with.
pub const SET_NAME_A: u32 = ioc(IOC_WRITE, b'b', 1, 4);
/// DMA_BUF_SET_NAME_B, the 64-bit number.
pub const SET_NAME_B: u32 = ioc(IOC_WRITE, b'b', 1, 8);
/// DMA_BUF_IOCTL_EXPORT_SYNC_FILE.
pub const EXPORT_SYNC_FILE: u32 = ioc(IOC_READ | IOC_WRITE, b'b', 2, SyncFileArg::SIZE);
/// DMA_BUF_IOCTL_IMPORT_SYNC_FILE.
pub const IMPORT_SYNC_FILE: u32 = ioc(IOC_WRITE, b'b', 3, SyncFileArg::SIZE);

const _: () = {
    assert!(SYNC == 0x4008_6200);
    assert!(SET_NAME_A == 0x4004_6201);
    assert!(SET_NAME_B == 0x4008_6201);
    assert!(EXPORT_SYNC_FILE == 0xc008_6202);
    assert!(IMPORT_SYNC_FILE == 0x4008_6203);
};

/// DMA_BUF_MAGIC: the `f_type` that fstatfs gives for a dma-buf.
pub const MAGIC: u64 = 0x444d_4142;
