//! The tables of a [`super::State`], which in debug builds note what is looked at and changed.
//!
//! The notes are what [`super::objects()`] is held against: whatever a step notes it must have
//! declared. A release build has no notes, and a table is a plain vector there.
//!
//! The model itself must go through `table[index]` and `iter`, and name what it changes alone by
//! `&mut table[index]`; [`Table::unnoted`] is for what another object stands for, which the caller
//! then says ([`Notes::read`], [`Notes::write`]).

use std::hash::{Hash, Hasher};
use std::ops::{Index, IndexMut, Range};

/// Which rows were looked at and which were changed, a bit each. Nothing in a release build.
#[derive(Debug, Default)]
pub struct Notes {
    #[cfg(debug_assertions)]
    reads: [std::sync::atomic::AtomicU64; 4],
    #[cfg(debug_assertions)]
    writes: [std::sync::atomic::AtomicU64; 4],
}

#[cfg(debug_assertions)]
mod noting {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use super::Notes;

    fn set(bits: &[AtomicU64; 4], index: usize) {
        // A row that does not exist is about to panic.
        if let Some(word) = bits.get(index / 64) {
            word.store(word.load(Relaxed) | 1 << (index % 64), Relaxed);
        }
    }

    fn rows(bits: &[AtomicU64; 4]) -> impl Iterator<Item = usize> {
        (0..256).filter(|index| bits[index / 64].load(Relaxed) & 1 << (index % 64) != 0)
    }

    impl Notes {
        /// Row `index` was looked at.
        pub fn read(&self, index: usize) {
            set(&self.reads, index);
        }

        /// Row `index` was changed.
        pub fn write(&self, index: usize) {
            set(&self.writes, index);
        }

        /// Forget all notes.
        pub fn clear(&self) {
            for word in self.reads.iter().chain(&self.writes) {
                word.store(0, Relaxed);
            }
        }

        /// The rows that were looked at.
        pub fn reads(&self) -> impl Iterator<Item = usize> {
            rows(&self.reads)
        }

        /// The rows that were changed.
        pub fn writes(&self) -> impl Iterator<Item = usize> {
            rows(&self.writes)
        }
    }
}

#[cfg(not(debug_assertions))]
#[allow(clippy::unused_self, reason = "the same calls as in a debug build")]
impl Notes {
    /// Row `index` was looked at.
    #[inline]
    pub const fn read(&self, _index: usize) {}

    /// Row `index` was changed.
    #[inline]
    pub const fn write(&self, _index: usize) {}
}

/// Notes belong to one value: a copy begins without any.
impl Clone for Notes {
    fn clone(&self) -> Self {
        Self::default()
    }

    fn clone_from(&mut self, _other: &Self) {}
}

/// Notes are not part of a state.
impl PartialEq for Notes {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Notes {}

impl Hash for Notes {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

/// Tables have at most so many rows: a bit each.
const _: () = assert!(crate::units::MAX_OBJECTS <= 256);

/// The objects of one kind. Its length never changes while a scenario runs.
#[derive(Debug)]
pub struct Table<T> {
    rows: Vec<T>,
    /// Whether somebody may have changed a row since [`Self::restore`].
    is_changed: bool,
    pub(super) notes: Notes,
}

/// Who did what to it is not part of it.
impl<T: PartialEq> PartialEq for Table<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows
    }
}

impl<T: Eq> Eq for Table<T> {}

impl<T: Hash> Hash for Table<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rows.hash(state);
    }
}

impl<T> Table<T> {
    /// How many there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row at `index`, if there is one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        let row = self.rows.get(index)?;
        self.notes.read(index);
        Some(row)
    }

    /// All rows, each noted as read when it is handed out.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { rows: self.rows.iter().enumerate(), notes: &self.notes }
    }

    /// All rows, each noted as changed.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        for index in 0..self.rows.len() {
            self.notes.write(index);
        }
        self.is_changed = true;
        self.rows.iter_mut()
    }

    /// All rows, of which nothing is noted.
    #[inline]
    #[must_use]
    pub fn unnoted(&self) -> &[T] {
        &self.rows
    }

    /// All rows, to be changed without a note.
    #[inline]
    pub(super) fn unnoted_mut(&mut self) -> &mut [T] {
        self.is_changed = true;
        &mut self.rows
    }

    /// Whether a row may be another than the last [`Self::restore`] left there.
    #[inline]
    pub(super) const fn is_changed(&self) -> bool {
        self.is_changed
    }
}

impl<T: Copy> Table<T> {
    /// Make it what `base` is, from which it was copied or restored before either was changed.
    #[inline]
    pub(super) fn restore(&mut self, base: &mut Self) {
        if self.is_changed || base.is_changed {
            self.rows.copy_from_slice(&base.rows);
            (self.is_changed, base.is_changed) = (false, false);
        }
    }
}

impl<T: PartialEq> Table<T> {
    /// Put `value` at `index`, without a note.
    #[inline]
    pub(super) fn put(&mut self, index: usize, value: T) {
        if self.rows[index] != value {
            self.rows[index] = value;
            self.is_changed = true;
        }
    }

    /// Change the row at `index`, without a note.
    #[inline]
    pub(super) fn alter(&mut self, index: usize, change: impl FnOnce(&mut T))
    where
        T: Copy,
    {
        let mut row = self.rows[index];
        change(&mut row);
        self.put(index, row);
    }

    /// Put `value` everywhere, without a note.
    pub(super) fn put_all(&mut self, value: T)
    where
        T: Copy,
    {
        for index in 0..self.rows.len() {
            self.put(index, value);
        }
    }
}

impl<T: Clone> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), is_changed: self.is_changed, notes: Notes::default() }
    }

    fn clone_from(&mut self, other: &Self) {
        if self.rows.len() == other.rows.len() {
            self.rows.clone_from_slice(&other.rows);
        } else {
            self.rows.clone_from(&other.rows);
        }
        self.is_changed = other.is_changed;
    }
}

impl<T: PartialEq> Table<T> {
    /// Whether a row is `value`.
    #[must_use]
    pub fn contains(&self, value: &T) -> bool {
        self.rows.contains(value)
    }
}

impl<T> From<Vec<T>> for Table<T> {
    fn from(rows: Vec<T>) -> Self {
        Self { rows, is_changed: true, notes: Notes::default() }
    }
}

impl<T> Index<usize> for Table<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        self.notes.read(index);
        &self.rows[index]
    }
}

impl<T> IndexMut<usize> for Table<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        self.notes.write(index);
        self.is_changed = true;
        &mut self.rows[index]
    }
}

impl<T> Index<Range<usize>> for Table<T> {
    type Output = [T];

    fn index(&self, range: Range<usize>) -> &[T] {
        for index in range.clone() {
            self.notes.read(index);
        }
        &self.rows[range]
    }
}

/// The rows of a [`Table`], each noted as read.
#[derive(Debug)]
pub struct Iter<'a, T> {
    rows: std::iter::Enumerate<std::slice::Iter<'a, T>>,
    notes: &'a Notes,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        let (index, row) = self.rows.next()?;
        self.notes.read(index);
        Some(row)
    }
}

impl<'a, T> IntoIterator for &'a Table<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut Table<T> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;

    fn into_iter(self) -> std::slice::IterMut<'a, T> {
        self.iter_mut()
    }
}
