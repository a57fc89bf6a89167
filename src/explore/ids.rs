//! What states are known by.

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

/// A count that the limits of a search keep within 32 bits.
pub(super) fn to_u32(count: usize) -> u32 {
    u32::try_from(count).expect("the limits of a search keep its counts within 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::store::STATES_MAX;

    #[test]
    fn ids_pack_shard_and_number() {
        for bits in 0..=4 {
            let (shard, local) = ((1u32 << bits) - 1, STATES_MAX - 1);
            let id = StateId::new(shard, local, bits);
            assert_eq!((id.shard(bits), id.local(bits)), (shard, local));
        }
    }
}
