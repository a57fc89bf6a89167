//! Requests about mappings and about importers.
#![expect(clippy::wildcard_enum_match_arm, reason = "each group of requests looks at its own")]

use rustix::io::Errno;

use super::super::exporter::{ExporterState, View, ViewPte};
use super::super::protocol::{Request, Response, Via, Work};
use super::{Answered, Answers, RequestError, Session, addrs, attachment};
use crate::device::live::attach::PinId;
use crate::device::live::bus::{Through, name_of};
use crate::device::live::findings::{Finding, NamedPage};
use crate::device::live::frames::{BusAddr, Landing, Owner, PageOf};
use crate::device::live::operation::{OperationError, elsewhere};
use crate::device::live::record::{Actor, RecordedAction};
use crate::device::transport::now_ns;
use crate::device::{BufferId, FenceId};
use crate::model::{HazardKind, ImporterMmap, Life, Operation, Placement};
use crate::sys::page::page_bytes;

pub(super) fn through(via: Via) -> Through {
    match via {
        Via::Attachment(id) => Through::Attachment(attachment(id)),
        Via::Pin(id) => Through::Pin(PinId(id)),
    }
}

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

    /// Mappings, faults and pins; none if the request is about something else.
    pub(super) fn mappings(&mut self, request: &Request) -> Option<Answers> {
        let state = &mut *self.exporter.lock();
        Some(match *request {
            Request::Map { buffer, start } => self.map(state, BufferId(buffer), start),
            Request::Unmap { mapping } => {
                let gone = state.memory.unmap(mapping, self.holder).is_some();
                let view = state.views.get(&mapping).is_some_and(|v| v.holder == self.holder);
                if view {
                    state.views.remove(&mapping);
                }
                if gone || view {
                    let actor = self.program(state);
                    state.bus.note(&actor, RecordedAction::Munmap(mapping), &[]);
                    Ok(Response::Done.into())
                } else {
                    Err(Errno::INVAL.into())
                }
            }
            Request::ImporterMmap { buffer } => self.importer_mmap(state, BufferId(buffer)),
            Request::Fault { mapping, page } => self.fault(state, mapping, page),
            Request::Accessed { mapping, page, .. } => self.accessed(state, mapping, page, request),
            Request::Gup { mapping, page } => self.gup(state, mapping, page),
            Request::Unpin { pin } => state
                .bus
                .unpin(PinId(pin), self.holder)
                .map(|()| Response::Done.into())
                .map_err(RequestError::from),
            _ => return None,
        })
    }

    fn map(&self, state: &mut ExporterState, buffer: BufferId, start: u64) -> Answers {
        self.held(state, buffer)?;
        let uffd = state.clients.get(&self.holder).map(|client| client.uffd.clone());
        let uffd = uffd.ok_or(Errno::BADF)?;
        let id = state.take_id();
        state.memory.map(buffer, (id, self.holder), &uffd, start)?;
        let actor = self.program(state);
        state.bus.note(&actor, RecordedAction::Mmap { id, buffer, importer: None }, &[]);
        Ok(Response::Id(id).into())
    }

    fn importer_mmap(&self, state: &mut ExporterState, buffer: BufferId) -> Answers {
        self.held(state, buffer)?;
        if state.bus.life(buffer) != Life::Live {
            return Err(Errno::NODEV.into());
        }
        let id = state.take_id();
        let ptes = vec![ViewPte::default(); state.bus.frames.pages(buffer)];
        state.views.insert(id, View { holder: self.holder, buffer, ptes });
        let (actor, importer) = (self.program(state), Some(ImporterMmap::KeepFile));
        state.bus.note(&actor, RecordedAction::Mmap { id, buffer, importer }, &[]);
        Ok(Response::Id(id).into())
    }

    fn fault(&self, state: &mut ExporterState, mapping: u64, page: usize) -> Answers {
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
    fn accessed(
        &self,
        state: &mut ExporterState,
        mapping: u64,
        page: usize,
        request: &Request,
    ) -> Answers {
        let Request::Accessed { offset, write, before, value, .. } = *request else {
            return Err(Errno::INVAL.into());
        };
        if offset >= page_bytes() {
            return Err(Errno::INVAL.into());
        }
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
            let kind = match landing {
                Landing::Right => None,
                Landing::Nobody => Some(HazardKind::UseAfterFree),
                Landing::Other(_) if write => Some(HazardKind::CrossBufferWrite),
                Landing::Other(_) => Some(HazardKind::CrossBufferRead),
                Landing::Old if write => Some(HazardKind::LostWrite),
                Landing::Old => (should[0] != value).then_some(HazardKind::StaleRead),
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

    fn gup(&self, state: &mut ExporterState, mapping: u64, page: usize) -> Answers {
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

    /// Attachments, locks and fences; none if the request is about something else.
    pub(super) fn importers(&mut self, request: &Request) -> Option<Answers> {
        let result = {
            let state = &mut *self.exporter.lock();
            self.importer(state, request)
        };
        self.exporter.changed();
        result.transpose()
    }

    fn importer(
        &self,
        state: &mut ExporterState,
        request: &Request,
    ) -> Result<Option<Answered>, RequestError> {
        let holder = self.holder;
        let ExporterState { device, bus, .. } = state;
        let answer = match request {
            Request::Attach { buffer, device: name, dynamic } => {
                let buffer = BufferId(*buffer);
                if !state.handles.contains_key(&(buffer, holder)) {
                    return Err(Errno::BADF.into());
                }
                Response::Id(bus.attach(buffer, (holder, name), *dynamic)?.0)
            }
            Request::Detach { attachment: id } => {
                for fence in bus.detach(attachment(*id), holder)? {
                    device.signal_fence(fence, -Errno::NODEV.raw_os_error(), now_ns());
                }
                Response::Done
            }
            Request::Lock { buffer } => {
                let buffer = BufferId(*buffer);
                if !state.handles.contains_key(&(buffer, holder)) {
                    return Err(Errno::BADF.into());
                }
                if bus.attachments.lock(buffer, holder) { Response::Done } else { Response::Again }
            }
            Request::Unlock { buffer } => {
                bus.attachments.unlock(BufferId(*buffer), holder);
                Response::Done
            }
            Request::MapAttachment { attachment: id } => {
                let id = attachment(*id);
                Self::locked(bus, id, holder)?;
                return addrs(&bus.map(id, holder)?).map(Some);
            }
            Request::UnmapAttachment { attachment: id } => {
                bus.unmap(attachment(*id), holder)?;
                Response::Done
            }
            Request::Pin { attachment: id, on } => {
                bus.pin(attachment(*id), holder, *on)?;
                Response::Done
            }
            Request::Submit { attachment: id, usage: said } => {
                let id = attachment(*id);
                Self::locked(bus, id, holder)?;
                Response::Id(bus.submit(device, id, holder, *said)?.0)
            }
            Request::Signal { attachment: id, fence } => {
                bus.signal(device, (attachment(*id), holder), FenceId(*fence), now_ns())?;
                Response::Done
            }
            _ => return Ok(None),
        };
        Ok(Some(answer.into()))
    }

    /// EINVAL where the kernel would complain with lockdep: dma_resv_assert_held.
    fn locked(
        bus: &crate::device::live::bus::Bus,
        id: crate::device::live::attach::AttachmentId,
        holder: crate::device::live::attach::Holder,
    ) -> Result<(), RequestError> {
        let buffer = bus.attachments.of(id, holder)?.buffer;
        if bus.attachments.locked_by(buffer) == Some(holder) {
            return Ok(());
        }
        let text = "the caller does not hold the buffer's reservation lock (dma_resv_assert_held)";
        Err(RequestError(Errno::INVAL, text.to_owned()))
    }
}
