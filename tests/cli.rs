//! The command line: what it prints, and its exit status.
//!
//! The snapshots are `tests/cmd/*.trycmd`. After a change that is meant, rewrite them with
//! `TRYCMD=overwrite cargo test --test cli` and read the difference.

use std::io::Write;
use std::process::{Command, Output, Stdio};

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cmd/files.in");

fn driftheap(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftheap"));
    command.args(arguments).current_dir(FILES).env_remove("NO_COLOR");
    command
}

fn run(arguments: &[&str]) -> Output {
    driftheap(arguments).stdin(Stdio::null()).output().expect("driftheap starts")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

#[test]
fn snapshots() {
    // Help wraps at the width of the terminal.
    trycmd::TestCases::new().env("COLUMNS", "100").case("tests/cmd/*.trycmd");
}

#[test]
fn json_has_the_promised_keys_and_exact_numbers() {
    let output = run(&["check", "--replay", "off", "--json", "small.litmus"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2, "one object a variant");
    let keys = [
        "test",
        "variant",
        "row",
        "expected",
        "observation",
        "as_expected",
        "positive",
        "negative",
        "states",
        "transitions",
        "schedules",
        "hazards",
        "shortest",
        "outcomes",
        "complete",
        "stopped",
    ];
    for key in keys {
        assert!(lines.iter().all(|line| line.get(key).is_some()), "no `{key}`");
    }
    let (zap, copy) = (&lines[0], &lines[1]);
    assert_eq!(zap["variant"], "zap-first");
    assert_eq!(zap["observation"], "Never");
    assert!(zap["shortest"].is_null() && zap["hazards"].as_object().expect("object").is_empty());
    assert_eq!(copy["observation"], "Sometimes");
    let shortest = copy["shortest"].as_array().expect("a schedule");
    assert_eq!(copy["hazards"]["lost-write"], shortest.len());
    let number = |key: &str| copy[key].as_u64().expect("a number");
    assert_eq!(number("positive") + number("negative"), number("schedules"));
    let outcomes = copy["outcomes"].as_array().expect("outcomes");
    let sum: u64 = outcomes.iter().map(|o| o["schedules"].as_u64().expect("a number")).sum();
    assert_eq!(sum, number("schedules"));
}

#[test]
fn an_unknown_answer_is_null() {
    let output = run(&["check", "--replay", "off", "--json", "--states", "10", "small.litmus"]);
    assert_eq!(output.status.code(), Some(1));
    let line = stdout(&output).lines().next().expect("a line");
    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert!(value["observation"].is_null() && value["as_expected"].is_null());
    assert_eq!(value["complete"], false);
    assert!(value["stopped"].as_str().expect("a reason").contains("10 states"));
}

#[test]
fn a_story_is_json_too() {
    let output = run(&["explain", "--json", "small.litmus"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let story: serde_json::Value = serde_json::from_str(stdout(&output)).expect("JSON");
    let steps = story["steps"].as_array().expect("steps");
    assert_eq!(steps.len(), story["schedule"].as_array().expect("schedule").len());
    let splat = &story["splats"][0];
    assert_eq!(splat["hazard"], "lost-write");
    assert_eq!(splat["step"], steps.len());
    assert!(!splat["prevented_by"].as_array().expect("preventions").is_empty());
}

#[test]
fn the_suite_is_as_expected_and_does_not_depend_on_threads() {
    let one = run(&["check", "--replay", "off", "--threads", "1"]);
    assert_eq!(one.status.code(), Some(0), "{}{}", stdout(&one), stderr(&one));
    assert!(stdout(&one).contains("all as expected"));
    let four = run(&["check", "--replay", "off", "--threads", "4"]);
    assert_eq!(stdout(&one), stdout(&four));
}

#[test]
fn without_a_verb_it_runs_the_suite_and_says_what_to_do_next() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("all as expected"));
    assert!(stdout(&output).contains("\nNext:\n"));
    assert!(!stderr(&output).contains('\r'), "progress is for terminals");
}

#[test]
fn the_reduced_search_has_the_same_answers() {
    let column = |arguments: &[&str]| -> Vec<String> {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let cell = |line: &str| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        stdout(&output).lines().filter(|line| line.contains(" ok")).map(cell).collect()
    };
    let off = ["check", "--replay", "off"];
    assert_eq!(column(&off), column(&[off.as_slice(), &["--reduce"]].concat()));
}

#[test]
fn standard_input() {
    let mut child = driftheap(&["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("driftheap starts");
    let text = std::fs::read(format!("{FILES}/mistakes.litmus")).expect("a file");
    child.stdin.take().expect("a pipe").write_all(&text).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output).matches("<stdin>:").count(), 3, "{}", stderr(&output));
}

#[test]
fn bytes_that_are_no_text() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("bytes.litmus");
    std::fs::write(&path, b"DMABUF x\n\xff\xfe\n").expect("written");
    let huge = dir.path().join("huge.litmus");
    std::fs::write(&huge, vec![b' '; (1 << 20) + 1]).expect("written");
    let dir = dir.path().to_str().expect("UTF-8");
    let output = run(&["check", dir]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("bytes.litmus:2: not UTF-8"), "{}", stderr(&output));
    assert!(stderr(&output).contains("huge.litmus: longer than 1024 KiB"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    for arguments in [&["list"][..], &["check"], &["check", "-v"], &["explain", "A1"], &["-h"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = driftheap(arguments).stdin(Stdio::null()).stdout(writer).output();
        let output = output.expect("driftheap starts");
        assert_eq!(stderr(&output), "", "{arguments:?}");
        let expected = if arguments == ["-h"] { 0 } else { 141 };
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_no_panic() {
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut output = driftheap(&["check", "small.litmus"]);
    let output = output.stdin(Stdio::null()).stdout(full()).output().expect("driftheap starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("can't write to standard output"), "{}", stderr(&output));
    let help = driftheap(&["check", "--help"]).stdout(full()).status().expect("driftheap starts");
    assert_eq!(help.code(), Some(2));
    for arguments in [&["check", "mistakes.litmus"][..], &["run", "--", "true"], &["ctl", "list"]] {
        let status = driftheap(arguments).stdin(Stdio::null()).stderr(full()).status();
        let code = status.expect("driftheap starts").code();
        assert!(matches!(code, Some(0 | 2 | 125)), "{arguments:?}: {code:?}");
    }
}

#[test]
fn what_is_no_litmus_file_is_said_and_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    // A terminal would obey the name.
    std::fs::write(at("a\u{1b}[31m.litmus"), "DMABUF").expect("written");
    std::fs::write(at("cr.litmus"), "DMABUF x\rP0 device { }\rexists (true)\r").expect("written");
    let pipe = at("pipe");
    nix::unistd::mkfifo(pipe.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    for (input, why) in [
        (at("cr.litmus"), "cr.litmus:1: a carriage return that ends no line"),
        (at("a\u{1b}[31m.litmus"), "/a\\u{1b}[31m.litmus:1:7"),
        ("/dev/zero".to_owned(), "/dev/zero: longer than 1024 KiB"),
        (pipe, "nobody wrote into it in 10 s"),
        ("A1-Z9".to_owned(), "a range goes from one row to a later one; rows are A1 "),
        ("A7-A1".to_owned(), "a range goes from one row to a later one"),
    ] {
        let output = run(&["check", &input]);
        assert_eq!(output.status.code(), Some(2), "{input}");
        assert!(stderr(&output).contains(why), "{input}: {}", stderr(&output));
    }
    for (arguments, why) in [
        (&["check", "--memory", "0"][..], "a search takes 16M at least"),
        (&["ctl", "move", "x"], "`x` is not an inode"),
        (&["ctl", "list", "7"], "`driftheap ctl info 7` shows one"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(why), "{arguments:?}: {}", stderr(&output));
    }
    for schedule in ["abc", "0,,1", "0,999", ""] {
        let output = run(&["replay", "A1", "--schedule", schedule]);
        assert_eq!(output.status.code(), Some(2), "{schedule}");
        assert!(stderr(&output).contains("a schedule is the number"), "{}", stderr(&output));
    }
    let output = run(&["run", "--heaps-file", "/dev/zero", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("/dev/zero: longer than"), "{}", stderr(&output));
}

#[test]
fn out_of_threads_or_memory_is_said() {
    let limited = |limit: &str, arguments: &str| {
        let script =
            format!("ulimit {limit}; exec {} {arguments}", env!("CARGO_BIN_EXE_driftheap"));
        let output = Command::new("sh").args(["-c", &script]).current_dir(FILES).output();
        output.expect("a shell")
    };
    // Whatever the limit, it is an answer or a message, never an abort.
    for kilobytes in [20_000, 30_000, 40_000, 60_000, 100_000, 200_000] {
        let output = limited(&format!("-v {kilobytes}"), "check --replay off small.litmus A1-A7");
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1 | 127)), "{kilobytes}: {code:?} {}", stderr(&output));
        let said = code != Some(1) || stderr(&output).contains("out of memory");
        assert!(said, "{kilobytes}: {}", stderr(&output));
    }
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIP out of threads: root has no RLIMIT_NPROC");
        return;
    }
    let output = limited("-u 1", "check --replay off --threads 8 small.litmus");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn colour_on_demand_only() {
    let plain = run(&["check", "--replay", "off", "small.litmus"]);
    assert!(!plain.stdout.contains(&0x1b), "a pipe gets no escape sequences");
    let colour = run(&["check", "--replay", "off", "--color", "always", "small.litmus"]);
    assert!(colour.stdout.contains(&0x1b));
    let never = run(&["check", "--color", "never", "mistakes.litmus"]);
    assert!(!never.stderr.contains(&0x1b));
}

#[test]
fn fmt_writes_in_place_and_is_then_satisfied() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ugly.litmus");
    std::fs::copy(format!("{FILES}/ugly.litmus"), &path).expect("copied");
    let name = path.to_str().expect("UTF-8");
    assert_eq!(run(&["fmt", "--check", name]).status.code(), Some(1));
    assert_eq!(run(&["fmt", name]).status.code(), Some(0));
    assert_eq!(run(&["fmt", "--check", name]).status.code(), Some(0));
    let text = std::fs::read_to_string(&path).expect("a file");
    assert!(text.contains("# a comment") && text.contains("exporter heap { mmap = pfnmap }"));
    let unwritable = run(&["fmt", "/proc/version.litmus"]);
    assert_eq!(unwritable.status.code(), Some(2));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("explain"), "{shell}");
    }
}

#[test]
fn the_list_names_every_test() {
    let output = run(&["list", "--json"]);
    let names: Vec<String> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|value| value["test"].as_str().expect("a name").to_owned())
        .collect();
    let bundled: Vec<&str> = driftheap::suite::TESTS.iter().map(|test| test.name).collect();
    assert_eq!(names, bundled);
}

#[test]
fn every_bundled_test_has_a_story() {
    for test in driftheap::suite::TESTS {
        let output = run(&["explain", test.name]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", test.name, stderr(&output));
        let text = stdout(&output);
        let bugs = text.matches("BUG: driftheap: ").count();
        let marks = text.matches("!! ").count() + text.matches("driftheap: deadlock").count();
        assert!(bugs >= marks.min(1), "{}: a hazard without its splat", test.name);
    }
}

/// `new` writes a question that is formatted and answers as it expects; it overwrites nothing.
#[test]
fn a_new_question_checks_clean() {
    let place = tempfile::tempdir().expect("a directory");
    let new = |name: &str| {
        driftheap(&["new", name]).current_dir(place.path()).output().expect("driftheap starts")
    };
    let made = new("my-heap");
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let file = place.path().join("my-heap.litmus");
    let file = file.to_str().expect("UTF-8");
    let checked = run(&["check", "--replay", "off", file]);
    assert_eq!(checked.status.code(), Some(0), "{}{}", stdout(&checked), stderr(&checked));
    assert!(stdout(&checked).contains("all as expected"), "{}", stdout(&checked));
    let before = std::fs::read_to_string(file).expect("written");
    let formatted = run(&["fmt", "--check", file]);
    assert_eq!(formatted.status.code(), Some(0), "{}{}", stdout(&formatted), stderr(&formatted));
    let again = new("my-heap");
    assert_eq!(again.status.code(), Some(2), "{}", stderr(&again));
    assert_eq!(std::fs::read_to_string(file).expect("still there"), before);
    assert_eq!(new("two words").status.code(), Some(2));
}

/// The reference has an object for every rule and every statement, and says what it does not have.
#[test]
fn the_reference_is_whole_and_can_be_searched() {
    let objects = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let rules = objects(&["rules", "--json"]);
    use driftheap::model::{EXPORTER_RULES, HOST_RULES, IMPORTER_RULES};
    let tables = [HOST_RULES, EXPORTER_RULES, IMPORTER_RULES];
    assert_eq!(rules.len(), tables.iter().map(|table| table.len()).sum::<usize>());
    let statements = objects(&["statement", "--json"]);
    assert_eq!(statements.len(), driftheap::litmus::statements::STATEMENTS.len());
    let wrong = run(&["rules", "recycel"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("did you mean `recycle`?"), "{}", stderr(&wrong));
    let wrong = run(&["statement", "qqq"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("`driftheap statement` lists them"), "{}", stderr(&wrong));
}

/// Other tools read the results: JUnit and KTAP name every variant, and say which one differs.
#[test]
fn results_are_written_for_other_tools() {
    let place = tempfile::tempdir().expect("a directory");
    let file = |name: &str| place.path().join(name).to_str().expect("UTF-8").to_owned();
    let read = |name: &str| std::fs::read_to_string(file(name)).expect("written");
    let (junit, ktap) = (file("junit.xml"), file("out.ktap"));
    let output = run(&[
        "check",
        "--replay",
        "off",
        "--junit",
        &junit,
        "--ktap",
        &ktap,
        "small.litmus",
        "differs.litmus",
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let junit = read("junit.xml");
    assert!(junit.contains("tests=\"4\" failures=\"1\""), "{junit}");
    assert!(junit.contains("message=\"expected Always, observed Sometimes\""), "{junit}");
    let ktap = read("out.ktap");
    for line in
        ["1..2", "  ok 1 zap-first", "ok 1 small", "  not ok 2 copy-first", "not ok 2 differs"]
    {
        assert!(ktap.lines().any(|found| found == line), "{line}\n{ktap}");
    }
    let trace = file("trace.json");
    let output = run(&["explain", "A5", "--perfetto", &trace]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let trace: serde_json::Value = serde_json::from_str(&read("trace.json")).expect("JSON");
    assert!(trace["traceEvents"].as_array().expect("events").len() > 20);
    let svg = file("a6.svg");
    let output = run(&["matrix", "A6", "--svg", &svg]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).is_empty(), "{}", stdout(&output));
    assert!(read("a6.svg").starts_with("<svg xmlns="));
    let markdown = run(&["matrix", "A6", "--markdown"]);
    let table: Vec<&str> = stdout(&markdown).lines().filter(|line| line.starts_with('|')).collect();
    let columns = |line: &&str| line.matches(" |").count();
    assert!(table.len() > 3 && table.iter().all(|line| columns(line) == columns(&table[0])));
    let both = run(&["matrix", "A1-A7", "--svg", &svg]);
    assert_eq!(both.status.code(), Some(2), "{}", stderr(&both));
}

/// Without a terminal `step` says what serves instead.
#[test]
fn step_needs_a_terminal() {
    let output = run(&["step", "A5"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(output.stdout.is_empty());
    for word in ["`step` draws on a terminal", "driftheap explain ttm-direct-io", "--schedule"] {
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
    assert_eq!(run(&["step", "no-such-test"]).status.code(), Some(2));
}

/// A terminal, as a program of ours sees it, and what it wrote there.
struct Terminal {
    child: std::process::Child,
    controller: std::fs::File,
    seen: String,
}

impl Terminal {
    fn start(arguments: &[&str]) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&controller).expect("granted");
        unlockpt(&controller).expect("unlocked");
        let name = ptsname(&controller, Vec::new()).expect("a name");
        let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&controller, size).expect("a size");
        let terminal = std::fs::File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("UTF-8"))
            .expect("its other end");
        let other = || Stdio::from(terminal.try_clone().expect("a descriptor"));
        let child = driftheap(arguments)
            .env("TERM", "xterm")
            .stdin(other())
            .stdout(other())
            .stderr(other())
            .spawn()
            .expect("driftheap starts");
        Self { child, controller: controller.into(), seen: String::new() }
    }

    /// Reads until `text` has come or the program has gone; the escape sequences are left out for the
    /// comparison alone, for what did not change is not written again.
    fn wait_for(&mut self, text: &str) {
        use std::io::Read as _;
        let mut bytes = [0; 4096];
        while !self.seen.contains(text) {
            let count = self.controller.read(&mut bytes).unwrap_or(0);
            assert!(count > 0, "`{text}` did not come: {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    fn press(&mut self, keys: &str) {
        self.controller.write_all(keys.as_bytes()).expect("pressed");
    }

    fn local_modes(&self) -> rustix::termios::LocalModes {
        rustix::termios::tcgetattr(&self.controller).expect("modes").local_modes
    }
}

/// Whatever ends `step`, the terminal is as it was.
#[test]
fn step_gives_the_terminal_back() {
    use rustix::process::{Pid, Signal, kill_process};
    use rustix::termios::LocalModes;
    for end in ["q", "\u{3}", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"] {
        let mut terminal = Terminal::start(&["step", "A5"]);
        terminal.wait_for("Who goes next?");
        assert!(!terminal.local_modes().contains(LocalModes::ICANON), "raw while it runs");
        terminal.press("n");
        terminal.wait_for("cross-buffer-write");
        terminal.press("n");
        terminal.wait_for("no hazard ahead on this schedule");
        let pid = Pid::from_child(&terminal.child);
        match end {
            "SIGTERM" => kill_process(pid, Signal::TERM).expect("killed"),
            "SIGINT" => kill_process(pid, Signal::INT).expect("killed"),
            "SIGHUP" => kill_process(pid, Signal::HUP).expect("killed"),
            "SIGQUIT" => kill_process(pid, Signal::QUIT).expect("killed"),
            keys => terminal.press(keys),
        }
        // It leaves the other screen, on which it drew.
        terminal.wait_for("\u{1b}[?1049l");
        let status = terminal.child.wait().expect("ended");
        assert_eq!(status.code(), Some(0), "{end:?}");
        assert!(terminal.local_modes().contains(LocalModes::ICANON), "{end:?}: still raw");
    }
}

/// Also when `step` itself panics, and what it says of that is on the first screen.
#[test]
fn step_gives_the_terminal_back_when_it_panics() {
    use rustix::termios::LocalModes;
    let mut terminal = Terminal::start(&["step", "--panic", "A5"]);
    terminal.wait_for("Who goes next?");
    assert!(!terminal.local_modes().contains(LocalModes::ICANON), "raw while it runs");
    terminal.press("v");
    terminal.wait_for("\u{1b}[?1049l");
    terminal.wait_for("it was asked to");
    let left = terminal.seen.find("\u{1b}[?1049l").expect("left");
    let said = terminal.seen.find("it was asked to").expect("said");
    assert!(left < said, "the panic is told on the screen that stays: {:?}", terminal.seen);
    let status = terminal.child.wait().expect("ended");
    assert_ne!(status.code(), Some(0));
    assert!(terminal.local_modes().contains(LocalModes::ICANON), "still raw");
}
