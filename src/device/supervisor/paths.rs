//! Calls that name a file by path: open, stat, access.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Decision, Supervisor, caller, held_up, int, lock, uint};
use crate::device::path::{DeviceNode, PATH_MAX};
use crate::device::transport::inode_at;
use crate::device::{Call as FileCall, HeapId, Object, Verdict};
use crate::sys::arch::O_LARGEFILE;
use crate::sys::backing;
use crate::sys::notify::Call;
use crate::uapi::page_size;
use crate::uapi::stat::{STATX_BASIC_STATS, Stat, Statx};

/// Devices by which a program fills its own pages on demand.
const FILLERS: [&[u8]; 2] = [b"/dev/userfaultfd", b"/dev/fuse"];

const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;

/// Major number that stat shows for our nodes; the kernel gives the real ones a dynamic number.
const MAJOR: u32 = 249;

/// What stat says about a node: mode and device minor.
fn mode_of(node: DeviceNode) -> Option<(u32, u32)> {
    match node {
        DeviceNode::Directory => Some((S_IFDIR | 0o755, 0)),
        DeviceNode::Heap(HeapId(id)) => Some((S_IFCHR | 0o666, u32::try_from(id).unwrap_or(0))),
        DeviceNode::Udmabuf => Some((S_IFCHR | 0o666, 200)),
        DeviceNode::SwSync => Some((S_IFCHR | 0o666, 201)),
        DeviceNode::Behind { .. } | DeviceNode::FdInfo { .. } | DeviceNode::FdLink { .. } => None,
    }
}

impl Supervisor {
    /// The node that a path names, if it is ours.
    pub(super) fn node(&self, call: &Call, dirfd: i32, addr: u64) -> Option<DeviceNode> {
        // A path that can't be read here is the kernel's to judge.
        let path = caller::read_text(call.tid, addr, PATH_MAX).ok()?;
        if FILLERS.contains(&path.as_slice()) {
            held_up::becomes_possible();
            held_up::files_become_possible();
        }
        let shared = lock(&self.shared);
        if !shared.device.may_be_ours(&path) {
            return None;
        }
        if path.first() == Some(&b'/') {
            return shared.device.node(&path);
        }
        let tid = call.tid;
        let base = match dirfd {
            libc::AT_FDCWD => format!("/proc/{tid}/cwd"),
            fd => format!("/proc/{tid}/fd/{fd}"),
        };
        let inode = inode_at(&base).ok()?;
        let base = if shared.files.is_directory(inode) {
            "/dev/dma_heap".into()
        } else {
            std::fs::read_link(&base).ok()?
        };
        let whole = [base.as_os_str().as_bytes(), b"/", &path].concat();
        shared.device.node(&whole)
    }

    /// The node that a descriptor was opened at, such as a link opened with O_PATH | O_NOFOLLOW.
    pub(super) fn opened_node(&self, tid: i32, fd: i32) -> Option<DeviceNode> {
        let path = std::fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()?;
        lock(&self.shared).device.node(path.as_os_str().as_bytes())
    }

    pub(super) fn openat2(&mut self, call: &Call) -> Decision {
        let [dirfd, path, how, size, ..] = call.args;
        // struct open_how: flags, mode, resolve, and what later kernels add, which must be 0 here.
        let sizes = 24..=page_size();
        let len = usize::try_from(size).ok().filter(|_| sizes.contains(&size));
        let Some(bytes) = len.and_then(|len| caller::read(call.tid, how, len).ok()) else {
            return Decision::Native;
        };
        let mut words = bytes
            .chunks_exact(8)
            .map(|word| word.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes)));
        let [flags, mode, resolve] = [(); 3].map(|()| words.next().unwrap_or(0));
        // Below a directory, or on its file system, there is no device of ours; what the kernel
        // refuses (EINVAL, E2BIG) it refuses for every path.
        let creates = flags & u64::from(CREATES) != 0;
        let refused = flags & !u64::from(OPEN_FLAGS) != 0
            || mode & !if creates { MODE_BITS } else { 0 } != 0
            || resolve & !HARMLESS_RESOLVE != 0
            || bytes[24..].iter().any(|&byte| byte != 0);
        if refused {
            return Decision::Native;
        }
        self.open(call, int(dirfd), path, uint(flags))
    }

    pub(super) fn open(&mut self, call: &Call, dirfd: i32, path: u64, flags: u32) -> Decision {
        let Some(node) = self.node(call, dirfd, path) else { return Decision::Native };
        if !self.listener.id_valid(call.id) {
            return Decision::Sent;
        }
        if matches!(node, DeviceNode::Heap(_) | DeviceNode::Udmabuf | DeviceNode::SwSync) {
            self.tell_emulated(call.tid);
        }
        let flags = OFlags::from_bits_retain(flags);
        let opened = match node {
            DeviceNode::FdInfo { pid, fd } => return self.open_fdinfo(call, pid, fd),
            // An O_PATH open opens nothing, and O_NOFOLLOW meets the link itself.
            DeviceNode::FdLink { .. } if flags.intersects(OFlags::PATH | OFlags::NOFOLLOW) => {
                return Decision::Native;
            }
            DeviceNode::FdLink { pid, fd } => return self.open_fd_link(call, pid, fd),
            // `open_last_lookups` (fs/namei.c).
            DeviceNode::Behind { slashes: true } if flags.contains(OFlags::CREATE) => {
                Err(Errno::ISDIR)
            }
            DeviceNode::Behind { .. } => Err(Errno::NOTDIR),
            DeviceNode::Directory => self.open_directory(flags),
            DeviceNode::Heap(heap) => self.open_node(call, Some(Object::Heap(heap)), flags),
            DeviceNode::Udmabuf => self.open_node(call, Some(Object::Udmabuf), flags),
            DeviceNode::SwSync => self.open_node(call, None, flags),
        };
        match opened {
            Ok(file) => self.deliver(call, &file, flags.contains(OFlags::CLOEXEC)),
            Err(errno) => Decision::Fail(errno),
        }
    }

    /// Installs `file` as the call's result.
    fn deliver(&self, call: &Call, file: &OwnedFd, cloexec: bool) -> Decision {
        match self.listener.add_fd(call.id, file.as_fd(), cloexec, true) {
            Ok(_) => Decision::Sent,
            Err(error) => {
                Decision::Fail(error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
            }
        }
    }

    /// Opens a device; `None` is sw_sync, of which each open is a timeline of its own.
    fn open_node(
        &self,
        call: &Call,
        object: Option<Object>,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        if flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Err(Errno::EXIST);
        }
        if flags.contains(OFlags::DIRECTORY) {
            return Err(Errno::NOTDIR);
        }
        let mut shared = lock(&self.shared);
        let keep = OFlags::RWMODE | OFlags::PATH | OFlags::NONBLOCK | OFlags::APPEND;
        let failed = |error: std::io::Error| {
            error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
        };
        match object {
            Some(object) => shared.files.open_device(object, flags & keep).map_err(failed),
            None => {
                let comm = caller::status(call.tid, "Name").unwrap_or_default();
                let timeline = shared.device.open_timeline(&comm)?;
                shared.files.create_timeline(timeline).inspect_err(|_| {
                    shared.device.abandon(Object::Timeline(timeline));
                })
            }
        }
    }

    fn open_directory(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        if flags.contains(OFlags::CREATE) || flags & OFlags::RWMODE != OFlags::RDONLY {
            return Err(Errno::ISDIR);
        }
        let mut shared = lock(&self.shared);
        let super::Shared { device, files, .. } = &mut *shared;
        let path = files.directory(device).map_err(|_| Errno::IO)?;
        let keep = OFlags::PATH | OFlags::NOATIME | OFlags::NONBLOCK;
        let flags = flags & keep | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
    }

    /// A buffer's fdinfo, in the kernel's format.
    fn open_fdinfo(&mut self, call: &Call, pid: Option<i32>, fd: i32) -> Decision {
        let Ok(file) = self.callers.file(pid.unwrap_or(call.tid), fd) else {
            return Decision::Native;
        };
        let text = {
            let shared = lock(&self.shared);
            let Some(Object::Buffer(id)) = shared.files.object(file.as_fd()) else {
                return Decision::Native;
            };
            let Some(buffer) = shared.device.buffer(id) else { return Decision::Native };
            let cloexec =
                std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", pid.unwrap_or(call.tid)))
                    .unwrap_or_default();
            let field = |key: &str| {
                let line = cloexec.lines().find_map(|line| line.strip_prefix(key));
                line.map_or("0", str::trim).to_owned()
            };
            let shown = u32::from_str_radix(&field("flags:"), 8).unwrap_or(0);
            let flags = shown & !0o100_003 | buffer.access.mode;
            let mnt_id = field("mnt_id:").parse().unwrap_or(0);
            buffer.fdinfo(flags, mnt_id, 1, buffer.name.as_deref())
        };
        match backing::sealed("fdinfo", &text)
            .and_then(|whole| backing::reopen(whole.as_fd(), OFlags::RDONLY))
        {
            Ok(file) => self.deliver(call, &file, true),
            Err(_) => Decision::Native,
        }
    }

    /// Opening /proc/PID/fd/N anew: ENXIO for a dma-buf, as for any anonymous file.
    fn open_fd_link(&mut self, call: &Call, pid: Option<i32>, fd: i32) -> Decision {
        let Ok(file) = self.callers.file(pid.unwrap_or(call.tid), fd) else {
            return Decision::Native;
        };
        let shared = lock(&self.shared);
        match shared.files.object(file.as_fd()) {
            Some(object) => match shared.device.call(object, FileCall::Reopen) {
                Verdict::Fail(errno) => Decision::Fail(errno),
                Verdict::Value(_) | Verdict::Native => Decision::Native,
            },
            None => Decision::Native,
        }
    }

    pub(super) fn stat_path(&mut self, call: &Call, dirfd: i32, path: u64, buf: u64) -> Decision {
        let Some(node) = self.node(call, dirfd, path) else { return Decision::Native };
        if let DeviceNode::FdLink { pid, fd } = node {
            return self.fstat(call, pid.unwrap_or(call.tid), fd, buf);
        }
        if let DeviceNode::Behind { .. } = node {
            return Decision::Fail(Errno::NOTDIR);
        }
        let Some((mode, minor)) = mode_of(node) else { return Decision::Native };
        let stat = Stat { mode, rdev: rustix::fs::makedev(MAJOR, minor), ..blank_stat() };
        caller::write(call.tid, buf, &stat.to_bytes()).map(|()| Decision::Value(0)).into()
    }

    /// lstat differs for the links of /proc/PID/fd only, which are the kernel's to describe.
    pub(super) fn lstat(&mut self, call: &Call, path: u64, buf: u64) -> Decision {
        match self.node(call, libc::AT_FDCWD, path) {
            Some(DeviceNode::FdLink { .. }) => Decision::Native,
            _ => self.stat_path(call, libc::AT_FDCWD, path, buf),
        }
    }

    pub(super) fn newfstatat(&mut self, call: &Call) -> Decision {
        let [dirfd, path, buf, flags, ..] = call.args;
        let follows = uint(flags) & NO_FOLLOW == 0;
        if !follows && matches!(self.node(call, int(dirfd), path), Some(DeviceNode::FdLink { .. }))
        {
            return Decision::Native;
        }
        if uint(flags) & EMPTY_PATH != 0 && self.is_empty_path(call, path) {
            return self.fstat(call, call.tid, int(dirfd), buf);
        }
        self.stat_path(call, int(dirfd), path, buf)
    }

    pub(super) fn statx(&mut self, call: &Call) -> Decision {
        let [dirfd, path, flags, _mask, buf, _] = call.args;
        if uint(flags) & EMPTY_PATH != 0 && self.is_empty_path(call, path) {
            return self.fstatx(call, call.tid, int(dirfd), buf);
        }
        let Some(node) = self.node(call, int(dirfd), path) else { return Decision::Native };
        if let DeviceNode::FdLink { pid, fd } = node {
            if uint(flags) & NO_FOLLOW != 0 {
                return Decision::Native;
            }
            return self.fstatx(call, pid.unwrap_or(call.tid), fd, buf);
        }
        if let DeviceNode::Behind { .. } = node {
            return Decision::Fail(Errno::NOTDIR);
        }
        let Some((mode, minor)) = mode_of(node) else { return Decision::Native };
        let statx = Statx { rdev_major: MAJOR, rdev_minor: minor, ..blank_statx(mode) };
        caller::write(call.tid, buf, &statx.to_bytes()).map(|()| Decision::Value(0)).into()
    }

    pub(super) fn is_empty_path(&self, call: &Call, path: u64) -> bool {
        path == 0 || caller::read(call.tid, path, 1).is_ok_and(|byte| byte == [0])
    }

    pub(super) fn access(&self, call: &Call, dirfd: i32, path: u64, mode: u32) -> Decision {
        const R_OK_W_OK_X_OK: u32 = 7;
        const X_OK: u32 = 1;
        const W_OK: u32 = 2;
        let Some(node) = self.node(call, dirfd, path) else { return Decision::Native };
        if mode & !R_OK_W_OK_X_OK != 0 {
            return Decision::Fail(Errno::INVAL);
        }
        let denied = match node {
            DeviceNode::Behind { .. } => return Decision::Fail(Errno::NOTDIR),
            DeviceNode::Directory => W_OK,
            DeviceNode::Heap(_) | DeviceNode::Udmabuf | DeviceNode::SwSync => X_OK,
            DeviceNode::FdInfo { .. } | DeviceNode::FdLink { .. } => return Decision::Native,
        };
        if mode & denied != 0 { Decision::Fail(Errno::ACCESS) } else { Decision::Value(0) }
    }
}

/// RESOLVE_NO_MAGICLINKS and RESOLVE_NO_SYMLINKS: no link leads to our nodes.
const HARMLESS_RESOLVE: u64 = 0x2 | 0x4;

/// O_CREAT, and the bit of O_TMPFILE that is its own.
const CREATES: u32 = 0o100 | 0o20_000_000;

/// `S_IALLUGO`: the mode of what is made.
const MODE_BITS: u64 = 0o7777;

/// `VALID_OPEN_FLAGS` (include/linux/fcntl.h).
const OPEN_FLAGS: u32 = (libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_ASYNC
    | libc::O_DIRECT
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC
    | libc::O_PATH
    | libc::O_TMPFILE)
    .cast_unsigned()
    | O_LARGEFILE;

/// AT_SYMLINK_NOFOLLOW.
const NO_FOLLOW: u32 = 0x100;

/// AT_EMPTY_PATH.
const EMPTY_PATH: u32 = 0x1000;

/// A `struct stat` with nothing but one link and the page as block size.
pub(super) fn blank_stat() -> Stat {
    Stat { dev: 5, ino: 1, nlink: 1, blksize: page_size().try_into().unwrap_or(4096), ..Stat::ZERO }
}

/// A `struct statx` with nothing but the mode, one link and the page as block size.
pub(super) fn blank_statx(mode: u32) -> Statx {
    Statx {
        mask: STATX_BASIC_STATS,
        blksize: u32::try_from(page_size()).unwrap_or(u32::MAX),
        attributes: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        mode: u16::try_from(mode).unwrap_or(0),
        pad: 0,
        ino: 1,
        size: 0,
        blocks: 0,
        attributes_mask: 0,
        times: [0; 64],
        rdev_major: 0,
        rdev_minor: 0,
        dev_major: 0,
        dev_minor: 5,
        rest: [0; 112],
    }
}
