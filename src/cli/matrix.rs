//! `driftheap matrix`.

use clap::Args;

use super::Exit;
use super::out::Out;

/// Rules by outcomes
#[derive(Debug, Args)]
pub(crate) struct MatrixArgs {
    /// Tests
    #[arg(required = true)]
    tests: Vec<String>,
}

pub(crate) fn run(args: &MatrixArgs, out: &Out) -> anyhow::Result<Exit> {
    let _ = (args, out);
    Ok(Exit::Good)
}
