//! `include/uapi/linux/userfaultfd.h`, as far as `linux-raw-sys` does not give it.
//!
//! The crate has the structures and the ioctl numbers up to `UFFDIO_CONTINUE`. bindgen can't
//! evaluate the header's casted constants (`((__u64)1<<0)`), so the mode bits are missing there,
//! and its `ioctl` list stops before `UFFDIO_MOVE` and `UFFDIO_POISON`.

use core::mem::{offset_of, size_of};

pub use linux_raw_sys::general::{
    UFFD_EVENT_FORK, UFFD_EVENT_PAGEFAULT, UFFD_EVENT_REMAP, UFFD_EVENT_REMOVE, UFFD_EVENT_UNMAP,
    UFFD_PAGEFAULT_FLAG_MINOR, UFFD_PAGEFAULT_FLAG_WP, UFFD_PAGEFAULT_FLAG_WRITE,
    UFFD_USER_MODE_ONLY, uffd_msg, uffdio_api, uffdio_continue, uffdio_copy, uffdio_poison,
    uffdio_range, uffdio_register, uffdio_writeprotect, uffdio_zeropage,
};
pub use linux_raw_sys::ioctl::{
    UFFDIO_API, UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE,
    UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE,
};

/// The API version that `UFFDIO_API` asks for: `UFFD_API`.
pub const UFFD_API: u64 = 0xAA;

/// `_IOWR(0xAA, 0x08, struct uffdio_poison)`.
pub const UFFDIO_POISON: u32 = iowr(0x08, size_of::<uffdio_poison>());

/// `USERFAULTFD_IOC_NEW`, `_IO(0xAA, 0x00)`, on `/dev/userfaultfd`; the argument is the flags.
pub const USERFAULTFD_IOC_NEW: u32 = 0xAA00;

/// `UFFDIO_REGISTER_MODE_MISSING`.
pub const REGISTER_MODE_MISSING: u64 = 1 << 0;
/// `UFFDIO_REGISTER_MODE_WP`.
pub const REGISTER_MODE_WP: u64 = 1 << 1;
/// `UFFDIO_REGISTER_MODE_MINOR`.
pub const REGISTER_MODE_MINOR: u64 = 1 << 2;

/// `UFFDIO_COPY_MODE_WP` and `UFFDIO_CONTINUE_MODE_WP`: install the PTE write-protected.
pub const FILL_MODE_WP: u64 = 1 << 1;

/// `UFFDIO_WRITEPROTECT_MODE_WP`.
pub const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

/// `_IOWR(UFFDIO, nr, size)` of `asm-generic/ioctl.h`.
const fn iowr(nr: u32, size_bytes: usize) -> u32 {
    assert!(size_bytes < 1 << 14, "an ioctl number has 14 bits for the size");
    #[allow(clippy::cast_possible_truncation, reason = "asserted to fit 14 bits just above")]
    let size_bits = size_bytes as u32;
    (3 << 30) | (size_bits << 16) | (0xAA << 8) | nr
}

const _: () = {
    assert!(size_of::<uffd_msg>() == 32);
    assert!(size_of::<uffdio_api>() == 24);
    assert!(size_of::<uffdio_register>() == 32);
    assert!(size_of::<uffdio_copy>() == 40 && offset_of!(uffdio_copy, copy) == 32);
    assert!(size_of::<uffdio_zeropage>() == 32 && offset_of!(uffdio_zeropage, zeropage) == 24);
    assert!(size_of::<uffdio_continue>() == 32 && offset_of!(uffdio_continue, mapped) == 24);
    assert!(size_of::<uffdio_poison>() == 32 && offset_of!(uffdio_poison, updated) == 24);
    assert!(size_of::<uffdio_writeprotect>() == 24);
    assert!(iowr(0x03, size_of::<uffdio_copy>()) == UFFDIO_COPY);
    assert!(iowr(0x07, size_of::<uffdio_continue>()) == UFFDIO_CONTINUE);
};

#[cfg(test)]
mod tests {
    use super::*;

    /// `name` as the installed header defines it, its casts and parentheses dropped.
    fn header_value(text: &str, name: &str) -> Option<u64> {
        let line = text.lines().find(|line| {
            line.split_whitespace().nth(1) == Some(name) && line.starts_with("#define")
        })?;
        let value = line.split_whitespace().skip(2).collect::<String>();
        let value = value.split("/*").next()?.replace("(__u64)", "").replace(['(', ')'], "");
        match value.split_once("<<") {
            Some((one, shift)) => Some(number(one)? << number(shift)?),
            None => number(&value),
        }
    }

    fn number(text: &str) -> Option<u64> {
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }

    #[test]
    fn constants_equal_the_installed_header() {
        let Ok(text) = std::fs::read_to_string("/usr/include/linux/userfaultfd.h") else {
            eprintln!("skipped: no /usr/include/linux/userfaultfd.h on this machine");
            return;
        };
        let expected = [
            ("UFFD_API", UFFD_API),
            ("UFFDIO_REGISTER_MODE_MISSING", REGISTER_MODE_MISSING),
            ("UFFDIO_REGISTER_MODE_WP", REGISTER_MODE_WP),
            ("UFFDIO_REGISTER_MODE_MINOR", REGISTER_MODE_MINOR),
            ("UFFDIO_COPY_MODE_WP", FILL_MODE_WP),
            ("UFFDIO_CONTINUE_MODE_WP", FILL_MODE_WP),
            ("UFFDIO_WRITEPROTECT_MODE_WP", WRITEPROTECT_MODE_WP),
            ("_UFFDIO_POISON", 0x08),
        ];
        let mut compared = 0;
        for (name, ours) in expected {
            // An older header lacks the newest names; those it has must agree.
            if let Some(theirs) = header_value(&text, name) {
                assert_eq!(ours, theirs, "{name}");
                compared += 1;
            }
        }
        assert!(compared >= 6, "only {compared} names were found: the parser is broken");
    }
}
