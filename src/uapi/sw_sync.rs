//! The ioctls of /sys/kernel/debug/sync/sw_sync (drivers/dma-buf/sw_sync.c): fences that a test
//! creates and signals itself.

use super::{IOC_READ, IOC_WRITE, ioc};

abi_struct! {
    /// `struct sw_sync_create_fence_data`.
    pub struct CreateFence: 40 {
        /// The timeline's value at which the fence signals.
        0 => value: u32,
        /// Name of the fence; the kernel keeps it out of every reply.
        4 => name: [u8; 32],
        /// The new sync_file on return.
        36 => fence: i32,
    }
}

/// SW_SYNC_IOC_CREATE_FENCE.
pub const CREATE_FENCE: u32 = ioc(IOC_READ | IOC_WRITE, b'W', 0, CreateFence::SIZE);
/// SW_SYNC_IOC_INC: the argument points to the `u32` to advance the timeline by.
pub const INC: u32 = ioc(IOC_WRITE, b'W', 1, 4);

const _: () = {
    assert!(CREATE_FENCE == 0xc028_5700);
    assert!(INC == 0x4004_5701);
};
