//! `driftheap run --device`: a device writes an unmodified program's buffer while it moves. A right
//! device disturbs nobody; a wrong one corrupts a buffer that is not its own, for the program to
//! see, and the report says which byte. What was recorded, the model says too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use device_kit::{User, available, bounded, run, stage, text, users};

/// A stage with the player on it; `None` and a SKIP if buffers can't move here.
fn player() -> Option<(tempfile::TempDir, PathBuf)> {
    let stage = stage();
    if !available(stage.path()) {
        return None;
    }
    let probe = run(stage.path(), User::Own, &["-q", "--live"], &["true"]);
    if !probe.status.success() {
        eprintln!("SKIP: {}", text(&probe).trim());
        return None;
    }
    if Command::new("cc").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIP: no C compiler called cc");
        return None;
    }
    let out = stage.path().join("player");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/player.c");
    let mut compile = Command::new("cc");
    compile.args(["-std=gnu11", "-Wall", "-Werror", "-O1", "-o"]).arg(&out).arg(source);
    let output = bounded(compile);
    assert!(output.status.success(), "{}", text(&output));
    Some((stage, out))
}

fn play(stage: &Path, player: &Path, user: User, options: &[&str], how: &str) -> Output {
    run(stage, user, options, &[player.to_str().unwrap(), how])
}

/// The model's answer to a recording is what its `Result:` says.
fn check_recording(stage: &Path, file: &Path) -> String {
    let mut command = Command::new(stage.join("driftheap"));
    command.args(["check", "--replay", "off"]).arg(file);
    let output = bounded(command);
    let recording = std::fs::read_to_string(file).unwrap();
    assert!(output.status.success(), "{}\n{recording}", text(&output));
    assert!(recording.contains("await "), "{recording}");
    recording
}

#[test]
fn a_right_device_disturbs_nobody() {
    let Some((stage, player)) = player() else { return };
    for user in users() {
        let file = stage.path().join(format!("clean-{user:?}.litmus"));
        let record = file.to_str().unwrap();
        let device = "camera,writes=frame,every=3ms,hold=1ms";
        let options = ["--chaos", "1,rate=300", "--device", device, "--record", record];
        let output = play(stage.path(), &player, user, &options, "frames");
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("20 frames, waited for the device"), "{said}");
        assert!(!said.contains("BUG") && !said.contains("a bug of driftheap"), "{said}");
        assert!(said.contains(" moves of "), "{said}");
        let recording = check_recording(stage.path(), &file);
        assert!(recording.contains("Result: * Never"), "{recording}");
        assert!(recording.contains("move "), "{recording}");
    }
}

#[test]
fn a_device_that_ignores_move_notify_corrupts_the_program() {
    let Some((stage, player)) = player() else { return };
    let file = stage.path().join("corrupt.litmus");
    let record = file.to_str().unwrap();
    let device = "camera,writes=frame,every=1ms,hold=0ms,notify=ignored";
    let options = ["--chaos", "3,rate=200", "--device", device, "--record", record];
    let output = play(stage.path(), &player, User::Own, &options, "victim");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("of victim was 0x55 and is"), "{said}");
    assert!(said.contains("BUG: driftheap: cross-buffer-write by camera"), "{said}");
    // The first report may be of a page of its own, or of `victim` before it had a name.
    assert!(said.contains("The address is page "), "{said}");
    assert!(!said.contains("a bug of driftheap"), "{said}");
    let recording = check_recording(stage.path(), &file);
    assert!(recording.contains(" Always, "), "{recording}");
    assert!(recording.contains("move-notify = ignored"), "{recording}");
}

/// Seconds of chaos: everything that was seen live is in some window, and `check` finds it there.
#[test]
fn a_long_recording_has_what_was_seen() {
    let Some((stage, player)) = player() else { return };
    let file = stage.path().join("long.litmus");
    let record = file.to_str().unwrap();
    let wrong = "camera,writes=frame,every=2ms,hold=0ms,notify=ignored";
    let right = "npu,reads=victim,every=3ms,hold=1ms";
    let options = ["--chaos", "1", "--device", wrong, "--device", right, "--record", record];
    let windows = || -> Vec<PathBuf> {
        std::iter::once(file.clone())
            .chain((2..).map(|number| stage.path().join(format!("long-{number}.litmus"))))
            .take_while(|file| file.exists())
            .collect()
    };
    // A busy machine may do too little in one run.
    let mut said = String::new();
    for _ in 0..5 {
        let output = play(stage.path(), &player, User::Own, &options, "long");
        said = text(&output);
        assert!(output.status.success(), "{said}");
        if windows().len() > 1 {
            break;
        }
    }
    assert!(!said.contains("a bug of driftheap"), "{said}");
    // What was seen once or twice may be among too many other things for one test.
    let summary = said.lines().find_map(|line| line.strip_prefix("driftheap: devices: ")).unwrap();
    let counts = summary.split(", ").filter_map(|count| count.split_once(' '));
    let often = counts.filter(|(count, _)| count.parse::<u64>().unwrap() >= 20);
    let seen: Vec<&str> = often.map(|(_, kind)| kind).collect();
    assert!(!seen.is_empty(), "{said}");
    let windows = windows();
    assert!(windows.len() > 1, "{said}");
    let mut command = Command::new(stage.path().join("driftheap"));
    command.args(["check", "--replay", "off", "--json"]).args(&windows);
    let output = bounded(command);
    let answers = String::from_utf8_lossy(&output.stdout);
    let is_whole = !said.contains("not all of it");
    assert_eq!(output.status.code(), Some(i32::from(!is_whole)), "{}", text(&output));
    for kind in seen {
        let found = |answer: &str| {
            let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
            answer["variant"] == kind && answer["observation"] != "Never"
        };
        assert!(answers.lines().any(found), "{kind}: {said}");
    }
}

#[test]
fn a_program_without_buffers_has_nothing_to_record() {
    let stage = stage();
    if !available(stage.path()) {
        return;
    }
    let file = stage.path().join("nothing.litmus");
    let options = ["--record", file.to_str().unwrap()];
    let output = run(stage.path(), User::Own, &options, &["sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(text(&output).contains("nothing to record"), "{}", text(&output));
    assert!(!file.exists());
}

#[test]
fn a_static_device_keeps_the_buffer_where_it_is() {
    let Some((stage, player)) = player() else { return };
    let device = "camera,writes=frame,every=4ms,importer=static";
    let options = ["--chaos", "5,rate=300", "--device", device];
    let output = play(stage.path(), &player, User::Own, &options, "frames");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("moves refused") && !said.contains("BUG"), "{said}");
}

#[test]
fn bad_devices_are_refused() {
    let stage = stage();
    let output = run(stage.path(), User::Own, &["--device", "camera,writes=A,every=3"], &["true"]);
    let said = text(&output);
    assert!(said.contains("`every` does not take `3`; it takes a time such as 16ms"), "{said}");
}

/// Whether a buffer for a device was there is a fact, however soon the program ends.
#[test]
fn a_device_without_a_buffer_is_an_error_whenever_the_program_ends() {
    let Some((stage, player)) = player() else { return };
    let ends_with = |program: &[&str], buffer: &str| {
        let device = format!("camera,writes={buffer}");
        run(stage.path(), User::Own, &["--device", &device], program)
    };
    for buffer in ["frame", "#0"] {
        let output = ends_with(&["true"], buffer);
        assert_eq!(output.status.code(), Some(125), "{buffer}: {}", text(&output));
        assert!(text(&output).contains("never had such a buffer"), "{buffer}: {}", text(&output));
    }
    for buffer in ["frame", "#0"] {
        let output = ends_with(&[player.to_str().unwrap(), "short"], buffer);
        assert_eq!(output.status.code(), Some(0), "{buffer}: {}", text(&output));
        assert!(!text(&output).contains("never had"), "{buffer}: {}", text(&output));
    }
}

/// The names of the slices that a flow's stations stand in, in their order.
fn stations<'a>(events: &'a [serde_json::Value], id: &serde_json::Value) -> Vec<&'a str> {
    let number = |event: &serde_json::Value, name: &str| event[name].as_f64().unwrap();
    let station = |phase: &str| {
        let at = events.iter().find(|event| event["ph"] == phase && event["id"] == *id).unwrap();
        let holds = |slice: &&serde_json::Value| {
            let same = (&slice["pid"], &slice["tid"]) == (&at["pid"], &at["tid"]);
            slice["ph"] == "X" && same && {
                let begin = number(slice, "ts");
                (begin..=begin + number(slice, "dur")).contains(&number(at, "ts"))
            }
        };
        // One that begins where another ends is later in the list.
        let slice = events.iter().rfind(holds).unwrap_or_else(|| panic!("{at} is in no slice"));
        slice["name"].as_str().unwrap()
    };
    ["s", "t", "f"].map(station).to_vec()
}

#[test]
fn a_trace_leads_from_the_address_by_the_move_to_the_harm() {
    let Some((stage, player)) = player() else { return };
    let file = stage.path().join("trace.json");
    let device = "camera,writes=frame,every=1ms,hold=0ms,notify=ignored";
    let path = file.to_str().unwrap();
    let options = ["--chaos", "3,rate=200", "--device", device, "--perfetto", path];
    let said = text(&play(stage.path(), &player, User::Own, &options, "victim"));
    let trace: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap_or_else(|_| panic!("{said}"));
    let events = trace["traceEvents"].as_array().unwrap();
    let flows: Vec<_> = events.iter().filter(|event| event["ph"] == "f").collect();
    assert!(!flows.is_empty(), "{said}");
    for flow in flows {
        let way = stations(events, &flow["id"]);
        let [taken, moved, harm] = way[..] else { panic!("{way:?}") };
        assert!(taken.starts_with("map ") && moved.starts_with("move "), "{way:?}");
        assert!(harm.starts_with("dma_write "), "{way:?}");
        assert!(said.contains(flow["name"].as_str().unwrap()), "{flow} is in the report: {said}");
    }
    // Slices of one track lie behind each other, and every track has a name.
    let mut ends = std::collections::BTreeMap::new();
    let mut slices: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
    slices.sort_by(|a, b| a["ts"].as_f64().unwrap().total_cmp(&b["ts"].as_f64().unwrap()));
    for slice in slices {
        let track = (slice["pid"].as_u64(), slice["tid"].as_u64());
        let (begin, len) = (slice["ts"].as_f64().unwrap(), slice["dur"].as_f64().unwrap());
        let before = ends.insert(track, begin + len).unwrap_or(0.0);
        assert!(before <= begin + 1e-6, "{slice} begins before another ends");
        let named = |event: &serde_json::Value| {
            event["name"] == "thread_name"
                && (event["pid"].as_u64(), event["tid"].as_u64()) == track
        };
        assert!(events.iter().any(named), "{slice} is on a track without a name");
    }
}
