//! Connections: one thread a client, which asks and is answered.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;

use super::exporter::{CLIENTS_MAX, Client, Exporter, ExporterState, SetupError};
use super::protocol::{self, INLINE_PAGES_MAX, Received, Request, Response, VERSION, Via};
use crate::device::live::attach::{AttachError, AttachmentId, Holder, PinId};
use crate::device::live::bus::{DmaError, Through, Transfer};
use crate::device::live::frames::BusAddr;
use crate::device::transport::inode;
use crate::device::{Action, BufferId, FenceId, Inode, Install, Ioctl, Object};
use crate::sys::backing;
use crate::sys::link::{Link, LinkError, Listener};
use crate::sys::page::page_bytes;
use crate::sys::uffd::Uffd;
use crate::uapi::{dma_buf, dma_heap};

mod requests;

/// A client that does not say hello in this time is dropped.
const HELLO_TIME_MAX: Duration = Duration::from_secs(5);
/// How long to wait for a request before looking whether there is still anybody.
const TURN: Duration = Duration::from_secs(3600);

/// Holders of clients; 0 is the exporter's, and small ones its emulated devices'.
static NEXT_HOLDER: AtomicU64 = AtomicU64::new(1000);

impl Exporter {
    /// Serves clients at `path` from threads of its own until the process ends.
    ///
    /// # Errors
    /// [`SetupError::Listen`].
    pub fn serve(self: &Arc<Self>, path: &Path) -> Result<(), SetupError> {
        let refused = |error| SetupError::Listen { path: path.display().to_string(), error };
        let listener = Listener::bind(path).map_err(refused)?;
        let this = Arc::clone(self);
        std::thread::Builder::new()
            .name("exporter".into())
            .spawn(move || accept(&this, &listener))
            .map_err(SetupError::Frames)?;
        Ok(())
    }
}

/// Accepts clients until the process ends.
fn accept(exporter: &Arc<Exporter>, listener: &Listener) {
    // Each connection has one, before it has said hello and after.
    let place = Arc::new(());
    loop {
        let link = match listener.accept(TURN) {
            Ok(link) => link,
            Err(LinkError::TimedOut) => continue,
            Err(_) => {
                // Out of descriptors, or the peer has gone already; others may come.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        if Arc::strong_count(&place) > CLIENTS_MAX {
            refuse(&link, Errno::MFILE, "too many clients");
            continue;
        }
        let exporter = Arc::clone(exporter);
        let taken = Arc::clone(&place);
        let spawned = std::thread::Builder::new().name("client".into()).spawn(move || {
            serve(&exporter, &Arc::new(link));
            drop(taken);
        });
        // Without a thread the link is dropped, which the client sees.
        drop(spawned);
    }
}

fn refuse(link: &Link, errno: Errno, text: &str) {
    let answer = Response::Error { errno: errno.raw_os_error(), text: text.to_owned() };
    // Whoever is gone needs no answer.
    let _gone = protocol::send(link, &answer, &[], &[]);
}

fn serve(exporter: &Exporter, link: &Arc<Link>) {
    let trusted =
        link.peer().is_ok_and(|(_, uid)| uid == 0 || uid == rustix::process::geteuid().as_raw());
    if !trusted {
        return refuse(link, Errno::PERM, "refused: only its own user and root may connect");
    }
    let Some(holder) = hello(exporter, link) else { return };
    let mut session = Session { exporter, holder };
    loop {
        match protocol::receive::<Request>(link, TURN) {
            Ok(received) => {
                let answered = session.answer(received);
                let fds: Vec<_> = answered.fd.iter().map(AsFd::as_fd).collect();
                if protocol::send(link, &answered.answer, &answered.bytes, &fds).is_err() {
                    break;
                }
            }
            Err(protocol::TalkError::Link(LinkError::TimedOut)) => {}
            Err(protocol::TalkError::Garbled(text)) => refuse(link, Errno::PROTO, &text),
            Err(protocol::TalkError::Link(_)) => break,
        }
    }
    exporter.forget(holder);
}

/// The first request; none if it was not what it has to be.
fn hello(exporter: &Exporter, link: &Arc<Link>) -> Option<Holder> {
    let received = match protocol::receive::<Request>(link, HELLO_TIME_MAX) {
        Ok(received) => received,
        Err(error) => {
            refuse(link, Errno::PROTO, &error.to_string());
            return None;
        }
    };
    let Request::Hello { version: VERSION, name } = received.message else {
        refuse(link, Errno::PROTO, &format!("say hello first, in version {VERSION}"));
        return None;
    };
    let Ok([events, uffd]) = <[OwnedFd; 2]>::try_from(received.fds) else {
        refuse(link, Errno::BADF, "hello brings an event link and a userfaultfd");
        return None;
    };
    let Ok(events) = Link::adopt(events) else {
        refuse(link, Errno::BADF, "the event link is not a seqpacket socket");
        return None;
    };
    let Ok(uffd) = Uffd::adopt(uffd) else {
        refuse(link, Errno::BADF, "the second file of hello is not a userfaultfd");
        return None;
    };
    let holder = Holder(NEXT_HOLDER.fetch_add(1, Ordering::Relaxed));
    let client = Client {
        name: name.chars().take(64).collect(),
        requests: Arc::clone(link),
        events: Arc::new(Mutex::new(events)),
        uffd: Arc::new(uffd),
    };
    let record = {
        let mut state = exporter.lock();
        state.clients.insert(holder, client);
        state.bus.recorder.is_some()
    };
    if protocol::send(link, &Response::Welcome { record }, &[], &[]).is_err() {
        exporter.forget(holder);
        return None;
    }
    Some(holder)
}

/// An answer with what goes along.
struct Answered {
    answer: Response,
    bytes: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl From<Response> for Answered {
    fn from(answer: Response) -> Self {
        Self { answer, bytes: Vec::new(), fd: None }
    }
}

/// A refusal: the kernel's errno and a text.
struct RequestError(Errno, String);

impl From<Errno> for RequestError {
    fn from(errno: Errno) -> Self {
        Self(errno, errno.to_string())
    }
}

impl From<AttachError> for RequestError {
    fn from(error: AttachError) -> Self {
        let errno = match error {
            AttachError::NoAttachment => Errno::BADF,
            AttachError::Gone => Errno::NODEV,
            AttachError::NotHeld => Errno::INVAL,
        };
        Self(errno, error.to_string())
    }
}

impl From<DmaError> for RequestError {
    fn from(error: DmaError) -> Self {
        let errno = match error {
            DmaError::Attach(error) => return error.into(),
            DmaError::Iommu => Errno::FAULT,
            DmaError::Length => Errno::INVAL,
            DmaError::Memory(errno) => errno,
        };
        Self(errno, error.to_string())
    }
}

type Answers = Result<Answered, RequestError>;

struct Session<'a> {
    exporter: &'a Exporter,
    holder: Holder,
}

impl Session<'_> {
    fn answer(&mut self, received: Received<Request>) -> Answered {
        let result = self.carry_out(received);
        result.unwrap_or_else(|RequestError(errno, text)| {
            Response::Error { errno: errno.raw_os_error(), text }.into()
        })
    }

    fn carry_out(&mut self, received: Received<Request>) -> Answers {
        let Received { message, bytes, fds } = received;
        match message {
            // A client says it once, before all else.
            Request::Hello { .. } => Err(Errno::INVAL.into()),

            Request::Alloc { heap, len } => self.alloc(&heap, len),
            Request::Import => self.import(fds),
            Request::SetName { buffer, name } => {
                self.ioctl(buffer, dma_buf::SET_NAME_B, name.into_bytes())
            }
            Request::Sync { buffer, flags } => {
                self.ioctl(buffer, dma_buf::SYNC, flags.to_ne_bytes().to_vec())
            }
            Request::Close { buffer } => self.close(BufferId(buffer)),
            Request::Work { buffer, work } => self.work(BufferId(buffer), work),
            Request::Findings => Ok(self.findings()),

            Request::Map { buffer, start } => self.map(BufferId(buffer), start),
            Request::Unmap { mapping } => self.unmap(mapping),
            Request::ImporterMmap { buffer } => self.importer_mmap(BufferId(buffer)),
            Request::Fault { mapping, page } => self.fault(mapping, page),
            Request::Accessed { mapping, page, offset, write, before, value } => {
                self.accessed((mapping, page), Access { offset, write, before, value })
            }
            Request::Gup { mapping, page } => self.gup(mapping, page),
            Request::Unpin { pin } => self.unpin(pin),

            Request::Attach { buffer, device, dynamic } => {
                self.on_bus(|state| self.attach(state, BufferId(buffer), &device, dynamic))
            }
            Request::Detach { attachment } => {
                self.on_bus(|state| self.detach(state, AttachmentId(attachment)))
            }
            Request::Lock { buffer } => self.on_bus(|state| self.lock(state, BufferId(buffer))),
            Request::Unlock { buffer } => {
                self.on_bus(|state| Ok(self.unlock(state, BufferId(buffer))))
            }
            Request::MapAttachment { attachment } => {
                self.on_bus(|state| self.map_attachment(state, AttachmentId(attachment)))
            }
            Request::UnmapAttachment { attachment } => {
                self.on_bus(|state| self.unmap_attachment(state, AttachmentId(attachment)))
            }
            Request::Pin { attachment, on } => {
                self.on_bus(|state| self.pin(state, AttachmentId(attachment), on))
            }
            Request::Submit { attachment, usage } => {
                self.on_bus(|state| self.submit(state, AttachmentId(attachment), usage))
            }
            Request::Signal { attachment, fence } => {
                self.on_bus(|state| self.signal(state, AttachmentId(attachment), FenceId(fence)))
            }

            Request::DmaWrite { via, addr } => {
                self.transfer(via, addr, Transfer::Write(&bytes))?;
                Ok(Response::Done.into())
            }
            Request::DmaRead { via, addr, len } => {
                // One byte more than can be transferred at once is refused as too long.
                let mut bytes = vec![0; len.min(page_bytes() + 1)];
                self.transfer(via, addr, Transfer::Read(&mut bytes))?;
                Ok(Answered { answer: Response::Done, bytes, fd: None })
            }
        }
    }

    fn findings(&self) -> Answered {
        let text = self.exporter.lock().bus.findings.text_of(self.holder);
        let text: String = text.chars().take(protocol::MESSAGE_BYTES_MAX / 4).collect();
        Response::Text(text).into()
    }

    fn alloc(&self, heap: &str, len: u64) -> Answers {
        let answered = {
            let state = &mut *self.exporter.lock();
            let heap = state.device.heap(heap).ok_or(Errno::NOENT)?;
            let ask = dma_heap::AllocationData {
                len,
                fd: 0,
                fd_flags: 2 | dma_heap::O_CLOEXEC,
                heap_flags: 0,
            };
            let request =
                Ioctl::new(Object::Heap(heap), dma_heap::ALLOC, 0).with_memory(ask.to_bytes());
            let buffer = match state.device.ioctl(&request) {
                Action::Install(Install { object: Object::Buffer(buffer), .. }) => buffer,
                Action::Fail(errno) => return Err(errno.into()),
                Action::Install(_) | Action::Reply(_) | Action::Wait(_) | Action::Native => {
                    return Err(Errno::INVAL.into());
                }
            };
            self.install(state, buffer).inspect_err(|_| {
                state.memory.release(buffer);
                state.device.fail(Object::Buffer(buffer));
            })?
        };
        // Its frames may have been somebody's before.
        crate::device::live::operation::Host::frames_changed(self.exporter);
        Ok(answered)
    }

    fn install(
        &self,
        state: &mut ExporterState,
        buffer: BufferId,
    ) -> Result<Answered, RequestError> {
        let size = state.device.buffer(buffer).map_or(0, |found| found.size_bytes);
        let pages = usize::try_from(size).map_err(|_| Errno::NOMEM)? / page_bytes();
        let file = state.memory.make(buffer, pages);
        let file = file.map_err(|error| RequestError(Errno::NOMEM, error.to_string()))?;
        let inode = inode(file.as_fd())?;
        state.device.installed(Object::Buffer(buffer), inode, crate::device::Backing::Memfd);
        let ExporterState { device, bus, .. } = state;
        bus.allocated(device, buffer, pages, self.exporter.placement)?;
        device.placed(buffer, self.exporter.placement);
        state.handles.insert((buffer, self.holder), 1);
        let answer = Response::Buffer { id: buffer.0, pages };
        Ok(Answered { answer, bytes: Vec::new(), fd: Some(file) })
    }

    fn import(&self, fds: Vec<OwnedFd>) -> Answers {
        let file = fds.into_iter().next().ok_or(Errno::BADF)?;
        let inode: Inode = inode(file.as_fd())?;
        let mut state = self.exporter.lock();
        let found = state.device.buffers().find(|(_, buffer)| buffer.inode == inode);
        let (id, size) = found.map(|(id, buffer)| (id, buffer.size_bytes)).ok_or(Errno::INVAL)?;
        *state.handles.entry((id, self.holder)).or_default() += 1;
        let pages = usize::try_from(size).map_err(|_| Errno::NOMEM)? / page_bytes();
        Ok(Response::Buffer { id: id.0, pages }.into())
    }

    /// An ioctl on a buffer, decided by the same core as everywhere.
    fn ioctl(&self, buffer: u64, cmd: u32, argument: Vec<u8>) -> Answers {
        let mut state = self.exporter.lock();
        self.held(&state, BufferId(buffer))?;
        let request = Ioctl::new(Object::Buffer(BufferId(buffer)), cmd, 0).with_memory(argument);
        match state.device.ioctl(&request) {
            Action::Fail(errno) => Err(errno.into()),
            Action::Wait(_) => Ok(Response::Again.into()),
            Action::Reply(_) | Action::Install(_) | Action::Native => Ok(Response::Done.into()),
        }
    }

    fn close(&self, buffer: BufferId) -> Answers {
        {
            let mut state = self.exporter.lock();
            let key = (buffer, self.holder);
            let count = state.handles.get_mut(&key).ok_or(Errno::BADF)?;
            *count -= 1;
            if *count == 0 {
                state.handles.remove(&key);
                state.release_unheld(buffer);
            }
        }
        crate::device::live::operation::Host::frames_changed(self.exporter);
        Ok(Response::Done.into())
    }

    /// EBADF for a buffer that this client has no handle of.
    fn held(&self, state: &ExporterState, buffer: BufferId) -> Result<(), Errno> {
        let held = state.handles.contains_key(&(buffer, self.holder));
        if held { Ok(()) } else { Err(Errno::BADF) }
    }

    /// A device's access.
    fn transfer(&self, via: Via, addr: u64, transfer: Transfer<'_>) -> Result<(), RequestError> {
        let state = &mut *self.exporter.lock();
        let ExporterState { device, bus, memory, .. } = state;
        let by = (through(via), self.holder);
        bus.dma(device, memory, by, BusAddr(addr), transfer)?;
        Ok(())
    }
}

/// An sg_table, with the answer or in a file.
fn addrs(addrs: &[BusAddr]) -> Answers {
    let bytes: Vec<u8> = addrs.iter().flat_map(|addr| addr.0.to_le_bytes()).collect();
    let answer = Response::Addrs { pages: addrs.len() };
    if addrs.len() <= INLINE_PAGES_MAX {
        return Ok(Answered { answer, bytes, fd: None });
    }
    let file = backing::sealed("sg_table", &bytes).map_err(|_| Errno::NOMEM)?;
    Ok(Answered { answer, bytes: Vec::new(), fd: Some(file) })
}

/// A CPU access that was made.
struct Access {
    offset: usize,
    write: bool,
    before: u8,
    value: u8,
}

fn through(via: Via) -> Through {
    match via {
        Via::Attachment(id) => Through::Attachment(AttachmentId(id)),
        Via::Pin(id) => Through::Pin(PinId(id)),
    }
}
