//! `driftheap compare`: the kernel's table is what the rows expect, every difference of ours has its
//! reason, and the counts in src/cli/README.md are reached.

#![allow(unused_crate_dependencies, reason = "a test uses few of the package's dependencies")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use driftheap::conformance::{Reasons, Reference, Transport, expectations, parse, reasons};
use serde_json::Value;

const RECORDED: &str = include_str!("data/conformance-linux-6.12.tsv");
const README: &str = include_str!("../src/cli/README.md");

#[test]
fn the_rows_expect_what_a_kernel_answered() {
    let reference = Reference::new(&parse(RECORDED)["system"]);
    let unexplained: Vec<_> = reference
        .surprises()
        .into_iter()
        .filter(|line| line.row != "alloc.beyond-memory")
        .collect();
    assert_eq!(unexplained, []);
    // What is not measured needs sw_sync, which Debian's kernel does not have.
    assert_eq!((reference.len(), reference.measured()), (375, 357));
}

const NO_MODE: &str = "UDMABUF_CREATE takes no access mode";
const NO_COW: &str =
    "mmap_udmabuf and drm_gem_shmem_mmap refuse every private mapping, of a page too";
const NO_IO: &str = "no VM_IO: the mapping is made by faults, not by remap_pfn_range";
const AT_0: &str =
    "drm_gem_shmem_fault counts pages from the VMA's start, whatever its offset: page 0";

/// Where udmabuf and vgem answer otherwise than the system heap, and why.
const EXPORTERS: [(&str, &str, &str, &str); 19] = [
    ("udmabuf", "sync.end-first", "EINVAL", "end_cpu_udmabuf wants a begin before"),
    ("udmabuf", "mmap.rdonly-rw", "ok", NO_MODE),
    ("udmabuf", "mmap.wronly-r", "ok", NO_MODE),
    ("udmabuf", "mmap.wronly-w", "ok", NO_MODE),
    ("udmabuf", "mmap.lengths-private", "nnnn nnnn nnnn nnnn", NO_COW),
    ("udmabuf", "mmap.private-one-page", "EINVAL", NO_COW),
    ("udmabuf", "mmap.private-page-of-2", "EINVAL", NO_COW),
    ("udmabuf", "mmap.private-second-of-2", "EINVAL", NO_COW),
    ("udmabuf", "mprotect.rdonly-r-to-rw", "ok", NO_MODE),
    ("udmabuf", "madvise.dofork", "ok data 77", NO_IO),
    ("udmabuf", "madvise.dontfork-dofork", "ok ok", NO_IO),
    ("vgem", "mmap.wronly-r", "ok", "DRM_RDWR or nothing: there is no write-only prime file"),
    ("vgem", "mapping.same-pages", "0", AT_0),
    ("vgem", "mmap.lengths-private", "nnnn nnnn nnnn nnnn", NO_COW),
    ("vgem", "mmap.private-one-page", "EINVAL", NO_COW),
    ("vgem", "mmap.private-page-of-2", "EINVAL", NO_COW),
    ("vgem", "mmap.private-second-of-2", "EINVAL", NO_COW),
    ("vgem", "madvise.dofork", "ok data 77", NO_IO),
    ("vgem", "madvise.dontfork-dofork", "ok ok", NO_IO),
];

#[test]
fn the_exporters_differ_as_known() {
    let recorded = parse(RECORDED);
    let mut found = Vec::new();
    for exporter in ["udmabuf", "vgem"] {
        for (row, ..) in expectations() {
            let answers = (recorded[exporter].get(row), recorded["system"].get(row));
            if let (Some(answer), Some(system)) = answers
                && answer != system
            {
                found.push((exporter, row, answer.as_str()));
            }
        }
    }
    assert_eq!(found, EXPORTERS.map(|(exporter, row, answer, _)| (exporter, row, answer)));
}

/// The README's `| driftheap ... | N of M rows |` of a transport.
fn promised(transport: &str) -> (u64, u64) {
    let begins = match transport {
        "run" => "| `run` |",
        "strict" => "| `run --strict` |",
        "mount" => "| `serve --mount DIR` (FUSE) |",
        "cuse" => "| `serve --cuse NAME` |",
        other => panic!("{other} is not in the README"),
    };
    let line = README.lines().find_map(|line| line.strip_prefix(begins)).expect("a line");
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    (numbers.next().expect("a count"), numbers.next().expect("a number of rows"))
}

/// Compares and returns how many rows each measured transport answers as the kernel does.
fn check(options: &[&str]) -> BTreeMap<String, u64> {
    let output = Command::new(env!("CARGO_BIN_EXE_driftheap"))
        .args(["compare", "--json"])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .expect("driftheap starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut same = BTreeMap::new();
    let mut explained = Vec::new();
    // What this machine can't be asked (no O_DIRECT in /tmp, no io_uring) is nobody's loss.
    let mut not_here: BTreeMap<String, u64> = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        assert_ne!(value["outcome"], "unexplained", "{value}");
        let transport = value["transport"].as_str().unwrap_or_default().to_owned();
        if value["outcome"] == "explained" {
            let row = value["row"].as_str().expect("a row").to_owned();
            explained.push((transport.clone(), row));
        }
        let ours = value["ours"].as_str().unwrap_or_default();
        if value["outcome"] == "skipped" && !ours.starts_with("SKIP a server offers") {
            eprintln!("{transport}: {}: {ours}", value["row"]);
            *not_here.entry(transport.clone()).or_default() += 1;
        }
        if value["measured"] == false {
            eprintln!("SKIP {transport}: {}", value["why"]);
        } else if let Some(count) = value["same"].as_u64() {
            let (least, rows) = promised(&transport);
            assert_eq!(value["rows"].as_u64(), Some(rows), "{transport}: the README's rows");
            let skipped = not_here.get(&transport).copied().unwrap_or_default();
            assert!(
                count + skipped >= least,
                "{transport}: {count} rows, and the README says {least}"
            );
            eprintln!("{transport}: {count} of {rows} rows as the kernel");
            same.insert(transport, count);
        }
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    for transport in Transport::ALL.into_iter().filter(|of| same.contains_key(of.key())) {
        let of = explained.iter().filter(|(key, _)| key == transport.key());
        let rows: Vec<&str> = of.map(|(_, row)| row.as_str()).collect();
        check_reasons(reasons(transport), &rows);
    }
    same
}

/// Every listed reason is some row's: one that explains nothing any more has to go.
fn check_reasons(reasons: Reasons, rows: &[&str]) {
    let first = |row: &&str| reasons.iter().position(|(prefix, _)| row.starts_with(prefix));
    let used: BTreeSet<usize> = rows.iter().filter_map(first).collect();
    let idle: Vec<_> =
        reasons.iter().enumerate().filter(|(at, _)| !used.contains(at)).map(|(_, of)| of).collect();
    assert_eq!(idle, Vec::<&(&str, &str)>::new(), "reasons without a row");
}

#[test]
fn the_counts_do_not_fall() {
    check(&[]);
}

/// A heap whose pages can be pinned is not a kernel's: found out, and an error.
#[test]
fn a_difference_without_a_reason_is_an_error() {
    let driftheap = env!("CARGO_BIN_EXE_driftheap");
    let output = Command::new(driftheap)
        .args(["run", "-q", "--heap", "system,mmap=shmem", "--", driftheap, "compare", "--host"])
        .stdin(Stdio::null())
        .output()
        .expect("driftheap starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(125) {
        eprintln!("SKIP: {said}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    let wrong = said.lines().skip_while(|line| !line.contains("UNEXPLAINED: the kernel answers"));
    assert!(wrong.take(120).any(|line| line.contains("gup.vmsplice")), "{said}");
}

#[test]
#[ignore = "boots a kernel: tools/check.d/50-vm"]
fn the_counts_do_not_fall_beside_a_kernel_measured_now() {
    let anew = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance.tsv");
    let same = check(&["--vm", "--record", anew.to_str().expect("UTF-8")]);
    assert!(same.contains_key("cuse"), "the guest has /dev/cuse: {same:?}");
    // The kernel answers as it did when the table was written; if a newer one is right to differ,
    // record it and see what the rows say.
    let anew = std::fs::read_to_string(anew).expect("the table");
    let lines = |text: &'static str| -> BTreeSet<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    };
    let (anew, before) = (lines(anew.leak()), lines(RECORDED));
    let differ: Vec<_> = anew.symmetric_difference(&before).collect();
    assert_eq!(differ, Vec::<&&str>::new(), "measured now, and before");
}
