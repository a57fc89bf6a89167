//! What a client and the exporter say to each other.
//!
//! Two seqpacket links a client. On the first the client asks and the exporter answers; the second,
//! which the client makes and sends with [`Request::Hello`], goes the other way: the exporter says
//! an [`Notification`] and the client answers with one empty message when it has acted on it. A message is
//! the length of its JSON (`u32`, little-endian), the JSON, then bytes as they are; file
//! descriptors travel by SCM_RIGHTS.
//!
//! What would block is answered [`Response::Again`] and asked again: a client's threads share its
//! link, and one that waits for a fence must not keep another from signalling it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::Usage;
use crate::sys::link::{Link, LinkError};

/// Changes whenever a message does.
pub const VERSION: u32 = 1;
/// Most bytes of one message.
pub const MESSAGE_BYTES_MAX: usize = 96 * 1024;
/// Longest sg_table that an answer carries; a longer one comes in a file.
pub const INLINE_PAGES_MAX: usize = 4096;

/// Through what a device accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// An attachment.
    Attachment(u64),
    /// A page pin.
    Pin(u64),
}

/// What an exporter can be made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Move to the carveout.
    MoveToVram,
    /// Move to system memory.
    MoveToSystem,
    /// Move away from where it is.
    Evict,
    /// Purge.
    Purge,
    /// Revoke.
    Revoke,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// First of all; with the exporter's end of the event link and a userfaultfd of the client's.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The program's name, for reports.
        name: String,
    },
    /// DMA_HEAP_IOCTL_ALLOC. Answered with the buffer and its file.
    Alloc {
        /// The heap.
        heap: String,
        /// Bytes.
        len: u64,
    },
    /// A buffer that came as a file, from another client; with the file.
    Import,
    /// DMA_BUF_SET_NAME.
    SetName {
        /// The buffer.
        buffer: u64,
        /// Its name.
        name: String,
    },
    /// The client's handle goes.
    Close {
        /// The buffer.
        buffer: u64,
    },
    /// The buffer is mapped at this address, all of it: trap it.
    Map {
        /// The buffer.
        buffer: u64,
        /// Where.
        start: u64,
    },
    /// The mapping is about to go.
    Unmap {
        /// The mapping.
        mapping: u64,
    },
    /// mmap through the importer's own file, forwarded without changing `vm_file`.
    ImporterMmap {
        /// The buffer.
        buffer: u64,
    },
    /// A fault in such a mapping. Answered with the place and the file.
    Fault {
        /// The mapping.
        mapping: u64,
        /// Which page.
        page: usize,
    },
    /// A CPU access was made: of a mapping through the importer always, of others while the
    /// exporter records.
    Accessed {
        /// The mapping.
        mapping: u64,
        /// Which page.
        page: usize,
        /// Offset in it.
        offset: usize,
        /// Whether it was a store.
        write: bool,
        /// The byte before a store.
        before: u8,
        /// The byte stored or loaded.
        value: u8,
    },
    /// DMA_BUF_IOCTL_SYNC.
    Sync {
        /// The buffer.
        buffer: u64,
        /// Its flags.
        flags: u64,
    },
    /// `dma_buf_attach`, `dma_buf_dynamic_attach`.
    Attach {
        /// The buffer.
        buffer: u64,
        /// The device's name.
        device: String,
        /// With a `move_notify`.
        dynamic: bool,
    },
    /// `dma_buf_detach`.
    Detach {
        /// The attachment.
        attachment: u64,
    },
    /// `dma_resv_lock`.
    Lock {
        /// The buffer.
        buffer: u64,
    },
    /// `dma_resv_unlock`.
    Unlock {
        /// The buffer.
        buffer: u64,
    },
    /// `dma_buf_map_attachment`, under the lock.
    MapAttachment {
        /// The attachment.
        attachment: u64,
    },
    /// `dma_buf_unmap_attachment`.
    UnmapAttachment {
        /// The attachment.
        attachment: u64,
    },
    /// `dma_buf_pin`, `dma_buf_unpin`.
    Pin {
        /// The attachment.
        attachment: u64,
        /// Which of the two.
        on: bool,
    },
    /// `dma_resv_add_fence`, under the lock.
    Submit {
        /// The attachment.
        attachment: u64,
        /// The fence's usage.
        usage: Usage,
    },
    /// `dma_fence_signal`.
    Signal {
        /// The attachment.
        attachment: u64,
        /// The fence.
        fence: u64,
    },
    /// The device writes; with the bytes.
    DmaWrite {
        /// Through what.
        via: Via,
        /// Where.
        addr: u64,
    },
    /// The device reads. Answered with the bytes.
    DmaRead {
        /// Through what.
        via: Via,
        /// Where.
        addr: u64,
        /// How many.
        len: usize,
    },
    /// `get_user_pages` of a page of a mapping.
    Gup {
        /// The mapping.
        mapping: u64,
        /// Which page.
        page: usize,
    },
    /// `unpin_user_page`.
    Unpin {
        /// The pin.
        pin: u64,
    },
    /// Make the exporter do something, as memory pressure or `driftheap ctl` would.
    Work {
        /// The buffer.
        buffer: u64,
        /// What.
        work: Work,
    },
    /// The reports so far of what this client and its devices did.
    Findings,
}

/// What the exporter answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done.
    Done,
    /// To `Hello`: whether the exporter records.
    Welcome {
        /// It wants to be told of CPU accesses.
        record: bool,
    },
    /// A buffer.
    Buffer {
        /// Its id.
        id: u64,
        /// Its pages.
        pages: usize,
    },
    /// A new mapping, attachment or fence; or bytes.
    Id(u64),
    /// A page pin.
    Pin {
        /// The pin.
        id: u64,
        /// Its address.
        addr: u64,
    },
    /// The addresses follow as bytes, `u64` little-endian each, or as a file of them.
    Addrs {
        /// How many.
        pages: usize,
    },
    /// Where a page is: this page of the file that comes along.
    Place {
        /// Page of the file.
        page: u64,
    },
    /// Text.
    Text(String),
    /// Somebody has to finish something first: ask again.
    Again,
    /// Refused.
    Error {
        /// The kernel's errno.
        errno: i32,
        /// What happened and what to do.
        text: String,
    },
}

/// What the exporter tells a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notification {
    /// `move_notify` of an attachment.
    MoveNotify {
        /// The attachment.
        attachment: u64,
    },
    /// A frame that a page of a mapping through the importer shows is now this page of the file
    /// that comes along.
    Frame {
        /// The mapping.
        mapping: u64,
        /// Which page.
        page: usize,
        /// Page of the file.
        place: u64,
    },
}

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The other end says something else than this protocol.
    #[error("the other end does not speak this protocol (version {VERSION}): {0}")]
    Garbled(String),
}

/// Sends a message.
///
/// # Errors
/// [`TalkError`].
pub fn send<T: Serialize>(
    link: &Link,
    message: &T,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), TalkError> {
    let json =
        serde_json::to_vec(message).map_err(|error| TalkError::Garbled(error.to_string()))?;
    let len = u32::try_from(json.len()).map_err(|_| LinkError::TooLong)?;
    let mut packet = Vec::with_capacity(4 + json.len() + bytes.len());
    packet.extend(len.to_le_bytes());
    packet.extend(json);
    packet.extend(bytes);
    if packet.len() > MESSAGE_BYTES_MAX {
        return Err(LinkError::TooLong.into());
    }
    Ok(link.send(&packet, fds)?)
}

/// A message as it arrived.
#[derive(Debug)]
pub struct Received<T> {
    /// The message.
    pub message: T,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its file descriptors.
    pub fds: Vec<OwnedFd>,
}

/// Receives a message.
///
/// # Errors
/// [`TalkError`].
pub fn receive<T: DeserializeOwned>(
    link: &Link,
    timeout: Duration,
) -> Result<Received<T>, TalkError> {
    let mut packet = vec![0; MESSAGE_BYTES_MAX];
    let (len, fds) = link.receive(&mut packet, timeout)?;
    packet.truncate(len);
    let garbled = || TalkError::Garbled("a message without its length".into());
    let (head, rest) = packet.split_first_chunk().ok_or_else(garbled)?;
    let json = usize::try_from(u32::from_le_bytes(*head)).map_err(|_| LinkError::TooLong)?;
    let (json, bytes) = rest.split_at_checked(json).ok_or_else(garbled)?;
    let message =
        serde_json::from_slice(json).map_err(|error| TalkError::Garbled(error.to_string()))?;
    Ok(Received { message, bytes: bytes.to_vec(), fds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_as_they_went() {
        let (a, b) = Link::pair().unwrap();
        let request = Request::DmaWrite { via: Via::Attachment(3), addr: 0x4000_0000 };
        send(&a, &request, &[1, 2, 3], &[]).unwrap();
        let got: Received<Request> = receive(&b, Duration::from_secs(10)).unwrap();
        assert_eq!((got.message, got.bytes), (request, vec![1, 2, 3]));
    }

    #[test]
    fn garbage_is_an_error() {
        let (a, b) = Link::pair().unwrap();
        for packet in [&b"xy"[..], b"\xff\xff\xff\xff{}", b"\x02\0\0\0{}", b"\x03\0\0\0\"x\""] {
            a.send(packet, &[]).unwrap();
            let got = receive::<Request>(&b, Duration::from_secs(10));
            assert!(matches!(got, Err(TalkError::Garbled(_))), "{packet:?}");
        }
    }
}
