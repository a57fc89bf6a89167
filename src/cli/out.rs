//! Standard output and standard error.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use clap::ColorChoice;
use driftheap::report::{Paint, Tone};

use super::Global;

/// Where text goes, and how it may look.
#[derive(Debug)]
pub(crate) struct Out {
    /// Colours of standard output.
    pub(crate) paint: Paint,
    err_paint: Paint,
    pub(crate) quiet: bool,
    /// Whether progress may be shown.
    progress: bool,
}

impl Out {
    pub(crate) fn new(global: &Global) -> Self {
        let colour = |auto: bool| match global.choice() {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => auto,
        };
        let allowed = |choice: anstream::ColorChoice| choice != anstream::ColorChoice::Never;
        let stdout = colour(allowed(anstream::AutoStream::choice(&io::stdout())));
        let stderr = colour(allowed(anstream::AutoStream::choice(&io::stderr())));
        Self {
            paint: Paint { colour: stdout, room: room() },
            err_paint: Paint { colour: stderr, room: None },
            quiet: global.quiet,
            progress: io::stderr().is_terminal() && !global.quiet,
        }
    }

    /// Write to standard output, at once.
    pub(crate) fn text(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .context("can't write to standard output")
    }

    /// Write sentences and tables to standard output, at once; on a terminal, a line that is longer
    /// than it is wide goes on below, further in.
    pub(crate) fn prose(&self, text: &str) -> anyhow::Result<()> {
        match self.paint.room {
            Some(room) => self.text(&wrapped(text, room)),
            None => self.text(text),
        }
    }

    /// Columns of the terminal, or a page's width where there is none.
    pub(crate) fn columns(&self) -> usize {
        const PAGE: usize = 132;
        self.paint.room.unwrap_or(PAGE)
    }

    pub(crate) fn err_colour(&self) -> bool {
        self.err_paint.colour
    }

    /// Write a message to standard error; that nobody reads it is nobody's fault.
    pub(crate) fn note(&self, text: &str) {
        let _nobody_reads = io::stderr().lock().write_all(text.as_bytes());
    }

    /// `error: ...`.
    pub(crate) fn error(&self, message: &str) {
        let error = self.err_paint.paint(Tone::Bad, "error");
        self.note(&format!("{error}: {message}\n"));
    }

    /// Show where we are on a line that goes away.
    pub(crate) fn status(&self, text: &str) {
        if self.progress {
            self.note(&format!("\r{text}\x1b[K"));
        }
    }

    /// Take that line away.
    pub(crate) fn clear_status(&self) {
        if self.progress {
            self.note("\r\x1b[K");
        }
    }
}

/// Columns of the terminal that standard output is.
fn room() -> Option<usize> {
    const LEAST: usize = 60;
    let size = io::stdout().is_terminal().then(terminal_size::terminal_size).flatten();
    size.map(|(columns, _)| usize::from(columns.0).max(LEAST))
}

/// The text with its lines broken at blanks so that none is longer than `room`; escape sequences
/// take none of it.
fn wrapped(text: &str, room: usize) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches('\n');
        let inner = bare.trim_start_matches(' ');
        let indent = " ".repeat((bare.len() - inner.len() + 2).min(room / 2));
        let options = textwrap::Options::new(room)
            .subsequent_indent(&indent)
            .word_separator(textwrap::WordSeparator::AsciiSpace)
            .word_splitter(textwrap::WordSplitter::NoHyphenation)
            .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit)
            .break_words(false);
        let lines = textwrap::wrap(bare, options);
        out += &lines.join("\n");
        out += &line[bare.len()..];
    }
    out
}

/// Whether whoever read our output has gone.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn long_lines_go_on_further_in() {
        let text = "  a line of words that is too long\nshort\n\n    {\"a\": 1}\nno end";
        let expect = "  a line of words\n    that is too long\nshort\n\n    {\"a\": 1}\nno end";
        assert_eq!(wrapped(text, 20), expect);
        let coloured = "\u{1b}[1mbold words\u{1b}[0m and plain ones";
        assert_eq!(wrapped(coloured, 26), coloured);
        assert_eq!(wrapped("a-word-without-a-blank-in-it\n", 10), "a-word-without-a-blank-in-it\n");
    }
}
