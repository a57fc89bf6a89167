//! `driftheap completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::out::Out;
use super::{Cli, Exit};

/// Print a completion script for a shell
///
/// The script goes to standard output.
///
/// Examples:
///   driftheap completions bash > ~/.local/share/bash-completion/completions/driftheap
///   driftheap completions zsh > ~/.zfunc/_driftheap
///   driftheap completions fish > ~/.config/fish/completions/driftheap.fish
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, out: &Out) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "driftheap", &mut script);
    out.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Good)
}
