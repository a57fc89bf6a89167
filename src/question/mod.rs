//! A question: what a litmus file asks, put to the model and answered.
//!
//! 1. [`scenario`] lowers one variant of a litmus file ([`crate::litmus::ast`]) to a [`World`] of
//!    the model and one program a process, and is the machine that the explorer runs.
//! 2. [`verdict`] runs it through every interleaving and says Always, Sometimes or Never, with the
//!    shortest schedule.
//! 3. [`prevent`] changes one rule at a time and asks again.
//! 4. [`notes`] says what an answer rests on, and what in the test has no effect.
//!
//! Architecture invariant: the language ([`crate::litmus`]) knows nothing of this module, and this
//! module reads no text.
//!
//! [`World`]: crate::model::World

pub mod notes;
pub mod prevent;
pub mod scenario;
pub mod verdict;
