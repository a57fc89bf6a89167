//! A client of a CUSE node: what makes files of the handles that its ioctls answer.

use std::sync::Mutex;

use super::kit::{close, open};
use crate::sys::raw::{R, call, ptr};

/// `_IOW('D', 0x40, int)`: makes an open file of the node what is behind a handle.
const OPEN_HANDLE: u64 = 0x4004_4440;

/// A file of the node that is a buffer or a sync file.
#[derive(Clone, Copy)]
struct Opened {
    fd: u64,
    handle: u32,
    memory: Option<u64>,
}

/// Those of this process; a row runs in a process of its own.
static OPENED: Mutex<Vec<Opened>> = Mutex::new(Vec::new());

fn find(fd: u64) -> Option<Opened> {
    let opened = OPENED.lock().ok()?;
    opened.iter().rev().find(|opened| opened.fd == fd).copied()
}

/// A descriptor for `handle`: another open of the node at `path`, made what the handle stands for.
/// A buffer has `memory` too.
pub(crate) fn opened(path: &str, handle: u32, flags: i32, memory: bool) -> R {
    let fd = open(path, flags)?;
    call(libc::SYS_ioctl, &[fd as u64, OPEN_HANDLE, u64::from(handle)])?;
    let memory = if memory { Some(memory_of(path, handle)? as u64) } else { None };
    if let Ok(mut opened) = OPENED.lock() {
        opened.push(Opened { fd: fd as u64, handle, memory });
    }
    Ok(fd)
}

/// The descriptor that is mapped where `fd` is to be; `fd` itself unless it is a node's.
pub(crate) fn memory(fd: u64) -> u64 {
    find(fd).and_then(|opened| opened.memory).unwrap_or(fd)
}

/// What names the file `fd` in an ioctl's argument: the node's server knows handles only.
pub(crate) fn number(fd: u64) -> u32 {
    find(fd).map_or(fd as u32, |opened| opened.handle)
}

/// Asks the server's socket, `@driftheap/NAME`, for the memory of a buffer.
fn memory_of(path: &str, handle: u32) -> R {
    let name = format!("\0driftheap/{}", path.strip_prefix("/dev/").unwrap_or(path));
    let mut address = libc::AF_UNIX.to_ne_bytes()[..2].to_vec();
    address.extend(name.bytes());
    let len = address.len() as u64;
    let seqpacket = (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as u64;
    let socket = call(libc::SYS_socket, &[libc::AF_UNIX as u64, seqpacket, 0])? as u64;
    call(libc::SYS_connect, &[socket, ptr(address.as_mut_slice()), len])?;
    let mut handle = handle;
    call(libc::SYS_sendto, &[socket, ptr(&mut handle), 4, 0, 0, 0])?;
    // struct msghdr with one iovec and room for a struct cmsghdr (len, level, type, descriptor).
    let (mut errno, mut control) = (0_i32, [0_u64; 3]);
    let mut iov = [ptr(&mut errno), 4];
    let mut header = [0, 0, ptr(&mut iov), 1, ptr(&mut control), 24, 0];
    let got = call(libc::SYS_recvmsg, &[socket, ptr(&mut header), 0])?;
    let _ = close(socket);
    match (got, errno, control[0]) {
        (4, 0, 20) => Ok((control[2] & 0xffff_ffff) as i64),
        (4, 1.., _) => Err(errno),
        _ => Err(libc::EPROTO),
    }
}
