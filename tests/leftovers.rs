//! Nothing is left behind: not by a program that ran, not by a killed driftheap once the next ran.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use device_kit::{available, bounded, example, install, stage, text};

/// A directory for temporary files and one for runtime files, which driftheap is told to use.
struct Place {
    stage: tempfile::TempDir,
    runtime: bool,
}

impl Place {
    fn new(runtime: bool) -> Option<Self> {
        let stage = stage();
        if !available(stage.path()) {
            return None;
        }
        for name in ["tmp", "run"] {
            std::fs::create_dir(stage.path().join(name)).unwrap();
        }
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(stage.path().join("run"), private).unwrap();
        Some(Self { stage, runtime })
    }

    fn driftheap(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.stage.path().join("driftheap"));
        command.args(args).env("TMPDIR", self.stage.path().join("tmp"));
        command.env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null());
        if self.runtime {
            command.env("XDG_RUNTIME_DIR", self.stage.path().join("run"));
        }
        command
    }

    /// What lies in both directories, however deep.
    fn listing(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                found.push(entry.path());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    walk(&entry.path(), found);
                }
            }
        }
        let mut found = Vec::new();
        for name in ["tmp", "run"] {
            walk(&self.stage.path().join(name), &mut found);
        }
        found.sort();
        found
    }

    /// A program that reads the directory of the heaps, so that their nodes are made.
    fn look(&self) -> Output {
        let output = bounded(self.driftheap(&["run", "--", "ls", "/dev/dma_heap"]));
        assert!(output.status.success(), "{}", text(&output));
        output
    }
}

#[test]
fn a_run_leaves_nothing() {
    for runtime in [false, true] {
        let Some(place) = Place::new(runtime) else { return };
        assert!(text(&place.look()).contains("system"));
        assert_eq!(place.listing(), Vec::<PathBuf>::new(), "runtime directory: {runtime}");
        let failed = bounded(place.driftheap(&["run", "--", "no-such-program"]));
        assert_eq!(failed.status.code(), Some(127));
        assert_eq!(place.listing(), Vec::<PathBuf>::new(), "runtime directory: {runtime}");
    }
}

/// Starts a device that holds buffers, and waits until its socket is there.
fn started(place: &Place) -> std::process::Child {
    let hostile = install(place.stage.path(), &example("hostile"), "hostile");
    let mut command = place.driftheap(&["run", "--"]);
    command.arg(hostile).arg("hold").stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let begun = Instant::now();
    while !place.listing().iter().any(|path| path.extension().is_some_and(|kind| kind == "sock")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no socket: {:?}", place.listing());
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// Kills a driftheap, and then its program, which would go on without it.
fn kill(driftheap: &mut std::process::Child) {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = driftheap.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    driftheap.kill().unwrap();
    driftheap.wait().unwrap();
    for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        // It may have ended by itself.
        let _ended = kill_process(child, Signal::KILL);
    }
}

#[test]
fn what_a_killed_one_left_goes_with_the_next() {
    for runtime in [false, true] {
        let Some(place) = Place::new(runtime) else { return };
        let mut killed = started(&place);
        kill(&mut killed);
        assert!(!place.listing().is_empty(), "SIGKILL leaves no time to clean up");
        let ctl = bounded(place.driftheap(&["ctl", "list"]));
        assert_eq!(ctl.status.code(), Some(2));
        assert!(text(&ctl).contains("no device runs"), "{}", text(&ctl));
        place.look();
        assert_eq!(place.listing(), Vec::<PathBuf>::new(), "runtime directory: {runtime}");
    }
}

#[test]
fn one_that_runs_is_left_alone_and_found() {
    let Some(place) = Place::new(true) else { return };
    let mut child = started(&place);
    let before = place.listing();
    place.look();
    assert_eq!(place.listing(), before);
    let list = bounded(place.driftheap(&["ctl", "list"]));
    assert_eq!(list.status.code(), Some(0), "{}", text(&list));
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
    assert_eq!(place.listing(), Vec::<PathBuf>::new());
}

#[test]
fn a_directory_that_is_not_ours_alone_is_said() {
    let Some(place) = Place::new(false) else { return };
    // The name is the user's outside of a user namespace, which a test does not know for sure.
    let mut child = started(&place);
    let path = place.listing().remove(0);
    kill(&mut child);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let run = bounded(place.driftheap(&["run", "--", "true"]));
    assert_eq!(run.status.code(), Some(0), "the program runs: {}", text(&run));
    let why = "no control socket, so `driftheap ctl` finds nothing";
    assert!(text(&run).contains(why) && text(&run).contains("XDG_RUNTIME_DIR"), "{}", text(&run));
    let ctl = bounded(place.driftheap(&["ctl", "list"]));
    assert_eq!(ctl.status.code(), Some(2));
    assert!(text(&ctl).contains("not a directory of yours alone"), "{}", text(&ctl));
}

#[test]
fn a_socket_that_a_killed_one_left_is_replaced_and_said() {
    let Some(place) = Place::new(true) else { return };
    let socket = place.stage.path().join("named.sock");
    let named = socket.to_str().unwrap();
    let mut child = place
        .driftheap(&["run", "--control", named, "--", "sleep", "60"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no socket");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(&mut child);
    let ctl = bounded(place.driftheap(&["ctl", "list", "--socket", named]));
    assert!(text(&ctl).contains("nobody listens at this socket any more"), "{}", text(&ctl));
    let next = bounded(place.driftheap(&["run", "--control", named, "--", "true"]));
    assert_eq!(next.status.code(), Some(0));
    assert!(text(&next).contains("was left by a process that is gone"), "{}", text(&next));
    assert!(!socket.exists());
    // What is no socket of ours is nobody's to remove.
    std::fs::write(&socket, "a file").unwrap();
    let next = bounded(place.driftheap(&["run", "--control", named, "--", "true"]));
    assert!(text(&next).contains("no control socket at"), "{}", text(&next));
    assert_eq!(std::fs::read(&socket).unwrap(), b"a file");
}

/// `unshare -Ur` makes whoever it is root of a namespace; `driftheap ctl` of the user outside finds
/// the server all the same.
#[test]
fn a_device_in_a_user_namespace_is_found_from_outside() {
    let Some(place) = Place::new(false) else { return };
    let own = place.stage.path().join("driftheap");
    let tried = Command::new("unshare").args(["-Ur", "true"]).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        eprintln!("SKIP: no user namespace, or no `unshare` (package util-linux)");
        return;
    }
    let mut inside = place.driftheap(&[]);
    let mut command = Command::new("unshare");
    command.arg("-Ur").arg(&own).args(["run", "--", "sleep", "60"]);
    for (name, value) in inside.stderr(Stdio::null()).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let stats = loop {
        let stats = bounded(place.driftheap(&["ctl", "stats"]));
        if stats.status.success() || begun.elapsed() > Duration::from_secs(60) {
            break stats;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(10));
    };
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
    assert!(text(&stats).contains("buffers\t0 now"), "{}", text(&stats));
}
