//! Where things are in a drawing: lanes on the left, memory on the right, arrows between them.
//!
//! ```text
//! +-- P0 application -----+          system
//! | gup p = v[0] write    |         +-------------+
//! | pte v[0]           rw | ------> | A[0] =1     |
//! | pin p                 | ------> +-------------+
//! +-----------------------+         | free        |
//! +-- P1 device ----------+         +-------------+
//! ```
//!
//! All in pixels, from the upper left corner. The page's script draws with the same numbers.

use serde::Serialize;

use crate::report::picture::Stage;

/// Width of a lane.
pub const LANE_WIDTH: usize = 216;
/// Between lanes and cells.
pub const GAP: usize = 92;
/// Width of a cell.
pub const CELL_WIDTH: usize = 150;
/// Height of a cell.
pub const CELL_HEIGHT: usize = 30;
/// Height of a slot in its lane.
const SLOT_HEIGHT: usize = 20;
/// A lane's title and the statement that it is at.
const LANE_HEAD: usize = 42;
const LANE_GAP: usize = 8;
/// The name of a placement.
const GROUP_HEIGHT: usize = 20;
const NOTE_HEIGHT: usize = 16;

/// A band from `y` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Band {
    /// Its upper edge.
    pub y: usize,
    /// Its height.
    pub height: usize,
}

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Of the whole drawing.
    pub width: usize,
    /// Of the whole drawing.
    pub height: usize,
    /// A lane each.
    pub lanes: Vec<Band>,
    /// The middle of each slot.
    pub slots: Vec<usize>,
    /// The upper edge of each cell.
    pub cells: Vec<usize>,
    /// The base line of each placement's name.
    pub groups: Vec<(usize, String)>,
    /// The base line of each line about a buffer.
    pub notes: Vec<usize>,
}

impl Layout {
    /// For pictures of this stage with so many notes.
    #[must_use]
    pub fn new(stage: &Stage, notes: usize) -> Self {
        let (mut lanes, mut slots) = (Vec::new(), Vec::new());
        let mut y = 1;
        for lane in 0..stage.lanes.len() {
            let count = stage.slots.iter().filter(|slot| slot.lane == lane).count();
            slots.extend((0..count).map(|n| y + LANE_HEAD + SLOT_HEIGHT * n + SLOT_HEIGHT / 2));
            let height = LANE_HEAD + SLOT_HEIGHT * count + 4;
            lanes.push(Band { y, height });
            y += height + LANE_GAP;
        }
        let left = y;
        let (mut cells, mut groups) = (Vec::new(), Vec::new());
        let mut placement: Option<&str> = None;
        y = 1;
        for place in &stage.places {
            if placement != Some(&place.placement) {
                y += if placement.is_some() { 6 } else { 0 };
                groups.push((y + 13, place.placement.clone()));
                y += GROUP_HEIGHT;
                placement = Some(&place.placement);
            }
            cells.push(y);
            y += CELL_HEIGHT;
        }
        let below = left.max(y + LANE_GAP) + 8;
        let notes: Vec<usize> = (0..notes).map(|n| below + NOTE_HEIGHT * n).collect();
        Self {
            width: LANE_WIDTH + GAP + CELL_WIDTH + 2,
            height: below + NOTE_HEIGHT * notes.len(),
            lanes,
            slots,
            cells,
            groups,
            notes,
        }
    }
}
