//! States in little memory: every part of a state is kept once, however many states have it.
//!
//! A step changes few parts of a state (a program counter, an entry, a frame), so the states of a
//! search have few distinct values for each part, and few distinct pairs of neighbouring parts. A
//! state is a binary tree over its parts: each leaf is the number of a part's value, each inner
//! node the number of a pair, and what is kept of the state itself is the pair at the root, 8 bytes.
//! SPIN's COLLAPSE does this with one level, LTSmin with a tree (Laarman, van de Pol, Weber,
//! *Parallel Recursive State Compression for Free*, SPIN 2011).
//!
//! Nothing is lost: two states have the same root exactly when all their bytes are the same.

use super::store::{Key, hash, to_u32};
use super::table::Table;

/// The numbers of the two halves of a state.
pub(super) type Root = [u32; 2];

/// The parts that states are made of.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// By part, its values.
    values: Vec<Values>,
    /// By the first part of its right half, the pairs of an inner node other than the root.
    pairs: Vec<Pairs>,
}

impl Parts {
    /// The root of a state, whose parts are added where they are new. What it has in common with the
    /// state of the root `like`, which was added (the last one, best), is not looked up again.
    ///
    /// # Panics
    /// When the state has another number of parts than those before: a mistake of the machine.
    pub(super) fn add(&mut self, key: Key<'_>, like: Option<Root>) -> Root {
        let count = key.parts();
        if self.values.is_empty() {
            self.values.resize_with(count, Values::default);
            self.pairs.resize_with(count, Pairs::default);
        }
        assert_eq!(self.values.len(), count, "Machine::encode wrote another number of parts");
        let [left, right] = like.map_or([None; 2], |root| root.map(Some));
        if count == 1 {
            return [self.values[0].number(key.part(0), left), 0];
        }
        let middle = last(count);
        [self.add_half(key, (0, middle), left), self.add_half(key, (middle, count), right)]
    }

    fn add_half(&mut self, key: Key<'_>, (first, end): (usize, usize), like: Option<u32>) -> u32 {
        if end - first == 1 {
            return self.values[first].number(key.part(first), like);
        }
        let middle = middle(first, end);
        let old = like.map(|number| self.pairs[middle].pairs[number as usize]);
        let [left, right] = old.map_or([None; 2], |pair| pair.map(Some));
        let halves = [(first, middle, left), (middle, end, right)];
        let pair = halves.map(|(first, end, like)| self.add_half(key, (first, end), like));
        match like {
            Some(number) if old == Some(pair) => number,
            _ => self.pairs[middle].number(pair),
        }
    }

    /// Whether a state that was added is this one.
    pub(super) fn is_same(&self, root: Root, key: Key<'_>) -> bool {
        let count = key.parts();
        if count != self.values.len() {
            return false;
        }
        if count == 1 {
            return self.values[0].get(root[0]) == key.part(0);
        }
        // What differs most often comes last in an encoding: frames and program counters.
        let middle = last(count);
        self.is_half(root[1], key, middle, count) && self.is_half(root[0], key, 0, middle)
    }

    fn is_half(&self, number: u32, key: Key<'_>, first: usize, end: usize) -> bool {
        if end - first == 1 {
            return self.values[first].get(number) == key.part(first);
        }
        let middle = middle(first, end);
        let [left, right] = self.pairs[middle].pairs[number as usize];
        self.is_half(right, key, middle, end) && self.is_half(left, key, first, middle)
    }

    /// Appends the bytes of a state that was added.
    pub(super) fn read(&self, root: Root, out: &mut Vec<u8>) {
        match self.values.len() {
            0 => {}
            1 => out.extend_from_slice(self.values[0].get(root[0])),
            count => {
                let middle = last(count);
                self.read_half(root[0], 0, middle, out);
                self.read_half(root[1], middle, count, out);
            }
        }
    }

    fn read_half(&self, number: u32, first: usize, end: usize, out: &mut Vec<u8>) {
        if end - first == 1 {
            out.extend_from_slice(self.values[first].get(number));
            return;
        }
        let middle = middle(first, end);
        let [left, right] = self.pairs[middle].pairs[number as usize];
        self.read_half(left, first, middle, out);
        self.read_half(right, middle, end, out);
    }

    /// Bytes that the parts occupy.
    pub(super) fn bytes(&self) -> u64 {
        let values: u64 = self.values.iter().map(Values::bytes).sum();
        values + self.pairs.iter().map(Pairs::bytes).sum::<u64>()
    }
}

/// Where the parts of a state, two or more, are cut: the last differ between nearly all states, and
/// would make a new pair of any they are together with.
const fn last(count: usize) -> usize {
    if count > 4 { count - 2 } else { middle(0, count) }
}

/// Where parts `first..end`, two or more, are cut in halves.
const fn middle(first: usize, end: usize) -> usize {
    first + (end - first).div_ceil(2)
}

/// The distinct values of one part, numbered in the order in which they appeared.
#[derive(Debug, Default)]
struct Values {
    /// Length, bytes and padding to [`UNIT`] of each.
    bytes: Vec<u8>,
    /// Where each begins in `bytes`, in units.
    starts: Vec<u32>,
    table: Table,
}

/// Values begin at multiples of this, so that a `u32` reaches as far as memory does.
const UNIT: usize = 8;
const LENGTH_BYTES: usize = 2;

impl Values {
    fn get(&self, number: u32) -> &[u8] {
        let rest = &self.bytes[self.starts[number as usize] as usize * UNIT..];
        let length = u16::from_le_bytes([rest[0], rest[1]]);
        &rest[LENGTH_BYTES..][..usize::from(length)]
    }

    fn number(&mut self, value: &[u8], like: Option<u32>) -> u32 {
        if let Some(like) = like.filter(|&like| self.get(like) == value) {
            return like;
        }
        let (_, hash) = hash(value);
        match self.table.find(hash, |number| self.get(number) == value) {
            Ok(number) => number,
            Err(vacancy) => {
                let number = to_u32(self.starts.len());
                self.table.insert(vacancy, hash, number);
                self.starts.push(to_u32(self.bytes.len() / UNIT));
                let length =
                    u16::try_from(value.len()).expect("an encoding is 65535 bytes at most");
                self.bytes.extend_from_slice(&length.to_le_bytes());
                self.bytes.extend_from_slice(value);
                self.bytes.resize(self.bytes.len().next_multiple_of(UNIT), 0);
                number
            }
        }
    }

    fn bytes(&self) -> u64 {
        let count = self.starts.len() as u64;
        self.bytes.len() as u64 + count * 4 + Table::bytes(count)
    }
}

/// The distinct pairs of one inner node.
#[derive(Debug, Default)]
struct Pairs {
    pairs: Vec<[u32; 2]>,
    table: Table,
}

impl Pairs {
    fn number(&mut self, pair: [u32; 2]) -> u32 {
        let (_, hash) = hash(pair.map(u32::to_le_bytes).as_flattened());
        let pairs = &self.pairs;
        match self.table.find(hash, |number| pairs[number as usize] == pair) {
            Ok(number) => number,
            Err(vacancy) => {
                let number = to_u32(self.pairs.len());
                self.table.insert(vacancy, hash, number);
                self.pairs.push(pair);
                number
            }
        }
    }

    fn bytes(&self) -> u64 {
        let count = self.pairs.len() as u64;
        count * 8 + Table::bytes(count)
    }
}
