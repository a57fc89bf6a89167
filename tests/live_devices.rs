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
    assert!(said.contains("driftheap: BUG: cross-buffer-write by camera"), "{said}");
    assert!(said.contains("of `victim` now"), "{said}");
    assert!(!said.contains("a bug of driftheap"), "{said}");
    let recording = check_recording(stage.path(), &file);
    assert!(recording.contains(" Always, "), "{recording}");
    assert!(recording.contains("move-notify = ignored"), "{recording}");
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
