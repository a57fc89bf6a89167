//! A report: what was done wrong, where, to which buffer, and how it came to that.

use serde_json::{Value, json};

use super::history::History;
use super::kind::Kind;
use super::site::Site;
use crate::device::Buffer;
use crate::terminal::{RULER, bug_line, printed};

/// A misuse as a detector sees it, before the buffer's facts and history are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// What happened, in one sentence.
    pub what: String,
    /// The call or access.
    pub act: Act,
    /// Who, and where in its code.
    pub site: Site,
    /// Where in the buffer, bytes.
    pub offset: Option<u64>,
}

/// The call or the access that is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A load or store by the program.
    Access {
        /// Address in the process.
        addr: u64,
        /// Whether it is a store; `None` if that can't be told.
        write: Option<bool>,
    },
    /// A system call.
    Call {
        /// Its name.
        name: &'static str,
        /// Address in the process that it was given; 0 if none.
        addr: u64,
        /// Bytes; 0 if none.
        len: u64,
    },
    /// A device's access.
    Dma {
        /// Whether it wrote.
        write: bool,
        /// Bytes.
        len: usize,
    },
    /// Nothing but the allocation: it was never given back.
    Exit,
}

impl Act {
    fn words(&self) -> String {
        match self {
            Self::Access { addr, write } => {
                let word = match write {
                    Some(true) => "Write",
                    Some(false) => "Read",
                    None => "Access",
                };
                format!("{word} at address {addr:#x}")
            }
            Self::Call { name, addr: 0, len: 0 } => format!("System call {name}"),
            Self::Call { name, addr: 0, len } => format!("System call {name} of {len} bytes"),
            Self::Call { name, addr, len: 0 } => {
                format!("System call {name} on address {addr:#x}")
            }
            Self::Call { name, addr, len } => {
                format!("System call {name} on {len} bytes at address {addr:#x}")
            }
            Self::Dma { write, len } => {
                format!("DMA {} of {len} bytes", if *write { "write" } else { "read" })
            }
            Self::Exit => "Allocated".into(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Access { addr, write } => {
                let word = match write {
                    Some(true) => "write",
                    Some(false) => "read",
                    None => "unknown",
                };
                json!({"access": word, "address": addr})
            }
            Self::Call { name, addr, len } => {
                json!({"syscall": name, "address": addr, "len": len})
            }
            Self::Dma { write, len } => {
                json!({"dma": if *write { "write" } else { "read" }, "len": len})
            }
            Self::Exit => json!({"exit": true}),
        }
    }
}

/// What a report says about its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Inode number.
    pub ino: u64,
    /// `exp_name`.
    pub exp_name: String,
    /// Name set by the program.
    pub name: Option<String>,
    /// Size.
    pub size_bytes: u64,
    /// Where in the buffer, bytes, if at one place.
    pub offset: Option<u64>,
}

impl Subject {
    /// The facts of `buffer`.
    pub fn of(buffer: &Buffer, offset: Option<u64>) -> Self {
        Self {
            ino: buffer.inode.ino,
            exp_name: buffer.exp_name.clone(),
            name: buffer.name_text(),
            size_bytes: buffer.size_bytes,
            offset,
        }
    }

    /// `Buffer ino 7 "frame", 8192 bytes, exported by system, at offset 0x10`.
    fn words(&self) -> String {
        let name =
            self.name.as_ref().map_or_else(String::new, |name| format!(" \"{}\"", printed(name)));
        let at = self.offset.map_or_else(String::new, |offset| format!(", at offset {offset:#x}"));
        let Self { ino, size_bytes, exp_name, .. } = self;
        format!("Buffer ino {ino}{name}, {size_bytes} bytes, exported by {exp_name}{at}")
    }
}

/// One misuse, seen once or more often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What kind.
    pub kind: Kind,
    /// What happened, in one sentence of its own.
    pub what: String,
    /// The call or access.
    pub act: Act,
    /// Who, and where in its code.
    pub site: Site,
    /// Which buffer.
    pub subject: Subject,
    /// What happened to it before.
    pub history: History,
    /// How often this kind was seen at this place.
    pub count: u64,
}

impl Report {
    /// The report as KASAN would print it.
    pub fn text(&self) -> String {
        let Site { pid, tid, .. } = &self.site;
        let comm = printed(&self.site.comm);
        // A device has neither a process nor code.
        let device = *pid == 0;
        let place = if device { comm.clone() } else { self.site.place_words() };
        let mut text = format!("{RULER}\n{}\n", bug_line(self.kind, &format!("in {place}")));
        let mut line = |words: String| {
            text.push_str(&words);
            text.push('\n');
        };
        line(self.what.clone());
        let pc =
            self.site.place().map_or_else(String::new, |frame| format!(", pc {:#x}", frame.pc));
        let who = if device { comm.clone() } else { format!("task {comm}/{pid} thread {tid}{pc}") };
        line(format!("{} by {who}", self.act.words()));
        if !self.site.frames.is_empty() {
            line("\nCall trace:".into());
        }
        for frame in &self.site.frames {
            line(format!(" {}", frame.symbol.words()));
        }
        line(format!("\n{}:", self.subject.words()));
        for moment in self.history.moments() {
            line(format!(" {}", moment.words()));
        }
        line(format!("To fix it: {}.\n{RULER}", self.kind.remedy()));
        text
    }

    /// The report as one JSON object.
    pub fn json(&self) -> Value {
        let mut object = json!({
            "kind": self.kind.word(),
            "what": self.what,
            "count": self.count,
            "act": self.act.json(),
            "buffer": {
                "ino": self.subject.ino,
                "exp_name": self.subject.exp_name,
                "name": self.subject.name,
                "size": self.subject.size_bytes,
                "offset": self.subject.offset,
            },
            "history": self.history.json(),
        });
        // Who and where at the top level: what a script asks for first.
        if let (Value::Object(object), Value::Object(site)) = (&mut object, self.site.json()) {
            object.extend(site);
        }
        object
    }
}

/// A report is one of its kind and place, however often it is seen.
type Key = (Kind, String, u64);

/// Most different reports; what comes beyond is counted only.
pub const REPORTS_MAX: usize = 1024;

/// Every report of a run.
#[derive(Debug, Default)]
pub struct Log {
    reports: Vec<Report>,
    printed: usize,
    dropped: u64,
}

fn key(report: &Report) -> Key {
    let Some(frame) = report.site.place() else {
        return (report.kind, report.site.comm.clone(), 0);
    };
    match &frame.symbol.source {
        // One statement may be several instructions.
        Some((file, line @ 1..)) => (report.kind, file.clone(), u64::from(*line)),
        _ => (report.kind, frame.symbol.module.clone(), frame.symbol.offset),
    }
}

impl Log {
    /// Adds a report, or counts it where its kind and place are known; how often it was seen.
    pub fn push(&mut self, report: Report) -> u64 {
        let at = key(&report);
        if let Some(known) = self.reports.iter_mut().find(|known| key(known) == at) {
            known.count += report.count;
            return known.count;
        }
        if self.reports.len() >= REPORTS_MAX {
            self.dropped += 1;
            return 1;
        }
        self.reports.push(report);
        1
    }

    /// The texts of the reports that were not handed out yet.
    pub fn take_texts(&mut self) -> Vec<String> {
        let fresh = self.reports[self.printed..].iter().map(Report::text).collect();
        self.printed = self.reports.len();
        fresh
    }

    /// Every report, in the order in which they were first seen.
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }

    /// One line for each kind that was seen: `2 leaked-fd (17 times)`.
    pub fn summary(&self) -> Option<String> {
        let mut parts = Vec::new();
        for (word, kind) in Kind::WORDS {
            let of_kind = || self.reports.iter().filter(|report| report.kind == kind);
            let places = of_kind().count();
            let times: u64 = of_kind().map(|report| report.count).sum();
            match places {
                0 => {}
                _ if times == 1 => parts.push(format!("1 {word}")),
                _ => parts.push(format!("{places} {word} ({times} times)")),
            }
        }
        if self.dropped > 0 {
            parts.push(format!("{} more that are not shown", self.dropped));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::device::misuse::{StackFrame, Symbol};

    fn report(kind: Kind, offset: u64) -> Report {
        let symbol = Symbol {
            module: "/bin/client".into(),
            offset,
            function: Some("main".into()),
            source: Some(("/src/client.c".into(), u32::try_from(offset).unwrap())),
            own: true,
        };
        let frames = vec![StackFrame { pc: 0x40_0000 + offset, symbol: Arc::new(symbol) }];
        Report {
            kind,
            what: "It is wrong.".into(),
            act: Act::Access { addr: 0x7000, write: Some(true) },
            site: Site { pid: 12, tid: 13, comm: "client".into(), at_ns: 5, frames },
            subject: Subject {
                ino: 99,
                exp_name: "system".into(),
                name: Some("frame".into()),
                size_bytes: 8192,
                offset: Some(0x10),
            },
            history: History::default(),
            count: 1,
        }
    }

    #[test]
    fn reports_of_one_place_are_counted() {
        let mut log = Log::default();
        assert_eq!(log.push(report(Kind::LeakedFd, 1)), 1);
        assert_eq!(log.push(report(Kind::LeakedFd, 1)), 2);
        assert_eq!(log.push(report(Kind::LeakedFd, 2)), 1);
        assert_eq!(log.push(report(Kind::PrivateMapping, 1)), 1);
        assert_eq!(log.take_texts().len(), 3);
        assert_eq!(log.take_texts(), Vec::<String>::new());
        let summary = log.summary().unwrap();
        assert_eq!(summary, "1 private-mapping, 2 leaked-fd (3 times)");
        assert_eq!(Log::default().summary(), None);
    }

    #[test]
    fn the_log_is_bounded() {
        let mut log = Log::default();
        for offset in 0..REPORTS_MAX as u64 + 5 {
            log.push(report(Kind::LeakedFd, offset));
        }
        assert_eq!(log.reports().len(), REPORTS_MAX);
        assert!(log.summary().unwrap().ends_with("5 more that are not shown"));
    }

    #[test]
    fn a_report_reads_like_kasan() {
        let report = report(Kind::UnbracketedAccess, 7);
        let text = report.text();
        for part in [
            "BUG: driftheap: unbracketed-access in main (client.c:7)\n",
            "Write at address 0x7000 by task client/12 thread 13, pc 0x400007\n",
            "Buffer ino 99 \"frame\", 8192 bytes, exported by system, at offset 0x10:\n",
            "To fix it: put DMA_BUF_IOCTL_SYNC",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = report.json();
        for (key, expect) in [
            ("kind", json!("unbracketed-access")),
            ("pid", json!(12)),
            ("tid", json!(13)),
            ("line", json!(7)),
            ("function", json!("main")),
            ("count", json!(1)),
        ] {
            assert_eq!(json[key], expect, "{json}");
        }
        assert_eq!(json["act"]["access"], "write");
        assert_eq!(json["buffer"]["offset"], 16);
    }
}
