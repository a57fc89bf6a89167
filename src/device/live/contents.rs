//! What pages hold while they move.
//!
//! The CPU's accesses reach a buffer's memory throughout: a move replaces the memory under them
//! and loses nothing. What devices reach is by frame, and a step does to it what the model's does:
//!
//! | step | |
//! |---|---|
//! | `copy` | what a device writes to the page from here on is not in the copy |
//! | `rebind` | the page holds the copy, or zeros if there is none; the old frame what it held |
//! | `copy` behind `rebind` | the page holds what the old frame does: later writes are lost |

use rustix::io::Errno;

use super::bus::{Bus, DmaError};
use super::copies::{Copied, Overtaken, PageBytes};
use super::frames::{Bytes, FrameNo, PageOf, Rebound};
use super::pages::{OwnBytes, Pages, write_all};
use crate::device::BufferId;
use crate::model::moving::{self, Copying, FrameRole, FrameTable as _};
use crate::model::{HazardKind, Life};
use crate::sys::page::page_bytes;

fn errno(error: DmaError) -> Errno {
    if let DmaError::Memory(errno) = error { errno } else { Errno::IO }
}

impl Bus {
    /// After step `reserve`: what a device still reads there is zeros.
    ///
    /// # Errors
    /// The frames' file can't be written.
    pub fn reserved(&self, buffer: BufferId) -> Result<(), Errno> {
        let pages = self.frames.pages_of(buffer).into_iter();
        pages
            .filter_map(|of| self.frames.frames(of).next)
            .try_for_each(|next| self.show(next, &vec![0; page_bytes()]))
    }

    /// A frame that is not a page yet holds these bytes, for who has its address from before.
    fn show(&self, frame: FrameNo, bytes: &[u8]) -> Result<(), Errno> {
        if !self.frames.is_told(frame) {
            return Ok(());
        }
        write_all(self.own_bytes(), OwnBytes::at(frame, 0), bytes)
    }

    /// Step `copy` of a move.
    ///
    /// # Errors
    /// The page can't be read or written.
    pub fn copy(&mut self, pages: &dyn Pages, buffer: BufferId) -> Result<(), Errno> {
        for of in self.frames.pages_of(buffer) {
            match moving::copying(&self.frames, of) {
                Some(Copying::Ahead(now, next)) => {
                    let is_own = self.frames.held(now, of) == Some(FrameRole::Now);
                    let mut bytes = PageBytes::zeros();
                    if !is_own || self.frames.is_told(next) {
                        self.load(pages, now, 0, &mut bytes.0).map_err(errno)?;
                        self.show(next, &bytes.0)?;
                    }
                    let copied =
                        if is_own { Copied::Page(Vec::new()) } else { Copied::Other(bytes) };
                    self.copies.copied.insert(of, copied);
                }
                Some(Copying::Late(old, _)) => {
                    let mut bytes = vec![0; page_bytes()];
                    self.load(pages, old, 0, &mut bytes).map_err(errno)?;
                    pages.write(of, 0, &bytes)?;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Step `rebind` of a move, whose memory is new already. Returns whether a device's write was
    /// lost.
    ///
    /// # Errors
    /// A page can't be read or written.
    pub fn rebind(
        &mut self,
        pages: &dyn Pages,
        buffer: BufferId,
    ) -> Result<Option<HazardKind>, Errno> {
        let mut lost = None;
        for Rebound { of, left, .. } in self.frames.rebind(buffer) {
            let copied = self.copies.copied.remove(&of);
            let given_up = self.copies.given_up.remove(&of);
            if self.life(buffer) != Life::Live && pages.read(of, 0, &mut [0]).is_err() {
                // There is no memory behind.
                continue;
            }
            if let Some(left) =
                left.filter(|&left| self.frames.held(left, of) == Some(FrameRole::Old))
            {
                self.keep(pages, left, of)?;
            }
            match copied {
                None => pages.write(of, 0, &vec![0; page_bytes()])?,
                // What others have written there since; the program's stores are not lost.
                Some(Copied::Other(bytes)) => {
                    for (offset, run) in bytes.differing(given_up.as_ref()) {
                        pages.write(of, offset, run)?;
                    }
                }
                Some(Copied::Page(writes)) => {
                    for Overtaken { offset, before, mut finding } in writes.into_iter().rev() {
                        let mut now = vec![0; before.len()];
                        pages.read(of, offset, &mut now)?;
                        let at = before.iter().zip(&now).position(|(was, is)| was != is);
                        pages.write(of, offset, &before)?;
                        if let Some(at) = at {
                            finding.byte = Some((offset + at, now[at], before[at]));
                            self.findings.push(finding);
                            lost = Some(HazardKind::LostWrite);
                        }
                    }
                }
            }
        }
        Ok(lost)
    }

    /// A move is given up.
    pub(super) fn forget_copies(&mut self, buffer: BufferId) {
        self.copies.copied.retain(|of, _| of.buffer != buffer);
    }

    /// A buffer is about to give frames up that it has: what they held stays in them, for who still
    /// looks. A move gives up those of pages that are not rebound yet.
    ///
    /// # Errors
    /// A page can't be read.
    pub fn leave(&mut self, pages: &dyn Pages, buffer: BufferId, moves: bool) -> Result<(), Errno> {
        for (frame, of) in self.frames.leave(buffer, moves) {
            let bytes = self.keep(pages, frame, of)?;
            if moves {
                self.copies.given_up.insert(of, bytes);
            }
        }
        Ok(())
    }

    /// A frame's own bytes are the page's of now.
    fn keep(&self, pages: &dyn Pages, frame: FrameNo, of: PageOf) -> Result<PageBytes, Errno> {
        debug_assert_eq!(self.frames.bytes(frame), Some(Bytes::Own));
        let mut bytes = PageBytes::zeros();
        pages.read(of, 0, &mut bytes.0)?;
        write_all(self.own_bytes(), OwnBytes::at(frame, 0), &bytes.0)?;
        Ok(bytes)
    }
}
