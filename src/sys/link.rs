//! A link between two processes: a seqpacket socket pair for small messages with fds.
//!
//! Messages keep their boundaries, fds arrive close-on-exec, the peer's death is an error and not
//! a signal. For the fast path use a [`mailbox`](super::mailbox); the link carries what a mailbox
//! can't, fds, and sets one up.

#![allow(unsafe_code, reason = "takes over an fd that exec passed by number")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::{Errno, FdFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::uffd::poll_in;

/// The most fds that a message carries.
pub const MAX_FDS: usize = 16;

/// Why a message was not sent or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer closed its end or died.
    #[error("the process at the other end is gone")]
    PeerDied,
    /// Nothing arrived in time.
    #[error("no message in time from the process at the other end")]
    TimedOut,
    /// The peer does not read: the socket's buffer is full (EAGAIN).
    #[error("the process at the other end does not read its messages (EAGAIN)")]
    Full,
    /// EMFILE, ENFILE, ETOOMANYREFS, or fds were dropped on arrival.
    #[error("no file descriptor left for the message: raise `ulimit -n`")]
    NoFd,
    /// The message did not fit: a bug of either end.
    #[error("the message is longer than its reader expects")]
    TooLong,
    /// This process was not started with a link.
    #[error("this process was not started by driftheap: it has no inherited socket")]
    NotInherited,
    /// Anything else.
    #[error("the link answered {0}")]
    Other(Errno),
}

impl LinkError {
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::PeerDied,
            Errno::AGAIN => Self::Full,
            Errno::MFILE | Errno::NFILE | Errno::TOOMANYREFS => Self::NoFd,
            Errno::MSGSIZE => Self::TooLong,
            other => Self::Other(other),
        }
    }
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
}

impl Link {
    /// A new link's two ends, both close-on-exec.
    ///
    /// # Errors
    /// [`LinkError::NoFd`].
    pub fn pair() -> Result<(Self, Self), LinkError> {
        let kind = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, kind.0, kind.1, None)
            .map_err(LinkError::of)?;
        Ok((Self { fd: a }, Self { fd: b }))
    }

    /// Takes over an end that arrived over another link.
    ///
    /// # Errors
    /// [`LinkError::Other`]: it is not a seqpacket socket.
    pub fn adopt(fd: OwnedFd) -> Result<Self, LinkError> {
        match rustix::net::sockopt::socket_type(&fd) {
            Ok(SocketType::SEQPACKET) => Ok(Self { fd }),
            Ok(_) => Err(LinkError::Other(Errno::PROTOTYPE)),
            Err(errno) => Err(LinkError::Other(errno)),
        }
    }

    /// Connects to a [`Listener`]'s path.
    ///
    /// # Errors
    /// [`LinkError::Other`] as connect(2) answers: ENOENT, ECONNREFUSED, EACCES.
    pub fn connect(path: &Path) -> Result<Self, LinkError> {
        let fd = seqpacket().map_err(LinkError::of)?;
        let address = SocketAddrUnix::new(path).map_err(LinkError::of)?;
        rustix::net::connect(&fd, &address).map_err(LinkError::Other)?;
        Ok(Self { fd })
    }

    /// Process and user at the other end, as they were when it connected (SO_PEERCRED).
    ///
    /// # Errors
    /// [`LinkError::Other`].
    pub fn peer(&self) -> Result<(i32, u32), LinkError> {
        let cred = rustix::net::sockopt::socket_peercred(&self.fd).map_err(LinkError::of)?;
        Ok((cred.pid.as_raw_nonzero().get(), cred.uid.as_raw()))
    }

    /// Ends the connection for both ends, whoever else holds the fd.
    pub fn shutdown(&self) {
        // It may be over already.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }

    /// Takes over an end that exec left open, once: it must be a seqpacket socket that is not
    /// close-on-exec, and becomes so.
    pub(super) fn from_inherited(number: RawFd) -> Result<Self, LinkError> {
        // SAFETY: only borrowed for the checks below, which fail on a closed fd.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let flags = rustix::io::fcntl_getfd(fd).map_err(|_| LinkError::NotInherited)?;
        let kind = rustix::net::sockopt::socket_type(fd).map_err(|_| LinkError::NotInherited)?;
        if kind != SocketType::SEQPACKET || flags.contains(FdFlags::CLOEXEC) {
            return Err(LinkError::NotInherited);
        }
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(LinkError::of)?;
        // SAFETY: everything this program opens is close-on-exec, so an fd that is not came from
        // exec and has no other owner; from now on it is close-on-exec and refused above.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(number) } })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`LinkError::Full`] rather than waiting for a peer that does not read.
    ///
    /// # Panics
    /// On an empty message or more than [`MAX_FDS`] fds.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        assert!(!bytes.is_empty() && fds.len() <= MAX_FDS, "an empty message reads as an end");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let pushed = control.push(SendAncillaryMessage::ScmRights(fds));
            assert!(pushed, "the space is for MAX_FDS");
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let slices = [IoSlice::new(bytes)];
        loop {
            match rustix::net::sendmsg(&self.fd, &slices, &mut control, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(LinkError::of(errno)),
            }
        }
    }

    /// Receives one message: how many bytes of `into` it filled, and its fds.
    ///
    /// # Errors
    /// [`LinkError::TimedOut`], [`LinkError::PeerDied`], [`LinkError::TooLong`].
    pub fn receive(
        &self,
        into: &mut [u8],
        timeout: Duration,
    ) -> Result<(usize, Vec<OwnedFd>), LinkError> {
        if !poll_in(&self.fd, timeout).map_err(LinkError::of)? {
            return Err(LinkError::TimedOut);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut slices = [IoSliceMut::new(into)];
        let message = loop {
            match rustix::net::recvmsg(&self.fd, &mut slices, &mut control, flags) {
                Ok(message) => break message,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(LinkError::TimedOut),
                Err(errno) => return Err(LinkError::of(errno)),
            }
        };
        let mut fds = Vec::new();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
                fds.extend(rights);
            }
        }
        if message.bytes == 0 {
            return Err(LinkError::PeerDied);
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(LinkError::TooLong);
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(LinkError::NoFd);
        }
        Ok((message.bytes, fds))
    }
}

fn seqpacket() -> Result<OwnedFd, Errno> {
    let kind = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    rustix::net::socket_with(AddressFamily::UNIX, kind.0, kind.1, None)
}

/// A path at which links are accepted; removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at a path that does not exist yet, mode 0600.
    ///
    /// # Errors
    /// [`LinkError::Other`] as bind(2) answers: EADDRINUSE if the path exists, EACCES.
    pub fn bind(path: &Path) -> Result<Self, LinkError> {
        const BACKLOG: i32 = 16;
        let fd = seqpacket().map_err(LinkError::of)?;
        let address = SocketAddrUnix::new(path).map_err(LinkError::of)?;
        // So that the socket never exists with more than mode 0600.
        let before = rustix::process::umask(Mode::from_bits_retain(0o177));
        let bound = rustix::net::bind(&fd, &address);
        rustix::process::umask(before);
        bound.map_err(LinkError::Other)?;
        rustix::net::listen(&fd, BACKLOG).map_err(LinkError::of)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Waits for the next peer.
    ///
    /// # Errors
    /// [`LinkError::NoFd`], [`LinkError::TimedOut`].
    pub fn accept(&self, timeout: Duration) -> Result<Link, LinkError> {
        if !poll_in(&self.fd, timeout).map_err(LinkError::of)? {
            return Err(LinkError::TimedOut);
        }
        match rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC) {
            Ok(fd) => Ok(Link { fd }),
            Err(errno) => Err(LinkError::of(errno)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody else may have removed it, which is as good.
        let _ = rustix::fs::unlink(&self.path);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
