//! Rows of mprotect, mlock, msync, and of every advice, mremap and length of a mapping.

use super::kit::*;
use super::{Row, noted, row};
use crate::sys::raw::{call, peek, poke};

const STRICT: &str = "strict: the untrapped call acts on the file behind the buffer";
const NOEXEC: &str = "never: memfd_secret lies on a file system mounted noexec";
const PRIVATE_PAGE: &str = "never: memfd_secret refuses every private mapping";

const PROT_RX: u64 = 5;
const PROT_RWX: u64 = 7;
const PRIVATE: u64 = 2;

/// What mprotect answers on a shared mapping of a buffer opened with `fd_flags`.
fn protect(fd_flags: u32, prot: u64, then: u64) -> String {
    let Ok(fd) = alloc(page_size(), fd_flags) else { return "no buffer".into() };
    match mmap(fd as u64, page_size(), prot, SHARED, 0) {
        Ok(addr) => e(call(libc::SYS_mprotect, &[addr as u64, page_size(), then])),
        Err(errno) => format!("mmap {}", name(errno)),
    }
}

/// A private mapping of `pages` pages of a buffer of `size`: a store, and what the buffer then has.
fn private(size: u64, pages: u64, offset: u64) -> String {
    let fd = buffer(size);
    let addr = match mmap(fd, pages * page_size(), PROT_RW, PRIVATE, offset * page_size()) {
        Ok(addr) => addr as u64,
        Err(errno) => return name(errno),
    };
    let shared = mmap(fd, size * page_size(), PROT_RW, SHARED, 0).map_or(0, |at| at as u64);
    poke(shared + offset * page_size(), 5);
    let before = peek(addr);
    poke(addr, 9);
    format!("sees {before}, then buffer {}", peek(shared + offset * page_size()))
}

fn advise(advice: u64) -> String {
    let (_, addr) = mapped(1);
    poke(addr, 77);
    let answer = e(call(libc::SYS_madvise, &[addr, page_size(), advice]));
    format!("{answer} data {}", peek(addr))
}

/// DODUMP undoes DONTDUMP, and DOFORK undoes DONTFORK, if the mapping's own flags allow it.
fn advise_twice(first: u64, second: u64) -> String {
    let (_, addr) = mapped(1);
    let first = e(call(libc::SYS_madvise, &[addr, page_size(), first]));
    format!("{first} {}", e(call(libc::SYS_madvise, &[addr, page_size(), second])))
}

fn remap(old: u64, new: u64, flags: u64) -> String {
    let (_, addr) = mapped(2);
    poke(addr, 77);
    let target = anonymous(4, 0);
    match call(libc::SYS_mremap, &[addr, old * page_size(), new * page_size(), flags, target]) {
        Ok(at) => format!("ok data {}", peek(at as u64)),
        Err(errno) => name(errno),
    }
}

fn on_mapping(nr: libc::c_long, arg: u64) -> String {
    let (_, addr) = mapped(1);
    e(call(nr, &[addr, page_size(), arg]))
}

/// Every length from a page to four, at every offset of a buffer of three pages: `y` where mmap
/// works, offset by offset.
fn lengths(flags: u64) -> String {
    let fd = buffer(3);
    let works = |offset, pages| {
        if mmap(fd, pages * page_size(), PROT_RW, flags, offset * page_size()).is_ok() {
            'y'
        } else {
            'n'
        }
    };
    let line = |offset| (1..=4).map(|pages| works(offset, pages)).collect::<String>();
    (0..=3).map(line).collect::<Vec<_>>().join(" ")
}

pub(crate) const ROWS: &[Row] = &[
    noted("mmap.rwx", "ok", NOEXEC, || e(mmap(buffer(1), page_size(), PROT_RWX, SHARED, 0))),
    row("mmap.lengths", "yyyn yynn ynnn nnnn", || lengths(SHARED)),
    noted("mmap.lengths-private", "ynnn ynnn ynnn nnnn", PRIVATE_PAGE, || lengths(PRIVATE)),
    noted("mmap.private-one-page", "sees 5, then buffer 5", PRIVATE_PAGE, || private(1, 1, 0)),
    noted("mmap.private-page-of-2", "sees 5, then buffer 5", PRIVATE_PAGE, || private(2, 1, 0)),
    noted("mmap.private-second-of-2", "sees 5, then buffer 5", PRIVATE_PAGE, || private(2, 1, 1)),
    row("mmap.private-all-of-2", "EINVAL", || private(2, 2, 0)),
    row("mprotect.rw-to-r", "ok", || protect(RDWR, PROT_RW, PROT_R)),
    row("mprotect.rw-to-none", "ok", || protect(RDWR, PROT_RW, 0)),
    row("mprotect.none-to-rw", "ok", || protect(RDWR, 0, PROT_RW)),
    row("mprotect.r-to-rw", "ok", || protect(RDWR, PROT_R, PROT_RW)),
    noted("mprotect.rw-to-rx", "ok", NOEXEC, || protect(RDWR, PROT_RW, PROT_RX)),
    noted("mprotect.rw-to-rwx", "ok", NOEXEC, || protect(RDWR, PROT_RW, PROT_RWX)),
    noted("mprotect.rdonly-r-to-rw", "EACCES", STRICT, || protect(0, PROT_R, PROT_RW)),
    noted("mprotect.rdonly-r-to-rx", "ok", NOEXEC, || protect(0, PROT_R, PROT_RX)),
    row("madvise.random", "ok data 77", || advise(1)),
    row("madvise.sequential", "ok data 77", || advise(2)),
    noted("madvise.dofork", "EINVAL data 77", STRICT, || advise(11)),
    row("madvise.mergeable", "ok data 77", || advise(12)),
    row("madvise.unmergeable", "ok data 77", || advise(13)),
    row("madvise.hugepage", "ok data 77", || advise(14)),
    row("madvise.nohugepage", "ok data 77", || advise(15)),
    noted("madvise.dodump", "EINVAL data 77", STRICT, || advise(17)),
    row("madvise.keeponfork", "ok data 77", || advise(19)),
    noted("madvise.dontneed-locked", "EINVAL data 77", STRICT, || advise(24)),
    row("madvise.unknown", "EINVAL data 77", || advise(99)),
    noted("madvise.dontdump-dodump", "ok EINVAL", STRICT, || advise_twice(16, 17)),
    noted("madvise.dontfork-dofork", "ok EINVAL", STRICT, || advise_twice(10, 11)),
    row("mremap.same", "ok data 77", || remap(2, 2, 0)),
    noted("mremap.grow-in-place", "EFAULT", STRICT, || remap(2, 3, 0)),
    noted("mremap.grow-fixed", "EFAULT", STRICT, || remap(2, 3, 3)),
    row("mremap.shrink-maymove", "ok data 77", || remap(2, 1, 1)),
    row("mremap.shrink-fixed", "ok data 77", || remap(2, 1, 3)),
    row("mremap.part-fixed", "ok data 77", || remap(1, 1, 3)),
    noted("mremap.part-grow", "EFAULT", STRICT, || remap(1, 2, 1)),
    noted("mremap.copy", "EFAULT", STRICT, || remap(0, 2, 1)),
    row("mremap.new-0", "EINVAL", || remap(2, 0, 1)),
    row("mremap.unknown-flag", "EINVAL", || remap(2, 2, 8)),
    noted("mlock", "ok", STRICT, || on_mapping(libc::SYS_mlock, 0)),
    noted("mlock2-onfault", "ok", STRICT, || on_mapping(libc::SYS_mlock2, 1)),
    row("munlock", "ok", || on_mapping(libc::SYS_munlock, 0)),
    row("msync.sync", "EINVAL", || on_mapping(libc::SYS_msync, 4)),
    row("msync.async", "ok", || on_mapping(libc::SYS_msync, 1)),
    noted("msync.invalidate", "ok", STRICT, || on_mapping(libc::SYS_msync, 2)),
    noted("msync.invalidate-locked", "ok ok", STRICT, || {
        let (_, addr) = mapped(1);
        let locked = e(call(libc::SYS_mlock, &[addr, page_size()]));
        format!("{locked} {}", e(call(libc::SYS_msync, &[addr, page_size(), 2])))
    }),
    row("mapping.mprotect-hole", "ok ENOMEM", || {
        let (_, addr) = mapped(2);
        let hole = e(call(libc::SYS_munmap, &[addr, page_size()]));
        format!("{hole} {}", e(call(libc::SYS_mprotect, &[addr, 2 * page_size(), PROT_R])))
    }),
];
