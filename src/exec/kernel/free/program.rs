//! A process's program as a batch that it takes by itself.
//!
//! Each step is the same call of the module as in lockstep. Beside them stands what a conductor did there:
//! what is refused ends its statement and gives back what it had in hand, who needs what another process
//! makes waits for a flag, and what a driver looks at before it uses an address it looks at itself.

use std::collections::BTreeMap;

use super::super::super::command::{BATCH_MAX, Command, FreeCommand, LabMap};
use super::super::super::error::Skip;
use super::super::super::plan::Steps;
use super::super::expect;
use super::super::huge::Layout;
use crate::model::{Dir, Foll, Mmap, Notifier, Operation, Placement, Step, SyncForward};
use crate::question::scenario::{Action, Scenario, SlotId};
use crate::uapi::lab::{
    FOLL_FAST, FOLL_FAULTS, FOLL_WATCH, FOLL_WRITE, IMPORT_NODE, LOCK_WAITS, Op,
};
use crate::units::{BufId, FenceId, PageSet, PinId, VmaId};

/// Where in a batch the answer is that tells how an instruction went; the second one counts where the first
/// says EAGAIN.
pub(super) type Answer = (usize, Option<usize>);

/// What a process is asked in one run.
#[derive(Debug, Clone, Default)]
pub(super) struct FreeProgram {
    /// The batch.
    pub(super) commands: Vec<Command>,
    /// By instruction, where in it the answers are.
    pub(super) answers: Vec<Option<Answer>>,
}

/// What one process waits for that another makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flag {
    Slot(u8),
    Pin(u8),
    Attachment(u8),
    Sg(u8),
    Fence(u8),
}

/// Where a placement's frames are free.
pub(super) const fn pool(placement: Placement) -> u8 {
    match placement {
        Placement::Vram => 0,
        Placement::System => 1,
        Placement::Cma => 2,
    }
}

/// All processes' batches.
pub(super) fn programs(scenario: &Scenario, layout: &Layout) -> Result<Vec<FreeProgram>, Skip> {
    let steps = Steps::of(scenario);
    let slots = steps.slots(scenario)?;
    let flags = flags(scenario);
    let mut all = Vec::new();
    for process in 0..scenario.programs.len() {
        let mut builder = Builder {
            scenario,
            steps: &steps,
            slots: &slots,
            flags: &flags,
            process,
            program: FreeProgram::default(),
            to_end: Vec::new(),
            fenced: Vec::new(),
            held: Vec::new(),
        };
        builder.all(layout)?;
        if builder.program.commands.len() > BATCH_MAX {
            return Err(Skip::new("a process takes more steps than fit into one batch"));
        }
        all.push(builder.program);
    }
    Ok(all)
}

/// A number for each thing that a process may have to wait for.
fn flags(scenario: &Scenario) -> BTreeMap<Flag, u8> {
    let mut flags = Vec::new();
    for program in &scenario.programs {
        for instruction in &program.instructions {
            match &instruction.action {
                Action::Await(SlotId(slot)) => flags.push(Flag::Slot(*slot)),
                Action::Step(step) => flags.extend(made(step)),
            }
        }
    }
    flags.sort_unstable();
    flags.dedup();
    (0..=u8::MAX).zip(flags).map(|(number, flag)| (flag, number)).collect()
}

/// What a step makes that others may wait for.
fn made(step: &Step) -> Option<Flag> {
    match *step {
        Step::GupSlow { pin, .. } | Step::FollowPfn { pin, .. } => Some(Flag::Pin(pin.0)),
        Step::Attach { attachment, .. } => Some(Flag::Attachment(attachment.0)),
        Step::Map(sg) => Some(Flag::Sg(sg.0)),
        Step::Submit { fence, .. } => Some(Flag::Fence(fence.0)),
        Step::Mmap(_)
        | Step::Munmap { .. }
        | Step::FreePgtables(_)
        | Step::FinishMmu(_)
        | Step::Mremap { .. }
        | Step::Mprotect { .. }
        | Step::Load { .. }
        | Step::Store { .. }
        | Step::GupFast { .. }
        | Step::FrameVectorCheck { .. }
        | Step::Unpin(_)
        | Step::Detach(_)
        | Step::Unmap(_)
        | Step::Validate { .. }
        | Step::Signal(_)
        | Step::DmaStart { .. }
        | Step::DmaFinish { .. }
        | Step::DmaBufPin(_)
        | Step::DmaBufUnpin(_)
        | Step::SyncStart { .. }
        | Step::SyncEnd { .. }
        | Step::Exporter { .. }
        | Step::Alloc(_)
        | Step::Close(_)
        | Step::Fork { .. }
        | Step::EvictCache(_)
        | Step::ResvLock(_)
        | Step::ResvUnlock(_)
        | Step::DrawTicket
        | Step::LockAll(_)
        | Step::MmapLock { .. }
        | Step::MmapUnlock(_)
        | Step::FlushTlb(_) => None,
    }
}

/// The arguments of a step of the module.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Call {
    pub(super) obj: u8,
    pub(super) page: u8,
    pub(super) flags: u16,
    pub(super) slot: u16,
    pub(super) value: u8,
}

/// One process's batch as it is made.
pub(super) struct Builder<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) steps: &'a Steps<'a>,
    slots: &'a [u16],
    flags: &'a BTreeMap<Flag, u8>,
    pub(super) process: usize,
    pub(super) program: FreeProgram,
    /// Commands that leave out the rest of the statement.
    pub(super) to_end: Vec<usize>,
    /// Buffers on which this process has a fence that it has not signalled.
    pub(super) fenced: Vec<(FenceId, BufId)>,
    /// Buffers that this process has reserved by itself.
    pub(super) held: Vec<BufId>,
}

impl Builder<'_> {
    fn all(&mut self, layout: &Layout) -> Result<(), Skip> {
        let cpu = u8::try_from(self.process).unwrap_or(0);
        self.free(FreeCommand::Begin { cpu });
        if let Some(per_block) = layout.per_block {
            let pages = super::super::huge::HUGE_PAGES / u16::from(per_block);
            self.program.commands.push(Command::LabStride { pages });
        }
        let parties = u8::try_from(self.scenario.programs.len()).unwrap_or(u8::MAX);
        self.free(FreeCommand::Barrier { parties });
        let program = &self.scenario.programs[self.process];
        for (index, statement) in program.statements.iter().enumerate() {
            self.free(FreeCommand::Statement);
            let mut raised = Vec::new();
            for instruction in &program.instructions[statement.first..statement.end] {
                debug_assert_eq!(instruction.statement, index);
                self.free(FreeCommand::Pause { spins: 0 });
                match &instruction.action {
                    Action::Await(SlotId(slot)) => {
                        let number = self.flags[&Flag::Slot(*slot)];
                        self.free(FreeCommand::Await { flag: number, skip: 0 });
                        self.program.answers.push(None);
                    }
                    Action::Step(step) => {
                        self.step(step, instruction.soft)?;
                        raised.extend(made(step));
                    }
                }
            }
            self.end_of_statement();
            raised.extend(statement.slots.all().map(|slot| Flag::Slot(slot.0)));
            for flag in raised {
                if let Some(&flag) = self.flags.get(&flag) {
                    self.free(FreeCommand::Raise { flag });
                }
            }
        }
        Ok(())
    }

    pub(super) fn free(&mut self, command: FreeCommand) {
        self.program.commands.push(Command::Free(command));
    }

    /// Whatever leaves out the rest of the statement goes on here.
    fn end_of_statement(&mut self) {
        let end = self.program.commands.len();
        for at in std::mem::take(&mut self.to_end) {
            let left = u8::try_from(end - at - 1).unwrap_or(u8::MAX);
            if let Command::Free(command) = &mut self.program.commands[at] {
                *command = match *command {
                    FreeCommand::IfRefused { .. } => FreeCommand::IfRefused { skip: left },
                    FreeCommand::Await { flag, .. } => FreeCommand::Await { flag, skip: left },
                    FreeCommand::Skip { .. } => FreeCommand::Skip { skip: left },
                    FreeCommand::Begin { .. }
                    | FreeCommand::Barrier { .. }
                    | FreeCommand::Pause { .. }
                    | FreeCommand::Statement
                    | FreeCommand::IfDone { .. }
                    | FreeCommand::Back { .. }
                    | FreeCommand::Raise { .. } => *command,
                };
            }
        }
    }

    /// What follows is left out where nobody made this.
    pub(super) fn needs(&mut self, flag: Flag) {
        if let Some(&flag) = self.flags.get(&flag) {
            self.to_end.push(self.program.commands.len());
            self.free(FreeCommand::Await { flag, skip: 0 });
        }
    }

    fn command(&mut self, command: Command) -> usize {
        self.program.commands.push(command);
        self.program.commands.len() - 1
    }

    pub(super) fn lab(&mut self, op: Op, call: Call) -> usize {
        let Call { obj, page, flags, slot, value } = call;
        self.command(Command::Lab { op, obj, page, flags, slot, value })
    }

    /// A refusal ends the statement.
    pub(super) fn or_end(&mut self, soft: bool) {
        if !soft {
            self.to_end.push(self.program.commands.len());
            self.free(FreeCommand::IfRefused { skip: 0 });
        }
    }

    fn slot(&self, vma: VmaId, page: u8) -> u16 {
        self.slots[vma.index()] + u16::from(page)
    }

    fn step(&mut self, step: &Step, soft: bool) -> Result<(), Skip> {
        let at = self.calls(step)?;
        self.program.answers.push(at);
        // What an exporter has in hand goes back first: see there.
        if at.is_some() && !matches!(step, Step::Exporter { .. }) {
            self.or_end(soft);
        }
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "one arm a step, nothing to share")]
    /// The calls of a step, and where the answers are that tell how it went.
    fn calls(&mut self, step: &Step) -> Result<Option<Answer>, Skip> {
        let on = |obj: u8| Call { obj, ..Call::default() };
        let at = match *step {
            Step::Mmap(mmap) => self.mmap(&mmap),
            Step::Munmap { vma, pages } => self.munmap(vma, pages),
            Step::Load { vma, page } => self.command(Command::Load { slot: self.slot(vma, page) }),
            Step::Store { vma, page, value } => {
                self.command(Command::Store { slot: self.slot(vma, page), value })
            }
            // The kernel goes from one to the other by itself.
            Step::GupFast { .. } => return Ok(None),
            Step::GupSlow { pin, vma, page, foll } => self.gup(pin, (vma, page), foll)?,
            Step::FollowPfn { pin, vma, page, write } => self.pfn(pin, (vma, page), write)?,
            Step::Unpin(pin) => {
                self.needs(Flag::Pin(pin.0));
                self.lab(Op::GupPut, on(pin.0))
            }
            Step::Attach { attachment, buf, via, dynamic } => {
                self.attach(attachment, (buf, via), dynamic)?
            }
            Step::Detach(attachment) => {
                self.needs(Flag::Attachment(attachment.0));
                self.lab(Op::Detach, on(attachment.0))
            }
            Step::Map(sg) => {
                let page = self.scenario.world.attachment_of(sg).0;
                self.needs(Flag::Attachment(page));
                self.lab(Op::Map, Call { page, ..on(sg.0) })
            }
            Step::Unmap(sg) => {
                self.needs(Flag::Sg(sg.0));
                self.lab(Op::Unmap, on(sg.0))
            }
            Step::Validate { sg, .. } => self.validate(sg)?,
            Step::Submit { fence, sg, usage, .. } => {
                let buf = self.buf_of(sg)?;
                let flags = expect::usage(usage);
                let at = self.lab(Op::Fence, Call { page: buf.0, flags, ..on(fence.0) });
                if !self.held.contains(&buf) {
                    self.lab(Op::Unlock, on(buf.0));
                }
                self.fenced.push((fence, buf));
                at
            }
            Step::Signal(fence) => {
                self.needs(Flag::Fence(fence.0));
                self.fenced.retain(|(of, _)| *of != fence);
                self.lab(Op::Signal, on(fence.0))
            }
            Step::DmaBufPin(attachment) => {
                self.needs(Flag::Attachment(attachment.0));
                self.lab(Op::Pin, on(attachment.0))
            }
            Step::DmaBufUnpin(attachment) => {
                self.needs(Flag::Attachment(attachment.0));
                self.lab(Op::Unpin, on(attachment.0))
            }
            Step::SyncStart { buf, access, via } | Step::SyncEnd { buf, access, via } => {
                let dropped =
                    via.is_some() && self.scenario.world.importer(via).sync == SyncForward::Dropped;
                if dropped {
                    return Ok(None);
                }
                let op = if matches!(step, Step::SyncStart { .. }) {
                    Op::SyncStart
                } else {
                    Op::SyncEnd
                };
                let flags = u16::from(access.read) | u16::from(access.write) << 1;
                self.lab(op, Call { flags, ..on(buf.0) })
            }
            Step::DmaStart { via, page, dir } => return self.dma_start(via, page, dir).map(Some),
            Step::DmaFinish { dir, .. } => {
                let obj = u8::try_from(self.process).unwrap_or(u8::MAX);
                match dir {
                    Dir::Write(value) => self.lab(Op::DmaWrite, Call { value, ..on(obj) }),
                    Dir::Read | Dir::Prefetch => self.lab(Op::DmaRead, on(obj)),
                }
            }
            Step::Exporter { buf, step, page, operation } => {
                if self.held.contains(&buf) {
                    return Err(Skip::with_remedy(
                        "an operation under a reservation that its process has anyway",
                        "use `replay --kernel`",
                    ));
                }
                return Ok(self.exporter(buf, (step, page, operation)));
            }
            Step::Alloc(buf) => {
                let decl = self.scenario.world.buf(buf);
                let (flags, value) = (pool(decl.placement).into(), decl.fill);
                self.lab(Op::Export, Call { flags, value, ..on(buf.0) })
            }
            Step::Close(buf) => self.lab(Op::Close, on(buf.0)),
            Step::ResvLock(buf) => {
                self.held.push(buf);
                self.lab(Op::Lock, Call { flags: LOCK_WAITS, ..on(buf.0) })
            }
            Step::ResvUnlock(buf) => {
                self.held.retain(|held| *held != buf);
                self.lab(Op::Unlock, on(buf.0))
            }
            Step::Mremap { .. }
            | Step::FreePgtables(_)
            | Step::FinishMmu(_)
            | Step::FrameVectorCheck { .. }
            | Step::Fork { .. }
            | Step::Mprotect { .. }
            | Step::EvictCache(_)
            | Step::DrawTicket
            | Step::LockAll(_)
            | Step::MmapLock { .. }
            | Step::MmapUnlock(_)
            | Step::FlushTlb(_) => {
                return Err(Skip::new("a step that a process can't take by itself"));
            }
        };
        Ok(Some((at, None)))
    }

    fn mmap(&mut self, mmap: &Mmap) -> usize {
        let world = &self.scenario.world;
        let importer = if mmap.via.is_some() {
            Some(expect::importer_flags(world.importer(mmap.via).mmap))
        } else {
            mmap.node.then_some(IMPORT_NODE)
        };
        let how = LabMap {
            importer,
            shared: mmap.shared,
            write: mmap.write,
            anonymous: mmap.buf.is_none(),
        };
        self.command(Command::LabMap {
            buf: if mmap.buf.is_some() { mmap.buf.0 } else { 0 },
            how,
            slot: self.slot(mmap.vma, 0),
            pages: world.vma_pages(mmap.vma),
            offset: mmap.offset,
        })
    }

    /// A page at a time; the last answer is the statement's.
    fn munmap(&mut self, vma: VmaId, pages: PageSet) -> usize {
        let mut at = 0;
        for page in (0..self.scenario.world.vma_pages(vma)).filter(|page| pages & (1 << page) != 0)
        {
            at = self.command(Command::Unmap { slot: self.slot(vma, page) });
        }
        at
    }

    /// Whose page tables a step looks at: a process's own.
    fn own(&self, vma: VmaId) -> Result<(), Skip> {
        if self.scenario.world.mm_of(vma).index() == self.process {
            return Ok(());
        }
        Err(Skip::new("who pins a page of another process does it in that one's place"))
    }

    fn gup(&mut self, pin: PinId, place: (VmaId, u8), foll: Foll) -> Result<usize, Skip> {
        self.own(place.0)?;
        Ok(self.lab(Op::Gup, self.gup_call(pin, place, foll)))
    }

    pub(super) fn gup_call(&self, pin: PinId, (vma, page): (VmaId, u8), foll: Foll) -> Call {
        let flags = expect::gup_flags(foll) | FOLL_FAST | self.watch(pin);
        Call { obj: pin.0, slot: self.slot(vma, page), flags, ..Call::default() }
    }

    fn pfn(&mut self, pin: PinId, place: (VmaId, u8), write: bool) -> Result<usize, Skip> {
        self.own(place.0)?;
        Ok(self.lab(Op::Pfn, self.pfn_call(pin, place, write)))
    }

    pub(super) fn pfn_call(&self, pin: PinId, (vma, page): (VmaId, u8), write: bool) -> Call {
        let write = if write { FOLL_WRITE } else { 0 };
        let flags = FOLL_FAULTS | write | self.watch(pin);
        Call { obj: pin.0, slot: self.slot(vma, page), flags, ..Call::default() }
    }

    fn watch(&self, pin: PinId) -> u16 {
        if self.scenario.world.notifier_of(pin) == Notifier::None { 0 } else { FOLL_WATCH }
    }
}

/// Whether processes have anonymous memory or private copies.
pub(super) fn has_pages_of_its_own(scenario: &Scenario) -> bool {
    let private = |step: &Step| matches!(step, Step::Mmap(mmap) if !mmap.shared);
    Steps::of(scenario).all.iter().any(|(_, step)| private(step))
}

/// Whether frames of system memory come and go.
pub(super) fn system_frames_change(scenario: &Scenario) -> bool {
    let world = &scenario.world;
    let system = |buf: BufId| world.buf(buf).placement == Placement::System;
    let changes = |step: &Step| {
        if let Step::Exporter { buf, operation, .. } = *step {
            system(buf) || operation == Operation::Move(Placement::System)
        } else if let Step::Alloc(buf) | Step::Close(buf) = *step {
            system(buf)
        } else {
            false
        }
    };
    Steps::of(scenario).all.iter().any(|(_, step)| changes(step))
}
