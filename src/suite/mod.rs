//! The bundled litmus tests, one file each under `litmus/`, in the order of their rows.
//!
//! Rows A are get_user_pages against a buffer mapping, B CPU mappings, C device access, D FOLL_FORCE
//! and read-only pins, E costs, F rules for fences, G reports from the field. `litmus/README.md` is the index, a paragraph a
//! test.

/// A litmus test that comes with driftheap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bundled {
    /// Its name, also that of its file.
    pub name: &'static str,
    /// The row it belongs to, such as `A5`.
    pub row: &'static str,
    /// The name of its file, for diagnostics.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! bundled {
    ($($row:literal $name:literal),+ $(,)?) => {
        &[$(Bundled {
            name: $name,
            row: $row,
            file: concat!($name, ".litmus"),
            text: include_str!(concat!("litmus/", $name, ".litmus")),
        }),+]
    };
}

/// All of them, in the order of their rows.
pub const TESTS: &[Bundled] = bundled![
    "A1" "insert-page-and-move",
    "A2" "ttm-insert-mixed",
    "A3" "ttm-huge-gup-fast",
    "A4" "ttm-huge-special",
    "A5" "ttm-direct-io",
    "A6" "dma-buf-mmap-check",
    "A7" "shmem-helper-insert-pfn",
    "A8" "exporter-honours-pins",
    "A9" "frames-to-allocator",
    "A10" "cma-longterm-pin",
    "A10" "cma-buffer-pinned",
    "A11" "pfnmap-by-hand",
    "A12" "drm-node-mmap",
    "A13" "huge-needs-contiguity",
    "A13" "mprotect-huge",
    "A14" "high-order-tail",
    "A15" "system-heap-insert-page",
    "A16" "bar-has-no-pages",
    "B1" "ttm-map-private",
    "B2" "importer-mmap-address-space",
    "B2" "importer-mmap-pgoff",
    "B3" "shmem-helper-fake-offset",
    "B4" "vgem-import-shmem",
    "B5" "panfrost-purge",
    "B6" "move-copy-zap-order",
    "B7" "sync-device-writes",
    "B7" "sync-cpu-writes",
    "B7" "sync-start-only",
    "B8" "fork-then-move",
    "B9" "one-vma-pointer",
    "B10" "sigbus-after-purge",
    "B10" "sigbus-inherited",
    "B11" "fault-from-start",
    "B12" "unflushed-zeros",
    "B13" "private-by-remap",
    "C1" "vb2-userptr-follow-pfn",
    "C2" "vb2-userptr-pin",
    "C3" "userptr-mmu-notifier",
    "C4" "frame-vector-mixed",
    "C5" "pfn-as-bus-address",
    "C6" "vma-to-dma-buf",
    "C7" "static-importer-pin",
    "C8" "dynamic-importer-move",
    "C9" "move-notify-order",
    "C10" "revoke-steps",
    "C11" "m2m1shot-bare-pfns",
    "C12" "follow-pfn-without-page",
    "C13" "aperture-mmap",
    "C14" "bounce-buffer",
    "C14" "peer-to-peer",
    "C15" "iotlb-flush",
    "C15" "gpu-tlb-flush",
    "C15" "gpu-tlb-after-move",
    "C16" "move-behind-fence",
    "C17" "fault-under-resv",
    "C17" "mmap-lock-inversion",
    "C17" "amdkfd-svm-evict",
    "C17" "two-reservations",
    "C18" "revoke-pinned",
    "D1" "frame-vector-foll-force",
    "D2" "read-only-pin-cow",
    "D2" "anon-read-pin",
    "D2" "shared-read-pin",
    "D3" "pin-then-fork",
    "D4" "force-write-read-only",
    "D5" "write-through-read-pin",
    "D6" "notifier-on-cow",
    "D6" "notifier-at-fork",
    "D6" "notifier-lets-go",
    "E1" "page-pool-cost",
    "E2" "pat-walk-cost",
    "F1" "fence-needs-resv",
    "F2" "importer-without-fence",
    "G2" "bookkeep-fence",
    "G2" "bookkeep-reader",
    "G4" "sync-direction",
    "G6" "mali-read-only-pin",
    "G7" "gdrcopy-zap",
    "G8" "reference-then-fork",
    "G9" "reuse-under-read-fence",
    "G9" "freed-while-mapped",
    "G12" "munmap-late-flush",
];

/// The test of this name, or the first of this row.
#[must_use]
pub fn find(name: &str) -> Option<&'static Bundled> {
    let named = TESTS.iter().find(|test| test.name == name);
    named.or_else(|| TESTS.iter().find(|test| test.row.eq_ignore_ascii_case(name)))
}

/// The tests of a row (`A5`) or of a range of rows (`A1-A7`); none when it is neither.
#[must_use]
pub fn rows(range: &str) -> Option<Vec<&'static Bundled>> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (row_number(first)?, row_number(last)?);
    let within =
        |test: &&Bundled| row_number(test.row).is_some_and(|row| first <= row && row <= last);
    let tests: Vec<_> = TESTS.iter().filter(within).collect();
    let has = |row| tests.iter().any(|test| row_number(test.row) == Some(row));
    (has(first) && has(last)).then_some(tests)
}

/// Whether it is written as a row or a range of rows, whatever rows there are.
#[must_use]
pub fn is_range(text: &str) -> bool {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    row_number(first).is_some() && row_number(last).is_some()
}

fn row_number(row: &str) -> Option<(char, u32)> {
    let mut chars = row.chars();
    let letter = chars.next()?.to_ascii_uppercase();
    let number = chars.as_str().parse().ok()?;
    letter.is_ascii_uppercase().then_some((letter, number))
}
