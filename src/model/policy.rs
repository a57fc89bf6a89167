//! Exporter rules that toggles can't express.
//!
//! Implement [`ExporterPolicy`] and give it to [`super::World::set_policy`]. The policy is asked
//! before every step that concerns a buffer of its exporter, whoever takes the step; it can let
//! the step wait, refuse it, or leave it to the toggles. It sees the whole state and changes none
//! of it, so every policy is safe to explore.
//!
//! ```
//! use driftheap::model::{Admission, ExporterPolicy, ExporterStep, Request, State, Step, World};
//! /// Wait until no page of the buffer is pinned, where others refuse to move or do not look.
//! #[derive(Debug)]
//! struct EvictWhenUnpinned;
//! impl ExporterPolicy for EvictWhenUnpinned {
//!     fn admit(&self, world: &World, state: &State, request: &Request) -> Admission {
//!         let Step::Exporter { step: ExporterStep::CheckPins, buf, .. } = request.step else {
//!             return Admission::Default;
//!         };
//!         let frames = world.pages(buf).map(|page| state.pages[page.index()].frame);
//!         let pinned = frames.filter(|f| f.is_some()).any(|f| state.counted_pins(f) > 0);
//!         if pinned { Admission::Wait } else { Admission::Default }
//!     }
//! }
//! ```
//! `tests/experiment.rs` explores it: no corruption, no EBUSY, and a deadlock where a pin is never
//! dropped.

use std::fmt;

use super::rules::ExporterStep;
use super::state::State;
use super::step::{Errno, Step};
use super::world::World;
use crate::units::{ActorId, BufId};

/// Who is about to do what to which buffer.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Who.
    pub actor: ActorId,
    /// Which buffer of the exporter.
    pub buf: BufId,
    /// What.
    pub step: Step,
}

/// What a policy answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As the toggles say.
    Default,
    /// Not now: the actor waits until the answer changes.
    Wait,
    /// The operation fails.
    Refuse(Errno),
}

/// An experimental exporter rule.
pub trait ExporterPolicy: fmt::Debug + Send + Sync {
    /// The steps of a move, where they differ from the rule `move`.
    fn move_steps(&self) -> Option<Vec<ExporterStep>> {
        None
    }

    /// Asked before `request` is carried out. Must depend on its arguments alone.
    fn admit(&self, world: &World, state: &State, request: &Request) -> Admission;
}
