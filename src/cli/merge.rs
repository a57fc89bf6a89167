//! `driftheap merge`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use driftheap::report::merged::Merged;

use super::Exit;
use super::formats::Formats;
use super::out::Out;

/// Put the answers of `check --shard` together to one report
///
/// Each file holds what a run of `driftheap check --json --shard K/N` printed. All shards must be
/// there, each answer once; what is missing is named. The report is the table that one run of all
/// would have printed.
///
/// Examples:
///   driftheap check --json --shard 1/2 tests > 1.json
///   driftheap check --json --shard 2/2 tests > 2.json
///   driftheap merge 1.json 2.json
///
/// A CI matrix (GitHub's words; others are alike), with the files as artifacts:
///   strategy: { matrix: { shard: [1, 2, 3, 4] } }
///   run: driftheap check --json --shard ${{ matrix.shard }}/4 tests > ${{ matrix.shard }}.json
///   and, in a job that needs these: driftheap merge *.json --junit report.xml
///
/// GNU parallel, on four machines:
///   parallel -S a,b,c,d driftheap check --json --shard {}/4 tests '>' {}.json ::: 1 2 3 4
///
/// A Slurm array of 16, and the report when it has ended:
///   sbatch --array=1-16 --wrap \
///     'driftheap check --json --shard $SLURM_ARRAY_TASK_ID/16 tests > $SLURM_ARRAY_TASK_ID.json'
///   driftheap merge *.json
///
/// Exit status:
///   0  every variant is as expected
///   1  a variant is not, or its answer is not known
///   2  a file can't be read, an answer is missing or there twice
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct MergeArgs {
    /// What the runs printed, as JSON
    #[arg(value_name = "FILE.json", required = true)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    formats: Formats,
}

pub(crate) fn run(args: &MergeArgs, out: &Out) -> anyhow::Result<Exit> {
    let mut texts = Vec::new();
    for path in &args.files {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("can't read {}", path.display()))?;
        texts.push((path.display().to_string(), text));
    }
    let texts = texts.iter().map(|(file, text)| (file.as_str(), text.as_str()));
    let merged = Merged::new(texts)?;
    args.formats.write(&merged.cases())?;
    if !(out.quiet && merged.good()) {
        out.prose(&merged.text(out.paint))?;
    }
    Ok(if merged.good() { Exit::Good } else { Exit::Differs })
}
