//! A hazard, told as KASAN tells a use-after-free.

use serde::Serialize;

use super::words::{Teller, operation_word};
use crate::model::{
    Dir, Effect, Handle, Hazard, HazardKind, Operation, Owner, State, Step, Target, Via,
};
use crate::question::prevent::Prevention;
use crate::question::scenario::{Action, Replay, ScenarioState, ScheduleStep};
use crate::report::paint::{Paint, Tone};
use crate::terminal::{RULER, bug_line};

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
    /// Single changes of a rule that prevent it; none when nobody has looked.
    pub prevented_by: Option<Vec<Prevented>>,
}

/// A single change of a rule after which no hazard happens, as computed.
#[derive(Debug, Clone, Serialize)]
pub struct Prevented {
    /// `exporter heap { mmap = pfnmap }`.
    change: String,
    /// What is refused then: statement and answer.
    refused: Option<String>,
    /// Whether it prevents nothing, but makes an operation of the test fail in every interleaving.
    merely_refuses: bool,
}

impl Prevented {
    /// What was found.
    #[must_use]
    pub fn new(prevention: &Prevention) -> Self {
        let refused = prevention.refused.as_ref().map(|refusal| {
            let verb = if refusal.always { "answers" } else { "can answer" };
            format!("`{}` {verb} {}", refusal.statement, refusal.answer)
        });
        let merely_refuses = prevention.merely_refuses();
        Self { change: prevention.change.describe(), refused, merely_refuses }
    }

    /// `Prevented by: exporter heap { mmap = pfnmap } (..)`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let what = if self.merely_refuses { "Refused" } else { "Prevented" };
        let refused = self.refused.as_ref().map_or_else(String::new, |r| format!(" ({r})"));
        format!("{what} by: {}{refused}", self.change)
    }
}

fn word<S: serde::Serializer>(kind: &HazardKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.word())
}

impl Splat {
    fn prevention(out: &mut String, prevented: &[Prevented], paint: Paint) {
        let (fails, happens): (Vec<&Prevented>, Vec<&Prevented>) =
            prevented.iter().partition(|change| change.merely_refuses);
        let mut list = |tone: Tone, changes: &[&Prevented]| {
            for change in changes {
                out.push_str(&paint.paint(tone, &change.sentence()));
                out.push('\n');
            }
        };
        list(Tone::Good, &happens);
        list(Tone::Plain, &fails);
        out.push_str(match (happens.len(), fails.len()) {
            (0, 0) => {
                "Prevented by: no change of a single rule [computed: a hazard stays possible with each]\n"
            }
            (0, _) => {
                "[computed: with each alone no hazard is left, but an operation of the test always \
                 fails]\n"
            }
            (1, 0) => "[computed: with that alone changed no interleaving shows any hazard]\n",
            (_, _) => {
                "[computed: with any one of these alone changed no interleaving shows any hazard]\n"
            }
        });
    }
}

impl Splat {
    /// As text.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut out = format!("{RULER}\n");
        let place = format!("in P{} ({})", self.process, self.role);
        let bug = bug_line(self.hazard, &place);
        out.push_str(&paint.paint(Tone::Bad, &bug));
        out.push('\n');
        for line in &self.what {
            out.push_str(line);
            out.push('\n');
        }
        for line in &self.history {
            out.push_str(&format!(" {line}\n"));
        }
        if let Some(prevented) = &self.prevented_by {
            Self::prevention(&mut out, prevented, paint);
        }
        out.push_str(RULER);
        out.push('\n');
        out
    }
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
                    what: self.what(event, hazard, at + 1, &previous(replay, at).model),
                    history: self.history(replay, hazard, at),
                    prevented_by: None,
                });
            }
        }
        if replay.outcome.hazards & HazardKind::Deadlock.bit() != 0 {
            splats.push(self.deadlock(replay));
        }
        splats
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the headline of a report has a word for the rest"
    )]
    fn what(
        self,
        event: &ScheduleStep,
        hazard: &Hazard,
        step: usize,
        before: &State,
    ) -> Vec<String> {
        let mut lines = vec![self.access_line(event, hazard, step, before)];
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
            Owner::Bounce(page) => format!("which is a bounce page of {}", self.page(page)),
            Owner::Anon => "which is anonymous memory of a process".to_owned(),
            Owner::Zero => "which is everybody's page of zeros".to_owned(),
            Owner::Orphan => "which was given back and lives by page references alone".to_owned(),
        };
        let which = match hazard.kind {
            HazardKind::PinBlocksMove | HazardKind::OrphanPin | HazardKind::WriteThroughReadPin => {
                "The pinned page"
            }
            HazardKind::MissedFence => "The page",
            HazardKind::OrphanMapping => "The mapped page",
            _ => "The buggy address",
        };
        if hazard.frame.is_some() {
            lines.push(format!("{which} is frame {frame}, {now}"));
        }
        if let Some(Target::Page(page)) = hazard.target {
            let home = event.after.model.pages[page.index()].frame;
            if home.is_some() && home != hazard.frame {
                lines.push(format!("{} itself is frame {}", self.page(page), self.frame(home)));
            }
        }
        lines
    }

    /// `pin p`, `pfn cache q`, `mapping P0:v[0]`.
    fn via(self, via: Via, before: &State) -> String {
        match via {
            Via::Device(Handle::Pin(pin), _) if !before.pins[pin.index()].counted => {
                format!("cached pfn {}", self.scenario.names.pin(pin))
            }
            Via::Device(..) | Via::Vma(..) | Via::Exporter(_) | Via::Cache => {
                self.scenario.names.via(&self.scenario.world, via)
            }
        }
    }

    fn access_line(
        self,
        event: &ScheduleStep,
        hazard: &Hazard,
        step: usize,
        before: &State,
    ) -> String {
        let names = &self.scenario.names;
        let via = self.via(hazard.via, before);
        let target = hazard.target.map(|target| names.target(&self.scenario.world, target));
        let meant = target.clone().map_or_else(String::new, |t| format!(", meant for {t}"));
        let of = target.unwrap_or_else(|| "it".to_owned());
        let value = hazard.value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let expected = hazard.expected.map(|value| value.to_string());
        match hazard.kind {
            HazardKind::PinBlocksMove => {
                format!("{} answers EBUSY at step {step}: a page is pinned", self.operation(event))
            }
            HazardKind::OrphanPin => {
                format!("{} at step {step} leaves a pinned page behind", self.operation(event))
            }
            HazardKind::OrphanMapping => {
                format!("{} at step {step} leaves a mapped page behind", self.operation(event))
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
            HazardKind::WriteThroughReadPin => format!(
                "Write of value {value} through {via} at step {step}, which was taken for reading\
                 {meant}"
            ),
            HazardKind::MissedFence => format!(
                "SYNC of {of} at step {step} does not wait for a writer: its fence is in the \
                 BOOKKEEP slot"
            ),
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

    fn writes(self, event: &ScheduleStep) -> bool {
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
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the headline of a report has a word for the rest"
    )]
    fn operation(self, event: &ScheduleStep) -> String {
        let instruction = &self.scenario.programs[event.actor].instructions[event.pc];
        let Action::Step(step) = instruction.action else { return "The operation".to_owned() };
        match step {
            Step::Exporter { buf, operation, .. } => {
                let noun = match operation {
                    Operation::Move(_) | Operation::Purge => operation_word(operation),
                    Operation::Revoke => "revocation",
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
                let holder = last.model.tickets.get(buf.lock.index());
                let plain = holder.is_some_and(|ticket| ticket.age == 0);
                let how = if plain { ", without a ticket" } else { "" };
                history
                    .push(format!("the reservation lock of {name} is held by {:?}{how}", buf.lock));
            }
        }
        for (mm, lock) in last.model.mms.iter().enumerate() {
            let all = |bits: u16| (0..16).filter(move |actor| bits & 1 << actor != 0);
            let mut says = |what: String| history.push(format!("the mmap_lock of P{mm} {what}"));
            if lock.writer.is_some() {
                says(format!("is held for writing by {:?}", lock.writer));
            }
            for actor in all(lock.readers) {
                says(format!("is held for reading by P{actor}"));
            }
            for actor in all(lock.faults) {
                says(format!("is held for reading by P{actor}, which faults"));
            }
            for actor in all(lock.queued) {
                says(format!("lets no reader past P{actor}, which waits to write"));
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
            prevented_by: None,
        }
    }
}

fn previous(replay: &Replay, at: usize) -> &ScenarioState {
    if at == 0 { &replay.before } else { &replay.events[at - 1].after }
}

const fn is_access(via: Via) -> bool {
    matches!(via, Via::Vma(..) | Via::Device(..))
}

/// Whether the step shows a hazard.
pub(super) fn hazards(event: &ScheduleStep) -> Vec<&'static str> {
    let of = |effect: &Effect| {
        let Effect::Hazard(hazard) = effect else { return None };
        Some(hazard.kind.word())
    };
    event.effects.iter().filter_map(of).collect()
}
