//! The exporter behind the socket: what its clients' requests do.
//!
//! **Locking**: `Exporter::state` guards buffers, frames, importers and memory together; it is
//! never held while a client is waited for. `Client::events` guards the conversation on one
//! client's event link. Order: events before state.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::memory::SocketMemory;
use super::protocol::{self, Notification};
use crate::device::live::attach::{AttachmentId, Holder};
use crate::device::live::bus::Bus;
use crate::device::live::frames::{Bytes, FrameNo};
use crate::device::live::operation::{self, Done, Host, OperationError, Parts, Patience};
use crate::device::live::record::Recorder;
use crate::device::tables::take_where;
use crate::device::transport::{self, now_ns};
use crate::device::{BufferId, Device, HeapConfig, Limits};
use crate::model::{Operation, Placement};
use crate::sys::link::{Link, LinkError};
use crate::sys::uffd::Uffd;

/// Most clients at once.
pub const CLIENTS_MAX: usize = 64;
/// Most mappings, views and attachments that one client has, of each; the next is ENOMEM.
pub const HELD_MAX: usize = 1024;
/// Most pages of a client's views together: each has an entry here.
pub const VIEW_PAGES_MAX: usize = 1 << 20;
/// Longest time that a client may take to act on an event; then it is dropped.
pub const ACK_TIME_MAX: Duration = Duration::from_secs(1);
/// The holder of what the exporter itself does.
pub const MOVER: Holder = Holder(0);

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: String,
    /// Its request link, to end it.
    pub(super) requests: Arc<Link>,
    pub(super) events: Arc<Mutex<Link>>,
    pub(super) uffd: Arc<Uffd>,
}

/// A page of a mapping through an importer: a page table entry that nobody zaps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ViewPte {
    pub(super) frame: Option<FrameNo>,
    /// What the client was told last.
    pub(super) shown: Option<Bytes>,
}

/// A mapping through an importer's file.
#[derive(Debug)]
pub(super) struct View {
    pub(super) holder: Holder,
    pub(super) buffer: BufferId,
    pub(super) ptes: Vec<ViewPte>,
}

/// Everything under the lock.
#[derive(Debug)]
pub(super) struct ExporterState {
    pub(super) device: Device,
    pub(super) bus: Bus,
    pub(super) memory: SocketMemory,
    pub(super) clients: BTreeMap<Holder, Client>,
    pub(super) views: BTreeMap<u64, View>,
    /// How many handles a client has to a buffer.
    pub(super) handles: BTreeMap<(BufferId, Holder), u32>,
    pub(super) next: u64,
    pub(super) log: Vec<String>,
}

/// Why an exporter could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Moves.
    #[error(transparent)]
    Mover(#[from] crate::device::live::mover::SetupError),
    /// The frames' file.
    #[error("can't make the frames' memory: {0}")]
    Frames(#[from] std::io::Error),
    /// The socket.
    #[error("can't listen at {path}: {error}")]
    Listen {
        /// Where.
        path: String,
        /// Why.
        error: LinkError,
    },
}

/// How an exporter is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its heaps.
    pub heaps: Vec<HeapConfig>,
    /// Quotas.
    pub limits: Limits,
    /// Frames of the carveout that buffers are allocated in; with none, in system memory.
    pub vram_pages: usize,
    /// How long to wait.
    pub patience: Patience,
    /// Record what happens.
    pub record: bool,
}

/// An exporter; see the [module](self).
#[derive(Debug)]
pub struct Exporter {
    state: Mutex<ExporterState>,
    changed: Condvar,
    patience: Patience,
    pub(super) placement: Placement,
}

impl Exporter {
    /// An exporter without clients.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(config: Config) -> Result<Arc<Self>, SetupError> {
        let page = config.limits.page_bytes;
        let system = usize::try_from(config.limits.bytes / page).unwrap_or(usize::MAX);
        // A move needs room for both places.
        let system = system.saturating_mul(2).min(1 << 30);
        let mut bus = Bus::new(config.vram_pages, system)?;
        bus.recorder = config.record.then(Recorder::default);
        let state = ExporterState {
            device: Device::new(config.heaps, config.limits),
            bus,
            memory: SocketMemory::new()?,
            clients: BTreeMap::new(),
            views: BTreeMap::new(),
            handles: BTreeMap::new(),
            next: 1,
            log: Vec::new(),
        };
        let placement = if config.vram_pages > 0 { Placement::Vram } else { Placement::System };
        Ok(Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            patience: config.patience,
            placement,
        }))
    }

    /// Moves, purges or revokes a buffer.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn work(&self, buffer: BufferId, operation: Operation) -> Result<Done, OperationError> {
        operation::run(self, MOVER, buffer, operation, self.patience)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ExporterState> {
        // Each change is complete before anything can panic.
        transport::lock(&self.state)
    }

    pub(super) fn changed(&self) {
        self.changed.notify_all();
    }

    /// Calls `f` with the device and the bus, for who reports.
    pub fn look<R>(&self, f: impl FnOnce(&Device, &Bus) -> R) -> R {
        let state = self.lock();
        f(&state.device, &state.bus)
    }

    /// What happened that somebody should know, since the last call.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log)
    }

    /// Says an event to a client and waits until it has acted on it.
    fn tell(&self, holder: Holder, event: &Notification, fd: Option<OwnedFd>) -> bool {
        let events = self.lock().clients.get(&holder).map(|client| Arc::clone(&client.events));
        let Some(events) = events else { return false };
        let told = {
            let link = transport::lock(&events);
            let fds: Vec<_> = fd.iter().map(std::os::fd::AsFd::as_fd).collect();
            protocol::send(&link, event, &[], &fds)
                .and_then(|()| protocol::receive::<()>(&link, ACK_TIME_MAX))
        };
        if let Err(error) = told {
            self.drop_holder(holder, &format!("it did not act on an event: {error}"));
            return false;
        }
        true
    }

    /// Gives up everything that a client had. Its link ends.
    pub(super) fn forget(&self, holder: Holder) {
        {
            let state = &mut *self.lock();
            let Some(client) = state.clients.remove(&holder) else { return };
            client.requests.shutdown();
            let now_ns = now_ns();
            for fence in state.bus.drop_holder(holder) {
                let nodev = -rustix::io::Errno::NODEV.raw_os_error();
                state.device.signal_fence(fence, nodev, now_ns);
            }
            state.views.retain(|_, view| view.holder != holder);
            state.memory.drop_dead(holder);
            for ((buffer, _), _) in take_where(&mut state.handles, |(_, of), _| *of == holder) {
                state.release_unheld(buffer);
            }
        }
        self.frames_changed();
        self.changed();
    }
}

impl ExporterState {
    pub(super) fn take_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Releases a buffer that nobody has a handle of.
    pub(super) fn release_unheld(&mut self, buffer: BufferId) {
        if self.handles.keys().any(|(held, _)| *held == buffer) {
            return;
        }
        self.views.retain(|_, view| view.buffer != buffer);
        // What its frames held stays in them, for who still looks.
        let _ = self.bus.leave(&self.memory, buffer, false);
        self.bus.released(&self.device, buffer);
        self.memory.release(buffer);
        self.device.release(crate::device::Object::Buffer(buffer));
        self.device.collect_fences();
    }

    /// The file and page where bytes are.
    pub(super) fn place(&self, frame: FrameNo, bytes: Bytes) -> Option<(OwnedFd, u64)> {
        let (fd, page) = match bytes {
            Bytes::Buffer(of) => (self.memory.file(of.buffer)?, of.page as u64),
            Bytes::Own => (self.bus.own_bytes(), u64::from(frame.0)),
        };
        Some((fd.try_clone_to_owned().ok()?, page))
    }
}

impl Host for Exporter {
    fn with(&self, f: &mut dyn FnMut(&mut Parts<'_>)) {
        let state = &mut *self.lock();
        let ExporterState { device, bus, memory, .. } = state;
        f(&mut Parts { device, bus, memory });
        self.changed();
    }

    fn wait(&self, at_most: Duration) {
        // Whoever changes something says so; the bound is for what was said before we listened.
        let slice = at_most.min(Duration::from_millis(20));
        let guard = self.lock();
        drop(self.changed.wait_timeout(guard, slice));
    }

    fn notify(&self, holder: Holder, attachment: AttachmentId, _buffer: BufferId) -> bool {
        if !self.lock().clients.contains_key(&holder) {
            // A device of the exporter's own looks at its attachment's state.
            return true;
        }
        self.tell(holder, &Notification::MoveNotify { attachment: attachment.0 }, None)
    }

    fn drop_holder(&self, holder: Holder, why: &str) {
        let line = {
            let state = self.lock();
            let name = state.clients.get(&holder).map(|client| client.name.clone());
            name.map(|name| format!("driftheap: client `{name}` is dropped: {why}"))
        };
        self.lock().log.extend(line);
        self.forget(holder);
    }

    fn frames_changed(&self) {
        let mut events = Vec::new();
        {
            let state = &mut *self.lock();
            let mut moved = Vec::new();
            for (&id, view) in &mut state.views {
                for (page, pte) in view.ptes.iter_mut().enumerate() {
                    let Some(frame) = pte.frame else { continue };
                    let now = state.bus.frames.bytes(frame);
                    if now != pte.shown {
                        pte.shown = now;
                        moved.extend(now.map(|bytes| (view.holder, id, page, frame, bytes)));
                    }
                }
            }
            for (holder, mapping, page, frame, bytes) in moved {
                if let Some((fd, place)) = state.place(frame, bytes) {
                    events.push((holder, Notification::Frame { mapping, page, place }, fd));
                }
            }
        }
        for (holder, event, fd) in events {
            self.tell(holder, &event, Some(fd));
        }
    }
}
