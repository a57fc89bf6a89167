//! Where files of a running driftheap lie: control sockets, nodes, places to mount on.
//!
//! One directory for each user: `$XDG_RUNTIME_DIR/driftheap`, or `driftheap-UID` in the directory
//! for temporary files where there is no runtime directory of that user's. Its mode is 0700, and it
//! is used only if it belongs to us: what another user put there is never trusted.
//!
//! UID is the user outside of our user namespace (user_namespaces(7)), so that `driftheap ctl`
//! finds a server that was started under `unshare -Ur`.
//!
//! The name of each entry begins with the process id of its owner. `PID.here` says that the process
//! uses the directory; who leaves last removes it. What a killed process left is removed when the
//! next one starts.
//!
//! **Limit:** a process id counts in one PID namespace. Two of them that share the directory take
//! each other's nodes for leftovers; a socket that still answers is kept.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The user outside of our user namespace: what /proc/self/uid_map maps our effective user to.
fn outer_user() -> u32 {
    let inside = rustix::process::geteuid().as_raw();
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    mapped(&map, inside).unwrap_or(inside)
}

/// Lines of uid_map: the first id inside, the first outside, how many.
fn mapped(map: &str, inside: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (first, outside, count) = (next()?, next()?, next()?);
        let offset = inside.checked_sub(first).filter(|&offset| offset < count)?;
        outside.checked_add(offset)
    })
}

/// Whether it is a directory, no link to one, that belongs to us.
fn is_own_directory(path: &Path) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == ours)
}

/// The directory of this user; it need not exist.
#[must_use]
pub fn directory() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.filter(|path| path.is_absolute() && is_own_directory(path)) {
        Some(runtime) => runtime.join("driftheap"),
        None => std::env::temp_dir().join(format!("driftheap-{}", outer_user())),
    }
}

/// The same, if it exists and is ours alone.
///
/// # Errors
/// ENOENT: no driftheap ran yet. EACCES: it belongs to somebody else, or others may write to it.
pub fn trusted(directory: &Path) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(directory)?;
    if is_own_directory(directory) && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{} is not a directory of yours alone (mode 0700): remove it, or set XDG_RUNTIME_DIR \
             to a directory of yours",
            directory.display()
        ),
    ))
}

/// How often to try to get into the directory, which others remove when they leave.
const ENTER_TRIES_MAX: usize = 100;

/// What says that a process uses the directory.
const HERE: &str = "here";

/// A path for a file of this process, `PID.KIND` in the user's directory. The directory is made,
/// and what dead processes left in it is removed. [`release`] gives the path back.
///
/// # Errors
/// The directory can't be made, or is not ours alone.
pub fn own_path(kind: &str) -> io::Result<PathBuf> {
    let directory = directory();
    enter(&directory)?;
    reclaim(&directory);
    let path = own_entry(&directory, kind);
    // Whoever had our process id before is dead.
    remove(&path);
    Ok(path)
}

fn own_entry(directory: &Path, kind: &str) -> PathBuf {
    directory.join(format!("{}.{kind}", std::process::id()))
}

/// Makes the directory, if need be, and an entry that keeps it.
fn enter(directory: &Path) -> io::Result<()> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut tries = 0;
    loop {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let here = own_entry(directory, HERE);
        match trusted(directory).and_then(|()| std::fs::File::create(here)) {
            // Somebody left between two of our steps, and took the directory along.
            Err(error) if gone(&error) && tries < ENTER_TRIES_MAX => tries += 1,
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
}

/// Removes a path of [`own_path`]; with the last of this process its share of the directory, and
/// with the last process the directory.
pub fn release(path: &Path) {
    remove(path);
    let directory = directory();
    if path.parent() != Some(directory.as_path()) {
        return;
    }
    let here = own_entry(&directory, HERE);
    let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    if paths.any(|path| owner(&path) == Some(std::process::id()) && path != here) {
        return;
    }
    remove(&here);
    // Others may be in it, who remove it later.
    let _others = std::fs::remove_dir(&directory);
}

/// Removes what dead processes left in a directory of ours.
fn reclaim(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if owner(&path).is_some_and(|pid| !is_alive(pid)) && !is_listened_at(&path) {
            remove(&path);
        }
    }
}

/// The process that an entry belongs to.
#[must_use]
pub fn owner(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.split('.').next()?.parse().ok()
}

/// Whether a process of this id exists, as far as /proc shows it.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Whether connecting to this socket is refused; none if it is not a socket, or can't be told.
fn refuses(path: &Path) -> Option<bool> {
    if !std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        return None;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let address = SocketAddrUnix::new(path).ok()?;
    let unix = AddressFamily::UNIX;
    let socket = rustix::net::socket_with(unix, SocketType::SEQPACKET, flags, None).ok()?;
    Some(rustix::net::connect(&socket, &address) == Err(rustix::io::Errno::CONNREFUSED))
}

/// Whether somebody listens at this path. What can't be told counts as if.
fn is_listened_at(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket && refuses(path) != Some(true)
}

/// Whether it is a socket that a process left behind: nobody listens there any more.
#[must_use]
pub fn is_stale_socket(path: &Path) -> bool {
    refuses(path) == Some(true)
}

/// Removes a file, or a directory with what is directly in it. Never more: what is mounted further
/// down is not emptied.
pub fn remove(path: &Path) {
    // Each may be gone already, or be in use; what can't be removed stays for the next time.
    if !std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        let _gone = std::fs::remove_file(path);
        return;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let below = entry.path();
        let _gone = if is_dir { std::fs::remove_dir(below) } else { std::fs::remove_file(below) };
    }
    let _gone = std::fs::remove_dir(path);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_user_outside() {
        assert_eq!(mapped("         0          0 4294967295\n", 1000), Some(1000));
        assert_eq!(mapped("         0       1000          1\n", 0), Some(1000));
        assert_eq!(mapped("0 1000 1\n1 100000 65536\n", 7), Some(100_006));
        assert_eq!(mapped("0 1000 1\n", 7), None);
        assert_eq!(mapped("", 7), None);
    }

    #[test]
    fn what_the_dead_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let living = std::process::id();
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("live.sock"));
        for pid in [dead, living] {
            let nodes = dir.path().join(format!("{pid}.nodes"));
            std::fs::create_dir(&nodes).unwrap();
            std::fs::write(nodes.join("system"), "").unwrap();
            std::fs::write(dir.path().join(format!("{pid}.sock")), "").unwrap();
        }
        std::fs::write(dir.path().join("notes.txt"), "").unwrap();
        reclaim(dir.path());
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expect =
            vec![format!("{living}.nodes"), format!("{living}.sock"), "live.sock".into()];
        expect.push("notes.txt".into());
        expect.sort();
        assert_eq!(left, expect);
        drop(listener);
    }

    #[test]
    fn a_socket_without_a_listener_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let address = SocketAddrUnix::new(&path).unwrap();
        let unix = AddressFamily::UNIX;
        let own = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(unix, SocketType::SEQPACKET, own, None).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        assert!(!is_stale_socket(&path) && is_listened_at(&path));
        drop(socket);
        // A child that another test has forked meanwhile may hold it for a moment.
        let since = std::time::Instant::now();
        while !is_stale_socket(&path) {
            assert!(since.elapsed().as_secs() < 60, "still listened at");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(!is_listened_at(&path));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert!(!is_stale_socket(&path) && !is_listened_at(&path));
    }

    #[test]
    fn what_is_not_ours_alone_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(dir.path(), mode(0o700)).unwrap();
        assert!(trusted(dir.path()).is_ok());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(trusted(&link).unwrap_err().to_string().contains("not a directory of yours"));
        std::fs::set_permissions(dir.path(), mode(0o770)).unwrap();
        assert!(trusted(dir.path()).is_err());
        if !rustix::process::geteuid().is_root() {
            assert!(trusted("/".as_ref()).is_err());
        }
    }
}
