//! Whether an object's file still exists.
//!
//! The kernel keeps a file's reference count to itself. Two things tell that somebody holds it:
//!
//! 1. its mark ([`backing::mark`]) is in /proc/locks, wherever the reference is: in a descriptor, a
//!    mapping, or a message on its way through a socket;
//! 2. a process of the supervised tree has it in /proc/PID/fd or /proc/PID/maps.
//!
//! Either is enough to keep an object; to release it takes the absence of both, and no failure on
//! the way. A failure to look (EMFILE, ENFILE, ENOMEM) means that nothing is released.
//!
//! /proc/locks is handed out a page at a time, and the kernel finds its place again by counting
//! lines (fs/locks.c, `locks_start` with `seq_hlist_start_percpu`), so that a lock of a stranger
//! which goes meanwhile hides one further down. A list that came in one piece is exact. One that
//! came in several is read [`READS`] times, and a mark that any of them shows is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use crate::device::Inode;
use crate::device::maps;
use crate::device::transport::inode_at;
use crate::sys::backing;

/// An inode and, where it has several open files of ours, the brand of one.
pub(super) type Key = (Inode, u8);

/// Reads of a list of locks that does not come in one piece.
const READS: usize = 16;

/// Bytes asked for at once; the kernel gives a page of them.
const CHUNK_BYTES: usize = 1 << 16;

/// Which of these nobody holds any more.
///
/// # Errors
/// It can't be told now: /proc/locks or a process of the tree could not be read.
pub(super) fn gone(mut keys: BTreeSet<Key>) -> io::Result<BTreeSet<Key>> {
    for _ in 0..READS {
        if keys.is_empty() {
            return Ok(keys);
        }
        let (text, in_one_piece) = lock_list()?;
        for key in String::from_utf8_lossy(&text).lines().filter_map(mark) {
            keys.remove(&key);
        }
        if in_one_piece {
            break;
        }
        // Not in step with who takes and drops locks.
        std::thread::yield_now();
    }
    if !keys.is_empty() {
        keep_held(&mut keys, &tree()?)?;
    }
    Ok(keys)
}

/// /proc/locks, and whether one read gave all of it.
fn lock_list() -> io::Result<(Vec<u8>, bool)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open("/proc/locks", flags, Mode::empty())?;
    let mut text = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut reads = 0;
    loop {
        match rustix::io::read(&file, chunk.as_mut_slice()) {
            Ok(0) => return Ok((text, reads <= 1)),
            Ok(got) => text.extend_from_slice(&chunk[..got]),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        reads += 1;
    }
}

/// The mark in a line of /proc/locks: `N: LEASE ACTIVE WRITE PID MAJ:MIN:INO 0 EOF` or
/// `N: OFDLCK ADVISORY WRITE -1 MAJ:MIN:INO START END`.
fn mark(line: &str) -> Option<Key> {
    let (_, line) = line.split_once(':')?;
    let mut fields = line.split_ascii_whitespace();
    let lease = match fields.next()? {
        "LEASE" => true,
        "OFDLCK" => false,
        _ => return None,
    };
    let mut place = fields.nth(3)?.split(':');
    let major = u32::from_str_radix(place.next()?, 16).ok()?;
    let minor = u32::from_str_radix(place.next()?, 16).ok()?;
    let inode = Inode { dev: rustix::fs::makedev(major, minor), ino: place.next()?.parse().ok()? };
    if lease {
        return Some((inode, 0));
    }
    let start: i64 = fields.next()?.parse().ok()?;
    let brand = u8::try_from(start.checked_sub(backing::MARK_OFFSET)?).ok()?;
    Some((inode, brand))
}

/// The files whose lease somebody waits for (`lease_breaking`, fs/locks.c).
///
/// # Errors
/// /proc/locks could not be read.
pub(super) fn waited_for() -> io::Result<BTreeSet<Inode>> {
    let (text, _) = lock_list()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let breaking = text.lines().filter(|line| line.contains(" BREAKING "));
    Ok(breaking.filter_map(mark).map(|(inode, _)| inode).collect())
}

/// The processes of the tree that have a file open, with the descriptors.
///
/// # Errors
/// A process could not be looked into.
pub(super) fn openers(inode: Inode) -> io::Result<Vec<(i32, i32)>> {
    let mut found = Vec::new();
    for pid in tree()? {
        for fd in look(numbers(&format!("/proc/{pid}/fd")))? {
            if inode_at(&format!("/proc/{pid}/fd/{fd}")).is_ok_and(|open| open == inode) {
                found.push((pid, fd));
            }
        }
    }
    Ok(found)
}

/// Whether an error says that there was nothing to see: the process has ended, or is not ours to
/// look into, and then its mark alone speaks for what it holds.
fn nothing_to_see(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::EACCES | libc::EPERM | libc::EBADF)
    )
}

fn look<T: Default>(result: io::Result<T>) -> io::Result<T> {
    result.or_else(|error| if nothing_to_see(&error) { Ok(T::default()) } else { Err(error) })
}

/// Numbers among the names of a directory of /proc.
fn numbers(path: &str) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(found)
}

/// The processes that watch one of these sockets with an epoll: sockets that nobody watches any more.
/// A watch names its file's inode in fdinfo (`ep_show_fdinfo`, fs/eventpoll.c).
///
/// # Errors
/// It can't be told now: a process of the tree could not be looked into.
pub(super) fn unwatched(mut sockets: BTreeSet<u64>) -> io::Result<BTreeSet<u64>> {
    for pid in tree()? {
        for fd in look_alive(pid, numbers(&format!("/proc/{pid}/fd")))? {
            if sockets.is_empty() {
                return Ok(sockets);
            }
            for socket in watched(pid, fd)? {
                sockets.remove(&socket);
            }
        }
    }
    Ok(sockets)
}

/// The inodes that a descriptor watches, if it is an epoll's.
///
/// # Errors
/// As [`unwatched`].
pub(super) fn watched(pid: i32, fd: i32) -> io::Result<Vec<u64>> {
    let text = look_alive(pid, std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")))?;
    let inode = |line: &str| {
        let (_, rest) = line.strip_prefix("tfd:")?.split_once(" ino:")?;
        u64::from_str_radix(rest.split(' ').next()?, 16).ok()
    };
    Ok(text.lines().filter_map(inode).collect())
}

/// Nothing of a process that has ended, or of a descriptor that was closed meanwhile. Unlike
/// [`look`], a process that is not ours to look into is an error: it may watch anything.
fn look_alive<T: Default>(pid: i32, result: io::Result<T>) -> io::Result<T> {
    let gone = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
            || std::fs::read(format!("/proc/{pid}/stat")).map_or(true, |stat| {
                state(&String::from_utf8_lossy(&stat))
                    .is_none_or(|state| matches!(state, "Z" | "X"))
            })
    };
    result.or_else(|error| if gone(&error) { Ok(T::default()) } else { Err(error) })
}

/// The processes that descend from this one. Orphans among them are its own children, since it is
/// their subreaper.
fn tree() -> io::Result<Vec<i32>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in numbers("/proc")? {
        let stat = look(std::fs::read(format!("/proc/{pid}/stat")))?;
        if let Some(parent) = parent(&String::from_utf8_lossy(&stat)) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![std::process::id().cast_signed()];
    while let Some(pid) = next.pop() {
        let of = children.remove(&pid).unwrap_or_default();
        next.extend(&of);
        found.extend(of);
    }
    Ok(found)
}

/// `PID (COMM) STATE PPID ...`, where COMM may hold anything.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Its STATE.
fn state(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().next()
}

/// Takes what one of the processes holds out of `keys`.
fn keep_held(keys: &mut BTreeSet<Key>, processes: &[i32]) -> io::Result<()> {
    for &pid in processes {
        for fd in look(numbers(&format!("/proc/{pid}/fd")))? {
            if keys.is_empty() {
                return Ok(());
            }
            let Ok(inode) = inode_at(&format!("/proc/{pid}/fd/{fd}")) else { continue };
            keys.remove(&(inode, 0));
            if keys.range((inode, 1)..=(inode, u8::MAX)).next().is_some() {
                keys.remove(&(inode, look(brand_in(pid, fd))?));
            }
        }
        let text = look(std::fs::read(format!("/proc/{pid}/maps")))?;
        for mapping in maps::lines(&text) {
            keys.remove(&(mapping.inode, 0));
        }
    }
    Ok(())
}

/// The brand of another process's open file.
fn brand_in(pid: i32, fd: i32) -> io::Result<u8> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let file = rustix::process::pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty())?;
    Ok(backing::brand_of(file.as_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_from_proc_locks() {
        let inode = |minor, ino| Inode { dev: rustix::fs::makedev(0, minor), ino };
        for (line, expect) in [
            (
                "1: OFDLCK ADVISORY  READ  -1 00:01:12 4611686018427387939 4611686018427387939",
                Some((inode(1, 12), 35)),
            ),
            ("20: LEASE  ACTIVE    WRITE 31337 00:0e:32536 0 EOF", Some((inode(14, 32536), 0))),
            ("21: LEASE  BREAKING  READ  3 00:0e:32537 0 EOF", Some((inode(14, 32537), 0))),
            ("3: POSIX  ADVISORY  WRITE 77 00:0e:32535 0 EOF", None),
            ("4: OFDLCK ADVISORY  READ  -1 00:01:13 0 EOF", None),
            ("4: -> POSIX  ADVISORY  WRITE 77 00:0e:32535 0 EOF", None),
            ("5: OFDLCK", None),
            ("", None),
        ] {
            assert_eq!(mark(line), expect, "{line}");
        }
    }

    #[test]
    fn a_parent_is_read_from_stat() {
        assert_eq!(parent("12 (a) b) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (a"), None);
        assert_eq!(state("12 (a) b) S 7 12 12 0"), Some("S"));
    }

    #[test]
    fn what_an_epoll_watches_is_read_from_fdinfo() {
        use rustix::event::epoll;
        let own = std::process::id().cast_signed();
        let ends = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&ends);
        assert!(watched(own, fd).unwrap().is_empty());
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let data = epoll::EventData::new_u64(1);
        epoll::add(&ends, &socket, data, epoll::EventFlags::IN).unwrap();
        assert_eq!(watched(own, fd).unwrap(), [rustix::fs::fstat(&socket).unwrap().st_ino]);
    }

    /// A mark that a program has taken off its own file is not the file's end.
    #[test]
    fn who_holds_a_file_is_found_without_its_mark() {
        let file = backing::memfd("held").unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let key = (Inode { dev: stat.st_dev, ino: stat.st_ino }, 0);
        let own = [std::process::id().cast_signed()];
        let mut keys = BTreeSet::from([key]);
        keep_held(&mut keys, &own).unwrap();
        assert!(keys.is_empty(), "open");
        drop(file);
        keys.insert(key);
        keep_held(&mut keys, &own).unwrap();
        assert_eq!(keys.len(), 1, "closed");
    }
}
