//! An actor's place in a laboratory: what it maps there are real dma-bufs, and what happens at a
//! touch is the kernel's affair.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::super::command::{Command, CommandResult, LabMap};
use super::super::store::look;
use super::memory::{SLOTS, accessed, errno_of};
use crate::sys::lab::Lab;
use crate::sys::map::{Prot, Sharing, Window};
use crate::sys::page::FrameIndex;
use crate::sys::touch::Touch;
use crate::uapi::lab::{NO_FRAME, Op, Step};

/// The laboratory, and the window whose slots are mapped of it.
#[derive(Debug)]
pub(super) struct Bench {
    lab: Lab,
    window: Window,
    /// Pages of the window that a slot is.
    stride: usize,
    used: bool,
}

/// Bytes of a huge page, and the most pages that a slot may be: all of a huge page.
const HUGE_BYTES: usize = 2 << 20;
const STRIDE_MAX: usize = 512;

impl Bench {
    pub(super) fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let pages = usize::from(SLOTS) * STRIDE_MAX;
        let window =
            Window::reserve_aligned(pages, HUGE_BYTES).map_err(|error| errno_of(&error))?;
        Ok(Self { lab: Lab::adopt(fd), window, stride: 1, used: false })
    }

    /// Carries a command out, if it is one of a laboratory's.
    pub(super) fn carry_out(&mut self, command: Command) -> Option<CommandResult> {
        self.used = true;
        Some(match command {
            Command::Lab { op, obj, page, flags, slot, value } => {
                self.step(op, obj, page, flags, slot, value)
            }
            Command::LabMap { buf, how, slot, pages, offset } => {
                refused(self.map(buf, how, slot, pages, offset))
            }
            Command::Unmap { slot } => {
                let (at, pages) = (self.at(slot), self.stride);
                refused(self.window.unmap(at, pages).map_err(|error| errno_of(&error)))
            }
            Command::Load { slot } => look(self.window.span(self.at(slot), 1)),
            Command::Store { slot, value } => {
                accessed(self.window.span(self.at(slot), 1).fill(value))
            }
            Command::Touch { slot, write } => {
                let span = self.window.span(self.at(slot), 1);
                if write {
                    accessed(span.fetch_add_u64(0, 0).map(drop))
                } else {
                    accessed(span.load_u8(0).map(drop))
                }
            }
            Command::LabMove { from, to, pages } => {
                let pages = usize::from(pages) * self.stride;
                refused(self.window.move_mapping(self.at(from), self.at(to), pages))
            }
            Command::Protect { slot, pages, write } if self.used => {
                let prot = if write { Prot::ReadWrite } else { Prot::Read };
                let pages = usize::from(pages) * self.stride;
                let done = self.window.protect(self.at(slot), pages, prot);
                refused(done.map_err(|error| errno_of(&error)))
            }
            Command::LabStride { pages } => {
                self.stride = usize::from(pages).clamp(1, STRIDE_MAX);
                CommandResult::Done
            }
            Command::Arm { .. }
            | Command::Install { .. }
            | Command::InstallPrivate { .. }
            | Command::InstallAnon { .. }
            | Command::Zap { .. }
            | Command::NoBacking { .. }
            | Command::Move { .. }
            | Command::Protect { .. }
            | Command::BreakCow { .. }
            | Command::Pin { .. }
            | Command::Unpin { .. }
            | Command::DmaStart { .. }
            | Command::DmaWrite { .. }
            | Command::DmaRead { .. }
            | Command::BusMap { .. }
            | Command::BusUnmap { .. }
            | Command::BusLoad { .. }
            | Command::BusStore { .. }
            | Command::Fork { .. }
            | Command::Witness { .. }
            | Command::Free(_)
            | Command::Reset => return None,
        })
    }

    /// One byte: of a page, a process that runs free could see two halves.
    pub(super) fn load_byte(&mut self, slot: u16) -> CommandResult {
        self.used = true;
        match self.window.span(self.at(slot), 1).load_u8(0) {
            Touch::Value(value) => CommandResult::Value(value),
            Touch::Sigbus { .. } => CommandResult::Sigbus,
            Touch::Sigsegv { .. } => CommandResult::Sigsegv,
        }
    }

    /// The same of a store.
    pub(super) fn store_byte(&mut self, slot: u16, value: u8) -> CommandResult {
        self.used = true;
        accessed(self.window.span(self.at(slot), 1).store_u8(0, value))
    }

    /// The first page of a slot.
    fn at(&self, slot: u16) -> usize {
        usize::from(slot) * self.stride
    }

    fn step(&self, op: Op, obj: u8, page: u8, flags: u16, slot: u16, value: u8) -> CommandResult {
        let frame = matches!(op, Op::Bind | Op::Shadow | Op::Reserve) && value == u8::MAX;
        let step = Step {
            op: 0,
            obj: obj.into(),
            page: page.into(),
            flags: flags.into(),
            addr: self.window.span(self.at(slot), 1).start().0,
            value: if frame { NO_FRAME.into() } else { value.into() },
        };
        match self.lab.step(op, step) {
            Ok(value) => {
                let [low, ..] = value.to_le_bytes();
                CommandResult::Word { low, high: u32::try_from(value >> 32).unwrap_or(NO_FRAME) }
            }
            Err(errno) => CommandResult::Refused(errno),
        }
    }

    fn map(&self, buf: u8, how: LabMap, slot: u16, pages: u8, offset: u8) -> Result<(), Errno> {
        let (at, pages) = (self.at(slot), usize::from(pages) * self.stride);
        let prot = if how.write { Prot::ReadWrite } else { Prot::Read };
        if how.anonymous {
            return self.window.map_anonymous(at, pages, prot).map_err(|error| errno_of(&error));
        }
        let sharing = if how.shared { Sharing::Shared } else { Sharing::Private };
        let fd = self.lab.descriptor(buf, how.importer)?;
        let first = usize::from(offset) * self.stride;
        let first = u32::try_from(first).map_err(|_| Errno::OVERFLOW)?;
        self.window
            .map(at, &fd, FrameIndex(first), pages, sharing, prot)
            .map_err(|error| errno_of(&error))
    }

    /// Everything is unmapped.
    pub(super) fn reset(&mut self) -> Result<(), Errno> {
        if std::mem::take(&mut self.used) {
            let pages = usize::from(SLOTS) * self.stride;
            self.window.unmap(0, pages).map_err(|error| errno_of(&error))?;
            self.stride = 1;
        }
        Ok(())
    }
}

/// An errno is the kernel's answer.
fn refused(tried: Result<(), Errno>) -> CommandResult {
    match tried {
        Ok(()) => CommandResult::Done,
        Err(errno) => CommandResult::Refused(errno),
    }
}
