//! udmabufs whose memory is not one memfd from its first byte on: an offset, several pieces, several
//! memfds.
//!
//! Kernel counterpart: `mmap_udmabuf` (drivers/dma-buf/udmabuf.c), which maps pages that it took
//! from anywhere. A descriptor of such a buffer is an empty file here. Its mmap is made by us in the
//! calling thread ([`crate::sys::inject`]): one mmap of the right memfd for each piece.
//!
//! **Differs from Linux**: a process that can't be traced (under a debugger, not dumpable) gets
//! EACCES from that mmap, and one outside of the supervised tree maps an empty file. The mapping
//! keeps the memfds' pages, not the buffer. get_user_pages succeeds on it, as on the memfds.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::files::to_errno;
use super::{Decision, Supervisor, lock, uint};
use crate::device::buffer::MmapArgs;
use crate::device::buffer::Piece;
use crate::device::{BufferId, Inode};
use crate::sys::backing;
use crate::sys::inject::{InjectError, Seized, Stopped};
use crate::sys::notify::Call;

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const MAP_NORESERVE: u64 = 0x4000;

/// The pieces of every such buffer, and the memfds that they lie in.
#[derive(Debug, Default)]
pub(super) struct Scattered {
    pieces: BTreeMap<BufferId, Vec<Piece>>,
    memfds: BTreeMap<Inode, OwnedFd>,
}

impl Scattered {
    /// Keeps a buffer's pieces, with files of their own of the memfds.
    ///
    /// # Errors
    /// EMFILE: out of descriptors. EBADFD: a piece's memfd is not among these.
    pub(super) fn insert(
        &mut self,
        id: BufferId,
        pieces: &[Piece],
        memfds: &BTreeMap<Inode, OwnedFd>,
    ) -> Result<(), Errno> {
        self.pieces.insert(id, pieces.to_vec());
        for piece in pieces {
            if self.memfds.contains_key(&piece.inode) {
                continue;
            }
            let opened = memfds
                .get(&piece.inode)
                .ok_or(Errno::BADFD)
                .and_then(|memfd| backing::reopen(memfd.as_fd(), OFlags::RDWR).map_err(to_errno));
            match opened {
                Ok(file) => drop(self.memfds.insert(piece.inode, file)),
                Err(errno) => {
                    self.remove(id);
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    /// Forgets a buffer, and closes what no other one lies in.
    pub(super) fn remove(&mut self, id: BufferId) {
        if self.pieces.remove(&id).is_none() {
            return;
        }
        let used = |inode: &Inode| self.pieces.values().flatten().any(|p| p.inode == *inode);
        self.memfds.retain(|inode, _| used(inode));
    }

    /// The parts of the buffer's pieces in a range of its bytes; `None` for another buffer.
    fn range(&self, id: BufferId, offset: u64, len: u64) -> Option<Vec<Piece>> {
        let mut found = Vec::new();
        let mut at = 0;
        let end = offset.saturating_add(len);
        for piece in self.pieces.get(&id)? {
            let (first, last) = (offset.max(at), end.min(at + piece.size_bytes));
            if first < last {
                let offset = piece.offset + (first - at);
                found.push(Piece { offset, size_bytes: last - first, ..*piece });
            }
            at += piece.size_bytes;
        }
        Some(found)
    }
}

impl Supervisor {
    /// mmap of a udmabuf that is made of pieces; `None` for another buffer.
    pub(super) fn map_scattered(
        &mut self,
        call: &Call,
        id: BufferId,
        args: MmapArgs,
    ) -> Option<Decision> {
        let len = args.len.next_multiple_of(crate::uapi::page_size());
        let pieces = lock(&self.shared).files.scattered.range(id, args.offset, len)?;
        let seized = match Seized::new(call.tid) {
            Ok(seized) => seized,
            Err(error) => {
                self.say_unmapped(call, &error);
                return Some(Decision::Fail(Errno::ACCESS));
            }
        };
        let lent = match self.lend(call, &pieces) {
            Ok(lent) => lent,
            Err(errno) => {
                drop(self.listener.reply(call.id, Err(errno)));
                seized.release();
                return Some(Decision::Sent);
            }
        };
        // The thread leaves its call and stops; should it not stop, it shall not believe in a
        // mapping.
        drop(self.listener.reply(call.id, Err(Errno::NOMEM)));
        let mut thread = match seized.stopped() {
            Ok(thread) => thread,
            Err(error) => {
                self.say_unmapped(call, &error);
                return Some(Decision::Sent);
            }
        };
        let mapped = MapRequest { cookie: self.cookie, call, len }.map(&mut thread, &pieces, &lent);
        for fd in lent.values() {
            let fd = u64::from(fd.cast_unsigned());
            let _ = thread.call(libc::SYS_close, [fd, 0, 0, 0, 0, 0]);
        }
        match mapped {
            Ok(result) => {
                let _ = thread.finish(result);
            }
            Err(error) => {
                self.say_unmapped(call, &error);
                let _ = thread.finish(Err(Errno::NOMEM));
            }
        }
        Some(Decision::Sent)
    }

    /// Gives the caller a descriptor of each memfd, for as long as it takes to map them.
    fn lend(&self, call: &Call, pieces: &[Piece]) -> Result<BTreeMap<Inode, i32>, Errno> {
        let shared = lock(&self.shared);
        let mut lent = BTreeMap::new();
        for piece in pieces {
            if lent.contains_key(&piece.inode) {
                continue;
            }
            let file = shared.files.scattered.memfds.get(&piece.inode).ok_or(Errno::BADFD)?;
            let fd = self.listener.add_fd(call.id, file.as_fd(), true, false).map_err(to_errno)?;
            lent.insert(piece.inode, fd);
        }
        Ok(lent)
    }

    fn say_unmapped(&self, call: &Call, error: &InjectError) {
        if !self.quiet && *error != InjectError::Gone {
            super::say!(
                "driftheap: thread {} could not map a udmabuf that has an offset or several \
                 pieces: {error}",
                call.tid
            );
        }
    }
}

/// Where a mapping goes.
struct MapRequest<'a> {
    cookie: u32,
    call: &'a Call,
    len: u64,
}

impl MapRequest<'_> {
    /// One mmap a piece, in a range that the first of them, or a reservation, has found.
    fn map(
        &self,
        thread: &mut Stopped,
        pieces: &[Piece],
        lent: &BTreeMap<Inode, i32>,
    ) -> Result<Result<u64, Errno>, InjectError> {
        let [addr, _, prot, flags, ..] = self.call.args;
        let fd = |piece: &Piece| lent.get(&piece.inode).map_or(u32::MAX, |fd| fd.cast_unsigned());
        if let [piece] = pieces {
            let args = [addr, self.len, prot, flags, self.marked(fd(piece)), piece.offset];
            return thread.call(libc::SYS_mmap, args);
        }
        let reserve = flags & !MAP_TYPE | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        let args = [addr, self.len, 0, reserve, self.marked(u32::MAX), 0];
        let start = match thread.call(libc::SYS_mmap, args)? {
            Ok(start) => start,
            Err(errno) => return Ok(Err(errno)),
        };
        let kept = u64::from(uint(flags)) & !(MAP_TYPE | MAP_FIXED_NOREPLACE);
        let mut at = start;
        for piece in pieces {
            let flags = kept | MAP_SHARED | MAP_FIXED;
            let args = [at, piece.size_bytes, prot, flags, self.marked(fd(piece)), piece.offset];
            if let Err(errno) = thread.call(libc::SYS_mmap, args)? {
                let _ = thread.call(libc::SYS_munmap, [start, self.len, 0, 0, 0, 0])?;
                return Ok(Err(errno));
            }
            at += piece.size_bytes;
        }
        Ok(Ok(start))
    }

    /// A descriptor as an argument that the filter lets through: the kernel reads 32 bits of it.
    fn marked(&self, fd: u32) -> u64 {
        u64::from(fd) | u64::from(self.cookie) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_out_of_the_pieces() {
        let inode = |ino| Inode { dev: 1, ino };
        let piece = |ino, offset, size_bytes| Piece { inode: inode(ino), offset, size_bytes };
        let id = BufferId(1);
        let mut scattered = Scattered::default();
        scattered.pieces.insert(id, vec![piece(1, 8192, 4096), piece(2, 0, 8192)]);
        let range = |offset, len| scattered.range(id, offset, len).unwrap();
        assert_eq!(range(0, 12288), [piece(1, 8192, 4096), piece(2, 0, 8192)]);
        assert_eq!(range(4096, 4096), [piece(2, 0, 4096)]);
        assert_eq!(range(8192, 4096), [piece(2, 4096, 4096)]);
        assert_eq!(range(0, 8192), [piece(1, 8192, 4096), piece(2, 0, 4096)]);
        assert_eq!(scattered.range(BufferId(2), 0, 4096), None);
    }
}
