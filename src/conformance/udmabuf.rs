//! Rows of /dev/udmabuf.

use super::kit::*;
use super::{Row, noted, row};
use crate::sys::raw::{call, peek, poke, ptr};

const CREATE: u64 = 0x4018_7542;
const CREATE_LIST: u64 = 0x4008_7543;
const SHRINK: u64 = 2;
const GUP: &str = "never: the pages are the memfd's, which anyone can pin";

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Create {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

fn device() -> Result<u64, Early> {
    open("/dev/udmabuf", libc::O_RDWR)
        .map(|fd| fd as u64)
        .map_err(|errno| Early(format!("SKIP no udmabuf: {}", name(errno))))
}

fn memfd(pages: u64, seals: u64) -> u64 {
    let mut label = *b"u\0";
    let fd = call(libc::SYS_memfd_create, &[ptr(&mut label), 3]).unwrap_or(-1) as u64;
    let _ = call(libc::SYS_ftruncate, &[fd, pages * page_size()]);
    let _ = call(libc::SYS_fcntl, &[fd, 1033, seals]);
    fd
}

fn create(memfd: u64, flags: u32, offset: u64, size: u64) -> Result<u64, Early> {
    let mut arg = Create { memfd: memfd as u32, flags, offset, size };
    ioctl(device()?, CREATE, &mut arg).map(|fd| fd as u64).map_err(|errno| Early(name(errno)))
}

fn created(seals: u64, flags: u32, offset: u64, size: u64) -> String {
    match create(memfd(4, seals), flags, offset, size) {
        Ok(fd) => {
            format!("ok cloexec {}", v(call(libc::SYS_fcntl, &[fd, libc::F_GETFD as u64])))
        }
        Err(Early(answer)) => answer,
    }
}

fn list(items: &[(u64, u64, u64)], count: u32) -> String {
    let mut words = vec![u64::from(count) << 32];
    for &(memfd, offset, size) in items {
        words.extend([memfd, offset, size]);
    }
    match device() {
        Ok(fd) => e(call(libc::SYS_ioctl, &[fd, CREATE_LIST, ptr(words.as_mut_slice())])),
        Err(Early(answer)) => answer,
    }
}

pub(crate) const ROWS: &[Row] = &[
    row("udmabuf.create", "ok cloexec 0", || created(SHRINK, 0, 0, 2 * page_size())),
    row("udmabuf.cloexec", "ok cloexec 1", || created(SHRINK, 1, 0, 2 * page_size())),
    row("udmabuf.unknown-flags", "ok cloexec 0", || created(SHRINK, 0xfffe, 0, 2 * page_size())),
    row("udmabuf.offset-unaligned", "EINVAL", || created(SHRINK, 0, 1, page_size())),
    row("udmabuf.size-unaligned", "EINVAL", || created(SHRINK, 0, 0, page_size() + 1)),
    row("udmabuf.size-0", "EINVAL", || created(SHRINK, 0, 0, 0)),
    row("udmabuf.past-the-end", "EINVAL", || created(SHRINK, 0, 0, 5 * page_size())),
    row("udmabuf.offset-past-the-end", "EINVAL", || {
        created(SHRINK, 0, 4 * page_size(), page_size())
    }),
    row("udmabuf.too-large", "EINVAL", || {
        create(memfd(16385, SHRINK), 0, 0, 16385 * page_size())
            .map_or_else(|Early(answer)| answer, |_| "ok".into())
    }),
    row("udmabuf.unsealed", "EINVAL", || created(0, 0, 0, page_size())),
    row("udmabuf.sealed-write", "EINVAL", || created(SHRINK | 8, 0, 0, page_size())),
    row("udmabuf.sealed-future-write", "EINVAL", || created(SHRINK | 16, 0, 0, page_size())),
    row("udmabuf.not-a-memfd", "EBADFD", || {
        create(0, 0, 0, page_size()).map_or_else(|Early(answer)| answer, |_| "ok".into())
    }),
    row("udmabuf.bad-fd", "EBADFD", || {
        create(900, 0, 0, page_size()).map_or_else(|Early(answer)| answer, |_| "ok".into())
    }),
    row("udmabuf.null", "EFAULT", || {
        device()
            .map_or_else(|Early(answer)| answer, |fd| e(call(libc::SYS_ioctl, &[fd, CREATE, 0])))
    }),
    noted("udmabuf.other-ioctl", "ENOTTY", "strict: the ioctl's number is not trapped", || {
        let mut arg = [0u64; 16];
        device().map_or_else(|Early(answer)| answer, |fd| e(ioctl(fd, 0x4018_7544, &mut arg)))
    }),
    row("udmabuf.offset", "ok cloexec 0", || created(SHRINK, 0, page_size(), page_size())),
    row("udmabuf.list-one", "ok", || list(&[(memfd(4, SHRINK), 0, page_size())], 1)),
    row("udmabuf.list-adjacent", "ok", || {
        let memfd = memfd(4, SHRINK);
        list(&[(memfd, 0, page_size()), (memfd, page_size(), 2 * page_size())], 2)
    }),
    row("udmabuf.list-two-memfds", "ok", || {
        list(&[(memfd(4, SHRINK), 0, page_size()), (memfd(4, SHRINK), 0, page_size())], 2)
    }),
    row("udmabuf.list-empty", "EINVAL", || list(&[], 0)),
    row("udmabuf.list-too-long", "EINVAL", || list(&[], 1025)),
    row("udmabuf.shares-pages", "42", || {
        let memfd = memfd(2, SHRINK);
        let Ok(fd) = create(memfd, 0, 0, 2 * page_size()) else { return "SKIP no udmabuf".into() };
        let map =
            |fd| mmap(fd, page_size(), PROT_RW, SHARED, page_size()).map_or(0, |at| at as u64);
        poke(map(memfd), 42);
        peek(map(fd)).to_string()
    }),
    row("udmabuf.size", "8192", || {
        create(memfd(4, SHRINK), 0, 0, 2 * page_size()).map_or_else(|Early(answer)| answer, end)
    }),
    row("udmabuf.mmap-too-long", "EINVAL", || {
        create(memfd(4, SHRINK), 0, 0, 2 * page_size()).map_or_else(
            |Early(answer)| answer,
            |fd| e(mmap(fd, 3 * page_size(), PROT_RW, SHARED, 0)),
        )
    }),
    row("udmabuf.memfd-is-still-one", "ok", || {
        let memfd = memfd(4, SHRINK);
        create(memfd, 0, 0, 2 * page_size()).ok();
        e(mmap(memfd, 4 * page_size(), PROT_RW, SHARED, 0))
    }),
    row("udmabuf.end-before-start", "EINVAL", || {
        let mut arg = 7u64;
        create(memfd(4, SHRINK), 0, 0, page_size())
            .map_or_else(|Early(answer)| answer, |fd| e(ioctl(fd, SYNC, &mut arg)))
    }),
    row("udmabuf.end-after-start", "ok", || {
        let mut arg = 3u64;
        create(memfd(4, SHRINK), 0, 0, page_size()).map_or_else(
            |Early(answer)| answer,
            |fd| {
                let _ = ioctl(fd, SYNC, &mut arg);
                arg = 7;
                e(ioctl(fd, SYNC, &mut arg))
            },
        )
    }),
    row("udmabuf.sync-on-memfd", "ENOTTY", || {
        let memfd = memfd(4, SHRINK);
        create(memfd, 0, 0, page_size()).ok();
        let mut arg = 3u64;
        e(ioctl(memfd, SYNC, &mut arg))
    }),
    noted("udmabuf.gup", "EFAULT", GUP, || {
        let fd = match create(memfd(4, SHRINK), 0, 0, page_size()) {
            Ok(fd) => fd,
            Err(Early(answer)) => return answer,
        };
        let addr = mmap(fd, page_size(), PROT_RW, SHARED, 0).map_or(0, |at| at as u64);
        poke(addr, 5);
        let mut pipe = [0i32; 2];
        let _ = call(libc::SYS_pipe2, &[ptr(&mut pipe), 0]);
        let mut iov = [addr, page_size()];
        e(call(libc::SYS_vmsplice, &[pipe[1] as u64, ptr(&mut iov), 1, 0]))
    }),
];
