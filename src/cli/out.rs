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
            paint: Paint { colour: stdout },
            err_paint: Paint { colour: stderr },
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

    /// Columns of the terminal, or a page's width where there is none.
    pub(crate) fn columns(&self) -> usize {
        const PAGE: usize = 132;
        let size = io::stdout().is_terminal().then(terminal_size::terminal_size).flatten();
        size.map_or(PAGE, |(columns, _)| usize::from(columns.0).max(60))
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

/// Whether whoever read our output has gone.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
