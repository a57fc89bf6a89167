//! The hash table of the visited states, and of their parts: 32 bits of hash to a number.
//!
//! Open addressing with linear probing over 8-byte slots, so that a look-up usually reads one cache
//! line, and one that fails reads nothing else. The slot comes from the *top* bits of the hash:
//! slots are nearly sorted by hash, and a table grows in one sequential sweep.

/// Hash in the upper half, number + 1 in the lower; 0 is vacant.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<u64>,
    /// The number of slots as a power of two.
    bits: u32,
    occupied: usize,
}

/// Slots of an empty table, as a power of two.
const BITS_MIN: u32 = 7;

/// Where a state that was not found belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vacancy(usize);

impl Default for Table {
    fn default() -> Self {
        Self { slots: vec![0; 1 << BITS_MIN], bits: BITS_MIN, occupied: 0 }
    }
}

impl Table {
    /// The number under `hash` of which `is_same` holds, or where to put it.
    #[inline]
    pub(super) fn find(
        &self,
        hash: u32,
        mut is_same: impl FnMut(u32) -> bool,
    ) -> Result<u32, Vacancy> {
        let mask = self.slots.len() - 1;
        let mut place = self.home(hash);
        loop {
            let (slot_hash, number) = split(self.slots[place]);
            match number.checked_sub(1) {
                None => return Err(Vacancy(place)),
                Some(number) if slot_hash == hash && is_same(number) => return Ok(number),
                Some(_) => place = (place + 1) & mask,
            }
        }
    }

    /// Puts a number where it was not found.
    #[inline]
    pub(super) fn insert(&mut self, Vacancy(place): Vacancy, hash: u32, number: u32) {
        assert!(self.slots[place] == 0, "a vacancy is used once, before the table changes");
        self.slots[place] = u64::from(hash) << 32 | (u64::from(number) + 1);
        self.occupied += 1;
        if self.occupied * 8 > self.slots.len() * 5 {
            self.grow();
        }
    }

    /// The number in the first slot that `hash` leads to, or 0: likely what will be compared.
    #[inline]
    pub(super) fn likely(&self, hash: u32) -> u32 {
        let (slot_hash, number) = split(self.slots[self.home(hash)]);
        if slot_hash == hash { number.saturating_sub(1) } else { 0 }
    }

    /// Bytes of a table that holds so many states.
    pub(super) fn bytes(states: u64) -> u64 {
        (states * 8 / 5 + 1).next_power_of_two() * 8
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        (hash >> (u32::BITS - self.bits)) as usize
    }

    fn grow(&mut self) {
        self.bits += 1;
        let old = std::mem::replace(&mut self.slots, vec![0; 1 << self.bits]);
        let mask = self.slots.len() - 1;
        for slot in old.into_iter().filter(|&slot| slot != 0) {
            let mut place = self.home(split(slot).0);
            while self.slots[place] != 0 {
                place = (place + 1) & mask;
            }
            self.slots[place] = slot;
        }
    }
}

/// Hash, and number + 1.
#[inline]
fn split(slot: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = slot.to_le_bytes();
    (u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_through_growth_and_collisions() {
        let mut table = Table::default();
        let hash =
            |n: u32| (n / 3).wrapping_mul(0x9e37_79b9) | (u32::from(n.is_multiple_of(5)) << 31);
        for n in 0..5000 {
            let vacancy = table.find(hash(n), |number| number == n).expect_err("not yet in");
            table.insert(vacancy, hash(n), n);
        }
        for n in 0..5000 {
            assert_eq!(table.find(hash(n), |number| number == n).ok(), Some(n));
        }
        assert!(table.slots.len() as u64 * 8 <= Table::bytes(5000));
    }
}
