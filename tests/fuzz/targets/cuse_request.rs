//! Any bytes as a series of messages from /dev/cuse: the channel and the heap behind it never
//! panic, answer with envelopes that are true, keep their quotas and give everything back.

use std::sync::{Arc, Mutex};

use driftheap::device::cuse::{Channel, HeapNode, NodeState};
use driftheap::device::transport::lock;
use driftheap::device::{Device, HeapConfig, Limits};
use driftheap::uapi::fuse::{
    CUSE_INIT, CUSE_UNRESTRICTED_IOCTL, CuseInitIn, InHeader, OutHeader, RELEASE, ReleaseIn,
};

/// Files of which the last message of each series closes every one that can be open.
const FILES_MAX: u64 = 64;

/// A request's envelope.
fn header(opcode: u32, unique: u64, body: usize) -> InHeader {
    let len = u32::try_from(InHeader::SIZE + body).expect("small");
    InHeader { len, opcode, unique, nodeid: 0, uid: 0, gid: 0, pid: 9, total_extlen: 0, padding: 0 }
}

/// Takes one input: messages, each with its length in two bytes before it.
pub(crate) fn run(bytes: &[u8]) {
    let limits = Limits { bytes: 1 << 20, buffers: 16, ..Limits::default() };
    let device = Device::new(vec![HeapConfig::new("system")], limits);
    let heap = device.heap("system").expect("configured");
    let state = Arc::new(Mutex::new(NodeState::new(device, heap)));
    let mut channel = Channel::new("dma_heap/fuzz", HeapNode::new(Arc::clone(&state), || 0));
    let init = CuseInitIn { major: 7, minor: 41, unused: 0, flags: CUSE_UNRESTRICTED_IOCTL };
    let init =
        [header(CUSE_INIT, 1, CuseInitIn::SIZE).to_bytes().as_slice(), &init.to_bytes()].concat();
    assert!(channel.handle(&init).is_ok() && channel.started());
    let mut rest = bytes;
    for _ in 0..FILES_MAX {
        let Some((len, tail)) = rest.split_first_chunk() else { break };
        let (message, tail) = tail.split_at(usize::from(u16::from_le_bytes(*len)).min(tail.len()));
        rest = tail;
        for reply in channel.handle(message).unwrap_or_default() {
            let header = OutHeader::from_bytes(&reply).expect("a reply has an envelope");
            assert_eq!(usize::try_from(header.len), Ok(reply.len()));
        }
        let device = &lock(&state).device;
        assert!(device.bytes() <= limits.bytes && device.buffers().count() <= limits.buffers);
    }
    for fh in 1..=FILES_MAX {
        let release = ReleaseIn { fh, flags: 0, release_flags: 0, lock_owner: 0 };
        let envelope = header(RELEASE, fh + 1000, ReleaseIn::SIZE);
        let message = [envelope.to_bytes().as_slice(), &release.to_bytes()].concat();
        assert!(channel.handle(&message).is_ok());
    }
    assert_eq!(lock(&state).device.bytes(), 0, "every buffer went with its files");
}
