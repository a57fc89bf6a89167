//! A recording as the text of a litmus file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::now::Item;
use super::windows::Window;
use super::{RecordedAction, RecordedEvent, Recorder, Recording, WINDOWS_MAX, Who};
use crate::device::BufferId;
use crate::device::live::attach::AttachmentId;
use crate::model::{HazardKind, ImporterMmap, Placement};

/// What the language takes (`src/litmus/mod.rs`).
const PROCESSES_MAX: usize = 6;
const STATEMENTS_MAX: usize = 64;
const BUFFERS_MAX: usize = 16;
const PAGES_MAX: usize = 8;
const FRAMES_MAX: usize = 64;
/// Most steps of one process; a move has a dozen.
const STEPS_MAX: usize = 230;

/// One process while it is written.
#[derive(Clone, Debug, Default)]
struct Lines {
    text: Vec<String>,
    steps: usize,
    /// For each process, how many of its events are known to have ended.
    knows: BTreeMap<usize, usize>,
    /// What was known at the end of each event.
    at_end: Vec<(u64, BTreeMap<usize, usize>)>,
}

impl Lines {
    fn is_full(&self, awaits: usize, cost: usize) -> bool {
        self.text.len() + awaits + 1 > STATEMENTS_MAX || self.steps + awaits + cost > STEPS_MAX
    }
}

struct Render<'a> {
    recorder: &'a Recorder,
    window: &'a Window,
    /// Pages of a run that stand as one.
    unit: usize,
    /// Who has a process, in the order of their numbers.
    processes: Vec<Who>,
    lines: Vec<Lines>,
    used: BTreeSet<BufferId>,
    maps: BTreeMap<AttachmentId, usize>,
    /// The statement before, to merge what several pages say alike.
    last: Option<(usize, String)>,
    registers: usize,
    values: u8,
    seen: BTreeSet<HazardKind>,
}

/// Why events have no place in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LeftOut {
    #[error("a litmus test has at most {BUFFERS_MAX} buffers")]
    Buffers,
    #[error("a litmus test has at most {PROCESSES_MAX} processes")]
    Processes,
    #[error("a litmus process has at most {STATEMENTS_MAX} statements")]
    Statements,
    #[error("an address is from a map before the window")]
    OldAddress,
    #[error("a buffer was made before")]
    OldBuffer,
    #[error("the window before is full")]
    WindowFull,
    #[error("a recording has at most {WINDOWS_MAX} windows")]
    Windows,
    #[error("the way to where it began is too long")]
    TooFar,
}

impl Recorder {
    /// Whether a window fits in a test of the language.
    pub(super) fn fits(&self, window: &Window) -> Result<(), LeftOut> {
        Render::new(self, window).all()
    }

    /// A window that fits, as text.
    pub(super) fn written(
        &self,
        window: &Window,
        title: (&str, &str),
        part: Option<(usize, usize)>,
        stopped: Option<String>,
    ) -> Recording {
        let mut render = Render::new(self, window);
        let fits = render.all();
        debug_assert_eq!(fits, Ok(()), "a window is tried before it is kept");
        let events = window.events.len();
        let text = render.file(title, part, stopped.as_deref());
        Recording { text, seen: render.seen, events, overlaps: window.overlaps(), stopped }
    }
}

/// The least number of pages that can stand as one so that buffers of these sizes fit.
fn unit(sizes: &[usize]) -> usize {
    let pages = || sizes.iter().copied();
    let fits = |unit: usize| {
        let max = pages().map(|pages| pages.div_ceil(unit)).max().unwrap_or(1);
        let sum: usize = pages().map(|pages| pages.div_ceil(unit)).sum();
        max <= PAGES_MAX && sum <= FRAMES_MAX - PAGES_MAX
    };
    let common = pages().fold(0, gcd).max(1);
    let largest = pages().max().unwrap_or(1).max(1);
    // As it is, or by what all sizes have in common, or else not quite.
    [1, common].into_iter().find(|&unit| fits(unit)).unwrap_or_else(|| {
        let doubled = std::iter::successors(Some(1), |unit| Some(unit * 2));
        doubled.take_while(|&unit| unit <= largest * 2).find(|&unit| fits(unit)).unwrap_or(largest)
    })
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl<'a> Render<'a> {
    fn new(recorder: &'a Recorder, window: &'a Window) -> Self {
        let used = window.buffers();
        let sizes = used.iter().filter_map(|id| Some(recorder.buffers.get(id)?.pages));
        Self {
            recorder,
            window,
            unit: unit(&sizes.collect::<Vec<_>>()),
            processes: Vec::new(),
            lines: Vec::new(),
            used,
            maps: window.base.maps.clone(),
            last: None,
            registers: 0,
            values: 0,
            seen: BTreeSet::new(),
        }
    }

    /// Writes what the window finds, and its events.
    fn all(&mut self) -> Result<(), LeftOut> {
        if self.used.len() > BUFFERS_MAX {
            return Err(LeftOut::Buffers);
        }
        let window = self.window;
        let found = window.found(&self.used);
        found.into_iter().chain(&window.events).try_for_each(|event| self.event(event))
    }

    /// When an event had ended for those who came later. A CPU access during a move may fault, and
    /// a fault waits for the lock that the move has: nobody can count on it before.
    fn end_of(&self, event: &RecordedEvent) -> u64 {
        let end = event.end.unwrap_or(event.begin);
        if !matches!(event.doing, RecordedAction::Cpu { .. }) {
            return end;
        }
        let during = |other: &&RecordedEvent| {
            other.begin < event.begin && other.end.is_some_and(|end| event.begin < end)
        };
        let moves = self.window.events.iter().filter(during).filter_map(|other| other.end);
        moves.max().unwrap_or(0).max(end)
    }

    /// The number of somebody's last process.
    fn process(&mut self, who: &Who) -> Result<usize, LeftOut> {
        match self.processes.iter().rposition(|known| known == who) {
            Some(known) => Ok(known),
            None => self.another(who),
        }
    }

    fn another(&mut self, who: &Who) -> Result<usize, LeftOut> {
        if self.processes.len() == PROCESSES_MAX {
            return Err(LeftOut::Processes);
        }
        self.processes.push(who.clone());
        self.lines.push(Lines::default());
        Ok(self.processes.len() - 1)
    }

    /// Writes one event, with the `await`s that order it, or says why it does not fit.
    fn event(&mut self, event: &RecordedEvent) -> Result<(), LeftOut> {
        let Some(statement) = self.statement(event)? else {
            return Ok(());
        };
        let mut process = self.process(&event.who)?;
        // Several pages that stand as one say the same thing several times.
        if self.unit > 1 && self.last.as_ref() == Some(&(process, statement.clone())) {
            self.seen.extend(&event.kinds);
            return Ok(());
        }
        let is_operation = matches!(
            event.doing,
            RecordedAction::Move { .. } | RecordedAction::Purge(_) | RecordedAction::Revoke(_)
        );
        let cost = if is_operation { 12 + PAGES_MAX } else { 2 };
        let mut awaits = self.awaits(process, event);
        if self.lines[process].is_full(awaits.len(), cost) {
            if !matches!(event.who, Who::Exporter(_)) {
                // A mapping is its process's, and a job's fence.
                return Err(LeftOut::Statements);
            }
            process = self.another(&event.who)?;
            awaits = self.awaits(process, event);
        }
        let end = self.end_of(event);
        let lines = &mut self.lines[process];
        for (other, count) in awaits {
            let label = label(other, count);
            lines.text.push(format!("await {label}"));
        }
        let number = lines.at_end.len() + 1;
        let text = write_values(&statement, &mut self.values, &mut self.registers);
        lines.text.push(format!("{}: {text}", label(process, number)));
        lines.steps += cost + 1;
        lines.knows.insert(process, number);
        let before = lines.at_end.last().map_or(0, |(end, _)| *end);
        lines.at_end.push((end.max(before), lines.knows.clone()));
        self.last = Some((process, statement));
        self.seen.extend(&event.kinds);
        Ok(())
    }

    /// The events that must have ended, as (process, its so many-th event), none of them implied
    /// by another or by program order. Afterwards the process knows them.
    fn awaits(&mut self, process: usize, event: &RecordedEvent) -> Vec<(usize, usize)> {
        let mut knows = self.lines[process].knows.clone();
        let mut wanted: Vec<(u64, usize, usize)> = Vec::new();
        for (other, lines) in self.lines.iter().enumerate() {
            let before = |(end, _): &&(u64, _)| *end < event.begin;
            let ended = lines.at_end.iter().take_while(before).count();
            if other != process && ended > 0 {
                wanted.push((lines.at_end[ended - 1].0, other, ended));
            }
        }
        // The latest first: it may know the others.
        wanted.sort_unstable_by(|a, b| b.cmp(a));
        let mut awaits = Vec::new();
        for (_, other, count) in wanted {
            if knows.get(&other).copied().unwrap_or(0) >= count {
                continue;
            }
            awaits.push((other, count));
            for (&process, &known) in &self.lines[other].at_end[count - 1].1 {
                let entry = knows.entry(process).or_default();
                *entry = (*entry).max(known);
            }
        }
        self.lines[process].knows = knows;
        awaits
    }

    /// The statement, with `{v}` for a value and `{r}` for a register; none for what the language
    /// has no word for.
    fn statement(&mut self, event: &RecordedEvent) -> Result<Option<String>, LeftOut> {
        let unit = self.unit;
        Ok(Some(match &event.doing {
            RecordedAction::Alloc(buffer) => format!("alloc {}", self.buffer(*buffer)?),
            RecordedAction::Close(buffer) => format!("close {}", self.buffer(*buffer)?),
            RecordedAction::Move { buffer, to } => {
                format!("move {} -> {to}", self.buffer(*buffer)?)
            }
            RecordedAction::Purge(buffer) => format!("purge {}", self.buffer(*buffer)?),
            RecordedAction::Revoke(buffer) => format!("revoke {}", self.buffer(*buffer)?),
            RecordedAction::Attach { id, buffer, dynamic } => {
                let mode = if *dynamic { "dynamic" } else { "static" };
                format!("attach t{} = {} {mode}", id.0, self.buffer(*buffer)?)
            }
            RecordedAction::Detach(id) => format!("detach t{}", id.0),
            RecordedAction::Map(id) => {
                let count = self.maps.entry(*id).or_default();
                *count += 1;
                format!("map {} = t{}", table(*id, *count - 1), id.0)
            }
            RecordedAction::Unmap(id) => match self.maps.get(id) {
                Some(count) => format!("unmap {}", table(*id, count - 1)),
                None => return Ok(None),
            },
            RecordedAction::DmaBufPin(id, true) => format!("dma_buf_pin t{}", id.0),
            RecordedAction::DmaBufPin(id, false) => format!("dma_buf_unpin t{}", id.0),
            RecordedAction::Submit(fence, id, usage) => match self.maps.get(id) {
                Some(count) => {
                    format!("submit j{} = {} {}", fence.0, table(*id, count - 1), usage.word())
                }
                None => return Ok(None),
            },
            RecordedAction::Signal(fence) => format!("signal j{}", fence.0),
            RecordedAction::Dma { id, age, page, write } => {
                let table = self.told(*id, *age)?;
                if *write {
                    format!("dma_write {table}[{}] = {{v}}", page / unit)
                } else {
                    format!("dma_read {{r}} = {table}[{}]", page / unit)
                }
            }
            RecordedAction::Mmap { id, buffer, importer } => {
                let via =
                    importer.map_or_else(String::new, |rule| format!(" importer {}", via(rule)));
                format!("mmap v{id} = {} shared rw{via}", self.buffer(*buffer)?)
            }
            RecordedAction::Munmap(id) => format!("munmap v{id}"),
            RecordedAction::Cpu { mapping, page, write: true } => {
                format!("store v{mapping}[{}] = {{v}}", page / unit)
            }
            RecordedAction::Cpu { mapping, page, write: false } => {
                format!("load {{r}} = v{mapping}[{}]", page / unit)
            }
            RecordedAction::Gup { id, mapping, page } => {
                format!("gup p{} = v{mapping}[{}] write longterm", id.0, page / unit)
            }
            RecordedAction::Unpin(id) => format!("unpin p{}", id.0),
            RecordedAction::PinDma(id, true) => format!("dma_write p{}[0] = {{v}}", id.0),
            RecordedAction::PinDma(id, false) => format!("dma_read {{r}} = p{}[0]", id.0),
        }))
    }

    /// The sg_table that told an address.
    fn told(&self, id: AttachmentId, age: usize) -> Result<String, LeftOut> {
        let before = self.window.base.maps.get(&id).copied().unwrap_or(0);
        let maps = self.maps.get(&id).copied().unwrap_or(0);
        let map = maps.checked_sub(age + 1).filter(|&map| map >= before);
        let map = map.ok_or(LeftOut::OldAddress)?;
        Ok(table(id, map))
    }

    fn buffer(&self, id: BufferId) -> Result<String, LeftOut> {
        let declared = self.recorder.buffers.get(&id).ok_or(LeftOut::OldBuffer)?;
        Ok(declared.name.clone())
    }

    fn file(
        &self,
        (name, question): (&str, &str),
        part: Option<(usize, usize)>,
        stopped: Option<&str>,
    ) -> String {
        let number = part.filter(|(number, _)| *number > 1);
        let number = number.map_or_else(String::new, |(number, _)| format!("-{number}"));
        let mut text = format!("DMABUF {name}{number}\n(* {question}\n");
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "   Recorded from a running device: {} events.",
            self.window.events.len()
        );
        if let Some((number, count)) = part {
            let _ = writeln!(text, "   Window {number} of {count}.");
        }
        if let Some(why) = stopped {
            let _ = writeln!(text, "   Not all of it is here: {why}.");
        }
        if self.unit > 1 {
            let _ = writeln!(text, "   A page stands for {} pages of the run.", self.unit);
        }
        text.push_str("   Source: driftheap --record\n{RESULT} *)\n\n");
        let words = self.words();
        self.header(&words, &mut text);
        for (index, lines) in self.lines.iter().enumerate() {
            let who = &self.processes[index];
            let word = words.get(who).map_or("", String::as_str);
            let role = match who {
                Who::Exporter(_) => format!("exporter {word}"),
                Who::Device(_) => format!("device importer {word}"),
                Who::Program(_) => "application".to_owned(),
            };
            let _ = writeln!(text, "P{index} {role} {{");
            for line in &lines.text {
                let _ = writeln!(text, "    {line}");
            }
            text.push_str("}\n");
        }
        let kinds = HazardKind::ALL.iter().map(|kind| format!("    {kind} => hazard {kind}"));
        let rest = stopped.map(|_| format!("    {CUT_OFF} => false"));
        let kinds = kinds.chain(rest).collect::<Vec<_>>().join(",\n");
        let _ = writeln!(text, "exists (vary(\n{kinds}))");
        text
    }

    /// A word of the language for each heap and device; no two have the same.
    fn words(&self) -> BTreeMap<Who, String> {
        let heaps = self.used.iter().filter_map(|id| self.recorder.buffers.get(id));
        let heaps = heaps.map(|buffer| Who::Exporter(buffer.heap.clone()));
        let mut words: BTreeMap<Who, String> = BTreeMap::new();
        for who in heaps.chain(self.processes.iter().cloned()) {
            let (Who::Exporter(name) | Who::Device(name)) = &who else { continue };
            let mut word = identifier(name);
            while words.values().any(|taken| *taken == word) && !words.contains_key(&who) {
                word.push('_');
            }
            words.entry(who).or_insert(word);
        }
        words
    }

    fn header(&self, words: &BTreeMap<Who, String>, text: &mut String) {
        for (who, word) in words {
            // Writing to a String can't fail.
            let _ = match who {
                Who::Exporter(heap) => {
                    let rules = self.recorder.heaps.get(heap).map(|rules| rules.non_default());
                    let rules = rules.into_iter().flatten();
                    let rules = rules.map(|(rule, value)| format!("{rule} = {value}"));
                    let rules = rules.collect::<Vec<_>>().join("; ");
                    writeln!(text, "exporter {word} {{ {rules} }}")
                }
                Who::Device(name) => {
                    let ignores = self.recorder.ignoring.contains(name);
                    let rule = if ignores { "move-notify = ignored" } else { "" };
                    writeln!(text, "importer {word} {{ {rule} }}")
                }
                Who::Program(_) => Ok(()),
            };
        }
        let all = self.window.found(&self.used).into_iter().chain(&self.window.events);
        let via_importers = all.filter_map(|event| {
            let RecordedAction::Mmap { importer: Some(rule), .. } = event.doing else {
                return None;
            };
            Some(rule)
        });
        for rule in via_importers.collect::<BTreeSet<_>>() {
            let _ = writeln!(text, "importer {} {{ mmap = {rule} }}", via(rule));
        }
        let _ = writeln!(text, "memory {{ vram = {FRAMES_MAX}; system = {FRAMES_MAX} }}");
        for id in &self.used {
            let Some(buffer) = self.recorder.buffers.get(id) else { continue };
            let found = self.window.base.allocated.get(id);
            let state = if found.is_some() { "allocated" } else { "unallocated" };
            let _ = writeln!(
                text,
                "buffer {} {{ exporter = {}; pages = {}; placement = {}; state = {state} }}",
                buffer.name,
                words.get(&Who::Exporter(buffer.heap.clone())).map_or("", String::as_str),
                buffer.pages.div_ceil(self.unit).clamp(1, PAGES_MAX),
                match found.copied().unwrap_or(buffer.placement) {
                    Placement::Vram => "vram",
                    Placement::System | Placement::Cma => "system",
                },
            );
        }
    }
}

impl Window {
    /// The buffers that its events are about.
    fn buffers(&self) -> BTreeSet<BufferId> {
        let mut attached: BTreeMap<AttachmentId, BufferId> = BTreeMap::new();
        let mut mapped: BTreeMap<u64, BufferId> = BTreeMap::new();
        let mut used = BTreeSet::new();
        for event in self.base.items.iter().map(|item| &item.event).chain(&self.events) {
            if let RecordedAction::Attach { id, buffer, .. } = event.doing {
                attached.insert(id, buffer);
            } else if let RecordedAction::Mmap { id, buffer, .. } = event.doing {
                mapped.insert(id, buffer);
            }
        }
        for event in &self.events {
            used.extend(event.doing.buffer());
            used.extend(event.doing.attachment().and_then(|id| attached.get(&id)));
            used.extend(event.doing.mapping().and_then(|id| mapped.get(&id)));
        }
        for item in &self.base.items {
            let RecordedAction::Gup { id, .. } = item.event.doing else { continue };
            let pins = |event: &RecordedEvent| matches!(event.doing, RecordedAction::PinDma(of, _) | RecordedAction::Unpin(of) if of == id);
            if self.events.iter().any(pins) {
                used.insert(item.buffer);
            }
        }
        used
    }

    /// What it finds of these buffers.
    fn found(&self, used: &BTreeSet<BufferId>) -> Vec<&RecordedEvent> {
        let items = || self.base.items.iter().filter(|item| used.contains(&item.buffer));
        let pins = items().filter(|item| matches!(item.event.doing, RecordedAction::Gup { .. }));
        let pins = pins.filter_map(|item| item.mapping);
        let asked = self.events.iter().filter_map(|event| event.doing.mapping());
        let mappings: BTreeSet<u64> = pins.chain(asked).collect();
        let is_needed = |item: &&Item| match (item.mapping, &item.event.doing) {
            // An importer's mapping is not zapped.
            (Some(_), RecordedAction::Mmap { importer: Some(_), .. }) | (None, _) => true,
            (Some(mapping), _) => mappings.contains(&mapping),
        };
        items().filter(is_needed).map(|item| &item.event).collect()
    }
}

impl RecordedAction {
    fn attachment(&self) -> Option<AttachmentId> {
        if let Self::Detach(id)
        | Self::Map(id)
        | Self::Unmap(id)
        | Self::DmaBufPin(id, _)
        | Self::Submit(_, id, _)
        | Self::Dma { id, .. } = *self
        {
            Some(id)
        } else {
            None
        }
    }

    fn mapping(&self) -> Option<u64> {
        if let Self::Munmap(mapping) | Self::Cpu { mapping, .. } | Self::Gup { mapping, .. } = *self
        {
            Some(mapping)
        } else {
            None
        }
    }
}

/// The question that stands for what is not in a recording.
const CUT_OFF: &str = "what-came-later";

fn label(process: usize, number: usize) -> String {
    format!("e{process}_{number}")
}

fn table(id: AttachmentId, map: usize) -> String {
    format!("s{}_{map}", id.0)
}

fn via(rule: ImporterMmap) -> String {
    format!("via-{rule}")
}

/// A name as the language takes it; its own words are out of the way behind a prefix.
fn identifier(name: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let clean: String = name.chars().map(clean).collect();
    format!("d-{}", if clean.is_empty() { "_" } else { &clean })
}

/// Fills in a fresh value or register. Values differ, so that a stale one is seen.
fn write_values(statement: &str, values: &mut u8, registers: &mut usize) -> String {
    if statement.contains("{v}") {
        *values = if *values == u8::MAX { 1 } else { *values + 1 };
    }
    if statement.contains("{r}") {
        *registers += 1;
    }
    statement.replace("{v}", &values.to_string()).replace("{r}", &format!("r{registers}"))
}

impl Recording {
    /// Puts the expected answers in: `verdict` gives the word for each hazard. Without one the
    /// file expects nothing.
    #[must_use]
    pub fn with_result(&self, verdict: Option<&dyn Fn(HazardKind) -> &'static str>) -> String {
        let result = verdict.map_or_else(String::new, |verdict| {
            let cut_off = self.stopped.as_ref().map(|_| format!("{CUT_OFF} Always, "));
            let words: Vec<String> = HazardKind::ALL
                .iter()
                .map(|&kind| (kind, verdict(kind)))
                .filter(|(_, word)| *word != "Never")
                .map(|(kind, word)| format!("{kind} {word}, "))
                .chain(cut_off)
                .collect();
            format!("   Result: {}* Never", words.concat())
        });
        self.text.replace("{RESULT}", &result)
    }
}
