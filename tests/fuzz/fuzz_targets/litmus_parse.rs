//! Fuzzing litmus texts: `cargo fuzz run --fuzz-dir tests/fuzz litmus_parse`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets/litmus_parse.rs"]
mod target;

fuzz_target!(|bytes: &[u8]| target::run(bytes));
