//! `driftheap rules` and `driftheap statement`.

use anyhow::bail;
use clap::Args;
use driftheap::report::json;
use driftheap::report::reference::{self, RuleEntry, StatementEntry};

use super::Exit;
use super::out::Out;

/// Say which rules there are, what their values mean and where that was read
///
/// Without WORD a line a rule. WORD is a rule, a block (host, exporter, importer), a block and a
/// rule of it, or anything to look for: a value, a kernel function, a CVE.
///
/// Examples:
///   driftheap rules
///   driftheap rules recycle
///   driftheap rules importer mmap
///   driftheap rules CVE-2024-39497
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct RulesArgs {
    /// A rule, a block, a block and a rule, or words to look for
    #[arg(value_name = "WORD")]
    words: Vec<String>,

    /// One JSON object per rule and line
    #[arg(long)]
    json: bool,
}

/// Say which statements there are, what they do and what they can answer
///
/// Without WORD a line a statement. WORD is a statement, or anything to look for: an errno, a
/// kernel function.
///
/// Examples:
///   driftheap statement
///   driftheap statement gup
///   driftheap statement EBUSY
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct StatementArgs {
    /// A statement, or a word to look for
    word: Option<String>,

    /// One JSON object per statement and line
    #[arg(long)]
    json: bool,
}

pub(crate) fn rules(args: &RulesArgs, out: &Out) -> anyhow::Result<Exit> {
    let all = reference::rules();
    let word = (!args.words.is_empty()).then(|| args.words.join(" "));
    let (found, list) = match &word {
        None => (all, true),
        Some(word) => {
            let found = reference::rules_about(word);
            if found.is_empty() {
                bail!("no rule has `{word}`; {}", near(word, all.iter().map(|r| r.rule), "rules"));
            }
            let list = found.iter().all(|rule| rule.block == *word);
            (found, list)
        }
    };
    if args.json {
        return lines(&found, out);
    }
    if list {
        out.prose(&reference::rule_list(&found, out.paint))?;
        if !out.quiet {
            out.prose("\nNext: driftheap rules RULE, driftheap statement, driftheap new NAME\n")?;
        }
    } else {
        let text = |rule: &RuleEntry| reference::rule_text(rule, out.paint, out.columns());
        out.prose(&found.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(Exit::Good)
}

pub(crate) fn statement(args: &StatementArgs, out: &Out) -> anyhow::Result<Exit> {
    let all = reference::statements();
    let found = match &args.word {
        None => all,
        Some(word) => {
            let found = reference::statements_about(word);
            if found.is_empty() {
                let names = all.iter().map(|entry| entry.statement);
                bail!("no statement has `{word}`; {}", near(word, names, "statement"));
            }
            found
        }
    };
    if args.json {
        return lines(&found, out);
    }
    if args.word.is_none() {
        out.prose(&reference::statement_list(&found, out.paint))?;
        if !out.quiet {
            out.prose("\nNext: driftheap statement WORD, driftheap rules, driftheap new NAME\n")?;
        }
        return Ok(Exit::Good);
    }
    let text = |entry: &StatementEntry| reference::statement_text(entry, out.paint, out.columns());
    out.prose(&found.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    if !out.quiet {
        out.prose(&format!("\n{}", reference::LETTERS))?;
    }
    Ok(Exit::Good)
}

fn lines(entries: &[impl serde::Serialize], out: &Out) -> anyhow::Result<Exit> {
    for entry in entries {
        out.text(&json::line(entry))?;
    }
    Ok(Exit::Good)
}

/// What to do about a word that nothing has.
fn near<'a>(word: &str, names: impl Iterator<Item = &'a str>, verb: &str) -> String {
    let nearest = names
        .map(|name| (strsim::osa_distance(word, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(word.len()) / 3)
        .min();
    match nearest {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None => format!("`driftheap {verb}` lists them"),
    }
}
