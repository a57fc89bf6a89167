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

use super::ids::{StateId, Way, to_u32};
use super::mail::{Key, Mail, Source};
use super::parts::{Parts, Root};
use super::table::Table;

/// The most shards a store may have; a power of two.
pub(super) const SHARDS_MAX: usize = 16;
/// The most states a search may hold: 28 bits, which with the shard's four make a `u32`.
pub(super) const STATES_MAX: u32 = 1 << 28;
/// The most bytes a search may hold: positions of parts, in units of 8 bytes, then fit a `u32`.
pub(super) const MEMORY_BYTES_MAX: u64 = 16 << 30;

/// States that are touched before they are looked up: more than a core has misses in flight.
const WINDOW_STATES: usize = 32;

/// What became of a state that was looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Interned {
    /// It is the state with this number, seen now for the first time or again.
    Is(u32),
    /// It is new, and there was no room for it.
    NoRoom,
}

/// The states whose hash falls to one shard.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// Which it is, and of how many as a power of two.
    number: u32,
    bits: u32,
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
    /// Shard `number` of a power of two.
    pub(super) fn new(number: u32, bits: u32) -> Self {
        Self { number, bits, ..Self::default() }
    }

    /// Finds a state, or adds it if there is `room`.
    pub(super) fn intern(&mut self, key: Key<'_>, way: Way, room: bool) -> Interned {
        // Numbers of parts are a shard's own: what comes from another is whole.
        let is_near = way.parent != StateId::NONE && way.parent.shard(self.bits) == self.number;
        assert!(is_near || key.is_whole(), "parts of another shard's state");
        let source = is_near.then(|| self.roots[way.parent.local(self.bits) as usize]);
        let is_same = |local| self.parts.is_same(self.roots[local as usize], key, source);
        let found = self.table.find(key.hash, is_same);
        match found {
            Ok(local) => Interned::Is(local),
            Err(_) if !room => Interned::NoRoom,
            Err(vacancy) => {
                let local = to_u32(self.roots.len());
                self.table.insert(vacancy, key.hash, local);
                let like = source.or(self.roots.last().copied());
                self.roots.push(self.parts.add(key, like, is_near));
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

    /// Makes `out` a state.
    pub(super) fn read(&self, local: u32, out: &mut Source) {
        out.begin(self.number, self.parts.count());
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
        mail.push(Way::NONE, &Source::default(), |out, ends| {
            for bytes in bytes.chunks(part) {
                out.extend_from_slice(bytes);
                ends.push(out.len());
            }
            // Always four parts, as a machine has to: what is missing is empty.
            ends.truncate(3);
            ends.resize(4, out.len());
            0
        });
        let (key, way) = mail.iter().next().expect("one");
        let key = key.under(hash.unwrap_or(key.hash));
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
            let mut read = Source::default();
            for (local, state) in (0u32..).zip(&seen) {
                shard.read(local, &mut read);
                assert_eq!(read.parts.concat(), *state);
                assert_eq!(read.parts.len(), 4);
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
}
