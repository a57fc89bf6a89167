//! The live exporter: buffers move while programs hold them.
//!
//! | module | what |
//! |---|---|
//! | [`mover`] | one move: protect, copy, punch, refill, release |
//! | [`journal`] | what a move has under way, for who completes it when we die |
//! | [`guardian`] | who completes it |
//! | [`space`] | the address spaces that map buffers, and the userfaultfd of each |
//! | [`engine`] | which buffer can move, and moving it |
//! | [`chaos`] | seeded choices of what to do to which buffer |
//! | [`frames`] | bus addresses: whose memory a frame is now |
//! | [`attach`] | importers: attachments, sg_tables, buffer pins, reservation locks |
//! | [`bus`] | what a device's access at a bus address reaches, on real bytes |
//! | `contents`, `copies` | what pages hold while they move |
//! | [`operation`] | moves, purges and revocations in the order of the exporter's rules |
//! | [`importer`] | what an importer calls |
//! | [`emulate`] | devices that use buffers on a schedule |
//! | [`findings`] | reports of accesses that went wrong |
//! | [`record`] | a run in the litmus language |
//!
//! **Invariant**: a buffer moves only while every mapping of its memory, in every process, is
//! registered with a userfaultfd of ours. What can't be registered makes the buffer unmovable, and
//! the reason is told.

pub mod attach;
pub mod bus;
pub mod chaos;
mod contents;
mod copies;
pub mod emulate;
pub mod engine;
pub mod findings;
pub mod frames;
pub mod guardian;
pub mod importer;
pub mod journal;
pub mod mover;
mod notes;
pub mod operation;
pub mod pages;
pub mod record;
mod resv;
pub mod space;

pub use chaos::{Chaos, ChaosConfig, OPERATIONS};
pub use engine::{Engine, NotMovable};
pub use guardian::Guardian;
pub use mover::{Mapping, MoveError, Moved, Mover, Sabotage};
