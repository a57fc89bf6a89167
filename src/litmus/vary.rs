//! `vary`: one token stream to one stream per combination of alternatives.
//!
//! The expansion works on tokens and knows nothing of statements, like a macro; every token keeps
//! its place in the file, so that a diagnostic about an expansion points at what was written.

use std::collections::BTreeMap;
use std::ops::Range;

use super::diag::{Problem, Sink};
use super::lex::{Bracket, Kind, Token, pairs};
use super::span::Span;
use super::{EXPANSION_TOKENS_MAX, LABEL_BYTES_MAX, VARIANTS_MAX};

/// A file whose `vary`s are found but not yet decided.
#[derive(Debug)]
pub(super) struct Expansion<'a> {
    tokens: &'a [Token],
    pieces: Vec<Piece>,
    groups: Vec<Group>,
    variants: usize,
}

#[derive(Debug)]
enum Piece {
    /// These tokens, in every variant.
    Plain(Range<usize>),
    /// One of these, as the group says.
    Vary { group: usize, alternatives: Vec<Range<usize>> },
}

/// Alternatives that move together.
#[derive(Debug)]
struct Group {
    labels: Vec<String>,
    /// Of the `vary` that came first.
    span: Span,
}

/// An alternative as it was written.
struct Alternative {
    label: Option<(String, Span)>,
    tokens: Range<usize>,
    span: Span,
}

impl<'a> Expansion<'a> {
    /// Finds the `vary`s. After a mistake the expansion still works, but may be smaller.
    pub(super) fn new(text: &str, tokens: &'a [Token], sink: &mut Sink) -> Self {
        let mut scan = Scan {
            text,
            tokens,
            pairs: pairs(tokens),
            named: BTreeMap::new(),
            groups: Vec::new(),
            sink,
        };
        let pieces = scan.pieces();
        let groups = scan.groups;
        let mut expansion = Self { tokens, pieces, groups, variants: 1 };
        expansion.variants = expansion.count(sink);
        expansion
    }

    /// The number of variants; only the first is expanded when there are too many.
    fn count(&self, sink: &mut Sink) -> usize {
        let sizes = self.groups.iter().map(|group| group.labels.len());
        let count = sizes.fold(1_usize, |n, m| n.saturating_mul(m.max(1)));
        let Some(last) = self.groups.last() else { return 1 };
        if count > VARIANTS_MAX {
            let message = format!("{count} variants; a file has at most {VARIANTS_MAX}");
            let help = "split the test, or let `vary`s move together by giving them one name";
            sink.report(Problem::new(last.span, message).help(help));
            return 1;
        }
        if count.saturating_mul(self.tokens.len()) > EXPANSION_TOKENS_MAX {
            let message = format!("{count} variants of {} words are too much", self.tokens.len());
            sink.report(Problem::new(last.span, message).help("split the test into several files"));
            return 1;
        }
        count
    }

    pub(super) fn variants(&self) -> usize {
        self.variants
    }

    /// Which alternative each group takes in this variant; the first group varies slowest.
    fn choices(&self, variant: usize) -> Vec<usize> {
        let mut rest = variant;
        let mut choices: Vec<usize> = self
            .groups
            .iter()
            .rev()
            .map(|group| {
                let size = group.labels.len().max(1);
                let choice = rest % size;
                rest /= size;
                choice
            })
            .collect();
        choices.reverse();
        choices
    }

    /// The labels of the variant joined by `/`; `-` if there is nothing to choose.
    pub(super) fn name(&self, variant: usize) -> String {
        if self.groups.is_empty() {
            return "-".to_owned();
        }
        let choices = self.choices(variant);
        let label = |(group, choice): (&Group, usize)| {
            group.labels.get(choice).cloned().unwrap_or_default()
        };
        self.groups.iter().zip(choices).map(label).collect::<Vec<_>>().join("/")
    }

    /// The tokens of the variant.
    pub(super) fn tokens(&self, variant: usize) -> Vec<Token> {
        let choices = self.choices(variant);
        let mut out = Vec::with_capacity(self.tokens.len());
        for piece in &self.pieces {
            let range = match piece {
                Piece::Plain(range) => range,
                Piece::Vary { group, alternatives } => {
                    let choice = choices.get(*group).copied().unwrap_or(0);
                    match alternatives.get(choice) {
                        Some(range) => range,
                        None => continue,
                    }
                }
            };
            out.extend_from_slice(&self.tokens[range.clone()]);
        }
        out
    }
}

struct Scan<'a, 's> {
    text: &'a str,
    tokens: &'a [Token],
    pairs: Vec<usize>,
    named: BTreeMap<&'a str, usize>,
    groups: Vec<Group>,
    sink: &'s mut Sink,
}

impl<'a> Scan<'a, '_> {
    fn pieces(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut plain, mut at) = (0, 0);
        while at < self.tokens.len() {
            if !self.is_vary(at) {
                at += 1;
                continue;
            }
            let (name, open) = self.head(at);
            let Some(open) = open else {
                let help = "write `vary(a, b)` or `vary NAME(a, b)`; `vary` can't be a name";
                let problem = Problem::new(self.tokens[at].span, "`vary` without alternatives");
                self.sink.report(problem.help(help));
                self.sink.mute(self.tokens[at].span);
                at += 1;
                continue;
            };
            let close = self.pairs[open];
            pieces.push(Piece::Plain(plain..at));
            pieces.push(self.vary(at, name, open, close));
            at = close + 1;
            plain = at;
        }
        pieces.push(Piece::Plain(plain..at));
        pieces
    }

    fn word(&self, at: usize) -> &'a str {
        self.tokens[at].span.text(self.text)
    }

    fn kind(&self, at: usize) -> Option<Kind> {
        self.tokens.get(at).map(|token| token.kind)
    }

    fn is_vary(&self, at: usize) -> bool {
        self.kind(at) == Some(Kind::Word) && self.word(at) == "vary"
    }

    /// The name and the opening parenthesis of the `vary` at `at`.
    fn head(&self, at: usize) -> (Option<&'a str>, Option<usize>) {
        let round = Some(Kind::Open(Bracket::Round));
        match self.kind(at + 1) {
            kind if kind == round => (None, Some(at + 1)),
            Some(Kind::Word) if self.kind(at + 2) == round => {
                (Some(self.word(at + 1)), Some(at + 2))
            }
            _ => (None, None),
        }
    }

    fn vary(&mut self, at: usize, name: Option<&'a str>, open: usize, close: usize) -> Piece {
        let span = self.tokens[at].span.to(self.tokens[close].span);
        if let Some(inner) = (open + 1..close).find(|&inner| self.is_vary(inner)) {
            let message = "`vary` inside `vary` is not supported";
            let help = "write the combinations out as alternatives, or move the inner one outside";
            self.sink.report(Problem::new(self.tokens[inner].span, message).help(help));
            self.sink.mute(span);
        }
        let alternatives = self.alternatives(open, close);
        if alternatives.is_empty() {
            let problem = Problem::new(span, "`vary` without alternatives");
            self.sink.report(problem.help("an empty alternative is written `{}`"));
            let next = self.tokens.get(close + 1).map_or(span, |next| next.span);
            self.sink.mute(span.to(next));
        }
        let known = name.and_then(|name| self.named.get(name)).copied();
        let group = match known {
            Some(group) => {
                self.agree(group, name.unwrap_or_default(), span, &alternatives);
                group
            }
            None => {
                let labels = self.labels(&alternatives);
                let group = self.groups.len();
                self.groups.push(Group { labels, span });
                if let Some(name) = name {
                    self.named.insert(name, group);
                }
                group
            }
        };
        Piece::Vary { group, alternatives: alternatives.into_iter().map(|a| a.tokens).collect() }
    }

    /// Splits the inside of the parentheses at its commas; a comma may stand behind the last one.
    fn alternatives(&mut self, open: usize, close: usize) -> Vec<Alternative> {
        let mut out = Vec::new();
        let (mut start, mut at) = (open + 1, open + 1);
        while at <= close {
            let kind = self.tokens[at].kind;
            if at == close || kind == Kind::Comma {
                if start < at {
                    out.push(self.alternative(start, at));
                } else if at < close {
                    let problem = Problem::new(self.tokens[at].span, "nothing before this comma");
                    self.sink.report(problem.help("an empty alternative is written `{}`"));
                }
                start = at + 1;
            }
            at = if matches!(kind, Kind::Open(_)) { self.pairs[at] + 1 } else { at + 1 };
        }
        out
    }

    /// `[LABEL =>] TOKENS` in `start..end`; braces around all of the tokens are dropped.
    fn alternative(&mut self, mut start: usize, mut end: usize) -> Alternative {
        let span = self.tokens[start].span.to(self.tokens[end - 1].span);
        let labelled = start + 1 < end && self.tokens[start + 1].kind == Kind::FatArrow;
        let label = labelled.then(|| (self.word(start).to_owned(), self.tokens[start].span));
        if labelled {
            if !matches!(self.tokens[start].kind, Kind::Word | Kind::Number) {
                let problem = Problem::new(self.tokens[start].span, "a label is a single word");
                self.sink.report(problem);
            }
            start += 2;
        }
        if let Some(arrow) = (start..end).find(|&at| self.tokens[at].kind == Kind::FatArrow) {
            let problem = Problem::new(self.tokens[arrow].span, "unexpected `=>`");
            self.sink.report(problem.help("a label is one word: `label => tokens`"));
            self.sink.mute(span);
        }
        let braces = start < end && self.tokens[start].kind == Kind::Open(Bracket::Curly);
        if braces && self.pairs[start] == end - 1 {
            start += 1;
            end -= 1;
        }
        let separator = |at: usize| matches!(self.tokens[at].kind, Kind::Newline | Kind::Semicolon);
        while start < end && separator(start) {
            start += 1;
        }
        while start < end && separator(end - 1) {
            end -= 1;
        }
        Alternative { label, tokens: start..end, span }
    }

    /// The label that was written, or the words of the alternative.
    fn labels(&mut self, alternatives: &[Alternative]) -> Vec<String> {
        let mut labels: Vec<String> = Vec::new();
        for alternative in alternatives {
            let (label, span) = match &alternative.label {
                Some((label, span)) => (label.clone(), *span),
                None => (self.words_of(alternative), alternative.span),
            };
            if label.len() > LABEL_BYTES_MAX {
                let message =
                    format!("the label of this alternative is over {LABEL_BYTES_MAX} bytes");
                let help = "name the alternative: `short => ...`";
                self.sink.report(Problem::new(span, message).help(help));
            }
            if labels.contains(&label) {
                let message = format!("two alternatives are called `{label}`");
                let help = "name them apart: `label => ...`";
                self.sink.report(Problem::new(span, message).help(help));
            }
            labels.push(label);
        }
        labels
    }

    fn words_of(&self, alternative: &Alternative) -> String {
        let words: Vec<&str> = alternative
            .tokens
            .clone()
            .filter(|&at| matches!(self.tokens[at].kind, Kind::Word | Kind::Number))
            .map(|at| self.word(at))
            .collect();
        if words.is_empty() { "none".to_owned() } else { words.join("-") }
    }

    /// Checks a further `vary NAME(..)` against the first.
    fn agree(&mut self, group: usize, name: &str, span: Span, alternatives: &[Alternative]) {
        let first = &self.groups[group];
        let (count, here) = (first.labels.len(), alternatives.len());
        if count != here {
            let message = format!("`vary {name}` has {here} alternatives here and {count} before");
            let help = "`vary`s of one name move together and need as many alternatives";
            let problem = Problem::new(span, message).help(help);
            self.sink.report(problem.related(first.span, "the first one"));
            self.sink.mute(span);
        }
        for (first, alternative) in first.labels.iter().zip(alternatives) {
            if let Some((label, at)) = &alternative.label
                && label != first
            {
                let message =
                    format!("this alternative of `vary {name}` is called `{first}` before");
                let help = "the labels are those of the first; they need not be repeated";
                self.sink.report(Problem::new(*at, message).help(help));
            }
        }
    }
}
