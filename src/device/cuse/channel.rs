//! The conversation over one /dev/cuse: requests in, messages out, no I/O.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::backend::{Backend, Call, Extent, IoctlReply, OpenFile, Opener};
use super::request::{Body, Request, WireError, message, parse};
use crate::uapi::fuse::{
    self, CuseInitIn, CuseInitOut, InHeader, IoctlIn, IoctlIovec, IoctlOut, NotifyPoll, OpenOut,
    PollIn, PollOut,
};

/// Largest READ or WRITE that the kernel sends in one piece: the least that it takes, since
/// both are refused.
const STREAM_BYTES_MAX: u32 = 4096;

/// Bytes to read a request into: one of the largest ioctl argument that the kernel carries
/// (32 pages) with its envelope.
pub const REQUEST_BYTES_MAX: usize = 33 * 4096;

/// Largest piece of memory that is fetched for an ioctl; the kernel carries 32 pages in all.
const EXTENT_BYTES_MAX: u32 = 32 * 1024;

#[derive(Clone, Copy, Debug)]
struct Poller {
    file: OpenFile,
    events: u32,
}

/// The server's end of one character device.
///
/// # Use
/// - input: [`handle`](Self::handle) takes what one read(2) of /dev/cuse returned;
/// - after anything that may have changed the backend: [`progress`](Self::progress);
/// - both return messages, each for one write(2), in this order.
///
/// # An ioctl
/// The device is unrestricted (`CUSE_UNRESTRICTED_IOCTL`), so that a command's size does not
/// decide what arrives. The kernel sends the command and the argument; when the backend wants
/// memory or writes some, the answer is `FUSE_IOCTL_RETRY` with the pieces, and the kernel
/// comes back with their bytes as a new request (`fuse_do_ioctl`, fs/fuse/ioctl.c):
///
/// ```text
/// IOCTL (nothing) --wants--> RETRY --> IOCTL (bytes) --wants more--> RETRY ...
///        |                                  |
///        +-------- wants nothing -----------+--> answer | Wait --progress--> answer
///                                                          `--INTERRUPT----> EINTR
/// ```
///
/// Nothing is kept between a RETRY and what follows: a caller that never comes back leaves
/// nothing behind.
///
/// **Differs from Linux**: memory that can't be written is found out after the call was
/// executed. A real ALLOC closes its new file again; this one leaves the buffer to the file it
/// was made on.
#[derive(Debug)]
pub struct Channel<B> {
    backend: B,
    name: String,
    started: bool,
    waiting: BTreeMap<u64, Call>,
    pollers: BTreeMap<u64, Poller>,
}

impl<B: Backend> Channel<B> {
    /// A channel that will ask for the node /dev/`name`.
    pub fn new(name: &str, backend: B) -> Self {
        let (waiting, pollers) = (BTreeMap::new(), BTreeMap::new());
        Self { backend, name: name.to_owned(), started: false, waiting, pollers }
    }

    /// Whether CUSE_INIT was answered with a name.
    pub fn started(&self) -> bool {
        self.started
    }

    /// The device; call [`progress`](Self::progress) after a change.
    pub fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Takes one request and returns what is to be sent for it.
    ///
    /// # Errors
    /// [`WireError`] if the bytes have no envelope to answer to.
    pub fn handle(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, WireError> {
        let Request { header, body } = parse(bytes)?;
        let unique = header.unique;
        let reply = match body {
            Body::Init(init) => Some(self.init(unique, init)),
            _ if !self.started => Some(fail(unique, Errno::IO)),
            Body::Open(open) => Some(self.open(&header, open.flags)),
            Body::Release(release) => {
                self.release(OpenFile(release.fh));
                Some(message(unique, 0, &[]))
            }
            Body::Ioctl(ioctl, data) => self.ioctl(&header, ioctl, data),
            Body::Poll(poll) => Some(self.poll(unique, poll)),
            // An INTERRUPT has no reply of its own. What is not waiting was answered already.
            Body::Interrupt(interrupt) => {
                self.waiting.remove(&interrupt.unique).map(|_| fail(interrupt.unique, Errno::INTR))
            }
            Body::Stream => Some(fail(unique, Errno::INVAL)),
            Body::Unknown => Some(fail(unique, Errno::NOSYS)),
            Body::Short => Some(fail(unique, Errno::IO)),
        };
        let mut messages: Vec<_> = reply.into_iter().collect();
        messages.extend(self.progress());
        Ok(messages)
    }

    /// Answers the calls and pollers whose wait is over.
    pub fn progress(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let Self { backend, waiting, pollers, .. } = self;
        waiting.retain(|&unique, call| {
            let reply = answer(unique, backend.ioctl(call), &backend.outputs(call));
            messages.extend(reply.clone());
            reply.is_none()
        });
        pollers.retain(|&kh, poller| {
            let ready = backend.poll(poller.file) & poller.events != 0;
            if ready {
                messages.push(message(0, fuse::NOTIFY_POLL, &[&NotifyPoll { kh }.to_bytes()]));
            }
            !ready
        });
        messages
    }

    fn init(&mut self, unique: u64, init: CuseInitIn) -> Vec<u8> {
        if init.major != fuse::MAJOR || init.minor < fuse::MINOR_MIN {
            return fail(unique, Errno::PROTO);
        }
        self.started = true;
        let out = CuseInitOut {
            major: fuse::MAJOR,
            minor: fuse::MINOR.min(init.minor),
            unused: 0,
            flags: init.flags & fuse::CUSE_UNRESTRICTED_IOCTL,
            max_read: STREAM_BYTES_MAX,
            max_write: STREAM_BYTES_MAX,
            dev_major: 0,
            dev_minor: 0,
            spare: [0; 40],
        };
        message(unique, 0, &[&out.to_bytes(), b"DEVNAME=", self.name.as_bytes(), b"\0"])
    }

    fn open(&mut self, header: &InHeader, flags: u32) -> Vec<u8> {
        let opener = Opener { flags, pid: header.pid.cast_signed(), uid: header.uid };
        match self.backend.open(opener) {
            Ok(OpenFile(fh)) => {
                let out = OpenOut { fh, open_flags: 0, padding: 0 };
                message(header.unique, 0, &[&out.to_bytes()])
            }
            Err(errno) => fail(header.unique, errno),
        }
    }

    fn release(&mut self, file: OpenFile) {
        self.waiting.retain(|_, call| call.file != file);
        self.pollers.retain(|_, poller| poller.file != file);
        self.backend.release(file);
    }

    fn poll(&mut self, unique: u64, poll: PollIn) -> Vec<u8> {
        let file = OpenFile(poll.fh);
        let revents = self.backend.poll(file);
        if revents & poll.events == 0 && poll.flags & fuse::POLL_SCHEDULE_NOTIFY != 0 {
            self.pollers.insert(poll.kh, Poller { file, events: poll.events });
        }
        message(unique, 0, &[&PollOut { revents, padding: 0 }.to_bytes()])
    }

    fn ioctl(&mut self, header: &InHeader, ioctl: IoctlIn, data: &[u8]) -> Option<Vec<u8>> {
        let IoctlIn { fh, cmd, arg, .. } = ioctl;
        let pid = header.pid.cast_signed();
        let mut call = Call { file: OpenFile(fh), cmd, arg, memory: Vec::new(), pid };
        let (mut fetched, mut rest, mut missing) = (Vec::new(), data, false);
        while let Some(extent) = self.backend.wants(&call).filter(|_| !missing) {
            if extent.len > EXTENT_BYTES_MAX || fetched.len() >= fuse::IOCTL_IOV_MAX / 2 {
                return Some(fail(header.unique, Errno::INVAL));
            }
            fetched.push(extent);
            match usize::try_from(extent.len).ok().and_then(|len| rest.split_at_checked(len)) {
                Some((piece, tail)) => {
                    call.memory.push(piece.to_vec());
                    rest = tail;
                }
                None => missing = true,
            }
        }
        // What was fetched may tell where a reply writes: then the kernel is sent once more.
        let outputs = self.backend.outputs(&call);
        let too_many = outputs.len() > fuse::IOCTL_IOV_MAX / 2;
        if too_many || outputs.iter().any(|extent| extent.len > EXTENT_BYTES_MAX) {
            return Some(fail(header.unique, Errno::INVAL));
        }
        let room: u64 = outputs.iter().map(|extent| u64::from(extent.len)).sum();
        if missing || u64::from(ioctl.out_size) < room {
            let unrestricted = ioctl.flags & fuse::IOCTL_UNRESTRICTED != 0;
            let reply = unrestricted.then(|| retry(header.unique, &fetched, &outputs));
            return Some(reply.unwrap_or_else(|| fail(header.unique, Errno::OPNOTSUPP)));
        }
        let reply = answer(header.unique, self.backend.ioctl(&call), &outputs);
        if reply.is_none() {
            self.waiting.insert(header.unique, call);
        }
        reply
    }
}

fn fail(unique: u64, errno: Errno) -> Vec<u8> {
    message(unique, -errno.raw_os_error(), &[])
}

/// `FUSE_IOCTL_RETRY`: come again with these pieces.
fn retry(unique: u64, fetch: &[Extent], outputs: &[Extent]) -> Vec<u8> {
    let count = |extents: &[Extent]| u32::try_from(extents.len()).unwrap_or(u32::MAX);
    let out = IoctlOut {
        result: 0,
        flags: fuse::IOCTL_RETRY,
        in_iovs: count(fetch),
        out_iovs: count(outputs),
    };
    let mut pieces = Vec::new();
    for extent in fetch.iter().chain(outputs) {
        pieces.extend(IoctlIovec { base: extent.addr, len: u64::from(extent.len) }.to_bytes());
    }
    message(unique, 0, &[&out.to_bytes(), &pieces])
}

/// The message for an answer; `None` for one that is still to come.
fn answer(unique: u64, answer: IoctlReply, outputs: &[Extent]) -> Option<Vec<u8>> {
    match answer {
        IoctlReply::Wait => None,
        IoctlReply::Fail(errno) => Some(fail(unique, errno)),
        IoctlReply::Reply { value, writes } => {
            debug_assert!(fits(&writes, outputs), "a write beyond what outputs() named");
            let out = IoctlOut { result: value, flags: 0, in_iovs: 0, out_iovs: 0 };
            Some(message(unique, 0, &[&out.to_bytes(), &writes.concat()]))
        }
    }
}

/// Whether the writes fill the pieces in order, all but the last one to the full: the kernel
/// gets their bytes without a boundary.
fn fits(writes: &[Vec<u8>], outputs: &[Extent]) -> bool {
    let lens = |at: usize| outputs.get(at).and_then(|extent| usize::try_from(extent.len).ok());
    writes.iter().enumerate().all(|(at, write)| {
        let last = at + 1 == writes.len();
        lens(at).is_some_and(|len| write.len() == len || last && write.len() < len)
    })
}
