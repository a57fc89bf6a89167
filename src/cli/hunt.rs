//! `driftheap hunt`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use driftheap::exec::{ExecError, ExecOptions, Executor, Histogram, HuntOptions, hunt};
use driftheap::model::HazardKind;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::judge;
use driftheap::report::chart::{self, Bar};
use driftheap::report::kernel::KernelDifference;
use driftheap::report::{Tone, full_name, json, plural};
use serde::Serialize;

use super::input;
use super::interrupt::Interrupt;
use super::kernel::race::{self, Race, Raced, Racer};
use super::one::{self, schedule_word};
use super::out::Out;
use super::{Exit, SearchArgs};

/// Race a test on real memory, or in a kernel, and count how it ends
///
/// The processes run free, with seeded delays between their steps, while the exporter moves the
/// buffer under them. The histogram is klitmus7's: `*>` marks outcomes that the condition asks for.
/// An outcome that the model does not have is flagged. Each outcome is printed with the schedule in
/// which it was first seen, for `driftheap replay` to repeat.
///
/// With --kernel the race is in a real kernel, in a virtual machine with two processors, on a real
/// dma_buf of the laboratory module; without --variant, of each variant. What was seen of a run is
/// looked up in the model; a run that no schedule of the model explains is a disagreement.
///
/// Examples:
///   driftheap hunt A1
///   driftheap hunt A1 --variant pfnmap --time 60
///   driftheap hunt A1 --svg a1.svg
///   driftheap hunt A1 --seed 7 --from 1200 --iterations 1     the delays of one run again
///   driftheap hunt A1 --kernel                                each variant, some seconds each
///
/// Ctrl-C ends it and prints what there is.
///
/// Exit status:
///   0  every outcome is one of the model's
///   1  one is not, or the race could not be run
///   2  no such test or variant, a test that can't be raced, or a file with mistakes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct HuntArgs {
    /// A bundled test by name or row, a file, or `-`
    #[arg(value_name = "NAME|FILE")]
    test: String,

    /// Which variant [default: the first whose answer is not Never]
    #[arg(long, value_name = "V")]
    variant: Option<String>,

    /// At most so many runs
    #[arg(long, value_name = "N", default_value_t = HuntOptions::default().iterations,
          value_parser = clap::value_parser!(u64).range(1..))]
    iterations: u64,

    /// At most so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time: u64,

    /// Seed of the delays
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// Number of the first run
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: u64,

    /// In a real kernel, in a virtual machine (the first time fetches it)
    #[arg(long, conflicts_with_all = ["save", "svg"])]
    kernel: bool,

    /// Write the outcomes to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,

    /// Draw the outcomes to this file too, as a small chart (SVG)
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// The histogram as one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    search: SearchArgs,
}

#[derive(Serialize)]
struct Hunted<'a> {
    test: &'a str,
    variant: &'a str,
    seed: u64,
    from: u64,
    runs: u64,
    torn: u64,
    seconds: f64,
    positive: u64,
    negative: u64,
    explained: bool,
    outcomes: Vec<Line>,
    anomalies: &'a [(u64, String)],
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<InKernel<'a>>,
}

/// What `--kernel` knows beside that.
#[derive(Serialize)]
struct InKernel<'a> {
    release: &'a str,
    kinds: usize,
    seen: usize,
    of: usize,
    several: u64,
    unexplored: u64,
    hazards: BTreeMap<String, u64>,
    difference: &'a Option<KernelDifference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<&'a str>,
}

#[derive(Serialize)]
struct Line {
    outcome: String,
    count: u64,
    positive: bool,
    impossible: bool,
    run: u64,
    schedule: String,
}

/// What a shell makes of a program that SIGTERM ended.
const TERMINATED: u8 = 143;

pub(crate) fn run(args: &HuntArgs, out: &Out) -> anyhow::Result<Exit> {
    if args.kernel {
        return in_kernel(args, out);
    }
    let Some((loaded, scenarios)) = one::load(&args.test, out)? else { return Ok(Exit::Input) };
    // Which outcomes there are is all that a hunt asks the model.
    let search = args.search.search(true);
    let (scenario, judgement) = one::telling(scenarios, args.variant.as_deref(), &search)?;
    let program = std::env::current_exe().context("this program can't find itself")?;
    // Before the executor starts, whose processes are not to die of a Ctrl-C either.
    let interrupt = Interrupt::hold_back()?;
    // Processes on one CPU take turns; races need all there are.
    let options = ExecOptions { pin_cpu: None, ..ExecOptions::new(program) };
    let mut executor = Executor::new(options)?;
    let how = HuntOptions {
        seed: args.seed,
        first: args.from,
        iterations: args.iterations,
        time: Duration::from_secs(args.time),
    };
    let mut progress = |so_far: &Histogram| {
        if so_far.runs.is_multiple_of(64) {
            let (positive, negative) = (so_far.positive(), so_far.negative());
            out.status(&format!("{} runs: {positive} positive, {negative} negative", so_far.runs));
        }
        if interrupt.came() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let histogram = hunt(&mut executor, &scenario, &judgement, how, &mut progress);
    out.clear_status();
    let histogram = match histogram {
        Ok(histogram) => histogram,
        Err(error @ ExecError::Unsupported(_)) => return Err(error.into()),
        Err(error) => {
            out.error(&error.to_string());
            return Ok(Exit::Differs);
        }
    };
    let line = json::line(&hunted(&scenario, &histogram));
    if let Some(path) = &args.save {
        std::fs::write(path, &line).with_context(|| format!("can't write {}", path.display()))?;
    }
    if let Some(path) = &args.svg {
        let title = format!("{}/{}, {} runs", scenario.test, scenario.variant, histogram.runs);
        let about = "How often each outcome was seen; * marks those that the test asks for.";
        super::report::write(path, &chart::svg(&title, about, &bars(&scenario, &histogram)))?;
    }
    match args.json {
        true => out.text(&line)?,
        false => out.prose(&describe(&scenario, &histogram, &loaded.word))?,
    }
    if interrupt.ends() {
        return Ok(Exit::Program(TERMINATED));
    }
    Ok(if histogram.explained() { Exit::Good } else { Exit::Differs })
}

/// The same in a guest, of each variant that was asked for.
fn in_kernel(args: &HuntArgs, out: &Out) -> anyhow::Result<Exit> {
    let (loaded, bad) = input::load(std::slice::from_ref(&args.test), out);
    if bad {
        return Ok(Exit::Input);
    }
    let search = args.search.search(true);
    let mut scenarios = Vec::new();
    for loaded in &loaded {
        let Ok(of_test) = loaded.scenarios().map_err(|found| input::diagnose(&found, out)) else {
            return Ok(Exit::Input);
        };
        match &args.variant {
            Some(name) => scenarios.push((loaded, one::named(of_test, name)?)),
            None => scenarios.extend(of_test.into_iter().map(|scenario| (loaded, scenario))),
        }
    }
    let mut racers = Vec::new();
    for (loaded, scenario) in &scenarios {
        let judgement = judge(scenario, &search, &mut |_| ())?;
        racers.push(Racer { loaded, scenario, judgement });
    }
    // From the first time that it is asked: the guest's processes are started by then, and would take over
    // what is held back.
    let mut interrupt: Option<Interrupt> = None;
    let mut ends = || {
        if interrupt.is_none() {
            interrupt = Interrupt::hold_back().ok();
        }
        interrupt.as_ref().is_some_and(Interrupt::came)
    };
    let how = HuntOptions {
        seed: args.seed,
        first: args.from,
        iterations: args.iterations,
        time: Duration::from_secs(args.time),
    };
    out.status("racing in a real kernel ...");
    let races = race::race(&racers, how, &search, &mut ends);
    out.clear_status();
    let (mut exit, mut any) = (Exit::Good, false);
    for (racer, race) in racers.iter().zip(races?) {
        let scenario = racer.scenario;
        let raced = match &race {
            Race::Skipped(why) => {
                let name = full_name(&scenario.test, &scenario.variant);
                if args.json {
                    out.text(&json::line(&not_raced(scenario, why, how)))?;
                } else {
                    let skip = out.paint.paint(Tone::Warn, "SKIP");
                    out.prose(&format!("{skip} {name}: {why}\n\n"))?;
                }
                continue;
            }
            Race::Raced(raced) => raced,
        };
        any = true;
        if !raced.histogram.explained() || raced.difference.is_some() {
            exit = Exit::Differs;
        }
        if args.json {
            out.text(&json::line(&in_kernel_line(scenario, raced)))?;
        } else {
            out.prose(&describe_in_kernel(racer, raced, out))?;
        }
    }
    if interrupt.is_some_and(|interrupt| interrupt.ends()) {
        return Ok(Exit::Program(TERMINATED));
    }
    Ok(if any { exit } else { Exit::Input })
}

/// In words, with what the kernel's side has more.
fn describe_in_kernel(racer: &Racer<'_>, raced: &Raced, out: &Out) -> String {
    let Raced { release, histogram, outcomes, kinds, several, unexplored, .. } = raced;
    let mut text = histogram.describe_found(racer.scenario);
    text.push_str(&chart::text(&bars(racer.scenario, histogram)));
    let seen = raced.seen();
    let mut line = |said: String| {
        text.push_str(&said);
        text.push('\n');
    };
    line(format!(
        "Kernel {release}: {} on two processors, {kinds} of them different; {seen} of the model's {} \
         seen",
        plural(usize::try_from(histogram.runs).unwrap_or(usize::MAX), "run"),
        plural(*outcomes, "outcome"),
    ));
    for (kind, count) in &raced.hazards {
        let share = 100.0 * *count as f64 / histogram.runs.max(1) as f64;
        line(format!("Seen: {kind} in {count} runs ({share:.1} %)"));
    }
    if *several > 0 {
        line(format!(
            "{several} runs fit several outcomes: counted as the one with the fewest hazards"
        ));
    }
    if *unexplored > 0 {
        line(format!("{unexplored} runs have more schedules than were looked at: not counted"));
    }
    if let Some(difference) = &raced.difference {
        let differs = out.paint.paint(Tone::Bad, "DISAGREEMENT");
        line(format!("{differs}: {}", difference.text()));
    }
    let hit = histogram.outcomes.values().find(|tally| tally.positive && !tally.impossible);
    if let Some(tally) = hit {
        line(format!(
            "First hit: run {} with --seed {}; to see it again, step by step:\n  {}",
            tally.iteration,
            histogram.options.seed,
            race::replay_again(racer, &tally.schedule)
        ));
    }
    text.push('\n');
    text
}

fn in_kernel_line<'a>(scenario: &'a Scenario, raced: &'a Raced) -> Hunted<'a> {
    let named = |(kind, count): (&HazardKind, &u64)| (kind.to_string(), *count);
    let kernel = InKernel {
        release: &raced.release,
        kinds: raced.kinds,
        seen: raced.seen(),
        of: raced.outcomes,
        several: raced.several,
        unexplored: raced.unexplored,
        hazards: raced.hazards.iter().map(named).collect(),
        difference: &raced.difference,
        skipped: None,
    };
    Hunted { kernel: Some(kernel), ..hunted(scenario, &raced.histogram) }
}

fn not_raced<'a>(scenario: &'a Scenario, why: &'a str, how: HuntOptions) -> Hunted<'a> {
    let kernel = InKernel {
        release: "",
        kinds: 0,
        seen: 0,
        of: 0,
        several: 0,
        unexplored: 0,
        hazards: BTreeMap::new(),
        difference: &None,
        skipped: Some(why),
    };
    Hunted {
        test: &scenario.test,
        variant: &scenario.variant,
        seed: how.seed,
        from: how.first,
        runs: 0,
        torn: 0,
        seconds: 0.0,
        positive: 0,
        negative: 0,
        explained: true,
        outcomes: Vec::new(),
        anomalies: &[],
        kernel: Some(kernel),
    }
}

/// In words, for a test that `word` names on the command line.
pub(super) fn describe(scenario: &Scenario, histogram: &Histogram, word: &str) -> String {
    let mut text = histogram.describe(scenario);
    text.push_str(&chart::text(&bars(scenario, histogram)));
    let first =
        |positive: bool| histogram.outcomes.values().find(move |tally| tally.positive == positive);
    if let Some(tally) = first(true) {
        text.push_str(&format!(
            "First hit: run {} with --seed {}; to see it again, step by step:\n  {}\n",
            tally.iteration,
            histogram.options.seed,
            one::again(word, "", &scenario.variant, &tally.schedule)
        ));
    }
    text
}

/// A bar an outcome.
fn bars(scenario: &Scenario, histogram: &Histogram) -> Vec<Bar> {
    let all = histogram.outcomes.values().map(|tally| tally.count).sum::<u64>().max(1);
    let bar = |(outcome, tally): (&driftheap::question::scenario::Outcome, _)| {
        let tally: &driftheap::exec::Tally = tally;
        let share = tally.count as f64 / all as f64;
        Bar {
            label: outcome.describe(scenario),
            value: share,
            said: format!("{:.1} %", 100.0 * share),
            marked: tally.positive,
        }
    };
    histogram.outcomes.iter().map(bar).collect()
}

fn hunted<'a>(scenario: &'a Scenario, histogram: &'a Histogram) -> Hunted<'a> {
    let line = |(outcome, tally): (&driftheap::question::scenario::Outcome, _)| {
        let tally: &driftheap::exec::Tally = tally;
        Line {
            outcome: outcome.describe(scenario),
            count: tally.count,
            positive: tally.positive,
            impossible: tally.impossible,
            run: tally.iteration,
            schedule: schedule_word(&tally.schedule),
        }
    };
    Hunted {
        test: &scenario.test,
        variant: &scenario.variant,
        seed: histogram.options.seed,
        from: histogram.options.first,
        runs: histogram.runs,
        torn: histogram.torn,
        seconds: histogram.elapsed.as_secs_f64(),
        positive: histogram.positive(),
        negative: histogram.negative(),
        explained: histogram.explained(),
        outcomes: histogram.outcomes.iter().map(line).collect(),
        anomalies: &histogram.anomalies,
        kernel: None,
    }
}
