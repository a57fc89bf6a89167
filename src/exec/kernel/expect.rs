//! The model's words as the laboratory's.

use rustix::io::Errno;

use super::super::command::CommandResult;
use crate::model::{
    self, Cow, ExporterRules, FaultLock, FaultPage, FaultPurged, FaultWait, Foll, Huge,
    ImporterMmap, MmapCheck, MmapKind, OnDmaBufPin, OnForeignPin, Recycle, Reply, Signal, Usage,
    WaitFor, YesNo, ZapReach,
};
use crate::uapi::lab;

/// What an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// It succeeds, with whatever value.
    Done,
    /// It succeeds and says this.
    Value(u8),
    /// The page that it found is this frame, as the laboratory numbers them; none: a page that is none
    /// of its own.
    Frame(Option<u8>),
    /// It is refused.
    Errno(model::Errno),
    /// `get_user_pages` finds an entry without a page (`follow_pfn_pte`, mm/gup.c): EEXIST, where the
    /// model says EFAULT.
    NoPage,
    /// It can't be had without waiting: `dma_resv_trylock` fails, or a fence has not signalled.
    Held,
    /// The access ends so.
    Signal(Signal),
}

impl Expect {
    /// Refused as in the model, or done.
    pub(super) const fn refusal(reply: Reply) -> Self {
        match reply {
            Reply::Errno(errno) => Self::Errno(errno),
            Reply::Done | Reply::Value(_) | Reply::Again | Reply::Signal(_) | Reply::Skipped => {
                Self::Done
            }
        }
    }

    pub(super) fn fits(self, answer: CommandResult) -> bool {
        match (self, answer) {
            (Self::Done, CommandResult::Done | CommandResult::Word { .. })
            | (Self::Signal(Signal::Sigbus), CommandResult::Sigbus)
            | (Self::Signal(Signal::Sigsegv), CommandResult::Sigsegv) => true,
            (Self::Value(model), CommandResult::Value(real)) => model == real,
            (Self::Value(model), CommandResult::Word { low, high: 0 }) => model == low,
            (Self::Frame(frame), CommandResult::Word { high, .. }) => {
                high == frame.map_or(lab::NO_FRAME, u32::from)
            }
            (Self::Errno(model), CommandResult::Refused(real)) => errno(model) == real,
            (Self::Held, CommandResult::Refused(real)) => {
                matches!(real, Errno::DEADLK | Errno::ALREADY | Errno::TIME)
            }
            (Self::NoPage, CommandResult::Refused(real)) => real == Errno::EXIST,
            _ => false,
        }
    }

    pub(super) fn describe(self) -> String {
        match self {
            Self::Done => "done".to_owned(),
            Self::Value(value) => CommandResult::Value(value).describe(),
            Self::Frame(Some(frame)) => format!("frame {frame}"),
            Self::Frame(None) => "a page of the process's own".to_owned(),
            Self::Errno(errno) => errno.to_string(),
            Self::Held => "somebody has it".to_owned(),
            Self::NoPage => "EEXIST: an entry without a page".to_owned(),
            Self::Signal(signal) => signal.to_string(),
        }
    }
}

pub(super) const fn errno(model: model::Errno) -> Errno {
    match model {
        model::Errno::Efault => Errno::FAULT,
        model::Errno::Ebusy => Errno::BUSY,
        model::Errno::Einval => Errno::INVAL,
        model::Errno::Enomem => Errno::NOMEM,
        model::Errno::Enodev => Errno::NODEV,
        model::Errno::Eacces => Errno::ACCESS,
        model::Errno::Eperm => Errno::PERM,
    }
}

/// EXPORT's flags.
pub(super) fn exporter_flags(rules: &ExporterRules, check: MmapCheck) -> u32 {
    let mmap = match rules.mmap {
        MmapKind::Pfnmap => lab::MMAP_PFNMAP,
        MmapKind::RemapPfnRange => lab::MMAP_REMAP,
        MmapKind::PfnmapUnmarked => lab::MMAP_UNMARKED,
        MmapKind::MixedmapInsertPfn => lab::MMAP_MIXED_PFN,
        MmapKind::MixedmapInsertPage => lab::MMAP_MIXED_PAGE,
        MmapKind::Shmem => lab::MMAP_SHMEM,
    };
    let flag = |on: bool, flag: u16| if on { flag } else { 0 };
    let by_pfn = matches!(rules.mmap, MmapKind::Pfnmap | MmapKind::MixedmapInsertPfn);
    let flags = mmap
        | flag(rules.cow == Cow::Reject, lab::COW_REJECT)
        | flag(rules.fault == FaultLock::Unlocked, lab::FAULT_UNLOCKED)
        | flag(rules.zap == ZapReach::VmaPointer, lab::ZAP_POINTER)
        | flag(rules.zap == ZapReach::WrongRange, lab::ZAP_LATE)
        | flag(rules.on_dma_buf_pin == OnDmaBufPin::Ignore, lab::PINS_IGNORED)
        | flag(rules.on_foreign_pin == OnForeignPin::Refuse, lab::REFS_REFUSE)
        | flag(rules.vm_io == YesNo::Yes, lab::VM_IO)
        | flag(rules.huge != Huge::None && by_pfn, lab::HUGE)
        | flag(rules.huge == Huge::Plain, lab::HUGE_PLAIN)
        | flag(rules.vm_dontcopy.yes(), lab::DONTCOPY)
        | flag(rules.zap == ZapReach::VmStart, lab::ZAP_START)
        | flag(check == MmapCheck::Warn, lab::CHECK_WARN)
        | flag(check == MmapCheck::Refuse, lab::CHECK_REFUSE);
    let large = |on: bool, flag: u32| if on { flag } else { 0 };
    u32::from(flags)
        | large(rules.zap == ZapReach::WrongPgoff, lab::ZAP_NODE)
        | large(rules.fault_page == FaultPage::FromStart, lab::FAULT_START)
        | large(rules.huge == Huge::Devmap, lab::HUGE_DEVMAP)
        | large(rules.fault_wait == FaultWait::Nothing, lab::FAULT_GOES_ON)
        | large(rules.fault_purged == FaultPurged::OldPage, lab::FAULT_PURGED)
        | large(rules.recycle == Recycle::Allocator, lab::COUNTED)
}

/// IMPORTER_FD's flags, in the order of the header.
pub(super) const fn importer_flags(mmap: ImporterMmap) -> u8 {
    match mmap {
        ImporterMmap::Redirect => 0,
        ImporterMmap::KeepFile => 1,
        ImporterMmap::WrongPgoff => 2,
        ImporterMmap::Shadow => 3,
        ImporterMmap::Forbid => 4,
        // Never asked: see `skip.rs`.
        ImporterMmap::Bypass | ImporterMmap::Aperture => lab::IMPORT_BYPASS,
    }
}

/// GUP's flags.
pub(super) const fn gup_flags(foll: Foll) -> u16 {
    let mut flags = 0;
    if foll.write {
        flags |= lab::FOLL_WRITE;
    }
    if foll.force {
        flags |= lab::FOLL_FORCE;
    }
    if foll.longterm {
        flags |= lab::FOLL_LONGTERM;
    }
    if foll.get {
        flags |= lab::FOLL_GET;
    }
    flags
}

/// `enum dma_resv_usage`.
pub(super) const fn usage(usage: Usage) -> u16 {
    match usage {
        Usage::Kernel => 0,
        Usage::Write => 1,
        Usage::Read => 2,
        Usage::Bookkeep => 3,
    }
}

/// The usage that a move waits for.
pub(super) const fn wait(wait: WaitFor) -> u16 {
    match wait {
        WaitFor::Kernel => 0,
        WaitFor::Write => 1,
        WaitFor::Read => 2,
        WaitFor::Bookkeep => 3,
    }
}
