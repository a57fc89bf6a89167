//! Rows of a dma-buf's file descriptor.

use super::kit::*;
use super::{Row, noted, row};
use crate::sys::raw::{call, ptr};
use crate::uapi::stat::Stat;

const STRICT: &str = "strict: the untrapped call acts on the file behind the buffer";

fn sync(flags: &[u64]) -> String {
    let fd = buffer(1);
    let mut last = Ok(0);
    for &flags in flags {
        let mut arg = flags;
        last = ioctl(fd, SYNC, &mut arg);
    }
    e(last)
}

fn set_name(cmd: u64, len: usize) -> String {
    let mut name = vec![b'n'; len];
    name.push(0);
    e(call(libc::SYS_ioctl, &[buffer(1), cmd, ptr(name.as_mut_slice())]))
}

fn named() -> u64 {
    let fd = buffer(1);
    let mut name = *b"camera\0";
    let _ = call(libc::SYS_ioctl, &[fd, SET_NAME_B, ptr(&mut name)]);
    fd
}

fn io(nr: libc::c_long, len: u64) -> String {
    let mut bytes = [0u8; 64];
    e(call(nr, &[buffer(1), ptr(&mut bytes), len, 0]))
}

fn vectored(nr: libc::c_long) -> String {
    let mut bytes = [0u8; 64];
    let mut iov = [ptr(&mut bytes), 64];
    e(call(nr, &[buffer(1), ptr(&mut iov), 1]))
}

fn pipe() -> [u64; 2] {
    let mut pipe = [0i32; 2];
    let _ = call(libc::SYS_pipe2, &[ptr(&mut pipe), 0]);
    pipe.map(|fd| fd as u64)
}

fn ioctl_word(cmd: u64) -> String {
    let mut arg = [0u64; 16];
    e(ioctl(buffer(1), cmd, &mut arg))
}

fn lock(cmd: i32) -> String {
    let mut flock = libc::flock { l_type: 1, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    let fd = buffer(1);
    e(call(libc::SYS_fcntl, &[fd, cmd as u64, ptr(&mut flock)]))
}

fn epoll(op_twice: bool) -> String {
    let fd = buffer(1);
    let epfd = call(libc::SYS_epoll_create1, &[0]).unwrap_or(-1) as u64;
    // struct epoll_event is packed on x86-64 alone.
    let data = size_of::<libc::epoll_event>() - 8;
    let mut event = [0u8; 16];
    event[..4].copy_from_slice(&5u32.to_ne_bytes());
    event[data..data + 8].copy_from_slice(&0x1122_3344_5566_7788u64.to_ne_bytes());
    if let Err(errno) = call(libc::SYS_epoll_ctl, &[epfd, 1, fd, ptr(&mut event)]) {
        return name(errno);
    }
    if op_twice {
        return e(call(libc::SYS_epoll_ctl, &[epfd, 1, fd, ptr(&mut event)]));
    }
    let mut out = [0u8; 32];
    let got = v(call(libc::SYS_epoll_pwait, &[epfd, ptr(&mut out), 2, 0, 0]));
    let mask = u32::from_ne_bytes([out[0], out[1], out[2], out[3]]);
    let same = out[data..data + 8] == event[data..data + 8];
    let removed = e(call(libc::SYS_epoll_ctl, &[epfd, 2, fd, 0]));
    let after = v(call(libc::SYS_epoll_pwait, &[epfd, ptr(&mut out), 2, 0, 0]));
    format!("{got} {} data {same} del {removed} then {after}", events(mask))
}

fn fdinfo(fd: u64) -> String {
    let text = read_text(&format!("/proc/self/fdinfo/{fd}"));
    let keys: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
    keys.join(" ")
}

/// What stat shows of a buffer's file.
fn shown(mode: u32, size: u64, blocks: u64) -> String {
    format!("mode {mode:o} size {} blocks {}", as_4k(size), as_4k(blocks * 512) / 512)
}

fn stat() -> String {
    let mut out = [0u8; Stat::SIZE];
    match (call(libc::SYS_fstat, &[buffer(2), ptr(&mut out)]), Stat::from_bytes(&out)) {
        (Ok(_), Some(Stat { mode, size, blocks, .. })) => {
            shown(mode, size.cast_unsigned(), blocks.cast_unsigned())
        }
        (Ok(_), None) => "short".into(),
        (Err(errno), _) => name(errno),
    }
}

fn statx() -> String {
    // struct statx: mode at 28 (u16), size at 40, blocks at 48.
    let mut out = [0u32; 64];
    let mut path = [0u8];
    match call(libc::SYS_statx, &[buffer(2), ptr(&mut path), 0x1000, 0x7ff, ptr(&mut out)]) {
        Ok(_) => shown(out[7] & 0xffff, out[10].into(), out[12].into()),
        Err(errno) => name(errno),
    }
}

pub(crate) const ROWS: &[Row] = &[
    row("sync.start-read", "ok", || sync(&[1])),
    row("sync.start-write", "ok", || sync(&[2])),
    row("sync.start-rw", "ok", || sync(&[3])),
    row("sync.end-read", "ok", || sync(&[1, 5])),
    row("sync.end-write", "ok", || sync(&[2, 6])),
    row("sync.end-rw", "ok", || sync(&[3, 7])),
    row("sync.nested", "ok", || sync(&[3, 3, 7, 7])),
    row("sync.end-first", "ok", || sync(&[7])),
    row("sync.mismatched", "ok", || sync(&[1, 6])),
    row("sync.no-direction", "EINVAL", || sync(&[0])),
    row("sync.end-no-direction", "EINVAL", || sync(&[4])),
    row("sync.unknown-bit", "EINVAL", || sync(&[1 | 8])),
    row("sync.unknown-high-bit", "EINVAL", || sync(&[1 | 1 << 63])),
    row("sync.null", "EFAULT", || e(call(libc::SYS_ioctl, &[buffer(1), SYNC, 0]))),
    row("sync.bad-pointer", "EFAULT", || e(call(libc::SYS_ioctl, &[buffer(1), SYNC, BAD]))),
    noted("sync.other-size", "ENOTTY", STRICT, || ioctl_word(0x4010_6200)),
    noted("sync.read-command", "ENOTTY", STRICT, || ioctl_word(0xc008_6200)),
    row("name.b-31", "ok", || set_name(SET_NAME_B, 31)),
    row("name.b-32", "EINVAL", || set_name(SET_NAME_B, 32)),
    row("name.b-4096", "EINVAL", || set_name(SET_NAME_B, 4096)),
    row("name.a-31", "ok", || set_name(SET_NAME_A, 31)),
    row("name.a-32", "EINVAL", || set_name(SET_NAME_A, 32)),
    row("name.empty", "ok", || set_name(SET_NAME_B, 0)),
    row("name.null", "EFAULT", || e(call(libc::SYS_ioctl, &[buffer(1), SET_NAME_B, 0]))),
    row("name.bad-pointer", "EFAULT", || e(call(libc::SYS_ioctl, &[buffer(1), SET_NAME_B, BAD]))),
    row("name.page-end", "ok", || {
        let page = anonymous(2, PROT_RW);
        let _ = call(libc::SYS_munmap, &[page + page_size(), page_size()]);
        crate::sys::raw::poke(page + page_size() - 2, b'x');
        e(call(libc::SYS_ioctl, &[buffer(1), SET_NAME_B, page + page_size() - 2]))
    }),
    row("name.unterminated", "EFAULT", || {
        let page = anonymous(2, PROT_RW);
        let _ = call(libc::SYS_munmap, &[page + page_size(), page_size()]);
        crate::sys::raw::poke(page + page_size() - 1, b'x');
        e(call(libc::SYS_ioctl, &[buffer(1), SET_NAME_B, page + page_size() - 1]))
    }),
    row("name.in-fdinfo", "name: camera", || {
        let text = read_text(&format!("/proc/self/fdinfo/{}", named()));
        text.lines().find(|line| line.starts_with("name:")).unwrap_or("none").replace('\t', " ")
    }),
    row("name.in-link", "/dmabuf:camera", || {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", named()));
        link.map_or_else(|error| error.to_string(), |link| link.display().to_string())
    }),
    row("name.link-unnamed", "/dmabuf:", || {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", buffer(1)));
        link.map_or_else(|error| error.to_string(), |link| link.display().to_string())
    }),
    row("fdinfo.keys", "pos flags mnt_id ino size count exp_name", || fdinfo(buffer(1))),
    row("fdinfo.keys-named", "pos flags mnt_id ino size count exp_name name", || fdinfo(named())),
    row("fdinfo.size", "size: 8192", || {
        let text = read_text(&format!("/proc/self/fdinfo/{}", buffer(2)));
        let size = text.lines().find_map(|line| line.strip_prefix("size:\t"));
        let size = size.and_then(|size| size.parse().ok());
        size.map_or("none".into(), |size| format!("size: {}", as_4k(size)))
    }),
    noted("ioctl.unknown", "ENOTTY", STRICT, || ioctl_word(0x4008_6263)),
    noted("ioctl.tcgets", "ENOTTY", STRICT, || ioctl_word(0x5401)),
    row("ioctl.alloc", "ENOTTY", || ioctl_word(ALLOC)),
    row("ioctl.fionbio", "ok", || ioctl_word(0x5421)),
    row("ioctl.fioclex", "ok", || ioctl_word(0x5451)),
    row("lseek.end", "8192", || end(buffer(2))),
    row("lseek.set", "0", || v(lseek(buffer(2), 0, 0))),
    noted("lseek.cur", "EINVAL", STRICT, || v(lseek(buffer(2), 0, 1))),
    noted("lseek.end-1", "EINVAL", STRICT, || v(lseek(buffer(2), -1, 2))),
    noted("lseek.set-1", "EINVAL", STRICT, || v(lseek(buffer(2), 1, 0))),
    noted("lseek.data", "EINVAL", STRICT, || v(lseek(buffer(2), 0, 3))),
    noted("lseek.hole", "EINVAL", STRICT, || v(lseek(buffer(2), 0, 4))),
    noted("io.read", "EINVAL", STRICT, || io(libc::SYS_read, 64)),
    noted("io.read-0", "EINVAL", STRICT, || io(libc::SYS_read, 0)),
    noted("io.write", "EINVAL", STRICT, || io(libc::SYS_write, 64)),
    noted("io.write-0", "EINVAL", STRICT, || io(libc::SYS_write, 0)),
    noted("io.readv", "EINVAL", STRICT, || vectored(libc::SYS_readv)),
    noted("io.writev", "EINVAL", STRICT, || vectored(libc::SYS_writev)),
    noted("io.pread", "ESPIPE", STRICT, || io(libc::SYS_pread64, 64)),
    noted("io.pwrite", "ESPIPE", STRICT, || io(libc::SYS_pwrite64, 64)),
    noted("io.splice-from", "EINVAL", STRICT, || {
        e(call(libc::SYS_splice, &[buffer(1), 0, pipe()[1], 0, 64, 0]))
    }),
    noted("io.splice-to", "EINVAL", STRICT, || {
        let [read, write] = pipe();
        let mut bytes = [1u8; 64];
        let _ = call(libc::SYS_write, &[write, ptr(&mut bytes), 64]);
        e(call(libc::SYS_splice, &[read, 0, buffer(1), 0, 64, 0]))
    }),
    noted("io.sendfile", "ESPIPE", STRICT, || {
        let mut offset = 0u64;
        e(call(libc::SYS_sendfile, &[pipe()[1], buffer(1), ptr(&mut offset), 64]))
    }),
    noted("io.copy-file-range", "EINVAL", STRICT, || {
        let Ok(file) = scratch(0) else { return "SKIP no file in /tmp".into() };
        e(call(libc::SYS_copy_file_range, &[buffer(1), 0, file as u64, 0, 64, 0]))
    }),
    noted("file.ftruncate", "EINVAL", STRICT, || e(call(libc::SYS_ftruncate, &[buffer(1), 0]))),
    noted("file.ftruncate-grow", "EINVAL", STRICT, || {
        e(call(libc::SYS_ftruncate, &[buffer(1), 1 << 20]))
    }),
    noted("file.fallocate", "ENODEV", STRICT, || {
        e(call(libc::SYS_fallocate, &[buffer(1), 0, 0, 4096]))
    }),
    noted("file.punch-hole", "ENODEV", STRICT, || {
        e(call(libc::SYS_fallocate, &[buffer(1), 3, 0, 4096]))
    }),
    noted("file.fsync", "EINVAL", STRICT, || e(call(libc::SYS_fsync, &[buffer(1)]))),
    noted("file.fdatasync", "EINVAL", STRICT, || e(call(libc::SYS_fdatasync, &[buffer(1)]))),
    row("file.fchmod", "ok", || e(call(libc::SYS_fchmod, &[buffer(1), 0o600]))),
    row("file.fchown", "ok", || e(call(libc::SYS_fchown, &[buffer(1), u64::MAX, u64::MAX]))),
    row("file.flock", "ok", || e(call(libc::SYS_flock, &[buffer(1), 2]))),
    row("file.setlk", "ok", || lock(libc::F_SETLK)),
    row("file.ofd-setlk", "ok", || lock(libc::F_OFD_SETLK)),
    noted("file.get-seals", "EINVAL", STRICT, || e(call(libc::SYS_fcntl, &[buffer(1), 1034]))),
    row("file.reopen", "ENXIO", || e(open(&format!("/proc/self/fd/{}", buffer(1)), libc::O_RDWR))),
    row("file.reopen-dev-fd", "ENXIO", || e(open(&format!("/dev/fd/{}", buffer(1)), libc::O_RDWR))),
    noted("file.fstat", "mode 600 size 8192 blocks 16", STRICT, stat),
    noted("file.statx", "mode 600 size 8192 blocks 16", STRICT, statx),
    row("file.fstatfs", "444d4142", || {
        let mut out = [0u64; 15];
        match call(libc::SYS_fstatfs, &[buffer(1), ptr(&mut out)]) {
            Ok(_) => format!("{:x}", out[0]),
            Err(errno) => name(errno),
        }
    }),
    row("poll.idle", "IN|OUT", || poll(buffer(1))),
    row("epoll.idle", "1 IN|OUT data true del ok then 0", || epoll(false)),
    row("epoll.twice", "EEXIST", || epoll(true)),
    row("dup.sync", "ok", || {
        let fd = buffer(1);
        let copy = call(libc::SYS_dup, &[fd]).unwrap_or(-1) as u64;
        let _ = close(fd);
        let mut arg = 3u64;
        e(ioctl(copy, SYNC, &mut arg))
    }),
    row("closed.sync", "EBADF", || {
        let fd = buffer(1);
        let _ = close(fd);
        let mut arg = 3u64;
        e(ioctl(fd, SYNC, &mut arg))
    }),
];
