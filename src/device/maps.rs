//! /proc/PID/maps: which parts of an address space show what.

use std::io;

use super::Inode;

/// One mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `r`, `w`, `x` as PROT_ bits.
    pub prot: u32,
    /// Whether it is MAP_SHARED.
    pub shared: bool,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// The file; all zero for anonymous memory.
    pub inode: Inode,
    /// Its path, as the kernel prints it.
    pub path: String,
}

/// PROT_EXEC.
const EXEC: u32 = 4;

impl Mapping {
    /// Reads one line: `START-END rwxp OFFSET MAJ:MIN INO PATH`.
    pub fn parse(line: &str) -> Option<Self> {
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let mut rest = line;
        let mut field = || {
            rest = rest.trim_start_matches(' ');
            let end = rest.find(' ').unwrap_or(rest.len());
            let (field, after) = rest.split_at(end);
            rest = after;
            (!field.is_empty()).then_some(field)
        };
        let (start, end) = field()?.split_once('-')?;
        let (start, end) = (hex(start)?, hex(end)?);
        let bits = field()?.as_bytes();
        let offset = hex(field()?)?;
        let (major, minor) = field()?.split_once(':')?;
        let major = u32::from_str_radix(major, 16).ok()?;
        let minor = u32::from_str_radix(minor, 16).ok()?;
        let ino = field()?.parse().ok()?;
        let bit = |at: usize, set: u8, value| if bits.get(at) == Some(&set) { value } else { 0 };
        (start <= end).then(|| Self {
            start,
            end,
            prot: bit(0, b'r', 1) | bit(1, b'w', 2) | bit(2, b'x', EXEC),
            shared: bits.get(3) == Some(&b's'),
            offset,
            inode: Inode { dev: rustix::fs::makedev(major, minor), ino },
            path: rest.trim_start_matches(' ').to_owned(),
        })
    }

    /// How many bytes it has.
    pub fn len_bytes(&self) -> u64 {
        self.end - self.start
    }

    /// What it is called where its file can't be read: code that a program has generated, mostly.
    pub fn name(&self) -> String {
        match self.path.as_str() {
            "" => format!("generated code at {:#x}", self.start),
            path => path.to_owned(),
        }
    }

    /// Whether an address lies in it.
    pub fn contains(&self, addr: u64) -> bool {
        (self.start..self.end).contains(&addr)
    }

    /// Whether it is code of a file.
    pub fn is_code(&self) -> bool {
        self.prot & EXEC != 0
    }
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

/// The mappings of a process, by ascending address; none if it is gone.
pub fn mappings(pid: i32) -> Vec<Mapping> {
    lines(&text(pid).unwrap_or_default())
}

/// The mappings of files in a process, by ascending address. `None`: it is gone, or can't be looked
/// into.
pub fn files(pid: i32) -> Option<Vec<Mapping>> {
    // A process that is past exit_mmap has an empty file, as a kernel thread has.
    let text = text(pid).ok().filter(|text| !text.is_empty())?;
    Some(lines(&text).into_iter().filter(|mapping| mapping.inode.ino != 0).collect())
}

/// What the lines of such a file tell; a line that can't be read is left out.
pub fn lines(text: &[u8]) -> Vec<Mapping> {
    String::from_utf8_lossy(text).lines().filter_map(Mapping::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps() {
        let line = "55a0-66b0 r-xp 00001000 fe:01 32534                 /opt/a b (deleted)";
        let expect = Mapping {
            start: 0x55a0,
            end: 0x66b0,
            prot: 5,
            shared: false,
            offset: 4096,
            inode: Inode { dev: rustix::fs::makedev(0xfe, 1), ino: 32534 },
            path: "/opt/a b (deleted)".into(),
        };
        assert_eq!(Mapping::parse(line), Some(expect));
        let buffer =
            Mapping::parse("7f00-8f00 rw-s 00000000 00:0e 7 /secretmem (deleted)").unwrap();
        assert!(buffer.shared && !buffer.is_code() && buffer.contains(0x8eff));
        assert!(!buffer.contains(0x8f00));
        let heap = Mapping::parse("7f00-8f00 rw-p 00000000 00:00 0").unwrap();
        assert_eq!((heap.path.as_str(), heap.prot), ("", 3));
        for line in [
            "",
            "7f",
            "7f-8f",
            "7f-8f rw-s",
            "7f-8f rw-s 0 0 0",
            "zz-8f rw-s 0 00:0e 7",
            "8f-7f rw-s 0 0:0 7",
        ] {
            assert_eq!(Mapping::parse(line), None, "{line}");
        }
    }

    #[test]
    fn this_process_has_code() {
        let own = mappings(std::process::id().cast_signed());
        assert!(own.iter().any(Mapping::is_code));
    }

    #[test]
    fn files_are_found() {
        let own = std::process::id().cast_signed();
        assert!(files(own).is_some_and(|files| !files.is_empty()), "this program is a file");
        assert_eq!(files(i32::MAX), None);
    }
}
