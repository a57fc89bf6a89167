//! Rows of fcntl, and of calls by descriptor that few programs make on a buffer.

use super::kit::*;
use super::{Row, noted, row};
use crate::sys::raw::{call, ptr};

/// `fs: add S_ANON_INODE` (6.16): readahead refuses such files, memfd_secret's among them.
const READ_AHEAD: &str =
    "never: before Linux 6.16 a memfd_secret file is a regular one, which can be read ahead";
const STRICT: &str = "strict: the untrapped call acts on the file behind the buffer";

fn fcntl(fd: u64, cmd: i32, arg: u64) -> String {
    v(call(libc::SYS_fcntl, &[fd, cmd as u64, arg]))
}

/// Sets status flags, and says what F_GETFL shows of them.
fn setfl(flags: i32) -> String {
    let fd = buffer(1);
    let set = fcntl(fd, libc::F_SETFL, flags as u64);
    match call(libc::SYS_fcntl, &[fd, libc::F_GETFL as u64]) {
        Ok(shown) => format!("{set} shows {:o}", shown),
        Err(errno) => format!("{set} {}", name(errno)),
    }
}

fn hint(cmd: i32) -> String {
    let mut hint = 2u64;
    fcntl(buffer(1), cmd, ptr(&mut hint))
}

fn getlk(cmd: i32) -> String {
    let mut flock = libc::flock { l_type: 1, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    let answer = fcntl(buffer(1), cmd, ptr(&mut flock));
    format!("{answer} type {}", flock.l_type)
}

fn xattr(nr: libc::c_long) -> String {
    let mut key = *b"user.x\0";
    let mut value = [0u8; 16];
    v(call(nr, &[buffer(1), ptr(&mut key), ptr(&mut value), 4, 0]))
}

/// An open of the descriptor's own link, as the crate `procfs` and `ls -l /proc/self/fd` do it.
fn reopened(flags: i32) -> String {
    let fd = buffer(1);
    match open(&format!("/proc/self/fd/{fd}"), flags) {
        Ok(own) => {
            let shown = call(libc::SYS_fcntl, &[own as u64, libc::F_GETFL as u64]).unwrap_or(-1);
            format!("ok path {}", shown as i32 & libc::O_PATH != 0)
        }
        Err(errno) => name(errno),
    }
}

/// Opens /proc/self/fd, then the number below it, then reads that link: how descriptors are listed.
fn listed() -> String {
    let fd = buffer(1);
    let Ok(directory) = open("/proc/self/fd", libc::O_RDONLY | libc::O_DIRECTORY) else {
        return "no /proc/self/fd".into();
    };
    let mut number = format!("{fd}\0").into_bytes();
    let flags = (libc::O_PATH | libc::O_NOFOLLOW) as u64;
    let opened = call(libc::SYS_openat, &[directory as u64, ptr(number.as_mut_slice()), flags, 0]);
    let link = match opened {
        Ok(link) => link as u64,
        Err(errno) => return name(errno),
    };
    let (mut empty, mut text) = ([0u8], [0u8; 64]);
    match call(libc::SYS_readlinkat, &[link, ptr(&mut empty), ptr(&mut text), 64]) {
        Ok(len) => String::from_utf8_lossy(&text[..len as usize]).into_owned(),
        Err(errno) => name(errno),
    }
}

fn link() -> String {
    let (mut empty, mut to) = ([0u8], format!("/tmp/l{}\0", std::process::id()).into_bytes());
    let to = [libc::AT_FDCWD as u64, ptr(to.as_mut_slice())];
    let [dir, path] = to;
    let flags = libc::AT_EMPTY_PATH as u64;
    match call(libc::SYS_linkat, &[buffer(1), ptr(&mut empty), dir, path, flags]) {
        // do_linkat in fs/namei.c.
        Err(libc::ENOENT) => "SKIP AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH".into(),
        answer => e(answer),
    }
}

pub(crate) const ROWS: &[Row] = &[
    row("fcntl.setfl-nonblock", "0 shows 4002", || setfl(libc::O_NONBLOCK)),
    row("fcntl.setfl-append", "0 shows 2002", || setfl(libc::O_APPEND)),
    row("fcntl.setfl-noatime", "0 shows 1000002", || setfl(libc::O_NOATIME)),
    row("fcntl.setfl-direct", "EINVAL shows 2", || setfl(libc::O_DIRECT)),
    row("fcntl.setfl-0", "0 shows 2", || setfl(0)),
    row("fcntl.dupfd", "100 size 4096", || {
        let fd = buffer(1);
        let copy = call(libc::SYS_fcntl, &[fd, libc::F_DUPFD_CLOEXEC as u64, 100]).unwrap_or(-1);
        format!("{copy} size {}", end(copy as u64))
    }),
    row("fcntl.getlease", "2", || fcntl(buffer(1), libc::F_GETLEASE, 0)),
    row("fcntl.setlease-read", "EINVAL", || {
        fcntl(buffer(1), libc::F_SETLEASE, libc::F_RDLCK as u64)
    }),
    row("fcntl.setlease-write", "EINVAL", || {
        fcntl(buffer(1), libc::F_SETLEASE, libc::F_WRLCK as u64)
    }),
    row("fcntl.setlease-none", "EINVAL", || {
        fcntl(buffer(1), libc::F_SETLEASE, libc::F_UNLCK as u64)
    }),
    row("fcntl.notify", "ENOTDIR", || fcntl(buffer(1), libc::F_NOTIFY, 1)),
    row("fcntl.pipe-size", "EBADF", || fcntl(buffer(1), libc::F_GETPIPE_SZ, 0)),
    row("fcntl.setown", "0", || fcntl(buffer(1), libc::F_SETOWN, std::process::id().into())),
    row("fcntl.setsig", "0", || fcntl(buffer(1), 10, libc::SIGUSR1 as u64)),
    row("fcntl.get-rw-hint", "0", || hint(1035)),
    row("fcntl.set-rw-hint", "0", || hint(1036)),
    row("fcntl.getlk", "0 type 2", || getlk(libc::F_GETLK)),
    row("fcntl.ofd-getlk", "0 type 2", || getlk(libc::F_OFD_GETLK)),
    row("fcntl.unknown", "EINVAL", || fcntl(buffer(1), 999, 0)),
    noted("file.sync-file-range", "ESPIPE", STRICT, || {
        e(call(libc::SYS_sync_file_range, &[buffer(1), 0, 0, 2]))
    }),
    row("file.fadvise", "ok", || e(call(libc::SYS_fadvise64, &[buffer(1), 0, 0, 4]))),
    noted("file.readahead", "EINVAL", READ_AHEAD, || {
        e(call(libc::SYS_readahead, &[buffer(1), 0, 4096]))
    }),
    row("file.syncfs", "ok", || e(call(libc::SYS_syncfs, &[buffer(1)]))),
    row("file.fchdir", "ENOTDIR", || e(call(libc::SYS_fchdir, &[buffer(1)]))),
    noted("file.fgetxattr", "ENODATA", STRICT, || xattr(libc::SYS_fgetxattr)),
    noted("file.fsetxattr", "EPERM", STRICT, || xattr(libc::SYS_fsetxattr)),
    noted("file.fremovexattr", "EPERM", STRICT, || xattr(libc::SYS_fremovexattr)),
    row("file.utimensat", "ok", || e(call(libc::SYS_utimensat, &[buffer(1), 0, 0, 0]))),
    row("file.linkat", "EXDEV", link),
    row("file.execveat", "EACCES", || {
        let (mut empty, mut words) = ([0u8], [0u64]);
        let words = ptr(&mut words);
        let at_empty = libc::AT_EMPTY_PATH as u64;
        e(call(libc::SYS_execveat, &[buffer(1), ptr(&mut empty), words, words, at_empty]))
    }),
    row("file.reopen-path", "ok path true", || reopened(libc::O_PATH)),
    row("file.reopen-path-nofollow", "ok path true", || reopened(libc::O_PATH | libc::O_NOFOLLOW)),
    row("file.reopen-nofollow", "ELOOP", || reopened(libc::O_NOFOLLOW)),
    row("file.listed", "/dmabuf:", listed),
    noted("file.preadv2", "EINVAL", STRICT, || {
        let mut bytes = [0u8; 64];
        let mut iov = [ptr(&mut bytes), 64];
        e(call(libc::SYS_preadv2, &[buffer(1), ptr(&mut iov), 1, u64::MAX, 0, 0]))
    }),
];
