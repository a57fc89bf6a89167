//! The conformance suite against `driftheap run` and `run --strict`.
//!
//! Each row's expected answer is that of Linux. A row whose note says that a level can't answer it
//! is printed with the reason and not counted as right.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use device_kit::{User, available, run, stage, text, users};

/// One line of the suite's output.
struct Line {
    id: String,
    answer: String,
    expect: String,
    note: String,
}

fn parse(output: &str) -> Vec<Line> {
    let line = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        Line { id: next(), answer: next(), expect: next(), note: next() }
    };
    output.lines().map(line).collect()
}

/// Rows of every run: a suite that lost some would pass too easily.
const ROWS: usize = 375;

/// Rows that no supervisor without a kernel driver can answer, one of them before Linux 6.16.
const NEVER: [&str; 14] = [
    "file.readahead",
    "mmap.shared-exec",
    "mmap.rwx",
    "mmap.lengths-private",
    "mmap.private-one-page",
    "mmap.private-page-of-2",
    "mmap.private-second-of-2",
    "mprotect.rw-to-rx",
    "mprotect.rw-to-rwx",
    "mprotect.rdonly-r-to-rx",
    "pagemap",
    "smaps.flags",
    "smaps.rss",
    "udmabuf.gup",
];

fn check(options: &[&str], user: User) {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let suite = stage.path().join("driftheap");
    let output = run(stage.path(), user, options, &[suite.to_str().unwrap(), "__conformance"]);
    let lines = parse(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(lines.len(), ROWS, "rows of {options:?}: {}", text(&output));
    let strict = options.contains(&"--strict");
    let (mut right, mut wrong) = (0, Vec::new());
    for Line { id, answer, expect, note } in &lines {
        let excused = note.starts_with("never:") || (note.starts_with("strict:") && !strict);
        assert_eq!(note.starts_with("never:"), NEVER.contains(&id.as_str()), "{id}: {note}");
        if answer == expect {
            right += 1;
        } else if excused || answer.starts_with("SKIP") {
            eprintln!("not answered: {id}: {answer}, Linux {expect} ({note})");
        } else {
            wrong.push(format!("{id}: {answer}, Linux {expect}"));
        }
    }
    eprintln!("{options:?} as {user:?}: {right} of {} rows", lines.len());
    assert_eq!(wrong, Vec::<String>::new(), "{options:?} as {user:?}");
    if strict {
        assert!(right * 10 >= lines.len() * 9, "at least nine rows of ten under --strict");
    }
}

#[test]
fn run_answers_like_linux() {
    users().into_iter().for_each(|user| check(&["-q"], user));
}

#[test]
fn run_strict_answers_like_linux() {
    users().into_iter().for_each(|user| check(&["-q", "--strict"], user));
}

/// The rule is what decides: with insert_page every get_user_pages row turns from EFAULT to
/// success, so the suite's gup rows fail on such a heap, as they would on such a kernel.
#[test]
fn the_mmap_rule_decides_get_user_pages() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let suite = stage.path().join("driftheap");
    let options = ["-q", "--heap", "system,mmap=mixedmap-insert-page"];
    let program = [suite.to_str().unwrap(), "__conformance", "gup."];
    let output = run(stage.path(), User::Own, &options, &program);
    let lines = parse(&String::from_utf8_lossy(&output.stdout));
    assert!(lines.len() >= 13, "{}", text(&output));
    for Line { id, answer, .. } in lines {
        let succeeded = answer == "ok" || answer == "ok 4096" || answer == "0";
        assert!(succeeded || answer.starts_with("SKIP"), "{id}: {answer}");
    }
}
