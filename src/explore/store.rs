//! Where visited states live: cut into parts, found through a hash table.
//!
//! A [`Shard`] owns the states whose hash falls to it. One thread needs one shard; a parallel
//! search has several, so that threads which add states never touch the same one. A state is known
//! by its [`StateId`], which packs the shard and the state's number within it.
//!
//! What costs time is not computing but waiting for memory: nearly every look-up misses the cache,
//! first in the table, then at the state. So successors are looked up in bulk ([`Mail`]), and a
//! window of them is touched before it is looked up: the misses then overlap.
//!
//! Invariants:
//! - a state's number never changes: ids stay valid for the whole search;
//! - states are compared by all their bytes, whatever their hashes say.

use super::parts::{Parts, Root};
use super::table::Table;

/// The most shards a store may have; a power of two.
pub(super) const SHARDS_MAX: usize = 16;
/// The most states a search may hold: 28 bits, which with the shard's four make a `u32`.
pub(super) const STATES_MAX: u32 = 1 << 28;
/// The most bytes a search may hold: positions of parts, in units of 8 bytes, then fit a `u32`.
pub(super) const MEMORY_BYTES_MAX: u64 = 16 << 30;
/// The most bytes a machine may encode a state into.
const ENCODED_BYTES_MAX: usize = 65535;

/// States that are touched before they are looked up: more than a core has misses in flight.
const WINDOW_STATES: usize = 32;

/// A visited state: shard in the low bits, number within the shard above them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StateId(pub(super) u32);

impl StateId {
    /// What stands for the parent of the initial state.
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) const fn new(shard: u32, local: u32, shard_bits: u32) -> Self {
        debug_assert!(shard < 1 << shard_bits);
        Self(local << shard_bits | shard)
    }

    pub(super) const fn shard(self, shard_bits: u32) -> u32 {
        self.0 & ((1 << shard_bits) - 1)
    }

    pub(super) const fn local(self, shard_bits: u32) -> u32 {
        self.0 >> shard_bits
    }

    /// The id as an index into an array with room for every id.
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a state was first reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// From which state.
    pub(super) parent: StateId,
    /// By whose action.
    pub(super) actor: u8,
    /// Lower actors that commuted with it there: where they lead from here is known from there.
    pub(super) known: u16,
}

impl Way {
    /// None: the initial state.
    pub(super) const NONE: Self = Self { parent: StateId::NONE, actor: 0, known: 0 };
}

/// A state that is being looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    /// The encoding.
    bytes: &'a [u8],
    /// Where its parts end, all but the last.
    ends: &'a [[u8; 2]],
    /// The part of the hash that picks a place within the shard.
    hash: u32,
}

impl<'a> Key<'a> {
    /// The number of parts.
    pub(super) const fn parts(self) -> usize {
        self.ends.len() + 1
    }

    /// The bytes of a part.
    #[inline]
    pub(super) fn part(self, index: usize) -> &'a [u8] {
        let end = |index: usize| self.ends.get(index).map(|end| u16::from_le_bytes(*end).into());
        let start = index.checked_sub(1).and_then(end).unwrap_or(0);
        &self.bytes[start..end(index).unwrap_or(self.bytes.len())]
    }
}

/// A count that the limits above keep within 32 bits.
pub(super) fn to_u32(count: usize) -> u32 {
    u32::try_from(count).expect("the limits of a search keep its counts within 32 bits")
}

/// Hashes bytes by folded multiplication, as wyhash and foldhash do, in two lanes.
///
/// Returns the part that picks the shard and the part that picks a place within it.
#[inline]
pub(super) fn hash(bytes: &[u8]) -> (u32, u32) {
    const K: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03, 0x8cb9_2ba7_2f3d_8dd7];
    let fold = |a: u64, b: u64| {
        let [low, high] = halves(u128::from(a).wrapping_mul(u128::from(b)));
        low ^ high
    };
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let (words, rest) = bytes.as_chunks::<8>();
    let (quads, tail) = words.as_chunks::<4>();
    let (mut even, mut odd) = (bytes.len() as u64 ^ K[2], K[0]);
    for [a, b, c, d] in quads {
        even = fold(word(a) ^ K[0], word(b) ^ even);
        odd = fold(word(c) ^ K[1], word(d) ^ odd);
    }
    for bytes in tail {
        even = fold(word(bytes) ^ K[0], even ^ K[1]);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        even = fold(word(&last) ^ K[0], even ^ K[1]);
    }
    let [a, b, c, d, e, f, g, h] = fold(even ^ K[0], odd ^ K[1]).to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// The low and the high half.
fn halves(wide: u128) -> [u64; 2] {
    let bytes = wide.to_le_bytes();
    let (halves, _) = bytes.as_chunks::<8>();
    [u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1])]
}

/// What became of a state that was looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Interned {
    /// It is the state with this number, seen now for the first time or again.
    Is(u32),
    /// It is new, and there was no room for it.
    NoRoom,
}

/// Successors on their way to a shard.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// Records of [`MAIL_HEADER_BYTES`], encoding and ends of parts.
    bytes: Vec<u8>,
    /// Where the parts of the newest end.
    ends: Vec<usize>,
}

/// In [`Mail`], before the encoding: length, hash, parent; actor; number of ends, known actors.
const MAIL_HEADER_BYTES: usize = 20;

impl Mail {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Adds a state that was reached from a state by an actor's action, as `encode` writes it with
    /// the ends of its parts. Returns the part of its hash that picks the shard.
    pub(super) fn push(
        &mut self,
        way: Way,
        encode: impl FnOnce(&mut Vec<u8>, &mut Vec<usize>),
    ) -> u32 {
        let start = self.bytes.len();
        let first = start + MAIL_HEADER_BYTES;
        self.bytes.extend_from_slice(&[0; MAIL_HEADER_BYTES]);
        self.ends.clear();
        encode(&mut self.bytes, &mut self.ends);
        let length = self.bytes.len() - first;
        assert!(length <= ENCODED_BYTES_MAX, "Machine::encode wrote {length} bytes, over 65535");
        let (pick, hash) = hash(&self.bytes[first..]);
        let count = u16::try_from(self.ends.len()).expect("a state has 65535 parts at most");
        for end in &self.ends {
            let end = end.checked_sub(first).and_then(|end| u16::try_from(end).ok());
            let end = end.expect("parts end within the encoding");
            self.bytes.extend_from_slice(&end.to_le_bytes());
        }
        let header = &mut self.bytes[start..first];
        header[..12].copy_from_slice(
            [to_u32(length), hash, way.parent.0].map(u32::to_le_bytes).as_flattened(),
        );
        header[12] = way.actor;
        header[16..18].copy_from_slice(&count.to_le_bytes());
        header[18..].copy_from_slice(&way.known.to_le_bytes());
        pick
    }

    /// Adds all that another holds.
    pub(super) fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
    }

    /// What it holds, in order, with how it was reached.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key<'_>, Way)> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (header, after) = rest.split_first_chunk::<MAIL_HEADER_BYTES>()?;
            let (words, _) = header.as_chunks::<4>();
            let [length, hash, parent] = [0, 1, 2].map(|n| u32::from_le_bytes(words[n]));
            let [actor, ..] = words[3];
            let [low, high, known @ ..] = words[4];
            let (bytes, after) = after.split_at(length as usize);
            let (ends, after) = after.split_at(usize::from(u16::from_le_bytes([low, high])) * 2);
            rest = after;
            let (ends, _) = ends.as_chunks::<2>();
            let way = Way { parent: StateId(parent), actor, known: u16::from_le_bytes(known) };
            Some((Key { bytes, ends, hash }, way))
        })
    }
}

/// The states whose hash falls to one shard.
#[derive(Debug, Default)]
pub(super) struct Shard {
    parts: Parts,
    /// By number within the shard.
    roots: Vec<Root>,
    table: Table,
    /// How each was first reached: from which state, by whose action, what is known there.
    parents: Vec<StateId>,
    actors: Vec<u8>,
    known: Vec<u16>,
}

impl Shard {
    /// Finds a state, or adds it if there is `room`.
    pub(super) fn intern(&mut self, key: Key<'_>, way: Way, room: bool) -> Interned {
        let found =
            self.table.find(key.hash, |local| self.parts.is_same(self.roots[local as usize], key));
        match found {
            Ok(local) => Interned::Is(local),
            Err(_) if !room => Interned::NoRoom,
            Err(vacancy) => {
                let local = to_u32(self.roots.len());
                self.table.insert(vacancy, key.hash, local);
                let like = self.roots.last().copied();
                self.roots.push(self.parts.add(key, like));
                self.parents.push(way.parent);
                self.actors.push(way.actor);
                self.known.push(way.known);
                Interned::Is(local)
            }
        }
    }

    /// Finds or adds states in order, and appends their numbers to `numbers`.
    pub(super) fn intern_all(&mut self, mail: &Mail, numbers: &mut Vec<u32>) {
        let mut mail = mail.iter();
        let mut window = Vec::with_capacity(WINDOW_STATES);
        loop {
            window.clear();
            window.extend(mail.by_ref().take(WINDOW_STATES));
            if window.is_empty() {
                return;
            }
            self.touch(&window);
            for &(key, way) in &window {
                match self.intern(key, way, true) {
                    Interned::Is(local) => numbers.push(local),
                    Interned::NoRoom => unreachable!("there was room"),
                }
            }
        }
    }

    /// Brings what looking these up will read into the cache, all at once.
    fn touch(&self, window: &[(Key<'_>, Way)]) {
        let mut sum = 0;
        let mut likely = [0; WINDOW_STATES];
        for (at, (key, _)) in likely.iter_mut().zip(window) {
            *at = self.table.likely(key.hash);
        }
        for at in &likely[..window.len()] {
            sum ^= self.roots.get(*at as usize).map_or(0, |root| root[0] ^ root[1]);
        }
        std::hint::black_box(sum);
    }

    /// Makes `out` the encoding of a state.
    pub(super) fn read(&self, local: u32, out: &mut Vec<u8>) {
        out.clear();
        self.parts.read(self.roots[local as usize], out);
    }

    /// How a state was first reached.
    pub(super) fn way(&self, local: u32) -> Way {
        let local = local as usize;
        Way { parent: self.parents[local], actor: self.actors[local], known: self.known[local] }
    }

    /// The bytes of all parts.
    pub(super) fn parts_bytes(&self) -> u64 {
        self.parts.bytes()
    }
}

/// Bytes that a search with so many states, transitions and bytes of parts occupies, nearly.
///
/// A function of what is stored, not of capacities, so that the memory limit stops every search of
/// a machine with the same number of threads at the same place. Unused capacity is untouched memory; what counts beside the content
/// is the hash table while it grows (old and new together) and the path counts that come last.
pub(super) fn footprint_bytes(states: u64, transitions: u64, parts_bytes: u64) -> u64 {
    const PER_STATE: u64 = 8 + 7 + 4 + 6 + 16; // root, how reached, order, followed, path count
    const PER_TRANSITION: u64 = 4;
    let table = Table::bytes(states) * 3 / 2;
    parts_bytes + states * PER_STATE + transitions * PER_TRANSITION + table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state in parts of the given length, with its own hash or a given one.
    fn intern(
        shard: &mut Shard,
        bytes: &[u8],
        part: usize,
        hash: Option<u32>,
        room: bool,
    ) -> Interned {
        let mut mail = Mail::default();
        mail.push(Way::NONE, |out, ends| {
            for bytes in bytes.chunks(part) {
                out.extend_from_slice(bytes);
                ends.push(out.len());
            }
            // Always three ends, as a machine has to: what is missing is empty.
            ends.truncate(3);
            ends.resize(3, out.len());
        });
        let (key, way) = mail.iter().next().expect("one");
        let key = Key { hash: hash.unwrap_or(key.hash), ..key };
        shard.intern(key, way, room)
    }

    #[test]
    fn states_are_found_again_and_kept_apart() {
        for (forced, part) in [(None, 1), (Some(7), 2), (None, 64)] {
            let mut shard = Shard::default();
            let states: Vec<Vec<u8>> = (0..2000u32)
                .map(|n| n.to_le_bytes()[..(n % 5) as usize].repeat(1 + (n % 3) as usize))
                .collect();
            let mut seen: Vec<&[u8]> = Vec::new();
            for state in &states {
                let known = seen.iter().position(|s| s == state).unwrap_or_else(|| {
                    seen.push(state);
                    seen.len() - 1
                });
                assert_eq!(
                    intern(&mut shard, state, part, forced, true),
                    Interned::Is(u32::try_from(known).unwrap())
                );
            }
            assert_eq!(shard.roots.len(), seen.len());
            let mut read = vec![1];
            for (local, state) in (0u32..).zip(&seen) {
                shard.read(local, &mut read);
                assert_eq!(read, *state);
            }
        }
    }

    #[test]
    fn zero_bytes_at_the_end_count() {
        let mut shard = Shard::default();
        for (bytes, number) in [(&b""[..], 0), (b"\0", 1), (b"\0\0", 2), (b"\0", 1)] {
            assert_eq!(intern(&mut shard, bytes, 8, Some(1), true), Interned::Is(number));
        }
    }

    #[test]
    fn without_room_only_known_states_are_found() {
        let mut shard = Shard::default();
        assert_eq!(intern(&mut shard, b"known", 2, None, true), Interned::Is(0));
        for (state, expected) in [(b"known", Interned::Is(0)), (b"fresh", Interned::NoRoom)] {
            assert_eq!(intern(&mut shard, state, 2, None, false), expected);
        }
        assert_eq!(shard.roots.len(), 1);
    }

    #[test]
    fn a_part_is_kept_once() {
        let mut shard = Shard::default();
        for n in 0..10_000u16 {
            let [a, b] = n.to_le_bytes();
            intern(&mut shard, &[[a; 50], [b; 50]].concat(), 50, None, true);
        }
        assert_eq!(shard.roots.len(), 10_000);
        assert!(shard.parts_bytes() < 10_000 * 100 / 3, "{} bytes", shard.parts_bytes());
    }

    #[test]
    fn ids_pack_shard_and_number() {
        for bits in 0..=4 {
            let (shard, local) = ((1u32 << bits) - 1, STATES_MAX - 1);
            let id = StateId::new(shard, local, bits);
            assert_eq!((id.shard(bits), id.local(bits)), (shard, local));
        }
    }

    #[test]
    fn every_byte_reaches_the_hash() {
        for length in [24, 29] {
            let base = vec![0u8; length];
            let reference = hash(&base);
            for (byte, bit) in (0..length).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
                let mut changed = base.clone();
                changed[byte] ^= 1 << bit;
                let other = hash(&changed);
                assert_ne!(reference.1, other.1, "byte {byte}, bit {bit}");
                assert!((reference.0 ^ other.0).count_ones() > 3, "byte {byte}, bit {bit}");
            }
            assert_ne!(reference, hash(&base[1..]));
        }
    }
}
