//! What README.md and src/cli/README.md say is so: its commands run, its output is printed, its files are there.
//!
//! A block of ```` ```sh ```` is run as it stands, but for the lines of cargo, which the gate runs. In a
//! block of ```` ```console ```` a line `$ command` is run and the lines below it are looked for in what it
//! prints, in their order; `...` stands for any lines. A block of ```` ```litmus ```` is a file that later
//! commands may name.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use std::path::Path;
use std::process::{Command, Output};

use device_kit::{available, bounded, stage, text};

/// README.md and the longer text that it names.
const README: &str =
    concat!(include_str!("../README.md"), "\n", include_str!("../src/cli/README.md"));

/// What a command that needs a guest begins with.
const GUEST: [&str; 1] = ["driftheap check --kernel"];

struct Block {
    language: &'static str,
    text: &'static str,
}

fn blocks() -> Vec<Block> {
    let fenced = README.split("```").skip(1).step_by(2);
    fenced
        .map(|block| {
            let (language, text) = block.split_once('\n').unwrap();
            Block { language, text }
        })
        .collect()
}

/// A place to run README's commands in: driftheap on PATH, the checkout's files, runtime files of
/// its own.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        let stage = stage();
        if !available(stage.path()) {
            return None;
        }
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
        std::os::unix::fs::symlink(checkout.join("tools"), stage.path().join("tools")).unwrap();
        let runtime = stage.path().join("runtime");
        std::fs::create_dir(&runtime).unwrap();
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o700)).unwrap();
        for block in blocks().iter().filter(|block| block.language == "litmus") {
            let name = block.text.split_whitespace().nth(1).unwrap();
            std::fs::write(stage.path().join(name).with_extension("litmus"), block.text).unwrap();
        }
        Some(Self(stage))
    }

    fn sh(&self, script: &str) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(self.0.path());
        command.env("PATH", format!("{}:{path}", self.0.path().display()));
        command.env("XDG_RUNTIME_DIR", self.0.path().join("runtime"));
        bounded(command)
    }
}

/// The oldest Rust that README names is the one that Cargo.toml asks for, which tools/check.d/15-oldest-rust tries.
#[test]
fn the_oldest_rust_is_the_manifest_s() {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    assert!(README.contains(&format!("need a Rust toolchain ({oldest} or newer")), "{oldest}");
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIP: no {program}");
    }
    found
}

/// Every script runs; no program, file or option in it is missing.
#[test]
fn the_scripts_run() {
    let mut tried = 0;
    for block in blocks().iter().filter(|block| block.language == "sh") {
        let lines: Vec<_> = block.text.lines().filter(|line| !line.starts_with("cargo ")).collect();
        let script = lines.join("\n");
        let needs = [("cc ", "cc"), ("python3 ", "python3")];
        if script.is_empty()
            || needs.iter().any(|(word, program)| script.contains(word) && !has(program))
        {
            continue;
        }
        let Some(place) = Place::new() else { return };
        let output = place.sh(&script);
        let said = text(&output);
        for wrong in ["error:", "not found", "No such file", "panicked", "Usage:", "usage:"] {
            assert!(!said.contains(wrong), "{wrong} in what this prints:\n{script}\n\n{said}");
        }
        // 1 is an answer of `check`: the recording has the hazard.
        let most = i32::from(script.contains("driftheap check "));
        let status = output.status.code().unwrap();
        assert!((0..=most).contains(&status), "exit {status}:\n{script}\n\n{said}");
        tried += 1;
    }
    assert!(tried >= 3 || !has("python3") || !has("cc"), "{tried} scripts");
}

/// A line without its numbers: of addresses, tasks and times no two runs print the same.
fn without_numbers(line: &str) -> String {
    let mut plain = String::new();
    for word in line.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let (word, end) = match word.char_indices().last() {
            Some((at, c)) if !c.is_ascii_alphanumeric() => word.split_at(at),
            _ => (word, ""),
        };
        let number = word.starts_with(|c: char| c.is_ascii_digit());
        plain += if number { "#" } else { word };
        plain += end;
    }
    plain
}

/// The first line of `expected` that is not in `printed`, in this order.
fn missing<'a>(expected: &[&'a str], printed: &str, exact: bool) -> Option<&'a str> {
    let form = |line: &str| {
        let line = if exact { line.to_owned() } else { without_numbers(line) };
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let mut lines = printed.lines();
    let mut gap = true;
    for &line in expected {
        if line == "..." {
            gap = true;
            continue;
        }
        let wanted = form(line);
        let found = if gap {
            lines.any(|line| form(line) == wanted)
        } else {
            lines.next().is_some_and(|line| form(line) == wanted)
        };
        if !found {
            return Some(line);
        }
        gap = false;
    }
    None
}

/// How many variants a suite's output says were replayed on real memory.
fn replayed(text: &str) -> u64 {
    let count = text.split("real memory: ").nth(1).and_then(|rest| rest.split(' ').next());
    count.map_or(0, |count| count.parse().unwrap())
}

/// The lines to expect: where this machine has less real memory than README's, none about that.
fn here<'a>(mut expected: Vec<&'a str>, printed: &str) -> Vec<&'a str> {
    if replayed(printed) < replayed(&expected.join("\n")) {
        eprintln!("SKIP: less real memory here than where README was written: {printed}");
        expected.retain(|line| {
            !["real memory:", "SKIP"].iter().any(|begins| line.starts_with(begins))
                && !line.contains("corrupted pages")
        });
    }
    expected
}

/// What README shows of a command's output is what the command prints.
#[test]
fn the_output_is_printed() {
    let Some(place) = Place::new() else { return };
    let mut tried = 0;
    for block in blocks().iter().filter(|block| block.language == "console") {
        for part in block.text.split("$ ").skip(1) {
            let (command, expected) = part.split_once('\n').unwrap();
            if GUEST.iter().any(|begins| command.starts_with(begins)) {
                eprintln!("SKIP: `{command}` needs a guest; tools/check runs it");
                continue;
            }
            // A program that README leaves a second gets longer on a machine that is busy.
            let pauses = ["sleep 1 ", "sleep 8 ", "sleep 60 "];
            for pause in pauses {
                let output = place.sh(&command.replace(pauses[0], pause));
                let printed = text(&output);
                assert!(matches!(output.status.code(), Some(0 | 1)), "{command}: {printed}");
                let lines = here(expected.lines().collect(), &printed);
                match missing(&lines, &printed, !command.contains("driftheap run")) {
                    None => break,
                    Some(_) if command.contains(pauses[0]) && pause != pauses[2] => {}
                    Some(line) => {
                        panic!("`{command}` does not print this there:\n{line}\n\n{printed}")
                    }
                }
            }
            tried += 1;
        }
    }
    assert!(tried >= 5, "{tried} commands");
}

/// The pieces of text between single backticks, outside of blocks.
fn inline() -> Vec<&'static str> {
    let prose = README.split("```").step_by(2);
    prose.flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

/// Every option that README names beside a verb is one of that verb's.
#[test]
fn the_options_are_options() {
    let mut seen = 0;
    for piece in inline() {
        let Some(words) = piece.strip_prefix("driftheap ") else { continue };
        let own: Vec<_> = words.split_whitespace().take_while(|&word| word != "--").collect();
        let verb = own.iter().find(|word| !word.starts_with('-'));
        let mut command = Command::new(env!("CARGO_BIN_EXE_driftheap"));
        command.args(verb).arg("--help");
        let output = bounded(command);
        let help = text(&output);
        assert!(output.status.success(), "`{piece}`: {help}");
        // An option, without the value that it may have.
        let name = |word: &&'static str| word.trim_start_matches('[').split([']', '[', '=']).next();
        for option in own.iter().filter_map(name) {
            if option.starts_with("--") {
                assert!(help.contains(option), "`{piece}`: no {option} in\n{help}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 6, "{seen} options");
}

/// Every file that README names is in the checkout.
#[test]
fn the_files_are_there() {
    let linked = README.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let named = inline().into_iter().chain(linked);
    let mut seen = 0;
    for word in named.flat_map(str::split_whitespace) {
        let folder = word.split('/').next().unwrap();
        if ["src", "tests", "tools"].contains(&folder) && word != folder {
            let file = word.split('#').next().unwrap();
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            assert!(path.exists(), "{word} is not there");
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen} files");
}

#[test]
fn numbers_are_left_out_and_words_are_not() {
    assert_eq!(
        without_numbers(" [ 10.36 ms] at 0x7e00, pid 21 (ten)"),
        " [ #.# ms] at #, pid # (ten)"
    );
    assert_ne!(without_numbers("pinned by vmsplice"), without_numbers("pinned by writev"));
}

#[test]
fn a_missing_line_is_noticed() {
    assert_eq!(missing(&["a", "b"], "a\nc\nb\n", true), Some("b"));
    assert_eq!(missing(&["a", "...", "b"], "a\nc\nb\n", true), None);
    assert_eq!(missing(&["pid 2"], "pid 3", true), Some("pid 2"));
    assert_eq!(missing(&["pid 2"], "pid 3", false), None);
}
