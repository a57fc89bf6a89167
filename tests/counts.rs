//! Exact numbers of some bundled tests: whoever runs them anywhere must find these.
//!
//! A change of the model, of the lowering or of a bundled text may change them; then the new
//! numbers are right if the outcomes are, and the change should say why.

#[path = "common/lab.rs"]
mod lab;

/// A variant with its states, transitions, complete schedules and outcomes.
const COUNTS: &[(&str, u64, u64, u128, usize)] = &[
    ("insert-page-and-move/pfnmap", 86, 138, 1108, 1),
    ("insert-page-and-move/mixedmap-insert-page", 109, 164, 1335, 4),
    ("ttm-direct-io/free-before-completion", 39, 61, 100, 3),
    ("ttm-huge-gup-fast/ttm", 182, 325, 9699, 4),
    ("exporter-honours-pins/look-after-zap/pin-blocks-move", 85, 133, 560, 2),
    ("panfrost-purge/zap-missing/locked", 63, 87, 77, 6),
    ("move-copy-zap-order/copy-first/fault-unlocked", 106, 150, 1261, 4),
    ("sync-device-writes/forwarded/called", 53, 89, 195, 1),
    ("fork-then-move/address-space", 116, 178, 1500, 1),
    ("one-vma-pointer/address-space/partial-munmap", 77, 113, 216, 1),
    ("userptr-mmu-notifier/wait", 80, 113, 178, 1),
    ("dynamic-importer-move/waits/handled", 66, 81, 31, 1),
    ("revoke-steps/complete", 1831, 3854, 3_815_772, 1),
    ("fence-needs-resv/lock-before-signal", 51, 54, 7, 2),
];

#[test]
fn states_transitions_and_schedules_are_reproducible() {
    let mut found = Vec::new();
    for (name, ..) in COUNTS {
        let all = lab::explore(&lab::bundled_variant(name));
        assert!(all.counts_every_schedule(), "{name}");
        found.push((*name, all.states, all.transitions, all.schedules, all.outcomes.len()));
    }
    assert_eq!(found, COUNTS);
}
