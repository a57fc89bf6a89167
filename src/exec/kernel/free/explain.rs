//! The schedules of the model in which everything is as it was seen.

use std::collections::HashSet;

use rustix::io::Errno;

use super::super::expect;
use super::super::huge::Layout;
use super::program;
use super::{FreeRun, Seen};
use crate::exec::error::Skip;
use crate::explore::Machine;
use crate::model::{self, Effect, ExporterStep, Life, Owner, Reply, Signal, Slot, State, Step};
use crate::question::scenario::{Action, Outcome, Scenario, ScenarioState};
use crate::uapi::lab::NO_FRAME;
use crate::units::{FrameId, PageId, VmaId};

/// The most states that are looked at for one run.
const STATES_MAX: usize = 300_000;

/// What a run may have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explained {
    /// Outcomes of the model, the one with the fewest hazards first, each with a schedule.
    Outcomes(Vec<(Outcome, Vec<u8>)>),
    /// No schedule of the model is like it: one that goes farthest, and what is otherwise there.
    Not {
        /// Its steps.
        schedule: Vec<u8>,
        /// What the model has next, for each process that could go on.
        model: String,
        /// What was seen instead.
        kernel: String,
    },
    /// There are more schedules than are looked at.
    TooMany,
}

/// Looks runs up in the model.
#[derive(Debug)]
pub struct Explainer<'a> {
    scenario: &'a Scenario,
    layout: Layout,
    /// Whether processes have pages of their own, which are frames of the model.
    own_pages: bool,
}

/// A search under way.
struct Search<'a> {
    run: &'a FreeRun,
    been: HashSet<ScenarioState>,
    path: Vec<u8>,
    outcomes: Vec<(Outcome, Vec<u8>)>,
    farthest: Option<(Vec<u8>, String, String)>,
    too_many: bool,
}

impl<'a> Explainer<'a> {
    /// For runs of this scenario.
    ///
    /// # Errors
    /// [`Skip`]: it has none.
    pub fn new(scenario: &'a Scenario) -> Result<Self, Skip> {
        let own_pages = program::has_pages_of_its_own(scenario);
        Ok(Self { scenario, layout: Layout::of(scenario)?, own_pages })
    }

    /// What a run may have been.
    #[must_use]
    pub fn explain(&self, run: &FreeRun) -> Explained {
        let mut search = Search {
            run,
            been: HashSet::new(),
            path: Vec::new(),
            outcomes: Vec::new(),
            farthest: None,
            too_many: false,
        };
        self.from(self.scenario.initial(), &mut search);
        if search.outcomes.is_empty() {
            if search.too_many {
                return Explained::TooMany;
            }
            let (schedule, model, kernel) = search.farthest.unwrap_or_default();
            return Explained::Not { schedule, model, kernel };
        }
        search.outcomes.sort_by_key(|(outcome, _)| outcome.hazards.count_ones());
        Explained::Outcomes(search.outcomes)
    }

    fn from(&self, state: ScenarioState, search: &mut Search<'_>) {
        if search.been.len() >= STATES_MAX {
            search.too_many = true;
            return;
        }
        let enabled = self.scenario.enabled(&state);
        let mut differ: Vec<(String, String)> = Vec::new();
        let mut went = false;
        for actor in (0..self.scenario.programs.len()).filter(|actor| enabled & 1 << actor != 0) {
            let mut next = state.clone();
            let mut effects = Vec::new();
            let pc = usize::from(state.pcs[actor]);
            let reply = self.scenario.advance(&mut next, actor, &mut effects);
            let taken =
                Taken { before: &state.model, after: &next.model, reply, effects: &effects };
            if let Err((model, kernel)) = self.fits(&taken, actor, pc, search.run) {
                differ.push((model, kernel));
                continue;
            }
            went = true;
            if search.been.insert(next.clone()) {
                search.path.push(u8::try_from(actor).unwrap_or(u8::MAX));
                self.from(next, search);
                search.path.pop();
            }
        }
        if enabled == 0 {
            match self.ends(&state, search.run) {
                Ok(()) => {
                    let outcome = self.scenario.classify(&state);
                    if !search.outcomes.iter().any(|(known, _)| *known == outcome) {
                        search.outcomes.push((outcome, search.path.clone()));
                    }
                    return;
                }
                Err(found) => differ.push(found),
            }
        }
        let farther =
            search.farthest.as_ref().is_none_or(|(far, ..)| far.len() < search.path.len());
        if !went && farther {
            let join = |which: fn(&(String, String)) -> &str| {
                differ.iter().map(which).collect::<Vec<_>>().join("; ")
            };
            search.farthest = Some((search.path.clone(), join(|d| &d.0), join(|d| &d.1)));
        }
    }

    /// Whether the end of a schedule is that of the run.
    fn ends(&self, state: &ScenarioState, run: &FreeRun) -> Result<(), (String, String)> {
        let unfinished = self.scenario.unfinished(state);
        for (actor, seen) in run.seen.iter().enumerate() {
            let stuck = unfinished & 1 << actor != 0;
            if stuck != seen.is_none() {
                let words = |stuck: bool| {
                    format!(
                        "P{actor} {}",
                        if stuck { "waits for ever" } else { "comes to its end" }
                    )
                };
                return Err((words(stuck), words(!stuck)));
            }
        }
        let model = &state.model;
        for (index, seen) in run.pages.iter().enumerate() {
            let page = &model.pages[index];
            let expected = page.frame.is_some().then(|| self.number(page.frame));
            if expected != *seen {
                let name = self.scenario.names.page(&self.scenario.world, PageId::at(index));
                let words = |frame: Option<u32>| {
                    frame.map_or_else(
                        || format!("{name} has no frame"),
                        |frame| format!("{name} is in frame {frame}"),
                    )
                };
                return Err((words(expected), words(*seen)));
            }
        }
        for (index, seen) in run.values.iter().enumerate() {
            let frame = FrameId::at(index);
            let entry = &model.frames[index];
            let unknown = frame == self.scenario.world.zero_page()
                || matches!(entry.owner, Owner::Anon | Owner::Zero | Owner::Bounce(_))
                || self.own_pages && entry.owner == Owner::Free;
            if !unknown && entry.value != *seen {
                let name = self.scenario.names.frame(&self.scenario.world, frame);
                let words = |value: u8| format!("frame {name} holds {value} in the end");
                return Err((words(entry.value), words(*seen)));
            }
        }
        Ok(())
    }

    fn number(&self, frame: FrameId) -> u32 {
        self.layout.number(frame).into()
    }

    /// Whether an action of the model is as it was seen; else what both say.
    fn fits(
        &self,
        taken: &Taken<'_>,
        actor: usize,
        pc: usize,
        run: &FreeRun,
    ) -> Result<(), (String, String)> {
        let program = &self.scenario.programs[actor];
        let instruction = &program.instructions[pc];
        // Nothing is known of who hung.
        let Some(seen) = &run.seen[actor] else { return Ok(()) };
        let Action::Step(step) = &instruction.action else { return Ok(()) };
        let of = |pc: usize| seen.get(pc).copied().unwrap_or(Seen::Nothing);
        // What the fast path takes is the answer to the whole call.
        let fast = matches!(step, Step::GupFast { .. });
        if fast && taken.pinned().is_none() {
            return Ok(());
        }
        let at = if fast { pc + 1 } else { pc };
        if taken.reply == Reply::Again || self.is_as_seen(taken, step, of(at)) {
            return Ok(());
        }
        let text = &program.statements[instruction.statement].text;
        let said = |what: String| format!("P{actor} `{text}`: {what}");
        Err((said(self.in_words(taken, step)), said(seen_in_words(of(at)))))
    }

    /// Of the last step of all that one answer stands for.
    fn is_as_seen(&self, taken: &Taken<'_>, step: &Step, seen: Seen) -> bool {
        match taken.reply {
            Reply::Again => true,
            // Of what a device read the first byte counts, too.
            Reply::Value(value) => {
                matches!(seen, Seen::Value(real) | Seen::Word(real, _) if real == value)
            }
            Reply::Signal(Signal::Sigbus) => seen == Seen::Sigbus,
            Reply::Signal(Signal::Sigsegv) => seen == Seen::Sigsegv,
            Reply::Signal(Signal::Oops) => false,
            Reply::Skipped => match seen {
                Seen::Nothing => true,
                // The laboratory knows no such thing; of munmap nothing is to be seen.
                Seen::Refused(errno) => {
                    [Errno::INVAL, Errno::PERM].iter().any(|known| known.raw_os_error() == errno)
                }
                Seen::Done => matches!(step, Step::Munmap { .. }),
                Seen::Value(_) | Seen::Word(..) | Seen::Sigbus | Seen::Sigsegv => false,
            },
            Reply::Errno(errno) => self.is_refused(taken, step, errno, seen),
            Reply::Done => self.is_done(taken, step, seen),
        }
    }

    fn is_refused(&self, taken: &Taken<'_>, step: &Step, errno: model::Errno, seen: Seen) -> bool {
        // A driver that writes looks at `writable` itself.
        if let (Step::FollowPfn { .. }, model::Errno::Efault, Seen::Word(0, _)) =
            (step, errno, seen)
        {
            return true;
        }
        let Seen::Refused(real) = seen else { return false };
        let is = |known: &[Errno]| known.iter().any(|known| known.raw_os_error() == real);
        // As in lockstep: an entry without a page.
        if let Step::GupSlow { vma, page, .. } = *step
            && self.finds_no_page(taken.before, vma, page)
        {
            return is(&[Errno::EXIST, Errno::FAULT]);
        }
        if matches!(step, Step::Alloc(_)) && errno == model::Errno::Einval {
            return is(&[Errno::EXIST]);
        }
        if matches!(step, Step::Close(_)) {
            return is(&[Errno::BADF, Errno::NODEV]);
        }
        is(&[expect::errno(errno)])
    }

    fn finds_no_page(&self, before: &State, vma: VmaId, page: u8) -> bool {
        let world = &self.scenario.world;
        let pte = world.pte(vma, page).map(|pte| before.ptes[pte.index()]);
        let special = pte.is_some_and(|pte| pte.special && !pte.huge);
        let entry = &before.vmas[vma.index()];
        special && entry.kind == model::VmaKind::Mixedmap && !world.is_vm_io(entry)
    }

    fn is_done(&self, taken: &Taken<'_>, step: &Step, seen: Seen) -> bool {
        let done = matches!(seen, Seen::Done | Seen::Word(..));
        let refused = |errno: Errno| seen == Seen::Refused(errno.raw_os_error());
        let frame = |frame: FrameId| {
            let own = taken.after.frames[frame.index()].owner;
            let own = matches!(own, Owner::Anon | Owner::Zero);
            let expected = if own { NO_FRAME } else { self.number(frame) };
            matches!(seen, Seen::Word(_, real) if real == expected)
        };
        match *step {
            Step::GupFast { .. } | Step::GupSlow { .. } | Step::FollowPfn { .. } => {
                // Without one, it was taken before.
                taken.pinned().is_none_or(frame)
            }
            Step::DmaStart { .. } => {
                let begun = taken.effects.iter().find_map(|effect| {
                    if let Effect::DmaStarted(_, _, frame, _) = *effect {
                        Some(frame)
                    } else {
                        None
                    }
                });
                begun.is_none_or(frame)
            }
            Step::DmaFinish { .. } => done || matches!(seen, Seen::Value(_)),
            Step::Validate { sg, .. } => {
                let stale = taken.before.sgs[sg.index()] == Slot::Invalid;
                matches!(seen, Seen::Word(real, _) if real == u8::from(stale))
            }
            Step::SyncStart { buf, .. } | Step::SyncEnd { buf, .. } => {
                let life = taken.before.bufs[buf.index()].life;
                let gone = matches!(life, Life::Unallocated | Life::Released);
                done || seen == Seen::Nothing
                    || gone && (refused(Errno::NODEV) || refused(Errno::INVAL))
            }
            Step::Exporter { step, .. } => exporter_is_done(taken, step, seen),
            Step::Mmap(_)
            | Step::Munmap { .. }
            | Step::FreePgtables(_)
            | Step::FinishMmu(_)
            | Step::Mremap { .. }
            | Step::Mprotect { .. }
            | Step::Load { .. }
            | Step::Store { .. }
            | Step::FrameVectorCheck { .. }
            | Step::Unpin(_)
            | Step::Attach { .. }
            | Step::Detach(_)
            | Step::Map(_)
            | Step::Unmap(_)
            | Step::Submit { .. }
            | Step::Signal(_)
            | Step::DmaBufPin(_)
            | Step::DmaBufUnpin(_)
            | Step::Alloc(_)
            | Step::Close(_)
            | Step::Fork { .. }
            | Step::EvictCache(_)
            | Step::ResvLock(_)
            | Step::ResvUnlock(_)
            | Step::DrawTicket
            | Step::LockAll(_)
            | Step::MmapLock { .. }
            | Step::MmapUnlock(_)
            | Step::FlushTlb(_) => done,
        }
    }

    /// What the model says of a step.
    fn in_words(&self, taken: &Taken<'_>, step: &Step) -> String {
        let frame = |frame: FrameId| {
            let owner = taken.after.frames[frame.index()].owner;
            if matches!(owner, Owner::Anon | Owner::Zero) {
                "a page of the process's own".to_owned()
            } else {
                format!("frame {}", self.number(frame))
            }
        };
        match taken.reply {
            Reply::Value(value) => format!("value {value}"),
            Reply::Errno(errno) => errno.to_string(),
            Reply::Signal(signal) => signal.to_string(),
            Reply::Skipped => "nothing to do".to_owned(),
            Reply::Again => "to be taken again".to_owned(),
            Reply::Done => match (taken.pinned(), step) {
                (Some(pinned), _) => frame(pinned),
                (None, Step::Validate { sg, .. }) => {
                    let stale = taken.before.sgs[sg.index()] == Slot::Invalid;
                    format!("done, {} mapped again", if stale { "and" } else { "not" })
                }
                (None, _) => taken
                    .effects
                    .iter()
                    .find_map(|effect| {
                        let Effect::DmaStarted(_, _, at, _) = *effect else { return None };
                        Some(frame(at))
                    })
                    .unwrap_or_else(|| "done".to_owned()),
            },
        }
    }
}

/// An action of the model.
struct Taken<'a> {
    before: &'a State,
    after: &'a State,
    reply: Reply,
    effects: &'a [Effect],
}

impl Taken<'_> {
    /// The frame that was pinned, or whose number was looked up.
    fn pinned(&self) -> Option<FrameId> {
        self.effects.iter().find_map(|effect| {
            if let Effect::Pinned(_, _, _, frame, _) | Effect::PfnCached(_, _, _, frame) = *effect {
                Some(frame)
            } else {
                None
            }
        })
    }
}

/// The same of a step of an exporter.
fn exporter_is_done(taken: &Taken<'_>, step: ExporterStep, seen: Seen) -> bool {
    let done = matches!(seen, Seen::Done | Seen::Word(..));
    let refused = |errno: Errno| seen == Seen::Refused(errno.raw_os_error());
    match step {
        ExporterStep::Notify => {
            let heard = taken.effects.iter().filter(|e| matches!(e, Effect::Notified(..)));
            let heard = u8::try_from(heard.count()).unwrap_or(u8::MAX);
            matches!(seen, Seen::Word(real, _) if real == heard)
        }
        // There is nothing to do where nothing is in hand.
        ExporterStep::Unlock => done || refused(Errno::PERM),
        ExporterStep::Signal => done || refused(Errno::INVAL),
        ExporterStep::Copy => done || refused(Errno::NOENT),
        ExporterStep::Flush => true,
        // A buffer that nobody maps or holds may be gone before all is given back.
        ExporterStep::WaitUnmap | ExporterStep::Free => done || refused(Errno::NODEV),
        ExporterStep::Reserve => done || seen == Seen::Nothing,
        ExporterStep::Lock
        | ExporterStep::Zap
        | ExporterStep::Wait
        | ExporterStep::CheckPins
        | ExporterStep::Rebind
        | ExporterStep::Fence
        | ExporterStep::Mark => done,
    }
}

fn seen_in_words(seen: Seen) -> String {
    match seen {
        Seen::Nothing => "left out".to_owned(),
        Seen::Done => "done".to_owned(),
        Seen::Value(value) => format!("value {value}"),
        Seen::Word(low, NO_FRAME) => format!("{low}, no frame of the test"),
        Seen::Word(low, high) => format!("{low}, frame {high}"),
        Seen::Refused(errno) => format!("{:?}", Errno::from_raw_os_error(errno)),
        Seen::Sigbus => "SIGBUS".to_owned(),
        Seen::Sigsegv => "SIGSEGV".to_owned(),
    }
}
