//! The bundled suite on real memory: no schedule may show anything but what the model says.

mod exec_common;

use driftheap::exec::{Replays, replay_variant};
use driftheap::suite::TESTS;
use exec_common::{executor, judged, scenarios};

/// Variants that end in a BUG_ON, which can't be tried.
const SKIPPED: [&str; 2] =
    ["ttm-map-private/allow/pfnmap/diverged-cow", "ttm-map-private/allow/pfnmap/kernel-bug"];

#[test]
fn real_memory_agrees_with_the_model() {
    let mut executor = executor();
    let (mut wrong, mut skipped, mut variants) = (Vec::new(), Vec::new(), 0);
    for bundled in TESTS {
        for scenario in scenarios(bundled.file, bundled.text) {
            variants += 1;
            let name = format!("{}/{}", scenario.test, scenario.variant);
            let judgement = judged(&scenario);
            match replay_variant(&mut executor, &scenario, &judgement, Replays::Sample(20, 1)) {
                Err(error) => wrong.push(format!("{name}: {error}")),
                Ok(result) => {
                    if let Some((schedule, found)) = result.first_disagreement {
                        wrong.push(format!("{name} {schedule:?}: {found:?}"));
                    } else if let Some(why) = result.skipped {
                        skipped.push((name, why));
                    } else {
                        assert!(result.replayed > 0 && result.compared > 0, "{name}");
                        assert_eq!(result.agreed, result.replayed, "{name}");
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    // A machine that lacks a mechanism skips more, each with its reason; none skips silently.
    assert!(skipped.iter().all(|(_, why)| !why.is_empty()));
    for name in SKIPPED {
        assert!(skipped.iter().any(|(skipped, _)| skipped == name), "{name} can be replayed?");
    }
    let able = executor.abilities();
    if able.userfaultfd && able.io_uring {
        assert!(skipped.len() * 20 <= variants, "of {variants} variants skipped: {skipped:#?}");
    }
}
