//! The CUSE node against a real kernel: open, ioctls, poll, signals, server death, names.
//!
//! Needs /dev/cuse and root, so each test is ignored; tools/vm/test-cuse runs them all in a
//! virtual machine. A server is this same program, started again as the test `server`.

#![allow(unused_crate_dependencies, reason = "a test uses few of the package's dependencies")]

mod cuse;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use cuse::{ALLOC, DIE, IN, NAME_LEN, OPEN_FILES, SET_NAME, Toy, WAIT, WAKE};
use driftheap::device::cuse::{CreateError, HANDLE_FIRST, Name, Node, Roots};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags};

const PATH: &str = "/dev/dma_heap/toy";

/// A server of `name` in a process of its own, ready.
struct Server {
    child: Child,
    /// Kept open: the harness of the child prints its verdict at the end.
    _output: BufReader<ChildStdout>,
}

impl Server {
    fn start(name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--ignored", "--exact", "server", "--nocapture"])
            .env("TOY_NAME", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let ready =
            output.by_ref().lines().map_while(Result::ok).any(|line| line.contains("toy is ready"));
        assert!(ready, "the server says why on stderr");
        Self { child, _output: output }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Not a test but what `Server` starts: ends when its standard input does.
#[test]
#[ignore = "the server of the other tests"]
fn server() {
    let Ok(name) = std::env::var("TOY_NAME") else { return };
    let name = Name::new(&name).expect("a good name");
    let mut node = Node::create(&name, Toy::default(), &Roots::default())
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(node.node_to_make(), None);
    let wake =
        rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("an eventfd");
    let mut stdout = std::io::stdout();
    stdout.write_all(b"toy is ready\n").expect("a reader");
    stdout.flush().expect("a reader");
    node.serve(std::io::stdin().as_fd(), wake.as_fd()).expect("a conversation");
}

fn open(path: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// ioctl(2) with any argument.
fn ioctl(file: &File, cmd: u32, arg: usize) -> Result<i32, Errno> {
    driftheap_ioctl::ioctl(file, cmd, arg)
}

#[path = "cuse/ioctl.rs"]
mod driftheap_ioctl;

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn files_and_ioctls() {
    let _server = Server::start("dma_heap/toy");
    let file = open(PATH);
    let mut data = [1_u8; 24];
    assert_eq!(ioctl(&file, ALLOC, data.as_mut_ptr() as usize), Ok(0));
    assert_eq!(data[8..12], HANDLE_FIRST.to_ne_bytes());
    assert_eq!(data[..8], [1; 8]);
    assert_eq!(ioctl(&file, ALLOC, 0), Err(Errno::EFAULT));
    assert_eq!(ioctl(&file, 0x5401, data.as_mut_ptr() as usize), Err(Errno::EINVAL)); // TCGETS
    // The size in the command may be any: what is longer than a page arrives whole too.
    let mut long = vec![3_u8; 16383];
    assert_eq!(ioctl(&file, ALLOC | 0x3fff << 16, long.as_mut_ptr() as usize), Ok(0));
    assert_eq!(long[8..12], (HANDLE_FIRST + 1).to_ne_bytes());
    assert_eq!((long[7], long[12], long[16382]), (3, 3, 3));
    let second = open(PATH);
    assert_eq!(ioctl(&second, OPEN_FILES, 0), Ok(2));
    drop(file);
    assert_eq!(ioctl(&second, OPEN_FILES, 0), Ok(1));
    let refused = OpenOptions::new().read(true).custom_flags(0o2000).open(PATH);
    assert_eq!(
        refused.map(drop).map_err(|error| error.raw_os_error()),
        Err(Some(Errno::EBUSY as i32))
    );
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn a_string_may_end_where_memory_ends() {
    let _server = Server::start("dma_heap/toy");
    let file = open(PATH);
    let map = driftheap_ioctl::PageBeforeAHole::new();
    for (text, expect) in [("tail\0", Ok(4)), ("\0", Ok(0)), ("unterminated", Err(Errno::EFAULT))] {
        let named = ioctl(&file, SET_NAME, map.put_at_end(text.as_bytes()));
        assert_eq!(named.and_then(|_| ioctl(&file, NAME_LEN, 0)), expect, "{text:?}");
    }
    assert_eq!(ioctl(&file, SET_NAME, 0), Err(Errno::EFAULT));
    // Across the end of a page that is followed by another.
    let long = format!("{}\0", "n".repeat(31));
    for offset in 0..32 {
        let address = map.put_across(long.as_bytes(), offset);
        assert_eq!(ioctl(&file, SET_NAME, address), Ok(0), "{offset}");
        assert_eq!(ioctl(&file, NAME_LEN, 0), Ok(31), "{offset}");
    }
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn what_a_node_can_not_do() {
    let _server = Server::start("dma_heap/toy");
    let file = open(PATH);
    let errno = |result: std::io::Result<usize>| result.map_err(|error| error.raw_os_error());
    assert_eq!(errno(Read::read(&mut &file, &mut [0; 8])), Err(Some(Errno::EINVAL as i32)));
    assert_eq!(errno((&file).write(&[0; 8])), Err(Some(Errno::EINVAL as i32)));
    assert_eq!(
        driftheap_ioctl::map(&file, ProtFlags::PROT_READ, MapFlags::MAP_SHARED),
        Err(Errno::ENODEV)
    );
    // Where it differs from a real heap: ESPIPE, and EINVAL, there.
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)), Ok(0));
    assert_eq!(errno(Read::read(&mut &file, &mut [])), Ok(0));
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn poll_wakes_up() {
    let _server = Server::start("dma_heap/toy");
    let file = open(PATH);
    let revents = |timeout: Option<&rustix::event::Timespec>| {
        let mut fds = [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, timeout).expect("poll");
        u32::from(fds[0].revents().bits())
    };
    assert_eq!(revents(Some(&rustix::event::Timespec::default())), 0);
    std::thread::scope(|scope| {
        let poller = scope.spawn(|| revents(None));
        let waiter = scope.spawn(|| ioctl(&file, WAIT, 0));
        assert_eq!(ioctl(&file, WAKE, 0), Ok(0));
        assert_eq!(poller.join().expect("no panic"), IN);
        assert_eq!(waiter.join().expect("no panic"), Ok(7));
    });
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn a_signal_ends_a_wait() {
    let _server = Server::start("dma_heap/toy");
    let file = open(PATH);
    assert_eq!(driftheap_ioctl::interrupted(|| ioctl(&file, WAIT, 0)), Err(Errno::EINTR));
    assert_eq!(ioctl(&file, OPEN_FILES, 0), Ok(1), "the server goes on");
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn the_node_dies_with_its_server() {
    let server = Server::start("dma_heap/toy");
    let file = open(PATH);
    assert_eq!(ioctl(&file, DIE, 0), Err(Errno::ECONNABORTED));
    drop(server);
    assert_eq!(ioctl(&file, OPEN_FILES, 0), Err(Errno::ENOTCONN));
    assert!(!Path::new(PATH).exists());
    drop(file);
    // The name is free again.
    let _next = Server::start("dma_heap/toy");
    assert_eq!(ioctl(&open(PATH), OPEN_FILES, 0), Ok(1));
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn a_killed_server_frees_its_callers() {
    let mut server = Server::start("dma_heap/toy");
    let file = open(PATH);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| ioctl(&file, WAIT, 0));
        server.child.kill().expect("our child");
        // ENOTCONN if the kill came first.
        let result = waiter.join().expect("no panic");
        assert!(matches!(result, Err(Errno::ECONNABORTED | Errno::ENOTCONN)), "{result:?}");
    });
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn a_server_ends_when_told() {
    let mut server = Server::start("dma_heap/toy");
    drop(server.child.stdin.take());
    assert!(server.child.wait().expect("our child").success());
    assert!(!Path::new(PATH).exists());
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn a_device_taken_away_ends_the_server() {
    let mut server = Server::start("dma_heap/toy");
    std::fs::write("/sys/class/cuse/dma_heap!toy/abort", "1").expect("root");
    assert!(server.child.wait().expect("our child").success());
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn a_taken_name_is_refused() {
    let create = |name: &str| {
        Node::create(&Name::new(name).expect("good"), Toy::default(), &Roots::default()).map(drop)
    };
    for (name, what) in
        [("dma_heap/system", "a heap of the kernel's own"), ("null", "a device node or file")]
    {
        assert!(
            matches!(create(name), Err(CreateError::Taken { what: got, .. }) if got == what),
            "{name}"
        );
    }
    let _server = Server::start("dma_heap/toy");
    assert!(matches!(
        create("dma_heap/toy"),
        Err(CreateError::Taken { what: "another CUSE device", .. })
    ));
    // Without the look beforehand, the kernel's own answers: it refuses a second CUSE device, and
    // would let a real heap shadow ours.
    let blind = Roots { sys: "/nonexistent".into(), ..Roots::default() };
    assert!(matches!(
        blind.check_node(&Name::new("dma_heap/system").expect("good"), "1:1"),
        Err(CreateError::Shadowed(_))
    ));
}

#[test]
fn a_missing_channel_says_what_to_do() {
    let empty = tempfile::tempdir().expect("a directory");
    let roots = Roots { dev: empty.path().into(), sys: empty.path().into() };
    let error = Node::create(&Name::new("toy").expect("good"), Toy::default(), &roots)
        .map(drop)
        .expect_err("no /dev/cuse");
    assert!(error.to_string().contains("modprobe cuse"), "{error}");
}
