//! What the conductor asks of an actor, and what the actor saw: fixed-size messages.
//!
//! A request is a batch of commands, carried out in order; the reply has an answer for each. A
//! command says what to do to memory, never why: which VMA, fault or rule it stands for is the
//! conductor's affair.

use rustix::io::Errno;

use crate::sys::mailbox::MESSAGE_MAX_BYTES;
use crate::sys::page::page_bytes;
use crate::uapi::lab::Op;

/// Bytes of a command on the wire.
pub(super) const COMMAND_BYTES: usize = 10;
/// Bytes of an answer on the wire.
pub(super) const ANSWER_BYTES: usize = 8;
/// The most commands of one request.
pub(super) const BATCH_MAX: usize = MESSAGE_MAX_BYTES / COMMAND_BYTES;
const _: () = assert!(BATCH_MAX * ANSWER_BYTES <= MESSAGE_MAX_BYTES);

/// A page of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArenaPage {
    /// Which arena, in the order of [`Arenas`](super::store::Arenas).
    pub(super) arena: u8,
    /// Which page of it.
    pub(super) page: u16,
}

/// How a pin is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PinHow {
    /// `io_uring` `REGISTER_BUFFERS`: `FOLL_WRITE | FOLL_LONGTERM`.
    Uring,
    /// vmsplice into a pipe: a page reference, read-only.
    Vmsplice,
    /// `FOLL_FORCE | FOLL_WRITE`: asked of `/proc/self/mem`, then held like [`PinHow::Uring`].
    Force,
}

/// One thing for an actor to do. A `slot` is a page of its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// A VMA of a file without entries: any touch of the slot traps.
    Arm { slot: u16, place: ArenaPage, write: bool },
    /// Install the entry of a shared mapping.
    Install { slot: u16, place: ArenaPage, write: bool },
    /// Map the page privately; the kernel faults and copies by itself. A slot that is mapped so
    /// already is left alone.
    InstallPrivate { slot: u16, place: ArenaPage, write: bool },
    /// Map anonymous memory. A slot that is mapped so already is left alone.
    InstallAnon { slot: u16, write: bool },
    /// Remove the entry and keep the VMA.
    Zap { slot: u16 },
    /// The fault handler has nothing to give: what the VMA allows is SIGBUS from here on.
    NoBacking { slot: u16, write: bool },
    /// Remove the VMA.
    Unmap { slot: u16 },
    /// mremap one page.
    Move { from: u16, to: u16 },
    /// mprotect of so many slots.
    Protect { slot: u16, pages: u8, write: bool },
    /// Make the kernel copy a private page now, by writing back the byte that is there.
    BreakCow { slot: u16 },
    /// An access that is expected to trap. A write does not change memory.
    Touch { slot: u16, write: bool },
    /// Read the page.
    Load { slot: u16 },
    /// Fill the page.
    Store { slot: u16, value: u8 },
    /// `get_user_pages`.
    Pin { pin: u8, slot: u16, how: PinHow },
    /// `unpin_user_page`.
    Unpin { pin: u8 },
    /// A device starts a transfer through a pin.
    DmaStart { pin: u8, write: bool },
    /// The transfer to memory gets its data and ends.
    DmaWrite { pin: u8, value: u8 },
    /// The transfer from memory ends; the answer is what the device got.
    DmaRead { pin: u8 },
    /// Let the device reach a page by bus address.
    BusMap { place: ArenaPage },
    /// The device can't reach it any more.
    BusUnmap { place: ArenaPage },
    /// The device reads a page by bus address.
    BusLoad { place: ArenaPage },
    /// The device fills a page by bus address.
    BusStore { place: ArenaPage, value: u8 },
    /// fork(2). The child serves the mailbox whose fd is waiting in the link.
    Fork { child: u8 },
    /// Read a page through a mapping that is made for it.
    Witness { place: ArenaPage },
    /// A step of the laboratory module, at the address of `slot`.
    Lab { op: Op, obj: u8, page: u8, flags: u16, slot: u16, value: u8 },
    /// mmap of a laboratory's buffer: directly, or through an importer's file.
    LabMap { buf: u8, how: LabMap, slot: u16, pages: u8, offset: u8 },
    /// mremap of a laboratory's mapping.
    LabMove { from: u16, to: u16, pages: u8 },
    /// From now on a slot is as many pages of the laboratory.
    LabStride { pages: u16 },
    /// What a process of a laboratory does between its steps, where it runs free.
    Free(FreeCommand),
    /// Forget everything: unmap, unpin, end children.
    Reset,
}

/// What a process that runs free does between its steps, by itself: the batch is its program.
///
/// A flag is a byte of a page that all processes share, [`FLAG_NONE`] at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FreeCommand {
    /// On this processor; what can't be had yet is asked for again, and accesses are of one byte.
    Begin { cpu: u8 },
    /// Nobody goes on before so many are there.
    Barrier { parties: u8 },
    /// Loses some time.
    Pause { spins: u16 },
    /// A statement begins.
    Statement,
    /// Leaves out the next commands if the last step was refused, and the statement has failed.
    IfRefused { skip: u8 },
    /// Leaves out the next commands if the last step was done; else the statement has failed.
    IfDone { skip: u8 },
    /// Leaves out the next commands.
    Skip { skip: u8 },
    /// Goes back so many commands.
    Back { back: u8 },
    /// Waits until a flag is raised; leaves out the next commands unless it is [`FLAG_DONE`], and the
    /// statement has failed.
    Await { flag: u8, skip: u8 },
    /// Raises a flag: [`FLAG_FAILED`] if the statement has failed, else [`FLAG_DONE`].
    Raise { flag: u8 },
}

/// A flag that nobody has raised.
pub(super) const FLAG_NONE: u8 = 0;
/// What a flag says of a statement that was done.
pub(super) const FLAG_DONE: u8 = 1;
/// What it says of one that was refused, or had nothing to do.
pub(super) const FLAG_FAILED: u8 = 2;

impl FreeCommand {
    fn encode(self) -> [u8; COMMAND_BYTES] {
        let (kind, a, b, wide) = match self {
            Self::Begin { cpu } => (1, cpu, 0, 0),
            Self::Barrier { parties } => (2, parties, 0, 0),
            Self::Pause { spins } => (3, 0, 0, spins),
            Self::Statement => (4, 0, 0, 0),
            Self::IfRefused { skip } => (5, skip, 0, 0),
            Self::IfDone { skip } => (6, skip, 0, 0),
            Self::Skip { skip } => (7, skip, 0, 0),
            Self::Back { back } => (8, back, 0, 0),
            Self::Await { flag, skip } => (9, flag, skip, 0),
            Self::Raise { flag } => (10, flag, 0, 0),
        };
        let [w0, w1] = u16::to_le_bytes(wide);
        [29, kind, a, b, w0, w1, 0, 0, 0, 0]
    }

    fn decode(kind: u8, a: u8, b: u8, wide: u16) -> Option<Self> {
        Some(match kind {
            1 => Self::Begin { cpu: a },
            2 => Self::Barrier { parties: a },
            3 => Self::Pause { spins: wide },
            4 => Self::Statement,
            5 => Self::IfRefused { skip: a },
            6 => Self::IfDone { skip: a },
            7 => Self::Skip { skip: a },
            8 => Self::Back { back: a },
            9 => Self::Await { flag: a, skip: b },
            10 => Self::Raise { flag: a },
            _ => return None,
        })
    }
}

/// How a laboratory's buffer is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LabMap {
    /// The importer's way; none through the dma-buf itself.
    pub(super) importer: Option<u8>,
    /// MAP_SHARED.
    pub(super) shared: bool,
    /// PROT_WRITE.
    pub(super) write: bool,
    /// Anonymous memory instead of a buffer.
    pub(super) anonymous: bool,
}

/// What came of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommandResult {
    /// Done.
    Done,
    /// Every byte of the page is this.
    Value(u8),
    /// The page's bytes differ: the first, and how many are not like it.
    Torn { first: u8, others: u16 },
    /// The access raised SIGBUS.
    Sigbus,
    /// The access raised SIGSEGV.
    Sigsegv,
    /// get_user_pages, or the device, refused.
    Refused(Errno),
    /// fork's child.
    Pid(u32),
    /// The actor could not do it, which no litmus test expects.
    Failed(Errno),
    /// What a step of the laboratory answered: the lower byte and the upper half of its value.
    Word { low: u8, high: u32 },
    /// A process that runs free has left the command out.
    LeftOut,
}

impl Command {
    /// The command on the wire.
    pub(super) fn encode(self) -> [u8; COMMAND_BYTES] {
        if let Self::Lab { op, obj, page, flags, slot, value } = self {
            let ([f0, f1], [s0, s1]) = (flags.to_le_bytes(), slot.to_le_bytes());
            return [25, op as u8, obj, page, s0, s1, f0, f1, value, 0];
        }
        if let Self::LabMap { buf, how, slot, pages, offset } = self {
            let [s0, s1] = slot.to_le_bytes();
            let (importer, bits) = how.encode();
            return [26, buf, importer, bits, s0, s1, pages, offset, 0, 0];
        }
        if let Self::Free(command) = self {
            return command.encode();
        }
        let nothing = ArenaPage { arena: 0, page: 0 };
        let (op, a, b, slot, place, to) = match self {
            Self::Arm { slot, place, write } => (1, u8::from(write), 0, slot, place, 0),
            Self::Install { slot, place, write } => (2, u8::from(write), 0, slot, place, 0),
            Self::InstallPrivate { slot, place, write } => (3, u8::from(write), 0, slot, place, 0),
            Self::InstallAnon { slot, write } => (4, u8::from(write), 0, slot, nothing, 0),
            Self::Zap { slot } => (5, 0, 0, slot, nothing, 0),
            Self::NoBacking { slot, write } => (6, u8::from(write), 0, slot, nothing, 0),
            Self::Unmap { slot } => (7, 0, 0, slot, nothing, 0),
            Self::Move { from, to } => (8, 0, 0, from, nothing, to),
            Self::BreakCow { slot } => (9, 0, 0, slot, nothing, 0),
            Self::Touch { slot, write } => (10, u8::from(write), 0, slot, nothing, 0),
            Self::Load { slot } => (11, 0, 0, slot, nothing, 0),
            Self::Store { slot, value } => (12, value, 0, slot, nothing, 0),
            Self::Pin { pin, slot, how } => (13, pin, how as u8, slot, nothing, 0),
            Self::Unpin { pin } => (14, pin, 0, 0, nothing, 0),
            Self::DmaStart { pin, write } => (15, pin, u8::from(write), 0, nothing, 0),
            Self::DmaWrite { pin, value } => (16, pin, value, 0, nothing, 0),
            Self::DmaRead { pin } => (17, pin, 0, 0, nothing, 0),
            Self::BusMap { place } => (18, 0, 0, 0, place, 0),
            Self::BusUnmap { place } => (19, 0, 0, 0, place, 0),
            Self::BusLoad { place } => (20, 0, 0, 0, place, 0),
            Self::BusStore { place, value } => (21, value, 0, 0, place, 0),
            Self::Fork { child } => (22, child, 0, 0, nothing, 0),
            Self::Witness { place } => (23, 0, 0, 0, place, 0),
            Self::LabMove { from, to, pages } => (27, pages, 0, from, nothing, to),
            Self::LabStride { pages } => (28, 0, 0, pages, nothing, 0),
            Self::Protect { slot, pages, write } => (30, pages, u8::from(write), slot, nothing, 0),
            Self::Reset | Self::Lab { .. } | Self::LabMap { .. } | Self::Free(_) => {
                (24, 0, 0, 0, nothing, 0)
            }
        };
        let ([s0, s1], [p0, p1], [t0, t1]) =
            (slot.to_le_bytes(), place.page.to_le_bytes(), to.to_le_bytes());
        [op, a, b, place.arena, s0, s1, p0, p1, t0, t1]
    }

    /// The command that the bytes are, if they are one.
    pub(super) fn decode(bytes: [u8; COMMAND_BYTES]) -> Option<Self> {
        let [op, a, b, arena, s0, s1, p0, p1, t0, t1] = bytes;
        let slot = u16::from_le_bytes([s0, s1]);
        let place = ArenaPage { arena, page: u16::from_le_bytes([p0, p1]) };
        let to = u16::from_le_bytes([t0, t1]);
        Some(match op {
            1 => Self::Arm { slot, place, write: a != 0 },
            2 => Self::Install { slot, place, write: a != 0 },
            3 => Self::InstallPrivate { slot, place, write: a != 0 },
            4 => Self::InstallAnon { slot, write: a != 0 },
            5 => Self::Zap { slot },
            6 => Self::NoBacking { slot, write: a != 0 },
            7 => Self::Unmap { slot },
            8 => Self::Move { from: slot, to },
            9 => Self::BreakCow { slot },
            10 => Self::Touch { slot, write: a != 0 },
            11 => Self::Load { slot },
            12 => Self::Store { slot, value: a },
            13 => Self::Pin { pin: a, slot, how: PinHow::decode(b)? },
            14 => Self::Unpin { pin: a },
            15 => Self::DmaStart { pin: a, write: b != 0 },
            16 => Self::DmaWrite { pin: a, value: b },
            17 => Self::DmaRead { pin: a },
            18 => Self::BusMap { place },
            19 => Self::BusUnmap { place },
            20 => Self::BusLoad { place },
            21 => Self::BusStore { place, value: a },
            22 => Self::Fork { child: a },
            23 => Self::Witness { place },
            24 => Self::Reset,
            25 => {
                let flags = u16::from_le_bytes([p0, p1]);
                Self::Lab { op: Op::of(a)?, obj: b, page: arena, flags, slot, value: t0 }
            }
            26 => {
                let how = LabMap::decode(b, arena);
                Self::LabMap { buf: a, how, slot, pages: p0, offset: p1 }
            }
            27 => Self::LabMove { from: slot, to, pages: a },
            28 => Self::LabStride { pages: slot },
            29 => Self::Free(FreeCommand::decode(a, b, arena, slot)?),
            30 => Self::Protect { slot, pages: a, write: b != 0 },
            _ => return None,
        })
    }
}

impl LabMap {
    fn encode(self) -> (u8, u8) {
        let bits =
            u8::from(self.shared) | u8::from(self.write) << 1 | u8::from(self.anonymous) << 2;
        (self.importer.unwrap_or(u8::MAX), bits)
    }

    fn decode(importer: u8, bits: u8) -> Self {
        Self {
            importer: Some(importer).filter(|how| *how != u8::MAX),
            shared: bits & 1 != 0,
            write: bits & 2 != 0,
            anonymous: bits & 4 != 0,
        }
    }
}

impl PinHow {
    const fn decode(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Uring),
            1 => Some(Self::Vmsplice),
            2 => Some(Self::Force),
            _ => None,
        }
    }
}

impl CommandResult {
    /// The answer on the wire.
    pub(super) fn encode(self) -> [u8; ANSWER_BYTES] {
        let (tag, a, wide) = match self {
            Self::Done => (1, 0, 0),
            Self::Value(value) => (2, value, 0),
            Self::Torn { first, others } => (3, first, u32::from(others)),
            Self::Sigbus => (4, 0, 0),
            Self::Sigsegv => (5, 0, 0),
            Self::Refused(errno) => (6, 0, errno.raw_os_error().cast_unsigned()),
            Self::Pid(pid) => (7, 0, pid),
            Self::Failed(errno) => (8, 0, errno.raw_os_error().cast_unsigned()),
            Self::Word { low, high } => (9, low, high),
            Self::LeftOut => (10, 0, 0),
        };
        let [w0, w1, w2, w3] = wide.to_le_bytes();
        [tag, a, 0, 0, w0, w1, w2, w3]
    }

    /// The answer that the bytes are, if they are one.
    pub(super) fn decode(bytes: [u8; ANSWER_BYTES]) -> Option<Self> {
        let [tag, a, _, _, w0, w1, w2, w3] = bytes;
        let wide = u32::from_le_bytes([w0, w1, w2, w3]);
        let errno = || Errno::from_raw_os_error(wide.cast_signed());
        Some(match tag {
            1 => Self::Done,
            2 => Self::Value(a),
            3 => Self::Torn { first: a, others: u16::from_le_bytes([w0, w1]) },
            4 => Self::Sigbus,
            5 => Self::Sigsegv,
            6 => Self::Refused(errno()),
            7 => Self::Pid(wide),
            8 => Self::Failed(errno()),
            9 => Self::Word { low: a, high: wide },
            10 => Self::LeftOut,
            _ => return None,
        })
    }

    /// What was seen, in words.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Done => "done".to_owned(),
            Self::Value(value) => format!("value {value} ({value:#04x})"),
            Self::Torn { first, others } => {
                format!(
                    "a torn page: byte 0 is {first}, {others} of {} bytes are not",
                    page_bytes()
                )
            }
            Self::Sigbus => "SIGBUS".to_owned(),
            Self::Sigsegv => "SIGSEGV".to_owned(),
            Self::Refused(errno) => format!("{errno:?}"),
            Self::Pid(pid) => format!("process {pid}"),
            Self::Failed(errno) => format!("a failure of the executor ({errno:?})"),
            Self::LeftOut => "left out".to_owned(),
            Self::Word { low, high: u32::MAX } => format!("{low:#04x}, no frame of the test"),
            Self::Word { low, high } => format!("{low:#04x}, frame {high}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_survives_the_wire() {
        let place = ArenaPage { arena: 5, page: 513 };
        let slot = 259;
        let commands = [
            Command::Arm { slot, place, write: true },
            Command::Install { slot, place, write: false },
            Command::InstallPrivate { slot, place, write: true },
            Command::InstallAnon { slot, write: true },
            Command::Zap { slot },
            Command::NoBacking { slot, write: true },
            Command::Unmap { slot },
            Command::Move { from: slot, to: 772 },
            Command::BreakCow { slot },
            Command::Touch { slot, write: true },
            Command::Load { slot },
            Command::Store { slot, value: 7 },
            Command::Pin { pin: 3, slot, how: PinHow::Force },
            Command::Unpin { pin: 3 },
            Command::DmaStart { pin: 3, write: true },
            Command::DmaWrite { pin: 3, value: 9 },
            Command::DmaRead { pin: 3 },
            Command::BusMap { place },
            Command::BusUnmap { place },
            Command::BusLoad { place },
            Command::BusStore { place, value: 9 },
            Command::Fork { child: 2 },
            Command::Witness { place },
            Command::Lab { op: Op::Gup, obj: 1, page: 2, flags: 0x304, slot, value: 5 },
            Command::LabMove { from: slot, to: 772, pages: 8 },
            Command::Protect { slot, pages: 8, write: true },
            Command::Protect { slot, pages: 1, write: false },
            Command::LabStride { pages: 256 },
            Command::LabMap {
                buf: 1,
                how: LabMap { importer: Some(3), shared: true, write: false, anonymous: false },
                slot,
                pages: 8,
                offset: 2,
            },
            Command::Free(FreeCommand::Begin { cpu: 1 }),
            Command::Free(FreeCommand::Barrier { parties: 3 }),
            Command::Free(FreeCommand::Pause { spins: 772 }),
            Command::Free(FreeCommand::Statement),
            Command::Free(FreeCommand::IfRefused { skip: 4 }),
            Command::Free(FreeCommand::IfDone { skip: 4 }),
            Command::Free(FreeCommand::Skip { skip: 4 }),
            Command::Free(FreeCommand::Back { back: 2 }),
            Command::Free(FreeCommand::Await { flag: 9, skip: 4 }),
            Command::Free(FreeCommand::Raise { flag: 9 }),
            Command::Reset,
        ];
        for command in commands {
            assert_eq!(Command::decode(command.encode()), Some(command));
        }
        assert_eq!(Command::decode([0; COMMAND_BYTES]), None);
        assert_eq!(Command::decode([255; COMMAND_BYTES]), None);
    }

    #[test]
    fn every_answer_survives_the_wire() {
        let answers = [
            CommandResult::Done,
            CommandResult::Value(7),
            CommandResult::Torn { first: 1, others: 4095 },
            CommandResult::Sigbus,
            CommandResult::Sigsegv,
            CommandResult::Refused(Errno::FAULT),
            CommandResult::Pid(1 << 22),
            CommandResult::Failed(Errno::NOMEM),
            CommandResult::Word { low: 3, high: u32::MAX },
            CommandResult::LeftOut,
        ];
        for answer in answers {
            assert_eq!(CommandResult::decode(answer.encode()), Some(answer));
        }
        assert_eq!(CommandResult::decode([0; ANSWER_BYTES]), None);
    }
}
