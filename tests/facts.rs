//! Facts about Linux that no bundled test is about: each text says what is to be the answer.

use driftheap::litmus::rules::ModelRules;
use driftheap::question::scenario::Scenario;
use driftheap::question::verdict::{Search, judge};

/// Every variant of `text` is answered as its `Result:` says.
#[track_caller]
fn check(text: &str) {
    let test = driftheap::litmus::parse("fact.litmus", text, &ModelRules).unwrap_or_else(|found| {
        let found: Vec<_> = found.iter().map(|diagnostic| diagnostic.render(false)).collect();
        panic!("{}", found.join("\n"))
    });
    for variant in &test.variants {
        let scenario = Scenario::new(variant, text).expect("it fits the model");
        let answer = judge(&scenario, &Search::default(), &mut |_| ()).expect("it is small");
        assert_eq!(variant.expected, answer.observation, "{}/{}", test.name, variant.name);
    }
}

/// The patch's WARN_ON stands behind the exporter's mmap and looks at the VMA, not at the answer.
#[test]
fn the_check_warns_whatever_mmap_answered() {
    check(
        "DMABUF warned-and-refused
(* Result: fd Always, node Never *)
host { dma-buf-mmap-check = warn }
exporter ttm { mmap = pfnmap; cow = reject }
buffer A { exporter = ttm }
P0 application { m: mmap v = A private rw vary(fd => {}, node => node) }
exists (m = EINVAL /\\ warning)
",
    );
}

#[test]
fn a_pfn_cache_with_a_notifier_waits_unless_its_driver_does_not() {
    check(
        "DMABUF pfn-cache-with-notifier
(* Result: */without Sometimes, waits/with Never, does-not-wait/with Sometimes *)
exporter gpu { mmap = pfnmap }
importer userptr { vary(waits => {}, does-not-wait => { notifier = no-wait }) }
buffer A { exporter = gpu }
buffer B { exporter = gpu; state = unallocated }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    follow_pfn q = v[0] vary(without => {}, with => notifier)
}
P1 device importer userptr { dma_write q[0] = 7 }
P2 exporter gpu { move A -> system; alloc B }
exists (hazard cross-buffer-write)
",
    );
}

/// A fault takes the `mmap_lock` by itself: who has it for writing waits for itself, who has it for
/// reading waits behind a writer that waits, as any reader does.
#[test]
fn a_fault_takes_the_mmap_lock_that_its_thread_has() {
    check(
        "DMABUF fault-under-mmap-lock
(* Result: write/alone Always, read/alone Never, read/with-a-writer Sometimes, write/with-a-writer Always *)
exporter amdgpu {}
buffer A { exporter = amdgpu }
P0 application {
    mmap v = A shared rw
    mmap_lock P0 vary(write => write, read => read)
    store v[0] = 1
    mmap_unlock P0
}
P1 application {
    vary(alone => {}, with-a-writer => {
        mmap_lock P0 write
        mmap_unlock P0
    })
}
exists (hazard deadlock)
",
    );
}

#[test]
fn an_operation_under_a_lock_of_its_process_is_refused() {
    let text = "DMABUF moved-under-lock
exporter amdgpu {}
buffer A { exporter = amdgpu }
P0 exporter amdgpu {
    lock A
    move A -> system
    unlock A
}
exists (hazard any)
";
    let test = driftheap::litmus::parse("fact.litmus", text, &ModelRules).expect("it parses");
    let error = Scenario::new(&test.variants[0], text).expect_err("it would lose its lock");
    assert!(error.to_string().contains("takes the buffer's lock by itself"), "{error}");
}
