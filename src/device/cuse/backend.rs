//! What a character device is made of: the questions that a [`Channel`](super::Channel) asks.

use rustix::io::Errno;

use crate::uapi::{IOC_READ, ioc_dir, ioc_size};

/// One open file of the device, by the number that [`Backend::open`] chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenFile(pub u64);

/// Who opens the device, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opener {
    /// The O_ flags of open(2).
    pub flags: u32,
    /// Process, in the server's pid namespace; 0 if it is not visible there.
    pub pid: i32,
    /// User.
    pub uid: u32,
}

/// A piece of the caller's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// User address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
}

/// One ioctl with what was fetched for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The file it was made on.
    pub file: OpenFile,
    /// The command.
    pub cmd: u32,
    /// The argument, usually a user address.
    pub arg: u64,
    /// Copies of the caller's memory, in the order in which [`Backend::wants`] asked.
    pub memory: Vec<Vec<u8>>,
    /// Calling process, as in [`Opener::pid`].
    pub pid: i32,
}

/// What the backend makes of an ioctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoctlReply {
    /// Fail the call.
    Fail(Errno),
    /// Return a value of at least 0.
    Reply {
        /// What ioctl(2) returns.
        value: i32,
        /// The bytes to copy back, piece by piece as [`Backend::outputs`] named them; the last
        /// piece that is given may be short, and EFAULT is the kernel's to answer.
        writes: Vec<Vec<u8>>,
    },
    /// Not yet: asked again at the next [`Channel::progress`](super::Channel::progress).
    Wait,
}

/// The device behind a character device node.
pub trait Backend {
    /// open(2). The number must be free.
    ///
    /// # Errors
    /// The errno that open(2) is to fail with.
    fn open(&mut self, opener: Opener) -> Result<OpenFile, Errno>;

    /// Which piece of the caller's memory the call needs next, besides what `call.memory` holds.
    /// It is asked again after a fetch, from the first piece on: the answer may depend on nothing
    /// but `call` and what no ioctl changes.
    fn wants(&self, call: &Call) -> Option<Extent>;

    /// Where a reply may write: the whole argument if the command says that it is read back. It
    /// is asked after each fetch, and more may follow from what `call.memory` then holds.
    fn outputs(&self, call: &Call) -> Vec<Extent> {
        let len = ioc_size(call.cmd);
        let read_back = ioc_dir(call.cmd) & IOC_READ != 0 && len > 0;
        read_back.then_some(Extent { addr: call.arg, len }).into_iter().collect()
    }

    /// Answers a call whose wants are met.
    fn ioctl(&mut self, call: &Call) -> IoctlReply;

    /// The POLL events that `file` is ready for.
    fn poll(&mut self, file: OpenFile) -> u32;

    /// The last descriptor of `file` is closed.
    fn release(&mut self, file: OpenFile);
}

/// The pieces in which a C string of at most `max` bytes at `addr` is fetched: a piece of its own
/// for what lies beyond the page, which need not be mapped if the string ends before.
pub fn text_extents(addr: u64, max: u32) -> (Extent, Option<Extent>) {
    let page = u32::try_from(crate::uapi::page_size()).unwrap_or(u32::MAX);
    let offset = u32::try_from(addr % crate::uapi::page_size()).unwrap_or(0);
    let first = max.min(page - offset);
    let rest = addr.checked_add(u64::from(first)).filter(|_| first < max);
    (Extent { addr, len: first }, rest.map(|addr| Extent { addr, len: max - first }))
}
