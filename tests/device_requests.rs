//! The request handler alone: recorded requests replayed, truncated at every length and mutated.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use driftheap::device::buffer::MmapArgs;
use driftheap::device::{
    Action, Backing, Device, FdAnswer, FileFact, HeapConfig, Inode, Ioctl, Limits, Object,
};
use driftheap::uapi::dma_buf::{self, SyncFileArg};
use driftheap::uapi::dma_heap::{ALLOC, AllocationData};
use driftheap::uapi::sw_sync::{CREATE_FENCE, CreateFence, INC};
use driftheap::uapi::sync_file::{FILE_INFO, FileInfo, MERGE, MergeData};
use driftheap::uapi::udmabuf::{CREATE, Create};
use rustix::io::Errno;

#[path = "fuzz/targets/request_bytes.rs"]
mod request_bytes;
use request_bytes::{decode, encode};

fn device() -> (Device, Object) {
    let limits = Limits { buffers: 64, bytes: 1 << 24, sync_files: 64, ..Limits::default() };
    let device = Device::new(vec![HeapConfig::new("system")], limits);
    let heap = Object::Heap(device.heap("system").unwrap());
    (device, heap)
}

/// Makes the object of an [`Action::Install`] exist, as a transport does.
fn install(device: &mut Device, request: &Ioctl) -> Object {
    let Action::Install(install) = device.ioctl(request) else { panic!("refused: {request:?}") };
    device.installed(install.object, Inode { dev: 1, ino: 7 }, Backing::Memfd);
    install.object
}

fn alloc(heap: Object, len: u64) -> Ioctl {
    let ask = AllocationData { len, fd: 0, fd_flags: 2, heap_flags: 0 };
    Ioctl::new(heap, ALLOC, 0x1000).with_memory(ask.to_bytes())
}

fn fence(timeline: Object, value: u32) -> Ioctl {
    let ask = CreateFence { value, name: [0; 32], fence: 0 };
    Ioctl::new(timeline, CREATE_FENCE, 0x1000).with_memory(ask.to_bytes())
}

/// One session: every kind of request on every kind of object, in bytes.
fn recording() -> (Vec<Vec<u8>>, Device) {
    let (mut device, heap) = device();
    let timeline = Object::Timeline(device.open_timeline("test").unwrap());
    let mut log = Vec::new();
    let mut record = |device: &mut Device, request: &Ioctl| {
        log.push(encode(request));
        device.ioctl(request)
    };
    record(&mut device, &alloc(heap, 5000));
    let buffer = install(&mut device, &alloc(heap, 4096));
    let sync = install(&mut device, &fence(timeline, 1));
    let arg = SyncFileArg { flags: 3, fd: 5 };
    let facts = vec![FileFact::Ours(sync)];
    let memfd = FileFact::Memfd { seals: 2, size_bytes: 8192, inode: Inode { dev: 1, ino: 9 } };
    let create = Create { memfd: 3, flags: 0, offset: 0, size: 8192 };
    let merge = MergeData { name: [b'm'; 32], fd2: 5, fence: 0, flags: 0, pad: 0 };
    let info = FileInfo {
        name: [0; 32],
        status: 0,
        flags: 0,
        num_fences: 4,
        pad: 0,
        sync_fence_info: 0x2000,
    };
    for request in [
        Ioctl::new(buffer, dma_buf::SYNC, 0x1000).with_memory(3u64.to_ne_bytes()),
        Ioctl::new(buffer, dma_buf::SET_NAME_B, 0x1000).with_memory(*b"camera"),
        Ioctl::new(buffer, dma_buf::EXPORT_SYNC_FILE, 0x1000).with_memory(arg.to_bytes()),
        Ioctl::new(buffer, dma_buf::IMPORT_SYNC_FILE, 0x1000)
            .with_memory(arg.to_bytes())
            .with_files(facts.clone()),
        Ioctl::new(sync, MERGE, 0x1000).with_memory(merge.to_bytes()).with_files(facts),
        Ioctl::new(sync, FILE_INFO, 0x1000).with_memory(info.to_bytes()),
        Ioctl::new(buffer, dma_buf::SYNC, 0x1000).with_memory(1u64.to_ne_bytes()),
        fence(timeline, 9),
        Ioctl::new(timeline, INC, 0x1000).with_memory(10u32.to_ne_bytes()),
        Ioctl::new(Object::Udmabuf, CREATE, 0x1000)
            .with_memory(create.to_bytes())
            .with_files(vec![memfd]),
        Ioctl::new(heap, 0x5401, 0x1000),
    ] {
        record(&mut device, &request);
    }
    (log, device)
}

#[test]
fn requests_survive_their_byte_form() {
    let (log, _) = recording();
    assert_eq!(log.len(), 12);
    for bytes in log {
        let (request, rest) = decode(&bytes).unwrap();
        assert!(rest.is_empty());
        assert_eq!(encode(&request), bytes);
    }
}

#[test]
fn truncated_requests_are_no_requests() {
    for bytes in recording().0 {
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), None, "{len} of {} bytes", bytes.len());
        }
    }
}

/// A transport that fetched less than was asked for gets EFAULT or another errno, never a
/// decision on bytes that are not there.
#[test]
fn truncated_memory_is_refused() {
    let (log, mut device) = recording();
    let mut refused = 0;
    for bytes in log {
        let (whole, _) = decode(&bytes).unwrap();
        let Some(piece) = whole.memory.first() else { continue };
        let text = matches!(whole.cmd, dma_buf::SET_NAME_A | dma_buf::SET_NAME_B);
        for len in (0..piece.len()).filter(|_| !text) {
            let mut request = whole.clone();
            request.memory[0].truncate(len);
            let before = device.buffers().count();
            let action = device.ioctl(&request);
            assert!(matches!(action, Action::Fail(_)), "{len} bytes of {whole:?}: {action:?}");
            refused += 1;
            assert_eq!(device.buffers().count(), before);
        }
    }
    assert!(refused > 200, "{refused}");
}

#[test]
fn the_argument_is_copied_once() {
    let (mut device, heap) = device();
    let mut request = alloc(heap, 4096);
    assert_eq!(device.wants(&request), None, "nothing more is fetched");
    let Action::Install(install) = device.ioctl(&request) else { panic!() };
    assert_eq!(install.answer, FdAnswer::Field(8));
    assert_eq!(install.structure.bytes, request.memory[0], "only the fd field changes");
    request.memory.clear();
    assert!(device.wants(&request).is_some());
    assert_eq!(device.ioctl(&request), Action::Fail(Errno::FAULT));
}

#[test]
fn a_failed_installation_leaves_nothing() {
    let (mut device, heap) = device();
    let Action::Install(install) = device.ioctl(&alloc(heap, 4096)) else { panic!() };
    assert_eq!(device.bytes(), 4096);
    device.abandon(install.object);
    assert_eq!((device.bytes(), device.stats.buffers), (0, 0));
}

#[test]
fn quotas() {
    let (mut device, heap) = device();
    for _ in 0..64 {
        install(&mut device, &alloc(heap, 4096));
    }
    assert_eq!(device.ioctl(&alloc(heap, 4096)), Action::Fail(Errno::MFILE));
    let (mut device, heap) = self::device();
    assert_eq!(device.ioctl(&alloc(heap, (1 << 24) + 1)), Action::Fail(Errno::NOMEM));
    install(&mut device, &alloc(heap, 1 << 24));
    assert_eq!(device.ioctl(&alloc(heap, 1)), Action::Fail(Errno::NOMEM));
}

proptest::proptest! {
    /// No request, however mutated, panics the handler, and its quotas hold.
    #[test]
    fn mutated_requests(
        seed in proptest::collection::vec((0usize..12, 0usize..400, 0u8..=255), 1..60),
    ) {
        let (log, mut device) = recording();
        for (index, at, byte) in seed {
            let mut bytes = log[index].clone();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Some((request, _)) = decode(&bytes) {
                drop(device.wants(&request));
                if let Action::Install(install) = device.ioctl(&request) {
                    device.installed(install.object, Inode { dev: 1, ino: 8 }, Backing::Memfd);
                }
            }
            device.collect_fences();
        }
        let sum: u64 = device.buffers().map(|(_, buffer)| buffer.size_bytes).sum();
        assert_eq!(device.bytes(), sum, "the running total is the sum");
        assert!(sum <= 1 << 24);
        assert!(device.buffers().count() <= 64);
    }
}

/// The size of a page is the machine's, and the largest that arm64 has need not be this one's.
#[test]
fn sizes_and_offsets_are_of_the_pages_that_the_device_is_told() {
    for page in [4096, 16_384, 65_536] {
        let limits = Limits { page_bytes: page, ..Limits::default() };
        let mut device = Device::new(vec![HeapConfig::new("system")], limits);
        let heap = Object::Heap(device.heap("system").unwrap());
        let mut size = |len| {
            let Object::Buffer(id) = install(&mut device, &alloc(heap, len)) else { panic!() };
            device.buffer(id).unwrap().size_bytes
        };
        assert_eq!([1, page, page + 1].map(&mut size), [page, page, 2 * page]);

        let Object::Buffer(id) = install(&mut device, &alloc(heap, 2 * page)) else { panic!() };
        let map = |len, offset| {
            let args = MmapArgs { len, prot: 3, flags: 1, offset };
            device.buffer(id).unwrap().mmap(args, page)
        };
        assert_eq!(map(2 * page, 0), Ok(()));
        assert_eq!(map(1, page), Ok(()), "it is rounded up");
        assert_eq!(map(page + 1, page), Err(Errno::INVAL), "and ends behind the buffer then");
        assert_eq!(map(page / 2, page / 2), Err(Errno::INVAL), "no offset of a page");
        assert_eq!(map(u64::MAX - page / 2, 0), Err(Errno::NOMEM), "rounded up it is 0");

        let mut udmabuf = |offset, size| {
            let create = Create { memfd: 3, flags: 0, offset, size };
            let inode = Inode { dev: 1, ino: 9 };
            let fact = FileFact::Memfd { seals: 2, size_bytes: 4 * page, inode };
            let request = Ioctl::new(Object::Udmabuf, CREATE, 0x1000)
                .with_memory(create.to_bytes())
                .with_files(vec![fact]);
            !matches!(device.ioctl(&request), Action::Fail(Errno::INVAL))
        };
        assert!(udmabuf(page, 3 * page));
        assert!(!udmabuf(page / 2, page) && !udmabuf(0, page / 2));
    }
}

/// A device that adds its next fence before the last one signals keeps nobody waiting for ever.
#[test]
fn sync_waits_for_the_fences_that_it_found() {
    let (mut device, heap) = device();
    let buffer = install(&mut device, &alloc(heap, 4096));
    let timeline = Object::Timeline(device.open_timeline("isp").unwrap());
    let start = || Ioctl::new(buffer, dma_buf::SYNC, 0).with_memory(3_u64.to_ne_bytes());
    let add = |device: &mut Device, value| {
        let file = install(device, &fence(timeline, value));
        let arg = SyncFileArg { flags: u32::try_from(dma_buf::SYNC_WRITE).unwrap(), fd: 9 };
        let import = Ioctl::new(buffer, dma_buf::IMPORT_SYNC_FILE, 0).with_memory(arg.to_bytes());
        let import = import.with_files(vec![FileFact::Ours(file)]);
        assert!(matches!(device.ioctl(&import), Action::Reply(_)));
    };
    add(&mut device, 1);
    let Action::Wait(first) = device.ioctl(&start()) else { panic!("nothing to wait for") };
    add(&mut device, 2);
    let Object::Timeline(id) = timeline else { panic!("a timeline") };
    device.advance(id, 1, 7).unwrap();
    assert!(device.fences().all_signalled(&first));
    let waited = Ioctl { has_waited: true, ..start() };
    assert!(matches!(device.ioctl(&waited), Action::Reply(_)), "it has waited");
    assert!(
        matches!(device.ioctl(&start()), Action::Wait(_)),
        "who comes now waits for the second"
    );
}
