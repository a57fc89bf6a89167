//! A batch as a program that a process takes by itself, without a conductor between its steps.
//!
//! Processes that run free meet in a page that they share: a barrier at the beginning, flags for what one
//! waits for that another makes, and a word of the conductor's that ends all waiting.

use std::hint::spin_loop;

use rustix::io::Errno;

use super::super::command::{
    ArenaPage, Command, CommandResult, FLAG_DONE, FLAG_FAILED, FLAG_NONE, FreeCommand,
};
use super::super::store::{BOARD, BOARD_ARRIVED, BOARD_FLAGS, BOARD_STOP};
use super::Actor;
use super::memory::errno_of;
use crate::sys::map::{Prot, Sharing, Window};
use crate::sys::page::{FrameIndex, Span};
use crate::sys::process;
use crate::uapi::lab::Op;

/// The page that all processes share.
#[derive(Debug)]
pub(super) struct Board(Window);

impl Board {
    fn span(&self) -> Span<'_> {
        self.0.span(0, 1)
    }

    fn stopped(&self) -> bool {
        self.span().load_u8(BOARD_STOP).value() != Some(0)
    }

    fn flag(&self, flag: u8) -> u8 {
        self.span().load_u8(BOARD_FLAGS + usize::from(flag)).value().unwrap_or(FLAG_FAILED)
    }

    fn raise(&self, flag: u8, value: u8) {
        let _shared = self.span().store_u8(BOARD_FLAGS + usize::from(flag), value);
    }

    /// Waits as long as nobody ends all waiting; whether it came.
    fn until(&self, mut came: impl FnMut() -> bool) -> bool {
        while !came() {
            if self.stopped() {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }
}

impl Actor {
    /// The answers stand where their commands do; of one that was left out it says so.
    pub(super) fn run_free(&mut self, commands: &[Option<Command>], answers: &mut [CommandResult]) {
        let board = match self.board() {
            Ok(board) => board,
            Err(errno) => return answers.fill(CommandResult::Failed(errno)),
        };
        let (mut at, mut failed) = (0, false);
        let mut last = CommandResult::Done;
        while let Some(command) = commands.get(at) {
            let mut next = at + 1;
            let Some(Command::Free(command)) = command else {
                last = self.free_step(*command, &board);
                answers[at] = last;
                at = next;
                continue;
            };
            answers[at] = CommandResult::Done;
            let refused = is_refused(last);
            match *command {
                FreeCommand::Begin { cpu } => {
                    let _where_it_may = process::pin_to_cpu(cpu.into());
                }
                FreeCommand::Barrier { parties } => {
                    let _arrived = board.span().fetch_add_u64(BOARD_ARRIVED, 1);
                    let all = || {
                        let arrived = board.span().load_u64(BOARD_ARRIVED).value();
                        arrived.is_none_or(|arrived| arrived >= parties.into())
                    };
                    board.until(all);
                }
                FreeCommand::Pause { spins } => (0..spins).for_each(|_| spin_loop()),
                FreeCommand::Statement => failed = false,
                FreeCommand::IfRefused { skip } if refused => {
                    failed = true;
                    next += usize::from(skip);
                }
                FreeCommand::IfDone { skip } if !refused => next += usize::from(skip),
                FreeCommand::IfDone { .. } => failed = true,
                FreeCommand::Skip { skip } => next += usize::from(skip),
                FreeCommand::Back { back } if !board.stopped() => {
                    next = at.saturating_sub(back.into());
                }
                FreeCommand::IfRefused { .. } | FreeCommand::Back { .. } => {}
                FreeCommand::Await { flag, skip } => {
                    board.until(|| board.flag(flag) != FLAG_NONE);
                    if board.flag(flag) != FLAG_DONE {
                        failed = true;
                        next += usize::from(skip);
                    }
                }
                FreeCommand::Raise { flag } => {
                    board.raise(flag, if failed { FLAG_FAILED } else { FLAG_DONE });
                }
            }
            at = next;
        }
    }

    /// A step; one that can't be had yet is asked for again.
    fn free_step(&mut self, command: Option<Command>, board: &Board) -> CommandResult {
        let mut answer = CommandResult::Refused(Errno::CANCELED);
        board.until(|| {
            answer = match (&mut self.bench, command) {
                (Some(bench), Some(Command::Load { slot })) => bench.load_byte(slot),
                (Some(bench), Some(Command::Store { slot, value })) => {
                    bench.store_byte(slot, value)
                }
                _ => self.carry_out_if(command),
            };
            !comes_later(command, answer)
        });
        answer
    }

    fn board(&mut self) -> Result<Board, Errno> {
        let window = Window::reserve(1).map_err(|error| errno_of(&error))?;
        let place: ArenaPage = BOARD;
        let fd = self.arenas.get(place)?;
        let frame = FrameIndex(place.page.into());
        let mapped = window.map(0, fd, frame, 1, Sharing::Shared, Prot::ReadWrite);
        mapped.map_err(|error| errno_of(&error))?;
        Ok(Board(window))
    }
}

/// Whether a step did not do what it was to.
const fn is_refused(answer: CommandResult) -> bool {
    match answer {
        CommandResult::Refused(_) | CommandResult::Sigbus | CommandResult::Sigsegv => true,
        CommandResult::Done
        | CommandResult::Value(_)
        | CommandResult::Torn { .. }
        | CommandResult::Pid(_)
        | CommandResult::Failed(_)
        | CommandResult::Word { .. }
        | CommandResult::LeftOut => false,
    }
}

/// Whether the answer is that somebody has to go first.
fn comes_later(command: Option<Command>, answer: CommandResult) -> bool {
    let CommandResult::Refused(errno) = answer else { return false };
    let Some(Command::Lab { op, .. }) = command else { return false };
    match errno {
        Errno::DEADLK | Errno::TIME => true,
        Errno::AGAIN => matches!(op, Op::Gup | Op::Pfn),
        _ => false,
    }
}
