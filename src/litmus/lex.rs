//! Text to tokens, and tokens to balanced brackets.

use super::diag::{Problem, Sink};
use super::span::Span;
use super::{FILE_BYTES_MAX, NESTING_MAX};

/// What a token is; its text is that of its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Number,
    Open(Bracket),
    Close(Bracket),
    Comma,
    Semicolon,
    Colon,
    Equal,
    NotEqual,
    Arrow,
    FatArrow,
    And,
    Or,
    Not,
    Star,
    Newline,
    /// `# ...`
    LineComment,
    /// `(* ... *)`
    BlockComment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bracket {
    Round,
    Square,
    Curly,
}

impl Bracket {
    fn open(self) -> char {
        match self {
            Self::Round => '(',
            Self::Square => '[',
            Self::Curly => '{',
        }
    }

    fn close(self) -> char {
        match self {
            Self::Round => ')',
            Self::Square => ']',
            Self::Curly => '}',
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

/// The fixed tokens, longest first.
const PUNCTUATION: &[(&str, Kind)] = &[
    ("->", Kind::Arrow),
    ("=>", Kind::FatArrow),
    ("!=", Kind::NotEqual),
    ("/\\", Kind::And),
    ("\\/", Kind::Or),
    ("(", Kind::Open(Bracket::Round)),
    (")", Kind::Close(Bracket::Round)),
    ("[", Kind::Open(Bracket::Square)),
    ("]", Kind::Close(Bracket::Square)),
    ("{", Kind::Open(Bracket::Curly)),
    ("}", Kind::Close(Bracket::Curly)),
    (",", Kind::Comma),
    (";", Kind::Semicolon),
    (":", Kind::Colon),
    ("=", Kind::Equal),
    ("~", Kind::Not),
    ("*", Kind::Star),
    ("\n", Kind::Newline),
];

/// All tokens of the text, comments and newlines included, with balanced brackets: a bracket that
/// is missing is reported and put in where it must stand, a stray one is reported and left out.
pub(super) fn lex(text: &str, sink: &mut Sink) -> Vec<Token> {
    if text.len() > FILE_BYTES_MAX {
        let message =
            format!("the file has {} bytes; at most {FILE_BYTES_MAX} are read", text.len());
        sink.report(
            Problem::new(Span::default(), message).help("split the test into several files"),
        );
        sink.mute(Span::new(0, text.len()));
        return Vec::new();
    }
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new(), bad: Vec::new(), sink };
    while lexer.at < text.len() {
        lexer.token();
    }
    let Lexer { tokens, bad, .. } = lexer;
    bad.into_iter().for_each(|span| sink.mute(field(text, span)));
    balance(text, &tokens, sink)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<Token>,
    /// What was reported.
    bad: Vec<Span>,
    sink: &'a mut Sink,
}

impl Lexer<'_> {
    /// Reads one token, or the blanks or mistakes up to the next one.
    fn token(&mut self) {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else { return };
        if rest.starts_with("(*") {
            return self.block_comment(rest);
        }
        if let Some((text, kind)) = PUNCTUATION.iter().find(|(text, _)| rest.starts_with(text)) {
            return self.push(*kind, text.len());
        }
        match first {
            ' ' | '\t' | '\r' => self.at += 1,
            '\u{feff}' if self.at == 0 => self.at += first.len_utf8(),
            '#' => {
                let end = rest.find('\n').unwrap_or(rest.len());
                self.push(Kind::LineComment, end);
            }
            '0'..='9' => self.number(rest),
            'A'..='Z' | 'a'..='z' | '_' => self.push(Kind::Word, word_length(rest)),
            _ => self.stray(rest),
        }
    }

    fn push(&mut self, kind: Kind, length: usize) {
        self.tokens.push(Token { kind, span: Span::new(self.at, self.at + length) });
        self.at += length;
    }

    fn block_comment(&mut self, rest: &str) {
        if let Some(end) = rest[2..].find("*)") {
            return self.push(Kind::BlockComment, end + 4);
        }
        let open = Span::new(self.at, self.at + 2);
        let problem = Problem::new(open, "this comment is never closed").help("close it with `*)`");
        self.sink.report(problem);
        self.sink.mute(Span::new(0, self.text.len()));
        self.push(Kind::BlockComment, rest.len());
    }

    /// Keeps the place of a mistake, while there is still something to be said about others: muting every
    /// one of a file full of them would take their number squared.
    fn note(&mut self, span: Span) {
        if !self.sink.is_full() {
            self.bad.push(span);
        }
    }

    /// Digits and whatever word characters stick to them.
    fn number(&mut self, rest: &str) {
        let length = word_length(rest);
        let span = Span::new(self.at, self.at + length);
        if number(&rest[..length]).is_none() {
            let message = format!("`{}` is not a number", &rest[..length]);
            let help =
                "numbers are decimal or 0x hexadecimal, below 2^64; words start with a letter";
            self.sink.report(Problem::new(span, message).help(help));
            self.note(span);
        }
        self.push(Kind::Number, length);
    }

    /// Characters that no token starts with, reported together and skipped.
    fn stray(&mut self, rest: &str) {
        let known = |c: char| {
            c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || "_(){}[],;:=~*#".contains(c)
        };
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let length = rest[first..].find(known).map_or(rest.len(), |n| n + first);
        let shown: String = rest[..length]
            .chars()
            .take(8)
            .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
            .collect();
        let span = Span::new(self.at, self.at + length);
        let problem = Problem::new(span, format!("unexpected `{shown}`"));
        self.note(span);
        self.sink.report(match &rest[..length] {
            "/" => problem.help("conjunction is written `/\\`, a comment `# ...` or `(* ... *)`"),
            "//" => problem.help("a comment is written `# ...` or `(* ... *)`"),
            "&&" | "&" => problem.help("conjunction is written `/\\`"),
            "||" | "|" => problem.help("disjunction is written `\\/`"),
            "!" => problem.help("negation is written `~`"),
            _ => problem,
        });
        self.at += length;
    }
}

/// The line or field around a mistake: what the parser makes of it means nothing.
fn field(text: &str, span: Span) -> Span {
    let ends: &[char] = &['\n', ';', '{', '}'];
    let (start, end) = (span.start as usize, span.end as usize);
    let before = text.get(..start).and_then(|before| before.rfind(ends)).unwrap_or(0);
    let length = text.get(end..).and_then(|rest| rest.find(ends));
    Span::new(before, length.map_or(text.len(), |length| end + length))
}

/// The bytes of the word at the start of `rest`; a `-` counts only between word characters.
fn word_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let is_word =
        |at: usize| bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let mut end = 1;
    while is_word(end) || (bytes.get(end) == Some(&b'-') && is_word(end + 1)) {
        end += 1;
    }
    end
}

/// The value of a number token.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Puts in the closing brackets that are missing and leaves out those that close nothing.
#[expect(clippy::wildcard_enum_match_arm, reason = "only brackets matter here")]
fn balance(text: &str, tokens: &[Token], sink: &mut Sink) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut open: Vec<(Bracket, Span)> = Vec::new();
    let count = |kind| tokens.iter().filter(|token| token.kind == kind).count();
    let missing = count(Kind::Open(Bracket::Curly)) > count(Kind::Close(Bracket::Curly));
    for (i, token) in tokens.iter().enumerate() {
        if missing && starts_block(text, tokens, i) && matches!(open[..], [(Bracket::Curly, _)]) {
            close_missing(&mut open, &mut out, 0, token.span, sink, false);
        }
        match token.kind {
            Kind::Open(bracket) if open.len() == NESTING_MAX => {
                let message = format!("brackets are nested deeper than {NESTING_MAX}");
                sink.report(Problem::new(token.span, format!("{message}: `{}`", bracket.open())));
                sink.mute(Span::new(0, text.len()));
                return Vec::new();
            }
            Kind::Open(bracket) => open.push((bracket, token.span)),
            Kind::Close(bracket) => {
                let Some(at) = open.iter().rposition(|(opened, _)| *opened == bracket) else {
                    let message = format!("this `{}` closes nothing", bracket.close());
                    sink.report(Problem::new(token.span, message));
                    continue;
                };
                close_missing(&mut open, &mut out, at + 1, token.span, sink, true);
                open.pop();
            }
            _ => {}
        }
        out.push(*token);
    }
    let end = Span::new(text.len(), text.len());
    close_missing(&mut open, &mut out, 0, end, sink, true);
    out
}

/// Reports and closes every open bracket from `keep` on, just before `at`.
fn close_missing(
    open: &mut Vec<(Bracket, Span)>,
    out: &mut Vec<Token>,
    keep: usize,
    at: Span,
    sink: &mut Sink,
    mute: bool,
) {
    while open.len() > keep
        && let Some((bracket, span)) = open.pop()
    {
        let message = format!("this `{}` is never closed", bracket.open());
        let help = format!("a `{}` is missing", bracket.close());
        let before = Span { start: at.start, end: at.start };
        sink.report(Problem::new(span, message).help(help));
        if mute {
            sink.mute(span.to(before));
        }
        out.push(Token { kind: Kind::Close(bracket), span: before });
    }
}

/// Whether token `i` begins a line that can only be the head of a block or the condition, so that
/// a brace that is still open before it is a forgotten one.
fn starts_block(text: &str, tokens: &[Token], i: usize) -> bool {
    let kind = |at: usize| tokens.get(at).map(|token| token.kind);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.span.text(text));
    if i == 0 || kind(i - 1) != Some(Kind::Newline) {
        return false;
    }
    let brace = Some(Kind::Open(Bracket::Curly));
    match word(i) {
        "exists" | "forall" => kind(i + 1) == Some(Kind::Open(Bracket::Round)),
        "~" => word(i + 1) == "exists",
        "host" | "memory" => kind(i + 1) == brace,
        "exporter" | "importer" | "buffer" => kind(i + 2) == brace,
        process => is_process(process) && kind(i + 1) == Some(Kind::Word),
    }
}

/// Whether the word is `P` and a number.
pub(super) fn is_process(word: &str) -> bool {
    word.strip_prefix('P').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// For each opening bracket the index of its closing one; the tokens must be balanced.
pub(super) fn pairs(tokens: &[Token]) -> Vec<usize> {
    let mut pairs: Vec<usize> = (0..tokens.len()).collect();
    let mut open = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        if let Kind::Open(_) = token.kind {
            open.push(i);
        } else if let Kind::Close(_) = token.kind
            && let Some(at) = open.pop()
        {
            pairs[at] = i;
        }
    }
    pairs
}

/// The tokens that mean something: without comments, and without the newlines inside `( )`
/// and `[ ]`.
#[expect(clippy::wildcard_enum_match_arm, reason = "only brackets matter here")]
pub(super) fn significant(tokens: &[Token]) -> Vec<Token> {
    let mut open = Vec::new();
    let mut out = Vec::with_capacity(tokens.len());
    for token in tokens {
        match token.kind {
            Kind::LineComment | Kind::BlockComment => continue,
            Kind::Newline if matches!(open.last(), Some(Bracket::Round | Bracket::Square)) => {
                continue;
            }
            Kind::Open(bracket) => open.push(bracket),
            Kind::Close(_) => drop(open.pop()),
            _ => {}
        }
        out.push(*token);
    }
    out
}
