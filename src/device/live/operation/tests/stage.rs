//! A host of live buffers in ordinary memory, and random rules for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use rustix::io::Errno;

use crate::device::live::attach::{AttachmentId, Holder};
use crate::device::live::bus::Bus;
use crate::device::live::frames::PageOf;
use crate::device::live::operation::{Host, Memory, MemoryError, Parts};
use crate::device::live::pages::Pages;
use crate::device::{BufferId, Device, HeapConfig, Limits};
use crate::model::{
    ExporterRules, ExporterStep, MmapKind, OnDmaBufPin, OnForeignPin, Recycle, WaitFor,
};
use crate::random::SplitMix64;
use crate::sys::page::page_bytes;

/// Random rules and choices.
pub(super) struct Choices(pub(super) SplitMix64);

impl Choices {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0.index(n)
    }

    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// The usual order, or a broken one. A copy that runs by itself is the model's alone.
    fn steps(&mut self, usual: &[ExporterStep]) -> Vec<ExporterStep> {
        let by_itself = [ExporterStep::Fence, ExporterStep::Signal];
        let mut steps = usual.to_vec();
        for _ in 0..self.below(4) {
            let (at, other) = (self.below(steps.len()), self.below(steps.len()));
            match self.below(4) {
                0 if steps.len() > 2 => drop(steps.remove(at)),
                1 => steps.swap(at, other),
                2 => steps.insert(at, steps[other]),
                _ => steps.insert(at, self.of(ExporterStep::ALL)),
            }
        }
        steps.retain(|step| !by_itself.contains(step));
        // Who keeps the lock keeps everybody waiting, here until the end of the operation.
        steps.push(ExporterStep::Unlock);
        steps
    }

    pub(super) fn rules(&mut self) -> ExporterRules {
        let usual = ExporterRules::default();
        ExporterRules {
            move_steps: self.steps(&usual.move_steps),
            purge_steps: self.steps(&usual.purge_steps),
            revoke_steps: self.steps(&usual.revoke_steps),
            mmap: self.of(MmapKind::ALL),
            wait: self.of(WaitFor::ALL),
            on_dma_buf_pin: self.of(OnDmaBufPin::ALL),
            on_foreign_pin: self.of(OnForeignPin::ALL),
            recycle: self.of(Recycle::ALL),
            ..usual
        }
    }
}

/// The bytes of buffers.
#[derive(Default)]
pub(super) struct Ram(pub(super) RefCell<BTreeMap<BufferId, Vec<u8>>>);

impl Pages for Ram {
    fn read(&self, of: PageOf, offset: usize, into: &mut [u8]) -> Result<(), Errno> {
        let ram = self.0.borrow();
        let bytes = ram.get(&of.buffer).ok_or(Errno::NODATA)?;
        into.copy_from_slice(&bytes[of.page * page_bytes() + offset..][..into.len()]);
        Ok(())
    }

    fn write(&self, of: PageOf, offset: usize, from: &[u8]) -> Result<(), Errno> {
        let mut ram = self.0.borrow_mut();
        let bytes = ram.get_mut(&of.buffer).ok_or(Errno::NODATA)?;
        bytes[of.page * page_bytes() + offset..][..from.len()].copy_from_slice(from);
        Ok(())
    }
}

impl Memory for Ram {
    fn relocate(&mut self, _buffer: BufferId) -> Result<(), MemoryError> {
        Ok(())
    }

    fn truncate(&mut self, buffer: BufferId) -> Result<(), MemoryError> {
        self.0.borrow_mut().remove(&buffer);
        Ok(())
    }
}

pub(super) struct Kept {
    pub(super) device: Device,
    pub(super) bus: Bus,
    pub(super) memory: Ram,
}

pub(super) struct Stage(pub(super) RefCell<Kept>);

impl Host for Stage {
    fn with(&self, f: &mut dyn FnMut(&mut Parts<'_>)) {
        let Kept { device, bus, memory } = &mut *self.0.borrow_mut();
        f(&mut Parts { device, bus, memory });
    }

    fn wait(&self, _at_most: Duration) {}

    fn notify(&self, _holder: Holder, _attachment: AttachmentId, _buffer: BufferId) -> bool {
        true
    }

    fn drop_holder(&self, _holder: Holder, _why: &str) {}

    fn frames_changed(&self) {}
}

impl Stage {
    /// An empty one, with so many frames of each placement.
    pub(super) fn new(rules: &ExporterRules, frames: usize) -> Self {
        let heap = HeapConfig { rules: rules.clone(), ..HeapConfig::new("heap") };
        let device = Device::new(vec![heap], Limits::default());
        let bus = Bus::new(frames, frames).unwrap();
        Self(RefCell::new(Kept { device, bus, memory: Ram::default() }))
    }
}
