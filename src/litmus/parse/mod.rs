//! Tokens of one variant to its syntax tree.
//!
//! A mistake is reported where it stands, then reading goes on at the next statement or block; the
//! words of what could not be read are remembered, so that their absence is not reported again
//! where they are used.

mod blocks;
mod condition;
mod statement;

use super::ast::Name;
use super::diag::{Problem, Sink};
use super::lex::{Bracket, Kind, Token, is_process, number, pairs};
use super::rules::RuleTable;
use super::span::Span;

pub(super) use blocks::{Parsed, variant};

/// A mistake was reported; the caller recovers.
struct Failed;

type Result<T> = std::result::Result<T, Failed>;

/// Words that would be ambiguous as the name of something.
const RESERVED: &[&str] = &["anon", "dmabuf_of", "vary", "hazard", "warning", "true", "false"];

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token],
    pairs: Vec<usize>,
    at: usize,
    /// Where the innermost block ends.
    end: usize,
    sink: &'a mut Sink,
    table: &'a dyn RuleTable,
    /// Words of lines and blocks that could not be read.
    lost: Vec<String>,
}

impl<'a> Parser<'a> {
    fn new(
        text: &'a str,
        tokens: &'a [Token],
        table: &'a dyn RuleTable,
        sink: &'a mut Sink,
    ) -> Self {
        let end = tokens.len();
        Self { text, tokens, pairs: pairs(tokens), at: 0, end, sink, table, lost: Vec::new() }
    }

    fn peek(&self) -> Option<Kind> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Option<Kind> {
        let at = self.at + ahead;
        if at < self.end { Some(self.tokens[at].kind) } else { None }
    }

    /// The word that comes next, empty if it is none.
    fn word(&self) -> &'a str {
        if self.peek() == Some(Kind::Word) { self.tokens[self.at].span.text(self.text) } else { "" }
    }

    /// Where the next token stands, or where one is missing.
    fn here(&self) -> Span {
        match self.tokens.get(self.at) {
            Some(Token { kind: Kind::Newline, span }) => {
                Span { start: span.start, end: span.start }
            }
            Some(token) => token.span,
            None => Span::new(self.text.len(), self.text.len()),
        }
    }

    /// From the token at index `start` to the last one read.
    fn since(&self, start: usize) -> Span {
        let last = self.at.saturating_sub(1).max(start);
        match (self.tokens.get(start), self.tokens.get(last)) {
            (Some(first), Some(last)) => first.span.to(last.span),
            _ => self.here(),
        }
    }

    fn advance(&mut self) -> Span {
        let span = self.here();
        self.at = (self.at + 1).min(self.end);
        span
    }

    /// The next token as it is called in a diagnostic.
    fn found(&self) -> String {
        match self.tokens.get(self.at) {
            None => "the end of the file".to_owned(),
            Some(Token { kind: Kind::Newline, .. }) => "the end of the line".to_owned(),
            Some(token) => format!("`{}`", token.span.text(self.text)),
        }
    }

    fn fail<T>(&mut self, problem: Problem) -> Result<T> {
        self.sink.report(problem);
        Err(Failed)
    }

    fn expected<T>(&mut self, what: &str) -> Result<T> {
        let message = format!("expected {what}, found {}", self.found());
        self.fail(Problem::new(self.here(), message))
    }

    /// Takes the next token if it is of this kind.
    fn accept(&mut self, kind: Kind) -> bool {
        let found = self.peek() == Some(kind);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, kind: Kind, what: &str) -> Result<Span> {
        if self.peek() == Some(kind) { Ok(self.advance()) } else { self.expected(what) }
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.word() == word;
        if found {
            self.advance();
        }
        found
    }

    /// A name that is used.
    fn name(&mut self, what: &str) -> Result<Name> {
        let text = self.word();
        if text.is_empty() {
            return self.expected(what);
        }
        Ok(Name { text: text.to_owned(), span: self.advance() })
    }

    /// A name that is defined here.
    fn new_name(&mut self, what: &str) -> Result<Name> {
        let name = self.name(what)?;
        let problem = if RESERVED.contains(&name.as_str()) {
            Problem::new(
                name.span,
                format!("`{name}` is a word of the language and can't be {what}"),
            )
        } else if is_process(name.as_str()) {
            Problem::new(name.span, format!("`{name}` names a process and can't be {what}"))
        } else {
            return Ok(name);
        };
        self.fail(problem.help("choose another name"))
    }

    /// One of a closed set of words.
    fn choice<T>(
        &mut self,
        what: &str,
        words: &[&str],
        from_word: fn(&str) -> Option<T>,
    ) -> Result<T> {
        let word = self.word();
        if let Some(value) = from_word(word) {
            self.advance();
            return Ok(value);
        }
        let message = format!("expected {what}, found {}", self.found());
        self.fail(Problem::new(self.here(), message).suggest(word, words, "possible here"))
    }

    fn number(&mut self, what: &str) -> Result<(u64, Span)> {
        if self.peek() != Some(Kind::Number) {
            return self.expected(what);
        }
        let span = self.advance();
        match number(span.text(self.text)) {
            Some(value) => Ok((value, span)),
            // The lexer has reported it.
            None => Err(Failed),
        }
    }

    /// A number in a range that fits a byte.
    fn small(&mut self, what: &str, min: u8, max: u8) -> Result<u8> {
        let (value, span) = self.number(what)?;
        match u8::try_from(value) {
            Ok(small) if (min..=max).contains(&small) => Ok(small),
            _ => {
                let message = format!("{value} is out of range: {what} is {min} to {max}");
                self.fail(Problem::new(span, message))
            }
        }
    }

    fn at_separator(&self) -> bool {
        matches!(self.peek(), None | Some(Kind::Newline | Kind::Semicolon))
    }

    /// Reads `{ item; item .. }`, going on behind an item that fails.
    fn block(&mut self, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<Span> {
        let open = self.at;
        let brace = self.expect(Kind::Open(Bracket::Curly), "`{`")?;
        let close = self.pairs[open];
        let outer = std::mem::replace(&mut self.end, close);
        loop {
            while matches!(self.peek(), Some(Kind::Newline | Kind::Semicolon)) {
                self.advance();
            }
            if self.at >= close {
                break;
            }
            let start = self.at;
            if item(self).and_then(|()| self.end_of_line()).is_err() {
                self.recover(start, |parser, _| parser.at_separator());
            }
        }
        self.end = outer;
        self.at = close;
        Ok(brace.to(self.advance()))
    }

    /// Nothing more may stand on the line.
    fn end_of_line(&mut self) -> Result<()> {
        if self.at_separator() {
            return Ok(());
        }
        let message = format!("unexpected {}: the line should end before it", self.found());
        self.fail(Problem::new(self.here(), message))
    }

    /// Skips from `start`, over whole brackets, to where `stop` says; the words become lost.
    fn recover(&mut self, start: usize, stop: impl Fn(&Self, Option<Kind>) -> bool) {
        self.at = start;
        let mut last = None;
        while self.at < self.end && !stop(self, last) {
            last = self.peek();
            let next = self.pairs[self.at] + 1;
            for token in &self.tokens[self.at..next] {
                if token.kind == Kind::Word {
                    self.lost.push(token.span.text(self.text).to_owned());
                }
            }
            self.at = next;
        }
    }
}
