//! What a userfaultfd reports: `struct uffd_msg`, decoded.

use std::os::fd::OwnedFd;

use super::super::page::{Addr, Range};
use crate::uapi::userfaultfd as uapi;

/// Bytes in one `struct uffd_msg`.
pub(super) const MESSAGE_BYTES: usize = size_of::<uapi::uffd_msg>();

/// Why a thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The page does not exist.
    Missing,
    /// The page exists in the file and has no PTE here.
    Minor,
    /// The PTE is write-protected.
    WriteProtect,
}

/// One thread asleep in a page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The page, or the byte with `EXACT_ADDRESS`.
    pub addr: Addr,
    /// Why.
    pub kind: FaultKind,
    /// Whether a store faulted rather than a load.
    pub write: bool,
    /// The thread, with `THREAD_ID`; else 0.
    pub thread: u32,
}

/// A message of a userfaultfd.
#[derive(Debug)]
pub enum UffdEvent {
    /// A thread sleeps until the page is resolved.
    Fault(Fault),
    /// The process forked; this is the child's userfaultfd.
    Fork(OwnedFd),
    /// mremap moved a range.
    Remap {
        /// Where it was.
        from: Range,
        /// Where it is.
        to: Addr,
    },
    /// MADV_DONTNEED or MADV_REMOVE dropped a range; the caller sleeps until this is read.
    Remove(Range),
    /// munmap dropped a range.
    Unmap(Range),
}

/// A message before its fd, if it carries one, is taken over.
pub(super) enum Decoded {
    Event(UffdEvent),
    Fork(u32),
    Unknown(u8),
}

/// Decodes one message. The offsets are those of `struct uffd_msg`, which is packed: the event at
/// 0 and three 64-bit arguments from 8 on.
pub(super) fn decode(message: &[u8; MESSAGE_BYTES]) -> Decoded {
    let word = |index: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&message[8 + index * 8..16 + index * 8]);
        u64::from_ne_bytes(bytes)
    };
    let low_half = |word: u64| {
        let [b0, b1, b2, b3, ..] = word.to_ne_bytes();
        u32::from_ne_bytes([b0, b1, b2, b3])
    };
    let range = || Range { start: Addr(word(0)), len_bytes: word(1) - word(0) };
    match u32::from(message[0]) {
        uapi::UFFD_EVENT_PAGEFAULT => {
            let flag = |bit: u32| word(0) & u64::from(bit) != 0;
            let kind = if flag(uapi::UFFD_PAGEFAULT_FLAG_WP) {
                FaultKind::WriteProtect
            } else if flag(uapi::UFFD_PAGEFAULT_FLAG_MINOR) {
                FaultKind::Minor
            } else {
                FaultKind::Missing
            };
            Decoded::Event(UffdEvent::Fault(Fault {
                addr: Addr(word(1)),
                kind,
                write: flag(uapi::UFFD_PAGEFAULT_FLAG_WRITE),
                thread: low_half(word(2)),
            }))
        }
        uapi::UFFD_EVENT_FORK => Decoded::Fork(low_half(word(0))),
        uapi::UFFD_EVENT_REMAP => Decoded::Event(UffdEvent::Remap {
            from: Range { start: Addr(word(0)), len_bytes: word(2) },
            to: Addr(word(1)),
        }),
        uapi::UFFD_EVENT_REMOVE => Decoded::Event(UffdEvent::Remove(range())),
        uapi::UFFD_EVENT_UNMAP => Decoded::Event(UffdEvent::Unmap(range())),
        _ => Decoded::Unknown(message[0]),
    }
}
