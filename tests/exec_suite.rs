//! The bundled suite on real memory: no schedule may show anything but what the model says.

mod exec_common;

use driftheap::exec::{ExecOptions, Executor, Hidden, Replays, replay_variant};
use driftheap::suite::TESTS;
use exec_common::{executor, judged, options, scenarios};

/// Variants that end in a BUG_ON, which can't be tried.
const SKIPPED: [&str; 2] = [
    "ttm-map-private/special-bit/allow/pfnmap/diverged-cow",
    "ttm-map-private/special-bit/allow/pfnmap/kernel-bug",
];

/// Replays the whole suite; what was skipped and why, and the number of variants.
fn replay_suite(executor: &mut Executor, sample: usize) -> (Vec<(String, String)>, usize) {
    let (mut wrong, mut skipped, mut variants) = (Vec::new(), Vec::new(), 0);
    for bundled in TESTS {
        for scenario in scenarios(bundled.file, bundled.text) {
            variants += 1;
            let name = format!("{}/{}", scenario.test, scenario.variant);
            let judgement = judged(&scenario);
            match replay_variant(executor, &scenario, &judgement, Replays::Sample(sample, 1)) {
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
    (skipped, variants)
}

#[test]
fn real_memory_agrees_with_the_model() {
    let mut executor = executor();
    let (skipped, variants) = replay_suite(&mut executor, 20);
    for name in SKIPPED {
        assert!(skipped.iter().any(|(skipped, _)| skipped == name), "{name} can be replayed?");
    }
    let able = executor.abilities();
    if able.userfaultfd && able.io_uring {
        assert!(skipped.len() * 20 <= variants, "of {variants} variants skipped: {skipped:#?}");
    }
}

/// What is hidden, a word of a reason, and how many variants more are skipped for it.
const WITHOUT: [(Hidden, &str, std::ops::Range<usize>); 3] = [
    (Hidden { userfaultfd: true, io_uring: false, memfd_secret: false }, "BUG_ON", 0..1),
    (Hidden { userfaultfd: false, io_uring: true, memfd_secret: false }, "io_uring", 0..200),
    (Hidden { userfaultfd: false, io_uring: false, memfd_secret: true }, "memfd_secret", 0..100),
];

#[test]
fn what_is_missing_is_skipped_and_the_rest_is_right() {
    let (anyway, _) = replay_suite(&mut executor(), 5);
    for (hide, word, more) in WITHOUT {
        let options = ExecOptions { hide, ..options() };
        let mut executor = Executor::new(options).expect("an executor");
        let (skipped, _) = replay_suite(&mut executor, 5);
        assert!(skipped.iter().any(|(_, why)| why.contains(word)), "{hide:?}: {skipped:#?}");
        let found = skipped.len().checked_sub(anyway.len());
        let said = format!("{hide:?}: {} skipped, {} anyway", skipped.len(), anyway.len());
        assert!(found.is_some_and(|found| more.contains(&found)), "{said}");
    }
}
