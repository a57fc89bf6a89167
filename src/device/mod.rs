//! The device: a dma-buf heap that unmodified programs use.
//!
//! Kernel counterpart: drivers/dma-buf/{dma-heap,dma-buf,sync_file,sw_sync,udmabuf}.c of
//! Linux 6.12 to 7.2. [`Device`] is the pure part: it makes no system call, reads no clock and
//! touches no memory but its own. A transport ([`supervisor`] or [`fuse`]) does this for each
//! request:
//!
//! 1. Ask [`Device::wants`] which of the caller's memory and files the request needs, fetch them
//!    once into the [`Ioctl`], and ask again until it wants nothing. A failed fetch is EFAULT.
//! 2. Call [`Device::ioctl`] and do what the [`Action`] says: answer, install a file, or wait for
//!    fences and come back with the same request.
//! 3. After an [`Action::Install`], report [`Device::installed`] or [`Device::abandon`].
//!
//! Other calls on a file (mmap, lseek, read, ...) are one question each: [`Device::call`].
//!
//! ```
//! use driftheap::device::{Action, Device, HeapConfig, Ioctl, Limits, Object};
//! use driftheap::uapi::dma_heap::{ALLOC, AllocationData};
//!
//! let mut device = Device::new(vec![HeapConfig::new("system")], Limits::default());
//! let heap = device.heap("system").map(Object::Heap).expect("configured");
//! let ask = AllocationData { len: 5000, fd: 0, fd_flags: 2, heap_flags: 0 };
//! let request = Ioctl::new(heap, ALLOC, 0x1000).with_memory(ask.to_bytes());
//! let Action::Install(install) = device.ioctl(&request) else { panic!("refused") };
//! let Object::Buffer(buffer) = install.object else { panic!("not a buffer") };
//! assert_eq!(device.buffer(buffer).map(|b| b.size_bytes), Some(8192));
//! ```
//!
//! **Differs from Linux**: devices attach to buffers that move ([`live`]) and to no others, whose
//! fences are those that user space imports. END of a CPU access flushes nothing, since
//! every page is coherent. What a transport can't answer at all is in `README.md` of this folder.

pub mod buffer;
pub mod calls;
pub mod control;
mod core;
pub mod cuse;
pub mod fence;
pub mod fuse;
pub mod heap;
pub mod holders;
mod id;
pub mod ioctl;
pub mod live;
pub mod look;
pub mod maps;
pub mod misuse;
pub mod path;
pub mod request;
pub mod rules;
pub mod runtime;
pub mod socket;
pub mod stats;
pub mod supervisor;
pub mod sync_file;
mod tables;
pub mod text;
pub mod trace;
pub mod transport;
pub mod udmabuf;

pub use self::core::{Device, Timeline};
pub use buffer::{Backing, Buffer, Exporter, Inode, OpenMode, whereabouts};
pub use calls::{Call, Verdict};
pub use fence::{Fence, FenceState, Fences, Resv, SyncFile};
pub use id::{BufferId, FenceId, HeapId, Object, SyncFileId, TimelineId};
pub use request::{Action, FdAnswer, FileFact, Install, Ioctl, Reply, Want, Write};
pub use rules::HeapConfig;
pub use stats::{Limits, Seen, Stats};
pub use trace::Trace;
