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
fn what_is_taken_beside_a_ticket_is_refused() {
    let text = "DMABUF beside-a-ticket
exporter gpu {}
buffer A { exporter = gpu }
buffer B { exporter = gpu }
P0 application { FIRST; SECOND }
exists (hazard any)
";
    let answer = |first: &str, second: &str| {
        let text = text.replace("FIRST", first).replace("SECOND", second);
        let test = driftheap::litmus::parse("t.litmus", &text, &ModelRules).expect("it parses");
        Scenario::new(&test.variants[0], &text).map(drop).map_err(|error| error.message)
    };
    let refused = |first, second, why: &str| {
        let message = answer(first, second).expect_err(second);
        assert!(message.contains(why), "{message}");
    };
    refused("lock A ticket", "lock B", "a reservation without it");
    refused("lock A", "lock B ticket", "with nothing reserved");
    refused("lock A ticket", "lock B ticket", "with nothing reserved");
    refused("lock A, B ticket", "unlock A; lock A", "a reservation without it");
    assert_eq!(answer("lock A, B ticket; unlock A, B", "lock B"), Ok(()));
}

#[test]
fn tickets_keep_any_number_of_jobs_from_waiting_in_a_circle() {
    check(
        "DMABUF three-in-a-circle
(* Result: tickets Never, plain Sometimes, in-order Never *)
exporter gpu {}
buffer A { exporter = gpu }
buffer B { exporter = gpu }
buffer C { exporter = gpu }
P0 application { lock A, B vary by(tickets => ticket, plain => {}, in-order => {}); unlock A, B }
P1 application { lock B, C vary by(tickets => ticket, plain => {}, in-order => {}); unlock B, C }
P2 application {
    lock vary by(tickets => { C, A ticket }, plain => { C, A }, in-order => { A, C })
    unlock A, C
}
exists (hazard deadlock)
",
    );
}

/// `dma_resv_assert_held` in `dma_resv_add_fence` (drivers/dma-buf/dma-resv.c, 6.12): who has reserved the
/// buffer adds the fence, and still has it afterwards.
#[test]
fn a_job_is_submitted_with_the_buffer_reserved() {
    check(
        "DMABUF submitted-under-lock
(* Result: */done Always, */any-hazard Never *)
exporter amdgpu {}
importer gpu {}
buffer A { exporter = amdgpu }
buffer B { exporter = amdgpu }
P0 device importer gpu {
    attach t = A dynamic
    map s = t
    lock A, B vary(plain => {}, ticket => ticket)
    submit f = s write
    done: unlock A, B
    dma_write s[0] = 7
    signal f
}
P1 exporter amdgpu { move A -> system }
exists (vary what(done => { f = ok /\\ done = ok }, any-hazard => { hazard any }))
",
    );
}

/// `check_vma_flags` comes before anything is faulted (`__get_user_pages`, mm/gup.c, 6.12): who is
/// refused for what the mapping is does not wait for its exporter, though it waits for the `mmap_lock`.
#[test]
fn who_may_not_pin_does_not_wait_for_the_exporter() {
    check(
        "DMABUF refused-under-lock
(* Result: pfnmap/* Never, mixedmap/* Always *)
exporter amdgpu { mmap = vary(pfnmap => pfnmap, mixedmap => mixedmap-insert-page) }
buffer A { exporter = amdgpu }
P0 application {
    mmap v = A shared rw
    lock A
    vary(gup => { gup p = v[0] write }, get => { gup p = v[0] get })
    unlock A
}
exists (hazard deadlock)
",
    );
}

/// A zap of a part takes a huge entry of pfns as a whole (`__split_huge_pmd_locked`, mm/huge_memory.c, 6.12):
/// a range that begins a page too late is none the worse for it.
#[test]
fn a_huge_entry_goes_as_a_whole() {
    check(
        "DMABUF zapped-in-part
(* Result: huge Never, small Sometimes *)
exporter ttm { mmap = pfnmap; zap = wrong-range; huge = vary(huge => plain, small => none) }
memory { vram = 2; system = 2 }
buffer A { exporter = ttm; pages = 2 }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    store v[1] = 1
    store v[0] = 2
}
P1 exporter ttm { move A -> system }
exists (hazard any)
",
    );
}

/// `copy_huge_pmd` (mm/huge_memory.c, 6.12) leaves out what the child can fault in: a driver with one VMA
/// pointer, whose zap does not reach the child, finds no entry there.
#[test]
fn a_huge_entry_that_is_not_special_is_not_copied_at_fork() {
    check(
        "DMABUF forked-huge
(* Result: plain Never, devmap Never, special Always, none Always *)
exporter ttm {
    mmap = mixedmap-insert-pfn
    zap = vma-pointer
    huge = vary(plain, devmap, special, none)
}
memory { vram = 2; system = 2 }
buffer A { exporter = ttm; pages = 2 }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    fork P1
    forked: load r1 = v[0]
}
P1 child { await moved; load r0 = v[0] }
P2 exporter ttm { await forked; moved: move A -> system }
exists (hazard any)
",
    );
}

/// An aperture is the device's way: past the CPU's cache, refused to get_user_pages, and gone with the
/// importer's addresses.
#[test]
fn an_aperture_is_the_way_of_the_device() {
    check(
        "DMABUF through-an-aperture
(* Result: */aperture Never, */pages Always *)
exporter amdgpu {
    mmap = pfnmap
    coherency = vary what(incoherent => incoherent, pinned => coherent, still-there => coherent)
}
importer i915 { mmap = vary(aperture => aperture, pages => bypass) }
buffer A { exporter = amdgpu; placement = system }
P0 device importer i915 {
    attach t = A dynamic
    imported: map s = t
    await stored
    submit f = s read
    dma_read r0 = s[0]
    signal f
    unmapped: unmap s
}
P1 application {
    await imported
    mmap v = A shared rw importer i915
    stored: store v[0] = 5
    vary what(incoherent => {}, pinned => { gup p = v[0] write }, still-there => { await unmapped })
    load r1 = v[0]
}
exists (vary what(
    incoherent => hazard incoherent,
    pinned => p = ok,
    still-there => P1:r1 = 5))
",
    );
}

/// An aperture follows a move because its importer's `move_notify` does.
#[test]
fn an_aperture_whose_importer_ignores_move_notify_is_left_behind() {
    check(
        "DMABUF aperture-left-behind
(* Result: handled Never, ignored Sometimes *)
exporter amdgpu { mmap = pfnmap }
importer i915 { mmap = aperture; move-notify = vary(handled, ignored) }
buffer A { exporter = amdgpu }
P0 device importer i915 { attach t = A dynamic; imported: map s = t }
P1 application {
    await imported
    mmap gtt = A shared rw importer i915
    store gtt[0] = 5
    load r0 = gtt[0]
}
P2 exporter amdgpu { await imported; move A -> system }
exists (hazard any)
",
    );
}

/// What of several buffers is not held is left out of an unlock, not all that come after it.
#[test]
fn an_unlock_gives_back_what_is_held_in_any_order() {
    check(
        "DMABUF unlock-in-any-order
(* Result: * Never *)
exporter heap {}
buffer A { exporter = heap }
buffer B { exporter = heap; state = unallocated }
P0 application {
    lock A, B
    vary(as-taken => { unlock A, B }, other-way => { unlock B, A })
    lock A
    unlock A
}
exists (hazard deadlock)
",
    );
}

/// `unmap_mapping_range` flushes the whole address space where another gather is under way in it, if it
/// finds any VMA there: `mm_tlb_flush_nested` (`tlb_finish_mmu`, mm/mmu_gather.c).
#[test]
fn a_zap_flushes_what_a_munmap_of_the_same_process_has_not() {
    check(
        "DMABUF nested-flush
(* Result: unlinked Sometimes, another-mapping Never, another-process Sometimes *)
host { munmap-flush = after-unlink }
exporter drm {}
buffer A { exporter = drm }
P0 application {
    mmap v = A shared rw
    vary on(unlinked => {}, another-mapping => { mmap w = A shared rw }, another-process => {})
    mapped: store v[0] = 1
    munmap v
}
P1 thread of P0 { await mapped; store v[0] = 7; store v[0] = 8 }
P2 exporter drm { await mapped; purge A }
P3 application {
    vary on(unlinked => {}, another-mapping => {}, another-process => { mmap u = A shared rw })
}
exists (hazard use-after-free)
",
    );
}

/// A zap, a copy on write and fork change entries and flush under one lock: no CPU goes by what was.
#[test]
fn what_is_zapped_or_copied_is_flushed_at_once() {
    check(
        "DMABUF zap-and-copy
(* Result: Never *)
exporter drm {}
buffer A { exporter = drm; fill = 1 }
P0 application {
    mmap v = A shared rw
    mmap w = anon private rw
    store w[0] = 1
    begun: load a = w[0]
    await there
    fork P3
    copied: store w[0] = 2
}
P1 thread of P0 {
    await begun
    load b = v[0]
    there: load c = w[0]
    await copied
    load d = w[0]
    await gone
    purged: load e = v[0]
}
P2 exporter drm { await there; gone: purge A }
P3 child { load f = w[0] }
exists (hazard use-after-free \\/ ~(P1:d = 2) \\/ ~(purged = SIGBUS) \\/ ~(P3:f = 1))
",
    );
}

/// Threads share what any of them maps; who comes when it is gone gets SIGSEGV, though its buffer is there.
#[test]
fn threads_share_mappings_and_what_becomes_of_them() {
    check(
        "DMABUF shared-mappings
(* Result: before-unlink/value Sometimes, after-unlink/value Sometimes, */segv Sometimes, */else Never *)
host { munmap-flush = vary(before-unlink, after-unlink) }
exporter drm {}
buffer A { exporter = drm; fill = 3 }
P0 application {
    mapped: mmap v = A shared rw
    await touched
    munmap w
}
P1 thread of P0 {
    await mapped
    touched: mmap w = A shared rw
    load a = v[0]
    last: load b = w[0]
}
exists (vary(value => P1:a = 3 /\\ P1:b = 3, segv => P1:b = SIGSEGV, else => ~(P1:a = 3) \\/ hazard any))
",
    );
}

/// All threads of a process stand before one `mmap_lock`.
#[test]
fn threads_have_one_mmap_lock() {
    check(
        "DMABUF one-mmap-lock
(* Result: thread Always, process Never *)
exporter drm {}
buffer A { exporter = drm }
P0 application { held: mmap_lock P0 write; await mapped; mmap_unlock P0 }
P1 vary(thread => { thread of P0 }, process => application) { await held; mapped: mmap v = A shared rw }
exists (hazard deadlock)
",
    );
}

/// What `mmu_gather` holds is no page that a purge gave back under somebody, and is freed by the flush.
#[test]
fn gathered_pages_are_freed_by_the_flush() {
    check(
        "DMABUF gathered
(* Result: early Never, in-time Always *)
memory { system = 1 }
exporter drm { mmap = mixedmap-insert-page; recycle = allocator }
buffer A { exporter = drm; placement = system }
buffer B { exporter = drm; placement = system; state = unallocated }
P0 application {
    mmap v = A shared rw
    mapped: store v[0] = 1
    flushed: munmap v
}
P1 thread of P0 { await mapped; store v[0] = 2 }
P2 exporter drm {
    await mapped
    purge A
    vary when(early => {}, in-time => { await flushed })
    b: alloc B
}
exists (vary when(early => hazard orphan-mapping /\\ hazard use-after-free, in-time => b = ok))
",
    );
}

/// Entries lose the right to write and have it again, of an ordinary file as of a VM_PFNMAP mapping, and of
/// anonymous memory that is the process's alone: `change_pte_range` (mm/mprotect.c, 6.12).
#[test]
fn mprotect_takes_the_right_to_write_and_gives_it_back() {
    check(
        "DMABUF mprotect-and-back
(* Result: Always *)
exporter drm { mmap = vary(pfnmap, shmem, mixedmap-insert-page, remap-pfn-range) }
buffer A { exporter = drm; placement = system; fill = 1 }
P0 application {
    mmap v = vary(A shared rw, A shared r, anon private rw)
    load q = v[0]
    first: mprotect v r
    refused: store v[0] = 2
    load r = v[0]
    mprotect v rw
    again: store v[0] = 3
    load t = v[0]
    munmap v
    gone: mprotect v r
}
exists (first = ok /\\ refused = SIGSEGV /\\ ~(P0:r = 2) /\\ again = ok /\\ P0:t = 3 /\\ gone = ENOMEM)
",
    );
}

/// MMU_NOTIFY_PROTECTION_VMA: who has a notifier on the range asks again, and may not write any more; but
/// not where mprotect changes nothing (`mprotect_fixup` returns at once).
#[test]
fn mprotect_tells_notifiers_if_it_changes_anything() {
    check(
        "DMABUF mprotect-notifier
(* Result: notifier/r Always, * Never *)
exporter drm {}
importer gpu {}
buffer A { exporter = drm }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    follow_pfn q = v[0] vary(notifier => notifier, none => {})
    changed: mprotect v vary(r, rw)
}
P1 device importer gpu { await changed; written: dma_write q[0] = 7 }
exists (written = EFAULT)
",
    );
}

#[test]
fn mprotect_takes_the_mmap_lock_for_writing() {
    check(
        "DMABUF mprotect-waits
(* Result: read Always, none Never *)
exporter drm {}
buffer A { exporter = drm }
P0 application { mapped: mmap v = A shared rw; await held; changed: mprotect v r }
P1 application {
    await mapped
    held: vary(read => { mmap_lock P0 read }, none => { mmap w = A shared r })
    await changed
    mmap_unlock P0
}
exists (hazard deadlock)
",
    );
}

/// An operation of who has the buffer reserved goes on under that reservation and leaves it, done or refused:
/// `ttm_bo_validate`, `drm_gem_shmem_purge_locked` (the caller holds the `dma_resv`).
#[test]
fn an_operation_keeps_the_reservation_that_its_caller_has() {
    check(
        "DMABUF own-reservation
(* Result: own/*/*/deadlock Always, none/*/*/deadlock Never, * Always *)
exporter e {}
importer i {}
buffer A { exporter = e }
P0 exporter e {
    await there
    vary own(own => { lock A }, none => {})
    done: vary(move A -> system, purge A, revoke A)
    await got
    vary own(own => { unlock A }, none => {})
}
P1 exporter e { await done; got: lock A; unlock A }
P2 device importer i {
    attach t = A dynamic
    there: vary pinned(free => { sync start A rw }, pinned => { dma_buf_pin t })
}
exists (vary(deadlock => hazard deadlock, answer => done = ok \\/ done = EBUSY))
",
    );
}

/// What makes something can be awaited by that name, labelled or not.
#[test]
fn what_a_statement_makes_can_be_awaited() {
    check(
        "DMABUF awaits
(* Result: Always *)
exporter e { mmap = shmem }
buffer A { exporter = e }
P0 application { mmap v = A shared rw; vary(plain => {}, labelled => x:) gup p = v[0] write; await t; munmap v }
P1 device { await p; dma_write p[0] = 7; done: unpin p }
P2 device importer i { attach t = A dynamic }
importer i {}
exists (~hazard deadlock /\\ done = ok)
",
    );
}

/// A name that a statement makes and its label are two names of how it ended, whichever is asked for.
#[test]
fn a_result_has_its_label_and_the_name_of_what_was_made() {
    for condition in ["p = EFAULT", "x = EFAULT", "p = EFAULT /\\ x = EFAULT"] {
        for awaited in ["p", "x"] {
            check(&format!(
                "DMABUF names
(* Result: Always *)
exporter e {{ mmap = pfnmap }}
buffer A {{ exporter = e; placement = system }}
P0 application {{
    mmap v = A shared rw
    x: gup p = v[0] write
}}
P1 device {{ await {awaited} }}
exists ({condition})
"
            ));
        }
    }
}

/// On x86 and arm64 what may be written may be read; get_user_pages goes by VM_READ.
#[test]
fn a_mapping_for_writing_can_be_read() {
    check(
        "DMABUF write-only
(* Result: Always *)
exporter e { mmap = mixedmap-insert-page }
buffer A { exporter = e; placement = system; fill = 3 }
P0 application {
    mmap v = A shared w
    load r = v[0]
    g: gup p = v[0]
}
exists (P0:r = 3 /\\ g = EFAULT)
",
    );
}
