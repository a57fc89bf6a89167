//! The processor and the size of its pages.

use super::super::arch;
use super::super::page::page_bytes;
use super::{Probe, lacks, setting};

/// Page sizes, in bytes, on which the gate runs the suite, moves under writers and the misuse reports.
const TRIED_BYTES: &[usize] = match arch::NAME.as_bytes() {
    b"aarch64" => &[4096, 16384],
    _ => &[4096],
};

/// What this machine is, and whether anybody has tried such a one: nothing is refused on others.
#[must_use]
pub fn machine() -> Probe {
    let page = page_bytes();
    let kernel = setting("/proc/sys/kernel/osrelease");
    let has = arch::features().join(", ");
    let has = if has.is_empty() { has } else { format!("; {has}") };
    let detail = format!("{}, pages of {} KiB, Linux {kernel}{has}", arch::NAME, page >> 10);
    Probe::new(
        "processor and pages",
        if TRIED_BYTES.contains(&page) { Ok(detail) } else { lacks(detail) },
        "nothing is refused, but no run on pages of this size was ever seen",
        "boot a kernel with pages of 4 KiB, or on arm64 of 16 KiB",
    )
}
