//! `--chaos SEED[,rate=N][,kinds=KIND[+KIND]...]`: what is done to which buffer at what time.
//!
//! The sequence of choices is a function of the seed; which buffers there are when a choice is made
//! is the program's affair, so a run is as reproducible as the program is.

use std::str::FromStr;

use crate::device::{Life, Placement};
use crate::model::{Operation, Placement as To};

/// What an exporter does to a buffer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// New memory in vram.
    Move,
    /// New memory in system.
    Evict,
    /// The memory goes, the buffer can still be mapped: access is SIGBUS.
    Purge,
    /// The memory goes and the buffer can't be mapped any more (ENODEV): access is SIGBUS.
    Revoke,
}

impl Deed {
    /// Where the new memory is, for the deeds that give some.
    pub fn placement(self) -> Option<Placement> {
        match self {
            Self::Move => Some(Placement::Vram),
            Self::Evict => Some(Placement::System),
            Self::Purge | Self::Revoke => None,
        }
    }

    /// What is left of the buffer, for the deeds that end it.
    pub fn ends(self) -> Option<Life> {
        match self {
            Self::Move | Self::Evict => None,
            Self::Purge => Some(Life::Purged),
            Self::Revoke => Some(Life::Revoked),
        }
    }

    /// The job by the exporter's rules.
    #[must_use]
    pub fn job(self) -> Operation {
        match self {
            Self::Move => Operation::Move(To::Vram),
            Self::Evict => Operation::Move(To::System),
            Self::Purge => Operation::Purge,
            Self::Revoke => Operation::Revoke,
        }
    }

    /// Every deed, as it is spelled.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("move", Self::Move),
        ("evict", Self::Evict),
        ("purge", Self::Purge),
        ("revoke", Self::Revoke),
    ];

    /// Its name.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, deed)| *deed == self).map_or("?", |(word, _)| word)
    }
}

/// What `--chaos` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChaosConfig {
    /// Seed of all choices.
    pub seed: u64,
    /// Deeds a second.
    pub rate: u32,
    /// What may be done.
    pub deeds: Vec<Deed>,
}

/// Why `--chaos` could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChaosError {
    /// The seed.
    #[error("`{0}` is no seed: write a number, as in --chaos 1")]
    Seed(String),
    /// Not `key=value`, or an unknown key.
    #[error(
        "`{0}` is not understood: after the seed come rate=N and kinds=move+evict+purge+revoke"
    )]
    Option(String),
    /// The rate.
    #[error("`{0}` is no rate: 1 to {RATE_MAX} a second")]
    Rate(String),
    /// A kind.
    #[error("`{0}` is no kind; there are: move, evict, purge, revoke")]
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
        let mut config = Self { seed, rate: 1000, deeds: vec![Deed::Move, Deed::Evict] };
        for part in parts {
            match part.split_once('=') {
                Some(("rate", rate)) => {
                    let rate = rate.parse().ok().filter(|rate| (1..=RATE_MAX).contains(rate));
                    config.rate = rate.ok_or_else(|| ChaosError::Rate(part.to_owned()))?;
                }
                Some(("kinds", kinds)) => {
                    let deed = |word: &str| {
                        let found = Deed::WORDS.iter().find(|(known, _)| *known == word);
                        found
                            .map(|(_, deed)| *deed)
                            .ok_or_else(|| ChaosError::Kind(word.to_owned()))
                    };
                    config.deeds = kinds.split('+').map(deed).collect::<Result<_, _>>()?;
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
    pub deed: Deed,
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
    state: u64,
    /// When the next choice is due.
    next_ns: u64,
}

/// Longest run of pages that is moved at once; one in sixteen moves is of the whole buffer, up to
/// [`WHOLE_PAGES_MAX`].
const RUN_PAGES_MAX: u64 = 8;
const WHOLE_PAGES_MAX: usize = 512;

impl Chaos {
    /// The choices of a seed, the first of them due at `now_ns`.
    pub fn new(config: ChaosConfig, now_ns: u64) -> Self {
        Self { state: config.seed, config, next_ns: now_ns }
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.random() % bound).unwrap_or(0)
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
        let deed = self.below(self.config.deeds.len());
        let deed = *self.config.deeds.get(deed)?;
        let buffer = self.below(sizes.len());
        let size = sizes[buffer];
        let run = usize::try_from(self.random() % RUN_PAGES_MAX + 1).unwrap_or(1);
        let pages = if self.random().is_multiple_of(16) {
            size.min(WHOLE_PAGES_MAX)
        } else {
            run.min(size)
        };
        let first = self.below(size - pages + 1);
        Some(Choice { deed, buffer, first, pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let parse = ChaosConfig::from_str;
        let both = vec![Deed::Move, Deed::Evict];
        assert_eq!(parse("1"), Ok(ChaosConfig { seed: 1, rate: 1000, deeds: both.clone() }));
        assert_eq!(parse("7,rate=50"), Ok(ChaosConfig { seed: 7, rate: 50, deeds: both }));
        let some = vec![Deed::Revoke, Deed::Move];
        assert_eq!(
            parse("7,kinds=revoke+move,rate=9"),
            Ok(ChaosConfig { seed: 7, rate: 9, deeds: some })
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
        for (_, deed) in Deed::WORDS {
            assert!(choices.iter().any(|choice| choice.deed == deed), "{deed:?}");
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
