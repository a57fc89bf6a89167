//! `<linux/sync_file.h>`: the ioctls of a sync_file.

use super::{IOC_READ, IOC_WRITE, ioc};

abi_struct! {
    /// `struct sync_merge_data`.
    pub struct MergeData: 48 {
        /// Name of the new sync_file, cut at 31 characters.
        0 => name: [u8; 32],
        /// The other sync_file.
        32 => fd2: i32,
        /// The new sync_file on return.
        36 => fence: i32,
        /// 0.
        40 => flags: u32,
        /// 0.
        44 => pad: u32,
    }
}

abi_struct! {
    /// `struct sync_file_info`.
    pub struct FileInfo: 56 {
        /// Name of the sync_file.
        0 => name: [u8; 32],
        /// 1 signalled, 0 active, negative errno on error.
        32 => status: i32,
        /// 0.
        36 => flags: u32,
        /// Entry: room at `sync_fence_info`, 0 asks for the count. Return: the count.
        40 => num_fences: u32,
        /// 0.
        44 => pad: u32,
        /// User pointer to an array of [`FenceInfo`].
        48 => sync_fence_info: u64,
    }
}

abi_struct! {
    /// `struct sync_fence_info`.
    pub struct FenceInfo: 80 {
        /// Timeline's name.
        0 => obj_name: [u8; 32],
        /// Driver's name.
        32 => driver_name: [u8; 32],
        /// 1 signalled, 0 active, negative errno on error.
        64 => status: i32,
        /// 0.
        68 => flags: u32,
        /// When it signalled, CLOCK_MONOTONIC.
        72 => timestamp_ns: u64,
    }
}

abi_struct! {
    /// `struct sync_set_deadline`.
    pub struct SetDeadline: 16 {
        /// CLOCK_MONOTONIC time by which the caller wants the fence signalled.
        0 => deadline_ns: u64,
        /// 0.
        8 => pad: u64,
    }
}

/// SYNC_IOC_MERGE.
pub const MERGE: u32 = ioc(IOC_READ | IOC_WRITE, b'>', 3, MergeData::SIZE);
/// SYNC_IOC_FILE_INFO.
pub const FILE_INFO: u32 = ioc(IOC_READ | IOC_WRITE, b'>', 4, FileInfo::SIZE);
/// SYNC_IOC_SET_DEADLINE.
pub const SET_DEADLINE: u32 = ioc(IOC_WRITE, b'>', 5, SetDeadline::SIZE);

const _: () = {
    assert!(MERGE == 0xc030_3e03);
    assert!(FILE_INFO == 0xc038_3e04);
    assert!(SET_DEADLINE == 0x4010_3e05);
};
