//! `replay`, `hunt` and `doctor` as programs: what they print, how they end, what they leave.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_driftheap");

fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(PROGRAM).args(args).output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Arguments, the exit status, and what the output contains (stdout and stderr together).
fn check(args: &[&str], code: i32, contains: &[&str]) {
    let (status, stdout, stderr) = run(args);
    let all = format!("{stdout}{stderr}");
    assert_eq!(status, code, "{args:?}:\n{all}");
    for text in contains {
        assert!(all.contains(text), "{args:?} lacks {text:?}:\n{all}");
    }
}

#[test]
fn replay_shows_what_was_seen() {
    let lines =
        ["cross-buffer-write at step", "B[0] in frame system:0: 7 on all 4096 bytes, should"];
    check(&["replay", "A1"], 0, &lines);
    check(
        &["replay", "ttm-map-private"],
        0,
        &["SKIP ttm-map-private/special-bit/allow/pfnmap", "BUG_ON"],
    );
    check(&["replay", "A1", "--variant", "pfnmap", "--schedule", "0,0,2"], 0, &["1 of 1"]);
    check(&["replay", "A1", "--schedule", "0"], 2, &["--variant pfnmap or mixedmap"]);
    check(&["replay", "A1", "--variant", "pfnmap", "--schedule", "1"], 2, &["step 1", "P1"]);
    check(&["replay", "A1", "--variant", "nonesuch"], 2, &["there is no variant `nonesuch`"]);
    check(&["replay", "A1-A3"], 2, &["is several tests"]);
}

#[test]
fn replay_speaks_json() {
    let (status, stdout, _) = run(&["replay", "A1", "--json"]);
    assert_eq!(status, 0);
    let lines: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["agreed"], lines[1]["replayed"]);
    assert_eq!(lines[1]["disagreement"], serde_json::Value::Null);
    assert!(lines[1]["corrupted"].as_array().is_some_and(|hits| !hits.is_empty()));
}

#[test]
fn hunt_prints_a_histogram_and_can_be_repeated() {
    let args = ["hunt", "A1", "--variant", "pfnmap", "--iterations", "50", "--time", "60"];
    check(&args, 0, &["Histogram (1 states)", "Observation insert-page-and-move Never 0 50"]);
    check(&["hunt", "fork-then-move"], 2, &["not supported by hunt: fork"]);
    let (status, stdout, _) =
        run(&["hunt", "panfrost-purge", "--iterations", "30", "--time", "60", "--json"]);
    assert_eq!(status, 0);
    let hunted: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(hunted["runs"], 30);
    for outcome in hunted["outcomes"].as_array().expect("outcomes") {
        let schedule = outcome["schedule"].as_str().expect("a schedule");
        let variant = hunted["variant"].as_str().expect("a variant");
        let again = ["replay", "panfrost-purge", "--variant", variant, "--schedule", schedule];
        check(&again, 0, &["1 of 1 schedules agreed"]);
    }
}

#[test]
fn doctor_has_a_line_for_each_mechanism() {
    check(&["doctor"], 0, &["userfaultfd", "memfd_secret", "io_uring", "/dev/cuse"]);
    let (_, stdout, _) = run(&["doctor", "--json"]);
    for line in stdout.lines() {
        let probe: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let remedy = probe["remedy"].as_str().expect("a remedy");
        assert_eq!(probe["available"].as_bool(), Some(remedy.is_empty()), "{line}");
    }
}

fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    list.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Waits until `done`, which must not take long; whether it came true.
fn eventually(done: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// A bar an outcome, in the text and in a figure.
#[test]
fn hunt_draws_a_chart() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("a1.svg");
    let path = file.to_str().expect("a path");
    let args = ["hunt", "A1", "--variant", "pfnmap", "--iterations", "20", "--time", "60"];
    check(
        &[&args[..], &["--svg", path]].concat(),
        0,
        &["|################################| 100.0 %"],
    );
    let drawing = std::fs::read_to_string(&file).expect("drawn");
    assert!(drawing.starts_with("<svg") && drawing.ends_with("</svg>\n"), "{drawing}");
    assert!(drawing.contains("insert-page-and-move/pfnmap, 20 runs"), "{drawing}");
    assert_eq!(drawing.matches("class=\"bar").count(), 1, "{drawing}");
}

#[test]
fn an_interrupted_hunt_leaves_no_process() {
    // Not SIGINT: a shell starts what it puts into the background with it ignored.
    for signal in [Signal::TERM, Signal::KILL] {
        let mut hunt = Command::new(PROGRAM)
            .args(["hunt", "A1", "--time", "600", "--iterations", "100000000"])
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts");
        let pid = hunt.id();
        assert!(eventually(|| children(pid).len() >= 3), "no actors");
        let actors = children(pid);
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(raw, signal).expect("our own child");
        let status = hunt.wait().expect("it ends");
        // Whoever sent SIGTERM is not told that all was well.
        assert_eq!(status.code(), (signal == Signal::TERM).then_some(143), "{status}");
        let gone = |pid: &u32| {
            // Ended, and nobody's any more but the reaper's.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !Path::new(&format!("/proc/{pid}")).exists() || stat.contains(") Z ")
        };
        assert!(eventually(|| actors.iter().all(gone)), "left after {signal:?}: {actors:?}");
    }
}

#[test]
fn too_few_fds_are_an_error_with_a_remedy() {
    for limit in [8, 12, 16, 20] {
        let script = format!("ulimit -n {limit}; exec {PROGRAM} replay A1");
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh");
        let stderr = shell.stderr.take().expect("piped");
        let said: Vec<String> = BufReader::new(stderr).lines().map_while(Result::ok).collect();
        let status = shell.wait().expect("it ends");
        let said = said.join("\n");
        if !status.success() {
            assert!(status.code().is_some(), "a signal ended it: {said}");
            assert!(said.contains("error: "), "{limit}: {said}");
            assert!(!said.contains("panicked"), "{limit}: {said}");
        } else {
            assert!(limit > 12, "{limit} fds can't be enough");
        }
    }
}

/// The command that a hunt prints to repeat its first hit is run as it is printed.
#[test]
fn what_is_printed_to_repeat_a_schedule_repeats_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my question.litmus");
    let (_, text, _) = run(&["fmt", "--help"]);
    assert!(!text.is_empty());
    let bundled = driftheap::suite::find("panfrost-purge").unwrap();
    std::fs::write(&path, bundled.text).unwrap();
    let path = path.to_str().unwrap();
    let hunt = ["hunt", path, "--variant", "zap-missing", "--iterations", "2000", "--time", "60"];
    let (_, stdout, stderr) = run(&hunt);
    let Some(line) = stdout.lines().find(|line| line.trim_start().starts_with("driftheap replay"))
    else {
        assert!(!stdout.contains("First hit"), "{stdout}{stderr}");
        eprintln!("SKIP: no run of the hunt hit: {stdout}{stderr}");
        return;
    };
    let own = env!("CARGO_BIN_EXE_driftheap");
    let script = line.trim_start().replacen("driftheap", own, 1);
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{script}: {shown}");
    assert!(shown.starts_with("1  P") || shown.starts_with(" 1  P"), "the steps: {shown}");
    assert!(shown.contains("1 of 1 schedules agreed"), "{shown}");
}

#[test]
fn an_interrupted_hunt_prints_what_there_is() {
    use std::io::Read as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_driftheap"))
        .args(["hunt", "panfrost-purge", "--time", "120"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Once it has started its processes it holds the signal back; before, the signal ends it.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let started = Instant::now();
    while std::fs::read_to_string(&children).unwrap().is_empty() {
        if child.try_wait().unwrap().is_some() || started.elapsed().as_secs() > 60 {
            let mut stderr = String::new();
            child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            eprintln!("SKIP: {stderr}");
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("Histogram ("), "{stdout}");
}
