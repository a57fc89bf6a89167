//! `hunt --kernel`: the processes of each variant run free in one boot of a guest, and what was seen is
//! looked up among the model's outcomes here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use driftheap::exec::{
    Explained, Explainer, FreeRun, Histogram, HuntOptions, Skip, Tally, WrongRule, free_supports,
    with_rules_of_guest,
};
use driftheap::model::HazardKind;
use driftheap::question::scenario::{Outcome, Scenario};
use driftheap::question::verdict::{Judgement, Search, judge};
use driftheap::report::full_name;
use driftheap::report::kernel::KernelDifference;

use super::super::input::Loaded;
use super::super::one;
use super::super::vm::Scripts;
use super::wire::{RaceJob, Said};
use super::{Guest, NoGuest, Question, Version, console, shorten};

/// A test of the comparison: the name of a wrong rule of the model.
const WRONG_RULE: &str = "DRIFTHEAP_LAB_WRONG_RULE";
/// What a boot takes besides the races.
const BOOT_SECONDS_MAX: u64 = 120;

/// A variant that is to be raced.
pub(crate) struct Racer<'a> {
    pub(crate) loaded: &'a Loaded,
    pub(crate) scenario: &'a Scenario,
    pub(crate) judgement: Judgement,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Race {
    /// It was not raced, and why.
    Skipped(String),
    /// It was, in a kernel of this release.
    Raced(Box<Raced>),
}

/// What was seen of a variant.
#[derive(Debug)]
pub(crate) struct Raced {
    pub(crate) release: String,
    pub(crate) histogram: Histogram,
    /// Outcomes of the model.
    pub(crate) outcomes: usize,
    /// Runs that were like no other.
    pub(crate) kinds: usize,
    /// Runs that more than one outcome of the model explains: the one with the fewest hazards is counted.
    pub(crate) several: u64,
    /// Runs that have more schedules than are looked at.
    pub(crate) unexplored: u64,
    /// In how many runs each hazard is in all outcomes that explain them.
    pub(crate) hazards: BTreeMap<HazardKind, u64>,
    /// The first run that no schedule of the model explains.
    pub(crate) difference: Option<KernelDifference>,
}

/// Why a variant can't be raced in a guest.
pub(crate) fn supports(racer: &Racer<'_>, search: &Search) -> anyhow::Result<Result<(), Skip>> {
    if let Err(skip) = free_supports(racer.scenario) {
        return Ok(Err(skip));
    }
    let skip = |reason: &str| Skip { reason: reason.to_owned(), remedy: None };
    if racer.judgement.hazards.contains_key(&HazardKind::KernelBug) {
        let skip = skip("a run may end in a kernel bug, and the guest with it");
        let remedy = Some("`check --kernel` gives that a boot of its own".to_owned());
        return Ok(Err(Skip { remedy, ..skip }));
    }
    if let Some(twin) = with_rules_of_guest(racer.scenario) {
        let outcomes = |judgement: &Judgement| -> BTreeSet<Outcome> {
            judgement.exploration.outcomes.keys().cloned().collect()
        };
        let other = judge(&twin, search, &mut |_| ())?;
        if outcomes(&other) != outcomes(&racer.judgement) {
            let why = "its outcomes depend on a rule of the host that the guest's kernel has not";
            return Ok(Err(skip(why)));
        }
    }
    Ok(Ok(()))
}

/// Races them all in one boot; `ends` is asked whether to stop.
pub(crate) fn race(
    racers: &[Racer<'_>],
    options: HuntOptions,
    search: &Search,
    ends: &mut dyn FnMut() -> bool,
) -> anyhow::Result<Vec<Race>> {
    let mut all: Vec<Option<Race>> = Vec::new();
    let mut jobs = Vec::new();
    let millis = u64::try_from(options.time.as_millis()).unwrap_or(u64::MAX);
    for (id, racer) in racers.iter().enumerate() {
        if let Err(skip) = supports(racer, search)? {
            all.push(Some(Race::Skipped(skip.to_string())));
            continue;
        }
        let question = Question::one(racer.loaded, racer.scenario, &[]);
        let mut job = question.job(id, Vec::new(), false);
        let HuntOptions { seed, first, iterations, .. } = options;
        job.race = Some(RaceJob { seed, first, iterations, millis });
        jobs.push(job);
        all.push(None);
    }
    let fill = |all: Vec<Option<Race>>, why: &str| {
        let skipped = |race: Option<Race>| race.unwrap_or_else(|| Race::Skipped(why.to_owned()));
        all.into_iter().map(skipped).collect()
    };
    if jobs.is_empty() {
        return Ok(fill(all, ""));
    }
    let scripts = Scripts::unpack()?;
    shorten(&scripts)?;
    let version = Version::Stable;
    let machine = version.machines().first().context("no machine")?;
    let guest = match Guest::new(&scripts, machine, version.option())? {
        Ok(guest) => guest,
        Err(NoGuest(why)) => return Ok(fill(all, why.trim_start_matches("SKIP: "))),
    };
    let each = options.time.as_secs().saturating_add(20);
    let seconds_max = BOOT_SECONDS_MAX + each * u64::try_from(jobs.len()).unwrap_or(1);
    let mut boot = guest.boot_until(&jobs, seconds_max, ends)?;
    // Under emulation a guest dies of itself at times, before anything was asked.
    if !boot.said.iter().any(|said| matches!(said, Said::Begin { .. })) && !ends() {
        boot = guest.boot_until(&jobs, seconds_max, ends)?;
    }
    let mut log = Log { release: guest.release.clone(), ..Log::default() };
    for said in boot.said {
        log.hear(said);
    }
    if log.races.is_empty() {
        let why = boot.ran.stderr.trim();
        return Ok(fill(all, &format!("the guest did not begin: {}\n{why}", boot.ran.status)));
    }
    let mut told = Vec::with_capacity(racers.len());
    for (id, (racer, race)) in racers.iter().zip(all).enumerate() {
        told.push(match (race, log.races.remove(&id)) {
            (Some(race), _) => race,
            (None, None) => Race::Skipped("its turn did not come".to_owned()),
            (None, Some(Heard { why: Some(why), .. })) => Race::Skipped(why),
            (None, Some(heard)) => {
                let name = full_name(&racer.scenario.test, &racer.scenario.variant);
                // Who was asked to stop leaves a race that has not ended.
                let died = !heard.ended && !ends();
                let words = if died {
                    console::last_words(&boot.console, &name)
                } else {
                    console::during(&boot.console, &name)
                };
                let raced = racer.explain(&heard, &log.release, options, (died, words))?;
                Race::Raced(Box::new(raced))
            }
        });
    }
    Ok(told)
}

/// What a guest said, by variant.
#[derive(Debug, Default)]
struct Log {
    release: String,
    races: BTreeMap<usize, Heard>,
    begun: usize,
}

#[derive(Debug, Default)]
struct Heard {
    runs: Vec<(u64, FreeRun)>,
    counts: Vec<u64>,
    millis: u64,
    ended: bool,
    why: Option<String>,
}

impl Log {
    fn hear(&mut self, said: Said) {
        match said {
            Said::Release(release) => self.release = release,
            Said::Begin { id, .. } => {
                self.begun = id;
                drop(self.races.insert(id, Heard::default()));
            }
            Said::Saw { number, run } => {
                self.races.entry(self.begun).or_default().runs.push((number, run));
            }
            Said::Raced { id, counts, millis, ended } => {
                let heard = self.races.entry(id).or_default();
                (heard.counts, heard.millis, heard.ended) = (counts, millis, ended);
            }
            Said::NotRaced { id, why } => {
                self.races.entry(id).or_default().why = Some(why);
            }
            Said::Answer(_) => {}
        }
    }
}

/// The model that is asked, of a host as the guest is: with DRIFTHEAP_LAB_WRONG_RULE, one with a wrong rule.
fn asked(scenario: &Scenario) -> Scenario {
    let twin = with_rules_of_guest(scenario);
    let scenario = twin.as_ref().unwrap_or(scenario);
    let name = std::env::var(WRONG_RULE).unwrap_or_default();
    let rule = WrongRule::ALL.iter().find(|(known, _)| *known == name);
    rule.map_or_else(|| scenario.clone(), |(_, rule)| rule.applied(scenario))
}

impl Racer<'_> {
    /// Looks what was seen up in the model.
    fn explain(
        &self,
        heard: &Heard,
        release: &str,
        options: HuntOptions,
        (died, console): (bool, String),
    ) -> anyhow::Result<Raced> {
        let asked = asked(self.scenario);
        let explainer = Explainer::new(&asked).map_err(|skip| anyhow::anyhow!("{skip}"))?;
        let histogram = Histogram {
            options,
            runs: 0,
            torn: 0,
            outcomes: BTreeMap::new(),
            anomalies: Vec::new(),
            elapsed: Duration::from_millis(heard.millis),
        };
        let outcomes = self.judgement.exploration.outcomes.len();
        let mut raced = Raced {
            release: release.to_owned(),
            histogram,
            outcomes,
            kinds: heard.runs.len(),
            several: 0,
            unexplored: 0,
            hazards: BTreeMap::new(),
            difference: None,
        };
        for (at, (number, run)) in heard.runs.iter().enumerate() {
            // A count that did not come any more: it was seen once.
            let count = heard.counts.get(at).copied().unwrap_or(1);
            raced.histogram.runs += count;
            match explainer.explain(run) {
                Explained::Outcomes(found) => raced.count(self, found, *number, count),
                Explained::TooMany => raced.unexplored += count,
                Explained::Not { schedule, model, kernel } => {
                    let what = format!("run {number}, after {} steps", schedule.len());
                    raced.histogram.anomalies.push((*number, format!("{model} / {kernel}")));
                    let found = (what, model, kernel);
                    let again = self.again(options.seed, *number);
                    raced.differ(schedule, found, again, &console);
                }
            }
        }
        if died {
            let found = ("the guest".to_owned(), "it lives".to_owned(), "it died".to_owned());
            let again = self.again(options.seed, options.first);
            raced.histogram.anomalies.push((raced.histogram.runs, "the guest died".to_owned()));
            raced.differ(Vec::new(), found, again, &console);
        }
        Ok(raced)
    }

    /// The command that makes a run again.
    fn again(&self, seed: u64, number: u64) -> String {
        let (word, variant) = (&self.loaded.word, &self.scenario.variant);
        let input = if word == "-" { " < FILE" } else { "" };
        format!(
            "driftheap hunt {word} --kernel --variant {variant} --seed {seed} --from {number} \
             --iterations 1{input}"
        )
    }
}

impl Raced {
    /// A run that these outcomes explain.
    fn count(
        &mut self,
        racer: &Racer<'_>,
        found: Vec<(Outcome, Vec<u8>)>,
        number: u64,
        count: u64,
    ) {
        if found.len() > 1 {
            self.several += count;
        }
        let sure = found.iter().fold(u16::MAX, |sure, (outcome, _)| sure & outcome.hazards);
        for kind in HazardKind::ALL.iter().filter(|kind| sure & kind.bit() != 0) {
            *self.hazards.entry(*kind).or_default() += count;
        }
        let Some((outcome, schedule)) = found.into_iter().next() else { return };
        let known = racer.judgement.exploration.outcomes.contains_key(&outcome);
        let positive = racer.scenario.holds(&outcome);
        let tally = self.histogram.outcomes.entry(outcome).or_insert(Tally {
            count: 0,
            positive,
            impossible: !known,
            iteration: number,
            schedule,
        });
        tally.count += count;
    }

    fn differ(
        &mut self,
        schedule: Vec<u8>,
        (what, model, real): (String, String, String),
        again: String,
        console: &str,
    ) {
        if self.difference.is_none() {
            let console = console.to_owned();
            let step = 0;
            self.difference =
                Some(KernelDifference { schedule, step, what, model, real, again, console });
        }
    }

    /// Outcomes of the model that were seen.
    pub(crate) fn seen(&self) -> usize {
        self.histogram.outcomes.values().filter(|tally| !tally.impossible).count()
    }
}

/// The command that shows an outcome step by step.
pub(crate) fn replay_again(racer: &Racer<'_>, schedule: &[u8]) -> String {
    one::again(&racer.loaded.word, " --kernel", &racer.scenario.variant, schedule)
}
