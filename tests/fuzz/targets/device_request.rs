//! Any bytes as a series of requests: the device's handler never panics, keeps its quotas and
//! never decides on memory that was not fetched.

use driftheap::device::{Action, Backing, Device, HeapConfig, Inode, Limits};

#[path = "request_bytes.rs"]
pub(crate) mod request_bytes;

/// Takes one input.
pub(crate) fn run(bytes: &[u8]) {
    let limits = Limits {
        page_bytes: 4096,
        bytes: 1 << 20,
        buffers: 16,
        sync_files: 16,
        timeline_fences: 64,
        fences: 8,
    };
    let mut device = Device::new(vec![HeapConfig::new("system")], limits);
    // Two timelines, so that objects of every kind can be named from the first request on.
    for _ in 0..2 {
        assert!(device.open_timeline("fuzz").is_ok());
    }
    let mut rest = bytes;
    while let Some((request, tail)) = request_bytes::decode(rest) {
        rest = tail;
        drop(device.wants(&request));
        let before = device.buffers().count();
        match device.ioctl(&request) {
            Action::Install(install) => {
                device.installed(install.object, Inode { dev: 1, ino: 2 }, Backing::Memfd);
            }
            Action::Fail(_) => assert_eq!(before, device.buffers().count()),
            Action::Reply(_) | Action::Wait(_) | Action::Native => {}
        }
        device.collect_fences();
        assert!(device.bytes() <= limits.bytes && device.buffers().count() <= limits.buffers);
    }
}
