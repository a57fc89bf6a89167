//! `driftheap new`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use driftheap::litmus::rules::ModelRules;
use driftheap::report::json;

use super::Exit;
use super::out::Out;

/// Write a question of your own to start from
///
/// The file asks a small question, says in comments what each part is for, and answers as it
/// expects. A file that is there already is left alone.
///
/// Examples:
///   driftheap new my-heap                  writes my-heap.litmus
///   driftheap new my-heap -o - | less
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct NewArgs {
    /// The name of the test: letters, digits, `-` and `_`
    name: String,

    /// Where to write [default: NAME.litmus]; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Say what was written as one JSON object
    #[arg(long)]
    json: bool,
}

/// The question; its name stands where this word does.
const TEMPLATE: &str = include_str!("new.litmus");
const NAME: &str = "TEST-NAME";

fn text(name: &str) -> anyhow::Result<String> {
    let text = TEMPLATE.replace(NAME, name);
    let named = driftheap::litmus::parse(name, &text, &ModelRules);
    if named.is_ok_and(|test| test.name.as_str() == name) {
        return Ok(text);
    }
    bail!("`{name}` can't name a test; take letters, digits, `-` and `_`, a letter first")
}

pub(crate) fn run(args: &NewArgs, out: &Out) -> anyhow::Result<Exit> {
    let text = text(&args.name)?;
    let path =
        args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.litmus", args.name)));
    if path.as_os_str() == "-" {
        if args.json {
            out.text(&json::line(&serde_json::json!({ "test": args.name, "text": text })))?;
        } else {
            out.text(&text)?;
        }
        return Ok(Exit::Good);
    }
    let file = path.display();
    let mut opened = std::fs::File::create_new(&path).with_context(|| {
        format!("can't write {file}; `-o FILE` names another place, `-o -` prints it")
    })?;
    opened.write_all(text.as_bytes()).with_context(|| format!("can't write {file}"))?;
    if args.json {
        let written = serde_json::json!({ "test": args.name, "file": file.to_string() });
        out.text(&json::line(&written))?;
    } else if !out.quiet {
        out.text(&format!("wrote {file}\n\nNext: driftheap check {file} -v, driftheap rules\n"))?;
    }
    Ok(Exit::Good)
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn a_name_is_one_word_of_the_language() {
        assert!(text("my-heap_2").is_ok());
        for name in ["", "two words", "a/b", "9", "a(* x *)", "a#b", "a\nb"] {
            assert!(text(name).is_err(), "{name}");
        }
    }
}
