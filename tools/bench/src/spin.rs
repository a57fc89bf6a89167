//! SPIN's pan on the Promela model of the same scenario, as a yardstick for states a second.

use std::path::Path;
use std::process::Command;

use driftheap::explore::{Explorer, Limits, Machine, Reduction};

use crate::compare::timed;

/// Times pan on `tools/spin/move.pml` and the explorer on `machine`, in turn, `rounds` times, and
/// returns a line with the ratios of the best of each. `Ok(None)` where spin is not installed.
///
/// The two do not count the same states: Promela has no frame names to make canonical, and one
/// state more a process where an action ends. What is compared is states a second at about the same
/// length of a state.
pub(crate) fn line<M: Machine>(machine: &M, rounds: usize) -> Result<Option<String>, String> {
    if Command::new("spin").arg("-V").output().is_err() {
        return Ok(None);
    }
    let (mut pan, mut one, mut two) = (0.0f64, 0.0f64, 0.0f64);
    for _ in 0..rounds {
        pan = pan.max(pan_states_per_second()?);
        for (best, threads) in [(&mut one, 1), (&mut two, 2)] {
            let explorer = Explorer::new(machine, Limits::default(), Reduction::Full, threads);
            let (time, found) = timed(|| explorer.explore());
            let found = found.map_err(|error| error.to_string())?;
            *best = best.max(found.states as f64 / time.wall);
        }
    }
    Ok(Some(format!(
        "pan -O2 {:.0} kst/s; explorer 1 thread {:.0} kst/s = {:.2}x pan, 2 threads {:.0} kst/s = \
         {:.2}x pan",
        pan / 1e3,
        one / 1e3,
        one / pan,
        two / 1e3,
        two / pan
    )))
}

fn pan_states_per_second() -> Result<f64, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spin/run");
    let output = Command::new(&script)
        .arg("-DN=3")
        .output()
        .map_err(|error| format!("{}: {error}", script.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    words
        .by_ref()
        .find(|word| *word == "states/s")
        .and_then(|_| words.next())
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| {
            format!("{} said: {text}{}", script.display(), String::from_utf8_lossy(&output.stderr))
        })
}
