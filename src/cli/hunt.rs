//! `driftheap hunt`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use driftheap::exec::{ExecError, ExecOptions, Executor, Histogram, HuntOptions, hunt};
use driftheap::question::scenario::Scenario;
use driftheap::report::chart::{self, Bar};
use driftheap::report::json;
use serde::Serialize;

use super::interrupt::Interrupt;
use super::one::{self, schedule_word};
use super::out::Out;
use super::{Exit, SearchArgs};

/// Race a test on real memory and count how it ends
///
/// The processes run free, with seeded delays between their steps, while the exporter moves the
/// buffer under them. The histogram is klitmus7's: `*>` marks outcomes that the condition asks for.
/// An outcome that the model does not have is flagged. Each outcome is printed with the schedule in
/// which it was first seen, for `driftheap replay` to repeat.
///
/// Examples:
///   driftheap hunt A1
///   driftheap hunt A1 --variant pfnmap --time 60
///   driftheap hunt A1 --svg a1.svg
///   driftheap hunt A1 --seed 7 --from 1200 --iterations 1     the delays of one run again
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
    }
}
