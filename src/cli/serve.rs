//! `driftheap serve`: heaps and buffers as files of a FUSE mount, a heap as a device node, or an
//! exporter at a socket.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail};
use clap::Args;
use driftheap::device::Device;
use driftheap::device::control::Controlled;
use driftheap::device::fuse::control::Mounted;
use driftheap::device::fuse::{DeviceFs, Served, Zapper};
use driftheap::device::live::emulate::DeviceSpec;
use driftheap::device::look::Look;
use driftheap::device::rules::parse_size;
use driftheap::device::transport::lock;
use fuser::{MountOption, Session, SessionACL};
use nix::sys::signal::{SigSet, Signal};

use super::ctl::serve_control;
use super::device::DeviceArgs;
use super::live::WebArgs;
use super::{Exit, out::Out};

/// Serve heaps to several programs at once: as files of a mount, as a device node, or by a socket.
///
/// --mount: DIR/dma_heap/NAME takes DMA_HEAP_IOCTL_ALLOC and answers N in its field `fd`; the
/// buffer is DIR/buffers/N, to be opened, mapped and synchronised.
///
/// --cuse: /dev/NAME is a character device. ALLOC answers a handle (from 0x40000000) in `fd`. Open
/// the node again and ioctl(fd, 0x40044440, HANDLE): that file is the buffer then, for SYNC,
/// SET_NAME and poll. Its memory, to be mapped, comes from the Unix socket @driftheap/NAME. Needs
/// the module cuse and the right to open /dev/cuse.
///
/// --socket: for programs that use the client library (driftheap::client, or its C header). Buffers
/// move under them (`driftheap ctl move|evict|purge|revoke`), devices attach and do DMA by bus
/// address, and what goes wrong is reported with the byte and the buffer; the exit status is 1 then.
///
/// A mount or a node can't install a file in its caller, so a program has to know this; one that does not
/// belongs under `driftheap run`.
///
/// Runs until SIGINT, SIGTERM or SIGHUP; the mount or the node goes whichever way it ends.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("place").required(true))]
pub(crate) struct ServeArgs {
    /// Empty directory to mount on
    #[arg(long, value_name = "DIR", group = "place")]
    mount: Option<PathBuf>,
    /// Device node to make below /dev, such as dma_heap/driftheap
    #[arg(long, value_name = "NAME", group = "place")]
    cuse: Option<String>,
    /// Unix socket to listen at, for programs that use the client library
    #[arg(long, value_name = "PATH", group = "place")]
    socket: Option<PathBuf>,
    /// Emulated device that uses a buffer, may be repeated (--socket only)
    ///
    /// NAME,writes=BUF or reads=BUF, with BUF a buffer's name or #INDEX. Options: every=16ms;
    /// hold=1ms, the time between an access's translation and its transfer; importer=dynamic or
    /// static; notify=handled or ignored, what it does on move_notify; fence=yes or no.
    #[arg(long = "device", value_name = "SPEC", requires = "socket")]
    pub(super) devices: Vec<DeviceSpec>,
    /// Write what happened as litmus tests: FILE, and -2, -3 before its extension (--socket only)
    #[arg(long, value_name = "FILE", requires = "socket")]
    pub(super) record: Option<PathBuf>,
    /// Size of the carveout that buffers are allocated in (--socket only)
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub(super) vram: u64,
    #[command(flatten)]
    pub(super) device: DeviceArgs,
    /// Let every user open the files (root, or user_allow_other in /etc/fuse.conf)
    #[arg(long, requires = "mount")]
    allow_other: bool,
    #[command(flatten)]
    pub(super) web: WebArgs,
    /// Unmount when standard input ends: the watcher that a killed server leaves behind
    #[arg(long, hide = true, requires = "mount")]
    unmount_at_eof: bool,
}

/// What the watcher is told when there is nothing left to unmount.
const DONE: u8 = b'.';

/// `f_type` of a FUSE mount.
const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;

pub(crate) fn run(mut args: ServeArgs, out: &Out) -> anyhow::Result<Exit> {
    if let Some(path) = args.socket.take() {
        return super::serve_socket::run(&path, args, out);
    }
    match (args.mount.take(), args.cuse.take()) {
        (Some(dir), _) if args.unmount_at_eof => Ok(watch(&dir)),
        (Some(dir), _) => serve_mount(&dir, args, out),
        (None, Some(name)) => super::serve_cuse::run(&name, args, out),
        (None, None) => bail!("say where: --mount DIR, --cuse NAME or --socket PATH"),
    }
}

fn serve_mount(dir: &Path, args: ServeArgs, out: &Out) -> anyhow::Result<Exit> {
    check_fuse()?;
    check_directory(dir)?;
    let device = Device::new(args.device.heaps()?, args.device.limits());
    let served = Arc::new(Mutex::new(Served::new(device)));
    // Before any thread starts, so that all of them inherit it.
    let signals = end_signals();
    signals.thread_block().context("can't block signals")?;
    let listening = args.web.listen("driftheap serve --web")?;
    let mut watcher = watcher(dir)?;
    let mounted = mount(dir, Arc::clone(&served), args.allow_other)?;
    let zapper = Zapper(mounted.notifier());
    let asked: Arc<dyn Controlled> = Arc::new(Mounted { served: Arc::clone(&served), zapper });
    let control = serve_control(args.device.control, Arc::clone(&asked), out);
    if !out.quiet {
        out.text(&format!("serving at {}\n", dir.display()))?;
    }
    let session = mounted.spawn().context("can't start the file system's thread")?;
    let seen = Arc::clone(&served);
    let dev = rustix::fs::stat(dir).map_or(0, |stat| stat.st_dev);
    let looker = move |known, _| {
        let mut look = Look::at(&lock(&seen).device, None, None, known);
        // The device knows no number of the mount, and whoever has a file of it open does.
        look.buffers.iter_mut().for_each(|buffer| buffer.inode.dev = dev);
        look
    };
    let web = listening.map(|listening| listening.serve(Box::new(looker), asked, out));
    let web = web.transpose()?;
    // The mount may also go by somebody else's umount, which ends the thread.
    wait(&signals, || session.guard.is_finished());
    drop(control);
    if let Some(web) = web {
        web.end(&[]);
    }
    unmount(dir);
    if let Some(stdin) = &mut watcher.stdin {
        // It may be gone already; then there is nothing to tell.
        let _told = stdin.write_all(&[DONE]);
    }
    drop(watcher.stdin.take());
    let _reaped = watcher.wait();
    if !out.quiet {
        let stats = lock(&served).device.stats;
        out.note(&format!(
            "driftheap: {} buffers, {} bytes, {} ioctls ({} failed)\n",
            stats.buffers, stats.bytes, stats.ioctls, stats.ioctl_errors
        ));
    }
    Ok(Exit::Good)
}

pub(super) fn end_signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set
}

/// Waits for a signal, looking now and then whether the mount is still there.
pub(super) fn wait(signals: &SigSet, mut ended: impl FnMut() -> bool) {
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    use rustix::event::{PollFd, PollFlags, Timespec};
    let Ok(fd) = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC) else { return };
    let tick = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    while !ended() {
        let borrowed = std::os::fd::AsFd::as_fd(&fd);
        let mut fds = [PollFd::from_borrowed_fd(borrowed, PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&tick)).is_ok_and(|ready| ready > 0) {
            return;
        }
    }
}

/// Says what is wrong with /dev/fuse, and what can be done, before anything is started.
fn check_fuse() -> anyhow::Result<()> {
    let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/fuse") else {
        return Ok(());
    };
    let remedy = if error.kind() == std::io::ErrorKind::PermissionDenied {
        "run as root, or have root allow it (`chmod 666 /dev/fuse`, as most distributions do)"
    } else {
        "load the module (`modprobe fuse`), or pass it to the container (`--device /dev/fuse`)"
    };
    bail!("can't open /dev/fuse: {error}: {remedy}; `driftheap run` needs no FUSE");
}

fn check_directory(mount: &Path) -> anyhow::Result<()> {
    let mut entries =
        std::fs::read_dir(mount).with_context(|| format!("can't mount on {}", mount.display()))?;
    if entries.next().is_some() {
        bail!("can't mount on {}: the directory is not empty", mount.display());
    }
    Ok(())
}

fn mount(
    mount: &Path,
    served: Arc<Mutex<Served>>,
    allow_other: bool,
) -> anyhow::Result<Session<DeviceFs>> {
    let mut config = fuser::Config::default();
    config.mount_options.extend([
        MountOption::FSName("driftheap".into()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ]);
    config.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
    Session::new(DeviceFs::new(served), mount, &config).map_err(|error| {
        let hint = if rustix::process::geteuid().is_root() {
            ""
        } else {
            ": without root, fusermount3 (package fuse3) has to be installed, or run it in a \
             namespace of your own, `unshare -Urm`"
        };
        anyhow::anyhow!("can't mount on {}: {error}{hint}", mount.display())
    })
}

/// A process that unmounts when we die without having done it, even of SIGKILL: it learns that
/// from the end of its standard input. It holds no descriptor of /dev/fuse, which would keep the
/// connection and with it every blocked client alive.
fn watcher(mount: &Path) -> anyhow::Result<Child> {
    let own = std::env::current_exe().context("can't find driftheap's own executable")?;
    Command::new(own)
        .args(["serve", "--unmount-at-eof", "--mount"])
        .arg(mount)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("can't start the process that unmounts after a crash")
}

fn watch(mount: &Path) -> Exit {
    let mut byte = [0];
    if std::io::stdin().read(&mut byte).is_ok_and(|got| got == 1 && byte[0] == DONE) {
        return Exit::Good;
    }
    unmount(mount);
    Exit::Differs
}

/// Detaches the mount, if it is still a FUSE mount; who holds files of it gets ENOTCONN once the
/// server is gone.
fn unmount(mount: &Path) {
    let fuse = match rustix::fs::statfs(mount) {
        Ok(statfs) => statfs.f_type == FUSE_SUPER_MAGIC,
        Err(errno) => is_dead_fuse(errno),
    };
    if !fuse {
        return;
    }
    let flags = rustix::mount::UnmountFlags::DETACH;
    if rustix::mount::unmount(mount, flags).is_err() {
        let _tried = Command::new("fusermount3").args(["-u", "-z"]).arg(mount).status();
    }
}

/// Whether statfs failed as it only does on a FUSE mount whose server is gone: ENOTCONN, or
/// ECONNABORTED if the server went while it was asked, or ECONNREFUSED if it went before it answered
/// the first request (Linux `fs/fuse/dev.c`, `fuse_get_req` and `fuse_abort_conn`).
fn is_dead_fuse(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(errno, Errno::NOTCONN | Errno::CONNABORTED | Errno::CONNREFUSED)
}
