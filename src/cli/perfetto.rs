//! `run --perfetto FILE`: what happened, when, as a trace with flows from the address that was taken by
//! way of the move to the harm.
//!
//! | group | track | slice |
//! |---|---|---|
//! | who did what | the exporter of a heap, a program, a device | a move from its beginning to its end; everything else as it is done |
//! | memory | a buffer | as long as it is in one place |
//! | addresses | a pin, an attachment's sg_table | as long as it is held; stale from the move on |

use std::collections::BTreeMap;

use driftheap::device::BufferId;
use driftheap::device::live::attach::{AttachmentId, PinId};
use driftheap::device::live::record::{Actor, EventEnd, Moment, Phase, RecordedAction, Timeline};
use driftheap::report::tracks::{Track, Tracks};
use serde_json::json;

const DEEDS: u32 = 1;
const MEMORY: u32 = 2;
const ADDRESSES: u32 = 3;

/// What is done at once is drawn as wide as this at most.
const ONCE_NS: u64 = 1000;

/// An address that somebody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Address {
    Pin(PinId),
    Table(AttachmentId),
}

/// Since when it is held, and what became of it.
#[derive(Debug, Clone, Default)]
struct Lifetime {
    buffer: Option<BufferId>,
    /// When it was taken, each time, and by whom.
    taken: Vec<(u64, usize)>,
    since: Option<u64>,
    stale: Option<u64>,
}

/// The trace in the making.
struct Trace<'a> {
    timeline: &'a Timeline,
    tracks: Tracks,
    begin_ns: u64,
    end_ns: u64,
    actors: Vec<Actor>,
    buffers: Vec<BufferId>,
    addresses: Vec<(Address, String)>,
    held: BTreeMap<Address, Lifetime>,
    /// Where each buffer is, and since when.
    places: BTreeMap<BufferId, (String, u64)>,
    /// The moves of each buffer: when, on which track.
    moves: BTreeMap<BufferId, Vec<(u64, Track)>>,
    /// What has begun: when.
    open: Vec<(RecordedAction, u64, usize)>,
}

/// The tracks of a run.
pub(super) fn trace(timeline: &Timeline) -> Tracks {
    let ends = |moment: Option<&Moment>| moment.map_or(0, |moment| moment.at_ns);
    let mut trace = Trace {
        timeline,
        tracks: Tracks::default(),
        begin_ns: ends(timeline.moments.first()),
        end_ns: ends(timeline.moments.last()) + ONCE_NS,
        actors: Vec::new(),
        buffers: Vec::new(),
        addresses: Vec::new(),
        held: BTreeMap::new(),
        places: BTreeMap::new(),
        moves: BTreeMap::new(),
        open: Vec::new(),
    };
    let moments = &timeline.moments;
    for (index, moment) in moments.iter().enumerate() {
        // Slices of one track must not overlap.
        let next = moments.get(index + 1).map_or(u64::MAX, |next| next.at_ns);
        trace.add(moment, next.saturating_sub(moment.at_ns).min(ONCE_NS));
    }
    trace.close();
    trace.tracks
}

impl Trace<'_> {
    fn at(&self, moment: &Moment) -> u64 {
        moment.at_ns.saturating_sub(self.begin_ns)
    }

    fn name(&self, buffer: BufferId) -> String {
        let known = self.timeline.buffers.get(&buffer);
        known.map_or_else(|| format!("buffer {}", buffer.0), |(name, _)| name.clone())
    }

    fn actor(&mut self, actor: &Actor) -> usize {
        let known = self.actors.iter().position(|one| one == actor);
        known.unwrap_or_else(|| {
            self.actors.push(actor.clone());
            self.actors.len() - 1
        })
    }

    fn add(&mut self, moment: &Moment, len_ns: u64) {
        let at = self.at(moment);
        match (moment.phase, &moment.actor) {
            (Phase::Begin, Some(actor)) => {
                let actor = self.actor(actor);
                self.open.push((moment.doing.clone(), at, actor));
            }
            (Phase::End(outcome), _) => {
                let open = self.open.iter().rposition(|(doing, ..)| *doing == moment.doing);
                let Some(open) = open else { return };
                let (doing, begin, actor) = self.open.remove(open);
                self.done(moment, &doing, (begin, at.saturating_sub(begin)), (actor, outcome));
            }
            (Phase::Once, Some(actor)) => {
                let actor = self.actor(actor);
                self.done(moment, &moment.doing, (at, len_ns), (actor, EventEnd::Done));
            }
            (Phase::Begin | Phase::Once, None) => {}
        }
    }

    /// Something was done, in so much time.
    fn done(
        &mut self,
        moment: &Moment,
        doing: &RecordedAction,
        span: (u64, u64),
        (actor, outcome): (usize, EventEnd),
    ) {
        let kinds: Vec<&str> = moment.kinds.iter().map(|kind| kind.word()).collect();
        let refused = match outcome {
            EventEnd::Done => "",
            EventEnd::Busy => " (EBUSY)",
            EventEnd::Failed => " (refused)",
        };
        let name = format!("{}{refused}", self.words(doing));
        let args = json!({ "hazards": kinds });
        self.tracks.slice((DEEDS, actor), &name, span, !kinds.is_empty(), args);
        if outcome == EventEnd::Done {
            self.changed(doing, span.0, actor);
        }
        if let (Some(kind), Some((address, age))) = (kinds.first(), through(doing)) {
            self.harm(kind, address, age, (actor, span.0));
        }
    }

    /// A flow from the address to the harm that was done through it.
    fn harm(&mut self, kind: &str, address: Address, age: usize, (actor, at): (usize, u64)) {
        let Some(held) = self.held.get(&address) else { return };
        let Some(taken) = held.taken.len().checked_sub(age + 1) else { return };
        let (since, by) = held.taken[taken];
        let moves = held.buffer.and_then(|buffer| self.moves.get(&buffer));
        let moved = moves.and_then(|moves| moves.iter().find(|(when, _)| *when >= since)).copied();
        // One that is under way has done its harm already.
        let under_way = self.open.iter().find_map(|(doing, when, actor)| {
            let of = matches!(doing, RecordedAction::Move { buffer, .. } if Some(*buffer) == held.buffer);
            of.then_some((*when, (DEEDS, *actor)))
        });
        let mut stations = vec![((DEEDS, by), since)];
        stations.extend(moved.or(under_way).map(|(when, track)| (track, when)));
        stations.push(((DEEDS, actor), at));
        self.tracks.flow(kind, &stations);
    }

    fn changed(&mut self, doing: &RecordedAction, at: u64, actor: usize) {
        match *doing {
            RecordedAction::Alloc(buffer) => self.placed(buffer, "allocated", at),
            RecordedAction::Move { buffer, to } => {
                self.placed(buffer, &to.to_string(), at);
                self.moves.entry(buffer).or_default().push((at, (DEEDS, actor)));
                let mut of: Vec<&mut Lifetime> =
                    self.held.values_mut().filter(|held| held.buffer == Some(buffer)).collect();
                of.iter_mut().for_each(|held| held.stale = held.stale.or(held.since.and(Some(at))));
            }
            RecordedAction::Purge(buffer) => self.placed(buffer, "purged", at),
            RecordedAction::Revoke(buffer) => self.placed(buffer, "revoked", at),
            RecordedAction::Close(buffer) => self.left(buffer, at),
            RecordedAction::Attach { id, buffer, .. } => {
                self.held.entry(Address::Table(id)).or_default().buffer = Some(buffer);
            }
            RecordedAction::Map(id) => self.take(Address::Table(id), at, actor),
            RecordedAction::Unmap(id) | RecordedAction::Detach(id) => {
                self.drop_address(Address::Table(id), at)
            }
            RecordedAction::Gup { id, mapping, .. } => {
                let buffer = self.mapped(mapping);
                self.held.entry(Address::Pin(id)).or_default().buffer = buffer;
                self.take(Address::Pin(id), at, actor);
            }
            RecordedAction::Unpin(id) => self.drop_address(Address::Pin(id), at),
            RecordedAction::DmaBufPin(..)
            | RecordedAction::Submit(..)
            | RecordedAction::Signal(_)
            | RecordedAction::Dma { .. }
            | RecordedAction::Mmap { .. }
            | RecordedAction::Munmap(_)
            | RecordedAction::Cpu { .. }
            | RecordedAction::PinDma(..) => {}
        }
    }

    /// The buffer behind a mapping.
    fn mapped(&self, mapping: u64) -> Option<BufferId> {
        self.timeline.moments.iter().find_map(|moment| {
            let RecordedAction::Mmap { id, buffer, .. } = moment.doing else { return None };
            (id == mapping).then_some(buffer)
        })
    }

    fn placed(&mut self, buffer: BufferId, place: &str, at: u64) {
        self.left(buffer, at);
        self.places.insert(buffer, (place.to_owned(), at));
    }

    fn left(&mut self, buffer: BufferId, at: u64) {
        let Some((place, since)) = self.places.remove(&buffer) else { return };
        let known = self.buffers.iter().position(|one| *one == buffer);
        let track = known.unwrap_or_else(|| {
            self.buffers.push(buffer);
            self.buffers.len() - 1
        });
        let span = (since, at.saturating_sub(since));
        self.tracks.slice((MEMORY, track), &place, span, false, json!({}));
    }

    fn take(&mut self, address: Address, at: u64, actor: usize) {
        self.drop_address(address, at);
        let held = self.held.entry(address).or_default();
        held.taken.push((at, actor));
        held.since = Some(at);
    }

    /// Draws how long an address was held.
    fn drop_address(&mut self, address: Address, at: u64) {
        let Some(held) = self.held.get_mut(&address) else { return };
        let (buffer, since, stale) = (held.buffer, held.since.take(), held.stale.take());
        let Some(since) = since else { return };
        let of = buffer.map_or_else(String::new, |buffer| format!(" of {}", self.name(buffer)));
        let title = match address {
            Address::Pin(PinId(id)) => format!("pin {id}{of}"),
            Address::Table(AttachmentId(id)) => format!("sg_table {id}{of}"),
        };
        let known = self.addresses.iter().position(|(one, _)| *one == address);
        let track = known.unwrap_or_else(|| {
            self.addresses.push((address, title));
            self.addresses.len() - 1
        });
        let fresh_until = stale.unwrap_or(at);
        let mut draw = |name: &str, from: u64, to: u64, stale: bool| {
            let args = json!({ "stale": stale });
            self.tracks.slice(
                (ADDRESSES, track),
                name,
                (from, to.saturating_sub(from)),
                stale,
                args,
            );
        };
        draw("held", since, fresh_until, false);
        if let Some(stale) = stale {
            draw("stale", stale, at, true);
        }
    }

    /// What still is at the end; and the names.
    fn close(&mut self) {
        let end = self.end_ns.saturating_sub(self.begin_ns);
        for address in self.held.keys().copied().collect::<Vec<_>>() {
            self.drop_address(address, end);
        }
        for buffer in self.places.keys().copied().collect::<Vec<_>>() {
            self.left(buffer, end);
        }
        let title = |actor: &Actor| match actor {
            Actor::Exporter => "exporter".to_owned(),
            Actor::Device(name) => format!("device {name}"),
            Actor::Program(name) => format!("program {name}"),
        };
        let deeds = match self.timeline.left_out {
            0 => "who did what".to_owned(),
            more => format!("who did what ({more} later events are left out)"),
        };
        self.tracks.group(DEEDS, &deeds, self.actors.iter().map(title));
        let of = |buffer: &BufferId| {
            let heap = self.timeline.buffers.get(buffer).map(|(_, heap)| format!(", {heap}"));
            format!("{}{}", self.name(*buffer), heap.unwrap_or_default())
        };
        let buffers: Vec<String> = self.buffers.iter().map(of).collect();
        self.tracks.group(MEMORY, "memory", buffers);
        let titles = self.addresses.iter().map(|(_, title)| title.clone());
        self.tracks.group(ADDRESSES, "addresses", titles);
    }

    /// What is done, as the language says it.
    fn words(&self, doing: &RecordedAction) -> String {
        let of = |id: &AttachmentId| {
            let held = self.held.get(&Address::Table(*id));
            held.and_then(|held| held.buffer).map_or_else(String::new, |b| self.name(b))
        };
        let rw = |write: bool| if write { "write" } else { "read" };
        match doing {
            RecordedAction::Alloc(buffer) => format!("alloc {}", self.name(*buffer)),
            RecordedAction::Close(buffer) => format!("close {}", self.name(*buffer)),
            RecordedAction::Move { buffer, to } => format!("move {} to {to}", self.name(*buffer)),
            RecordedAction::Purge(buffer) => format!("purge {}", self.name(*buffer)),
            RecordedAction::Revoke(buffer) => format!("revoke {}", self.name(*buffer)),
            RecordedAction::Attach { buffer, .. } => format!("attach {}", self.name(*buffer)),
            RecordedAction::Detach(id) => format!("detach {}", of(id)),
            RecordedAction::Map(id) => format!("map {}", of(id)),
            RecordedAction::Unmap(id) => format!("unmap {}", of(id)),
            RecordedAction::DmaBufPin(id, true) => format!("dma_buf_pin {}", of(id)),
            RecordedAction::DmaBufPin(id, false) => format!("dma_buf_unpin {}", of(id)),
            RecordedAction::Submit(_, id, _) => format!("submit {}", of(id)),
            RecordedAction::Signal(_) => "signal".to_owned(),
            RecordedAction::Dma { id, page, write, .. } => {
                format!("dma_{} {}[{page}]", rw(*write), of(id))
            }
            RecordedAction::Mmap { buffer, .. } => format!("mmap {}", self.name(*buffer)),
            RecordedAction::Munmap(_) => "munmap".to_owned(),
            RecordedAction::Cpu { page, write, .. } => {
                format!("{} [{page}]", if *write { "store" } else { "load" })
            }
            RecordedAction::Gup { id, page, .. } => format!("gup pin {} of page {page}", id.0),
            RecordedAction::Unpin(id) => format!("unpin pin {}", id.0),
            RecordedAction::PinDma(id, write) => format!("dma_{} through pin {}", rw(*write), id.0),
        }
    }
}

/// The address that an access goes through, and how many times another was taken since.
fn through(doing: &RecordedAction) -> Option<(Address, usize)> {
    if let RecordedAction::Dma { id, age, .. } = *doing {
        return Some((Address::Table(id), age));
    }
    let RecordedAction::PinDma(id, _) = *doing else { return None };
    Some((Address::Pin(id), 0))
}
