//! Requests as bytes: recorded once, replayed against the handler, truncated and mutated.
//!
//! Little-endian: object kind `u8` and id `u64`, cmd `u32`, arg `u64`, pid `u32`, now `u64`, a
//! count of memory pieces `u8`, each a `u32` length and its bytes, then a count of files `u16`
//! (0xffff: not looked up), each a kind `u8` and its fields.

use driftheap::device::{BufferId, FileFact, HeapId, Inode, Ioctl, Object, SyncFileId, TimelineId};

/// Largest piece of memory that a request carries: an argument of _IOC_SIZE's 14 bits, or
/// udmabuf's longest list.
const PIECE_BYTES_MAX: usize = 32 * 1024;

const FILES_UNKNOWN: u16 = u16::MAX;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }
    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    fn object(&mut self) -> Option<Object> {
        let (kind, id) = (self.u8()?, self.u64()?);
        Some(match kind {
            0 => Object::Heap(HeapId(id)),
            1 => Object::Udmabuf,
            2 => Object::Timeline(TimelineId(id)),
            3 => Object::Buffer(BufferId(id)),
            4 => Object::SyncFile(SyncFileId(id)),
            _ => return None,
        })
    }
    fn file(&mut self) -> Option<FileFact> {
        Some(match self.u8()? {
            0 => FileFact::Bad,
            1 => FileFact::Ours(self.object()?),
            2 => FileFact::Memfd {
                seals: self.u32()?,
                size_bytes: self.u64()?,
                inode: Inode { dev: self.u64()?, ino: self.u64()? },
            },
            3 => FileFact::Other,
            _ => return None,
        })
    }
}

fn put_object(out: &mut Vec<u8>, object: Object) {
    let (kind, id) = match object {
        Object::Heap(HeapId(id)) => (0, id),
        Object::Udmabuf => (1, 0),
        Object::Timeline(TimelineId(id)) => (2, id),
        Object::Buffer(BufferId(id)) => (3, id),
        Object::SyncFile(SyncFileId(id)) => (4, id),
    };
    out.push(kind);
    out.extend(id.to_le_bytes());
}

/// Reads one request and returns the bytes after it; `None` if they are cut short or no
/// request.
pub(crate) fn decode(bytes: &[u8]) -> Option<(Ioctl, &[u8])> {
    let mut reader = Reader(bytes);
    let object = reader.object()?;
    let cmd = reader.u32()?;
    let arg = reader.u64()?;
    let pid = reader.u32()?.cast_signed();
    let now_ns = reader.u64()?;
    let mut memory = Vec::new();
    for _ in 0..reader.u8()? {
        let len = usize::try_from(reader.u32()?).ok()?;
        if len > PIECE_BYTES_MAX {
            return None;
        }
        memory.push(reader.bytes(len)?.to_vec());
    }
    let files = match reader.u16()? {
        FILES_UNKNOWN => None,
        count => Some((0..count).map(|_| reader.file()).collect::<Option<_>>()?),
    };
    Some((Ioctl { object, cmd, arg, memory, files, pid, now_ns, has_waited: false }, reader.0))
}

/// The request as [`decode`] reads it.
pub(crate) fn encode(request: &Ioctl) -> Vec<u8> {
    let mut out = Vec::new();
    put_object(&mut out, request.object);
    out.extend(request.cmd.to_le_bytes());
    out.extend(request.arg.to_le_bytes());
    out.extend(request.pid.to_le_bytes());
    out.extend(request.now_ns.to_le_bytes());
    out.push(u8::try_from(request.memory.len()).expect("at most two pieces are asked for"));
    for piece in &request.memory {
        assert!(piece.len() <= PIECE_BYTES_MAX);
        out.extend(u32::try_from(piece.len()).expect("bounded above").to_le_bytes());
        out.extend(piece);
    }
    let Some(files) = &request.files else {
        out.extend(FILES_UNKNOWN.to_le_bytes());
        return out;
    };
    out.extend(u16::try_from(files.len()).expect("a list has 1024 items").to_le_bytes());
    for file in files {
        match *file {
            FileFact::Bad => out.push(0),
            FileFact::Ours(object) => {
                out.push(1);
                put_object(&mut out, object);
            }
            FileFact::Memfd { seals, size_bytes, inode } => {
                out.push(2);
                out.extend(seals.to_le_bytes());
                out.extend(size_bytes.to_le_bytes());
                out.extend(inode.dev.to_le_bytes());
                out.extend(inode.ino.to_le_bytes());
            }
            FileFact::Other => out.push(3),
        }
    }
    out
}
