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

use super::hash::{hash, picks};
use super::ids::to_u32;
use super::mail::{Key, Source};
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
    /// state of the root `like`, which was added, is not looked up again: it `is_near` where that is the
    /// one it was reached from, which it then tells.
    ///
    /// # Panics
    /// When the state has another number of parts than those before: a mistake of the machine.
    pub(super) fn add(&mut self, key: Key<'_>, like: Option<Root>, is_near: bool) -> Root {
        let count = key.parts();
        if self.values.is_empty() {
            self.values.resize_with(count, Values::default);
            self.pairs.resize_with(count, Pairs::default);
        }
        assert_eq!(self.values.len(), count, "Machine::encode wrote another number of parts");
        let [left, right] = like.map_or([None; 2], |root| root.map(Some));
        if count == 1 {
            return [self.add_half(key, (0, 1), left, is_near), 0];
        }
        let middle = last(count);
        [
            self.add_half(key, (0, middle), left, is_near),
            self.add_half(key, (middle, count), right, is_near),
        ]
    }

    fn add_half(
        &mut self,
        key: Key<'_>,
        (first, end): (usize, usize),
        like: Option<u32>,
        is_near: bool,
    ) -> u32 {
        if let Some(like) = like.filter(|_| key.is_same(first, end)) {
            return like;
        }
        if end - first == 1 {
            let (value, hash) = key.part(first);
            return self.values[first].number(value, hash, like.filter(|_| !is_near));
        }
        let middle = middle(first, end);
        let old = like.map(|number| self.pairs[middle].pairs[number as usize]);
        let [left, right] = old.map_or([None; 2], |pair| pair.map(Some));
        let left = self.add_half(key, (first, middle), left, is_near);
        let right = self.add_half(key, (middle, end), right, is_near);
        match like {
            Some(number) if old == Some([left, right]) => number,
            _ => self.pairs[middle].number([left, right]),
        }
    }

    /// Whether a state that was added is this one, which was reached from the state of the root `like`.
    pub(super) fn is_same(&self, root: Root, key: Key<'_>, like: Option<Root>) -> bool {
        let count = key.parts();
        if count != self.values.len() {
            return false;
        }
        let [left, right] = like.map_or([None; 2], |root| root.map(Some));
        if count == 1 {
            return self.is_half(root[0], key, (0, 1), left);
        }
        // What differs most often comes last in an encoding: frames and program counters.
        let middle = last(count);
        self.is_half(root[1], key, (middle, count), right)
            && self.is_half(root[0], key, (0, middle), left)
    }

    fn is_half(
        &self,
        number: u32,
        key: Key<'_>,
        (first, end): (usize, usize),
        like: Option<u32>,
    ) -> bool {
        if let Some(like) = like.filter(|_| key.is_same(first, end)) {
            return number == like;
        }
        if end - first == 1 {
            return self.values[first].get(number) == key.part(first).0;
        }
        let middle = middle(first, end);
        let pairs = &self.pairs[middle].pairs;
        let [left, right] = pairs[number as usize];
        let [like_left, like_right] = like.map_or([None; 2], |like| pairs[like as usize].map(Some));
        self.is_half(right, key, (middle, end), like_right)
            && self.is_half(left, key, (first, middle), like_left)
    }

    /// How many parts a state has.
    pub(super) const fn count(&self) -> usize {
        self.values.len()
    }

    /// Reads a state that was added: what it has in common with the one that was read before stays.
    pub(super) fn read(&self, root: Root, out: &mut Source) {
        match self.count() {
            0 => {}
            1 => self.read_half(root[0], 0, 1, out),
            count => {
                let middle = last(count);
                self.read_half(root[0], 0, middle, out);
                self.read_half(root[1], middle, count, out);
            }
        }
    }

    fn read_half(&self, number: u32, first: usize, end: usize, out: &mut Source) {
        if end - first == 1 {
            out.take(first, number, || self.values[first].get(number));
            return;
        }
        let middle = middle(first, end);
        if out.enters(middle, number) {
            let [left, right] = self.pairs[middle].pairs[number as usize];
            self.read_half(left, first, middle, out);
            self.read_half(right, middle, end, out);
        }
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

    fn number(&mut self, value: &[u8], hash: u32, like: Option<u32>) -> u32 {
        if let Some(like) = like.filter(|&like| self.get(like) == value) {
            return like;
        }
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
        let (_, hash) = picks(hash(0, pair.map(u32::to_le_bytes).as_flattened()));
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
