//! Free-running: the processes of a test on a real dma-buf, without a conductor between their steps.
//!
//! # What it is
//!
//! What klitmus7 does. Each litmus process is a real process of the guest, on one of its processors; all
//! begin at a barrier and take their steps by themselves ([`program`]), with small delays that a seed
//! repeats. What one waits for that another makes is a flag; a lock that somebody has is waited for in the
//! kernel. Which free frame a move gets is the laboratory's affair (`tools/lab-module/pool.c`): the one that
//! was given back last, as the model has it.
//!
//! A run is what was seen of it ([`FreeRun`]): each answer of each step, where each page of a buffer is
//! in the end, and what each frame holds. [`Explainer`] looks for the schedules of the model in which all of
//! that is so: their outcomes are what the run may have been. There being none is a disagreement.
//!
//! # Differs from lockstep
//!
//! Page tables and reference counts are not looked at between steps. An access is one byte, the first of
//! its page: a page that is half written is nothing the model has. What can't run free says why
//! ([`free_supports`]).

mod driver;
mod explain;
mod program;
mod run;

pub use explain::{Explained, Explainer};
pub use run::FreeOptions;

use serde::{Deserialize, Serialize};

use super::super::error::Skip;
use super::super::plan::Steps;
use super::huge::Layout;
use super::skip;
use crate::model::{DeviceTlb, ExporterStep, FaultPurged, HostRules, ImporterMmap, Notifier, Step};
use crate::question::scenario::Scenario;
use crate::units::{AttachmentId, BufId, PinId};

/// What was seen of one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Seen {
    /// It was left out, or shows nothing.
    Nothing,
    /// Done.
    Done,
    /// A value was read.
    Value(u8),
    /// The module answered: the lower byte, and the frame or what else is in the upper half.
    Word(u8, u32),
    /// It was refused with this errno.
    Refused(i32),
    /// SIGBUS.
    Sigbus,
    /// SIGSEGV.
    Sigsegv,
}

/// What was seen of one run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FreeRun {
    /// By process and instruction; none of a process that hung.
    pub seen: Vec<Option<Vec<Seen>>>,
    /// By page of the buffers, the number of its frame in the end; none: it has none.
    pub pages: Vec<Option<u32>>,
    /// By frame, what it held in the end.
    pub values: Vec<u8>,
}

/// Whether a scenario can run free in a guest's kernel.
///
/// # Errors
/// [`Skip`]: why not.
pub fn free_supports(scenario: &Scenario) -> Result<(), Skip> {
    skip::askable(scenario)?;
    let world = &scenario.world;
    let not = |what: &str| Err(Skip::with_remedy(what.to_owned(), "use `replay --kernel`"));
    if world.threads() {
        return not("threads are one process here, which does one thing at a time");
    }
    if world.bounces() {
        return not("bounce pages are the kernel's own: where a transfer lands is not seen");
    }
    let steps = Steps::of(scenario);
    if let Some(why) = steps.all.iter().find_map(|(_, step)| by_conductor(step)) {
        return not(why);
    }
    for buf in (0..world.bufs()).map(BufId::at) {
        let rules = world.exporter_of(buf);
        if rules.fault_purged == FaultPurged::OldPage {
            return not("pages that a purge leaves to who maps them");
        }
        let gives_up = |steps: &[ExporterStep]| {
            steps.contains(&ExporterStep::Free) && !steps.contains(&ExporterStep::Mark)
        };
        if gives_up(&rules.purge_steps) || gives_up(&rules.revoke_steps) {
            return not("a fault that fills in for a page that was given up");
        }
    }
    let state = &scenario.initial_state().model;
    if (0..state.pins.len()).any(|pin| world.notifier_of(PinId::at(pin)) == Notifier::Wait) {
        return not("the laboratory's notifier does not wait for its device");
    }
    let importers =
        || (0..state.attachments.len()).map(|at| world.importer_of(AttachmentId::at(at)));
    if importers().any(|rules| rules.device_tlb == DeviceTlb::Cached) {
        return not("a device with a TLB of its own is emulated step by step");
    }
    let via_shadow = |step: &Step| {
        matches!(step, Step::Mmap(mmap) if mmap.via.is_some()
            && world.importer(mmap.via).mmap == ImporterMmap::Shadow)
    };
    if steps.all.iter().any(|(_, step)| via_shadow(step)) {
        return not("an importer's own pages are handed out by the conductor");
    }
    if program::has_pages_of_its_own(scenario) && program::system_frames_change(scenario) {
        return not("which frames a process's own pages are, the kernel chooses");
    }
    program::programs(scenario, &Layout::of(scenario)?).map(drop)
}

/// Why the conductor has to take a part of a step, or all of it.
const fn by_conductor(step: &Step) -> Option<&'static str> {
    match step {
        Step::Mremap { .. } => Some("whether mremap has anything to move, the conductor says"),
        Step::Mprotect { .. } => {
            Some("whether all is there that mprotect changes, the conductor says")
        }
        Step::FrameVectorCheck { .. } => Some("frame_vector is made of single steps here"),
        Step::EvictCache(_) => Some("CPU caches"),
        Step::DrawTicket | Step::LockAll(_) => {
            Some("reservations under a ticket are given back and taken again by the conductor")
        }
        Step::MmapLock { .. } | Step::MmapUnlock(_) => {
            Some("threads are processes here: none holds the mmap_lock of another")
        }
        Step::FlushTlb(_) => Some("an invalidation waits for transfers under way"),
        Step::FreePgtables(_) | Step::FinishMmu(_) => Some("threads are one process here"),
        Step::Fork { .. } => Some("a process that is forked can't be at the barrier"),
        Step::Mmap(_)
        | Step::Munmap { .. }
        | Step::Load { .. }
        | Step::Store { .. }
        | Step::GupFast { .. }
        | Step::GupSlow { .. }
        | Step::FollowPfn { .. }
        | Step::Unpin(_)
        | Step::Attach { .. }
        | Step::Detach(_)
        | Step::Map(_)
        | Step::Unmap(_)
        | Step::Validate { .. }
        | Step::Submit { .. }
        | Step::Signal(_)
        | Step::DmaStart { .. }
        | Step::DmaFinish { .. }
        | Step::DmaBufPin(_)
        | Step::DmaBufUnpin(_)
        | Step::SyncStart { .. }
        | Step::SyncEnd { .. }
        | Step::Exporter { .. }
        | Step::Alloc(_)
        | Step::Close(_)
        | Step::ResvLock(_)
        | Step::ResvUnlock(_) => None,
    }
}

/// The same question of a host with the rules of the guest's kernel; none if those are its own.
#[must_use]
pub fn with_rules_of_guest(scenario: &Scenario) -> Option<Scenario> {
    let check = scenario.world.host.dma_buf_mmap_check;
    let guest = HostRules { dma_buf_mmap_check: check, ..HostRules::default() };
    if scenario.world.host == guest {
        return None;
    }
    let mut twin = scenario.clone();
    twin.world.host = guest;
    Some(twin)
}
