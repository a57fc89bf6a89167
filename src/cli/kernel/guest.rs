//! The guest's side: takes the schedules of a job file and says what came of each variant.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use driftheap::exec::{ExecOptions, KernelExecutor, Sabotage};
use driftheap::litmus::parse;
use driftheap::litmus::rules::ModelRules;
use driftheap::question::scenario::Scenario;

use super::wire::{Answered, Differs, Job, Said, VariantJob};
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
    options.timeout = std::time::Duration::from_secs(60);
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
