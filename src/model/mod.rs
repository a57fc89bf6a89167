//! The model: dma-bufs, the page tables and pins that refer to them, and the exporter that moves
//! them. Pure: no I/O, time, threads or randomness.
//!
//! # What it is
//! [`World`] holds the rules and the tables' sizes, [`State`] what changes. [`ready`] tells whether
//! an actor could take a [`Step`] now; [`step()`] takes it, changes the state, hands every
//! [`Effect`] to a [`Sink`] and returns the [`Reply`]. An explorer calls them with `()` as the
//! sink; real memory does to real pages what the effects say; a device answers the reply.
//!
//! # Sequence of a move (the default rule)
//! 1. `lock`: `dma_resv_lock`.
//! 2. `notify`: dynamic importers learn that their addresses will not do for new work.
//! 3. `wait`: for their fences.
//! 4. `zap`: CPU page table entries go; faults wait for the lock.
//! 5. `check-pins`: EBUSY where the rules say so.
//! 6. `reserve`, `flush`, `copy` (a page a step), `rebind`, `free`, `unlock`.
//!
//! # Locking
//! One lock a buffer (`dma_resv`): [`DmaBuf::lock`]. Faults, `map`, `unmap`, `submit` and pinning
//! wait for it; signalling and DMA do not. Before it comes one lock an address space
//! ([`MmapLock`]), where a driver takes locks of its own and could take them in another order. Of
//! several buffers' locks the order is anybody's who has a [`Ticket`].
//!
//! # Invariants
//! - A frame has one [`Owner`]; `rank` is 0 exactly while it is not on a free list.
//! - While no hazard was reported the ghost equals memory: [`State::ghost_matches_memory`].
//! - [`step()`] never panics on a step whose ids belong to the world, ready or not; that it is
//!   ready is asserted in debug builds only.
//!
//! # Differs from Linux
//! Loads and stores are sequentially consistent, a page holds one value, and a zap is atomic: what
//! depends on these can't be shown. A CPU has a TLB where its process has threads ([`Translation`]);
//! it loses nothing by itself, and the flush of a zap is a part of the zap. File descriptors are counted,
//! and nobody's own: who has closed a buffer that somebody else keeps may map it again, instead of EBADF.
//!
//! ```
//! use driftheap::model::{ExporterRules, HostRules, Placement, Reply, State, Step, World, step};
//! let mut world = World::new(HostRules::default());
//! world.add_frames(Placement::Vram, 1).unwrap();
//! let heap = world.add_exporter(ExporterRules::default()).unwrap();
//! let buf = world.add_buf(heap, 1, Placement::Vram, false, 0).unwrap();
//! let actor = world.add_actor().unwrap();
//! let mut state = State::new(&world);
//! assert_eq!(step(&world, &mut state, actor, &Step::Alloc(buf), &mut ()), Reply::Done);
//! ```
#![forbid(unsafe_code)]

mod answer;
mod contents;
mod core;
mod cpu;
mod decode;
mod device;
mod encode;
mod exporter;
mod footprint;
mod forget;
mod gup;
mod importer_rules;
mod landing;
mod mentions;
mod migrate;
mod mmap;
mod mmap_lock;
pub mod moving;
mod naming;
mod objects;
mod operation;
mod oracle;
mod policy;
mod reach;
mod reservation;
mod rule;
mod rules;
mod state;
mod step;
mod table;
mod terms;
mod tlb;
mod touched;
mod world;
mod zap;

pub use self::core::{ready, step};
pub use contents::{ContentUse, Contents};
pub use decode::{decode, refresh};
pub use encode::{encode, encode_after};
pub(crate) use footprint::CALLERS_FIRST;
#[cfg(debug_assertions)]
pub use footprint::noted;
pub use footprint::{Objects, memory, objects};
pub use forget::forget;
pub use gup::{GupAnswer, GupQuestion};
pub use landing::{Landing, Meant};
pub use naming::{Named, Naming, each_name};
pub use objects::{
    Attachment, Detached, Dma, DmaBuf, Fence, Frame, Life, MmapLock, Owner, Page, Pin, Pte, Reach,
    Reservations, Slot, Target, Ticket, Translation, Vma, VmaKind,
};
pub use operation::Operation;
pub use policy::{Admission, ExporterPolicy, Request};
pub use rule::{RuleError, RuleSpec, RuleText, RuleValues};
pub use rules::*;
pub use state::State;
pub use step::{
    Cost, Dir, Effect, Errno, Foll, Handle, Hazard, HazardKind, Mmap, Reply, Signal, Sink, Step,
    SyncAccess, Via,
};
pub use table::{Iter, Notes, Table};
pub use touched::{Details, Touched, touched};
pub use world::{AttachmentDecl, BufDecl, PinDecl, SgDecl, TooMany, VmaDecl, World};
