//! What happened, in the litmus language.
//!
//! Events become statements: one process for the exporter, one for each device and each program.
//! What ended before something else began is ordered by `await`; what overlapped (a device's
//! access while a move waits for it) is left free, so that the model explores it. The condition
//! asks about every hazard by name, so that the file's answer can be compared with what was seen:
//! a kind that was seen must be possible, any other must not. What repeats without anything new is
//! written once (`repeats`).
//!
//! **Bounds**: [`EVENTS_MAX`] events are kept, and of these as many are written as the language
//! takes (6 processes of 64 statements, 16 buffers). The file says where it stopped; what was seen
//! later does not count.
//!
//! **Differs from the run**: a buffer has at most 8 pages in the language, so several pages may
//! stand as one; the CPU's accesses of a program under `driftheap run` are not known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::attach::AttachmentId;
use super::bus::PinId;
use crate::device::fence::Usage;
use crate::device::{BufferId, FenceId};
use crate::model::{ExporterRules, HazardKind, ImporterMmap, Placement};

mod render;
mod repeats;

/// Most events that are kept.
pub const EVENTS_MAX: usize = 16 * 1024;

/// Something that is done, as the language says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
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
    /// `dma_write` or `dma_read` through the sg_table of the attachment's so many-th `map`.
    Dma {
        /// The attachment.
        id: AttachmentId,
        /// The `map` that told the address, counted from 0.
        map: usize,
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
pub enum Outcome {
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
struct Event {
    process: usize,
    doing: Doing,
    begin: u64,
    /// None while it goes on.
    end: Option<u64>,
    kinds: BTreeSet<HazardKind>,
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

/// Records what happens; see the [module](self).
#[derive(Debug, Default)]
pub struct Recorder {
    processes: Vec<Actor>,
    buffers: BTreeMap<BufferId, Declared>,
    heaps: BTreeMap<String, ExporterRules>,
    events: Vec<Event>,
    clock: u64,
    dropped: u64,
    /// Devices that went on with old addresses.
    ignoring: BTreeSet<String>,
}

/// A recording as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The litmus file.
    pub text: String,
    /// The hazards that were seen in what was written.
    pub seen: BTreeSet<HazardKind>,
    /// Events written.
    pub events: usize,
    /// Why events after these were left out.
    pub stopped: Option<String>,
}

impl Recorder {
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
        let declared = Declared { name, heap: heap.0.to_owned(), pages, placement };
        self.buffers.insert(buffer, declared);
    }

    /// Something was done at once.
    pub fn push(&mut self, actor: &Actor, doing: Doing, kinds: &[HazardKind]) {
        let begin = self.tick();
        self.add(actor, doing, begin, Some(begin), kinds);
    }

    /// Something begins that others may overlap with.
    pub fn begin(&mut self, actor: &Actor, doing: Doing) {
        let begin = self.tick();
        self.add(actor, doing, begin, None, &[]);
    }

    /// The last such thing ends.
    pub fn end(&mut self, doing: &Doing, outcome: Outcome, kinds: &[HazardKind]) {
        let end = self.tick();
        let open = |event: &Event| event.end.is_none() && event.doing == *doing;
        let Some(at) = self.events.iter().rposition(open) else { return };
        if outcome == Outcome::Failed {
            self.events.remove(at);
        } else {
            self.events[at].end = Some(end);
            self.events[at].kinds.extend(kinds);
        }
    }

    /// A device went on with addresses from before a move_notify.
    pub fn ignored_notify(&mut self, device: &str) {
        self.ignoring.insert(device.to_owned());
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn add(
        &mut self,
        actor: &Actor,
        doing: Doing,
        begin: u64,
        end: Option<u64>,
        kinds: &[HazardKind],
    ) {
        if self.events.len() >= EVENTS_MAX {
            self.dropped += 1;
            return;
        }
        let process = self.processes.iter().position(|known| known == actor);
        let process = process.unwrap_or_else(|| {
            self.processes.push(actor.clone());
            self.processes.len() - 1
        });
        let kinds = kinds.iter().copied().collect();
        self.events.push(Event { process, doing, begin, end, kinds });
    }
}
