//! Which system calls each level hands over.

use crate::device::ioctl::{TYPE_AND_NR, handed_over};
use crate::sys::arch::legacy;
use crate::sys::seccomp::{ArgTest, Filter};

/// How much of the kernel's behaviour is answered by the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What a working program needs: opens and stats by path, the ioctls by number, shared
    /// mappings, seeks to the size, fstatfs, poll, epoll_ctl, F_GETFL, leases.
    Needed,
    /// Every call that could tell a buffer from the file behind it.
    Strict,
}

const AT_EMPTY_PATH: u32 = 0x1000;
const MAP_ANONYMOUS: u32 = 0x20;
const PROT_WRITE: u32 = 0x2;

/// F_GETFL, which shows how a buffer was asked for, and F_SETLEASE and F_GETLEASE: a lease of the
/// program's on the file behind a buffer would hold up ours.
const FCNTLS: [u32; 3] = [3, 1024, 1025];

/// Calls that name a file by path, in both levels.
const BY_PATH: [i64; 14] = [
    legacy::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    legacy::SYS_stat,
    legacy::SYS_lstat,
    legacy::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    legacy::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
];

/// Waits for a buffer's fences, in both levels: the file behind a buffer is always ready.
const POLLS: [i64; 2] = [legacy::SYS_poll, libc::SYS_ppoll];

/// Calls on a descriptor or an address, and the end of a process, that only [`Level::Strict`] hands over.
const STRICT: [i64; 34] = [
    libc::SYS_ioctl,
    libc::SYS_mmap,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_copy_file_range,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fcntl,
    libc::SYS_sync_file_range,
    libc::SYS_fgetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
    libc::SYS_exit_group,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_msync,
];

fn test(arg: u8, mask: u32, any_of: &[u32]) -> ArgTest {
    ArgTest { arg, mask, any_of: any_of.to_vec() }
}

/// The filter of a level; `watched`: for a run that reports misuse.
pub fn filter(level: Level, watched: bool) -> Filter {
    let mut filter = Filter::default();
    for nr in BY_PATH.into_iter().filter(|&nr| nr >= 0) {
        filter.always(nr);
    }
    for nr in POLLS.into_iter().filter(|&nr| nr >= 0) {
        filter.always(nr);
    }
    filter.always(libc::SYS_epoll_ctl).always(libc::SYS_fstatfs);
    // A program that fills pages on demand can hold up who reads its arguments.
    filter.always(libc::SYS_userfaultfd);
    let ours = test(1, TYPE_AND_NR, &handed_over());
    filter.foreign(ours.clone());
    filter
        .when(libc::SYS_newfstatat, vec![test(3, AT_EMPTY_PATH, &[0])])
        .when(libc::SYS_statx, vec![test(2, AT_EMPTY_PATH, &[0])])
        .when(libc::SYS_ioctl, vec![ours])
        // MAP_SHARED or MAP_SHARED_VALIDATE of a descriptor that is not negative.
        .when(libc::SYS_mmap, vec![test(3, 0xf, &[1, 3]), test(4, 1 << 31, &[0])])
        // SEEK_SET and SEEK_END of 0: how programs ask a dma-buf for its size.
        .when(libc::SYS_lseek, vec![test(1, u32::MAX, &[0]), test(2, u32::MAX, &[0, 2])])
        .when(libc::SYS_fcntl, vec![test(1, u32::MAX, &FCNTLS)]);
    if watched {
        // Private mappings of a file too, and the end of a process.
        filter
            .when(
                libc::SYS_mmap,
                vec![
                    test(3, MAP_ANONYMOUS, &[0]),
                    test(3, 0xf, &[1, 2, 3]),
                    test(4, 1 << 31, &[0]),
                ],
            )
            .always(libc::SYS_exit_group);
    }
    if level == Level::Strict {
        for nr in STRICT.into_iter().filter(|&nr| nr >= 0) {
            filter.always(nr);
        }
        filter.when(libc::SYS_mprotect, vec![test(2, PROT_WRITE, &[PROT_WRITE])]);
    }
    filter
}
