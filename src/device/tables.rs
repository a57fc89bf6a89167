//! What the device's tables have in common.

use std::collections::BTreeMap;

/// Takes the entries out that `is_one` says, in the order of their keys: `BTreeMap::extract_if`, which
/// asks for Rust 1.91.
pub(crate) fn take_where<K: Ord + Copy, V>(
    table: &mut BTreeMap<K, V>,
    is_one: impl Fn(&K, &V) -> bool,
) -> Vec<(K, V)> {
    let keys: Vec<K> =
        table.iter().filter(|(key, value)| is_one(key, value)).map(|(&key, _)| key).collect();
    keys.into_iter().filter_map(|key| table.remove_entry(&key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_taken_and_the_rest_stays() {
        let mut table = BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'a'), (4, 'c')]);
        let taken = take_where(&mut table, |&key, &value| value == 'a' || key == 4);
        assert_eq!(taken, [(1, 'a'), (3, 'a'), (4, 'c')]);
        assert_eq!(table, BTreeMap::from([(2, 'b')]));
        assert_eq!(take_where(&mut table, |_, _| false), []);
    }
}
