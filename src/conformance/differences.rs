//! Why a transport answers otherwise than Linux: every known difference, by the beginning of the
//! row's name. A difference without an entry is an error of `driftheap compare`.
//!
//! What `driftheap run` lacks stands at the row itself, as its note.

use super::table::Transport;

/// Reasons by the beginning of a row's name.
pub type Reasons = &'static [(&'static str, &'static str)];

/// Why `transport` may answer the row otherwise.
pub fn why(transport: Transport, row: &str, note: &'static str) -> Option<&'static str> {
    let listed = || {
        let found = reasons(transport).iter().find(|(prefix, _)| row.starts_with(prefix));
        found.map(|&(_, reason)| reason)
    };
    let kernel = || note.strip_prefix("kernel: ");
    let never = || note.strip_prefix("never: ");
    let strict = || note.strip_prefix("strict: ");
    match transport {
        Transport::Run => strict().or_else(never).or_else(kernel),
        Transport::Strict => never().or_else(kernel),
        Transport::Mount | Transport::Cuse => listed().or_else(kernel),
    }
}

/// The listed reasons, each with how its rows' names begin; the first that fits is a row's.
pub fn reasons(transport: Transport) -> Reasons {
    match transport {
        Transport::Run | Transport::Strict => &[],
        Transport::Mount => MOUNT,
        Transport::Cuse => CUSE,
    }
}

const MOUNT: Reasons = &[
    ("heap.stat", "a FUSE file is a regular one: a device node needs CUSE"),
    ("heap.fstat", "a FUSE file is a regular one: a device node needs CUSE"),
    ("heap.ioctl-fionread", "the kernel answers FIONREAD on a regular file itself"),
    ("heap.p", "a regular file has positions: EINVAL where a device answers ESPIPE"),
    ("heap.lseek", "a regular file has positions"),
    ("heap.mmap", "the kernel asks nobody before it maps a FUSE file"),
    ("alloc.no-free-fd", "no descriptor is installed in the caller: it opens a second file"),
    ("alloc.fd-0", "no descriptor is installed in the caller: it opens a second file"),
    ("name.b-31", "a restricted FUSE ioctl carries a pointer's bytes, not what it points to"),
    ("name.a-31", "a restricted FUSE ioctl carries a pointer's bytes, not what it points to"),
    ("name.page-end", "the kernel copies eight bytes, across the end of the page"),
    ("name.in-", "procfs prints what it knows of a FUSE file"),
    ("name.link-", "procfs prints what it knows of a FUSE file"),
    ("fdinfo.", "procfs prints what it knows of a FUSE file"),
    ("lseek.", "lseek of a FUSE file is answered by the kernel"),
    ("io.", "the kernel reads and writes a regular file in ways that never reach the server"),
    ("file.reopen", "a FUSE file can be opened again"),
    ("file.fstat", "a FUSE file is a regular one"),
    ("file.statx", "a FUSE file is a regular one"),
    ("export.", "no descriptor can be installed in the caller"),
    ("import.", "there are no sync files without EXPORT_SYNC_FILE"),
    ("merge.", "there are no sync files without EXPORT_SYNC_FILE"),
    ("info.", "there are no sync files without EXPORT_SYNC_FILE"),
    ("deadline.", "there are no sync files without EXPORT_SYNC_FILE"),
    ("sync-file.", "there are no sync files without EXPORT_SYNC_FILE"),
    ("fcntl.setfl", "the kernel shows the flags of a FUSE file, O_LARGEFILE among them"),
    ("fcntl.setlease", "a regular file can have a lease"),
    ("file.sync-file-range", "a regular file has page cache to write back"),
    ("file.readahead", "a regular file has page cache to read ahead"),
    ("file.f", "FUSE answers for extended attributes"),
    ("file.listed", "procfs prints what it knows of a FUSE file"),
    ("mmap.shared-exec", "the mount is noexec"),
    ("mmap.rwx", "the mount is noexec"),
    ("mprotect.", "the mount is noexec"),
    ("mmap.lengths", "the kernel asks nobody before it maps a FUSE file"),
    ("msync.", "the mapping is an ordinary one, which can be locked"),
    ("mmap.page-too-long", "the kernel asks nobody before it maps a FUSE file"),
    ("mmap.byte-too-long", "the kernel asks nobody before it maps a FUSE file"),
    ("mmap.offset-too-long", "the kernel asks nobody before it maps a FUSE file"),
    ("mmap.past-the-end", "the kernel asks nobody before it maps a FUSE file"),
    ("mmap.private", "the kernel asks nobody before it maps a FUSE file"),
    ("mremap.", "the mapping is an ordinary one"),
    ("madvise.", "the mapping is an ordinary one"),
    ("pagemap", "the mapping is an ordinary one"),
    ("smaps.", "the mapping is an ordinary one"),
    ("gup.", "the pages are page cache, which can be pinned"),
];

const SEEK: &str = "the kernel answers lseek of a CUSE file itself: it does nothing (noop_llseek)";
const AT: &str =
    "a CUSE file can be read at a position, so the server's EINVAL comes before ESPIPE";
const PROC: &str = "procfs prints what it knows of a character device";
const MEMORY: &str = "what is mapped is the memory that the server's socket gave, an ordinary file";

const CUSE: Reasons = &[
    ("alloc.len-", SEEK),
    ("alloc.no-free-fd", "no descriptor is installed in the caller: a handle needs none"),
    ("alloc.fd-0", "no descriptor is installed in the caller: ALLOC answers a handle"),
    ("heap.p", AT),
    ("heap.lseek", SEEK),
    ("name.in-", PROC),
    ("name.link-", PROC),
    ("fdinfo.", PROC),
    ("lseek.", SEEK),
    ("io.read-0", "the kernel answers a transfer of 0 bytes itself"),
    ("io.write-0", "the kernel answers a transfer of 0 bytes itself"),
    ("io.p", AT),
    ("io.sendfile", AT),
    ("file.reopen", "a device node can be opened again, and is a heap then"),
    ("file.f", "the buffer's file is an open of the device node"),
    ("file.statx", "the buffer's file is an open of the device node"),
    ("fcntl.setfl", "the kernel shows the flags of the device's file, O_LARGEFILE among them"),
    ("fcntl.dupfd", SEEK),
    ("file.listed", PROC),
    ("mmap.shared-exec", "memfd_secret lies on a file system mounted noexec"),
    ("mmap.rwx", "memfd_secret lies on a file system mounted noexec"),
    ("mprotect.", "memfd_secret lies on a file system mounted noexec, and is open for both"),
    ("mlock", MEMORY),
    ("msync.", MEMORY),
    ("mmap.rdonly", "memfd_secret can't be opened again with less than read and write"),
    ("mmap.wronly", "memfd_secret can't be opened again with less than read and write"),
    ("mmap.", MEMORY),
    ("mapping.scm-rights", SEEK),
    ("mremap.", MEMORY),
    ("madvise.", MEMORY),
    ("pagemap", MEMORY),
    ("smaps.", MEMORY),
];
