//! A small device for the CUSE tests: each ioctl is one way in which memory travels.

use std::collections::BTreeMap;

use driftheap::device::cuse::{
    Backend, Call, Extent, HANDLE_FIRST, IoctlReply, OpenFile, Opener, text_extents,
};
use driftheap::uapi::{IOC_READ, IOC_WRITE, ioc, ioc_dir, ioc_nr, ioc_size};
use rustix::io::Errno;

/// DMA_HEAP_IOCTL_ALLOC: 24 bytes in and back, the handle in the middle.
pub(crate) const ALLOC: u32 = ioc(IOC_READ | IOC_WRITE, b'H', 0, 24);
/// DMA_BUF_SET_NAME_B: the argument points to a string that the command's size says nothing of.
pub(crate) const SET_NAME: u32 = ioc(IOC_WRITE, b'b', 1, 8);
/// Returns the length of the name.
pub(crate) const NAME_LEN: u32 = ioc(0, b'T', 2, 0);
/// Waits until [`WAKE`].
pub(crate) const WAIT: u32 = ioc(0, b'T', 3, 0);
/// Ends each [`WAIT`] and makes every file readable.
pub(crate) const WAKE: u32 = ioc(0, b'T', 4, 0);
/// Ends the server at once.
pub(crate) const DIE: u32 = ioc(0, b'T', 5, 0);
/// How many files are open.
pub(crate) const OPEN_FILES: u32 = ioc(0, b'T', 6, 0);
/// Room for a name, with its terminator.
pub(crate) const NAME_BYTES: u32 = 32;

/// POLLIN.
pub(crate) const IN: u32 = 1;

/// The device.
#[derive(Debug, Default)]
pub(crate) struct Toy {
    next: u64,
    /// Name and handles given out, by open file.
    pub(crate) files: BTreeMap<OpenFile, (Vec<u8>, u32)>,
    woken: bool,
}

impl Backend for Toy {
    fn open(&mut self, opener: Opener) -> Result<OpenFile, Errno> {
        // O_APPEND on a device means nothing: here it is refused, so that a refusal can be seen.
        if opener.flags & 0o2000 != 0 {
            return Err(Errno::BUSY);
        }
        self.next += 1;
        self.files.insert(OpenFile(self.next), (Vec::new(), 0));
        Ok(OpenFile(self.next))
    }

    fn wants(&self, call: &Call) -> Option<Extent> {
        if call.cmd == SET_NAME {
            let (first, rest) = text_extents(call.arg, NAME_BYTES);
            return match call.memory.as_slice() {
                [] => Some(first),
                [text] if !text.contains(&0) => rest,
                _ => None,
            };
        }
        let len = ioc_size(call.cmd);
        let copied_in = ioc_dir(call.cmd) & IOC_WRITE != 0 && len > 0;
        (copied_in && call.memory.is_empty()).then_some(Extent { addr: call.arg, len })
    }

    fn ioctl(&mut self, call: &Call) -> IoctlReply {
        let open = self.files.len();
        let Some((name, handles)) = self.files.get_mut(&call.file) else {
            return IoctlReply::Fail(Errno::BADF);
        };
        let value = match call.cmd {
            SET_NAME => {
                let text = call.memory.concat();
                let Some(end) = text.iter().position(|&byte| byte == 0) else {
                    return IoctlReply::Fail(Errno::INVAL);
                };
                *name = text[..end].to_vec();
                0
            }
            NAME_LEN => name.len(),
            OPEN_FILES => open,
            WAIT if !self.woken => return IoctlReply::Wait,
            WAIT => 7,
            WAKE => {
                self.woken = true;
                0
            }
            DIE => std::process::exit(0),
            cmd if ioc_nr(cmd) == 0 && ioc_dir(cmd) == IOC_READ | IOC_WRITE => {
                let mut data = call.memory.concat();
                if data.len() >= 12 {
                    data[8..12].copy_from_slice(&(HANDLE_FIRST + *handles).to_ne_bytes());
                }
                *handles += 1;
                return IoctlReply::Reply { value: 0, writes: vec![data] };
            }
            _ => return IoctlReply::Fail(Errno::INVAL),
        };
        i32::try_from(value).map_or(IoctlReply::Fail(Errno::OVERFLOW), |value| IoctlReply::Reply {
            value,
            writes: Vec::new(),
        })
    }

    fn poll(&mut self, _file: OpenFile) -> u32 {
        if self.woken { IN } else { 0 }
    }

    fn release(&mut self, file: OpenFile) {
        self.files.remove(&file);
    }
}
