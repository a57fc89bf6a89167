//! Which names a statement uses and which it defines.

use super::ast::{Name, Op, PageRef, ProcessRef};
use super::symbols::NameKind;

/// A name that a statement uses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use<'a> {
    /// A buffer.
    Buffer(&'a Name),
    /// A page of a buffer.
    BufferPage(&'a PageRef),
    /// An importer.
    Importer(&'a Name),
    /// A mapping of the process.
    Mapping(&'a Name),
    /// A page of a mapping of the process.
    MappingPage(&'a PageRef),
    /// A page that a device can reach.
    Target(&'a PageRef),
    /// A name of this kind, which all processes see.
    Global(&'a Name, NameKind),
    /// A process.
    Process(&'a ProcessRef),
}

/// The names that the statement uses, in the order they are written.
pub(super) fn uses(op: &Op) -> Vec<Use<'_>> {
    match op {
        Op::Mmap { buffer, importer, .. } | Op::Sync { buffer, importer, .. } => {
            let importer = importer.iter().map(Use::Importer);
            std::iter::once(Use::Buffer(buffer)).chain(importer).collect()
        }
        Op::MmapAnon { .. } => Vec::new(),
        Op::Munmap { mapping } | Op::AttachDmabufOf { mapping, .. } => vec![Use::Mapping(mapping)],
        Op::Mremap { old, .. } => vec![Use::Mapping(old)],
        Op::MunmapPage { at }
        | Op::Store { to: at, .. }
        | Op::Load { from: at, .. }
        | Op::Gup { at, .. }
        | Op::FollowPfn { at, .. } => vec![Use::MappingPage(at)],
        Op::FrameVector { at, .. } => at.iter().map(Use::MappingPage).collect(),
        Op::Unpin { pin } => vec![Use::Global(pin, NameKind::Pin)],
        Op::Attach { buffer, .. }
        | Op::Move { buffer, .. }
        | Op::Purge { buffer }
        | Op::Revoke { buffer }
        | Op::Alloc { buffer }
        | Op::Close { buffer } => vec![Use::Buffer(buffer)],
        Op::Detach { attachment }
        | Op::Map { attachment, .. }
        | Op::DmaBufPin { attachment }
        | Op::DmaBufUnpin { attachment } => vec![Use::Global(attachment, NameKind::Attachment)],
        Op::Unmap { table } | Op::Submit { table, .. } => {
            vec![Use::Global(table, NameKind::SgTable)]
        }
        Op::Signal { fence } => vec![Use::Global(fence, NameKind::Fence)],
        Op::DmaRead { from: at, .. } | Op::DmaWrite { to: at, .. } | Op::Prefetch { at } => {
            vec![Use::Target(at)]
        }
        Op::Fork { child } => vec![Use::Process(child)],
        Op::Await { label } => vec![Use::Global(label, NameKind::Label)],
        Op::EvictCache { at } => vec![Use::BufferPage(at)],
    }
}

/// The name that the statement defines, its label apart.
pub(super) fn defined(op: &Op) -> Option<(&Name, NameKind)> {
    Some(match op {
        Op::Mmap { mapping, .. } | Op::MmapAnon { mapping, .. } => (mapping, NameKind::Mapping),
        Op::Mremap { new, .. } => (new, NameKind::Mapping),
        Op::Load { register, .. } | Op::DmaRead { register, .. } => (register, NameKind::Register),
        Op::Gup { pin, .. } => (pin, NameKind::Pin),
        Op::FollowPfn { cache, .. } => (cache, NameKind::PfnCache),
        Op::FrameVector { vector, .. } => (vector, NameKind::FrameVector),
        Op::Attach { attachment, .. } | Op::AttachDmabufOf { attachment, .. } => {
            (attachment, NameKind::Attachment)
        }
        Op::Map { table, .. } => (table, NameKind::SgTable),
        Op::Submit { fence, .. } => (fence, NameKind::Fence),
        Op::Munmap { .. }
        | Op::MunmapPage { .. }
        | Op::Store { .. }
        | Op::Unpin { .. }
        | Op::Detach { .. }
        | Op::Unmap { .. }
        | Op::Signal { .. }
        | Op::DmaWrite { .. }
        | Op::Prefetch { .. }
        | Op::DmaBufPin { .. }
        | Op::DmaBufUnpin { .. }
        | Op::Sync { .. }
        | Op::Move { .. }
        | Op::Purge { .. }
        | Op::Revoke { .. }
        | Op::Alloc { .. }
        | Op::Close { .. }
        | Op::Fork { .. }
        | Op::Await { .. }
        | Op::EvictCache { .. } => return None,
    })
}
