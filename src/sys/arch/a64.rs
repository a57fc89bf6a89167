//! The instructions of arm64 that a stack walk looks for. Numbers only, so that every machine tests them.

use super::Branches;

/// A branch's target: 26 bits, of words, from the instruction on.
fn target(at: u64, word: u32) -> u64 {
    let words = i64::from((word << 6).cast_signed() >> 6);
    at.wrapping_add_signed(4 * words)
}

/// What a call instruction calls: `bl`, at `at`.
fn call(at: u64, word: u32) -> Option<u64> {
    (word >> 26 == 0b10_0101).then(|| target(at, word))
}

/// Where a jump instruction goes: `b`, at `at`.
fn jump(at: u64, word: u32) -> Option<u64> {
    (word >> 26 == 0b00_0101).then(|| target(at, word))
}

/// Where the address is that a stub of the linkage table jumps to: `adrp x16, PAGE; ldr x17, [x16, LOW]`
/// behind a `bti c` or not.
fn slot(at: u64, words: &[u32]) -> Option<u64> {
    const BTI_C: u32 = 0xd503_245f;
    let (at, words) = match words {
        [BTI_C, rest @ ..] => (at + 4, rest),
        all => (at, all),
    };
    let &[adrp, ldr, ..] = words else { return None };
    if adrp & 0x9f00_001f != 0x9000_0010 || ldr & 0xffc0_03ff != 0xf940_0211 {
        return None;
    }
    let high = (adrp >> 5 & 0x7_ffff) << 2 | adrp >> 29 & 3;
    let pages = i64::from((high << 11).cast_signed() >> 11);
    let low = u64::from(ldr >> 10 & 0xfff) * 8;
    Some((at & !0xfff).wrapping_add_signed(pages << 12).wrapping_add(low))
}

/// How one function's code names another.
pub const BRANCHES: Branches = Branches { call, jump, slot };

/// Whether the instruction before an address is a call: `bl`, `blr`, or `blraa` and its kin.
#[must_use]
pub fn follows_a_call(before: &[u8; super::CALL_BYTES_MAX]) -> bool {
    let [_, _, _, word @ ..] = *before;
    let instruction = u32::from_le_bytes(word);
    instruction >> 26 == 0b10_0101 || instruction & 0xfeff_f000 == 0xd63f_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u64 = 0x40_1000;

    #[test]
    fn branches_name_their_targets() {
        // As an assembler writes `bl .+8`, `bl .-4` and `b .-4`.
        assert_eq!(call(HERE, 0x9400_0002), Some(HERE + 8));
        assert_eq!(call(HERE, 0x97ff_ffff), Some(HERE - 4));
        assert_eq!(jump(HERE, 0x17ff_ffff), Some(HERE - 4));
        // A jump is not a call; `b.eq .+8`, `blr x8` and `svc #0` name no target.
        assert_eq!(call(HERE, 0x1400_0002), None);
        for word in [0x5400_0040, 0xd63f_0100, 0xd400_0001] {
            assert_eq!((call(HERE, word), jump(HERE, word)), (None, None), "{word:#x}");
        }
    }

    #[test]
    fn a_stub_names_its_slot_with_a_landing_pad_or_without() {
        // `bti c; adrp x16, 0x41f000; ldr x17, [x16, #0xf98]; add x16, x16, #0xf98; br x17`
        let stub = [0xd503_245f, 0xf000_00f0, 0xf947_ce11, 0x913e_6210, 0xd61f_0220];
        assert_eq!(slot(HERE, &stub), Some(0x42_0f98));
        assert_eq!(slot(HERE, &stub[1..]), Some(0x42_0f98));
        // `adrp x16` of the page before.
        assert_eq!(slot(HERE, &[0xf0ff_fff0, 0xf947_ce11]), Some(0x40_0f98));
        // Another register, one word alone, and code.
        assert_eq!(slot(HERE, &[0xf000_00f1, 0xf947_ce11]), None);
        assert_eq!(slot(HERE, &stub[1..2]), None);
        assert_eq!(slot(HERE, &[0xd65f_03c0, 0xf947_ce11]), None);
    }

    #[test]
    fn calls_by_a_register_are_calls_signed_or_not() {
        let follows = |word: u32| {
            let [a, b, c, d] = word.to_le_bytes();
            follows_a_call(&[0, 0, 0, a, b, c, d])
        };
        // `bl`, `blr x8`, `blraa x8, x9`, `blraaz x8`, `blrabz x8`
        for word in [0x9400_0002, 0xd63f_0100, 0xd73f_0909, 0xd63f_091f, 0xd63f_0d1f] {
            assert!(follows(word), "{word:#x}");
        }
        // `b`, `br x8`, `ret`, `nop`
        for word in [0x1400_0002, 0xd61f_0100, 0xd65f_03c0, 0xd503_201f] {
            assert!(!follows(word), "{word:#x}");
        }
    }
}
