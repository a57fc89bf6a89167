//! The examples, in Rust and in C: each run wrong and right against an exporter.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::kit::{Lab, moves};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_driftheap")).parent().unwrap().join("examples")
}

/// The program shows the corruption when it is wrong, and nothing when it is right.
fn check(program: &Path) {
    let run = |how: &str| -> (Output, String, Lab) {
        let lab = Lab::new("system");
        let output = Command::new(program).arg(&lab.path).arg(how).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(errors, "", "{how}");
        (output, text, lab)
    };
    let (output, text, lab) = run("wrong");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("byte 16 of B was 0x42 and is 0xcc\n"), "{text}");
    assert!(text.contains("cross-buffer-write by camera"), "{text}");
    assert_eq!(
        text.lines().skip(1).map(|line| line.to_owned() + "\n").collect::<String>(),
        lab.report()
    );
    let (output, text, lab) = run("right");
    assert_eq!((output.status.code(), text.as_str()), (Some(0), "B is as it was\n"));
    assert_eq!(lab.report(), "");
}

#[test]
fn the_rust_example() {
    if moves() {
        check(&examples().join("importer"));
    }
}

/// A C program that uses the client library; `None` without a compiler.
fn compile(source: &str, into: &Path) -> Option<PathBuf> {
    if !Command::new("cc").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP: no C compiler (`cc`)");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = into.join(Path::new(source).file_stem().unwrap());
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-o"])
        .arg(&program)
        .arg(root.join(source))
        .arg("-I")
        .arg(root.join("tools/client-c"))
        .arg("-L")
        .arg(examples())
        .arg("-ldriftheap_client")
        .arg(format!("-Wl,-rpath,{}", examples().display()))
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    Some(program)
}

#[test]
fn the_c_example() {
    let dir = tempfile::tempdir().unwrap();
    if moves()
        && let Some(program) = compile("tools/client-c/importer.c", dir.path())
    {
        check(&program);
    }
}

/// How many of something the program's lines say.
fn numbers(text: &str, what: &str) -> Vec<u64> {
    let words = |line: &str| {
        let (before, _) = line.split_once(what)?;
        before.split_ascii_whitespace().next_back()?.parse().ok()
    };
    text.lines().filter_map(words).collect()
}

#[test]
fn no_store_of_c_clients_is_lost_under_moves_and_one_past_the_zap_is() {
    let dir = tempfile::tempdir().unwrap();
    if !moves() {
        return;
    }
    let Some(program) = compile("tests/clients/served.c", dir.path()) else { return };
    let run = |how: &[&str]| {
        let lab = Lab::new("system");
        let output = Command::new(&program).arg(&lab.path).arg("1").args(how).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(numbers(&text, " moves")[0] > 0, "{text}");
        (output.status.code(), text)
    };
    let (code, text) = run(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(numbers(&text, " lost"), [0; 4], "{text}");
    assert!(numbers(&text, " stores").iter().all(|&stores| stores > 0), "{text}");
    let (code, text) = run(&["wrong"]);
    assert_eq!(code, Some(1), "{text}");
    let lost = numbers(&text, " lost");
    assert_eq!((lost.len(), lost.iter().any(|&lost| lost > 0)), (4, true), "{text}");
}

#[test]
fn every_function_of_the_header_is_in_the_library() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/client-c");
    let header = std::fs::read_to_string(sources.join("driftheap.h")).unwrap();
    let library = std::fs::read_to_string(sources.join("lib.rs")).unwrap();
    let words = |text: &str, before: char| {
        let mut found: Vec<String> = text
            .match_indices("dh_")
            .filter(|(at, _)| text[..*at].ends_with([' ', '*', before]))
            .map(|(at, _)| {
                text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
            })
            .filter(|name: &String| text.contains(&format!("{name}(")))
            .collect();
        found.sort();
        found.dedup();
        found
    };
    let declared = words(&header, '*');
    let defined: Vec<String> = words(&library, ' ')
        .into_iter()
        .filter(|name| library.contains(&format!("fn {name}(")))
        .collect();
    assert!(declared.len() > 30, "{declared:?}");
    assert_eq!(declared, defined);
}
