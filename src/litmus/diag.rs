//! Diagnostics: what is wrong with a litmus file, where, and what to write instead.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::span::{Span, line_column};

/// After so many diagnostics a file is not looked at any further.
pub const DIAGNOSTICS_MAX: usize = 50;

/// The name and text of a litmus file.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) file: Arc<str>,
    pub(super) text: Arc<str>,
}

/// One mistake in a litmus file.
///
/// `Display` is one line (`FILE:LINE:COLUMN: MESSAGE`), [`Diagnostic::render`] shows the source
/// line with a caret; serialised it is an object of `file`, `line`, `column`, `message`, `help`.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    source: Source,
    problem: Problem,
    note: Option<String>,
}

impl Diagnostic {
    /// A mistake that was found after parsing.
    #[must_use]
    pub fn new(file: &str, text: &str, span: Span, message: impl Into<String>) -> Self {
        let source = Source { file: file.into(), text: text.into() };
        Self { source, problem: Problem::new(span, message), note: None }
    }

    /// The file name as it was given to the parser.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.source.file
    }

    /// The line of the mistake, from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        line_column(&self.source.text, self.problem.span.start).0
    }

    /// The column of the mistake, from 1, in characters.
    #[must_use]
    pub fn column(&self) -> u32 {
        line_column(&self.source.text, self.problem.span.start).1
    }

    /// The bytes of the file that are wrong.
    #[must_use]
    pub fn span(&self) -> Span {
        self.problem.span
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.problem.message
    }

    /// What to do about it: the suggestion, the possible words, the variants it concerns.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let Problem { label, help, .. } = &self.problem;
        let parts: Vec<&str> =
            [label, help, &self.note].into_iter().flatten().map(String::as_str).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The diagnostic with its source line and a caret, with terminal colours if `colour`.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let Problem { span, message, label, help, related } = &self.problem;
        let text = &*self.source.text;
        let primary = AnnotationKind::Primary.span(clamp(text, *span));
        let mut snippet = Snippet::source(text)
            .path(&*self.source.file)
            .annotation(primary.label(label.as_deref()));
        for (span, what) in related {
            snippet = snippet
                .annotation(AnnotationKind::Context.span(clamp(text, *span)).label(what.as_str()));
        }
        let mut group: Group<'_> = Level::ERROR.primary_title(message.as_str()).element(snippet);
        if let Some(help) = help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        if let Some(note) = &self.note {
            group = group.element(Level::NOTE.message(note.as_str()));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

/// The span as a range of whole characters inside the text.
fn clamp(text: &str, span: Span) -> std::ops::Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    floor(span.start as usize)..floor(span.end as usize)
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file(), self.line(), self.column(), self.message())
    }
}

impl std::error::Error for Diagnostic {}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Diagnostic", 5)?;
        object.serialize_field("file", self.file())?;
        object.serialize_field("line", &self.line())?;
        object.serialize_field("column", &self.column())?;
        object.serialize_field("message", self.message())?;
        object.serialize_field("help", &self.help())?;
        object.end()
    }
}

/// A mistake before it is known which file it is in.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    span: Span,
    message: String,
    /// Stands beside the caret.
    label: Option<String>,
    help: Option<String>,
    related: Vec<(Span, String)>,
}

impl Problem {
    pub(super) fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), label: None, help: None, related: Vec::new() }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn related(mut self, span: Span, what: impl Into<String>) -> Self {
        self.related.push((span, what.into()));
        self
    }

    /// Suggests the word of `candidates` that is nearest to `word`, and lists them all.
    pub(super) fn suggest(self, word: &str, candidates: &[&str], what: &str) -> Self {
        let problem = match nearest(word, candidates) {
            Some(near) => self.label(format!("did you mean `{near}`?")),
            None => self,
        };
        if candidates.is_empty() { problem } else { problem.help(listed(what, candidates)) }
    }
}

/// `WHAT: a, b, c`, cut after a dozen.
fn listed(what: &str, words: &[&str]) -> String {
    const SHOWN_MAX: usize = 40;
    let mut list = words.iter().take(SHOWN_MAX).copied().collect::<Vec<_>>().join(", ");
    if words.len() > SHOWN_MAX {
        list.push_str(", ...");
    }
    format!("{what}: {list}")
}

/// The candidate that a hand most likely meant by `word`: at most a third of its letters differ.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    const WORD_BYTES_MAX: usize = 64;
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase();
    candidates
        .iter()
        .map(|&candidate| (strsim::osa_distance(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= word.len().max(candidate.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Collects the diagnostics of a file, each once however many variants show it.
#[derive(Debug)]
pub(super) struct Sink {
    source: Source,
    /// By place, then message, so that they come out in the order of the file.
    found: BTreeMap<(u32, u32, String), Found>,
    /// Ranges that are already known to be broken.
    muted: Vec<Span>,
    variant: Option<usize>,
}

#[derive(Debug)]
struct Found {
    problem: Problem,
    /// The variants it was seen in; empty if it is not about a variant.
    variants: Vec<usize>,
}

impl Sink {
    pub(super) fn new(source: Source) -> Self {
        Self { source, found: BTreeMap::new(), muted: Vec::new(), variant: None }
    }

    /// From now on the problems are those of this variant.
    pub(super) fn in_variant(&mut self, variant: Option<usize>) {
        self.variant = variant;
    }

    /// Drops what is reported inside `span` from now on: it would only follow from a mistake
    /// that is already known.
    pub(super) fn mute(&mut self, span: Span) {
        self.muted.push(span);
    }

    pub(super) fn report(&mut self, problem: Problem) {
        let span = problem.span;
        let known_broken = |muted: &Span| muted.start <= span.start && span.end <= muted.end;
        if self.is_full() || self.muted.iter().any(known_broken) {
            return;
        }
        let key = (span.start, span.end, problem.message.clone());
        let found =
            self.found.entry(key).or_insert_with(|| Found { problem, variants: Vec::new() });
        if let Some(variant) = self.variant
            && found.variants.last() != Some(&variant)
        {
            found.variants.push(variant);
        }
    }

    /// Whether there are so many that looking for more is useless.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= DIAGNOSTICS_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The diagnostics in the order of the file; those of only some variants say which.
    pub(super) fn finish(self, variants: &[String]) -> Vec<Diagnostic> {
        let Self { source, found, .. } = self;
        let diagnostic = |Found { problem, variants: seen }: Found| {
            let first = seen.first().and_then(|&i| variants.get(i));
            let note = first
                .filter(|_| seen.len() < variants.len())
                .map(|name| format!("in variant `{name}` ({} of {})", seen.len(), variants.len()));
            Diagnostic { source: source.clone(), problem, note }
        };
        let full = found.len() >= DIAGNOSTICS_MAX;
        let mut list: Vec<Diagnostic> = found.into_values().map(diagnostic).collect();
        if let Some(last) = list.last_mut().filter(|_| full) {
            last.note =
                Some(format!("after {DIAGNOSTICS_MAX} errors the file was not read any further"));
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str, problem: Problem) -> Diagnostic {
        let mut sink = Sink::new(Source { file: "a.litmus".into(), text: text.into() });
        sink.report(problem);
        sink.finish(&[]).remove(0)
    }

    #[test]
    fn a_diagnostic_shows_the_line_and_the_caret() {
        let problem = Problem::new(Span::new(9, 14), "unknown statement `stroe`").suggest(
            "stroe",
            &["load", "store"],
            "statements",
        );
        let diagnostic = one("P0 a {\n  stroe v[0] = 1\n}\n", problem);
        let expected = "\
error: unknown statement `stroe`
 --> a.litmus:2:3
  |
2 |   stroe v[0] = 1
  |   ^^^^^ did you mean `store`?
  |
  = help: statements: load, store";
        assert_eq!(diagnostic.render(false), expected);
        assert!(diagnostic.render(true).contains("\u{1b}["), "colour is escape sequences");
        assert_eq!(diagnostic.to_string(), "a.litmus:2:3: unknown statement `stroe`");
        let json = serde_json::to_string(&diagnostic).unwrap();
        assert_eq!(
            json,
            r#"{"file":"a.litmus","line":2,"column":3,"message":"unknown statement `stroe`","help":"did you mean `store`?; statements: load, store"}"#
        );
    }

    #[test]
    fn any_span_renders() {
        for text in ["", "x", "ç\r\n\té", "\n\n"] {
            for (start, end) in [(0, 0), (0, 1), (1, 1), (2, 3), (5, 9)] {
                let problem =
                    Problem::new(Span::new(start, end), "m").related(Span::new(end, end), "r");
                assert!(one(text, problem).render(false).contains("error: m"));
            }
        }
    }

    #[test]
    fn the_nearest_word_is_near() {
        let words = ["mmap", "recycle", "on-foreign-pin", "v"];
        let cases = [
            ("mmpa", Some("mmap")),
            ("Recycle", Some("recycle")),
            ("on-foriegn-pin", Some("on-foreign-pin")),
            ("w", None),
            ("colour", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, &words), expected, "{word}");
        }
    }
}
