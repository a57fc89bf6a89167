//! All interleavings of a state machine, explored exhaustively.
//!
//! A litmus test is a handful of actors, each with a list of actions; which actor moves next is the
//! scheduler's choice. The explorer tries every choice: it visits every distinct state once,
//! breadth first, and answers
//!
//! - which **outcomes** exist, and how many complete interleavings end in each (exactly: a path
//!   count over the acyclic graph of states, not a sample);
//! - a **shortest schedule** to each outcome, the lexicographically least of the shortest, so that
//!   it is the same on every run; and to each watched fact, such as the first hazard;
//! - whether it has seen **everything**. A limit that is reached is reported with the partial
//!   answer, never swallowed.
//!
//! It knows nothing of dma-bufs: what it explores is any [`Machine`].
//!
//! | file | what |
//! |---|---|
//! | `machine` | what is explored: actors, actions, footprints |
//! | `explorer` | [`Explorer`], the front door |
//! | `result` | limits, answers, errors |
//! | `bfs`, `graph` | the search and the canonical order of states; what it finds out |
//! | `parallel` | the same search on several threads, with the same answer |
//! | `ids`, `hash`, `mail` | what states are known by; states that are read and that are found |
//! | `store`, `parts`, `table` | visited states: each part kept once, a hash table |
//! | `reduce` | states that are one, persistent sets: fewer states, the same outcomes |
//! | `naming` | interchangeable actors: states that are one but for who is who |
//! | `count` | how many schedules lead where; cycles |
//! | `sample` | running and drawing single schedules |
//!
//! # Invariants
//!
//! - No answer depends on the number of threads, on hash values or on time; but where the memory
//!   limit stops a search depends on the number of threads, as the memory itself does.
//! - A reduced search has exactly the outcomes of the full one; one that only forgets has its numbers
//!   of schedules and its shortest schedules, too.
//! - States are compared by all their bytes: a hash collision can't merge two.

#![forbid(unsafe_code)]

mod bfs;
mod count;
mod explorer;
mod graph;
mod hash;
mod ids;
mod machine;
mod mail;
mod naming;
mod parallel;
mod parts;
mod reduce;
mod result;
mod sample;
mod store;
mod table;

pub use explorer::Explorer;
pub use machine::{
    ACTORS_MAX, ActorNames, Footprint, Machine, SAME_NAMES, actors_in, commuting_pairs,
};
pub use reduce::Reduction;
pub use result::{Exploration, ExploreError, Limits, OutcomeStats, Progress, Reached, Stop, Until};
pub use sample::{Run, Sample, ScheduleError};
