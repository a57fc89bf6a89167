//! Fuzzing messages of /dev/cuse: `cargo fuzz run --fuzz-dir tests/fuzz cuse_request`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets/cuse_request.rs"]
mod target;

fuzz_target!(|bytes: &[u8]| target::run(bytes));
