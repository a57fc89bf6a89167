//! What a replay saw.

use crate::model::HazardKind;

/// A difference between the model and real memory: a bug in driftheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// Position of the action in the schedule, from 0; the schedule's length for what is looked at
    /// after its end.
    pub event: usize,
    /// The statement, and what of it was observed.
    pub what: String,
    /// What the model says.
    pub model: String,
    /// What real memory did.
    pub real: String,
}

/// Bytes that a hazard left where they do not belong, as another process or the victim saw them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    /// Position of the action in the schedule, from 0.
    pub event: usize,
    /// The hazard.
    pub kind: HazardKind,
    /// What was read: `B[0]`, or the access that returned it.
    pub what: String,
    /// Where that is: `vram:0`.
    pub frame: String,
    /// What was there, all over the page.
    pub found: u8,
    /// What should have been, where that is known.
    pub expected: Option<u8>,
    /// The process that read it.
    pub pid: u32,
}

/// One schedule on real memory.
#[derive(Debug, Clone, Default)]
pub struct ReplayReport {
    /// Actions that were carried out.
    pub events: usize,
    /// Single observations that were compared: accesses, errnos, pages.
    pub compared: usize,
    /// The first difference, after which nothing more was done.
    pub disagreement: Option<Disagreement>,
    /// What the hazards did, really.
    pub corrupted: Vec<ReadBack>,
    /// Why some of it could not be carried out; such a schedule does not count as replayed.
    pub inexpressible: Option<String>,
    /// Rules of the host that are this kernel's own and not the variant's: with them the model was asked.
    pub own_rules: Option<&'static str>,
}

impl ReplayReport {
    /// Whether everything was as the model said.
    #[must_use]
    pub fn agreed(&self) -> bool {
        self.disagreement.is_none() && self.inexpressible.is_none()
    }
}
