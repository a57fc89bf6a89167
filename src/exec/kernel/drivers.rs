//! Real drivers that export buffers to programs: how each maps, and how far a schedule goes there.
//!
//! What a driver's uAPI has is mmap and what follows from it; the laboratory adopts the dma-buf, so that
//! `get_user_pages`, page tables, attachments and the device's transfers are asked and compared as on its own.
//! A driver that a program can make a buffer of does not move it: a schedule is taken up to the first step
//! that only an exporter could take.

use rustix::io::Errno;

use super::super::conduct::Halt;
use super::super::error::{ExecError, Skip};
use super::super::plan::Steps;
use super::Bench;
use crate::model::{self, Cow, FaultPage, Huge, Life, MmapCheck, MmapKind, Step, World, YesNo};
use crate::question::scenario::{Replay, Scenario};
use crate::uapi::lab::{Op, Step as LabStep};
use crate::units::{BufId, FrameId};

/// A driver of the guest's kernel.
#[derive(Debug, Clone, Copy)]
pub struct Driver {
    /// What it is called.
    pub name: &'static str,
    /// How it fills page tables.
    pub mmap: MmapKind,
    /// What it does with MAP_PRIVATE.
    pub cow: Cow,
    /// Which page its fault handler shows.
    pub fault_page: FaultPage,
    /// A buffer of so many pages: a descriptor, or the errno.
    pub buffer: fn(u64) -> Result<u64, i32>,
    /// Closes it: the laboratory has the buffer by then.
    pub close: fn(u64),
}

impl Driver {
    /// Whether this is a question about a driver that maps as this one does.
    ///
    /// # Errors
    /// [`Skip`]: what is otherwise.
    pub fn maps_as(&self, scenario: &Scenario) -> Result<(), Skip> {
        let world = &scenario.world;
        if world.bounces() || world.host.dma_buf_mmap_check != MmapCheck::Off {
            return Err(Skip::new(
                "the driver's buffers do not bounce, and dma_buf_mmap checks nothing",
            ));
        }
        let bufs = || (0..world.bufs()).map(BufId::at);
        let other = |buf: BufId| {
            let rules = world.exporter_of(buf);
            rules.mmap != self.mmap
                || rules.cow != self.cow
                || rules.fault_page != self.fault_page && !plain(scenario)
                || rules.huge != Huge::None
                || rules.vm_dontcopy != YesNo::No
        };
        if bufs().next().is_none() || bufs().any(other) {
            return Err(Skip::new("no driver of the guest maps as this one does"));
        }
        if self.mmap == MmapKind::RemapPfnRange && private_range(scenario) {
            return Err(Skip::new("whether the pages of a driver's buffer lie together is luck"));
        }
        Ok(())
    }
}

/// Whether each mapping is one page at the beginning of its buffer, which a fault handler shows however it
/// counts.
fn plain(scenario: &Scenario) -> bool {
    let plain = |step: &Step| {
        if let Step::Mmap(mmap) = step {
            mmap.offset == 0 && scenario.world.vma_pages(mmap.vma) == 1
        } else {
            true
        }
    };
    Steps::of(scenario).all.iter().all(|(_, step)| plain(step))
}

/// Whether more than one page is mapped privately.
fn private_range(scenario: &Scenario) -> bool {
    let private = |step: &Step| {
        if let Step::Mmap(mmap) = step {
            !mmap.shared && mmap.buf.is_some() && scenario.world.vma_pages(mmap.vma) > 1
        } else {
            false
        }
    };
    Steps::of(scenario).all.iter().any(|(_, step)| private(step))
}

/// Whether a step is one that a program, an importer or its device takes: of an exporter there is a real one.
fn expressible(step: &Step) -> bool {
    match step {
        Step::Mmap(mmap) => mmap.via.is_none() && !mmap.node,
        Step::Munmap { .. }
        | Step::FreePgtables(_)
        | Step::FinishMmu(_)
        | Step::Mremap { .. }
        | Step::Mprotect { .. }
        | Step::Load { .. }
        | Step::Store { .. }
        | Step::GupFast { .. }
        | Step::GupSlow { .. }
        | Step::FollowPfn { .. }
        | Step::FrameVectorCheck { .. }
        | Step::Unpin(_)
        | Step::Fork { .. }
        | Step::Attach { .. }
        | Step::Detach(_)
        | Step::Map(_)
        | Step::Unmap(_)
        | Step::Validate { .. }
        | Step::Submit { .. }
        | Step::Signal(_)
        | Step::FlushTlb(_)
        | Step::SyncStart { .. }
        | Step::SyncEnd { .. }
        | Step::DmaStart { .. }
        | Step::DmaFinish { .. }
        | Step::MmapLock { .. }
        | Step::MmapUnlock(_)
        | Step::EvictCache(_) => true,
        // Its end would not be seen, and nobody is asked for a pin. Who has the reservation might be waited for:
        // an mmap of vgem takes it, too (drm_gem_shmem_mmap, 6.12; it hung).
        Step::ResvLock(_)
        | Step::ResvUnlock(_)
        | Step::DrawTicket
        | Step::LockAll(_)
        | Step::Exporter { .. }
        | Step::Alloc(_)
        | Step::Close(_)
        | Step::DmaBufPin(_)
        | Step::DmaBufUnpin(_) => false,
    }
}

impl Bench<'_> {
    /// Whether a step is beyond the driver that is asked.
    pub(super) fn beyond(&self, step: &Step) -> bool {
        self.driver.is_some() && !expressible(step)
    }

    /// The driver's buffers instead of the laboratory's, with the same content.
    pub(super) fn adopt(&mut self, model: &model::State, driver: &Driver) -> Result<(), Halt> {
        let world: &World = &self.scenario.world;
        for buf in (0..model.bufs.len()).map(BufId::at) {
            if model.bufs[buf.index()].life != Life::Live {
                continue;
            }
            let pages = world.buf(buf).pages;
            let failed = |errno: i32| {
                let (what, remedy) = ("a buffer of the driver", "its module has to be loaded");
                let errno = Errno::from_raw_os_error(errno);
                Halt::Error(ExecError::Host { what, errno, remedy })
            };
            let fd = (driver.buffer)(pages.into()).map_err(failed)?;
            let step =
                LabStep { obj: buf.0.into(), page: pages.into(), value: fd, ..LabStep::default() };
            let adopted = self.conductor(Op::Adopt, step);
            (driver.close)(fd);
            adopted?;
            for (index, page) in (0u32..).zip(world.pages(buf)) {
                let frame: FrameId = model.pages[page.index()].frame;
                if !frame.is_some() {
                    continue;
                }
                let value = self.layout.number(frame).into();
                let bind = LabStep { obj: buf.0.into(), page: index, value, ..LabStep::default() };
                self.conductor(Op::Bind, bind)?;
                self.fill(frame, model.frames[frame.index()].value)?;
            }
        }
        Ok(())
    }
}

/// Steps of a replay that a driver can be asked.
pub(super) fn reach(scenario: &Scenario, replay: &Replay) -> usize {
    use crate::question::scenario::Action;
    let beyond = |event: &crate::question::scenario::ScheduleStep| {
        let instruction = &scenario.programs[event.actor].instructions[event.pc];
        matches!(&instruction.action, Action::Step(step) if !expressible(step))
    };
    replay.events.iter().position(beyond).unwrap_or(replay.events.len())
}
