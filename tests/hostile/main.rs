//! Programs written to do harm, each in every way that a program can be run, and what became of them.
//!
//! ```text
//! cargo test --test hostile                     # the seeded faults: every column can be other than 0
//! cargo test --test hostile -- --all [WORD...]  # the table; only of kinds with one of these words
//! ```
//!
//! DRIFTHEAP names the binary to attack (the one that cargo built, if not set). An attack that hangs is
//! seen by a time limit that no machine needs; nothing else is decided by time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the table is its output")]
#![allow(clippy::wildcard_enum_match_arm, reason = "each place looks at what happens in it")]

mod attacks;
mod found;
mod run;
mod served;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use attacks::{ATTACKS, Attack, Run, SEEDED};
use run::{Came, Stage};
use table::Table;

/// Attacks that run at the same time.
const AT_ONCE: usize = 2;

/// Compiles the programs, statically where there is such a C library, and puts driftheap beside them.
fn stage(attacks: &[&'static Attack]) -> Result<Stage, String> {
    use std::os::unix::fs::PermissionsExt;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::Builder::new().prefix("driftheap-hostile-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let driftheap = std::env::var_os("DRIFTHEAP")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_driftheap")), PathBuf::from);
    let mut programs: Vec<&str> = attacks.iter().map(|attack| attack.program).collect();
    programs.extend(["tests/hostile/around.c", "tests/hostile/stranger.c"]);
    programs.sort_unstable();
    programs.dedup();
    install(&driftheap, &dir.path().join("driftheap"))?;
    for program in programs {
        let source = root.join(program);
        let out = dir.path().join(source.file_stem().unwrap());
        if program.ends_with(".c") {
            compile(&source, &out)?;
        } else if program == attacks::CLIENT {
            let examples = Path::new(env!("CARGO_BIN_EXE_driftheap")).with_file_name("examples");
            install(&examples.join("hostile"), &dir.path().join("hostile"))?;
        }
    }
    Ok(Stage { dir })
}

fn install(from: &Path, to: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o755)).unwrap();
    Ok(())
}

fn compile(source: &Path, out: &Path) -> Result<(), String> {
    let mut said = String::new();
    for flags in [&["-static"][..], &[]] {
        let mut command = Command::new("cc");
        command.args(flags).args(["-O2", "-pthread", "-o"]).arg(out).arg(source);
        let output =
            command.output().map_err(|error| format!("no C compiler called cc: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    Err(said)
}

/// Makes every run of these attacks, and returns what came of each attack.
fn make(attacks: &[&'static Attack]) -> Result<Vec<(Run, Came)>, String> {
    let stage = stage(attacks)?;
    let runs: Vec<Run> = attacks.iter().flat_map(|attack| attack.runs()).collect();
    let next = AtomicUsize::new(0);
    let came = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run::make(&stage, run);
                    came.lock().unwrap().push((run.clone(), result));
                }
            });
        }
    });
    Ok(came.into_inner().unwrap())
}

/// Each seeded fault is in its own column, and an attack without one in none.
fn seeded() -> Result<(), String> {
    found::check()?;
    let table = Table::of(make(&SEEDED.iter().map(|(attack, _)| attack).collect::<Vec<_>>())?);
    table.print();
    for (attack, column) in SEEDED {
        let row = table.row(attack.kind).ok_or("a row is missing")?;
        if row.skipped == row.tried {
            continue;
        }
        let expected = row.in_column(*column) + row.skipped == row.tried;
        if !expected {
            return Err(format!("`{}` is not in the column {column:?}", attack.kind));
        }
    }
    println!("each column was other than 0 where a fault was made on purpose");
    Ok(())
}

fn all(words: &[String]) -> Result<(), String> {
    let wanted = |attack: &&'static Attack| {
        words.is_empty() || words.iter().any(|word| attack.kind.contains(word.as_str()))
    };
    let attacks: Vec<&'static Attack> = ATTACKS.iter().filter(wanted).collect();
    if attacks.is_empty() {
        return Err("no kind has one of these words".into());
    }
    let table = Table::of(make(&attacks)?);
    table.print();
    if table.is_good() { Ok(()) } else { Err("not everything was survived".into()) }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.iter().position(|word| word == "--all") {
        Some(at) => all(&words[at + 1..]),
        None => seeded(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.starts_with("no C compiler") => {
            println!("SKIP: {error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("hostile: {error}");
            ExitCode::FAILURE
        }
    }
}
