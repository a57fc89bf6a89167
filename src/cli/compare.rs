//! `driftheap compare`: a real heap's answers, and ours.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use driftheap::conformance::{Agreement, Answers, ComparedRow, Reference, Transport, parse, print};
use driftheap::report::formats::{Case, Ending};
use serde_json::json;

use super::formats::Formats;
use super::{Exit, measure, out::Out, vm};

/// Ask a real heap and ours the same questions, and show where the answers differ and why.
///
/// Ours are measured now, by every transport that this machine allows. The kernel's were measured
/// on Linux 6.12 and travel with this program; --vm boots such a kernel and measures anew, and
/// measures the CUSE device there, too. Each known difference has its reason.
///
/// Exit status: 0 when every difference has its reason, 1 when one has none.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Measure a real kernel now, in a virtual machine (the first time fetches it with apt-get)
    #[arg(long)]
    vm: bool,
    /// With --vm: the guest's architecture. On arm64 everything is measured in the guest, and the rows
    /// are named that its exporters answer otherwise than on x86-64. The program for it is built by
    /// tools/arm64/build of a checkout in this directory, or is --program
    #[arg(long, value_name = "ARCH", requires = "vm", default_value = "amd64", value_parser = ["amd64", "arm64"])]
    arch: String,
    /// With --arch arm64: the driftheap to run there
    #[arg(long, value_name = "FILE", requires = "vm")]
    program: Option<PathBuf>,
    /// With --arch arm64: the pages of the guest's kernel
    #[arg(long, value_name = "SIZE", requires = "vm", default_value = "4k", value_parser = ["4k", "16k"])]
    pages: String,
    /// Compare with this machine's own /dev/dma_heap/system
    #[arg(long, conflicts_with = "vm")]
    host: bool,
    /// With --vm or --host: write the kernel's answers to FILE
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Print every row's answers, not only what differs
    #[arg(long, short)]
    verbose: bool,
    /// One JSON object a line: one for each row, then one for each transport
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    formats: Formats,
    /// Print what this machine's kernel and the CUSE device answer: what the guest of --vm runs
    #[arg(long, hide = true)]
    measure: bool,
    /// With --measure: every transport, and whatever exporters there are
    #[arg(long, hide = true, requires = "measure")]
    all: bool,
}

impl CompareArgs {
    fn in_guest_alone(&self) -> bool {
        self.arch != "amd64"
    }
}

/// `driftheap compare --vm --record tests/data/conformance-linux-6.12.tsv` writes it.
const RECORDED: &str = include_str!("../../tests/data/conformance-linux-6.12.tsv");

/// What was measured: a transport's answers, or why there are none.
type Column = (Transport, Result<Answers, String>);

/// The kernel's side.
struct Kernel {
    /// Its release, and where it ran.
    name: String,
    columns: BTreeMap<String, Answers>,
}

pub(crate) fn run(args: &CompareArgs, out: &Out) -> anyhow::Result<Exit> {
    if args.measure {
        return measure_here(out, args.all);
    }
    let kernel = kernel(args, out)?;
    if let Some(path) = args.record.as_ref().filter(|_| args.vm || args.host) {
        record(path, &kernel)?;
    }
    let before = parse(RECORDED);
    // A kernel without heaps: they are the same code everywhere, which was measured elsewhere.
    let heap = kernel.columns.get("system").or_else(|| before.get("system"));
    let reference = Reference::new(&heap.cloned().unwrap_or_default());
    let measure = |transport: Transport| {
        out.status(&format!("measuring {}", transport.name()));
        let in_guest = kernel.columns.get(transport.key()).cloned();
        if args.in_guest_alone() {
            let why = || "it did not run in the guest".to_owned();
            return (transport, in_guest.ok_or_else(why));
        }
        // The guest runs the same program, where this machine has no such device.
        let here = measure::ours(transport).map_err(|error| format!("{error:#}"));
        (transport, here.or_else(|why| in_guest.ok_or(why)))
    };
    let columns: Vec<Column> = Transport::ALL.into_iter().map(measure).collect();
    out.clear_status();
    let surprises = reference.surprises();
    let other = args.in_guest_alone().then(|| elsewhere(&kernel.columns, &before));
    if args.json {
        out.text(&as_json(&kernel, &reference, &columns))?;
        for differ in other.iter().flat_map(|other| &other.differ) {
            out.text(&format!("{}\n", differ.as_json(&args.arch)))?;
        }
    } else {
        out.prose(&as_text(&kernel, &reference, &columns, args.verbose))?;
        if let Some(other) = &other {
            out.prose(&other.as_text(&args.arch))?;
        }
    }
    args.formats.write(&cases(&reference, &columns))?;
    let unexplained = |line: &ComparedRow| line.outcome == Agreement::Unexplained;
    let ours = columns.iter().filter_map(|(transport, answers)| {
        Some(reference.compare(*transport, answers.as_ref().ok()?))
    });
    let wrong = ours.flatten().filter(unexplained).count();
    let wrong = wrong + surprises.iter().filter(|line| unexplained(line)).count();
    Ok(if wrong == 0 { Exit::Good } else { Exit::Differs })
}

/// Each row of each transport for other tools.
fn cases(reference: &Reference, columns: &[Column]) -> Vec<Case> {
    let mut cases = Vec::new();
    let case = |group: &str, name: &str, ending, notes| Case {
        group: group.to_owned(),
        name: name.to_owned(),
        ending,
        notes,
    };
    for (transport, answers) in columns {
        let answers = match answers {
            Ok(answers) => answers,
            Err(why) => {
                cases.push(case(transport.name(), "rows", Ending::Skip(why.clone()), Vec::new()));
                continue;
            }
        };
        for line in reference.compare(*transport, answers) {
            let both = format!("the kernel: {}, here: {}", line.real, line.ours);
            let (ending, notes) = match line.outcome {
                Agreement::Same => (Ending::Pass, Vec::new()),
                Agreement::Explained(reason) => (Ending::Pass, vec![format!("{both}: {reason}")]),
                Agreement::Skipped => (Ending::Skip(line.ours.clone()), Vec::new()),
                Agreement::Unexplained => {
                    (Ending::Fail("no known reason".to_owned(), both), Vec::new())
                }
            };
            cases.push(case(transport.name(), line.row, ending, notes));
        }
    }
    cases
}

fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn measure_here(out: &Out, all: bool) -> anyhow::Result<Exit> {
    let mut columns = if all { measure::exporters()? } else { measure::kernel()? };
    for transport in Transport::ALL.into_iter().filter(|of| all || *of == Transport::Cuse) {
        match measure::ours(transport) {
            Ok(answers) => drop(columns.insert(transport.key().to_owned(), answers)),
            Err(error) => out.note(&format!("no {}: {error:#}\n", transport.name())),
        }
    }
    out.text(&format!("# Linux {}\n{}", release(), print(&columns)))?;
    Ok(Exit::Good)
}

fn kernel(args: &CompareArgs, out: &Out) -> anyhow::Result<Kernel> {
    if args.host {
        let name = format!("Linux {}, this machine", release());
        return Ok(Kernel { name, columns: measure::kernel()? });
    }
    if args.vm {
        out.status("measuring a real kernel in a virtual machine");
        let (release, columns) = if args.in_guest_alone() {
            vm::measure_elsewhere(&args.arch, &args.pages, args.program.as_deref(), out)?
        } else {
            vm::measure()?
        };
        let heapless = if columns.contains_key("system") { "" } else { ", which has no heaps" };
        return Ok(Kernel { name: format!("Linux {release}{heapless}, just measured"), columns });
    }
    let first = RECORDED.lines().next().unwrap_or_default();
    let name = first.trim_start_matches("# ").split(':').next().unwrap_or_default();
    Ok(Kernel { name: format!("{name}, measured before"), columns: parse(RECORDED) })
}

fn record(path: &PathBuf, kernel: &Kernel) -> anyhow::Result<()> {
    let mut columns = kernel.columns.clone();
    // What is ours is measured each time.
    Transport::ALL.iter().for_each(|transport| drop(columns.remove(transport.key())));
    let release = kernel.name.split(['+', '-', ',']).next().unwrap_or_default();
    let text = format!(
        "# {release}, x86-64: `driftheap compare --vm --record {}` writes this file.\n{}",
        path.display(),
        print(&columns)
    );
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

/// The exporters of one architecture beside those of another.
struct Elsewhere {
    /// Of each exporter: how many rows both have.
    rows: Vec<(String, usize)>,
    differ: Vec<Differ>,
}

/// A row that an exporter answers otherwise there.
struct Differ {
    exporter: String,
    row: String,
    here: String,
    there: String,
}

impl Differ {
    fn as_json(&self, arch: &str) -> serde_json::Value {
        json!({
            "exporter": self.exporter, "row": self.row, "arch": arch,
            "amd64": self.here, "there": self.there,
        })
    }
}

/// Rows that could not be asked on either side are nobody's difference.
fn elsewhere(now: &BTreeMap<String, Answers>, before: &BTreeMap<String, Answers>) -> Elsewhere {
    let mut found = Elsewhere { rows: Vec::new(), differ: Vec::new() };
    for (exporter, then) in before {
        let Some(now) = now.get(exporter) else { continue };
        let asked = |answer: &&String| !answer.starts_with("SKIP");
        let both = then.iter().filter_map(|(row, then)| {
            Some((row, Some(then).filter(asked)?, now.get(row).filter(asked)?))
        });
        let both: Vec<_> = both.collect();
        found.rows.push((exporter.clone(), both.len()));
        let differ = both.into_iter().filter(|(_, then, now)| then != now);
        found.differ.extend(differ.map(|(row, then, now)| Differ {
            exporter: exporter.clone(),
            row: row.clone(),
            here: then.clone(),
            there: now.clone(),
        }));
    }
    found
}

impl Elsewhere {
    fn as_text(&self, arch: &str) -> String {
        let mut text = String::new();
        for (exporter, rows) in &self.rows {
            let of: Vec<_> = self.differ.iter().filter(|one| one.exporter == *exporter).collect();
            let same = rows - of.len();
            text += &format!("{exporter}: {same} of {rows} rows on {arch} as on x86-64\n");
            for Differ { row, here, there, .. } in of {
                text += &format!("    {row:<28} {here} -> {there}\n");
            }
        }
        text
    }
}

/// How many lines have an outcome.
fn count(lines: &[ComparedRow], is: impl Fn(Agreement) -> bool) -> usize {
    lines.iter().filter(|line| is(line.outcome)).count()
}

fn as_text(kernel: &Kernel, reference: &Reference, columns: &[Column], verbose: bool) -> String {
    let rows = reference.len();
    let mut text = format!(
        "real: {}: {} of {rows} rows; the others ({}) as its sources say\n",
        kernel.name,
        reference.measured(),
        rows - reference.measured()
    );
    let surprises = reference.surprises();
    text += &by_reason(&surprises, "the kernel answers otherwise than its sources say");
    for (transport, answers) in columns {
        match answers {
            Err(why) => text += &format!("{}: not measured: {why}\n", transport.name()),
            Ok(answers) => {
                let lines = reference.compare(*transport, answers);
                let same = count(&lines, |outcome| outcome == Agreement::Same);
                text += &format!("{}: {same} of {rows} rows as the kernel\n", transport.name());
                text += &by_reason(&lines, "no known reason");
                let skipped = count(&lines, |outcome| outcome == Agreement::Skipped);
                if skipped > 0 {
                    text += &format!("  {skipped} rows can't be asked here:\n");
                    text += &rows_of(&lines, Agreement::Skipped);
                }
                if verbose {
                    text += "  the same:\n";
                    text += &rows_of(&lines, Agreement::Same);
                }
            }
        }
    }
    text
}

fn rows_of(lines: &[ComparedRow], outcome: Agreement) -> String {
    let of = lines.iter().filter(|line| line.outcome == outcome);
    of.fold(String::new(), |text, line| {
        text + &format!("    {:<28} {} -> {}\n", line.row, line.real, line.ours)
    })
}

/// What differs, below each reason; what has none last.
fn by_reason(lines: &[ComparedRow], none: &str) -> String {
    let mut outcomes: Vec<Agreement> = Vec::new();
    for line in lines {
        if !outcomes.contains(&line.outcome) {
            outcomes.push(line.outcome);
        }
    }
    outcomes.sort_by_key(|&outcome| outcome == Agreement::Unexplained);
    let mut text = String::new();
    for outcome in outcomes {
        let title = match outcome {
            Agreement::Explained(reason) => reason.to_owned(),
            Agreement::Unexplained => format!("UNEXPLAINED: {none}"),
            Agreement::Same | Agreement::Skipped => continue,
        };
        let number = count(lines, |of| of == outcome);
        text += &format!("  {number} x {title}\n{}", rows_of(lines, outcome));
    }
    text
}

fn as_json(kernel: &Kernel, reference: &Reference, columns: &[Column]) -> String {
    let mut text = String::new();
    let mut line = |value: serde_json::Value| text += &format!("{value}\n");
    for (transport, answers) in columns {
        let lines = match answers {
            Ok(answers) => reference.compare(*transport, answers),
            Err(why) => {
                line(json!({ "transport": transport.key(), "measured": false, "why": why }));
                continue;
            }
        };
        for row in &lines {
            let (outcome, reason) = match row.outcome {
                Agreement::Same => ("same", None),
                Agreement::Skipped => ("skipped", None),
                Agreement::Explained(reason) => ("explained", Some(reason)),
                Agreement::Unexplained => ("unexplained", None),
            };
            line(json!({
                "transport": transport.key(), "row": row.row, "real": row.real,
                "ours": row.ours, "outcome": outcome, "reason": reason,
            }));
        }
        line(json!({
            "transport": transport.key(), "measured": true, "rows": lines.len(),
            "same": count(&lines, |outcome| outcome == Agreement::Same),
            "skipped": count(&lines, |outcome| outcome == Agreement::Skipped),
            "unexplained": count(&lines, |outcome| outcome == Agreement::Unexplained),
        }));
    }
    let surprises = reference.surprises();
    line(json!({
        "kernel": kernel.name, "rows": reference.len(), "measured": reference.measured(),
        "unexplained": count(&surprises, |outcome| outcome == Agreement::Unexplained),
    }));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_another_architecture_answers_otherwise_is_named() {
        let before = parse(RECORDED);
        let mut now = before.clone();
        let same = elsewhere(&now, &before);
        assert!(same.differ.is_empty() && same.rows.len() == before.len());
        let answers = now.get_mut("udmabuf").expect("it was measured");
        answers.insert("lseek.end".to_owned(), "16384".to_owned());
        answers.insert("sync.end-first".to_owned(), "SKIP not here".to_owned());
        now.remove("vgem");
        let said = elsewhere(&now, &before).as_text("arm64");
        let rows = before["udmabuf"].values().filter(|answer| !answer.starts_with("SKIP")).count();
        let counted = format!("udmabuf: {} of {} rows on arm64 as on x86-64\n", rows - 2, rows - 1);
        assert!(said.contains(&counted), "{said}");
        assert!(said.contains("    lseek.end                    8192 -> 16384\n"), "{said}");
        assert!(!said.contains("vgem") && !said.contains("sync.end-first"), "{said}");
    }
}
