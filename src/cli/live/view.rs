//! What is seen of a device: a drawing, a table of buffers, and news.

use std::collections::{BTreeMap, VecDeque};

use driftheap::device::live::frames::{Owner, PageOf};
use driftheap::device::look::{self, Cell as Frame, Look, Seen, To, Who};
use driftheap::device::supervisor::users::User;
use driftheap::device::trace::TraceEvent;
use driftheap::device::{BufferId, Inode, whereabouts};
use driftheap::model::{Life, Placement};
use driftheap::report::page::Drawing;
use driftheap::report::picture::{
    Arrow, Cell, FrameRow, Lane, Look as Colour, Picture, Slot, Stage,
};
use driftheap::terminal::printed;
use driftheap::uapi::page_size;
use driftheap::units::{BufId, FrameId};
use serde::Serialize;

/// Events that are kept for a page that is opened later, and findings.
const EVENTS_MAX: usize = 60;
const FINDINGS_MAX: usize = 512;
/// Boxes that are drawn.
const LANES_MAX: usize = 12;
/// Cells of a buffer without a bus.
const CELLS_MAX: usize = 4;
/// Characters of a buffer's name in the drawing.
const NAME_CHARS: usize = 9;
/// Colours of buffers.
const COLOURS: usize = 6;

/// A page of a buffer whose frames have no numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    placement: Placement,
    moves: u64,
}

/// A row of the table.
#[derive(Debug, Clone, Default, Serialize)]
struct Row {
    ino: u64,
    name: String,
    about: String,
    size: String,
    #[serde(rename = "where")]
    whereabouts: String,
    users: String,
    live: bool,
}

/// All that is known of a device.
#[derive(Debug, Default)]
pub(super) struct Books {
    look: Look,
    used: BTreeMap<Inode, Vec<User>>,
    /// By inode.
    pages: BTreeMap<u64, Vec<Page>>,
    moves: BTreeMap<u64, u64>,
    names: BTreeMap<u64, String>,
    /// When the first event was; times count from there.
    begin_ns: Option<u64>,
    events: VecDeque<String>,
    events_seen: u64,
    findings: Vec<(String, String)>,
    ended: bool,
}

/// What a page knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    events: u64,
    findings: usize,
}

/// What a page is told.
#[derive(Debug, Serialize)]
struct News<'a> {
    drawing: Drawing,
    /// What the names of the cells are names of.
    noun: &'static str,
    buffers: Vec<Row>,
    more: String,
    summary: String,
    events: Vec<&'a String>,
    findings: &'a [(String, String)],
    looking: &'static str,
}

impl Books {
    /// What need not be told by the device again.
    pub(super) fn known(&self) -> look::Known {
        self.look.known
    }

    /// The files of the buffers.
    pub(super) fn inodes(&self) -> Vec<Inode> {
        self.look.buffers.iter().map(|seen| seen.inode).collect()
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes in a look, and who uses the buffers if somebody has looked for that.
    pub(super) fn digest(&mut self, mut look: Look, used: Option<&BTreeMap<Inode, Vec<User>>>) {
        for seen in &look.buffers {
            let ino = seen.inode.ino;
            self.names.insert(ino, seen.name.clone());
            let page = Page { placement: seen.placement, moves: 0 };
            let pages = usize::try_from(seen.size_bytes / page_size()).unwrap_or(0);
            self.pages.entry(ino).or_insert_with(|| vec![page; pages]);
        }
        for (_, event) in std::mem::take(&mut look.events) {
            self.happened(&event);
        }
        let alive = |ino: &u64| look.buffers.iter().any(|seen| seen.inode.ino == *ino);
        self.pages.retain(|ino, _| alive(ino));
        self.names.retain(|ino, _| alive(ino));
        self.moves.retain(|ino, _| alive(ino));
        let found = look.findings.drain(..).chain(look.reports.drain(..));
        self.findings.extend(found);
        self.findings.truncate(FINDINGS_MAX);
        if let Some(used) = used {
            self.used.clone_from(used);
        }
        self.look = look;
    }

    fn happened(&mut self, event: &TraceEvent) {
        let placement = match event.name {
            "dma_buf_move" => Some(Placement::Vram),
            "dma_buf_evict" => Some(Placement::System),
            _ => None,
        };
        if let (Some(placement), Some((first, count))) = (placement, event.pages) {
            *self.moves.entry(event.ino).or_default() += 1;
            let pages = self.pages.get_mut(&event.ino).map_or(&mut [][..], Vec::as_mut_slice);
            let first = usize::try_from(first).unwrap_or(usize::MAX);
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            for page in pages.iter_mut().skip(first).take(count) {
                *page = Page { placement, moves: page.moves + 1 };
            }
        }
        let begin = *self.begin_ns.get_or_insert(event.now_ns);
        let ms = event.now_ns.saturating_sub(begin) / 1_000_000;
        let name = self.names.get(&event.ino);
        let name = name.map_or_else(|| format!("buffer {}", event.ino), String::clone);
        let what = words(event);
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(format!("{:4}.{:03} s {name} {what}", ms / 1000, ms % 1000));
        self.events_seen += 1;
    }

    /// What a page is to be told that knows so much.
    pub(super) fn news(&self, known: &mut Known) -> String {
        let fresh = usize::try_from(self.events_seen - known.events).unwrap_or(usize::MAX);
        known.events = self.events_seen;
        let findings = self.findings.get(known.findings..).unwrap_or_default();
        known.findings = self.findings.len();
        let look = &self.look;
        let news = News {
            drawing: Drawn::of(self).drawing(),
            noun: if look.cells.is_some() { "frame " } else { "" },
            buffers: look.buffers.iter().map(|seen| self.row(seen)).collect(),
            more: match look.more_buffers {
                0 => String::new(),
                more => format!("{more} more buffers are not shown."),
            },
            summary: self.summary(),
            events: self.events.iter().skip(self.events.len().saturating_sub(fresh)).collect(),
            findings,
            looking: match (look.watched, look.cells.is_some()) {
                (true, _) => "None so far.",
                (false, true) => "None so far of devices; --misuse looks for the program's own.",
                (false, false) => "Nobody looks for any: start with --misuse or --device.",
            },
        };
        serde_json::to_string(&news).unwrap_or_default()
    }

    fn summary(&self) -> String {
        let stats = &self.look.stats;
        let mut text = format!(
            "Buffers: {} now, {} ever. Moves: {} of {} pages, {} refused",
            self.look.buffers.len() + self.look.more_buffers,
            stats.buffers,
            stats.moves,
            stats.pages_moved,
            stats.moves_refused
        );
        if stats.killed > 0 {
            text += &format!("; {} purged or revoked", stats.killed);
        }
        text + "."
    }

    fn row(&self, seen: &Seen) -> Row {
        let ino = seen.inode.ino;
        let process = |user: &User| {
            let fds: Vec<String> = user.fds.iter().map(ToString::to_string).collect();
            let fds =
                if fds.is_empty() { String::new() } else { format!(" fd {}", fds.join(", ")) };
            let maps = match user.maps.len() {
                0 => String::new(),
                1 => ", mapped".to_owned(),
                n => format!(", mapped {n} times"),
            };
            format!("{} {}{fds}{maps}", printed(&user.comm), user.pid)
        };
        let mut users: Vec<String> =
            self.used.get(&seen.inode).into_iter().flatten().map(process).collect();
        let attached = self.look.attached.iter().filter(|(_, buffer)| *buffer == seen.id);
        users.extend(attached.map(|(device, _)| format!("device {}", printed(device))));
        Row {
            ino,
            name: seen.name.clone(),
            about: format!("inode {ino}, {}", seen.exp_name),
            size: size(seen.size_bytes),
            whereabouts: whereabouts(seen.life, seen.placement).to_owned(),
            users: users.join("; "),
            live: seen.life == Life::Live,
        }
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// A tracepoint in words.
fn words(event: &TraceEvent) -> String {
    let pages = match event.pages {
        None => String::new(),
        Some((first, 1)) => format!(": page {first}"),
        Some((first, count)) => format!(": pages {first} to {}", first + count.max(1) - 1),
    };
    match event.name {
        "dma_buf_export" => format!("allocated by pid {}", event.pid),
        "dma_buf_put" => "released".to_owned(),
        "dma_buf_move" => format!("moved to vram{pages}"),
        "dma_buf_evict" => format!("evicted to system{pages}"),
        "dma_buf_purge" => "purged: its pages are gone".to_owned(),
        "dma_buf_revoke" => "revoked: its pages are gone".to_owned(),
        other => other.to_owned(),
    }
}

/// A drawing in the making.
struct Drawn<'a> {
    books: &'a Books,
    lanes: Vec<(Who, String, String)>,
    stage: Stage,
    picture: Picture,
    /// Buffer and pages of each cell that is a part of a buffer.
    parts: Vec<Option<(BufferId, std::ops::Range<usize>)>>,
    harm: Vec<(usize, usize)>,
}

impl<'a> Drawn<'a> {
    fn of(books: &'a Books) -> Self {
        let stage = Stage { lanes: Vec::new(), slots: Vec::new(), places: Vec::new() };
        let (cells, arrows, notes, hands) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let picture = Picture { cells, arrows, notes, hands };
        let (lanes, parts, harm) = (Vec::new(), Vec::new(), Vec::new());
        let mut drawn = Self { books, lanes, stage, picture, parts, harm };
        match &books.look.cells {
            Some(frames) => frames.iter().for_each(|frame| drawn.frame(*frame)),
            None => drawn.pages(),
        }
        drawn.boxes();
        drawn.mappings();
        drawn.addresses();
        drawn.in_order();
        drawn.notes();
        drawn
    }

    fn drawing(self) -> Drawing {
        let doing = self.lanes.into_iter().map(|(_, _, doing)| doing).collect();
        Drawing::new(&self.stage, &self.picture, doing, &self.harm)
    }

    fn name(&self, buffer: BufferId) -> String {
        let known = self.books.look.buffers.iter().find(|seen| seen.id == buffer);
        let name = known.map_or_else(|| "a buffer".to_owned(), |seen| seen.name.clone());
        driftheap::report::svg::cut(&name, NAME_CHARS)
    }

    fn colour(&self, buffer: BufferId) -> Option<BufId> {
        let at = self.books.look.buffers.iter().position(|seen| seen.id == buffer)?;
        Some(BufId::at(at % COLOURS))
    }

    fn cell(
        &mut self,
        name: String,
        placement: &str,
        cell: Cell,
        part: Option<(BufferId, std::ops::Range<usize>)>,
    ) {
        let placement = placement.to_owned();
        self.stage.places.push(FrameRow { frame: FrameId::NONE, name, placement });
        self.picture.cells.push(cell);
        self.parts.push(part);
    }

    fn frame(&mut self, Frame { frame, placement, owner }: Frame) {
        let page = |of: PageOf| format!("{}[{}]", self.name(of.buffer), of.page);
        let colour = |of: PageOf| self.colour(of.buffer);
        let (owner, look, of) = match owner {
            Owner::Free => ("free".to_owned(), Colour::Free, None),
            Owner::Orphan => ("orphan".to_owned(), Colour::Other, None),
            Owner::Page(of) => {
                (page(of), colour(of).map_or(Colour::Other, Colour::Owned), Some(of))
            }
            Owner::Reserved(of) => (
                format!("new {}", page(of)),
                colour(of).map_or(Colour::Other, Colour::Passing),
                None,
            ),
            Owner::Retired(of) => (
                format!("old {}", page(of)),
                colour(of).map_or(Colour::Other, Colour::Passing),
                None,
            ),
        };
        let part = of.map(|of| (of.buffer, of.page..of.page + 1));
        let cell = Cell { owner, holds: String::new(), look };
        self.cell(format!("{placement}:{}", frame.0), &placement.to_string(), cell, part);
    }

    /// Parts of buffers by where they are, for there are no frames.
    fn pages(&mut self) {
        const GROUPS: [&str; 4] = ["vram", "system", "vram and system", "gone"];
        let books = self.books;
        let mut parts = Vec::new();
        for seen in &books.look.buffers {
            let name = self.name(seen.id);
            let colour = self.colour(seen.id).map_or(Colour::Other, Colour::Owned);
            let pages = books.pages.get(&seen.inode.ino).map_or(&[][..], Vec::as_slice);
            if seen.life != Life::Live {
                let owner = format!("{name} {}", whereabouts(seen.life, seen.placement));
                let cell = Cell { owner, holds: String::new(), look: Colour::Other };
                parts.push((3, String::new(), cell, (seen.id, 0..pages.len())));
                continue;
            }
            let step = pages.len().div_ceil(CELLS_MAX).max(1);
            for (first, chunk) in (0..).step_by(step).zip(pages.chunks(step)) {
                let any = |wanted| chunk.iter().any(|page| page.placement == wanted);
                let group = match (any(Placement::Vram), any(Placement::System)) {
                    (true, true) => 2,
                    (_, system) => usize::from(system),
                };
                let moves: u64 = chunk.iter().map(|page| page.moves).sum();
                let label = if moves == 0 { String::new() } else { format!("moved {moves}x") };
                let last = first + chunk.len() - 1;
                let owner = if first == last {
                    format!("{name}[{first}]")
                } else {
                    format!("{name}[{first}-{last}]")
                };
                let cell = Cell { owner, holds: String::new(), look: colour };
                parts.push((group, label, cell, (seen.id, first..last + 1)));
            }
        }
        parts.sort_by_key(|(group, ..)| *group);
        for (group, label, cell, part) in parts {
            self.cell(label, GROUPS[group], cell, Some(part));
        }
    }

    /// The cell that a page is in.
    fn place_of(&self, of: PageOf) -> Option<usize> {
        let holds = |part: &Option<(BufferId, std::ops::Range<usize>)>| {
            part.as_ref().is_some_and(|(id, pages)| *id == of.buffer && pages.contains(&of.page))
        };
        self.parts.iter().position(holds)
    }

    /// Who is to be drawn.
    fn boxes(&mut self) {
        let books = self.books;
        for seen in &books.look.buffers {
            for user in books.used.get(&seen.inode).into_iter().flatten() {
                let fds: Vec<String> = user.fds.iter().map(ToString::to_string).collect();
                let title = format!("{} {}", printed(&user.comm), user.pid);
                let lane = self.lane(Who::Process(user.pid), title);
                if let Some(lane) = lane.filter(|_| !fds.is_empty()) {
                    let doing = &mut self.lanes[lane].2;
                    *doing = format!(
                        "{doing}{} {}",
                        if doing.is_empty() { "fd" } else { "," },
                        fds.join(", ")
                    );
                }
            }
        }
        for (device, _) in &books.look.attached {
            let lane =
                self.lane(Who::Device(device.clone()), format!("device {}", printed(device)));
            if let Some(lane) = lane {
                self.lanes[lane].2 = "attached".to_owned();
            }
        }
    }

    fn lane(&mut self, who: Who, title: String) -> Option<usize> {
        if let Some(at) = self.lanes.iter().position(|(known, ..)| *known == who) {
            return Some(at);
        }
        if self.lanes.len() >= LANES_MAX {
            return None;
        }
        self.lanes.push((who, title.clone(), String::new()));
        self.stage.lanes.push(Lane { title });
        Some(self.lanes.len() - 1)
    }

    fn arrow(
        &mut self,
        lane: usize,
        kind: &'static str,
        name: String,
        to: usize,
        stale: bool,
        note: String,
    ) -> usize {
        self.stage.slots.push(Slot { lane, kind, name, way: None });
        let slot = self.stage.slots.len() - 1;
        self.picture.arrows.push(Arrow { slot, to, stale, note });
        slot
    }

    fn mappings(&mut self) {
        let books = self.books;
        for seen in &books.look.buffers {
            for user in books.used.get(&seen.inode).into_iter().flatten() {
                let Some(lane) = self.lane(Who::Process(user.pid), String::new()) else { continue };
                for map in user.maps.iter().take(CELLS_MAX) {
                    let first = usize::try_from(map.offset / page_size()).unwrap_or(usize::MAX);
                    let of = PageOf { buffer: seen.id, page: first };
                    let Some(to) = self.place_of(of) else { continue };
                    let pages = map.len.div_ceil(page_size());
                    let mode = if map.writes { "rw" } else { "ro" };
                    let note =
                        if pages == 1 { mode.to_owned() } else { format!("{mode}, {pages} pages") };
                    self.arrow(lane, "map", self.name(seen.id), to, false, note);
                }
            }
        }
    }

    fn addresses(&mut self) {
        let books = self.books;
        for hold in &books.look.holds {
            let title = match &hold.who {
                Who::Process(pid) => format!("process {pid}"),
                Who::Device(name) => format!("device {}", printed(name)),
            };
            let Some(lane) = self.lane(hold.who.clone(), title) else { continue };
            let to = match hold.to {
                To::Page(of) => self.place_of(of),
                To::Frame(frame) => {
                    let cells = books.look.cells.as_deref().unwrap_or_default();
                    cells.iter().position(|cell| cell.frame == frame)
                }
            };
            let Some(to) = to else { continue };
            let name = format!("{}[{}]", self.name(hold.of.buffer), hold.of.page);
            let slot = self.arrow(lane, hold.kind, name, to, hold.stale, hold.note.clone());
            if hold.harmful {
                self.harm.push((slot, to));
            }
        }
    }

    /// Slots of one lane stand together, as the layout has them.
    fn in_order(&mut self) {
        let mut order: Vec<usize> = (0..self.stage.slots.len()).collect();
        order.sort_by_key(|&slot| self.stage.slots[slot].lane);
        let new = |old: usize| order.iter().position(|&slot| slot == old).unwrap_or(old);
        for arrow in &mut self.picture.arrows {
            arrow.slot = new(arrow.slot);
        }
        for (slot, _) in &mut self.harm {
            *slot = new(*slot);
        }
        let slots = order.iter().map(|&slot| self.stage.slots[slot].clone()).collect();
        self.stage.slots = slots;
    }

    fn notes(&mut self) {
        for seen in &self.books.look.buffers {
            let mut parts =
                vec![format!("{}: {}", self.name(seen.id), whereabouts(seen.life, seen.placement))];
            let moves = self.books.moves.get(&seen.inode.ino).copied().unwrap_or(0);
            if moves > 0 {
                parts.push(format!("{moves} moves"));
            }
            if seen.pins > 0 {
                parts.push(format!("dma_buf_pin {}", seen.pins));
            }
            if seen.fences > 0 {
                parts.push(format!("{} fences pending", seen.fences));
            }
            let pages = seen.size_bytes / page_size();
            let drawn = u64::try_from(look::PAGES_MAX).unwrap_or(u64::MAX);
            if self.books.look.cells.is_some() && pages > drawn {
                parts.push(format!("{pages} pages, the first {drawn} drawn"));
            }
            self.picture.notes.push(parts.join(", "));
        }
    }
}
