//! `driftheap doctor`.

use clap::Args;
use driftheap::report::json;
use driftheap::sys::probe::{self, Probe};
use serde::Serialize;

use super::Exit;
use super::out::Out;

/// Say what this machine lets you show on real memory
///
/// Each mechanism is tried, as this user, here and now: a line each, and where one is missing what
/// can't be shown without it and the command that would enable it. Nothing is changed.
///
/// Exit status: 0; a missing mechanism is not an error, tests that need it are skipped.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct DoctorArgs {
    /// One JSON object per mechanism and line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    mechanism: &'a str,
    available: bool,
    detail: &'a str,
    coverage_lost: &'a str,
    remedy: &'a str,
}

pub(crate) fn run(args: &DoctorArgs, out: &Out) -> anyhow::Result<Exit> {
    let probes = probe::all();
    let width = probes.iter().map(|probe| probe.name.len()).max().unwrap_or(0);
    for probe in &probes {
        match args.json {
            true => out.text(&json::line(&line(probe)))?,
            false => out.prose(&describe(probe, width))?,
        }
    }
    Ok(Exit::Good)
}

fn line(probe: &Probe) -> Line<'_> {
    Line {
        mechanism: probe.name,
        available: probe.available,
        detail: &probe.detail,
        coverage_lost: if probe.available { "" } else { probe.coverage_lost },
        remedy: probe.remedy,
    }
}

fn describe(probe: &Probe, width: usize) -> String {
    let mark = if probe.available { "ok" } else { "--" };
    let mut text = format!("{mark} {:width$}  {}\n", probe.name, probe.detail);
    if !probe.available {
        let indent = " ".repeat(width + 5);
        text.push_str(&format!("{indent}without it: {}\n", probe.coverage_lost));
        text.push_str(&format!("{indent}to enable:  {}\n", probe.remedy));
    }
    text
}
