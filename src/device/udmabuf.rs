//! /dev/udmabuf: dma-bufs over the pages of the caller's own memfd.
//!
//! Kernel counterpart: `udmabuf_create` (drivers/dma-buf/udmabuf.c), with its order of checks.
//!
//! **Differs from Linux**: get_user_pages on the buffer's mapping succeeds, as it does on the memfd,
//! where a udmabuf's mapping is VM_PFNMAP since 6.13 and EFAULT. How a transport maps what is not one
//! memfd from its first byte on is its own affair.

use rustix::io::Errno;

use super::buffer::Piece;
use super::{
    Action, Backing, Buffer, Device, Exporter, FdAnswer, FileFact, Inode, Install, Ioctl, Object,
    OpenMode, Resv, Want, Write,
};
use crate::model::{Cow, Life, Placement};
use crate::uapi::ioc_size;
use crate::uapi::udmabuf::{
    CREATE, CREATE_LIST, Create, CreateItem, CreateList, FLAGS_CLOEXEC, LIST_LIMIT, SEAL_SHRINK,
    SEALS_DENIED, SIZE_LIMIT_BYTES,
};

/// One piece of a buffer.
struct Item {
    memfd: u32,
    offset: u64,
    size: u64,
}

pub(super) fn wants(request: &Ioctl) -> Option<Want> {
    let fds = |items: &[Item]| {
        let fds = items.iter().map(|item| item.memfd.cast_signed()).collect();
        request.files.is_none().then_some(Want::Files(fds))
    };
    match (request.cmd, request.memory.as_slice()) {
        (CREATE | CREATE_LIST, []) => {
            let len = usize::try_from(ioc_size(request.cmd)).ok()?;
            Some(Want::Memory { addr: request.arg, len })
        }
        (CREATE, _) => fds(&items(request).ok()?.1),
        (CREATE_LIST, [head]) => {
            let count = CreateList::from_bytes(head)?.count;
            let len = usize::try_from(count).ok()?.checked_mul(CreateItem::SIZE)?;
            let addr = request.arg.checked_add(8)?;
            (count <= LIST_LIMIT && count > 0).then_some(Want::Memory { addr, len })
        }
        (CREATE_LIST, _) => fds(&items(request).ok()?.1),
        _ => None,
    }
}

/// Flags and items of either command.
fn items(request: &Ioctl) -> Result<(u32, Vec<Item>), Errno> {
    if request.cmd == CREATE {
        let arg = Create::from_bytes(request.payload()?).ok_or(Errno::FAULT)?;
        let item = Item { memfd: arg.memfd, offset: arg.offset, size: arg.size };
        return Ok((arg.flags, vec![item]));
    }
    let head = CreateList::from_bytes(request.payload()?).ok_or(Errno::FAULT)?;
    if head.count > LIST_LIMIT || head.count == 0 {
        return Err(Errno::INVAL);
    }
    let list = request.memory.get(1).ok_or(Errno::FAULT)?;
    let count = usize::try_from(head.count).map_err(|_| Errno::INVAL)?;
    let mut items = Vec::with_capacity(count);
    for bytes in list.chunks_exact(CreateItem::SIZE).take(count) {
        let item = CreateItem::from_bytes(bytes).ok_or(Errno::FAULT)?;
        items.push(Item { memfd: item.memfd, offset: item.offset, size: item.size });
    }
    if items.len() == count { Ok((head.flags, items)) } else { Err(Errno::FAULT) }
}

/// Checks alignment and the size limit; returns the buffer's size.
fn total(items: &[Item], page_bytes: u64) -> Result<u64, Errno> {
    let mut sum = 0u64;
    for item in items {
        if !item.offset.is_multiple_of(page_bytes) || !item.size.is_multiple_of(page_bytes) {
            return Err(Errno::INVAL);
        }
        sum = sum.checked_add(item.size).ok_or(Errno::INVAL)?;
        if sum > SIZE_LIMIT_BYTES {
            return Err(Errno::INVAL);
        }
    }
    if sum == 0 { Err(Errno::INVAL) } else { Ok(sum) }
}

/// `check_memfd_seals`, then the range.
fn check_memfd(item: &Item, fact: Option<&FileFact>) -> Result<Inode, Errno> {
    let Some(&FileFact::Memfd { seals, size_bytes, inode }) = fact else {
        return Err(Errno::BADFD);
    };
    if seals & SEAL_SHRINK == 0 || seals & SEALS_DENIED != 0 {
        return Err(Errno::INVAL);
    }
    let end = item.offset.checked_add(item.size).ok_or(Errno::INVAL)?;
    if end > size_bytes { Err(Errno::INVAL) } else { Ok(inode) }
}

impl Device {
    /// `udmabuf_create`, for both commands.
    pub(super) fn udmabuf_create(&mut self, request: &Ioctl) -> Result<Action, Errno> {
        let (flags, items) = items(request)?;
        let size_bytes = total(&items, self.limits().page_bytes)?;
        let mut pieces: Vec<Piece> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let inode = check_memfd(item, request.files().get(index))?;
            match pieces.last_mut() {
                _ if item.size == 0 => {}
                Some(last)
                    if last.inode == inode && last.offset + last.size_bytes == item.offset =>
                {
                    last.size_bytes += item.size;
                }
                _ => pieces.push(Piece { inode, offset: item.offset, size_bytes: item.size }),
            }
        }
        self.check_quota(size_bytes)?;
        let buffer = self.insert_buffer(Buffer {
            inode: pieces.first().map(|piece| piece.inode).unwrap_or_default(),
            exporter: Exporter::Udmabuf { mapped: false, pieces },
            exp_name: "udmabuf".into(),
            name: None,
            size_bytes,
            access: OpenMode::RDWR,
            backing: Backing::Foreign,
            pid: request.pid,
            placement: Placement::Vram,
            life: Life::Live,
            resv: Resv::default(),
            cow: Cow::Reject,
        });
        Ok(Action::Install(Install {
            object: Object::Buffer(buffer),
            cloexec: flags & FLAGS_CLOEXEC != 0,
            structure: Write { addr: request.arg, bytes: Vec::new() },
            answer: FdAnswer::Value,
        }))
    }
}
