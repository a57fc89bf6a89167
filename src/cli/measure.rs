//! The conformance suite, run on one device after the other by a child of this program.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use driftheap::conformance::{Answers, Transport, answers};
use driftheap::device::runtime;
use driftheap::sys::backing;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest that the suite, or a boot with it, may take.
pub(super) const SUITE_SECONDS_MAX: u64 = 300;
/// Longest that a server may take to begin or to end.
const SERVER_SECONDS_MAX: u64 = 30;
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a child that has ended left.
pub(super) struct Ran {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ran {
    /// Its last words, for an error.
    fn last_words(&self) -> String {
        let said = self.stderr.trim();
        let last = said.rsplit('\n').next().unwrap_or_default().trim();
        let last = last.strip_prefix("error: ").unwrap_or(last);
        if last.is_empty() { self.status.to_string() } else { last.to_owned() }
    }
}

/// A child's output, in memory: a pipe that nobody empties would stop it.
fn sink() -> anyhow::Result<File> {
    Ok(File::from(backing::memfd("output").context("no memory for a child's output")?))
}

fn read_back(mut file: File) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context("a child's output")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs a command to its end, or kills it.
pub(super) fn bounded(command: &mut Command, seconds_max: u64) -> anyhow::Result<Ran> {
    bounded_until(command, seconds_max, &mut || false)
}

/// The same; once `ends` says so the command is asked to end (SIGTERM), and what it has printed counts.
pub(super) fn bounded_until(
    command: &mut Command,
    seconds_max: u64,
    ends: &mut dyn FnMut() -> bool,
) -> anyhow::Result<Ran> {
    let (stdout, stderr) = (sink()?, sink()?);
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("can't start {name}"))?;
    let Some(status) = wait_for(&mut child, seconds_max, ends)? else {
        child.kill().and_then(|()| child.wait()).with_context(|| format!("can't end {name}"))?;
        bail!("{name} was still running after {seconds_max} s");
    };
    Ok(Ran { status, stdout: read_back(stdout)?, stderr: read_back(stderr)? })
}

fn wait_for(
    child: &mut Child,
    seconds_max: u64,
    ends: &mut dyn FnMut() -> bool,
) -> anyhow::Result<Option<ExitStatus>> {
    let started = Instant::now();
    let mut asked = false;
    loop {
        if !asked && ends() {
            asked = true;
            let pid = i32::try_from(child.id()).context("a child's number")?;
            let _ended_already = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if let Some(status) = child.try_wait().context("can't wait for a child")? {
            return Ok(Some(status));
        }
        if started.elapsed() > Duration::from_secs(seconds_max) {
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn own() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("can't find driftheap's own executable")
}

/// Runs the suite with `settings` of its environment.
fn suite(settings: &[(&str, &Path)]) -> anyhow::Result<Answers> {
    let mut command = Command::new(own()?);
    command.arg("__conformance");
    for (name, value) in settings {
        command.env(name, value);
    }
    checked(&bounded(&mut command, SUITE_SECONDS_MAX)?)
}

fn checked(ran: &Ran) -> anyhow::Result<Answers> {
    // The suite's own 1 says that some row is not as in Linux, which is for us to judge.
    let found = answers(&ran.stdout);
    if found.is_empty() {
        bail!("{}", ran.last_words());
    }
    Ok(found)
}

/// What this machine's own kernel answers, by exporter: `system`, and `udmabuf` and `vgem` where it
/// has them.
pub(super) fn kernel() -> anyhow::Result<BTreeMap<String, Answers>> {
    if !Path::new("/dev/dma_heap/system").exists() {
        bail!("this machine has no /dev/dma_heap/system");
    }
    exporters()
}

/// The same of a kernel that may have no heaps.
pub(super) fn exporters() -> anyhow::Result<BTreeMap<String, Answers>> {
    let mut columns = BTreeMap::new();
    if Path::new("/dev/dma_heap/system").exists() {
        columns.insert("system".to_owned(), suite(&[])?);
    }
    for (exporter, device) in [("udmabuf", "/dev/udmabuf"), ("vgem", "/sys/module/vgem")] {
        if Path::new(device).exists() {
            let answers = suite(&[("CONFORMANCE_EXPORTER", Path::new(exporter))])?;
            columns.insert(exporter.to_owned(), answers);
        }
    }
    Ok(columns)
}

/// What one of our transports answers here.
///
/// # Errors
/// It can't run here; the error says why.
pub(super) fn ours(transport: Transport) -> anyhow::Result<Answers> {
    match transport {
        Transport::Run => supervised(&["-q"]),
        Transport::Strict => supervised(&["-q", "--strict"]),
        Transport::Mount => mounted(),
        Transport::Cuse => noded(),
    }
}

fn supervised(options: &[&str]) -> anyhow::Result<Answers> {
    let own = own()?;
    let mut command = Command::new(&own);
    command.arg("run").args(options).arg("--").arg(&own).arg("__conformance");
    checked(&bounded(&mut command, SUITE_SECONDS_MAX)?)
}

/// A directory that goes with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = runtime::own_path("compare").context("no place for a mount and a socket")?;
        std::fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
        std::fs::create_dir(path.join("mount")).context("can't make a directory to mount on")?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Never what is below: a mount that stayed would be emptied too.
        runtime::release(&self.0);
    }
}

/// A server in a child; it ends with this value.
struct Server {
    child: Child,
    stderr: File,
}

impl Server {
    /// Starts `driftheap serve` and waits until `ready` exists.
    fn start(args: &[&Path], control: &Path, ready: &Path) -> anyhow::Result<Self> {
        let stderr = sink()?;
        let child = Command::new(own()?)
            .args(["serve", "-q", "--control"])
            .arg(control)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.try_clone()?)
            .spawn()
            .context("can't start a server")?;
        let mut server = Self { child, stderr };
        let started = Instant::now();
        while !ready.exists() {
            if let Some(status) = server.child.try_wait()? {
                let stderr = read_back(server.stderr.try_clone()?)?;
                bail!("{}", Ran { status, stdout: String::new(), stderr }.last_words());
            }
            if started.elapsed() > Duration::from_secs(SERVER_SECONDS_MAX) {
                bail!("{} did not appear in {SERVER_SECONDS_MAX} s", ready.display());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let _told = kill(pid, Signal::SIGTERM);
        if !matches!(wait_for(&mut self.child, SERVER_SECONDS_MAX, &mut || false), Ok(Some(_))) {
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

fn mounted() -> anyhow::Result<Answers> {
    let scratch = Scratch::new()?;
    let mount = scratch.0.join("mount");
    let ready = mount.join("dma_heap/system");
    let args = [Path::new("--mount"), mount.as_path()];
    let _server = Server::start(&args, &scratch.0.join("socket"), &ready)?;
    suite(&[("CONFORMANCE_MOUNT", &mount)])
}

fn noded() -> anyhow::Result<Answers> {
    let scratch = Scratch::new()?;
    let name = PathBuf::from(format!("dma_heap/driftheap-{}", std::process::id()));
    let node = Path::new("/dev").join(&name);
    let args = [Path::new("--cuse"), name.as_path()];
    let _server = Server::start(&args, &scratch.0.join("socket"), &node)?;
    suite(&[("CONFORMANCE_NODE", &node)])
}
