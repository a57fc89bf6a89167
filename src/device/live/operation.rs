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
//! come back is dropped, a fence that does not signal ends the operation. An operation that ends releases the
//! lock, whatever its rules say. What a page should hold is what it holds: a lost write is reported
//! when it is lost, and not missed again by whoever reads the page later.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::attach::{AttachmentId, Holder};
use super::bus::Bus;
use super::engine::NotMovable;
use super::frames::{NoFrames, PageOf};
use super::mover::MoveError;
use super::pages::Pages;
use super::record::{EventEnd, RecordedAction};
use crate::device::{BufferId, Device};
use crate::model::moving::{self, Pinned};
use crate::model::{ExporterRules, ExporterStep, HazardKind, Life, Operation, Placement};
use crate::sys::page::page_bytes;
use crate::sys::store::StoreError;

/// The memory of live buffers.
pub trait Memory: Pages {
    /// Gives all pages of a buffer new memory.
    ///
    /// # Errors
    /// [`MemoryError`].
    fn relocate(&mut self, buffer: BufferId) -> Result<(), MemoryError>;

    /// Takes the memory away: SIGBUS.
    ///
    /// # Errors
    /// [`MemoryError`].
    fn truncate(&mut self, buffer: BufferId) -> Result<(), MemoryError>;
}

/// Why real memory was not replaced or taken away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Asked by a device, which moves no memory.
    #[error("only the supervisor moves memory")]
    NotTheMover,
    /// The buffer has no memory of ours.
    #[error("the buffer has no memory that can move")]
    NoMemory,
    /// A client's mapping is not what it told.
    #[error("a client unmapped or replaced mapping {0} without telling: use the library for it")]
    MappingChanged(u64),
    /// The supervisor's engine refused.
    #[error(transparent)]
    NotMovable(#[from] NotMovable),
    /// The mover stopped.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The buffer's file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A page could not be read or written.
    #[error("a page of the buffer can't be read or written: {0}")]
    Page(Errno),
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

/// Why an operation was not done. The buffer is as it was, unless memory itself failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
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
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Moves, purges or revokes a buffer.
///
/// # Errors
/// [`OperationError`].
pub fn run(
    host: &dyn Host,
    mover: Holder,
    buffer: BufferId,
    operation: Operation,
    patience: Patience,
) -> Result<Done, OperationError> {
    let mut rules = None;
    host.with(&mut |parts| {
        let exists = parts.device.buffer(buffer).is_some();
        let found = exists.then(|| parts.device.rules_of(buffer));
        // What is gone is refused where the lock is taken.
        let locks =
            |rules: &ExporterRules| rules.steps(operation).first() == Some(&ExporterStep::Lock);
        rules = found.filter(|rules| parts.bus.life(buffer) == Life::Live || !locks(rules));
    });
    let rules = rules.ok_or(OperationError::Gone)?;
    // A last `unlock` and the end are one: an importer that gets the lock comes after the operation.
    let steps = match rules.steps(operation).split_last() {
        Some((ExporterStep::Unlock, before)) => before,
        _ => rules.steps(operation),
    };
    let mut run = Run::begin(host, mover, buffer, operation, &rules, patience);
    let result = steps.iter().try_for_each(|&step| run.step(step));
    run.end(result)
}

fn doing(buffer: BufferId, operation: Operation) -> RecordedAction {
    match operation {
        Operation::Move(to) => RecordedAction::Move { buffer, to },
        Operation::Purge => RecordedAction::Purge(buffer),
        Operation::Revoke => RecordedAction::Revoke(buffer),
    }
}

fn outcome(result: &Result<(), OperationError>) -> EventEnd {
    match result {
        Ok(()) => EventEnd::Done,
        Err(OperationError::Pinned | OperationError::PagePinned) => EventEnd::Busy,
        Err(_) => EventEnd::Failed,
    }
}

struct Run<'a> {
    host: &'a dyn Host,
    mover: Holder,
    buffer: BufferId,
    operation: Operation,
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
        operation: Operation,
        rules: &'a ExporterRules,
        patience: Patience,
    ) -> Self {
        host.with(&mut |parts| parts.bus.begin(doing(buffer, operation)));
        let (notified, kinds, refused) = (0, Vec::new(), None);
        Self { host, mover, buffer, operation, rules, patience, notified, kinds, refused }
    }

    /// After the last step, or one that failed.
    fn end(mut self, result: Result<(), OperationError>) -> Result<Done, OperationError> {
        let (buffer, operation) = (self.buffer, self.operation);
        let mut pages = 0;
        self.host.with(&mut |parts| {
            let Parts { device, bus, .. } = parts;
            // Where the lock is the first thing to be had, there is nothing to give back.
            let has_none =
                self.refused == Some(ExporterStep::Lock) && !self.rules.locks_late(operation);
            if result.is_err() && !has_none {
                bus.frames.abandon(buffer);
                bus.forget_copies(buffer);
            }
            if self.rules.steps(operation).last() == Some(&ExporterStep::Unlock) && result.is_ok() {
                bus.advance(operation, ExporterStep::Unlock, buffer);
            }
            bus.attachments.unlock(buffer, self.mover);
            pages = bus.frames.pages(buffer);
            if result == Err(OperationError::PagePinned) {
                self.kinds.push(HazardKind::PinBlocksMove);
            }
            bus.end(&doing(buffer, operation), outcome(&result), &self.kinds);
            match (&result, operation) {
                (Err(_), _) => device.stats.moves_refused += 1,
                (Ok(()), Operation::Move(to)) => {
                    device.moved(buffer, to, 0, u64::try_from(pages).unwrap_or(u64::MAX));
                }
                // `mark` has told it.
                (Ok(()), Operation::Purge | Operation::Revoke) => {}
            }
        });
        self.host.frames_changed();
        result.map(|()| Done { pages, notified: self.notified })
    }

    fn step(&mut self, step: ExporterStep) -> Result<(), OperationError> {
        let result = self.act(step);
        if result.is_err() {
            self.refused = Some(step);
        } else if step != ExporterStep::Mark {
            let (buffer, operation) = (self.buffer, self.operation);
            self.host.with(&mut |parts| parts.bus.advance(operation, step, buffer));
        }
        result
    }

    fn act(&mut self, step: ExporterStep) -> Result<(), OperationError> {
        let (buffer, operation) = (self.buffer, self.operation);
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
                |parts, run| parts.device.is_idle(buffer, run.rules.wait.usage()),
                OperationError::FenceTimeout(self.patience.fence),
            ),
            ExporterStep::WaitUnmap => self.until(
                |parts, _| !parts.bus.attachments.is_mapped(buffer),
                OperationError::UnmapTimeout(self.patience.fence),
            ),
            ExporterStep::CheckPins => self.quick(|parts, run| run.check_pins(parts)),
            // A move's copy is done before anybody can look.
            ExporterStep::Zap
            | ExporterStep::Flush
            | ExporterStep::Fence
            | ExporterStep::Signal => Ok(()),
            ExporterStep::Reserve => self.quick(|parts, _| match operation {
                Operation::Move(to) => {
                    parts.bus.frames.reserve(buffer, to)?;
                    parts.bus.reserved(buffer).map_err(page_error)
                }
                Operation::Purge | Operation::Revoke => Ok(()),
            }),
            ExporterStep::Copy => self.changing(|parts, _| {
                let Parts { bus, memory, .. } = parts;
                bus.copy(*memory, buffer).map_err(page_error)
            }),
            ExporterStep::Rebind => self.rebind(),
            ExporterStep::Mark => self.quick(|parts, _| {
                parts.bus.advance(operation, step, buffer);
                parts.device.killed(buffer, parts.bus.life(buffer));
                Ok(())
            }),
            ExporterStep::Free => self.free(),
        }
    }

    /// Something that is done at once.
    fn quick(
        &self,
        mut f: impl FnMut(&mut Parts<'_>, &Self) -> Result<(), OperationError>,
    ) -> Result<(), OperationError> {
        let mut result = Err(OperationError::Gone);
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
        f: impl FnMut(&mut Parts<'_>, &Self) -> Result<(), OperationError>,
    ) -> Result<(), OperationError> {
        let result = self.quick(f);
        self.host.frames_changed();
        result
    }

    fn until(
        &self,
        mut ready: impl FnMut(&mut Parts<'_>, &Self) -> bool,
        late: OperationError,
    ) -> Result<(), OperationError> {
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

    fn rebind(&mut self) -> Result<(), OperationError> {
        let (buffer, moves) = (self.buffer, matches!(self.operation, Operation::Move(_)));
        let mut lost = None;
        let result = self.changing(|parts, _| {
            let Parts { bus, memory, .. } = parts;
            if moves {
                memory.relocate(buffer)?;
            }
            lost = bus.rebind(*memory, buffer).map_err(page_error)?;
            Ok(())
        });
        self.kinds.extend(lost);
        result
    }

    fn free(&mut self) -> Result<(), OperationError> {
        let (buffer, operation) = (self.buffer, self.operation);
        let mut found = Vec::new();
        let result = self.changing(|parts, _| {
            let Parts { device, bus, memory } = parts;
            let ends = !matches!(operation, Operation::Move(_));
            // What a device still reads there is what the page held.
            bus.leave(*memory, buffer, !ends).map_err(page_error)?;
            let given = bus.frames.free(buffer, operation);
            found = bus.given(device, &given);
            match bus.life(buffer) {
                _ if !ends => Ok(()),
                // Given up without a mark: what it held is lost, and a fault finds zeros.
                Life::Live => (0..bus.frames.pages(buffer)).try_for_each(|page| {
                    let written = memory.write(PageOf { buffer, page }, 0, &vec![0; page_bytes()]);
                    written.map_err(page_error)
                }),
                Life::Purged
                | Life::Revoked
                | Life::Quiesced
                | Life::Unallocated
                | Life::Released => Ok(memory.truncate(buffer)?),
            }
        });
        self.kinds.extend(found);
        result
    }

    fn lock(&self) -> Result<(), OperationError> {
        let mut dropped = false;
        let mut deadline = Instant::now() + self.patience.lock;
        loop {
            let mut holder = None;
            self.quick(|parts, run| {
                if parts.bus.attachments.locked_by(run.buffer).is_none_or(|by| by == run.mover)
                    && parts.bus.life(run.buffer) != Life::Live
                {
                    return Err(OperationError::Gone);
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
                    return Err(OperationError::LockTimeout(self.patience.lock));
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

    fn check_pins(&self, parts: &Parts<'_>) -> Result<(), OperationError> {
        let is_pinned = parts.bus.attachments.pins(self.buffer) > 0;
        let pinned_page = || parts.bus.frames.pinned_page(self.buffer);
        moving::check_pins(self.rules, is_pinned, pinned_page).map_err(|pinned| match pinned {
            Pinned::Buffer => OperationError::Pinned,
            Pinned::Page(_) => OperationError::PagePinned,
        })
    }
}

/// A page of the buffer could not be read or written.
fn page_error(errno: Errno) -> OperationError {
    MemoryError::Page(errno).into()
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
