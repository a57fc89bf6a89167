//! The model's get_user_pages against a real kernel's, row by row.
//!
//! `tests/data/gup-linux-6.12.tsv` is what Linux 6.12 answered (tools/gup-probe/measure writes and
//! checks it): real mappings of the system heap, udmabuf, vgem, an AF_PACKET ring, memfd and
//! memfd_secret, reached by O_DIRECT, vmsplice, MSG_ZEROCOPY, io_uring, process_vm, /proc/PID/mem
//! and ptrace. Each row that pins pages becomes a litmus test of one pin.

#![allow(unused_crate_dependencies, reason = "a test uses few of the package's dependencies")]

use std::collections::BTreeMap;

use driftheap::model::Errno;
use driftheap::question::scenario::Content;

#[path = "common/lab.rs"]
mod lab;

const MEASURED: &str = include_str!("data/gup-linux-6.12.tsv");

/// A kind of mapping: how its exporter maps, and the mapping's own mode.
type Mapping = (&'static str, &'static str, &'static str);

const MAPPINGS: [Mapping; 11] = [
    ("system-heap", "pfnmap", "shared rw"),
    ("system-heap-read-only", "pfnmap", "shared r"),
    ("udmabuf", "pfnmap", "shared rw"),
    ("vgem-prime", "pfnmap", "shared rw"),
    ("vgem-handle", "pfnmap", "shared rw"),
    // check_vma_flags refuses it as it refuses VM_PFNMAP: what makes a pfnmap heap of ours real.
    ("memfd-secret", "pfnmap", "shared rw"),
    // packet_mmap inserts its pages with vm_insert_page.
    ("packet-ring", "mixedmap-insert-page", "shared rw"),
    ("memfd", "shmem", "shared rw"),
    ("memfd-read-only", "shmem", "shared r"),
    ("memfd-private", "shmem", "private rw"),
    ("memfd-private-read-only", "shmem", "private r"),
];

/// A way to pin: its FOLL_ flags, and the errno that the call makes of a refused pin.
type Access = (&'static str, &'static str, &'static str);

const ACCESSES: [Access; 12] = [
    ("o_direct-read", "write", "EFAULT"),
    ("o_direct-write", "", "EFAULT"),
    ("vmsplice", "", "EFAULT"),
    ("msg_zerocopy", "", "EFAULT"),
    // io_pin_pages: FOLL_WRITE | FOLL_LONGTERM.
    ("io_uring-register", "write longterm", "EFAULT"),
    ("io_uring-o_direct-read", "write", "EFAULT"),
    ("process_vm_readv", "", "EFAULT"),
    ("process_vm_writev", "write", "EFAULT"),
    // access_remote_vm with FOLL_FORCE; a short transfer is EIO.
    ("proc-mem-read", "force", "EIO"),
    ("proc-mem-write", "write force", "EIO"),
    ("ptrace-peek", "force", "EIO"),
    ("ptrace-poke", "write force", "EIO"),
];

fn measured() -> BTreeMap<(&'static str, &'static str), &'static str> {
    let row = |line: &'static str| {
        let mut fields = line.split('\t');
        Some(((fields.next()?, fields.next()?), fields.next()?))
    };
    MEASURED.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
}

/// What the model says of one pin, in the kernel's words.
fn predicted((_, rule, mode): Mapping, (_, foll, refused): Access) -> &'static str {
    // Present and, where that is allowed, dirty, as the probe leaves it.
    let touch = if mode.ends_with("rw") { "store v[0] = 1" } else { "load r0 = v[0]" };
    let text = format!(
        "DMABUF one-pin
exporter e {{ mmap = {rule}; cow = allow }}
buffer A {{ exporter = e; placement = system }}
P0 application {{
    mmap v = A {mode}
    {touch}
    gup p = v[0] {foll}
}}
exists (p = EFAULT)"
    );
    let scenario = lab::scenarios(&text).remove(0);
    let slot = scenario.slot_names().iter().position(|name| *name == "p").expect("a slot");
    let found = lab::explore(&scenario);
    let answers: Vec<Content> = found.outcomes.keys().map(|outcome| outcome.slots[slot]).collect();
    match answers.as_slice() {
        [Content::Ok] => "ok",
        [Content::Errno(Errno::Efault)] => refused,
        other => panic!("one process, one answer: {other:?} in\n{text}"),
    }
}

#[test]
fn the_model_pins_what_the_kernel_pins() {
    let measured = measured();
    let mut wrong = Vec::new();
    let (mut rows, mut refused) = (0, 0);
    for mapping in MAPPINGS {
        for access in ACCESSES {
            let Some(&real) = measured.get(&(mapping.0, access.0)) else {
                panic!("{} {} was not measured", mapping.0, access.0);
            };
            let model = predicted(mapping, access);
            rows += 1;
            refused += usize::from(model != "ok");
            if model != real {
                wrong.push(format!("{} {}: model {model}, kernel {real}", mapping.0, access.0));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    // Neither answer is the only one.
    assert_eq!((rows, refused), (132, 82));
}

/// The comparison can fail: each mapping taken for another kind disagrees with the kernel.
#[test]
fn a_wrong_kind_is_seen() {
    let measured = measured();
    // A private mapping of a VM_PFNMAP kind has no answer: the kernel would BUG_ON.
    for (mapping, _, mode) in MAPPINGS.into_iter().filter(|(_, _, mode)| !mode.contains("private"))
    {
        let refuses = measured[&(mapping, "vmsplice")] == "EFAULT";
        let wrong = (mapping, if refuses { "shmem" } else { "pfnmap" }, mode);
        let differs = |access: &Access| predicted(wrong, *access) != measured[&(mapping, access.0)];
        assert!(ACCESSES.iter().filter(|access| differs(access)).count() > 3, "{mapping}");
    }
}

/// VmFlags decide: the kernel's own name for what the model calls the mapping's kind.
#[test]
fn the_kinds_are_the_kernels() {
    let measured = measured();
    for (mapping, rule, _) in MAPPINGS {
        let flags: Vec<&str> = measured[&(mapping, "vm-flags")].split(' ').collect();
        let kind = ["pf", "mm"].into_iter().find(|flag| flags.contains(flag));
        let expect = match rule {
            _ if mapping == "memfd-secret" => None,
            "pfnmap" => Some("pf"),
            "mixedmap-insert-page" => Some("mm"),
            _ => None,
        };
        assert_eq!(kind, expect, "{mapping}: {flags:?}");
    }
}
