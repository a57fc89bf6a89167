//! Histories and splats of schedules made by hand.

use super::{Splat, Story, Teller};
use crate::litmus::parse;
use crate::litmus::rules::ModelRules;
use crate::question::scenario::{Replay, Scenario};
use crate::report::Paint;

/// A move under a pin, in three statements of the application.
const PIN: &str = "DMABUF pin
host { gup-fast = any } exporter heap { mmap = mixedmap-insert-page; RULES }
buffer A { exporter = heap }
buffer B { exporter = heap; state = unallocated }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    gup p = v[0] write longterm
}
P1 device { dma_write p[0] = 7 }
P2 exporter heap {
    move A -> system
    alloc B
}
exists (hazard any)
";

fn replay(text: &str, schedule: &[u8]) -> (Scenario, Replay) {
    let test = parse("t.litmus", text, &ModelRules).unwrap_or_else(|e| panic!("{}", e[0]));
    let scenario = Scenario::new(&test.variants[0], text).unwrap();
    let replay = scenario.replay(schedule).unwrap();
    (scenario, replay)
}

/// The splats of a schedule, each as the lines between its rulers.
fn splats(text: &str, schedule: &[u8]) -> Vec<Vec<String>> {
    let (scenario, replay) = replay(text, schedule);
    let lines = |splat: &Splat| {
        let text = splat.render(Paint::default());
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert!(lines[0].starts_with("====") && lines.last() == lines.first());
        lines[1..lines.len() - 1].to_vec()
    };
    Teller { scenario: &scenario }.splats(&replay).iter().map(lines).collect()
}

/// The only splat of a schedule.
fn check(text: &str, schedule: &[u8], expected: &str) {
    let splats = splats(text, schedule);
    assert_eq!(splats.len(), 1, "{splats:#?}");
    let expected: Vec<&str> = expected.lines().collect();
    assert_eq!(splats[0], expected, "\n{}\n", splats[0].join("\n"));
}

#[test]
fn a_pin_that_outlives_a_move_tells_who_pinned_moved_freed_and_took() {
    let text = PIN.replace("RULES", "move = [zap reserve copy rebind free]");
    // mmap, fault, store, pin | move | alloc | both halves of the DMA
    check(
        &text,
        &[0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 1, 1],
        "\
BUG: driftheap: cross-buffer-write in P1 (device)
Write of value 7 through pin p at step 12, meant for A[0]
The buggy address is frame vram:0, which is B[0] now
A[0] itself is frame system:0
 v mapped (VM_MIXEDMAP) at step 1 by P0 (mmap v = A shared rw, line 6)
 v[0] faulted in: vram:0 at step 2 by P0 (store v[0] = 1, line 7)
 vram:0 pinned by gup_fast as p at step 4 by P0 (gup p = v[0] write longterm, line 8)
 v[0] zapped at step 5 by P2 (move A -> system, line 12); the pin remains
 A[0] moved away to system:0 at step 8 by P2 (move A -> system, line 12)
 frame vram:0 freed at step 9 by P2 (move A -> system, line 12)
 frame vram:0 allocated to B[0] at step 10 by P2 (alloc B, line 13)
 address translated to vram:0 at step 11 by P1 (dma_write p[0] = 7, line 10)",
    );
}

#[test]
fn the_history_is_that_of_the_schedule_not_of_the_test() {
    let text = PIN.replace("RULES", "move = [zap reserve copy rebind free]");
    // The same, with the DMA before the allocation: nobody owns the frame.
    let splats = splats(&text, &[0, 0, 0, 0, 2, 2, 2, 2, 2, 1, 1]);
    assert_eq!(splats.len(), 1);
    let splat = splats[0].join("\n");
    assert!(splat.contains("use-after-free in P1") && splat.contains("which nobody owns now"));
    assert!(!splat.contains("allocated to B[0]"), "{splat}");
    // And before the frame is freed.
    let early = self::splats(&text, &[0, 0, 0, 0, 2, 2, 2, 2, 1, 1]);
    assert!(early[0][0].contains("lost-write"), "{early:?}");
    assert!(early[0].iter().all(|line| !line.contains("freed at")), "{early:?}");
    // And before anything moves: no hazard, no splat.
    assert!(self::splats(&text, &[0, 0, 0, 0, 1, 1]).is_empty());
}

#[test]
fn a_zap_that_misses_says_why() {
    let text = "DMABUF miss
exporter gpu { mmap = pfnmap; move = [zap reserve copy rebind free] }
importer shmem { mmap = keep-file }
buffer A { exporter = gpu }
P0 application {
    mmap v = A shared rw importer shmem
    store v[0] = 1
}
P1 exporter gpu { move A -> system }
exists (hazard any)
";
    check(
        text,
        &[0, 0, 1, 1, 1, 0, 1],
        "\
BUG: driftheap: lost-write in P1 (exporter gpu)
A[0] holds 0, not 1, from step 7 on: a write is lost
The buggy address is frame system:0, which is A[0] now
 v mapped (VM_PFNMAP) at step 1 by P0 (mmap v = A shared rw importer shmem, line 6)
 v[0] faulted in: vram:0 at step 2 by P0 (store v[0] = 1, line 7)
 zap does not reach v[0] at step 3 by P1 (move A -> system, line 9); v hangs off the importer's address_space
 vram:0 copied to system:0 at step 5 by P1 (move A -> system, line 9)
 1 stored in vram:0 through v[0] at step 6 by P0 (store v[0] = 1, line 7)
 A[0] moved away to system:0 at step 7 by P1 (move A -> system, line 9)",
    );
}

#[test]
fn a_cached_pfn_is_not_called_a_pin() {
    let text = "DMABUF pfn
exporter gpu { mmap = pfnmap }
buffer A { exporter = gpu }
P0 application {
    mmap v = A shared rw
    follow_pfn q = v[0]
    munmap v
    close A
}
P1 device { dma_write q[0] = 7 }
exists (hazard any)
";
    check(
        text,
        &[0, 0, 0, 0, 0, 1, 1],
        "\
BUG: driftheap: use-after-free in P1 (device)
Write of value 7 through cached pfn q at step 7, meant for A[0]
The buggy address is frame vram:0, which nobody owns now
 v mapped (VM_PFNMAP) at step 1 by P0 (mmap v = A shared rw, line 5)
 v[0] faulted in: vram:0 at step 2 by P0 (follow_pfn q = v[0], line 6)
 pfn of vram:0 cached as q at step 3 by P0 (follow_pfn q = v[0], line 6); no reference is held
 v[0] zapped at step 4 by P0 (munmap v, line 7); the cached pfn remains
 A released at step 5 by P0 (close A, line 8); that was the last reference
 frame vram:0 freed at step 5 by P0 (close A, line 8)
 address translated to vram:0 at step 6 by P1 (dma_write q[0] = 7, line 10)",
    );
}

#[test]
fn a_pin_that_stops_a_move_is_named() {
    let text = PIN.replace("RULES", "on-foreign-pin = refuse; move = [zap check-pins]");
    let splats = splats(&text, &[0, 0, 0, 0, 2, 2]);
    let lines = &splats[0];
    assert_eq!(lines[1], "The move of A answers EBUSY at step 6: a page is pinned");
    assert!(lines.iter().any(|line| line.starts_with(" vram:0 pinned by gup_fast as p at step 4")));
}

#[test]
fn a_deadlock_says_who_waits_for_what() {
    let text = "DMABUF stuck
exporter gpu { move = [lock wait unlock] }
importer codec {}
buffer A { exporter = gpu }
P0 device importer codec {
    attach t = A dynamic
    map s = t
    submit f = s write
    dma_buf_pin t
    signal f
}
P1 exporter gpu { move A -> system }
exists (hazard deadlock)
";
    check(
        text,
        &[0, 0, 0, 0, 1],
        "\
BUG: driftheap: deadlock in P0 (device codec)
After step 5 nobody can go on
 P0 waits in (dma_buf_pin t, line 9)
 P1 waits in (move A -> system, line 12)
 the reservation lock of A is held by P1
 fence f of P0 is not signalled",
    );
}

#[test]
fn a_deadlock_says_who_has_mmap_lock_and_who_stands_in_line() {
    let text = "DMABUF stuck
exporter gpu {}
buffer A { exporter = gpu }
P0 application {
    mmap v = A shared rw
    load r0 = v[0]
}
P1 application { lock A; mmap_lock P0 read }
P2 application { mmap_lock P0 write }
exists (hazard deadlock)
";
    check(
        text,
        &[0, 1, 0, 2],
        "\
BUG: driftheap: deadlock in P0 (application)
After step 4 nobody can go on
 P0 waits in (load r0 = v[0], line 6)
 P1 waits in (mmap_lock P0 read, line 8)
 P2 waits in (mmap_lock P0 write, line 9)
 the reservation lock of A is held by P1
 the mmap_lock of P0 is held for reading by P0, which faults
 the mmap_lock of P0 lets no reader past P2, which waits to write",
    );
}

/// The younger gives back what it has, and begins again with what it could not have.
#[test]
fn who_backs_off_for_an_older_ticket_is_told() {
    let text = "DMABUF backs-off
exporter gpu {}
buffer A { exporter = gpu }
buffer B { exporter = gpu }
P0 application { lock A, B ticket; unlock A, B }
P1 application { lock B, A ticket; unlock B, A }
exists (hazard any)
";
    let test = parse("t.litmus", text, &ModelRules).unwrap();
    let scenario = Scenario::new(&test.variants[0], text).unwrap();
    let replay = scenario.replay(&[0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1]).unwrap();
    let story = Story::new(&test, &test.variants[0], &scenario, &replay, String::new());
    let told: Vec<&str> = story.steps.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(
        told,
        [
            "ww_acquire_init: a ticket",
            "ww_acquire_init: a ticket",
            "dma_resv_lock: A",
            "dma_resv_lock: B",
            "dma_resv_lock: A: EDEADLK; unlock B",
            "dma_resv_lock: B",
            "dma_resv_unlock: A",
            "dma_resv_lock_slow: A",
            "dma_resv_unlock: B",
            "dma_resv_lock: B",
            "dma_resv_unlock: B",
        ]
    );
}

#[test]
fn steps_are_told_in_the_kernels_nouns_with_the_state_after_them() {
    let text = PIN
        .replace("RULES", "recycle = allocator; move = [zap reserve copy rebind free]")
        .replace("buffer A { exporter = heap }", "buffer A { exporter = heap; placement = system }")
        .replace("A -> system", "A -> vram");
    let test = parse("t.litmus", &text, &ModelRules).unwrap();
    let scenario = Scenario::new(&test.variants[0], &text).unwrap();
    let replay = scenario.replay(&[0, 0, 0, 0, 0, 2, 2, 2, 2, 2]).unwrap();
    let story = Story::new(&test, &test.variants[0], &scenario, &replay, String::new());
    let told: Vec<&str> = story.steps.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(
        told,
        [
            "mmap: VM_MIXEDMAP",
            "fault: vmf_insert_page v[0] -> system:0",
            "1 -> system:0",
            "gup_fast: takes system:0",
            "gup: returns 1 page",
            "move: zap v[0]",
            "move: reserve vram:0",
            "move: copy system:0 -> vram:0",
            "move: rebind: A[0] is vram:0",
            "move: put system:0: references remain",
        ]
    );
    assert_eq!(story.frames, ["vram:0", "system:0"]);
    let states: Vec<String> = story.steps.iter().map(|step| step.frames.join(" ")).collect();
    assert_eq!(states[2], "free A[0]=1");
    assert_eq!(states[6], "new A[0]=0 A[0]=1");
    assert_eq!(states[8], "A[0]=1 old A[0]=1");
    assert_eq!(states[9], "A[0]=1 orphan=1");
    assert_eq!(story.steps[1].changed, ["pte v[0]=system:0 rw"]);
    assert_eq!(story.steps[3].changed, ["pin p=system:0"]);
    assert_eq!(story.steps[5].changed, ["pte v[0] gone"]);
    assert_eq!(story.steps[9].hazards, ["orphan-pin"]);
}

#[test]
fn no_story_is_wider_than_it_must_be() {
    let text = PIN.replace("RULES", "");
    let test = parse("t.litmus", &text, &ModelRules).unwrap();
    let scenario = Scenario::new(&test.variants[0], &text).unwrap();
    let replay = scenario.replay(&[0, 0, 0, 0, 0, 2, 2, 2, 2]).unwrap();
    let story = Story::new(&test, &test.variants[0], &scenario, &replay, String::new());
    for columns in [0, 60, 100, 132, 400] {
        let text = story.render(Paint::default(), columns);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(widest <= columns.max(120), "{widest} for {columns}:\n{text}");
        assert!(text.lines().all(|line| line == line.trim_end()), "blanks at the end of a line");
    }
}
