//! `struct stat` of x86-64 and arm64, `struct statx` and `struct statfs`, as the system calls write them.

#[cfg(target_arch = "x86_64")]
abi_struct! {
    /// `struct stat` of x86_64 (arch/x86/include/uapi/asm/stat.h).
    pub struct Stat: 144 {
        /// Device of the file system.
        0 => dev: u64,
        /// Inode number.
        8 => ino: u64,
        /// Links.
        16 => nlink: u64,
        /// Type and permission bits.
        24 => mode: u32,
        /// Owner.
        28 => uid: u32,
        /// Group.
        32 => gid: u32,
        /// Padding.
        36 => pad: u32,
        /// Device number of a device node.
        40 => rdev: u64,
        /// Bytes.
        48 => size: i64,
        /// Preferred block size in bytes.
        56 => blksize: i64,
        /// Blocks of 512 bytes.
        64 => blocks: i64,
        /// Access time, seconds and nanoseconds.
        72 => atime: [u8; 16],
        /// Modification time.
        88 => mtime: [u8; 16],
        /// Change time.
        104 => ctime: [u8; 16],
        /// Unused.
        120 => unused: [u8; 24],
    }
}

#[cfg(not(target_arch = "x86_64"))]
abi_struct! {
    /// `struct stat` of arm64 and other new architectures (include/uapi/asm-generic/stat.h).
    pub struct Stat: 128 {
        /// Device of the file system.
        0 => dev: u64,
        /// Inode number.
        8 => ino: u64,
        /// Type and permission bits.
        16 => mode: u32,
        /// Links.
        20 => nlink: u32,
        /// Owner.
        24 => uid: u32,
        /// Group.
        28 => gid: u32,
        /// Device number of a device node.
        32 => rdev: u64,
        /// Padding.
        40 => pad: u64,
        /// Bytes.
        48 => size: i64,
        /// Preferred block size in bytes.
        56 => blksize: i32,
        /// Padding.
        60 => pad2: i32,
        /// Blocks of 512 bytes.
        64 => blocks: i64,
        /// Access time, seconds and nanoseconds.
        72 => atime: [u8; 16],
        /// Modification time.
        88 => mtime: [u8; 16],
        /// Change time.
        104 => ctime: [u8; 16],
        /// Unused.
        120 => unused: [u8; 8],
    }
}

abi_struct! {
    /// `struct statx` (`<linux/stat.h>`), up to the fields that a device fills in.
    pub struct Statx: 256 {
        /// Fields that are valid.
        0 => mask: u32,
        /// Preferred block size in bytes.
        4 => blksize: u32,
        /// Attributes.
        8 => attributes: u64,
        /// Links.
        16 => nlink: u32,
        /// Owner.
        20 => uid: u32,
        /// Group.
        24 => gid: u32,
        /// Type and permission bits.
        28 => mode: u16,
        /// Padding.
        30 => pad: u16,
        /// Inode number.
        32 => ino: u64,
        /// Bytes.
        40 => size: u64,
        /// Blocks of 512 bytes.
        48 => blocks: u64,
        /// Attributes that are supported.
        56 => attributes_mask: u64,
        /// Access, birth, change and modification times.
        64 => times: [u8; 64],
        /// Device number of a device node, major.
        128 => rdev_major: u32,
        /// Device number of a device node, minor.
        132 => rdev_minor: u32,
        /// Device of the file system, major.
        136 => dev_major: u32,
        /// Device of the file system, minor.
        140 => dev_minor: u32,
        /// The rest: mount id, direct I/O alignment, spare.
        144 => rest: [u8; 112],
    }
}

/// STATX_BASIC_STATS.
pub const STATX_BASIC_STATS: u32 = 0x7ff;

abi_struct! {
    /// `struct statfs` of 64-bit architectures.
    pub struct Statfs: 120 {
        /// File system type: the magic number.
        0 => kind: u64,
        /// Block size.
        8 => bsize: u64,
        /// Block and inode counts, file system id.
        16 => counts: [u8; 48],
        /// Longest name.
        64 => namelen: u64,
        /// Fragment size.
        72 => frsize: u64,
        /// Mount flags and spare.
        80 => rest: [u8; 40],
    }
}
