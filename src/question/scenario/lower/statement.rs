//! The steps of one statement.

use super::devices::has_target;
use super::{LowerError, Lowering};
use crate::litmus::ast::{self, GupFlags, Op, PageRef, SyncPhase};
use crate::model::{Dir, Foll, Handle, Mmap, Operation, Placement, Reservations, Step, SyncAccess};
use crate::question::scenario::program::{Action, Device};
use crate::units::{ActorId, BufId, FenceId, ImporterId, PageSet, PinId, SgId, VmaId};

/// Actions, and whether an errno of each is only taken note of.
pub(super) type Actions = Vec<(Action, bool)>;

fn hard(steps: impl IntoIterator<Item = Step>) -> Actions {
    steps.into_iter().map(|step| (Action::Step(step), false)).collect()
}

fn foll(flags: GupFlags) -> Foll {
    Foll { write: flags.write, force: flags.force, longterm: flags.longterm, get: flags.get }
}

impl Lowering<'_> {
    #[expect(clippy::too_many_lines, reason = "one arm a statement, nothing to share")]
    pub(super) fn actions(
        &self,
        process: &ast::Process,
        statement: &ast::Statement,
    ) -> Result<Actions, LowerError> {
        let of = process.index;
        let one = |step: Step| Ok(hard([step]));
        match &statement.op {
            Op::Mmap { mapping, buffer, sharing, protection, importer, node, offset, .. } => {
                one(Step::Mmap(Mmap {
                    vma: self.vma(of, mapping)?,
                    buf: self.buf(buffer)?,
                    offset: offset.unwrap_or(0),
                    shared: *sharing == ast::Sharing::Shared,
                    read: *protection != ast::Protection::Write,
                    write: *protection != ast::Protection::Read,
                    via: self.via(importer.as_ref())?,
                    node: *node,
                }))
            }
            Op::MmapAnon { mapping, protection, .. } => one(Step::Mmap(Mmap {
                vma: self.vma(of, mapping)?,
                buf: BufId::NONE,
                offset: 0,
                shared: false,
                read: *protection != ast::Protection::Write,
                write: *protection != ast::Protection::Read,
                via: ImporterId::NONE,
                node: false,
            })),
            Op::Munmap { mapping } => Ok(self.munmap(self.vma(of, mapping)?, PageSet::MAX)),
            Op::MunmapPage { at } => Ok(self.munmap(self.vma(of, &at.name)?, 1 << at.page)),
            Op::Mremap { new, old } => {
                one(Step::Mremap { to: self.vma(of, new)?, from: self.vma(of, old)? })
            }
            Op::Mprotect { mapping, protection } => one(Step::Mprotect {
                vma: self.vma(of, mapping)?,
                write: *protection == ast::Protection::ReadWrite,
            }),
            Op::Store { to, value } => {
                one(Step::Store { vma: self.vma(of, &to.name)?, page: to.page, value: *value })
            }
            Op::Load { from, .. } => {
                one(Step::Load { vma: self.vma(of, &from.name)?, page: from.page })
            }
            Op::Gup { pin, at, flags } => {
                let (pin, vma) = (self.pin(pin)?, self.vma(of, &at.name)?);
                Ok(hard(gup(pin, vma, at.page, foll(*flags))))
            }
            Op::Unpin { pin } => match self.devices.get(pin.as_str()) {
                Some(Device::Handle(Handle::Pin(first), count)) => {
                    Ok(hard((first.0..first.0 + count).map(|pin| Step::Unpin(PinId(pin)))))
                }
                _ => Err(Self::unknown("pin", pin)),
            },
            Op::FollowPfn { cache, at, .. } => {
                let vma = self.vma(of, &at.name)?;
                one(Step::FollowPfn { pin: self.pin(cache)?, vma, page: at.page, write: true })
            }
            Op::FrameVector { vector, at, flags } => {
                self.frame_vector(process, vector, at, foll(*flags))
            }
            Op::DmaRead { from, .. } => self.dma(from, Dir::Read),
            Op::DmaWrite { to, value } => self.dma(to, Dir::Write(*value)),
            Op::Prefetch { at } => self.dma(at, Dir::Prefetch),
            Op::Sync { phase, buffer, access, importer } => {
                let access = SyncAccess {
                    read: *access != ast::SyncAccess::Write,
                    write: *access != ast::SyncAccess::Read,
                };
                let (buf, via) = (self.buf(buffer)?, self.via(importer.as_ref())?);
                one(match phase {
                    SyncPhase::Start => Step::SyncStart { buf, access, via },
                    SyncPhase::End => Step::SyncEnd { buf, access, via },
                })
            }
            Op::Move { buffer, to } => {
                let operation = Operation::Move(*to);
                Ok(hard(self.exporter_steps(self.buf(buffer)?, operation)))
            }
            Op::Purge { buffer } => {
                Ok(hard(self.exporter_steps(self.buf(buffer)?, Operation::Purge)))
            }
            Op::Revoke { buffer } => {
                Ok(hard(self.exporter_steps(self.buf(buffer)?, Operation::Revoke)))
            }
            Op::Alloc { buffer } => one(Step::Alloc(self.buf(buffer)?)),
            Op::Close { buffer } => one(Step::Close(self.buf(buffer)?)),
            Op::Fork { child } => {
                let ((parent_first, count), (child_first, _)) =
                    (self.areas[of], self.areas[child.index]);
                let child = ActorId::at(child.index);
                one(Step::Fork { child, parent_first, child_first, count })
            }
            Op::Await { label } => {
                let slot = self.slot(self.awaited(label));
                let slot = slot.ok_or_else(|| Self::unknown("label", label))?;
                Ok(vec![(Action::Await(slot), false)])
            }
            Op::EvictCache { at } => {
                let page = self.world.page(self.buf(&at.name)?, at.page);
                let page = page.ok_or_else(|| Self::unknown("page", &at.name))?;
                one(Step::EvictCache(page))
            }
            Op::Attach { attachment, buffer, mode } => one(Step::Attach {
                attachment: self.attachment(attachment)?,
                buf: self.buf(buffer)?,
                via: VmaId::NONE,
                dynamic: *mode == Some(ast::AttachMode::Dynamic),
            }),
            Op::AttachDmabufOf { attachment, mapping } => one(Step::Attach {
                attachment: self.attachment(attachment)?,
                buf: BufId::NONE,
                via: self.any_vma(of, mapping)?,
                dynamic: false,
            }),
            Op::Detach { attachment } => one(Step::Detach(self.attachment(attachment)?)),
            Op::Map { table, .. } => one(Step::Map(self.sg(table)?)),
            Op::Unmap { table } => one(Step::Unmap(self.sg(table)?)),
            Op::Submit { fence, table, usage } => {
                let writes = self.job_writes(of, fence, table);
                let (fence, sg, usage) = (self.fence(fence)?, self.sg(table)?, *usage);
                let submit = Step::Submit { fence, sg, usage, writes };
                Ok(hard([Step::Validate { fence, sg }, submit]))
            }
            Op::Signal { fence } => one(Step::Signal(self.fence(fence)?)),
            Op::DmaBufPin { attachment } => one(Step::DmaBufPin(self.attachment(attachment)?)),
            Op::DmaBufUnpin { attachment } => one(Step::DmaBufUnpin(self.attachment(attachment)?)),
            Op::FlushTlb { table } => one(Step::FlushTlb(self.sg(table)?)),
            Op::Lock { buffers, ticket: true } => {
                let bufs = self.bufs(buffers)?;
                Ok(hard([Step::DrawTicket, Step::LockAll(Reservations::new(bufs))]))
            }
            Op::Lock { buffers, ticket: false } => {
                Ok(hard(self.bufs(buffers)?.into_iter().map(Step::ResvLock)))
            }
            Op::Unlock { buffers } => {
                // Whoever does not have one of them gives the others back.
                let mut actions = hard(self.bufs(buffers)?.into_iter().map(Step::ResvUnlock));
                let others = actions.len().saturating_sub(1);
                actions[..others].iter_mut().for_each(|(_, soft)| *soft = true);
                Ok(actions)
            }
            Op::MmapLock { process, access } => one(Step::MmapLock {
                mm: self.world.mm(ActorId::at(process.index)),
                write: *access == ast::LockAccess::Write,
            }),
            Op::MmapUnlock { process } => {
                one(Step::MmapUnlock(self.world.mm(ActorId::at(process.index))))
            }
        }
    }

    /// In one step, where nobody else is in the address space; else in the parts between which a TLB may
    /// hold what the page table does not.
    fn munmap(&self, vma: VmaId, pages: PageSet) -> Actions {
        let first = Step::Munmap { vma, pages };
        if self.world.has_threads(self.world.mm_of(vma)) {
            hard([first, Step::FreePgtables(vma), Step::FinishMmu(vma)])
        } else {
            hard([first])
        }
    }

    /// Where a statement takes frames, and how many at most: of the faults of a mapping the copies,
    /// and places to migrate to.
    pub(super) fn frames_taken(&self, op: &Op) -> (Placement, usize) {
        match op {
            Op::Move { buffer, to } => (*to, usize::from(self.pages(buffer))),
            Op::MmapAnon { pages, .. } => (Placement::System, 2 * usize::from(pages.unwrap_or(1))),
            Op::Mmap { sharing: ast::Sharing::Private, buffer, .. } => {
                (Placement::System, 2 * usize::from(self.pages(buffer)))
            }
            Op::Fork { .. } => (Placement::System, 2),
            Op::Mmap { .. }
            | Op::Munmap { .. }
            | Op::MunmapPage { .. }
            | Op::Mremap { .. }
            | Op::Mprotect { .. }
            | Op::Store { .. }
            | Op::Load { .. }
            | Op::Gup { .. }
            | Op::Unpin { .. }
            | Op::FollowPfn { .. }
            | Op::FrameVector { .. }
            | Op::Attach { .. }
            | Op::AttachDmabufOf { .. }
            | Op::Detach { .. }
            | Op::Map { .. }
            | Op::Unmap { .. }
            | Op::Submit { .. }
            | Op::Signal { .. }
            | Op::DmaRead { .. }
            | Op::DmaWrite { .. }
            | Op::Prefetch { .. }
            | Op::DmaBufPin { .. }
            | Op::DmaBufUnpin { .. }
            | Op::Sync { .. }
            | Op::Purge { .. }
            | Op::Revoke { .. }
            | Op::Alloc { .. }
            | Op::Close { .. }
            | Op::Await { .. }
            | Op::EvictCache { .. }
            | Op::Lock { .. }
            | Op::Unlock { .. }
            | Op::MmapLock { .. }
            | Op::MmapUnlock { .. }
            | Op::FlushTlb { .. } => (Placement::System, 0),
        }
    }

    /// Whether the operation that `fence` stands for writes through `table`: between the two statements.
    fn job_writes(&self, of: usize, fence: &ast::Name, table: &ast::Name) -> bool {
        let process = self.variant.processes.iter().find(|process| process.index == of);
        let statements = process.into_iter().flat_map(|process| &process.statements);
        let submit = |op: &Op| matches!(op, Op::Submit { fence: of, .. } if of.text == fence.text);
        let signal = |op: &Op| matches!(op, Op::Signal { fence: of } if of.text == fence.text);
        let mut operation = statements
            .map(|statement| &statement.op)
            .skip_while(|op| !submit(op))
            .take_while(|op| !signal(op));
        operation.any(|op| matches!(op, Op::DmaWrite { to, .. } if to.name.text == table.text))
    }

    fn frame_vector(
        &self,
        process: &ast::Process,
        vector: &ast::Name,
        at: &[PageRef],
        foll: Foll,
    ) -> Result<Actions, LowerError> {
        let first = self.pin(vector)?;
        let mut actions = Vec::new();
        for (index, place) in (0u8..).zip(at) {
            let pin = PinId(first.0 + index);
            let vma = self.vma(process.index, &place.name)?;
            let steps = gup(pin, vma, place.page, foll);
            actions.extend(steps.map(|step| (Action::Step(step), true)));
            let pfn = Step::FollowPfn { pin, vma, page: place.page, write: foll.write };
            actions.push((Action::Step(pfn), true));
        }
        let count = u8::try_from(at.len()).unwrap_or(u8::MAX);
        let importer = self.user_of(process, vector)?;
        actions.push((Action::Step(Step::FrameVectorCheck { first, count, importer }), false));
        Ok(actions)
    }

    /// The importer whose driver takes a frame vector: the process's own, or that of the device
    /// that uses it.
    fn user_of(
        &self,
        process: &ast::Process,
        vector: &ast::Name,
    ) -> Result<ImporterId, LowerError> {
        if matches!(process.role, ast::Role::Device(Some(_))) {
            return self.importer_of(process);
        }
        let uses = |process: &&ast::Process| has_target(process, vector);
        match self.variant.processes.iter().find(uses) {
            Some(user) => self.importer_of(user),
            None => Ok(self.default_importer),
        }
    }

    fn dma(&self, at: &PageRef, dir: Dir) -> Result<Actions, LowerError> {
        let (via, page) = self.handle(at)?;
        Ok(hard([Step::DmaStart { via, page, dir }, Step::DmaFinish { via, page, dir }]))
    }

    fn via(&self, importer: Option<&ast::Name>) -> Result<ImporterId, LowerError> {
        importer.map_or(Ok(ImporterId::NONE), |name| self.importer(name))
    }

    /// A mapping of this process, or of the one process that has a mapping of that name: a driver
    /// looks at the memory of its caller.
    fn any_vma(&self, of: usize, name: &ast::Name) -> Result<VmaId, LowerError> {
        self.vma(of, name).or_else(|error| {
            let mut all = self.vmas.iter().filter(|((_, vma), _)| *vma == name.as_str());
            all.next().map(|(_, vma)| *vma).ok_or(error)
        })
    }

    fn bufs(&self, names: &[ast::Name]) -> Result<Vec<BufId>, LowerError> {
        names.iter().map(|name| self.buf(name)).collect()
    }

    fn pin(&self, name: &ast::Name) -> Result<PinId, LowerError> {
        match self.devices.get(name.as_str()) {
            Some(Device::Handle(Handle::Pin(pin), _)) => Ok(*pin),
            _ => Err(Self::unknown("pin", name)),
        }
    }

    fn sg(&self, name: &ast::Name) -> Result<SgId, LowerError> {
        match self.devices.get(name.as_str()) {
            Some(Device::Handle(Handle::Sg(sg), _)) => Ok(*sg),
            _ => Err(Self::unknown("sg_table", name)),
        }
    }

    fn fence(&self, name: &ast::Name) -> Result<FenceId, LowerError> {
        match self.devices.get(name.as_str()) {
            Some(Device::Fence(fence)) => Ok(*fence),
            _ => Err(Self::unknown("fence", name)),
        }
    }
}

fn gup(pin: PinId, vma: VmaId, page: u8, foll: Foll) -> impl Iterator<Item = Step> {
    [Step::GupFast { pin, vma, page, foll }, Step::GupSlow { pin, vma, page, foll }].into_iter()
}
