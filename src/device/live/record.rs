//! What happened, in the litmus language.
//!
//! Events become statements: one process for each heap's exporter, each device and each program.
//! What ended before something else began is ordered by `await`; what overlapped (a device's
//! access while a move waits for it) is left free, so that the model explores it. The condition
//! asks about every hazard by name, so that the file's answer can be compared with what was seen:
//! a kind that was seen must be possible. Where nothing overlapped, no other kind is.
//!
//! A test of the language is small (6 processes of 64 statements, 16 buffers), so a recording is
//! several tests, *windows* (`windows`): the first begins where the run began and takes everything
//! until it is full. Each other one begins with the state that it finds and holds something that
//! no window before it holds. What repeats is written once (`repeats`).
//!
//! **Bounds**: [`WINDOWS_MAX`] windows; at most [`SEGMENT_MAX`] events without a moment at which no
//! fence is pending and nothing moves. What has no place is counted, and the last window says so: a
//! question of it (`what-came-later`) has another answer than expected, so that `check` exits 1.
//!
//! **Differs from the run**: a buffer has at most 16 pages in the language, so several pages may
//! stand as one; the CPU's accesses of a program under `driftheap run` are not known; a window's
//! first state has the same addresses in use, and not the same bytes in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::mem;

use super::attach::{AttachmentId, PinId};
use crate::device::{BufferId, FenceId};
use crate::model::Usage;
use crate::model::{ExporterRules, HazardKind, ImporterMmap, Placement};

mod now;
mod render;
mod repeats;
mod timeline;
mod windows;

pub use timeline::{MOMENTS_MAX, Moment, Phase, Timeline};
use windows::History;
pub use windows::{SEGMENT_MAX, WINDOWS_MAX};

/// Something that is done, as the language says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedAction {
    /// `alloc`.
    Alloc(BufferId),
    /// `close`: the last reference went.
    Close(BufferId),
    /// `move`.
    Move {
        /// What.
        buffer: BufferId,
        /// Where to.
        to: Placement,
    },
    /// `purge`.
    Purge(BufferId),
    /// `revoke`.
    Revoke(BufferId),
    /// `attach`.
    Attach {
        /// The attachment.
        id: AttachmentId,
        /// To what.
        buffer: BufferId,
        /// Whether it has a move_notify.
        dynamic: bool,
    },
    /// `detach`.
    Detach(AttachmentId),
    /// `map`.
    Map(AttachmentId),
    /// `unmap`.
    Unmap(AttachmentId),
    /// `dma_buf_pin`, `dma_buf_unpin`.
    DmaBufPin(AttachmentId, bool),
    /// `submit`.
    Submit(FenceId, AttachmentId, Usage),
    /// `signal`.
    Signal(FenceId),
    /// `dma_write` or `dma_read` through an sg_table of the attachment.
    Dma {
        /// The attachment.
        id: AttachmentId,
        /// How many `map`s came after the one that told the address.
        age: usize,
        /// Page of the buffer.
        page: usize,
        /// Direction.
        write: bool,
    },
    /// `mmap`, of the whole buffer.
    Mmap {
        /// The mapping.
        id: u64,
        /// What is mapped.
        buffer: BufferId,
        /// Through an importer's file, and what that does.
        importer: Option<ImporterMmap>,
    },
    /// `munmap`.
    Munmap(u64),
    /// `store` or `load`.
    Cpu {
        /// Through which mapping.
        mapping: u64,
        /// Which page of it.
        page: usize,
        /// Direction.
        write: bool,
    },
    /// `gup`.
    Gup {
        /// The pin.
        id: PinId,
        /// Through which mapping.
        mapping: u64,
        /// Which page of it.
        page: usize,
    },
    /// `unpin`.
    Unpin(PinId),
    /// `dma_write` or `dma_read` through a pin.
    PinDma(PinId, bool),
}

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventEnd {
    /// Done.
    Done,
    /// EBUSY.
    Busy,
    /// Anything else; it is not recorded.
    Failed,
}

/// A buffer, as the header declares it.
#[derive(Clone, Debug)]
struct Declared {
    name: String,
    heap: String,
    pages: usize,
    placement: Placement,
}

/// One event of one process.
#[derive(Clone, Debug)]
struct RecordedEvent {
    who: Who,
    doing: RecordedAction,
    begin: u64,
    /// None while it goes on.
    end: Option<u64>,
    kinds: BTreeSet<HazardKind>,
    /// Whether it was refused with EBUSY.
    busy: bool,
}

/// Who does something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The exporter.
    Exporter,
    /// A device, by name.
    Device(String),
    /// A program, by name.
    Program(String),
}

/// A process of a test: an exporter has one for each heap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Exporter(String),
    Device(String),
    Program(String),
}

/// Records what happens; see the [module](self).
#[derive(Clone, Debug)]
pub struct Recorder {
    buffers: BTreeMap<BufferId, Declared>,
    heaps: BTreeMap<String, ExporterRules>,
    /// The events since the last moment at which nothing was under way.
    segment: Vec<RecordedEvent>,
    /// Fences that have not signalled.
    fences: BTreeSet<FenceId>,
    /// Whether its beginning was left out, because it was too long.
    is_cut: bool,
    clock: u64,
    history: History,
    /// Devices that went on with old addresses.
    ignoring: BTreeSet<String>,
    /// When it happened, if somebody wants to know.
    timeline: Option<Timeline>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            buffers: BTreeMap::new(),
            heaps: BTreeMap::new(),
            segment: Vec::new(),
            fences: BTreeSet::new(),
            is_cut: false,
            // Below is room for what a window finds.
            clock: 1 << 32,
            history: History::default(),
            ignoring: BTreeSet::new(),
            timeline: None,
        }
    }
}

/// A window of a recording as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The litmus file.
    pub text: String,
    /// The hazards that were seen in what was written.
    pub seen: BTreeSet<HazardKind>,
    /// Events written.
    pub events: usize,
    /// Whether events of it overlapped, so that the model may find more than was seen.
    pub overlaps: bool,
    /// Why the recording is not whole; of the last window.
    pub stopped: Option<String>,
}

impl Recorder {
    /// Keeps the times of what happens from now on, too.
    pub fn keep_times(&mut self, clock: fn() -> u64) {
        self.timeline = Some(Timeline::new(clock));
    }

    /// The times that were kept.
    #[must_use]
    pub const fn timeline(&self) -> Option<&Timeline> {
        self.timeline.as_ref()
    }

    /// Declares a buffer before it is allocated.
    pub fn declare(
        &mut self,
        buffer: BufferId,
        heap: (&str, &ExporterRules),
        pages: usize,
        placement: Placement,
    ) {
        let mut name = String::new();
        // Writing to a String can't fail.
        let _ = match self.buffers.len() {
            index @ 0..26 => {
                write!(name, "{}", char::from(b'A' + u8::try_from(index).unwrap_or(0)))
            }
            index => write!(name, "B{index}"),
        };
        self.heaps.entry(heap.0.to_owned()).or_insert_with(|| heap.1.clone());
        if let Some(timeline) = &mut self.timeline {
            timeline.buffers.insert(buffer, (name.clone(), heap.0.to_owned()));
        }
        let declared = Declared { name, heap: heap.0.to_owned(), pages, placement };
        self.buffers.insert(buffer, declared);
    }

    /// Something was done at once.
    pub fn push(&mut self, actor: &Actor, doing: RecordedAction, kinds: &[HazardKind]) {
        let begin = self.tick();
        if let Some(timeline) = &mut self.timeline {
            timeline.note(Some(actor), &doing, Phase::Once, kinds);
        }
        if let RecordedAction::Submit(fence, ..) = doing {
            self.fences.insert(fence);
        } else if let RecordedAction::Signal(fence) = doing {
            self.fences.remove(&fence);
        }
        self.add(actor, doing, begin, Some(begin), kinds);
    }

    /// Something begins that others may overlap with.
    pub fn begin(&mut self, actor: &Actor, doing: RecordedAction) {
        let begin = self.tick();
        if let Some(timeline) = &mut self.timeline {
            timeline.note(Some(actor), &doing, Phase::Begin, &[]);
        }
        self.add(actor, doing, begin, None, &[]);
    }

    /// The last such thing ends.
    pub fn end(&mut self, doing: &RecordedAction, outcome: EventEnd, kinds: &[HazardKind]) {
        let end = self.tick();
        if let Some(timeline) = &mut self.timeline {
            timeline.note(None, doing, Phase::End(outcome), kinds);
        }
        let open = |event: &RecordedEvent| event.end.is_none() && event.doing == *doing;
        let Some(at) = self.segment.iter().rposition(open) else { return };
        if outcome == EventEnd::Failed {
            self.segment.remove(at);
        } else {
            self.segment[at].end = Some(end);
            self.segment[at].busy = outcome == EventEnd::Busy;
            self.segment[at].kinds.extend(kinds);
        }
    }

    /// A device went on with addresses from before a move_notify.
    pub fn ignored_notify(&mut self, device: &str) {
        if !self.ignoring.contains(device) {
            self.ignoring.insert(device.to_owned());
        }
    }

    /// Nothing may be under way: then what happened since the last such moment is put into a
    /// window. `situation` tells apart what old addresses stand for now.
    pub fn settle(&mut self, situation: &dyn Fn() -> String) {
        let is_quiet =
            self.fences.is_empty() && self.segment.iter().all(|event| event.end.is_some());
        if !is_quiet || self.segment.is_empty() {
            return;
        }
        let segment = mem::take(&mut self.segment);
        let mut history = mem::take(&mut self.history);
        if mem::take(&mut self.is_cut) {
            history.lose(&segment, self);
        } else {
            history.add(&segment, situation, self);
        }
        self.history = history;
    }

    /// Whether a fence has not signalled.
    #[must_use]
    pub fn is_pending(&self, fence: FenceId) -> bool {
        self.fences.contains(&fence)
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn add(
        &mut self,
        actor: &Actor,
        doing: RecordedAction,
        begin: u64,
        end: Option<u64>,
        kinds: &[HazardKind],
    ) {
        if self.segment.len() >= SEGMENT_MAX {
            // What waits for an end shall see it.
            let ended = |event: &mut RecordedEvent| event.end.is_some();
            let lost: Vec<RecordedEvent> = self.segment.extract_if(.., ended).collect();
            let mut history = mem::take(&mut self.history);
            history.lose(&lost, self);
            self.history = history;
            self.is_cut = true;
        }
        let who = match actor {
            Actor::Exporter => Who::Exporter(self.heap_of(&doing)),
            Actor::Device(name) => Who::Device(name.clone()),
            Actor::Program(name) => Who::Program(name.clone()),
        };
        let kinds = kinds.iter().copied().collect();
        self.segment.push(RecordedEvent { who, doing, begin, end, kinds, busy: false });
    }

    /// The heap whose buffer an exporter's deed is about.
    fn heap_of(&self, doing: &RecordedAction) -> String {
        let buffer = doing.buffer().and_then(|buffer| self.buffers.get(&buffer));
        buffer.map_or_else(|| "heap".to_owned(), |declared| declared.heap.clone())
    }
}

impl RecordedAction {
    /// The buffer that it names.
    fn buffer(&self) -> Option<BufferId> {
        match *self {
            Self::Alloc(buffer)
            | Self::Close(buffer)
            | Self::Move { buffer, .. }
            | Self::Purge(buffer)
            | Self::Revoke(buffer)
            | Self::Attach { buffer, .. }
            | Self::Mmap { buffer, .. } => Some(buffer),
            Self::Detach(_)
            | Self::Map(_)
            | Self::Unmap(_)
            | Self::DmaBufPin(..)
            | Self::Submit(..)
            | Self::Signal(_)
            | Self::Dma { .. }
            | Self::Munmap(_)
            | Self::Cpu { .. }
            | Self::Gup { .. }
            | Self::Unpin(_)
            | Self::PinDma(..) => None,
        }
    }

    /// Whether it only ends what something else began.
    fn ends(&self) -> bool {
        matches!(
            self,
            Self::Close(_)
                | Self::Detach(_)
                | Self::Unmap(_)
                | Self::DmaBufPin(_, false)
                | Self::Signal(_)
                | Self::Munmap(_)
                | Self::Unpin(_)
        )
    }

    /// Whether it changes what buffers, addresses and pins there are.
    fn changes(&self) -> bool {
        !matches!(
            self,
            Self::Submit(..)
                | Self::Signal(_)
                | Self::Dma { .. }
                | Self::Cpu { .. }
                | Self::PinDma(..)
        )
    }
}

impl RecordedEvent {
    fn changes(&self) -> bool {
        self.doing.changes()
    }
}
