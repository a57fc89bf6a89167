//! The bundled suite on real memory: no schedule may show anything but what the model says.

mod exec_common;

use driftheap::exec::{Replays, replay_variant};
use driftheap::suite::TESTS;
use exec_common::{executor, judged, scenarios};

#[test]
fn real_memory_agrees_with_the_model() {
    let mut executor = executor();
    let (mut wrong, mut skipped) = (Vec::new(), Vec::new());
    let (mut variants, mut replayed, mut compared) = (0, 0, 0);
    let sample = std::env::var("SAMPLE").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let only = std::env::var("ONLY").ok();
    for bundled in TESTS {
        if only.as_ref().is_some_and(|only| bundled.name != only && bundled.row != only) {
            continue;
        }
        for scenario in scenarios(bundled.file, bundled.text) {
            variants += 1;
            let name = format!("{} {}/{}", bundled.row, scenario.test, scenario.variant);
            let judgement = judged(&scenario);
            let how = Replays::Sample(sample, 1);
            match replay_variant(&mut executor, &scenario, &judgement, how) {
                Err(error) => wrong.push(format!("{name}: {error}")),
                Ok(result) => {
                    replayed += result.replayed;
                    compared += result.compared;
                    skipped.extend(result.skipped.map(|why| format!("{name}: {why}")));
                    if let Some((schedule, found)) = result.first_disagreement {
                        wrong.push(format!("{name} {schedule:?}: {found:?}"));
                    }
                }
            }
        }
    }
    eprintln!(
        "{variants} variants, {replayed} replayed, {compared} compared, {} skipped:\n{}",
        skipped.len(),
        skipped.join("\n")
    );
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
