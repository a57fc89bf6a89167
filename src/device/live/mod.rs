//! The live exporter: buffers move while programs hold them.
//!
//! | module | what |
//! |---|---|
//! | [`mover`] | one move: protect, copy, punch, refill, release |
//! | [`journal`] | what a move has under way, for who completes it when we die |
//! | [`guardian`] | who completes it |
//! | [`maps`], [`space`] | the address spaces that map buffers, and the userfaultfd of each |
//! | [`engine`] | which buffer can move, and moving it |
//! | [`chaos`] | seeded choices of what to do to which buffer |
//!
//! **Invariant**: a buffer moves only while every mapping of its memory, in every process, is
//! registered with a userfaultfd of ours. What can't be registered makes the buffer unmovable, and
//! the reason is told; it is never moved on hope.

pub mod chaos;
pub mod engine;
pub mod guardian;
pub mod journal;
pub mod maps;
pub mod mover;
pub mod space;

pub use chaos::{Chaos, ChaosConfig, Deed};
pub use engine::{Engine, Refusal};
pub use guardian::Guardian;
pub use mover::{Mapping, MoveError, Moved, Mover, Sabotage};
