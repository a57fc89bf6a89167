//! A recording in windows, each a test of its own.
//!
//! Between two moments at which nothing is under way lies a *segment*. A window is a state and
//! segments from there on. A state in which every address that somebody has is its buffer's can be
//! declared ([`Now::base`]). Another is reached from the last such state by what changed since; of
//! that, what leads back to where it was before is left out, so that the way stays short.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::now::{Base, Now};
use super::render::LeftOut;
use super::{RecordedAction, RecordedEvent, Recorder, Recording, Who};
use crate::device::BufferId;

/// Most windows of a recording.
pub const WINDOWS_MAX: usize = 32;

/// Most events of a segment.
pub const SEGMENT_MAX: usize = 512;

/// Longest way from a state that can be declared.
const WAY_MAX: usize = 1024;

/// Most events that are kept since the end of a window, in case that it can go on.
const SKIPPED_MAX: usize = 64;

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    pub(super) base: Arc<Base>,
    pub(super) events: Vec<RecordedEvent>,
}

/// The way from the last state that can be declared.
#[derive(Clone, Debug)]
struct Way {
    base: Arc<Base>,
    /// What changed, and a number for the state behind it.
    steps: Vec<(u64, Vec<RecordedEvent>)>,
}

/// All windows, and what is needed to begin another.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    now: Now,
    /// None while the state can be declared, or its way is lost.
    way: Option<Way>,
    windows: Vec<Window>,
    /// Whether the first window is full.
    later: bool,
    /// What came since the last window's end; none if it was too much.
    skipped: Option<Vec<RecordedEvent>>,
    /// What some window holds.
    covered: BTreeSet<String>,
    /// What none holds, and why.
    left_out: BTreeMap<String, LeftOut>,
    /// Events that were too many between two moments at which nothing was under way.
    lost: u64,
}

impl History {
    /// A segment has ended.
    pub(super) fn add(
        &mut self,
        segment: &[RecordedEvent],
        situation: &dyn Fn() -> String,
        recorder: &Recorder,
    ) {
        self.place(segment, recorder);
        self.follow(segment, situation, recorder);
    }

    /// These are part of a segment that is too long for any window.
    pub(super) fn lose(&mut self, events: &[RecordedEvent], recorder: &Recorder) {
        self.lost += u64::try_from(events.len()).unwrap_or(u64::MAX);
        (self.skipped, self.way, self.later) = (None, None, true);
        self.apply(events, recorder);
    }

    fn apply(&mut self, events: &[RecordedEvent], recorder: &Recorder) {
        for event in events {
            if let RecordedAction::Alloc(buffer) = event.doing
                && let Some(declared) = recorder.buffers.get(&buffer)
            {
                self.now.allocated(buffer, declared.placement, event.who.clone());
            }
            self.now.apply(event);
        }
    }

    /// Puts it into a window, if it says something new.
    fn place(&mut self, segment: &[RecordedEvent], recorder: &Recorder) {
        let words = words(segment, recorder);
        // What only ends something is no reason for another window.
        let is_new = segment.iter().any(|event| !event.doing.ends())
            && words.iter().any(|word| !self.covered.contains(word));
        let mut placed = Err(LeftOut::WindowFull);
        if is_new || !self.later {
            placed = self.longer(segment, recorder);
            self.later |= placed.is_err();
        }
        if is_new && placed.is_err() {
            placed = self.another(segment, recorder);
        }
        match placed {
            Ok(()) => {
                self.left_out.retain(|word, _| !words.contains(word));
                self.covered.extend(words);
                self.skipped = Some(Vec::new());
            }
            Err(why) => {
                let covered = &self.covered;
                let left = words.into_iter().filter(|word| is_new && !covered.contains(word));
                self.left_out.extend(left.map(|word| (word, why)));
                let skipped = self.skipped.take().filter(|skipped| skipped.len() < SKIPPED_MAX);
                self.skipped = skipped.map(|skipped| [skipped, segment.to_vec()].concat());
            }
        }
    }

    /// Lets the last window go on.
    fn longer(&mut self, segment: &[RecordedEvent], recorder: &Recorder) -> Result<(), LeftOut> {
        let first = Window::default();
        let (last, skipped) = match (self.windows.last(), &self.skipped) {
            (None, _) if !self.later => (&first, &Vec::new()),
            (Some(last), Some(skipped)) => (last, skipped),
            _ => return Err(LeftOut::WindowFull),
        };
        let events = [&last.events[..], skipped, segment].concat();
        let longer = Window { base: Arc::clone(&last.base), events }.without_repeats();
        recorder.fits(&longer)?;
        self.windows.pop();
        self.windows.push(longer);
        Ok(())
    }

    /// Begins another one.
    fn another(&mut self, segment: &[RecordedEvent], recorder: &Recorder) -> Result<(), LeftOut> {
        if self.windows.len() >= WINDOWS_MAX {
            return Err(LeftOut::Windows);
        }
        let (base, way) = match &self.way {
            Some(way) => {
                let steps = way.steps.iter().flat_map(|(_, events)| events).cloned();
                (Arc::clone(&way.base), steps.collect())
            }
            None if self.now.is_clean() => (Arc::new(self.now.base()), Vec::new()),
            None => return Err(LeftOut::TooFar),
        };
        let window = Window { base, events: [way, segment.to_vec()].concat() }.without_repeats();
        recorder.fits(&window)?;
        self.windows.push(window);
        Ok(())
    }

    /// Keeps up with the state.
    fn follow(
        &mut self,
        segment: &[RecordedEvent],
        situation: &dyn Fn() -> String,
        recorder: &Recorder,
    ) {
        let was_clean = self.now.is_clean();
        let before = was_clean.then(|| self.now.clone());
        self.apply(segment, recorder);
        if self.now.is_clean() {
            self.way = None;
            return;
        }
        if let Some(before) = before {
            self.way = Some(Way { base: Arc::new(before.base()), steps: Vec::new() });
        }
        let Some(way) = &mut self.way else { return };
        let changed: Vec<RecordedEvent> =
            segment.iter().filter(|event| event.changes()).cloned().collect();
        let mut hasher = DefaultHasher::new();
        situation().hash(&mut hasher);
        if self.now.has_stale_mapping() {
            segment.first().map(|event| event.begin).hash(&mut hasher);
        }
        let state = hasher.finish();
        match way.steps.iter().position(|(known, _)| *known == state) {
            Some(at) => way.steps.truncate(at + 1),
            None => way.steps.push((state, changed)),
        }
        if way.steps.len() > WAY_MAX {
            self.way = None;
        }
    }
}

impl Window {
    fn without_repeats(self) -> Self {
        let kept = super::repeats::without_repeats(&self.events).into_iter().cloned();
        Self { events: kept.collect(), base: self.base }
    }

    /// Whether events of it overlapped.
    pub(super) fn overlaps(&self) -> bool {
        let long = |event: &&RecordedEvent| event.end.is_some_and(|end| end > event.begin);
        self.events.iter().filter(long).any(|long| {
            let during = |event: &RecordedEvent| {
                event.begin > long.begin && long.end.is_some_and(|end| event.begin < end)
            };
            self.events.iter().any(during)
        })
    }
}

impl Recorder {
    /// The windows of the recording. `question` is the first line of each one's comment.
    #[must_use]
    pub fn recordings(&self, name: &str, question: &str) -> Vec<Recording> {
        let mut all = self.clone();
        // What has not ended is left out.
        all.segment.retain(|event| event.end.is_some());
        all.fences.clear();
        all.settle(&|| "the end".to_owned());
        let stopped = all.history.stopped();
        let empty = stopped.is_some() && all.history.windows.is_empty();
        let windows = all.history.windows.iter().cloned();
        let windows: Vec<Window> = windows.chain(empty.then(Window::default)).collect();
        let count = windows.len();
        let numbered = windows.iter().zip(1..);
        let recording = |(window, number): (&Window, usize)| {
            let stopped = stopped.clone().filter(|_| number == count);
            let part = if count > 1 { Some((number, count)) } else { None };
            all.written(window, (name, question), part, stopped)
        };
        numbered.map(recording).collect()
    }
}

impl History {
    /// Why the recording is not whole.
    fn stopped(&self) -> Option<String> {
        if let Some((word, why)) = self.left_out.first_key_value() {
            let more = match self.left_out.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            return Some(format!("{why} ({word}{more})"));
        }
        let lost = self.lost;
        (lost > 0).then(|| {
            format!(
                "{lost} events are left out: of a time in which fences were pending or buffers moved \
                 without a pause, the last {SEGMENT_MAX} are kept"
            )
        })
    }
}

/// What each event says, without the names of what is made anew again and again.
fn words(segment: &[RecordedEvent], recorder: &Recorder) -> Vec<String> {
    let mut words = Vec::new();
    for event in segment {
        let kind = |buffer: BufferId| {
            let declared = recorder.buffers.get(&buffer);
            declared.map_or_else(String::new, |d| format!("a buffer of {} pages", d.pages))
        };
        let what = match &event.doing {
            RecordedAction::Alloc(buffer) => format!("alloc of {}", kind(*buffer)),
            RecordedAction::Close(buffer) => format!("close of {}", kind(*buffer)),
            RecordedAction::Move { buffer, to } => format!("move of {} to {to}", kind(*buffer)),
            RecordedAction::Purge(buffer) => format!("purge of {}", kind(*buffer)),
            RecordedAction::Revoke(buffer) => format!("revocation of {}", kind(*buffer)),
            RecordedAction::Attach { buffer, dynamic, .. } => {
                let how = if *dynamic { "dynamic" } else { "static" };
                format!("{how} attachment to {}", kind(*buffer))
            }
            RecordedAction::Detach(_) => "detach".to_owned(),
            RecordedAction::Map(_) => "map".to_owned(),
            RecordedAction::Unmap(_) => "unmap".to_owned(),
            RecordedAction::DmaBufPin(_, true) => "dma_buf_pin".to_owned(),
            RecordedAction::DmaBufPin(_, false) => "dma_buf_unpin".to_owned(),
            RecordedAction::Submit(..) => "job".to_owned(),
            RecordedAction::Signal(_) => "signal".to_owned(),
            RecordedAction::Dma { write, age, .. } => {
                let old = if *age > 0 { "old " } else { "" };
                format!("{} by {old}address", verb(*write))
            }
            RecordedAction::Mmap { buffer, importer, .. } => {
                let importer = importer.map_or_else(String::new, |rule| format!(" through {rule}"));
                format!("mmap of {}{importer}", kind(*buffer))
            }
            RecordedAction::Munmap(_) => "munmap".to_owned(),
            RecordedAction::Cpu { write, .. } => format!("{} by the CPU", verb(*write)),
            RecordedAction::Gup { .. } => "get_user_pages".to_owned(),
            RecordedAction::Unpin(_) => "unpin".to_owned(),
            RecordedAction::PinDma(_, write) => format!("{} through a pin", verb(*write)),
        };
        let who = match &event.who {
            Who::Exporter(heap) => heap.as_str(),
            Who::Device(name) => name,
            Who::Program(_) => "a program",
        };
        let mut word = format!("{what} by {who}");
        let kinds: Vec<String> = event.kinds.iter().map(ToString::to_string).collect();
        if !kinds.is_empty() {
            word += &format!(", {}", kinds.join(" and "));
        }
        word += if event.busy { ", refused" } else { "" };
        words.push(word);
    }
    words
}

fn verb(write: bool) -> &'static str {
    if write { "write" } else { "read" }
}
