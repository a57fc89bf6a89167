//! `driftheap ctl` against a running device, as its user and as a stranger.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use device_kit::{available, bounded, example, install, stage, text};

struct Device {
    child: Child,
    stage: tempfile::TempDir,
}

impl Device {
    /// A device whose program holds two buffers.
    fn start() -> Option<Self> {
        let stage = stage();
        if !available(stage.path()) {
            return None;
        }
        let hostile = install(stage.path(), &example("hostile"), "hostile");
        let mut command = Command::new(stage.path().join("driftheap"));
        command.args(["run", "--control"]).arg(stage.path().join("sock")).arg("--");
        command.arg(hostile).arg("hold");
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let device = Self { child: child.unwrap(), stage };
        let started = Instant::now();
        // The program needs a moment to allocate; how long is the machine's affair.
        while device.ctl(&["list"]).stdout.iter().filter(|&&byte| byte == b'\n').count() < 3
            || !text(&device.ctl(&["list"])).contains("camera")
        {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{}",
                text(&device.ctl(&["list"]))
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(device)
    }

    fn ctl(&self, args: &[&str]) -> Output {
        ctl(self.stage.path(), &[], args)
    }

    /// Ends the device by a signal to the supervisor; its exit status and last words.
    fn stop(self) -> Output {
        let pid = self.child.id().cast_signed();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let output = self.child.wait_with_output().unwrap();
        assert!(!self.stage.path().join("sock").exists(), "the socket is removed");
        output
    }
}

fn ctl(stage: &Path, prefix: &[&str], args: &[&str]) -> Output {
    let binary = stage.join("driftheap").display().to_string();
    let mut words: Vec<&str> = prefix.to_vec();
    words.push(&binary);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg("ctl").args(args).arg("--socket").arg(stage.join("sock"));
    bounded(command)
}

/// One object a line.
fn objects(output: &Output) -> Vec<serde_json::Value> {
    let lines = std::str::from_utf8(&output.stdout).unwrap().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .inspect(|value: &serde_json::Value| assert!(value.is_object()))
        .collect()
}

#[test]
fn ctl_shows_what_the_kernel_would() {
    let Some(device) = Device::start() else { return };
    let list = text(&device.ctl(&["list"]));
    let camera = list.lines().find(|line| line.ends_with("camera")).unwrap().to_owned();
    let fields: Vec<&str> = camera.split_ascii_whitespace().collect();
    assert_eq!(fields[1..3], ["8192", "system"], "{list}");
    assert_eq!(fields[5], "1", "one holder: {list}");
    let info = text(&device.ctl(&["info"]));
    assert!(
        info.contains("size    \tflags   \tmode    \tcount   \texp_name\tino     \tname"),
        "{info}"
    );
    assert!(info.contains("\nTotal 2 objects, 12288 bytes\n"), "{info}");
    assert!(info.contains("\tsystem\t") && info.contains("\tcamera\n"), "{info}");
    let one = text(&device.ctl(&["info", fields[0]]));
    assert!(one.contains("size:\t8192\n") && one.contains("name:\tcamera\n"), "{one}");
    assert!(one.contains("hostile fd "), "{one}");
    for verb in ["info", "move"] {
        let none = device.ctl(&[verb, "1"]);
        assert_eq!(none.status.code(), Some(1), "{verb}");
        assert!(none.stdout.is_empty() && !text(&none).contains("no answer"), "{}", text(&none));
        let why = if verb == "info" { "no buffer with inode 1" } else { "do not move" };
        assert!(text(&none).contains(why), "{}", text(&none));
    }
    let zap = device.ctl(&["zap", fields[0]]);
    assert_eq!(zap.status.code(), Some(1), "{}", text(&zap));
    assert!(text(&zap).starts_with("error: refused: can't zap"), "{}", text(&zap));
    let stats = text(&device.ctl(&["stats"]));
    assert!(stats.contains("buffers\t2 now, 2 ever, 0 released"), "{stats}");
    let trace = text(&device.ctl(&["trace"]));
    let exported = trace.matches("dma_buf_export: exp_name=system size=").count();
    assert_eq!(exported, 2, "{trace}");
    for verb in ["list", "info", "stats", "trace"] {
        let json = device.ctl(&[verb, "--json"]);
        let lines = objects(&json);
        let expected = match verb {
            "stats" => 1,
            "trace" => trace.lines().count() - 2,
            _ => 2,
        };
        assert_eq!(lines.len(), expected, "{verb}: {}", text(&json));
        assert!(verb != "stats" || lines[0]["buffers"] == 2, "{}", text(&json));
    }
    for (words, outcome) in [(["zap", fields[0]], "refused"), (["info", "1"], "unknown")] {
        let json = device.ctl(&[words[0], words[1], "--json"]);
        assert_eq!(json.status.code(), Some(1));
        assert_eq!(objects(&json)[0]["outcome"], outcome, "{}", text(&json));
    }
    let ended = device.stop();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(15));
    let words = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(words.contains("driftheap: 2 buffers, 12288 bytes, 3 ioctls (0 failed)"), "{words}");
}

#[test]
fn the_socket_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(device) = Device::start() else { return };
    let meta = std::fs::metadata(device.stage.path().join("sock")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    if rustix::process::geteuid().is_root() {
        let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
        let refused = ctl(device.stage.path(), &nobody, &["list"]);
        assert!(!refused.status.success(), "{}", text(&refused));
        // Who gets past the mode is still asked who it is.
        let open = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(device.stage.path().join("sock"), open).unwrap();
        let refused = ctl(device.stage.path(), &nobody, &["list"]);
        assert!(!refused.status.success(), "{}", text(&refused));
        assert!(text(&refused).contains("only its own user and root"), "{}", text(&refused));
    } else {
        eprintln!("SKIP the stranger: needs root");
    }
    drop(device.stop());
}

#[test]
fn a_client_that_says_nothing_useful_is_answered() {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
    let Some(device) = Device::start() else { return };
    let path = device.stage.path().join("sock");
    for packet in [&b"{"[..], b"{\"verb\":\"move\"}", &[0xff; 9000]] {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::send(&socket, packet, SendFlags::empty()).unwrap();
        let mut answer = [0u8; 4096];
        let (len, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).unwrap();
        assert_eq!(&answer[..len], b"{\"outcome\":\"refused\"}");
        let (len, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).unwrap();
        assert!(answer[..len].starts_with(b"not a query: "));
    }
    assert!(text(&device.ctl(&["list"])).contains("camera"), "it goes on");
    drop(device.stop());
}
