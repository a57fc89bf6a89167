//! One machine, several contestants.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use driftheap::explore::{Exploration, Explorer, Limits, Machine, Reduction};
use driftheap::report::chart::Bar;

use crate::stateright_adapter::{Counts, Encoded, Native, bfs};

/// The columns of [`compare`].
pub(crate) fn header() -> String {
    format!(
        "{:<18} {:>9} {:>5} {:>9} {:>9}  {:>9} {:>9} {:>9}  {:>8} {:>8}",
        "machine",
        "states",
        "bytes",
        "kst/s 1t",
        "kst/s 2t",
        "x sr nat.",
        "x sr enc.",
        "x sr 2t",
        "2t/1t",
        "reduced"
    )
}

/// Explores `machine` in every way and returns a line of figures:
///
/// - thousands of states a second with one and with two threads;
/// - how many times as fast as stateright: one thread each with stateright on the machine's own
///   states, the same with stateright on encoded states, two threads each on its own states;
/// - two threads over one by the clock on the wall; states of the reduced search over states of the full one.
///
/// Where one thread is timed it is by the processor's clock, which other programs don't disturb.
///
/// A `symmetric` machine has fewer encodings than states: stateright visits more of its own states
/// then, and the ratios are of states a second, each of its own.
///
/// Fails if the contestants disagree on the number of states.
pub(crate) fn compare<M>(
    name: &str,
    machine: &M,
    rounds: usize,
    symmetric: bool,
) -> Result<(String, Bar), String>
where
    M: Machine + Clone + Send + 'static,
    M::State: Debug + Hash + PartialEq + 'static,
    M::Outcome: PartialEq + Debug,
{
    let explore = |reduction, threads| -> Result<Exploration<M::Outcome>, String> {
        let explorer = Explorer::new(machine, Limits::default(), reduction, threads);
        let found = explorer.explore().map_err(|error| error.to_string())?;
        found.stopped.map_or(Ok(found), |stop| Err(stop.to_string()))
    };
    let full = explore(Reduction::Full, 1)?;
    let reduced = explore(Reduction::Persistent, 1)?;
    if !full.outcomes.keys().eq(reduced.outcomes.keys()) {
        return Err("the reduced search has other outcomes than the full one".to_owned());
    }
    let expected = Counts { unique: full.states, generated: full.transitions + 1 };
    let same = |who: &str, counts: Counts| {
        let difference = format!("{who} counts {counts:?}, the explorer {expected:?}");
        if counts == expected { Ok(()) } else { Err(difference) }
    };

    let mut native_states = full.states;
    let mut times: [Vec<Time>; 5] = Default::default();
    for _ in 0..rounds {
        for (column, threads) in times[..2].iter_mut().zip([1, 2]) {
            let (time, found) = timed(|| explore(Reduction::Full, threads));
            column.push(time);
            if found? != full {
                return Err(format!("{threads} threads give another answer than one"));
            }
        }
        let (time, counts) = timed(|| bfs(Native(machine.clone()), 1));
        times[2].push(time);
        native_states = counts.unique;
        if !symmetric {
            same("stateright", counts)?;
        }
        let (time, counts) = timed(|| bfs(Encoded(machine.clone()), 1));
        times[3].push(time);
        same("stateright on encoded states", counts)?;
        let (time, _) = timed(|| bfs(Native(machine.clone()), 2));
        times[4].push(time);
    }
    let [one, two, native, encoded, native_two] = times.map(least);
    let mut encoding = Vec::new();
    machine.encode(&machine.initial(), &mut encoding, &mut Vec::new());
    let ratio = (full.states as f64 / one.cpu) / (native_states as f64 / native.cpu);
    let said = format!("{ratio:.1} x stateright's");
    let bar = Bar { label: name.to_owned(), value: ratio, said, marked: false };
    let line = format!(
        "{name:<18} {:>9} {:>5} {:>9.0} {:>9.0}  {:>9.1} {:>9.1} {:>9.1}  {:>8.2} {:>8.3}",
        full.states,
        encoding.len(),
        full.states as f64 / one.cpu / 1e3,
        full.states as f64 / two.wall / 1e3,
        ratio,
        encoded.cpu / one.cpu,
        (full.states as f64 / two.wall) / (native_states as f64 / native_two.wall),
        one.wall / two.wall,
        reduced.states as f64 / full.states as f64,
    );
    Ok((line, bar))
}

/// Seconds of one run.
pub(crate) struct Time {
    pub(crate) wall: f64,
    /// Of all threads together.
    cpu: f64,
}

pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (Time, T) {
    let cpu = || {
        let now = clock_gettime(ClockId::ProcessCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    let (start, cpu_start) = (Instant::now(), cpu());
    let result = work();
    (Time { wall: start.elapsed().as_secs_f64(), cpu: cpu() - cpu_start }, result)
}

/// The least of each clock: what else the computer did can only have added to it.
fn least(times: Vec<Time>) -> Time {
    let none = Time { wall: f64::INFINITY, cpu: f64::INFINITY };
    times.iter().fold(none, |least, time| Time {
        wall: least.wall.min(time.wall),
        cpu: least.cpu.min(time.cpu),
    })
}
