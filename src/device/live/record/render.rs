//! A recording as the text of a litmus file.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each place looks at the few events that concern it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Actor, Doing, Event, Recorder, Recording};
use crate::device::BufferId;
use crate::device::fence::Usage;
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

struct Render<'a> {
    recorder: &'a Recorder,
    /// Pages of a run that stand as one.
    unit: usize,
    lines: Vec<Lines>,
    used: BTreeSet<BufferId>,
    maps: BTreeMap<AttachmentId, usize>,
    /// The statement before, to merge what several pages say alike.
    last: Option<(usize, String)>,
    registers: usize,
    values: u8,
    seen: BTreeSet<HazardKind>,
}

impl Recorder {
    /// The recording. `question` is the first line of its comment.
    #[must_use]
    pub fn recording(&self, name: &str, question: &str) -> Recording {
        let mut render = Render {
            recorder: self,
            unit: self.unit(),
            lines: vec![Lines::default(); self.processes.len().min(PROCESSES_MAX)],
            used: BTreeSet::new(),
            maps: BTreeMap::new(),
            last: None,
            registers: 0,
            values: 0,
            seen: BTreeSet::new(),
        };
        let mut events = 0;
        let mut stopped = None;
        for event in super::repeats::without_repeats(&self.events) {
            match render.event(event) {
                Ok(()) => events += 1,
                Err(why) => {
                    stopped = Some(why);
                    break;
                }
            }
        }
        let stopped = stopped.or_else(|| {
            (self.dropped > 0).then(|| format!("{} events are kept", super::EVENTS_MAX))
        });
        let text = render.file(name, question, events, stopped.as_deref());
        Recording { text, seen: render.seen, events, stopped }
    }

    /// The least number of pages that can stand as one so that every buffer fits.
    fn unit(&self) -> usize {
        let pages = || self.buffers.values().map(|buffer| buffer.pages);
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
            doubled
                .take_while(|&unit| unit <= largest * 2)
                .find(|&unit| fits(unit))
                .unwrap_or(largest)
        })
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Render<'_> {
    /// Writes one event, with the `await`s that order it, or says why it does not fit.
    fn event(&mut self, event: &Event) -> Result<(), String> {
        let process = event.process;
        if process >= PROCESSES_MAX {
            return Err(format!("a litmus test has at most {PROCESSES_MAX} processes"));
        }
        let Some(statement) = self.statement(event)? else {
            return Ok(());
        };
        // Several pages that stand as one say the same thing several times.
        if self.unit > 1 && self.last.as_ref() == Some(&(process, statement.clone())) {
            self.seen.extend(&event.kinds);
            return Ok(());
        }
        let awaits = self.awaits(event);
        let cost = match event.doing {
            Doing::Move { .. } | Doing::Purge(_) | Doing::Revoke(_) => 12 + PAGES_MAX,
            _ => 2,
        };
        let lines = &mut self.lines[process];
        if lines.text.len() + awaits.len() + 1 > STATEMENTS_MAX
            || lines.steps + awaits.len() + cost > STEPS_MAX
        {
            return Err(format!("a litmus process has at most {STATEMENTS_MAX} statements"));
        }
        for (other, count) in awaits {
            let label = label(other, count);
            lines.text.push(format!("await {label}"));
        }
        let number = lines.at_end.len() + 1;
        let text = write_values(&statement, &mut self.values, &mut self.registers);
        lines.text.push(format!("{}: {text}", label(process, number)));
        lines.steps += cost + 1;
        lines.knows.insert(process, number);
        lines.at_end.push((event.end.unwrap_or(event.begin), lines.knows.clone()));
        self.last = Some((process, statement));
        self.seen.extend(&event.kinds);
        Ok(())
    }

    /// The events that must have ended, as (process, its so many-th event), none of them implied
    /// by another or by program order. Afterwards the process knows them.
    fn awaits(&mut self, event: &Event) -> Vec<(usize, usize)> {
        let mut knows = self.lines[event.process].knows.clone();
        let mut wanted: Vec<(u64, usize, usize)> = Vec::new();
        for (other, lines) in self.lines.iter().enumerate() {
            let before = |(end, _): &&(u64, _)| *end < event.begin;
            let ended = lines.at_end.iter().take_while(before).count();
            if other != event.process && ended > 0 {
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
        self.lines[event.process].knows = knows;
        awaits
    }

    /// The statement, with `{v}` for a value and `{r}` for a register; none for what the language
    /// has no word for.
    fn statement(&mut self, event: &Event) -> Result<Option<String>, String> {
        let unit = self.unit;
        Ok(Some(match &event.doing {
            Doing::Alloc(buffer) => format!("alloc {}", self.buffer(*buffer)?),
            Doing::Close(buffer) => format!("close {}", self.buffer(*buffer)?),
            Doing::Move { buffer, to } => format!("move {} -> {to}", self.buffer(*buffer)?),
            Doing::Purge(buffer) => format!("purge {}", self.buffer(*buffer)?),
            Doing::Revoke(buffer) => format!("revoke {}", self.buffer(*buffer)?),
            Doing::Attach { id, buffer, dynamic } => {
                let mode = if *dynamic { "dynamic" } else { "static" };
                format!("attach t{} = {} {mode}", id.0, self.buffer(*buffer)?)
            }
            Doing::Detach(id) => format!("detach t{}", id.0),
            Doing::Map(id) => {
                let count = self.maps.entry(*id).or_default();
                *count += 1;
                format!("map {} = t{}", table(*id, *count - 1), id.0)
            }
            Doing::Unmap(id) => match self.maps.get(id) {
                Some(count) => format!("unmap {}", table(*id, count - 1)),
                None => return Ok(None),
            },
            Doing::DmaBufPin(id, true) => format!("dma_buf_pin t{}", id.0),
            Doing::DmaBufPin(id, false) => format!("dma_buf_unpin t{}", id.0),
            Doing::Submit(fence, id, usage) => match self.maps.get(id) {
                Some(count) => {
                    format!("submit j{} = {} {}", fence.0, table(*id, count - 1), word(*usage))
                }
                None => return Ok(None),
            },
            Doing::Signal(fence) => format!("signal j{}", fence.0),
            Doing::Dma { id, map, page, write: true } => {
                format!("dma_write {}[{}] = {{v}}", table(*id, *map), page / unit)
            }
            Doing::Dma { id, map, page, write: false } => {
                format!("dma_read {{r}} = {}[{}]", table(*id, *map), page / unit)
            }
            Doing::Mmap { id, buffer, importer } => {
                let via =
                    importer.map_or_else(String::new, |rule| format!(" importer {}", via(rule)));
                format!("mmap v{id} = {} shared rw{via}", self.buffer(*buffer)?)
            }
            Doing::Munmap(id) => format!("munmap v{id}"),
            Doing::Cpu { mapping, page, write: true } => {
                format!("store v{mapping}[{}] = {{v}}", page / unit)
            }
            Doing::Cpu { mapping, page, write: false } => {
                format!("load {{r}} = v{mapping}[{}]", page / unit)
            }
            Doing::Gup { id, mapping, page } => {
                format!("gup p{} = v{mapping}[{}] write longterm", id.0, page / unit)
            }
            Doing::Unpin(id) => format!("unpin p{}", id.0),
            Doing::PinDma(id, true) => format!("dma_write p{}[0] = {{v}}", id.0),
            Doing::PinDma(id, false) => format!("dma_read {{r}} = p{}[0]", id.0),
        }))
    }

    fn buffer(&mut self, id: BufferId) -> Result<String, String> {
        let declared = self.recorder.buffers.get(&id).ok_or("a buffer was made before")?;
        self.used.insert(id);
        if self.used.len() > BUFFERS_MAX {
            return Err(format!("a litmus test has at most {BUFFERS_MAX} buffers"));
        }
        Ok(declared.name.clone())
    }

    fn file(&self, name: &str, question: &str, events: usize, stopped: Option<&str>) -> String {
        let mut text = format!("DMABUF {name}\n(* {question}\n");
        // Writing to a String can't fail.
        let _ = writeln!(text, "   Recorded from a running device: {events} events.");
        if let Some(why) = stopped {
            let _ = writeln!(text, "   What came later is not here: {why}.");
        }
        if self.unit > 1 {
            let _ = writeln!(text, "   A page stands for {} pages of the run.", self.unit);
        }
        text.push_str("   Source: driftheap --record\n{RESULT} *)\n\n");
        self.header(&mut text);
        for (index, lines) in self.lines.iter().enumerate() {
            let role = match &self.recorder.processes[index] {
                Actor::Exporter => {
                    let heap = self.recorder.heaps.keys().next().map_or("heap", String::as_str);
                    format!("exporter {}", identifier(heap))
                }
                Actor::Device(name) => format!("device importer {}", identifier(name)),
                Actor::Program(_) => "application".to_owned(),
            };
            let _ = writeln!(text, "P{index} {role} {{");
            for line in &lines.text {
                let _ = writeln!(text, "    {line}");
            }
            text.push_str("}\n");
        }
        let kinds = HazardKind::ALL.iter().map(|kind| format!("    {kind} => hazard {kind}"));
        let kinds = kinds.collect::<Vec<_>>().join(",\n");
        let _ = writeln!(text, "exists (vary(\n{kinds}))");
        text
    }

    fn header(&self, text: &mut String) {
        for (name, rules) in &self.recorder.heaps {
            let rules: Vec<String> = rules
                .non_default()
                .into_iter()
                .map(|(rule, value)| format!("{rule} = {value}"))
                .collect();
            let _ = writeln!(text, "exporter {} {{ {} }}", identifier(name), rules.join("; "));
        }
        for actor in &self.recorder.processes {
            if let Actor::Device(name) = actor {
                let ignores = self.recorder.ignoring.contains(name);
                let rule = if ignores { "move-notify = ignored" } else { "" };
                let _ = writeln!(text, "importer {} {{ {rule} }}", identifier(name));
            }
        }
        let via_importers = self.recorder.events.iter().filter_map(|event| match event.doing {
            Doing::Mmap { importer: Some(rule), .. } => Some(rule),
            _ => None,
        });
        for rule in via_importers.collect::<BTreeSet<_>>() {
            let _ = writeln!(text, "importer {} {{ mmap = {rule} }}", via(rule));
        }
        let _ = writeln!(text, "memory {{ vram = {FRAMES_MAX}; system = {FRAMES_MAX} }}");
        for id in &self.used {
            let Some(buffer) = self.recorder.buffers.get(id) else { continue };
            let _ = writeln!(
                text,
                "buffer {} {{ exporter = {}; pages = {}; placement = {}; state = unallocated }}",
                buffer.name,
                identifier(&buffer.heap),
                buffer.pages.div_ceil(self.unit).clamp(1, PAGES_MAX),
                match buffer.placement {
                    Placement::Vram => "vram",
                    Placement::System | Placement::Cma => "system",
                }
            );
        }
    }
}

fn label(process: usize, number: usize) -> String {
    format!("e{process}_{number}")
}

fn table(id: AttachmentId, map: usize) -> String {
    format!("s{}_{map}", id.0)
}

fn via(rule: ImporterMmap) -> String {
    format!("via-{rule}")
}

fn word(usage: Usage) -> &'static str {
    match usage {
        Usage::Kernel => "kernel",
        Usage::Write => "write",
        Usage::Read => "read",
        Usage::Bookkeep => "bookkeep",
    }
}

/// A name as the language takes it; its own words are out of the way behind a prefix.
fn identifier(name: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("d-{}", name.chars().map(clean).collect::<String>().trim_end_matches('_'))
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
            let words: Vec<String> = HazardKind::ALL
                .iter()
                .map(|&kind| (kind, verdict(kind)))
                .filter(|(_, word)| *word != "Never")
                .map(|(kind, word)| format!("{kind} {word}, "))
                .collect();
            format!("   Result: {}* Never", words.concat())
        });
        self.text.replace("{RESULT}", &result)
    }
}
