//! The CUSE transport: a heap as a real character device, spoken to the kernel directly.
//!
//! Kernel counterpart: fs/fuse/cuse.c and fs/fuse/ioctl.c of Linux 6.12. libfuse's
//! `cuse_lowlevel.c` is the other user-space end of it.
//!
//! ```text
//! /dev/cuse --read--> request::parse --> Channel --asks--> Backend
//!           <-write-- request::message <----'          |
//!                                        HeapNode: Device, handles <-- HandleSocket
//! ```
//!
//! [`Channel`] is pure: bytes in, messages out. [`Node`] owns /dev/cuse and the loop. A
//! [`Backend`] knows nothing of CUSE but that memory has to be asked for.
//!
//! # What a character device in user space can't do
//! - **Install a descriptor in its caller.** ALLOC on such a node answers, where the new
//!   descriptor's number would stand, a *handle*: a number from [`HANDLE_FIRST`] on, above any
//!   descriptor that fs.nr_open allows, so that a program which takes it for one gets EBADF instead of
//!   somebody else's file. A client makes two descriptors of it: another open of the node becomes
//!   the buffer by the ioctl [`OPEN_HANDLE`] (SYNC, SET_NAME, poll), and [`memory_of`] asks the
//!   server's socket for its memory (mmap); [`NodeHeap`] does both. EXPORT_SYNC_FILE and MERGE answer handles too, and
//!   take them where the kernel takes descriptors.
//! - **Map.** `cuse_frontend_fops` has no mmap: ENODEV, as on a real heap's node.
//! - **Refuse a seek.** lseek(2) does nothing and returns 0 (`noop_llseek`); a real heap answers
//!   ESPIPE.
//! - **See a transfer of 0 bytes**: the kernel answers it 0 itself; a real heap answers EINVAL.
//!
//! When the server dies, the node goes, and calls on files still open answer ENOTCONN, or
//! ECONNABORTED where they were under way.

mod backend;
mod channel;
mod client;
mod control;
mod heap_node;
mod node;
mod request;
mod socket;

pub use backend::{Backend, Call, Extent, IoctlReply, OpenFile, Opener, text_extents};
pub use channel::{Channel, REQUEST_BYTES_MAX};
pub use client::{NodeBuffer, NodeHeap};
pub use heap_node::{HeapNode, NodeState, OPEN_HANDLE};
pub use node::{CreateError, End, Name, NameError, Node, Roots, ServeError};
pub use request::{Body, Request, WireError, message, parse};
pub use socket::{HandleSocket, memory_of};

/// The first handle: above fs.nr_open as kernels (2^20) and distributions (at most 2^30 - 8) set
/// it, so no descriptor of the caller has that number.
pub const HANDLE_FIRST: u32 = 0x4000_0000;

/// Past the last handle: a handle is never a negative number where one would be a return value.
pub const HANDLES_END: u32 = 1 << 31;
