//! ioctl: fetch what the device wants, do what it decides.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::{
    Decision, Files, Shared, Supervisor, caller, int, is_shortage, lock, now_ns, pending::Waiting,
    uint,
};
use crate::device::{
    Action, Backing, Device, Exporter, FdAnswer, FileFact, Inode, Install, Ioctl, Object, Reply,
    Want,
};
use crate::sys::backing;
use crate::sys::notify::Call;

/// The memfds that a request names.
pub(super) type Memfds = BTreeMap<Inode, OwnedFd>;

impl Supervisor {
    pub(super) fn ioctl(&mut self, call: &Call) -> Decision {
        let [fd, cmd, arg, ..] = call.args;
        let (object, file) = match self.look(call.tid, int(fd)) {
            Ok(Some(found)) => found,
            Ok(None) => return Decision::Native,
            Err(errno) => return Decision::Fail(errno),
        };
        let device_file = matches!(object, Object::Heap(_) | Object::Udmabuf);
        if device_file && backing::brand_of(file.as_fd()) == backing::BRAND_PATH {
            return Decision::Fail(Errno::BADF);
        }
        // Not needed any more.
        drop(file);
        let mut request = Ioctl::new(object, uint(cmd), arg);
        if device_file {
            request.pid = caller::tgid(call.tid).unwrap_or(call.tid);
        }
        match self.fetch(call, &mut request) {
            Ok(memfds) => self.decide(call, request, &memfds),
            Err(errno) => Decision::Fail(errno),
        }
    }

    /// Fetches everything that the request wants; returns the memfds among its files, which a
    /// udmabuf is made of.
    fn fetch(&mut self, call: &Call, request: &mut Ioctl) -> Result<Memfds, Errno> {
        let mut memfds = Memfds::new();
        loop {
            let want = lock(&self.shared).device.wants(request);
            match want {
                None => return Ok(memfds),
                Some(Want::Memory { addr, len }) => {
                    request.memory.push(caller::read(call.tid, addr, len)?);
                }
                Some(Want::Text { addr, max }) => {
                    request.memory.push(caller::read_text(call.tid, addr, max)?);
                }
                Some(Want::Files(fds)) => {
                    let mut facts = Vec::with_capacity(fds.len());
                    for fd in fds {
                        let (fact, file) = self.file_fact(call, fd)?;
                        if let (FileFact::Memfd { inode, .. }, Some(file)) = (&fact, file) {
                            memfds.entry(*inode).or_insert(file);
                        }
                        facts.push(fact);
                    }
                    request.files = Some(facts);
                }
            }
        }
    }

    fn file_fact(&mut self, call: &Call, fd: i32) -> Result<(FileFact, Option<OwnedFd>), Errno> {
        let file = match self.copy_of(call.tid, fd) {
            Ok(file) => file,
            Err(errno) if is_shortage(errno) => return Err(errno),
            Err(_) => return Ok((FileFact::Bad, None)),
        };
        if let Some(object) = lock(&self.shared).files.object(file.as_fd()) {
            return Ok((FileFact::Ours(object), None));
        }
        let seals = rustix::fs::fcntl_get_seals(&file);
        let (Ok(seals), Ok(stat)) = (seals, rustix::fs::fstat(&file)) else {
            return Ok((FileFact::Other, None));
        };
        let fact = FileFact::Memfd {
            seals: seals.bits(),
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            inode: Inode { dev: stat.st_dev, ino: stat.st_ino },
        };
        Ok((fact, Some(file.into_inner()?)))
    }

    /// Asks the device and carries its action out. Also the way back in for a call that waited.
    pub(super) fn decide(&mut self, call: &Call, mut request: Ioctl, memfds: &Memfds) -> Decision {
        if !self.listener.id_valid(call.id) {
            return Decision::Sent;
        }
        request.now_ns = now_ns();
        let mut shared = lock(&self.shared);
        shared.device.trace.at(call.tid, request.now_ns);
        let mut action = shared.device.ioctl(&request);
        let full = matches!(action, Action::Fail(Errno::NOMEM | Errno::MFILE));
        if full || shared.files.sweep_due() {
            let Shared { device, files, .. } = &mut *shared;
            files.sweep(device);
            if full {
                action = device.ioctl_again(&request);
            }
        }
        match action {
            Action::Fail(errno) => Decision::Fail(errno),
            Action::Native => Decision::Native,
            Action::Wait(fences) => {
                drop(shared);
                Decision::Later(Waiting::Ioctl { request, fences })
            }
            Action::Reply(reply) => {
                let watched = shared.watch.is_some();
                let Shared { device, files, .. } = &mut *shared;
                files.signal_sync_files(device);
                drop(shared);
                if watched {
                    self.watch_sync(call, &request);
                    if let Some(answer) = self.check_sync(call, &request, reply.value) {
                        return answer;
                    }
                }
                self.reply(call, &reply).into()
            }
            Action::Install(install) => {
                drop(shared);
                self.install(call, &install, memfds)
            }
        }
    }

    fn reply(&self, call: &Call, reply: &Reply) -> Result<Decision, Errno> {
        for write in &reply.writes {
            caller::write(call.tid, write.addr, &write.bytes)?;
        }
        Ok(Decision::Value(reply.value))
    }

    /// Makes the object's file, puts it into the caller's table and tells its number. What fails
    /// on the way leaves nothing behind, but for one race: if another thread unmaps the argument
    /// between the two writes, the descriptor stays and the call answers EFAULT.
    fn install(&mut self, call: &Call, install: &Install, memfds: &Memfds) -> Decision {
        let structure = &install.structure;
        let result = caller::write(call.tid, structure.addr, &structure.bytes)
            .and_then(|()| self.create_with_room(install.object, memfds));
        let (file, inode, made_of) = match result {
            Ok(created) => created,
            Err(errno) => return self.abandon(install.object, errno),
        };
        let site = self.site(call);
        let send = matches!(install.answer, FdAnswer::Value);
        let fd = match self.listener.add_fd(call.id, file.as_fd(), install.cloexec, send) {
            Ok(fd) => fd,
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
                return self.abandon(install.object, errno);
            }
        };
        lock(&self.shared).device.installed(install.object, inode, made_of);
        self.watch_alloc(install.object, site);
        match install.answer {
            FdAnswer::Value => Decision::Sent,
            FdAnswer::Field(at) => {
                let mut bytes = structure.bytes.clone();
                if let Some(field) = bytes.get_mut(at..at + 4) {
                    field.copy_from_slice(&fd.to_ne_bytes());
                }
                match caller::write(call.tid, structure.addr, &bytes) {
                    Ok(()) => Decision::Value(0),
                    Err(errno) => Decision::Fail(errno),
                }
            }
        }
    }

    fn abandon(&self, object: Object, errno: Errno) -> Decision {
        let mut shared = lock(&self.shared);
        shared.device.fail(object);
        shared.files.forget(object);
        Decision::Fail(errno)
    }

    /// Makes the file of a new object, after letting go of what nobody needs any more if there is no
    /// room for it.
    fn create_with_room(
        &mut self,
        object: Object,
        memfds: &Memfds,
    ) -> Result<(OwnedFd, Inode, Backing), Errno> {
        match self.create(object, memfds) {
            // By --require-pfnmap, where a sweep has been made already.
            Err(Errno::NOMEM) if self.require_pfnmap => Err(Errno::NOMEM),
            Err(errno) if is_shortage(errno) => {
                lock(&self.shared).files.forget(object);
                self.make_room();
                self.create(object, memfds)
            }
            result => result,
        }
    }

    /// Makes the file of an object that the device has just decided on.
    fn create(
        &mut self,
        object: Object,
        memfds: &Memfds,
    ) -> Result<(OwnedFd, Inode, Backing), Errno> {
        if let Object::Buffer(id) = object
            && let Some(created) = self.create_live(object, id)
        {
            return created;
        }
        let mut shared = lock(&self.shared);
        let Shared { device, files, .. } = &mut *shared;
        let id = match object {
            Object::Buffer(id) => id,
            Object::SyncFile(id) => {
                let file = files.create_sync_file(id, device.sync_file_signalled(id))?;
                return Ok((file, Inode::default(), Backing::Foreign));
            }
            Object::Heap(_) | Object::Udmabuf | Object::Timeline(_) => return Err(Errno::NOENT),
        };
        let buffer = device.buffer(id).ok_or(Errno::NOENT)?.clone();
        if let Exporter::Udmabuf { .. } = buffer.exporter {
            let (file, inode) = files.create_udmabuf(object, &buffer, memfds)?;
            self.count_unmovable(device);
            return Ok((file, inode, Backing::Foreign));
        }
        // The new buffer is counted already, with the backing that it asks for.
        let fits = |device: &Device, files: &Files| device.secret_bytes() <= files.secret_bytes_max;
        if !fits(device, files) && files.sweep_worthwhile() {
            files.sweep(device);
        }
        let fits = fits(device, files);
        let (file, made_of, inode) = files.create_buffer(object, &buffer, fits)?;
        self.count_unmovable(device);
        if made_of != buffer.backing {
            device.stats.pfnmap_fallbacks += 1;
            if device.stats.pfnmap_fallbacks == 1 {
                self.say_fallback();
            }
            if self.require_pfnmap {
                return Err(Errno::NOMEM);
            }
        }
        Ok((file, inode, made_of))
    }

    /// Counts a buffer that stays where it is though buffers shall move; the first is told.
    fn count_unmovable(&self, device: &mut Device) {
        if self.live.is_none() {
            return;
        }
        device.stats.unmovable += 1;
        if device.stats.unmovable == 1 && !self.quiet {
            super::say!(
                "driftheap: a udmabuf, or a buffer of a heap with mmap=pfnmap, stays where it is: \
                 nothing is shown about it by --live and --chaos"
            );
        }
    }

    /// Says that the memory of a pfnmap heap ran out, and what that means.
    fn say_fallback(&self) {
        const WHY: &str = "locked memory ran out (raise `ulimit -l`) or memfd_secret is off";
        if self.require_pfnmap {
            super::say!(
                "driftheap: ALLOC answers ENOMEM, by --require-pfnmap: {WHY}, so a buffer of a \
                 pfnmap heap would have memory on which get_user_pages succeeds"
            );
        } else if !self.quiet {
            super::say!(
                "driftheap: a buffer of a pfnmap heap got ordinary memory, so get_user_pages will \
                 succeed on it: {WHY}; --require-pfnmap makes ALLOC fail instead"
            );
        }
    }
}
