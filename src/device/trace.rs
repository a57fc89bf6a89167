//! The last events of a device, in the text of the kernel's own tracepoints.
//!
//! Kernel counterpart: include/trace/events/dma_buf.h (7.0): `exp_name=%s size=%zu ino=%lu`.

use std::collections::VecDeque;

use super::Buffer;

/// Most events kept; older ones are dropped and counted.
pub const TRACE_EVENTS_MAX: usize = 4096;

/// One event, put into words only when somebody reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// The tracepoint: `dma_buf_export`.
    pub name: &'static str,
    /// Who acted.
    pub pid: i32,
    /// When.
    pub now_ns: u64,
    exp_name: String,
    size_bytes: u64,
    /// The buffer.
    pub ino: u64,
    /// First page and number of pages, where an event is about some only.
    pub pages: Option<(u64, u64)>,
}

impl TraceEvent {
    /// The kernel's line. ftrace prints `<...>` for a command that it did not record, and neither do
    /// we.
    pub fn line(&self) -> String {
        let (seconds, micros) = (self.now_ns / 1_000_000_000, self.now_ns / 1000 % 1_000_000);
        let pages = self
            .pages
            .map_or_else(String::new, |(first, pages)| format!(" first={first} pages={pages}"));
        format!(
            "{:>16}-{:<7} [000] ..... {seconds:5}.{micros:06}: {}: exp_name={} size={} ino={}{pages}",
            "<...>", self.pid, self.name, self.exp_name, self.size_bytes, self.ino
        )
    }
}

/// A bounded log.
#[derive(Debug, Default)]
pub struct Trace {
    events: VecDeque<TraceEvent>,
    dropped: u64,
    now_ns: u64,
    pid: i32,
}

impl Trace {
    /// Tells the trace who acts next, and when.
    pub fn at(&mut self, pid: i32, now_ns: u64) {
        self.pid = pid;
        self.now_ns = now_ns;
    }

    /// Adds a buffer event.
    pub fn push_buffer(&mut self, name: &'static str, buffer: &Buffer) {
        self.push(name, buffer, None);
    }

    /// Adds an event about `pages` pages of a buffer from `first` on.
    pub fn push_pages(&mut self, name: &'static str, buffer: &Buffer, first: u64, pages: u64) {
        self.push(name, buffer, Some((first, pages)));
    }

    fn push(&mut self, name: &'static str, buffer: &Buffer, pages: Option<(u64, u64)>) {
        if self.events.len() == TRACE_EVENTS_MAX {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back(TraceEvent {
            name,
            pid: self.pid,
            now_ns: self.now_ns,
            exp_name: buffer.exp_name.clone(),
            size_bytes: buffer.size_bytes,
            ino: buffer.inode.ino,
            pages,
        });
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.events.iter().map(TraceEvent::line)
    }

    /// The events from number `first` on, counted from the start; those that were dropped are not
    /// among them.
    pub fn since(&self, first: u64) -> impl Iterator<Item = (u64, &TraceEvent)> {
        let skip = usize::try_from(first.saturating_sub(self.dropped)).unwrap_or(usize::MAX);
        (self.dropped..).zip(&self.events).skip(skip)
    }

    /// How many events were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
