//! The default step lists of move, purge and revoke are minimal and in the right order.
//!
//! Every list with one step dropped, and every list with two neighbours swapped, runs through the
//! scenarios below. Each scenario's `forall` says what is right; on the default lists it holds of
//! every outcome. A mutation is *caught* when it breaks one: a hazard, a deadlock, a wrong errno or
//! a wrong final state. The mutations that nothing can tell from the default are listed in
//! [`EQUIVALENT`] with the reason, and their outcomes are equal to the default's in every scenario.

#[path = "common/lab.rs"]
mod lab;

use std::collections::BTreeSet;

use driftheap::litmus::scenario::Outcome;
use driftheap::model::ExporterRules;
use driftheap::model::ExporterStep;

/// A question that a list of steps must answer right. `@JOB` stands for the operation on buffer A.
struct Question {
    asks: &'static str,
    text: &'static str,
    /// For which operations; `right` is the body of the `forall`.
    of: &'static [(&'static str, &'static str)],
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

const QUESTIONS: &[Question] = &[
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

/// Mutations that change nothing, by operation and name, with the reason.
const EQUIVALENT: &[(&str, &str, &str)] = &[
    ("move", "swap notify, wait", LOCKED),
    ("move", "swap wait, zap", LOCKED),
    ("move", "swap reserve, flush", APART),
    ("move", "swap rebind, free", UNREACHED),
    ("move", "swap free, unlock", UNREACHED),
    ("purge", "drop flush", GIVEN_UP),
    ("purge", "swap notify, wait", LOCKED),
    ("purge", "swap wait, zap", LOCKED),
    ("purge", "swap mark, flush", GIVEN_UP),
    ("purge", "swap flush, free", GIVEN_UP),
    ("purge", "swap free, unlock", UNREACHED),
    ("revoke", "drop flush", GIVEN_UP),
    ("revoke", "swap mark, notify", LOCKED),
    ("revoke", "swap notify, zap", LOCKED),
    ("revoke", "swap zap, wait", LOCKED),
    ("revoke", "swap wait-unmap, flush", GIVEN_UP),
    ("revoke", "swap flush, free", GIVEN_UP),
];

const LOCKED: &str = "while the reservation lock is held nobody can add a fence, map again or fault \
    a page in: what is said, waited for and zapped under it is over before anybody else goes on";
const APART: &str = "the one takes new frames, the other writes the old ones back";
const UNREACHED: &str = "the page was copied, zapped, waited for and (moved or marked) is nobody's \
    address any more: nothing can tell when its frame goes back";
const GIVEN_UP: &str = "the contents are given up, and an allocation clears the CPU's cache lines of \
    the frames that it takes: it does not matter what becomes of dirty ones";

/// A changed list of steps.
struct Mutation {
    job: &'static str,
    name: String,
    steps: Vec<ExporterStep>,
}

/// Every drop of one step and every swap of two neighbours.
fn mutations(job: &'static str, default: &[ExporterStep]) -> Vec<Mutation> {
    let drop = |at: usize| {
        let mut steps = default.to_vec();
        let name = format!("drop {}", steps.remove(at));
        Mutation { job, name, steps }
    };
    let swap = |at: usize| {
        let mut steps = default.to_vec();
        let name = format!("swap {}, {}", steps[at], steps[at + 1]);
        steps.swap(at, at + 1);
        Mutation { job, name, steps }
    };
    (0..default.len()).map(drop).chain((0..default.len() - 1).map(swap)).collect()
}

fn defaults() -> [(&'static str, Vec<ExporterStep>); 3] {
    let rules = ExporterRules::default();
    [("move", rules.move_steps), ("purge", rules.purge_steps), ("revoke", rules.revoke_steps)]
}

/// The outcomes of a question, and those that are wrong.
fn ask(
    question: &Question,
    job: &str,
    right: &str,
    steps: &[ExporterStep],
) -> (BTreeSet<String>, Outcomes) {
    let words: Vec<_> = steps.iter().map(|step| step.word()).collect();
    let (first, second) = match job {
        "move" => ("move A -> system", "move A -> cma"),
        "purge" => ("purge A", "purge A"),
        _ => ("revoke A", "revoke A"),
    };
    let body = question.text.replace("@JOB2", second).replace("@JOB", first);
    let body = body.replace("@LIST", &format!("{job} = [{}]", words.join(" ")));
    let scenario = lab::variant(&format!("DMABUF mutation{body}\nforall ({right})\n"), "-");
    let found = lab::explore(&scenario).outcomes;
    let wrong = found.keys().filter(|outcome| !scenario.holds(outcome));
    let wrong = wrong.map(|outcome| outcome.describe(&scenario)).collect();
    (wrong, found.into_keys().collect())
}

type Outcomes = BTreeSet<Outcome>;

/// Runs a list through every question on its operation: how often it is wrong, and all outcomes.
fn run(job: &str, steps: &[ExporterStep]) -> (Vec<String>, Vec<Outcomes>) {
    let (mut wrong, mut outcomes) = (Vec::new(), Vec::new());
    for question in QUESTIONS {
        for (_, right) in question.of.iter().filter(|(of, _)| *of == job) {
            let (bad, all) = ask(question, job, right, steps);
            wrong.extend(bad.first().map(|bad| format!("{}: {bad}", question.asks)));
            outcomes.push(all);
        }
    }
    (wrong, outcomes)
}

#[test]
fn the_default_lists_are_right() {
    for (job, steps) in defaults() {
        assert_eq!(run(job, &steps).0, Vec::<String>::new(), "{job}");
    }
}

#[test]
fn every_mutation_is_caught_or_proved_equivalent() {
    let (mut caught, mut equivalent, mut problems) = (0, 0, Vec::new());
    for (job, default) in defaults() {
        let reference = run(job, &default).1;
        for mutation in mutations(job, &default) {
            let (wrong, outcomes) = run(job, &mutation.steps);
            let listed =
                EQUIVALENT.iter().any(|(of, name, _)| *of == job && *name == mutation.name);
            let title = format!("{}: {}", mutation.job, mutation.name);
            println!("{title}: {wrong:?}");
            match (wrong.is_empty(), listed) {
                (false, false) => caught += 1,
                (true, true) if outcomes == reference => equivalent += 1,
                (true, _) if outcomes == reference => problems.push(format!("{title}: survives")),
                (true, _) => problems.push(format!("{title}: differs, and nothing is wrong")),
                (false, true) => problems.push(format!("{title}: not equivalent: {wrong:?}")),
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!((caught, equivalent), (38, EQUIVALENT.len()));
}
