//! The CUSE wire layer without a kernel: requests as bytes against the messages they must get.

#![allow(unused_crate_dependencies, reason = "a test uses few of the package's dependencies")]

mod cuse;

use cuse::{ALLOC, IN, NAME_LEN, SET_NAME, Toy, WAIT, WAKE};
use driftheap::device::cuse::{Channel, HANDLE_FIRST, Name, WireError};
use driftheap::uapi::fuse;

const UNRESTRICTED: u32 = fuse::IOCTL_UNRESTRICTED;

fn request(opcode: u32, unique: u64, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = u32::try_from(40 + body.len()).expect("small");
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

fn init() -> Vec<u8> {
    let init =
        fuse::CuseInitIn { major: 7, minor: 41, unused: 0, flags: fuse::CUSE_UNRESTRICTED_IOCTL };
    request(fuse::CUSE_INIT, 2, &[&init.to_bytes()])
}

fn open(unique: u64) -> Vec<u8> {
    request(fuse::OPEN, unique, &[&fuse::OpenIn { flags: 2, open_flags: 0 }.to_bytes()])
}

fn release(unique: u64, fh: u64) -> Vec<u8> {
    let release = fuse::ReleaseIn { fh, flags: 2, release_flags: 0, lock_owner: 0 };
    request(fuse::RELEASE, unique, &[&release.to_bytes()])
}

fn ioctl(unique: u64, cmd: u32, arg: u64, flags: u32, data: &[u8], out_size: u32) -> Vec<u8> {
    let in_size = u32::try_from(data.len()).expect("small");
    let ioctl = fuse::IoctlIn { fh: 1, flags, cmd, arg, in_size, out_size };
    request(fuse::IOCTL, unique, &[&ioctl.to_bytes(), data])
}

fn poll(unique: u64, kh: u64) -> Vec<u8> {
    let poll = fuse::PollIn { fh: 1, kh, flags: fuse::POLL_SCHEDULE_NOTIFY, events: IN };
    request(fuse::POLL, unique, &[&poll.to_bytes()])
}

fn interrupt(unique: u64, of: u64) -> Vec<u8> {
    request(fuse::INTERRUPT, unique, &[&fuse::InterruptIn { unique: of }.to_bytes()])
}

/// A message in words: `unique: error`, or `unique: result [iovecs] bytes`.
fn describe(message: &[u8]) -> String {
    let header = fuse::OutHeader::from_bytes(message).expect("a header");
    assert_eq!(usize::try_from(header.len), Ok(message.len()), "a length that lies");
    let body = &message[fuse::OutHeader::SIZE..];
    if header.unique == 0 {
        return format!("notify {} {:?}", header.error, body);
    }
    if header.error != 0 {
        return format!("{}: error {}", header.unique, -header.error);
    }
    format!("{}: {body:?}", header.unique)
}

fn describe_ioctl(message: &[u8]) -> String {
    let out = fuse::IoctlOut::from_bytes(&message[16..]).expect("an ioctl's reply");
    let rest = &message[32..];
    if out.flags & fuse::IOCTL_RETRY == 0 {
        return format!("result {} {rest:?}", out.result);
    }
    let pieces = rest.chunks(16).map(|piece| fuse::IoctlIovec::from_bytes(piece).expect("whole"));
    let pieces: Vec<_> = pieces.map(|iov| format!("{:#x}+{}", iov.base, iov.len)).collect();
    format!("retry in {} out {}: {}", out.in_iovs, out.out_iovs, pieces.join(" "))
}

fn started() -> Channel<Toy> {
    let mut channel = Channel::new("dma_heap/toy", Toy::default());
    channel.handle(&init()).expect("a request");
    channel.handle(&open(4)).expect("a request");
    channel
}

/// What the request gets, each message in words.
fn check(channel: &mut Channel<Toy>, request: &[u8], expect: &[&str]) {
    let messages = channel.handle(request).expect("a request");
    let got: Vec<_> = messages.iter().map(|message| describe(message)).collect();
    assert_eq!(got, expect);
}

/// What an ioctl's only reply says.
fn check_ioctl(channel: &mut Channel<Toy>, request: &[u8], expect: &str) {
    let messages = channel.handle(request).expect("a request");
    assert_eq!(messages.len(), 1);
    assert_eq!(describe_ioctl(&messages[0]), expect);
}

#[test]
fn init_names_the_device() {
    let mut channel = Channel::new("dma_heap/toy", Toy::default());
    assert!(!channel.started());
    check(&mut channel, &open(1), &["1: error 5"]); // EIO: nothing before CUSE_INIT
    let reply = channel.handle(&init()).expect("a request").concat();
    assert!(channel.started());
    assert_eq!(reply.len(), 16 + 72 + b"DEVNAME=dma_heap/toy\0".len());
    assert!(reply.ends_with(b"DEVNAME=dma_heap/toy\0"));
    let out = fuse::CuseInitOut::from_bytes(&reply[16..]).expect("whole");
    assert_eq!((out.major, out.minor, out.flags), (7, fuse::MINOR, fuse::CUSE_UNRESTRICTED_IOCTL));
}

#[test]
fn an_old_protocol_is_refused() {
    let mut channel = Channel::new("toy", Toy::default());
    let old = fuse::CuseInitIn { major: 7, minor: 10, unused: 0, flags: 0 };
    check(&mut channel, &request(fuse::CUSE_INIT, 2, &[&old.to_bytes()]), &["2: error 71"]); // EPROTO
    assert!(!channel.started());
}

#[test]
fn files_open_and_close() {
    let mut channel = started();
    check(&mut channel, &open(6), &["6: [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]);
    assert_eq!(channel.backend().files.len(), 2);
    let refused =
        request(fuse::OPEN, 8, &[&fuse::OpenIn { flags: 0o2002, open_flags: 0 }.to_bytes()]);
    check(&mut channel, &refused, &["8: error 16"]); // EBUSY
    check(&mut channel, &release(10, 2), &["10: []"]);
    assert_eq!(channel.backend().files.len(), 1);
}

#[test]
fn a_structure_is_fetched_and_written_back() {
    let mut channel = started();
    let arg = 0x7000;
    check_ioctl(
        &mut channel,
        &ioctl(6, ALLOC, arg, UNRESTRICTED, &[], 0),
        "retry in 1 out 1: 0x7000+24 0x7000+24",
    );
    // Room for the answer without the bytes, and the bytes without room, are asked for again.
    check_ioctl(
        &mut channel,
        &ioctl(6, ALLOC, arg, UNRESTRICTED, &[], 24),
        "retry in 1 out 1: 0x7000+24 0x7000+24",
    );
    check_ioctl(
        &mut channel,
        &ioctl(6, ALLOC, arg, UNRESTRICTED, &[1; 24], 0),
        "retry in 1 out 1: 0x7000+24 0x7000+24",
    );
    let mut expect = [1; 24];
    expect[8..12].copy_from_slice(&HANDLE_FIRST.to_ne_bytes());
    check_ioctl(
        &mut channel,
        &ioctl(6, ALLOC, arg, UNRESTRICTED, &[1; 24], 24),
        &format!("result 0 {expect:?}"),
    );
}

#[test]
fn a_restricted_ioctl_that_arrives_whole_is_answered() {
    let mut channel = started();
    let mut expect = [1; 24];
    expect[8..12].copy_from_slice(&HANDLE_FIRST.to_ne_bytes());
    check_ioctl(
        &mut channel,
        &ioctl(6, ALLOC, 0x7000, 0, &[1; 24], 24),
        &format!("result 0 {expect:?}"),
    );
    check(&mut channel, &ioctl(8, SET_NAME, 0x7000, 0, &[], 0), &["8: error 95"]); // EOPNOTSUPP
}

#[test]
fn a_string_is_fetched_up_to_its_page() {
    let mut channel = started();
    check_ioctl(
        &mut channel,
        &ioctl(6, SET_NAME, 0x7000, UNRESTRICTED, &[], 0),
        "retry in 1 out 0: 0x7000+32",
    );
    let near = 0x7ff8;
    check_ioctl(
        &mut channel,
        &ioctl(6, SET_NAME, near, UNRESTRICTED, &[], 0),
        "retry in 1 out 0: 0x7ff8+8",
    );
    check_ioctl(
        &mut channel,
        &ioctl(8, SET_NAME, near, UNRESTRICTED, b"name\0\0\0\0", 0),
        "result 0 []",
    );
    check_ioctl(&mut channel, &ioctl(10, NAME_LEN, 0, UNRESTRICTED, &[], 0), "result 4 []");
    check_ioctl(
        &mut channel,
        &ioctl(12, SET_NAME, near, UNRESTRICTED, b"longname", 0),
        "retry in 2 out 0: 0x7ff8+8 0x8000+24",
    );
    let mut text = b"longname indeed".to_vec();
    text.resize(32, 0);
    check_ioctl(&mut channel, &ioctl(14, SET_NAME, near, UNRESTRICTED, &text, 0), "result 0 []");
    check_ioctl(&mut channel, &ioctl(16, NAME_LEN, 0, UNRESTRICTED, &[], 0), "result 15 []");
    check(
        &mut channel,
        &ioctl(18, SET_NAME, near, UNRESTRICTED, &[b'x'; 32], 0),
        &["18: error 22"],
    ); // no terminator
}

#[test]
fn a_wait_ends_by_a_change_or_a_signal() {
    let mut channel = started();
    check(&mut channel, &ioctl(6, WAIT, 0, UNRESTRICTED, &[], 0), &[]);
    check(&mut channel, &ioctl(8, WAIT, 0, UNRESTRICTED, &[], 0), &[]);
    check(&mut channel, &interrupt(9, 6), &["6: error 4"]); // EINTR, to the waiter
    check(&mut channel, &interrupt(11, 6), &[]);
    let done = "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]";
    let seven = "[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]";
    check(
        &mut channel,
        &ioctl(12, WAKE, 0, UNRESTRICTED, &[], 0),
        &[&format!("12: {done}"), &format!("8: {seven}")],
    );
}

#[test]
fn a_poller_is_told_once() {
    let mut channel = started();
    check(&mut channel, &poll(6, 77), &["6: [0, 0, 0, 0, 0, 0, 0, 0]"]);
    let done = "8: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]";
    check(
        &mut channel,
        &ioctl(8, WAKE, 0, UNRESTRICTED, &[], 0),
        &[done, "notify 1 [77, 0, 0, 0, 0, 0, 0, 0]"],
    );
    check(&mut channel, &poll(10, 77), &["10: [1, 0, 0, 0, 0, 0, 0, 0]"]);
    check(&mut channel, &release(12, 1), &["12: []"]);
}

#[test]
fn a_closed_file_leaves_no_waiter() {
    let mut channel = started();
    check(&mut channel, &ioctl(6, WAIT, 0, UNRESTRICTED, &[], 0), &[]);
    check(&mut channel, &poll(8, 5), &["8: [0, 0, 0, 0, 0, 0, 0, 0]"]);
    check(&mut channel, &release(10, 1), &["10: []"]);
    check(&mut channel, &open(12), &["12: [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]);
    assert!(channel.progress().is_empty());
}

#[test]
fn what_a_heap_does_not_have_is_refused() {
    let mut channel = started();
    check(&mut channel, &request(fuse::READ, 6, &[&[0; 40]]), &["6: error 22"]);
    check(&mut channel, &request(fuse::WRITE, 8, &[&[0; 44]]), &["8: error 22"]);
    check(&mut channel, &request(9999, 10, &[]), &["10: error 38"]);
    check(&mut channel, &ioctl(12, 0x5401, 0, UNRESTRICTED, &[], 0), &["12: error 22"]); // TCGETS
}

/// Every request, cut at every length, with the length in its header right and wrong, is an
/// error or gets messages that are whole.
#[test]
fn cut_requests_do_no_harm() {
    let requests = [
        init(),
        open(4),
        release(6, 1),
        poll(8, 1),
        interrupt(9, 8),
        request(fuse::READ, 10, &[&[0; 40]]),
        ioctl(12, ALLOC, 0x7000, UNRESTRICTED, &[1; 24], 24),
        ioctl(14, SET_NAME, u64::MAX, UNRESTRICTED, &[0; 32], 0),
        ioctl(16, WAIT, 0, UNRESTRICTED, &[], 0),
        ioctl(18, u32::MAX, u64::MAX, UNRESTRICTED, &[], u32::MAX),
    ];
    let mut short = 0;
    for request in &requests {
        for len in 0..request.len() {
            let mut channel = started();
            let cut = &request[..len];
            let expect = if len < 40 {
                WireError::NoHeader(len)
            } else {
                WireError::Length { got: len, said: u32::try_from(request.len()).expect("small") }
            };
            assert_eq!(channel.handle(cut), Err(expect));
            if len >= 40 {
                let mut honest = cut.to_vec();
                honest[..4].copy_from_slice(&u32::try_from(len).expect("small").to_ne_bytes());
                let messages = channel.handle(&honest).expect("an envelope");
                short += messages
                    .iter()
                    .filter(|message| describe(message).ends_with("error 5"))
                    .count();
            }
        }
        let mut channel = started();
        channel.handle(request).expect("a whole request");
    }
    // One for each length at which a body lacks something.
    assert_eq!(short, 16 + 8 + 24 + 24 + 8 + (32 + 24) + (32 + 32) + 32 + 32);
}

/// A request with a bit flipped is answered or refused, never a panic, and every message is whole.
#[test]
fn flipped_bits_do_no_harm() {
    let requests = [
        init(),
        open(4),
        poll(8, 1),
        ioctl(12, ALLOC, 0x7000, UNRESTRICTED, &[1; 24], 24),
        ioctl(14, SET_NAME, 0x7ff8, UNRESTRICTED, &[0; 32], 0),
    ];
    for request in &requests {
        for bit in 0..request.len() * 8 {
            let mut flipped = request.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(messages) = started().handle(&flipped) {
                messages.iter().for_each(|message| drop(describe(message)));
            }
        }
    }
}

#[test]
fn names_that_the_kernel_would_change_are_refused() {
    for good in ["toy", "dma_heap/driftheap", "dma_heap/a-b.c_9"] {
        assert!(Name::new(good).is_ok(), "{good}");
    }
    let long = "a".repeat(201);
    for bad in [
        "",
        "/toy",
        "toy/",
        "a//b",
        "../toy",
        "a/./b",
        "a!b",
        "a b",
        "a\0b",
        "a=b",
        "\u{e9}",
        long.as_str(),
    ] {
        assert!(Name::new(bad).is_err(), "{bad}");
    }
}
