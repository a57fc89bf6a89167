//! Big questions: how long an answer takes and what it needs, against pan and by size.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::Instant;

use driftheap::explore::{Exploration, Explorer, Limits, Reduction};
use driftheap::question::scenario::{Outcome, Scenario};

use crate::litmus::scenario;
use crate::spin::{Pan, pan};

/// `writers` processes and a device write each of `pages` pages, while one moves them.
struct Pages {
    pages: usize,
    writers: usize,
    /// The move waits for the device after it has copied.
    late: bool,
}

const fn pages_of(pages: usize, writers: usize, late: bool) -> Pages {
    Pages { pages, writers, late }
}

fn pages(&Pages { pages, writers, late }: &Pages) -> String {
    let order = if late {
        "; move = [lock notify zap check-pins reserve copy rebind wait free unlock]"
    } else {
        ""
    };
    let mut text = format!(
        "DMABUF pages\nexporter heap {{ mmap = mixedmap-insert-page{order} }}\nimporter gpu {{}}\n\
         buffer A {{ exporter = heap; pages = {pages} }}\n"
    );
    for writer in 0..writers {
        let _ = writeln!(text, "P{writer} application {{\n    mmap v = A shared rw");
        for page in 0..pages {
            let _ = writeln!(text, "    store v[{page}] = {}", 1 + page + 20 * writer);
        }
        text.push_str("}\n");
    }
    let _ = writeln!(
        text,
        "P{writers} device importer gpu {{\n    attach t = A dynamic\n    map s = t\n    submit f = s write"
    );
    for page in 0..pages {
        let _ = writeln!(text, "    dma_write s[{page}] = 99");
    }
    let _ = writeln!(
        text,
        "    signal f\n}}\nP{} exporter heap {{\n    move A -> system\n}}\nexists (hazard lost-write)",
        writers + 1
    );
    text
}

/// An answer, the seconds it took and the bytes a state took.
struct Answer {
    found: Exploration<Outcome>,
    seconds: f64,
    bytes: u64,
}

fn answer(scenario: &Scenario, reduction: Reduction, threads: usize) -> Result<Answer, String> {
    let limits = Limits { states_max: 20_000_000, ..Limits::default() };
    let explorer = Explorer::new(scenario, limits, reduction, threads);
    let (mut bytes, start) = (0, Instant::now());
    let found = explorer
        .explore_with_progress(1, &mut |progress| {
            bytes = progress.bytes;
            ControlFlow::Continue(())
        })
        .map_err(|error| error.to_string())?;
    Ok(Answer { seconds: start.elapsed().as_secs_f64(), bytes, found })
}

/// States that a search by `reduction` visits, or none where it is too big.
fn states(found: &Result<Answer, String>) -> String {
    match found {
        Ok(answer) if answer.found.complete => answer.found.states.to_string(),
        Ok(_) => "> 20 million".to_owned(),
        Err(error) => error.clone(),
    }
}

/// Time to the answer: pan without reduction, with it, and collapsed; the explorer in its three ways.
///
/// pan's models are of the same scenarios, step by step; they count what Promela has beside (where an
/// action ends, fences apart from their jobs), so that numbers of states compare within a column.
pub(crate) fn against_pan() -> Result<(), String> {
    println!(
        "\n{:<18} {:>22} {:>22} {:>22}   {:>22} {:>22} {:>22} {:>11}",
        "states, seconds",
        "pan",
        "pan reduced",
        "pan collapsed",
        "full",
        "live",
        "reduced",
        "bytes/state"
    );
    let move_2 = include_str!("../../spin/move-2.litmus");
    let move_3 = include_str!("../../spin/move-3.litmus");
    let questions = [
        ("move-2", "move", vec!["-DN=2"], move_2.to_owned()),
        ("move-3", "move", vec!["-DN=3"], move_3.to_owned()),
        ("pages-4", "pages", vec!["-DN=4"], pages(&pages_of(4, 2, false))),
        ("pages-4 late", "pages", vec!["-DN=4", "-DLATE=1"], pages(&pages_of(4, 2, true))),
        ("pages-5", "pages", vec!["-DN=5"], pages(&pages_of(5, 2, false))),
    ];
    for (name, model, defines, text) in questions {
        let scenario = scenario(name, &text)?;
        let said = |pan: Result<Pan, String>| match pan {
            Ok(Pan { states, seconds }) => format!("{states} {seconds:.2}"),
            Err(_) => "-".to_owned(),
        };
        let pans = [(false, ""), (true, ""), (false, "-DCOLLAPSE")]
            .map(|(reduce, cflags)| said(pan(model, &defines, reduce, cflags)));
        let ours = [Reduction::Full, Reduction::Live, Reduction::Persistent]
            .map(|reduction| answer(&scenario, reduction, 1));
        let bytes = ours[1].as_ref().map_or(0, |live| live.bytes / live.found.states.max(1));
        let ours = ours.map(|found| {
            let seconds = found.as_ref().map_or(0.0, |answer| answer.seconds);
            format!("{} {seconds:.3}", states(&found))
        });
        let [a, b, c] = pans;
        let [d, e, f] = ours;
        println!("{name:<18} {a:>22} {b:>22} {c:>22}   {d:>22} {e:>22} {f:>22} {bytes:>11}");
    }
    Ok(())
}

/// How questions grow, by pages and by processes, of which the writers are interchangeable, with a bar a
/// line: a character for each doubling.
pub(crate) fn growth() -> Result<(), String> {
    println!(
        "\n{:<26} {:>12} {:>10} {:>10} {:>8} {:>8}",
        "growth", "full", "live", "reduced", "seconds", "MiB"
    );
    let sizes = [1, 2, 4, 8, 16];
    let by_pages = sizes.map(|pages| pages_of(pages, 2, false));
    let late = [1, 2, 4, 8].map(|pages| pages_of(pages, 2, true));
    let by_writers = [0, 1, 2, 3, 4].map(|writers| pages_of(2, writers, false));
    for question in by_pages.into_iter().chain(late).chain(by_writers) {
        let Pages { pages: size, writers, late } = question;
        let scenario = scenario("pages", &pages(&question))?;
        let live = answer(&scenario, Reduction::Live, 1);
        let reduced = answer(&scenario, Reduction::Persistent, 1);
        // What is not kept apart takes minutes to be kept apart.
        let small = size <= 4 && writers <= 3;
        let full =
            if small { states(&answer(&scenario, Reduction::Full, 1)) } else { "-".to_owned() };
        let (seconds, bytes, count) =
            live.as_ref().map_or((0.0, 0, 0), |live| (live.seconds, live.bytes, live.found.states));
        let late = if late { ", late" } else { "" };
        let name = format!("{size} pages, {} processes{late}", writers + 2);
        println!(
            "{name:<26} {full:>12} {:>10} {:>10} {seconds:>8.3} {:>8.1}  {}",
            states(&live),
            states(&reduced),
            bytes as f64 / f64::from(1 << 20),
            "#".repeat(count.max(1).ilog2() as usize)
        );
    }
    Ok(())
}

/// The suite, in three ways.
pub(crate) fn suite() -> Result<(), String> {
    let mut sums = [0u64; 3];
    for test in driftheap::suite::TESTS {
        for scenario in crate::litmus::scenarios(test.name, test.text)? {
            for (sum, reduction) in
                sums.iter_mut().zip([Reduction::Full, Reduction::Live, Reduction::Persistent])
            {
                *sum += answer(&scenario, reduction, 1)?.found.states;
            }
        }
    }
    let [full, live, reduced] = sums;
    println!(
        "\nthe suite: {full} states, {live} live ({:.3}), {reduced} reduced ({:.3})",
        live as f64 / full as f64,
        reduced as f64 / full as f64
    );
    Ok(())
}
