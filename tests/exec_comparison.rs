//! The comparison can fail, and hazards are really seen in memory.

mod exec_common;

use std::collections::BTreeSet;

use driftheap::exec::{Executor, Replays, Sabotage, replay_variant};
use driftheap::model::HazardKind;
use exec_common::{executor, judged, options, variant};

/// What the executor pretends the model said, and a variant whose replay must notice.
const SABOTAGES: [(Sabotage, &str, &str); 6] = [
    (Sabotage::LoadedValues, "sigbus-after-purge", "-"),
    (Sabotage::NoFaults, "insert-page-and-move", "pfnmap"),
    (Sabotage::NoZaps, "insert-page-and-move", "mixedmap-insert-page"),
    (Sabotage::PinsSucceed, "insert-page-and-move", "pfnmap"),
    (Sabotage::DmaElsewhere, "vb2-userptr-follow-pfn", "-"),
    (Sabotage::NoCopies, "insert-page-and-move", "pfnmap"),
];

#[test]
fn a_wrong_model_is_caught() {
    for (sabotage, test, name) in SABOTAGES {
        let scenario = first_variant(test, name);
        let judgement = judged(&scenario);
        for pretended in [None, Some(sabotage)] {
            let options = driftheap::exec::ExecOptions { sabotage: pretended, ..options() };
            let mut executor = Executor::new(options).expect("an executor");
            let how = Replays::Sample(50, 7);
            let result = replay_variant(&mut executor, &scenario, &judgement, how).expect("replay");
            assert_eq!(result.skipped, None, "{test}");
            let caught = result.first_disagreement.is_some();
            assert_eq!(caught, pretended.is_some(), "{sabotage:?} in {test}: {result:?}");
        }
    }
}

/// The variant of this name, or the first.
fn first_variant(test: &str, name: &str) -> driftheap::question::scenario::Scenario {
    let mut all = exec_common::bundled(test);
    let at = all.iter().position(|scenario| scenario.variant == name).unwrap_or(0);
    all.swap_remove(at)
}

/// Hazards whose shortest schedule leaves, or returns, a byte that is wrong.
const VISIBLE: [HazardKind; 3] =
    [HazardKind::CrossBufferWrite, HazardKind::LostWrite, HazardKind::StaleRead];

#[test]
fn corrupted_bytes_are_read_back_by_another_process() {
    let mut executor = executor();
    let mut tests = BTreeSet::new();
    let mut hits = 0;
    for bundled in driftheap::suite::TESTS {
        for scenario in exec_common::scenarios(bundled.file, bundled.text) {
            if executor.supports(&scenario).is_err() {
                continue;
            }
            let judgement = judged(&scenario);
            let name = format!("{}/{}", scenario.test, scenario.variant);
            for kind in VISIBLE {
                let Some(schedule) = judgement.hazards.get(&kind) else { continue };
                let report = executor.replay(&scenario, schedule).expect("replay");
                if let Some(reason) = &report.inexpressible {
                    eprintln!("SKIP {name}: {reason}");
                    continue;
                }
                assert!(report.agreed(), "{name}: {report:?}");
                let hit = report.corrupted.iter().find(|hit| hit.kind == kind);
                let Some(hit) = hit else {
                    // A lost write of what was there before leaves nothing to see.
                    assert_eq!(kind, HazardKind::LostWrite, "{name}: {report:?}");
                    continue;
                };
                assert_ne!(hit.pid, std::process::id(), "the conductor is not a witness");
                assert_ne!(hit.pid, 0, "{name}");
                assert_ne!(Some(hit.found), hit.expected, "{name}");
                hits += 1;
                tests.insert(bundled.name);
            }
        }
    }
    assert!(tests.len() >= 20, "{hits} in {tests:?}");
}

#[test]
fn the_victim_is_named() {
    let scenario = variant("insert-page-and-move", "mixedmap-insert-page");
    let judgement = judged(&scenario);
    let schedule = &judgement.hazards[&HazardKind::CrossBufferWrite];
    let report = executor().replay(&scenario, schedule).expect("replay");
    let hit = &report.corrupted[0];
    assert_eq!((hit.what.as_str(), hit.frame.as_str()), ("B[0]", "system:0"));
    assert_eq!((hit.found, hit.expected), (7, Some(0)));
}

/// A test has as many frames as it says; this machine has more, and a process goes on there.
#[test]
fn memory_that_runs_out_in_the_model_alone_is_skipped() {
    let text = "DMABUF runs-out
memory { system = 1 }
P0 application {
    mmap v = anon private rw pages=2
    store v[0] = 1
    store v[1] = 2
}
exists (hazard any)
";
    let mut executor = executor();
    let scenario = exec_common::scenarios("runs-out.litmus", text).remove(0);
    let result =
        replay_variant(&mut executor, &scenario, &judged(&scenario), Replays::Sample(5, 1));
    let why = result.expect("replay").skipped.expect("it is skipped");
    assert!(why.contains("finds no frame for anonymous memory"), "{why}");
}

/// What a move gave back while an entry stayed is a private page next, in the model: no process gets a
/// page from this test's pool.
#[test]
fn a_private_page_in_a_stale_frame_is_skipped() {
    let text = "DMABUF private-in-stale
exporter heap { move = [lock reserve copy rebind free unlock] }
buffer A { exporter = heap; placement = system }
P0 application {
    mmap k = A shared rw
    load r0 = k[0]
    move A -> cma
    mmap v = anon private rw
    store v[0] = 2
    load r1 = k[0]
}
exists (P0:r1 = 2)
";
    let mut executor = executor();
    let scenario = exec_common::scenarios("private-in-stale.litmus", text).remove(0);
    let result =
        replay_variant(&mut executor, &scenario, &judged(&scenario), Replays::Sample(5, 1));
    let why = result.expect("replay").skipped.expect("it is skipped");
    assert!(why.contains("something stale still reaches"), "{why}");
}
