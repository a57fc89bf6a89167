//! One dma-buf: what `struct dma_buf` holds, and the rules for mapping and seeking in it.

use rustix::io::Errno;

use super::fence::{Fences, Resv};
use super::id::HeapId;
use crate::model::{Cow, Life, Placement, Usage};

/// Device and inode number of a file: how a transport recognises a buffer behind any descriptor,
/// in any process, however it got there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// The file behind a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// memfd_secret: get_user_pages answers EFAULT.
    Secret,
    /// An ordinary memfd: get_user_pages succeeds.
    Memfd,
    /// The caller's own memfds (udmabuf).
    Foreign,
}

/// A run of bytes of one memfd, as a part of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The memfd.
    pub inode: Inode,
    /// First byte in it.
    pub offset: u64,
    /// How many.
    pub size_bytes: u64,
}

/// Who exported the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exporter {
    /// A heap of ours.
    Heap(HeapId),
    /// /dev/udmabuf.
    Udmabuf {
        /// The memory it is made of, at least one piece, none of which continues the one before.
        pieces: Vec<Piece>,
        /// Whether a CPU access was begun, before which END is EINVAL (`end_cpu_udmabuf`).
        mapped: bool,
    },
}

/// Access mode of the file descriptor that the buffer was created with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// O_RDONLY, O_WRONLY, O_RDWR or the odd 3, as the caller asked.
    pub mode: u32,
}

impl OpenMode {
    /// Read and write.
    pub const RDWR: Self = Self { mode: 2 };

    /// FMODE_READ, by the kernel's OPEN_FMODE: (mode + 1) & 1.
    pub fn reads(self) -> bool {
        (self.mode + 1) & 1 != 0
    }

    /// FMODE_WRITE, by the kernel's OPEN_FMODE: (mode + 1) & 2.
    pub fn writes(self) -> bool {
        (self.mode + 1) & 2 != 0
    }
}

/// Where a buffer's memory is, or what became of it.
pub fn whereabouts(life: Life, placement: Placement) -> &'static str {
    if life == Life::Live { placement.word() } else { life.word() }
}

/// A dma-buf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Who made it.
    pub exporter: Exporter,
    /// `exp_name`: the heap's name, or `udmabuf`.
    pub exp_name: String,
    /// Name set by DMA_BUF_SET_NAME; `None` before.
    pub name: Option<Vec<u8>>,
    /// Size, a multiple of the page size.
    pub size_bytes: u64,
    /// Access mode.
    pub access: OpenMode,
    /// What [`Backing`] it was given.
    pub backing: Backing,
    /// Its file; all zero until it is installed.
    pub inode: Inode,
    /// Process that allocated it.
    pub pid: i32,
    /// Its fences.
    pub resv: Resv,
    /// What a MAP_PRIVATE mapping gets.
    pub cow: Cow,
    /// Where its pages are.
    pub placement: Placement,
    /// What is left of it.
    pub life: Life,
}

/// Arguments of mmap(2) that decide its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmapArgs {
    /// Bytes.
    pub len: u64,
    /// PROT_ bits.
    pub prot: u32,
    /// MAP_ bits.
    pub flags: u32,
    /// Offset in the file, bytes.
    pub offset: u64,
}

impl MmapArgs {
    /// Whether stores would go to the file itself.
    pub(super) fn shares_writes(self) -> bool {
        let shared = matches!(self.flags & MAP_TYPE, MAP_SHARED | MAP_SHARED_VALIDATE);
        shared && self.prot & PROT_WRITE != 0
    }
}

const PROT_WRITE: u32 = 2;
const MAP_TYPE: u32 = 0xf;
const MAP_SHARED: u32 = 1;
const MAP_PRIVATE: u32 = 2;
const MAP_SHARED_VALIDATE: u32 = 3;

impl Buffer {
    /// Whether mmap may go ahead, in the order of checks of `ksys_mmap_pgoff`, `do_mmap` and
    /// `dma_buf_mmap_internal`.
    ///
    /// # Errors
    /// EINVAL: length 0, unaligned offset, range past the end, unknown type, or a private mapping
    /// where the exporter rejects COW. ENOMEM: the length wraps. EOVERFLOW: the offset does.
    /// EACCES: the file's access mode forbids it. ENODEV: the buffer was revoked.
    pub fn mmap(&self, args: MmapArgs, page_bytes: u64) -> Result<(), Errno> {
        if !args.offset.is_multiple_of(page_bytes) || args.len == 0 {
            return Err(Errno::INVAL);
        }
        let len = args.len.checked_next_multiple_of(page_bytes).ok_or(Errno::NOMEM)?;
        let end = args.offset.checked_add(len).ok_or(Errno::OVERFLOW)?;
        let private = match args.flags & MAP_TYPE {
            MAP_SHARED | MAP_SHARED_VALIDATE => false,
            MAP_PRIVATE => true,
            _ => return Err(Errno::INVAL),
        };
        let wants_write = args.prot & PROT_WRITE != 0;
        if !self.access.reads() || (wants_write && !private && !self.access.writes()) {
            return Err(Errno::ACCESS);
        }
        if end > self.size_bytes || (private && self.cow == Cow::Reject) {
            return Err(Errno::INVAL);
        }
        if self.life == Life::Revoked {
            return Err(Errno::NODEV);
        }
        Ok(())
    }

    /// `dma_buf_llseek`: only the two calls that tell the size.
    ///
    /// # Errors
    /// EINVAL for every other offset or whence.
    pub fn lseek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        const SEEK_SET: u32 = 0;
        const SEEK_END: u32 = 2;
        match (offset, whence) {
            (0, SEEK_SET) => Ok(0),
            (0, SEEK_END) => Ok(self.size_bytes),
            _ => Err(Errno::INVAL),
        }
    }

    /// Whether poll finds the buffer readable and writable: IN waits for the writers' fences, OUT
    /// for the readers' too (`dma_buf_poll`).
    pub fn readiness(&self, fences: &Fences) -> (bool, bool) {
        let idle = |write| self.resv.pending(Usage::to_wait_for(write), fences).is_empty();
        (idle(false), idle(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(mode: u32, cow: Cow) -> Buffer {
        Buffer {
            exporter: Exporter::Heap(HeapId(0)),
            exp_name: "system".into(),
            name: None,
            size_bytes: 8192,
            access: OpenMode { mode },
            backing: Backing::Secret,
            inode: Inode::default(),
            pid: 1,
            resv: Resv::default(),
            cow,
            placement: Placement::Vram,
            life: Life::Live,
        }
    }

    fn check(mode: u32, cow: Cow, args: [u64; 4], expect: Result<(), Errno>) {
        let [len, prot, flags, offset] = args;
        let narrow = |value: u64| u32::try_from(value).unwrap();
        let args = MmapArgs { len, prot: narrow(prot), flags: narrow(flags), offset };
        assert_eq!(buffer(mode, cow).mmap(args, 4096), expect, "mode {mode} {args:?}");
    }

    #[test]
    fn mmap_answers() {
        let (ok, einval, eacces) = (Ok(()), Err(Errno::INVAL), Err(Errno::ACCESS));
        for (mode, args, expect) in [
            (2, [8192, 3, 1, 0], ok),
            (2, [4096, 1, 1, 4096], ok),
            (2, [1, 1, 3, 4096], ok),
            (2, [8193, 1, 1, 0], einval),
            (2, [8192, 1, 1, 4096], einval),
            (2, [4096, 1, 1, 8192], einval),
            (2, [4096, 1, 1, 1], einval),
            (2, [0, 1, 1, 0], einval),
            (2, [4096, 1, 0, 0], einval),
            (2, [4096, 3, 2, 0], einval),
            (2, [u64::MAX, 1, 1, 0], Err(Errno::NOMEM)),
            (2, [4096, 1, 1, u64::MAX - 4095], Err(Errno::OVERFLOW)),
            (0, [4096, 1, 1, 0], ok),
            (0, [4096, 3, 1, 0], eacces),
            (1, [4096, 1, 1, 0], eacces),
            (1, [4096, 2, 1, 0], eacces),
            (3, [4096, 1, 1, 0], eacces),
        ] {
            check(mode, Cow::Reject, args, expect);
        }
        check(2, Cow::Allow, [4096, 3, 2, 0], ok);
        let args = MmapArgs { len: 4096, prot: 3, flags: 1, offset: 0 };
        for (life, expect) in
            [(Life::Live, ok), (Life::Purged, ok), (Life::Revoked, Err(Errno::NODEV))]
        {
            let buffer = Buffer { life, ..buffer(2, Cow::Reject) };
            assert_eq!(buffer.mmap(args, 4096), expect, "{life:?}");
        }
        check(0, Cow::Allow, [4096, 3, 2, 0], ok);
    }

    #[test]
    fn lseek_answers() {
        let buffer = buffer(2, Cow::Reject);
        assert_eq!(buffer.lseek(0, 2), Ok(8192));
        assert_eq!(buffer.lseek(0, 0), Ok(0));
        for (offset, whence) in [(0, 1), (1, 0), (-1, 2), (0, 3), (0, 4), (0, 99)] {
            assert_eq!(buffer.lseek(offset, whence), Err(Errno::INVAL));
        }
    }
}
