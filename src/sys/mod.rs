//! Real memory: every system call and every unsafe line of the project.
//!
//! This layer knows pages, mappings, traps, pins and processes. It does not know the model: it
//! decides nothing, it does what it is told and says what the kernel answered.
//!
//! # Parts
//!
//! | module | what | the kernel's |
//! |---|---|---|
//! | [`page`] | [`FrameIndex`](page::FrameIndex), [`Addr`](page::Addr), [`Span`](page::Span) | pfn, address |
//! | [`arch`] | instructions, registers and numbers of x86-64 and arm64 | `arch/` |
//! | [`arena`] | a memfd whose pages are frames: allocate, fill, copy, punch | carveout, heap |
//! | [`secret`] | the same of memory that can't be pinned | VM_PFNMAP |
//! | [`map`] | [`Window`](map::Window): mmap, mremap, zap, protect, collapse by slot | VMAs, PTEs |
//! | [`touch`] | loads and stores that report SIGBUS and SIGSEGV | exception table |
//! | [`uffd`] | traps: missing, minor, write-protect faults; poison | `vm_ops->fault` |
//! | [`pin`] | io_uring buffers, vmsplice, O_DIRECT | get_user_pages, FOLL_* |
//! | [`process`] | [`spawn`](process::spawn), [`fork`](process::fork), [`Child`](process::Child) | tasks |
//! | [`link`] | messages with fds between processes | |
//! | [`mailbox`] | fast request and reply in a shared page | |
//! | [`probe`] | what this machine allows | |
//! | [`store`] | a buffer's pages, taken away and put back | `struct ttm_bo_*`, page migration |
//! | [`backing`] | files that stand behind the device's buffers | `struct file` of a dma-buf |
//! | [`guard`] | a process that outlives ours | |
//! | [`inject`] | system calls made by another process | ptrace |
//! | [`lab`] | a step of the laboratory module | `tools/lab-module` |
//! | `raw` | any call with any argument, for the conformance suite | |
//! | [`seccomp`], [`notify`], [`supervise`] | a program under a supervisor | seccomp user notification |
//! | [`trace`] | stops, steps and calls of attached threads | ptrace |
//!
//! # How an executor is made of them
//!
//! 1. The conductor, which may have many threads, calls [`process::spawn`] with its own executable
//!    and a hidden verb; the actor calls [`process::inherited_link`] with the last argument.
//! 2. The conductor makes a [`mailbox::Mailbox`] per actor and sends its fd, its own pidfd and the
//!    arenas' fds over the [`link::Link`]. From here each keeps its end:
//!    [`Caller`](mailbox::Caller) and [`Server`](mailbox::Server).
//! 3. The actor reserves a [`map::Window`], maps frames of the arenas, opens a [`uffd::Uffd`],
//!    registers its slots and sends the fd back. A litmus `fork` is [`process::fork`] in the actor,
//!    which has one thread; the child needs a mailbox and a userfaultfd of its own.
//! 4. A load: the conductor posts it. If the slot is trapped, the actor sleeps; the conductor
//!    reads the [`uffd::UffdEvent`], resolves it on the model's word and collects the value. If it is
//!    poisoned, truncated or unmapped, the value is an [`touch::Touch`] that says so.
//! 5. A move in a refcounted placement: [`write_protect`](uffd::Uffd::write_protect) in every
//!    mapper, [`copy`](arena::Arena::copy), map the new frame, [`punch`](arena::Arena::punch) the
//!    old. In a carveout nothing is punched: who was not told keeps a PTE or a pin of the frame.
//! 6. A device registers [`pin::UringPin`] on its window. A transfer is in flight from
//!    `start_*` to `feed` or `release`, then [`complete`](pin::UringPin::complete).
//! 7. The end: drop the [`Child`](process::Child). It is killed, reaped, and its children die too.
//!
//! ```
//! use driftheap::sys::arena::{Arena, PageKind};
//! use driftheap::sys::map::{Prot, Sharing, Window};
//! use driftheap::sys::page::FrameIndex;
//! use driftheap::sys::touch::Touch;
//!
//! let vram = Arena::create(4, PageKind::Base)?;
//! let window = Window::reserve(1)?;
//! window.map(0, &vram, FrameIndex(2), 1, Sharing::Shared, Prot::ReadWrite)?;
//! assert_eq!(window.span(0, 1).store_u8(0, 1), Touch::Value(()));
//! // The frame goes to another buffer and nobody zaps: a stale PTE.
//! vram.fill(FrameIndex(2), 0xBB)?;
//! assert_eq!(window.span(0, 1).load_u8(0), Touch::Value(0xBB));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Errors
//!
//! Each operation has its own enum in which an errno has become a meaning, or, where a litmus test
//! observes the errno itself (pins), answers [`rustix::io::Errno`]. Nothing here panics on what a
//! kernel or a peer does. A slot, frame or offset outside its window is a caller's bug and panics,
//! as an index does.
//!
//! # Bounds
//!
//! Every wait takes a timeout. A lost peer is noticed within [`mailbox::SLICE`], a killed child is
//! reaped within [`process::REAP_TIMEOUT`] or reported.
//!
//! # Safety
//!
//! What makes the safe functions safe:
//! * memory that another process, the kernel or a device changes lies in a [`map::Window`], is
//!   named by a [`page::Span`], which only a window can make, and is accessed by [`touch`]'s
//!   instructions or as an atomic: there is no reference to it;
//! * MAP_FIXED is applied only inside a window's own reservation, and a fork refills what
//!   MADV_DONTFORK would leave as a hole;
//! * a pin outlives its window harmlessly: the kernel holds the pages;
//! * [`process::fork`] refuses to run with more than one thread.
//!
//! Not covered: a [`uffd::Uffd`] takes addresses as numbers, because they belong to another
//! process. One opened on this process's own memory must be given ranges of its own windows; COPY
//! fills only pages that do not exist yet.

pub mod alloc;
pub mod arch;
pub mod arena;
pub mod backing;
pub mod guard;
pub mod inject;
pub mod lab;
pub mod link;
pub mod mailbox;
pub mod map;
pub mod notify;
pub mod page;
pub mod pin;
pub mod probe;
pub mod process;
pub(crate) mod raw;
mod reaper;
pub mod seccomp;
pub mod secret;
pub mod store;
pub mod supervise;
pub mod touch;
pub mod trace;
pub mod uffd;
