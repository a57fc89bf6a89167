//! The laboratory module's device: `/dev/driftheap_lab`.
//!
//! One open file is a laboratory; whoever has a copy of the descriptor works in the same one. The
//! module does what a step says with the kernel's own functions, and answers what they answered.

#![allow(unsafe_code, reason = "takes over descriptors that the module installs")]

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::backing::ioctl_bytes;
use crate::uapi::lab::{Op, STEP, Step};

/// Where the module puts its device.
pub const DEVICE: &str = "/dev/driftheap_lab";

/// One laboratory.
#[derive(Debug)]
pub struct Lab(OwnedFd);

impl Lab {
    /// A new laboratory.
    ///
    /// # Errors
    /// ENOENT: the module is not loaded.
    pub fn open() -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(Path::new(DEVICE), flags, Mode::empty()).map(Self)
    }

    /// Whether an IOMMU translates the addresses of its device.
    #[must_use]
    pub fn translates(&self) -> bool {
        std::fs::read("/sys/module/driftheap_lab/parameters/iommu").is_ok_and(|is| is == b"Y\n")
    }

    /// Whether it has memory without struct page.
    #[must_use]
    pub fn has_bar(&self) -> bool {
        std::fs::read("/sys/module/driftheap_lab/parameters/bar").is_ok_and(|is| is == b"Y\n")
    }

    /// A laboratory that another process has opened.
    #[must_use]
    pub fn adopt(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Another descriptor of the same laboratory.
    ///
    /// # Errors
    /// EMFILE.
    pub fn try_clone(&self) -> Result<Self, Errno> {
        let copied = self.0.try_clone();
        copied.map(Self).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Takes a step; the value that it answers.
    ///
    /// # Errors
    /// What the kernel's function answered, or the module: EINVAL for what it does not know.
    pub fn step(&self, op: Op, step: Step) -> Result<u64, Errno> {
        self.step_numbered(op as u32, step)
    }

    /// Takes a step by its number, of which there may be none.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_numbered(&self, op: u32, step: Step) -> Result<u64, Errno> {
        let mut bytes = Step { op, ..step }.to_bytes();
        ioctl_bytes(self.0.as_fd(), STEP, &mut bytes)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(Step::from_bytes(&bytes).map_or(0, |step| step.value))
    }
}

impl Lab {
    /// A new descriptor of a buffer, for this process: the dma-buf's own, or that of an importer
    /// which maps as `importer` says.
    ///
    /// # Errors
    /// ENODEV: there is no such buffer. EMFILE.
    pub fn descriptor(&self, buf: u8, importer: Option<u8>) -> Result<OwnedFd, Errno> {
        let op = if importer.is_some() { Op::ImporterFd } else { Op::Fd };
        let flags = importer.unwrap_or(0).into();
        let step = Step { obj: buf.into(), flags, ..Step::default() };
        let number = self.step(op, step)?;
        let number = i32::try_from(number).map_err(|_| Errno::BADF)?;
        // SAFETY: the module has just installed this descriptor, and told nobody else of it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

impl AsFd for Lab {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
