//! Which path names belong to the device.
//!
//! Names are compared after the lexical normalisation of `.`, `..` and repeated slashes. Symbolic
//! links that lead to /dev/dma_heap from elsewhere are not followed: a program that goes through
//! one sees the host.

use super::{Device, HeapId};

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceNode {
    /// /dev/dma_heap.
    Directory,
    /// /dev/dma_heap/NAME.
    Heap(HeapId),
    /// /dev/udmabuf.
    Udmabuf,
    /// /sys/kernel/debug/sync/sw_sync.
    SwSync,
    /// A path that goes on behind one of the devices, as behind a directory: `/dev/udmabuf/`.
    Behind {
        /// It goes on with slashes alone.
        slashes: bool,
    },
    /// /proc/PID/fdinfo/FD; `None` for self.
    FdInfo {
        /// Whose.
        pid: Option<i32>,
        /// Which descriptor.
        fd: i32,
    },
    /// /proc/PID/fd/FD, also as /dev/fd/FD.
    FdLink {
        /// Whose; `None` for self.
        pid: Option<i32>,
        /// Which descriptor.
        fd: i32,
    },
}

/// Longest path that is looked at (PATH_MAX).
pub const PATH_MAX: usize = 4096;

const DIRECTORY: &[u8] = b"dma_heap";

/// Takes the next component of a path: nothing for `.`, and one back for `..`.
fn walk<'a>(parts: &mut Vec<&'a [u8]>, part: &'a [u8]) {
    match part {
        b"" | b"." => {}
        b".." => drop(parts.pop()),
        part => parts.push(part),
    }
}

fn number(text: &[u8]) -> Option<i32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Device {
    /// What the absolute path `path` names, if it is ours.
    pub fn node(&self, path: &[u8]) -> Option<DeviceNode> {
        if path.first() != Some(&b'/') || path.len() > PATH_MAX {
            return None;
        }
        let (mut parts, mut slashes) = (Vec::new(), false);
        for part in path.split(|&byte| byte == b'/') {
            if self.device_at(&parts).is_some() {
                // Nothing behind it is anything, whatever `..` would make of it.
                slashes = part.is_empty();
                if !slashes {
                    return Some(DeviceNode::Behind { slashes });
                }
            }
            walk(&mut parts, part);
        }
        if slashes { Some(DeviceNode::Behind { slashes }) } else { self.node_at(&parts) }
    }

    /// The device that these components name.
    fn device_at(&self, parts: &[&[u8]]) -> Option<DeviceNode> {
        self.node_at(parts).filter(|node| {
            matches!(node, DeviceNode::Heap(_) | DeviceNode::Udmabuf | DeviceNode::SwSync)
        })
    }

    fn node_at(&self, parts: &[&[u8]]) -> Option<DeviceNode> {
        match parts {
            [b"dev", b"udmabuf"] => Some(DeviceNode::Udmabuf),
            [b"dev", DIRECTORY] => Some(DeviceNode::Directory),
            [b"dev", DIRECTORY, name] => {
                self.heap(std::str::from_utf8(name).ok()?).map(DeviceNode::Heap)
            }
            [b"sys", b"kernel", b"debug", b"sync", b"sw_sync"] => Some(DeviceNode::SwSync),
            [b"dev", b"fd", fd] => number(fd).map(|fd| DeviceNode::FdLink { pid: None, fd }),
            // Links of every /dev.
            [b"dev", b"stdin"] => Some(DeviceNode::FdLink { pid: None, fd: 0 }),
            [b"dev", b"stdout"] => Some(DeviceNode::FdLink { pid: None, fd: 1 }),
            [b"dev", b"stderr"] => Some(DeviceNode::FdLink { pid: None, fd: 2 }),
            [b"proc", who, rest @ ..] => proc_node(who, rest),
            _ => None,
        }
    }

    /// Whether a path could be ours, from its text alone: spares looking up what a relative path
    /// is relative to. `in_directory` says that it is relative to our own /dev/dma_heap.
    pub fn may_be_ours(&self, path: &[u8]) -> bool {
        let Some(last) = path.rsplit(|&byte| byte == b'/').find(|part| !part.is_empty()) else {
            return false;
        };
        match path.first() {
            Some(b'/') => {
                let roots: [&[u8]; 3] = [b"dev", b"sys", b"proc"];
                let first = path.split(|&byte| byte == b'/').find(|part| !part.is_empty());
                let dots = last.starts_with(b".") || path.windows(2).any(|pair| pair == b"/.");
                dots || first.is_some_and(|first| roots.contains(&first))
            }
            Some(_) => {
                let names: [&[u8]; 5] = [DIRECTORY, b"udmabuf", b"sw_sync", b".", b".."];
                names.contains(&last)
                    || number(last).is_some()
                    || self.heaps().iter().any(|heap| heap.name.as_bytes() == last)
            }
            None => false,
        }
    }
}

fn proc_node(who: &[u8], rest: &[&[u8]]) -> Option<DeviceNode> {
    let pid = match who {
        b"self" | b"thread-self" => None,
        digits => Some(number(digits)?),
    };
    match rest {
        [b"fdinfo", fd] => number(fd).map(|fd| DeviceNode::FdInfo { pid, fd }),
        [b"fd", fd] => number(fd).map(|fd| DeviceNode::FdLink { pid, fd }),
        [b"task", tid, rest @ ..] => proc_node(tid, rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{HeapConfig, Limits};

    #[test]
    fn nodes() {
        let heaps = vec![HeapConfig::new("system"), HeapConfig::new("cma")];
        let device = Device::new(heaps, Limits::default());
        for (path, expect) in [
            ("/dev/dma_heap", Some(DeviceNode::Directory)),
            ("/dev/dma_heap/", Some(DeviceNode::Directory)),
            ("//dev/./dma_heap//system", Some(DeviceNode::Heap(HeapId(0)))),
            ("/dev/../dev/dma_heap/cma", Some(DeviceNode::Heap(HeapId(1)))),
            ("/dev/dma_heap/other", None),
            ("/dev/dma_heap/system/x", Some(DeviceNode::Behind { slashes: false })),
            ("/dev/dma_heap/system/.", Some(DeviceNode::Behind { slashes: false })),
            ("/dev/dma_heap/system/../cma", Some(DeviceNode::Behind { slashes: false })),
            ("/dev/dma_heap/system//", Some(DeviceNode::Behind { slashes: true })),
            ("/dev/udmabuf/", Some(DeviceNode::Behind { slashes: true })),
            ("/sys/kernel/debug/sync/sw_sync/", Some(DeviceNode::Behind { slashes: true })),
            ("/dev/dma_heap/other/x", None),
            ("/dev/udmabuf", Some(DeviceNode::Udmabuf)),
            ("dev/udmabuf", None),
            ("", None),
            ("/", None),
            ("/..", None),
            ("/sys/kernel/debug/sync/sw_sync", Some(DeviceNode::SwSync)),
            ("/proc/self/fdinfo/7", Some(DeviceNode::FdInfo { pid: None, fd: 7 })),
            ("/proc/12/fd/7", Some(DeviceNode::FdLink { pid: Some(12), fd: 7 })),
            ("/proc/12/task/13/fd/7", Some(DeviceNode::FdLink { pid: Some(13), fd: 7 })),
            ("/proc/self/fd/-7", None),
            ("/proc/self/fd/99999999999", None),
            ("/dev/fd/3", Some(DeviceNode::FdLink { pid: None, fd: 3 })),
        ] {
            assert_eq!(device.node(path.as_bytes()), expect, "{path}");
            if expect.is_some() {
                assert!(device.may_be_ours(path.as_bytes()), "{path}");
            }
        }
        for path in ["/usr/include/stdio.h", "main.c", "/etc/ld.so.cache", ""] {
            assert!(!device.may_be_ours(path.as_bytes()), "{path}");
        }
    }
}
