//! The conformance suite as a program of its own, for any machine with a dma-buf heap:
//! `conformance [ROW-PREFIX]`. What it prints is on the page of `driftheap::conformance`.

fn main() -> std::process::ExitCode {
    driftheap::conformance::main(&std::env::args().nth(1).unwrap_or_default())
}
