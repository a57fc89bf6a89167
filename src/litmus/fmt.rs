//! The formatter: a litmus file in its one layout.
//!
//! It works on the tokens of the file as it was written, so that comments and `vary` survive, and
//! knows just enough to tell a process block from a header block. Four columns a level; one
//! statement a line; a header block that stood on one line stays there while it fits; what was
//! broken inside parentheses stays broken; at most one blank line anywhere.

use super::diag::{Diagnostic, Sink, Source};
use super::lex::{Bracket, Kind, Token, is_process, lex, pairs};
use super::print::LINE_COLUMNS_MAX;

const INDENT: usize = 4;

/// Formats a litmus file. Formatting a formatted file changes nothing.
///
/// # Errors
///
/// The mistakes that prevent it: characters that belong to no token, brackets or comments that
/// are not closed. Other mistakes are left for the parser to find.
pub fn format(file_name: &str, text: &str) -> Result<String, Vec<Diagnostic>> {
    let mut sink = Sink::new(Source { file: file_name.into(), text: text.into() });
    let tokens = lex(text, &mut sink);
    if !sink.is_empty() {
        return Err(sink.finish(&[]));
    }
    Ok(Formatter::new(text, &tokens).run())
}

/// A bracket that is open where the formatter stands.
struct Open {
    bracket: Bracket,
    /// The line of the output on which it stands.
    line: usize,
    /// Whether the lines behind it are indented for its sake.
    indents: bool,
}

struct Formatter<'a> {
    text: &'a str,
    tokens: &'a [Token],
    pairs: Vec<usize>,
    /// For an opening brace, whether its contents stand on lines of their own.
    broken: Vec<bool>,
    /// For each token, whether the innermost bracket around it is a brace.
    in_brace: Vec<bool>,
    out: String,
    line: usize,
    /// Whether the next token must begin a line.
    breaks: bool,
    /// Line breaks of the source since the last token that was written.
    newlines: usize,
    open: Vec<Open>,
}

impl<'a> Formatter<'a> {
    fn new(text: &'a str, tokens: &'a [Token]) -> Self {
        let pairs = pairs(tokens);
        let mut formatter = Self {
            text,
            tokens,
            pairs,
            broken: vec![false; tokens.len()],
            in_brace: vec![false; tokens.len()],
            out: String::with_capacity(text.len()),
            line: 0,
            breaks: false,
            newlines: 0,
            open: Vec::new(),
        };
        formatter.find_broken();
        formatter
    }

    /// Braces around a line break, or around or of a process, are broken.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most tokens are alike here")]
    fn find_broken(&mut self) {
        let mut open: Vec<usize> = Vec::new();
        // The depth up to which the open brackets are known to be broken.
        let mut known = 0;
        for (i, token) in self.tokens.iter().enumerate() {
            let inside = open.last().map(|&at| self.tokens[at].kind);
            self.in_brace[i] = inside == Some(Kind::Open(Bracket::Curly));
            let breaks = match token.kind {
                Kind::Open(_) => {
                    open.push(i);
                    self.is_process_brace(i)
                }
                Kind::Close(_) => {
                    open.pop();
                    known = known.min(open.len());
                    false
                }
                Kind::Newline => true,
                _ => token.span.text(self.text).contains('\n'),
            };
            if breaks {
                open.iter().skip(known).for_each(|&at| self.broken[at] = true);
                known = open.len();
            }
        }
    }

    /// Whether token `at` is the brace of `Pn ROLE [NAME] {`.
    fn is_process_brace(&self, at: usize) -> bool {
        if self.tokens[at].kind != Kind::Open(Bracket::Curly) {
            return false;
        }
        let head = self.tokens[..at].iter().rev().take_while(|token| token.kind == Kind::Word);
        head.last().is_some_and(|first| is_process(first.span.text(self.text)))
    }

    fn run(mut self) -> String {
        let mut at = 0;
        while at < self.tokens.len() {
            at = self.token(at);
        }
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out
    }

    /// Writes the token, or the whole brace group that begins with it, and says what comes next.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most tokens are alike here")]
    fn token(&mut self, at: usize) -> usize {
        let inside = self.open.last().map(|open| open.bracket);
        let lines = matches!(inside, None | Some(Bracket::Curly));
        match self.tokens[at].kind {
            Kind::Newline => self.newlines += 1,
            Kind::Semicolon if lines => self.breaks = true,
            Kind::LineComment => self.line_comment(at),
            Kind::Open(Bracket::Curly) => return self.brace(at),
            Kind::Open(bracket) => {
                self.write(at);
                self.open.push(Open { bracket, line: self.line, indents: false });
            }
            Kind::Close(Bracket::Curly) => {
                self.open.pop();
                self.breaks = true;
                self.write(at);
                self.breaks = self.open.is_empty();
            }
            Kind::Close(_) => {
                self.open.pop();
                self.write(at);
            }
            _ => self.write(at),
        }
        at + 1
    }

    fn brace(&mut self, at: usize) -> usize {
        let close = self.pairs[at];
        let blank = |token: &Token| matches!(token.kind, Kind::Newline | Kind::Semicolon);
        if self.tokens[at + 1..close].iter().all(blank) {
            self.write(at);
            self.out.push('}');
            self.breaks = self.open.is_empty();
            return close + 1;
        }
        if !self.broken[at] {
            let flat = self.flat(at, close);
            self.lead(at);
            if self.column() + flat.chars().count() <= LINE_COLUMNS_MAX {
                self.out.push_str(&flat);
                self.breaks = self.open.is_empty();
                return close + 1;
            }
            self.out.push('{');
        } else {
            self.write(at);
        }
        self.open.push(Open { bracket: Bracket::Curly, line: self.line, indents: false });
        self.breaks = true;
        at + 1
    }

    /// The group `at..=close` on one line.
    fn flat(&self, at: usize, close: usize) -> String {
        let mut out = String::from("{");
        let mut separated = false;
        for i in at + 1..=close {
            if self.tokens[i].kind == Kind::Semicolon && self.in_brace[i] {
                separated = !out.ends_with(['{', ';']);
                continue;
            }
            if std::mem::take(&mut separated) && i != close {
                let text =
                    if self.tokens[i].kind == Kind::Close(Bracket::Curly) { "" } else { ";" };
                out.push_str(text);
            }
            if i == close || self.gap(i) || out.ends_with([';', '{']) {
                out.push(' ');
            }
            out.push_str(self.tokens[i].span.text(self.text));
        }
        out
    }

    /// A comment stays behind what it stood behind.
    fn line_comment(&mut self, at: usize) {
        let own_line = at == 0 || self.tokens[at - 1].kind == Kind::Newline;
        if own_line || self.out.is_empty() {
            return self.write(at);
        }
        self.out.push_str("  ");
        self.out.push_str(self.tokens[at].span.text(self.text).trim_end());
        self.breaks = true;
        self.newlines = 0;
    }

    /// The line breaks or the blank in front of token `at`.
    fn lead(&mut self, at: usize) {
        let breaks = self.newlines.max(usize::from(self.breaks));
        (self.breaks, self.newlines) = (false, 0);
        if self.out.is_empty() {
            return;
        }
        if breaks == 0 {
            if self.gap(at) {
                self.out.push(' ');
            }
            return;
        }
        let inside = self.open.last().map(|open| open.bracket);
        let begins = self.out.ends_with('{');
        let ends = matches!(self.tokens[at].kind, Kind::Close(_));
        let blank_line = matches!(inside, None | Some(Bracket::Curly)) && !begins && !ends;
        let breaks = breaks.min(if blank_line { 2 } else { 1 });
        if let Some(last) = self.open.iter_mut().rfind(|open| open.line == self.line) {
            last.indents = true;
        }
        let level = self.open.iter().filter(|open| open.indents).count();
        self.out.extend(std::iter::repeat_n('\n', breaks));
        self.out.extend(std::iter::repeat_n(' ', level * INDENT));
        self.line += 1;
    }

    fn write(&mut self, at: usize) {
        self.lead(at);
        let text = self.tokens[at].span.text(self.text);
        if self.tokens[at].kind == Kind::BlockComment {
            let lines: Vec<&str> = text.split('\n').map(str::trim_end).collect();
            self.out.push_str(&lines.join("\n"));
        } else {
            self.out.push_str(text.trim_end());
        }
    }

    fn column(&self) -> usize {
        let line = self.out.rfind('\n').map_or(0, |at| at + 1);
        self.out[line..].chars().count()
    }

    /// Whether a blank belongs between token `at` and the one before it on the same line.
    fn gap(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else { return false };
        let text = |i: usize| self.tokens[i].span.text(self.text);
        let earlier = |n: usize| at.checked_sub(n).map(|i| (self.tokens[i].kind, text(i)));
        let (last, last_text) = (self.tokens[before].kind, text(before));
        match (last, self.tokens[at].kind) {
            // `(*` would open a comment.
            (Kind::Open(Bracket::Round), Kind::Star) => true,
            (Kind::Open(Bracket::Round | Bracket::Square) | Kind::Not, _) => false,
            (_, Kind::Comma | Kind::Semicolon | Kind::Colon) => false,
            (_, Kind::Close(Bracket::Round | Bracket::Square)) => false,
            (Kind::Colon, _) => !earlier(2).is_some_and(|(_, word)| is_process(word)),
            (Kind::Word | Kind::Close(Bracket::Round), Kind::Open(Bracket::Square)) => false,
            (Kind::Word, Kind::Open(Bracket::Round)) => {
                last_text != "vary" && earlier(2).is_none_or(|(_, word)| word != "vary")
            }
            (Kind::Word, Kind::Equal) => !self.is_option(before),
            (Kind::Equal, _) => !before.checked_sub(1).is_some_and(|word| self.is_option(word)),
            _ => true,
        }
    }

    /// Whether token `at` is the word of an option `pages=N` or `offset=N`, not of a field.
    fn is_option(&self, at: usize) -> bool {
        let starts_line = |kind: Kind| {
            matches!(
                kind,
                Kind::Newline
                    | Kind::Semicolon
                    | Kind::Open(Bracket::Curly)
                    | Kind::Close(Bracket::Curly)
            )
        };
        let word = matches!(self.tokens[at].span.text(self.text), "pages" | "offset");
        word && at > 0 && !starts_line(self.tokens[at - 1].kind)
    }
}
