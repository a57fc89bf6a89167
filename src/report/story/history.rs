//! What led to a hazard: when the way was made, when the buffer left, whose memory it became.
//!
//! Everything is read off the effects of the schedule up to the hazard; nothing is inferred from
//! names or rules.

use std::collections::BTreeSet;

use super::memory::life_word;
use super::words::{Teller, vma_kind};
use crate::model::{
    Dir, Effect, ExporterStep, Handle, Hazard, HazardKind, Life, MoveNotify, Owner, Reach, State,
    Step, Target, Via, World, ZapReach,
};
use crate::question::scenario::{Action, Replay, ScheduleStep};
use crate::units::{BufId, FrameId, PageId, PinId, PteId, SgId, VmaId};

/// What a hazard's history is about.
pub(super) struct Subject {
    kind: HazardKind,
    /// The frame that was reached, and all frames that the meant page has had.
    frames: BTreeSet<FrameId>,
    /// The frame that was reached.
    reached: FrameId,
    /// The page that was meant.
    page: Option<PageId>,
    buf: Option<BufId>,
    /// Mapping and page of it that the access went through, or that the pin was taken at.
    vma: Option<(VmaId, u8)>,
    pins: BTreeSet<PinId>,
    sg: Option<SgId>,
    /// The step (from 0) in which a device translated the address for the access.
    translated: Option<usize>,
    /// First line of the history that may be about frames and pages.
    from: usize,
}

impl Subject {
    /// Pins, or the entry, that hold the page which a hazard is about and no access reached.
    fn holders(&mut self, world: &World, after: &State, hazard: &Hazard) {
        if matches!(hazard.kind, HazardKind::PinBlocksMove | HazardKind::OrphanPin) {
            let held = |pin: &PinId| after.pins[pin.index()].frame == hazard.frame;
            self.pins = (0..after.pins.len()).map(PinId::at).filter(held).collect();
        }
        if hazard.kind == HazardKind::OrphanMapping {
            let holds = |pte: &PteId| after.ptes[pte.index()].frame == hazard.frame;
            let pte = (0..after.ptes.len()).map(PteId::at).find(holds);
            self.vma = pte.map(|pte| world.vma_of(pte)).or(self.vma);
        }
    }
}

impl Subject {
    /// Whether `handle` is the way of the access.
    fn is_through(&self, handle: Handle) -> bool {
        match handle {
            Handle::Pin(pin) => self.pins.contains(&pin),
            Handle::Sg(sg) => self.sg == Some(sg),
        }
    }
}

impl Teller<'_> {
    /// `P0 (gup p = v[0] write longterm, line 12)`.
    pub(super) fn who(self, event: &ScheduleStep) -> String {
        let program = &self.scenario.programs[event.actor];
        let statement = &program.statements[program.instructions[event.pc].statement];
        match statement.line {
            0 => format!("P{} ({})", event.actor, statement.text),
            line => format!("P{} ({}, line {line})", event.actor, statement.text),
        }
    }

    pub(super) fn page(self, page: PageId) -> String {
        self.scenario.names.page(&self.scenario.world, page)
    }

    /// What `hazard`, seen in step `at` (from 0), is about.
    pub(super) fn subject(self, replay: &Replay, hazard: &Hazard, at: usize) -> Subject {
        let world = &self.scenario.world;
        let after = &replay.events[at].after.model;
        let mut subject = Subject {
            kind: hazard.kind,
            frames: BTreeSet::from([hazard.frame]),
            reached: hazard.frame,
            page: None,
            buf: None,
            vma: None,
            pins: BTreeSet::new(),
            sg: None,
            translated: None,
            from: 0,
        };
        match hazard.via {
            Via::Vma(vma, page) => subject.vma = Some((vma, page)),
            Via::Device(Handle::Pin(pin), _) => {
                subject.pins.insert(pin);
                let pte = after.pins[pin.index()].pte;
                subject.vma = pte.is_some().then(|| world.vma_of(pte));
            }
            Via::Device(Handle::Sg(sg), _) => subject.sg = Some(sg),
            Via::Exporter(buf) => subject.buf = Some(buf),
            Via::Cache => {}
        }
        match hazard.target {
            Some(Target::Page(page)) => subject.page = Some(page),
            Some(Target::Va(pte)) => {
                let (vma, page) = world.vma_of(pte);
                subject.vma.get_or_insert((vma, page));
                let area = &after.vmas[vma.index()];
                if area.buf.is_some() {
                    subject.page = world.page(area.buf, area.offset + page);
                }
            }
            None => {}
        }
        subject.holders(world, after, hazard);
        if let Some(page) = subject.page {
            subject.buf = Some(world.buf_of(page));
            let states = std::iter::once(&replay.before.model)
                .chain(replay.events[..=at].iter().map(|event| &event.after.model));
            subject.frames.extend(
                states.map(|state| state.pages[page.index()].frame).filter(|f| f.is_some()),
            );
        }
        for effect in replay.events[..=at].iter().flat_map(|event| &event.effects) {
            if let Effect::CowCopied { from, to, .. } = *effect
                && subject.frames.contains(&from)
            {
                subject.frames.insert(to);
            }
        }
        if hazard.kind == HazardKind::LostWrite && matches!(hazard.via, Via::Exporter(_)) {
            self.lost_way(replay, &mut subject, at);
        }
        let starts = |event: &ScheduleStep| {
            event.effects.iter().any(|effect| {
                let Effect::DmaStarted(handle, ..) = *effect else { return false };
                subject.is_through(handle)
            })
        };
        subject.translated = replay.events[..=at].iter().rposition(starts);
        subject.from = self.made_at(replay, &subject, at);
        subject
    }

    /// A move that loses a write is about the way of that write.
    fn lost_way(self, replay: &Replay, subject: &mut Subject, at: usize) {
        for effect in replay.events[..=at].iter().rev().flat_map(|event| &event.effects) {
            if let Effect::Stored(vma, page, frame, _) = *effect
                && subject.frames.contains(&frame)
            {
                subject.vma = Some((vma, page));
                return;
            } else if let Effect::DmaFinished(handle, _, frame, Dir::Write(_), _) = *effect
                && subject.frames.contains(&frame)
            {
                match handle {
                    Handle::Sg(sg) => subject.sg = Some(sg),
                    Handle::Pin(pin) => {
                        subject.pins.insert(pin);
                        let pte = replay.events[at].after.model.pins[pin.index()].pte;
                        subject.vma = pte.is_some().then(|| self.scenario.world.vma_of(pte));
                    }
                }
                return;
            }
        }
    }

    /// The step (from 0) in which the way of an access was made.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a history names what bears on its subject; nothing is decided by it"
    )]
    fn made_at(self, replay: &Replay, subject: &Subject, at: usize) -> usize {
        let makes = |event: &ScheduleStep| {
            event.effects.iter().any(|effect| match *effect {
                Effect::Pinned(pin, ..) | Effect::PfnCached(pin, ..) => subject.pins.contains(&pin),
                Effect::SgMapped(sg) => subject.sg == Some(sg),
                Effect::Faulted(vma, page, pte) => {
                    subject.pins.is_empty()
                        && subject.vma == Some((vma, page))
                        && pte.frame == subject.reached
                }
                _ => false,
            })
        };
        replay.events[..=at].iter().rposition(makes).unwrap_or(0)
    }

    /// The lines of a history, in the order of the steps.
    pub(super) fn history(self, replay: &Replay, hazard: &Hazard, at: usize) -> Vec<String> {
        let subject = self.subject(replay, hazard, at);
        let mut lines = Vec::new();
        for (index, event) in replay.events[..=at].iter().enumerate() {
            // What comes after the hazard in its own step is its consequence.
            let is_it = |effect: &Effect| matches!(effect, Effect::Hazard(seen) if seen == hazard);
            let end = event.effects.iter().position(|effect| index == at && is_it(effect));
            let mut effects: Vec<&Effect> =
                event.effects[..end.unwrap_or(event.effects.len())].iter().collect();
            // That a buffer is released is why its frames are freed.
            effects.sort_by_key(|effect| !matches!(effect, Effect::LifeChanged(_)));
            for effect in effects {
                if let Some(line) = self.line(replay, &subject, index, effect) {
                    lines.push(line);
                }
            }
            lines.extend(self.zap_missed(&subject, index, event));
        }
        if subject.kind == HazardKind::UnfencedAccess {
            lines.extend(self.fences(replay, &subject, at));
        }
        lines
    }

    fn line(
        self,
        replay: &Replay,
        subject: &Subject,
        index: usize,
        effect: &Effect,
    ) -> Option<String> {
        let event = &replay.events[index];
        // Earlier accesses through the same way are another story.
        if matches!(effect, Effect::DmaStarted(..)) && subject.translated != Some(index) {
            return None;
        }
        let what = self.way(subject, event, effect).or_else(|| {
            (index >= subject.from).then(|| self.what_became_of(subject, event, effect)).flatten()
        });
        let what = what.or_else(|| self.traffic(subject, event, effect))?;
        Some(self.dated(&what, index, event))
    }

    /// `what at step n by Pm (statement)`, with what stands behind a semicolon at the end.
    fn dated(self, what: &str, index: usize, event: &ScheduleStep) -> String {
        let (what, note) = what.split_once("; ").map_or((what, None), |(w, n)| (w, Some(n)));
        let note = note.map_or_else(String::new, |note| format!("; {note}"));
        format!("{what} at step {} by {}{note}", index + 1, self.who(event))
    }

    /// A zap that left the entry of the access where it was, and why.
    fn zap_missed(self, subject: &Subject, index: usize, event: &ScheduleStep) -> Option<String> {
        let world = &self.scenario.world;
        let instruction = &self.scenario.programs[event.actor].instructions[event.pc];
        let Action::Step(Step::Exporter { buf, step: ExporterStep::Zap, .. }) = instruction.action
        else {
            return None;
        };
        let (vma, page) = subject.vma?;
        let state = &event.after.model;
        let area = &state.vmas[vma.index()];
        let pte = world.pte(vma, page)?;
        if area.buf != buf || !state.ptes[pte.index()].present() {
            return None;
        }
        let name = self.scenario.names.vma(vma);
        let why = match area.reach {
            Reach::Importer => format!("{name} hangs off the importer's address_space"),
            Reach::WrongPgoff => format!("the vm_pgoff of {name} lacks the fake offset"),
            Reach::Shadow => format!("{name} maps the importer's shadow pages"),
            Reach::SgTable => format!("{name} maps the pages of the importer's sg_table"),
            Reach::Aperture => {
                format!("{name} is the importer's aperture, which its move_notify leaves")
            }
            Reach::Anon => return None,
            Reach::Exporter => match world.exporter_of(buf).zap {
                ZapReach::AddressSpace => return None,
                ZapReach::VmaPointer => format!("the driver's one VMA pointer is not {name}"),
                ZapReach::WrongRange => "its range begins a page too late".to_owned(),
                ZapReach::VmStart => "its range begins at an address, not at an offset".to_owned(),
                ZapReach::WrongPgoff => format!("{name} is not at the buffer's fake offset"),
            },
        };
        let what = format!("zap does not reach {}; {why}", self.place(vma, page));
        Some(self.dated(&what, index, event))
    }

    /// How the way of the access came about.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a history names what bears on its subject; nothing is decided by it"
    )]
    fn way(self, subject: &Subject, event: &ScheduleStep, effect: &Effect) -> Option<String> {
        let after = &event.after.model;
        match *effect {
            Effect::VmaMapped(vma) => subject.vma.is_some_and(|(v, _)| v == vma).then(|| {
                let kind = vma_kind(&after.vmas[vma.index()]);
                format!("{} mapped ({kind})", self.scenario.names.vma(vma))
            }),
            Effect::VmaMoved { to, from } => subject.vma.is_some_and(|(v, _)| v == to).then(|| {
                let name = |vma| self.scenario.names.vma(vma);
                format!("{} moved to {} with its entries", name(from), name(to))
            }),
            Effect::Forked(child) => subject
                .vma
                .is_some_and(|(vma, _)| self.scenario.world.mm_of(vma) == child)
                .then(|| format!("page table copied to {child:?}")),
            Effect::Faulted(vma, page, pte) => (subject.vma == Some((vma, page))).then(|| {
                format!("{} faulted in: {}", self.place(vma, page), self.frame(pte.frame))
            }),
            Effect::Zapped(vma, page, _) => (subject.vma == Some((vma, page)))
                .then(|| format!("{} zapped{}", self.place(vma, page), remains(subject, event))),
            Effect::Pinned(pin, _, _, frame, fast) => subject.pins.contains(&pin).then(|| {
                let path = if fast { "gup_fast" } else { "the slow path" };
                format!(
                    "{} pinned by {path} as {}",
                    self.frame(frame),
                    self.scenario.names.pin(pin)
                )
            }),
            Effect::PfnCached(pin, _, _, frame) => subject.pins.contains(&pin).then(|| {
                let name = self.scenario.names.pin(pin);
                format!("pfn of {} cached as {name}; no reference is held", self.frame(frame))
            }),
            Effect::Unpinned(pin) => subject
                .pins
                .contains(&pin)
                .then(|| format!("{} given up", self.scenario.names.pin(pin))),
            Effect::SgMapped(sg) => (subject.sg == Some(sg)).then(|| {
                let frames = &after.sg_frames.unnoted()[sg.index() * crate::units::MAX_PAGES..];
                let frames = frames.iter().take(crate::units::MAX_PAGES).filter(|f| f.is_some());
                let frames: Vec<String> = frames.map(|frame| self.frame(*frame)).collect();
                format!("sg_table {} mapped: {}", self.scenario.names.sg(sg), frames.join(", "))
            }),
            Effect::SgUnmapped(sg) => (subject.sg == Some(sg)).then(|| {
                let cached = after.tlb.unnoted().iter().any(|frame| frame.is_some());
                let keeps = if cached { "; the device's TLB has it still" } else { "" };
                format!("sg_table {} unmapped{keeps}", self.scenario.names.sg(sg))
            }),
            Effect::TlbFlushed(sg) => (subject.sg == Some(sg))
                .then(|| format!("the device's TLB flushed of {}", self.scenario.names.sg(sg))),
            Effect::Notified(attachment, _) => subject
                .sg
                .is_some_and(|sg| self.scenario.world.attachment_of(sg) == attachment)
                .then(|| {
                    let rules = self.scenario.world.importer_of(attachment);
                    let ignored = rules.move_notify == MoveNotify::Ignored;
                    let note = if ignored { "; the importer ignores it" } else { "" };
                    format!("move_notify called{note}")
                }),
            Effect::DmaStarted(handle, _, frame, _) => (subject.is_through(handle)
                && subject.frames.contains(&frame))
            .then(|| format!("address translated to {}", self.frame(frame))),
            _ => None,
        }
    }

    /// What became of the page that was meant and of the frame that was reached.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a history names what bears on its subject; nothing is decided by it"
    )]
    fn what_became_of(
        self,
        subject: &Subject,
        event: &ScheduleStep,
        effect: &Effect,
    ) -> Option<String> {
        match *effect {
            Effect::Rebound(page, frame) => (subject.page == Some(page))
                .then(|| format!("{} moved away to {}", self.page(page), self.frame(frame))),
            Effect::FrameFreed(frame) => {
                (frame == subject.reached).then(|| format!("frame {} freed", self.frame(frame)))
            }
            Effect::FrameOrphaned(frame) => (frame == subject.reached)
                .then(|| format!("frame {} put; page references remain", self.frame(frame))),
            Effect::FrameFilledInCache(frame, ..) => (frame == subject.reached).then(|| {
                format!("frame {} allocated and filled in the CPU's cache", self.frame(frame))
            }),
            Effect::FrameFilled(frame, owner, _) => (frame == subject.reached).then(|| {
                let owner = match owner {
                    Owner::Page(page) => self.page(page),
                    Owner::Free
                    | Owner::Reserved(_)
                    | Owner::Retired(_)
                    | Owner::Shadow(_)
                    | Owner::Bounce(_)
                    | Owner::Anon
                    | Owner::Zero
                    | Owner::Orphan => self.scenario.names.owner(&self.scenario.world, owner),
                };
                let is_kept = event.after.model.frames[frame.index()].cached;
                let line =
                    if is_kept { "; the CPU's cache keeps a line of its last owner" } else { "" };
                format!("frame {} allocated to {owner}{line}", self.frame(frame))
            }),
            Effect::FrameReserved(frame, page) => {
                (frame == subject.reached && subject.page != Some(page)).then(|| {
                    format!("frame {} taken for a move of {}", self.frame(frame), self.page(page))
                })
            }
            Effect::LifeChanged(buf) => (subject.buf == Some(buf)).then(|| {
                let life = event.after.model.bufs[buf.index()].life;
                let note =
                    if life == Life::Released { "; that was the last reference" } else { "" };
                format!("{} {}{note}", self.buf(buf), life_word(life))
            }),
            _ => None,
        }
    }

    /// Reads and writes on the way, where the hazard is about their order.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a history names what bears on its subject; nothing is decided by it"
    )]
    fn traffic(self, subject: &Subject, event: &ScheduleStep, effect: &Effect) -> Option<String> {
        let about_order = match subject.kind {
            HazardKind::StaleRead
            | HazardKind::LostWrite
            | HazardKind::Incoherent
            | HazardKind::DivergedCow => true,
            HazardKind::CrossBufferRead
            | HazardKind::CrossBufferWrite
            | HazardKind::UseAfterFree
            | HazardKind::PinBlocksMove
            | HazardKind::OrphanPin
            | HazardKind::OrphanMapping
            | HazardKind::UnfencedAccess
            | HazardKind::KernelBug
            | HazardKind::IommuFault
            | HazardKind::WriteThroughReadPin
            | HazardKind::MissedFence
            | HazardKind::Deadlock => false,
        };
        if !about_order {
            return None;
        }
        let ours = |frame: FrameId| subject.frames.contains(&frame);
        match *effect {
            Effect::Stored(vma, page, frame, value) => ours(frame).then(|| {
                let cached = event.after.model.frames[frame.index()].dirty;
                let line = if cached { "the cache line of " } else { "" };
                let way = self.place(vma, page);
                format!("{value} stored in {line}{} through {way}", self.frame(frame))
            }),
            Effect::DmaFinished(handle, page, frame, Dir::Write(value), _) => {
                ours(frame).then(|| {
                    let way = self.handle(handle, page);
                    format!("{value} written to {} by DMA through {way}", self.frame(frame))
                })
            }
            Effect::FrameCopied { from, to } => (ours(from) && ours(to))
                .then(|| format!("{} copied to {}", self.frame(from), self.frame(to))),
            Effect::CowCopied { vma, page, from, to } => {
                (from.is_some() && ours(from)).then(|| {
                    let at = self.place(vma, page);
                    format!("{at} copied on write: {} to {}", self.frame(from), self.frame(to))
                })
            }
            Effect::CacheFilled(frame, value) => ours(frame)
                .then(|| format!("cache line of {} filled with {value}", self.frame(frame))),
            Effect::CacheWrittenBack(frame, value) => ours(frame)
                .then(|| format!("cache line of {} written back ({value})", self.frame(frame))),
            Effect::CacheDropped(frame) => {
                ours(frame).then(|| format!("cache line of {} invalidated", self.frame(frame)))
            }
            _ => None,
        }
    }

    /// Why an access was unfenced.
    fn fences(self, replay: &Replay, subject: &Subject, at: usize) -> Option<String> {
        let buf = subject.buf?;
        let actor = crate::units::ActorId::at(replay.events[at].actor);
        let before = if at == 0 { &replay.before } else { &replay.events[at - 1].after };
        let mut own = before.model.fences.iter().filter(|f| f.buf == buf && f.actor == actor);
        let name = self.buf(buf);
        Some(match own.next() {
            None => format!("{actor:?} has added no fence to the reservation object of {name}"),
            Some(_) => format!(
                "no unsignalled fence of {actor:?} in the reservation object of {name} covers this"
            ),
        })
    }
}

/// What is left of an access's way after its page table entry is gone.
fn remains(subject: &Subject, event: &ScheduleStep) -> &'static str {
    let pins = &event.after.model.pins;
    let held = subject.pins.iter().find(|pin| pins[pin.index()].frame.is_some());
    match held.map(|pin| pins[pin.index()].counted) {
        None => "",
        Some(true) => "; the pin remains",
        Some(false) => "; the cached pfn remains",
    }
}
