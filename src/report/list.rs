//! The list of tests.

use serde::Serialize;

use super::paint::{Paint, Tone, plural};
use super::table::{Align, Cell, Column, Table};
use crate::litmus::ast::Test;

/// A test in `list --json`.
#[derive(Debug, Serialize)]
pub struct ListedJson<'a> {
    test: &'a str,
    row: Option<&'a str>,
    question: &'a str,
    sources: &'a [String],
    variants: Vec<ListedVariant<'a>>,
}

#[derive(Debug, Serialize)]
struct ListedVariant<'a> {
    variant: &'a str,
    expected: Option<&'static str>,
}

impl<'a> ListedJson<'a> {
    /// Of a test.
    #[must_use]
    pub fn new(test: &'a Test) -> Self {
        let variants = test.variants.iter().map(|variant| ListedVariant {
            variant: &variant.name,
            expected: variant.expected.map(|verdict| verdict.word()),
        });
        Self {
            test: test.name.as_str(),
            row: test.row.as_deref(),
            question: &test.question,
            sources: &test.sources,
            variants: variants.collect(),
        }
    }
}

/// A line a test: row, name, number of variants, the question's first sentence.
#[must_use]
pub fn list<'a>(tests: impl Iterator<Item = &'a Test> + Clone, paint: Paint) -> String {
    let rows = tests.clone().filter_map(|test| test.row.as_deref());
    let names = tests.clone().map(|test| test.name.as_str());
    let columns = vec![
        Column::new("row", Align::Left).fit(rows),
        Column::new("test", Align::Left).fit(names),
        Column::new("", Align::Right).at_least(11),
        Column::new("question", Align::Left),
    ];
    let table = Table::new(columns, paint);
    let mut out = String::new();
    for test in tests {
        out.push_str(&table.row(&[
            Cell::toned(test.row.as_deref().unwrap_or("-"), Tone::Dim),
            Cell::toned(test.name.as_str(), Tone::Strong),
            Cell::toned(plural(test.variants.len(), "variant"), Tone::Dim),
            Cell::new(first_sentence(&test.question)),
        ]));
    }
    out
}

/// Up to the first full stop or question mark that ends a word.
fn first_sentence(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = line
        .match_indices(['.', '?'])
        .find(|(at, _)| line[at + 1..].chars().next().is_none_or(|next| next == ' '));
    match end {
        Some((at, _)) => line[..=at].to_owned(),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::first_sentence;

    #[test]
    fn a_sentence_ends_at_a_stop_before_a_blank() {
        for (text, sentence) in
            [("Does 6.12 move?\nWhat then?", "Does 6.12 move?"), ("No end", "No end"), ("", "")]
        {
            assert_eq!(first_sentence(text), sentence);
        }
    }
}
