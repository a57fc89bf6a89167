//! Misuse reports: what a program did with a buffer that goes wrong on hardware.
//!
//! Kernel counterpart: none for the program's side of the contract; the form of a report is that of
//! KASAN (mm/kasan/report.c), and CONFIG_DMABUF_DEBUG (drivers/dma-buf/dma-buf.c, `mangle_sg_table`)
//! is the same thought for importers.
//!
//! This part is pure: events come in with the [`Site`] at which they happened, [`Report`]s come
//! out. A transport, which can read processes, makes the sites and prints the reports.
//!
//! 1. Tell [`Watch`] of each deed on a buffer: allocated, mapped, synced, moved.
//! 2. A detector that finds a misuse calls [`Watch::report`]; the buffer's history goes with it.
//! 3. [`Watch::take_texts`] gives the reports not yet shown; [`Watch::log`] has all of them.
//!
//! Reports of one [`Kind`] and place, which is the program's own innermost source line, are counted
//! and not repeated.

mod brackets;
pub mod guard;
mod history;
mod kind;
mod pins;
mod report;
pub mod sarif;
mod site;
mod watch;

pub use brackets::{Allowed, Bracket, Brackets, Fault, Unended};
pub use history::{BufferEvent, Histories, History, Moment, sync_words};
pub use kind::{Kind, Kinds, UnknownKind};
pub use pins::{Holder, PINS_MAX, Pin, Pins};
pub use report::{Act, Finding, Log, REPORTS_MAX, Report, Subject};
pub use site::{Site, StackFrame, Symbol};
pub use watch::Watch;
