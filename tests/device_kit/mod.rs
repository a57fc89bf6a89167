//! What the device's tests share: finding the binaries, running them with a time limit, as this
//! user and as nobody.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest that one program may run.
pub(crate) const SECONDS_MAX: u64 = 240;

/// How a test runs a program: under which user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Whoever runs the tests.
    Own,
    /// User and group 65534, without supplementary groups.
    Nobody,
}

/// The users that this machine lets us be; says which is left out.
pub(crate) fn users() -> Vec<User> {
    let root = rustix::process::geteuid().is_root();
    let setpriv = Command::new("setpriv").arg("--version").stdout(Stdio::null()).status();
    if root && setpriv.is_ok_and(|status| status.success()) {
        return vec![User::Own, User::Nobody];
    }
    eprintln!("SKIP user nobody: needs root and setpriv");
    vec![User::Own]
}

/// Directory of the binaries under test, readable for everyone: target/ may lie in a home
/// directory that nobody can't enter.
pub(crate) fn stage() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new().prefix("driftheap-test-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    install(dir.path(), Path::new(env!("CARGO_BIN_EXE_driftheap")), "driftheap");
    dir
}

/// Copies a binary to the stage.
pub(crate) fn install(stage: &Path, from: &Path, name: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let to = stage.join(name);
    // In a process of its own: a child that another test's thread forks meanwhile would inherit
    // our descriptor for writing, and executing the copy would be ETXTBSY.
    let mut copy = Command::new("cp");
    copy.arg(from).arg(&to);
    let output = bounded(copy);
    assert!(output.status.success(), "can't copy {}: {}", from.display(), text(&output));
    std::fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).unwrap();
    to
}

/// The built example called `name`.
pub(crate) fn example(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_driftheap")).parent().unwrap();
    let path = target.join("examples").join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --examples`", path.display());
    path
}

/// `driftheap run` with `options` for `program`, as `user`.
pub(crate) fn run(stage: &Path, user: User, options: &[&str], program: &[&str]) -> Output {
    let mut argv = Vec::new();
    if user == User::Nobody {
        let drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
        argv.extend(drop.map(str::to_owned));
    }
    argv.push(stage.join("driftheap").display().to_string());
    argv.push("run".into());
    argv.extend(options.iter().map(|&option| option.to_owned()));
    argv.push("--".into());
    argv.extend(program.iter().map(|&arg| arg.to_owned()));
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).current_dir(stage);
    bounded(command)
}

/// Runs a command to its end or kills it at the time limit, which is a failure.
pub(crate) fn bounded(mut command: Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("can't start {command:?}: {error}"));
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let err = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).map(|_| bytes)
    });
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > Duration::from_secs(SECONDS_MAX) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} was still running after {SECONDS_MAX} s");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: out.join().unwrap().unwrap(), stderr: err.join().unwrap().unwrap() }
}

/// Whether the device can run here; prints SKIP and the reason if it can't.
pub(crate) fn available(stage: &Path) -> bool {
    let output = run(stage, User::Own, &["-q"], &["true"]);
    if output.status.success() {
        return true;
    }
    eprintln!("SKIP: {}", String::from_utf8_lossy(&output.stderr).trim());
    false
}

/// Both streams as text.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
