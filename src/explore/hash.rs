//! Hashes of states and of their parts.

/// Hashes bytes by folded multiplication, as wyhash and foldhash do, in two lanes; other `salt`, other
/// hash.
#[inline]
pub(super) fn hash(salt: usize, bytes: &[u8]) -> u64 {
    const K: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03, 0x8cb9_2ba7_2f3d_8dd7];
    let fold = |a: u64, b: u64| {
        let [low, high] = halves(u128::from(a).wrapping_mul(u128::from(b)));
        low ^ high
    };
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let (words, rest) = bytes.as_chunks::<8>();
    let (quads, tail) = words.as_chunks::<4>();
    let (mut even, mut odd) = (bytes.len() as u64 ^ K[2], K[0] ^ ((salt as u64) << 32));
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
    fold(even ^ K[0], odd ^ K[1])
}

/// The part of a hash that picks the shard, and the part that picks a place in a table.
#[inline]
pub(super) fn picks(hash: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// The low and the high half.
fn halves(wide: u128) -> [u64; 2] {
    let bytes = wide.to_le_bytes();
    let (halves, _) = bytes.as_chunks::<8>();
    [u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_reaches_the_hash() {
        for length in [24, 29] {
            let base = vec![0u8; length];
            let reference = picks(hash(3, &base));
            assert_ne!(reference, picks(hash(2, &base)), "the salt");
            for (byte, bit) in (0..length).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
                let mut changed = base.clone();
                changed[byte] ^= 1 << bit;
                let other = picks(hash(3, &changed));
                assert_ne!(reference.1, other.1, "byte {byte}, bit {bit}");
                assert!((reference.0 ^ other.0).count_ones() > 3, "byte {byte}, bit {bit}");
            }
            assert_ne!(reference, picks(hash(3, &base[1..])));
        }
    }
}
