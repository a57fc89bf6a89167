//! Files that stand behind dma-bufs.
//!
//! A pfnmap heap's buffer is a memfd_secret file (mm/secretmem.c): get_user_pages on its mappings
//! answers EFAULT, as on VM_PFNMAP, since `vma_is_secretmem` is refused in `check_vma_flags`. Any
//! other buffer is an ordinary memfd, whose pages anyone can pin.
//!
//! The supervisor keeps no reference to a buffer, so that its memory goes when the program's last
//! descriptor and mapping go. To know when, [`mark`] leaves a lease or a lock on the open file:
//! /proc/locks names its inode exactly as long as the open file exists.
#![allow(unsafe_code, reason = "memfd_secret(2) and F_SETSIG have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

/// Creates an empty memfd_secret file, close-on-exec.
///
/// # Errors
/// ENOSYS: CONFIG_SECRETMEM is off, or the machine was booted with secretmem.enable=0, or a
/// sandbox forbids the call.
pub fn secret() -> io::Result<OwnedFd> {
    // SAFETY: the call takes scalars only.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created this descriptor and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates an empty memfd that can be sealed, close-on-exec.
///
/// # Errors
/// EMFILE or ENFILE: the supervisor or the system is out of descriptors.
pub fn memfd(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // vm.memfd_noexec may demand an explicit choice; older kernels do not know the flag.
    Ok(rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(name, flags))?)
}

/// A memfd with fixed content.
///
/// # Errors
/// EMFILE, ENFILE: out of descriptors. ENOMEM, ENOSPC: no room for the content.
pub fn sealed(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd(name)?;
    rustix::io::write(&file, content)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Opens the file behind `fd` anew, with its own access mode and offset.
///
/// # Errors
/// ENXIO: the file can't be opened again (memfd_secret). EACCES: /proc is not mounted or hidden.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// ioctl(2) whose argument is a structure that the kernel reads, writes or both.
///
/// # Errors
/// Those of the call.
///
/// # Panics
/// If `bytes` is not as long as the command says.
pub(crate) fn ioctl_bytes(fd: BorrowedFd<'_>, cmd: u32, bytes: &mut [u8]) -> io::Result<()> {
    assert_eq!(usize::try_from(crate::uapi::ioc_size(cmd)), Ok(bytes.len()), "{cmd:#x}");
    // SAFETY: the argument is as long as the command's size, by the assertion, which is what a
    // driver that keeps to its command may touch.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), cmd.into(), bytes.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// ioctl(2) whose argument is a number.
///
/// # Errors
/// Those of the call.
pub(crate) fn ioctl_number(fd: BorrowedFd<'_>, cmd: u32, number: u32) -> io::Result<()> {
    // SAFETY: the callers' commands are of this device's own and take a number; a driver that does
    // not know them refuses them before it looks at the argument.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), cmd.into(), libc::c_ulong::from(number)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// First byte that [`mark`] locks: where no program's own locks lie.
pub const MARK_OFFSET: i64 = 1 << 62;

/// Leaves a lease on the open file itself, which /proc/locks lists until the file's last
/// descriptor, mapping and in-flight SCM_RIGHTS copy are gone. Unlike a lock it never conflicts
/// with the program's own locks. Only a regular file with one opener can have it; others get an
/// open-file-description lock. A `slot` other than 0 tells open files of one inode apart, which a
/// lease does not, and whose break would be a signal of the [`brand`]'s number.
///
/// Whoever opens a file with a lease waits until it is given up, and makes the kernel send SIGIO to
/// this process: give it up with [`mark_by_lock`].
///
/// # Errors
/// ENOLCK: the kernel has no memory for a lock.
pub fn mark(fd: BorrowedFd<'_>, writable: bool, slot: u8) -> io::Result<()> {
    // The kernel counts writers of files that were opened, not of those it made itself, so which
    // of the two leases it grants depends on where the file comes from.
    let leases: &[libc::c_int] = if slot == 0 { &[libc::F_RDLCK, libc::F_WRLCK] } else { &[] };
    for &lease in leases {
        // SAFETY: F_SETLEASE takes its argument by value; `fd` is open.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, lease) } == 0 {
            return Ok(());
        }
    }
    lock(fd, writable, slot)
}

/// Exchanges a lease of [`mark`] for a lock, which holds up nobody who opens the file anew.
///
/// # Errors
/// ENOLCK: as there. EBADF: the descriptor is for none of reading and writing.
pub fn mark_by_lock(fd: BorrowedFd<'_>) -> io::Result<()> {
    // The other mark first: the file must not be without one. A lock needs the access that it is for.
    lock(fd, true, 0).or_else(|_| lock(fd, false, 0))?;
    // SAFETY: F_SETLEASE takes its argument by value; `fd` is open.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn lock(fd: BorrowedFd<'_>, writable: bool, slot: u8) -> io::Result<()> {
    let kind = if writable { libc::F_WRLCK } else { libc::F_RDLCK };
    let lock = libc::flock {
        l_type: i16::try_from(kind).map_err(|_| io::ErrorKind::InvalidInput)?,
        l_whence: i16::try_from(libc::SEEK_SET).map_err(|_| io::ErrorKind::InvalidInput)?,
        l_start: MARK_OFFSET + i64::from(slot),
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock))?;
    Ok(())
}

/// F_SETSIG and F_GETSIG of `<asm-generic/fcntl.h>`.
const F_SETSIG: libc::c_int = 10;
const F_GETSIG: libc::c_int = 11;

/// Brand of an open file that stands for one opened with O_PATH.
pub const BRAND_PATH: u8 = 34;

/// Brand of a udmabuf whose file is its memfd, opened anew.
pub const BRAND_UDMABUF: u8 = 35;

/// Brands one open file of an inode that has several, with a real-time signal's number: a udmabuf
/// shares its inode with the memfd that it is made of. F_SETSIG is kept per open file and has no effect without O_ASYNC.
///
/// # Errors
/// EINVAL: `brand` is not a signal number.
pub fn brand(fd: BorrowedFd<'_>, brand: u8) -> io::Result<()> {
    // SAFETY: F_SETSIG takes its argument by value; `fd` is open.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, libc::c_int::from(brand)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The brand of this open file; 0 without one.
pub fn brand_of(fd: BorrowedFd<'_>) -> u8 {
    // SAFETY: F_GETSIG takes no argument; `fd` is open.
    let signal = unsafe { libc::fcntl(fd.as_raw_fd(), F_GETSIG) };
    u8::try_from(signal).unwrap_or(0)
}
