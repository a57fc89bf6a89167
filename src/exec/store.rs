//! The arenas that placements are made of, and the conductor's alias of them.
//!
//! Every placement has two: a memfd, and where the kernel has it a `memfd_secret`, whose pages
//! `get_user_pages` refuses. A scenario uses one of the two for each placement
//! ([`Plan`](super::plan::Plan)). Page `n` is the placement's frame `n`; the second half holds the
//! CPU's cache lines of incoherent buffers, page `FRAMES_MAX + n` being the cache of frame `n`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::command::{ArenaPage, CommandResult};
use crate::sys::arena::{Arena, ArenaError, PageKind};
use crate::sys::page::{FrameIndex, Span, page_bytes};
use crate::sys::secret::{SecretArena, SecretError};
use crate::sys::touch::Touch;

/// The most frames of one placement.
pub(super) const FRAMES_MAX: u16 = 64;
/// A page that is never allocated: what a VMA without memory behind it maps.
pub(super) const HOLE_PAGE: u16 = 2 * FRAMES_MAX;
/// Pages of an arena.
pub(super) const ARENA_PAGES: u16 = HOLE_PAGE + 1;
/// A page past the end: touching it is SIGBUS.
pub(super) const BEYOND_PAGE: u16 = ARENA_PAGES;
/// Arenas of each kind: vram, system, cma.
pub(super) const PLACEMENTS: u8 = 3;

/// The page through which processes of a laboratory meet that run free: it has no frames here.
pub(super) const BOARD: ArenaPage = ArenaPage { arena: 0, page: 0 };
/// There: how many have arrived at the barrier.
pub(super) const BOARD_ARRIVED: usize = 0;
/// There: a byte that ends all waiting.
pub(super) const BOARD_STOP: usize = 8;
/// There: a byte for each flag.
pub(super) const BOARD_FLAGS: usize = 64;

/// One arena of either kind.
#[derive(Debug)]
pub(super) enum Memory {
    /// A memfd.
    Plain(Arena),
    /// A `memfd_secret`.
    Secret(SecretArena),
}

impl Memory {
    fn span(&self, page: u16) -> Span<'_> {
        match self {
            Self::Plain(arena) => arena.frame(FrameIndex(u32::from(page))),
            Self::Secret(arena) => arena.frame(FrameIndex(u32::from(page))),
        }
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(arena) => arena.as_fd(),
            Self::Secret(arena) => arena.as_fd(),
        }
    }
}

/// All arenas: `PLACEMENTS` memfds, then as many `memfd_secret`s if there are any.
#[derive(Debug)]
pub(super) struct Arenas {
    all: Vec<Memory>,
    /// Why there are no secret ones.
    pub(super) no_secret: Option<SecretError>,
}

impl Arenas {
    /// Make them. Memory is allocated as frames are used.
    pub(super) fn create(without_secret: bool) -> Result<Self, ArenaError> {
        let mut all = Vec::new();
        for _ in 0..PLACEMENTS {
            let arena = Arena::create(u32::from(ARENA_PAGES), PageKind::Base)?;
            all.push(Memory::Plain(arena));
        }
        let secret = || {
            if without_secret {
                return Err(SecretError::Unavailable);
            }
            SecretArena::create(u32::from(ARENA_PAGES)).map(Memory::Secret)
        };
        let secrets: Result<Vec<_>, _> = (0..PLACEMENTS).map(|_| secret()).collect();
        let no_secret = secrets.as_ref().err().copied();
        if no_secret == Some(SecretError::NoFd) {
            return Err(ArenaError::NoFd);
        }
        all.extend(secrets.unwrap_or_default());
        Ok(Self { all, no_secret })
    }

    /// The fds, to send to an actor.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().map(AsFd::as_fd)
    }

    fn span(&self, place: ArenaPage) -> Span<'_> {
        self.all[usize::from(place.arena)].span(place.page)
    }

    /// Fill a page.
    pub(super) fn fill(&self, place: ArenaPage, value: u8) -> Result<(), ArenaError> {
        served(self.span(place).fill(value), place)
    }

    /// Everybody who waits at [`BOARD`] goes on.
    pub(super) fn stop_waiting(&self) -> Result<(), ArenaError> {
        served(self.span(BOARD).store_u8(BOARD_STOP, 1), BOARD)
    }

    /// Copy a page, whatever it holds.
    pub(super) fn copy(&self, from: ArenaPage, to: ArenaPage) -> Result<(), ArenaError> {
        served(self.span(to).copy_from(self.span(from)), to)
    }

    /// What a page holds, through the conductor's alias.
    pub(super) fn look(&self, place: ArenaPage) -> CommandResult {
        look(self.span(place))
    }

    /// What a page holds, through read(2) where the memory allows it: a path that no mapping is
    /// part of.
    pub(super) fn look_afresh(&self, place: ArenaPage) -> Result<CommandResult, ArenaError> {
        match &self.all[usize::from(place.arena)] {
            Memory::Plain(arena) => {
                let mut bytes = vec![0; page_bytes()];
                arena.peek(FrameIndex(u32::from(place.page)), &mut bytes)?;
                Ok(uniform(&bytes))
            }
            Memory::Secret(_) => Ok(self.look(place)),
        }
    }

    /// Free a page; pins keep the old one. A secret arena can't, and says EINVAL.
    pub(super) fn punch(&self, place: ArenaPage) -> Result<(), ArenaError> {
        match &self.all[usize::from(place.arena)] {
            Memory::Plain(arena) => arena.punch(FrameIndex(u32::from(place.page))),
            Memory::Secret(_) => Err(ArenaError::Other(Errno::INVAL)),
        }
    }
}

/// Arenas as an actor has them: fds to map.
pub(super) fn is_secret(place: ArenaPage) -> bool {
    place.arena >= PLACEMENTS
}

/// What is in a page, as an answer.
pub(super) fn look(span: Span<'_>) -> CommandResult {
    let mut bytes = vec![0; page_bytes()];
    match span.read(0, &mut bytes) {
        Touch::Value(()) => uniform(&bytes),
        Touch::Sigbus { .. } => CommandResult::Sigbus,
        Touch::Sigsegv { .. } => CommandResult::Sigsegv,
    }
}

/// One byte, if it is all over the page.
pub(super) fn uniform(bytes: &[u8]) -> CommandResult {
    let first = bytes[0];
    // Two halves of a page compare faster than byte by byte: memcmp.
    if bytes[1..] == bytes[..page_bytes() - 1] {
        return CommandResult::Value(first);
    }
    let others = bytes.iter().filter(|byte| **byte != first).count();
    CommandResult::Torn { first, others: u16::try_from(others).unwrap_or(u16::MAX) }
}

fn served(access: Touch<()>, place: ArenaPage) -> Result<(), ArenaError> {
    match access {
        Touch::Value(()) => Ok(()),
        Touch::Sigbus { .. } | Touch::Sigsegv { .. } => {
            Err(ArenaError::Bus(FrameIndex(u32::from(place.page))))
        }
    }
}

/// The arenas' fds as an actor received them.
#[derive(Debug)]
pub(super) struct ArenaFds(pub(super) Vec<OwnedFd>);

impl ArenaFds {
    /// The fd of an arena, if the actor was sent one.
    pub(super) fn get(&self, place: ArenaPage) -> Result<BorrowedFd<'_>, Errno> {
        self.0.get(usize::from(place.arena)).map(AsFd::as_fd).ok_or(Errno::BADF)
    }
}
