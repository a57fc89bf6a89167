//! What an access is called by where it landed.
//!
//! The one table of it: the model's oracle asks it of every access of a schedule, the live device of
//! every transfer and of every access through a mapping that the exporter's zap does not find.
//!
//! | landed in | read | write |
//! |---|---|---|
//! | the page's frame of now | fine | fine |
//! | the same, after the revocation was complete | use-after-free | use-after-free |
//! | a frame that nobody owns | use-after-free | use-after-free |
//! | another buffer's frame | cross-buffer-read | cross-buffer-write |
//! | a frame that was the page's, or stands in for it | stale-read if the bytes differ | lost-write |

use super::step::HazardKind;

/// Where an access landed, seen from the page that it meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// In the page's frame of now.
    Current,
    /// In a frame that was the page's, or stands in for it.
    Old,
    /// In a free frame.
    Nobody,
    /// In somebody else's memory.
    Other,
}

/// What is known of the page that an access meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meant {
    /// Somebody may still expect something of it: its buffer is there, or its mapping.
    pub alive: bool,
    /// Its buffer's revocation is complete: nobody may use it any more.
    pub revoked: bool,
}

impl Landing {
    /// What a read is called; `differs`: it returned something else than the page should hold.
    #[must_use]
    pub const fn of_read(self, meant: Meant, differs: bool) -> Option<HazardKind> {
        match self {
            _ if meant.revoked => Some(HazardKind::UseAfterFree),
            Self::Nobody => Some(HazardKind::UseAfterFree),
            Self::Other => Some(HazardKind::CrossBufferRead),
            Self::Old if differs && meant.alive => Some(HazardKind::StaleRead),
            Self::Old | Self::Current => None,
        }
    }

    /// What a write is called.
    #[must_use]
    pub const fn of_write(self, meant: Meant) -> Option<HazardKind> {
        match self {
            Self::Current if meant.revoked => Some(HazardKind::UseAfterFree),
            Self::Nobody => Some(HazardKind::UseAfterFree),
            Self::Other => Some(HazardKind::CrossBufferWrite),
            Self::Old if meant.alive => Some(HazardKind::LostWrite),
            Self::Old | Self::Current => None,
        }
    }
}
