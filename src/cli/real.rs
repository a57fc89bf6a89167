//! Real memory beside the model: replays of judged variants.

use std::str::FromStr;

use driftheap::exec::{ExecError, ExecOptions, Executor, Replays, replay_variant};
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::Judgement;
use driftheap::report::real::{Real, RealTotals};

/// Sampled schedules of a variant, beside the shortest to each outcome and hazard.
const SAMPLE: usize = 20;

/// The seed of the sample: the same schedules in every run.
const SEED: u64 = 1;

/// `--replay`: which schedules are carried out on real memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replay {
    /// None.
    Off,
    /// All complete ones.
    All,
    /// The shortest to each outcome and hazard, and so many more.
    Sample(usize),
}

impl Default for Replay {
    fn default() -> Self {
        Self::Sample(SAMPLE)
    }
}

impl Replay {
    /// The schedules for a kernel, which is asked whatever real memory is.
    pub(crate) const fn schedules(self) -> Replays {
        match self {
            Self::Off => Replays::Sample(SAMPLE, SEED),
            Self::All => Replays::All,
            Self::Sample(count) => Replays::Sample(count, SEED),
        }
    }
}

impl FromStr for Replay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" | "none" => Ok(Self::Off),
            "all" => Ok(Self::All),
            number => number
                .parse()
                .map(Self::Sample)
                .map_err(|_| "it is `all`, `off` or a number of sampled schedules".to_owned()),
        }
    }
}

/// The executor, made when the first variant needs it, and what came of all variants.
#[derive(Debug)]
pub(crate) struct Reality {
    how: Replays,
    executor: Option<Executor>,
    /// Why there can't be one.
    unavailable: Option<String>,
    pub(crate) totals: RealTotals,
}

impl Reality {
    /// None when nothing is to be replayed.
    pub(crate) fn new(replay: Replay) -> Option<Self> {
        let how = match replay {
            Replay::Off => return None,
            Replay::All => Replays::All,
            Replay::Sample(count) => Replays::Sample(count, SEED),
        };
        let totals = RealTotals::default();
        Some(Self { how, executor: None, unavailable: None, totals })
    }

    /// Replay a judged variant, of a test that `word` names on the command line. An error of the executor ends this variant alone: the next one gets
    /// a new executor.
    pub(crate) fn replay(
        &mut self,
        name: &str,
        word: &str,
        scenario: &Scenario,
        judgement: &Judgement,
    ) -> Result<Real, ExecError> {
        let real = self.try_replay(word, scenario, judgement);
        match &real {
            Ok(real) => self.totals.count(name, real),
            Err(_) => self.executor = None,
        }
        real
    }

    fn try_replay(
        &mut self,
        word: &str,
        scenario: &Scenario,
        judgement: &Judgement,
    ) -> Result<Real, ExecError> {
        if self.executor.is_none() && self.unavailable.is_none() {
            let made = std::env::current_exe()
                .map_err(|error| format!("this program can't find itself: {error}"))
                .and_then(|program| {
                    Executor::new(ExecOptions::new(program)).map_err(|error| error.to_string())
                });
            match made {
                Ok(executor) => self.executor = Some(executor),
                Err(why) => self.unavailable = Some(why),
            }
        }
        let Some(executor) = &mut self.executor else {
            return Ok(Real { skipped: self.unavailable.clone(), ..Real::default() });
        };
        let replay = replay_variant(executor, scenario, judgement, self.how)?;
        let difference = replay.first_disagreement.map(|(schedule, found)| {
            format!(
                "step {}, {}: the model says {}, real memory says {}; to repeat it:\n    {}",
                found.event + 1,
                found.what,
                found.model,
                found.real,
                super::one::again(word, "", &scenario.variant, &schedule)
            )
        });
        Ok(Real {
            replayed: replay.replayed,
            agreed: replay.agreed,
            compared: replay.compared,
            skipped: replay.skipped,
            difference,
            corrupted: replay.corrupted.len(),
        })
    }
}
