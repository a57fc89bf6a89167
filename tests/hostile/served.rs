//! Attacks on `driftheap serve`: at its socket by broken messages, wrong descriptors, crowds, clients that
//! do not read and clients that do not answer; at its mount by programs that look everywhere at once.
//!
//! A good client works meanwhile. It must come to its end, and the server be as it was.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

use driftheap::client::{Connection, Importer, Work};
use driftheap::random::SplitMix64;
use driftheap::sys::link::Link;
use driftheap::sys::uffd::{Features, Uffd, Via};

use super::run::{Came, Place, wait};
use super::table::Column;

/// What is attacked, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Random and mutated messages, halves, lengths up to 2^32.
    Messages,
    /// Descriptors of the wrong number and kind.
    Descriptors,
    /// A thousand connections.
    Crowd,
    /// Clients that ask and never read.
    Slow,
    /// A client that never answers move_notify.
    Silent,
    /// A client that makes views, mappings and attachments without end.
    Hoard,
    /// Another user's clients.
    Stranger,
    /// Everything that a mount's files allow, at once.
    Mount,
}

/// Rounds that the good client makes beside the attack.
const ROUNDS: usize = 100;
/// For anything that takes moments.
const PATIENCE: Duration = Duration::from_secs(60);
/// Descriptors and threads that the server may have more after it.
const MORE_MAX: usize = 4;

/// A message as the protocol has it: the length of its JSON, the JSON.
fn message(json: &str) -> Vec<u8> {
    let length = u32::try_from(json.len()).unwrap().to_le_bytes();
    [&length[..], json.as_bytes()].concat()
}

const HELLO: &str = r#"{"hello":{"version":1,"name":"x"}}"#;

/// What a client could say, some of it with numbers from nowhere.
const WORDS: [&str; 8] = [
    HELLO,
    r#"{"alloc":{"heap":"system","len":18446744073709551615}}"#,
    r#""import""#,
    r#"{"map":{"buffer":1,"start":18446744073709551615}}"#,
    r#"{"fault":{"mapping":18446744073709551615,"page":18446744073709551615}}"#,
    r#"{"close":{"buffer":18446744073709551615}}"#,
    r#"{"dma-write":{"via":{"attachment":7},"addr":18446744073709551615}}"#,
    r#"{"dma-read":{"via":{"pin":7},"addr":18446744073709551615,"len":18446744073709551615}}"#,
];

/// A connection after a right hello, with the other end of its events.
fn greeted(path: &Path) -> Option<(Link, Link)> {
    let uffd = Uffd::open_bare(Via::UserModeOnly).ok()?;
    let uffd = Uffd::adopt_raw(uffd, Features::empty()).ok()?;
    let link = Link::connect(path).ok()?;
    let (events, theirs) = Link::pair().ok()?;
    link.send(&message(HELLO), &[theirs.as_fd(), uffd.as_fd()]).ok()?;
    let mut answer = [0; 1024];
    let (len, _) = link.receive(&mut answer, PATIENCE).ok()?;
    String::from_utf8_lossy(&answer[..len]).contains("welcome").then_some((link, events))
}

fn messages(path: &Path) {
    let mut random = SplitMix64::new(17);
    for round in 0..400 {
        // Every other one is a client that is known.
        let known = (round % 2 == 0).then(|| greeted(path)).flatten();
        let link = known.map_or_else(|| Link::connect(path).ok(), |(link, _)| Some(link));
        let Some(link) = link else { continue };
        for _ in 0..4 {
            let mut bytes = message(WORDS[random.index(WORDS.len())]);
            match round % 5 {
                0 => {
                    bytes =
                        (0..1 + random.index(300)).map(|_| random.next().to_le_bytes()[0]).collect()
                }
                1 => {
                    let at = random.index(bytes.len());
                    bytes[at] ^= 1 << random.index(8);
                }
                2 => bytes.truncate(1 + random.index(bytes.len() - 1)),
                3 => {
                    let lengths = [0, 1, 3, 0x7fff_ffff, 0x8000_0000, u32::MAX - 3, u32::MAX];
                    bytes[..4].copy_from_slice(&lengths[random.index(lengths.len())].to_le_bytes());
                }
                _ => {}
            }
            if link.send(&bytes, &[]).is_err() {
                break;
            }
        }
    }
}

fn descriptors(path: &Path) {
    let (mine, theirs) = Link::pair().unwrap();
    let file: OwnedFd = std::fs::File::open("/dev/zero").unwrap().into();
    let socket: OwnedFd = std::os::unix::net::UnixStream::pair().unwrap().0.into();
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    let memory = rustix::fs::memfd_create("not a userfaultfd", MemfdFlags::CLOEXEC).unwrap();
    let directory: OwnedFd = std::fs::File::open("/proc").unwrap().into();
    let others = [&file, &socket, &pipe, &event, &epoll, &memory, &directory];
    let kinds = [file.as_fd(), socket.as_fd(), theirs.as_fd(), mine.as_fd()];
    for round in 0..200 {
        let Ok(link) = Link::connect(path) else { continue };
        let many = round % 17;
        let fds: Vec<BorrowedFd<'_>> = match round % 2 {
            0 => (0..many).map(|n| kinds[(round + n) % kinds.len()]).collect(),
            // All is right but the userfaultfd.
            _ => vec![theirs.as_fd(), others[round / 2 % others.len()].as_fd()],
        };
        let _gone = link.send(&message(HELLO), &fds);
        let _gone = link.send(&message(WORDS[2]), &fds);
        // An answer, or the end: so that none is left in the queue of those who come after.
        let mut answer = [0; 1024];
        let _gone = link.receive(&mut answer, PATIENCE);
    }
}

fn crowd(path: &Path) {
    let all: Vec<Link> = (0..1000).filter_map(|_| Link::connect(path).ok()).collect();
    for link in &all {
        let _refused = link.send(&message(HELLO)[..3], &[]);
    }
}

/// Asks until the socket is full, and reads nothing.
fn slow(path: &Path) {
    let links: Vec<(Link, Link)> = (0..20).filter_map(|_| greeted(path)).collect();
    assert!(!links.is_empty(), "nobody was let in");
    for (link, _) in &links {
        for _ in 0..2000 {
            if link.send(&message(WORDS[5]), &[]).is_err() {
                break;
            }
        }
    }
}

/// Asks for more of everything until that is refused, which it is long before it costs much.
fn hoard(path: &Path) -> Result<(), String> {
    const MORE_THAN_ANYBODY_NEEDS: usize = 3000;
    let (link, _events) = greeted(path).ok_or("not let in")?;
    let ask = |text: &str| {
        link.send(&message(text), &[]).map_err(|error| error.to_string())?;
        let mut answer = [0; 1024];
        let (len, _) = link.receive(&mut answer, PATIENCE).map_err(|error| error.to_string())?;
        Ok::<_, String>(String::from_utf8_lossy(&answer[4..len]).into_owned())
    };
    let made = ask(r#"{"alloc":{"heap":"system","len":65536}}"#)?;
    let id = made.split("\"id\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
    let id = id.ok_or_else(|| format!("ALLOC answered {made}"))?;
    for (what, text) in [
        ("views", format!(r#"{{"importer-mmap":{{"buffer":{id}}}}}"#)),
        ("attachments", format!(r#"{{"attach":{{"buffer":{id},"device":"x","dynamic":false}}}}"#)),
    ] {
        let mut refused = String::new();
        for _ in 0..MORE_THAN_ANYBODY_NEEDS {
            refused = ask(&text)?;
            if refused.contains("errno") {
                break;
            }
        }
        let enomem = format!("\"errno\":{}", rustix::io::Errno::NOMEM.raw_os_error());
        if !refused.contains(&enomem) {
            return Err(format!("{what} without end: {refused}"));
        }
    }
    Ok(())
}

/// One client's move_notify does not return until the good one is ready with its moves.
fn silent(path: &Path, good: &Connection, done: &AtomicBool) -> Result<(), String> {
    let bad = Connection::open(path, "silent").map_err(|error| error.to_string())?;
    let shared = good.alloc("system", 4096).map_err(|error| error.to_string())?;
    let file = shared.as_fd().try_clone_to_owned().unwrap();
    let theirs = bad.import(file).map_err(|error| error.to_string())?;
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let importer = Importer::dynamic(move || {
        let _end = held.recv();
    });
    let _stuck = theirs.attach("silent", importer).map_err(|error| error.to_string())?;
    // Waits for the client, a second by the rules, and drops it.
    shared.work(Work::Evict).map_err(|error| error.to_string())?;
    while !done.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(hold);
    Ok(())
}

/// A buffer of its own, written, moved and given back, again and again.
fn good(client: &Connection) -> Result<Duration, String> {
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let text = |error: driftheap::client::ClientError| format!("round {round}: {error}");
        let buffer = client.alloc("system", 8192).map_err(text)?;
        let mapping = buffer.map().map_err(text)?;
        let value = u8::try_from(round).unwrap();
        let _stored = mapping.store_u8(4096, value);
        buffer.work(Work::Evict).map_err(text)?;
        if mapping.load_u8(4096) != driftheap::sys::touch::Touch::Value(value) {
            return Err(format!("round {round}: 1 lost"));
        }
        longest = longest.max(begun.elapsed());
    }
    Ok(longest)
}

/// Makes one.
pub(crate) fn make(place: &Place, kind: Kind) -> Result<Came, String> {
    let socket = place.dir.join("socket");
    let mut command = place.command("", "driftheap");
    command.arg("serve");
    match kind {
        Kind::Mount => command.arg("--mount").arg(place.dir.join("mount")),
        Kind::Stranger if !rustix::process::geteuid().is_root() => {
            return Err("another user needs root".into());
        }
        Kind::Stranger => {
            command.arg("--control").arg(place.dir.join("control")).arg("--socket").arg(&socket)
        }
        Kind::Hoard => {
            command.arg("--record").arg(place.dir.join("seen.litmus")).arg("--socket").arg(&socket)
        }
        _ => command.arg("--socket").arg(&socket),
    };
    let mut child = place.start(command);
    let ready = || match kind {
        Kind::Mount => place.dir.join("mount/dma_heap").exists(),
        _ => Link::connect(&socket).is_ok(),
    };
    let begun = Instant::now();
    while !ready() {
        let ended = child.try_wait().unwrap().is_some();
        if ended || begun.elapsed() > PATIENCE {
            let _gone = child.kill();
            child.wait().unwrap();
            let said = String::from_utf8_lossy(&place.output()).trim().replace('\n', " | ");
            return Err(format!("it does not serve here: {said}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id();
    let result = match kind {
        Kind::Mount => mount(&place.dir.join("mount"), pid),
        Kind::Stranger => strangers(place, &socket).and_then(|()| at_socket(&socket, kind, pid)),
        _ => at_socket(&socket, kind, pid),
    };
    let mut came = Came::default();
    if let Err(fault) = result {
        came.faults.push(fault);
    }
    super::run::signal(pid.cast_signed(), rustix::process::Signal::TERM);
    match wait(&mut child, PATIENCE) {
        None => {
            came.faults.push((Column::Hung, "the server does not end".into()));
            let _gone = child.kill();
            child.wait().unwrap();
        }
        Some(status) if status.code().is_none_or(|code| !matches!(code, 0 | 1 | 143)) => {
            came.faults.push((Column::Crashed, format!("the server ended by {status}")));
        }
        Some(_) => {}
    }
    if kind == Kind::Hoard {
        came.faults.extend(super::run::recording(place).err());
    }
    let said = String::from_utf8_lossy(&place.output()).into_owned();
    if said.contains("panicked at") {
        came.faults.push((Column::Crashed, said.lines().next().unwrap_or_default().to_owned()));
    }
    let left: Vec<PathBuf> = place.files_left();
    if !left.is_empty() {
        came.faults.push((Column::Leaked, format!("left in TMPDIR: {left:?}")));
    }
    Ok(came)
}

/// Both sockets, opened to everybody by their modes: who asks decides.
fn strangers(place: &Place, socket: &Path) -> Result<(), (Column, String)> {
    use std::os::unix::fs::PermissionsExt;
    let control = place.dir.join("control");
    for (path, text) in [(socket, HELLO), (&control, r#"{"command":"list"}"#)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
        let output = place.as_stranger("stranger").arg(path).arg(text).output().unwrap();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            return Err((Column::Wrong, format!("{} answered: {said}", path.display())));
        }
    }
    let mut ctl = place.as_stranger("driftheap");
    let output = ctl.args(["ctl", "list", "--socket"]).arg(&control).output().unwrap();
    if output.status.success() {
        return Err((Column::Wrong, "ctl of another user was answered".into()));
    }
    Ok(())
}

fn at_socket(socket: &Path, kind: Kind, pid: u32) -> Result<(), (Column, String)> {
    let wrong = |text: String| (Column::Wrong, text);
    let client = Connection::open(socket, "good").map_err(|error| wrong(error.to_string()))?;
    good(&client).map_err(wrong)?;
    let before = held(pid);
    let done = AtomicBool::new(false);
    let (worked, attacked) = std::thread::scope(|scope| {
        let attack = scope.spawn(|| {
            match kind {
                Kind::Messages => messages(socket),
                Kind::Descriptors => descriptors(socket),
                Kind::Crowd => crowd(socket),
                Kind::Slow => slow(socket),
                Kind::Hoard => return hoard(socket),
                Kind::Silent => return silent(socket, &client, &done),
                Kind::Mount | Kind::Stranger => {}
            }
            Ok(())
        });
        let worked = good(&client);
        done.store(true, Ordering::Relaxed);
        (worked, attack.join().unwrap())
    });
    let longest = worked.map_err(|text| {
        (if text.ends_with(" lost") { Column::Lost } else { Column::Wrong }, text)
    })?;
    attacked.map_err(wrong)?;
    if longest > PATIENCE {
        return Err((Column::Hung, format!("the good client waited {longest:?}")));
    }
    settled(pid, before)?;
    // Whoever comes after finds a place.
    let after = Connection::open(socket, "after").map_err(|error| wrong(error.to_string()))?;
    good(&after).map_err(wrong)?;
    Ok(())
}

/// Looks and opens from many threads: names that are there and that are not, more files than there are
/// descriptors.
fn mount(dir: &Path, pid: u32) -> Result<(), (Column, String)> {
    let before = held(pid);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                let mut random = SplitMix64::new(thread + 1);
                let mut open = Vec::new();
                for _ in 0..500 {
                    let name = match random.index(6) {
                        0 => "dma_heap/system".to_owned(),
                        1 => format!("buffers/{}", random.next()),
                        // Never out of the mount: what lies there would be written to.
                        2 => "buffers/../dma_heap/../nothing".to_owned(),
                        3 => "x".repeat(1 + random.index(255)),
                        4 => "\u{1b}[2J\n".to_owned(),
                        _ => "buffers".to_owned(),
                    };
                    let path = dir.join(name);
                    let _any = std::fs::metadata(&path).map(|meta| meta.len());
                    let _any = std::fs::read_dir(&path).map(Iterator::count);
                    let _any = std::fs::write(&path, "x");
                    open.extend(std::fs::File::open(&path));
                    open.truncate(100);
                }
            });
        }
    });
    if !dir.join("dma_heap/system").exists() {
        return Err((Column::Wrong, "the heap is gone".into()));
    }
    settled(pid, before)
}

/// Descriptors and threads of the server.
fn held(pid: u32) -> [usize; 2] {
    ["fd", "task"]
        .map(|what| std::fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count))
}

/// Waits until the server has let go of what the attackers had: who has said nothing is dropped after a
/// few seconds.
fn settled(pid: u32, before: [usize; 2]) -> Result<(), (Column, String)> {
    let begun = Instant::now();
    loop {
        let after = held(pid);
        if after.iter().zip(before).all(|(&after, before)| after <= before + MORE_MAX) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let text = format!("descriptors and threads: {before:?} before, {after:?} after");
            return Err((Column::Leaked, text));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
