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
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};

use super::cuse::NodeState;
use super::fuse::{Served, Zapper};
use super::live::Deed;
use super::runtime;
use super::socket::Exporter;
use super::supervisor::holders::{Holder, holders};
use super::supervisor::{Shared, lock};
use super::text::printed;
use super::{Backing, Buffer, BufferId, Device, Inode, Life, Placement};
use crate::uapi::PAGE_SIZE;

/// Most bytes of one packet.
pub const PACKET_BYTES_MAX: usize = 16 * 1024;
/// Most clients that are served at once; more wait.
pub const CLIENTS_MAX: usize = 8;
/// A client that takes longer is dropped.
pub const CLIENT_TIME_MAX: Duration = Duration::from_secs(10);

/// What can be asked; also the words of `driftheap ctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
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
pub enum Outcome {
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
    pub outcome: Outcome,
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What became of it.
    pub outcome: Outcome,
    /// What there is to say, with its newline.
    pub text: String,
}

impl Answer {
    fn ok(text: impl Into<String>) -> Self {
        Self { outcome: Outcome::Ok, text: text.into() }
    }

    fn refused(why: &str) -> Self {
        Self { outcome: Outcome::Refused, text: format!("{why}\n") }
    }

    fn unknown(ino: u64) -> Self {
        let text = format!("no buffer with inode {ino}: see `driftheap ctl list`\n");
        Self { outcome: Outcome::Unknown, text }
    }

    /// The same for who asked for JSON: what is not an object yet becomes one.
    fn for_query(self, query: &Query) -> Self {
        let is_object = self.outcome == Outcome::Ok && !query.verb.is_of_one_buffer();
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
    verb: Verb,
    ino: Option<u64>,
    outcome: Outcome,
    text: &'a str,
}

/// A traced event, as `--json` shows it.
#[derive(Debug, Serialize)]
struct EventView {
    event: String,
}

/// What answers queries.
pub type Answerer = dyn Fn(&Query) -> Answer + Send + Sync;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// What.
    pub verb: Verb,
    /// Inode of the buffer that [`Verb::Info`] is about; all of them without.
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
    placement: Placement,
    life: Life,
    holders: &'a [Holder],
}

impl Verb {
    /// Whether it makes no sense without saying which buffer.
    pub fn is_of_one_buffer(self) -> bool {
        self == Self::Zap || self.deed().is_some()
    }

    /// What an exporter is to do, for the verbs that ask for it.
    fn deed(self) -> Option<Deed> {
        match self {
            Self::Move => Some(Deed::Move),
            Self::Evict => Some(Deed::Evict),
            Self::Purge => Some(Deed::Purge),
            Self::Revoke => Some(Deed::Revoke),
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
    /// Serves `answerer` at `path` from a thread of its own, until the process ends.
    ///
    /// # Errors
    /// The path exists already or can't be written, or no thread can be started.
    pub fn serve(path: &Path, answerer: Arc<Answerer>) -> io::Result<Self> {
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
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(accept(listener, answerer)))?;
        Ok(Self { path: path.to_owned() })
    }
}

async fn accept(mut listener: UnixSeqpacketListener, answerer: Arc<Answerer>) {
    let slots = Arc::new(tokio::sync::Semaphore::new(CLIENTS_MAX));
    while let Ok(client) = listener.accept().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let answerer = Arc::clone(&answerer);
        tokio::spawn(async move {
            // A client that is slow or gone concerns nobody else.
            drop(tokio::time::timeout(CLIENT_TIME_MAX, client_served(client, &*answerer)).await);
            drop(slot);
        });
    }
}

async fn client_served(client: UnixSeqpacket, answerer: &Answerer) -> io::Result<()> {
    let peer = client.peer_cred()?.uid();
    let trusted = peer == 0 || peer == rustix::process::geteuid().as_raw();
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let len = client.recv(&mut packet).await?.bytes_read();
    let answer = match serde_json::from_slice(&packet[..len]) {
        _ if !trusted => Answer::refused("only its own user and root may ask"),
        Ok(query) => answerer(&query).for_query(&query),
        Err(error) => Answer::refused(&format!("not a query: {error}")),
    };
    let head = Head { outcome: answer.outcome };
    client.send(&serde_json::to_vec(&head)?).await?;
    for chunk in answer.text.as_bytes().chunks(PACKET_BYTES_MAX) {
        client.send(chunk).await?;
    }
    Ok(())
}

/// Answers one query about a supervised tree of programs.
pub fn answer_supervised(query: &Query, shared: &Mutex<Shared>) -> Answer {
    if let Some(deed) = query.verb.deed() {
        return order(deed, query.ino, shared);
    }
    let inodes: Vec<Inode> = {
        let shared = &mut *lock(shared);
        shared.files.sweep(&mut shared.device);
        shared.device.buffers().map(|(_, buffer)| buffer.inode).collect()
    };
    // The walk through /proc is long; the device goes on meanwhile.
    let held = match query.verb {
        Verb::List | Verb::Info => holders(&inodes),
        Verb::Stats
        | Verb::Trace
        | Verb::Zap
        | Verb::Move
        | Verb::Evict
        | Verb::Purge
        | Verb::Revoke => BTreeMap::new(),
    };
    let shared = lock(shared);
    match query.verb {
        Verb::Zap => Answer::refused(
            "can't zap: the buffers of `driftheap run` are the program's own files; \
             `driftheap serve --mount` keeps buffers that can be zapped",
        ),
        Verb::Stats if !query.json => Answer::ok(
            stats_text(&shared.device)
                + &format!("pfnmap\tat most {} bytes\n", shared.files.secret_bytes_max),
        ),
        Verb::List
        | Verb::Info
        | Verb::Stats
        | Verb::Trace
        | Verb::Move
        | Verb::Evict
        | Verb::Purge
        | Verb::Revoke => show(query, &shared.device, &held),
    }
}

/// Hands an order to the thread that owns the buffers and waits until it is done.
fn order(deed: Deed, ino: Option<u64>, shared: &Mutex<Shared>) -> Answer {
    let Some(ino) = ino else { return Answer::refused("say which buffer, by its inode") };
    let receiver = {
        let shared = &mut *lock(shared);
        shared.files.sweep(&mut shared.device);
        let known = shared.device.buffers().any(|(_, buffer)| buffer.inode.ino == ino);
        let Some(orders) = &mut shared.orders else {
            return Answer::refused(
                "this device's buffers do not move: start it with `driftheap run --live` or \
                 `--chaos`",
            );
        };
        if !known {
            return Answer::unknown(ino);
        }
        orders.give(deed, ino)
    };
    match receiver.recv_timeout(CLIENT_TIME_MAX / 2) {
        Ok(Ok(done)) => Answer::ok(done),
        Ok(Err(why)) => Answer::refused(&why),
        Err(_) => Answer::refused("the device did not get to it in time"),
    }
}

/// Answers one query about a mount.
pub fn answer_served(query: &Query, served: &Mutex<Served>, zapper: &Zapper) -> Answer {
    let deed = query.verb.deed();
    if deed.is_none() && query.verb != Verb::Zap {
        return show(query, &super::fuse::lock(served).device, &BTreeMap::new());
    }
    let wanted = |(id, buffer): (BufferId, &Buffer)| {
        (Some(buffer.inode.ino) == query.ino).then_some((id, buffer.size_bytes / PAGE_SIZE))
    };
    let found = super::fuse::lock(served).device.buffers().find_map(wanted);
    let ino = query.ino.unwrap_or_default();
    let Some((id, pages)) = found else { return Answer::unknown(ino) };
    // What is gone for good is so before the last entry is dropped, and not read in again.
    if let Some(life) = deed.and_then(Deed::ends) {
        super::fuse::lock(served).kill(id, life);
    }
    // ENOENT: nobody has a page of it.
    let zapped = match zapper.zap(id) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            return Answer::refused(&format!("can't zap: {error}"));
        }
        zapped => zapped.is_ok(),
    };
    match deed {
        None if zapped => Answer::ok("zapped\n"),
        None => Answer::refused("can't zap: nobody has it open"),
        Some(deed) => Answer::ok(match deed.placement() {
            None => format!("{} {ino}: its pages are gone\n", deed.word()),
            Some(placement) => {
                super::fuse::lock(served).device.moved(id, placement, 0, pages);
                format!("{} {ino}: {pages} pages have new memory\n", deed.word())
            }
        }),
    }
}

/// Answers one query about a socket exporter.
pub fn answer_socket(query: &Query, exporter: &Exporter) -> Answer {
    use crate::model::{Job, Placement as To};
    let Some(deed) = query.verb.deed() else {
        if query.verb == Verb::Zap {
            return Answer::refused("can't zap: every move zaps; see `driftheap ctl move`");
        }
        return exporter.look(|device, _| show(query, device, &BTreeMap::new()));
    };
    let wanted =
        |(id, buffer): (BufferId, &Buffer)| (Some(buffer.inode.ino) == query.ino).then_some(id);
    let Some(id) = exporter.look(|device, _| device.buffers().find_map(wanted)) else {
        return Answer::unknown(query.ino.unwrap_or_default());
    };
    let job = match deed {
        Deed::Move => Job::Move(To::Vram),
        Deed::Evict => Job::Move(To::System),
        Deed::Purge => Job::Purge,
        Deed::Revoke => Job::Revoke,
    };
    match exporter.work(id, job) {
        Ok(done) => Answer::ok(format!(
            "{}: {} pages, {} importers told\n",
            deed.word(),
            done.pages,
            done.notified
        )),
        Err(error) => Answer::refused(&error.to_string()),
    }
}

/// Answers one query about a node.
pub fn answer_node(query: &Query, state: &Mutex<NodeState>) -> Answer {
    match query.verb {
        Verb::List | Verb::Info | Verb::Stats | Verb::Trace => {
            show(query, &super::cuse::lock(state).device, &BTreeMap::new())
        }
        Verb::Zap | Verb::Move | Verb::Evict | Verb::Purge | Verb::Revoke => Answer::refused(
            "a node gives out its buffers' memory and keeps no hold on the mappings; \
             `driftheap run` does, and `driftheap serve --mount` can zap",
        ),
    }
}

/// What a device tells about itself.
fn show(query: &Query, device: &Device, held: &BTreeMap<Inode, Vec<Holder>>) -> Answer {
    let of = |buffer: &Buffer| held.get(&buffer.inode).map_or(&[][..], Vec::as_slice);
    let asked = query.ino.filter(|_| query.verb == Verb::Info);
    let wanted = |buffer: &&Buffer| asked.is_none_or(|ino| ino == buffer.inode.ino);
    let buffers = || device.buffers().map(|(_, buffer)| buffer).filter(wanted);
    if let Some(ino) = asked
        && buffers().next().is_none()
    {
        return Answer::unknown(ino);
    }
    Answer::ok(match (query.verb, query.json) {
        (Verb::Stats, true) => json_line(&device.stats),
        (Verb::Stats, false) => stats_text(device),
        (Verb::Trace, true) => {
            device.trace.lines().map(|event| json_line(&EventView { event })).collect()
        }
        (Verb::Trace, false) => {
            let head = format!("# tracer: nop\n# {} events dropped\n", device.trace.dropped());
            device.trace.lines().fold(head, |text, line| text + &line + "\n")
        }
        (Verb::List | Verb::Info, true) => {
            buffers().map(|buffer| json_line(&view(buffer, of(buffer)))).collect()
        }
        (Verb::List, false) => list_text(buffers().map(|buffer| (buffer, of(buffer)))),
        (Verb::Info, false) => match (asked, buffers().next()) {
            (Some(_), Some(buffer)) => info_text(buffer, of(buffer)),
            _ => device.bufinfo(|buffer| count(of(buffer))),
        },
        (Verb::Zap | Verb::Move | Verb::Evict | Verb::Purge | Verb::Revoke, _) => String::new(),
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

fn whereabouts(buffer: &Buffer) -> &'static str {
    match (buffer.life, buffer.placement) {
        (Life::Live, Placement::Vram) => "vram",
        (Life::Live, Placement::System) => "system",
        (Life::Purged, _) => "purged",
        (Life::Revoked, _) => "revoked",
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
        placement: buffer.placement,
        life: buffer.life,
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
            whereabouts(buffer),
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
    text += &format!("where:\t{}\n", whereabouts(buffer));
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
