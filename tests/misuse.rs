//! Misuse reports: C programs with seeded mistakes, compiled here, and their correct twins.
//!
//! A client says itself what is to be reported: a line with a mistake carries `BUG: KIND`. Built
//! with -DBUGGY it must be reported for exactly those kinds and lines, built without for none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use device_kit::{User, available, bounded, run, stage, text, users};

/// Kind and line of a report.
type Place = (String, u64);

const BUILDS: [&[&str]; 3] = [&["-g"], &["-g", "-static"], &["-g", "-O2", "-fomit-frame-pointer"]];

fn source(client: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(client)
}

/// Compiles a client; `None` and a SKIP without a compiler.
fn compile(stage: &Path, client: &str, flags: &[&str], buggy: bool) -> Option<PathBuf> {
    if Command::new("cc").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIP: no C compiler called cc");
        return None;
    }
    let out = stage.join(format!("client{}{}", flags.concat(), u8::from(buggy)));
    let mut command = Command::new("cc");
    command.args(flags).arg("-o").arg(&out).arg(source(client));
    if buggy {
        command.arg("-DBUGGY");
    }
    let output = bounded(command);
    assert!(output.status.success(), "{}", text(&output));
    Some(out)
}

/// The places that a client's source marks.
fn marked(client: &str) -> BTreeSet<Place> {
    let text = std::fs::read_to_string(source(client)).unwrap();
    let mark = |(line, text): (u64, &str)| {
        let (_, kind) = text.split_once("BUG: ")?;
        Some((kind.split_whitespace().next()?.to_owned(), line))
    };
    (1..).zip(text.lines()).filter_map(mark).collect()
}

/// The reports of a run, from its JSON file.
fn reports(stage: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(stage.join("reports.json")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn place(report: &serde_json::Value) -> Place {
    (report["kind"].as_str().unwrap().to_owned(), report["line"].as_u64().unwrap_or(0))
}

/// Runs a client whose reports are to be written, with a control socket that it finds by $CTL.
fn watched(stage: &Path, user: User, options: &[&str], program: &[&str]) -> Output {
    let (file, socket) = (stage.join("reports.json"), stage.join("socket"));
    drop(std::fs::remove_file(&file));
    let mut all = vec!["-q", "--misuse-json", file.to_str().unwrap(), "--fail-on", "any"];
    all.extend(["--control", socket.to_str().unwrap()]);
    all.extend(options);
    let binary = stage.join("driftheap");
    let ctl = format!("CTL={} ctl --socket {}", binary.display(), socket.display());
    run(stage, user, &all, &[&["env", &ctl], program].concat())
}

/// Builds a client in each way and demands that its reports are those that it marks.
fn check(client: &str, options: &[&str]) {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    for flags in BUILDS {
        let Some(buggy) = compile(stage.path(), client, flags, true) else { return };
        let Some(correct) = compile(stage.path(), client, flags, false) else { return };
        for user in users() {
            let output = watched(stage.path(), user, options, &[buggy.to_str().unwrap()]);
            let told = text(&output);
            let reports = reports(stage.path());
            let places: BTreeSet<_> = reports.iter().map(place).collect();
            assert_eq!(places, marked(client), "{client} {flags:?} {user:?}: {told}");
            assert_eq!(output.status.code(), Some(99), "{client} {flags:?} {user:?}: {told}");
            for (kind, line) in &places {
                let file = Path::new(client).file_name().unwrap().to_str().unwrap();
                let head = format!("BUG: driftheap: {kind} in main ({file}:{line})");
                assert!(told.contains(&head), "{head}: {told}");
            }
            let output = watched(stage.path(), user, options, &[correct.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(0), "{client} {flags:?}: {}", text(&output));
            assert_eq!(text(&output), "", "{client} {flags:?} {user:?} is correct");
        }
    }
}

#[test]
fn private_mappings_and_leaks() {
    check("tests/clients/misuse/private.c", &[]);
    check("tests/clients/misuse/private.c", &["--heap", "system,mmap=shmem,cow=allow"]);
    check("tests/clients/misuse/private.c", &["--strict"]);
}

#[test]
fn brackets() {
    let exhaustive = ["--check-access", "exhaustive"];
    check("tests/clients/misuse/bracket.c", &exhaustive);
    check(
        "tests/clients/misuse/bracket.c",
        &[&exhaustive[..], &["--heap", "system,mmap=shmem"]].concat(),
    );
    check("tests/clients/misuse/bracket.c", &[&exhaustive[..], &["--strict"]].concat());
}

#[test]
fn brackets_that_do_not_balance() {
    check("tests/clients/misuse/balance.c", &[]);
    check("tests/clients/misuse/balance.c", &["--check-access", "exhaustive"]);
    check("tests/clients/misuse/leaked.c", &["--check-access", "exhaustive"]);
}

/// A mistake that is made often is seen though few pages are closed, and then it is counted less
/// often than it was made.
#[test]
fn sampling() {
    check("tests/clients/misuse/often.c", &["--check-access", "sampled"]);
    check("tests/clients/misuse/often.c", &["--check-access", "exhaustive"]);
    let stage = stage();
    let client = "tests/clients/misuse/often.c";
    let Some(program) = compile(stage.path(), client, &["-g"], true) else { return };
    let count = |options: &[&str]| {
        drop(watched(stage.path(), User::Own, options, &[program.to_str().unwrap()]));
        reports(stage.path()).first().map_or(0, |report| report["count"].as_u64().unwrap())
    };
    if !available(stage.path()) {
        return;
    }
    let every = count(&["--check-access", "exhaustive"]);
    let some = count(&["--check-access", "sampled"]);
    assert!(every >= 1600, "a read and a write each time: {every}");
    assert!((1..every / 4).contains(&some), "{some} of {every}");
    assert_eq!(some, count(&["--check-access", "sampled"]), "by seed");
    assert_ne!(some, count(&["--check-access", "sampled", "--check-seed", "5"]));
}

/// Runs a build of the example, which waits for its input to end, until a line begins with
/// `awaited`; the places of its reports.
fn example_until(
    stage: &Path,
    flags: &[&str],
    options: &[&str],
    awaited: &str,
) -> Option<Vec<Place>> {
    let program = compile(stage, "tools/examples/ten-lines.c", flags, false)?;
    let mut command = Command::new(stage.join("driftheap"));
    command.arg("run").args(options).arg("--misuse-json").arg(stage.join("reports.json"));
    command.arg("--").arg(program).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut told = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while let Some(line) = lines.next().transpose().unwrap() {
        told += &line;
        told.push('\n');
        if line.starts_with(awaited) {
            break;
        }
    }
    drop(child.stdin.take());
    for line in lines {
        told += &line.unwrap();
        told.push('\n');
    }
    assert!(child.wait().unwrap().success(), "{told}");
    assert!(told.contains(awaited), "{told}");
    Some(reports(stage).iter().map(place).collect())
}

/// The example of the README: ten lines, four mistakes.
#[test]
fn ten_lines() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let options = ["--chaos", "1,kinds=move", "--check-access", "exhaustive"];
    let awaited = "BUG: driftheap: pin-across-move";
    let wrong = example_until(stage.path(), &["-g", "-w"], &options, awaited);
    let Some(wrong) = wrong else { return };
    let expect = marked("tools/examples/ten-lines.c");
    assert_eq!(wrong.into_iter().collect::<BTreeSet<_>>(), expect);
    // The first line is about the heaps.
    let fixed = example_until(stage.path(), &["-g", "-w", "-DFIXED"], &options, "driftheap: ");
    assert_eq!(fixed.unwrap(), []);
    // A recording and a device that waits make no difference.
    let file = stage.path().join("ten.litmus");
    let device = "camera,reads=#0,every=20ms,hold=0ms";
    for more in [["--record", file.to_str().unwrap()], ["--device", device]] {
        let options = [&options[..], &more].concat();
        let wrong = example_until(stage.path(), &["-g", "-w"], &options, awaited).unwrap();
        assert_eq!(wrong.into_iter().collect::<BTreeSet<_>>(), expect, "{more:?}");
    }
}

/// A device that adds no fence, and the same device with one.
#[test]
fn devices_without_a_fence() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let camera = |fence| format!("camera,writes=#0,every=1ms,hold=0ms,fence={fence}");
    let awaited = "BUG: driftheap: unfenced-dma in camera";
    let options = ["--device", &camera("no")];
    let wrong = example_until(stage.path(), &["-g", "-w", "-DFIXED"], &options, awaited);
    let Some(wrong) = wrong else { return };
    assert_eq!(wrong, [("unfenced-dma".to_owned(), 0)]);
    let options = ["--device", &camera("yes")];
    let fixed = example_until(stage.path(), &["-g", "-w", "-DFIXED"], &options, "driftheap: ");
    assert_eq!(fixed.unwrap(), []);
}

/// A device that transfers while the CPU's bracket is open, and one that waits for its end.
#[test]
fn devices_and_open_brackets() {
    const CLIENT: &str = "tests/clients/misuse/handover.c";
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let Some(keeps_open) = compile(stage.path(), CLIENT, &["-g"], true) else { return };
    let Some(ends) = compile(stage.path(), CLIENT, &["-g"], false) else { return };
    let camera = |bracket| format!("camera,writes=#0,every=1ms,hold=0ms,bracket={bracket}");
    let seen = |how, client: &Path| {
        let options = ["--device", &camera(how)];
        let output = watched(stage.path(), User::Own, &options, &[client.to_str().unwrap()]);
        (output, reports(stage.path()))
    };
    let (output, told) = seen("ignored", &keeps_open);
    let places: BTreeSet<_> = told.iter().map(place).collect();
    assert_eq!(places, [("dma-in-bracket".to_owned(), 0)].into(), "{}", text(&output));
    assert!(text(&output).contains("open: START|READ by main (handover.c:"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(99));
    let (output, told) = seen("waits", &ends);
    assert_eq!((output.status.code(), told), (Some(0), Vec::new()), "{}", text(&output));
}

#[test]
fn code_that_a_program_generates() {
    check("tests/clients/misuse/generated.c", &["--check-access", "exhaustive"]);
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let client = compile(stage.path(), "tests/clients/misuse/generated.c", &["-g"], true);
    let Some(client) = client else { return };
    let options = ["--check-access", "exhaustive"];
    let output = watched(stage.path(), User::Own, &options, &[client.to_str().unwrap()]);
    let told = text(&output);
    assert!(told.contains("\nCall trace:\n generated code at 0x"), "{told}");
}

#[test]
fn a_child_that_only_inherited_a_descriptor() {
    check("tests/clients/misuse/inherit.c", &[]);
}

/// What the kernel copies for a program counts as the program's access, and never fails for it.
#[test]
fn brackets_and_system_calls() {
    let exhaustive = ["--check-access", "exhaustive"];
    check("tests/clients/misuse/kernel.c", &exhaustive);
    check("tests/clients/misuse/kernel.c", &[&exhaustive[..], &["--live"]].concat());
}

#[test]
fn pins_that_a_move_leaves_behind() {
    check("tests/clients/misuse/pin.c", &["--live"]);
    check("tests/clients/misuse/pin.c", &["--live", "--check-access", "exhaustive"]);
}

/// What goes on being read through a pin after a move, a recording has too, with reports or without.
#[test]
fn a_recording_has_the_pins() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let Some(client) = compile(stage.path(), "tests/clients/misuse/pin.c", &["-g"], true) else {
        return;
    };
    let (file, socket) = (stage.path().join("pins.litmus"), stage.path().join("socket"));
    let binary = stage.path().join("driftheap");
    let ctl = format!("CTL={} ctl --socket {}", binary.display(), socket.display());
    let control = ["--control", socket.to_str().unwrap(), "--record", file.to_str().unwrap()];
    for more in [&[][..], &["--misuse"]] {
        let options = [&control[..], more].concat();
        let output =
            run(stage.path(), User::Own, &options, &["env", &ctl, client.to_str().unwrap()]);
        let told = text(&output);
        assert_eq!(told.contains("BUG: driftheap: pin-across-move"), !more.is_empty(), "{told}");
        assert!(!told.contains("a bug of driftheap"), "{told}");
        let recording = std::fs::read_to_string(&file).unwrap();
        assert!(recording.contains(": gup p") && recording.contains(": unpin p"), "{recording}");
        assert!(recording.contains("use-after-free Always"), "{recording}");
        let mut command = Command::new(&binary);
        command.args(["check", "--replay", "off"]).arg(&file);
        let output = bounded(command);
        assert!(output.status.success(), "{}\n{recording}", text(&output));
    }
}

#[test]
fn buffers_that_are_gone() {
    check("tests/clients/misuse/gone.c", &["--live"]);
    check("tests/clients/misuse/gone.c", &["--live", "--check-access", "exhaustive"]);
}

/// Threads, children, signals, munmap of parts, mremap and mprotect: the program does not notice
/// that it is followed, and only its mistakes are told.
#[test]
fn brackets_of_a_busy_program() {
    check("tests/clients/misuse/busy.c", &["--check-access", "exhaustive"]);
    // Buffers that move meanwhile make no difference.
    let moving = ["--check-access", "exhaustive", "--chaos", "1,kinds=move"];
    check("tests/clients/misuse/busy.c", &moving);
}

/// Threads whose faults open one page for each other, a mapping that has moved, a first thread that
/// has ended: each access is made, and what is wrong is told.
#[test]
fn threads_that_fault_on_one_page_go_on() {
    const RUNS: usize = 2;
    const CLIENT: &str = "tests/clients/misuse/threads.c";
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let flags = ["-g", "-pthread"];
    let Some(correct) = compile(stage.path(), CLIENT, &flags, false) else { return };
    let Some(buggy) = compile(stage.path(), CLIENT, &flags, true) else { return };
    for mode in ["exhaustive", "sampled"] {
        for _ in 0..RUNS {
            for user in users() {
                let program = [correct.to_str().unwrap()];
                let output = watched(stage.path(), user, &["--check-access", mode], &program);
                assert_eq!(output.status.code(), Some(0), "{mode} {user:?}: {}", text(&output));
                assert_eq!(text(&output), "", "{mode} {user:?}");
            }
        }
        let output =
            watched(stage.path(), User::Own, &["--check-access", mode], &[buggy.to_str().unwrap()]);
        let places: BTreeSet<_> = reports(stage.path()).iter().map(place).collect();
        assert_eq!(places, marked(CLIENT), "{mode}: {}", text(&output));
        assert_eq!(output.status.code(), Some(99), "{mode}: {}", text(&output));
    }
}

/// A report names the buffer and what happened to it, and `--fail-on` the kinds that count.
#[test]
fn a_report_has_the_buffer_and_its_history() {
    let stage = stage();
    let client = "tests/clients/misuse/private.c";
    if !available(stage.path()) {
        return;
    }
    let Some(program) = compile(stage.path(), client, &["-g"], true) else { return };
    let program = [program.to_str().unwrap()];
    drop(watched(stage.path(), User::Own, &[], &program));
    let reports = reports(stage.path());
    let private = reports.iter().find(|report| report["kind"] == "private-mapping").unwrap();
    assert_eq!(private["buffer"]["name"], "frame");
    assert_eq!(private["buffer"]["size"], 8192);
    assert_eq!(private["buffer"]["exp_name"], "system");
    assert_eq!(private["act"]["syscall"], "mmap");
    assert_eq!(private["function"], "main");
    assert_eq!(private["history"][0]["what"], "allocated");
    assert_eq!(private["history"][0]["by"]["function"], "alloc");
    assert_eq!(private["pid"], private["tid"]);
    for (options, expect) in [
        (&["--misuse"][..], 0),
        (&["--fail-on", "leaked-fd"], 99),
        (&["--fail-on", "unfenced-dma,private-mapping"], 99),
        (&["--fail-on", "unfenced-dma"], 0),
        (&["--fail-on", "nonsense"], 2),
        (&["--misuse-json", "/nowhere/x"], 125),
        (&["--misuse-sarif", "/nowhere/x"], 125),
        (&[], 0),
    ] {
        let output = run(stage.path(), User::Own, options, &program);
        assert_eq!(output.status.code(), Some(expect), "{options:?}: {}", text(&output));
        let told = text(&output).contains("driftheap: misuse: 1 private-mapping, 1 leaked-fd");
        assert_eq!(
            told,
            matches!(expect, 99)
                || options.contains(&"--misuse")
                || options.contains(&"unfenced-dma"),
            "{options:?}: {}",
            text(&output)
        );
    }
    files_for_other_tools(stage.path(), &program);
    // A program that fails keeps its own status.
    let output = run(stage.path(), User::Own, &["--fail-on", "any"], &["false"]);
    assert_eq!(output.status.code(), Some(1));
}

/// SARIF names the source line, JUnit and KTAP the kinds: those that were seen fail.
fn files_for_other_tools(stage: &Path, program: &[&str]) {
    let at = |name: &str| stage.join(name).to_str().unwrap().to_owned();
    let (sarif, junit, ktap) = (at("out.sarif"), at("out.xml"), at("out.ktap"));
    let options = ["--misuse-sarif", &sarif, "--misuse-junit", &junit, "--misuse-ktap", &ktap];
    let output = run(stage, User::Own, &options, program);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let sarif: serde_json::Value = serde_json::from_str(&read(&sarif)).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "{results:?}");
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        let rule = &run["tool"]["driver"]["rules"][index];
        assert_eq!(rule["id"], result["ruleId"]);
        let place = &result["locations"][0]["physicalLocation"];
        assert!(place["region"]["startLine"].as_u64().unwrap() > 1, "{place}");
        assert!(place["artifactLocation"]["uri"].as_str().unwrap().ends_with(".c"), "{place}");
    }
    assert!(read(&junit).contains("tests=\"15\" failures=\"2\""), "{}", read(&junit));
    let ktap = read(&ktap);
    assert!(ktap.lines().any(|line| line.trim_start().starts_with("not ok 3 private-mapping")));
    assert!(ktap.lines().any(|line| line.trim_start().starts_with("ok 1 unbracketed-access")));
}
