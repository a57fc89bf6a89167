//! The files behind the device's objects, and how one is recognised.
//!
//! A descriptor in a program is one of ours when its inode is in this registry, in whatever
//! process it is and however it got there: dup, fork, SCM_RIGHTS and pidfd_getfd need no
//! tracking. Only heaps, and the far ends of some sync files, are kept open here; a buffer is the program's
//! alone, and /proc/locks tells when it is gone (`sys::backing::mark`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use crate::device::{Access, Backing, Buffer, Device, HeapId, Inode, Object, SyncFileId};
use crate::sys::backing;

/// An inode and, where it has several open files, the brand of one.
type Key = (Inode, u8);

/// Every file of ours.
#[derive(Debug)]
pub struct Files {
    objects: BTreeMap<Key, Object>,
    heaps: Vec<OwnedFd>,
    udmabuf: OwnedFd,
    /// Write ends of the sync files that were created unsignalled, and whether they are now.
    writers: BTreeMap<SyncFileId, (OwnedFd, bool)>,
    directory: Option<PathBuf>,
    directory_inode: Option<Inode>,
    /// Bytes that memfd_secret may take; what goes beyond gets a memfd.
    pub secret_bytes_max: u64,
    /// Objects found alive by the last sweep.
    last_live: usize,
    /// Objects registered since.
    since_sweep: usize,
}

/// The inode behind a descriptor.
pub fn inode(fd: BorrowedFd<'_>) -> Result<Inode, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(Inode { dev: stat.st_dev, ino: stat.st_ino })
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
            let file = sealed(&format!("/dev/dma_heap/{}", heap.name), b"")?;
            objects.insert((inode(file.as_fd())?, 0), Object::Heap(HeapId(id)));
            heaps.push(file);
        }
        let udmabuf = sealed("/dev/udmabuf", b"")?;
        objects.insert((inode(udmabuf.as_fd())?, 0), Object::Udmabuf);
        Ok(Self {
            objects,
            heaps,
            udmabuf,
            writers: BTreeMap::new(),
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
        self.objects.range((inode, 1)..=(inode, u8::MAX)).next()?;
        self.objects.get(&(inode, backing::brand_of(fd))).copied()
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

    /// The file of a new sw_sync timeline.
    pub fn create_timeline(&mut self, object: Object) -> io::Result<OwnedFd> {
        let file = sealed("sw_sync", b"")?;
        self.register(file.as_fd(), object, true, 0)?;
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
            Access::RDWR => whole,
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

    /// A new open file of the caller's memfd, branded as a udmabuf.
    ///
    /// # Errors
    /// ENOMEM: one memfd has more udmabufs than there are brands.
    pub fn create_udmabuf(
        &mut self,
        object: Object,
        memfd: BorrowedFd<'_>,
    ) -> Result<(OwnedFd, Inode), Errno> {
        let file = backing::reopen(memfd, OFlags::RDWR).map_err(to_errno)?;
        let inode = inode(file.as_fd())?;
        let free = |brand: &u8| !self.objects.contains_key(&(inode, *brand));
        let brand = backing::BRANDS.clone().find(free).ok_or(Errno::NOMEM)?;
        backing::brand(file.as_fd(), brand).map_err(to_errno)?;
        self.register(file.as_fd(), object, true, brand)?;
        Ok((file, inode))
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
        rustix::pipe::fcntl_setpipe_size(&write, 4096)?;
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
        if let Object::SyncFile(id) = object {
            self.writers.remove(&id);
        }
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

    /// Releases the objects whose files are gone.
    pub fn sweep(&mut self, device: &mut Device) {
        let Some(live) = live_marks() else { return };
        let kept = |object: &Object, key: &Key| match object {
            Object::Heap(_) | Object::Udmabuf => true,
            Object::Timeline(_) | Object::Buffer(_) | Object::SyncFile(_) => live.contains(key),
        };
        let writers = &mut self.writers;
        self.objects.retain(|key, &mut object| {
            let keep = kept(&object, key);
            if !keep {
                device.release(object);
            }
            if !keep && let Object::SyncFile(id) = object {
                writers.remove(&id);
            }
            keep
        });
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
        let path = std::env::temp_dir().join(format!("driftheap-{}", std::process::id()));
        // A leftover of a killed driftheap with our process id holds only nodes like these.
        drop(std::fs::remove_dir_all(&path));
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
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(path) = &self.directory {
            drop(std::fs::remove_dir_all(path));
        }
    }
}

fn to_errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// ftruncate's EFBIG and EINVAL mean that no memory of this size exists.
fn no_memory(_: Errno) -> Errno {
    Errno::NOMEM
}

fn fill(pipe: BorrowedFd<'_>) {
    // The pipe is one page and empty, so one write fills it.
    let _ = rustix::io::write(pipe, &[0; 4096]);
}

/// A memfd with fixed content.
pub fn sealed(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let file = backing::memfd(name)?;
    rustix::io::write(&file, content)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Most reads of /proc/locks before a sweep is put off.
const READS_MAX: usize = 64;

/// The marks that exist, or `None` if they can't be told for the moment.
///
/// The kernel hands /proc/locks out a page at a time and finds its place again by counting lines,
/// so that a lock which goes meanwhile hides one further down. It does so only if its own line was
/// read already, and then it is missing from the next read: two reads of which the second lacks
/// nothing of the first have therefore missed nothing in the first.
fn live_marks() -> Option<BTreeSet<Key>> {
    let mut before = lock_lines()?;
    for _ in 1..READS_MAX {
        let after = lock_lines()?;
        if before.is_subset(&after) {
            return Some(after.iter().filter_map(|line| mark(line)).collect());
        }
        before = after;
    }
    None
}

/// The lines of /proc/locks without their numbers.
fn lock_lines() -> Option<BTreeSet<String>> {
    let text = std::fs::read("/proc/locks").ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = |line: &str| line.split_once(':').map(|(_, rest)| rest.to_owned());
    Some(text.lines().filter_map(line).collect())
}

/// The mark in a line of /proc/locks, without its number: `LEASE ACTIVE WRITE PID MAJ:MIN:INO 0 EOF`
/// or `OFDLCK ADVISORY WRITE -1 MAJ:MIN:INO START END`.
fn mark(line: &str) -> Option<Key> {
    let mut fields = line.split_ascii_whitespace();
    let lease = match fields.next()? {
        "LEASE" => true,
        "OFDLCK" => false,
        _ => return None,
    };
    let mut place = fields.nth(3)?.split(':');
    let major = u32::from_str_radix(place.next()?, 16).ok()?;
    let minor = u32::from_str_radix(place.next()?, 16).ok()?;
    let inode = Inode { dev: rustix::fs::makedev(major, minor), ino: place.next()?.parse().ok()? };
    if lease {
        return Some((inode, 0));
    }
    let start: i64 = fields.next()?.parse().ok()?;
    let brand = u8::try_from(start.checked_sub(backing::MARK_OFFSET)?).ok()?;
    Some((inode, brand))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_from_proc_locks() {
        let inode = |minor, ino| Inode { dev: rustix::fs::makedev(0, minor), ino };
        for (line, expect) in [
            (
                " OFDLCK ADVISORY  READ  -1 00:01:12 4611686018427387939 4611686018427387939",
                Some((inode(1, 12), 35)),
            ),
            (" LEASE  ACTIVE    WRITE 31337 00:0e:32536 0 EOF", Some((inode(14, 32536), 0))),
            (" POSIX  ADVISORY  WRITE 77 00:0e:32535 0 EOF", None),
            (" OFDLCK ADVISORY  READ  -1 00:01:13 0 EOF", None),
            (" -> POSIX  ADVISORY  WRITE 77 00:0e:32535 0 EOF", None),
            (" OFDLCK", None),
            ("", None),
        ] {
            assert_eq!(mark(line), expect, "{line}");
        }
    }

    #[test]
    fn an_object_lives_as_long_as_its_file() {
        let heaps = vec![crate::device::HeapConfig::new("system")];
        let mut device = Device::new(heaps, crate::device::Limits::default());
        let mut files = Files::new(&device, 0).unwrap();
        let timeline = device.open_timeline("test").unwrap();
        let file = files.create_timeline(Object::Timeline(timeline)).unwrap();
        assert_eq!(files.object(file.as_fd()), Some(Object::Timeline(timeline)));
        files.sweep(&mut device);
        assert_eq!(files.object(file.as_fd()), Some(Object::Timeline(timeline)), "still open");
        let inode = inode(file.as_fd()).unwrap();
        drop(file);
        files.sweep(&mut device);
        assert!(!files.objects.contains_key(&(inode, 0)), "closed");
    }
}
