//! Probes of what the device's transports need: FUSE, CUSE, seccomp, ptrace, namespaces.

#![allow(unsafe_code, reason = "the hooks make system calls that libc has no wrapper for")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::super::map::last_errno;
use super::attempt::attempt;
use super::{Lacks, Probe, lacks, setting};

fn open_device(path: &str) -> Result<OwnedFd, Lacks> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).or_else(|errno| match errno {
        Errno::NOENT => lacks(format!("there is no {path}")),
        Errno::ACCESS | Errno::PERM => lacks(format!("{path} can't be opened: permission denied")),
        other => lacks(format!("{path}: {other}")),
    })
}

/// Whether /dev/fuse can be opened.
#[must_use]
pub fn fuse_device() -> Probe {
    Probe::new(
        "/dev/fuse",
        open_device("/dev/fuse").map(|_| "can be opened".to_owned()),
        "the FUSE transport, and DMA held in flight by a FUSE file",
        "modprobe fuse; chmod a+rw /dev/fuse; in a container --device /dev/fuse",
    )
}

const MOUNT_LOST: &str = "`serve --mount`, unless another way to mount works";

/// Whether a FUSE file system can be mounted by mount(2), as root does.
#[must_use]
pub fn fuse_mount_root() -> Probe {
    Probe::new(
        "FUSE mount as root",
        open_device("/dev/fuse").and_then(|fuse| try_fuse_mount(&fuse, false)),
        MOUNT_LOST,
        "sudo driftheap serve --mount DIR; in a container --cap-add SYS_ADMIN",
    )
}

/// Whether fusermount3, which is setuid root, mounts a FUSE file system for us.
#[must_use]
pub fn fuse_mount_fusermount3() -> Probe {
    Probe::new(
        "FUSE mount by fusermount3",
        open_device("/dev/fuse").and_then(|_| try_fusermount3()),
        MOUNT_LOST,
        "apt-get install fuse3 (the package that has fusermount3)",
    )
}

/// Whether a FUSE file system can be mounted in a user and mount namespace of one's own.
#[must_use]
pub fn fuse_mount_namespace() -> Probe {
    Probe::new(
        "FUSE mount in a user namespace",
        open_device("/dev/fuse").and_then(|fuse| try_fuse_mount(&fuse, true)),
        "`unshare -Urm driftheap serve --mount`, which needs neither root nor fusermount3",
        "see the lines for /dev/fuse and for user namespaces",
    )
}

/// Really mounts, and unmounts. fusermount3 sends the connection through the socket that its
/// environment names (libfuse, lib/mount.c: FUSE_COMMFD_ENV); nobody serves it.
fn try_fusermount3() -> Result<String, Lacks> {
    let dir =
        tempfile::tempdir().map_err(|error| Lacks(format!("no directory to mount on: {error}")))?;
    let (ours, theirs) = UnixStream::pair()?;
    let mounted = Command::new("fusermount3")
        .args(["-o", "rw,nosuid,nodev,fsname=driftheap-probe", "--"])
        .arg(dir.path())
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .output();
    let output = match mounted {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return lacks("fusermount3 is not installed");
        }
        Err(error) => return lacks(format!("fusermount3: {error}")),
    };
    drop(ours);
    if !output.status.success() {
        return lacks(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "));
    }
    let unmounted = Command::new("fusermount3").args(["-u", "-z"]).arg(dir.path()).output();
    match unmounted {
        Ok(output) if output.status.success() => Ok("can be mounted".to_owned()),
        _ => lacks(format!("mounts, but does not unmount {}", dir.path().display())),
    }
}

/// Mounts over `/` of a mount namespace that ends with the child, as root of a user namespace or
/// as who we are. The connection is never served: mount(2) of FUSE does not wait for its daemon.
fn try_fuse_mount(fuse: &OwnedFd, namespace: bool) -> Result<String, Lacks> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let uid_map = format!("0 {} 1", uid.as_raw());
    let gid_map = format!("0 {} 1", gid.as_raw());
    let fd = fuse.as_raw_fd();
    let (user, group) = if namespace { (0, 0) } else { (uid.as_raw(), gid.as_raw()) };
    let options = format!("fd={fd},rootmode=40000,user_id={user},group_id={group}");
    let options = CString::new(options)?;
    let hook = move || {
        unshare_mounts(namespace)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        // The kernel wants it opened in the namespace that mounts (fuse_fill_super). Its number
        // must be the one that the options name: in this child, ours is free to be replaced.
        let inside = rustix::fs::open(c"/dev/fuse", flags, Mode::empty())?;
        // SAFETY: both are fds of this child, which never drops the parent's objects.
        if unsafe { libc::dup2(inside.as_raw_fd(), fd) } < 0 {
            return Err(last_errno());
        }
        if namespace {
            // A host without user namespaces' setgroups file is older than all we support.
            write_file(c"/proc/self/setgroups", b"deny")?;
            write_file(c"/proc/self/uid_map", uid_map.as_bytes())?;
            write_file(c"/proc/self/gid_map", gid_map.as_bytes())?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount(c"driftheap-probe", c"/", c"fuse", flags, options.as_c_str())
    };
    // SAFETY: the hook makes system calls only, on strings made above.
    match unsafe { attempt(hook) } {
        Ok(()) => Ok("can be mounted".to_owned()),
        Err(errno) => lacks(format!("mount answered {errno}")),
    }
}

/// A mount namespace of one's own, in a new user namespace or in the one that we are in.
fn unshare_mounts(user: bool) -> Result<(), Errno> {
    let flags = if user { libc::CLONE_NEWUSER | libc::CLONE_NEWNS } else { libc::CLONE_NEWNS };
    // SAFETY: unshare takes an integer; it is called in a child with one thread.
    if unsafe { libc::unshare(flags) } != 0 {
        return Err(last_errno());
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", private)
}

fn write_file(path: &core::ffi::CStr, bytes: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(drop)
}

/// Whether /dev/cuse can be opened.
#[must_use]
pub fn cuse_device() -> Probe {
    Probe::new(
        "/dev/cuse",
        open_device("/dev/cuse").map(|_| "can be opened".to_owned()),
        "the CUSE transport: a real character device node",
        "modprobe cuse (needs CONFIG_CUSE) and run as root, or chmod a+rw /dev/cuse",
    )
}

/// Whether a filter with a listener can be installed, as the supervisor does in its client.
#[must_use]
pub fn seccomp_notify() -> Probe {
    let hook = || {
        rustix::thread::set_no_new_privs(true)?;
        let allow =
            libc::sock_filter { code: RETURN_CONSTANT, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
        let program = libc::sock_fprog { len: 1, filter: (&raw const allow).cast_mut() };
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        let operation = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: seccomp copies the program, which lives until the call returns.
        let fd = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
        if fd < 0 { Err(last_errno()) } else { Ok(()) }
    };
    // SAFETY: the hook makes system calls only.
    let result = match unsafe { attempt(hook) } {
        Ok(()) => Ok("a listener can be installed".to_owned()),
        // EBUSY: a tracer's filter has a listener already, and there can be one only.
        Err(Errno::BUSY) => lacks("a listener of an outer supervisor is in the way"),
        Err(errno) => lacks(format!("seccomp answered {errno}")),
    };
    Probe::new(
        "seccomp user notification",
        result,
        "`driftheap run`: unmodified programs on our heap",
        "Linux 5.14 or later with CONFIG_SECCOMP_FILTER, outside another supervisor",
    )
}

const RETURN_CONSTANT: u16 = 0x06; // BPF_RET | BPF_K

/// Whether a child may be traced, as the supervisor does to hand its client a userfaultfd.
#[must_use]
pub fn ptrace() -> Probe {
    let hook = || {
        let none = core::ptr::null_mut::<libc::c_void>();
        // SAFETY: PTRACE_TRACEME ignores its other arguments.
        let result = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) };
        if result < 0 { Err(last_errno()) } else { Ok(()) }
    };
    let scope = setting("/proc/sys/kernel/yama/ptrace_scope");
    // SAFETY: the hook makes one system call.
    let result = match unsafe { attempt(hook) } {
        Ok(()) => Ok(format!("kernel.yama.ptrace_scope = {scope}")),
        Err(errno) => lacks(format!("{errno}; kernel.yama.ptrace_scope = {scope}")),
    };
    Probe::new(
        "ptrace of a child",
        result,
        "moving the pages of unmodified programs",
        "sysctl kernel.yama.ptrace_scope=1; in a container --cap-add SYS_PTRACE",
    )
}

/// Whether an fd can be fetched from a process by its pidfd.
#[must_use]
pub fn pidfd_getfd() -> Probe {
    let tried = || -> Result<String, Errno> {
        let file = rustix::fs::memfd_create("driftheap-probe", MemfdFlags::CLOEXEC)?;
        let me = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(me, PidfdFlags::empty())?;
        let fetched =
            rustix::process::pidfd_getfd(&pidfd, file.as_raw_fd(), PidfdGetfdFlags::empty())?;
        let (ours, theirs) = (rustix::fs::fstat(&file)?, rustix::fs::fstat(&fetched)?);
        if ours.st_ino == theirs.st_ino { Ok("the same file".to_owned()) } else { Err(Errno::BADF) }
    };
    Probe::new(
        "pidfd_getfd",
        tried().map_err(Lacks::from),
        "taking the listener and the userfaultfd out of an unmodified program",
        "Linux 5.6 or later; in a container --cap-add SYS_PTRACE",
    )
}

/// Whether a user namespace with a mount namespace can be made and used.
#[must_use]
pub fn user_namespace() -> Probe {
    // SAFETY: the hook makes system calls only.
    let result = match unsafe { attempt(|| unshare_mounts(true)) } {
        Ok(()) => Ok("with its own mounts".to_owned()),
        Err(errno) => lacks(user_namespace_error(errno)),
    };
    Probe::new(
        "user namespaces",
        result,
        "a private /dev/dma_heap for unmodified programs, and FUSE without root",
        "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000; on Ubuntu \
         kernel.apparmor_restrict_unprivileged_userns=0",
    )
}

fn user_namespace_error(errno: Errno) -> String {
    let restricted = Path::new("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if restricted.exists() {
        format!("{errno}; AppArmor restricts them: {}", setting(&restricted.to_string_lossy()))
    } else {
        format!("unshare or mount answered {errno}")
    }
}
