//! Conformance suite: one row for each answer that a real dma-buf heap gives.
//!
//! Prints `row-id<TAB>answer<TAB>expected<TAB>note` a line and needs /dev/dma_heap/system, real
//! or emulated; /dev/udmabuf and sw_sync where they exist. The expected answers are those of
//! Linux (drivers/dma-buf, 6.12 with the system heap and udmabuf), so the same program judges a
//! kernel and a substitute. A note says which substitute can't give the answer, and why:
//! `strict: ...` needs `driftheap run --strict`, `never: ...` can't be had without a kernel.
//!
//! The environment says where buffers come from: CONFORMANCE_MOUNT (a directory of `driftheap
//! serve --mount`), CONFORMANCE_NODE (a device of `driftheap serve --cuse`), CONFORMANCE_EXPORTER
//! (`udmabuf` or `vgem`: only the rows that ask a buffer).
//!
//! Exit status: 0 when every row without a note answers as expected.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::wildcard_imports,
    reason = "raw system calls take and return words"
)]

mod buffer;
mod descriptor;
mod differences;
mod drivers;
mod exporters;
mod fences;
mod gup;
mod heap;
mod kit;
mod mapping;
mod node;
mod protection;
mod table;
mod udmabuf;

pub use differences::{Reasons, reasons, why};
pub use drivers::{close_buffer, exporter_buffer};
pub use table::{Agreement, Answers, ComparedRow, Reference, Transport, answers, parse, print};

use std::io::Write as _;

use crate::sys::raw;

/// One expectation.
#[derive(Debug)]
pub(crate) struct Row {
    /// Group and case.
    pub(crate) id: &'static str,
    /// The answer of Linux.
    pub(crate) expect: &'static str,
    /// Which substitutes can't give it; empty for none.
    pub(crate) note: &'static str,
    /// Finds the answer out.
    pub(crate) run: fn() -> String,
}

/// A row that every substitute has to answer.
pub(crate) const fn row(id: &'static str, expect: &'static str, run: fn() -> String) -> Row {
    Row { id, expect, note: "", run }
}

/// A row that some can't.
pub(crate) const fn noted(
    id: &'static str,
    expect: &'static str,
    note: &'static str,
    run: fn() -> String,
) -> Row {
    Row { id, expect, note, run }
}

/// Most seconds that a row may take.
const ROW_SECONDS_MAX: u32 = 20;

/// Every row: those of the heap's own node, of its buffers, and of udmabuf.
fn rows() -> impl Iterator<Item = &'static Row> {
    [
        heap::ROWS,
        buffer::ROWS,
        descriptor::ROWS,
        fences::ROWS,
        mapping::ROWS,
        protection::ROWS,
        gup::ROWS,
        udmabuf::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// Whether a row asks a buffer, whoever exported it.
fn is_of_a_buffer(id: &str) -> bool {
    !["heap.", "alloc.", "udmabuf."].iter().any(|group| id.starts_with(group))
}

/// Runs the rows whose name begins with `only`, each in a child, and prints their answers. For a
/// process that has one thread.
pub fn main(only: &str) -> std::process::ExitCode {
    let place = kit::place();
    let exporter = matches!(place, kit::BufferSource::Exporter(_));
    let served = matches!(place, kit::BufferSource::Mount(_) | kit::BufferSource::Node(_));
    let mut wrong = 0;
    let asked = rows().filter(|row| row.id.starts_with(only));
    for row in asked.filter(|row| !exporter || is_of_a_buffer(row.id)) {
        // A server offers heaps alone: what /dev/udmabuf answers here is the kernel's.
        let answer = if served && row.id.starts_with("udmabuf.") {
            "SKIP a server offers no udmabuf".into()
        } else {
            raw::in_child(ROW_SECONDS_MAX, row.run)
        };
        let skipped = answer.starts_with("SKIP");
        wrong += i32::from(answer != row.expect && row.note.is_empty() && !skipped);
        let line = format!("{}\t{}\t{}\t{}\n", row.id, answer, row.expect, row.note);
        // Flushed, for a row forks: what is still in a buffer would be printed twice.
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            return std::process::ExitCode::FAILURE;
        }
    }
    u8::from(wrong != 0).into()
}

/// A row without the question: its name, the answer of Linux, and what a substitute lacks.
pub fn expectations() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    rows().map(|row| (row.id, row.expect, row.note))
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_row_stands_once() {
        let mut seen = std::collections::BTreeSet::new();
        for (id, ..) in super::expectations() {
            assert!(seen.insert(id), "{id} stands twice");
        }
    }
}
