//! Buffers of exporters that are not heaps: udmabuf over a fresh memfd, vgem's through prime.

use super::kit::{close, ioctl, open, page_size};
use crate::sys::raw::{R, call, ptr};

const UDMABUF_CREATE: u64 = 0x4018_7542;
const DRM_IOCTL_VERSION: u64 = 0xc040_6400;
const DRM_IOCTL_MODE_CREATE_DUMB: u64 = 0xc020_64b2;
const DRM_IOCTL_PRIME_HANDLE_TO_FD: u64 = 0xc00c_642d;

/// A buffer of `len` bytes, rounded up to pages. Only vgem asks for an access mode.
pub(crate) fn buffer(exporter: &str, len: u64, fd_flags: u32) -> R {
    let pages = len.div_ceil(page_size());
    match exporter {
        "udmabuf" => udmabuf(pages, fd_flags),
        "vgem" => vgem(pages, fd_flags),
        _ => Err(libc::ENODEV),
    }
}

fn udmabuf(pages: u64, fd_flags: u32) -> R {
    let mut label = *b"u\0";
    let memfd = call(libc::SYS_memfd_create, &[ptr(&mut label), 3])? as u64;
    call(libc::SYS_ftruncate, &[memfd, pages * page_size()])?;
    call(libc::SYS_fcntl, &[memfd, libc::F_ADD_SEALS as u64, libc::F_SEAL_SHRINK as u64])?;
    let device = open("/dev/udmabuf", libc::O_RDWR | libc::O_CLOEXEC)? as u64;
    let cloexec = u64::from(fd_flags & libc::O_CLOEXEC as u32 != 0);
    // struct udmabuf_create: memfd and flags in one word, offset, size.
    let mut create = [memfd | cloexec << 32, 0, pages * page_size()];
    let fd = ioctl(device, UDMABUF_CREATE, &mut create);
    let _ = close(device);
    let _ = close(memfd);
    fd
}

/// The card of vgem, among those of other drivers.
fn card() -> R {
    for number in 0..16 {
        let Ok(fd) = open(&format!("/dev/dri/card{number}"), libc::O_RDWR | libc::O_CLOEXEC) else {
            continue;
        };
        let mut name = [0_u8; 16];
        // struct drm_version: three words, then (len, pointer) of name, date and description.
        let mut version = [0, 0, 15, ptr(&mut name), 0, 0, 0, 0];
        if ioctl(fd as u64, DRM_IOCTL_VERSION, &mut version).is_ok() && name.starts_with(b"vgem") {
            return Ok(fd);
        }
        let _ = close(fd as u64);
    }
    Err(libc::ENODEV)
}

fn vgem(pages: u64, fd_flags: u32) -> R {
    let card = card()? as u64;
    // struct drm_mode_create_dumb: height, width, bpp, flags, handle, pitch, size.
    let mut create = [1, (pages * page_size() / 4) as u32, 32, 0, 0, 0, 0, 0];
    ioctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &mut create)?;
    // struct drm_prime_handle: handle, flags, fd. DRM_CLOEXEC and DRM_RDWR are O_CLOEXEC, O_RDWR.
    let mut prime = [create[4], fd_flags & (libc::O_CLOEXEC | libc::O_RDWR) as u32, u32::MAX];
    let result = ioctl(card, DRM_IOCTL_PRIME_HANDLE_TO_FD, &mut prime);
    let _ = close(card);
    result.map(|_| i64::from(prime[2]))
}
