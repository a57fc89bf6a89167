//! `driftheap matrix`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use driftheap::litmus::ast::Test;
use driftheap::report::gup::GupTable;
use driftheap::report::json;
use driftheap::report::matrix::Matrix;

use super::out::Out;
use super::{Exit, SearchArgs, input};

/// Tabulate rules by outcomes
///
/// For each variant of a test (its rows): which hazards, results and warnings happen Always,
/// Sometimes or Never, whatever the test's own condition asks for.
///
/// For several tests with pins, also what get_user_pages does on which kind of mapping, with and
/// without pte_special, over every interleaving of these tests.
///
/// Examples:
///   driftheap matrix dma-buf-mmap-check
///   driftheap matrix A1-A7
///   driftheap matrix A6 --svg a6.svg
///
/// Exit status:
///   0  the tables were printed
///   1  a variant could not be explored within the limit of states
///   2  no such test, or a file with mistakes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct MatrixArgs {
    /// Bundled tests by name, row or range of rows; files, directories, or `-`
    #[arg(required = true, value_name = "NAME|FILE")]
    tests: Vec<String>,

    /// One JSON object per table and line
    #[arg(long)]
    json: bool,

    /// As tables of Markdown, for a mail or a merge request
    #[arg(long, conflicts_with = "json")]
    markdown: bool,

    /// Write the table of one test to FILE as a figure (SVG) instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "markdown"])]
    svg: Option<PathBuf>,

    #[command(flatten)]
    search: SearchArgs,
}

pub(crate) fn run(args: &MatrixArgs, out: &Out) -> anyhow::Result<Exit> {
    let (loaded, bad) = input::load(&args.tests, out);
    if args.svg.is_some() && loaded.len() > 1 {
        bail!("--svg draws one test, and these are {}; name one", loaded.len());
    }
    let search = args.search.search(true);
    let mut exit = if bad { Exit::Input } else { Exit::Good };
    let mut tests: Vec<(&Test, &str)> = Vec::new();
    for loaded in &loaded {
        if let Err(diagnostics) = loaded.scenarios() {
            input::diagnose(&diagnostics, out);
            exit = Exit::Input;
            continue;
        }
        out.status(&format!("exploring {}", loaded.test.name.text));
        match Matrix::new(&loaded.test, &loaded.text, &search) {
            Ok(matrix) => {
                out.clear_status();
                tests.push((&loaded.test, loaded.text.as_str()));
                if let Some(file) = &args.svg {
                    super::report::write(file, &matrix.svg())?;
                    continue;
                }
                let text = if args.json {
                    json::line(&matrix)
                } else {
                    let gap = if tests.len() == 1 { "" } else { "\n" };
                    let table =
                        if args.markdown { matrix.markdown() } else { matrix.render(out.paint) };
                    format!("{gap}{table}")
                };
                match (args.json, args.markdown) {
                    (false, false) => out.prose(&text)?,
                    _ => out.text(&text)?,
                }
            }
            Err(error) => {
                out.clear_status();
                out.error(&format!("{}: {error}", loaded.file));
                exit = exit.max(Exit::Differs);
            }
        }
    }
    if tests.len() > 1 && !args.markdown {
        match GupTable::new(&tests, &search) {
            Ok(None) => {}
            Ok(Some(table)) if args.json => out.text(&json::line(&table))?,
            Ok(Some(table)) => out.prose(&format!("\n{}", table.render(out.paint)))?,
            Err(error) => {
                out.error(&format!("the get_user_pages table: {error}"));
                exit = exit.max(Exit::Differs);
            }
        }
    }
    Ok(exit)
}
