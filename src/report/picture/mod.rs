//! A state of the model as a picture: cells, and arrows that point at them.
//!
//! | part | what | of the model |
//! |---|---|---|
//! | [`Lane`] | a process, an exporter or a device | a program of the test |
//! | [`Cell`] | a page frame, grouped by placement: whose it is and what it holds | `State::frames` |
//! | [`Slot`] | something that can hold a frame's address: where an arrow begins | `State::ptes`, `pins`, `sg_frames`, `dmas` |
//! | [`Arrow`] | the address it holds now; *stale* where what it is meant for is elsewhere by now | the same |
//!
//! Pages, SVG figures and a terminal draw the same pictures; none of them looks at the model.
//! [`Stage`] is what stays the same through a test, [`Stage::picture`] what one state looks like.

mod graph;

pub use graph::{Edge, Graph, Node, Sight};

use crate::model::{Owner, Slot as Grip, State, Step, Target, Via};
use crate::question::scenario::{Action, Scenario, ScenarioState};
use crate::units::{ActorId, AttachmentId, BufId, FenceId, FrameId, MAX_PAGES, PageId, PinId};
use crate::units::{PteId, SgId};

/// What an arrow begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A page table entry.
    Pte(PteId),
    /// A `get_user_pages` pin, or a cached pfn.
    Pin(PinId),
    /// An address of an sg_table.
    Sg(SgId, u8),
    /// The address that a device has translated for a DMA in flight.
    Dma(ActorId),
}

/// A place in a lane from which an arrow may lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Position in [`Stage::lanes`].
    pub lane: usize,
    /// `pte`, `pin`, `pfn`, `sg` or `dma`.
    pub kind: &'static str,
    /// As the test calls it: `v[0]`, `p`, `s[1]`.
    pub name: String,
    /// In the model; none where the picture is of a running device.
    pub way: Option<Way>,
}

/// Somebody who takes steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// `P1 device cam`.
    pub title: String,
}

/// A frame that is somebody's at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameRow {
    /// In the model; [`FrameId::NONE`] where the picture is of a running device.
    pub frame: FrameId,
    /// `vram:0`.
    pub name: String,
    /// `vram`.
    pub placement: String,
}

/// What stays the same from state to state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The processes of the test, in order.
    pub lanes: Vec<Lane>,
    /// Where arrows may begin, by lane.
    pub slots: Vec<Slot>,
    /// The frames to show, by placement.
    pub places: Vec<FrameRow>,
}

/// How a cell looks: what its colour says, and its letter says too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Nobody's.
    Free,
    /// Of this buffer.
    Owned(BufId),
    /// The destination or the source of a move that is under way, or a shadow, of this buffer.
    Passing(BufId),
    /// Anonymous memory, or an orphan: of no buffer.
    Other,
}

/// A frame in one state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// `A[0]`, `old A[0]`, `free`.
    pub owner: String,
    /// What it holds, and the CPU's cache line of it: `=1`, `=1 cpu 2*`; empty where free.
    pub holds: String,
    /// Its colour.
    pub look: Look,
}

/// An address that is held in one state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    /// Position in [`Stage::slots`].
    pub slot: usize,
    /// Position in [`Stage::places`].
    pub to: usize,
    /// Whether what it is meant for is elsewhere, or nowhere, by now.
    pub stale: bool,
    /// `rw special`, `invalid`.
    pub note: String,
}

/// One state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Picture {
    /// A cell a place.
    pub cells: Vec<Cell>,
    /// The arrows, by slot.
    pub arrows: Vec<Arrow>,
    /// Buffers, a line each: life, lock, pins, fences.
    pub notes: Vec<String>,
    /// The line of the file that each lane is at; 0 where it has ended or was not forked yet.
    pub hands: Vec<u32>,
}

impl Stage {
    /// The lanes of `scenario`, and those of its slots and frames that `states` make use of.
    #[must_use]
    pub fn new(scenario: &Scenario, states: &[&ScenarioState]) -> Self {
        let lanes: Vec<Lane> = scenario
            .programs
            .iter()
            .enumerate()
            .map(|(index, program)| Lane { title: format!("P{index} {}", program.role) })
            .collect();
        let mut slots = slots(scenario);
        slots.retain(|slot| {
            let held = |state: &&ScenarioState| {
                let eye = Eye { scenario, state: &state.model };
                slot.way.is_some_and(|way| eye.arrow(way).is_some())
            };
            states.iter().any(held)
        });
        slots.sort_by_key(|slot| (slot.lane, slot.way));
        let frames = (0..scenario.world.frames()).map(FrameId::at);
        let used = |frame: &FrameId| {
            let owned =
                |state: &&ScenarioState| state.model.frames[frame.index()].owner != Owner::Free;
            states.iter().any(owned)
        };
        let places = frames.filter(used).map(|frame| FrameRow {
            frame,
            name: scenario.names.frame(&scenario.world, frame),
            placement: scenario.world.placement(frame).to_string(),
        });
        Self { lanes, slots, places: places.collect() }
    }

    /// What `state` looks like.
    #[must_use]
    pub fn picture(&self, scenario: &Scenario, state: &ScenarioState) -> Picture {
        let eye = Eye { scenario, state: &state.model };
        let arrows = self.slots.iter().enumerate().filter_map(|(slot, at)| {
            let (frame, stale, note) = eye.arrow(at.way?)?;
            let to = self.place(frame)?;
            Some(Arrow { slot, to, stale, note })
        });
        let hand = |actor: usize| {
            let instruction = scenario.next(state, actor);
            let statements = &scenario.programs[actor].statements;
            instruction.map_or(0, |instruction| statements[instruction.statement].line)
        };
        Picture {
            cells: self.places.iter().map(|place| eye.cell(place.frame)).collect(),
            arrows: arrows.collect(),
            notes: eye.notes(),
            hands: (0..self.lanes.len()).map(hand).collect(),
        }
    }

    /// The position of `frame` in [`Self::places`].
    #[must_use]
    pub fn place(&self, frame: FrameId) -> Option<usize> {
        self.places.iter().position(|place| place.frame == frame)
    }

    /// The slot that an access came through; none for the exporter and the cache.
    #[must_use]
    pub fn through(&self, scenario: &Scenario, via: Via) -> Option<usize> {
        use crate::model::Handle;
        let way = match via {
            Via::Vma(vma, page) => Way::Pte(scenario.world.pte(vma, page)?),
            Via::Device(Handle::Pin(pin), _) => Way::Pin(pin),
            Via::Device(Handle::Sg(sg), page) => Way::Sg(sg, page),
            Via::Exporter(_) | Via::Cache => return None,
        };
        self.slots.iter().position(|slot| slot.way == Some(way))
    }
}

/// Everything that can hold an address, in the lane of whoever made it.
fn slots(scenario: &Scenario) -> Vec<Slot> {
    let (world, names) = (&scenario.world, &scenario.names);
    let model = &scenario.initial_state().model;
    let lane_of = |actor: ActorId| {
        scenario.programs.iter().position(|program| program.actor == actor).unwrap_or(0)
    };
    let mut slots = Vec::new();
    for index in 0..model.ptes.len() {
        let pte = PteId::at(index);
        let (vma, page) = world.vma_of(pte);
        let name = format!("{}[{page}]", names.vma(vma));
        slots.push(Slot {
            lane: lane_of(world.mm_of(vma)),
            kind: "pte",
            name,
            way: Some(Way::Pte(pte)),
        });
    }
    for index in 0..model.pins.len() {
        let pin = PinId::at(index);
        let takes = |step: &Step| {
            matches!(*step, Step::GupSlow { pin: taken, .. } | Step::FollowPfn { pin: taken, .. }
                if taken == pin)
        };
        let gup = |step: &Step| matches!(*step, Step::GupSlow { pin: taken, .. } if taken == pin);
        let kind = if maker(scenario, gup).is_some() { "pin" } else { "pfn" };
        let lane = maker(scenario, takes).unwrap_or(0);
        slots.push(Slot { lane, kind, name: names.pin(pin).to_owned(), way: Some(Way::Pin(pin)) });
    }
    for index in 0..model.sgs.len() {
        let sg = SgId::at(index);
        let maps = |step: &Step| matches!(*step, Step::Map(mapped) if mapped == sg);
        let lane = maker(scenario, maps).unwrap_or(0);
        for page in 0..pages_of(scenario, world.attachment_of(sg)) {
            let name = format!("{}[{page}]", names.sg(sg));
            slots.push(Slot { lane, kind: "sg", name, way: Some(Way::Sg(sg, page)) });
        }
    }
    for (lane, program) in scenario.programs.iter().enumerate() {
        let starts = |step: &Step| matches!(step, Step::DmaStart { .. });
        if program.instructions.iter().any(|instruction| does(&instruction.action, starts)) {
            slots.push(Slot {
                lane,
                kind: "dma",
                name: "in flight".to_owned(),
                way: Some(Way::Dma(program.actor)),
            });
        }
    }
    slots
}

fn does(action: &Action, is_it: impl Fn(&Step) -> bool) -> bool {
    matches!(action, Action::Step(step) if is_it(step))
}

/// The first program that has such a step.
fn maker(scenario: &Scenario, is_it: impl Fn(&Step) -> bool) -> Option<usize> {
    let has = |program: &crate::question::scenario::Program| {
        program.instructions.iter().any(|instruction| does(&instruction.action, &is_it))
    };
    scenario.programs.iter().position(has)
}

/// Pages of the largest buffer that `attachment` may be made to.
fn pages_of(scenario: &Scenario, attachment: AttachmentId) -> u8 {
    let world = &scenario.world;
    let mut pages = 0;
    for instruction in scenario.programs.iter().flat_map(|program| &program.instructions) {
        let Action::Step(Step::Attach { attachment: made, buf, via, .. }) = instruction.action
        else {
            continue;
        };
        let buf = if buf.is_some() { buf } else { world.vma_shape(via).1 };
        if made == attachment && buf.is_some() {
            pages = pages.max(world.buf(buf).pages);
        }
    }
    pages
}

/// Looks at one state.
#[derive(Clone, Copy)]
struct Eye<'a> {
    scenario: &'a Scenario,
    state: &'a State,
}

impl Eye<'_> {
    fn cell(self, frame: FrameId) -> Cell {
        let entry = &self.state.frames[frame.index()];
        let world = &self.scenario.world;
        let page = |page| self.scenario.names.page(world, page);
        let (owner, look) = match entry.owner {
            Owner::Free => {
                let (owner, holds) = ("free".to_owned(), String::new());
                return Cell { owner, holds, look: Look::Free };
            }
            Owner::Page(of) => (page(of), Look::Owned(world.buf_of(of))),
            Owner::Reserved(of) => (format!("new {}", page(of)), Look::Passing(world.buf_of(of))),
            Owner::Retired(of) => (format!("old {}", page(of)), Look::Passing(world.buf_of(of))),
            Owner::Shadow(of) => (format!("shadow {}", page(of)), Look::Passing(world.buf_of(of))),
            Owner::Bounce(of) => (format!("bounce {}", page(of)), Look::Passing(world.buf_of(of))),
            Owner::Anon => ("anon".to_owned(), Look::Other),
            Owner::Orphan => ("orphan".to_owned(), Look::Other),
            Owner::Zero => ("zero page".to_owned(), Look::Other),
        };
        let cache = match (entry.cached, entry.dirty) {
            (false, _) => String::new(),
            (true, false) => format!(" cpu {}", entry.cache_value),
            (true, true) => format!(" cpu {}*", entry.cache_value),
        };
        Cell { owner, holds: format!("={}{cache}", entry.value), look }
    }

    /// The frame whose address is held there, whether it is stale, and what is to be said of it.
    fn arrow(self, way: Way) -> Option<(FrameId, bool, String)> {
        match way {
            Way::Pte(pte) => {
                let entry = &self.state.ptes[pte.index()];
                if !entry.present() {
                    return None;
                }
                let mut note = String::from(if entry.write { "rw" } else { "ro" });
                let bits =
                    [(entry.special, " special"), (entry.huge, " huge"), (entry.own, " own")];
                bits.iter().filter(|(set, _)| *set).for_each(|(_, word)| note.push_str(word));
                Some((entry.frame, !self.is_home(entry.frame, Target::Va(pte)), note))
            }
            Way::Pin(pin) => {
                let entry = &self.state.pins[pin.index()];
                let held = matches!(entry.slot, Grip::Held | Grip::Taking | Grip::Invalid);
                if !held || entry.frame.is_none() {
                    return None;
                }
                let note = if entry.slot == Grip::Invalid { "invalid" } else { "" };
                let stale = !self.is_home(entry.frame, entry.target);
                Some((entry.frame, stale, note.to_owned()))
            }
            Way::Sg(sg, page) => {
                let held = self.state.sgs[sg.index()];
                let frame = self.state.sg_frames[sg.index() * MAX_PAGES + usize::from(page)];
                if !matches!(held, Grip::Held | Grip::Invalid) || frame.is_none() {
                    return None;
                }
                let attachment = self.scenario.world.attachment_of(sg);
                let buf = self.state.attachments[attachment.index()].buf;
                let meant = self.scenario.world.page(buf, page);
                let home = meant.is_some_and(|page| self.is_home(frame, Target::Page(page)));
                let note = if held == Grip::Invalid { "invalid" } else { "" };
                Some((frame, !home, note.to_owned()))
            }
            Way::Dma(actor) => {
                let dma = &self.state.dmas[actor.index()];
                if !dma.busy || dma.frame.is_none() {
                    return None;
                }
                Some((dma.frame, !self.is_home(dma.frame, dma.target), String::new()))
            }
        }
    }

    /// Whether `frame` is where `target` lives now.
    fn is_home(self, frame: FrameId, target: Target) -> bool {
        let is_page = |page: PageId| {
            self.state.pages[page.index()].frame == frame
                && self.state.frames[frame.index()].owner == Owner::Page(page)
        };
        match target {
            Target::Page(page) => is_page(page),
            Target::Va(pte) => {
                let entry = &self.state.ptes[pte.index()];
                if entry.own {
                    return entry.frame == frame;
                }
                let (vma, page) = self.scenario.world.vma_of(pte);
                let area = &self.state.vmas[vma.index()];
                if area.buf.is_none() {
                    return entry.frame == frame;
                }
                self.scenario.world.page(area.buf, area.offset + page).is_some_and(is_page)
            }
        }
    }

    fn notes(self) -> Vec<String> {
        let names = &self.scenario.names;
        let mut notes = Vec::new();
        for &buf in self.scenario.bufs() {
            let entry = &self.state.bufs[buf.index()];
            let mut parts =
                vec![format!("{}: {}", names.buf(buf), super::story::life_word(entry.life))];
            if entry.lock.is_some() {
                parts.push(format!("locked by {:?}", entry.lock));
            }
            if entry.pins > 0 {
                parts.push(format!("dma_buf_pin {}", entry.pins));
            }
            for (index, fence) in self.state.fences.iter().enumerate() {
                if fence.slot == Grip::Held && fence.buf == buf {
                    parts.push(format!("fence {} pending", names.fence(FenceId::at(index))));
                }
            }
            notes.push(parts.join(", "));
        }
        notes
    }
}
