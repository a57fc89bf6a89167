//! Requests about mappings and about importers.

use rustix::io::Errno;

use super::super::exporter::{ExporterState, HELD_MAX, VIEW_PAGES_MAX, View, ViewPte};
use super::super::protocol::{Response, Work};
use super::{Access, Answered, Answers, RequestError, Session, addrs};
use crate::device::live::attach::{AttachmentId, PinId};
use crate::device::live::bus::name_of;
use crate::device::live::findings::{Finding, NamedPage};
use crate::device::live::frames::{BusAddr, Owner, PageOf};
use crate::device::live::operation::{OperationError, elsewhere};
use crate::device::live::record::{Actor, RecordedAction};
use crate::device::transport::now_ns;
use crate::device::{BufferId, FenceId};
use crate::model::{ImporterMmap, Life, Meant, Operation, Placement, Usage};
use crate::sys::page::page_bytes;

impl From<OperationError> for RequestError {
    fn from(error: OperationError) -> Self {
        let errno = match error {
            OperationError::Pinned | OperationError::PagePinned => Errno::BUSY,
            OperationError::NoFrames(_) => Errno::NOMEM,
            OperationError::Gone => Errno::INVAL,
            OperationError::LockTimeout(_)
            | OperationError::FenceTimeout(_)
            | OperationError::UnmapTimeout(_) => Errno::TIMEDOUT,
            OperationError::Memory(_) => Errno::IO,
        };
        Self(errno, error.to_string())
    }
}

const NOT_ZAPPED: &str = "The mapping was made through the importer's file: the exporter's zap looks \
                          in the dma-buf's address_space and did not find it (vma_set_file).";

impl Session<'_> {
    pub(super) fn work(&self, buffer: BufferId, work: Work) -> Answers {
        let placement = {
            let state = self.exporter.lock();
            self.held(&state, buffer)?;
            state.bus.frames.placement(buffer).ok_or(Errno::BADF)?
        };
        let operation = match work {
            Work::MoveToVram => Operation::Move(Placement::Vram),
            Work::MoveToSystem => Operation::Move(Placement::System),
            Work::Evict => Operation::Move(elsewhere(placement)),
            Work::Purge => Operation::Purge,
            Work::Revoke => Operation::Revoke,
        };
        self.exporter.work(buffer, operation)?;
        Ok(Response::Done.into())
    }

    fn program(&self, state: &ExporterState) -> Actor {
        let name = state.clients.get(&self.holder).map(|client| client.name.clone());
        Actor::Program(format!("{} {}", name.unwrap_or_default(), self.holder.0))
    }

    pub(super) fn unmap(&self, mapping: u64) -> Answers {
        let state = &mut *self.exporter.lock();
        let gone = state.memory.unmap(mapping, self.holder).is_some();
        let view = state.views.get(&mapping).is_some_and(|v| v.holder == self.holder);
        if view {
            state.views.remove(&mapping);
        }
        if !gone && !view {
            return Err(Errno::INVAL.into());
        }
        let actor = self.program(state);
        state.bus.note(&actor, RecordedAction::Munmap(mapping), &[]);
        Ok(Response::Done.into())
    }

    pub(super) fn unpin(&self, pin: u64) -> Answers {
        self.exporter.lock().bus.unpin(PinId(pin), self.holder)?;
        Ok(Response::Done.into())
    }

    pub(super) fn map(&self, buffer: BufferId, start: u64) -> Answers {
        let state = &mut *self.exporter.lock();
        self.held(state, buffer)?;
        let uffd = state.clients.get(&self.holder).map(|client| client.uffd.clone());
        let uffd = uffd.ok_or(Errno::BADF)?;
        has_room(state.memory.mapped_by(self.holder), HELD_MAX)?;
        let id = state.take_id();
        state.memory.map(buffer, (id, self.holder), &uffd, start)?;
        let actor = self.program(state);
        state.bus.note(&actor, RecordedAction::Mmap { id, buffer, importer: None }, &[]);
        Ok(Response::Id(id).into())
    }

    pub(super) fn importer_mmap(&self, buffer: BufferId) -> Answers {
        let state = &mut *self.exporter.lock();
        self.held(state, buffer)?;
        if state.bus.life(buffer) != Life::Live {
            return Err(Errno::NODEV.into());
        }
        let own = state.views.values().filter(|view| view.holder == self.holder);
        let pages: usize = own.clone().map(|view| view.ptes.len()).sum();
        has_room(own.count(), HELD_MAX)?;
        has_room(pages, VIEW_PAGES_MAX)?;
        let id = state.take_id();
        let ptes = vec![ViewPte::default(); state.bus.frames.pages(buffer)];
        state.views.insert(id, View { holder: self.holder, buffer, ptes });
        let (actor, importer) = (self.program(state), Some(ImporterMmap::KeepFile));
        state.bus.note(&actor, RecordedAction::Mmap { id, buffer, importer }, &[]);
        Ok(Response::Id(id).into())
    }

    pub(super) fn fault(&self, mapping: u64, page: usize) -> Answers {
        let state = &mut *self.exporter.lock();
        let view = state.views.get(&mapping).filter(|view| view.holder == self.holder);
        let view = view.ok_or(Errno::INVAL)?;
        let of = PageOf { buffer: view.buffer, page };
        let known = view.ptes.get(page).ok_or(Errno::INVAL)?.frame;
        if known.is_none() {
            if state.bus.attachments.locked_by(of.buffer).is_some() {
                // A fault takes the reservation lock.
                return Ok(Response::Again.into());
            }
            // Whoever sees a frame of it can come back to it.
            state.bus.frames.tell(of.buffer);
        }
        let frame = known.or_else(|| state.bus.frames.frame(of)).ok_or(Errno::FAULT)?;
        let bytes = state.bus.frames.bytes(frame).ok_or(Errno::FAULT)?;
        let (fd, place) = state.place(frame, bytes).ok_or(Errno::MFILE)?;
        if let Some(view) = state.views.get_mut(&mapping) {
            view.ptes[page] = ViewPte { frame: Some(frame), shown: Some(bytes) };
        }
        Ok(Answered { answer: Response::Place { page: place }, bytes: Vec::new(), fd: Some(fd) })
    }

    /// A CPU access that was made: it is judged if the exporter's zap does not reach the mapping.
    pub(super) fn accessed(&self, (mapping, page): (u64, usize), access: Access) -> Answers {
        let Access { offset, write, before, value } = access;
        if offset >= page_bytes() {
            return Err(Errno::INVAL.into());
        }
        let state = &mut *self.exporter.lock();
        let mut kinds = Vec::new();
        let view = state.views.get(&mapping).filter(|view| view.holder == self.holder);
        if let Some(view) = view {
            let of = PageOf { buffer: view.buffer, page };
            let frame = view.ptes.get(page).and_then(|pte| pte.frame).ok_or(Errno::INVAL)?;
            let landing = state.bus.frames.landing(frame, of).ok_or(Errno::INVAL)?;
            let mut should = [before];
            if !write {
                // What the buffer itself has there.
                let _ =
                    crate::device::live::pages::Pages::read(&state.memory, of, offset, &mut should);
            }
            // A revocation is complete for the holder of a mapping when its entries are gone.
            let meant = Meant { alive: state.bus.life(of.buffer) == Life::Live, revoked: false };
            let kind = if write {
                landing.of_write(meant)
            } else {
                landing.of_read(meant, should[0] != value)
            };
            if let Some(kind) = kind {
                kinds.push(kind);
                let name = |of: PageOf| name_of(&state.device, of.buffer);
                let hit = match state.bus.frames.owner(frame) {
                    Some(Owner::Page(of) | Owner::Reserved(of)) => {
                        Some(NamedPage { of, name: name(of) })
                    }
                    _ => None,
                };
                let finding = Finding {
                    kind,
                    holder: self.holder,
                    who: state
                        .clients
                        .get(&self.holder)
                        .map(|c| c.name.clone())
                        .unwrap_or_default(),
                    write,
                    addr: BusAddr(BusAddr::of(frame).0 + offset as u64),
                    len: 1,
                    byte: (should[0] != value).then_some((offset, should[0], value)),
                    meant: Some(NamedPage { of, name: name(of) }),
                    hit,
                    why: NOT_ZAPPED,
                };
                state.bus.findings.push(finding);
            }
        } else {
            let buffer = state.memory.behind(mapping, self.holder).ok_or(Errno::INVAL)?;
            if page >= state.bus.frames.pages(buffer) {
                return Err(Errno::INVAL.into());
            }
        }
        let actor = self.program(state);
        state.bus.note(&actor, RecordedAction::Cpu { mapping, page, write }, &kinds);
        Ok(Response::Done.into())
    }

    pub(super) fn gup(&self, mapping: u64, page: usize) -> Answers {
        let state = &mut *self.exporter.lock();
        let buffer = state.memory.behind(mapping, self.holder).ok_or(Errno::FAULT)?;
        if page >= state.bus.frames.pages(buffer) {
            return Err(Errno::FAULT.into());
        }
        let rules = state.device.rules_of(buffer);
        let Actor::Program(program) = self.program(state) else {
            return Err(Errno::INVAL.into());
        };
        let of = PageOf { buffer, page };
        let (id, addr) = state.bus.gup(&rules, of, (self.holder, &program), mapping)?;
        Ok(Response::Pin { id: id.0, addr: addr.0 }.into())
    }

    /// Attachments, locks and fences: who waits for one of them looks again.
    pub(super) fn on_bus(&self, ask: impl FnOnce(&mut ExporterState) -> Answers) -> Answers {
        let answers = ask(&mut self.exporter.lock());
        self.exporter.changed();
        answers
    }

    pub(super) fn attach(
        &self,
        state: &mut ExporterState,
        buffer: BufferId,
        device: &str,
        dynamic: bool,
    ) -> Answers {
        self.held(state, buffer)?;
        let own = state.bus.attachments.iter().filter(|(_, of)| of.holder == self.holder);
        has_room(own.count(), HELD_MAX)?;
        Ok(Response::Id(state.bus.attach(buffer, (self.holder, device), dynamic)?.0).into())
    }

    pub(super) fn detach(&self, state: &mut ExporterState, id: AttachmentId) -> Answers {
        for fence in state.bus.detach(id, self.holder)? {
            state.device.signal_fence(fence, -Errno::NODEV.raw_os_error(), now_ns());
        }
        Ok(Response::Done.into())
    }

    pub(super) fn lock(&self, state: &mut ExporterState, buffer: BufferId) -> Answers {
        self.held(state, buffer)?;
        let locked = state.bus.attachments.lock(buffer, self.holder);
        Ok(if locked { Response::Done } else { Response::Again }.into())
    }

    pub(super) fn unlock(&self, state: &mut ExporterState, buffer: BufferId) -> Answered {
        state.bus.attachments.unlock(buffer, self.holder);
        Response::Done.into()
    }

    pub(super) fn map_attachment(&self, state: &mut ExporterState, id: AttachmentId) -> Answers {
        self.locked(state, id)?;
        addrs(&state.bus.map(id, self.holder)?)
    }

    pub(super) fn unmap_attachment(&self, state: &mut ExporterState, id: AttachmentId) -> Answers {
        state.bus.unmap(id, self.holder)?;
        Ok(Response::Done.into())
    }

    pub(super) fn pin(&self, state: &mut ExporterState, id: AttachmentId, on: bool) -> Answers {
        state.bus.pin(id, self.holder, on)?;
        Ok(Response::Done.into())
    }

    pub(super) fn submit(
        &self,
        state: &mut ExporterState,
        id: AttachmentId,
        usage: Usage,
    ) -> Answers {
        self.locked(state, id)?;
        let ExporterState { device, bus, .. } = state;
        Ok(Response::Id(bus.submit(device, id, self.holder, usage)?.0).into())
    }

    pub(super) fn signal(
        &self,
        state: &mut ExporterState,
        id: AttachmentId,
        fence: FenceId,
    ) -> Answers {
        let ExporterState { device, bus, .. } = state;
        bus.signal(device, (id, self.holder), fence, now_ns())?;
        Ok(Response::Done.into())
    }

    /// EINVAL where the kernel would complain with lockdep: dma_resv_assert_held.
    fn locked(&self, state: &ExporterState, id: AttachmentId) -> Result<(), RequestError> {
        let bus = &state.bus;
        let buffer = bus.attachments.of(id, self.holder)?.buffer;
        if bus.attachments.locked_by(buffer) == Some(self.holder) {
            return Ok(());
        }
        let text = "the caller does not hold the buffer's reservation lock (dma_resv_assert_held)";
        Err(RequestError(Errno::INVAL, text.to_owned()))
    }
}

/// One more, where a client has so many already.
///
/// # Errors
/// ENOMEM.
fn has_room(held: usize, most: usize) -> Result<(), Errno> {
    if held < most { Ok(()) } else { Err(Errno::NOMEM) }
}
