//! An actor's place in a laboratory: what it maps there are real dma-bufs, and what happens at a
//! touch is the kernel's affair.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::super::command::{Answer, Command, LabMap};
use super::super::store::look;
use super::memory::{SLOTS, accessed, errno_of};
use crate::sys::lab::Lab;
use crate::sys::map::{Prot, Sharing, Window};
use crate::sys::page::Frame;
use crate::uapi::lab::{NO_FRAME, Op, Step};

/// The laboratory, and the window whose slots are mapped of it.
#[derive(Debug)]
pub(super) struct Bench {
    lab: Lab,
    window: Window,
    used: bool,
}

impl Bench {
    pub(super) fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let window = Window::reserve(usize::from(SLOTS)).map_err(|error| errno_of(&error))?;
        Ok(Self { lab: Lab::adopt(fd), window, used: false })
    }

    /// Carries a command out, if it is one of a laboratory's.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are not a laboratory's")]
    pub(super) fn carry_out(&mut self, command: Command) -> Option<Answer> {
        self.used = true;
        Some(match command {
            Command::Lab { op, obj, page, flags, slot, value } => {
                self.step(op, obj, page, flags, slot, value)
            }
            Command::LabMap { buf, how, slot, pages, offset } => {
                refused(self.map(buf, how, slot, pages, offset))
            }
            Command::Unmap { slot } => {
                refused(self.window.unmap(slot.into(), 1).map_err(|error| errno_of(&error)))
            }
            Command::Load { slot } => look(self.window.span(slot.into(), 1)),
            Command::Store { slot, value } => {
                accessed(self.window.span(slot.into(), 1).fill(value))
            }
            Command::Touch { slot, write } => {
                let span = self.window.span(slot.into(), 1);
                if write {
                    accessed(span.fetch_add_u64(0, 0).map(drop))
                } else {
                    accessed(span.load_u8(0).map(drop))
                }
            }
            Command::LabMove { from, to, pages } => {
                refused(self.window.move_mapping(from.into(), to.into(), pages.into()))
            }
            _ => return None,
        })
    }

    fn step(&self, op: Op, obj: u8, page: u8, flags: u16, slot: u16, value: u8) -> Answer {
        let frame = matches!(op, Op::Bind | Op::Shadow | Op::Reserve) && value == u8::MAX;
        let step = Step {
            op: 0,
            obj: obj.into(),
            page: page.into(),
            flags: flags.into(),
            addr: self.window.span(slot.into(), 1).start().0,
            value: if frame { NO_FRAME.into() } else { value.into() },
        };
        match self.lab.step(op, step) {
            Ok(value) => {
                let [low, ..] = value.to_le_bytes();
                Answer::Word { low, high: u32::try_from(value >> 32).unwrap_or(NO_FRAME) }
            }
            Err(errno) => Answer::Refused(errno),
        }
    }

    fn map(&self, buf: u8, how: LabMap, slot: u16, pages: u8, offset: u8) -> Result<(), Errno> {
        let (at, pages) = (usize::from(slot), usize::from(pages));
        let prot = if how.write { Prot::ReadWrite } else { Prot::Read };
        if how.anonymous {
            return self.window.map_anonymous(at, pages, prot).map_err(|error| errno_of(&error));
        }
        let sharing = if how.shared { Sharing::Shared } else { Sharing::Private };
        let fd = self.lab.descriptor(buf, how.importer)?;
        self.window
            .map(at, &fd, Frame(offset.into()), pages, sharing, prot)
            .map_err(|error| errno_of(&error))
    }

    /// Everything is unmapped.
    pub(super) fn reset(&mut self) -> Result<(), Errno> {
        if std::mem::take(&mut self.used) {
            self.window.unmap(0, SLOTS.into()).map_err(|error| errno_of(&error))?;
        }
        Ok(())
    }
}

/// An errno is the kernel's answer.
fn refused(tried: Result<(), Errno>) -> Answer {
    match tried {
        Ok(()) => Answer::Done,
        Err(errno) => Answer::Refused(errno),
    }
}
