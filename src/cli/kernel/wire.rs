//! What host and guest tell each other: one JSON object a line.

use driftheap::exec::FreeRun;
use serde::{Deserialize, Serialize};

/// A test, and which schedules of which variants to take.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) file: String,
    pub(super) text: String,
    pub(super) variants: Vec<VariantJob>,
    /// Take a step that the model calls a kernel bug.
    pub(super) provoke: bool,
    /// Ask the kernel's own drivers, not the laboratory's exporter.
    pub(super) drivers: bool,
    /// Let the processes run free instead.
    pub(super) race: Option<RaceJob>,
}

/// How to let processes run free.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct RaceJob {
    pub(super) seed: u64,
    pub(super) first: u64,
    pub(super) iterations: u64,
    pub(super) millis: u64,
}

/// The schedules of a variant.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct VariantJob {
    /// What the host calls it.
    pub(super) id: usize,
    /// Which variant of the test.
    pub(super) index: usize,
    /// As the guest's log names it.
    pub(super) name: String,
    pub(super) schedules: Vec<Vec<u8>>,
}

/// What the guest says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// The kernel's release, first.
    Release(String),
    /// The variant and which of its schedules is next: if nothing follows, the guest died of it.
    Begin { id: usize, schedule: usize },
    /// A variant is answered.
    Answer(Answered),
    /// A run that was like none before, and its number.
    Saw { number: u64, run: FreeRun },
    /// How often each of these was seen, in their order, and in how long: so far, or at the end.
    Raced { id: usize, counts: Vec<u64>, millis: u64, ended: bool },
    /// Why a variant could not be raced.
    NotRaced { id: usize, why: String },
}

/// What the kernel said of a variant.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) id: usize,
    pub(super) replayed: usize,
    pub(super) agreed: usize,
    pub(super) compared: usize,
    pub(super) skipped: Option<String>,
    /// Rules of the kernel's own with which the model was asked.
    pub(super) own_rules: Option<String>,
    /// The first difference, and in which schedule.
    pub(super) difference: Option<(usize, Differs)>,
    /// What each of the kernel's drivers said, if these were asked.
    pub(super) drivers: Vec<DriverSaid>,
}

/// What a driver said of a variant.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct DriverSaid {
    pub(super) name: String,
    pub(super) replayed: usize,
    pub(super) agreed: usize,
    pub(super) compared: usize,
    /// Steps that were taken, of all of these schedules.
    pub(super) steps: usize,
    pub(super) of: usize,
    pub(super) difference: Option<(usize, Differs)>,
}

/// Both sides of a difference.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Differs {
    pub(super) step: usize,
    pub(super) what: String,
    pub(super) model: String,
    pub(super) real: String,
}
