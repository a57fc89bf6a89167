//! The actors as the conductor sees them: started when first needed, used again, ended for sure.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::actor;
use super::command::{ANSWER_BYTES, BATCH_MAX, COMMAND_BYTES, Command, CommandResult};
use super::error::{ExecError, ending, hint};
use super::executor::Hidden;
use super::store::Arenas;
use crate::sys::lab::Lab;
use crate::sys::link::Link;
use crate::sys::mailbox::{CallError, Caller, MESSAGE_MAX_BYTES, Mailbox, Pace};
use crate::sys::process::{self, Child};

/// Actors that a team can have: one for each process of a litmus test, and the witness.
pub(super) const ACTORS_MAX: usize = 17;
/// The process that takes no part and reads what is left in buffers.
pub(super) const WITNESS: usize = ACTORS_MAX - 1;

/// What an actor process can do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// userfaultfd with `UFFD_FEATURE_SIGBUS`.
    pub userfaultfd: bool,
    /// `io_uring` registered buffers.
    pub io_uring: bool,
}

#[derive(Debug)]
struct Actor {
    pid: u32,
    /// None for a forked child, which its parent ends.
    child: Option<Child>,
    /// None for a forked child.
    link: Option<Link>,
    caller: Caller,
    /// Whether anything was asked of it since the last reset.
    used: bool,
    /// What it was asked last.
    asked: Vec<Command>,
    /// Answers that came while nobody collected them.
    kept: Option<Vec<CommandResult>>,
}

impl Actor {
    fn new(pid: u32, child: Option<Child>, link: Option<Link>, caller: Caller) -> Self {
        Self { pid, child, link, caller, used: false, asked: Vec::new(), kept: None }
    }
}

/// All actors.
#[derive(Debug)]
pub(super) struct Team {
    program: PathBuf,
    timeout: Duration,
    hide: Hidden,
    /// Where the schedules are the kernel's: the laboratory that all actors share.
    pub(super) lab: Option<Lab>,
    actors: Vec<Option<Actor>>,
    /// Children that were forked, in this order, and who forked them.
    forked: Vec<(usize, usize)>,
    /// Spawned actors whose place a forked child has taken for now.
    displaced: Vec<(usize, Actor)>,
    pub(super) abilities: Abilities,
    /// Whether an actor has told its abilities.
    is_known: bool,
}

impl Team {
    pub(super) fn new(program: PathBuf, timeout: Duration, hide: Hidden) -> Self {
        Self {
            program,
            timeout,
            hide,
            lab: None,
            actors: (0..ACTORS_MAX).map(|_| None).collect(),
            forked: Vec::new(),
            displaced: Vec::new(),
            abilities: Abilities { userfaultfd: false, io_uring: false },
            is_known: false,
        }
    }

    /// What an actor is called.
    fn name(index: usize) -> String {
        if index == WITNESS { "the witness".to_owned() } else { format!("the actor of P{index}") }
    }

    /// The process of an actor, if it was started.
    pub(super) fn pid(&self, index: usize) -> Option<u32> {
        self.actors[index].as_ref().map(|actor| actor.pid)
    }

    /// Start an actor that is not there yet.
    pub(super) fn start(&mut self, index: usize, arenas: &Arenas) -> Result<(), ExecError> {
        if self.actors[index].is_some() {
            return Ok(());
        }
        let (mut child, link) = process::spawn(&self.program, &[OsStr::new("__actor")])?;
        let pid = child.pid();
        let mailbox = Mailbox::create()?;
        let mut fds: Vec<BorrowedFd<'_>> = vec![mailbox.as_fd()];
        fds.extend(arenas.fds());
        let mut bits = if self.hide.userfaultfd { 0 } else { actor::TRAPS };
        if let Some(lab) = &self.lab {
            fds.push(lab.as_fd());
            bits |= actor::HAS_LAB;
        }
        link.send(&[actor::HELLO, bits], &fds)?;
        let mut reply = [0; 8];
        let answered = link.receive(&mut reply, self.timeout);
        let has = match answered {
            Ok((2, _)) if reply[0] == actor::HELLO => reply[1],
            _ => {
                let how = ending(child.wait(Duration::from_millis(100)));
                return Err(ExecError::Setup { who: Self::name(index), pid, how });
            }
        };
        let abilities = Abilities {
            userfaultfd: has & actor::HAS_UFFD != 0,
            io_uring: has & actor::HAS_URING != 0 && !self.hide.io_uring,
        };
        if self.is_known && abilities != self.abilities {
            return Err(ExecError::Weaker { who: Self::name(index), pid });
        }
        self.abilities = abilities;
        self.is_known = true;
        let peer = dup(child.pidfd())?;
        let caller = mailbox.into_caller(peer, Pace::OneCore);
        let actor = Actor::new(pid, Some(child), Some(link), caller);
        self.actors[index] = Some(actor);
        Ok(())
    }

    /// Ask an actor for a batch, at most [`BATCH_MAX`] commands; an answer each.
    ///
    /// If it is still busy with what it was [posted](Self::post), that is finished first and its
    /// answers are kept for [`try_collect`](Self::try_collect).
    pub(super) fn call(
        &mut self,
        index: usize,
        commands: &[Command],
        answers: &mut Vec<CommandResult>,
    ) -> Result<(), ExecError> {
        if self.is_busy(index) {
            let mut kept = Vec::new();
            self.collect(index, self.timeout, &mut kept)?;
            if let Some(actor) = &mut self.actors[index] {
                actor.kept = Some(kept);
            }
        }
        self.post(index, commands)?;
        self.collect(index, self.timeout, answers)
    }

    /// Whether an actor has a request that was not answered yet.
    pub(super) fn is_busy(&self, index: usize) -> bool {
        self.actors[index].as_ref().is_some_and(|actor| actor.caller.is_outstanding())
    }

    /// Ask without waiting; the actor must not be [busy](Self::is_busy).
    pub(super) fn post(&mut self, index: usize, commands: &[Command]) -> Result<(), ExecError> {
        debug_assert!(commands.len() <= BATCH_MAX && !self.is_busy(index));
        let mut request = [0; MESSAGE_MAX_BYTES];
        for (bytes, command) in request.chunks_exact_mut(COMMAND_BYTES).zip(commands) {
            bytes.copy_from_slice(&command.encode());
        }
        let Some(actor) = &mut self.actors[index] else {
            return Err(ExecError::Protocol { who: Self::name(index), pid: 0 });
        };
        actor.used = true;
        actor.asked.clear();
        actor.asked.extend_from_slice(commands);
        actor.caller.post(&request[..commands.len() * COMMAND_BYTES]);
        Ok(())
    }

    /// The answers to what was posted, if they are there.
    pub(super) fn try_collect(
        &mut self,
        index: usize,
        answers: &mut Vec<CommandResult>,
    ) -> Result<bool, ExecError> {
        self.collect_within(index, Duration::ZERO, answers)
    }

    /// The same, after some time at most.
    pub(super) fn collect_within(
        &mut self,
        index: usize,
        timeout: Duration,
        answers: &mut Vec<CommandResult>,
    ) -> Result<bool, ExecError> {
        if let Some(kept) = self.actors[index].as_mut().and_then(|actor| actor.kept.take()) {
            *answers = kept;
            return Ok(true);
        }
        match self.collect(index, timeout, answers) {
            Ok(()) => Ok(true),
            Err(ExecError::Hung { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn collect(
        &mut self,
        index: usize,
        timeout: Duration,
        answers: &mut Vec<CommandResult>,
    ) -> Result<(), ExecError> {
        let Some(actor) = &mut self.actors[index] else {
            return Err(ExecError::Protocol { who: Self::name(index), pid: 0 });
        };
        let pid = actor.pid;
        let mut reply = [0; MESSAGE_MAX_BYTES];
        let got = match actor.caller.collect(&mut reply, timeout) {
            Ok(got) => got,
            Err(error) => return Err(self.lost(index, timeout, error)),
        };
        answers.clear();
        for chunk in reply[..got].chunks_exact(ANSWER_BYTES) {
            let mut bytes = [0; ANSWER_BYTES];
            bytes.copy_from_slice(chunk);
            answers.extend(CommandResult::decode(bytes));
        }
        if answers.len() != actor.asked.len() {
            return Err(ExecError::Protocol { who: Self::name(index), pid });
        }
        for (answer, command) in answers.iter().zip(&actor.asked) {
            if let CommandResult::Failed(errno) = *answer {
                let (who, doing) = (Self::name(index), describe(&[*command]));
                return Err(ExecError::Actor { who, pid, doing, errno, hint: hint(errno) });
            }
        }
        Ok(())
    }

    fn lost(&mut self, index: usize, waited: Duration, error: CallError) -> ExecError {
        let who = Self::name(index);
        let Some(actor) = &mut self.actors[index] else {
            return ExecError::Protocol { who, pid: 0 };
        };
        let (pid, doing) = (actor.pid, describe(&actor.asked));
        match error {
            CallError::TimedOut => ExecError::Hung { who, pid, doing, waited },
            CallError::PeerDied => {
                let how = match &mut actor.child {
                    Some(child) => ending(child.wait(Duration::from_millis(100))),
                    None => "a forked child".to_owned(),
                };
                ExecError::Died { who, pid, doing, how }
            }
            CallError::Corrupt | CallError::TooLong(_) => ExecError::Protocol { who, pid },
        }
    }

    /// Fork actor `parent`; its child takes the place `child`.
    pub(super) fn fork(&mut self, parent: usize, child: usize) -> Result<u32, ExecError> {
        let mailbox = Mailbox::create()?;
        let link = self.link_of(parent);
        let Some(link) = link else {
            return Err(ExecError::Protocol { who: Self::name(parent), pid: 0 });
        };
        link.send(&[actor::CHILD], &[mailbox.as_fd()])?;
        let mut answers = Vec::new();
        let command = Command::Fork { child: u8::try_from(child).unwrap_or(u8::MAX) };
        self.call(parent, &[command], &mut answers)?;
        let Some(CommandResult::Pid(pid)) = answers.first().copied() else {
            return Err(ExecError::Protocol { who: Self::name(parent), pid: 0 });
        };
        let caller = mailbox.into_caller(pidfd_of(pid)?, Pace::OneCore);
        let actor = Actor::new(pid, None, None, caller);
        if let Some(old) = self.actors[child].replace(actor) {
            self.displaced.push((child, old));
        }
        self.forked.push((parent, child));
        Ok(pid)
    }

    /// The link through which an actor gets fds: a forked child shares its parent's.
    fn link_of(&self, index: usize) -> Option<&Link> {
        let mut at = index;
        for _ in 0..ACTORS_MAX {
            if let Some(link) = self.actors[at].as_ref().and_then(|actor| actor.link.as_ref()) {
                return Some(link);
            }
            at = self.forked.iter().find(|(_, child)| *child == at)?.0;
        }
        None
    }

    /// End forked children and make every actor forget what it did.
    pub(super) fn reset(&mut self) -> Result<(), ExecError> {
        let mut answers = Vec::new();
        // Youngest first: each ends the children that it forked itself.
        while let Some((_, child)) = self.forked.pop() {
            self.call(child, &[Command::Reset], &mut answers)?;
            self.actors[child] = None;
        }
        while let Some((index, actor)) = self.displaced.pop() {
            self.actors[index] = Some(actor);
        }
        for index in 0..ACTORS_MAX {
            if self.actors[index].as_ref().is_some_and(|actor| actor.used) {
                self.call(index, &[Command::Reset], &mut answers)?;
                if let Some(actor) = &mut self.actors[index] {
                    actor.used = false;
                }
            }
        }
        Ok(())
    }

    /// End all processes. New ones are started when they are needed.
    pub(super) fn disband(&mut self) {
        self.forked.clear();
        self.displaced.clear();
        for actor in &mut self.actors {
            *actor = None;
        }
    }
}

fn dup(fd: BorrowedFd<'_>) -> Result<OwnedFd, ExecError> {
    let remedy = "raise `ulimit -n`";
    fd.try_clone_to_owned().map_err(|error| ExecError::Host {
        what: "duplicating a pidfd",
        errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        remedy,
    })
}

fn pidfd_of(pid: u32) -> Result<OwnedFd, ExecError> {
    let failed = |errno| ExecError::Host {
        what: "opening a forked child's pidfd",
        errno,
        remedy: "raise `ulimit -n`, or see who kills processes",
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(failed(Errno::SRCH))?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed)
}

/// A batch in words: its first command, and how many more.
fn describe(commands: &[Command]) -> String {
    let first = commands.first().map_or_else(String::new, |command| format!("{command:?}"));
    match commands.len() {
        0 | 1 => first,
        more => format!("{first} and {} more", more - 1),
    }
}
