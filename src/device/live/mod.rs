//! The live exporter: buffers move while programs hold them.
//!
//! | module | what |
//! |---|---|
//! | [`mover`] | one move: protect, copy, punch, refill, release |
//! | [`journal`] | what a move has under way, for who completes it when we die |
//! | [`frames`] | bus addresses: whose memory a frame is now |
//! | [`attach`] | importers: attachments, sg_tables, buffer pins, reservation locks |
//!
//! **Invariant**: a buffer moves only while every mapping of its memory, in every process, is
//! registered with a userfaultfd of ours. What can't be registered makes the buffer unmovable, and
//! the reason is told; it is never moved on hope.

pub mod attach;
pub mod frames;
pub mod journal;
pub mod mover;

pub use mover::{Mapping, MoveError, Moved, Mover, Sabotage};
