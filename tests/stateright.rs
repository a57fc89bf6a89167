//! The explorer's numbers of states against stateright's, on the same scenarios.

#[path = "common/lab.rs"]
mod lab;
#[path = "common/stateright_adapter.rs"]
mod stateright_adapter;

use stateright_adapter::{Encoded, bfs};

const VARIANTS: &[&str] = &[
    "insert-page-and-move/mixedmap-insert-page",
    "ttm-huge-gup-fast/pfnmap",
    "exporter-honours-pins/look-before-zap/corruption",
    "panfrost-purge/zap-after-truncate/locked",
    "sync-cpu-writes/dropped/not-called",
    "fork-then-move/vma-pointer",
    "one-vma-pointer/vma-pointer/mremap",
    "static-importer-pin/ignore/corruption",
    "dynamic-importer-move/does-not-wait/ignored",
    "revoke-steps/complete",
    "fence-needs-resv/lock-before-signal",
];

fn check(name: &str) {
    let scenario = lab::bundled_variant(name);
    let ours = lab::explore(&scenario);
    let theirs = bfs(Encoded(scenario), 1);
    assert_eq!(ours.states, theirs.unique, "{name}: states");
    assert_eq!(ours.transitions + 1, theirs.generated, "{name}: transitions");
}

#[test]
fn stateright_counts_the_same_states() {
    VARIANTS.iter().for_each(|name| check(name));
}
