//! `driftheap list`.

use clap::Args;
use driftheap::report::{json, list};

use super::out::Out;
use super::{Exit, input};

/// List the bundled tests: row, name, number of variants, question
///
/// Examples:
///   driftheap list
///   driftheap list --json | jq -r .test
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ListArgs {
    /// One JSON object per test and line: test, row, question, sources, variants
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ListArgs, out: &Out) -> anyhow::Result<Exit> {
    let (loaded, bad) = input::bundled(out);
    if args.json {
        for loaded in &loaded {
            out.text(&json::line(&list::ListedJson::new(&loaded.test)))?;
        }
    } else {
        out.prose(&list::list(loaded.iter().map(|loaded| &loaded.test), out.paint))?;
        if !out.quiet {
            out.text("\nNext: driftheap explain NAME, driftheap check NAME -v\n")?;
        }
    }
    Ok(if bad { Exit::Input } else { Exit::Good })
}
