//! Names for values that stand for nothing but themselves.

use super::{BITS, ContentUse, Contents, NAMES_MAX};
use crate::model::state::State;
use crate::units::FrameId;

/// Gives the values of one state names that do not depend on which they were.
pub(in crate::model) struct Renaming<'a> {
    contents: &'a Contents,
    reads: u64,
    observed: u64,
    /// By class, the values that are still to be written, and the last name given.
    written: [u64; BITS],
    last: [u8; BITS],
    /// Class, value, and its name.
    given: [(u8, u8, u8); NAMES_MAX],
    count: usize,
    done: [bool; 256],
}

impl<'a> Renaming<'a> {
    pub(in crate::model) fn new(contents: &'a Contents, left: &[&ContentUse]) -> Self {
        let mut found = Self {
            contents,
            reads: 0,
            observed: 0,
            written: [0; BITS],
            last: [0; BITS],
            given: [(0, 0, 0); NAMES_MAX],
            count: 0,
            done: [false; 256],
        };
        let classes = contents.classes.len();
        for left in left {
            found.reads |= left.reads;
            found.observed |= left.observed;
            for (all, more) in found.written[..classes].iter_mut().zip(&left.writes) {
                *all |= more;
            }
        }
        found
    }

    #[inline]
    pub(in crate::model) fn name(&mut self, class: u8, value: u8) -> u8 {
        if self.reads & 1 << class == 0 {
            return 0;
        }
        let at = usize::from(class);
        let written = self.written[at];
        if self.observed & 1 << class != 0 || self.contents.is_written(value, written) {
            return value;
        }
        let given = &self.given[..self.count];
        if let Some((.., name)) = given.iter().find(|given| (given.0, given.1) == (class, value)) {
            return *name;
        }
        let free = |name: &u8| !self.contents.is_written(*name, written);
        let name = (self.last[at].saturating_add(1)..=u8::MAX).find(free);
        // There are names enough: `Contents::new` sees to it.
        let (Some(name), true) = (name, self.count < self.given.len()) else { return value };
        self.last[at] = name;
        self.given[self.count] = (class, value, name);
        self.count += 1;
        name
    }

    /// Whether a frame was mentioned.
    pub(in crate::model) const fn is_named(&self, frame: FrameId) -> bool {
        self.done[frame.index()]
    }

    /// What a frame holds will be copied over.
    pub(in crate::model) fn will_be_lost(&mut self, state: &mut State, frame: FrameId) {
        if frame.is_some() && !std::mem::replace(&mut self.done[frame.index()], true) {
            state.frames.alter(frame.index(), |frame| frame.value = 0);
        }
    }

    /// Names what a frame holds, the first time that it is mentioned.
    pub(in crate::model) fn frame(&mut self, state: &mut State, frame: FrameId, class: u8) {
        if frame.is_none() || std::mem::replace(&mut self.done[frame.index()], true) {
            return;
        }
        let (value, cached, line) = {
            let frame = &state.frames.unnoted()[frame.index()];
            (frame.value, frame.cached || frame.dirty, frame.cache_value)
        };
        let value = self.name(class, value);
        let line = if cached { self.name(class, line) } else { line };
        state.frames.alter(frame.index(), |entry| {
            (entry.value, entry.cache_value) = (value, line);
        });
    }
}
