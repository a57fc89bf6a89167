//! The control socket: what `driftheap ctl` asks a running device.
//!
//! A Unix seqpacket socket of mode 0600. A client sends one packet, a [`Query`] as JSON. It gets a
//! [`Head`] as JSON, which says whether the query was answered, then the answer as text in packets of
//! at most [`PACKET_BYTES_MAX`] until the connection is closed.
//! Who is neither our user nor root, by SO_PEERCRED, gets nothing.
//!
//! Bounds: [`CLIENTS_MAX`] clients at once, [`CLIENT_TIME_MAX`] for each.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};

use super::holders::Holder;
use super::runtime;
use super::{Backing, Buffer, BufferId, Device, Inode, whereabouts};
use crate::model::{Operation, Placement};
use crate::terminal::printed;

/// Most bytes of one packet.
pub const PACKET_BYTES_MAX: usize = 16 * 1024;
/// Most clients that are served at once; more wait.
pub const CLIENTS_MAX: usize = 8;
/// A client that takes longer is dropped.
pub const CLIENT_TIME_MAX: Duration = Duration::from_secs(10);

/// What can be asked; also the words of `driftheap ctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ControlCommand {
    /// A line for each buffer.
    List,
    /// bufinfo, or one buffer's fdinfo and holders.
    Info,
    /// Counters and quotas.
    Stats,
    /// The last events.
    Trace,
    /// Drop a buffer's page table entries in every process.
    Zap,
    /// Give a buffer new memory in vram.
    Move,
    /// Give a buffer new memory in system.
    Evict,
    /// Take a buffer's memory away: SIGBUS on access.
    Purge,
    /// Take a buffer's memory away for good: SIGBUS on access, ENODEV for mmap.
    Revoke,
}

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It was answered, or done.
    Ok,
    /// The device won't, or can't; the answer says why.
    Refused,
    /// There is no buffer with that inode.
    Unknown,
}

/// The first packet of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// What became of the query.
    pub outcome: Status,
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlAnswer {
    /// What became of it.
    pub outcome: Status,
    /// What there is to say, with its newline.
    pub text: String,
}

impl ControlAnswer {
    fn ok(text: impl Into<String>) -> Self {
        Self { outcome: Status::Ok, text: text.into() }
    }

    fn refused(why: &str) -> Self {
        Self { outcome: Status::Refused, text: format!("{why}\n") }
    }

    fn unknown(ino: u64) -> Self {
        let text = format!("no buffer with inode {ino}: see `driftheap ctl list`\n");
        Self { outcome: Status::Unknown, text }
    }

    /// The same for who asked for JSON: what is not an object yet becomes one.
    fn for_query(self, query: &Query) -> Self {
        let is_object = self.outcome == Status::Ok && !query.verb.is_of_one_buffer();
        if !query.json || is_object {
            return self;
        }
        let (verb, ino) = (query.verb, query.ino);
        let view = DoneView { verb, ino, outcome: self.outcome, text: self.text.trim_end() };
        Self { text: json_line(&view), ..self }
    }
}

/// What became of an order, as `--json` shows it.
#[derive(Debug, Serialize)]
struct DoneView<'a> {
    verb: ControlCommand,
    ino: Option<u64>,
    outcome: Status,
    text: &'a str,
}

/// A traced event, as `--json` shows it.
#[derive(Debug, Serialize)]
struct EventView {
    event: String,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// What.
    pub verb: ControlCommand,
    /// Inode of the buffer that [`ControlCommand::Info`] is about; all of them without.
    pub ino: Option<u64>,
    /// Answer in JSON.
    pub json: bool,
}

/// A buffer as `--json` shows it.
#[derive(Debug, Serialize)]
struct BufferView<'a> {
    ino: u64,
    size: u64,
    exp_name: &'a str,
    name: Option<String>,
    pid: i32,
    backing: &'static str,
    placement: &'static str,
    life: &'static str,
    holders: &'a [Holder],
}

impl ControlCommand {
    /// Whether it makes no sense without saying which buffer.
    pub fn is_of_one_buffer(self) -> bool {
        self == Self::Zap || self.operation().is_some()
    }

    /// What an exporter is to do, for the verbs that ask for it.
    fn operation(self) -> Option<Operation> {
        match self {
            Self::Move => Some(Operation::Move(Placement::Vram)),
            Self::Evict => Some(Operation::Move(Placement::System)),
            Self::Purge => Some(Operation::Purge),
            Self::Revoke => Some(Operation::Revoke),
            Self::List | Self::Info | Self::Stats | Self::Trace | Self::Zap => None,
        }
    }
}

/// Where our socket lies unless it is told otherwise: in the user's own directory.
///
/// # Errors
/// The directory can't be made, or is not ours alone.
pub fn default_path() -> io::Result<PathBuf> {
    runtime::own_path("sock")
}

/// A socket that is served; it is removed when this is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        // Somebody else may have removed it, which is as good.
        runtime::release(&self.path);
    }
}

impl Control {
    /// Serves queries about `device` at `path` from a thread of its own, until the process ends.
    ///
    /// # Errors
    /// The path exists already or can't be written, or no thread can be started.
    pub fn serve(path: &Path, device: Arc<dyn Controlled>) -> io::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listener = {
            let _guard = runtime.enter();
            // So that the socket never exists with more than mode 0600.
            let before = rustix::process::umask(rustix::fs::Mode::from_bits_retain(0o177));
            let listener = UnixSeqpacketListener::bind(path);
            rustix::process::umask(before);
            listener?
        };
        // Removed again where there is no thread for it.
        let control = Self { path: path.to_owned() };
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(accept(listener, device)))?;
        Ok(control)
    }
}

async fn accept(mut listener: UnixSeqpacketListener, device: Arc<dyn Controlled>) {
    let slots = Arc::new(tokio::sync::Semaphore::new(CLIENTS_MAX));
    while let Ok(client) = listener.accept().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let device = Arc::clone(&device);
        tokio::spawn(async move {
            // A client that is slow or gone concerns nobody else.
            drop(tokio::time::timeout(CLIENT_TIME_MAX, client_served(client, &*device)).await);
            drop(slot);
        });
    }
}

async fn client_served(client: UnixSeqpacket, device: &dyn Controlled) -> io::Result<()> {
    let peer = client.peer_cred()?.uid();
    let trusted = peer == 0 || peer == rustix::process::geteuid().as_raw();
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let len = client.recv(&mut packet).await?.bytes_read();
    let answered = match serde_json::from_slice(&packet[..len]) {
        _ if !trusted => ControlAnswer::refused("only its own user and root may ask"),
        Ok(query) => answer(&query, device).for_query(&query),
        Err(error) => ControlAnswer::refused(&format!("not a query: {error}")),
    };
    let head = Head { outcome: answered.outcome };
    client.send(&serde_json::to_vec(&head)?).await?;
    for chunk in answered.text.as_bytes().chunks(PACKET_BYTES_MAX) {
        client.send(chunk).await?;
    }
    Ok(())
}

/// Why a transport did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// There is no buffer with that inode.
    #[error("there is no such buffer")]
    Unknown,
    /// It won't, or can't.
    #[error(transparent)]
    Refused(Box<dyn std::error::Error + Send + Sync>),
}

impl NotDone {
    /// A refusal, with its reason.
    pub fn refused(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Refused(why.into())
    }
}

/// What a transport does for `driftheap ctl`. Each implements it in a file of its own, `control.rs`.
pub trait Controlled: Send + Sync {
    /// Calls `f` with the device, from which what nobody holds any more is gone.
    fn look(&self, f: &mut dyn FnMut(&Device));

    /// Who holds these buffers, where that can be told.
    fn holders(&self, _inodes: &[Inode]) -> BTreeMap<Inode, Vec<Holder>> {
        BTreeMap::new()
    }

    /// Lines for `stats` beside those that every device has.
    fn more_stats(&self) -> String {
        String::new()
    }

    /// Drops a buffer's page table entries, in every process. Says what was done.
    ///
    /// # Errors
    /// [`NotDone`].
    fn zap(&self, ino: u64) -> Result<String, NotDone>;

    /// Moves, evicts, purges or revokes a buffer. Says what was done.
    ///
    /// # Errors
    /// [`NotDone`].
    fn operate(&self, operation: Operation, ino: u64) -> Result<String, NotDone>;
}

/// Answers one query.
pub fn answer(query: &Query, device: &dyn Controlled) -> ControlAnswer {
    if !query.verb.is_of_one_buffer() {
        return look(query, device);
    }
    let Some(ino) = query.ino else {
        return ControlAnswer::refused("say which buffer, by its inode");
    };
    let done = match query.verb.operation() {
        Some(operation) => device.operate(operation, ino),
        None => device.zap(ino),
    };
    match done {
        Ok(text) => ControlAnswer::ok(text),
        Err(NotDone::Unknown) => ControlAnswer::unknown(ino),
        Err(NotDone::Refused(why)) => ControlAnswer::refused(&why.to_string()),
    }
}

fn look(query: &Query, device: &dyn Controlled) -> ControlAnswer {
    let mut held = BTreeMap::new();
    if matches!(query.verb, ControlCommand::List | ControlCommand::Info) {
        let mut inodes = Vec::new();
        device.look(&mut |device| {
            inodes = device.buffers().map(|(_, buffer)| buffer.inode).collect();
        });
        // The walk through /proc is long; the device goes on meanwhile.
        held = device.holders(&inodes);
    }
    let mut shown = ControlAnswer::ok("");
    device.look(&mut |device| shown = show(query, device, &held));
    if query.verb == ControlCommand::Stats && !query.json {
        shown.text += &device.more_stats();
    }
    shown
}

/// The buffer with this inode.
pub(super) fn buffer_of(device: &Device, ino: u64) -> Result<(BufferId, &Buffer), NotDone> {
    device.buffers().find(|(_, buffer)| buffer.inode.ino == ino).ok_or(NotDone::Unknown)
}

/// What a device tells about itself.
fn show(query: &Query, device: &Device, held: &BTreeMap<Inode, Vec<Holder>>) -> ControlAnswer {
    let of = |buffer: &Buffer| held.get(&buffer.inode).map_or(&[][..], Vec::as_slice);
    let asked = query.ino.filter(|_| query.verb == ControlCommand::Info);
    let wanted = |buffer: &&Buffer| asked.is_none_or(|ino| ino == buffer.inode.ino);
    let buffers = || device.buffers().map(|(_, buffer)| buffer).filter(wanted);
    if let Some(ino) = asked
        && buffers().next().is_none()
    {
        return ControlAnswer::unknown(ino);
    }
    ControlAnswer::ok(match (query.verb, query.json) {
        (ControlCommand::Stats, true) => json_line(&device.stats),
        (ControlCommand::Stats, false) => stats_text(device),
        (ControlCommand::Trace, true) => {
            device.trace.lines().map(|event| json_line(&EventView { event })).collect()
        }
        (ControlCommand::Trace, false) => {
            let head = format!("# tracer: nop\n# {} events dropped\n", device.trace.dropped());
            device.trace.lines().fold(head, |text, line| text + &line + "\n")
        }
        (ControlCommand::List | ControlCommand::Info, true) => {
            buffers().map(|buffer| json_line(&view(buffer, of(buffer)))).collect()
        }
        (ControlCommand::List, false) => list_text(buffers().map(|buffer| (buffer, of(buffer)))),
        (ControlCommand::Info, false) => match (asked, buffers().next()) {
            (Some(_), Some(buffer)) => info_text(buffer, of(buffer)),
            _ => device.bufinfo(|buffer| count(of(buffer))),
        },
        (
            ControlCommand::Zap
            | ControlCommand::Move
            | ControlCommand::Evict
            | ControlCommand::Purge
            | ControlCommand::Revoke,
            _,
        ) => String::new(),
    })
}

fn count(holders: &[Holder]) -> u64 {
    u64::try_from(holders.len()).unwrap_or(u64::MAX)
}

/// One object a line.
fn json_line<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string()) + "\n"
}

fn backing(buffer: &Buffer) -> &'static str {
    match buffer.backing {
        Backing::Secret => "memfd_secret",
        Backing::Memfd => "memfd",
        Backing::Foreign => "caller's memfd",
    }
}

fn view<'a>(buffer: &'a Buffer, holders: &'a [Holder]) -> BufferView<'a> {
    BufferView {
        ino: buffer.inode.ino,
        size: buffer.size_bytes,
        exp_name: &buffer.exp_name,
        name: buffer.name_text(),
        pid: buffer.pid,
        backing: backing(buffer),
        placement: buffer.placement.word(),
        life: buffer.life.word(),
        holders,
    }
}

fn list_text<'a>(buffers: impl Iterator<Item = (&'a Buffer, &'a [Holder])>) -> String {
    let mut text = format!(
        "{:>10} {:>12} {:<16} {:<14} {:>7} {:>5} {:<8} name\n",
        "ino", "size", "exp_name", "backing", "pid", "count", "where"
    );
    for (buffer, holders) in buffers {
        text += &format!(
            "{:>10} {:>12} {:<16} {:<14} {:>7} {:>5} {:<8} {}\n",
            buffer.inode.ino,
            buffer.size_bytes,
            buffer.exp_name,
            backing(buffer),
            buffer.pid,
            holders.len(),
            whereabouts(buffer.life, buffer.placement),
            buffer.name_printed().unwrap_or_default()
        );
    }
    text
}

fn info_text(buffer: &Buffer, holders: &[Holder]) -> String {
    let name = buffer.name_printed();
    let fdinfo =
        buffer.fdinfo(buffer.access.mode, 0, count(holders), name.as_deref().map(str::as_bytes));
    let mut text = String::from_utf8_lossy(&fdinfo).into_owned();
    text += &format!("where:\t{}\n", whereabouts(buffer.life, buffer.placement));
    for holder in holders {
        text += &format!("holder:\t{} {} fd {}\n", holder.pid, printed(&holder.comm), holder.fd);
    }
    text
}

fn stats_text(device: &Device) -> String {
    let (stats, limits) = (&device.stats, device.limits());
    format!(
        "buffers\t{} now, {} ever, {} released, at most {}\n\
         bytes\t{} now, {} ever, at most {}\n\
         sync files\t{} ever\n\
         ioctls\t{} ({} failed)\n\
         moves\t{} of {} pages, {} refused, {} buffers purged or revoked\n\
         pfnmap\t{} bytes now, {} buffers went without\n",
        device.buffers().count(),
        stats.buffers,
        stats.released,
        limits.buffers,
        device.bytes(),
        stats.bytes,
        limits.bytes,
        stats.sync_files,
        stats.ioctls,
        stats.ioctl_errors,
        stats.moves,
        stats.pages_moved,
        stats.moves_refused,
        stats.killed,
        device.secret_bytes(),
        stats.pfnmap_fallbacks,
    )
}
