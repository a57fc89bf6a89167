//! Rows of /dev/dma_heap/NAME.

use super::kit::*;
use super::{Row, noted, row};
use crate::sys::raw::{call, peek, ptr};

const STRICT: &str = "strict: the untrapped call acts on the file behind the heap";

fn flags(fd_flags: u32) -> String {
    match alloc(page_size(), fd_flags) {
        Ok(fd) => {
            let mode = call(libc::SYS_fcntl, &[fd as u64, libc::F_GETFL as u64]).unwrap_or(-1) & 3;
            let cloexec = call(libc::SYS_fcntl, &[fd as u64, libc::F_GETFD as u64]).unwrap_or(-1);
            format!("mode {mode} cloexec {cloexec}")
        }
        Err(errno) => name(errno),
    }
}

fn size(len: u64) -> String {
    let mut arg = Alloc { len, fd_flags: RDWR, ..Alloc::default() };
    if let Err(errno) = ioctl(heap(), ALLOC, &mut arg) {
        return name(errno);
    }
    let size = buffer_fd(&arg).map_or_else(name, |fd| end(fd as u64));
    format!("{size} len {}", as_4k(arg.len))
}

fn with(arg: Alloc, cmd: u64) -> String {
    let mut arg = arg;
    e(ioctl(heap(), cmd, &mut arg))
}

fn plain() -> Alloc {
    Alloc { len: page_size(), fd_flags: RDWR, ..Alloc::default() }
}

fn bad_pointer(addr: u64) -> String {
    let heap = heap();
    let before = fds();
    let result = call(libc::SYS_ioctl, &[heap, ALLOC, addr]);
    format!("{} leaked {}", e(result), fds() - before)
}

fn opened(flags: i32) -> String {
    match open(&heap_path("system"), flags) {
        Ok(fd) => e(ioctl(fd as u64, ALLOC, &mut plain())),
        Err(errno) => format!("open {}", name(errno)),
    }
}

fn heap_ioctl(cmd: u64) -> String {
    let mut arg = [0u8; 64];
    e(ioctl(heap(), cmd, &mut arg))
}

fn heap_io(nr: libc::c_long) -> String {
    let mut bytes = [0u8; 16];
    e(call(nr, &[heap(), ptr(&mut bytes), 16, 0]))
}

fn stat_path(path: &str) -> String {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    match std::fs::metadata(path) {
        Ok(meta) if meta.file_type().is_char_device() => "character device".into(),
        Ok(meta) => format!("mode {:o}", meta.mode()),
        Err(error) => name(error.raw_os_error().unwrap_or(0)),
    }
}

pub(crate) const ROWS: &[Row] = &[
    row("heap.open-rdwr", "ok", || e(open(&heap_path("system"), libc::O_RDWR))),
    row("heap.open-missing", "ENOENT", || e(open(&heap_path("no-such-heap"), libc::O_RDWR))),
    row("heap.open-directory", "ENOTDIR", || e(open(&heap_path("system"), libc::O_DIRECTORY))),
    row("heap.open-excl", "EEXIST", || {
        e(open(&heap_path("system"), libc::O_RDWR | libc::O_CREAT | libc::O_EXCL))
    }),
    row("heap.stat", "character device", || stat_path(&heap_path("system"))),
    row("heap.stat-directory", "directory", || {
        std::fs::metadata(heap_path(""))
            .map_or("none", |meta| if meta.is_dir() { "directory" } else { "other" })
            .into()
    }),
    row("heap.readdir", "system listed", || {
        let path = heap_path("system");
        let name = path.rsplit('/').next().unwrap_or_default();
        let found = std::fs::read_dir(heap_path(""))
            .map(|dir| dir.flatten().any(|entry| entry.file_name() == *name));
        if found.unwrap_or(false) { "system listed".into() } else { "not listed".into() }
    }),
    row("heap.openat", "ok", || {
        let Ok(dir) = open(&heap_path(""), libc::O_RDONLY | libc::O_DIRECTORY) else {
            return "no dir".into();
        };
        let path = heap_path("system");
        let mut name = format!("{}\0", path.rsplit('/').next().unwrap_or_default()).into_bytes();
        e(call(libc::SYS_openat, &[dir as u64, ptr(name.as_mut_slice()), 2, 0]))
    }),
    row("heap.access", "ok", || {
        let mut path = format!("{}\0", heap_path("system")).into_bytes();
        e(access(ptr(path.as_mut_slice()), 6))
    }),
    noted("heap.fstat", "character device", STRICT, || {
        stat_path(&format!("/proc/self/fd/{}", heap())).replace("mode 100777", "regular file")
    }),
    row("alloc.len-0", "EINVAL", || size(0)),
    row("alloc.len-max", "EINVAL", || size(u64::MAX)),
    row("alloc.len-max-4094", "EINVAL", || size(u64::MAX - 4094)),
    row("alloc.len-1", "4096 len 1", || size(1)),
    row("alloc.len-4097", "8192 len 4097", || size(page_size() + 1)),
    row("alloc.len-5000", "8192 len 5000", || size(page_size() + 904)),
    row("alloc.len-1M+1", "1052672 len 1048577", || size(256 * page_size() + 1)),
    noted("alloc.beyond-memory", "ENOMEM", "kernel: Linux lets the OOM killer decide", || {
        // Where the OOM killer decides, it shall be for this process.
        if std::fs::write("/proc/self/oom_score_adj", "1000").is_err() {
            return "SKIP the OOM killer might choose another process".into();
        }
        size(1 << 46)
    }),
    row("alloc.zeroed", "0 of 8192 bytes set", || {
        let (_, addr) = mapped(2);
        let set = (0..2 * page_size()).filter(|at| peek(addr + at) != 0).count();
        format!("{set} of {} bytes set", as_4k(2 * page_size()))
    }),
    row("alloc.flags-0", "mode 0 cloexec 0", || flags(0)),
    row("alloc.flags-wronly", "mode 1 cloexec 0", || flags(1)),
    row("alloc.flags-rdwr", "mode 2 cloexec 0", || flags(2)),
    row("alloc.flags-3", "mode 3 cloexec 0", || flags(3)),
    row("alloc.flags-cloexec", "mode 2 cloexec 1", || flags(2 | libc::O_CLOEXEC as u32)),
    row("alloc.flags-nonblock", "EINVAL", || flags(2 | libc::O_NONBLOCK as u32)),
    row("alloc.flags-creat", "EINVAL", || flags(2 | libc::O_CREAT as u32)),
    row("alloc.flags-append", "EINVAL", || flags(2 | libc::O_APPEND as u32)),
    row("alloc.flags-all", "EINVAL", || flags(!0)),
    row("alloc.heap-flags", "EINVAL", || with(Alloc { heap_flags: 1, ..plain() }, ALLOC)),
    row("alloc.heap-flags-high", "EINVAL", || {
        with(Alloc { heap_flags: 1 << 63, ..plain() }, ALLOC)
    }),
    row("alloc.fd-field", "EINVAL", || with(Alloc { fd: 3, ..plain() }, ALLOC)),
    row("alloc.null", "EFAULT leaked 0", || bad_pointer(0)),
    row("alloc.bad-pointer", "EFAULT leaked 0", || bad_pointer(BAD)),
    row("alloc.read-only-page", "EFAULT leaked 0", || {
        let page = anonymous(1, PROT_RW);
        crate::sys::raw::poke(page + 1, 0x10); // a length
        let _ = call(libc::SYS_mprotect, &[page, page_size(), PROT_R]);
        bad_pointer(page)
    }),
    row("alloc.straddles-unmapped", "EFAULT leaked 0", || {
        let page = anonymous(2, PROT_RW);
        let _ = call(libc::SYS_munmap, &[page + page_size(), page_size()]);
        bad_pointer(page + page_size() - 12)
    }),
    row("alloc.no-free-fd", "EMFILE", || {
        let heap = heap();
        let mut limit = [32u64, 32];
        let _ = call(libc::SYS_prlimit64, &[0, 7, ptr(&mut limit), 0]);
        while call(libc::SYS_dup, &[heap]).is_ok() {}
        e(ioctl(heap, ALLOC, &mut plain()))
    }),
    row("alloc.after-no-free-fd", "ok", || {
        let heap = heap();
        let mut limit = [32u64, 32];
        let _ = call(libc::SYS_prlimit64, &[0, 7, ptr(&mut limit), 0]);
        let mut last = 0;
        while let Ok(fd) = call(libc::SYS_dup, &[heap]) {
            last = fd as u64;
        }
        let _ = ioctl(heap, ALLOC, &mut plain());
        let _ = close(last);
        e(ioctl(heap, ALLOC, &mut plain()))
    }),
    row("alloc.fd-0", "0", || {
        let heap = heap();
        let _ = close(0);
        let mut arg = plain();
        let result = ioctl(heap, ALLOC, &mut arg);
        v(result.map(|_| i64::from(arg.fd)))
    }),
    row("alloc.heap-rdonly", "ok", || opened(libc::O_RDONLY)),
    row("alloc.heap-wronly", "ok", || opened(libc::O_WRONLY)),
    row("alloc.heap-path", "EBADF", || opened(libc::O_PATH)),
    noted("alloc.other-type", "ok", STRICT, || with(plain(), ALLOC & !0xff00 | 0x7800)),
    noted("alloc.short", "ok", STRICT, || with(plain(), 0xc010_4800)),
    noted("alloc.long", "ok", STRICT, || with(Alloc { tail: !0, ..plain() }, 0xc020_4800)),
    noted("alloc.write-only-command", "ok", STRICT, || with(plain(), 0x4018_4800)),
    noted("alloc.no-argument", "EINVAL", STRICT, || with(plain(), 0x4800)),
    noted("heap.ioctl-nr-1", "EINVAL", STRICT, || heap_ioctl(0xc018_4801)),
    noted("heap.ioctl-tcgets", "EINVAL", STRICT, || heap_ioctl(0x5401)),
    noted("heap.ioctl-fionread", "EINVAL", STRICT, || heap_ioctl(0x541b)),
    row("heap.ioctl-fionbio", "ok", || heap_ioctl(0x5421)),
    row("heap.ioctl-fioclex", "ok", || heap_ioctl(0x5451)),
    noted(
        "heap.ioctl-sync",
        "EINVAL",
        "strict: SYNC has number 0 and ALLOC's checks refuse it",
        || heap_ioctl(SYNC),
    ),
    noted("heap.read", "EINVAL", STRICT, || heap_io(libc::SYS_read)),
    noted("heap.write", "EINVAL", STRICT, || heap_io(libc::SYS_write)),
    noted("heap.pread", "ESPIPE", STRICT, || heap_io(libc::SYS_pread64)),
    noted("heap.pwrite", "ESPIPE", STRICT, || heap_io(libc::SYS_pwrite64)),
    row("heap.lseek", "ESPIPE", || e(lseek(heap(), 0, 2))),
    row("heap.mmap", "ENODEV", || e(mmap(heap(), page_size(), PROT_RW, SHARED, 0))),
    row("heap.poll", "IN|OUT", || poll(heap())),
    row("heap.closed", "EBADF", || {
        let heap = heap();
        let _ = close(heap);
        e(ioctl(heap, ALLOC, &mut plain()))
    }),
];
