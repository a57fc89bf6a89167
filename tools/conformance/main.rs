//! Conformance suite: one row for each answer that a real dma-buf heap gives.
//!
//! Prints `row-id<TAB>answer<TAB>expected<TAB>note` a line and needs /dev/dma_heap/system, real
//! or emulated; /dev/udmabuf and sw_sync where they exist. The expected answers are those of
//! Linux (drivers/dma-buf, 6.12 with the system heap and udmabuf), so the same program judges a
//! kernel and a substitute. A note says which substitute can't give the answer, and why:
//! `strict: ...` needs `driftheap run --strict`, `never: ...` can't be had without a kernel.
//!
//! Exit status: 0 when every row without a note answers as expected.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    reason = "raw system calls take and return words; the rows go to standard output"
)]

mod buffer;
mod fences;
mod gup;
mod heap;
mod kit;
mod mapping;
mod sys;
mod udmabuf;

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

fn main() -> std::process::ExitCode {
    let only = std::env::args().nth(1).unwrap_or_default();
    let groups: [&[Row]; 6] =
        [heap::ROWS, buffer::ROWS, fences::ROWS, mapping::ROWS, gup::ROWS, udmabuf::ROWS];
    let mut wrong = 0;
    let mut seen = std::collections::BTreeSet::new();
    for row in groups.into_iter().flatten().filter(|row| row.id.starts_with(&only)) {
        assert!(seen.insert(row.id), "row {} stands twice", row.id);
        let answer = sys::in_child(ROW_SECONDS_MAX, row.run);
        let skipped = answer.starts_with("SKIP");
        wrong += i32::from(answer != row.expect && row.note.is_empty() && !skipped);
        println!("{}\t{}\t{}\t{}", row.id, answer, row.expect, row.note);
    }
    u8::from(wrong != 0).into()
}
