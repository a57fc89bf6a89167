//! What rows share: constants, and calls with names.

use crate::sys::arch::legacy;
use crate::sys::raw::{R, call, ptr};

pub(crate) const ALLOC: u64 = 0xc018_4800;
pub(crate) const SYNC: u64 = 0x4008_6200;
pub(crate) const SET_NAME_A: u64 = 0x4004_6201;
pub(crate) const SET_NAME_B: u64 = 0x4008_6201;
pub(crate) const RDWR: u32 = 2;
pub(crate) const BAD: u64 = 0x10;
pub(crate) const PROT_R: u64 = 1;
pub(crate) const PROT_RW: u64 = 3;
pub(crate) const SHARED: u64 = 1;

/// `struct dma_heap_allocation_data`, with room behind it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Alloc {
    pub(crate) len: u64,
    pub(crate) fd: u32,
    pub(crate) fd_flags: u32,
    pub(crate) heap_flags: u64,
    pub(crate) tail: u64,
}

/// A row's answer where its question could not be asked: an errno, or SKIP and the reason.
#[derive(Debug)]
pub(crate) struct Early(pub(crate) String);

/// The name of an errno.
pub(crate) fn name(errno: i32) -> String {
    let names = [
        (1, "EPERM"),
        (2, "ENOENT"),
        (4, "EINTR"),
        (5, "EIO"),
        (9, "EBADF"),
        (11, "EAGAIN"),
        (12, "ENOMEM"),
        (8, "ENOEXEC"),
        (13, "EACCES"),
        (14, "EFAULT"),
        (16, "EBUSY"),
        (17, "EEXIST"),
        (18, "EXDEV"),
        (19, "ENODEV"),
        (20, "ENOTDIR"),
        (21, "EISDIR"),
        (22, "EINVAL"),
        (24, "EMFILE"),
        (25, "ENOTTY"),
        (26, "ETXTBSY"),
        (29, "ESPIPE"),
        (6, "ENXIO"),
        (28, "ENOSPC"),
        (38, "ENOSYS"),
        (40, "ELOOP"),
        (77, "EBADFD"),
        (95, "EOPNOTSUPP"),
        (61, "ENODATA"),
    ];
    names
        .iter()
        .find(|(number, _)| *number == errno)
        .map_or_else(|| format!("errno {errno}"), |(_, name)| (*name).to_owned())
}

/// `ok` or the errno's name.
pub(crate) fn e(result: R) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(errno) => name(errno),
    }
}

/// The value or the errno's name.
pub(crate) fn v(result: R) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(errno) => name(errno),
    }
}

/// Bytes of a page of this machine.
pub(crate) fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// A size of whole pages, and bytes, as a machine with pages of 4096 bytes would show it: answers are
/// compared across page sizes.
pub(crate) fn as_4k(bytes: u64) -> u64 {
    bytes / page_size() * 4096 + bytes % page_size()
}

/// Where a file of whole pages ends, or the errno's name.
pub(crate) fn end(fd: u64) -> String {
    match lseek(fd, 0, 2) {
        Ok(end) => as_4k(end as u64).to_string(),
        Err(errno) => name(errno),
    }
}

pub(crate) fn open(path: &str, flags: i32) -> R {
    let mut path = format!("{path}\0").into_bytes();
    call(libc::SYS_openat, &[libc::AT_FDCWD as u64, ptr(path.as_mut_slice()), flags as u64, 0o600])
}

/// Where buffers come from, by the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BufferSource {
    /// /dev/dma_heap/system, whose ALLOC installs a descriptor.
    Kernel,
    /// CONFORMANCE_MOUNT: a FUSE mount, whose buffers are files of their own.
    Mount(String),
    /// CONFORMANCE_NODE: a CUSE node, by its path; ALLOC answers a handle.
    Node(String),
    /// CONFORMANCE_EXPORTER: `udmabuf` or `vgem`, which have no heap.
    Exporter(String),
}

pub(crate) fn place() -> BufferSource {
    let set = |name: &str| std::env::var(format!("CONFORMANCE_{name}")).ok();
    let mount = set("MOUNT").map(BufferSource::Mount);
    let node = || set("NODE").map(BufferSource::Node);
    let exporter = || set("EXPORTER").map(BufferSource::Exporter);
    mount.or_else(node).or_else(exporter).unwrap_or(BufferSource::Kernel)
}

/// A path below the heaps' directory. `system` stands for the heap under test.
pub(crate) fn heap_path(name: &str) -> String {
    match place() {
        BufferSource::Mount(mount) => format!("{mount}/dma_heap/{name}"),
        BufferSource::Node(node) if name == "system" => node,
        BufferSource::Node(node) => {
            format!("{}/{name}", node.rsplit_once('/').unwrap_or(("", "")).0)
        }
        BufferSource::Kernel | BufferSource::Exporter(_) => format!("/dev/dma_heap/{name}"),
    }
}

pub(crate) fn heap() -> u64 {
    open(&heap_path("system"), libc::O_RDWR | libc::O_CLOEXEC).map_or(u64::MAX, |fd| fd as u64)
}

/// The file descriptor of a buffer that ALLOC answered.
pub(crate) fn buffer_fd(arg: &Alloc) -> R {
    let flags = (arg.fd_flags & (3 | libc::O_CLOEXEC as u32)) as i32;
    match place() {
        BufferSource::Kernel | BufferSource::Exporter(_) => Ok(i64::from(arg.fd)),
        BufferSource::Mount(mount) => open(&format!("{mount}/buffers/{}", arg.fd), flags),
        BufferSource::Node(node) => super::node::opened(&node, arg.fd, flags, true),
    }
}

/// The file descriptor of a sync file that an ioctl answered.
pub(crate) fn sync_file_fd(number: u32) -> R {
    match place() {
        BufferSource::Node(node) => {
            // A sync_file is open for reading only.
            super::node::opened(&node, number, libc::O_RDONLY | libc::O_CLOEXEC, false)
        }
        BufferSource::Kernel | BufferSource::Mount(_) | BufferSource::Exporter(_) => {
            Ok(i64::from(number))
        }
    }
}

pub(crate) fn ioctl<T>(fd: u64, cmd: u64, arg: &mut T) -> R {
    call(libc::SYS_ioctl, &[fd, cmd, ptr(arg)])
}

/// ALLOC; the new file descriptor.
pub(crate) fn alloc(len: u64, fd_flags: u32) -> R {
    if let BufferSource::Exporter(exporter) = place() {
        return super::exporters::buffer(&exporter, len, fd_flags);
    }
    let mut arg = Alloc { len, fd_flags, ..Alloc::default() };
    let heap = heap();
    let result = ioctl(heap, ALLOC, &mut arg).and_then(|_| buffer_fd(&arg));
    let _ = close(heap);
    result
}

/// A buffer of `pages` pages, readable and writable; exits the row if there is none.
pub(crate) fn buffer(pages: u64) -> u64 {
    match alloc(pages * page_size(), RDWR | libc::O_CLOEXEC as u32) {
        Ok(fd) => fd as u64,
        Err(errno) => panic!("no buffer: {}", name(errno)),
    }
}

pub(crate) fn mmap(fd: u64, len: u64, prot: u64, flags: u64, offset: u64) -> R {
    call(libc::SYS_mmap, &[0, len, prot, flags, super::node::memory(fd), offset])
}

/// A shared mapping of a fresh buffer; the fd and the address.
pub(crate) fn mapped(pages: u64) -> (u64, u64) {
    let fd = buffer(pages);
    match mmap(fd, pages * page_size(), PROT_RW, SHARED, 0) {
        Ok(addr) => (fd, addr as u64),
        Err(errno) => panic!("no mapping: {}", name(errno)),
    }
}

/// An anonymous private mapping.
pub(crate) fn anonymous(pages: u64, prot: u64) -> u64 {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    call(libc::SYS_mmap, &[0, pages * page_size(), prot, flags, u64::MAX, 0])
        .map_or(0, |at| at as u64)
}

pub(crate) fn close(fd: u64) -> R {
    call(libc::SYS_close, &[fd])
}

pub(crate) fn lseek(fd: u64, offset: i64, whence: u64) -> R {
    call(libc::SYS_lseek, &[fd, offset as u64, whence])
}

/// access(2), by the oldest call that the architecture has.
pub(crate) fn access(path: u64, mode: u64) -> R {
    if legacy::SYS_access >= 0 {
        return call(legacy::SYS_access, &[path, mode]);
    }
    call(libc::SYS_faccessat, &[libc::AT_FDCWD as u64, path, mode])
}

/// poll without waiting; the names of the events found.
pub(crate) fn poll(fd: u64) -> String {
    let mut entry = [0u8; 8];
    entry[..4].copy_from_slice(&(fd as u32).to_ne_bytes());
    entry[4..6].copy_from_slice(&5u16.to_ne_bytes());
    let polled = if legacy::SYS_poll >= 0 {
        call(legacy::SYS_poll, &[ptr(&mut entry), 1, 0])
    } else {
        call(libc::SYS_ppoll, &[ptr(&mut entry), 1, ptr(&mut [0u64; 2]), 0])
    };
    if let Err(errno) = polled {
        return name(errno);
    }
    events(u32::from(u16::from_ne_bytes([entry[6], entry[7]])))
}

pub(crate) fn events(mask: u32) -> String {
    let names = [(1, "IN"), (4, "OUT"), (8, "ERR"), (16, "HUP"), (32, "NVAL")];
    let found: Vec<&str> =
        names.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, name)| *name).collect();
    if found.is_empty() { "none".into() } else { found.join("|") }
}

/// How many descriptors this process has.
pub(crate) fn fds() -> usize {
    (0..256).filter(|&fd| call(libc::SYS_fcntl, &[fd, libc::F_GETFD as u64]).is_ok()).count()
}

/// A whole file as text.
pub(crate) fn read_text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| format!("can't read: {error}"))
}

/// An unnamed file in /tmp, or a SKIP.
pub(crate) fn scratch(flags: i32) -> R {
    let path = format!("/tmp/conformance-{}", std::process::id());
    let fd = open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | flags)?;
    std::fs::remove_file(&path).ok();
    Ok(fd)
}
