//! Rows of mmap, and of what may be done to a mapping.

use super::kit::*;
use super::{Row, noted, row};
use crate::sys::raw::{call, in_child, peek, poke, ptr};

const STRICT: &str = "strict: the untrapped call acts on the file behind the buffer";
const PAGEMAP: &str = "never: the pages behind the buffer are the kernel's to show";
const SMAPS: &str = "never: the VMA is of another kind than VM_PFNMAP, and the kernel prints it";

fn map(len: u64, prot: u64, flags: u64, offset: u64) -> String {
    e(mmap(buffer(2), len, prot, flags, offset))
}

fn map_mode(fd_flags: u32, prot: u64) -> String {
    match alloc(page_size(), fd_flags) {
        Ok(fd) => e(mmap(fd as u64, page_size(), prot, SHARED, 0)),
        Err(errno) => name(errno),
    }
}

fn advise(advice: u64) -> String {
    let (_, addr) = mapped(1);
    poke(addr, 77);
    let answer = e(call(libc::SYS_madvise, &[addr, page_size(), advice]));
    format!("{answer} data {}", peek(addr))
}

fn mremap(old: u64, new: u64, flags: u64) -> String {
    let (_, addr) = mapped(2);
    poke(addr, 77);
    match call(libc::SYS_mremap, &[addr, old * page_size(), new * page_size(), flags, 0]) {
        Ok(at) => format!("ok data {}", peek(at as u64)),
        Err(errno) => name(errno),
    }
}

fn pass_fd() -> String {
    let (fd, addr) = mapped(1);
    poke(addr, 42);
    let mut pair = [0i32; 2];
    let _ = call(libc::SYS_socketpair, &[1, 2, 0, ptr(&mut pair)]);
    // struct cmsghdr: len, SOL_SOCKET, SCM_RIGHTS, then the descriptor.
    let mut control = [20u64, 1 | 1 << 32, fd];
    let mut byte = [0u8; 1];
    let mut iov = [ptr(&mut byte), 1];
    let mut header = [0u64, 0, ptr(&mut iov), 1, ptr(&mut control), 24, 0];
    if let Err(errno) = call(libc::SYS_sendmsg, &[pair[0] as u64, ptr(&mut header), 0]) {
        return format!("sendmsg {}", name(errno));
    }
    let _ = close(fd);
    in_child(5, || {
        let mut control = [0u64; 4];
        let mut header = [0u64, 0, ptr(&mut iov), 1, ptr(&mut control), 32, 0];
        let _ = call(libc::SYS_recvmsg, &[pair[1] as u64, ptr(&mut header), 0]);
        let fd = control[2] & 0xffff_ffff;
        let mut arg = 3u64;
        let sync = e(ioctl(fd, SYNC, &mut arg));
        let data = mmap(fd, page_size(), PROT_RW, SHARED, 0).map_or(0, |at| peek(at as u64));
        format!("sync {sync} size {} data {data}", end(fd))
    })
}

fn uffd_register() -> String {
    let (_, addr) = mapped(1);
    let Ok(uffd) = call(libc::SYS_userfaultfd, &[0x80801]) else {
        return "SKIP no userfaultfd".into();
    };
    let mut api = [0xaau64, 0, 0];
    let _ = ioctl(uffd as u64, 0xc018_aa3f, &mut api);
    let mut register = [addr, page_size(), 1, 0];
    e(ioctl(uffd as u64, 0xc020_aa00, &mut register))
}

/// The smaps entry of the mapping at `addr`.
fn smaps(addr: u64) -> Vec<String> {
    let text = read_text("/proc/self/smaps");
    let start = format!("{addr:x}-");
    let skipped = text.lines().skip_while(|line| !line.starts_with(&start));
    skipped.take(30).map(str::to_owned).collect()
}

pub(crate) const ROWS: &[Row] = &[
    row("mmap.shared-r", "ok", || map(2 * page_size(), PROT_R, SHARED, 0)),
    row("mmap.shared-rw", "ok", || map(2 * page_size(), PROT_RW, SHARED, 0)),
    row("mmap.shared-none", "ok", || map(2 * page_size(), 0, SHARED, 0)),
    noted(
        "mmap.shared-exec",
        "ok",
        "never: memfd_secret lies on a file system mounted noexec",
        || map(2 * page_size(), 5, SHARED, 0),
    ),
    row("mmap.validate", "ok", || map(2 * page_size(), PROT_RW, 3, 0)),
    row("mmap.populate", "ok", || map(2 * page_size(), PROT_RW, SHARED | 0x8000, 0)),
    row("mmap.locked", "ok", || map(2 * page_size(), PROT_RW, SHARED | 0x2000, 0)),
    row("mmap.partial", "ok", || map(page_size(), PROT_RW, SHARED, 0)),
    row("mmap.offset", "ok", || map(page_size(), PROT_RW, SHARED, page_size())),
    row("mmap.page-too-long", "EINVAL", || map(3 * page_size(), PROT_RW, SHARED, 0)),
    row("mmap.byte-too-long", "EINVAL", || map(2 * page_size() + 1, PROT_RW, SHARED, 0)),
    row("mmap.last-byte", "ok", || map(2 * page_size() - 1, PROT_RW, SHARED, 0)),
    row("mmap.offset-too-long", "EINVAL", || map(2 * page_size(), PROT_RW, SHARED, page_size())),
    row("mmap.past-the-end", "EINVAL", || map(page_size(), PROT_RW, SHARED, 2 * page_size())),
    row("mmap.unaligned-offset", "EINVAL", || map(page_size(), PROT_RW, SHARED, 1)),
    row("mmap.len-0", "EINVAL", || map(0, PROT_RW, SHARED, 0)),
    row("mmap.private", "EINVAL", || map(2 * page_size(), PROT_RW, 2, 0)),
    row("mmap.private-r", "EINVAL", || map(2 * page_size(), PROT_R, 2, 0)),
    row("mmap.no-type", "EINVAL", || map(2 * page_size(), PROT_RW, 0, 0)),
    row("mmap.rdonly-r", "ok", || map_mode(0, PROT_R)),
    row("mmap.rdonly-rw", "EACCES", || map_mode(0, PROT_RW)),
    row("mmap.wronly-r", "EACCES", || map_mode(1, PROT_R)),
    row("mmap.wronly-w", "EACCES", || map_mode(1, 2)),
    row("mapping.outlives-close", "42", || {
        let (fd, addr) = mapped(1);
        poke(addr, 42);
        let _ = close(fd);
        peek(addr).to_string()
    }),
    row("mapping.same-pages", "42", || {
        let (fd, addr) = mapped(2);
        poke(addr + page_size(), 42);
        mmap(fd, page_size(), PROT_RW, SHARED, page_size())
            .map_or(0, |at| peek(at as u64))
            .to_string()
    }),
    row("mapping.fork", "child 42 parent 43", || {
        let (_, addr) = mapped(1);
        poke(addr, 42);
        let child = in_child(5, || {
            let seen = peek(addr);
            poke(addr, 43);
            seen.to_string()
        });
        format!("child {child} parent {}", peek(addr))
    }),
    row("mapping.scm-rights", "sync ok size 4096 data 42", pass_fd),
    row("mapping.munmap-middle", "ok 1 3", || {
        let (_, addr) = mapped(3);
        for page in 0..3 {
            poke(addr + page * page_size(), page as u8 + 1);
        }
        let answer = e(call(libc::SYS_munmap, &[addr + page_size(), page_size()]));
        format!("{answer} {} {}", peek(addr), peek(addr + 2 * page_size()))
    }),
    noted("mremap.grow", "EFAULT", STRICT, || mremap(2, 3, 1)),
    row("mremap.shrink", "ok data 77", || mremap(2, 1, 0)),
    row("mremap.move", "ok data 77", || {
        let target = anonymous(2, 0);
        let (_, addr) = mapped(2);
        poke(addr, 77);
        match call(libc::SYS_mremap, &[addr, 2 * page_size(), 2 * page_size(), 3, target]) {
            Ok(at) => format!("ok data {}", peek(at as u64)),
            Err(errno) => name(errno),
        }
    }),
    noted("mremap.dontunmap", "EINVAL", STRICT, || mremap(2, 2, 5)),
    noted("madvise.dontneed", "EINVAL data 77", STRICT, || advise(4)),
    noted("madvise.free", "EINVAL data 77", STRICT, || advise(8)),
    noted("madvise.remove", "ENODEV data 77", STRICT, || advise(9)),
    noted("madvise.wipeonfork", "EINVAL data 77", STRICT, || advise(18)),
    noted("madvise.cold", "EINVAL data 77", STRICT, || advise(20)),
    noted("madvise.pageout", "EINVAL data 77", STRICT, || advise(21)),
    noted("madvise.populate-read", "EINVAL data 77", STRICT, || advise(22)),
    noted("madvise.populate-write", "EINVAL data 77", STRICT, || advise(23)),
    noted("madvise.collapse", "EINVAL data 77", STRICT, || advise(25)),
    row("madvise.normal", "ok data 77", || advise(0)),
    row("madvise.willneed", "ok data 77", || advise(3)),
    row("madvise.dontfork", "ok data 77", || advise(10)),
    row("madvise.dontdump", "ok data 77", || advise(16)),
    row("userfaultfd.register", "EINVAL", uffd_register),
    row("mincore", "ok", || {
        let (_, addr) = mapped(1);
        let mut byte = [0u8];
        e(call(libc::SYS_mincore, &[addr, page_size(), ptr(&mut byte)]))
    }),
    noted("pagemap", "no page", PAGEMAP, || {
        let (_, addr) = mapped(1);
        poke(addr, 1);
        let Ok(fd) = open("/proc/self/pagemap", libc::O_RDONLY) else {
            return "SKIP no pagemap".into();
        };
        let mut entry = 0u64;
        let _ = call(libc::SYS_pread64, &[fd as u64, ptr(&mut entry), 8, addr / page_size() * 8]);
        if entry >> 63 == 0 { "no page".into() } else { "a page".into() }
    }),
    noted("smaps.flags", "pf de dd", SMAPS, || {
        let (_, addr) = mapped(1);
        let entry = smaps(addr);
        let line = entry.iter().find(|line| line.starts_with("VmFlags"));
        let has = |flag: &str| line.is_some_and(|line| line.contains(&format!(" {flag} ")));
        ["pf", "de", "dd"].into_iter().filter(|flag| has(flag)).collect::<Vec<_>>().join(" ")
    }),
    noted("smaps.rss", "0 kB", SMAPS, || {
        let (_, addr) = mapped(1);
        poke(addr, 1);
        let entry = smaps(addr);
        let line = entry.iter().find_map(|line| line.strip_prefix("Rss:"));
        line.map_or("none", str::trim).into()
    }),
];
