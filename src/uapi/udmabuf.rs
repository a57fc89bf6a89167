//! `<linux/udmabuf.h>`: dma-bufs made of a memfd's pages.

use super::{IOC_WRITE, ioc};

abi_struct! {
    /// `struct udmabuf_create`.
    pub struct Create: 24 {
        /// The memfd, sealed F_SEAL_SHRINK and not F_SEAL_WRITE.
        0 => memfd: u32,
        /// [`FLAGS_CLOEXEC`]; other bits are ignored.
        4 => flags: u32,
        /// First byte, page aligned.
        8 => offset: u64,
        /// Bytes, page aligned, not 0.
        16 => size: u64,
    }
}

abi_struct! {
    /// `struct udmabuf_create_list`, before its items.
    pub struct CreateList: 8 {
        /// [`FLAGS_CLOEXEC`]; other bits are ignored.
        0 => flags: u32,
        /// Items that follow.
        4 => count: u32,
    }
}

abi_struct! {
    /// `struct udmabuf_create_item`.
    pub struct CreateItem: 24 {
        /// The memfd.
        0 => memfd: u32,
        /// Ignored.
        4 => pad: u32,
        /// First byte, page aligned.
        8 => offset: u64,
        /// Bytes, page aligned, not 0.
        16 => size: u64,
    }
}

/// UDMABUF_CREATE; the new file descriptor is the return value.
pub const CREATE: u32 = ioc(IOC_WRITE, b'u', 0x42, Create::SIZE);
/// UDMABUF_CREATE_LIST; the new file descriptor is the return value.
pub const CREATE_LIST: u32 = ioc(IOC_WRITE, b'u', 0x43, CreateList::SIZE);
/// UDMABUF_FLAGS_CLOEXEC.
pub const FLAGS_CLOEXEC: u32 = 1;

/// The driver's `list_limit`: most items of one buffer.
pub const LIST_LIMIT: u32 = 1024;
/// The driver's `size_limit_mb`: most bytes of one buffer.
pub const SIZE_LIMIT_BYTES: u64 = 64 << 20;

/// F_SEAL_SHRINK.
pub const SEAL_SHRINK: u32 = 0x2;
/// F_SEAL_WRITE and F_SEAL_FUTURE_WRITE: a buffer could not be written, so udmabuf refuses them.
pub const SEALS_DENIED: u32 = 0x8 | 0x10;

const _: () = {
    assert!(CREATE == 0x4018_7542);
    assert!(CREATE_LIST == 0x4008_7543);
};
