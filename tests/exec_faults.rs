//! Actors that die or hang: a clear error in bounded time, and no process left behind.

mod exec_common;

use std::path::Path;
use std::time::{Duration, Instant};

use driftheap::exec::{ExecError, ExecOptions, Executor};
use driftheap::question::scenario::Scenario;
use exec_common::{judged, options, variant};
use rustix::process::{Pid, Signal, kill_process};

/// No answer takes so long on any machine that works.
const BOUND: Duration = Duration::from_secs(20);

fn short() -> Executor {
    let options = ExecOptions { timeout: Duration::from_millis(500), ..options() };
    Executor::new(options).expect("an executor")
}

fn a1() -> (Scenario, Vec<u8>) {
    let scenario = variant("insert-page-and-move", "mixedmap-insert-page");
    let schedule = judged(&scenario).shortest.expect("A1 goes wrong");
    (scenario, schedule)
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("our own child");
}

/// Ended and reaped: there is no such process any more.
fn gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn check(signal: Signal, expected: fn(&ExecError) -> bool) {
    let (scenario, schedule) = a1();
    let mut executor = short();
    assert!(executor.replay(&scenario, &schedule).expect("replay").agreed());
    let pids = executor.actor_pids();
    assert!(pids.len() >= 2, "an actor and the witness: {pids:?}");
    send(pids[0], signal);
    let before = Instant::now();
    let error = executor.replay(&scenario, &schedule).expect_err("an actor is not there");
    assert!(before.elapsed() < BOUND);
    assert!(expected(&error), "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("process {}", pids[0])) && text.contains("P0"), "{text}");
    assert!(pids.iter().all(|pid| gone(*pid)), "left behind after {error}");
    // And it works again, with new processes.
    assert!(executor.replay(&scenario, &schedule).expect("replay").agreed());
    let pids = executor.actor_pids();
    drop(executor);
    assert!(pids.iter().all(|pid| gone(*pid)), "left behind by drop");
}

#[test]
fn a_killed_actor_is_reported() {
    check(Signal::KILL, |error| matches!(error, ExecError::Died { .. }));
}

#[test]
fn a_stopped_actor_is_reported_and_killed() {
    check(Signal::STOP, |error| matches!(error, ExecError::Hung { .. }));
}

#[test]
fn forked_children_end_with_their_schedule() {
    let scenario = exec_common::bundled("fork-then-move").remove(0);
    let outcomes = judged(&scenario).exploration.outcomes;
    let schedule = &outcomes.values().next().expect("an outcome").shortest;
    let mut executor = short();
    let children = || {
        let me = std::process::id();
        let task = format!("/proc/{me}/task");
        let mut all = String::new();
        for thread in std::fs::read_dir(task).expect("/proc").flatten() {
            all += &std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        }
        all
    };
    for _ in 0..3 {
        assert!(executor.replay(&scenario, schedule).expect("replay").agreed());
        for pid in executor.actor_pids() {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let left = std::fs::read_to_string(path).unwrap_or_default();
            assert_eq!(left.trim(), "", "an actor kept a child");
        }
    }
    let pids = executor.actor_pids();
    drop(executor);
    let left = children();
    assert!(pids.iter().all(|pid| !left.split(' ').any(|one| one == pid.to_string())), "{left}");
}

#[test]
fn a_program_that_is_no_actor_is_an_error() {
    let options = ExecOptions { program: "/bin/true".into(), ..options() };
    let before = Instant::now();
    let error = Executor::new(options).expect_err("true is not an actor");
    assert!(matches!(error, ExecError::Setup { .. } | ExecError::Link(_)), "{error}");
    let options = ExecOptions { program: "/nonexistent".into(), ..exec_common::options() };
    let error = Executor::new(options).expect_err("no such program");
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    assert!(before.elapsed() < BOUND);
}
