//! `driftheap check`, and the suite.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Args;
use driftheap::explore::Progress;
use driftheap::litmus::ast::{Variant, Verdict};
use driftheap::question::notes::{Note, notes};
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{First, JudgeError, Judgement, Search, judge_until};
use driftheap::report::formats::{Case, Ending};
use driftheap::report::json::{self, VariantJson};
use driftheap::report::kernel::{self, Kernel, KernelTotals};
use driftheap::report::merged::Shard;
use driftheap::report::real::{self, Real};
use driftheap::report::verdicts::{self, Mark, Totals, without_answer};
use driftheap::report::{AnsweredVariant, Table};

use super::formats::Formats;
use super::input::{self, Loaded};
use super::interrupt::Interrupt;
use super::kernel::{Question, Version};
use super::out::{Out, is_broken_pipe};
use super::real::{Reality, Replay};
use super::{BROKEN_PIPE, Exit, SearchArgs, pool, shard};

/// Answer the questions of litmus files
///
/// Every variant of every file is explored, all interleavings of it, and compared with what the
/// file's `Result:` expects. A file with mistakes is reported and the others are still checked.
/// Without FILES the bundled suite is checked.
///
/// Columns:
///   expected   what `Result:` says of the variant, `-` if nothing
///   observed   Always, Sometimes or Never: in how many outcomes the condition holds
///   states     states visited; those that no step can tell apart any more are one, and so are those
///              that differ in which of several interchangeable processes is which
///   schedules  complete interleavings (with --reduce: representatives); `>3.4e38`: too many to count
///   shortest   steps of the shortest schedule that shows it (with --reduce: representative)
///   replayed   schedules carried out on real memory: the shortest to each outcome and hazard, and
///              a seeded sample; `-` where this kernel can't, with the reason below the table
///   agreed     of these, those in which every value, errno, signal and byte was the model's
///
///   kernel     with --kernel: of the same schedules in a real kernel, on a real dma_buf of a small
///              module, how many agreed in every value, errno, page table entry and reference
///
/// `Never*` rests on a statement that was refused in every schedule. Up to 16 files, what the
/// answer does not say stands below it: other hazards that can happen, statements that always
/// fail, rules and registers without effect.
///
/// Ctrl-C ends the searches under way and prints what they have seen: `shown` where a schedule shows
/// what is asked, which is enough for `Sometimes`. A limit does the same. A second Ctrl-C ends driftheap.
///
/// Examples:
///   driftheap check my.litmus
///   driftheap check -v ttm-direct-io       outcomes with counts, as herd7 prints them
///   driftheap check --json . | jq 'select(.as_expected | not)'
///
/// Exit status:
///   0  every variant is as expected
///   1  a variant differs, or its search ended before the answer was known
///   2  a file can't be read or has mistakes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CheckArgs {
    /// Files, directories (their *.litmus files), bundled tests by name or row, or `-`
    files: Vec<String>,

    /// Print outcomes, counts and hazards of each variant
    #[arg(short, long, conflicts_with = "json")]
    verbose: bool,

    /// One JSON object per variant and line
    ///
    /// Keys: test, variant, row, expected, observation, as_expected, positive, negative, states,
    /// transitions, schedules, interchangeable (processes of which one order is searched), hazards (kind: length of the shortest schedule to it), shortest
    /// (the process of each step), outcomes, costs, complete, stopped, replayed, agreed, skipped
    /// (null or the reason), difference (null or both sides), kernel (null, or release, replayed,
    /// agreed, compared, skipped, difference (null, or schedule, step, what, model, real, again,
    /// console), bug (null or its report)), notes (line, note), vacuous (a Never that rests on what
    /// did not happen), shown (the search ended early, and a schedule shows it), shard (null, or number, of, job,
    /// jobs, asked). All of it: driftheap schema check.
    #[arg(long)]
    json: bool,

    /// Replay `all` schedules on real memory, N sampled ones a variant, or none (`off`)
    #[arg(long, value_name = "all|N|off", default_value = "20")]
    replay: Replay,

    /// Ask a real kernel, too, in a virtual machine: a third column (the first time fetches it)
    #[arg(long, value_name = "VERSION", num_args = 0..=1, require_equals = true, default_missing_value = "6.12", conflicts_with = "verbose")]
    kernel: Option<Version>,

    /// Stop each search at the first schedule that shows what is asked: `shown`, with its length
    #[arg(long, conflicts_with = "reduce")]
    first: bool,

    /// Answer the K-th of N parts of all variants; `driftheap merge` puts the parts together
    #[arg(long, value_name = "K/N", value_parser = shard::part)]
    shard: Option<(usize, usize)>,

    /// Follow representatives only (partial-order reduction): the same answers, fewer states
    #[arg(long)]
    reduce: bool,

    #[command(flatten)]
    formats: Formats,

    #[command(flatten)]
    search: SearchArgs,
}

/// Notes stand in the table of so many tests, no more: of a whole suite they would be too many.
const NOTED_TESTS_MAX: usize = 16;

/// What is asked besides the model, and how the answers are printed.
#[derive(Clone, Copy)]
struct Ask {
    style: Style,
    replay: Replay,
    kernel: Option<Version>,
    shard: Option<(usize, usize)>,
}

/// How answers are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Table,
    Blocks,
    Json,
}

pub(crate) fn run(args: &CheckArgs, out: &Out) -> anyhow::Result<Exit> {
    let (loaded, bad) =
        if args.files.is_empty() { input::bundled(out) } else { input::load(&args.files, out) };
    let style = match (args.verbose, args.json) {
        (_, true) => Style::Json,
        (true, false) => Style::Blocks,
        (false, false) => Style::Table,
    };
    let search =
        Search { first: args.first.then(First::default), ..args.search.search(args.reduce) };
    let cases = &mut Vec::new();
    let ask = Ask { style, replay: args.replay, kernel: args.kernel, shard: args.shard };
    let (_, exit) = check(&loaded, &search, ask, cases, out)?;
    args.formats.write(cases)?;
    Ok(if bad { Exit::Input } else { exit })
}

/// The bundled suite, with what to do next.
pub(crate) fn suite(out: &Out) -> anyhow::Result<Exit> {
    let (loaded, bad) = input::bundled(out);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let search = Search { threads, ..Search::default() };
    let ask = Ask { style: Style::Table, replay: Replay::default(), kernel: None, shard: None };
    let (totals, exit) = check(&loaded, &search, ask, &mut Vec::new(), out)?;
    if !out.quiet && totals.good() {
        out.text(
            "\nNext:\n  \
             driftheap explain ttm-direct-io   the shortest schedule that goes wrong, step by step\n  \
             driftheap matrix A1-A7            what get_user_pages does on which mapping\n  \
             driftheap list                    the questions\n  \
             driftheap check my.litmus         your own\n",
        )?;
    }
    Ok(if bad { Exit::Input } else { exit })
}

/// A variant's answer, with what it does not say by itself.
type Judged = Result<(Judgement, Vec<Note>), JudgeError>;

/// One variant to answer.
struct Job<'a> {
    loaded: &'a Loaded,
    variant: &'a Variant,
    scenario: Scenario,
    shard: Option<Shard>,
}

/// A job a variant; what can't be asked is said, and is bad input.
fn jobs<'a>(all: &'a [Loaded], out: &Out) -> (Vec<Job<'a>>, Totals, Exit) {
    let (mut jobs, mut totals, mut exit) = (Vec::new(), Totals::default(), Exit::Good);
    for loaded in all {
        match loaded.scenarios() {
            Ok(scenarios) => {
                totals.tests += 1;
                let variants = loaded.test.variants.iter().zip(scenarios);
                jobs.extend(variants.map(|(variant, scenario)| Job {
                    loaded,
                    variant,
                    scenario,
                    shard: None,
                }));
            }
            Err(diagnostics) => {
                input::diagnose(&diagnostics, out);
                exit = Exit::Input;
            }
        }
    }
    (jobs, totals, exit)
}

/// Keeps every `of`-th job, and returns of how many tests these are.
fn choose(
    jobs: &mut Vec<Job<'_>>,
    (number, of): (usize, usize),
    how: &impl std::fmt::Debug,
) -> usize {
    let all = jobs.len();
    let asked = shard::asked(jobs.iter().map(|job| job.loaded.text.as_str()), how);
    let mut index = 0;
    jobs.retain_mut(|job| {
        index += 1;
        job.shard = Some(Shard { number, of, job: index, jobs: all, asked });
        (index - 1) % of == number - 1
    });
    let mut tests: Vec<&str> = jobs.iter().map(|job| job.loaded.file.as_str()).collect();
    tests.dedup();
    tests.len()
}

fn check(
    all: &[Loaded],
    search: &Search,
    ask: Ask,
    cases: &mut Vec<Case>,
    out: &Out,
) -> anyhow::Result<(Totals, Exit)> {
    let style = ask.style;
    let (mut jobs, mut totals, mut exit) = jobs(all, out);
    if let Some(part) = ask.shard {
        let how = (search.reduction, search.first.is_some(), ask.replay, ask.kernel.is_some());
        totals.tests = choose(&mut jobs, part, &how);
    }
    let jobs = jobs;
    let mut reality = Reality::new(ask.replay);
    let table = table(&jobs, ask, out)?;
    // Variants in parallel while there are enough of them; else threads within a variant.
    let threads = search.threads.max(1);
    let inner = Search { threads: (threads / jobs.len().max(1)).max(1), ..*search };
    let so_far = SoFar::new(search.limits.memory_bytes_max);
    let interrupt = Interrupt::hold_back()?;
    let work = |job: &Job<'_>| answer(job, &inner, &so_far, &interrupt);
    let notes = all.len() <= NOTED_TESTS_MAX;
    let printer = Printer { style, notes, table, out };
    let mut count = |mark: Mark, vacuous: bool, states: u64, fails: bool| {
        totals.count(mark, states);
        totals.vacuous += usize::from(vacuous);
        if mark.fails() || fails {
            exit = exit.max(Exit::Differs);
        }
    };
    // With a third answer all are printed when the kernel has given its own.
    let mut held: Vec<(Judged, Second)> = Vec::new();
    let done = |index: usize, result: Judged| {
        out.clear_status();
        // Whoever wants to see what there is waits for no more replays.
        let reality = reality.as_mut().filter(|_| !interrupt.came());
        let real = printer.replay(&jobs[index], &result, reality);
        if ask.kernel.is_some() {
            held.push((result, real));
            return anyhow::Ok(());
        }
        let (mark, vacuous, states) = printer.print(&jobs[index], &result, &real, None)?;
        cases.push(case(&jobs[index], mark, &result, &real));
        count(mark, vacuous, states, real.fails());
        anyhow::Ok(())
    };
    let tick = |finished: usize| {
        out.status(&format!("{finished} of {} variants{} ...", jobs.len(), so_far.text()));
    };
    let abandoned = |error: &anyhow::Error| {
        if is_broken_pipe(error) {
            // Nobody reads on: don't wait for searches that are under way.
            std::process::exit(i32::from(BROKEN_PIPE));
        }
    };
    let result = pool::ordered(&jobs, threads, work, done, tick, abandoned);
    out.clear_status();
    result?;
    let third = match ask.kernel {
        Some(version) => Some(third(&jobs, &held, (ask.replay, version), out)?),
        None => None,
    };
    for (index, (judged, real)) in held.iter().enumerate() {
        let kernel = third.as_ref().and_then(|third| third.answers[index].as_ref());
        let (mark, vacuous, states) = printer.print(&jobs[index], judged, real, kernel)?;
        cases.push(case(&jobs[index], mark, judged, real));
        let differs = kernel.is_some_and(|kernel| kernel.difference.is_some());
        count(mark, vacuous, states, real.fails() || differs);
    }
    if interrupt.came() {
        exit = exit.max(Exit::Differs);
    }
    let all_good = jobs.is_empty() || out.quiet && totals.good();
    if style != Style::Json && !all_good {
        summarise(&totals, reality.as_ref(), third.as_ref(), style, out)?;
    }
    Ok((totals, exit))
}

/// One variant's answer, as far as it comes before an interrupt.
fn answer(
    job: &Job<'_>,
    search: &Search,
    so_far: &SoFar,
    interrupt: &Interrupt,
) -> Result<(Judgement, Vec<Note>), JudgeError> {
    let mut last = None;
    // One schedule that shows it does not make it Always.
    let first = search.first.filter(|_| job.scenario.expected != Some(Verdict::Always));
    let search = Search { first, ..*search };
    let judgement = judge_until(&job.scenario, &search, &mut |progress| {
        so_far.add(last.replace(progress), progress);
        if interrupt.came() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    so_far.forget(last);
    let notes = notes(job.variant, &job.loaded.text, &job.scenario, &judgement, &search);
    Ok((judgement, notes))
}

/// The table, its header printed where there will be one.
fn table(jobs: &[Job<'_>], ask: Ask, out: &Out) -> anyhow::Result<Table> {
    let mut table = verdicts::table(jobs.iter().map(|job| &job.loaded.test), out.paint);
    if ask.replay != Replay::Off {
        real::columns().into_iter().for_each(|column| table.push(column));
    }
    if ask.kernel.is_some() {
        table.push(kernel::column());
    }
    if ask.style == Style::Table && !out.quiet && !jobs.is_empty() {
        out.prose(&table.header())?;
    }
    Ok(table)
}

/// How far the searches have come, all together.
struct SoFar {
    since: Instant,
    states: AtomicU64,
    bytes: AtomicU64,
    /// What one search may take.
    bytes_max: u64,
    depth: AtomicU64,
}

impl SoFar {
    fn new(bytes_max: u64) -> Self {
        let zero = || AtomicU64::new(0);
        Self { since: Instant::now(), states: zero(), bytes: zero(), bytes_max, depth: zero() }
    }

    fn add(&self, before: Option<Progress>, now: Progress) {
        let (states, bytes) = before.map_or((0, 0), |before| (before.states, before.bytes));
        self.states.fetch_add(now.states - states, Ordering::Relaxed);
        self.bytes.fetch_add(now.bytes - bytes, Ordering::Relaxed);
        self.depth.store(u64::from(now.depth), Ordering::Relaxed);
    }

    /// A search has ended, and its memory is free.
    fn forget(&self, last: Option<Progress>) {
        self.bytes.fetch_sub(last.map_or(0, |last| last.bytes), Ordering::Relaxed);
    }

    /// Nothing while all questions are small.
    fn text(&self) -> String {
        let states = self.states.load(Ordering::Relaxed);
        if states == 0 {
            return String::new();
        }
        let rate = states as f64 / self.since.elapsed().as_secs_f64().max(0.001) / 1e3;
        let depth = self.depth.load(Ordering::Relaxed);
        let mib = self.bytes.load(Ordering::Relaxed) >> 20;
        let limit = self.bytes_max >> 20;
        format!(
            ", {states} states, {rate:.0} thousand a second, {depth} steps deep, {mib} MiB (a search \
             may take {limit})"
        )
    }
}

/// What stands below all answers.
fn summarise(
    totals: &Totals,
    reality: Option<&Reality>,
    third: Option<&Third>,
    style: Style,
    out: &Out,
) -> anyhow::Result<()> {
    let gap = if style == Style::Table { "\n" } else { "" };
    out.prose(&format!("{gap}{}", totals.summary(out.paint)))?;
    if let Some(reality) = reality {
        out.prose(&reality.totals.summary(out.paint))?;
    }
    if let Some(third) = third {
        out.prose(&third.totals.summary(&third.release, out.paint))?;
    }
    Ok(())
}

/// What a real kernel said of all variants.
struct Third {
    release: String,
    totals: KernelTotals,
    /// None where the model itself had no answer.
    answers: Vec<Option<Kernel>>,
}

/// Ask the kernel about everything that was judged.
fn third(
    jobs: &[Job<'_>],
    held: &[(Judged, Second)],
    (replay, version): (Replay, Version),
    out: &Out,
) -> anyhow::Result<Third> {
    out.status("asking a real kernel ...");
    let judged = jobs.iter().zip(held).map(|(job, (judged, _))| {
        let (judgement, _) = judged.as_ref().ok()?;
        Some(Question::new(job.loaded, &job.scenario, judgement, replay.schedules()))
    });
    let judged: Vec<Option<Question<'_>>> = judged.collect();
    let asked: Vec<&Question<'_>> = judged.iter().flatten().collect();
    let (release, mut said) = super::kernel::ask(&asked, version)?;
    out.clear_status();
    let mut totals = KernelTotals::default();
    for (question, kernel) in asked.iter().zip(&said) {
        let scenario = question.scenario;
        totals.count(&driftheap::report::full_name(&scenario.test, &scenario.variant), kernel);
    }
    let mut said = said.drain(..);
    let answers = judged.iter().map(|question| question.as_ref().and_then(|_| said.next()));
    let answers = answers.collect();
    Ok(Third { release, totals, answers })
}

struct Printer<'a> {
    style: Style,
    /// Whether the table has the notes below each line; of the suite they would be too many.
    notes: bool,
    table: Table,
    out: &'a Out,
}

/// The second answer to a variant's question.
enum Second {
    /// It was not asked for, or the first could not be had.
    NotAsked,
    /// Real memory's.
    Said(Real),
    /// The executor failed, and said why.
    Broke,
}

impl Second {
    const fn fails(&self) -> bool {
        matches!(self, Self::Broke | Self::Said(Real { difference: Some(_), .. }))
    }
}

/// A variant for other tools.
fn case(job: &Job<'_>, mark: Mark, result: &Judged, second: &Second) -> Case {
    let scenario = &job.scenario;
    let place = format!("{}:", job.loaded.file);
    let said = match result {
        Err(error) => error.to_string(),
        Ok((judgement, _)) => {
            let none = without_answer(judgement.is_shown());
            let mut said = format!(
                "expected {}, observed {}",
                scenario.expected.map_or("-", Verdict::word),
                judgement.observation.map_or(none, Verdict::word)
            );
            if let Some(stop) = judgement.exploration.stopped_text() {
                said.push_str(&format!(" ({stop})"));
            }
            said
        }
    };
    let (difference, skipped) = match second {
        Second::Said(real) => (real.difference.clone(), real.skipped.clone()),
        Second::Broke => (Some("it could not be carried out".to_owned()), None),
        Second::NotAsked => (None, None),
    };
    let ending = match difference {
        _ if mark.fails() => Ending::Fail(said, format!("{place} {}", scenario.condition)),
        Some(difference) => Ending::Fail("real memory differs from the model".into(), difference),
        None => Ending::Pass,
    };
    let notes = skipped.map(|why| format!("real memory was not asked: {why}"));
    let (group, name) = (scenario.test.clone(), scenario.variant.clone());
    Case { group, name, ending, notes: notes.into_iter().collect() }
}

impl Printer<'_> {
    /// Replay schedules of a variant that was judged.
    fn replay(&self, job: &Job<'_>, result: &Judged, reality: Option<&mut Reality>) -> Second {
        let (Ok((judgement, _)), Some(reality)) = (result, reality) else {
            return Second::NotAsked;
        };
        let name = driftheap::report::full_name(&job.scenario.test, &job.scenario.variant);
        match reality.replay(&name, &job.loaded.word, &job.scenario, judgement) {
            Ok(real) => Second::Said(real),
            Err(error) => {
                self.out.error(&format!("{name}: {error}"));
                Second::Broke
            }
        }
    }

    /// Print an answer; returns what it is worth, whether it is vacuous, and its states.
    fn print(
        &self,
        job: &Job<'_>,
        result: &Judged,
        real: &Second,
        kernel: Option<&Kernel>,
    ) -> anyhow::Result<(Mark, bool, u64)> {
        let scenario = &job.scenario;
        let test = &job.loaded.test;
        let (judgement, notes) = match result {
            Ok(judged) => judged,
            Err(error) => {
                let (name, variant) = (&scenario.test, &scenario.variant);
                let row = match self.style {
                    Style::Json => {
                        let row = test.row.as_deref();
                        json::failed_line(name, variant, row, &error.to_string(), job.shard)
                    }
                    Style::Table | Style::Blocks => {
                        self.table.row(&verdicts::failed_cells(name, variant, scenario.expected))
                    }
                };
                self.out.text(&row)?;
                self.out.error(&format!("{}: {name}/{variant}: {error}", job.loaded.file));
                return Ok((Mark::Failed, false, 0));
            }
        };
        let answer = AnsweredVariant { test, scenario, judgement, notes };
        let mark = Mark::of(&answer);
        let difference = kernel.and_then(|kernel| kernel.difference.as_ref());
        let text = match self.style {
            Style::Json => {
                let mut line = VariantJson::new(&answer).with_shard(job.shard);
                if let Second::Said(real) = real {
                    line = line.with_real(real);
                }
                kernel.into_iter().fold(line, VariantJson::with_kernel).line()
            }
            _ if self.out.quiet && !mark.fails() && !real.fails() && difference.is_none() => {
                String::new()
            }
            Style::Table => {
                let mut cells = verdicts::cells(&answer);
                if let Second::Said(real) = real {
                    cells.extend(real::cells(real));
                }
                cells.extend(kernel.map(kernel::cell));
                let mut text = self.table.row(&cells) + &verdicts::costs(&answer);
                if self.notes {
                    text.push_str(&verdicts::notes(&answer, &job.loaded.file));
                }
                text
            }
            Style::Blocks => {
                format!("{}\n", verdicts::block(&answer, &job.loaded.file, self.out.paint))
            }
        };
        match self.style {
            Style::Json => self.out.text(&text)?,
            Style::Table | Style::Blocks => self.out.prose(&text)?,
        }
        if let (Second::Said(Real { difference: Some(difference), .. }), true) =
            (real, self.style != Style::Json)
        {
            self.out.prose(&format!("  {}: {difference}\n", answer.name()))?;
        }
        if let (Some(difference), true) = (difference, self.style != Style::Json) {
            self.out.prose(&format!("  {}: {}", answer.name(), difference.text()))?;
        }
        if let (Style::Table, Some(stop)) = (self.style, judgement.exploration.stopped_text()) {
            self.out.prose(&format!("  {}: {stop}\n", answer.name()))?;
        }
        Ok((mark, answer.vacuous(), judgement.exploration.states))
    }
}
