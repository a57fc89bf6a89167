//! Which parts of an address space show files: /proc/PID/maps.

use std::io;

use crate::device::Inode;

/// One mapping of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMapping {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len_bytes: u64,
    /// Offset in the file, bytes.
    pub offset_bytes: u64,
    /// The file.
    pub inode: Inode,
}

/// /proc/PID/maps of a process, or of another of its threads if its first one has ended: an ended
/// thread has no address space any more, and its file is empty.
///
/// # Errors
/// ENOENT, ESRCH: it is gone. Anything else (EACCES, EMFILE): it can't be looked into now.
pub fn text(pid: i32) -> io::Result<Vec<u8>> {
    let own = std::fs::read(format!("/proc/{pid}/maps"))?;
    if !own.is_empty() {
        return Ok(own);
    }
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let of_thread = std::fs::read(task?.path().join("maps"));
        match of_thread {
            Ok(text) if text.is_empty() => {}
            // One that ended meanwhile is not the last one to ask.
            Err(error) if is_gone(&error) => {}
            text => return text,
        }
    }
    Ok(own)
}

/// Whether an error of /proc means that the process is not there.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// The mappings of files in a process, in order of address. `None`: it is gone, or can't be looked
/// into.
pub fn areas(pid: i32) -> Option<Vec<FileMapping>> {
    // A process that is past exit_mmap has an empty file, as a kernel thread has.
    let text = text(pid).ok().filter(|text| !text.is_empty())?;
    Some(String::from_utf8_lossy(&text).lines().filter_map(area).collect())
}

/// The mapping of a file that a line of /proc/PID/maps tells of.
fn area(line: &str) -> Option<FileMapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let offset_bytes = hex(fields.nth(1)?)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let dev = rustix::fs::makedev(number(major)?, number(minor)?);
    let ino = fields.next()?.parse().ok()?;
    let len_bytes = end.checked_sub(start)?;
    (ino != 0).then_some(FileMapping { start, len_bytes, offset_bytes, inode: Inode { dev, ino } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let dev = rustix::fs::makedev(0, 1);
        let inode = Inode { dev, ino: 2054 };
        for (line, expect) in [
            (
                "7ea000000000-7ea000003000 rw-s 00002000 00:01 2054   /memfd:dmabuf (deleted)",
                Some(FileMapping {
                    start: 0x7ea0_0000_0000,
                    len_bytes: 0x3000,
                    offset_bytes: 0x2000,
                    inode,
                }),
            ),
            ("7fff0000-7fff2000 rw-p 00000000 00:00 0     [stack]", None),
            ("7fff0000-7ffe2000 rw-p 00000000 00:01 2054", None),
            ("7fff0000 rw-p", None),
            ("", None),
        ] {
            assert_eq!(area(line), expect, "{line}");
        }
    }

    #[test]
    fn ours_are_found() {
        let own = std::process::id().cast_signed();
        assert!(areas(own).is_some_and(|areas| !areas.is_empty()), "this program is a file");
        assert_eq!(areas(i32::MAX), None);
    }
}
