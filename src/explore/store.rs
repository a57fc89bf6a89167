//! Where visited states live: encoded bytes in a flat arena, found through a hash table.
//!
//! A [`Shard`] owns the states whose hash falls to it. One thread needs one shard; a parallel
//! search has several, so that threads which add states never touch the same one. A state is known
//! by its [`StateId`], which packs the shard and the state's number within it.
//!
//! What costs time is not computing but waiting for memory: nearly every look-up misses the cache,
//! first in the table, then in the arena. So successors are looked up in bulk ([`Mail`]), and a
//! window of them is touched before it is looked up: the misses then overlap.
//!
//! Invariants:
//! - a record is never changed or moved within its arena: ids stay valid for the whole search;
//! - records are 8-byte aligned and zero-padded, so that hashing and comparing run over words;
//! - states are compared by all their bytes, whatever their hashes say.

use super::table::Table;

/// The most shards a store may have; a power of two.
pub(super) const SHARDS_MAX: usize = 16;
/// The most states a search may hold: 28 bits, which with the shard's four make a `u32`.
pub(super) const STATES_MAX: u32 = 1 << 28;
/// The most bytes of arenas a search may hold, so that positions in units of 8 fit a `u32`.
pub(super) const ARENA_BYTES_MAX: u64 = 16 << 30;
/// The most bytes a machine may encode a state into.
const ENCODED_BYTES_MAX: usize = 65535;

/// States that are touched before they are looked up: more than a core has misses in flight.
const WINDOW_STATES: usize = 32;

/// Arena record: length of the encoding, number within the shard, encoding, padding.
const HEADER_BYTES: usize = 8;

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

/// A state that is being looked up: its bytes, padded, with their length and hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    /// The encoding, zero-padded to a multiple of 8 bytes.
    pub(super) padded: &'a [u8],
    /// The length of the encoding itself.
    pub(super) len_bytes: u32,
    /// The part of the hash that picks a place within the shard.
    pub(super) hash: u32,
}

/// Pads the encoding that `buffer` holds from `start` on and hashes it.
///
/// Returns the length before padding, the part of the hash that picks the shard and the part that
/// picks a place within it.
#[inline]
pub(super) fn seal(buffer: &mut Vec<u8>, start: usize) -> (u32, u32, u32) {
    let len_bytes = buffer.len() - start;
    assert!(len_bytes <= ENCODED_BYTES_MAX, "Machine::encode wrote {len_bytes} bytes, over 65535");
    buffer.extend_from_slice(&[0; 8][..len_bytes.wrapping_neg() % 8]);
    let len_bytes = to_u32(len_bytes);
    let [a, b, c, d, e, f, g, h] = hash(&buffer[start..], u64::from(len_bytes)).to_le_bytes();
    (len_bytes, u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// A count that the limits above keep within 32 bits.
pub(super) fn to_u32(count: usize) -> u32 {
    u32::try_from(count).expect("the limits of a search keep its counts within 32 bits")
}

/// Hashes 8-byte words by folded multiplication, as wyhash and foldhash do, in two lanes.
#[inline]
fn hash(padded: &[u8], seed: u64) -> u64 {
    const K: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03, 0x8cb9_2ba7_2f3d_8dd7];
    let fold = |a: u64, b: u64| {
        let [low, high] = halves(u128::from(a).wrapping_mul(u128::from(b)));
        low ^ high
    };
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let (words, _) = padded.as_chunks::<8>();
    let (quads, tail) = words.as_chunks::<4>();
    let (mut even, mut odd) = (seed ^ K[2], K[0]);
    for [a, b, c, d] in quads {
        even = fold(word(a) ^ K[0], word(b) ^ even);
        odd = fold(word(c) ^ K[1], word(d) ^ odd);
    }
    for bytes in tail {
        even = fold(word(bytes) ^ K[0], even ^ K[1]);
    }
    fold(even ^ K[0], odd ^ K[1])
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
    /// Records of header (length, hash, parent, actor) and padded encoding.
    bytes: Vec<u8>,
}

/// In [`Mail`], before the encoding.
const MAIL_HEADER_BYTES: usize = 16;

impl Mail {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Adds a state that was reached from a state by an actor's action, as `encode` writes it.
    /// Returns the part of its hash that picks the shard.
    pub(super) fn push(
        &mut self,
        (parent, actor): (StateId, u8),
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> u32 {
        let start = self.bytes.len();
        let encoding_start = start + MAIL_HEADER_BYTES;
        self.bytes.extend_from_slice(&[0; MAIL_HEADER_BYTES]);
        encode(&mut self.bytes);
        let (len_bytes, pick, hash) = seal(&mut self.bytes, encoding_start);
        let header = [len_bytes, hash, parent.0, u32::from(actor)].map(u32::to_le_bytes);
        self.bytes[start..encoding_start].copy_from_slice(header.as_flattened());
        pick
    }

    /// Adds all that another holds.
    pub(super) fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
    }

    fn iter(&self) -> impl Iterator<Item = (Key<'_>, (StateId, u8))> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (header, after) = rest.split_at_checked(MAIL_HEADER_BYTES)?;
            let (words, _) = header.as_chunks::<4>();
            let [len_bytes, hash, parent, _] = [0, 1, 2, 3].map(|n| u32::from_le_bytes(words[n]));
            let (padded, after) = after.split_at((len_bytes as usize).next_multiple_of(8));
            rest = after;
            Some((Key { padded, len_bytes, hash }, (StateId(parent), words[3][0])))
        })
    }
}

/// The states whose hash falls to one shard.
#[derive(Debug, Default)]
pub(super) struct Shard {
    arena: Vec<u8>,
    table: Table,
    /// Record positions in units of 8 bytes, by number within the shard.
    positions: Vec<u32>,
    /// How each state was first reached: from which state, by whose action.
    parents: Vec<(StateId, u8)>,
}

impl Shard {
    /// Finds a state, or adds it if there is `room`.
    pub(super) fn intern(&mut self, key: Key<'_>, from: (StateId, u8), room: bool) -> Interned {
        debug_assert_eq!(key.padded.len(), (key.len_bytes as usize).next_multiple_of(8));
        let arena = &self.arena;
        let found = self.table.find(key.hash, |at| {
            let (len_bytes, _, rest) = record(arena, at);
            len_bytes == key.len_bytes && rest[..key.padded.len()] == *key.padded
        });
        match found {
            Ok(at) => Interned::Is(record(arena, at).1),
            Err(_) if !room => Interned::NoRoom,
            Err(vacancy) => {
                let local = to_u32(self.positions.len());
                let at = to_u32(self.arena.len() / 8);
                self.table.insert(vacancy, key.hash, at);
                self.arena
                    .extend_from_slice([key.len_bytes, local].map(u32::to_le_bytes).as_flattened());
                self.arena.extend_from_slice(key.padded);
                self.positions.push(at);
                self.parents.push(from);
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
            for &(key, from) in &window {
                match self.intern(key, from, true) {
                    Interned::Is(local) => numbers.push(local),
                    Interned::NoRoom => unreachable!("there was room"),
                }
            }
        }
    }

    /// Brings what looking these up will read into the cache, all at once.
    fn touch(&self, window: &[(Key<'_>, (StateId, u8))]) {
        let mut sum = 0u8;
        let mut likely = [0; WINDOW_STATES];
        for (at, (key, _)) in likely.iter_mut().zip(window) {
            *at = self.table.likely(key.hash);
        }
        for (at, (key, _)) in likely.iter().zip(window) {
            let first = *at as usize * 8;
            let last = first + HEADER_BYTES + key.padded.len();
            for byte in (first..last).step_by(64) {
                sum ^= self.arena.get(byte).copied().unwrap_or(0);
            }
        }
        std::hint::black_box(sum);
    }

    /// The encoding of a state.
    pub(super) fn bytes(&self, local: u32) -> &[u8] {
        let (len_bytes, number, rest) = record(&self.arena, self.positions[local as usize]);
        debug_assert_eq!(number, local);
        &rest[..len_bytes as usize]
    }

    /// From which state, by whose action, a state was first reached.
    pub(super) fn parent(&self, local: u32) -> (StateId, u8) {
        self.parents[local as usize]
    }

    /// The bytes of all records.
    pub(super) fn arena_bytes(&self) -> u64 {
        self.arena.len() as u64
    }
}

/// The record at a position: length of the encoding, number within the shard, what follows.
#[inline]
fn record(arena: &[u8], at: u32) -> (u32, u32, &[u8]) {
    let record = &arena[at as usize * 8..];
    let (header, rest) = record.split_at(HEADER_BYTES);
    let word = |from: usize| {
        u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]])
    };
    (word(0), word(4), rest)
}

/// Bytes that a search with so many states, transitions and arena bytes occupies, nearly.
///
/// A function of what is stored, not of capacities, so that the memory limit stops every search of
/// a machine at the same place. Unused capacity is untouched memory; what counts beside the content
/// is the hash table while it grows (old and new together) and the path counts that come last.
pub(super) fn footprint_bytes(states: u64, transitions: u64, arena_bytes: u64) -> u64 {
    const PER_STATE: u64 = 4 + 8 + 4 + 2 + 16; // position, parent, order, followed, path count
    const PER_TRANSITION: u64 = 4;
    let table = Table::bytes(states) * 3 / 2;
    arena_bytes + states * PER_STATE + transitions * PER_TRANSITION + table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intern(shard: &mut Shard, bytes: &[u8], hash: Option<u32>) -> Interned {
        let mut buffer = bytes.to_vec();
        let (len_bytes, _, own_hash) = seal(&mut buffer, 0);
        let key = Key { padded: &buffer, len_bytes, hash: hash.unwrap_or(own_hash) };
        shard.intern(key, (StateId::NONE, 0), true)
    }

    #[test]
    fn states_are_found_again_and_kept_apart() {
        for forced in [None, Some(7)] {
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
                    intern(&mut shard, state, forced),
                    Interned::Is(u32::try_from(known).unwrap())
                );
            }
            assert_eq!(shard.positions.len(), seen.len());
            for (local, state) in (0u32..).zip(&seen) {
                assert_eq!(shard.bytes(local), *state);
            }
        }
    }

    #[test]
    fn zero_bytes_at_the_end_count() {
        let mut shard = Shard::default();
        assert_eq!(intern(&mut shard, b"", Some(1)), Interned::Is(0));
        assert_eq!(intern(&mut shard, b"\0", Some(1)), Interned::Is(1));
        assert_eq!(intern(&mut shard, b"\0\0", Some(1)), Interned::Is(2));
        assert_eq!(intern(&mut shard, b"\0", Some(1)), Interned::Is(1));
    }

    #[test]
    fn without_room_only_known_states_are_found() {
        let mut shard = Shard::default();
        assert_eq!(intern(&mut shard, b"known", None), Interned::Is(0));
        for (state, expected) in [(b"known", Interned::Is(0)), (b"fresh", Interned::NoRoom)] {
            let mut buffer = state.to_vec();
            let (len_bytes, _, hash) = seal(&mut buffer, 0);
            let key = Key { padded: &buffer, len_bytes, hash };
            assert_eq!(shard.intern(key, (StateId::NONE, 0), false), expected);
        }
        assert_eq!(shard.positions.len(), 1);
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
        let base = [0u8; 24];
        let reference = hash(&base, 24);
        for (byte, bit) in (0..24).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut changed = base;
            changed[byte] ^= 1 << bit;
            let other = hash(&changed, 24);
            assert_ne!(reference >> 32, other >> 32, "byte {byte}, bit {bit}");
            assert!((reference ^ other).count_ones() > 8, "byte {byte}, bit {bit}");
        }
        assert_ne!(reference, hash(&base, 23));
    }
}
