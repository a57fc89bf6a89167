//! Who has a buffer open or mapped, by process.

use std::collections::BTreeMap;

use super::watch::is_exporter;
use crate::device::Inode;
use crate::device::holders::number;
use crate::device::maps::mappings;
use crate::device::transport::inode_at;

/// A process that has a buffer open or mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Process.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its descriptors of the buffer.
    pub fds: Vec<i32>,
    /// Its mappings of the buffer, by address.
    pub maps: Vec<Mapped>,
}

/// A mapping of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// First address.
    pub start: u64,
    /// Where in the buffer, bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// PROT_WRITE.
    pub writes: bool,
}

/// Who has each of `inodes` open or mapped, by process; driftheap itself is left out. No file system
/// is asked anew, so that a dead one does not hold us up.
pub fn users(inodes: &[Inode]) -> BTreeMap<Inode, Vec<User>> {
    let mut found: BTreeMap<Inode, Vec<User>> = BTreeMap::new();
    let Ok(processes) = std::fs::read_dir("/proc") else { return found };
    for pid in processes.flatten().filter_map(|entry| number(&entry)) {
        let mut of: BTreeMap<Inode, User> = BTreeMap::new();
        let new = || User { pid, comm: String::new(), fds: Vec::new(), maps: Vec::new() };
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for fd in fds.filter_map(|entry| number(&entry)) {
            let Ok(inode) = inode_at(&format!("/proc/{pid}/fd/{fd}")) else { continue };
            if inodes.contains(&inode) {
                of.entry(inode).or_insert_with(new).fds.push(fd);
            }
        }
        for mapping in mappings(pid).into_iter().filter(|one| inodes.contains(&one.inode)) {
            of.entry(mapping.inode).or_insert_with(new).maps.push(Mapped {
                start: mapping.start,
                offset: mapping.offset,
                len: mapping.end - mapping.start,
                writes: mapping.prot & PROT_WRITE != 0,
            });
        }
        if of.is_empty() || is_exporter(pid) {
            continue;
        }
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        for (inode, user) in of {
            found.entry(inode).or_default().push(User { comm: comm.trim_end().to_owned(), ..user });
        }
    }
    found
}

const PROT_WRITE: u32 = 2;
