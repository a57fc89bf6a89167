//! The `driftheap` command.
fn main() {}
