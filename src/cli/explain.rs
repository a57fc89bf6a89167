//! `driftheap explain`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use driftheap::explore::Stop;
use driftheap::litmus::ast::{Variant, Verdict};
use driftheap::model::HazardKind;
use driftheap::question::prevent::preventions;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{First, Judgement, Search, judge_until};
use driftheap::report::kernel::{self, Kernel};
use driftheap::report::picture::Graph;
use driftheap::report::story::{Prevented, Story};
use driftheap::report::svg::{self, Titles};
use driftheap::report::trace;
use driftheap::report::verdicts::names;
use driftheap::report::{full_name, json};
use serde::Serialize;

use super::input::{self, Loaded};
use super::interrupt::Interrupt;
use super::kernel::{Question, Version};
use super::out::Out;
use super::{Exit, SearchArgs};

/// Tell the shortest schedule that shows what a test asks, step by step
///
/// Prints the question, its source, and a table: a row per step, a column per process with the
/// statement and what this step of it did, a column per page frame (whose it is and what it
/// holds), and what changed in page tables, pins and locks. Each hazard is then told as KASAN
/// would: the access, how its way was made, when the buffer moved, whose memory it is now, and
/// which one rule, set otherwise, would have prevented it (found by trying: with it no hazard of
/// any kind is left). A rule with which an operation merely fails is listed as `Refused by`.
///
/// A question of more than 100000 states is explored as far as the schedule that is told. Ctrl-C ends
/// the search, and what was found until then is told.
///
/// Examples:
///   driftheap explain ttm-direct-io
///   driftheap explain A1 --variant mixedmap-insert-page --hazard cross-buffer-write
///   driftheap explain my.litmus --schedule 0,0,1,2
///   driftheap explain A5 --svg a5.svg      a figure for a slide
///   driftheap explain A5 --perfetto a5.pftrace   tracks and flows, for ui.perfetto.dev
///   driftheap explain ttm-map-private --kernel   ends with a real kernel's own report
///
/// Exit status:
///   0  a schedule was told
///   1  the search ended before one was found, or the kernel disagrees
///   2  no such test, variant, hazard or schedule, or a file with mistakes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ExplainArgs {
    /// A bundled test by name or row, a file, or `-`
    #[arg(value_name = "NAME|FILE")]
    test: String,

    /// Which variant [default: the first whose answer is not Never; with --kernel, one with a kernel
    /// bug, if there is one]
    #[arg(long, value_name = "V")]
    variant: Option<String>,

    /// The shortest schedule to this hazard instead
    #[arg(long, value_name = "KIND", value_parser = hazard_kind)]
    hazard: Option<HazardKind>,

    /// This schedule instead: the process of each step
    #[arg(
        long,
        value_name = "0,0,1",
        value_delimiter = ',',
        value_parser = super::one::schedule_step,
        conflicts_with = "hazard",
        allow_hyphen_values = false
    )]
    schedule: Option<Vec<u8>>,

    /// The story as one JSON object
    #[arg(long)]
    json: bool,

    /// Write the steps that matter to FILE as a figure (SVG) instead
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    svg: Option<PathBuf>,

    /// Write the schedule to FILE as a trace for ui.perfetto.dev (track events) instead; to FILE.json
    /// as JSON, which chrome://tracing reads, too
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "svg"])]
    perfetto: Option<PathBuf>,

    /// Then take the schedule in a real kernel, in a virtual machine (the first time fetches it)
    #[arg(long, value_name = "VERSION", num_args = 0..=1, require_equals = true, default_missing_value = "6.12", conflicts_with_all = ["svg", "perfetto"])]
    kernel: Option<Version>,

    #[command(flatten)]
    search: SearchArgs,
}

/// A story, and what the kernel said of it where it was asked.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    story: &'a Story,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<&'a Kernel>,
}

/// At most so many changes are proposed, and so many that merely refuse.
pub(super) const PREVENTIONS_MAX: usize = 3;

fn hazard_kind(word: &str) -> Result<HazardKind, String> {
    HazardKind::from_word(word).ok_or_else(|| {
        let words: Vec<&str> = HazardKind::ALL.iter().map(|kind| kind.word()).collect();
        format!("hazards are: {}", words.join(", "))
    })
}

/// States that are looked at in any case, so that the answer is whole where that takes no time.
const STATES_MIN: u64 = 100_000;

/// A variant that was chosen, and what is known of it.
struct Chosen<'a> {
    variant: &'a Variant,
    scenario: Scenario,
    judgement: Option<Judgement>,
}

pub(crate) fn run(args: &ExplainArgs, out: &Out) -> anyhow::Result<Exit> {
    let (mut loaded, bad) = input::load(std::slice::from_ref(&args.test), out);
    if bad {
        return Ok(Exit::Input);
    }
    if loaded.len() > 1 {
        let names: Vec<&str> = loaded.iter().map(|loaded| loaded.test.name.as_str()).collect();
        bail!("`{}` is several tests: {}; name one", args.test, names.join(", "));
    }
    let Some(loaded) = loaded.pop() else { return Ok(Exit::Input) };
    let scenarios = match loaded.scenarios() {
        Ok(scenarios) => scenarios,
        Err(diagnostics) => {
            input::diagnose(&diagnostics, out);
            return Ok(Exit::Input);
        }
    };
    let search = args.search.search(false);
    // Which variant has a kernel bug is seen when all have been looked at.
    let first = args.kernel.is_none().then_some(First { after: STATES_MIN, hazard: args.hazard });
    let interrupt = Interrupt::hold_back()?;
    let asked = Search { first, ..search };
    let chosen = choose(args, &loaded, scenarios, &asked, &interrupt, out)?;
    let Some((schedule, about)) = schedule(args, &chosen) else {
        let stopped = chosen.judgement.and_then(|judgement| judgement.exploration.stopped);
        let why = stopped.map_or_else(String::new, |stop| format!(": {stop}"));
        out.error(&format!("no schedule was found{why}"));
        return Ok(Exit::Differs);
    };
    if let Some(file) = &args.svg {
        return figure(file, &loaded, &chosen, &schedule, about, out);
    }
    let replay = chosen.scenario.replay(&schedule).map_err(|error| anyhow!("{error}"))?;
    if let Some(file) = &args.perfetto {
        out.clear_status();
        let tracks = trace::trace(&chosen.scenario, &schedule);
        super::report::write_bytes(file, &tracks.bytes_for(file))?;
        return Ok(Exit::Good);
    }
    let mut story = Story::new(&loaded.test, chosen.variant, &chosen.scenario, &replay, about);
    let stopped = chosen.judgement.as_ref().and_then(|judgement| judgement.exploration.stopped);
    if !story.splats.is_empty() && stopped != Some(Stop::Asked) {
        out.status("looking for what would prevent it");
        let (test, text) = (&loaded.test, &loaded.text);
        let goes_on = || !interrupt.came();
        let found = preventions(test, chosen.variant, text, &search, PREVENTIONS_MAX, &goes_on);
        let lines: Vec<Prevented> = found.iter().map(Prevented::new).collect();
        // Of a search that was ended, what was found is not all.
        let lines = Some(lines).filter(|_| goes_on());
        for splat in &mut story.splats {
            splat.prevented_by.clone_from(&lines);
        }
    }
    out.clear_status();
    if !args.json {
        out.prose(&story.render(out.paint, out.columns()))?;
    }
    let kernel = if let Some(version) = args.kernel {
        out.status("asking a real kernel ...");
        let question = Question::one(&loaded, &chosen.scenario, &schedule);
        let said = super::kernel::ask(&[&question], version)?.1.pop();
        out.clear_status();
        said
    } else {
        None
    };
    if args.json {
        out.text(&json::line(&Told { story: &story, kernel: kernel.as_ref() }))?;
    } else if let Some(kernel) = &kernel {
        out.prose(&kernel::below_story(kernel, out.paint))?;
    }
    let differs = kernel.is_some_and(|kernel| kernel.difference.is_some());
    Ok(if differs { Exit::Differs } else { Exit::Good })
}

/// The steps that matter as a file.
fn figure(
    file: &Path,
    loaded: &Loaded,
    chosen: &Chosen<'_>,
    schedule: &[u8],
    about: String,
    out: &Out,
) -> anyhow::Result<Exit> {
    let scenario = &chosen.scenario;
    scenario.replay(schedule).map_err(|error| anyhow!("{error}"))?;
    out.clear_status();
    let graph = Graph::new(scenario, 0, &[schedule]);
    let titles = Titles { name: full_name(&scenario.test, &scenario.variant), about };
    super::report::write(file, &svg::strip(scenario, &graph, schedule, &loaded.text, &titles))?;
    Ok(Exit::Good)
}

/// The variant that is named, or the first that has something to tell.
fn choose<'a>(
    args: &ExplainArgs,
    loaded: &'a Loaded,
    scenarios: Vec<Scenario>,
    search: &Search,
    interrupt: &Interrupt,
    out: &Out,
) -> anyhow::Result<Chosen<'a>> {
    let variants = &loaded.test.variants;
    let named = |name: &str| variants.iter().position(|variant| variant.name == name);
    let wanted = match &args.variant {
        Some(name) => Some(named(name).with_context(|| {
            let names: Vec<&str> = variants.iter().map(|v| v.name.as_str()).collect();
            format!("there is no variant `{name}`; there are: {}", names.join(", "))
        })?),
        None => None,
    };
    let mut first = None;
    let mut telling_first = None;
    let mut seen: Vec<&str> = Vec::new();
    for (index, (variant, scenario)) in variants.iter().zip(scenarios).enumerate() {
        if wanted.is_some_and(|wanted| wanted != index) {
            continue;
        }
        if args.schedule.is_some() {
            return Ok(Chosen { variant, scenario, judgement: None });
        }
        out.status(&format!("exploring {}", variant.name));
        let judgement = judge_until(&scenario, search, &mut |progress| {
            let (states, depth) = (progress.states, progress.depth);
            out.status(&format!("exploring {}: {states} states, {depth} steps deep", variant.name));
            if interrupt.came() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let is_asked = judgement.exploration.stopped == Some(Stop::Asked);
        let telling = match args.hazard {
            Some(kind) => judgement.hazards.contains_key(&kind),
            None => judgement.observation != Some(Verdict::Never),
        };
        // The kernel's own report is worth more than its consent.
        let reported =
            args.kernel.is_none() || judgement.hazards.contains_key(&HazardKind::KernelBug);
        seen.extend(judgement.hazards.keys().map(|kind| kind.word()));
        let chosen = Chosen { variant, scenario, judgement: Some(judgement) };
        if is_asked {
            return Ok(chosen);
        }
        match (telling, reported || args.hazard.is_some()) {
            (true, true) => return Ok(chosen),
            (true, false) => _ = telling_first.get_or_insert(chosen),
            (false, _) => _ = first.get_or_insert(chosen),
        }
    }
    if let Some(chosen) = telling_first {
        return Ok(chosen);
    }
    if let Some(kind) = args.hazard {
        seen.sort_unstable();
        seen.dedup();
        let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
        let what = args.variant.as_ref().map_or("no variant", |name| name.as_str());
        bail!("{what} of {} shows {kind}; hazards that were seen: {seen}", loaded.test.name.text);
    }
    first.context("the test has no variants")
}

/// The schedule to tell, and what it is an example of.
fn schedule(args: &ExplainArgs, chosen: &Chosen<'_>) -> Option<(Vec<u8>, String)> {
    if let Some(schedule) = &args.schedule {
        return Some((schedule.clone(), "The schedule that was asked for.".to_owned()));
    }
    let judgement = chosen.judgement.as_ref()?;
    let observation = judgement.observation.map_or("unknown", Verdict::word);
    let expected = chosen.scenario.expected;
    let expected = expected.map_or_else(String::new, |v| format!(" (expected {v})"));
    let exploration = &judgement.exploration;
    let classes = exploration.interchangeable().map(|class| names(&class));
    let alike: String = classes.map(|class| format!(" ({class} are interchangeable)")).collect();
    let states = format!("{} states{alike}", exploration.states);
    let verdict = match exploration.stopped {
        Some(Stop::Found) => format!(
            "Answer: it can happen{expected}; {states} were looked at, `driftheap check` goes on."
        ),
        _ => format!(
            "Answer: {observation}{expected}: it holds after {} of {} schedules, {states}.",
            judgement.positive, exploration.schedules
        ),
    };
    if let Some(kind) = args.hazard {
        let schedule = judgement.hazards.get(&kind);
        return schedule.map(|schedule| {
            let steps = schedule.len();
            let about = format!("{verdict} Below, a shortest schedule to {kind}: {steps} steps.");
            (schedule.clone(), about)
        });
    }
    if let Some(schedule) = &judgement.shortest {
        let steps = schedule.len();
        let about = format!("{verdict} Below, a shortest schedule that shows it: {steps} steps.");
        return Some((schedule.clone(), about));
    }
    let any = judgement.exploration.outcomes.values().min_by_key(|stats| stats.shortest.len());
    any.map(|stats| {
        let about = format!("{verdict} No schedule shows it; below, one that ends otherwise.");
        (stats.shortest.clone(), about)
    })
}
