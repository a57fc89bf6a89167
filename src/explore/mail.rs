//! States on their way: one that is read to be expanded, and those that it leads to.
//!
//! A step changes few parts of a state. So a state is read part by part, and what the state read before
//! it has, too, stays ([`Source`]); and of a successor only the parts travel that are not those of
//! the state before ([`Mail`]). The hash of a state is that of its parts together: those that stay
//! are not hashed again.

use super::hash::{hash, picks};
use super::ids::{StateId, Way, to_u32};

/// The most bytes a machine may encode a state into.
const ENCODED_BYTES_MAX: usize = 65535;

/// Parts that can be told to be the same: a bit each, of the first.
pub(super) const TOLD_MAX: usize = u16::BITS as usize;

/// A state that was read, to expand it.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The shard of which the numbers are, from 1.
    shard: u32,
    /// By part, its number, its bytes and their hash.
    numbers: Vec<u32>,
    pub(super) parts: Vec<Vec<u8>>,
    hashes: Vec<u64>,
    /// All hashes together.
    hash: u64,
    /// By inner node, as in [`super::parts`], the number of the pair.
    nodes: Vec<u32>,
    /// Parts that are others than those of the state that was read before, a bit each.
    pub(super) stale: u16,
}

/// No number of anything.
const NO_NUMBER: u32 = u32::MAX;

impl Source {
    /// Begins to read a state of so many parts from a shard.
    pub(super) fn begin(&mut self, shard: u32, parts: usize) {
        self.stale = if parts > TOLD_MAX { u16::MAX } else { 0 };
        if self.parts.is_empty() {
            self.stale = u16::MAX;
            self.parts.resize_with(parts, Vec::new);
            self.hashes = (0..parts).map(|part| hash(part, &[])).collect();
            self.hash = self.hashes.iter().fold(0, |all, hash| all ^ hash);
        }
        if self.shard != shard + 1 {
            self.shard = shard + 1;
            for numbers in [&mut self.numbers, &mut self.nodes] {
                numbers.clear();
                numbers.resize(parts, NO_NUMBER);
            }
        }
    }

    /// Whether an inner node has another number than in the state that was read before.
    #[inline]
    pub(super) fn enters(&mut self, node: usize, number: u32) -> bool {
        std::mem::replace(&mut self.nodes[node], number) != number
    }

    /// Takes a part, whose bytes are `get`, if it is another than before.
    #[inline]
    pub(super) fn take<'v>(&mut self, part: usize, number: u32, get: impl FnOnce() -> &'v [u8]) {
        if std::mem::replace(&mut self.numbers[part], number) == number {
            return;
        }
        let (bytes, new) = (&mut self.parts[part], get());
        if bytes == new {
            return;
        }
        bytes.clear();
        bytes.extend_from_slice(new);
        if part < TOLD_MAX {
            self.stale |= 1 << part;
        }
        let new = hash(part, bytes);
        self.hash ^= std::mem::replace(&mut self.hashes[part], new) ^ new;
    }
}

/// A state that is being looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    /// The bytes of the parts that are not the same.
    bytes: &'a [u8],
    /// Of each of these, its hash and where it ends.
    marks: &'a [[u8; MARK_BYTES]],
    /// The part of the hash that picks a place within the shard.
    pub(super) hash: u32,
    /// The parts that are those of the state that it was reached from, a bit each.
    same: u16,
}

impl<'a> Key<'a> {
    /// The number of parts.
    pub(super) const fn parts(self) -> usize {
        self.marks.len() + self.same.count_ones() as usize
    }

    /// Whether parts `first..end` are those of the state that it was reached from.
    #[inline]
    pub(super) const fn is_same(self, first: usize, end: usize) -> bool {
        if end > TOLD_MAX {
            return false;
        }
        let all = (1u32 << end) - (1 << first);
        self.same as u32 & all == all
    }

    /// The same with another hash.
    #[cfg(test)]
    pub(super) const fn under(self, hash: u32) -> Self {
        Self { hash, ..self }
    }

    /// Whether it has all its parts, the same or not.
    pub(super) const fn is_whole(self) -> bool {
        self.same == 0
    }

    /// The bytes of a part that is not the same, and their hash.
    #[inline]
    pub(super) fn part(self, index: usize) -> (&'a [u8], u32) {
        let before = (1u32 << index.min(TOLD_MAX)) - 1;
        let at = index - (u32::from(self.same) & before).count_ones() as usize;
        let (hash, end) = mark(self.marks[at]);
        let start = at.checked_sub(1).map_or(0, |at| mark(self.marks[at]).1);
        (&self.bytes[start..end], hash)
    }
}

/// A part of a hash and an end, each four bytes.
const MARK_BYTES: usize = 8;

#[inline]
fn mark([a, b, c, d, ends @ ..]: [u8; MARK_BYTES]) -> (u32, usize) {
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(ends) as usize)
}

/// Successors on their way to a shard.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// Records: a header of [`HEADER_BYTES`], the bytes of parts, and a mark for each.
    bytes: Vec<u8>,
    /// Where the parts of the newest end.
    ends: Vec<usize>,
}

/// Before the bytes of a record: their number, the hash, the parent; the actor, nothing, the same
/// parts; the number of others, known actors.
const HEADER_BYTES: usize = 20;

impl Mail {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Adds a state that was reached from `source` by an actor's action, as `encode` writes it
    /// ([`super::Machine::encode_after`]). Returns the part of its hash that picks the shard.
    pub(super) fn push(
        &mut self,
        way: Way,
        source: &Source,
        encode: impl FnOnce(&mut Vec<u8>, &mut Vec<usize>) -> u16,
    ) -> u32 {
        let start = self.begin();
        let first = self.bytes.len();
        self.ends.clear();
        let same = encode(&mut self.bytes, &mut self.ends);
        let length = self.bytes.len() - first;
        assert!(length <= ENCODED_BYTES_MAX, "Machine::encode wrote {length} bytes, over 65535");
        assert!(self.ends.last().is_none_or(|end| *end == first + length), "the last end is there");
        let (mut all, mut part, mut begin) = (source.hash, 0, first);
        for index in 0..self.ends.len() {
            let end = self.ends[index];
            part += usize::try_from((!(u32::from(same) >> part)).trailing_zeros()).unwrap_or(0);
            let new = hash(part, &self.bytes[begin..end]);
            all ^= new ^ source.hashes.get(part).copied().unwrap_or(0);
            self.mark(picks(new).1, end - first);
            (begin, part) = (end, part + 1);
        }
        let (pick, hash) = picks(all);
        self.finish(start, to_u32(length), hash, way, same);
        pick
    }

    /// Adds what another holds, which was reached from `source`, with all its parts.
    pub(super) fn append_whole(&mut self, other: &Self, source: &Source) {
        for (key, way) in other.iter() {
            let of = |part: usize| match source.parts.get(part) {
                Some(bytes) if key.is_same(part, part + 1) => {
                    (bytes.as_slice(), picks(source.hashes[part]).1)
                }
                _ => key.part(part),
            };
            let start = self.begin();
            let first = self.bytes.len();
            self.ends.clear();
            for part in 0..key.parts() {
                self.bytes.extend_from_slice(of(part).0);
                self.ends.push(self.bytes.len());
            }
            let length = to_u32(self.bytes.len() - first);
            for part in 0..key.parts() {
                self.mark(of(part).1, self.ends[part] - first);
            }
            self.finish(start, length, key.hash, way, 0);
        }
    }

    /// Adds what another holds.
    pub(super) fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
    }

    fn begin(&mut self) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
        start
    }

    #[inline]
    fn mark(&mut self, hash: u32, end: usize) {
        self.bytes.extend_from_slice([hash, to_u32(end)].map(u32::to_le_bytes).as_flattened());
    }

    fn finish(&mut self, start: usize, length: u32, hash: u32, way: Way, same: u16) {
        let marks = u16::try_from(self.ends.len()).expect("a state has 65535 parts at most");
        let header = &mut self.bytes[start..start + HEADER_BYTES];
        let words = [length, hash, way.parent.0].map(u32::to_le_bytes);
        header[..12].copy_from_slice(words.as_flattened());
        header[12] = way.actor;
        header[14..].copy_from_slice([same, marks, way.known].map(u16::to_le_bytes).as_flattened());
    }

    /// What it holds, in order, with how it was reached.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key<'_>, Way)> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (header, after) = rest.split_first_chunk::<HEADER_BYTES>()?;
            let (words, _) = header.as_chunks::<4>();
            let [length, hash, parent] = [0, 1, 2].map(|n| u32::from_le_bytes(words[n]));
            let [actor, _, same @ ..] = words[3];
            let [low, high, known @ ..] = words[4];
            let (bytes, after) = after.split_at(length as usize);
            let marks = usize::from(u16::from_le_bytes([low, high])) * MARK_BYTES;
            let (marks, after) = after.split_at(marks);
            rest = after;
            let (marks, _) = marks.as_chunks::<MARK_BYTES>();
            let way = Way { parent: StateId(parent), actor, known: u16::from_le_bytes(known) };
            Some((Key { bytes, marks, hash, same: u16::from_le_bytes(same) }, way))
        })
    }
}
