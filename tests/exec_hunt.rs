//! Races on real memory find what the model says is possible, and nothing else.

mod exec_common;

use std::ops::ControlFlow;
use std::time::Duration;

use driftheap::exec::{ExecError, ExecOptions, Executor, HuntOptions, hunt, hunt_supports};
use driftheap::model::HazardKind;
use exec_common::{judged, options, variant};

fn racing() -> Executor {
    Executor::new(ExecOptions { pin_cpu: None, ..options() }).expect("an executor")
}

#[test]
fn a_stale_pin_is_found_by_racing_and_its_schedule_replays() {
    let scenario = variant("insert-page-and-move", "mixedmap-insert-page");
    let judgement = judged(&scenario);
    let mut executor = racing();
    let limits = HuntOptions { time: Duration::from_secs(60), ..HuntOptions::default() };
    let mut found = None;
    let mut first = 0;
    while found.is_none() && first < 20_000 {
        let options = HuntOptions { first, iterations: 500, ..limits };
        let mut go_on = |_: &_| ControlFlow::Continue(());
        let histogram = hunt(&mut executor, &scenario, &judgement, options, &mut go_on).unwrap();
        assert!(histogram.explained(), "{}", histogram.describe(&scenario));
        first += histogram.runs;
        eprintln!("{}", histogram.describe(&scenario));
        found = histogram
            .outcomes
            .into_iter()
            .find(|(outcome, _)| outcome.hazards & HazardKind::CrossBufferWrite.bit() != 0);
    }
    let (_, tally) = found.expect("20,000 races, and none went wrong");
    let report = executor.replay(&scenario, &tally.schedule).expect("replay");
    assert!(report.agreed(), "{report:?}");
    assert!(report.corrupted.iter().any(|hit| hit.kind == HazardKind::CrossBufferWrite));
}

#[test]
fn races_of_the_suite_are_all_explained_by_the_model() {
    let mut executor = racing();
    let mut raced = 0;
    for bundled in driftheap::suite::TESTS {
        for scenario in exec_common::scenarios(bundled.file, bundled.text) {
            if let Err(skip) = hunt_supports(&executor, &scenario) {
                assert!(!skip.reason.is_empty());
                continue;
            }
            let judgement = judged(&scenario);
            let options = HuntOptions { iterations: 20, ..HuntOptions::default() };
            let result = hunt(&mut executor, &scenario, &judgement, options, &mut |_| {
                ControlFlow::Continue(())
            });
            let histogram = match result {
                Ok(histogram) => histogram,
                Err(ExecError::Unsupported(skip)) => {
                    eprintln!("SKIP {}/{}: {skip}", scenario.test, scenario.variant);
                    continue;
                }
                Err(error) => panic!("{}: {error}", scenario.test),
            };
            assert_eq!(histogram.runs, 20);
            assert!(histogram.explained(), "{}", histogram.describe(&scenario));
            raced += 1;
        }
    }
    assert!(raced > 50, "{raced}");
}
