//! Buffers of a socket exporter that move under cooperating clients: what is right stays right, and
//! what is wrong is wrong in the other buffer's bytes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/lab.rs"]
mod lab;

mod examples;
mod hazards;
mod kit;
mod lives;
mod recording;
mod served;
