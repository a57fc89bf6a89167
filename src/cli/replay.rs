//! `driftheap replay`.

use anyhow::{Context, anyhow};
use clap::Args;
use driftheap::exec::{
    ExecOptions, Executor, ReadBack, ReplayReport, Replays, VariantReplay, replay_variant,
};
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::judge;
use driftheap::report::kernel::{self, Kernel};
use driftheap::report::story::Story;
use driftheap::report::{full_name, json};
use driftheap::sys::page::page_bytes;
use serde::Serialize;

use super::input::Loaded;
use super::kernel::{Question, Version};
use super::one::{self, schedule_word};
use super::out::Out;
use super::{Exit, SearchArgs};

/// Replay schedules on real memory, and show what was really seen
///
/// Real processes map, touch, pin and fork real pages in the order of the schedule; every value,
/// errno, signal and byte is compared with the model's. What a hazard did is read back, where it
/// can be, by a process that took no part. Without --schedule the shortest schedule to each
/// outcome and hazard of each variant is replayed; with it the steps are shown.
///
/// With --kernel a real kernel takes the schedules instead, in a virtual machine, on a real dma_buf of
/// a small module.
///
/// Examples:
///   driftheap replay A1
///   driftheap replay ttm-direct-io --variant free-before-completion
///   driftheap replay A1 --variant mixedmap-insert-page --schedule 0,0,0,0,0
///
/// Exit status:
///   0  real memory, or the kernel, did what the model says
///   1  it did not (both sides are printed), or a schedule could not be carried out
///   2  no such test, variant or schedule, or a file with mistakes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ReplayArgs {
    /// A bundled test by name or row, a file, or `-`
    #[arg(value_name = "NAME|FILE")]
    test: String,

    /// This variant only
    #[arg(long, value_name = "V")]
    variant: Option<String>,

    /// This schedule only: the process of each step; needs --variant if there are several
    #[arg(long, value_name = "0,0,1", value_delimiter = ',',
          value_parser = one::schedule_step)]
    schedule: Option<Vec<u8>>,

    /// So many schedules of each variant besides, drawn with --seed
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "schedule")]
    sample: usize,

    /// Seed of the sample
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// In a real kernel, in a virtual machine (the first time fetches it), and not on real memory
    #[arg(long, value_name = "VERSION", num_args = 0..=1, require_equals = true, default_missing_value = "6.12")]
    kernel: Option<Version>,

    /// One JSON object per variant and line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    search: SearchArgs,
}

/// What the kernel said of a variant.
#[derive(Serialize)]
struct KernelLine<'a> {
    test: &'a str,
    variant: &'a str,
    kernel: &'a Kernel,
}

/// What came of a variant.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    test: &'a str,
    variant: &'a str,
    replayed: usize,
    agreed: usize,
    compared: usize,
    skipped: Option<String>,
    disagreement: Option<Differs>,
    corrupted: Vec<Corrupted>,
}

#[derive(Serialize)]
struct Differs {
    #[serde(skip)]
    order: Vec<u8>,
    schedule: String,
    step: usize,
    what: String,
    model: String,
    real: String,
}

#[derive(Serialize)]
struct Corrupted {
    hazard: &'static str,
    step: usize,
    what: String,
    frame: String,
    found: u8,
    expected: Option<u8>,
    pid: u32,
}

pub(crate) fn run(args: &ReplayArgs, out: &Out) -> anyhow::Result<Exit> {
    let Some((loaded, mut scenarios)) = one::load(&args.test, out)? else { return Ok(Exit::Input) };
    if let Some(name) = &args.variant {
        scenarios = vec![one::named(scenarios, name)?];
    }
    if args.schedule.is_some() && scenarios.len() > 1 {
        let names: Vec<&str> = scenarios.iter().map(|s| s.variant.as_str()).collect();
        return Err(anyhow!("a schedule is one of one variant: --variant {}", names.join(" or ")));
    }
    if let Some(version) = args.kernel {
        return in_kernel(args, version, &loaded, &scenarios, out);
    }
    let program = std::env::current_exe().context("this program can't find itself")?;
    let mut executor = Executor::new(ExecOptions::new(program))?;
    let mut exit = Exit::Good;
    for scenario in &scenarios {
        let line = match &args.schedule {
            Some(schedule) => match scheduled(&mut executor, scenario, schedule) {
                Ok(line) => line,
                Err(driftheap::exec::ExecError::Schedule(error)) => return Err(error.into()),
                Err(error) => {
                    out.error(&error.to_string());
                    return Ok(Exit::Differs);
                }
            },
            None => match variant(&mut executor, scenario, args) {
                Ok(line) => line,
                Err(error) => {
                    out.error(&format!("{}: {error:#}", scenario.variant));
                    exit = Exit::Differs;
                    continue;
                }
            },
        };
        if line.disagreement.is_some() {
            exit = exit.max(Exit::Differs);
        }
        if args.json {
            out.text(&json::line(&line))?;
            continue;
        }
        if let Some(schedule) = &args.schedule {
            out.prose(&steps(&loaded, scenario, schedule)?)?;
        }
        out.prose(&describe(&line, &loaded.word))?;
    }
    Ok(exit)
}

/// A real kernel takes the schedules.
fn in_kernel(
    args: &ReplayArgs,
    version: Version,
    loaded: &Loaded,
    scenarios: &[Scenario],
    out: &Out,
) -> anyhow::Result<Exit> {
    let mut questions = Vec::with_capacity(scenarios.len());
    for scenario in scenarios {
        questions.push(match &args.schedule {
            Some(schedule) => {
                scenario.replay(schedule)?;
                Question::one(loaded, scenario, schedule)
            }
            None => {
                let judgement = judge(scenario, &args.search.search(false), &mut |_| ())?;
                let how = Replays::Sample(args.sample, args.seed);
                Question::new(loaded, scenario, &judgement, how)
            }
        });
    }
    out.status("asking a real kernel ...");
    let asked: Vec<&Question<'_>> = questions.iter().collect();
    let (_, said) = super::kernel::ask(&asked, version)?;
    out.clear_status();
    let mut exit = Exit::Good;
    for (scenario, kernel) in scenarios.iter().zip(&said) {
        if kernel.difference.is_some() {
            exit = exit.max(Exit::Differs);
        }
        let (test, variant) = (&*scenario.test, &*scenario.variant);
        if args.json {
            out.text(&json::line(&KernelLine { test, variant, kernel }))?;
            continue;
        }
        if let Some(schedule) = &args.schedule {
            out.prose(&steps(loaded, scenario, schedule)?)?;
        }
        out.prose(&kernel::replayed(&full_name(test, variant), kernel, out.paint))?;
    }
    Ok(exit)
}

/// The steps of a schedule, a line each.
fn steps(loaded: &Loaded, scenario: &Scenario, schedule: &[u8]) -> anyhow::Result<String> {
    let variant = loaded.test.variants.iter().find(|variant| variant.name == scenario.variant);
    let variant = variant.context("a variant that the test does not have")?;
    let replay = scenario.replay(schedule)?;
    Ok(Story::new(&loaded.test, variant, scenario, &replay, String::new()).steps())
}

fn scheduled<'a>(
    executor: &mut Executor,
    scenario: &'a Scenario,
    schedule: &[u8],
) -> Result<Line<'a>, driftheap::exec::ExecError> {
    let report: ReplayReport = executor.replay(scenario, schedule)?;
    Ok(Line {
        test: &scenario.test,
        variant: &scenario.variant,
        replayed: usize::from(report.inexpressible.is_none()),
        agreed: usize::from(report.agreed()),
        compared: report.compared,
        skipped: report.inexpressible,
        disagreement: report.disagreement.map(|found| differs(schedule, found)),
        corrupted: report.corrupted.iter().map(corrupted).collect(),
    })
}

fn variant<'a>(
    executor: &mut Executor,
    scenario: &'a Scenario,
    args: &ReplayArgs,
) -> anyhow::Result<Line<'a>> {
    let judgement = judge(scenario, &args.search.search(false), &mut |_| ())?;
    let how = Replays::Sample(args.sample, args.seed);
    let replay = replay_variant(executor, scenario, &judgement, how)?;
    Ok(line(scenario, replay))
}

/// What came of a variant, each corruption once.
pub(super) fn line(scenario: &Scenario, replay: VariantReplay) -> Line<'_> {
    let mut all: Vec<Corrupted> = Vec::new();
    for hit in &replay.corrupted {
        let hit = corrupted(hit);
        // Different schedules do the same to the same page.
        let seen = |other: &Corrupted| {
            (other.hazard, &other.what, &other.frame) == (hit.hazard, &hit.what, &hit.frame)
                && (other.found, other.expected) == (hit.found, hit.expected)
        };
        if !all.iter().any(seen) {
            all.push(hit);
        }
    }
    Line {
        test: &scenario.test,
        variant: &scenario.variant,
        replayed: replay.replayed,
        agreed: replay.agreed,
        compared: replay.compared,
        skipped: replay.skipped,
        disagreement: replay.first_disagreement.map(|(schedule, found)| differs(&schedule, found)),
        corrupted: all,
    }
}

fn differs(schedule: &[u8], found: driftheap::exec::Disagreement) -> Differs {
    Differs {
        order: schedule.to_vec(),
        schedule: schedule_word(schedule),
        step: found.event + 1,
        what: found.what,
        model: found.model,
        real: found.real,
    }
}

fn corrupted(hit: &ReadBack) -> Corrupted {
    Corrupted {
        hazard: hit.kind.word(),
        step: hit.event + 1,
        what: hit.what.clone(),
        frame: hit.frame.clone(),
        found: hit.found,
        expected: hit.expected,
        pid: hit.pid,
    }
}

/// In words, for a test that `word` names on the command line.
pub(super) fn describe(line: &Line<'_>, word: &str) -> String {
    let name = full_name(line.test, line.variant);
    if let Some(why) = &line.skipped {
        return format!("SKIP {name}: {why}\n");
    }
    let mut text = format!(
        "{name}: {} of {} schedules agreed, {} observations compared\n",
        line.agreed, line.replayed, line.compared
    );
    for hit in &line.corrupted {
        let expected = match hit.expected {
            Some(expected) => format!(", should be {expected}"),
            None => String::new(),
        };
        text.push_str(&format!(
            "  {} at step {}: {} in frame {}: {} on all {} bytes{expected}; read by process {}\n",
            hit.hazard,
            hit.step,
            hit.what,
            hit.frame,
            hit.found,
            page_bytes(),
            hit.pid
        ));
    }
    if let Some(found) = &line.disagreement {
        text.push_str(&format!(
            "  DISAGREEMENT at step {}, {}\n    the model says    {}\n    real memory says  {}\n    \
             to repeat it: {}\n",
            found.step,
            found.what,
            found.model,
            found.real,
            one::again(word, "", line.variant, &found.order)
        ));
    }
    text
}
