//! `driftheap compare`: the kernel's table is what the rows expect, every difference of ours has its
//! reason, and the counts in the README are reached.

#![allow(unused_crate_dependencies, reason = "a test uses few of the package's dependencies")]

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use driftheap::conformance::{Reference, expectations, parse};
use serde_json::Value;

const RECORDED: &str = include_str!("data/conformance-linux-6.12.tsv");
const README: &str = include_str!("../README.md");

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
    assert_eq!((reference.len(), reference.measured()), (294, 276));
}

/// Where udmabuf and vgem answer otherwise than the system heap, and why.
const EXPORTERS: [(&str, &str, &str, &str); 6] = [
    ("udmabuf", "sync.end-first", "EINVAL", "end_cpu_udmabuf wants a begin before"),
    ("udmabuf", "mmap.rdonly-rw", "ok", "UDMABUF_CREATE takes no access mode"),
    ("udmabuf", "mmap.wronly-r", "ok", "UDMABUF_CREATE takes no access mode"),
    ("udmabuf", "mmap.wronly-w", "ok", "UDMABUF_CREATE takes no access mode"),
    ("vgem", "mmap.wronly-r", "ok", "DRM_RDWR or nothing: there is no write-only prime file"),
    // drm_gem_shmem_fault counts pages from the VMA's start, whatever its offset: page 0.
    ("vgem", "mapping.same-pages", "0", "a mapping at an offset shows the buffer's beginning"),
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
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        assert_ne!(value["outcome"], "unexplained", "{value}");
        let transport = value["transport"].as_str().unwrap_or_default().to_owned();
        if value["measured"] == false {
            eprintln!("SKIP {transport}: {}", value["why"]);
        } else if let Some(count) = value["same"].as_u64() {
            let (least, rows) = promised(&transport);
            assert_eq!(value["rows"].as_u64(), Some(rows), "{transport}: the README's rows");
            assert!(count >= least, "{transport}: {count} rows, and the README says {least}");
            eprintln!("{transport}: {count} of {rows} rows as the kernel");
            same.insert(transport, count);
        }
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    same
}

#[test]
fn the_counts_do_not_fall() {
    check(&[]);
}

#[test]
#[ignore = "boots a kernel: tools/check.d/50-vm"]
fn the_counts_do_not_fall_beside_a_kernel_measured_now() {
    let same = check(&["--vm"]);
    assert!(same.contains_key("cuse"), "the guest has /dev/cuse: {same:?}");
}
