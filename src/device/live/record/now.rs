//! What there is at a moment of the run: buffers, addresses that devices have, mappings, pins.

use std::collections::BTreeMap;

use super::{RecordedAction, RecordedEvent, Who};
use crate::device::BufferId;
use crate::device::live::attach::{AttachmentId, PinId};
use crate::model::{ImporterMmap, Placement};

/// A buffer that is allocated.
#[derive(Clone, Debug)]
struct Placed {
    placement: Placement,
    /// What took its memory away.
    end: Option<RecordedAction>,
    /// How often its memory changed.
    version: u64,
    exporter: Who,
}

#[derive(Clone, Debug)]
struct Attached {
    device: Who,
    buffer: BufferId,
    dynamic: bool,
    pins: usize,
    /// The version of the buffer whose addresses it has.
    mapped: Option<u64>,
    maps: usize,
}

#[derive(Clone, Debug)]
struct Mapped {
    program: Who,
    buffer: BufferId,
    importer: Option<ImporterMmap>,
    version: u64,
}

#[derive(Clone, Debug)]
struct Pinned {
    program: Who,
    mapping: u64,
    page: usize,
    version: u64,
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Now {
    buffers: BTreeMap<BufferId, Placed>,
    attached: BTreeMap<AttachmentId, Attached>,
    mapped: BTreeMap<u64, Mapped>,
    pinned: BTreeMap<PinId, Pinned>,
}

/// The state that a window finds, as events that make it.
#[derive(Clone, Debug, Default)]
pub(super) struct Base {
    /// The buffers that are allocated, and where.
    pub(super) allocated: BTreeMap<BufferId, Placement>,
    /// How often each attachment was mapped before what `items` map.
    pub(super) maps: BTreeMap<AttachmentId, usize>,
    pub(super) items: Vec<Item>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) buffer: BufferId,
    /// The mapping that it makes, or pins through.
    pub(super) mapping: Option<u64>,
    pub(super) event: RecordedEvent,
}

impl Now {
    /// Something has happened.
    pub(super) fn apply(&mut self, event: &RecordedEvent) {
        if event.busy {
            // Nothing has changed.
            return;
        }
        match event.doing {
            RecordedAction::Alloc(_) | RecordedAction::Close(_) | RecordedAction::Move { .. } => {
                self.place(event)
            }
            RecordedAction::Purge(buffer) | RecordedAction::Revoke(buffer) => {
                if let Some(placed) = self.buffers.get_mut(&buffer) {
                    placed.version += 1;
                    placed.end = Some(event.doing.clone());
                }
            }
            RecordedAction::Attach { id, buffer, dynamic } => {
                let device = event.who.clone();
                let new = Attached { device, buffer, dynamic, pins: 0, mapped: None, maps: 0 };
                self.attached.insert(id, new);
            }
            RecordedAction::Detach(id) => drop(self.attached.remove(&id)),
            RecordedAction::Map(id) => {
                let Some(attached) = self.attached.get_mut(&id) else { return };
                attached.maps += 1;
                attached.mapped = self.buffers.get(&attached.buffer).map(|placed| placed.version);
            }
            RecordedAction::Unmap(id) => {
                if let Some(attached) = self.attached.get_mut(&id) {
                    attached.mapped = None;
                }
            }
            RecordedAction::DmaBufPin(id, pin) => {
                if let Some(attached) = self.attached.get_mut(&id) {
                    attached.pins =
                        if pin { attached.pins + 1 } else { attached.pins.saturating_sub(1) };
                }
            }
            RecordedAction::Mmap { id, buffer, importer } => {
                let (program, version) = (event.who.clone(), self.version(buffer));
                self.mapped.insert(id, Mapped { program, buffer, importer, version });
            }
            RecordedAction::Munmap(id) => drop(self.mapped.remove(&id)),
            RecordedAction::Gup { id, mapping, page } => {
                let Some(mapped) = self.mapped.get(&mapping) else { return };
                let (program, version) = (event.who.clone(), self.version(mapped.buffer));
                self.pinned.insert(id, Pinned { program, mapping, page, version });
            }
            RecordedAction::Unpin(id) => drop(self.pinned.remove(&id)),
            RecordedAction::Submit(..)
            | RecordedAction::Signal(_)
            | RecordedAction::Dma { .. }
            | RecordedAction::Cpu { .. }
            | RecordedAction::PinDma(..) => {}
        }
    }

    fn place(&mut self, event: &RecordedEvent) {
        if let RecordedAction::Move { buffer, to } = event.doing {
            if let Some(placed) = self.buffers.get_mut(&buffer) {
                placed.version += 1;
                placed.placement = to;
            }
        } else if let RecordedAction::Close(buffer) = event.doing {
            self.buffers.remove(&buffer);
            self.mapped.retain(|_, mapped| mapped.buffer != buffer || mapped.importer.is_some());
        }
    }

    /// A buffer was allocated there.
    pub(super) fn allocated(&mut self, buffer: BufferId, placement: Placement, exporter: Who) {
        self.buffers.insert(buffer, Placed { placement, end: None, version: 0, exporter });
    }

    fn version(&self, buffer: BufferId) -> u64 {
        self.buffers.get(&buffer).map_or(u64::MAX, |placed| placed.version)
    }

    /// Whether every address that somebody has is its buffer's.
    pub(super) fn is_clean(&self) -> bool {
        let table = |attached: &Attached| {
            attached.mapped.is_none_or(|version| version == self.version(attached.buffer))
        };
        let mapping = |mapped: &Mapped| {
            mapped.importer.is_none() || mapped.version == self.version(mapped.buffer)
        };
        let pin = |pinned: &Pinned| {
            let mapped = self.mapped.get(&pinned.mapping);
            mapped.is_some_and(|mapped| pinned.version == self.version(mapped.buffer))
        };
        self.attached.values().all(table)
            && self.mapped.values().all(mapping)
            && self.pinned.values().all(pin)
    }

    /// Whether an importer's mapping shows memory that is not its buffer's: what it is nobody
    /// follows here.
    pub(super) fn has_stale_mapping(&self) -> bool {
        self.mapped.values().any(|mapped| {
            mapped.importer.is_some() && mapped.version != self.version(mapped.buffer)
        })
    }

    /// What makes this state, if it is clean.
    pub(super) fn base(&self) -> Base {
        let mut base = Base::default();
        let mut clock = 0;
        let mut put = |buffer, mapping, who: &Who, doing| {
            clock += 1;
            let kinds = std::collections::BTreeSet::new();
            let (who, end) = (who.clone(), Some(clock));
            let event = RecordedEvent { who, doing, begin: clock, end, kinds, busy: false };
            base.items.push(Item { buffer, mapping, event });
        };
        for (&buffer, placed) in &self.buffers {
            base.allocated.insert(buffer, placed.placement);
            if let Some(end) = &placed.end {
                put(buffer, None, &placed.exporter, end.clone());
            }
        }
        for (&id, mapped) in &self.mapped {
            let Mapped { program, buffer, importer, .. } = mapped;
            let doing = RecordedAction::Mmap { id, buffer: *buffer, importer: *importer };
            put(*buffer, Some(id), program, doing);
        }
        for (&id, pinned) in &self.pinned {
            let Pinned { program, mapping, page, .. } = pinned;
            let Some(mapped) = self.mapped.get(mapping) else { continue };
            let doing = RecordedAction::Gup { id, mapping: *mapping, page: *page };
            put(mapped.buffer, Some(*mapping), program, doing);
        }
        for (&id, attached) in &self.attached {
            let Attached { device, buffer, dynamic, pins, mapped, maps } = attached;
            let doing = RecordedAction::Attach { id, buffer: *buffer, dynamic: *dynamic };
            put(*buffer, None, device, doing);
            if mapped.is_some() {
                put(*buffer, None, device, RecordedAction::Map(id));
            }
            base.maps.insert(id, maps - usize::from(mapped.is_some()));
            (0..*pins)
                .for_each(|_| put(*buffer, None, device, RecordedAction::DmaBufPin(id, true)));
        }
        base
    }
}
