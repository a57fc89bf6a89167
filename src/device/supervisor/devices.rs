//! Emulated devices and recordings under `driftheap run`: the bus of a program's buffers.
//!
//! With `--device` or `--record` every movable buffer has bus addresses ([`Bus`]), and what
//! chaos or an order does goes by the heap's rules ([`operation::run`]): importers are notified, their
//! fences waited for, pins honoured. Such an operation moves a whole buffer.
//!
//! **Locking**: the bus lies in [`Shared`] with the device. The devices' threads lock it for each
//! half of an operation; only the supervisor's thread moves memory, and it never sleeps for a fence: what
//! is not idle is tried again, as with a call in flight.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;

use super::{Shared, lock, now_ns};
use crate::device::live::Engine;
use crate::device::live::attach::{AttachmentId, Holder, PinId};
use crate::device::live::bus::{Bus, InBracket};
use crate::device::live::emulate::{DeviceSpec, Running};
use crate::device::live::findings::Finding;
use crate::device::live::frames::PageOf;
use crate::device::live::operation::{
    self, Done, Host, Memory, MemoryError, OperationError, Parts, Patience,
};
use crate::device::live::pages::{Pages, read_all, write_all};
use crate::device::live::record::{Actor, RecordedAction, Recorder};
use crate::device::misuse::{self, Watch};
use crate::device::{BufferId, Device};
use crate::model::{HazardKind, Operation, Placement};
use crate::sys::page::page_bytes;

/// The bus of a program's buffers.
#[derive(Debug)]
pub struct ProgramBus {
    /// Frames, importers, findings, recording.
    pub bus: Bus,
    files: BTreeMap<BufferId, OwnedFd>,
    mappings: u64,
    /// The last mapping of a buffer by a process.
    mapped: BTreeMap<(BufferId, i32), u64>,
    /// The program's pins, as the books of misuse have them.
    pins: Vec<(misuse::Pin, PinId)>,
}

/// The holder of the program's pins, which no device has.
const PINNER: Holder = Holder(u64::MAX);

/// The holder of what the exporter itself does.
const MOVER: Holder = Holder(0);

impl ProgramBus {
    /// A bus for buffers of so many bytes together.
    ///
    /// # Errors
    /// No memory, no descriptor.
    pub fn new(bytes_max: u64, record: bool) -> std::io::Result<Self> {
        let pages = usize::try_from(bytes_max / page_bytes() as u64).unwrap_or(usize::MAX);
        // Room for both places of a move, and an offset that a file can have.
        let pages = pages.saturating_mul(2).min(1 << 28);
        let mut bus = Bus::new(pages, pages)?;
        bus.recorder = record.then(Recorder::default);
        let (files, mapped) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { bus, files, mappings: 0, mapped, pins: Vec::new() })
    }

    /// A buffer that can move came into being.
    ///
    /// # Errors
    /// ENOMEM: there are no frames for it.
    pub(super) fn adopt(
        &mut self,
        device: &Device,
        id: BufferId,
        file: OwnedFd,
        size_bytes: u64,
    ) -> Result<(), Errno> {
        let pages = usize::try_from(size_bytes).map_err(|_| Errno::NOMEM)? / page_bytes();
        self.bus.allocated(device, id, pages, Placement::Vram)?;
        self.files.insert(id, file);
        Ok(())
    }

    /// Gives back what the program has let go and no device is attached to: an attachment holds a
    /// reference of the buffer (`dma_buf_attach` in drivers/dma-buf/dma-buf.c is given one).
    pub(super) fn retain(&mut self, device: &Device) {
        let exists = |id| device.buffer(id).is_some();
        let bus = &self.bus;
        let attached = |id| bus.attachments.iter().any(|(_, attachment)| attachment.buffer == id);
        let held = self.files.keys().copied();
        let gone: Vec<BufferId> = held.filter(|&id| !exists(id) && !attached(id)).collect();
        for id in gone {
            self.bus.released(device, id);
            self.files.remove(&id);
        }
    }

    /// A process of the program has mapped a whole buffer.
    pub(super) fn mapped(&mut self, buffer: BufferId, pid: i32) {
        if self.files.contains_key(&buffer) {
            self.mappings += 1;
            let doing = RecordedAction::Mmap { id: self.mappings, buffer, importer: None };
            self.bus.note(&Actor::Program(format!("pid {pid}")), doing, &[]);
            self.mapped.insert((buffer, pid), self.mappings);
        }
    }

    /// A process pins pages through its mapping. One page stands for all.
    pub(super) fn pinned(&mut self, device: &Device, pin: &misuse::Pin) {
        let (buffer, pid) = (pin.buffer, pin.site.pid);
        if self.bus.recorder.is_none() || !self.files.contains_key(&buffer) {
            return;
        }
        if !self.mapped.contains_key(&(buffer, pid)) {
            // A mapping that came by fork.
            self.mapped(buffer, pid);
        }
        let Some(&mapping) = self.mapped.get(&(buffer, pid)) else { return };
        let page = usize::try_from(pin.range.start).unwrap_or(0) / page_bytes();
        let by = (PINNER, &*format!("pid {pid}"));
        let of = PageOf { buffer, page };
        if let Ok((id, _)) = self.bus.gup(&device.rules_of(buffer), of, by, mapping) {
            self.pins.push((pin.clone(), id));
        }
    }

    /// Pins that are neither in the books nor known to have outlived a move are gone.
    pub(super) fn keep_pins(&mut self, is_held: impl Fn(&misuse::Pin) -> bool) {
        let held = |(pin, _): &mut (misuse::Pin, PinId)| !is_held(pin);
        let gone: Vec<PinId> = self.pins.extract_if(.., held).map(|(_, id)| id).collect();
        for id in gone {
            // It is ours.
            let _held = self.bus.unpin(id, PINNER);
        }
    }

    /// Pins have outlived a move; nobody follows them any more.
    pub(super) fn outlived(&mut self, outlived: &[misuse::Pin]) {
        let is_one =
            |(pin, _): &mut (misuse::Pin, PinId)| outlived.iter().any(|other| other.is_same(pin));
        let found: Vec<PinId> = self.pins.extract_if(.., is_one).map(|(_, id)| id).collect();
        let memory = ProgramMemory { files: &self.files, engine: None };
        for id in found {
            self.bus.note_outlived(&memory, id);
            let _held = self.bus.unpin(id, PINNER);
        }
    }
}

/// The buffers' bytes, and who can move them.
struct ProgramMemory<'a> {
    files: &'a BTreeMap<BufferId, OwnedFd>,
    engine: Option<&'a mut Engine>,
}

impl Pages for ProgramMemory<'_> {
    fn read(&self, of: PageOf, offset: usize, into: &mut [u8]) -> Result<(), Errno> {
        let file = self.files.get(&of.buffer).ok_or(Errno::NODATA)?;
        read_all(file.as_fd(), (of.page * page_bytes() + offset) as u64, into)
    }

    fn write(&self, of: PageOf, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        let file = self.files.get(&of.buffer).ok_or(Errno::NODATA)?;
        write_all(file.as_fd(), (of.page * page_bytes() + offset) as u64, bytes)
    }
}

impl Memory for ProgramMemory<'_> {
    fn relocate(&mut self, buffer: BufferId) -> Result<(), MemoryError> {
        let engine = self.engine.as_mut().ok_or(MemoryError::NotTheMover)?;
        let pages = engine.buffers().find(|(id, _)| *id == buffer).map(|(_, pages)| pages);
        let pages = pages.ok_or(MemoryError::NoMemory)?;
        engine.relocate(buffer, 0, pages)?;
        Ok(())
    }

    fn truncate(&mut self, buffer: BufferId) -> Result<(), MemoryError> {
        let engine = self.engine.as_mut().ok_or(MemoryError::NotTheMover)?;
        Ok(engine.kill(buffer)?)
    }
}

/// What a device did wrong, among the misuse reports.
fn watch_dma(watch: &mut Watch, device: &Device, finding: &Finding) {
    let Some(meant) = &finding.meant else { return };
    if finding.kind == HazardKind::KernelBug {
        // The exporter's, which the device report tells.
        return;
    }
    let (id, page) = (meant.of.buffer, meant.of.page);
    let Some(buffer) = device.buffer(id) else { return };
    let (kind, what) = if finding.kind == HazardKind::UnfencedAccess {
        let what = "The device reached the buffer and had added no fence, so nobody waits for it.";
        (misuse::Kind::UnfencedDma, what.to_owned())
    } else {
        let what = format!("{}: the address is not this buffer's. {}", finding.kind, finding.why);
        (misuse::Kind::StaleDma, what)
    };
    let misuse = misuse::Finding {
        kind,
        what,
        act: misuse::Act::Dma { write: finding.write, len: finding.len },
        site: misuse::Site { comm: finding.who.clone(), ..misuse::Site::default() },
        offset: Some((page * page_bytes()) as u64),
    };
    watch.report(id, buffer, misuse);
}

/// A device's transfer while a program's bracket was open.
fn watch_in_bracket(watch: &mut Watch, device: &Device, hit: InBracket) {
    let InBracket { who, buffer: id, write, len } = hit;
    let Some(buffer) = device.buffer(id) else { return };
    let opened = watch.brackets.open(id).map_or_else(String::new, |bracket| {
        format!(" {} by {}", misuse::sync_words(bracket.kind), bracket.start.words())
    });
    let finding = misuse::Finding {
        kind: misuse::Kind::DmaInBracket,
        what: format!("The device transferred while the CPU's bracket was open:{opened}."),
        act: misuse::Act::Dma { write, len },
        site: misuse::Site { comm: who, ..misuse::Site::default() },
        offset: Some(0),
    };
    watch.report(id, buffer, finding);
}

fn with(shared: &Mutex<Shared>, engine: Option<&mut Engine>, f: &mut dyn FnMut(&mut Parts<'_>)) {
    let Shared { device, files, program_bus, watch, .. } = &mut *lock(shared);
    let Some(ProgramBus { bus, files: of_buffers, .. }) = program_bus else { return };
    let mut memory = ProgramMemory { files: of_buffers, engine };
    bus.brackets.buffers = watch.as_ref().map(|watch| watch.brackets.buffers()).unwrap_or_default();
    f(&mut Parts { device, bus, memory: &mut memory });
    for finding in bus.findings.take_fresh() {
        if let Some(watch) = watch {
            watch_dma(watch, device, &finding);
        }
    }
    for hit in std::mem::take(&mut bus.brackets.hits) {
        if let Some(watch) = watch {
            watch_in_bracket(watch, device, hit);
        }
    }
    files.signal_sync_files(device);
}

/// What an emulated device's thread sees.
struct DeviceHost(Arc<Mutex<Shared>>);

/// What the supervisor's thread works with.
struct MoverHost<'a> {
    shared: &'a Mutex<Shared>,
    engine: RefCell<&'a mut Engine>,
}

/// What both have in common: importers are all our own, and nobody follows frames.
macro_rules! of_own_importers {
    () => {
        fn wait(&self, at_most: Duration) {
            std::thread::sleep(at_most.min(Duration::from_millis(1)));
        }

        fn notify(&self, _: Holder, _: AttachmentId, _: BufferId) -> bool {
            // A device looks at its attachment's state before each job.
            true
        }

        fn drop_holder(&self, _: Holder, _: &str) {}

        fn frames_changed(&self) {}
    };
}

impl Host for DeviceHost {
    fn with(&self, f: &mut dyn FnMut(&mut Parts<'_>)) {
        with(&self.0, None, f);
    }

    of_own_importers!();
}

impl Host for MoverHost<'_> {
    fn with(&self, f: &mut dyn FnMut(&mut Parts<'_>)) {
        with(self.shared, Some(&mut self.engine.borrow_mut()), f);
    }

    of_own_importers!();
}

/// Starts the devices.
///
/// # Errors
/// No thread can be started.
pub(super) fn start(
    specs: Vec<DeviceSpec>,
    shared: &Arc<Mutex<Shared>>,
) -> std::io::Result<Vec<Running>> {
    let host: Arc<dyn Host + Send + Sync> = Arc::new(DeviceHost(Arc::clone(shared)));
    let specs = specs.into_iter().zip(0..);
    specs.map(|(spec, number)| Running::start(spec, Arc::clone(&host), number, now_ns)).collect()
}

/// An operation by the heap's rules. It sleeps for nobody: a fence that has not signalled, or a
/// lock that a device has for the moment, is [`OperationError::FenceTimeout`] or
/// [`OperationError::LockTimeout`].
pub(super) fn work(
    shared: &Mutex<Shared>,
    engine: &mut Engine,
    operation: Operation,
    id: BufferId,
) -> Result<Done, OperationError> {
    let host = MoverHost { shared, engine: RefCell::new(engine) };
    let patience = Patience { lock: Duration::ZERO, fence: Duration::ZERO };
    operation::run(&host, MOVER, id, operation, patience)
}
