//! The `driftheap` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use driftheap::cli;

/// A userspace dma-buf heap whose buffers move.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(cli::run::RunArgs),
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Run(args) => cli::run::main(args),
    }
}
