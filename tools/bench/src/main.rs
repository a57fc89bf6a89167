//! Times the explorer against stateright's breadth-first checker, and against itself.
//!
//! Prints one line per machine, then the suite, big questions by size and against pan. Every comparison is a ratio of times measured in the same run on
//! the same machine, the least of several rounds that alternate between the contestants.
//!
//! ```text
//! cargo run --release --manifest-path tools/bench/Cargo.toml [-- ROUNDS [MACHINE]]
//! ```

mod big;
mod compare;
mod litmus;
mod spin;
#[path = "../../../tests/common/stateright_adapter.rs"]
mod stateright_adapter;
#[path = "../../../tests/common/toys.rs"]
mod toys;

use std::process::ExitCode;

use compare::{compare, header};
use driftheap::report::chart;
use toys::{independent, philosophers, workload};

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).map_or(Ok(3), |text| text.parse::<usize>());
    let Ok(rounds @ 1..) = rounds else {
        eprintln!("usage: driftheap-bench [ROUNDS [MACHINE]]   (rounds: from 1, usually 3)");
        return ExitCode::from(2);
    };
    let only = std::env::args().nth(2);
    println!("{}", header());
    let mut bars = Vec::new();
    let tests = [
        ("litmus move-2", include_str!("../../spin/move-2.litmus")),
        ("litmus move-3", include_str!("../../spin/move-3.litmus")),
        ("litmus crowd", include_str!("../crowd.litmus")),
    ];
    for (name, text) in tests {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let line = litmus::scenario(name, text)
            .and_then(|scenario| compare(name, &scenario, rounds, true));
        match line {
            Ok((line, bar)) => {
                println!("{line}");
                bars.push(bar);
            }
            Err(message) => {
                eprintln!("{name}: {message}");
                return ExitCode::FAILURE;
            }
        }
    }
    if only.is_none() {
        let against = litmus::scenario("litmus crowd", include_str!("../crowd.litmus"))
            .and_then(|scenario| spin::line(&scenario, rounds));
        match against {
            Ok(Some(line)) => println!("{line}"),
            Ok(None) => println!("SKIP pan: spin is not installed (apt-get install spin)"),
            Err(message) => {
                eprintln!("pan: {message}");
                return ExitCode::FAILURE;
            }
        }
    }
    if only.is_none()
        && let Err(message) =
            big::suite().and_then(|()| big::growth()).and_then(|()| big::against_pan())
    {
        eprintln!("{message}");
        return ExitCode::FAILURE;
    }
    let machines = [
        ("workload-4x3", workload(4, 3)),
        ("workload-5x2", workload(5, 2)),
        ("philosophers-7x2", philosophers(7, 2)),
        ("independent-5x10", independent(5, 10)),
    ];
    for (name, machine) in machines {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        match compare(name, &machine, rounds, false) {
            Ok((line, bar)) => {
                println!("{line}");
                bars.push(bar);
            }
            Err(message) => {
                eprintln!("{name}: {message}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("\nstates a second of CPU time, by stateright's native BFS");
    print!("{}", chart::text(&bars));
    ExitCode::SUCCESS
}
