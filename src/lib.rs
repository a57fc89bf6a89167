//! driftheap: a userspace dma-buf heap whose buffers move.
//!
//! Modules, downward imports only (`tests/layers.rs` checks it):
//!
//! ```text
//! terminal                          what may be shown on one
//! random                            numbers that a seed repeats
//! units -> uapi                     ids, page arithmetic; kernel structs, ioctl numbers
//! model                             PURE: the state machine and the oracle
//! explore -> random                 all interleavings of any machine
//! litmus  -> model                  the language and its diagnostics
//! question -> litmus, explore, model scenarios, verdicts, what would prevent
//! sys     -> uapi                   all unsafe code
//! exec    -> question, model, sys   the model's effects on real memory and real processes
//! device  -> model, sys, exec       transports: request -> action -> reply
//! client  -> device, model, sys     the library of programs whose buffers move
//! conformance -> sys                questions to a heap, real or ours, and Linux's answers
//! report  -> question, litmus, model terminal and JSON: values in, text out
//! ```

pub mod client;
pub mod conformance;
pub mod device;
pub mod exec;
pub mod explore;
pub mod litmus;
pub mod model;
pub mod question;
pub mod random;
pub mod report;
pub mod suite;
pub mod sys;
pub mod terminal;
pub mod uapi;
pub mod units;
