//! The connection: requests one way, events the other.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::buffer::Buffer;
use super::mapping::{Mapped, Viewed};
use crate::device::live::mover::FEATURES;
use crate::device::socket::protocol::{
    self, Notification, Received, Request, Response, TalkError, VERSION,
};
use crate::sys::link::{Link, LinkError};
use crate::sys::map::MapError;
use crate::sys::uffd::{Features, OpenError, Uffd, Via};

/// Longest wait for an answer, and for a lock or a fence that is asked for again.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or it may not be reached.
    #[error("can't connect to {path}: {error}")]
    Connect {
        /// Where.
        path: String,
        /// Why.
        error: LinkError,
    },
    /// This machine has no userfaultfd for us.
    #[error("a buffer that moves must be trapped: {0}")]
    Uffd(#[from] OpenError),
    /// The exporter refused, with the kernel's errno.
    #[error("{text}")]
    Refused {
        /// The errno.
        errno: Errno,
        /// What happened.
        text: String,
    },
    /// The exporter is gone, or dropped this client.
    #[error("the exporter is gone, or has dropped this client: {0}")]
    Gone(TalkError),
    /// A lock or a fence did not come.
    #[error("waited {0:?} in vain for a lock or a fence")]
    TimedOut(Duration),
    /// Memory can't be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// No thread, no descriptor.
    #[error("can't set up the connection: {0}")]
    Setup(#[from] std::io::Error),
    /// It answered something else.
    #[error("the exporter answered something that was not asked: a version mismatch")]
    Nonsense,
}

impl ClientError {
    /// The kernel's errno for the same failure.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Connect { .. } => Errno::CONNREFUSED,
            Self::Uffd(_) => Errno::NOSYS,
            Self::Gone(_) => Errno::PIPE,
            Self::TimedOut(_) => Errno::TIMEDOUT,
            Self::Map(MapError::NoMemory) => Errno::NOMEM,
            Self::Map(_) => Errno::INVAL,
            Self::Setup(_) => Errno::NFILE,
            Self::Nonsense => Errno::PROTO,
        }
    }
}

/// What the event thread calls for an attachment.
pub(super) type Callback = Arc<Mutex<dyn FnMut() + Send>>;

/// What all handles of a connection share.
pub(super) struct Shared {
    link: Mutex<Link>,
    /// Ours as well as the exporter's: were its descriptor the last, sleepers would read zeros.
    uffd: Uffd,
    /// The exporter wants to know of CPU accesses.
    pub(super) record: bool,
    dead: AtomicBool,
    callbacks: Mutex<BTreeMap<u64, Callback>>,
    pub(super) mapped: Mutex<BTreeMap<u64, Weak<Mapped>>>,
    pub(super) viewed: Mutex<BTreeMap<u64, Weak<Viewed>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("link", &self.link).finish_non_exhaustive()
    }
}

/// A guard whose data is whole after any panic: each change is one insertion or removal.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection to an exporter: an open /dev/dma_heap. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct Connection {
    pub(super) shared: Arc<Shared>,
}

impl Connection {
    /// Connects to the exporter at `path`, as a program called `name` in its reports.
    ///
    /// # Errors
    /// [`ClientError`]: nobody listens there, this machine has no userfaultfd, or the exporter refuses.
    pub fn open(path: &Path, name: &str) -> Result<Self, ClientError> {
        let poison = FEATURES.union(Features::POISON);
        let uffd = match Uffd::open(Via::UserModeOnly, poison) {
            Err(OpenError::MissingFeatures { .. }) => Uffd::open(Via::UserModeOnly, FEATURES)?,
            other => other?,
        };
        let link = Link::connect(path)
            .map_err(|error| ClientError::Connect { path: path.display().to_string(), error })?;
        let (events, theirs) = Link::pair().map_err(|error| ClientError::Gone(error.into()))?;
        let hello = Request::Hello { version: VERSION, name: name.to_owned() };
        let fds = [theirs.as_fd(), uffd.as_fd()];
        let received = exchange(&link, &hello, &[], &fds)?;
        let Response::Welcome { record } = accepted(received.message)? else {
            return Err(ClientError::Nonsense);
        };
        let shared = Arc::new(Shared {
            link: Mutex::new(link),
            uffd,
            record,
            dead: AtomicBool::new(false),
            callbacks: Mutex::default(),
            mapped: Mutex::default(),
            viewed: Mutex::default(),
        });
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("driftheap-events".into())
            .spawn(move || listen(&weak, &events))?;
        Ok(Self { shared })
    }

    /// DMA_HEAP_IOCTL_ALLOC.
    ///
    /// # Errors
    /// ENOENT: no such heap. EINVAL: length 0. ENOMEM, EMFILE: a quota.
    pub fn alloc(&self, heap: &str, len_bytes: u64) -> Result<Buffer, ClientError> {
        let request = Request::Alloc { heap: heap.to_owned(), len: len_bytes };
        let mut received = self.shared.ask_raw(&request, &[], &[])?;
        let (Response::Buffer { id, pages }, Some(fd)) = (received.message, received.fds.pop())
        else {
            return Err(ClientError::Nonsense);
        };
        Ok(Buffer::new(&self.shared, id, pages, fd))
    }

    /// A buffer that came from another client as a file.
    ///
    /// # Errors
    /// EINVAL: it is not a buffer of this exporter.
    pub fn import(&self, file: OwnedFd) -> Result<Buffer, ClientError> {
        let answer = self.shared.ask_raw(&Request::Import, &[], &[file.as_fd()])?.message;
        let Response::Buffer { id, pages } = answer else { return Err(ClientError::Nonsense) };
        Ok(Buffer::new(&self.shared, id, pages, file))
    }

    /// The exporter's reports so far of what this client and its devices did; empty if nothing went wrong.
    ///
    /// # Errors
    /// [`ClientError::Gone`].
    pub fn findings(&self) -> Result<String, ClientError> {
        let Response::Text(text) = self.shared.ask(&Request::Findings)? else {
            return Err(ClientError::Nonsense);
        };
        Ok(text)
    }

    /// Ends the connection at once, as this process's death would: every later call fails.
    pub fn disconnect(&self) {
        lock(&self.shared.link).shutdown();
    }

    /// Whether the exporter has gone or dropped this client.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.shared.dead.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Asks until the answer is not "again".
    pub(super) fn ask(&self, request: &Request) -> Result<Response, ClientError> {
        Ok(self.ask_raw(request, &[], &[])?.message)
    }

    /// Asks for something that has no answer but that it is done.
    pub(super) fn tell(&self, request: &Request) -> Result<(), ClientError> {
        let Response::Done = self.ask(request)? else { return Err(ClientError::Nonsense) };
        Ok(())
    }

    /// Asks for something that has a number.
    pub(super) fn number(&self, request: &Request) -> Result<u64, ClientError> {
        let Response::Id(id) = self.ask(request)? else { return Err(ClientError::Nonsense) };
        Ok(id)
    }

    pub(super) fn ask_raw(
        &self,
        request: &Request,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Received<Response>, ClientError> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(20);
        loop {
            let received = exchange(&lock(&self.link), request, bytes, fds)?;
            if received.message != Response::Again {
                let message = accepted(received.message)?;
                return Ok(Received { message, ..received });
            }
            if start.elapsed() > ANSWER_TIME_MAX {
                return Err(ClientError::TimedOut(ANSWER_TIME_MAX));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    pub(super) fn on_notify(&self, attachment: u64, callback: Callback) {
        lock(&self.callbacks).insert(attachment, callback);
    }

    pub(super) fn forget_notify(&self, attachment: u64) {
        lock(&self.callbacks).remove(&attachment);
    }

    fn act(&self, event: Notification, fd: Option<OwnedFd>) {
        match event {
            Notification::MoveNotify { attachment } => {
                let callback = lock(&self.callbacks).get(&attachment).cloned();
                if let Some(callback) = callback {
                    (lock(&callback))();
                }
            }
            Notification::Frame { mapping, page, place } => {
                let view = lock(&self.viewed).get(&mapping).and_then(Weak::upgrade);
                if let (Some(view), Some(fd)) = (view, fd) {
                    view.show(page, place, fd.as_fd());
                }
            }
        }
    }

    /// The exporter is gone: whoever sleeps in a mapping wakes, and a page that was absent at that
    /// moment is SIGBUS rather than zeros.
    fn close(&self) {
        self.dead.store(true, Ordering::SeqCst);
        let mapped: Vec<Arc<Mapped>> =
            lock(&self.mapped).values().filter_map(Weak::upgrade).collect();
        for mapping in mapped {
            mapping.orphaned(&self.uffd);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        lock(&self.link).shutdown();
    }
}

fn exchange(
    link: &Link,
    request: &Request,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<Received<Response>, ClientError> {
    protocol::send(link, request, bytes, fds).map_err(ClientError::Gone)?;
    protocol::receive(link, ANSWER_TIME_MAX).map_err(|error| {
        // An answer that comes late would be taken for the next one's.
        link.shutdown();
        ClientError::Gone(error)
    })
}

fn accepted(answer: Response) -> Result<Response, ClientError> {
    if let Response::Error { errno, text } = answer {
        return Err(ClientError::Refused { errno: Errno::from_raw_os_error(errno), text });
    }
    Ok(answer)
}

/// The event thread.
fn listen(shared: &Weak<Shared>, events: &Link) {
    const TURN: Duration = Duration::from_secs(3600);
    loop {
        let received = match protocol::receive::<Notification>(events, TURN) {
            Ok(received) => received,
            Err(TalkError::Link(LinkError::TimedOut)) => continue,
            Err(_) => break,
        };
        let Some(shared) = shared.upgrade() else { return };
        shared.act(received.message, received.fds.into_iter().next());
        drop(shared);
        if protocol::send(events, &(), &[], &[]).is_err() {
            break;
        }
    }
    if let Some(shared) = shared.upgrade() {
        shared.close();
    }
}
