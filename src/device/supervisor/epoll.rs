//! epoll_ctl on a dma-buf.
//!
//! The file behind a buffer has no poll operation, so the kernel answers EPERM. Instead a socket
//! that is as ready as the buffer is registered, under the caller's own event data.
//!
//! A socket is let go with its buffer, by EPOLL_CTL_DEL, or when no process has an epoll any more that
//! watches it: the kernel keeps a watch as long as both files live, and counts it against its user.
//! (An epoll that is nowhere but in a message to another process loses its watches.)

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{Decision, Supervisor, caller, int, life, lock};
use crate::device::{BufferId, Object};
use crate::sys::notify::Call;

/// Most registrations at once; the next one is answered ENOSPC, as past max_user_watches.
const PROXIES_MAX: usize = 1024;

/// A socket that stands for a buffer in one epoll instance.
#[derive(Debug)]
struct Proxy {
    socket: OwnedFd,
    peer: OwnedFd,
    /// What fdinfo of an epoll calls the socket.
    inode: u64,
    buffer: BufferId,
    ready: (bool, bool),
}

/// Proxies by process, epoll descriptor and buffer descriptor.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    table: BTreeMap<(i32, i32, i32), Proxy>,
}

impl Proxy {
    fn new(buffer: BufferId) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, peer) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let inode = rustix::fs::fstat(&socket)?.st_ino;
        Ok(Self { socket, peer, inode, buffer, ready: (false, true) })
    }

    /// Makes the socket readable and writable as told.
    fn set(&mut self, ready: (bool, bool)) {
        let mut sink = [0u8; 4096];
        if ready.0 != self.ready.0 {
            if ready.0 {
                let _ = rustix::net::send(&self.peer, &[1], SendFlags::DONTWAIT);
            } else {
                let _ = rustix::net::recv(&self.socket, &mut sink, RecvFlags::DONTWAIT);
            }
        }
        if ready.1 != self.ready.1 {
            // Until the socket's buffer is full, or empty again.
            if ready.1 {
                while rustix::net::recv(&self.peer, &mut sink, RecvFlags::DONTWAIT)
                    .is_ok_and(|(got, _)| got > 0)
                {}
            } else {
                while rustix::net::send(&self.socket, &sink, SendFlags::DONTWAIT).is_ok() {}
            }
        }
        self.ready = ready;
    }
}

impl Proxies {
    /// Does something to the watch of a buffer in an epoll, whichever process has made it: a child
    /// may have inherited both. Returns which it was.
    ///
    /// # Errors
    /// ENOENT: there is no such watch. Others: those of `act`.
    fn registered(
        &self,
        (epfd, fd): (i32, i32),
        buffer: BufferId,
        act: impl Fn(&OwnedFd) -> Result<(), Errno>,
    ) -> Result<(i32, i32, i32), Errno> {
        let same = |key: &(i32, i32, i32), proxy: &Proxy| {
            (key.1, key.2) == (epfd, fd) && proxy.buffer == buffer
        };
        for (&key, proxy) in self.table.iter().filter(|(key, proxy)| same(key, proxy)) {
            match act(&proxy.socket) {
                Err(Errno::NOENT) => {}
                result => return result.map(|()| key),
            }
        }
        Err(Errno::NOENT)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Drops the sockets that no process watches any more.
    pub(super) fn sweep(&mut self) {
        let still = |(&(pid, epfd, _), proxy): (&(i32, i32, i32), &Proxy)| {
            let watched = life::watched(pid, epfd).unwrap_or_default();
            (!watched.contains(&proxy.inode)).then_some(proxy.inode)
        };
        let doubtful: BTreeSet<u64> = self.table.iter().filter_map(still).collect();
        if doubtful.is_empty() {
            return;
        }
        // What can't be told now is told by a later sweep.
        let unwatched = life::unwatched(doubtful).unwrap_or_default();
        self.table.retain(|_, proxy| !unwatched.contains(&proxy.inode));
    }
}

impl Supervisor {
    pub(super) fn epoll_ctl(&mut self, call: &Call) -> Decision {
        let [epfd, op, fd, event, ..] = call.args;
        let Some((Object::Buffer(buffer), _)) = self.object(call.tid, int(fd)) else {
            return Decision::Native;
        };
        self.epoll_ctl_buffer(call, (int(epfd), int(fd)), int(op), event, buffer).into()
    }

    fn epoll_ctl_buffer(
        &mut self,
        call: &Call,
        (epfd, fd): (i32, i32),
        op: i32,
        event: u64,
        buffer: BufferId,
    ) -> Result<Decision, Errno> {
        let epoll = self.callers.file(call.tid, epfd)?;
        if op == libc::EPOLL_CTL_DEL {
            let key = self
                .epolls
                .registered((epfd, fd), buffer, |socket| epoll::delete(&epoll, socket))?;
            self.epolls.table.remove(&key);
            return Ok(Decision::Value(0));
        }
        // struct epoll_event: events u32, data u64 at its end; packed on x86-64 alone.
        let size = size_of::<libc::epoll_event>();
        let bytes = caller::read(call.tid, event, size)?;
        let (Some(events), Some(data)) = (bytes.first_chunk(), bytes.last_chunk()) else {
            return Err(Errno::FAULT);
        };
        let flags = epoll::EventFlags::from_bits_retain(u32::from_ne_bytes(*events));
        let data = epoll::EventData::new_u64(u64::from_ne_bytes(*data));
        match op {
            libc::EPOLL_CTL_MOD => {
                self.epolls.registered((epfd, fd), buffer, |socket| {
                    epoll::modify(&epoll, socket, data, flags)
                })?;
            }
            libc::EPOLL_CTL_ADD => {
                let key = (caller::tgid(call.tid).ok_or(Errno::SRCH)?, epfd, fd);
                if let Some(proxy) = self.epolls.table.get(&key)
                    && proxy.buffer == buffer
                {
                    epoll::add(&epoll, &proxy.socket, data, flags)?;
                    return Ok(Decision::Value(0));
                }
                if self.epolls.table.len() >= PROXIES_MAX {
                    self.epolls.sweep();
                }
                if self.epolls.table.len() >= PROXIES_MAX {
                    return Err(Errno::NOSPC);
                }
                let mut proxy = Proxy::new(buffer)?;
                proxy.set(self.readiness(buffer));
                epoll::add(&epoll, proxy.socket.as_fd(), data, flags)?;
                self.epolls.table.insert(key, proxy);
            }
            _ => return Err(Errno::INVAL),
        }
        Ok(Decision::Value(0))
    }

    fn readiness(&self, buffer: BufferId) -> (bool, bool) {
        let shared = lock(&self.shared);
        let device = &shared.device;
        device.buffer(buffer).map_or((true, true), |buffer| buffer.readiness(device.fences()))
    }

    /// Brings the proxies up to date and drops those whose buffer is gone.
    pub(super) fn refresh_epolls(&mut self) {
        if self.epolls.table.is_empty() {
            return;
        }
        let shared = lock(&self.shared);
        let device = &shared.device;
        self.epolls.table.retain(|_, proxy| match device.buffer(proxy.buffer) {
            Some(buffer) => {
                proxy.set(buffer.readiness(device.fences()));
                true
            }
            None => false,
        });
    }
}
