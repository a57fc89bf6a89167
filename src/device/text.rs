//! What the kernel prints about dma-bufs: /sys/kernel/debug/dma_buf/bufinfo and
//! /proc/PID/fdinfo/N.
//!
//! Kernel counterpart: `dma_buf_debug_show` and `dma_buf_show_fdinfo` (drivers/dma-buf/dma-buf.c).
//!
//! **Differs from Linux**: a file's reference count is the kernel's secret, so `count` is the
//! number of holders that were found, and 1 where nobody looked.

use std::fmt::Write as _;

use super::{Buffer, Device};

/// FMODE bits that a dma-buf's file has besides the access mode.
const FMODE_DMABUF: u32 = 0x000e_000c;

use crate::terminal::printed;

impl Device {
    /// The bufinfo text; `holders` tells how many file descriptors refer to a buffer.
    pub fn bufinfo(&self, holders: impl Fn(&Buffer) -> u64) -> String {
        let mut text = format!(
            "\nDma-buf Objects:\n{:<8}\t{:<8}\t{:<8}\t{:<8}\texp_name\t{:<8}\tname\n",
            "size", "flags", "mode", "count", "ino"
        );
        let mut count = 0;
        for (_, buffer) in self.buffers() {
            count += 1;
            self.bufinfo_entry(&mut text, buffer, holders(buffer));
        }
        // Writing to a String can't fail.
        let _ = write!(text, "\nTotal {count} objects, {} bytes\n", self.bytes());
        text
    }

    fn bufinfo_entry(&self, text: &mut String, buffer: &Buffer, count: u64) {
        let mode = FMODE_DMABUF | (buffer.access.mode + 1) & 3;
        let _ = writeln!(
            text,
            "{:08}\t{:08x}\t{:08x}\t{:08}\t{}\t{:08}\t{}",
            buffer.size_bytes,
            buffer.access.mode,
            mode,
            count,
            buffer.exp_name,
            buffer.inode.ino,
            buffer.name_printed().unwrap_or_else(|| "<none>".into()),
        );
        for &(id, usage) in buffer.resv.entries() {
            let Some(fence) = self.fences().get(id) else { continue };
            let _ = writeln!(
                text,
                "\t{} fence:{} {} seq {} {}",
                usage.word(),
                fence.driver,
                fence.timeline,
                fence.seqno,
                if fence.status() == 0 { "unsignalled" } else { "signalled" }
            );
        }
        text.push_str("\tAttached Devices:\nTotal 0 devices attached\n\n");
    }
}

impl Buffer {
    /// The name, as text; bytes that are no UTF-8 are replaced.
    pub fn name_text(&self) -> Option<String> {
        self.name.as_ref().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// The link target of /proc/PID/fd/N: `/dmabuf:NAME` (`dmabuffs_dname`).
    pub fn link(&self) -> Vec<u8> {
        [b"/dmabuf:", self.name.as_deref().unwrap_or_default()].concat()
    }

    /// The name as a person may read it ([`printed`]).
    pub fn name_printed(&self) -> Option<String> {
        self.name_text().map(|name| printed(&name))
    }

    /// The fdinfo text, whose name is given as it is to be shown; the first three lines are the
    /// file's own.
    pub fn fdinfo(&self, flags: u32, mnt_id: u64, count: u64, name: Option<&[u8]>) -> Vec<u8> {
        let Self { size_bytes, exp_name, inode, .. } = self;
        let mut text = format!(
            "pos:\t0\nflags:\t0{flags:o}\nmnt_id:\t{mnt_id}\nino:\t{}\nsize:\t{size_bytes}\n\
             count:\t{count}\nexp_name:\t{exp_name}\n",
            inode.ino
        )
        .into_bytes();
        if let Some(name) = name {
            text.extend([b"name:\t", name, b"\n"].concat());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printed_without_what_a_terminal_obeys() {
        assert_eq!(printed("r\u{e9}sum\u{e9} 1"), "r\u{e9}sum\u{e9} 1");
        assert_eq!(printed("a\u{1b}[31m\nb\u{9b}\u{202e}"), "a\\u{1b}[31m\\nb\\u{9b}\\u{202e}");
    }
}
