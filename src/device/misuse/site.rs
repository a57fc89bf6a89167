//! Where something was done: a thread and its call stack, in words.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::terminal::printed;

/// What is known about an instruction, the same in every process that maps its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Symbol {
    /// Path of the executable or library.
    pub module: String,
    /// Address within it, as its own headers count.
    pub offset: u64,
    /// Function, demangled.
    pub function: Option<String>,
    /// Source file and line; line 0 is one that is not known.
    pub source: Option<(String, u32)>,
    /// Whether it belongs to the program itself and not to a library.
    pub own: bool,
}

impl Symbol {
    /// Without its directories, which rarely tell two modules apart.
    fn file_name(path: &str) -> &str {
        path.rsplit('/').next().unwrap_or(path)
    }

    /// `function (file:line)`, or as much of it as is known.
    pub fn words(&self) -> String {
        let module = Self::file_name(&self.module);
        let source = self.source.as_ref().map(|(file, line)| match line {
            0 => Self::file_name(file).to_owned(),
            line => format!("{}:{line}", Self::file_name(file)),
        });
        match (&self.function, source) {
            (Some(function), Some(source)) => format!("{function} ({source})"),
            (None, Some(source)) => source,
            (Some(function), None) => format!("{function} ({module}+{:#x})", self.offset),
            (None, None) => format!("{module}+{:#x}", self.offset),
        }
    }
}

/// One entry of a call stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackFrame {
    /// Address in the process: of the instruction, or where a call returns to.
    pub pc: u64,
    /// What is there.
    pub symbol: Arc<Symbol>,
}

/// A thread at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Process.
    pub pid: i32,
    /// Thread.
    pub tid: i32,
    /// Its name.
    pub comm: String,
    /// Nanoseconds since the device was started.
    pub at_ns: u64,
    /// The call stack, innermost first; empty where it could not be read.
    pub frames: Vec<StackFrame>,
}

impl Site {
    /// The frame that a reader wants to be told, and that one mistake is known by: the innermost
    /// one of the program itself with a source line, else the innermost one with a source line,
    /// else the innermost one of the program itself, else the innermost one. A library that was
    /// built with source lines does many things for one line of the program.
    pub fn place(&self) -> Option<&StackFrame> {
        self.frames
            .iter()
            .find(|frame| frame.symbol.own && frame.symbol.source.is_some())
            .or_else(|| self.frames.iter().find(|frame| frame.symbol.source.is_some()))
            .or_else(|| self.frames.iter().find(|frame| frame.symbol.own))
            .or_else(|| self.frames.first())
    }

    /// The place in words.
    pub fn place_words(&self) -> String {
        self.place().map_or_else(|| "an unknown place".into(), |frame| frame.symbol.words())
    }

    /// `draw (client.c:7) from main (client.c:20), pid 12 (client)`.
    pub fn words(&self) -> String {
        let mut words = self.place_words();
        let mut lines = self.frames.iter().filter(|frame| frame.symbol.source.is_some());
        if let Some(caller) = lines.nth(1) {
            // Writing to a string can't fail.
            let _ = write!(words, " from {}", caller.symbol.words());
        }
        let _ = write!(words, ", pid {}", self.pid);
        if self.tid != self.pid {
            let _ = write!(words, " thread {}", self.tid);
        }
        let _ = write!(words, " ({})", printed(&self.comm));
        words
    }

    /// As one JSON object.
    pub fn json(&self) -> Value {
        let place = self.place();
        let source = place.and_then(|frame| frame.symbol.source.as_ref());
        json!({
            "pid": self.pid,
            "tid": self.tid,
            "comm": self.comm,
            "at_ns": self.at_ns,
            "pc": place.map(|frame| frame.pc),
            "module": place.map(|frame| &frame.symbol.module),
            "module_offset": place.map(|frame| frame.symbol.offset),
            "function": place.and_then(|frame| frame.symbol.function.as_ref()),
            "file": source.map(|(file, _)| file),
            "line": source.map(|(_, line)| line).filter(|line| **line > 0),
            "trace": self.frames.iter().map(|frame| frame.symbol.words()).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, source: Option<(&str, u32)>, own: bool) -> StackFrame {
        let symbol = Symbol {
            module: "/usr/bin/x".into(),
            offset: 0x40,
            function: Some(function.into()),
            source: source.map(|(file, line)| (file.into(), line)),
            own,
        };
        StackFrame { pc: 1, symbol: Arc::new(symbol) }
    }

    #[test]
    fn names_do_not_command_the_terminal() {
        let site = Site { comm: "x\ny".into(), ..Site::default() };
        assert!(!site.words().contains('\n'));
    }

    #[test]
    fn the_program_s_own_line_is_named() {
        let libc = frame("ioctl", None, false);
        let own = frame("helper", None, true);
        let library = frame("memcpy", Some(("/libc/memmove.S", 200)), false);
        let line = frame("main", Some(("/src/client.c", 7)), true);
        for (frames, expect) in [
            (vec![], "an unknown place"),
            (vec![libc.clone()], "ioctl (x+0x40)"),
            (vec![libc.clone(), own.clone()], "helper (x+0x40)"),
            (vec![libc, own.clone(), line.clone()], "main (client.c:7)"),
            (vec![library.clone(), line], "main (client.c:7)"),
            (vec![own.clone(), frame("draw", Some(("/src/client.c", 0)), true)], "draw (client.c)"),
            (vec![library, own], "memcpy (memmove.S:200)"),
        ] {
            let site = Site { frames, ..Site::default() };
            assert_eq!(site.place_words(), expect);
        }
    }
}
