//! The last events of a device, in the text of the kernel's own tracepoints.
//!
//! Kernel counterpart: include/trace/events/dma_buf.h (7.0): `exp_name=%s size=%zu ino=%lu`.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::Buffer;

/// Most lines kept; older ones are dropped and counted.
pub const TRACE_LINES_MAX: usize = 4096;

/// A bounded log.
#[derive(Debug, Default)]
pub struct Trace {
    lines: VecDeque<String>,
    dropped: u64,
    now_ns: u64,
    task: (String, i32),
}

impl Trace {
    /// Tells the trace who acts next, and when.
    pub fn at(&mut self, comm: &str, pid: i32, now_ns: u64) {
        self.task = (comm.to_owned(), pid);
        self.now_ns = now_ns;
    }

    /// Adds a buffer event.
    pub fn push_buffer(&mut self, event: &str, buffer: &Buffer) {
        let mut text = String::new();
        let (comm, pid) = (&self.task.0, self.task.1);
        let (seconds, micros) = (self.now_ns / 1_000_000_000, self.now_ns / 1000 % 1_000_000);
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "{comm:>16}-{pid:<7} [000] ..... {seconds:5}.{micros:06}: {event}: exp_name={} size={} ino={}",
            buffer.exp_name, buffer.size_bytes, buffer.inode.ino
        );
        if self.lines.len() == TRACE_LINES_MAX {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(text);
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// How many lines were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
