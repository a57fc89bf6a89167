//! Why real memory could not be asked, and what it takes to ask it.

use std::fmt;
use std::time::Duration;

use rustix::io::Errno;

use crate::question::scenario::ReplayError;
use crate::sys::arena::ArenaError;
use crate::sys::link::LinkError;
use crate::sys::mailbox::MailboxError;
use crate::sys::process::{Exit, SpawnError};

/// Why a variant can't be expressed on this machine. Not a failure: the answer is the model's
/// alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// What can't be had.
    pub reason: String,
    /// What would help, if anything would.
    pub remedy: Option<String>,
}

impl Skip {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: None }
    }

    pub(super) fn with_remedy(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: Some(remedy.into()) }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

/// Why a schedule could not be replayed to its end. The executor ends its processes and can be
/// used again: it starts new ones.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The variant can't be expressed here.
    #[error("real memory can't express this variant: {0}")]
    Unsupported(Skip),
    /// The schedule is not one of this scenario.
    #[error(transparent)]
    Schedule(#[from] ReplayError),
    /// An actor could not be started.
    #[error("an actor process could not be started: {0}")]
    Spawn(SpawnError),
    /// Its mailbox could not be made.
    #[error("no mailbox for an actor: {0}")]
    Mailbox(MailboxError),
    /// Its link failed.
    #[error("the link to an actor failed: {0}")]
    Link(LinkError),
    /// An arena could not be made or used.
    #[error("an arena failed: {0}")]
    Arena(ArenaError),
    /// A system call that needs nothing from an actor failed.
    #[error("{what} failed: {errno}; {remedy}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the kernel answered.
        errno: Errno,
        /// What to do.
        remedy: &'static str,
    },
    /// An actor did not answer in time.
    #[error(
        "{who} (process {pid}) did not answer within {waited:?} while it was asked to {doing}: it \
         is stopped, or the machine is overloaded; it has been killed. Run again with a longer \
         timeout, or see what it waits for in /proc/{pid}/stack"
    )]
    Hung {
        /// Which actor.
        who: String,
        /// Its process.
        pid: u32,
        /// What was asked of it.
        doing: String,
        /// For how long.
        waited: Duration,
    },
    /// An actor ended.
    #[error(
        "{who} (process {pid}) ended ({how}) while it was asked to {doing}: somebody killed it, or \
         memory ran out (see dmesg); run again"
    )]
    Died {
        /// Which actor.
        who: String,
        /// Its process.
        pid: u32,
        /// What was asked of it.
        doing: String,
        /// How it ended.
        how: String,
    },
    /// An actor could not do what it was told.
    #[error("{who} (process {pid}) could not {doing}: {errno}{hint}")]
    Actor {
        /// Which actor.
        who: String,
        /// Its process.
        pid: u32,
        /// What was asked of it.
        doing: String,
        /// What the kernel answered.
        errno: Errno,
        /// What to do, with its own separator.
        hint: &'static str,
    },
    /// An actor could not begin.
    #[error(
        "{who} (process {pid}) could not set itself up ({how}): raise `ulimit -n` and `ulimit -l`; \
         or the program is not a driftheap of this version"
    )]
    Setup {
        /// Which actor.
        who: String,
        /// Its process.
        pid: u32,
        /// How it ended.
        how: String,
    },
    /// An actor can do less than the first one could, or more.
    #[error(
        "{who} (process {pid}) has other mechanisms than the first actor had: locked memory, \
         processes or a limit ran out meanwhile; raise `ulimit -l`, or run again"
    )]
    Weaker {
        /// Which actor.
        who: String,
        /// Its process.
        pid: u32,
    },
    /// The actor's answer is none.
    #[error("{who} (process {pid}) answered nonsense: is it the same version of driftheap?")]
    Protocol {
        /// Which actor.
        who: String,
        /// Its process.
        pid: u32,
    },
}

// Not sources: each message holds its cause already, and a chain would say it twice.
macro_rules! cause {
    ($($variant:ident($cause:ty)),+) => {
        $(impl From<$cause> for ExecError {
            fn from(cause: $cause) -> Self {
                Self::$variant(cause)
            }
        })+
    };
}
cause!(Spawn(SpawnError), Mailbox(MailboxError), Link(LinkError), Arena(ArenaError));

/// What to do about an errno that stops an actor.
pub(super) fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NOMEM => "; raise `ulimit -l` (locked memory) or free some memory",
        Errno::AGAIN => "; raise `ulimit -l` (locked memory) or `ulimit -u` (processes)",
        Errno::MFILE | Errno::NFILE => "; raise `ulimit -n`",
        Errno::NOSPC => "; /dev/shm or the memory cgroup is full",
        Errno::PERM | Errno::NOSYS => "; a seccomp filter or a sysctl forbids it, see `doctor`",
        _ => "",
    }
}

/// How a process ended, in words.
pub(super) fn ending(exit: Result<Option<Exit>, Errno>) -> String {
    match exit {
        Ok(Some(Exit::Code(code))) => format!("exit code {code}"),
        Ok(Some(Exit::Signal(signal))) => format!("signal {signal}"),
        Ok(None) => "still ending".to_owned(),
        Err(errno) => format!("unknown: {errno}"),
    }
}
