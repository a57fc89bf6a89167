//! What driftheap prints: values in, text out.
//!
//! | file | what |
//! |---|---|
//! | `paint` | colours, padding, compact numbers |
//! | `table` | columns that line up, row by row |
//! | `verdicts` | the line of a variant, the herd-like block, the summary |
//! | `json` | one object a variant |
//! | `merged` | the lines of several runs, put together |
//! | `story` | a schedule step by step, with a KASAN-like splat for each hazard |
//! | `real` | what real memory said, next to the model |
//! | `matrix` | rules by outcomes |
//! | `formats` | JUnit and KTAP |
//! | `trace` | a schedule for Perfetto |
//! | `gup` | the get_user_pages table |
//! | `list` | the bundled tests |
//! | `reference` | the rules and the statements |
//! | `picture` | a state as cells and arrows, and the graph of all states |
//! | `svg` | pictures as figures |
//! | `page` | tests as pages to look at and to step through |
//!
//! # Invariants
//! - Nothing here reads a file, a clock or the environment, and nothing prints: each function
//!   returns text (or a value that serialises) and whoever calls it writes it out.
//! - The same input gives the same text, byte for byte.

#![forbid(unsafe_code)]

pub mod chart;
pub mod formats;
pub mod gup;
pub mod json;
pub mod kernel;
pub mod list;
pub mod matrix;
pub mod merged;
pub mod page;
mod paint;
pub mod picture;
pub mod real;
pub mod reference;
pub mod story;
pub mod svg;
mod table;
pub mod trace;
pub mod tracks;
pub mod verdicts;

pub use paint::{Paint, Tone, compact, plural};
pub use table::{Align, Cell, Column, Table};

use crate::litmus::ast::Test;
use crate::question::notes::Note;
use crate::question::scenario::Scenario;
use crate::question::verdict::Judgement;

/// A variant with the answer to its question.
#[derive(Debug, Clone, Copy)]
pub struct AnsweredVariant<'a> {
    /// The file it is from.
    pub test: &'a Test,
    /// What was explored.
    pub scenario: &'a Scenario,
    /// What came of it.
    pub judgement: &'a Judgement,
    /// What the answer does not say by itself.
    pub notes: &'a [Note],
}

impl AnsweredVariant<'_> {
    /// `NAME` or `NAME/variant`.
    #[must_use]
    pub fn name(&self) -> String {
        full_name(&self.scenario.test, &self.scenario.variant)
    }

    /// Whether the answer is a *Never* that rests on something that did not happen at all.
    #[must_use]
    pub fn vacuous(&self) -> bool {
        self.notes.iter().any(|note| note.vacuous)
    }
}

/// `TEST`, or `TEST/VARIANT` in a test with several.
#[must_use]
pub fn full_name(test: &str, variant: &str) -> String {
    if variant == "-" { test.to_owned() } else { format!("{test}/{variant}") }
}
