//! `driftheap report`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use driftheap::question::prevent::preventions;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Judgement, Search, judge};
use driftheap::report::kernel::Kernel;
use driftheap::report::page::{self, Entry, Shown};
use driftheap::report::plural;
use driftheap::report::real::Real;
use driftheap::report::story::Prevented;
use driftheap::report::{AnsweredVariant, full_name};

use super::explain::PREVENTIONS_MAX;
use super::input::{self, Loaded};
use super::kernel::{Question, Version};
use super::out::Out;
use super::real::{Reality, Replay};
use super::{Exit, SearchArgs, pool};

/// Write pages that show tests: the answers, a drawing of the schedule, stepping by hand
///
/// A page stands alone: it fetches nothing and needs no server. It has the question, the answer of
/// each variant, what real memory said, and a drawing of memory with everything that holds an
/// address. The shortest schedule that shows what is asked can be played; at each state every
/// next step is a button. A page holds all states of a variant up to 2000; of a larger one those
/// of the schedules that it shows.
///
/// Keys, in the drawing: Left and Right step, Home and End, Space plays, H goes to the hazard,
/// 1 to 9 take one of the next steps.
///
/// Examples:
///   driftheap report -o report              the bundled suite: a page a test, and report/index.html
///   driftheap report ttm-direct-io -o a5.html
///   driftheap report my.litmus -o my.html
///
/// Exit status:
///   0  every variant is as its file expects
///   1  a variant differs, or reached the limit of states before its answer was known
///   2  a file can't be read or has mistakes, or the page can't be written
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ReportArgs {
    /// Files, directories, bundled tests by name or row, or `-` [default: the bundled suite]
    tests: Vec<String>,

    /// Where to: one page if the name ends with .html, otherwise a directory with a page a test
    #[arg(short, long, value_name = "FILE.html|DIR")]
    output: PathBuf,

    /// Replay `all` schedules on real memory, N sampled ones a variant, or none (`off`)
    #[arg(long, value_name = "all|N|off", default_value = "20")]
    replay: Replay,

    /// Ask a real kernel, too, in a virtual machine (the first time fetches it)
    #[arg(long, value_name = "VERSION", num_args = 0..=1, require_equals = true, default_missing_value = "6.12")]
    kernel: Option<Version>,

    #[command(flatten)]
    search: SearchArgs,
}

/// A test that was answered.
struct Answered<'a> {
    loaded: &'a Loaded,
    scenarios: Vec<Scenario>,
    answers: Vec<(Judgement, Option<Real>)>,
    /// What a real kernel said of each variant; empty when it was not asked.
    kernel: Vec<Kernel>,
}

pub(crate) fn run(args: &ReportArgs, out: &Out) -> anyhow::Result<Exit> {
    let (loaded, bad) =
        if args.tests.is_empty() { input::bundled(out) } else { input::load(&args.tests, out) };
    if bad {
        return Ok(Exit::Input);
    }
    let one = args.output.extension().is_some_and(|extension| extension == "html");
    if !one {
        distinct(&loaded)?;
    }
    let mut exit = Exit::Good;
    let mut reality = Reality::new(args.replay);
    let mut answered = Vec::new();
    for loaded in &loaded {
        match answer(loaded, args, reality.as_mut(), out)? {
            Some(test) => answered.push(test),
            None => exit = Exit::Input,
        }
    }
    if let Some(version) = args.kernel {
        ask_kernel(&mut answered, args.replay, version, out)?;
    }
    let threads = args.search.threads();
    let mut articles = Vec::new();
    let mut entries = Vec::new();
    let done = |_: usize, (article, entry): (String, Entry)| {
        if !entry.good {
            exit = exit.max(Exit::Differs);
        }
        articles.push(article);
        entries.push(entry);
        Ok::<(), anyhow::Error>(())
    };
    let tick = |finished: usize| out.status(&format!("{finished} pages ..."));
    let search = args.search.search(false);
    let draw = |answered: &Answered<'_>| draw(answered, &search);
    pool::ordered(&answered, threads, draw, done, tick, |_| ())?;
    out.clear_status();
    let pages = pages(one, &args.output, &entries, &articles);
    let bytes: usize = pages.iter().map(|(_, text)| text.len()).sum();
    let count = pages.len();
    for (path, text) in pages {
        write(&path, &text)?;
    }
    if !out.quiet {
        let open = if one { args.output.clone() } else { args.output.join("index.html") };
        let kib = bytes.div_ceil(1024);
        out.text(&format!(
            "{}: {}, {}, {kib} KiB\n",
            open.display(),
            plural(entries.len(), "test"),
            plural(count, "page")
        ))?;
    }
    Ok(exit)
}

/// Two tests of one name would share a page.
fn distinct(loaded: &[Loaded]) -> anyhow::Result<()> {
    for (index, one) in loaded.iter().enumerate() {
        let name = one.test.name.as_str();
        if name == "index" {
            bail!(
                "{}: the page of a test called `index` would be the list; -o FILE.html",
                one.file
            );
        }
        let Some(other) = loaded[..index].iter().find(|other| other.test.name.text == name) else {
            continue;
        };
        bail!(
            "{} and {} are both called `{name}`, and a page is called as its test is; name one of \
             them otherwise, or write one page: -o FILE.html",
            other.file,
            one.file
        );
    }
    Ok(())
}

/// Answer the variants of a test; none when it has mistakes, which are printed.
fn answer<'a>(
    loaded: &'a Loaded,
    args: &ReportArgs,
    mut reality: Option<&mut Reality>,
    out: &Out,
) -> anyhow::Result<Option<Answered<'a>>> {
    let scenarios = match loaded.scenarios() {
        Ok(scenarios) => scenarios,
        Err(diagnostics) => {
            input::diagnose(&diagnostics, out);
            return Ok(None);
        }
    };
    let search = args.search.search(false);
    let mut answers = Vec::new();
    for scenario in &scenarios {
        let name = full_name(&scenario.test, &scenario.variant);
        out.status(&format!("exploring {name}"));
        let judgement = judge(scenario, &search, &mut |_| ()).with_context(|| name.clone())?;
        let replay = |reality: &mut Reality| {
            reality.replay(&name, &loaded.word, scenario, &judgement).unwrap_or_else(|error| Real {
                difference: Some(format!("it could not be carried out: {error}")),
                ..Real::default()
            })
        };
        let real = reality.as_deref_mut().map(replay);
        answers.push((judgement, real));
    }
    Ok(Some(Answered { loaded, scenarios, answers, kernel: Vec::new() }))
}

/// Asks a real kernel about all variants at once.
fn ask_kernel(
    answered: &mut [Answered<'_>],
    replay: Replay,
    version: Version,
    out: &Out,
) -> anyhow::Result<()> {
    out.status("asking a real kernel ...");
    let mut asked = Vec::new();
    for test in answered.iter() {
        for (scenario, (judgement, _)) in test.scenarios.iter().zip(&test.answers) {
            asked.push(Question::new(test.loaded, scenario, judgement, replay.schedules()));
        }
    }
    let (_, said) = super::kernel::ask(&asked.iter().collect::<Vec<_>>(), version)?;
    drop(asked);
    out.clear_status();
    let mut said = said.into_iter();
    for test in answered {
        test.kernel = said.by_ref().take(test.scenarios.len()).collect();
    }
    Ok(())
}

fn draw(answered: &Answered<'_>, search: &Search) -> (String, Entry) {
    let loaded = answered.loaded;
    let test = &loaded.test;
    let mut shown: Vec<Shown<'_>> = answered
        .scenarios
        .iter()
        .zip(&answered.answers)
        .enumerate()
        .map(|(index, (scenario, (judgement, real)))| {
            Shown::new(&AnsweredVariant { test, scenario, judgement, notes: &[] }, real.as_ref())
                .with_kernel(answered.kernel.get(index))
        })
        .collect();
    // As many threads as there are draw pages already.
    let search = Search { threads: 1, ..*search };
    for (shown, scenario) in shown.iter_mut().zip(&answered.scenarios) {
        let variant = test.variants.iter().find(|variant| variant.name == scenario.variant);
        if let Some(variant) = variant.filter(|_| shown.has_hazard()) {
            let found =
                preventions(test, variant, &loaded.text, &search, PREVENTIONS_MAX, &|| true);
            let lines: Vec<Prevented> = found.iter().map(Prevented::new).collect();
            shown.prevented_by(&lines);
        }
    }
    (page::article(test, &answered.loaded.text, &shown), Entry::new(test, &shown))
}

/// The files to write.
fn pages(
    one: bool,
    output: &Path,
    entries: &[Entry],
    articles: &[String],
) -> Vec<(PathBuf, String)> {
    if one {
        let (title, mut parts) = match entries {
            [entry] => (entry.name.clone(), Vec::new()),
            _ => ("Litmus tests".to_owned(), vec![page::index(entries, false)]),
        };
        parts.extend_from_slice(articles);
        return vec![(output.to_owned(), page::document(&title, &parts, false))];
    }
    let list = page::document("Litmus tests", &[page::index(entries, true)], false);
    let mut pages = vec![(output.join("index.html"), list)];
    for (entry, article) in entries.iter().zip(articles) {
        let text = page::document(&entry.name, std::slice::from_ref(article), true);
        pages.push((output.join(page::file_name(&entry.name)), text));
    }
    pages
}

pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    write_bytes(path, text.as_bytes())
}

pub(super) fn write_bytes(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("can't make the directory {}", directory.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("can't write {}", path.display()))
}
