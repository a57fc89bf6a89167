//! `driftheap serve`: the mount against the conformance suite, its zap, and every way it can end.
//!
//! Needs one of the three ways to mount: root, fusermount3, a user namespace. Where none works the
//! tests print SKIP with the reasons.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use driftheap::conformance::{Transport, why};
use driftheap::sys::probe::Probe;

use device_kit::{bounded, stage, text};

const WAIT_MAX: Duration = Duration::from_secs(60);

/// Fails with what the server said, if it ended.
fn alive(child: &mut Child) {
    if let Some(status) = child.try_wait().unwrap() {
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        panic!("the server ended, {status}: {said}");
    }
}

/// A server that can't start is noticed at once, and its words are in the message.
#[test]
fn a_server_that_ends_is_noticed() {
    let child = Command::new(env!("CARGO_BIN_EXE_driftheap"))
        .args(["serve", "--mount", "/nonexistent"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let noticed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("the server's end", || {
            alive(&mut child);
            false
        });
    }));
    let message = noticed.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("the server ended, exit status: "), "{message}");
    assert!(message.contains("/nonexistent") || message.contains("/dev/fuse"), "{message}");
}

struct Mount {
    child: Child,
    stage: tempfile::TempDir,
    dir: PathBuf,
}

/// Waits until `done`, which is an event and no duration; a minute is for slow machines.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < WAIT_MAX, "waited a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == dir.to_str())
}

/// The way to mount here, which `driftheap doctor` shows too.
enum Way {
    /// By mount(2) or fusermount3: everybody of this namespace sees the mount.
    Here,
    /// Only in a user and mount namespace, in which the test has to run as well.
    Namespace,
    /// None, with the reason.
    No(String),
}

fn way() -> Way {
    use driftheap::sys::probe;
    let tried = [probe::fuse_mount_root(), probe::fuse_mount_fusermount3()];
    if tried.iter().any(|probe| probe.available) {
        return Way::Here;
    }
    let namespace = probe::fuse_mount_namespace();
    let unshare = Command::new("unshare").arg("--version").stdout(Stdio::null()).status();
    if namespace.available && unshare.is_ok_and(|status| status.success()) {
        return Way::Namespace;
    }
    let reasons = tried.iter().chain([&namespace]).map(|probe| {
        let Probe { name, detail, remedy, .. } = probe;
        let remedy = if remedy.is_empty() { "install util-linux for `unshare`" } else { remedy };
        format!("\n  {name}: {detail}; to enable: {remedy}")
    });
    Way::No(reasons.collect())
}

/// Runs the test that calls this in a namespace of its own, in which a plain user mounts.
fn again_in_a_namespace() {
    let thread = std::thread::current();
    let name = thread.name().filter(|&name| name != "main");
    let Some(name) = name else {
        eprintln!("SKIP: with one test thread no test knows its name; leave out --test-threads=1");
        return;
    };
    let mut command = Command::new("unshare");
    command.arg("-Urm").arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]);
    let output = bounded(command);
    assert!(output.status.success(), "in a namespace: {}", text(&output));
    assert!(text(&output).contains("1 passed"), "{}", text(&output));
    eprintln!("in a user namespace: {}", text(&output));
}

impl Mount {
    fn start() -> Option<Self> {
        match way() {
            Way::Here => Some(Self::start_here()),
            Way::Namespace => {
                again_in_a_namespace();
                None
            }
            Way::No(reasons) => {
                eprintln!("SKIP: no way to mount works:{reasons}");
                None
            }
        }
    }

    fn start_here() -> Self {
        let stage = stage();
        let dir = stage.path().join("mount");
        std::fs::create_dir(&dir).unwrap();
        let child = Command::new(stage.path().join("driftheap"))
            .args(["serve", "--mount"])
            .arg(&dir)
            .arg("--control")
            .arg(stage.path().join("sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut mount = Self { child, stage, dir };
        wait_for("the mount and the control socket", || {
            alive(&mut mount.child);
            mount.dir.join("dma_heap/system").exists() && mount.stage.path().join("sock").exists()
        });
        mount
    }

    fn ctl(&self, args: &[&str]) -> String {
        let mut command = Command::new(self.stage.path().join("driftheap"));
        command.arg("ctl").args(args).arg("--socket").arg(self.stage.path().join("sock"));
        text(&bounded(command))
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends the server by a signal; nothing may be left mounted.
    fn stop(self, signal: rustix::process::Signal) -> Output {
        self.signal(signal);
        let output = self.child.wait_with_output().unwrap();
        wait_for("the unmount", || !is_mounted(&self.dir));
        std::fs::remove_dir(&self.dir).unwrap();
        output
    }

    /// A buffer by ALLOC, opened.
    fn buffer(&self, len: u64) -> OwnedFd {
        let before = self.numbers();
        let kind = dma_heap::HeapKind::Custom(self.dir.join("dma_heap/system"));
        let heap = dma_heap::Heap::new(kind).unwrap();
        let answered = heap.allocate(usize::try_from(len).unwrap()).unwrap();
        // The crate takes the number for a descriptor, which it is not here: do not let it close
        // whatever of ours has that number.
        let id = std::os::fd::IntoRawFd::into_raw_fd(answered);
        assert!(!before.contains(&id.to_string()), "a new buffer");
        let path = self.dir.join("buffers").join(id.to_string());
        File::options().read(true).write(true).open(path).unwrap().into()
    }

    fn numbers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join("buffers")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[test]
fn the_mount_answers_like_linux_where_it_can() {
    let Some(mount) = Mount::start() else { return };
    let mut command = Command::new(mount.stage.path().join("driftheap"));
    command.arg("__conformance").env("CONFORMANCE_MOUNT", &mount.dir);
    let output = bounded(command);
    let (mut right, mut wrong) = (0, Vec::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let (id, answer, expect) = (fields[0], fields[1], fields[2]);
        let reason = why(Transport::Mount, id, note(id));
        if answer == expect {
            right += 1;
        } else if let Some(reason) = reason {
            eprintln!("not answered: {id}: {answer}, Linux {expect} ({reason})");
        } else if !answer.starts_with("SKIP") {
            wrong.push(format!("{id}: {answer}, Linux {expect}"));
        }
    }
    eprintln!("the mount: {right} rows");
    assert_eq!(wrong, Vec::<String>::new());
    assert!(right >= 155, "{right}");
    assert!(mount.ctl(&["stats"]).contains("buffers\t0 now"), "every buffer was released");
    drop(mount.stop(rustix::process::Signal::TERM));
}

/// Two mappings through two open files; a zap or a move between the accesses loses nothing, and both
/// see one memory.
#[test]
fn zaps_and_moves_keep_the_data() {
    let Some(mount) = Mount::start() else { return };
    let fd = mount.buffer(16384);
    let number = mount.numbers().remove(0);
    let path = mount.dir.join("buffers").join(&number);
    let second: OwnedFd = File::options().read(true).write(true).open(path).unwrap().into();
    let mut first = dma_buf::DmaBuf::from(fd).memory_map().unwrap();
    let second = dma_buf::DmaBuf::from(second).memory_map().unwrap();
    let ino =
        mount.ctl(&["list"]).lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    for round in 1..=20u8 {
        let fill = |bytes: &mut [u8], value: Option<u8>| {
            bytes.fill(value.unwrap_or(0));
            Ok(())
        };
        first.write(fill, Some(round)).unwrap();
        match round % 3 {
            0 => assert_eq!(mount.ctl(&["zap", &ino]), "zapped\n"),
            1 => assert!(mount.ctl(&["move", &ino]).contains("4 pages have new memory")),
            _ => assert!(mount.ctl(&["evict", &ino]).contains("4 pages have new memory")),
        }
        let same = |bytes: &[u8], _: Option<()>| Ok(bytes.iter().all(|&byte| byte == round));
        assert!(second.read(same, None).unwrap(), "round {round}");
        assert!(first.read(same, None).unwrap(), "round {round}");
    }
    assert!(mount.ctl(&["zap", "1"]).contains("no buffer with inode 1"));
    drop((first, second));
    wait_for("the release", || mount.ctl(&["stats"]).contains("buffers\t0 now"));
    drop(mount.stop(rustix::process::Signal::INT));
}

/// What is revoked or purged is SIGBUS in who has it mapped; its neighbour lives on.
#[test]
fn revoked_and_purged_buffers_are_sigbus() {
    use driftheap::sys::map::{Prot, Sharing, Window};
    use driftheap::sys::page::FrameIndex;
    use driftheap::sys::touch::Touch;

    let Some(mount) = Mount::start() else { return };
    for verb in ["revoke", "purge"] {
        let window = Window::reserve(8).unwrap();
        for first in [0, 4] {
            let fd = mount.buffer(16384);
            window.map(first, &fd, FrameIndex(0), 4, Sharing::Shared, Prot::ReadWrite).unwrap();
            assert_eq!(window.span(first, 4).store_u8(5, 7), Touch::Value(()));
        }
        let list = mount.ctl(&["list"]);
        let ino = list.lines().nth(1).unwrap().split_whitespace().next().unwrap();
        assert!(mount.ctl(&[verb, ino]).contains("its pages are gone"), "{list}");
        let sigbus = |at| matches!(window.span(at, 4).load_u8(5), Touch::Sigbus { .. });
        assert!(sigbus(0), "{verb}: {list}");
        assert_eq!(window.span(4, 4).load_u8(5), Touch::Value(7), "{verb}: the other buffer");
        drop(window);
        wait_for("the release", || mount.ctl(&["stats"]).contains("buffers\t0 now"));
    }
    drop(mount.stop(rustix::process::Signal::INT));
}

/// A buffer that nobody opened goes with the heap's file.
#[test]
fn an_unopened_buffer_does_not_stay() {
    let Some(mount) = Mount::start() else { return };
    let kind = dma_heap::HeapKind::Custom(mount.dir.join("dma_heap/system"));
    let heap = dma_heap::Heap::new(kind).unwrap();
    let answered = heap.allocate(4096).unwrap();
    let _number = std::os::fd::IntoRawFd::into_raw_fd(answered);
    assert_eq!(mount.numbers().len(), 1);
    drop(heap);
    wait_for("the release", || mount.numbers().is_empty());
    drop(mount.stop(rustix::process::Signal::HUP));
}

/// Killed, with a client that holds a dirty mapping: the mount goes, the client does not hang.
#[test]
fn a_killed_server_leaves_no_mount_and_no_hanging_client() {
    let Some(mount) = Mount::start() else { return };
    let mut mapped = dma_buf::DmaBuf::from(mount.buffer(16384)).memory_map().unwrap();
    let fill = |bytes: &mut [u8], _: Option<()>| {
        bytes.fill(1);
        Ok(())
    };
    mapped.write(fill, None).unwrap();
    drop(mount.stop(rustix::process::Signal::KILL));
    // munmap writes dirty pages back, which fails at once on an aborted connection.
    drop(mapped);
}

/// What a process waits for in the kernel: the number of its system call.
fn call_of(pid: u32) -> Option<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    line.split(' ').next().map(str::to_owned)
}

/// Whether every thread of a process is stopped.
fn is_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.contains("State:\tT")
    })
}

/// The server dies while the process that shall unmount asks it: that one unmounts all the same.
/// (Its statfs ends with ECONNABORTED, and not with ENOTCONN as it does a moment later.)
#[test]
fn a_server_killed_while_it_is_asked_leaves_no_mount() {
    use rustix::process::Signal;
    let Some(mount) = Mount::start() else { return };
    let server = mount.child.id();
    let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children"));
    let Ok(children) = children else {
        eprintln!("SKIP: this kernel shows no children in /proc (CONFIG_PROC_CHILDREN)");
        return;
    };
    // The server's own watcher stays out of it.
    let watcher: i32 = children.trim().parse().unwrap();
    let watcher = rustix::process::Pid::from_raw(watcher).unwrap();
    rustix::process::kill_process(watcher, Signal::KILL).unwrap();
    mount.signal(Signal::STOP);
    wait_for("the stop", || is_stopped(server));
    let mut second = Command::new(mount.stage.path().join("driftheap"))
        .args(["serve", "--unmount-at-eof", "--mount"])
        .arg(&mount.dir)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let statfs = libc::SYS_statfs.to_string();
    wait_for("statfs", || call_of(second.id()).is_some_and(|call| call == statfs));
    drop(mount.stop(Signal::KILL));
    assert!(!second.wait().unwrap().success(), "it says that it had to unmount");
}

#[test]
fn clear_errors() {
    let stage = stage();
    let full = stage.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("file"), "").unwrap();
    let serve = |prefix: &[&str], dir: &Path| {
        let binary = stage.path().join("driftheap").display().to_string();
        let words: Vec<&str> =
            prefix.iter().copied().chain([binary.as_str(), "serve", "--mount"]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(dir);
        text(&bounded(command))
    };
    if File::options().read(true).write(true).open("/dev/fuse").is_ok() {
        assert!(serve(&[], &full).contains("the directory is not empty"));
        assert!(serve(&[], &stage.path().join("none")).contains("No such file or directory"));
    }
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mode = std::fs::metadata("/dev/fuse")
        .map(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()));
    if rustix::process::geteuid().is_root() && mode.is_ok_and(|mode| mode & 0o006 == 0) {
        let said = serve(&nobody, &full);
        assert!(said.contains("can't open /dev/fuse: Permission denied"), "{said}");
        assert!(said.contains("chmod 666 /dev/fuse"), "{said}");
        assert!(said.contains("`driftheap run` needs no FUSE"), "{said}");
    } else {
        eprintln!("SKIP the permission error: needs root and a closed /dev/fuse");
    }
}

/// What stands at the row itself.
fn note(row: &str) -> &'static str {
    let found = driftheap::conformance::expectations().find(|(id, ..)| *id == row);
    found.map_or("", |(_, _, note)| note)
}
