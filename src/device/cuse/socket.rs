//! The memory behind a handle, as a descriptor: what a character device of user space can't give.
//!
//! The server listens on an abstract Unix seqpacket socket, `@driftheap/NAME` for the node
//! /dev/NAME. A client sends four bytes, the handle, and gets four: 0 with the descriptor of the
//! buffer's memory (SCM_RIGHTS), or an errno. Only root and the user who made the handle get it, by
//! SO_PEERCRED; who made none is not heard.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use super::heap_node::NodeState;
use super::node::Name;
use crate::device::transport::lock;

/// A client or server that takes longer is given up.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Clients that may wait for the one being served.
const BACKLOG: i32 = 64;

/// The socket of one node, until the process ends.
#[derive(Debug)]
pub struct HandleSocket;

impl HandleSocket {
    /// Serves the handles of `state` from a thread of its own.
    ///
    /// # Errors
    /// EADDRINUSE: another server of that name in this network namespace.
    pub fn serve(name: &Name, state: Arc<Mutex<NodeState>>) -> io::Result<Self> {
        let listener = socket()?;
        net::bind(&listener, &address(&name.to_string())?)?;
        net::listen(&listener, BACKLOG)?;
        std::thread::Builder::new().name("handles".into()).spawn(move || {
            loop {
                match net::accept_with(&listener, SocketFlags::CLOEXEC) {
                    // A client that is slow or gone concerns nobody else.
                    Ok(client) => drop(answer(&client, &state)),
                    Err(Errno::INTR | Errno::CONNABORTED) => {}
                    // Out of descriptors: the next one may find some again.
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        })?;
        Ok(Self)
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn address(name: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new_abstract_name(format!("driftheap/{name}").as_bytes())
}

fn bound_waits(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(WAIT_MAX))?;
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, Some(WAIT_MAX))
}

fn answer(client: &OwnedFd, state: &Mutex<NodeState>) -> Result<(), Errno> {
    let uid = sockopt::socket_peercred(client)?.uid.as_raw();
    // Nobody who has nothing to ask for may keep the others waiting.
    if !lock(state).has_handles_for(uid) {
        return Err(Errno::ACCESS);
    }
    bound_waits(client)?;
    let mut question = [0; 4];
    let (len, _) = net::recv(client, &mut question, RecvFlags::empty())?;
    let whole = if len == 4 { Ok(u32::from_ne_bytes(question)) } else { Err(Errno::INVAL) };
    let memory = whole.and_then(|handle| lock(state).memory(handle, uid));
    let errno = memory.as_ref().err().map_or(0, |errno| errno.raw_os_error());
    let fds: Vec<_> = memory.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let bytes = errno.to_ne_bytes();
    net::sendmsg(client, &[io::IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// The memory behind `handle` of the node at `path`, to be mapped.
///
/// # Errors
/// EBADF: no such handle, or not this user's. ECONNRESET or EPIPE: no handle is this user's. ECONNREFUSED: no server of that node in this
/// network namespace. EPROTO: the server answered something else.
pub fn memory_of(path: &Path, handle: u32) -> io::Result<OwnedFd> {
    let name = path.strip_prefix("/dev").unwrap_or(path).to_string_lossy();
    let server = socket()?;
    bound_waits(&server)?;
    net::connect(&server, &address(&name)?)?;
    net::send(&server, &handle.to_ne_bytes(), SendFlags::NOSIGNAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut errno = [0; 4];
    let got = {
        let mut into = [io::IoSliceMut::new(&mut errno)];
        net::recvmsg(&server, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes
    };
    let memory = control.drain().find_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message { fds.next() } else { None }
    });
    match (got, i32::from_ne_bytes(errno), memory) {
        (4, 0, Some(memory)) => Ok(memory),
        (4, errno @ 1.., _) => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(Errno::PROTO.into()),
    }
}
