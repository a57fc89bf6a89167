//! All interleavings of a state machine, explored exhaustively.

mod machine;

pub use machine::{ACTORS_MAX, Footprint, Machine, actors_in};
