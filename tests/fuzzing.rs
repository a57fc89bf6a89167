//! The fuzz targets on stable: the functions that `cargo fuzz` drives (tests/fuzz), over inputs from
//! a seed.
//!
//! The inputs are the same each time. DRIFTHEAP_FUZZ_ROUNDS sets how many; DRIFTHEAP_FUZZ_SEED what
//! they are made from.

#![allow(unused_crate_dependencies, reason = "a test uses few of the package's dependencies")]

use driftheap::device::{BufferId, FileFact, HeapId, Inode, Ioctl, Object, SyncFileId, TimelineId};
use driftheap::uapi::{dma_buf, dma_heap, fuse, sw_sync, sync_file, udmabuf};

#[path = "fuzz/targets/cuse_request.rs"]
mod cuse_request;
#[path = "fuzz/targets/device_request.rs"]
mod device_request;
use device_request::request_bytes;
#[path = "fuzz/targets/litmus_parse.rs"]
mod litmus_parse;

/// xorshift64*: the same seed gives the same inputs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % bound
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    /// Mostly small, sometimes at an edge, sometimes anything.
    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.pick(&[0, 1, 2, 3, 4, 7, 8, 4095, 4096, 4097]),
            1 => self.pick(&[u64::MAX, 1 << 31, (1 << 32) - 1, 1 << 63, 0x4000_0000, 0x4000_0001]),
            2 => u64::try_from(self.below(64)).unwrap_or(0),
            _ => self.next(),
        }
    }
    fn word(&mut self) -> u32 {
        u32::try_from(self.number() & 0xffff_ffff).unwrap_or(0)
    }
    /// Words that a structure might be made of.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            bytes.extend(self.word().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
    /// Overwrites, doubles or drops a few bytes.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len().max(1));
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                _ => {
                    let byte = self.next().to_le_bytes()[7];
                    if let Some(old) = bytes.get_mut(at) {
                        *old = byte;
                    }
                }
            }
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn check(rounds: u64, make: impl Fn(&mut Random) -> Vec<u8>, target: fn(&[u8])) {
    let seed = setting("DRIFTHEAP_FUZZ_SEED", 1).max(1);
    let rounds = setting("DRIFTHEAP_FUZZ_ROUNDS", rounds);
    for round in 0..rounds {
        let input = make(&mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (round + 1)));
        let run = std::panic::AssertUnwindSafe(|| target(&input));
        if let Err(panic) = std::panic::catch_unwind(run) {
            let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-input");
            let kept = std::fs::write(&path, &input).map(|()| path);
            eprintln!("seed {seed}, round {round}: the input is in {kept:?}");
            std::panic::resume_unwind(panic);
        }
    }
    eprintln!("{rounds} inputs from seed {seed}");
}

const COMMANDS: [u32; 16] = [
    dma_heap::ALLOC,
    dma_heap::ALLOC,
    dma_heap::ALLOC,
    dma_buf::SYNC,
    dma_buf::SET_NAME_A,
    dma_buf::SET_NAME_B,
    dma_buf::EXPORT_SYNC_FILE,
    dma_buf::IMPORT_SYNC_FILE,
    sync_file::MERGE,
    sync_file::FILE_INFO,
    sync_file::SET_DEADLINE,
    sw_sync::CREATE_FENCE,
    sw_sync::INC,
    udmabuf::CREATE,
    udmabuf::CREATE_LIST,
    0x5401,
];

/// A command of the device's, or one that is nearly that.
fn command(random: &mut Random) -> u32 {
    let command = random.pick(&COMMANDS);
    match random.below(8) {
        0 => random.word(),
        1 => command ^ 1 << random.below(32),
        _ => command,
    }
}

fn object(random: &mut Random) -> Object {
    let id = random.number() % 24;
    match random.below(5) {
        0 => Object::Heap(HeapId(id % 2)),
        1 => Object::Udmabuf,
        2 => Object::Timeline(TimelineId(id)),
        3 => Object::SyncFile(SyncFileId(id)),
        _ => Object::Buffer(BufferId(id)),
    }
}

fn device_input(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(24) {
        let mut request = Ioctl::new(object(random), command(random), random.number());
        request.now_ns = random.number();
        for _ in 0..random.below(3) {
            let len = random.pick(&[0, 4, 8, 16, 24, 24, 31, 32, 40, 48, 56, 72]);
            let piece = random.bytes(len);
            request.memory.push(piece);
        }
        let facts = (0..random.below(3)).map(|_| match random.below(4) {
            0 => FileFact::Bad,
            1 => FileFact::Other,
            2 => FileFact::Memfd {
                seals: random.word() % 32,
                size_bytes: random.number(),
                inode: Inode::default(),
            },
            _ => FileFact::Ours(object(random)),
        });
        let facts: Vec<FileFact> = facts.collect();
        request.files = (random.below(4) > 0).then_some(facts);
        bytes.extend(request_bytes::encode(&request));
    }
    if random.below(4) == 0 {
        random.spoil(&mut bytes);
    }
    bytes
}

fn litmus_input(random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(driftheap::suite::TESTS).text.as_bytes().to_vec();
    let other = random.pick(driftheap::suite::TESTS).text.as_bytes();
    if random.below(3) == 0 {
        // The end of another test on the beginning of this one.
        bytes.truncate(random.below(bytes.len()));
        bytes.extend_from_slice(&other[random.below(other.len())..]);
    }
    random.spoil(&mut bytes);
    bytes
}

/// One message of /dev/cuse, with the body that its opcode wants or nearly that.
fn cuse_message(random: &mut Random, unique: u64) -> Vec<u8> {
    let fh = 1 + random.number() % 8;
    let (opcode, body) = match random.below(8) {
        0 | 1 => (fuse::OPEN, fuse::OpenIn { flags: 2, open_flags: 0 }.to_bytes().to_vec()),
        2 => (
            fuse::RELEASE,
            fuse::ReleaseIn { fh, flags: 0, release_flags: 0, lock_owner: 0 }.to_bytes().to_vec(),
        ),
        3 => {
            let poll = fuse::PollIn { fh, kh: fh, flags: random.word() & 1, events: 5 };
            (fuse::POLL, poll.to_bytes().to_vec())
        }
        4 => {
            let interrupt = fuse::InterruptIn { unique: random.number() % 32 };
            (fuse::INTERRUPT, interrupt.to_bytes().to_vec())
        }
        _ => {
            let open_handle = random.below(4) == 0;
            let cmd =
                if open_handle { driftheap::device::cuse::OPEN_HANDLE } else { command(random) };
            let first = u64::from(driftheap::device::cuse::HANDLE_FIRST);
            let arg = if open_handle { first + random.number() % 4 } else { random.number() };
            let data = match random.below(3) {
                0 => Vec::new(),
                1 => [4096_u64, 2 << 32, 0].iter().flat_map(|word| word.to_le_bytes()).collect(),
                _ => {
                    let len = random.pick(&[4, 8, 16, 24, 32, 48, 56]);
                    random.bytes(len)
                }
            };
            let in_size = u32::try_from(data.len()).unwrap_or(0);
            let flags = random.word() & 3;
            let out_size = random.pick(&[0, 8, 24, 48, 56, 136, 4096]);
            let ioctl = fuse::IoctlIn { fh, flags, cmd, arg, in_size, out_size };
            (fuse::IOCTL, [ioctl.to_bytes().as_slice(), &data].concat())
        }
    };
    let len = u32::try_from(fuse::InHeader::SIZE + body.len()).unwrap_or(0);
    let header = fuse::InHeader {
        len,
        opcode,
        unique,
        nodeid: 0,
        uid: 0,
        gid: 0,
        pid: 9,
        total_extlen: 0,
        padding: 0,
    };
    [header.to_bytes().as_slice(), &body].concat()
}

fn cuse_input(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unique in 2..2 + u64::try_from(random.below(40)).unwrap_or(0) {
        let mut message = cuse_message(random, unique);
        if random.below(16) == 0 {
            random.spoil(&mut message);
        }
        let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
        bytes.extend(len.to_le_bytes());
        bytes.extend(message);
    }
    bytes
}

#[test]
fn device_requests() {
    check(100_000, device_input, device_request::run);
}

#[test]
fn litmus_texts() {
    check(10_000, litmus_input, litmus_parse::run);
}

#[test]
fn cuse_messages() {
    check(50_000, cuse_input, cuse_request::run);
}

/// The inputs reach what they are for: most messages are understood, and buffers get made.
#[test]
fn the_inputs_get_far() {
    let mut random = Random(7);
    let mut requests = 0;
    for _ in 0..100 {
        let input = device_input(&mut random);
        let mut rest = input.as_slice();
        while let Some((_, tail)) = request_bytes::decode(rest) {
            rest = tail;
            requests += 1;
        }
    }
    assert!(requests > 500, "{requests} requests in 100 inputs");
}
