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
/// length of a state: of pan as it is, which keeps each state as it is, and of pan with `-DCOLLAPSE`,
/// which keeps every part of a state once, as the explorer does.
pub(crate) fn line<M: Machine>(machine: &M, rounds: usize) -> Result<Option<String>, String> {
    if Command::new("spin").arg("-V").output().is_err() {
        return Ok(None);
    }
    let (mut pan, mut collapsed, mut one, mut two) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for _ in 0..rounds {
        pan = pan.max(pan_states_per_second("")?);
        collapsed = collapsed.max(pan_states_per_second("-DCOLLAPSE")?);
        for (best, threads) in [(&mut one, 1), (&mut two, 2)] {
            let explorer = Explorer::new(machine, Limits::default(), Reduction::Full, threads);
            let (time, found) = timed(|| explorer.explore());
            let found = found.map_err(|error| error.to_string())?;
            *best = best.max(found.states as f64 / time.wall);
        }
    }
    Ok(Some(format!(
        "pan -O2 {:.0} kst/s, collapsed {:.0} kst/s; explorer 1 thread {:.0} kst/s = {:.2}x pan, {:.2}x \
         collapsed; 2 threads {:.0} kst/s = {:.2}x pan, {:.2}x collapsed",
        pan / 1e3,
        collapsed / 1e3,
        one / 1e3,
        one / pan,
        one / collapsed,
        two / 1e3,
        two / pan,
        two / collapsed
    )))
}

fn pan_states_per_second(cflags: &str) -> Result<f64, String> {
    let pan = pan("move", &["-DN=3"], false, cflags)?;
    Ok(pan.states as f64 / pan.seconds)
}

/// What pan said of a model.
pub(crate) struct Pan {
    pub(crate) states: u64,
    pub(crate) seconds: f64,
}

/// Runs pan on one of the models in `tools/spin`.
pub(crate) fn pan(
    model: &str,
    defines: &[&str],
    reduce: bool,
    cflags: &str,
) -> Result<Pan, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spin/run");
    let mut command = Command::new(&script);
    command.args(defines).env("SPIN_MODEL", model).env("SPIN_CFLAGS", cflags);
    if reduce {
        command.env("SPIN_REDUCE", "1");
    }
    let output = command.output().map_err(|error| format!("{}: {error}", script.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |name: &str| {
        let mut words = text.split_whitespace();
        words.find(|word| *word == name).and_then(|_| words.next()?.parse::<f64>().ok())
    };
    match (number("states"), number("seconds")) {
        (Some(states), Some(seconds)) => {
            // pan's clock has hundredths.
            Ok(Pan { states: states as u64, seconds: seconds.max(0.01) })
        }
        _ => Err(format!(
            "{} said: {text}{}",
            script.display(),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
