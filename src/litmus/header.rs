//! The header comment: question, `Row:`, `Source:`, `Result:`.

use super::ast::{ResultPattern, Verdict};
use super::diag::{Problem, Sink, nearest};
use super::span::Span;

const KEYS: &[&str] = &["Row", "Source", "Result"];

/// What the header comment says.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) question: String,
    pub(super) row: Option<String>,
    pub(super) sources: Vec<String>,
    pub(super) results: Vec<ResultPattern>,
}

/// A key and what stands behind it, continued lines included.
struct Field {
    key: &'static str,
    key_span: Span,
    /// Line by line, with their places.
    lines: Vec<(String, Span)>,
}

impl Field {
    fn text(&self) -> String {
        let lines: Vec<&str> =
            self.lines.iter().map(|(line, _)| line.as_str()).filter(|l| !l.is_empty()).collect();
        lines.join(" ")
    }
}

/// Reads the comment at `span`, delimiters included.
pub(super) fn parse(text: &str, span: Span, sink: &mut Sink) -> Header {
    let start = span.start as usize + 2;
    let body = span.text(text);
    let body = body.get(2..body.len().saturating_sub(2)).unwrap_or_default();
    let (question, fields) = fields(body, start, sink);
    let mut header = Header { question, ..Header::default() };
    for field in fields {
        match field.key {
            "Row" if header.row.is_some() => {
                sink.report(Problem::new(field.key_span, "a second `Row:`"));
            }
            "Row" => header.row = Some(field.text()),
            "Source" => header.sources.push(field.text()),
            _ => results(&field, &mut header.results, sink),
        }
    }
    header
}

/// Splits the comment into the question and its keys.
fn fields(body: &str, start: usize, sink: &mut Sink) -> (String, Vec<Field>) {
    let mut question: Vec<&str> = Vec::new();
    let mut fields: Vec<Field> = Vec::new();
    let mut continues = false;
    let mut offset = start;
    for line in body.split('\n') {
        let trimmed = line.trim();
        let at = offset + (line.len() - line.trim_start().len());
        let span = Span::new(at, at + trimmed.len());
        offset += line.len() + 1;
        if let Some((key, rest)) = key(trimmed, at, sink) {
            let key_span = Span::new(at, at + key.len() + 1);
            let value = rest.trim_start();
            let value_at = at + trimmed.len() - value.len();
            let lines = vec![(value.to_owned(), Span::new(value_at, value_at + value.len()))];
            fields.push(Field { key, key_span, lines });
            continues = true;
        } else if trimmed.is_empty() {
            continues = false;
            question.push("");
        } else if let Some(field) = fields.last_mut() {
            if !continues {
                let help = "the question stands before `Row:`, `Source:` and `Result:`";
                sink.report(Problem::new(span, "text behind the keys").help(help));
            }
            field.lines.push((trimmed.to_owned(), span));
        } else {
            question.push(trimmed);
        }
    }
    (question.join("\n").trim().to_owned(), fields)
}

/// The key that the line starts with, if any, and the rest of the line.
fn key<'a>(line: &'a str, at: usize, sink: &mut Sink) -> Option<(&'static str, &'a str)> {
    let (word, rest) = line.split_once(':')?;
    if let Some(key) = KEYS.iter().find(|key| **key == word) {
        return Some((key, rest));
    }
    // A question may well contain "Now:"; only what can hardly be prose is taken for a slip.
    let slip = if ["row", "rows"].contains(&word.to_ascii_lowercase().as_str()) {
        Some("Row")
    } else {
        nearest(word, &["Source", "Result"])
    };
    if let Some(near) = slip {
        let problem =
            Problem::new(Span::new(at, at + word.len()), format!("unknown key `{word}:`"));
        sink.report(problem.label(format!("did you mean `{near}:`?")));
    }
    None
}

/// Reads `PATTERN VERDICT, PATTERN VERDICT, ...`.
fn results(field: &Field, results: &mut Vec<ResultPattern>, sink: &mut Sink) {
    if !results.is_empty() {
        sink.report(Problem::new(field.key_span, "a second `Result:`"));
    }
    let mut count = 0;
    let mut pending: Vec<(&str, Span)> = Vec::new();
    for (line, span) in &field.lines {
        let mut offset = span.start as usize;
        for piece in line.split_inclusive(|c: char| c == ',' || c.is_whitespace()) {
            let word = piece.trim_end_matches(|c: char| c == ',' || c.is_whitespace());
            if !word.is_empty() {
                pending.push((word, Span::new(offset, offset + word.len())));
            }
            offset += piece.len();
            if piece.ends_with(',') {
                let comma = Span::new(offset - 1, offset);
                results.extend(result(&std::mem::take(&mut pending), comma, sink));
                count += 1;
            }
        }
    }
    if count == 0 || !pending.is_empty() {
        results.extend(result(&pending, field.key_span, sink));
    }
}

/// One `[PATTERN] VERDICT`.
fn result(words: &[(&str, Span)], place: Span, sink: &mut Sink) -> Option<ResultPattern> {
    let help = "write `PATTERN VERDICT`, for example `pfnmap Never, * Sometimes`";
    let (pattern, (verdict, at)) = match words {
        [verdict] => (("*", verdict.1), *verdict),
        [pattern, verdict] => (*pattern, *verdict),
        [] => {
            sink.report(Problem::new(place, "a result is missing").help(help));
            return None;
        }
        [first, .., last] => {
            let span = first.1.to(last.1);
            sink.report(Problem::new(span, "these words are not a result").help(help));
            return None;
        }
    };
    let Some(verdict) = Verdict::from_word(verdict) else {
        let problem = Problem::new(at, format!("`{verdict}` is not a verdict"));
        sink.report(problem.suggest(verdict, Verdict::WORDS, "verdicts"));
        return None;
    };
    Some(ResultPattern { pattern: pattern.0.to_owned(), verdict, span: pattern.1 })
}

/// What the results say of each variant.
pub(super) fn expected(
    results: &[ResultPattern],
    variants: &[String],
    sink: &mut Sink,
) -> Vec<Option<Verdict>> {
    let first = |variant: &String| results.iter().position(|result| result.matches(variant));
    let deciders: Vec<Option<usize>> = variants.iter().map(first).collect();
    for (i, result) in results.iter().enumerate() {
        if deciders.contains(&Some(i)) {
            continue;
        }
        let names: Vec<&str> = variants.iter().map(String::as_str).collect();
        let pattern = &result.pattern;
        let problem = if variants.iter().any(|variant| result.matches(variant)) {
            let message = format!("`{pattern}` decides nothing: earlier patterns match first");
            Problem::new(result.span, message)
        } else {
            Problem::new(result.span, format!("`{pattern}` matches no variant"))
                .suggest(pattern, &names, "variants")
        };
        sink.report(problem);
    }
    if let Some(last) = results.last() {
        let missing: Vec<&str> = variants
            .iter()
            .zip(&deciders)
            .filter(|(_, decider)| decider.is_none())
            .map(|(variant, _)| variant.as_str())
            .collect();
        if let Some(variant) = missing.first() {
            let message = format!("no result for variant `{variant}`");
            let more = missing.len() - 1;
            let help = "add it to `Result:`, or end with `* VERDICT`";
            let problem = Problem::new(last.span.after(), message);
            sink.report(if more == 0 {
                problem.help(help)
            } else {
                problem.help(format!("{help}; there are {more} more without"))
            });
        }
    }
    deciders.into_iter().map(|decider| decider.map(|i| results[i].verdict)).collect()
}
