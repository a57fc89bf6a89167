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

/// A test whose one process takes steps that were once compared wrongly.
fn compared(name: &str, body: &str) -> driftheap::exec::VariantReplay {
    let text = format!("DMABUF {name}\n{body}");
    let scenario = exec_common::scenarios(&format!("{name}.litmus"), &text).remove(0);
    let how = Replays::Sample(50, 1);
    replay_variant(&mut executor(), &scenario, &judged(&scenario), how).expect("replay")
}

/// It agrees, and is really asked.
fn agrees(name: &str, body: &str) {
    let result = compared(name, body);
    assert_eq!((result.first_disagreement, result.skipped), (None, None), "{name}");
    assert!(result.replayed > 0, "{name}");
}

fn is_skipped(name: &str, body: &str, because: &str) {
    let result = compared(name, body);
    assert_eq!(result.first_disagreement, None, "{name}");
    let why = result.skipped.unwrap_or_else(|| panic!("{name} is not skipped"));
    assert!(why.contains(because), "{name}: {why}");
}

/// io_uring has no FOLL_FORCE.
#[test]
fn a_forced_pin_where_the_right_to_write_changes_is_skipped() {
    for (name, steps) in [
        ("taken", "mmap v = anon private rw store v[0] = 5 mprotect v r gup f = v[0] write force"),
        ("given", "mmap v = anon private r gup f = v[0] write force mprotect v rw"),
    ] {
        let steps = steps.replace(" store", "\nstore").replace(" mprotect", "\nmprotect");
        let steps = steps.replace(" gup", "\ngup");
        let body = format!("P0 application {{\n{steps}\n}}\nexists (hazard any)\n");
        is_skipped(name, &body, "FOLL_FORCE");
    }
}

/// `access_error` (arch/x86/mm/fault.c) comes before the fault handler.
#[test]
fn a_write_without_the_right_is_sigsegv_whatever_the_fault_would_say() {
    for (name, kind, first) in [
        ("secret", "pfnmap", "mmap v = A shared r"),
        ("trapped", "shmem", "mmap v = A shared r"),
        ("taken-secret", "pfnmap", "mmap v = A shared rw"),
        ("taken-trapped", "shmem", "mmap v = A shared rw"),
    ] {
        let body = format!(
            "exporter e {{ mmap = {kind} }}
buffer A {{ exporter = e; pages = 1; fill = 1 }}
P0 application {{
    {first}
    await d
    load r = v[0]
    mprotect v r
    s: store v[0] = 3
    mprotect v rw
    t: store v[0] = 4
    gup p = v[0] write
}}
P1 exporter e {{ d: purge A }}
exists (s = SIGSEGV /\\ t = SIGBUS)
"
        );
        agrees(name, &body);
    }
}

/// io_uring keeps the page until the transfer has ended; the model's pin is gone.
#[test]
fn a_fork_while_an_unpinned_transfer_runs_is_skipped() {
    let body = "P0 application {
    mmap v = anon private rw
    store v[0] = 8
    gup p = v[0] write
    unpin p
    fork P2
    store v[0] = 3
}
P1 device { dma_write p[0] = 9 }
P2 child { }
exists (hazard lost-write)
";
    let text = format!("DMABUF leaving\n{body}");
    let scenario = exec_common::scenarios("leaving.litmus", &text).remove(0);
    let schedule = [0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let report = executor().replay(&scenario, &schedule).expect("replay");
    assert_eq!(report.disagreement, None);
    let why = report.inexpressible.expect("it can't be carried out");
    assert!(why.contains("was unpinned and before its transfer has ended"), "{why}");
}

/// vmsplice stands for a pin for writing where fork copies nothing: not where it has to be refused.
#[test]
fn a_pin_for_writing_is_refused_where_vmsplice_stands_for_it() {
    agrees(
        "no-right",
        "host { fork-copies-pinned = no }
P0 application {
    mmap v = anon private r
    load r = v[0]
    g: gup p = v[0] write
    fork P1
}
P1 child { }
exists (g = EFAULT)
",
    );
}

/// `do_mprotect_pkey` (mm/mprotect.c) goes as far as the first page that is not mapped.
#[test]
fn mprotect_goes_as_far_as_the_hole() {
    let body = |pages: u8, hole: u8| {
        format!(
            "P0 application {{
    mmap v = anon private rw pages={pages}
    store v[0] = 1
    store v[{last}] = 1
    munmap v[{hole}]
    m: mprotect v r
    s: store v[{other}] = 2
}}
exists (m = ENOMEM /\\ s = {answer})
",
            last = pages - 1,
            other = u8::from(hole == 0),
            answer = if hole == 0 { "ok" } else { "SIGSEGV" },
        )
    };
    agrees("hole-at-the-end", &body(2, 1));
    agrees("hole-at-the-start", &body(2, 0));
    is_skipped("hole-in-the-middle", &body(3, 1), "a hole with pages behind it");
    for (pages, hole) in [(2, 1), (2, 0)] {
        let text = format!("DMABUF holes\n{}", body(pages, hole));
        let scenario = exec_common::scenarios("holes.litmus", &text).remove(0);
        assert!(judged(&scenario).positive > 0, "{pages} pages without {hole}");
    }
}
