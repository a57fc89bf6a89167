//! The litmus language.

pub mod ast;
mod check;
pub mod cond;
pub mod diag;
mod fmt;
mod header;
mod lex;
mod model_rules;
mod op;
mod parse;
pub mod prevent;
mod print;
pub mod rules;
pub mod scenario;
pub mod span;
pub mod symbols;
mod uses;
mod vary;
pub mod verdict;
mod words;

use ast::{Name, Test};
use diag::{Diagnostic, Problem, Sink, Source};
pub use fmt::format;
use header::Header;
use lex::{Kind, Token};
pub use model_rules::{ModelRules, read};
use rules::RuleTable;
use span::Span;

#[cfg(test)]
mod tests;

/// A longer file is refused.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Brackets, and operators of a condition, nest no deeper.
pub const NESTING_MAX: usize = 64;
/// A file expands to at most so many variants.
pub const VARIANTS_MAX: usize = 512;
/// A test has at most so many processes.
pub const PROCESSES_MAX: usize = 6;
/// A process has at most so many statements.
pub const STATEMENTS_MAX: usize = 64;
/// A buffer has at most so many pages.
pub const BUFFER_PAGES_MAX: u8 = 8;
/// A test has at most so many buffers.
pub const BUFFERS_MAX: usize = 16;
/// A test has at most so many exporters, and so many importers.
pub const DRIVERS_MAX: usize = 16;
/// A placement has at most so many frames.
pub const FRAMES_MAX: u8 = 64;
/// A frame vector has at most so many pages.
pub const FRAME_VECTOR_MAX: usize = 8;
/// The label of an alternative has at most so many bytes.
const LABEL_BYTES_MAX: usize = 80;
/// All variants of a file together have at most so many tokens.
const EXPANSION_TOKENS_MAX: usize = 1 << 22;

/// Reads a litmus file; on failure every mistake that was found, in the order of the file.
///
/// `table` says which rules there are. The text is the whole file; that it is UTF-8 is up to the
/// caller.
///
/// # Errors
///
/// One [`Diagnostic`] a mistake, never an empty list.
pub fn parse(file_name: &str, text: &str, table: &dyn RuleTable) -> Result<Test, Vec<Diagnostic>> {
    let mut sink = Sink::new(Source { file: file_name.into(), text: text.into() });
    let raw = lex::lex(text, &mut sink);
    let (name, at) = title(text, &raw, &mut sink);
    let header = header_comment(&raw[at..])
        .map_or_else(Header::default, |token| header::parse(text, token.span, &mut sink));
    let tokens = lex::significant(&raw[at..]);
    let expansion = vary::Expansion::new(text, &tokens, &mut sink);
    let names: Vec<String> = (0..expansion.variants()).map(|i| expansion.name(i)).collect();
    // After a mistake up to here the names of the variants, or the results, may be incomplete.
    let expected = if sink.is_empty() {
        header::expected(&header.results, &names, &mut sink)
    } else {
        vec![None; names.len()]
    };
    let mut variants = Vec::with_capacity(names.len());
    for (i, (variant, expected)) in names.iter().zip(expected).enumerate() {
        if sink.is_full() {
            break;
        }
        sink.in_variant(Some(i));
        let parsed = parse::variant(text, &expansion.tokens(i), table, &name, &mut sink);
        check::check(&parsed, &mut sink);
        variants.push(ast::Variant { name: variant.clone(), expected, ..parsed.variant });
    }
    if !sink.is_empty() {
        return Err(sink.finish(&names));
    }
    let Header { question, row, sources, results } = header;
    Ok(Test { name, question, row, sources, results, variants })
}

/// Reads `DMABUF NAME`; also says with which token the rest begins.
fn title(text: &str, tokens: &[Token], sink: &mut Sink) -> (Name, usize) {
    let trivia = |token: &Token| {
        matches!(token.kind, Kind::Newline | Kind::LineComment | Kind::BlockComment)
    };
    let start = tokens.iter().position(|token| !trivia(token)).unwrap_or(tokens.len());
    let help = "the first line is `DMABUF NAME`";
    let Some(first) = tokens.get(start).filter(|token| token.span.text(text) == "DMABUF") else {
        let span = tokens.get(start).map_or_else(|| Span::new(text.len(), text.len()), |t| t.span);
        let word = span.text(text);
        let problem = Problem::new(span, "a litmus file starts with `DMABUF NAME`");
        sink.report(problem.suggest(word, &["DMABUF"], "first word"));
        let slip = diag::nearest(word, &["DMABUF"]).is_some();
        let rest = if slip { end_of_line(tokens, start) } else { start };
        return (Name::new(""), rest);
    };
    match tokens.get(start + 1) {
        Some(Token { kind: Kind::Word, span }) => {
            let name = Name { text: span.text(text).to_owned(), span: *span };
            let rest = tokens.get(start + 2).filter(|token| !trivia(token));
            if let Some(token) = rest {
                let message = format!("unexpected `{}` behind the name", token.span.text(text));
                sink.report(
                    Problem::new(token.span, message)
                        .help("a name is one word; join its parts with `-`"),
                );
            }
            (name, end_of_line(tokens, start + 2))
        }
        _ => {
            sink.report(Problem::new(first.span.after(), "the test has no name").help(help));
            (Name::new(""), end_of_line(tokens, start + 1))
        }
    }
}

/// The first token from `at` on that ends the line, or is a block comment.
fn end_of_line(tokens: &[Token], at: usize) -> usize {
    let ends = |token: &Token| matches!(token.kind, Kind::Newline | Kind::BlockComment);
    tokens.iter().skip(at).position(ends).map_or(tokens.len(), |n| at + n)
}

/// The first block comment, if nothing but comments is in front of it.
fn header_comment(tokens: &[Token]) -> Option<&Token> {
    let mut rest =
        tokens.iter().skip_while(|t| matches!(t.kind, Kind::Newline | Kind::LineComment));
    rest.next().filter(|token| token.kind == Kind::BlockComment)
}
