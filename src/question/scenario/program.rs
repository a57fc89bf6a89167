//! What a process of a litmus test does, as a list of model steps.

use crate::model::{Handle, Step};
use crate::units::ActorId;

/// Where a result goes that a condition or an `await` looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u8);

/// What one instruction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A step of the model.
    Step(Step),
    /// Wait until the result in this slot is known.
    Await(SlotId),
}

/// One instruction: everything may happen between two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub action: Action,
    /// The statement that it is part of.
    pub statement: usize,
    /// Whether the statement goes on after an errno, or where there was nothing to do.
    pub soft: bool,
}

/// A register or a named result of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slots {
    /// What it read, or the errno or signal instead.
    pub register: Option<SlotId>,
    /// How it ended.
    pub result: Option<SlotId>,
    /// The same under the name of what it makes, where its label is asked for, too.
    pub made: Option<SlotId>,
}

impl Slots {
    /// All that there are.
    pub fn all(self) -> impl Iterator<Item = SlotId> {
        [self.register, self.result, self.made].into_iter().flatten()
    }
}

/// One statement of a process.
#[derive(Debug, Clone)]
pub struct Statement {
    /// As it stands in the file.
    pub text: String,
    /// Line of the file, from 1; 0 when it comes from no file.
    pub line: u32,
    /// Its instructions begin here.
    pub first: usize,
    /// And end before here.
    pub end: usize,
    /// Where its results go.
    pub slots: Slots,
}

/// A process of a litmus test.
#[derive(Debug, Clone)]
pub struct Program {
    /// Who it is to the model.
    pub actor: ActorId,
    /// `application`, `device cam`, ...: as the header says.
    pub role: String,
    /// Whether it starts with a fork only.
    pub forked: bool,
    /// What it does.
    pub instructions: Vec<Instruction>,
    /// Its statements.
    pub statements: Vec<Statement>,
}

/// What is in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Content {
    /// Nothing yet.
    #[default]
    Empty,
    /// The statement ended well.
    Ok,
    /// This was read.
    Value(u8),
    /// It ended with an errno: position in [`crate::model::Errno::ALL`].
    Errno(crate::model::Errno),
    /// It ended with a signal.
    Signal(crate::model::Signal),
    /// There was nothing to do: what it needed had been refused.
    Skipped,
}

impl Content {
    /// `ok`, `7`, `EFAULT`, `SIGBUS`, `skipped`, or `-`.
    #[must_use]
    pub fn word(self) -> String {
        match self {
            Self::Empty => "-".to_owned(),
            Self::Ok => "ok".to_owned(),
            Self::Value(value) => value.to_string(),
            Self::Errno(errno) => errno.name().to_owned(),
            Self::Signal(signal) => signal.name().to_owned(),
            Self::Skipped => "skipped".to_owned(),
        }
    }

    pub(super) const fn bytes(self) -> [u8; 2] {
        match self {
            Self::Empty => [0, 0],
            Self::Ok => [1, 0],
            Self::Value(value) => [2, value],
            Self::Errno(errno) => [3, errno as u8],
            Self::Signal(signal) => [4, signal as u8],
            Self::Skipped => [5, 0],
        }
    }

    pub(super) fn from_bytes(bytes: [u8; 2]) -> Self {
        use crate::model::{Errno, Signal};
        match bytes {
            [1, _] => Self::Ok,
            [2, value] => Self::Value(value),
            [3, errno] => {
                Errno::ALL.get(usize::from(errno)).map_or(Self::Empty, |e| Self::Errno(*e))
            }
            [4, 0] => Self::Signal(Signal::Sigbus),
            [4, 1] => Self::Signal(Signal::Sigsegv),
            [4, _] => Self::Signal(Signal::Oops),
            [5, _] => Self::Skipped,
            _ => Self::Empty,
        }
    }
}

/// What a name of the test stands for in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// What DMA can go through, with its number of pages.
    Handle(Handle, u8),
    /// An attachment.
    Attachment(crate::units::AttachmentId),
    /// A fence.
    Fence(crate::units::FenceId),
}
