//! Probes of the kernel's pins.

use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::super::arena::{Arena, PageKind};
use super::super::map::{Prot, Sharing, Window};
use super::super::page::{FrameIndex, page_bytes};
use super::super::pin::{DirectFile, UringPin, VmsplicePin};
use super::super::touch::Touch;
use super::{Lacks, Probe, lacks, setting};

/// Far longer than a transfer of a few bytes through a pipe takes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A window on one frame that holds 0x5A.
fn page() -> Result<(Arena, Window), Lacks> {
    let arena = Arena::create(1, PageKind::Base)?;
    arena.fill(FrameIndex(0), 0x5A)?;
    let window = Window::reserve(1)?;
    window.map(0, &arena, FrameIndex(0), 1, Sharing::Shared, Prot::ReadWrite)?;
    Ok((arena, window))
}

/// A registered buffer and a transfer in each direction.
#[must_use]
pub fn io_uring() -> Probe {
    let sysctl = setting("/proc/sys/kernel/io_uring_disabled");
    let transfer = |window: &Window| -> Result<bool, Errno> {
        let mut pin = UringPin::register(window.span(0, 1))?;
        pin.start_to_memory(0, 4)?;
        pin.feed(&[1, 2, 3, 4])?;
        pin.complete(TIMEOUT)?;
        pin.start_from_memory(0, 4)?;
        pin.release()?;
        pin.complete(TIMEOUT)?;
        let mut bytes = [0; 4];
        pin.taken(&mut bytes)?;
        pin.unregister()?;
        Ok(bytes == [1, 2, 3, 4])
    };
    let tried = || {
        let (_arena, window) = page()?;
        match transfer(&window) {
            Ok(true) => Ok(format!("kernel.io_uring_disabled = {sysctl}")),
            Ok(false) => lacks("a transfer brought other bytes"),
            Err(errno) => lacks(format!("{errno}; kernel.io_uring_disabled = {sysctl}")),
        }
    };
    Probe::new(
        "io_uring registered buffers",
        tried(),
        "DMA through a long-term pin (FOLL_LONGTERM)",
        "sysctl kernel.io_uring_disabled=0; in a container, a seccomp profile that allows io_uring",
    )
}

/// Page references in a pipe.
#[must_use]
pub fn vmsplice() -> Probe {
    let tried = || {
        let (_arena, window) = page()?;
        let mut bytes = [0; 4];
        VmsplicePin::take(window.span(0, 1)).and_then(|mut pin| pin.read(&mut bytes))?;
        if bytes == [0x5A; 4] {
            Ok("read-only references".to_owned())
        } else {
            lacks(format!("the pipe held {bytes:?}"))
        }
    };
    Probe::new(
        "vmsplice",
        tried(),
        "read-only pins and the COW breaks that they miss",
        "a sandbox profile that allows vmsplice",
    )
}

/// Transfers by the block layer, in `dir`.
#[must_use]
pub fn direct_io(dir: &Path) -> Probe {
    let tried = || {
        let (arena, window) = page()?;
        let span = window.span(0, 1);
        let file = DirectFile::create(dir)
            .map_err(|errno| Lacks(format!("no O_DIRECT in {}: {errno}", dir.display())))?;
        file.write_from(span)?;
        arena.fill(FrameIndex(0), 0)?;
        file.read_into(span)?;
        let access = span.load_u8(page_bytes() - 1);
        if access == Touch::Value(0x5A) {
            Ok(format!("in {}", dir.display()))
        } else {
            lacks(format!("a transfer brought other bytes: {access:?}"))
        }
    };
    Probe::new(
        "O_DIRECT",
        tried(),
        "short-term pins for one transfer (FOLL_PIN)",
        "set TMPDIR to a directory on a disk file system (ext4, xfs, btrfs); tmpfs has none",
    )
}
