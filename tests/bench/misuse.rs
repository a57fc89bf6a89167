//! What `--misuse` and `--check-access` cost: `cargo bench --bench misuse`. The same C program runs
//! in each mode of one build, in turn, and every figure stands as a ratio to the mode
//! without reports.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark prints, and stops when something is missing"
)]

use std::path::Path;
use std::process::{Command, Stdio};

use driftheap::report::chart::{self, Bar};

/// Runs of each mode; the best counts.
const RUNS: u32 = 5;

const MODES: [(&str, &[&str]); 4] = [
    ("off", &[]),
    ("--misuse", &["--misuse"]),
    ("sampled", &["--check-access", "sampled"]),
    ("exhaustive", &["--check-access", "exhaustive"]),
];

/// What the program times, and what that is.
const FIGURES: [(&str, &str); 5] = [
    ("bracket", "START and END, nothing between"),
    ("frame", "START, fill 1 MiB, END"),
    ("inside", "fill 1 MiB in an open bracket"),
    ("mistake", "START, END, 8 stores outside"),
    ("write", "write(2) of memory of its own"),
];

fn run(program: &Path, options: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftheap"));
    command.args(["run", "-q"]).args(options).arg("--").arg(program).stderr(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{options:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The least of the figures called `name`.
fn figure(text: &str, name: &str) -> f64 {
    let named = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    named.map(|figure| figure.parse::<f64>().unwrap()).reduce(f64::min).unwrap()
}

fn report(which: &str, program: &Path) {
    let mut texts = MODES.map(|_| String::new());
    for _ in 0..RUNS {
        for (text, (_, options)) in texts.iter_mut().zip(MODES) {
            *text += &run(program, options);
        }
    }
    println!("\n{which}, nanoseconds and the ratio to `off`");
    for (name, what) in FIGURES {
        println!("  {what}");
        let base = figure(&texts[0], name);
        let mut bars = Vec::new();
        for (text, (mode, _)) in texts.iter().zip(MODES) {
            let ns = figure(text, name);
            println!("    {mode:<12} {ns:9.0}  {:6.2}", ns / base);
            let (label, value) = (mode.to_owned(), ns / base);
            bars.push(Bar { label, value, said: format!("{value:.2} x"), marked: false });
        }
        print!("{}", chart::text(&bars));
    }
}

fn main() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/misuse.c");
    let stage = tempfile::tempdir().unwrap();
    let program = stage.path().join("client");
    let status = Command::new("cc").args(["-O2", "-g", "-o"]).arg(&program).arg(source).status();
    assert!(status.unwrap().success(), "a C compiler called cc is needed");
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    report("one CPU", &program);
    rustix::thread::sched_setaffinity(None, &all).unwrap();
    report("all CPUs", &program);
}
