//! The parts of a state's bytes, and the frames that they mention.
//!
//! A step changes few tables. Where the bytes that a state was decoded from are at hand, a part whose
//! tables nobody changed is the same again, if only its frames have the same names: which they have
//! where all parts before it mention the same frames as before.

use std::hash::{Hash, Hasher};

use super::rules::Placement;
use crate::units::FrameId;

/// Which part of the bytes is what, in their order.
pub(super) const BUFS: usize = 0;
pub(super) const PAGES: usize = 1;
pub(super) const VMAS: usize = 2;
pub(super) const PTES: usize = 3;
pub(super) const PINS: usize = 4;
pub(super) const DEVICES: usize = 5;
pub(super) const FRAMES: usize = 6;
pub(super) const HAZARDS: usize = 7;
/// How many there are.
pub(super) const PARTS: usize = 8;

/// The most frames of which it is known who mentions them: a bit each, and one for no frame.
pub(super) const FRAMES_MAX: usize = 63;

/// The place of a placement in a table of them.
pub(super) const fn placement_index(placement: Placement) -> usize {
    match placement {
        Placement::Vram => 0,
        Placement::System => 1,
        Placement::Cma => 2,
    }
}

/// A set of frames, a bit each: of the first [`FRAMES_MAX`].
pub(super) type FrameSet = u64;

/// The set of one frame.
#[inline]
pub(super) const fn one(frame: FrameId) -> FrameSet {
    1 << (frame.0 % 64)
}

/// By part, the frames that it mentions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mentions([FrameSet; PARTS]);

impl Mentions {
    #[inline]
    pub(super) const fn of(&self, part: usize) -> FrameSet {
        self.0[part]
    }

    /// Sets what a part mentions: frames that are none may be among it.
    #[inline]
    pub(super) fn set(&mut self, part: usize, frames: FrameSet) {
        self.0[part] = frames & !one(FrameId::NONE);
    }
}

/// Where a state comes from is not part of it.
impl PartialEq for Mentions {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Mentions {}

impl Hash for Mentions {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}
