//! `driftheap serve --cuse` against a real kernel: the program itself, as users start it.
//!
//! Needs /dev/cuse and root, so each test is ignored; tools/vm/test-cuse runs them all in a
//! virtual machine, with DRIFTHEAP naming the static program under test.

#![allow(unused_crate_dependencies, reason = "a test uses few of the package's dependencies")]

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use driftheap::device::cuse::{HANDLE_FIRST, NodeHeap, OPEN_HANDLE, memory_of};
use driftheap::uapi::dma_buf;
use driftheap::uapi::dma_heap::{ALLOC, AllocationData};
use nix::errno::Errno;
use nix::sys::signal::Signal;

#[path = "cuse/ioctl.rs"]
mod calls;

const NAME: &str = "dma_heap/served";
const NODE: &str = "/dev/dma_heap/served";

fn driftheap(args: &[&str]) -> Command {
    let program = std::env::var_os("DRIFTHEAP").unwrap_or_else(|| "driftheap".into());
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().expect("driftheap starts");
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (status.code(), text)
}

/// A server, ready.
struct Server(Child);

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut command = driftheap(&["serve", "--cuse", NAME]);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("driftheap starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, format!("serving {NODE}\n"));
        Self(child)
    }

    /// Ends it by a signal: its exit status and last words.
    fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        nix::sys::signal::kill(pid, signal).expect("our child");
        self.wait()
    }

    fn wait(&mut self) -> (Option<i32>, String) {
        let status = self.0.wait().expect("our child");
        let mut said = String::new();
        self.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (status.code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn open() -> File {
    let opened = OpenOptions::new().read(true).write(true).open(NODE);
    opened.unwrap_or_else(|error| panic!("{NODE}: {error}"))
}

fn alloc(heap: &File, len: u64) -> Result<u32, Errno> {
    let mut ask = AllocationData { len, fd: 0, fd_flags: 2, heap_flags: 0 }.to_bytes();
    calls::ioctl(heap, ALLOC, ask.as_mut_ptr() as usize)?;
    Ok(AllocationData::from_bytes(&ask).expect("whole").fd)
}

/// A second open file that is the buffer.
fn opened(handle: u32) -> File {
    let file = open();
    assert_eq!(calls::ioctl(&file, OPEN_HANDLE, handle as usize), Ok(0));
    file
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn a_buffer_from_alloc_to_its_memory() {
    let server = Server::start(&[]);
    let heap = open();
    let handle = alloc(&heap, 5000).expect("a buffer");
    assert_eq!(handle, HANDLE_FIRST);
    let buffer = opened(handle);
    let mut start = 3_u64.to_ne_bytes();
    assert_eq!(calls::ioctl(&buffer, dma_buf::SYNC, start.as_mut_ptr() as usize), Ok(0));
    let mut name = *b"camera\0";
    assert_eq!(calls::ioctl(&buffer, dma_buf::SET_NAME_B, name.as_mut_ptr() as usize), Ok(0));
    let listed = output(&mut driftheap(&["ctl", "list"])).1;
    assert!(listed.contains("camera") && listed.contains("8192"), "{listed}");
    let mut fds = [rustix::event::PollFd::new(&buffer, rustix::event::PollFlags::OUT)];
    assert_eq!(rustix::event::poll(&mut fds, None), Ok(1));
    // Its memory: two descriptors of one file.
    let memory = || File::from(memory_of(Path::new(NODE), handle).expect("its memory"));
    let inode = |file: &File| rustix::fs::fstat(file).expect("a file").st_ino;
    let (first, second) = (memory(), memory());
    assert_eq!(first.metadata().expect("a file").len(), 8192);
    assert_eq!(inode(&first), inode(&second));
    // The buffer goes with the file that is it, not with the heap's.
    drop(heap);
    assert!(output(&mut driftheap(&["ctl", "list"])).1.contains("camera"));
    drop(buffer);
    let stats = output(&mut driftheap(&["ctl", "stats"])).1;
    assert!(stats.contains("buffers\t0 now, 1 ever"), "{stats}");
    assert_eq!(server.end(Signal::SIGTERM).0, Some(0));
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn the_client_library_makes_descriptors() {
    let _server = Server::start(&["--heap", "served:64K,mmap=shmem"]);
    let heap = NodeHeap::open(Path::new(NODE)).expect("a node");
    let buffer = heap.alloc(5000).expect("a buffer");
    rustix::io::pwrite(&buffer.memory, b"shared", 4096).expect("memory");
    // Another process would have the number from a message.
    let again = heap.buffer(buffer.handle).expect("the same");
    let mut bytes = [0; 6];
    rustix::io::pread(&again.memory, &mut bytes, 4096).expect("memory");
    assert_eq!(&bytes, b"shared");
    let errno = |result: std::io::Result<_>| result.map(drop).map_err(|error| error.raw_os_error());
    assert_eq!(errno(heap.alloc(0)), Err(Some(Errno::EINVAL as i32)));
    assert_eq!(errno(heap.alloc(1 << 20)), Err(Some(Errno::ENOMEM as i32)), "the heap's size");
    drop((buffer.file, again.file));
    assert_eq!(errno(heap.buffer(buffer.handle)), Err(Some(Errno::EBADF as i32)));
    for real in ["/dev/dma_heap/system", "/dev/null"] {
        let refused = NodeHeap::open(Path::new(real)).map(drop);
        let errno = refused.map_err(|error| error.raw_os_error());
        assert_eq!(errno, Err(Some(Errno::ENOTSUP as i32)), "{real}");
    }
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn every_signal_ends_it_clean() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let server = Server::start(&[]);
        let heap = open();
        let handle = alloc(&heap, 4096).expect("a buffer");
        let (status, said) = server.end(signal);
        assert_eq!(status, Some(0), "{signal}: {said}");
        assert!(said.contains("1 buffers, 4096 bytes"), "{signal}: {said}");
        assert!(!Path::new(NODE).exists(), "{signal}");
        // Who has the file still open gets an error, and does not hang.
        assert!(matches!(alloc(&heap, 4096), Err(Errno::ENOTCONN | Errno::ECONNABORTED)));
        assert!(memory_of(Path::new(NODE), handle).is_err());
    }
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn a_killed_server_leaves_memory_and_nothing_else() {
    let server = Server::start(&[]);
    let heap = open();
    let handle = alloc(&heap, 4096).expect("a buffer");
    let memory = File::from(memory_of(Path::new(NODE), handle).expect("its memory"));
    assert_eq!(server.end(Signal::SIGKILL).0, None);
    assert_eq!(alloc(&heap, 4096), Err(Errno::ENOTCONN));
    assert_eq!(memory.metadata().expect("a file").len(), 4096);
    drop(heap);
    assert!(!Path::new(NODE).exists());
    // The name is free again.
    let next = Server::start(&["--max-buffers", "1"]);
    let heap = open();
    assert_eq!(alloc(&heap, 4096), Ok(HANDLE_FIRST));
    assert_eq!(alloc(&heap, 4096), Err(Errno::EMFILE), "the quota");
    drop(next);
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn a_node_taken_away_is_an_error() {
    let mut server = Server::start(&[]);
    std::fs::write("/sys/class/cuse/dma_heap!served/abort", "1").expect("root");
    let (status, said) = server.wait();
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("the kernel took /dev/dma_heap/served away"), "{said}");
}

#[test]
#[ignore = "needs /dev/cuse: tools/vm/test-cuse"]
fn clear_errors() {
    let refused = |command: &mut Command, why: &str| {
        let (status, said) = output(command);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    };
    let serve = |name: &'static str| driftheap(&["serve", "--cuse", name]);
    refused(&mut serve("dma_heap/system"), "a heap of the kernel's own");
    refused(&mut serve("null"), "a device node or file");
    refused(&mut serve("dma_heap/../null"), "can't name a device");
    refused(serve(NAME).args(["--heap", "a", "--heap", "b"]), "a node is one heap");
    refused(serve(NAME).uid(65534).gid(65534), "/dev/cuse may not be opened");
    let _server = Server::start(&[]);
    refused(&mut serve(NAME), "another CUSE device");
}
