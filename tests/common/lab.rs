//! Litmus texts as scenarios, and what they are explored for.
//!
//! Include it with `#[path = "common/lab.rs"] mod lab;`.

#![allow(dead_code, reason = "not every crate that includes this file uses all of it")]

use driftheap::explore::{Exploration, Explorer, Limits, Reduction};
use driftheap::litmus::rules::ModelRules;
use driftheap::question::scenario::{Outcome, Scenario};
use driftheap::suite::TESTS;

/// Every variant of a litmus text.
pub(crate) fn scenarios(text: &str) -> Vec<Scenario> {
    let test = driftheap::litmus::parse("test.litmus", text, &ModelRules).unwrap_or_else(|found| {
        let found: Vec<_> = found.iter().map(|diagnostic| diagnostic.render(false)).collect();
        panic!("{}\nin\n{text}", found.join("\n"))
    });
    let lower = |variant| Scenario::new(variant, text);
    let scenarios: Result<Vec<_>, _> = test.variants.iter().map(lower).collect();
    scenarios.unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

/// The variant of this name.
pub(crate) fn variant(text: &str, name: &str) -> Scenario {
    let found = scenarios(text).into_iter().find(|scenario| scenario.variant == name);
    found.unwrap_or_else(|| panic!("no variant `{name}` in\n{text}"))
}

/// Every variant of every bundled test.
pub(crate) fn bundled() -> impl Iterator<Item = Scenario> {
    TESTS.iter().flat_map(|test| scenarios(test.text))
}

/// The bundled variant `TEST/VARIANT`.
pub(crate) fn bundled_variant(name: &str) -> Scenario {
    let (test, name) = name.split_once('/').expect("TEST/VARIANT");
    let test = driftheap::suite::find(test).unwrap_or_else(|| panic!("no test `{test}`"));
    variant(test.text, name)
}

/// `TEST/VARIANT`.
pub(crate) fn title(scenario: &Scenario) -> String {
    format!("{}/{}", scenario.test, scenario.variant)
}

/// Explores all of it on so many threads.
pub(crate) fn explore_on(
    scenario: &Scenario,
    reduction: Reduction,
    threads: usize,
) -> Exploration<Outcome> {
    let explorer = Explorer::new(scenario, Limits::default(), reduction, threads);
    let found = explorer.explore().unwrap_or_else(|error| panic!("{}: {error}", title(scenario)));
    assert!(found.complete, "{}: {:?}", title(scenario), found.stopped);
    found
}

/// Explores every interleaving on one thread.
pub(crate) fn explore(scenario: &Scenario) -> Exploration<Outcome> {
    explore_on(scenario, Reduction::Full, 1)
}

/// The last file of A goes while its move has the lock, and the move finds no frames: whoever unlocks
/// looks for what else refers to A.
pub(crate) const A_MOVE_THAT_FAILS: &str = "DMABUF a-move-that-fails
exporter heap {}
importer cam {}
memory { vram = 1; system = 0 }
buffer A { exporter = heap }
P0 device importer cam {
    attach t = A dynamic
    attached: map s = t
}
P1 exporter heap { move A -> system }
P2 application {
    await attached
    close A
}
exists (hazard any)
";

/// Buffer B is given the frame that A's move gave up before it copied: A's flush writes B's cache
/// line back.
pub(crate) const FLUSH_OF_A_FRAME_GIVEN_AWAY: &str = "DMABUF flush-of-a-frame-given-away
exporter heap { coherency = incoherent; move = [lock reserve free flush copy rebind unlock]; purge = [mark] }
importer cam {}
buffer A { exporter = heap }
buffer B { exporter = heap; state = unallocated }
P0 exporter heap {
    await written
    purge B
}
P1 exporter heap { move A -> system }
P2 application {
    await made
    mmap v = B shared rw
    stored: store v[0] = 5
}
P3 device importer cam {
    await stored
    attach t = B
    map m = t
    written: dma_write m[0] = 7
}
P4 exporter heap { made: alloc B }
exists (hazard incoherent)
";

/// What a variable of the environment asks for.
pub(crate) fn asked(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
