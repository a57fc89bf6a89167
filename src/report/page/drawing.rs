//! One picture by itself, as the page's script draws it: for who makes pictures of something else than a
//! scenario.

use serde::Serialize;

use crate::report::picture::{Picture, Stage};
use crate::report::svg::{self, Layout};

/// A stage and a picture on it. `draw` of the script takes it for the variant and for its picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drawing {
    layout: Layout,
    /// Titles of the lanes.
    lanes: Vec<String>,
    /// What is said in each lane.
    doing: Vec<String>,
    /// Lane, kind and name of each slot.
    slots: Vec<(usize, &'static str, String)>,
    /// Names of the frames.
    places: Vec<String>,
    cells: Vec<DrawnCell>,
    arrows: Vec<DrawnArrow>,
    notes: Vec<String>,
    /// Arrows that did harm: slot and place.
    hazards: Vec<Harm>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct DrawnCell {
    owner: String,
    holds: String,
    look: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct DrawnArrow {
    slot: usize,
    to: usize,
    stale: bool,
    note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Harm {
    slot: usize,
    place: usize,
}

impl Drawing {
    /// `doing`: what each lane is at. `harm`: slots and places of the arrows that did harm.
    #[must_use]
    pub fn new(
        stage: &Stage,
        picture: &Picture,
        doing: Vec<String>,
        harm: &[(usize, usize)],
    ) -> Self {
        debug_assert_eq!(stage.lanes.len(), doing.len(), "each lane is at something");
        let cell = |cell: &crate::report::picture::Cell| DrawnCell {
            owner: cell.owner.clone(),
            holds: cell.holds.clone(),
            look: svg::look_class(cell.look),
        };
        let arrow = |arrow: &crate::report::picture::Arrow| DrawnArrow {
            slot: arrow.slot,
            to: arrow.to,
            stale: arrow.stale,
            note: arrow.note.clone(),
        };
        Self {
            layout: Layout::new(stage, picture.notes.len()),
            lanes: stage.lanes.iter().map(|lane| lane.title.clone()).collect(),
            doing,
            slots: stage.slots.iter().map(|s| (s.lane, s.kind, s.name.clone())).collect(),
            places: stage.places.iter().map(|place| place.name.clone()).collect(),
            cells: picture.cells.iter().map(cell).collect(),
            arrows: picture.arrows.iter().map(arrow).collect(),
            notes: picture.notes.clone(),
            hazards: harm.iter().map(|&(slot, place)| Harm { slot, place }).collect(),
        }
    }
}
