//! The kernel's user-space ABI for dma-bufs: structures, ioctl numbers, flag bits.
//!
//! Every structure is declared once, through `abi_struct!`, which asserts its size and the
//! offset of each field at compile time and gives it a byte form. Nothing here performs I/O.
//! `tests/uapi.rs` compares the numbers with the kernel's own headers, as the C compiler sees them.

/// Declares a `#[repr(C)]` structure of the kernel ABI with its size and field offsets, checked
/// at compile time, and conversions from and to bytes in native byte order.
macro_rules! abi_struct {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal {
            $($(#[$fmeta:meta])* $offset:literal => $field:ident: $ty:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: $ty,)*
        }

        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)*
        };

        impl $name {
            /// Size of the structure as the kernel lays it out, in bytes.
            pub const SIZE: usize = $size;

            /// All fields zero.
            pub const ZERO: Self = Self { $($field: <$ty as $crate::uapi::Field>::ZERO,)* };

            /// Reads the structure from the first [`Self::SIZE`] bytes; `None` if there are fewer.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                if bytes.len() < Self::SIZE {
                    return None;
                }
                Some(Self {
                    $($field: <$ty as $crate::uapi::Field>::get(&bytes[$offset..])?,)*
                })
            }

            /// The structure as the kernel would copy it to user space; padding is zero.
            pub fn to_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $($crate::uapi::Field::put(&self.$field, &mut bytes[$offset..]);)*
                bytes
            }
        }
    };
}

pub mod dma_buf;
pub mod dma_heap;
pub mod fuse;
pub mod lab;
pub mod stat;
pub mod sw_sync;
pub mod sync_file;
pub mod udmabuf;
pub mod userfaultfd;

/// A field of an ABI structure: a fixed-width integer or a byte array.
pub trait Field: Sized {
    /// All bits zero.
    const ZERO: Self;
    /// Reads the field from the start of `bytes`; `None` if they are too short.
    fn get(bytes: &[u8]) -> Option<Self>;
    /// Writes the field to the start of `bytes`, which hold at least the field's size.
    fn put(&self, bytes: &mut [u8]);
}

macro_rules! integer_field {
    ($($ty:ty),*) => {$(
        impl Field for $ty {
            const ZERO: Self = 0;
            fn get(bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(|chunk| <$ty>::from_ne_bytes(*chunk))
            }
            fn put(&self, bytes: &mut [u8]) {
                bytes[..size_of::<$ty>()].copy_from_slice(&self.to_ne_bytes());
            }
        }
    )*};
}

integer_field!(u16, u32, i32, u64, i64);

impl<const N: usize> Field for [u8; N] {
    const ZERO: Self = [0; N];
    fn get(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied()
    }
    fn put(&self, bytes: &mut [u8]) {
        bytes[..N].copy_from_slice(self);
    }
}

/// Bytes of a page of this machine, as the kernel told this process when it began (AT_PAGESZ).
#[must_use]
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// `_IOC_WRITE`: user space writes, the kernel reads the argument.
pub const IOC_WRITE: u32 = 1;
/// `_IOC_READ`: the kernel writes the argument back.
pub const IOC_READ: u32 = 2;

/// `_IOC(dir, type, nr, size)` of `<asm-generic/ioctl.h>`.
pub const fn ioc(dir: u32, kind: u8, nr: u8, size_bytes: usize) -> u32 {
    assert!(size_bytes < 1 << 14);
    #[expect(clippy::cast_possible_truncation, reason = "asserted to fit 14 bits")]
    let size = size_bytes as u32;
    dir << 30 | size << 16 | (kind as u32) << 8 | nr as u32
}

/// `_IOC_NR`: the command's number within its type letter.
pub const fn ioc_nr(cmd: u32) -> u32 {
    cmd & 0xff
}

/// `_IOC_SIZE`: bytes of the argument that the command says it carries.
pub const fn ioc_size(cmd: u32) -> u32 {
    cmd >> 16 & 0x3fff
}

/// `_IOC_DIR`: [`IOC_READ`] and [`IOC_WRITE`] bits of the command.
pub const fn ioc_dir(cmd: u32) -> u32 {
    cmd >> 30
}

/// ioctls that `do_vfs_ioctl` (fs/ioctl.c) answers before a driver sees them: FIONCLEX, FIOCLEX,
/// FIONBIO.
pub const VFS_IOCTLS: [u32; 3] = [0x5450, 0x5451, 0x5421];
