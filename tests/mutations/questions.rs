//! What a list of steps must get right.

/// A question that a list of steps must answer right. `@JOB` stands for the operation on buffer A.
pub(crate) struct Question {
    pub(crate) asks: &'static str,
    pub(crate) text: &'static str,
    /// For which operations; `right` is the body of the `forall`.
    pub(crate) of: &'static [(&'static str, &'static str)],
}

const ALL_THREE: &[(&str, &str)] = &[
    ("move", "~ hazard any /\\ op = ok /\\ b = ok"),
    ("purge", "~ hazard any /\\ op = ok /\\ b = ok"),
    ("revoke", "~ hazard any /\\ op = ok /\\ b = ok"),
];

const ONE_OF_TWO: &str = "~ hazard any /\\ ~ P2:r0 = 0 /\\ \
     (op = ok /\\ op2 = EINVAL \\/ op = EINVAL /\\ op2 = ok)";
const GONE_OR_OK: &str = "~ hazard any /\\ (op = ok \\/ op = EINVAL) /\\ b = ok";
const LAST_REFERENCE: &[(&str, &str)] =
    &[("move", GONE_OR_OK), ("purge", GONE_OR_OK), ("revoke", GONE_OR_OK)];

pub(crate) const QUESTIONS: &[Question] = &[
    Question {
        asks: "a CPU writes and reads while the only frames are given to the next buffer",
        text: "
exporter gpu { @LIST }
memory { vram = 1; system = 1 }
buffer A { exporter = gpu }
buffer B { exporter = gpu; state = unallocated }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    store v[0] = 2
    load r0 = v[0]
}
P1 exporter gpu {
    op: @JOB
    b: alloc B
}",
        of: &[
            ("move", "~ hazard any /\\ op = ok /\\ b = ok /\\ P0:r0 = 2 /\\ A[0] = 2"),
            ("purge", "~ hazard any /\\ op = ok /\\ b = ok /\\ (P0:r0 = 2 \\/ P0:r0 = SIGBUS)"),
            (
                "revoke",
                "~ hazard any /\\ op = ok /\\ b = ok /\\ \
                 (P0:r0 = 2 \\/ P0:r0 = SIGBUS \\/ P0:r0 = SIGSEGV)",
            ),
        ],
    },
    Question {
        asks: "a CPU writes a buffer of two pages that nobody else maps, behind a cache",
        text: "
exporter gpu { coherency = incoherent; @LIST }
buffer A { exporter = gpu; pages = 2 }
buffer B { exporter = gpu; state = unallocated }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    store v[1] = 2
    load r0 = v[0]
}
P1 exporter gpu {
    op: @JOB
    b: alloc B
}
P2 hardware { evict_cache A[0] }",
        of: &[
            ("move", "~ hazard any /\\ op = ok /\\ P0:r0 = 1 /\\ A[0] = 1 /\\ A[1] = 2"),
            ("purge", "~ hazard any /\\ op = ok /\\ (P0:r0 = 1 \\/ P0:r0 = SIGBUS)"),
            (
                "revoke",
                "~ hazard any /\\ op = ok /\\ \
                 (P0:r0 = 1 \\/ P0:r0 = SIGBUS \\/ P0:r0 = SIGSEGV)",
            ),
        ],
    },
    Question {
        asks: "a dynamic importer runs two fenced jobs, and the CPU reads what they wrote",
        text: "
exporter gpu { @LIST }
importer rdma {}
buffer A { exporter = gpu }
buffer B { exporter = gpu; state = unallocated }
P0 device importer rdma {
    attach t = A dynamic
    map s = t
    submit f = s write
    dma_write s[0] = 7
    signal f
    submit g = s bookkeep
    dma_read r0 = s[0]
    signal g
    unmap s
}
P1 exporter gpu {
    op: @JOB
    b: alloc B
}",
        of: ALL_THREE,
    },
    Question {
        asks: "a dynamic importer maps again without a job, and prefetches until it unmaps",
        text: "
exporter gpu { @LIST }
importer vfio {}
buffer A { exporter = gpu }
buffer B { exporter = gpu; state = unallocated }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
}
P1 device importer vfio {
    attach t = A dynamic
    map s = t
    submit f = s write
    dma_write s[0] = 7
    signal f
    prefetch s[0]
    unmap s
    detach t
}
P2 exporter gpu {
    op: @JOB
    b: alloc B
}",
        of: &[("revoke", "~ hazard any /\\ op = ok /\\ b = ok")],
    },
    Question {
        asks: "a static importer has pinned the buffer; a process maps it after the EBUSY",
        text: "
exporter gpu { @LIST }
importer v4l2 {}
buffer A { exporter = gpu }
buffer B { exporter = gpu; state = unallocated }
P0 device importer v4l2 {
    attach t = A static
    mapped: map s = t
    dma_write s[0] = 7
    dma_read r0 = s[0]
}
P1 exporter gpu {
    await mapped
    op: @JOB
    b: alloc B
    mmap v = A shared r
    load r1 = v[0]
}",
        of: &[
            ("move", "~ hazard any /\\ op = EBUSY /\\ b = ok /\\ ~ P1:r1 = SIGBUS /\\ P0:r0 = 7"),
            ("purge", "~ hazard any /\\ op = EBUSY /\\ b = ok /\\ ~ P1:r1 = SIGBUS /\\ P0:r0 = 7"),
        ],
    },
    Question {
        asks: "get_user_pages races with an exporter that refuses to move pinned pages",
        text: "
exporter heap { mmap = mixedmap-insert-page; on-foreign-pin = refuse; @LIST }
buffer A { exporter = heap }
buffer B { exporter = heap; state = unallocated }
P0 application {
    mmap v = A shared rw
    gup p = v[0] write longterm
}
P1 device { dma_write p[0] = 7 }
P2 exporter heap {
    op: @JOB
    b: alloc B
}",
        of: &[
            (
                "move",
                "~ (hazard cross-buffer-write \\/ hazard lost-write \\/ hazard use-after-free \\/ \
                 hazard deadlock \\/ hazard kernel-bug) /\\ (op = EBUSY \\/ ~ hazard any) /\\ \
                 b = ok /\\ A[0] = 7",
            ),
            (
                "purge",
                "~ (hazard cross-buffer-write \\/ hazard lost-write \\/ hazard use-after-free \\/ \
                 hazard deadlock \\/ hazard kernel-bug) /\\ (op = EBUSY \\/ ~ hazard any) /\\ \
                 b = ok",
            ),
        ],
    },
    Question {
        asks: "a pinned buffer does not move, and costs another allocation no frame for a moment",
        text: "
exporter gpu { @LIST }
importer v4l2 {}
memory { vram = 1; system = 1 }
buffer A { exporter = gpu; fill = 1 }
buffer B { exporter = gpu; placement = system; state = unallocated }
P0 device importer v4l2 {
    attach t = A static
    mapped: map s = t
}
P1 exporter gpu {
    await mapped
    op: @JOB
}
P2 exporter gpu { b: alloc B }",
        of: &[("move", "~ hazard any /\\ (op = EBUSY /\\ b = ok) /\\ A[0] = 1")],
    },
    Question {
        asks: "there is no memory to move to",
        text: "
exporter gpu { @LIST }
memory { vram = 1; system = 0 }
buffer A { exporter = gpu }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    load r0 = v[0]
}
P1 exporter gpu { op: @JOB }",
        of: &[("move", "~ hazard any /\\ op = ENOMEM /\\ P0:r0 = 1 /\\ A[0] = 1")],
    },
    Question {
        asks: "a userptr importer with an mmu notifier that waits",
        text: "
exporter gpu { @LIST }
importer userptr { notifier = wait }
buffer A { exporter = gpu }
buffer B { exporter = gpu; state = unallocated }
P0 application {
    mmap v = A shared rw
    store v[0] = 1
    follow_pfn q = v[0]
}
P1 device importer userptr { dma_write q[0] = 7 }
P2 exporter gpu {
    op: @JOB
    b: alloc B
}",
        of: ALL_THREE,
    },
    Question {
        asks: "two exporters' threads at the same buffer",
        text: "
exporter gpu { @LIST }
memory { vram = 2; system = 1; cma = 1 }
buffer A { exporter = gpu; fill = 1 }
P0 exporter gpu { op: @JOB }
P1 exporter gpu { op2: @JOB2 }
P2 application {
    mmap v = A shared rw
    load r0 = v[0]
}",
        of: &[
            ("move", "~ hazard any /\\ op = ok /\\ op2 = ok /\\ P2:r0 = 1 /\\ A[0] = 1"),
            ("purge", ONE_OF_TWO),
            ("revoke", ONE_OF_TWO),
        ],
    },
    Question {
        asks: "the last reference goes while the operation runs",
        text: "
exporter gpu { @LIST }
memory { vram = 1; system = 1 }
buffer A { exporter = gpu; fill = 1 }
buffer B { exporter = gpu; state = unallocated }
P0 application {
    mmap v = A shared rw
    load r0 = v[0]
    munmap v
    c: close A
}
P1 exporter gpu {
    op: @JOB
    await c
    b: alloc B
}",
        of: LAST_REFERENCE,
    },
];
