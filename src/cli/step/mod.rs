//! `driftheap step`: a test in the terminal, a step at a time.
//!
//! | file | what |
//! |---|---|
//! | `view` | where we are, and what a key does: no terminal in it |
//! | `draw` | a view as text in a grid of cells |
//!
//! Whatever ends it, the terminal is as before: a key, SIGINT, SIGTERM, SIGHUP, SIGQUIT, an error, a
//! panic (ratatui's hook).

mod draw;
#[cfg(test)]
mod tests;
mod view;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use driftheap::litmus::ast::Verdict;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Search, judge};
use driftheap::report::full_name;
use driftheap::report::page::ways;
use nix::sys::signal::Signal;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};

use super::input::Loaded;
use super::interrupt::Interrupt;
use super::out::Out;
use super::{Exit, SearchArgs, one};
use view::{Asked, View};

/// Signals are looked for so often.
const TICK: Duration = Duration::from_millis(200);

/// Step through a test by hand, in the terminal
///
/// Shows memory (a line a frame: whose it is and what it holds), every address that somebody holds
/// (page table entries, pins, sg_tables; stale ones are marked), the test with the line in hand, and
/// at each state the steps that can be taken. It begins with the shortest schedule to what the test
/// asks, at its start.
///
/// Keys:
///   Right, Left      a step along the schedule, a step back
///   Up, Down, Enter  choose one of the next steps, and take it; 1 to 9 take it at once
///   n, N             to the next hazard of the schedule, to the one before
///   Home, End        to its start, to its end
///   s, v             the next schedule, the next variant
///   PageUp, PageDown what does not fit of the picture
///   ?, q             all keys; leave
///
/// It needs a terminal of 40 columns and 12 lines at least. 80 by 24 are enough for what has no more
/// than some frames and entries; what does not fit can be scrolled.
///
/// Examples:
///   driftheap step ttm-direct-io
///   driftheap step A1 --variant mixedmap-insert-page
///   driftheap step my.litmus
///
/// Exit status:
///   0  left
///   2  no terminal, no such test or variant, or a file with mistakes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct StepArgs {
    /// A bundled test by name or row, a file, or `-`
    #[arg(value_name = "NAME|FILE")]
    test: String,

    /// Which variant first [default: the first whose answer is not Never]
    #[arg(long, value_name = "V")]
    variant: Option<String>,

    /// Panic at the first key, to test that the terminal is given back
    #[arg(long, hide = true)]
    panic: bool,

    #[command(flatten)]
    search: SearchArgs,
}

pub(crate) fn run(args: &StepArgs, out: &Out) -> anyhow::Result<Exit> {
    let Some((loaded, scenarios)) = one::load(&args.test, out)? else { return Ok(Exit::Input) };
    if !std::io::stdout().is_terminal() {
        bail!(
            "`step` draws on a terminal, and standard output is none; `driftheap explain {0}` \
             tells the schedule as text, `driftheap replay {0} --schedule 0,0,1` takes steps that \
             are named (--json for programs), `driftheap report {0} -o FILE.html` is a page",
            loaded.word
        );
    }
    if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        bail!(
            "`step` moves the cursor, which this terminal (TERM) can't do; `driftheap explain {}` \
             tells the schedule as text",
            loaded.word
        );
    }
    let search = args.search.search(false);
    let first = first(&scenarios, args.variant.as_deref(), &search, out)?;
    let mut at = first;
    let mut view = view(&loaded, &scenarios[at], &search, out)?;
    let interrupt = Interrupt::hold_back_with(&[Signal::SIGHUP, Signal::SIGQUIT])?;
    let mut terminal = ratatui::try_init().context("can't take over the terminal")?;
    let result = (|| {
        loop {
            let asked = stay(&mut terminal, &mut view, out.paint.colour, &interrupt)?;
            assert!(!args.panic, "it was asked to");
            match asked {
                Asked::Leave => return Ok(()),
                Asked::Variant => {
                    at = (at + 1) % scenarios.len();
                    view = self::view(&loaded, &scenarios[at], &search, out)?;
                }
                Asked::Stay => {}
            }
        }
    })();
    ratatui::try_restore().context("can't give the terminal back")?;
    result.map(|()| Exit::Good)
}

/// The variant to begin with.
fn first(
    scenarios: &[Scenario],
    name: Option<&str>,
    search: &Search,
    out: &Out,
) -> anyhow::Result<usize> {
    if let Some(name) = name {
        return one::position(scenarios, name);
    }
    for (index, scenario) in scenarios.iter().enumerate() {
        out.status(&format!("exploring {}", scenario.variant));
        let judgement = judge(scenario, search, &mut |_| ())?;
        if judgement.observation != Some(Verdict::Never) {
            out.clear_status();
            return Ok(index);
        }
    }
    out.clear_status();
    Ok(0)
}

fn view<'a>(
    loaded: &'a Loaded,
    scenario: &'a Scenario,
    search: &Search,
    out: &Out,
) -> anyhow::Result<View<'a>> {
    let name = full_name(&scenario.test, &scenario.variant);
    let judgement = judge(scenario, search, &mut |_| ()).with_context(|| name.clone())?;
    out.clear_status();
    let answer = judgement.observation.map_or("unknown", Verdict::word);
    Ok(View::new(format!("{name}: {answer}"), scenario, &loaded.text, ways(&judgement)))
}

/// Until a key asks for something that a view can't do itself.
fn stay(
    terminal: &mut DefaultTerminal,
    view: &mut View<'_>,
    colour: bool,
    interrupt: &Interrupt,
) -> anyhow::Result<Asked> {
    loop {
        terminal.draw(|frame| draw::draw(frame, view, colour)).context("can't draw")?;
        while !event::poll(TICK).context("can't wait for a key")? {
            if interrupt.came() {
                return Ok(Asked::Leave);
            }
        }
        // A window that was resized is drawn anew, as after a key.
        let Event::Key(key) = event::read().context("can't read a key")? else { continue };
        match view.key(key) {
            Asked::Stay => {}
            asked @ (Asked::Variant | Asked::Leave) => return Ok(asked),
        }
    }
}
