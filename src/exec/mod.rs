//! Real memory: what the model says, done to real pages by real processes, and compared.
//!
//! # What it is
//!
//! The second answer to a litmus question. [`Executor::replay`] takes a schedule through the model
//! and does each [`Effect`](crate::model::Effect) to real memory, in lockstep: real page tables,
//! real `get_user_pages`, real copy-on-write and fork. What is observed - each value read, each
//! errno, each signal, each byte of each frame - must be what the model said.
//!
//! # Who does what
//!
//! * The *conductor*, this process, is the exporter, the fault handler and the hardware: it owns
//!   the arenas that frames are pages of, fills, copies and frees them, and decides what a fault
//!   gets, on the model's word.
//! * An *actor* is a process a litmus process: it maps, touches, forks, pins. Actors are used again
//!   from schedule to schedule.
//! * The *witness* takes no part; it reads what a hazard left in its victim's buffer.
//!
//! # Sequence of an action
//!
//! 1. Before the model serves a fault, the access is really tried, and has to trap.
//! 2. The effects, in order: frames by the conductor, entries and pins by the actor that owns them.
//! 3. The access, pin or transfer itself; its answer is compared with the model's.
//! 4. Every frame's bytes are compared with the model's.
//!
//! # How the model's nouns are made real
//!
//! | model | here |
//! |---|---|
//! | frame | page of a placement's arena (memfd, or `memfd_secret` where pinning must fail) |
//! | entry of a shared mapping | PTE of a shared mapping; UFFDIO_CONTINUE, MADV_DONTNEED |
//! | fault | SIGBUS of a userfaultfd trap, as a value |
//! | private page | MAP_PRIVATE of the frame: the kernel copies |
//! | pin for writing | `io_uring` registered buffer; FOLL_FORCE is asked of `/proc/self/mem` |
//! | pin for reading | vmsplice |
//! | DMA through a pin | READ_FIXED from, WRITE_FIXED to a pipe, in flight while the schedule says |
//! | cached pfn, `sg_table` | a bus address: the frame's place in the arena |
//! | CPU cache of an incoherent buffer | a second page, written back and filled explicitly |
//! | orphan | a punched page, which the pin keeps |
//! | SIGBUS after purge or revoke | UFFDIO_POISON |
//!
//! # Differs from Linux
//!
//! What the exporter decides (an errno of mmap, of a move, of map) has no second opinion here:
//! there is no exporter in the kernel. What is compared is what the kernel does with the memory.
//! A step that ends in a BUG_ON can't be shown ([`ReplayReport::inexpressible`]).

mod actor;
mod command;
mod conduct;
mod effects;
mod error;
mod executor;
mod hunt;
mod kernel;
mod look;
mod pinning;
mod plan;
mod report;
mod store;
mod team;
mod variant;

pub use actor::main as actor_main;
pub use error::{ExecError, Skip};
pub use executor::{ExecOptions, Executor, Hidden, Sabotage};
pub use hunt::{Histogram, HuntOptions, Tally, hunt, supports as hunt_supports};
pub use kernel::{
    Driver, Explained, Explainer, FreeOptions, FreeRun, KernelExecutor, Seen, WrongRule,
    askable as kernel_supports, free_supports, with_rules_of_guest,
};
pub use report::{Disagreement, ReadBack, ReplayReport};
pub use team::Abilities;
pub use variant::{Replays, VariantReplay, replay_variant, replay_variant_until, schedules};
