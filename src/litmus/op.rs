//! The statements: what a process can do in one line, how that is written, and which names are in it.

use std::fmt;

pub use crate::model::Usage as FenceUsage;

use super::ast::{Name, PageRef, Placement, ProcessRef};
use super::symbols::NameKind;
use super::words::words;

/// What a statement does. The grammar is in the documentation of [the module](super).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `mmap V = BUF SHARING PROT [importer NAME|node] [pages=N] [offset=N]`
    Mmap {
        /// The mapping it makes.
        mapping: Name,
        /// What is mapped.
        buffer: Name,
        /// `MAP_SHARED` or `MAP_PRIVATE`.
        sharing: Sharing,
        /// `PROT_READ`, `PROT_WRITE` or both.
        protection: Protection,
        /// Map through this importer's file instead of the dma-buf's.
        importer: Option<Name>,
        /// Map through the exporter's device node (a fake offset in the DRM node's file) instead of the
        /// dma-buf's file; never with an importer.
        node: bool,
        /// Length; the rest of the buffer behind `offset` if not given.
        pages: Option<u8>,
        /// First page; 0 if not given.
        offset: Option<u8>,
    },
    /// `mmap V = anon private PROT [pages=N]`
    MmapAnon {
        /// The mapping it makes.
        mapping: Name,
        /// Never [`Protection::Write`].
        protection: Protection,
        /// Length; 1 if not given.
        pages: Option<u8>,
    },
    /// `munmap V`
    Munmap {
        /// The mapping that goes, whole.
        mapping: Name,
    },
    /// `munmap V[i]`
    MunmapPage {
        /// The page that goes; the VMA splits.
        at: PageRef,
    },
    /// `mremap W = V`
    Mremap {
        /// The mapping it makes.
        new: Name,
        /// The mapping that goes.
        old: Name,
    },
    /// `mprotect V r|rw`
    Mprotect {
        /// The mapping, whole.
        mapping: Name,
        /// Never [`Protection::Write`].
        protection: Protection,
    },
    /// `store V[i] = N`
    Store {
        /// Where to.
        to: PageRef,
        /// The byte.
        value: u8,
    },
    /// `load R = V[i]`
    Load {
        /// The register.
        register: Name,
        /// Where from.
        from: PageRef,
    },
    /// `gup P = V[i] [write] [force] [longterm|get]`
    Gup {
        /// The pin it makes.
        pin: Name,
        /// The user address.
        at: PageRef,
        /// `FOLL_*`.
        flags: GupFlags,
    },
    /// `unpin P`
    Unpin {
        /// The pin that goes.
        pin: Name,
    },
    /// `follow_pfn Q = V[i] [notifier]`
    FollowPfn {
        /// The pfn cache it makes.
        cache: Name,
        /// The user address.
        at: PageRef,
        /// Whether an mmu_notifier guards the cache: one that waits, unless the driver's rule says
        /// otherwise.
        notifier: bool,
    },
    /// `frame_vector F = V[i], W[j], ... [write] [force] [longterm|get]`
    FrameVector {
        /// The frame vector it makes.
        vector: Name,
        /// The user addresses, 1 to 8.
        at: Vec<PageRef>,
        /// `FOLL_*`.
        flags: GupFlags,
    },
    /// `attach T = BUF [static|dynamic]`
    Attach {
        /// The attachment it makes.
        attachment: Name,
        /// What is attached to.
        buffer: Name,
        /// Overrides the importer's rule.
        mode: Option<AttachMode>,
    },
    /// `attach T = dmabuf_of V`
    AttachDmabufOf {
        /// The attachment it makes.
        attachment: Name,
        /// The mapping whose dma-buf is looked up.
        mapping: Name,
    },
    /// `detach T`
    Detach {
        /// The attachment that goes.
        attachment: Name,
    },
    /// `map S = T`
    Map {
        /// The sg_table it makes.
        table: Name,
        /// The attachment that is mapped.
        attachment: Name,
    },
    /// `unmap S`
    Unmap {
        /// The sg_table that goes.
        table: Name,
    },
    /// `submit F = S USAGE`
    Submit {
        /// The fence it makes.
        fence: Name,
        /// The sg_table that the job uses.
        table: Name,
        /// How the fence is entered in the buffer's reservation object.
        usage: FenceUsage,
    },
    /// `signal F`
    Signal {
        /// The fence that signals.
        fence: Name,
    },
    /// `dma_read R = X[i]`
    DmaRead {
        /// The register.
        register: Name,
        /// A page of a pin, pfn cache, frame vector or sg_table.
        from: PageRef,
    },
    /// `dma_write X[i] = N`
    DmaWrite {
        /// A page of a pin, pfn cache, frame vector or sg_table.
        to: PageRef,
        /// The byte.
        value: u8,
    },
    /// `prefetch X[i]`
    Prefetch {
        /// A page of a pin, pfn cache, frame vector or sg_table.
        at: PageRef,
    },
    /// `dma_buf_pin T`
    DmaBufPin {
        /// The attachment.
        attachment: Name,
    },
    /// `dma_buf_unpin T`
    DmaBufUnpin {
        /// The attachment.
        attachment: Name,
    },
    /// `sync PHASE BUF ACCESS [importer NAME]`
    Sync {
        /// `DMA_BUF_SYNC_START` or `_END`.
        phase: SyncPhase,
        /// The buffer.
        buffer: Name,
        /// `DMA_BUF_SYNC_READ`, `_WRITE` or `_RW`.
        access: SyncAccess,
        /// Through this importer's handle.
        importer: Option<Name>,
    },
    /// `move BUF -> PLACEMENT`
    Move {
        /// The buffer.
        buffer: Name,
        /// Where its frames will be.
        to: Placement,
    },
    /// `purge BUF`
    Purge {
        /// The buffer.
        buffer: Name,
    },
    /// `revoke BUF`
    Revoke {
        /// The buffer.
        buffer: Name,
    },
    /// `alloc BUF`
    Alloc {
        /// The buffer.
        buffer: Name,
    },
    /// `close BUF`
    Close {
        /// The buffer.
        buffer: Name,
    },
    /// `fork Pn`
    Fork {
        /// A process of role `child`.
        child: ProcessRef,
    },
    /// `await LABEL`
    Await {
        /// The label of the statement that must have finished, or what that makes.
        label: Name,
    },
    /// `evict_cache BUF[i]`
    EvictCache {
        /// A page of a buffer.
        at: PageRef,
    },
    /// `lock BUF[, BUF..] [ticket]`
    Lock {
        /// The buffers, in the order in which they are taken.
        buffers: Vec<Name>,
        /// Whether they are taken under one ticket.
        ticket: bool,
    },
    /// `unlock BUF[, BUF..]`
    Unlock {
        /// The buffers.
        buffers: Vec<Name>,
    },
    /// `mmap_lock Pn read|write`
    MmapLock {
        /// Whose address space.
        process: ProcessRef,
        /// To look at it or to change it.
        access: LockAccess,
    },
    /// `mmap_unlock Pn`
    MmapUnlock {
        /// Whose address space.
        process: ProcessRef,
    },
    /// `flush_tlb S`
    FlushTlb {
        /// The sg_table whose addresses the device forgets.
        table: Name,
    },
}

/// ` WORD VALUE` of an option, or nothing.
pub(super) fn option<T: fmt::Display>(word: &str, value: Option<&T>) -> String {
    value.map_or_else(String::new, |value| format!(" {word}{value}"))
}

fn list<T: fmt::Display>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mmap { mapping, buffer, sharing, protection, importer, node, pages, offset } => {
                let node = if *node { " node" } else { "" };
                let importer = option("importer ", importer.as_ref());
                let (pages, offset) =
                    (option("pages=", pages.as_ref()), option("offset=", offset.as_ref()));
                write!(
                    f,
                    "mmap {mapping} = {buffer} {sharing} {protection}{importer}{node}{pages}{offset}"
                )
            }
            Self::MmapAnon { mapping, protection, pages } => {
                let pages = option("pages=", pages.as_ref());
                write!(f, "mmap {mapping} = anon private {protection}{pages}")
            }
            Self::Munmap { mapping } => write!(f, "munmap {mapping}"),
            Self::MunmapPage { at } => write!(f, "munmap {at}"),
            Self::Mremap { new, old } => write!(f, "mremap {new} = {old}"),
            Self::Mprotect { mapping, protection } => write!(f, "mprotect {mapping} {protection}"),
            Self::Store { to, value } => write!(f, "store {to} = {value}"),
            Self::Load { register, from } => write!(f, "load {register} = {from}"),
            Self::Gup { pin, at, flags } => write!(f, "gup {pin} = {at}{flags}"),
            Self::Unpin { pin } => write!(f, "unpin {pin}"),
            Self::FollowPfn { cache, at, notifier } => {
                write!(f, "follow_pfn {cache} = {at}{}", if *notifier { " notifier" } else { "" })
            }
            Self::FrameVector { vector, at, flags } => {
                write!(f, "frame_vector {vector} = {}{flags}", list(at))
            }
            Self::EvictCache { at } => write!(f, "evict_cache {at}"),
            Self::Fork { child } => write!(f, "fork {child}"),
            Self::Await { label } => write!(f, "await {label}"),
            Self::Attach { attachment, buffer, mode } => {
                write!(f, "attach {attachment} = {buffer}{}", option("", mode.as_ref()))
            }
            Self::AttachDmabufOf { attachment, mapping } => {
                write!(f, "attach {attachment} = dmabuf_of {mapping}")
            }
            Self::Detach { attachment } => write!(f, "detach {attachment}"),
            Self::Map { table, attachment } => write!(f, "map {table} = {attachment}"),
            Self::Unmap { table } => write!(f, "unmap {table}"),
            Self::Submit { fence, table, usage } => write!(f, "submit {fence} = {table} {usage}"),
            Self::Signal { fence } => write!(f, "signal {fence}"),
            Self::DmaRead { register, from } => write!(f, "dma_read {register} = {from}"),
            Self::DmaWrite { to, value } => write!(f, "dma_write {to} = {value}"),
            Self::Prefetch { at } => write!(f, "prefetch {at}"),
            Self::DmaBufPin { attachment } => write!(f, "dma_buf_pin {attachment}"),
            Self::DmaBufUnpin { attachment } => write!(f, "dma_buf_unpin {attachment}"),
            Self::Sync { phase, buffer, access, importer } => {
                let importer = option("importer ", importer.as_ref());
                write!(f, "sync {phase} {buffer} {access}{importer}")
            }
            Self::Move { buffer, to } => write!(f, "move {buffer} -> {to}"),
            Self::Purge { buffer } => write!(f, "purge {buffer}"),
            Self::Revoke { buffer } => write!(f, "revoke {buffer}"),
            Self::Alloc { buffer } => write!(f, "alloc {buffer}"),
            Self::Close { buffer } => write!(f, "close {buffer}"),
            Self::Lock { buffers, ticket } => {
                write!(f, "lock {}{}", list(buffers), if *ticket { " ticket" } else { "" })
            }
            Self::Unlock { buffers } => write!(f, "unlock {}", list(buffers)),
            Self::MmapLock { process, access } => write!(f, "mmap_lock {process} {access}"),
            Self::MmapUnlock { process } => write!(f, "mmap_unlock {process}"),
            Self::FlushTlb { table } => write!(f, "flush_tlb {table}"),
        }
    }
}

/// A name that a statement uses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Use<'a> {
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
    /// A name that stands for the result of a statement: its label, or what it makes.
    Result(&'a Name),
    /// A process to be forked.
    Child(&'a ProcessRef),
    /// A process.
    Process(&'a ProcessRef),
}

impl Op {
    /// The names that the statement uses, in the order they are written.
    #[must_use]
    pub(crate) fn uses(&self) -> Vec<Use<'_>> {
        match self {
            Self::Mmap { buffer, importer, .. } | Self::Sync { buffer, importer, .. } => {
                let importer = importer.iter().map(Use::Importer);
                std::iter::once(Use::Buffer(buffer)).chain(importer).collect()
            }
            Self::MmapAnon { .. } => Vec::new(),
            Self::Munmap { mapping }
            | Self::Mprotect { mapping, .. }
            | Self::AttachDmabufOf { mapping, .. } => {
                vec![Use::Mapping(mapping)]
            }
            Self::Mremap { old, .. } => vec![Use::Mapping(old)],
            Self::MunmapPage { at }
            | Self::Store { to: at, .. }
            | Self::Load { from: at, .. }
            | Self::Gup { at, .. }
            | Self::FollowPfn { at, .. } => vec![Use::MappingPage(at)],
            Self::FrameVector { at, .. } => at.iter().map(Use::MappingPage).collect(),
            Self::Unpin { pin } => vec![Use::Global(pin, NameKind::Pin)],
            Self::Attach { buffer, .. }
            | Self::Move { buffer, .. }
            | Self::Purge { buffer }
            | Self::Revoke { buffer }
            | Self::Alloc { buffer }
            | Self::Close { buffer } => vec![Use::Buffer(buffer)],
            Self::Lock { buffers, .. } | Self::Unlock { buffers } => {
                buffers.iter().map(Use::Buffer).collect()
            }
            Self::Detach { attachment }
            | Self::Map { attachment, .. }
            | Self::DmaBufPin { attachment }
            | Self::DmaBufUnpin { attachment } => {
                vec![Use::Global(attachment, NameKind::Attachment)]
            }
            Self::Unmap { table } | Self::Submit { table, .. } | Self::FlushTlb { table } => {
                vec![Use::Global(table, NameKind::SgTable)]
            }
            Self::Signal { fence } => vec![Use::Global(fence, NameKind::Fence)],
            Self::DmaRead { from: at, .. }
            | Self::DmaWrite { to: at, .. }
            | Self::Prefetch { at } => {
                vec![Use::Target(at)]
            }
            Self::Fork { child } => vec![Use::Child(child)],
            Self::MmapLock { process, .. } | Self::MmapUnlock { process } => {
                vec![Use::Process(process)]
            }
            Self::Await { label } => vec![Use::Result(label)],
            Self::EvictCache { at } => vec![Use::BufferPage(at)],
        }
    }

    /// The name that the statement defines, its label apart.
    #[must_use]
    pub fn defined(&self) -> Option<(&Name, NameKind)> {
        Some(match self {
            Self::Mmap { mapping, .. } | Self::MmapAnon { mapping, .. } => {
                (mapping, NameKind::Mapping)
            }
            Self::Mremap { new, .. } => (new, NameKind::Mapping),
            Self::Load { register, .. } | Self::DmaRead { register, .. } => {
                (register, NameKind::Register)
            }
            Self::Gup { pin, .. } => (pin, NameKind::Pin),
            Self::FollowPfn { cache, .. } => (cache, NameKind::PfnCache),
            Self::FrameVector { vector, .. } => (vector, NameKind::FrameVector),
            Self::Attach { attachment, .. } | Self::AttachDmabufOf { attachment, .. } => {
                (attachment, NameKind::Attachment)
            }
            Self::Map { table, .. } => (table, NameKind::SgTable),
            Self::Submit { fence, .. } => (fence, NameKind::Fence),
            Self::Munmap { .. }
            | Self::MunmapPage { .. }
            | Self::Mprotect { .. }
            | Self::Store { .. }
            | Self::Unpin { .. }
            | Self::Detach { .. }
            | Self::Unmap { .. }
            | Self::Signal { .. }
            | Self::DmaWrite { .. }
            | Self::Prefetch { .. }
            | Self::DmaBufPin { .. }
            | Self::DmaBufUnpin { .. }
            | Self::Sync { .. }
            | Self::Move { .. }
            | Self::Purge { .. }
            | Self::Revoke { .. }
            | Self::Alloc { .. }
            | Self::Close { .. }
            | Self::Fork { .. }
            | Self::Await { .. }
            | Self::EvictCache { .. }
            | Self::Lock { .. }
            | Self::Unlock { .. }
            | Self::MmapLock { .. }
            | Self::MmapUnlock { .. }
            | Self::FlushTlb { .. } => return None,
        })
    }
}

words! {
    /// `MAP_SHARED` or `MAP_PRIVATE`.
    Sharing {
        /// `MAP_SHARED`.
        Shared = "shared",
        /// `MAP_PRIVATE`.
        Private = "private",
    }
}

words! {
    /// `PROT_*` of a mapping.
    Protection {
        /// `PROT_READ`.
        Read = "r",
        /// `PROT_WRITE`.
        Write = "w",
        /// `PROT_READ | PROT_WRITE`.
        ReadWrite = "rw",
    }
}

words! {
    /// How `mmap_lock` is taken.
    LockAccess {
        /// `mmap_read_lock`.
        Read = "read",
        /// `mmap_write_lock`.
        Write = "write",
    }
}

/// The `FOLL_*` flags of a get_user_pages call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GupFlags {
    /// `FOLL_WRITE`.
    pub write: bool,
    /// `FOLL_FORCE`.
    pub force: bool,
    /// `FOLL_LONGTERM`.
    pub longterm: bool,
    /// `FOLL_GET` instead of `FOLL_PIN`; never with `longterm`.
    pub get: bool,
}

impl fmt::Display for GupFlags {
    /// The flags that are set, each with a blank in front.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.write, " write"),
            (self.force, " force"),
            (self.longterm, " longterm"),
            (self.get, " get"),
        ];
        words.iter().filter(|(set, _)| *set).try_for_each(|(_, word)| f.write_str(word))
    }
}

words! {
    /// What an attachment promises about moves.
    AttachMode {
        /// No `move_notify`: a mapping pins the buffer.
        Static = "static",
        /// With `move_notify`: the importer follows moves.
        Dynamic = "dynamic",
    }
}

words! {
    /// Which end of a CPU access bracket.
    SyncPhase {
        /// `DMA_BUF_SYNC_START`, begin_cpu_access.
        Start = "start",
        /// `DMA_BUF_SYNC_END`, end_cpu_access.
        End = "end",
    }
}

words! {
    /// The direction of a CPU access bracket.
    SyncAccess {
        /// `DMA_BUF_SYNC_READ`.
        Read = "read",
        /// `DMA_BUF_SYNC_WRITE`.
        Write = "write",
        /// `DMA_BUF_SYNC_RW`.
        ReadWrite = "rw",
    }
}
