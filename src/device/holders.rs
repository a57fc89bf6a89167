//! Who holds a buffer: every descriptor of every process that we may look into.
//!
//! The kernel keeps a file's reference count to itself, so `count` in bufinfo is what a walk
//! through /proc finds. A mapping without a descriptor, a descriptor on its way through a socket
//! and a process of another user are not counted.

use std::collections::BTreeMap;

use super::buffer::Inode;
use super::transport::inode_at;

/// One descriptor of a buffer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Holder {
    /// Process.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Descriptor number.
    pub fd: i32,
}

/// The descriptors of each of `inodes`.
pub fn holders(inodes: &[Inode]) -> BTreeMap<Inode, Vec<Holder>> {
    let mut found: BTreeMap<Inode, Vec<Holder>> = BTreeMap::new();
    let Ok(processes) = std::fs::read_dir("/proc") else { return found };
    for pid in processes.flatten().filter_map(|entry| number(&entry)) {
        let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for fd in fds.flatten().filter_map(|entry| number(&entry)) {
            let Ok(inode) = inode_at(&format!("/proc/{pid}/fd/{fd}")) else { continue };
            if inodes.contains(&inode) {
                let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
                let comm = comm.unwrap_or_default().trim_end().to_owned();
                found.entry(inode).or_default().push(Holder { pid, comm, fd });
            }
        }
    }
    found
}

/// An entry of /proc that is a number.
pub(super) fn number(entry: &std::fs::DirEntry) -> Option<i32> {
    entry.file_name().to_str()?.parse().ok()
}
