//! Rules set otherwise in the text of a file, which stays as it was written elsewhere.
//!
//! What a `vary` outside of a rule's value puts in is not looked at: a block inside of one is not
//! found, and a field inside of one does not count as set.

use super::diag::{Sink, Source};
use super::lex::{Bracket, Kind, Token, lex};
use super::rules::BlockKind;

/// A block that holds rules, as it stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What it is.
    pub kind: BlockKind,
    /// Its name; empty of the host.
    pub name: String,
    /// The rules that it sets.
    pub rules: Vec<Setting>,
    /// Where its closing bracket is, in bytes.
    close: usize,
    /// Whether that stands on a line of its own.
    tall: bool,
    /// Whether nothing is between its brackets.
    empty: bool,
}

/// A rule that is set in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The rule.
    pub rule: String,
    /// Its value as it is written: a word, a list, a `vary(..)`.
    pub value: String,
    start: usize,
    end: usize,
}

/// The blocks of `text` that hold rules, in order. The text may have mistakes.
///
/// ```
/// let text = "DMABUF x\nexporter heap { mmap = vary(pfnmap, shmem); recycle = pool }\n";
/// let blocks = driftheap::litmus::edit::blocks(text);
/// assert_eq!((blocks[0].name.as_str(), blocks[0].rules.len()), ("heap", 2));
/// assert_eq!(blocks[0].rules[0].value, "vary(pfnmap, shmem)");
/// ```
#[must_use]
pub fn blocks(text: &str) -> Vec<Block> {
    let tokens = tokens(text);
    let mut blocks = Vec::new();
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        if depth == 0 && begins(&tokens, at) {
            blocks.extend(block(text, &tokens[at..]));
        }
        depth = deeper(depth, token.kind);
    }
    blocks
}

/// `text` with this rule of this block set to `value`; none where there is no such block.
///
/// A value that is there already is replaced; otherwise the rule is put in at the end of its block.
/// A host block that is missing is put in too.
///
/// ```
/// use driftheap::litmus::{edit::set, rules::BlockKind::{Exporter, Host}};
/// let text = "DMABUF x\nexporter heap { mmap = vary(pfnmap, shmem) }  # ours\n";
/// let text = set(text, Exporter, "heap", "mmap", "shmem").unwrap();
/// let text = set(&text, Exporter, "heap", "recycle", "pool").unwrap();
/// assert_eq!(text, "DMABUF x\nexporter heap { mmap = shmem; recycle = pool }  # ours\n");
/// let text = set(&text, Host, "", "gup-unshare", "no").unwrap();
/// assert!(text.starts_with("DMABUF x\nhost { gup-unshare = no }\nexporter heap {"));
/// ```
#[must_use]
pub fn set(text: &str, kind: BlockKind, name: &str, rule: &str, value: &str) -> Option<String> {
    let blocks = blocks(text);
    let Some(block) = blocks.iter().find(|block| block.kind == kind && block.name == name) else {
        let first = (kind == BlockKind::Host).then(|| first_block(text)).flatten()?;
        return Some(splice(text, first, first, &format!("host {{ {rule} = {value} }}\n")));
    };
    if let Some(setting) = block.rules.iter().find(|setting| setting.rule == rule) {
        return Some(splice(text, setting.start, setting.end, value));
    }
    let close = block.close;
    let end = text[..close].trim_end().len();
    Some(match (block.tall, block.empty) {
        (true, _) => {
            let line = text[..close].rfind('\n').map_or(close, |at| at + 1);
            splice(text, line, line, &format!("    {rule} = {value}\n"))
        }
        (false, true) => splice(text, end, close, &format!(" {rule} = {value} ")),
        (false, false) => splice(text, end, close, &format!("; {rule} = {value} ")),
    })
}

fn tokens(text: &str) -> Vec<Token> {
    let source = Source { file: "".into(), text: text.into() };
    lex(text, &mut Sink::new(source))
}

fn deeper(depth: usize, kind: Kind) -> usize {
    if matches!(kind, Kind::Open(_)) {
        depth + 1
    } else if matches!(kind, Kind::Close(_)) {
        depth.saturating_sub(1)
    } else {
        depth
    }
}

const fn is_comment(kind: Kind) -> bool {
    matches!(kind, Kind::LineComment | Kind::BlockComment)
}

/// Whether a block can begin here: `P1 exporter heap {` is a process.
fn begins(tokens: &[Token], at: usize) -> bool {
    let before = tokens[..at].iter().rev().map(|token| token.kind).find(|kind| !is_comment(*kind));
    before.is_none_or(|kind| matches!(kind, Kind::Newline | Kind::Semicolon | Kind::Close(_)))
}

fn span<'t>(text: &'t str, token: &Token) -> &'t str {
    &text[token.span.start as usize..token.span.end as usize]
}

/// The block that begins with the first of these tokens.
fn block(text: &str, tokens: &[Token]) -> Option<Block> {
    let words: Vec<&Token> = tokens.iter().take_while(|token| token.kind == Kind::Word).collect();
    let word = |at: usize| words.get(at).map(|token| span(text, token));
    let (kind, name) = match (word(0)?, word(1), words.len()) {
        ("host", None, 1) => (BlockKind::Host, ""),
        ("exporter", Some(name), 2) => (BlockKind::Exporter, name),
        ("importer", Some(name), 2) => (BlockKind::Importer, name),
        _ => return None,
    };
    let inside = &tokens[words.len()..];
    if inside.first()?.kind != Kind::Open(Bracket::Curly) {
        return None;
    }
    let mut depth = 0;
    let close = inside.iter().position(|token| {
        depth = deeper(depth, token.kind);
        depth == 0
    })?;
    let fields = &inside[1..close];
    Some(Block {
        kind,
        name: name.to_owned(),
        rules: settings(text, fields),
        close: inside[close].span.start as usize,
        tall: fields.last().is_some_and(|token| token.kind == Kind::Newline),
        empty: fields.iter().all(|token| token.kind == Kind::Newline),
    })
}

fn settings(text: &str, fields: &[Token]) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut depth = 0;
    let ends = |depth: usize, kind: Kind| {
        depth == 0 && (matches!(kind, Kind::Newline | Kind::Semicolon) || is_comment(kind))
    };
    let mut parts: Vec<Vec<&Token>> = vec![Vec::new()];
    for token in fields {
        if ends(depth, token.kind) {
            parts.push(Vec::new());
            continue;
        }
        depth = deeper(depth, token.kind);
        if let Some(part) = parts.last_mut() {
            part.push(token);
        }
    }
    for part in parts {
        if let [name, equal, first, ..] = part[..]
            && name.kind == Kind::Word
            && equal.kind == Kind::Equal
        {
            let start = first.span.start as usize;
            let end = part.last().map_or(start, |last| last.span.end as usize);
            let rule = span(text, name).to_owned();
            settings.push(Setting { rule, value: text[start..end].to_owned(), start, end });
        }
    }
    settings
}

/// Where the first block or process begins.
fn first_block(text: &str) -> Option<usize> {
    let tokens = tokens(text);
    let begins = |(at, token): &(usize, &Token)| {
        token.kind == Kind::Word && begins(&tokens, *at) && span(text, token) != "DMABUF"
    };
    let found = tokens.iter().enumerate().find(begins);
    found.map(|(_, token)| token.span.start as usize)
}

fn splice(text: &str, start: usize, end: usize, put: &str) -> String {
    let mut out = String::with_capacity(text.len() + put.len());
    out.push_str(&text[..start]);
    out.push_str(put);
    out.push_str(&text[end..]);
    out
}

/// `text` without what its header expects: of a file whose variants have become others.
///
/// ```
/// let text = "DMABUF x\n(* Why?\n   Row: A1\n   Result: a Never,\n     b Always *)\nhost {}\n";
/// let text = driftheap::litmus::edit::without_results(text);
/// assert_eq!(text, "DMABUF x\n(* Why?\n   Row: A1 *)\nhost {}\n");
/// ```
#[must_use]
pub fn without_results(text: &str) -> String {
    let tokens = tokens(text);
    let Some(header) = tokens.iter().find(|token| token.kind == Kind::BlockComment) else {
        return text.to_owned();
    };
    let (start, end) = (header.span.start as usize, header.span.end as usize);
    let body = text[start..end].trim_end_matches("*)");
    let mut kept: Vec<&str> = Vec::new();
    let mut dropping = false;
    for line in body.split('\n') {
        let words = line.trim_start().trim_start_matches("(*").trim_start();
        let begins = |key: &str| words.starts_with(key);
        if begins("Result:") {
            dropping = true;
            // Nothing else was in the comment's first line.
            if kept.is_empty() {
                kept.push("(*");
            }
        } else if begins("Row:") || begins("Source:") || words.trim().is_empty() {
            dropping = false;
        }
        if !dropping {
            kept.push(line);
        }
    }
    let header = format!("{} *)", kept.join("\n").trim_end());
    splice(text, start, end, &header)
}
