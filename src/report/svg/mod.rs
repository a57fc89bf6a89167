//! Pictures as SVG: one state, or the strip of the steps that matter.
//!
//! A figure stands alone: no style sheet, no script and no font comes from elsewhere, and every
//! colour is an attribute, so that slides and word processors show it too. What a colour says is
//! also said by a letter, a line style or a word: a cell names its owner, a stale arrow is dashed,
//! the step that corrupts has `!`.

mod layout;
mod strip;

pub use layout::{CELL_HEIGHT, CELL_WIDTH, GAP, LANE_WIDTH, Layout};
pub use strip::{Titles, strip};

use maud::{Markup, html};

use super::picture::{Arrow, Look, Picture, Sight, Stage};

/// Characters of a statement that fit into a lane.
pub const STATEMENT_CHARS: usize = 28;

const RED: &str = "#c0182a";
const INK: &str = "#1c2330";
const DIM: &str = "#667085";
const RULE: &str = "#98a2b3";
/// Fill and edge of the cells of each buffer, in turn.
const COLOURS: [(&str, &str); 6] = [
    ("#cfe3ff", "#1f5fbf"),
    ("#ffdfba", "#a85400"),
    ("#d2f0d4", "#2a7a33"),
    ("#e7d8fb", "#6a35b0"),
    ("#c9f0ee", "#0f7470"),
    ("#f7edb0", "#7a6a00"),
];

/// A picture with the text beside it.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// What stays the same.
    pub stage: &'a Stage,
    /// Where things are.
    pub layout: &'a Layout,
    /// What is to be seen.
    pub picture: &'a Picture,
    /// What the step that led here has corrupted.
    pub sights: &'a [Sight],
    /// The lines of the test.
    pub source: &'a [&'a str],
    /// The lane whose step it was.
    pub actor: Option<usize>,
}

/// `text`, cut to so many characters.
#[must_use]
pub fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars.saturating_sub(1)).collect();
    format!("{}\u{2026}", kept.trim_end())
}

/// The class of a cell, and of what is drawn in its colour.
#[must_use]
pub fn look_class(look: Look) -> String {
    match look {
        Look::Free => "free".to_owned(),
        Look::Owned(buf) => format!("own{}", buf.index() % COLOURS.len()),
        Look::Passing(buf) => format!("own{} passing", buf.index() % COLOURS.len()),
        Look::Other => "other".to_owned(),
    }
}

fn colours(look: Look) -> (&'static str, &'static str, &'static str) {
    match look {
        Look::Free => ("#ffffff", RULE, "3 3"),
        Look::Owned(buf) => {
            let (fill, edge) = COLOURS[buf.index() % COLOURS.len()];
            (fill, edge, "none")
        }
        Look::Passing(buf) => ("#ffffff", COLOURS[buf.index() % COLOURS.len()].1, "6 2"),
        Look::Other => ("#e6e8ec", DIM, "none"),
    }
}

impl Scene<'_> {
    /// The elements of the drawing, without the element around them.
    #[must_use]
    pub fn elements(&self) -> Markup {
        let Scene { stage, layout, picture, .. } = *self;
        html! {
            @for (lane, band) in layout.lanes.iter().enumerate() {
                (self.lane(lane, band.y, band.height))
            }
            @for (y, name) in &layout.groups {
                text class="dim" x=(LANE_WIDTH + GAP) y=(y) font-size="12" fill=(DIM) { (name) }
            }
            @for place in 0..stage.places.len() {
                (self.cell(place))
            }
            @for arrow in &picture.arrows {
                (self.arrow(arrow.slot, arrow.to, arrow.stale))
            }
            @for sight in self.sights {
                @if let (Some(slot), Some(place)) = (sight.slot, sight.place) {
                    @if !picture.arrows.iter().any(|a| (a.slot, a.to) == (slot, place)) {
                        (self.arrow(slot, place, true))
                    }
                }
            }
            @for (y, note) in layout.notes.iter().zip(&picture.notes) {
                text class="dim" x="2" y=(y) font-size="12" fill=(DIM) { (note) }
            }
        }
    }

    fn lane(&self, lane: usize, y: usize, height: usize) -> Markup {
        let Scene { stage, layout, picture, source, .. } = *self;
        let line = picture.hands[lane];
        let at = usize::try_from(line).ok().and_then(|line| line.checked_sub(1));
        let text = at.and_then(|at| source.get(at)).map_or("(at its end)", |text| text.trim());
        let active = self.actor == Some(lane);
        let slots = stage.slots.iter().enumerate().filter(|(_, slot)| slot.lane == lane);
        html! {
            g class=(if active { "lane active" } else { "lane" }) {
                rect x="1" y=(y) width=(LANE_WIDTH - 1) height=(height) rx="5" fill="#f7f8fa"
                    stroke=(if active { INK } else { RULE }) stroke-width=(if active { 2 } else { 1 }) {}
                text x="9" y=(y + 16) font-size="13" font-weight="bold" fill=(INK) {
                    (cut(&stage.lanes[lane].title, STATEMENT_CHARS - 2))
                }
                text class="dim" x="9" y=(y + 32) font-size="12" fill=(DIM) {
                    (cut(text, STATEMENT_CHARS))
                }
            }
            @for (index, slot) in slots {
                @let arrow = picture.arrows.iter().find(|arrow| arrow.slot == index);
                g class=(if arrow.is_some() { "slot held" } else { "slot" }) {
                    text x="9" y=(layout.slots[index] + 4) font-size="12"
                        fill=(if arrow.is_some() { INK } else { RULE }) {
                        (slot.kind) " " (slot.name)
                    }
                    @if let Some(arrow) = arrow {
                        text class="dim" x=(LANE_WIDTH - 7) y=(layout.slots[index] + 4)
                            font-size="11" text-anchor="end" fill=(DIM) { (note(arrow)) }
                    }
                }
            }
        }
    }

    fn cell(&self, place: usize) -> Markup {
        let Scene { stage, layout, picture, sights, .. } = *self;
        let cell = &picture.cells[place];
        let (fill, edge, dashes) = colours(cell.look);
        let hit = sights.iter().any(|sight| sight.place == Some(place));
        let (x, y) = (LANE_WIDTH + GAP, layout.cells[place]);
        let class = format!("cell {}{}", look_class(cell.look), if hit { " hit" } else { "" });
        html! {
            g class=(class) data-frame=(stage.places[place].name) data-owner=(cell.owner) {
                rect x=(x) y=(y + 2) width=(CELL_WIDTH) height=(CELL_HEIGHT - 4) rx="3" fill=(fill)
                    stroke=(if hit { RED } else { edge }) stroke-width=(if hit { 3 } else { 1 })
                    stroke-dasharray=(if hit { "none" } else { dashes }) {}
                text x=(x + 7) y=(y + 19) font-size="13" font-weight="bold"
                    fill=(if cell.look == Look::Free { DIM } else { INK }) {
                    @if hit { "! " }
                    (cell.owner) (cell.holds)
                }
                text class="dim" x=(x + CELL_WIDTH - 5) y=(y + 19) font-size="10" text-anchor="end"
                    fill=(DIM) { (stage.places[place].name) }
            }
        }
    }

    fn arrow(&self, slot: usize, to: usize, stale: bool) -> Markup {
        let layout = self.layout;
        let red = self.sights.iter().any(|s| s.slot == Some(slot) && s.place == Some(to));
        let class =
            format!("arrow{}{}", if stale { " stale" } else { "" }, if red { " red" } else { "" });
        let colour = if red { RED } else { INK };
        let (x1, y1) = (LANE_WIDTH, layout.slots[slot]);
        let (x2, y2) = (LANE_WIDTH + GAP, layout.cells[to] + end_offset(slot, layout.slots.len()));
        let name = &self.stage.slots[slot].name;
        html! {
            g class=(class) data-slot=(name) data-to=(self.stage.places[to].name) {
                path d={ "M" (x1) " " (y1) " C" (x1 + GAP / 2) " " (y1) " " (x2 - GAP / 2) " " (y2) " " (x2 - 8) " " (y2) }
                    fill="none" stroke=(colour) stroke-width=(if red { "3" } else { "1.5" })
                    stroke-dasharray=(if stale { "6 4" } else { "none" }) {}
                path class="head" d={ "M" (x2) " " (y2) "l-9 -4v8z" } fill=(colour) {}
            }
        }
    }
}

/// How far below the upper edge of its cell the arrow of a slot ends, so that two don't meet.
fn end_offset(slot: usize, slots: usize) -> usize {
    5 + (CELL_HEIGHT - 10) * (slot + 1) / (slots + 1)
}

fn note(arrow: &Arrow) -> String {
    match (arrow.stale, arrow.note.as_str()) {
        (false, note) => note.to_owned(),
        (true, "") => "stale".to_owned(),
        (true, note) => format!("{note}, stale"),
    }
}
