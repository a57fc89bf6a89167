//! `driftheap serve --socket` as a process of its own: orders by `ctl`, emulated devices, a
//! recording at its end, and its sudden death.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use driftheap::client::{Buffer, Connection, Work};
use driftheap::sys::touch::Touch;
use driftheap::uapi::dma_buf::SYNC_READ;

use super::kit::{moves, named};

struct Served {
    child: Child,
    dir: tempfile::TempDir,
}

impl Served {
    fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_driftheap"));
        command.current_dir(dir.path());
        command.args(["serve", "--socket", "heap.sock", "--control", "control.sock"]);
        command.args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "serving at heap.sock\n");
        Self { child, dir }
    }

    fn client(&self) -> Connection {
        Connection::open(&self.dir.path().join("heap.sock"), "app").unwrap()
    }

    fn ctl(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_driftheap"));
        command.arg("ctl").args(args).arg("--socket").arg(self.dir.path().join("control.sock"));
        let Output { stdout, stderr, .. } = command.output().unwrap();
        String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap()
    }

    /// Ends it by SIGTERM; its exit status and what it said.
    fn stop(&mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(!self.dir.path().join("heap.sock").exists(), "the socket is removed");
        (status.code(), said)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may be gone already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn inode(buffer: &Buffer) -> String {
    rustix::fs::fstat(buffer).unwrap().st_ino.to_string()
}

#[test]
fn ctl_moves_purges_and_lists() {
    if !moves() {
        return;
    }
    let mut served = Served::start(&[]);
    let client = served.client();
    let a = named(&client, 3, "A");
    let mapping = a.map().unwrap();
    assert_eq!(mapping.store_u8(8192, 7), Touch::Value(()));
    let ino = inode(&a);
    assert_eq!(served.ctl(&["evict", &ino]), "evict: 3 pages, 0 importers told\n");
    assert!(served.ctl(&["list"]).contains("system"), "{}", served.ctl(&["list"]));
    assert_eq!(served.ctl(&["move", &ino]), "move: 3 pages, 0 importers told\n");
    assert_eq!(mapping.load_u8(8192), Touch::Value(7));
    assert_eq!(served.ctl(&["revoke", &ino]), "revoke: 3 pages, 0 importers told\n");
    assert!(matches!(mapping.load_u8(8192), Touch::Sigbus { .. }));
    assert!(served.ctl(&["evict", &ino]).contains("EINVAL"), "{}", served.ctl(&["evict", &ino]));
    assert!(served.ctl(&["evict", "1"]).contains("no buffer with inode 1"));
    let (code, said) = served.stop();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 moves of 6 pages: nothing wrong"), "{said}");
}

/// Evicts the buffer until the device has had so many of its frames seen.
fn watch_frames(a: &Buffer, served: &Served) {
    let mapping = a.map().unwrap();
    let (mut seen, mut last) = (0, 0);
    let ino = inode(a);
    while seen < 5 {
        let bracket = a.begin_cpu_access(SYNC_READ).unwrap();
        let now = mapping.load_u8(0).value().unwrap();
        drop(bracket);
        seen += u32::from(now != last);
        last = now;
        served.ctl(&["evict", &ino]);
        served.ctl(&["move", &ino]);
    }
}

#[test]
fn an_emulated_device_writes_and_the_run_is_recorded() {
    if !moves() {
        return;
    }
    let mut served =
        Served::start(&["--device", "camera,writes=A,every=5ms", "--record", "clean.litmus"]);
    let client = served.client();
    let a = named(&client, 2, "A");
    watch_frames(&a, &served);
    let (code, said) = served.stop();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("recorded ") && said.contains("nothing wrong"), "{said}");
    check_file(&served.dir.path().join("clean.litmus"), "Result: * Never");
}

#[test]
fn a_wrong_device_fails_the_server() {
    if !moves() {
        return;
    }
    let device = "camera,writes=A,every=1ms,hold=0ms,notify=ignored";
    let mut served = Served::start(&["--device", device, "--record", "corrupt.litmus"]);
    let client = served.client();
    let a = named(&client, 1, "A");
    let of_a = a.map().unwrap();
    while of_a.span().load_u8(0) == Touch::Value(0) {
        std::thread::yield_now();
    }
    a.work(Work::MoveToSystem).unwrap();
    let b = named(&client, 1, "B");
    let of_b = b.map().unwrap();
    while of_b.span().load_u8(100) == Touch::Value(0) {
        std::thread::yield_now();
    }
    let (code, said) = served.stop();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("BUG: driftheap: cross-buffer-write by camera"), "{said}");
    // The device may strike before the buffer has its name.
    let names = ["is page 0 of `B` now", "is page 0 of `buffer "];
    assert!(names.iter().any(|name| said.contains(name)), "{said}");
    check_file(&served.dir.path().join("corrupt.litmus"), "cross-buffer-write Always");
}

fn check_file(file: &Path, expect: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(expect), "{text}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftheap"));
    let output = command.arg("check").arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{text}");
}

#[test]
fn a_killed_exporter_leaves_right_bytes_or_sigbus() {
    const PAGES: usize = 16;
    if !moves() {
        return;
    }
    for moves in [1, 10, 50, 100, 200] {
        let mut served = Served::start(&[]);
        let client = served.client();
        let a = named(&client, PAGES as u64, "A");
        let mapping = a.map().unwrap();
        let (made, over) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut count = 1u64;
                let mut gone = [false; PAGES];
                let mut last = [0u64; PAGES];
                while !over.load(Ordering::SeqCst) {
                    for page in 0..PAGES {
                        match mapping.span().load_u64(page * 4096) {
                            Touch::Value(seen) => {
                                assert!(!gone[page], "page {page} came back");
                                assert_eq!(seen, last[page], "page {page}");
                            }
                            Touch::Sigbus { .. } => gone[page] = true,
                            Touch::Sigsegv { .. } => panic!("the mapping is gone"),
                        }
                        if mapping.span().store_u64(page * 4096, count) == Touch::Value(()) {
                            assert!(!gone[page], "page {page} came back");
                            last[page] = count;
                        }
                        count += 1;
                    }
                }
            });
            let mover = scope.spawn(|| {
                while a.work(Work::Evict).is_ok() {
                    made.fetch_add(1, Ordering::SeqCst);
                }
            });
            while made.load(Ordering::SeqCst) < moves {
                std::thread::yield_now();
            }
            served.child.kill().unwrap();
            mover.join().unwrap();
            while !client.is_dead() {
                std::thread::yield_now();
            }
            over.store(true, Ordering::SeqCst);
            writer.join().unwrap();
        });
        assert!(client.alloc("system", 4096).is_err());
    }
}
