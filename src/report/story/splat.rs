//! A hazard, told as KASAN tells a use-after-free.

use serde::Serialize;

use super::words::{Teller, job_word};
use crate::litmus::prevent::Prevention;
use crate::litmus::scenario::{Action, Event, Replay};
use crate::model::{Dir, Effect, Hazard, HazardKind, Job, Owner, Step, Target, Via};
use crate::report::paint::{Paint, Tone};

/// A hazard with its history and what would have prevented it.
#[derive(Debug, Clone, Serialize)]
pub struct Splat {
    /// Which.
    #[serde(serialize_with = "word")]
    pub hazard: HazardKind,
    /// The step that shows it, from 1.
    pub step: usize,
    /// The process.
    pub process: usize,
    /// The process's role, as the file has it.
    pub role: String,
    /// The access, and the frame that it reached.
    pub what: Vec<String>,
    /// What led to it, in the order of the steps.
    pub history: Vec<String>,
    /// Single changes of a rule that prevent it; empty when none was looked for or found.
    pub prevented_by: Vec<String>,
}

fn word<S: serde::Serializer>(kind: &HazardKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.word())
}

/// Stands above and below.
const RULER: &str = "==================================================================";

impl Splat {
    /// As text.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut out = format!("{RULER}\n");
        let bug = format!("BUG: driftheap: {} in P{} ({})", self.hazard, self.process, self.role);
        out.push_str(&paint.paint(Tone::Bad, &bug));
        out.push('\n');
        for line in &self.what {
            out.push_str(line);
            out.push('\n');
        }
        for line in &self.history {
            out.push_str(&format!(" {line}\n"));
        }
        for line in &self.prevented_by {
            let line = format!("Prevented by: {line}");
            out.push_str(&paint.paint(Tone::Good, &line));
            out.push('\n');
        }
        out.push_str(RULER);
        out.push('\n');
        out
    }
}

/// `exporter heap: mmap = pfnmap (gup p = v[0] answers EFAULT)`, with what was computed.
#[must_use]
pub fn prevented(prevention: &Prevention, kind: HazardKind) -> String {
    let why = match &prevention.refused {
        Some((statement, answer, true)) => format!(" (`{statement}` answers {answer})"),
        Some((statement, answer, false)) => format!(" (`{statement}` may answer {answer})"),
        None => String::new(),
    };
    let rest = if prevention.clean {
        "no hazard is left in any interleaving".to_owned()
    } else {
        format!("no interleaving shows {kind}, though some show other hazards")
    };
    format!("{}{why} [computed: with that alone changed, {rest}]", prevention.change.describe())
}

impl Teller<'_> {
    /// The hazards of a schedule, in the order of its steps, without `Prevented by`.
    pub(super) fn splats(self, replay: &Replay) -> Vec<Splat> {
        let mut splats = Vec::new();
        for (at, event) in replay.events.iter().enumerate() {
            for hazard in event.hazards() {
                splats.push(Splat {
                    hazard: hazard.kind,
                    step: at + 1,
                    process: event.actor,
                    role: self.scenario.programs[event.actor].role.clone(),
                    what: self.what(event, hazard, at + 1),
                    history: self.history(replay, hazard, at),
                    prevented_by: Vec::new(),
                });
            }
        }
        if replay.outcome.hazards & HazardKind::Deadlock.bit() != 0 {
            splats.push(self.deadlock(replay));
        }
        splats
    }

    fn what(self, event: &Event, hazard: &Hazard, step: usize) -> Vec<String> {
        let mut lines = vec![self.access_line(event, hazard, step)];
        let frame = self.frame(hazard.frame);
        let now = match hazard.owner {
            Owner::Free => "which nobody owns now".to_owned(),
            Owner::Page(page) => format!("which is {} now", self.page(page)),
            Owner::Reserved(page) => {
                format!("which a running move fills for {} now", self.page(page))
            }
            Owner::Retired(page) => {
                format!("which was {} and is about to be freed", self.page(page))
            }
            Owner::Shadow(page) => {
                format!(
                    "which is the importer's shadow of {}, not {}",
                    self.page(page),
                    self.page(page)
                )
            }
            Owner::Anon => "which is anonymous memory of a process".to_owned(),
            Owner::Orphan => "which was given back and lives by page references alone".to_owned(),
        };
        let which = match hazard.kind {
            HazardKind::PinBlocksMove | HazardKind::OrphanPin => "The pinned page",
            _ => "The buggy address",
        };
        if hazard.frame.is_some() {
            lines.push(format!("{which} is frame {frame}, {now}"));
        }
        lines
    }

    fn access_line(self, event: &Event, hazard: &Hazard, step: usize) -> String {
        let names = &self.scenario.names;
        let via = names.via(&self.scenario.world, hazard.via);
        let target = hazard.target.map(|target| names.target(&self.scenario.world, target));
        let meant = target.clone().map_or_else(String::new, |t| format!(", meant for {t}"));
        let of = target.unwrap_or_else(|| "it".to_owned());
        let value = hazard.value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let expected = hazard.expected.map(|value| value.to_string());
        match hazard.kind {
            HazardKind::PinBlocksMove => {
                format!("{} answers EBUSY at step {step}: a page is pinned", self.job(event))
            }
            HazardKind::OrphanPin => {
                format!("{} at step {step} leaves a pinned page behind", self.job(event))
            }
            HazardKind::KernelBug => format!(
                "BUG_ON((vma->vm_flags & VM_PFNMAP) && is_cow_mapping(vma->vm_flags)) at step \
                 {step}, {via}"
            ),
            HazardKind::IommuFault => {
                format!("DMA through {via} at step {step}: the IOMMU maps no such address{meant}")
            }
            HazardKind::UnfencedAccess => {
                format!("Access through {via} at step {step} without a fence{meant}")
            }
            HazardKind::LostWrite if matches!(hazard.via, Via::Exporter(_)) => {
                let instead =
                    expected.map_or_else(String::new, |expected| format!(", not {expected}"));
                format!("{of} holds {value}{instead}, from step {step} on: a write is lost")
            }
            HazardKind::Incoherent if !is_access(hazard.via) => {
                let should = expected.unwrap_or_else(|| "another value".to_owned());
                format!("{of} holds {value}, not {should}, from step {step} on ({via})")
            }
            HazardKind::StaleRead
            | HazardKind::LostWrite
            | HazardKind::CrossBufferRead
            | HazardKind::CrossBufferWrite
            | HazardKind::UseAfterFree
            | HazardKind::DivergedCow
            | HazardKind::Incoherent
            | HazardKind::Deadlock => {
                if self.writes(event) {
                    return format!("Write of value {value} through {via} at step {step}{meant}");
                }
                let should = match (&expected, hazard.target) {
                    (Some(should), Some(Target::Page(_) | Target::Va(_))) if *should != value => {
                        format!("; {of} should hold {should}")
                    }
                    _ => meant,
                };
                format!("Read of value {value} through {via} at step {step}{should}")
            }
        }
    }

    fn writes(self, event: &Event) -> bool {
        let instruction = &self.scenario.programs[event.actor].instructions[event.pc];
        matches!(
            instruction.action,
            Action::Step(
                Step::Store { .. }
                    | Step::DmaFinish { dir: Dir::Write(_), .. }
                    | Step::DmaStart { dir: Dir::Write(_), .. }
            )
        )
    }

    /// `The move of A`, `The allocation of B`.
    fn job(self, event: &Event) -> String {
        let instruction = &self.scenario.programs[event.actor].instructions[event.pc];
        let Action::Step(step) = instruction.action else { return "The operation".to_owned() };
        match step {
            Step::Exporter { buf, job, .. } => {
                let noun = match job {
                    Job::Move(_) | Job::Purge => job_word(job),
                    Job::Revoke => "revocation",
                };
                format!("The {noun} of {}", self.buf(buf))
            }
            Step::Alloc(buf) => format!("The allocation of {}", self.buf(buf)),
            Step::Close(_) | Step::Munmap { .. } | Step::Detach(_) => "The last put".to_owned(),
            _ => "The operation".to_owned(),
        }
    }

    fn deadlock(self, replay: &Replay) -> Splat {
        let last = replay.last();
        let mut history = Vec::new();
        let mut first = None;
        for actor in 0..self.scenario.programs.len() {
            let Some(instruction) = self.scenario.next(last, actor) else { continue };
            first.get_or_insert(actor);
            let statement = &self.scenario.programs[actor].statements[instruction.statement];
            let line = match statement.line {
                0 => String::new(),
                line => format!(", line {line}"),
            };
            history.push(format!("P{actor} waits in ({}{line})", statement.text));
        }
        for (index, buf) in last.model.bufs.iter().enumerate() {
            if buf.lock.is_some() {
                let name = self.buf(crate::units::BufId::at(index));
                history.push(format!("the reservation lock of {name} is held by {:?}", buf.lock));
            }
        }
        for (index, fence) in last.model.fences.iter().enumerate() {
            if fence.slot == crate::model::Slot::Held {
                let name = self.scenario.names.fence(crate::units::FenceId::at(index));
                history.push(format!("fence {name} of {:?} is not signalled", fence.actor));
            }
        }
        let process = first.unwrap_or(0);
        let step = replay.events.len();
        Splat {
            hazard: HazardKind::Deadlock,
            step,
            process,
            role: self.scenario.programs[process].role.clone(),
            what: vec![format!("After step {step} nobody can go on")],
            history,
            prevented_by: Vec::new(),
        }
    }
}

const fn is_access(via: Via) -> bool {
    matches!(via, Via::Vma(..) | Via::Device(..))
}

/// Whether the step shows a hazard.
pub(super) fn hazards(event: &Event) -> Vec<&'static str> {
    let of = |effect: &Effect| match effect {
        Effect::Hazard(hazard) => Some(hazard.kind.word()),
        _ => None,
    };
    event.effects.iter().filter_map(of).collect()
}
