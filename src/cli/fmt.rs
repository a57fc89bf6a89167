//! `driftheap fmt`.

use anyhow::Context;
use clap::Args;
use driftheap::litmus;

use super::Exit;
use super::input::{self, Text};
use super::out::Out;

/// Format litmus files in place
///
/// Comments and `vary` stay. `-` reads standard input and writes standard output. A file that
/// can't be read or has unbalanced brackets is left alone.
///
/// Examples:
///   driftheap fmt my.litmus
///   driftheap fmt --check tests/
///
/// Exit status:
///   0  every file is formatted now (with --check: was already)
///   1  with --check: a file would change; nothing is written
///   2  a file can't be read, formatted or written
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct FmtArgs {
    /// Change nothing; name the files that would change and exit with status 1
    #[arg(long)]
    check: bool,

    /// Files, directories (their *.litmus files), or `-`
    #[arg(required = true)]
    files: Vec<String>,
}

pub(crate) fn run(args: &FmtArgs, out: &Out) -> anyhow::Result<Exit> {
    let mut exit = Exit::Good;
    for text in args.files.iter().flat_map(|name| input::texts(name)) {
        let result = match text {
            Ok(text) => one(args, &text, out)?,
            Err(message) => {
                out.error(&message);
                Exit::Input
            }
        };
        exit = exit.max(result);
    }
    Ok(exit)
}

fn one(args: &FmtArgs, text: &Text, out: &Out) -> anyhow::Result<Exit> {
    let formatted = match litmus::format(&text.file, &text.text) {
        Ok(formatted) => formatted,
        Err(diagnostics) => {
            input::diagnose(&diagnostics, out);
            return Ok(Exit::Input);
        }
    };
    let changed = formatted != text.text;
    if args.check {
        if changed {
            out.text(&format!("{}: not formatted\n", text.file))?;
        }
        return Ok(if changed { Exit::Differs } else { Exit::Good });
    }
    match &text.path {
        None => out.text(&formatted)?,
        Some(path) if changed => {
            if let Err(error) = std::fs::write(path, &formatted)
                .with_context(|| format!("can't write {}", path.display()))
            {
                out.error(&format!("{error:#}"));
                return Ok(Exit::Input);
            }
            if !out.quiet {
                out.note(&format!("{}: formatted\n", text.file));
            }
        }
        Some(_) => {}
    }
    Ok(Exit::Good)
}
