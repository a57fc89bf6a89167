//! /dev/cuse itself: making the node, finding out whether it is really there, the loop.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::backend::Backend;
use super::channel::{Channel, REQUEST_BYTES_MAX};
use super::request::WireError;

/// The name of a node below /dev, such as `dma_heap/driftheap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

/// A name that no node can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` can't name a device: use letters, digits, `_`, `-` and `.`, with single slashes between, such as dma_heap/driftheap"
)]
pub struct NameError(String);

impl Name {
    /// Checks a name. The kernel would strip blanks, stop at a zero byte and turn a `!` into a
    /// slash; nothing that it would change is accepted.
    ///
    /// # Errors
    /// [`NameError`] for an empty part, `.` or `..`, another character, or more than 200 bytes.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let plain = |part: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(known)
        };
        let good = name.len() <= 200 && name.split('/').all(plain);
        if good { Ok(Self(name.to_owned())) } else { Err(NameError(name.to_owned())) }
    }

    /// As it stands in sysfs, where a slash is a `!` (`kobject_set_name_vargs`).
    fn in_sysfs(&self) -> String {
        self.0.replace('/', "!")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// No /dev/cuse.
    #[error(
        "{0} is not there: load the cuse module (`modprobe cuse`; CONFIG_CUSE), or use --mount, which needs no module"
    )]
    Missing(PathBuf),
    /// It may not be opened.
    #[error(
        "{0} may not be opened: it belongs to root with mode 0600 unless a udev rule says otherwise; run as root, or use --mount"
    )]
    Forbidden(PathBuf),
    /// The name is in use.
    #[error(
        "{path} exists already ({what}): a second device of that name would be created and never be reached; choose another name"
    )]
    Taken {
        /// What has the name.
        path: PathBuf,
        /// What that is.
        what: &'static str,
    },
    /// The name was free before, and now leads to another device.
    #[error(
        "{0} leads to another device than the one just made: something took the name at the same time; choose another name"
    )]
    Shadowed(PathBuf),
    /// The kernel did not make the device.
    #[error(
        "the kernel refused a device called {0}; `dmesg` may say why (another CUSE device with the name, no free device number)"
    )]
    Refused(Name),
    /// The conversation did not begin.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Reading or writing failed otherwise.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// Why the loop broke off.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// What came is not a request.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Reading, writing or waiting failed.
    #[error("/dev/cuse: {0}")]
    Io(#[from] io::Error),
}

/// How the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The stop descriptor became readable.
    Stopped,
    /// The kernel took the device away: /sys/class/cuse/NAME/abort, or an unload.
    Removed,
}

/// Where the system's files are; tests put them elsewhere.
#[derive(Clone, Debug)]
pub struct Roots {
    /// /dev.
    pub dev: PathBuf,
    /// /sys.
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { dev: "/dev".into(), sys: "/sys".into() }
    }
}

impl Roots {
    /// Looks whether anything has the name. A heap of the kernel's, above all: devtmpfs keeps
    /// the first node of a name, so that ours would exist and never be opened.
    ///
    /// # Errors
    /// [`CreateError::Taken`].
    pub fn check_free(&self, name: &Name) -> Result<(), CreateError> {
        let heap = name
            .0
            .strip_prefix("dma_heap/")
            .map(|heap| (self.sys.join("class/dma_heap").join(heap), "a heap of the kernel's own"));
        let cuse = (self.sys.join("class/cuse").join(name.in_sysfs()), "another CUSE device");
        let node = (self.dev.join(&name.0), "a device node or file");
        for (path, what) in heap.into_iter().chain([cuse, node]) {
            if path.symlink_metadata().is_ok() {
                return Err(CreateError::Taken { path, what });
            }
        }
        Ok(())
    }

    /// The number of the device that the kernel made for us, as `MAJOR:MINOR`.
    fn device_number(&self, name: &Name) -> Option<String> {
        let path = self.sys.join("class/cuse").join(name.in_sysfs()).join("dev");
        Some(fs::read_to_string(path).ok()?.trim().to_owned())
    }

    /// Looks whether /dev/NAME leads to device `number`; `Ok(false)` if there is no such node,
    /// as in a container whose /dev is not devtmpfs.
    ///
    /// # Errors
    /// [`CreateError::Shadowed`] if it leads elsewhere.
    pub fn check_node(&self, name: &Name, number: &str) -> Result<bool, CreateError> {
        let path = self.dev.join(&name.0);
        let Ok(node) = fs::metadata(&path) else { return Ok(false) };
        let (major, minor) = (rustix::fs::major(node.rdev()), rustix::fs::minor(node.rdev()));
        if format!("{major}:{minor}") == number {
            Ok(true)
        } else {
            Err(CreateError::Shadowed(path))
        }
    }
}

/// A character device of ours. It exists as long as this value.
#[derive(Debug)]
pub struct Node<B> {
    file: File,
    channel: Channel<B>,
    path: PathBuf,
    number: String,
    visible: bool,
}

impl<B: Backend> Node<B> {
    /// Makes the node /dev/`name`.
    ///
    /// # Errors
    /// [`CreateError`] says what to do about each.
    pub fn create(name: &Name, backend: B, roots: &Roots) -> Result<Self, CreateError> {
        roots.check_free(name)?;
        let mut file = open_channel(&roots.dev.join("cuse"))?;
        let mut channel = Channel::new(&name.0, backend);
        let path = roots.dev.join("cuse");
        let io = |source| CreateError::Io { path: path.clone(), source };
        let mut buffer = vec![0; REQUEST_BYTES_MAX];
        let len = file.read(&mut buffer).map_err(io)?;
        for message in channel.handle(&buffer[..len])? {
            file.write_all(&message).map_err(io)?;
        }
        // The kernel makes the device while it takes the reply; what it refuses, it aborts.
        let mut fds = [PollFd::new(&file, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).map_err(|errno| io(errno.into()))?;
        let refused = fds[0].revents().contains(PollFlags::ERR) || !channel.started();
        let number = roots.device_number(name).filter(|_| !refused);
        let number = number.ok_or_else(|| CreateError::Refused(name.clone()))?;
        let visible = roots.check_node(name, &number)?;
        Ok(Self { file, channel, path: roots.dev.join(&name.0), number, visible })
    }

    /// The node's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the node appeared; if not, `mknod PATH c MAJOR MINOR` with these makes it.
    pub fn node_to_make(&self) -> Option<&str> {
        (!self.visible).then_some(&self.number)
    }

    /// The device.
    pub fn backend(&mut self) -> &mut B {
        self.channel.backend()
    }

    /// Answers requests until `stop` becomes readable or the kernel takes the device away.
    /// `wake`, a non-blocking eventfd, tells of a change in the backend that no request made.
    ///
    /// # Errors
    /// [`ServeError`] if the conversation can't go on.
    pub fn serve(&mut self, stop: BorrowedFd<'_>, wake: BorrowedFd<'_>) -> Result<End, ServeError> {
        let mut buffer = vec![0; REQUEST_BYTES_MAX];
        loop {
            let mut fds = [self.file.as_fd(), stop, wake]
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                ready => ready.map_err(io::Error::from)?,
            };
            let [request, stopped, woken] = fds.map(|fd| !fd.revents().is_empty());
            if stopped {
                return Ok(End::Stopped);
            }
            if woken {
                drain(wake)?;
                let messages = self.channel.progress();
                self.send(&messages)?;
            }
            if request {
                match self.receive(&mut buffer)? {
                    Received::Request(len) => {
                        let messages = self.channel.handle(&buffer[..len])?;
                        self.send(&messages)?;
                    }
                    Received::Nothing => {}
                    Received::Removed => return Ok(End::Removed),
                }
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Received, ServeError> {
        let error = match self.file.read(buffer) {
            Ok(len) => return Ok(Received::Request(len)),
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            // ENOENT: the request went away while it was being read.
            Some(Errno::INTR | Errno::AGAIN | Errno::NOENT) => Ok(Received::Nothing),
            Some(Errno::NODEV | Errno::CONNABORTED) => Ok(Received::Removed),
            _ => Err(error.into()),
        }
    }

    fn send(&mut self, messages: &[Vec<u8>]) -> Result<(), ServeError> {
        for message in messages {
            match self.file.write(message).map_err(|error| (Errno::from_io_error(&error), error)) {
                Ok(_) => {}
                // ENOENT: the caller was killed meanwhile, or no one polls that file any more.
                // ENODEV: the device is gone, which the next read reports.
                Err((Some(Errno::NOENT | Errno::NODEV), _)) => {}
                Err((_, error)) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

enum Received {
    Request(usize),
    Nothing,
    Removed,
}

/// Opens /dev/cuse, close-on-exec as all that std opens: the device must not outlive us in a child.
fn open_channel(path: &Path) -> Result<File, CreateError> {
    let at = path.to_path_buf();
    fs::OpenOptions::new().read(true).write(true).open(path).map_err(|source| {
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT | Errno::NXIO | Errno::NODEV) => CreateError::Missing(at),
            Some(Errno::ACCESS | Errno::PERM) => CreateError::Forbidden(at),
            _ => CreateError::Io { path: at, source },
        }
    })
}

/// Resets an eventfd.
fn drain(wake: BorrowedFd<'_>) -> Result<(), ServeError> {
    match rustix::io::read(wake, &mut [0; 8]) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}
