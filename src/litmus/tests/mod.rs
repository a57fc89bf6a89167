//! Tests of the whole front end.

mod diagnostics;
mod expansion;
mod formatting;
mod roundtrip;

use super::rules::{BlockKind, RuleSpec, RuleTable, RuleText, RuleValues};

/// A small table, made up for the tests.
struct Table;

const HOST: &[RuleSpec] = &[RuleSpec {
    name: "pte-special",
    values: RuleValues::Words(&["yes", "no"]),
    text: RuleText::NONE,
}];
const EXPORTER: &[RuleSpec] = &[
    RuleSpec {
        name: "mmap",
        values: RuleValues::Words(&["pfnmap", "mixedmap-insert-page", "shmem"]),
        text: RuleText::NONE,
    },
    RuleSpec {
        name: "recycle",
        values: RuleValues::Words(&["pool", "allocator"]),
        text: RuleText::NONE,
    },
    RuleSpec {
        name: "move",
        values: RuleValues::Steps(&["lock", "notify", "zap", "wait", "copy", "free"]),
        text: RuleText::NONE,
    },
    RuleSpec { name: "prefault", values: RuleValues::Words(&["y", "n"]), text: RuleText::NONE },
];
const IMPORTER: &[RuleSpec] = &[
    RuleSpec {
        name: "attach",
        values: RuleValues::Words(&["static", "dynamic"]),
        text: RuleText::NONE,
    },
    RuleSpec {
        name: "move-notify",
        values: RuleValues::Words(&["handled", "ignored"]),
        text: RuleText::NONE,
    },
];

impl RuleTable for Table {
    fn rules(&self, kind: BlockKind) -> &[RuleSpec] {
        match kind {
            BlockKind::Host => HOST,
            BlockKind::Exporter => EXPORTER,
            BlockKind::Importer => IMPORTER,
        }
    }
}

fn parse(text: &str) -> Result<super::ast::Test, Vec<super::diag::Diagnostic>> {
    super::parse("t.litmus", text, &Table)
}

/// A file that uses about everything, with three `vary`s.
const FULL: &str = r"# SPDX-License-Identifier: MIT
DMABUF full-example
(* Does everything parse?

   Row: A1
   Source: [PATCH 1/2] dma-buf: Require VM_PFNMAP vma for mmap,
     cover letter
   Source: CVE-2024-44068
   Result: pfnmap/*/none Never, pfnmap/*/x Always,
     * Sometimes *)

host { pte-special = yes }
exporter heap { mmap = vary(pfnmap, mixedmap-insert-page); move = [lock notify, zap copy free] }
importer cam { attach = dynamic; move-notify = handled }
memory { vram = 2; system = 2 }  # frames per placement
buffer A { exporter = heap; pages = 2; placement = vram; fill = 0x10 }
buffer B { exporter = heap; placement = system; state = unallocated }

P0 application {
    mmap v = A shared rw
    mmap half = A private r importer cam pages=1 offset=1
    mmap anon_v = anon private rw pages=2
    store v[1] = 255; load r0 = v[0]
    gup p = v[0] write force longterm
    follow_pfn q = v[0] notifier
    frame_vector f = v[0], anon_v[1] longterm
    vary order(early => { fork P1; munmap half[0] }, late => { munmap half })
    mremap w = v
    # pins go last
    unpin p
    sync start A rw importer cam
    sync end A rw
    close A
    vary order({}, { fork P1 })
}
P1 child {
    load r0 = v[1]
    evict_cache A[1]
}
P2 device importer cam {
    attach t = A dynamic
    attach u = B
    map s = t
    submit job = s bookkeep
    dma_read r1 = s[1]
    dma_write p[0] = 7
    prefetch q[0]
    dma_read r2 = f[1]
    await m
    dma_buf_pin t
    dma_buf_unpin t
    unmap s
    detach t
}
P3 exporter heap {
    m: move A -> system
    vary({}, x => { purge A })
    revoke A
    alloc B
}
P4 hardware { signal job }

exists (hazard cross-buffer-write /\ ~(P0:r0 = 1 \/ P2:r1 != SIGBUS) \/
    m = EBUSY /\ A[1] != 0 \/ p = ok \/ warning \/ hazard any)
count (tlb-flushes, zapped-ptes)
";
