//! An actor: a process that does to its own memory what the conductor says.
//!
//! It has one thread, so that a litmus `fork` is sound, and no opinion: it knows slots, pages and
//! pins, not buffers or rules. It serves requests from its mailbox until the conductor is gone.
//!
//! ```text
//! spawned -- hello (mailbox, arenas) --> idle -- request --> carries out a batch --> idle
//!                                         `-- the conductor's end --> exits
//! ```

mod free;
mod lab;
mod memory;
mod pins;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::io::Errno;

use super::command::{ANSWER_BYTES, BATCH_MAX, COMMAND_BYTES, Command, CommandResult};
use super::store::ArenaFds;
use crate::sys::link::Link;
use crate::sys::mailbox::{CallError, MESSAGE_MAX_BYTES, Mailbox, Pace, Server};
use crate::sys::process::{self, Child};
use lab::Bench;
pub(super) use memory::SLOTS;
use memory::Slots;
use pins::Pins;

/// What the conductor says first, with [`TRAPS`] and [`HAS_LAB`]; the fds are the mailbox, the arenas
/// and a laboratory.
pub(super) const HELLO: u8 = b'H';
/// Bit of hello: trap with userfaultfd.
pub(super) const TRAPS: u8 = 1;
/// Bit of hello: the last fd is a laboratory's.
pub(super) const HAS_LAB: u8 = 2;
/// Goes with the fd of a forked child's mailbox.
pub(super) const CHILD: u8 = b'C';
/// Bit of the answer to hello: userfaultfd is there.
pub(super) const HAS_UFFD: u8 = 1;
/// Bit of the answer to hello: `io_uring` registers buffers.
pub(super) const HAS_URING: u8 = 2;

/// How long the link may be silent when something is due on it.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at whether the conductor lives; its end is noticed sooner.
const IDLE: Duration = Duration::from_secs(3600);

/// Runs an actor until its conductor is gone: the hidden subcommand `__actor`.
#[must_use]
pub fn main(link: Link) -> ExitCode {
    match Actor::begin(link) {
        Ok(mut actor) => ExitCode::from(actor.serve()),
        Err(_) => ExitCode::from(process::EXIT_SETUP),
    }
}

struct Actor {
    link: Link,
    server: Server,
    /// The conductor's pidfd, for the mailboxes of children.
    conductor: OwnedFd,
    arenas: ArenaFds,
    memory: Slots,
    pins: Pins,
    /// The laboratory module, where the schedule is the kernel's.
    bench: Option<Bench>,
    children: Vec<Child>,
}

/// Why an actor did not begin; its exit code says no more, the conductor notices its end.
struct NoActor;

impl<E: std::error::Error> From<E> for NoActor {
    fn from(_: E) -> Self {
        Self
    }
}

impl Actor {
    fn begin(link: Link) -> Result<Self, NoActor> {
        let conductor = process::parent_pidfd()?;
        let mut hello = [0; 8];
        let (length, mut fds) = link.receive(&mut hello, LINK_TIMEOUT)?;
        if length != 2 || hello[0] != HELLO || fds.is_empty() {
            return Err(NoActor);
        }
        let traps = hello[1] & TRAPS != 0;
        let bench = match fds.len() {
            2.. if hello[1] & HAS_LAB != 0 => fds.pop().map(Bench::new).transpose()?,
            _ => None,
        };
        let mailbox = Mailbox::adopt(fds.remove(0))?;
        let server = mailbox.into_server(conductor.try_clone()?, Pace::OneCore);
        let memory = Slots::reserve(traps)?;
        let mut pins = Pins::default();
        let mut has = 0;
        if memory.has_uffd() {
            has |= HAS_UFFD;
        }
        if memory.with_scratch_page(|span| pins.probe(span))?? {
            has |= HAS_URING;
        }
        link.send(&[HELLO, has], &[])?;
        let arenas = ArenaFds(fds);
        let children = Vec::new();
        Ok(Self { link, server, conductor, arenas, memory, pins, bench, children })
    }

    /// Serves until the conductor is gone; the exit code.
    fn serve(&mut self) -> u8 {
        let mut request = [0; MESSAGE_MAX_BYTES];
        let mut reply = [0; MESSAGE_MAX_BYTES];
        loop {
            let length = match self.server.next(&mut request, IDLE) {
                Ok(length) => length,
                Err(CallError::TimedOut) => continue,
                Err(CallError::PeerDied) => return 0,
                Err(CallError::Corrupt | CallError::TooLong(_)) => return process::EXIT_SETUP,
            };
            let mut commands = [None; BATCH_MAX];
            let mut count = 0;
            for chunk in request[..length].chunks_exact(COMMAND_BYTES) {
                let mut bytes = [0; COMMAND_BYTES];
                bytes.copy_from_slice(chunk);
                commands[count] = Command::decode(bytes);
                count += 1;
            }
            let mut answers = [CommandResult::LeftOut; BATCH_MAX];
            let (commands, answers) = (&commands[..count], &mut answers[..count]);
            if let Some(Some(Command::Free(_))) = commands.first() {
                self.run_free(commands, answers);
            } else {
                for (command, answer) in commands.iter().zip(answers.iter_mut()) {
                    *answer = self.carry_out_if(*command);
                }
            }
            for (answer, bytes) in answers.iter().zip(reply.chunks_exact_mut(ANSWER_BYTES)) {
                bytes.copy_from_slice(&answer.encode());
            }
            self.server.answer(&reply[..count * ANSWER_BYTES]);
        }
    }

    /// What is no command is a failure.
    fn carry_out_if(&mut self, command: Option<Command>) -> CommandResult {
        command.map_or(CommandResult::Failed(Errno::PROTO), |command| self.carry_out(command))
    }

    fn carry_out(&mut self, command: Command) -> CommandResult {
        if let Some(bench) = &mut self.bench
            && let Some(answer) = bench.carry_out(command)
        {
            return answer;
        }
        let (memory, arenas) = (&mut self.memory, &self.arenas);
        match command {
            Command::Arm { slot, place, write } => memory.arm(arenas, slot, place, write),
            Command::Install { slot, place, write } => memory.install(arenas, slot, place, write),
            Command::InstallPrivate { slot, place, write } => {
                memory.install_private(arenas, slot, place, write)
            }
            Command::InstallAnon { slot, write } => memory.install_anon(slot, write),
            Command::Protect { slot, pages, write } => memory.protect_all(slot, pages, write),
            Command::Zap { slot } => memory.zap(slot),
            Command::NoBacking { slot, write } => memory.no_backing(arenas, slot, write),
            Command::Unmap { slot } => memory.unmap(slot),
            Command::Move { from, to } => memory.move_page(from, to),
            Command::BreakCow { slot } => memory.break_cow(slot),
            Command::Touch { slot, write } => memory.touch(slot, write),
            Command::Load { slot } => memory.load(slot),
            Command::Store { slot, value } => memory.store(slot, value),
            Command::Pin { pin, slot, how } => self.pins.pin(memory, pin, slot, how),
            Command::Unpin { pin } => self.pins.unpin(pin),
            Command::DmaStart { pin, write } => self.pins.start(pin, write),
            Command::DmaWrite { pin, value } => self.pins.write(pin, value),
            Command::DmaRead { pin } => self.pins.read(pin),
            Command::BusMap { place } => memory.bus_map(arenas, place),
            Command::BusUnmap { place } => memory.bus_unmap(place),
            Command::BusLoad { place } => memory.bus_load(place),
            Command::BusStore { place, value } => memory.bus_store(place, value),
            Command::Witness { place } => memory.witness(arenas, place),
            Command::Lab { .. }
            | Command::LabMap { .. }
            | Command::LabMove { .. }
            | Command::LabStride { .. }
            | Command::Free(_) => CommandResult::Failed(Errno::NODEV),
            Command::Fork { child: _ } => self.fork(),
            Command::Reset => self.reset(),
        }
    }

    /// A real fork. The child serves a mailbox of its own.
    fn fork(&mut self) -> CommandResult {
        let mut kind = [0; 8];
        let mailbox = match self.link.receive(&mut kind, LINK_TIMEOUT) {
            Ok((1, mut fds)) if kind[0] == CHILD && fds.len() == 1 => fds.remove(0),
            Ok(_) => return CommandResult::Failed(Errno::PROTO),
            Err(_) => return CommandResult::Failed(Errno::PIPE),
        };
        match process::fork(|| self.run_child(mailbox)) {
            Ok(child) => {
                let pid = child.pid();
                self.children.push(child);
                CommandResult::Pid(pid)
            }
            Err(process::SpawnError::TooMany) => CommandResult::Failed(Errno::AGAIN),
            Err(process::SpawnError::NoFd) => CommandResult::Failed(Errno::MFILE),
            Err(_) => CommandResult::Failed(Errno::NOMEM),
        }
    }

    /// What the child does with its copy of everything.
    fn run_child(&mut self, mailbox: OwnedFd) -> u8 {
        // The parent's children are not ours to end: dropping them would kill them.
        std::mem::forget(std::mem::take(&mut self.children));
        self.pins.leave_to_parent();
        let (Ok(mailbox), Ok(conductor)) = (Mailbox::adopt(mailbox), self.conductor.try_clone())
        else {
            return process::EXIT_SETUP;
        };
        self.server = mailbox.into_server(conductor, Pace::OneCore);
        if self.memory.after_fork().is_err() {
            return process::EXIT_SETUP;
        }
        self.serve()
    }

    fn reset(&mut self) -> CommandResult {
        // Dropping a child kills and reaps it.
        self.children.clear();
        self.pins.reset();
        if let Some(bench) = &mut self.bench
            && let Err(errno) = bench.reset()
        {
            return CommandResult::Failed(errno);
        }
        self.memory.reset()
    }
}
