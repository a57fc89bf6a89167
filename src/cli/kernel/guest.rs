//! The guest's side: takes the schedules of a job file and says what came of each variant.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use driftheap::exec::{ExecOptions, FreeOptions, FreeRun, KernelExecutor, Sabotage};
use driftheap::litmus::parse;
use driftheap::litmus::rules::ModelRules;
use driftheap::question::scenario::Scenario;

use super::wire::{Answered, Differs, Job, RaceJob, Said, VariantJob};
use super::{console, drivers};

/// A wrong model, for tests of the comparison.
pub(super) const SABOTAGES: [(&str, Sabotage); 6] = [
    ("loaded-values", Sabotage::LoadedValues),
    ("no-faults", Sabotage::NoFaults),
    ("no-zaps", Sabotage::NoZaps),
    ("pins-succeed", Sabotage::PinsSucceed),
    ("dma-elsewhere", Sabotage::DmaElsewhere),
    ("no-copies", Sabotage::NoCopies),
];

/// Runs the jobs of a file to standard output.
pub(crate) fn run(jobs: &Path, sabotage: Option<&str>) -> anyhow::Result<()> {
    let mut options = ExecOptions::new(std::env::current_exe().context("own executable")?);
    // Emulated processors are slow, and so is a loaded host.
    options.timeout = Duration::from_secs(60);
    options.sabotage = match sabotage {
        None => None,
        Some(name) => Some(
            SABOTAGES
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, sabotage)| *sabotage)
                .ok_or_else(|| anyhow!("no sabotage is called {name}"))?,
        ),
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    say(&Said::Release(release.trim().to_owned()))?;
    let mut executor = KernelExecutor::new(options)?;
    let file = std::fs::File::open(jobs).with_context(|| format!("{}", jobs.display()))?;
    for line in BufReader::new(file).lines() {
        let job: Job = serde_json::from_str(&line?).context("a job")?;
        let test = parse(&job.file, &job.text, &ModelRules).map_err(|_| anyhow!("{}", job.file))?;
        for variant in &job.variants {
            let of = test.variants.get(variant.index).context("a variant that is not there")?;
            let scenario = Scenario::new(of, &job.text).map_err(|error| anyhow!(error.message))?;
            note(&variant.name);
            if let Some(how) = job.race {
                race(&mut executor, &scenario, variant.id, how)?;
                continue;
            }
            let answered = if job.drivers {
                of_drivers(&mut executor, &scenario, variant)?
            } else {
                answer(&mut executor, &scenario, variant, job.provoke)?
            };
            say(&Said::Answer(answered))?;
        }
    }
    Ok(())
}

fn say(said: &Said) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, said)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Names what is next in the kernel's own log; a guest without one goes on.
fn note(name: &str) {
    // One write is one line.
    let line = format!("<3>{}\n", console::mark(name));
    let log = std::fs::OpenOptions::new().write(true).open("/dev/kmsg");
    let _unlogged = log.and_then(|mut log| log.write_all(line.as_bytes()));
}

/// How long the host hears nothing of a race.
const RACE_TELLS: Duration = Duration::from_millis(500);

/// Lets processes run free, and says how often what was seen.
fn race(
    executor: &mut KernelExecutor,
    scenario: &Scenario,
    id: usize,
    how: RaceJob,
) -> anyhow::Result<()> {
    say(&Said::Begin { id, schedule: 0 })?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = FreeOptions {
        seed: how.seed,
        first: how.first,
        iterations: how.iterations,
        time: Duration::from_millis(how.millis),
        cpus: u8::try_from(cpus).unwrap_or(u8::MAX),
    };
    let mut known: BTreeMap<FreeRun, usize> = BTreeMap::new();
    let mut counts: Vec<u64> = Vec::new();
    let begun = Instant::now();
    let (mut told, mut unsaid) = (begun, None);
    let raced = |counts: &[u64], ended| Said::Raced {
        id,
        counts: counts.to_vec(),
        millis: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        ended,
    };
    let result = executor.race(scenario, &options, &mut |number, run| {
        if let Some(at) = known.get(&run) {
            counts[*at] += 1;
        } else {
            known.insert(run.clone(), counts.len());
            counts.push(1);
            unsaid = unsaid.take().or(say(&Said::Saw { number, run }).err());
        }
        if told.elapsed() >= RACE_TELLS {
            told = Instant::now();
            unsaid = unsaid.take().or(say(&raced(&counts, false)).err());
        }
        if unsaid.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some(error) = unsaid {
        return Err(error);
    }
    match result {
        Ok(()) => say(&raced(&counts, true)),
        Err(error) => say(&Said::NotRaced { id, why: error.to_string() }),
    }
}

/// What the kernel's drivers say.
fn of_drivers(
    executor: &mut KernelExecutor,
    scenario: &Scenario,
    job: &VariantJob,
) -> anyhow::Result<Answered> {
    let mut answered = Answered { id: job.id, ..Answered::default() };
    if let Err(skip) = executor.supports(scenario) {
        answered.skipped = Some(skip.to_string());
        return Ok(answered);
    }
    let begin = &mut |schedule| say(&Said::Begin { id: job.id, schedule });
    match drivers::answer(executor, scenario, &job.schedules, begin)? {
        Err(why) => answered.skipped = Some(why),
        Ok(said) => {
            for driver in &said {
                answered.replayed += driver.replayed;
                answered.agreed += driver.agreed;
                answered.compared += driver.compared;
                answered.difference =
                    answered.difference.take().or_else(|| driver.difference.clone());
            }
            answered.drivers = said;
        }
    }
    Ok(answered)
}

fn answer(
    executor: &mut KernelExecutor,
    scenario: &Scenario,
    job: &VariantJob,
    provoke: bool,
) -> anyhow::Result<Answered> {
    let mut answered = Answered { id: job.id, ..Answered::default() };
    if let Err(skip) = executor.supports(scenario) {
        answered.skipped = Some(skip.to_string());
        return Ok(answered);
    }
    let mut reason = None;
    for (index, schedule) in job.schedules.iter().enumerate() {
        say(&Said::Begin { id: job.id, schedule: index })?;
        let differs = |step: usize, what: String, model: String, real: String| {
            Some((index, Differs { step, what, model, real }))
        };
        match executor.replay(scenario, schedule, provoke) {
            Err(error) => {
                let (what, model) = ("the schedule".to_owned(), "it can be taken".to_owned());
                answered.difference = differs(0, what, model, error.to_string());
                return Ok(answered);
            }
            Ok(report) => {
                answered.compared += report.compared;
                if let Some(why) = report.inexpressible {
                    reason = Some(why);
                    continue;
                }
                answered.own_rules = answered.own_rules.or(report.own_rules.map(str::to_owned));
                answered.replayed += 1;
                if let Some(found) = report.disagreement {
                    let step = found.event + 1;
                    answered.difference = differs(step, found.what, found.model, found.real);
                    return Ok(answered);
                }
                answered.agreed += 1;
            }
        }
    }
    if answered.replayed == 0 {
        answered.skipped = reason;
    }
    Ok(answered)
}
