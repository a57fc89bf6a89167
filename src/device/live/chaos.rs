//! `--chaos SEED[,rate=N][,kinds=KIND[+KIND]...]`: what is done to which buffer at what time.
//!
//! The sequence of choices is a function of the seed; which buffers there are when a choice is made
//! is the program's affair, so a run is as reproducible as the program is.

use std::str::FromStr;

use crate::model::{Operation, Placement};
use crate::random::SplitMix64;

/// What can be asked of a buffer that moves: `--chaos` and `driftheap ctl` spell it by
/// [`Operation::word`].
pub const OPERATIONS: [Operation; 4] = [
    Operation::Move(Placement::Vram),
    Operation::Move(Placement::System),
    Operation::Purge,
    Operation::Revoke,
];

/// What `--chaos` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChaosConfig {
    /// Seed of all choices.
    pub seed: u64,
    /// Operations a second.
    pub rate: u32,
    /// What may be done.
    pub operations: Vec<Operation>,
}

/// Why `--chaos` could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChaosError {
    /// The seed.
    #[error("`{0}` is not a seed: write a number, as in --chaos 1")]
    Seed(String),
    /// Not `key=value`, or an unknown key.
    #[error(
        "`{0}` is not understood: after the seed come rate=N and kinds=move+evict+purge+revoke"
    )]
    Option(String),
    /// The rate.
    #[error("`{0}` is not a rate: 1 to {RATE_MAX} a second")]
    Rate(String),
    /// A kind.
    #[error("`{0}` is not a kind; there are: move, evict, purge, revoke")]
    Kind(String),
}

/// Highest rate.
pub const RATE_MAX: u32 = 100_000;

impl FromStr for ChaosConfig {
    type Err = ChaosError;

    fn from_str(text: &str) -> Result<Self, ChaosError> {
        let mut parts = text.split(',');
        let seed = parts.next().unwrap_or_default();
        let seed = seed.parse().map_err(|_| ChaosError::Seed(seed.to_owned()))?;
        let mut config = Self { seed, rate: 1000, operations: OPERATIONS[..2].to_vec() };
        for part in parts {
            match part.split_once('=') {
                Some(("rate", rate)) => {
                    let rate = rate.parse().ok().filter(|rate| (1..=RATE_MAX).contains(rate));
                    config.rate = rate.ok_or_else(|| ChaosError::Rate(part.to_owned()))?;
                }
                Some(("kinds", kinds)) => {
                    let operation = |word: &str| {
                        let found = OPERATIONS.into_iter().find(|known| known.word() == word);
                        found.ok_or_else(|| ChaosError::Kind(word.to_owned()))
                    };
                    config.operations =
                        kinds.split('+').map(operation).collect::<Result<_, _>>()?;
                }
                _ => return Err(ChaosError::Option(part.to_owned())),
            }
        }
        Ok(config)
    }
}

/// One choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What.
    pub operation: Operation,
    /// Which buffer, counted from the oldest.
    pub buffer: usize,
    /// First page.
    pub first: usize,
    /// How many pages.
    pub pages: usize,
}

/// The choices of one seed; see the [module](self).
#[derive(Clone, Debug)]
pub struct Chaos {
    config: ChaosConfig,
    random: SplitMix64,
    /// When the next choice is due.
    next_ns: u64,
}

/// Longest run of pages that is moved at once; one in sixteen moves is of the whole buffer, up to
/// [`WHOLE_PAGES_MAX`].
const RUN_PAGES_MAX: usize = 8;
const WHOLE_PAGES_MAX: usize = 512;

impl Chaos {
    /// The choices of a seed, the first of them due at `now_ns`.
    pub fn new(config: ChaosConfig, now_ns: u64) -> Self {
        Self { random: SplitMix64::new(config.seed), config, next_ns: now_ns }
    }

    /// When the next choice is due.
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Whether a choice is due. One that could not be made in time is not made up for, but for a
    /// millisecond's worth.
    pub fn is_due(&mut self, now_ns: u64) -> bool {
        if now_ns < self.next_ns {
            return false;
        }
        let interval = 1_000_000_000 / u64::from(self.config.rate);
        self.next_ns = (self.next_ns + interval).max(now_ns.saturating_sub(1_000_000));
        true
    }

    /// The next choice among buffers of these sizes; `None` if there are none.
    pub fn choose(&mut self, sizes: &[usize]) -> Option<Choice> {
        if sizes.is_empty() {
            return None;
        }
        let operation = self.random.index(self.config.operations.len());
        let operation = *self.config.operations.get(operation)?;
        let buffer = self.random.index(sizes.len());
        let size = sizes[buffer];
        let run = self.random.index(RUN_PAGES_MAX) + 1;
        let pages =
            if self.random.index(16) == 0 { size.min(WHOLE_PAGES_MAX) } else { run.min(size) };
        let first = self.random.index(size - pages + 1);
        Some(Choice { operation, buffer, first, pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let parse = ChaosConfig::from_str;
        let both = OPERATIONS[..2].to_vec();
        assert_eq!(parse("1"), Ok(ChaosConfig { seed: 1, rate: 1000, operations: both.clone() }));
        assert_eq!(parse("7,rate=50"), Ok(ChaosConfig { seed: 7, rate: 50, operations: both }));
        let some = vec![Operation::Revoke, Operation::Move(Placement::Vram)];
        assert_eq!(
            parse("7,kinds=revoke+move,rate=9"),
            Ok(ChaosConfig { seed: 7, rate: 9, operations: some })
        );
        for (text, error) in [
            ("", ChaosError::Seed(String::new())),
            ("x", ChaosError::Seed("x".into())),
            ("1,fast", ChaosError::Option("fast".into())),
            ("1,rate=0", ChaosError::Rate("rate=0".into())),
            ("1,rate=100001", ChaosError::Rate("rate=100001".into())),
            ("1,kinds=move+drop", ChaosError::Kind("drop".into())),
        ] {
            assert_eq!(parse(text), Err(error));
        }
    }

    #[test]
    fn a_seed_is_a_sequence_within_bounds() {
        let config: ChaosConfig = "5,kinds=move+evict+purge+revoke".parse().unwrap();
        let sizes = [1, 3, 64, 10_000];
        let run = |config: &ChaosConfig| {
            let mut chaos = Chaos::new(config.clone(), 0);
            (0..2000).map(|_| chaos.choose(&sizes).unwrap()).collect::<Vec<_>>()
        };
        let choices = run(&config);
        assert_eq!(choices, run(&config));
        assert_ne!(choices, run(&"6".parse().unwrap()));
        for choice in &choices {
            assert!(choice.pages > 0 && choice.first + choice.pages <= sizes[choice.buffer]);
        }
        for operation in OPERATIONS {
            assert!(choices.iter().any(|choice| choice.operation == operation), "{operation:?}");
        }
        assert_eq!(Chaos::new(config, 0).choose(&[]), None);
    }

    #[test]
    fn the_rate_is_kept_and_not_made_up_for() {
        let mut chaos = Chaos::new("1,rate=1000".parse().unwrap(), 1_000_000_000);
        assert!(!chaos.is_due(999_999_999));
        assert!(chaos.is_due(1_000_000_000));
        assert!(!chaos.is_due(1_000_999_999));
        let due = (0..100).filter(|_| chaos.is_due(5_000_000_000)).count();
        assert!(due <= 3, "{due}");
    }
}
