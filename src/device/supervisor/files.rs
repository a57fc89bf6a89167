//! The files behind the device's objects, and how one is recognised.
//!
//! A descriptor in a program is one of ours when its inode is in this registry, in whatever
//! process it is and however it got there: dup, fork, SCM_RIGHTS and pidfd_getfd need no
//! tracking. Only heaps, and the far ends of some sync files, are kept open here; a buffer is the program's
//! alone, and `life` tells when it is gone.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::epoll;
use rustix::fs::{FileType, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use super::life::{self, Key};
use super::scatter::Scattered;
use crate::device::transport::inode;
use crate::device::{
    Backing, Buffer, Device, Exporter, HeapId, Inode, Object, OpenMode, SyncFileId, TimelineId,
};
use crate::sys::backing;
use crate::sys::page::page_bytes;

/// Descriptors kept for the moment when there are no more: what a sweep has open at once.
const SPARE: usize = 8;

/// Every file of ours.
#[derive(Debug)]
pub struct Files {
    objects: BTreeMap<Key, Object>,
    heaps: Vec<OwnedFd>,
    udmabuf: OwnedFd,
    /// Write ends of the sync files that were created unsignalled, and whether they are now.
    writers: BTreeMap<SyncFileId, (OwnedFd, bool)>,
    /// Our ends of the timelines.
    timelines: BTreeMap<TimelineId, OwnedFd>,
    /// Waits for the ends of timelines.
    timeline_ends: OwnedFd,
    /// The udmabufs that are not a memfd as it is.
    pub(super) scattered: Scattered,
    /// Descriptors to be given up when there are no more.
    spare: Vec<OwnedFd>,
    directory: Option<PathBuf>,
    directory_inode: Option<Inode>,
    /// Bytes that memfd_secret may take; what goes beyond gets a memfd.
    pub secret_bytes_max: u64,
    /// Objects found alive by the last sweep.
    last_live: usize,
    /// Objects registered since.
    since_sweep: usize,
}

impl Files {
    /// Creates the files of the heaps and of /dev/udmabuf.
    ///
    /// # Errors
    /// EMFILE, ENFILE: out of descriptors. ENOSYS: no memfd_create.
    pub fn new(device: &Device, secret_bytes_max: u64) -> io::Result<Self> {
        let mut objects = BTreeMap::new();
        let mut heaps = Vec::new();
        for (heap, id) in device.heaps().iter().zip(0..) {
            let file = backing::sealed(&format!("/dev/dma_heap/{}", heap.name), b"")?;
            objects.insert((inode(file.as_fd())?, 0), Object::Heap(HeapId(id)));
            heaps.push(file);
        }
        let udmabuf = backing::sealed("/dev/udmabuf", b"")?;
        objects.insert((inode(udmabuf.as_fd())?, 0), Object::Udmabuf);
        Ok(Self {
            objects,
            heaps,
            spare: spare(&udmabuf),
            udmabuf,
            writers: BTreeMap::new(),
            timelines: BTreeMap::new(),
            timeline_ends: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            scattered: Scattered::default(),
            directory: None,
            directory_inode: None,
            secret_bytes_max,
            last_live: 0,
            since_sweep: 0,
        })
    }

    /// Which object a descriptor refers to.
    pub fn object(&self, fd: BorrowedFd<'_>) -> Option<Object> {
        let inode = inode(fd).ok()?;
        if let Some(&object) = self.objects.get(&(inode, 0)) {
            return Some(object);
        }
        let &object = self.objects.get(&(inode, backing::BRAND_UDMABUF))?;
        (backing::brand_of(fd) == backing::BRAND_UDMABUF).then_some(object)
    }

    /// Which object a mapping of this inode belongs to. A udmabuf's mapping can't be told from one
    /// of its memfd, and counts as the memfd's.
    pub fn by_inode(&self, inode: Inode) -> Option<Object> {
        self.objects.get(&(inode, 0)).copied()
    }

    /// Whether this is the directory that stands for /dev/dma_heap.
    pub fn is_directory(&self, inode: Inode) -> bool {
        self.directory_inode == Some(inode)
    }

    /// A new open file of a heap or of /dev/udmabuf.
    pub fn open_device(&self, object: Object, flags: OFlags) -> io::Result<OwnedFd> {
        let file = match object {
            Object::Heap(HeapId(id)) => {
                usize::try_from(id).ok().and_then(|index| self.heaps.get(index))
            }
            Object::Udmabuf => Some(&self.udmabuf),
            Object::Timeline(_) | Object::Buffer(_) | Object::SyncFile(_) => None,
        };
        let file = file.ok_or(io::ErrorKind::NotFound)?.as_fd();
        // An O_PATH file can't be passed on with ADDFD.
        let by_path = flags.contains(OFlags::PATH);
        let opened = backing::reopen(file, if by_path { OFlags::RDONLY } else { flags })?;
        if by_path {
            backing::brand(opened.as_fd(), backing::BRAND_PATH)?;
        }
        Ok(opened)
    }

    /// The file of a new sw_sync timeline: one end of a socket, whose other end tells at once when
    /// the last reference is gone, since a program waits for the fences that then signal.
    ///
    /// # Errors
    /// EMFILE: the supervisor is out of descriptors.
    pub fn create_timeline(&mut self, id: TimelineId) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (file, end) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // A read of it ends at once.
        rustix::net::shutdown(&end, Shutdown::Write)?;
        let data = epoll::EventData::new_u64(id.0);
        epoll::add(&self.timeline_ends, &end, data, epoll::EventFlags::HUP)?;
        self.objects.insert((inode(file.as_fd())?, 0), Object::Timeline(id));
        self.timelines.insert(id, end);
        Ok(file)
    }

    /// The file of a new buffer of a heap, and what it turned out to be made of.
    ///
    /// # Errors
    /// ENOMEM: the kernel can't hold a file of this size. EMFILE: the supervisor is out of
    /// descriptors.
    pub fn create_buffer(
        &mut self,
        object: Object,
        buffer: &Buffer,
        secret_fits: bool,
    ) -> Result<(OwnedFd, Backing, Inode), Errno> {
        if buffer.backing == Backing::Secret
            && secret_fits
            && let Ok(file) = backing::secret()
        {
            rustix::fs::ftruncate(&file, buffer.size_bytes).map_err(no_memory)?;
            let inode = self.register(file.as_fd(), object, true, 0)?;
            return Ok((file, Backing::Secret, inode));
        }
        let whole = backing::memfd("dmabuf").map_err(to_errno)?;
        rustix::fs::ftruncate(&whole, buffer.size_bytes).map_err(no_memory)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&whole, seals)?;
        let flags = OFlags::from_bits_retain(buffer.access.mode);
        let file = match buffer.access {
            OpenMode::RDWR => whole,
            _ => backing::reopen(whole.as_fd(), flags).map_err(to_errno)?,
        };
        let writable = buffer.access.writes();
        let inode = self.register(file.as_fd(), object, writable, 0)?;
        Ok((file, Backing::Memfd, inode))
    }

    /// The file of a new buffer that can move, and the exporter's own file of the same memory,
    /// which is not the one that tells when the program's is gone.
    ///
    /// It is not sealed against shrinking, which is how the exporter takes its pages away, and open
    /// for both directions whatever the caller asked for: a mapping of a read-only file can't be
    /// trapped. The device refuses in its place.
    ///
    /// # Errors
    /// As [`Files::create_buffer`].
    pub fn create_live_buffer(
        &mut self,
        object: Object,
        buffer: &Buffer,
    ) -> Result<(OwnedFd, OwnedFd, Inode), Errno> {
        let whole = backing::memfd("dmabuf").map_err(to_errno)?;
        rustix::fs::ftruncate(&whole, buffer.size_bytes).map_err(no_memory)?;
        rustix::fs::fcntl_add_seals(&whole, SealFlags::GROW | SealFlags::SEAL)?;
        let file = backing::reopen(whole.as_fd(), OFlags::RDWR).map_err(to_errno)?;
        let inode = self.register(file.as_fd(), object, true, 0)?;
        Ok((file, whole, inode))
    }

    /// The file of a new udmabuf. The first one of a memfd from its first byte on is the memfd,
    /// opened anew and branded; any other is an empty file, in whose place the pieces are mapped
    /// (`scatter`). So no two buffers share an inode.
    ///
    /// # Errors
    /// EMFILE: the supervisor is out of descriptors. EBADFD: a piece's memfd is not among these.
    pub fn create_udmabuf(
        &mut self,
        object: Object,
        buffer: &Buffer,
        memfds: &BTreeMap<Inode, OwnedFd>,
    ) -> Result<(OwnedFd, Inode), Errno> {
        let (Exporter::Udmabuf { pieces, .. }, Object::Buffer(id)) = (&buffer.exporter, object)
        else {
            return Err(Errno::BADFD);
        };
        if let [piece] = pieces.as_slice()
            && piece.offset == 0
            && !self.objects.contains_key(&(piece.inode, backing::BRAND_UDMABUF))
        {
            let memfd = memfds.get(&piece.inode).ok_or(Errno::BADFD)?;
            let file = backing::reopen(memfd.as_fd(), OFlags::RDWR).map_err(to_errno)?;
            let brand = backing::BRAND_UDMABUF;
            backing::brand(file.as_fd(), brand).map_err(to_errno)?;
            let inode = self.register(file.as_fd(), object, true, brand)?;
            return Ok((file, inode));
        }
        let file = backing::memfd("dmabuf").map_err(to_errno)?;
        rustix::fs::ftruncate(&file, buffer.size_bytes).map_err(no_memory)?;
        self.scattered.insert(id, pieces, memfds)?;
        let inode = self.register(file.as_fd(), object, true, 0);
        if inode.is_err() {
            self.scattered.remove(id);
        }
        Ok((file, inode?))
    }

    /// The file of a new sync file, a pipe of one page. One that has signalled is open for both
    /// directions and full: readable, not writable, never hung up. One that has not is the read
    /// end of an empty pipe whose write end stays here.
    ///
    /// # Errors
    /// EMFILE: the supervisor is out of descriptors.
    pub fn create_sync_file(&mut self, id: SyncFileId, signalled: bool) -> Result<OwnedFd, Errno> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (read, write) = rustix::pipe::pipe_with(flags)?;
        rustix::pipe::fcntl_setpipe_size(&write, page_bytes())?;
        if signalled {
            let file =
                backing::reopen(read.as_fd(), OFlags::RDWR | OFlags::NONBLOCK).map_err(to_errno)?;
            self.register(file.as_fd(), Object::SyncFile(id), true, 0)?;
            fill(file.as_fd());
            return Ok(file);
        }
        self.register(read.as_fd(), Object::SyncFile(id), false, 0)?;
        self.writers.insert(id, (write, false));
        Ok(read)
    }

    /// Makes the sync files readable whose fences have signalled since.
    pub fn signal_sync_files(&mut self, device: &Device) {
        for (&id, (write, signalled)) in &mut self.writers {
            if !*signalled && device.sync_file_signalled(id) {
                fill(write.as_fd());
                *signalled = true;
            }
        }
    }

    /// Forgets an object that could not be delivered.
    pub fn forget(&mut self, object: Object) {
        self.objects.retain(|_, &mut held| held != object);
        self.let_go(object);
    }

    /// Closes what is open here for an object.
    fn let_go(&mut self, object: Object) {
        match object {
            Object::SyncFile(id) => drop(self.writers.remove(&id)),
            Object::Timeline(id) => drop(self.timelines.remove(&id)),
            Object::Buffer(id) => self.scattered.remove(id),
            Object::Heap(_) | Object::Udmabuf => {}
        }
    }

    /// Readable when a timeline's last descriptor is closed; then call [`Files::end_timelines`].
    ///
    /// # Errors
    /// EMFILE: out of descriptors.
    pub fn timeline_ends(&self) -> io::Result<OwnedFd> {
        self.timeline_ends.try_clone()
    }

    /// Releases the timelines that nobody has open any more: their fences signal.
    pub fn end_timelines(&mut self, device: &mut Device) {
        while let Some(id) = self.ended_timeline() {
            device.close_timeline(id, super::now_ns());
            self.forget(Object::Timeline(id));
        }
        self.signal_sync_files(device);
    }

    fn ended_timeline(&self) -> Option<TimelineId> {
        let mut events = Vec::with_capacity(1);
        let now = rustix::event::Timespec::default();
        let buffer = rustix::buffer::spare_capacity(&mut events);
        epoll::wait(&self.timeline_ends, buffer, Some(&now)).ok()?;
        events.first().map(|event| TimelineId(event.data.u64()))
    }

    /// Runs `act` with a few descriptors more than there are otherwise.
    pub fn with_spare<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        self.lend();
        let result = act(self);
        self.take_back();
        result
    }

    /// Gives the few descriptors up that are kept for when there are no others.
    pub fn lend(&mut self) {
        self.spare.clear();
    }

    /// Ends [`Files::lend`].
    pub fn take_back(&mut self) {
        self.spare = spare(&self.udmabuf);
    }

    fn register(
        &mut self,
        fd: BorrowedFd<'_>,
        object: Object,
        writable: bool,
        brand: u8,
    ) -> Result<Inode, Errno> {
        let inode = inode(fd)?;
        // Without a mark the object counts as alive until the end, which only costs quota.
        drop(backing::mark(fd, writable, brand));
        self.objects.insert((inode, brand), object);
        self.since_sweep += 1;
        Ok(inode)
    }

    /// Whether so many objects came since the last sweep that another is due.
    pub fn sweep_due(&self) -> bool {
        self.since_sweep > self.last_live + 256
    }

    /// Whether a sweep is likely enough to find something to be worth its time.
    pub fn sweep_worthwhile(&self) -> bool {
        self.since_sweep > self.last_live / 4
    }

    /// The object whose file this is, if it has the inode for itself.
    pub fn object_of(&self, inode: Inode) -> Option<Object> {
        self.objects.get(&(inode, 0)).copied()
    }

    /// Whether a file of ours may be in a program.
    pub fn have_any(&self) -> bool {
        !self.objects.is_empty()
    }

    /// Releases the objects whose files are gone.
    pub fn sweep(&mut self, device: &mut Device) {
        self.end_timelines(device);
        // Their ends are heard of.
        let is_marked = |object: &Object| matches!(object, Object::Buffer(_) | Object::SyncFile(_));
        let marked = self.objects.iter().filter(|(_, object)| is_marked(object));
        let marked = marked.map(|(&key, _)| key).collect();
        // What can't be told now is told by a later sweep.
        let gone = life::gone(marked).unwrap_or_default();
        for key in gone {
            let Some(object) = self.objects.remove(&key) else { continue };
            device.release(object);
            self.let_go(object);
        }
        device.collect_fences();
        self.signal_sync_files(device);
        self.last_live = self.objects.len();
        self.since_sweep = 0;
    }

    /// A directory that lists the heaps as device nodes, made on first use.
    ///
    /// # Errors
    /// No temporary directory can be written.
    pub fn directory(&mut self, device: &Device) -> io::Result<PathBuf> {
        if let Some(path) = &self.directory {
            return Ok(path.clone());
        }
        let path = crate::device::runtime::own_path("nodes")?;
        rustix::fs::mkdir(&path, Mode::from_bits_retain(0o755))?;
        for heap in device.heaps() {
            let name = path.join(&heap.name);
            // Device 0:0 is the one node that anybody may make (a whiteout, since 5.8).
            let mode = Mode::from_bits_retain(0o666);
            let here = rustix::fs::CWD;
            if rustix::fs::mknodat(here, &name, FileType::CharacterDevice, mode, 0).is_err() {
                std::fs::write(&name, "")?;
            }
        }
        let stat = rustix::fs::stat(&path)?;
        self.directory_inode = Some(Inode { dev: stat.st_dev, ino: stat.st_ino });
        self.directory = Some(path.clone());
        Ok(path)
    }

    /// Removes that directory. Whoever serves a control socket holds us until the process ends, so
    /// dropping would come too late.
    pub fn remove_directory(&mut self) {
        if let Some(path) = self.directory.take() {
            crate::device::runtime::release(&path);
        }
    }
}

/// A few descriptors that stand for nothing.
fn spare(of: &OwnedFd) -> Vec<OwnedFd> {
    (0..SPARE).map_while(|_| of.try_clone().ok()).collect()
}

pub(super) fn to_errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// ftruncate's EFBIG and EINVAL mean that no memory of this size exists.
fn no_memory(_: Errno) -> Errno {
    Errno::NOMEM
}

fn fill(pipe: BorrowedFd<'_>) {
    // The pipe is one page and empty, so one write fills it.
    let _ = rustix::io::write(pipe, &vec![0; page_bytes()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device_and_files() -> (Device, Files) {
        let heaps = vec![crate::device::HeapConfig::new("system")];
        let device = Device::new(heaps, crate::device::Limits::default());
        let files = Files::new(&device, 0).unwrap();
        (device, files)
    }

    #[test]
    fn an_object_lives_as_long_as_its_file() {
        let (mut device, mut files) = device_and_files();
        let object = Object::SyncFile(SyncFileId(7));
        let file = files.create_sync_file(SyncFileId(7), true).unwrap();
        assert_eq!(files.object(file.as_fd()), Some(object));
        files.sweep(&mut device);
        assert_eq!(files.object(file.as_fd()), Some(object), "still open");
        let inode = inode(file.as_fd()).unwrap();
        drop(file);
        files.sweep(&mut device);
        assert!(!files.objects.contains_key(&(inode, 0)), "closed");
    }

    /// `sw_sync_debugfs_release`: the fences of a closed timeline signal -ENOENT, without a sweep.
    #[test]
    fn a_closed_timeline_signals_its_fences() {
        let (mut device, mut files) = device_and_files();
        let timeline = device.open_timeline("test").unwrap();
        let file = files.create_timeline(timeline).unwrap();
        let ask = crate::uapi::sw_sync::CreateFence { value: 1, name: [0; 32], fence: 0 };
        let request = crate::device::Ioctl::new(
            Object::Timeline(timeline),
            crate::uapi::sw_sync::CREATE_FENCE,
            0x1000,
        )
        .with_memory(ask.to_bytes());
        let crate::device::Action::Install(install) = device.ioctl(&request) else {
            panic!("refused")
        };
        let Object::SyncFile(id) = install.object else { panic!("no sync file") };
        let sync_file = files.create_sync_file(id, false).unwrap();
        let mut byte = [0; 1];
        files.end_timelines(&mut device);
        assert_eq!(rustix::io::read(&sync_file, &mut byte), Err(Errno::AGAIN), "active");
        drop(file);
        files.end_timelines(&mut device);
        assert_eq!(rustix::io::read(&sync_file, &mut byte), Ok(1), "readable");
        let fences = device.sync_file(id).unwrap().fences.clone();
        let status = |&id| device.fences().get(id).unwrap().status();
        assert_eq!(fences.iter().map(status).collect::<Vec<_>>(), [-2]);
    }
}
