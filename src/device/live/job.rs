//! Moves, purges and revocations as the exporter's rules order their steps.
//!
//! Kernel counterpart: `ttm_bo_handle_move_mem` and `ttm_bo_evict`
//! (drivers/gpu/drm/ttm/ttm_bo.c), `drm_gem_shmem_purge`, and the revocation of
//! drivers/vfio/pci/vfio_pci_dmabuf.c. The steps are those of the rules `move`, `purge` and
//! `revoke`, by the model's names; what is left out of the list is left out here, and what is
//! swapped is done in that order. Between two steps devices go on.
//!
//! 1. `lock` takes the buffer's reservation lock, `unlock` releases it.
//! 2. `notify` calls every dynamic importer's `move_notify` and waits until it returns.
//! 3. `wait` waits for the fences that the rule `wait` names, `wait-unmap` until no importer has
//!    an sg_table.
//! 4. `check-pins` answers EBUSY as `on-dma-buf-pin` and `on-foreign-pin` say.
//! 5. `reserve`, `rebind` and `free` change owners of frames ([`super::frames`]), `copy` and `rebind`
//!    what pages hold (`contents`); at `rebind` the memory itself is replaced, which zaps every CPU
//!    mapping.
//! 6. `mark` and then `free` of a purge or a revocation take the memory away. Without `mark` what it
//!    held is lost, and whoever looks next finds zeros.
//!
//! What a step does is decided by the model ([`crate::model::moving`]): who owns a frame then, which
//! pin stops it, what is left of the buffer. `tests.rs` takes random rules and orders through both.
//!
//! **Differs from Linux**: `zap` and `flush` have nothing to do (5 zaps, and every page is
//! coherent). A wait is bounded by [`Patience`]: an importer whose `move_notify` or lock does not
//! come back is dropped, a fence that does not signal ends the operation. A job that ends releases the
//! lock, whatever its rules say. What a page should hold is what it holds: a lost write is reported
//! when it is lost, and not missed again by whoever reads the page later.

use std::time::{Duration, Instant};

use super::attach::{AttachmentId, Holder};
use super::bus::Bus;
use super::frames::{NoFrames, PageOf};
use super::pages::Pages;
use super::record::{EventEnd, RecordedAction};
use crate::device::Life::{Purged, Revoked};
use crate::device::{BufferId, Device};
use crate::model::moving::{self, Pinned};
use crate::model::{ExporterRules, ExporterStep, HazardKind, Life, Operation, Placement};
use crate::sys::page::page_bytes;

/// The memory of live buffers.
pub trait Memory: Pages {
    /// Gives all pages of a buffer new memory.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn relocate(&mut self, buffer: BufferId) -> Result<(), String>;

    /// Takes the memory away: SIGBUS.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn truncate(&mut self, buffer: BufferId) -> Result<(), String>;
}

/// What a host locks together.
#[expect(missing_debug_implementations, reason = "a trait object is in it")]
pub struct Parts<'a> {
    /// Buffers and fences.
    pub device: &'a mut Device,
    /// Frames and importers.
    pub bus: &'a mut Bus,
    /// The bytes.
    pub memory: &'a mut dyn Memory,
}

/// Who keeps a device of live buffers.
pub trait Host {
    /// Calls `f` with everything locked.
    fn with(&self, f: &mut dyn FnMut(&mut Parts<'_>));

    /// Sleeps until something has changed, or this long.
    fn wait(&self, at_most: Duration);

    /// Calls an importer's `move_notify`; false if it did not return in time and is dropped.
    fn notify(&self, holder: Holder, attachment: AttachmentId, buffer: BufferId) -> bool;

    /// Drops a holder that does not give back what others need.
    fn drop_holder(&self, holder: Holder, why: &str);

    /// Frames have other bytes or another owner: who follows them has to look.
    fn frames_changed(&self);
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a reservation lock.
    pub lock: Duration,
    /// For fences, or for importers to unmap.
    pub fence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { lock: Duration::from_secs(2), fence: Duration::from_secs(5) }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Pages moved or given up.
    pub pages: usize,
    /// Importers that were notified.
    pub notified: usize,
}

/// Why a job was not done. The buffer is as it was, unless memory itself failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// `dma_buf_pin`.
    #[error("the buffer is pinned by an importer (EBUSY)")]
    Pinned,
    /// get_user_pages.
    #[error("a page of the buffer is pinned by get_user_pages (EBUSY)")]
    PagePinned,
    /// No frames at the destination.
    #[error(transparent)]
    NoFrames(#[from] NoFrames),
    /// It does not exist, or was purged or revoked before.
    #[error("the buffer is gone, purged or revoked already (EINVAL)")]
    Gone,
    /// Who holds the lock was dropped; or somebody else has it again.
    #[error("the reservation lock was not released within {0:?}")]
    LockTimeout(Duration),
    /// A fence did not signal.
    #[error("a fence on the buffer did not signal within {0:?}: the operation is given up")]
    FenceTimeout(Duration),
    /// An importer did not unmap.
    #[error("an importer did not unmap within {0:?}: the pages are kept")]
    UnmapTimeout(Duration),
    /// Real memory.
    #[error("{0}")]
    Memory(String),
}

/// Moves, purges or revokes a buffer.
///
/// # Errors
/// [`JobError`].
pub fn run(
    host: &dyn Host,
    mover: Holder,
    buffer: BufferId,
    job: Operation,
    patience: Patience,
) -> Result<Done, JobError> {
    let mut rules = None;
    host.with(&mut |parts| {
        let exists = parts.device.buffer(buffer).is_some();
        let found = exists.then(|| parts.device.rules_of(buffer));
        // What is gone is refused where the lock is taken.
        let locks = |rules: &ExporterRules| rules.steps(job).first() == Some(&ExporterStep::Lock);
        rules = found.filter(|rules| parts.bus.life(buffer) == Life::Live || !locks(rules));
    });
    let rules = rules.ok_or(JobError::Gone)?;
    // A last `unlock` and the end are one: an importer that gets the lock comes after the job.
    let steps = match rules.steps(job).split_last() {
        Some((ExporterStep::Unlock, before)) => before,
        _ => rules.steps(job),
    };
    let mut run = Run::begin(host, mover, buffer, job, &rules, patience);
    let result = steps.iter().try_for_each(|&step| run.step(step));
    run.end(result)
}

fn doing(buffer: BufferId, job: Operation) -> RecordedAction {
    match job {
        Operation::Move(to) => RecordedAction::Move { buffer, to },
        Operation::Purge => RecordedAction::Purge(buffer),
        Operation::Revoke => RecordedAction::Revoke(buffer),
    }
}

fn outcome(result: &Result<(), JobError>) -> EventEnd {
    match result {
        Ok(()) => EventEnd::Done,
        Err(JobError::Pinned | JobError::PagePinned) => EventEnd::Busy,
        Err(_) => EventEnd::Failed,
    }
}

struct Run<'a> {
    host: &'a dyn Host,
    mover: Holder,
    buffer: BufferId,
    job: Operation,
    rules: &'a ExporterRules,
    patience: Patience,
    notified: usize,
    /// What went wrong on the way.
    kinds: Vec<HazardKind>,
    /// The step that was refused.
    refused: Option<ExporterStep>,
}

impl<'a> Run<'a> {
    fn begin(
        host: &'a dyn Host,
        mover: Holder,
        buffer: BufferId,
        job: Operation,
        rules: &'a ExporterRules,
        patience: Patience,
    ) -> Self {
        host.with(&mut |parts| parts.bus.begin(doing(buffer, job)));
        let (notified, kinds, refused) = (0, Vec::new(), None);
        Self { host, mover, buffer, job, rules, patience, notified, kinds, refused }
    }

    /// After the last step, or one that failed.
    fn end(mut self, result: Result<(), JobError>) -> Result<Done, JobError> {
        let (buffer, job) = (self.buffer, self.job);
        let mut pages = 0;
        self.host.with(&mut |parts| {
            let Parts { device, bus, .. } = parts;
            // Where the lock is the first thing to be had, there is nothing to give back.
            let has_none = self.refused == Some(ExporterStep::Lock) && !self.rules.locks_late(job);
            if result.is_err() && !has_none {
                bus.frames.abandon(buffer);
                bus.forget_copies(buffer);
            }
            if self.rules.steps(job).last() == Some(&ExporterStep::Unlock) && result.is_ok() {
                bus.advance(job, ExporterStep::Unlock, buffer);
            }
            bus.attachments.unlock(buffer, self.mover);
            pages = bus.frames.pages(buffer);
            if result == Err(JobError::PagePinned) {
                self.kinds.push(HazardKind::PinBlocksMove);
            }
            bus.end(&doing(buffer, job), outcome(&result), &self.kinds);
            match (&result, job) {
                (Err(_), _) => device.stats.moves_refused += 1,
                (Ok(()), Operation::Move(to)) => {
                    device.moved(buffer, to.into(), 0, u64::try_from(pages).unwrap_or(u64::MAX));
                }
                // `mark` has told it.
                (Ok(()), Operation::Purge | Operation::Revoke) => {}
            }
        });
        self.host.frames_changed();
        result.map(|()| Done { pages, notified: self.notified })
    }

    fn step(&mut self, step: ExporterStep) -> Result<(), JobError> {
        let result = self.act(step);
        if result.is_err() {
            self.refused = Some(step);
        } else if step != ExporterStep::Mark {
            let (buffer, job) = (self.buffer, self.job);
            self.host.with(&mut |parts| parts.bus.advance(job, step, buffer));
        }
        result
    }

    fn act(&mut self, step: ExporterStep) -> Result<(), JobError> {
        let (buffer, job) = (self.buffer, self.job);
        match step {
            ExporterStep::Lock => self.lock(),
            ExporterStep::Unlock => self.quick(|parts, run| {
                parts.bus.attachments.unlock(buffer, run.mover);
                Ok(())
            }),
            ExporterStep::Notify => {
                self.notify();
                Ok(())
            }
            ExporterStep::Wait => self.until(
                |parts, run| parts.device.is_idle(buffer, run.rules.wait.usage().into()),
                JobError::FenceTimeout(self.patience.fence),
            ),
            ExporterStep::WaitUnmap => self.until(
                |parts, _| !parts.bus.attachments.is_mapped(buffer),
                JobError::UnmapTimeout(self.patience.fence),
            ),
            ExporterStep::CheckPins => self.quick(|parts, run| run.check_pins(parts)),
            // A move's copy is done before anybody can look.
            ExporterStep::Zap
            | ExporterStep::Flush
            | ExporterStep::Fence
            | ExporterStep::Signal => Ok(()),
            ExporterStep::Reserve => self.quick(|parts, _| match job {
                Operation::Move(to) => {
                    parts.bus.frames.reserve(buffer, to)?;
                    parts.bus.reserved(buffer).map_err(unreachable)
                }
                Operation::Purge | Operation::Revoke => Ok(()),
            }),
            ExporterStep::Copy => self.changing(|parts, _| {
                let Parts { bus, memory, .. } = parts;
                bus.copy(*memory, buffer).map_err(unreachable)
            }),
            ExporterStep::Rebind => self.rebind(),
            ExporterStep::Mark => self.quick(|parts, _| {
                parts.bus.advance(job, step, buffer);
                let life = parts.bus.life(buffer);
                parts.device.killed(buffer, if life == Life::Purged { Purged } else { Revoked });
                Ok(())
            }),
            ExporterStep::Free => self.free(),
        }
    }

    /// Something that is done at once.
    fn quick(
        &self,
        mut f: impl FnMut(&mut Parts<'_>, &Self) -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let mut result = Err(JobError::Gone);
        self.host.with(&mut |parts| {
            // Its last reference may have gone between two steps.
            if parts.device.buffer(self.buffer).is_some() {
                result = f(parts, self);
            }
        });
        result
    }

    /// The same, and frames change.
    fn changing(
        &self,
        f: impl FnMut(&mut Parts<'_>, &Self) -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let result = self.quick(f);
        self.host.frames_changed();
        result
    }

    fn until(
        &self,
        mut ready: impl FnMut(&mut Parts<'_>, &Self) -> bool,
        late: JobError,
    ) -> Result<(), JobError> {
        let deadline = Instant::now() + self.patience.fence;
        loop {
            let mut is_ready = false;
            self.quick(|parts, run| {
                is_ready = ready(parts, run);
                Ok(())
            })?;
            let left = deadline.saturating_duration_since(Instant::now());
            if is_ready {
                return Ok(());
            }
            if left.is_zero() {
                return Err(late);
            }
            self.host.wait(left);
        }
    }

    fn rebind(&mut self) -> Result<(), JobError> {
        let (buffer, moves) = (self.buffer, matches!(self.job, Operation::Move(_)));
        let mut lost = None;
        let result = self.changing(|parts, _| {
            let Parts { bus, memory, .. } = parts;
            if moves {
                memory.relocate(buffer).map_err(JobError::Memory)?;
            }
            lost = bus.rebind(*memory, buffer).map_err(unreachable)?;
            Ok(())
        });
        self.kinds.extend(lost);
        result
    }

    fn free(&mut self) -> Result<(), JobError> {
        let (buffer, job) = (self.buffer, self.job);
        let mut found = Vec::new();
        let result = self.changing(|parts, _| {
            let Parts { device, bus, memory } = parts;
            let ends = !matches!(job, Operation::Move(_));
            // What a device still reads there is what the page held.
            bus.leave(*memory, buffer, !ends).map_err(unreachable)?;
            let given = bus.frames.free(buffer, job);
            found = bus.given(device, &given);
            match bus.life(buffer) {
                _ if !ends => Ok(()),
                // Given up without a mark: what it held is lost, and a fault finds zeros.
                Life::Live => (0..bus.frames.pages(buffer)).try_for_each(|page| {
                    let written = memory.write(PageOf { buffer, page }, 0, &vec![0; page_bytes()]);
                    written.map_err(unreachable)
                }),
                Life::Purged
                | Life::Revoked
                | Life::Quiesced
                | Life::Unallocated
                | Life::Released => memory.truncate(buffer).map_err(JobError::Memory),
            }
        });
        self.kinds.extend(found);
        result
    }

    fn lock(&self) -> Result<(), JobError> {
        let mut dropped = false;
        let mut deadline = Instant::now() + self.patience.lock;
        loop {
            let mut holder = None;
            self.quick(|parts, run| {
                if parts.bus.attachments.locked_by(run.buffer).is_none_or(|by| by == run.mover)
                    && parts.bus.life(run.buffer) != Life::Live
                {
                    return Err(JobError::Gone);
                }
                if !parts.bus.attachments.lock(run.buffer, run.mover) {
                    holder = parts.bus.attachments.locked_by(run.buffer);
                }
                Ok(())
            })?;
            let Some(holder) = holder else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if dropped || self.patience.lock.is_zero() {
                    return Err(JobError::LockTimeout(self.patience.lock));
                }
                dropped = true;
                self.host.drop_holder(holder, "it held a reservation lock for too long");
                deadline = Instant::now() + self.patience.lock;
                continue;
            }
            self.host.wait(left);
        }
    }

    fn notify(&mut self) {
        let mut told = Vec::new();
        self.host.with(&mut |parts| told = parts.bus.attachments.notify(self.buffer));
        for (attachment, holder) in told {
            if self.host.notify(holder, attachment, self.buffer) {
                self.notified += 1;
            }
        }
    }

    fn check_pins(&self, parts: &Parts<'_>) -> Result<(), JobError> {
        let is_pinned = parts.bus.attachments.pins(self.buffer) > 0;
        let pinned_page = || parts.bus.frames.pinned_page(self.buffer);
        moving::check_pins(self.rules, is_pinned, pinned_page).map_err(|pinned| match pinned {
            Pinned::Buffer => JobError::Pinned,
            Pinned::Page(_) => JobError::PagePinned,
        })
    }
}

/// A page of the buffer could not be read or written.
fn unreachable(errno: rustix::io::Errno) -> JobError {
    JobError::Memory(errno.to_string())
}

/// Where an eviction takes a buffer: away from where it is.
#[must_use]
pub fn elsewhere(placement: Placement) -> Placement {
    match placement {
        Placement::Vram | Placement::Cma => Placement::System,
        Placement::System => Placement::Vram,
    }
}

#[cfg(test)]
mod tests;
