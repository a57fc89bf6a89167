//! What an exporter does to a buffer as a whole.

use super::objects::Life;
use super::rules::Placement;

/// What an [`ExporterStep`](super::ExporterStep) is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A move to a placement.
    Move(Placement),
    /// A purge.
    Purge,
    /// A revocation.
    Revoke,
}

impl Operation {
    /// Where the new memory is, if there is new memory.
    #[must_use]
    pub fn placement(self) -> Option<Placement> {
        match self {
            Self::Move(to) => Some(to),
            Self::Purge | Self::Revoke => None,
        }
    }

    /// What is left of the buffer afterwards.
    #[must_use]
    pub fn life_after(self) -> Life {
        match self {
            Self::Move(_) => Life::Live,
            Self::Purge => Life::Purged,
            Self::Revoke => Life::Revoked,
        }
    }

    /// Its name: an eviction is a move away from vram.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Move(Placement::Vram) => "move",
            Self::Move(Placement::System | Placement::Cma) => "evict",
            Self::Purge => "purge",
            Self::Revoke => "revoke",
        }
    }
}
