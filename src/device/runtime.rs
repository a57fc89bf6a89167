//! Where files of a running driftheap lie: control sockets, nodes, places to mount on.
//!
//! One directory for each user: `$XDG_RUNTIME_DIR/driftheap`, or `driftheap-UID` in the directory
//! for temporary files where there is no runtime directory of that user's. Its mode is 0700, and it
//! is used only if it belongs to us: what another user put there is never trusted.
//!
//! UID is the user outside of our user namespace (user_namespaces(7)), so that `driftheap ctl`
//! finds a server that was started under `unshare -Ur`.
//!
//! The name of each entry begins with the process id of its owner. What a killed process left is
//! removed when the next one starts.
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

/// A path for a file of this process, `PID.KIND` in the user's directory. The directory is made,
/// and what dead processes left in it is removed.
///
/// # Errors
/// The directory can't be made, or is not ours alone.
pub fn own_path(kind: &str) -> io::Result<PathBuf> {
    let directory = directory();
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    trusted(&directory)?;
    reclaim(&directory);
    let path = directory.join(format!("{}.{kind}", std::process::id()));
    // Whoever had our process id before is dead.
    remove(&path);
    Ok(path)
}

/// Removes what dead processes left in a directory of ours.
fn reclaim(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if owner(&path).is_some_and(|pid| !is_alive(pid)) && !answers(&path) {
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

/// Whether it is a socket at which somebody listens.
fn answers(path: &Path) -> bool {
    if !std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        return false;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(address) = SocketAddrUnix::new(path) else { return true };
    let unix = AddressFamily::UNIX;
    let Ok(socket) = rustix::net::socket_with(unix, SocketType::SEQPACKET, flags, None) else {
        return true;
    };
    rustix::net::connect(&socket, &address) != Err(rustix::io::Errno::CONNREFUSED)
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
