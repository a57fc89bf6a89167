//! Fuzzing requests to the device: `cargo fuzz run --fuzz-dir tests/fuzz device_request`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets/device_request.rs"]
mod target;

fuzz_target!(|bytes: &[u8]| target::run(bytes));
