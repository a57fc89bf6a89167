//! The heap's node without a kernel: the handler's own answers, asked through the CUSE channel.

#![allow(unused_crate_dependencies, reason = "a test uses few of the package's dependencies")]

use std::sync::{Arc, Mutex};

use driftheap::device::cuse::{
    Backend, Call, Extent, HANDLE_FIRST, HandleSocket, HeapNode, IoctlReply, Name, NodeState,
    OPEN_HANDLE, OpenFile, Opener, memory_of,
};
use driftheap::device::transport::lock;
use driftheap::device::{Device, HeapConfig, Limits};
use driftheap::uapi::dma_heap::{ALLOC, AllocationData};
use driftheap::uapi::{dma_buf, sync_file};
use rustix::io::Errno;

type State = Arc<Mutex<NodeState>>;

fn node() -> (HeapNode, State) {
    let device = Device::new(vec![HeapConfig::new("toy")], Limits::default());
    let heap = device.heap("toy").expect("configured");
    let state = Arc::new(Mutex::new(NodeState::new(device, heap)));
    (HeapNode::new(Arc::clone(&state), || 0), state)
}

fn open(node: &mut HeapNode) -> OpenFile {
    open_as(node, 0)
}

fn open_as(node: &mut HeapNode, uid: u32) -> OpenFile {
    node.open(Opener { flags: 2, pid: 9, uid }).expect("a heap opens")
}

fn bytes(state: &State) -> u64 {
    lock(state).device.bytes()
}

fn call(file: OpenFile, cmd: u32, arg: u64, memory: &[&[u8]]) -> Call {
    Call { file, cmd, arg, memory: memory.iter().map(|piece| piece.to_vec()).collect(), pid: 9 }
}

fn ask(len: u64) -> [u8; 24] {
    AllocationData { len, fd: 0, fd_flags: 2, heap_flags: 0 }.to_bytes()
}

fn done(value: i32) -> IoctlReply {
    IoctlReply::Reply { value, writes: Vec::new() }
}

fn alloc(node: &mut HeapNode, file: OpenFile, len: u64) -> AllocationData {
    let request = call(file, ALLOC, 0x7000, &[&ask(len)]);
    assert_eq!(node.wants(&request), None);
    let IoctlReply::Reply { value: 0, writes } = node.ioctl(&request) else { panic!("refused") };
    AllocationData::from_bytes(&writes.concat()).expect("whole")
}

#[test]
fn alloc_answers_a_handle() {
    let (mut node, state) = node();
    let file = open(&mut node);
    let bare = call(file, ALLOC, 0x7000, &[]);
    assert_eq!(node.wants(&bare), Some(Extent { addr: 0x7000, len: 24 }));
    assert_eq!(node.outputs(&bare), [Extent { addr: 0x7000, len: 24 }]);
    let got = alloc(&mut node, file, 5000);
    assert_eq!(got, AllocationData { len: 5000, fd: HANDLE_FIRST, fd_flags: 2, heap_flags: 0 });
    assert_eq!(alloc(&mut node, file, 1).fd, HANDLE_FIRST + 1);
    assert_eq!(bytes(&state), 8192 + 4096);
    // A command that reads nothing back: the handle is made, and not told.
    let silent = call(file, 0x4018_4800, 0x7000, &[&ask(1)]);
    assert_eq!((node.outputs(&silent), node.ioctl(&silent)), (vec![], done(0)));
    let empty = call(file, ALLOC, 0x7000, &[&ask(0)]);
    assert_eq!(node.ioctl(&empty), IoctlReply::Fail(Errno::INVAL));
    assert_eq!(node.ioctl(&call(file, 0x5401, 0, &[])), IoctlReply::Fail(Errno::INVAL)); // TCGETS
}

#[test]
fn a_handle_goes_with_its_file_unless_opened() {
    let (mut node, state) = node();
    let (file, other) = (open(&mut node), open(&mut node));
    let kept = u64::from(alloc(&mut node, file, 4096).fd);
    alloc(&mut node, file, 4096);
    assert_eq!(node.ioctl(&call(other, OPEN_HANDLE, kept, &[])), done(0));
    node.release(file);
    assert_eq!(bytes(&state), 4096);
    // A second file is the same buffer, and keeps it.
    let third = open(&mut node);
    assert_eq!(node.ioctl(&call(third, OPEN_HANDLE, kept, &[])), done(0));
    node.release(other);
    assert_eq!(bytes(&state), 4096);
    node.release(third);
    assert_eq!(bytes(&state), 0);
    let late = open(&mut node);
    assert_eq!(node.ioctl(&call(late, OPEN_HANDLE, kept, &[])), IoctlReply::Fail(Errno::BADF));
}

#[test]
fn a_handle_is_its_users_own() {
    let (mut node, state) = node();
    let (mine, theirs, roots) =
        (open_as(&mut node, 7), open_as(&mut node, 8), open_as(&mut node, 0));
    let handle = alloc(&mut node, mine, 4096).fd;
    let take = |file| call(file, OPEN_HANDLE, u64::from(handle), &[]);
    assert_eq!(node.ioctl(&take(theirs)), IoctlReply::Fail(Errno::BADF));
    assert_eq!(node.ioctl(&take(roots)), done(0));
    let memory = |uid| lock(&state).memory(handle, uid).map(drop);
    assert_eq!((memory(8), memory(7), memory(0)), (Err(Errno::BADF), Ok(()), Ok(())));
}

#[test]
fn the_memory_comes_by_a_socket() {
    let (mut node, state) = node();
    let file = open(&mut node);
    let uid = rustix::process::geteuid().as_raw();
    let own = open_as(&mut node, uid);
    let handle = alloc(&mut node, own, 5000).fd;
    let name = format!("cuse-heap-test-{}", std::process::id());
    let socket = HandleSocket::serve(&Name::new(&name).expect("good"), Arc::clone(&state));
    assert!(socket.is_ok());
    let path = std::path::Path::new("/dev").join(&name);
    let memory = memory_of(&path, handle).expect("its memory");
    assert_eq!(rustix::fs::fstat(&memory).expect("a file").st_size, 8192);
    let again = memory_of(&path, handle).expect("its memory");
    let inode = |fd: &std::os::fd::OwnedFd| rustix::fs::fstat(fd).expect("a file").st_ino;
    assert_eq!(inode(&memory), inode(&again));
    let refused = memory_of(&path, handle + 1).expect_err("no such handle");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::BADF));
    let nobody = memory_of(std::path::Path::new("/dev/no-such-node"), handle);
    assert!(nobody.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused));
    node.release(file);
}

/// A sync file is a handle too, is taken where the kernel takes a descriptor, and tells of its
/// fences: the reply writes where the fetched argument says.
#[test]
fn sync_files_are_handles() {
    let (mut node, state) = node();
    let (heap, buffer, sync) = (open(&mut node), open(&mut node), open(&mut node));
    let handle = u64::from(alloc(&mut node, heap, 4096).fd);
    assert_eq!(node.ioctl(&call(buffer, OPEN_HANDLE, handle, &[])), done(0));
    let ask = [1_u32.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
    let export = call(buffer, dma_buf::EXPORT_SYNC_FILE, 0x7000, &[&ask]);
    let IoctlReply::Reply { value: 0, writes } = node.ioctl(&export) else { panic!("refused") };
    let number = u32::from_ne_bytes(writes.concat()[4..8].try_into().expect("four"));
    let import = |bytes: &[u8]| call(buffer, dma_buf::IMPORT_SYNC_FILE, 0x7000, &[bytes]);
    let good = import(&[1_u32.to_ne_bytes(), number.to_ne_bytes()].concat());
    assert_eq!(node.ioctl(&good), done(0));
    let descriptor = import(&[1_u32.to_ne_bytes(), 3_u32.to_ne_bytes()].concat());
    assert_eq!(node.ioctl(&descriptor), IoctlReply::Fail(Errno::INVAL));
    assert_eq!(node.ioctl(&call(sync, OPEN_HANDLE, u64::from(number), &[])), done(0));
    assert_eq!(node.poll(sync) & 1, 1);
    let mut info = [0; 56];
    info[40..44].copy_from_slice(&4_u32.to_ne_bytes()); // num_fences
    info[48..56].copy_from_slice(&0x9000_u64.to_ne_bytes());
    let bare = call(sync, sync_file::FILE_INFO, 0x7000, &[]);
    let whole = call(sync, sync_file::FILE_INFO, 0x7000, &[&info]);
    let (argument, fences) = (Extent { addr: 0x7000, len: 56 }, Extent { addr: 0x9000, len: 80 });
    assert_eq!(node.outputs(&bare), [argument]);
    assert_eq!(node.outputs(&whole), [argument, fences]);
    let IoctlReply::Reply { value: 0, writes } = node.ioctl(&whole) else { panic!("refused") };
    assert_eq!(writes.iter().map(Vec::len).collect::<Vec<_>>(), [56, 80]);
    for file in [heap, buffer, sync] {
        node.release(file);
    }
    assert_eq!(bytes(&state), 0);
}

#[test]
fn an_opened_handle_is_the_buffer() {
    let (mut node, state) = node();
    let (heap, file) = (open(&mut node), open(&mut node));
    let handle = u64::from(alloc(&mut node, heap, 4096).fd);
    assert_eq!(node.ioctl(&call(file, OPEN_HANDLE, 5, &[])), IoctlReply::Fail(Errno::BADF));
    assert_eq!(node.ioctl(&call(file, OPEN_HANDLE, handle, &[])), done(0));
    assert_eq!(node.ioctl(&call(file, OPEN_HANDLE, handle, &[])), IoctlReply::Fail(Errno::BUSY));
    node.release(heap);
    let near = 0x7ffc;
    let name = |memory: &[&[u8]]| call(file, dma_buf::SET_NAME_B, near, memory);
    assert_eq!(node.wants(&name(&[])), Some(Extent { addr: near, len: 4 }));
    assert_eq!(node.wants(&name(&[b"long"])), Some(Extent { addr: 0x8000, len: 28 }));
    assert_eq!(node.wants(&name(&[b"ab\0\0"])), None);
    assert_eq!(node.ioctl(&name(&[b"long", b"er\0......................."])), done(0));
    let named = lock(&state).device.buffers().next().and_then(|(_, buffer)| buffer.name.clone());
    assert_eq!(named.as_deref(), Some(b"longer".as_slice()));
    assert_eq!(node.ioctl(&name(&[b"long", &[b'x'; 28]])), IoctlReply::Fail(Errno::INVAL));
    let sync = 5_u64.to_ne_bytes(); // END of a read
    assert_eq!(node.ioctl(&call(file, dma_buf::SYNC, 0x7000, &[&sync])), done(0));
    assert_eq!(node.ioctl(&call(file, 0x5401, 0, &[])), IoctlReply::Fail(Errno::NOTTY));
    assert_eq!(node.poll(file) & 5, 5);
    node.release(file);
    assert_eq!(bytes(&state), 0);
}

#[test]
fn handles_are_bounded() {
    let (mut node, state) = node();
    let file = open(&mut node);
    for _ in 0..1024 {
        if matches!(node.ioctl(&call(file, ALLOC, 0x7000, &[&ask(1)])), IoctlReply::Fail(_)) {
            break; // a smaller quota of the device's own
        }
    }
    let full = bytes(&state);
    let refused = node.ioctl(&call(file, ALLOC, 0x7000, &[&ask(1)]));
    assert_eq!(refused, IoctlReply::Fail(Errno::MFILE));
    assert_eq!(bytes(&state), full);
}
