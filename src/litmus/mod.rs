//! The litmus language: one question about buffers that move, in a page of text.
//!
//! ```
//! use driftheap::litmus::rules::{BlockKind, RuleSpec, RuleTable, RuleText, RuleValues};
//! use driftheap::litmus::ast::Verdict;
//!
//! struct Rules;
//! impl RuleTable for Rules {
//!     fn rules(&self, _kind: BlockKind) -> &[RuleSpec] {
//!         const MMAP: &[&str] = &["pfnmap", "mixedmap-insert-page"];
//!         &[RuleSpec { name: "mmap", values: RuleValues::Words(MMAP), text: RuleText::NONE }]
//!     }
//! }
//!
//! let text = r"DMABUF insert-page-and-move
//! (* Does a pin taken through the heap's mmap outlive a move?
//!    Row: A1
//!    Source: [PATCH 1/2] dma-buf: Require VM_PFNMAP vma for mmap
//!    Result: pfnmap Never, mixedmap-insert-page Sometimes *)
//!
//! exporter heap { mmap = vary(pfnmap, mixedmap-insert-page) }
//! buffer A { exporter = heap; placement = vram }
//! buffer B { exporter = heap; placement = vram; state = unallocated }
//!
//! P0 application {
//!     mmap v = A shared rw
//!     gup p = v[0] write longterm   # EFAULT where the VMA is VM_PFNMAP
//!     load r0 = v[0]
//! }
//! P1 device { dma_write p[0] = 7 }
//! P2 exporter heap { move A -> system; alloc B }
//! exists (hazard cross-buffer-write)
//! ";
//! let test = driftheap::litmus::parse("a1.litmus", text, &Rules).unwrap();
//! let names: Vec<&str> = test.variants.iter().map(|variant| variant.name.as_str()).collect();
//! assert_eq!(names, ["pfnmap", "mixedmap-insert-page"]);
//! assert_eq!(test.variants[1].expected, Some(Verdict::Sometimes));
//!
//! let wrong = text.replace("alloc B", "aloc B").replace("v[0] write", "w[0] write");
//! let mistakes = driftheap::litmus::parse("a1.litmus", &wrong, &Rules).unwrap_err();
//! let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
//! assert_eq!(lines, [
//!     "a1.litmus:13:13: mapping `w` is not defined",
//!     "a1.litmus:17:38: unknown statement `aloc`",
//! ]);
//! ```
//!
//! # Grammar
//!
//! ```text
//! file      = "DMABUF" NAME header { block | process } condition { counters }
//! header    = [ "(*" question { "Row:" text | "Source:" text | "Result:" results } "*)" ]
//! results   = [ PATTERN ] VERDICT { "," [ PATTERN ] VERDICT }      VERDICT: Always Sometimes Never
//!
//! block     = "host" "{" rules "}"                                 at most one
//!           | "exporter" NAME "{" rules "}"
//!           | "importer" NAME "{" rules "}"
//!           | "memory" "{" { PLACEMENT "=" N } "}"                 at most one; frames
//!           | "buffer" NAME "{" { field } "}"
//! rules     = { RULE "=" ( WORD | N | "[" { STEP [ "," ] } "]" ) }
//! field     = "exporter" "=" NAME | "pages" "=" 1..16 | "placement" "=" PLACEMENT
//!           | "state" "=" ( "allocated" | "unallocated" ) | "fill" "=" 0..255
//! PLACEMENT = "vram" | "system" | "cma"
//!
//! process   = "P"n role "{" { [ LABEL ":" ] statement } "}"        n = 0, 1, 2, ... 5
//! role      = "application" | "exporter" NAME | "device" [ "importer" NAME ]
//!           | "child" | "thread" "of" "P"n | "hardware"
//!
//! condition = ( "exists" | "~exists" | "forall" ) "(" cond ")"
//! cond      = and { "\/" and }
//! and       = not { "/\" not }
//! not       = "~" not | "(" cond ")" | "true" | "false" | "warning" | "hazard" ( KIND | "any" )
//!           | "P"n ":" REGISTER is ( 0..255 | FAILURE )
//!           | NAME is ( "ok" | FAILURE )                           a label, or what a statement makes
//!           | BUFFER "[" page "]" is 0..255                        the content at the end
//! is        = "=" | "!="
//! FAILURE   = EFAULT EBUSY EINVAL ENOMEM ENODEV EACCES EPERM SIGBUS SIGSEGV
//! counters  = "count" "(" counter { "," counter } ")"              what is printed, and is to be N
//! counter   = COUNTER [ "=" 0..255 ]
//! ```
//!
//! Words are `[A-Za-z_][A-Za-z0-9_-]*`, a `-` only between word characters; numbers are decimal or
//! `0x`. `#` begins a comment that ends with the line, `(* .. *)` one that may span lines. A field
//! or statement ends with its line or at `;`; line breaks inside `( )` and `[ ]` mean nothing. The
//! hazards are those of [`cond::HazardKind`], the counters those of [`cond::Counter`]; the rules
//! and their values are in the [table](rules::RuleTable) that the parser is given.
//!
//! # Statements
//!
//! [`statements::STATEMENTS`] is the table: what each is written like, what it does, what it can answer,
//! and what it stands for in the kernel. `driftheap statement` prints it. `store` and `load` raise a
//! signal instead of returning an errno.
//!
//! # Names
//!
//! Mappings belong to their process, and a child also sees those that its forker had made before the
//! `fork`; threads of a process share its mappings, whichever of them made one; registers belong to
//! their process or thread and may be loaded again. Exporters, importers and
//! buffers, each for themselves, and labels, pins, pfn caches, frame vectors, attachments,
//! sg_tables and fences, all together, are defined once and seen by every process. Within a process
//! a name is used only behind its definition. `anon`, `dmabuf_of`, `vary`, `hazard`, `warning`,
//! `true`, `false` and `P0`, `P1`, .. name nothing else.
//!
//! # `vary`
//!
//! `vary(alt, alt, ..)` stands for any of its alternatives, anywhere behind the header: a value, some
//! words, statements, a process. An alternative is `[LABEL =>]` and any words with balanced
//! brackets; braces around all of it are dropped, so that `{ .. }` can hold several lines and `{}`
//! is nothing. The label defaults to the words joined by `-` (`none` if there are none). A file
//! stands for every combination, its *variants*; the name of one joins the labels with `/`.
//! `vary NAME(..)`s of one name choose together, with the labels of the first. A `vary` inside
//! another is refused.
//!
//! `Result:` says what to expect: the first pattern that matches a variant's name decides, where a
//! segment `*` matches any label and a single `*` any name. If there is a `Result:`, every variant
//! needs one.
//!
//! # Layers
//!
//! `lex` (tokens, balanced brackets) -> `header`, `vary` (token streams of variants) -> `parse` ->
//! `check` (names, limits) -> [`ast`]. `fmt` works on the tokens of `lex` alone. Architecture
//! invariant: nothing here knows what a rule or a statement *does*.

pub mod ast;
mod check;
pub mod cond;
pub mod diag;
pub mod edit;
mod fmt;
mod header;
mod lex;
mod op;
mod parse;
mod print;
pub mod rules;
pub mod span;
pub mod statements;
pub mod symbols;
mod vary;
mod words;

use ast::{Name, Test};
use diag::{Diagnostic, Problem, Sink, Source};
pub use fmt::format;
use header::Header;
use lex::{Kind, Token};
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
pub const BUFFER_PAGES_MAX: u8 = 16;
/// A test has at most so many buffers.
pub const BUFFERS_MAX: usize = 16;
/// A test has at most so many exporters, and so many importers.
pub const DRIVERS_MAX: usize = 16;
/// A placement has at most so many frames.
pub const FRAMES_MAX: u8 = 64;
/// A frame vector has at most so many pages.
pub const FRAME_VECTOR_MAX: usize = 8;
/// A statement locks at most so many buffers.
pub const LOCKS_MAX: usize = 4;
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
    let mut variants = Vec::with_capacity(names.len());
    for (i, variant) in names.iter().enumerate() {
        if sink.is_full() {
            break;
        }
        sink.in_variant(Some(i));
        let parsed = parse::variant(text, &expansion.tokens(i), table, &name, &mut sink);
        check::check(&parsed, &mut sink);
        variants.push(ast::Variant { name: variant.clone(), ..parsed.variant });
    }
    // After a mistake the names of the variants, or the results, may be incomplete.
    sink.in_variant(None);
    if sink.is_empty() {
        let expected = header::expected(&header.results, &names, &mut sink);
        for (variant, expected) in variants.iter_mut().zip(expected) {
            variant.expected = expected;
        }
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
