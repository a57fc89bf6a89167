//! `driftheap schema`.

use anyhow::bail;
use clap::Args;

use super::Exit;
use super::out::Out;

/// The schemas of what `--json` prints, by verb.
const SCHEMAS: &[(&str, &str)] = &[
    ("check", include_str!("schema/check.json")),
    ("compare", include_str!("schema/compare.json")),
    ("ctl", include_str!("schema/ctl.json")),
    ("doctor", include_str!("schema/doctor.json")),
    ("explain", include_str!("schema/explain.json")),
    ("hunt", include_str!("schema/hunt.json")),
    ("list", include_str!("schema/list.json")),
    ("matrix", include_str!("schema/matrix.json")),
    ("new", include_str!("schema/new.json")),
    ("replay", include_str!("schema/replay.json")),
    ("rules", include_str!("schema/rules.json")),
    ("run", include_str!("schema/run.json")),
    ("statement", include_str!("schema/statement.json")),
];

/// Print the JSON schema of a line that a verb prints with --json
///
/// Without VERB it lists the verbs that have one. The schemas are of the draft 2020-12. That of `run` is
/// of a line of --misuse-json; that of `merge` is the one of `check`.
///
/// Examples:
///   driftheap schema
///   driftheap schema check > check.schema.json
///
/// Exit status:
///   0  printed
///   2  there is no such verb, or it has no schema
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct SchemaArgs {
    /// The verb
    verb: Option<String>,
}

pub(crate) fn run(args: &SchemaArgs, out: &Out) -> anyhow::Result<Exit> {
    let names = || SCHEMAS.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    match &args.verb {
        None => out.text(&format!("{}\n", names().join("\n")))?,
        Some(verb) => match SCHEMAS.iter().find(|(name, _)| name == verb) {
            Some((_, schema)) => out.text(schema)?,
            None => bail!("there is no schema of `{verb}`; there are: {}", names().join(", ")),
        },
    }
    Ok(Exit::Good)
}
